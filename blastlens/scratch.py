"""The folder of one process's temporary files: private, swept by age, and gone when the process ends.

Uploads pass through it. Gradio deletes what its own components store, but not what other roads leave beside it, such as
an image that an MCP client sends inside its request. These are medical images, so nothing is left to that.
"""

import atexit
import functools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

# Looked after every ten minutes, so that nothing outlives the hour.
EVERY_S, OLDEST_S = 600, 3000
_PREFIX, _LOCK = "blastlens-", "lock"
# Held open as long as this process lives: a folder whose lock is free belongs to nobody any more.
_locks: list[TextIO] = []


@functools.cache
def root() -> Path:
    """This process's folder, which no other user of the computer can read; those that killed ones left are deleted."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        if _is_orphan(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Locked before it has its name, so that no other process can take it for one that nobody holds.
    _lock(folder / f"{_LOCK}.new")
    (folder / f"{_LOCK}.new").rename(folder / _LOCK)
    return folder


def claim() -> Path:
    """Have uploads pass through this process's folder, or through the one that GRADIO_TEMP_DIR names; returns it.

    Gradio reads that variable once, when it is imported: call this before.
    """
    given = os.environ.get("GRADIO_TEMP_DIR")
    folder = Path(given) if given else root() / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def keep_clean(folder: Path, forget: Callable[[], None]) -> None:
    """From now on, every ten minutes, delete old files in the folder and have `forget` drop what is kept in memory."""

    def work() -> None:
        while True:
            time.sleep(EVERY_S)
            sweep(folder, OLDEST_S)
            forget()

    threading.Thread(target=work, daemon=True).start()


def sweep(folder: Path, older_than: float, now: float | None = None) -> int:
    """Delete the files in a folder, at any depth, that have not changed for `older_than` seconds; how many."""
    now = time.time() if now is None else now
    deleted = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            with suppress(OSError):  # deleted meanwhile, or not ours
                if now - file.lstat().st_mtime > older_than:
                    file.unlink()
                    deleted += 1
    return deleted


def _lock(file: Path) -> bool:
    """Take a file's lock for the rest of this process; False if another process has it. Windows does without."""
    try:
        import fcntl
    except ImportError:
        return False
    opened = file.open("w")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        return False
    _locks.append(opened)
    return True


def _is_orphan(folder: Path) -> bool:
    try:
        return (folder / _LOCK).is_file() and _lock(folder / _LOCK)
    except OSError:  # another user's
        return False
