"""What the page says about models and labels, in words a visitor need not look up. No layout, no Gradio."""

from dataclasses import dataclass
from html import escape

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
    rows = [("How good", _how_good(folder, task)), ("Looks at", escape(task.looks_at))]
    weights = folder.path / PRECISIONS["fp32"]
    if weights.is_file():
        rows.append(("Size", f"{weights.stat().st_size / 1e6:.1f} MB"))
    if time := folder.metrics.get("latency_ms"):
        rows.append(("Takes", f"{time['fp32']:.1f} ms an image on {time['threads']} cores"))
    items = "".join(f"<div><dt>{name}</dt><dd>{text}</dd></div>" for name, text in rows)
    return f'<dl class="facts">{items}</dl>'


def _how_good(folder: ModelFolder, task: Task) -> str:
    headline = folder.metrics.get("headline") or {}
    score = headline.get("weighted_f1")
    if not score:
        return "not measured: its answers mean nothing yet"
    interval = f" (95 % interval {score['low']:.2f} to {score['high']:.2f})" if "low" in score else ""
    protocol = str(headline.get("protocol", ""))
    evidence = (
        f"on {escape(task.unseen)}"
        if protocol.startswith("group")
        else f"{term('image-level', IMAGE_LEVEL)}: flattered by a split by image"
    )
    return f"<strong>{term('weighted F1', WEIGHTED_F1)} {score['value']:.2f}</strong>{interval} {evidence}"


WEIGHTED_F1 = (
    "One number from 0 to 1 for how often a model finds each kind of cell without raising false alarms, averaged over "
    "the kinds. Always giving the same answer scores below 0.6; 1 is perfect."
)
IMAGE_LEVEL = (
    "Cells of the same person were among both the training and the test images, so the figure says little about new "
    "people."
)


def term(word: str, meaning: str) -> str:
    """HTML: a word with its explanation on hover and on keyboard focus."""
    return f'<abbr class="term" tabindex="0" title="{escape(meaning)}">{escape(word)}</abbr>'
