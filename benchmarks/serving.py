"""How fast models are served, as ratios to a reference measured in the same run.

Both sides of a pair are measured in turns, so that a machine that changes its speed changes both; the figure is the
median of the ratios. The references are what a careful user would write: `transformers.pipeline` on the same folder,
and ONNX Runtime with its own settings on tensors that are ready ("bare").
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image
from tqdm.auto import tqdm

from benchmarks.common import (
    Figure,
    Spread,
    Target,
    is_cell_model,
    machine,
    prepared_images,
    raw_images,
    shown,
    spread,
    table,
)
from blastlens import Classifier
from blastlens.corruptions import CURVE_SIGMAS
from blastlens.inference import normalise, usable_cores
from blastlens.model_folder import PRECISIONS

TITLE = "Predictions"
TARGETS = {
    "image_vs_pipeline_fp32": Target(0.40),
    "image_vs_pipeline_int8": Target(0.25),
    "image_vs_bare_fp32": Target(1.35),
    "curve_vs_bare_fp32": Target(0.9),
    "bulk_vs_bare_fp32": Target(0.85, at_least=True),
    "bulk_vs_pipeline_fp32": Target(4, at_least=True),
}
IMPORT_TARGET = Target(0.6)
NAMES = {
    "image_vs_pipeline": "one image file, `Classifier.predict` / `transformers.pipeline`, time",
    "image_vs_bare": "one image file, `Classifier.predict` / bare ONNX Runtime, time",
    "curve_vs_bare": f"noise curve of {len(CURVE_SIGMAS)} levels / {len(CURVE_SIGMAS)} bare runs, time",
    "bulk_vs_bare": "batch scoring / bare ONNX Runtime batches, images per second",
    "bulk_vs_pipeline": "batch scoring / `pipeline(..., batch_size=32)`, images per second",
}
BARE_BATCHES = (1, 8, 32)  # the fastest is the reference
ROUNDS, IMAGES = 9, 256


def compare(
    ours: Callable[[], Any], reference: Callable[[], Any], rounds: int, calls: int, of_rates: bool = False
) -> dict[str, Spread]:
    """Seconds of two functions called in turns, and their ratios; medians of `calls` calls in each of the rounds.

    Args:
        of_rates: the ratio is that of the calls per second.
    """
    found: dict[str, list[float]] = {"ours_s": [], "theirs_s": [], "ratio": []}
    for function in (ours, reference):
        function()
    for _ in range(rounds):
        mine, theirs = (median(_seconds(function) for _ in range(calls)) for function in (ours, reference))
        found["ours_s"].append(mine)
        found["theirs_s"].append(theirs)
        found["ratio"].append(theirs / mine if of_rates else mine / theirs)
    return {name: spread(values) for name, values in found.items()}


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure_model(model: str, precision: str, images: Sequence[Path], prepared: Sequence[Path], rounds: int) -> Any:
    """Every figure in `NAMES` of one model.

    Args:
        images: files to open for each prediction. prepared: files of the network's input size, for batches.
    """
    from datasets import load_dataset
    from transformers import pipeline
    from transformers.pipelines.pt_utils import KeyDataset

    from blastlens.batch_scoring.score import Command, score

    classifier = Classifier.from_pretrained(model, precision=precision)
    folder = classifier.folder
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    session = ort.InferenceSession(str(folder.onnx_file(precision)), options, providers=["CPUExecutionProvider"])
    ready = normalise(folder.view, np.stack([classifier.pixels(path) for path in islice(cycle(images), 32)]))
    classify = pipeline("image-classification", model=str(folder.path))
    path = str(images[0])

    def bare(batch: int = 1) -> None:
        session.run(["logits"], {"pixel_values": ready[:batch]})

    def bare_batches(size: int) -> None:
        for start in range(0, len(prepared), size):
            bare(min(size, len(prepared) - start))

    found = {
        "image_vs_pipeline": compare(lambda: classifier.predict(path), lambda: classify(path), rounds, 15),
        "image_vs_bare": compare(lambda: classifier.predict(path), bare, rounds, 25),
        "curve_vs_bare": compare(
            lambda: classifier.curve(path, levels=CURVE_SIGMAS), lambda: [bare() for _ in CURVE_SIGMAS], rounds, 3
        ),
    }
    best = min(BARE_BATCHES, key=lambda size: _seconds(lambda: bare_batches(size)))
    with TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "images", Path(temporary) / "out.parquet"
        source.mkdir()
        for number, image in enumerate(prepared):
            shutil.copy(image, source / f"{number:06d}{image.suffix}")
        cache = str(Path(temporary) / "hf")
        dataset = load_dataset("imagefolder", data_dir=str(source), split="train", cache_dir=cache)

        def batch_scoring() -> None:
            score(Command((str(source),), model=model, precision=precision), out, overwrite=True)

        def batched_pipeline() -> None:
            list(classify(KeyDataset(dataset, "image"), batch_size=32))

        references = {"bulk_vs_bare": lambda: bare_batches(best), "bulk_vs_pipeline": batched_pipeline}
        for name, reference in references.items():
            found[name] = compare(batch_scoring, reference, max(3, rounds // 3), 1, of_rates=True)
    return found


def import_seconds(times: int) -> Spread:
    """Of `import blastlens` in a new interpreter, without the interpreter's own start."""
    code = "import time; s = time.perf_counter(); import blastlens; print(time.perf_counter() - s)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(times)]
    return spread([float(run.stdout) for run in runs])


def measure(models: Sequence[str], cells: Path | None, fields: Path | None, quick: bool) -> dict[str, Any]:
    """The record of this part; `quick` for a test with few images and rounds."""
    rounds, count = (1, 8) if quick else (ROUNDS, IMAGES)
    record: dict[str, Any] = {"machine": machine(), "rounds": rounds, "count": count, "models": {}, "images": {}}
    with TemporaryDirectory() as temporary:
        for model in models:
            classifier = Classifier.from_pretrained(model)
            of_cells, out = is_cell_model(classifier), Path(temporary) / model.replace("/", "-")
            images = raw_images(cells if of_cells else fields, of_cells, out)
            prepared = prepared_images(classifier, images, out, count)
            record["images"][model] = {"side": Image.open(images[0]).width, "size": classifier.folder.view.size}
            record["models"][model] = {
                precision: measure_model(model, precision, images, prepared, rounds)
                for precision in tqdm(PRECISIONS, desc=model, unit="precision")
            }
    record["import_s"] = import_seconds(5)
    return record


def summary(record: Mapping[str, Any]) -> list[Figure]:
    """The figures that have a target."""
    figures = []
    for key, target in TARGETS.items():
        name, _, precision = key.rpartition("_")
        by_model = {model: row[precision][name]["ratio"]["median"] for model, row in record["models"].items()}
        figures.append(Figure(f"{NAMES[name]}, {precision}", target, by_model))
    return [*figures, Figure("`import blastlens`, s", IMPORT_TARGET, {"": record["import_s"]["median"]})]


def details(record: Mapping[str, Any]) -> str:
    """Every figure as a table."""
    rows = []
    for model, by_precision in record["models"].items():
        for precision, measured in by_precision.items():
            for name, text in NAMES.items():
                target = TARGETS.get(f"{name}_{precision}", "")
                rows.append((model, precision, text, target, shown(measured[name]["ratio"])))
    return table(("model", "precision", "what", "target", "measured: median (lowest to highest)"), rows)
