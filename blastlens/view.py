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
        if not (_is_triple(self.mean) and _is_triple(self.std) and min(self.std) > 0):
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
        mean, std = _as_tuple(cfg.get("mean")), _as_tuple(cfg.get("std"))
        return cls(shape[1], None, cfg.get("interpolation", "bicubic"), mean, std)

    @classmethod
    def _from_preprocessor(cls, size: int, preprocessor: dict[str, Any]) -> "View":
        missing = {"image_processor_type": None, "do_resize": True, "do_center_crop": None, "resample": 2}
        settings = _PREPROCESSOR | missing | preprocessor
        _require(settings, _PREPROCESSOR, "preprocessor_config.json")
        frame, crop = _side(settings.get("size")), _side(settings.get("crop_size"))
        if not _is_int(frame) or crop != size:
            raise BlastlensError(
                f"preprocessor_config.json has size {settings.get('size')!r} and crop_size "
                f"{settings.get('crop_size')!r}; a square, and the model's {size} px, are expected."
            )
        resample = settings["resample"]
        interpolation = {"2": "bilinear", "3": "bicubic"}.get(str(resample), f"resample {resample}")
        mean, std = _as_tuple(settings.get("image_mean")), _as_tuple(settings.get("image_std"))
        return cls(size, frame, interpolation, mean, std)

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

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """The network's input, (x / 255 - mean) / std: uint8 (N, S, S, 3) to float32 (N, 3, S, S)."""
        mean, std = (np.array(values, np.float64).reshape(3, 1, 1) for values in (self.mean, self.std))
        count, height, width, channels = pixels.shape
        batch = np.empty((count, channels, height, width), np.float32)
        np.multiply(pixels.transpose(0, 3, 1, 2), (1 / (255 * std)).astype(np.float32), out=batch)
        batch -= (mean / std).astype(np.float32)
        return batch

    def remarks(self, width: int, height: int) -> tuple[str, ...]:
        """Remarks on an image size, in pixels, that the model was not trained on."""
        seen = f"image is {width}x{height}"
        if self.frame is None:
            square = () if width == height else (f"{seen}; only its centre square was used",)
            small = min(width, height) < self.size
            return (*square, *([f"{seen}; it was enlarged to {self.size}x{self.size}"] if small else []))
        if width == height and width in (RAW_CELL_SIDE, self.size):
            return ()
        done = "resized and cropped" if max(width, height) > self.frame else "padded or cropped, not resized"
        return (
            f"{seen}; the model expects a single segmented cell on black, {RAW_CELL_SIDE}x{RAW_CELL_SIDE} or "
            f"prepared {self.size}x{self.size}; it was {done}",
        )


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


# The settings with which transformers' DonutImageProcessor does what `View` does. Where a file leaves one out, that
# class takes the same value, but for those that `_from_preprocessor` calls missing.
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
        found = settings.get(key)
        if isinstance(value, float) and isinstance(found, float):
            same = math.isclose(found, value, rel_tol=1e-6)
        else:  # the processor's Pillow twin gives the same to one grey level, so a file may name either
            same = found == value or (key == "image_processor_type" and found == f"{value}Pil")
        if not same:
            raise BlastlensError(f"{key} in {file} is {found!r}; {value!r} is expected.")


def _side(value: Any) -> Any:
    """The side of a square written as a number or as {"height": S, "width": S}; other values as they are."""
    if isinstance(value, dict) and value.get("height") == value.get("width"):
        return value.get("height")
    return value


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_triple(value: Any) -> bool:
    numbers = isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
    return numbers and len(value) == 3 and all(abs(v) < 1e6 for v in value)
