"""Image files as people send them, good ones in odd forms and bad ones, each written in milliseconds."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from helpers_models import blobs
from PIL import Image


def picture(width: int = 224, height: int = 224) -> np.ndarray:
    """What every good file below shows, uint8 (height, width, 3)."""
    return blobs(0, width, height)


def write_png16(file: Path, pixels: np.ndarray) -> None:
    """A 16-bit RGB PNG of uint16 (H, W, 3), which Pillow reads but does not write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    _write_png(file, pixels.shape[1], pixels.shape[0], depth=16, colour=2, data=zlib.compress(rows))


def _write_png(file: Path, width: int, height: int, depth: int, colour: int, data: bytes) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def _huge(file: Path) -> None:
    """A valid black 20,000 x 20,000 PNG of 50 kB."""
    packer = zlib.compressobj(1)
    row = bytes(1 + 20_000 // 8)
    data = b"".join([*(packer.compress(row) for _ in range(20_000)), packer.flush()])
    _write_png(file, 20_000, 20_000, depth=1, colour=0, data=data)


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
    "huge.png": (_huge, "at most 50 megapixels"),
    "large.png": (
        lambda f: _write_png(f, 8000, 8000, depth=1, colour=0, data=b""),
        "8000 x 8000 pixels; at most 50",
    ),
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
