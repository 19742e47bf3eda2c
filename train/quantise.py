"""An fp32 ONNX file -> its int8 one, whole numbers wherever these leave the answers as they are.

    python -m train.quantise models/mobilenetv1-cnmc2019 --data DIR     # a model folder's, anew

Static quantisation, calibrated on training images: weights int8 for each channel, activations uint8. Depthwise networks
lose most in their first layers, where there are few channels and each carries much, so that the first convolutions stay
in floats: as few of them as keep the answers (`LIMIT`).
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
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

from blastlens.errors import BlastlensError
from blastlens.model_folder import PRECISIONS, ModelFolder
from train.datasets import load_rows
from train.files import replace, write_json
from train.pixels import load_pixels

# Training images that set the ranges, and others that the answers are compared on.
CALIBRATION_IMAGES, CHECK_IMAGES = 200, 100
# How far a probability may move, at most, for 99 % of the checked images. Training images are answered with certainty,
# where probabilities hardly move, so that what counts is how far they would move at their steepest: a quarter of the
# change in the difference of two logits. 0.07 of that left 0.03 on held-out images, 0.09 left 0.05.
LIMIT = 0.07
MOST_IN_FLOATS = 9  # convolutions, counted from the image
WORTH = 1.1  # of the least movement that any number of them brings: what so many fewer may move


class _Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray):
        self.batches = iter([{"pixel_values": images[i : i + 1]} for i in range(len(images))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def training_sample(train: Sequence[int]) -> np.ndarray:
    """Indices of a few training images, the same every time: what `write_int8` wants."""
    rng = np.random.default_rng(0)
    size = min(CALIBRATION_IMAGES + CHECK_IMAGES, len(train))
    return rng.choice(np.asarray(train), size=size, replace=False)


def write_int8(fp32: Path, int8: Path, images: np.ndarray) -> int:
    """Quantise a file; returns how many of its first convolutions had to stay in floats.

    The last linear layer and the map stay in floats too: they are a thousandth of the work and carry the calibration.
    So do image enhancement, whose values are pixels, batch norms that are not folded into a convolution, and padding,
    whose value before max pooling may be minus infinity.

    Args:
        images: normalised training images (N, 3, H, W) in no order. The first two thirds calibrate, the rest check.
    """
    ours = max(1, len(images) * CALIBRATION_IMAGES // (CALIBRATION_IMAGES + CHECK_IMAGES))
    calibration, check = images[:ours], images[ours:] if len(images) > ours else images
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
        tried: dict[int, float] = {}
        for floats in range(min(MOST_IN_FLOATS, len(convolutions)) + 1):
            _quantise(ready, int8, calibration, keep + convolutions[:floats])
            tried[floats] = _movement(expected, onnx_logits(int8, check))
            if tried[floats] <= LIMIT:
                return floats
        # None is as good as that. More floats are not always better, since where a range is cut is a matter of luck
        # too, and not worth their time where they bring next to nothing.
        chosen = min(floats for floats, moved in tried.items() if moved <= WORTH * min(tried.values()))
        _quantise(ready, int8, calibration, keep + convolutions[:chosen])
        return chosen


def _quantise(ready: Path, int8: Path, images: np.ndarray, keep: Sequence[str]) -> None:
    quantize_static(
        str(ready),
        str(int8),
        _Images(images),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=list(keep),
    )


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


def onnx_logits(path: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate(
        [session.run(["logits"], {"pixel_values": images[i : i + 8]})[0] for i in range(0, len(images), 8)]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.quantise", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="model folder, fitted on every image of its dataset")
    parser.add_argument("--data", type=Path, required=True, help="that prepared dataset")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    try:
        folder = ModelFolder.load(arguments.folder)
        rows = load_rows(arguments.data)
        pixels = load_pixels(arguments.data, rows, folder.view, arguments.cache)
        images = folder.view.normalise(np.asarray(pixels[training_sample(range(len(rows)))]))
        fp32, int8 = (folder.path / PRECISIONS[name] for name in ("fp32", "int8"))
        floats = []
        if "int8" in (sha256 := folder.metrics.get("sha256") or {}):  # what is made now is another file
            del sha256["int8"]
            write_json(folder.path / "metrics.json", folder.metrics)
        replace(int8, lambda part: floats.append(write_int8(fp32, part, images)))
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{int8}: {floats[0]} of its first convolutions stay in floats; measure it again with train.evaluate")
    return 0


if __name__ == "__main__":
    sys.exit(main())
