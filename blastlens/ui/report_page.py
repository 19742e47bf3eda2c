"""An evaluation on images of one's own as HTML: for the page, and as one file that stands alone.

No script, nothing from the network, and whatever came from a visitor is escaped. Pure functions, no Gradio.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..classifier import DISCLAIMER
from ..external_validation import REPLICATES, Evaluation, NoiseLevel, Score, ScorePair
from ..folder_labels import Reading, accepted
from ..model_folder import ModelFolder
from ..validation_summary import caveats, verdict
from ..wording import count, percent
from . import plots
from .plots import Series
from .words import MEANINGS, task_of, term

HERE = Path(__file__).parent
# A list longer than this helps nobody; the rest is counted.
MAX_REFUSED = 200

# Score -> its name on the page, explained in words.MEANINGS. Those in _DECIMAL are shown as 0.85, the others as 85 %.
WORDS = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "auroc": "AUROC",
    "ece": "calibration error",
}
_DECIMAL = ("weighted_f1", "auroc", "ece")
_RECALL = "Of the images of this class, the share that was answered right."
_NONE = "\N{EN DASH}"

_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
# A line must not break between a number and its %.
_TEMPLATES.filters["tight"] = lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%")


@dataclass(frozen=True)
class Shown:
    """A value and its interval as they stand in a table."""

    value: str
    ends: str = ""


def body(evaluation: Evaluation, folder: ModelFolder) -> str:
    """The findings as an HTML fragment; its classes are styled by `validation.css` and `plots.css`."""
    titles, rows = _noise_table(evaluation)
    return _TEMPLATES.get_template("report_body.html").render(
        e=evaluation,
        verdict=verdict(evaluation),
        caveats=caveats(evaluation),
        figures=_figures(evaluation),
        scores=[_row(one) for one in evaluation.scores],
        published_text=_published_text(evaluation, folder),
        confusion=Markup(plots.confusion_table(evaluation.confusion, evaluation.label_names)),
        reliability=Markup(plots.reliability_diagram(evaluation.bins, description=_reliability_text(evaluation))),
        noise_charts=[Markup(chart) for chart in _noise_charts(evaluation)],
        noise_titles=titles,
        noise_rows=rows,
        gate_text=_gate_text(evaluation),
        remarks=[(text, count(images, "image")) for text, images in evaluation.remarks],
        left_out_text=_left_out_text(evaluation),
        refused=evaluation.refused[:MAX_REFUSED],
        refused_more=max(0, len(evaluation.refused) - MAX_REFUSED),
        readings=[_reading_text(one) for one in evaluation.labelled.readings],
        meanings=[f"{label} means {text}." for label, text in task_of(folder).meanings.items()],
        people_text=_people_text(evaluation),
        replicates=f"{REPLICATES:,}",
    )


def standalone(evaluation: Evaluation, folder: ModelFolder, given: str, when: datetime) -> str:
    """The report as one HTML file.

    Args:
        evaluation: the findings.
        folder: the model they are about.
        given: what the images came as, such as a zip's name.
        when: it was made.
    """
    task = task_of(folder)
    used = {one.name for one in evaluation.scores}
    words = [(name, MEANINGS[name]) for key, name in WORDS.items() if key in used]
    origin = [
        ("Images", given),
        ("Model", folder.model_id + (f" at revision {folder.revision}" if folder.revision else "")),
        ("Asked", task.question),
        ("Made for", task.input_description),
        ("Date", f"{when:%d %B %Y, %H:%M} UTC"),
    ]
    return _TEMPLATES.get_template("report.html").render(
        title="Does the model hold on these images?",
        styles=Markup((HERE / "validation.css").read_text(encoding="utf-8") + plots.STYLES),
        origin=origin,
        disclaimer=DISCLAIMER,
        body=Markup(body(evaluation, folder)),
        words=[*words, ("95 % interval", MEANINGS["95 % interval"])],
        credit=f"Training data: {task.citation}." if task.known else "",
    )


def how_to_prepare(label_names: Sequence[str]) -> str:
    """HTML: what a zip of labelled images looks like, with the folders of these labels."""
    first, *others = label_names
    folders = "".join(f"  {label}/  ...\n" for label in others)
    tree = f"my-slides.zip\n  {first}/\n    donor 1/  cell 1.png, cell 2.png, ...\n    donor 2/  ...\n{folders}"
    return (
        '<div class="prepare"><h2 class="heading">How to prepare your images</h2>'
        "<p>Zip one folder per class, and in it one folder per person:</p>"
        f'<pre tabindex="0" role="region" aria-label="An example">{Markup.escape(tree)}</pre>'
        f"<p>Class folders may be called {Markup.escape(accepted(label_names))}.</p>"
        "<p>Instead of folders, a CSV table in the zip may say it: columns <code>file_name</code>, <code>label</code>, "
        "<code>subject</code>. Without people it works too, but then nobody can tell how far to trust the figures.</p>"
        "</div>"
    )


def _row(one: ScorePair) -> dict[str, Any]:
    name = WORDS.get(one.name) or one.name.replace("recall of ", "share found of ")
    decimal = one.name in _DECIMAL
    return {
        "term": Markup(term(name, MEANINGS.get(name, _RECALL))),
        "here": _shown(one.here, decimal),
        "published": _shown(one.published, decimal),
        "difference": _shown(one.difference, decimal, signed=True),
        "always": _NONE if one.always is None else _number(one.always, decimal),
    }


def _shown(score: Score | None, decimal: bool, signed: bool = False) -> Shown:
    if score is None:
        return Shown(_NONE)
    value = _number(score.value, decimal, signed)
    if score.low is None or score.high is None:
        return Shown(value)
    low, high = (_number(end, decimal, signed, unit=False) for end in (score.low, score.high))
    return Shown(value, f"({low} to {high})")


def _number(value: float, decimal: bool, signed: bool = False, unit: bool = True) -> str:
    text = f"{value:+.2f}" if decimal else f"{100 * value:+.0f}"
    if not signed or not float(text):
        text = text.lstrip("+-")
    units = "" if decimal or not unit else " points" if signed else " %"
    return text.replace("-", "\N{MINUS SIGN}") + units


def _figures(evaluation: Evaluation) -> list[tuple[str, str]]:
    figures = [(f"{evaluation.images:,}", "image" if evaluation.images == 1 else "images")]
    figures += [(f"{number:,}", label) for label, number in evaluation.counts.items()]
    people = "person" if evaluation.subjects == 1 else "people"
    figures.append((f"{evaluation.subjects:,}", people) if evaluation.subjects else ("?", "people, unknown"))
    if evaluation.left_out:
        figures.append((f"{evaluation.left_out:,}", "left out"))
    if evaluation.gate:
        figures.append((percent(evaluation.gate.unlike / evaluation.images), "look unfamiliar to it"))
    return figures


def _published_text(evaluation: Evaluation, folder: ModelFolder) -> str:
    there = evaluation.published
    if there is None:
        return ""
    size = count(there.images, "image") if there.images else "images"
    if there.groups:
        size += f" in {count(there.groups, 'group')} of people or slides"
    if there.by_group:
        return f"Published: protocol {there.protocol}, on {size}; {task_of(folder).unseen}."
    return f"Published: protocol {there.protocol}, image-level, on {size}."


def _reliability_text(evaluation: Evaluation) -> str:
    sure = sum(one.confidence * one.count for one in evaluation.bins) / evaluation.images
    right = sum(one.accuracy * one.count for one in evaluation.bins) / evaluation.images
    return (
        f"On average it was {percent(sure)} sure and {percent(right)} right. Bars on the dashed line would mean "
        "that its confidence can be taken at its word; bars below it, that it is too sure of itself."
    )


def _noise_charts(evaluation: Evaluation) -> list[str]:
    drawn = []
    for name, title in (("weighted_f1", "weighted F1"), ("accuracy", "accuracy")):
        series = [_series("here", evaluation.noise, name, published=False)]
        series.append(_series("published", evaluation.noise, name, published=True))
        if not series[0].xs:
            continue
        first, last = (_number(series[0].ys[end], name in _DECIMAL) for end in (0, -1))
        text = f"Here {title} goes from {first} without noise to {last} at sigma {series[0].xs[-1]:g}. "
        text += "Bands are 95 % intervals."
        drawn.append(
            plots.line_chart(
                [one for one in series if one.xs],
                x_label="noise (sigma)",
                y_label=title,
                x_range=(0, evaluation.noise[-1].sigma),
                y_range=(0, 1),
                description=text,
                percent=name not in _DECIMAL,
            )
        )
    return drawn


def _series(title: str, noise: Sequence[NoiseLevel], name: str, published: bool) -> Series:
    found = [
        (level.sigma, score) for level in noise if (score := (level.published if published else level.here).get(name))
    ]
    return Series(
        title,
        [sigma for sigma, _ in found],
        [score.value for _, score in found],
        [score.value if score.low is None else score.low for _, score in found],
        [score.value if score.high is None else score.high for _, score in found],
    )


def _noise_table(evaluation: Evaluation) -> tuple[list[str], list[dict[str, Any]]]:
    columns = []
    for name, title in (("weighted_f1", "weighted F1"), ("accuracy", "accuracy")):
        for published in (False, True):
            if any(name in (level.published if published else level.here) for level in evaluation.noise):
                columns.append((name, published, f"{title}, {'published' if published else 'here'}"))
    rows = [
        {
            "sigma": f"{level.sigma:g}",
            "cells": [
                _shown((level.published if published else level.here).get(name), name in _DECIMAL)
                for name, published, _ in columns
            ],
        }
        for level in evaluation.noise
    ]
    return [title for *_, title in columns], rows


def _gate_text(evaluation: Evaluation) -> str:
    gate = evaluation.gate
    if gate is None:
        return ""
    if not gate.unlike:
        return "The input check finds nothing unusual: all images look like the kind this model learned from."
    text = (
        f"The input check finds {gate.unlike:,} of {count(evaluation.images, 'image')} unlike those this model learned "
        f"from ({gate.unlike_right:,} of them answered right"
    )
    text += f"; of the others {gate.fitting_right:,} of {gate.fitting:,})." if gate.fitting else ")."
    for model, images in evaluation.suggested:
        text += f" {images:,} {'looks' if images == 1 else 'look'} like those of {model}."
    return text


def _left_out_text(evaluation: Evaluation) -> str:
    images = count(evaluation.left_out, "image is", "images are")
    return f"{images} not counted. A folder that is no class stands here once; so does any file that is no image."


def _reading_text(one: Reading) -> str:
    return f"{one.name}{f' as {one.label}' if one.by_synonym else ''} ({one.images:,})"


def _people_text(evaluation: Evaluation) -> str:
    if not evaluation.subjects:
        return "Nothing says whose the images are; each counts as a person of its own."
    text = f"People were told apart by {evaluation.labelled.subjects_by}; one name is one person, wherever it stands."
    if evaluation.unnamed:
        alone = "counts by itself" if evaluation.unnamed == 1 else "count by themselves"
        text += f" {count(evaluation.unnamed, 'image')} without a person {alone}."
    return text
