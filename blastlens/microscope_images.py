"""Image files of microscopes and cameras that Pillow would misread: more than 8 bits per channel, and pages of a TIFF.

Pillow calls these readers from `Image.open` once `register` has run. They leave every other file to Pillow.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image, ImageFile, PngImagePlugin

MAX_TAGS = 65_535  # of all pages of a TIFF file; tables may overlap in a small file
# Numbers in one TIFF tag, which Python keeps one by one. 50 megapixels in tiles of 16 px have 800,000 offsets.
MAX_TAG_INTEGERS, MAX_TAG_OTHERS = 1_000_000, 100_000
MAX_PAGES = 1_000  # of one TIFF file that are looked at
MAX_TILE_PIXELS = 50_000_000  # a tile is unpacked as a whole, however little of it is inside the image
MAX_DEEP_BYTES = 300_000_000  # of all channels of an image, unpacked

NOTES = "blastlens notes"  # key in `Image.info` of remarks on how the file was read
DEEP_FORMATS = ("DEEP_TIFF", "DEEP_PNG")
_RANGES = (255, 1023, 4095, 16383, 65535)
_ORIENTATION = 0x0112
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK = 0, 1, 2, 5
# What Pillow takes each TIFF type to consist of, as `struct` spells it; "s" is kept as bytes, "*" are two numbers.
_TAG_TYPES = dict(enumerate("ssHL*bshl*fd", start=1)) | {13: "L", 16: "Q"}
_INTEGERS = dict(zip((1, 3, 4, 6, 8, 9, 13, 16, 17, 18), "BHLbhlLQqQ", strict=True))  # libtiff reads them all


class Unreasonable(Exception):
    """A file that would take excessive time or memory, as no camera and no program makes it."""


class Unsupported(ValueError):
    """An intact file with pixels of a kind that is not supported; the message says which one."""


@dataclass(frozen=True)
class TiffPage:
    """What the tags of one page say; `bits` per channel, `reduced` where the page is a smaller copy of another one."""

    width: int = 0
    height: int = 0
    bits: int = 1
    channels: int = 1
    reduced: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.width, self.height


def tiff_pages(data: bytes, most: int = MAX_PAGES) -> list[TiffPage]:
    """The pages of a TIFF file, without decoding one; its tables of tags are compared with the length of the file.

    A megabyte of TIFF can have a reader read ten gigabytes of tags.

    Raises:
        Unreasonable: more, or larger, tags than the file can hold.
    """
    order, big = "<" if data[:2] == b"II" else ">", data[2:3] == b"\x2b" or data[3:4] == b"\x2b"
    entry = struct.Struct(order + ("HHQQ" if big else "HHLL"))
    number_type, offset_type = (order + "Q", order + "Q") if big else (order + "H", order + "L")
    pages: list[TiffPage] = []
    seen: set[int] = set()
    pointed_at = tags = 0
    try:
        (start,) = struct.unpack_from(offset_type, data, 8 if big else 4)
        while start and len(pages) < most and start not in seen:
            seen.add(start)
            (number,) = struct.unpack_from(number_type, data, start)
            tags += number
            if tags > MAX_TAGS:
                raise Unreasonable
            first = start + struct.calcsize(number_type)
            table = data[first : first + number * entry.size]
            values: dict[int, int] = {}
            for place in range(0, len(table) - entry.size + 1, entry.size):
                tag, kind, count, offset = entry.unpack_from(table, place)
                letter = _TAG_TYPES.get(kind, "")
                integer = _INTEGERS.get(kind, "")
                size = count * (8 if letter == "*" else struct.calcsize("=" + (letter or integer)))
                if size > (8 if big else 4):
                    if offset + size > len(data):
                        continue
                    pointed_at += size
                    if letter != "s" and count > (MAX_TAG_INTEGERS if letter in ("H", "L", "Q") else MAX_TAG_OTHERS):
                        raise Unreasonable
                    where = offset
                else:
                    where = first + place + (12 if big else 8)
                if integer and count:
                    (value,) = struct.unpack_from(order + integer, data, where)
                    values[tag] = max(value, values.get(tag, 0))  # readers differ in which of two equal tags counts
            if values.get(322, 0) * values.get(323, 0) > MAX_TILE_PIXELS:
                raise Unreasonable
            pages.append(
                TiffPage(
                    values.get(256, 0),
                    values.get(257, 0),
                    values.get(258, 1),
                    values.get(277, 1),
                    bool(values.get(254, 0) & 1),
                )
            )
            (start,) = struct.unpack_from(offset_type, data, first + number * entry.size)
    except (struct.error, OverflowError):
        pass  # a truncated table ends the list; Pillow refuses a file without a page
    # Two tags may share their data; thousands that do fill the memory with copies.
    if pointed_at > 2 * len(data):
        raise Unreasonable
    return pages


def main_page(pages: Sequence[TiffPage]) -> int:
    """The index of the first page of the largest size that is not a reduced copy of another one.

    Raises:
        Unsupported: there are only reduced copies, as in a camera's raw file.
    """
    full = [index for index, page in enumerate(pages) if not page.reduced]
    if not full:
        raise Unsupported("holds only a small copy of its image in this form, as raw files of cameras do")
    return max(full, key=lambda index: (pages[index].width * pages[index].height, -index))


def page_notes(pages: Sequence[TiffPage]) -> list[str]:
    """What the choice of `main_page` left out, of pages that are not smaller copies."""
    page = pages[main_page(pages)]
    number = sum(one.size == page.size and not one.reduced for one in pages)
    if number == 1:
        return []
    if page.channels == 1 and number in (3, 4):
        return [
            f"only the first of its {number} grey pages was used; if they are the colours of one image, on separate "
            "pages, save it as RGB"
        ]
    return [f"only the first of its {number} pages was used"]


def to_8_bits(values: np.ndarray, top: int | None = None) -> tuple[np.ndarray, list[str]]:
    """Scale integers to 8 bits.

    Args:
        values: any shape.
        top: the value that is shown as 255; by default that of the smallest of 8, 10, 12, 14 and 16 bits that holds
            the largest value.

    Returns:
        uint8 of the same shape, and a note if the range was assumed and is not that of the data type.

    Raises:
        Unsupported: values of more than 16 bits, or negative ones.
    """
    if values.dtype.itemsize > 2 or (values.dtype.kind == "i" and values.min() < 0):
        raise Unsupported(
            f"has 32-bit integer pixels from {values.min():g} to {values.max():g}; 8-bit or 16-bit ones, or "
            "floating-point ones from 0 to 1, are accepted"
        )
    high, notes = int(values.max()), []
    if top is None or high > top:
        top = next(one for one in _RANGES if high <= one)
        if top < _RANGES[-1]:
            bits = top.bit_length()
            notes = [f"its 16-bit values reach only {high}, so they were read as {bits}-bit values (0 to {top})"]
    levels = np.minimum((np.arange(high + 1, dtype=np.uint32) * 255 + top // 2) // top, 255).astype(np.uint8)
    return levels[values], notes


def floats_to_8_bits(values: np.ndarray) -> np.ndarray:
    """Scale floating-point values from 0..1 to 0..255.

    Raises:
        Unsupported: values that are not in 0..1.
    """
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # true for NaN
        raise Unsupported(
            f"has floating-point pixels from {low:g} to {high:g}; 8-bit or 16-bit ones, or floating-point ones from 0 "
            "to 1, are accepted"
        )
    values = np.multiply(values, 255, dtype=np.float32)
    return np.rint(values, out=values).astype(np.uint8)


class _DeepImageFile(ImageFile.ImageFile):
    """An image whose size is known when it is opened, and whose pixels another library decodes when it is loaded."""

    _loaded = False

    def _decode(self) -> tuple[Image.Image, list[str]]:
        raise NotImplementedError

    def load(self) -> Any:
        if not self._loaded:
            image, notes = self._decode()
            self._loaded, self.tile = True, []
            self.im, self._mode = image.im, image.mode
            self.info[NOTES] = [*self.info.get(NOTES, ()), *notes]
        return Image.Image.load(self)

    def _data(self) -> bytes:
        assert self.fp
        self.fp.seek(0)
        return self.fp.read()

    def _start(self, size: tuple[int, int], mode: str) -> None:
        self._size, self._mode, self.tile = size, mode, []


class DeepPngImageFile(_DeepImageFile):
    """A PNG of 16 bits per channel. Pillow would keep the upper 8 bits: nearly black for a 12-bit camera."""

    format = "DEEP_PNG"

    def _open(self) -> None:
        assert self.fp
        header = self.fp.read(33)
        if len(header) < 33 or header[12:16] != b"IHDR" or header[24] != 16:
            raise SyntaxError("not a PNG of 16 bits")
        self.fp.seek(0)
        if exif := PngImagePlugin.PngImageFile(self.fp).info.get("exif"):
            self.info["exif"] = exif  # its orientation
        self._start(struct.unpack(">II", header[16:24]), "RGB")

    def _decode(self) -> tuple[Image.Image, list[str]]:
        import imagecodecs

        values = np.atleast_3d(imagecodecs.png_decode(self._data()))
        return _image(values, _RGB if values.shape[2] > 2 else _BLACK_IS_ZERO)


class DeepTiffImageFile(_DeepImageFile):
    """A TIFF of more than 8 bits per channel, or whose colour channels are separate pages."""

    format = "DEEP_TIFF"

    def _open(self) -> None:
        pages = tiff_pages(self._data())
        if not pages:
            raise SyntaxError("no page")
        self._index = main_page(pages)
        page = pages[self._index]
        separate = page.channels == 1 and sum(one == page for one in pages) > 1
        if page.bits <= 8 and not separate:
            raise SyntaxError("Pillow reads it correctly")
        import tifffile

        assert self.fp
        self.fp.seek(0)
        self._tiff = tifffile.TiffFile(self.fp)
        self._channel_pages, notes = _channels(self._tiff, pages) if separate else ([], [])
        if page.bits <= 8 and not self._channel_pages:
            raise SyntaxError("Pillow reads it correctly")
        first, *others = [self._tiff.pages[index] for index in self._channel_pages or [self._index]]
        if first.nbytes * (1 + len(others)) > MAX_DEEP_BYTES:
            raise Unreasonable
        if first.axes not in ("YX", "YXS", "SYX"):
            raise Unsupported("holds a volume instead of an image")
        if any((one.shape, one.dtype) != (first.shape, first.dtype) for one in others):
            raise Unsupported("has colour channels that differ in size")
        self.info[NOTES] = notes if self._channel_pages else page_notes(pages)
        self._start((first.imagewidth, first.imagelength), "RGB")

    def _decode(self) -> tuple[Image.Image, list[str]]:
        if self._channel_pages:
            pages = [self._tiff.pages[index] for index in self._channel_pages]
            page, photometric = pages[0], _RGB
            values = np.stack([one.asarray(maxworkers=1) for one in pages], axis=-1)
        else:
            page = self._tiff.pages[self._index]
            values, photometric = page.asarray(maxworkers=1), int(page.photometric)
            values = np.atleast_3d(np.moveaxis(values, 0, -1) if page.axes == "SYX" else values)
        orientation = page.tags.get(_ORIENTATION)
        if orientation is not None:
            self.getexif()[_ORIENTATION] = orientation.value
        top = page.tags.get(281)
        top = None if top is None else int(np.max(top.value))
        if page.bitspersample not in (8, 16, 32, 64):
            top = 2**page.bitspersample - 1
        return _image(values, photometric, top)


def _channels(tiff: Any, pages: Sequence[TiffPage]) -> tuple[list[int], list[str]]:
    """The pages that hold red, green and blue, where the metadata of OME or ImageJ say so, and notes on the choice.

    tifffile's own reading of these metadata makes lists as long as they claim the file to be.
    """
    first = 0
    planes: dict[tuple[int, ...], int] = {}  # by channel, z and time
    try:
        if tiff.is_ome:
            root = ElementTree.fromstring(tiff.ome_metadata)
            pixels = next(one for one in root.iter() if one.tag.endswith("Pixels"))
            if len({one.text for one in pixels.iter() if one.tag.endswith("UUID")}) > 1:
                return [], []  # the others are in other files
            order = pixels.attrib["DimensionOrder"][2:]
            sizes = {axis: int(pixels.attrib[f"Size{axis}"]) for axis in "CZT"}
            for one in pixels:
                if one.tag.endswith("TiffData"):
                    place = tuple(int(one.attrib.get(f"First{axis}", 0)) for axis in "CZT")
                    planes[place] = int(one.attrib.get("IFD", 0))
            first = planes.get((0, 0, 0), 0)
        elif tiff.is_imagej:
            known = tiff.imagej_metadata
            order = str(known.get("order", "czt")).upper()
            order = order if sorted(order) == ["C", "T", "Z"] else "CZT"
            names = {"C": "channels", "Z": "slices", "T": "frames"}
            sizes = {axis: int(known.get(name, 1)) for axis, name in names.items()}
        else:
            return [], []
        step = math.prod(sizes[axis] for axis in order[: order.index("C")])
    except (AttributeError, ElementTree.ParseError, KeyError, StopIteration, TypeError, ValueError):
        return [], []  # damaged metadata
    found = [planes.get((channel, 0, 0), first + channel * step) for channel in range(3)]
    if sizes["C"] not in (3, 4) or not all(0 <= index < len(pages) for index in found):
        return [], []
    notes = ["its channels were taken as red, green and blue"]
    if sizes["Z"] * sizes["T"] > 1:
        notes.append("only the first of its images was used")
    return found, notes


def _image(values: np.ndarray, photometric: int, top: int | None = None) -> tuple[Image.Image, list[str]]:
    """Values (H, W, channels) as an 8-bit image, with notes on what was assumed."""
    notes: list[str] = []
    channels = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _CMYK: 4}.get(photometric)
    if channels is None or values.shape[2] not in (channels, channels + 1):
        raise Unsupported(f"has {values.shape[2]} channels of more than 8 bits in a colour space other than RGB")
    if values.dtype.kind == "f":
        colours = floats_to_8_bits(values)
    else:
        colours, notes = to_8_bits(values[..., :channels], top)
        if values.shape[2] > channels:
            colours = np.dstack([colours, to_8_bits(values[..., channels:], 65535)[0]])
    if photometric == _WHITE_IS_ZERO:
        colours[..., 0] = 255 - colours[..., 0]
    if photometric == _CMYK:
        return Image.fromarray(np.ascontiguousarray(colours[..., :4]), "CMYK").convert("RGB"), notes
    return Image.fromarray(np.squeeze(colours, axis=2) if colours.shape[2] == 1 else colours), notes


def register() -> None:
    """Let Pillow use these readers for the formats `DEEP_FORMATS`."""
    tiff = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    Image.register_open(DeepTiffImageFile.format, DeepTiffImageFile, lambda prefix: prefix.startswith(tiff))
    Image.register_open(DeepPngImageFile.format, DeepPngImageFile, lambda prefix: prefix.startswith(b"\x89PNG\r\n"))
