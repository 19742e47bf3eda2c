"""Run a model folder's network: views to logits, pooled features and class activation maps.

ONNX Runtime if the folder has an ONNX file; otherwise torch and timm, which are imported only then because that takes
seconds.
"""

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from .errors import BlastlensError
from .model_folder import ModelFolder
from .view import View

Item = TypeVar("Item")
Result = TypeVar("Result")


class Network:
    """A loaded network with C classes and square inputs of S px; safe to share between threads.

    Attributes:
        outputs: what `run` can return: "logits", float32 (N, C); "cam", float32 (N, C, h, w), the last linear layer
            applied to every position of the last feature map; "features", float32 (N, F), what that layer sees of each
            image after average pooling.
        threads: how many cores it uses.
    """

    outputs: tuple[str, ...]
    threads: int

    def run(self, outputs: Sequence[str], views: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs for N views, at least one, uint8 (S, S, 3) each."""
        raise NotImplementedError

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of each item, as many at a time as the network has threads; not to be called from within."""
        return list(map(function, items))


def load_network(folder: ModelFolder, precision: str = "fp32", threads: int | None = None) -> Network:
    """Load the network of a folder.

    Args:
        precision: "fp32" or "int8".
        threads: of each run; by default all cores that this process may use.

    Raises:
        BlastlensError: no file for this precision, or one that is damaged or does not fit the other files.
    """
    onnx_file = folder.onnx_file(precision)
    network: Network
    if onnx_file.is_file():
        network = OnnxNetwork(onnx_file, folder, threads)
    elif precision != "fp32":
        raise BlastlensError(f"Model {folder.model_id} has no {precision} version; use precision='fp32'.")
    else:
        network = TorchNetwork(folder, threads)
    folder.check_networks()  # afterwards, since other errors are clearer for files that do not load at all
    return network


def normalise(view: View, pixels: np.ndarray) -> np.ndarray:
    """The network's input, (x / 255 - mean) / std: uint8 (N, S, S, 3) to float32 (N, 3, S, S)."""
    mean, std = (np.array(values, np.float64).reshape(3, 1, 1) for values in (view.mean, view.std))
    count, height, width, channels = pixels.shape
    batch = np.empty((count, channels, height, width), np.float32)
    np.multiply(pixels.transpose(0, 3, 1, 2), (1 / (255 * std)).astype(np.float32), out=batch)
    batch -= (mean / std).astype(np.float32)
    return batch


def usable_cores(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """CPU cores this process may use at once: its affinity, capped by the container's CPU quota, at least 1.

    More threads than this make a network two to four times slower.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if (cgroup / "cpu.max").exists():  # version 2; "max" means no quota
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:  # version 1; -1 means no quota
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        return max(1, min(cores, int(quota) // int(period))) if int(quota) > 0 else cores
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def has_vnni(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor adds products of bytes in 32 bits at once (VNNI); False if that cannot be found out.

    Older x86 processors do it in 16 bits, which overflow: int8 networks predict something else on them unless ONNX
    Runtime is set to a slower mode.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return True
    try:
        return re.search(r"^flags\s*:.*\b(avx512_vnni|avx_vnni)\b", cpuinfo.read_text(), re.MULTILINE) is not None
    except OSError:
        return False


class OnnxNetwork(Network):
    """ONNX Runtime on the CPU."""

    def __init__(self, file: Path, folder: ModelFolder, threads: int | None = None) -> None:
        self._file, self._view, self.threads = file, folder.view, threads or usable_cores()
        self._name = f"{file.relative_to(folder.path)} of model {folder.model_id}"
        self._loaded = _state(file)
        self._session = self._open(self.threads)
        found = {output.name for output in self._session.get_outputs()}
        self.outputs = tuple(name for name in ("logits", "cam", "features") if name in found)
        self._check(len(folder.label_names), exact=file == folder.onnx_file("fp32"))

    def _check(self, classes: int, exact: bool) -> None:
        """Raise BlastlensError unless the network maps two views to outputs as in `Network`."""
        size = self._view.size
        try:
            batch = normalise(self._view, np.stack([_probe(size)] * 2))
            answers = dict(zip(self.outputs, self._session.run(self.outputs, {"pixel_values": batch}), strict=True))
            shapes = {name: answer.shape for name, answer in answers.items()}
            if not (
                shapes["logits"] == (2, classes)
                and ("cam" not in shapes or (shapes["cam"][:2] == (2, classes) and len(shapes["cam"]) == 4))
                and ("features" not in shapes or (shapes["features"][0] == 2 and len(shapes["features"]) == 2))
            ):
                raise ValueError(f"the shapes are {shapes}")
        except Exception as error:  # onnxruntime has an exception type for each status code
            raise BlastlensError(
                f"{self._name} does not map pixel_values (N, 3, {size}, {size}) to logits (N, {classes}) and, "
                f"optionally, cam (N, {classes}, h, w) and features (N, F); export it again."
            ) from error
        for name, answer in answers.items():
            _check_finite(answer, f"The {name} of {self._name}")
        # int8 rounds the map and the logits separately, so that they differ.
        if exact and "cam" in answers and not np.allclose(answers["cam"].mean((2, 3)), answers["logits"], 1e-3, 1e-3):
            raise BlastlensError(f"The cam of {self._name} is not that of its logits; export it again.")

    def run(self, outputs: Sequence[str], views: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs for N views. One image uses all cores; of several, each core takes one at a time.

        That is faster than any batch: no core waits for the others layer by layer, and the feature maps of one image
        stay in its cache. Remaining images, fewer than there are cores, share all cores again.
        """

        def ask(session: Any, part: Sequence[np.ndarray]) -> list[np.ndarray]:
            return list(session.run(outputs, {"pixel_values": normalise(self._view, np.stack(part))}))

        side_by_side = len(views) // self.threads * self.threads if len(views) > 1 else 0
        single = self._session if self.threads == 1 or not side_by_side else self._single_core_session
        found = self.map(lambda i: ask(single, views[i : i + 1]), range(side_by_side))
        if side_by_side < len(views):
            found.append(ask(self._session, views[side_by_side:]))
        return [np.concatenate(parts) for parts in zip(*found, strict=True)]

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        if self.threads == 1 or len(items) < 2:
            return list(map(function, items))
        return list(self._workers.map(function, items))

    @cached_property
    def _single_core_session(self) -> Any:
        """The same network with one thread; the first session if its file is gone or was replaced."""
        return self._open(1) if _state(self._file) == self._loaded else self._session

    @cached_property
    def _workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="network")

    def _open(self, threads: int) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads spin during a run, which keeps it fast, and sleep between runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not has_vnni():
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.log_severity_level = 4  # the error below says it
        try:
            return ort.InferenceSession(self._file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception type for each status code
            raise BlastlensError(f"{self._name} is damaged or not an ONNX model; export it again.") from error


def _state(file: Path) -> tuple[int, int, int]:
    """A value that changes when a file is replaced or rewritten, and each time if there is none."""
    try:
        about = file.stat()
        return about.st_ino, about.st_size, about.st_mtime_ns
    except OSError:
        return 0, 0, time.monotonic_ns()


def _probe(size: int) -> np.ndarray:
    """A view that is neither black nor flat, uint8 (size, size, 3), always the same."""
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _check_finite(answer: np.ndarray, what: str) -> None:
    if not np.isfinite(answer).all():
        raise BlastlensError(f"{what} are not finite numbers, so its weights are damaged; export it again.")


# Arguments by which timm would read other files, or ask the Hub.
_READING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


class TorchNetwork(Network):
    """torch and timm, for folders that have only safetensors."""

    def __init__(self, folder: ModelFolder, threads: int | None = None) -> None:
        name, architecture = f"Model {folder.model_id} has no ONNX file", folder.config["architecture"]
        if "auto_map" in folder.config:
            raise BlastlensError(f"{name} and needs code of its own, which is never run here; export it to ONNX.")
        try:
            import timm
            import torch
            from safetensors.torch import load_file
        except ImportError as error:
            raise BlastlensError(
                f"{name}, and torch or timm is not installed; install them or export the model to ONNX."
            ) from error
        model_args: dict[str, Any] = folder.config.get("model_args") or {}
        try:
            if not timm.is_model(architecture) or _READING & set(model_args):
                raise ValueError(architecture)
            model = timm.create_model(architecture, pretrained=False, num_classes=len(folder.label_names), **model_args)
        except Exception as error:  # timm raises whatever its constructors happen to
            raise BlastlensError(
                f"{name}, and timm {timm.__version__} cannot build its architecture {architecture!r} from its name and "
                "arguments alone; export the model to ONNX."
            ) from error
        try:
            model.load_state_dict(load_file(folder.path / "model.safetensors"))
        except Exception as error:  # a missing or damaged file, or another network's weights
            raise BlastlensError(
                f"model.safetensors of model {folder.model_id} is missing, damaged or not for {architecture}; export "
                "it again."
            ) from error
        # Never more than before: the thread count is that of the whole process.
        self.threads = min(torch.get_num_threads(), threads or usable_cores())
        torch.set_num_threads(self.threads)
        self._torch, self._model, self._view = torch, model.eval(), folder.view
        probe = [_probe(folder.view.size)]
        (logits,) = self.run(["logits"], probe)
        _check_finite(logits, f"The logits of model.safetensors of model {folder.model_id}")
        self.outputs = ("logits",)
        try:  # timm's heads come in too many kinds to list, so the network itself shows whether it has maps
            (cam,) = self.run(["cam"], probe)
        except (AttributeError, RuntimeError, TypeError):
            return
        if cam.ndim == 4 and np.allclose(cam.mean((2, 3)), logits, rtol=1e-3, atol=1e-4):
            self.outputs = ("logits", "cam", "features")

    def run(self, outputs: Sequence[str], views: Sequence[np.ndarray]) -> list[np.ndarray]:
        with self._torch.inference_mode():
            batch = self._torch.from_numpy(normalise(self._view, np.stack(views)))
            if list(outputs) == ["logits"]:
                return [self._model(batch).numpy()]
            maps = self._model.forward_features(batch)
            return [self._output(name, maps).numpy() for name in outputs]

    def _output(self, name: str, maps: Any) -> Any:
        if name == "logits":
            return self._model.forward_head(maps)
        if name == "features":
            return maps.mean((2, 3))
        linear = self._model.get_classifier()
        return self._torch.nn.functional.conv2d(maps, linear.weight[:, :, None, None], linear.bias)
