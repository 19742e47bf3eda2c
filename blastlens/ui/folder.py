"""The tab that classifies many images at once: one row for each image, and one for each patient."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from .. import external_result
from ..errors import BlastlensError
from ..image_sources import MAX_IMAGES
from ..patients import CAVEAT
from ..predictions import DISCLAIMER
from ..wording import duration
from .batch import NOT_NAMED, BatchRun, image_rows, image_table, patient_rows, patient_table
from .endpoints import ONE_AT_A_TIME, endpoint, example_file, while_wanted
from .examples import drawn_zip
from .model_registry import Shelf
from .rendering import UPDATE_S, progress_html, render
from .single_image_html import error_html
from .uploads import Upload, uploaded, write_csv

# As many failures as fit on a page; the CSV file has all of them.
FAILURES_SHOWN = 100
_WAITING = '<div class="nothing">Progress, and files that could not be read.</div>'


@dataclass(frozen=True)
class FolderTab:
    """The events of the tab; `keeper` is the component for which files from data: URIs are stored."""

    shelf: Shelf
    keeper: gr.components.Component

    def drawn(self, model: str) -> list[str]:
        """Synthetic images of invented patients, to try the tab with."""
        path = drawn_zip(self.shelf.classifier(model).folder.known_labels)
        if path is None:
            raise BlastlensError("There are no synthetic images for this model's labels; upload some images.")
        return [str(path)]

    def wait(self) -> tuple[Any, ...]:
        """The tab until the run's turn comes."""
        return None, gr.Button(interactive=True), _status("Waiting in the queue."), *_NO_TABLES

    def run(
        self, files: list[Upload] | None, model: str, sigma: float, by_folder: bool = False
    ) -> Iterator[tuple[Any, ...]]:
        """Progress, and then the tables."""
        try:
            others = self.shelf.classifiers.values()
            paths = uploaded(files, self.keeper)
            run = BatchRun(self.shelf.classifier(model), paths, sigma, others=others, by_folder=by_folder)
        except BlastlensError as error:
            yield None, gr.Button(interactive=False), error_html(str(error)), *_NO_TABLES
            return
        shown = time.perf_counter()
        yield run, gr.skip(), progress_html(run.done, run.total, run.seconds), *_KEEP_TABLES
        for _ in run.steps():
            if time.perf_counter() - shown > UPDATE_S:
                shown = time.perf_counter()
                yield gr.skip(), gr.skip(), progress_html(run.done, run.total, run.seconds), *_KEEP_TABLES
        yield run, *_results(run)

    def cancel(self, run: BatchRun | None) -> tuple[Any, ...]:
        """The results so far of a run that was stopped."""
        if run is None:
            return gr.Button(interactive=False), _status("Stopped before it began."), *_NO_TABLES
        run.stopped = True
        return _results(run)


_NO_TABLES = (gr.skip(), *[gr.update(visible=False)] * 4)
_KEEP_TABLES = (gr.skip(),) * 5


def _results(run: BatchRun) -> tuple[Any, ...]:
    """Everything the tab shows of a run that has ended."""
    images, patients = list(image_rows(run)), list(patient_rows(run))
    return (
        gr.Button(interactive=False),
        summary_html(run),
        _about_tables(run),
        _dataframe(patient_table(run)),
        _dataframe(image_table(run)),
        _download("blastlens-patients.csv", patients),
        _download("blastlens-images.csv", images),
    )


def _dataframe(table: dict[str, Any]) -> Any:
    rows = table["data"]
    kinds = ["number" if isinstance(cell, int | float) else "str" for cell in rows[0]] if rows else []
    return gr.Dataframe(table, datatype=kinds, visible=bool(rows))


def _download(name: str, rows: list[dict[str, object]]) -> Any:
    return gr.DownloadButton(value=write_csv(name, rows), visible=True) if rows else gr.DownloadButton(visible=False)


def _status(text: str) -> str:
    return f'<div class="run"><p role="status" aria-live="polite">{text}</p></div>'


def summary_html(run: BatchRun) -> str:
    """What was done, warnings, and failures."""
    named = {one.subject for one in run.answered if one.subject is not None}
    better = Counter(one.prediction.suggestion for one in run.answered if one.prediction.suggestion)
    undecided = [
        (p.subject or NOT_NAMED, p.decision.reason) for p in run.patients() if p.decision and p.decision.reason
    ]
    notes = (external_result.sentence(run.folder.metrics), *run.notes)
    took = duration(run.seconds)
    return render("folder.html", "summary", run, took, len(named), better, notes, undecided, DISCLAIMER, FAILURES_SHOWN)


def _about_tables(run: BatchRun) -> str:
    """What the columns mean."""
    if not run.answered:
        return ""
    return render(
        "folder.html",
        "columns",
        run.folder.dataset.meanings,
        bool(run.patients()),
        " ".join((*run.about_decisions, CAVEAT)),
    )


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and connect its events; the picked model is `model`'s value."""
    tab = FolderTab(shelf, model)
    run = gr.State(None, time_to_live=3000)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320), gr.Group(elem_classes="many"):
            gr.HTML(render("folder.html", "how", MAX_IMAGES, NOT_NAMED), padding=True)
            files = gr.File(
                label="Images, or zips of images", file_count="multiple", height=190, elem_classes="many-files"
            )
            with gr.Row(elem_classes="many-controls"):
                more = gr.UploadButton("Add files", file_count="multiple", size="md", min_width=100)
                folder = gr.UploadButton("Add a folder", file_count="directory", size="md", min_width=100)
                drawn = gr.Button("Try examples", size="md", min_width=100)
            sigma = gr.Number(0, label="Noise to add (sigma, 0 to 100)", minimum=0, maximum=100)
            by_folder = gr.Checkbox(False, label="Each folder in a zip is one patient")
            with gr.Row(elem_classes="many-controls"):
                start = gr.Button("Run", variant="primary", min_width=130, scale=2)
                stop = gr.Button("Cancel", variant="stop", interactive=False, min_width=100, scale=1)
        with gr.Column(scale=7, min_width=320), gr.Group(elem_classes="many"):
            status = gr.HTML(_WAITING, padding=True)
            with gr.Row(elem_classes="many-controls"):
                patients_csv = gr.DownloadButton("Patients as CSV", visible=False, size="md", min_width=130)
                images_csv = gr.DownloadButton("Images as CSV", visible=False, size="md", min_width=130)
    table: dict[str, Any] = {"interactive": False, "visible": False, "buttons": ["fullscreen"]}
    patients = gr.Dataframe(label="Patients", max_height=340, elem_classes="patients", **table)
    images = gr.Dataframe(label="Images", max_height=460, elem_classes="images", **table)
    about = gr.HTML()

    shown = [stop, status, about, patients, images, patients_csv, images_csv]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    for button in (more, folder):
        button.upload(
            lambda there, added: [*(there or []), *(added or [])],
            [files, button],
            files,
            queue=False,
            postprocess=False,
            **quiet,
        )
    drawn.click(tab.drawn, model, files, queue=False, **quiet)
    running = start.click(tab.wait, None, [run, *shown], queue=False, **quiet).then(
        tab.run, [files, model, sigma, by_folder], [run, *shown], **ONE_AT_A_TIME, **quiet
    )
    # Gradio stops a run only after the event that cancels it, and the run may update the page until then: the results
    # are shown when it has ended.
    running.failure(tab.cancel, run, shown, queue=False, **quiet)
    stop.click(None, cancels=running, api_visibility="private")
    _add_endpoint(tab)


def _add_endpoint(tab: FolderTab) -> None:
    """Add the public endpoint to the Blocks that are being built."""

    def score_images(
        files: list[gr.FileData], model: str = "", sigma: float = 0, seed: int = 0, prevalence: float = 0
    ) -> dict[str, Any]:
        """Classify many images, with a summary by patient. Research demonstration, not a medical device.

        Args:
            files: images, or zips of images, up to 5,000 in all; a CSV of file_name and subject names patients.
            {model}
            sigma: standard deviation of added Gaussian noise on the 0 to 255 scale, 0 to 100.
            seed: of the noise, an integer from 0; the same seed gives the same noise.
            {prevalence}

        Returns:
            images (file, patient, label, probabilities, label_set, flagged, in_domain, suggestion, warnings about the
            image; as in classify), patients (images, leukemic_images and their share, mean probability of leukemia,
            each with a 95 % interval, lowest, highest, decision, no_decision_because), failures (file, reason), and
            model_id, revision, sigma, seed, prevalence, warnings (the first: the model's external validation),
            disclaimer.
        """
        others = tab.shelf.classifiers.values()
        classifier, paths = tab.shelf.classifier(model), uploaded(files, tab.keeper)
        run = BatchRun(classifier, paths, sigma, seed, others, prevalence or None)
        for _ in while_wanted(run.steps()):
            pass
        return run.to_dict()

    endpoint(
        score_images,
        ONE_AT_A_TIME,
        files=[example_file("patient-1.zip")],
        model=tab.shelf.first.folder.model_id,
        sigma=0,
        seed=0,
        prevalence=0.5,
    )
