"""Scores of a user's labelled images, their intervals, and their differences from the published scores."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import bootstrap, metrics
from .metrics import Interval
from .patients import leukemic_labels, wilson

# In the order of a report; recall of each class follows for more than two.
SCORES = ("balanced_accuracy", "accuracy", "weighted_f1", "sensitivity", "specificity", "auroc", "ece")
_ROUNDING = 1e-9


@dataclass(frozen=True)
class ScorePair:
    """One score on these images and as published."""

    name: str  # one of `SCORES`, or "recall of <label>"
    here: Interval
    published: Interval | None  # in metrics.json, None if it is not there
    difference: Interval | None  # here minus published; None where the two cannot be compared
    always: float | None  # score of always predicting the most frequent class here; None where that is undefined


def _positive(names: Sequence[str]) -> str | None:
    """The label of two that counts as disease; None for a model of other labels."""
    leukemic = leukemic_labels(names)
    return leukemic[0] if len(names) == 2 and len(leukemic) == 1 else None


def scores_of(
    truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, names: Sequence[str], replicates: int
) -> tuple[dict[str, Interval], tuple[tuple[int, ...], ...]]:
    """The scores that these images define, and the confusion matrix."""
    positive = _positive(names)
    index = None if positive is None else list(names).index(positive)
    with np.errstate(invalid="ignore"):
        try:
            found = bootstrap.summary(truth, probabilities, groups, names, index, replicates)
        except ValueError:  # no replicate held every class: there is no interval
            found = metrics.summary(truth, probabilities, names, index)
    confusion = tuple(tuple(row) for row in found["confusion_matrix"])
    support = {name: sum(row) for name, row in zip(names, confusion, strict=True) if sum(row)}
    scores = {name: _score(found[name]) for name in SCORES if name in found}
    recalls = {name: _score(found["per_class"][name]["recall"]) for name in support}
    if without_spread := alike(names, confusion):
        groups_of = {name: set(groups[truth == names.index(name)]) for name in support}
        # Resampling subjects who are all alike gives no interval, but their number limits the share of subjects whose
        # images are all classified correctly; and recall, over subjects with equally many images, is no less.
        for name in without_spread:
            subjects = len(groups_of[name])
            recalls[name] = wilson(subjects if recalls[name].value else 0, subjects)
        overlap = len(set(groups)) < sum(map(len, groups_of.values()))
        scores["balanced_accuracy"] = _mean([(1, recall) for recall in recalls.values()], overlap)
        scores["accuracy"] = _mean([(support[name], recall) for name, recall in recalls.items()], overlap)
        if positive is not None:
            scores |= {"sensitivity" if name == positive else "specificity": recall for name, recall in recalls.items()}
    if len(names) > 2:
        scores |= {f"recall of {name}": recall for name, recall in recalls.items()}
    undefined = {"balanced_accuracy", "auroc"} if len(support) < len(names) else set()
    if len(support) == 1:
        undefined.add("weighted_f1")  # of one class it only repeats its recall
    return {n: score for n, score in scores.items() if n not in undefined and math.isfinite(score.value)}, confusion


def _score(measured: Interval | float) -> Interval:
    return informative(measured) if isinstance(measured, Interval) else Interval(float(measured))


def informative(one: Interval) -> Interval:
    """Leave out ends that say nothing: without width, since all replicates were equal, or beside the value, as the
    percentiles of a score that resampling biases (the ECE) may be."""
    has_width = _ROUNDING <= one.high - one.low < math.inf  # false for NaN
    return one if has_width and one.low - _ROUNDING <= one.value <= one.high + _ROUNDING else Interval(one.value)


def alike(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> tuple[str, ...]:
    """Labels whose images were all classified correctly, or all incorrectly."""
    return tuple(
        name
        for index, (name, row) in enumerate(zip(names, confusion, strict=True))
        if sum(row) and row[index] in (0, sum(row))
    )


def _mean(parts: Sequence[tuple[float, Interval]], overlap: bool) -> Interval:
    """A weighted mean of recalls, with an interval where all of them have one.

    Errors of different subjects are combined in quadrature (Zou and Donner 2008); if some subjects are in several
    classes (`overlap`), they are added up, as for errors that occur together.
    """
    total = sum(weight for weight, _ in parts)
    value = math.fsum(weight / total * score.value for weight, score in parts)
    down = [weight / total * (score.value - score.low) for weight, score in parts]
    up = [weight / total * (score.high - score.value) for weight, score in parts]
    combined = math.fsum if overlap else lambda distances: math.hypot(*distances)
    return Interval(value, max(value - combined(down), 0.0), min(value + combined(up), 1.0))  # NaN stays NaN


def published_score(record: Mapping[str, Any], name: str) -> Interval | None:
    """The score of that name in a record of metrics.json, None without one."""
    kind, _, label = name.partition(" of ")
    entry = (record.get("per_class") or {}).get(label, {}).get(kind) if label else record.get(name)
    one = Interval.from_record({"value": None} | (entry or {}))
    return informative(one) if one and math.isfinite(one.value) else None


def pair(name: str, here: Interval, record: Mapping[str, Any], counts: Mapping[str, int]) -> ScorePair:
    """A score here beside that of a record of metrics.json; `counts`: images by true label."""
    published = published_score(record, name)
    # Only the recall of one class does not depend on which other classes there are images of.
    of_one_class = name in ("sensitivity", "specificity") or name.startswith("recall of ")
    # The fewer images, the larger the expected ECE is by chance alone, so two of them cannot be compared.
    comparable = name != "ece" and (all(counts.values()) or of_one_class)
    apart = difference(here, published) if published and comparable else None
    return ScorePair(name, here, published, apart, always(name, counts))


def difference(here: Interval, there: Interval) -> Interval:
    """here minus there, two independent measurements, with a 95 % interval where both have one (Zou and Donner 2008,
    doi 10.1002/sim.3095: each end is as far off as the two nearer interval ends together, in quadrature)."""
    value = here.value - there.value
    down = math.hypot(here.value - here.low, there.high - there.value)
    up = math.hypot(here.high - here.value, there.value - there.low)
    return Interval(value, value - down, value + up)


def commonest(counts: Mapping[str, int]) -> str:
    """The label with the most images."""
    return max(counts, key=lambda label: counts[label])


def always(name: str, counts: Mapping[str, int]) -> float | None:
    """The score of that name for predicting the most frequent label for every image; None for the calibration error.

    Args:
        counts: images by true label.
    """
    predicted = commonest(counts)
    share = counts[predicted] / sum(counts.values())
    positive = _positive(tuple(counts))
    fixed = {
        "accuracy": share,
        "weighted_f1": metrics.constant_weighted_f1(share),
        "balanced_accuracy": 1 / sum(count > 0 for count in counts.values()),
        "auroc": 0.5,
        "sensitivity": float(predicted == positive),
        "specificity": float(predicted != positive),
    }
    return float(name == f"recall of {predicted}") if name.startswith("recall of ") else fixed.get(name)
