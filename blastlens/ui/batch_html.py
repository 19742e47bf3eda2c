"""What the page shows of a run over many images. Pure functions, no Gradio."""

import math
from collections import Counter
from collections.abc import Mapping
from html import escape
from pathlib import PurePosixPath

from .. import external_result
from ..classifier import DISCLAIMER
from ..metrics import Interval
from ..patients import CAVEAT, Patient, leukemic_labels
from ..wording import count, duration, listed, percent
from .batch import NOT_NAMED, Answered, Run
from .tables import Column, TableView, table
from .words import task_of, term

# As many failures as fit on a page; the table for download has them all.
FAILURES_SHOWN = 100


def progress(run: Run) -> str:
    """HTML: how far a run is, how quick, and for how long still."""
    rate = run.done / run.seconds if run.seconds else 0
    left = f"{rate:.0f} images a second, about {duration((run.total - run.done) / rate)} left" if rate else ""
    told = f"{run.done:,} of {run.total:,} images"
    return (
        f'<div class="run"><progress max="{run.total}" value="{run.done}" aria-label="Images done"></progress>'
        f'<p role="status" aria-live="polite"><strong>{told}</strong> {left}</p></div>'
    )


def summary(run: Run) -> str:
    """HTML: what came of a run."""
    rate = f" ({run.done / run.seconds:.0f} a second)" if run.seconds else ""
    time_taken = f"in {duration(run.seconds)}{rate}"
    if run.finished:
        headline = f"Done: {count(run.done, 'image')} {time_taken}."
    else:
        headline = f"Stopped after {run.done:,} of {run.total:,} images, {time_taken}. What was done is kept below."
    named = {one.subject for one in run.answered if one.subject is not None}
    whose = f"{count(len(named), 'patient')} named. " if named else "No patient is named. "
    noise = f" Noise of sigma {run.sigma:g} was added." if run.sigma else ""
    better = Counter(one.prediction.suggestion for one in run.answered if one.prediction.suggestion)
    told = (external_result.sentence(run.folder.metrics), *run.listing.notes)
    notes = "".join(f'<p class="warning">{escape(note)}</p>' for note in told)
    if run.unlike:
        notes += (
            f'<p class="warning">{count(run.unlike, "image")} of {len(run.answered):,} look unlike those this model '
            f"knows; the answers to these mean little.{_better(better)}</p>"
        )
    return (
        f'<div class="run notes"><p role="status" class="headline"><strong>{headline}</strong></p>'
        f"<p>{whose}Answered by {escape(run.folder.model_id)}.{noise} {DISCLAIMER}</p>{notes}"
        f"{_failures(run)}</div>"
    )


def _better(models: Mapping[str, int]) -> str:
    """Which models would know the images that this one does not."""
    told = (
        f"{number:,} of them {'looks' if number == 1 else 'look'} like those of {escape(name)}"
        for name, number in models.items()
    )
    return f" {'; '.join(told)}: choose it above, and run again." if models else ""


def _failures(run: Run) -> str:
    if not run.failures:
        return ""
    shown = run.failures[:FAILURES_SHOWN]
    items = "".join(f"<li>{_failure(name, reason)}</li>" for name, reason in shown)
    more = len(run.failures) - len(shown)
    rest = f"<li>and {more:,} more, all in the table for download</li>" if more else ""
    return (
        f'<details class="failures" open><summary>{count(len(run.failures), "file")} could not be used; the others '
        f"were</summary><ul>{items}{rest}</ul></details>"
    )


def _failure(name: str, reason: str) -> str:
    # A reason begins with the file's name, with its folders or without; once is enough.
    for told in (name, PurePosixPath(name).name):
        if reason.startswith(f"{told} "):
            return f"<b>{escape(name)}</b>{escape(reason[len(told) :])}"
    return f"<b>{escape(name)}</b>: {escape(reason)}"


def images_html(run: Run, view: TableView) -> str:
    """HTML: one line for each image answered."""
    if not run.answered:
        return ""
    columns: list[Column[Answered]] = [
        Column("file", "File", lambda one: one.name, lambda one: f'<span class="name file">{escape(one.name)}</span>'),
        Column("patient", "Patient", lambda one: one.subject, lambda one: _subject(one.subject)),
        Column("answer", "Answer", lambda one: one.prediction.label, _answer),
        *(_probability_column(place, label) for place, label in enumerate(run.folder.label_names)),
        *_decision_columns(run),
        Column("check", "Input check", lambda one: _check(one)[0], lambda one: _check(one)[1]),
    ]
    meanings = task_of(run.folder).meanings
    meant = "; ".join(f"{label}: {meaning}" for label, meaning in meanings.items())
    return (
        f'<h3 class="heading">Each image</h3>{table(run.answered, columns, view, "Answers by image")}'
        f'<p class="quiet legend">{escape(meant)}. Click a header to sort.</p>'
    )


def patients_html(run: Run, view: TableView) -> str:
    """HTML: one line for each patient."""
    if not run.answered:
        return ""
    patients = run.patients()
    if not patients:
        return '<p class="quiet">This model\'s labels do not say what is leukemia, so nothing is summed up.</p>'
    columns: list[Column[Patient]] = [
        Column("patient", "Patient", lambda one: one.subject, lambda one: _subject(one.subject)),
        Column("images", "Images", lambda one: one.images, lambda one: f"{one.images:,}", number=True),
        Column("leukemic", "Called leukemic", lambda one: one.leukemic, lambda one: f"{one.leukemic:,}", number=True),
        Column("share", "Share", lambda one: one.share.value, lambda one: _interval(one.share), number=True),
        Column(
            "mean",
            "Mean probability of leukemia",
            lambda one: one.mean.value,
            lambda one: _interval(one.mean),
            number=True,
        ),
        Column("lowest", "Lowest", lambda one: one.lowest, lambda one: percent(one.lowest, decimals=1), number=True),
        Column(
            "highest", "Highest", lambda one: one.highest, lambda one: percent(one.highest, decimals=1), number=True
        ),
    ]
    if any(one.unlike for one in patients):
        columns.append(
            Column("unlike", "Unlike its images", lambda one: one.unlike, lambda one: f"{one.unlike:,}", number=True)
        )
    wilson = term("Share", "Called leukemic, of all images of the patient; with Wilson's 95 % interval.")
    mean = term(
        "mean probability",
        "The probability of leukemia, averaged over the images, with a 95 % interval by Student's t. Without "
        "spread, as of a single image, there is none.",
    )
    return (
        f'<h3 class="heading">Each patient</h3>{table(patients, columns, view, "Answers by patient")}'
        f'<p class="quiet legend">{wilson} and {mean} come with 95 % intervals (the small numbers). {CAVEAT}</p>'
    )


def _probability_column(place: int, label: str) -> Column[Answered]:
    return Column(
        f"p{place}",
        f"Probability {label}",
        lambda one: one.prediction.probabilities[label],
        lambda one: percent(one.prediction.probabilities[label], decimals=1),
        number=True,
    )


def _decision_columns(run: Run) -> list[Column[Answered]]:
    """What can be decided by each answer, where the model has figures to decide by; not for images unlike its own."""
    columns: list[Column[Answered]] = []
    if any(one.prediction.label_set is not None for one in run.answered):
        columns.append(Column("set", "Not ruled out", _label_set, lambda one: escape(_label_set(one) or "-")))
    if any(one.prediction.flagged is not None for one in run.answered):
        columns.append(Column("flag", "Set to miss few", _flag, lambda one: _flag(one) or "-"))
    return columns


def _label_set(one: Answered) -> str | None:
    p = one.prediction
    return None if p.label_set is None or p.in_domain is False else listed(p.label_set)


def _flag(one: Answered) -> str | None:
    p = one.prediction
    return None if p.flagged is None or p.in_domain is False else "flagged" if p.flagged else "not flagged"


def _subject(subject: str | None) -> str:
    return (
        f'<span class="quiet">{NOT_NAMED}</span>' if subject is None else f'<span class="name">{escape(subject)}</span>'
    )


def _answer(one: Answered) -> str:
    label = escape(one.prediction.label)
    marked = one.prediction.label in leukemic_labels(tuple(one.prediction.probabilities))
    return f'<span class="answer{" leukemic" if marked else ""}">{label}</span>'


def _check(one: Answered) -> tuple[str, str]:
    p = one.prediction
    word = {True: "fits", False: "refused", None: "-"}[p.in_domain]
    told = [
        *external_result.of_image(p.warnings),
        *([f"looks like an image for {p.suggestion}"] if p.suggestion else []),
    ]
    if not told:
        return word, word
    remarks = "".join(f"<li>{escape(text)}</li>" for text in told)
    number = count(len(told), "remark")
    kind = ' class="unlike"' if p.in_domain is False else ""
    return word, f"<details{kind}><summary>{word}, {number}</summary><ul>{remarks}</ul></details>"


def _interval(value: Interval) -> str:
    if math.isnan(value.low):
        return f"{percent(value.value, decimals=1)} <small>-</small>"
    whisker = f"--low:{value.low:.4f};--high:{value.high:.4f};--at:{value.value:.4f}"
    return (
        f"{percent(value.value, decimals=1)} <small>{100 * value.low:.0f} to {100 * value.high:.0f} %</small>"
        f'<span class="whisker" style="{whisker}" aria-hidden="true"></span>'
    )
