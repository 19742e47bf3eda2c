"""Out-of-distribution (OOD) detection: does an image look like a model's training images? It warns, and rejects none.

Simple statistics of the view are compared with the ranges of training images in gate.json, and the distance of the
network's pooled features to those of training images with a limit (gate.safetensors); `train.ood_fitting` fits both.
The check sees the view before any noise or other corruption.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache, reduce
from pathlib import Path
from typing import Any

import numpy as np

from .corruptions.colour import BLACK, TO_YCC
from .errors import BlastlensError
from .tables import read_table

SCHEMA = 2  # of gate.json; 1, without features, is read too
# Width of the outermost ring, and sides of the blocks of `coarse_detail` and `large_parts`, in sides of the view.
_RING, _BLOCK, _LARGE_BLOCK = 1 / 28, 1 / 56, 1 / 20
# Below this, in grey levels, a picture is flat, and dividing by its contrast would only magnify rounding.
_FLAT = 0.5


@dataclass(frozen=True)
class Statistic:
    """A number about a view, and the reasons given if it is out of range.

    Attributes:
        meaning: what it is, with its unit.
        low, high: the reason if it is too low or too high; "than the cells the model knows" is added.
        grain: the least by which it must leave the range of training images to count.
    """

    meaning: str
    low: str
    high: str
    grain: float


_RECORDS = read_table(Path(__file__).with_name("ood_statistics.toml"))
STATISTICS = {name: Statistic(**record) for name, record in _RECORDS.items()}


@dataclass(frozen=True, eq=False)
class FeatureDistance:
    """The distance of a network's pooled features from those of its training images, and its limit.

    The Mahalanobis distance (Lee et al. 2018, "A Simple Unified Framework for Detecting Out-of-Distribution Samples
    and Adversarial Attacks") to the mean of all classes, under a Gaussian that has its own variance along K principal
    directions and one for all others (Tipping & Bishop 1999, "Mixtures of Probabilistic Principal Component
    Analyzers"), so that an unusual image shows in directions in which training images hardly vary (as in ViM, Wang et
    al. 2022).

    Attributes:
        mean: float (F,), of the training images' features.
        directions: float (K, F), principal and orthonormal, each divided by its standard deviation.
        rest: the standard deviation along each of the other F - K directions.
        limit: the highest distance that is in distribution.
    """

    mean: np.ndarray
    directions: np.ndarray
    rest: float
    limit: float

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray], limit: float) -> "FeatureDistance":
        """From the arrays of gate.safetensors; raises BlastlensError if they are not as expected."""
        try:
            mean, directions, rest = (tensors[name].astype(np.float64) for name in ("mean", "directions", "rest"))
            fits = mean.ndim == 1 and directions.ndim == 2 and directions.shape[1] == len(mean) and rest.shape == (1,)
            if not fits or not all(np.isfinite(part).all() for part in (mean, directions, rest)) or rest[0] <= 0:
                raise ValueError
        except (KeyError, ValueError):
            raise BlastlensError(
                "gate.safetensors holds no distribution of features: mean (F,), directions (K, F) and rest (1,) are "
                "expected."
            ) from None
        return cls(mean, directions, float(rest[0]), limit)

    def of(self, features: np.ndarray) -> np.ndarray:
        """Distances (N,) of features (N, F): 1 is what a typical training image has, whatever F.

        Raises:
            BlastlensError: features of another length, so of another network.
        """
        if features.shape[-1] != len(self.mean):
            raise BlastlensError(
                f"The network has {features.shape[-1]} features and gate.safetensors is for {len(self.mean)}; fit the "
                "OOD detection again."
            )
        centred = features.astype(np.float64) - self.mean
        scaled = centred @ self.directions.T
        outside = np.maximum((centred**2).sum(axis=1) - ((scaled / self._lengths) ** 2).sum(axis=1), 0)
        return np.sqrt(((scaled**2).sum(axis=1) + outside / self.rest**2) / len(self.mean))

    @cached_property
    def _lengths(self) -> np.ndarray:
        # Of orthonormal directions divided by s, the length is 1 / s; divided by it, coordinates are those before.
        return np.linalg.norm(self.directions, axis=1)


@dataclass(frozen=True)
class OODDetector:
    """The ranges of a model's training images, and their features.

    Attributes:
        images: what those are called, "cells" or "fields".
        ranges: lowest and highest accepted value, by name of a statistic in `STATISTICS`.
        features: the distance of the network's features, if gate.json has a limit for it.
        incomplete: whether gate.json has such a limit and gate.safetensors is missing.
    """

    images: str
    ranges: Mapping[str, tuple[float, float]]
    features: FeatureDistance | None = None
    incomplete: bool = False

    @classmethod
    def from_json(cls, record: dict[str, Any], tensors: Mapping[str, np.ndarray] | None = None) -> "OODDetector":
        """From the content of gate.json and the arrays of gate.safetensors, None if it is missing.

        Raises:
            BlastlensError: invalid content.
        """
        if record.get("schema") not in (1, SCHEMA):
            raise BlastlensError(f"gate.json has schema {record.get('schema')!r}; 1 or {SCHEMA} is expected.")
        images, statistics, features = (record.get(key) for key in ("images", "statistics", "features"))
        if not isinstance(images, str) or not isinstance(statistics, dict) or not statistics:
            raise BlastlensError("gate.json must say what its images are called and give a range per statistic.")
        ranges = {}
        for name, given in statistics.items():
            if name not in STATISTICS:
                raise BlastlensError(f"gate.json has a statistic {name!r}; {', '.join(STATISTICS)} are known.")
            low, high = (_number(given, side) for side in ("low", "high"))
            if not low <= high:  # false for NaN too
                raise BlastlensError(f"The range of {name} in gate.json is {given!r}; low and high are expected.")
            ranges[name] = (low, high)
        if features is None:
            return cls(images, ranges)
        limit = _number(features, "limit")
        if math.isnan(limit):
            raise BlastlensError(f"The features in gate.json are {features!r}; a limit of their distance is expected.")
        distance = None if tensors is None else FeatureDistance.from_tensors(tensors, limit)
        return cls(images, ranges, distance, incomplete=distance is None)

    def check(self, statistics: Mapping[str, float], features: np.ndarray | None = None) -> tuple[str, ...]:
        """Reasons why a view is out of distribution, the most obvious first; none if it is in distribution.

        Args:
            statistics: of the view without corruption, see `statistics_of`.
            features: of the same view, (F,), by the network; None if it has none.

        Raises:
            BlastlensError: features of another network.
        """
        reasons = []
        for name, statistic in STATISTICS.items():
            low, high = self.ranges.get(name, (-math.inf, math.inf))
            # False of NaN: an all-black view has no lit pixel to measure, and its blackness speaks for itself.
            if statistics[name] < low or statistics[name] > high:
                phrase = statistic.low if statistics[name] < low else statistic.high
                reasons.append(f"{phrase} than the {self.images} the model knows")
        if self.features and features is not None and not self.features.of(features[None])[0] <= self.features.limit:
            reasons.append(f"what the network sees in it is unlike the {self.images} the model knows")
        return tuple(reasons)


def _number(record: Any, key: str) -> float:
    """A finite number of a JSON object; NaN if it has none of this key."""
    value = record.get(key) if isinstance(record, dict) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return math.nan
    return float(value)


def statistics_of(pixels: np.ndarray) -> dict[str, float]:
    """Every statistic of a view, uint8 (S, S, 3); those of lit pixels are NaN where all is black."""
    side = pixels.shape[0]
    channels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    lit = np.maximum(np.maximum(channels[0], channels[1]), channels[2]) > BLACK
    mask = lit.astype(np.float32)
    ones = np.ones(side, np.float32)
    in_columns, in_rows = (ones @ mask).astype(np.float64), (mask @ ones).astype(np.float64)
    area = in_rows.sum()
    ring = max(1, round(side * _RING))
    inner = lit[ring:-ring, ring:-ring]
    found = dict.fromkeys(STATISTICS, math.nan)
    found["black"] = 1 - float(area) / lit.size
    found["black_border"] = 1 - float(area - np.count_nonzero(inner)) / (lit.size - inner.size)
    if not area:
        return found
    found |= _shape(in_columns, in_rows, area)

    # Black pixels add nothing from here on, so that of a single cell less than half of the view is left to look at.
    fine, large = (max(1, round(side * part)) for part in (_BLOCK, _LARGE_BLOCK))
    rows, columns = _lit_part(in_rows, fine), _lit_part(in_columns, fine)
    mask = mask[rows, columns]
    # Whole planes times the mask, and one dot product per pair of them, are several times quicker than picking the
    # pixels out and than one product of matrices of three columns.
    planes = np.multiply(channels[:, rows, columns], mask, dtype=np.float32)
    flat = planes.reshape(3, -1)
    mean = (flat @ mask.ravel()).astype(np.float64) / area
    planes -= mean.astype(np.float32).reshape(3, 1, 1)
    planes *= mask
    products = np.array([[float(one @ other) for other in flat] for one in flat]) / area
    # Of brightness, the blue-yellow and the red-green difference, which are linear in red, green and blue.
    brightness, blue, red = (TO_YCC @ mean).tolist()
    covariance = (TO_YCC @ products @ TO_YCC.T).tolist()
    contrast, of_blue, of_red = (math.sqrt(max(covariance[i][i], 0)) for i in range(3))
    grey = (TO_YCC[0].astype(np.float32) @ flat).reshape(mask.shape)  # above its mean, 0 where not lit
    coarse, coarse_mask = _block_means(grey, fine), _block_means(mask, fine) == 1
    across, down = _belonging(side, large)[:, columns], _belonging(side, large)[:, rows]
    shares, sums = (down @ values @ across.T / np.float32(large**2) for values in (mask, grey))
    return found | {
        "brightness": brightness,
        "blue": blue,
        "red": red,
        "contrast": contrast,
        "colours": math.hypot(of_blue, of_red),
        "tint": covariance[0][1] / max(contrast * of_blue, _FLAT**2),
        "fine_detail": _detail(grey, mask) / max(contrast, _FLAT),
        "coarse_detail": _detail(coarse, coarse_mask.astype(np.float32)) / max(contrast, _FLAT),
        "large_parts": _deviation_of_means(sums, shares) / max(contrast, _FLAT),
    }


def _lit_part(counts: np.ndarray, block: int) -> slice:
    """The rows, or columns, from the first to the last that is not all black; whole blocks of them."""
    places = np.flatnonzero(counts)
    return slice(int(places[0]) // block * block, min((int(places[-1]) // block + 1) * block, len(counts)))


def _shape(in_columns: np.ndarray, in_rows: np.ndarray, area: float) -> dict[str, float]:
    side = len(in_rows)
    place = np.arange(side) - (side - 1) / 2
    counts = (in_columns, in_rows)
    centre = [float(count @ place) / area for count in counts]
    squares = sum(float(count @ place**2) / area - middle**2 for count, middle in zip(counts, centre, strict=True))
    return {"off_centre": math.hypot(*centre) / side, "spread": 2 * math.pi * squares / area}


def _detail(grey: np.ndarray, mask: np.ndarray) -> float:
    """Root mean squared difference of pixels side by side whose mask is 1."""
    pairs = mask[:, 1:] * mask[:, :-1]
    steps = np.ravel((grey[:, 1:] - grey[:, :-1]) * pairs)
    return math.sqrt(float(steps @ steps) / max(float(pairs.sum()), 1))


def _deviation_of_means(sums: np.ndarray, shares: np.ndarray) -> float:
    """Standard deviation of the means of blocks of which at least half is lit; NaN where there are none.

    Grain has next to none, however strong it is; a cell has a nucleus. Blocks at the edge would say less of either,
    since resizing darkens them.

    Args:
        sums: of what is lit in each block, in the unit of `shares`: of a block that is lit all over, its mean.
        shares: of each block, how much of it is lit, 0 to 1.
    """
    inside = shares >= 0.5
    weights = shares[inside].astype(np.float64)
    total = float(weights.sum())
    if not total:
        return math.nan
    away = sums[inside] / weights
    away -= weights @ away / total
    return math.sqrt(float(weights @ away**2) / total)


def _block_means(values: np.ndarray, side: int) -> np.ndarray:
    """Means of blocks of side x side; what is left over at the far edges is left out."""
    height, width = (length // side * side for length in values.shape)
    # Adding slices is four times quicker than any sum over the axes of blocks.
    rows = reduce(np.add, [values[k:height:side, :width] for k in range(side)])
    return reduce(np.add, [rows[:, k::side] for k in range(side)]) / np.float32(side**2)


@lru_cache(maxsize=16)
def _belonging(side: int, block: int) -> np.ndarray:
    """float32 (side // block, side): 1 where a pixel of a line is in a block; what is left over is in none."""
    count = side // block
    rows = np.repeat(np.eye(count, dtype=np.float32), block, axis=1)
    return np.pad(rows, ((0, 0), (0, side - count * block)))
