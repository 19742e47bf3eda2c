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
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from .errors import BlastlensError

# With ten minutes at most from one sweep to the next, nothing outlives the hour, which is what the page says.
EVERY_S, OLDEST_S = 600, 3000
_PREFIX, _LOCK = "blastlens-", "lock"
# Held open as long as this process lives: a folder whose lock is free belongs to nobody any more.
_locks: list[TextIO] = []


@functools.cache
def root() -> Path:
    """This process's folder, which no other user of the computer can read; those that killed ones left are deleted."""
    place = _within()
    for left in place.glob(f"{_PREFIX}*"):
        if _is_orphan(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Locked before it has its name, so that no other process can take it for one that nobody holds.
    _lock(folder / f"{_LOCK}.new")
    (folder / f"{_LOCK}.new").rename(folder / _LOCK)
    return folder


def claim() -> Path:
    """Have uploads pass through this process's folder, which GRADIO_TEMP_DIR may place elsewhere; returns it.

    Gradio reads that variable once, when it is imported: call this before. It hands out every file in the folder and
    what is old there is deleted, so it is never a folder that holds anything else.
    """
    folder = root() / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def number(name: str, default: int, low: int, high: int, environment: Mapping[str, str] = os.environ) -> int:
    """A whole number from the environment.

    Raises:
        BlastlensError: it is another one, or none.
    """
    given = environment.get(name, "")
    value = int(given) if given.isascii() and given.isdecimal() else default if not given else -1
    if not low <= value <= high:
        raise BlastlensError(f"{name} is {given!r}; a whole number from {low} to {high} is accepted.")
    return value


def keep_s() -> int:
    """How many seconds what visitors give and get is kept: BLASTLENS_KEEP_S, which can only shorten the hour."""
    return number("BLASTLENS_KEEP_S", OLDEST_S, 5, OLDEST_S)


def every_s() -> int:
    """How many seconds pass from one sweep to the next."""
    return max(1, min(EVERY_S, keep_s() // 5))


def keep_clean(folder: Path, forget: Callable[[], None]) -> None:
    """From now on, delete old files in the folder time and again, and have `forget` drop what is kept in memory."""
    every, oldest = every_s(), keep_s()

    def work() -> None:
        while True:
            time.sleep(every)
            sweep(folder, oldest)
            forget()

    threading.Thread(target=work, daemon=True).start()


def sweep(folder: Path, older_than: float, now: float | None = None) -> int:
    """Delete the files in a folder, at any depth, that have not changed for `older_than` seconds; how many.

    Folders that have been empty as long go with them.
    """
    now = time.time() if now is None else now
    deleted = 0
    for parent, folders, names in os.walk(folder, topdown=False):
        for name in names:
            file = Path(parent, name)
            with suppress(OSError):  # deleted meanwhile, or not ours
                if now - file.lstat().st_mtime > older_than:
                    file.unlink()
                    deleted += 1
        for name in folders:
            with suppress(OSError):  # not empty
                if now - Path(parent, name).lstat().st_mtime > older_than:
                    Path(parent, name).rmdir()
    return deleted


def stored(folder: Path) -> tuple[int, int]:
    """Size in bytes and number of the files in a folder, at any depth."""
    size = count = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                size += os.lstat(os.path.join(parent, name)).st_size
                count += 1
    return size, count


def _within() -> Path:
    """Where the process's folder lies; GRADIO_TEMP_DIR may name a place that does not exist yet."""
    place = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    place.mkdir(parents=True, exist_ok=True)
    return place


def _lock(file: Path) -> bool:
    """Take a file's lock for the rest of this process; False if another process has it. Windows does without."""
    try:
        import fcntl
    except ImportError:
        return False
    # A link that somebody put there would have another file opened.
    opened = os.fdopen(os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        return False
    _locks.append(opened)
    return True


def _is_orphan(folder: Path) -> bool:
    try:
        # Anybody may make a folder of this name beside ours.
        return folder.lstat().st_uid == os.geteuid() and (folder / _LOCK).is_file() and _lock(folder / _LOCK)
    except (OSError, AttributeError):  # gone or another user's, or Windows, which has no such users
        return False
