"""Recorded runs turned into figures: which runs form one number, its interval, and differences between numbers.

Runs are shown together only if they trained the same thing: one system, protocol and initialisation, the same
changes from the recipe, the same images. Of several such variants one is shown, and what is left out is named.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastlens import bootstrap, metrics
from blastlens.donor_metrics import DonorScores
from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from train.results import Result
from train.search import Recorded

REPLICATES = 2000


@dataclass(frozen=True, eq=False)
class Measured:
    """The runs that form one number: the same folds of every seed, sorted by seed and fold."""

    runs: tuple[Result, ...]

    @property
    def first(self) -> Result:
        return self.runs[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for run in self.runs}))

    @property
    def folds(self) -> tuple[int, ...]:
        """The folds that were run."""
        return tuple(sorted({run.fold for run in self.runs}))

    @property
    def complete(self) -> bool:
        return len(self.folds) == self.first.folds

    @property
    def changes(self) -> dict[str, Any]:
        return self.first.changes

    @property
    def level(self) -> str:
        return self.first.level

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels of all runs."""
        return tuple(sorted(set.intersection(*(set(run.sigmas) for run in self.runs))))

    @property
    def label(self) -> NDArray[np.int64]:
        """(N,) of all runs' test images, one run after the other."""
        return np.concatenate([run.label for run in self.runs])

    @property
    def groups(self) -> NDArray[np.str_]:
        """(N,) names."""
        return np.concatenate([np.asarray(run.groups_of_images) for run in self.runs])

    def probabilities(self, sigma: float = 0.0) -> NDArray[np.float64]:
        """(N, C)"""
        return np.concatenate([run.probabilities[run.sigmas.index(sigma)] for run in self.runs])

    @property
    def positive(self) -> int | None:
        """ALL, which a screening looks for, where there are two classes."""
        return 0 if len(self.first.label_names) == 2 else None


@cache
def scores(measured: Measured, sigma: float = 0.0) -> dict[str, Any]:
    """Every score with its 95 % interval over groups; several seeds are stacked, each image once per seed."""
    return bootstrap.summary(
        measured.label,
        measured.probabilities(sigma),
        measured.groups,
        measured.first.label_names,
        positive=measured.positive,
        replicates=REPLICATES,
    )


@cache
def donor_scores(measured: Measured) -> DonorScores | None:
    """Figures by donor of complete group-level runs of two classes, calibrated on the other folds, classes and donors
    weighted equally; None for others."""
    if measured.positive is None or measured.level != "group" or not measured.complete:
        return None
    return Recorded.of(measured.runs).donors()


@cache
def part(measured: Measured, fold: int | None = None, seed: int | None = None) -> Measured:
    """The runs of one fold, or of one seed."""
    wanted = [r for r in measured.runs if fold in (None, r.fold) and seed in (None, r.seed)]
    return Measured(tuple(wanted))


def range_over_seeds(measured: Measured) -> tuple[float, float]:
    """The lowest and the highest accuracy of a seed."""
    values = [metrics.accuracy(m.label, m.probabilities()) for m in (part(measured, seed=s) for s in measured.seeds)]
    return min(values), max(values)


def leak(image: Measured, group: Measured) -> Interval:
    """Image-level minus group-level accuracy over the groups tested in both, with a 95 % interval over them.

    The two were tested on different images of the same people, so each replicate draws groups once, as
    `bootstrap.summary` does, and scores on either side the images that belong to them.
    """
    names = np.intersect1d(image.groups, group.groups)
    right, total = np.zeros((2, len(names))), np.zeros((2, len(names)))
    classes = np.zeros((len(names), len(image.first.label_names)), dtype=bool)
    for level, measured in enumerate((image, group)):
        common = np.isin(measured.groups, names)
        index = np.searchsorted(names, measured.groups[common])
        hit = (measured.probabilities().argmax(axis=1) == measured.label)[common]
        right[level] = np.bincount(index, hit, len(names))
        total[level] = np.bincount(index, minlength=len(names))
        classes[index, measured.label[common]] = True
    stratum = classes.argmax(axis=1) if (classes.sum(axis=1) == 1).all() else np.zeros(len(names), dtype=int)
    rng = np.random.default_rng(0)
    weights = np.empty((REPLICATES, len(names)))
    for s in np.unique(stratum):
        members = np.flatnonzero(stratum == s)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), REPLICATES)
    accuracy = (weights @ right.T) / (weights @ total.T)  # every group has images on both sides
    low, high = np.quantile(accuracy[:, 0] - accuracy[:, 1], [0.025, 0.975])
    point = right.sum(axis=1) / total.sum(axis=1)
    return Interval(float(point[0] - point[1]), float(low), float(high))


def paired(a: Measured, b: Measured, metric: str = "accuracy") -> Interval | None:
    """How much a's score exceeds b's on the same images under the same split; None where there are none such."""
    seeds = [s for s in a.seeds if s in b.seeds]
    if a.first.protocol != b.first.protocol or a.folds != b.folds or not seeds:
        return None
    rows = []
    for measured in (a, b):
        runs = [run for run in measured.runs if run.seed in seeds]
        index = np.concatenate([run.index for run in runs])
        order = np.lexsort((index, np.concatenate([np.full(len(run.index), run.seed) for run in runs])))
        pooled = Measured(tuple(runs))
        rows.append((index[order], pooled.label[order], pooled.groups[order], pooled.probabilities()[order]))
    (index_a, labels, groups, p_a), (index_b, labels_b, _, p_b) = rows
    if not (np.array_equal(index_a, index_b) and np.array_equal(labels, labels_b)):
        return None
    return bootstrap.difference(labels, p_a, p_b, groups, metric, positive=a.positive, replicates=REPLICATES)


Key = tuple[str, str, str]  # system, protocol, initialisation


def choose(results: Iterable[Result]) -> dict[Key, Measured]:
    """What is shown for each system, protocol and initialisation.

    The runs of the recipe as it is, if all its folds are there; otherwise the variant with the most folds, then seeds.
    """
    by_key: dict[Key, dict[str, list[Result]]] = {}
    for run in sorted(results, key=lambda r: (r.seed, r.fold)):
        variants = by_key.setdefault((run.system, run.protocol, run.initialisation), {})
        variants.setdefault(_variant(run), []).append(run)
    shown: dict[Key, Measured] = {}
    for key, variants in sorted(by_key.items()):
        pools = [_pool(runs) for _, runs in sorted(variants.items())]
        shown[key] = max(pools, key=lambda m: (m.complete and not m.changes, len(m.folds), len(m.seeds), not m.changes))
    return shown


def _variant(run: Result) -> str:
    """Equal for runs that trained the same thing on the same images."""
    return json.dumps([run.recipe_digest, run.changes, run.dataset["hash"]], sort_keys=True)


def _pool(runs: Sequence[Result]) -> Measured:
    """The seeds that have the folds of the seed with the most."""
    by_seed = {seed: tuple(members) for seed, members in groupby(runs, key=lambda r: r.seed)}
    folds = {seed: {run.fold for run in members} for seed, members in by_seed.items()}
    most = max(folds.values(), key=len)
    pooled = Measured(tuple(run for seed in by_seed for run in by_seed[seed] if folds[seed] == most))
    if len({(run.fold, run.seed) for run in pooled.runs}) != len(pooled.runs):
        raise BlastlensError(f"Two recorded runs of {runs[0].system} have the same protocol, fold and seed.")
    return pooled
