"""Writing files so that nobody ever sees half of one under its own name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` fill another file beside `path`, then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Its ending stays: numpy would add one of its own, and others choose a format by it.
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    write(part)
    part.replace(path)


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Raises ValueError for NaN and infinity, which JSON does not have; the file is then as it was."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    replace(path, lambda part: part.write_text(text))
