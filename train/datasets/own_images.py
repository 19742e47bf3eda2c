"""A user's own images: the label and subject of each, from sub-folders, tables or a pattern; and near-duplicates.

    DIR/<label>/...                     one sub-folder per class, at any depth; or DIR/train/<label>/..., DIR/test/...
    DIR/labels.csv or DIR/labels.jsonl  columns named as in `blastlens.subject_tables`; images anywhere in DIR

A table may also give the subjects alone, of images whose labels are the sub-folders.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from blastlens.errors import BlastlensError
from blastlens.image_sources import is_junk, natural
from blastlens.images import printable
from blastlens.subject_tables import SubjectTables
from blastlens.wording import count, listed
from train.datasets.layouts import PublishedFiles, PublishedImage, files_under
from train.datasets.rows import Row
from train.datasets.slides import Floats

TABLES = (".csv", ".jsonl")
PARTS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # folders above those of the classes
IN_FOLDER = "folder"  # as `Options.subject`: each folder inside that of a class is a subject
SIMILARITY = 0.95
PAIRS_PER_IMAGE = 100  # of near-duplicates; more is no data set that can be split
BLOCK = 512  # images that are compared with all others at a time
LISTED_SUBJECTS = 40


@dataclass(frozen=True)
class Options:
    """How own images are prepared.

    `name` is that of the data set; `subject` IN_FOLDER, or a pattern that finds the subject in a path; `similarity`
    the correlation from which two images are near-duplicates.
    """

    name: str
    subject: str | None = None
    similarity: float = SIMILARITY


def read(source: Path, subject: str | None) -> PublishedFiles:
    """Read a folder of images, or a table and its folder. Images get their number in natural order as name.

    Raises:
        BlastlensError: a table that cannot be used, or a pattern that is none or finds nothing.
    """
    folder = (source.parent if source.is_file() else source).resolve()
    files = {path.relative_to(folder).as_posix(): path for path in files_under(folder)}
    files = {name: path for name, path in files.items() if not any(map(is_junk, name.split("/")))}
    names = sorted((name for name in files if not name.lower().endswith(TABLES)), key=natural)
    tables, used, notes = SubjectTables(), [], []
    for table in [source] if source.is_file() else [path for path in files.values() if path.parent == folder]:
        try:
            if table.name.lower().endswith(TABLES):
                tables.add(table.name, table.read_bytes)
                used.append(table.resolve())
        except BlastlensError as error:
            if source.is_file():
                raise
            notes.append(str(error))
    told, of_tables = tables.about(names)
    labels, subjects = [label or "" for _, label in told], [subject or "" for subject, _ in told if used]
    why = f"has no label in {listed([path.name for path in used], 'and')}" if used else ""
    folders = _folders(names)
    if not any(labels):
        labels, why = [parts[0] if parts else "" for parts in folders], "is in no sub-folder, which would be its label"
    if subject == IN_FOLDER:
        subjects = ["/".join(parts[1:]) for parts in folders]
    elif subject:
        subjects = _matches(subject, names)
    subjects = subjects or [""] * len(names)
    images, rejected = [], {}
    for number, (name, label, of) in enumerate(zip(names, labels, subjects, strict=True), start=1):
        if not label:
            rejected[files[name]] = why
        elif any(subjects) and not of:
            rejected[files[name]] = "has no subject, which other images have"
        else:
            images.append(PublishedImage(files[name], f"images/{number:06d}", printable(label), printable(of)))
    unused = [path for name, path in files.items() if name.lower().endswith(TABLES) and path not in used]
    return PublishedFiles(tuple(images), rejected, (), tuple(unused), tuple(used), notes=(*notes, *of_tables))


def _folders(names: Sequence[str]) -> list[list[str]]:
    """The folders that each image is in, without "train", "test" and the like where all images are in such a one."""
    folders = [name.split("/")[:-1] for name in names]
    divided = all(parts and parts[0].lower() in PARTS for parts in folders)
    return [parts[1:] if divided else parts for parts in folders]


def _matches(pattern: str, names: Sequence[str]) -> list[str]:
    """What the pattern, or its first group, finds in each name; "" for nothing."""
    try:
        found = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise BlastlensError(f"--subject {pattern!r} is no regular expression ({error}).") from None
    if names and not any(found):
        raise BlastlensError(f"--subject {pattern!r} finds nothing in any path, such as {names[0]}.")
    return [(match[1 if match.re.groups else 0] or "") if match else "" for match in found]


def near_duplicates(thumbnails: Floats, similarity: float) -> list[tuple[int, int]]:
    """Return the pairs of images whose thumbnails (N, S, S) correlate at least as much as `similarity`.

    Thumbnails (`slides.thumbnail`) are without slow shading, so that other brightness, size or compression makes no
    difference; a turned, mirrored or shifted copy is not found. Images without any detail are like no other.

    Raises:
        BlastlensError: more than `PAIRS_PER_IMAGE` pairs for each image.
    """
    flat = thumbnails.reshape(len(thumbnails), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.where(norm > 1, flat / np.maximum(norm, 1), 0).astype(np.float32)
    pairs: list[tuple[int, int]] = []
    for start in range(0, len(flat), BLOCK):
        alike = np.triu(flat[start : start + BLOCK] @ flat[start:].T >= similarity, 1)
        if len(pairs) + np.count_nonzero(alike) > PAIRS_PER_IMAGE * len(flat):
            raise BlastlensError(
                f"Over {PAIRS_PER_IMAGE} near-duplicates for each image: at a correlation of {similarity:g} these "
                "images are too alike; give a higher --similarity, or 1.01 to link equal files alone."
            )
        pairs += [(int(i) + start, int(j) + start) for i, j in zip(*np.nonzero(alike), strict=True)]
    return pairs


def summary(rows: Sequence[Row], originals: Sequence[str], pairs: Sequence[tuple[int, int]]) -> list[str]:
    """Return lines on classes, subjects, groups and near-duplicates."""
    lines = ["  images of each label"]
    labels = Counter(row.label for row in rows)
    lines += [f"    {label}: {number:,}" for label, number in sorted(labels.items())]
    subjects = Counter(row.subject for row in rows if row.subject)
    if subjects:
        lines.append(f"  images of each of {count(len(subjects), 'subject')}")
        by_label = Counter((row.subject, row.label) for row in rows)
        for subject in islice(sorted(subjects, key=natural), LISTED_SUBJECTS):
            each = ", ".join(
                f"{by_label[subject, label]:,} {label}" for label in sorted(labels) if by_label[subject, label]
            )
            lines.append(f"    {subject}: {each}")
        if len(subjects) > LISTED_SUBJECTS:
            lines.append(f"    and {count(len(subjects) - LISTED_SUBJECTS, 'more subject')}")
    else:
        lines.append("  NO SUBJECTS: every split is by image, and figures may be too high for new subjects;")
        lines.append("    give subjects in a column, or with --subject folder or --subject PATTERN")
    groups = Counter(row.group for row in rows)
    largest = count(max(groups.values()), "image")
    lines.append(f"  groups          {len(groups):,}, the largest of {largest}; a split keeps each whole")
    lines.append(f"  near-duplicates {count(len(pairs), 'pair')}{_example(originals, pairs)}")
    if across := [(i, j) for i, j in pairs if rows[i].label != rows[j].label]:
        lines.append(f"  CHECK LABELS    {count(len(across), 'pair')} of two labels{_example(originals, across)}")
    return lines


def _example(originals: Sequence[str], pairs: Sequence[tuple[int, int]]) -> str:
    return f", such as {originals[pairs[0][0]]} and {originals[pairs[0][1]]}" if pairs else ""
