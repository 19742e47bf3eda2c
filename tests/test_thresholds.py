"""What is decided from probabilities by thresholds from metrics.json."""

import copy

import pytest

from blastlens.errors import BlastlensError
from blastlens.thresholds import Thresholds

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
    assert Thresholds.from_json(CELLS).flagged(cells(leukemia)) is flagged


def test_subtypes_of_leukemia_are_flagged_together():
    thresholds = Thresholds.from_json(FIELDS)
    assert thresholds.flagged({"Benign": 0.4, "Early": 0.2, "Pre": 0.2, "Pro": 0.2})
    assert not thresholds.flagged({"Benign": 0.52, "Early": 0.16, "Pre": 0.16, "Pro": 0.16})


@pytest.mark.parametrize(
    ("leukemia", "labels"),
    [(0.95, ("ALL",)), (0.8, ("ALL", "HEM")), (0.6, ("ALL", "HEM")), (0.4, ("HEM",)), (0.2, ("HEM",))],
)
def test_a_set_holds_the_labels_that_reach_their_thresholds_most_probable_first(leukemia, labels):
    assert Thresholds.from_json(CELLS).label_set(cells(leukemia)) == labels


def test_a_set_is_never_empty():
    uncertain = {"Benign": 0.28, "Early": 0.12, "Pre": 0.3, "Pro": 0.3}
    assert Thresholds.from_json(FIELDS).label_set(uncertain) == ("Pre",)


def test_a_label_without_a_threshold_cannot_be_ruled_out():
    sets = {"asked": 0.9, "holds": True, "thresholds": {"ALL": 0.7}}
    assert Thresholds.from_json({"prediction_sets": sets}).label_set(cells(0.99)) == ("ALL", "HEM")


def test_sets_that_did_not_hold_up_are_not_given():
    record = copy.deepcopy(CELLS)
    record["prediction_sets"]["holds"] = False
    thresholds = Thresholds.from_json(record)
    assert thresholds.label_set(cells(0.6)) is None
    assert thresholds.flagged(cells(0.6))


@pytest.mark.parametrize("record", [{}, {"ece": {"value": 0.1}}, {"operating_point": None}])
def test_a_folder_without_thresholds_flags_nothing_and_has_no_sets(record):
    thresholds = Thresholds.from_json(record)
    assert thresholds.flagged(cells(0.9)) is None and thresholds.label_set(cells(0.9)) is None


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
        Thresholds.from_json(CELLS | changes)
