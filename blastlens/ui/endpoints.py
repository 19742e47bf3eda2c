"""Functions as public endpoints, for gradio_client, curl and MCP, with a description of each argument."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import gradio as gr
from gradio.context import LocalContext
from gradio.utils import get_function_description

from ..errors import BlastlensError

One = TypeVar("One")
# Events of the page itself: not part of the API, and without Gradio's conversion of their inputs.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
# Runs over many images take minutes: one at a time, from the page and the API together.
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "many images", "concurrency_limit": 1}
# What these marks stand for in the docstrings of endpoints.
_ARGUMENTS = {
    "{model}": "model: id of one of the models on offer, as list_models returns them; empty for the first.",
    "{prevalence}": (
        "prevalence: share of leukemic images that the probabilities assume, between 0 and 1; 0 for the model's own."
    ),
}


def endpoint(function: Callable[..., dict[str, Any]], queue: Mapping[str, Any] | None = None, **examples: Any) -> None:
    """Make a typed function an endpoint of its own name, inside the Blocks that are being built.

    MCP calls go to the function directly, since Gradio's own client would lose some of those that run in parallel;
    all other calls pass the queue.

    Args:
        function: returns JSON values. Its docstring describes it and, in a line each under "Args:", its arguments;
            {model} and {prevalence} stand for the description of these.
        queue: how many may run at a time, such as `ONE_AT_A_TIME`; by default as many as of any other event.
        examples: a value to show for each argument; a file name for an argument that takes files.
    """
    for mark, text in _ARGUMENTS.items():
        function.__doc__ = (function.__doc__ or "").replace(mark, text)
    made = gr.api(function, api_name=function.__name__, queue=False, **(queue or {}))
    _, described, _ = get_function_description(function)
    blocks = gr.context.Context.root_block
    assert blocks is not None  # gr.api has just refused to work without one
    inputs = blocks.fns[made["id"]].inputs
    for name, component in zip(described, inputs, strict=True):
        # gr.api leaves the arguments of an endpoint unnamed and without examples.
        component.label = name
        component.api_info()["additional_description"] = described[name]
        component.example_payload = component.example_value = lambda value=examples[name]: value


def example_file(name: str) -> dict[str, Any]:
    """A file argument's example, as the client would send it."""
    return {"path": name, "url": name, "meta": {"_type": "gradio.FileData"}}


def while_wanted(steps: Iterable[One]) -> Iterator[One]:
    """Yield the same steps as long as the client of the running event is connected.

    Raises:
        BlastlensError: the client has disconnected; the other steps are not taken.
    """
    blocks, name = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    event = blocks._queue.event_ids_to_events.get(name) if blocks and name else None
    try:
        for step in steps:
            if event and not event.alive:
                raise BlastlensError("The client has disconnected.")
            yield step
    finally:
        if isinstance(steps, Generator):
            steps.close()  # now, not when the error and all that hangs on it are cleared away
