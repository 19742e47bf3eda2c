"""Score sources into one Parquet file, on this machine or on a Ray cluster, and go on where a run before was cut off.

Beside the output there is a folder of the same name with `.parts` until all is done. It holds the listing of the images
and, for each chunk of it that is finished, a part of the results; each of these appears in one step. So whenever the
process ends, the same command goes on with the chunks whose parts are not there.
"""

import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import BlastlensError
from ..inference import usable_cores
from ..wording import listed
from .listing import LISTING, Listing, write_listing
from .results import Answer, Tally, is_whole, part_file
from .saving import LOCK, TEMPORARY, alone_in, saying
from .scoring import Command, Scorer, in_batches
from .walk import Found, given, walk

# Images to a chunk, and so what a kill can cost; a multiple of a network's batch.
CHUNK = 1024
ENGINES = ("local", "ray")
# Batches that wait for each worker thread, so that it never waits for its next one.
_AHEAD = 4

# Told how many images more are done, and how many of them failed.
Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What a finished run did.

    Attributes:
        images: rows of the output.
        failed: those of them that have an error instead of an answer.
        unlike: those that the model's input check found unlike the images it knows.
        scored: those that this run scored; a run before it may have been cut off.
        seconds: from the first look at the sources to the finished file; loading the model is not in it.
    """

    images: int
    failed: int
    unlike: int
    scored: int
    seconds: float

    @property
    def rate(self) -> float:
        """Images per second of this run."""
        return self.scored / self.seconds


def score(
    command: Command,
    out: str | os.PathLike[str],
    engine: str = "local",
    workers: int | None = None,
    ray_address: str | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
    chunk: int = CHUNK,
) -> Report:
    """Score all images of a command into a Parquet file; see `results.Table` for its columns.

    Args:
        command: what to score, and how.
        out: the file; its folder is made if need be.
        engine: "local", threads of this process, or "ray".
        workers: threads, or with Ray processes; by default as many as there are cores.
        ray_address: of a running cluster; by default one is started on this machine.
        overwrite: whether a file that is there may be replaced, once all is done.
        show_progress: whether a progress bar is shown on stderr.
        chunk: images that are finished together.

    Raises:
        BlastlensError: a source, model or setting that cannot be used, an output that exists or cannot be written,
            or the work of another command in its place. What is wrong with single images is in the output.
        KeyboardInterrupt: Ctrl-C; its message says what is finished.
    """
    if engine not in ENGINES:
        raise BlastlensError(f"There is no engine {engine!r}; {listed(ENGINES)} is accepted.")
    if workers is not None and workers < 1:
        raise BlastlensError(f"There cannot be {workers} workers; 1 or more are accepted.")
    out = Path(os.path.abspath(out))
    work = out.with_name(f"{out.name}.parts")
    shutil.rmtree(_on_its_way_out(work), ignore_errors=True)
    sources = given(command.sources)
    scorer = Scorer(command)
    if out.is_dir() or (out.exists() and not overwrite and not _only_to_be_merged(work, scorer.identity)):
        what = "is a folder; name a file" if out.is_dir() else "exists; give --overwrite to replace it"
        raise BlastlensError(f"{out} {what}, or choose another --out.")
    begun = time.perf_counter()
    with saying(work):
        work.mkdir(parents=True, exist_ok=True)
    with alone_in(work):
        listing = _listed(work, scorer.identity, lambda: walk(sources, work), chunk, show_progress)
        _sweep(work)
        missing = _missing(work, listing)
        to_score = sum(listing.sizes[number] for number in missing)
        try:
            with _progress("Scoring", show_progress, listing.images, listing.images - to_score) as tick:
                if engine == "ray" and missing:
                    from .on_ray import run_on_ray

                    run_on_ray(scorer.command, work, missing, tick, workers, ray_address)
                else:
                    _run_here(scorer, listing, work, missing, tick, workers or usable_cores())
            tally = Tally()
            parts = [part_file(work, number) for number in range(len(listing.sizes))]
            scorer.table.write(out, work, tally.merged(parts), scorer.identity)
        except KeyboardInterrupt:
            left = sum(listing.sizes[number] for number in _missing(work, listing))
            raise KeyboardInterrupt(
                f"Stopped; {listing.images - left:,} of {listing.images:,} images are finished, and the same command "
                "goes on from there."
            ) from None
        _remove(work)
    return Report(tally.images, tally.failed, tally.unlike, to_score, time.perf_counter() - begun)


# The work folder -----------------------------------------------------------------------------------------------------


def _listed(
    work: Path, identity: dict[str, Any], found: Callable[[], Iterator[Found]], chunk: int, show_progress: bool
) -> Listing:
    """The listing that is there, if it is of this command, or else a new one."""
    file = work / LISTING
    ours = (LOCK, LISTING)  # and what a killed run had begun to write of the listing
    if not file.exists() and not all(one.name.startswith(ours) for one in work.iterdir()):
        raise BlastlensError(f"{work} is in the way, and holds something else; move it, or choose another --out.")
    try:
        if not file.exists():
            with _progress("Listing", show_progress) as tick:
                write_listing(file, found(), identity, chunk, lambda images: tick(images, 0))
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Stopped before anything was scored.") from None
    finally:
        if not file.exists():
            shutil.rmtree(work, ignore_errors=True)
    listing = Listing(file)
    different = [key for key in identity if identity[key] != listing.identity.get(key)]
    if different:
        raise BlastlensError(
            f"{work} holds what another command has finished ({listed(different, 'and')} were different); delete it, "
            "or choose another --out."
        )
    return listing


def _missing(work: Path, listing: Listing) -> list[int]:
    return [number for number, size in enumerate(listing.sizes) if not is_whole(part_file(work, number), size)]


def _only_to_be_merged(work: Path, identity: dict[str, Any]) -> bool:
    """Whether a run of this command was cut off between its last chunk and its very end."""
    if not (work / LISTING).exists():
        return False
    listing = Listing(work / LISTING)
    return listing.identity == identity and not _missing(work, listing)


def _sweep(work: Path) -> None:
    """Delete what killed runs had begun to write."""
    with saying(work):
        for left in work.glob(f"*.*{TEMPORARY}"):
            left.unlink(missing_ok=True)


def _remove(work: Path) -> None:
    """Delete a work folder, of which no half is ever seen."""
    with saying(work):
        work.rename(_on_its_way_out(work))
    shutil.rmtree(_on_its_way_out(work), ignore_errors=True)


def _on_its_way_out(work: Path) -> Path:
    return work.with_name(f"{work.name}.old")


# Progress ------------------------------------------------------------------------------------------------------------


@contextmanager
def _progress(title: str, show: bool, total: int | None = None, done: int = 0) -> Iterator[Tick]:
    """A bar on stderr, which threads may move; into a file it is written seldom."""
    often = 0.5 if sys.stderr.isatty() else 10
    failures = 0
    lock = threading.Lock()
    with tqdm(
        desc=title, total=total, initial=done, unit=" images", mininterval=often, dynamic_ncols=True, disable=not show
    ) as bar:

        def tick(images: int, failed: int) -> None:
            nonlocal failures
            with lock:
                if failed:
                    failures += failed
                    bar.set_postfix_str(f"{failures:,} failed", refresh=False)
                bar.update(images)

        yield tick


# On this machine -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Chunk:
    """One that the threads are at: its images, and the answers to come, by batch."""

    number: int
    images: list[Found]
    batches: list[Future[list[Answer]]]

    def is_done(self) -> bool:
        return all(batch.done() for batch in self.batches)


def _run_here(scorer: Scorer, listing: Listing, work: Path, missing: Sequence[int], tick: Tick, workers: int) -> None:
    """Threads that each read, decode and run one batch at a time; decoding and networks both let others run meanwhile.

    They go on with the next chunk while the last batches of one are still being run.
    """
    room = threading.Semaphore(workers * (1 + _AHEAD))

    def answer(batch: Sequence[Found]) -> list[Answer]:
        try:
            answers = scorer.answers(batch)
            tick(len(batch), sum(isinstance(one, str) for one in answers))
            return answers
        finally:
            room.release()

    def save(chunk: _Chunk) -> None:
        answers = [answer for batch in chunk.batches for answer in batch.result()]
        scorer.save(part_file(work, chunk.number), chunk.images, answers)

    pool = ThreadPoolExecutor(workers)
    begun: deque[_Chunk] = deque()
    try:
        for number in missing:
            chunk = _Chunk(number, listing.chunk(number), [])
            for batch in in_batches(chunk.images):
                room.acquire()
                chunk.batches.append(pool.submit(answer, batch))
                if begun and begun[0].is_done():
                    save(begun.popleft())
            begun.append(chunk)
        while begun:
            save(begun.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
