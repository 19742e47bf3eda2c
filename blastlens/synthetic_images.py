"""Synthetic example images: no photograph, no patient; the page calls them *drawn*.

`draw_cell` draws one segmented cell on black in the manner of C-NMC 2019, `draw_field` a smear field in the
manner of the 4-class set.
The tables below hold summary statistics measured on the real images, so that size, colour and texture are
distributed as they are there; they are not, and do not replace, real cells. numpy and Pillow only; an image
depends on its label, seed and size and on nothing else.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Floats = NDArray[np.float64]

CELL_FRAME = 450  # px, the frame of the published C-NMC images; lengths in draw_cell are in its pixels
CELL_BOX = 320  # px, the centre of the frame, in which every cell lies


@dataclass(frozen=True)
class _CellStatistics:
    # Log area (px), mean R, G, B (0-255) in the cell, log SD of grey (their mean) in the nucleus: of
    # chromatin (blobs of about 2 to 17 px) and of everything coarser.
    mean: tuple[float, ...]
    spread: tuple[tuple[float, ...], ...]  # Cholesky factor of the covariance of these six between cells
    roughness: tuple[float, float]  # outline harmonic k has median amplitude a * (k / 2) ** -b of the radius
    corner: float  # of the chromatin's power spectrum, cycles per px
    density_rgb: tuple[float, ...]  # main direction of colour variation in the nucleus, per unit of grey
    profile: tuple[tuple[float, ...], ...]  # R, G, B less the nucleus's, at the depths _DEPTHS below the edge


# Measured summary statistics of cells of C-NMC 2019 (folds 0, 1, part of 2): Gupta, A., & Gupta, R. (2019),
# ALL Challenge dataset of ISBI 2019, The Cancer Imaging Archive, doi 10.7937/tcia.2019.dc64i46r. Roughness decay
# and spectrum corner are adjusted until drawn cells measure like real ones; the profile at depths below 3 px,
# where the cut-out darkens the edge, is extrapolated.
_DEPTHS = (-8, 0, 3, 5, 7.5, 10.5, 14.5, 20.5, 29.5, 42.5, 62.5)
_CELLS = {
    "ALL": _CellStatistics(
        mean=(10.484, 70.8, 30.7, 81.1, 0.79, 1.09),
        spread=(
            (0.194, 0, 0, 0, 0, 0),
            (2.75, 8.11, 0, 0, 0, 0),
            (1.77, 4.95, 1.65, 0, 0, 0),
            (1.81, 7.02, 0.54, 2.76, 0, 0),
            (0.099, 0.153, 0.039, -0.013, 0.225, 0),
            (0.170, 0.194, 0.116, -0.002, 0.140, 0.331),
        ),
        roughness=(0.071, 1.75),
        corner=0.023,
        density_rgb=(1.46, 0.81, 0.73),
        profile=(
            (36, 27, 23, 11.8, 4.5, 0.7, -0.9, -1.3, -0.8, 0.2, 1.1),
            (42, 29, 26, 15.2, 8.0, 4.1, 1.7, 0.2, -0.4, -0.3, -0.1),
            (22, 25, 22, 15.7, 10.7, 6.9, 3.8, 1.2, -0.4, -0.8, -0.5),
        ),
    ),
    "HEM": _CellStatistics(
        mean=(10.155, 65.9, 28.2, 76.9, 0.64, 1.01),
        spread=(
            (0.271, 0, 0, 0, 0, 0),
            (4.00, 5.87, 0, 0, 0, 0),
            (1.91, 2.85, 1.33, 0, 0, 0),
            (2.68, 4.56, 0.71, 2.19, 0, 0),
            (0.139, 0.096, 0.034, -0.001, 0.221, 0),
            (0.229, 0.074, 0.078, 0.005, 0.193, 0.383),
        ),
        roughness=(0.064, 1.85),
        corner=0.022,
        density_rgb=(1.57, 0.67, 0.76),
        profile=(
            (40, 33, 29, 14.2, 4.7, -0.2, -2.3, -2.4, -1.3, 1.0, 2.8),
            (46, 34, 31, 16.6, 8.6, 4.2, 1.5, -0.2, -0.6, -0.2, 0.5),
            (24, 29, 25, 17.8, 12.2, 7.6, 3.9, 0.7, -1.0, -0.9, 0.2),
        ),
    ),
}
_HUE_RGB = (-0.25, 0.10, 0.41)  # second direction, red against blue: its SD for one unit of grey in the first


def draw_cell(label: str, seed: int, size: int = CELL_FRAME) -> Image.Image:
    """A drawn segmented cell on exact black, centred as in C-NMC 2019.

    Args:
        label: "ALL" or "HEM".
        seed: not negative; the same label and seed give the same cell.
        size: side of the square image in px; other than 450, the 450 px drawing resized.

    Raises:
        ValueError: unknown label.
    """
    if label not in _CELLS:
        raise ValueError(f"no drawn cell called {label!r}; there are {', '.join(_CELLS)}")
    rng = np.random.default_rng([list(_CELLS).index(label), seed])
    frame = Image.new("RGB", (CELL_FRAME, CELL_FRAME))
    margin = (CELL_FRAME - CELL_BOX) // 2
    frame.paste(Image.fromarray(_cell(_CELLS[label], rng)), (margin, margin))
    return frame if size == CELL_FRAME else frame.resize((size, size), Image.Resampling.LANCZOS)


def _cell(statistics: _CellStatistics, rng: np.random.Generator) -> NDArray[np.uint8]:
    deviates = np.clip(rng.standard_normal(6), -2.3, 2.3)
    log_area, *mean_rgb, log_chromatin, log_coarse = (
        np.asarray(statistics.mean) + np.asarray(statistics.spread) @ deviates
    )

    offset = 0.5 - CELL_BOX / 2
    y, x = np.mgrid[:CELL_BOX, :CELL_BOX] + offset + rng.normal(0, 1.5, 2)[:, None, None]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    outline = _outline(np.exp(log_area), *statistics.roughness, rng)
    depth = _around(outline, angle) - radius
    inside = np.clip(_around(outline + _blebs(outline, rng), angle) - radius + 0.5, 0, 1)
    inside *= _crop_edges(x, y, np.exp(log_area / 2), rng)
    nucleus = (depth > 14) & (inside == 1)

    # The rim is uneven, and lateral chromatic aberration moves it apart in red and blue.
    depth = depth * np.exp(_around(_smooth_circle(0.25, rng), angle)) + 1.5
    aberration = np.cos(angle - rng.normal(np.pi / 2, 0.8))
    rim = rng.lognormal(0, 0.25)
    rgb = np.stack(
        [
            rim * np.interp(depth + shift * aberration, _DEPTHS, profile)
            for shift, profile in zip((-0.9, 0, 0.9), statistics.profile, strict=True)
        ],
        axis=-1,
    )
    corner = statistics.corner * rng.lognormal(0, 0.2)
    chromatin, hue = (_power_law_noise(rng, CELL_BOX, corner, 2.6) for _ in range(2))
    # Bright gaps are rarer and stronger than dark clumps.
    chromatin += rng.normal(0.17, 0.06) * (chromatin**2 - 1)
    coarse = _power_law_noise(rng, CELL_BOX, 1 / 200, 3)
    coarse = (coarse - coarse[nucleus].mean()) / coarse[nucleus].std()
    grey = 2.0 * np.exp(log_chromatin) * chromatin + 0.9 * np.exp(log_coarse) * coarse
    rgb += grey[..., None] * statistics.density_rgb
    rgb += 2.0 * np.exp(log_chromatin) * hue[..., None] * _HUE_RGB
    rgb += _grain(rng)
    weight = inside[..., None]
    rgb += mean_rgb - (rgb * weight).sum(axis=(0, 1)) / weight.sum()
    # Never 0 inside: the cell is what is not black.
    return (np.clip(np.rint(rgb), 6, 255) * weight).astype(np.uint8)


FIELD_FRAME = 224  # px, the published 4-class images; lengths in draw_field are in its pixels
_FIELD_SCALE = 2  # drawn at twice the size, so that edges come out smooth


@dataclass(frozen=True)
class _FieldStatistics:
    # Colours are mean R, G, B (0-255) of the plain background and of what lies on it.
    background: tuple[float, ...]
    corners: tuple[float, ...]  # background in the corners: the photographs are vignetted
    erythrocyte: tuple[float, ...]
    blast: tuple[float, ...]
    colour_sd: float  # between images, of the logarithm of stain density
    background_sd: float  # between images, of the background's channels
    erythrocytes: int  # how many there are at most
    radius: float  # of an erythrocyte, px, along the longer axis
    pallor: tuple[float, float]  # range of how pale an erythrocyte's centre is, 0 (filled) to 1 (a ring)
    chain: float  # mean length of the chains in which erythrocytes lie
    blasts: tuple[int, int]  # 10th and 90th percentile of the count of blasts, or of lymphocytes where benign
    blast_area: tuple[float, float]  # median in px, and SD of its logarithm
    smudges: float  # mean count of pale smeared cells
    blur: float  # px


# Measured summary statistics of half of 2,467 images of the 4-class set: Aria, M., et al. (2021), Acute
# Lymphoblastic Leukemia (ALL) image dataset, doi 10.34740/kaggle/dsv/2175623. Its images are 4:3 photographs
# squeezed to squares; its scale bars, which give some slides away, are left out. Colours, blasts and aspect are
# measured (colours then nudged by a few grey levels); the other numbers are set by eye and adjusted until drawn
# fields measure like real ones in colour, contrast, gradient and share of purple. Of slides that look unlike the
# rest of their class, such as the yellowish ones of Pre, nothing is drawn.
_FIELD_ASPECT = 0.77  # width of a cell to its height
_FIELDS = {
    "Benign": _FieldStatistics(
        background=(248, 255, 245),
        corners=(238, 242, 250),
        erythrocyte=(192, 207, 225),
        blast=(155, 122, 242),
        colour_sd=0.12,
        background_sd=4,
        erythrocytes=162,
        radius=9.5,
        pallor=(0.1, 0.8),
        chain=2,
        blasts=(3, 16),
        blast_area=(215, 0.5),
        smudges=0.4,
        blur=0.35,
    ),
    "Early": _FieldStatistics(
        background=(246, 255, 247),
        corners=(232, 240, 252),
        erythrocyte=(184, 198, 225),
        blast=(152, 127, 247),
        colour_sd=0.06,
        background_sd=2.5,
        erythrocytes=150,
        radius=10,
        pallor=(0.0, 0.25),
        chain=3.5,
        blasts=(5, 10),
        blast_area=(470, 0.2),
        smudges=0.3,
        blur=0.4,
    ),
    "Pre": _FieldStatistics(
        background=(241, 255.5, 249.5),
        corners=(227, 238, 253),
        erythrocyte=(164, 188, 235),
        blast=(158, 137, 250),
        colour_sd=0.06,
        background_sd=3,
        erythrocytes=158,
        radius=9,
        pallor=(0.2, 0.9),
        chain=2.5,
        blasts=(17, 30),
        blast_area=(340, 0.4),
        smudges=1.5,
        blur=0.4,
    ),
    "Pro": _FieldStatistics(
        background=(255, 255, 250),
        corners=(247, 245, 253),
        erythrocyte=(205, 213, 228),
        blast=(210, 166, 250),
        colour_sd=0.06,
        background_sd=1,
        erythrocytes=160,
        radius=8.5,
        pallor=(0.2, 1.0),
        chain=2,
        blasts=(4, 10),
        blast_area=(270, 0.25),
        smudges=1.0,
        blur=0.75,
    ),
}


def draw_field(label: str, seed: int, size: int = FIELD_FRAME) -> Image.Image:
    """A drawn smear field: erythrocytes and purple blasts (lymphocytes where benign) on a pale ground.

    Args:
        label: "Benign", "Early", "Pre" or "Pro".
        seed: not negative; the same label and seed give the same field.
        size: side of the square image in px.

    Raises:
        ValueError: unknown label.
    """
    if label not in _FIELDS:
        raise ValueError(f"no drawn field called {label!r}; there are {', '.join(_FIELDS)}")
    rng = np.random.default_rng([list(_FIELDS).index(label), seed])
    pixels = _field(_FIELDS[label], rng)
    blur = ImageFilter.GaussianBlur(_FIELD_SCALE * _FIELDS[label].blur * rng.lognormal(0, 0.3))
    return Image.fromarray(pixels).filter(blur).resize((size, size), Image.Resampling.LANCZOS)


def _field(statistics: _FieldStatistics, rng: np.random.Generator) -> NDArray[np.uint8]:
    """(448, 448, 3). Stains absorb light, so everything is drawn in optical density (Beer-Lambert)."""
    side = FIELD_FRAME * _FIELD_SCALE
    plain = np.asarray(statistics.background, dtype=float)
    background = np.minimum(plain + 1 + rng.normal(0, statistics.background_sd, 3), 256.5)

    def density_of(colour: tuple[float, ...]) -> Floats:
        jitter = rng.normal(0, statistics.colour_sd) + rng.normal(0, statistics.colour_sd / 2, 3)
        return np.log(plain / np.asarray(colour)) * np.exp(jitter)

    y, x = (np.mgrid[:side, :side] + 0.5) / (side / 2) - 1
    x, y = x + rng.normal(0, 0.2), y + rng.normal(0, 0.2)
    vignette = (((x**2 + y**2) / 2) ** 1.4)[..., None] * np.log(plain / np.asarray(statistics.corners))
    clouds = _power_law_noise(rng, side, 1 / 150, 2)[..., None]
    density = np.zeros((side, side, 3))
    _add_erythrocytes(density, density_of(statistics.erythrocyte), statistics, clouds[..., 0], rng)
    chromatin = _power_law_noise(rng, side, 1 / 9, 1.6)
    stain = density_of(statistics.blast)
    for _ in range(rng.poisson(statistics.smudges)):
        _add_smudge(density, stain, chromatin, rng)
    low, high = statistics.blasts
    count = max(0, round(rng.normal((low + high) / 2, (high - low) / 2.6)))
    _add_blasts(density, stain, count, statistics, chromatin, rng)
    for _ in range(rng.poisson(4)):  # platelets and specks of stain
        _add_platelet(density, stain, rng)
    density += vignette + 0.008 * clouds
    pixels = background * np.exp(-density) + 2.2 * rng.standard_normal((side, side, 3))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _window(density: Floats, centre: Floats, reach: float) -> tuple[tuple[slice, slice], Floats, Floats]:
    """The part of the canvas within `reach` of a centre (y, x), and its coordinates from that centre."""
    low = np.maximum(np.floor(centre - reach).astype(int), 0)
    high = np.minimum(np.ceil(centre + reach).astype(int), density.shape[:2])
    y = np.arange(low[0], max(high[0], low[0]))[:, None] + 0.5 - centre[0]
    x = np.arange(low[1], max(high[1], low[1]))[None, :] + 0.5 - centre[1]
    return (slice(low[0], max(high[0], low[0])), slice(low[1], max(high[1], low[1]))), y, x


def _add_erythrocytes(
    density: Floats, stain: Floats, statistics: _FieldStatistics, crowding: Floats, rng: np.random.Generator
) -> None:
    side = len(density)
    radius = statistics.radius * _FIELD_SCALE
    squeeze = np.array([1, _FIELD_ASPECT])
    gain = 1 + 0.3 * np.mean(statistics.pallor)  # the measured colour is a mean over the cell, pale centre included
    centres = np.empty((0, 2))
    heading = 0.0
    for _ in range(12 * statistics.erythrocytes):
        if len(centres) >= statistics.erythrocytes:
            break
        if len(centres) and rng.random() > 1 / statistics.chain:  # next to the last one
            heading += rng.normal(0, 0.7)
            step = rng.uniform(1.1, 1.7) * radius
            centre = centres[-1] + step * squeeze * (np.sin(heading), np.cos(heading))
        else:
            heading = rng.uniform(0, 2 * np.pi)
            centre = rng.uniform(-radius, side + radius, 2)
            row, column = np.clip(centre.astype(int), 0, side - 1)
            if crowding[row, column] < rng.normal(-0.7, 0.6):
                continue
        if (np.hypot(*((centres - centre) / squeeze).T) < rng.uniform(1.0, 1.7) * radius).any():
            continue
        centres = np.vstack([centres, centre])
        pallor = rng.uniform(*statistics.pallor)
        _add_erythrocyte(density, gain * stain, centre, radius * rng.normal(1, 0.09), pallor, rng)


def _add_erythrocyte(
    density: Floats, stain: Floats, centre: Floats, radius: float, pallor: float, rng: np.random.Generator
) -> None:
    where, y, x = _window(density, centre, 1.3 * radius)
    tilt, flat = rng.uniform(0, np.pi), rng.uniform(0.84, 1.0)
    x = x / _FIELD_ASPECT
    along, across = x * np.cos(tilt) + y * np.sin(tilt), (y * np.cos(tilt) - x * np.sin(tilt)) / flat
    r = np.hypot(along, across) / radius
    disc = 1 / (1 + np.exp((r - 1) * radius / 1.1))
    thickness = disc * (1 - pallor * np.exp(-((r / rng.uniform(0.38, 0.55)) ** 4))) * (0.85 + 0.3 * r**2)
    cell = thickness[..., None] * stain * rng.lognormal(0, 0.3) * rng.lognormal(0, 0.05, 3)
    under = density[where]
    density[where] = np.maximum(under, cell) + 0.45 * np.minimum(under, cell)


def _add_blasts(
    density: Floats,
    stain: Floats,
    count: int,
    statistics: _FieldStatistics,
    chromatin: Floats,
    rng: np.random.Generator,
) -> None:
    side = len(density)
    median_area, spread = statistics.blast_area
    placed: list[tuple[Floats, float]] = []
    for _ in range(20 * count):
        if len(placed) >= count:
            break
        area = median_area * _FIELD_SCALE**2 / _FIELD_ASPECT * rng.lognormal(0, spread)
        radius = np.sqrt(area / np.pi)
        centre = rng.uniform(0, side, 2)
        if any(
            np.hypot(d[0], d[1] / _FIELD_ASPECT) < 0.93 * (radius + r) for d, r in ((centre - c, r) for c, r in placed)
        ):
            continue
        placed.append((centre, radius))
        where, y, x = _window(density, centre, 1.5 * radius)
        x = x / _FIELD_ASPECT
        edge = _around(_outline(area, 0.05, 2, rng), np.arctan2(y, x)) - np.hypot(y, x)
        cover = 1 / (1 + np.exp(-edge / 1.2))
        # The nucleus leaves a thin bluer crescent of cytoplasm on one side.
        offset = 0.12 * radius * rng.standard_normal(2)
        nucleus = 1 / (1 + np.exp((np.hypot(y - offset[0], x - offset[1]) - 0.92 * radius) / (0.06 * radius)))
        small_is_dark = np.clip((median_area * _FIELD_SCALE**2 / _FIELD_ASPECT / area) ** 0.35, 0.8, 1.5)
        depth = (
            small_is_dark * rng.normal(1, 0.07) * (1 + 0.14 * chromatin[where] + 0.15 * np.exp(-((edge / 3.5) ** 2)))
        )
        cell = depth[..., None] * stain * (1 - (1 - nucleus)[..., None] * (0.15, 0.35, -1.0))
        density[where] += cover[..., None] * (cell - density[where])


def _add_smudge(density: Floats, stain: Floats, chromatin: Floats, rng: np.random.Generator) -> None:
    area = np.pi * (rng.uniform(13, 22) * _FIELD_SCALE) ** 2
    reach = 2 * np.sqrt(area / np.pi)
    where, y, x = _window(density, rng.uniform(0, len(density), 2), reach)
    edge = _around(_outline(area, 0.16, 1.5, rng), np.arctan2(y, x)) - np.hypot(y, x)
    cover = (0.9 / (1 + np.exp(-edge / 4)))[..., None]
    pale = (0.32 * (1 + 0.25 * chromatin[where]))[..., None] * stain * (0.45, 1, 1)
    density[where] += cover * (pale - 0.7 * density[where])


def _add_platelet(density: Floats, stain: Floats, rng: np.random.Generator) -> None:
    radius = rng.uniform(1, 2.2) * _FIELD_SCALE
    where, y, x = _window(density, rng.uniform(0, len(density), 2), 3 * radius)
    spot = np.exp(-((np.hypot(y, x) / radius) ** 3)) * rng.uniform(0.4, 1.1)
    density[where] += spot[..., None] * stain


def _around(samples: Floats, angle: Floats) -> Floats:
    """Values at `angle` (radians) of a function sampled evenly around the circle."""
    ends = np.linspace(0, 2 * np.pi, len(samples) + 1)
    return np.interp(angle % (2 * np.pi), ends, np.append(samples, samples[0]))


_ANGLES = 720


def _outline(area: float, amplitude: float, decay: float, rng: np.random.Generator) -> Floats:
    """Radius in px at _ANGLES angles of a star-shaped outline with the given area."""
    k = np.arange(2, 40)
    median = amplitude * (k / 2) ** -decay * rng.lognormal(0, 0.25)
    waves = np.zeros(_ANGLES // 2 + 1, dtype=complex)
    # Normal real and imaginary parts make a Rayleigh amplitude, whose median is 1.177 SD.
    waves[k] = median / 1.177 * (rng.standard_normal(len(k)) + 1j * rng.standard_normal(len(k)))
    shape = 1 + np.clip(np.fft.irfft(waves * _ANGLES / 2, _ANGLES), -0.35, 0.35)
    return shape * np.sqrt(area / np.pi / np.mean(shape**2))


def _smooth_circle(sd: float, rng: np.random.Generator) -> Floats:
    waves = np.zeros(_ANGLES // 2 + 1, dtype=complex)
    waves[1:6] = rng.standard_normal(5) + 1j * rng.standard_normal(5)
    field = np.fft.irfft(waves, _ANGLES)
    return sd * field / field.std()


def _blebs(outline: Floats, rng: np.random.Generator) -> Floats:
    """Cytoplasmic protrusions, px added to the outline, small ones on half of the cells, large on a few."""
    angles = np.arange(_ANGLES) / _ANGLES * 2 * np.pi
    heights = [rng.uniform(3, 10) for _ in range(rng.integers(0, 3))]
    heights += [rng.uniform(15, 35) for _ in range(int(rng.random() < 0.08))]
    added = np.zeros(_ANGLES)
    for height in heights:
        away = np.angle(np.exp(1j * (angles - rng.uniform(0, 2 * np.pi))))
        bump = np.exp(-((away / (0.03 + height * rng.uniform(0.003, 0.009))) ** 4))
        added += height * bump * np.exp(_smooth_circle(0.2, rng))
    return added


def _crop_edges(x: Floats, y: Floats, side: float, rng: np.random.Generator) -> Floats:
    """Straight cuts such as the real cells have where a neighbour or the edge of the photograph was."""
    kept = np.ones_like(x)
    for _ in range(int(rng.random() < 0.12)):
        along = (x, -x, y, -y)[rng.integers(4)]
        kept *= along < side * rng.uniform(0.46, 0.53)
    return kept


def _power_law_noise(rng: np.random.Generator, side: int, corner: float, exponent: float) -> Floats:
    """A (side, side) Gaussian field, mean 0 and SD 1, of power (1 + (f / corner) ** 2) ** -exponent."""
    fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]
    amplitude = (1 + (fx**2 + fy**2) / corner**2) ** (-exponent / 2)
    amplitude[0, 0] = 0
    phases = rng.standard_normal(amplitude.shape) + 1j * rng.standard_normal(amplitude.shape)
    field = np.fft.irfft2(phases * amplitude, (side, side))
    return field / field.std()


def _grain(rng: np.random.Generator) -> Floats:
    """Sensor noise, correlated between channels and between neighbours as demosaicing leaves it."""
    shared = rng.standard_normal((CELL_BOX, CELL_BOX, 1)) + rng.standard_normal((CELL_BOX, CELL_BOX, 3))
    for axis in (0, 1):
        shared = (np.roll(shared, 1, axis) + 2 * shared + np.roll(shared, -1, axis)) / 4
    return shared * (2.2, 1.6, 1.9)
