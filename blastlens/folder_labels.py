"""Labelled images of one's own: which folder means which class of a model, and whose image each is.

Names only; no image is read here. How a model does on them is `evaluation`'s work.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .errors import BlastlensError
from .image_sources import Source, Sources, natural, subject_name
from .wording import count, listed

MAX_LABELLED = 2_000
# Below so many images nothing can be said of a model.
FEW_IMAGES = 20

# Other names people give to the classes, by the model's labels; in lower case, words apart, without punctuation.
SYNONYMS: dict[tuple[str, ...], dict[str, tuple[str, ...]]] = {
    ("ALL", "HEM"): {
        "ALL": ("blast", "leukemia", "leukemic", "lymphoblast", "malignant", "leukaemia", "leukaemic"),
        "HEM": ("normal", "healthy", "control", "hematogone"),
    },
    ("Benign", "Early", "Pre", "Pro"): {
        "Benign": ("normal", "healthy", "control", "hematogone"),
        "Early": ("early pre b",),
        "Pre": ("pre b",),
        "Pro": ("pro b",),
    },
}
# File names of the data sets that models of these labels learned from.
TRAINING_NAMES: dict[tuple[str, ...], re.Pattern[str]] = {
    ("ALL", "HEM"): re.compile(r"UID_H?\d+_\d+_\d+_(all|hem)\.", re.IGNORECASE),
    ("Benign", "Early", "Pre", "Pro"): re.compile(r"WBC-(Benign|Malignant)-", re.IGNORECASE),
}


@dataclass(frozen=True)
class LabelledImage:
    """An image with the label that is held to be true, and the person it is of, None where nothing says so."""

    source: Source
    label: str
    subject: str | None


@dataclass(frozen=True)
class Reading:
    """How a name was read: as `label`, because it is spelled like it or (`by_synonym`) means the same."""

    name: str
    label: str
    by_synonym: bool
    images: int


@dataclass(frozen=True)
class LabelledImages:
    """What can be tested, and what cannot.

    Attributes:
        images: in natural order of their names.
        readings: every class name found, and what it was taken for.
        subjects_by: how people were told apart, as the end of "People were told apart by ..."; None if not at all.
        from_training: how many of the images are named like those of the data set the model learned from. They are
            among them only where fewer than 20 others are left; else they are refused.
        refused: name of a file or folder, and one sentence.
        left_out: how many images are in the refused folders, or are refused by themselves.
        notes: one sentence each.
    """

    images: tuple[LabelledImage, ...]
    readings: tuple[Reading, ...]
    subjects_by: str | None
    from_training: int
    refused: tuple[tuple[str, str], ...]
    left_out: int
    notes: tuple[str, ...]


def label_of(name: str, label_names: Sequence[str]) -> str | None:
    """The label that a folder's name means, None if it is none of them.

    >>> label_of("Leukemia", ("ALL", "HEM"))
    'ALL'
    >>> label_of("[Malignant] early Pre-B", ("Benign", "Early", "Pre", "Pro"))
    'Early'
    """
    synonyms = SYNONYMS.get(tuple(label_names), {})
    plain = _plain(name)
    # Copies of the four-class set call three of its folders "[Malignant] ...".
    for spelled in (plain, plain.removeprefix("malignant "), plain.removesuffix("s")):
        for label in label_names:
            if spelled == _plain(label) or spelled in synonyms.get(label, ()):
                return label
    return None


def accepted(label_names: Sequence[str]) -> str:
    """The names that are understood, as the end of a sentence: "ALL (or blast, ...) or HEM (or normal, ...)"."""
    synonyms = SYNONYMS.get(tuple(label_names), {})
    return listed(
        [f"{label} (or {', '.join(synonyms[label][:5])})" if label in synonyms else label for label in label_names]
    )


def match_labels(found: Sources, label_names: Sequence[str]) -> LabelledImages:
    """Read labels and people from what was found.

    The label is what a table says, and else the folder whose name means a class, at any depth. The person is what a
    table or a C-NMC file name says, and else the folder inside the class folder, if there are several such folders.
    A name means the same person wherever it stands.

    Raises:
        BlastlensError: no labelled image, or over 2,000.
    """
    folders = [PurePosixPath(source.name).parts[:-1] for source in found.sources]
    shared = _shared_depth(folders)
    read: list[_Read] = []
    unknown: Counter[str] = Counter()
    refused = list(found.refused)
    left_out = 0
    for source, parts in zip(found.sources, folders, strict=True):
        try:
            name, label, depth = _label(source, parts, shared, label_names)
        except BlastlensError as error:
            refused.append((source.name, str(error)))
            left_out += 1
            continue
        if label is None:
            unknown[name] += 1
            continue
        read.append(_Read(source, name, label, depth))
    for name, images in unknown.items():
        refused.append((name or "(no folder)", _not_a_class(name, images, label_names)))
    if not read:
        first = refused[0][1] if refused else "There is no image."
        more = f" {len(refused) - 1:,} more were refused." if len(refused) > 1 else ""
        raise BlastlensError(f"There is no labelled image to test on. {first}{more}")
    known = [one for one in read if _is_known(one.source, label_names)]
    from_training = len(known)
    if 0 < from_training <= len(read) - FEW_IMAGES:
        refused.append(("(images it learned from)", _learned_from(known[0].source.name, from_training)))
        left_out += from_training
        read = [one for one in read if not _is_known(one.source, label_names)]
        from_training = 0
    if len(read) > MAX_LABELLED:
        raise BlastlensError(
            f"There are {len(read):,} labelled images; at most {MAX_LABELLED:,} are tested at a time, so give fewer "
            "of each person."
        )
    subjects, subjects_by = _subjects(read)
    names = Counter((one.name, one.label) for one in read)
    return LabelledImages(
        images=tuple(
            LabelledImage(one.source, one.label, subject) for one, subject in zip(read, subjects, strict=True)
        ),
        readings=tuple(
            Reading(name, label, _plain(name) != _plain(label), images)
            for (name, label), images in sorted(names.items(), key=lambda item: natural(item[0][0]))
        ),
        subjects_by=subjects_by,
        from_training=from_training,
        refused=tuple(refused),
        left_out=left_out + sum(unknown.values()),
        notes=found.notes,
    )


@dataclass(frozen=True)
class _Read:
    """An image, the name its label was read from, and at which depth of folders that stands; None if in a table."""

    source: Source
    name: str
    label: str
    depth: int | None


def _is_known(source: Source, label_names: Sequence[str]) -> bool:
    training = TRAINING_NAMES.get(tuple(label_names))
    return bool(training and training.match(PurePosixPath(source.name).name))


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def _shared_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """How many folders all images share from the top: "all/" around everything need not mean the class ALL."""
    if not folders:
        return 0
    depth = 0
    for level in zip(*folders, strict=False):
        if len(set(level)) > 1:
            break
        depth += 1
    return depth


def _label(
    source: Source, parts: tuple[str, ...], shared: int, label_names: Sequence[str]
) -> tuple[str, str | None, int | None]:
    """The name that was read, the label it means (None if none), and at which depth of folders it stands."""
    meant = {depth: label for depth, part in enumerate(parts) if (label := label_of(part, label_names))}
    # A folder around everything tells nothing apart, unless there is nothing below it that could.
    meant = {depth: label for depth, label in meant.items() if depth >= shared} or meant
    if source.label is not None:
        label = label_of(source.label, label_names)
        if label is None:
            raise BlastlensError(
                f"{source.name} has the label {source.label!r} in its table, which is none of this model's classes; "
                f"write {accepted(label_names)}."
            )
        if set(meant.values()) - {label}:
            folder = "/".join(parts)
            raise BlastlensError(f"{source.name} is {label} in its table, but lies in {folder}; correct one of them.")
        return source.label, label, max(meant) if meant else None
    if len(set(meant.values())) > 1:
        raise BlastlensError(
            f"{source.name} lies in folders of two classes ({', '.join(meant.values())}); leave one of them out."
        )
    if not meant:
        return "/".join(parts[: shared + 1]), None, None
    depth = max(meant)
    return parts[depth], meant[depth], depth


def _not_a_class(name: str, number: int, label_names: Sequence[str]) -> str:
    images, choice = count(number, "image"), accepted(label_names)
    if not name:
        return f"{images} in no folder: nothing says what they are; put them into folders named {choice}."
    return f"Folder {name} ({images}) is named like none of this model's classes; name it {choice}."


def _learned_from(first: str, number: int) -> str:
    they, named = ("it", f"image ({first}) is") if number == 1 else ("they", f"images, such as {first}, are")
    return (
        f"{number:,} {named} named like those of the data set this model learned from. On images it has seen, a model "
        f"looks better than it is, so {they} {'is' if number == 1 else 'are'} left out."
    )


def _subjects(read: Sequence[_Read]) -> tuple[list[str | None], str | None]:
    """Whose the images are, and how that was told."""
    inside = [_folder_inside(one) for one in read]
    # One folder of the same name in each class is how the images are stored, not a person.
    by_folder = len({folder for folder in inside if folder}) > 1
    subjects, ways = [], set()
    for one, folder in zip(read, inside, strict=True):
        subject = one.source.subject
        if subject is not None:
            ways.add("a table or their C-NMC file names")
        elif by_folder and folder:
            subject = subject_name(folder)
            ways.add("the folders inside the class folders")
        subjects.append(subject)
    return subjects, " and ".join(sorted(ways)) or None


def _folder_inside(one: _Read) -> str | None:
    parts = PurePosixPath(one.source.name).parts[:-1]
    return parts[one.depth + 1] if one.depth is not None and one.depth + 1 < len(parts) else None
