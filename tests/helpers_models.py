"""Throw-away model folders: untrained, seeded networks in the form that is served, in about a second each."""

import functools
import hashlib
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from PIL import Image
from safetensors.torch import save_file

LABELS = {"cell": ["ALL", "HEM"], "field": ["Benign", "Early", "Pre", "Pro"]}
# timm's own test network has 0.1 million parameters and ends, as MobileNet does, in average pooling and one
# linear layer.
ARCHITECTURE = "test_efficientnet"
SIZE = 224
FRAME = 314


def make_model_folder(path: str | Path, kind: str = "cell", seed: int = 0) -> Path:
    """Write a model folder for single cells ("cell", 2 classes) or fields ("field", 4) and return its path.

    The weights are random; the batch norms and the head are then scaled on `blobs`, so that the logits of
    different blobs differ by about 1 and each label is the answer to some.
    """
    path = Path(path)
    (path / "onnx").mkdir(parents=True)
    model = _network(len(LABELS[kind]), seed)
    save_file(model.state_dict(), path / "model.safetensors", metadata={"format": "pt"})
    write_json(path / "config.json", config_json(kind))
    if kind == "cell":
        write_json(path / "preprocessor_config.json", PREPROCESSOR)
    write_json(path / "metrics.json", {"schema": 1, "model": path.name, "protocols": []})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its successor
        torch.onnx.export(
            _LogitsCamAndFeatures(model),
            (torch.zeros(1, 3, SIZE, SIZE),),
            str(path / "onnx/model.onnx"),
            dynamo=False,
            input_names=["pixel_values"],
            output_names=["logits", "cam", "features"],
            dynamic_axes={name: {0: "N"} for name in ("pixel_values", "logits", "cam", "features")},
        )
    quantize_dynamic(path / "onnx/model.onnx", path / "onnx/model_int8.onnx", weight_type=QuantType.QUInt8)
    return path


def bundled_record(kind: str, name: str = "metrics.json") -> dict[str, Any]:
    """A JSON file of the bundled model of a kind."""
    model = {"cell": "mobilenetv1-cnmc2019", "field": "mobilenetv2-aria2021"}[kind]
    return json.loads((Path(__file__).parents[1] / "models" / model / name).read_text(encoding="utf-8"))


def write_record(folder: Path, kind: str) -> Path:
    """Give a folder the metrics.json of the bundled model of its kind, as if that had been measured of it."""
    record = bundled_record(kind)
    files = {"fp32": "onnx/model.onnx", "int8": "onnx/model_int8.onnx", "safetensors": "model.safetensors"}
    digests = {name: hashlib.sha256((folder / file).read_bytes()).hexdigest() for name, file in files.items()}
    record.pop("external", None)  # that is about other weights
    write_json(folder / "metrics.json", record | {"model": folder.name, "sha256": digests})
    return folder


@functools.cache
def shared_model_folder(kind: str = "cell") -> Path:
    """One folder per kind for the whole session, tiny-<kind>; tests that change files make their own."""
    return make_model_folder(Path(_shared_root().name) / f"tiny-{kind}", kind)


@functools.cache
def _shared_root() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")


class _LogitsCamAndFeatures(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.model.forward_features(pixel_values)
        linear = self.model.get_classifier()
        cam = torch.nn.functional.conv2d(features, linear.weight[:, :, None, None], linear.bias)
        return self.model.forward_head(features), cam, features.mean((2, 3))


@torch.no_grad()
def _network(classes: int, seed: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = timm.create_model(ARCHITECTURE, num_classes=classes)
        images = torch.stack([torch.from_numpy(blobs(n)).permute(2, 0, 1) / 127.5 - 1 for n in range(16)])
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # running statistics become those of the one batch that follows
        model.train()(images)
        model.eval()
        logits = model(images)
        head = model.get_classifier()
        head.weight /= logits.std(0)[:, None]
        head.bias.copy_(-(logits.mean(0) / logits.std(0)))
    return model


def config_json(kind: str) -> dict[str, Any]:
    labels = LABELS[kind]
    cell_only = {"image_processor_type": "DonutImageProcessor"} if kind == "cell" else {}
    return cell_only | {
        "architecture": ARCHITECTURE,
        "num_classes": len(labels),
        "num_features": 256,
        "global_pool": "avg",
        "label_names": labels,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, SIZE, SIZE],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
            "num_classes": len(labels),
            "pool_size": [7, 7],
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }


PREPROCESSOR = {
    "image_processor_type": "DonutImageProcessor",
    "do_resize": False,
    "do_thumbnail": True,
    "do_align_long_axis": False,
    "size": {"height": FRAME, "width": FRAME},
    "resample": 3,
    "do_pad": True,
    "do_center_crop": True,
    "crop_size": {"height": SIZE, "width": SIZE},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def blobs(seed: int, width: int = SIZE, height: int = SIZE) -> np.ndarray:
    """A smooth, colourful random image, uint8 (height, width, 3); white noise looks alike to a network."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
