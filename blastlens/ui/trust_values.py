"""Recorded figures as the tab on trust prints them: a value with its 95 % interval, or that there is none. Pure."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ..metrics import Interval
from ..wording import percent

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"


def score(recorded: Mapping[str, float | None] | None) -> Interval | None:
    """An interval of metrics.json; None where it could not be computed. Ends that are missing are the value's own."""
    if recorded is None or recorded["value"] is None:
        return None
    value = float(recorded["value"])
    low, high = (value if recorded.get(end) is None else float(recorded[end] or 0) for end in ("low", "high"))
    return Interval(value, low, high)


def share(recorded: Mapping[str, float | None] | None, decimals: int = 1) -> str:
    """HTML: a share of 0 to 1 in per cent, "91.2 % (89.2 to 93.2)"."""
    one = score(recorded)
    if one is None:
        return "not known"
    return _with_ends(percent(one.value, decimals), one, lambda end: f"{100 * end:.{decimals}f}")


def plain(recorded: Mapping[str, float | None] | None, decimals: int = 2) -> str:
    """HTML: a score as it is, "0.87 (0.83 to 0.92)"."""
    one = score(recorded)
    if one is None:
        return "not known"
    return _with_ends(f"{one.value:.{decimals}f}", one, lambda end: f"{end:.{decimals}f}")


def points(recorded: Mapping[str, float | None] | None, sign: int = 1, decimals: int = 1) -> str:
    """HTML: a difference in points of a hundred, "-2.1 (-3.6 to -0.6)"; `sign` -1 turns a loss into a difference."""
    one = score(recorded)
    if one is None:
        return NOTHING
    low, high = sorted((sign * one.low, sign * one.high))
    ends = Interval(sign * one.value, low, high)
    return _with_ends(signed(ends.value, decimals), ends, lambda end: signed(end, decimals))


def signed(value: float, decimals: int = 1) -> str:
    """Points of a hundred, with sign; nothing is "0.0"."""
    text = f"{100 * value:+.{decimals}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def _with_ends(text: str, one: Interval, shown: Any) -> str:
    return f'<b>{text}</b> <span class="interval">({shown(one.low)} to {shown(one.high)})</span>'


def level(value: float, unit: str) -> str:
    """A severity's level with its unit, "2.5 px", "-20°"."""
    space = "" if unit == "°" or not unit else " "
    return f"{value:.4g}{space}{unit}".replace("-", MINUS)


def rows_table(
    caption: str, head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "", folded: str = ""
) -> str:
    """HTML of a table whose first column names the rows; it scrolls by itself where a page is narrow.

    Args:
        caption: what it shows, as text.
        head: the columns' names, as text.
        rows: cells as HTML.
        kind: a CSS class.
        folded: where given, the table is folded away under this text.
    """
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for first, *cells in rows
    )
    table = (
        f'<div class="trust-scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{kind}"><caption>{escape(caption)}</caption><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
    return f"<details><summary>{escape(folded)}</summary>{table}</details>" if folded else table
