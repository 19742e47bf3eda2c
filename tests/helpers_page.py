"""The page in this process, or app.py in its own: its log, what it asks the network for, what it keeps."""

import html
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest

if TYPE_CHECKING:
    import gradio as gr

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "hf_" + "MustNotBeLogged" * 2
# Left to the defaults, as for an operator who sets nothing.
_UNSET = (
    "GRADIO_TEMP_DIR",
    "BLASTLENS_DATA",
    "HF_HUB_OFFLINE",
    "GRADIO_ANALYTICS_ENABLED",
    "CI",
    "ORT_DISABLE_TELEMETRY",
)
_UNSET += (
    "BLASTLENS_KEEP_S",
    "BLASTLENS_STORE_MB",
    "BLASTLENS_LOG",
    "SPACE_ID",
    "FORWARDED_ALLOW_IPS",
)

# app.py, with a record of every address that Python code connects to, a classifier that fails for one file name, and a
# report twice a second of what the page has in memory.
_SCRIPT = """
import json, os, sys, threading, time

def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        place = args[0] if event.startswith("socket.get") else args[1]
        with open(os.environ["WATCHED"], "a") as file:
            file.write(json.dumps([event, place[0] if isinstance(place, tuple) else str(place)]) + "\\n")

sys.addaudithook(watch)
sys.path.insert(0, os.getcwd())
from blastlens.classifier import Classifier
given = Classifier.predict

def predict(self, image, *args, **named):
    if "breaks" in str(image):
        raise RuntimeError(f"broke down over {image} with {os.environ['HF_TOKEN']}")
    return given(self, image, *args, **named)

Classifier.predict = predict

def tell():
    while "demo" not in globals():
        time.sleep(0.1)
    from blastlens.ui import single_image
    while True:
        kept = {
            "caches": sum(one.cache_info().currsize for one in (single_image._pixels, single_image._untouched)),
            "names": sum(len(files) for files in demo.temp_file_sets),
            "visitors": len(demo.state_holder.session_data),
        }
        with open(os.environ["KEPT"] + ".new", "w") as file:
            json.dump(kept, file)
        os.replace(os.environ["KEPT"] + ".new", os.environ["KEPT"])
        time.sleep(0.5)

threading.Thread(target=tell, daemon=True).start()
exec(compile(open("app.py").read(), "app.py", "exec"))
"""


def text_of(markup: str) -> str:
    """The text of HTML, whose markup must be well formed."""
    ElementTree.fromstring(f"<div>{markup}</div>")
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def rows_of(markup: str) -> list[list[str]]:
    """The cells of the table in HTML, spaces normalized."""
    table = ElementTree.fromstring(f"<div>{markup}</div>").find(".//tbody")
    return [[" ".join("".join(cell.itertext()).split()) for cell in row] for row in table]


@contextmanager
def launched(*folders: Path) -> "Iterator[tuple[gr.Blocks, str]]":
    """A page of these models in this process, launched as app.py does, and its address."""
    from blastlens.ui import build, launch

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BLASTLENS_DATA", raising=False)
        demo = build(folders)
    _, address, _ = launch(demo, prevent_thread_lock=True, quiet=True)
    try:
        yield demo, address.rstrip("/")
    finally:
        demo.close()


@dataclass(frozen=True)
class RunningPage:
    """A page, and what it leaves to be looked at.

    Attributes:
        address: without a slash at the end.
        temporary: folder in which all its temporary files lie.
        home: folder that holds the rest.
    """

    address: str
    temporary: Path
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> str:
        """All of stdout and stderr so far."""
        return (self.home / "log").read_text(errors="replace")

    @property
    def kept(self) -> dict[str, int]:
        """What is in memory, half a second ago at most."""
        return json.loads((self.home / "kept").read_text())

    def requested(self) -> set[str]:
        """Every address that Python code has resolved or connected to."""
        return {json.loads(line)[1] for line in (self.home / "watched").read_text().splitlines()}

    def files(self) -> list[str]:
        """Paths of all temporary files, below the folder of uploads."""
        (uploads,) = self.temporary.glob("blastlens-*/uploads")
        return [str(file) for file in uploads.rglob("*") if file.is_file()]


@contextmanager
def running_page(home: Path, **environment: str) -> Iterator[RunningPage]:
    """The page of app.py, with a token in its environment and these variables more."""
    temporary = home / "temporary"
    temporary.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {name: value for name, value in os.environ.items() if name not in _UNSET} | environment
    variables |= {"TMPDIR": str(temporary), "HOME": str(home), "GRADIO_SERVER_PORT": str(port), "HF_TOKEN": TOKEN}
    variables |= {"WATCHED": str(home / "watched"), "KEPT": str(home / "kept")}
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT], cwd=ROOT, env=variables, stdout=log, stderr=subprocess.STDOUT
        )
    page = RunningPage(f"http://127.0.0.1:{port}", temporary, home, process)
    try:
        _wait_for(page)
        yield page
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(page: RunningPage) -> None:
    end = time.monotonic() + 90
    while page.process.poll() is None and time.monotonic() < end:
        try:
            return urllib.request.urlopen(page.address, timeout=5).close()
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the page does not answer: {page.log[-2000:]}")
