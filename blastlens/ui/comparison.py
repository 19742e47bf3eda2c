"""The tab that puts every published system beside ours. No number is written here: all come from two records.

`results/comparison.json` has the systems, a model's metrics.json the model; where either lacks something, the page
says so.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr

from ..metrics import Bin, Interval, constant_weighted_f1
from ..model_folder import ModelFolder
from ..published_systems import Comparison, Dataset, Level, System
from ..wording import count
from .model_registry import Shelf, refusals
from .plots import Series, confusion_table, line_chart, reliability_diagram
from .words import MEANINGS, task_of, term

MOST_LINES = 6  # beside the model's own and the constant answer's; more than eight would look alike


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    record = Comparison.load()
    folders = [classifier.folder for classifier in shelf.classifiers.values()]

    def view(chosen: str) -> tuple[str, dict[str, Any], str, str, str]:
        """The systems, what can be picked for the curves, the curves, the model itself, and speed."""
        folder = shelf.classifier(chosen).folder
        others = _others(record, folder)
        picked = [system.name for system in others[:MOST_LINES]]
        choice = {"choices": [(system.title, system.name) for system in others], "value": picked}
        return (
            systems_html(record, folders, folder),
            {**choice, "visible": bool(others)},
            noise_html(record, folder, picked),
            model_html(folder),
            speed_html(record, folders, folder),
        )

    def follow(chosen: str) -> tuple[Any, ...]:
        with refusals():
            shown, choice, *rest = view(chosen)
        return shown, gr.update(**choice), *rest

    def draw(chosen: str, names: list[str]) -> str:
        with refusals():
            return noise_html(record, shelf.classifier(chosen).folder, names)

    shown, choice, curves, itself, quickness = view(shelf.first.folder.model_id)
    with gr.Group():
        systems = gr.HTML(shown, padding=True)
    with gr.Group():
        gr.HTML(_noise_opening(), padding=True)
        wanted = gr.CheckboxGroup(label="Compare with", elem_classes="compare-with", **choice)
        noise = gr.HTML(curves, padding=True)
    with gr.Group():
        own = gr.HTML(itself, padding=True)
    with gr.Group():
        speed = gr.HTML(quickness, padding=True)
    # By default Gradio drops what is clicked while an answer is pending.
    quick: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "trigger_mode": "always_last",
        "preprocess": False,
    }
    model.change(follow, model, [systems, wanted, noise, own, speed], **quick)
    wanted.input(draw, [model, wanted], noise, **quick)


# The systems


def systems_html(record: Comparison | None, folders: Sequence[ModelFolder], chosen: ModelFolder) -> str:
    """The honest table, the chosen model's data set first.

    Args:
        record: None where the page has no results.
        folders: the models on this page; the rows of their recipes are marked.
        chosen: one of them.
    """
    heading = "<h2>What the papers say, and what holds on people nobody trained on</h2>"
    if record is None:
        return (
            f'<section class="compared">{heading}<p>This page came without the comparison of published systems (the '
            "project's <code>results</code> folder). What is known of the model itself stands below.</p></section>"
        )
    measured = sum(system.measured for system in record.systems if system.paper)
    opening = (
        f"<p>{record.n_published} systems from {len(record.papers)} papers. Each was built again from its paper; "
        f"{measured} could be trained so far; the others say why not. <em>Claimed</em> is what the paper prints, "
        f"{term('image-level')} is our measurement on the paper's own kind of split, {term('group-disjoint')} the same "
        f"system on people it never saw; their difference is the {term('leak')}. All figures are accuracies from 0 to "
        f"1 with their {term('95 % interval')}; below them stands {term('weighted F1')}. Most networks start from "
        f"{term('ImageNet weights')}.</p>"
        '<ul class="strip-legend">'
        f"<li>{_key('claimed')}claimed</li><li>{_key('image')}image-level</li><li>{_key('group')}group-disjoint</li>"
        "</ul>"
    )
    own = record.dataset_of(chosen.label_names)
    names = sorted(record.datasets, key=lambda name: name != own)
    recipes = {recipe_of(folder): folder.model_id for folder in folders}
    tables = "".join(_systems_table(record, name, recipes, recipe_of(chosen)) for name in names)
    return f'<section class="compared">{heading}{opening}{tables}{_papers(record)}</section>'


def recipe_of(folder: ModelFolder) -> str | None:
    """The recipe a model was trained with, by which the comparison knows it."""
    return ((folder.metrics.get("training") or {}).get("recipe") or {}).get("name")


def _systems_table(record: Comparison, name: str, recipes: Mapping[str | None, str], chosen: str | None) -> str:
    dataset = record.datasets[name]
    systems = [system for system in record.of(name) if system.measured]
    ends = [end for system in systems for end in _ends(system)]
    low = min([0.9, *(int(10 * end) / 10 for end in ends)])
    new = "On new slides" if "Benign" in dataset.labels else "On new people"
    rows = "".join(
        _system_row(system, low, new, _badge(recipes.get(system.name)), system.name == chosen) for system in systems
    )
    title = escape(dataset.title)
    return (
        f"<h3>{title}</h3>"
        f'<div class="compared-scroll" tabindex="0" role="region" aria-label="Systems compared: {title}">'
        '<table class="systems"><thead><tr><th scope="col">System</th><th scope="col">Claimed</th>'
        f'<th scope="col">On the paper\'s split (image-level)</th><th scope="col">{new} (group-disjoint)</th>'
        f'<th scope="col">Leak</th><th scope="col">Side by side, {low:g} to 1</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        f"{_not_run([system for system in record.of(name) if not system.measured], recipes)}{_dataset_notes(dataset)}"
    )


def _not_run(systems: Sequence[System], recipes: Mapping[str | None, str]) -> str:
    """What was not measured, with its claim, under the reason why not."""
    by_reason: dict[str, list[System]] = {}
    for system in systems:
        reasons = dict.fromkeys(str(level) for level in (system.image, system.group))
        by_reason.setdefault("; ".join(reasons), []).append(system)
    parts = "".join(
        f"<p>{escape(reason[:1].upper() + reason[1:])}</p><ul>{''.join(_claim(s, recipes) for s in alike)}</ul>"
        for reason, alike in by_reason.items()
    )
    if not parts:
        return ""
    return f'<details class="not-run"><summary>{count(len(systems), "system")} not run yet</summary>{parts}</details>'


def _claim(system: System, recipes: Mapping[str | None, str]) -> str:
    claim = "" if system.paper is None else f": claimed accuracy {escape(system.claimed_in_words)}"
    return f"<li><b>{escape(system.title)}</b>{_badge(recipes.get(system.name))}{claim}</li>"


def _badge(model_id: str | None) -> str:
    return f' <span class="badge">on this page: {escape(model_id)}</span>' if model_id else ""


def _ends(system: System) -> list[float]:
    levels = [level for level in (system.image, system.group) if isinstance(level, Level)]
    return [level.accuracy.low for level in levels] + ([] if system.claimed is None else [system.claimed])


def _system_row(system: System, low: float, new: str, badge: str, chosen: bool) -> str:
    starts = f"starts from {'ImageNet' if system.first_weights == 'ImageNet' else 'random'} weights"
    changed = {"nothing": "trained as described", "-": ""}.get(system.changed, f"changed: {_settings(system.changed)}")
    details = "; ".join(text for text in (starts, changed) if text)
    leak = '<span class="quiet">not known</span>' if system.leak is None else _signed(system.leak)
    kind = " ".join(["ours"] * (system.paper is None) + ["chosen"] * chosen)
    return (
        f'<tr class="{kind}">'
        f'<th scope="row">{escape(system.title)}{badge}<span class="details">{escape(details)}</span></th>'
        f"{_cell('Claimed', escape('none' if system.paper is None else system.claimed_in_words))}"
        f"{_level_cell('Image-level', system.image)}{_level_cell(new, system.group)}{_cell('Leak', leak)}"
        f'<td class="strip">{_strip(system, low)}</td></tr>'
    )


def _settings(changed: str) -> str:
    """Names of settings as a person would say them."""
    return changed.replace("schedule.patience", "patience").replace("image_size", "image size")


def _level_cell(title: str, level: Level | str) -> str:
    if isinstance(level, str):
        return f'<td class="missing" data-label="{title}"><div>{escape(level)}</div></td>'
    texts = [level.folds, f"F1 {level.weighted_f1.value:.3f}"]
    if level.auroc_per_donor and level.specificity_per_donor:
        texts.append(f"AUROC per donor {level.auroc_per_donor.value:.3f}")
        texts.append(f"specificity per donor {level.specificity_per_donor.value:.3f}")
    details = "; ".join(text for text in texts if text)
    return _cell(title, f'{_with_interval(level.accuracy)}<span class="details">{escape(details)}</span>')


def _cell(title: str, content: str) -> str:
    return f'<td data-label="{title}"><div>{content}</div></td>'


def _strip(system: System, low: float) -> str:
    """Claim, image-level and group-disjoint accuracy as marks on one line each."""

    def across(value: float) -> str:
        return f"{4 + 92 * (max(value, low) - low) / (1 - low):.2f}%"

    parts = [
        f'<line class="grid" x1="{across(k / 10)}" x2="{across(k / 10)}" y1="0" y2="44"/>'
        for k in range(round(10 * low), 11)
    ]
    for level, kind, y in ((system.image, "image", 22), (system.group, "group", 36)):
        if isinstance(level, Level):
            ends = f'x1="{across(level.accuracy.low)}" x2="{across(level.accuracy.high)}"'
            parts.append(f'<line class="{kind}" {ends} y1="{y}" y2="{y}"/>')
            parts.append(f'<circle class="{kind}" cx="{across(level.accuracy.value)}" cy="{y}" r="4"/>')
    if system.claimed is not None:
        parts.append(f'<svg class="claimed" x="{across(system.claimed)}" y="8" overflow="visible">{_DIAMOND}</svg>')
    return f'<svg width="100%" height="44" aria-hidden="true">{"".join(parts)}</svg>'


_DIAMOND = '<path d="M0 -5 L5 0 L0 5 L-5 0 Z"/>'


def _key(kind: str) -> str:
    mark = f'<svg x="15" y="7" overflow="visible">{_DIAMOND}</svg>'
    if kind != "claimed":
        mark = f'<line class="{kind}" x1="1" x2="29" y1="7" y2="7"/><circle class="{kind}" cx="15" cy="7" r="4"/>'
    return f'<svg class="key {kind}" width="30" height="14" aria-hidden="true">{mark}</svg>'


def _dataset_notes(dataset: Dataset) -> str:
    notes = []
    if dataset.images_measured:
        notes.append(f"Measured on {dataset.images_measured:,} of the {dataset.images_published:,} published images.")
    for what, score in dataset.without_network.items():
        notes.append(f"Without any network, {escape(what)} alone reaches weighted F1 {_shown(score)}, group-disjoint.")
    if dataset.without_network:
        notes.append("A network means something on unseen people once it beats that.")
    if "Benign" in dataset.labels:
        notes.append(
            "This data set has no patient ids: its groups are clusters of slides that look alike, a stand-in, so one "
            "patient may still be on both sides."
        )
    return f'<p class="quiet">{" ".join(notes)}</p>'


def _papers(record: Comparison) -> str:
    items = "".join(
        f"<dt>{escape(name)}: {escape(paper.citation)}</dt><dd>How it divides its images: {escape(paper.protocol)}.<ul>"
        + "".join(f"<li>{escape(text)}</li>" for text in paper.contradictions)
        + "</ul></dd>"
        for name, paper in record.papers.items()
    )
    return f'<details class="papers"><summary>What each paper\'s own text allows</summary><dl>{items}</dl></details>'


# Noise


def _noise_opening() -> str:
    return (
        '<section class="compared"><h2>How they hold as noise grows</h2><p>Noise (its strength: '
        f"{term('sigma')}) is added to images of people the systems never saw ({term('group-disjoint')}). Upwards: "
        f"{term('weighted F1')}. The shaded band is the {term('95 % interval')} of the model picked above.</p>"
        "</section>"
    )


def noise_html(record: Comparison | None, folder: ModelFolder, names: Sequence[str]) -> str:
    """Weighted F1 against sigma: the model with its band, the systems of `names`, and the constant answer."""
    protocol = folder.protocol()
    series = [_own_curve(folder, protocol)] if protocol else []
    for system in _others(record, folder):
        if system.noise and system.name in names:
            values = [score.value for score in system.noise.weighted_f1]
            series.append(Series(system.title, system.noise.sigmas, values))
    if not series:
        told = f"How {escape(folder.model_id)} holds against noise was not measured, as far as this page knows."
        return f'<p class="compared">{told}</p>'
    dataset = _dataset_of(record, folder)
    if dataset and dataset.most_frequent_share:
        constant = constant_weighted_f1(dataset.most_frequent_share)
        series.append(Series("always the most frequent answer", (0, 100), (constant, constant)))
    highest = max(x for one in series for x in one.xs)
    chart = line_chart(
        series,
        x_label="noise (sigma)",
        y_label="weighted F1, group-disjoint",
        x_range=(0, highest),
        y_range=(0, 1),
        percent=False,
        description=_noise_words(series),
    )
    return f'<div class="compared">{chart}{_noise_table(series)}</div>'


def _own_curve(folder: ModelFolder, protocol: Mapping[str, Any]) -> Series:
    rows = protocol["by_sigma"]
    scores = [row["weighted_f1"] for row in rows]
    return Series(
        f"{folder.model_id} (this model)",
        [row["sigma"] for row in rows],
        *([score[end] for score in scores] for end in ("value", "low", "high")),
    )


def _noise_words(series: Sequence[Series]) -> str:
    one = series[0]
    last = next((i for i, y in enumerate(one.ys) if y < 0.9 * one.ys[0]), None)
    start = f"{one.name}: weighted F1 {one.ys[0]:.2f} without noise"
    if last is None:
        return f"{start}, {one.ys[-1]:.2f} at sigma {one.xs[-1]:g}."
    return f"{start}; a tenth of it is lost by sigma {one.xs[last]:g} ({one.ys[last]:.2f})."


def _noise_table(series: Sequence[Series]) -> str:
    sigmas = sorted({x for one in series for x in one.xs})
    head = "".join(f'<th scope="col">{sigma:g}</th>' for sigma in sigmas)
    rows = []
    for one in series:
        at = dict(zip(one.xs, one.ys, strict=True))
        constant = len(set(one.ys)) == 1
        cells = (f"{one.ys[0]:.2f}" if constant else f"{at[s]:.2f}" if s in at else "" for s in sigmas)
        cells_html = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{escape(one.name)}</th>{cells_html}</tr>')
    return (
        '<details><summary>The curves in numbers</summary><div class="compared-scroll" tabindex="0" role="region" '
        'aria-label="Weighted F1 at each noise level"><table class="numbers"><caption>Weighted F1, group-disjoint, by '
        f'noise (sigma)</caption><thead><tr><th scope="col">system</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></details>"
    )


def _others(record: Comparison | None, folder: ModelFolder) -> list[System]:
    """The systems with a noise curve on the model's kind of image, best first, without the model itself."""
    name = record.dataset_of(folder.label_names) if record else None
    if record is None or name is None:
        return []
    known = [s for s in record.of(name) if s.noise and s.name != recipe_of(folder)]
    return sorted(known, key=lambda s: -s.noise.weighted_f1[0].value if s.noise else 0)


def _dataset_of(record: Comparison | None, folder: ModelFolder) -> Dataset | None:
    name = record.dataset_of(folder.label_names) if record else None
    return record.datasets[name] if record and name else None


# The model itself


def model_html(folder: ModelFolder) -> str:
    """Whether the model's probabilities mean what they say, and what it takes for what."""
    heading = f"<h2>{escape(folder.model_id)}: can its probabilities be believed, and what does it mix up?</h2>"
    protocol = folder.protocol()
    if protocol is None:
        text = "This page knows of no measurement on people it never saw, so its answers mean nothing yet."
        return f'<section class="compared">{heading}<p>{text}</p></section>'
    clean, unseen = protocol["by_sigma"][0], task_of(folder).unseen
    groups = escape(str(protocol["n_groups"]))
    opening = (
        f"<p>Measured on {protocol['n_images']:,} images in {groups} groups, {escape(unseen)} "
        f'<span class="quiet">[{_split(protocol["name"])}, {term("group-disjoint")}]</span>. Its probabilities are '
        f"{term('calibrated', str(protocol['calibration']))} on images of others than those judged here.</p>"
    )
    bins = [Bin(**one) for one in protocol.get("reliability", ())]
    diagram = (
        reliability_diagram(bins, description=_reliability_words(bins))
        if bins
        else "<p>How often its answers of each probability were right was not recorded.</p>"
    )
    error = f"<p>{term('calibration error')}: {_shown_dict(clean['ece'])}.</p>"
    return (
        f'<section class="compared">{heading}{opening}<div class="compared-pair">'
        f"<div><h3>When it says 90 %, is it right nine times in ten?</h3>{diagram}{error}</div>"
        f"<div><h3>What it takes for what</h3>{confusion_table(clean['confusion_matrix'], folder.label_names)}"
        f"{_worst_group(protocol)}</div></div></section>"
    )


def _split(name: str) -> str:
    return term(name) if name in MEANINGS else escape(name)


def _reliability_words(bins: Sequence[Bin]) -> str:
    fullest = max(bins, key=lambda one: one.count)
    return (
        f"Bars on the dashed line would be perfect. The fullest bin, {fullest.count:,} of "
        f"{sum(one.count for one in bins):,} answers, was given with {fullest.low:.0%} to {fullest.high:.0%}: on "
        f"average {fullest.confidence:.1%} sure, and {fullest.accuracy:.1%} of them right."
    )


def _worst_group(protocol: Mapping[str, Any]) -> str:
    groups = protocol.get("per_group") or []
    if not groups:
        return ""
    worst = min(groups, key=lambda group: group["accuracy"])
    return (
        f"<p>It is not equally good on everybody: in the worst group, {escape(worst['group'])} "
        f"({escape(worst['label'])}, {worst['n']:,} images), {worst['accuracy']:.1%} were right.</p>"
    )


# Speed and size


def speed_html(record: Comparison | None, folders: Sequence[ModelFolder], chosen: ModelFolder) -> str:
    """Time and size of the models on this page, then of every published network."""
    heading = "<h2>How quick, how large</h2>"
    shown = [*folders, *([] if any(folder is chosen for folder in folders) else [chosen])]
    own = "".join(_model_line(folder, folder is chosen) for folder in shown)
    table = "" if record is None else _speed_table(record)
    return f'<section class="compared">{heading}<ul class="own-speed">{own}</ul>{table}</section>'


def _model_line(folder: ModelFolder, chosen: bool) -> str:
    size, time = folder.metrics.get("size_bytes") or {}, folder.metrics.get("latency_ms") or {}
    parts = []
    for name in ("fp32", "int8"):
        if name in size and name in time:
            parts.append(f"{term(name)} {size[name] / 1e6:.1f} MB, {time[name]:.1f} ms")
    if not parts:
        parts = ["size and time were not recorded"]
    elif "what" in time:
        what = f"{time['what']}, {time.get('threads', '?')} cores"
        parts[-1] += f' <span class="quiet">({escape(what)})</span>'
    cost = (folder.metrics.get("int8") or {}).get("difference")
    if cost:
        parts.append(f"int8 changes weighted F1 by {_signed(Interval(**cost))}")
    kind = ' class="chosen"' if chosen else ""
    return f"<li{kind}><b>{escape(folder.model_id)}</b>: {'; '.join(parts)}</li>"


def _speed_table(record: Comparison) -> str:
    timed = [s for s in record.systems if s.times_mobilenetv1 is not None]
    if not timed:
        return ""
    timed.sort(key=lambda s: s.times_mobilenetv1 or 0)
    longest = max(s.times_mobilenetv1 or 0 for s in timed)
    rows = "".join(
        f'<tr><th scope="row">{escape(s.title)}</th>'
        f'<td class="bar-cell" style="--share:{100 * (s.times_mobilenetv1 or 0) / longest:.1f}%"><b>'
        f"{s.times_mobilenetv1:.2f}</b></td><td>{s.milliseconds:.1f}</td>{_size_cells(s.parameters)}</tr>"
        for s in timed
    )
    return (
        f'<p class="quiet">One image through each published network, {term("fp32")}. Milliseconds: '
        f"{escape(record.machine)}. They differ from machine to machine; the multiples of {term('MobileNetV1')} at 224 "
        f"px, timed beside each network, differ less. MB: four bytes for each of its {term('parameters')}.</p>"
        '<div class="compared-scroll" tabindex="0" role="region" aria-label="Time and size of each network">'
        '<table class="numbers speed">'
        '<thead><tr><th scope="col">system</th><th scope="col">times MobileNetV1</th>'
        '<th scope="col">ms</th><th scope="col">parameters</th><th scope="col">MB, fp32</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _size_cells(parameters: int | None) -> str:
    if parameters is None:
        return "<td></td><td></td>"
    return f"<td>{parameters / 1e6:.2f} M</td><td>{4 * parameters / 1e6:.1f}</td>"


def _shown(value: Interval) -> str:
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def _shown_dict(value: Mapping[str, float]) -> str:
    return _shown(Interval(value["value"], value["low"], value["high"]))


def _with_interval(value: Interval) -> str:
    return f'<b>{value.value:.3f}</b> <span class="interval">({value.low:.3f} to {value.high:.3f})</span>'


def _signed(value: Interval) -> str:
    return f'<b>{value.value:+z.3f}</b> <span class="interval">({value.low:+z.3f} to {value.high:+z.3f})</span>'
