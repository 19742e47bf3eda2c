"""What stands in the tables' cells: numbers with their intervals, claims, settings, and what is missing, in words."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from blastlens.metrics import Interval
from train.card import interval
from train.report.evidence import LEVELS, Evidence, Row
from train.report.measured import Measured, range_over_seeds, scores
from train.report.published import Claim
from train.results import HONEST

LEVEL_NAMES = {"image": "image-level", "group": "group-disjoint"}
NOTHING = "-"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Markdown, or one sentence where there are no lines."""
    rendered = [f"| {' | '.join(line)} |" for line in lines]
    if not rendered:
        return "Nothing measured yet."
    return "\n".join([f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}", *rendered])


def show(value: Interval | None) -> str:
    """`0.873 (0.812 to 0.921)`"""
    return NOTHING if value is None or math.isnan(value.value) else interval(vars(value))


def stacked(value: Interval) -> str:
    """The same in a narrow cell."""
    return f"{value.value:.3f}<br>{value.low:.3f} to {value.high:.3f}"


def signed(value: Interval | None) -> str:
    """`+0.121 (+0.080 to +0.161)`"""
    if value is None or math.isnan(value.value):
        return NOTHING
    return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"


def spread(values: Iterable[int]) -> str:
    """`4,960 to 5,239`, or one number where all are the same."""
    values = list(values)
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def score_of(evidence: Evidence, row: Row, level: str, name: str = "accuracy") -> Interval | None:
    """What was measured; for our own recipes, where no run is recorded, what the bundled model's record says."""
    m = row.at(level)
    if m is not None:
        return scores(m)[name]
    record = shipped(evidence, row)
    return Interval(**record["by_sigma"][0][name]) if level == "group" and record else None


def score(evidence: Evidence, row: Row, level: str, name: str = "accuracy") -> str:
    """The same as a cell, with the folds that are still missing, or why there is nothing."""
    value, m = score_of(evidence, row, level, name), row.at(level)
    if value is None:
        return missing(row, level)
    if m is None:
        return f"{show(value)}, recorded with the bundled model"
    return show(value) + ("" if m.complete else f", {len(m.folds)} of {m.first.folds} folds")


def shipped(evidence: Evidence, row: Row) -> dict[str, Any] | None:
    """What a bundled model's metrics.json says about the honest protocol."""
    protocols = evidence.shipped.get(row.name, {"protocols": []})["protocols"]
    return next((protocol for protocol in protocols if protocol["name"] == HONEST), None)


def missing(row: Row, level: str) -> str:
    if level == "image" and row.recipe.paper is None:
        return "not measured: our recipe, honest protocol only"
    return "not run yet: needs ImageNet weights and a GPU" if row.needs_gpu else "not run yet"


def claimed_accuracy(claim: Claim) -> str:
    if claim.accuracy is not None:
        return f"{claim.accuracy:.4g}"
    if claim.accuracy_by_fold:
        return f"{claim.mean_accuracy:.3f}, mean of {', '.join(f'{v:g}' for v in claim.accuracy_by_fold)}"
    if "accuracy" in claim.printed:
        return claim.printed["accuracy"]
    f1 = claimed_f1(claim)
    return NOTHING if f1 == NOTHING else f"only F1, {f1}"


def claimed_f1(claim: Claim) -> str:
    if claim.macro_f1 is not None:
        return f"macro {claim.macro_f1:.4g}"
    return f"{claim.f1:.4g}" if claim.f1 is not None else claim.printed.get("f1", NOTHING)


def reading(claimed: float | str, image: Interval | None) -> str:
    """A claim against our image-level figure, in words."""
    if image is None or isinstance(claimed, str):
        return NOTHING
    if claimed > image.high:
        return f"below the claim by {claimed - image.value:.3f}"
    if claimed < image.low:
        return f"above the claim by {image.value - claimed:.3f}"
    return "the claim is within our interval"


def better(a: str, b: str, difference: Interval) -> str:
    """Which of two systems is the better one."""
    if difference.low <= 0 <= difference.high:
        return "no difference shown"
    return f"{a if difference.value > 0 else b} is better"


def changes(evidence: Evidence, row: Row) -> str:
    """What was changed from the recipe, in one phrase where both levels agree."""
    words = {LEVEL_NAMES[level]: evidence.changes(m.first) for level in LEVELS if (m := row.at(level))}
    if len(set(words.values())) > 1:
        return "; ".join(f"{level}: {text}" for level, text in words.items())
    return next(iter(words.values()), NOTHING)


HOW = (
    "system",
    "protocol",
    "folds",
    "seeds",
    "images to train on",
    "images tested",
    "first weights",
    "epochs",
    "changed",
    "device",
)


def how(evidence: Evidence, row: Row, m: Measured) -> Sequence[str]:
    """How a figure was made: one cell for each of `HOW`."""
    low, high = range_over_seeds(m)
    return (
        row.title,
        f"{m.first.protocol} ({LEVEL_NAMES[m.level]})",
        f"{len(m.folds)} of {m.first.folds}",
        ", ".join(map(str, m.seeds)) + (f" (accuracy {low:.3f} to {high:.3f})" if len(m.seeds) > 1 else ""),
        spread(run.images["train"] for run in m.runs),
        f"{len(m.label) // len(m.seeds):,} of {len(np.unique(m.groups))} groups",
        m.first.initial_weights,
        f"{spread(run.epochs for run in m.runs)} of {row.recipe.epochs}",
        evidence.changes(m.first),
        "; ".join(sorted({f"{run.device}, {run.precision}" for run in m.runs})),
    )


def protocol_title(m: Measured) -> str:
    folds = "" if m.complete else f", {len(m.folds)} of {m.first.folds} folds"
    seeds = "" if len(m.seeds) == 1 else f", {len(m.seeds)} seeds, each image counted once for each"
    return f"{LEVEL_NAMES[m.level]}, {m.first.protocol}{folds}{seeds}"


def fold_title(evidence: Evidence, row: Row, fold: int, m: Measured | None) -> str:
    """Says how many images were tested, of how much of the published fold, and which interval means little."""
    if m is None:
        return f"Fold {fold}: not run yet"
    images = m.first.images
    published = evidence.published.datasets[row.recipe.dataset].fold_images[fold]
    names = [name for i, name in enumerate(m.first.label_names) if len(np.unique(m.groups[m.label == i])) == 1]
    lonely = "".join(f"; its {name} images are of one group, so intervals lack their spread" for name in names)
    return f"Fold {fold}: {images['test']:,} test images, {sum(images.values()):,} of its {published:,} at hand{lonely}"


def latency_name(kind: str) -> str:
    """`onnx_fp32_ms` -> `onnx fp32, ms`"""
    return f"{kind.removesuffix('_ms').replace('_', ' ')}, ms"
