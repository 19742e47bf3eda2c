"""Tables that state the subjects and labels of images, and subjects in file names."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, islice
from pathlib import PurePosixPath

from .errors import BlastlensError
from .images import printable
from .wording import count

MAX_TABLE_BYTES, MAX_TABLE_ROWS = 5_000_000, 200_000  # of all tables together

# C-NMC 2019 names; some files of subject H3 are spelled UID_h3_...
_UID = re.compile(r"UID_(?P<subject>H?[0-9]+)_", re.IGNORECASE)
_UID_SUBJECT = re.compile(r"H?[0-9]+", re.IGNORECASE)
# Usual titles of columns, the first that a table has; "new_names" is that of the C-NMC 2019 label table.
FILE_COLUMNS = ("file_name", "filename", "file", "image", "path", "image_id", "new_names")
SUBJECT_COLUMNS = ("subject", "subject_id", "patient", "patient_id", "donor", "case")
LABEL_COLUMNS = ("label", "labels", "class", "target")


def subject_name(text: str) -> str:
    """A subject's name in one spelling: "h3" and "UID_h3_1_1_hem.bmp" of C-NMC 2019 are "H3"; others stay."""
    if uid := _UID.match(text):
        text = uid["subject"]
    return text.upper() if _UID_SUBJECT.fullmatch(text) else text


def folder_subject(name: str) -> str | None:
    """The folder of an image, as its subject; None for an image in no folder."""
    folder = PurePosixPath(name).parent.as_posix()
    return None if folder == "." else folder


class SubjectTables:
    """The tables among the files: rows of file name (as written), subject and label ("" where empty)."""

    def __init__(self) -> None:
        self._tables: list[tuple[str, list[tuple[str, str, str]]]] = []
        self._bytes = self._rows = 0

    def add(self, name: str, read: Callable[[], bytes]) -> None:
        """Read a table; raises BlastlensError where it cannot be used."""
        if self._bytes <= MAX_TABLE_BYTES:  # else no further one is unpacked
            data = read()
            self._bytes += len(data)
        if self._bytes > MAX_TABLE_BYTES:
            size = f"{MAX_TABLE_BYTES // 1_000_000} MB"
            raise BlastlensError(f"{name} makes the tables larger than {size} together; give a shorter table.")
        rows = _table_rows(name, data)
        self._rows += len(rows)
        if self._rows > MAX_TABLE_ROWS:
            raise BlastlensError(
                f"{name} makes the tables longer than {MAX_TABLE_ROWS:,} rows together; give a shorter table."
            )
        self._tables.append((name, rows))

    def about(self, names: Sequence[str]) -> tuple[list[tuple[str | None, str | None]], list[str]]:
        """Subject and label of each image name, None where nothing states it; and notes on rows that were not used."""
        found: dict[str, tuple[set[str], set[str]]] = {name: (set(), set()) for name in names}
        notes = []
        index = _NameIndex(names)
        for table, rows in self._tables:
            missing = ambiguous = 0
            for file, subject, label in rows:
                meant = index.named_by(_parts(file), _parts(table)[:-1])
                missing += not meant
                ambiguous += len(meant) > 1
                if len(meant) == 1:
                    # One table may give the subjects and another the labels, so empty cells are ignored.
                    found[meant[0]][0].update({subject_name(subject)} - {""})
                    found[meant[0]][1].update({label} - {""})
            if missing:
                is_ = "is" if missing == 1 else "are"
                notes.append(f"{table} names {count(missing, 'file')} that {is_} not here.")
            if ambiguous:
                files = count(ambiguous, "file")
                notes.append(f"{table} names {files} of which there are several; write the folder before the name.")
        contradictory = [name for name, values in found.items() if max(map(len, values)) > 1]
        if contradictory:
            files = count(len(contradictory), "file")
            notes.append(
                f"Tables contradict each other about {files}, such as {contradictory[0]}; they were not used for these."
            )
        told = []
        for name in names:
            subjects, labels = found[name]
            if max(len(subjects), len(labels)) > 1:
                subjects = labels = set()
            elif not subjects and (uid := _UID.match(PurePosixPath(name).name)):
                subjects = {subject_name(uid["subject"])}
            told.append((_shown(subjects), _shown(labels)))
        return told, notes


def _shown(values: set[str]) -> str | None:
    return printable(next(iter(values), "")) or None


def _table_rows(name: str, data: bytes) -> list[tuple[str, str, str]]:
    try:
        text = data.decode("utf-8-sig")
        if name.lower().endswith(".jsonl"):
            text = _as_csv(text)
        first_line = text.partition("\n")[0]
        delimiter = ";" if first_line.count(";") > first_line.count(",") else ","
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header, *records = islice(reader, MAX_TABLE_ROWS + 2)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError, RecursionError, AttributeError, TypeError):
        raise BlastlensError(f"{name} cannot be read as a table; save it as CSV in UTF-8, or as JSON lines.") from None
    except ValueError:  # no header
        raise BlastlensError(f"{name} is an empty table.") from None
    columns = [title.strip().casefold() for title in header]
    places = [
        next((columns.index(title) for title in titles if title in columns), None)
        for titles in (FILE_COLUMNS, SUBJECT_COLUMNS, LABEL_COLUMNS)
    ]
    if places[0] is None or places[1:] == [None, None]:
        raise BlastlensError(
            f"{name} was not used: a table has a column file_name ({', '.join(FILE_COLUMNS[1:])}), and subject "
            f"({', '.join(SUBJECT_COLUMNS[1:])}) or label ({', '.join(LABEL_COLUMNS[1:])})."
        )
    cells = ([record[i].strip() if i is not None and i < len(record) else "" for i in places] for record in records)
    return [(file, subject, label) for file, subject, label in cells if file]


def _as_csv(text: str) -> str:
    """Lines of JSON objects as CSV; columns are the keys of all."""
    records = [json.loads(line) for line in text.splitlines() if line.strip()]
    file = io.StringIO()
    writer = csv.DictWriter(file, list(dict.fromkeys(key for record in records for key in record)))
    writer.writeheader()
    writer.writerows({key: "" if value is None else value for key, value in record.items()} for record in records)
    return file.getvalue()


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name, of which the last 50 are compared."""
    return PurePosixPath(name.replace("\\", "/").casefold()).parts[-50:] or ("",)


class _NameIndex:
    """Names of sources by the ways a table may write them, so that each row takes one lookup."""

    def __init__(self, names: Iterable[str]) -> None:
        self._whole: dict[tuple[str, ...], list[str]] = {}
        self._ends: dict[tuple[str, ...], list[str]] = {}
        self._ids: dict[tuple[str, ...], list[str]] = {}
        for name in names:
            parts = _parts(name)
            self._whole.setdefault(parts, []).append(name)
            for start in range(len(parts)):
                self._ends.setdefault(parts[start:], []).append(name)
            without_ending = (*parts[:-1], PurePosixPath(parts[-1]).stem)  # as a column image_id has it
            for start in range(len(parts) if without_ending != parts else 0):
                self._ids.setdefault(without_ending[start:], []).append(name)

    def named_by(self, row: tuple[str, ...], folder: tuple[str, ...]) -> list[str]:
        """At most two sources that a row can mean: the one beside the table, or else those whose folders agree."""
        beside = self._whole.get(folder + row)
        if beside:
            return beside[:2]
        # A row may state fewer folders than there are, or more.
        longer = (name for start in range(1, len(row)) for name in self._whole.get(row[start:], ()))
        return list(islice(chain(self._ends.get(row, ()), longer), 2)) or self._ids.get(row, [])[:2]
