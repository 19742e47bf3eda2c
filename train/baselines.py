"""What a few numbers per image achieve under a protocol: the bar below which a network means nothing.

    python -m train.baselines --data DIR --protocol group-kfold:3 --out results/baselines_cnmc2019.json

Cells: how many pixels the cell covers, its mean colour. Fields: a colour histogram. Each goes into a logistic
regression with balanced classes.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm.auto import tqdm

from blastlens import metrics
from blastlens.errors import BlastlensError
from blastlens.images import View, open_image
from train.crossval import plain
from train.datasets import labels_of, load_rows
from train.datasets.splits import make_splits
from train.pixels import load_pixels

BINS = 6  # of the colour histogram, per channel


def cell_area(pixels: np.ndarray) -> np.ndarray:
    """Logarithm of the number of pixels that are not black, of uint8 (H, W, 3) -> (1,)."""
    return np.log([max(1, np.count_nonzero(pixels.max(axis=2)))])


def area_and_colour(pixels: np.ndarray) -> np.ndarray:
    """Cell area, and mean and spread of each channel inside the cell: (7,)."""
    inside = pixels[pixels.max(axis=2) > 0].astype(np.float64)
    inside = inside if len(inside) else np.zeros((1, 3))
    return np.concatenate([cell_area(pixels), np.log1p(inside.mean(0)), np.log1p(inside.std(0))])


def colour_histogram(pixels: np.ndarray) -> np.ndarray:
    """Square root of the share of pixels in each of BINS^3 colour cells: (BINS^3,)."""
    code = (pixels.astype(np.int64) * BINS // 256) @ np.array([BINS * BINS, BINS, 1])
    return np.sqrt(np.bincount(code.ravel(), minlength=BINS**3) / code.size)


FEATURES: dict[str, dict[str, Callable[[np.ndarray], np.ndarray]]] = {
    "cnmc2019": {"cell area": cell_area, "cell area and colour": area_and_colour},
    "aria2021": {"colour histogram": colour_histogram},
}


def baselines(data: Path, protocol: str, seed: int, cache: Path) -> dict[str, Any]:
    """Each baseline's scores on held-out images, with intervals over groups."""
    rows = load_rows(data)
    names, labels = labels_of(rows)
    kind = "cnmc2019" if len(names) == 2 else "aria2021"
    size = open_image(data / rows[0].file_name).width
    view = View(size, None, "bicubic", (0.5,) * 3, (0.5,) * 3)
    pixels = load_pixels(data, rows, view, cache)
    groups = [row.group for row in rows]
    result: dict[str, Any] = {"protocol": protocol, "seed": seed, "n_groups": len(set(groups)), "scores": {}}
    for name, feature in FEATURES[kind].items():
        x = np.stack([feature(np.asarray(image)) for image in tqdm(pixels, desc=name, unit="img")])
        probabilities = np.zeros((len(rows), len(names)))
        for split in make_splits(protocol, rows, seed):
            train, test = list(split.train), list(split.test)
            model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
            probabilities[test] = model.fit(x[train], labels[train]).predict_proba(x[test])
        report = metrics.bootstrap(labels, probabilities, groups, names, positive=0 if len(names) == 2 else None)
        keys = ("weighted_f1", "macro_f1", "balanced_accuracy", "auroc")
        result["scores"][name] = plain({key: report[key] for key in keys})
    return result


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.baselines", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--protocol", default="group-kfold:3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        result = baselines(arguments.data, arguments.protocol, arguments.seed, arguments.cache)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
