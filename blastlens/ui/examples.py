"""Example images of the page: drawn by this project, and real ones where a data set lies on this machine.

They are written into the temporary folder of this process; nothing else is copied.
"""

import csv
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from PIL import Image

from .. import temp_files
from ..synthetic_images import draw_cell, draw_field

PER_LABEL = 3
# Of the made-up people of a zip to try: how many there are for each label, and images of each.
PEOPLE, IMAGES_OF_EACH = 2, 6
# Folder of each data set under BLASTLENS_DATA, by the labels of the models it belongs to.
DATASETS = {("ALL", "HEM"): "cnmc2019", ("Benign", "Early", "Pre", "Pro"): "aria2021"}


@dataclass(frozen=True)
class Example:
    """One image on offer: the file a click hands to the page, its label, and whether it is drawn or real."""

    path: Path
    label: str
    drawn: bool


def examples_for(label_names: Sequence[str], data: Path | None) -> tuple[Example, ...]:
    """The examples for models with these labels: drawn ones, then real ones if `data` has that set."""
    labels = tuple(label_names)
    if labels not in DATASETS:
        return ()
    drawn = [_draw(label, seed) for seed in range(_drawn_per_label(labels)) for label in labels]
    return (*drawn, *(_local(data / DATASETS[labels], labels) if data else ()))


@cache
def drawn_zip(label_names: tuple[str, ...]) -> Path | None:
    """A zip of drawn images of made-up people, with a table of whose they are; None for labels nobody draws."""
    if label_names not in DATASETS:
        return None
    path = _folder() / "drawn-examples.zip" if len(label_names) == 2 else _folder() / "drawn-fields.zip"
    rows = ["file_name,subject"]
    with zipfile.ZipFile(path, "w") as archive:
        for number, label in enumerate(label_names):
            for image in range(PEOPLE * IMAGES_OF_EACH):
                name, person = f"{label}-{image + 1}.png", number * PEOPLE + image // IMAGES_OF_EACH + 1
                file = BytesIO()
                _drawing(label, 100 + image).save(file, "PNG")
                archive.writestr(name, file.getvalue())
                rows.append(f"{name},made-up {person}")
        archive.writestr("people.csv", "\n".join(rows))
    return path


def _drawn_per_label(labels: Sequence[str]) -> int:
    return PER_LABEL if len(labels) == 2 else 1


def _draw(label: str, seed: int) -> Example:
    path = _folder() / f"drawn-{label}-{seed + 1}.png"
    _drawing(label, seed).save(path)
    return Example(path, label, drawn=True)


def _drawing(label: str, seed: int) -> Image.Image:
    return draw_cell(label, seed) if label in ("ALL", "HEM") else draw_field(label, seed)


def _local(root: Path, labels: tuple[str, ...]) -> Iterator[Example]:
    by_label = {label: _files_of(root, label) for label in labels}
    for number in range(_drawn_per_label(labels)):
        for label, files in by_label.items():
            if number < len(files):
                source = files[number]
                copy = _folder() / f"real-{label}-{number + 1}{source.suffix}"
                shutil.copyfile(source, copy)
                yield Example(copy, label, drawn=False)


def _files_of(root: Path, label: str) -> list[Path]:
    """A few images of one label, from different subjects where metadata.csv names them."""
    table = root / "metadata.csv"
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["label"].casefold() == label.casefold()]
        one_per_subject: dict[str | None, Path] = {}
        for row in rows:
            one_per_subject.setdefault(row.get("subject"), root / row["file_name"])
        return list(one_per_subject.values())[:PER_LABEL]
    # The published layout: one folder per class, perhaps inside another.
    files = sorted(file for folder in (root, root / "Original") for file in (folder / label).glob("*.*"))
    return files[:: max(1, len(files) // PER_LABEL)][:PER_LABEL]


@cache
def _folder() -> Path:
    folder = temp_files.root() / "examples"
    folder.mkdir()
    return folder
