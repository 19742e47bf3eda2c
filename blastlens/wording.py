"""Numbers and lists in sentences, as plain text."""

import math
from collections.abc import Sequence

from .metrics import Interval


def count(number: int, one: str, several: str = "") -> str:
    """A number with its noun; the plural `several` is `one` with an s unless given.

    >>> count(1, "image"), count(2000, "image"), count(0, "body", "bodies")
    ('1 image', '2,000 images', '0 bodies')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(0.42), duration(20), duration(120)
    ('0.4 s', '20 s', '2 minutes')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else count(round(seconds / 60), "minute")


def percent(share: float, decimals: int = 0) -> str:
    """A share of 0 to 1.

    >>> percent(0.845), percent(0.845, decimals=1)
    ('84 %', '84.5 %')
    """
    return f"{100 * share:.{decimals}f} %"


def with_interval(
    one: Interval | None, decimals: int = 2, scale: float = 1, unit: str = "", signed: bool = False
) -> str:
    """A value with its interval where it has one; None is a dash.

    >>> from blastlens.metrics import Interval
    >>> with_interval(Interval(0.874, 0.83, 0.92)), with_interval(Interval(0.874, 0.83, 0.92), 0, 100, " %")
    ('0.87 (0.83 to 0.92)', '87 % (83 to 92)')
    """
    if one is None:
        return "\N{EN DASH}"

    def number(value: float) -> str:
        text = f"{scale * value:{'+' if signed else ''}.{decimals}f}"
        return (text if float(text) else text.lstrip("+-")).replace("-", "\N{MINUS SIGN}")

    text = f"{number(one.value)}{unit}"
    if not math.isfinite(one.low + one.high):
        return text
    return f"{text} ({number(one.low)} to {number(one.high)})"


def listed(names: Sequence[str], word: str = "or") -> str:
    """Names in a row; at least one.

    >>> listed(["ALL"]), listed(["Early", "Pre", "Pro"], "and")
    ('ALL', 'Early, Pre and Pro')
    """
    return f" {word} ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
