"""Where things are in an image, and what was written on it."""

import math

import numpy as np
from PIL import Image

# The 4-class set's scale bars: dark on a white plate, this high for its width, "100" over a bar with ends.
_PLATE = """
...............
..#..###..###..
.##..#.#..#.#..
..#..#.#..#.#..
..#..#.#..#.#..
.###.###..###..
...............
.#...........#.
.#############.
...............
"""
_PIXELS = np.array([[255 if letter == "." else 20 for letter in row] for row in _PLATE.split()], np.uint8)


def shift(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """Off centre by so much of the view's side, in a direction drawn from the seed; black moves in."""
    height, width = pixels.shape[:2]
    angle = float(np.random.default_rng((seed, 4)).uniform(0, 2 * math.pi))
    distance = percent / 100 * min(height, width)
    right, down = round(distance * math.cos(angle)), round(distance * math.sin(angle))
    moved = np.zeros_like(pixels)
    target = moved[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    target[...] = pixels[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
    return moved


def scale_bar(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """A plate with a scale bar in the lower right corner, as wide as so much of the view's side."""
    side = min(pixels.shape[:2])
    width = max(1, round(percent / 100 * side))
    height = max(1, round(width * _PIXELS.shape[0] / _PIXELS.shape[1]))
    plate = Image.fromarray(_PIXELS).resize((width, height), Image.Resampling.BOX)
    marked = pixels.copy()
    margin = round(side / 50)
    bottom, right = (length - margin for length in pixels.shape[:2])
    corner = marked[max(0, bottom - height) : bottom, max(0, right - width) : right]
    corner[...] = np.asarray(plate)[height - corner.shape[0] :, width - corner.shape[1] :, None]
    return marked
