"""Run a model folder's network: views to logits, pooled features and class activation maps.

ONNX Runtime where the folder has an ONNX file; otherwise torch and timm, imported only then because they take
seconds. Opening images and reading configurations are other modules' work.
"""

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from .errors import BlastlensError
from .model_folder import ModelFolder

_OUTPUTS = ("logits", "cam", "features")
Item = TypeVar("Item")
Result = TypeVar("Result")


class Backend(Protocol):
    """A loaded network with C classes and square inputs of S px; threads may share it.

    Attributes:
        has_cam: whether it has class activation maps: its last linear layer, applied to every position of its
            last feature map.
        has_features: whether it also gives the pooled features, of F channels, that this layer sees.
        threads: how many cores it keeps busy.
    """

    has_cam: bool
    has_features: bool
    threads: int

    def logits(self, views: Sequence[np.ndarray]) -> np.ndarray:
        """N views, uint8 (S, S, 3) each, to float32 (N, C)."""

    def logits_and_cam(self, views: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """N views, uint8 (S, S, 3) each, to float32 (N, C) and (N, C, h, w); only where `has_cam`."""

    def logits_and_features(self, views: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """N views, uint8 (S, S, 3) each, to float32 (N, C) and (N, F), in one run; only where `has_features`."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`function` of each item, as many at a time as the network has threads; not to be called from within."""


def load_backend(folder: ModelFolder, precision: str, threads: int | None = None) -> Backend:
    """Load the network of a folder.

    Args:
        precision: "fp32" or "int8".
        threads: of each run; by default every core that this process may use. Who runs it from several threads at
            once gets more done with 1.

    Raises:
        BlastlensError: no file for this precision, or one that is damaged or does not fit the other files.
    """
    onnx_file = folder.onnx_file(precision)
    backend: Backend
    if onnx_file.is_file():
        backend = OnnxBackend(onnx_file, folder, threads)
    elif precision != "fp32":
        raise BlastlensError(f"Model {folder.model_id} has no {precision} version; use precision='fp32'.")
    else:
        backend = TorchBackend(folder, threads)
    folder.check_networks()  # afterwards, since other errors are clearer for files that do not load at all
    return backend


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


def has_wide_sums(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this processor adds up products of bytes in 32 bits at once.

    Older ones of Intel's kind do it in 16 bits, which overflow, so that int8 networks answer otherwise on them unless
    ONNX Runtime is told to take twice the time. Where it cannot be found out they are taken for old.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return True
    try:
        return re.search(r"^flags\s*:.*\b(avx512_vnni|avx_vnni)\b", cpuinfo.read_text(), re.MULTILINE) is not None
    except OSError:
        return False


class OnnxBackend:
    """ONNX Runtime on the CPU."""

    def __init__(self, file: Path, folder: ModelFolder, threads: int | None = None) -> None:
        self._file, self._view, self.threads = file, folder.view, threads or usable_cores()
        self._name = f"{file.relative_to(folder.path)} of model {folder.model_id}"
        self._loaded = _state(file)
        self._session = self._open(self.threads)
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        outputs = {o.name: o.shape for o in self._session.get_outputs()}
        classes, size = len(folder.label_names), folder.view.size
        self.has_cam, self.has_features = "cam" in outputs, "features" in outputs
        if not (
            list(inputs) == ["pixel_values"]
            and _fits(inputs["pixel_values"], (None, 3, size, size))
            and _fits(outputs.get("logits"), (None, classes))
            and (not self.has_cam or _fits(outputs["cam"], (None, classes, None, None)))
            and (not self.has_features or _fits(outputs["features"], (None, None)))
        ):
            raise BlastlensError(
                f"{self._name} maps {inputs} to {outputs}; pixel_values (N, 3, {size}, {size}) to logits "
                f"(N, {classes}) and, optionally, cam (N, {classes}, h, w) and features (N, F) is expected."
            )
        # Whole numbers are rounded twice, once for the map and once for the logits, so that the two differ.
        self._try_out([name for name in _OUTPUTS if name in outputs], classes, file == folder.onnx_file("fp32"))

    def _try_out(self, outputs: list[str], classes: int, exact: bool) -> None:
        """Ask it once: weights that are not finite, shapes that it only says it has, and, where it is `exact`, logits
        that are not its map's mean show in no other way."""
        try:
            answers = dict(zip(outputs, self.run(outputs, [probe_of(self._view.size)]), strict=True))
        except BlastlensError:
            raise
        except Exception as error:  # onnxruntime has an exception type of its own for each status code
            raise BlastlensError(f"{self._name} does not run; export it again.") from error
        shapes = {"logits": (1, classes), "cam": (1, classes, None, None), "features": (1, None)}
        if not all(_is_like(answer.shape, shapes[name]) for name, answer in answers.items()):
            found = {name: answer.shape for name, answer in answers.items()}
            raise BlastlensError(f"{self._name} answers in shapes {found}; {shapes} is expected.")
        for name, answer in answers.items():
            if not np.isfinite(answer).all():
                raise BlastlensError(
                    f"The {name} that {self._name} answers with are not finite numbers, so its weights are damaged; "
                    "export it again."
                )
        if exact and self.has_cam and not np.allclose(answers["cam"].mean((2, 3)), answers["logits"], 1e-3, 1e-3):
            raise BlastlensError(f"The cam of {self._name} is not that of its logits; export it again.")

    def logits(self, views: Sequence[np.ndarray]) -> np.ndarray:
        return self.run(["logits"], views)[0]

    def logits_and_cam(self, views: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        logits, cam = self.run(["logits", "cam"], views)
        return logits, cam

    def logits_and_features(self, views: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        logits, features = self.run(["logits", "features"], views)
        return logits, features

    def run(self, outputs: list[str], views: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Outputs of the graph for N views, at least one.

        One image has all cores. Of several each core takes one at a time, which is quicker than any batch: no core
        waits for the others layer by layer, and the feature maps of one image stay in its cache. Where less than one
        image for each core is left over, all cores share these again.
        """

        def ask(session: Any, part: Sequence[np.ndarray]) -> list[np.ndarray]:
            return list(session.run(outputs, {"pixel_values": self._view.normalise(np.stack(part))}))

        side_by_side = len(views) // self.threads * self.threads if len(views) > 1 else 0
        single = self._session if self.threads == 1 or not side_by_side else self._of_one_core
        found = self.map(lambda i: ask(single, views[i : i + 1]), range(side_by_side))
        if side_by_side < len(views):
            found.append(ask(self._session, views[side_by_side:]))
        return [np.concatenate(of_parts) for of_parts in zip(*found, strict=True)]

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        if self.threads == 1 or len(items) < 2:
            return list(map(function, items))
        return list(self._workers.map(function, items))

    @cached_property
    def _of_one_core(self) -> Any:
        """The same network once more; the one there is where its file is gone, or another one by now."""
        return self._open(1) if _state(self._file) == self._loaded else self._session

    @cached_property
    def _workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.threads, thread_name_prefix="network")

    def _open(self, threads: int) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Threads spin while a run is going on, which keeps it quick, and sleep between runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not has_wide_sums():
            options.add_session_config_entry("session.x64quantprecision", "1")
        options.log_severity_level = 4  # what goes wrong is said below, once
        try:
            return ort.InferenceSession(self._file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception type of its own for each status code
            raise BlastlensError(f"{self._name} is damaged or not an ONNX model; export it again.") from error


def _state(file: Path) -> tuple[int, int, int]:
    """What changes when a file is replaced or written again; another one each time where it is not there."""
    try:
        about = file.stat()
        return about.st_ino, about.st_size, about.st_mtime_ns
    except OSError:
        return 0, 0, time.monotonic_ns()


def probe_of(size: int) -> np.ndarray:
    """A view that is neither black nor flat, uint8 (size, size, 3), always the same."""
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)


def _is_like(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(e in (None, s) for s, e in zip(shape, expected, strict=True))


def _fits(shape: list[int | str | None] | None, expected: tuple[int | None, ...]) -> bool:
    """Whether an ONNX shape can be the expected one. Its open axes are not ints; the first must be open."""
    return (
        shape is not None
        and len(shape) == len(expected)
        and not isinstance(shape[0], int)
        and all(e is None or not isinstance(s, int) or s == e for s, e in zip(shape, expected, strict=True))
    )


_READING = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


class TorchBackend:
    """torch and timm, for folders that hold only safetensors."""

    def __init__(self, folder: ModelFolder, threads: int | None = None) -> None:
        if "auto_map" in folder.config:
            raise BlastlensError(
                f"Model {folder.model_id} has no ONNX file and needs code of its own, which is never run here; "
                "export it to ONNX."
            )
        try:
            import timm
            import torch
            from safetensors.torch import load_file
        except ImportError as error:
            raise BlastlensError(
                f"Model {folder.model_id} has no ONNX file, and torch or timm is not installed; install them "
                "or export the model to ONNX."
            ) from error
        architecture: str = folder.config["architecture"]
        model_args: dict[str, Any] = folder.config.get("model_args") or {}
        try:
            # timm would ask the Hub for some names, and open files that some arguments name.
            if not timm.is_model(architecture) or _READING & set(model_args):
                raise ValueError(architecture)
            model = timm.create_model(architecture, pretrained=False, num_classes=len(folder.label_names), **model_args)
        except Exception as error:  # timm raises whatever its constructors happen to
            raise BlastlensError(
                f"Model {folder.model_id} has no ONNX file, and timm {timm.__version__} cannot build its "
                f"architecture {architecture!r} from its name and arguments alone; export the model to ONNX."
            ) from error
        try:
            model.load_state_dict(load_file(folder.path / "model.safetensors"))
        except Exception as error:  # a missing file, a damaged one, and another network's weights alike
            raise BlastlensError(
                f"model.safetensors of model {folder.model_id} is missing, damaged or not for "
                f"{architecture}; export it again."
            ) from error
        # Only ever fewer: the thread count is the whole process's, and its owner may have lowered it.
        self.threads = min(torch.get_num_threads(), threads or usable_cores())
        torch.set_num_threads(self.threads)
        self._torch, self._model, self._view = torch, model.eval(), folder.view
        if not np.isfinite(self.logits([probe_of(folder.view.size)])).all():
            raise BlastlensError(
                f"The logits that model.safetensors of model {folder.model_id} answers with are not finite numbers, so "
                "its weights are damaged; export it again."
            )
        self.has_cam = self.has_features = self._ends_in_pooled_linear()

    def logits(self, views: Sequence[np.ndarray]) -> np.ndarray:
        with self._torch.inference_mode():
            return self._model(self._batch(views)).numpy()

    def logits_and_cam(self, views: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        with self._torch.inference_mode():
            features = self._model.forward_features(self._batch(views))
            linear = self._model.get_classifier()
            cam = self._torch.nn.functional.conv2d(features, linear.weight[:, :, None, None], linear.bias)
            return self._model.forward_head(features).numpy(), cam.numpy()

    def logits_and_features(self, views: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        with self._torch.inference_mode():
            features = self._model.forward_features(self._batch(views))
            return self._model.forward_head(features).numpy(), features.mean((2, 3)).numpy()

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        return list(map(function, items))

    def _batch(self, views: Sequence[np.ndarray]) -> Any:
        return self._torch.from_numpy(self._view.normalise(np.stack(views)))

    def _ends_in_pooled_linear(self) -> bool:
        """Asked of the network itself, since timm's heads come in too many kinds to list."""
        try:
            logits, cam = self.logits_and_cam([probe_of(self._view.size)])
        except (AttributeError, RuntimeError, TypeError):
            return False
        return cam.ndim == 4 and np.allclose(cam.mean((2, 3)), logits, rtol=1e-3, atol=1e-4)
