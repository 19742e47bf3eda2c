"""How fast the page responds in a real browser, beside the bare model on the same machine.

It starts `app.py`, opens it in Chromium and measures:

- **ready**: from the start of `python app.py` to the first prediction of its API;
- **release**: from the release of the slider to the new prediction on screen, painted, at another level each time;
- **preview**: how many different images per second appear while the slider is dragged;
- **curve**: one image at the 14 noise levels, without the browser;
- **new image**: from the choice of an example to its prediction on screen.
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gradio_client import Client, handle_file
from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from benchmarks.common import ROOT, Figure, Target, machine, page_environment, shown, spread, table
from blastlens import Classifier
from blastlens.corruptions import CURVE_SIGMAS
from blastlens.synthetic_images import synthetic_image
from publish.space import running_app
from train.evaluate import latency_ms

TITLE = "The page in a browser"
TARGETS = {
    "ready_s": Target(6),
    "release_above_model_ms": Target(150),
    "preview_per_second": Target(10, at_least=True),
    "curve_s": Target(0.25),
}
NAMES = {
    "ready_s": "start of `python app.py` to the first prediction, s",
    "bare_model_ms": "one bare model run, ms",
    "release_to_answer_ms": "release of the slider to the prediction on screen, ms",
    "release_above_model_ms": "the same minus one bare model run, ms",
    "preview_per_second": "images per second while dragging",
    "curve_s": f"noise curve of {len(CURVE_SIGMAS)} levels, s",
    "new_image_to_answer_ms": "choice of an example to its prediction on screen, ms",
}

# The link below the picture names the level, so it changes with every answer and in the same moment. Two frames later
# the answer has been painted.
_WATCH_ANSWERS = """() => {
  const frame = () => new Promise(requestAnimationFrame);
  const painted = async () => { await frame(); await frame(); return performance.now(); };
  const link = () => document.querySelector(".share a")?.getAttribute("href");
  window.bench = {released: 0, answered: 0, pictures: [], last: link()};
  for (const event of ["pointerup", "click"]) {
    addEventListener(event, () => { bench.released = performance.now(); bench.answered = 0; }, true);
  }
  let picture = "";
  new MutationObserver(() => {
    const now = document.querySelector(".pair img")?.src;
    if (now && now !== picture) { picture = now; bench.pictures.push(performance.now()); }
    if (link() !== bench.last) { bench.last = link(); painted().then(t => bench.answered = t); }
  }).observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
}"""


def chromium(playwright: Playwright) -> Browser:
    """The browser that BLASTLENS_CHROMIUM names, else Debian's, else Playwright's own."""
    path = os.environ.get("BLASTLENS_CHROMIUM") or shutil.which("chromium")
    return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


def releases(page: Page, repeats: int) -> list[float]:
    """Milliseconds from letting go of the slider to the painted answer, at another level each time."""
    box = page.locator(".level input[type=range]").bounding_box()
    assert box
    taken = []
    for number in range(repeats):
        at = box["x"] + box["width"] * (0.15 + 0.7 * ((number * 0.37) % 1))
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.mouse.down()
        page.mouse.move(at, box["y"] + box["height"] / 2, steps=6)
        page.wait_for_timeout(250)  # the preview has settled; what is measured is the answer
        page.mouse.up()
        taken.append(_until_answered(page))
    return taken


def previews(page: Page, seconds: float) -> float:
    """Different pictures a second while the slider is dragged to and fro without a pause."""
    box = page.locator(".level input[type=range]").bounding_box()
    assert box
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 20, middle)
    page.mouse.down()
    page.evaluate("bench.pictures = []")
    start, step = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        share = abs((step * 0.013) % 1.8 - 0.9)
        page.mouse.move(box["x"] + box["width"] * (0.05 + share), middle)
        step += 1
    taken = time.perf_counter() - start
    count = page.evaluate("bench.pictures.length")
    page.mouse.up()
    return count / taken


def new_images(page: Page, repeats: int) -> list[float]:
    """Milliseconds from a click on an example to its painted answer."""
    taken = []
    buttons = page.locator(".examples button")
    for number in range(repeats):
        buttons.nth(1 + number % (buttons.count() - 1)).click()
        taken.append(_until_answered(page))
    return taken


def _until_answered(page: Page) -> float:
    page.wait_for_function("bench.answered > bench.released")
    return page.evaluate("bench.answered - bench.released")


def first_prediction_s(cell: Path) -> float:
    """Seconds from the start of `python app.py` to the first prediction of its API."""
    start = time.perf_counter()
    with running_app(ROOT, page_environment()) as (address, _):
        Client(address, verbose=False).predict(handle_file(str(cell)), api_name="/classify")
        return time.perf_counter() - start


def measure(models: Sequence[str], cells: Path | None, fields: Path | None, quick: bool) -> dict[str, Any]:
    """The record of this part, for the first model and synthetic images."""
    starts, repeats, seconds = (1, 2, 1) if quick else (5, 30, 5)
    model = Classifier.from_pretrained(models[0])
    with TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.png"
        synthetic_image("ALL", 5).save(cell)
        ready = [first_prediction_s(cell) for _ in range(starts)]
        with running_app(ROOT, page_environment()) as (address, _), sync_playwright() as playwright:
            browser = chromium(playwright)
            page = browser.new_page(viewport={"width": 1280, "height": 1300})
            page.goto(f"{address}/?level=10")
            page.locator(".chart").first.wait_for()
            page.evaluate(_WATCH_ANSWERS)
            release, preview = releases(page, repeats), previews(page, seconds)
            chosen = new_images(page, repeats)
            browser.close()
        bare = latency_ms(model.folder.onnx_file("fp32"), model.folder.view, 50)
        curves = []
        for _ in range(1 + min(15, repeats)):
            start = time.perf_counter()
            model.curve(cell)
            curves.append(time.perf_counter() - start)
    return {
        "machine": machine(),
        "model": model.folder.model_id,
        "starts": starts,
        "repeats": repeats,
        "ready_s": spread(ready),
        "bare_model_ms": bare,
        "release_to_answer_ms": spread(release),
        "release_above_model_ms": spread([taken - bare for taken in release]),
        "preview_per_second": preview,
        "curve_s": spread(curves[1:]),
        "new_image_to_answer_ms": spread(chosen),
    }


def summary(record: Mapping[str, Any]) -> list[Figure]:
    values = {key: record[key]["median"] if isinstance(record[key], dict) else record[key] for key in TARGETS}
    return [Figure(f"the page: {NAMES[key]}", target, {"": values[key]}, "{:.3g}") for key, target in TARGETS.items()]


def details(record: Mapping[str, Any]) -> str:
    rows = []
    for key, name in NAMES.items():
        figure = record[key]
        rows.append((name, shown(figure, "{:.3g}") if isinstance(figure, dict) else f"{figure:.3g}"))
    return table(("what", "measured: median (lowest to highest)"), rows)
