"""What a reader of a published layout returns: the images of the set, and what became of the other files."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """One published image. `name` is its file name in the prepared dataset, without extension; `label`,
    `subject` and `fold` are as in metadata.csv, "" where the publication has none.
    """

    path: Path
    name: str
    label: str = ""
    subject: str = ""
    fold: str = ""


@dataclass(frozen=True)
class Refused:
    """A file that looks like an image of the set and cannot be used, and why."""

    path: Path
    why: str


@dataclass(frozen=True)
class Listing:
    """Every file under a published folder, in exactly one place, and what should have been there.

    `aside` are files of another part of the same publication, which this reader is not meant to take;
    `tables` were read for labels; `missing` are images that a table lists and that do not exist.
    """

    sources: tuple[Source, ...]
    refused: tuple[Refused, ...] = ()
    aside: tuple[Path, ...] = ()
    not_recognised: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    missing: tuple[Path, ...] = ()


def files_under(folder: Path) -> list[Path]:
    """Every file under `folder`, resolved and sorted."""
    return sorted(path for path in folder.resolve().rglob("*") if path.is_file())


def without_name_clashes(sources: Iterable[Source]) -> tuple[list[Source], list[Refused]]:
    """Keep the first source of each name: two copies of the published tree must not overwrite each other."""
    kept: dict[str, Source] = {}
    refused = []
    for source in sources:
        first = kept.setdefault(source.name, source)
        if first is not source:
            refused.append(Refused(source.path, f"has the same name as {first.path}, which is used"))
    return list(kept.values()), refused
