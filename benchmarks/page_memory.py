"""Memory of the page during many requests of one client, one after the other: after 100 and after 2,000 of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Figure, Target
from benchmarks.load import measure_load, memory_marks

MARKS = (100, 2000)
GROWTH, MAX_MB = Target(1.05), Target(700)


def measure(models: Sequence[str], cells: Path | None, fields: Path | None, quick: bool) -> dict[str, Any]:
    """The record of this part; it always uses the bundled models and synthetic images."""
    marks = (10, 40) if quick else MARKS
    record = measure_load(1, max(marks), marks)
    return {key: record[key] for key in ("machine", "requests", "resident_mb")}


def summary(record: Mapping[str, Any]) -> list[Figure]:
    (first, before), (last, after) = memory_marks(record)
    return [
        Figure(f"memory of the page, {last:,} / {first:,} requests", GROWTH, {"": after / before}, "{:.3f}"),
        Figure(f"memory of the page after {last:,} requests, MB", MAX_MB, {"": after}, "{:.0f}"),
    ]
