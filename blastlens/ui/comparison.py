"""The tab "Compare systems": published systems beside the models of this page.

All figures come from `results/comparison.json` and the models' metrics.json; `templates/comparison.html` turns them
into HTML.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from ..metrics import Bin, constant_weighted_f1
from ..model_folder import ModelFolder
from ..published_systems import Comparison, System
from ..wording import percent
from .endpoints import QUIET
from .model_registry import Shelf
from .plots import Series, line_chart, reliability_diagram
from .rendering import render

MAX_LINES = 6  # beside the model's and the constant prediction's; more than eight would look alike
_macro = partial(render, "comparison.html")


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    record = Comparison.load()
    folders = [classifier.folder for classifier in shelf.classifiers.values()]
    data_sets = [(one.title, name) for name, one in record.datasets.items()] if record else []

    def systems(dataset: str | None) -> str:
        return systems_html(record, dataset, folders) if record and dataset else ""

    def noise(folder: ModelFolder, names: Sequence[str]) -> tuple[str, str]:
        lines = noise_lines(record, folder, names)
        return noise_html(lines), noise_table(lines)

    def view(folder: ModelFolder) -> tuple[Any, ...]:
        """Values of all components that depend on the model; of the dropdown, its choices and value."""
        others = [(system.title, system.name) for system in others_of(record, folder)]
        names = [name for _, name in others[:MAX_LINES]]
        dataset = record.dataset_of(folder.known_labels) if record else None
        dropdown = {"choices": others, "value": names, "visible": bool(others)}
        return dataset, systems(dataset), dropdown, *noise(folder, names), model_html(folder)

    def follow(name: str) -> tuple[Any, ...]:
        dataset, shown, dropdown, *rest = view(shelf.classifier(name).folder)
        return dataset, shown, gr.Dropdown(**dropdown), *rest

    def draw(name: str, names: list[str]) -> tuple[str, str]:
        return noise(shelf.classifier(name).folder, names)

    dataset, shown, dropdown, curves, numbers, own = view(shelf.first.folder)
    with gr.Group():
        gr.HTML(_macro("opening", record), padding=True)
        data_set = gr.Dropdown(data_sets, value=dataset, label="Data set", visible=record is not None)
        published = gr.HTML(shown, padding=True)
    if record is not None:
        with gr.Accordion("Protocols of the papers", open=False):
            gr.HTML(_macro("papers", record), padding=True)
    with gr.Group():
        gr.HTML(_macro("noise_opening"), padding=True)
        wanted = gr.Dropdown(multiselect=True, max_choices=MAX_LINES, label="Compare with", **dropdown)
        drawn = gr.HTML(curves, padding=True)
    with gr.Accordion("Weighted F1 by noise level", open=False):
        by_sigma = gr.HTML(numbers, padding=True)
    with gr.Group():
        itself = gr.HTML(own, padding=True)
    with gr.Accordion("Speed and size", open=False):
        gr.HTML(_macro("speed", record, folders), padding=True)
    quiet = QUIET | {"trigger_mode": "always_last"}  # by default Gradio ignores input while an answer is pending
    model.change(follow, model, [data_set, published, wanted, drawn, by_sigma, itself], **quiet)
    data_set.input(systems, data_set, published, **quiet)
    wanted.input(draw, [model, wanted], [drawn, by_sigma], **quiet)


def recipe_of(folder: ModelFolder) -> str | None:
    """The name of the recipe a model was trained with."""
    return ((folder.metrics.get("training") or {}).get("recipe") or {}).get("name")


def systems_html(record: Comparison, dataset: str, folders: Sequence[ModelFolder] = ()) -> str:
    """The systems of a data set, those with measurements first; systems of models on this page are marked.

    A chart compares their image-level and group-disjoint accuracy.
    """
    return _macro("systems", record, dataset, {recipe_of(folder): folder.model_id for folder in folders})


def noise_lines(record: Comparison | None, folder: ModelFolder, names: Sequence[str]) -> list[Series]:
    """Weighted F1 by sigma: the model with its interval, the systems of `names`, and the constant prediction."""
    lines = []
    if protocol := folder.protocol():
        sigmas = [row["sigma"] for row in protocol["by_sigma"]]
        ends = ([row["weighted_f1"][end] for row in protocol["by_sigma"]] for end in ("value", "low", "high"))
        lines.append(Series(f"{folder.model_id} (this model)", sigmas, *ends))
    for system in others_of(record, folder):
        if system.noise and system.name in names:
            scores = [score.value for score in system.noise.weighted_f1]
            lines.append(Series(system.title, system.noise.sigmas, scores))
    name = record.dataset_of(folder.known_labels) if record else None
    share = record.datasets[name].most_frequent_share if record and name else None
    if lines and share:
        lines.append(Series("constant prediction", (0, 100), (constant_weighted_f1(share),) * 2))
    return lines


def noise_html(lines: Sequence[Series]) -> str:
    """The chart of `noise_lines`."""
    if not lines:
        return "<p>The robustness of this model to noise was not measured.</p>"
    one = lines[0]
    return line_chart(
        lines,
        x_label="noise (sigma)",
        y_label="weighted F1, group-disjoint",
        x_range=(0, max(x for line in lines for x in line.xs)),
        y_range=(0, 1),
        percent=False,
        description=f"{one.name}: {one.ys[0]:.2f} without noise, {one.ys[-1]:.2f} at sigma {one.xs[-1]:g}.",
    )


def noise_table(lines: Sequence[Series]) -> str:
    """The values of `noise_lines`, one column for each sigma."""
    sigmas = sorted({x for line in lines for x in line.xs})
    values = {line.name: dict(zip(line.xs, line.ys, strict=True)) for line in lines}
    rows = {name: [f"{at[sigma]:.2f}" if sigma in at else "" for sigma in sigmas] for name, at in values.items()}
    return _macro("noise_table", rows, [f"{sigma:g}" for sigma in sigmas])


def others_of(record: Comparison | None, folder: ModelFolder) -> list[System]:
    """Systems for the model's kind of image with a noise curve, best first, without the model itself."""
    name = record.dataset_of(folder.known_labels) if record else None
    if record is None or name is None:
        return []
    known = [(s.noise.weighted_f1[0].value, s) for s in record.of(name) if s.noise and s.name != recipe_of(folder)]
    return [system for _, system in sorted(known, key=lambda item: -item[0])]


def model_html(folder: ModelFolder) -> str:
    """Reliability diagram and confusion matrix of a model."""
    protocol = folder.protocol()
    bins = [Bin(**one) for one in protocol["reliability"]] if protocol else []
    diagram = reliability_diagram(bins, description=_reliability_text(bins)) if bins else ""
    return _macro("model", folder, protocol, folder.dataset, Markup(diagram))


def _reliability_text(bins: Sequence[Bin]) -> str:
    fullest, total = max(bins, key=lambda one: one.count), sum(one.count for one in bins)
    return (
        f"Bars on the dashed line mean calibrated probabilities. {fullest.count:,} of {total:,} predictions have a "
        f"confidence of {percent(fullest.low)} to {percent(fullest.high)}: {percent(fullest.confidence, 1)} on "
        f"average, accuracy {percent(fullest.accuracy, 1)}."
    )
