"""Whether a model folder may be published: complete, measured, without pickles, and the same answers on every road.

The roads are those of the card: ONNX Runtime through `Classifier`, a stock `transformers` pipeline and timm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blastlens import Classifier
from blastlens.drawn import draw_cell, draw_field
from blastlens.errors import BlastlensError
from blastlens.model_folder import PICKLE_SUFFIXES, PRECISIONS, ModelFolder
from train import modeling_blastlens

NEEDED = ("config.json", "model.safetensors", PRECISIONS["fp32"], "metrics.json")
SUFFIXES = (".json", ".safetensors", ".onnx", ".md", ".png", ".svg")
CODE = Path(modeling_blastlens.__file__)
TOLERANCE = 1e-4  # of a probability, between two roads
DRAWN = {("ALL", "HEM"): draw_cell, ("Benign", "Early", "Pre", "Pro"): draw_field}


@dataclass(frozen=True)
class Answers:
    """What a folder answers to the same N images on each road: float (N, C) probabilities."""

    by_road: dict[str, np.ndarray]

    @property
    def spread(self) -> float:
        """The largest difference of a probability between two roads."""
        stacked = np.stack(list(self.by_road.values()))
        return float((stacked.max(axis=0) - stacked.min(axis=0)).max())

    def difference(self, other: "Answers") -> float:
        """The largest difference of a probability to other answers, road by road."""
        return max(float(np.abs(answers - other.by_road[road]).max()) for road, answers in self.by_road.items())

    def sentence(self) -> str:
        """In words: which roads, how many images, how close."""
        images = len(next(iter(self.by_road.values())))
        return f"{', '.join(self.by_road)}: same answers to {images} images within {self.spread:.1e}"


def model_files(folder: Path) -> list[Path]:
    """The files of a model folder that are published, sorted; hidden ones are not.

    Raises:
        BlastlensError: a file is missing, or one does not belong there.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not _hidden(path.relative_to(folder)))
    names = [path.relative_to(folder).as_posix() for path in files]
    for name in NEEDED:
        if name not in names:
            raise BlastlensError(f"{folder} has no {name}; export and evaluate the model first (see README.md).")
    for path, name in zip(files, names, strict=True):
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise BlastlensError(f"{folder / name} may run code when it is loaded; publish safetensors and ONNX only.")
        if path.name == CODE.name:
            if path.read_bytes() != CODE.read_bytes():
                raise BlastlensError(f"{folder / name} is not this project's {CODE.name}; export the model again.")
        elif path.suffix.lower() not in SUFFIXES:
            raise BlastlensError(f"{folder / name} is no file of a model folder; move it elsewhere.")
    return files


def require_measured(folder: ModelFolder) -> None:
    """Raises BlastlensError unless metrics.json holds a measurement of this model on held-out images."""
    if not folder.metrics.get("protocols") or not folder.metrics.get("headline"):
        raise BlastlensError(f"{folder.path}/metrics.json holds no measurement; run `python -m train.evaluate` first.")


def answers(path: Path, model_id: str | None = None) -> Answers:
    """Load a folder on every road and ask the same images.

    Raises:
        BlastlensError: a road does not load it, or the answers differ by more than TOLERANCE.
    """
    folder = ModelFolder.load(path, model_id)
    images = images_for(folder)
    roads: dict[str, Any] = {"ONNX Runtime": _onnx, "transformers": _pipeline}
    if "auto_map" not in folder.config:  # timm has no words for a network that brings its own code
        roads["timm"] = _timm
    by_road = {}
    for road, ask in roads.items():
        try:
            by_road[road] = ask(folder, images)
        except Exception as error:
            raise BlastlensError(f"{path} does not load in {road}: {type(error).__name__}: {error}") from error
    found = Answers(by_road)
    if not found.spread <= TOLERANCE:  # NaN, too
        raise BlastlensError(
            f"{path} answers differently in {', '.join(by_road)}: up to {found.spread:.2g} in a probability; "
            "export it again."
        )
    if folder.onnx_file("int8").is_file():
        Classifier(folder, "int8").predict(images)
    return found


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in path.parts)


def images_for(folder: ModelFolder) -> list[Image.Image]:
    """Drawn images of the model's kind where there are any, and coloured clouds, of the size the network sees.

    Framing and resizing are the image processor's business, and timm's transform knows nothing of the former.
    """
    size = folder.view.size
    coarse = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    clouds = [Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC) for pixels in coarse]
    draw = DRAWN.get(folder.label_names)
    return clouds + [draw(label, seed, size) for label in folder.label_names if draw for seed in (1, 2)]


def _onnx(folder: ModelFolder, images: Sequence[Image.Image]) -> np.ndarray:
    return np.array([list(answer.probabilities.values()) for answer in Classifier(folder).predict(list(images))])


def _pipeline(folder: ModelFolder, images: Sequence[Image.Image]) -> np.ndarray:
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    trusted = {"trust_remote_code": True} if "auto_map" in folder.config else {}  # `model_files` has compared it
    classify = pipeline("image-classification", model=str(folder.path), **trusted)
    given = [{row["label"]: row["score"] for row in answer} for answer in classify(list(images), top_k=None)]
    return np.array([[row[label] for label in folder.label_names] for row in given])


def _timm(folder: ModelFolder, images: Sequence[Image.Image]) -> np.ndarray:
    import timm
    import torch

    network = timm.create_model(f"local-dir:{folder.path}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        return network(torch.stack([transform(image) for image in images])).softmax(1).double().numpy()
