"""Open untrusted images safely, and frame them as a model sees them. Knows nothing of networks or noise."""

import logging
import math
import os
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from .errors import BlastlensError
from .safe_decode import Unreasonable, Watched, check, check_exif
from .wording import printable

# Naming the plugins also imports them, which spares the first image a search through all of Pillow's formats.
FORMATS = tuple(
    plugin.format
    for plugin in (
        PngImagePlugin.PngImageFile,
        JpegImagePlugin.JpegImageFile,
        BmpImagePlugin.BmpImageFile,
        GifImagePlugin.GifImageFile,
        TiffImagePlugin.TiffImageFile,
        WebPImagePlugin.WebPImageFile,
    )
)
ACCEPTED = "PNG, JPEG, BMP, GIF, TIFF or WebP"
MAX_PIXELS = 50_000_000
# Its reader keeps four copies of them.
MAX_WEBP_PIXELS = 25_000_000
# These pixels, uncompressed, with room for a header.
MAX_BYTES = 160_000_000
# 50 megapixels take up to 450 MB until they are used; from so many pixels on, threads take turns.
LARGE = 10_000_000
MIN_SIDE = 16
# A sliver of 16 x 3,000,000 pixels is within the limit above and fills the memory once it is 224 wide.
MAX_ASPECT = 20
# Side of the published C-NMC files, each one segmented cell on black.
RAW_CELL_SIDE = 450

# Pillow takes memory in blocks of this size. Smaller ones, of 16 MB, lie among the C library's other memory, and what
# threads have read stays with them after it is free: 400 MB of two.
Image.core.set_block_size(64 << 20)

# What Pillow logs about a file gets a sentence of our own; where nobody listens, it would go to the terminal.
logging.getLogger("PIL").addHandler(logging.NullHandler())

Result = TypeVar("Result")
ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray

_SIZE_LIMIT = f"at most {MAX_PIXELS // 1_000_000} megapixels are accepted"
_TURNS = threading.Lock()
_ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 0x0112, 322, 323  # EXIF and TIFF tags
# How each EXIF orientation but the first is undone.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# EXIF data as old programs wrote them into a PNG, in hexadecimal.
_RAW_EXIF, _MAX_RAW_EXIF = "Raw profile type exif", 131_072
_INTERPOLATIONS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}
# How far each looks to either side, in pixels of the smaller image.
_REACHES = {"bilinear": 1, "bicubic": 2, "lanczos": 3}


@dataclass(frozen=True)
class OpenedImage:
    """An upright 8-bit RGB image, and notes on what was flattened or left out when it was opened."""

    pixels: Image.Image
    notes: tuple[str, ...] = ()


def open_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """Open one image as 8-bit RGB, upright.

    EXIF rotation is applied, 16-bit values are scaled to 8 bits and floats from 0..1 to 0..255, CMYK and
    palettes are converted, transparency is shown on black, and of an animation the first frame is taken.

    Args:
        source: path, encoded bytes, binary file, PIL image, or uint8 array (H, W), (H, W, 3) or (H, W, 4).
        name: what error messages call the image; by default the file's name, or "image".

    Raises:
        BlastlensError: missing, empty, over 160 MB, not an image, truncated, made to keep its reader busy, over 50
            megapixels, or 25 of WebP (checked before decoding), a side under 16 px, one side over 20 times the other,
            or values that are not pixels.
    """
    return read_image(source, name).pixels


def read_image(source: ImageSource, name: str | None = None) -> OpenedImage:
    """Open one image as `open_image` does, and keep the notes made on the way."""
    return use_image(source, lambda opened: opened, name)


def use_image(source: ImageSource, use: Callable[[OpenedImage], Result], name: str | None = None) -> Result:
    """What `use` makes of one image, opened as `read_image` does.

    Threads take turns with large images until they are used, so that only one of them is in memory; `use` should
    therefore keep less than the image, and open no other.
    """
    name = printable(name or name_of(source))
    if isinstance(source, Image.Image):
        return _use_rgb(source, use, name)
    if isinstance(source, np.ndarray):
        return _use_rgb(_from_array(source, name), use, name)
    if isinstance(source, bytes | bytearray | memoryview):
        return _decode(BytesIO(source), use, name)
    if isinstance(source, str | os.PathLike):
        return _read_path(source, use, name)
    if hasattr(source, "read"):
        data = source.read()
        if not isinstance(data, bytes):
            raise BlastlensError(f"{name} is open as text; open it in binary mode.")
        return _decode(BytesIO(data), use, name)
    raise BlastlensError(
        f"An image cannot be read from {type(source).__name__}; give a path, bytes, a binary file, a PIL "
        "image or a uint8 array."
    )


def name_of(source: Any, unnamed: str = "image") -> str:
    """The file name of an image source, or `unnamed` where it has none."""
    if not isinstance(source, str | os.PathLike):
        source = getattr(source, "filename", None) or getattr(source, "name", None)
    if not isinstance(source, str | os.PathLike):  # a file opened by its descriptor has a number for a name
        return unnamed
    text = os.fsdecode(source)
    return Path(text).name or text or unnamed


def _read_path(source: str | os.PathLike[str], use: Callable[[OpenedImage], Result], name: str) -> Result:
    path = Path(os.fsdecode(source))
    shown = printable(str(path))
    try:
        if path.is_dir():
            raise BlastlensError(f"{shown} is a folder; give image files, such as {shown}{os.sep}*.png.")
        if not path.exists():
            raise BlastlensError(f"{shown} does not exist; give a {ACCEPTED} file.")
        if not path.is_file():  # a pipe or a device could keep us waiting for ever
            raise BlastlensError(f"{shown} is not a regular file; give a {ACCEPTED} file.")
        with path.open("rb") as file:
            return _decode(file, use, name)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BlastlensError(f"{shown} cannot be read ({reason}); give a {ACCEPTED} file.") from error


def _decode(file: BinaryIO, use: Callable[[OpenedImage], Result], name: str) -> Result:
    # Nothing else may hold what was opened: a WebP keeps three copies of its pixels.
    return _use_rgb(_opened(file, name), use, name)


def _opened(file: BinaryIO, name: str) -> Image.Image:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        raise BlastlensError(f"{name} is empty (0 bytes); give a {ACCEPTED} file.")
    if size > MAX_BYTES:
        raise BlastlensError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB; give a smaller image.")
    file.seek(0)
    try:
        check(file)
        image = Image.open(cast(BinaryIO, Watched(file)), formats=FORMATS)
        # Tiles are unpacked whole, however little of one is inside the image.
        tags = getattr(image, "tag_v2", {})
        if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0) > MAX_PIXELS:
            raise Unreasonable
        return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BlastlensError(f"{name} has too many pixels; {_SIZE_LIMIT}.") from error
    except UnidentifiedImageError as error:
        raise BlastlensError(f"{name} is not an image that can be read; give a {ACCEPTED} file.") from error
    except Unreasonable as error:
        raise _unreasonable(name) from error
    except Exception as error:  # decoders fail on hostile bytes in every way there is
        raise _damaged(name) from error


def _unreasonable(name: str) -> BlastlensError:
    return BlastlensError(f"{name} would take too long or too much memory to read; save it anew as a plain PNG.")


def _damaged(name: str) -> BlastlensError:
    return BlastlensError(f"{name} is truncated or damaged; give an intact {ACCEPTED} file.")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not has_shape or array.size == 0:
        raise BlastlensError(
            f"{name} is an array of {array.dtype} and shape {array.shape}; uint8 of shape (H, W), (H, W, 3) "
            "or (H, W, 4) is accepted."
        )
    return Image.fromarray(array)


def _use_rgb(image: Image.Image, use: Callable[[OpenedImage], Result], name: str) -> Result:
    _check_size(*image.size, image.format, name)
    with _TURNS if image.width * image.height > LARGE else nullcontext():
        try:
            opened = _to_rgb(image, name)
        except BlastlensError:
            raise
        except Unreasonable as error:
            raise _unreasonable(name) from error
        except Exception as error:  # decoders fail on hostile bytes in every way there is
            raise _damaged(name) from error
        del image
        return use(opened)


def _to_rgb(image: Image.Image, name: str) -> OpenedImage:
    notes = []
    # A JPEG may hold a preview as a second frame; that is no animation.
    if getattr(image, "is_animated", False) and image.format in ("GIF", "WEBP", "PNG", "TIFF"):
        notes.append("only the first of its frames was used")
    image.load()
    image = _upright(image)
    if image.mode == "P":
        notes.append("its colours come from a palette of at most 256")
    if image.mode == "F" or image.mode.startswith("I"):
        image, remarks = _deep_to_grey(image, name)
        notes += remarks
    if image.has_transparency_data:
        image, remarks = _on_black(image)
        notes += remarks
    elif image.mode != "RGB":
        image = image.convert("RGB")
    return OpenedImage(image, tuple(notes))


def _check_size(width: int, height: int, form: str | None, name: str) -> None:
    size = f"{name} is {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise BlastlensError(f"{size}; {_SIZE_LIMIT}.")
    if form == "WEBP" and width * height > MAX_WEBP_PIXELS:
        raise BlastlensError(
            f"{size}; at most {MAX_WEBP_PIXELS // 1_000_000} megapixels of WebP are accepted, so save it as a PNG."
        )
    if min(width, height) < MIN_SIDE:
        raise BlastlensError(f"{size}; each side must have at least {MIN_SIDE}.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BlastlensError(f"{size}; the long side may be at most {MAX_ASPECT} times the short one.")


def _upright(image: Image.Image) -> Image.Image:
    try:
        check_exif(image.info.get("exif") or b"")
        if len(image.info.get(_RAW_EXIF, "")) > _MAX_RAW_EXIF:
            return image
        # Not ImageOps.exif_transpose, which would read and write all other tags, too.
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        return image if method is None else image.transpose(method)
    except Exception:  # broken metadata says nothing against the pixels
        return image


def _deep_to_grey(image: Image.Image, name: str) -> tuple[Image.Image, list[str]]:
    """Scale a one-channel image of more than 8 bits to 8 bits; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode.startswith("I;16"):
        levels = ((np.arange(65536, dtype=np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
        dark = [f"its 16-bit values reach only {high} of 65535, so it is very dark"] if high < 4096 else []
        return Image.fromarray(levels[values]), dark
    if image.mode == "F" and low >= 0 and high <= 1:  # false for NaN too
        values = np.multiply(values, 255, dtype=np.float32)
        return Image.fromarray(np.rint(values, out=values).astype(np.uint8)), []
    kind = "floating-point" if image.mode == "F" else "32-bit whole-number"
    raise BlastlensError(
        f"{name} has {kind} pixels from {low:g} to {high:g}; 8-bit or 16-bit ones, or floating-point ones "
        "from 0 to 1, are accepted."
    )


def _on_black(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB"), []
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image)
    return black, ["its transparent pixels were shown on black"]


@dataclass(frozen=True)
class View:
    """The square of pixels a model looks at, and how they are normalised.

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
        if cfg.get("test_input_size", shape) != shape:
            raise BlastlensError("test_input_size in config.json differs from input_size; leave it out.")
        if cfg.get("crop_pct") != 1 or cfg.get("crop_mode", "center") != "center":
            raise BlastlensError("config.json must have crop_pct 1.0 and crop_mode center.")
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
        settings = _PREPROCESSOR_DEFAULTS | preprocessor
        for key, expected in _PREPROCESSOR.items():
            if not _same(settings.get(key), expected):
                raise BlastlensError(
                    f"{key} in preprocessor_config.json is {settings.get(key)!r}; {expected!r} is expected."
                )
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
        """What to tell a reader whose image has a size, in pixels, that the model was not trained on."""
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


# The settings with which transformers' DonutImageProcessor does what `View` does; then what that class falls
# back to where a file leaves one out.
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
_PREPROCESSOR_DEFAULTS = _PREPROCESSOR | {
    "image_processor_type": None,
    "do_resize": True,
    "do_center_crop": None,
    "resample": 2,
}


def _same(found: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        return isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-6)
    # The processor's Pillow twin does the same to one grey level, so a file may name either.
    return found == expected or (isinstance(expected, str) and found == expected + "Pil")


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
