"""The tab that classifies one image: upload or pick it, corrupt it, and see how the prediction changes."""

import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from ..classifier import Classifier, suggesting
from ..corruptions import KINDS, Corruption, kind_of
from ..errors import BlastlensError
from ..images import ACCEPTED
from ..noise import checked_seed
from ..predictions import Curve, Prediction
from .endpoints import QUIET
from .examples import Example, original_of
from .links import Scene, read_scene
from .model_registry import Shelf
from .pictures import figure, heat_overlay
from .single_image_endpoints import add_endpoints, seeds_from
from .single_image_html import (
    curve_html,
    decision_html,
    error_html,
    link_html,
    measurements_html,
    notes_html,
    view_html,
    warnings_html,
)
from .uploads import path_of
from .words import NOISE, facts, label_text, unit_text

# An uploaded file as Gradio passes it with `preprocess=False`. Otherwise gr.Image would open the file first: it
# re-encodes some files, and fails on others with messages of its own.
Upload = dict[str, Any] | None
# Noise patterns that the curve averages: the spread shows how far a prediction depends on the one it got.
PATTERNS = 4
# Further previews at the same time are skipped, so that they do not take all threads; the next one follows at once.
_PREVIEWS = threading.BoundedSemaphore(2)
_OPEN_IN = "Fits another model: open in "
_NO_VIEW, _NO_MAP, _NO_CURVE = (
    f'<div class="nothing">{text}</div>'
    for text in (
        "Upload or paste an image, or pick an example, to see what the model sees.",
        "Activation map",
        "Prediction by level of corruption",
    )
)

# Gradio does not keep the link to the view in the address bar.
LINK_IN_ADDRESS_BAR = """watch("value", () => {
  const link = element.querySelector("a"), here = new URL(location);
  if (!link) return;
  for (const [name, value] of new URL(link.href).searchParams)
    value ? here.searchParams.set(name, value) : here.searchParams.delete(name);
  history.replaceState(history.state, "", here);
})"""


@dataclass(frozen=True)
class SingleImageTab:
    """The events of the tab. Settings are always: image, model, kind of corruption, level, seed, prevalence."""

    shelf: Shelf

    def answer(
        self, image: Upload, model: str, kind: str, level: float, seed: int, share: float = 0
    ) -> tuple[Any, ...]:
        """The view, activation map, prediction, text below it, button of the suggested model, and link."""
        if image is None:
            return _empty()
        try:
            classifier, change = self.shelf.classifier(model), Corruption(kind, level)
            path, prevalence = _existing(image), _prevalence(classifier, share)
            start = time.perf_counter()
            prediction = classifier.predict(path, seed=seed, corruption=change, prevalence=prevalence)
            seconds = time.perf_counter() - start
            prediction = suggesting(prediction, path, self.shelf.classifiers.values())
            clean = _pixels(classifier, path)
            changed = change.apply(clean, seed)
            untouched = prediction if change.is_neutral else _untouched(classifier, path, prevalence)
        except BlastlensError as error:
            return _empty(error_html(str(error)))
        folder, example = classifier.folder, self._example(path, classifier)
        suggested = self.shelf.titles.get(prediction.suggestion or "")
        details = (
            decision_html(prediction, folder.metrics.get("calibration")),
            warnings_html(prediction),
            measurements_html(folder.metrics, clean),
            notes_html(prediction, change, untouched, example, seconds),
        )
        return (
            view_html(clean, changed, change),
            _activation_map(classifier, changed, prediction.label),
            _label(
                {label_text(folder, label): value for label, value in prediction.probabilities.items()},
                rejected=prediction.in_domain is False,
            ),
            f'<div class="notes">{"".join(details)}</div>',
            gr.Button(f"{_OPEN_IN}{suggested}", visible=bool(suggested)),
            link_html(Scene(folder.model_id, example.name if example else "", change, seed)),
        )

    def curve(self, image: Upload, model: str, kind: str, level: float, seed: int, share: float = 0) -> str:
        """The prediction at every level of the kind, as a chart; empty if there is nothing to draw."""
        try:
            classifier, change = self.shelf.classifier(model), Corruption(kind, level)
            prevalence = _prevalence(classifier, share)
            return curve_html(_curve(classifier, _existing(image), kind, checked_seed(seed), prevalence), change.level)
        except BlastlensError:
            return _NO_CURVE  # `answer` shows the error

    def preview(
        self, image: Upload, model: str, kind: str, level: float, seed: int, share: float = 0
    ) -> tuple[str, str]:
        """The corrupted picture and the curve's marker while the slider is moving."""
        if not _PREVIEWS.acquire(blocking=False):
            return gr.skip(), gr.skip()
        try:
            classifier, change = self.shelf.classifier(model), Corruption(kind, level)
            clean = _pixels(classifier, _existing(image))
            view = view_html(clean, change.apply(clean, checked_seed(seed)), change)
            return view, self.curve(image, model, kind, level, seed, share)
        except BlastlensError:
            return gr.skip(), gr.skip()  # the last answer has shown the error
        finally:
            _PREVIEWS.release()

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """The model and its description, examples, corruption, seed, prevalence and image of the page's link."""
        scene, remarks = read_scene(dict(request.query_params) if request else {}, self.shelf)
        for remark in remarks:
            gr.Warning(escape(remark), duration=None)
        classifier, change = self.shelf.classifier(scene.model), scene.change
        examples = self.shelf.examples_of(classifier)
        path = next((str(one.path) for one in examples if one.name == scene.example), None)
        about, share = facts(classifier.folder), _share_of(classifier)
        return scene.model, about, _thumbnails(examples), change.kind, *_controls(change), scene.seed, share, path

    def pick(self, model: str, event: gr.SelectData) -> str:
        """A click on an example."""
        return str(self.shelf.examples_of(self.shelf.classifier(model))[event.index].path)

    def switch(self, image: Upload, model: str) -> tuple[Any, ...]:
        """Another model: an uploaded image stays, an example is replaced by one of that model's own."""
        classifier = self.shelf.classifier(model)
        offered = self.shelf.examples_of(classifier)
        try:
            path = path_of(image) if image else None
        except BlastlensError:  # a request that names a file that was not uploaded
            path = None
        if path and offered and original_of(path) and not self._example(path, classifier):
            path = str(offered[0].path)
        return facts(classifier.folder), _thumbnails(offered), path, _share_of(classifier)

    def controls(self, kind: str) -> tuple[gr.Slider, gr.Dropdown]:
        """The controls of another kind of corruption, at the level that changes nothing."""
        return _controls(Corruption(kind, kind_of(kind).neutral))

    def _example(self, path: str, classifier: Classifier) -> Example | None:
        return next((one for one in self.shelf.examples_of(classifier) if one.path.name == Path(path).name), None)

    def suggested(self, button: str) -> str:
        """The model that the button of the suggested model opens."""
        return {f"{_OPEN_IN}{title}": name for name, title in self.shelf.titles.items()}.get(button, gr.skip())


def build(shelf: Shelf, demo: gr.Blocks, model: gr.Radio, about: gr.HTML) -> None:
    """Lay the tab out and connect its events.

    Args:
        shelf: the models on offer.
        demo: the page that is being built; its load opens this tab.
        model, about: the picker above all tabs and the description of the picked model, which this tab updates.
    """
    tab = SingleImageTab(shelf)
    with gr.Row(equal_height=False):
        image, examples = _input_column(real=shelf.data is not None)
        view, kind, level, references = _view_column()
        with gr.Column(scale=7, min_width=300), gr.Group():
            verdict = gr.Label(label="Prediction", elem_classes="verdict")
            details = gr.HTML(padding=True)
            suggestion = gr.Button(variant="primary", visible=False)
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320), gr.Group():
            curve = gr.HTML(_NO_CURVE, padding=True)
        with gr.Column(scale=4, min_width=300):
            with gr.Group():
                focus = gr.HTML(_NO_MAP, padding=True)
            with gr.Accordion("Prevalence and noise pattern", open=False):
                share = _share_of(shelf.first)
                seed = gr.Number(0, label="Noise pattern (seed)", precision=0, minimum=0)
            link = gr.HTML(js_on_load=LINK_IN_ADDRESS_BAR)

    settings = [image, model, kind, level, seed, share]
    shown = [view, focus, verdict, details, suggestion, link]
    at_once = QUIET | {"queue": False}
    # Of the changes made while an answer is pending the last counts, so that the page always matches its controls.
    # Two answers at a time, of all of them together, suit two cores.
    in_turn = QUIET | {"trigger_mode": "always_last", "concurrency_id": "answers", "concurrency_limit": 2}
    pending = in_turn | {"show_progress": "minimal", "show_progress_on": verdict}

    def answered(event: gr.events.Dependency) -> None:
        """The answer, and then the curve, which takes longer."""
        event.then(tab.answer, settings, shown, **pending).then(tab.curve, settings, curve, **in_turn)

    opened = [model, about, examples, kind, level, references, seed, share, image]
    switched = [about, examples, image, share]
    answered(demo.load(tab.open, None, opened, **QUIET))
    answered(examples.select(tab.pick, model, image, **at_once))
    answered(model.input(tab.switch, [image, model], switched, **at_once))
    to_suggestion = suggestion.click(tab.suggested, suggestion, model, **at_once)
    answered(to_suggestion.then(tab.switch, [image, model], switched, **at_once))
    answered(kind.input(tab.controls, kind, [level, references], **at_once))
    menu = "(mark, level) => [mark ?? level, null]"
    answered(references.input(None, [references, level], [level, references], js=menu))
    changed = gr.on([image.upload, level.release, share.release, seed.input], tab.answer, settings, shown, **pending)
    changed.then(tab.curve, settings, curve, **in_turn)
    level.input(tab.preview, settings, [view, curve], trigger_mode="always_last", **at_once)
    # On removing an image, Gradio still sends it along.
    image.clear(lambda: (*_empty(), _NO_CURVE), None, [*shown, curve], **at_once)
    add_endpoints(shelf)


def _input_column(real: bool) -> tuple[gr.Image, gr.Gallery]:
    with gr.Column(scale=5, min_width=280), gr.Group():
        image = gr.Image(
            label="Your image",
            type="filepath",
            sources=["upload", "clipboard"],
            buttons=["fullscreen"],
            height=170,
            # No alternative text: the model's view beside it has one, and shows files that a browser cannot.
            placeholder=f"Drop an image here, or click to choose one\n{ACCEPTED}",
            elem_classes="given",
        )
        origin = (
            "real ones may be training images, all others are synthetic" if real else "synthetic, not from patients"
        )
        gr.HTML(f'<p class="quiet">Or pick an example: {origin}.</p>', padding=True)
        examples = gr.Gallery(
            label="Examples",
            show_label=False,
            columns=3,
            height="auto",
            allow_preview=False,
            buttons=[],
            interactive=False,
            elem_classes="examples",
        )
    return image, examples


def _view_column() -> tuple[gr.HTML, gr.Dropdown, gr.Slider, gr.Dropdown]:
    with gr.Column(scale=8, min_width=300), gr.Group():
        view = gr.HTML(_NO_VIEW, padding=True, elem_classes="view")
        with gr.Row(elem_classes="controls"):
            titles = [(one.title, name) for name, one in KINDS.items()]
            kind = gr.Dropdown(titles, value=NOISE, label="Corruption", min_width=140)
            level = _slider(Corruption(NOISE, 0))
        references = _reference_levels(Corruption(NOISE, 0))
    return view, kind, level, references


def _existing(image: Upload) -> str:
    """The path of an upload. Uploads are deleted within the hour, and Gradio's copies of the examples with them."""
    path = path_of(image)
    if Path(path).is_file():
        return path
    if original := original_of(path):
        return str(original)
    raise BlastlensError("This image has been deleted; please upload it again.")


# Gradio stores an upload under a hash of its bytes, so that its path stands for its content.
@lru_cache(maxsize=32)
def _pixels(classifier: Classifier, path: str) -> np.ndarray:
    return classifier.pixels(path)


@lru_cache(maxsize=32)
def _untouched(classifier: Classifier, path: str, prevalence: float | None) -> Prediction:
    return classifier.predict(path, prevalence=prevalence)


@lru_cache(maxsize=64)
def _curve(classifier: Classifier, path: str, kind: str, seed: int, prevalence: float | None) -> Curve:
    seeds = seeds_from(seed, PATTERNS)
    return classifier.curve(_pixels(classifier, path), kind, seeds=seeds, prevalence=prevalence)


def forget() -> None:
    """Drop every picture, prediction and curve that is kept for the next event."""
    for cached in (_pixels, _untouched, _curve):
        cached.cache_clear()


def _empty(details: str = "") -> tuple[Any, ...]:
    """The tab without a prediction."""
    return _NO_VIEW, _NO_MAP, _label(None), details, gr.Button(visible=False), ""


def _label(probabilities: dict[str, float] | None, rejected: bool = False) -> dict[str, Any]:
    title = "Prediction (the image was rejected: unreliable)" if rejected else "Prediction"
    return gr.update(value=probabilities, label=title, elem_classes=["verdict", *(["doubtful"] if rejected else [])])


def _activation_map(classifier: Classifier, changed: np.ndarray, label: str) -> str:
    overlay = heat_overlay(changed, classifier.activation_map(changed, label))
    caption = f"Activation map for {label}; not evidence of disease."
    return figure(overlay, f"Bright where the network found support for {label}", caption)


def _thumbnails(examples: tuple[Example, ...]) -> list[tuple[str, str]]:
    """The examples as `gr.Gallery` takes them."""
    return [(str(one.path), one.label if one.drawn else f"{one.label}, real") for one in examples]


def _controls(change: Corruption) -> tuple[gr.Slider, gr.Dropdown]:
    return _slider(change), _reference_levels(change)


def _slider(change: Corruption) -> gr.Slider:
    """The level of a corruption."""
    kind = KINDS[change.kind]
    label = f"{kind.title}{unit_text(kind)}"
    return gr.Slider(
        kind.low, kind.high, change.level, step=kind.step, label=label, min_width=190, elem_classes="level"
    )


def _reference_levels(change: Corruption) -> gr.Dropdown:
    """A menu of levels that have a meaning, such as published severities."""
    kind = KINDS[change.kind]
    choices = [(f"{level:g}: {text}", level) for level, text in kind.marks]
    return gr.Dropdown(choices, value=None, label="Set to a reference level", info=kind.explanation)


def _share_of(classifier: Classifier) -> gr.Slider:
    """The assumed prevalence, at the model's own; disabled for a model that states none."""
    own = classifier.prevalence
    info = "This model states none." if own is None else f"The model assumes {own:.2f}. Flags and sets do not change."
    label = "Assumed prevalence: share of leukemic images"
    return gr.Slider(0.01, 0.99, round(own or 0.5, 2), 0.01, interactive=own is not None, label=label, info=info)


def _prevalence(classifier: Classifier, share: float) -> float | None:
    """The slider's value as `Classifier.predict` takes it; None for the model's own."""
    own = classifier.prevalence
    return None if own is None or not share or share == round(own, 2) else share
