"""How visitors wait for their turn: Gradio's queue, with what it lacks where anybody may come.

A visitor who leaves frees the place, whether waiting, being answered or never heard of again, and beyond the queue's
limit one sentence says so. Runs over many images may take a part of the queue only, so that they never keep out those
who ask about one.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from typing import Any, TypeVar

import gradio as gr
from gradio.context import LocalContext
from gradio.queueing import Queue
from gradio.route_utils import get_fn
from gradio.utils import LRUCache, run_coro_in_background

from ..errors import BlastlensError
from .endpoints import ONE_AT_A_TIME

MAX_WAITING, MAX_LONG_WAITING = 64, 16
BUSY = "This page is busy: {number} requests are waiting already. Please try again in a minute."
BUSY_LONG = (
    "This page is busy: {number} runs over many images are waiting already. Please try again in a few minutes; "
    "single images are answered meanwhile."
)
# So long an answer may lie there before its visitor is taken to have left; a look at them all is taken so often.
LISTEN_S, SWEEP_S = 60.0, 1.0
MAX_VISITORS = 50_000

One = TypeVar("One")


class Line(Queue):
    """The queue of the page and its API."""

    def start(self) -> None:
        """Begin to answer."""
        super().start()
        run_coro_in_background(self._let_go_of_the_silent)

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Let a request in, or say that there is no room for it; Gradio makes that status 503."""
        if busy := self._busy(body):
            return False, busy, "queue_full"
        return await super().push(body, request, username)

    def compute_analytics_summary(self, records: Any) -> Any:
        """Nothing: nobody is shown these figures, and Gradio makes them anew of the last 10,000 requests after each
        one, which would come to take as long as the answer."""
        return self.cached_event_analytics_summary

    def _busy(self, body: Any) -> str:
        """Why there is no room for a request, in one sentence; "" where there is."""
        if len(self) >= MAX_WAITING:
            return BUSY.format(number=len(self))
        if body.fn_index is None:
            return ""  # Gradio refuses it
        name = get_fn(self.blocks, None, body).concurrency_id
        of_its_kind = self.event_queue_per_concurrency_id.get(name)
        if name == ONE_AT_A_TIME["concurrency_id"] and of_its_kind and len(of_its_kind.queue) >= MAX_LONG_WAITING:
            return BUSY_LONG.format(number=len(of_its_kind.queue))
        return ""

    async def _let_go_of_the_silent(self) -> None:
        """Forget visitors who read nothing of what is sent to them, and those who were answered a while ago.

        Gradio notices who closes the stream of an answer, but not who never opens it, and keeps them all.
        """
        since: dict[tuple[str, bool], float] = {}  # visitor, and whether all was read
        while not self.stopped:
            await asyncio.sleep(SWEEP_S)
            now, mail, asked = time.monotonic(), self.pending_messages_per_session, self.pending_event_ids_session
            read = {who: messages.empty() for who, messages in mail.items()}
            silent = [(who, all_read) for who, all_read in read.items() if not (all_read and asked.get(who))]
            since = {one: since.get(one, now) for one in silent}
            for who in [who for (who, _), at in since.items() if now - at > LISTEN_S]:
                await self.clean_events(session_hash=who)
                mail.pop(who, None)
            for who in [who for who in asked if who not in mail]:
                asked.pop(who)


def in_line(demo: gr.Blocks) -> gr.Blocks:
    """Let a page's visitors wait in such a line: two of each kind of request are answered at a time."""
    demo.queue(max_size=MAX_WAITING, default_concurrency_limit=2, api_open=False)  # the closed road is one around it
    given = demo._queue
    demo._queue = Line(
        live_updates=given.live_updates,
        concurrency_count=given.max_thread_count,
        update_intervals=given.update_intervals,
        max_size=given.max_size,
        blocks=demo,
        default_concurrency_limit=given.default_concurrency_limit,
    )
    demo._queue.ANALYTICS_MAX_EVENTS = 1  # nor is it kept who asked for what
    # A stream of answers may end after all that it was opened for is forgotten; it then has nothing left to wait for.
    demo._queue.pending_event_ids_session = defaultdict(set)
    # Beyond so many at a time, Gradio would throw out whoever came first, and with them those who have waited longest.
    demo._queue.pending_messages_per_session = LRUCache(MAX_VISITORS)
    return demo


def while_wanted(steps: Iterable[One]) -> Iterator[One]:
    """The same steps, as long as the visitor is there for whom they are taken.

    Raises:
        BlastlensError: they have left, and the rest of the steps is not taken.
    """
    blocks, name = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    event = blocks._queue.event_ids_to_events.get(name) if blocks and name else None
    try:
        for step in steps:
            if event and not event.alive:
                raise BlastlensError("Whoever asked for this has left.")
            yield step
    finally:
        if isinstance(steps, Generator):
            steps.close()  # now, not when the error and all that hangs on it are cleared away
