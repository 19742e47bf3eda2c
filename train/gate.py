"""Model folder + its training images -> gate.json: the ranges of the input gate, and how often it is wrong.

    python -m train.gate models/mobilenet_m-cnmc2019 --data DIR --strangers PHOTOS FIELDS

Each range reaches from a low to a high quantile of the training images, widened on both sides by a margin that is
one for all statistics: the smallest at which at most 1 % of images are refused in group cross-validation. The rate
that is reported comes from a cross-validation around that choice, so that neither range nor margin has seen the
groups it is measured on. The rates of strangers are on pictures that no part of the fit has seen.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from blastlens.drawn import draw_cell, draw_field
from blastlens.errors import BlastlensError
from blastlens.gate import SCHEMA, STATISTICS, Gate, statistics_of
from blastlens.images import View, open_image
from blastlens.model_folder import ModelFolder
from train.datasets import Row, dataset_hash, labels_of, load_rows
from train.datasets.splits import make_splits
from train.pixels import load_pixels
from train.strangers import DRAWN

TARGET = 0.01  # share of training images that may be refused
QUANTILE = 0.005  # a single freak image shall not set a range
MARGINS = tuple(m / 20 for m in range(41))  # in widths of the quantile range
FOLDS = 5
IMAGES_PER_FOLDER = 500  # of strangers, evenly spread
DRAWN_PER_LABEL = 40
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_GRAIN = np.array([statistic.grain for statistic in STATISTICS.values()])


def ranges_of(values: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Lows and highs (K,) of statistics (N, K) of training images."""
    low, high = np.quantile(values, [QUANTILE, 1 - QUANTILE], axis=0)
    slack = np.maximum(margin * (high - low), _GRAIN)
    return low - slack, high + slack


def outside(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Bool (N, K): which statistic of which image is out of range; NaN never is."""
    return (values < low) | (values > high)


def chosen_margin(values: np.ndarray, rows: Sequence[Row]) -> float:
    """The smallest margin with which at most TARGET of the images are refused in group cross-validation."""
    splits = make_splits(f"group-kfold:{FOLDS}", rows, seed=0)
    for margin in MARGINS:
        refused = sum(
            int(outside(values[list(s.test)], *ranges_of(values[list(s.train)], margin)).any(axis=1).sum())
            for s in splits
        )
        if refused <= TARGET * len(rows):
            return margin
    raise BlastlensError(f"Even a margin of {MARGINS[-1]} widths refuses more than {TARGET:.0%} of held-out images.")


def held_out_refusals(values: np.ndarray, rows: Sequence[Row]) -> np.ndarray:
    """Bool (N, K): each image against ranges, and a margin, that only other groups have shaped."""
    result = np.zeros(values.shape, bool)
    for split in make_splits(f"group-kfold:{FOLDS}", rows, seed=0):
        train, test = list(split.train), list(split.test)
        margin = chosen_margin(values[train], [rows[i] for i in train])
        result[test] = outside(values[test], *ranges_of(values[train], margin))
    return result


def fit(values: np.ndarray, rows: Sequence[Row], images: str) -> dict[str, Any]:
    """What gate.json holds, apart from the rates on strangers.

    Args:
        values: (N, K) of the training images, in the order of STATISTICS.
        rows: of the same images.
        images: what to call them.
    """
    margin = chosen_margin(values, rows)
    low, high = ranges_of(values, margin)
    refused = held_out_refusals(values, rows)
    groups = np.array([row.group for row in rows])
    by_group = {str(g): float(refused[groups == g].any(axis=1).mean()) for g in np.unique(groups)}
    worst = max(by_group, key=lambda g: by_group[g])
    return {
        "schema": SCHEMA,
        "images": images,
        "statistics": {
            name: {"low": round(float(a), 4), "high": round(float(b), 4), "meaning": STATISTICS[name].meaning}
            for name, a, b in zip(STATISTICS, low, high, strict=True)
        },
        "fit": {
            "dataset_sha256": dataset_hash(rows),
            "images": len(rows),
            "groups": len(by_group),
            "quantile": QUANTILE,
            "margin": margin,
            "target": TARGET,
        },
        "measured": {
            "held_out": {
                "protocol": f"group-kfold:{FOLDS}",
                "images": len(rows),
                "refused": int(refused.any(axis=1).sum()),
                "rate": round(float(refused.any(axis=1).mean()), 5),
                "mean_rate_of_groups": round(float(np.mean(list(by_group.values()))), 5),
                "worst_group": {
                    "group": worst,
                    "images": int((groups == worst).sum()),
                    "rate": round(by_group[worst], 5),
                },
                "by_statistic": {name: int(n) for name, n in zip(STATISTICS, refused.sum(axis=0), strict=True) if n},
            },
        },
    }


def refusals(gate: Gate, view: View, pictures: Iterable[Image.Image]) -> dict[str, Any]:
    """How many of some pictures the gate refuses."""
    verdicts = [gate.judge(view.apply(picture)).fits for picture in pictures]
    refused = verdicts.count(False)
    return {"images": len(verdicts), "refused": refused, "rate": round(refused / max(1, len(verdicts)), 5)}


def pictures_in(folder: Path) -> list[Path]:
    """At most IMAGES_PER_FOLDER images in a folder and those inside it, evenly spread over their sorted names."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise BlastlensError(f"{folder} holds no image; a folder of pictures that the gate must refuse is expected.")
    chosen = np.unique(np.linspace(0, len(files) - 1, IMAGES_PER_FOLDER).astype(int))
    return [files[i] for i in chosen]


def measure(gate: Gate, folder: ModelFolder, strangers: Sequence[Path]) -> dict[str, Any]:
    """Refusals among pictures that are none of the model's kind, and among the drawn ones that imitate it."""
    view = folder.view
    refused = {
        path.name: refusals(gate, view, map(open_image, tqdm(pictures_in(path), desc=path.name))) for path in strangers
    }
    refused |= {
        name: refusals(gate, view, (draw(seed) for seed in range(count))) for name, (draw, count) in DRAWN.items()
    }
    draw_own = draw_cell if view.frame else draw_field
    own = refusals(
        gate, view, (draw_own(label, seed) for label in folder.label_names for seed in range(DRAWN_PER_LABEL))
    )
    return {"strangers": refused, "drawn_like_its_own": own}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.gate", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder; its gate.json is written")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset it was trained on")
    parser.add_argument("--strangers", type=Path, nargs="*", default=[], help="folders of pictures it must refuse")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    try:
        folder = ModelFolder.load(arguments.model)
        rows = load_rows(arguments.data)
        if labels_of(rows)[0] != folder.label_names:
            raise BlastlensError(f"{arguments.data} has other labels than {folder.model_id}; give its own data set.")
        pixels = load_pixels(arguments.data, rows, folder.view, arguments.cache)
        values = np.array([list(statistics_of(np.asarray(view)).values()) for view in tqdm(pixels, desc="statistics")])
        record = fit(values, rows, "cells" if folder.view.frame else "fields")
        record["measured"] |= measure(Gate.from_json(record), folder, arguments.strangers)
        (arguments.model / "gate.json").write_text(json.dumps(record, indent=2) + "\n")
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(record["measured"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
