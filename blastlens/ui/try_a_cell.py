"""The tab where one image meets one model: give an image, add noise, watch the answer."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ..classifier import Classifier, NoiseCurve, Prediction
from ..errors import BlastlensError
from ..images import ACCEPTED
from ..noise import MAX_SIGMA, add_gaussian_noise
from .examples import Example
from .pictures import figure, heat_overlay, noise_curve_svg, thumbnail_uri
from .words import facts, label_text, model_choice, task_of

# An uploaded file as Gradio hands it over with `preprocess=False`. Left to itself, gr.Image would open the
# file before this module does: it re-encodes some, and fails on others with words of its own.
Upload = dict[str, Any] | None
# What an event changes on the page: the picture, its activation map, the probabilities, the notes, the curve.
Shown = tuple[str, str, dict[str, float] | None, str, str]

# Gradio's slider tells of a release for the pointer only; this makes the arrow keys and Enter count as one.
KEYBOARD_RELEASE = """() => document.addEventListener("keyup", event => {
  const input = event.target;
  const commits = {range: /^(Arrow|Page|Home|End)/, number: /^Enter$/}[input.type];
  if (commits?.test(event.key)) input.dispatchEvent(new PointerEvent("pointerup", {bubbles: true}));
})"""

PICK = """element.addEventListener("click", event => {
  const button = event.target.closest("button[data-index]");
  if (button) trigger("select", {index: Number(button.dataset.index)});
})"""


@dataclass(frozen=True)
class TryACell:
    """What the tab's events answer with.

    Attributes:
        classifiers: by model id; the first is the one the page opens with.
        examples: by model id, what is on offer for each.
    """

    classifiers: Mapping[str, Classifier]
    examples: Mapping[str, tuple[Example, ...]]

    def classify(self, image: Upload, model: str, sigma: float = 0, seed: int = 0) -> dict[str, Any]:
        """Classify one image.

        Args:
            image: a PNG, JPEG, BMP, GIF, TIFF or WebP file of up to 50 megapixels.
            model: id of one of the models on offer.
            sigma: standard deviation of added Gaussian noise on the 0 to 255 scale, 0 to 100.
            seed: of the noise; the same seed gives the same noise.

        Returns:
            label, calibrated probabilities by label, logits, warnings, model_id, revision, sigma, disclaimer.
        """
        try:
            return self._classifier(model).predict(_path(image), sigma, seed).to_dict()
        except BlastlensError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def answer(self, image: Upload, model: str, sigma: float, seed: int) -> Shown:
        """Everything the page shows for one image."""
        if image is None:
            return _waiting("")
        try:
            classifier = self._classifier(model)
            path = _path(image)
            start = time.perf_counter()
            prediction = classifier.predict(path, sigma, seed)
            seconds = time.perf_counter() - start
        except BlastlensError as error:
            return _waiting(f'<div class="notes"><p class="error" role="alert">{escape(str(error))}</p></div>')
        named = {label_text(classifier.folder, label): p for label, p in prediction.probabilities.items()}
        return (
            _seen(classifier, path, sigma, seed),
            _focus(classifier, path, sigma, seed, prediction.label),
            named,
            _notes(prediction, seconds),
            _curve(classifier, path, sigma, seed),
        )

    def preview(self, image: Upload, model: str, sigma: float, seed: int) -> tuple[str, str]:
        """The noisy picture and the curve's marker, while the slider is still moving."""
        try:
            classifier, path = self._classifier(model), _path(image)
            return _seen(classifier, path, sigma, seed), _curve(classifier, path, sigma, seed)
        except BlastlensError:
            return gr.skip(), gr.skip()  # the last answer has said what is wrong

    def open(self, model: str, sigma: float, seed: int) -> tuple[str | None, *tuple[Any, ...]]:
        """The first look at the page: the first example, answered."""
        first = next(iter(self.examples[model]), None)
        return self._with_image(str(first.path) if first else None, model, sigma, seed)

    def pick(self, event: gr.EventData, model: str, sigma: float, seed: int) -> tuple[str | None, *tuple[Any, ...]]:
        """A click on an example."""
        return self._with_image(str(self.examples[model][event.index].path), model, sigma, seed)

    def switch(self, image: Upload, model: str, sigma: float, seed: int) -> tuple[Any, ...]:
        """Another model: a visitor's own image stays, an example makes room for one that suits the model."""
        classifier = self._classifier(model)
        path = image["path"] if image else None
        offered = {example.path.name for example in self.examples[model]}
        others = {example.path.name for examples in self.examples.values() for example in examples}
        if path and Path(path).name in others - offered and self.examples[model]:
            path = str(self.examples[model][0].path)
        return (
            facts(classifier.folder),
            _offer(classifier, self.examples[model]),
            *self._with_image(path, model, sigma, seed),
        )

    def _with_image(self, path: str | None, *settings: Any) -> tuple[str | None, *tuple[Any, ...]]:
        return path, *self.answer({"path": path} if path else None, *settings)

    def _classifier(self, model: str) -> Classifier:
        if model not in self.classifiers:
            raise BlastlensError(f"There is no model {model!r} here; choose one of {', '.join(self.classifiers)}.")
        return self.classifiers[model]

    def build(self, demo: gr.Blocks) -> None:
        """Lay the tab out inside `demo`, which is being built, and connect its events."""
        first = next(iter(self.classifiers.values()))
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                with gr.Group():
                    model = gr.Radio(
                        [(model_choice(c.folder), name) for name, c in self.classifiers.items()],
                        value=first.folder.model_id,
                        label="What do you want to ask?",
                        elem_classes="models",
                    )
                    about = gr.HTML(facts(first.folder), padding=True)
                with gr.Group():
                    image = gr.Image(
                        label="Your image",
                        type="filepath",
                        sources=["upload", "clipboard"],
                        buttons=["fullscreen"],
                        height=250,
                        # No alt text: the model's view beside it has one, and shows files a browser cannot.
                        placeholder=f"Drop an image here, or click to choose one\n{ACCEPTED}",
                        elem_classes="given",
                    )
                    # The API page would show Gradio's own example, a photograph from the network.
                    image.example_payload = lambda: {"path": "cell.bmp", "meta": {"_type": "gradio.FileData"}}
                    offer = gr.HTML(_offer(first, self.examples[first.folder.model_id]), padding=True, js_on_load=PICK)
            with gr.Column(scale=7, min_width=320):
                with gr.Group():
                    with gr.Row(elem_classes="pictures"):
                        seen = gr.HTML(min_width=140)
                        focus = gr.HTML(min_width=140)
                    sigma = gr.Slider(
                        0,
                        MAX_SIGMA,
                        value=0,
                        step=1,
                        label="Noise (sigma)",
                        info="Grain as from a dim camera. Drag to see it; let go for a new answer.",
                    )
                with gr.Group():
                    verdict = gr.Label(label="The model's answer", elem_classes="verdict")
                    notes = gr.HTML(padding=True)
                with gr.Group():
                    curve = gr.HTML(padding=True)
                with gr.Accordion("More settings", open=False):
                    seed = gr.Number(
                        0,
                        label="Noise pattern (seed)",
                        info="Another number, another grain.",
                        precision=0,
                        minimum=0,
                    )

        shown = [seen, focus, verdict, notes, curve]
        settings = [model, sigma, seed]
        # Nothing on the page is worth a spinner: an answer takes about as long as one frame of its animation.
        quiet = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
        demo.load(self.open, settings, [image, *shown], **quiet)
        demo.load(None, js=KEYBOARD_RELEASE)
        offer.select(self.pick, settings, [image, *shown], **quiet)
        model.change(self.switch, [image, *settings], [about, offer, image, *shown], **quiet)
        gr.on(
            [image.upload, image.clear, seed.change, sigma.release],
            self.answer,
            [image, *settings],
            shown,
            **quiet,
        )
        sigma.input(self.preview, [image, *settings], [seen, curve], trigger_mode="always_last", queue=False, **quiet)
        endpoint = gr.Button(visible=False)
        reply = gr.JSON(visible=False, label="prediction")
        endpoint.click(self.classify, [image, *settings], reply, api_name="classify", preprocess=False)


def _path(upload: Upload) -> str:
    path = upload.get("path") if upload else None
    if not path:
        raise BlastlensError(f"There is no image yet; give a {ACCEPTED} file.")
    return path


# Gradio stores an upload under a hash of its bytes, so its path stands for its content.
@lru_cache(maxsize=32)
def _pixels(classifier: Classifier, path: str) -> np.ndarray:
    return classifier.pixels(path)


@lru_cache(maxsize=64)
def _noise_curve(classifier: Classifier, path: str, seed: int) -> NoiseCurve:
    return classifier.noise_curve(_pixels(classifier, path), seed=seed)


def _seen(classifier: Classifier, path: str, sigma: float, seed: int) -> str:
    pixels = add_gaussian_noise(_pixels(classifier, path), sigma, seed)
    noise = f"noise {sigma:g}" if sigma else "no noise"
    caption = f"What the model sees: {pixels.shape[1]} by {pixels.shape[0]} pixels, {noise}."
    return figure(pixels, caption, caption)


def _focus(classifier: Classifier, path: str, sigma: float, seed: int, label: str) -> str:
    noisy = add_gaussian_noise(_pixels(classifier, path), sigma, seed)
    try:
        heat = classifier.activation_map(noisy, label)
    except BlastlensError:  # not every network has one
        return ""
    return figure(
        heat_overlay(noisy, heat),
        f"Activation map for {label}: the brighter, the more a place spoke for this answer",
        f"Where it found support for {label}. Not evidence: it shows what moved the model, not disease.",
    )


def _curve(classifier: Classifier, path: str, sigma: float, seed: int) -> str:
    return noise_curve_svg(_noise_curve(classifier, path, seed), classifier.label_names, sigma)


def _notes(prediction: Prediction, seconds: float) -> str:
    warnings = "".join(f'<p class="warning">Please note: {escape(text)}.</p>' for text in prediction.warnings)
    time_taken = f"Answered in {1000 * seconds:.0f} ms by {escape(prediction.model_id)}."
    return f'<div class="notes">{warnings}<p>{time_taken} {escape(prediction.disclaimer)}</p></div>'


def _waiting(notes: str) -> Shown:
    """The page without an answer."""
    seen, focus, curve = (
        f'<div class="nothing">{text}</div>'
        for text in (
            "Upload or paste an image, or pick an example, and see here what the model sees.",
            "Here: what in it moved the answer.",
            "Here: how the answer holds as noise grows.",
        )
    )
    return seen, focus, None, notes, curve


def _offer(classifier: Classifier, examples: tuple[Example, ...]) -> str:
    """HTML: the examples as buttons, drawn ones and people's images apart from each other."""
    credit = task_of(classifier.folder).credit
    drawn = "Or try one of these: <strong>drawn by this project, not patients.</strong>"
    real = (
        f"<strong>Real images</strong> found on this computer, with their true labels. {escape(credit)}. "
        "The model may have been trained on them, so a right answer here proves little."
    )
    parts = []
    for heading, is_drawn in ((drawn, True), (real, False)):
        buttons = [
            f'<li><button type="button" data-index="{index}"><img src="{thumbnail_uri(example.path)}" '
            f'alt="{"drawn" if is_drawn else "real"} example">{escape(example.label)}</button></li>'
            for index, example in enumerate(examples)
            if example.drawn == is_drawn
        ]
        if buttons:
            rows = f'<ul class="of-{3 if len(buttons) % 3 == 0 else 4}">{"".join(buttons)}</ul>'
            parts.append(f'<section class="examples"><p>{heading}</p>{rows}</section>')
    return "".join(parts)
