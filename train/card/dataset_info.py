"""What is known of the data sets and of the weights that training starts from, in words. Unknown is called unknown."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

UNKNOWN = "unknown"


@dataclass(frozen=True)
class DataSet:
    """A data set, as a card speaks of it.

    Attributes:
        title: its name.
        hub_name: what the front matter calls it. Neither set is published on the Hub by its authors.
        question: what its models are asked.
        meanings: label -> what it stands for; empty where nobody told us.
        give: which images to give, and in which form.
        example: a file name for the lines to copy.
        published: what its authors publish that a model could be trained on; `lacking`: which of it we do not have.
        handling: what somebody must do before an image can be given; empty where nothing.
        unseen: what the group-disjoint figures were measured on.
        group: what a group is.
        setting: where its images come from.
        healthy: the label of the groups whose specificity is listed one by one, and what those groups are called.
        credit: as its authors ask to be credited.
        doi: empty where there is none.
        terms: under which it is published, as far as we know.
        bibtex: entries to cite.
        preparation: how its images were brought into the form that the network sees.
        reference: where the labels come from.
        caution: the sentence that must stand beside any figure.
        limits: sentences on what it cannot show.
    """

    title: str
    hub_name: str
    question: str
    meanings: dict[str, str]
    give: str
    example: str
    published: str
    lacking: str
    handling: str
    unseen: str
    group: str
    setting: str
    healthy: tuple[str, str] | None
    credit: str
    doi: str
    terms: str
    bibtex: str
    preparation: str
    reference: str
    caution: str
    limits: tuple[str, ...]

    @property
    def known(self) -> bool:
        """Whether it is one of those that the project has a reader for."""
        return self in _DATASETS.values()


_DATASETS = {
    "cnmc2019": DataSet(
        title="C-NMC 2019",
        hub_name="c-nmc-2019",
        question="Is one stained white cell, cut out on black, a leukemic blast (ALL) or a healthy precursor (HEM)?",
        meanings={"ALL": "leukemic B-lymphoblast", "HEM": "normal B-lymphoid precursor"},
        give=(
            "Give it one segmented cell on black: the published 450 x 450 BMP, or its centre 320 px resized to 224. "
            "Both reach the network as the same pixels."
        ),
        example="cell.bmp",
        published="labelled training images",
        lacking=(
            "Folds 0 and 1 are complete; of fold 2 we have only the seven subjects linked to them by shared images "
            "and, in newer models, nine more, so that most subjects of fold 2 are missing. The data set's two test "
            "sets were not used"
        ),
        handling="somebody must cut each cell out on black, as the data's authors did",
        unseen="cells of people it never saw",
        group="a person, or people who share images",
        setting="one laboratory, as far as we know; specimen (blood or marrow): not known to us",
        healthy=("HEM", "healthy donors"),
        credit=(
            "Gupta, A., & Gupta, R. (2019), *ALL Challenge dataset of ISBI 2019* (C-NMC 2019), The Cancer Imaging "
            "Archive"
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
            "Its authors cut the cells out on black and normalised their stain. We keep the centre 320 of 450 px, "
            "resize it to 224 px (Lanczos) and change nothing else. Subjects who share images, as identical files or "
            "as the same cells photographed again, are one group"
        ),
        reference="the authors' label of each cell (ALL or HEM), taken as it is",
        caution="Healthy donors are few and the cells come from one laboratory: elsewhere it may do worse.",
        limits=(
            "All cells come from one laboratory, with one stain normalisation, and were cut out beforehand. What "
            "differs from person to person (size, tint, brightness) and what differs between healthy and leukemic "
            "cells is hard to tell apart with so few healthy donors.",
            "In this data set the same people appear under several names, as identical files or as the same cells "
            "photographed again. We linked those that we found and kept them on one side; there may be more.",
        ),
    ),
    "aria2021": DataSet(
        title="Acute Lymphoblastic Leukemia (ALL) image dataset",
        hub_name="acute-lymphoblastic-leukemia-image-dataset",
        question="Is a stained smear field benign, or which subtype of B-cell leukemia does it show?",
        meanings={
            "Benign": "no leukemia",
            "Early": "early pre-B leukemia",
            "Pre": "pre-B leukemia",
            "Pro": "pro-B leukemia",
        },
        give="Give it a whole smear field as the data set publishes them, 224 x 224 px.",
        example="field.jpg",
        published="published images",
        lacking="How the missing ones differ from these is not known to us",
        handling="somebody must choose and photograph each field, as the data's authors did",
        unseen="slides that look unlike those it was trained on",
        group="a cluster of slides that look alike, a proxy for people",
        setting="not looked up by us",
        healthy=None,
        credit="Aria, M., et al. (2021), *Acute Lymphoblastic Leukemia (ALL) image dataset*",
        doi="10.34740/kaggle/dsv/2175623",
        terms="unknown for derived weights; credit the authors, not for redistribution",
        bibtex="""@misc{aria2021,
  title  = {{Acute Lymphoblastic Leukemia (ALL) image dataset}},
  author = {Aria, Mehrad and others},
  year   = {2021},
  doi    = {10.34740/kaggle/dsv/2175623}
}""",
        preparation=(
            "Published fields are used as they are. Since no patient ids are published, fields are grouped by how "
            "their slides look; fields that overlap or are identical are always in one group"
        ),
        reference="the authors' folder of each field (Benign, Early, Pre or Pro), taken as it is",
        caution=(
            "Colour gives these classes away, since each was photographed under its own conditions: this data set "
            "cannot show that a model knows leukemia."
        ),
        limits=(
            "The data set publishes no patient ids. Groups are clusters of slide appearance, a proxy: a slide, or a "
            "patient, may still be on both sides, so these figures may flatter the model.",
            "Each class was photographed under its own conditions. A high figure may come from colour as well as from "
            "cells, and nothing here tells the two apart.",
        ),
    ),
}

# What a reader must know of how a recipe of ours was found.
RECIPE_LIMITS = {
    "ours_cnmc2019": (
        "The recipe was chosen by short cross-validated runs on these same people, so the figure for a new hospital "
        "may be lower."
    ),
    "features_cnmc2019": (
        "The recipe was chosen among candidates that were compared on these same donors (results/SEARCH.md of the "
        "project), so the figure for a new hospital may be lower."
    ),
    "ours_aria2021": (
        "The recipe's image size was chosen by cross-validated runs on these same images, so the figure for other "
        "slides may be lower."
    ),
}

# What must be said of a recipe's name: at once, and where its making is told.
RECIPE_NAMES = {
    "features_cnmc2019": (
        "Not the published MobileNet_M: it shares only the architecture; [recipe and weights are our own]"
        "(#how-it-was-made)."
    ),
    "ours_cnmc2019": (
        "Not the published MobileNet_M: name and idea are taken from it, [recipe and weights are our own]"
        "(#how-it-was-made)."
    ),
}
RECIPE_REMARKS = {
    "ours_cnmc2019": (
        "Model name and idea are from MobileNet_M (Makem, Tamas, Bușoniu 2025, doi 10.3389/frai.2025.1620252); recipe "
        "and weights are our own"
    )
}

# What the input check calls the strangers it was measured on.
STRANGERS = {
    "photos": "photographs",
    "bccd_fields": "whole smear fields (BCCD)",
    "aria2021": "smear fields (4-class set)",
    "cnmc2019": "single cells (C-NMC 2019)",
}


def data_set(name: str, labels: Sequence[str]) -> DataSet:
    """What is known of a data set; of one with another name or other labels, nothing but these."""
    found = _DATASETS.get(name)
    if found and set(labels) == set(found.meanings):
        return found
    return DataSet(
        title=name,
        hub_name=name,
        question=f"Which of {', '.join(labels)} does an image show?",
        meanings={},
        give="Give it images like those it was trained on.",
        example="image.png",
        published="published images",
        lacking="Why is not recorded",
        handling="",
        unseen="groups of images it never saw",
        group="what the data set names so",
        setting=UNKNOWN,
        healthy=None,
        credit=f"{name}, a data set of which this card knows no more than the name",
        doi="",
        terms=UNKNOWN,
        bibtex="",
        preparation="How its images were prepared is not recorded",
        reference=f"the labels that came with the images; how they were found is {UNKNOWN}",
        caution="",
        limits=("What the data set cannot show is unknown; ask whoever made it.",),
    )


@dataclass(frozen=True)
class Start:
    """What training started from: in words, and the Hub page of that network, where there is one."""

    words: str
    hub_name: str | None = None
    remark: str = ""


_REMARK = (
    "The front matter's `base_model` names the nearest page on the Hub: the same architecture and training set, other "
    "weights. This file came from {maker}, not from there"
)
_STARTS = {
    "random": Start("random numbers, no earlier training"),
    "mobilenetv1_100.in1k.safetensors": Start(
        "ImageNet-1k weights of TensorFlow's MobileNetV1 1.0 224 (trained for quantisation, converted back, its "
        "batch-norm statistics estimated again), Apache-2.0",
        "google/mobilenet_v1_1.0_224",
        _REMARK.format(maker="TensorFlow"),
    ),
    "mobilenetv2_100.in1k.safetensors": Start(
        "ImageNet-1k weights of Keras's MobileNetV2 1.0 224, Apache-2.0",
        "google/mobilenet_v2_1.0_224",
        _REMARK.format(maker="Keras"),
    ),
}


def start(initial_weights: str) -> Start:
    """What is known of the weights that metrics.json records as the first ones: a file's or a Hub repository's name."""
    if initial_weights in _STARTS:
        return _STARTS[initial_weights]
    on_hub = re.fullmatch(r"([\w.-]+/[\w.-]+)( from the Hub)?", initial_weights)
    if on_hub:
        return Start(f"weights of `{on_hub[1]}` on the Hub, under that repository's terms", on_hub[1])
    return Start(f"the file `{initial_weights}`, of origin and terms {UNKNOWN}")
