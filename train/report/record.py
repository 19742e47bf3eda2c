"""`results/comparison.json`: what the demo shows of the comparison, as `blastlens.published_systems` reads it.

The pages' own figures and words, as data: rendered with them, so that neither can say anything else.
"""

import json
from typing import Any

import numpy as np

from blastlens.metrics import Interval
from train.report.cells import changes, claimed_accuracy, claimed_f1, missing, score_of
from train.report.evidence import LEVELS, Evidence, Row
from train.report.measured import Measured, donor_scores, scores
from train.results import HONEST

SCHEMA = 1
SCORES = ("accuracy", "weighted_f1", "macro_f1")
BY_DONOR = ("auroc_per_donor", "specificity_per_donor")


def render(evidence: Evidence) -> str:
    """The file's text."""
    rows = [row for row in evidence.rows if row.name in (*evidence.published.claims, *_own(evidence))]
    record = {
        "schema": SCHEMA,
        "honest_protocol": HONEST,
        "n_published": len(evidence.published.claims),
        "machine": evidence.latency.get("machine"),
        "datasets": {name: _dataset(evidence, name) for name in evidence.published.datasets},
        "papers": {
            name: {
                "citation": paper.citation,
                "protocol": paper.protocol,
                "contradictions": list(paper.contradictions),
                "systems": list(paper.systems),
            }
            for name, paper in evidence.published.papers.items()
        },
        "systems": [_system(evidence, row) for row in rows],
    }
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _own(evidence: Evidence) -> list[str]:
    return [name for name, recipe in evidence.recipes.items() if recipe.paper is None]


def _dataset(evidence: Evidence, name: str) -> dict[str, Any]:
    """Its title, labels, size, and what is reached without any network."""
    shown = [m for row in evidence.of(name) for m in (row.group, row.image) if m]
    label = shown[0].label if shown else None
    return {
        "title": evidence.published.datasets[name].title,
        "labels": list(shown[0].first.label_names) if shown else [],
        "images_published": evidence.published.datasets[name].images,
        "images_measured": max((m.first.dataset["images"] for m in shown), default=None),
        "most_frequent_share": None if label is None else _rounded(np.bincount(label).max() / len(label)),
        "without_network": {
            what: _numbers(Interval(**values["weighted_f1"]))
            for what, values in evidence.baselines.get(name, {}).items()
        },
    }


def _system(evidence: Evidence, row: Row) -> dict[str, Any]:
    claim, network = evidence.claim(row), evidence.networks.get(row.name, {})
    time = evidence.latency.get("systems", {}).get(row.name, {})
    accuracy = claim.mean_accuracy
    return {
        "name": row.name,
        "title": row.title,
        "paper": row.recipe.paper,
        "dataset": row.recipe.dataset,
        "first_weights": row.start.replace("*", ""),
        "input_px": row.recipe.image_size,
        "claimed": {
            "accuracy": None if accuracy is None else _rounded(accuracy),
            "accuracy_in_words": claimed_accuracy(claim),
            "f1_in_words": claimed_f1(claim),
        },
        **{level: _level(evidence, row, level) for level in LEVELS},
        "leak": _numbers(row.leak),
        "changed": changes(evidence, row),
        "noise": _noise(row.group),
        "parameters": network.get("parameters"),
        "milliseconds": time.get("onnx_fp32_ms"),
        "times_mobilenetv1": time.get("times_mobilenetv1"),
    }


def _level(evidence: Evidence, row: Row, level: str) -> dict[str, Any]:
    """The scores without noise, and how they came about; or, in words, why there are none."""
    m = row.at(level)
    values = {name: score_of(evidence, row, level, name) for name in SCORES}
    if values["accuracy"] is None:
        return {"missing": missing(row, level)}
    how = {"protocol": HONEST} if m is None else {"protocol": m.first.protocol}
    if m is not None:
        how |= {"folds": len(m.folds), "of_folds": m.first.folds, "seeds": list(m.seeds)}
    donors = donor_scores(m) if m else None
    by_donor = donors.summary() if donors else {}
    return {
        **how,
        **{name: _numbers(value) for name, value in values.items()},
        **{name: _numbers(by_donor[name]) for name in BY_DONOR if name in by_donor},
    }


def _noise(m: Measured | None) -> dict[str, Any] | None:
    """Group-disjoint weighted F1 at every measured sigma."""
    if m is None:
        return None
    by_sigma = [scores(m, sigma)["weighted_f1"] for sigma in m.sigmas]
    return {"sigmas": list(m.sigmas), "weighted_f1": [_numbers(value) for value in by_sigma]}


def _numbers(value: Interval | None) -> dict[str, float] | None:
    if value is None or np.isnan(value.value):
        return None
    return {name: _rounded(number) for name, number in vars(value).items()}


def _rounded(value: float) -> float:
    return round(float(value), 5)
