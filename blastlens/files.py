"""Write files and folders atomically: complete under their own names or not at all, however the process ends."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .errors import BlastlensError


class Unwritable(BlastlensError):
    """A full or read-only disk, or a folder without permission to write."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the system to write `path` into an `Unwritable`."""
    try:
        yield
    except Exception as error:
        reason = _system_error(error)
        if reason is None:
            raise
        raise Unwritable(
            f"{path} cannot be written ({reason}); what was there before is kept, so fix this and rerun the command."
        ) from error


def _system_error(error: BaseException) -> str | None:
    """The system's reason for an error that a library may have wrapped; None if it was not the system."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if type(error).__name__ == "SafetensorError" and "(os error" in str(error):
        return str(error).rpartition(" (os error")[0].rpartition(": ")[2]
    if type(error) is RuntimeError and "inline_container.cc" in str(error):  # torch.save does not say why
        return "no space left, or another error of the disk"
    if type(error).__name__ == "DatasetGenerationError" and error.__cause__:
        return _system_error(error.__cause__)
    return None


def replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Have `write` fill a file of the same name in a temporary folder, then rename it to `path`.

    Raises:
        Unwritable: it cannot be written. `path` is then as it was, as it is after any other exception.
    """
    # A folder, since libraries that are killed leave temporary files of their own beside the one they write.
    temporary = path.with_name(f".{path.name}.part")
    with writing(path):
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary / path.name)
            with open(temporary / path.name, "rb") as file:
                os.fsync(file.fileno())
            (temporary / path.name).replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, value: Any, indent: int | None = 1) -> None:
    """Raises ValueError for NaN and infinity, which JSON does not have; the file is then as it was."""
    text = json.dumps(value, indent=indent, allow_nan=False) + "\n"
    replace(path, lambda part: part.write_text(text))


def make_once(path: Path, write: Callable[[Path], Any]) -> None:
    """`replace`, unless the file exists. Other processes that need the same file meanwhile wait for it."""
    if path.exists():
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                replace(path, write)


@contextmanager
def only_run(lock: Path, message: str) -> Iterator[None]:
    """Hold a lock file for as long as this process works; the system releases it if the process is killed.

    Raises:
        BlastlensError: `message`, where another process holds it.
        Unwritable: the file cannot be written.
    """
    held = FileLock(lock)
    with writing(lock):
        try:
            held.acquire(blocking=False)
        except Timeout:
            raise BlastlensError(message) from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """An empty hidden folder that replaces `out` at the end, unless an exception is raised; no second run may fill it.

    Of a killed run, what it left is removed, or `out` restored if the kill came between the two renames.

    Raises:
        BlastlensError: another run is at work, or the folder cannot be written.
    """
    partial, replaced = (out.parent / f".{out.name}.{state}" for state in ("partial", "replaced"))
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with only_run(
        out.with_name(f".{out.name}.lock"), f"{out} is being prepared by another run; wait until it has finished."
    ):
        with writing(out):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            if replaced.exists():
                replaced.rename(out) if not out.exists() else shutil.rmtree(replaced)
        try:
            yield partial
            with writing(out):
                if out.exists():
                    out.rename(replaced)
                partial.rename(out)
            shutil.rmtree(replaced, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
