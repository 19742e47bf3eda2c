"""The tab that says what the models are for, what they cannot know, and whose data and ideas they rest on."""

import re
from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from ..classifier import DISCLAIMER
from ..model_folder import ModelFolder
from ..published_systems import Comparison
from .comparison import recipe_of
from .model_registry import Shelf, refusals
from .words import MEANINGS, TASKS, headline_of, main_score, task_of


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    record = Comparison.load()
    folders = [classifier.folder for classifier in shelf.classifiers.values()]
    with gr.Group():
        shown = gr.HTML(about_html(shelf.first.folder, folders, record), padding=True)

    def follow(chosen: str) -> str:
        with refusals():
            return about_html(shelf.classifier(chosen).folder, folders, record)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    model.change(follow, model, shown, trigger_mode="always_last", **quiet)


def about_html(chosen: ModelFolder, folders: Sequence[ModelFolder], record: Comparison | None) -> str:
    """The whole tab; limits are those of the chosen model, in its own figures."""
    parts = [
        _section("What it is for", _USE),
        _section("What it is not for", f"<p><strong>{escape(DISCLAIMER)}</strong></p>{_NOT_FOR}"),
        _section(f"What {chosen.model_id} cannot know", _limits(chosen, record)),
        _section("What happens to your images", _IMAGES),
        _section("Data", _data(folders)),
        _section("The papers", _papers(record)),
        _section("Licence", _LICENCE),
        _section("What the words mean", _glossary()),
    ]
    return f'<div class="about">{"".join(parts)}</div>'


_USE = """<ul>
<li>Learning: see what a screening model answers, what it looks at, and how noise and other flaws of an image
undo it.</li>
<li>Checking: find out whether a model holds on your own labelled slides and scanner, before anybody believes it.</li>
<li>Building: the same models from code, with the same answers, as a starting point for research.</li>
</ul>"""

_NOT_FOR = """<ul>
<li>Finding out whether anybody is ill or well, ruling disease out, choosing or changing a treatment.</li>
<li>Sorting patients or slides, alone or as a second reader.</li>
<li>Other diseases, other kinds of cell, bone marrow, or whole slides; other stains and microscopes until somebody has
measured them there.</li>
<li>Images that may not leave your hospital, unless this page runs inside it.</li>
</ul>"""

_IMAGES = """<p>An image you give goes to the computer that runs this page and to nobody else: no other service is
asked, and nothing learns from it. It is deleted within the hour. The page loads nothing from elsewhere: no fonts, no
analytics, no scripts of third parties. Run it on your own computer, and your images never leave it.</p>"""

_LICENCE = """<p>Code: Apache-2.0. The networks start from ImageNet weights (Apache-2.0) and are trained on the data
above, whose terms are their authors'; ask them before any use beyond research. No image of either data set is part of
this project: the examples that come with it are drawn. How to cite it stands in its file
<code>CITATION.cff</code>.</p>"""


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _limits(folder: ModelFolder, record: Comparison | None) -> str:
    protocol = folder.protocol()
    if protocol is None:
        return (
            "<p>This page knows of no measurement on people it never saw. Until there is one, its answers mean nothing."
            "</p>"
        )
    items = [_how_good(folder, protocol), _worst(protocol)]
    if folder.label_names == ("ALL", "HEM"):
        donors = sum(group["label"] == "HEM" for group in protocol["per_group"])
        items += [
            f"Healthy donors are few: its figures rest on {donors} groups of them, all from one laboratory, with one "
            "way of staining and cells cut out beforehand. What differs from person to person (size, tint, brightness) "
            "and what differs between healthy and leukemic cells is hard to tell apart with so few.",
            "In this data set the same people appear under several names, as identical files or as the same cells "
            "photographed again. We linked those we found and kept them on one side; there may be more.",
        ]
    if recipe_of(folder) == "ours_cnmc2019":
        items.append(
            "Its recipe was chosen by short runs on these same people, so the figure for a new hospital may be lower."
        )
    if "Benign" in folder.label_names:
        items.append(
            "This data set cannot show that a model knows leukemia. It has no patient ids, and each of its classes was "
            f"photographed under its own conditions, so that colour gives them away{_colour_alone(folder, record)}."
        )
    items.append(
        "Its probabilities are calibrated on images like its training images, over all answers together: for one label "
        "alone they can be far too high or too low. Elsewhere they can be sure and wrong."
    )
    items.append("Flaws are simulated on the pixels that the network sees; real scanners differ in other ways too.")
    return f"<ul>{''.join(f'<li>{text}</li>' for text in items)}</ul>"


def _how_good(folder: ModelFolder, protocol: dict[str, Any]) -> str:
    name, score = main_score({"headline": headline_of(protocol)})
    return (
        f"On {escape(task_of(folder).unseen)} its {name} is {score['value']:.2f} (95 % interval "
        f"{score['low']:.2f} to {score['high']:.2f}; {escape(protocol['name'])}, {protocol['n_images']:,} images in "
        f"{escape(str(protocol['n_groups']))} groups)."
    )


def _worst(protocol: dict[str, Any]) -> str:
    """The group with the lowest accuracy; for cells, the healthy donor with the most false alarms."""
    healthy = [group for group in protocol["per_group"] if group["label"] == "HEM"]
    worst = min(healthy or protocol["per_group"], key=lambda group: group["accuracy"])
    if healthy:
        return (
            f"It is not equally good on everybody. Of the cells of the healthy donors {escape(worst['group'])} it "
            f"called only {worst['accuracy']:.0%} healthy; the next person can be like them."
        )
    return (
        f"It is not equally good everywhere: of the images of the worst group, {escape(worst['group'])}, "
        f"{worst['accuracy']:.0%} were right."
    )


def _colour_alone(folder: ModelFolder, record: Comparison | None) -> str:
    name = record.dataset_of(folder.label_names) if record else None
    scores = record.datasets[name].without_network if record and name else {}
    told = (
        f"; {escape(what)} alone, without any network, reaches {score.value:.2f} (95 % interval {score.low:.2f} to "
        f"{score.high:.2f})"
        for what, score in scores.items()
    )
    return "".join(told)


def _data(folders: Sequence[ModelFolder]) -> str:
    tasks = {folder.label_names: TASKS[folder.label_names] for folder in folders if folder.label_names in TASKS}
    items = "".join(
        f"<li><strong>{escape(', '.join(labels))}</strong>: {_linked(task.credit)}. "
        f"{escape(task.looks_at[:1].upper() + task.looks_at[1:])}.</li>"
        for labels, task in tasks.items()
    )
    return f"<ul>{items}</ul>" if items else "<p>Which data these models learned from stands in their cards.</p>"


def _papers(record: Comparison | None) -> str:
    if record is None:
        return (
            "<p>The project reproduces published systems and compares them. This page came without that record (the "
            "project's <code>results</code> folder).</p>"
        )
    items = "".join(
        f"<li><strong>{escape(name)}</strong>: {_linked(paper.citation)}</li>" for name, paper in record.papers.items()
    )
    return (
        f"<p>{record.n_published} systems of these papers are reproduced as recipes; what became of their figures "
        f"stands under <em>Models compared</em>.</p><ul>{items}</ul>"
    )


def _linked(text: str) -> str:
    """HTML: each "doi 10.x/y" leads to what it names."""
    return re.sub(r"\bdoi (10\.\d+/[\w./\-]*\w)", r'<a href="https://doi.org/\1">doi \1</a>', escape(text))


def _glossary() -> str:
    words = (f"<div><dt>{escape(word)}</dt><dd>{escape(text)}</dd></div>" for word, text in MEANINGS.items())
    return f"<dl>{''.join(words)}</dl>"
