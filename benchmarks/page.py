"""How fast the page responds in a real browser, beside the bare model on the same machine.

It starts `app.py`, opens it in Chromium and measures:

- **ready**: from the start of `python app.py` to the first prediction of its API;
- **release**: from the release of the slider to the new prediction on screen, painted, at another level each time;
- **preview**: how many different images per second appear while the slider is dragged;
- **curve**: one image at the 14 noise levels, with one and with four noise patterns, without the browser;
- **new image**: from the choice of an example to its prediction, and to its curve, on screen.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import Browser, Page, Playwright, sync_playwright

from benchmarks.common import Figure, Target, machine, running_page, shown, spread, table
from blastlens import Classifier
from blastlens.corruptions import CURVE_SIGMAS
from blastlens.synthetic_images import synthetic_image
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
    "curve_of_four_patterns_s": "the same with four noise patterns, s",
    "new_image_to_answer_ms": "choice of an example to its prediction on screen, ms",
    "new_image_to_curve_ms": "choice of an example to its curve on screen, ms",
}

# The link below the picture names the level, so it changes with every answer and in the same moment. Two frames later
# the answer has been painted.
_WATCH_ANSWERS = """() => {
  const frame = () => new Promise(requestAnimationFrame);
  const painted = async () => { await frame(); await frame(); return performance.now(); };
  const link = () => document.querySelector(".share a")?.getAttribute("href");
  window.bench = {released: 0, answered: 0, pictures: [], last: link()};
  addEventListener("pointerup", () => { bench.released = performance.now(); bench.answered = 0; }, true);
  addEventListener("click", () => { bench.released = performance.now(); bench.answered = bench.drawn = 0; }, true);
  let picture = "", curve = "";
  new MutationObserver(() => {
    const now = document.querySelector(".pair img")?.src;
    if (now && now !== picture) { picture = now; bench.pictures.push(performance.now()); }
    if (link() !== bench.last) { bench.last = link(); painted().then(t => bench.answered = t); }
    const lines = document.querySelector(".chart")?.outerHTML;
    if (lines !== curve) { curve = lines; painted().then(t => bench.drawn = t); }
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
        taken.append(_until(page, "answered"))
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


def new_images(page: Page, repeats: int) -> dict[str, list[float]]:
    """Milliseconds from a click on an example to its painted answer, and to its curve."""
    taken: dict[str, list[float]] = {"answer": [], "curve": []}
    buttons = page.locator(".examples button")
    for number in range(repeats):
        buttons.nth(1 + number % (buttons.count() - 1)).click()
        taken["answer"].append(_until(page, "answered"))
        taken["curve"].append(_until(page, "drawn"))
    return taken


def _until(page: Page, moment: str) -> float:
    page.wait_for_function(f"bench.{moment} > bench.released")
    return page.evaluate(f"bench.{moment} - bench.released")


def _milliseconds(function: Callable[[], Any], repeats: int) -> list[float]:
    """Of each of several calls, after one that is not counted."""
    function()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        taken.append(1000 * (time.perf_counter() - start))
    return taken


def measure(models: Sequence[str], cells: Path | None, fields: Path | None, quick: bool) -> dict[str, Any]:
    """The record of this part, for the first model and synthetic images."""
    starts, repeats, seconds = (1, 2, 1) if quick else (5, 30, 5)
    environment = dict(os.environ)
    environment.pop("BLASTLENS_DATA", None)  # the synthetic examples only, as in a fresh clone
    model = Classifier.from_pretrained(models[0])
    with TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.png"
        synthetic_image("ALL", 5).save(cell)
        ready = []
        for _ in range(starts):
            with running_page(environment, cell) as (_, seconds_to_answer, _):
                ready.append(seconds_to_answer)
        with running_page(environment, cell) as (address, _, _), sync_playwright() as playwright:
            browser = chromium(playwright)
            page = browser.new_page(viewport={"width": 1280, "height": 1300})
            page.goto(f"{address}/?level=10")
            page.locator(".chart").first.wait_for()
            page.evaluate(_WATCH_ANSWERS)
            release, preview = releases(page, repeats), previews(page, seconds)
            chosen = new_images(page, repeats)
            browser.close()
        bare = latency_ms(model.folder.onnx_file("fp32"), model.folder.view, 50)
        pixels = model.pixels(cell)
        curves = {
            n: _milliseconds(lambda n=n: model.curve(pixels, seeds=tuple(range(n))), min(15, repeats)) for n in (1, 4)
        }
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
        "curve_s": spread([taken / 1000 for taken in curves[1]]),
        "curve_of_four_patterns_s": spread([taken / 1000 for taken in curves[4]]),
        "new_image_to_answer_ms": spread(chosen["answer"]),
        "new_image_to_curve_ms": spread(chosen["curve"]),
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
