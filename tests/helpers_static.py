"""The static page for tests: onnxruntime-web from npm, the page on a local server, and its modules."""

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
from publish.space import ROOT
from publish.static_page import RUNTIME, npm_package


def decoded(text: str, kind: Any = np.uint8) -> np.ndarray:
    """Numbers from a function of the page."""
    return np.frombuffer(base64.b64decode(text), kind)


def runtime_package(config: pytest.Config) -> Path:
    """The needed files of onnxruntime-web, downloaded by npm once and kept in pytest's cache.

    If they cannot be downloaded, the test is skipped, or fails where a browser is required.
    """
    pin = (ROOT / "static/vendor.json").read_text()
    kept = config.cache.mkdir("onnxruntime-web") / hashlib.sha256(pin.encode()).hexdigest()[:16]
    if all((kept / path).is_file() for path in RUNTIME):
        return kept
    try:
        with tempfile.TemporaryDirectory() as temporary:
            package = npm_package(Path(temporary))
            for path in RUNTIME:
                (kept / path).parent.mkdir(parents=True, exist_ok=True)
                part = (kept / path).with_suffix(".part")
                shutil.copyfile(package / path, part)
                part.replace(kept / path)
    except BlastlensError as error:
        lacking(str(error), "BLASTLENS_REQUIRE_BROWSER")
    return kept


@dataclass
class Served:
    """A folder on a port of this machine: paths that were requested, and headers sent with every answer."""

    address: str = ""
    requested: list[str] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)


@contextmanager
def served(folder: Path) -> Iterator[Served]:
    """A folder over plain HTTP, as by `python -m http.server`."""
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
        self.it.requested.append(self.path)
        return super().send_head()

    def end_headers(self) -> None:
        for name, value in self.it.headers.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `requested` has the requests."""
