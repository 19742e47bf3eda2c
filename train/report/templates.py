"""The template engine of everything rendered from records: `templates/*.md`, and `model_card.md` of the project."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from train.report.numbers import FILTERS

ROOT = Path(__file__).parents[2]


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader([Path(__file__).with_name("templates"), ROOT]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= FILTERS
    return environment


def filled(name: str, **context: Any) -> str:
    """The template `name`.md filled in; a value that is missing raises `jinja2.UndefinedError`."""
    text = _environment().get_template(f"{name}.md").render(**context)
    # What a template leaves out leaves spaces and empty lines behind.
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.M)).rstrip() + "\n"
