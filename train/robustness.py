"""The block "robustness" of metrics.json: every kind of corruption at five severities, on held-out images.

Each image is evaluated by the fold network that was not trained on its group, and calibrated as the model is shown. A
severity of a kind that goes both ways, darker and brighter, is measured both ways on every image, so each image counts
twice there. Errors are also given relative to a baseline's, after Hendrycks & Dietterich 2019 (arXiv:1903.12261), whose
baseline was AlexNet; ours is a logistic regression of a few numbers per image, fitted on the same training images
without corruption. All intervals are over the same draws of groups, so differences between conditions are paired.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from tqdm.auto import tqdm

from blastlens import bootstrap, metrics
from blastlens.bootstrap import percentile_interval
from blastlens.corruptions import KINDS, Corruption, Kind
from blastlens.metrics import Interval
from blastlens.noise import MAX_SIGMA, PAPER_SIGMAS
from train.baselines import FEATURES, features_of, fitted
from train.folds import FoldNetworks, Outputs
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


class Baseline:
    """The strongest baseline of `train.baselines` for the data set, fitted on each fold's clean training images."""

    def __init__(self, networks: FoldNetworks):
        self.name, self.feature = list(FEATURES[networks.recipe.dataset].items())[-1]
        x = features_of(self.feature, networks.pixels, self.name)
        trains = [list(split.train) for split in networks.splits]
        self.models = [fitted(x[train], networks.labels[train]) for train in trains]

    def error(self, numbers: Sequence[np.ndarray], fold: np.ndarray, labels: np.ndarray) -> float:
        """Return 1 - weighted F1, pooled over versions of n images: numbers (n, F) of each; fold, labels (n,)."""
        x, fold, labels = np.concatenate(numbers), np.tile(fold, len(numbers)), np.tile(labels, len(numbers))
        probabilities = np.empty((len(x), len(self.models[0].classes_)))
        for k in np.unique(fold):
            probabilities[fold == k] = self.models[k].predict_proba(x[fold == k])
        return 1 - metrics.score("weighted_f1", labels, probabilities)


@dataclass(frozen=True, eq=False)
class Condition:
    """Results of n images under one corruption: probabilities (n, C) and the baseline's numbers (n, F)."""

    probabilities: np.ndarray
    numbers: np.ndarray


@dataclass(frozen=True, eq=False)
class PairedScores:
    """Scores of probabilities (n, C) of the same n images, pooled over `ways`, versions of each.

    Attributes:
        labels, groups: (n,). clean: (n, C), without corruption.
    """

    labels: np.ndarray
    groups: np.ndarray
    clean: np.ndarray

    def _tiled(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        return np.tile(self.labels, count), np.tile(self.groups, count)

    def draws(self, ways: Sequence[np.ndarray]) -> Draws:
        positive = 0 if self.clean.shape[1] == 2 else None  # ALL
        labels, groups = self._tiled(len(ways))
        scores = bootstrap.replicates(labels, np.concatenate(ways), groups, positive, REPLICATES)
        return {name: scores[name] for name in SCORES}

    def describe(self, ways: Sequence[np.ndarray], draws: Draws) -> dict[str, Any]:
        """Intervals of the scores, and the risk-coverage curve."""
        labels, groups = self._tiled(len(ways))
        pooled = np.concatenate(ways)
        curve = metrics.risk_coverage(labels, pooled, points=10)
        return {
            **{name: percentile_interval(draws[name]) for name in SCORES},
            "aurc": bootstrap.aurc(labels, pooled, groups, REPLICATES),
            "risk_coverage": [{"coverage": coverage, "risk": risk} for coverage, risk in curve],
        }

    def flipped(self, ways: Sequence[np.ndarray]) -> np.ndarray:
        """Whether the predicted class is another than without corruption: (n * ways,)."""
        return np.concatenate([way.argmax(axis=1) != self.clean.argmax(axis=1) for way in ways])

    def share(self, values: np.ndarray) -> Interval:
        """Mean of (n * ways,) values."""
        labels, groups = self._tiled(len(values) // len(self.labels))
        return bootstrap.mean(values, labels, groups, replicates=REPLICATES)


def measure(networks: FoldNetworks, every: int = 5) -> dict[str, Any]:
    """Return "robustness" of metrics.json, from one image in `every` of each group."""
    index = networks.every(every)
    baseline = Baseline(networks)
    clean, unchanged = _evaluated(networks, index, baseline, None)
    scorer = PairedScores(clean.label, networks.groups[index], clean.probabilities)
    of_clean = scorer.draws([scorer.clean])

    def error(ways: Sequence[Condition]) -> float:
        return baseline.error([way.numbers for way in ways], clean.fold, clean.label)

    clean_error = error([unchanged])
    todo = {Corruption(kind.name, at) for kind in KINDS.values() for s in SEVERITIES for at in kind.levels_of(s)}
    todo |= {Corruption("gaussian_noise", sigma) for sigma in MORE_SIGMAS}
    conditions = {
        str(one): _evaluated(networks, index, baseline, one)[1]
        for one in tqdm(sorted(todo, key=str), desc="robustness", unit="condition")
    }
    entries, draws, flips = [], {}, {}
    for kind in tqdm(KINDS.values(), desc="intervals", unit="kind"):
        found = [[conditions[str(Corruption(kind.name, at))] for at in kind.levels_of(s)] for s in SEVERITIES]
        errors = [error(ways) for ways in found]
        entry, draws[kind.name], flips[kind.name] = _kind(kind, found, errors, clean_error, scorer, of_clean)
        entries.append(entry)
    noise = [{"sigma": 0, "weighted_f1": percentile_interval(of_clean["weighted_f1"]), "lost": Interval(0.0, 0.0, 0.0)}]
    for sigma in sorted({*MORE_SIGMAS, *KINDS["gaussian_noise"].severities}):
        condition = conditions[str(Corruption("gaussian_noise", sigma))]
        noise.append({"sigma": sigma, **_f1(of_clean, scorer.draws([condition.probabilities]))})
    losses = [row["lost"].value for row in noise]
    return plain(
        {
            "protocol": networks.protocol,
            "seed": networks.seed,
            "every": every,
            "images": len(index),
            "groups": len(np.unique(scorer.groups)),
            "baseline": {"name": baseline.name, "what": WHAT[baseline.name], "clean_error": clean_error},
            "clean": scorer.describe([scorer.clean], of_clean),
            "kinds": entries,
            "noise": noise,
            "summary": {
                **_summary(entries, draws, flips, scorer),
                **{
                    f"sigma_minus_{round(100 * points)}": sigma_at([row["sigma"] for row in noise], losses, points)
                    for points in POINTS
                },
            },
        }
    )


def sigma_at(sigmas: Sequence[float], lost: Sequence[float], points: float) -> float | None:
    """Return the sigma at which `points` of the weighted F1 are lost, interpolated linearly; None if never.

    A few predictions can cause a loss at one sigma that is gone at the next, so the losses are made monotonic first.

    Args:
        sigmas: ascending from 0. lost: at each of them, 0 at the first. points: above 0.
    """
    rising = IsotonicRegression().fit_transform(sigmas, lost)
    for a, b, before, after in zip(sigmas, sigmas[1:], rising, rising[1:], strict=False):
        if after >= points:
            return float(a + (b - a) * (points - before) / (after - before))
    return None


def _evaluated(
    networks: FoldNetworks, index: np.ndarray, baseline: Baseline, corruption: Corruption | None
) -> tuple[Outputs, Condition]:
    """Evaluate networks and baseline under one corruption, each image with noise seeded by its row."""
    numbers: dict[int, np.ndarray] = {}

    def change(view: np.ndarray, row: int) -> np.ndarray:
        changed = corruption.apply(view, seed=row) if corruption else view
        numbers[row] = baseline.feature(changed)
        return changed

    outputs = networks.held_out(change, index)
    return outputs, Condition(outputs.probabilities, np.stack([numbers[int(row)] for row in index]))


def _f1(clean: Draws, draws: Draws) -> dict[str, Interval]:
    lost = clean["weighted_f1"] - draws["weighted_f1"]
    return {"weighted_f1": percentile_interval(draws["weighted_f1"]), "lost": percentile_interval(lost)}


def _kind(
    kind: Kind,
    found: Sequence[Sequence[Condition]],
    errors: Sequence[float],
    clean_error: float,
    scorer: PairedScores,
    of_clean: Draws,
) -> tuple[dict[str, Any], dict[str, np.ndarray | None], np.ndarray]:
    """Return the entry of one kind, the draws (1 + R,) of its figures, and each image's share of flips (n,).

    Args:
        found: the conditions of each severity. errors: the baseline's, by severity.
    """
    severities, drawn, flipped = [], [], []
    for severity, ways, error in zip(SEVERITIES, found, errors, strict=True):
        probabilities = [way.probabilities for way in ways]
        draws, flips = scorer.draws(probabilities), scorer.flipped(probabilities)
        entry = {
            "severity": severity,
            "level": kind.severities[severity - 1],
            **scorer.describe(probabilities, draws),
            "flip_rate": scorer.share(flips),
            "lost": _f1(of_clean, draws)["lost"],
            "baseline_error": error,
        }
        if kind.both_ways:
            entry["ways"] = [
                {"level": level, "weighted_f1": percentile_interval(scorer.draws([way])["weighted_f1"])}
                for level, way in zip(kind.levels_of(severity), probabilities, strict=True)
            ]
        severities.append(entry)
        drawn.append(draws)
        flipped.append(flips)
    mean = {name: np.mean([draws[name] for draws in drawn], axis=0) for name in ("weighted_f1", "ece")}
    f1, clean = mean["weighted_f1"], of_clean["weighted_f1"]
    # The baseline's errors are constants, as AlexNet's are: its own variance is not the model's.
    loss = float(np.mean(errors)) - clean_error
    figures = {
        "ce": (1 - f1) / np.mean(errors) if np.mean(errors) else None,
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
        **{name: None if draws is None else percentile_interval(draws) for name, draws in figures.items()},
        "area_under_curve": float(np.mean([clean[0], *(draws["weighted_f1"][0] for draws in drawn)])),
        "relative_degradation": float(1 - f1[0] / clean[0]),
    }
    return entry, figures | mean, np.concatenate(flipped).reshape(-1, len(scorer.labels)).mean(axis=0)


def _summary(
    entries: Sequence[Mapping[str, Any]],
    draws: Mapping[str, Mapping[str, np.ndarray | None]],
    flips: Mapping[str, np.ndarray],
    scorer: PairedScores,
) -> dict[str, Any]:
    """Means over kinds, all of the same weight whether or not they go both ways."""

    def mean(name: str) -> Interval | None:
        present = [one for found in draws.values() if (one := found[name]) is not None]
        return percentile_interval(np.mean(present, axis=0)) if present else None

    return {
        "mce": mean("ce"),
        "relative_mce": mean("relative_ce"),
        "relative_mce_kinds": sum(found["relative_ce"] is not None for found in draws.values()),
        "mean_weighted_f1": mean("weighted_f1"),
        "mean_flip_rate": scorer.share(np.mean(list(flips.values()), axis=0)),
        "mean_ece": mean("ece"),
        "worst_kind": max(entries, key=lambda entry: entry["relative_degradation"])["kind"],
    }
