"""Readers of C-NMC 2019 as published: the training folds, the preliminary and the final test set.

    fold_0..2/{all,hem}/UID_<subject>_<image>_<cell>_<label>.bmp        at any depth
    C-NMC_test_prelim_phase_data/<n>.bmp and C-NMC_test_prelim_phase_data_labels.csv
    C-NMC_test_final_phase_data/<n>.bmp                                  labels never published

Gupta, A., & Gupta, R. (2019), ALL Challenge dataset of ISBI 2019, The Cancer Imaging Archive,
doi 10.7937/tcia.2019.dc64i46r.
"""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blastlens.errors import BlastlensError
from train.datasets.sources import Listing, Refused, Source, files_under, without_name_clashes

PRELIMINARY = "C-NMC_test_prelim_phase_data"
FINAL = "C-NMC_test_final_phase_data"
LABEL_TABLE = f"{PRELIMINARY}_labels.csv"
_TABLE_COLUMNS = ("Patient_ID", "new_names", "labels")
_TABLE_LABELS = {"1": "all", "0": "hem"}
# Some files of subject H3 are spelled UID_h3_...: a case-sensitive pattern drops them or makes a new donor.
_UID = re.compile(r"UID_(?P<subject>H?\d+)_\d+_\d+_(?P<label>all|hem)", re.IGNORECASE)


def read_training(folder: Path) -> Listing:
    """The training folds anywhere under `folder`; subjects are upper case, labels "all" or "hem"."""
    return _read(folder, "training", _training_source)


def read_preliminary(folder: Path) -> Listing:
    """The preliminary test set, labelled by its table (labels: 1 is all, 0 is hem).

    An image without a row is refused, a row without an image is missing, each by name. Raises
    BlastlensError where there is not exactly one table under or beside `folder`, or it cannot be read.
    """
    path = _find_table(folder)
    table = _read_table(path)
    listing = _read(folder, "preliminary", lambda image: _preliminary_source(image, table, path.name))
    present = {image.name.lower() for image in files_under(folder) if _part_of(image) == "preliminary"}
    return replace(
        listing,
        not_recognised=tuple(other for other in listing.not_recognised if other != path),
        tables=(path,),
        missing=tuple(Path(row["new_names"]) for name, row in table.items() if name not in present),
    )


def read_final(folder: Path) -> Listing:
    """The final test set: neither labels nor subjects."""
    return _read(folder, "final", lambda image: Source(image, image.stem))


def _read(folder: Path, part: str, source_of: Callable[[Path], Source | str]) -> Listing:
    """Sort every file under `folder`; `source_of` returns an image's source, or why it is refused."""
    sources, refused, aside, unknown = [], [], [], []
    for path in files_under(folder):
        found = _part_of(path)
        if found is None:
            unknown.append(path)
        elif found != part:
            aside.append(path)
        elif isinstance(outcome := source_of(path), Source):
            sources.append(outcome)
        else:
            refused.append(Refused(path, outcome))
    sources, clashes = without_name_clashes(sources)
    return Listing(tuple(sources), (*refused, *clashes), tuple(aside), tuple(unknown))


def _part_of(path: Path) -> str | None:
    """The part of the publication that a file belongs to by its folder's name; None for anything else."""
    if path.suffix.lower() != ".bmp":
        return None
    parent, grandparent = path.parent.name.lower(), path.parent.parent.name.lower()
    if parent in ("all", "hem") and re.fullmatch(r"fold_\d", grandparent):
        return "training"
    return {PRELIMINARY.lower(): "preliminary", FINAL.lower(): "final"}.get(parent)


def _training_source(path: Path) -> Source | str:
    label, fold = path.parent.name.lower(), path.parent.parent.name.lower()
    uid = _UID.fullmatch(path.stem)
    if uid is None:
        return "its name is not UID_<subject>_<image>_<cell>_<all or hem>.bmp"
    if uid["label"].lower() != label:
        return f"its name says {uid['label'].lower()} and its folder {label}"
    return Source(path, f"{fold}/{label}/{path.stem}", label, uid["subject"].upper(), fold)


def _preliminary_source(path: Path, table: dict[str, dict[str, str]], table_name: str) -> Source | str:
    row = table.get(path.name.lower())
    if row is None:
        return f"has no row in {table_name}"
    label = _TABLE_LABELS.get(row["labels"].strip())
    if label is None:
        return f"its label in {table_name} is {row['labels']!r}, neither 1 nor 0"
    # Patient_ID holds the image's name before the organisers renumbered it, such as UID_57_29_1_all.bmp.
    uid = _UID.fullmatch(row["Patient_ID"].strip().removesuffix(".bmp"))
    if uid is None:
        return f"its Patient_ID in {table_name} is {row['Patient_ID']!r}, not UID_<subject>_..."
    if uid["label"].lower() != label:
        return f"its Patient_ID in {table_name} says {uid['label'].lower()} and its label {label}"
    return Source(path, path.stem, label, uid["subject"].upper())


def _find_table(folder: Path) -> Path:
    folder = folder.resolve()
    under = [path for path in files_under(folder) if path.name.lower() == LABEL_TABLE.lower()]
    beside = folder.parent / LABEL_TABLE  # for who names the image folder itself
    found = under or [path for path in (beside,) if path.is_file()]
    if len(found) != 1:
        raise BlastlensError(
            f"{folder} and its neighbours hold {len(found)} files named {LABEL_TABLE}; exactly one is needed."
        )
    return found[0]


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """The label table's rows by lower-case image name."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BlastlensError(f"{path} cannot be read as a CSV table ({error}).") from None
    if not rows or any(row.get(column) is None for row in rows for column in _TABLE_COLUMNS):
        raise BlastlensError(f"{path} needs the columns {', '.join(_TABLE_COLUMNS)}, filled in every row.")
    table = {row["new_names"].strip().lower(): row for row in rows}
    if len(table) != len(rows):
        raise BlastlensError(f"{path} lists {len(rows) - len(table)} image names more than once.")
    return table
