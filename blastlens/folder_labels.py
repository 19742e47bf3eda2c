"""Labels and subjects of a user's images, read from folder names and tables. No image is opened here."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import PurePosixPath

from .errors import BlastlensError
from .image_sources import Source, Sources, natural
from .subject_tables import subject_name
from .wording import count, listed

MAX_LABELLED = 2_000
FEW_IMAGES = 20  # with fewer, a model cannot be judged

# Other names of the classes, by the model's labels; in lower case, separate words, without punctuation.
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
# File names of the data sets that models of these labels were trained on.
TRAINING_NAMES: dict[tuple[str, ...], re.Pattern[str]] = {
    ("ALL", "HEM"): re.compile(r"UID_H?\d+_\d+_\d+_(all|hem)\.", re.IGNORECASE),
    ("Benign", "Early", "Pre", "Pro"): re.compile(r"WBC-(Benign|Malignant)-", re.IGNORECASE),
}


# Numbers that stand for the classes in tables, such as that of C-NMC 2019; a folder "1" may be anything.
NUMBERS: dict[tuple[str, ...], dict[str, str]] = {("ALL", "HEM"): {"1": "ALL", "0": "HEM"}}


@dataclass(frozen=True)
class LabelledImage:
    """An image with its true label, and its subject, None if unknown."""

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
    """What can be validated, and what cannot.

    Attributes:
        images: in natural order of their names.
        readings: every class name found, and the label it was read as.
        subjects_by: what subjects were read from; None if they are unknown.
        from_training: how many of the images have names like those of the training data. They are kept only where
            fewer than 20 others are left; else they are refused.
        refused: name of a file or folder, and one sentence.
        left_out: how many images are in the refused folders, or are refused themselves.
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
    """Read labels and subjects from what was found.

    The label comes from a table, or else from the folder, at any depth, whose name means a class. The subject comes
    from a table or a C-NMC file name, or else from the folder inside the class folder, if there are several such
    folders. A name means the same subject everywhere.

    Raises:
        BlastlensError: no labelled image, or over 2,000.
    """
    shared = _shared_depth([PurePosixPath(source.name).parts[:-1] for source in found.sources])
    read: list[_Read] = []
    refused = list(found.refused)
    unknown: Counter[str] = Counter()
    left_out = 0
    for source in found.sources:
        try:
            one = _read_label(source, shared, label_names)
        except BlastlensError as error:
            refused.append((source.name, str(error)))
            left_out += 1
            continue
        if one.label:
            read.append(one)
        else:
            unknown[one.name] += 1
    for name, images in unknown.items():
        refused.append((name or "(no folder)", _not_a_class(name, images, label_names)))
    left_out += sum(unknown.values())
    if not read:
        first = refused[0][1] if refused else "There is no image."
        more = f" {len(refused) - 1:,} more were refused." if len(refused) > 1 else ""
        raise BlastlensError(f"There is no labelled image to test on. {first}{more}")
    training = [one for one in read if _is_from_training(one.source, label_names)]
    if 0 < len(training) <= len(read) - FEW_IMAGES:
        refused.append(("(training images)", _learned_from(training[0].source.name, len(training))))
        left_out += len(training)
        read = [one for one in read if not _is_from_training(one.source, label_names)]
        training = []
    if len(read) > MAX_LABELLED:
        raise BlastlensError(
            f"There are {len(read):,} labelled images; at most {MAX_LABELLED:,} are tested at a time, so give fewer "
            "per subject."
        )
    subjects, subjects_by = _subjects(read)
    names = sorted(Counter((one.name, one.label) for one in read).items(), key=lambda item: natural(item[0][0]))
    return LabelledImages(
        tuple(LabelledImage(one.source, one.label, subject) for one, subject in zip(read, subjects, strict=True)),
        tuple(Reading(name, label, _plain(name) != _plain(label), number) for (name, label), number in names),
        subjects_by,
        len(training),
        tuple(refused),
        left_out,
        found.notes,
    )


@dataclass(frozen=True)
class _Read:
    """An image, the name its label was read from, the label ("" if the name means none), and the folder's depth."""

    source: Source
    name: str
    label: str
    depth: int | None = None


def _read_label(source: Source, shared: int, label_names: Sequence[str]) -> _Read:
    """Read the label of an image; the first `shared` folders are those that all images share."""
    parts = PurePosixPath(source.name).parts[:-1]
    labels = {depth: label for depth, part in enumerate(parts) if (label := label_of(part, label_names))}
    # A folder around all images distinguishes nothing, unless there is nothing below it that does.
    labels = {depth: label for depth, label in labels.items() if depth >= shared} or labels
    if source.label is not None:
        numbers = NUMBERS.get(tuple(label_names), {})
        label = label_of(source.label, label_names) or numbers.get(source.label.strip())
        if label is None:
            raise BlastlensError(
                f"{source.name} has the label {source.label!r} in its table, which is none of this model's classes; "
                f"write {accepted(label_names)}."
            )
        if set(labels.values()) - {label}:
            folder = "/".join(parts)
            raise BlastlensError(f"{source.name} is {label} in its table, but lies in {folder}; correct one of them.")
        return _Read(source, source.label, label, max(labels, default=None))
    if len(set(labels.values())) > 1:
        raise BlastlensError(
            f"{source.name} lies in folders of two classes ({', '.join(labels.values())}); leave one of them out."
        )
    if not labels:
        return _Read(source, "/".join(parts[: shared + 1]), "")
    depth = max(labels)
    return _Read(source, parts[depth], labels[depth], depth)


def _is_from_training(source: Source, label_names: Sequence[str]) -> bool:
    names = TRAINING_NAMES.get(tuple(label_names))
    return bool(names and names.match(PurePosixPath(source.name).name))


def _plain(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def _shared_depth(folders: Sequence[tuple[str, ...]]) -> int:
    """How many folders all images share from the top: "all/" around everything need not mean the class ALL."""
    levels = zip(*folders, strict=False)
    return sum(1 for _ in takewhile(lambda level: len(set(level)) == 1, levels))


def _not_a_class(name: str, number: int, label_names: Sequence[str]) -> str:
    images, choice = count(number, "image"), accepted(label_names)
    if not name:
        return f"{images} in no folder: the labels are unknown; put them into folders named {choice}."
    return f"Folder {name} ({images}) is named like none of this model's classes; name it {choice}."


def _learned_from(first: str, number: int) -> str:
    named, are = (f"image ({first}) is", "it is") if number == 1 else (f"images, such as {first}, are", "they are")
    return (
        f"{number:,} {named} named like those of the training data. Figures on images that a model was trained on are "
        f"too optimistic, so {are} left out."
    )


def _subjects(read: Sequence[_Read]) -> tuple[list[str | None], str | None]:
    """The subject of each image, and what subjects were read from."""
    inside = [_folder_inside(one) for one in read]
    # One folder of the same name in each class is how the images are stored, not a subject.
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
