"""Fit and measure one decision per subject, and when to make none; the block "subjects" of metrics.json.

    python -m train.subject_evaluation models/NAME --runs results/search/NAME --data DIR

The rule is that of `blastlens.subject_decisions`. A fold's subjects are decided by a threshold, a calibration and a
check that come from the subjects of the other folds; subjects are the groups of the data set. The check is fitted to
the mean image statistics of training donors. Its limit is the `QUANTILE` of the distances of each of these donors to
the nearest other one, each measured with the other donors alone: about so many new donors of the same kind are within.

`shifted` says whether the check notices what the OOD check of single cells cannot: the cells of each subject are
changed in the same way, and compared with all other subjects.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm.auto import tqdm

from blastlens.cell_measurements import MEASURES as CELL_MEASURES
from blastlens.cell_measurements import measure_cell
from blastlens.classifier import Classifier
from blastlens.errors import BlastlensError
from blastlens.files import write_json
from blastlens.ood_detection import statistics_of
from blastlens.patients import leukemic_labels, wilson
from blastlens.subject_decisions import MEASURES, MIN_IMAGES, DonorCheck
from train.command import reports_errors
from train.datasets import Row, dataset_hash, load_rows
from train.held_out import HeldOut, cross_calibrated, plain, runs_of
from train.ood_fitting import evenly
from train.parallel import in_threads
from train.patient_evaluation import Cohort, best_threshold, held_out_thresholds
from train.pixels import load_pixels
from train.results import Result

QUANTILE = 0.95
RANGE = (0.05, 0.95)  # quantiles of the donors' means that the page shows
SHRINKAGE = 0.2  # of the correlation between measures towards none: there are few donors
SHIFTED_IMAGES = 15  # of each subject
RULE = (
    "A subject is leukemic where the mean probability of leukemia over their images reaches the threshold; there is no "
    f"decision with fewer than {MIN_IMAGES} images, or where their mean statistics are farther from those of the "
    "nearest training donor than the limit."
)
Floats = NDArray[np.float64]


def fit_check(means: Floats) -> DonorCheck:
    """Fit to the mean statistics (D, K) of training donors."""

    def without_limit(of: Floats) -> DonorCheck:
        center, spread = of.mean(axis=0), np.maximum(of.std(axis=0), 1e-9)
        scaled = (of - center) / spread
        correlation = (1 - SHRINKAGE) * (scaled.T @ scaled) / len(of) + SHRINKAGE * np.eye(len(center))
        axes = np.linalg.cholesky(np.linalg.inv(correlation)) / spread[:, None]
        return DonorCheck(center, axes, (of - center) @ axes, float("inf"))

    away = [without_limit(np.delete(means, i, axis=0)).distance(one) for i, one in enumerate(means)]
    return replace(without_limit(means), limit=float(np.quantile(away, QUANTILE)))


def measure(held_outs: Sequence[HeldOut], statistics: Floats, label: int) -> dict[str, Any]:
    """Fit the rule on all subjects, and measure it on held-out ones.

    Args:
        held_outs: predictions of each split seed; their `index` is into `statistics` (N, K).
        label: which class is leukemia.
    """
    cohorts = [Cohort.of(one.group, one.label == label, one.fold, one.group) for one in held_outs]
    names, of_image, leukemic = cohorts[0].names, cohorts[0].of_image, cohorts[0].leukemic
    means = np.stack([np.nanmean(statistics[held_outs[0].index[of_image == g]], axis=0) for g in range(len(names))])
    right, abstained, all_means = [], [], []
    for seed, cohort in zip(held_outs, cohorts, strict=True):
        all_means.append(cohort.means(cross_calibrated(seed)[0][:, label]))
        right.append((all_means[-1] >= held_out_thresholds(cohort, seed, label)) == leukemic)
        none = np.bincount(of_image) < MIN_IMAGES
        for k in np.unique(cohort.fold):
            test = np.flatnonzero(cohort.fold == k)
            check = fit_check(means[cohort.fold != k])
            none[test] |= [check.distance(one) > check.limit for one in means[test]]
        abstained.append(none)
    check = fit_check(means)
    return {
        "rule": RULE,
        "threshold": best_threshold(np.mean(all_means, axis=0), leukemic),
        "check": {
            "measures": list(MEASURES),
            "quantile": QUANTILE,
            "limit": check.limit,
            **{name: np.asarray(getattr(check, name)).tolist() for name in ("center", "axes", "donors")},
        },
        "measured": plain(_rates(np.array(right), np.array(abstained), leukemic, names)),
    }


def _rates(right: np.ndarray, abstained: np.ndarray, leukemic: np.ndarray, names: np.ndarray) -> dict[str, Any]:
    """Rates over subjects, averaged over seeds (S, G), with Wilson's intervals for the number of subjects."""
    seeds = len(right)

    def rate(hits: np.ndarray, of: np.ndarray) -> Any:
        return wilson(hits.sum() / seeds, of.sum() / seeds) if of.any() else None

    def of(part: np.ndarray) -> dict[str, Any]:
        mine, healthy = part & leukemic, part & ~leukemic
        return {"sensitivity": rate(right & mine, mine), "specificity": rate(right & healthy, healthy)}

    everyone = np.ones_like(abstained)
    return {
        "leukemic": int(leukemic.sum()),
        "healthy": int((~leukemic).sum()),
        **of(~abstained),
        "abstained": rate(abstained, everyone),
        "abstained_healthy": rate(abstained & ~leukemic, everyone & ~leukemic),
        "without_abstention": of(everyone),
        "wrong": float((~right).sum() / seeds),
        "wrong_abstained": float((~right & abstained).sum() / seeds),
        "subjects_abstained": {
            str(name): float(share) for name, share in zip(names, abstained.mean(axis=0), strict=True) if share
        },
    }


def larger(view: np.ndarray, factor: float) -> np.ndarray:
    """Enlarge a view, uint8 (S, S, 3), around its center, or shrink it onto black."""
    side, size = len(view), round(len(view) * factor)
    resized = np.asarray(Image.fromarray(view).resize((size, size), Image.Resampling.BICUBIC))
    start = abs(size - side) // 2
    if size >= side:
        return resized[start : start + side, start : start + side]
    out = np.zeros_like(view)
    out[start : start + size, start : start + size] = resized
    return out


def restained(view: np.ndarray, factors: tuple[float, float, float]) -> np.ndarray:
    """Multiply the optical densities of red, green and blue of what is not black."""
    density = np.log(256 / (view.astype(np.float64) + 1)) * factors
    stained = np.rint(256 * np.exp(-density) - 1).clip(0, 255).astype(np.uint8)
    return np.where(view.max(axis=2, keepdims=True) > 0, stained, view)


# What another microscope or stain could do to all cells of a subject.
SHIFTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "none": np.asarray,
    "cells 1.15 times as wide": lambda view: larger(view, 1.15),
    "cells 1.15 times as narrow": lambda view: larger(view, 1 / 1.15),
    "optical density times 1.2": lambda view: restained(view, (1.2, 1.2, 1.2)),
    "optical density of red times 1.15": lambda view: restained(view, (1.15, 1, 1)),
}


def shifted(classifier: Classifier, pixels: np.ndarray, groups: np.ndarray, statistics: Floats) -> list[dict[str, Any]]:
    """Return, for each of `SHIFTS`, the share of subjects without a decision, and of single images that the OOD check
    of `classifier` rejects. Each subject is compared with all others; the OOD check has seen them all."""
    names = [name for name in np.unique(groups) if (groups == name).sum() >= MIN_IMAGES]
    if len(names) < 2:
        raise BlastlensError(f"Decisions by subject need subjects with at least {MIN_IMAGES} images each.")
    means = np.stack([np.nanmean(statistics[groups == name], axis=0) for name in names])
    checks = [fit_check(np.delete(means, i, axis=0)) for i in range(len(names))]
    found = []
    for title, shift in tqdm(SHIFTS.items(), desc="shifted subjects"):
        none, rejected = [], []
        for name, check in zip(names, checks, strict=True):
            mine = evenly(np.flatnonzero(groups == name).tolist(), SHIFTED_IMAGES)
            answers = classifier.predict([shift(np.asarray(pixels[i])) for i in mine])
            rows = [[(one.statistics or {})[measure] for measure in MEASURES] for one in answers]
            none.append(check.distance(np.nanmean(rows, axis=0)) > check.limit)
            rejected += [one.in_domain is False for one in answers]
        found.append({"shift": title, "no_decision": float(np.mean(none)), "images_rejected": float(np.mean(rejected))})
    return plain(found)


def read_held_outs(folder: Path, dataset: str) -> tuple[str, list[int], list[HeldOut]]:
    """Read protocol, split seeds and held-out predictions, of recorded runs or of run folders of train.crossval.

    Raises:
        BlastlensError: neither is there, or they are of another data set than the one with this hash.
    """
    results = [Result.read(path) for path in sorted(folder.glob("group-kfold-*/*.json"))]
    if results:
        of_seeds = [[r for r in results if r.seed == seed] for seed in sorted({r.seed for r in results})]
        complete = [runs for runs in of_seeds if len(runs) == runs[0].folds]
        seeds, parts = [runs[0].seed for runs in complete], [HeldOut.of_results(runs) for runs in complete]
        made_on = {(one.protocol, one.dataset["hash"]) for one in results}
    else:
        seeds = sorted({int(path.name.split("-")[0].removeprefix("seed")) for path in folder.glob("seed*-fold0")})
        runs = [runs_of(folder, seed) for seed in seeds or [0]]
        records = [json.loads((run / "run.json").read_text()) for of_seed in runs for run in of_seed]
        parts = [HeldOut.read(of_seed) for of_seed in runs]
        made_on = {(one["protocol"], one["dataset"]["hash"]) for one in records}
    protocol, found = made_on.pop()
    if found != dataset or made_on or not parts:
        raise BlastlensError(f"{folder} has no complete cross-validation, by groups, of this data set.")
    return protocol, seeds, parts


def block(model: Path, runs: Path, data: Path, cache: Path) -> dict[str, Any]:
    """Return the block "subjects" of a model folder; raises BlastlensError where it has no OOD detection, or labels or
    runs that do not fit."""
    classifier, rows = Classifier.from_pretrained(model), load_rows(data)
    names = classifier.label_names
    if len(names) != 2 or not (leukemic := leukemic_labels(names)) or classifier.folder.ood_detector is None:
        raise BlastlensError(f"{model} needs OOD detection and two labels, one of them leukemic, for such decisions.")
    protocol, seeds, held_outs = read_held_outs(runs, dataset_hash(rows))
    pixels = load_pixels(data, rows, classifier.folder.view, cache)
    statistics = np.array(in_threads(_statistics, pixels, "statistics"))
    label = names.index(leukemic[0])
    return {
        "protocol": protocol,
        "seeds": seeds,
        "labels": [names[1 - label], names[label]],
        **measure(held_outs, statistics, label),
        "ranges": ranges(pixels, [row.label for row in rows], groups_of(rows)),
        "shifted": shifted(classifier, pixels, groups_of(rows), statistics),
    }


def ranges(pixels: np.ndarray, labels: Sequence[str], groups: np.ndarray) -> dict[str, Any]:
    """Range over donors of their cells' mean measurements, by label and measure: the quantiles `RANGE`.

    Args:
        pixels: uint8 (N, S, S, 3). labels, groups: (N,); donors with fewer than `MIN_IMAGES` images are left out.
    """
    measured = in_threads(lambda view: list(measure_cell(np.asarray(view)).values()), pixels, "cell measurements")
    values = np.array(measured)
    found = {}
    for label in sorted(set(labels)):
        of_label = np.array(labels) == label
        donors = [groups == group for group in np.unique(groups[of_label])]
        means = [values[donor & of_label].mean(axis=0) for donor in donors if (donor & of_label).sum() >= MIN_IMAGES]
        if means:
            low_high = np.quantile(means, RANGE, axis=0).T
            found[label] = {name: pair for name, pair in zip(CELL_MEASURES, low_high, strict=True)}
    return plain(found)


def groups_of(rows: Sequence[Row]) -> np.ndarray:
    """(N,) str."""
    return np.array([row.group for row in rows])


def _statistics(view: np.ndarray) -> list[float]:
    found = statistics_of(np.asarray(view))
    return [found[name] for name in MEASURES]


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.subject_evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder with OOD detection")
    parser.add_argument("--runs", type=Path, required=True, help="recorded runs, or a folder of train.crossval")
    parser.add_argument("--data", type=Path, required=True, help="the prepared dataset of these runs")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    path = arguments.model / "metrics.json"
    found = block(arguments.model, arguments.runs, arguments.data, arguments.cache)
    write_json(path, json.loads(path.read_text()) | {"subjects": found})
    print(json.dumps({name: found[name] for name in ("measured", "shifted")}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
