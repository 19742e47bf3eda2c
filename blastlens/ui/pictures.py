"""Pixels and curves as HTML and SVG that need nothing from the network. Pure functions, no Gradio."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ..classifier import NoiseCurve
from ..noise import MAX_SIGMA


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


# The plot area inside the SVG. Across in per cent: the curve fits any width, its letters keep their size.
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 11.0, 97.0, 26, 206, 246


def noise_curve_svg(curve: NoiseCurve, names: Sequence[str], sigma: float) -> str:
    """Draw a noise curve: one line per label, the current sigma, and where the answer flips.

    Args:
        curve: with ascending sigmas.
        names: what to call its labels, in their order.
        sigma: the current noise level, 0 to 100.
    """
    lines, legend = [], []
    for index, name in enumerate(names):
        points = " ".join(
            f"{s:g},{100 * (1 - p):.2f}" for s, p in zip(curve.sigmas, curve.probabilities[:, index], strict=True)
        )
        lines.append(f'<polyline class="line-{index % 4}" points="{points}"/>')
        legend.append(f'<li><i class="swatch-{index % 4}"></i>{escape(name)}</li>')
    return (
        '<h2 class="heading">How the answer holds as noise grows</h2><figure class="curve">'
        f'<ul class="legend">{"".join(legend)}</ul>'
        f'<svg width="100%" height="{_HEIGHT}" role="img" aria-label="{escape(describe(curve, names))}">'
        f"{_grid()}"
        f'<svg x="{_LEFT}%" y="{_TOP}" width="{_RIGHT - _LEFT}%" height="{_BOTTOM - _TOP}" '
        f'viewBox="0 0 {MAX_SIGMA} 100" preserveAspectRatio="none">{"".join(lines)}</svg>'
        f"{_mark(curve.flip_sigma, 'flip', 'flips')}{_mark(sigma, 'now', 'now')}</svg>"
        f"<figcaption>{escape(describe(curve, names))}</figcaption></figure>"
    )


def describe(curve: NoiseCurve, names: Sequence[str]) -> str:
    """One sentence for what the curve shows, for those who cannot see it and as its caption."""
    first, last = curve.probabilities[0].argmax(), curve.probabilities[-1].argmax()
    start = f"Without noise the answer is {names[first]} ({curve.probabilities[0, first]:.0%})"
    if curve.flip_sigma is None:
        end = f"noise {curve.sigmas[-1]:g} ({curve.probabilities[-1, last]:.0%})"
        return f"{start}, and it stays so up to {end}."
    flipped = curve.sigmas.index(curve.flip_sigma)
    other = names[curve.probabilities[flipped].argmax()]
    return f"{start}; by noise {curve.flip_sigma:g} it has flipped to {other}."


def _across(sigma: float) -> float:
    return _LEFT + (_RIGHT - _LEFT) * sigma / MAX_SIGMA


def _grid() -> str:
    parts = []
    for share in (0, 50, 100):
        y = _BOTTOM - (_BOTTOM - _TOP) * share / 100
        parts.append(f'<line class="grid" x1="{_LEFT}%" x2="{_RIGHT}%" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{_LEFT - 1.5}%" y="{y + 4}" text-anchor="end">{share} %</text>')
    for sigma in range(0, MAX_SIGMA + 1, 20):
        parts.append(f'<text x="{_across(sigma):.2f}%" y="{_BOTTOM + 17}" text-anchor="middle">{sigma}</text>')
    parts.append(f'<text x="{_across(50):.2f}%" y="{_BOTTOM + 35}" text-anchor="middle">noise (sigma)</text>')
    return "".join(parts)


def _mark(sigma: float | None, kind: str, word: str) -> str:
    if sigma is None:
        return ""
    x = f"{_across(sigma):.2f}%"
    anchor = "start" if sigma < 5 else "end" if sigma > 95 else "middle"
    y = _TOP - 14 if kind == "flip" else _TOP - 3
    return (
        f'<g class="{kind}"><line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_BOTTOM}"/>'
        f'<text x="{x}" y="{y}" text-anchor="{anchor}">{word}</text></g>'
    )
