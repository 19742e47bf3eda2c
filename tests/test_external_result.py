"""The external validation of a model in one sentence: what it says, where it stands first, what is refused."""

import json
import shutil

import pytest
from helpers_models import blobs, shared_model_folder, write_json

from blastlens import BlastlensError, Classifier
from blastlens.external_result import NOT_VALIDATED, of_image, sentence
from blastlens.hub import fetch
from blastlens.model_folder import ModelFolder, bundled_models

WEIGHTS = "0" * 64
CELLS = {
    "images": 328,
    "healthy_donors": 12,
    "healthy_images": 1910,
    "sha256": WEIGHTS,
    "metrics": {"specificity": {"value": 0.2147, "low": None}, "worst_specificity": 0.07},
    "per_subject": [{"donor": "H9", "positive": False, "images": 46, "rate": 0.9}],
    "baseline": {"name": "cell area", "metrics": {"auroc": {"value": 0.8}}},
}
FIELDS = {"images": 789, "unit": "slide clusters", "sha256": WEIGHTS, "metrics": {"macro_f1": {"value": 0.9432}}}


def with_block(tmp_path, block, kind="cell"):
    folder = shutil.copytree(shared_model_folder(kind), tmp_path / "validated")
    record = json.loads((folder / "metrics.json").read_text())
    write_json(folder / "metrics.json", record | {"external": block})
    return folder


def test_cells_are_told_by_how_many_healthy_ones_were_classified_as_leukemic():
    told = "External validation: 79 % of 1,910 healthy cells from 12 new donors were classified as leukemic."
    assert sentence({"external": CELLS}) == told


def test_fields_are_told_by_macro_f1_beside_that_of_the_cross_validation():
    headline = {"protocol": "group-kfold:3", "macro_f1": {"value": 0.9744}}
    told = "External validation: macro F1 0.943 on 789 images of new slide clusters"
    assert sentence({"external": FIELDS, "headline": headline}) == f"{told} (cross-validation 0.974)."
    assert sentence({"external": FIELDS, "headline": headline | {"protocol": "image-80-10-10"}}) == f"{told}."


@pytest.mark.parametrize("metrics", [{}, {"external": None}, {"protocols": []}])
def test_a_model_without_the_block_is_labelled(metrics):
    assert sentence(metrics) == NOT_VALIDATED == "Not externally validated."


@pytest.mark.parametrize(
    "changed",
    [
        {"sha256": None},
        {"metrics": {}},
        {"metrics": {"specificity": {"value": 1.2}}},
        {"metrics": {"specificity": {"value": None}}},
        {"metrics": {"specificity": "all"}},
        {"healthy_images": "many"},
        {"healthy_donors": 0},
        {"per_subject": [{"donor": "H9"}]},
        {"baseline": {"metrics": {"auroc": float("nan")}}},
        {"caveat": 3},
    ],
)
def test_a_malformed_block_is_refused_in_one_sentence(changed, tmp_path):
    folder = with_block(tmp_path, CELLS | changed)
    with pytest.raises(BlastlensError, match=r"external in metrics\.json cannot be read .* --external DIR"):
        ModelFolder.load(folder)


def test_a_block_of_other_weights_is_refused():
    assert "79 %" in sentence({"external": CELLS, "sha256": {"safetensors": WEIGHTS}})
    with pytest.raises(BlastlensError, match="its sha256 is that of other weights"):
        sentence({"external": CELLS, "sha256": {"safetensors": "1" * 64}})


@pytest.mark.parametrize("kind", ["cell", "field"])
def test_the_sentence_is_the_first_warning_of_every_prediction(kind, tmp_path):
    block = CELLS if kind == "cell" else FIELDS
    classifier = Classifier.from_pretrained(with_block(tmp_path, block, kind))
    grey = blobs(1)[..., 0]
    for prediction in (classifier.predict(blobs(1)), *classifier.predict([grey], sigma=3)):
        assert prediction.warnings[0] == sentence({"external": block})
    assert [text.partition(";")[0] for text in of_image(prediction.warnings)] == ["image has no colour"]


@pytest.mark.parametrize("name", bundled_models())
def test_bundled_models_say_first_how_they_were_externally_validated(name):
    folder = fetch(name)
    prediction = Classifier(folder).predict(blobs(1))
    assert prediction.warnings[0] == sentence(folder.metrics)
    assert prediction.prevalence == folder.metrics["calibration"]["prevalence"]
    assert 0 < prediction.prevalence < 1
