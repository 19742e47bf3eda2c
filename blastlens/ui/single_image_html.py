"""What the first tab says of one image, as HTML. Pure functions, no Gradio."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from .. import external_result
from ..classifier import Prediction
from ..corruptions import KINDS, Corruption
from ..wording import listed, percent
from .examples import Example
from .links import Scene, name_of
from .pictures import comparison, figure, thumbnail_uri
from .trust_values import score
from .words import amount, by_family, term


def seen_html(clean: np.ndarray, changed: np.ndarray, change: Corruption) -> str:
    """What the model sees, uint8 (H, W, 3), beside what it would see without the change."""
    size = f"{clean.shape[1]} by {clean.shape[0]} pixels"
    if change.is_neutral:
        caption = f"What the model sees: {size}, unchanged."
        return figure(clean, caption, caption)
    return comparison(clean, changed, f"What the model sees: {size}, {amount(change)}.")


def caution_html(prediction: Prediction, better: tuple[str, str] | None = None) -> str:
    """What to know before the answer: the input check, which looks at the image as it was given, and other warnings.

    Args:
        better: what to call the model that knows such images, and its name; a button gives the image to it.
    """
    meaning = (
        "A few measurements of the image, as given, and of what the network sees in it are held against the training "
        "images. It can be wrong."
    )
    check = term("Input check", meaning)
    lines = [f"{text[0].upper()}{text[1:]}." for text in external_result.of_image(prediction.warnings)]
    model = [text for text in prediction.warnings[:1] if not external_result.of_image([text])]
    if prediction.in_domain is False:
        told = f"{check}: <strong>refused. Your image is unlike those this model knows.</strong>{_list(lines)}"
        if better:
            title, name = better
            told += (
                f'<p class="better">It looks like an image for another model. <button type="button" '
                f'data-value="{escape(name)}">Open it in: {escape(title)}</button></p>'
            )
        return f'<div class="notes">{remarks_html(model)}<div class="warning" role="status">{told}</div></div>'
    fits = f'<p class="fits">{check}: your image looks like those this model knows.</p>' if prediction.in_domain else ""
    return f'<div class="notes">{remarks_html([*model, *lines])}{fits}</div>'


def decision_html(prediction: Prediction, figures: Any) -> str:
    """What can be decided by an answer: the labels that cannot be ruled out, and whether it would be flagged.

    Args:
        figures: "calibration" of the model's metrics.json, by which it was decided.

    Returns:
        Nothing where the model has no such figures, or where the image is not of its kind, for which they say nothing.
        Of a changed image they speak of what was measured on such images, or say that nothing was.
    """
    if prediction.in_domain is False or not isinstance(figures, dict):
        return ""
    told = []
    if prediction.label_set is not None:
        sets = figures["prediction_sets"]
        many = len(prediction.label_set) > 1
        on, found = _measured(prediction, sets)
        covered = score(found.get("coverage"))
        measured = f"On held-out images{on} it was {percent(covered.value, 1)} of the time. " if covered else ""
        meaning = (
            f"Every label that cannot be left out if the true one is to be among them {percent(sets['asked'])} of the "
            f"time. {measured}How far that can be trusted stands under its tab."
        )
        asked = term(f"At {percent(sets['asked'])}", meaning)
        doubt = ", it cannot tell which" if many else ""
        told.append(f"{asked}: <strong>{escape(listed(prediction.label_set))}</strong>{doubt}.")
    if prediction.flagged is not None:
        point = figures["operating_point"]
        target = f" at least {percent(point['target'])} of" if "target" in point else ""
        on, found = _measured(prediction, point)
        reached = score(found.get("sensitivity"))
        measured = f" Of held-out ones{on} it found {percent(reached.value, 1)}." if reached else ""
        meaning = (
            f"From a probability of leukemia of {percent(point['threshold'], 1)} on, chosen to find{target} leukemic "
            f"images.{measured} It raises more false alarms than the answer alone."
        )
        word = "flagged" if prediction.flagged else "not flagged"
        told.append(f"{term('Set to miss few', meaning)}: <strong>{word}</strong>.")
    if told and prediction.corruption and not _is_noise(prediction):
        told.append("Both were set and measured on images as they are. With this flaw nobody knows how far they hold.")
    return f'<div class="notes decision">{"".join(f"<p>{text}</p>" for text in told)}</div>' if told else ""


def _is_noise(prediction: Prediction) -> bool:
    return not prediction.corruption or prediction.corruption["kind"] == "gaussian_noise"


def _measured(prediction: Prediction, figures: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What was measured on images like this one, and in words on which: with the nearest noise, or none."""
    if not _is_noise(prediction):
        return "", {}
    level = prediction.corruption["level"] if prediction.corruption else prediction.sigma
    rows = figures.get("by_sigma") or ()
    if not level:
        return "", figures
    if level > max((row["sigma"] for row in rows), default=0):
        return "", {}
    nearest = min(rows, key=lambda row: abs(row["sigma"] - level))
    return f" with noise of sigma {nearest['sigma']:g}" if nearest["sigma"] else "", nearest


def kinds_html() -> str:
    """The picker of the ways to make an image worse, by family; which is chosen, its component keeps."""
    groups = "".join(
        f'<optgroup label="{escape(family)}">'
        + "".join(f'<option value="{escape(name)}">{escape(KINDS[name].title)}</option>' for name in names)
        + "</optgroup>"
        for family, names in by_family(KINDS).items()
    )
    return f"<label><span>Make it worse with</span><select>{groups}</select></label>"


def remarks_html(lines: Sequence[str]) -> str:
    """Remarks as one box; nothing where there are none."""
    if not lines:
        return ""
    return f'<div class="warning" role="status">Please note:{_list(lines)}</div>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def notes_html(
    prediction: Prediction, change: Corruption, untouched: Prediction, example: Example | None, seconds: float
) -> str:
    """What to know after the answer: what it was without the change, whether it is right, and where it comes from."""
    said, before = _said(prediction), _said(untouched)
    lines = []
    if prediction.prevalence is not None:
        lines.append(f"Probabilities assume that {percent(prediction.prevalence)} of the images are leukemic.")
    if not change.is_neutral:
        lines.append(f"Without the change it says {before}.")
    if example is not None:
        right = "right" if prediction.label == example.label else "<strong>wrong</strong>"
        known = "Drawn as" if example.drawn else "True label:"
        lines.append(f"{known} {escape(example.label)}; the model is {right} here.")
    told = f"<p>{' '.join(lines)}</p>" if lines else ""
    spoken = f"{said}, {'unchanged' if change.is_neutral else amount(change)}"
    time_taken = f"Answered in {1000 * seconds:.0f} ms by {escape(prediction.model_id)}."
    return (
        f'<div class="notes"><p class="unseen" role="status">{escape(spoken)}</p>{told}'
        f"<p>{time_taken} {escape(prediction.disclaimer)}</p></div>"
    )


def _said(prediction: Prediction) -> str:
    return f"{prediction.label} ({prediction.probabilities[prediction.label]:.0%})"


def link_html(scene: Scene) -> str:
    """The link to what is shown."""
    own = "; an image of your own is not part of it" if scene.example == "" else ""
    link = f'<a href="?{escape(scene.query())}">Link to this view</a>'
    return f'<p class="share">{link}: the address bar holds it, too{own}.</p>'


# What the groups of marks are called on the page, with an explanation.
_GROUPS = {
    "training": ("trained with", "The model of the MobileNet_M paper learned from images with this much noise added."),
    "paper": ("tested in the paper", "The MobileNet_M paper reports accuracy at these amounts of noise."),
    "ImageNet-C": ("ImageNet-C 1 to 5", "The five severities of a well-known robustness test for photographs."),
    "MedMNIST-C": ("MedMNIST-C 1 to 5", "The five severities of a robustness test for medical images."),
    "stain augmentation": (
        "stain, 1 to 5",
        "Five severities from how far stains are varied on purpose when models for tissue are trained.",
    ),
    "our own": ("severity 1 to 5", "Five severities of our own, where nobody has published any."),
    "usual": ("usual", "What many programs do unless told otherwise."),
}


def marks_html(name: str) -> str:
    """HTML: ticks on the slider's track, and the same levels as buttons, by what they stand for."""
    kind = KINDS[name]
    groups: dict[str, list[Any]] = {}
    for mark in kind.marks:
        groups.setdefault(mark.group, []).append(mark)
    rows, ticks = [], []
    for number, (group, marks) in enumerate(groups.items()):
        title, meaning = _GROUPS.get(group, (group, ""))
        named = term(title, meaning) if meaning else escape(title)
        buttons = "".join(
            f'<button type="button" data-value="{mark.level:g}" title="{escape(mark.text)}" '
            f'aria-label="{escape(kind.title)} {mark.level:g}: {escape(mark.text)}">{mark.level:g}</button>'
            for mark in marks
        )
        rows.append(f'<li class="mark-{number}"><span>{named}</span>{buttons}</li>')
        for mark in marks:
            share = (mark.level - kind.low) / (kind.high - kind.low)
            # The thumb's middle travels from half its width to the same distance from the other end.
            ticks.append(
                f"linear-gradient(var(--mark-{number}), var(--mark-{number})) "
                f"calc(9px + (100% - 18px) * {share:.4f}) 50% / 2px 18px no-repeat"
            )
    style = f"<style>.level input[type=range] {{ background: {', '.join(ticks)} !important; }}</style>" if ticks else ""
    return f'{style}<ul class="marks">{"".join(rows)}</ul>'


def offer_html(examples: tuple[Example, ...], chosen: str = "") -> str:
    """The examples as buttons, drawn ones and people's images apart from each other; `chosen` is the name of one."""
    drawn = "Or try one of these: <strong>drawn by this project, not patients.</strong>"
    real = (
        "<strong>Real images</strong> found on this computer, with their true labels. The model may have been trained "
        "on them, so a right answer here proves little."
    )
    parts = []
    for heading, is_drawn in ((drawn, True), (real, False)):
        buttons = [_example_button(one, chosen) for one in examples if one.drawn == is_drawn]
        if buttons:
            rows = f'<ul class="of-{3 if len(buttons) % 3 == 0 else 4}">{"".join(buttons)}</ul>'
            parts.append(f'<section class="examples"><p>{heading}</p>{rows}</section>')
    return "".join(parts)


def _example_button(example: Example, chosen: str) -> str:
    name = name_of(example)
    return (
        f'<li><button type="button" data-value="{escape(name)}" aria-pressed="{str(name == chosen).lower()}">'
        f'<img src="{thumbnail_uri(example.path)}" alt="{escape(name.replace("-", " "))}">{escape(example.label)}'
        "</button></li>"
    )
