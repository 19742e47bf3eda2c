"""Image corruptions: a table of kinds, each with its range and five calibrated severities, and one kind at one level.

Each kind acts on the pixels the network sees (after crop and resize, before normalisation), is the identity at its
neutral level, grows with the distance from it, and is repeatable: the same pixels, level and seed give the same result.
The functions are in `blastlens.noise`, `colour` and `spatial`.

Severities are ImageNet-C's (Hendrycks & Dietterich 2019, arXiv:1903.12261; their code's constants, at 224 px) if it has
the kind and a microscope can do that; MedMNIST-C's for blood cells (Di Salvo et al. 2024, arXiv:2406.17536) where those
fit better; the ranges of stain augmentation (Tellez et al. 2019, doi 10.1016/j.media.2019.101544) for stain; and our
own where none are published.

No library is used because `imagecorruptions` has five fixed severities, unseeded noise, and needs OpenCV, scikit-image
and numba; `albumentations` needs OpenCV; `torchvision` needs torch, and its noise has no seed.
"""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..errors import BlastlensError
from ..noise import (
    IMAGENET_C_SIGMAS,
    MAX_SIGMA,
    PAPER_SIGMAS,
    TRAIN_SIGMAS,
    add_gaussian_noise,
    checked_pixels,
    checked_seed,
    shot_noise,
    speckle_noise,
)
from . import colour, spatial
from .colour import BLACK, TO_YCC
from .spatial import BLUR_SIDE

__all__ = ["BLACK", "BLUR_SIDE", "CURVE_SIGMAS", "KINDS", "TO_YCC", "Corruption", "Kind", "Mark"]

# Clean, the training sigmas, the MobileNet_M paper's test sigmas, ImageNet-C's severities, and the slider's end.
CURVE_SIGMAS = (0, 2, 3, 5, 6, 8, 9, 10, 20.4, 30.6, 45.9, 66.3, 96.9, 100)
_PERCENT_LEVELS = (-100, -75, -50, -25, -10, 0, 10, 25, 50, 75, 100)


@dataclass(frozen=True)
class Mark:
    """A level that a slider marks: its description, and the group it belongs to."""

    level: float
    text: str
    group: str


@dataclass(frozen=True)
class Kind:
    """One kind of corruption.

    Attributes:
        name: as in code, "jpeg"; title: as on a page, "JPEG compression".
        explanation: one sentence for newcomers.
        change: (pixels, level, seed) to pixels, uint8 (H, W, 3) both; not called at the neutral level.
        low, high, step: the range of levels, and a sensible step for a slider.
        levels: what a curve samples, ascending, neutral included.
        severities: five levels above neutral, ascending, at which robustness is measured.
        source: where the severities come from, a short phrase, "ImageNet-C".
        both_ways: whether a severity stands for two changes, one above neutral and one as far below.
        neutral: the level that changes nothing.
        unit: of the level, "" where it has none.
        others: further marked levels, beside the severities.
        seeded: whether it draws random numbers, so that another seed gives another result.
    """

    name: str
    title: str
    explanation: str
    change: Callable[[np.ndarray, float, int], np.ndarray]
    low: float
    high: float
    step: float
    levels: tuple[float, ...]
    severities: tuple[float, ...]
    source: str
    both_ways: bool = False
    neutral: float = 0
    unit: str = ""
    others: tuple[Mark, ...] = ()
    seeded: bool = False

    def levels_of(self, severity: int) -> tuple[float, ...]:
        """The levels that a severity from 1 to 5 stands for: one, or one below and one above neutral."""
        level = self.severities[severity - 1]
        return (2 * self.neutral - level, level) if self.both_ways else (level,)

    @property
    def marks(self) -> tuple[Mark, ...]:
        """Marked levels: `others`, then the severities, ascending."""
        severities = [
            Mark(level, f"{self.source} severity {number}", self.source)
            for number in range(1, len(self.severities) + 1)
            for level in self.levels_of(number)
        ]
        return (*self.others, *sorted(severities, key=lambda mark: mark.level))


_IMAGENET_C = "ImageNet-C"
_BLOOD = "MedMNIST-C"
_STAIN = "stain augmentation"
_OWN = "our own"

KINDS = {
    kind.name: kind
    for kind in (
        Kind(
            "gaussian_noise",
            "Noise",
            "Grain, as from a camera with too little light.",
            low=0,
            high=MAX_SIGMA,
            step=1,
            levels=CURVE_SIGMAS,
            severities=IMAGENET_C_SIGMAS,
            source=_IMAGENET_C,
            others=(
                *(Mark(sigma, f"training, sigma {sigma}", "training") for sigma in TRAIN_SIGMAS),
                *(Mark(sigma, f"the paper's tests, sigma {sigma}", "paper") for sigma in PAPER_SIGMAS),
            ),
            seeded=True,
            change=add_gaussian_noise,
        ),
        Kind(
            "shot_noise",
            "Shot noise",
            "The grain of light itself, which comes in photons: bright places get more of it, black stays black.",
            low=0,
            high=150,
            step=1,
            levels=(0, 2, 5, 10, 20, 33, 51, 74, 114, 147, 150),
            # White is 60, 25, 12, 5 and 3 photons there.
            severities=(32.9, 51, 73.6, 114, 147.2),
            source=_IMAGENET_C,
            seeded=True,
            change=shot_noise,
        ),
        Kind(
            "speckle_noise",
            "Speckle noise",
            "Each pixel is a little too bright or too dark, by a share of its brightness.",
            unit="%",
            low=0,
            high=100,
            step=1,
            levels=(0, 5, 10, 15, 20, 35, 45, 60, 80, 100),
            severities=(15, 20, 35, 45, 60),
            source=_IMAGENET_C,
            seeded=True,
            change=speckle_noise,
        ),
        Kind(
            "blur",
            "Blur",
            "Out of focus: fine detail melts away.",
            unit="px",
            low=0,
            high=8,
            step=0.25,
            levels=(0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
            severities=(1, 2, 3, 4, 6),
            source=_IMAGENET_C,
            change=spatial.blur,
        ),
        Kind(
            "defocus",
            "Defocus",
            "The lens stands too high or too low: every point becomes a disk.",
            unit="px",
            low=0,
            high=12,
            step=0.25,
            levels=(0, 1, 2, 3, 4, 5, 6, 8, 10, 12),
            severities=(3, 4, 6, 8, 10),
            source=_IMAGENET_C,
            change=spatial.defocus,
        ),
        Kind(
            "motion_blur",
            "Motion blur",
            "The slide moves while the picture is taken: every point becomes a line.",
            unit="px",
            low=0,
            high=40,
            step=0.5,
            levels=(0, 2, 4, 6.5, 10.5, 17, 24, 30, 40),
            # A stage moves evenly; ImageNet-C's trail, which fades, has the same spread (its radius and sigma are
            # (10, 3), (15, 5), (15, 8), (15, 12) and (20, 15)).
            severities=(6.5, 10.5, 17, 24, 30),
            source=_IMAGENET_C,
            seeded=True,
            change=spatial.motion_blur,
        ),
        Kind(
            "jpeg",
            "JPEG compression",
            "Saved too small: blocks and smeared colour (100 minus the usual quality number).",
            low=0,
            high=95,
            step=1,
            levels=(0, 5, 10, 25, 40, 50, 60, 70, 75, 82, 85, 90, 93, 95),
            severities=(75, 82, 85, 90, 93),
            source=_IMAGENET_C,
            others=(Mark(25, "quality 75, the default of many programs", "usual"),),
            change=spatial.jpeg,
        ),
        Kind(
            "downsample",
            "Low resolution",
            "As if photographed with fewer pixels: made this many times smaller, and enlarged again.",
            unit="x",
            low=1,
            high=16,
            step=0.5,
            neutral=1,
            levels=(1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 16),
            # Its pixelate: 0.6, 0.5, 0.4, 0.3 and 0.25 of the side.
            severities=(1.67, 2, 2.5, 3.33, 4),
            source=_IMAGENET_C,
            change=spatial.downsample,
        ),
        Kind(
            "brightness",
            "Brightness",
            "A dimmer or brighter lamp, or another exposure.",
            unit="%",
            low=-100,
            high=100,
            step=1,
            levels=_PERCENT_LEVELS,
            # Its steps downwards, 10 to 50 %; upwards it stops at 40 %.
            severities=(10, 20, 30, 40, 50),
            source=_BLOOD,
            both_ways=True,
            change=colour.brightness,
        ),
        Kind(
            "contrast",
            "Contrast",
            "Light and dark parts of the cell move closer together or further apart.",
            unit="%",
            low=-100,
            high=100,
            step=1,
            levels=_PERCENT_LEVELS,
            # Its steps downwards; upwards it stops at 30 %. ImageNet-C takes 60 to 95 %, which no microscope does.
            severities=(10, 20, 30, 40, 50),
            source=_BLOOD,
            both_ways=True,
            change=colour.contrast,
        ),
        Kind(
            "saturation",
            "Saturation",
            "Paler or more vivid colour; at -100 % the picture is grey.",
            unit="%",
            low=-100,
            high=100,
            step=1,
            levels=_PERCENT_LEVELS,
            # Even steps to grey, which the MobileNet_M paper made half of its healthy cells.
            severities=(20, 40, 60, 80, 100),
            source=_OWN,
            both_ways=True,
            change=colour.saturation,
        ),
        Kind(
            "hue",
            "Stain hue",
            "The same stain in another tint, from bluish to reddish, at equal brightness.",
            unit="°",
            low=-90,
            high=90,
            step=1,
            levels=(-90, -60, -45, -30, -20, -10, 0, 10, 20, 30, 45, 60, 90),
            severities=(10, 20, 30, 45, 60),
            source=_OWN,
            both_ways=True,
            change=colour.hue,
        ),
        Kind(
            "stain_hue",
            "Stain balance",
            "More of the red dye and less of the blue one, or the reverse, as from another batch or acidity of stain.",
            unit="%",
            low=-100,
            high=100,
            step=1,
            levels=(-100, -75, -50, -35, -20, -10, -5, 0, 5, 10, 20, 35, 50, 75, 100),
            # 5 % is its HED-light, 20 % its HED-strong; beyond that, what a label still survives to the eye.
            severities=(5, 10, 20, 35, 50),
            source=_STAIN,
            both_ways=True,
            change=colour.stain_hue,
        ),
        Kind(
            "stain_concentration",
            "Stain concentration",
            "Stained for a shorter or longer time: all the dye is thinner or thicker.",
            unit="%",
            low=-75,
            high=75,
            step=1,
            levels=(-75, -50, -35, -20, -10, -5, 0, 5, 10, 20, 35, 50, 75),
            severities=(5, 10, 20, 35, 50),
            source=_STAIN,
            both_ways=True,
            change=colour.stain_concentration,
        ),
        Kind(
            "shift",
            "Off centre",
            "The picture slides out of its frame in some direction, and black moves in.",
            unit="%",
            low=0,
            high=40,
            step=1,
            levels=(0, 2, 5, 10, 15, 20, 25, 30, 40),
            severities=(5, 10, 15, 20, 25),
            source=_OWN,
            seeded=True,
            change=spatial.shift,
        ),
        Kind(
            "scale_bar",
            "Scale bar",
            "A white plate with a scale bar and a number covers the lower right corner, so much of the width.",
            unit="%",
            low=0,
            high=60,
            step=1,
            levels=(0, 5, 11, 20, 30, 40, 50, 60),
            # The 4-class set's own scale bars are 11 % wide.
            severities=(11, 20, 30, 40, 50),
            source=_OWN,
            change=spatial.scale_bar,
        ),
    )
}


@dataclass(frozen=True)
class Corruption:
    """One kind at one level, such as `Corruption("jpeg", 40)`.

    Attributes:
        kind: a name in `KINDS`.
        level: within that kind's range, on its scale.

    Raises:
        BlastlensError: an unknown kind, or a level that is not a number or out of range.
    """

    kind: str
    level: float

    def __post_init__(self) -> None:
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise BlastlensError(
                f"There is no corruption {reprlib.repr(self.kind)}; one of {', '.join(KINDS)} is accepted."
            )
        kind = KINDS[self.kind]
        try:
            value = float(self.level)
        except (TypeError, ValueError, OverflowError):
            value = math.nan
        if not kind.low <= value <= kind.high:
            given = reprlib.repr(self.level)
            raise BlastlensError(
                f"The level of {self.kind} is {given}; a number from {kind.low:g} to {kind.high:g} is accepted."
            )
        object.__setattr__(self, "level", value)

    @classmethod
    def neutral(cls, kind: str) -> "Corruption":
        """The kind at its neutral level; raises BlastlensError for an unknown one."""
        known = isinstance(kind, str) and kind in KINDS
        return cls(kind, KINDS[kind].neutral if known else 0)

    @classmethod
    def parse(cls, text: str) -> "Corruption":
        """Read "kind:level", such as "jpeg:40".

        Raises:
            BlastlensError: another form, an unknown kind or a level out of range.
        """
        kind, colon, level = text.partition(":")
        if not colon:
            raise BlastlensError(
                f"The corruption is {text!r}; kind:level is expected, such as jpeg:40, with one of {', '.join(KINDS)}."
            )
        return cls(kind, level)  # type: ignore[arg-type]  # turned into a number, or refused, above

    def __str__(self) -> str:
        return f"{self.kind}:{self.level:g}"

    @property
    def is_neutral(self) -> bool:
        """Whether it changes nothing."""
        return self.level == KINDS[self.kind].neutral

    def apply(self, pixels: np.ndarray, seed: int = 0) -> np.ndarray:
        """The corrupted pixels, in a new array: uint8 (H, W, 3) to the same.

        Args:
            pixels: uint8 (H, W, 3).
            seed: of random kinds, an integer, 0 or more.

        Raises:
            BlastlensError: pixels of another type or shape, or a seed out of range.
        """
        checked_pixels(pixels)
        kind = KINDS[self.kind]
        if kind.seeded:
            seed = checked_seed(seed)
        return pixels.copy() if self.is_neutral else kind.change(pixels, self.level, seed)
