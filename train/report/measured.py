"""Recorded runs turned into scores: which runs form one number, its interval, and differences between numbers.

Runs are pooled only if they trained the same thing: one system and protocol, the same changes of the recipe, the same
images. Of several such variants one is shown, and the pages name the others.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastlens import bootstrap
from blastlens.donor_metrics import DonorScores
from blastlens.metrics import Interval
from train.held_out import Recorded
from train.results import Result

REPLICATES = 2000


@dataclass(frozen=True, eq=False)
class RunSet:
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
    def sigmas(self) -> tuple[float, ...]:
        """The noise levels that all runs have."""
        return tuple(sorted(set.intersection(*(set(run.sigmas) for run in self.runs))))

    @property
    def index(self) -> NDArray[np.int64]:
        """(N,) rows in the data set of all runs' test images, one run after the other."""
        return np.concatenate([run.index for run in self.runs])

    @property
    def label(self) -> NDArray[np.int64]:
        """(N,)"""
        return np.concatenate([run.label for run in self.runs])

    @property
    def groups(self) -> NDArray[np.str_]:
        """(N,) names."""
        return np.concatenate([np.asarray(run.groups_of_images) for run in self.runs])

    @property
    def n_groups(self) -> int:
        return len(np.unique(self.groups))

    @property
    def devices(self) -> list[str]:
        """Device and precision of its runs, sorted."""
        return sorted({f"{run.device}, {run.precision}" for run in self.runs})

    def probabilities(self, sigma: float = 0.0) -> NDArray[np.float64]:
        """(N, C)"""
        return np.concatenate([run.probabilities[run.sigmas.index(sigma)] for run in self.runs])

    @property
    def positive(self) -> int | None:
        """The position of ALL where there are two classes."""
        return 0 if len(self.first.label_names) == 2 else None


@cache
def scores(runs: RunSet, sigma: float = 0.0) -> dict[str, Any]:
    """Every score with its 95 % interval over groups; several seeds are stacked, each image once per seed."""
    return bootstrap.summary(
        runs.label,
        runs.probabilities(sigma),
        runs.groups,
        runs.first.label_names,
        positive=runs.positive,
        replicates=REPLICATES,
    )


@cache
def donor_scores(runs: RunSet) -> DonorScores | None:
    """Scores by donor of complete group-level runs of two classes, calibrated on the other folds, classes and donors
    weighted equally; None for others."""
    if runs.positive is None or runs.first.level != "group" or not runs.complete:
        return None
    return Recorded.of(runs.runs).donors()


@cache
def of_fold(runs: RunSet, fold: int) -> RunSet | None:
    """The runs of one fold, None where it was not run."""
    found = tuple(run for run in runs.runs if run.fold == fold)
    return RunSet(found) if found else None


def leak(image: RunSet, group: RunSet) -> Interval:
    """Image-level minus group-disjoint accuracy over the groups tested in both, with a 95 % interval over them.

    The two were tested on different images of the same subjects, so each replicate draws groups once, as
    `bootstrap.summary` does, and scores on either side the images that belong to them.
    """
    names = np.intersect1d(image.groups, group.groups)
    right, total = np.zeros((2, len(names))), np.zeros((2, len(names)))
    classes = np.zeros((len(names), len(image.first.label_names)), dtype=bool)
    for level, runs in enumerate((image, group)):
        common = np.isin(runs.groups, names)
        index = np.searchsorted(names, runs.groups[common])
        hit = (runs.probabilities().argmax(axis=1) == runs.label)[common]
        right[level] = np.bincount(index, hit, len(names))
        total[level] = np.bincount(index, minlength=len(names))
        classes[index, runs.label[common]] = True
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


def paired(a: RunSet, b: RunSet, metric: str = "accuracy") -> Interval | None:
    """How much a's score exceeds b's on the same images under the same split; None where there are none such."""
    seeds = [s for s in a.seeds if s in b.seeds]
    if a.first.protocol != b.first.protocol or a.folds != b.folds or not seeds:
        return None
    sides = []
    for runs in (a, b):
        pooled = RunSet(tuple(run for run in runs.runs if run.seed in seeds))
        seed = np.concatenate([np.full(len(run.index), run.seed) for run in pooled.runs])
        order = np.lexsort((pooled.index, seed))
        sides.append([each[order] for each in (pooled.index, pooled.label, pooled.groups, pooled.probabilities())])
    (index, label, groups, p), (other_index, other_label, _, other_p) = sides
    if not (np.array_equal(index, other_index) and np.array_equal(label, other_label)):
        return None
    return bootstrap.difference(label, p, other_p, groups, metric, positive=a.positive, replicates=REPLICATES)


Key = tuple[str, str]  # system, protocol


def choose(results: Iterable[Result]) -> dict[Key, RunSet]:
    """What is shown for each system and protocol.

    The runs of the recipe as it is, if all its folds are there; otherwise the variant with the most folds, then seeds.
    """
    by_key: dict[Key, dict[str, list[Result]]] = {}
    for run in sorted(results, key=lambda r: (r.seed, r.fold)):
        # Equal for runs that trained the same thing on the same images.
        variant = json.dumps([run.recipe_digest, run.changes, run.dataset["hash"]], sort_keys=True)
        by_key.setdefault((run.system, run.protocol), {}).setdefault(variant, []).append(run)
    shown: dict[Key, RunSet] = {}
    for key, variants in sorted(by_key.items()):
        pools = [_pool(runs) for _, runs in sorted(variants.items())]
        shown[key] = max(
            pools,
            key=lambda m: (m.complete and not m.first.changes, len(m.folds), len(m.seeds), not m.first.changes),
        )
    return shown


def _pool(runs: Sequence[Result]) -> RunSet:
    """The seeds that have the folds of the seed with the most."""
    by_seed = {seed: tuple(members) for seed, members in groupby(runs, key=lambda r: r.seed)}
    folds = {seed: {run.fold for run in members} for seed, members in by_seed.items()}
    most = max(folds.values(), key=len)
    return RunSet(tuple(run for seed in by_seed for run in by_seed[seed] if folds[seed] == most))
