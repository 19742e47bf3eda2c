"""The report of an external validation as HTML: on the page, and as one file that needs no network and no script."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ..external_validation import REPLICATES, Evaluation
from ..folder_labels import accepted
from ..model_folder import ModelFolder
from ..predictions import DISCLAIMER
from ..validation_scores import Score
from ..validation_summary import caveats, conclude
from ..wording import count, percent, with_interval
from . import plots
from .plots import Series
from .words import MEANINGS, task_of, term

HERE = Path(__file__).parent
MAX_REFUSED = 200
# Names of scores, explained in words.MEANINGS; those in _DECIMAL are printed as 0.85, the others as 85 %.
NAMES = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "weighted_f1": "weighted F1",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "auroc": "AUROC",
    "ece": "calibration error",
}
_DECIMAL = ("weighted_f1", "auroc", "ece")
_RECALL = "Of the images of this class, the share that was classified correctly."


def body(evaluation: Evaluation, folder: ModelFolder) -> str:
    """The report as an HTML fragment, styled by `validation.css` and `plots.css`."""
    return _render(evaluation, folder, origin=())


def standalone(evaluation: Evaluation, folder: ModelFolder, given: str, when: datetime) -> str:
    """The report as one HTML file.

    Args:
        evaluation: the figures.
        folder: the model.
        given: name of the zip with the images.
        when: time of the validation.
    """
    task = task_of(folder)
    origin = (
        ("Images", given),
        ("Model", folder.model_id + (f" at revision {folder.revision}" if folder.revision else "")),
        ("Question", task.question),
        ("Input", task.input_description),
        ("Date", f"{when:%d %B %Y, %H:%M} UTC"),
    )
    return _render(evaluation, folder, origin)


def how_to_prepare(label_names: Sequence[str]) -> str:
    """HTML: the layout of a zip of labelled images, with the folders of these labels."""
    first, *others = label_names
    folders = "".join(f"  {label}/  ...\n" for label in others)
    tree = f"images.zip\n  {first}/\n    subject 1/  cell 1.png, cell 2.png, ...\n    subject 2/  ...\n{folders}"
    return (
        '<div class="prepare"><h2 class="heading">How to prepare your images</h2>'
        "<p>Zip one folder per class with one folder per subject in it:</p>"
        f'<pre tabindex="0" role="region" aria-label="Example">{escape(tree)}</pre>'
        f"<p>Names of class folders: {escape(accepted(label_names))}.</p>"
        "<p>A CSV table in the zip may be used instead of folders: columns <code>file_name</code>, <code>label</code>, "
        "<code>subject</code>. Subjects are optional, but without them the intervals are too narrow.</p></div>"
    )


def _render(evaluation: Evaluation, folder: ModelFolder, origin: Sequence[tuple[str, str]]) -> str:
    task, used = task_of(folder), {one.name for one in evaluation.scores}
    words = [name for key, name in NAMES.items() if key in used] + ["95 % interval"]
    return _TEMPLATES.get_template("report.html").render(
        e=evaluation,
        origin=origin,
        title="External validation",
        styles=Markup((HERE / "validation.css").read_text(encoding="utf-8") + plots.STYLES) if origin else "",
        disclaimer=DISCLAIMER,
        credit=task.citation if task.known else "",
        words=[(name, MEANINGS[name]) for name in words],
        conclusion=conclude(evaluation),
        caveats=caveats(evaluation),
        figures=_figures(evaluation),
        published_text=_published_text(evaluation, folder),
        confusion=Markup(plots.confusion_table(evaluation.confusion, evaluation.label_names)),
        reliability=Markup(plots.reliability_diagram(evaluation.bins, description=_reliability_text(evaluation))),
        noise_chart=Markup(_noise_chart(evaluation)),
        ood_text=_ood_text(evaluation),
        refused=evaluation.refused[:MAX_REFUSED],
        meanings=[f"{label} means {text}." for label, text in task.meanings.items()],
        subjects_text=_subjects_text(evaluation),
        replicates=f"{REPLICATES:,}",
    )


def _name(score: str) -> Markup:
    name = NAMES.get(score, score)
    return Markup(term(name, MEANINGS.get(name, _RECALL)))


def _cell(score: Score | None, name: str, signed: bool = False) -> str:
    if name in _DECIMAL:
        return with_interval(score, signed=signed)
    return with_interval(score, 0, 100, " points" if signed else " %", signed)


def _figures(e: Evaluation) -> list[tuple[str, str]]:
    figures = [(f"{e.images:,}", "image" if e.images == 1 else "images")]
    figures += [(f"{number:,}", label) for label, number in e.counts.items()]
    figures.append((f"{e.subjects:,}" if e.subjects else "?", "subject" if e.subjects == 1 else "subjects"))
    if e.left_out:
        figures.append((f"{e.left_out:,}", "left out"))
    if e.ood:
        figures.append((percent(e.ood.rejected / e.images), "out of distribution"))
    return figures


def _published_text(e: Evaluation, folder: ModelFolder) -> str:
    there = e.published
    if there is None:
        return "This model has no published figures."
    size = count(there.images, "image") if there.images else "images"
    size += f" of {count(there.groups, 'group')}" if there.groups else ""
    level = task_of(folder).unseen if there.by_group else "image-level"
    return f"Published figures: protocol {there.protocol}, {size}; {level}."


def _reliability_text(e: Evaluation) -> str:
    confidence, accuracy = (
        sum(getattr(one, name) * one.count for one in e.bins) / e.images for name in ("confidence", "accuracy")
    )
    return (
        f"Mean confidence {percent(confidence)}, accuracy {percent(accuracy)}. Bars on the dashed line mean calibrated "
        "probabilities, bars below it overconfidence."
    )


def _noise_chart(e: Evaluation) -> str:
    name = "weighted_f1" if "weighted_f1" in e.noise[0].here else "accuracy"
    series = []
    for title, levels in (("here", [x.here for x in e.noise]), ("published", [x.published for x in e.noise])):
        found = [(x.sigma, scores[name]) for x, scores in zip(e.noise, levels, strict=True) if name in scores]
        if found:
            lows = [score.value if score.low is None else score.low for _, score in found]
            highs = [score.value if score.high is None else score.high for _, score in found]
            series.append(Series(title, [sigma for sigma, _ in found], [s.value for _, s in found], lows, highs))
    first, last = (_cell(Score(series[0].ys[end]), name) for end in (0, -1))
    return plots.line_chart(
        series,
        x_label="noise (sigma)",
        y_label=NAMES[name],
        x_range=(0, e.noise[-1].sigma),
        y_range=(0, 1),
        description=f"{first} without noise, {last} at sigma {series[0].xs[-1]:g} here. Bands are 95 % intervals.",
        percent=name not in _DECIMAL,
    )


def _ood_text(e: Evaluation) -> str:
    if e.ood is None:
        return ""
    text = (
        f"Out-of-distribution detection rejects {e.ood.rejected:,} of {count(e.images, 'image')}. Correct predictions: "
        f"{e.ood.rejected_right:,} of {e.ood.rejected:,} rejected, {e.ood.accepted_right:,} of {e.ood.accepted:,} "
        "accepted images."
    )
    return text + "".join(f" {count(images, 'image')} fit the model {model}." for model, images in e.suggested)


def _subjects_text(e: Evaluation) -> str:
    if not e.subjects:
        return "The images have no subjects; each counts as a subject of its own."
    text = f"Subjects were identified by {e.labelled.subjects_by}; the same name is the same subject in all folders."
    if e.unnamed:
        text += f" Of {count(e.unnamed, 'image')} without a subject, each counts as a subject of its own."
    return text


_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)
_TEMPLATES.filters |= {
    "tight": lambda text: text.replace(" %", "\N{NO-BREAK SPACE}%"),  # no line break between a number and its %
    "cell": _cell,
    "score_name": _name,
    "share": percent,
}
