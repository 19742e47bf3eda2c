"""Write the results table of README.md from the bundled models' metrics.json; a test fails when they disagree.

python -m train.readme
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blastlens import external
from blastlens.errors import BlastlensError
from train.card import interval

ROOT = Path(__file__).parents[1]
# First and last line of what is rendered.
RESULTS = ("<!-- results: rendered by `python -m train.readme`, checked by a test -->", "<!-- /results -->")
COMPARISON = ("<!-- comparison: rendered by `python -m train.report`, checked by a test -->", "<!-- /comparison -->")
SIGMAS = (0, 10, 20)


def results_table(records: Sequence[dict[str, Any]], baselines: dict[str, dict[str, Any]]) -> str:
    """One line per model and noise level, and below the models of a data set what simple baselines reach, as Markdown.

    `baselines` has a record of `train.baselines` for each data set.
    """
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_dataset.setdefault(record["training"]["dataset"]["name"], []).append(record)
    lines = [
        "| model | noise sigma | weighted F1 | balanced accuracy | macro F1 | ECE |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for dataset, of_it in by_dataset.items():
        lines += [line for record in of_it for line in _rows(record)]
        for name, scores in baselines[dataset]["scores"].items():
            cells = [interval(scores[key]) for key in ("weighted_f1", "balanced_accuracy", "macro_f1")]
            lines.append(f"| *{name} alone, no network* | 0 | {' | '.join(cells)} | |")
    return "\n".join(lines)


def _rows(record: dict[str, Any]) -> list[str]:
    protocol, lines = record["protocols"][0], []
    for row in protocol["by_sigma"]:
        if row["sigma"] in SIGMAS:
            name = f"[{record['model']}](models/{record['model']}/README.md), {protocol['name']}"
            cells = [interval(row[key]) for key in ("weighted_f1", "balanced_accuracy", "macro_f1", "ece")]
            lines.append(f"| {name if row['sigma'] == 0 else ''} | {row['sigma']:g} | {' | '.join(cells)} |")
    lines.append(f"| **{external.sentence(record)}** | | | | | |")
    return lines


def render(readme: str, content: str, marks: tuple[str, str] = RESULTS) -> str:
    """README's text with what is between the two marks replaced. Raises BlastlensError where there are none."""
    start, end = marks
    before, found, rest = readme.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise BlastlensError(f"README.md has no lines {start} and {end} to write between.")
    return f"{before}{start}\n{content}\n{end}{after}"


def bundled_records(root: Path = ROOT) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((root / "models").glob("[!.]*/metrics.json"))]


def recorded_baselines(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """By data set."""
    paths = (root / "results").glob("baselines_*.json")
    return {path.stem.removeprefix("baselines_"): json.loads(path.read_text()) for path in paths}


def main() -> int:
    path = ROOT / "README.md"
    path.write_text(render(path.read_text(), results_table(bundled_records(), recorded_baselines())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
