"""What the first tab says of one image, as HTML. Pure functions, no Gradio."""

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from ..classifier import Prediction
from ..corruptions import KINDS, Corruption
from .examples import Example
from .links import Scene, name_of
from .pictures import comparison, figure, thumbnail_uri
from .words import amount, term


def seen_html(clean: np.ndarray, changed: np.ndarray, change: Corruption) -> str:
    """What the model sees, uint8 (H, W, 3), beside what it would see without the change."""
    size = f"{clean.shape[1]} by {clean.shape[0]} pixels"
    if change.is_neutral:
        caption = f"What the model sees: {size}, unchanged."
        return figure(clean, caption, caption)
    return comparison(clean, changed, f"What the model sees: {size}, {amount(change)}.")


def caution_html(prediction: Prediction) -> str:
    """What to know before the answer: the input check, which looks at the image as it was given, and other warnings."""
    meaning = "A few measurements of the image, as given, are held against the training images. It can be wrong."
    check, lines = term("Input check", meaning), [f"{text[0].upper()}{text[1:]}." for text in prediction.warnings]
    if prediction.in_domain is False:
        told = f"{check}: <strong>your image is unlike those this model knows.</strong>{_list(lines)}"
        return f'<div class="notes"><div class="warning" role="status">{told}</div></div>'
    fits = f'<p class="fits">{check}: your image looks like those this model knows.</p>' if prediction.in_domain else ""
    return f'<div class="notes">{remarks_html(lines) if lines else ""}{fits}</div>'


def remarks_html(lines: Sequence[str]) -> str:
    """Remarks as one box."""
    return f'<div class="warning" role="status">Please note:{_list(lines)}</div>'


def _list(lines: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def notes_html(
    prediction: Prediction, change: Corruption, untouched: Prediction, example: Example | None, seconds: float
) -> str:
    """What to know after the answer: what it was without the change, whether it is right, and where it comes from."""
    said, before = _said(prediction), _said(untouched)
    lines = []
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
        buttons = "".join(
            f'<button type="button" data-value="{mark.level:g}" title="{escape(mark.text)}" '
            f'aria-label="{escape(kind.title)} {mark.level:g}: {escape(mark.text)}">{mark.level:g}</button>'
            for mark in marks
        )
        rows.append(f'<li class="mark-{number}"><span>{term(title, meaning)}</span>{buttons}</li>')
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
