"""What is known about the data sets that models are trained on: labels, images, citation, caveats. Text only, no I/O.

The page, the API, the command line, the cards and the static page all take these facts from here. A fact that is not
known is the text "unknown".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

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


CNMC2019 = DatasetInfo(
    name="cnmc2019",
    title="C-NMC 2019",
    hub_name="c-nmc-2019",
    input_kind="Single cell",
    labels=("ALL", "HEM"),
    meanings={"ALL": "leukemic B-lymphoblast", "HEM": "normal B-lymphoid precursor"},
    leukemic=("ALL",),
    question="Is this cell a leukemic B-lymphoblast (ALL) or a normal B-lymphoid precursor (HEM)?",
    input_description="one stained white blood cell, segmented on a black background",
    input_format=(
        "Use one segmented cell on black: the published 450 x 450 BMP, or its central 320 px resized to 224 px. Both "
        "result in the same pixels for the network."
    ),
    example_file="cell.bmp",
    published_images="labelled training images",
    missing_images=(
        "Folds 0 and 1 are complete; fold 2 is represented only by the seven subjects that share images with them and, "
        "in newer models, by nine more, so most subjects of fold 2 are missing. The two test sets were not used"
    ),
    manual_steps="each cell must be segmented on black, as in the published data",
    unseen="cells of subjects that are not in its training data",
    group="a subject, or subjects who share images",
    setting="one laboratory, as far as we know; specimen (blood or marrow): not known to us",
    healthy_groups=("HEM", "healthy donors"),
    citation=(
        "Gupta, A., & Gupta, R. (2019), ALL Challenge dataset of ISBI 2019 (C-NMC 2019), The Cancer Imaging Archive, "
        "doi 10.7937/tcia.2019.dc64i46r"
    ),
    doi="10.7937/tcia.2019.dc64i46r",
    terms="believed CC BY 3.0, attribution required",
    bibtex="""@misc{cnmc2019,
  title     = {{ALL Challenge dataset of ISBI 2019 (C-NMC 2019)}},
  author    = {Gupta, Anubha and Gupta, Ritu},
  year      = {2019},
  publisher = {The Cancer Imaging Archive},
  doi       = {10.7937/tcia.2019.dc64i46r}
}""",
    preparation=(
        "The authors segmented the cells on black and normalized their stain. We keep the central 320 of 450 px, "
        "resize it to 224 px (Lanczos) and change nothing else. Subjects who share images, as identical files or as "
        "the same cells photographed again, form one group"
    ),
    label_source="the authors' label of each cell (ALL or HEM), unchanged",
    caution="There are few healthy donors and only one laboratory: expect lower figures elsewhere.",
    limits=(
        "All cells come from one laboratory, with one stain normalization, and are segmented. With so few healthy "
        "donors, differences between subjects (size, tint, brightness) can hardly be separated from differences "
        "between healthy and leukemic cells.",
        "Some subjects appear under several names, as identical files or as the same cells photographed again. Those "
        "we found are linked and never split; there may be more.",
    ),
)

ARIA2021 = DatasetInfo(
    name="aria2021",
    title="Acute Lymphoblastic Leukemia (ALL) image dataset",
    hub_name="acute-lymphoblastic-leukemia-image-dataset",
    input_kind="Smear field",
    labels=("Benign", "Early", "Pre", "Pro"),
    meanings={
        "Benign": "no leukemia",
        "Early": "early pre-B leukemia",
        "Pre": "pre-B leukemia",
        "Pro": "pro-B leukemia",
    },
    leukemic=("Early", "Pre", "Pro"),
    question="Is this smear field benign, or which subtype of B-cell leukemia does it show?",
    input_description="a microscope field with many stained cells",
    input_format="Use a whole smear field as published, 224 x 224 px.",
    example_file="field.jpg",
    missing_images="How the missing images differ from these is not known to us",
    manual_steps="each field must be chosen and photographed as in the published data",
    unseen="slides that look different from its training slides (the data set has no patient ids)",
    group="a cluster of slides that look alike, as a proxy for a patient",
    setting="not looked up by us",
    citation=(
        "Aria, M., et al. (2021), Acute Lymphoblastic Leukemia (ALL) image dataset, doi 10.34740/kaggle/dsv/2175623"
    ),
    doi="10.34740/kaggle/dsv/2175623",
    terms="unknown for derived weights; credit the authors, not for redistribution",
    bibtex="""@misc{aria2021,
  title  = {{Acute Lymphoblastic Leukemia (ALL) image dataset}},
  author = {Aria, Mehrad and others},
  year   = {2021},
  doi    = {10.34740/kaggle/dsv/2175623}
}""",
    preparation=(
        "Published fields are used unchanged. Since no patient ids are published, fields are grouped by the appearance "
        "of their slides; overlapping and identical fields are always in one group"
    ),
    label_source="the authors' folder of each field (Benign, Early, Pre or Pro), unchanged",
    caution=(
        "Colour separates these classes, since each was photographed under its own conditions: this data set cannot "
        "show that a model recognizes leukemia."
    ),
    limits=(
        "The data set has no patient ids. Groups are clusters of slide appearance, a proxy: the same slide or patient "
        "may be on both sides of a split, so these figures may be too optimistic.",
        "Each class was photographed under its own conditions. A high figure may come from colour as well as from "
        "cells, and this data set cannot tell the two apart.",
    ),
)

DATASETS = {one.name: one for one in (CNMC2019, ARIA2021)}
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
