"""The template engine of the page and of its downloadable report: macros of `templates/`.

All texts are escaped: they come from records and file names that anyone may have written.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..metrics import Interval
from ..wording import count, duration, percent, with_interval
from .words import headline_of, main_score, term

# Seconds between two updates of a progress bar, at which a run can be cancelled.
UPDATE_S = 0.4
TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, macro: str, *values: Any) -> str:
    """Fill in a macro of a template; a value that is missing raises `jinja2.UndefinedError`."""
    return str(getattr(ENVIRONMENT.get_template(template).module, macro)(*values))


def progress_html(done: int, total: int, seconds: float) -> str:
    """A progress bar of a run over images, with the rate and the time left."""
    rate = done / seconds if seconds else 0
    left = f"{rate:.0f} images per second, about {duration((total - done) / rate)} left" if rate else ""
    return render("parts.html", "progress", done, total, left)


def _of(value: Any) -> Interval | None:
    return Interval.from_record(value) if isinstance(value, Mapping) else value


def _interval(value: Any, decimals: int = 2, signed: bool = False) -> str:
    return with_interval(_of(value), decimals, signed=signed)


def _share(value: Any, decimals: int = 1) -> str:
    return with_interval(_of(value), decimals, 100, " %")


def _points(value: Any, sign: int = 1) -> str:
    """A difference in percentage points; `sign` -1 turns a loss into a difference."""
    one = Interval.from_record(value)
    if one is not None:
        one = Interval(sign * one.value, *sorted((sign * one.low, sign * one.high)))
    return with_interval(one, 1, 100, signed=True)


def _linked(text: str) -> Markup:
    """HTML in which each "doi 10.x/y" is a link."""
    return Markup(re.sub(r"\bdoi (10\.\d+/[\w./\-]*\w)", r'<a href="https://doi.org/\1">doi \1</a>', str(escape(text))))


def _main_score_of(row: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Name and value of the score that represents a model, of one noise level of a protocol."""
    return main_score({"headline": headline_of({"by_sigma": [row]})})


ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.filters |= {
    # of an interval, or of its record; None if it was not measured
    "interval": _interval,
    "share": _share,
    "points": _points,
    # of a number
    "percent": percent,
    "count": count,
    # of a text
    "linked": _linked,
    "term": lambda word, meaning="": Markup(term(word, meaning)),
    "tight": lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%"),  # no line break between a number and its %
}
ENVIRONMENT.globals |= {"headline_of": headline_of, "main_score_of": _main_score_of}
