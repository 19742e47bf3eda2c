"""How long the page takes to start when the Hub accepts connections and never answers, and what it says then.

    python -m benchmarks.without_hub

Measured from the start of the process to the first page that it delivers, in a new folder with an empty cache:

- where there is no Hub to wait for;
- with models of a `space.json`, each with its copy, as a Space has them;
- with a model that BLASTLENS_SERVE names, which has no copy, so that the bundled models stand in.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from blastlens.model_folder import bundled_models, bundled_root

ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 10.0
LONGEST_S = 60.0  # nobody waits longer for a page that does not start


@dataclass(frozen=True)
class Start:
    """How a page started: seconds to the first page delivered, and its HTML."""

    seconds: float
    page: str


@contextmanager
def silent_hub() -> Iterator[str]:
    """Address of what accepts every connection on this machine and never says a word."""
    held = []

    def accept() -> None:
        with suppress(OSError):  # closed
            while True:
                held.append(door.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as door:
        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{door.getsockname()[1]}"
        door.shutdown(socket.SHUT_RDWR)
    for one in held:
        one.close()


def space(folder: Path, models: Sequence[str]) -> Path:
    """A page's program in a folder of its own, and some bundled models as copies of models on the Hub."""
    shutil.copy(ROOT / "app.py", folder)
    shutil.copytree(ROOT / "blastlens", folder / "blastlens")
    rows = []
    for number, name in enumerate(models):
        shutil.copytree(bundled_root() / name, folder / "models" / name)
        rows.append({"repo_id": f"owner/{name}", "revision": f"{number:040x}", "copy": f"models/{name}"})
    (folder / "space.json").write_text(json.dumps({"models": rows}))
    return folder


def start(root: Path, hub: str, serve: str = "") -> Start:
    """Run the page of a folder until it delivers, with an empty cache.

    Args:
        hub: its address.
        serve: of BLASTLENS_SERVE.
    """
    with socket.create_server(("127.0.0.1", 0)) as door:
        port = door.getsockname()[1]
    with tempfile.TemporaryDirectory() as cache:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "BLASTLENS_"))}
        environment = kept | {"HF_ENDPOINT": hub, "HF_HOME": cache, "GRADIO_SERVER_PORT": str(port)}
        environment |= {"GRADIO_ANALYTICS_ENABLED": "False", **({"BLASTLENS_SERVE": serve} if serve else {})}
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            while (seconds := time.monotonic() - began) < LONGEST_S and process.poll() is None:
                with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    return Start(seconds, answer.read().decode())
                time.sleep(0.05)
            raise TimeoutError("the page did not start")
        finally:
            process.terminate()
            process.wait(30)


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="benchmarks.without_hub", description=__doc__.splitlines()[0]).parse_args(argv)
    models = bundled_models()
    with silent_hub() as hub, tempfile.TemporaryDirectory() as folder:
        kinds = {
            "no Hub to wait for": (ROOT, "models/" + models[0]),
            "silent Hub, copies": (space(Path(folder), models), ""),
            "silent Hub, no copy": (ROOT, "owner/model"),
        }
        late = False
        for what, (root, serve) in kinds.items():
            begun = start(root, hub, serve)
            late |= begun.seconds > LIMIT_S
            said = "says that" if "falls back to the bundled" in begun.page else "says nothing of it"
            print(f"{what}: {begun.seconds:.1f} s to the first page, which {said}")
    return int(late)


if __name__ == "__main__":
    sys.exit(main())
