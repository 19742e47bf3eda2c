"""The pages `results/README.md`, `CLAIMS.md` and `MODELS.md`: tables and figures; the prose is in `templates/`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from blastlens.metrics import Interval
from train.report import figures
from train.report.measured import RunSet, donor_scores, of_fold, scores
from train.report.numbers import NOTHING, in_points, interval, table
from train.report.published import Claim, NoiseClaim
from train.report.systems import (
    Evidence,
    SystemRow,
    changes_of,
    comparison_record,
    most_frequent_share,
)
from train.report.templates import filled
from train.results import HONEST, LEVELS

NEAR = 0.015  # how far from a claim a measured accuracy counts as reproduced
NOISE = 20  # sigma of the column of MODELS.md
Page = tuple[dict[str, Any], dict[str, Figure]]  # what its template needs, and its figures by name

_shown = partial(interval, missing=NOTHING)


def render(evidence: Evidence, models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Every page and figure, and the record that the demo reads, by its path below `results/`.

    Args:
        models: metrics.json of each bundled model.
    """
    files = {"comparison.json": comparison_record(evidence)}
    for name, (context, drawings) in {
        "README": comparison(evidence),
        "CLAIMS": claims(evidence),
        "MODELS": which_model(models),
    }.items():
        files[f"{name}.md"] = filled(name, honest=HONEST, **context)
        files |= {f"figures/{drawing}.svg": figures.svg(figure) for drawing, figure in drawings.items()}
    return files


def comparison(evidence: Evidence) -> Page:
    """The main page: claimed, image-level and group-disjoint scores, the leak, noise, cost, and how each was made."""
    sections, drawings, panels = [], {}, {}
    for name, dataset in evidence.published.datasets.items():
        rows = evidence.of(name)
        donors = {row: found.summary() for row in rows if row.group and (found := donor_scores(row.group))}
        complete = sorted((row for row in rows if row.group and row.group.complete), key=_accuracy, reverse=True)
        pairs = {row: evidence.pairs(row) for row in complete}
        section = {
            "dataset": dataset,
            "name": name,
            "images": evidence.images_at_hand(name),
            "rows": rows,
            "baselines": evidence.baselines.get(name, {}),
            "donors": donors,
            "pairs": pairs if any(pairs.values()) else {},
            "times": {row: evidence.latency.get("systems", {}).get(row.name, {}).get("onnx_fp32_ms") for row in rows},
            "floor": None,
        }
        if measured := [row for row in rows if row.measured]:
            section["floor"] = most_frequent_share(measured[0].group or measured[0].image)
            curves = {row.title: {level: _curve(runs) for level, runs in row.measured.items()} for row in measured}
            drawings[f"noise_{name}"] = figures.noise(curves, section["floor"], "most frequent class every time")
        sections.append(section)
        panels[dataset.title] = [
            (row.title, row.claim.mean_accuracy, {level: row.score(level) for level in LEVELS}) for row in rows
        ]
    systems = [row for row in evidence.rows if row.name in evidence.published.claims]
    context = {
        "sections": sections,
        "levels": LEVELS,
        "scores": scores,
        "changes_of": changes_of,
        "n_systems": len(systems),
        "n_measured": {level: sum(bool(row.at(level)) for row in systems) for level in LEVELS},
        "not_shown": evidence.not_shown,
        "machine": evidence.latency.get("machine"),
    }
    return context, {"comparison": figures.comparison(panels), **drawings}


def _accuracy(row: SystemRow) -> float:
    return scores(row.group)["accuracy"].value


def _curve(runs: RunSet, sigmas: Sequence[float] | None = None) -> figures.Curve:
    return {s: scores(runs, s)["accuracy"] for s in runs.sigmas if sigmas is None or s in sigmas}


def claims(evidence: Evidence) -> Page:
    """What each paper claims beside what was measured: scores, and MobileNet_M's noise table."""
    header = ("system", "figure", "claimed", "measured, image-level", "reading", "measured, group-disjoint")
    papers, drawings = [], {}
    for name, paper in evidence.published.papers.items():
        rows = [row for row in evidence.rows if row.name in paper.systems]
        noise = []
        for row in rows:
            if row.claim.noise:
                tables, drawings[f"noise_{row.name}"] = _claimed_noise(evidence, row)
                noise.append((row, tables))
        papers.append(
            {
                "name": name,
                "paper": paper,
                "table": table(header, [line for row in rows for line in _claim_lines(row)]),
                "settings": [(row.title, row.changes) for row in rows if row.measured],
                "noise": noise,
            }
        )
    return {"papers": papers}, drawings


def _claim_lines(row: SystemRow) -> Iterator[Sequence[str]]:
    """One line per score that a paper prints about a system."""
    title = row.title
    for label, claimed, image, group in _claimed_scores(row, row.claim):
        ours = [
            interval(value) if value else row.missing(level)
            for level, value in zip(LEVELS, (image, group), strict=True)
        ]
        if label.startswith("accuracy, fold"):
            ours[1] = NOTHING  # official folds are the image-level protocol's
        yield (
            title,
            label,
            claimed if isinstance(claimed, str) else f"{claimed:.6g}",
            ours[0],
            reading(claimed, image),
            ours[1],
        )
        title = ""


def reading(claimed: float | str, image: Interval | None) -> str:
    """A claim against our image-level score, in words."""
    if image is None or isinstance(claimed, str):
        return NOTHING
    if claimed > image.high:
        return f"below the claim by {claimed - image.value:.3f}"
    if claimed < image.low:
        return f"above the claim by {image.value - claimed:.3f}"
    return "the claim is within our interval"


def _claimed_scores(
    row: SystemRow, claim: Claim
) -> Iterator[tuple[str, float | str, Interval | None, Interval | None]]:
    """Each claimed score with ours: what it is, the claim, image-level, group-disjoint."""

    def ours(name: str, label: str | None = None) -> list[Interval | None]:
        found = [scores(runs) if runs else None for runs in (row.image, row.group)]
        return [report and (report["per_class"][label] if label else report)[name] for report in found]

    two = row.recipe.dataset == "cnmc2019"
    accuracy = claim.printed.get("accuracy") if claim.accuracy is None else claim.accuracy
    if accuracy is not None:
        yield "accuracy", accuracy, *ours("accuracy")
    for fold, value in enumerate(claim.accuracy_by_fold or ()):
        runs = of_fold(row.image, fold) if row.image else None
        yield f"accuracy, fold {fold}", value, scores(runs)["accuracy"] if runs else None, None
    if claim.macro_f1 is not None:
        yield "macro F1", claim.macro_f1, *ours("macro_f1")
    if claim.precision is not None and two:
        yield "precision (ours: of ALL)", claim.precision, *ours("precision", "ALL")
    if claim.recall is not None and two:
        yield "recall (ours: of ALL)", claim.recall, *ours("recall", "ALL")
    elif claim.recall is not None:
        # Recall averaged by the classes' numbers of images is accuracy.
        yield "recall (ours: weighted)", claim.recall, *ours("accuracy")
    f1 = claim.printed.get("f1") if claim.f1 is None else claim.f1
    if f1 is not None:
        yield "F1 (ours: weighted)", f1, *ours("weighted_f1")


def _claimed_noise(evidence: Evidence, row: SystemRow) -> tuple[dict[str, Any], Figure]:
    """A table for each official fold and for all, by title, and their figure."""
    by_sigma = {claim.sigma: claim for claim in row.claim.noise}
    by_sigma[6.0] = by_sigma[8.0]  # the paper's text says 6 where its table says 8
    by_sigma = dict(sorted(by_sigma.items()))
    tables, panels = {}, {}
    for fold, published in enumerate(evidence.published.datasets[row.recipe.dataset].fold_images):
        runs = of_fold(row.image, fold) if row.image else None
        tables[_fold_title(fold, published, runs)] = _beside_claims(runs, by_sigma, [fold])
        curve = _curve(runs, list(by_sigma)) if runs else None
        panels[f"fold {fold}"] = (curve, {sigma: claim.accuracy[fold] for sigma, claim in by_sigma.items()})
    if row.image:
        title = f"Folds {', '.join(map(str, row.image.folds))} together"
        tables[title] = _beside_claims(row.image, by_sigma, row.image.folds)
    return tables, figures.claimed_noise(panels)


def _fold_title(fold: int, published: int, runs: RunSet | None) -> str:
    """Says how many images were tested, of how much of the published fold, and which interval means little."""
    if runs is None:
        return f"Fold {fold}: not run yet"
    images = runs.first.images
    names = enumerate(runs.first.label_names)
    alone = [name for i, name in names if len(np.unique(runs.groups[runs.label == i])) == 1]
    note = "".join(f"; its {name} images are of one group, so intervals lack their spread" for name in alone)
    return f"Fold {fold}: {images['test']:,} test images, {sum(images.values()):,} of its {published:,} at hand{note}"


def _beside_claims(runs: RunSet | None, by_sigma: Mapping[float, NoiseClaim], folds: Sequence[int]) -> dict[str, Any]:
    """A table of the claims, averaged over the folds, and the measured scores; and how many accuracies are near."""
    lines, near = [], []
    for sigma, claim in by_sigma.items():
        line = ["6 (claimed for 8)" if sigma == 6 else f"{sigma:g}"]
        for name, values in (("accuracy", claim.accuracy), ("auroc", claim.auc)):
            theirs = float(np.mean([values[fold] for fold in folds]))
            ours = scores(runs, sigma)[name] if runs and sigma in runs.sigmas else None
            defined = ours is not None and not np.isnan(ours.value)
            line += [f"{theirs:.3f}", _shown(ours), f"{ours.value - theirs:+.3f}" if defined else NOTHING]
            if name == "accuracy" and defined:
                near.append(abs(ours.value - theirs) <= NEAR)
        lines.append(line)
    columns = [f"{name}, {what}" for name in ("accuracy", "AUC") for what in ("claimed", "image-level", "difference")]
    return {"table": table(("sigma", *columns), lines), "near": sum(near), "rows": len(near)}


@dataclass(frozen=True)
class ModelFile:
    """One ONNX file of a bundled model.

    Attributes:
        score: weighted F1 on held-out groups, without noise; `shown` the same with its interval or, for int8, with
            that of the difference to fp32.
        noisy: the score at sigma `NOISE`; empty for int8, which is not measured with noise.
        ms: of one run. mb: of the file.
    """

    model: str
    precision: str
    dataset: str
    score: float
    shown: str
    noisy: str
    ms: float
    mb: float

    def best_among(self, others: Sequence["ModelFile"]) -> bool:
        """Whether no other file of its data set is as good, as quick and as small, and better in one of these."""
        mine = (-self.score, self.ms, self.mb)
        theirs = [(-o.score, o.ms, o.mb) for o in others if o.dataset == self.dataset]
        return not any(all(a <= b for a, b in zip(t, mine, strict=True)) and t != mine for t in theirs)


def model_files(records: Sequence[Mapping[str, Any]]) -> list[ModelFile]:
    """The fp32 and the int8 file of each model, from its metrics.json."""
    found = []
    for record in records:
        by_sigma = {row["sigma"]: row["weighted_f1"] for row in record["protocols"][0]["by_sigma"]}
        int8, dataset = record["int8"], record["training"]["dataset"]["name"]
        moved = f"{int8['weighted_f1_int8']:.3f}, {in_points(int8['difference'])} points of fp32"
        for precision, score, shown, noisy in (
            ("fp32", by_sigma[0]["value"], interval(by_sigma[0]), interval(by_sigma[NOISE])),
            ("int8", int8["weighted_f1_int8"], moved, ""),
        ):
            ms, mb = record["latency_ms"][precision], record["size_bytes"][precision] / 1e6
            found.append(ModelFile(record["model"], precision, dataset, score, shown, noisy, ms, mb))
    return found


def which_model(records: Sequence[Mapping[str, Any]]) -> Page:
    """Our own models: how good, how fast, how small."""
    files = model_files(records)
    names = dict.fromkeys(file.dataset for file in files)
    context = {
        "by_dataset": {name: [file for file in files if file.dataset == name] for name in names},
        "threads": sorted({record["latency_ms"]["threads"] for record in records}),
        "files": files,
        "noise": NOISE,
    }
    return context, {}
