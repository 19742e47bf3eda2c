"""Colour corruptions by lamp, camera and stain. Each pixel is changed by itself; black background stays black."""

import math

import numpy as np

# A pixel whose brightest channel is at most this is background: the black that a single cell was cut out onto,
# with what resampling or JPEG compression added to it. Stained cells are far brighter.
BLACK = 8

# Red, green, blue to brightness, blue-yellow and red-green differences (ITU-R BT.601), in which hue is an angle.
_LUMA = np.array([0.299, 0.587, 0.114])
TO_YCC = np.array([_LUMA, (np.array([0, 0, 1]) - _LUMA) / 1.772, (np.array([1, 0, 0]) - _LUMA) / 1.402])
FROM_YCC = np.linalg.inv(TO_YCC)

# How much red, green and blue light the dyes of a blood smear absorb: methylene blue and eosin of the Giemsa stain, as
# G. Landini measured them for ImageJ's Colour Deconvolution (Landini, Martinelli & Piccinini 2021,
# doi 10.1093/bioinformatics/btaa847). The third row, at right angles, holds what is neither.
_BLUE = np.array([0.834750233, 0.513556283, 0.196330403])
_EOSIN = np.array([0.092789, 0.954111, 0.283111])
DYES = np.array([_BLUE, _EOSIN, np.cross(_BLUE, _EOSIN)])
OF_DYES = np.linalg.inv(DYES)
# Optical density of each pixel value, as if white were 255; that of 0 would be infinite.
_DENSITY = np.log(255 / np.arange(256).clip(1)).astype(np.float32)


def brightness(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """Exposure: every value multiplied. ImageNet-C adds to the value instead, which would turn black grey."""
    return _rounded(np.arange(256, dtype=np.float32) * np.float32(1 + percent / 100))[pixels]


def contrast(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """Stretch around the mean of what is not background."""
    # Around mid-grey, a dark cell would turn black or light as a whole, which is brightness; around the mean of
    # everything, the black that surrounds it would turn grey.
    lit = _lit(pixels)
    if not lit.any():
        return pixels.copy()
    mean = pixels[lit].mean()
    table = _rounded(mean + (np.arange(256) - mean) * (1 + percent / 100))
    return np.where(lit[..., None], table[pixels], pixels)


def saturation(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """Distance from the grey of equal brightness, scaled."""
    grey = np.tile(_LUMA, (3, 1))
    return _recoloured(pixels, grey + (np.eye(3) - grey) * (1 + percent / 100))


def hue(pixels: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    """Turn colour at equal brightness; a turn in HSV would leave the stain's darkness changed as well."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return _recoloured(pixels, FROM_YCC @ turn @ TO_YCC)


def stain_hue(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """More eosin and less methylene blue in the optical density (Ruifrok & Johnston 2001), or the reverse.

    Tellez et al. 2019 (doi 10.1016/j.media.2019.101544) scale each dye separately; opposite factors change the tint
    most.
    """
    balance = np.diag([1 - percent / 100, 1 + percent / 100, 1])
    density = _DENSITY[pixels] @ (OF_DYES @ balance @ DYES).astype(np.float32)
    return np.where(_lit(pixels)[..., None], _rounded(255 * np.exp(-density)), pixels)


def stain_concentration(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """All optical density scaled (Beer-Lambert): a longer or shorter bath, a thicker or thinner film."""
    table = _rounded(255 * (np.arange(256) / 255) ** (1 + percent / 100))
    return np.where(_lit(pixels)[..., None], table[pixels], pixels)


def _lit(pixels: np.ndarray) -> np.ndarray:
    return pixels.max(axis=2) > BLACK


def _recoloured(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return _rounded(pixels.astype(np.float32) @ matrix.T.astype(np.float32))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)
