"""What the page keeps of each visitor between two events: what they share, and nothing else."""

from types import SimpleNamespace
from typing import Any, cast

import gradio as gr
from gradio import state_holder
from gradio.state_holder import SessionState


class State(SessionState):
    """A visitor's state without the whole page as that visitor last saw it.

    Gradio keeps that for links to it, which this page does not offer. Every caller of the API is a new visitor, for
    whom it would describe each component anew, which takes about as long as an answer and lets nobody else in
    meanwhile; and every picture that was shown would stay in memory.
    """

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__(cast(gr.Blocks, SimpleNamespace(default_config=blocks.default_config, blocks={})))

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


def keep_little() -> None:
    """Have every page of this process keep no more than that."""
    state_holder.SessionState = State
