"""Published folder -> prepared dataset: hash, check, crop, resize, group, write. The only module that writes.

A dataset is written into a hidden sibling of its folder and renamed when it is whole, so that a run which is
killed at any moment leaves the old dataset or none, and never half of one. The next run cleans up after it.
"""

import csv
import hashlib
import io
import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from blastlens.errors import BlastlensError
from train.datasets import aria2021, cnmc2019, slides
from train.datasets.groups import first_copies, link_subjects
from train.datasets.prepare_report import Account
from train.datasets.rows import COLUMNS, HASH_PREFIX, METADATA, Row, load_rows
from train.datasets.sources import Listing, Refused, Source, files_under
from train.files import partial_folder, put_in_place, writing

RECORD = "prepare.json"
SCHEMA = 1  # of prepare.json and of what is written; another number makes an old dataset out of date

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Layout:
    """A published layout: its reader, its images' format and side (px), and the side of the centre kept."""

    read: Callable[[Path], Listing]
    format: str
    side: int
    crop: int


LAYOUTS = {
    "cnmc2019": Layout(cnmc2019.read_training, "BMP", 450, 320),  # every cell lies within the centre 320
    "cnmc2019-prelim": Layout(cnmc2019.read_preliminary, "BMP", 450, 320),
    "cnmc2019-final": Layout(cnmc2019.read_final, "BMP", 450, 320),
    "aria2021": Layout(aria2021.read_fields, "JPEG", 224, 224),
}


@dataclass(frozen=True)
class Prepared:
    """A dataset in its place: its folder, the account as text, and whether this run had anything to do."""

    folder: Path
    account: str
    written: bool


def prepare(layout: str, source: Path, out: Path, size: int = 224, workers: int = 1) -> Prepared:
    """Write the prepared dataset of the published folder `source` at `out`; images are `size` px square.

    C-NMC cells: centre crop, Lanczos, lossless WebP. Fields: the published bytes where no resize is needed,
    else as cells. Files that cannot be used are refused by name in the account and never stop the run. Where
    `out` is already this dataset, made of the same files, nothing is done. Raises BlastlensError where
    `source` holds no usable image, or `out` is anything but an earlier dataset of this layout.
    """
    if layout not in LAYOUTS:
        raise BlastlensError(f"{layout!r} is no layout; accepted are {', '.join(LAYOUTS)}.")
    if not source.is_dir():
        raise BlastlensError(f"{source} is not a folder; the published folder of {layout} is needed.")
    source, out = source.resolve(), out.resolve()
    if source == out or source in out.parents or out in source.parents:
        raise BlastlensError(f"{out} and {source} lie within each other; give an output folder elsewhere.")
    fingerprint = _fingerprint(layout, source, size)
    with partial_folder(out) as partial:
        record = _record_of(out, layout)
        if record is not None and _is_current(out, record, fingerprint):
            return Prepared(out, record["account"], written=False)
        account = _write(layout, source, partial, size, workers, fingerprint)
        put_in_place(out, partial)
    return Prepared(out, account.text(), written=True)


def _write(name: str, source: Path, folder: Path, size: int, workers: int, fingerprint: dict[str, Any]) -> Account:
    layout = LAYOUTS[name]
    listing = layout.read(source)
    order = sorted(listing.sources, key=lambda item: item.name)
    outcomes = _in_threads(lambda item: _convert(item, layout, size, folder), order, workers, "convert")
    taken = [(item, row) for item, row in zip(order, outcomes, strict=True) if isinstance(row, Row)]
    refused = [*listing.refused, *(outcome for outcome in outcomes if isinstance(outcome, Refused))]
    if not taken:
        raise BlastlensError(
            f"{source} holds no usable image of {name}: {len(refused)} refused, {len(listing.aside)} of "
            f"another part of the publication, {len(listing.not_recognised)} not recognised"
            + (f"; {refused[0].path}, for one, {refused[0].why}." if refused else ".")
        )
    rows = _with_duplicates([row for _, row in taken])
    people, overlaps = [row.subject for row in rows], None
    if name == "aria2021":
        people, overlaps = _slides(rows, [item.path for item, _ in taken], workers)
    groups = link_subjects(people, [row.sha256 for row in rows])
    rows = [replace(row, group=group) for row, group in zip(rows, groups, strict=True)]

    def relative(paths: Iterable[Path]) -> tuple[str, ...]:
        return tuple(os.path.relpath(path, source) for path in paths)

    refused.sort(key=lambda item: item.path)
    account = Account(
        name,
        tuple(rows),
        tuple(zip(relative(item.path for item in refused), (item.why for item in refused), strict=True)),
        relative(listing.aside),
        relative(listing.not_recognised),
        relative(listing.tables),
        tuple(map(str, listing.missing)),
        overlaps,
    )
    with writing(folder):
        _write_metadata(folder / METADATA, rows, HASH_PREFIX + layout.format.lower())
    record = {
        **fingerprint,
        "source_folder": source.name,
        "counts": account.counts(),
        "refused": account.refused,
        "not_recognised": account.not_recognised,
        "missing": account.missing,
        "account": account.text(),
        "content": _content(folder, rows),
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in ("numpy", "pillow", "scikit-learn")},
        },
    }
    with writing(folder):
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return account


def _convert(source: Source, layout: Layout, size: int, folder: Path) -> Row | Refused:
    """Write one image into `folder`; its row still lacks group and duplicate_of."""
    try:
        data = source.path.read_bytes()
        image = _checked(data, layout)
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        return Refused(source.path, str(error) or type(error).__name__)
    as_published = size == layout.crop == layout.side
    name = source.name + (source.path.suffix if as_published else ".webp")
    with writing(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if as_published:
            (folder / name).write_bytes(data)  # a JPEG written again would not be the same image
        else:
            margin = (layout.side - layout.crop) // 2
            box = (margin, margin, margin + layout.crop, margin + layout.crop)
            image.crop(box).resize((size, size), Image.Resampling.LANCZOS).save(folder / name, lossless=True)
    sha256 = hashlib.sha256(data).hexdigest()
    return Row(name, source.label, source.subject, group="", fold=source.fold, sha256=sha256)


def _checked(data: bytes, layout: Layout) -> Image.Image:
    """Decode a published image; raises ValueError or DecompressionBombError saying why it is not one."""
    if not data:
        raise ValueError("is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=[layout.format])
    except Image.UnidentifiedImageError:
        raise ValueError(f"is not a {layout.format} image") from None
    if image.size != (layout.side, layout.side):
        raise ValueError(f"is {image.width} x {image.height} pixels, not {layout.side} x {layout.side}")
    if image.mode != "RGB":
        raise ValueError(f"has pixels of mode {image.mode}, not RGB")
    try:
        image.load()
    except Exception as error:  # what a decoder raises on damaged data depends on the damage
        raise ValueError(f"is truncated or damaged ({error})") from None
    return image


def _with_duplicates(rows: Sequence[Row]) -> list[Row]:
    first = first_copies([row.sha256 for row in rows])
    return [
        row if k is None else replace(row, duplicate_of=rows[k].file_name) for row, k in zip(rows, first, strict=True)
    ]


def _slides(rows: Sequence[Row], paths: Sequence[Path], workers: int) -> tuple[list[str], int]:
    """Each field's slide-appearance group, named such as "Pre-07", and the number of overlapping pairs.

    `paths` are the published files: groups do not depend on the size of the prepared images.
    """

    def look(path: Path) -> tuple[slides.Floats, slides.Floats]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        return slides.appearance(pixels), slides.thumbnail(pixels)

    features, thumbnails = map(np.stack, zip(*_in_threads(look, paths, workers, "look"), strict=True))
    labels = np.array([row.label for row in rows])
    classes = [np.flatnonzero(labels == label) for label in sorted(set(labels))]
    pairs = sum(len(members) * (len(members) - 1) // 2 for members in classes)
    with tqdm(total=pairs, desc="overlaps", unit="pair", mininterval=0.5) as bar:
        overlaps = slides.overlapping_pairs(thumbnails, classes, bar.update)
    names = [""] * len(rows)
    for members in classes:  # file names are zero-padded, so their order is that of the published numbers
        position = {int(i): k for k, i in enumerate(members)}
        within = [(position[i], position[j]) for i, j in overlaps if i in position]
        for i, group in zip(position, slides.slide_groups(features[members], within), strict=True):
            names[i] = f"{rows[i].label}-{group + 1:02d}"
    return names, len(overlaps)


def _in_threads(work: Callable[[_Item], _Result], items: Sequence[_Item], workers: int, doing: str) -> list[_Result]:
    """`[work(item) for item in items]` with a progress bar; Pillow and hashlib release the GIL."""
    with ThreadPoolExecutor(workers) as pool:
        try:
            results = pool.map(work, items)
            return list(tqdm(results, total=len(items), desc=doing, unit="img", mininterval=0.5))
        except BaseException:
            # Without this, Ctrl-C would wait for every image that is left.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_metadata(path: Path, rows: Sequence[Row], hash_column: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow((*COLUMNS, hash_column, "duplicate_of"))
        for r in rows:
            writer.writerow((r.file_name, r.label, r.subject, r.group, r.fold, r.sha256, r.duplicate_of))


def _fingerprint(layout: str, source: Path, size: int) -> dict[str, Any]:
    """What a dataset depends on; modification times stand for contents, which take minutes to hash."""
    digest = hashlib.sha256()
    for path in files_under(source):
        status = path.stat()
        digest.update(f"{path.relative_to(source)}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return {"schema": SCHEMA, "layout": layout, "size": size, "source": digest.hexdigest()}


def _content(folder: Path, rows: Sequence[Row]) -> dict[str, Any]:
    """Enough to notice that a file of the dataset was removed, cut or edited."""
    return {
        "metadata_sha256": hashlib.sha256((folder / METADATA).read_bytes()).hexdigest(),
        "image_bytes": sum((folder / row.file_name).stat().st_size for row in rows),
    }


def _record_of(out: Path, layout: str) -> dict[str, Any] | None:
    """The record of an earlier dataset at `out`, None where nothing is; other things are not touched."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    try:
        record = json.loads((out / RECORD).read_text())
        earlier = record["layout"]
    except (OSError, ValueError, TypeError, KeyError):
        raise BlastlensError(
            f"{out} exists and was not written by this command; give a folder that does not exist yet."
        ) from None
    if earlier != layout:
        raise BlastlensError(f"{out} holds the prepared dataset of {earlier}; give {layout} a folder of its own.")
    return record


def _is_current(out: Path, record: dict[str, Any], fingerprint: dict[str, Any]) -> bool:
    if any(record.get(key) != value for key, value in fingerprint.items()):
        return False
    try:
        return record["content"] == _content(out, load_rows(out))
    except (BlastlensError, OSError, KeyError):
        return False
