"""The tab that answers "does it hold here?": labelled images of one's own, and what a model makes of them."""

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from .. import external_result
from ..classifier import DISCLAIMER, Classifier
from ..errors import BlastlensError
from ..external_validation import Evaluation, Measured, evaluate, measure
from ..folder_labels import MAX_LABELLED, LabelledImages, match_labels
from ..image_sources import list_sources
from ..validation_summary import caveats, verdict
from ..wording import count, duration
from ..zips import is_zip
from .endpoints import ONE_AT_A_TIME, endpoint, example_file, while_wanted
from .model_registry import Shelf, provenance, refusals
from .report_page import body, how_to_prepare, standalone
from .uploads import path_of, uploaded
from .words import label_text

# An uploaded file as Gradio hands it over with `preprocess=False`.
Upload = dict[str, Any] | None
# The progress bar moves this often, in seconds; at least so often a run can be stopped.
BEAT = 0.4
# A list longer than this is not read on a page; the report has it all.
MAX_LISTED = 8


@dataclass(frozen=True)
class YourSlides:
    """What the tab's events answer with.

    Attributes:
        shelf: the models on offer.
        keeper: the component in whose name uploads are kept, and deleted in time.
    """

    shelf: Shelf
    keeper: gr.components.Component

    def look(self, archive: Upload, model: str) -> tuple[str, str, str, Any, Any]:
        """What was found in the zip, no progress and no findings yet, and the buttons to start and to stop."""
        found, ready = self._told(archive, model)
        return found, "", _NOTHING_YET, *_buttons(ready, running=False)

    def prepare(self, model: str) -> str:
        """How to prepare images for a model."""
        with refusals():
            return how_to_prepare(self.shelf.classifier(model).label_names)

    def run(self, archive: Upload, model: str) -> Iterator[tuple[str, str, Any, Any]]:
        """Test: how far it is, findings, and the buttons to start and to stop."""
        busy, idle = _buttons(ready=False, running=True), _buttons(ready=True, running=False)
        try:
            classifier = self.shelf.classifier(model)
            labelled, others = self._labelled(archive, classifier), tuple(self.shelf.classifiers.values())
            outcomes: list[Measured | BlastlensError] = []
            start = shown = time.monotonic()
            yield _progress(0, len(labelled.images), 0.0), _NOTHING_YET, *busy
            for outcome in measure(classifier, labelled.images, others=others):
                outcomes.append(outcome)
                if (now := time.monotonic()) - shown >= BEAT:
                    shown = now
                    yield _progress(len(outcomes), len(labelled.images), now - start), _NOTHING_YET, *busy
            yield _working_out(), _NOTHING_YET, *busy
            evaluation = evaluate(classifier, labelled, outcomes)
            yield _DONE, _findings(evaluation, classifier, Path(path_of(archive)).name), *idle
        except BlastlensError as error:
            yield _alert(error), _NOTHING_YET, *idle

    def stopped(self, archive: Upload, model: str) -> tuple[str, str, Any, Any]:
        """After a test that came to no end."""
        said = '<p class="found" role="status">Stopped; nothing was kept.</p>'
        _, ready = self._told(archive, model)
        return said, _NOTHING_YET, *_buttons(ready, running=False)

    def answer(self, archive: Upload, model: str) -> dict[str, Any]:
        """The findings as JSON values."""
        classifier = self.shelf.classifier(model)
        labelled, others = self._labelled(archive, classifier), tuple(self.shelf.classifiers.values())
        outcomes = list(while_wanted(measure(classifier, labelled.images, others=others)))
        evaluation = evaluate(classifier, labelled, outcomes)
        found, limits = verdict(evaluation), list(caveats(evaluation))
        remarks = [f"{text} ({count(images, 'image')})" for text, images in evaluation.remarks]
        return {
            "verdict": {"tone": found.tone, "headline": found.headline, "details": list(found.details)},
            "caveats": limits,
            **evaluation.to_dict(),
            **provenance(
                classifier.folder, warnings=[external_result.sentence(classifier.folder.metrics), *limits, *remarks]
            ),
        }

    def _told(self, archive: Upload, model: str) -> tuple[str, bool]:
        """HTML: what is in the zip, and whether it can be tested."""
        if not archive:
            return "", False
        try:
            classifier = self.shelf.classifier(model)
            return _found(self._labelled(archive, classifier), classifier), True
        except BlastlensError as error:
            return _alert(error), False

    def _labelled(self, archive: Upload, classifier: Classifier) -> LabelledImages:
        if not archive:
            raise BlastlensError("There is no zip yet; give one with a folder of images for each class.")
        path = Path(uploaded(archive, self.keeper)[0])
        if not is_zip(path):
            raise BlastlensError(f"{path.name} is not a zip; zip one folder of images for each class.")
        return match_labels(list_sources([path]), classifier.label_names)


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and connect its events.

    Args:
        shelf: the models on offer.
        model: the picker above all tabs.
    """
    gr.HTML(
        '<p class="quiet">A published figure was measured on somebody else\'s slides and scanner. Give images of your '
        "own whose answer you know, and see whether the model holds on them.</p>"
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            with gr.Group():
                archive = gr.File(
                    label=f"A zip of labelled images (at most {MAX_LABELLED:,})",
                    file_types=[".zip"],
                    height=170,
                )
                found = gr.HTML(padding=True)
            with gr.Row():
                start = gr.Button("Test it on these", variant="primary", interactive=False, min_width=140)
                stop = gr.Button("Cancel", interactive=False, min_width=100)
            progress = gr.HTML()
        with gr.Column(scale=6, min_width=320), gr.Group():
            prepare = gr.HTML(how_to_prepare(shelf.first.label_names), padding=True)
    with gr.Group():
        findings = gr.HTML(_NOTHING_YET, padding=True)

    tab = YourSlides(shelf, archive)
    settings, shown = [archive, model], [progress, findings, start, stop]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    running = start.click(tab.run, settings, shown, **quiet, **ONE_AT_A_TIME)
    # Gradio stops a test only after the event that asks for it has been answered, and the test may write on the page
    # until then: that it was stopped is said when it has ended.
    running.failure(tab.stopped, settings, shown, queue=False, **quiet)
    stop.click(None, cancels=running, api_visibility="private")
    # Whatever changes what would be tested also ends the test of what was there before. The page sets the model while
    # it loads, which is no such change.
    looked_at = [archive.change, model.input]
    gr.on(looked_at, tab.look, settings, [found, *shown], cancels=running, **quiet)
    model.change(tab.prepare, model, prepare, **quiet)
    _endpoint(tab)


def _endpoint(tab: YourSlides) -> None:
    def test_on_labelled_images(archive: gr.FileData, model: str = "") -> dict[str, Any]:
        """Test a model on labelled images of one's own. Research demonstration, not a medical device.

        Args:
            archive: a zip of at most 2,000 images: one folder per class, in it one per person, or a CSV that says so.
            {model}

        Returns:
            verdict, caveats, scores (here, published, difference, each with the ends of its 95 % interval), confusion
            matrix, reliability, noise, by_person, refused, and model_id, revision, sigma, warnings, disclaimer.
            What is undefined is null.
        """
        with refusals():
            return tab.answer(archive, model)

    first = tab.shelf.first.folder.model_id
    endpoint(test_on_labelled_images, ONE_AT_A_TIME, archive=example_file("my-slides.zip"), model=first)


def _buttons(ready: bool, running: bool) -> tuple[Any, Any]:
    """The buttons to start and to stop."""
    return gr.Button(interactive=ready), gr.Button(interactive=running)


_DONE = '<p class="found" role="status">Done: <a href="#findings">see the findings</a>.</p>'
_NOTHING_YET = '<div class="nothing">Here: how it does on your images, beside its published figures.</div>'


def _alert(error: BlastlensError) -> str:
    return f'<div class="notes"><p class="error" role="alert">{escape(str(error))}</p></div>'


def _found(labelled: LabelledImages, classifier: Classifier) -> str:
    """HTML: how the names were read, before anything is tested."""
    people = len({image.subject for image in labelled.images} - {None})
    whose = count(people, "person", "people") if people else "nothing says of whom"
    images = count(len(labelled.images), "labelled image")
    readings = "".join(
        f"<li><strong>{escape(one.name)}</strong>{' read as' if one.by_synonym else ':'} "
        f"{escape(label_text(classifier.folder, one.label))} ({one.images:,})</li>"
        for one in labelled.readings[:MAX_LISTED]
    )
    refused = "".join(f"<li>{escape(reason)}</li>" for _, reason in labelled.refused[:MAX_LISTED])
    more = len(labelled.refused) - MAX_LISTED
    rest = f"<p>And {more:,} more, all in the report.</p>" if more > 0 else ""
    notes = "".join(f"<p>{escape(note)}</p>" for note in labelled.notes)
    out = f"<p><strong>Left out:</strong></p><ul>{refused}</ul>{rest}" if refused else ""
    return f'<div class="found" role="status"><p>{images}, {whose}.</p><ul>{readings}</ul>{notes}{out}</div>'


def _progress(done: int, of: int, seconds: float) -> str:
    left = f", about {duration(seconds / done * (of - done))} left" if done and seconds > 1 else ""
    return (
        f'<div class="run"><progress max="{of}" value="{done}" aria-label="Images tested"></progress>'
        f"<p>{done:,} of {count(of, 'image')}{left}.</p></div>"
    )


def _working_out() -> str:
    bar = '<progress aria-label="Working out the intervals"></progress>'
    return f'<div class="run">{bar}<p>Working out the intervals.</p></div>'


def _findings(evaluation: Evaluation, classifier: Classifier, given: str) -> str:
    """HTML: the findings, and the report as a link that holds it whole: it is never a file on this computer."""
    now = datetime.now(UTC)
    report = standalone(evaluation, classifier.folder, given, now)
    data = base64.b64encode(report.encode()).decode()
    name = f"blastlens-{classifier.folder.model_id.replace('/', '-')}-{now:%Y-%m-%d}.html"
    href = f"data:text/html;charset=utf-8;base64,{data}"
    return (
        f'<div class="handed" id="findings"><a download="{escape(name)}" href="{href}">Download this report</a><p>'
        f"One HTML file to keep or print. {escape(DISCLAIMER)}</p></div>"
        f"{body(evaluation, classifier.folder)}"
    )
