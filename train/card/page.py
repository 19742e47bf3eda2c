"""A card's README.md and figures: front matter, and the template filled in with measured values."""

from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from jinja2 import UndefinedError

from blastlens import external_result
from blastlens.dataset_info import UNKNOWN
from blastlens.errors import BlastlensError
from blastlens.metrics import ECE_BINS, constant_weighted_f1
from blastlens.noise import MAX_SIGMA
from train.card.facts import Facts, pinned
from train.card.metadata import SIGMAS, card_data
from train.card.origins import OOD_TEST_IMAGES, RECIPE_NOTES
from train.report import figures
from train.report.templates import filled
from train.results import LEVELS

WORST = 3  # groups of each class that are listed
EXTERNAL_NAMES = {
    "auroc_per_donor": "AUROC per healthy donor, mean",
    "specificity_per_donor": "specificity per healthy donor, mean",
    "worst_specificity": "specificity on the worst healthy donor",
    "sensitivity_per_subject": "sensitivity per leukemic subject, mean",
    "auroc": "AUROC",
    "specificity": "specificity",
    "sensitivity": "sensitivity",
    "balanced_accuracy": "balanced accuracy",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "ece": "ECE",
}


def render(folder: Path, repo_id: str | None = None) -> dict[str, bytes]:
    """The card's files by their path in the folder: README.md and figures/*.png.

    Args:
        folder: model folder with config.json and metrics.json.
        repo_id: "owner/name" for code examples; without it they name `models/` and the model's name.

    Raises:
        BlastlensError: a file is missing, damaged, or lacks a value that the card needs.
    """
    try:
        facts = Facts.read(folder, repo_id)
        floors = _floors(facts)
        drawings = _figures(facts, floors)
        text = filled(
            "model_card", card_data=card_data(facts).to_yaml(), drawings=drawings, floors=floors, **_context(facts)
        )
    except (KeyError, IndexError, StopIteration, TypeError, UndefinedError) as error:
        raise BlastlensError(
            f"The card of {folder} cannot be rendered: metrics.json or gate.json lacks something "
            f"({type(error).__name__}: {error}); measure the folder again with `python -m train.evaluate`."
        ) from error
    return {"README.md": ModelCard(text).content.encode(), **drawings}


def _figures(facts: Facts, floors: dict[str, float]) -> dict[str, bytes]:
    protocol = facts.protocol
    drawn = {"noise": figures.card_noise(protocol["by_sigma"], f"{protocol['name']}, 95 % band", floors)}
    if protocol.get("reliability"):
        drawn["calibration"] = figures.card_calibration(protocol["reliability"])
    return {f"figures/{name}.png": figures.png(figure) for name, figure in drawn.items()}


def _context(facts: Facts) -> dict[str, Any]:
    metrics, protocol, training, view = facts.metrics, facts.protocol, facts.training, facts.view
    recipe, group_level = training["recipe"], protocol["level"] == "group"
    optional = dict.fromkeys(("risk_coverage", "operating_point", "prediction_sets"))
    calibration = optional | (metrics.get("calibration") or {})
    note = RECIPE_NOTES.get(recipe["name"]) if facts.data.known else None
    return {
        "facts": facts,
        "data": facts.data,
        "labels": metrics["label_names"],
        "protocol": protocol,
        "level": LEVELS[protocol["level"]],
        "group_level": group_level,
        "tested_on": facts.data.unseen if group_level else "images of groups in its training data (image-level)",
        "clean": facts.clean,
        "noisy": [row for row in protocol["by_sigma"] if row["sigma"] in SIGMAS[1:]],
        "donors": facts.clean.get("donors"),
        "groups": _worst_groups(facts),
        "external": metrics.get("external"),
        "external_sentence": external_result.sentence(metrics),
        "external_names": EXTERNAL_NAMES,
        "by_answer": _by_answer(protocol.get("reliability_by_answer", {})),
        "ece_bins": ECE_BINS,
        "pinned": pinned,
        "training": training,
        "recipe": recipe,
        "augment": {"noise_max": 0, "noise_share": 0} | recipe.get("augment", {}),
        "distill": {"features": None} | (recipe.get("distill") or {}),
        "recipe_yaml": yaml.safe_dump(recipe, sort_keys=False, width=110, allow_unicode=True).strip(),
        "note": note,
        "int8": metrics.get("int8"),
        "sizes": metrics.get("size_bytes", {}),
        "latency": metrics.get("latency_ms"),
        "check": metrics.get("check"),
        "ood": _ood(facts.gate),
        "robustness": metrics.get("robustness"),
        "max_sigma": MAX_SIGMA,
        "scaling": training.get("scaling") or {"temperature": training["temperature"]},
        "calibration": calibration,
        "prevalence": calibration.get("prevalence"),
        "probes": metrics.get("probes"),
        "patients": metrics.get("patients"),
        "view": view,
        "mean": [round(v, 6) for v in view.mean],
        "std": [round(v, 6) for v in view.std],
        "unknown": UNKNOWN,
    }


def _floors(facts: Facts) -> dict[str, float]:
    """Weighted F1 that needs no skill, or no network, by what reaches it; the latter on images without noise."""
    supports = {name: row["support"] for name, row in facts.clean["per_class"].items()}
    most = max(supports, key=lambda name: supports[name])
    floors = {}
    found = {name: one["weighted_f1"]["value"] for name, one in facts.baselines.items()}
    if found:
        best = max(found, key=lambda name: found[name])
        floors[f"{best.removesuffix(' alone')} alone, no network (without noise)"] = found[best]
    return {**floors, f"always answering {most}": constant_weighted_f1(supports[most] / sum(supports.values()))}


def _by_answer(reliability: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """By answer, `count`, mean `stated` probability and share `right` of the answers below the highest bin, whose lower
    end is `sure`; the answer that promises the most too much comes first. Empty where it was not measured."""
    sure = max((one["low"] for bins in reliability.values() for one in bins), default=1.0)
    found = {}
    for answer, bins in reliability.items():
        unsure = [one for one in bins if one["low"] < sure]
        if count := sum(one["count"] for one in unsure):
            stated, right = (
                sum(one["count"] * one[key] for one in unsure) / count for key in ("confidence", "accuracy")
            )
            found[answer] = {"count": count, "stated": stated, "right": right, "sure": sure}
    return dict(sorted(found.items(), key=lambda item: item[1]["count"] * (item[1]["right"] - item[1]["stated"])))


def _worst_groups(facts: Facts) -> list[dict[str, Any]]:
    """The worst groups of each class, those of the healthy first, since they are few."""
    groups = sorted(facts.protocol["per_group"], key=lambda group: (group["accuracy"], group["group"]))
    healthy = facts.data.healthy_groups and facts.data.healthy_groups[0]
    names = sorted(facts.metrics["label_names"], key=lambda name: name != healthy)
    return [group for name in names for group in [g for g in groups if g["label"] == name][:WORST]]


def _ood(gate: dict[str, Any] | None) -> dict[str, Any] | None:
    """How often the OOD detection is wrong: on held-out images of its own kind, and on other images."""
    if not (gate and "measured" in gate):
        return None
    measured = gate["measured"]
    return {
        **measured["held_out"],
        "features": gate.get("features"),
        "varied": measured.get("varied"),
        "spoilt": measured.get("spoilt"),
        "others": {OOD_TEST_IMAGES.get(name, name): found for name, found in measured["strangers"].items()},
    }
