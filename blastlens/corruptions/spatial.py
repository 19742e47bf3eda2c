"""Corruptions that mix or move pixels: blur by lens, focus and stage; compression and resolution; position, scale bar.

Pillow blurs with a Gaussian. Its other kernels end at 5 by 5 pixels, so a disk or a line uses a Fourier transform.
"""

import functools
import math
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

# Lengths are in pixels of a view of this side, so that models of other input sizes see the same blur.
BLUR_SIDE = 224

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


def blur(pixels: np.ndarray, radius: float, seed: int) -> np.ndarray:
    """Gaussian blur with a standard deviation of `radius`."""
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(_scaled(radius, pixels))))


def defocus(pixels: np.ndarray, radius: float, seed: int) -> np.ndarray:
    """A lens out of focus: each point becomes a disk, the image of the aperture."""
    return _filtered(pixels, _disk(_scaled(radius, pixels)))


def motion_blur(pixels: np.ndarray, length: float, seed: int) -> np.ndarray:
    """A stage that moves during exposure: each point becomes a line, in a direction drawn from the seed."""
    angle = float(np.random.default_rng((seed, 3)).uniform(0, math.pi))
    return _filtered(pixels, _line(_scaled(length, pixels), angle))


def jpeg(pixels: np.ndarray, compression: float, seed: int) -> np.ndarray:
    """Through a JPEG file of quality 100 - `compression`."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(100 - compression))
    return np.array(Image.open(file))


def downsample(pixels: np.ndarray, factor: float, seed: int) -> np.ndarray:
    """Shrink by `factor` by averaging, and enlarge again, smoothly; ImageNet-C's pixelate shows squares instead."""
    image = Image.fromarray(pixels)
    small = tuple(max(1, round(side / factor)) for side in image.size)
    reduced = image.resize(small, Image.Resampling.BOX)  # type: ignore[arg-type]  # a pair, as image.size is
    return np.array(reduced.resize(image.size, Image.Resampling.BILINEAR))


def shift(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """Move by a share of the view's side, in a direction drawn from the seed; black moves in."""
    height, width = pixels.shape[:2]
    angle = float(np.random.default_rng((seed, 4)).uniform(0, 2 * math.pi))
    distance = percent / 100 * min(height, width)
    right, down = round(distance * math.cos(angle)), round(distance * math.sin(angle))
    moved = np.zeros_like(pixels)
    target = moved[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    target[...] = pixels[max(0, -down) : height + min(0, -down), max(0, -right) : width + min(0, -right)]
    return moved


def scale_bar(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """A plate with a scale bar in the lower right corner; its width is a share of the view's side."""
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


def _scaled(length: float, pixels: np.ndarray) -> float:
    return length * min(pixels.shape[:2]) / BLUR_SIDE


def _disk(radius: float) -> np.ndarray:
    reach = math.ceil(radius)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    # A pixel on the edge counts by how much of it lies inside, so that the disk grows smoothly.
    weights = (radius + 0.5 - np.hypot(x, y)).clip(0, 1)
    return weights / weights.sum()


def _line(length: float, angle: float) -> np.ndarray:
    reach = math.ceil(length / 2)
    steps = np.linspace(-length / 2, length / 2, 4 * reach + 1)
    x, y = reach + steps * math.cos(angle), reach + steps * math.sin(angle)
    left, top = (np.floor(place).astype(int).clip(0, 2 * reach - 1) for place in (x, y))
    weights = np.zeros((2 * reach + 1, 2 * reach + 1))
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        share = (1 - abs(x - left - right)) * (1 - abs(y - top - down))
        np.add.at(weights, (top + down, left + right), share)
    return weights / weights.sum()


def _filtered(pixels: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Pixels convolved with a square kernel of odd side; beyond its edges the image goes on mirrored."""
    reach = len(kernel) // 2
    height, width = (_quick(side + 2 * reach) for side in pixels.shape[:2])
    edges = [(reach, full - reach - side) for full, side in zip((height, width), pixels.shape, strict=False)]
    planes = np.pad(pixels.transpose(2, 0, 1).astype(np.float32), [(0, 0), *edges], mode="symmetric")
    response = np.fft.rfft2(kernel.astype(np.float32), (height, width))
    blurred = np.fft.irfft2(np.fft.rfft2(planes) * response, (height, width))
    # The kernel's centre is not at its origin: everything has moved by `reach` once more.
    kept = blurred[:, 2 * reach : 2 * reach + pixels.shape[0], 2 * reach : 2 * reach + pixels.shape[1]]
    return np.ascontiguousarray(np.rint(kept).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


@functools.cache
def _quick(length: int) -> int:
    """The smallest number from `length` on without prime factors above 5: Fourier transforms like those."""
    while math.gcd(length, 30**12) != length:
        length += 1
    return length
