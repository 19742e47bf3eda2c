"""The folder that uploads pass through: this process's own, swept by age, and gone when the process ends.

Gradio deletes what its own components store, but not what other roads leave beside it, such as an image that an MCP
client sends inside its request. These are medical images, so nothing is left to that.
"""

import atexit
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

# Looked after every ten minutes, so that nothing outlives the hour.
EVERY_S, OLDEST_S = 600, 3000


def claim() -> Path:
    """Give this process a folder for uploads that no other user of the computer can read, and keep it swept.

    It is named by GRADIO_TEMP_DIR, which Gradio reads once, when it is imported: call this before. Where the operator
    has set that variable, the folder is theirs: it is swept, but stays.
    """
    given = os.environ.get("GRADIO_TEMP_DIR")
    folder = Path(given) if given else Path(tempfile.mkdtemp(prefix="blastlens-"))
    if not given:
        os.environ["GRADIO_TEMP_DIR"] = str(folder)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    threading.Thread(target=_keep_clean, args=(folder,), daemon=True).start()
    return folder


def sweep(folder: Path, older_than: float, now: float | None = None) -> int:
    """Delete the files in a folder, at any depth, that have not changed for `older_than` seconds; how many."""
    now = time.time() if now is None else now
    deleted = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            try:
                if now - file.lstat().st_mtime > older_than:
                    file.unlink()
                    deleted += 1
            except OSError:
                continue  # deleted meanwhile, or not ours
    return deleted


def _keep_clean(folder: Path) -> None:
    while True:
        time.sleep(EVERY_S)
        sweep(folder, OLDEST_S)
