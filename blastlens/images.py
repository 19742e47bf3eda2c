"""Open untrusted image files: the one place where images are decoded, with the readers of `microscope_images`.

`read_image` opens one as it is, `read_view` as a model sees it; `view` has the crop and the resize.
"""

import logging
import os
import re
import stat
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# Pillow imports the first four formats by itself; without these it would import dozens to find one of them.
from PIL import AvifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

from .errors import BlastlensError
from .microscope_images import (
    DEEP_FORMATS,
    NOTES,
    Unreasonable,
    Unsupported,
    floats_to_8_bits,
    main_page,
    page_notes,
    register,
    tiff_pages,
    to_8_bits,
)
from .view import View

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "AVIF")
ACCEPTED = "PNG, JPEG, BMP, GIF, TIFF, WebP or AVIF"
IMAGE_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp", ".avif")
)
MAX_PIXELS = 50_000_000
MAX_COSTLY_PIXELS = 25_000_000  # of formats whose readers keep up to four copies of them
COSTLY_FORMATS = {"WEBP": "WebP", "AVIF": "AVIF", **dict.fromkeys(DEEP_FORMATS, "more than 8 bits")}
MAX_BYTES = 160_000_000  # MAX_PIXELS, uncompressed, with room for a header
MIN_SIDE = 16
MAX_ASPECT = 20  # 16 x 3,000,000 pixels are within MAX_PIXELS, but fill the memory once resized to 224 px width
# 50 megapixels take up to 450 MB while they are decoded: larger images than this are decoded one at a time.
LARGE = 10_000_000
# Limits on files that are made to keep the decoder busy or to fill the memory.
MAX_DECODE_S = 3.0  # processor time from opening a file to reading the last of it; 50 megapixels take one or two
MAX_JPEG_SEGMENTS, MAX_JPEG_SCANS = 10_000, 50  # progressive files have about ten scans, each over all pixels
MAX_RAW_EXIF = 131_072  # characters of EXIF data in hexadecimal, as old programs write them into a PNG

# Pillow allocates memory in blocks of this size. Smaller ones, of 16 MB, come from the C heap, and what threads have
# used of that is not returned to the system: 400 MB with two threads.
Image.core.set_block_size(64 << 20)
# Without a handler, log messages of Pillow and tifffile about a damaged file would be printed to the terminal.
for _library in ("PIL", "tifffile"):
    logging.getLogger(_library).addHandler(logging.NullHandler())

register()

ImageSource = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray | Mapping[str, Any]

_one_large_image = threading.Lock()
# Formats that are not read: what they are called, and how and where a file begins.
OTHER_FORMATS = (
    ("a HEIC photograph", b"ftyphei", 4),
    ("a HEIC photograph", b"ftypmif1", 4),
    ("a JPEG 2000 image", b"\0\0\0\x0cjP  ", 0),
    ("a JPEG 2000 image", b"\xff\x4f\xff\x51", 0),
    ("a JPEG XL image", b"\xff\x0a", 0),
    ("a JPEG XL image", b"\0\0\0\x0cJXL ", 0),
    ("a Zeiss CZI file", b"ZISRAWFILE", 0),
    ("a Nikon ND2 file", b"\xda\xce\xbe\x0a", 0),
    ("a DICOM file", b"DICM", 128),
    ("a Photoshop file", b"8BPS", 0),
    ("a PDF file", b"%PDF", 0),
    ("an HDF5 file", b"\x89HDF\r\n", 0),
)
_ORIENTATION = 0x0112  # EXIF tag
_ADDRESS = re.compile(r"(https?|ftp|s3|data|file):", re.IGNORECASE)
_UPRIGHT = {  # how each EXIF orientation but the first is undone
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIZE_LIMIT = f"at most {MAX_PIXELS // 1_000_000} megapixels are accepted"


def open_image(source: ImageSource, name: str | None = None) -> Image.Image:
    """Open one image as 8-bit RGB, upright.

    EXIF rotation is applied, 10 to 16-bit values are scaled to 8 bits and floats from 0..1 to 0..255, CMYK and palettes
    are converted, transparency is shown on black (ignored if it is complete), and of an animation the first frame is
    taken, of a TIFF the largest page. Color channels in separate pages are merged if the metadata say so.

    Args:
        source: path, encoded bytes, binary file, PIL image, undecoded image of `datasets` (a dict with "bytes" or
            "path"), or uint8 array (H, W), (H, W, 3) or (H, W, 4).
        name: what error messages call the image; by default the file's name, or "image".

    Raises:
        BlastlensError: missing, empty, over 160 MB, not an image, truncated, made to take excessive time or memory,
            over 50 megapixels, or 25 of WebP, AVIF and more than 8 bits (checked before decoding), a side under 16 px,
            one side over 20 times the other, or values that are not pixels. A format that is not read, such as HEIC,
            is named.
    """
    return read_image(source, name)[0]


def read_image(source: ImageSource, name: str | None = None) -> tuple[Image.Image, tuple[str, ...]]:
    """Open one image as `open_image` does, with notes on what was flattened or left out."""
    name = printable(name or name_of(source))
    image = _header(source, name)
    with _memory_for(image):
        return _to_rgb(image, name)


def read_view(source: ImageSource, view: View, unnamed: str = "image") -> tuple[np.ndarray, tuple[str, ...]]:
    """Open one image as `open_image` does, and crop and resize it to what a model sees.

    Returns:
        uint8 (S, S, 3), and remarks on what was changed and on what the model was not trained on.
    """
    name = name_of(source, unnamed)
    image = _header(source, name)
    with _memory_for(image):
        opened, notes = _to_rgb(image, name)
        del image  # a WebP keeps three copies of its pixels
        pixels = view.apply(opened)
        return pixels, (*notes, *view.remarks(opened.size, pixels))


def name_of(source: Any, unnamed: str = "image") -> str:
    """The file name of an image source, or `unnamed` where it has none."""
    if not isinstance(source, str | os.PathLike):
        source = getattr(source, "filename", None) or getattr(source, "name", None)
    if not isinstance(source, str | os.PathLike):  # a file opened by its descriptor has a number for a name
        return unnamed
    text = os.fsdecode(source)
    return printable(Path(text).name or text) or unnamed


def printable(name: str) -> str:
    """Without characters that hide what a name is, such as line breaks and marks that turn the text around."""
    return name if name.isprintable() else "".join(letter if letter.isprintable() else "\ufffd" for letter in name)


def read_file(path: str | os.PathLike[str], name: str) -> bytes:
    """The first MAX_BYTES + 1 bytes of a regular file, called `name` in messages; links are followed.

    Raises:
        BlastlensError: missing, unreadable, or not a regular file.
    """
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise BlastlensError(f"{name} is a folder; give image files, such as {name}{os.sep}*.png.")
        if not stat.S_ISREG(mode):  # a pipe or a device could block forever
            raise BlastlensError(f"{name} is not a regular file; give a {ACCEPTED} file.")
        with open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        raise BlastlensError(f"{name} does not exist; give a {ACCEPTED} file.") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BlastlensError(f"{name} cannot be read ({reason}); give a {ACCEPTED} file.") from error


def too_large(name: str) -> BlastlensError:
    """The error about a file of more than MAX_BYTES."""
    return BlastlensError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB; give a smaller image.")


# Decoding ------------------------------------------------------------------------------------------------------------


class _TimedFile(BytesIO):
    """A file whose reader is stopped once it has used MAX_DECODE_S of its thread's processor time."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._until = time.thread_time() + MAX_DECODE_S

    def read(self, size: int | None = -1, /) -> bytes:
        if time.thread_time() > self._until:
            raise Unreasonable
        return super().read(size)


def _header(source: ImageSource, name: str) -> Image.Image:
    """Read the header of an image and check its size; its pixels are not decoded yet."""
    if isinstance(source, np.ndarray):
        image = _from_array(source, name)
    elif isinstance(source, Image.Image):
        image = source
    else:
        image = _from_bytes(_bytes_of(source, name), name)
    _check_size(*image.size, image.format, name)
    return image


def _bytes_of(source: Any, name: str) -> bytes:
    if isinstance(source, Mapping):  # an undecoded image of `datasets`
        content = source.get("bytes")
        source = source.get("path") if content is None else content
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    if isinstance(source, str) and _ADDRESS.match(source):
        raise BlastlensError(f"{source[:60]!r} is an address, which is not fetched; give a path or the image's bytes.")
    if isinstance(source, str | os.PathLike):
        return read_file(source, printable(os.fsdecode(source)[:300]))
    if not hasattr(source, "read"):
        raise BlastlensError(
            f"An image cannot be read from {type(source).__name__}; give a path, bytes, a binary file, a PIL "
            "image, a uint8 array or a dict with bytes or path."
        )
    data = source.read()
    if not isinstance(data, bytes):
        raise BlastlensError(f"{name} is open as text; open it in binary mode.")
    return data


def _from_bytes(data: bytes, name: str) -> Image.Image:
    if not data:
        raise BlastlensError(f"{name} is empty (0 bytes); give a {ACCEPTED} file.")
    if len(data) > MAX_BYTES:
        raise too_large(name)
    try:
        if data.startswith(b"\xff\xd8"):
            _check_jpeg(data)
        is_tiff = data[:2] in (b"II", b"MM")
        pages = tiff_pages(data) if is_tiff else []
        # The readers of deep images are for TIFF and for what would be a PNG of 16 bits; others go straight to Pillow.
        deep = DEEP_FORMATS if is_tiff or data[24:25] == b"\x10" else ()
        image = Image.open(_TimedFile(data), formats=(*deep, *FORMATS))
        if image.format == "TIFF" and len(pages) > 1:
            image.seek(main_page(pages))
            image.info[NOTES] = page_notes(pages)
        return image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BlastlensError(f"{name} has too many pixels; {_SIZE_LIMIT}.") from error
    except UnidentifiedImageError as error:
        if kind := next((kind for kind, magic, place in OTHER_FORMATS if data[place:].startswith(magic)), None):
            raise BlastlensError(f"{name} is {kind}; export it as PNG or as an 8-bit RGB TIFF.") from error
        raise BlastlensError(f"{name} is not an image that can be read; give a {ACCEPTED} file.") from error
    except Exception as error:  # decoders raise exceptions of any type on hostile bytes
        raise _undecodable(error, name) from error


def _undecodable(error: Exception, name: str) -> BlastlensError:
    if isinstance(error, BlastlensError):
        return error
    if isinstance(error, Unsupported):
        return BlastlensError(f"{name} {error}.")
    if isinstance(error, Unreasonable):
        return BlastlensError(f"{name} would take too long or too much memory to read; save it anew as a plain PNG.")
    return BlastlensError(f"{name} is truncated or damaged; give an intact {ACCEPTED} file.")


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    has_shape = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype != np.uint8 or not has_shape or array.size == 0:
        raise BlastlensError(
            f"{name} is an array of {array.dtype} and shape {array.shape}; uint8 of shape (H, W), (H, W, 3) "
            "or (H, W, 4) is accepted."
        )
    return Image.fromarray(array)


def _check_size(width: int, height: int, format_: str | None, name: str) -> None:
    size = f"{name} is {width} x {height} pixels"
    if width * height > MAX_PIXELS:
        raise BlastlensError(f"{size}; {_SIZE_LIMIT}.")
    if format_ in COSTLY_FORMATS and width * height > MAX_COSTLY_PIXELS:
        raise BlastlensError(
            f"{size}; at most {MAX_COSTLY_PIXELS // 1_000_000} megapixels of {COSTLY_FORMATS[format_]} are accepted, "
            "so save it as an 8-bit PNG."
        )
    if min(width, height) < MIN_SIDE:
        raise BlastlensError(f"{size}; each side must have at least {MIN_SIDE}.")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BlastlensError(f"{size}; the long side may be at most {MAX_ASPECT} times the short one.")


def _memory_for(image: Image.Image) -> AbstractContextManager[Any]:
    """While this is held, no other large image is in memory."""
    return _one_large_image if image.width * image.height > LARGE else nullcontext()


def _to_rgb(image: Image.Image, name: str) -> tuple[Image.Image, tuple[str, ...]]:
    """An upright 8-bit RGB image, and notes on what was flattened or left out."""
    notes: list[str] = []
    try:
        # A JPEG may hold a preview as a second frame; that is no animation.
        if getattr(image, "is_animated", False) and image.format in ("GIF", "WEBP", "PNG", "AVIF"):
            notes.append("only the first of its frames was used")
        image.load()
        notes += image.info.get(NOTES, ())
        image = _upright(image)
        if image.mode == "P":
            notes.append("its colours come from a palette of at most 256")
        if image.mode == "F" or image.mode.startswith("I"):
            image = _deep_to_grey(image, notes)
        if image.has_transparency_data:
            image = _on_black(image, notes)
        elif image.mode != "RGB":
            image = image.convert("RGB")
    except Exception as error:  # decoders raise exceptions of any type on hostile bytes
        raise _undecodable(error, name) from error
    return image, tuple(notes)


def _upright(image: Image.Image) -> Image.Image:
    try:
        if exif := image.info.get("exif"):
            _check_exif(exif)
        if len(image.info.get("Raw profile type exif", "")) > MAX_RAW_EXIF:
            return image
        # Not ImageOps.exif_transpose, which reads and writes all other tags as well.
        method = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
        return image if method is None else image.transpose(method)
    except Exception:  # damaged metadata do not make the pixels unusable
        return image


def _deep_to_grey(image: Image.Image, notes: list[str]) -> Image.Image:
    """Scale a one-channel image of more than 8 bits to 8 bits; Pillow's own conversion would clip at 255."""
    values = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(floats_to_8_bits(values))
    pixels, remarks = to_8_bits(values)
    notes += remarks
    return Image.fromarray(pixels)


def _on_black(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode != "RGBA":
        image = image.convert("RGBA")
    if image.getchannel("A").getextrema() == (255, 255):
        return image.convert("RGB")
    if image.getchannel("A").getextrema() == (0, 0):  # as some cameras leave it
        notes.append("its transparency is 0 everywhere and was ignored")
        return image.convert("RGB")
    notes.append("its transparent pixels were shown on black")
    black = Image.new("RGB", image.size)
    black.paste(image, mask=image)
    return black


# A megabyte of TIFF can have Pillow read ten gigabytes of tags, and 200 kB of JPEG decode its pixels a thousand times.

_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # those followed by a length, and the end marker
_SCAN, _END, _APP1, _EXIF = 0xDA, 0xD9, 0xE1, b"Exif\0\0"


def _check_jpeg(data: bytes) -> None:
    exif, scans = [], 0
    for number, (marker, segment) in enumerate(_jpeg_segments(data)):
        scans += marker == _SCAN
        if number > MAX_JPEG_SEGMENTS or scans > MAX_JPEG_SCANS:
            raise Unreasonable
        if marker == _APP1 and segment.startswith(_EXIF):
            exif.append(segment[len(_EXIF) :])
    _check_exif(b"".join(exif))  # as Pillow joins them


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of everything in a JPEG but its entropy-coded pixels."""
    start = 2
    while (found := _JPEG_MARKER.search(data, start)) and (marker := data[found.end() - 1]) != _END:
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        yield marker, data[found.end() + 2 : found.end() + length]
        start = found.end() + max(length, 2)


def _check_exif(data: bytes) -> None:
    while data.startswith(_EXIF):
        data = data[len(_EXIF) :]
    tiff_pages(data, 1)
