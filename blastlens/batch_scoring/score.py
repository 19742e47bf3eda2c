"""Score sources into one Parquet file, on this machine or on a Ray cluster.

Until all is done, a folder beside the output, of the same name with `.parts`, holds the results of each finished chunk
of images. Rerun the command to resume: chunks that are finished and hold the same images are kept.
"""

import glob
import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from tqdm import tqdm

from ..errors import BlastlensError
from ..files import only_run, write_json, writing
from ..image_sources import Found, is_junk, walk
from ..images import printable
from ..inference import usable_cores
from ..wording import listed
from ..zips import Zip, is_zip
from .on_ray import score_on_ray
from .scorer import Answer, BatchScorer, Command, in_batches, part_file

CHUNK = 1024  # images that are finished together: what an interruption can cost; a multiple of a batch
ENGINES = ("local", "ray")
_COMMAND, _LOCK = "command.json", "lock"
_ACCEPTED = "give a folder, a zip, an image, or a quoted pattern such as 'archive/**/*.bmp'"

Chunk = tuple[int, list[Found]]  # its number and images


@dataclass(frozen=True)
class Report:
    """What a finished run did."""

    images: int  # rows of the output
    failed: int  # those that have an error instead of an answer
    unlike: int  # those that are out of distribution for the model
    scored: int  # those that this run scored; an interrupted run may have scored others before
    seconds: float  # from listing the sources to the finished file, without loading the model

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
    """Score all images of a command into a Parquet file; see `scorer.BatchScorer` for its columns.

    Args:
        command: what to score, and how.
        out: the file; its folder is made if need be.
        engine: "local", threads of this process, or "ray".
        workers: threads, or Ray actors; by default as many as there are cores.
        ray_address: of a running cluster; by default one is started on this machine.
        overwrite: an existing file, once all is done.
        show_progress: on stderr.

    Raises:
        BlastlensError: a source, model or setting that cannot be used, an output that exists or cannot be written,
            or unfinished results of another command. What is wrong with single images is in the output.
        KeyboardInterrupt: Ctrl-C; its message says what is finished.
    """
    if engine not in ENGINES:
        raise BlastlensError(f"There is no engine {engine!r}; {listed(ENGINES)} is accepted.")
    if workers is not None and workers < 1:
        raise BlastlensError(f"There cannot be {workers} workers; 1 or more are accepted.")
    out = Path(os.path.abspath(out))
    work = out.with_name(f"{out.name}.parts")
    sources = expand(command.sources)
    scorer = BatchScorer(command)
    _check_output(out, work, scorer, overwrite)
    start = time.perf_counter()
    with writing(work):
        work.mkdir(parents=True, exist_ok=True)
    with only_run(work / _LOCK, f"Another run is at work in {work}; wait for it, or choose another --out."):
        _claim(work, scorer.identity)
        try:
            with _bar("Listing", show_progress) as bar:
                sizes, done = _listed(_chunks(sources, chunk), work, bar)
            total, finished = sum(sizes), sum(sizes[number] for number in done)
            missing = (one for one in _chunks(sources, chunk) if one[0] not in done)
            if engine == "ray" and finished < total:
                steps = score_on_ray(scorer, missing, work, workers, ray_address)
            else:
                steps = _score_here(scorer, missing, work, workers or usable_cores())
            with _bar("Scoring", show_progress, total=total, initial=finished) as bar:
                _follow(steps, bar)
            report = _merge(scorer, [part_file(work, number) for number in range(len(sizes))], out)
        except KeyboardInterrupt:
            rows = sum(_rows(part) for part in work.glob("part-*.parquet"))
            raise KeyboardInterrupt(f"Stopped; {rows:,} images are finished. Rerun the command to resume.") from None
        finally:
            if not any(work.glob("part-*.parquet")):
                _remove(work)
        _remove(work)
    return Report(*report, scored=total - finished, seconds=time.perf_counter() - start)


def _score_here(scorer: BatchScorer, chunks: Iterable[Chunk], work: Path, workers: int) -> Iterator[tuple[int, int]]:
    """Score with threads that each read, decode and score a batch at a time; yields numbers of images and failures."""
    pool = ThreadPoolExecutor(workers)
    try:
        for number, images in chunks:
            answers: list[Answer] = []
            for some in pool.map(scorer.answers, in_batches(images)):
                yield len(some), sum(isinstance(one, str) for one in some)
                answers += some
            scorer.write_part(part_file(work, number), images, answers)
    finally:
        pool.shutdown(cancel_futures=True)


def _bar(title: str, show: bool, **more: int) -> "tqdm[NoReturn]":
    """A progress bar on stderr, written less often where that is no terminal."""
    often = 0.5 if sys.stderr.isatty() else 10
    return tqdm(desc=title, unit=" images", mininterval=often, dynamic_ncols=True, disable=not show, **more)


def _follow(steps: Iterator[tuple[int, int]], bar: "tqdm[NoReturn]") -> None:
    """Let steps work until their end; each tells its number of images and of failures."""
    failures = 0
    for images, failed in steps:
        failures += failed
        bar.set_postfix_str(f"{failures:,} failed" if failures else "", refresh=False)
        bar.update(images)


# Sources -------------------------------------------------------------------------------------------------------------


def expand(sources: Sequence[str | os.PathLike[str]]) -> list[tuple[str, str]]:
    """Find folders, zips and files, and those that patterns match, and what their images are called.

    With one source, names are relative to it; with several, those in a folder or zip begin with its name. A single
    file is called as it was given.

    Returns:
        The absolute path of each, and what the names of its images begin with; of a single file, its name.

    Raises:
        BlastlensError: there is no source, or one that does not exist.
    """
    if not sources:
        raise BlastlensError(f"There is nothing to score; {_ACCEPTED}.")
    found = []
    taken: set[str] = set()
    for source in sources:
        typed = os.fspath(source)
        path = os.path.abspath(typed)
        is_pattern = _has_wildcard(path) and not os.path.lexists(path)
        base = _fixed_part(path) if is_pattern else path
        if not os.path.lexists(base) or (is_pattern and not os.path.isdir(base)):
            raise BlastlensError(f"{typed} does not exist; {_ACCEPTED}.")
        if not is_pattern and not os.path.isdir(path) and not is_zip(Path(path)):
            found.append((path, typed.replace(os.sep, "/")))
            continue
        prefix = _unique(_stem(Path(base)), taken) + "/" if len(sources) > 1 else ""
        matches = list(_matches(path, base, prefix)) if is_pattern else [(path, prefix)]
        if not matches:
            raise BlastlensError(f"No image matches {typed}; {_ACCEPTED}.")
        found += matches
    return found


def _has_wildcard(path: str) -> bool:
    return bool(set("*?[") & set(path))


def _fixed_part(pattern: str) -> str:
    """The folders of a pattern before its first wildcard."""
    parts = Path(pattern).parts
    return str(Path(*parts[: next(number for number, part in enumerate(parts) if _has_wildcard(part))]))


def _stem(path: Path) -> str:
    return (path.name if path.is_dir() else path.stem) or "root"


def _unique(name: str, taken: set[str]) -> str:
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name} ({number})"
    taken.add(unique)
    return unique


def _matches(pattern: str, base: str, prefix: str) -> Iterator[tuple[str, str]]:
    folder = None
    for match in sorted(map(os.path.normpath, glob.iglob(pattern, recursive=True)), key=lambda one: one.split(os.sep)):
        name = os.path.relpath(match, base)
        if (folder and match.startswith(folder + os.sep)) or any(is_junk(part) for part in name.split(os.sep)):
            continue
        if os.path.isdir(match):
            folder = match
            yield (match, prefix if name == "." else f"{prefix}{name}/")
        elif is_zip(Path(match)):
            yield (match, f"{prefix}{os.path.splitext(name)[0]}/")
        elif Found(name, match).is_image:
            yield (match, prefix + name)


def find_images(sources: Iterable[tuple[str, str]]) -> Iterator[Found]:
    """Every image of the sources, source by source and in each folder by name; links are followed."""
    for path, prefix in sources:
        try:
            for found in walk(Path(path), prefix, Zip, follow_links=True):
                is_source = found.entry is None and found.path == path  # tried whatever its name is
                if found.error or found.is_image or is_source:
                    yield found
        except BlastlensError as error:
            yield Found(printable(os.path.basename(path)), path, error=str(error))


def _chunks(sources: Iterable[tuple[str, str]], size: int) -> Iterator[Chunk]:
    images = find_images(sources)
    number = 0
    while chunk := list(islice(images, size)):
        yield number, chunk
        number += 1


# The work folder -----------------------------------------------------------------------------------------------------


def _check_output(out: Path, work: Path, scorer: BatchScorer, overwrite: bool) -> None:
    if out.is_dir():
        raise BlastlensError(f"{out} is a folder; name a file, or choose another --out.")
    # A run that was killed at its very end left both its output and its work folder.
    if out.exists() and not overwrite and not (work.exists() and _command_of(out) == scorer.identity):
        raise BlastlensError(f"{out} exists; give --overwrite to replace it, or choose another --out.")


def _claim(work: Path, identity: dict[str, Any]) -> None:
    """Mark a new work folder as this command's; raises BlastlensError where it is that of another one."""
    file = work / _COMMAND
    if not file.exists():
        if any(one.name not in (_LOCK, f".{_COMMAND}.part") for one in work.iterdir()):
            raise BlastlensError(f"{work} holds something else; move it, or choose another --out.")
        write_json(file, identity)
    try:
        earlier = json.loads(file.read_text())
        different = [key for key in identity if identity[key] != earlier[key]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BlastlensError(f"{file} is damaged; delete {work} and start again.") from error
    if different:
        raise BlastlensError(
            f"{work} holds unfinished results of another command ({listed(different, 'and')} differ); delete it, or "
            "choose another --out."
        )


def _remove(work: Path) -> None:
    """Remove a work folder, its mark last: the next run accepts what a run leaves that is killed here."""
    for file in work.iterdir():
        if file.name not in (_COMMAND, _LOCK):
            shutil.rmtree(file) if file.is_dir() else file.unlink()
    shutil.rmtree(work, ignore_errors=True)


def _command_of(out: Path) -> Any:
    """The identity of the command that a results file came from, None where it is no such file."""
    try:
        return json.loads(pq.read_schema(out).metadata[b"blastlens.command"])
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def _listed(chunks: Iterable[Chunk], work: Path, bar: "tqdm[NoReturn]") -> tuple[list[int], set[int]]:
    """The sizes of all chunks, and the numbers of those whose results are there."""
    sizes, done = [], set()
    for number, images in chunks:
        sizes.append(len(images))
        bar.update(len(images))
        if _is_done(part_file(work, number), images):
            done.add(number)
    if not sizes:
        raise BlastlensError("No image was found; give folders, zips or patterns that hold some.")
    return sizes, done


def _is_done(part: Path, images: Sequence[Found]) -> bool:
    try:
        table = pq.ParquetFile(part).read(columns=["file"], use_threads=False)
        return table["file"].to_pylist() == [image.name for image in images]
    except (OSError, pa.ArrowException):
        return False


def _rows(part: Path) -> int:
    try:
        return int(pq.read_metadata(part).num_rows)
    except (OSError, pa.ArrowException):
        return 0


def _merge(scorer: BatchScorer, parts: Sequence[Path], out: Path) -> tuple[int, int, int]:
    """Write the rows of all parts, of which one is in memory at a time; returns images, failures and OOD images."""
    images = failed = unlike = 0

    def tables() -> Iterator[pa.Table]:
        nonlocal images, failed, unlike
        for part in parts:
            table = pq.ParquetFile(part).read(use_threads=False)
            images += table.num_rows
            failed += table.num_rows - table["error"].null_count
            unlike += pc.sum(pc.equal(table["in_domain"], False)).as_py() or 0
            yield table

    scorer.write(out, tables())
    return images, failed, unlike
