"""Fit the OOD detection of a model folder: ranges of image statistics, and the distribution of pooled features.

**Statistics.** Each range reaches from a low to a high quantile of the training images, and of the same images as
another microscope, camera or file could have given them (`ood_test_images.VARIED`), widened on both sides by a margin.
All margins start small; in group cross-validation, the statistic that alone rejects most images gets the next wider
margin until no more than the target is rejected: `STATISTICS_TARGET`, or `TARGET` where the network has no features.

**Features.** The distribution of pooled features is fitted to training images, and to varied ones, through the network
that serves. Its limit is where `FEATURES_TARGET` of the held-out images would be rejected, each scored by the fold
network that was not trained on its group. That the serving network, fitted on all images, scores new subjects as the
fold networks do is an assumption: nothing is held out from it.

Each fold also has a detector of its own, on which `train.ood_evaluation` measures: ranges and distribution from its
training groups, limit from the *other* folds' held-out scores.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tqdm.auto import tqdm

from blastlens import files
from blastlens.errors import BlastlensError
from blastlens.inference import load_network
from blastlens.model_folder import ModelFolder
from blastlens.ood_detection import STATISTICS, FeatureDistance, OODDetector, statistics_of
from train.datasets import Row
from train.datasets.splits import make_splits
from train.folds import FoldNetworks
from train.ood_test_images import VARIED
from train.parallel import in_threads

# Largest shares of held-out images that may be rejected: in all, and by either part.
TARGET = 0.01
STATISTICS_TARGET = FEATURES_TARGET = TARGET / 2
QUANTILE = 0.005  # a single freak image shall not set a range
LEAST_MARGIN, MARGIN_STEP, WIDEST = 0.1, 0.05, 2.0  # in widths of the quantile range
FOLDS = 5  # of the cross-validation that chooses margins; fewer where a label has fewer groups
DIRECTIONS = 64  # principal ones with a variance of their own
FITTED_ON, VARIED_IMAGES = 1000, 1000  # how many evenly spread images are enough

Network = Callable[[np.ndarray], np.ndarray]  # views uint8 (n, S, S, 3) to features (n, F)
Reasons = tuple[str, ...]  # against an image; none where it fits


def fit_features(features: np.ndarray, directions: int = DIRECTIONS) -> FeatureDistance:
    """Fit the distribution of features (N, F) of training images; its limit is still infinite.

    Of N images at most N / 4 directions have a variance of their own. Everything is rounded as `write_features` does.
    Raises BlastlensError for fewer than four images, or a network without features.
    """
    images, length = features.shape
    kept = min(directions, length - 1, images // 4)
    if kept < 1:
        raise BlastlensError("A feature score needs a network with pooled features, and four training images or more.")
    mean = features.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(features - mean, full_matrices=False)
    variances = values**2 / images
    # Directions in which nothing ever varies would make any difference infinite.
    floor = max(float(variances.sum()) * 1e-6 / length, 1e-18)
    deviations = np.sqrt(np.maximum(variances[:kept], floor))
    rest = np.sqrt(max(float(variances[kept:].sum()) / (length - kept), floor))
    arrays = {"mean": mean, "directions": axes[:kept] / deviations[:, None], "rest": rest[None]}
    rounded = {name: array.astype(np.float32).astype(np.float64) for name, array in arrays.items()}
    return FeatureDistance.from_tensors(rounded, float("inf"))


def write_features(score: FeatureDistance, file: Path) -> None:
    """Write gate.safetensors atomically; raises BlastlensError where that cannot be done."""
    arrays = {"mean": score.mean, "directions": score.directions, "rest": np.array([score.rest])}
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    files.replace(file, lambda part: save_file(tensors, part))


@dataclass(frozen=True, eq=False)
class TrainingStatistics:
    """The statistics of training images, as they are and varied.

    Attributes:
        rows: N images. values: (N, K), in the order of STATISTICS.
        sample: (n,) positions of the images that were varied, ascending. varied: (V, n, K), changed in V ways.
    """

    rows: Sequence[Row]
    values: np.ndarray
    sample: np.ndarray
    varied: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Row], pixels: np.ndarray) -> "TrainingStatistics":
        """Measure all views (N, S, S, 3), and a sample of them varied."""

        def measured(index: Sequence[int], change: Callable[[np.ndarray], np.ndarray], what: str) -> np.ndarray:
            def one(i: int) -> list[float]:
                return list(statistics_of(change(np.asarray(pixels[i]))).values())

            return np.array(in_threads(one, index, what))

        sample = of_each_group(rows, VARIED_IMAGES)
        varied = np.array([measured(sample, vary, name) for name, vary in VARIED.items()])
        return cls(rows, measured(range(len(rows)), np.asarray, "statistics"), sample, varied)

    def only(self, index: Sequence[int]) -> "TrainingStatistics":
        """Select images; `index` is ascending."""
        inside = np.isin(self.sample, index)
        sample = np.searchsorted(index, self.sample[inside])
        return TrainingStatistics(
            [self.rows[i] for i in index], self.values[list(index)], sample, self.varied[:, inside]
        )

    def extent(self) -> np.ndarray:
        """Return lows and highs (2, K): the widest quantiles over all ways in which the images were varied."""
        ways = [self.values, *(way for way in self.varied if len(way))]
        found = np.array([np.nanquantile(way, [QUANTILE, 1 - QUANTILE], axis=0) for way in ways])
        return np.stack([found[:, 0].min(axis=0), found[:, 1].max(axis=0)])

    def margins(self, target: float) -> np.ndarray:
        """Return margins (K,), as small as possible, that reject at most `target` in group cross-validation; raises
        BlastlensError where none are wide enough."""
        groups_of_labels = Counter(label for label, _ in {(row.label, row.group) for row in self.rows})
        folds = max(2, min(FOLDS, *groups_of_labels.values()))
        parts = [
            (self.values[list(split.test)], self.only(split.train).extent())
            for split in make_splits(f"group-kfold:{folds}", self.rows, seed=0)
        ]
        margins = np.full(len(STATISTICS), LEAST_MARGIN)
        while True:
            rejected = np.concatenate([outside(test, widened(extent, margins)) for test, extent in parts])
            if np.count_nonzero(rejected.any(axis=1)) <= target * len(rejected):
                return margins
            # An image that several statistics reject needs all of them widened: it counts for each, but for less.
            counts = (rejected / np.maximum(rejected.sum(axis=1, keepdims=True), 1)).sum(axis=0)
            most = int(counts.argmax())
            margins[most] = round(margins[most] + MARGIN_STEP, 4)
            if margins[most] > WIDEST:
                raise BlastlensError(
                    f"Even a margin of {WIDEST:g} widths rejects more than {target:.1%} of held-out images."
                )

    def ranges(self, target: float) -> np.ndarray:
        """Return lows and highs (2, K) of a detector fitted to these images."""
        return widened(self.extent(), self.margins(target))


def widened(extent: np.ndarray, margins: np.ndarray | float) -> np.ndarray:
    """Widen lows and highs (2, K) on both sides by margins (K,), in widths, and by at least one grain."""
    grain = np.array([statistic.grain for statistic in STATISTICS.values()])
    slack = np.maximum(margins * (extent[1] - extent[0]), grain)
    return np.stack([extent[0] - slack, extent[1] + slack])


def outside(values: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Return bool (N, K): which statistic of which image is out of range; NaN never is."""
    return (values < ranges[0]) | (values > ranges[1])


def detector_of(images: str, ranges: np.ndarray, features: FeatureDistance | None = None) -> OODDetector:
    """Build a detector from ranges (2, K), in the order of STATISTICS."""
    limits = {name: (float(low), float(high)) for name, low, high in zip(STATISTICS, *ranges, strict=True)}
    return OODDetector(images, limits, features)


def reasons(detector: OODDetector, network: Network | None, views: Sequence[np.ndarray]) -> list[Reasons]:
    """Check views, uint8 (S, S, 3)."""
    if not len(views):
        return []
    features = network(np.stack(views)) if network else [None] * len(views)
    pairs = list(zip(views, features, strict=True))
    return in_threads(lambda pair: detector.check(statistics_of(pair[0]), pair[1]), pairs)


@dataclass(frozen=True, eq=False)
class FoldDetectors:
    """A detector per fold, each used only on images that it was not fitted to.

    Attributes:
        detectors: one per fold. networks: one per fold, None where statistics decide alone.
        fold_of: (N,) which fold each training image is held out from.
        rejected: bool (N, K + 1), by statistic and, last, by features.
        scores: (N,) of held-out features; empty where there are none.
    """

    detectors: Sequence[OODDetector]
    networks: Sequence[Network | None]
    fold_of: np.ndarray
    rejected: np.ndarray
    scores: np.ndarray

    @classmethod
    def fit(
        cls,
        statistics: TrainingStatistics,
        networks: FoldNetworks,
        images: str,
        evidence: tuple[Sequence[FeatureDistance], np.ndarray] | None,
    ) -> "FoldDetectors":
        """Fit the detectors; `evidence`: see `feature_evidence`, None to use statistics alone."""
        fold_of, detectors = networks.fold_of, []
        rejected = np.zeros((len(statistics.rows), len(STATISTICS) + 1), bool)
        for k, split in enumerate(networks.splits):
            test = list(split.test)
            ranges = statistics.only(split.train).ranges(STATISTICS_TARGET if evidence else TARGET)
            rejected[test, :-1] = outside(statistics.values[test], ranges)
            score = None
            if evidence:
                score = replace(evidence[0][k], limit=limit_of(evidence[1][fold_of != k]))
                rejected[test, -1] = evidence[1][test] > score.limit
            detectors.append(detector_of(images, ranges, score))
        used = [partial(networks.features_of, k) if evidence else None for k in range(len(detectors))]
        return cls(detectors, used, fold_of, rejected, evidence[1] if evidence else np.empty(0))

    def reasons(self, fold: int, views: Sequence[np.ndarray]) -> list[Reasons]:
        """Check views by one fold's detector."""
        return reasons(self.detectors[fold], self.networks[fold], views)


def limit_of(scores: np.ndarray) -> float:
    """Return the score that FEATURES_TARGET of these exceed."""
    return float(np.quantile(scores, 1 - FEATURES_TARGET))


def feature_evidence(networks: FoldNetworks) -> tuple[list[FeatureDistance], np.ndarray] | None:
    """Return each fold's distribution of its training images' features, and (N,) the scores of held-out images by the
    fold that was not trained on their group; None for networks without features."""
    features = networks.held_out(what="held-out features").features
    if not features.shape[1]:
        return None
    distributions, scores = [], np.empty(len(networks.rows))
    for k, split in enumerate(tqdm(networks.splits, desc="training features", unit="fold")):
        views = with_varied(networks.pixels[evenly(split.train, FITTED_ON)])
        distributions.append(fit_features(networks.features_of(k, views)))
        mine = networks.fold_of == k
        scores[mine] = distributions[k].of(features[mine])
    return distributions, scores


def evenly(index: Sequence[int], count: int) -> np.ndarray:
    """Return at most `count` of some numbers, evenly spread."""
    return np.asarray(index)[np.unique(np.linspace(0, len(index) - 1, count).astype(int))]


def of_each_group(rows: Sequence[Row], count: int) -> np.ndarray:
    """Return about `count` images, ascending, evenly spread over those of each group and at least one of each."""
    groups = np.array([row.group for row in rows])
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    chosen = [evenly(mine.tolist(), max(1, round(count / len(rows) * len(mine)))) for mine in members]
    return np.sort(np.concatenate(chosen))


def with_varied(views: np.ndarray) -> np.ndarray:
    """Return views (n, S, S, 3), and half of them again, each varied by the next of VARIED."""
    ways = list(VARIED.values())
    half = np.asarray(views[::2])
    return np.concatenate([views, np.stack([ways[i % len(ways)](view) for i, view in enumerate(half)])])


@dataclass(frozen=True, eq=False)
class FittedDetector:
    """The detector of a model folder, and what it was fitted with.

    Attributes:
        detector: of the folder. network: the serving network's features; None where statistics decide alone.
        folds: the detectors of the folds. margins: (K,).
        training_scores: of the training images' features; empty where there are none.
    """

    detector: OODDetector
    network: Network | None
    folds: FoldDetectors
    margins: np.ndarray
    training_scores: np.ndarray

    @classmethod
    def fit(cls, folder: ModelFolder, networks: FoldNetworks, images: str) -> "FittedDetector":
        """Fit the detector of a model folder, whose images are called `images`, with its fold networks."""
        statistics = TrainingStatistics.of(networks.rows, networks.pixels)
        serving = serving_network(folder)
        evidence = feature_evidence(networks) if serving else None
        folds = FoldDetectors.fit(statistics, networks, images, evidence)
        margins = statistics.margins(STATISTICS_TARGET if evidence else TARGET)
        ranges = np.round(widened(statistics.extent(), margins), 4)
        if not (serving and evidence):
            return cls(detector_of(images, ranges), None, folds, margins, np.empty(0))
        views = np.asarray(networks.pixels[evenly(range(len(networks.rows)), FITTED_ON)])
        features = serving(with_varied(views))
        score = replace(fit_features(features), limit=round(limit_of(folds.scores), 4))
        return cls(detector_of(images, ranges, score), serving, folds, margins, score.of(features[: len(views)]))


def serving_network(folder: ModelFolder, precision: str = "fp32") -> Network | None:
    """The folder's own network; None where it has no features."""
    network = load_network(folder, precision)
    return (lambda views: network.run(["features"], views)[0]) if "features" in network.outputs else None
