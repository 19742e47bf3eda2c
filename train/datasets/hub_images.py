"""A dataset of the Hub, or any other that `datasets.load_dataset` reads, as a folder of images with a table.

The folder is then prepared as a user's own images: see `own_images`. Image files are written as they are stored.
"""

import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from blastlens.errors import BlastlensError
from blastlens.files import writing
from blastlens.hub import cause_of
from blastlens.subject_tables import FILE_COLUMNS, LABEL_COLUMNS, SUBJECT_COLUMNS
from blastlens.wording import listed

TABLE = "labels.csv"
TIME_LIMIT_S = 10.0


def check(source: str) -> None:
    """Find out within seconds whether the Hub has a dataset of this name; raises BlastlensError where it has not."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(source, timeout=TIME_LIMIT_S)
    except Exception as error:  # the client's exceptions may hold a token, so they are not chained
        reason = type(error).__name__
    else:
        return
    raise BlastlensError(f"There is no folder {source}, and no dataset {source} on the Hub can be read ({reason}).")


def download(source: str, folder: Path) -> None:
    """Write the images of all splits into `folder`, and a table of their labels and, where there are any, subjects.

    Args:
        source: owner/name on the Hub, or a folder that `datasets.load_dataset` reads, such as one of Parquet files.

    Raises:
        BlastlensError: it cannot be loaded, has no column of images or labels, or an image is missing.
    """
    if not Path(source).exists():
        check(source)
    from datasets import Image  # takes seconds

    parts = _loaded(source)
    columns = next(iter(parts.values())).features
    image = _column(columns, FILE_COLUMNS, lambda feature: isinstance(feature, Image))
    label, subject = _column(columns, LABEL_COLUMNS), _column(columns, SUBJECT_COLUMNS)
    if not image or not label:
        raise BlastlensError(
            f"{source} has the columns {', '.join(columns)}; a column of images is needed, and one of labels named "
            f"{listed(LABEL_COLUMNS)}."
        )
    with writing(folder), (folder / TABLE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "label", *["subject"] * bool(subject)))
        for part, rows in parts.items():
            (folder / part).mkdir()
            stored = rows.cast_column(image, Image(decode=False))
            progress = tqdm(stored, desc=f"{source}, {part}", unit="img", mininterval=0.5)
            for number, row in enumerate(progress, start=1):
                name, content = _content(row[image], f"{part}/{number:06d}")
                (folder / name).write_bytes(content)
                values = [_text(columns[one], row[one]) for one in (label, subject) if one]
                table.writerow((name, *values))


def _loaded(source: str) -> dict[str, Any]:
    """The splits by name. The client's exceptions may hold a token, so none is chained, or quoted."""
    from datasets import DatasetDict, load_dataset

    try:
        found = load_dataset(source)
    except Exception as error:
        cause = cause_of(error)
        full = isinstance(cause, OSError) and cause.errno
        reason = os.strerror(cause.errno) if full else type(cause).__name__
    else:
        return dict(found) if isinstance(found, DatasetDict) else {"train": found}
    raise BlastlensError(
        f"{source} cannot be loaded as a dataset ({reason}); owner/name of one of images on the Hub is accepted, or a "
        "folder that `datasets.load_dataset` reads."
    )


def _column(
    columns: dict[str, Any], titles: Sequence[str], accepts: Callable[[Any], bool] = lambda feature: True
) -> str | None:
    """The first of the titles that is a column, in any case; else, of images, the only one."""
    known = {name.strip().casefold(): name for name, feature in columns.items() if accepts(feature)}
    found = next((known[title] for title in titles if title in known), None)
    return next(iter(known.values())) if not found and titles is FILE_COLUMNS and len(known) == 1 else found


def _content(image: dict[str, Any] | None, name: str) -> tuple[str, bytes]:
    """Name with the file's own ending, and bytes."""
    path = (image or {}).get("path") or ""
    content = (image or {}).get("bytes")
    try:
        content = content or Path(path).read_bytes()
    except OSError:
        raise BlastlensError(f"Image {name} of the dataset is missing.") from None
    return name + Path(path).suffix, content


def _text(feature: Any, value: Any) -> str:
    """A label or subject as text; of a class label, its name."""
    if value is None:
        return ""
    return feature.int2str(value) if hasattr(feature, "int2str") else str(value)
