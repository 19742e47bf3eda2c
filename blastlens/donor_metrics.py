"""Metrics whose unit is the donor: how a two-class model does on people it has never seen.

Cells of one person share a stain, a focus and a biology, so a thousand cells of two healthy donors say little about a
third one. Every figure here is therefore computed donor by donor and averaged over donors, and every interval resamples
donors within their class. AUROC is computed within each test fold, because the scores of two folds come from two
networks with two calibrations. Scores of images, groups of more than two classes and single-image calibration live in
`metrics`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import metrics
from .metrics import Interval, percentile_interval

MIN_IMAGES = 3  # donors with fewer images have no rate of their own worth reporting
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class _Pairs:
    """One repeat: how often positives rank above negatives, by donor, counting pairs of one test fold only.

    Attributes:
        above, pairs: (D, S) for D healthy donors and S subjects with the disease; ties count 1/2.
        fold: (D,) the test fold of each healthy donor, -1 where it has no image in this repeat.
    """

    above: Floats
    pairs: Floats
    fold: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DonorScores:
    """Held-out scores summed up by donor, from which every metric and every bootstrap replicate follows.

    Attributes:
        names: (G,) donors, sorted. positive: (G,) bool, whether a donor has the disease.
        images: (G,) images of each, counted once whatever the number of repeats.
        rate: (G,) share of a donor's images that are classified as positive, averaged over repeats.
        bins: (G, B) mean over a donor's images of stated minus observed probability of the positive class, by bin of
            that probability.
        repeats: one per repetition of the cross-validation.
    """

    names: NDArray[np.str_]
    positive: NDArray[np.bool_]
    images: Floats
    rate: Floats
    bins: Floats
    repeats: tuple[_Pairs, ...]

    @classmethod
    def of(
        cls,
        labels: ArrayLike,
        scores: ArrayLike,
        donors: ArrayLike,
        folds: ArrayLike | None = None,
        repeats: ArrayLike | None = None,
        threshold: float = 0.5,
    ) -> "DonorScores":
        """Sum up scores by donor.

        Args:
            labels: (N,) bool, whether an image shows the disease.
            scores: (N,) probability of the disease, 0 to 1.
            donors: (N,) whose image it is.
            folds: (N,) test fold of each image; one fold if not given.
            repeats: (N,) which repetition of the cross-validation a score is from; one if not given.
            threshold: score from which an image is classified as positive.

        Raises:
            ValueError: shapes that disagree, a class without a donor, or a donor with images of both classes.
        """
        y, p = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
        names, donor = np.unique(np.asarray(donors).astype(str), return_inverse=True)
        fold = np.zeros(len(y), int) if folds is None else np.unique(np.asarray(folds), return_inverse=True)[1]
        repeat = np.zeros(len(y), int) if repeats is None else np.unique(np.asarray(repeats), return_inverse=True)[1]
        if y.ndim != 1 or not y.shape == p.shape == donor.shape == fold.shape == repeat.shape:
            raise ValueError("labels, scores, donors, folds and repeats must all have the shape (N,)")
        if not np.isfinite(p).all() or not len(p) or p.min() < 0 or p.max() > 1:
            raise ValueError("scores must be probabilities, 0 to 1")
        n = np.bincount(donor)
        with_disease = np.bincount(donor, y)
        if ((with_disease > 0) & (with_disease < n)).any():
            mixed = names[(with_disease > 0) & (with_disease < n)][0]
            raise ValueError(f"donor {mixed} has images of both classes; donor metrics need one class for each donor")
        positive = with_disease > 0
        if not positive.any() or positive.all():
            raise ValueError("donor metrics need donors of both classes")
        edges = np.arange(1, metrics.ECE_BINS) / metrics.ECE_BINS
        bins = np.zeros((len(names), metrics.ECE_BINS))
        np.add.at(bins, (donor, np.searchsorted(edges, p)), p - y)
        return cls(
            names=names,
            positive=positive,
            images=n / (repeat.max() + 1),
            rate=np.bincount(donor, p >= threshold) / n,
            bins=bins / n[:, None],
            repeats=tuple(_pairs(y, p, donor, fold, repeat == r, positive) for r in range(repeat.max() + 1)),
        )

    @property
    def counted(self) -> NDArray[np.bool_]:
        """(G,) donors with `MIN_IMAGES` images or more, which alone count in figures per donor."""
        return self.images >= MIN_IMAGES

    def auroc_by_donor(self) -> Floats:
        """(D,) AUROC of each healthy donor's images against the positive images of the same test fold, averaged over
        repeats; NaN where no fold of the donor has a positive image."""
        return self._auroc_by_donor(np.ones((1, len(self.names))))[0]

    def _auroc_by_donor(self, weights: Floats) -> Floats:
        sick = weights[:, self.positive]
        areas = [_ratio(sick @ r.above.T, sick @ r.pairs.T) for r in self.repeats]
        return _nanmean(np.stack(areas), axis=0)

    def _auroc_within_folds(self, weights: Floats) -> Floats:
        healthy, sick = weights[:, ~self.positive], weights[:, self.positive]
        areas = []
        for r in self.repeats:
            above, pairs = (sick @ m.T * healthy for m in (r.above, r.pairs))
            for k in np.unique(r.fold[r.fold >= 0]):
                mine = r.fold == k
                areas.append(_ratio(above[:, mine].sum(axis=1), pairs[:, mine].sum(axis=1)))
        return _nanmean(np.stack(areas), axis=0)

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """Every metric for R weightings (R, G) of the donors: (R,) each. See `summary` for their meaning."""
        healthy, sick = ~self.positive & self.counted, self.positive & self.counted
        specificity, sensitivity = 1 - self.rate, self.rate
        area = self._auroc_by_donor(weights)
        counted = self.counted[~self.positive]
        in_images = weights * self.images
        of_cells = {
            name: _ratio(in_images[:, who] @ rate[who], in_images[:, who].sum(axis=1))
            for name, who, rate in (
                ("specificity", ~self.positive, specificity),
                ("sensitivity", self.positive, sensitivity),
            )
        }
        share = _ratio(in_images[:, self.positive].sum(axis=1), in_images.sum(axis=1))
        drawn_area = np.where(counted & (weights[:, ~self.positive] > 0), area, np.nan)
        return {
            "auroc_per_donor": _ratio(
                np.nansum(weights[:, ~self.positive] * drawn_area, axis=1),
                (weights[:, ~self.positive] * np.isfinite(drawn_area)).sum(axis=1),
            ),
            "specificity_per_donor": _mean(weights, specificity, healthy),
            "worst_specificity": _worst(weights, specificity, healthy),
            "sensitivity_per_subject": _mean(weights, sensitivity, sick),
            "worst_sensitivity": _worst(weights, sensitivity, sick),
            "auroc": self._auroc_within_folds(weights),
            **of_cells,
            "balanced_accuracy": (of_cells["specificity"] + of_cells["sensitivity"]) / 2,
            "weighted_f1": weighted_f1_at(share, of_cells["sensitivity"], of_cells["specificity"]),
            "weighted_f1_at_half": weighted_f1_at(0.5, of_cells["sensitivity"], of_cells["specificity"]),
            "ece_at_half": np.abs(
                sum(
                    _ratio(weights[:, who] @ self.bins[who], weights[:, who].sum(axis=1, keepdims=True)) / 2
                    for who in (self.positive, ~self.positive)
                )
            ).sum(axis=1),
        }

    def replicates(self, count: int = 2000, seed: int = 0) -> dict[str, Floats]:
        """`scores` of all donors, first, and of bootstrap replicates: (1 + count,) each.

        A replicate draws as many donors of each class as there are, with replacement. The same donors and seed draw
        the same replicates, so that two models on the same images can be compared in pairs.
        """
        rng = np.random.default_rng(seed)
        weights = np.ones((1 + count, len(self.names)))
        for who in (self.positive, ~self.positive):
            weights[1:, who] = rng.multinomial(who.sum(), np.full(who.sum(), 1 / who.sum()), count)
        return self.scores(weights)

    def summary(self, count: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Every metric with a 95 % bootstrap interval over donors.

        Returns:
            `healthy_donors`, `subjects` (with the disease), `counted_donors` and `counted_subjects` (of them those
            with `MIN_IMAGES` images or more), `images`, `repeats`, and an `Interval` for each of

            ======================== ==================================================================================
            auroc_per_donor          each counted healthy donor's images against the positive images of the same test
                                     fold, averaged over donors
            specificity_per_donor    share of a healthy donor's images classified as healthy, averaged over donors
            worst_specificity        the same of the worst donor
            sensitivity_per_subject  share of a subject's images classified as positive, averaged over subjects
            worst_sensitivity        the same of the worst subject
            auroc                    over images, within each test fold, averaged over folds
            specificity, sensitivity over images
            balanced_accuracy        their mean
            weighted_f1              at the prevalence of the data
            weighted_f1_at_half      at a prevalence of 50 %
            ece_at_half              calibration error of the probability of the disease at a prevalence of 50 %,
                                     every donor of a class weighing the same
            ======================== ==================================================================================

            `donors`: one entry per donor with `donor`, `positive`, `images`, `rate` (share classified as positive) and
            `auroc` (None for subjects with the disease).
        """
        found = self.replicates(count, seed)
        areas = iter(self.auroc_by_donor())
        return {
            "healthy_donors": int((~self.positive).sum()),
            "subjects": int(self.positive.sum()),
            "counted_donors": int((~self.positive & self.counted).sum()),
            "counted_subjects": int((self.positive & self.counted).sum()),
            "images": round(float(self.images.sum())),
            "repeats": len(self.repeats),
            # A bootstrap of donors cannot tell how much worse the next donor may be: no interval for the worst.
            **{k: float(v[0]) if k.startswith("worst") else _interval(v) for k, v in found.items()},
            "donors": [
                {
                    "donor": str(name),
                    "positive": bool(sick),
                    "images": round(float(n)),
                    "rate": float(rate),
                    "auroc": None if sick else float(next(areas)),
                }
                for name, sick, n, rate in zip(self.names, self.positive, self.images, self.rate, strict=True)
            ],
        }


def difference(a: DonorScores, b: DonorScores, metric: str = "auroc_per_donor", count: int = 2000) -> Interval:
    """How much the first model exceeds the second on the same donors, with a 95 % interval over donors.

    Raises:
        ValueError: other donors.
    """
    if not np.array_equal(a.names, b.names) or not np.array_equal(a.positive, b.positive):
        raise ValueError("models can only be compared on the same donors")
    return _interval(a.replicates(count)[metric] - b.replicates(count)[metric])


def weighted_f1_at(prevalence: ArrayLike, sensitivity: ArrayLike, specificity: ArrayLike) -> Floats:
    """Weighted F1 of a two-class test in a population where `prevalence` of the images, 0 to 1, are positive."""
    share, sens, spec = (np.asarray(v, dtype=np.float64) for v in (prevalence, sensitivity, specificity))
    missed, false = share * (1 - sens), (1 - share) * (1 - spec)
    found, rejected = share * sens, (1 - share) * spec
    f1_positive = _ratio(2 * found, 2 * found + missed + false)
    f1_negative = _ratio(2 * rejected, 2 * rejected + missed + false)
    return share * np.nan_to_num(f1_positive) + (1 - share) * np.nan_to_num(f1_negative)


def donor_weights(
    labels: Sequence[int] | NDArray[np.int64], donors: Sequence[str] | NDArray[Any], power: float = 0.0
) -> Floats:
    """Weight of each image (N,), adding up to 1: classes weigh the same, and within a class a donor of n images weighs
    n ** power (0: every donor the same; 1: every image the same)."""
    y, names = np.asarray(labels), np.asarray(donors)
    weights = np.zeros(len(y))
    for label in np.unique(y):
        mine = y == label
        _, donor, counts = np.unique(names[mine], return_inverse=True, return_counts=True)
        shares = counts**power / (counts**power).sum()
        weights[mine] = shares[donor] / counts[donor]
    return weights / weights.sum()


def _pairs(
    y: NDArray[np.bool_],
    p: Floats,
    donor: NDArray[np.int64],
    fold: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    positive: NDArray[np.bool_],
) -> _Pairs:
    column, row = np.cumsum(positive) - 1, np.cumsum(~positive) - 1  # of each donor among those of its class
    shape = int((~positive).sum()), int(positive.sum())
    above, pairs, fold_of = np.zeros(shape), np.zeros(shape), np.full(shape[0], -1)
    for k in np.unique(fold[chosen]):
        sick, healthy = chosen & (fold == k) & y, chosen & (fold == k) & ~y
        for d in np.unique(donor[healthy]):
            own = np.sort(p[healthy & (donor == d)])
            below = (np.searchsorted(own, p[sick], "left") + np.searchsorted(own, p[sick], "right")) / 2
            np.add.at(above[row[d]], column[donor[sick]], below)
            np.add.at(pairs[row[d]], column[donor[sick]], float(len(own)))
            fold_of[row[d]] = k
    return _Pairs(above, pairs, fold_of)


def _mean(weights: Floats, values: Floats, who: NDArray[np.bool_]) -> Floats:
    return _ratio(weights[:, who] @ values[who], weights[:, who].sum(axis=1))


def _worst(weights: Floats, values: Floats, who: NDArray[np.bool_]) -> Floats:
    drawn = np.where(weights[:, who] > 0, values[who], np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(drawn), drawn, np.nan)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    out = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    return np.divide(numerator, denominator, out=out, where=np.asarray(denominator) > 0)


def _nanmean(values: Floats, axis: int) -> Floats:
    present = np.isfinite(values)
    return _ratio(np.where(present, values, 0).sum(axis=axis), present.sum(axis=axis).astype(np.float64))


def _interval(values: Floats) -> Interval:
    """The first value with the interval of the others, those that lost every donor left out."""
    kept = values[1:][np.isfinite(values[1:])]
    return percentile_interval(np.concatenate([values[:1], kept if len(kept) else values[:1]]))
