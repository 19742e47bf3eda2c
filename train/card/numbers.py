"""Measured values as a card prints them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blastlens.wording import count, percent

Score = Mapping[str, float | None]  # value, low, high; all None where an absent class leaves it undefined


def interval(score: Score, decimals: int = 3, sign: str = "") -> str:
    """`0.873 (0.812 to 0.921)`, or that an absent class leaves the score undefined."""
    if None in score.values():
        return "undefined"
    value, low, high = (f"{score[key]:{sign}.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def point(score: Score) -> str:
    """The score without its interval."""
    return "undefined" if score["value"] is None else f"{score['value']:.3f}"


def verdict(difference: Score) -> str:
    """What a difference with its interval says of the first of the two."""
    if None in difference.values():
        return "undefined"
    if difference["low"] > 0:
        return "better"
    return "worse" if difference["high"] < 0 else "no difference shown"


def megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def millions(number: float) -> str:
    return f"{number / 1e6:.1f} million"


def lost_from(rows: Sequence[Mapping[str, Any]], height: float) -> float | None:
    """The sigma from which on the interval of weighted F1 never lies clearly above `height`.

    Args:
        rows: a protocol's `by_sigma`, by ascending sigma.

    Returns:
        None where it still does at the last sigma.
    """
    found = None
    for row in reversed(rows):
        low = row["weighted_f1"]["low"]
        if low is not None and low > height:
            break
        found = row["sigma"]
    return found


FILTERS: dict[str, Callable[..., str]] = {
    "interval": interval,
    "point": point,
    "verdict": verdict,
    "percent": percent,
    "points": lambda share: f"{100 * share:.1f} percentage points",
    "count": count,
    "megabytes": megabytes,
    "millions": millions,
    "thousands": lambda number: f"{number:,}",
    "sigma": lambda sigma: f"{sigma:g}",
}
