"""Where the cell is in a view: exact for cells that were cut out onto black, by colour for whole fields.

Used to take an image apart for probes, never to make a prediction. A mask by colour is a rough one: it takes smudges
and granulocytes along with the blasts, and a pale nucleus may lose its middle.
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from blastlens.corruptions.colour import BLACK

# A nucleus absorbs green more than red; red cells, bluish or grey in these stains, do not. The share of the optical
# density in red that is taken off the one in green, so that red cells come out at about 0 and clear background, which
# absorbs nothing, at 0 whatever the lamp's tint.
_RED = 0.8
# The least that counts as stained: without it, a field with hardly a nucleus would be cut in two anyway.
_LEAST = 0.1


def cell_mask(pixels: np.ndarray) -> np.ndarray:
    """Where a single cell on black is: uint8 (H, W, 3) -> bool (H, W)."""
    return pixels.max(axis=2) > BLACK


def nuclei_mask(pixels: np.ndarray) -> np.ndarray:
    """Where a smear field is stained as nuclei are: uint8 (H, W, 3) -> bool (H, W).

    The excess of green over red optical density, smoothed, above the threshold that parts it best (Otsu 1979,
    doi 10.1109/TSMC.1979.4310076).
    """
    density = -np.log((pixels[..., :2].astype(np.float32) + 1) / 256)
    excess = gaussian_filter(density[..., 1] - _RED * density[..., 0], len(pixels) / 112)
    return excess > max(otsu(excess), _LEAST)


def otsu(values: np.ndarray) -> float:
    """The threshold with the largest variance between the values below and above it; the value itself if all agree."""
    counts, edges = np.histogram(values, 256)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = counts.cumsum(), (counts * middles).cumsum()
    above = below[-1] - below
    between = (total[-1] * below / below[-1] - total) ** 2 / np.maximum(below * above, 1)
    return float(edges[1:][between.argmax()])
