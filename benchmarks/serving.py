"""How quick answering is, each figure a ratio to a reference measured in the same run.

    python -m benchmarks.serving --images DIR --out results/benchmarks/serving.json

`--images` is a folder of raw 450 px cells, as C-NMC 2019 publishes them; without one, cells are drawn. Every pair is
timed in turns, ours and the reference, so that a machine that changes its pace changes both; what counts is the median
of the ratios. The references are what a careful user would write: `transformers.pipeline` on the same folder, and ONNX
Runtime with its own defaults on tensors that are ready. Keep the machine quiet.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
from PIL import Image
from tqdm.auto import tqdm

from benchmarks.timings import spread
from blastlens import Classifier
from blastlens.corruptions import CURVE_SIGMAS
from blastlens.errors import BlastlensError
from blastlens.files import write_json
from blastlens.inference import usable_cores
from blastlens.model_folder import PRECISIONS, bundled_models
from blastlens.synthetic_images import draw_cell, draw_field

# What was asked: the ratio, and whether it is the most or the least that it may be.
ASKED = {
    "image_vs_pipeline_fp32": ("at most", 0.40),
    "image_vs_pipeline_int8": ("at most", 0.25),
    "image_vs_bare_fp32": ("at most", 1.35),
    "curve_vs_bare_fp32": ("at most", 0.9),
    "bulk_vs_bare_fp32": ("at least", 0.85),
    "bulk_vs_pipeline_fp32": ("at least", 4.0),
}
IMPORT_S = 0.6
SAID = {
    "image_vs_pipeline": "one {side} px image to its calibrated answer, `Classifier` vs `transformers.pipeline`, time",
    "image_vs_bare": "one {side} px image, `Classifier.predict` vs bare ONNX Runtime on a ready tensor, time",
    "prepared_vs_bare": "one prepared {size} px image, `Classifier.predict` vs bare ONNX Runtime, time",
    "curve_vs_bare": "noise curve of {levels} levels vs {levels} single bare runs, time",
    "bulk_vs_bare": "bulk scoring vs bare ONNX Runtime batches on ready tensors, images per second",
    "bulk_vs_pipeline": "bulk scoring vs `pipeline(..., batch_size=32)` over a `datasets` dataset, images per second",
}
BARE_BATCHES = (1, 8, 32)  # of which the quickest is the reference


def in_turns(ours: Callable[[], float], theirs: Callable[[], float], rounds: int, calls: int) -> dict[str, Any]:
    """Seconds of each, and of ours divided by theirs: medians over the rounds, with the extremes.

    A round is `calls` calls of ours and then as many of theirs, after one of each that is not counted; its figure is
    the median of them, since a call that is interrupted says nothing. Both return the seconds that they took.
    """
    taken: dict[str, list[float]] = {"ours_s": [], "theirs_s": [], "ratio": []}
    for function in (ours, theirs):
        function()
    for _ in range(rounds):
        mine, other = (median(function() for _ in range(calls)) for function in (ours, theirs))
        for name, value in (("ours_s", mine), ("theirs_s", other), ("ratio", mine / other)):
            taken[name].append(value)
    return {name: spread(values) for name, values in taken.items()}


def timed(function: Callable[[], Any]) -> Callable[[], float]:
    """A function that calls another one and returns the seconds that it took."""

    def seconds() -> float:
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    return seconds


def bare(file: Path) -> ort.InferenceSession:
    """ONNX Runtime with its own settings, on the cores there are."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    return ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def measure(model: str, precision: str, images: Sequence[Path], prepared: Sequence[Path], rounds: int) -> dict:
    """Every row of one model in one precision, by name in `SAID`.

    Args:
        images: raw ones, each opened anew for every answer. prepared: at the size the network takes, for bulk.
    """
    from datasets import load_dataset
    from transformers import pipeline
    from transformers.pipelines.pt_utils import KeyDataset

    from blastlens.batch_scoring.score import Command, score

    classifier = Classifier.from_pretrained(model, precision=precision)
    folder = classifier.folder
    session = bare(folder.onnx_file(precision))
    ready = folder.view.normalise(np.stack([classifier.pixels(path) for path in islice(cycle(images), 32)]))
    others = pipeline("image-classification", model=str(folder.path))
    path, small = str(images[0]), str(prepared[0])
    levels = CURVE_SIGMAS

    def one_run() -> None:
        session.run(["logits"], {"pixel_values": ready[:1]})

    def runs() -> None:
        for _ in levels:
            one_run()

    predict, bare_run = timed(lambda: classifier.predict(path)), timed(one_run)
    found = {
        "image_vs_pipeline": in_turns(predict, timed(lambda: others(path)), rounds, 15),
        "image_vs_bare": in_turns(predict, bare_run, rounds, 25),
        "prepared_vs_bare": in_turns(timed(lambda: classifier.predict(small)), bare_run, rounds, 25),
        "curve_vs_bare": in_turns(timed(lambda: classifier.curve(path, levels=levels)), timed(runs), rounds, 3),
    }

    def batches(size: int) -> None:
        for start in range(0, len(prepared), size):
            session.run(["logits"], {"pixel_values": ready[: min(size, len(prepared) - start)]})

    best = min(BARE_BATCHES, key=lambda size: min(timed(lambda: batches(size))() for _ in range(2)))
    with TemporaryDirectory() as temporary:
        source, out = Path(temporary) / "images", Path(temporary) / "out.parquet"
        source.mkdir()
        for number, one in enumerate(prepared):
            shutil.copy(one, source / f"{number:06d}{one.suffix}")
        dataset = load_dataset(
            "imagefolder", data_dir=str(source), split="train", cache_dir=str(Path(temporary) / "hf")
        )

        def bulk() -> float:
            # From the first look at the folder to the finished file; loading the model is on neither side.
            return score(Command((str(source),), model=model, precision=precision), out, overwrite=True).seconds

        def piped() -> None:
            for _ in others(KeyDataset(dataset, "image"), batch_size=32):
                pass

        for name, theirs in (("bulk_vs_bare", lambda: batches(best)), ("bulk_vs_pipeline", piped)):
            found[name] = _per_second(in_turns(bulk, timed(theirs), max(3, rounds // 3), 1), len(prepared))
    found["bulk_vs_bare"]["batch_of_theirs"] = best
    return found


def _per_second(timed: dict[str, Any], images: int) -> dict[str, Any]:
    """The same as rates: more is better, and the lowest becomes the highest."""

    def turned(figure: dict[str, float], numerator: float) -> dict[str, float]:
        return {
            "median": numerator / figure["median"],
            "low": numerator / figure["high"],
            "high": numerator / figure["low"],
        }

    return {
        "ours_per_second": turned(timed["ours_s"], images),
        "theirs_per_second": turned(timed["theirs_s"], images),
        "ratio": turned(timed["ratio"], 1),
    }


def import_seconds(times: int) -> dict[str, float]:
    """Of `import blastlens` in a fresh interpreter, its own start left out."""
    code = "import time; s = time.perf_counter(); import blastlens; print(time.perf_counter() - s)"
    answers = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True) for _ in range(times)]
    return spread([float(answer.stdout) for answer in answers])


def drawn(folder: Path, cells: bool) -> list[Path]:
    """Raw cells, or smear fields, for machines without real ones."""
    files = []
    for number in range(16):
        picture = draw_cell("ALL", number) if cells else draw_field("Early", number)
        files.append(folder / f"raw-{number}.bmp")
        picture.save(files[-1])
    return files


def prepared_images(classifier: Classifier, raw: Sequence[Path], folder: Path, count: int) -> list[Path]:
    """What the model sees of raw images, as PNG files: `count` of them, those there are again and again."""
    written = []
    for number, path in enumerate(raw[:count]):
        written.append(folder / f"prepared-{number}.png")
        Image.fromarray(classifier.pixels(path)).save(written[-1])
    return list(islice(cycle(written), count))


def machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch", "transformers", "pillow"))
    return f"{usable_cores()} CPU cores, Python {sys.version.split()[0]}, {versions}"


def rows(record: dict[str, Any]) -> list[tuple[str, str, str, dict[str, float], tuple[str, float] | None]]:
    """Model, precision, what was measured, the ratio, and what was asked of it."""
    found = []
    for model, by_precision in record["models"].items():
        for precision, measured in by_precision.items():
            for name, figures in measured.items():
                words = SAID[name].format(levels=len(CURVE_SIGMAS), **record["images"][model])
                found.append((model, precision, words, figures["ratio"], ASKED.get(f"{name}_{precision}")))
    return found


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| model | precision | what | ratio: median (lowest to highest) | asked | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, precision, words, ratio, asked in rows(record):
        told = "{median:.2f} ({low:.2f} to {high:.2f})".format(**ratio)
        wanted = "{} {:g}".format(*asked) if asked else ""
        kept = "" if asked is None else "yes" if met(ratio["median"], *asked) else "no"
        lines.append(f"| {model} | {precision} | {words} | {told} | {wanted} | {kept} |")
    seconds = record["import_s"]
    lines += [
        "",
        "`import blastlens`: {median:.2f} s ({low:.2f} to {high:.2f}), asked: at most {asked:g} s".format(
            asked=IMPORT_S, **seconds
        ),
    ]
    return "\n".join(lines)


def met(value: float, word: str, limit: float) -> bool:
    """Whether a figure is what was asked; `word` is "at most" or "at least"."""
    return value <= limit if word == "at most" else value >= limit


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=bundled_models(), help="default: every bundled one")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--images", type=Path, help="folder of raw cells as .bmp files; without one they are drawn")
    parser.add_argument("--count", type=int, default=256, help="images of a bulk run (default: 256)")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    cells_given = sorted(arguments.images.rglob("*.bmp")) if arguments.images else []
    if arguments.images and not cells_given:
        print(f"{arguments.images} holds no .bmp file; leave --images out to draw some.", file=sys.stderr)
        return 2
    record: dict[str, Any] = {"machine": machine(), "rounds": arguments.rounds, "models": {}, "images": {}}
    record["count"] = arguments.count
    try:
        with TemporaryDirectory() as temporary:
            for model in arguments.models:
                classifier = Classifier.from_pretrained(model)
                folder = Path(temporary) / model.replace("/", "-")
                folder.mkdir()
                cells = classifier.folder.view.frame is not None
                images = cells_given if cells and cells_given else drawn(folder, cells)
                record["images"][model] = {
                    "side": Image.open(images[0]).width,
                    "size": classifier.folder.view.size,
                    "drawn": images is not cells_given,
                }
                prepared = prepared_images(classifier, images, folder, arguments.count)
                record["models"][model] = {
                    precision: measure(model, precision, images, prepared, arguments.rounds)
                    for precision in tqdm(arguments.precisions, desc=model, unit="precision")
                }
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    record["import_s"] = import_seconds(5)
    write_json(arguments.out, record)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
