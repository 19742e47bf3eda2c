"""What the tab of a single image shows about a prediction, as HTML. Pure functions, no Gradio."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from .. import external_result
from ..cell_measurements import MEASURES, donor_ranges, measure_cell
from ..corruptions import KINDS, Corruption
from ..predictions import Curve, Prediction
from ..wording import listed, percent
from .examples import Example
from .links import Scene
from .pictures import before_and_after, figure
from .plots import Series, line_chart
from .words import amount, lower_title, term, unit_text

_OOD_CHECK = (
    "Out-of-distribution detection: measurements of the image, as uploaded, and of the network's features are compared "
    "with those of the training images. It can be wrong."
)


def view_html(clean: np.ndarray, changed: np.ndarray, change: Corruption) -> str:
    """What the model sees, uint8 (H, W, 3), over what it would see without the corruption."""
    caption = f"Model input, {clean.shape[1]} x {clean.shape[0]} pixels: {_words(change)}."
    return figure(clean, caption, caption) if change.is_neutral else before_and_after(clean, changed, caption)


def _words(change: Corruption) -> str:
    return "unchanged" if change.is_neutral else amount(change)


def warnings_html(prediction: Prediction) -> str:
    """Warnings about the model, external validation first, then about the image, and the out-of-distribution check."""
    about_image = [f"{text[0].upper()}{text[1:]}." for text in external_result.of_image(prediction.warnings)]
    about_model = [text for text in prediction.warnings[:1] if not external_result.of_image([text])]
    check = term("OOD check", _OOD_CHECK)
    if prediction.in_domain is False:
        rejected = "<strong>rejected. This image does not look like the training images of this model.</strong>"
        return f'{_box(about_model)}<div class="warning" role="status">{check}: {rejected}{_items(about_image)}</div>'
    passed = f'<p class="fits">{check}: looks like the training images.</p>' if prediction.in_domain else ""
    return _box([*about_model, *about_image]) + passed


def decision_html(prediction: Prediction, figures: Any) -> str:
    """The labels that cannot be ruled out, and whether the image reaches the operating point.

    Args:
        figures: "calibration" of metrics.json. Explanations state what was measured at the nearest level of noise.

    Returns:
        Nothing if the model has no such figures, or if the image is out of distribution, for which they do not hold.
    """
    if prediction.in_domain is False or not isinstance(figures, dict):
        return ""
    lines = []
    if prediction.label_set is not None:
        sets = figures["prediction_sets"]
        meaning = (
            f"Prediction set: the labels that remain if the true one is to be among them {percent(sets['asked'])} of "
            f"the time.{_measured(prediction, sets, 'coverage')} The tab on reliability has the details."
        )
        unsure = ", cannot tell which" if len(prediction.label_set) > 1 else ""
        level = term(f"Not ruled out at {percent(sets['asked'])}", meaning)
        lines.append(f"{level}: <strong>{escape(listed(prediction.label_set))}</strong>{unsure}.")
    if prediction.flagged is not None:
        point = figures["operating_point"]
        target = f" to find at least {percent(point['target'])} of leukemic images" if "target" in point else ""
        meaning = (
            f"Flagged from a probability of leukemia of {percent(point['threshold'], 1)}, a threshold set{target}."
            f"{_measured(prediction, point, 'sensitivity')} There are more false alarms than with the predicted label."
        )
        word = "flagged" if prediction.flagged else "not flagged"
        lines.append(f"{term('Operating point', meaning)}: <strong>{word}</strong>.")
    if lines and _noise_level(prediction) is None:
        lines.append("Both were measured on uncorrupted images; how far they hold under this corruption is unknown.")
    return f'<div class="decision">{"".join(f"<p>{line}</p>" for line in lines)}</div>' if lines else ""


def _noise_level(prediction: Prediction) -> float | None:
    """The level of Gaussian noise, 0 for none; None under any other corruption."""
    if not prediction.corruption:
        return prediction.sigma
    return prediction.corruption["level"] if prediction.corruption["kind"] == "gaussian_noise" else None


def _measured(prediction: Prediction, figures: dict[str, Any], key: str) -> str:
    """A sentence on what was measured on held-out images with the nearest level of noise; "" outside those levels."""
    sigma, rows, where = _noise_level(prediction), figures.get("by_sigma") or (), ""
    if sigma:
        if sigma > max((row["sigma"] for row in rows), default=0):
            return ""
        figures = min(rows, key=lambda row: abs(row["sigma"] - sigma))
        where = f" with noise of sigma {figures['sigma']:g}" if figures["sigma"] else ""
    value = (figures.get(key) or {}).get("value")
    return "" if sigma is None or value is None else f" Measured on held-out images{where}: {percent(value, 1)}."


def measurements_html(metrics: dict[str, Any], clean: np.ndarray) -> str:
    """Size and stain of the cell in `clean`, uint8 (H, W, 3), beside the training donors'; "" for a model without."""
    ranges = donor_ranges(metrics)
    if not ranges:
        return ""
    head = "".join(f'<th scope="col">{escape(label)} donors</th>' for label in ranges)
    rows = []
    for name, value in measure_cell(clean).items():
        title, form = MEASURES[name]
        limits = "".join(f"<td>{form}\u2013{form}</td>".format(*of[name]) for of in ranges.values())
        rows.append(f'<tr><th scope="row">{title}</th><td><b>{form.format(value)}</b></td>{limits}</tr>')
    note = (
        "Of the model input, before corruption; density: optical density. Donors: means of training donors, 5th to "
        "95th percentile. Single cells vary more."
    )
    return (
        '<details class="measured" open><summary>Size and stain of this cell</summary><div class="scroll" tabindex="0" '
        'role="region" aria-label="Measurements"><table class="numbers"><thead><tr><th scope="col"></th>'
        f'<th scope="col">Cell</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
        f'<p class="quiet">{note}</p></details>'
    )


def notes_html(
    prediction: Prediction, change: Corruption, untouched: Prediction, example: Example | None, seconds: float
) -> str:
    """The prediction without the corruption, whether it is right where that is known, and where it comes from."""
    said, before = _said(prediction), _said(untouched)
    lines = []
    if prediction.prevalence is not None:
        lines.append(f"Probabilities assume that {percent(prediction.prevalence)} of the images are leukemic.")
    if not change.is_neutral:
        lines.append(f"Without the corruption: {before}.")
    if example is not None:
        right = "right" if prediction.label == example.label else "<strong>wrong</strong>"
        label = f"{'Drawn as' if example.drawn else 'True label:'} {escape(example.label)}"
        lines.append(f"{label}; the model is {right} here.")
    lines.append(f"Predicted in {1000 * seconds:.0f} ms by {escape(prediction.model_id)}.")
    spoken = f"{said}, {_words(change)}"
    return (
        f'<p class="unseen" role="status">{escape(spoken)}</p><p>{" ".join(lines)} {escape(prediction.disclaimer)}</p>'
    )


def _said(prediction: Prediction) -> str:
    return f"{prediction.label} ({prediction.probabilities[prediction.label]:.0%})"


def error_html(message: str) -> str:
    """An error as an alert."""
    return f'<div class="notes"><p class="error" role="alert">{escape(message)}</p></div>'


def _box(lines: Sequence[str]) -> str:
    return f'<div class="warning" role="status">Please note:{_items(lines)}</div>' if lines else ""


def _items(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def link_html(scene: Scene) -> str:
    """The link to the current view."""
    own = " Your own image is not part of it." if scene.example == "" else ""
    link = f'<a href="?{escape(scene.query())}">Link to this view</a>'
    return f'<p class="share">{link}, also in the address bar.{own}</p>'


def curve_html(curve: Curve, level: float) -> str:
    """A line for each label with its band over noise patterns, the current level and the flip point."""
    kind = KINDS[curve.kind]
    has_band = bool((curve.low != curve.high).any())
    rows = [curve.probabilities, curve.low, curve.high] if has_band else [curve.probabilities]
    series = [
        Series(name, curve.levels, *(row[:, index].tolist() for row in rows))
        for index, name in enumerate(curve.label_names)
    ]
    untouched = curve.probabilities[curve.levels.index(kind.neutral)]
    first = int(untouched.argmax())
    text = f"Unchanged, the prediction is {curve.label_names[first]} ({untouched[first]:.0%})"
    marks = [(level, "now", "now")]
    if curve.flip_level is None:
        ends = [end for end in (kind.low, kind.high) if end != kind.neutral]
        text += f"; it stays so up to {' and '.join(amount(Corruption(curve.kind, end)) for end in ends)}."
    else:
        held, flipped, crossing = _flip(curve, curve.flip_level)
        marks.append((crossing, "flip", "flip point"))
        label = curve.label_names[int(curve.probabilities[flipped].argmax())]
        before, after = (amount(Corruption(curve.kind, curve.levels[at])) for at in (held, flipped))
        text += f"; between {before} and {after} it changes to {label}."
    chart = line_chart(
        series,
        x_label=f"{lower_title(kind)}{unit_text(kind)}",
        y_label="probability",
        x_range=(kind.low, kind.high),
        y_range=(0, 1),
        description=f"{text} The band shows the spread over noise patterns." if has_band else text,
        marks=marks,
    )
    return f'<h2 class="heading">Prediction by level of corruption</h2>{chart}'


def _flip(curve: Curve, flip_level: float) -> tuple[int, int, float]:
    """Indices of the two levels between which the label changes, and where between them the lines cross."""
    flipped = curve.levels.index(flip_level)
    held = flipped - 1 if flip_level > KINDS[curve.kind].neutral else flipped + 1
    rows = curve.probabilities[[flipped, held]]
    lead = rows[:, rows[1].argmax()] - rows[:, rows[0].argmax()]  # of the first label: negative, then positive
    crossing = np.interp(0, lead, [curve.levels[flipped], curve.levels[held]])
    return held, flipped, float(crossing)
