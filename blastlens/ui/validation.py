"""The tab "Validate on your data": a zip of labelled images, the scores of a model on them, and a report."""

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from .. import external_result
from ..classifier import Classifier
from ..errors import BlastlensError
from ..external_validation import Evaluation, ImageOutcome, evaluate, measure
from ..folder_labels import MAX_LABELLED, LabelledImages, match_labels
from ..image_sources import list_sources
from ..predictions import DISCLAIMER
from ..validation_summary import caveats, conclude
from ..wording import count
from ..zips import is_zip
from .endpoints import ONE_AT_A_TIME, QUIET, endpoint, example_file, while_wanted
from .model_registry import Shelf, provenance
from .rendering import UPDATE_S, progress_html, render
from .report import body, how_to_prepare, standalone
from .single_image_html import error_html
from .uploads import Upload, path_of, uploaded
from .words import label_text

# The page lists so many refused files, the report more.
MAX_LISTED = 8


@dataclass(frozen=True)
class ValidationTab:
    """Event handlers of the tab.

    Attributes:
        shelf: the models on offer.
        keeper: the component that uploads belong to.
    """

    shelf: Shelf
    keeper: gr.components.Component

    def look(self, archive: Upload | None, model: str) -> tuple[str, str, str, Any, Any]:
        """The contents of the zip, empty progress and findings, and the buttons to start and to cancel."""
        found, ready = self._found(archive, model)
        return found, "", _NO_FINDINGS, *_buttons(ready, running=False)

    def prepare(self, model: str) -> str:
        """How to prepare images for a model."""
        return how_to_prepare(self.shelf.classifier(model).label_names)

    def run(self, archive: Upload | None, model: str) -> Iterator[tuple[str, str, Any, Any]]:
        """Validate: progress, findings, and the buttons to start and to cancel."""
        busy, idle = _buttons(ready=False, running=True), _buttons(ready=True, running=False)
        try:
            classifier, labelled, steps = self._start(archive, model)
            outcomes: list[ImageOutcome | BlastlensError] = []
            start = shown = time.monotonic()
            yield progress_html(0, len(labelled.images), 0.0), _NO_FINDINGS, *busy
            for outcome in steps:
                outcomes.append(outcome)
                if (now := time.monotonic()) - shown >= UPDATE_S:
                    shown = now
                    yield progress_html(len(outcomes), len(labelled.images), now - start), _NO_FINDINGS, *busy
            evaluation = evaluate(classifier, labelled, outcomes)
            yield _DONE, _findings(evaluation, classifier, Path(path_of(archive)).name), *idle
        except BlastlensError as error:
            yield error_html(str(error)), _NO_FINDINGS, *idle

    def stopped(self, archive: Upload | None, model: str) -> tuple[str, str, Any, Any]:
        """After a cancelled run."""
        _, ready = self._found(archive, model)
        return (
            '<p class="found" role="status">Cancelled; nothing was kept.</p>',
            _NO_FINDINGS,
            *_buttons(ready, running=False),
        )

    def answer(self, archive: Upload | None, model: str) -> dict[str, Any]:
        """The findings as JSON values."""
        classifier, labelled, steps = self._start(archive, model)
        evaluation = evaluate(classifier, labelled, list(while_wanted(steps)))
        found, limits = conclude(evaluation), list(caveats(evaluation))
        remarks = [f"{text} ({count(images, 'image')})" for text, images in evaluation.remarks]
        warnings = [external_result.sentence(classifier.folder.metrics), *limits, *remarks]
        return {
            "verdict": {"tone": found.tone, "headline": found.headline, "details": list(found.details)},
            "caveats": limits,
            **evaluation.to_dict(),
            **provenance(classifier.folder, warnings=warnings),
        }

    def _start(
        self, archive: Upload | None, model: str
    ) -> tuple[Classifier, LabelledImages, Iterator[ImageOutcome | BlastlensError]]:
        classifier = self.shelf.classifier(model)
        labelled = self._labelled(archive, classifier)
        others = tuple(self.shelf.classifiers.values())
        return classifier, labelled, measure(classifier, labelled.images, others=others)

    def _found(self, archive: Upload | None, model: str) -> tuple[str, bool]:
        """HTML of the contents of the zip, and whether it can be used."""
        if not archive:
            return "", False
        try:
            classifier = self.shelf.classifier(model)
            return _contents(self._labelled(archive, classifier), classifier), True
        except BlastlensError as error:
            return error_html(str(error)), False

    def _labelled(self, archive: Upload | None, classifier: Classifier) -> LabelledImages:
        if not archive:
            raise BlastlensError("There is no zip yet; upload one with a folder of images for each class.")
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
        '<p class="quiet">Published figures were measured on the slides and scanner of one data set. Upload labelled '
        "images of your own to compare.</p>"
    )
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320):
            with gr.Group():
                archive = gr.File(
                    label=f"A zip of labelled images (at most {MAX_LABELLED:,})", file_types=[".zip"], height=170
                )
                found = gr.HTML(padding=True)
            with gr.Row():
                start = gr.Button("Validate", variant="primary", interactive=False, min_width=140)
                stop = gr.Button("Cancel", interactive=False, min_width=100)
            progress = gr.HTML()
        with gr.Column(scale=6, min_width=320), gr.Group():
            prepare = gr.HTML(how_to_prepare(shelf.first.label_names), padding=True)
    with gr.Group():
        findings = gr.HTML(_NO_FINDINGS, padding=True)

    tab = ValidationTab(shelf, archive)
    settings, shown = [archive, model], [progress, findings, start, stop]
    running = start.click(tab.run, settings, shown, **QUIET, **ONE_AT_A_TIME)
    # A cancelled run may update the page until it has ended; only then `stopped` may.
    running.failure(tab.stopped, settings, shown, queue=False, **QUIET)
    stop.click(None, cancels=running, api_visibility="private")
    # Another zip or model cancels the run. `model.change` would also fire while the page loads.
    gr.on([archive.change, model.input], tab.look, settings, [found, *shown], cancels=running, **QUIET)
    model.change(tab.prepare, model, prepare, **QUIET)
    _endpoint(tab)


def _endpoint(tab: ValidationTab) -> None:
    def test_on_labelled_images(archive: gr.FileData, model: str = "") -> dict[str, Any]:
        """Validate a model on labelled images. Research demonstration, not a medical device.

        Args:
            archive: a zip of at most 2,000 images: one folder per class with one folder per subject, or a CSV table.
            {model}

        Returns:
            verdict, caveats, scores (here, published, difference, each with the ends of its 95 % interval), confusion
            matrix, reliability, noise, by_person, refused, and model_id, revision, sigma, warnings, disclaimer.
            Undefined values are null.
        """
        return tab.answer(archive, model)

    first = tab.shelf.first.folder.model_id
    endpoint(test_on_labelled_images, ONE_AT_A_TIME, archive=example_file("images.zip"), model=first)


_DONE = '<p class="found" role="status">Done: <a href="#findings">see the findings</a>.</p>'
_NO_FINDINGS = '<div class="nothing">The scores on your images appear here, beside the published ones.</div>'


def _buttons(ready: bool, running: bool) -> tuple[Any, Any]:
    return gr.Button(interactive=ready), gr.Button(interactive=running)


def _contents(labelled: LabelledImages, classifier: Classifier) -> str:
    """HTML: how folder names were read."""
    subjects = len({image.subject for image in labelled.images} - {None})
    meanings = {label: label_text(classifier.folder, label) for label in classifier.label_names}
    return render("report.html", "contents", labelled, subjects, meanings, MAX_LISTED)


def _findings(evaluation: Evaluation, classifier: Classifier, given: str) -> str:
    """HTML: the findings, and the report as a data: link, so that it is never a file on the server."""
    now = datetime.now(UTC)
    data = base64.b64encode(standalone(evaluation, classifier.folder, given, now).encode()).decode()
    name = f"blastlens-{classifier.folder.model_id.replace('/', '-')}-{now:%Y-%m-%d}.html"
    return render("report.html", "findings", name, data, DISCLAIMER, Markup(body(evaluation, classifier.folder)))
