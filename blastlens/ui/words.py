"""What the page says about models and labels, in words a visitor need not look up. No layout, no Gradio."""

from dataclasses import dataclass
from html import escape

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
        question="A smear field: benign, or which stage?",
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


def task_of(folder: ModelFolder) -> Task:
    """The task of a model folder; one with other labels gets a task that says no more than the labels."""
    names = folder.label_names
    return TASKS.get(names) or Task(
        question=" or ".join(names),
        looks_at="images like those it was trained on",
        meanings={},
        unseen="groups of images it had never seen",
        credit="",
    )


def label_text(folder: ModelFolder, label: str) -> str:
    """A label with its meaning: "ALL · leukemic blast"."""
    meaning = task_of(folder).meanings.get(label)
    return f"{label} · {meaning}" if meaning else label


def model_choice(folder: ModelFolder) -> str:
    """The line by which a model is picked."""
    return f"{task_of(folder).question} ({folder.model_id})"


def facts(folder: ModelFolder) -> str:
    """HTML: what the model looks at, how good it is and on which evidence, and how large it is."""
    task = task_of(folder)
    rows = [("Looks at", escape(task.looks_at)), ("How good", _how_good(folder, task))]
    weights = folder.path / PRECISIONS["fp32"]
    if weights.is_file():
        rows.append(("Size", f"{weights.stat().st_size / 1e6:.1f} MB"))
    items = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in rows)
    return f'<dl class="facts">{items}</dl>'


def _how_good(folder: ModelFolder, task: Task) -> str:
    headline = folder.metrics.get("headline") or {}
    score = headline.get("weighted_f1")
    if not score:
        return "not measured: its answers mean nothing yet"
    interval = f" (95 % interval {score['low']:.2f} to {score['high']:.2f})" if "low" in score else ""
    protocol = str(headline.get("protocol", "unnamed protocol"))
    evidence = f"on {task.unseen}" if protocol.startswith("group") else "image-level: flattered by a split by image"
    return (
        f"<strong>weighted F1 {score['value']:.2f}</strong>{interval} {escape(evidence)} "
        f'<span class="quiet">[{escape(protocol)}]</span>'
    )


GLOSSARY = """
<details class="glossary"><summary>What do these words mean?</summary>
<dl>
<dt>Weighted F1</dt>
<dd>One number from 0 to 1 for how often a model finds each kind of cell without raising false alarms,
averaged over the kinds. Always giving the same answer scores below 0.6; 1 is perfect.</dd>
<dt>95 % interval</dt>
<dd>Where that number would likely fall for other people from the same source. The fewer people were
measured, the wider it is.</dd>
<dt>Noise, sigma</dt>
<dd>Random grain as from a dim camera: how far a pixel's brightness typically strays, on its scale from 0
to 255. Around 10 it is barely visible; at 100 little of the cell is left.</dd>
<dt>Probability</dt>
<dd>Calibrated: of answers given at 90 %, about nine in ten were right on held-out data like the training
data. On other stains, microscopes or kinds of image that promise does not hold.</dd>
<dt>ALL, HEM</dt>
<dd>The data set's names: a blast of acute lymphoblastic leukemia, and a healthy precursor of the same
cell line.</dd>
<dt>Group 3-fold</dt>
<dd>How the number was measured: three times, each time on a third of the people, none of whom was among
those the model learned from.</dd>
</dl></details>
"""
