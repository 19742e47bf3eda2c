"""The tab "Reliability": a summary of one screen, and one accordion for each group of recorded measurements.

All figures come from the model folder's metrics.json and gate.json, which may have been written by anyone: their texts
are escaped, and a damaged part hides only itself.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from .. import external_result
from ..metrics import Interval
from ..model_folder import ModelFolder
from ..noise import MAX_SIGMA
from ..wording import listed, percent, with_interval
from .model_registry import Shelf
from .plots import Series, line_chart
from .words import headline_of, main_score, task_of

Record = Mapping[str, Any]
# Raised by records of another version, or by damaged ones.
_DAMAGED = (KeyError, TypeError, ValueError, IndexError, AttributeError, StopIteration, ZeroDivisionError)
NOISE_SIGMAS = (10, 20, 50)
MAX_LINES = 6
# Kinds of images in gate.json.
OTHER_IMAGES = {
    "photos": "everyday photographs",
    "bccd_fields": "smear fields of another data set",
    "aria2021": "smear fields of the 4-class set",
    "cnmc2019": "single cells of C-NMC 2019",
}
EXPECTED = {
    "strangers": "to be rejected",
    "varied": "to be accepted (its kind, as another microscope or camera would show it)",
    "spoilt": "either (its kind, hardly recognizable)",
}


@dataclass(frozen=True)
class Section:
    """The content of one accordion: HTML, and a table whose cells are text."""

    html: str
    headers: tuple[str, ...] = ()
    rows: Sequence[Sequence[str]] = ()


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    first = sections(shelf.first.folder)
    with gr.Group():
        outputs: list[Any] = [gr.HTML(summary_html(shelf.first.folder), padding=True)]
    for title in SECTIONS:
        shown = first.get(title)
        with gr.Accordion(title, open=False, visible=shown is not None) as accordion:
            html = gr.HTML(shown.html if shown else "", padding=True)
            table = gr.Dataframe(
                _table(shown),
                interactive=False,
                wrap=True,
                visible=_has_rows(shown),
                show_label=False,
                label=title,
                elem_classes="wide-table",
            )
        outputs += [accordion, html, table]

    def follow(chosen: str) -> list[Any]:
        folder = shelf.classifier(chosen).folder
        found = sections(folder)
        updates: list[Any] = [summary_html(folder)]
        for title in SECTIONS:
            shown = found.get(title)
            updates += [
                gr.Accordion(visible=shown is not None),
                shown.html if shown else "",
                gr.Dataframe(_table(shown), visible=_has_rows(shown)),
            ]
        return updates

    model.change(
        follow,
        model,
        outputs,
        show_progress="hidden",
        api_visibility="private",
        preprocess=False,
        trigger_mode="always_last",
    )


def _table(section: Section | None) -> dict[str, Any]:
    if section is None or not section.rows:
        return {"headers": [""], "data": [[""]]}
    return {"headers": list(section.headers), "data": [list(row) for row in section.rows]}


def _has_rows(section: Section | None) -> bool:
    return section is not None and bool(section.rows)


def sections(folder: ModelFolder) -> dict[str, Section]:
    """The sections with measurements of this model, by title."""
    found = {}
    for title, (record_of, render) in SECTIONS.items():
        try:
            if record := record_of(folder):
                found[title] = render(record)
        except _DAMAGED:
            found[title] = Section("<p>The record of this measurement has an unknown form, so it is not shown.</p>")
    return found


def summary_html(folder: ModelFolder) -> str:
    """The main figure of each measurement, and what was not measured."""
    metrics = folder.metrics
    heading = f"<h2>{escape(folder.model_id)}: reliability</h2>"
    rows: list[tuple[str, Callable[[], str]]] = [
        ("On unseen groups", lambda: _unseen(folder)),
        ("External validation", lambda: _external_line(metrics)),
        ("Calibration", lambda: _calibration_line(metrics["calibration"])),
        ("With Gaussian noise", lambda: _noise_line(folder)),
        ("Corruptions", lambda: _robustness_line(metrics["robustness"])),
        ("OOD detection", lambda: _ood_line(_ood_record(folder) or {})),
        ("Shortcut probes", lambda: _probes_line(metrics["probes"])),
        ("Patients", lambda: _patients_line(metrics["patients"])),
    ]
    items = []
    for name, line in rows:
        try:
            items.append((name, line()))
        except _DAMAGED:  # not measured, or its section says that it is damaged
            continue
    present = sections(folder)
    missing = [title for title in SECTIONS if title not in present]
    if missing:
        items.append(("Not measured", f"{', '.join(missing)}."))
    if folder.protocol() is None:
        heading += "<p>There is no measurement on unseen groups, so the predictions must not be relied on.</p>"
    body = "".join(f"<div><dt>{name}</dt><dd>{escape(text)}</dd></div>" for name, text in items)
    note = '<p class="quiet">In parentheses: 95 % confidence intervals over groups (donors or clusters of slides).</p>'
    return f'<div class="reliability-summary">{heading}<dl>{body}</dl>{note}</div>'


def _unseen(folder: ModelFolder) -> str:
    protocol = folder.protocol()
    if protocol is None:
        raise KeyError("protocols")
    scores = headline_of(protocol)
    name, main = main_score({"headline": scores})
    text = f"{name} {_plain(main)}"
    if "specificity_per_donor" in scores:
        text += f"; specificity per donor {_share(scores['specificity_per_donor'])}"
        text += f", lowest donor {percent(scores['worst_specificity'])}"
    return f"{text}. Measured on {task_of(folder).unseen} ({protocol['name']}, group-disjoint)."


def _noise_line(folder: ModelFolder) -> str:
    protocol = folder.protocol() or {}
    at = {row["sigma"]: headline_of({"by_sigma": [row]}) for row in protocol["by_sigma"]}
    found = [(sigma, main_score({"headline": at[sigma]})) for sigma in NOISE_SIGMAS if sigma in at]
    name = found[0][1][0]
    return f"{name} {'; '.join(f'{_plain(score)} at sigma {sigma}' for sigma, (_, score) in found)}."


# Calibration and decisions ------------------------------------------------------------------------------------------


def _calibration_line(record: Record) -> str:
    return f"Expected calibration error {_share(record['ece'])}, per class {_share(record['classwise_ece'])}."


def _calibration(record: Record) -> Section:
    rows = [("as served", record["ece"], record["classwise_ece"])]
    if before := record.get("before"):
        rows.append(("temperature scaling only", before["ece"], before["classwise_ece"]))
    rows += [(f"sigma {row['sigma']:g}", row["ece"], row["classwise_ece"]) for row in record.get("by_sigma") or ()]
    text = (
        "<p>A calibrated model is right in 90 % of the predictions with a probability of 90 %. Probabilities come from "
        f"the network's logits by {escape(record['scaling'])}. The class-wise error compares the probability of each "
        "label, predicted or not, with its frequency.</p>"
    )
    lines = [_series(name, record.get("by_sigma") or (), key) for name, key in _ECE.items()]
    top = max((max(one.ys) for one in lines if one.ys), default=0.1)
    return Section(
        text + _chart(lines, "noise (sigma)", "calibration error", max(0.1, 1.4 * top)),
        ("condition", "expected calibration error", "class-wise calibration error"),
        [(name, _share(ece), _share(classwise)) for name, ece, classwise in rows],
    )


_ECE = {"expected calibration error": "ece", "class-wise calibration error": "classwise_ece"}


def _selective(record: Record) -> Section:
    rows = record["risk_coverage"]
    line = Series("wrong predictions", [row["coverage"] for row in rows], [row["risk"] for row in rows])
    text = (
        "<p>Share of wrong predictions if only the most confident predictions are used (risk-coverage curve). Area "
        f"under the curve: {_plain(record.get('aurc'), 3)}.</p>"
    )
    return Section(
        text + _chart([line], "share of images predicted", "wrong", min(1, max(0.1, 1.1 * max(line.ys)))),
        ("share of images predicted", "wrong predictions"),
        [(percent(row["coverage"]), percent(row["risk"], 1)) for row in rows],
    )


def _operating_point(record: Record) -> Section:
    rows = [("most probable label", record["plain"]), ("operating point", record)]
    rows += [(f"operating point, sigma {row['sigma']:g}", row) for row in record.get("by_sigma") or ()]
    text = (
        f"<p>The threshold {percent(record['threshold'], 1)} targets a sensitivity of {percent(record['target'])} "
        f"({escape(record['how'])}).</p>"
    )
    lines = [_series(key, record.get("by_sigma") or (), key) for key in ("sensitivity", "specificity")]
    return Section(
        text + _chart(lines, "noise (sigma)", "share"),
        ("classified as leukemic by", "sensitivity", "specificity"),
        [(name, _share(row["sensitivity"]), _share(row["specificity"])) for name, row in rows],
    )


def _prediction_sets(record: Record) -> Section:
    target = percent(record["asked"])
    outcome = "met for every label" if record["holds"] else "not met for every label"
    text = (
        f"<p>A prediction set contains the true label in {target} of all cases ({escape(record['method'])}). In the "
        f"test this target was <strong>{outcome}</strong>. {escape(record['why'])} A set contains "
        f"{_plain(record['mean_size'])} labels on average; {_share(record['single'])} contain one.</p>"
    )
    if worst := record.get("worst_group"):
        text += (
            f"<p>Lowest coverage of a group: {percent(worst['coverage'], 1)} of {worst['images']:,} images "
            f"({escape(str(worst['group']))}, {escape(worst['label'])}).</p>"
        )
    rows = [("all", _share(record["coverage"]), _plain(record["mean_size"]))]
    rows += [(label, _share(found), "") for label, found in (record.get("coverage_by_class") or {}).items()]
    rows += [
        (f"all, sigma {row['sigma']:g}", _share(row["coverage"]), _plain(row["mean_size"]))
        for row in record.get("by_sigma") or ()
    ]
    return Section(text, ("images", "set contains the true label", "labels per set"), rows)


# Robustness and shortcuts -------------------------------------------------------------------------------------------


def _robustness_line(record: Record) -> str:
    worst = _by_loss(record)[0]
    last = worst["severities"][-1]
    mean = _plain(record["summary"]["mean_weighted_f1"])
    return (
        f"Weighted F1 {mean} on average over {len(record['kinds'])} corruptions; lowest for {worst['title']} "
        f"{_plain(last['weighted_f1'])}; clean images {_plain(record['clean']['weighted_f1'])}."
    )


def _by_loss(record: Record) -> list[Record]:
    """Corruptions, the greatest loss at the highest severity first."""
    measured = [kind for kind in record["kinds"] if kind["severities"][-1]["weighted_f1"]]
    return sorted(measured, key=lambda kind: kind["severities"][-1]["weighted_f1"]["value"])


def _robustness(record: Record) -> Section:
    summary, baseline = record["summary"], record["baseline"]
    text = (
        f"<p>{record['images']:,} images of {record['groups']:,} unseen groups ({escape(record['protocol'])}), each "
        f"with {len(record['kinds'])} corruptions at five severities. Mean flip rate "
        f"{_share(summary['mean_flip_rate'])}, mean calibration error {_share(summary['mean_ece'])}.</p>"
    )
    if summary["mce"]:
        text += (
            f"<p>Mean corruption error relative to {escape(baseline['name'])} without a network: "
            f"{_plain(summary['mce'])} (below 1 is better than the baseline). {escape(baseline['what'])}</p>"
        )
    losses = [
        f"{points} at sigma {sigma:.3g}"
        if (sigma := summary[key]) is not None
        else f"{points} nowhere up to {MAX_SIGMA:g}"
        for key, points in (("sigma_minus_1", "1 point"), ("sigma_minus_5", "5 points"))
    ]
    text += f"<p>Loss of weighted F1 under Gaussian noise: {', '.join(losses)} (interpolated).</p>"
    clean = {"severity": 0, "weighted_f1": record["clean"]["weighted_f1"]}
    lines = [
        _series(kind["title"], [clean, *kind["severities"]], "weighted_f1", "severity", band=False)
        for kind in _by_loss(record)[:MAX_LINES]
    ]
    severities = record["kinds"][0]["severities"]
    return Section(
        text + _chart(lines, f"severity; the {len(lines)} corruptions with the greatest loss", "weighted F1"),
        (
            "corruption",
            *(f"severity {one['severity']}" for one in severities),
            "flip rate at the highest",
            "corruption error",
            "levels",
            "description",
        ),
        [
            (
                kind["title"],
                *(_points(one["lost"], sign=-1) for one in kind["severities"]),
                _share(kind["severities"][-1]["flip_rate"]),
                _plain(kind["ce"]),
                _levels(kind),
                f"{kind['explanation']} Severities: {kind['source']}.",
            )
            for kind in record["kinds"]
        ],
    )


def _levels(kind: Record) -> str:
    sign = "\N{PLUS-MINUS SIGN}" if kind["both_ways"] else ""
    levels = ", ".join(f"{one['level']:.4g}" for one in kind["severities"])
    return f"{sign}{levels} {kind['unit']}".strip()


def _probes_line(record: Record) -> str:
    failed = [row["title"] for row in record["rows"] if not row["passed"]]
    text = f"{len(record['rows']) - len(failed)} of {len(record['rows'])} passed"
    return f"{text}; failed: {', '.join(failed)}." if failed else f"{text}."


def _probes(record: Record) -> Section:
    text = (
        "<p>A shortcut correlates with the label without being the disease. A probe either removes what should be "
        "irrelevant (the score should stay) or what should matter (the score should drop). Limits were set before the "
        "test.</p>"
    )
    if grey := record.get("grey_is_healthy"):
        text += (
            f"<p>Leukemic cells classified as healthy: {_share(grey['called_HEM_in_colour'])} in colour, "
            f"{_share(grey['called_HEM_in_grey'])} in grey; difference {_points(grey['difference'])} points, limit "
            f"{100 * grey['limit']:.3g}: <strong>{'passed' if grey['passed'] else 'failed'}</strong>.</p>"
        )
    rows = [
        (
            row["title"],
            "passed" if row["passed"] else "failed",
            _plain(row["weighted_f1"]),
            _points(row["difference"]),
            f"AUROC at most {row['limit']:.2f}"
            if row["expect"] == "loses"
            else f"loss at most {100 * abs(row['limit']):.3g} points",
            _plain(row["auroc"]),
            f"{row['what']} {row['reason']}",
        )
        for row in record["rows"]
    ]
    for one in record.get("without_network") or ():
        rows.append((f"no network: {one['name']}", "", _plain(one["weighted_f1"]), "", "", _plain(one["auroc"]), ""))
    headers = ("probe", "result", "weighted F1", "difference in points", "limit", "AUROC", "description")
    return Section(text, headers, rows)


# Patients, external subjects and other images -----------------------------------------------------------------------


def _patients_line(record: Record) -> str:
    right = sum(one["right"] for one in record["patients"])
    return f"{right} of {len(record['patients'])} classified correctly from all their images."


def _patients(record: Record) -> Section:
    text = (
        f"<p>{escape(record['rule'])} Sensitivity {_share(record['sensitivity'])}, specificity "
        f"{_share(record['specificity'])}, AUROC {_plain(record['auroc'])}. For {int(record['undecided'])} of "
        f"{len(record['patients'])} patients the interval includes the threshold, {percent(record['threshold'], 1)}: "
        "undecided.</p>"
    )
    for one in record.get("without_network") or ():
        text += (
            f"<p>The same from {escape(one['name'])} without a network: sensitivity {_share(one['sensitivity'])}, "
            f"specificity {_share(one['specificity'])}, AUROC {_plain(one['auroc'])}.</p>"
        )
    if by_cells := record.get("by_cells"):
        needed = [
            f"{row['cells']:,} images: {_share(row['sensitivity'], 0)} and {_share(row['specificity'], 0)}"
            for row in by_cells
        ]
        text += f"<p>Sensitivity and specificity by images per patient: {'; '.join(needed)}.</p>"
    lines = [_series(key, record.get("by_sigma") or (), key) for key in ("sensitivity", "specificity")]
    return Section(
        text + _chart(lines, "noise (sigma)", "share of patients"),
        ("patient", "true label", "images", "mean probability of leukemia", "decision"),
        [
            (
                str(one["group"]),
                one["label"],
                f"{one['images']:,}",
                _share({"value": one["mean"], "low": one["low"], "high": one["high"]}),
                one["called"],
            )
            for one in record["patients"]
        ],
    )


def _external_line(metrics: Record) -> str:
    sentence = external_result.sentence(metrics).removeprefix("External validation: ")
    return f"{sentence} {external_result.caveat(metrics)}"


def _external(record: Record) -> Section:
    text = f"<p>{escape(record.get('data', ''))}</p><p>{escape(record.get('caveat', ''))}</p>"
    scores = [(name, external_result.value(score)) for name, score in record["metrics"].items()]
    rows = [(name.replace("_", " "), "", "", f"{value:.3f}") for name, value in scores]
    rows += [
        (str(one["donor"]), "leukemic" if one["positive"] else "healthy", f"{one['images']:,}", percent(one["rate"]))
        for one in record.get("per_subject") or ()
    ]
    return Section(text, ("figure or subject", "true label", "images", "value, or share classified as leukemic"), rows)


def _ood_record(folder: ModelFolder) -> Record | None:
    """The block "measured" of gate.json; None without OOD detection or measurement."""
    file = folder.path / "gate.json"
    if folder.ood_detector is None or not file.is_file():
        return None
    measured = json.loads(file.read_text(encoding="utf-8")).get("measured")
    return measured if isinstance(measured, dict) else None


def _ood_line(record: Record) -> str:
    others = list(record["strangers"].values())
    images, refused = (sum(one[key] for one in others) for key in ("images", "refused"))
    own = percent(record["held_out"]["rate"], 1)
    return f"Rejects {percent(refused / images, 1)} of other images, and {own} of unseen images of its own kind."


def _ood(record: Record) -> Section:
    own = record["held_out"]
    text = (
        f"<p>{percent(own['rate'], 1)} of {own['images']:,} images of its own kind, from unseen groups, were rejected"
    )
    if worst := own.get("worst_group"):
        text += f"; at most {percent(worst['rate'], 1)} in a group ({escape(str(worst['group']))})"
    rows = [
        (OTHER_IMAGES.get(name, name.replace("_", " ")), expected, f"{one['images']:,}", percent(_rate(one), 1))
        for key, expected in EXPECTED.items()
        for name, one in (record.get(key) or {}).items()
    ]
    return Section(f"{text}.</p>", ("images", "expected", "number", "rejected"), rows)


def _rate(one: Record) -> float:
    return one["refused"] / one["images"] if one["images"] else 0.0


def _recorded(key: str) -> Callable[[ModelFolder], Any]:
    return lambda folder: folder.metrics.get(key)


def _calibration_part(key: str) -> Callable[[ModelFolder], Any]:
    return lambda folder: (folder.metrics.get("calibration") or {}).get(key)


SECTIONS: dict[str, tuple[Callable[[ModelFolder], Any], Callable[[Any], Section]]] = {
    "Robustness to corruptions": (_recorded("robustness"), _robustness),
    "Calibration": (_recorded("calibration"), _calibration),
    "Selective prediction": (
        lambda folder: folder.metrics["calibration"] if _calibration_part("risk_coverage")(folder) else None,
        _selective,
    ),
    "Operating point": (_calibration_part("operating_point"), _operating_point),
    "Prediction sets": (_calibration_part("prediction_sets"), _prediction_sets),
    "Shortcut probes": (_recorded("probes"), _probes),
    "Patients": (_recorded("patients"), _patients),
    "External validation": (_recorded("external"), _external),
    "Out-of-distribution detection": (_ood_record, _ood),
}


# Formatting ---------------------------------------------------------------------------------------------------------


def _plain(recorded: Record | None, decimals: int = 2) -> str:
    return with_interval(Interval.from_record(recorded), decimals)


def _share(recorded: Record | None, decimals: int = 1) -> str:
    return with_interval(Interval.from_record(recorded), decimals, 100, " %")


def _points(recorded: Record | None, sign: int = 1) -> str:
    """A difference in percentage points; `sign` -1 turns a loss into a difference."""
    one = Interval.from_record(recorded)
    if one is not None:
        one = Interval(sign * one.value, *sorted((sign * one.low, sign * one.high)))
    return with_interval(one, 1, 100, signed=True)


def _series(name: str, rows: Iterable[Record], key: str, x: str = "sigma", band: bool = True) -> Series:
    found = [(row[x], one) for row in rows if (one := Interval.from_record(row.get(key)))]
    ends = [[getattr(one, end) for _, one in found] for end in ("low", "high")] if band else (None, None)
    return Series(name, [place for place, _ in found], [one.value for _, one in found], *ends)


def _chart(lines: Sequence[Series], x_label: str, y_label: str, top: float = 1.0) -> str:
    drawn = [line for line in lines if len(line.xs) > 1]
    if not drawn:
        return ""
    ends = listed([f"{one.name} {percent(one.ys[0])} to {percent(one.ys[-1])}" for one in drawn], "and")
    return line_chart(
        drawn,
        x_label=x_label,
        y_label=y_label,
        x_range=(0, max(max(one.xs) for one in drawn)),
        y_range=(0, top),
        description=f"From left to right: {ends}.",
    )
