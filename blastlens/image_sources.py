"""Find the images in files, folders and zips that users give to the page, and their subjects.

What a page can show and keep in memory: thousands. `blastlens.batch_scoring` walks through millions. `blastlens.files`
reads their bytes.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice
from pathlib import Path, PurePosixPath

from .errors import BlastlensError
from .files import IMAGE_SUFFIXES, Entry, Zip, is_junk, is_zip, printable, read_file
from .images import ACCEPTED
from .wording import count

MAX_IMAGES = 5_000
# How long one run over many images may keep others waiting. 5,000 ordinary images take about a minute; 5,000 of 50
# megapixels, which fit into a zip of 1 MB, would take most of an hour.
LONGEST_RUN_S = 600
# Files of any kind in one folder or zip; a Mac adds a second one to each image.
MAX_ENTRIES = 4 * MAX_IMAGES
MAX_TOTAL_BYTES = 4_000_000_000
# Of all tables together: each row costs a look, and a kilobyte of zip holds a hundred thousand.
MAX_TABLE_BYTES, MAX_TABLE_ROWS = 5_000_000, 200_000
# All names of a zip are kept; its table of contents is room for 4 * 5,000 long ones.
MAX_CONTENTS_BYTES = 8 * 1024 * 1024

# C-NMC 2019 names; some files of subject H3 are spelled UID_h3_...
_UID = re.compile(r"UID_(?P<subject>H?[0-9]+)_", re.IGNORECASE)
_UID_SUBJECT = re.compile(r"H?[0-9]+", re.IGNORECASE)
_FILE_COLUMNS, _SUBJECT_COLUMNS, _LABEL_COLUMNS = ("file_name", "file"), ("subject", "patient"), ("label",)
_NOT_AN_IMAGE = f"is not an image; {ACCEPTED} files are accepted, alone or in a zip."


@dataclass(frozen=True)
class Source:
    """One image that can be read when its turn comes; `Classifier` takes it as it is, as a binary file.

    Attributes:
        name: what people know it by, "/" between folders; no two of one listing are the same.
        read: returns its bytes; raises BlastlensError.
        subject: the patient or donor, None where nothing says so.
        label: as a table gave it, in its own spelling; None without one.
    """

    name: str
    read: Callable[[], bytes]
    subject: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Sources:
    """What was found: images in natural order, files that cannot be one, and remarks on the whole.

    Attributes:
        sources: `image 2.png` before `image 10.png`.
        refused: name and one sentence each.
        notes: one sentence each.
    """

    sources: tuple[Source, ...]
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


def list_sources(paths: Sequence[str | os.PathLike[str]]) -> Sources:
    """List the images in files, folders and zips.

    Names are relative to the folder or zip; where several are given, each one's name comes first. A CSV table
    (commas or semicolons, UTF-8) among the files with the columns `file_name` or `file`, and `subject` or
    `patient` or `label`, says whose an image is; otherwise a name such as UID_H3_1_2_hem.bmp does. Files that
    systems add by themselves (.DS_Store, __MACOSX, Thumbs.db) are passed over.

    Raises:
        BlastlensError: over 5,000 images.
    """
    found = _Found()
    given = [Path(path) for path in paths]
    several = sum(_is_container(path) for path in given) > 1
    for path in given:
        try:
            name = path.name if path.is_dir() else path.stem
            found.add_path(path, f"{name}/" if several and _is_container(path) else "")
        except BlastlensError as error:
            found.refused.append((path.name, str(error)))
    if len(found.sources) > MAX_IMAGES:
        raise BlastlensError(
            f"There are {len(found.sources):,} images; at most {MAX_IMAGES:,} are accepted at a time, so give them "
            "in parts."
        )
    found.sources.sort(key=lambda source: natural(source.name))
    sources, notes = _with_subjects(_with_own_names(found.sources), found.tables)
    return Sources(tuple(sources), tuple(sorted(found.refused, key=lambda one: natural(one[0]))), tuple(notes))


def natural(name: str) -> tuple[list[tuple[int, int, str]], str]:
    """Sort key in which numbers count as numbers: `image 2` comes before `image 10`."""
    parts = [part for part in re.split(r"([0-9]+)", name.casefold()) if part]
    return [_natural_part(part) for part in parts], name


def _natural_part(part: str) -> tuple[int, int, str]:
    if not "0" <= part[0] <= "9":
        return 1, 0, part
    # Of two numbers without leading zeros the longer one is larger; int() refuses those of over 4,300 digits.
    digits = part.lstrip("0")
    return 0, len(digits), digits


class _Budget:
    """How many bytes may come out of all zips together. Reading one entry again counts once."""

    def __init__(self) -> None:
        self._taken: dict[tuple[int, int], int] = {}
        self._total = 0

    def take(self, entry: tuple[int, int], size: int, name: str) -> None:
        """Note that `size` bytes of an entry have been read so far."""
        before = self._taken.get(entry, 0)
        if size > before:
            self._total += size - before
            self._taken[entry] = size
        if self._total > MAX_TOTAL_BYTES:
            raise BlastlensError(
                f"{name} was left out, since all images together are over {MAX_TOTAL_BYTES // 10**9} GB when "
                "unpacked; give them in parts."
            )


@dataclass(frozen=True)
class _Table:
    """A table of subjects: rows of file name (as written), subject and label ("" where empty)."""

    name: str
    rows: tuple[tuple[str, str, str], ...]

    @classmethod
    def parse(cls, name: str, data: bytes) -> "_Table":
        try:
            text = data.decode("utf-8-sig")
            first_line = text.partition("\n")[0]
            delimiter = ";" if first_line.count(";") > first_line.count(",") else ","
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            header, *records = islice(reader, MAX_TABLE_ROWS + 2)
        except (UnicodeDecodeError, csv.Error):
            raise BlastlensError(f"{name} cannot be read as a table; save it as CSV in UTF-8.") from None
        except ValueError:  # nothing to take a header from
            raise BlastlensError(f"{name} is an empty table.") from None
        columns = [title.strip().casefold() for title in header]
        file, subject, label = (
            next((columns.index(title) for title in titles if title in columns), None)
            for titles in (_FILE_COLUMNS, _SUBJECT_COLUMNS, _LABEL_COLUMNS)
        )
        if file is None or (subject is None and label is None):
            raise BlastlensError(
                f"{name} was not used: a table of subjects has the columns file_name, subject and, if you like, label."
            )

        def cell(record: Sequence[str], column: int | None) -> str:
            return record[column].strip() if column is not None and column < len(record) else ""

        rows = ((cell(record, file), cell(record, subject), cell(record, label)) for record in records)
        return cls(name, tuple(row for row in rows if row[0]))


@dataclass
class _Found:
    """What has come together so far."""

    sources: list[Source] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)
    tables: list[_Table] = field(default_factory=list)
    table_bytes: int = 0
    table_rows: int = 0
    budget: _Budget = field(default_factory=_Budget)

    def add_path(self, path: Path, prefix: str) -> None:
        if path.is_dir():
            for file in _files_under(path):
                self.add(prefix + file.relative_to(path).as_posix(), _file_reader(file), file.is_symlink())
        elif is_zip(path):
            self._add_zip(path, prefix)
        else:
            # Whatever was picked by hand is tried, so that the image reader says what is wrong with it.
            self.add(path.name, _file_reader(path), any_suffix=True)

    def add(self, name: str, read: Callable[[], bytes], is_link: bool = False, any_suffix: bool = False) -> None:
        """Sort one file into images, tables and the rest; `name` is shown, so it must be printable."""
        name = printable(name)
        pure = PurePosixPath(name)
        suffix = pure.suffix.lower()
        if any(is_junk(part) for part in pure.parts):
            return
        if is_link:
            self.refused.append((name, f"{name} is a link to another file; give the file itself."))
        elif suffix == ".csv":
            self._add_table(name, read)
        elif suffix == ".zip":
            self.refused.append((name, f"{name} is a zip inside another one; unpack it, or give it by itself."))
        elif suffix in IMAGE_SUFFIXES or any_suffix:
            self.sources.append(Source(name, read))
        else:
            self.refused.append((name, f"{name} {_NOT_AN_IMAGE}"))

    def _add_table(self, name: str, read: Callable[[], bytes]) -> None:
        try:
            if self.table_bytes <= MAX_TABLE_BYTES:  # else not even one more is unpacked
                data = read()
                self.table_bytes += len(data)
            if self.table_bytes > MAX_TABLE_BYTES:
                size = f"{MAX_TABLE_BYTES // 1_000_000} MB"
                raise BlastlensError(f"{name} makes the tables larger than {size} together; give a shorter table.")
            table = _Table.parse(name, data)
            self.table_rows += len(table.rows)
            if self.table_rows > MAX_TABLE_ROWS:
                raise BlastlensError(
                    f"{name} makes the tables longer than {MAX_TABLE_ROWS:,} rows together; give a shorter table."
                )
            self.tables.append(table)
        except BlastlensError as error:
            self.refused.append((name, str(error)))

    def _add_zip(self, path: Path, prefix: str) -> None:
        archive = Zip(path)
        seen = set()
        for entry in _entries(archive):
            shown = printable(prefix + entry.name)
            if entry.leads_out:
                self.refused.append((shown, f"{shown} has a name that leads out of {path.name}; zip the folder anew."))
            elif entry.name in seen:
                self.refused.append((shown, f"{shown} is in {path.name} more than once; the first one is used."))
            else:
                seen.add(entry.name)
                self.add(prefix + entry.name, _entry_reader(archive, entry, shown, self.budget))


def _is_container(path: Path) -> bool:
    return path.is_dir() or is_zip(path)


def _files_under(folder: Path) -> Iterator[Path]:
    seen = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            seen += 1
            if seen > MAX_ENTRIES:
                raise BlastlensError(f"{folder.name} holds more than {MAX_ENTRIES:,} files; give it in parts.")
            yield Path(parent, name)


def _file_reader(path: Path) -> Callable[[], bytes]:
    return lambda: read_file(path)


def _entries(archive: Zip) -> list[Entry]:
    too_many = BlastlensError(f"{archive.name} holds more than {MAX_ENTRIES:,} files; give it in parts.")
    if archive.table_bytes > MAX_CONTENTS_BYTES:
        raise too_many
    entries = list(islice(archive.entries(), MAX_ENTRIES + 1))
    if len(entries) > MAX_ENTRIES:
        raise too_many
    return entries


def _entry_reader(archive: Zip, entry: Entry, name: str, budget: _Budget) -> Callable[[], bytes]:
    def took(size: int) -> None:
        budget.take((id(archive), entry.place), size, name)

    return lambda: archive.read(entry.place, name, took)


# Whose an image is -----------------------------------------------------------------------------------------------


def _with_own_names(sources: Iterable[Source]) -> list[Source]:
    """Give every source a name of its own: two uploads called cell.png become `cell.png` and `cell (2).png`."""
    given: dict[str, int] = {}
    taken: set[str] = set()
    named = []
    for source in sources:
        name, pure = source.name, PurePosixPath(source.name)
        number = given.get(source.name, 1)
        while name in taken:
            number += 1
            name = str(pure.with_name(f"{pure.stem} ({number}){pure.suffix}"))
        given[source.name] = number
        taken.add(name)
        named.append(replace(source, name=name))
    return named


def _with_subjects(sources: Sequence[Source], tables: Iterable[_Table]) -> tuple[list[Source], list[str]]:
    subjects: dict[str, set[str]] = {}
    labels: dict[str, set[str]] = {}
    notes = []
    index = _Index(source.name for source in sources)
    for table in tables:
        folder = _parts(table.name)[:-1]
        missing = ambiguous = 0
        for file, subject, label in table.rows:
            names = index.named_by(_parts(file), folder)
            missing += not names
            ambiguous += len(names) > 1
            if len(names) == 1:
                # An empty cell says nothing, so that one table may give the subjects and another the labels.
                subjects.setdefault(names[0], set()).update({subject_name(subject)} - {""})
                labels.setdefault(names[0], set()).update({label} - {""})
        if missing:
            notes.append(
                f"{table.name} names {count(missing, 'file')} that {'is' if missing == 1 else 'are'} not here."
            )
        if ambiguous:
            notes.append(
                f"{table.name} names {count(ambiguous, 'file')} of which there are several; write the folder before "
                "the name."
            )
    contradictory = [name for name in subjects if len(subjects[name]) > 1 or len(labels[name]) > 1]
    if contradictory:
        notes.append(
            f"Tables say different things about {count(len(contradictory), 'file')}, such as {contradictory[0]}; for "
            "these they were not used."
        )
        for name in contradictory:
            subjects[name] = labels[name] = set()
    out = []
    for source in sources:
        subject = next(iter(subjects.get(source.name, ())), "")
        if not subject and source.name not in contradictory:
            uid = _UID.match(PurePosixPath(source.name).name)
            subject = subject_name(uid["subject"]) if uid else ""
        label = next(iter(labels.get(source.name, ())), "")
        out.append(replace(source, subject=printable(subject) or None, label=printable(label) or None))
    return out, notes


def subject_name(text: str) -> str:
    """A subject's name in one spelling: "h3" of C-NMC 2019 is "H3"; any other name stays as it is."""
    return text.upper() if _UID_SUBJECT.fullmatch(text) else text


# Deeper folders than this are told apart by no table.
_DEPTH = 50


def _parts(name: str) -> tuple[str, ...]:
    return PurePosixPath(name.replace("\\", "/").casefold()).parts[-_DEPTH:] or ("",)


class _Index:
    """Names of sources by the ways in which a table may write them, so that a large table costs one look a row."""

    def __init__(self, names: Iterable[str]) -> None:
        self._whole: dict[tuple[str, ...], list[str]] = {}
        self._ends: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            parts = _parts(name)
            self._whole.setdefault(parts, []).append(name)
            for start in range(len(parts)):
                self._ends.setdefault(parts[start:], []).append(name)

    def named_by(self, row: tuple[str, ...], folder: tuple[str, ...]) -> list[str]:
        """The sources a row can mean: the one beside the table, or else those whose folders do not contradict.

        Of several no more than two are listed.
        """
        beside = self._whole.get(folder + row)
        if beside:
            return beside[:2]
        # A row may say less of a path than there is, or more.
        longer = (name for start in range(1, len(row)) for name in self._whole.get(row[start:], ()))
        return list(islice(chain(self._ends.get(row, ()), longer), 2))
