"""The same chunks, scored by the actors of a Ray cluster.

Each actor writes the same parts as the threads of one machine, so the results are identical. All machines must see the
sources, the model and the output under the same paths, and have blastlens installed.
"""

import logging
import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import BlastlensError
from ..image_sources import Found
from ..inference import usable_cores
from .scorer import Command, Scorer, in_batches, part_file

_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # for lists of file names; by default Ray takes a third of the memory


def score_on_ray(
    scorer: Scorer,
    chunks: Iterable[tuple[int, list[Found]]],
    work: Path,
    tick: Callable[[int, int], None],
    workers: int | None,
    address: str | None,
) -> None:
    """Score chunks on a cluster, or on one started here.

    Args:
        scorer: of the command.
        chunks: their numbers and images.
        work: the folder for the parts.
        tick: called with the number of images and of failures of each chunk.
        workers: actors, of one core each; by default one per core.
        address: of the cluster; None starts one on this machine for the time being.

    Raises:
        BlastlensError: Ray is not installed or cannot be reached, or a part cannot be written.
    """
    with _cluster(workers, address) as ray:
        actor_class = ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3)(_Actor)
        most = workers or int(ray.cluster_resources().get("CPU", 1))
        busy: dict[Any, Any] = {}  # the pending result of each actor
        idle: list[Any] = []

        def finish_one() -> None:
            (result,), _ = ray.wait(list(busy), num_returns=1)
            idle.append(busy.pop(result))
            images, failed, problem = ray.get(result)
            if problem:
                raise BlastlensError(problem)
            tick(images, failed)

        for number, images in chunks:
            if not idle and len(busy) < most:
                idle.append(actor_class.remote(scorer.command, scorer.identity, str(work)))
            if not idle:
                finish_one()
            actor = idle.pop()
            busy[actor.score.remote(number, images)] = actor
        while busy:
            finish_one()


class _Actor:
    """Scores one chunk at a time, on one core."""

    def __init__(self, command: Command, identity: dict[str, Any], work: str) -> None:
        self._work = Path(work)
        self._problem = ""
        try:
            self._scorer = Scorer(command)
            if self._scorer.identity != identity:
                self._problem = (
                    f"On {platform.node()} the model {command.model} is another one; all machines must see the same."
                )
        except BlastlensError as error:  # Ray would wrap it in pages of its own
            self._problem = str(error)

    def score(self, number: int, images: list[Found]) -> tuple[int, int, str]:
        """Number of images and of failures, and why nothing could be scored, "" otherwise."""
        try:
            return (0, 0, self._problem) if self._problem else (*self._score(number, images), "")
        except BlastlensError as error:
            return 0, 0, str(error)

    def _score(self, number: int, images: list[Found]) -> tuple[int, int]:
        answers = [answer for some in in_batches(images) for answer in self._scorer.answers(some)]
        self._scorer.write_part(part_file(self._work, number), images, answers)
        return len(images), sum(isinstance(answer, str) for answer in answers)


@contextmanager
def _cluster(workers: int | None, address: str | None) -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # medical data: no telemetry
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_worker_niceness", "0")  # by default Ray's processes run at low priority
    try:
        import ray
    except ImportError as error:
        raise BlastlensError(
            "The engine ray needs Ray, which is not installed; install it with pip install ray, or use --engine local."
        ) from error
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
    except Exception as error:  # Ray's exceptions have no common type
        raise BlastlensError(f"The Ray cluster cannot be reached or started ({error}).") from error
    try:
        yield ray
    finally:
        ray.shutdown()
