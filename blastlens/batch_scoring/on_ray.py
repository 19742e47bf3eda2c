"""The same chunks, scored by the actors of a Ray cluster.

Each actor writes the same parts as the threads of one machine, so the results are identical. All machines must see the
sources, the model and the output under the same paths, and have blastlens installed.
"""

import logging
import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import BlastlensError
from ..image_sources import Found
from ..inference import usable_cores
from .scorer import BatchScorer, Command, in_batches, part_file

_OBJECT_STORE_BYTES = 100 * 1024 * 1024  # for lists of file names; by default Ray takes a third of the memory


def score_on_ray(
    scorer: BatchScorer,
    chunks: Iterable[tuple[int, list[Found]]],
    work: Path,
    workers: int | None,
    address: str | None,
) -> Iterator[tuple[int, int]]:
    """Score chunks on a cluster, or on one started here.

    Args:
        scorer: of the command.
        chunks: their numbers and images.
        work: the folder for the parts.
        workers: actors, of one core each; by default one per core.
        address: of the cluster; None starts one on this machine for the time being.

    Yields:
        the number of images and of failures of each chunk.

    Raises:
        BlastlensError: Ray is not installed or cannot be reached, or a part cannot be written.
    """
    with _cluster(workers, address) as ray:
        from ray.util import ActorPool

        actor = ray.remote(num_cpus=1, max_restarts=3, max_task_retries=3)(_Actor)
        number = workers or int(ray.cluster_resources().get("CPU", 1))
        pool = ActorPool([actor.remote(scorer.command, scorer.identity, work) for _ in range(number)])
        try:
            for chunk in chunks:
                if not pool.has_free():
                    yield pool.get_next_unordered()
                pool.submit(lambda worker, given: worker.score.remote(*given), chunk)
            while pool.has_next():
                yield pool.get_next_unordered()
        except ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, BlastlensError) else error  # noqa: B904 (pages of Ray's own)


class _Actor:
    """Scores one chunk at a time, on one core."""

    def __init__(self, command: Command, identity: dict[str, Any], work: Path) -> None:
        self._command, self._identity, self._work = command, identity, work

    @cached_property
    def _scorer(self) -> BatchScorer:
        scorer = BatchScorer(self._command)
        if scorer.identity != self._identity:
            raise BlastlensError(
                f"On {platform.node()} the model {self._command.model} is another one; all machines must see the same."
            )
        return scorer

    def score(self, number: int, images: list[Found]) -> tuple[int, int]:
        """Number of images and of failures."""
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
