"""The tab "Compare systems": published systems beside the models of this page.

All figures come from `results/comparison.json` and the models' metrics.json.
"""

from collections.abc import Sequence
from html import escape
from typing import Any

import gradio as gr

from ..metrics import Bin, Interval, constant_weighted_f1
from ..model_folder import ModelFolder
from ..published_systems import Comparison, Level, System
from ..wording import percent, with_interval
from .model_registry import Shelf
from .plots import IntervalRow, Series, confusion_table, interval_rows, line_chart, reliability_diagram
from .words import task_of, term

MAX_LINES = 6  # beside the model's and the constant prediction's; more than eight would look alike
Table = dict[str, Any]  # headers and data of a gr.Dataframe


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    record = Comparison.load()
    folders = [classifier.folder for classifier in shelf.classifiers.values()]
    data_sets = [(one.title, name) for name, one in record.datasets.items()] if record else []

    def systems(dataset: str | None) -> tuple[Table, str]:
        if record is None or dataset is None:
            return _table((), ()), ""
        return systems_table(record, dataset, folders), systems_html(record, dataset)

    def noise(folder: ModelFolder, names: Sequence[str]) -> tuple[str, Table]:
        lines = noise_lines(record, folder, names)
        return noise_html(lines), noise_table(lines)

    def view(folder: ModelFolder) -> tuple[Any, ...]:
        """Values of all components that depend on the model; of the dropdown, its choices and value."""
        others = [(system.title, system.name) for system in others_of(record, folder)]
        names = [name for _, name in others[:MAX_LINES]]
        dataset = record.dataset_of(folder.label_names) if record else None
        dropdown = {"choices": others, "value": names, "visible": bool(others)}
        return dataset, *systems(dataset), dropdown, *noise(folder, names), model_html(folder)

    def follow(name: str) -> tuple[Any, ...]:
        *before, dropdown, curves, numbers, own = view(shelf.classifier(name).folder)
        return *before, gr.Dropdown(**dropdown), curves, numbers, own

    def draw(name: str, names: list[str]) -> tuple[str, Table]:
        return noise(shelf.classifier(name).folder, names)

    dataset, table, chart, dropdown, curves, numbers, own = view(shelf.first.folder)
    with gr.Group():
        gr.HTML(_opening(record), padding=True)
        data_set = gr.Dropdown(data_sets, value=dataset, label="Data set", visible=record is not None)
        rows = _dataframe(table, "Published and own systems", record is not None)
        marks = gr.HTML(chart, padding=True)
    if record is not None:
        with gr.Accordion("Protocols of the papers", open=False):
            gr.HTML(_papers(record), padding=True)
    with gr.Group():
        gr.HTML(_noise_opening(), padding=True)
        wanted = gr.Dropdown(multiselect=True, max_choices=MAX_LINES, label="Compare with", **dropdown)
        drawn = gr.HTML(curves, padding=True)
    with gr.Accordion("Weighted F1 by noise level", open=False):
        by_sigma = _dataframe(numbers, "Weighted F1, group-disjoint, by noise (sigma)")
    with gr.Group():
        itself = gr.HTML(own, padding=True)
    with gr.Accordion("Speed and size", open=False):
        gr.HTML(_speed_opening(record), padding=True)
        _dataframe(speed_table(record, folders), "Speed and size of each network")
    quiet: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "always_last",  # by default Gradio ignores input while an answer is pending
        "preprocess": False,
    }
    model.change(follow, model, [data_set, rows, marks, wanted, drawn, by_sigma, itself], **quiet)
    data_set.input(systems, data_set, [rows, marks], **quiet)
    wanted.input(draw, [model, wanted], [drawn, by_sigma], **quiet)


def _dataframe(table: Table, label: str, visible: bool = True) -> gr.Dataframe:
    return gr.Dataframe(table, interactive=False, wrap=True, label=label, visible=visible, elem_classes="wide-table")


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    return {"headers": list(headers) or [""], "data": [list(row) for row in rows] or [[""] * (len(headers) or 1)]}


def recipe_of(folder: ModelFolder) -> str | None:
    """The name of the recipe a model was trained with."""
    return ((folder.metrics.get("training") or {}).get("recipe") or {}).get("name")


# Published systems --------------------------------------------------------------------------------------------------


def systems_table(record: Comparison, dataset: str, folders: Sequence[ModelFolder] = ()) -> Table:
    """The systems of a data set, those with measurements first; systems of models on this page are marked."""
    recipes = {recipe_of(folder): folder.model_id for folder in folders}
    headers = (
        "system",
        "claimed accuracy",
        "accuracy (image-level)",
        "accuracy (group-disjoint)",
        "leak",
        "weighted F1 (group-disjoint)",
        "AUROC per donor",
        "specificity per donor",
        "training",
    )
    rows = []
    for system in sorted(record.of(dataset), key=lambda system: not system.measured):
        group = system.group if isinstance(system.group, Level) else None
        changed = {"nothing": "as described", "-": ""}.get(system.changed, f"changed: {system.changed}")
        folds = group.folds if group else ""
        name = recipes.get(system.name)
        rows.append(
            (
                system.title + (f" (on this page: {name})" if name else ""),
                system.claimed_in_words if system.paper else "none",
                *(
                    with_interval(one.accuracy, 3) if isinstance(one, Level) else one
                    for one in (system.image, system.group)
                ),
                with_interval(system.leak, 3, signed=True),
                *(
                    with_interval(getattr(group, score, None), 3)
                    for score in ("weighted_f1", "auroc_per_donor", "specificity_per_donor")
                ),
                "; ".join(text for text in (f"initial weights: {system.first_weights}", changed, folds) if text),
            )
        )
    return _table(headers, rows)


def systems_html(record: Comparison, dataset: str) -> str:
    """Claimed, image-level and group-disjoint accuracy on one scale, and notes on the data set."""
    rows = []
    for system in record.of(dataset):
        claim = "" if system.claimed is None else f"claimed {system.claimed:.3f}"
        for kind, (name, level) in enumerate((("group-disjoint", system.group), ("image-level", system.image))):
            if isinstance(level, Level):
                a = level.accuracy
                rows.append(
                    IntervalRow(
                        f"{system.title}, {name}", a.value, a.low, a.high, kind=kind, hollow=kind == 1, remark=claim
                    )
                )
    described = "Accuracy, 0 to 1, with its 95 % interval: group-disjoint (filled) and image-level (hollow)."
    chart = interval_rows(rows, threshold=None, description=described) if rows else ""
    return f'<div class="compared">{chart}<p class="quiet">{" ".join(_dataset_notes(record, dataset))}</p></div>'


def _dataset_notes(record: Comparison, name: str) -> list[str]:
    dataset = record.datasets[name]
    notes = []
    if dataset.images_measured:
        notes.append(f"Measured on {dataset.images_measured:,} of the {dataset.images_published:,} published images.")
    for features, score in dataset.without_network.items():
        notes.append(f"{escape(features)} alone, without a network: weighted F1 {with_interval(score, 3)}.")
    if "Benign" in dataset.labels:
        notes.append(
            "This data set has no patient ids: its groups are clusters of slides that look alike, a proxy, so a "
            "patient may be in both training and test images."
        )
    return notes


def _opening(record: Comparison | None) -> str:
    if record is None:
        return (
            "<h2>Published systems</h2><p>This installation has no comparison of published systems (the project's "
            "<code>results</code> folder).</p>"
        )
    measured = sum(system.measured for system in record.systems if system.paper)
    return (
        f"<h2>Published systems</h2><p>{record.n_published} systems of {len(record.papers)} papers, reimplemented; "
        f"{measured} have been trained so far. <em>Claimed</em> is the figure of the paper, {term('image-level')} our "
        f"measurement on the paper's kind of split, {term('group-disjoint')} the same on unseen groups; their "
        f"difference is the {term('leak')}. In parentheses: {term('95 % interval')}.</p>"
    )


def _papers(record: Comparison) -> str:
    items = "".join(
        f"<dt>{escape(name)}: {escape(paper.citation)}</dt><dd>Split: {escape(paper.protocol)}.<ul>"
        + "".join(f"<li>{escape(text)}</li>" for text in paper.contradictions)
        + "</ul></dd>"
        for name, paper in record.papers.items()
    )
    return f'<dl class="compared">{items}</dl>'


# Noise --------------------------------------------------------------------------------------------------------------


def _noise_opening() -> str:
    return (
        f"<h2>Robustness to noise</h2><p>{term('weighted F1')} on unseen groups ({term('group-disjoint')}) by the "
        f"{term('sigma')} of Gaussian noise. The band is the {term('95 % interval')} of the selected model.</p>"
    )


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
    name = record.dataset_of(folder.label_names) if record else None
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


def noise_table(lines: Sequence[Series]) -> Table:
    """The values of `noise_lines`."""
    sigmas = sorted({x for line in lines for x in line.xs})
    values = [(line.name, dict(zip(line.xs, line.ys, strict=True))) for line in lines]
    rows = [(name, *(f"{at[sigma]:.2f}" if sigma in at else "" for sigma in sigmas)) for name, at in values]
    return _table(("system", *(f"{sigma:g}" for sigma in sigmas)), rows)


def others_of(record: Comparison | None, folder: ModelFolder) -> list[System]:
    """Systems for the model's kind of image with a noise curve, best first, without the model itself."""
    name = record.dataset_of(folder.label_names) if record else None
    if record is None or name is None:
        return []
    known = [(s.noise.weighted_f1[0].value, s) for s in record.of(name) if s.noise and s.name != recipe_of(folder)]
    return [system for _, system in sorted(known, key=lambda item: -item[0])]


# The selected model -------------------------------------------------------------------------------------------------


def model_html(folder: ModelFolder) -> str:
    """Reliability diagram and confusion matrix of a model."""
    heading = f"<h2>{escape(folder.model_id)}: calibration and confusion matrix</h2>"
    protocol = folder.protocol()
    if protocol is None:
        return f'<section class="compared">{heading}<p>There is no measurement on unseen groups.</p></section>'
    clean = protocol["by_sigma"][0]
    bins = [Bin(**one) for one in protocol.get("reliability", ())]
    diagram = (
        reliability_diagram(bins, description=_reliability_text(bins)) if bins else "<p>Calibration not recorded.</p>"
    )
    worst = ""
    if groups := protocol.get("per_group"):
        one = min(groups, key=lambda group: group["accuracy"])
        worst = (
            f"<p>Lowest accuracy of a group: {percent(one['accuracy'], 1)} of {one['n']:,} images "
            f"({escape(str(one['group']))}, {escape(one['label'])}).</p>"
        )
    return (
        f'<section class="compared">{heading}<p>{protocol["n_images"]:,} images in {int(protocol["n_groups"])} groups, '
        f"{escape(task_of(folder).unseen)} ({escape(protocol['name'])}, {term('group-disjoint')}). Probabilities: "
        f'{escape(str(protocol["calibration"]))}.</p><div class="compared-pair"><div><h3>Calibration</h3>{diagram}<p>'
        f"{term('calibration error')}: {with_interval(Interval(**clean['ece']), 3)}.</p></div><div><h3>Confusion matrix"
        f"</h3>{confusion_table(clean['confusion_matrix'], folder.label_names)}{worst}</div></div></section>"
    )


def _reliability_text(bins: Sequence[Bin]) -> str:
    fullest, total = max(bins, key=lambda one: one.count), sum(one.count for one in bins)
    return (
        f"Bars on the dashed line mean calibrated probabilities. {fullest.count:,} of {total:,} predictions have a "
        f"confidence of {percent(fullest.low)} to {percent(fullest.high)}: {percent(fullest.confidence, 1)} on "
        f"average, accuracy {percent(fullest.accuracy, 1)}."
    )


# Speed and size -----------------------------------------------------------------------------------------------------


def _speed_opening(record: Comparison | None) -> str:
    machine = f" on {escape(record.machine)}" if record else ""
    return (
        f"<p>Time for one image{machine}; multiples of {term('MobileNetV1')} at 224 px, timed beside each network, "
        f"depend less on the machine. Models of this page come first, in {term('fp32')} and {term('int8')}.</p>"
    )


def speed_table(record: Comparison | None, folders: Sequence[ModelFolder]) -> Table:
    """Time and size of the models of this page, then of the published networks, fastest first."""
    rows: list[tuple[str, ...]] = []
    for folder in folders:
        size, time = folder.metrics.get("size_bytes") or {}, folder.metrics.get("latency_ms") or {}
        cost = (folder.metrics.get("int8") or {}).get("difference")
        for name in ("fp32", "int8"):
            if name in size and name in time:
                change = with_interval(Interval.from_record(cost), 3, signed=True) if name == "int8" else ""
                rows.append(
                    (f"{folder.model_id}, {name}", "", f"{time[name]:.1f}", "", f"{size[name] / 1e6:.1f}", change)
                )
    timed = [(s.times_mobilenetv1, s) for s in (record.systems if record else ()) if s.times_mobilenetv1 is not None]
    for multiple, s in sorted(timed, key=lambda item: item[0]):
        size_of = ("", "") if s.parameters is None else (f"{s.parameters / 1e6:.2f} M", f"{4 * s.parameters / 1e6:.1f}")
        rows.append((s.title, f"{multiple:.2f}", f"{s.milliseconds:.1f}", *size_of, ""))
    return _table(("system", "times MobileNetV1", "ms", "parameters", "MB", "change of weighted F1"), rows)
