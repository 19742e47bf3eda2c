"""Puts a card together: front matter, the template's prose filled with measured values, figures."""

import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard
from jinja2 import Environment, StrictUndefined, UndefinedError

from blastlens import external_result
from blastlens.errors import BlastlensError
from blastlens.metrics import ECE_BINS, constant_weighted_f1
from blastlens.noise import MAX_SIGMA
from blastlens.published_systems import Level, System
from train.card import figures, numbers
from train.card.dataset_info import RECIPE_LIMITS, RECIPE_NAMES, RECIPE_REMARKS, STRANGERS, UNKNOWN
from train.card.facts import Facts, pinned
from train.card.metadata import LEVELS, SIGMAS, card_data

TEMPLATE = Path(__file__).parents[2] / "model_card.md"
# Candidates of the search that a single-cell model is compared with.
BASELINES = {
    "cell-area": "cell area alone",
    "five-features": "five features (area, radius, optical density of red, green and blue), logistic regression",
}
WORST = 5  # groups of each class that are listed at once
CONSTANT = "always answering"
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
        repo_id: "owner/name" for the lines to copy; without it they name `models/` and the model's name.

    Raises:
        BlastlensError: a file is missing, damaged, or lacks a value that the card needs.
    """
    try:
        facts = Facts.read(folder, repo_id)
        return _rendered(facts)
    except (KeyError, IndexError, StopIteration, TypeError, UndefinedError) as error:
        raise BlastlensError(
            f"The card of {folder} cannot be rendered: metrics.json or gate.json lacks something "
            f"({type(error).__name__}: {error}); measure the folder again with `python -m train.evaluate`."
        ) from error


def _rendered(facts: Facts) -> dict[str, bytes]:
    rows = facts.protocol["by_sigma"]
    floors = _floors(facts)
    drawn = {"figures/noise.png": figures.noise(rows, f"this recipe, {facts.protocol['name']}, 95 % band", floors)}
    if facts.protocol.get("reliability"):
        drawn["figures/calibration.png"] = figures.calibration(facts.protocol["reliability"])
    if robustness := facts.metrics.get("robustness"):
        drawn["figures/robustness.png"] = figures.robustness(robustness)
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= numbers.FILTERS
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(card_data=card_data(facts).to_yaml(), drawn=sorted(drawn), **_context(facts, floors))
    # What a template leaves out leaves spaces and empty lines behind.
    card = ModelCard(re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.M)))
    return {"README.md": card.content.encode(), **drawn}


def _context(facts: Facts, floors: dict[str, float]) -> dict[str, Any]:
    protocol, training, view = facts.protocol, facts.training, facts.view
    rows = protocol["by_sigma"]
    group_level = protocol["level"] == "group"
    return {
        "facts": facts,
        "data": facts.data,
        "start": facts.start,
        "labels": facts.metrics["label_names"],
        "protocol": protocol,
        "level": LEVELS[protocol["level"]],
        "group_level": group_level,
        "seen_on": facts.data.unseen if group_level else "images of groups it was trained on (image-level)",
        "clean": facts.clean,
        "noisy": [row for row in rows if row["sigma"] in SIGMAS[1:]],
        "floors": floors,
        "lost": {
            name: sigma
            for name, height in floors.items()
            if name.startswith(CONSTANT) and (sigma := numbers.lost_from(rows, height)) is not None
        },
        "differences": facts.differences,
        "bar": _bar(facts),
        "against": facts.against,
        "by_answer": _by_answer(protocol.get("reliability_by_answer", {})),
        "ece_bins": ECE_BINS,
        "pinned": pinned,
        "without_network": dict(facts.compared.without_network) if facts.compared else {},
        "groups": _groups(facts),
        "external": _external(facts.metrics),
        "donors": facts.clean.get("donors"),
        "found": facts.search["candidates"][facts.name] if facts.search else {},
        "baselines": _baselines(facts),
        "systems": _systems(facts),
        "training": training,
        "recipe": training["recipe"],
        "augment": {"noise_max": 0, "noise_share": 0} | training["recipe"].get("augment", {}),
        "recipe_yaml": yaml.safe_dump(training["recipe"], sort_keys=False, width=110, allow_unicode=True).strip(),
        "recipe_limit": RECIPE_LIMITS.get(training["recipe"]["name"]) if facts.data.known else None,
        "recipe_name": RECIPE_NAMES.get(training["recipe"]["name"]),
        "recipe_remark": RECIPE_REMARKS.get(training["recipe"]["name"]),
        "int8": facts.metrics.get("int8"),
        "sizes": facts.metrics.get("size_bytes", {}),
        "latency": facts.metrics.get("latency_ms"),
        "check": facts.metrics.get("check"),
        "refused": _refused(facts.gate),
        "robustness": facts.metrics.get("robustness"),
        "worst_kind": _worst_kind(facts.metrics.get("robustness")),
        "max_sigma": MAX_SIGMA,
        "scaling": training.get("scaling"),
        "calibration": facts.metrics.get("calibration"),
        "prevalence": (facts.metrics.get("calibration") or {}).get("prevalence"),
        "probes": facts.metrics.get("probes"),
        "patients": facts.metrics.get("patients"),
        "view": view,
        "mean": [round(v, 6) for v in view.mean],
        "std": [round(v, 6) for v in view.std],
        "project": facts.project,
        "unknown": UNKNOWN,
    }


def _baselines(facts: Facts) -> dict[str, Any]:
    """What the search measured of the model's baselines on the same splits, by what they are."""
    candidates = facts.search["candidates"] if facts.search else {}
    return {title: candidates[name] for name, title in BASELINES.items() if name in candidates}


def _external(metrics: dict[str, Any]) -> dict[str, Any]:
    block = metrics.get("external")
    return {
        "result": external_result.sentence(metrics),
        "block": block
        and {"baseline": None, "by_sigma": [], "caveat": "", "min_images": 0, "per_subject": [], "unit": "subjects"}
        | block,
        "names": EXTERNAL_NAMES,
        "where": "[external validation](#external-validation)" if block else "no external validation",
    }


def _floors(facts: Facts) -> dict[str, float]:
    """Weighted F1 that needs no skill, or no network, by what reaches it; the latter on images without noise."""
    supports = {name: row["support"] for name, row in facts.clean["per_class"].items()}
    most = max(supports, key=lambda name: supports[name])
    floors = {}
    if facts.compared and facts.compared.without_network:
        best = max(facts.compared.without_network.items(), key=lambda item: item[1].value)
        floors[f"{best[0]} alone, no network (without noise)"] = best[1].value
    return {**floors, f"{CONSTANT} {most}": constant_weighted_f1(supports[most] / sum(supports.values()))}


def _bar(facts: Facts) -> str | None:
    """What reaches the most without a network, of what the recipe was compared with."""
    scores = facts.compared.without_network if facts.compared else {}
    return max(
        (name for name in facts.differences if name in scores), key=lambda name: scores[name].value, default=None
    )


def _by_answer(reliability: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Stated probability and share right by answer.

    Returns:
        `columns`: the bins that hold any answer, as (low, high); `rows`: answer -> its bin in each column, or None;
        `unsure`: answer -> `count`, `stated` and `right` of all below the highest bin, which begins at `sure`; the one
        that promises the most too much comes first. Nothing where it was not measured.
    """
    columns = sorted({(one["low"], one["high"]) for bins in reliability.values() for one in bins})
    if not columns:
        return {}
    rows = {}
    unsure = {}
    for answer, bins in reliability.items():
        held = {(one["low"], one["high"]): one for one in bins}
        rows[answer] = [held.get(column) for column in columns]
        some = [one for column, one in held.items() if column != columns[-1]]
        count = sum(one["count"] for one in some)
        if count:
            stated, right = (sum(one["count"] * one[key] for one in some) / count for key in ("confidence", "accuracy"))
            unsure[answer] = {"count": count, "stated": stated, "right": right}
    promising = sorted(unsure.items(), key=lambda item: item[1]["count"] * (item[1]["right"] - item[1]["stated"]))
    return {"columns": columns, "rows": rows, "unsure": dict(promising), "sure": columns[-1][0]}


def _groups(facts: Facts) -> dict[str, Any]:
    """The groups of a protocol, worst first: the worst of each class, and the rest.

    Returns:
        `worst`: those to name at once; `shown`: class -> its worst groups; `rest`: the others; `healthy`: how many
        groups of the healthy there are.
    """
    groups = sorted(facts.protocol["per_group"], key=lambda group: (group["accuracy"], group["group"]))
    by_class = {name: [g for g in groups if g["label"] == name] for name in facts.metrics["label_names"]}
    healthy = facts.data.healthy[0] if facts.data.healthy else None
    if healthy:  # first, since they are few
        by_class = {healthy: by_class[healthy], **by_class}
    shown = {name: of_class[:WORST] for name, of_class in by_class.items() if of_class}
    listed = [group["group"] for of_class in shown.values() for group in of_class]
    return {
        "worst": [of_class[0] for of_class in shown.values()] if healthy else groups[:1],
        "shown": shown,
        "rest": [group for group in groups if group["group"] not in listed],
        "healthy": len(by_class[healthy]) if healthy else 0,
    }


def _systems(facts: Facts) -> dict[str, Any]:
    """The systems measured on the model's data set, and how many were not."""
    if not (facts.comparison and facts.system):
        return {"measured": [], "missing": 0, "changed": []}
    everyone = facts.comparison.of(facts.system.dataset)
    measured = [system for system in everyone if system.measured]
    return {
        "measured": [_system_row(facts, system) for system in measured],
        "missing": len(everyone) - len(measured),
        "changed": [(system.title, system.changed) for system in measured if system.changed not in ("nothing", "-")],
    }


def _system_row(facts: Facts, system: System) -> dict[str, Any]:
    return {
        "title": system.title,
        "ours": system.name == facts.training["recipe"]["name"],
        "claimed": system.claimed_in_words,
        "image": _level(system.image),
        "group": _level(system.group),
        "leak": numbers.interval(vars(system.leak), sign="+") if system.leak else "-",
    }


def _level(level: Level | str) -> str:
    if isinstance(level, str):
        return level
    folds = f", {level.folds}" if level.folds else ""
    return f"{numbers.interval(vars(level.accuracy))}, `{level.protocol}`{folds}"


def _worst_kind(robustness: dict[str, Any] | None) -> dict[str, Any] | None:
    if not robustness:
        return None
    named = robustness["summary"]["worst_kind"]
    return next(kind for kind in robustness["kinds"] if named in (kind["kind"], kind["title"]))


def _refused(gate: dict[str, Any] | None) -> dict[str, Any] | None:
    """How often the input check is wrong: on held-out images of its own kind, and on strangers."""
    if not (gate and "measured" in gate):
        return None
    strangers = gate["measured"]["strangers"]
    return {
        **gate["measured"]["held_out"],
        "features": gate.get("features"),
        "varied": gate["measured"].get("varied"),
        "spoilt": gate["measured"].get("spoilt"),
        "strangers": {STRANGERS.get(name, name): found for name, found in strangers.items()},
        "all": sum(value["images"] for value in strangers.values()),
        "caught": sum(value["refused"] for value in strangers.values()),
    }
