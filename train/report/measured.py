"""Recorded runs turned into scores: which runs form one number, its interval, and differences between numbers.

Runs are pooled only if they trained the same thing: one system and protocol, the same changes of the recipe, the same
images. Of several such variants one is shown.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastlens import bootstrap
from blastlens.metrics import Interval
from train.held_out import HeldOut, Recorded
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
    def seeds(self) -> list[int]:
        return sorted({run.seed for run in self.runs})

    @property
    def folds(self) -> list[int]:
        """The folds that were run."""
        return sorted({run.fold for run in self.runs})

    @property
    def complete(self) -> bool:
        return len(self.folds) == self.first.folds

    @property
    def constant(self) -> bool:
        """Whether all test images without noise get the same label: the network has learned no more than that."""
        return len(np.unique(self.probabilities().argmax(axis=1))) == 1

    @property
    def planned_steps(self) -> int:
        """Optimizer steps that its recipe asks for, those of the first fold; 0 in records that do not say."""
        return self.first.planned_steps

    @cached_property
    def images(self) -> HeldOut:
        """All runs' test images, one run after the other, at the noise levels that all runs have."""
        return HeldOut.of_results(self.runs)

    @property
    def sigmas(self) -> tuple[float, ...]:
        return tuple(self.images.sigmas.tolist())

    @property
    def label(self) -> NDArray[np.int64]:
        """(N,)"""
        return self.images.label

    @property
    def groups(self) -> NDArray[np.str_]:
        """(N,) names."""
        return self.images.group

    @property
    def n_groups(self) -> int:
        return len(np.unique(self.groups))

    @property
    def devices(self) -> list[str]:
        """Device and precision of its runs, sorted."""
        return sorted({f"{run.device}, {run.precision}" for run in self.runs})

    @property
    def positive(self) -> int | None:
        """The position of ALL where there are two classes."""
        return 0 if len(self.first.label_names) == 2 else None

    def probabilities(self, sigma: float = 0.0) -> NDArray[np.float64]:
        """(N, C)"""
        return np.concatenate([run.probabilities[run.sigmas.index(sigma)] for run in self.runs])


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
def donor_scores(runs: RunSet | None, calibrated: bool) -> dict[str, Any]:
    """Scores by donor of group-level runs of two classes; empty for others.

    `calibrated`: on the other folds, classes and donors weighted equally; empty where a fold is missing. Otherwise by
    the probabilities as trained. The AUROC within folds is the same either way.
    """
    if runs is None or runs.positive is None or runs.first.level != "group" or (calibrated and not runs.complete):
        return {}
    if calibrated:
        return Recorded.of(runs.runs).summary()
    return Recorded(runs.images, runs.probabilities()[None, :, runs.positive]).summary()


@cache
def of_fold(runs: RunSet | None, fold: int) -> RunSet | None:
    """The runs of one fold, None where it was not run."""
    found = tuple(run for run in runs.runs if run.fold == fold) if runs else ()
    return RunSet(found) if found else None


def leak(image: RunSet, group: RunSet) -> Interval:
    """Image-level minus group-disjoint accuracy over the groups tested in both, with a 95 % interval over them.

    The two were tested on different images of the same subjects, so each replicate draws groups once, as
    `bootstrap.summary` does, and scores on either side the images that belong to them.
    """
    names = np.intersect1d(image.groups, group.groups)
    right, total = np.zeros((2, len(names))), np.zeros((2, len(names)))
    holds = np.zeros((len(names), len(image.first.label_names)), dtype=bool)
    for level, runs in enumerate((image, group)):
        common = np.isin(runs.groups, names)
        index = np.searchsorted(names, runs.groups[common])
        hit = (runs.probabilities().argmax(axis=1) == runs.label)[common]
        right[level] = np.bincount(index, hit, len(names))
        total[level] = np.bincount(index, minlength=len(names))
        holds[index, runs.label[common]] = True
    weights = bootstrap.group_weights(holds, REPLICATES, seed=0)
    accuracy = (weights @ right.T) / (weights @ total.T)  # every group has images on both sides
    return bootstrap.percentile_interval(accuracy[:, 0] - accuracy[:, 1])


def paired(a: RunSet, b: RunSet) -> Interval | None:
    """How much a's accuracy exceeds b's on the same images under the same split; None where there are none such."""
    seeds = set(a.seeds) & set(b.seeds)
    if a.first.protocol != b.first.protocol or a.folds != b.folds or not seeds:
        return None
    sides = []
    for runs in (a, b):
        pooled = RunSet(tuple(run for run in runs.runs if run.seed in seeds))
        index = pooled.images.index
        order = np.lexsort((index, pooled.images.repeat))
        sides.append([each[order] for each in (index, pooled.label, pooled.groups, pooled.probabilities())])
    (index, label, groups, p), (other_index, other_label, _, other_p) = sides
    if not (np.array_equal(index, other_index) and np.array_equal(label, other_label)):
        return None
    return bootstrap.difference(label, p, other_p, groups, "accuracy", replicates=REPLICATES)


def choose(results: Iterable[Result]) -> dict[tuple[str, str], RunSet]:
    """What is shown, by system and protocol: the variant from other than random first weights where there is one; of
    these, that with the most folds; of these, the recipe as it is."""
    variants: dict[tuple[str, str], dict[str, list[Result]]] = {}
    for run in sorted(results, key=lambda r: (r.seed, r.fold)):
        # Equal for runs that trained the same thing on the same images.
        same = [run.recipe_digest, run.changes, run.dataset["hash"], run.initialisation]
        variant = json.dumps(same, sort_keys=True)
        variants.setdefault((run.system, run.protocol), {}).setdefault(variant, []).append(run)
    shown = {}
    for key, of_it in variants.items():
        pools = [_pool(runs) for _, runs in sorted(of_it.items())]
        shown[key] = max(
            pools, key=lambda m: (m.first.initialisation != "scratch", len(m.folds), not m.first.changes, len(m.seeds))
        )
    return shown


def _pool(runs: Sequence[Result]) -> RunSet:
    """The seeds that have the folds of the seed with the most."""
    folds: dict[int, set[int]] = {}
    for run in runs:
        folds.setdefault(run.seed, set()).add(run.fold)
    most = max(folds.values(), key=len)
    return RunSet(tuple(run for run in runs if folds[run.seed] == most))
