"""Readers of the published layouts: which file is which image of the data set, and what became of the other files.

C-NMC 2019 (doi 10.7937/tcia.2019.dc64i46r):

    fold_0..2/{all,hem}/UID_<subject>_<image>_<cell>_<label>.bmp        at any depth
    C-NMC_test_prelim_phase_data/<n>.bmp and C-NMC_test_prelim_phase_data_labels.csv
    C-NMC_test_final_phase_data/<n>.bmp                                  labels never published: left aside

Aria 2021 (doi 10.34740/kaggle/dsv/2175623):

    Original/{Benign,Early,Pre,Pro}/WBC-*-<number>.jpg
    Segmented/...   the same fields with everything but the cells blackened: left aside, or twins would be split
"""

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from blastlens.dataset_info import DATASETS
from blastlens.errors import BlastlensError

PRELIMINARY = "C-NMC_test_prelim_phase_data"
FINAL = "C-NMC_test_final_phase_data"
LABEL_TABLE = f"{PRELIMINARY}_labels.csv"
OFFICIAL_TEST = "preliminary"  # the fold of the preliminary test set in "cnmc2019-official"
_TABLE_COLUMNS = ("Patient_ID", "new_names", "labels")
_TABLE_LABELS = {"1": "all", "0": "hem"}
# Some files of subject H3 are spelled UID_h3_...: a case-sensitive pattern drops them or makes a new donor.
_UID = re.compile(r"UID_(?P<subject>H?\d+)_\d+_\d+_(?P<label>all|hem)", re.IGNORECASE)
_FIELD_LABELS = {name.lower(): name for name in DATASETS["aria2021"].labels}
_FIELD = re.compile(r"WBC-(?:Malignant-)?(?P<label>Benign|Early|Pre|Pro)-\d+", re.IGNORECASE)


@dataclass(frozen=True)
class PublishedImage:
    """One image. `name` is its file name in the prepared dataset, without extension; `label`, `subject` and `fold` are
    as in metadata.csv, "" where the publication has none."""

    path: Path
    name: str
    label: str = ""
    subject: str = ""
    fold: str = ""


@dataclass(frozen=True)
class PublishedFiles:
    """Every file under a published folder, in exactly one place.

    `rejected` (file -> why) look like images of the set and cannot be used; `aside` are files of another part of the
    same publication; `tables` were read for labels; `missing` are images that a table lists and that do not exist.
    """

    images: tuple[PublishedImage, ...]
    rejected: dict[Path, str]
    aside: tuple[Path, ...]
    not_recognised: tuple[Path, ...]
    tables: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # on tables of own images


# What a reader says of a file: an image, why it is rejected, True if it is of another part, None if not recognised.
_Kind = PublishedImage | str | bool | None


def files_under(folder: Path) -> list[Path]:
    """Return every file under `folder`, resolved and sorted."""
    return sorted(path for path in folder.resolve().rglob("*") if path.is_file())


def _sorted_out(folder: Path, kind_of: Callable[[Path], _Kind], tables: Sequence[Path] = ()) -> PublishedFiles:
    images: dict[str, PublishedImage] = {}
    rejected, aside, unknown = {}, [], []
    for path in files_under(folder):
        kind = kind_of(path)
        if isinstance(kind, PublishedImage):
            first = images.setdefault(kind.name, kind)
            if first is not kind:  # two copies of the published tree must not overwrite each other
                rejected[path] = f"has the same name as {first.path}, which is used"
        elif isinstance(kind, str):
            rejected[path] = kind
        elif kind:
            aside.append(path)
        elif path not in tables:
            unknown.append(path)
    return PublishedFiles(tuple(images.values()), rejected, tuple(aside), tuple(unknown), tuple(tables))


def read_cnmc_training(folder: Path) -> PublishedFiles:
    """Read the training folds; subjects are upper case, labels "all" or "hem"."""

    def kind_of(path: Path) -> _Kind:
        if (part := _cnmc_part(path)) != "training":
            return part and True
        label, fold = path.parent.name.lower(), path.parent.parent.name.lower()
        uid = _UID.fullmatch(path.stem)
        if uid is None:
            return "its name is not UID_<subject>_<image>_<cell>_<all or hem>.bmp"
        if uid["label"].lower() != label:
            return f"its name says {uid['label'].lower()} and its folder {label}"
        return PublishedImage(path, f"{fold}/{label}/{path.stem}", label, uid["subject"].upper(), fold)

    return _sorted_out(folder, kind_of)


def read_cnmc_preliminary(folder: Path) -> PublishedFiles:
    """Read the preliminary test set, labelled by its table (1 is all, 0 is hem).

    An image without a row is rejected, a row without an image is missing. Raises BlastlensError unless there is exactly
    one readable table under or beside `folder`.
    """
    folder = folder.resolve()
    beside = folder.parent / LABEL_TABLE  # if `folder` is the image folder itself
    found = [path for path in files_under(folder) if path.name.lower() == LABEL_TABLE.lower()]
    found = found or [path for path in (beside,) if path.is_file()]
    if len(found) != 1:
        raise BlastlensError(
            f"{folder} and its neighbours hold {len(found)} files named {LABEL_TABLE}; exactly one is needed."
        )
    table, name, present = _read_table(found[0]), found[0].name, set()

    def kind_of(path: Path) -> _Kind:
        if (part := _cnmc_part(path)) != "preliminary":
            return part and True
        present.add(path.name.lower())
        row = table.get(path.name.lower())
        if row is None:
            return f"has no row in {name}"
        label = _TABLE_LABELS.get(row["labels"].strip())
        if label is None:
            return f"its label in {name} is {row['labels']!r}, neither 1 nor 0"
        # Patient_ID holds the image's name before the organisers renumbered it, such as UID_57_29_1_all.bmp.
        uid = _UID.fullmatch(row["Patient_ID"].strip().removesuffix(".bmp"))
        if uid is None or uid["label"].lower() != label:
            return f"its Patient_ID in {name} is {row['Patient_ID']!r}, not UID_<subject>_..._{label}.bmp"
        return PublishedImage(path, path.stem, label, uid["subject"].upper())

    files = _sorted_out(folder, kind_of, found)
    return replace(files, missing=tuple(row["new_names"] for key, row in table.items() if key not in present))


def read_cnmc_official(folder: Path) -> PublishedFiles:
    """Read the training folds, and the labelled preliminary test set as a further fold, `OFFICIAL_TEST`."""
    training, test = read_cnmc_training(folder), read_cnmc_preliminary(folder)
    if not (training.images and test.images):
        raise BlastlensError(
            f"{folder} has {len(training.images)} training images and {len(test.images)} of the preliminary test set; "
            f"both are needed: fold_0, fold_1 and fold_2, and {PRELIMINARY} with its table."
        )
    tested = [replace(one, name=f"{OFFICIAL_TEST}/{one.name}", fold=OFFICIAL_TEST) for one in test.images]
    aside = tuple(path for path in training.aside if path in test.aside)
    rejected = training.rejected | test.rejected
    return PublishedFiles((*training.images, *tested), rejected, aside, test.not_recognised, test.tables, test.missing)


def read_aria(folder: Path) -> PublishedFiles:
    """Read the original fields, which have no subjects and no folds; segmented twins are left aside."""

    def kind_of(path: Path) -> _Kind:
        label = _FIELD_LABELS.get(path.parent.name.lower())
        if label is None or path.suffix.lower() not in (".jpg", ".jpeg"):
            return None
        if path.parent.parent.name.lower() == "segmented":
            return True
        name = _FIELD.fullmatch(path.stem)
        if name is None:
            return "its name is not WBC-<class>-<number>.jpg"
        if name["label"].lower() != label.lower():
            return f"its name says {name['label']} and its folder {label}"
        return PublishedImage(path, f"{label}/{path.stem}", label)

    return _sorted_out(folder, kind_of)


def _cnmc_part(path: Path) -> str | None:
    """The part of C-NMC that a file belongs to by its folder's name."""
    if path.suffix.lower() != ".bmp":
        return None
    parent, grandparent = path.parent.name.lower(), path.parent.parent.name.lower()
    if parent in ("all", "hem") and re.fullmatch(r"fold_\d", grandparent):
        return "training"
    return {PRELIMINARY.lower(): "preliminary", FINAL.lower(): "final"}.get(parent)


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
