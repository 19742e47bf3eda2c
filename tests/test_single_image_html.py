"""Prediction sets, operating points, rejected images and suggested models, as the page shows them."""

import html
import json
import re
import shutil
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import gradio as gr
import pytest
from gradio.utils import get_upload_folder
from helpers_models import blobs, bundled_record, shared_model_folder, write_json
from PIL import Image

from blastlens import Classifier
from blastlens.external_result import NOT_VALIDATED
from blastlens.predictions import Prediction
from blastlens.synthetic_images import synthetic_image
from blastlens.ui.batch import BatchRun, image_rows, image_table
from blastlens.ui.folder import summary_html
from blastlens.ui.model_registry import Shelf
from blastlens.ui.single_image import NOISE, SingleImageTab
from blastlens.ui.single_image_html import decision_html, warnings_html
from blastlens.ui.validation import ValidationTab

FIGURES = bundled_record("cell")["calibration"]
# Cells lie on black, fields do not: enough to tell them apart by.
BLACK = {"cell": (0.3, 1.0), "field": (-0.1, 0.2)}


def prediction(**changes) -> Prediction:
    answer = Prediction("ALL", {"ALL": 0.7, "HEM": 0.3}, (1.0, 0.0), (), "models/x", None, 0.0, in_domain=True)
    return replace(answer, **changes)


def text(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def test_a_prediction_set_of_two_labels_cannot_tell_which():
    both = decision_html(prediction(label_set=("ALL", "HEM"), flagged=True), FIGURES)
    assert "Not ruled out at 90 % : ALL or HEM , cannot tell which." in text(both)
    assert "Operating point : flagged ." in text(both)
    assert "held-out images: 90.1 %" in both and "probability of leukemia of 19.6 %" in both
    one = decision_html(prediction(label_set=("HEM",), flagged=False), FIGURES)
    assert "Not ruled out at 90 % : HEM ." in text(one) and "cannot tell" not in one and "not flagged" in text(one)


@pytest.mark.parametrize(
    ("changes", "figures"),
    [({}, FIGURES), ({"label_set": ("ALL",)}, None), ({"label_set": ("ALL",), "in_domain": False}, FIGURES)],
)
def test_nothing_is_decided_without_figures_or_about_a_rejected_image(changes, figures):
    assert decision_html(prediction(**changes), figures) == ""


def test_explanations_state_what_was_measured_at_the_nearest_noise():
    noisy = prediction(label_set=("ALL",), flagged=True, sigma=9.6)
    shown = decision_html(noisy, FIGURES)
    for part, key in (("prediction_sets", "coverage"), ("operating_point", "sensitivity")):
        (row,) = (row for row in FIGURES[part]["by_sigma"] if row["sigma"] == 10)
        assert f"Measured on held-out images with noise of sigma 10: {100 * row[key]['value']:.1f} %." in shown
    same = decision_html(replace(noisy, sigma=0.0, corruption={"kind": "gaussian_noise", "level": 9.6}), FIGURES)
    assert same == shown
    assert "Measured" not in decision_html(replace(noisy, sigma=101.0), FIGURES)  # beyond what was measured
    blurred = decision_html(prediction(label_set=("ALL",), corruption={"kind": "defocus", "level": 3.0}), FIGURES)
    assert "Measured" not in blurred and "under this corruption is unknown" in text(blurred)


def test_a_rejected_image_says_why():
    rejected = prediction(in_domain=False, warnings=(NOT_VALIDATED, "far less black background than the cells"))
    shown = warnings_html(rejected)
    assert "rejected" in shown and "Far less black background" in shown
    assert shown.index(NOT_VALIDATED) < shown.index("rejected")  # about the model, not a reason


# With models


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    """Both kinds of model, with an out-of-distribution check that tells them apart, and calibration figures."""
    root = tmp_path_factory.mktemp("models")
    found = {}
    for kind, (low, high) in BLACK.items():
        folder = shutil.copytree(shared_model_folder(kind), root / f"tiny-{kind}")
        range_ = {"low": low, "high": high, "meaning": "share of black pixels"}
        write_json(folder / "gate.json", {"schema": 1, "images": f"{kind}s", "statistics": {"black": range_}})
        metrics = json.loads((folder / "metrics.json").read_text())
        write_json(folder / "metrics.json", metrics | {"calibration": bundled_record(kind)["calibration"]})
        found[folder.name] = Classifier.from_pretrained(folder)
    return SingleImageTab(Shelf(found))


def upload(tmp_path, image, name="mine.png"):
    folder = Path(get_upload_folder(), "decided", tmp_path.name)
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name)
    return {"path": str(folder / name), "url": None}


def test_a_cell_given_to_the_field_model_is_opened_in_the_cell_model_by_one_click(tab, tmp_path):
    cell = upload(tmp_path, synthetic_image("ALL", 3))
    _, _, verdict, details, suggestion, *_ = tab.answer(cell, "tiny-field", NOISE, 0, 0)
    assert "rejected" in details and "Operating point" not in details
    assert "doubtful" in verdict["elem_classes"] and suggestion.visible and "Single cell" in suggestion.value
    assert tab.suggested(suggestion.value) == "tiny-cell"
    assert tab.switch(cell, "tiny-cell")[2] == cell["path"]
    _, _, verdict, details, suggestion, *_ = tab.answer(cell, "tiny-cell", NOISE, 0, 0)
    assert "looks like the training images" in details and not suggestion.visible
    assert "Not ruled out at 90 %" in details and "Operating point" in details


def test_labelled_images_of_another_kind_are_counted_by_the_model_that_would_know_them(tab, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with zipfile.ZipFile(tmp_path / "slides.zip", "w") as archive:
        for name in ("ALL/a1/1.png", "HEM/h1/1.png"):
            synthetic_image("Early", len(name)).save(buffer := BytesIO(), "PNG")
            archive.writestr(name, buffer.getvalue())
    answer = ValidationTab(tab.shelf, gr.File()).answer({"path": str(tmp_path / "slides.zip")}, "tiny-cell")
    assert answer["fits_another_model"] == {"tiny-field": 2}


def test_the_assumed_prevalence_moves_prediction_and_curve_and_is_reset_by_another_model(tab, tmp_path, monkeypatch):
    for classifier, own in zip(tab.shelf.classifiers.values(), (0.68, 0.3), strict=True):
        monkeypatch.setattr(classifier, "prevalence", own)
    cell = upload(tmp_path, Image.fromarray(blobs(1)))
    own, same, low = (tab.answer(cell, "tiny-cell", NOISE, 0, 0, share) for share in (0, 0.68, 0.05))
    assert own[2] == same[2] and "assume that 68 % of the images are leukemic" in own[3]
    assert "assume that 5 % of the images are leukemic" in low[3]
    leukemic = "ALL · leukemic B-lymphoblast"
    assert low[2]["value"][leukemic] < own[2]["value"][leukemic]
    curves = [tab.curve(cell, "tiny-cell", NOISE, 0, 0, share) for share in (0, 0.68, 0.05)]
    assert curves[0] == curves[1] != curves[2]
    *_, share = tab.switch(cell, "tiny-field")
    assert (share.value, share.interactive) == (0.3, True)


def test_an_image_that_no_model_accepts_is_rejected_without_a_suggestion(tab, tmp_path):
    half = synthetic_image("Early", 2)
    half.paste((0, 0, 0), (0, 0, half.width // 4, half.height))  # a quarter is black: neither a cell nor a field
    _, _, _, details, suggestion, *_ = tab.answer(upload(tmp_path, half), "tiny-cell", NOISE, 0, 0)
    assert "rejected" in details and not suggestion.visible


def test_a_batch_counts_rejected_images_and_names_the_model_that_they_fit(tab, tmp_path):
    synthetic_image("ALL", 3).save(tmp_path / "cell.png")
    synthetic_image("Early", 3).save(tmp_path / "field.png")
    cell, field = (tab.shelf.classifiers[name] for name in ("tiny-cell", "tiny-field"))
    run = BatchRun(cell, [str(tmp_path)], 0, others=(cell, field))
    list(run.steps())
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
    assert "1 of them fit tiny-field: choose it above" in text(summary_html(run))
    table = [dict(zip(image_table(run)["headers"], row, strict=True)) for row in image_table(run)["data"]]
    assert [row["OOD check"] for row in table] == ["passed", "rejected"]
    assert "fits tiny-field" in table[1]["Remarks"] and table[1]["Not ruled out"] == ""
