"""Image corruptions: a table of kinds, each with its levels and five severities, and one kind at one level.

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

from .. import noise
from ..errors import BlastlensError
from . import colour, spatial

# Clean, the training sigmas, the MobileNet_M paper's test sigmas, ImageNet-C's severities, and the slider's end.
CURVE_SIGMAS = (0, 2, 3, 5, 6, 8, 9, 10, 20.4, 30.6, 45.9, 66.3, 96.9, 100)
_PERCENT_LEVELS = (-100, -75, -50, -25, -10, 0, 10, 25, 50, 75, 100)


@dataclass(frozen=True)
class Kind:
    """One kind of corruption.

    Attributes:
        name: as in code, "jpeg"; title: as on a page, "JPEG compression".
        explanation: one sentence for newcomers.
        change: (pixels, level, seed) to pixels, uint8 (H, W, 3) both; not called at the neutral level.
        levels: what a curve samples, ascending, neutral included; their ends are the range of levels.
        severities: five levels above neutral, ascending, at which robustness is measured.
        source: where the severities come from, a short phrase, "ImageNet-C".
        unit: of the level, "" where it has none.
        step: of a slider.
        neutral: the level that changes nothing.
        seeded: whether it draws random numbers, so that another seed gives another result.
        references: further levels that a slider marks, with a description each.
    """

    name: str
    title: str
    explanation: str
    change: Callable[[np.ndarray, float, int], np.ndarray]
    levels: tuple[float, ...]
    severities: tuple[float, ...]
    source: str
    unit: str = ""
    step: float = 1
    neutral: float = 0
    seeded: bool = False
    references: tuple[tuple[float, str], ...] = ()

    @property
    def low(self) -> float:
        """The lowest level."""
        return self.levels[0]

    @property
    def high(self) -> float:
        """The highest level."""
        return self.levels[-1]

    @property
    def both_ways(self) -> bool:
        """Whether a severity stands for two changes, one above neutral and one as far below."""
        return self.low < self.neutral

    def levels_of(self, severity: int) -> tuple[float, ...]:
        """The levels that a severity from 1 to 5 stands for: one, or one below and one above neutral."""
        level = self.severities[severity - 1]
        return (2 * self.neutral - level, level) if self.both_ways else (level,)

    @property
    def marks(self) -> list[tuple[float, str]]:
        """Levels that a slider marks, ascending, with a description each: `references` and the severities."""
        severities = [
            (level, f"{self.source} severity {number}")
            for number in range(1, len(self.severities) + 1)
            for level in self.levels_of(number)
        ]
        return sorted([*self.references, *severities], key=lambda mark: mark[0])


_IMAGENET_C = "ImageNet-C"
_BLOOD = "MedMNIST-C"
_STAIN = "stain augmentation"
_OWN = "our own"

_KINDS = (
    Kind(
        "gaussian_noise",
        "Noise",
        "Grain, as from a camera with too little light.",
        noise.add_gaussian_noise,
        levels=CURVE_SIGMAS,
        severities=noise.IMAGENET_C_SIGMAS,
        source=_IMAGENET_C,
        seeded=True,
        references=(
            *((sigma, f"training, sigma {sigma}") for sigma in noise.TRAIN_SIGMAS),
            *((sigma, f"the paper's tests, sigma {sigma}") for sigma in noise.PAPER_SIGMAS),
        ),
    ),
    Kind(
        "shot_noise",
        "Shot noise",
        "The grain of light itself, which comes in photons: bright places get more of it, black stays black.",
        noise.shot_noise,
        levels=(0, 2, 5, 10, 20, 33, 51, 74, 114, 147, 150),
        severities=(32.9, 51, 73.6, 114, 147.2),  # white is 60, 25, 12, 5 and 3 photons there
        source=_IMAGENET_C,
        seeded=True,
    ),
    Kind(
        "speckle_noise",
        "Speckle noise",
        "Each pixel is a little too bright or too dark, by a share of its brightness.",
        noise.speckle_noise,
        levels=(0, 5, 10, 15, 20, 35, 45, 60, 80, 100),
        severities=(15, 20, 35, 45, 60),
        source=_IMAGENET_C,
        unit="%",
        seeded=True,
    ),
    Kind(
        "blur",
        "Blur",
        "Out of focus: fine detail melts away.",
        spatial.blur,
        levels=(0, 0.5, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 8),
        severities=(1, 2, 3, 4, 6),
        source=_IMAGENET_C,
        unit="px",
        step=0.25,
    ),
    Kind(
        "defocus",
        "Defocus",
        "The lens stands too high or too low: every point becomes a disk.",
        spatial.defocus,
        levels=(0, 1, 2, 3, 4, 5, 6, 8, 10, 12),
        severities=(3, 4, 6, 8, 10),
        source=_IMAGENET_C,
        unit="px",
        step=0.25,
    ),
    Kind(
        "motion_blur",
        "Motion blur",
        "The slide moves while the picture is taken: every point becomes a line.",
        spatial.motion_blur,
        levels=(0, 2, 4, 6.5, 10.5, 17, 24, 30, 40),
        # A stage moves evenly; ImageNet-C's trail, which fades, has the same spread (its radius and sigma are
        # (10, 3), (15, 5), (15, 8), (15, 12) and (20, 15)).
        severities=(6.5, 10.5, 17, 24, 30),
        source=_IMAGENET_C,
        unit="px",
        step=0.5,
        seeded=True,
    ),
    Kind(
        "jpeg",
        "JPEG compression",
        "Saved too small: blocks and smeared colour (100 minus the usual quality number).",
        spatial.jpeg,
        levels=(0, 5, 10, 25, 40, 50, 60, 70, 75, 82, 85, 90, 93, 95),
        severities=(75, 82, 85, 90, 93),
        source=_IMAGENET_C,
        references=((25, "quality 75, the default of many programs"),),
    ),
    Kind(
        "downsample",
        "Low resolution",
        "As if photographed with fewer pixels: made this many times smaller, and enlarged again.",
        spatial.downsample,
        levels=(1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 12, 16),
        severities=(1.67, 2, 2.5, 3.33, 4),  # its pixelate: 0.6, 0.5, 0.4, 0.3 and 0.25 of the side
        source=_IMAGENET_C,
        unit="x",
        step=0.5,
        neutral=1,
    ),
    Kind(
        "brightness",
        "Brightness",
        "A dimmer or brighter lamp, or another exposure.",
        colour.brightness,
        levels=_PERCENT_LEVELS,
        severities=(10, 20, 30, 40, 50),  # its steps downwards; upwards it stops at 40 %
        source=_BLOOD,
        unit="%",
    ),
    Kind(
        "contrast",
        "Contrast",
        "Light and dark parts of the cell move closer together or further apart.",
        colour.contrast,
        levels=_PERCENT_LEVELS,
        # Its steps downwards; upwards it stops at 30 %. ImageNet-C takes 60 to 95 %, which no microscope does.
        severities=(10, 20, 30, 40, 50),
        source=_BLOOD,
        unit="%",
    ),
    Kind(
        "saturation",
        "Saturation",
        "Paler or more vivid colour; at -100 % the picture is grey.",
        colour.saturation,
        levels=_PERCENT_LEVELS,
        severities=(20, 40, 60, 80, 100),  # to grey, which the MobileNet_M paper made half of its healthy cells
        source=_OWN,
        unit="%",
    ),
    Kind(
        "hue",
        "Stain hue",
        "The same stain in another tint, from bluish to reddish, at equal brightness.",
        colour.hue,
        levels=(-90, -60, -45, -30, -20, -10, 0, 10, 20, 30, 45, 60, 90),
        severities=(10, 20, 30, 45, 60),
        source=_OWN,
        unit="°",
    ),
    Kind(
        "stain_hue",
        "Stain balance",
        "More of the red dye and less of the blue one, or the reverse, as from another batch or acidity of stain.",
        colour.stain_hue,
        levels=(-100, -75, -50, -35, -20, -10, -5, 0, 5, 10, 20, 35, 50, 75, 100),
        # 5 % is its HED-light, 20 % its HED-strong; beyond that, what a label still survives to the eye.
        severities=(5, 10, 20, 35, 50),
        source=_STAIN,
        unit="%",
    ),
    Kind(
        "stain_concentration",
        "Stain concentration",
        "Stained for a shorter or longer time: all the dye is thinner or thicker.",
        colour.stain_concentration,
        levels=(-75, -50, -35, -20, -10, -5, 0, 5, 10, 20, 35, 50, 75),
        severities=(5, 10, 20, 35, 50),
        source=_STAIN,
        unit="%",
    ),
    Kind(
        "shift",
        "Off centre",
        "The picture slides out of its frame in some direction, and black moves in.",
        spatial.shift,
        levels=(0, 2, 5, 10, 15, 20, 25, 30, 40),
        severities=(5, 10, 15, 20, 25),
        source=_OWN,
        unit="%",
        seeded=True,
    ),
    Kind(
        "scale_bar",
        "Scale bar",
        "A white plate with a scale bar and a number covers the lower right corner, so much of the width.",
        spatial.scale_bar,
        levels=(0, 5, 11, 20, 30, 40, 50, 60),
        severities=(11, 20, 30, 40, 50),  # the 4-class set's own scale bars are 11 % wide
        source=_OWN,
        unit="%",
    ),
)
KINDS = {kind.name: kind for kind in _KINDS}


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
        kind = kind_of(self.kind)
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
            seed: of random kinds, an integer, 0 or more.

        Raises:
            BlastlensError: pixels of another type or shape, or a seed out of range.
        """
        noise.check_pixels(pixels)
        kind = KINDS[self.kind]
        if kind.seeded:
            seed = noise.checked_seed(seed)
        return pixels.copy() if self.is_neutral else kind.change(pixels, self.level, seed)


def kind_of(name: str) -> Kind:
    """The kind of a name; raises BlastlensError if there is none."""
    if not isinstance(name, str) or name not in KINDS:
        raise BlastlensError(f"There is no corruption {reprlib.repr(name)}; one of {', '.join(KINDS)} is accepted.")
    return KINDS[name]
