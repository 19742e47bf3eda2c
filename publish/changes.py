"""What an upload would change: the files here held against those in a repository. Pure; no network."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# The Hub writes it when a repository is made, and needs it to tell large files from small ones.
KEPT = (".gitattributes",)
MANY = 20  # changes, from which on they are shown by folder


@dataclass(frozen=True)
class File:
    """One file to publish.

    Attributes:
        path: in the repository, "/" between folders.
        content: where it lies, or its bytes.
    """

    path: str
    content: Path | bytes

    @property
    def size(self) -> int:
        """In bytes."""
        return len(self.content) if isinstance(self.content, bytes) else self.content.stat().st_size

    @cached_property
    def sha256(self) -> str:
        """What names a large file on the Hub."""
        return hashlib.sha256(self.read()).hexdigest()

    @cached_property
    def blob_id(self) -> str:
        """What names a small file: git's sha1 of a blob."""
        return hashlib.sha1(b"blob %d\0" % self.size + self.read(), usedforsecurity=False).hexdigest()

    def read(self) -> bytes:
        return self.content if isinstance(self.content, bytes) else self.content.read_bytes()


@dataclass(frozen=True)
class Remote:
    """One file as the Hub lists it; `sha256` only where it is kept as a large file."""

    blob_id: str
    sha256: str | None = None

    def is_same(self, file: File) -> bool:
        """Byte for byte."""
        return self.sha256 == file.sha256 if self.sha256 else self.blob_id == file.blob_id


@dataclass(frozen=True)
class Changes:
    """What makes a repository hold exactly the files here, and nothing else but KEPT."""

    added: tuple[File, ...]
    changed: tuple[File, ...]
    deleted: tuple[str, ...]
    same: tuple[File, ...]

    @classmethod
    def between(cls, files: Sequence[File], there: Mapping[str, Remote]) -> "Changes":
        """Of the files here to those `there`, by path."""
        here = {file.path for file in files}
        known = [file for file in files if file.path in there]
        return cls(
            added=tuple(file for file in files if file.path not in there),
            changed=tuple(file for file in known if not there[file.path].is_same(file)),
            deleted=tuple(sorted(path for path in there if path not in here and path not in KEPT)),
            same=tuple(file for file in known if there[file.path].is_same(file)),
        )

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.deleted)

    @property
    def uploads(self) -> tuple[File, ...]:
        return self.added + self.changed

    def lines(self) -> Iterator[str]:
        """One per file that changes: + new, ~ changed, - deleted; where they are many, one per folder and kind."""
        marked = [("+", file.path, file.size) for file in self.added]
        marked += [("~", file.path, file.size) for file in self.changed]
        marked += [("-", path, 0) for path in self.deleted]
        if len(marked) > MANY:
            folders: dict[tuple[str, str], list[int]] = {}
            for mark, path, size in marked:
                top, inside, _ = path.partition("/")
                folders.setdefault((mark, top + inside), []).append(size)
            marked = [
                (mark, f"{top} ({len(sizes)} files)" if top.endswith("/") else top, sum(sizes))
                for (mark, top), sizes in folders.items()
            ]
        for mark, path, size in sorted(marked, key=lambda row: row[1]):
            yield f"  {mark} {printable(path)}" + ("" if mark == "-" else f"  {readable(size)}")
        if self.same:
            yield f"  = {len(self.same)} unchanged"


def printable(text: str) -> str:
    """Text without what could steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def readable(size: int) -> str:
    """A number of bytes for people: "683 B", "12.9 MB"."""
    if size < 1000:
        return f"{size} B"
    if size < 1e6:
        return f"{size / 1e3:.0f} kB"
    return f"{size / 1e6:.1f} MB"
