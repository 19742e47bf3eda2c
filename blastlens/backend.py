"""Run a model folder's network: normalised batches to logits, pooled features and class activation maps.

ONNX Runtime where the folder has an ONNX file; otherwise torch and timm, imported only then because they take
seconds. Opening images and reading configurations are other modules' work.
"""

import os
import threading
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import BlastlensError
from .model_folder import ModelFolder


class Backend(Protocol):
    """A loaded network with C classes and square inputs of S px; threads may share it.

    Attributes:
        has_cam: whether it has class activation maps: its last linear layer, applied to every position of its
            last feature map.
        has_features: whether it also gives the pooled features, of F channels, that this layer sees.
    """

    has_cam: bool
    has_features: bool

    def logits(self, batch: np.ndarray) -> np.ndarray:
        """float32 (N, 3, S, S) to float32 (N, C)."""

    def logits_and_cam(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 (N, 3, S, S) to float32 (N, C) and (N, C, h, w); only where `has_cam`."""

    def logits_and_features(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """float32 (N, 3, S, S) to float32 (N, C) and (N, F), in one run; only where `has_features`."""


def load_backend(folder: ModelFolder, precision: str, threads: int | None = None) -> Backend:
    """Load the network of a folder.

    Args:
        precision: "fp32" or "int8".
        threads: of each run; by default every core that this process may use. Who runs it from several threads at
            once gets more done with 1.

    Raises:
        BlastlensError: no file for this precision, or one that is damaged or does not fit config.json.
    """
    onnx_file = folder.onnx_file(precision)
    if onnx_file.is_file():
        return OnnxBackend(onnx_file, folder, threads)
    if precision != "fp32":
        raise BlastlensError(f"Model {folder.model_id} has no {precision} version; use precision='fp32'.")
    return TorchBackend(folder, threads)


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


class OnnxBackend:
    """ONNX Runtime on the CPU."""

    def __init__(self, file: Path, folder: ModelFolder, threads: int | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.inter_op_num_threads = 1
        # Threads spin while a run is going on, which keeps it quick, and sleep between runs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.log_severity_level = 4  # what goes wrong is said below, once
        name = f"{file.relative_to(folder.path)} of model {folder.model_id}"
        try:
            self._session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception type of its own for each status code
            raise BlastlensError(f"{name} is damaged or not an ONNX model; export it again.") from error
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
                f"{name} maps {inputs} to {outputs}; pixel_values (N, 3, {size}, {size}) to logits "
                f"(N, {classes}) and, optionally, cam (N, {classes}, h, w) and features (N, F) is expected."
            )

    def logits(self, batch: np.ndarray) -> np.ndarray:
        return self.run(["logits"], batch)[0]

    def logits_and_cam(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, cam = self.run(["logits", "cam"], batch)
        return logits, cam

    def logits_and_features(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, features = self.run(["logits", "features"], batch)
        return logits, features

    def run(self, outputs: list[str], batch: np.ndarray) -> list[np.ndarray]:
        """Outputs of the graph for a batch."""
        return list(self._session.run(outputs, {"pixel_values": batch}))


class LimitedOnnxBackend(OnnxBackend):
    """For networks that nobody here has chosen: a batch that takes too long is stopped, and the network given up."""

    def __init__(self, file: Path, folder: ModelFolder, limit_s: float) -> None:
        """Load it; `limit_s` is what one batch may take, in seconds."""
        super().__init__(file, folder)
        self._limit_s = limit_s
        self._model = folder.model_id
        self._given_up = False

    def run(self, outputs: list[str], batch: np.ndarray) -> list[np.ndarray]:
        """Outputs of the graph; raises BlastlensError where they take too long, or fail, and ever after."""
        import onnxruntime as ort

        options = ort.RunOptions()
        stop = threading.Timer(self._limit_s, setattr, (options, "terminate", True))
        if not self._given_up:
            stop.start()
            try:
                return list(self._session.run(outputs, {"pixel_values": batch}, options))
            except Exception:  # onnxruntime has an exception type of its own for each status code
                self._given_up = True
            finally:
                stop.cancel()
        raise BlastlensError(
            f"Model {self._model} took longer than {self._limit_s:g} s for a few images, or failed; it is not asked "
            "again."
        )


def _fits(shape: list[int | str | None] | None, expected: tuple[int | None, ...]) -> bool:
    """Whether an ONNX shape can be the expected one. Its open axes are not ints; the first must be open."""
    return (
        shape is not None
        and len(shape) == len(expected)
        and not isinstance(shape[0], int)
        and all(e is None or not isinstance(s, int) or s == e for s, e in zip(shape, expected, strict=True))
    )


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
            model = timm.create_model(architecture, pretrained=False, num_classes=len(folder.label_names), **model_args)
        except Exception as error:  # timm raises whatever its constructors happen to
            raise BlastlensError(
                f"Model {folder.model_id} has no ONNX file, and timm {timm.__version__} cannot build its "
                f"architecture {architecture!r}; export the model to ONNX."
            ) from error
        try:
            model.load_state_dict(load_file(folder.path / "model.safetensors"))
        except Exception as error:  # a missing file, a damaged one, and another network's weights alike
            raise BlastlensError(
                f"model.safetensors of model {folder.model_id} is missing, damaged or not for "
                f"{architecture}; export it again."
            ) from error
        # Only ever fewer: the thread count is the whole process's, and its owner may have lowered it.
        torch.set_num_threads(min(torch.get_num_threads(), threads or usable_cores()))
        self._torch, self._model = torch, model.eval()
        self.has_cam = self.has_features = self._ends_in_pooled_linear(folder.view.size)

    def logits(self, batch: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self._model(self._torch.from_numpy(batch)).numpy()

    def logits_and_cam(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with self._torch.inference_mode():
            features = self._model.forward_features(self._torch.from_numpy(batch))
            linear = self._model.get_classifier()
            cam = self._torch.nn.functional.conv2d(features, linear.weight[:, :, None, None], linear.bias)
            return self._model.forward_head(features).numpy(), cam.numpy()

    def logits_and_features(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with self._torch.inference_mode():
            features = self._model.forward_features(self._torch.from_numpy(batch))
            return self._model.forward_head(features).numpy(), features.mean((2, 3)).numpy()

    def _ends_in_pooled_linear(self, size: int) -> bool:
        """Asked of the network itself, since timm's heads come in too many kinds to list."""
        probe = np.random.default_rng(0).standard_normal((1, 3, size, size), dtype=np.float32)
        try:
            logits, cam = self.logits_and_cam(probe)
        except (AttributeError, RuntimeError, TypeError):
            return False
        return cam.ndim == 4 and np.allclose(cam.mean((2, 3)), logits, rtol=1e-3, atol=1e-4)
