"""95 % intervals of the scores in `metrics`: a cluster bootstrap over groups, since images of a patient are alike.

Whole groups are drawn with replacement (Field and Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x). When each group
holds a single class, as many groups of each class are drawn as there are, so that no replicate loses a class of which
few groups exist. Otherwise groups are drawn from all, and replicates without one of the classes are discarded.
The same labels, groups and seed draw the same replicates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .metrics import Floats, GroupSums, Interval, blocks_of, ratio, report, risks_of, scalar


def percentile_interval(values: ArrayLike) -> Interval:
    """The first of (1 + R,) numbers, with the 95 % percentile interval of the others, its replicates.

    Replicates that are NaN are left out; without any other, both ends are the value.
    """
    value, draws = float(np.asarray(values)[0]), np.asarray(values)[1:]
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, [0.025, 0.975]) if len(draws) else (value, value)
    return Interval(value, float(low), float(high))


def summary(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    label_names: Sequence[str],
    positive: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """`metrics.summary` with an `Interval` for every score.

    A class with a single group has no spread, so the interval of its recall is meaningless.

    Args:
        groups: (N,) group of each image, any values that can be sorted.
        replicates: how many bootstrap draws.
        seed: of the draws.
        labels, probabilities, label_names, positive: as for `metrics.summary`.

    Returns:
        The dict of `metrics.summary` (`support` and `confusion_matrix` stay counts), plus `bootstrap`: `groups`,
        `replicates`, `discarded`, `stratified`.

    Raises:
        ValueError: as `metrics.summary`; or every replicate had to be discarded.
    """
    sums = GroupSums.of(labels, probabilities, groups, positive)
    scores = _replicates(sums, replicates, seed)
    found = report(sums, scores, label_names, percentile_interval)
    discarded = replicates - (len(scores["support"]) - 1)
    stratified = bool((sums.holds.sum(axis=1) == 1).all())
    found["bootstrap"] = dict(groups=len(sums.holds), replicates=replicates, discarded=discarded, stratified=stratified)
    return found


def replicates(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    positive: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Every score of the data, first, and of each replicate: (1 + R,) each, (1 + R, C) those of single classes.

    What is computed from two of these, for the same labels, groups and seed, is paired.
    """
    return _replicates(GroupSums.of(labels, probabilities, groups, positive), replicates, seed)


def difference(
    labels: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    groups: ArrayLike,
    metric: str = "weighted_f1",
    positive: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """Score of model a minus that of model b on the same images, with its paired 95 % interval.

    Both models are scored on the same draws of groups, so what makes a group hard for both cancels out.

    Args:
        metric: name of a scalar of `metrics.summary`.
        labels, probabilities_a, probabilities_b, groups, positive, replicates, seed: as for `summary`.

    Raises:
        ValueError: as `summary`, or `metric` is not a scalar score of this kind of data.
    """
    a, b = (
        scalar(_replicates(GroupSums.of(labels, p, groups, positive), replicates, seed), metric)
        for p in (probabilities_a, probabilities_b)
    )
    return percentile_interval(a - b)


def mean(
    values: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    where: ArrayLike | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean over images of any number known for each, with its interval; a share if the values are 0 and 1.

    Args:
        values: (N,) numbers or truth values.
        labels: (N,) class indices, 0 or more; they decide whether the draw is stratified.
        groups: (N,) group of each image.
        where: (N,) which images the mean is over, all by default. A replicate without any of them is left out.

    Raises:
        ValueError: shapes that disagree, or no image to take the mean of.
    """
    v, y, names = np.asarray(values, dtype=np.float64), np.asarray(labels), np.asarray(groups)
    chosen = np.full(v.shape, True) if where is None else np.asarray(where, dtype=bool)
    if v.ndim != 1 or not v.shape == y.shape == names.shape == chosen.shape or not chosen.any():
        raise ValueError(f"expected (N,) each with an image chosen, got {v.shape}, {y.shape}, {names.shape}")
    unique, group = np.unique(names, return_inverse=True)
    holds = np.zeros((len(unique), int(y.max()) + 1), dtype=bool)
    holds[group, y] = True
    weights = group_weights(holds, replicates, seed)
    total, count = (
        weights @ np.bincount(group[chosen], per_image[chosen], len(unique)) for per_image in (v, np.ones(v.shape))
    )
    return percentile_interval(ratio(total, count))


def classwise_ece(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike, replicates: int = 2000, seed: int = 0
) -> Interval:
    """Class-wise expected calibration error (see `GroupSums.classwise_ece`); arguments as for `summary`."""
    sums = GroupSums.of(labels, probabilities, groups)
    return percentile_interval(sums.classwise_ece(group_weights(sums.holds, replicates, seed)))


def aurc(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike, replicates: int = 2000, seed: int = 0
) -> Interval:
    """Area under the risk-coverage curve, 0 (never wrong) to 1: the mean risk over the coverages 1/N, ..., N/N (Geifman
    et al. 2019, arXiv:1805.08206). Each replicate is ranked anew; arguments as for `summary`.
    """
    sums, blocks = GroupSums.of(labels, probabilities, groups), blocks_of(labels, probabilities)
    weights = group_weights(sums.holds, replicates, seed)
    return percentile_interval([risks_of(*blocks, copies[sums.group]).mean() for copies in weights])


def group_weights(holds: NDArray[np.bool_], replicates: int, seed: int) -> Floats:
    """How often the data, first, and each replicate contain each group: (1 + R, G).

    `holds` (G, C): whether a group has images of a class.
    """
    stratified = (holds.sum(axis=1) == 1).all()
    stratum = holds.argmax(axis=1) if stratified else np.zeros(len(holds), dtype=int)
    rng = np.random.default_rng(seed)
    weights = np.ones((1 + replicates, len(holds)))
    for s in np.unique(stratum):
        members = np.flatnonzero(stratum == s)
        weights[1:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), replicates)
    return weights


def _replicates(sums: GroupSums, replicates: int, seed: int) -> dict[str, Floats]:
    scores = sums.scores(group_weights(sums.holds, replicates, seed))
    present = scores["support"] > 0
    kept = np.all(present == present[0], axis=1)
    if kept.sum() == 1:
        raise ValueError(f"all {replicates} replicates of {len(sums.holds)} groups lost a class: too few groups")
    return {name: values[kept] for name, values in scores.items()}
