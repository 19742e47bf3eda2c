"""The page that runs in the browser: predictions, pixels, noise and warnings as in Python; nothing leaves the machine.

It is served over plain HTTP with the bundled models, as `hub_upload.py static-page --to FOLDER` writes it.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_browser import visiting
from helpers_files import encoded as image_file
from helpers_files import png
from helpers_models import blobs
from helpers_static import decoded, runtime_package, served
from PIL import Image

from benchmarks.in_browser import CLASSIFY, CODES, SIGMAS, encoded
from blastlens import Classifier
from blastlens.corruptions import CURVE_SIGMAS
from blastlens.errors import BlastlensError
from blastlens.hub import fetch
from blastlens.images import open_image, read_image
from blastlens.inference import normalise
from blastlens.model_folder import bundled_models, bundled_root
from blastlens.noise import add_gaussian_noise
from blastlens.ood_detection import STATISTICS, statistics_of
from blastlens.synthetic_images import synthetic_image
from blastlens.thresholds import Thresholds
from blastlens.view import View
from publish import space, static_page

CELL, FIELD = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"
CLOSE = 0.02  # of a probability


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pytestconfig) -> Path:
    """The page with every bundled model, these two first."""
    path = tmp_path_factory.mktemp("static") / "page"
    names = [CELL, FIELD, *(name for name in bundled_models() if name not in (CELL, FIELD))]
    folders = [fetch(str(bundled_root() / name)) for name in names]
    space.write(static_page.page_files(folders, runtime_package(pytestconfig)), path)
    return path


@pytest.fixture(scope="module")
def host(folder):
    with served(folder) as it:
        yield it


@pytest.fixture
def visit(browser, host):
    """A function that opens the page; a console error or a request to another server fails the test afterwards."""
    with visiting(browser, host.address) as opener:

        def opened(width: int = 1280, dark: bool = False):
            one = opener("/", width, dark)
            one.page.set_default_timeout(60_000)
            one.page.locator(".bars").wait_for()
            return one

        yield opened


@pytest.fixture(scope="module")
def page(browser, host):
    """One open page whose modules are called by the tests."""
    with visiting(browser, host.address) as opener:
        one = opener("/")
        one.page.set_default_timeout(120_000)
        one.page.get_by_text("Without noise the prediction").wait_for()
        yield one.page


def call(page, module: str, script: str, argument=None):
    """Evaluate a function body in the page with the exports of one of its modules, `bytes` and `encoded` at hand."""
    return page.evaluate(
        f"async (given) => {{ {CODES} const its = await import('./{module}.js'); {script} }}", argument
    )


def classified(page, folder: Path, model: str, tasks: list[dict]) -> list[dict]:
    record = json.loads((folder / "models.json").read_text())
    entry = next(row for row in record["models"] if row["name"] == model)
    return page.evaluate(CLASSIFY, [entry, record["runtime"], tasks])


def images_for(model: str) -> list[tuple[str, bytes]]:
    """File name and bytes of synthetic images, one of them of the other kind."""
    labels = ("ALL", "HEM") if model == CELL else ("Benign", "Early", "Pre", "Pro")
    chosen = [(label, 40 + n) for label in labels for n in range(8 // len(labels))]
    chosen.append(("Pre" if model == CELL else "HEM", 3))
    return [(f"{label}-{seed}.png", image_file(synthetic_image(label, seed))) for label, seed in chosen]


@dataclasses.dataclass
class Pair:
    """One image classified in the browser (`found`) and in Python (`expected`)."""

    model: str
    name: str
    data: bytes
    found: dict
    expected: object


@pytest.fixture(scope="module")
def pairs(page, folder) -> list[Pair]:
    rows = []
    for model in (CELL, FIELD):
        classifier = Classifier.from_pretrained(bundled_root() / model, precision="int8")
        images = images_for(model)
        tasks = [
            {"data": encoded(data), "name": name, "sigma": SIGMAS[n % len(SIGMAS)], "seed": n % 3}
            for n, (name, data) in enumerate(images)
        ]
        for (name, data), task, found in zip(images, tasks, classified(page, folder, model, tasks), strict=True):
            expected = classifier.predict(data, sigma=task["sigma"], seed=task["seed"])
            rows.append(Pair(model, name, data, found, expected))
    return rows


def test_pixels_predictions_warnings_and_decisions_are_those_of_the_int8_classifier(pairs):
    for one in pairs:
        folder, expected, found = fetch(str(bundled_root() / one.model)), one.expected, one.found
        seen = folder.view.apply(open_image(one.data)).astype(int)
        # In a framed view, Python resamples only the lit part.
        rounding = 0 if folder.view.frame is None else 1
        assert np.abs(decoded(found["pixels"]).reshape(seen.shape) - seen).max() <= rounding, one.name
        assert found["probabilities"] == pytest.approx(expected.probabilities, abs=CLOSE), one.name
        first, second = sorted(expected.probabilities.values(), reverse=True)[:2]
        assert found["label"] == expected.label or first - second < 2 * CLOSE, one.name
        assert (found["fits"], found["warnings"]) == (expected.in_domain, list(expected.warnings)), one
        decision = Thresholds.from_json(folder.metrics["calibration"])
        decided = (list(decision.label_set(found["probabilities"])), decision.flagged(found["probabilities"]))
        if not found["fits"]:  # no decision about an image that is out of distribution
            decided = (None, None)
        assert (found["labelSet"], found["flagged"]) == decided, one.name
    assert {one.found["fits"] for one in pairs} == {True, False}


def test_statistics_of_the_input_check_are_the_same(page, pairs):
    views = [one.found["pixels"] for one in pairs]
    views += [encoded(bytes([value]) * 3 * 32 * 32) for value in (0, 255)]  # all black; all white
    rows = call(page, "ood_detection", "return given.map((pixels) => its.statisticsOf(bytes(pixels)));", views)
    for number, (text, found) in enumerate(zip(views, rows, strict=True)):
        pixels = decoded(text)
        side = round((len(pixels) / 3) ** 0.5)
        assert list(found) == list(STATISTICS)
        # In a uniform image Python's single-precision sums leave a small remainder.
        absolute = 1e-6 if number < len(pairs) else 2e-3
        expected = statistics_of(pixels.reshape(side, side, 3))
        assert found == pytest.approx(expected, rel=1e-3, abs=absolute, nan_ok=True)


SIZES = [(450, 450), (224, 224), (314, 314), (600, 400), (333, 517), (1001, 777), (40, 100), (16, 16), (320, 17)]


@pytest.mark.parametrize("frame", [None, 314])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_every_view_is_resampled_as_pillow_does(page, frame, interpolation):
    view = View(224, frame, interpolation, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    for number, (width, height) in enumerate(SIZES):
        # Random values, in which every rounding shows, and overshoots that must be clipped.
        pixels = np.random.default_rng(number).choice(np.array([0, 255, 90, 130], np.uint8), (height, width, 3))
        script = """const [view, width, height, data] = given;
          const seen = its.applyView(view, { width, height, pixels: bytes(data) });
          return [encoded(seen), encoded(its.normalise(view, seen))];"""
        found = call(page, "view", script, [dataclasses.asdict(view), width, height, encoded(pixels.tobytes())])
        expected = view.apply(Image.fromarray(pixels))
        assert np.array_equal(decoded(found[0]).reshape(expected.shape), expected), (width, height)
        assert np.array_equal(decoded(found[1], np.float32), normalise(view, expected[None]).ravel())


@pytest.mark.parametrize("seed", [0, 12345, 2**32 + 7, 2**53 - 1])
def test_noise_is_numpys(page, seed):
    found = decoded(call(page, "noise", "return encoded(its.standardNormal(150528, given));", seed), np.float32)
    expected = np.random.default_rng(seed).standard_normal(150528, dtype=np.float32)
    # The logarithm of the tail is a library's: the last bit of a few numbers in a million may differ.
    assert np.allclose(found, expected, rtol=3e-7, atol=0)


@pytest.mark.parametrize("sigma", [0, 0.5, 20.4, 100])
def test_noisy_pixels_are_pythons(page, sigma):
    clean = blobs(3)
    script = "return encoded(its.addGaussianNoise(bytes(given[0]), given[1], 5));"
    found = decoded(call(page, "noise", script, [encoded(clean.tobytes()), sigma]))
    assert np.array_equal(found.reshape(clean.shape), add_gaussian_noise(clean, sigma, 5))


# Image files

OPEN = """try {
    const { width, height, pixels, notes } = await its.openImage(new Blob([bytes(given[0])]), given[1]);
    return { width, height, pixels: encoded(pixels), notes };
  } catch (error) { return { refusal: error.message }; }"""


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def palette_image(kind: str, **options) -> bytes:
    return image_file(Image.fromarray(blobs(1, 60, 40)).quantize(20), kind, **options)


def animation(kind: str) -> bytes:
    first, *others = (Image.fromarray(blobs(seed, 60, 40)) for seed in range(3))
    return image_file(first, kind, save_all=True, append_images=others)


def transparent() -> np.ndarray:
    return np.dstack([blobs(1, 60, 40), blobs(2, 60, 40)[..., 0]])


FILES = {
    "rgb.png": lambda: image_file(blobs(1, 60, 40), "PNG"),
    "lossless.webp": lambda: image_file(blobs(1, 60, 40), "WEBP", lossless=True),
    "colour.jpg": lambda: image_file(blobs(1, 60, 40), "JPEG"),
    "grey.jpg": lambda: image_file(blobs(1, 60, 40)[..., 0], "JPEG"),
    "palette.png": lambda: palette_image("PNG"),
    "palette.gif": lambda: palette_image("GIF"),
    "hole.gif": lambda: palette_image("GIF", transparency=3),
    "animation.gif": lambda: animation("GIF"),
    "animation.webp": lambda: animation("WEBP"),
    "transparent.png": lambda: image_file(transparent(), "PNG"),
    "transparent.webp": lambda: image_file(transparent(), "WEBP", lossless=True, exact=True),
    "turned.jpg": lambda: image_file(blobs(1, 60, 40), "JPEG", exif=turned(6)),
    "turned.png": lambda: image_file(blobs(1, 60, 40), "PNG", exif=turned(8)),
    "large.png": lambda: image_file(blobs(1, 2900, 1500), "PNG"),
}
for orientation in range(2, 9):
    FILES[f"turned-{orientation}.webp"] = lambda n=orientation: image_file(
        blobs(1, 60, 40), "WEBP", lossless=True, exif=turned(n)
    )


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_opened_as_in_python(page, name):
    data = FILES[name]()
    found, expected = call(page, "open", OPEN, [encoded(data), name]), read_image(data, name)
    pixels = np.asarray(expected[0])
    assert (found["width"], found["height"]) == expected[0].size
    assert np.array_equal(decoded(found["pixels"]).reshape(pixels.shape), pixels)
    assert found["notes"] == list(expected[1])


def test_16_bit_values_are_cut_to_8_bits_with_a_note(page):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    data = image_file(values, "PNG")
    found, expected = call(page, "open", OPEN, [encoded(data), "deep.png"]), np.asarray(read_image(data)[0])
    # Python rounds to the nearest of 256 levels, a browser drops the lower byte.
    assert np.abs(decoded(found["pixels"]).reshape(expected.shape) - expected.astype(int)).max() <= 1
    assert found["notes"] == ["its 16-bit values were cut to 8 bits"]


def test_an_image_that_a_browser_would_show_black_is_refused(page):
    values = np.random.default_rng(0).integers(0, 4000, (20, 30)).astype(np.uint16)
    clear = np.dstack([blobs(1), np.zeros(blobs(1).shape[:2], np.uint8)])
    for image, message in ((values, "14-bit values or fewer"), (clear, "is transparent everywhere")):
        refusal = call(page, "open", OPEN, [encoded(image_file(image, "PNG")), "a.png"])["refusal"]
        assert refusal.startswith("a.png") and message in refusal and refusal.endswith(".")


BAD_FILES = {
    "empty.png": (b"", "is empty (0 bytes)"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not an image"),
    "dot.png": (image_file(np.zeros((1, 1, 3), np.uint8), "PNG"), "each side must have at least 16"),
    "sliver.png": (image_file(np.zeros((16, 400, 3), np.uint8), "PNG"), "at most 20 times the short one"),
    "huge.png": (png(10_000, 8_000, data=b""), "at most 50 megapixels"),
    "scan.tif": (image_file(blobs(1), "TIFF"), "is a TIFF file, which browsers do not open"),
    "half.jpg": (image_file(blobs(1), "JPEG")[:2000], "is truncated or damaged"),
    "half.png": (image_file(blobs(1), "PNG")[:9000], "is truncated or damaged"),
    "start.png": (b"\x89PNG\r\n\x1a\n", "is truncated or damaged"),
    "random.webp": (b"RIFF\xff\xff\xff\xffWEBP" + bytes(range(256)), "is truncated or damaged"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_is_refused_with_one_sentence(page, name):
    data, message = BAD_FILES[name]
    refusal = call(page, "open", OPEN, [encoded(data), name])["refusal"]
    assert refusal.startswith(name) and message in refusal and refusal.endswith(".")
    if name != "scan.tif":
        with pytest.raises(BlastlensError):
            open_image(data, name)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(page):
    script = "return its.openImage({ size: 900e6 }, 'slide.bmp').catch((error) => error.message);"
    assert call(page, "open", script).startswith("slide.bmp is larger than 201 MB")


def test_a_browser_that_changes_pixels_is_detected(page):
    script = """const prototype = OffscreenCanvasRenderingContext2D.prototype;
      const original = prototype.getImageData;
      prototype.getImageData = function (...where) {
        const found = original.apply(this, where);
        found.data[5] ^= 1;
        return found;
      };
      try {
        await its.openImage(await (await fetch("examples/synthetic-ALL-1.png")).blob(), "x.png");
      } catch (error) { return error.message; } finally { prototype.getImageData = original; }"""
    assert call(page, "open", script).startswith("This browser changes the pixels")


# What a user does and sees


def shown(one) -> dict[str, float]:
    """The bars: label and per cent."""
    rows = [row.split() for row in one.page.locator(".bars li").all_inner_texts()]
    return {row[0]: float(row[-2]) for row in rows}


def choose(one, path: Path) -> None:
    one.page.locator("#file").set_input_files(path)
    one.page.get_by_text(f"Your image: {path.name}").wait_for()
    one.page.get_by_text("Classified on this computer").or_(one.page.locator(".error")).first.wait_for()


def drag(one, sigma: int) -> None:
    """Drag the slider and release it."""
    slider = one.page.get_by_label("Noise (sigma)")
    script = "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }"
    slider.evaluate(script, sigma)
    slider.dispatch_event("change")


def test_an_image_is_classified_with_and_without_noise(visit, tmp_path):
    path = tmp_path / "cell.png"
    synthetic_image("HEM", 5).save(path)
    one = visit()
    choose(one, path)
    classifier = Classifier.from_pretrained(bundled_root() / CELL, precision="int8")
    for sigma in (0, 45):
        if sigma:
            drag(one, sigma)
            one.page.locator("#spoken", has_text=f"noise {sigma}").wait_for()
        expected = classifier.predict(path, sigma=sigma)
        assert shown(one) == pytest.approx({k: 100 * p for k, p in expected.probabilities.items()}, abs=2.1)
        flagged = one.page.locator("#decided strong").all_inner_texts()[-1]
        assert flagged == ("flagged" if expected.flagged else "not flagged")
    assert "Without noise:" in one.page.locator("#notes").inner_text()
    first = shown(one)
    one.page.locator("#spoken").evaluate("spoken => { spoken.textContent = ''; }")
    one.page.get_by_role("button", name="Another pattern").click()
    one.page.locator("#spoken", has_text="noise 45").wait_for()
    assert shown(one) != first
    facts, score = one.page.locator("#facts").inner_text(), classifier.folder.metrics["headline"]["auroc_per_donor"]
    assert f"AUROC per donor {score['value']:.2f} (95 % CI {score['low']:.2f} to {score['high']:.2f})" in facts


def test_the_curve_is_pythons_and_shows_where_the_prediction_flips(visit, tmp_path):
    classifier = Classifier.from_pretrained(bundled_root() / CELL, precision="int8")
    path = tmp_path / "cell.png"
    for seed in range(60):
        synthetic_image("HEM", seed).save(path)
        curve = classifier.noise_curve(path, CURVE_SIGMAS)
        leads = np.abs(curve.probabilities[:, 0] - curve.probabilities[:, 1])
        if curve.flip_sigma and leads.min() > 2 * CLOSE:  # a clear flip
            break
    else:
        pytest.fail("no image with a clear flip")
    one = visit()
    choose(one, path)
    caption = one.page.locator("#curve figcaption", has_text="Without noise the prediction is")
    before = max(sigma for sigma in CURVE_SIGMAS if sigma < curve.flip_sigma)
    assert f"between a sigma of {before:g} and {curve.flip_sigma:g} it flips to" in caption.inner_text()
    lines = one.page.locator("#curve .chart > svg polyline").evaluate_all(
        "all => all.map(x => x.getAttribute('points'))"
    )
    drawn = np.array([[1 - float(point.split(",")[1]) / 100 for point in line.split()] for line in lines]).T
    # The int8 network rounds differently in WebAssembly, under strong noise a little more.
    assert drawn == pytest.approx(curve.probabilities, abs=1.5 * CLOSE)


def test_an_image_of_another_kind_is_rejected_and_opened_in_its_own_model(visit, tmp_path):
    path = tmp_path / "field.png"
    synthetic_image("Early", 5).save(path)
    one = visit()
    choose(one, path)
    one.page.get_by_text("rejected. Your image is out of distribution for this model.").wait_for()
    assert one.page.locator("#decided").inner_text() == ""
    assert one.barriers() == []
    one.page.get_by_role("button", name="Open it in: Smear field").click()
    one.page.get_by_text("Input check: passed").wait_for()
    assert one.page.get_by_role("radio", name=FIELD).is_checked()
    expected = Classifier.from_pretrained(bundled_root() / FIELD, precision="int8").predict(path)
    assert shown(one) == pytest.approx({k: 100 * p for k, p in expected.probabilities.items()}, abs=2.1)


def test_a_bad_file_is_refused_on_the_page_and_the_next_image_is_classified(visit, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no image")
    one = visit()
    choose(one, path)
    assert "notes.txt is not an image" in one.page.get_by_role("alert").inner_text()
    assert one.page.locator(".bars").count() == 0
    one.page.get_by_role("button", name="synthetic HEM 1").click()
    one.page.locator(".bars").wait_for()
    assert one.page.get_by_role("alert").inner_text() == ""


def test_an_image_can_be_pasted_and_dropped(visit):
    one = visit()
    for event, carrier in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        one.page.evaluate(
            """async ([event, carrier]) => {
              const blob = await (await fetch("examples/synthetic-HEM-2.png")).blob();
              const data = new DataTransfer();
              data.items.add(new File([blob], `${event}.png`, { type: "image/png" }));
              const Kind = event === "paste" ? ClipboardEvent : DragEvent;
              document.body.dispatchEvent(new Kind(event, { [carrier]: data, bubbles: true, cancelable: true }));
            }""",
            [event, carrier],
        )
        one.page.get_by_text(f"Your image: {event}.png").wait_for()
        one.page.locator(".bars").wait_for()


@pytest.mark.parametrize("width, dark", [(390, True), (1280, False)])
def test_the_page_is_accessible_and_fits_its_width(visit, width, dark):
    one = visit(width=width, dark=dark)
    one.page.get_by_text("Without noise the prediction").wait_for()
    one.page.get_by_text("What this means").click()
    assert one.barriers() == []
    drag(one, 100)
    one.page.locator("#spoken", has_text="noise 100").wait_for()
    assert one.fits()


def test_it_can_be_used_by_keyboard_alone(visit):
    one = visit()
    one.page.get_by_label("Noise (sigma)").focus()
    for _ in range(3):
        one.page.keyboard.press("ArrowRight")
    one.page.locator("#spoken", has_text="noise 3").wait_for()
    reached, active = set(), "document.activeElement"
    one.page.evaluate(f"{active}.blur()")
    for _ in range(16):
        one.page.keyboard.press("Tab")
        reached.add(one.page.evaluate(f"{active}.id || {active}.name || {active}.dataset.file"))
    assert {"file", "sigma", "again", "examples/synthetic-ALL-1.png"} <= reached


# Network


def test_only_its_own_files_are_requested(browser, folder):
    """By the server's log, which also has the worker's requests."""
    with served(folder) as host, visiting(browser, host.address) as opener:
        one = opener("/")
        one.page.get_by_text("Without noise the prediction").wait_for(timeout=60_000)
        loaded = one.page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert all((folder / path.lstrip("/")).exists() for path in host.requested)
    assert f"/models/{CELL}/onnx/model_int8.onnx" in host.requested
    assert all(address.startswith((host.address, "blob:")) for address in loaded)


def test_the_security_policy_blocks_requests_to_other_servers_in_the_worker_too(browser, host, tmp_path):
    (tmp_path / "other.txt").write_text("x")
    with served(tmp_path) as other:
        other.headers = {"Access-Control-Allow-Origin": "*"}
        context = browser.new_context()
        page = context.new_page()
        page.goto(host.address)
        page.locator(".bars").wait_for(timeout=60_000)
        (worker,) = page.workers
        send = f"""async () => {{
          try {{ await fetch("{other.address}/other.txt"); return "sent"; }} catch {{ return "refused"; }}
        }}"""
        assert page.evaluate(send) == worker.evaluate(send) == "refused" and other.requested == []
        page.goto(f"{other.address}/other.txt")  # without the policy the same request works
        assert page.evaluate(send) == "sent"
        context.close()


def test_it_uses_several_threads_where_the_browser_allows_it(browser, folder, page):
    task = {"data": encoded(image_file(synthetic_image("ALL", 9))), "name": "cell.png", "sigma": 20, "seed": 1}
    with served(folder) as isolated:
        isolated.headers = static_page.HEADERS
        with visiting(browser, isolated.address) as opener:
            one = opener("/").page
            one.set_default_timeout(60_000)
            one.locator(".bars").wait_for()
            assert one.evaluate("crossOriginIsolated")
            threads = one.evaluate("Math.min(4, navigator.hardwareConcurrency)")
            (found,) = classified(one, folder, CELL, [task])
            assert len([worker for worker in one.workers if "ort." in worker.url]) == threads - 1
    (alone,) = classified(page, folder, CELL, [task])
    assert found["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_an_incomplete_model_is_refused_with_one_sentence(browser, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "page")
    onnx = copy / "models" / CELL / "onnx/model_int8.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1000])
    with served(copy) as host:
        page = browser.new_page()
        page.goto(host.address)
        page.locator(".error").wait_for(timeout=60_000)
        assert "arrived incomplete" in page.get_by_role("alert").inner_text()
        page.close()
