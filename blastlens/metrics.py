"""Scores of predicted probabilities, equal to scikit-learn's, which is not needed to serve a model.

Labels are integers (N,), probabilities are (N, C) rows that sum to 1; the predicted class is the largest probability.
Every score follows from sums over the images of each group, so that `bootstrap` scores thousands of replicates, which
only repeat whole groups, with a few matrix products. Metrics whose unit is the donor are in `donor_metrics`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ECE_BINS = 15
Floats = NDArray[np.float64]
PER_CLASS = ("precision", "recall", "f1")


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its 95 % interval, NaN where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan

    @classmethod
    def from_record(cls, recorded: Mapping[str, Any] | None) -> "Interval | None":
        """An interval of metrics.json; None if it has no value. Missing ends are NaN."""
        if recorded is None or recorded["value"] is None:
            return None
        ends = (recorded.get(end) for end in ("low", "high"))
        return cls(float(recorded["value"]), *(np.nan if end is None else float(end) for end in ends))


@dataclass(frozen=True)
class Bin:
    """The `count` images whose confidence is in (low, high]: their mean confidence and their accuracy, 0 to 1."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


def softmax(logits: ArrayLike) -> Floats:
    """Probabilities (N, C) of logits (N, C)."""
    logits = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def summary(
    labels: ArrayLike, probabilities: ArrayLike, label_names: Sequence[str], positive: int | None = None
) -> dict[str, Any]:
    """All scores of one set of predictions.

    Args:
        labels: (N,) class indices.
        probabilities: (N, C), rows that sum to 1.
        label_names: the C names, in index order.
        positive: index of the class that counts as disease; two classes only.

    Returns:
        `accuracy`, `balanced_accuracy` (mean recall of the classes that occur), `weighted_f1`, `macro_f1` (a class that
        neither occurs nor is predicted counts as 0), `ece` (expected calibration error over `ECE_BINS` equal-width bins
        (k/15, (k+1)/15] of the confidence, Guo et al. 2017, arXiv:1706.04599), `brier` (0 to 2: squared error summed
        over classes), `log_loss` (nats, clipped at machine epsilon); for two classes with `positive` also `auroc`,
        `sensitivity`, `specificity`, for more classes `auroc` (mean one-vs-rest);
        `per_class` (name -> `precision`, `recall`, `f1`, `support`) and `confusion_matrix` (rows: true class).
        Precision, recall and F1 with a denominator of 0 are 0; other scores that an absent class leaves undefined are
        NaN.

    Raises:
        ValueError: shapes that disagree, no images, labels out of range, rows that are not probabilities.
    """
    sums = GroupSums.of(labels, probabilities, None, positive)
    return report(sums, sums.scores(np.ones((1, 1))), label_names, lambda values: float(values[0]))


def score(name: str, labels: ArrayLike, probabilities: ArrayLike, positive: int | None = None) -> float:
    """One score of `summary`.

    Raises:
        ValueError: `name` is not a score of these predictions, or as `summary`.
    """
    return float(scalar(GroupSums.of(labels, probabilities, None, positive).scores(np.ones((1, 1))), name)[0])


def scalar(scores: Mapping[str, Floats], name: str) -> Floats:
    """The (R,) values of one score; raises ValueError for a name that is none."""
    known = [one for one, values in scores.items() if values.ndim == 1]
    if name not in known:
        raise ValueError(f"no score named {name!r} for these predictions; there are {', '.join(known)}")
    return scores[name]


def constant_weighted_f1(share: float) -> float:
    """Weighted F1, 0 to 1, of always predicting a class to which `share` of the images, 0 to 1, belong."""
    return share * 2 * share / (1 + share)


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[Bin]:
    """Confidence and accuracy in those equal-width bins (k/bins, (k+1)/bins] of the confidence that hold images.

    Raises:
        ValueError: as `summary`.
    """
    y, p = _checked(labels, probabilities)
    confidence, correct = p.max(axis=1), p.argmax(axis=1) == y
    index = _bin_of(confidence, bins)
    return [
        Bin(
            low=float(k / bins),
            high=float((k + 1) / bins),
            count=int((index == k).sum()),
            confidence=float(confidence[index == k].mean()),
            accuracy=float(correct[index == k].mean()),
        )
        for k in np.unique(index)
    ]


def risk_coverage(labels: ArrayLike, probabilities: ArrayLike, points: int = 10) -> list[tuple[float, float]]:
    """Share of wrong predictions among the most confident ones (El-Yaniv and Wiener 2010).

    Returns:
        (coverage, risk) at the coverages 1/points, 2/points, ..., 1, both 0 to 1; the number of images is rounded up.
        Where equal confidences leave open which images are covered, the risk is the mean over all choices.

    Raises:
        ValueError: as `summary`, or no points.
    """
    if points < 1:
        raise ValueError(f"a curve needs at least one point, got {points}")
    block, wrong = blocks_of(labels, probabilities)
    risks = risks_of(block, wrong, np.ones(len(block)))
    taken = -(-np.arange(1, points + 1) * len(risks) // points)
    return [(float(j / points), float(risks[k - 1])) for j, k in enumerate(taken, start=1)]


def blocks_of(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Of each image, the rank of its confidence, 0 for the highest, and whether the prediction is wrong: (N,) each."""
    y, p = _checked(labels, probabilities)
    return np.unique(-p.max(axis=1), return_inverse=True)[1], p.argmax(axis=1) != y


def risks_of(block: NDArray[np.int64], wrong: NDArray[np.bool_], copies: Floats) -> Floats:
    """Share of wrong predictions among the k most confident ones, for each k.

    `copies` (N,): how often each image counts. Where equal confidences leave open which images are the k most
    confident, it is the mean over all choices.
    """
    count, errors = np.bincount(block, copies), np.bincount(block, copies * wrong)
    rates = np.repeat(ratio(errors, count, 0.0), count.astype(np.int64))
    return np.cumsum(rates) / np.arange(1, len(rates) + 1)


@dataclass(frozen=True)
class RankedPairs:
    """How often images of one class are ranked above others, by the groups of both; a tie counts 1/2."""

    above: NDArray[np.int64]  # (A,) the groups that hold images of the class
    below: NDArray[np.int64]  # (B,) the groups that hold images of other classes
    counts: Floats  # (A, B)


@dataclass(frozen=True)
class GroupSums:
    """Sums over the images of each of G groups, from which every score follows."""

    group: NDArray[np.int64]  # (N,) index of each image's group
    confusion: Floats  # (G, C, C) images of a true class (row) with a predicted class (column)
    gaps: Floats  # (G, ECE_BINS) sum of confidence minus number correct, by bin of the confidence
    class_gaps: Floats  # (G, C, ECE_BINS) sum of probability minus number of images of a class, by bin of the former
    squared_error: Floats  # (G,)
    log_loss: Floats  # (G,)
    pairs: dict[int, RankedPairs]  # by class
    positive: int | None

    @classmethod
    def of(
        cls,
        labels: ArrayLike,
        probabilities: ArrayLike,
        groups: ArrayLike | None = None,
        positive: int | None = None,
    ) -> "GroupSums":
        """Sum up predictions; without `groups` (N,), all images are one group.

        Raises:
            ValueError: as `summary`.
        """
        y, p = _checked(labels, probabilities)
        names = np.zeros(y.shape, dtype=int) if groups is None else np.asarray(groups)
        if names.shape != y.shape:
            raise ValueError(f"expected one group for each of {len(y)} images, got {names.shape}")
        n_classes = p.shape[1]
        if positive is not None and (n_classes != 2 or positive not in (0, 1)):
            raise ValueError(f"a positive class is 0 or 1 of two classes, got {positive} of {n_classes}")
        unique, group = np.unique(names, return_inverse=True)
        truth, predicted, confidence = np.eye(n_classes)[y], p.argmax(axis=1), p.max(axis=1)

        def sums(cell: NDArray[np.int64] | int, shape: tuple[int, ...], values: Floats | None = None) -> Floats:
            size = int(np.prod(shape))
            return np.bincount(group * size + cell, values, len(unique) * size).reshape(-1, *shape).astype(np.float64)

        ranked = range(n_classes) if n_classes > 2 else [] if positive is None else [positive]
        return cls(
            group=group,
            confusion=sums(y * n_classes + predicted, (n_classes, n_classes)),
            gaps=sums(_bin_of(confidence, ECE_BINS), (ECE_BINS,), confidence - (predicted == y)),
            class_gaps=np.stack(
                [sums(_bin_of(p[:, c], ECE_BINS), (ECE_BINS,), p[:, c] - truth[:, c]) for c in range(n_classes)], axis=1
            ),
            squared_error=sums(0, (), ((p - truth) ** 2).sum(axis=1)),
            log_loss=sums(0, (), -np.log(np.clip((p * truth).sum(axis=1), np.finfo(np.float64).eps, 1))),
            pairs={c: ranked_pairs(p[:, c], y == c, group) for c in ranked},
            positive=positive,
        )

    @property
    def holds(self) -> NDArray[np.bool_]:
        """(G, C): whether a group has images of a class."""
        return self.confusion.sum(axis=2) > 0

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """Scores of R weightings (R, G) of the groups: (R,) each, and (R, C) for those of single classes."""
        confusion = np.tensordot(weights, self.confusion, axes=1)
        support, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
        hits = np.diagonal(confusion, axis1=1, axis2=2)
        n, present = support.sum(axis=1), support > 0
        recall, f1 = ratio(hits, support, 0.0), ratio(2 * hits, support + predicted, 0.0)
        scores = {
            "accuracy": hits.sum(axis=1) / n,
            "balanced_accuracy": recall.sum(axis=1) / present.sum(axis=1),
            "weighted_f1": (f1 * support).sum(axis=1) / n,
            "macro_f1": f1.mean(axis=1),
            "ece": np.abs(weights @ self.gaps).sum(axis=1) / n,
            "brier": weights @ self.squared_error / n,
            "log_loss": weights @ self.log_loss / n,
            "precision": ratio(hits, predicted, 0.0),
            "recall": recall,
            "f1": f1,
            "support": support,
        }
        if self.positive is not None:
            defined = np.where(present, recall, np.nan)
            scores |= {"sensitivity": defined[:, self.positive], "specificity": defined[:, 1 - self.positive]}
        if self.pairs:
            areas = [
                ratio(
                    ((weights[:, pairs.above] @ pairs.counts) * weights[:, pairs.below]).sum(axis=1),
                    support[:, c] * (n - support[:, c]),
                )
                for c, pairs in self.pairs.items()
            ]
            scores["auroc"] = np.mean(areas, axis=0)
        return scores

    def classwise_ece(self, weights: Floats) -> Floats:
        """(R,) class-wise expected calibration errors, 0 to 1, of R weightings (R, G) of the groups (Kull et al. 2019,
        arXiv:1910.12656).

        For each class: the difference between its predicted probability and its frequency, whether or not it was
        predicted, in `ECE_BINS` equal-width bins and averaged over images; then the mean over the classes. Errors of
        two classes in opposite directions do not cancel out.
        """
        gaps = np.abs(np.tensordot(weights, self.class_gaps, axes=1)).sum(axis=2).mean(axis=1)
        return gaps / (weights @ np.bincount(self.group))


def report(
    sums: GroupSums, scores: Mapping[str, Floats], label_names: Sequence[str], value: Callable[[Floats], Any]
) -> dict[str, Any]:
    """The dict of `summary` from scores of R weightings, each of which `value` turns into one entry.

    Raises:
        ValueError: another number of names than of classes.
    """
    confusion = sums.confusion.sum(axis=0).astype(int)
    if len(confusion) != len(label_names):
        raise ValueError(f"{len(confusion)} columns of probabilities for {len(label_names)} label names")
    return {
        **{name: value(values) for name, values in scores.items() if values.ndim == 1},
        "per_class": {
            label: {name: value(scores[name][:, c]) for name in PER_CLASS} | {"support": int(confusion[c].sum())}
            for c, label in enumerate(label_names)
        },
        "confusion_matrix": confusion.tolist(),
    }


def ratio(numerator: ArrayLike, denominator: ArrayLike, otherwise: float = np.nan) -> Floats:
    """Quotients, `otherwise` where the denominator is not above 0."""
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), otherwise)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)


def one_hot(labels: NDArray[Any], n_classes: int) -> Floats:
    """(N, C) of labels (N,); ValueError if they are not integers from 0 to C - 1."""
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels must be integers from 0 to {n_classes - 1}")
    return np.eye(n_classes)[labels]


def _checked(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[Any], Floats]:
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if p.ndim != 2 or y.shape != p.shape[:1] or not len(y):
        raise ValueError(f"expected labels (N,) and probabilities (N, C) with N > 0, got {y.shape} and {p.shape}")
    if not (p.min() >= 0 and np.abs(p.sum(axis=1) - 1).max() < 1e-3):  # written so that NaN fails too
        raise ValueError("each row of probabilities must be at least 0 and sum to 1")
    one_hot(y, p.shape[1])
    return y, p


def _bin_of(values: Floats, bins: int) -> NDArray[np.int64]:
    return np.searchsorted(np.arange(1, bins) / bins, values)


def ranked_pairs(score: Floats, positive: NDArray[np.bool_], group: NDArray[np.int64]) -> RankedPairs:
    """Rank the images of a class against all others, by their groups."""
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
    return RankedPairs(above, below, counts)
