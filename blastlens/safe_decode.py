"""Image files made to keep a reader busy or to fill its memory, found before Pillow believes what they say.

A megabyte of TIFF can have Pillow read ten gigabytes of tags, and 200 kB of JPEG unpack its pixels a thousand times.
What is merely broken is left to Pillow.
"""

import io
import re
import struct
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

# Processor time between opening a file and reading the last of it, in seconds; 50 megapixels take one or two.
PATIENCE_S = 3.0
# Of a JPEG. Progressive ones have about ten scans, each of which goes over all pixels.
MAX_SEGMENTS, MAX_SCANS = 10_000, 50

# Numbers in one tag, which Python keeps one by one. 50 megapixels in tiles of 16 px have 800,000 places; nothing else
# has nearly as many.
_MAX_NUMBERS = {"H": 1_000_000, "L": 1_000_000, "Q": 1_000_000}
_MAX_OTHER_NUMBERS = 100_000
# What Pillow takes each type of a tag to consist of, for `struct`; "s" is kept as bytes, RATIONAL is two numbers.
_TYPES = dict(enumerate("ssHL*bshl*fd", start=1)) | {13: "L", 16: "Q"}
_TAGS_OF_A_FILE = 65_535
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # those that a length follows, and the end
_SCAN, _END, _APP1 = 0xDA, 0xD9, 0xE1
_EXIF = b"Exif\0\0"


class Unreasonable(Exception):
    """A file that no camera and no program makes."""


class Watched:
    """A file whose reader is stopped once it has spent `PATIENCE_S` of its thread's processor time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._until = time.thread_time() + PATIENCE_S

    def read(self, size: int = -1) -> bytes:
        if time.thread_time() > self._until:
            raise Unreasonable
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def check(file: BinaryIO) -> None:
    """Look at a file's structure, and go back to its start.

    Raises:
        Unreasonable: a JPEG of too many parts or scans, or tags that say more than their file holds.
    """
    start = file.read(4)
    file.seek(0)
    if start.startswith(b"\xff\xd8"):
        _check_jpeg(file.read())
    elif start[:2] in (b"II", b"MM"):
        _check_tags(file)
    file.seek(0)


def check_exif(data: bytes) -> None:
    """Look at the tags of EXIF data; raises Unreasonable as `check` does."""
    while data.startswith(_EXIF):
        data = data[len(_EXIF) :]
    _check_tags(io.BytesIO(data))


def _check_jpeg(data: bytes) -> None:
    exif, scans = [], 0
    for number, (marker, segment) in enumerate(_segments(data)):
        scans += marker == _SCAN
        if marker == _APP1 and segment.startswith(_EXIF):
            exif.append(segment[len(_EXIF) :])  # Pillow joins them, too
        if number > MAX_SEGMENTS or scans > MAX_SCANS:
            raise Unreasonable
    check_exif(b"".join(exif))


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of everything in a JPEG but its packed pixels."""
    place = 2
    while (found := _MARKER.search(data, place)) and (marker := data[found.end() - 1]) != _END:
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        yield marker, data[found.end() + 2 : found.end() + length]
        place = found.end() + max(length, 2)


def _check_tags(file: BinaryIO) -> None:
    """Hold the first table of tags, the only one that is read, against the length of its file."""
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:3] == b"\x2b"
    entry = struct.Struct(order + ("HHQQ" if big else "HHLL"))
    try:
        (start,) = struct.unpack(order + "Q", head[8:16]) if big else struct.unpack(order + "L", head[4:8])
        file.seek(start)
        (number,) = struct.unpack(order + "Q", file.read(8)) if big else struct.unpack(order + "H", file.read(2))
    except (struct.error, OverflowError, OSError):
        return
    if number > _TAGS_OF_A_FILE:
        raise Unreasonable
    table = file.read(number * entry.size)
    pointed_at = 0
    for _, kind, count, place in entry.iter_unpack(table[: len(table) - len(table) % entry.size]):
        letter = _TYPES.get(kind, "")
        size = count * (8 if letter == "*" else struct.calcsize("=" + letter))
        if size > (8 if big else 4) and place + size <= length:
            pointed_at += size
            if letter != "s" and count > _MAX_NUMBERS.get(letter, _MAX_OTHER_NUMBERS):
                raise Unreasonable
    # Two tags may share their data; a thousand that do fill the memory with copies.
    if pointed_at > 2 * length:
        raise Unreasonable
