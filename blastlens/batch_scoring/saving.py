"""Files that are there whole or not at all, whenever the process ends; and one run at a time in a folder."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ..errors import BlastlensError

TEMPORARY, LOCK = ".tmp", "lock"


@contextmanager
def replacing(file: Path, work: Path) -> Iterator[BinaryIO]:
    """A binary file to write to; when that is done it is put in place of `file`, in one step and safely on disk.

    Args:
        work: the work folder, on the same disk. What a killed process leaves of an unfinished file is there.

    Raises:
        BlastlensError: it cannot be written.
    """
    temporary = work / f"{file.name}.{uuid.uuid4().hex}{TEMPORARY}"
    with saying(file):
        try:
            with temporary.open("wb") as opened:
                yield opened
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(file)
            _sync_folder(file.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def saying(file: Path) -> Iterator[None]:
    """Turn the system's refusal to write something into a sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise BlastlensError(
            f"{file} cannot be written ({reason}); what was finished before is kept, so once that is put right the "
            "same command goes on from there."
        ) from error


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):  # Windows, and some file systems, cannot
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine out of a folder; the lock ends with the process, however that ends.

    Raises:
        BlastlensError: another one is at work there.
    """
    try:
        import fcntl
    except ImportError:  # Windows does without
        yield
        return
    with saying(folder):
        lock = (folder / LOCK).open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlastlensError(f"Another run is at work in {folder}; wait for it, or choose another --out.") from None
        except OSError:
            pass  # a file system without locks
        yield
