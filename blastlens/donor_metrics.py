"""Metrics whose unit is the donor: how a two-class model performs on donors outside its training set.

Cells of one donor share a stain, a focus and a biology, so a thousand cells of two donors say little about a third one.
Every figure here is therefore computed per donor and averaged over donors, and every interval resamples donors within
their class. AUROC is computed within each test fold, because the scores of two folds come from two networks with two
calibrations.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .bootstrap import group_weights, percentile_interval
from .metrics import ECE_BINS, Floats, Interval, ranked_pairs, ratio

MIN_IMAGES = 3  # donors with fewer images have no meaningful rate


@dataclass(frozen=True, eq=False)
class DonorPairs:
    """One repeat: how often positives rank above negatives, by donor, counting pairs of one test fold only."""

    above: Floats  # (D, S) for D healthy donors and S subjects with the disease; ties count 1/2
    pairs: Floats  # (D, S)
    fold: NDArray[np.int64]  # (D,) the test fold of each healthy donor, -1 where it has no image in this repeat


@dataclass(frozen=True, eq=False)
class DonorScores:
    """Held-out scores summed up by donor, from which every metric and every bootstrap replicate follows."""

    names: NDArray[np.str_]  # (G,) donors, sorted
    positive: NDArray[np.bool_]  # (G,) whether a donor has the disease
    images: Floats  # (G,) counted once whatever the number of repeats
    rate: Floats  # (G,) share of a donor's images that are classified as positive, averaged over repeats
    bins: Floats  # (G, B) mean of predicted minus observed probability of the positive class, by bin of the former
    repeats: tuple[DonorPairs, ...]  # one per repetition of the cross-validation

    @classmethod
    def of(
        cls,
        labels: ArrayLike,
        scores: ArrayLike,
        donors: ArrayLike,
        folds: ArrayLike | None = None,
        repeats: ArrayLike | None = None,
        threshold: float | Floats = 0.5,
    ) -> "DonorScores":
        """Sum up scores by donor.

        Args:
            labels: (N,) bool, whether an image shows the disease.
            scores: (N,) probability of the disease, 0 to 1.
            donors: (N,) donor of each image.
            folds: (N,) test fold of each image; one fold by default.
            repeats: (N,) the repetition of the cross-validation that a score is from; one by default.
            threshold: score from which an image is classified as positive; one for all, or (N,).

        Raises:
            ValueError: shapes that disagree, a class without a donor, or a donor with images of both classes.
        """
        y, p = np.asarray(labels, dtype=bool), np.asarray(scores, dtype=np.float64)
        names, donor = np.unique(np.asarray(donors).astype(str), return_inverse=True)
        fold, repeat = (
            np.zeros(len(y), int) if given is None else np.unique(np.asarray(given), return_inverse=True)[1]
            for given in (folds, repeats)
        )
        if y.ndim != 1 or not y.shape == p.shape == donor.shape == fold.shape == repeat.shape:
            raise ValueError("labels, scores, donors, folds and repeats must all have the shape (N,)")
        if not len(p) or not (p.min() >= 0 and p.max() <= 1):  # written so that NaN fails too
            raise ValueError("scores must be probabilities, 0 to 1")
        n, with_disease = np.bincount(donor), np.bincount(donor, y)
        mixed = names[(with_disease > 0) & (with_disease < n)]
        if len(mixed):
            raise ValueError(
                f"donor {mixed[0]} has images of both classes; donor metrics need one class for each donor"
            )
        positive = with_disease > 0
        if not positive.any() or positive.all():
            raise ValueError("donor metrics need donors of both classes")
        bins = np.zeros((len(names), ECE_BINS))
        np.add.at(bins, (donor, np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, p)), p - y)
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
        """(G,) donors with at least `MIN_IMAGES` images, the only ones in averages over donors."""
        return self.images >= MIN_IMAGES

    def auroc_by_donor(self, weights: Floats | None = None) -> Floats:
        """AUROC of each healthy donor's images against the positive images of the same test fold, averaged over
        repeats; NaN where no fold of the donor has a positive image. (D,), or (R, D) for weightings (R, G)."""
        diseased = np.ones(len(self.names))[self.positive] if weights is None else weights[:, self.positive]
        return _nanmean(np.stack([ratio(diseased @ r.above.T, diseased @ r.pairs.T) for r in self.repeats]))

    def _auroc_within_folds(self, weights: Floats) -> Floats:
        healthy, diseased = weights[:, ~self.positive], weights[:, self.positive]
        areas = []
        for r in self.repeats:
            above, pairs = (diseased @ m.T * healthy for m in (r.above, r.pairs))
            for k in np.unique(r.fold[r.fold >= 0]):
                areas.append(ratio(above[:, r.fold == k].sum(axis=1), pairs[:, r.fold == k].sum(axis=1)))
        return _nanmean(np.stack(areas))

    def scores(self, weights: Floats) -> dict[str, Floats]:
        """Every metric for R weightings (R, G) of the donors: (R,) each. See `summary` for their meaning."""
        specificity, sensitivity = 1 - self.rate, self.rate
        healthy, diseased = ~self.positive & self.counted, self.positive & self.counted
        in_images = weights * self.images
        spec, sens = (
            ratio(in_images[:, of_class] @ rate[of_class], in_images[:, of_class].sum(axis=1))
            for of_class, rate in ((~self.positive, specificity), (self.positive, sensitivity))
        )
        share = ratio(in_images[:, self.positive].sum(axis=1), in_images.sum(axis=1))
        drawn = weights[:, ~self.positive]
        area = np.where(self.counted[~self.positive] & (drawn > 0), self.auroc_by_donor(weights), np.nan)
        gaps = sum(
            ratio(weights[:, of_class] @ self.bins[of_class], weights[:, of_class].sum(axis=1, keepdims=True)) / 2
            for of_class in (self.positive, ~self.positive)
        )
        return {
            "auroc_per_donor": ratio(np.nansum(drawn * area, axis=1), (drawn * np.isfinite(area)).sum(axis=1)),
            "specificity_per_donor": _mean(weights, specificity, healthy),
            "worst_specificity": _worst(weights, specificity, healthy),
            "sensitivity_per_subject": _mean(weights, sensitivity, diseased),
            "worst_sensitivity": _worst(weights, sensitivity, diseased),
            "auroc": self._auroc_within_folds(weights),
            "specificity": spec,
            "sensitivity": sens,
            "balanced_accuracy": (spec + sens) / 2,
            "weighted_f1": weighted_f1_at(share, sens, spec),
            "weighted_f1_at_half": weighted_f1_at(0.5, sens, spec),
            "ece_at_half": np.abs(gaps).sum(axis=1),
        }

    def replicates(self, count: int = 2000, seed: int = 0) -> dict[str, Floats]:
        """`scores` of all donors, first, and of bootstrap replicates: (1 + count,) each.

        A replicate draws as many donors of each class as there are, with replacement. The same donors and seed draw
        the same replicates, so that two models on the same images can be compared in pairs.
        """
        return self.scores(group_weights(np.stack([self.positive, ~self.positive], axis=1), count, seed))

    def summary(self, count: int = 2000, seed: int = 0) -> dict[str, Any]:
        """Every metric with a 95 % bootstrap interval over donors.

        Returns:
            `healthy_donors`, `subjects` (with the disease), `counted_donors` and `counted_subjects` (of them those
            with at least `MIN_IMAGES` images), `images`, `repeats`, and an `Interval` for each of

            ======================== ==================================================================================
            auroc_per_donor          each counted healthy donor's images against the positive images of the same test
                                     fold, averaged over donors
            specificity_per_donor    share of a healthy donor's images classified as healthy, averaged over donors
            worst_specificity        the same of the worst donor; a number, since a bootstrap of these donors says
                                     nothing about the worst of others
            sensitivity_per_subject  share of a subject's images classified as positive, averaged over subjects
            worst_sensitivity        the same of the worst subject
            auroc                    over images, within each test fold, averaged over folds
            specificity, sensitivity over images
            balanced_accuracy        their mean
            weighted_f1              at the prevalence of the data
            weighted_f1_at_half      at a prevalence of 50 %
            ece_at_half              calibration error of the probability of the disease at a prevalence of 50 %,
                                     with equal weights for all donors of a class
            ======================== ==================================================================================

            `donors`: one entry per donor with `donor`, `positive`, `images`, `rate` (share classified as positive) and
            `auroc` (None for subjects with the disease).
        """
        areas = np.full(len(self.names), np.nan)
        areas[~self.positive] = self.auroc_by_donor()
        return {
            "healthy_donors": int((~self.positive).sum()),
            "subjects": int(self.positive.sum()),
            "counted_donors": int((~self.positive & self.counted).sum()),
            "counted_subjects": int((self.positive & self.counted).sum()),
            "images": round(float(self.images.sum())),
            "repeats": len(self.repeats),
            **{
                name: float(values[0]) if name.startswith("worst") else percentile_interval(values)
                for name, values in self.replicates(count, seed).items()
            },
            "donors": [
                {
                    "donor": str(self.names[g]),
                    "positive": bool(self.positive[g]),
                    "images": round(float(self.images[g])),
                    "rate": float(self.rate[g]),
                    "auroc": None if self.positive[g] else float(areas[g]),
                }
                for g in range(len(self.names))
            ],
        }


def difference(a: DonorScores, b: DonorScores, metric: str = "auroc_per_donor", count: int = 2000) -> Interval:
    """Score of the first model minus that of the second on the same donors, with a 95 % interval over donors.

    Raises:
        ValueError: other donors.
    """
    if not np.array_equal(a.names, b.names) or not np.array_equal(a.positive, b.positive):
        raise ValueError("models can only be compared on the same donors")
    return percentile_interval(a.replicates(count)[metric] - b.replicates(count)[metric])


def weighted_f1_at(prevalence: ArrayLike, sensitivity: ArrayLike, specificity: ArrayLike) -> Floats:
    """Weighted F1 of a two-class test in a population where `prevalence` of the images, 0 to 1, are positive."""
    share, sens, spec = (np.asarray(v, dtype=np.float64) for v in (prevalence, sensitivity, specificity))
    errors = share * (1 - sens) + (1 - share) * (1 - spec)
    found, rejected = 2 * share * sens, 2 * (1 - share) * spec
    f1_positive, f1_negative = ratio(found, found + errors, 0.0), ratio(rejected, rejected + errors, 0.0)
    return share * f1_positive + (1 - share) * f1_negative


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
) -> DonorPairs:
    column, row = np.cumsum(positive) - 1, np.cumsum(~positive) - 1  # of each donor among those of its class
    shape = int((~positive).sum()), int(positive.sum())
    above, pairs, fold_of = np.zeros(shape), np.zeros(shape), np.full(shape[0], -1)
    for k in np.unique(fold[chosen]):
        now = chosen & (fold == k)
        ranked, images = ranked_pairs(p[now], y[now], donor[now]), np.bincount(donor[now], minlength=len(positive))
        place = np.ix_(row[ranked.below], column[ranked.above])
        above[place] += ranked.counts.T
        pairs[place] += np.outer(images[ranked.below], images[ranked.above])
        fold_of[row[ranked.below]] = k
    return DonorPairs(above, pairs, fold_of)


def _mean(weights: Floats, values: Floats, donors: NDArray[np.bool_]) -> Floats:
    return ratio(weights[:, donors] @ values[donors], weights[:, donors].sum(axis=1))


def _worst(weights: Floats, values: Floats, donors: NDArray[np.bool_]) -> Floats:
    drawn = np.where(weights[:, donors] > 0, values[donors], np.inf).min(axis=1, initial=np.inf)
    return np.where(np.isfinite(drawn), drawn, np.nan)


def _nanmean(values: Floats) -> Floats:
    present = np.isfinite(values)
    return ratio(np.where(present, values, 0).sum(axis=0), present.sum(axis=0))
