"""Published folder, or own images -> prepared dataset: hash, check, crop, resize, group, write.

A dataset is written into a hidden folder beside its own and renamed when it is complete, so a run that is interrupted
at any moment leaves the old dataset or none.
"""

import csv
import hashlib
import io
import json
import math
import os
import platform
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from blastlens.dataset_info import DATASET_NAME
from blastlens.errors import BlastlensError
from blastlens.files import whole_folder, writing
from blastlens.images import open_image
from train.datasets import hub_images, layouts, own_images, slides
from train.datasets.groups import components, link_subjects
from train.datasets.layouts import PublishedFiles, PublishedImage
from train.datasets.rows import COLUMNS, FOLDER, HASH_PREFIX, METADATA, RECORD, Row
from train.parallel import in_threads

SCHEMA = 1  # of prepare.json


@dataclass(frozen=True)
class Layout:
    """A layout: its reader, its images' format and side (px), and the side of the centre kept; 0 for any and all."""

    read: Callable[..., PublishedFiles]
    format: str
    side: int
    crop: int


OFFICIAL = "cnmc2019-official"  # training folds and preliminary test set together
LAYOUTS = {
    "cnmc2019": Layout(layouts.read_cnmc_training, "BMP", 450, 320),  # every cell lies within the centre 320
    "cnmc2019-prelim": Layout(layouts.read_cnmc_preliminary, "BMP", 450, 320),
    OFFICIAL: Layout(layouts.read_cnmc_official, "BMP", 450, 320),
    "aria2021": Layout(layouts.read_aria, "JPEG", 224, 224),
}
OWN = Layout(own_images.read, "image", 0, 0)


def prepare(layout: str, source: Path, out: Path, size: int = 224) -> str:
    """Write the prepared dataset of the published folder `source` at `out`, and return the report.

    Images are `size` px square. C-NMC cells: centre crop, Lanczos, lossless WebP. Fields: the published bytes where no
    resize is needed, else as cells. Files that cannot be used are rejected by name in the report and do not stop the
    run. An earlier dataset of this layout at `out` is replaced when the new one is complete.

    Raises:
        BlastlensError: `source` holds no usable image, or `out` is anything but an earlier dataset of this layout.
    """
    if not source.is_dir():
        raise BlastlensError(f"{source} is not a folder; the published folder of {layout} is needed.")
    with _replacing(layout, source, out, size) as partial:
        return _write(layout, source.resolve(), partial, size)


def official_dataset(data: Path, cache: Path) -> Path:
    """Return the prepared dataset of the official protocol: `data` itself, or the folder `OFFICIAL` in it, or that in
    `cache`, which is prepared first where `data` is the published download. Raises BlastlensError as `prepare`."""
    name = f"{OFFICIAL}-{hashlib.sha256(str(data.resolve()).encode()).hexdigest()[:8]}"
    for folder in (data, data / OFFICIAL, cache / name):
        if (folder / METADATA).is_file():
            return folder
    print(f"{data} is prepared in {cache / name}; later runs use the result.", flush=True)
    print(prepare(OFFICIAL, data, cache / name), flush=True)
    return cache / name


def prepare_own(source: Path, out: Path, size: int, options: own_images.Options) -> str:
    """Write the prepared dataset of own images, of any labels, formats and sizes, at `out`, and return the report.

    Larger images are shrunk until their shorter side is `size` px; nothing is cropped. Groups are subjects that share
    near-duplicates, or, without subjects, near-duplicates.

    Args:
        source: folder, or table beside or above its images; see `own_images`.

    Raises:
        BlastlensError: as `prepare`, for another name than is accepted, or fewer than two labels.
    """
    _check_name(options.name)
    if not source.exists():
        raise BlastlensError(f"{source} does not exist; a folder of images or a table of them is needed.")
    with _replacing(FOLDER, source if source.is_dir() else source.parent, out, size) as partial:
        return _write(FOLDER, source.resolve(), partial, size, options)


def prepare_hub(source: Path, out: Path, size: int, options: own_images.Options) -> str:
    """As `prepare_own`, of a dataset of the Hub or a folder that `datasets.load_dataset` reads."""
    _check_name(options.name)
    with _replacing(FOLDER, source, out, size) as partial, tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / options.name
        with writing(images):
            images.mkdir()
        hub_images.download(source.as_posix(), images)
        return _write(FOLDER, images.resolve(), partial, size, options)


def _check_name(name: str) -> None:
    if not DATASET_NAME.fullmatch(name) or name in LAYOUTS:
        raise BlastlensError(
            f"{name!r} cannot be the name of a data set of your own; letters, digits, '.', '_' and '-' are accepted, "
            f"but not {', '.join(LAYOUTS)}. Give one with --name."
        )


@contextmanager
def _replacing(layout: str, source: Path, out: Path, size: int) -> Iterator[Path]:
    if size < 16:
        raise BlastlensError(f"Images of {size} px are too small; 16 px or more are accepted.")
    source, out = source.resolve(), out.resolve()
    if source == out or source in out.parents or out in source.parents:
        raise BlastlensError(f"{out} and {source} lie within each other; give an output folder elsewhere.")
    with whole_folder(out) as partial:
        _check_replaceable(out, layout)
        yield partial


def _write(name: str, source: Path, folder: Path, size: int, own: own_images.Options | None = None) -> str:
    layout = OWN if own else LAYOUTS[name]
    files = layout.read(source, own.subject) if own else layout.read(source)
    source = source if source.is_dir() else source.parent
    order = sorted(files.images, key=lambda image: image.name)
    outcomes = in_threads(lambda image: _convert(image, layout, size, folder), order, "convert")
    taken = {image.path: row for image, row in zip(order, outcomes, strict=True) if isinstance(row, Row)}
    rejected = files.rejected | {i.path: why for i, why in zip(order, outcomes, strict=True) if isinstance(why, str)}
    if own and 0 < len(found := {row.label for row in taken.values()}) < 2:
        raise BlastlensError(f"All images of {source} have the label {found.pop()!r}; two labels or more are needed.")
    if not taken:
        path, why = next(iter(rejected.items()), ("", ""))
        example = f"; {path}, for example, {why}." if rejected else "."
        raise BlastlensError(
            f"{source} holds no usable image of {name}: {len(rejected)} rejected, {len(files.aside)} of another part "
            f"of the publication, {len(files.not_recognised)} not recognised{example}"
        )
    first: dict[str, str] = {}
    rows = []
    for row in taken.values():
        copy_of = first.setdefault(row.sha256, row.file_name)
        rows.append(row if copy_of == row.file_name else replace(row, duplicate_of=copy_of))
    subjects, overlaps = [row.subject for row in rows], None
    if name == "aria2021":
        subjects, overlaps = _slides(rows, list(taken))
    contents = [row.sha256 for row in rows]
    pairs: list[tuple[int, int]] = []
    if own:
        pairs = _near_duplicates(rows, folder, own.similarity)
        contents = [str(k) for k in components(len(rows), pairs)]
    groups = link_subjects(subjects, contents) if not own or any(subjects) else [f"image-{k}" for k in contents]
    rows = [replace(row, group=group) for row, group in zip(rows, groups, strict=True)]

    def relative(paths: Iterable[Path]) -> list[str]:
        return [os.path.relpath(path, source) for path in sorted(paths)]

    originals = [os.path.relpath(path, source) for path in taken]

    why = dict(zip(relative(rejected), [rejected[path] for path in sorted(rejected)], strict=True))
    unknown, counts = relative(files.not_recognised), _counts(rows, files, len(rejected), overlaps)
    report = _report(own.name if own else name, rows, counts, why, unknown, relative(files.tables), files.missing)
    if own:
        report = "\n".join([report, *files.notes, *own_images.summary(rows, originals, pairs)])
    with writing(folder):
        with (folder / METADATA).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow((*COLUMNS, HASH_PREFIX + layout.format.lower(), "duplicate_of", *["original"] * bool(own)))
            for r, original in zip(rows, originals, strict=True):
                line = (r.file_name, r.label, r.subject, r.group, r.fold, r.sha256, r.duplicate_of)
                writer.writerow((*line, *[original] * bool(own)))
        record = {
            "schema": SCHEMA,
            "layout": name,
            **({"name": own.name, "subjects": any(subjects), "similarity": own.similarity} if own else {}),
            "size": size,
            "source_folder": source.name,
            "counts": counts,
            "refused": list(why.items()),
            "not_recognised": unknown,
            "missing": files.missing,
            "account": report,
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in ("numpy", "pillow", "scikit-learn")},
            },
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    return report


def _convert(source: PublishedImage, layout: Layout, size: int, folder: Path) -> Row | str:
    """Write one image into `folder` and return its row, still without group and duplicate_of; or why it is rejected."""
    try:
        image = None if layout.side else open_image(source.path)  # first, since it refuses very large files
        data = source.path.read_bytes()
        image = image or _checked(data, layout)
    except (BlastlensError, OSError, ValueError, Image.DecompressionBombError) as error:
        return str(error).removeprefix(f"{source.path.name} ") or type(error).__name__
    as_published = size == layout.crop == layout.side
    name = source.name + (source.path.suffix if as_published else ".webp")
    with writing(folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if as_published:
            (folder / name).write_bytes(data)  # a JPEG encoded again would not be the same image
        elif not layout.side:
            scale = min(1, size / min(image.size))
            shrunk = (round(image.width * scale), round(image.height * scale))
            image.resize(shrunk, Image.Resampling.LANCZOS).save(folder / name, lossless=True)
        else:
            margin = (layout.side - layout.crop) // 2
            box = (margin, margin, margin + layout.crop, margin + layout.crop)
            image.crop(box).resize((size, size), Image.Resampling.LANCZOS).save(folder / name, lossless=True)
    return Row(name, source.label, source.subject, "", source.fold, hashlib.sha256(data).hexdigest())


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


def _slides(rows: Sequence[Row], paths: Sequence[Path]) -> tuple[list[str], int]:
    """Each field's slide-appearance group, named such as "Pre-07", and the number of overlapping pairs.

    `paths` are the published files: groups do not depend on the size of the prepared images.
    """

    def look(path: Path) -> tuple[slides.Floats, slides.Floats]:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        return slides.appearance(pixels), slides.thumbnail(pixels)

    features, thumbnails = map(np.stack, zip(*in_threads(look, paths, "look"), strict=True))
    labels = np.array([row.label for row in rows])
    classes = [np.flatnonzero(labels == label) for label in sorted(set(labels))]
    with tqdm(total=sum(math.comb(len(c), 2) for c in classes), desc="overlaps", unit="pair", mininterval=0.5) as bar:
        overlaps = slides.overlapping_pairs(thumbnails, classes, bar.update)
    names = [""] * len(rows)
    for members in classes:  # file names are zero-padded, so their order is that of the published numbers
        position = {int(i): k for k, i in enumerate(members)}
        within = [(position[i], position[j]) for i, j in overlaps if i in position]
        for i, group in zip(position, slides.slide_groups(features[members], within), strict=True):
            names[i] = f"{rows[i].label}-{group + 1:02d}"
    return names, len(overlaps)


def _near_duplicates(rows: Sequence[Row], folder: Path, similarity: float) -> list[tuple[int, int]]:
    def look(row: Row) -> slides.Floats:
        with Image.open(folder / row.file_name) as image:
            return slides.thumbnail(np.asarray(image.convert("RGB")))

    pairs = own_images.near_duplicates(np.stack(in_threads(look, rows, "compare")), similarity)
    place = {row.file_name: i for i, row in enumerate(rows)}
    copies = [(place[row.duplicate_of], i) for i, row in enumerate(rows) if row.duplicate_of]
    return sorted({*pairs, *copies})


def _counts(rows: Sequence[Row], files: PublishedFiles, rejected: int, overlaps: int | None) -> dict[str, int | None]:
    """Every file is counted once: used, rejected, left aside, a label table or not recognised."""

    def pairs(keys: Iterable[object]) -> int:
        return sum(math.comb(n, 2) for n in Counter(keys).values())

    identical = pairs(row.sha256 for row in rows)
    return {
        "seen": len(rows) + rejected + len(files.aside) + len(files.tables) + len(files.not_recognised),
        "used": len(rows),
        "refused": rejected,
        "left_aside": len(files.aside),
        "not_recognised": len(files.not_recognised),
        "missing": len(files.missing),
        "groups": len({row.group for row in rows}),
        "duplicate_pairs": identical,
        "duplicate_pairs_across_subjects": identical - pairs((row.sha256, row.subject) for row in rows),
        "duplicate_pairs_across_labels": identical - pairs((row.sha256, row.label) for row in rows),
        "overlapping_pairs": overlaps,
    }


def _report(
    name: str,
    rows: Sequence[Row],
    counts: dict[str, int | None],
    rejected: dict[str, str],
    not_recognised: Sequence[str],
    tables: Sequence[str],
    missing: Sequence[str],
) -> str:
    """The counts as text, with rejected, not recognised and missing files by name."""
    labels = Counter(row.label for row in rows)
    subjects = len({row.subject for row in rows if row.subject})
    lines = [
        f"{name}: {counts['seen']:,} files seen",
        f"  used            {len(rows):,}  ({', '.join(f'{n:,} {label}' for label, n in sorted(labels.items()))})",
    ]
    if name in LAYOUTS:
        lines += [
            f"  groups          {f'{subjects} subjects in ' if subjects else ''}{counts['groups']} groups",
            f"  duplicates      {counts['duplicate_pairs']:,} byte-identical pairs, of which "
            f"{counts['duplicate_pairs_across_subjects']:,} across subjects, "
            f"{counts['duplicate_pairs_across_labels']:,} across labels; all kept, see duplicate_of",
        ]
    if counts["overlapping_pairs"] is not None:
        lines.append(f"  overlaps        {counts['overlapping_pairs']:,} pairs of fields that share a place")
    if name in LAYOUTS:
        lines.append(f"  left aside      {counts['left_aside']:,}  (another part of the publication)")
    lines += [f"  rejected        {len(rejected):,}", *(f"    {path}: {why}" for path, why in rejected.items())]
    lines += [f"  not recognised  {len(not_recognised):,}", *(f"    {path}" for path in not_recognised)]
    if tables:
        lines.append(f"  label table     {', '.join(tables)}")
        lines += [f"  missing         {len(missing):,}  (listed in the label table)", *(f"    {m}" for m in missing)]
    return "\n".join(lines)


def _check_replaceable(out: Path, layout: str) -> None:
    """Refuse to replace anything but an earlier dataset of this layout."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    try:
        earlier = json.loads((out / RECORD).read_text())["layout"]
    except (OSError, ValueError, TypeError, KeyError):
        raise BlastlensError(
            f"{out} exists and was not written by this command; give a folder that does not exist yet."
        ) from None
    if earlier != layout:
        raise BlastlensError(f"{out} holds the prepared dataset of {earlier}; give {layout} a folder of its own.")
