"""Pixels as HTML pictures that need no file on disk and no second request. Pure functions, no Gradio."""

import base64
from html import escape
from io import BytesIO

import numpy as np
from PIL import Image

# From dark over amber to pale yellow, which can be read without telling red from green.
_HEAT_COLOURS = np.array([(40, 20, 80), (150, 60, 60), (245, 150, 30), (255, 235, 130)], np.float32)


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (H, W, 3) as a lossless PNG inside a URI."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def figure(pixels: np.ndarray, alt: str, caption: str) -> str:
    """A captioned picture. `gr.Image` puts it, without an alternative text, into a button without a name."""
    return _captioned(f'<img src="{data_uri(pixels)}" alt="{escape(alt)}">', caption)


def before_and_after(clean: np.ndarray, changed: np.ndarray, caption: str) -> str:
    """Two pictures, (H, W, 3) each, one over the other, with a handle to slide between them.

    The handle is a range input, from which the page sets the CSS variable `--cut`. The handle of `gr.ImageSlider`
    cannot be moved by keyboard, and its images have no alternative text.
    """
    return _captioned(
        f'<div class="pair"><img src="{data_uri(changed)}" alt="{escape(caption)}">'
        f'<img class="clean" src="{data_uri(clean)}" alt="The same picture, unchanged">'
        '<input type="range" min="0" max="100" value="50" aria-label="Share of the unchanged picture that is shown">'
        '<span class="side" aria-hidden="true">before</span><span class="side" aria-hidden="true">after</span></div>',
        caption,
    )


def heat_overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay an activation map in 0..1, (H, W), over a dimmed grey copy of the image, uint8 (H, W, 3)."""
    grey = pixels.astype(np.float32).mean(axis=2, keepdims=True) * 0.75
    position = heat.clip(0, 1) * (len(_HEAT_COLOURS) - 1)
    colour = np.stack([np.interp(position, range(len(_HEAT_COLOURS)), channel) for channel in _HEAT_COLOURS.T], axis=2)
    opacity = 0.85 * heat[..., None].clip(0, 1) ** 1.5
    return np.rint(grey * (1 - opacity) + colour * opacity).clip(0, 255).astype(np.uint8)


def _captioned(picture: str, caption: str) -> str:
    return f'<figure class="picture">{picture}<figcaption>{escape(caption)}</figcaption></figure>'
