"""Explanations: the place that a label rests on is the brightest."""

import numpy as np
import pytest

from blastlens.explanations import explanation
from blastlens.inference import Network


class LooksAtOnePlace(Network):
    """Label 1 is the brightness of rows 8 to 23 and columns 40 to 55; label 0 is constant."""

    outputs = ("logits",)

    def run(self, outputs, views):
        brightness = np.stack(views)[:, 8:24, 40:56].mean((1, 2, 3))
        return [np.stack([np.zeros(len(views)), brightness / 10], axis=1).astype(np.float32)]


@pytest.fixture(scope="module")
def view() -> np.ndarray:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[8:24, 40:56] = 200
    pixels[40:60, 5:25] = 200  # as bright, and of no effect
    return pixels


def test_occlusion_is_brightest_where_the_label_rests(view):
    heat = explanation(LooksAtOnePlace(), view, 1)
    assert heat.shape == (64, 64) and heat.dtype == np.float32
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 8 <= row < 24 and 40 <= column < 56
    assert heat.min() == 0 and heat.max() == 1
    assert heat[40:60, 5:25].max() == 0


def test_occlusion_of_the_other_label_is_the_opposite(view):
    opposite = 1 - explanation(LooksAtOnePlace(), view, 1)
    np.testing.assert_allclose(explanation(LooksAtOnePlace(), view, 0), opposite, atol=1e-6)


def test_an_image_of_one_color_has_an_empty_map():
    assert not explanation(LooksAtOnePlace(), np.full((64, 64, 3), 90, np.uint8), 1).any()
