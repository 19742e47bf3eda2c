"""Functions as public endpoints, for gradio_client, curl and MCP, with what a caller needs to know of each argument."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gradio as gr
from gradio.utils import get_function_description

from .model_registry import Shelf

Function = TypeVar("Function", bound=Callable[..., dict[str, Any]])
# Many images at once keep the processor busy for minutes: one such run at a time, whoever asks for it.
_PREVALENCE = (
    "prevalence: share of leukemic images that the probabilities assume, between 0 and 1; 0 for the model's own."
)
ONE_AT_A_TIME: dict[str, Any] = {"concurrency_id": "many images", "concurrency_limit": 1}


def endpoint(function: Callable[..., dict[str, Any]], queue: Mapping[str, Any] | None = None, **examples: Any) -> None:
    """Make a typed function an endpoint of its own name, inside the Blocks that are being built.

    Its docstring describes it and, in a line each under "Args:", its arguments.

    Args:
        function: returns JSON values.
        queue: how many may run at a time, as `ONE_AT_A_TIME` says it; by default as many as of any other event.
        examples: a value to show for each argument; a file name for an argument that takes files.
    """
    made = gr.api(function, api_name=function.__name__, **(queue or {}))
    _, described, _ = get_function_description(function)
    blocks = gr.context.Context.root_block
    assert blocks is not None  # gr.api has just refused to work without one
    inputs = blocks.fns[made["id"]].inputs
    for name, component in zip(described, inputs, strict=True):
        # gr.api leaves the arguments of an endpoint unnamed and without examples.
        component.label = name
        component.api_info()["additional_description"] = described[name]
        component.example_payload = component.example_value = lambda value=examples[name]: value


def model_described(shelf: Shelf) -> Callable[[Function], Function]:
    """Decorate an endpoint's function: "{model}" and "{prevalence}" in its docstring become what may be given there."""
    said = "model: id of one of the models on offer, as list_models gives them; empty for the first."

    def describe(function: Function) -> Function:
        told = {"{model}": said, "{prevalence}": _PREVALENCE}
        for mark, text in told.items():
            function.__doc__ = (function.__doc__ or "").replace(mark, text)
        return function

    return describe


def example_file(name: str) -> dict[str, Any]:
    """A file argument's example, as the client would send it."""
    return {"path": name, "url": name, "meta": {"_type": "gradio.FileData"}}
