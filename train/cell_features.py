"""Measurements of a single segmented cell: size, contour, colour and texture, from the pixels that a network sees.

They are the baselines that a network has to beat, and what a network can be taught (`distill.features` of a recipe).
`FEATURE_SETS` names the sets; `LogisticModel` is the classifier that goes with them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from blastlens.donor_metrics import donor_weights
from blastlens.files import make_once
from blastlens.view import View
from train.datasets import Row, dataset_hash
from train.masks import cell_mask
from train.parallel import in_threads
from train.pixels import load_pixels

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

Floats = NDArray[np.float64]
BORDER = 6  # px of the 224 px view: the segmentation's rim, which is no part of the cell's colour or texture
SCALES = (1.0, 2.0, 4.0, 8.0)  # px, of the band-pass filters
HARMONICS = 8  # of the contour, as a radius by angle
RINGS = 4  # between the centre and the contour
CHANNELS = ("red", "green", "blue")

_SIZE = ("log_area", "radius")
_COLOUR = tuple(f"density_{c}" for c in CHANNELS)
_SHAPE = ("solidity", "eccentricity", "roundness", "contour_low", "contour_high")
_CONTRAST = (*(f"density_sd_{c}" for c in CHANNELS), "contrast", "rim_to_centre")
_TEXTURE = tuple(f"band_{s:g}" for s in SCALES)
_CONTOUR = tuple(f"harmonic_{k}" for k in range(1, HARMONICS + 1))
_COARSE = (
    *(f"band_{s:g}_{c}" for s in SCALES for c in CHANNELS),
    *(f"band_{s:g}_skew" for s in SCALES),
    *(f"percentile_{q}_{c}" for q in (5, 25, 75, 95) for c in CHANNELS),
    *(f"ring_{k}_{c}" for k in range(RINGS) for c in CHANNELS),
)
NAMES = (*_SIZE, *_COLOUR, *_SHAPE, *_CONTRAST, *_TEXTURE, *_CONTOUR, *_COARSE)
FEATURE_SETS: dict[str, tuple[str, ...]] = {
    "area": ("log_area",),
    "five": (*_SIZE, *_COLOUR),
    "nineteen": (*_SIZE, *_COLOUR, *_SHAPE, *_CONTRAST, *_TEXTURE),
    "all": NAMES,
}


def cell_features(pixels: np.ndarray) -> Floats:
    """Measure one cell.

    Args:
        pixels: uint8 (H, W, 3), a single cell on black.

    Returns:
        (F,), in the order of `NAMES`. Optical densities are natural logarithms of 256 / (value + 1). An image without
        a cell gives finite numbers that mean nothing.
    """
    mask = _largest_component(ndimage.binary_fill_holes(cell_mask(pixels)))
    if mask.sum() < 50:
        mask = np.ones(pixels.shape[:2], bool)
    rows, columns = (slice(s.start, s.stop) for s in ndimage.find_objects(mask.astype(np.uint8))[0])
    mask, pixels = np.pad(mask[rows, columns], 1), np.pad(pixels[rows, columns], ((1, 1), (1, 1), (0, 0)))
    depth = ndimage.distance_transform_edt(mask)
    inside = depth > BORDER
    if inside.sum() < 20:
        inside = mask
    density = np.log(256 / (pixels.astype(np.float64) + 1))
    within = density[inside]
    grey = density.mean(axis=2)
    bands = [_band(density, inside, scale) for scale in SCALES]
    rim = inside & (depth < np.median(depth[inside]))
    ring = np.minimum((RINGS * depth / depth.max()).astype(int), RINGS - 1)
    harmonics = _contour(mask)
    low, high = np.percentile(grey[inside], (10, 90))
    return np.concatenate(
        [
            [np.log(mask.sum()), depth.max()],
            within.mean(axis=0),
            _shape(mask),
            [harmonics[1:4].sum(), harmonics[4:].sum()],
            within.std(axis=0),
            [high - low, grey[rim].mean() - grey[inside & ~rim].mean() if rim.any() else 0.0],
            [band.mean(axis=1).std() for band in bands],
            harmonics,
            np.concatenate([band.std(axis=0) for band in bands]),
            [_skew(band.mean(axis=1)) for band in bands],
            np.percentile(within, (5, 25, 75, 95), axis=0).ravel(),
            np.concatenate([_mean(density, inside & (ring == k), within) for k in range(RINGS)]),
        ]
    )


def dataset_features(folder: Path, rows: Sequence[Row], cache: Path) -> Floats:
    """Features of every image of a prepared dataset at 224 px, (N, F), kept in `cache` by the dataset's hash."""

    def measure(part: Path) -> None:
        pixels = load_pixels(folder, rows, View(224, None, "bicubic", (0.5,) * 3, (0.5,) * 3), cache)
        found = np.stack(in_threads(cell_features, pixels, "cell features"))
        with part.open("wb") as file:
            np.save(file, found)

    file = cache / f"cell-features-{dataset_hash(rows)[:16]}.npy"
    make_once(file, measure)
    return np.load(file)


@dataclass(frozen=True, eq=False)
class LogisticModel:
    """Logistic regression on standardized features, classes and donors weighted equally."""

    pipeline: "Pipeline"

    @classmethod
    def fit(cls, features: Floats, labels: NDArray[np.int64], donors: Sequence[str], c: float = 1.0) -> "LogisticModel":
        """Fit to `features` (N, F), `labels` (N,) and `donors` (N,); `c` is scikit-learn's inverse regularization."""
        from sklearn.linear_model import LogisticRegression  # takes seconds
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=5000))
        weights = donor_weights(labels, donors) * len(labels)
        return cls(pipeline.fit(features, labels, logisticregression__sample_weight=weights))

    def probabilities(self, features: Floats) -> Floats:
        """(N, C) of features (N, F)."""
        return self.pipeline.predict_proba(features)


def columns(name: str) -> list[int]:
    """Where the features of a set are among `NAMES`."""
    return [NAMES.index(feature) for feature in FEATURE_SETS[name]]


def _largest_component(mask: np.ndarray) -> np.ndarray:
    labelled, count = ndimage.label(mask)
    return labelled == 1 + np.argmax(np.bincount(labelled.ravel())[1:]) if count > 1 else mask


def _band(density: Floats, inside: np.ndarray, scale: float) -> Floats:
    """Band-pass of each channel inside the cell, (pixels, 3): what is there at `scale` and not at twice of it."""
    weight = inside.astype(np.float64)

    def blurred(sigma: float) -> Floats:
        around = np.maximum(ndimage.gaussian_filter(weight, sigma), 1e-6)[..., None]
        return ndimage.gaussian_filter(density * weight[..., None], (sigma, sigma, 0)) / around

    return (blurred(scale) - blurred(2 * scale))[inside]


def _shape(mask: np.ndarray) -> list[float]:
    """Solidity (area over that of the convex hull), eccentricity, and roundness (1 for a disc)."""
    points = np.argwhere(mask)
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(np.cov(points.T)), 1e-9))
    corners = (points[:, None] + np.array([[-0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [0.5, 0.5]])).reshape(-1, 2)
    edge = mask & ~ndimage.binary_erosion(mask)
    return [
        len(points) / ConvexHull(corners).volume,
        float(np.sqrt(1 - (spread[0] / spread[1]) ** 2)),
        float(4 * np.pi * len(points) / edge.sum() ** 2),
    ]


def _contour(mask: np.ndarray) -> Floats:
    """Strength of the first harmonics of the contour's radius by angle, as shares of the mean radius."""
    centre = np.argwhere(mask).mean(axis=0)
    edge = np.argwhere(mask & ~ndimage.binary_erosion(mask)) - centre
    angle, radius = np.arctan2(edge[:, 0], edge[:, 1]), np.hypot(edge[:, 0], edge[:, 1])
    order = np.argsort(angle)
    even = np.linspace(-np.pi, np.pi, 128, endpoint=False)
    profile = np.interp(even, angle[order], radius[order], period=2 * np.pi)
    return np.abs(np.fft.rfft(profile / profile.mean()))[1 : HARMONICS + 1] / len(even)


def _mean(density: Floats, where: np.ndarray, otherwise: Floats) -> Floats:
    return density[where].mean(axis=0) if where.any() else otherwise.mean(axis=0)


def _skew(values: Floats) -> float:
    centred = values - values.mean()
    return float((centred**3).mean() / max(centred.std(), 1e-9) ** 3)
