"""Measured values as a card prints them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blastlens.wording import count, percent

Score = Mapping[str, float | None]  # value, low, high; all None where an absent class leaves it undefined


def interval(score: Score | None, decimals: int = 3, sign: str = "") -> str:
    """`0.873 (0.812 to 0.921)`, or that an absent class leaves the score undefined."""
    if score is None or None in score.values():
        return "undefined"
    value, low, high = (f"{score[key]:{sign}.{decimals}f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


def in_points(difference: Score | None, sign: int = 1, decimals: int = 1) -> str:
    """A difference in points of a hundred, `-2.1 (-3.6 to -0.6)`; `sign` -1 turns a loss into a difference."""
    if difference is None or None in difference.values():
        return "undefined"
    low, high = sorted(sign * 100 * float(difference[end] or 0) for end in ("low", "high"))
    value, low, high = (f"{end:+.{decimals}f}" for end in (sign * 100 * float(difference["value"] or 0), low, high))
    return f"{value} ({low} to {high})"


def share(score: Score | None) -> str:
    """A share of 0 to 1 with its interval, `11.7 % (9.7 to 13.7)`."""
    if score is None or None in score.values():
        return "undefined"
    value, low, high = (100 * float(score[key] or 0) for key in ("value", "low", "high"))
    return f"{value:.1f} % ({low:.1f} to {high:.1f})"


def ends(score: Score | float) -> str:
    """Like `interval`; of a value without an interval, such as of a single image, the value."""
    if not isinstance(score, Mapping):
        return f"{score:.3f}"
    return point(score) if score.get("low") is None or score.get("high") is None else interval(score)


def at_sigma(sigma: float | None, most: float) -> str:
    """Where on the scale of noise something happens; None is nowhere up to the end of the scale."""
    return f"not up to sigma {most:g}" if sigma is None else f"at sigma {sigma:.1f}"


def limit(row: Mapping[str, Any]) -> str:
    """What a probe may lose, in points of weighted F1, or keep, as AUROC, with what it keeps."""
    if row["expect"] == "keeps":
        return f"loses at most {100 * row['limit']:.1f} points"
    return f"AUROC at most {row['limit']:.3f}: {interval(row['auroc'])}"


def inside(title: str) -> str:
    """A title inside a sentence; an abbreviation stays as it is."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


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
    "in_points": in_points,
    "share": share,
    "ends": ends,
    "at_sigma": at_sigma,
    "limit": limit,
    "inside": inside,
    "number": lambda value, sign="": "undefined" if value is None else f"{value:{sign}.3f}",
    "verdict": verdict,
    "percent": percent,
    "points": lambda share: f"{100 * share:.1f} percentage points",
    "count": count,
    "megabytes": megabytes,
    "millions": millions,
    "thousands": lambda number: f"{number:,}",
    "sigma": lambda sigma: f"{sigma:g}",
}
