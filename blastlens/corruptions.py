"""Ways an image gets worse on its way from the microscope: a table of kinds, and one of them at one level.

Every kind works on the pixels the network sees (after crop and resize, before normalisation), is the identity at
its neutral level, grows with the distance from it, and is repeatable: the same pixels, level and seed give the
same result. Only Gaussian noise draws random numbers. All but blur, JPEG and downsampling treat a pixel by
itself, and all but noise leave the black around a single cell black, apart from the cell's edge.
"""

import math
import reprlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from PIL import Image, ImageFilter

from .errors import BlastlensError
from .noise import IMAGENET_C_SIGMAS, MAX_SIGMA, PAPER_SIGMAS, TRAIN_SIGMAS, add_gaussian_noise, checked_pixels

# Clean, the training sigmas, the MobileNet_M paper's test sigmas, ImageNet-C's severities, and the slider's end.
CURVE_SIGMAS = (0, 2, 3, 5, 6, 8, 9, 10, 20.4, 30.6, 45.9, 66.3, 96.9, 100)
# Blur is given in pixels of a view of this side, so that models of other input sizes see the same blur.
BLUR_SIDE = 224
# A pixel whose brightest channel is at most this is background: the black that a single cell was cut out onto,
# with what resampling or JPEG compression added to it. Stained cells are far brighter.
BLACK = 8


@dataclass(frozen=True)
class Mark:
    """A level worth a tick on a slider's track: what it is, and the group it belongs to."""

    level: float
    text: str
    group: str


@dataclass(frozen=True)
class Kind:
    """One way to make an image worse.

    Attributes:
        name: as in code, "jpeg"; title: as on a page, "JPEG compression".
        explanation: one sentence for people who are new to it.
        change: (pixels, level, seed) to pixels, uint8 (H, W, 3) both; not called at the neutral level.
        low, high, step: the range of levels, and a sensible step for a slider.
        levels: what a curve samples, ascending, neutral included.
        neutral: the level that changes nothing.
        unit: of the level, "" where it has none.
        marks: levels with a meaning of their own.
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
    neutral: float = 0
    unit: str = ""
    marks: tuple[Mark, ...] = ()
    seeded: bool = False


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
            seed: of the noise, a whole number, 0 or more; other kinds do without.

        Raises:
            BlastlensError: pixels of another type or shape, or a seed out of range.
        """
        checked_pixels(pixels)
        return pixels.copy() if self.is_neutral else KINDS[self.kind].change(pixels, self.level, seed)


def _blur(pixels: np.ndarray, radius: float, seed: int) -> np.ndarray:
    scaled = radius * min(pixels.shape[:2]) / BLUR_SIDE
    return np.array(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(scaled)))


def _jpeg(pixels: np.ndarray, compression: float, seed: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(100 - compression))
    return np.array(Image.open(file))


def _downsample(pixels: np.ndarray, factor: float, seed: int) -> np.ndarray:
    image = Image.fromarray(pixels)
    small = tuple(max(1, round(side / factor)) for side in image.size)
    reduced = image.resize(small, Image.Resampling.BOX)  # type: ignore[arg-type]  # a pair, as image.size is
    return np.array(reduced.resize(image.size, Image.Resampling.BILINEAR))


def _brightness(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    return _rounded(np.arange(256, dtype=np.float32) * np.float32(1 + percent / 100))[pixels]


def _contrast(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    # Around the mean of what is not background. Around mid-grey, a dark cell would turn black or light as a
    # whole, which is brightness; around the mean of everything, the black that surrounds it would turn grey.
    lit = pixels.max(axis=2) > BLACK
    if not lit.any():
        return pixels.copy()
    mean = pixels[lit].mean()
    table = _rounded(mean + (np.arange(256) - mean) * (1 + percent / 100))
    return np.where(lit[..., None], table[pixels], pixels)


# Red, green, blue to brightness, blue-yellow and red-green differences (ITU-R BT.601), in which hue is an angle.
_LUMA = np.array([0.299, 0.587, 0.114])
TO_YCC = np.array([_LUMA, (np.array([0, 0, 1]) - _LUMA) / 1.772, (np.array([1, 0, 0]) - _LUMA) / 1.402])
_FROM_YCC = np.linalg.inv(TO_YCC)


def _hue(pixels: np.ndarray, degrees: float, seed: int) -> np.ndarray:
    # Turns colour at equal brightness; a turn in HSV would leave the stain's darkness changed as well.
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    return _recoloured(pixels, _FROM_YCC @ turn @ TO_YCC)


def _saturation(pixels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    grey = np.tile(_LUMA, (3, 1))
    return _recoloured(pixels, grey + (np.eye(3) - grey) * (1 + percent / 100))


def _recoloured(pixels: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return _rounded(pixels.astype(np.float32) @ matrix.T.astype(np.float32))


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


_SIGMA_MARKS = (
    *(Mark(sigma, f"training, sigma {sigma}", "training") for sigma in TRAIN_SIGMAS),
    *(Mark(sigma, f"the paper's tests, sigma {sigma}", "paper") for sigma in PAPER_SIGMAS),
    *(Mark(sigma, f"ImageNet-C severity {s}", "ImageNet-C") for s, sigma in enumerate(IMAGENET_C_SIGMAS, start=1)),
)
_PERCENT_LEVELS = (-100, -75, -50, -25, -10, 0, 10, 25, 50, 75, 100)

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
            marks=_SIGMA_MARKS,
            seeded=True,
            change=add_gaussian_noise,
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
            # Gaussian blur of ImageNet-C's extra corruptions, its sigmas at 224 px.
            marks=tuple(
                Mark(radius, f"ImageNet-C severity {s}", "ImageNet-C")
                for s, radius in enumerate((1, 2, 3, 4, 6), start=1)
            ),
            change=_blur,
        ),
        Kind(
            "jpeg",
            "JPEG compression",
            "Saved too small: blocks and smeared colour (100 minus the usual quality number).",
            low=0,
            high=95,
            step=1,
            levels=(0, 5, 10, 25, 40, 50, 60, 70, 75, 82, 85, 90, 93, 95),
            marks=(
                Mark(25, "quality 75, the default of many programs", "usual"),
                *(
                    Mark(100 - quality, f"ImageNet-C severity {s}", "ImageNet-C")
                    for s, quality in enumerate((25, 18, 15, 10, 7), start=1)
                ),
            ),
            change=_jpeg,
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
            change=_brightness,
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
            change=_contrast,
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
            change=_hue,
        ),
        Kind(
            "saturation",
            "Stain strength",
            "Paler or more vivid colour; at -100 % the picture is grey.",
            unit="%",
            low=-100,
            high=100,
            step=1,
            levels=_PERCENT_LEVELS,
            change=_saturation,
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
            change=_downsample,
        ),
    )
}
