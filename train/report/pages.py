"""The pages `results/README.md`, `CLAIMS.md` and `MODELS.md`: what their templates need, and the figures."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from blastlens.metrics import Interval
from train.report import evidence as evidence_page
from train.report import figures
from train.report.measured import RunSet, donor_scores, of_fold, scores
from train.report.models import NOISE, model_files
from train.report.numbers import NOTHING, interval
from train.report.published import NoiseClaim
from train.report.systems import Evidence, SystemRow, changes_of, comparison_record, most_frequent_share
from train.report.templates import filled
from train.results import HONEST, LEVELS

NEAR = 0.015  # how far from a claim a measured accuracy counts as reproduced


def render(evidence: Evidence, models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Every page and figure, and the record that the demo reads, by its path below `results/`.

    Args:
        models: metrics.json of each bundled model.
    """
    return {
        "comparison.json": comparison_record(evidence),
        "README.md": comparison(evidence),
        "CLAIMS.md": claims(evidence),
        "EVIDENCE.md": evidence_page.page(evidence),
        "MODELS.md": filled("MODELS", files=model_files(models), noise=NOISE),
        **{
            f"figures/{name}.svg": figures.svg(figure)
            for draw in (drawings, evidence_page.drawings)
            for name, figure in draw(evidence).items()
        },
    }


def comparison(evidence: Evidence) -> str:
    """The main page: claimed, image-level and group-disjoint scores, the leak, noise, cost, and how each was made."""
    systems = [row for row in evidence.rows if row.name in evidence.published.claims]
    return filled(
        "README",
        evidence=evidence,
        rows_of=evidence.of,
        floors=_floors(evidence),
        by_accuracy=lambda rows: sorted(rows, key=lambda row: row.score("group").value, reverse=True),
        donor_scores=donor_scores,
        scores=scores,
        changes_of=changes_of,
        honest=HONEST,
        levels=LEVELS,
        n_systems=len(systems),
        n_shortened=sum(row.shortened for row in systems),
        n_measured={level: sum(level in row.measured for row in systems) for level in LEVELS},
    )


def drawings(evidence: Evidence) -> dict[str, Figure]:
    """The figures of the main page."""
    found, panels = {}, {}
    floors = _floors(evidence)
    for name, dataset in evidence.published.datasets.items():
        rows = evidence.of(name)
        panels[dataset.title] = [
            (
                _short(row.title) + (f", {row.steps} steps" if row.shortened and row.comparable else ""),
                row.claim.mean_accuracy,
                {level: row.score(level) if row.comparable else None for level in LEVELS},
                "not run yet" if not row.measured else f"random first weights, {row.steps} steps: not comparable",
            )
            for row in rows
        ]
        if name in floors:
            curves = {row.title: {k: _curve(runs) for k, runs in row.measured.items()} for row in rows if row.measured}
            found[f"noise_{name}"] = figures.noise(curves, floors[name], "most frequent class every time")
    return {"comparison": figures.comparison(panels), **found}


def _short(title: str) -> str:
    """A system's name and its authors, without what a comma separates from them."""
    name, more, _ = title.partition(",")
    return f"{name})" if more else name


def _curve(runs: RunSet) -> figures.Curve:
    return {sigma: scores(runs, sigma)["accuracy"] for sigma in runs.sigmas}


def _floors(evidence: Evidence) -> dict[str, float]:
    """By data set with a measured system: the accuracy of always answering the most frequent class."""
    first = {name: [row for row in evidence.of(name) if row.measured][:1] for name in evidence.published.datasets}
    return {name: most_frequent_share(row.group or row.image) for name, rows in first.items() for row in rows}


def claims(evidence: Evidence) -> str:
    """What each paper claims beside what was measured: scores, and MobileNet_M's noise table."""
    rows = {
        name: [row for row in evidence.rows if row.name in p.systems] for name, p in evidence.published.papers.items()
    }
    noise = {row: claimed_noise(evidence, row) for row in evidence.rows if row.claim.noise}
    parts = {row: ablation(evidence, row) for row in evidence.rows if row.claim.ablation}
    papers = evidence.published.papers
    return filled("CLAIMS", papers=papers, rows=rows, noise=noise, ablation=parts, claim_lines=claim_lines, near=NEAR)


def claim_lines(row: SystemRow) -> Iterator[tuple[str, str, str, str, str]]:
    """Of each score that a paper prints: its name, the claim, ours image-level, a comparison, ours group-disjoint."""
    claim, two = row.claim, row.recipe.dataset == "cnmc2019"
    accuracy = claim.printed.get("accuracy") if claim.accuracy is None else claim.accuracy
    f1 = claim.printed.get("f1") if claim.f1 is None else claim.f1
    if accuracy is not None:
        yield _line(row, "accuracy", accuracy, "accuracy")
    for fold, value in enumerate(claim.accuracy_by_fold or ()):
        runs = of_fold(row.image, fold)
        ours = scores(runs)["accuracy"] if runs else None
        shown = interval(ours) if ours else "fold not trained" if row.image else row.missing("image")
        # Official folds are the image-level protocol's.
        yield f"accuracy, fold {fold}", f"{value:.6g}", shown, verdict_on(row, value, ours), NOTHING
        if full := of_fold(row.full, fold):
            ours = scores(full)["accuracy"]
            name = f"accuracy, fold {fold}, {full_length(row, full)}"
            yield name, f"{value:.6g}", interval(ours), reading(value, ours), NOTHING
    for label, value, name, of_class in (
        ("macro F1", claim.macro_f1, "macro_f1", None),
        ("precision (ours: of ALL)", claim.precision if two else None, "precision", "ALL"),
        ("recall (ours: of ALL)", claim.recall if two else None, "recall", "ALL"),
        # Recall averaged by the classes' numbers of images is accuracy.
        ("recall (ours: weighted)", None if two else claim.recall, "accuracy", None),
        ("F1 (ours: weighted)", f1, "weighted_f1", None),
    ):
        if value is not None:
            yield _line(row, label, value, name, of_class)


def full_length(row: SystemRow, runs: RunSet) -> str:
    """How long a run of full length was, and how it differs from the recipe."""
    run = runs.first
    changes = f", {changes_of(run, row.recipe)}" if run.changes else ""
    return f"{run.steps:,} steps at {run.image_size} px{changes}"


def _line(
    row: SystemRow, label: str, claimed: float | str, name: str, of_class: str | None = None
) -> tuple[str, str, str, str, str]:
    image, group = (row.score(level, name, of_class) for level in LEVELS)
    shown = claimed if isinstance(claimed, str) else f"{claimed:.6g}"
    ours = [interval(s) if s else row.missing(level) for level, s in zip(LEVELS, (image, group), strict=True)]
    return label, shown, ours[0], verdict_on(row, claimed, image), ours[1]


def verdict_on(row: SystemRow, claimed: float | str, image: Interval | None) -> str:
    """What a measured score says of a claim: nothing where the network did not start as the paper's did."""
    found = reading(claimed, image)
    if found == NOTHING or row.comparable:
        return f"shortened training: {found}" if row.shortened and found.startswith("below") else found
    return "says nothing: random first weights"


def reading(claimed: float | str, image: Interval | None) -> str:
    """A claim against our image-level score, in words."""
    if image is None or isinstance(claimed, str):
        return NOTHING
    if claimed > image.high:
        return f"below the claim by {claimed - image.value:.3f}"
    if claimed < image.low:
        return f"above the claim by {image.value - claimed:.3f}"
    return "the claim is within our interval"


def ablation(evidence: Evidence, row: SystemRow) -> list[list[str]]:
    """Lines without and with a system's balancing and augmentation: the claimed accuracy, averaged over the folds that
    we trained; ours image-level, without noise and at sigma 10; ours group-disjoint; optimizer steps."""
    claim = row.claim.ablation
    plain = next(one for one in evidence.rows if one.name == claim["plain"])
    lines = []
    for words, one, key in (("without", plain, "without"), ("with both", row, "with_both")):
        if one.image:
            claimed = f"{np.mean([claim['accuracy'][key][fold] for fold in one.image.folds]):.3f}"
            noisy = interval(scores(one.image, 10.0)["accuracy"]) if 10.0 in one.image.sigmas else NOTHING
            lines.append([words, claimed, one.cell("image"), noisy, one.cell("group"), one.steps])
    return lines


def claimed_noise(evidence: Evidence, row: SystemRow) -> dict[str, dict[str, Any]]:
    """A table for each official fold that was trained, and for all together, by title."""
    by_sigma = {claim.sigma: claim for claim in row.claim.noise}
    by_sigma[6.0] = by_sigma[8.0]  # the paper's text says 6 where its table says 8
    by_sigma = dict(sorted(by_sigma.items()))
    tables = {}
    for fold, published in enumerate(evidence.published.datasets[row.recipe.dataset].fold_images):
        if runs := of_fold(row.image, fold):
            tables[_fold_title(fold, published, runs)] = _beside_claims(runs, by_sigma, [fold])
        if runs := of_fold(row.full, fold):
            tables[f"Fold {fold}, {full_length(row, runs)}"] = _beside_claims(runs, by_sigma, [fold])
    if row.image and len(row.image.folds) > 1:
        title = f"Folds {', '.join(map(str, row.image.folds))} together"
        tables[title] = _beside_claims(row.image, by_sigma, row.image.folds)
    return tables


def _fold_title(fold: int, published: int, runs: RunSet) -> str:
    """How many images were tested, how much of the published fold is available, and labels from a single group."""
    images = runs.first.images
    names = enumerate(runs.first.label_names)
    alone = [name for i, name in names if len(np.unique(runs.groups[runs.label == i])) == 1]
    note = "".join(f"; its {name} images are of one group, so intervals lack their spread" for name in alone)
    return f"Fold {fold}: {images['test']:,} test images, {sum(images.values()):,} of its {published:,} at hand{note}"


def _beside_claims(runs: RunSet, by_sigma: Mapping[float, NoiseClaim], folds: Sequence[int]) -> dict[str, Any]:
    """`lines`: sigma, and the claim averaged over the folds and our score (None where undefined) for accuracy and AUC;
    `near`: of each measured accuracy, whether it is near the claim."""
    lines, near = [], []
    for sigma, claim in by_sigma.items():
        both = []
        for name, values in (("accuracy", claim.accuracy), ("auroc", claim.auc)):
            claimed = float(np.mean([values[fold] for fold in folds]))
            ours = scores(runs, sigma)[name] if sigma in runs.sigmas else None
            both.append((claimed, None if ours is None or np.isnan(ours.value) else ours))
        lines.append((sigma, both))
        claimed, ours = both[0]
        near += [abs(ours.value - claimed) <= NEAR] if ours else []
    return {"lines": lines, "near": near}
