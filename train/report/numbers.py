"""Measured values as cards, pages and tables print them."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from blastlens.metrics import Interval
from blastlens.wording import count, percent

# An interval as an object or as JSON has it: value, low, high; all None where an absent class leaves it undefined.
Score = Interval | Mapping[str, float | None] | float
NOTHING = "-"


def interval(
    score: Score | None,
    decimals: int = 3,
    sign: str = "",
    *,
    scale: float = 1,
    unit: str = "",
    missing: str = "undefined",
) -> str:
    """`0.873 (0.812 to 0.921)`; a score without an interval is printed alone.

    Args:
        sign: "+" for differences.
        scale: 100 for percentages and points, -100 to turn a loss into a change.
        unit: printed after the value.
        missing: what stands for a score that is undefined.
    """
    if score is None or isinstance(score, int | float):
        score = {"value": score}
    ends = vars(score) if isinstance(score, Interval) else score
    if _undefined(ends["value"]):
        return missing
    value, low, high = (
        None if _undefined(end) else scale * end for end in (ends["value"], ends.get("low"), ends.get("high"))
    )
    shown = f"{value:{sign}.{decimals}f}{unit}"
    if low is None or high is None:
        return shown
    low, high = sorted((low, high))
    return f"{shown} ({low:{sign}.{decimals}f} to {high:{sign}.{decimals}f})"


def point(score: Score | None, decimals: int = 3, sign: str = "", missing: str = "undefined") -> str:
    """The value without its interval."""
    value = score.value if isinstance(score, Interval) else score["value"] if isinstance(score, Mapping) else score
    return missing if _undefined(value) else f"{value:{sign}.{decimals}f}"


def in_points(difference: Score | None, sign: int = 1, decimals: int = 1) -> str:
    """A difference in points of a hundred, `-2.1 (-3.6 to -0.6)`; `sign` -1 turns a loss into a change."""
    return interval(difference, decimals, "+", scale=100 * sign)


def share(score: Score | None) -> str:
    """A share of 0 to 1 in percent, `11.7 % (9.7 to 13.7)`."""
    return interval(score, 1, scale=100, unit=" %")


def verdict(difference: Score) -> str:
    """What a difference with its interval says about the first of the two."""
    ends = vars(difference) if isinstance(difference, Interval) else difference
    assert isinstance(ends, Mapping)
    if any(map(_undefined, ends.values())):
        return "undefined"
    if ends["low"] > 0:
        return "better"
    return "worse" if ends["high"] < 0 else "no difference shown"


def span(values: Iterable[int]) -> str:
    """`4,960 to 5,239`, or one number where all are equal."""
    values = list(values)
    return f"{min(values):,}" if min(values) == max(values) else f"{min(values):,} to {max(values):,}"


def settings(values: Mapping[str, Any]) -> str:
    """Settings of a recipe in one line, nested ones by their own names: ``` `epochs` 3, `scale` 0.9, 1.1 ```."""
    shown = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            shown.append(settings(value))
        else:
            shown.append(f"`{key}` {', '.join(map(str, value)) if isinstance(value, list | tuple) else value}")
    return ", ".join(shown)


def _undefined(value: Any) -> bool:
    return value is None or math.isnan(value)


FILTERS: dict[str, Callable[..., str]] = {
    "interval": interval,
    "point": point,
    "in_points": in_points,
    "share": share,
    "verdict": verdict,
    "percent": percent,
    "count": count,
    "settings": settings,
    "span": span,
    "points": lambda fraction: f"{100 * fraction:.1f} percentage points",
    "thousands": lambda number: f"{number:,}",
    "general": lambda number: f"{number:g}",
}
