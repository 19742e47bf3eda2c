"""What a model sees of an image: the square of pixels that is cropped and resized from it, and their normalization."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .errors import BlastlensError

RAW_CELL_SIDE = 450  # of the published C-NMC images, each one segmented cell on black

_INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
_REACHES = {"bilinear": 1, "bicubic": 2, "lanczos": 3}  # radius of each filter, in pixels of the smaller image


@dataclass(frozen=True)
class View:
    """The square of pixels a model sees, and how they are normalised.

    Attributes:
        size: side of the network's input in pixels.
        frame: None for timm's evaluation transform (shortest side to `size`, centre crop). For single-cell
            models the side of a black square: a larger image is shrunk to fit into it, a smaller one put on
            it unchanged, and its centre is cropped, as the transformers image processor named in the model
            folder does. Published cells of 450 px and their prepared centres of `size` px then look the same.
        interpolation: "bicubic", "bilinear" or "lanczos", with antialiasing as Pillow does it.
        mean, std: per channel, on the 0 to 1 scale.
    """

    size: int
    frame: int | None
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not (_is_int(self.size) and 16 <= self.size <= 4096):
            raise BlastlensError(f"The input size is {self.size!r}; 16 to 4096 pixels are accepted.")
        if self.frame is not None and not (_is_int(self.frame) and self.size <= self.frame <= 8192):
            raise BlastlensError(f"The frame is {self.frame!r}; it must be at least as large as the input.")
        if self.interpolation not in tuple(_INTERPOLATIONS):
            known = ", ".join(_INTERPOLATIONS)
            raise BlastlensError(f"The interpolation is {self.interpolation!r}; one of {known} is accepted.")
        triples = (isinstance(values, tuple) and len(values) == 3 for values in (self.mean, self.std))
        if not (
            all(triples)
            and all(isinstance(v, int | float) and abs(v) < 1e6 for v in self.mean + self.std)
            and min(self.std) > 0
        ):
            raise BlastlensError(
                f"The mean {self.mean!r} and std {self.std!r} must be three numbers each, std above 0."
            )

    @classmethod
    def from_folder(cls, config: dict[str, Any], preprocessor: dict[str, Any] | None) -> "View":
        """Read the view from config.json and, for single-cell models, preprocessor_config.json.

        Raises:
            BlastlensError: a missing or unusable setting, or one that would make `transformers.pipeline` see
                other pixels than this view.
        """
        cfg = config.get("pretrained_cfg")
        if not isinstance(cfg, dict):
            raise BlastlensError("config.json has no pretrained_cfg; a timm model's configuration is expected.")
        shape = cfg.get("input_size")
        if not (isinstance(shape, list) and len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2]):
            raise BlastlensError(f"input_size in config.json is {shape!r}; [3, S, S] is expected.")
        settings = {"test_input_size": shape, "crop_mode": "center"} | cfg
        _require(settings, {"test_input_size": shape, "crop_pct": 1, "crop_mode": "center"}, "config.json")
        # A pipeline finds the image processor's name in config.json and its settings in the other file.
        if ("image_processor_type" in config) != (preprocessor is not None):
            raise BlastlensError(
                "A single-cell model needs both image_processor_type in config.json and a "
                "preprocessor_config.json; one is missing."
            )
        if preprocessor is not None:
            return cls._from_preprocessor(shape[1], preprocessor)
        return cls(shape[1], None, cfg.get("interpolation", "bicubic"), _tuple(cfg.get("mean")), _tuple(cfg.get("std")))

    @classmethod
    def _from_preprocessor(cls, size: int, preprocessor: dict[str, Any]) -> "View":
        missing = {"image_processor_type": None, "do_resize": True, "do_center_crop": None, "resample": 2}
        settings = _PREPROCESSOR | missing | preprocessor
        settings["image_processor_type"] = str(settings.get("image_processor_type")).removesuffix("Pil")
        _require(settings, _PREPROCESSOR, "preprocessor_config.json")
        frame, crop = _side(settings.get("size")), _side(settings.get("crop_size"))
        if not _is_int(frame) or crop != size:
            raise BlastlensError(
                f"preprocessor_config.json has size {settings.get('size')!r} and crop_size "
                f"{settings.get('crop_size')!r}; a square, and the model's {size} px, are expected."
            )
        resample = settings["resample"]
        interpolation = {"2": "bilinear", "3": "bicubic"}.get(str(resample), f"resample {resample}")
        return cls(size, frame, interpolation, _tuple(settings.get("image_mean")), _tuple(settings.get("image_std")))

    def apply(self, image: Image.Image) -> np.ndarray:
        """Crop and resize an RGB image to what the network sees before normalisation: uint8 (S, S, 3)."""
        return np.array(self._shortest_side(image) if self.frame is None else self._framed(image, self.frame))

    def _shortest_side(self, image: Image.Image) -> Image.Image:
        short = min(image.size)
        width, height = self.size * image.width // short, self.size * image.height // short
        if (width, height) != image.size:
            image = image.resize((width, height), _INTERPOLATIONS[self.interpolation])
        # torchvision's centre crop rounds half to even, as Python does.
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return image.crop((left, top, left + self.size, top + self.size))

    def _framed(self, image: Image.Image, frame: int) -> Image.Image:
        width, height = _thumbnail_size(*image.size, frame)
        # The crop's corner on the shrunk image; negative where the crop reaches into the black around it.
        margin = (frame - self.size) // 2
        left, top = margin - (frame - width) // 2, margin - (frame - height) // 2
        if (width, height) == image.size:
            return image.crop((left, top, left + self.size, top + self.size))
        # Black stays black, so only what is kept and lit is resampled: of a published cell, a quarter of the time.
        lit = image.getbbox() or (0, 0, 0, 0)
        across, down = image.width / width, image.height / height
        x0, x1 = self._reached(lit[0], lit[2], across, max(left, 0), min(left + self.size, width))
        y0, y1 = self._reached(lit[1], lit[3], down, max(top, 0), min(top + self.size, height))
        if x0 >= x1 or y0 >= y1:
            return Image.new(image.mode, (self.size, self.size))
        # What is resampled may look at pixels beyond its box.
        box = (x0 * across, y0 * down, min(x1 * across, image.width), min(y1 * down, image.height))
        part = image.resize((x1 - x0, y1 - y0), _INTERPOLATIONS[self.interpolation], box=box)
        return part.crop((left - x0, top - y0, left - x0 + self.size, top - y0 + self.size))

    def _reached(self, start: int, end: int, scale: float, low: int, high: int) -> tuple[int, int]:
        """Which pixels of a shrunk line, `low` to `high` at most, see any of the pixels from `start` to `end` of it."""
        reach = _REACHES[self.interpolation] * scale
        return max(low, math.floor((start - reach) / scale)), min(high, math.ceil((end + reach) / scale))

    def remarks(self, size: tuple[int, int], pixels: np.ndarray) -> tuple[str, ...]:
        """What is unlike the images that the model was trained on: an image size in pixels, and what the model sees."""
        width, height = size
        seen, remarks = f"image is {width}x{height}", []
        if self.frame is None:
            if width != height:
                remarks.append(f"{seen}; only its centre square was used")
            if min(size) < self.size:
                remarks.append(f"{seen}; it was enlarged to {self.size}x{self.size}")
        elif width != height or width not in (RAW_CELL_SIDE, self.size):
            done = "resized and cropped" if max(size) > self.frame else "padded or cropped, not resized"
            remarks.append(
                f"{seen}; the model expects a single segmented cell on black, {RAW_CELL_SIDE}x{RAW_CELL_SIDE} or "
                f"prepared {self.size}x{self.size}; it was {done}"
            )
        # Nearly every image shows its colours on the middle row, where they are found quickly.
        parts = (pixels[len(pixels) // 2], pixels)
        if all((part[..., 0] == part[..., other]).all() for part in parts for other in (1, 2)):
            remarks.append("image has no colour; the model was trained on stained cells in colour")
        return tuple(remarks)


def _thumbnail_size(width: int, height: int, frame: int) -> tuple[int, int]:
    """Size after the shrinking step of transformers' DonutImageProcessor, whose arithmetic this follows."""
    new_width, new_height = min(width, frame), min(height, frame)
    if (new_width, new_height) == (width, height):
        return width, height
    if height > width:
        new_width = width * new_height // height
    elif width > height:
        new_height = height * new_width // width
    return new_width, new_height


# The settings with which transformers' DonutImageProcessor does what `View` does; its Pillow twin gives the same to one
# grey level. Where a file leaves one out, that class takes the same value, but for those that `_from_preprocessor`
# calls missing.
_PREPROCESSOR = {
    "image_processor_type": "DonutImageProcessor",
    "do_resize": False,
    "do_thumbnail": True,
    "do_align_long_axis": False,
    "do_pad": True,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
}


def _require(settings: dict[str, Any], expected: dict[str, Any], file: str) -> None:
    for key, value in expected.items():
        if settings.get(key) != value:
            raise BlastlensError(f"{key} in {file} is {settings.get(key)!r}; {value!r} is expected.")


def _side(value: Any) -> Any:
    """The side of a square written as a number or as {"height": S, "width": S}; other values as they are."""
    if isinstance(value, dict) and value.get("height") == value.get("width"):
        return value.get("height")
    return value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
