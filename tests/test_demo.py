"""The page and its API, with throw-away models: right answers, kind refusals, and nothing from elsewhere."""

import base64
import csv
import json
import re
import urllib.request
from io import BytesIO
from types import SimpleNamespace

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_files import picture, write_bad_files, write_png16
from helpers_models import shared_model_folder
from PIL import Image

from blastlens import Classifier
from blastlens.classifier import NoiseCurve
from blastlens.drawn import draw_cell
from blastlens.model_folder import ModelFolder
from blastlens.noise import add_gaussian_noise
from blastlens.ui import LAUNCH, build
from blastlens.ui.examples import examples_for
from blastlens.ui.pictures import heat_overlay, noise_curve_svg
from blastlens.ui.try_a_cell import TryACell, _offer
from blastlens.ui.words import facts

CELL, FIELD = "tiny-cell", "tiny-field"


@pytest.fixture(scope="module")
def classifiers():
    folders = [shared_model_folder("cell"), shared_model_folder("field")]
    return {folder.name: Classifier.from_pretrained(folder) for folder in folders}


@pytest.fixture(scope="module")
def tab(classifiers):
    return TryACell(classifiers, {name: examples_for(c.label_names, None) for name, c in classifiers.items()})


@pytest.fixture(scope="module")
def server():
    """The demo, launched as app.py does; yields its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BLASTLENS_DATA", raising=False)
        demo = build([shared_model_folder("cell"), shared_model_folder("field")])
    _, address, _ = demo.launch(**LAUNCH, prevent_thread_lock=True, quiet=True)
    yield address.rstrip("/")
    demo.close()


@pytest.fixture(scope="module")
def client(server):
    return Client(server, verbose=False)


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    """Files that can be uploaded and must be refused: path -> part of the sentence."""
    return {f: why for f, why in write_bad_files(tmp_path_factory.mktemp("bad")).items() if f.is_file()}


def upload(file):
    return {"path": str(file), "url": None}


def shown_pixels(html):
    """The picture inside a figure, as pixels."""
    encoded = re.search(r'src="data:image/png;base64,([^"]+)"', html).group(1)
    return np.asarray(Image.open(BytesIO(base64.b64decode(encoded))))


def write_odd_files(folder):
    """Good images in the forms that a browser, or Gradio itself, would change on the way."""
    raw = draw_cell("ALL", 0)
    raw.save(folder / "raw.bmp")
    raw.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    raw.save(folder / "frames.gif", save_all=True, append_images=[Image.new("RGB", raw.size)])
    raw.save(folder / "scan.tif")
    raw.save(folder / "quality.webp", quality=50)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    Image.fromarray(picture(300, 200)).save(folder / "rotated.jpg", exif=rotated)
    write_png16(folder / "deep.png", picture().astype(np.uint16) * 257)
    return sorted(folder.iterdir())


def test_the_api_answers_what_the_classifier_answers(client, classifiers, tmp_path):
    for file in write_odd_files(tmp_path):
        for model in (CELL, FIELD):
            answer = client.predict(handle_file(file), model, 7.5, 3, api_name="/classify")
            assert answer == classifiers[model].predict(file, 7.5, 3).to_dict(), file.name


def test_the_api_needs_no_more_than_an_image(client, classifiers, tmp_path):
    draw_cell("HEM", 1).save(tmp_path / "cell.png")
    answer = client.predict(image=handle_file(tmp_path / "cell.png"), api_name="/classify")
    assert answer == classifiers[CELL].predict(tmp_path / "cell.png").to_dict()
    assert answer["disclaimer"] == "Research demonstration, not a medical device."


def test_the_api_refuses_each_bad_file_in_one_sentence(client, bad_files):
    for file, reason in bad_files.items():
        with pytest.raises(AppError) as refusal:
            client.predict(handle_file(file), CELL, 0, 0, api_name="/classify")
        sentence = str(refusal.value)
        assert file.name in sentence and reason in sentence and sentence.endswith(".")
        assert "\n" not in sentence and "Traceback" not in sentence


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"model": "elsewhere"}, "no model 'elsewhere' here; choose one of tiny-cell, tiny-field"),
        ({"sigma": 101}, "0 to 100"),
        ({"sigma": "much"}, "0 to 100"),
        ({"seed": -1}, "whole number"),
        ({"image": None}, "no image"),
    ],
)
def test_the_api_refuses_settings_out_of_range_in_one_sentence(client, tmp_path, settings, reason):
    draw_cell("ALL", 0).save(tmp_path / "cell.png")
    request = {"image": handle_file(tmp_path / "cell.png"), "model": CELL, "sigma": 0, "seed": 0} | settings
    with pytest.raises(AppError, match=re.escape(reason)):
        client.predict(**request, api_name="/classify")


def test_only_the_documented_endpoint_is_public(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/classify"]
    assert [p["parameter_name"] for p in endpoints["/classify"]["parameters"]] == [
        "image",
        "model",
        "sigma",
        "seed",
    ]


def test_the_served_page_loads_nothing_from_elsewhere(server):
    def get(path):
        with urllib.request.urlopen(server + path) as reply:
            return reply.read().decode()

    page, info = get("/"), get("/gradio_api/info")
    config = json.loads(get("/config"))
    styles = "".join(get("/" + path.lstrip("/")) for path in re.findall(r'href="\.?/?([^"]+\.css)"', page))
    loaded = re.findall(r"""<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=["'](?:https?:)?//([^"'/]+)""", page)
    loaded += re.findall(r"""(?:url\(|@import)\s*["']?(?:https?:)?//([^"')/]+)""", page + config["css"] + styles)
    assert set(loaded) <= {server.partition("//")[2]}
    assert config["stylesheets"] == []
    assert not config["analytics_enabled"]
    outside = re.findall(r"https?://[^\s\"'\\]+", json.dumps(config["components"]) + info)
    # The second is the name of an XML namespace, which nobody fetches.
    assert [url for url in outside if not url.startswith((server, "http://www.w3.org/2000/svg"))] == []


def test_the_page_shows_what_the_classifier_says(tab, classifiers, tmp_path):
    draw_cell("ALL", 0).save(tmp_path / "raw.bmp")
    for model in (CELL, FIELD):
        seen, focus, verdict, notes, curve = tab.answer(upload(tmp_path / "raw.bmp"), model, 12, 5)
        expected = classifiers[model].predict(tmp_path / "raw.bmp", 12, 5)
        assert [text.partition(" ")[0] for text in verdict] == list(expected.probabilities)
        assert list(verdict.values()) == list(expected.probabilities.values())
        assert np.array_equal(shown_pixels(seen), classifiers[model].pixels(tmp_path / "raw.bmp", 12, 5))
        assert expected.label in focus and "Not evidence" in focus
        assert "Research demonstration, not a medical device." in notes and model in notes
        assert curve.count("<polyline") == len(expected.probabilities)


def test_dragging_repeats_itself_and_shows_the_noise_that_is_classified(tab, classifiers, tmp_path):
    draw_cell("HEM", 2).save(tmp_path / "cell.png")
    one, again, other = (tab.preview(upload(tmp_path / "cell.png"), CELL, 30, seed) for seed in (0, 0, 1))
    assert one == again
    assert one[0] != other[0]
    clean = classifiers[CELL].pixels(tmp_path / "cell.png")
    assert np.array_equal(shown_pixels(one[0]), add_gaussian_noise(clean, 30, 0))


def test_the_page_refuses_a_bad_file_in_one_sentence_and_drops_the_old_answer(tab, bad_files):
    for file, reason in bad_files.items():
        seen, focus, verdict, notes, curve = tab.answer(upload(file), CELL, 0, 0)
        assert reason in notes and 'role="alert"' in notes
        assert verdict is None and "<img" not in seen + focus and "<svg" not in curve


def test_a_file_name_cannot_write_into_the_page(tab, tmp_path):
    file = tmp_path / "<img src=x onerror=alert(1)>.png"
    file.write_text("no pixels")
    notes = tab.answer(upload(file), CELL, 0, 0)[3]
    assert "&lt;img" in notes and "<img" not in notes


def test_a_page_without_an_image_asks_for_one(tab):
    seen, _, verdict, notes, _ = tab.answer(None, CELL, 0, 0)
    assert "Upload or paste an image" in seen and verdict is None and notes == ""


def test_the_page_opens_with_its_first_example_answered(tab):
    path, seen, _, verdict, *_ = tab.open(CELL, 0, 0)
    assert path == str(tab.examples[CELL][0].path)
    assert "<img" in seen and set(verdict) == {"ALL · leukemic blast", "HEM · healthy precursor cell"}


def test_a_click_on_an_example_answers_it(tab):
    path, *shown = tab.pick(SimpleNamespace(index=3), CELL, 0, 0)
    assert path == str(tab.examples[CELL][3].path)
    assert shown[0] == tab.answer(upload(path), CELL, 0, 0)[0]


def test_another_model_keeps_a_visitors_image_and_replaces_an_example(tab, tmp_path):
    draw_cell("ALL", 9).save(tmp_path / "mine.png")
    _, offer, path, *shown = tab.switch(upload(tmp_path / "mine.png"), FIELD, 0, 0)
    assert path == str(tmp_path / "mine.png")
    assert shown[0] == tab.answer(upload(path), FIELD, 0, 0)[0]
    assert "Benign" in offer and "ALL<" not in offer
    _, _, path, *_ = tab.switch(upload(tab.examples[CELL][0].path), FIELD, 0, 0)
    assert path == str(tab.examples[FIELD][0].path)


def test_examples_are_drawn_and_say_so(tab, classifiers):
    for model, classifier in classifiers.items():
        assert {example.label for example in tab.examples[model]} == set(classifier.label_names)
        assert all(example.drawn and example.path.is_file() for example in tab.examples[model])
        offer = _offer(classifier, tab.examples[model])
        assert "drawn by this project, not patients" in offer and "Real images" not in offer


def test_real_images_on_this_machine_are_offered_with_label_and_credit(classifiers, tmp_path):
    prepared, published = tmp_path / "cnmc2019", tmp_path / "aria2021" / "Original" / "Pre"
    prepared.mkdir()
    published.mkdir(parents=True)
    with (prepared / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "label", "subject"])
        for number, (label, subject) in enumerate([("all", "1"), ("all", "1"), ("all", "2"), ("hem", "H1")]):
            Image.fromarray(picture()).save(prepared / f"{number}.png")
            table.writerow([f"{number}.png", label, subject])
    Image.fromarray(picture()).save(published / "WBC-Pre-001.jpg")
    for model, labels, credit in ((CELL, ["ALL", "HEM", "ALL"], "Gupta"), (FIELD, ["Pre"], "Aria")):
        classifier = classifiers[model]
        examples = examples_for(classifier.label_names, tmp_path)
        assert [example.label for example in examples if not example.drawn] == labels
        offer = _offer(classifier, examples)
        assert "Real images" in offer and credit in offer and "proves little" in offer


def test_the_noise_curve_marks_now_and_the_flip():
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    curve = NoiseCurve((0.0, 10.0, 50.0), probabilities, ("<b>", "HEM"), 50.0)
    svg = noise_curve_svg(curve, curve.label_names, 10)
    assert 'class="now"' in svg and 'class="flip"' in svg
    assert "&lt;b&gt; (90%); by noise 50 it has flipped to HEM." in svg and "<b>" not in svg
    assert 'points="0,10.00 10,40.00 50,80.00"' in svg
    steady = NoiseCurve((0.0, 10.0), probabilities[:2], ("ALL", "HEM"), None)
    assert 'class="flip"' not in noise_curve_svg(steady, steady.label_names, 0)


def test_an_activation_overlay_is_grey_without_heat_and_warm_where_it_is():
    pixels = picture()
    heat = np.zeros(pixels.shape[:2], np.float32)
    heat[:, 112:] = 1
    overlay = heat_overlay(pixels, heat).astype(int)
    assert (np.ptp(overlay[:, :112], axis=2) == 0).all()
    assert (overlay[:, 112:, 0] > overlay[:, 112:, 2]).all()


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({}, "not measured"),
        (
            {
                "headline": {
                    "protocol": "group 3-fold",
                    "weighted_f1": {"value": 0.8765, "low": 0.84, "high": 0.91},
                }
            },
            "weighted F1 0.88</strong> (95 % interval 0.84 to 0.91) on cells of people it had never seen",
        ),
        (
            {"headline": {"protocol": "image 70/10/20", "weighted_f1": {"value": 0.95}}},
            "weighted F1 0.95</strong> image-level",
        ),
    ],
)
def test_a_model_is_introduced_with_its_protocol_and_interval(metrics, told):
    folder = ModelFolder.load(shared_model_folder("cell"))
    assert told in facts(ModelFolder(**vars(folder) | {"metrics": metrics}))
