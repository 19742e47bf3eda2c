"""The tab "A patient or a folder": many images at once, one line for each, and one for each patient."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..errors import BlastlensError
from ..image_sources import MAX_IMAGES
from .batch import NOT_NAMED, Run, image_rows, patient_rows
from .batch_html import images_html, patients_html, progress, summary
from .endpoints import ONE_AT_A_TIME, endpoint, example_file, while_wanted
from .examples import drawn_zip
from .model_registry import Shelf, refusals
from .tables import RESORT, TableView
from .uploads import Upload, uploaded, write_csv

SECONDS_BETWEEN_UPDATES = 0.4

_WAITING = '<div class="nothing">Here: how the run goes, and what could not be read.</div>'
_HOW = f"""
<p>Give the images of one patient, or of many: files, a folder, or zips. Up to {MAX_IMAGES:,} at a time;
one that cannot be read stops nothing.</p>
<details class="how"><summary>How does it know whose image is whose?</summary>
<p>From a table among the files, saved as CSV, with the columns <code>file_name</code> and <code>subject</code>; or
from names as in C-NMC 2019, such as <code>UID_H3_12_1_hem.bmp</code>. All other images form one row,
&ldquo;{NOT_NAMED}&rdquo;. A zip keeps its folders' names; a folder that is uploaded without one loses them.</p>
</details>
"""


@dataclass(frozen=True)
class FolderTab:
    """What the tab's events answer with."""

    shelf: Shelf
    keeper: gr.components.Component

    def drawn(self, model: str) -> Any:
        """Something to try the tab with: drawn images of made-up people."""
        with refusals():
            path = drawn_zip(self.shelf.classifier(model).label_names)
            if path is None:
                raise BlastlensError("Nobody draws images for this model's labels; give some of your own.")
            return [str(path)]

    def wait(self) -> tuple[Any, ...]:
        """The page from the press of the button until the run's turn comes."""
        status = '<div class="run"><p role="status" aria-live="polite">Waiting for its turn.</p></div>'
        return None, gr.Button(interactive=True), status, *_NO_TABLES

    def run(self, files: list[Upload] | None, model: str, sigma: float) -> Iterator[tuple[Any, ...]]:
        """Progress until the tables are there."""
        try:
            others = self.shelf.classifiers.values()
            run = Run.of(self.shelf.classifier(model), uploaded(files, self.keeper), sigma, others=others)
        except BlastlensError as error:
            yield None, gr.Button(interactive=False), _refusal(error), *_NO_TABLES
            return
        told = time.perf_counter()
        yield run, gr.skip(), progress(run), *_KEEP_TABLES
        for _ in run.steps():
            if time.perf_counter() - told > SECONDS_BETWEEN_UPDATES:
                told = time.perf_counter()
                yield gr.skip(), gr.skip(), progress(run), *_KEEP_TABLES
        yield run, *self.results(run)

    def cancel(self, run: Run | None) -> tuple[Any, ...]:
        """What was done when the run was stopped."""
        if run is None:
            status = '<div class="run"><p role="status">Stopped before it began.</p></div>'
            return gr.Button(interactive=False), status, *_NO_TABLES
        run.stopped = True
        return self.results(run)

    def results(self, run: Run) -> tuple[Any, ...]:
        """Everything the page shows of a run that has ended."""
        files = [
            gr.DownloadButton(value=write_csv(name, rows), visible=True) if rows else gr.DownloadButton(visible=False)
            for name, rows in (
                ("blastlens-patients.csv", list(patient_rows(run))),
                ("blastlens-images.csv", list(image_rows(run))),
            )
        ]
        tables = patients_html(run, TableView()), images_html(run, TableView())
        return gr.Button(interactive=False), summary(run), *tables, *files

    def sort_patients(self, event: gr.EventData, run: Run | None) -> Any:
        """A click on a header, or on a page, of the table of patients."""
        return gr.skip() if run is None else patients_html(run, TableView.parse(event.value))

    def sort_images(self, event: gr.EventData, run: Run | None) -> Any:
        """A click on a header, or on a page, of the table of images."""
        return gr.skip() if run is None else images_html(run, TableView.parse(event.value))


def _together(before: list[Upload] | None, added: list[Upload] | None) -> list[Upload]:
    return [*(before or []), *(added or [])]


def _refusal(error: BlastlensError) -> str:
    return f'<div class="run notes"><p class="error" role="alert">{escape(str(error))}</p></div>'


_NO_TABLES = ("", "", gr.DownloadButton(visible=False), gr.DownloadButton(visible=False))
_KEEP_TABLES = (gr.skip(), gr.skip(), gr.skip(), gr.skip())


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and connect its events; the picked model is `model`'s value."""
    tab = FolderTab(shelf, model)
    run = gr.State(None, time_to_live=3000)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320), gr.Group(elem_classes="many"):
            gr.HTML(_HOW, padding=True)
            files = gr.File(
                label="Images, or zips of images",
                file_count="multiple",
                height=190,
                elem_classes="many-files",
            )
            with gr.Row(elem_classes="many-controls"):
                more = gr.UploadButton("Add files", file_count="multiple", size="md", min_width=100)
                folder = gr.UploadButton("Add a folder", file_count="directory", size="md", min_width=100)
                drawn = gr.Button("Use drawn examples", size="md", min_width=100)
            sigma = gr.Number(
                0,
                label="Noise to add (sigma)",
                info="0 to 100; 0 leaves the images as they are.",
                minimum=0,
                maximum=100,
                elem_classes="many-noise",
            )
            with gr.Row(elem_classes="many-controls"):
                start = gr.Button("Run", variant="primary", min_width=130, scale=2)
                stop = gr.Button("Cancel", variant="stop", interactive=False, min_width=100, scale=1)
        with gr.Column(scale=7, min_width=320), gr.Group(elem_classes="many"):
            status = gr.HTML(_WAITING, padding=True)
            with gr.Row(elem_classes="many-controls"):
                patients_csv = gr.DownloadButton("Patients as CSV", visible=False, size="md", min_width=130)
                images_csv = gr.DownloadButton("Images as CSV", visible=False, size="md", min_width=130)
    patients = gr.HTML(js_on_load=RESORT, elem_classes="sheets")
    images = gr.HTML(js_on_load=RESORT, elem_classes="sheets")

    shown = [stop, status, patients, images, patients_csv, images_csv]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    for button in (more, folder):
        button.upload(_together, [files, button], files, queue=False, postprocess=False, **quiet)
    drawn.click(tab.drawn, model, files, queue=False, **quiet)
    running = start.click(tab.wait, None, [run, *shown], queue=False, **quiet).then(
        tab.run, [files, model, sigma], [run, *shown], **ONE_AT_A_TIME, **quiet
    )
    # Gradio stops a run only after the event that asks for it has been answered, and the run may write on the page
    # until then: what was done is shown when it has ended.
    running.failure(tab.cancel, run, shown, queue=False, **quiet)
    stop.click(None, cancels=running, api_visibility="private")
    patients.select(tab.sort_patients, run, patients, queue=False, **quiet)
    images.select(tab.sort_images, run, images, queue=False, **quiet)
    _endpoint(tab)


def _endpoint(tab: FolderTab) -> None:
    """Make the tab's public endpoint, inside the Blocks that are being built."""

    def score_images(
        files: list[gr.FileData], model: str = "", sigma: float = 0, seed: int = 0, prevalence: float = 0
    ) -> dict[str, Any]:
        """Classify many images, and sum them up by patient. Research demonstration, not a medical device.

        Args:
            files: images, or zips of images, up to 5,000 in all; a CSV of file_name and subject names patients.
            {model}
            sigma: standard deviation of added Gaussian noise on the 0 to 255 scale, 0 to 100.
            seed: of the noise, a whole number from 0 on; the same seed gives the same noise.
            {prevalence}

        Returns:
            images (file, patient, label, probabilities, label_set, flagged, in_domain, suggestion, warnings about the
            image; as classify explains them), patients (images, leukemic_images and their share, mean probability of
            leukemia, each with a 95 % interval, lowest, highest), failures (file, reason), and model_id,
            revision, sigma, seed, prevalence, warnings (the first: the model's external validation), disclaimer.
        """
        with refusals():
            others = tab.shelf.classifiers.values()
            classifier, given = tab.shelf.classifier(model), uploaded(files, tab.keeper)
            run = Run.of(classifier, given, sigma, seed, others, prevalence or None)
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
