"""The same chunks, scored by the actors of a Ray cluster.

Each actor is what one thread is on one machine, and writes the same parts, so the results are the same to the bit. All
machines must see the sources, the model and the output under the same paths, and have blastlens installed.
"""

import logging
import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import BlastlensError
from ..inference import usable_cores
from .listing import LISTING, Listing
from .results import part_file
from .scoring import Command, Scorer, in_batches

if TYPE_CHECKING:
    from .score import Tick

# What Ray keeps between its processes are chunks' numbers; by default it would take a third of the memory.
_OBJECT_STORE_BYTES = 100 * 1024 * 1024


def run_on_ray(
    command: Command, work: Path, missing: Sequence[int], tick: "Tick", workers: int | None, address: str | None
) -> None:
    """Score chunks on a cluster, or on one started here.

    Args:
        command: as `Scorer.command` has it.
        work: the folder of the listing and of the parts.
        missing: numbers of the chunks to score.
        workers: actors, of one core each; by default one for every core there is.
        address: of the cluster; None starts one on this machine, for as long as this takes.

    Raises:
        BlastlensError: Ray is not installed or cannot be reached, or a part cannot be written.
    """
    with _cluster(workers, address) as ray:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        actors = workers or int(ray.cluster_resources().get("CPU", 1))
        chunks = ray.data.from_items([{"chunk": number} for number in missing], override_num_blocks=len(missing))
        done = chunks.map_batches(
            _Actor,
            fn_constructor_args=(command, str(work)),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(size=min(actors, len(missing))),
        )
        for row in done.iter_rows():
            if row["problem"]:
                raise BlastlensError(row["problem"])
            tick(row["images"], row["failed"])


class _Actor:
    """Scores one chunk at a time, on one core."""

    def __init__(self, command: Command, work: str) -> None:
        self._work = Path(work)
        self._problem = ""
        try:
            self._listing = Listing(self._work / LISTING)
            self._scorer = Scorer(command)
            if self._scorer.identity != self._listing.identity:
                self._problem = (
                    f"On {platform.node()} the model {command.model} is another one; all machines must see the same."
                )
        except BlastlensError as error:  # one that left here would come out wrapped in pages of Ray's own
            self._problem = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        (number,) = batch["chunk"].tolist()
        images = failed = 0
        try:
            if not self._problem:
                images, failed = self._score(number)
        except BlastlensError as error:
            self._problem = str(error)
        return {"images": [images], "failed": [failed], "problem": [self._problem]}

    def _score(self, number: int) -> tuple[int, int]:
        images = self._listing.chunk(number)
        answers = [answer for some in in_batches(images) for answer in self._scorer.answers(some)]
        self._scorer.save(part_file(self._work, number), images, answers)
        return len(images), sum(isinstance(answer, str) for answer in answers)


@contextmanager
def _cluster(workers: int | None, address: str | None) -> Iterator[Any]:
    # What is done with medical images is nobody else's business; and Ray's own remarks are no help to who sees a bar.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Ray would have its processes wait for everything else on this machine, as threads of ours do not.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BlastlensError(
            'The engine ray needs Ray, which is not installed; install it with pip install "ray[data]", or use '
            "--engine local."
        ) from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if address is not None:
        how: dict[str, Any] = {"address": address}
    else:
        how = {
            "address": "local",
            "num_cpus": workers or usable_cores(),
            "object_store_memory": _OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **how)
    except Exception as error:  # Ray's exceptions have no type in common
        raise BlastlensError(f"The Ray cluster cannot be reached or started ({error}).") from error
    try:
        yield ray
    finally:
        ray.shutdown()
