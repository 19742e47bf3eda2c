"""The static page for tests: onnxruntime-web from npm, the page served by this process, and its modules asked in it."""

import base64
import hashlib
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_machine import lacking

from blastlens.errors import BlastlensError
from publish.project import ROOT
from publish.static_page import VENDOR, from_npm


def decoded(text: str, kind: Any = np.uint8) -> np.ndarray:
    """Numbers from a function of the page."""
    return np.frombuffer(base64.b64decode(text), kind)


def npm_package(config: pytest.Config) -> Path:
    """The needed files of onnxruntime-web, fetched by npm once and kept in pytest's cache.

    Where they cannot be had, the test is skipped visibly, or fails where a browser is required.
    """
    lock = hashlib.sha256((ROOT / "static/package-lock.json").read_bytes()).hexdigest()
    kept = config.cache.mkdir("onnxruntime-web") / lock[:16]
    if all((kept / path).is_file() for path in VENDOR):
        return kept
    try:
        with tempfile.TemporaryDirectory() as temporary:
            package = from_npm(Path(temporary)) / "node_modules" / "onnxruntime-web"
            for path in VENDOR:
                (kept / path).parent.mkdir(parents=True, exist_ok=True)
                part = (kept / path).with_suffix(".part")
                shutil.copyfile(package / path, part)
                part.replace(kept / path)
    except BlastlensError as error:
        lacking(str(error), "BLASTLENS_REQUIRE_BROWSER")
    return kept


@dataclass
class Served:
    """A folder on a port of this machine.

    Attributes:
        address: without a slash at the end.
        asked: paths that were asked for so far.
        headers: sent with every answer.
    """

    address: str = ""
    asked: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """A folder over plain HTTP, as `python -m http.server` would serve it."""
    it = Served()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, it, directory=str(folder))) as server:
        it.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield it
        server.shutdown()
        thread.join()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, it: Served, *arguments: Any, **options: Any) -> None:
        self.it = it
        super().__init__(*arguments, **options)

    def send_head(self) -> Any:
        self.it.asked.append(self.path)
        return super().send_head()

    def end_headers(self) -> None:
        for name, value in self.it.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `asked` has what was asked for."""
