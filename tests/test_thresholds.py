"""What is decided from probabilities by thresholds from metrics.json."""

import copy

import pytest

from blastlens.errors import BlastlensError
from blastlens.thresholds import Decision

CELLS = {
    "operating_point": {"labels": ["ALL"], "threshold": 0.4},
    "prediction_sets": {"asked": 0.9, "holds": True, "thresholds": {"ALL": 0.7, "HEM": 0.1}},
}
FIELDS = {
    "operating_point": {"labels": ["Early", "Pre", "Pro"], "threshold": 0.5},
    "prediction_sets": {
        "asked": 0.9,
        "holds": True,
        "thresholds": {"Benign": 0.3, "Early": 0.2, "Pre": 0.95, "Pro": 0.5},
    },
}


def cells(leukemia):
    return {"ALL": leukemia, "HEM": 1 - leukemia}


@pytest.mark.parametrize(("leukemia", "flagged"), [(0.39, False), (0.4, True), (0.9, True)])
def test_an_image_is_flagged_from_the_threshold_on(leukemia, flagged):
    assert Decision.from_json(CELLS).flagged(cells(leukemia)) is flagged


def test_subtypes_of_leukemia_are_flagged_together():
    decision = Decision.from_json(FIELDS)
    assert decision.flagged({"Benign": 0.4, "Early": 0.2, "Pre": 0.2, "Pro": 0.2})
    assert not decision.flagged({"Benign": 0.52, "Early": 0.16, "Pre": 0.16, "Pro": 0.16})


@pytest.mark.parametrize(
    ("leukemia", "labels"),
    [(0.95, ("ALL",)), (0.8, ("ALL", "HEM")), (0.6, ("ALL", "HEM")), (0.4, ("HEM",)), (0.2, ("HEM",))],
)
def test_a_set_holds_the_labels_that_reach_their_thresholds_most_probable_first(leukemia, labels):
    assert Decision.from_json(CELLS).labels(cells(leukemia)) == labels


def test_a_set_is_never_empty():
    uncertain = {"Benign": 0.28, "Early": 0.12, "Pre": 0.3, "Pro": 0.3}
    assert Decision.from_json(FIELDS).labels(uncertain) == ("Pre",)


def test_a_label_without_a_threshold_cannot_be_ruled_out():
    sets = {"asked": 0.9, "holds": True, "thresholds": {"ALL": 0.7}}
    assert Decision.from_json({"prediction_sets": sets}).labels(cells(0.99)) == ("ALL", "HEM")


def test_sets_that_did_not_hold_up_are_not_given():
    record = copy.deepcopy(CELLS)
    record["prediction_sets"]["holds"] = False
    decision = Decision.from_json(record)
    assert decision.labels(cells(0.6)) is None
    assert decision.flagged(cells(0.6))


@pytest.mark.parametrize("record", [None, {}, {"ece": {"value": 0.1}}, {"operating_point": None}])
def test_a_folder_without_figures_decides_nothing(record):
    assert Decision.from_json(record) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"operating_point": {"labels": ["ALL"]}},
        {"operating_point": {"labels": ["ALL"], "threshold": True}},
        {"operating_point": {"labels": [1], "threshold": 0.4}},
        {"operating_point": {"labels": ["ALL"], "threshold": float("nan")}},
        {"prediction_sets": {"holds": True, "asked": 0.9, "thresholds": [0.7, 0.1]}},
        {"prediction_sets": {"holds": True, "asked": 0.9, "thresholds": {"ALL": 1.5}}},
        {"prediction_sets": {"asked": 0.9, "thresholds": {"ALL": 0.5}}},
    ],
)
def test_thresholds_that_cannot_be_understood_are_refused(changes):
    with pytest.raises(BlastlensError, match=r"metrics\.json cannot be read"):
        Decision.from_json(CELLS | changes)
