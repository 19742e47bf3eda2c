"""Size and stain of a single segmented cell: a few numbers that say more about a prediction than an activation map."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .corruptions.colour import BLACK

# By name: what it is, and how it is written.
MEASURES = {
    "area": ("Area (1,000 px)", "{:.1f}"),
    "diameter": ("Diameter (px)", "{:.0f}"),
    "density_red": ("Density, red", "{:.2f}"),
    "density_green": ("Density, green", "{:.2f}"),
    "density_blue": ("Density, blue", "{:.2f}"),
}


def measure_cell(pixels: np.ndarray) -> dict[str, float]:
    """Measure one cell, by the names of `MEASURES`; without a cell, every value is 0.

    Args:
        pixels: uint8 (H, W, 3), a cell on black, as the model sees it. The area is in thousands of pixels; the
            diameter is that of a disc of the same area, in pixels; optical densities are means over the cell of the
            natural logarithm of 256 / (value + 1).
    """
    cell = pixels[pixels.max(axis=2) > BLACK]
    if not len(cell):
        return dict.fromkeys(MEASURES, 0.0)
    density = np.log(256 / (cell.astype(np.float64) + 1)).mean(axis=0)
    numbers = (len(cell) / 1000, 2 * np.sqrt(len(cell) / np.pi), *density)
    return {name: float(number) for name, number in zip(MEASURES, numbers, strict=True)}


def donor_ranges(metrics: Mapping[str, Any]) -> dict[str, dict[str, tuple[float, float]]]:
    """Range of the training donors' means by label and measure, from metrics.json; empty where it has none."""
    try:
        recorded = metrics["subjects"]["ranges"]
        return {
            str(label): {name: (float(of[name][0]), float(of[name][1])) for name in MEASURES}
            for label, of in recorded.items()
        }
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return {}
