"""Read files out of untrusted zips: in memory, a piece at a time, within limits. No image is decoded here."""

import io
import os
import re
import weakref
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .errors import BlastlensError
from .images import IMAGE_SUFFIXES, MAX_BYTES, too_large

# Deflate reaches 1:1000 on blank images, which is harmless as long as they are small.
MAX_RATIO, RATIO_APPLIES_FROM = 200, 10_000_000
MAX_CONTENTS_BYTES = 100_000_000  # of a table of contents, which is kept in memory: about a million files
_PIECE = 1024 * 1024
_ENCRYPTED, _UTF8 = 0x1, 0x800


def is_zip(path: Path) -> bool:
    """Whether a file is read as a zip: by its name or, since MCP uploads lose theirs, by its content.

    An image stays one, even with a zip appended to it.
    """
    suffix = path.suffix.lower()
    if suffix == ".zip" or suffix in IMAGE_SUFFIXES:
        return suffix == ".zip"
    try:
        return path.is_file() and zipfile.is_zipfile(path)
    except Exception:  # zipfile raises exceptions of any type on hostile bytes
        return False


class Entry(NamedTuple):
    """A file in a zip: its number in the table of contents, and its name with "/" between folders."""

    number: int
    name: str

    @property
    def leads_out(self) -> bool:
        """Whether unpacking it would write outside the target folder."""
        return self.name.startswith("/") or ".." in self.name.split("/") or bool(re.match(r"[A-Za-z]:", self.name))


class _TooManyEntries(Exception):
    pass


class _LimitedFile(io.FileIO):
    """A file of which no single read is larger than a limit: zipfile reads a table of contents at once."""

    def __init__(self, path: str | os.PathLike[str], limit: int) -> None:
        super().__init__(path)
        self._limit = limit

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(self._limit + 1 if size is None or size < 0 else min(size, self._limit + 1)) or b""
        if len(data) > self._limit:
            raise _TooManyEntries
        return data


class Zip:
    """An open zip; threads may share it. It is closed when no longer referenced."""

    def __init__(self, path: str | os.PathLike[str], max_contents: int = MAX_CONTENTS_BYTES) -> None:
        """Read its table of contents, of at most so many bytes; raises BlastlensError where that fails."""
        self.name = os.path.basename(path)
        if not os.path.isfile(path):
            raise BlastlensError(f"{self.name} does not exist or is not a regular file; give a zip.")
        try:
            file = _LimitedFile(path, max_contents)
        except OSError as error:
            raise BlastlensError(f"{self.name} cannot be read ({error.strerror}).") from error
        weakref.finalize(self, file.close)
        try:
            self._zip = zipfile.ZipFile(file)
        except _TooManyEntries:
            raise BlastlensError(f"{self.name} holds too many files; give it in parts.") from None
        except Exception as error:  # zipfile raises exceptions of any type on hostile bytes
            raise BlastlensError(
                f"{self.name} is not a zip that can be read; it may be damaged or not fully uploaded."
            ) from error

    def entries(self) -> Iterator[Entry]:
        """Its files, without folders, in its own order."""
        for number, info in enumerate(self._zip.infolist()):
            name = info.orig_filename
            if not info.flag_bits & _UTF8:  # macOS writes UTF-8 without saying so
                with suppress(UnicodeError):
                    name = name.encode("cp437").decode("utf-8")
            name = name.split("\0")[0].replace("\\", "/")
            if not name.endswith("/"):
                yield Entry(number, name)

    def read(self, number: int, shown: str, on_size: Callable[[int], None] = lambda size: None) -> bytes:
        """Unpack one entry.

        Args:
            number: as in `entries`.
            shown: what messages call it.
            on_size: called with the number of bytes unpacked so far; it may raise an exception to stop.

        Raises:
            BlastlensError: encrypted, compressed in an unusual way, too large, unpacking to far too much, or damaged.
        """
        data = bytearray()
        try:
            info = self._zip.infolist()[number]
            if info.flag_bits & _ENCRYPTED:
                raise BlastlensError(f"{shown} is encrypted; make a zip without a password.")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may unpack all at once
                raise BlastlensError(f"{shown} is compressed in an unusual way; make an ordinary zip (Deflate).")
            with self._zip.open(info) as file:
                while piece := file.read(_PIECE):
                    data += piece
                    if len(data) > MAX_BYTES:
                        raise too_large(shown)
                    if len(data) > RATIO_APPLIES_FROM and len(data) > MAX_RATIO * info.compress_size:
                        raise BlastlensError(f"{shown} unpacks to over {MAX_RATIO} times its size; give it unpacked.")
                    on_size(len(data))
            if len(data) != info.file_size:
                raise zipfile.BadZipFile
        except BlastlensError:
            raise
        except Exception:  # zipfile raises exceptions of any type on hostile bytes
            raise BlastlensError(f"{shown} is damaged inside its zip; make the zip anew.") from None
        return bytes(data)
