"""The page that runs in the browser: the answers, pixels, noise and warnings of Python, and nothing leaves the machine.

It is served over plain HTTP with the bundled models, as `hub_upload.py space --static --to FOLDER` writes it.
"""

import csv
import dataclasses
import json
import os
import shutil
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from helpers_browser import visiting
from helpers_machine import lacking
from helpers_models import blobs
from helpers_static import decoded, npm_package, served
from PIL import Image

from benchmarks.in_browser import ASK, CODES, encoded
from blastlens import Classifier
from blastlens.corruptions import CURVE_SIGMAS
from blastlens.errors import BlastlensError
from blastlens.hub import fetch
from blastlens.images import open_image, read_image
from blastlens.model_folder import bundled_models, bundled_root
from blastlens.noise import add_gaussian_noise
from blastlens.ood_detection import STATISTICS, statistics_of
from blastlens.synthetic_images import draw_cell, draw_field
from blastlens.thresholds import Decision
from blastlens.view import View
from publish import space, static_page

CELL, FIELD = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"
CLOSE = 0.02  # of a probability
SIGMAS = (0, 0, 6, 30)  # of the images in turn


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pytestconfig) -> Path:
    """The page with every bundled model, these two first."""
    path = tmp_path_factory.mktemp("static") / "page"
    names = [CELL, FIELD, *(name for name in bundled_models() if name not in (CELL, FIELD))]
    folders = [fetch(str(bundled_root() / name)) for name in names]
    files = static_page.page(folders, npm_package(pytestconfig))
    space.write([static_page.File(name, content) for name, content in files.items()], path)
    return path


@pytest.fixture(scope="module")
def host(folder):
    with served(folder) as it:
        yield it


@pytest.fixture
def visit(browser, host):
    """A function that opens the page; a console error or a request to anywhere else fails the test afterwards."""
    with visiting(browser, host.address) as opener:

        def opened(width: int = 1280, dark: bool = False):
            one = opener("/", width, dark)
            one.page.set_default_timeout(60_000)
            one.page.locator(".bars").wait_for()
            return one

        yield opened


@pytest.fixture(scope="module")
def page(browser, host):
    """One open page whose modules are asked by the tests; it complains of nothing and stays at home."""
    with visiting(browser, host.address) as opener:
        one = opener("/")
        one.page.set_default_timeout(120_000)
        one.page.get_by_text("Without noise the answer").wait_for()
        yield one.page


def entries(folder: Path) -> tuple[dict, int]:
    """What models.json says: the models by name, and the size of the runtime."""
    record = json.loads((folder / "models.json").read_text())
    return {row["name"]: row for row in record["models"]}, record["runtime"]


def in_format(pixels: np.ndarray, kind: str, **options) -> bytes:
    file = BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def as_png(image: Image.Image) -> bytes:
    return in_format(np.asarray(image), "PNG")


def fifty_images() -> list[tuple[str, str, bytes]]:
    """Model, file name and bytes of 50 images: real ones of every form where they are, else drawn ones."""
    data = os.environ.get("BLASTLENS_DATA")
    if not data or not Path(data).is_dir():
        if os.environ.get("BLASTLENS_REQUIRE_DATA"):
            lacking("BLASTLENS_DATA names no folder: real images cannot be asked about", "BLASTLENS_REQUIRE_DATA")
        cells = [
            (CELL, f"{label}-{n}.png", as_png(draw_cell(label, 40 + n))) for n in range(15) for label in ("ALL", "HEM")
        ]
        labels = ("Benign", "Early", "Pre", "Pro")
        return cells + [(FIELD, f"{x}-{n}.png", as_png(draw_field(x, 40 + n))) for n in range(5) for x in labels]
    root = Path(data)
    raw = sorted((root / "cnmc2019_raw_sample").rglob("*.bmp"))
    with (root / "cnmc2019" / "metadata.csv").open(newline="", encoding="utf-8") as table:
        prepared = [root / "cnmc2019" / row["file_name"] for row in csv.DictReader(table)]
    fields = sorted((root / "aria2021").rglob("*.jpg"))
    real = [(CELL, path) for path in spread(raw, 12) + spread(prepared, 18)] + [(FIELD, p) for p in spread(fields, 16)]
    drawn = [
        (CELL, "drawn-ALL.png", as_png(draw_cell("ALL", 3))),
        (CELL, "field-for-cells.png", as_png(draw_field("Pre", 3))),
        (FIELD, "drawn-Pro.png", as_png(draw_field("Pro", 3))),
        (FIELD, "cell-for-fields.png", as_png(draw_cell("HEM", 3))),
    ]
    return [(model, path.name, path.read_bytes()) for model, path in real] + drawn


def spread(items: list[Path], count: int) -> list[Path]:
    return items[:: max(1, len(items) // count)][:count]


@dataclasses.dataclass
class Asked:
    """One image, and what came of it in the browser (`found`) and in Python."""

    model: str
    name: str
    data: bytes
    sigma: float
    found: dict
    expected: object


@pytest.fixture(scope="module")
def asked(page, folder) -> list[Asked]:
    """Fifty images, asked about on both sides."""
    models, runtime = entries(folder)
    rows = []
    for model in (CELL, FIELD):
        classifier = Classifier.from_pretrained(bundled_root() / model, precision="int8")
        images = [(name, data) for one, name, data in fifty_images() if one == model]
        tasks = [
            {"data": encoded(data), "name": name, "sigma": SIGMAS[n % len(SIGMAS)], "seed": n % 3}
            for n, (name, data) in enumerate(images)
        ]
        found = page.evaluate(ASK, [models[model], runtime, tasks])
        for (name, data), task, one in zip(images, tasks, found, strict=True):
            expected = classifier.predict(data, sigma=task["sigma"], seed=task["seed"])
            rows.append(Asked(model, name, data, task["sigma"], one, expected))
    assert len(rows) == 50
    return rows


def test_answers_are_those_of_the_int8_classifier(asked):
    differences = [
        max(abs(one.found["probabilities"][label] - p) for label, p in one.expected.probabilities.items())
        for one in asked
    ]
    print(f"largest difference of a probability over {len(asked)} images: {max(differences):.2g}")
    assert max(differences) <= CLOSE
    for one in asked:
        first, second = sorted(one.expected.probabilities.values(), reverse=True)[:2]
        assert one.found["label"] == one.expected.label or first - second < 2 * CLOSE, one.name


def test_the_view_has_the_same_pixels(asked):
    for one in asked:
        view = fetch(str(bundled_root() / one.model)).view
        expected = view.apply(open_image(one.data)).astype(int)
        apart = np.abs(decoded(one.found["pixels"]).reshape(expected.shape) - expected)
        # JPEG leaves its decoders a level of freedom; where a frame is cut, Python resamples only what is lit in it.
        exact = view.frame is None and not one.name.endswith(".jpg")
        assert apart.max() <= (0 if exact else 1), one.name


def test_warnings_and_verdicts_are_the_same(asked):
    for one in asked:
        assert one.found["fits"] == one.expected.in_domain, one.name
        assert one.found["warnings"] == list(one.expected.warnings), one.name
    assert {one.found["fits"] for one in asked} == {True, False}


def test_what_is_decided_from_the_same_probabilities_is_the_same(asked):
    for one in asked:
        figures = fetch(str(bundled_root() / one.model)).metrics["calibration"]
        decision, probabilities = Decision.from_json(figures), one.found["probabilities"]
        expected = (list(decision.labels(probabilities)), decision.flagged(probabilities))
        if not one.found["fits"]:  # nothing can be decided
            expected = (None, None)
        assert (one.found["labelSet"], one.found["flagged"]) == expected, one.name
    assert len({str(one.found["labelSet"]) for one in asked}) > 3


def test_statistics_of_the_input_check_are_the_same(page, asked):
    views = [one.found["pixels"] for one in asked]
    views += [encoded(bytes([value]) * 3 * 32 * 32) for value in (0, 255)]  # nothing lit; one flat white
    found = page.evaluate(
        f"async (views) => {{ {CODES} const {{ statisticsOf }} = await import('./gate.js');"
        " return views.map((pixels) => statisticsOf(bytes(pixels))); }",
        views,
    )
    for number, (text, here) in enumerate(zip(views, found, strict=True)):
        pixels = decoded(text)
        side = round((len(pixels) / 3) ** 0.5)
        there = statistics_of(pixels.reshape(side, side, 3))
        assert list(here) == list(STATISTICS)
        # Of a flat picture single-precision sums leave a little of nothing in Python.
        little = 1e-6 if number < len(asked) else 2e-3
        for name, value in there.items():
            assert here[name] == pytest.approx(value, rel=1e-3, abs=little, nan_ok=True), name


@pytest.mark.data
def test_images_of_another_kind_are_refused_for_the_same_reasons(page, folder, data_dir):
    models, runtime = entries(folder)
    files = [path for path in sorted((data_dir / "other_images").rglob("*.*")) if path.suffix != ".csv"]
    images = [(path.name, path.read_bytes()) for path in spread(files, 12)]
    tasks = [{"data": encoded(data), "name": name, "sigma": 0, "seed": 0} for name, data in images]
    for model in (CELL, FIELD):
        classifier = Classifier.from_pretrained(bundled_root() / model, precision="int8")
        for (name, data), found in zip(images, page.evaluate(ASK, [models[model], runtime, tasks]), strict=True):
            expected = classifier.predict(data)
            assert (found["fits"], found["warnings"]) == (expected.in_domain, list(expected.warnings)), name


SIZES = [(450, 450), (224, 224), (314, 314), (600, 400), (333, 517), (1001, 777), (40, 100), (16, 16), (320, 17)]


@pytest.mark.parametrize("frame", [None, 314])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "lanczos"])
def test_every_view_of_every_shape_is_resampled_as_pillow_does(page, frame, interpolation):
    view = View(224, frame, interpolation, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    for number, (width, height) in enumerate(SIZES):
        # Noise, whose every rounding shows, and overshoots that must be clipped.
        pixels = np.random.default_rng(number).choice(np.array([0, 255, 90, 130], np.uint8), (height, width, 3))
        found = page.evaluate(
            f"async ([view, width, height, data]) => {{ {CODES}"
            " const { applyView, normalise } = await import('./view.js');"
            " const seen = applyView(view, { width, height, pixels: bytes(data) });"
            " return [encoded(seen), encoded(normalise(view, seen))]; }",
            [dataclasses.asdict(view), width, height, encoded(pixels.tobytes())],
        )
        expected = view.apply(Image.fromarray(pixels))
        assert np.array_equal(decoded(found[0]).reshape(expected.shape), expected), (width, height)
        assert np.array_equal(decoded(found[1], np.float32), view.normalise(expected[None]).ravel())


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1, 2**32 + 7, 2**53 - 1])
def test_the_noise_field_is_numpys(page, seed):
    found = page.evaluate(
        f"async (seed) => {{ {CODES} const {{ standardNormal }} = await import('./noise.js');"
        " return encoded(standardNormal(150528, seed)); }",
        seed,
    )
    expected = np.random.default_rng(seed).standard_normal(150528, dtype=np.float32)
    # The logarithm of the tail is a library's; the last bit of a few numbers in a million is its own.
    assert np.allclose(decoded(found, np.float32), expected, rtol=3e-7, atol=0)


def test_the_noise_field_takes_well_under_a_tenth_of_a_second(page):
    milliseconds = page.evaluate(
        "async () => { const { standardNormal } = await import('./noise.js'); const times = [];"
        " for (let seed = 50; seed < 60; seed += 1) { const begun = performance.now();"
        " standardNormal(150528, seed); times.push(performance.now() - begun); }"
        " return Math.min(...times); }"
    )
    assert milliseconds < 100


@pytest.mark.parametrize("sigma", [0, 0.5, 2, 20.4, 96.9, 100])
def test_noisy_pixels_are_pythons(page, sigma):
    clean = blobs(3)
    found = page.evaluate(
        f"async ([pixels, sigma]) => {{ {CODES} const {{ addGaussianNoise }} = await import('./noise.js');"
        " return encoded(addGaussianNoise(bytes(pixels), sigma, 5)); }",
        [encoded(clean.tobytes()), sigma],
    )
    assert np.array_equal(decoded(found).reshape(clean.shape), add_gaussian_noise(clean, sigma, 5))


OPEN = f"""async ([data, name]) => {{ {CODES}
  const {{ openImage }} = await import("./open.js");
  try {{
    const {{ width, height, pixels, notes }} = await openImage(new Blob([bytes(data)]), name);
    return {{ width, height, pixels: encoded(pixels), notes }};
  }} catch (error) {{
    return {{ refusal: error.message }};
  }}
}}"""


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def palette_image(kind: str, **options) -> bytes:
    file = BytesIO()
    Image.fromarray(blobs(1, 60, 40)).quantize(20).save(file, kind, **options)
    return file.getvalue()


def animation(kind: str) -> bytes:
    file = BytesIO()
    first, *others = (Image.fromarray(blobs(seed, 60, 40)) for seed in range(3))
    first.save(file, kind, save_all=True, append_images=others)
    return file.getvalue()


def see_through() -> np.ndarray:
    return np.dstack([blobs(1, 60, 40), blobs(2, 60, 40)[..., 0]])


ODD = {
    "rgb.png": lambda: in_format(blobs(1, 60, 40), "PNG"),
    "rgb.bmp": lambda: in_format(blobs(1, 60, 40), "BMP"),
    "lossless.webp": lambda: in_format(blobs(1, 60, 40), "WEBP", lossless=True),
    "lossy.webp": lambda: in_format(blobs(1, 60, 40), "WEBP", quality=80),
    "colour.jpg": lambda: in_format(blobs(1, 60, 40), "JPEG"),
    "grey.jpg": lambda: in_format(blobs(1, 60, 40)[..., 0], "JPEG"),
    "grey.png": lambda: in_format(blobs(1, 60, 40)[..., 0], "PNG"),
    "grey.bmp": lambda: in_format(blobs(1, 60, 40)[..., 0], "BMP"),
    "palette.png": lambda: palette_image("PNG"),
    "palette.bmp": lambda: palette_image("BMP"),
    "palette.gif": lambda: palette_image("GIF"),
    "hole.gif": lambda: palette_image("GIF", transparency=3),
    "animation.gif": lambda: animation("GIF"),
    "animation.webp": lambda: animation("WEBP"),
    "animation.png": lambda: animation("PNG"),
    "see-through.png": lambda: in_format(see_through(), "PNG"),
    "see-through.webp": lambda: in_format(see_through(), "WEBP", lossless=True, exact=True),
    "opaque.png": lambda: in_format(np.dstack([blobs(1, 60, 40), np.full((40, 60), 255, np.uint8)]), "PNG"),
    **{
        f"turned-{n}.webp": lambda n=n: in_format(blobs(1, 60, 40), "WEBP", lossless=True, exif=turned(n))
        for n in range(2, 9)
    },
    "turned.jpg": lambda: in_format(blobs(1, 60, 40), "JPEG", exif=turned(6)),
    "turned.png": lambda: in_format(blobs(1, 60, 40), "PNG", exif=turned(8)),
    "large.png": lambda: in_format(blobs(1, 2900, 1500), "PNG"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_file_is_opened_as_in_python(page, name):
    data = ODD[name]()
    found, expected = page.evaluate(OPEN, [encoded(data), name]), read_image(data, name)
    pixels = np.asarray(expected.pixels)
    assert (found["width"], found["height"]) == expected.pixels.size
    assert np.array_equal(decoded(found["pixels"]).reshape(pixels.shape), pixels)
    assert found["notes"] == list(expected.notes)


@pytest.mark.parametrize("dark", [False, True])
def test_sixteen_bits_are_cut_to_eight_and_it_says_so(page, dark):
    values = np.random.default_rng(0).integers(0, 4000 if dark else 65536, (20, 30)).astype(np.uint16)
    data = in_format(values, "PNG")
    found, expected = page.evaluate(OPEN, [encoded(data), "deep.png"]), read_image(data)
    pixels = np.asarray(expected.pixels).astype(int)
    # Python rounds to the nearest of 256 levels, a browser leaves the lower byte out.
    assert np.abs(decoded(found["pixels"]).reshape(pixels.shape) - pixels).max() <= 1
    assert found["notes"][0] == "its 16-bit values were cut to 8 bits"
    assert [note.endswith("very dark") for note in found["notes"][1:]] == ([True] if dark else [])


def header_of(width: int, height: int) -> bytes:
    """A PNG that says that it is so large, and ends there."""
    head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + head + bytes(4) + b"\0\0\0\0IDAT" + bytes(4)


REFUSED = {
    "empty.png": (b"", "empty.png is empty (0 bytes); give a PNG, JPEG, BMP, GIF or WebP file."),
    "notes.txt": (
        b"hello " * 20,
        "notes.txt is not an image that can be read; give a PNG, JPEG, BMP, GIF or WebP file.",
    ),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "drawing.svg is not an image that can be read;"),
    "dot.png": (
        in_format(np.zeros((1, 1, 3), np.uint8), "PNG"),
        "dot.png is 1 x 1 pixels; each side must have at least 16.",
    ),
    "sliver.png": (
        in_format(np.zeros((16, 400, 3), np.uint8), "PNG"),
        "sliver.png is 400 x 16 pixels; the long side may be at most 20 times the short one.",
    ),
    "huge.png": (header_of(10_000, 8_000), "huge.png is 10000 x 8000 pixels; at most 50 megapixels are accepted."),
    "scan.tif": (in_format(blobs(1), "TIFF"), "scan.tif is a TIFF file, which browsers do not open; save it as PNG"),
    "half.jpg": (in_format(blobs(1), "JPEG")[:2000], "half.jpg is truncated or damaged; give an intact"),
    "half.png": (in_format(blobs(1), "PNG")[:9000], "half.png is truncated or damaged;"),
    "half.gif": (animation("GIF")[:900], "half.gif is truncated or damaged;"),
    "half.webp": (in_format(blobs(1), "WEBP")[:900], "half.webp is truncated or damaged;"),
    "half.bmp": (in_format(blobs(1), "BMP")[:9000], "half.bmp is truncated or damaged;"),
    "only-a-start.png": (b"\x89PNG\r\n\x1a\n", "only-a-start.png is truncated or damaged;"),
    "only-a-start.jpg": (b"\xff\xd8\xff", "only-a-start.jpg is truncated or damaged;"),
    "random.webp": (b"RIFF\xff\xff\xff\xffWEBP" + bytes(range(256)), "random.webp is truncated or damaged;"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_that_cannot_be_taken_gets_one_sentence(page, name):
    data, sentence = REFUSED[name]
    assert page.evaluate(OPEN, [encoded(data), name])["refusal"].startswith(sentence)
    if name != "scan.tif":
        with pytest.raises(BlastlensError):  # Python takes it no more than the page does
            open_image(data, name)


def test_a_file_too_large_to_read_is_refused_before_it_is_read(page):
    refusal = page.evaluate(
        "async () => { const { openImage } = await import('./open.js');"
        " return openImage({ size: 900e6 }, 'slide.bmp').catch((error) => error.message); }"
    )
    assert refusal == "slide.bmp is larger than 201 MB; give a smaller PNG, JPEG, BMP, GIF or WebP file."


def test_a_browser_that_changes_pixels_is_found_out(page):
    refusal = page.evaluate(
        """async () => {
          const { openImage } = await import("./open.js");
          const truly = OffscreenCanvasRenderingContext2D.prototype.getImageData;
          OffscreenCanvasRenderingContext2D.prototype.getImageData = function (...where) {
            const found = truly.apply(this, where);
            found.data[5] ^= 1;
            return found;
          };
          try {
            await openImage(await (await fetch("examples/drawn-ALL-1.png")).blob(), "x.png");
          } catch (error) {
            return error.message;
          } finally {
            OffscreenCanvasRenderingContext2D.prototype.getImageData = truly;
          }
        }"""
    )
    assert refusal.startswith("This browser changes the pixels that a page may read")


def test_the_numbers_of_the_page_are_those_of_the_package(page):
    assert page.evaluate("async () => (await import('./settings.js')).default.sigmas") == list(CURVE_SIGMAS)


# What a visitor does and sees


def shown(one) -> dict[str, float]:
    """The bars as they are read: label and per cent."""
    rows = [row.split() for row in one.page.locator(".bars li").all_inner_texts()]
    return {row[0]: float(row[-2]) for row in rows}


def choose(one, path: Path) -> None:
    one.page.locator("#file").set_input_files(path)
    one.page.get_by_text(f"Given: {path.name}").wait_for()
    one.page.get_by_text("Answered on this computer").or_(one.page.locator(".error")).first.wait_for()


def drag(one, sigma: int) -> None:
    """The slider, dragged and let go."""
    slider = one.page.get_by_label("Noise (sigma)")
    slider.evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input', {bubbles: true})); }", sigma
    )
    slider.dispatch_event("change")


def test_a_chosen_image_is_answered_with_and_without_noise(visit, tmp_path):
    path = tmp_path / "cell.png"
    draw_cell("HEM", 5).save(path)
    one = visit()
    choose(one, path)
    classifier = Classifier.from_pretrained(bundled_root() / CELL, precision="int8")
    for sigma in (0, 45):
        if sigma:
            drag(one, sigma)
            one.page.locator("#spoken", has_text=f"noise {sigma}").wait_for()
        expected = classifier.predict(path, sigma=sigma)
        assert shown(one) == pytest.approx({k: 100 * p for k, p in expected.probabilities.items()}, abs=2.1)
        assert one.page.locator("#decided strong").all_inner_texts()[-1] == (
            "flagged" if expected.flagged else "not flagged"
        )
    assert "Without the noise it says" in one.page.locator("#notes").inner_text()


def test_the_curve_is_pythons_and_says_where_the_answer_flips(visit, tmp_path):
    classifier = Classifier.from_pretrained(bundled_root() / CELL, precision="int8")
    path, flip = tmp_path / "cell.png", None
    for seed in range(60):  # one whose answer does not hold
        draw_cell("HEM", seed).save(path)
        curve = classifier.noise_curve(path, CURVE_SIGMAS)
        leads = np.abs(curve.probabilities[:, 0] - curve.probabilities[:, 1])
        if curve.flip_sigma and leads.min() > 2 * CLOSE:  # surely there, and there alone
            flip = curve.flip_sigma
            break
    assert flip is not None
    one = visit()
    choose(one, path)
    caption = one.page.locator("#curve figcaption", has_text="Without noise the answer is")
    before = max(sigma for sigma in CURVE_SIGMAS if sigma < flip)
    assert f"between a sigma of {before:g} and {flip:g} it turns to" in caption.inner_text()
    assert one.page.locator("#curve .flip").count() == 1
    lines = one.page.locator("#curve .chart > svg polyline").evaluate_all(
        "all => all.map(one => one.getAttribute('points'))"
    )
    drawn = np.array([[1 - float(point.split(",")[1]) / 100 for point in line.split()] for line in lines]).T
    assert drawn == pytest.approx(curve.probabilities, abs=CLOSE)


def test_another_pattern_gives_another_answer(visit):
    one = visit()
    drag(one, 60)
    one.page.locator("#spoken", has_text="noise 60").wait_for()
    first = shown(one)
    one.page.locator("#spoken").evaluate("spoken => { spoken.textContent = ''; }")
    one.page.get_by_role("button", name="Another pattern").click()
    one.page.locator("#spoken", has_text="noise 60").wait_for()
    assert shown(one) != first


def test_an_image_of_another_kind_is_refused_and_opened_in_its_own_model(visit, tmp_path):
    path = tmp_path / "field.png"
    draw_field("Early", 5).save(path)
    one = visit()
    choose(one, path)
    one.page.get_by_text("refused. Your image is unlike those this model knows.").wait_for()
    assert one.page.locator("#decided").inner_text() == ""  # nothing can be decided about such an image
    one.page.get_by_role("button", name="Open it in: A smear field").click()
    one.page.get_by_text("your image looks like those this model knows").wait_for()
    assert one.page.get_by_role("radio", name=FIELD).is_checked()
    expected = Classifier.from_pretrained(bundled_root() / FIELD, precision="int8").predict(path)
    assert shown(one) == pytest.approx({k: 100 * p for k, p in expected.probabilities.items()}, abs=2.1)


def test_a_file_that_cannot_be_taken_is_refused_on_the_page_and_the_next_one_is_answered(visit, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("no image")
    one = visit()
    choose(one, path)
    assert "notes.txt is not an image" in one.page.get_by_role("alert").inner_text()
    assert one.page.locator(".bars").count() == 0
    one.page.get_by_role("button", name="drawn HEM 1").click()
    one.page.locator(".bars").wait_for()
    assert one.page.get_by_role("alert").inner_text() == ""


def test_an_image_can_be_pasted_and_dropped(visit, host):
    one = visit()
    for event, carrier in (("paste", "clipboardData"), ("drop", "dataTransfer")):
        one.page.evaluate(
            """async ([event, carrier]) => {
              const blob = await (await fetch("examples/drawn-HEM-2.png")).blob();
              const data = new DataTransfer();
              data.items.add(new File([blob], `${event}.png`, { type: "image/png" }));
              const Kind = event === "paste" ? ClipboardEvent : DragEvent;
              document.body.dispatchEvent(new Kind(event, { [carrier]: data, bubbles: true, cancelable: true }));
            }""",
            [event, carrier],
        )
        one.page.get_by_text(f"Given: {event}.png").wait_for()
        one.page.locator(".bars").wait_for()


def test_what_is_known_of_a_model_stands_on_the_page(visit):
    facts = visit().page.locator("#facts").inner_text()
    score = fetch(str(bundled_root() / CELL)).metrics["headline"]["auroc_per_donor"]
    assert f"AUROC per donor {score['value']:.2f} (95 % interval {score['low']:.2f} to {score['high']:.2f})" in facts
    assert "people it had never seen; group-level" in facts


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_keeps_people_out(visit, dark, tmp_path):
    one = visit(dark=dark)
    one.page.get_by_text("Without noise the answer").wait_for()
    one.page.get_by_text("What this means").click()
    assert one.barriers() == []
    path = tmp_path / "field.png"
    draw_field("Pro", 1).save(path)
    choose(one, path)
    one.page.get_by_role("button", name="Open it in").wait_for()
    assert one.barriers() == []


def test_it_can_be_used_by_keyboard_alone(visit):
    one = visit()
    slider = one.page.get_by_label("Noise (sigma)")
    slider.focus()
    for _ in range(3):
        one.page.keyboard.press("ArrowRight")
    one.page.locator("#spoken", has_text="noise 3").wait_for()
    reached = set()
    one.page.evaluate("document.activeElement.blur()")
    for _ in range(16):
        one.page.keyboard.press("Tab")
        reached.add(
            one.page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.dataset.file"
            )
        )
    assert {"file", "sigma", "again", "examples/drawn-ALL-1.png"} <= reached


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_sticks_out(visit, width):
    one = visit(width=width)
    one.page.get_by_text("Without noise the answer").wait_for()
    drag(one, 100)
    one.page.locator("#spoken", has_text="noise 100").wait_for()
    assert one.fits()


# What it asks of the network


def test_only_its_own_files_are_asked_for(browser, folder):
    """By the server's record, too: it cannot miss what a worker asks for."""
    with served(folder) as host, visiting(browser, host.address) as opener:
        one = opener("/")
        one.page.get_by_text("Without noise the answer").wait_for(timeout=60_000)
        given = one.page.evaluate("performance.getEntriesByType('resource').map((one) => one.name)")
    assert all((folder / path.lstrip("/")).exists() for path in host.asked)
    assert f"/models/{CELL}/onnx/model_int8.onnx" in host.asked
    assert all(address.startswith((host.address, "blob:")) for address in given)


def test_the_pages_policy_keeps_everything_at_home_in_its_worker_too(browser, host, tmp_path):
    (tmp_path / "elsewhere.txt").write_text("x")
    with served(tmp_path) as elsewhere:
        elsewhere.headers = {"Access-Control-Allow-Origin": "*"}  # the other side would gladly take it
        context = browser.new_context()
        page = context.new_page()
        page.goto(host.address)
        page.locator(".bars").wait_for(timeout=60_000)
        (worker,) = page.workers
        send = f"""async () => {{
          try {{ await fetch("{elsewhere.address}/elsewhere.txt"); return "sent"; }} catch {{ return "refused"; }}
        }}"""
        assert page.evaluate(send) == worker.evaluate(send) == "refused" and elsewhere.asked == []
        # The same server answers where the policy does not speak.
        page.goto(f"{elsewhere.address}/elsewhere.txt")
        assert page.evaluate(send) == "sent"
        context.close()


def test_it_runs_on_several_threads_where_the_browser_allows_it(browser, folder, page):
    models, runtime = entries(folder)
    data = as_png(draw_cell("ALL", 9))
    task = {"data": encoded(data), "name": "cell.png", "sigma": 20, "seed": 1}
    with served(folder) as isolated:
        isolated.headers = static_page.HEADERS
        with visiting(browser, isolated.address) as opener:
            one = opener("/").page
            one.set_default_timeout(60_000)
            one.locator(".bars").wait_for()
            assert one.evaluate("crossOriginIsolated")
            threads = one.evaluate("Math.min(4, navigator.hardwareConcurrency)")
            (found,) = one.evaluate(ASK, [models[CELL], runtime, [task]])
            assert len([worker for worker in one.workers if "ort." in worker.url]) == threads - 1
    (alone,) = page.evaluate(ASK, [models[CELL], runtime, [task]])
    assert found["probabilities"] == pytest.approx(alone["probabilities"], abs=1e-5)


def test_a_model_that_arrives_cut_off_is_refused_in_a_sentence(browser, folder, tmp_path):
    copy = tmp_path / "page"
    shutil.copytree(folder, copy)
    onnx = copy / "models" / CELL / "onnx/model_int8.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1000])
    with served(copy) as host:
        page = browser.new_page()
        page.goto(host.address)
        page.locator(".error").wait_for(timeout=60_000)
        assert "arrived incomplete" in page.get_by_role("alert").inner_text()
        page.close()
