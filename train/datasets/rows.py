"""The rows of a prepared dataset's metadata.csv: read, checked, hashed. Nothing here opens an image."""

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path, PurePosixPath

import numpy as np

from blastlens.dataset_info import DATASETS
from blastlens.errors import BlastlensError
from train.datasets.groups import SAME_PERSON, link_subjects

METADATA = "metadata.csv"
HASH_PREFIX = "sha256_of_original_"  # ..._bmp or ..._jpeg: the published file, before crop and resize
COLUMNS = ("file_name", "label", "subject", "group", "fold")
LABEL_SETS = tuple(info.labels for info in DATASETS.values())
_CANONICAL = {name.lower(): name for names in LABEL_SETS for name in names}


@dataclass(frozen=True)
class Row:
    """One image of a prepared dataset.

    `file_name` is relative to the dataset's folder; `label` is a name from `LABEL_SETS`, or "" where none was
    published; `subject` and `fold` are "" where the publication has none; `group` is what a split may never
    cut ("" only without a label); `sha256` is the original file's; `duplicate_of` is the file name of the
    first byte-identical copy, or "".
    """

    file_name: str
    label: str
    subject: str
    group: str
    fold: str
    sha256: str
    duplicate_of: str = ""


def load_rows(folder: str | Path, same_person: bool = True) -> list[Row]:
    """Read and check `folder`/metadata.csv; rows come sorted by file name.

    Groups of subjects known to be one person (`groups.SAME_PERSON`) are joined, unless `same_person` is False:
    then they are as metadata.csv has them. Column `duplicate_of` may be absent. Raises BlastlensError, naming the
    file and the line, where a column is missing, a value is not understood, a file is listed twice or does not
    exist.
    """
    path = Path(folder) / METADATA
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            header = list(table.fieldnames or [])
            records = list(table)
    except FileNotFoundError:
        raise BlastlensError(
            f"{path} does not exist; a prepared dataset is written by `python -m train.datasets prepare`."
        ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BlastlensError(f"{path} cannot be read as a CSV table ({error}).") from None
    hashes = [name for name in header if name.startswith(HASH_PREFIX)]
    missing = [name for name in COLUMNS if name not in header]
    if missing or len(hashes) != 1:
        wanted = ", ".join((*COLUMNS, HASH_PREFIX + "..."))
        raise BlastlensError(f"{path} has the columns {', '.join(header) or '(none)'}; it needs {wanted}.")
    if not records:
        raise BlastlensError(f"{path} lists no image.")
    rows = []
    for line, record in enumerate(records, start=2):
        if None in record or None in record.values():
            raise BlastlensError(f"{path}, line {line}: not as many values as the {len(header)} columns.")
        rows.append(_row(record, hashes[0], f"{path}, line {line}"))
    rows.sort(key=lambda row: row.file_name)
    for row, following in pairwise(rows):
        if row.file_name == following.file_name:
            raise BlastlensError(f"{path} lists {row.file_name} twice.")
    for row in rows:
        if not (path.parent / row.file_name).is_file():
            raise BlastlensError(f"{path} lists {row.file_name}, which does not exist in {path.parent}.")
    return _with_groups_joined(rows) if same_person else rows


def _with_groups_joined(rows: Sequence[Row]) -> list[Row]:
    group_of = {row.subject: row.group for row in rows if row.subject}
    same = [(group_of[a], group_of[b]) for a, b in SAME_PERSON if a in group_of and b in group_of]
    groups = link_subjects([row.group for row in rows], [row.sha256 for row in rows], same)
    return [replace(row, group=group) for row, group in zip(rows, groups, strict=True)]


def _row(record: dict[str, str], hash_column: str, where: str) -> Row:
    name, label = record["file_name"], record["label"]
    if not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise BlastlensError(f"{where}: file_name {name!r} is not a path inside the dataset.")
    if label and label.lower() not in _CANONICAL:
        raise BlastlensError(f"{where}: label {label!r} is none of {', '.join(_CANONICAL.values())}.")
    if label and not record["group"]:
        raise BlastlensError(f"{where}: the group of {name} is empty, so no split could keep it whole.")
    if not re.fullmatch(r"[0-9a-f]{64}", record[hash_column]):
        raise BlastlensError(f"{where}: {hash_column} {record[hash_column]!r} is not 64 hexadecimal digits.")
    return Row(
        file_name=name,
        label=_CANONICAL.get(label.lower(), ""),
        subject=record["subject"],
        group=record["group"],
        fold=record["fold"],
        sha256=record[hash_column],
        duplicate_of=record.get("duplicate_of", ""),
    )


def labels_of(rows: Sequence[Row]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the data set's class names in canonical order, and each row's class index, int64 (N,).

    The names are those of the whole data set, also where `rows` hold only some of the classes. Raises
    BlastlensError where a row has no label or the labels of two data sets are mixed.
    """
    unlabelled = next((row.file_name for row in rows if not row.label), None)
    if unlabelled is not None:
        raise BlastlensError(
            f"{unlabelled} has no label, which a split needs: the final C-NMC set was published without "
            "labels and can only be predicted on."
        )
    found = {row.label for row in rows}
    for names in LABEL_SETS:
        if found and found <= set(names):
            return names, np.array([names.index(row.label) for row in rows], dtype=np.int64)
    raise BlastlensError(f"The labels {sorted(found)} are not those of one data set: {LABEL_SETS}.")


def dataset_hash(rows: Sequence[Row]) -> str:
    """Return a SHA-256, in hexadecimal, of the original files' hashes and labels, in whatever order."""
    lines = sorted(f"{row.sha256} {row.label}\n" for row in rows)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
