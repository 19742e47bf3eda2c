"""Whether the page that runs in the browser answers as Python does, and how quickly.

    python -m benchmarks.in_browser --images DIR --fields DIR --out results/benchmarks/in_browser.json

Fifty images of each model, with and without noise, are answered by the page's own modules in Chromium, from the files
that `hub_upload.py space --static` publishes, and by `Classifier` with the same 8-bit file. `--images` is a folder of
raw cells as `.bmp` files, `--fields` one of smear fields as `.jpg` files, of which as many are taken from all over it;
without one, images are drawn: harder ones, since the models are least sure of them.
"""

import argparse
import base64
import json
import sys
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Page, sync_playwright
from tqdm.auto import tqdm

from benchmarks.page import chromium
from benchmarks.serving import drawn, machine
from benchmarks.timings import spread
from blastlens import Classifier
from blastlens.files import write_json
from blastlens.hub import fetch
from blastlens.model_folder import bundled_models, bundled_root
from publish import space, static_page, static_tryout
from publish.changes import File
from publish.project import ROOT

CLOSE = 0.02  # asked: of a probability, at most
COUNT = 50
SIGMAS = (0, 0, 6, 30)  # of the images in turn

# What the functions below have at hand in the page: bytes travel as base64, which is far quicker than as numbers.
CODES = """
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const encoded = (array) => {
    const all = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    const letters = [];
    for (let at = 0; at < all.length; at += 32768) letters.push(String.fromCharCode(...all.subarray(at, at + 32768)));
    return btoa(letters.join(""));
  };
"""
# Opens files with a model as the page does, one after the other, and gives back everything that comes of it.
ASK = f"""async ([entry, runtimeSize, images]) => {{ {CODES}
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


def measure(models: Sequence[str], cells: Sequence[Path], fields: Sequence[Path], count: int = COUNT) -> dict[str, Any]:
    """Of each model: the largest difference of a probability, how often the label is the same, and milliseconds.

    Args:
        cells, fields: images for models of either; drawn ones where there are none.
    """
    folders = [fetch(str(bundled_root() / name)) for name in models]
    found = {}
    with TemporaryDirectory() as temporary, sync_playwright() as playwright:
        place = Path(temporary) / "page"
        files = static_page.page(folders)
        space.write([File(name, content) for name, content in files.items()], place)
        browser = chromium(playwright)
        told = f"Chromium {browser.version}"
        with static_tryout.serving(place) as address:
            page = browser.new_page()
            page.set_default_timeout(120_000)
            page.goto(address)
            page.get_by_text("Without noise the answer").wait_for()
            record = page.evaluate("async () => (await fetch('./models.json')).json()")
            for entry in tqdm(record["models"], unit="model"):
                classifier = Classifier.from_pretrained(bundled_root() / entry["name"], precision="int8")
                of_cells = classifier.folder.view.frame is not None
                raw = Path(temporary) / entry["name"]
                raw.mkdir()
                given = cells if of_cells else fields
                images = given or drawn(raw, of_cells)
                compared = compare(page, [entry, record["runtime"]], classifier, images, count)
                found[entry["name"]] = compared | {"drawn": not given}
        browser.close()
    return {"machine": f"{machine()}, onnxruntime-web {_runtime()}, {told}", "images": count, "models": found}


def compare(
    page: Page, opened: list[Any], classifier: Classifier, images: Sequence[Path], count: int
) -> dict[str, Any]:
    """One model, asked about the same images on both sides."""
    tasks = [
        {
            "data": encoded(path.read_bytes()),
            "name": path.name,
            "sigma": SIGMAS[number % len(SIGMAS)],
            "seed": number % 3,
        }
        for number, path in enumerate(islice(cycle(images[:: max(1, len(images) // count)]), count))
    ]
    apart, same = [], 0
    answers = page.evaluate(ASK, [*opened, tasks])
    for task, answer in zip(tasks, answers, strict=True):
        expected = classifier.predict(base64.b64decode(task["data"]), sigma=task["sigma"], seed=task["seed"])
        apart.append(max(abs(answer["probabilities"][label] - p) for label, p in expected.probabilities.items()))
        same += answer["label"] == expected.label
    # The first answer pays for the runtime's start.
    return {"largest_difference": max(apart), "same_label": same, "ms": spread([one["ms"] for one in answers[1:]])}


def _runtime() -> str:
    return str(json.loads((ROOT / static_page.SOURCES / "vendor.json").read_text())["version"])


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    lines = [
        "| model | images | largest difference of a probability | asked | same label | ms from file to answer |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for model, row in record["models"].items():
        ms = "{median:.0f} ({low:.0f} to {high:.0f})".format(**row["ms"])
        far = f"{row['largest_difference']:.1g}"
        kind = "drawn" if row["drawn"] else "real"
        lines.append(
            f"| {model} | {kind} | {far} | at most {CLOSE} | {row['same_label']} of {record['images']} | {ms} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.in_browser", description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=bundled_models(), help="default: every bundled one")
    parser.add_argument("--images", type=Path, help="folder of raw cells as .bmp files; without one they are drawn")
    parser.add_argument("--fields", type=Path, help="folder of smear fields as .jpg files; without one they are drawn")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    cells = sorted(arguments.images.rglob("*.bmp")) if arguments.images else []
    fields = sorted(arguments.fields.rglob("*.jpg")) if arguments.fields else []
    record = measure(arguments.models, cells, fields, arguments.count)
    write_json(arguments.out, record)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
