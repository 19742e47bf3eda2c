"""All that the comparison of published systems is made from, as one row per system; and the record that the page reads.

`Evidence.read` reads `results/`; `comparison_record` is `results/comparison.json`, which `blastlens.published_systems`
reads.
"""

import functools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from blastlens.metrics import Interval
from train.held_out import plain
from train.recipe import OURS, Recipe
from train.report.measured import RunSet, choose, donor_scores, leak, paired, scores
from train.report.numbers import NOTHING, interval, verdict
from train.report.published import Claim, Publications
from train.results import HONEST, LEVELS, Result, load_results

# Rows beside the papers' systems: the ablation of MobileNet_M, and our own recipes.
ABLATION = "mobilenet_m_plain"
OWN = ("ours_cnmc2019", "ours_aria2021")
SCHEMA = 1  # of the record


@dataclass(frozen=True, eq=False)
class SystemRow:
    """One system, with its paper's claim and its runs on the paper's split and on the group-disjoint one; `full` are
    those of full length on the paper's split, where these are shortened."""

    recipe: Recipe
    image: RunSet | None
    group: RunSet | None
    claim: Claim
    full: RunSet | None = None

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def title(self) -> str:
        return self.recipe.title

    @property
    def first_weights(self) -> str:
        """What its networks started from; of a system that was not run, what its recipe starts from."""
        if self.recipe.backbone in OURS:
            return "random, as published"
        used = dict.fromkeys(weights_in_words(runs.first.initial_weights) for runs in self.measured.values())
        return "; ".join(used) or "ImageNet"

    @property
    def comparable(self) -> bool:
        """Whether its scores say anything about the paper's: not where it started from random weights instead."""
        return self.first_weights != "random"

    @property
    def measured(self) -> dict[str, RunSet]:
        """Its runs by level."""
        return {level: runs for level in LEVELS if (runs := getattr(self, level))}

    @functools.cached_property
    def leak(self) -> Interval | None:
        """Image-level minus group-disjoint accuracy, where both were trained for the same number of steps, and neither
        answers every image alike: that difference would be one of the shares of classes."""
        if not (self.image and self.group and self.image.planned_steps == self.group.planned_steps):
            return None
        if not self.image.planned_steps or self.image.constant or self.group.constant:
            return None
        return leak(self.image, self.group)

    def missing(self, level: str) -> str:
        """Why there is no score."""
        if level == "image" and self.recipe.paper is None:
            return "not measured: our recipes are measured group-disjoint only"
        if level == "group" and self.name == ABLATION:
            return "not measured: the paper's ablation is image-level"
        return "not run yet"

    def score(self, level: str, name: str = "accuracy", label: str | None = None) -> Interval | None:
        """What was measured, of one class if `label` is given."""
        runs = self.measured.get(level)
        if not runs:
            return None
        found = scores(runs)
        return (found["per_class"][label] if label else found)[name]

    def cell(self, level: str, name: str = "accuracy", label: str | None = None) -> str:
        """The score in a table, with the number of folds where some are missing, or why there is none."""
        runs = self.measured.get(level)
        if not runs:
            return self.missing(level)
        folds = "" if runs.complete else f", {len(runs.folds)} of {runs.first.folds} folds"
        return interval(self.score(level, name, label), missing=NOTHING) + folds

    @property
    def full_accuracy(self) -> str:
        """Of its runs of full length, in a table."""
        return interval(scores(self.full)["accuracy"] if self.full else None, missing=NOTHING)

    @property
    def kept_epoch(self) -> int:
        """Of the run of full length: the epoch with the lowest validation loss."""
        return 1 + int(np.argmin([row["val_loss"] for row in self.full.first.curve]))

    @property
    def shortened(self) -> bool:
        """Whether a run had fewer epochs, shorter ones or smaller images than the recipe."""
        keys = {key for runs in self.measured.values() for key in runs.first.changes}
        return bool(keys & {"epochs", "image_size"})

    @property
    def steps(self) -> str:
        """Optimizer steps of its runs in a table; both where the levels differ, `-` where records do not say."""
        found = dict.fromkeys(runs.planned_steps for runs in self.measured.values())
        return "; ".join(f"{steps:,}" for steps in found if steps) or NOTHING

    @property
    def changes(self) -> str:
        """How its runs differ from the recipe: `epochs 14 instead of 100`, `nothing`, or `-` where it was not run."""
        words = {LEVELS[level]: changes_of(runs.first, self.recipe) for level, runs in self.measured.items()}
        if len(set(words.values())) > 1:
            return "; ".join(f"{level}: {text}" for level, text in words.items())
        return next(iter(words.values()), NOTHING)


def changes_of(run: Result, recipe: Recipe) -> str:
    """How a run differs from the recipe as committed, in words."""
    values = recipe.flat
    words = []
    for key, new in sorted(run.changes.items()):
        old = values[key]
        if key == "epoch_steps":
            words.append(f"an epoch is {new} steps instead of one pass")
        elif isinstance(new, list) and not new:
            words.append(f"{key} nothing instead of {', '.join(old)}")
        else:
            words.append(f"{key} {new} instead of {old}")
    return ", ".join(words) or "nothing"


def weights_in_words(initial: str) -> str:
    """First weights as tables name them, from a record's `initial_weights`: "random", or a file or Hub name."""
    if initial in ("random", "none"):
        return initial
    if ".photos" in initial:
        return "ImageNet, then photographs"
    return "ImageNet, convolutions alone" if "_conv" in initial else "ImageNet"


@dataclass(frozen=True)
class Evidence:
    """Everything that was recorded.

    Attributes:
        baselines: scores without a network by what is measured, by data set.
        latency: "machine" and "systems", or nothing.
        networks: "parameters" and "multiply_adds", by recipe.
    """

    published: Publications
    results: tuple[Result, ...]
    recipes: Mapping[str, Recipe]
    baselines: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    latency: Mapping[str, Any] = field(default_factory=dict)
    networks: Mapping[str, dict[str, int]] = field(default_factory=dict)
    full_length: tuple[Result, ...] = ()

    @classmethod
    def read(cls, results: Path) -> "Evidence":
        """Raises BlastlensError where a file is not what it should be."""
        published = Publications.load(results / "published.yaml")
        baselines = {path.stem.removeprefix("baselines_"): path for path in sorted(results.glob("baselines_*.json"))}
        return cls(
            published=published,
            results=tuple(load_results(results / "runs")),
            recipes={name: Recipe.load(name) for name in (*published.claims, ABLATION, *OWN)},
            baselines={name: json.loads(path.read_text())["scores"] for name, path in baselines.items()},
            latency=json.loads((results / "latency.json").read_text()),
            networks=json.loads((results / "networks.json").read_text()),
            full_length=tuple(load_results(results / "full_length")),
        )

    @functools.cached_property
    def rows(self) -> tuple[SystemRow, ...]:
        """Every system in the papers' order, run or not, then the ablation, then our recipes. Only runs of the recipes
        as committed (plus their recorded changes) are shown, those from random weights only where there are none from
        the published first weights."""
        shown, full = (choose(filter(self._is_current, runs)) for runs in (self.results, self.full_length))
        return tuple(
            SystemRow(
                recipe,
                image=shown.get((recipe.name, recipe.protocol)) if recipe.paper else None,
                group=shown.get((recipe.name, HONEST)),
                claim=self.published.claims.get(recipe.name, Claim()),
                full=full.get((recipe.name, recipe.protocol)),
            )
            for recipe in self.recipes.values()
        )

    def _is_current(self, run: Result) -> bool:
        recipe = self.recipes.get(run.system)
        return recipe is not None and recipe.changed(run.changes).digest == run.recipe_digest

    def of(self, dataset: str) -> list[SystemRow]:
        return [row for row in self.rows if row.recipe.dataset == dataset]

    def images_at_hand(self, dataset: str) -> int | None:
        """How many images of a data set the scores come from."""
        return max((r.first.dataset["images"] for row in self.of(dataset) for r in row.measured.values()), default=None)

    def pairs(self, row: SystemRow) -> Counter[str]:
        """How many systems of its data set a system is better or worse than, group-disjoint, by paired differences in
        accuracy; and of how many no difference was shown. Incomplete cross-validations are left out."""
        found: Counter[str] = Counter()
        for other in self.of(row.recipe.dataset):
            if other is not row and row.group and other.group and row.group.complete and other.group.complete:
                difference = paired(row.group, other.group)
                if difference:
                    found[verdict(difference)] += 1
        return found


def comparison_record(evidence: Evidence) -> str:
    """The text of results/comparison.json: the pages' own scores and words, as data."""
    record = {
        "schema": SCHEMA,
        "honest_protocol": HONEST,
        "n_published": len(evidence.published.claims),
        "machine": evidence.latency.get("machine"),
        "datasets": {name: _dataset(evidence, name) for name in evidence.published.datasets},
        "papers": {
            name: paper.model_dump(include={"citation", "protocol", "contradictions"})
            | {"systems": list(paper.systems)}
            for name, paper in evidence.published.papers.items()
        },
        "systems": [_system(evidence, row) for row in evidence.rows if row.name != ABLATION],
    }
    return json.dumps(plain(record), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _dataset(evidence: Evidence, name: str) -> dict[str, Any]:
    """Its title, labels, size, and what is reached without any network."""
    first = next((row.group or row.image for row in evidence.of(name) if row.measured), None)
    return {
        "title": evidence.published.datasets[name].title,
        "labels": list(first.first.label_names) if first else [],
        "images_published": evidence.published.datasets[name].images,
        "images_measured": evidence.images_at_hand(name),
        "most_frequent_share": most_frequent_share(first) if first else None,
        "without_network": {what: values["weighted_f1"] for what, values in evidence.baselines.get(name, {}).items()},
    }


def most_frequent_share(runs: RunSet) -> float:
    """The accuracy of always answering the most frequent class."""
    return float(np.bincount(runs.label).max() / len(runs.label))


def _system(evidence: Evidence, row: SystemRow) -> dict[str, Any]:
    time = evidence.latency.get("systems", {}).get(row.name, {})
    return {
        "name": row.name,
        "title": row.title,
        "paper": row.recipe.paper,
        "dataset": row.recipe.dataset,
        "first_weights": row.first_weights,
        "input_px": row.recipe.image_size,
        "claimed": {
            "accuracy": row.claim.mean_accuracy,
            "accuracy_in_words": row.claim.accuracy_in_words,
            "f1_in_words": row.claim.f1_in_words,
        },
        **{level: _level(row, level) for level in LEVELS},
        "leak": row.leak,
        "changed": row.changes,
        "noise": row.group
        and {
            "sigmas": row.group.sigmas,
            "weighted_f1": [scores(row.group, sigma)["weighted_f1"] for sigma in row.group.sigmas],
        },
        "parameters": evidence.networks.get(row.name, {}).get("parameters"),
        "milliseconds": time.get("onnx_fp32_ms"),
        "times_mobilenetv1": time.get("times_mobilenetv1"),
    }


def _level(row: SystemRow, level: str) -> dict[str, Any]:
    """The scores without noise, and how they were measured; or, in words, why there are none."""
    runs = row.measured.get(level)
    if not runs:
        return {"missing": row.missing(level)}
    by_donor = donor_scores(runs, calibrated=False)
    values = {name: scores(runs)[name] for name in ("accuracy", "weighted_f1", "macro_f1")}
    values |= {name: by_donor[name] for name in ("auroc_per_donor", "specificity_per_donor") if by_donor}
    return {
        "protocol": runs.first.protocol,
        "folds": len(runs.folds),
        "of_folds": runs.first.folds,
        "seeds": runs.seeds,
        "steps": runs.planned_steps,
        "image_size": runs.first.image_size,
        **values,
    }
