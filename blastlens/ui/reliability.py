"""The tab "Reliability": a summary of one screen, and one accordion for each group of recorded measurements.

All figures come from the model folder's metrics.json and gate.json, which may have been written by anyone: a damaged
part hides only itself. `templates/reliability.html` turns each of them into HTML.
"""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import gradio as gr
from jinja2 import UndefinedError
from markupsafe import Markup

from .. import external_result
from ..dataset_info import OOD_TEST_IMAGES
from ..metrics import Interval
from ..model_folder import ModelFolder
from ..noise import MAX_SIGMA
from ..wording import listed, percent
from .endpoints import QUIET
from .model_registry import Shelf
from .plots import Series, line_chart
from .rendering import ENVIRONMENT, render

Record = Mapping[str, Any]
# Macros of the template, and where in `_measured` their records are.
SECTIONS = {
    "Robustness to corruptions": ("robustness", ("metrics", "robustness")),
    "Calibration": ("calibration", ("metrics", "calibration")),
    "Selective prediction": ("selective", ("metrics", "calibration")),
    "Operating point": ("operating_point", ("metrics", "calibration", "operating_point")),
    "Prediction sets": ("prediction_sets", ("metrics", "calibration", "prediction_sets")),
    "Shortcut probes": ("probes", ("metrics", "probes")),
    "Patients": ("patients", ("metrics", "patients")),
    "External validation": ("external", ("metrics", "external")),
    "Out-of-distribution detection": ("ood", ("ood",)),
}
SUMMARY = {
    "On unseen groups": "unseen_line",
    "External validation": "external_line",
    "Calibration": "calibration_line",
    "With Gaussian noise": "noise_line",
    "Corruptions": "robustness_line",
    "OOD detection": "ood_line",
    "Shortcut probes": "probes_line",
    "Patients": "patients_line",
}
# Raised by records of another version, or by damaged ones.
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError, UndefinedError)
_MAX_LINES = 6
_macro = partial(render, "reliability.html")


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    first = sections(shelf.first.folder)
    with gr.Group():
        outputs: list[Any] = [gr.HTML(summary_html(shelf.first.folder), padding=True)]
    for title in SECTIONS:
        with gr.Accordion(title, open=False, visible=title in first) as accordion:
            outputs += [accordion, gr.HTML(first.get(title, ""), padding=True)]

    def follow(chosen: str) -> list[Any]:
        folder = shelf.classifier(chosen).folder
        found = sections(folder)
        updates: list[Any] = [summary_html(folder)]
        for title in SECTIONS:
            updates += [gr.Accordion(visible=title in found), found.get(title, "")]
        return updates

    model.change(follow, model, outputs, trigger_mode="always_last", **QUIET)


def sections(folder: ModelFolder) -> dict[str, str]:
    """HTML of the sections with measurements of this model, by title."""
    measured, found = _measured(folder), {}
    for title, (macro, path) in SECTIONS.items():
        if record := _at(measured, path):
            try:
                found[title] = _macro(macro, record)
            except _DAMAGED:
                found[title] = _macro("damaged")
    return found


def summary_html(folder: ModelFolder) -> str:
    """The main figure of each measurement, and what was not measured."""
    measured, lines = _measured(folder), []
    for name, macro in SUMMARY.items():
        with suppress(*_DAMAGED):  # not measured, or its section says that it is damaged
            lines.append((name, Markup(_macro(macro, measured))))
    missing = [title for title, (_, path) in SECTIONS.items() if not _at(measured, path)]
    return _macro("summary", folder.model_id, lines, missing, folder.protocol() is not None, folder.dataset.caution)


def _at(record: Any, path: Sequence[str]) -> Any:
    """What is at a path of keys; None if it is not there."""
    for key in path:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def _measured(folder: ModelFolder) -> dict[str, Any]:
    return {
        "metrics": folder.metrics,
        "protocol": folder.protocol(),
        "ood": _ood_record(folder),
        "unseen": folder.dataset.unseen,
    }


def _ood_record(folder: ModelFolder) -> Record | None:
    """The block "measured" of gate.json; None without OOD detection or measurement."""
    file = folder.path / "gate.json"
    if folder.ood_detector is None or not file.is_file():
        return None
    return json.loads(file.read_text(encoding="utf-8")).get("measured")


# What the template calls --------------------------------------------------------------------------------------------


def _by_loss(robustness: Record) -> list[Record]:
    """Corruptions, the greatest loss at the highest severity first."""
    measured = [kind for kind in robustness["kinds"] if kind["severities"][-1]["weighted_f1"]]
    return sorted(measured, key=lambda kind: kind["severities"][-1]["weighted_f1"]["value"])


def _lines_of_corruptions(robustness: Record) -> list[Series]:
    """Weighted F1 by severity; so many bands would hide the lines."""
    lines = []
    for kind in _by_loss(robustness)[:_MAX_LINES]:
        rows = [{"severity": 0, **robustness["clean"]}, *kind["severities"]]
        found = [(row["severity"], row["weighted_f1"]["value"]) for row in rows if row["weighted_f1"]]
        lines.append(Series(kind["title"], *zip(*found, strict=True)))
    return lines


def _noise_chart(by_sigma: Sequence[Record], names: Mapping[str, str], y_label: str) -> Markup:
    """Recorded intervals by sigma; `names` of the lines by key."""
    lines = []
    for key, name in names.items():
        found = [(row["sigma"], one) for row in by_sigma if (one := Interval.from_record(row[key]))]
        values, lows, highs = ([getattr(one, end) for _, one in found] for end in ("value", "low", "high"))
        lines.append(Series(name, [sigma for sigma, _ in found], values, lows, highs))
    return _chart(lines, "noise (sigma)", y_label)


def _chart(lines: Sequence[Series], x_label: str, y_label: str) -> Markup:
    drawn = [line for line in lines if len(line.xs) > 1]
    if not drawn:
        return Markup("")
    ends = listed([f"{one.name} {percent(one.ys[0])} to {percent(one.ys[-1])}" for one in drawn], "and")
    highest = max(y for one in drawn for y in (*one.ys, *(one.highs or ())) if math.isfinite(y))
    chart = line_chart(
        drawn,
        x_label=x_label,
        y_label=y_label,
        x_range=(0, max(max(one.xs) for one in drawn)),
        y_range=(0, 1 if highest > 0.5 else max(0.1, 1.1 * highest)),
        description=f"From left to right: {ends}.",
    )
    return Markup(chart)


ENVIRONMENT.globals |= {
    "external_sentence": lambda metrics: external_result.sentence(metrics).removeprefix("External validation: "),
    "external_caveat": external_result.caveat,
    "external_value": external_result.value,
    "by_loss": _by_loss,
    "lines_of_corruptions": _lines_of_corruptions,
    "Series": Series,
    "chart": _chart,
    "noise_chart": _noise_chart,
    "max_sigma": MAX_SIGMA,
    "other_images": OOD_TEST_IMAGES,
}
