"""Compare the static page with Python before it is published: the page's own modules, run by Node.js, on test images.

A browser is not needed: Node.js runs the modules that see, judge and classify pixels, without those that open image
files and draw. Without Node.js only the models are loaded.
"""

import base64
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.images import open_image
from blastlens.model_folder import ModelFolder
from publish.model import probe_images
from publish.space import page_name, write

SCRIPT = Path(__file__).with_name("static_check.mjs")
# Of a probability. Parts of an int8 network sum in another order, and on synthetic images the networks are least
# certain; a page with a mistake differs by more.
TOLERANCE = 0.1
RARE = 1e-4  # share of pixel values that may be rounded differently
SIGMAS, IMAGES = (0, 20), 2
TIMEOUT_S = 300


def check_page(files: Mapping[str, bytes], folders: Sequence[ModelFolder]) -> str:
    """Run the page's modules on test images and compare pixels, input check and probabilities with Python's.

    Args:
        files: of the page.
        folders: the models of the page.

    Returns:
        A sentence about it.

    Raises:
        BlastlensError: the page's modules do not run, or differ from Python.
    """
    node, largest = shutil.which("node"), 0.0
    with tempfile.TemporaryDirectory() as page:
        write(files, Path(page))
        for folder in folders:
            name, vectors = page_name(folder), _test_vectors(Classifier(folder, "int8"))
            if node:
                largest = max(largest, _compare(name, vectors, _run(node, page, name, vectors)))
    if node is None:
        return f"its {len(folders)} models run; there is no Node.js to run the page's own modules"
    return f"run by Node.js, it gives the probabilities of {len(folders)} models, within {largest:.1e}"


def _test_vectors(classifier: Classifier) -> list[dict[str, Any]]:
    """Images at noise levels with what Python makes of them; pixels are RGB bytes in base64."""
    rows = []
    for image in map(open_image, probe_images(classifier.folder)[-IMAGES:]):
        for sigma in SIGMAS:
            prediction = classifier.predict(image, sigma)
            row: dict[str, Any] = {"width": image.width, "height": image.height, "sigma": sigma}
            row["image"] = base64.b64encode(image.tobytes()).decode()
            row["pixels"] = base64.b64encode(classifier.pixels(image, sigma).tobytes()).decode()
            rows.append({**row, "fits": prediction.in_domain, "probabilities": prediction.probabilities})
    return rows


def _compare(name: str, expected: list[dict[str, Any]], found: list[dict[str, Any]]) -> float:
    """The largest difference of a probability; raises BlastlensError if anything differs too much."""
    largest = 0.0
    for python, page in zip(expected, found, strict=True):
        pixels = [np.frombuffer(base64.b64decode(row["pixels"]), np.uint8) for row in (python, page)]
        if np.mean(pixels[0] != pixels[1]) > RARE:
            raise BlastlensError(f"The page's pixels for {name} differ from Python's; it is not published.")
        if page["fits"] != python["fits"]:
            raise BlastlensError(f"The page's input check for {name} differs from Python's; it is not published.")
        largest = max(largest, *(abs(page["probabilities"][k] - p) for k, p in python["probabilities"].items()))
    if not largest <= TOLERANCE:
        raise BlastlensError(
            f"The page's probabilities for {name} differ from Python's by up to {largest:.2g}; it is not published."
        )
    return largest


def _run(node: str, page: str, name: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    task = json.dumps({"page": page, "name": name, "rows": rows})
    try:
        done = subprocess.run([node, SCRIPT], input=task, capture_output=True, text=True, timeout=TIMEOUT_S)
        if done.returncode == 0:
            return list(json.loads(done.stdout))
        errors = [line.strip() for line in done.stderr.splitlines() if "Error" in line]
        reason = errors[0] if errors else f"exit code {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = f"no output within {TIMEOUT_S} s"
    raise BlastlensError(f"The page's modules do not run ({reason}); it is not published.")
