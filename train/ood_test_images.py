"""Images that OOD detection is measured on. Seeded, and independent of everything else.

`DRAWN` show no smear at all and must be rejected. `CORRUPTED` are real views that were damaged: either result is
acceptable. `VARIED` are real views as another microscope, camera or file could have given them, and should be accepted.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from blastlens.corruptions import Corruption
from blastlens.corruptions.colour import BLACK

SIDE = 450  # px, that of the published single cells
# Mean red, green, blue of a stained cell on black in C-NMC 2019: shapes of this colour are harder to tell.
_STAIN = (75, 35, 90)


def blank(seed: int) -> Image.Image:
    """One colour: black, white and grey first, then any."""
    rng = np.random.default_rng(seed)
    plain = {0: (0, 0, 0), 1: (255, 255, 255), 2: (128, 128, 128)}
    return Image.new("RGB", (SIDE, SIDE), plain.get(seed) or _colour(rng))


def noise(seed: int) -> Image.Image:
    """Noise: of every colour, grey, around the colour of the stain, or smooth, in turn."""
    rng = np.random.default_rng(seed)
    if seed % 4 == 0:
        values = rng.integers(0, 256, (SIDE, SIDE, 3))
    elif seed % 4 == 1:
        values = rng.integers(0, 256, (SIDE, SIDE, 1)).repeat(3, axis=2)
    elif seed % 4 == 2:
        values = rng.normal(_STAIN, rng.uniform(5, 60), (SIDE, SIDE, 3)).clip(0, 255)
    else:
        cells = int(rng.integers(4, 30))
        values = rng.integers(0, 256, (cells, cells, 3))
    picture = Image.fromarray(values.astype(np.uint8))
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def shapes(seed: int) -> Image.Image:
    """One to eight discs, rectangles and polygons, half of them on black, most in the colour of the stain at first."""
    rng = np.random.default_rng(seed)
    stained = tuple(int(v) for v in (np.array(_STAIN) * rng.uniform(0.7, 1.5) + rng.normal(0, 8, 3)).clip(0, 255))
    fill = stained if seed % 3 else _colour(rng)
    picture = Image.new("RGB", (SIDE, SIDE), (0, 0, 0) if seed % 2 else _colour(rng))
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(1, 2 + 2 * (seed % 5))):
        x, y = (int(v) for v in rng.integers(SIDE // 3, 2 * SIDE // 3, 2))
        a, b = (int(v) for v in rng.integers(SIDE // 9, SIDE // 3, 2))
        match rng.integers(3):
            case 0:
                draw.ellipse((x - a, y - b, x + a, y + b), fill=fill)
            case 1:
                draw.rectangle((x - a, y - b, x + a, y + b), fill=fill)
            case _:
                draw.regular_polygon((x, y, a), int(rng.integers(3, 9)), fill=fill)
        fill = _colour(rng) if seed % 5 else fill
    return picture


def noisy_discs(seed: int) -> Image.Image:
    """`noise` cut out as an oval on black: the silhouette of a cell, and nothing of one inside."""
    mask = Image.new("L", (SIDE, SIDE))
    ImageDraw.Draw(mask).ellipse((130, 120, 320, 330), fill=255)
    return Image.composite(noise(seed), Image.new("RGB", (SIDE, SIDE)), mask)


def screenshots(seed: int) -> Image.Image:
    """Lines of text, a title bar and a panel, light and dark in turn."""
    rng = np.random.default_rng(seed)
    paper, ink = ((20, 20, 24), (230, 230, 230)) if seed % 2 else ((250, 250, 252), (30, 30, 30))
    picture = Image.new("RGB", (1280, 800), paper)
    draw = ImageDraw.Draw(picture)
    for top in range(80, 780, 18):
        words = ("".join(map(chr, rng.integers(97, 123, rng.integers(2, 10)))) for _ in range(rng.integers(5, 20)))
        draw.text((rng.integers(10, 80), top), " ".join(words), fill=ink)
    draw.rectangle((0, 0, 1280, 60), fill=_colour(rng))
    draw.rectangle((800, 200, 1100, 600), fill=_colour(rng))
    return picture


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(rng.integers(0, 256, 3).tolist())


# By name, how to draw one and how many OOD detection is measured on.
DRAWN: dict[str, tuple[Callable[[int], Image.Image], int]] = {
    "drawn shapes": (shapes, 300),
    "blank pictures": (blank, 100),
    "noise": (noise, 200),
    "noise cut out as a disc": (noisy_discs, 100),
    "drawn screenshots": (screenshots, 100),
}


def tiled(view: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Four mirrored copies at half the size: uint8 (S, S, 3) of an even S, as all below."""
    half = np.asarray(Image.fromarray(view).reduce(2))
    row = np.concatenate([half, half[:, ::-1]], axis=1)
    return np.concatenate([row, row[::-1]])


def two_in_one(view: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The middle halves of two views side by side."""
    side = len(view)
    middle = slice(side // 4, side // 4 + side // 2)
    return np.concatenate([view[:, middle], other[:, middle]], axis=1)


def cut_off(view: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Moved to the left by two fifths of the side; what moves in is black."""
    moved = np.zeros_like(view)
    step = 2 * len(view) // 5
    moved[:, :-step] = view[:, step:]
    return moved


def inverted(view: np.ndarray, _: np.ndarray) -> np.ndarray:
    """A negative."""
    return 255 - view


def blurred(view: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Far out of focus: a Gaussian of 1/28 of the side."""
    return np.asarray(Image.fromarray(view).filter(ImageFilter.GaussianBlur(len(view) / 28)))


# By name, what is done to a view, which may need a second one.
CORRUPTED: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "mirrored tiles": tiled,
    "two in one frame": two_in_one,
    "cut off by the border": cut_off,
    "inverted colours": inverted,
    "far out of focus": blurred,
}


def _camera_noise(view: np.ndarray) -> np.ndarray:
    """Noise as a camera adds it, so before a cell is cut out onto black: that stays black."""
    return np.where((view.max(axis=2) > BLACK)[..., None], Corruption("gaussian_noise", 5).apply(view), view)


# By name, what another microscope, camera or file may do to a view without making it another kind of image.
VARIED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a fifth darker": Corruption("brightness", -20).apply,
    "a fifth brighter": Corruption("brightness", 20).apply,
    "a fifth less contrast": Corruption("contrast", -20).apply,
    "a fifth more contrast": Corruption("contrast", 20).apply,
    "a quarter less colour": Corruption("saturation", -25).apply,
    "a quarter more colour": Corruption("saturation", 25).apply,
    "JPEG of quality 75": Corruption("jpeg", 25).apply,
    "a little out of focus": Corruption("blur", 1).apply,
    "a camera's noise of sigma 5": _camera_noise,
}
