"""Run folder -> model folder: what `pipeline`, timm and `blastlens.Classifier` load, and what the Hub holds.

    python -m train.export runs/final/cnmc --cv runs/cv/cnmc --out models/mobilenet_m-cnmc2019

The head's batch norm and the calibration (a temperature from the cross-validation's held-out images) are
folded into the last linear layer; the ONNX files are written from that same network and checked against it before
the folder gets its name.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blastlens import metrics
from blastlens.errors import BlastlensError
from blastlens.images import View
from train.backbones import classifier_name, create_network, fold_head
from train.datasets import load_rows
from train.datasets.splits import make_splits
from train.finetune import view_of
from train.pixels import load_pixels
from train.recipe import Recipe

CALIBRATION_IMAGES = 200  # training images that set the ranges of the int8 file
PARITY = 1e-4  # largest difference in probability between the torch network and its fp32 ONNX file


class LogitsAndMap(nn.Module):
    """The exported graph: logits, and the class activation map (Zhou et al. 2016), which for a network that ends
    in global average pooling and one linear layer is that layer applied to the last feature map."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.linear = getattr(network, classifier_name(network))

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        features = self.network.forward_features(pixel_values)
        logits = self.network.forward_head(features)
        # MobileNetV4 and others put a layer between pooling and classifier; a map is defined without it only.
        weight = self.linear.weight[:, :, None, None]
        return logits, nn.functional.conv2d(features, weight, self.linear.bias)


def load_network(run: Path, temperature: float = 1.0) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a finished run with its head folded, and the run's record."""
    record_path = run / "run.json"
    if not record_path.exists():
        raise BlastlensError(f"{run} is not a finished run: it has no run.json.")
    record = json.loads(record_path.read_text())
    recipe = Recipe.from_dict(record["recipe"])
    names = record["label_names"]
    network = create_network(recipe, len(names), "scratch")
    network.load_state_dict(load_file(run / "model.safetensors"))
    fold_head(network, temperature)
    return network.eval(), record


def config_json(network: nn.Module, recipe: Recipe, label_names: Sequence[str], view: View) -> dict[str, Any]:
    """timm's config.json, in the form that both timm and transformers' TimmWrapper accept."""
    config: dict[str, Any] = {
        "architecture": recipe.backbone,
        "num_classes": len(label_names),
        "num_features": network.num_features,
        "global_pool": "avg",
        "label_names": list(label_names),
        "pretrained_cfg": {
            "tag": recipe.name,
            "custom_load": False,
            "input_size": [3, view.size, view.size],
            "fixed_input_size": False,
            "interpolation": view.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(view.mean),
            "std": list(view.std),
            "num_classes": len(label_names),
            "pool_size": [view.size // 32, view.size // 32],
            "first_conv": network.pretrained_cfg["first_conv"],
            "classifier": classifier_name(network),
        },
    }
    if view.frame:
        # Read by AutoImageProcessor for local timm folders, which otherwise never look at preprocessor_config.json.
        config["image_processor_type"] = "DonutImageProcessor"
    return config


def preprocessor_json(view: View) -> dict[str, Any]:
    """Framing of single cells in words of a stock transformers processor.

    Donut's is the one whose steps depend on an image's absolute size: a 450 px frame as published is shrunk, an
    already prepared one is left alone, both end in the same centre crop. timm's own transform cannot say that.
    """
    assert view.frame
    return {
        "image_processor_type": "DonutImageProcessor",
        "do_resize": False,
        "do_align_long_axis": False,
        "do_thumbnail": True,
        "size": {"height": view.frame, "width": view.frame},
        "do_pad": True,
        "do_center_crop": True,
        "crop_size": {"height": view.size, "width": view.size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(view.mean),
        "image_std": list(view.std),
        "resample": {"bilinear": 2, "bicubic": 3}[view.interpolation],
    }


def write_onnx(network: nn.Module, path: Path, size: int) -> None:
    """Export to ONNX with a free batch dimension, constants folded."""
    torch.onnx.export(
        LogitsAndMap(network).eval(),
        (torch.zeros(2, 3, size, size),),
        str(path),
        input_names=["pixel_values"],
        output_names=["logits", "cam"],
        dynamic_axes={"pixel_values": {0: "batch"}, "logits": {0: "batch"}, "cam": {0: "batch"}},
        opset_version=18,
        dynamo=False,
    )
    onnx.checker.check_model(str(path))


class _Images(CalibrationDataReader):
    def __init__(self, images: np.ndarray):
        self.batches = iter([{"pixel_values": images[i : i + 1]} for i in range(len(images))])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.batches, None)


def write_int8(fp32: Path, int8: Path, images: np.ndarray) -> None:
    """Static quantisation calibrated on `images` (N, 3, H, W): weights int8 per channel, activations uint8.

    The last linear layer and the map stay in fp32: they are a thousandth of the work and carry the calibration.
    """
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "ready.onnx"
        quant_pre_process(str(fp32), str(ready))
        graph = onnx.load(str(ready)).graph
        last = {output.name for output in graph.output}
        keep = [node.name for node in graph.node if set(node.output) & last]
        quantize_static(
            str(ready),
            str(int8),
            _Images(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            nodes_to_exclude=keep,
        )


def training_sample(train: Sequence[int]) -> np.ndarray:
    """Indices of a few training images, the same every time."""
    rng = np.random.default_rng(0)
    return np.sort(rng.choice(np.asarray(train), size=min(CALIBRATION_IMAGES, len(train)), replace=False))


def onnx_logits(path: Path, images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.concatenate(
        [session.run(["logits"], {"pixel_values": images[i : i + 8]})[0] for i in range(0, len(images), 8)]
    )


def export(run: Path, out: Path, images: np.ndarray, summary: dict[str, Any] | None) -> dict[str, float]:
    """Write the model folder; returns the largest differences in probability to the torch network.

    `images` (N, size, size, 3) uint8 of training cells calibrate the int8 file and check both. Raises BlastlensError
    when the fp32 file disagrees by more than `PARITY`. The old folder, if any, is replaced only at the end.
    """
    network, record = load_network(run, summary["temperature"] if summary else 1.0)
    recipe = Recipe.from_dict(record["recipe"])
    view = view_of(recipe)
    batch = view.normalise(images)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        part = Path(folder) / out.name
        (part / "onnx").mkdir(parents=True)
        _dump(part / "config.json", config_json(network, recipe, record["label_names"], view))
        if view.frame:
            _dump(part / "preprocessor_config.json", preprocessor_json(view))
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, part / "model.safetensors")
        write_onnx(network, part / "onnx/model.onnx", view.size)
        write_int8(part / "onnx/model.onnx", part / "onnx/model_int8.onnx", batch)
        with torch.inference_mode():
            expected = metrics.softmax(network(torch.from_numpy(batch)).numpy())
        parity = {
            name: float(np.abs(metrics.softmax(onnx_logits(part / "onnx" / file, batch)) - expected).max())
            for name, file in (("fp32", "model.onnx"), ("int8", "model_int8.onnx"))
        }
        if parity["fp32"] > PARITY:
            raise BlastlensError(f"The ONNX file's probabilities differ by {parity['fp32']:.2g}, more than {PARITY}.")
        for name in ("metrics.json", "README.md"):
            if (out / name).exists():
                shutil.copy(out / name, part / name)
        if out.exists():
            shutil.rmtree(out)
        part.rename(out)
    return parity


def _dump(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.export", description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="finished run folder")
    parser.add_argument("--cv", type=Path, help="folder of train.crossval: its calibration is folded in")
    parser.add_argument("--data", type=Path, required=True, help="the run's prepared dataset, to calibrate int8")
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    try:
        summary = json.loads((arguments.cv / "summary.json").read_text()) if arguments.cv else None
        _, record = load_network(arguments.run)
        rows = load_rows(arguments.data)
        split = make_splits(record["protocol"], rows, record["seed"])[record["fold"]]
        pixels = load_pixels(arguments.data, rows, view_of(Recipe.from_dict(record["recipe"])), arguments.cache)
        images = np.asarray(pixels[training_sample(split.train)])
        parity = export(arguments.run, arguments.out, images, summary)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{arguments.out}: probabilities within {parity['fp32']:.1e} (fp32), {parity['int8']:.1e} (int8)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
