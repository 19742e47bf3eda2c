"""Thresholds and calibrations are chosen on other groups than they are tested on."""

import dataclasses
import json

import numpy as np
import pytest
from test_metrics import aurc

from blastlens.thresholds import Thresholds
from train import calibration_evaluation as calibration
from train.held_out import HeldOut, calibrated, calibrated_without, cross_fitted, reliability_of

CELLS = ("ALL", "HEM")


def held_out_cells(groups_of_class=(15, 9), images=40, separation=2.0, spread=1.0, shift=0.0, scale=1.0, seed=0):
    """Synthetic logits of three folds, without and with noise. Groups differ by `spread`; logits are `scale` times too
    large, and `shift` too much towards the second class."""
    rng = np.random.default_rng(seed)
    label, fold, group, margin = [], [], [], []
    for c, n in enumerate(groups_of_class):
        for g in range(n):
            size = images if g else 1  # the first of each class has a single image
            own = spread * rng.standard_normal()
            label += [c] * size
            fold += [g % 3] * size
            group += [f"{CELLS[c]}{g}"] * size
            margin.append((1 - 2 * c) * separation + own + 1.5 * rng.standard_normal(size))
    clean = np.concatenate(margin)
    levels = [scale * m - shift for m in (clean, clean + rng.standard_normal(len(clean)))]
    logits = np.stack([np.stack([m / 2, -m / 2], axis=1) for m in levels])
    columns = (np.array(label), np.array(fold), logits, np.array(group), np.zeros(len(label), int))
    return HeldOut(np.array([0.0, 10.0]), np.arange(len(label)), *columns)


@pytest.fixture(scope="module")
def cells():
    return held_out_cells()


def measure(held_out):
    return calibration.measure(held_out, CELLS)


# The operating point


def test_thresholds_chosen_without_a_group_let_the_target_share_of_it_through():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), rng.integers(1, 60, 30))
    scores = 1 / (1 + np.exp(-(rng.standard_normal(30)[groups] + rng.standard_normal(len(groups)) + 1)))
    threshold = calibration.sensitive_threshold(scores, groups, 0.9)
    reached = [(scores[groups == g] >= threshold).mean() for g in range(30)]
    assert np.mean(reached) >= 0.9 and (scores >= threshold).mean() >= 0.9
    # Not lower than necessary, either.
    assert min(np.mean(reached), (scores >= threshold).mean()) < 0.97
    assert calibration.sensitive_threshold(np.array([0.3, 0.2, 0.9]), np.array([0, 0, 0]), 0.95) == 0.2


def test_images_are_flagged_by_a_threshold_of_the_other_folds(cells):
    probabilities = calibrated(cells, cross_fitted(cells))
    scores, leukemic = probabilities[0, :, 0], cells.label == 0
    flagged, thresholds = np.zeros(len(scores), bool), []
    for k in range(3):
        others = leukemic & (cells.fold != k)
        known = calibrated_without(cells, k)[0, :, 0]
        assert np.isnan(known[cells.fold == k]).all()
        thresholds.append(calibration.sensitive_threshold(known[others], cells.group[others], 0.95))
        flagged[cells.fold == k] = scores[cells.fold == k] >= thresholds[k]
    point = calibration.operating_point(cells, probabilities, CELLS)
    assert point["sensitivity"].value == pytest.approx(flagged[leukemic].mean())
    assert point["specificity"].value == pytest.approx(1 - flagged[~leukemic].mean())
    assert point["of_folds"] == thresholds


def test_a_folds_own_labels_have_no_part_in_its_calibration_and_thresholds(cells):
    # Inverted, the labels of fold 0 would change every calibration that they enter.
    label, group = np.where(cells.fold == 0, 1 - cells.label, cells.label), np.where(cells.fold == 0, "x", cells.group)
    inverted = dataclasses.replace(cells, label=label)
    for by_donor, bias in ((True, True), (False, True), (False, False)):
        before, after = (cross_fitted(h, by_donor, bias) for h in (cells, inverted))
        assert before[0] == after[0] and before[1] != after[1]
    before, after = (measure(dataclasses.replace(h, group=group))["operating_point"] for h in (cells, inverted))
    assert before["of_folds"][0] == after["of_folds"][0] and before["of_folds"][1] != after["of_folds"][1]
    same = calibrated_without(cells, 0) == calibrated_without(inverted, 0)
    assert same[:, cells.fold != 0].all()


def test_more_sensitivity_costs_specificity(cells):
    point = measure(cells)["operating_point"]
    assert point["labels"] == ["ALL"] and point["target"] == 0.95
    assert point["sensitivity"]["value"] >= 0.93 > point["plain"]["sensitivity"]["value"]
    assert point["specificity"]["value"] < point["plain"]["specificity"]["value"]
    assert point["worst_group"]["specificity"]["specificity"] < point["specificity"]["value"]
    assert point["worst_group"]["specificity"]["images"] == 40  # never the group of a single image


def test_without_leukemic_labels_or_folds_there_is_no_operating_point(cells):
    probabilities = calibrated(cells, cross_fitted(cells))
    assert calibration.operating_point(cells, probabilities, ("cat", "dog")) is None
    alone = dataclasses.replace(cells, fold=np.where(cells.label == 0, 0, cells.fold))
    assert calibration.operating_point(alone, probabilities, CELLS) is None
    assert calibration.prediction_sets(alone, probabilities, CELLS) is None


# Prediction sets


def test_a_sets_threshold_gives_every_group_the_same_weight():
    # Nine groups of one confident image each, one of ninety uncertain ones: a tenth of the groups, not nine tenths.
    probability = np.concatenate([np.full(9, 0.9), np.full(90, 0.2), [0.5]])
    groups, labels = np.concatenate([np.arange(9), np.full(90, 9), [10]]), np.append(np.zeros(99, int), 1)
    p = np.stack([probability, 1 - probability], axis=1)
    assert calibration.set_thresholds(p, labels, groups, 0.9) == pytest.approx([0.9, 0.5])
    assert calibration.set_thresholds(p, labels, groups, 0.95) == pytest.approx([0.2, 0.5])


def test_sets_hold_on_groups_like_those_they_were_chosen_on():
    sets = measure(held_out_cells(groups_of_class=(45, 45)))["prediction_sets"]
    assert sets["holds"] is True
    assert sets["coverage"]["value"] == pytest.approx(0.9, abs=0.04)
    assert all(one["value"] == pytest.approx(0.9, abs=0.06) for one in sets["coverage_by_class"].values())
    assert sets["single"]["value"] == pytest.approx(2 - sets["mean_size"]["value"], abs=1e-4)


def test_sets_that_miss_a_class_on_other_groups_do_not_hold():
    held_out = held_out_cells(groups_of_class=(30, 30))
    # In each fold, another part of the healthy groups looks like leukemia than in the folds it is tested with.
    odd = (held_out.label == 1) & (held_out.fold == 0)
    logits = held_out.logits.copy()
    logits[:, odd] = np.abs(logits[:, odd]) * [3, -3]
    found = measure(dataclasses.replace(held_out, logits=logits))
    sets = found["prediction_sets"]
    assert sets["coverage_by_class"]["HEM"]["high"] < 0.9
    assert sets["holds"] is False and sets["worst_group"]["label"] == "HEM"
    assert Thresholds.from_json(json.loads(json.dumps(found))).label_set({"ALL": 0.6, "HEM": 0.4}) is None


def test_with_few_groups_no_guarantee_is_claimed(cells):
    assert calibration.groups_needed(0.9) == 9 and calibration.groups_needed(0.95) == 19
    why = measure(cells)["prediction_sets"]["why"]  # 9 healthy groups, 6 of which are left to choose from
    assert "need 9 groups" in why and "as few as 6" in why


# The record


def test_a_reader_of_the_record_decides_as_was_measured(cells):
    record = json.loads(json.dumps(measure(cells), allow_nan=False))
    thresholds = Thresholds.from_json(record)
    p = calibrated(cells, cross_fitted(cells))[0]
    named = [dict(zip(CELLS, one, strict=True)) for one in p.tolist()]
    flagged = np.array([thresholds.flagged(one) for one in named])
    held = np.array([CELLS[y] in thresholds.label_set(one) for y, one in zip(cells.label, named, strict=True)])
    # The shipped thresholds are of all folds, those measured of two thirds: nearly the same.
    sensitivity = record["operating_point"]["sensitivity"]["value"]
    assert flagged[cells.label == 0].mean() == pytest.approx(sensitivity, abs=0.03)
    assert held.mean() == pytest.approx(record["prediction_sets"]["coverage"]["value"], abs=0.03)
    assert record["aurc"]["value"] == pytest.approx(aurc(cells.label, p), abs=1e-5)


def test_calibration_corrects_overconfidence_and_a_shift_towards_one_class():
    found = measure(held_out_cells(groups_of_class=(30, 30), spread=0.2, shift=2.0, scale=3.0))
    assert found["ece"]["value"] < 0.05 and found["classwise_ece"]["value"] < 0.05
    assert found["before"]["classwise_ece"]["value"] > 2 * found["classwise_ece"]["value"]  # a temperature alone
    assert [row["sigma"] for row in found["by_sigma"]] == [0, 10]
    assert found["by_sigma"][0]["ece"] == found["ece"]


def test_errors_of_opposite_sign_show_in_the_reliability_by_class():
    # Stated 0.8 throughout: predictions of the first class are always right, of the second in three of five.
    probabilities = np.array([[0.8, 0.2]] * 50 + [[0.2, 0.8]] * 50)
    labels = np.array([0] * 50 + [1] * 30 + [0] * 20)
    found = reliability_of(labels, probabilities, [str(i // 10) for i in range(100)], ("a", "b"))
    (whole,) = found["reliability"]
    assert whole["accuracy"] == pytest.approx(0.8) == whole["confidence"]
    assert [bins[0]["accuracy"] for bins in found["reliability_by_answer"].values()] == pytest.approx([1, 0.6])
    assert found["classwise_ece"]["value"] == pytest.approx(0.2)
    never = reliability_of(np.array([0, 1]), np.array([[0.9, 0.1]] * 2), ["x", "y"], ("a", "b"))
    assert never["reliability_by_answer"]["b"] == [] and len(never["reliability_by_answer"]["a"]) == 1
