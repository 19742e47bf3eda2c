"""Pixels, and the curve of one image, as HTML and SVG that need nothing from the network. Pure functions, no Gradio."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ..classifier import Curve
from ..corruptions import KINDS, Corruption
from .plots import Series, line_chart
from .words import amount


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3) as a lossless PNG inside a URI: every pixel as it is, and nothing written to disk."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def thumbnail_uri(path: Path, side: int = 120) -> str:
    """A small JPEG of an image file inside a URI."""
    file = BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((side, side))
    small.save(file, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def figure(pixels: np.ndarray, alt: str, caption: str) -> str:
    """A captioned picture."""
    return (
        f'<figure class="picture"><img src="{data_uri(pixels)}" alt="{escape(alt)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


# From dark over amber to pale yellow, so that it reads without telling red from green.
_HEAT = np.array([(40, 20, 80), (150, 60, 60), (245, 150, 30), (255, 235, 130)], np.float32)


def heat_overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay an activation map in 0..1, (H, W), over a dimmed grey copy of the image, uint8 (H, W, 3)."""
    grey = pixels.astype(np.float32).mean(axis=2, keepdims=True) * 0.75
    position = heat.clip(0, 1) * (len(_HEAT) - 1)
    colour = np.stack([np.interp(position, range(len(_HEAT)), channel) for channel in _HEAT.T], axis=2)
    opacity = 0.85 * heat[..., None].clip(0, 1) ** 1.5
    return np.rint(grey * (1 - opacity) + colour * opacity).clip(0, 255).astype(np.uint8)


def comparison(clean: np.ndarray, changed: np.ndarray, caption: str) -> str:
    """The same picture before and after, (H, W, 3) each, one over the other, with a handle to slide between them.

    The handle is a range input; the page sets the CSS variable `--cut` from it, where the one gives way.
    """
    return (
        f'<figure class="picture comparison"><div class="pair"><img src="{data_uri(changed)}" alt="{escape(caption)}">'
        f'<img class="clean" src="{data_uri(clean)}" alt="The same picture, unchanged">'
        '<input type="range" min="0" max="100" value="50" aria-label="How much of the unchanged picture to show">'
        '<span class="side" aria-hidden="true">before</span><span class="side" aria-hidden="true">after</span></div>'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def curve_figure(curve: Curve, names: Sequence[str], level: float) -> str:
    """Draw the curve of one image: a line for each label with its band over noise patterns, now, and the flip.

    Args:
        curve: with ascending levels.
        names: what to call its labels, in their order.
        level: the current level of the curve's kind.
    """
    kind = KINDS[curve.kind]
    rows = [curve.probabilities, curve.low, curve.high] if _has_band(curve) else [curve.probabilities]
    series = [Series(name, curve.levels, *(row[:, index].tolist() for row in rows)) for index, name in enumerate(names)]
    turn = _turn(curve)
    flips = [(turn.place, "flip", "flips")] if turn else []
    unit = f" ({kind.unit})" if kind.unit else " (sigma)" if kind.seeded else ""
    chart = line_chart(
        series,
        x_label=f"{kind.title.lower() if kind.title != 'JPEG compression' else kind.title}{unit}",
        y_label="probability",
        x_range=(kind.low, kind.high),
        y_range=(0, 1),
        description=describe(curve, names),
        marks=[*flips, (level, "now", "now")],
    )
    return f'<h2 class="heading">How the answer holds as the image gets worse</h2>{chart}'


def describe(curve: Curve, names: Sequence[str]) -> str:
    """A sentence or two for what the curve shows, for those who cannot see it and as its caption."""
    kind = KINDS[curve.kind]
    untouched = curve.probabilities[curve.levels.index(kind.neutral)]
    first = int(untouched.argmax())
    start = f"Unchanged, the answer is {names[first]} ({untouched[first]:.0%})"
    turn = _turn(curve)
    if turn is None:
        ends = [level for level in (kind.low, kind.high) if level != kind.neutral]
        reach = " and ".join(amount(Corruption(curve.kind, level)) for level in ends)
        text = f"{start}, and it stays so up to {reach}."
    else:
        before, after = (amount(Corruption(curve.kind, level)) for level in (turn.before, turn.after))
        text = f"{start}; between {before} and {after} it turns to {names[turn.to]}."
    patterns = "The band shows how far it moves from one noise pattern to the next."
    return f"{text} {patterns}" if _has_band(curve) else text


@dataclass(frozen=True)
class _Turn:
    """Where the answer turns: the two neighbouring levels, where between them the lines cross, and the new label."""

    before: float
    after: float
    place: float
    to: int


def _turn(curve: Curve) -> _Turn | None:
    if curve.flip_level is None:
        return None
    neutral = KINDS[curve.kind].neutral
    flipped = curve.levels.index(curve.flip_level)
    held = flipped - 1 if curve.flip_level > neutral else flipped + 1
    first, other = (int(curve.probabilities[row].argmax()) for row in (held, flipped))
    lead = [float(curve.probabilities[row, first] - curve.probabilities[row, other]) for row in (held, flipped)]
    share = lead[0] / (lead[0] - lead[1])
    before, after = curve.levels[held], curve.levels[flipped]
    return _Turn(before, after, before + share * (after - before), other)


def _has_band(curve: Curve) -> bool:
    return bool((curve.low != curve.high).any())
