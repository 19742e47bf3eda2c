"""Whether a model folder may be published: complete, measured, without pickles, and the same answers on every road.

The roads are those of the card: ONNX Runtime through `Classifier`, a stock `transformers` pipeline and timm.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.images import ImageSource
from blastlens.integrity import PICKLE_SUFFIXES
from blastlens.model_folder import GATE_FEATURES, JSON_FILES, NETWORKS, PRECISIONS, ModelFolder
from blastlens.synthetic_images import draw_cell, draw_field
from train import modeling_blastlens

CODE = Path(modeling_blastlens.__file__)
NEEDED = ("config.json", "model.safetensors", PRECISIONS["fp32"], "metrics.json")
# All that a model folder may hold. Anything else is there by mistake, or should not be on the Hub.
NAMES = frozenset(
    {
        *JSON_FILES,
        GATE_FEATURES,
        *NETWORKS.values(),
        "README.md",
        "figures/noise.png",
        "figures/calibration.png",
        "figures/robustness.png",
        CODE.name,
    }
)
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


def model_files(folder: Path) -> dict[str, Path]:
    """The files of a model folder that are published, by their path in it; hidden ones are not.

    Raises:
        BlastlensError: a file is missing, does not belong there, or is a link.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith((".", "__pycache__")) for part in name.split("/")):
            continue
        if path.is_symlink():
            raise BlastlensError(f"{path} is a link; put the file itself there.")
        if path.is_dir():
            continue
        if path.suffix.lower() in PICKLE_SUFFIXES:
            raise BlastlensError(f"{path} may run code when it is loaded; publish safetensors and ONNX only.")
        if name not in NAMES:
            raise BlastlensError(f"{path} is no file of a model folder; move it elsewhere.")
        files[name] = path
    for name in NEEDED:
        if name not in files:
            raise BlastlensError(f"{folder} has no {name}; export and evaluate the model first (see README.md).")
    if CODE.name in files and files[CODE.name].read_bytes() != CODE.read_bytes():
        raise BlastlensError(f"{files[CODE.name]} is not this project's {CODE.name}; export the model again.")
    return files


def require_measured(folder: ModelFolder) -> None:
    """Raises BlastlensError unless metrics.json holds a measurement on held-out images, of this very model."""
    metrics = folder.metrics
    if not metrics.get("protocols") or not metrics.get("headline"):
        raise BlastlensError(f"metrics.json of {folder.model_id} holds no measurement; run `python -m train.evaluate`.")
    again = "evaluate it again by `python -m train.evaluate`"
    if metrics.get("label_names") != list(folder.label_names):
        raise BlastlensError(f"metrics.json of {folder.model_id} has other labels than config.json; {again}.")
    if folder.gate and folder.gate.incomplete:
        raise BlastlensError(
            f"gate.json of {folder.model_id} names {GATE_FEATURES}, which is missing: `python -m train.evaluate`."
        )
    for name, file in NETWORKS.items():  # those that metrics.json knows were compared when the folder was read
        if (folder.path / file).is_file() and name not in (metrics.get("sha256") or {}):
            raise BlastlensError(f"{file} of {folder.model_id} is not one that metrics.json measured; {again}.")


def require_own_code(folder: ModelFolder) -> None:
    """Raises BlastlensError where loading it would run any code but this project's, which `model_files` compares."""
    named = folder.config.get("auto_map")
    references = list(named.values()) if isinstance(named, dict) else [named]
    ours = all(isinstance(one, str) and re.fullmatch(rf"{CODE.stem}\.\w+", one) for one in references)
    if ("auto_map" in folder.config and not (ours and (folder.path / CODE.name).is_file())) or (
        "custom_pipelines" in folder.config
    ):
        raise BlastlensError(f"config.json of {folder.model_id} names code that is not {CODE.name}; export it again.")


def answers(path: Path, model_id: str | None = None) -> Answers:
    """Load a folder on every road and ask the same images.

    Raises:
        BlastlensError: a road does not load it, or the answers differ by more than TOLERANCE.
    """
    folder = ModelFolder.load(path, model_id)
    require_own_code(folder)
    images = images_for(folder)
    roads: dict[str, Any] = {"ONNX Runtime": _onnx, "transformers": _pipeline}
    if "auto_map" not in folder.config:  # timm has no words for a network that brings its own code
        roads["timm"] = _timm
    found = Answers({road: _asked(folder, road, ask, images) for road, ask in roads.items()})
    if not found.spread <= TOLERANCE:  # NaN, too
        raise BlastlensError(
            f"{folder.model_id} answers differently in {', '.join(roads)}: up to {found.spread:.2g} in a probability; "
            "export it again."
        )
    if folder.onnx_file("int8").is_file():
        Classifier(folder, "int8").predict(images)
    return found


def _asked(folder: ModelFolder, road: str, ask: Any, images: list[ImageSource]) -> np.ndarray:
    try:
        return np.asarray(ask(folder, images))
    except Exception as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    # Outside of the handler: what a client raised may hold the token, so it is not even the context.
    raise BlastlensError(f"{folder.model_id} does not load in {road} ({said}); export it again.")


def images_for(folder: ModelFolder) -> list[ImageSource]:
    """Drawn images of the model's kind where there are any, and coloured clouds, of the size the network sees.

    Framing and resizing are the image processor's business, and timm's transform knows nothing of the former.
    """
    size = folder.view.size
    coarse = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    clouds = [Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC) for pixels in coarse]
    draw = DRAWN.get(folder.label_names)
    return clouds + [draw(label, seed, size) for label in folder.label_names if draw for seed in (1, 2)]


def _onnx(folder: ModelFolder, images: list[ImageSource]) -> np.ndarray:
    return np.array([list(answer.probabilities.values()) for answer in Classifier(folder).predict(images)])


def _pipeline(folder: ModelFolder, images: list[ImageSource]) -> np.ndarray:
    from huggingface_hub.utils import enable_progress_bars
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()  # transformers has switched off those of uploads, too
    trusted = {"trust_remote_code": True} if "auto_map" in folder.config else {}  # see `require_own_code`
    classify = pipeline("image-classification", model=str(folder.path), **trusted)
    given = [{row["label"]: row["score"] for row in answer} for answer in classify(images, top_k=None)]
    return np.array([[row[label] for label in folder.label_names] for row in given])


def _timm(folder: ModelFolder, images: list[ImageSource]) -> np.ndarray:
    import timm
    import torch

    network = timm.create_model(f"local-dir:{folder.path}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        return network(torch.stack([transform(image) for image in images])).softmax(1).double().numpy()
