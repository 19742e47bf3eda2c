"""Find images in folders, zips, single files and patterns, one after the other, in an order that is always the same.

However many there are, no more than one folder's worth of names is in memory, and of that at most 20,000.
"""

import fnmatch
import heapq
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import BlastlensError
from ..files import Zip, is_image_name, is_junk, is_zip, printable
from .saving import saying

# Names of a folder that are sorted at once; more are sorted in parts, on disk.
NAMES_AT_ONCE = 20_000
_WILD = frozenset("*?[")
_WHAT_IS_ACCEPTED = "give a folder, a zip, an image, or a quoted pattern such as 'archive/**/*.bmp'"


class Found(NamedTuple):
    """One image, or something that should have been one.

    Attributes:
        file: what people know it by, "/" between folders.
        path: of the file, or of the zip it is in.
        place: in the zip, as `blastlens.files.Zip.read` takes it; None for a file.
        error: one sentence where it is known already that it cannot be read.
    """

    file: str
    path: str
    place: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Given:
    """One source as it was given.

    Attributes:
        typed: by a person.
        path: absolute, of a file or folder; of a pattern the part before its first wildcard.
        pattern: the rest of a pattern, part by part; None for what is no pattern.
        prefix: what the names of its images begin with, so that those of two sources differ.
    """

    typed: str
    path: str
    pattern: tuple[str, ...] | None
    prefix: str = ""

    @property
    def is_container(self) -> bool:
        """Whether it may hold several images."""
        return self.pattern is not None or os.path.isdir(self.path) or is_zip(Path(self.path))


def given(sources: Sequence[str | os.PathLike[str]]) -> list[Given]:
    """Tell folders, zips, files and patterns apart, and how each one's images are to be called.

    Of one source the names are relative to it; of several, those in a folder or zip begin with its name. A single
    file is called as it was typed.

    Raises:
        BlastlensError: nothing was given, or something that does not exist.
    """
    if not sources:
        raise BlastlensError(f"There is nothing to score; {_WHAT_IS_ACCEPTED}.")
    found = [_one_given(os.fspath(source)) for source in sources]
    if len(found) == 1:
        return found
    taken: set[str] = set()
    return [Given(one.typed, one.path, one.pattern, _prefix(one, taken)) for one in found]


def _one_given(typed: str) -> Given:
    path = os.path.abspath(typed)
    if os.path.lexists(path):
        return Given(typed, path, None)
    parts = Path(path).parts
    wild = next((number for number, part in enumerate(parts) if _WILD & set(part)), None)
    if wild is None or not os.path.isdir(Path(*parts[:wild])):
        raise BlastlensError(f"{typed} does not exist; {_WHAT_IS_ACCEPTED}.")
    return Given(typed, str(Path(*parts[:wild])), parts[wild:])


def _prefix(one: Given, taken: set[str]) -> str:
    if not one.is_container:
        return ""
    path = Path(one.path)
    name = prefix = (path.name if path.is_dir() else path.stem) or "root"
    number = 1
    while prefix in taken:
        number += 1
        prefix = f"{name} ({number})"
    taken.add(prefix)
    return f"{prefix}/"


def walk(sources: Sequence[Given], scratch: Path) -> Iterator[Found]:
    """Every image of the sources, source by source and in each folder by name.

    Files that are no image by their name are passed over, and so are hidden ones; links are followed. A file that
    was given by itself is taken whatever its name is.

    Args:
        scratch: a folder for temporary files.

    Raises:
        BlastlensError: a pattern that nothing matches.
    """
    for one in sources:
        if one.pattern is not None:
            found = _in_folder(one, scratch)
            first = next(found, None)
            if first is None:
                raise BlastlensError(f"No image matches {one.typed}; {_WHAT_IS_ACCEPTED}.")
            yield first
            yield from found
        elif os.path.isdir(one.path):
            yield from _in_folder(one, scratch)
        elif is_zip(Path(one.path)):
            yield from _in_zip(one.path, one.prefix, _shown(one.typed))
        else:
            yield Found(_shown(one.typed), one.path)


def _shown(path: str) -> str:
    return printable(path.replace(os.sep, "/"))


@dataclass(frozen=True)
class _Level:
    """A folder on the way down: what is left of it, and whether all of it was asked for."""

    path: str
    within: tuple[str, ...]
    entries: Iterator[tuple[str, bool]]
    chosen: bool
    identity: tuple[int, int]


def _in_folder(one: Given, scratch: Path) -> Iterator[Found]:
    levels: list[_Level] = []

    def enter(path: str, within: tuple[str, ...], chosen: bool) -> Iterator[Found]:
        try:
            about = os.stat(path)
            identity = (about.st_dev, about.st_ino)
            # A link to a folder that it lies in would lead round and round; what is there is found without it.
            if all(identity != level.identity for level in levels):
                levels.append(_Level(path, within, _in_order(path, scratch), chosen, identity))
        except OSError as error:
            name = _shown(one.prefix + "/".join(within)) or _shown(one.typed)
            yield Found(name, path, error=f"{name} is a folder that cannot be read ({error.strerror}).")

    yield from enter(one.path, (), one.pattern is None)
    while levels:
        level = levels[-1]
        name, is_folder = next(level.entries, ("", False))
        if not name:
            levels.pop()
            continue
        path, within = os.path.join(level.path, name), (*level.within, name)
        matches = level.chosen or _matches(within, one.pattern or ())
        if is_folder:
            if matches or _may_match_below(within, one.pattern or ()):
                yield from enter(path, within, matches)
        elif matches:
            shown = _shown(one.prefix + "/".join(within))
            if is_image_name(name):
                yield Found(shown, path)
            elif not name.lower().endswith(".zip"):
                continue
            elif level.chosen:
                yield Found(
                    shown,
                    path,
                    error=f"{shown} is a zip inside a folder; give it by itself, or all as a pattern of *.zip.",
                )
            else:
                yield from _in_zip(path, f"{shown.removesuffix(name[-4:])}/", shown)


def _matches(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a path fits a pattern, in which ** stands for any number of folders."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[start:], pattern[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _may_match_below(parts: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether something in this folder could fit the pattern."""
    before = pattern[: pattern.index("**")] if "**" in pattern else pattern
    pairs = zip(parts, before, strict=False)
    return (len(parts) < len(pattern) or "**" in pattern) and all(fnmatch.fnmatchcase(*pair) for pair in pairs)


def _in_order(folder: str, scratch: Path) -> Iterator[tuple[str, bool]]:
    """Name and whether it is a folder of everything in a folder that is not hidden, by name."""
    with os.scandir(folder) as found:
        entries = ((entry.name, _is_folder(entry)) for entry in found if not is_junk(entry.name))
        names = sorted(islice(entries, NAMES_AT_ONCE))
        if len(names) < NAMES_AT_ONCE:
            return iter(names)
        runs = []
        while names:
            runs.append(_spilled(names, scratch))
            names = sorted(islice(entries, NAMES_AT_ONCE))
    return heapq.merge(*runs)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    with suppress(OSError):  # a link that leads nowhere
        return entry.is_dir()
    return False


def _spilled(names: Sequence[tuple[str, bool]], scratch: Path) -> Iterator[tuple[str, bool]]:
    """The same names, out of a file that has none of its own and so goes with this process."""
    with saying(scratch):  # a full disk is no fault of the folder whose names these are
        file = tempfile.TemporaryFile("w+", encoding="ascii", dir=scratch)  # noqa: SIM115  # closed when all is read
        file.writelines(f"{json.dumps(name)}\n" for name in names)
        file.seek(0)

    def read() -> Iterator[tuple[str, bool]]:
        with file:
            for line in file:
                name, is_folder = json.loads(line)
                yield name, is_folder

    return read()


def _in_zip(path: str, prefix: str, shown: str) -> Iterator[Found]:
    try:
        for entry in Zip(path).entries():
            name = printable(prefix + entry.name)
            error = None
            if any(is_junk(part) for part in PurePosixPath(entry.name).parts):
                continue
            if entry.leads_out:
                error = f"{name} has a name that leads out of {shown}; zip the folder anew."
            elif entry.name.lower().endswith(".zip"):
                error = f"{name} is a zip inside another one; unpack it, or give it by itself."
            elif not is_image_name(entry.name):
                continue
            yield Found(name, path, entry.place, error)
    except BlastlensError as error_of_all:
        yield Found(shown, path, error=str(error_of_all))
