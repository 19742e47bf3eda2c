"""What evaluation reports: scores of predicted probabilities, their intervals over groups, and calibration.

Labels are integers (N,), probabilities are (N, C) rows that sum to one; the predicted class is the largest
probability. Every score is computed from sums over images, so a bootstrap replicate, which only repeats
whole groups, is a weighted sum of per-group sums: thousands of replicates cost a few matrix products, and a
replicate's score is exactly the score of the images it holds. Files and figures live elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ECE_BINS = 15
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A measured value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def percentile_interval(values: ArrayLike) -> Interval:
    """The first of (1 + R,) numbers, with the 95 % percentile interval of the others, its replicates."""
    value, draws = float(np.asarray(values)[0]), np.asarray(values)[1:]
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(value, float(low), float(high))


@dataclass(frozen=True)
class Bin:
    """The images whose confidence lies in (low, high].

    Attributes:
        count: how many there are.
        confidence: their mean confidence, 0 to 1.
        accuracy: the share of them that was answered right, 0 to 1.
    """

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class _RankedPairs:
    """How often images of one class are ranked above others, by the groups of both; a tie counts 1/2."""

    above: NDArray[np.int64]  # (A,) the groups that hold images of the class
    below: NDArray[np.int64]  # (B,) the groups that hold images of other classes
    counts: Floats  # (A, B)


@dataclass(frozen=True)
class _GroupSums:
    """Sums over the images of each of G groups, from which every score follows."""

    confusion: Floats  # (G, C, C) images of a true class (row) given a predicted class (column)
    bins: Floats  # (G, ECE_BINS) sum of confidence minus number right, per confidence bin
    squared_error: Floats  # (G,) Brier sum
    log_loss: Floats  # (G,)
    pairs: dict[int, _RankedPairs]  # by class

    @property
    def held(self) -> NDArray[np.bool_]:
        """(G, C): whether a group has images of a class."""
        return self.confusion.sum(axis=2) > 0


@dataclass(frozen=True, eq=False)
class _Replicates:
    """Scores of the data as they are and of each replicate that kept every class."""

    scores: dict[str, Floats]
    stratified: bool


def softmax(logits: ArrayLike) -> Floats:
    """Probabilities (N, C) of logits (N, C)."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def confusion_matrix(labels: ArrayLike, probabilities: ArrayLike) -> NDArray[np.int64]:
    """Image counts (C, C): rows are the true class, columns the predicted one."""
    return _pooled(labels, probabilities).confusion[0].astype(np.int64)


def accuracy(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Share of images whose predicted class is right, 0 to 1."""
    return _one("accuracy", labels, probabilities)


def balanced_accuracy(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean recall over the classes that occur in `labels`, 0 to 1."""
    return _one("balanced_accuracy", labels, probabilities)


def weighted_f1(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """F1 of each class averaged with the class's image count as weight, 0 to 1."""
    return _one("weighted_f1", labels, probabilities)


def constant_weighted_f1(share: float) -> float:
    """Weighted F1, 0 to 1, of always giving one answer, where `share` of the images, 0 to 1, belong to its class.

    Its precision is `share` and its recall 1; every other class's F1 is 0.
    """
    return share * 2 * share / (1 + share)


def macro_f1(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Plain mean of the F1 of all C classes, 0 to 1; a class neither present nor predicted counts as 0."""
    return _one("macro_f1", labels, probabilities)


def sensitivity(labels: ArrayLike, probabilities: ArrayLike, positive: int) -> float:
    """Recall of the class with index `positive`, 0 to 1; NaN if no image belongs to it."""
    return _one("sensitivity", labels, probabilities, positive)


def specificity(labels: ArrayLike, probabilities: ArrayLike, positive: int) -> float:
    """Share of the other class's images that are not called `positive`, 0 to 1; two classes only."""
    return _one("specificity", labels, probabilities, positive)


def auroc(labels: ArrayLike, probabilities: ArrayLike, positive: int | None = None) -> float:
    """Area under the ROC curve, 0 to 1: of class `positive` for two classes, mean one-vs-rest for more.

    NaN if it is undefined because a class is absent.
    """
    return _one("auroc", labels, probabilities, positive)


def ece(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Expected calibration error, 0 to 1, over 15 equal-width bins (k/15, (k+1)/15] of the confidence.

    The confidence is the probability of the predicted class (Guo et al. 2017, arXiv:1706.04599).
    """
    return _one("ece", labels, probabilities)


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[Bin]:
    """How often answers of similar confidence were right, in equal-width bins (k/bins, (k+1)/bins] of the confidence.

    Only bins that hold images are listed. With `bins=ECE_BINS`, |accuracy - confidence| averaged over images is `ece`.

    Raises:
        ValueError: as `summary`.
    """
    _pooled(labels, probabilities)  # which checks them
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    index = np.searchsorted(np.arange(1, bins) / bins, confidence)
    held = [(k, index == k) for k in np.unique(index)]
    return [
        Bin(
            low=float(k / bins),
            high=float((k + 1) / bins),
            count=int(of_bin.sum()),
            confidence=float(confidence[of_bin].mean()),
            accuracy=float(right[of_bin].mean()),
        )
        for k, of_bin in held
    ]


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Brier score, 0 (perfect) to 2: squared error summed over classes, mean over images (Brier 1950)."""
    return _one("brier", labels, probabilities)


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log probability of the true class, in nats; clipped at machine epsilon."""
    return _one("log_loss", labels, probabilities)


def summary(
    labels: ArrayLike,
    probabilities: ArrayLike,
    label_names: Sequence[str],
    positive: int | str | None = None,
) -> dict[str, Any]:
    """Every score of one set of predictions.

    Args:
        labels: (N,) class indices.
        probabilities: (N, C), rows summing to one.
        label_names: the C names, in index order.
        positive: index or name of the class that counts as disease; two classes only.

    Returns:
        Scalars `accuracy`, `balanced_accuracy`, `weighted_f1`, `macro_f1`, `ece`, `brier`, `log_loss`;
        `auroc` for more than two classes, `auroc`, `sensitivity`, `specificity` for two with `positive`;
        `per_class` (name -> `precision`, `recall`, `f1`, `support`) and `confusion_matrix` (nested lists).
        Precision, recall and F1 with nothing to divide by are 0, as in scikit-learn; other scores that an
        absent class leaves undefined are NaN.

    Raises:
        ValueError: shapes that disagree, no images, labels out of range, rows that are no probabilities.
    """
    sums = _pooled(labels, probabilities, _positive_index(positive, label_names), len(label_names))
    scores = _scores(np.ones((1, 1)), sums, _positive_index(positive, label_names))
    scalars = {name: float(values[0]) for name, values in scores.items() if values.ndim == 1}
    per_class = [{name: float(scores[name][0, c]) for name in _PER_CLASS} for c in range(len(label_names))]
    return _report(scalars, per_class, sums, label_names)


def bootstrap(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    label_names: Sequence[str],
    positive: int | str | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """`summary` with a 95 % percentile interval over groups for every score (cluster bootstrap).

    Whole groups are drawn with replacement (Field and Welsh 2007, doi 10.1111/j.1467-9868.2007.00593.x),
    since images of one patient are not independent. When each group holds a single class the draw is
    stratified: as many groups of each class as there are, so that no replicate can lose a class when few
    groups have it. A class with a single group then has no spread, and its recall's interval says nothing.
    Otherwise groups are drawn from all, and a replicate in which a class is missing is discarded.

    Args:
        groups: (N,) group of each image, any values that can be sorted.
        replicates: how many bootstrap draws.
        seed: of the draws.
        labels, probabilities, label_names, positive: as for `summary`.

    Returns:
        The dict of `summary` with an `Interval` for every score (`support` and `confusion_matrix` stay
        counts), plus `bootstrap`: `groups`, `replicates`, `discarded`, `stratified`.

    Raises:
        ValueError: as `summary`; or every replicate had to be discarded.
    """
    index = _positive_index(positive, label_names)
    sums = _group_sums(labels, probabilities, groups, index, len(label_names))
    drawn = _replicated(sums, index, replicates, seed)

    scalars = {name: percentile_interval(values) for name, values in drawn.scores.items() if values.ndim == 1}
    per_class = [
        {name: percentile_interval(drawn.scores[name][:, c]) for name in _PER_CLASS} for c in range(len(label_names))
    ]
    report = _report(scalars, per_class, sums, label_names)
    kept = len(drawn.scores["support"]) - 1
    report["bootstrap"] = dict(
        groups=len(sums.held), replicates=replicates, discarded=replicates - kept, stratified=drawn.stratified
    )
    return report


def replicates_of(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    positive: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Every score of `summary` on the data as they are, first, and on the replicates of `bootstrap`: (1 + R,) each,
    (1 + R, C) those of single classes.

    The same labels, groups and seed draw the same replicates, so what is computed from two of these is paired.

    Args:
        labels, probabilities, groups, positive, replicates, seed: as for `bootstrap`.

    Raises:
        ValueError: as `bootstrap`.
    """
    return _replicated(_group_sums(labels, probabilities, groups, positive), positive, replicates, seed).scores


def paired_bootstrap(
    labels: ArrayLike,
    probabilities_a: ArrayLike,
    probabilities_b: ArrayLike,
    groups: ArrayLike,
    metric: str = "weighted_f1",
    positive: int | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """How much model a's score exceeds model b's on the same images, with a 95 % interval over groups.

    Both models are scored on the same draws of groups, so what makes a group hard for both cancels out.

    Args:
        metric: name of a scalar of `summary`.
        labels, probabilities_a, probabilities_b, groups, positive, replicates, seed: as for `bootstrap`.

    Raises:
        ValueError: as `bootstrap`, or `metric` is not a scalar score of this kind of data.
    """
    scores_a, scores_b = (
        replicates_of(labels, p, groups, positive, replicates, seed) for p in (probabilities_a, probabilities_b)
    )
    if scores_a.get(metric, np.empty((0, 0))).ndim != 1:
        known = ", ".join(name for name, values in scores_a.items() if values.ndim == 1)
        raise ValueError(f"no score named {metric!r} for these predictions; there are {known}")
    difference = scores_a[metric] - scores_b[metric]
    return percentile_interval(difference)


def classwise_ece(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Class-wise expected calibration error, 0 to 1 (Kull et al. 2019, arXiv:1910.12656).

    For each class: how far its stated probability is from how often it was the truth, whether or not it was the
    answer, in `ECE_BINS` equal-width bins and averaged over images; then the mean over the classes. What one class
    gains and another loses cannot cancel out in it.
    """
    return classwise_ece_interval(labels, probabilities, np.zeros(np.shape(labels), dtype=int), replicates=1).value


def classwise_ece_interval(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike, replicates: int = 2000, seed: int = 0
) -> Interval:
    """`classwise_ece` with the interval of `bootstrap`'s draws of groups; arguments as there."""
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    held = _group_sums(y, p, groups).held
    n_groups, n_classes = held.shape
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    gap = p - _one_hot(y, n_classes)
    bins = np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, p)
    sums = np.zeros((n_groups, n_classes, ECE_BINS))
    for c in range(n_classes):
        np.add.at(sums[:, c], (group, bins[:, c]), gap[:, c])
    weights = np.vstack([np.ones(n_groups), _draws(held, replicates, seed)[0]])  # row 0: the data as they are
    errors = np.abs(np.tensordot(weights, sums, axes=1)).sum(axis=2).mean(axis=1) / (weights @ np.bincount(group))
    return percentile_interval(errors)


def risk_coverage(labels: ArrayLike, probabilities: ArrayLike, points: int = 10) -> list[tuple[float, float]]:
    """How many answers are wrong when only the most confident ones are given (El-Yaniv and Wiener 2010).

    Returns:
        (coverage, risk) at the coverages 1/points, 2/points, ..., 1, both 0 to 1: the risk is the share of wrong
        answers among that share of the images, rounded up to whole ones. Where equal confidences leave open which
        images these are, it is the mean over all choices.

    Raises:
        ValueError: as `summary`, or no points.
    """
    if points < 1:
        raise ValueError(f"a curve needs at least one point, got {points}")
    curve = _risks(*_by_confidence(labels, probabilities))
    taken = -(-np.arange(1, points + 1) * len(curve) // points)
    return [(float(j / points), float(curve[k - 1])) for j, k in enumerate(taken, start=1)]


def aurc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the risk-coverage curve, 0 (never wrong) to 1: the mean risk over all coverages 1/N, ..., N/N
    (Geifman et al. 2019, arXiv:1805.08206), ties averaged as in `risk_coverage`."""
    return float(_risks(*_by_confidence(labels, probabilities)).mean())


def aurc_interval(
    labels: ArrayLike, probabilities: ArrayLike, groups: ArrayLike, replicates: int = 2000, seed: int = 0
) -> Interval:
    """`aurc` with the interval of `bootstrap`'s draws of groups; arguments as there.

    Ranks change with the draw, so each replicate is ranked anew: exactly the area of the images that it holds.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    held = _group_sums(y, p, groups).held
    group = np.unique(np.asarray(groups), return_inverse=True)[1]
    order = np.argsort(-p.max(axis=1), kind="stable")
    group, wrong = group[order], (p.argmax(axis=1) != y)[order]
    last = np.flatnonzero(np.diff(p.max(axis=1)[order], append=-1.0))  # of each block of equal confidence
    weights = np.vstack([np.ones(len(held)), _draws(held, replicates, seed)[0]])  # row 0: the data as they are
    rows = max(1, 2**22 // len(y))  # replicates at a time: some 32 MB
    areas = [_areas(weights[k : k + rows, group], wrong, last) for k in range(0, len(weights), rows)]
    found = np.concatenate(areas)
    return percentile_interval(found)


def mean_interval(
    values: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    where: ArrayLike | None = None,
    replicates: int = 2000,
    seed: int = 0,
) -> Interval:
    """The mean over images of any number known for each, with the interval of `bootstrap`'s draws of groups.

    With 0 and 1 as values it is a share: of answers that changed, of images of a class that were found.

    Args:
        values: (N,) numbers or truth values.
        labels: (N,) class indices, 0 or more; they decide the draw as in `bootstrap`.
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
    held = np.zeros((len(unique), int(y.max()) + 1), dtype=bool)
    held[group, y] = True
    weights = np.vstack([np.ones(len(unique)), _draws(held, replicates, seed)[0]])  # row 0: the data as they are
    total, count = (
        weights @ np.bincount(group[chosen], of_image[chosen], len(unique)).astype(np.float64)
        for of_image in (v, np.ones(v.shape))
    )
    means = _ratio(total, count, np.nan)
    kept = means[1:][~np.isnan(means[1:])]
    return percentile_interval(np.concatenate([means[:1], kept if len(kept) else means[:1]]))


@dataclass(frozen=True)
class Scaling:
    """What turns a network's logits into calibrated probabilities: softmax(logits / temperature + bias).

    Attributes:
        temperature: above 0.
        bias: one number per class, adding up to 0.
    """

    temperature: float
    bias: tuple[float, ...]

    @classmethod
    def identity(cls, n_classes: int) -> "Scaling":
        """The scaling that is plain softmax."""
        return cls(1.0, (0.0,) * n_classes)

    def apply(self, logits: ArrayLike) -> Floats:
        """Probabilities (N, C) of logits (N, C)."""
        return softmax(np.asarray(logits, dtype=np.float64) / self.temperature + np.asarray(self.bias))


def fit_scaling(
    logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None, bias: bool = True, penalty: float = 1e-2
) -> Scaling:
    """The scaling with the smallest log loss: bias-corrected temperature scaling (Alexandari et al. 2020,
    arXiv:1901.06852), or without `bias` temperature scaling (Guo et al. 2017, arXiv:1706.04599).

    The loss is convex in (1 / temperature, bias), so Newton's method finds its one minimum. A quadratic penalty,
    penalty / 2 * ((1 / temperature - 1)^2 + |bias|^2), keeps separable or one-class data from sending it to infinity,
    and a bias from following the few errors of a network that is nearly always right.

    Args:
        logits: (N, C).
        labels: (N,) class indices.
        weights: (N,) of the images in the loss, 0 or more; all the same by default.

    Returns:
        a temperature in 0.01 to 100, and a bias that is 0 throughout without `bias`.

    Raises:
        ValueError: shapes that disagree, labels out of range, values that are not finite.
    """
    z = np.asarray(logits, dtype=np.float64)
    y = np.asarray(labels)
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(z) or not np.isfinite(z).all():
        raise ValueError(f"expected finite logits (N, C) and labels (N,), got {z.shape} and {y.shape}")
    w = np.ones(len(z)) if weights is None else np.asarray(weights, dtype=np.float64)
    w = w / w.sum()
    z = z - z.mean(axis=1, keepdims=True)  # softmax does not see a row's mean; large ones cost precision
    n_classes = z.shape[1]
    truth = _one_hot(y, n_classes)
    # One column per parameter: the scores of the classes are features @ parameters.
    features = z[:, :, None]
    if bias:
        features = np.concatenate(
            [features, np.broadcast_to(np.eye(n_classes), (len(z), n_classes, n_classes))], axis=2
        )
    start = np.eye(features.shape[2])[0]

    def loss(parameters: Floats) -> float:
        scores = features @ parameters
        peak = scores.max(axis=1)
        nats = np.log(np.exp(scores - peak[:, None]).sum(axis=1)) + peak - (scores * truth).sum(axis=1)
        return float(w @ nats) + penalty / 2 * float(((parameters - start) ** 2).sum())

    def limited(parameters: Floats) -> Floats:
        return np.concatenate([parameters[:1].clip(0.01, 100), parameters[1:]])

    found, best = start, loss(start)
    for _ in range(100):
        p = softmax(features @ found)
        mean = np.einsum("nc,ncf->nf", p, features)
        slope = np.einsum("n,nc,ncf->f", w, p - truth, features) + penalty * (found - start)
        curve = np.einsum("n,nc,ncf,ncg->fg", w, p, features, features, optimize=True)
        curve += penalty * np.eye(len(found)) - np.einsum("n,nf,ng->fg", w, mean, mean)
        step = np.linalg.solve(curve, slope)
        length = 1.0
        while length > 1e-9 and loss(limited(found - length * step)) > best:
            length /= 2
        moved = limited(found - length * step)
        if best - loss(moved) < 1e-12:
            break
        found, best = moved, loss(moved)
    by_class = found[1:] - found[1:].mean() if bias else np.zeros(n_classes)
    return Scaling(float(1 / found[0]), tuple(by_class.tolist()))


_PER_CLASS = ("precision", "recall", "f1")


def _positive_index(positive: int | str | None, label_names: Sequence[str]) -> int | None:
    if isinstance(positive, str):
        if positive not in label_names:
            raise ValueError(f"no label named {positive!r} among {', '.join(label_names)}")
        return list(label_names).index(positive)
    return positive


def _one_hot(labels: NDArray[Any], n_classes: int) -> Floats:
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels must be integers from 0 to {n_classes - 1}")
    return np.eye(n_classes)[labels]


def _pooled(
    labels: ArrayLike, probabilities: ArrayLike, positive: int | None = None, n_classes: int | None = None
) -> _GroupSums:
    return _group_sums(labels, probabilities, np.zeros(np.shape(labels), dtype=int), positive, n_classes)


def _one(name: str, labels: ArrayLike, probabilities: ArrayLike, positive: int | None = None) -> float:
    scores = _scores(np.ones((1, 1)), _pooled(labels, probabilities, positive), positive)
    if name not in scores:
        raise ValueError(f"{name} of two classes needs the index of the positive one")
    return float(scores[name][0])


def _group_sums(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: ArrayLike,
    positive: int | None = None,
    n_classes: int | None = None,
) -> _GroupSums:
    y, p, names = np.asarray(labels), np.asarray(probabilities, dtype=np.float64), np.asarray(groups)
    if p.ndim != 2 or y.shape != p.shape[:1] or names.shape != y.shape or not len(y):
        raise ValueError(f"expected (N,), (N, C), (N,) with N > 0, got {y.shape}, {p.shape}, {names.shape}")
    if p.shape[1] != (n_classes or p.shape[1]):
        raise ValueError(f"{p.shape[1]} columns of probabilities for {n_classes} label names")
    n_classes = p.shape[1]
    if not (p.min() >= 0 and np.abs(p.sum(axis=1) - 1).max() < 1e-3):  # written so that NaN fails too
        raise ValueError("each row of probabilities must be at least 0 and sum to 1")
    if positive is not None and (n_classes != 2 or positive not in (0, 1)):
        raise ValueError(f"a positive class is 0 or 1 of two classes, got {positive} of {n_classes}")
    truth = _one_hot(y, n_classes)
    unique, group = np.unique(names, return_inverse=True)
    n_groups = len(unique)

    def per_group(cell: NDArray[Any], size: int, values: Floats | None = None) -> Floats:
        return np.bincount(group * size + cell, values, n_groups * size).reshape(n_groups, size).astype(np.float64)

    predicted = p.argmax(axis=1)
    confidence = p.max(axis=1)
    edges = np.arange(1, ECE_BINS) / ECE_BINS
    zero = np.zeros(len(y), dtype=int)
    tiny = np.finfo(np.float64).eps
    ranked = range(n_classes) if n_classes > 2 else [] if positive is None else [positive]
    return _GroupSums(
        confusion=per_group(y * n_classes + predicted, n_classes**2).reshape(n_groups, n_classes, n_classes),
        bins=per_group(np.searchsorted(edges, confidence), ECE_BINS, confidence - (predicted == y)),
        squared_error=per_group(zero, 1, ((p - truth) ** 2).sum(axis=1))[:, 0],
        log_loss=per_group(zero, 1, -np.log(np.clip((p * truth).sum(axis=1), tiny, 1)))[:, 0],
        pairs={c: _ranked_pairs(p[:, c], y == c, group) for c in ranked},
    )


def _ranked_pairs(score: Floats, positive: NDArray[np.bool_], group: NDArray[Any]) -> _RankedPairs:
    above, row = np.unique(group[positive], return_inverse=True)
    below, column = np.unique(group[~positive], return_inverse=True)
    order = np.argsort(score[~positive])
    negatives = score[~positive][order]
    lowest = np.zeros((len(negatives) + 1, len(below)))  # [k, b]: how many of the k lowest negatives are in b
    lowest[np.arange(1, len(negatives) + 1), column[order]] = 1
    np.cumsum(lowest, axis=0, out=lowest)
    counts = np.zeros((len(above), len(below)))
    for a in range(len(above)):
        own = score[positive][row == a]
        counts[a] = sum(lowest[np.searchsorted(negatives, own, side)].sum(axis=0) / 2 for side in ("left", "right"))
    return _RankedPairs(above, below, counts)


def _draws(held: NDArray[np.bool_], replicates: int, seed: int) -> tuple[Floats, bool]:
    """How often each replicate holds each group (R, G), and whether the draw was stratified by class.

    `held` (G, C): whether a group has images of a class.
    """
    stratified = bool((held.sum(axis=1) == 1).all())
    stratum = held.argmax(axis=1) if stratified else np.zeros(len(held), dtype=int)
    rng = np.random.default_rng(seed)
    weights = np.empty((replicates, len(held)))
    for s in np.unique(stratum):
        members = np.flatnonzero(stratum == s)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), replicates)
    return weights, stratified


def _by_confidence(labels: ArrayLike, probabilities: ArrayLike) -> tuple[Floats, Floats]:
    """Confidences, highest first, and whether each answer is wrong: (N,) both."""
    _pooled(labels, probabilities)  # which checks them
    p = np.asarray(probabilities, dtype=np.float64)
    order = np.argsort(-p.max(axis=1), kind="stable")
    return p.max(axis=1)[order], (p.argmax(axis=1) != np.asarray(labels))[order].astype(np.float64)


def _risks(confidence: Floats, wrong: Floats) -> Floats:
    """(N,) the risk among the k + 1 most confident answers; those of equal confidence are equally often wrong."""
    _, block, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    evened = (np.bincount(block, wrong) / count)[block]
    return np.cumsum(evened) / np.arange(1, len(wrong) + 1)


def _areas(copies: Floats, wrong: NDArray[np.bool_], last: NDArray[np.int64]) -> Floats:
    """(R,) areas under the risk-coverage curve of R replicates.

    `copies` (R, N): how often each holds each image, highest confidence first. `wrong` (N,). `last` (U,): the
    last image of each block of equal confidence.

    In a block of n images, e of them wrong, after N with E wrong, the k-th risk is (E + k e / n) / (N + k). Its sum
    over k is e + (E - N e / n) (H(N + n) - H(N)), with H the harmonic numbers.
    """
    images = np.cumsum(copies, axis=1)[:, last]
    errors = np.cumsum(copies * wrong, axis=1)[:, last]
    n, e = np.diff(images, axis=1, prepend=0), np.diff(errors, axis=1, prepend=0)
    before, wrong_before = images - n, errors - e
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, images[:, -1].max() + 1))])
    grown = harmonic[images.astype(np.int64)] - harmonic[before.astype(np.int64)]
    sums = e + (wrong_before - before * _ratio(e, n, 0.0)) * grown
    return sums.sum(axis=1) / images[:, -1]


def _ratio(numerator: Floats, denominator: Floats, otherwise: float) -> Floats:
    out = np.full(np.broadcast_shapes(numerator.shape, denominator.shape), otherwise)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _scores(weights: Floats, sums: _GroupSums, positive: int | None) -> dict[str, Floats]:
    """Scores of R weightings (R, G) of the groups: (R,) each, and (R, C) for those of single classes."""
    confusion = np.tensordot(weights, sums.confusion, axes=1)
    support, called = confusion.sum(axis=2), confusion.sum(axis=1)
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    n = support.sum(axis=1)
    present = support > 0
    recall, f1 = _ratio(hits, support, 0.0), _ratio(2 * hits, support + called, 0.0)
    scores = {
        "accuracy": hits.sum(axis=1) / n,
        "balanced_accuracy": recall.sum(axis=1) / present.sum(axis=1),
        "weighted_f1": (f1 * support).sum(axis=1) / n,
        "macro_f1": f1.mean(axis=1),
        "ece": np.abs(weights @ sums.bins).sum(axis=1) / n,
        "brier": weights @ sums.squared_error / n,
        "log_loss": weights @ sums.log_loss / n,
        "precision": _ratio(hits, called, 0.0),
        "recall": recall,
        "f1": f1,
        "support": support,
    }
    if positive is not None:
        defined = np.where(present, recall, np.nan)
        scores["sensitivity"], scores["specificity"] = defined[:, positive], defined[:, 1 - positive]
    if sums.pairs:
        areas = [
            _ratio(
                ((weights[:, pairs.above] @ pairs.counts) * weights[:, pairs.below]).sum(axis=1),
                support[:, c] * (n - support[:, c]),
                np.nan,
            )
            for c, pairs in sums.pairs.items()
        ]
        scores["auroc"] = np.mean(areas, axis=0)
    return scores


def _replicated(sums: _GroupSums, positive: int | None, replicates: int, seed: int) -> _Replicates:
    weights, stratified = _draws(sums.held, replicates, seed)
    scores = _scores(np.vstack([np.ones((1, weights.shape[1])), weights]), sums, positive)
    present = scores["support"] > 0
    kept = np.all(present == present[0], axis=1)
    if kept.sum() == 1:
        raise ValueError(f"each of the {replicates} replicates of {len(sums.held)} groups lost a class: too few groups")
    return _Replicates({name: values[kept] for name, values in scores.items()}, stratified)


def _report(
    scalars: dict[str, Any], per_class: list[dict[str, Any]], sums: _GroupSums, label_names: Sequence[str]
) -> dict[str, Any]:
    counts = sums.confusion.sum(axis=0).astype(int)
    for entry, support in zip(per_class, counts.sum(axis=1), strict=True):
        entry["support"] = int(support)
    named = dict(zip(label_names, per_class, strict=True))
    return {**scalars, "per_class": named, "confusion_matrix": counts.tolist()}
