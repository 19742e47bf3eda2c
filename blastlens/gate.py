"""The input gate: does an image look like those a model was trained on? It warns, and never withholds an answer.

A few plain statistics of the view the network gets, each held against the range that training images keep to. The
ranges stand in a model folder's gate.json, which `train.gate` fits and measures. The gate sees the view before any
noise or other corruption that a reader adds on purpose.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .corruptions import BLACK, TO_YCC
from .errors import BlastlensError

SCHEMA = 1
# Width of the outermost ring, and side of the blocks of `coarse_detail`, as shares of the view's side.
_RING, _BLOCK = 1 / 28, 1 / 56
# Below this, in grey levels, a picture is flat, and dividing by its contrast would only magnify rounding.
_FLAT = 0.5


@dataclass(frozen=True)
class Statistic:
    """One number about a view, and how to say that it is out of range.

    Attributes:
        meaning: what it is, with its unit.
        low, high: what to say when it is too low or too high; "than the cells the model knows" is added.
        grain: the least by which it must leave the range of training images to count.
    """

    meaning: str
    low: str
    high: str
    grain: float


# In the order in which reasons are given: the plainest first. "Lit" is every pixel that is not black: of a single
# cell the cell, of a smear field nearly everything.
STATISTICS = {
    "black": Statistic("share of black pixels", "far less black background", "far more black", 0.02),
    "brightness": Statistic("mean brightness, lit, 0 to 255", "a much darker picture", "a much brighter picture", 2),
    "contrast": Statistic("standard deviation of brightness, lit", "far less contrast", "far more contrast", 0.5),
    "blue": Statistic(
        "mean blue-yellow colour difference, lit, -128 to 128",
        "less blue or more yellow colour",
        "bluer colour",
        1,
    ),
    "red": Statistic(
        "mean red-green colour difference, lit, -128 to 128",
        "less red or more green colour",
        "redder colour",
        1,
    ),
    "colours": Statistic(
        "standard deviation of colour, lit",
        "fewer different colours",
        "more different colours",
        0.5,
    ),
    "tint": Statistic(
        "correlation of brightness and blueness, lit, -1 to 1",
        "dark parts that are bluer",
        "dark parts that are less blue",
        0.05,
    ),
    "black_border": Statistic(
        "share of black pixels in the outermost ring",
        "far less black along the edge",
        "far more black along the edge",
        0.02,
    ),
    "spread": Statistic(
        "mean squared distance of lit pixels from their centre, in that of a disc of the same area",
        "a more compact shape",
        "a more ragged, stretched or scattered shape",
        0.05,
    ),
    "off_centre": Statistic(
        "distance of the lit pixels' centre from the view's, in sides of the view",
        "a more central position",
        "a position further off the centre",
        0.01,
    ),
    "fine_detail": Statistic(
        "difference of neighbouring lit pixels, in standard deviations of brightness",
        "a more blurred picture",
        "more grain or sharper edges",
        0.02,
    ),
    "coarse_detail": Statistic(
        "difference of neighbouring lit blocks of 1/56 of the side, in standard deviations of brightness",
        "fewer or larger structures",
        "more or smaller structures",
        0.02,
    ),
}


@dataclass(frozen=True)
class Verdict:
    """Whether an image fits, and if not why, the plainest reason first; each a friendly part of a sentence."""

    fits: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Gate:
    """The ranges that a model's training images keep to.

    Attributes:
        images: what those are called, "cells" or "fields".
        ranges: lowest and highest accepted value, by name of a statistic in `STATISTICS`.
    """

    images: str
    ranges: Mapping[str, tuple[float, float]]

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> "Gate":
        """Read the content of a gate.json; raises BlastlensError where it is not one."""
        if record.get("schema") != SCHEMA:
            raise BlastlensError(f"gate.json has schema {record.get('schema')!r}; {SCHEMA} is expected.")
        images, statistics = record.get("images"), record.get("statistics")
        if not isinstance(images, str) or not isinstance(statistics, dict) or not statistics:
            raise BlastlensError("gate.json must say what its images are called and give a range per statistic.")
        ranges = {}
        for name, given in statistics.items():
            if name not in STATISTICS:
                raise BlastlensError(f"gate.json has a statistic {name!r}; {', '.join(STATISTICS)} are known.")
            limits: list[Any] = [given.get(side) for side in ("low", "high")] if isinstance(given, dict) else []
            if not (limits and all(map(_is_number, limits)) and limits[0] <= limits[1]):
                raise BlastlensError(f"The range of {name} in gate.json is {given!r}; low and high are expected.")
            ranges[name] = (float(limits[0]), float(limits[1]))
        return cls(images, ranges)

    def judge(self, pixels: np.ndarray) -> Verdict:
        """Judge a view: uint8 (S, S, 3), as `View.apply` returns it, without noise."""
        found = statistics_of(pixels)
        reasons = []
        for name, statistic in STATISTICS.items():
            low, high = self.ranges.get(name, (-math.inf, math.inf))
            # False of NaN: an all-black view has no lit pixel to measure, and its blackness speaks for itself.
            if found[name] < low or found[name] > high:
                phrase = statistic.low if found[name] < low else statistic.high
                reasons.append(f"{phrase} than the {self.images} the model knows")
        return Verdict(not reasons, tuple(reasons))


def statistics_of(pixels: np.ndarray) -> dict[str, float]:
    """Every statistic of a view, uint8 (S, S, 3); those of lit pixels are NaN where all is black."""
    side = pixels.shape[0]
    lit = np.maximum(np.maximum(pixels[..., 0], pixels[..., 1]), pixels[..., 2]) > BLACK
    area = int(np.count_nonzero(lit))
    ring = max(1, round(side * _RING))
    inner = lit[ring:-ring, ring:-ring]
    found = dict.fromkeys(STATISTICS, math.nan)
    found["black"] = 1 - area / lit.size
    found["black_border"] = 1 - (area - int(np.count_nonzero(inner))) / (lit.size - inner.size)
    if not area:
        return found
    found |= _shape(lit, area)

    # Multiplying by the mask is several times quicker than picking the pixels out.
    mask = lit.astype(np.float32)
    weights = mask.reshape(-1, 1)
    colours = pixels.reshape(-1, 3).astype(np.float32)
    grey = (colours @ TO_YCC[0].astype(np.float32)).reshape(lit.shape)
    mean = (weights.T @ colours)[0] / area
    colours -= mean
    colours *= weights
    # Of brightness, the blue-yellow and the red-green difference, which are linear in red, green and blue.
    brightness, blue, red = (TO_YCC @ mean).tolist()
    covariance = (TO_YCC @ (colours.T @ colours / area) @ TO_YCC.T).tolist()
    contrast, of_blue, of_red = (math.sqrt(max(covariance[i][i], 0)) for i in range(3))
    block = max(1, round(side * _BLOCK))
    coarse, coarse_mask = _block_means(grey, block), _block_means(mask, block) == 1
    return found | {
        "brightness": brightness,
        "blue": blue,
        "red": red,
        "contrast": contrast,
        "colours": math.hypot(of_blue, of_red),
        "tint": covariance[0][1] / max(contrast * of_blue, _FLAT**2),
        "fine_detail": _detail(grey, mask) / max(contrast, _FLAT),
        "coarse_detail": _detail(coarse, coarse_mask.astype(np.float32)) / max(contrast, _FLAT),
    }


def _shape(lit: np.ndarray, area: int) -> dict[str, float]:
    side = lit.shape[0]
    place = np.arange(side) - (side - 1) / 2
    counts = (np.count_nonzero(lit, axis=0), np.count_nonzero(lit, axis=1))
    centre = [float(count @ place) / area for count in counts]
    squares = sum(float(count @ place**2) / area - middle**2 for count, middle in zip(counts, centre, strict=True))
    return {"off_centre": math.hypot(*centre) / side, "spread": 2 * math.pi * squares / area}


def _detail(grey: np.ndarray, mask: np.ndarray) -> float:
    """Root mean squared difference of pixels side by side whose mask is 1."""
    pairs = mask[:, 1:] * mask[:, :-1]
    steps = np.ravel((grey[:, 1:] - grey[:, :-1]) * pairs)
    return math.sqrt(float(steps @ steps) / max(float(pairs.sum()), 1))


def _block_means(values: np.ndarray, side: int) -> np.ndarray:
    """Means of blocks of side x side; what is left over at the far edges is left out."""
    height, width = (length // side * side for length in values.shape)
    rows = np.add.reduceat(values[:height, :width], np.arange(0, height, side), axis=0)
    return np.add.reduceat(rows, np.arange(0, width, side), axis=1) / side**2


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
