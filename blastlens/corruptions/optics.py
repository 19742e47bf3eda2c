"""What lens, stage and focus do to an image: three blurs, all given in pixels of a view of BLUR_SIDE.

Pillow blurs with a Gaussian. Its kernels for anything else end at 5 by 5 pixels, so a disk or a line goes through a
Fourier transform, which takes the same time for any size.
"""

import functools
import math

import numpy as np
from PIL import Image, ImageFilter

# Lengths are in pixels of a view of this side, so that models of other input sizes see the same blur.
BLUR_SIDE = 224


def blur(pixels: np.ndarray, radius: float, seed: int) -> np.ndarray:
    """Gaussian blur with a standard deviation of `radius`."""
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(_scaled(radius, pixels))))


def defocus(pixels: np.ndarray, radius: float, seed: int) -> np.ndarray:
    """What a lens out of focus does: each point becomes a disk, the image of the aperture."""
    return _filtered(pixels, _disk(_scaled(radius, pixels)))


def motion_blur(pixels: np.ndarray, length: float, seed: int) -> np.ndarray:
    """What a stage that moves during exposure does: each point becomes a line, in a direction drawn from the seed."""
    angle = float(np.random.default_rng((seed, 3)).uniform(0, math.pi))
    return _filtered(pixels, _line(_scaled(length, pixels), angle))


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
