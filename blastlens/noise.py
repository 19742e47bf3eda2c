"""Pixel noise, and the sigmas at which models are measured.

Noise belongs on the pixels the network sees: after crop and resize, before normalisation. Added at 450 px and
then resized to 224 px, only about 40 % of its sigma would be left.
"""

import functools
import math
import reprlib
from statistics import NormalDist

import numpy as np

from .errors import BlastlensError

# Standard deviations on the 0 to 255 scale. The MobileNet_M paper trains with 3 and 9 and tests with 2, 5, 8 and 10
# (its text says 6 where its tables say 8, so both are measured).
PAPER_SIGMAS = (2, 5, 6, 8, 10)
NOISE_SIGMAS = (0, 2, 5, 6, 8, 10, 20, 30, 50, 75, 100)
MAX_SIGMA = max(NOISE_SIGMAS)


def add_gaussian_noise(pixels: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Add zero-mean Gaussian noise, independent per pixel and channel.

    The standard normal field depends only on the shape and the seed and is scaled by sigma, so that the
    result changes smoothly as sigma grows. The sum is taken in float, rounded to nearest and clipped.

    Args:
        pixels: uint8 (H, W, 3).
        sigma: standard deviation on the 0 to 255 scale, 0 to 100; 0 returns a copy.
        seed: an integer, 0 or more.

    Raises:
        BlastlensError: pixels of another type or shape, or a sigma or seed out of range.
    """
    check_pixels(pixels)
    sigma, seed = checked_sigma(sigma), checked_seed(seed)
    if sigma == 0:
        return pixels.copy()
    noisy = _standard_normal(pixels.shape, seed) * np.float32(sigma)
    noisy += pixels
    return _as_pixels(noisy)


def shot_noise(pixels: np.ndarray, sigma: float, seed: int = 0) -> np.ndarray:
    """Poisson noise of a photon count, independent per pixel and channel (ImageNet-C).

    A pixel takes a quantile of its Poisson distribution that is drawn for its position, so that, as with Gaussian
    noise, the pattern stays the same while sigma grows.

    Args:
        pixels: uint8 (H, W, 3); black stays black.
        sigma: standard deviation of white on the 0 to 255 scale, above 0: white is (255 / sigma)^2 photons.
    """
    place = pixels.astype(np.int32)
    place *= _QUANTILES
    place += _uniform(pixels.shape, seed)
    return _poisson(float(sigma)).take(place)


def speckle_noise(pixels: np.ndarray, percent: float, seed: int = 0) -> np.ndarray:
    """Multiply each pixel and channel by 1 + normal noise of a standard deviation in percent (ImageNet-C)."""
    # Another field than that of Gaussian noise with the same seed, which may be added on top.
    noisy = _standard_normal(pixels.shape, (seed, 2)) * np.float32(percent / 100)
    noisy += 1
    noisy *= pixels
    return _as_pixels(noisy)


def _as_pixels(values: np.ndarray) -> np.ndarray:
    """Values rounded and clipped, in place, as uint8."""
    np.rint(values, out=values)
    np.clip(values, 0, 255, out=values)
    return values.astype(np.uint8)


def check_pixels(pixels: np.ndarray) -> None:
    """Raise BlastlensError unless pixels are uint8 (H, W, 3)."""
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        seen = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise BlastlensError(f"Noise and other corruptions need uint8 pixels of shape (H, W, 3), not {seen}.")


def checked_sigma(sigma: float) -> float:
    """Return sigma as a float, or raise BlastlensError unless it is a number from 0 to 100."""
    try:
        value = float(sigma)
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 <= value <= MAX_SIGMA:
        raise BlastlensError(f"The noise sigma is {reprlib.repr(sigma)}; a number from 0 to {MAX_SIGMA} is accepted.")
    return value


def checked_seed(seed: int) -> int:
    """Return seed as an int, or raise BlastlensError unless it is an integer from 0 to 2**64 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise BlastlensError(f"The noise seed is {reprlib.repr(seed)}; a whole number from 0 to 2**64 - 1 is accepted.")
    return int(seed)


# A slider uses the same field repeatedly; at 224 px it takes 0.6 MB to keep and 1 ms to draw.
@functools.lru_cache(maxsize=8)
def _standard_normal(shape: tuple[int, ...], seed: int | tuple[int, int]) -> np.ndarray:
    field = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    field.flags.writeable = False
    return field


_QUANTILES = 2048  # equally likely values of each Poisson distribution
_MANY = 1000  # photons from which a Poisson distribution is replaced by a normal one


@functools.lru_cache(maxsize=8)
def _uniform(shape: tuple[int, ...], seed: int) -> np.ndarray:
    # Drawn as int32, as in recorded results; uint16 takes half the memory.
    field = np.random.default_rng((seed, 1)).integers(0, _QUANTILES, shape, dtype=np.int32).astype(np.uint16)
    field.flags.writeable = False
    return field


@functools.lru_cache(maxsize=8)
def _poisson(sigma: float) -> np.ndarray:
    """uint8 (256 * _QUANTILES,): for each pixel value in turn, what _QUANTILES equally likely photon counts show."""
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    normal = np.array([NormalDist().inv_cdf(level) for level in levels.tolist()])
    photons_of_white = (255 / sigma) ** 2
    rows = []
    for mean in np.arange(256) / 255 * photons_of_white:
        if mean > _MANY:
            counts = mean + math.sqrt(mean) * normal
        elif mean > 0:
            k = np.arange(1, math.ceil(mean + 10 * math.sqrt(mean) + 20))
            logarithms = np.concatenate([[0.0], np.cumsum(math.log(mean) - np.log(k))])  # of p(k) / p(0)
            shares = np.exp(logarithms - logarithms.max())
            counts = np.searchsorted(np.cumsum(shares) / shares.sum(), levels)
        else:
            counts = np.zeros(_QUANTILES)
        rows.append(counts * (255 / photons_of_white))
    return np.rint(np.concatenate(rows)).clip(0, 255).astype(np.uint8)
