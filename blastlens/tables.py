"""Tables that are data, not code: the TOML files beside the modules that use them."""

import tomllib
from pathlib import Path
from typing import Any


def read_table(file: Path) -> dict[str, Any]:
    """The content of a TOML file of this package, with tuples in place of lists."""
    return {name: _frozen(value) for name, value in tomllib.loads(file.read_text(encoding="utf-8")).items()}


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _frozen(one) for key, one in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
