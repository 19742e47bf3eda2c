"""The files of a model folder, from the network of a finished run; `train.export` is the command."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blastlens import inference, metrics
from blastlens.errors import BlastlensError
from blastlens.files import whole_folder, write_json, writing
from blastlens.integrity import digests
from blastlens.model_folder import RECORDED
from blastlens.view import View
from train import modeling_blastlens
from train.calibration import Scaling
from train.modeling_blastlens import BlastlensConfig, BlastlensForImageClassification
from train.networks import classifier_name, create_network, fold_head
from train.quantise import onnx_logits, write_int8
from train.recipe import OURS, Preprocess, Recipe, view_of
from train.results import training_of

PARITY = 1e-4  # largest difference in probability between the torch network and its fp32 ONNX file


class ExportGraph(nn.Module):
    """The exported graph of a network. `outputs`: "logits"; "features", what the last linear layer sees; and, for
    networks that end in global average pooling and that layer, "cam", the class activation map (Zhou et al. 2016)."""

    def __init__(self, network: nn.Module, outputs: Sequence[str] = ("logits",)):
        super().__init__()
        self.network, self.outputs = network, outputs
        self.linear = network.get_classifier() if len(outputs) > 1 else None

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...] | Tensor:
        maps = self.network.forward_features(pixel_values)
        if "cam" in self.outputs:
            cam = nn.functional.conv2d(maps, self.linear.weight[:, :, None, None], self.linear.bias)
            return self.network.forward_head(maps), cam, maps.mean((2, 3))
        if "features" in self.outputs:
            features = self.network.forward_head(maps, pre_logits=True)
            return self.linear(features), features
        return self.network.forward_head(maps)


@torch.inference_mode()
def as_graph(network: nn.Module, size: int) -> ExportGraph:
    """Return the graph with the most outputs that a network can give, found by running it: timm's heads come in too
    many kinds to list."""
    probe = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    expected = ExportGraph(network).eval()(probe)
    for outputs in (("logits", "cam", "features"), ("logits", "features")):
        try:
            graph = ExportGraph(network, outputs).eval()
            found = dict(zip(outputs, graph(probe), strict=True))
        except (AttributeError, RuntimeError, TypeError):
            continue
        maps = found.get("cam")
        logits = found["logits"] if maps is None else maps.mean((2, 3)) if maps.ndim == 4 else torch.empty(0)
        right = logits.shape == expected.shape and torch.allclose(logits, expected, rtol=1e-3, atol=1e-4)
        if right and found["features"].ndim == 2:
            return graph
    return ExportGraph(network).eval()


def needs_code(recipe: Recipe) -> bool:
    """Whether the exported folder needs custom code because timm cannot express the recipe."""
    return recipe.backbone in OURS or bool(recipe.head.hidden) or recipe.preprocess != Preprocess()


def load_network(run: Path, scaling: Scaling | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The trained network of a finished run as it is served, its head folded, and the run's record."""
    if not (record := _read(run / "run.json")):
        raise BlastlensError(f"{run} is not a finished run: it has no run.json.")
    recipe, names = Recipe.of_record(record), record["label_names"]
    network = create_network(recipe, len(names), "scratch")
    network.load_state_dict(load_file(run / "model.safetensors"))
    fold_head(network, scaling)
    return as_served(network.eval(), recipe, names), record


def as_served(network: nn.Module, recipe: Recipe, label_names: Sequence[str]) -> nn.Module:
    """The network itself where a plain timm folder can hold it, else the transformers model around it."""
    if not needs_code(recipe):
        return network
    config = BlastlensConfig(**config_json(network, recipe, label_names, view_of(recipe)))
    served = BlastlensForImageClassification(config)
    served.network.load_state_dict(network.state_dict())
    return served.eval()


def config_json(network: nn.Module, recipe: Recipe, label_names: Sequence[str], view: View) -> dict[str, Any]:
    """timm's config.json, in the form that both timm and transformers' TimmWrapper accept; with what custom code
    reads where the recipe needs it. `network` is the bare one, in evaluation mode."""
    known, own = network.pretrained_cfg, needs_code(recipe)
    with torch.inference_mode():
        features = network.forward_features(torch.zeros(1, 3, view.size, view.size))
    pool = getattr(network, "global_pool", None)  # a word in transformers, a module in convolutional networks
    config: dict[str, Any] = {
        "architecture": recipe.backbone,
        "num_classes": len(label_names),
        "num_features": network.num_features,
        "global_pool": pool if isinstance(pool, str) else "avg",
        "label_names": list(label_names),
        "pretrained_cfg": {
            "tag": recipe.name,
            "custom_load": False,
            "input_size": [3, view.size, view.size],
            "fixed_input_size": bool(known.get("fixed_input_size")),
            "interpolation": view.interpolation,
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(view.mean),
            "std": list(view.std),
            "num_classes": len(label_names),
            "pool_size": list(features.shape[2:]) if features.ndim == 4 else None,
            "first_conv": known["first_conv"],
            "classifier": classifier_name(network),
        },
    }
    if own:
        code, model = modeling_blastlens.__name__.rpartition(".")[2], BlastlensForImageClassification.__name__
        config |= {
            "model_type": BlastlensConfig.model_type,
            "architectures": [model],
            "auto_map": {
                "AutoConfig": f"{code}.{BlastlensConfig.__name__}",
                "AutoModelForImageClassification": f"{code}.{model}",
            },
            "id2label": {str(i): name for i, name in enumerate(label_names)},
            "label2id": {name: i for i, name in enumerate(label_names)},
            "hidden": list(recipe.head.hidden),
            "enhance": asdict(recipe.preprocess) if recipe.preprocess != Preprocess() else None,
        }
    elif config["pretrained_cfg"]["fixed_input_size"]:
        config["model_args"] = {"img_size": view.size}
    if view.frame:
        # Read by AutoImageProcessor for local timm folders, which otherwise never look at preprocessor_config.json.
        config["image_processor_type"] = "DonutImageProcessor"
    return config


def preprocessor_json(view: View) -> dict[str, Any]:
    """Framing of single cells as a stock transformers processor.

    Donut's is the one whose steps depend on an image's absolute size: a 450 px frame as published is shrunk, an
    already prepared one is left alone, both end in the same centre crop. timm's own transform cannot express that.
    """
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
    """Export to ONNX with a free batch dimension, constants folded, with the outputs of `as_graph`."""
    graph = as_graph(network.eval(), size)
    torch.onnx.export(
        graph,
        (torch.zeros(2, 3, size, size),),
        str(path),
        input_names=["pixel_values"],
        output_names=list(graph.outputs),
        dynamic_axes={name: {0: "batch"} for name in ("pixel_values", *graph.outputs)},
        opset_version=18,
        dynamo=False,
    )
    onnx.checker.check_model(str(path))


@torch.inference_mode()
def torch_logits(network: nn.Module, images: np.ndarray) -> np.ndarray:
    """Logits (N, C) of normalised images (N, 3, H, W) from a timm model or a transformers one."""
    outputs = [network(torch.from_numpy(images[i : i + 8])) for i in range(0, len(images), 8)]
    return np.concatenate([(y if isinstance(y, Tensor) else y.logits).numpy() for y in outputs])


def export(run: Path, out: Path, images: np.ndarray, summary: dict[str, Any] | None) -> dict[str, float]:
    """Write the model folder, at the end in place of an old one; returns the largest differences in probability to the
    torch network.

    Args:
        images: (N, size, size, 3) uint8 of training images; they calibrate the int8 file and check both.
        summary: summary.json of the cross-validation, whose calibration is folded in.

    Raises:
        BlastlensError: the fp32 file differs by more than `PARITY`, or nothing can be written.
    """
    network, record = load_network(run, Scaling(**summary["scaling"]) if summary else None)
    recipe = Recipe.of_record(record)
    view = view_of(recipe)
    batch = inference.normalise(view, images)
    with whole_folder(out) as part, writing(out):
        (part / "onnx").mkdir()
        bare = network.network if needs_code(recipe) else network
        write_json(part / "config.json", config_json(bare, recipe, record["label_names"], view), indent=2)
        if needs_code(recipe):
            shutil.copy(modeling_blastlens.__file__, part)
        if view.frame:
            write_json(part / "preprocessor_config.json", preprocessor_json(view), indent=2)
        save_file({k: v.contiguous() for k, v in network.state_dict().items()}, part / "model.safetensors")
        write_onnx(network, part / "onnx/model.onnx", view.size)
        write_int8(part / "onnx/model.onnx", part / "onnx/model_int8.onnx", batch)
        expected = metrics.softmax(torch_logits(network, batch))
        parity = {
            name: float(np.abs(metrics.softmax(onnx_logits(part / "onnx" / file, batch)) - expected).max())
            for name, file in (("fp32", "model.onnx"), ("int8", "model_int8.onnx"))
        }
        if not parity["fp32"] <= PARITY:  # NaN, too
            raise BlastlensError(f"The ONNX file's probabilities differ by {parity['fp32']:.2g}, more than {PARITY}.")
        for name in ("gate.json", "README.md"):
            # A detector that uses the features of another network is not this one's.
            if (out / name).exists() and not (name == "gate.json" and "features" in _read(out / name)):
                shutil.copy(out / name, part / name)
        files = {"label_names": list(record["label_names"]), "sha256": digests(part, RECORDED)}
        earlier = _read(out / "metrics.json")
        if all(earlier.get(key) == value for key, value in files.items()):
            shutil.copy(out / "metrics.json", part)
        else:  # figures of another network are not this one's
            blank = {"schema": 1, "model": out.name, **files, "protocols": [], "training": training_of(record)}
            write_json(part / "metrics.json", blank, indent=2)
    return parity


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}
