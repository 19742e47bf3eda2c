"""What is reported of the bundled models: baselines beside them, the results table of README.md, and MODELS.md."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blastlens import external_result
from blastlens.dataset_info import CNMC2019
from blastlens.errors import BlastlensError
from train.report.numbers import interval
from train.report.templates import ROOT

RESULTS = ROOT / "results"
# First and last line of what is rendered in README.md.
START, END = "<!-- results: rendered by `python -m train.report`, checked by a test -->", "<!-- /results -->"
NOISE = 20  # sigma
# Candidates of the search without a network that a single-cell model is compared with.
BASELINES = {
    "cell-area": "cell area alone",
    "five-features": "five features (area, radius, optical density of red, green and blue), logistic regression",
}
COLUMNS = ["model", "protocol", "score", "cross-validated", f"with noise of sigma {NOISE}"]
COLUMNS += ["best baseline without a network", "external validation"]


def read_json(path: Path, default: dict[str, Any] | None = None) -> dict[str, Any]:
    """The object in a JSON file, or the default where there is no such file. Raises BlastlensError."""
    if not path.is_file() and default is not None:
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise BlastlensError(
            f"{path.parent} has no {path.name}; `python -m train.evaluate` measures a model."
        ) from None
    except ValueError as error:
        raise BlastlensError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise BlastlensError(f"{path} holds a {type(value).__name__}; a JSON object is expected.")
    return value


def baselines_of(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What models without a network reach on the splits of a model's first protocol.

    Returns:
        `search`: the model's entry in results/search.json, empty where it was no candidate. `baselines`: scores by
        what they use. `differences`: the recipe's scores minus each baseline's on the same images without noise.
    """
    training, protocol = metrics["training"], metrics["protocols"][0]
    dataset, recipe = training["dataset"]["name"], training["recipe"]["name"]
    if "donors" in protocol["by_sigma"][0]:
        search = read_json(RESULTS / "search.json")
        found = search["candidates"] if (dataset, protocol["name"]) == (CNMC2019.name, search["protocol"]) else {}
        own = found.get(metrics["model"], {})
        baselines = {title: found[name] for name, title in BASELINES.items() if name in found and own}
        return {"search": own, "baselines": baselines, "differences": {}}
    record = read_json(RESULTS / f"baselines_{dataset}.json", {})
    if record.get("protocol") != protocol["name"]:
        return {"search": {}, "baselines": {}, "differences": {}}
    rows = record["differences"] if record.get("recipe") == recipe else {}
    differences = {name: by_sigma[0] for name, by_sigma in rows.items()}
    return {"search": {}, "baselines": record["scores"], "differences": differences}


def results_table(records: Sequence[dict[str, Any]]) -> str:
    """One row per model, Markdown: AUROC per healthy donor where donors were measured, else weighted F1.

    Args:
        records: metrics.json of each model.
    """
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}"]
    for record in records:
        protocol = record["protocols"][0]
        by_sigma = {row["sigma"]: row.get("donors", row) for row in protocol["by_sigma"]}
        key = "auroc_per_donor" if "auroc_per_donor" in by_sigma[0] else "weighted_f1"
        baselines = {name: scores[key] for name, scores in baselines_of(record)["baselines"].items()}
        best = max(baselines, key=lambda name: baselines[name]["value"], default=None)
        cells = [f"[{record['model']}](models/{record['model']}/README.md)", protocol["name"]]
        cells.append("AUROC per healthy donor" if key == "auroc_per_donor" else "weighted F1")
        cells += [interval(by_sigma[sigma][key]) for sigma in (0, NOISE)]
        cells.append(f"{best}: {interval(baselines[best])}" if best else "")
        cells.append(external_result.sentence(record).removeprefix("External validation: "))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def filled_in(readme: str, records: Sequence[dict[str, Any]]) -> str:
    """README's text with the table between its marks replaced. Raises BlastlensError where there are none."""
    before, start, rest = readme.partition(START)
    _, end, after = rest.partition(END)
    if not (start and end):
        raise BlastlensError(f"README.md has no lines {START} and {END} to write between.")
    return f"{before}{start}\n{results_table(records)}\n{end}{after}"


def model_files(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The fp32 and the int8 file of each bundled model: `precision`, `record`, `score` (weighted F1 on held-out groups
    without noise), `ms` of one run, `mb`, and whether it is `best`: not dominated."""
    files = []
    for record in records:
        fp32 = record["protocols"][0]["by_sigma"][0]["weighted_f1"]["value"]
        for precision, score in (("fp32", fp32), ("int8", record["int8"]["weighted_f1_int8"])):
            ms, mb = record["latency_ms"][precision], record["size_bytes"][precision] / 1e6
            files.append({"record": record, "precision": precision, "score": score, "ms": ms, "mb": mb})
    for file in files:
        file["dataset"] = file["record"]["training"]["dataset"]["name"]
    return [file | {"best": not any(dominates(other, file) for other in files)} for file in files]


def dominates(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a file is as good, as fast and as small as another of its data set, and better in one of these."""
    ours, theirs = ([-file["score"], file["ms"], file["mb"]] for file in (one, other))
    as_good = all(a <= b for a, b in zip(ours, theirs, strict=True))
    return one["dataset"] == other["dataset"] and as_good and ours != theirs
