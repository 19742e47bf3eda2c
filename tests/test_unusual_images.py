"""Unusual TIFF, PNG and BMP files of cameras and microscopes, each compared with the pixels it was made from."""

import io
import struct
import time
from dataclasses import dataclass

import numpy as np
import pytest
import tifffile
from helpers_files import chunk, encoded, picture, png16
from PIL import Image

from blastlens.errors import BlastlensError
from blastlens.images import read_image

RGB = picture(60, 48)  # uint8 (48, 60, 3)
GREY = RGB[..., 0]
GREY_RGB = np.repeat(GREY[..., None], 3, axis=2)
DEEP = RGB.astype(np.uint16) * 257
BLANK = np.zeros((16, 16, 3), np.uint8)


@dataclass(frozen=True)
class Case:
    """A file, the pixels it shows, the largest difference from them, and what a note says about it."""

    name: str
    data: bytes
    pixels: np.ndarray
    tolerance: int = 0
    note: str = ""


def tiff(*arrays: np.ndarray, byteorder: str = "<", bigtiff: bool = False, **options: object) -> bytes:
    """A TIFF file with one page per array."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file, byteorder=byteorder, bigtiff=bigtiff) as writer:
        for array in arrays:
            writer.write(array, metadata=None, **options)
    return file.getvalue()


def described(array: np.ndarray, ome: bool = False, **options: object) -> bytes:
    """A TIFF file with the metadata of ImageJ or OME."""
    file = io.BytesIO()
    tifffile.imwrite(file, array, imagej=not ome, ome=ome, **options)
    return file.getvalue()


def bmp32(alpha: int) -> bytes:
    """A BMP file of 32 bits whose header names an alpha channel."""
    height, width = RGB.shape[:2]
    rows = np.dstack([RGB[::-1, :, ::-1], np.full((height, width), alpha, np.uint8)]).tobytes()
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(rows), 2835, 2835, 0, 0)
    header += masks + b"BGRs" + bytes(48)
    offset = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + rows


def cases() -> list[Case]:
    found = []

    def add(name: str, data: bytes, pixels: np.ndarray, **more: object) -> None:
        found.append(Case(name, data, pixels, **more))

    planes = np.moveaxis(DEEP, 2, 0)
    for order, word in (("<", "little"), (">", "big")):
        for depth, array in ((8, RGB), (16, DEEP)):
            for planar in (False, True):
                stored = np.ascontiguousarray(np.moveaxis(array, 2, 0)) if planar else array
                layout = {"photometric": "rgb", "planarconfig": "separate" if planar else "contig"}
                for tile in (None, (16, 16)):
                    for compression, predictor in ((None, False), ("lzw", False), ("zlib", True)):
                        kind = f"{depth}-bit {'planar' if planar else 'chunky'} {word}-endian"
                        name = f"{kind} {'tiles' if tile else 'strips'} {compression} predictor {predictor}"
                        options = {"tile": tile, "compression": compression, "predictor": predictor, **layout}
                        add(name, tiff(stored, byteorder=order, **options), RGB)
    add("16-bit planar BigTIFF", tiff(planes, bigtiff=True, photometric="rgb", planarconfig="separate"), RGB)
    add("16-bit packbits", tiff(DEEP, photometric="rgb", compression="packbits"), RGB)
    add("16-bit several strips", tiff(DEEP, photometric="rgb", rowsperstrip=5), RGB)

    for order in "<>":
        for name, photometric, values in (("black", "minisblack", GREY), ("white", "miniswhite", 255 - GREY)):
            add(f"8-bit {name} is zero {order}", tiff(values, byteorder=order, photometric=photometric), GREY_RGB)
            deep = values.astype(np.uint16) * 257
            add(f"16-bit {name} is zero {order}", tiff(deep, byteorder=order, photometric=photometric), GREY_RGB)
    white = 65535 - GREY.astype(np.uint16) * 257
    add("16-bit white is zero, zlib", tiff(white, photometric="miniswhite", compression="zlib"), GREY_RGB)

    for bits in (10, 12, 14):
        top = 2**bits - 1
        rgb = np.rint(RGB / 255 * top).astype(np.uint16)
        grey = rgb[..., 0]
        note = f"{bits}-bit"
        add(f"{bits}-bit RGB in 16 bits", tiff(rgb, photometric="rgb"), RGB, tolerance=1, note=note)
        add(f"{bits}-bit grey in 16 bits", tiff(grey, photometric="minisblack"), GREY_RGB, tolerance=1, note=note)
        add(f"{bits}-bit RGB PNG", png16(rgb), RGB, tolerance=1, note=note)
        add(f"{bits}-bit grey PNG", png16(grey), GREY_RGB, tolerance=1, note=note)
        half = np.rint(RGB / 255 * top / 3).astype(np.uint16)  # too dark for the range to show
        tagged = tiff(half, photometric="rgb", extratags=[(281, "H", 3, (top,) * 3, True)])
        add(f"{bits}-bit RGB with MaxSampleValue", tagged, np.rint(RGB / 3).astype(np.uint8), tolerance=1)
    add(
        "12-bit white is zero",
        tiff(4095 - np.rint(GREY / 255 * 4095).astype(np.uint16), photometric="miniswhite"),
        GREY_RGB,
        tolerance=1,
        note="12-bit",
    )
    add("16-bit RGB PNG", png16(DEEP), RGB)
    add("16-bit grey PNG", png16(DEEP[..., 0]), GREY_RGB)
    add("16-bit RGBA PNG", png16(np.dstack([DEEP, np.full(GREY.shape, 65535, np.uint16)])), RGB)
    add("floating-point RGB", tiff((RGB / 255).astype(np.float32), photometric="rgb"), RGB)
    add("floating-point grey", tiff((GREY / 255).astype(np.float32), photometric="minisblack"), GREY_RGB)

    for depth, array in ((8, RGB), (16, DEEP)):
        channels = np.ascontiguousarray(np.moveaxis(array, 2, 0))
        options, note = {"photometric": "minisblack", "metadata": {"axes": "CYX"}}, "red, green and blue"
        add(f"{depth}-bit ImageJ channels", described(channels, **options), RGB, note=note)
        add(f"{depth}-bit OME channels", described(channels, ome=True, **options), RGB, note=note)
        stack = np.stack([channels, 0 * channels])
        options = {"photometric": "minisblack", "metadata": {"axes": "ZCYX"}}
        add(f"{depth}-bit ImageJ stack of channels", described(stack, **options), RGB, note="first")
        add(f"{depth}-bit OME stack of channels", described(stack, ome=True, **options), RGB, note="first")
        pages = tiff(*channels, photometric="minisblack")
        grey = np.repeat(RGB[..., :1], 3, axis=2)
        add(f"{depth}-bit grey pages without metadata", pages, grey, note="separate pages")

    thumbnail = tiff(BLANK, RGB, photometric="rgb")
    add("thumbnail before the image", thumbnail, RGB)
    add("16-bit thumbnail before the image", tiff(BLANK.astype(np.uint16), DEEP, photometric="rgb"), RGB)
    add("pyramid", tiff(RGB, RGB[::2, ::2], photometric="rgb"), RGB)
    add("two images", tiff(RGB, 255 - RGB, photometric="rgb"), RGB, note="first")

    for alpha, shown in ((255, RGB), (0, RGB)):
        note = "" if alpha else "transparency"
        add(f"BMP with alpha {alpha}", bmp32(alpha), shown, note=note)
        for depth in (8, 16):
            scale = 257 if depth == 16 else 1
            rgba = np.dstack([RGB, np.full(GREY.shape, alpha, np.uint8)]).astype(f"u{depth // 8}") * scale
            stored = tiff(rgba.astype(f"u{depth // 8}"), photometric="rgb", extrasamples=["unassalpha"])
            add(f"{depth}-bit RGBA TIFF with alpha {alpha}", stored, shown, note=note)
        rgba = np.dstack([RGB, np.full(GREY.shape, alpha, np.uint8)])
        add(f"RGBA PNG with alpha {alpha}", encoded(rgba), shown, note=note)
    cmyk = np.dstack([255 - RGB, np.zeros_like(GREY)])
    add("8-bit CMYK", tiff(cmyk, photometric="separated"), RGB)
    add("16-bit CMYK", tiff(cmyk.astype(np.uint16) * 257, photometric="separated"), RGB)
    flat = np.full((64, 64, 3), (190, 150, 210), np.uint8)
    add("AVIF", encoded(flat, "AVIF", quality=100), flat, tolerance=3)
    return found


CASES = cases()


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_an_unusual_file_shows_the_pixels_it_was_made_from(case):
    image, notes = read_image(case.data)
    assert np.abs(np.asarray(image).astype(int) - case.pixels).max() <= case.tolerance
    assert case.note in " ".join(notes)
    if not case.note:
        assert not notes


def test_there_are_at_least_sixty_files():
    assert len({case.data for case in CASES}) >= 60


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\0\0\0\x1cftypheic" + bytes(30), "HEIC"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\xff\x0a\x10\x20", "JPEG XL"),
        (b"ZISRAWFILE" + bytes(50), "CZI"),
        (bytes(128) + b"DICM" + bytes(50), "DICOM"),
    ],
)
def test_a_format_that_is_not_read_is_named(data, kind):
    with pytest.raises(BlastlensError, match=f"{kind}.*export it as PNG"):
        read_image(data)


def test_a_file_with_only_a_thumbnail_is_refused():
    with pytest.raises(BlastlensError, match="only a small copy"):
        read_image(tiff(RGB, photometric="rgb", subfiletype=1))


@pytest.mark.parametrize("channels", [3, 5])
def test_deep_channels_that_are_not_colours_are_refused(channels):
    values = np.zeros((32, 32, channels), np.uint16)
    with pytest.raises(BlastlensError, match=f"{channels} channels"):
        read_image(tiff(values, photometric="minisblack", planarconfig="contig"))


def test_a_16_bit_image_of_too_many_pixels_is_refused_before_it_is_decoded():
    data = bytearray(tiff(np.zeros((20, 20, 3), np.uint16), photometric="rgb"))
    tags = tifffile.TiffFile(io.BytesIO(data)).pages[0].tags
    for name in ("ImageWidth", "ImageLength"):
        data[tags[name].valueoffset : tags[name].valueoffset + 2] = struct.pack("<H", 6000)
    with pytest.raises(BlastlensError, match="at most 25 megapixels of more than 8 bits"):
        read_image(bytes(data))


def directory(*tags: tuple[int, int, int, int]) -> bytes:
    """A little-endian TIFF file of one page without pixels: tags of (number, type, count, value)."""
    table = b"".join(struct.pack("<HHLL", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + table + bytes(4)


@pytest.mark.parametrize(
    "size",
    [
        [(322, 9, 1, 40_000), (323, 9, 1, 20_000)],  # signed
        [(322, 17, 1, 154), (323, 17, 1, 162)],  # signed, 64 bits
        [(322, 4, 1, 40_000), (322, 4, 1, 16), (323, 4, 1, 20_000), (323, 4, 1, 16)],  # given twice
    ],
)
def test_a_huge_tile_is_refused_however_its_size_is_written(size):
    tags = [(256, 3, 1, 32), (257, 3, 1, 32), (258, 3, 1, 8), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1), *size]
    tags += [(324, 4, 1, 154), (325, 4, 1, 16)]
    data = directory(*tags).ljust(154, b"\0") + struct.pack("<QQ", 40_000, 20_000)
    with pytest.raises(BlastlensError, match="too long or too much memory"):
        read_image(data)


def test_pages_whose_tables_of_tags_overlap_are_refused_at_once():
    pages, tags = 1000, 60_000
    data = bytearray(8 + 2 + 12 * tags + 4 + 16 * pages)
    data[:8] = b"II*\0" + struct.pack("<L", 8)
    for start in range(8, 8 + 16 * pages, 16):
        struct.pack_into("<H", data, start, tags)
        struct.pack_into("<L", data, start + 2 + 12 * tags, start + 16)
    begun = time.process_time()
    with pytest.raises(BlastlensError, match="too long or too much memory"):
        read_image(bytes(data))
    assert time.process_time() - begun < 3


def ome(planes: np.ndarray, order: str, times: int, data: str) -> bytes:
    """An OME-TIFF file with metadata of its own."""
    sizes = f'SizeX="60" SizeY="48" SizeC="3" SizeZ="1" SizeT="{times}"'
    xml = f'<OME><Image><Pixels DimensionOrder="{order}" Type="uint16" {sizes}>{data}</Pixels></Image></OME>'
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for number, plane in enumerate(planes):
            description = None if number else xml
            writer.write(plane, photometric="minisblack", description=description, metadata=None)
    return file.getvalue()


def test_metadata_that_claim_a_billion_images_take_no_memory():
    image, notes = read_image(ome(np.moveaxis(DEEP, 2, 0), "XYCZT", 10**12, '<TiffData IFD="0" PlaneCount="3"/>'))
    assert np.array_equal(np.asarray(image), RGB)
    assert "first of its images" in " ".join(notes)


def test_channels_are_in_the_order_of_the_metadata():
    planes = [DEEP[..., channel] for channel in (2, 1, 0)]
    where = "".join(f'<TiffData FirstC="{channel}" IFD="{2 - channel}"/>' for channel in range(3))
    assert np.array_equal(np.asarray(read_image(ome(planes, "XYCZT", 1, where))[0]), RGB)
    twice = [part for channel in range(3) for part in (DEEP[..., channel], 0 * DEEP[..., 0])]
    assert np.array_equal(np.asarray(read_image(ome(twice, "XYTCZ", 2, ""))[0]), RGB)


def test_a_size_that_is_given_twice_does_not_pass_the_limit_on_its_sides():
    data = bytearray(tiff(np.zeros((20, 1_000_000), np.uint16), photometric="minisblack", compression="zlib"))
    tags = tifffile.TiffFile(io.BytesIO(data)).pages[0].tags
    struct.pack_into("<HHLL", data, tags["YResolution"].offset, 256, 4, 1, 400)
    with pytest.raises(BlastlensError, match="the long side may be at most"):
        read_image(bytes(data))


def test_a_deep_png_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = png16(np.rot90(DEEP))
    data = data[:33] + chunk(b"eXIf", exif.tobytes()[6:]) + data[33:]
    assert np.array_equal(np.asarray(read_image(data)[0]), RGB)
