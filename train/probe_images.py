"""What the shortcut probes do to a view: uint8 (S, S, 3), what is typical, random numbers -> the same shape.

Which probe expects what: `probes.yaml`. Where the cell is: `train.masks`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import maximum_filter

from train.masks import cell_mask, nuclei_mask

QUALITY = 75  # of JPEG, the default of most programs
SHIFT = 0.1  # of the side
# Side of the square in the lower right corner of a published field that holds its scale bar, of the image's side; the
# largest of the three kinds of bar reaches 0.134.
CORNER = 0.16


@dataclass(frozen=True, eq=False)
class Typical:
    """What training images of a fold look like: area of a cell (of all nuclei, in fields) in pixels, the geometric mean
    of the classes' medians; mean colour (3,) uint8 of cell (nuclei) and of the rest, black around single cells."""

    area: float
    inside: np.ndarray
    outside: np.ndarray


Alter = Callable[[np.ndarray, Typical, np.random.Generator], np.ndarray]


def grey(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """Brightness without colour (ITU-R BT.601)."""
    return np.asarray(Image.fromarray(pixels).convert("L").convert("RGB"))


def quarter_turn(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """Turned by 90 degrees, exactly."""
    return np.ascontiguousarray(np.rot90(pixels))


def eighth_turn_of_cell(
    pixels: np.ndarray, typical: Typical, rng: np.random.Generator, mode: Literal["constant", "reflect"] = "constant"
) -> np.ndarray:
    """Turned by 45 degrees; beyond the border is black, or the image mirrored."""
    margin = len(pixels) // 2 - 1  # of which a turn by 45 degrees needs 0.21 of the side
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode=mode)
    turned = Image.fromarray(padded).rotate(45, Image.Resampling.BICUBIC)
    return np.asarray(turned)[margin:-margin, margin:-margin]


eighth_turn_of_field = partial(eighth_turn_of_cell, mode="reflect")


def shifted_cell(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A cell on black moved by `SHIFT` in a random direction, but never over the border."""
    rows, columns = np.nonzero(cell_mask(pixels))
    if not len(rows):
        return pixels
    down, right = _direction(len(pixels), rng)
    down = int(np.clip(down, -rows.min(), len(pixels) - 1 - rows.max()))
    right = int(np.clip(right, -columns.min(), len(pixels) - 1 - columns.max()))
    return _moved(pixels, down, right, "constant")


def shifted_field(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A field moved by `SHIFT` in a random direction, mirrored where nothing is known."""
    return _moved(pixels, *_direction(len(pixels), rng), "reflect")


def _direction(side: int, rng: np.random.Generator) -> tuple[int, int]:
    angle = rng.uniform(0, 2 * np.pi)
    return round(SHIFT * side * np.sin(angle)), round(SHIFT * side * np.cos(angle))


def _moved(pixels: np.ndarray, down: int, right: int, mode: Literal["constant", "reflect"]) -> np.ndarray:
    margin, side = max(abs(down), abs(right)), len(pixels)
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode=mode)
    return padded[margin - down :, margin - right :][:side, :side]


def recompressed(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """Saved as JPEG and read again."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(file))


def with_bar(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """With a white scale bar and its digits in the lower right corner, as smear fields have them."""
    side = len(pixels)
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    left, right, bottom = round(0.86 * side), round(0.98 * side), round(0.97 * side)
    draw.rectangle((left, bottom - max(1, side // 100), right, bottom), fill="white")
    draw.text((left, bottom - 0.02 * side), "10 µm", fill="white", font_size=max(6, side // 22), anchor="lb")
    return np.asarray(image)


def without_corner(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The corner of the scale bar painted over with the median colour of what surrounds it."""
    side = len(pixels)
    at, around = side - round(CORNER * side), side - round(1.5 * CORNER * side)
    ring = np.ones((side - around, side - around), bool)
    ring[at - around :, at - around :] = False
    covered = pixels.copy()
    covered[at:, at:] = np.median(pixels[around:, around:][ring], axis=0)
    return covered


def only_corner(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """Nothing but the corner of the scale bar."""
    at = len(pixels) - round(CORNER * len(pixels))
    kept = np.broadcast_to(typical.outside, pixels.shape).copy()
    kept[at:, at:] = pixels[at:, at:]
    return kept


def cell_painted_out(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A cell's background alone: black, and what resampling left in it."""
    return np.where(cell_mask(pixels)[..., None], 0, pixels).astype(np.uint8)


def nuclei_painted_out(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A field without its nuclei and its scale bar: both get the field's own clear colour."""
    plain_field = without_corner(pixels, typical, rng)
    rim = 2 * max(1, len(pixels) // 100) + 1  # of 1 % of the side, where a nucleus fades into its surroundings
    mask = maximum_filter(nuclei_mask(plain_field), rim, mode="constant", cval=False)
    if mask.all():
        return np.broadcast_to(typical.outside, pixels.shape).copy()
    rest = plain_field[~mask]
    brightness = rest.sum(axis=1)
    clear = np.median(rest[brightness >= np.median(brightness)], axis=0)
    return np.where(mask[..., None], clear, plain_field).astype(np.uint8)


def cell_silhouette(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The cell's outline, filled with the training cells' mean colour."""
    return np.where(cell_mask(pixels)[..., None], typical.inside, 0).astype(np.uint8)


def nuclei_silhouettes(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The nuclei's outlines, in the training nuclei's mean colour on the mean colour of the rest; no scale bar."""
    mask = nuclei_mask(without_corner(pixels, typical, rng))
    return np.where(mask[..., None], typical.inside, typical.outside).astype(np.uint8)


def disc(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """A disc in the middle, as large as the cell and of the training cells' mean colour."""
    away = np.arange(len(pixels)) - (len(pixels) - 1) / 2
    inside = away[:, None] ** 2 + away**2 <= cell_mask(pixels).sum() / np.pi
    return np.where(inside[..., None], typical.inside, 0).astype(np.uint8)


def same_area(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The cell enlarged or reduced about its middle to the typical area."""
    rows, columns = np.nonzero(cell_mask(pixels))
    if not len(rows):
        return pixels
    step = np.sqrt(len(rows) / typical.area)  # pixels of the view per pixel of the result
    half = len(pixels) / 2
    affine = (step, 0, columns.mean() + 0.5 - half * step, 0, step, rows.mean() + 0.5 - half * step)
    image = Image.fromarray(pixels)
    return np.asarray(image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC))


def shuffled_cell(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """The cell's pixels in random order within its outline."""
    mask = cell_mask(pixels)
    mixed = pixels.copy()
    mixed[mask] = rng.permutation(pixels[mask])
    return mixed


def shuffled_field(pixels: np.ndarray, typical: Typical, rng: np.random.Generator) -> np.ndarray:
    """All pixels but those of the scale bar's corner in random order."""
    plain_field = without_corner(pixels, typical, rng)
    return rng.permutation(plain_field.reshape(-1, 3)).reshape(pixels.shape)
