"""The results table of README.md, from the bundled models' metrics.json and the recorded baselines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from blastlens import external_result
from blastlens.errors import BlastlensError
from train.report.numbers import interval, table
from train.report.templates import ROOT

# First and last line of what is rendered.
START, END = "<!-- results: rendered by `python -m train.report`, checked by a test -->", "<!-- /results -->"
NOISE = 20  # sigma
# Candidates of the search without a network that a single-cell model is compared with.
BASELINES = {
    "cell-area": "cell area alone",
    "five-features": "five features (area, radius, optical density of red, green and blue), logistic regression",
}
HEADER = ("model", "protocol", "score", "cross-validated", f"with noise of sigma {NOISE}")
HEADER += ("best baseline without a network", "external validation")


def results_table(records: Sequence[dict[str, Any]], results: Path = ROOT / "results") -> str:
    """One row per model, Markdown: AUROC per healthy donor where donors were measured, else weighted F1.

    Args:
        records: metrics.json of each model.
        results: the folder of the recorded baselines.
    """
    rows = []
    for record in records:
        protocol = record["protocols"][0]
        by_sigma = {row["sigma"]: row for row in protocol["by_sigma"]}
        if donors := "donors" in by_sigma[0]:
            found = json.loads((results / "search.json").read_text())["candidates"]
            baselines = {title: found[name]["auroc_per_donor"] for name, title in BASELINES.items() if name in found}
        else:
            found = json.loads((results / f"baselines_{record['training']['dataset']['name']}.json").read_text())
            baselines = {name: scores["weighted_f1"] for name, scores in found["scores"].items()}
        shown = [by_sigma[s]["donors"]["auroc_per_donor"] if donors else by_sigma[s]["weighted_f1"] for s in (0, NOISE)]
        best = max(baselines, key=lambda name: baselines[name]["value"], default=None)
        rows.append(
            (
                f"[{record['model']}](models/{record['model']}/README.md)",
                protocol["name"],
                "AUROC per healthy donor" if donors else "weighted F1",
                *map(interval, shown),
                f"{best}: {interval(baselines[best])}" if best else "",
                external_result.sentence(record).removeprefix("External validation: "),
            )
        )
    return table(HEADER, rows)


def filled_in(readme: str, records: Sequence[dict[str, Any]]) -> str:
    """README's text with the table between its marks replaced. Raises BlastlensError where there are none."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise BlastlensError(f"README.md has no lines {START} and {END} to write between.")
    return f"{before}{start}\n{results_table(records)}\n{end}{after}"
