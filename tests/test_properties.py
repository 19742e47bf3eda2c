"""What holds for every input of noise and crop; Hypothesis draws the same ones each time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blastlens.noise import MAX_SIGMA, add_gaussian_noise
from blastlens.view import View

SEEDS = st.integers(0, 2**64 - 1)
SIGMAS = st.floats(0, MAX_SIGMA)
HALF = (0.5, 0.5, 0.5)
# A result must not depend on the machine's speed, nor on what failed here before.
always_the_same = settings(derandomize=True, deadline=None, max_examples=60, database=None)


@st.composite
def pictures(draw, low=1, high=60):
    """uint8 (H, W, 3)."""
    height, width = draw(st.integers(low, high)), draw(st.integers(low, high))
    values = np.random.default_rng(draw(st.integers(0, 1000))).integers(0, 256, (height, width, 3), np.uint8)
    return values // draw(st.sampled_from((1, 255, 256 // 2)))


@always_the_same
@given(pictures(), SIGMAS, SIGMAS, SEEDS)
def test_more_noise_of_one_seed_moves_no_pixel_less(pixels, one, other, seed):
    less, more = (
        np.abs(add_gaussian_noise(pixels, sigma, seed).astype(int) - pixels) for sigma in sorted((one, other))
    )
    assert (more >= less).all()


@always_the_same
@given(pictures(low=16, high=200), st.sampled_from((None, 40, 64)), st.sampled_from(("bicubic", "bilinear", "lanczos")))
def test_a_view_is_a_square_of_its_size_within_the_pictures_range(pixels, frame, interpolation):
    flat = np.full_like(pixels, pixels[0, 0])
    view = View(32, frame, interpolation, HALF, HALF)
    seen = view.apply(Image.fromarray(pixels))
    assert seen.shape == (32, 32, 3) and seen.dtype == np.uint8
    # One colour stays that colour; around a cell it is black.
    colours = {tuple(colour) for colour in view.apply(Image.fromarray(flat)).reshape(-1, 3).tolist()}
    assert colours <= {tuple(flat[0, 0].tolist()), (0, 0, 0)}
    if frame is None:
        assert (0, 0, 0) not in colours or not flat.any()


@always_the_same
@given(pictures(low=16, high=32))
def test_a_picture_within_the_frame_is_moved_not_changed(pixels):
    seen = View(32, 40, "bicubic", HALF, HALF).apply(Image.fromarray(pixels))
    height, width, _ = pixels.shape
    margin = (40 - 32) // 2
    top, left = (40 - height) // 2 - margin, (40 - width) // 2 - margin
    assert np.array_equal(seen[top : top + height, left : left + width], pixels)
    assert int(seen.sum()) == int(pixels.sum())
