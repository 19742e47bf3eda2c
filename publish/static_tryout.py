"""Try a static page out before it is published: everything it asks for is there, and it answers as its models do.

A browser is not needed: the files are served on this machine and fetched, and Node.js, where it is there, runs the
page's own modules but for those that open images and draw.
"""

import base64
import json
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np

from blastlens import Classifier, Prediction
from blastlens.errors import BlastlensError
from blastlens.images import open_image
from blastlens.model_folder import ModelFolder
from blastlens.wording import count as counted
from publish import check, space
from publish.changes import File

MARK = "models.json"
SCRIPT = Path(__file__).with_name("static_tryout.mjs")
# Of a probability. Where a network is 8-bit in parts, sums in another order round another way, and drawn images are
# the ones it is least sure of; a page that does something else than Python is off by more.
TOLERANCE = 0.1
RARE = 1e-4  # share of pixels that rounding may leave another
SIGMAS, IMAGES = (0, 20), 2
PATIENCE_S = 300


def try_out(files: Sequence[File]) -> str:
    """Serve the page's files alone, fetch each of them, and ask each model about images.

    Returns:
        What was seen, in words.

    Raises:
        BlastlensError: a file does not arrive as it is, or a model is answered for otherwise than in Python.
    """
    rows = space.served(files, MARK)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "page"
        space.write(files, folder)
        with serving(folder) as address:
            for file in files:
                with urlopen(f"{address}/{quote(file.path)}") as answer:
                    if answer.read() != file.read():
                        raise BlastlensError(f"{file.path} does not arrive as it is; the page is not published.")
        told = f"its {len(files)} files arrive"
        models = counted(len(rows), "model")
        node = shutil.which("node")
        if node is None:
            for row in rows:
                _python(folder, row)
            return f"{told}; its {models} run; there is no Node.js to compare the page's own answers"
        furthest = max(_compare(node, folder, row) for row in rows)
    return f"{told}; run by Node.js, it gives the answers of {models}, within {furthest:.1e}"


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The files of a folder on this machine, as any host would serve them; gives the address."""
    handler = partial(_Silent, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Nothing of it matters here."""


@dataclass(frozen=True)
class _Asked:
    """What Python makes of one image at one sigma: the pixels the network sees, uint8 (S, S, 3), and the answer."""

    pixels: np.ndarray
    answer: Prediction


def _python(folder: Path, row: dict[str, Any]) -> tuple[list[np.ndarray], list[list[_Asked]]]:
    """Images for a model of the page, uint8 (H, W, 3), and of each what Python makes of it at every sigma."""
    there = folder / "models" / row["name"]
    classifier = Classifier(ModelFolder.load(there, row["name"], row["revision"]), "int8")
    images = [np.asarray(open_image(image)) for image in check.images_for(classifier.folder)[-IMAGES:]]
    return images, [
        [_Asked(classifier.pixels(image, sigma), classifier.predict(image, sigma)) for sigma in SIGMAS]
        for image in images
    ]


def _compare(node: str, folder: Path, row: dict[str, Any]) -> float:
    """How far the page's probabilities are from Python's, at most; raises BlastlensError where it is too far."""
    images, expected = _python(folder, row)
    with tempfile.TemporaryDirectory() as temporary:
        places = []
        for number, image in enumerate(images):
            raw = Path(temporary) / f"{number}.rgb"
            raw.write_bytes(image.tobytes())
            places.append({"path": str(raw), "width": image.shape[1], "height": image.shape[0]})
        task = {"page": str(folder), "entry": row, "images": places, "sigmas": SIGMAS}
        found = _asked(node, task)
    furthest = 0.0
    for python, ours in zip(chain.from_iterable(expected), chain.from_iterable(found), strict=True):
        pixels = np.frombuffer(base64.b64decode(ours["pixels"]), np.uint8)
        if np.mean(pixels != python.pixels.ravel()) > RARE:
            raise BlastlensError(f"The page shows {row['name']} other pixels than Python does; it is not published.")
        if ours["fits"] != python.answer.in_domain:
            raise BlastlensError(f"The page's input check judges otherwise than {row['name']}; it is not published.")
        apart = [abs(ours["probabilities"][label] - p) for label, p in python.answer.probabilities.items()]
        furthest = max(furthest, *apart)
    if not furthest <= TOLERANCE:
        raise BlastlensError(
            f"The page answers otherwise than {row['name']}, by up to {furthest:.2g} in a probability; it is not "
            "published."
        )
    return furthest


def _asked(node: str, task: dict[str, Any]) -> list[list[dict[str, Any]]]:
    try:
        done = subprocess.run(
            [node, str(SCRIPT)], input=json.dumps(task), capture_output=True, text=True, timeout=PATIENCE_S
        )
        if done.returncode == 0:
            return list(json.loads(done.stdout))
        said = [line for line in done.stderr.splitlines() if "Error" in line][:1]
        reason = said[0].strip() if said else f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"no answer within {PATIENCE_S} s"
    raise BlastlensError(f"The page's modules do not run ({reason}); it is not published.")
