"""The report of an external validation as HTML: on the page, and as one file that needs no network and no script."""

import math
from collections.abc import Sequence
from datetime import datetime

from markupsafe import Markup

from ..external_validation import REPLICATES, Evaluation
from ..folder_labels import accepted
from ..metrics import Interval
from ..model_folder import ModelFolder
from ..predictions import DISCLAIMER
from ..validation_summary import caveats, conclude
from ..wording import with_interval
from .plots import Series, line_chart, reliability_diagram
from .rendering import ENVIRONMENT, TEMPLATES, render
from .words import MEANINGS, term

STYLES = ("validation.css", "plots.css")
MAX_REFUSED = 200
# Names of scores, explained in words.MEANINGS; those in _DECIMAL are printed as 0.85, the others as 85 %.
NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "auroc": "AUROC",
    "ece": "calibration error",
}
_DECIMAL = ("weighted_f1", "auroc", "ece")
_RECALL = "Of the images of this class, the share that was classified correctly."


def body(evaluation: Evaluation, folder: ModelFolder) -> str:
    """The report as an HTML fragment, styled by `STYLES`."""
    return render(
        "report.html",
        "report",
        {
            "e": evaluation,
            "task": folder.dataset,
            "conclusion": conclude(evaluation),
            "caveats": caveats(evaluation),
            "reliability": Markup(reliability_diagram(evaluation.bins, description=_reliability_text(evaluation))),
            "noise_chart": Markup(_noise_chart(evaluation)),
            "refused": evaluation.refused[:MAX_REFUSED],
            "replicates": REPLICATES,
        },
    )


def standalone(evaluation: Evaluation, folder: ModelFolder, given: str, when: datetime) -> str:
    """The report as one HTML file.

    Args:
        evaluation: the figures.
        folder: the model.
        given: name of the zip with the images.
        when: time of the validation.
    """
    task, used = folder.dataset, {one.name for one in evaluation.scores}
    origin = {
        "Images": given,
        "Model": folder.model_id + (f" at revision {folder.revision}" if folder.revision else ""),
        "Question": task.question,
        "Input": task.input_description,
        "Date": f"{when:%d %B %Y, %H:%M} UTC",
    }
    return render(
        "report.html",
        "standalone",
        Markup(body(evaluation, folder)),
        origin,
        Markup("".join((TEMPLATES.parent / name).read_text(encoding="utf-8") for name in STYLES)),
        DISCLAIMER,
        task.citation if task.known else "",
        {name: MEANINGS[name] for name in (*(NAMES[key] for key in NAMES if key in used), "95 % interval")},
    )


def how_to_prepare(label_names: Sequence[str]) -> str:
    """HTML: the layout of a zip of labelled images, with the folders of these labels."""
    return render("report.html", "how_to_prepare", label_names, accepted(label_names))


def _name(score: str) -> Markup:
    name = NAMES.get(score, score)
    return Markup(term(name, MEANINGS.get(name, _RECALL)))


def _cell(score: Interval | None, name: str, signed: bool = False) -> str:
    if name in _DECIMAL:
        return with_interval(score, signed=signed)
    return with_interval(score, 0, 100, " points" if signed else " %", signed)


def _reliability_text(e: Evaluation) -> str:
    confidence = sum(one.confidence * one.count for one in e.bins) / e.images
    return (
        f"Mean confidence {100 * confidence:.0f} %, accuracy {100 * e.right / e.images:.0f} %. Bars on the dashed line "
        "mean calibrated probabilities, bars below it overconfidence."
    )


def _noise_chart(e: Evaluation) -> str:
    name = "weighted_f1" if "weighted_f1" in e.noise[0].here else "accuracy"
    series = []
    for title, levels in (("here", [x.here for x in e.noise]), ("published", [x.published for x in e.noise])):
        found = [(x.sigma, scores[name]) for x, scores in zip(e.noise, levels, strict=True) if name in scores]
        if found:
            lows = [score.value if math.isnan(score.low) else score.low for _, score in found]
            highs = [score.value if math.isnan(score.high) else score.high for _, score in found]
            series.append(Series(title, [sigma for sigma, _ in found], [s.value for _, s in found], lows, highs))
    first, last = (_cell(Interval(series[0].ys[end]), name) for end in (0, -1))
    return line_chart(
        series,
        x_label="noise (sigma)",
        y_label=NAMES[name],
        x_range=(0, e.noise[-1].sigma),
        y_range=(0, 1),
        description=f"{first} without noise, {last} at sigma {series[0].xs[-1]:g} here. Bands are 95 % intervals.",
        percent=name not in _DECIMAL,
    )


ENVIRONMENT.filters |= {"cell": _cell, "score_name": _name}
