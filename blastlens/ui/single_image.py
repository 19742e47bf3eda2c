"""The tab where one image meets one model: give an image, make it worse, watch the answer."""

import threading
import time
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import Any, Literal
from weakref import ref

import gradio as gr
import numpy as np

from ..classifier import Classifier, Curve, Prediction, suggesting
from ..corruptions import KINDS, Corruption
from ..errors import BlastlensError
from ..images import ACCEPTED
from ..noise import checked_seed
from .endpoints import endpoint, example_file
from .examples import Example
from .links import Scene, name_of, read_scene
from .model_registry import Shelf, provenance, refusals
from .pictures import curve_figure, figure, heat_overlay
from .single_image_html import (
    caution_html,
    decision_html,
    kinds_html,
    link_html,
    marks_html,
    notes_html,
    offer_html,
    remarks_html,
    seen_html,
)
from .uploads import path_of
from .words import facts, label_text

# An uploaded file as Gradio hands it over with `preprocess=False`. Left to itself, gr.Image would open the
# file before this module does: it re-encodes some, and fails on others with words of its own.
Upload = dict[str, Any] | None
# What an event changes on the page: the picture, its activation map, what to know before the answer, the answer,
# what can be decided by it, what to know after it, the link.
Shown = tuple[str, str, str, dict[str, Any], str, str, str]
# Grain differs from shot to shot; so many patterns show how far an answer depends on the one it got.
PATTERNS = 4
# An image of 50 megapixels takes most of a gigabyte while it is decoded; the preview does not wait in the queue.
_DECODING = threading.BoundedSemaphore(2)
# Nor may previews take all the threads from those who do wait: beyond so many at a time they are left out, and the next
# one comes with the slider's next move.
_PREVIEWING = threading.BoundedSemaphore(2)
NOISE = "gaussian_noise"

# Gradio's slider tells of a release for the pointer only; this makes the arrow keys and Enter count as one.
KEYBOARD_RELEASE = """() => document.addEventListener("keyup", event => {
  const input = event.target;
  const commits = {range: /^(Arrow|Page|Home|End)/, number: /^(Enter|Arrow)/}[input.type];
  if (commits?.test(event.key)) input.dispatchEvent(new PointerEvent("pointerup", {bubbles: true}));
})"""
# Gradio pastes on a click of its button; most people press the keys.
PASTE = """() => document.addEventListener("paste", event => {
  const files = event.clipboardData?.files, input = document.querySelector(".given input[type=file]");
  if (!files?.length || !input?.closest(".block").checkVisibility()) return;
  input.files = files;
  input.dispatchEvent(new Event("change", {bubbles: true}));
})"""
PICK = """element.addEventListener("click", event => {
  const button = event.target.closest("button[data-value]");
  if (button) trigger("select", {value: button.dataset.value});
})"""
# The picker of kinds is a native one: it groups, opens where there is room, and every keyboard and phone knows it.
CHOOSE = """const select = element.querySelector("select"), show = () => { select.value = props.value; };
show();
watch("value", show);
select.addEventListener("change", () => {
  props.value = select.value;
  trigger("input");
})"""
CUT = 'element.addEventListener("input", event => element.style.setProperty("--cut", event.target.value + "%"))'
# The address bar always holds the link to what is on the page, whose other parts stay; the example shown is marked.
REMEMBER = """watch("value", () => {
  const link = element.querySelector("a"), here = new URL(location);
  const shown = link && new URL(link.href).searchParams.get("image");
  for (const button of document.querySelectorAll(".examples button"))
    button.setAttribute("aria-pressed", button.dataset.value === shown);
  if (!link) return;
  for (const [name, value] of new URL(link.href).searchParams)
    value ? here.searchParams.set(name, value) : here.searchParams.delete(name);
  history.replaceState(history.state, "", here);
})"""


@dataclass(frozen=True)
class TryACell:
    """What the tab's events answer with."""

    shelf: Shelf

    def answer(self, image: Upload, model: str, kind: str, level: float, seed: int, share: float = 0) -> Shown:
        """Everything but the curve that the page shows for a visitor's image."""
        if image is None:
            return _waiting("")
        try:
            path = path_of(image)
            if not Path(path).is_file():
                # Uploads are deleted within the hour, and with them Gradio's copies of the examples.
                example = self._example(path, self.shelf.classifier(model))
                if example is None:
                    raise BlastlensError("This image has been deleted, as promised; please give it again.")
                path = str(example.path)
        except BlastlensError as error:
            return _refused(error)
        return self._shown(path, model, kind, level, seed, share)

    def _shown(self, path: str | None, model: str, kind: str, level: float, seed: int, share: float = 0) -> Shown:
        if path is None:
            return _waiting("")
        try:
            classifier, change = self.shelf.classifier(model), Corruption(kind, level)
            start = time.perf_counter()
            prevalence = _prevalence(classifier, share)
            prediction = classifier.predict(path, seed=seed, corruption=change, prevalence=prevalence)
            seconds = time.perf_counter() - start
            prediction = suggesting(prediction, path, self.shelf.classifiers.values())
            clean = _pixels(ref(classifier), path)
            changed = change.apply(clean, seed)
            untouched = prediction if change.is_neutral else _untouched(ref(classifier), path, prevalence)
        except BlastlensError as error:
            return _refused(error)
        named = {label_text(classifier.folder, label): p for label, p in prediction.probabilities.items()}
        return (
            seen_html(clean, changed, change),
            _focus(classifier, changed, prediction.label),
            caution_html(prediction, self._named(prediction.suggestion)),
            _verdict(named, prediction.in_domain is not False),
            decision_html(prediction, classifier.folder.metrics.get("calibration")),
            notes_html(prediction, change, untouched, self._example(path, classifier), seconds),
            link_html(Scene(classifier.folder.model_id, self._name(path, classifier), change, seed)),
        )

    def curve(self, image: Upload, model: str, kind: str, level: float, seed: int, share: float = 0) -> str:
        """The answer at every level of a kind, as a figure; empty where there is nothing to draw."""
        try:
            classifier, path, change = self.shelf.classifier(model), path_of(image), Corruption(kind, level)
            curve = _curve(ref(classifier), path, kind, checked_seed(seed), _prevalence(classifier, share))
            return curve_figure(curve, classifier.label_names, change.level)
        except BlastlensError:
            return _NO_CURVE  # the answer says what is wrong

    def preview(
        self, image: Upload, model: str, kind: str, level: float, seed: int, share: float = 0
    ) -> tuple[str, str]:
        """The changed picture and the curve's marker, while the slider is still moving."""
        if not _PREVIEWING.acquire(blocking=False):
            return gr.skip(), gr.skip()
        try:
            classifier, path, change = self.shelf.classifier(model), path_of(image), Corruption(kind, level)
            clean = _pixels(ref(classifier), path)
            seen = seen_html(clean, change.apply(clean, checked_seed(seed)), change)
            return seen, self.curve(image, model, kind, level, seed, share)
        except BlastlensError:
            return gr.skip(), gr.skip()  # the last answer has said what is wrong
        finally:
            _PREVIEWING.release()

    def open(self, request: gr.Request) -> tuple[Any, ...]:
        """The first look at the page: what its link asks for, or the first example."""
        scene, remarks = read_scene(dict(request.query_params) if request else {}, self.shelf)
        with refusals():
            classifier = self.shelf.classifier(scene.model)
        path = self._example_path(classifier, scene.example)
        seen, focus, caution, verdict, decision, notes, link = self._shown(
            path, scene.model, scene.change.kind, scene.change.level, scene.seed
        )
        told = f'<div class="notes">{remarks_html(remarks)}</div>' if remarks else ""
        return (
            scene.model,
            facts(classifier.folder),
            offer_html(self.shelf.examples_of(classifier), scene.example),
            scene.change.kind,
            *_controls(scene.change),
            scene.seed,
            _share_of(classifier),
            path,
            seen,
            focus,
            told + caution,
            verdict,
            decision,
            notes,
            link,
        )

    def pick(self, event: gr.EventData, *settings: Any) -> tuple[Any, ...]:
        """A click on an example."""
        with refusals():
            path = self._example_path(self.shelf.classifier(settings[0]), event.value)
        return self._with_image(path, *settings)

    def switch(
        self, image: Upload, model: str, kind: str, level: float, seed: int, share: float = 0
    ) -> tuple[Any, ...]:
        """Another model: a visitor's own image stays, an example makes room for one that suits the model.

        The share of leukemic images becomes the new model's own.
        """
        with refusals():
            classifier = self.shelf.classifier(model)
        try:
            path = path_of(image) if image else None
        except BlastlensError:  # no upload: somebody plays with the requests
            path = None
        offered = self.shelf.examples_of(classifier)
        others = {example.path.name for examples in self.shelf.examples.values() for example in examples}
        if path and Path(path).name in others - {example.path.name for example in offered} and offered:
            path = str(offered[0].path)
        return (
            facts(classifier.folder),
            offer_html(offered, self._name(path, classifier)),
            *self._with_image(path, model, kind, level, seed),
            _share_of(classifier),
        )

    def send_on(self, event: gr.EventData, image: Upload, *change: Any) -> tuple[Any, ...]:
        """A click that gives the same image to the model that is suggested for it."""
        return event.value, *self.switch(image, event.value, *change)

    def other_kind(self, image: Upload, model: str, kind: str, seed: int, share: float = 0) -> tuple[Any, ...]:
        """Another way to change the image, from its neutral level."""
        with refusals():
            change = Corruption.neutral(kind)
        return *_controls(change), *self.answer(image, model, kind, change.level, seed, share)

    def jump(
        self, event: gr.EventData, image: Upload, model: str, kind: str, seed: int, share: float = 0
    ) -> tuple[Any, ...]:
        """A click on one of the slider's marks."""
        return event.value, *self.answer(image, model, kind, event.value, seed, share)

    def _named(self, model: str | None) -> tuple[str, str] | None:
        """A model on offer, as the picker has it: what to call it, and its name."""
        return next((choice for choice in self.shelf.choices if choice[1] == model), None)

    def _with_image(self, path: str | None, *settings: Any) -> tuple[Any, ...]:
        return path, *self._shown(path, *settings)

    def _example_path(self, classifier: Classifier, name: str) -> str | None:
        return next((str(one.path) for one in self.shelf.examples_of(classifier) if name_of(one) == name), None)

    def _example(self, path: str, classifier: Classifier) -> Example | None:
        return next((one for one in self.shelf.examples_of(classifier) if one.path.name == Path(path).name), None)

    def _name(self, path: str | None, classifier: Classifier) -> str:
        example = self._example(path, classifier) if path else None
        return name_of(example) if example else ""


def endpoints(shelf: Shelf) -> None:
    """Make the tab's two public endpoints, inside the Blocks that are being built."""
    other_kinds = Literal["none", *(kind for kind in KINDS if kind != NOISE)]  # type: ignore[valid-type]

    def classify(
        image: gr.FileData,
        model: str = "",
        sigma: float = 0,
        seed: int = 0,
        corruption: other_kinds = "none",  # type: ignore[valid-type]
        level: float = 0,
        prevalence: float = 0,
    ) -> dict[str, Any]:
        """Classify one image, with noise or another change added first. Research demonstration, not a medical device.

        Args:
            image: a PNG, JPEG, BMP, GIF, TIFF or WebP file of up to 50 megapixels.
            {model}
            sigma: standard deviation of added Gaussian noise on the 0 to 255 scale, 0 to 100.
            seed: of the noise, a whole number from 0 on; the same seed gives the same noise.
            corruption: another change, made before the noise.
            level: of the corruption, on its own scale; one beyond it is refused with the range.
            {prevalence}

        Returns:
            label, probabilities by label (calibrated over all answers together, not for each label), logits,
            in_domain (whether the image is of the kind the model knows), suggestion (the model that knows it, where
            this one does not), label_set (the labels that cannot be ruled out, or null), flagged (whether it reaches
            the threshold that misses few, or null), warnings (the first: the model's external validation), model_id,
            revision, sigma, corruption, prevalence (null where the model states none), disclaimer.
        """
        with refusals():
            change = None if corruption == "none" else Corruption(corruption, level)
            path = path_of(image)
            prediction = shelf.classifier(model).predict(path, sigma, seed, change, prevalence or None)
            return suggesting(prediction, path, shelf.classifiers.values()).to_dict()

    def noise_curve(
        image: gr.FileData,
        model: str = "",
        kind: Literal[*KINDS] = NOISE,  # type: ignore[valid-type]
        patterns: int = 1,
        seed: int = 0,
        prevalence: float = 0,
    ) -> dict[str, Any]:
        """How the answer for one image moves as it gets worse. Research demonstration, not a medical device.

        Args:
            image: a PNG, JPEG, BMP, GIF, TIFF or WebP file of up to 50 megapixels.
            {model}
            kind: what makes it worse.
            patterns: how many noise patterns to average, 1 to 8.
            seed: of the first pattern, a whole number from 0 on.
            {prevalence}

        Returns:
            levels, probabilities by label (a list, one per level; mean over patterns), low and high (the same, over
            patterns), flip_level (nearest to no change at which the label is another one, or null), and as in
            classify: warnings, in_domain, model_id, revision, sigma, prevalence, disclaimer.
        """
        with refusals():
            classifier, path = shelf.classifier(model), path_of(image)
            if isinstance(patterns, bool) or not isinstance(patterns, int) or not 1 <= patterns <= 8:
                raise BlastlensError(f"patterns is {patterns!r}; a whole number from 1 to 8 is accepted.")
            curve = classifier.curve(
                path, kind, seeds=_seeds(checked_seed(seed), patterns), prevalence=prevalence or None
            )
            clean = classifier.predict(path, prevalence=prevalence or None)
            columns = {"probabilities": curve.probabilities, "low": curve.low, "high": curve.high}
            return {
                "kind": kind,
                "levels": list(curve.levels),
                **{name: _by_label(curve, rows) for name, rows in columns.items()},
                "flip_level": curve.flip_level,
                "in_domain": clean.in_domain,
                "prevalence": clean.prevalence,
                **provenance(classifier.folder, warnings=clean.warnings),
            }

    first, cell = shelf.first.folder.model_id, example_file("cell.bmp")
    endpoint(classify, image=cell, model=first, sigma=10, seed=0, corruption="blur", level=2, prevalence=0.5)
    endpoint(noise_curve, image=cell, model=first, kind=NOISE, patterns=4, seed=0, prevalence=0.5)


def _by_label(curve: Curve, rows: np.ndarray) -> dict[str, list[float]]:
    return dict(zip(curve.label_names, rows.T.tolist(), strict=True))


def build(shelf: Shelf, demo: gr.Blocks, model: gr.Radio, about: gr.HTML) -> None:
    """Lay the tab out and connect its events.

    Args:
        shelf: the models on offer.
        demo: the page that is being built; its load opens this tab.
        model, about: the picker above all tabs, and what it says of the picked model; this tab keeps both.
    """
    tab = TryACell(shelf)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320), gr.Group():
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
            offer = gr.HTML(offer_html(shelf.examples_of(shelf.first)), padding=True, js_on_load=PICK)
        with gr.Column(scale=7, min_width=320):
            with gr.Group():
                with gr.Row(elem_classes="pictures"):
                    seen = gr.HTML(_SEEN_NOTHING, min_width=140, js_on_load=CUT)
                    focus = gr.HTML(_FOUND_NOTHING, min_width=140)
                caution = gr.HTML(padding=True, js_on_load=PICK)
                verdict = gr.Label(label="The model's answer", elem_classes="verdict")
                decision = gr.HTML(padding=True)
                with gr.Row(elem_classes="controls"):
                    kind = gr.HTML(
                        NOISE,
                        html_template=kinds_html(),
                        js_on_load=CHOOSE,
                        min_width=150,
                        scale=1,
                        elem_classes="kinds",
                    )
                    level = gr.Slider(**_range(Corruption(NOISE, 0)), min_width=200, scale=3, elem_classes="level")
                marks = gr.HTML(marks_html(NOISE), padding=True, js_on_load=PICK)
                with gr.Accordion("Assumed share of leukemic images", open=False):
                    share = _share_of(shelf.first)
                notes = gr.HTML(padding=True)
            with gr.Group():
                curve = gr.HTML(_NO_CURVE, padding=True)
            with gr.Row(elem_classes="last"):
                seed = gr.Number(
                    0,
                    label="Noise pattern (seed)",
                    info="Another number, another grain.",
                    precision=0,
                    minimum=0,
                    min_width=160,
                )
                link = gr.HTML(js_on_load=REMEMBER, min_width=160)

    shown = [seen, focus, caution, verdict, decision, notes, link]
    change = [kind, level, seed, share]
    settings = [image, model, *change]
    controls = [level, marks]
    # Nothing on this tab is worth a spinner: an answer takes about as long as one frame of its animation.
    # Of what happens while an answer is on its way, the last counts: the page never ends up with less than its controls
    # say. A click carries its own value, so each of those is kept.
    quiet: dict[str, Any] = {
        "show_progress": "hidden",
        "api_visibility": "private",
        "preprocess": False,
        "trigger_mode": "always_last",
        # Two at a time, of all of them together, suit two cores.
        "concurrency_id": "answers",
        "concurrency_limit": 2,
    }
    click = quiet | {"trigger_mode": "multiple"}

    # The answer comes first; the curve, which takes a few answers' time, follows unless it is known already.
    def follows(event: gr.events.Dependency) -> None:
        event.then(tab.curve, settings, curve, **quiet)

    follows(demo.load(tab.open, None, [model, about, offer, kind, *controls, seed, share, image, *shown], **quiet))
    demo.load(None, js=KEYBOARD_RELEASE)
    demo.load(None, js=PASTE)
    follows(offer.select(tab.pick, [model, *change], [image, *shown], **click))
    follows(model.input(tab.switch, settings, [about, offer, image, *shown, share], **quiet))
    follows(kind.input(tab.other_kind, [image, model, kind, seed, share], [*controls, *shown], **quiet))
    follows(caution.select(tab.send_on, [image, *change], [model, about, offer, image, *shown, share], **click))
    follows(marks.select(tab.jump, [image, model, kind, seed, share], [level, *shown], **click))
    follows(gr.on([image.upload, seed.input], tab.answer, settings, shown, **quiet))
    # Told of a removed image, Gradio still sends it along.
    image.clear(lambda: (*_waiting(""), _NO_CURVE), None, [*shown, curve], **quiet)
    follows(gr.on([level.release, share.release], tab.answer, settings, shown, **quiet))
    level.input(tab.preview, settings, [seen, curve], queue=False, **quiet)
    endpoints(shelf)


# Gradio stores an upload under a hash of its bytes, so its path stands for its content. A classifier stands for itself
# only by reference: one that the page has let go of must not stay in memory for what it once answered.
@lru_cache(maxsize=32)
def _pixels(classifier: "ref[Classifier]", path: str) -> np.ndarray:
    with _DECODING:
        return _there(classifier).pixels(path)


@lru_cache(maxsize=32)
def _untouched(classifier: "ref[Classifier]", path: str, prevalence: float | None) -> Prediction:
    return _there(classifier).predict(path, prevalence=prevalence)


@lru_cache(maxsize=64)
def _curve(classifier: "ref[Classifier]", path: str, kind: str, seed: int, prevalence: float | None) -> Curve:
    found = _there(classifier)
    return found.curve(_pixels(classifier, path), kind, seeds=_seeds(seed, PATTERNS), prevalence=prevalence)


def _there(classifier: "ref[Classifier]") -> Classifier:
    found = classifier()
    assert found is not None  # whoever asks holds it
    return found


def forget() -> None:
    """Drop every picture and curve that is kept for the next event."""
    for cached in (_pixels, _untouched, _curve):
        cached.cache_clear()


def _seeds(first: int, count: int) -> tuple[int, ...]:
    """So many seeds from one on; those past the largest there is start over at 0."""
    return tuple((first + number) % 2**64 for number in range(count))


def _focus(classifier: Classifier, changed: np.ndarray, label: str) -> str:
    try:
        heat = classifier.activation_map(changed, label)
    except BlastlensError:  # not every network has one
        return ""
    return figure(
        heat_overlay(changed, heat),
        f"Activation map for {label}: the brighter, the more a place spoke for this answer",
        f"Where it found support for {label}. Not evidence: it shows what moved the model, not disease.",
    )


def _refused(error: BlastlensError) -> Shown:
    return _waiting(f'<div class="notes"><p class="error" role="alert">{escape(str(error))}</p></div>')


_SEEN_NOTHING, _FOUND_NOTHING, _NO_CURVE = (
    f'<div class="nothing">{text}</div>'
    for text in (
        "Upload or paste an image, or pick an example, and see here what the model sees.",
        "Here: what in it moved the answer.",
        "Here: how the answer holds as the image gets worse.",
    )
)


def _waiting(caution: str) -> Shown:
    """The page without an answer."""
    return _SEEN_NOTHING, _FOUND_NOTHING, caution, _verdict(None), "", "", ""


def _verdict(named: dict[str, float] | None, fits: bool = True) -> dict[str, Any]:
    label = "The model's answer" if fits else "The model's answer, which means little here"
    return gr.update(value=named, label=label, elem_classes=["verdict"] if fits else ["verdict", "doubtful"])


def _range(change: Corruption) -> dict[str, Any]:
    kind = KINDS[change.kind]
    unit = f" ({kind.unit})" if kind.unit else " (sigma)" if kind.name == NOISE else ""
    return {
        "minimum": kind.low,
        "maximum": kind.high,
        "step": kind.step,
        "value": change.level,
        "label": f"{kind.title}{unit}",
        "info": f"{kind.explanation} Drag to see it; let go for a new answer.",
    }


def _share_of(classifier: Classifier) -> gr.Slider:
    """The control of the assumed share of leukemic images, at the model's own; idle for a model that states none."""
    own = classifier.prevalence
    return gr.Slider(
        0.01,
        0.99,
        round(own or 0.5, 2),
        step=0.01,
        interactive=own is not None,
        label="Share of leukemic images",
        info="This model states none."
        if own is None
        else f"The model assumes {own:.2f}. What is flagged and what is not ruled out stay the same.",
        elem_classes="share-assumed",
    )


def _prevalence(classifier: Classifier, share: float) -> float | None:
    """What the control says as `Classifier.predict` takes it; None for the model's own, and where it states none."""
    own = classifier.prevalence
    return None if own is None or not share or share == round(own, 2) else share


def _controls(change: Corruption) -> tuple[Any, str]:
    """The slider and its marks for a kind."""
    return gr.Slider(**_range(change)), marks_html(change.kind)
