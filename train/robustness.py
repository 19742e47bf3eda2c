"""How a model holds up as its images get worse: every kind of corruption at five severities, on people it never saw.

    python -m train.robustness results/folds/mobilenet_m-cnmc2019 --data DIR --every 5 --out robustness.json

Each image is answered by the cross-validation's network that was not trained on its group, and calibrated as the model
is shown. A severity of a kind that goes both ways, darker and brighter, is measured both ways on every image, so that
each image counts twice there. Errors are also given as shares of a yardstick's, after Hendrycks & Dietterich 2019
(arXiv:1903.12261), whose yardstick was AlexNet; ours is a logistic regression of a few numbers per image, fitted on the
same training images without corruption. All intervals are over the same draws of groups, so that differences between
conditions are paired.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.isotonic import IsotonicRegression
from sklearn.pipeline import Pipeline
from tqdm.auto import tqdm

from blastlens import bootstrap, metrics
from blastlens.bootstrap import percentile_interval
from blastlens.corruptions import KINDS, Corruption, Kind
from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from blastlens.noise import MAX_SIGMA, PAPER_SIGMAS
from train.baselines import FEATURES, Feature, features_of, fitted
from train.crossval import plain
from train.files import replace, write_json
from train.folds import Answers, FoldNetworks

SEVERITIES = (1, 2, 3, 4, 5)
SCORES = ("weighted_f1", "balanced_accuracy", "auroc", "ece")
# Gaussian noise beyond its severities, for where the score has lost so many points.
MORE_SIGMAS = (*PAPER_SIGMAS, MAX_SIGMA)
POINTS = (0.01, 0.05)
REPLICATES = 2000  # draws of groups
# A yardstick that loses less than this of its weighted F1, on average, is no measure of how much another loses.
LEAST_LOSS = 0.01
PROBED = 3  # views whose corrupted pixels name a kept answer
WHAT = {
    "cell area and colour": "A logistic regression of the cell's area and the mean and spread of its colours.",
    "colour histogram": "A logistic regression of how often each of 216 colours occurs in the image.",
}


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A few numbers per image, and for each fold the regression that was fitted on its training images."""

    name: str
    feature: Feature
    models: tuple[Pipeline, ...]

    @classmethod
    def fit(cls, networks: FoldNetworks) -> "Yardstick":
        """The data set's strongest baseline of `train.baselines`, on clean images."""
        name, feature = list(FEATURES[networks.recipe.dataset].items())[-1]
        x = features_of(feature, networks.pixels, name)
        models = [fitted(x[list(split.train)], networks.labels[list(split.train)]) for split in networks.splits]
        return cls(name, feature, tuple(models))

    def error(self, x: np.ndarray, fold: np.ndarray, labels: np.ndarray) -> float:
        """1 - weighted F1 on numbers (N, F) of images whose fold and class are (N,) each."""
        probabilities = np.empty((len(x), len(self.models[0].classes_)))
        for k in np.unique(fold):
            probabilities[fold == k] = self.models[k].predict_proba(x[fold == k])
        return 1 - metrics.weighted_f1(labels, probabilities)


@dataclass(frozen=True, eq=False)
class Condition:
    """What is said of the same n images under one corruption: probabilities (n, C), the yardstick's numbers (n, F)."""

    probabilities: np.ndarray
    numbers: np.ndarray


class Scores:
    """Scores of conditions, and of the same draws of groups: (1 + R,) each, the data as they are first."""

    def __init__(self, labels: np.ndarray, groups: np.ndarray, clean: np.ndarray) -> None:
        self.labels, self.groups, self.clean = labels, groups, clean
        self._positive = 0 if clean.shape[1] == 2 else None  # ALL is what a screening looks for
        self.of_clean = self.draws([clean])

    def draws(self, ways: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Every score of probabilities (n, C), pooled over ways of the same images."""
        labels, groups = np.tile(self.labels, len(ways)), np.tile(self.groups, len(ways))
        scores = bootstrap.replicates(labels, np.concatenate(ways), groups, self._positive, REPLICATES)
        return {name: scores[name] for name in SCORES}

    def describe(self, ways: Sequence[np.ndarray], draws: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Intervals of the scores, and how much the model knows of its errors."""
        labels, groups = np.tile(self.labels, len(ways)), np.tile(self.groups, len(ways))
        pooled = np.concatenate(ways)
        curve = metrics.risk_coverage(labels, pooled, points=10)
        return {
            **{name: percentile_interval(draws[name]) for name in SCORES},
            "aurc": bootstrap.aurc(labels, pooled, groups, REPLICATES),
            "risk_coverage": [{"coverage": coverage, "risk": risk} for coverage, risk in curve],
        }

    def flipped(self, ways: Sequence[np.ndarray]) -> np.ndarray:
        """Which answers are others than without corruption: (n * ways,)."""
        return np.concatenate([way.argmax(axis=1) != self.clean.argmax(axis=1) for way in ways])

    def share(self, true: np.ndarray) -> Interval:
        """The share of images (n * k,) of which something is true."""
        repeats = len(true) // len(self.labels)
        labels, groups = np.tile(self.labels, repeats), np.tile(self.groups, repeats)
        return bootstrap.mean(true, labels, groups, replicates=REPLICATES)


def sigma_at(sigmas: Sequence[float], lost: Sequence[float], points: float) -> float | None:
    """The sigma at which so much is lost, between neighbours on a straight line; None where it never is.

    A few answers more or less can feign a loss at one sigma that is gone at the next; more noise does not help, so the
    losses are first made to rise, by isotonic regression.

    Args:
        sigmas: ascending, from 0 on.
        lost: at each of them, of the weighted F1; 0 at the first.
        points: above 0.
    """
    rising = IsotonicRegression().fit_transform(sigmas, lost)
    for a, b, before, after in zip(sigmas, sigmas[1:], rising, rising[1:], strict=False):
        if after >= points:
            return float(a + (b - a) * (points - before) / (after - before))
    return None


def measure(networks: FoldNetworks, every: int = 5, keep: Path | None = None) -> dict[str, Any]:
    """What metrics.json holds as "robustness".

    Args:
        networks: of the recipe.
        every: of each group's images, every which one is measured.
        keep: folder in which answers are kept, so that an interrupted run goes on where it was. Other networks, other
            images or a corruption that has been changed make new ones.
    """
    index = networks.every(every)
    yardstick = Yardstick.fit(networks)
    run = _Run(networks, index, yardstick, keep)
    scores = Scores(run.clean.label, networks.groups[index], run.clean.probabilities)
    clean_error = run.error([run.unchanged])
    todo = [
        Corruption(kind.name, level) for kind in KINDS.values() for s in SEVERITIES for level in kind.levels_of(s)
    ] + [Corruption("gaussian_noise", sigma) for sigma in MORE_SIGMAS]
    answers = {str(corruption): run.ask(corruption) for corruption in tqdm(todo, desc="robustness", unit="condition")}
    kinds, draws = [], {}
    for kind in tqdm(KINDS.values(), desc="intervals", unit="kind"):
        found = [[answers[str(Corruption(kind.name, at))] for at in kind.levels_of(s)] for s in SEVERITIES]
        errors = [run.error(ways) for ways in found]
        entry, draws[kind.name] = _kind(kind, found, errors, clean_error, scores)
        kinds.append(entry)
    noise = _noise_curve(answers, scores)
    return plain(
        {
            "protocol": networks.protocol,
            "seed": networks.seed,
            "every": every,
            "images": len(index),
            "groups": len(np.unique(scores.groups)),
            "baseline": {"name": yardstick.name, "what": WHAT[yardstick.name], "clean_error": clean_error},
            "clean": scores.describe([scores.clean], scores.of_clean),
            "kinds": kinds,
            "noise": noise,
            "summary": {
                **_summary(kinds, draws, scores),
                **{
                    f"sigma_minus_{round(100 * points)}": sigma_at(
                        [row["sigma"] for row in noise], [row["lost"].value for row in noise], points
                    )
                    for points in POINTS
                },
            },
        }
    )


class _Run:
    """Asks networks and yardstick about the same images, and keeps what they say."""

    def __init__(self, networks: FoldNetworks, index: np.ndarray, yardstick: Yardstick, keep: Path | None) -> None:
        self._networks, self._index, self._yardstick, self._keep = networks, index, yardstick, keep
        self._place = {int(row): place for place, row in enumerate(index)}
        self.clean: Answers
        self.clean, self.unchanged = self._asked(None)

    def ask(self, corruption: Corruption) -> Condition:
        """What is said of the images after a corruption, each with the noise that its row in the data set seeds."""
        path = self._path(corruption)
        if path and path.exists():
            with np.load(path) as kept:
                return Condition(kept["probabilities"], kept["numbers"])
        _, found = self._asked(corruption)
        if path:
            replace(path, lambda part: np.savez(part, probabilities=found.probabilities, numbers=found.numbers))
        return found

    def error(self, ways: Sequence[Condition]) -> float:
        """The yardstick's, pooled over ways of the same images."""
        numbers = np.concatenate([way.numbers for way in ways])
        return self._yardstick.error(numbers, np.tile(self.clean.fold, len(ways)), np.tile(self.clean.label, len(ways)))

    def _asked(self, corruption: Corruption | None) -> tuple[Answers, Condition]:
        numbers: list[Any] = [None] * len(self._index)

        def change(view: np.ndarray, row: int) -> np.ndarray:
            changed = corruption.apply(view, seed=row) if corruption else view
            numbers[self._place[row]] = self._yardstick.feature(changed)
            return changed

        answers = self._networks.held_out(change, self._index)
        return answers, Condition(answers.probabilities, np.stack(numbers))

    def _path(self, corruption: Corruption) -> Path | None:
        if not self._keep:
            return None
        named = hashlib.sha256(self.unchanged.probabilities.tobytes() + self._index.tobytes())
        for row in self._index[:: max(1, len(self._index) // PROBED)]:
            changed = corruption.apply(np.asarray(self._networks.pixels[row]), seed=int(row))
            named.update(changed.tobytes() + self._yardstick.feature(changed).tobytes())
        return self._keep / f"{str(corruption).replace(':', '_')}-{named.hexdigest()[:16]}.npz"


@dataclass(frozen=True, eq=False)
class _Draws:
    """Of one kind, by draw of groups: error, as a share of the yardstick's, weighted F1 and ECE, all (1 + R,) means."""

    ce: np.ndarray | None
    relative_ce: np.ndarray | None
    weighted_f1: np.ndarray
    ece: np.ndarray
    flipped: np.ndarray  # (5 * ways * n,)


def _kind(
    kind: Kind, found: Sequence[Sequence[Condition]], errors: Sequence[float], clean_error: float, scores: Scores
) -> tuple[dict[str, Any], _Draws]:
    """One entry of the record, from what is said at each severity in each way, and the yardstick's errors."""
    severities, drawn, flipped = [], [], []
    for severity, ways, error in zip(SEVERITIES, found, errors, strict=True):
        probabilities = [way.probabilities for way in ways]
        draws = scores.draws(probabilities)
        flips = scores.flipped(probabilities)
        entry = {
            "severity": severity,
            "level": kind.severities[severity - 1],
            **scores.describe(probabilities, draws),
            "flip_rate": scores.share(flips),
            "lost": percentile_interval(scores.of_clean["weighted_f1"] - draws["weighted_f1"]),
            "baseline_error": error,
        }
        if kind.both_ways:
            entry["ways"] = [
                {"level": level, "weighted_f1": percentile_interval(scores.draws([way])["weighted_f1"])}
                for level, way in zip(kind.levels_of(severity), probabilities, strict=True)
            ]
        severities.append(entry)
        drawn.append(draws)
        flipped.append(flips)
    f1 = np.mean([draws["weighted_f1"] for draws in drawn], axis=0)
    clean = scores.of_clean["weighted_f1"]
    # The yardstick's errors are constants, as AlexNet's are there: its own spread is not the model's.
    loss = float(np.mean(errors)) - clean_error
    ce = (1 - f1) / np.mean(errors) if np.mean(errors) else None
    relative = (clean - f1) / loss if loss >= LEAST_LOSS else None
    entry = {
        "kind": kind.name,
        "title": kind.title,
        "unit": kind.unit,
        "explanation": kind.explanation,
        "source": kind.source,
        "both_ways": kind.both_ways,
        "severities": severities,
        "ce": None if ce is None else percentile_interval(ce),
        "relative_ce": None if relative is None else percentile_interval(relative),
        "area_under_curve": float(np.mean([clean[0], *(draws["weighted_f1"][0] for draws in drawn)])),
        "relative_degradation": float(1 - f1[0] / clean[0]),
    }
    ece = np.mean([draws["ece"] for draws in drawn], axis=0)
    return entry, _Draws(ce, relative, f1, ece, np.concatenate(flipped))


def _summary(kinds: Sequence[Mapping[str, Any]], draws: Mapping[str, _Draws], scores: Scores) -> dict[str, Any]:
    """Means over kinds, each of the same weight whether or not it goes both ways."""
    ce = [found.ce for found in draws.values() if found.ce is not None]
    relative = [found.relative_ce for found in draws.values() if found.relative_ce is not None]
    # An image's share of changed answers under each kind, so that kinds weigh the same here, too.
    flips = np.mean([found.flipped.reshape(-1, len(scores.labels)).mean(axis=0) for found in draws.values()], axis=0)
    return {
        "mce": percentile_interval(np.mean(ce, axis=0)) if ce else None,
        "relative_mce": percentile_interval(np.mean(relative, axis=0)) if relative else None,
        "relative_mce_kinds": len(relative),
        "mean_weighted_f1": percentile_interval(np.mean([found.weighted_f1 for found in draws.values()], axis=0)),
        "mean_flip_rate": scores.share(flips),
        "mean_ece": percentile_interval(np.mean([found.ece for found in draws.values()], axis=0)),
        "worst_kind": max(kinds, key=lambda entry: entry["relative_degradation"])["kind"],
    }


def _noise_curve(answers: Mapping[str, Condition], scores: Scores) -> list[dict[str, Any]]:
    """Weighted F1 under Gaussian noise at every measured sigma, and how much of it is lost."""
    clean = scores.of_clean["weighted_f1"]
    rows = [{"sigma": 0, "weighted_f1": percentile_interval(clean), "lost": percentile_interval(clean - clean)}]
    for sigma in sorted({*MORE_SIGMAS, *KINDS["gaussian_noise"].severities}):
        f1 = scores.draws([answers[str(Corruption("gaussian_noise", sigma))].probabilities])["weighted_f1"]
        rows.append({"sigma": sigma, "weighted_f1": percentile_interval(f1), "lost": percentile_interval(clean - f1)})
    return rows


def table(record: Mapping[str, Any]) -> str:
    """The weighted F1 lost, in points, by kind and severity."""
    lines = [f"{'points of weighted F1 lost at':30s}{''.join(f'{s:>8d}' for s in SEVERITIES)}{'CE':>8s}"]
    for kind in record["kinds"]:
        lost = "".join(f"{100 * row['lost']['value']:8.1f}" for row in kind["severities"])
        ce = f"{kind['ce']['value']:8.2f}" if kind["ce"] else f"{'-':>8s}"
        lines.append(f"{kind['title']:30s}{lost}{ce}")
    return "\n".join([*lines, json.dumps(record["summary"])])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.robustness", description=__doc__.splitlines()[0])
    parser.add_argument("folds", type=Path, help="folder of train.folds")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset")
    parser.add_argument("--every", type=int, default=5, help="every which image of a group is measured")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--keep", type=Path, help="folder for answers, to go on after an interruption")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        networks = FoldNetworks.load(arguments.folds, arguments.data, arguments.cache)
        record = measure(networks, arguments.every, arguments.keep)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(arguments.out, record)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
