"""Example images of the page: synthetic ones, and real ones if a data set is on this computer.

They are written to the temporary folder of this process when a model is first used.
"""

import csv
import shutil
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

from .. import temp_files
from ..dataset_info import dataset_info
from ..synthetic_images import synthetic_image

PER_LABEL = 3
# Of the synthetic zip: patients of each label, and images of each patient.
PATIENTS, IMAGES_OF_EACH = 2, 6
_WRITING = threading.Lock()


@dataclass(frozen=True)
class Example:
    """One example: its file, its label, and whether it is synthetic."""

    path: Path
    label: str
    drawn: bool

    @property
    def name(self) -> str:
        """As links have it, such as "drawn-ALL-1"."""
        return self.path.stem


def examples_for(label_names: tuple[str, ...], data: Path | None) -> tuple[Example, ...]:
    """The examples for models with these labels: synthetic ones, then real ones if `data` has the data set."""
    with _WRITING:
        return _written(label_names, data)


def original_of(path: str) -> Path | None:
    """The example whose copy Gradio has at `path`, under the same name; None for any other image."""
    file = _folder() / Path(path).name
    return file if file.is_file() else None


@cache
def drawn_zip(label_names: tuple[str, ...]) -> Path | None:
    """A zip of synthetic images with a table of their synthetic patients; None for unknown labels."""
    if not dataset_info(label_names).known:
        return None
    path = _folder() / ("drawn-examples.zip" if len(label_names) == 2 else "drawn-fields.zip")
    rows = ["file_name,subject"]
    with zipfile.ZipFile(path, "w") as archive:
        for number, label in enumerate(label_names):
            for image in range(PATIENTS * IMAGES_OF_EACH):
                name, patient = f"{label}-{image + 1}.png", number * PATIENTS + image // IMAGES_OF_EACH + 1
                file = BytesIO()
                synthetic_image(label, 100 + image).save(file, "PNG")
                archive.writestr(name, file.getvalue())
                rows.append(f"{name},made-up {patient}")
        archive.writestr("patients.csv", "\n".join(rows))
    return path


@cache
def _written(labels: tuple[str, ...], data: Path | None) -> tuple[Example, ...]:
    info, per_label = dataset_info(labels), PER_LABEL if len(labels) == 2 else 1
    if not info.known:
        return ()
    drawn = [_draw(label, seed) for seed in range(per_label) for label in labels]
    return (*drawn, *(_local(data / info.name, labels, per_label) if data else ()))


def _draw(label: str, seed: int) -> Example:
    path = _folder() / f"drawn-{label}-{seed + 1}.png"
    synthetic_image(label, seed).save(path)
    return Example(path, label, drawn=True)


def _local(root: Path, labels: tuple[str, ...], per_label: int) -> Iterator[Example]:
    by_label = {label: _files_of(root, label) for label in labels}
    for number in range(per_label):
        for label, files in by_label.items():
            if number < len(files):
                copy = _folder() / f"real-{label}-{number + 1}{files[number].suffix}"
                shutil.copyfile(files[number], copy)
                yield Example(copy, label, drawn=False)


def _files_of(root: Path, label: str) -> list[Path]:
    """A few images of one label, from different subjects if metadata.csv names them."""
    table = root / "metadata.csv"
    if table.is_file():
        with table.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["label"].casefold() == label.casefold()]
        one_per_subject: dict[str | None, Path] = {}
        for row in rows:
            one_per_subject.setdefault(row.get("subject"), root / row["file_name"])
        return list(one_per_subject.values())[:PER_LABEL]
    # As published: one folder per class, possibly in a folder Original.
    files = sorted(file for folder in (root, root / "Original") for file in (folder / label).glob("*.*"))
    return files[:: max(1, len(files) // PER_LABEL)][:PER_LABEL]


@cache
def _folder() -> Path:
    folder = temp_files.root() / "examples"
    folder.mkdir()
    return folder
