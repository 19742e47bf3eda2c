"""Gaussian noise: the paper's meaning, and none of the ways libraries get it wrong."""

import numpy as np
import pytest

from blastlens.errors import BlastlensError
from blastlens.noise import add_gaussian_noise

GREY = np.full((32, 32, 3), 128, np.uint8)


def test_noise_is_one_standard_normal_field_scaled_rounded_and_clipped():
    pixels = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    field = np.random.default_rng(7).standard_normal(pixels.shape, dtype=np.float32)
    for sigma in (0.5, 9, 100):
        expected = np.clip(np.rint(pixels + np.float32(sigma) * field), 0, 255).astype(np.uint8)
        assert np.array_equal(add_gaussian_noise(pixels, sigma, seed=7), expected)


@pytest.mark.parametrize("sigma", [-1, 100.5, float("nan"), float("inf"), "loud", None])
def test_a_sigma_outside_0_to_100_is_refused(sigma):
    with pytest.raises(BlastlensError, match="a number from 0 to 100 is accepted"):
        add_gaussian_noise(GREY, sigma)


@pytest.mark.parametrize("seed", [-1, 1.5, True, "x", None, 2**64])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(BlastlensError, match="whole number"):
        add_gaussian_noise(GREY, 1, seed)
