"""Over 400 hostile files, each with the outcome that is expected; seeded, so always the same.

Names that no folder can hold are in the zips.
"""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from helpers_files import chunk, encoded, picture, png
from PIL import Image

FORMATS = {"png": "PNG", "jpg": "JPEG", "bmp": "BMP", "gif": "GIF", "tif": "TIFF", "webp": "WEBP"}
CUTS, FLIPS = 16, 30
ANSWERED, REFUSED, EITHER = "answered", "refused", "either"
GOOD = "good cell.png"  # in every zip that can be opened
_SIDE = 48


@dataclass(frozen=True)
class Case:
    """A file, and what must come of it.

    Attributes:
        name: with a suffix that may lie.
        outcome: ANSWERED; REFUSED, in one sentence; or EITHER, where damage may or may not show.
    """

    name: str
    data: bytes
    outcome: str


@dataclass(frozen=True)
class ZipCase:
    """A zip, and the names in it that must be answered; None where it is refused as a whole."""

    name: str
    data: bytes
    answered: frozenset[str] | None = frozenset({GOOD})


def write(cases: list[Case], folder: Path) -> list[Path]:
    """All of them into a folder, in their order."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        (folder / case.name).write_bytes(case.data)
    return [folder / case.name for case in cases]


@cache
def images(seed: int = 0) -> tuple[Case, ...]:
    """Files that pass for one image."""
    rng = np.random.default_rng(seed)
    parts = (_cut(), flipped(rng), _misnamed(), _sizes(), _modes(rng), _turned(), _metadata(), _busy(), _names())
    return tuple(case for part in parts for case in part)


@cache
def zips() -> tuple[ZipCase, ...]:
    """Zips; all that can be opened hold a good cell."""
    return tuple(_zips())


def saved(form: str, image: Image.Image | None = None, **more: object) -> bytes:
    """A picture in a format."""
    return encoded(image or picture(_SIDE, _SIDE), form, **more)


def _cut() -> Iterator[Case]:
    for suffix, form in FORMATS.items():
        data = saved(form)
        for number in range(CUTS):
            length = len(data) * number // CUTS
            # What is missing at the very end need not be needed.
            yield Case(f"cut {number:02d}.{suffix}", data[:length], REFUSED if number < CUTS * 0.7 else EITHER)


def flipped(rng: np.random.Generator) -> Iterator[Case]:
    for suffix, form in FORMATS.items():
        whole = np.frombuffer(saved(form), np.uint8)
        for number in range(FLIPS):
            data = whole.copy()
            data[rng.integers(0, min(len(data), 200 if number % 2 else len(data)), 3)] ^= rng.integers(
                1, 256, 3, np.uint8
            )
            yield Case(f"flipped {number:02d}.{suffix}", data.tobytes(), EITHER)


def _misnamed() -> Iterator[Case]:
    """What a file is, its content decides."""
    for suffix, form in FORMATS.items():
        for other in FORMATS:
            if other != suffix:
                yield Case(f"is {suffix}.{other}", saved(form), ANSWERED)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", saved("PNG"))
    others = {
        "text": b"These are not pixels.\n" * 50,
        "page": b"<!doctype html><title>404</title>",
        "drawing": b'<svg xmlns="http://www.w3.org/2000/svg" width="48" height="48"/>',
        "document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
        "zip": packed.getvalue(),
        "zeros": bytes(10_000),
        "pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins.",
        "ppm": saved("PPM"),
        "ico": saved("ICO"),
    }
    yield from (Case(f"{name}.png", data, REFUSED) for name, data in others.items())


def _sizes() -> Iterator[Case]:
    for width, height in (
        (0, 0),
        (0, 48),
        (1, 1),
        (15, 48),
        (2**31 - 1, 2**31 - 1),
        (2**31, 48),
        (10**6, 16),
        (8000, 8000),
    ):
        yield Case(f"{width} x {height}.png", png(width, height, data=b""), REFUSED)
        bmp = bytearray(saved("BMP"))
        bmp[18:26] = struct.pack("<2L", width, height)
        yield Case(f"{width} x {height}.bmp", bytes(bmp), REFUSED)
    for width, height in ((0, 0), (0, 48), (1, 1), (15, 48), (65_535, 65_535), (65_535, 16)):
        gif, jpeg = bytearray(saved("GIF")), bytearray(saved("JPEG"))
        gif[6:10] = struct.pack("<2H", width, height)
        frame = jpeg.index(b"\xff\xc0")
        jpeg[frame + 5 : frame + 9] = struct.pack(">2H", height, width)
        # The size of a GIF's screen; its frame may have another one, and then it grows.
        yield Case(f"{width} x {height}.gif", bytes(gif), REFUSED if width == 65_535 else EITHER)
        yield Case(f"{width} x {height}.jpg", bytes(jpeg), REFUSED)
        yield Case(f"{width} x {height}.tif", tiff(width, height, bytes(6912)), REFUSED)
    canvas = b"VP8X" + struct.pack("<L", 10) + b"\0\0\0\0" + (16_383).to_bytes(3, "little") * 2
    body = b"WEBP" + canvas + saved("WEBP", lossless=True)[12:]
    yield Case("canvas.webp", b"RIFF" + struct.pack("<L", len(body)) + body, REFUSED)
    yield Case("bomb.png", png(20_000, 20_000, 1, 0), REFUSED)
    yield Case("bomb.tif", saved("TIFF", Image.new("1", (12_000, 9_000)), compression="group4"), REFUSED)
    large = png(7_000, 7_100, 8, 6)
    yield Case("50 megapixels.webp", webp(7_000, 7_100), REFUSED)
    for number in range(3):  # at the same time, where several are read at once
        yield Case(f"25 megapixels {number}.webp", webp(5_000, 5_000), ANSWERED)
        yield Case(f"50 megapixels {number}.png", large, ANSWERED)
    yield Case("too little.png", png(48, 48, data=zlib.compress(bytes(100))), REFUSED)
    yield Case("too much.png", png(48, 48, data=zlib.compress(bytes(30_000_000), 1)), EITHER)


def webp(width: int, height: int) -> bytes:
    """A black WebP of some 30 bytes, whatever its size: every code has one symbol, which takes no bit."""
    header = [(width - 1, 14), (height - 1, 14), (0, 1), (0, 3)]  # no transparency, version 0
    image = [(0, 1), (0, 1), (0, 1)] + 5 * [(1, 1), (0, 1), (0, 1), (0, 1)]  # nothing optional; each code is simple
    bits = place = 0
    for value, count in header + image:
        bits |= value << place
        place += count
    body = b"\x2f" + bits.to_bytes((place + 7) // 8, "little")
    body = b"VP8L" + struct.pack("<L", len(body)) + body + bytes(len(body) % 2)
    return b"RIFF" + struct.pack("<L", 4 + len(body)) + b"WEBP" + body


def bmp_of_runs(side: int, runs: int) -> bytes:
    """A grey BMP whose pixels are packed as runs of one."""
    data = b"\1\0" * runs
    start = b"BM" + struct.pack("<LLL", 1078 + len(data), 0, 1078)
    header = struct.pack("<LLLHHLLLLLL", 40, side, side, 1, 8, 1, len(data), 0, 0, 256, 0)
    return start + header + bytes(1024) + data


def tiff(
    width: int, height: int, data: bytes, tags: tuple[tuple[int, int, int, int], ...] = (), pack: int = 1
) -> bytes:
    """A TIFF of 8-bit RGB, with tags (number, type, count, value or place) that it may do without; data are at 400."""
    given = {number: (number, *rest) for number, *rest in tags}
    own = ((256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, 390), (259, 3, 1, pack), (262, 3, 1, 2), (277, 3, 1, 3))
    if 322 not in given:
        own += ((273, 4, 1, 400), (278, 4, 1, max(height, 1)), (279, 4, 1, len(data)))
    table = sorted(({tag[0]: tag for tag in own} | given).values())
    packed = b"".join(struct.pack("<HHLL", *tag) for tag in table)
    if len(packed) < 370:
        start = b"II*\0" + struct.pack("<LH", 8, len(table)) + packed + bytes(4)
        return start.ljust(390, b"\0") + struct.pack("<3H", 8, 8, 8) + bytes(4) + data
    # A long table comes last.
    start = (b"II*\0" + struct.pack("<L", 400 + len(data))).ljust(390, b"\0") + struct.pack("<3H", 8, 8, 8) + bytes(4)
    return start + data + struct.pack("<H", len(table)) + packed + bytes(4)


def _modes(rng: np.random.Generator) -> Iterator[Case]:
    colour = Image.fromarray(picture(_SIDE, _SIDE))
    grey, values = colour.convert("L"), picture(_SIDE, _SIDE)[..., 0]
    frames = [Image.fromarray(rng.integers(0, 256, (_SIDE, _SIDE, 3), np.uint8)) for _ in range(4)]
    for suffix in ("gif", "webp", "png", "tif"):
        data = saved(FORMATS[suffix], colour, save_all=True, append_images=frames)
        yield Case(f"animated.{suffix}", data, ANSWERED)
    for mode in ("1", "L", "LA", "P", "RGBA", "I;16"):
        image = Image.fromarray(values.astype(np.uint16) * 257) if mode == "I;16" else colour.convert(mode)
        yield Case(f"mode {mode}.png", saved("PNG", image), ANSWERED)
        yield Case(f"mode {mode}.tif", saved("TIFF", image), ANSWERED)
    yield Case("palette with transparency.png", saved("PNG", colour.quantize(16), transparency=3), ANSWERED)
    yield Case("palette with much.png", saved("PNG", colour.quantize(16), transparency=bytes(range(16))), ANSWERED)
    yield Case("palette with transparency.gif", saved("GIF", colour.quantize(16), transparency=3), ANSWERED)
    yield Case(
        "palette too short.png", png(48, 48, 8, 3, chunk(b"PLTE", bytes(3)), zlib.compress(b"\0\7" * 1176)), EITHER
    )
    yield Case("no palette.png", png(48, 48, 8, 3), EITHER)
    yield Case("16-bit colour.png", png(48, 48, 16, 6), ANSWERED)
    for mode in ("CMYK", "YCbCr"):
        yield Case(f"{mode}.jpg", saved("JPEG", colour.convert(mode)), ANSWERED)
        yield Case(f"{mode}.tif", saved("TIFF", colour.convert(mode)), ANSWERED if mode == "CMYK" else EITHER)
    yield Case("lab.tif", saved("TIFF", Image.new("LAB", (48, 48))), EITHER)
    yield Case("float.tif", saved("TIFF", Image.fromarray(values.astype(np.float32) / 255)), ANSWERED)
    whole = Image.fromarray(values.astype(np.int32))
    yield Case("whole 32-bit.tif", saved("TIFF", whole), REFUSED)
    for name, value in (("nan", np.nan), ("infinite", np.inf), ("negative", -1.0), ("large", 1e38)):
        odd = (values / 255).astype(np.float32)
        odd[7, 9] = value
        yield Case(f"{name}.tif", saved("TIFF", Image.fromarray(odd)), REFUSED)
    yield Case("progressive.jpg", saved("JPEG", progressive=True), ANSWERED)
    yield Case("grey.jpg", saved("JPEG", grey), ANSWERED)


def _turned() -> Iterator[Case]:
    for orientation in (*range(9), 9, 65_535):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("png", "jpg", "webp", "tif"):
            yield Case(f"turned {orientation}.{suffix}", saved(FORMATS[suffix], exif=exif), ANSWERED)


def exif_table(tags: int, size: int) -> bytes:
    """EXIF data of so many tags, each of which is the same so many bytes."""
    entries = [(0x0112, 3, 1, 6), *((0x8000 + number, 7, size, 8) for number in range(tags))]
    table = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    return (b"II*\0" + struct.pack("<LH", 8, len(entries)) + table + bytes(4)).ljust(size + 8, b"\0")


def _app1(body: bytes) -> bytes:
    return b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body


def _metadata() -> Iterator[Case]:
    text = {
        "text of 50 MB": (chunk(b"tEXt", b"k\0" + b"x" * 50_000_000), ANSWERED),
        "zTXt bomb": (chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(20_000_000), 1)), REFUSED),
        "iTXt bomb": (chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(20_000_000), 1)), REFUSED),
        "zTXt bombs": (chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 100, REFUSED),
        "zTXt broken": (chunk(b"zTXt", b"k\0\0broken"), ANSWERED),
        "iCCP bomb": (chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(20_000_000), 1)), REFUSED),
        "iCCP broken": (chunk(b"iCCP", b"k\0\0broken"), ANSWERED),
        "iCCP empty": (chunk(b"iCCP", b""), EITHER),
        "private": (chunk(b"prVt", bytes(10_000_000)), ANSWERED),
        "exif of zeros": (chunk(b"eXIf", bytes(1000)), ANSWERED),
        "exif bomb": (chunk(b"eXIf", exif_table(2000, 300_000)), ANSWERED),
        "exif in text": (chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  20\n" + b"4d4d002a" * 200_000), ANSWERED),
        "long key": (chunk(b"tEXt", b"k" * 5000 + b"\0x"), ANSWERED),
    }
    for name, (before, outcome) in text.items():
        yield Case(f"{name}.png", png(48, 48, before=before), outcome)
    for suffix in ("png", "jpg", "webp", "tif"):
        for name, profile in (("noise", bytes(range(256)) * 20), ("short", b"x"), ("zeros", bytes(3000))):
            yield Case(f"ICC {name}.{suffix}", saved(FORMATS[suffix], icc_profile=profile), ANSWERED)
    jpeg = saved("JPEG")
    bomb = exif_table(2000, 300_000)
    pieces = b"".join(_app1(b"Exif\0\0" + bomb[at : at + 65_000]) for at in range(0, len(bomb), 65_000))
    # Without its JFIF header, since a density given there spares Pillow a look into EXIF data.
    yield Case("exif bomb.jpg", jpeg[:2] + pieces + jpeg[20:], REFUSED)
    yield Case("exif of zeros.jpg", jpeg[:2] + _app1(b"Exif\0\0" + bytes(60_000)) + jpeg[20:], ANSWERED)
    yield Case("comments.jpg", jpeg[:2] + (b"\xff\xfe\0\2") * 1_000_000 + jpeg[2:], REFUSED)
    yield Case("exifs.jpg", jpeg[:2] + _app1(b"Exif\0\0" + bytes(10)) * 1_000_000 + jpeg[2:], REFUSED)
    yield Case("tacked on.jpg", jpeg + bytes(1_000_000), ANSWERED)
    yield Case("tacked on.png", saved("PNG") + saved("PNG"), ANSWERED)


def _busy() -> Iterator[Case]:
    """Files that had Pillow busy for minutes, or fill gigabytes, before they were looked for."""
    wide = saved("JPEG", Image.new("L", (6000, 6000)), progressive=True)
    scan = wide[wide.rindex(b"\xff\xda") : -2]
    yield Case("scans.jpg", wide[:-2] + scan * 500 + wide[-2:], REFUSED)
    tags = tuple((0x8000 + number, 7, 1_000_000, 8) for number in range(3000))
    pixels = bytes(48 * 48 * 3)
    yield Case("tags.tif", tiff(48, 48, pixels + bytes(1_000_000), tags), REFUSED)
    yield Case("numbers.tif", tiff(48, 48, pixels + bytes(5_000_000), ((274, 3, 2_000_000, 400),)), REFUSED)
    tile = zlib.compress(bytes(12_000 * 12_000 * 3), 1)
    sizes = ((322, 4, 1, 12_000), (323, 4, 1, 12_000), (324, 4, 1, 400), (325, 4, 1, len(tile)))
    yield Case("tile.tif", tiff(48, 48, tile, sizes, 8), REFUSED)
    yield from _deep()
    loop = saved("TIFF")
    yield Case("loop.tif", loop[:-4] + loop[4:8] if loop.endswith(bytes(4)) else loop, EITHER)


def _deep() -> Iterator[Case]:
    """Files of more than 8 bits per channel and several pages, which Pillow does not read."""
    deep = picture(_SIDE, _SIDE).astype(np.uint16) * 257
    whole = {}
    for name, options in (("plain", {}), ("zlib", {"compression": "zlib"}), ("tiles", {"tile": (16, 16)})):
        file = io.BytesIO()
        tifffile.imwrite(file, deep, photometric="rgb", metadata=None, **options)
        whole[f"{name}.tif"] = file.getvalue()
    for name, kind in (("imagej", {"imagej": True}), ("ome", {"ome": True})):
        file = io.BytesIO()
        planes = np.ascontiguousarray(np.moveaxis(deep, 2, 0))
        tifffile.imwrite(file, planes, photometric="minisblack", metadata={"axes": "CYX"}, **kind)
        whole[f"{name}.tif"] = file.getvalue()
    whole["deep.png"] = imagecodecs.png_encode(deep)
    whole["photo.avif"] = saved("AVIF")
    rng = np.random.default_rng(5)
    for name, data in whole.items():
        yield Case(f"deep {name}", data, ANSWERED)
        for number in range(6):
            yield Case(f"deep cut {number} {name}", data[: len(data) * number // 8], EITHER if number else REFUSED)
            damaged = np.frombuffer(data, np.uint8).copy()
            damaged[rng.integers(0, min(len(data), 400), 3)] ^= rng.integers(1, 256, 3, np.uint8)
            yield Case(f"deep flipped {number} {name}", damaged.tobytes(), EITHER)
    bomb = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10 if n else "x" * 10}">' for n in range(10))
    description = f'<?xml version="1.0"?><!DOCTYPE OME [{bomb}]><OME>&a9;</OME>'
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        for _ in range(3):
            writer.write(deep[..., 0], photometric="minisblack", description=description, metadata=None)
    yield Case("deep entities.tif", file.getvalue(), EITHER)
    for name, channels in (("channels", 60_000), ("nothing", 0)):
        pixels = zlib.compress(bytes(6_000_000), 9)
        tags = ((258, 3, 1, 16), (277, 3, 1, channels), (279, 4, 1, len(pixels)))
        yield Case(f"deep {name}.tif", tiff(5_000, 5_000, pixels, tags, 8), REFUSED)


def patience() -> list[Case]:
    """Files that only the clock finds; each takes the seconds that a reader is given."""
    gif = saved("GIF")
    table = 13 + 3 * (2 << (gif[10] & 7))
    jpeg = saved("JPEG")
    return [
        Case("chunks.png", png(48, 48, before=chunk(b"prVt", b"") * 2_500_000), REFUSED),
        Case("comment.gif", gif[:table] + b"!\xfe" + (b"\xff" + b"x" * 255) * 80_000 + b"\0" + gif[table:], REFUSED),
        Case("runs.bmp", bmp_of_runs(7_000, 10_000_000), REFUSED),
        Case("padding.jpg", jpeg[:2] + b"\xff" * 20_000_000 + jpeg[2:], REFUSED),
    ]


def _names() -> Iterator[Case]:
    names = (
        "line\nbreak",
        "tab\tand\rreturn",
        "Zelle_ä_細胞_🔬",
        "turned \u202egnp",
        "a" * 240,
        "-rf",
        "~",
        "%2e%2e%2f",
    )
    names += (
        "..\\..\\windows",
        "quote\"and'",
        "<b>bold<b>",
        "$(reboot)",
        "nul",
        "=1+1",
        "\x1b[31mred",
        "a;b&c|d",
        "{0}%s",
    )
    yield from (Case(f"{name}.png", saved("PNG"), ANSWERED) for name in names)


def zipped(entries: list[tuple[str | zipfile.ZipInfo, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in [(GOOD, saved("PNG")), *entries]:
            archive.writestr(name, content, method)
    return file.getvalue()


def _zips() -> Iterator[ZipCase]:
    cell = saved("PNG")
    ways_out = (
        "../a.png",
        "x/../../a.png",
        "/etc/a.png",
        "C:/a.png",
        "..\\a.png",
        "\\\\host\\a.png",
        "a/..\\..\\b.png",
    )
    yield ZipCase("traversal.zip", zipped([(name, cell) for name in ways_out]))
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    yield ZipCase("link.zip", zipped([(link, b"/etc/passwd")]))
    nested = zipped([])
    for _ in range(5):
        nested = zipped([("inner.zip", nested)])
    yield ZipCase("nested.zip", nested)
    yield ZipCase("bomb.zip", zipped([("bomb.png", bytes(200_000_000))]))
    yield ZipCase("bombs.zip", zipped([(f"{n}.png", bytes(9_000_000)) for n in range(30)]))
    secret = bytearray(zipped([("secret.png", cell)]))
    for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        secret[secret.rindex(signature) + flags] |= 1
    yield ZipCase("encrypted.zip", bytes(secret))
    long = (
        "n" * 4000 + ".png",
        "d/" * 1999 + "a.png",
        "line\nbreak.png",
        "\u202egnp.png",
        "細胞.png",
        "7" * 4000 + ".png",
    )
    answered = {GOOD, "line\ufffdbreak.png", "\ufffdgnp.png", *(long[n] for n in (0, 1, 4, 5))}
    yield ZipCase("names.zip", zipped([(name, cell) for name in long]), frozenset(answered))
    tables = [(f"{n}.csv", b"file_name,subject\n" + b"x.png,s\n" * 600_000) for n in range(20)]
    yield ZipCase("tables.zip", zipped(tables))
    odd = {
        "quotes.csv": b'file_name,subject\n"' + b"x" * 200_000,
        "zeros.csv": bytes(100),
        "utf16.csv": "a,b".encode("utf-16"),
    }
    yield ZipCase("odd tables.zip", zipped(list(odd.items())))
    many = io.BytesIO()
    with zipfile.ZipFile(many, "w") as archive:
        archive.writestr(GOOD, cell)
        for number in range(100_000):
            archive.writestr(zipfile.ZipInfo(f"{number}.txt"), b"")
    yield ZipCase("100,000 entries.zip", many.getvalue(), None)
    yield ZipCase("empty.zip", b"", None)
    yield ZipCase("cut.zip", zipped([("a.png", cell)])[:-30], None)
    yield ZipCase("text.zip", b"This is no zip.", None)
    yield ZipCase("behind a program.zip", b"#!/bin/sh\n" * 100 + zipped([]))
