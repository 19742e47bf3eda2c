"""What a few numbers per image achieve under a protocol: the bar that a network must clear.

    python -m train.baselines --data DIR --protocol group-kfold:3 --out results/baselines_cnmc2019.json

Cells: how many pixels the cell covers, its mean colour. Fields: a colour histogram. Each is the input of a logistic
regression with balanced classes. The recorded runs of our recipe for the data set are compared with each baseline image
by image: what a network adds is a difference on the same subjects, which two intervals side by side do not show.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from blastlens import bootstrap
from blastlens.dataset_info import DATASETS
from blastlens.files import write_json
from blastlens.images import open_image
from blastlens.view import View
from train.command import reports_errors
from train.datasets import Row, dataset_hash, labels_of, load_rows, own_dataset
from train.datasets.splits import Split, make_splits
from train.folds import FoldNetworks
from train.held_out import HeldOut, cross_calibrated, plain
from train.masks import cell_mask, nuclei_mask
from train.parallel import in_threads
from train.pixels import load_pixels
from train.results import RUNS, Result

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

SIGMAS = (0, 10, 20)  # of the noise under which the recipe is compared
COMPARED = ("weighted_f1", "balanced_accuracy", "auroc")
BINS = 6  # of the colour histogram, per channel


Feature = Callable[[np.ndarray], np.ndarray]  # uint8 pixels (H, W, 3) -> numbers (F,)


def cell_area(pixels: np.ndarray) -> np.ndarray:
    """Logarithm of the number of pixels that are not black: (1,)."""
    return np.log([max(1, np.count_nonzero(cell_mask(pixels)))])


def area_and_colour(pixels: np.ndarray) -> np.ndarray:
    """Cell area, and mean and spread of each channel inside the cell: (7,)."""
    inside = _inside(pixels).astype(np.float64)
    return np.concatenate([cell_area(pixels), np.log1p(inside.mean(0)), np.log1p(inside.std(0))])


def colour_histogram(pixels: np.ndarray) -> np.ndarray:
    """Square root of the share of pixels in each of BINS^3 colour cells: (BINS^3,)."""
    code = (pixels.astype(np.int64) * BINS // 256) @ np.array([BINS * BINS, BINS, 1])
    return np.sqrt(np.bincount(code.ravel(), minlength=BINS**3) / code.size)


def cell_colour_histogram(pixels: np.ndarray) -> np.ndarray:
    """`colour_histogram` of what is not black, which does not depend on the size of the cell: (BINS^3,)."""
    return colour_histogram(_inside(pixels))


def nuclear_area(pixels: np.ndarray) -> np.ndarray:
    """Logarithm of how many pixels of a field are stained as nuclei are: (1,)."""
    return np.log([max(1, np.count_nonzero(nuclei_mask(pixels)))])


def _inside(pixels: np.ndarray) -> np.ndarray:
    """The cell's pixels (n, 3); one black pixel if there is no cell."""
    inside = pixels[cell_mask(pixels)]
    return inside if len(inside) else np.zeros((1, 3), np.uint8)


FEATURES: dict[str, dict[str, Feature]] = {
    "cnmc2019": {"cell area": cell_area, "cell area and colour": area_and_colour},
    "aria2021": {"colour histogram": colour_histogram},
}
WITHOUT_NETWORK: dict[str, dict[str, Feature]] = {
    "cnmc2019": FEATURES["cnmc2019"] | {"colour histogram of the cell": cell_colour_histogram},
    "aria2021": FEATURES["aria2021"] | {"nuclear area": nuclear_area},
}


def features_for(dataset: str, every: bool = False) -> dict[str, Feature]:
    """The baselines of a data set, or `every` one without a network; own images have the colour histogram."""
    known = WITHOUT_NETWORK if every else FEATURES
    return known.get(dataset, {"colour histogram": colour_histogram})


def features_of(feature: Feature, pixels: Sequence[np.ndarray] | np.ndarray, title: str) -> np.ndarray:
    """Numbers of each image (N, F); `title` is that of a progress bar."""
    return np.stack(in_threads(lambda image: feature(np.asarray(image)), pixels, title))


def fitted(x: np.ndarray, labels: np.ndarray) -> "Pipeline":
    """A logistic regression with balanced classes on standardized numbers (N, F) and labels (N,)."""
    from sklearn.linear_model import LogisticRegression  # takes seconds
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
    return model.fit(x, labels)


def held_out_probabilities(x: np.ndarray, labels: np.ndarray, splits: Sequence[Split]) -> np.ndarray:
    """Each image's probabilities (N, C) from numbers (N, F), fitted on its split's training images."""
    probabilities = np.zeros((len(x), labels.max() + 1))
    for split in splits:
        train, test = list(split.train), list(split.test)
        probabilities[test] = fitted(x[train], labels[train]).predict_proba(x[test])
    return probabilities


def without_network(networks: FoldNetworks) -> dict[str, np.ndarray]:
    """Held-out probabilities (N, C) of each baseline on the images and folds of a cross-validation."""
    return {
        name: held_out_probabilities(features_of(feature, networks.pixels, name), networks.labels, networks.splits)
        for name, feature in features_for(networks.recipe.dataset, every=True).items()
    }


def baselines(data: Path, protocol: str, seed: int, cache: Path, runs: Path = RUNS) -> dict[str, Any]:
    """Return each baseline's scores on held-out images, with intervals over groups.

    Where `runs` has the recipe's runs of this split of these images: also `recipe`, its name, and `differences` by
    baseline.
    """
    rows = load_rows(data)
    names, labels = labels_of(rows)
    own = own_dataset(data)
    kind = own["name"] if own else next(info.name for info in DATASETS.values() if info.labels == names)
    positive = 0 if len(names) == 2 else None
    view = View(open_image(data / rows[0].file_name).width, None, "bicubic", (0.5,) * 3, (0.5,) * 3)
    pixels, groups = load_pixels(data, rows, view, cache), [row.group for row in rows]
    splits, recipe = make_splits(protocol, rows, seed), f"ours_{kind}"
    recorded = _recorded(runs / recipe / protocol.replace(":", "-"), rows, splits, seed)
    scores: dict[str, Any] = {}
    compared: dict[str, Any] = {}
    for name, feature in features_for(kind).items():
        probabilities = held_out_probabilities(features_of(feature, pixels, name), labels, splits)
        report = bootstrap.summary(labels, probabilities, groups, names, positive=positive)
        scores[name] = plain({key: report[key] for key in ("weighted_f1", "macro_f1", "balanced_accuracy", "auroc")})
        if recorded:
            compared[name] = differences(recorded, probabilities, groups, positive)
    result = {"protocol": protocol, "seed": seed, "n_groups": len(set(groups)), "scores": scores}
    return result | ({"recipe": recipe, "differences": compared} if recorded else {})


def differences(
    recorded: HeldOut, probabilities: np.ndarray, groups: Sequence[str], positive: int | None
) -> list[dict[str, Any]]:
    """Return the recipe's scores minus a baseline's on the same images and draws of groups, at each of `SIGMAS` that
    was measured. Only the recipe sees noise: the baseline stays the same.

    Args:
        recorded: the recipe's held-out predictions; they are cross-fitted here.
        probabilities: (N, C) of the baseline, and `groups` (N,), in the order of the data set's rows.
        positive: the class whose AUROC is computed, if there are two.
    """
    ours = cross_calibrated(recorded)
    baseline, of_image = probabilities[recorded.index], [groups[i] for i in recorded.index]
    found = []
    for sigma, p in zip(recorded.sigmas, ours, strict=True):
        if sigma in SIGMAS:
            pair = (recorded.label, p, baseline, of_image)
            scores = {key: bootstrap.difference(*pair, key, positive=positive) for key in COMPARED}
            found.append({"sigma": float(sigma)} | scores)
    return plain(found)


def _recorded(folder: Path, rows: Sequence[Row], splits: Sequence[Split], seed: int) -> HeldOut | None:
    """The recorded runs in a folder, if they tested exactly these splits."""
    found = [run for run in map(Result.read, sorted(folder.glob("*.json"))) if run.seed == seed]
    found = sorted((run for run in found if run.dataset["hash"] == dataset_hash(rows)), key=lambda run: run.fold)
    if [list(run.index) for run in found] != [sorted(split.test) for split in splits]:
        return None
    return HeldOut.of_results(found)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.baselines", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--protocol", default="group-kfold:3")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--runs", type=Path, default=RUNS, help="recorded runs; those of our recipe are compared")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    result = baselines(options.data, options.protocol, options.seed, options.cache, options.runs)
    write_json(options.out, result)
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
