"""Bytes out of files and zips that anyone may have made.

Nothing is unpacked to disk, nothing is believed that a zip says of itself, and no table of contents is held in memory,
however many entries it has. No image is decoded here.
"""

import io
import os
import re
import stat
import struct
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import BlastlensError
from .images import ACCEPTED, MAX_BYTES
from .wording import printable as printable

# Deflate reaches 1:1000 on blank images; a small one is none the worse for it.
MAX_RATIO, RATIO_APPLIES_FROM = 200, 10_000_000
IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".webp"))

_JUNK = frozenset(("thumbs.db", "desktop.ini", "__macosx"))
_PIECE = 1024 * 1024


def is_junk(part: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that systems add by themselves (__MACOSX, Thumbs.db)."""
    return (part.startswith(".") and part != "..") or part.casefold() in _JUNK


def is_image_name(name: str) -> bool:
    """Whether a name ends as those of images do."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def is_zip(path: Path) -> bool:
    """Whether a file is to be read as a zip: by its name or, since what comes through MCP has lost its own, by its end.

    An image stays one: whatever is tacked on to it is not looked at.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip" or suffix in IMAGE_SUFFIXES:
        return suffix == ".zip"
    try:
        return path.is_file() and zipfile.is_zipfile(path)
    except Exception:  # zipfile fails on hostile bytes in every way there is
        return False


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file of at most MAX_BYTES; links are followed.

    Raises:
        BlastlensError: missing, unreadable, too large, or no regular file.
    """
    name = os.path.basename(path)
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode):  # a pipe or a device could keep us waiting for ever
            raise BlastlensError(f"{name} is not a regular file; give a {ACCEPTED} file.")
        if about.st_size > MAX_BYTES:
            raise _too_large(name)
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BlastlensError(f"{name} cannot be read ({reason}).") from error


def _too_large(name: str) -> BlastlensError:
    return BlastlensError(f"{name} is larger than {MAX_BYTES // 1_000_000} MB; give a smaller image.")


# Zips ----------------------------------------------------------------------------------------------------------------

# Signature, what is skipped, and then what is read, as APPNOTE.TXT of the format's makers lays it out.
_END = struct.Struct("<4s4H2LH")  # disks, entries, size and place of the table of contents, length of a comment
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_RECORD = struct.Struct("<4s2H2H4x3L5H2L")
_LOCAL = struct.Struct("<4s22x2H")
_MAX_COMMENT = 65_535
_IN_EXTRA_16, _IN_EXTRA_32, _EXTRA_64 = 0xFFFF, 0xFFFFFFFF, 1
_ENCRYPTED, _PATCH, _UTF8 = 0x1, 0x20, 0x800
_STORED, _DEFLATED = 0, 8


class _Damaged(Exception):
    """A zip, or an entry of one, that is not what the format says."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a zip says of one file in it.

    Attributes:
        name: with "/" between folders; one that ends in it is a folder.
        place: of its record in the file, which `Zip.read` finds it by.
    """

    name: str
    place: int
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    start: int
    length: int  # of the record itself

    @property
    def leads_out(self) -> bool:
        """Whether unpacking it would write outside the folder that it is unpacked to."""
        return self.name.startswith("/") or ".." in self.name.split("/") or bool(re.match(r"[A-Za-z]:", self.name))


class Zip:
    """An open zip; threads may share it. It is closed when nobody holds it any more."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Find its table of contents; raises BlastlensError where there is none."""
        self.name = os.path.basename(path)
        if not os.path.isfile(path):
            raise BlastlensError(f"{self.name} does not exist or is not a regular file; give a zip.")
        try:
            self._file: BinaryIO = open(path, "rb")  # noqa: SIM115  # closed by the finalizer
        except OSError as error:
            raise BlastlensError(f"{self.name} cannot be read ({error.strerror}).") from error
        weakref.finalize(self, self._file.close)
        self._lock = threading.Lock()
        try:
            self._table, self._table_end, self._shift = self._find_table()
        except (_Damaged, OSError, struct.error) as error:
            raise self._unreadable() from error

    @property
    def table_bytes(self) -> int:
        """Length of its table of contents."""
        return self._table_end - self._table

    def entries(self) -> Iterator[Entry]:
        """Its files, without folders, in its own order; raises BlastlensError where the table turns out damaged."""
        place = self._table
        while place < self._table_end:
            try:
                entry = self._entry(place)
            except (_Damaged, OSError, struct.error) as error:
                raise self._unreadable() from error
            place += entry.length
            if not entry.name.endswith("/"):
                yield entry

    def read(self, place: int, shown: str, took: Callable[[int], None] = lambda size: None) -> bytes:
        """Unpack the entry whose record is at a place.

        Args:
            shown: what messages call it.
            took: called with how many bytes have come out so far; it may raise, to stop.

        Raises:
            BlastlensError: encrypted, packed in an unusual way, too large, unpacking to far too much, or damaged.
        """
        data = bytearray()
        try:
            entry = self._entry(place)
            if entry.flags & _ENCRYPTED:
                raise BlastlensError(f"{shown} is encrypted; make a zip without a password.")
            if entry.method not in (_STORED, _DEFLATED) or entry.flags & _PATCH:
                # The other kinds cannot be unpacked a little at a time.
                raise BlastlensError(f"{shown} is packed in an unusual way; make an ordinary zip (Deflate).")
            for piece in self._unpacked(entry):
                data += piece
                if len(data) > MAX_BYTES:
                    raise _too_large(shown)
                if len(data) > RATIO_APPLIES_FROM and len(data) > MAX_RATIO * entry.packed:
                    raise BlastlensError(f"{shown} unpacks to over {MAX_RATIO} times its size; give it unpacked.")
                took(len(data))
            if len(data) != entry.size or zlib.crc32(data) != entry.crc:
                raise _Damaged
        except (_Damaged, zlib.error, OSError, struct.error):
            raise BlastlensError(f"{shown} is damaged inside its zip; make the zip anew.") from None
        return bytes(data)

    def _unpacked(self, entry: Entry) -> Iterator[bytes]:
        """An entry's content in pieces of at most 1 MB, and at most one byte more of it than the entry says."""
        signature, name, extra = _LOCAL.unpack(self._at(entry.start, _LOCAL.size))
        place = entry.start + _LOCAL.size
        # An entry whose data are another's would have another's name there.
        if signature != b"PK\3\4" or self._at(place, name) != entry.raw_name:
            raise _Damaged
        place += name + extra
        end, left = place + entry.packed, entry.size + 1
        if entry.method == _STORED:
            while place < end and left > 0:
                piece = self._at(place, min(_PIECE, end - place, left))
                place, left = place + len(piece), left - len(piece)
                yield piece
            return
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        while left > 0 and not unpacker.eof:
            packed = unpacker.unconsumed_tail
            if not packed and place < end:
                packed = self._at(place, min(_PIECE, end - place))
                place += len(packed)
            piece = unpacker.decompress(packed, min(_PIECE, left))
            if not packed and not piece:
                return
            left -= len(piece)
            yield piece

    def _find_table(self) -> tuple[int, int, int]:
        """Where the table of contents begins and ends, and how far everything lies behind where it says it is.

        A program before the zip, as in those that unpack themselves, moves all of it.
        """
        length = self._file.seek(0, io.SEEK_END)
        tail_at = max(0, length - _END.size - _MAX_COMMENT)
        tail = self._at(tail_at, length - tail_at)
        places = [match.start() for match in re.finditer(b"PK\5\6", tail[: len(tail) - _END.size + 4])]
        if not places or len(tail) < _END.size:
            raise _Damaged
        # A comment may hold the signature, too; the end record is the one whose comment ends where the file does.
        exact = [at for at in places if at + _END.size + _END.unpack_from(tail, at)[-1] == len(tail)]
        end = tail_at + (exact or places)[-1]
        disks, size, start = self._end(end)
        if end >= _LOCATOR_64.size:
            signature, _, place, _ = _LOCATOR_64.unpack(self._at(end - _LOCATOR_64.size, _LOCATOR_64.size))
            if signature == b"PK\6\7":
                end, disks, size, start = self._end_64(place, end - _LOCATOR_64.size)
        shift = end - size - start
        if any(disks) or shift < 0:
            raise _Damaged
        return end - size, end, shift

    def _end(self, place: int) -> tuple[tuple[int, ...], int, int]:
        _, *disks, _, _, size, start, _ = _END.unpack(self._at(place, _END.size))
        return tuple(disks), size, start

    def _end_64(self, place: int, locator: int) -> tuple[int, tuple[int, ...], int, int]:
        """The same for a zip of over 4 GB or 65,535 entries; what comes before the zip moves its end record, too."""
        for at in (place, locator - _END_64.size):
            if 0 <= at <= locator - _END_64.size:
                signature, _, _, _, *disks, _, _, size, start = _END_64.unpack(self._at(at, _END_64.size))
                if signature == b"PK\6\6":
                    return at, tuple(disks), size, start
        raise _Damaged

    def _entry(self, place: int) -> Entry:
        if not self._table <= place < self._table_end:
            raise _Damaged
        record = self._at(place, _RECORD.size)
        signature, _, _, flags, method, crc, packed, size, *lengths, disk, _, _, start = _RECORD.unpack(record)
        name_length, extra_length, comment = lengths
        if signature != b"PK\1\2" or place + _RECORD.size + sum(lengths) > self._table_end:
            raise _Damaged
        rest = self._at(place + _RECORD.size, name_length + extra_length)
        raw_name, extra = rest[:name_length], rest[name_length:]
        size, packed, start = _wide(extra, size, packed, start)
        if disk not in (0, _IN_EXTRA_16):
            raise _Damaged
        length = _RECORD.size + name_length + extra_length + comment
        name = _decoded(raw_name, flags)
        return Entry(name, place, raw_name, flags, method, crc, packed, size, start + self._shift, length)

    def _at(self, place: int, size: int) -> bytes:
        """Exactly so many bytes from a place."""
        with self._lock:  # the only thing that threads must take turns at
            self._file.seek(place)
            data = self._file.read(size)
        if len(data) != size:
            raise _Damaged
        return data

    def _unreadable(self) -> BlastlensError:
        return BlastlensError(f"{self.name} is not a zip that can be read; it may be damaged or not fully uploaded.")


def _wide(extra: bytes, *numbers: int) -> list[int]:
    """The numbers of a record, those that its 32 bits cannot hold taken from its extra field."""
    wide = b""
    place = 0
    while place + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, place)
        if kind == _EXTRA_64:
            wide = extra[place + 4 : place + 4 + length]
        place += 4 + length
    values = []
    for number in numbers:
        if number == _IN_EXTRA_32 and len(wide) >= 8:
            number, wide = int.from_bytes(wide[:8], "little"), wide[8:]
        values.append(number)
    return values


def _decoded(raw: bytes, flags: int) -> str:
    """A name with "/" between folders; zips made on a Mac hold UTF-8 without saying so."""
    try:
        name = raw.decode("utf-8")
    except UnicodeDecodeError:
        name = raw.decode("utf-8", errors="replace") if flags & _UTF8 else raw.decode("cp437")
    return name.split("\0")[0].replace("\\", "/")
