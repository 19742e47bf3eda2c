"""Which of our models to take: accuracy beside milliseconds and megabytes, as the bundled folders' metrics have them.

python -m train.pareto    # writes results/MODELS.md and its figure; a test fails when they disagree
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.card.numbers import in_points, interval
from train.readme import ROOT, bundled_records
from train.report.figures import front, svg
from train.report.pages import filled

PAGE, FIGURE = Path("results/MODELS.md"), Path("results/models.svg")
# What a row of the table has of a model's sigmas.
NOISE = 20


@dataclass(frozen=True)
class Version:
    """One file that can be served.

    Attributes:
        model, precision, dataset: which.
        score: weighted F1 on held-out groups, without noise. told: the same in words, with its interval; for int8,
            with that of the difference to fp32.
        noisy: in words, at sigma `NOISE`; empty for int8, which is not measured with noise.
        ms: of one run. mb: of the file.
    """

    model: str
    precision: str
    dataset: str
    score: float
    told: str
    noisy: str
    ms: float
    mb: float


def versions(records: Sequence[dict[str, Any]]) -> list[Version]:
    """The fp32 and the int8 file of each model."""
    found = []
    for record in records:
        by_sigma = {row["sigma"]: row["weighted_f1"] for row in record["protocols"][0]["by_sigma"]}
        int8, dataset = record["int8"], record["training"]["dataset"]["name"]
        moved = f"{int8['weighted_f1_int8']:.3f}, {in_points(int8['difference'])} points of fp32"
        for precision, score, told, noisy in (
            ("fp32", by_sigma[0]["value"], interval(by_sigma[0]), interval(by_sigma[NOISE])),
            ("int8", int8["weighted_f1_int8"], moved, ""),
        ):
            ms, mb = record["latency_ms"][precision], record["size_bytes"][precision] / 1e6
            found.append(Version(record["model"], precision, dataset, score, told, noisy, ms, mb))
    return found


def in_front(one: Version, others: Sequence[Version]) -> bool:
    """Whether no other version of its data set is as good, as quick and as small, and better in one of these."""
    mine = (-one.score, one.ms, one.mb)
    theirs = [(-o.score, o.ms, o.mb) for o in others if o.dataset == one.dataset]
    return not any(all(a <= b for a, b in zip(t, mine, strict=True)) and t != mine for t in theirs)


def page(records: Sequence[dict[str, Any]]) -> str:
    """The page as Markdown."""
    every = versions(records)
    tables = {
        dataset: [v for v in every if v.dataset == dataset] for dataset in dict.fromkeys(v.dataset for v in every)
    }
    threads = sorted({record["latency_ms"]["threads"] for record in records})
    leading = {(v.model, v.precision) for v in every if in_front(v, every)}
    return filled("MODELS", tables=tables, threads=threads, front=leading, noise=NOISE)


def main() -> int:
    records = bundled_records()
    (ROOT / PAGE).write_text(page(records))
    (ROOT / FIGURE).write_text(figure(records))
    return 0


def figure(records: Sequence[dict[str, Any]]) -> str:
    """The page's figure as SVG."""
    panels: dict[str, dict[str, list[tuple[str, float, float, float]]]] = {}
    for v in versions(records):
        panels.setdefault(v.dataset, {}).setdefault(v.model, []).append((v.precision, v.score, v.ms, v.mb))
    return svg(front(panels))


if __name__ == "__main__":
    sys.exit(main())
