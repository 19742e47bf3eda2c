"""Writing files and folders so that nobody ever sees half of one under its own name, however the process ends."""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets.exceptions import DatasetGenerationError
from safetensors import SafetensorError

from blastlens.errors import BlastlensError


class Unwritable(BlastlensError):
    """A full or read-only disk, or a folder that may not be written to."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the system's refusal to write `path` into an `Unwritable`, in whatever words a library passes it on."""
    try:
        yield
    except Exception as error:
        reason = _refusal(error)
        if reason is None:
            raise
        raise Unwritable(
            f"{path} cannot be written ({reason}); what was there before is kept, so put that right and give the same "
            "command again."
        ) from error


def _refusal(error: BaseException | None) -> str | None:
    """Why the system refused, None if it was not the system."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if isinstance(error, SafetensorError | RuntimeError) and (refused := re.search(r"\(os error (\d+)\)", str(error))):
        return os.strerror(int(refused[1]))
    if isinstance(error, RuntimeError) and "inline_container.cc" in str(error):  # torch.save keeps the reason to itself
        return "no space left, or a disk that refuses"
    if isinstance(error, DatasetGenerationError):
        return _refusal(error.__cause__)
    return None


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` fill a file of the same name elsewhere on the disk, then rename it to `path`.

    Raises:
        Unwritable: it cannot be written. `path` is then as it was, as it is after any other exception.
    """
    # A folder of its own, since libraries leave files of theirs beside the one they write when they are killed.
    aside = path.with_name(f".{path.name}.part")
    with writing(path):
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True, exist_ok=True)
        try:
            write(aside / path.name)
            (aside / path.name).replace(path)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Raises ValueError for NaN and infinity, which JSON does not have; the file is then as it was."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    replace(path, lambda part: part.write_text(text))


def make_once(path: Path, write: Callable[[Path], Any]) -> None:
    """`replace`, unless the file is there. Another process that wants the same file meanwhile waits for it."""
    if path.exists():
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("w")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go of when the process dies, however it dies
        if not path.exists():
            replace(path, write)


@contextmanager
def partial_folder(out: Path) -> Iterator[Path]:
    """An empty hidden folder beside `out`, locked against a second run, and removed unless `put_in_place` took it.

    What an earlier run was killed at is cleaned up first. Raises BlastlensError where another run is at work, and
    Unwritable.
    """
    partial, replaced = _siblings(out)
    with writing(out):
        partial.mkdir(parents=True, exist_ok=True)
        handle = os.open(partial, os.O_RDONLY)
    try:
        try:
            # The system lets go of the lock when the process dies, however it dies.
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlastlensError(f"{out} is being prepared by another run; wait for that one.") from None
        with writing(out):
            for leftover in partial.iterdir():
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
            if replaced.exists():  # killed between the two renames of put_in_place
                replaced.rename(out) if not out.exists() else shutil.rmtree(replaced)
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    finally:
        os.close(handle)


def put_in_place(out: Path, partial: Path) -> None:
    """Let a whole `partial_folder` take the place of `out`. Killed in between, the next run puts the old one back."""
    _, replaced = _siblings(out)
    with writing(out):
        if out.exists():
            out.rename(replaced)
        partial.rename(out)
    shutil.rmtree(replaced, ignore_errors=True)


def _siblings(out: Path) -> tuple[Path, Path]:
    return out.parent / f".{out.name}.partial", out.parent / f".{out.name}.replaced"
