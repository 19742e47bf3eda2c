"""What the benchmarks share: spreads, targets, Markdown tables, and images."""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from blastlens import Classifier
from blastlens.inference import usable_cores
from blastlens.synthetic_images import synthetic_image

ROOT = Path(__file__).resolve().parents[1]
Spread = dict[str, float]  # median, low, high


@dataclass(frozen=True)
class Target:
    """A limit for a figure."""

    limit: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {self.limit:g}"

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit


@dataclass(frozen=True)
class Figure:
    """One row of the summary in SPEED.md.

    Attributes:
        name: what was measured.
        values: by model; "" for a figure of all models.
        form: how a value is written.
    """

    name: str
    target: Target
    values: Mapping[str, float]
    form: str = "{:.2f}"

    def cell(self, model: str) -> str:
        """The value of a model, marked if it misses the target."""
        if model not in self.values:
            return ""
        value = self.values[model]
        return self.form.format(value) + ("" if self.target.met(value) else " (missed)")


def spread(values: Sequence[float]) -> Spread:
    return {"median": median(values), "low": min(values), "high": max(values)}


def shown(figure: Mapping[str, float], form: str = "{:.2f}") -> str:
    """A spread as text: "0.58 (0.55 to 0.67)"."""
    low, middle, high = (form.format(figure[key]) for key in ("low", "median", "high"))
    return f"{middle} ({low} to {high})"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def machine() -> str:
    """The machine and the versions that figures depend on; nothing that identifies the machine."""
    names = ("onnxruntime", "torch", "transformers", "gradio", "pillow")
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{usable_cores()} CPU cores, Python {sys.version.split()[0]}, {versions}"


def is_cell_model(classifier: Classifier) -> bool:
    return classifier.folder.view.frame is not None


def raw_images(folder: Path | None, cells: bool, out: Path) -> list[Path]:
    """Images for a kind of model: of a folder (.bmp cells or .jpg fields), else synthetic ones written to `out`.

    Raises:
        SystemExit: the folder has none.
    """
    if folder:
        suffix = "bmp" if cells else "jpg"
        return sorted(folder.rglob(f"*.{suffix}")) or sys.exit(f"{folder} has no .{suffix} files.")
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"synthetic-{number}.bmp" for number in range(16)]
    for number, file in enumerate(files):
        synthetic_image("ALL" if cells else "Early", number).save(file)
    return files


def prepared_images(classifier: Classifier, raw: Sequence[Path], out: Path, count: int) -> list[Path]:
    """`count` PNG files of what the model sees of raw images, repeated if there are fewer."""
    out.mkdir(parents=True, exist_ok=True)
    files = [out / f"prepared-{number}.png" for number in range(min(count, len(raw)))]
    for file, path in zip(files, raw, strict=False):
        Image.fromarray(classifier.pixels(path)).save(file)
    return list(islice(cycle(files), count))


def page_environment() -> dict[str, str]:
    """The environment of a page without real examples, as in a fresh clone, and without the Hub."""
    return {name: value for name, value in os.environ.items() if name != "BLASTLENS_DATA"} | {"HF_HUB_OFFLINE": "1"}
