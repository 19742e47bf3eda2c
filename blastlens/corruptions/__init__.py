"""Image corruptions: the kinds of `kinds.toml`, each with its levels and five severities, and one kind at one level.

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
from pathlib import Path

import numpy as np

from .. import noise
from ..errors import BlastlensError
from ..tables import read_table
from . import colour, spatial

Change = Callable[[np.ndarray, float, int], np.ndarray]  # pixels, level and seed to pixels


@dataclass(frozen=True)
class Kind:
    """One kind of corruption.

    Attributes:
        name: as in code, "jpeg"; title: as on a page, "JPEG compression".
        explanation: one sentence for newcomers.
        change: uint8 (H, W, 3) to the same; not called at the neutral level.
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
    change: Change
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


_CHANGES: dict[str, Change] = {
    "gaussian_noise": noise.add_gaussian_noise,
    "shot_noise": noise.shot_noise,
    "speckle_noise": noise.speckle_noise,
    "blur": spatial.blur,
    "defocus": spatial.defocus,
    "motion_blur": spatial.motion_blur,
    "jpeg": spatial.jpeg,
    "downsample": spatial.downsample,
    "brightness": colour.brightness,
    "contrast": colour.contrast,
    "saturation": colour.saturation,
    "hue": colour.hue,
    "stain_hue": colour.stain_hue,
    "stain_concentration": colour.stain_concentration,
    "shift": spatial.shift,
    "scale_bar": spatial.scale_bar,
}


_RECORDS = read_table(Path(__file__).with_name("kinds.toml"))
KINDS = {name: Kind(name, change=_CHANGES[name], **record) for name, record in _RECORDS.items()}
CURVE_SIGMAS = KINDS["gaussian_noise"].levels


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
