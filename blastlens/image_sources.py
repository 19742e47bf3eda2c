"""Find the images in files, folders and zips, and the subjects and labels that tables and file names give them.

`walk` goes through one path, however large; `list_sources` lists what a page can show and keep in memory.
"""

import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .errors import BlastlensError
from .images import ACCEPTED, IMAGE_SUFFIXES, printable, read_file
from .subject_tables import SubjectTables
from .zips import Zip, is_zip

MAX_IMAGES = 5_000
# 5,000 ordinary images take about a minute; 5,000 of 50 megapixels, which fit into a zip of 1 MB, most of an hour.
LONGEST_RUN_S = 600
MAX_ENTRIES = 4 * MAX_IMAGES  # files of any kind in one folder or zip; macOS adds a second one to each image
MAX_CONTENTS_BYTES = 8 * 1024 * 1024  # of a zip's table of contents: MAX_ENTRIES long names
MAX_TOTAL_BYTES = 4_000_000_000

_JUNK = frozenset(("thumbs.db", "desktop.ini", "__macosx"))
OpenZip = Callable[[str], Zip]


# Walking through a file, a folder or a zip --------------------------------------------------------------------------


class Found(NamedTuple):
    """A file that may be an image."""

    name: str  # what users know it by, printable, "/" between folders
    path: str  # of the file, or of the zip that it is in
    entry: int | None = None  # its number in the zip, None outside of zips
    error: str | None = None  # one sentence where it is known already that it cannot be used

    @property
    def is_image(self) -> bool:
        """Whether its name ends as those of images do."""
        return os.path.splitext(self.name)[1].lower() in IMAGE_SUFFIXES

    def read(self, open_zip: OpenZip, on_size: Callable[[int], None] = lambda size: None) -> bytes:
        """Its content; raises BlastlensError."""
        if self.entry is None:
            return read_file(self.path, self.name)
        return open_zip(self.path).read(self.entry, self.name, on_size)


def walk(path: Path, prefix: str, open_zip: OpenZip, follow_links: bool = False) -> Iterator[Found]:
    """Every file in a folder, at any depth, or in a zip; or a file itself.

    Folders are walked by name; one folder's names are in memory at a time. Hidden files and those that systems add
    (.DS_Store, __MACOSX, Thumbs.db) are skipped.

    Args:
        path: of a file, a folder or a zip.
        prefix: what names begin with; of a file, its whole name.
        open_zip: `Zip`, or a cache of it.
        follow_links: whether links in folders are followed; else they are errors.

    Raises:
        BlastlensError: a zip that cannot be read.
    """
    if path.is_dir():
        yield from _walk_folder(str(path), prefix, follow_links, ())
    elif is_zip(path):
        yield from _walk_zip(open_zip(str(path)), str(path), prefix)
    else:
        yield Found(printable(prefix), str(path))


def _walk_folder(folder: str, prefix: str, follow_links: bool, above: tuple[tuple[int, int], ...]) -> Iterator[Found]:
    try:
        about = os.stat(folder)
        with os.scandir(folder) as entries:
            names = sorted((one.name, _is_folder(one, follow_links), one.is_symlink()) for one in entries)
    except OSError as error:
        name = printable(prefix.rstrip("/")) or os.path.basename(folder)
        yield Found(name, folder, error=f"{name} is a folder that cannot be read ({error.strerror}).")
        return
    identity = (about.st_dev, about.st_ino)
    if identity in above:  # a link to a folder that it lies in
        return
    for name, is_folder, is_link in names:
        path, shown = os.path.join(folder, name), printable(prefix + name)
        if is_junk(name):
            continue
        if is_folder:
            yield from _walk_folder(path, f"{prefix}{name}/", follow_links, (*above, identity))
        elif is_link and not follow_links:
            yield Found(shown, path, error=f"{shown} is a link to another file; give the file itself.")
        else:
            yield Found(shown, path, error=_nested(shown, "a folder"))


def _is_folder(entry: "os.DirEntry[str]", follow_links: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow_links)
    except OSError:  # a link in a circle
        return False


def _walk_zip(archive: Zip, path: str, prefix: str) -> Iterator[Found]:
    seen = set()
    for entry in archive.entries():
        shown = printable(prefix + entry.name)
        if any(is_junk(part) for part in PurePosixPath(entry.name).parts):
            continue
        error = _nested(shown, "another one")
        if entry.leads_out:
            error = f"{shown} has a name that leads out of {archive.name}; zip the folder anew."
        elif entry.name in seen:
            error = f"{shown} is in {archive.name} more than once; the first one is used."
        seen.add(entry.name)
        yield Found(shown, path, entry.number, error)


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is hidden, or one that systems add (__MACOSX, Thumbs.db)."""
    return (name.startswith(".") and name not in (".", "..")) or name.casefold() in _JUNK


def _nested(shown: str, within: str) -> str | None:
    is_nested = shown.lower().endswith(".zip")
    return f"{shown} is a zip inside {within}; unpack it, or give it separately." if is_nested else None


# Listing for a page --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """One image that is read when it is needed; `Classifier` takes it like a binary file."""

    name: str  # what users know it by, "/" between folders; unique within one listing
    read: Callable[[], bytes]  # returns its bytes; raises BlastlensError
    subject: str | None = None  # the patient or donor, None if unknown
    label: str | None = None  # as a table gives it, in its own spelling; None without one


@dataclass(frozen=True)
class Sources:
    """What was found: images in natural order, files that cannot be used, and remarks on the whole."""

    sources: tuple[Source, ...]  # `image 2.png` before `image 10.png`
    refused: tuple[tuple[str, str], ...] = ()  # name and one sentence each
    notes: tuple[str, ...] = ()  # one sentence each


def list_sources(paths: Sequence[str | os.PathLike[str]]) -> Sources:
    """List the images in files, folders and zips.

    Names are relative to the folder or zip; where several are given, each one's name comes first. A CSV table
    (commas or semicolons, UTF-8) among the files with the columns `file_name` or `file`, and `subject` or
    `patient` or `label`, states the subjects and labels; else the subject is read from names such as
    UID_H3_1_2_hem.bmp. Links are refused.

    Raises:
        BlastlensError: over 5,000 images.
    """
    open_zip = functools.cache(lambda path: Zip(path, MAX_CONTENTS_BYTES))
    total = _Total()
    sources: list[Source] = []
    refused: list[tuple[str, str]] = []
    tables = SubjectTables()
    several = sum(path.is_dir() or is_zip(path) for path in map(Path, paths)) > 1
    for path in map(Path, paths):
        is_file = not (path.is_dir() or is_zip(path))
        prefix = path.name if is_file else f"{path.name if path.is_dir() else path.stem}/" if several else ""
        try:
            files = list(islice(walk(path, prefix, open_zip), MAX_ENTRIES + 1))
            if len(files) > MAX_ENTRIES:
                raise BlastlensError(f"{path.name} holds more than {MAX_ENTRIES:,} files; give it in parts.")
        except BlastlensError as error:
            refused.append((path.name, str(error)))
            continue
        for file in files:
            read = functools.partial(file.read, open_zip, functools.partial(total.add, file))
            try:
                if file.error:
                    raise BlastlensError(file.error)
                if file.name.lower().endswith(".csv"):
                    tables.add(file.name, read)
                elif file.is_image or is_file:  # a file chosen by the user is tried, so that it gets a reason
                    sources.append(Source(file.name, read))
                else:
                    raise BlastlensError(
                        f"{file.name} is not an image; {ACCEPTED} files are accepted, alone or in a zip."
                    )
            except BlastlensError as error:
                refused.append((file.name, str(error)))
    if len(sources) > MAX_IMAGES:
        raise BlastlensError(
            f"There are {len(sources):,} images; at most {MAX_IMAGES:,} are accepted at a time, so give them in parts."
        )
    sources = _with_unique_names(sorted(sources, key=lambda source: natural(source.name)))
    told, notes = tables.about([source.name for source in sources])
    sources = [replace(one, subject=s, label=label) for one, (s, label) in zip(sources, told, strict=True)]
    return Sources(tuple(sources), tuple(sorted(refused, key=lambda one: natural(one[0]))), tuple(notes))


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key in which numbers count as numbers: `image 2` comes before `image 10`."""
    return [_natural_part(part) for part in re.split(r"([0-9]+)", name.casefold()) if part], name


def _natural_part(part: str) -> tuple[int, int, str]:
    if not "0" <= part[0] <= "9":
        return 1, 0, part
    # Of two numbers without leading zeros the longer one is larger; int() refuses those of over 4,300 digits.
    digits = part.lstrip("0")
    return 0, len(digits), digits


class _Total:
    """Bytes unpacked from all zips together; reading one entry again counts once."""

    def __init__(self) -> None:
        self._sizes: dict[Found, int] = {}
        self._total = 0

    def add(self, file: Found, size: int) -> None:
        """Note that `size` bytes of a file have been unpacked so far."""
        more = size - self._sizes.get(file, 0)
        if more > 0:
            self._total += more
            self._sizes[file] = size
        if self._total > MAX_TOTAL_BYTES:
            raise BlastlensError(
                f"{file.name} was left out, since all images together are over {MAX_TOTAL_BYTES // 10**9} GB when "
                "unpacked; give them in parts."
            )


def _with_unique_names(sources: Iterable[Source]) -> list[Source]:
    """Two uploads called cell.png become `cell.png` and `cell (2).png`."""
    numbers: dict[str, int] = {}
    taken: set[str] = set()
    named = []
    for source in sources:
        name, pure = source.name, PurePosixPath(source.name)
        number = numbers.get(source.name, 1)
        while name in taken:
            number += 1
            name = str(pure.with_name(f"{pure.stem} ({number}){pure.suffix}"))
        numbers[source.name] = number
        taken.add(name)
        named.append(replace(source, name=name))
    return named
