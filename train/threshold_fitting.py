"""What can be decided from held-out probabilities, tested on other people than it was chosen on: from which
probability of leukemia an image is flagged, and which labels cannot be ruled out. Pure: no files, no networks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastlens import bootstrap
from blastlens.metrics import Interval
from blastlens.patients import leukemic_labels
from blastlens.thresholds import in_set
from train.crossval import HeldOut, calibrated_without

SENSITIVITY = 0.95  # asked of the operating point
COVERAGE = 0.9  # asked of prediction sets
LEVELS = 21  # shares of leukemic images below a threshold that are tried, from what was asked down to none
SHORT = 0.05  # a label this far below what was asked has no sets, however wide its interval is
FEW = 20  # a group of fewer images is not called the worst: one or two of them would decide

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


def operating_point(
    held_out: HeldOut,
    probabilities: Floats,
    groups: NDArray[Any],
    label_names: Sequence[str],
    target: float = SENSITIVITY,
) -> dict[str, Any] | None:
    """The probability of leukemia from which an image is flagged, and what that finds and costs on other people.

    Each fold's images are flagged by a threshold chosen on the other folds, calibrated without it: `of_folds`. The one
    that is given for use, `threshold`, is chosen on all folds. None for labels of which nobody knows what is leukemia,
    and where the folds lack leukemic or other images.

    Args:
        probabilities: (S, N, C), calibrated, without noise first.
    """
    names = leukemic_labels(label_names)
    columns = [list(label_names).index(name) for name in names]
    labels, fold = held_out.label, held_out.fold
    leukemic = np.isin(labels, columns)
    if not _in_two_folds(fold, leukemic) or leukemic.all():
        return None
    scores = probabilities[:, :, columns].sum(axis=2)

    def threshold(p: Floats, chosen: Booleans) -> float:
        mine = chosen & leukemic
        return min(0.5, sensitive_threshold(p[mine][:, columns].sum(axis=1), groups[mine], target))

    thresholds = {k: threshold(calibrated_without(held_out, k)[0], fold != k) for k in np.unique(fold)}
    reached = scores >= np.array([thresholds[k] for k in fold])
    called = np.isin(probabilities[0].argmax(axis=1), columns)

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
        "plain": found(called),
        "worst_group": {
            "sensitivity": _worst(reached[0] == leukemic, labels, groups, leukemic, label_names, "sensitivity"),
            "specificity": _worst(reached[0] == leukemic, labels, groups, ~leukemic, label_names, "specificity"),
        },
        "how": (
            "the highest threshold, at most 0.5, that would have kept the sensitivity of all images and of the average "
            "group when each group in turn was left out of choosing it; tested on folds that it was not chosen on"
        ),
        "by_sigma": [{"sigma": float(s), **found(r)} for s, r in zip(held_out.sigmas, reached, strict=True)],
    }


def sensitive_threshold(scores: Floats, groups: NDArray[Any], target: float) -> float:
    """The highest threshold that images of a group it was not chosen on can be expected to reach.

    A threshold that `target` of the images reach is too high for new people: it was fitted to these. So the share
    below it is lowered, from 1 - target, until thresholds chosen without a group let through `target` of the images,
    and of the average group, when each is tried on the group that was left out. Where no share is low enough it is
    the lowest score.

    Args:
        scores: (N,) of the images that should reach it. groups: (N,).
    """
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    rank = np.argsort(scores, kind="stable")
    ranked, owner = scores[rank], group[rank]
    by_image, by_group = np.ones(len(ranked)), 1 / counts[owner]

    def chosen(share: float, kept: Booleans) -> float:
        return min(_quantile(ranked[kept], weight[kept], share) for weight in (by_image, by_group))

    everybody = np.full(len(ranked), True)
    for share in np.linspace(1 - target, 0, LEVELS):
        tried = [chosen(share, owner != g) for g in range(len(counts))] if len(counts) > 1 else [ranked[0]]
        reached = np.array([(ranked[owner == g] >= t).mean() for g, t in enumerate(tried)])
        if min(reached.mean(), reached @ counts / counts.sum()) >= target:
            return chosen(share, everybody)
    return float(ranked[0])


def prediction_sets(
    held_out: HeldOut,
    probabilities: Floats,
    groups: NDArray[Any],
    label_names: Sequence[str],
    asked: float = COVERAGE,
) -> dict[str, Any] | None:
    """The labels that cannot be ruled out, and whether the true one is among them as often as asked on other people.

    Conformal sets for groups by pooled distributions (Dunn, Wasserman and Ramdas 2022, arXiv:1809.07441), one
    threshold per label: of its images, with every group the same weight, `asked` reach it. Each fold is tested with
    thresholds chosen on the others, calibrated without it. None where the folds lack a label.

    Args:
        probabilities: (S, N, C), calibrated, without noise first.
    """
    labels, fold, n_classes = held_out.label, held_out.fold, len(label_names)
    if not all(_in_two_folds(fold, labels == c) for c in range(n_classes)):
        return None

    def thresholds(p: Floats, chosen: Booleans) -> Floats:
        return set_thresholds(p[chosen], labels[chosen], groups[chosen], asked)

    sets = np.empty(probabilities.shape, dtype=bool)
    for k in np.unique(fold):
        mine, found = fold == k, thresholds(calibrated_without(held_out, k)[0], fold != k)
        for level, p in enumerate(probabilities):
            sets[level, mine] = in_set(p[mine], found)
    covered, sizes = sets[:, np.arange(len(labels)), labels], sets.sum(axis=2)
    by_class = {name: bootstrap.mean(covered[0], labels, groups, labels == c) for c, name in enumerate(label_names)}
    holds = all(one.high >= asked and one.value > asked - SHORT for one in by_class.values())
    for_use = thresholds(probabilities[0], np.full(len(labels), True))
    fewest = min(len(np.unique(groups[(fold != k) & (labels == c)])) for k in np.unique(fold) for c in range(n_classes))
    return {
        "asked": asked,
        "method": (
            "conformal prediction sets with one threshold per label, on the probability, every group of images the "
            "same weight; the most probable label is always in the set"
        ),
        "holds": holds,
        "why": _why(by_class, asked, holds, fewest),
        "coverage": bootstrap.mean(covered[0], labels, groups),
        "coverage_by_class": by_class,
        "worst_group": _worst(covered[0], labels, groups, np.full(len(labels), True), label_names, "coverage"),
        "mean_size": bootstrap.mean(sizes[0], labels, groups),
        "single": bootstrap.mean(sizes[0] == 1, labels, groups),
        "thresholds": dict(zip(label_names, for_use.tolist(), strict=True)),
        "by_sigma": [
            {
                "sigma": float(sigma),
                "coverage": bootstrap.mean(covered[level], labels, groups),
                "mean_size": bootstrap.mean(sizes[level], labels, groups),
            }
            for level, sigma in enumerate(held_out.sigmas)
        ],
    }


def set_thresholds(probabilities: Floats, labels: NDArray[Any], groups: NDArray[Any], asked: float) -> Floats:
    """(C,) for each label the highest threshold that `asked` of its images reach, every group weighing the same.

    `probabilities` (N, C), `labels` and `groups` (N,).
    """
    found = np.empty(probabilities.shape[1])
    for c in range(len(found)):
        mine = np.flatnonzero(labels == c)
        mine = mine[np.argsort(probabilities[mine, c], kind="stable")]
        _, group, counts = np.unique(groups[mine], return_inverse=True, return_counts=True)
        found[c] = _quantile(probabilities[mine, c], 1 / counts[group], 1 - asked)
    return found


def groups_needed(asked: float) -> int:
    """How many groups a guarantee for any new one needs: with fewer, its threshold is below all scores.

    Of k groups and a new one, each is as likely to have the lowest score (Lee, Barber and Willett 2023,
    arXiv:2306.06342), so 1 / (k + 1) may not exceed 1 - asked.
    """
    return math.ceil(round(asked / (1 - asked), 9))


def _why(by_class: Mapping[str, Interval], asked: float, holds: bool, fewest: int) -> str:
    def percent(value: float) -> str:
        return f"{100 * value:.3g} %"

    verdict = (
        f"No label is {percent(SHORT)} short of the {percent(asked)} asked, and every interval reaches it."
        if holds
        else f"Not every label reaches the {percent(asked)} asked."
    )
    measured = ", ".join(
        f"{name} {percent(one.value)} ({percent(one.low)} to {percent(one.high)})" for name, one in by_class.items()
    )
    needed = groups_needed(asked)
    limit = (
        f"A guarantee for any new group would need {needed} groups of each label to choose thresholds from; there were "
        f"as few as {fewest}, so this is measured, not guaranteed."
        if fewest < needed
        else "It is an average over groups, and no promise for every single one."
    )
    return (
        f"On groups that the thresholds were not chosen on, the set holds the true label in this share of images: "
        f"{measured}. {verdict} {limit}"
    )


def _quantile(ranked: Floats, weights: Floats, share: float) -> float:
    """The highest of the values (N,), sorted, that leaves at most this share of the weight (N,) below it."""
    below = np.cumsum(weights) - weights
    return float(ranked[np.flatnonzero(below <= share * weights.sum() * (1 + 1e-12))[-1]])


def _in_two_folds(fold: NDArray[Any], chosen: Booleans) -> bool:
    """Whether images are chosen in at least two folds, so that thresholds of one can be tested on another."""
    return len(np.unique(fold[chosen])) > 1


def _worst(
    right: Booleans,
    labels: NDArray[Any],
    groups: NDArray[Any],
    where: Booleans,
    label_names: Sequence[str],
    name: str,
) -> dict[str, Any]:
    """The group with the smallest share of `right` among the images chosen, of those with at least `FEW` images."""
    names, group, counts = np.unique(groups[where], return_inverse=True, return_counts=True)
    shares = np.bincount(group, right[where]) / counts
    worst = int(np.argmin(np.where(counts >= min(FEW, counts.max()), shares, np.inf)))
    label = label_names[labels[where][group == worst][0]]
    return {"group": str(names[worst]), "label": label, "images": int(counts[worst]), name: float(shares[worst])}
