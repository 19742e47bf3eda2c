"""The tab on how far a model can be trusted: every claim with its protocol, its interval, and what could refute it.

No number is written here: all come from the model folder's metrics.json and gate.json. A part that was not measured is
named as such.
"""

import json
from collections.abc import Callable, Mapping
from html import escape
from typing import Any

import gradio as gr

from ..model_folder import ModelFolder
from .model_registry import Shelf, refusals
from .trust_answers import calibration_html, operating_html, sets_html, silence_html
from .trust_checks import caught, gate_html, passed, patients_html, people_line, probes_html
from .trust_flaws import flaws_html, headline
from .trust_values import score
from .words import headline_of, main_score, task_of, term

Record = Mapping[str, Any]
# What a record of another version of this project may lack, or hold otherwise.
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError, StopIteration, ZeroDivisionError)
# Gradio gives its pages a base address, against which a plain "#part" would load the page anew.
LEAD = """element.addEventListener("click", event => {
  const link = event.target.closest("a[href^='#']"), part = link && element.querySelector(link.getAttribute("href"));
  if (!part) return;
  event.preventDefault();
  part.scrollIntoView();
  part.querySelector("h2").focus({preventScroll: true});
})"""


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    with gr.Group():
        shown = gr.HTML(trust_html(shelf.first.folder), padding=True, js_on_load=LEAD)

    def follow(chosen: str) -> str:
        with refusals():
            return trust_html(shelf.classifier(chosen).folder)

    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    model.change(follow, model, shown, trigger_mode="always_last", **quiet)


def trust_html(folder: ModelFolder) -> str:
    """The whole tab for a model: in short, then part by part, and last what was not measured."""
    metrics, measured = folder.metrics, _gate(folder)
    protocol = folder.protocol()
    if protocol is None and not measured:
        return (
            f'<div class="trust"><h2>{escape(folder.model_id)}: how far can it be trusted?</h2><p>This page knows of '
            "no measurement on people it never saw. Until there is one, its answers mean nothing.</p></div>"
        )
    recorded = metrics.get("calibration")
    calibration = recorded if isinstance(recorded, dict) else {}
    parts: list[tuple[str, str, Any, Callable[[Any], str]]] = [
        ("What becomes of it as images get worse", "robustness", metrics.get("robustness"), flaws_html),
        ("Can its percentages be believed?", "calibration", recorded, calibration_html),
        ("Where it is unsure", "silence", calibration if calibration.get("risk_coverage") else None, silence_html),
        ("Set to miss few", "operating point", calibration.get("operating_point"), operating_html),
        ("More than one answer", "prediction sets", calibration.get("prediction_sets"), sets_html),
        ("Right for the right reason?", "shortcut probes", metrics.get("probes"), probes_html),
        ("People, not cells", "whole people", metrics.get("patients"), patients_html),
        ("Does it notice what is not its kind of image?", "input check", measured, gate_html),
    ]
    sections, lacking = [], []
    for title, name, record, render in parts:
        if not record:
            lacking.append(name)
            continue
        rendered = _rendered(render, record)
        sections.append(f'<section id="{_place(name)}"><h2 tabindex="-1">{escape(title)}</h2>{rendered}</section>')
    return (
        f'<div class="trust">{_opening(folder)}{_short(folder, measured)}{"".join(sections)}{_lacking(lacking)}</div>'
    )


def _place(name: str) -> str:
    """What a link within the page calls a part."""
    return f"trust-{name.replace(' ', '-')}"


def _rendered(render: Callable[[Any], str], record: Any) -> str:
    try:
        return render(record)
    except _DAMAGED:
        return "<p>The model's record of this is in a form that this page does not know, so it is not shown.</p>"


def _opening(folder: ModelFolder) -> str:
    protocol = folder.protocol()
    on = "" if protocol is None else f" on {escape(task_of(folder).unseen)} ({term('group-disjoint')})"
    return (
        f"<h2>{escape(folder.model_id)}: how far can it be trusted?</h2><p>Where it holds, and where it does not: "
        f"measured{on}, with the {term('95 % interval')} in brackets.</p>"
    )


def _short(folder: ModelFolder, measured: Record | None) -> str:
    """The most important figure of each part, as tiles."""
    metrics = folder.metrics
    found: list[tuple[str, Any, Callable[[Any], tuple[str, str]]]] = [
        ("", folder.protocol(), lambda record: _unseen(record, folder)),
        ("robustness", metrics.get("robustness"), headline),
        ("calibration", metrics.get("calibration"), _believed),
        ("shortcut probes", metrics.get("probes"), passed),
        ("whole people", metrics.get("patients"), people_line),
        ("input check", measured, caught),
    ]
    tiles = []
    for name, record, tell in found:
        try:
            figure, words = tell(record) if record else ("", "")
        except _DAMAGED:  # its part says so
            continue
        if figure:
            tile = f"<b>{escape(figure)}</b><span>{escape(words)}</span>"
            tiles.append(f'<li><a href="#{_place(name)}">{tile}</a></li>' if name else f"<li>{tile}</li>")
    return f'<ul class="tiles">{"".join(tiles)}</ul>' if tiles else ""


def _unseen(protocol: Record, folder: ModelFolder) -> tuple[str, str]:
    name, figures = main_score({"headline": headline_of(protocol)})
    one = score(figures)
    return (f"{one.value:.2f}" if one else ""), f"{name} on {task_of(folder).unseen}"


def _believed(record: Record) -> tuple[str, str]:
    one = score(record["ece"])
    return (f"{100 * one.value:.1f}" if one else ""), "points of a hundred its stated probabilities are off, on average"


def _lacking(names: list[str]) -> str:
    if not names:
        return ""
    return (
        f'<p class="quiet">Not measured of this model, or without meaning for its data: {escape(", ".join(names))}.</p>'
    )


def _gate(folder: ModelFolder) -> Record | None:
    """What was measured of the input check; None where the folder has none, or nothing was."""
    file = folder.path / "gate.json"
    if folder.gate is None or not file.is_file():
        return None
    measured = json.loads(file.read_text(encoding="utf-8")).get("measured")
    return measured if isinstance(measured, dict) else None
