"""How strong each severity is on real images, and what it looks like on drawn ones.

    python -m train.corruption_pictures --data DATA/cnmc2019 DATA/aria2021

For every kind and severity: how far it moves the pixels (root mean square, 0 to 255) and how much structure it leaves
(SSIM), averaged over training images, into results/corruptions.json. The gallery, results/figures/corruptions.png,
shows drawn images only: those of the data sets are not ours to publish.
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from blastlens.corruptions import KINDS, Corruption, Kind
from blastlens.errors import BlastlensError
from blastlens.images import open_image
from blastlens.inference import usable_cores
from blastlens.synthetic_images import draw_cell, draw_field
from train.datasets import Row, load_rows
from train.files import write_json

RESULTS = Path(__file__).parents[1] / "results"
SIDE = 224  # of the views that are measured
IMAGES = 60  # of each data set, evenly spread over its rows
CELL_BOX = (65, 65, 385, 385)  # of the published frame of 450 px, what a model sees
TILE = 72  # px, a picture of the gallery
PAPER = "#FFFFFF"
INK = "#1A1A1A"


def rms(one: np.ndarray, other: np.ndarray) -> float:
    """Root mean square difference of two images, uint8 (H, W, 3), on the 0 to 255 scale."""
    return float(np.sqrt(np.mean((one.astype(np.float32) - other) ** 2)))


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity of the brightness of two images, uint8 (H, W, 3): 1 is the same (Wang et al. 2004, doi
    10.1109/TIP.2003.819861, with its Gaussian window of 1.5 px)."""
    x, y = (image.astype(np.float64) @ (0.299, 0.587, 0.114) for image in (one, other))

    def mean(values: np.ndarray) -> np.ndarray:
        return gaussian_filter(values, 1.5, truncate=3.5)

    mean_x, mean_y = mean(x), mean(y)
    spread_x, spread_y = mean(x * x) - mean_x**2, mean(y * y) - mean_y**2
    together = mean(x * y) - mean_x * mean_y
    a, b = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    likeness = (2 * mean_x * mean_y + a) * (2 * together + b)
    return float((likeness / ((mean_x**2 + mean_y**2 + a) * (spread_x + spread_y + b))).mean())


def strengths(views: Sequence[np.ndarray]) -> dict[str, list[dict[str, Any]]]:
    """By kind, for each of its severities and levels: the mean `rms` and `ssim` over views, uint8 (S, S, 3)."""

    def one(corruption: Corruption) -> tuple[float, float]:
        pairs = [(view, corruption.apply(view, seed)) for seed, view in enumerate(views)]
        return tuple(float(np.mean([measure(*pair) for pair in pairs])) for measure in (rms, ssim))

    todo = [
        (kind, severity, Corruption(kind.name, level))
        for kind in KINDS.values()
        for severity in range(1, 6)
        for level in kind.levels_of(severity)
    ]
    with ThreadPoolExecutor(usable_cores()) as pool:
        found = list(tqdm(pool.map(lambda row: one(row[2]), todo), total=len(todo), unit="level"))
    result: dict[str, list[dict[str, Any]]] = {name: [] for name in KINDS}
    for (kind, severity, corruption), (moved, alike) in zip(todo, found, strict=True):
        result[kind.name].append(
            {"severity": severity, "level": corruption.level, "rms": round(moved, 2), "ssim": round(alike, 4)}
        )
    return result


def gallery() -> Image.Image:
    """Every severity of every kind on a drawn cell and a drawn field, one line for each direction of a kind."""
    cell = draw_cell("ALL", 3).crop(CELL_BOX).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    pictures = [np.array(cell), np.array(draw_field("Early", 2, size=SIDE))]
    lines = [(kind, way) for kind in KINDS.values() for way in range(2 if kind.both_ways else 1)]
    gap, label, left = 4, 14, 150
    width = left + 2 * (6 * (TILE + gap) + gap)
    height = label + len(lines) * (TILE + label + gap) + gap
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for row, (kind, way) in enumerate(lines):
        top = label + row * (TILE + label + gap)
        pen.text((gap, top + TILE / 2 - 12), kind.title, INK, font)
        pen.text((gap, top + TILE / 2 + 2), f"({kind.source})", INK, font)
        levels = [kind.neutral, *(kind.levels_of(severity)[way] for severity in range(1, 6))]
        for place, level in enumerate(levels):
            for number, picture in enumerate(pictures):
                x = left + number * (6 * (TILE + gap) + gap) + place * (TILE + gap)
                changed = Image.fromarray(Corruption(kind.name, level).apply(picture))
                sheet.paste(changed.resize((TILE, TILE), Image.Resampling.LANCZOS), (x, top))
                pen.text((x + 1, top + TILE), _level(kind, level) if place else "unchanged", INK, font)
    return sheet


def _level(kind: Kind, level: float) -> str:
    space = " " if kind.unit in ("px", "%") else ""
    return f"{level:+g}{space}{kind.unit}" if kind.both_ways else f"{level:g}{space}{kind.unit}"


def _views(folder: Path, rows: Sequence[Row]) -> list[np.ndarray]:
    chosen = np.linspace(0, len(rows) - 1, min(IMAGES, len(rows))).round().astype(int)
    images = (open_image(folder / rows[i].file_name) for i in chosen)
    return [np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in images]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.corruption_pictures", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="prepared datasets")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    try:
        measured = {}
        for folder in arguments.data:
            views = _views(folder, load_rows(folder))
            measured[folder.name] = {"images": len(views), "kinds": strengths(views)}
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    (arguments.out / "figures").mkdir(parents=True, exist_ok=True)
    record = {
        "side": SIDE,
        "kinds": {kind.name: {"source": kind.source, "unit": kind.unit} for kind in KINDS.values()},
        "measured": measured,
    }
    write_json(arguments.out / "corruptions.json", record)
    # Six bits a channel: half of the bytes, and no difference to see.
    ImageOps.posterize(gallery(), 6).save(arguments.out / "figures" / "corruptions.png", optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
