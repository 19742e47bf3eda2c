"""The temporary folder of one process: private, swept by age, and deleted when the process ends.

Uploads pass through it. Gradio deletes the files of its own components, but not others, such as an image that an MCP
client sends inside its request.
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

from filelock import FileLock

from .errors import BlastlensError

# With at most ten minutes between sweeps, no file is kept longer than the hour that the page states.
EVERY_S, OLDEST_S = 600, 3000
_PREFIX, _LOCK = "blastlens-", "lock"
_held: list[FileLock] = []  # until the process ends: a folder whose lock is free is that of a killed process


@functools.cache
def root() -> Path:
    """This process's folder, which no other user can read. Folders left by killed processes are deleted."""
    place = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    place.mkdir(parents=True, exist_ok=True)
    for left in place.glob(f"{_PREFIX}*"):
        if _is_orphan(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    # Renamed once it is held, so that no other process can take the folder for an orphan meanwhile.
    _held.append(FileLock(folder / f"{_LOCK}.new"))
    _held[-1].acquire()
    (folder / f"{_LOCK}.new").rename(folder / _LOCK)
    return folder


def _is_orphan(folder: Path) -> bool:
    try:
        # Another user may make a folder of such a name.
        if folder.lstat().st_uid != os.geteuid() or not (folder / _LOCK).is_file():
            return False
        with FileLock(folder / _LOCK, blocking=False):
            return True
    except (OSError, AttributeError):  # held, gone, another user's; or Windows, which has no such users
        return False


def claim() -> Path:
    """Make Gradio store uploads in this process's folder; returns it.

    Gradio reads GRADIO_TEMP_DIR once, when it is imported: call this before. Gradio serves every file in the folder,
    and old ones are deleted, so it never is a folder that holds anything else.
    """
    folder = root() / "uploads"
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def number(name: str, default: int, low: int, high: int) -> int:
    """An integer from the environment.

    Raises:
        BlastlensError: it is out of range, or no integer.
    """
    given = os.environ.get(name, "")
    value = int(given) if given.isascii() and given.isdecimal() else default if not given else -1
    if not low <= value <= high:
        raise BlastlensError(f"{name} is {given!r}; a whole number from {low} to {high} is accepted.")
    return value


def keep_s() -> int:
    """How many seconds uploads and results are kept: BLASTLENS_KEEP_S, which can only shorten the hour."""
    return number("BLASTLENS_KEEP_S", OLDEST_S, 5, OLDEST_S)


def every_s() -> int:
    """Seconds between two sweeps."""
    return max(1, min(EVERY_S, keep_s() // 5))


def keep_clean(folder: Path, forget: Callable[[], None]) -> None:
    """Start a thread that regularly deletes old files in the folder and calls `forget` for what is in memory."""
    every, oldest = every_s(), keep_s()

    def work() -> None:
        while True:
            time.sleep(every)
            sweep(folder, oldest)
            forget()

    threading.Thread(target=work, daemon=True).start()


def sweep(folder: Path, older_than: float) -> int:
    """Delete files that have not changed for `older_than` seconds, and folders empty as long; the number of files."""
    now, deleted = time.time(), 0
    for path in sorted(folder.rglob("*"), reverse=True):  # files before the folders they are in
        with suppress(OSError):  # deleted meanwhile, or not empty
            if now - path.lstat().st_mtime <= older_than:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
                deleted += 1
    return deleted


def stored(folder: Path) -> tuple[int, int]:
    """Size in bytes and number of the files in a folder, at any depth."""
    size = number = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted meanwhile
                size += os.lstat(os.path.join(parent, name)).st_size
                number += 1
    return size, number
