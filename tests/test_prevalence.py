"""The share of leukemic images that probabilities assume: shifted exactly, refused in one sentence, not in flags."""

import json
import shutil

import numpy as np
import pytest
from helpers_models import blobs, shared_model_folder, write_json

from blastlens import BlastlensError, Classifier

OWN = 0.68


@pytest.fixture(params=["cell", "field"])
def classifier(request, tmp_path):
    return Classifier.from_pretrained(stating(tmp_path, OWN, request.param))


def stating(tmp_path, prevalence, kind="cell"):
    """A folder that states its prevalence, and has an operating point and prediction sets."""
    folder = shutil.copytree(shared_model_folder(kind), tmp_path / kind)
    record = json.loads((folder / "metrics.json").read_text())
    labels = json.loads((folder / "config.json").read_text())["label_names"]
    record["calibration"] = {
        "prevalence": prevalence,
        "operating_point": {"labels": ["ALL"] if kind == "cell" else labels[1:], "threshold": 0.5},
        "prediction_sets": {"asked": 0.9, "holds": True, "thresholds": dict.fromkeys(labels, 0.2)},
    }
    write_json(folder / "metrics.json", record)
    return folder


def leukemic(classifier, prediction):
    healthy = {"HEM", "Benign"}
    return sum(p for label, p in prediction.probabilities.items() if label not in healthy)


@pytest.mark.parametrize("prevalence", [0.5, 0.01, 0.99])
def test_the_odds_of_leukemia_change_by_those_of_the_prevalence(classifier, prevalence):
    for seed in range(4):
        own, shifted = (classifier.predict(blobs(seed), prevalence=p) for p in (None, prevalence))
        factor = (prevalence / (1 - prevalence)) / (OWN / (1 - OWN))
        before, after = (leukemic(classifier, one) for one in (own, shifted))
        assert after / (1 - after) == pytest.approx(factor * before / (1 - before), rel=1e-9)
        assert (own.prevalence, shifted.prevalence) == (OWN, prevalence)
        assert shifted.logits == own.logits
        assert shifted.label == max(shifted.probabilities, key=shifted.probabilities.get)


def test_what_is_flagged_or_not_ruled_out_does_not_depend_on_the_assumed_prevalence(classifier):
    for seed in range(6):
        answers = [classifier.predict(blobs(seed), prevalence=p) for p in (None, 0.001, 0.999)]
        assert len({(one.flagged, one.label_set) for one in answers}) == 1
        assert answers[0].flagged is not None and answers[0].label_set is not None
    assert len({one.label for one in answers}) > 1


def test_streams_and_curves_are_shifted_alike(classifier):
    one = classifier.predict(blobs(2), sigma=5, prevalence=0.1)
    (streamed,) = classifier.predict_each([blobs(2)], sigma=5, prevalence=0.1)
    curves = (
        classifier.noise_curve(blobs(2), [0, 5], prevalence=0.1),
        classifier.curve(blobs(2), levels=[0, 5], prevalence=0.1),
    )
    assert streamed.probabilities == pytest.approx(one.probabilities, abs=1e-5)
    for curve in curves:
        np.testing.assert_allclose(curve.probabilities[1], list(one.probabilities.values()), atol=1e-5)


@pytest.mark.parametrize("prevalence", [0, 1, -0.1, 1.5, float("nan"), True, "half"])
def test_a_prevalence_that_is_no_share_is_refused_in_one_sentence(classifier, prevalence):
    for ask in (classifier.predict, classifier.curve, classifier.noise_curve):
        with pytest.raises(BlastlensError, match=r"a share between 0 and 1, such as 0\.5, is accepted"):
            ask(blobs(1), prevalence=prevalence)
    with pytest.raises(BlastlensError):
        classifier.predict_each([blobs(1)], prevalence=prevalence)  # before the first image is looked at


def test_a_model_that_states_no_prevalence_refuses_another_one():
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    assert classifier.predict(blobs(1)).prevalence is None
    with pytest.raises(BlastlensError, match=r"tiny-cell does not state the prevalence .* leave prevalence out"):
        classifier.predict(blobs(1), prevalence=0.5)
