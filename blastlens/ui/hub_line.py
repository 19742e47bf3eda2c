"""The line below the picker that opens any model of the Hub, where the operator of the page allows it.

A model that a visitor opened is in the picker of that visitor only, and nobody else is told of it.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from ..errors import BlastlensError
from ..guests import KEPT, LONGEST_S, NotYetError
from ..model_folder import ModelFolder
from .model_registry import Choice, Shelf
from .words import model_choice, term

# How often the page looks whether a model is there, in seconds, and how long it looks: others may be fetched first.
BEAT, LONGEST_WAIT_S = 0.5, 3 * LONGEST_S

# What an event changes: the picker, the visitor's own models, what is said of it, and when one was picked.
Shown = tuple[Any, Any, str, Any]


@dataclass(frozen=True)
class Opening:
    """The events by which a model gets into the picker; what shows a model follows them.

    Attributes:
        linked: the page was opened, by a link that may name a model.
        picked: what a visitor asked for is picked; as a trigger, like an event of the picker itself.
    """

    linked: Any
    picked: Any


@dataclass(frozen=True)
class OpenHub:
    """What the line's events answer with."""

    shelf: Shelf

    async def follow(self, known: list[Choice] | None, request: gr.Request) -> AsyncIterator[Shown]:
        """Open the model that the page's link names; what cannot be had, the first tab says."""
        name = request.query_params.get("model", "") if request else ""
        if name in ("", *self.shelf.classifiers):
            yield _NOTHING
            return
        try:
            async for *shown, _ in self._opened(name, known or []):
                yield *shown, gr.skip()  # whatever the link asks for is shown when the page opens
        except BlastlensError:
            yield gr.skip(), gr.skip(), _CAUTION, gr.skip()

    async def pick(self, name: str | None, known: list[Choice] | None) -> AsyncIterator[Shown]:
        """Open the model that a visitor names."""
        try:
            async for shown in self._opened((name or "").strip(), known or []):
                yield shown
        except BlastlensError as error:
            said = f'{_CAUTION}<div class="notes"><p class="error" role="alert">{escape(str(error))}</p></div>'
            yield gr.skip(), gr.skip(), said, gr.skip()

    async def _opened(self, name: str, known: list[Choice]) -> AsyncIterator[Shown]:
        if not name:
            raise BlastlensError("Give a model of the Hub, as owner/name or owner/name@revision.")
        start = time.monotonic()
        while True:
            try:
                classifier = self.shelf.classifier(name, patience=0)
                break
            except NotYetError as error:
                waited = time.monotonic() - start
                if waited > LONGEST_WAIT_S:
                    raise
                yield gr.skip(), gr.skip(), _waiting(str(error).split("; ")[0], waited), gr.skip()
            await asyncio.sleep(BEAT)
        folder, key = classifier.folder, self.shelf.name_of(classifier)
        if self.shelf.is_guest(classifier):
            known = [*((text, one) for text, one in known if one != key), (model_choice(folder), key)][-KEPT:]
        yield gr.Radio(choices=[*self.shelf.choices, *known], value=key), known, _picked(folder), time.time()


def build(shelf: Shelf, demo: gr.Blocks, model: gr.Radio) -> Opening:
    """Lay the line out and connect its events.

    Args:
        shelf: the models on offer; it admits guests.
        demo: the page that is being built; its load opens what its link names.
        model: the picker.
    """
    line = OpenHub(shelf)
    with gr.Row(elem_classes="open-hub"):
        name = gr.Textbox(
            label="Another model from the Hub",
            placeholder="owner/name or owner/name@revision",
            max_lines=1,
            max_length=300,
            scale=4,
            min_width=200,
        )
        press = gr.Button("Open it", scale=1, min_width=110)
    told = gr.HTML(_CAUTION, padding=True)
    known = gr.State([], time_to_live=3000)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    # They wait without keeping anybody from anything: any number at a time.
    quiet |= {"concurrency_id": "opening", "concurrency_limit": None}
    # Gradio tells of a changed state only where it changed in the last step of an event. (To raise an error would also
    # keep what follows from following, but Gradio would write it on the picker.)
    came, picked = gr.State(0.0, time_to_live=3000), gr.State(0.0, time_to_live=3000)
    shown = [model, known, told, came]
    linked = demo.load(line.follow, known, shown, **quiet)
    asked = gr.on([press.click, name.submit], line.pick, [name, known], shown, trigger_mode="once", **quiet)
    asked.then(lambda at: at, came, picked, **quiet)
    return Opening(linked, picked.change)


_NOTHING = (gr.skip(), gr.skip(), gr.skip(), gr.skip())
_CAUTION = (
    f'<p class="quiet open-hub-caution">Any model of this kind on the {term("Hub")}, if it has an ONNX file. '
    "Its files are fetched by the computer that runs this page; no code of its own is run. Nobody here has chosen or "
    "checked it.</p>"
)


def _waiting(what: str, seconds: float) -> str:
    said = f"{escape(what)} ({seconds:.0f} s)."
    return f'{_CAUTION}<div class="run"><p role="status" aria-live="polite">{said}</p></div>'


def _picked(folder: ModelFolder) -> str:
    revision = f", revision {escape(folder.revision[:7])}" if folder.revision else ""
    return f'{_CAUTION}<div class="run"><p role="status">Picked above: {escape(folder.model_id)}{revision}.</p></div>'
