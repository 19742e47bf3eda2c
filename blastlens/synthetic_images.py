"""Synthetic example images: no photograph, no patient.

`synthetic_image` draws a segmented cell on black as in C-NMC 2019, or a smear field as in the 4-class set of Aria et
al. The tables hold statistics measured on the real images, so that size, colour and contrast are similar; the drawings
are not, and do not replace, real cells.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float64]

CELL_FRAME = 450  # px, the frame of the published C-NMC images, in which lengths of cells are measured
CELL_BOX = 320  # px, the centre of the frame, in which every cell lies
FIELD_FRAME = 224  # px, the published 4-class images, in which lengths of fields are measured
_FIELD_SCALE = 2  # drawn at twice the size, so that edges are smooth
_FIELD_ASPECT = 0.77  # width of a cell to its height: the published fields are 4:3 photographs squeezed to squares
_ANGLES = 720


@dataclass(frozen=True)
class _CellStatistics:
    log_area: tuple[float, float]  # px; this and the next but one: mean and SD between cells
    colour: tuple[float, float, float]  # mean R, G, B (0 to 255) of the cell
    log_chromatin: tuple[float, float]  # of the grey SD in the nucleus, of blobs of about 2 to 17 px
    profile: tuple[tuple[float, ...], ...]  # R, G, B less the nucleus's, at `_DEPTHS` below the edge


# Of folds 0, 1 and part of 2: Gupta, A., & Gupta, R. (2019), ALL Challenge dataset of ISBI 2019, The Cancer Imaging
# Archive, doi 10.7937/tcia.2019.dc64i46r.
_DEPTHS = (-8, 0, 5, 10.5, 20.5, 42.5)
_CELLS = {
    "ALL": _CellStatistics(
        (10.484, 0.194),
        (70.8, 30.7, 81.1),
        (0.79, 0.29),
        ((36, 27, 11.8, 0.7, -1.3, 0.2), (42, 29, 15.2, 4.1, 0.2, -0.3), (22, 25, 15.7, 6.9, 1.2, -0.8)),
    ),
    "HEM": _CellStatistics(
        (10.155, 0.271),
        (65.9, 28.2, 76.9),
        (0.64, 0.28),
        ((40, 33, 14.2, -0.2, -2.4, 1.0), (46, 34, 16.6, 4.2, -0.2, -0.2), (24, 29, 17.8, 7.6, 0.7, -0.9)),
    ),
}
_GREY_RGB = (1.5, 0.75, 0.75)  # variation of R, G, B in the nucleus for one unit of grey


@dataclass(frozen=True)
class _FieldStatistics:
    background: tuple[float, float, float]  # mean R, G, B (0 to 255) of the plain background, and of what lies on it
    erythrocyte: tuple[float, float, float]
    blast: tuple[float, float, float]
    radius: float  # of an erythrocyte, px, along the longer axis
    pallor: tuple[float, float]  # range of how pale an erythrocyte's centre is, 0 (filled) to 1 (a ring)
    blasts: tuple[int, int]  # range of the number of blasts, or of lymphocytes where benign
    blast_area: tuple[float, float]  # median in px, and SD of its logarithm
    blur: float  # px


# Of half of 2,467 images: Aria, M., et al. (2021), Acute Lymphoblastic Leukemia (ALL) image dataset, doi
# 10.34740/kaggle/dsv/2175623. Colours and blasts are measured, the other numbers set by eye.
_FIELDS = {
    "Benign": _FieldStatistics(
        (248, 255, 245), (192, 207, 225), (155, 122, 242), 9.5, (0.1, 0.8), (4, 16), (215, 0.5), 0.35
    ),
    "Early": _FieldStatistics(
        (246, 255, 247), (184, 198, 225), (152, 127, 247), 10, (0.0, 0.25), (5, 10), (470, 0.2), 0.4
    ),
    "Pre": _FieldStatistics(
        (241, 255.5, 249.5), (164, 188, 235), (158, 137, 250), 9, (0.2, 0.9), (17, 30), (340, 0.4), 0.6
    ),
    "Pro": _FieldStatistics(
        (255, 255, 250), (205, 213, 228), (210, 166, 250), 8.5, (0.2, 1.0), (4, 10), (270, 0.25), 0.8
    ),
}
_VIGNETTE = (0.04, 0.03, -0.01)  # optical density of the background in the corners


def synthetic_image(label: str, seed: int) -> Image.Image:
    """A synthetic cell ("ALL" or "HEM", 450 x 450 px) or smear field ("Benign", "Early", "Pre" or "Pro", 224 x 224 px).

    Args:
        seed: not negative; the same label and seed give the same image.

    Raises:
        ValueError: unknown label.
    """
    if label in _CELLS:
        return _cell(_CELLS[label], np.random.default_rng([list(_CELLS).index(label), seed]))
    if label in _FIELDS:
        return _field(_FIELDS[label], np.random.default_rng([list(_FIELDS).index(label), seed]))
    raise ValueError(f"no synthetic image of {label!r}; there are {', '.join([*_CELLS, *_FIELDS])}")


def _cell(statistics: _CellStatistics, rng: np.random.Generator) -> Image.Image:
    def deviate() -> float:
        return float(np.clip(rng.standard_normal(), -2, 2))

    area = np.exp(statistics.log_area[0] + statistics.log_area[1] * deviate())
    y, x = np.mgrid[:CELL_BOX, :CELL_BOX] + 0.5 - CELL_BOX / 2
    depth = _depth(area, 0.07, 1.8, y, x, rng)
    inside = np.clip(depth + 0.5, 0, 1)[..., None]
    rim = rng.lognormal(0, 0.25)
    rgb = np.stack([rim * np.interp(depth + 1.5, _DEPTHS, profile) for profile in statistics.profile], axis=-1)
    contrast = np.exp(statistics.log_chromatin[0] + statistics.log_chromatin[1] * deviate())
    grey = contrast * (2.2 * _clouds(rng, CELL_BOX, 1 / 42, 2.5) + 1.2 * _clouds(rng, CELL_BOX, 1 / 200, 3))
    rgb += grey[..., None] * _GREY_RGB + 1.4 * rng.standard_normal(rgb.shape)
    colour = np.array(statistics.colour) * np.exp(0.1 * deviate())
    rgb += colour - (rgb * inside).sum(axis=(0, 1)) / inside.sum()
    # Never 0 inside: the cell is what is not black.
    pixels = (np.clip(np.rint(rgb), 6, 255) * inside).astype(np.uint8)
    frame = Image.new("RGB", (CELL_FRAME, CELL_FRAME))
    frame.paste(Image.fromarray(pixels), ((CELL_FRAME - CELL_BOX) // 2,) * 2)
    return frame


def _field(statistics: _FieldStatistics, rng: np.random.Generator) -> Image.Image:
    """Stains absorb light, so everything is drawn in optical density (Beer-Lambert)."""
    side = FIELD_FRAME * _FIELD_SCALE
    plain = np.array(statistics.background)

    def stain(colour: tuple[float, float, float]) -> Floats:
        return np.log(plain / colour) * rng.lognormal(0, 0.06) * rng.lognormal(0, 0.03, 3)

    y, x = (np.mgrid[:side, :side] + 0.5) / (side / 2) - 1
    density = (((x**2 + y**2) / 2) ** 1.4)[..., None] * np.array(_VIGNETTE)
    _add_erythrocytes(density, stain(statistics.erythrocyte), statistics, rng)
    _add_blasts(density, stain(statistics.blast), statistics, rng)
    background = np.minimum(plain + 1 + rng.normal(0, 2.5, 3), 256.5)
    pixels = background * np.exp(-density) + 2.2 * rng.standard_normal(density.shape)
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    blurred = image.filter(ImageFilter.GaussianBlur(_FIELD_SCALE * statistics.blur * rng.lognormal(0, 0.3)))
    return blurred.resize((FIELD_FRAME, FIELD_FRAME), Image.Resampling.LANCZOS)


def _add_erythrocytes(density: Floats, stain: Floats, statistics: _FieldStatistics, rng: np.random.Generator) -> None:
    gain = 1 + 0.3 * np.mean(statistics.pallor)  # the measured colour is a mean over the cell, pale centre included
    mean_radius = statistics.radius * _FIELD_SCALE
    crowding = _clouds(rng, len(density), 1 / 150, 2)
    for centre in _places(np.full(140, mean_radius), 0.6, crowding, rng):
        radius = mean_radius * rng.normal(1, 0.09)
        where, y, x = _window(density, centre, 1.3 * radius)
        r = np.hypot(y, x * rng.uniform(1, 1.15)) / radius
        disc = 1 / (1 + np.exp((r - 1) * radius / 1.1))
        thickness = disc * (1 - rng.uniform(*statistics.pallor) * np.exp(-((r / 0.46) ** 4))) * (0.85 + 0.3 * r**2)
        cell = thickness[..., None] * gain * stain * rng.lognormal(0, 0.3)
        density[where] = np.maximum(density[where], cell) + 0.45 * np.minimum(density[where], cell)


def _add_blasts(density: Floats, stain: Floats, statistics: _FieldStatistics, rng: np.random.Generator) -> None:
    chromatin = _clouds(rng, len(density), 1 / 9, 1.6)
    median, spread = statistics.blast_area
    count = rng.integers(statistics.blasts[0], statistics.blasts[1] + 1)
    areas = median * _FIELD_SCALE**2 / _FIELD_ASPECT * rng.lognormal(0, spread, count)
    for area, centre in zip(areas, _places(np.sqrt(areas / np.pi), 0.93, np.ones_like(chromatin), rng), strict=False):
        radius = np.sqrt(area / np.pi)
        where, y, x = _window(density, centre, 1.5 * radius)
        depth = _depth(area, 0.05, 2, y, x, rng)
        cover = 1 / (1 + np.exp(-depth / 1.2))
        # The nucleus leaves a thin bluer crescent of cytoplasm on one side.
        off = 0.12 * radius * rng.standard_normal(2)
        cytoplasm = 1 / (1 + np.exp((0.92 * radius - np.hypot(y - off[0], x - off[1])) / (0.06 * radius)))
        dark = rng.normal(1, 0.07) * (1 + 0.14 * chromatin[where] + 0.15 * np.exp(-((depth / 3.5) ** 2)))
        cell = dark[..., None] * stain * (1 - cytoplasm[..., None] * (0.15, 0.35, -1.0))
        density[where] += cover[..., None] * (cell - density[where])


def _places(radii: Floats, distance: float, crowding: Floats, rng: np.random.Generator) -> list[Floats]:
    """Centres (y, x) where `crowding` is high, `distance` times the sum of two radii apart, as many as are found."""
    centres: list[Floats] = []
    for _ in range(12 * len(radii)):
        centre = rng.uniform(0, len(crowding), 2)
        if len(centres) == len(radii) or crowding[tuple(centre.astype(int))] < rng.normal(-0.7, 0.6):
            continue
        off = np.reshape(centres, (-1, 2)) - centre
        apart = np.hypot(off[:, 0], off[:, 1] / _FIELD_ASPECT)
        if (apart > distance * (radii[: len(centres)] + radii[len(centres)])).all():
            centres.append(centre)
    return centres


def _window(density: Floats, centre: Floats, reach: float) -> tuple[tuple[slice, slice], Floats, Floats]:
    """The part of the canvas within `reach` of a centre, and its coordinates (y, x) from there, aspect corrected."""
    low = np.maximum(np.floor(centre - reach).astype(int), 0)
    high = np.minimum(np.ceil(centre + reach).astype(int), len(density))
    y, x = (np.arange(a, b) + 0.5 - c for a, b, c in zip(low, high, centre, strict=True))
    return (slice(low[0], high[0]), slice(low[1], high[1])), y[:, None], x[None, :] / _FIELD_ASPECT


def _depth(area: float, amplitude: float, decay: float, y: Floats, x: Floats, rng: np.random.Generator) -> Floats:
    """Pixels below the edge at (y, x) of a random star-shaped outline around the origin; negative outside.

    Harmonic k of the outline has an amplitude of about `amplitude` * (k / 2) ** -`decay` of the radius.
    """
    k = np.arange(2, 40)
    waves = np.zeros(_ANGLES // 2 + 1, dtype=complex)
    waves[k] = amplitude * (k / 2) ** -decay / 1.177 * (rng.standard_normal(38) + 1j * rng.standard_normal(38))
    shape = 1 + np.clip(np.fft.irfft(waves * _ANGLES / 2, _ANGLES), -0.35, 0.35)
    outline = shape * np.sqrt(area / np.pi / np.mean(shape**2))
    return np.interp(
        np.arctan2(y, x), np.linspace(-np.pi, np.pi, _ANGLES, endpoint=False), outline, period=2 * np.pi
    ) - np.hypot(y, x)


def _clouds(rng: np.random.Generator, side: int, corner: float, exponent: float) -> Floats:
    """A (side, side) Gaussian field, mean 0 and SD 1, of power (1 + (f / corner) ** 2) ** -exponent."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    amplitude = (1 + (fx**2 + fy**2) / corner**2) ** (-exponent / 2)
    amplitude[0, 0] = 0
    phases = rng.standard_normal(amplitude.shape) + 1j * rng.standard_normal(amplitude.shape)
    field = np.fft.irfft2(phases * amplitude, (side, side))
    return field / field.std()
