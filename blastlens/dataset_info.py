"""What is known about the data sets that models are trained on: labels, images, citation, caveats.

The page, the API, the command line, the cards and the static page all take these facts from here. They are in
`dataset_info.toml`; a fact that is not known is the text "unknown".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .tables import read_table

UNKNOWN = "unknown"
DATASET_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)  # of own images
BY_IMAGE = (
    "The split is by image, since subjects are unknown: images of one subject may be on both sides, so every figure "
    "may be too high for new subjects."
)


@dataclass(frozen=True)
class DatasetInfo:
    """One data set. Texts without a final full stop become part of sentences."""

    name: str  # its folder name and its name in recipes; "" if unknown
    title: str  # as its authors call it
    labels: tuple[str, ...]  # in the order of a model's outputs
    hub_name: str = ""  # in the front matter of a card; neither of the known data sets is on the Hub
    input_kind: str = ""  # "Single cell" or "Smear field"
    meanings: dict[str, str] = field(default_factory=dict)  # label -> short explanation
    leukemic: tuple[str, ...] = ()  # labels that count as leukemic
    question: str = ""  # that a model trained on it answers
    input_description: str = "images like its training images"
    input_format: str = "Use images like the training images."  # which files to give to a model
    example_file: str = "image.png"  # for code examples
    published_images: str = "published images"  # those that its authors publish for training
    missing_images: str = "The reason is not recorded"  # which of them were not available to this project
    manual_steps: str = ""  # what a user must do before an image can be classified
    unseen: str = "groups of images that are not in its training data"  # what group-disjoint figures are measured on
    group: str = "what the data set defines as a group"  # the unit that a split keeps together
    setting: str = UNKNOWN  # where the images were taken
    healthy_groups: tuple[str, str] | None = None  # label of those reported individually, and what they are called
    citation: str = ""  # in one line, with the DOI
    doi: str = ""
    terms: str = UNKNOWN  # licence or terms of use
    bibtex: str = ""
    preparation: str = "How the images were prepared is not recorded"
    label_source: str = f"the labels that came with the images; how they were assigned is {UNKNOWN}"
    caution: str = ""  # the sentence that must accompany every figure
    limits: tuple[str, ...] = ("What the data set cannot show is unknown; ask its authors.",)

    @property
    def known(self) -> bool:
        """Whether it is one of `DATASETS`."""
        return self.name in DATASETS and DATASETS[self.name] == self


_RECORDS = read_table(Path(__file__).with_suffix(".toml"))
DATASETS = {name: DatasetInfo(name, **record) for name, record in _RECORDS.items()}
CNMC2019 = DATASETS["cnmc2019"]
# Images that OOD detection is tested with, by their names in gate.json.
OOD_TEST_IMAGES = {
    "photos": "photographs",
    "bccd_fields": "whole smear fields (BCCD)",
    "aria2021": "smear fields (4-class set)",
    "cnmc2019": "single cells (C-NMC 2019)",
}


def dataset_info(labels: Sequence[str], name: str | None = None, subjects: bool | None = None) -> DatasetInfo:
    """Return what is known about the data set of a model.

    Args:
        labels: of the model, in any order.
        name: of the data set; None to search by labels alone.
        subjects: whether the subjects of own images are known; None for other data sets.

    Returns:
        the known data set with exactly these labels (and this name), else an entry that states no more than these.

    >>> dataset_info(["ALL", "HEM"]).title
    'C-NMC 2019'
    >>> dataset_info(["cat", "dog"], "pets").known
    False
    """
    for one in DATASETS.values():
        if set(labels) == set(one.labels) and name in (None, one.name):
            return one
    listed = " or ".join(labels) if len(labels) <= 4 else f"{', '.join(labels[:3])} or {len(labels) - 3} other labels"
    info = DatasetInfo(
        name=name or "",
        title=name or "unknown data set",
        labels=tuple(labels),
        hub_name=name or "",
        question=f"Which label: {listed}?",
        citation=f"{name}, a data set about which no more than its name is known here" if name else "",
    )
    if subjects is None:
        return info
    return replace(
        info,
        unseen="subjects that are not in its training data"
        if subjects
        else "images that are not in its training data (split by image, since subjects are unknown)",
        group="a subject, with those that share near-duplicates" if subjects else "an image with its near-duplicates",
        caution="" if subjects else BY_IMAGE,
        citation=f"{name}, images of the user",
        preparation="Larger images were shrunk to the same shorter side; nothing was cropped",
    )


def trained_on(labels: Sequence[str], metrics: Mapping[str, Any]) -> DatasetInfo:
    """Return what is known about the data set that metrics.json says a model with these labels was trained on."""
    about = (metrics.get("training") or {}).get("dataset")
    name, subjects = (about.get("name"), about.get("subjects")) if isinstance(about, dict) else (None, None)
    named = isinstance(name, str) and DATASET_NAME.fullmatch(name)
    return dataset_info(labels, name if named else None, subjects if isinstance(subjects, bool) else None)
