"""The page and its API, with throw-away models: right answers, kind refusals, and nothing from elsewhere."""

import base64
import csv
import hashlib
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qs

import numpy as np
import pytest
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_files import picture, png16, write_bad_files
from helpers_models import shared_model_folder
from PIL import Image

from blastlens import Classifier
from blastlens.corruptions import KINDS, Corruption
from blastlens.model_folder import ModelFolder
from blastlens.noise import add_gaussian_noise
from blastlens.predictions import Curve
from blastlens.synthetic_images import synthetic_image
from blastlens.ui.examples import examples_for
from blastlens.ui.links import Scene, read_scene
from blastlens.ui.model_registry import Shelf
from blastlens.ui.pictures import heat_overlay
from blastlens.ui.single_image import NOISE, SingleImageTab
from blastlens.ui.single_image_html import curve_html
from blastlens.ui.words import facts

CELL, FIELD = "tiny-cell", "tiny-field"


@pytest.fixture(scope="module")
def classifiers():
    folders = [shared_model_folder("cell"), shared_model_folder("field")]
    return {folder.name: Classifier.from_pretrained(folder) for folder in folders}


@pytest.fixture(scope="module")
def tab(classifiers):
    return SingleImageTab(Shelf(classifiers))


@pytest.fixture(scope="module")
def client(demo_address):
    return Client(demo_address, verbose=False)


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    """Files that can be uploaded and must be refused: path -> part of the sentence."""
    return {f: why for f, why in write_bad_files(tmp_path_factory.mktemp("bad")).items() if f.is_file()}


def upload(file):
    """A file as Gradio hands over what was uploaded."""
    folder = Path(get_upload_folder(), "tests", hashlib.sha256(file.read_bytes()).hexdigest())
    folder.mkdir(parents=True, exist_ok=True)
    file = shutil.copy(file, folder)
    return {"path": str(file), "url": None}


def shown_pixels(html, number=0):
    """A picture inside a figure, as pixels."""
    encoded = re.findall(r'src="data:image/png;base64,([^"]+)"', html)[number]
    return np.asarray(Image.open(BytesIO(base64.b64decode(encoded))))


def write_odd_files(folder):
    """Good images in the forms that a browser, or Gradio itself, would change on the way."""
    raw = synthetic_image("ALL", 0)
    raw.save(folder / "raw.bmp")
    raw.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
    raw.save(folder / "frames.gif", save_all=True, append_images=[Image.new("RGB", raw.size)])
    raw.save(folder / "scan.tif")
    raw.save(folder / "quality.webp", quality=50)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    Image.fromarray(picture(300, 200)).save(folder / "rotated.jpg", exif=rotated)
    (folder / "deep.png").write_bytes(png16(picture().astype(np.uint16) * 257))
    return sorted(folder.iterdir())


def test_the_api_answers_what_the_classifier_answers(client, classifiers, tmp_path):
    for file in write_odd_files(tmp_path):
        for model in (CELL, FIELD):
            answer = client.predict(handle_file(file), model, 7.5, 3, api_name="/classify")
            assert answer == classifiers[model].predict(file, 7.5, 3).to_dict(), file.name


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
    synthetic_image("ALL", 0).save(tmp_path / "cell.png")
    request = {"image": handle_file(tmp_path / "cell.png"), "model": CELL, "sigma": 0, "seed": 0} | settings
    with pytest.raises(AppError, match=re.escape(reason)):
        client.predict(**request, api_name="/classify")


def test_the_api_makes_an_image_worse_as_asked(client, classifiers, tmp_path):
    synthetic_image("ALL", 0).save(tmp_path / "cell.png")
    for kind in KINDS:
        if kind != NOISE:
            level = KINDS[kind].high
            request = {"image": handle_file(tmp_path / "cell.png"), "model": CELL, "sigma": 4, "corruption": kind}
            answer = client.predict(**request, level=level, api_name="/classify")
            expected = classifiers[CELL].predict(tmp_path / "cell.png", 4, corruption=Corruption(kind, level))
            assert answer == expected.to_dict()
            assert answer["corruption"] == {"kind": kind, "level": level}
    with pytest.raises(AppError, match="0 to 8 is accepted"):
        client.predict(handle_file(tmp_path / "cell.png"), CELL, 0, 0, "blur", 9, api_name="/classify")


def test_the_api_draws_a_curve_over_patterns(client, classifiers, tmp_path):
    synthetic_image("HEM", 3).save(tmp_path / "cell.png")
    answer = client.predict(handle_file(tmp_path / "cell.png"), CELL, NOISE, 3, 5, api_name="/noise_curve")
    expected = classifiers[CELL].curve(tmp_path / "cell.png", seeds=(5, 6, 7))
    assert answer["levels"] == list(expected.levels)
    for name in ("probabilities", "low", "high"):
        assert np.array_equal(np.column_stack(list(answer[name].values())), getattr(expected, name))
    assert list(answer["probabilities"]) == ["ALL", "HEM"]
    assert answer["flip_level"] == expected.flip_level
    with pytest.raises(AppError, match="1 to 8"):
        client.predict(handle_file(tmp_path / "cell.png"), CELL, NOISE, 9, 0, api_name="/noise_curve")


ENDPOINTS = {"classify", "noise_curve", "score_images", "test_on_labelled_images", "list_models"}


def test_the_endpoints_are_these_each_described_with_types_and_examples(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert {name.strip("/") for name in endpoints} == ENDPOINTS
    for name, endpoint in endpoints.items():
        assert "not a medical device" in endpoint["description"], name
        for parameter in endpoint["parameters"]:
            where = f"{name} {parameter['parameter_name']}"
            assert parameter["type"], where
            assert len(parameter["python_type"]["description"]) > 10, where
            assert parameter["example_input"] not in ("...", None), where


def settings(file, kind=NOISE, level=0.0, seed=0, share=0.0, model=CELL):
    return upload(file), model, kind, level, seed, share


def test_the_tab_shows_what_the_classifier_predicts(tab, classifiers, tmp_path):
    synthetic_image("ALL", 0).save(tmp_path / "raw.bmp")
    for model in (CELL, FIELD):
        for change in (Corruption(NOISE, 12), Corruption("blur", 3)):
            chosen = settings(tmp_path / "raw.bmp", change.kind, change.level, 5, model=model)
            view, focus, verdict, details, _, link = tab.answer(*chosen)
            expected = classifiers[model].predict(tmp_path / "raw.bmp", seed=5, corruption=change)
            assert [text.partition(" ")[0] for text in verdict["value"]] == list(expected.probabilities)
            assert list(verdict["value"].values()) == list(expected.probabilities.values())
            changed = classifiers[model].pixels(tmp_path / "raw.bmp", seed=5, corruption=change)
            assert np.array_equal(shown_pixels(view), changed)
            assert np.array_equal(shown_pixels(view, 1), classifiers[model].pixels(tmp_path / "raw.bmp"))
            assert f"Activation map for {expected.label}; not evidence of disease." in focus
            assert "Research demonstration, not a medical device." in details and model in details
            assert f"change={change.kind}" in link and "image=&amp;" in link  # an own image is not part of it
            curve = tab.curve(*chosen)
            assert curve.count("<polyline") == len(expected.probabilities)
            assert ("<polygon" in curve) == (change.kind == NOISE)  # other corruptions draw no random numbers


def test_the_preview_repeats_itself_and_shows_the_noise_that_is_classified(tab, classifiers, tmp_path):
    synthetic_image("HEM", 2).save(tmp_path / "cell.png")
    one, again, other = (tab.preview(*settings(tmp_path / "cell.png", level=30, seed=seed)) for seed in (0, 0, 1))
    assert one == again
    assert one[0] != other[0]
    clean = classifiers[CELL].pixels(tmp_path / "cell.png")
    assert np.array_equal(shown_pixels(one[0]), add_gaussian_noise(clean, 30, 0))


def test_a_bad_file_gets_one_sentence_and_the_old_answer_is_dropped(tab, bad_files):
    for file, reason in bad_files.items():
        view, focus, verdict, details, suggestion, link = tab.answer(*settings(file))
        assert reason in details and 'role="alert"' in details and not suggestion.visible
        assert verdict["value"] is None and link == "" and "<img" not in view + focus
        assert "<svg" not in tab.curve(*settings(file))


def test_a_file_name_cannot_write_into_the_page(tab, tmp_path):
    file = tmp_path / "<img src=x onerror=alert(1)>.png"
    file.write_text("no pixels")
    details = tab.answer(*settings(file))[3]
    assert "&lt;img" in details and "<img" not in details


def test_an_invalid_seed_is_refused_in_one_sentence_by_tab_and_api(tab, client, tmp_path):
    synthetic_image("ALL", 0).save(tmp_path / "cell.png")
    for seed in (None, 1.5, -1, "x"):
        chosen = settings(tmp_path / "cell.png", level=20, seed=seed)
        assert "whole number" in tab.answer(*chosen)[3]
        assert "<svg" not in tab.curve(*chosen)
        tab.preview(*chosen)  # raises nothing; the page stays as it is
    for endpoint, rest in (("/classify", {}), ("/noise_curve", {"patterns": 2})):
        with pytest.raises(AppError, match="whole number from 0"):
            client.predict(image=handle_file(tmp_path / "cell.png"), seed=-1, **rest, api_name=endpoint)
    last = 2**64 - 1  # patterns past the last seed start over
    request = {"image": handle_file(tmp_path / "cell.png"), "seed": last, "patterns": 2}
    assert client.predict(**request, api_name="/noise_curve")["levels"]
    assert "<svg" in tab.curve(*settings(tmp_path / "cell.png", level=20, seed=last))


def test_a_link_leads_back_to_its_scene(tab):
    scene = Scene(FIELD, "drawn-Pre-1", Corruption("hue", -20.5), 9)
    query = {name: values[0] for name, values in parse_qs(scene.query()).items()}
    assert read_scene(query, tab.shelf) == (scene, [])
    model, _, thumbnails, kind, level, _, _, _, path = tab.open(SimpleNamespace(query_params={}))
    assert (model, kind, level.value, path) == (CELL, NOISE, 0, thumbnails[0][0])
    model, _, _, kind, level, _, seed, _, path = tab.open(SimpleNamespace(query_params=query))
    assert (model, Path(path).stem, kind, level.value, seed) == (FIELD, "drawn-Pre-1", "hue", -20.5, 9)


def test_an_example_is_picked_by_its_place_and_survives_the_deletion_of_its_copy(tab):
    example = tab.shelf.examples_of(tab.shelf.first)[3]
    assert tab.pick(CELL, SimpleNamespace(index=3)) == str(example.path)
    gone = {"path": str(Path(get_upload_folder(), "deleted", example.path.name))}
    assert "<img" in tab.answer(gone, CELL, NOISE, 0, 0)[0]
    deleted = {"path": str(Path(get_upload_folder(), "deleted", "mine.png"))}
    assert "has been deleted" in tab.answer(deleted, CELL, NOISE, 0, 0)[3]


def test_another_model_keeps_an_uploaded_image_and_replaces_an_example(tab, tmp_path):
    synthetic_image("ALL", 9).save(tmp_path / "mine.png")
    _, thumbnails, path, _ = tab.switch(upload(tmp_path / "mine.png"), FIELD)
    assert Path(path).name == "mine.png"
    assert [caption for _, caption in thumbnails] == ["Benign", "Early", "Pre", "Pro"]
    assert tab.switch(upload(tab.shelf.examples_of(tab.shelf.first)[0].path), FIELD)[2] == str(
        tab.shelf.examples_of(tab.shelf.classifiers[FIELD])[0].path
    )


def test_real_images_on_this_machine_are_offered_with_their_labels(classifiers, tmp_path):
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
    for model, labels in ((CELL, ["ALL", "HEM", "ALL"]), (FIELD, ["Pre"])):
        classifier = classifiers[model]
        examples = examples_for(classifier.label_names, tmp_path)
        assert [example.label for example in examples if not example.drawn] == labels
        assert {example.label for example in examples if example.drawn} == set(classifier.label_names)


def test_the_curve_marks_the_current_level_and_the_flip_and_describes_both():
    rows = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]])
    curve = Curve(NOISE, (0.0, 10.0, 50.0), rows, rows - 0.05, rows + 0.05, ("<b>", "HEM"), 50.0)
    svg = curve_html(curve, 10)
    assert 'class="now"' in svg and 'class="flip"' in svg and svg.count("<polygon") == 2
    assert "&lt;b&gt; (90%); between noise 10 and noise 50 it changes to HEM. The band" in svg and "<b>" not in svg
    assert 'points="0.00,10.00 10.00,40.00 50.00,80.00"' in svg
    across = float(re.search(r'class="flip"><line x1="([\d.]+)%', svg)[1])
    assert across == pytest.approx(11 + 86 * 0.2, abs=0.01)  # where the lines cross, at level 20
    steady = Curve("hue", (-90.0, 0.0, 90.0), rows[[0, 0, 0]], rows[[0, 0, 0]], rows[[0, 0, 0]], ("ALL", "HEM"), None)
    svg = curve_html(steady, 0)
    assert 'class="flip"' not in svg
    assert "stays so up to stain hue -90° and stain hue 90°." in svg


def test_an_activation_overlay_is_grey_without_heat_and_warm_where_it_is():
    pixels = picture()
    heat = np.zeros(pixels.shape[:2], np.float32)
    heat[:, 112:] = 1
    overlay = heat_overlay(pixels, heat).astype(int)
    assert (np.ptp(overlay[:, :112], axis=2) == 0).all()
    assert (overlay[:, 112:, 0] > overlay[:, 112:, 2]).all()


def test_a_model_is_introduced_with_its_protocol_and_interval():
    folder = ModelFolder.load(shared_model_folder("cell"))
    score = {"weighted_f1": {"value": 0.8765, "low": 0.84, "high": 0.91}}
    for protocol, told in (
        (None, "not measured"),
        ("group 3-fold", "weighted F1 0.88</strong> (95 % interval 0.84 to 0.91) on cells of subjects"),
        ("image 70/10/20", "weighted F1 0.88</strong> (95 % interval 0.84 to 0.91) image-level"),
    ):
        metrics = {"headline": {"protocol": protocol, **score}} if protocol else {}
        assert told in re.sub(r"</?span[^>]*>", "", facts(replace(folder, metrics=metrics)))
