"""An fp32 ONNX file -> its int8 one.

Static quantization, calibrated on training images: weights int8 per channel, activations uint8. Depthwise networks lose
most in their first layers, which have few channels that each carry much, so the first convolutions stay in fp32: as few
of them as keep the predictions (`LIMIT`).
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from blastlens.inference import usable_cores

# Training images that set the ranges, and others that predictions are compared on.
CALIBRATION_IMAGES, CHECK_IMAGES = 200, 100
# How far a probability may move, at most, for 99 % of the checked images. Training images are predicted with certainty,
# where probabilities hardly move, so what counts is how far they would move at their steepest: a quarter of the change
# in the difference of two logits. 0.07 of that left 0.03 on held-out images, 0.09 left 0.05.
LIMIT = 0.07
MOST_IN_FLOATS = 9  # convolutions, counted from the input
WORTH = 1.1  # fewer fp32 convolutions may move probabilities by this factor more than the best number of them


class _Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray):
        self.batches = iter([{"pixel_values": image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def training_sample(train: Sequence[int]) -> np.ndarray:
    """Return the indices of the training images that `write_int8` needs; always the same ones."""
    size = min(CALIBRATION_IMAGES + CHECK_IMAGES, len(train))
    return np.random.default_rng(0).choice(np.asarray(train), size=size, replace=False)


def write_int8(fp32: Path, int8: Path, images: np.ndarray) -> int:
    """Quantize a file; returns how many of its first convolutions had to stay in fp32.

    Of normalised training images (N, 3, H, W) in random order, two thirds calibrate, the rest check. These stay in
    fp32, too: the last linear layer and the activation map, which carry the calibration; image enhancement, whose
    values are pixels; batch norms not folded into a convolution; and padding, whose value before max pooling may be
    minus infinity.
    """
    calibrating = max(1, len(images) * CALIBRATION_IMAGES // (CALIBRATION_IMAGES + CHECK_IMAGES))
    check = images[calibrating:] if len(images) > calibrating else images
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        # Symbolic shapes add nothing for networks of one input size, and fail on some (transformers, enhancement).
        quant_pre_process(str(fp32), str(ready), skip_symbolic_shape=True)
        graph = onnx.load(str(ready)).graph
        last = {output.name for output in graph.output}
        keep = [n.name for n in graph.node if set(n.output) & last or n.op_type in ("BatchNormalization", "Pad")]
        keep += _before_weights(graph)
        convolutions = [n.name for n in graph.node if n.op_type == "Conv" and n.name not in keep]
        expected = onnx_logits(fp32, check)

        def quantize(floats: int) -> None:
            quantize_static(
                str(ready),
                str(int8),
                _Images(images[:calibrating]),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=keep + convolutions[:floats],
            )

        moved: dict[int, float] = {}
        for floats in range(min(MOST_IN_FLOATS, len(convolutions)) + 1):
            quantize(floats)
            moved[floats] = _movement(expected, onnx_logits(int8, check))
            if moved[floats] <= LIMIT:
                return floats
        # None meets the limit. More fp32 layers are not always better: where a range is cut is partly chance.
        chosen = min(floats for floats, by in moved.items() if by <= WORTH * min(moved.values()))
        quantize(chosen)
        return chosen


def _movement(before: np.ndarray, after: np.ndarray) -> float:
    """How far a probability can move at most, for 99 % of the images: logits (N, C) of both."""
    change = after - before
    return float(np.quantile((change.max(axis=1) - change.min(axis=1)) / 4, 0.99))


def _before_weights(graph: onnx.GraphProto) -> list[str]:
    """Names of the nodes that no layer with weights feeds, in a graph that lists nodes in order."""
    fed: set[str] = set()
    names = []
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul") or fed & set(node.input):
            fed |= set(node.output)
        else:
            names.append(node.name)
    return names


def onnx_session(model: Path | bytes, threads: int | None = None) -> ort.InferenceSession:
    """Open a file, or the bytes of one, on the CPU; with all usable cores by default."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads or usable_cores(), 1
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def onnx_logits(path: Path, images: np.ndarray | Iterable[np.ndarray]) -> np.ndarray:
    """Return logits (N, C) of normalised images (N, 3, H, W), or of an iterable of batches of them."""
    session = onnx_session(path)
    batches = [images[i : i + 8] for i in range(0, len(images), 8)] if isinstance(images, np.ndarray) else images
    return np.concatenate([session.run(["logits"], {"pixel_values": batch})[0] for batch in batches])
