"""The block "robustness" of metrics.json: every kind of corruption at five severities, on held-out images.

Each image is evaluated by the fold network that was not trained on its group, and calibrated as the model is shown. A
severity of a kind that goes both ways, darker and brighter, is measured both ways on every image, so each image counts
twice there. Errors are also given relative to a baseline's, after Hendrycks & Dietterich 2019 (arXiv:1903.12261), whose
baseline was AlexNet; ours is a logistic regression of a few numbers per image, fitted on the same training images
without corruption. All intervals are over the same draws of groups, so differences between conditions are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from tqdm.auto import tqdm

from blastlens import bootstrap, metrics
from blastlens.bootstrap import percentile_interval
from blastlens.corruptions import KINDS, Corruption, Kind
from blastlens.metrics import Interval
from blastlens.noise import MAX_SIGMA, PAPER_SIGMAS
from train.baselines import features_for, features_of, fitted
from train.folds import FoldNetworks
from train.held_out import plain

SEVERITIES = (1, 2, 3, 4, 5)
SCORES = ("weighted_f1", "balanced_accuracy", "auroc", "ece")
# Gaussian noise beyond its severities, to find the sigma at which the score has lost this many points.
MORE_SIGMAS = (*PAPER_SIGMAS, MAX_SIGMA)
POINTS = (0.01, 0.05)
REPLICATES = 2000  # draws of groups
# A baseline that loses less than this of its weighted F1, on average, says little about how much another model loses.
LEAST_LOSS = 0.01
WHAT = {
    "cell area and colour": "A logistic regression of the cell's area and the mean and spread of its colours.",
    "colour histogram": "A logistic regression of how often each of 216 colours occurs in the image.",
}

Draws = dict[str, np.ndarray]  # score -> (1 + R,): of the data as they are, then of each draw of groups


class Predictions(NamedTuple):
    """Probabilities of n images under one corruption, (n, C) each."""

    network: np.ndarray
    baseline: np.ndarray


@dataclass(frozen=True, eq=False)
class Scorer:
    """Figures of the same n images (labels and groups (n,)) under several corruptions, `ways`, pooled."""

    labels: np.ndarray
    groups: np.ndarray
    clean: Predictions

    @cached_property
    def clean_f1(self) -> np.ndarray:
        return self.draws([self.clean])["weighted_f1"]

    def _pooled(self, ways: Sequence[Predictions]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        labels, groups = (np.tile(values, len(ways)) for values in (self.labels, self.groups))
        return labels, np.concatenate([way.network for way in ways]), groups

    def draws(self, ways: Sequence[Predictions]) -> Draws:
        positive = 0 if self.clean.network.shape[1] == 2 else None  # ALL
        scores = bootstrap.replicates(*self._pooled(ways), positive, REPLICATES)
        return {name: scores[name] for name in SCORES}

    def describe(self, ways: Sequence[Predictions]) -> dict[str, Any]:
        """Intervals of the scores, and the risk-coverage curve."""
        pooled = self._pooled(ways)
        curve = metrics.risk_coverage(*pooled[:2], points=10)
        return {
            **{name: percentile_interval(values) for name, values in self.draws(ways).items()},
            "aurc": bootstrap.aurc(*pooled, REPLICATES),
            "risk_coverage": [{"coverage": coverage, "risk": risk} for coverage, risk in curve],
        }

    def f1(self, ways: Sequence[Predictions]) -> dict[str, Interval]:
        f1 = self.draws(ways)["weighted_f1"]
        return {"weighted_f1": percentile_interval(f1), "lost": percentile_interval(self.clean_f1 - f1)}

    def baseline_error(self, ways: Sequence[Predictions]) -> float:
        """1 - weighted F1 of the baseline."""
        labels = np.tile(self.labels, len(ways))
        return 1 - metrics.score("weighted_f1", labels, np.concatenate([way.baseline for way in ways]))

    def flips(self, ways: Sequence[Predictions]) -> np.ndarray:
        """Whether the predicted class is another than without corruption: (ways, n)."""
        return np.array([way.network.argmax(axis=1) != self.clean.network.argmax(axis=1) for way in ways])

    def share(self, values: np.ndarray) -> Interval:
        """Mean of values (ways, n)."""
        labels, groups = (np.tile(one, len(values)) for one in (self.labels, self.groups))
        return bootstrap.mean(values.ravel(), labels, groups, replicates=REPLICATES)


def measure(networks: FoldNetworks, every: int = 5) -> dict[str, Any]:
    """Return "robustness" of metrics.json, from one image in `every` of each group."""
    index = networks.every(every)
    fold = networks.fold_of[index]
    baseline, feature = list(features_for(networks.recipe.dataset).items())[-1]
    x = features_of(feature, networks.pixels, baseline)
    trains = [list(split.train) for split in networks.splits]
    models = [fitted(x[train], networks.labels[train]) for train in trains]

    def evaluated(corruption: Corruption | None) -> Predictions:
        """Each image has noise seeded by its row."""
        numbers: dict[int, np.ndarray] = {}

        def change(view: np.ndarray, row: int) -> np.ndarray:
            changed = corruption.apply(view, seed=row) if corruption else view
            numbers[row] = feature(changed)
            return changed

        network = networks.held_out(change, index).probabilities
        features, found = np.stack([numbers[int(row)] for row in index]), np.empty_like(network)
        for k in np.unique(fold):
            found[fold == k] = models[k].predict_proba(features[fold == k])
        return Predictions(network, found)

    scorer = Scorer(networks.labels[index], networks.groups[index], evaluated(None))
    todo = {Corruption(kind.name, at) for kind in KINDS.values() for s in SEVERITIES for at in kind.levels_of(s)}
    todo |= {Corruption("gaussian_noise", sigma) for sigma in MORE_SIGMAS}
    conditions = {
        (one.kind, one.level): evaluated(one)
        for one in tqdm(sorted(todo, key=str), desc="robustness", unit="condition")
    }
    kinds = [
        _kind(kind, [[conditions[kind.name, at] for at in kind.levels_of(s)] for s in SEVERITIES], scorer)
        for kind in tqdm(KINDS.values(), desc="intervals", unit="kind")
    ]
    none = Interval(0.0, 0.0, 0.0)
    noise = [{"sigma": 0, "weighted_f1": percentile_interval(scorer.clean_f1), "lost": none}]
    for sigma in sorted({*MORE_SIGMAS, *KINDS["gaussian_noise"].severities}):
        noise.append({"sigma": sigma, **scorer.f1([conditions["gaussian_noise", sigma]])})
    sigmas, losses = [row["sigma"] for row in noise], [row["lost"].value for row in noise]
    clean_error = scorer.baseline_error([scorer.clean])
    return plain(
        {
            "protocol": networks.protocol,
            "seed": networks.seed,
            "every": every,
            "images": len(index),
            "groups": len(np.unique(scorer.groups)),
            "baseline": {"name": baseline, "what": WHAT[baseline], "clean_error": clean_error},
            "clean": scorer.describe([scorer.clean]),
            "kinds": [entry for entry, _ in kinds],
            "noise": noise,
            "summary": _summary(kinds, scorer)
            | {f"sigma_minus_{round(100 * points)}": sigma_at(sigmas, losses, points) for points in POINTS},
        }
    )


def sigma_at(sigmas: Sequence[float], lost: Sequence[float], points: float) -> float | None:
    """Return the sigma at which `points` of the weighted F1 are lost, interpolated linearly; None if never.

    A few predictions can cause a loss at one sigma that is gone at the next, so the losses are made monotonic first.

    Args:
        sigmas: ascending from 0. lost: at each of them, 0 at the first. points: above 0.
    """
    from sklearn.isotonic import IsotonicRegression  # takes seconds

    rising = IsotonicRegression().fit_transform(sigmas, lost)
    if rising[-1] < points:
        return None
    after = int(np.argmax(rising >= points))
    return float(np.interp(points, rising[after - 1 : after + 1], sigmas[after - 1 : after + 1]))


def _kind(
    kind: Kind, found: Sequence[Sequence[Predictions]], scorer: Scorer
) -> tuple[dict[str, Any], dict[str, np.ndarray | None]]:
    """Return the entry of one kind, and by name the draws (1 + R,) of its figures, and each image's share of flips, of
    the predictions under each severity, one or two ways each."""
    severities = []
    for severity, ways in zip(SEVERITIES, found, strict=True):
        entry = {
            "severity": severity,
            "level": kind.severities[severity - 1],
            **scorer.describe(ways),
            "flip_rate": scorer.share(scorer.flips(ways)),
            "lost": scorer.f1(ways)["lost"],
            "baseline_error": scorer.baseline_error(ways),
        }
        if kind.both_ways:
            entry["ways"] = [
                {"level": level, "weighted_f1": scorer.f1([way])["weighted_f1"]}
                for level, way in zip(kind.levels_of(severity), ways, strict=True)
            ]
        severities.append(entry)
    drawn = [scorer.draws(ways) for ways in found]
    f1, ece = (np.mean([draws[name] for draws in drawn], axis=0) for name in ("weighted_f1", "ece"))
    clean, error = scorer.clean_f1, float(np.mean([row["baseline_error"] for row in severities]))
    # The baseline's errors are constants, as AlexNet's are: its own variance is not the model's.
    loss = error - scorer.baseline_error([scorer.clean])
    errors = {
        "ce": (1 - f1) / error if error else None,
        "relative_ce": (clean - f1) / loss if loss >= LEAST_LOSS else None,
    }
    entry = {
        "kind": kind.name,
        "title": kind.title,
        "unit": kind.unit,
        "explanation": kind.explanation,
        "source": kind.source,
        "both_ways": kind.both_ways,
        "severities": severities,
        **{name: None if draws is None else percentile_interval(draws) for name, draws in errors.items()},
        "area_under_curve": float(np.mean([clean[0], *(draws["weighted_f1"][0] for draws in drawn)])),
        "relative_degradation": float(1 - f1[0] / clean[0]),
    }
    flips = np.concatenate([scorer.flips(ways) for ways in found]).mean(axis=0)
    return entry, errors | {"weighted_f1": f1, "ece": ece, "flips": flips}


def _summary(
    kinds: Sequence[tuple[Mapping[str, Any], Mapping[str, np.ndarray | None]]], scorer: Scorer
) -> dict[str, Any]:
    """Means over kinds, all of the same weight whether or not they go both ways."""

    def present(name: str) -> list[np.ndarray]:
        return [found for _, figures in kinds if (found := figures[name]) is not None]

    def mean(name: str) -> Interval | None:
        return percentile_interval(np.mean(present(name), axis=0)) if present(name) else None

    return {
        "mce": mean("ce"),
        "relative_mce": mean("relative_ce"),
        "relative_mce_kinds": len(present("relative_ce")),
        "mean_weighted_f1": mean("weighted_f1"),
        "mean_flip_rate": scorer.share(np.mean(present("flips"), axis=0)[None]),
        "mean_ece": mean("ece"),
        "worst_kind": max((entry for entry, _ in kinds), key=lambda entry: entry["relative_degradation"])["kind"],
    }
