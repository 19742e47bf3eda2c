"""The rows of a prepared dataset's metadata.csv: read, checked, hashed. Nothing here opens an image."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from blastlens.dataset_info import DATASETS
from blastlens.errors import BlastlensError
from train.datasets.groups import SAME_PERSON, link_subjects

METADATA = "metadata.csv"
RECORD = "prepare.json"
FOLDER = "folder"  # the layout of own images, whose labels are any
HASH_PREFIX = "sha256_of_original_"  # ..._bmp or ..._jpeg: the published file, before crop and resize
COLUMNS = ("file_name", "label", "subject", "group", "fold")
LABEL_SETS = tuple(info.labels for info in DATASETS.values())
_CANONICAL = {name.lower(): name for names in LABEL_SETS for name in names}


@dataclass(frozen=True)
class Row:
    """One image of a prepared dataset.

    `file_name` is relative to the dataset's folder; `label` is one of `LABEL_SETS`, or any if `own`; `subject` and
    `fold` are "" where none was published; `group` is what a split may never cut; `sha256` is the original file's;
    `duplicate_of` is the file name of the first byte-identical copy, or ""; `own` images are those of the layout
    `FOLDER`.
    """

    file_name: str
    label: str
    subject: str
    group: str
    fold: str
    sha256: str
    duplicate_of: str = ""
    own: bool = False


def own_dataset(folder: str | Path) -> dict[str, Any] | None:
    """The prepare.json of a user's own images; None for another data set."""
    try:
        record = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BlastlensError(f"{Path(folder) / RECORD} cannot be read ({error}); prepare the dataset again.") from None
    return record if record.get("layout") == FOLDER else None


def load_rows(folder: str | Path, same_person: bool = True) -> list[Row]:
    """Read and check `folder`/metadata.csv; rows come sorted by file name.

    Groups of subjects known to be one donor (`groups.SAME_PERSON`) are joined, unless `same_person` is False.

    Raises:
        BlastlensError: names the file and the line where a column is missing, a value is not understood, a file is
            listed twice or does not exist.
    """
    path = Path(folder) / METADATA
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            header, records = list(table.fieldnames or []), list(table)
    except FileNotFoundError:
        raise BlastlensError(
            f"{path} does not exist; a prepared dataset is written by `python -m train.datasets prepare`."
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BlastlensError(f"{path} cannot be read as a CSV table ({error}).") from None
    hashes = [name for name in header if name.startswith(HASH_PREFIX)]
    if not set(COLUMNS) <= set(header) or len(hashes) != 1:
        wanted = ", ".join((*COLUMNS, HASH_PREFIX + "..."))
        raise BlastlensError(f"{path} has the columns {', '.join(header) or '(none)'}; it needs {wanted}.")
    if not records:
        raise BlastlensError(f"{path} lists no image.")
    own = own_dataset(folder) is not None
    rows: dict[str, Row] = {}
    for line, record in enumerate(records, start=2):
        try:
            if None in record or None in record.values():
                raise ValueError(f"not as many values as the {len(header)} columns")
            row = _row(record, hashes[0], own)
            if row.file_name in rows:
                raise ValueError(f"lists {row.file_name} twice")
            if not (path.parent / row.file_name).is_file():
                raise ValueError(f"lists {row.file_name}, which does not exist in {path.parent}")
        except ValueError as error:
            raise BlastlensError(f"{path}, line {line}: {error}.") from None
        rows[row.file_name] = row
    found = [rows[name] for name in sorted(rows)]
    return _with_groups_joined(found) if same_person and not own else found


def _with_groups_joined(rows: Sequence[Row]) -> list[Row]:
    group_of = {row.subject: row.group for row in rows if row.subject}
    same = [(group_of[a], group_of[b]) for a, b in SAME_PERSON if a in group_of and b in group_of]
    groups = link_subjects([row.group for row in rows], [row.sha256 for row in rows], same)
    return [replace(row, group=group) for row, group in zip(rows, groups, strict=True)]


def _row(record: dict[str, str], hash_column: str, own: bool) -> Row:
    """Check a line of the table; raises ValueError."""
    name, label, sha256 = record["file_name"], record["label"], record[hash_column]
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise ValueError(f"file_name {name!r} is not a path inside the dataset")
    if not label or not record["group"]:
        raise ValueError(f"label or group of {name} is empty")
    if not own and label.lower() not in _CANONICAL:
        raise ValueError(f"label {label!r} is none of {', '.join(_CANONICAL.values())}")
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ValueError(f"{hash_column} {sha256!r} is not 64 hexadecimal digits")
    rest = (record["subject"], record["group"], record["fold"], sha256, record.get("duplicate_of", ""))
    return Row(name, label if own else _CANONICAL[label.lower()], *rest, own)


def labels_of(rows: Sequence[Row]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names of the whole data set in canonical order (sorted for own images), and each row's class
    index, int64 (N,).

    Raises BlastlensError where the labels of two data sets are mixed.
    """
    found = {row.label for row in rows}
    for names in (tuple(sorted(found)),) if rows and rows[0].own else LABEL_SETS:
        if found and found <= set(names):
            return names, np.array([names.index(row.label) for row in rows], dtype=np.int64)
    raise BlastlensError(f"The labels {sorted(found)} are not those of one data set: {LABEL_SETS}.")


def level_of(protocol: str, rows: Sequence[Row]) -> str:
    """ "group" if a protocol keeps groups whole, else "image". The groups of own images without subjects are images."""
    by_image = all(row.own and not row.subject for row in rows)
    return "group" if protocol.startswith("group") and not by_image else "image"


def dataset_hash(rows: Sequence[Row]) -> str:
    """Return a SHA-256, in hexadecimal, of the original files' hashes and labels, in whatever order."""
    lines = sorted(f"{row.sha256} {row.label}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
