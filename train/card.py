"""Render a model folder's README.md from its metrics.json with the template `model_card.md`.

python -m train.card models/mobilenet_m-cnmc2019
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from train.export import needs_code
from train.recipe import Recipe

TEMPLATE = Path(__file__).parents[1] / "model_card.md"


def interval(value: dict[str, float | None]) -> str:
    """`0.873 (0.812 to 0.921)`, or that an absent class leaves the score undefined."""
    if None in value.values():
        return "undefined"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def render(metrics: dict[str, Any]) -> str:
    """The card as Markdown; raises jinja2.UndefinedError where metrics.json lacks a figure the template needs."""
    protocol = metrics["protocols"][0]
    training = metrics["training"]
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.globals["interval"] = interval
    healthy = [g for g in protocol["per_group"] if g["label"] == "HEM"]
    return environment.from_string(TEMPLATE.read_text()).render(
        model=metrics["model"],
        task=metrics["task"].capitalize() if metrics["task"][:1].islower() else metrics["task"],
        label_names=metrics["label_names"],
        recipe=training["recipe"],
        training=training,
        protocol=protocol,
        needs_code=needs_code(Recipe.from_dict(training["recipe"])),
        single_cells=training["recipe"]["dataset"] == "cnmc2019",
        worst_first=sorted(healthy, key=lambda g: g["accuracy"]),
        int8=metrics.get("int8"),
    )


def main(argv: Sequence[str] | None = None) -> int:
    for folder in map(Path, sys.argv[1:] if argv is None else argv):
        (folder / "README.md").write_text(render(json.loads((folder / "metrics.json").read_text())))
        print(folder / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
