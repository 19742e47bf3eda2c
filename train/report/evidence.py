"""What the papers show beside one score: learning curves, ROC curves, confusion matrices and scores of each class.

Rendered from recorded runs as the page `results/EVIDENCE.md` and its figures.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from blastlens.images import open_image
from blastlens.metrics import PER_CLASS, one_hot
from train.datasets import dataset_hash, load_rows
from train.report import figures
from train.report.measured import RunSet, scores
from train.report.systems import Evidence, SystemRow
from train.report.templates import filled
from train.results import LEVELS

NOISE = (0.0, 5.0, 10.0)  # sigmas of the table of classes, which P4's tables 6 to 8 have, too
ROC_POINTS = 101
SHEET = 12  # images on a sheet of sample predictions


def page(evidence: Evidence) -> str:
    """The text of EVIDENCE.md."""
    rows = {name: [row for row in evidence.of(name) if row.measured] for name in evidence.published.datasets}
    drawn = drawings(evidence)
    return filled("EVIDENCE", evidence=evidence, rows=rows, drawn=drawn, levels=LEVELS, class_lines=class_lines)


def drawings(evidence: Evidence) -> dict[str, Figure]:
    """The figures of the page by name, of each data set with measured systems."""
    found = {}
    for name in evidence.published.datasets:
        rows = [row for row in evidence.of(name) if row.measured]
        for kind, draw, panel in (
            ("learning", figures.learning, learning_curves),
            ("roc", figures.roc, roc_curves),
            ("confusion", figures.confusion, confusion_matrices),
        ):
            if panels := _panels(rows, panel):
                found[f"{kind}_{name}"] = draw(panels)
    families = [row for row in evidence.rows if row.recipe.paper == "P2" and row.measured]
    if families:
        found["families"] = figures.bars({row.title: mean_scores(row) for row in families})
    return found


def sample_sheets(evidence: Evidence, data: Path) -> dict[str, Figure]:
    """By system and level: evenly spaced test images of the first recorded fold, with their predictions.

    The sheets show images of the data set, so they are for the machine that has it and are not part of `results/`.

    Args:
        data: a prepared dataset; systems of other images are left out.
    """
    rows = load_rows(data)
    digest, sheets = dataset_hash(rows), {}
    for row in evidence.rows:
        for level, runs in row.measured.items():
            run = runs.first
            if run.dataset["hash"] != digest:
                continue
            chosen = np.linspace(0, len(run.index) - 1, SHEET).round().astype(int)
            clean = run.probabilities[run.sigmas.index(0.0)]
            shown = [
                (
                    open_image(data / rows[run.index[i]].file_name),
                    run.label_names[run.label[i]],
                    run.label_names[clean[i].argmax()],
                    float(clean[i].max()),
                )
                for i in chosen
            ]
            title = f"{row.title}, {LEVELS[level]}: predicted class and its probability"
            sheets[f"{row.name}-{level}"] = figures.samples(title, shown)
    return sheets


def _panels(rows: Sequence[SystemRow], panel: Callable[[RunSet], Any]) -> dict[str, dict[str, Any]]:
    """By system and level, what a panel shows; levels and systems of which nothing is known are left out."""
    found = {row.title: {level: panel(runs) for level, runs in row.measured.items()} for row in rows}
    kept = {title: {level: one for level, one in of.items() if one is not None} for title, of in found.items()}
    return {title: of for title, of in kept.items() if of}


def learning_curves(runs: RunSet) -> dict[str, np.ndarray] | None:
    """Columns by epoch of the first recorded run, (E,) each: epoch, loss, accuracy, val_loss and val_accuracy, NaN
    where there was no validation part; None where no curve was recorded."""
    curve = runs.first.curve
    return {name: np.array([row[name] for row in curve], float) for name in curve[0]} if curve else None


def roc_curves(runs: RunSet) -> np.ndarray:
    """(2, T) false and true positive rates, the mean of the runs' curves: of ALL where there are two classes, else of
    all classes, one against the rest, pooled. Runs are not pooled, since their probabilities are not calibrated."""
    from sklearn.metrics import roc_curve  # takes seconds

    false = np.linspace(0, 1, ROC_POINTS)
    curves = []
    for run in runs.runs:
        probability = run.probabilities[run.sigmas.index(0.0)]
        truth = one_hot(run.label, len(run.label_names))
        if runs.positive is not None:
            probability, truth = probability[:, runs.positive], truth[:, runs.positive]
        curves.append(np.interp(false, *roc_curve(truth.ravel(), probability.ravel())[:2]))
    return np.stack([false, np.mean(curves, axis=0)])


def confusion_matrices(runs: RunSet) -> tuple[np.ndarray, Sequence[str]]:
    """(C, C) shares of each true class that are predicted as each class, and the names of the classes."""
    counts = np.array(scores(runs)["confusion_matrix"], float)
    return counts / counts.sum(axis=1, keepdims=True).clip(1), runs.first.label_names


def mean_scores(row: SystemRow) -> dict[str, dict[str, float]]:
    """By level: accuracy, and precision, recall and F1 averaged over the classes."""
    found = {}
    for level, runs in row.measured.items():
        mine = scores(runs)
        means = {name: np.mean([one[name].value for one in mine["per_class"].values()]) for name in PER_CLASS}
        found[level] = {"accuracy": mine["accuracy"].value, **means}
    return found


def class_lines(row: SystemRow, level: str) -> list[tuple[str, list[Any]]]:
    """By class: precision, recall and F1 at each sigma of `NOISE`, None where it was not tested."""
    runs = row.measured[level]
    by_sigma = [scores(runs, sigma)["per_class"] if sigma in runs.sigmas else None for sigma in NOISE]
    return [
        (label, [one and one[label][name] for one in by_sigma for name in PER_CLASS])
        for label in runs.first.label_names
    ]
