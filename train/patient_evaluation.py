"""The block "patients" of metrics.json: the cells of one patient classified together, on held-out patients.

A patient is classified as leukemic where the mean probability of leukemia over their cells reaches a threshold. The
threshold of a fold is chosen on the patients of the other folds. Patients are the groups of the data set: subjects that
share images are one.

Intervals: cells of one photograph share its focus, light and stain, so a patient's interval is over photographs (the
file names say which). It leaves out what all photographs of a patient share, such as slide and laboratory: it says how
well this patient's mean is known, not how certain the classification is. Healthy donors are few, so intervals over
patients are wide: Wilson's for rates, Newcombe's for AUROC, since a bootstrap of a few perfectly ranked patients would
give no interval. The share of leukemic subjects does not matter: both classes have the same weight in the threshold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

from blastlens import metrics
from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from blastlens.patients import NORMAL_QUANTILE, leukemic_labels, mean_interval, wilson
from train.baselines import without_network
from train.datasets import Row
from train.folds import FoldNetworks
from train.held_out import HeldOut, calibrated_without, plain

CELLS = (1, 5, 20, 50)  # per patient
DRAWS = 200
UNDECIDED = "undecided"
RULE = (
    "A patient is classified as leukemic where the mean probability of leukemia over their cells reaches the "
    "threshold; the threshold is the one with the best mean of sensitivity and specificity over the other folds' "
    "patients."
)


@dataclass(frozen=True, eq=False)
class Cohort:
    """G patients with N images.

    Attributes:
        names: (G,) sorted. leukemic: (G,) bool. fold: (G,) in whose test part each is.
        of_image: (N,) int, the patient of each image. photograph: (N,) the photograph that it was cut out of.
    """

    names: np.ndarray
    leukemic: np.ndarray
    fold: np.ndarray
    of_image: np.ndarray
    photograph: np.ndarray

    @classmethod
    def of(cls, groups: np.ndarray, leukemic: np.ndarray, fold: np.ndarray, photographs: Sequence[str]) -> "Cohort":
        """Build from columns of the images (N,); raises BlastlensError for a group of both classes or several folds."""
        names, first, of_image = np.unique(groups, return_index=True, return_inverse=True)
        if (leukemic[first][of_image] != leukemic).any() or (fold[first][of_image] != fold).any():
            raise BlastlensError("Classifying patients needs each group in one class and in one fold.")
        return cls(names, leukemic[first], fold[first], of_image, np.asarray(photographs))

    def means(self, probability: np.ndarray) -> np.ndarray:
        """Return (G,) means of the images' probabilities of leukemia (N,)."""
        return np.bincount(self.of_image, probability) / np.bincount(self.of_image)


def photograph_of(row: Row) -> str:
    """Return the photograph of a cell: C-NMC's names say subject, photograph and cell; otherwise the image itself."""
    parts = Path(row.file_name).stem.split("_")
    return "_".join(parts[1:3]) if parts[0] == "UID" and len(parts) == 5 else row.file_name


def best_threshold(means: np.ndarray, leukemic: np.ndarray) -> float:
    """Return the threshold of means (G,) with the best mean of sensitivity and specificity; `leukemic` (G,) bool.

    All thresholds between two neighbouring patients are equivalent: their middle is taken, and of several equally good
    gaps the widest.
    """
    ends = np.concatenate([[0.0], np.sort(means), [1.0]])
    middles, gaps = (ends[:-1] + ends[1:]) / 2, np.diff(ends)
    flagged = means >= middles[:, None]
    quality = flagged[:, leukemic].mean(axis=1) + (~flagged[:, ~leukemic]).mean(axis=1)
    best = quality > quality.max() - 1e-9
    return float(middles[best][gaps[best].argmax()])


def cross_fitted_thresholds(cohort: Cohort, means: np.ndarray | Mapping[int, np.ndarray]) -> np.ndarray:
    """Return (G,) the threshold of each patient, chosen on the other folds; raises BlastlensError where these lack
    leukemic or healthy patients.

    `means` (G,) are those of the patients, or of each fold those to choose its threshold from, where the calibration
    has to leave it out as well.
    """
    thresholds = np.empty(len(cohort.names))
    for k in np.unique(cohort.fold):
        others = cohort.fold != k
        if not cohort.leukemic[others].any() or cohort.leukemic[others].all():
            raise BlastlensError("Classifying patients needs leukemic and healthy ones in every two folds.")
        known = means[int(k)] if isinstance(means, Mapping) else means
        thresholds[cohort.fold == k] = best_threshold(known[others], cohort.leukemic[others])
    return thresholds


def held_out_thresholds(cohort: Cohort, held_out: HeldOut, label: int) -> np.ndarray:
    """Return (G,) the threshold of each patient, chosen on the other folds of one seed, calibrated without its own;
    `label` is leukemia."""
    without = {int(k): calibrated_without(held_out, int(k))[0][:, label] for k in np.unique(cohort.fold)}
    return cross_fitted_thresholds(cohort, {k: cohort.means(probability) for k, probability in without.items()})


def rates(right: np.ndarray, leukemic: np.ndarray) -> dict[str, Interval | None]:
    """Return sensitivity and specificity over patients with Wilson's intervals; None where there is no patient.

    `right` (G,), 0 to 1: whether, or how often, each is classified correctly; `leukemic` (G,) bool.
    """
    of = {"sensitivity": right[leukemic], "specificity": right[~leukemic]}
    return {name: wilson(float(values.sum()), len(values)) if len(values) else None for name, values in of.items()}


def classified(
    cohort: Cohort, probability: np.ndarray, thresholds: np.ndarray, label_names: Sequence[str], label: int
) -> dict[str, Any]:
    """Return the classification of each patient, and how often it is right.

    `sensitivity` and `specificity` classify every patient by the side of the threshold; `decided` only those whose
    interval does not hold the threshold; `at_half` uses 0.5, which was not chosen. `threshold` is for use: chosen on
    all patients, while the rates are of `of_folds`.

    Args:
        probability: (N,) of leukemia, without noise. thresholds: (G,), of `cross_fitted_thresholds`.
        label: which of `label_names` is leukemia.
    """
    means = cohort.means(probability)
    flagged = means >= thresholds
    right = flagged == cohort.leukemic
    sides = (label_names[1 - label], label_names[label])
    patients = []
    for g, name in enumerate(cohort.names):
        mine = cohort.of_image == g
        interval = mean_interval(probability[mine], cohort.photograph[mine].tolist())
        decided = interval.low > thresholds[g] or interval.high < thresholds[g]  # not where they are NaN
        patients.append(
            {
                "group": str(name),
                "label": sides[int(cohort.leukemic[g])],
                "images": int(mine.sum()),
                "photographs": len(np.unique(cohort.photograph[mine])),
                "share": float((probability[mine] >= 0.5).mean()),
                "mean": interval.value,
                "low": interval.low,
                "high": interval.high,
                "threshold": thresholds[g],
                "called": sides[int(flagged[g])] if decided else UNDECIDED,
                "right": bool(right[g]),
            }
        )
    decided = np.array([row["called"] != UNDECIDED for row in patients])
    return {
        "threshold": best_threshold(means, cohort.leukemic),
        "of_folds": [float(thresholds[cohort.fold == k][0]) for k in np.unique(cohort.fold)],
        "patients": patients,
        **rates(right, cohort.leukemic),
        "auroc": auroc_interval(means, cohort.leukemic),
        "undecided": int((~decided).sum()),
        "decided": {"people": int(decided.sum()), **rates(right[decided], cohort.leukemic[decided])},
        "at_half": rates((means >= 0.5) == cohort.leukemic, cohort.leukemic),
    }


def by_cells(
    cohort: Cohort, probability: np.ndarray, thresholds: np.ndarray, numbers: Sequence[int] = CELLS, draws: int = DRAWS
) -> list[dict[str, Any]]:
    """Return the rates when only so many cells of a patient are used.

    Cells are drawn at random from all photographs of a patient, without replacement; a patient who has fewer counts
    with all of them. The thresholds (G,) are those of all cells. A rate is the mean over `draws`, its interval that of
    a single draw.
    """
    rng = np.random.default_rng(0)
    # A random order of each patient's cells, the same for every number: its first n are n cells.
    cells = [probability[cohort.of_image == g] for g in range(len(cohort.names))]
    orders = [np.stack([rng.permutation(mine) for _ in range(draws)]) for mine in cells]
    found = []
    for number in numbers:
        flagged = [order[:, :number].mean(axis=1) >= t for order, t in zip(orders, thresholds, strict=True)]
        right = np.array([(f == truth).mean() for f, truth in zip(flagged, cohort.leukemic, strict=True)])
        fewer = sum(len(mine) <= number for mine in cells)
        found.append({"cells": number, **rates(right, cohort.leukemic), "people_with_fewer": int(fewer)})
    return found


def applies(networks: FoldNetworks) -> bool:
    """Whether there are two labels, one of them leukemic, and every image has a subject, whose group has one label."""
    names, groups = networks.label_names, networks.groups.tolist()
    one_label = len(set(zip(groups, networks.labels.tolist(), strict=True))) == len(set(groups))
    return len(names) == 2 and bool(leukemic_labels(names)) and one_label and all(row.subject for row in networks.rows)


def measure(networks: FoldNetworks) -> dict[str, Any] | None:
    """Return "patients" of metrics.json; None for images without subjects, or with labels that are not ours.

    `by_sigma` keeps the thresholds of images without noise, as a user would. `without_network` classifies the same
    patients by the same rule from the baselines of `train.baselines`.
    """
    if not applies(networks):
        return None
    names, held_out = networks.label_names, networks.predictions
    label = names.index(leukemic_labels(names)[0])
    photographs = [photograph_of(row) for row in networks.rows]
    cohort = Cohort.of(networks.groups, networks.labels == label, networks.fold_of, photographs)
    thresholds = held_out_thresholds(cohort, held_out, label)
    probability = networks.probabilities[:, :, label]

    def rates_at(means: np.ndarray, limits: np.ndarray) -> dict[str, Interval | None]:
        return rates((means >= limits) == cohort.leukemic, cohort.leukemic)

    baselines = []
    for name, found in without_network(networks).items():
        means = cohort.means(found[:, label])
        figures = rates_at(means, cross_fitted_thresholds(cohort, means))
        baselines.append({"name": name, **figures, "auroc": auroc_interval(means, cohort.leukemic)})
    return plain(
        {
            "protocol": networks.protocol,
            "seed": networks.seed,
            "rule": RULE,
            **classified(cohort, probability[0], thresholds, names, label),
            "by_sigma": [
                {"sigma": float(sigma), **rates_at(cohort.means(p), thresholds)}
                for sigma, p in zip(held_out.sigmas, probability, strict=True)
            ],
            "by_cells": by_cells(cohort, probability[0], thresholds),
            "without_network": baselines,
        }
    )


def auroc_interval(means: np.ndarray, leukemic: np.ndarray) -> Interval:
    """Return the AUROC of patients' means (G,) with its 95 % score interval, `leukemic` (G,) bool.

    Newcombe's method 5 (2006, doi 10.1002/sim.2324): the areas from which the measured one is less than 1.96 standard
    deviations away, with the variance of Hanley and McNeil (1982, doi 10.1148/radiology.143.1.7063747). It has a width
    even where the ranking is perfect.
    """
    area = metrics.score("auroc", leukemic.astype(int), np.stack([1 - means, means], axis=1), positive=1)
    positives, negatives = int(leukemic.sum()), int((~leukemic).sum())

    def away(true: float) -> float:
        others = (positives + negatives) / 2 - 1
        spread = 1 + others * (1 - true) / (2 - true) + others * true / (1 + true)
        return (area - true) ** 2 - NORMAL_QUANTILE**2 * true * (1 - true) * spread / (positives * negatives)

    inside = min(max(area, 1e-9), 1 - 1e-9)  # where `away` is negative; it is positive, or 0, at 0 and 1
    low = 0.0 if area == 0 else brentq(away, 0, inside)
    return Interval(area, low, 1.0 if area == 1 else brentq(away, inside, 1))
