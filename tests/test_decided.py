"""What the first tab makes of an answer: what cannot be ruled out, what would be flagged, and who should be asked."""

import html
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.utils import get_upload_folder
from helpers_models import LABELS, blobs, shared_model_folder, write_json
from helpers_trust import calibration
from PIL import Image

from blastlens import Classifier
from blastlens.classifier import Prediction
from blastlens.corruptions import KINDS, Corruption
from blastlens.synthetic_images import draw_cell, draw_field
from blastlens.ui.batch import Run, image_rows
from blastlens.ui.batch_html import images_html, patients_html, summary
from blastlens.ui.examples import examples_for
from blastlens.ui.model_registry import Shelf
from blastlens.ui.single_image import NOISE, TryACell
from blastlens.ui.single_image_html import caution_html, decision_html, kinds_html, marks_html
from blastlens.ui.tables import TableView
from blastlens.ui.validation import YourSlides

FIGURES = calibration(("ALL", "HEM"))
# Cells lie on black, fields do not: enough to tell them apart by.
BLACK = {"cell": (0.3, 1.0), "field": (-0.1, 0.2)}


def prediction(**changes) -> Prediction:
    answer = Prediction("ALL", {"ALL": 0.7, "HEM": 0.3}, (1.0, 0.0), (), "models/x", None, 0.0, in_domain=True)
    return replace(answer, **changes)


def text(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def test_two_labels_in_the_set_are_an_honest_dont_know():
    both = decision_html(prediction(label_set=("ALL", "HEM"), flagged=True), FIGURES)
    assert "At 90 % : ALL or HEM , it cannot tell which." in text(both)
    assert "Set to miss few : flagged ." in text(both)
    assert "91.2 % of the time" in both and "31.4 % on" in both  # as measured, where the words are explained
    one = decision_html(prediction(label_set=("HEM",), flagged=False), FIGURES)
    assert "At 90 % : HEM ." in text(one) and "cannot tell" not in one and "not flagged" in text(one)


def test_nothing_is_decided_without_figures_or_of_a_strange_image():
    assert decision_html(prediction(), FIGURES) == ""
    assert decision_html(prediction(label_set=("ALL",), flagged=True), None) == ""
    assert decision_html(prediction(label_set=("ALL",), flagged=True, in_domain=False), FIGURES) == ""
    assert "Set to miss few" not in decision_html(prediction(label_set=("ALL",)), FIGURES)


def test_of_a_noisy_image_stands_what_was_measured_with_such_noise():
    noisy = prediction(label_set=("ALL",), flagged=True, sigma=9.6)
    shown = decision_html(noisy, FIGURES)
    coverage, sensitivity = round(0.9123 - 10 / 300, 5), round(0.9531 - 10 / 400, 5)
    assert f"with noise of sigma 10 it was {100 * coverage:.1f} % of the time" in shown
    assert f"with noise of sigma 10 it found {100 * sensitivity:.1f} %" in shown
    same = decision_html(replace(noisy, sigma=0.0, corruption={"kind": "gaussian_noise", "level": 9.6}), FIGURES)
    assert same == shown
    assert "with noise" not in decision_html(replace(noisy, sigma=60.0), FIGURES)  # more than was ever measured


def test_of_any_other_flaw_it_is_said_that_nothing_was_measured():
    blurred = prediction(label_set=("ALL",), flagged=True, corruption={"kind": "defocus", "level": 3.0})
    shown = decision_html(blurred, FIGURES)
    assert "91.2 %" not in shown and "it found" not in shown
    assert "With this flaw nobody knows how far they hold." in text(shown)
    assert "nobody knows" not in decision_html(prediction(label_set=("ALL",), flagged=True), FIGURES)


def test_a_refused_image_is_offered_to_the_model_that_knows_it():
    refused = prediction(in_domain=False, warnings=("far less black background than the cells the model knows",))
    offered = caution_html(refused, ("Fields & <more>", "who/fields@abc"))
    assert "refused" in offered and "Far less black background" in offered
    button = ElementTree.fromstring(offered).find(".//button")
    assert button.get("data-value") == "who/fields@abc" and "Fields & <more>" in button.text
    assert "<button" not in caution_html(refused)
    assert "<button" not in caution_html(prediction(), ("Fields", "fields"))


def test_every_kind_can_be_picked_once_and_stands_in_a_family():
    picker = ElementTree.fromstring(kinds_html())
    options = picker.findall("./select/optgroup/option")
    assert sorted(option.get("value") for option in options) == sorted(KINDS)
    assert {option.get("value"): option.text for option in options} == {k.name: k.title for k in KINDS.values()}
    assert picker.find("span").text == "Make it worse with"  # its label, which also names it to a screen reader


@pytest.mark.parametrize("name", KINDS)
def test_the_marks_of_every_kind_are_levels_that_can_be_set(name):
    found = [float(level) for level in re.findall(r'data-value="([^"]*)"', marks_html(name))]
    assert found == [float(f"{mark.level:g}") for mark in sorted(KINDS[name].marks, key=lambda m: _order(name, m))]
    for level in found:
        Corruption(name, level)  # raises where it is out of range


def _order(name, mark):
    """Marks stand by group, groups in the order in which they come first."""
    groups = list(dict.fromkeys(one.group for one in KINDS[name].marks))
    return groups.index(mark.group), KINDS[name].marks.index(mark)


# With models


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """Both kinds of model, each with a gate that tells them apart and figures to decide by."""
    root = tmp_path_factory.mktemp("models")
    found = {}
    for kind, (low, high) in BLACK.items():
        folder = shutil.copytree(shared_model_folder(kind), root / f"tiny-{kind}")
        range_ = {"low": low, "high": high, "meaning": "share of black pixels"}
        write_json(folder / "gate.json", {"schema": 1, "images": f"{kind}s", "statistics": {"black": range_}})
        metrics = json.loads((folder / "metrics.json").read_text())
        write_json(folder / "metrics.json", metrics | {"calibration": calibration(LABELS[kind])})
        found[folder.name] = Classifier.from_pretrained(folder)
    return TryACell(Shelf(found, {name: examples_for(c.label_names, None) for name, c in found.items()}))


def upload(tmp_path, image, name="mine.png"):
    folder = Path(get_upload_folder(), "decided", tmp_path.name)
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name)
    return {"path": str(folder / name), "url": None}


def test_a_cell_given_to_the_field_model_is_sent_on_by_one_click(tab, tmp_path):
    cell = upload(tmp_path, draw_cell("ALL", 3))
    _, _, caution, verdict, decision, *_ = tab.answer(cell, "tiny-field", NOISE, 0, 0)
    assert "refused" in caution and 'data-value="tiny-cell"' in caution
    assert "doubtful" in verdict["elem_classes"] and decision == ""
    click = SimpleNamespace(value="tiny-cell")
    model, _, _, path, _, _, caution, verdict, decision, *_ = tab.send_on(click, cell, "gaussian_noise", 0, 0)
    assert (model, path) == ("tiny-cell", cell["path"])
    assert "looks like those this model knows" in caution
    assert "At 90 %" in decision and "Set to miss few" in decision


def test_labelled_images_of_another_kind_are_counted_by_the_model_that_would_know_them(tab, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "slides.zip", "w") as archive:
        for name in ("ALL/a1/1.png", "HEM/h1/1.png"):
            draw_field("Early", len(name)).save(buffer := BytesIO(), "PNG")
            archive.writestr(name, buffer.getvalue())
    answer = YourSlides(tab.shelf, gr.File()).answer({"path": str(tmp_path / "slides.zip")}, "tiny-cell")
    assert answer["fits_another_model"] == {"tiny-field": 2}


def test_the_assumed_share_moves_answer_and_curve_and_becomes_the_other_models_own_with_it(tab, tmp_path, monkeypatch):
    for classifier, own in zip(tab.shelf.classifiers.values(), (0.68, 0.3), strict=True):
        monkeypatch.setattr(classifier, "prevalence", own)
    cell = upload(tmp_path, Image.fromarray(blobs(1)))
    (own, set_to_own, low) = (tab.answer(cell, "tiny-cell", NOISE, 0, 0, share) for share in (0, 0.68, 0.05))
    assert own[3] == set_to_own[3] and "assume that 68 % of the images are leukemic" in own[5]
    assert "assume that 5 % of the images are leukemic" in low[5] and low[4] == own[4]
    leukemic = "ALL · leukemic B-lymphoblast"
    assert low[3]["value"][leukemic] < own[3]["value"][leukemic]
    curves = [tab.curve(cell, "tiny-cell", NOISE, 0, 0, share) for share in (0, 0.68, 0.05)]
    assert curves[0] == curves[1] != curves[2]
    *_, share = tab.switch(cell, "tiny-field", NOISE, 0, 0, 0.05)
    assert (share.value, share.interactive) == (0.3, True)


def test_an_image_that_no_model_knows_is_refused_without_a_suggestion(tab, tmp_path):
    half = draw_field("Early", 2)
    half.paste((0, 0, 0), (0, 0, half.width // 4, half.height))  # a quarter is black: neither a cell nor a field
    caution = tab.answer(upload(tmp_path, half), "tiny-cell", NOISE, 0, 0)[2]
    assert "refused" in caution and "<button" not in caution
    assert caution.index("Not externally validated.") < caution.index("refused")  # about the model, not a reason


def test_a_batch_says_what_was_refused_and_which_model_would_know_it(tab, tmp_path):
    draw_cell("ALL", 3).save(tmp_path / "cell.png")
    draw_field("Early", 3).save(tmp_path / "field.png")
    cell, field = (tab.shelf.classifiers[name] for name in ("tiny-cell", "tiny-field"))
    run = Run.of(cell, [str(tmp_path)], 0, others=(cell, field))
    list(run.steps())
    assert run.others == ()
    rows = {row["file"]: row for row in image_rows(run)}
    assert rows["field.png"]["suggestion"] == "tiny-field" and rows["cell.png"]["suggestion"] is None
    assert rows["cell.png"]["label_set"] and rows["cell.png"]["flagged"] in (True, False)
    answer = {one["file"]: one for one in run.to_dict()["images"]}
    assert answer["field.png"]["suggestion"] == "tiny-field" and answer["field.png"]["in_domain"] is False
    assert isinstance(answer["cell.png"]["label_set"], list)
    assert answer["field.png"]["label_set"] is None and answer["field.png"]["flagged"] is None
    (patient,) = run.to_dict()["patients"]
    assert (patient["images"], patient["unlike_training_images"]) == (2, 1)
    assert any(line.startswith("1 of 2 images do not look like") for line in run.to_dict()["warnings"])
    assert "Unlike its images" in text(patients_html(run, TableView()))
    assert "1 of them looks like those of tiny-field: choose it above" in text(summary(run))
    table = text(images_html(run, TableView()))
    assert "Not ruled out" in table and "refused, 2 remarks" in table and "looks like an image for tiny-field" in table
    json.dumps(run.to_dict())
