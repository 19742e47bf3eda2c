"""The block "calibration" of metrics.json: calibration error, operating point, prediction sets, risk-coverage curve.

Everything is computed from held-out predictions. Thresholds are tested on folds that they were not chosen on. How
thresholds are applied to one image: `blastlens.thresholds`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastlens import bootstrap, metrics
from blastlens.metrics import Interval
from blastlens.patients import leukemic_labels
from train.held_out import CALIBRATION, HeldOut, calibrated_without, cross_calibrated, plain

SENSITIVITY = 0.95  # target of the operating point
COVERAGE = 0.9  # target of prediction sets
LEVELS = 21  # shares of leukemic images below a threshold that are tried, from 1 - target down to 0
SHORT = 0.05  # a label whose coverage is this far below the target has no sets, however wide its interval is
FEW = 20  # a group of fewer images is never reported as the worst: one or two of them would decide

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def measure(held_out: HeldOut, label_names: Sequence[str]) -> dict[str, Any]:
    """Return "calibration" of metrics.json; the first sigma of `held_out` is 0."""
    labels, groups = held_out.label, held_out.group
    probabilities = cross_calibrated(held_out)
    temperature_only = cross_calibrated(held_out, by_donor=False, bias=False)[0]

    def errors(p: Floats) -> dict[str, Interval]:
        return {
            "ece": bootstrap.summary(labels, p, groups, label_names)["ece"],
            "classwise_ece": bootstrap.classwise_ece(labels, p, groups),
        }

    by_sigma = [{"sigma": float(sigma), **errors(p)} for sigma, p in zip(held_out.sigmas, probabilities, strict=True)]
    curve = metrics.risk_coverage(labels, probabilities[0])
    return plain(
        {
            "scaling": CALIBRATION,
            # All classes have the same weight in the calibration, so this is the prevalence of leukemia it assumes.
            "prevalence": len(leukemic_labels(label_names)) / len(label_names) or None,
            "ece": by_sigma[0]["ece"],
            "classwise_ece": by_sigma[0]["classwise_ece"],
            "before": errors(temperature_only),
            "by_sigma": by_sigma,
            "operating_point": operating_point(held_out, probabilities, label_names),
            "prediction_sets": prediction_sets(held_out, probabilities, label_names),
            "risk_coverage": [{"coverage": coverage, "risk": risk} for coverage, risk in curve],
            "aurc": bootstrap.aurc(labels, probabilities[0], groups),
        }
    )


def operating_point(
    held_out: HeldOut, probabilities: Floats, label_names: Sequence[str], target: float = SENSITIVITY
) -> dict[str, Any] | None:
    """Return the probability of leukemia from which an image is flagged, with its sensitivity and specificity.

    Each fold is tested with a threshold chosen on the other folds, calibrated without it (`of_folds`). `threshold`, the
    one to use, is chosen on all folds. None where the labels do not say what is leukemia, or where leukemic or other
    images are not in two folds. `probabilities` (S, N, C) are calibrated, without noise first.
    """
    names = leukemic_labels(label_names)
    columns = [list(label_names).index(name) for name in names]
    labels, fold, groups = held_out.label, held_out.fold, held_out.group
    leukemic = np.isin(labels, columns)
    if not _in_two_folds(fold, leukemic) or leukemic.all():
        return None
    scores = probabilities[:, :, columns].sum(axis=2)

    def threshold(p: Floats, chosen: Booleans) -> float:
        mine = chosen & leukemic
        return min(0.5, sensitive_threshold(p[mine][:, columns].sum(axis=1), groups[mine], target))

    thresholds = {k: threshold(calibrated_without(held_out, k)[0], fold != k) for k in np.unique(fold)}
    reached = scores >= np.array([thresholds[k] for k in fold])
    most_probable = np.isin(probabilities[0].argmax(axis=1), columns)

    def found(flagged: Booleans) -> dict[str, Interval]:
        return {
            "sensitivity": bootstrap.mean(flagged, labels, groups, leukemic),
            "specificity": bootstrap.mean(~flagged, labels, groups, ~leukemic),
        }

    return {
        "target": target,
        "labels": list(names),
        "threshold": threshold(probabilities[0], np.full(len(labels), True)),
        "of_folds": [thresholds[k] for k in sorted(thresholds)],
        **found(reached[0]),
        "plain": found(most_probable),
        "worst_group": {
            name: _worst(reached[0] == leukemic, held_out, where, label_names, name)
            for name, where in (("sensitivity", leukemic), ("specificity", ~leukemic))
        },
        "how": (
            "the highest threshold, at most 0.5, that would have kept the sensitivity of all images and of the average "
            "group when each group in turn was left out of choosing it; tested on folds that it was not chosen on"
        ),
        "by_sigma": [{"sigma": float(s), **found(r)} for s, r in zip(held_out.sigmas, reached, strict=True)],
    }


def sensitive_threshold(scores: Floats, groups: NDArray[Any], target: float) -> float:
    """Return the highest threshold that `target` of the images of a new group can be expected to reach.

    A threshold that exactly `target` of these images reach is too high for new groups. The share below it is lowered
    from 1 - target until thresholds chosen without one group let through `target` of the images, and of the average
    group, when each is tested on the group that was left out. If no share is low enough: the lowest score. `scores`
    (N,) and `groups` (N,) are of the images that should reach it.
    """
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    rank = np.argsort(scores, kind="stable")
    ranked, owner = scores[rank], group[rank]
    weights = (np.ones(len(ranked)), 1 / counts[owner])  # by image, by group

    def chosen(share: float, kept: Booleans) -> float:
        return min(_quantile(ranked[kept], weight[kept], share) for weight in weights)

    for share in np.linspace(1 - target, 0, LEVELS):
        tried = [chosen(share, owner != g) for g in range(len(counts))] if len(counts) > 1 else [ranked[0]]
        reached = np.array([(ranked[owner == g] >= t).mean() for g, t in enumerate(tried)])
        if min(reached.mean(), reached @ counts / counts.sum()) >= target:
            return chosen(share, np.full(len(ranked), True))
    return float(ranked[0])


def prediction_sets(
    held_out: HeldOut, probabilities: Floats, label_names: Sequence[str], target: float = COVERAGE
) -> dict[str, Any] | None:
    """Return the thresholds of prediction sets, and how often a set holds the true label.

    Conformal sets for groups by pooled distributions (Dunn, Wasserman and Ramdas 2022, arXiv:1809.07441), one threshold
    per label: `target` of its images reach it, with the same weight for each group. Each fold is tested with thresholds
    chosen on the others, calibrated without it. None where a label is not in two folds. `probabilities` (S, N, C) are
    calibrated, without noise first.
    """
    labels, fold, groups, n_classes = held_out.label, held_out.fold, held_out.group, len(label_names)
    if not all(_in_two_folds(fold, labels == c) for c in range(n_classes)):
        return None

    def thresholds(p: Floats, chosen: Booleans) -> Floats:
        return set_thresholds(p[chosen], labels[chosen], groups[chosen], target)

    sets = np.empty(probabilities.shape, dtype=bool)
    for k in np.unique(fold):
        mine, found = fold == k, thresholds(calibrated_without(held_out, k)[0], fold != k)
        for level, p in enumerate(probabilities):
            inside = p[mine] >= found
            inside[np.arange(len(inside)), p[mine].argmax(axis=1)] = True
            sets[level, mine] = inside
    covered, sizes = sets[:, np.arange(len(labels)), labels], sets.sum(axis=2)
    everything = np.full(len(labels), True)

    def mean(values: NDArray[Any], where: Booleans = everything) -> Interval:
        return bootstrap.mean(values, labels, groups, where)

    by_class = {name: mean(covered[0], labels == c) for c, name in enumerate(label_names)}
    holds = all(one.high >= target and one.value > target - SHORT for one in by_class.values())
    fewest = min(len(np.unique(groups[(fold != k) & (labels == c)])) for k in np.unique(fold) for c in range(n_classes))
    return {
        "asked": target,
        "method": (
            "conformal prediction sets with one threshold per label, on the probability, every group of images the "
            "same weight; the most probable label is always in the set"
        ),
        "holds": holds,
        "why": _why(by_class, target, holds, fewest),
        "coverage": mean(covered[0]),
        "coverage_by_class": by_class,
        "worst_group": _worst(covered[0], held_out, everything, label_names, "coverage"),
        "mean_size": mean(sizes[0]),
        "single": mean(sizes[0] == 1),
        "thresholds": dict(zip(label_names, thresholds(probabilities[0], everything).tolist(), strict=True)),
        "by_sigma": [
            {"sigma": float(sigma), "coverage": mean(covered[level]), "mean_size": mean(sizes[level])}
            for level, sigma in enumerate(held_out.sigmas)
        ],
    }


def set_thresholds(probabilities: Floats, labels: NDArray[Any], groups: NDArray[Any], target: float) -> Floats:
    """Return (C,), for each label the highest threshold that `target` of its images reach, all groups weighing the
    same; `probabilities` (N, C), `labels` and `groups` (N,)."""
    found = np.empty(probabilities.shape[1])
    for c in range(len(found)):
        mine = np.flatnonzero(labels == c)
        mine = mine[np.argsort(probabilities[mine, c], kind="stable")]
        _, group, counts = np.unique(groups[mine], return_inverse=True, return_counts=True)
        found[c] = _quantile(probabilities[mine, c], 1 / counts[group], 1 - target)
    return found


def groups_needed(target: float) -> int:
    """Return how many groups a guarantee for any new group needs: of k groups and a new one, each is equally likely to
    have the lowest score (Lee, Barber and Willett 2023, arXiv:2306.06342), so 1 / (k + 1) may not exceed 1 - target."""
    return math.ceil(round(target / (1 - target), 9))


def _why(by_class: Mapping[str, Interval], target: float, holds: bool, fewest: int) -> str:
    def percent(value: float) -> str:
        return f"{100 * value:.3g} %"

    measured = ", ".join(
        f"{name} {percent(one.value)} ({percent(one.low)} to {percent(one.high)})" for name, one in by_class.items()
    )
    why = (
        "On groups that the thresholds were not chosen on, the set holds the true label in this share of images: "
        f"{measured}. "
    )
    if holds:
        why += f"No label is {percent(SHORT)} short of the {percent(target)} target, and every interval reaches it. "
    else:
        why += f"Not every label reaches the {percent(target)} target. "
    if fewest >= (needed := groups_needed(target)):
        return why + "It is an average over groups, not a guarantee for each of them."
    return why + (
        f"A guarantee for any new group would need {needed} groups of each label to choose thresholds from; there were "
        f"as few as {fewest}, so this is measured, not guaranteed."
    )


def _quantile(ranked: Floats, weights: Floats, share: float) -> float:
    """The highest of the values (N,), sorted, that leaves at most this share of the weight (N,) below it."""
    below = np.cumsum(weights) - weights
    return float(ranked[np.flatnonzero(below <= share * weights.sum() * (1 + 1e-12))[-1]])


def _in_two_folds(fold: NDArray[Any], chosen: Booleans) -> bool:
    return len(np.unique(fold[chosen])) > 1


def _worst(
    right: Booleans, held_out: HeldOut, where: Booleans, label_names: Sequence[str], name: str
) -> dict[str, Any]:
    """The group with the smallest share of `right` among the images chosen, of those with at least `FEW` images."""
    names, group, counts = np.unique(held_out.group[where], return_inverse=True, return_counts=True)
    shares = np.bincount(group, right[where]) / counts
    worst = int(np.argmin(np.where(counts >= min(FEW, counts.max()), shares, np.inf)))
    label = label_names[held_out.label[where][group == worst][0]]
    return {"group": str(names[worst]), "label": label, "images": int(counts[worst]), name: float(shares[worst])}
