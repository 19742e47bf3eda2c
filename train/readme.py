"""Write the results table of README.md from the bundled models' metrics.json; a test fails when they disagree.

python -m train.readme
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blastlens import external_result
from blastlens.errors import BlastlensError
from train.card import interval
from train.card.page import BASELINES

ROOT = Path(__file__).parents[1]
# First and last line of what is rendered.
RESULTS = ("<!-- results: rendered by `python -m train.readme`, checked by a test -->", "<!-- /results -->")
COMPARISON = ("<!-- comparison: rendered by `python -m train.report`, checked by a test -->", "<!-- /comparison -->")
SIGMAS = (0, 10, 20)


def results_table(
    records: Sequence[dict[str, Any]], baselines: dict[str, dict[str, Any]], search: dict[str, Any]
) -> str:
    """The models of each data set by noise level, the external validation, and what simple baselines reach: Markdown.

    Args:
        records: metrics.json of each model.
        baselines: a record of `train.baselines` for each data set. search: results/search.json, whose baselines are
            those of single cells.
    """
    cells = [record for record in records if "donors" in record["protocols"][0]["by_sigma"][0]]
    others = [record for record in records if record not in cells]
    parts = []
    if cells:
        parts += [_donor_table(cells, search), ""]
    for dataset in dict.fromkeys(record["training"]["dataset"]["name"] for record in others):
        of_it = [record for record in others if record["training"]["dataset"]["name"] == dataset]
        lines = [
            "| model | noise sigma | weighted F1 | balanced accuracy | macro F1 | ECE |",
            "| --- | --- | --- | --- | --- | --- |",
            *(line for record in of_it for line in _rows(record)),
        ]
        for name, scores in baselines[dataset]["scores"].items():
            found = [interval(scores[key]) for key in ("weighted_f1", "balanced_accuracy", "macro_f1")]
            lines.append(f"| *{name} alone, no network* | 0 | {' | '.join(found)} | |")
        parts += ["\n".join(lines), ""]
    return "\n".join(parts).rstrip()


def _donor_table(records: Sequence[dict[str, Any]], search: dict[str, Any]) -> str:
    lines = [
        "| model | noise sigma | AUROC per healthy donor | specificity per donor: mean, worst "
        "| sensitivity per ALL subject | weighted F1 at 50 % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for record in records:
        for row in record["protocols"][0]["by_sigma"]:
            if row["sigma"] in SIGMAS:
                name = _name(record) if row["sigma"] == 0 else ""
                lines.append(f"| {name} | {row['sigma']:g} | {_by_donor(row['donors'])} |")
        lines.append(f"| **{external_result.sentence(record)}** | | | | | |")
    for name, title in BASELINES.items():
        if name in search["candidates"]:
            lines.append(f"| *{title}* | 0 | {_by_donor(search['candidates'][name])} |")
    return "\n".join(lines)


def _by_donor(scores: dict[str, Any]) -> str:
    specificity = f"{interval(scores['specificity_per_donor'])}, {scores['worst_specificity']:.3f}"
    others = [interval(scores[key]) for key in ("sensitivity_per_subject", "weighted_f1_at_half")]
    return " | ".join([interval(scores["auroc_per_donor"]), specificity, *others])


def _name(record: dict[str, Any]) -> str:
    return f"[{record['model']}](models/{record['model']}/README.md), {record['protocols'][0]['name']}"


def _rows(record: dict[str, Any]) -> list[str]:
    lines = []
    for row in record["protocols"][0]["by_sigma"]:
        if row["sigma"] in SIGMAS:
            cells = [interval(row[key]) for key in ("weighted_f1", "balanced_accuracy", "macro_f1", "ece")]
            lines.append(f"| {_name(record) if row['sigma'] == 0 else ''} | {row['sigma']:g} | {' | '.join(cells)} |")
    lines.append(f"| **{external_result.sentence(record)}** | | | | | |")
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


def current_table(root: Path = ROOT) -> str:
    """The table of what is bundled and recorded."""
    search = json.loads((root / "results" / "search.json").read_text())
    return results_table(bundled_records(root), recorded_baselines(root), search)


def main() -> int:
    path = ROOT / "README.md"
    path.write_text(render(path.read_text(), current_table()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
