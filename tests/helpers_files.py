"""Image files as people send them, good ones in odd forms and bad ones, each written in milliseconds."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import imagecodecs
import numpy as np
from helpers_models import blobs
from PIL import Image


def picture(width: int = 224, height: int = 224) -> np.ndarray:
    """What every good file below shows, uint8 (height, width, 3)."""
    return blobs(0, width, height)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    """An image file in a format that Pillow writes."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """A PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    width: int, height: int, depth: int = 8, colour: int = 2, before: bytes = b"", data: bytes | None = None
) -> bytes:
    """A black PNG, with chunks before its pixels."""
    if data is None:
        channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
        packer = zlib.compressobj(1)
        row = bytes(1 + (width * channels * depth + 7) // 8)
        data = b"".join([*(packer.compress(row) for _ in range(height)), packer.flush()])
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits, which Pillow reads but does not write; uint16 (H, W) or (H, W, channels)."""
    return imagecodecs.png_encode(np.ascontiguousarray(pixels))


def write_zip(path: Path, entries: Iterable[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip of names, of which one may come twice, and contents."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name) if name.endswith("/") else name, content, compression)
    return path


def _truncated(file: Path) -> None:
    Image.fromarray(picture()).save(file, quality=95)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _float(file: Path, scale: float) -> None:
    Image.fromarray(picture().mean(2).astype(np.float32) * scale).save(file)


# File name -> how to write it, and a part of the sentence that refuses it.
BAD_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated.jpg": (_truncated, "truncated or damaged"),
    "text.png": (lambda f: f.write_text("These are not pixels.\n" * 50), "not an image"),
    "empty.png": (lambda f: f.touch(), "empty (0 bytes)"),
    # 50 kB, of all 400 megapixels
    "huge.png": (lambda f: f.write_bytes(png(20_000, 20_000, 1, 0)), "at most 50 megapixels"),
    "large.png": (lambda f: f.write_bytes(png(8000, 8000, 1, 0, data=b"")), "8000 x 8000 pixels; at most 50"),
    "page.jpg": (lambda f: f.write_text("<!doctype html><title>404</title>"), "not an image"),
    "dot.png": (lambda f: Image.new("RGB", (1, 1)).save(f), "at least 16"),
    "sliver.png": (lambda f: Image.new("RGB", (16, 3200)).save(f), "at most 20 times"),
    "folder.png": (lambda f: f.mkdir(), "is a folder"),
    "missing.png": (lambda f: None, "does not exist"),
    "unscaled.tif": (lambda f: _float(f, 10.0), "floating-point pixels"),
    "whole32.tif": (
        lambda f: Image.fromarray(picture()[..., 0].astype(np.int32)).save(f),
        "32-bit integer pixels",
    ),
    "nan.tif": (
        lambda f: Image.fromarray(np.full((32, 32), np.nan, np.float32)).save(f),
        "floating-point pixels",
    ),
    "half.bmp": (
        lambda f: (Image.fromarray(picture()).save(f), f.write_bytes(f.read_bytes()[:5000])),
        "truncated or damaged",
    ),
    "header.tif": (lambda f: f.write_bytes(b"II*\0\x08\0\0\0\xff\xff"), "not an image"),
    "photo.ppm": (lambda f: Image.fromarray(picture()).save(f), "not an image"),
}


def write_bad_files(folder: Path) -> dict[Path, str]:
    """All of BAD_FILES in `folder`: path -> a part of the sentence that refuses it."""
    for name, (write, _) in BAD_FILES.items():
        write(folder / name)
    return {folder / name: reason for name, (_, reason) in BAD_FILES.items()}
