"""Publish a model folder: checked, with its card rendered for its address, and verified after the download.

What is published is complete, measured and without pickles, and gives the same probabilities in every runtime that its
card names: ONNX Runtime, a stock `transformers` pipeline and timm.
"""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.model_folder import JSON_FILES, NETWORKS, OOD_FEATURES, PRECISIONS, ModelFolder
from blastlens.synthetic_images import synthetic_image
from publish.hub_client import Hub
from publish.upload import Upload, publish
from train import card, modeling_blastlens

Outputs = dict[str, NDArray[np.float64]]  # runtime -> probabilities (images, classes)

MARKER = "metrics.json"
CODE = Path(modeling_blastlens.__file__)
REQUIRED = ("config.json", "model.safetensors", PRECISIONS["fp32"], "metrics.json")
# All that a model folder may hold. Anything else is there by mistake, or should not be on the Hub.
FIGURES = ("figures/noise.png", "figures/calibration.png")
ALLOWED = frozenset({*JSON_FILES, OOD_FEATURES, *NETWORKS.values(), "README.md", *FIGURES, CODE.name})
TOLERANCE = 1e-4  # of a probability, between two runtimes


def publish_model(hub: Hub, copy: Path, upload: Upload) -> str | None:
    """Publish a staged copy, and compare the outputs of what comes back with its own; returns the commit.

    Raises:
        BlastlensError: what failed, and what the repository holds now.
    """
    outputs = compare_runtimes(hub, copy)

    def inspect(folder: Path) -> None:
        fetched = runtime_outputs(folder, upload.repo_id)
        difference = max(float(np.abs(fetched[name] - outputs[name]).max()) for name in outputs)
        if not difference <= TOLERANCE:
            raise BlastlensError(f"What came back of {upload} has other outputs (by {difference:.2g}); do not use it.")
        hub.log("the downloaded model has the same outputs in every runtime")

    return publish(hub, upload, inspect)


def compare_runtimes(hub: Hub, folder: Path) -> Outputs:
    """`runtime_outputs`, with a line about how far they agree."""
    outputs = runtime_outputs(folder)
    count = len(outputs["ONNX Runtime"])
    hub.log(f"{', '.join(outputs)}: same outputs for {count} images within {largest_difference(outputs):.1e}")
    return outputs


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary copy of the files that are published: what is checked is what is uploaded.

    Raises:
        BlastlensError: the folder is incomplete, or holds what does not belong there.
    """
    if not folder.is_dir():
        raise BlastlensError(f"{folder} is not a folder; a model folder such as models/NAME is expected.")
    names = model_files(folder)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / folder.resolve().name
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(folder / name, copy / name)
        yield copy


def model_upload(copy: Path, repo_id: str, **options: Any) -> Upload:
    """Everything that the repository of a staged copy is to hold.

    The card is rendered for `repo_id`, so that its code examples run as they are; all other files stay the same.

    Args:
        options: fields of `Upload`.

    Raises:
        BlastlensError: the model is not measured, or its metrics do not make a card.
    """
    require_measured(ModelFolder.load(copy))
    files = {name: (copy / name).read_bytes() for name in model_files(copy)} | card.render(copy, repo_id)
    return Upload(repo_id, files, f"{copy.name}, as exported and measured", MARKER, owned=ALLOWED, **options)


def model_files(folder: Path) -> list[str]:
    """Paths of the files of a model folder that are published; hidden ones are not.

    Raises:
        BlastlensError: a file is missing, does not belong there, or is a link.
    """
    names = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(part.startswith((".", "__pycache__")) for part in name.split("/")):
            continue
        if path.is_symlink():
            raise BlastlensError(f"{path} is a link; put the file itself there.")
        if path.is_dir():
            continue
        if name not in ALLOWED:
            raise BlastlensError(f"{path} does not belong in a model folder; move it elsewhere.")
        names.append(name)
    for name in REQUIRED:
        if name not in names:
            raise BlastlensError(f"{folder} has no {name}; export and evaluate the model first.")
    if CODE.name in names and (folder / CODE.name).read_bytes() != CODE.read_bytes():
        raise BlastlensError(f"{folder / CODE.name} is not this project's {CODE.name}; export the model again.")
    return names


def require_measured(folder: ModelFolder) -> None:
    """Raises BlastlensError unless metrics.json holds a measurement on held-out images of these very files."""
    metrics = folder.metrics
    # ModelFolder.load has compared the files whose digest is recorded.
    unknown = [file for key, file in NETWORKS.items() if key not in (metrics.get("sha256") or {})]
    problems = {
        "metrics.json holds no measurement": not (metrics.get("protocols") and metrics.get("headline")),
        "metrics.json has other labels than config.json": metrics.get("label_names") != list(folder.label_names),
        f"there is no {OOD_FEATURES}, which gate.json names": folder.ood_detector and folder.ood_detector.incomplete,
        **{f"metrics.json did not measure {file}": (folder.path / file).is_file() for file in unknown},
    }
    for problem, found in problems.items():
        if found:
            raise BlastlensError(f"{folder.model_id} is not measured: {problem}; run `python -m train.evaluate`.")


def runtime_outputs(path: Path, model_id: str | None = None) -> Outputs:
    """Load a model folder in every runtime and classify the same images.

    Raises:
        BlastlensError: a runtime does not load it, or the probabilities differ by more than TOLERANCE.
    """
    folder = ModelFolder.load(path, model_id)
    _require_own_code(folder)
    images = probe_images(folder)
    runtimes = {"ONNX Runtime": _onnx, "transformers": _transformers}
    if "auto_map" not in folder.config:  # timm cannot load a network that brings its own code
        runtimes["timm"] = _timm
    outputs = {name: _run(folder, name, predict, images) for name, predict in runtimes.items()}
    difference = largest_difference(outputs)
    if not difference <= TOLERANCE:  # NaN, too
        names = ", ".join(outputs)
        raise BlastlensError(
            f"The outputs of {folder.model_id} differ in {names} (by {difference:.2g}); export it again."
        )
    if folder.onnx_file("int8").is_file():
        Classifier(folder, "int8").predict(images)
    return outputs


def largest_difference(outputs: Outputs) -> float:
    """The largest difference of a probability between two runtimes; NaN if one is NaN."""
    stacked = np.stack(list(outputs.values()))
    return float((stacked.max(axis=0) - stacked.min(axis=0)).max())


def probe_images(folder: ModelFolder) -> list[Image.Image]:
    """Coloured clouds, and synthetic images of the model's kind if there are any, at the network's input size.

    At that size no runtime crops or resizes, which timm's transform does differently.
    """
    size = folder.view.size
    coarse = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    clouds = [Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC) for pixels in coarse]
    synthetic = [synthetic_image(label, seed) for label in folder.known_labels for seed in (1, 2)]
    return clouds + [image.resize((size, size), Image.Resampling.LANCZOS) for image in synthetic]


def _require_own_code(folder: ModelFolder) -> None:
    """Raises BlastlensError if loading the folder would run any code but this project's."""
    named = folder.config.get("auto_map", {})
    references = list(named.values()) if isinstance(named, dict) else [named]
    ours = all(isinstance(one, str) and re.fullmatch(rf"{CODE.stem}\.\w+", one) for one in references)
    if "custom_pipelines" in folder.config or not ours or (references and not (folder.path / CODE.name).is_file()):
        raise BlastlensError(f"config.json of {folder.model_id} names code that is not {CODE.name}; export it again.")


def _run(folder: ModelFolder, name: str, predict: Callable[..., Any], images: list[Image.Image]) -> NDArray[np.float64]:
    try:
        return np.asarray(predict(folder, images))
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    # Outside of the handler: an exception of the Hub's client may hold the token.
    raise BlastlensError(f"{folder.model_id} does not load in {name} ({reason}); export it again.")


def _onnx(folder: ModelFolder, images: list[Image.Image]) -> NDArray[np.float64]:
    return np.array([list(one.probabilities.values()) for one in Classifier(folder).predict(images)])


def _transformers(folder: ModelFolder, images: list[Image.Image]) -> NDArray[np.float64]:
    from huggingface_hub.utils import enable_progress_bars
    from transformers import pipeline
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    enable_progress_bars()  # transformers has switched off those of uploads, too
    code = {"trust_remote_code": True} if "auto_map" in folder.config else {}  # see `_require_own_code`
    classify = pipeline("image-classification", model=str(folder.path), **code)
    scores = [{row["label"]: row["score"] for row in rows} for rows in classify(images, top_k=None)]
    return np.array([[row[label] for label in folder.label_names] for row in scores])


def _timm(folder: ModelFolder, images: list[Image.Image]) -> NDArray[np.float64]:
    import timm
    import torch

    network = timm.create_model(f"local-dir:{folder.path}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    with torch.inference_mode():
        return network(torch.stack([transform(image) for image in images])).softmax(1).double().numpy()
