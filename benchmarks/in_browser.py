"""Whether the static page predicts as Python does, and how fast.

Images of each model, with and without noise, are classified by the page's own modules in Chromium, from the files that
`hub_upload.py static-page` publishes, and by `Classifier` with the same int8 file. Synthetic images, used without real
ones, are harder: the models are least certain of them.
"""

import base64
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page, sync_playwright
from tqdm.auto import tqdm

from benchmarks.common import Figure, Target, is_cell_model, machine, raw_images, shown, spread, table
from benchmarks.page import chromium
from blastlens import Classifier
from blastlens.hub import fetch
from blastlens.model_folder import bundled_root
from publish import space, static_page

TITLE = "In the browser"
CLOSE = Target(0.02)  # of a probability
COUNT = 50
SIGMAS = (0, 0, 6, 30)  # of the images in turn

# For functions in the page: bytes are passed as base64, much faster than as numbers.
CODES = """
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const encoded = (array) => {
    const all = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    const letters = [];
    for (let at = 0; at < all.length; at += 32768) letters.push(String.fromCharCode(...all.subarray(at, at + 32768)));
    return btoa(letters.join(""));
  };
"""
# Opens files with a model as the page does, one after the other, and returns everything about them.
CLASSIFY = f"""async ([entry, runtimeSize, images]) => {{ {CODES}
  const {{ call }} = await import("./calls.js");
  await call("open", {{ entry, runtimeSize }});
  const found = [];
  for (const {{ data, name, sigma, seed }} of images) {{
    const start = performance.now();
    const looked = await call("look", {{ file: new Blob([bytes(data)]), name, others: [] }});
    const answer = sigma ? await call("answer", {{ sigma, seed }}) : looked.answer;
    const ms = performance.now() - start;
    found.push({{ ...answer, pixels: encoded(looked.pixels), warnings: looked.warnings, fits: looked.fits, ms }});
  }}
  return found;
}}"""


def encoded(data: bytes) -> str:
    """Bytes for a function of the page."""
    return base64.b64encode(data).decode()


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """A folder served on this machine; gives the address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Silent, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """No log."""


def measure(models: Sequence[str], cells: Path | None, fields: Path | None, quick: bool) -> dict[str, Any]:
    """The record of this part."""
    count, found = 4 if quick else COUNT, {}
    with TemporaryDirectory() as temporary, sync_playwright() as playwright:
        place = Path(temporary) / "page"
        space.write(static_page.page_files([fetch(bundled_root() / name) for name in models]), place)
        browser = chromium(playwright)
        described = f"{machine()}, Chromium {browser.version}"
        with web_server(place) as address:
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.goto(address)
            page.get_by_text("Without noise the prediction").wait_for()
            record = json.loads((place / static_page.MARKER).read_text())
            for entry in tqdm(record["models"], unit="model"):
                classifier = Classifier.from_pretrained(bundled_root() / entry["name"], precision="int8")
                of_cells = is_cell_model(classifier)
                given = cells if of_cells else fields
                images = raw_images(given, of_cells, Path(temporary) / entry["name"])
                compared = compare(page, [entry, record["runtime"]], classifier, images, count)
                found[entry["name"]] = compared | {"drawn": given is None}
        browser.close()
    return {"machine": described, "images": count, "models": found}


def compare(page: Page, opened: list[Any], classifier: Classifier, images: Sequence[Path], count: int) -> Any:
    """Largest difference of a probability, equal labels and milliseconds of the same images on both sides."""
    chosen = list(islice(cycle(images[:: max(1, len(images) // count)]), count))
    tasks = [
        {"data": encoded(p.read_bytes()), "name": p.name, "sigma": SIGMAS[n % len(SIGMAS)], "seed": n % 3}
        for n, p in enumerate(chosen)
    ]
    answers = page.evaluate(CLASSIFY, [*opened, tasks])
    differences, same = [], 0
    for path, task, answer in zip(chosen, tasks, answers, strict=True):
        expected = classifier.predict(path, sigma=task["sigma"], seed=task["seed"])
        differences += [abs(answer["probabilities"][label] - p) for label, p in expected.probabilities.items()]
        same += answer["label"] == expected.label
    # The first prediction includes the start of the runtime.
    return {
        "largest_difference": max(differences),
        "same_label": same,
        "ms": spread([one["ms"] for one in answers[1:]]),
    }


def summary(record: Mapping[str, Any]) -> list[Figure]:
    values = {name: row["largest_difference"] for name, row in record["models"].items()}
    return [Figure("largest difference of a probability between browser and Python, int8", CLOSE, values, "{:.1g}")]


def details(record: Mapping[str, Any]) -> str:
    rows = [
        (
            model,
            "synthetic" if row["drawn"] else "real",
            f"{row['largest_difference']:.1g}",
            f"{row['same_label']} of {record['images']}",
            shown(row["ms"], "{:.0f}"),
        )
        for model, row in record["models"].items()
    ]
    return table(
        ("model", "images", "largest difference of a probability", "same label", "ms from file to result"), rows
    )
