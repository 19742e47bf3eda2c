"""What the page says about models and labels, in words a visitor need not look up. No layout, no Gradio."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from .. import external_result
from ..corruptions import KINDS, Corruption
from ..model_folder import PRECISIONS, ModelFolder


@dataclass(frozen=True)
class Task:
    """What the models of one label set are asked.

    Attributes:
        question: the model's name on the page.
        looks_at: the kind of image it was trained on.
        meanings: label name -> what it stands for.
        unseen: what its group-disjoint figures were measured on.
        credit: the data set, as its authors ask to be credited.
    """

    question: str
    looks_at: str
    meanings: dict[str, str]
    unseen: str
    credit: str


TASKS = {
    ("ALL", "HEM"): Task(
        question="One cell: leukemic or healthy?",
        looks_at="one stained white cell, cut out on black",
        meanings={"ALL": "leukemic blast", "HEM": "healthy precursor cell"},
        unseen="cells of people it had never seen",
        credit="C-NMC 2019 (Gupta & Gupta, The Cancer Imaging Archive, doi 10.7937/tcia.2019.dc64i46r)",
    ),
    ("Benign", "Early", "Pre", "Pro"): Task(
        question="A smear field: benign, or which subtype?",
        looks_at="a microscope field with many stained cells",
        meanings={
            "Benign": "no leukemia",
            "Early": "early pre-B leukemia",
            "Pre": "pre-B leukemia",
            "Pro": "pro-B leukemia",
        },
        unseen="slides that look unlike its training slides (the set does not say which patient is which)",
        credit="Acute Lymphoblastic Leukemia image dataset (Aria et al., doi 10.34740/kaggle/dsv/2175623)",
    ),
}

# What the page's words mean: on hover wherever they stand, and in one go under "About".
MEANINGS = {
    "ALL": "Acute lymphoblastic leukemia; as a label of a cell, a leukemic blast.",
    "HEM": "The data set's name for a healthy precursor of the same cell line.",
    "Benign, Early, Pre, Pro": "The labels of the smear fields: no leukemia, and three subtypes of B-cell leukemia.",
    "probability": (
        "Calibrated over all answers together: of those given at 90 %, about nine in ten were right on held-out images "
        "like the training images. For one label alone the stated number can be far too high or too low, and on other "
        "stains, microscopes or kinds of image the promise does not hold at all."
    ),
    "accuracy": "The share of all images that were answered right.",
    "balanced accuracy": (
        "The share of right answers of each class, averaged over the classes, so that it does not matter how many "
        "images there are of each. Always giving the same answer scores 50 % with two classes, 25 % with four."
    ),
    "AUROC per donor": (
        "How often a leukemic cell gets a higher probability of leukemia than a cell of one healthy donor, averaged "
        "over healthy donors that the model never saw. 1 is perfect; 0.5 is guessing."
    ),
    "weighted F1": (
        "One number from 0 to 1 for how often a model finds each kind of cell without raising false alarms, averaged "
        "over the kinds by their numbers of images. 1 is perfect; always giving the same answer scores 0.33 where two "
        "kinds are equally frequent."
    ),
    "sensitivity": "Of the leukemic images, the share that was called leukemic.",
    "specificity": "Of the healthy images, the share that was called healthy.",
    "AUROC": (
        "How well the probabilities put images in order: the chance that of two images of different classes the right "
        "one gets the higher score. 0.5 is a coin, 1 is perfect."
    ),
    "calibration error": (
        "How far, on average, the stated probability is from how often it was right; 0 is perfect. With few images it "
        "comes out larger by chance alone."
    ),
    "95 % interval": (
        "Where the figure would likely fall for other people from the same source. The fewer people were measured, the "
        "wider it is."
    ),
    "image-level": (
        "The images were divided at random, so images of the same people are on both sides, in training and in the "
        "test. It flatters every system and says nothing about new people."
    ),
    "group-disjoint": (
        "Nobody's images are on both sides: the system is tested on people that it never saw. For smear fields, groups "
        "of slides that look alike stand in for people. This is the figure that means something."
    ),
    "group-kfold:3": (
        "Measured three times, each time on a third of the groups, none of which was among those that the model "
        "learned from."
    ),
    "leak": "Image-level minus group-disjoint accuracy: what a split by image promises too much.",
    "sigma": (
        "How strong the noise is: how far a pixel's brightness typically strays, on its scale from 0 to 255. Around 10 "
        "it is barely visible; at 100 little of the cell is left."
    ),
    "severity": (
        "How strong a flaw is, in five steps from hardly visible (1) to severe (5), so that different flaws compare."
    ),
    "flip rate": "The share of images whose answer changes when they are spoiled, to a right answer or a wrong one.",
    "mean corruption error": (
        "The errors on spoiled images, divided by those of a plain yardstick on the same images, averaged over all "
        "flaws. Below 1 the model errs less than the yardstick."
    ),
    "relative degradation": "The share of its score that a model loses to a flaw, averaged over the five severities.",
    "operating point": (
        "From which probability on an image is called leukemic. A lower one misses fewer and raises more false alarms."
    ),
    "prediction set": (
        "Instead of one answer, every answer that cannot be left out without breaking a promise: that the true label "
        "is among them as often as asked. One label is a sure answer, several are an honest don't know."
    ),
    "shortcut": (
        "Something that gives the label away without being the disease, such as the tint of one laboratory or a scale "
        "bar. A model that relies on one fails where it is missing."
    ),
    "activation map": (
        "Where in the image the network found support for its answer. It shows what moved the model, not disease, and "
        "is no evidence."
    ),
    "ImageNet weights": (
        "What a network has learned from a million everyday photographs. Starting from there takes fewer images of "
        "cells than starting from random numbers."
    ),
    "parameters": "The numbers that a network learns, in millions; the more there are, the larger its file.",
    "MobileNetV1": "A small network made for phones in 2017, here the yardstick for time: 2 means twice as long.",
    "fp32": "The usual precision of a network: 32 bits per number.",
    "int8": "8 bits per number: a smaller and quicker file of the same network, and a little less exact.",
    "Hub": "The Hugging Face Hub, where people publish models, each with all its earlier versions, its revisions.",
    "MCP": "Model Context Protocol: how AI assistants call programs. This page is such a program.",
}


def task_of(folder: ModelFolder) -> Task:
    """The task of a model folder; one with other labels gets a task that says no more than the labels."""
    names = folder.label_names
    return TASKS.get(names) or Task(
        question=_question(names),
        looks_at="images like those it was trained on",
        meanings={},
        unseen="groups of images it had never seen",
        credit="",
    )


def _question(names: Sequence[str]) -> str:
    """The labels themselves; of many, the first."""
    if len(names) <= 4:
        return " or ".join(names)
    return f"{', '.join(names[:3])} or one of {len(names) - 3} others"


# Where on its way from the smear to the screen an image takes each harm, and the kinds of `KINDS` that do it.
FAMILIES = {
    "Camera and light": (
        "gaussian_noise",
        "shot_noise",
        "speckle_noise",
        "brightness",
        "darker",
        "brighter",
        "contrast",
    ),
    "Focus and motion": ("blur", "defocus", "motion_blur"),
    "File and size": ("jpeg", "downsample"),
    "Colour and stain": ("saturation", "hue", "stain_hue", "stain_concentration", "stain_paler", "stain_darker"),
    "Placing and marks": ("shift", "scale_bar"),
}
_OTHER = "Other"


def by_family(kinds: Iterable[str]) -> dict[str, list[str]]:
    """Names of kinds of corruption by family, in the order in which they are given; families in that of `FAMILIES`."""
    of = {name: family for family, names in FAMILIES.items() for name in names}
    found: dict[str, list[str]] = {family: [] for family in (*FAMILIES, _OTHER)}
    for name in kinds:
        found[of.get(name, _OTHER)].append(name)
    return {family: names for family, names in found.items() if names}


def label_text(folder: ModelFolder, label: str) -> str:
    """A label with its meaning: "ALL · leukemic blast"."""
    meaning = task_of(folder).meanings.get(label)
    return f"{label} · {meaning}" if meaning else label


def amount(change: Corruption) -> str:
    """How an image was changed, in words: "noise 30", "blur 2 px", "stain hue -20°"."""
    kind = KINDS[change.kind]
    title = kind.title if kind.title.startswith("JPEG") else kind.title.lower()
    space = " " if kind.unit in ("px", "%") else ""
    return f"{title} {change.level:g}{space}{kind.unit}"


def model_choice(folder: ModelFolder) -> str:
    """The line by which a model is picked."""
    return f"{task_of(folder).question} ({folder.model_id})"


def facts(folder: ModelFolder) -> str:
    """HTML: what the model looks at, how good it is and on which evidence, how large it is and how quick."""
    task = task_of(folder)
    rows = [("How good", f"{_how_good(folder, task)}. {_external(folder)}"), ("Looks at", escape(task.looks_at))]
    weights = folder.path / PRECISIONS["fp32"]
    if weights.is_file():
        rows.append(("Size", f"{weights.stat().st_size / 1e6:.1f} MB"))
    if time := folder.metrics.get("latency_ms"):
        rows.append(("Takes", f"{time['fp32']:.1f} ms an image on {escape(str(time['threads']))} cores"))
    if folder.revision:
        rows.append(("From", f"{term('Hub')}, revision {escape(folder.revision[:7])}"))
    items = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in rows)
    return f'<dl class="facts">{items}</dl>'


def _how_good(folder: ModelFolder, task: Task) -> str:
    name, score = main_score(folder.metrics)
    if not score:
        return "not measured, as far as this page knows: its answers mean nothing yet"
    interval = f" (95 % interval {score['low']:.2f} to {score['high']:.2f})" if "low" in score else ""
    protocol = str(folder.metrics["headline"].get("protocol", ""))
    evidence = (
        f"on {escape(task.unseen)}"
        if protocol.startswith("group")
        else f"{term('image-level')}: flattered by a split by image"
    )
    return f"<strong>{term(name)} {score['value']:.2f}</strong>{interval} {evidence}"


def headline_of(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """The scores of a protocol without noise, those by donor among them."""
    clean = protocol["by_sigma"][0]
    return {**clean, **clean.get("donors", {})}


def main_score(metrics: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The score that a model is shown with, and what it is called: by donor where donors were told apart."""
    headline = metrics.get("headline") or {}
    if by_donor := headline.get("auroc_per_donor"):
        return "AUROC per donor", by_donor
    return "weighted F1", headline.get("weighted_f1") or {}


def _external(folder: ModelFolder) -> str:
    caveat = external_result.caveat(folder.metrics)
    told = f"<strong>{escape(external_result.sentence(folder.metrics))}</strong>"
    return f"{told} {term('Caveat', caveat)}" if caveat else told


def term(word: str, meaning: str = "") -> str:
    """HTML: a word whose explanation opens on hover, on keyboard focus and on a tap.

    Args:
        word: as it is shown.
        meaning: left out for the words of MEANINGS.
    """
    meaning = escape(meaning or MEANINGS[word])
    return (
        f'<span class="term" tabindex="0" role="note" aria-label="{escape(word)}: {meaning}" '
        f'data-meaning="{meaning}">{escape(word)}</span>'
    )
