"""Ways an image gets worse on its way from the microscope: one of the kinds in `table`, at one level.

Every kind works on the pixels the network sees (after crop and resize, before normalisation), is the identity at
its neutral level, grows with the distance from it, and is repeatable: the same pixels, level and seed give the
same result. How each is made is in `blastlens.noise`, `optics`, `colour`, `file` and `placing`.
"""

import math
import reprlib
from dataclasses import dataclass

import numpy as np

from ..errors import BlastlensError
from ..noise import checked_pixels, checked_seed
from .colour import BLACK, TO_YCC
from .optics import BLUR_SIDE
from .table import CURVE_SIGMAS, KINDS, Kind, Mark

__all__ = ["BLACK", "BLUR_SIDE", "CURVE_SIGMAS", "KINDS", "TO_YCC", "Corruption", "Kind", "Mark"]


@dataclass(frozen=True)
class Corruption:
    """One kind at one level, such as `Corruption("jpeg", 40)`.

    Attributes:
        kind: a name in `KINDS`.
        level: within that kind's range, on its scale.

    Raises:
        BlastlensError: an unknown kind, or a level that is no number or out of its range.
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
        """The kind at the level that changes nothing. Raises BlastlensError for an unknown one."""
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
            seed: of what is random, a whole number, 0 or more; other kinds do without.

        Raises:
            BlastlensError: pixels of another type or shape, or a seed out of range.
        """
        checked_pixels(pixels)
        kind = KINDS[self.kind]
        if kind.seeded:
            seed = checked_seed(seed)
        return pixels.copy() if self.is_neutral else kind.change(pixels, self.level, seed)
