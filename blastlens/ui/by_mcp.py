"""Callers by MCP, for whom the page asks itself as any other client would; here, with patience.

Gradio's client gives up after 5 s, without a word, where others are ahead. And where one answer's stream ends while the
next request begins, that request is taken for cancelled: a few in a thousand of those that come at the same time.
"""

from concurrent.futures import CancelledError
from typing import Any

from gradio import mcp
from gradio_client import Client
from gradio_client.client import Job

PATIENCE_S, TRIES = 120.0, 5
_GIVEN = mcp.GradioMCPServer._execute_tool_without_progress


class OwnClient(Client):
    """Waits for long, and can ask again."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given, httpx_kwargs={"timeout": PATIENCE_S})

    def submit(self, *args: Any, **given: Any) -> Job:
        """Ask; the job knows how to ask the same again."""
        job = super().submit(*args, **given)
        job.again = lambda: self.submit(*args, **given)
        return job


async def _answer(server: Any, job: Any) -> Any:
    for _ in range(TRIES - 1):
        try:
            return await _GIVEN(server, job)
        except CancelledError:
            job = job.again()
    return await _GIVEN(server, job)


def answer_by_mcp() -> None:
    """Have the pages of this process do so."""
    mcp.Client = OwnClient
    mcp.GradioMCPServer._execute_tool_without_progress = _answer
