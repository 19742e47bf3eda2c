"""Thresholds and calibrations are chosen on other groups than they are tested on, and held-out figures say so."""

import dataclasses
import json

import numpy as np
import pytest
from helpers_shortcut_probes import cell, networks_of

from blastlens import metrics
from blastlens.calibration import Scaling
from blastlens.thresholds import Decision
from train import calibration, threshold_fitting
from train.calibration import Candidate
from train.crossval import HeldOut, calibrated, calibrated_without, cross_fitted
from train.results import HONEST, RUNS, Result

CELLS = ("ALL", "HEM")


def held_out_cells(groups_of_class=(15, 9), images=40, separation=2.0, spread=1.0, shift=0.0, scale=1.0, seed=0):
    """Made-up logits of three folds, without and with noise: what people differ by has `spread`; all that is stated
    is `scale` times too sure, and `shift` too much towards the second class. Returns it with the groups."""
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
    found = HeldOut(
        np.array([0.0, 10.0]), np.arange(len(label)), np.array(label), np.array(fold), logits, np.array(group)
    )
    return found, np.array(group)


@pytest.fixture(scope="module")
def cells():
    return held_out_cells()


def report(held_out, groups):
    return calibration.report(held_out, cross_fitted(held_out), groups, CELLS)


# --- the operating point ----------------------------------------------------------------------------------------------


def test_a_threshold_is_the_one_that_leaves_the_asked_share_below():
    # One image per group: leaving one out of 100 asks for a little more than the plain 5 % quantile.
    scores = np.arange(100) / 100
    threshold = threshold_fitting.sensitive_threshold(scores, np.arange(100), 0.95)
    assert 0.03 <= threshold <= 0.05
    assert (scores >= threshold).mean() >= 0.95


def test_thresholds_found_without_a_group_let_the_asked_share_of_it_through():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), rng.integers(1, 60, 30))
    scores = 1 / (1 + np.exp(-(rng.standard_normal(30)[groups] + rng.standard_normal(len(groups)) + 1)))
    threshold = threshold_fitting.sensitive_threshold(scores, groups, 0.9)
    reached = [(scores[groups == g] >= threshold).mean() for g in range(30)]
    assert np.mean(reached) >= 0.9 and (scores >= threshold).mean() >= 0.9
    # Not lower than it need be: a threshold that many more images reach would be a cheap way out.
    assert min(np.mean(reached), (scores >= threshold).mean()) < 0.97


def test_new_people_are_found_as_often_as_was_asked():
    sensitivity = []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(80), 20)
        scores = rng.standard_normal(80)[groups] + rng.standard_normal(1600)
        threshold = threshold_fitting.sensitive_threshold(scores[:800], groups[:800], 0.9)
        sensitivity.append((scores[800:] >= threshold).mean())
    assert np.mean(sensitivity) == pytest.approx(0.9, abs=0.03)


def test_where_no_share_is_low_enough_the_lowest_score_is_the_threshold():
    assert threshold_fitting.sensitive_threshold(np.array([0.3, 0.2, 0.9]), np.array([0, 0, 0]), 0.95) == 0.2
    assert threshold_fitting.sensitive_threshold(np.array([0.3, 0.8]), np.array([0, 1]), 0.95) == 0.3


def test_images_are_flagged_by_a_threshold_of_the_other_folds(cells):
    held_out, groups = cells
    probabilities = calibrated(held_out, cross_fitted(held_out))
    scores, leukemic = probabilities[0, :, 0], held_out.label == 0
    flagged = np.zeros(len(scores), bool)
    thresholds = []
    for k in range(3):
        others = leukemic & (held_out.fold != k)
        known = calibrated_without(held_out, k)[0, :, 0]
        assert np.isnan(known[held_out.fold == k]).all()
        thresholds.append(threshold_fitting.sensitive_threshold(known[others], groups[others], 0.95))
        flagged[held_out.fold == k] = scores[held_out.fold == k] >= thresholds[k]
    point = threshold_fitting.operating_point(held_out, probabilities, groups, CELLS)
    assert point["sensitivity"].value == pytest.approx(flagged[leukemic].mean())
    assert point["specificity"].value == pytest.approx(1 - flagged[~leukemic].mean())
    assert point["of_folds"] == thresholds
    own = scores >= threshold_fitting.sensitive_threshold(scores[leukemic], groups[leukemic], 0.95)
    assert (own != flagged).any()


def test_a_folds_own_labels_have_no_part_in_its_thresholds(cells):
    held_out, groups = cells
    # Turned round, the labels of fold 0 would change every calibration that they enter.
    turned = dataclasses.replace(held_out, label=np.where(held_out.fold == 0, 1 - held_out.label, held_out.label))
    before, after = (report(h, np.where(h.fold == 0, "x", groups))["operating_point"] for h in (held_out, turned))
    assert before["of_folds"][0] == after["of_folds"][0]
    assert before["of_folds"][1] != after["of_folds"][1]
    same = calibrated_without(held_out, 0) == calibrated_without(turned, 0)
    assert same[:, held_out.fold != 0].all()


def test_with_two_folds_each_is_left_out_of_calibrating_the_other(cells):
    held_out = cells[0].part(cells[0].fold < 2)
    known = calibrated_without(held_out, 1)
    own = held_out.part(held_out.fold == 0)
    scaling = own.scaling()
    np.testing.assert_array_equal(known[:, held_out.fold == 0], [scaling.apply(level) for level in own.logits])


def test_more_sensitivity_costs_specificity(cells):
    held_out, groups = cells
    point = report(held_out, groups)["operating_point"]
    assert point["labels"] == ["ALL"] and point["target"] == 0.95
    assert point["sensitivity"]["value"] >= 0.93 > point["plain"]["sensitivity"]["value"]
    assert point["specificity"]["value"] < point["plain"]["specificity"]["value"]
    assert point["worst_group"]["specificity"]["specificity"] < point["specificity"]["value"]
    assert point["worst_group"]["specificity"]["images"] == 40  # never the group of a single image


def test_an_image_more_likely_leukemic_than_not_is_always_flagged():
    held_out, groups = held_out_cells(separation=8.0)
    point = report(held_out, groups)["operating_point"]
    assert point["threshold"] == 0.5 and point["sensitivity"] == point["plain"]["sensitivity"]


def test_labels_that_say_nothing_of_leukemia_have_no_operating_point(cells):
    held_out, groups = cells
    probabilities = calibrated(held_out, cross_fitted(held_out))
    assert threshold_fitting.operating_point(held_out, probabilities, groups, ("cat", "dog")) is None
    alone = dataclasses.replace(held_out, fold=np.where(held_out.label == 0, 0, held_out.fold))
    assert threshold_fitting.operating_point(alone, probabilities, groups, CELLS) is None


# --- prediction sets --------------------------------------------------------------------------------------------------


def test_a_sets_threshold_gives_every_group_the_same_weight():
    # Nine groups of one sure image each, one of ninety unsure ones: a tenth of the groups, not nine tenths.
    probability = np.concatenate([np.full(9, 0.9), np.full(90, 0.2)])
    groups = np.concatenate([np.arange(9), np.full(90, 9)])
    p = np.stack([probability, 1 - probability], axis=1)
    labels = np.zeros(99, int)
    labels = np.append(labels, 1)
    p, groups = np.vstack([p, [0.5, 0.5]]), np.append(groups, 10)
    assert threshold_fitting.set_thresholds(p, labels, groups, 0.9) == pytest.approx([0.9, 0.5])
    assert threshold_fitting.set_thresholds(p, labels, groups, 0.95) == pytest.approx([0.2, 0.5])


def test_sets_hold_up_on_people_that_are_like_those_they_were_chosen_on(cells):
    held_out, groups = held_out_cells(groups_of_class=(45, 45))
    sets = report(held_out, groups)["prediction_sets"]
    assert sets["holds"] is True and "No label is 5 % short of the 90 % asked" in sets["why"]
    assert sets["coverage"]["value"] == pytest.approx(0.9, abs=0.04)
    assert all(one["value"] == pytest.approx(0.9, abs=0.06) for one in sets["coverage_by_class"].values())
    assert 1 < sets["mean_size"]["value"] < 2
    assert sets["single"]["value"] == pytest.approx(2 - sets["mean_size"]["value"], abs=1e-4)
    assert "no promise for every single one" in sets["why"]


def test_sets_that_miss_a_class_on_other_people_do_not_hold():
    held_out, groups = held_out_cells(groups_of_class=(30, 30))
    # In each fold, another part of the healthy people looks like leukemia than in the folds it is tested with.
    label, fold = held_out.label, held_out.fold
    odd = (label == 1) & (fold == 0)
    logits = held_out.logits.copy()
    logits[:, odd] = np.abs(logits[:, odd]) * [3, -3]
    wrong = dataclasses.replace(held_out, logits=logits)
    found = calibration.report(wrong, {k: Scaling.identity(2) for k in range(3)}, groups, CELLS)
    sets = found["prediction_sets"]
    assert sets["coverage_by_class"]["HEM"]["high"] < 0.9
    assert sets["holds"] is False and "Not every label reaches the 90 % asked" in sets["why"]
    assert sets["worst_group"]["label"] == "HEM"
    assert Decision.from_json(json.loads(json.dumps(found))).labels({"ALL": 0.6, "HEM": 0.4}) is None


def test_with_few_groups_no_guarantee_is_claimed(cells):
    held_out, groups = cells  # 9 healthy people, 6 of whom are left to choose from
    assert threshold_fitting.groups_needed(0.9) == 9 and threshold_fitting.groups_needed(0.95) == 19
    why = report(held_out, groups)["prediction_sets"]["why"]
    assert "need 9 groups" in why and "as few as 6" in why and "not guaranteed" in why


def test_a_label_that_only_one_fold_has_leaves_no_sets(cells):
    held_out, groups = cells
    probabilities = calibrated(held_out, cross_fitted(held_out))
    alone = dataclasses.replace(held_out, fold=np.where(held_out.label == 1, 0, held_out.fold))
    assert threshold_fitting.prediction_sets(alone, probabilities, groups, CELLS) is None


def test_a_reader_of_the_record_decides_as_was_measured(cells):
    held_out, groups = cells
    record = json.loads(json.dumps(report(held_out, groups), allow_nan=False))
    decision = Decision.from_json(record)
    p = calibrated(held_out, cross_fitted(held_out))[0]
    named = [dict(zip(CELLS, one, strict=True)) for one in p.tolist()]
    flagged = np.array([decision.flagged(one) for one in named])
    held = np.array([CELLS[y] in decision.labels(one) for y, one in zip(held_out.label, named, strict=True)])
    # The shipped thresholds are of all folds, those measured of two thirds: nearly the same.
    assert flagged[held_out.label == 0].mean() == pytest.approx(
        record["operating_point"]["sensitivity"]["value"], abs=0.03
    )
    assert held.mean() == pytest.approx(record["prediction_sets"]["coverage"]["value"], abs=0.03)


# --- the record -------------------------------------------------------------------------------------------------------


def test_calibration_removes_what_is_stated_too_surely_and_towards_one_class():
    held_out, groups = held_out_cells(groups_of_class=(30, 30), spread=0.2, shift=2.0, scale=3.0)
    found = report(held_out, groups)
    assert found["ece"]["value"] < 0.05 and found["classwise_ece"]["value"] < 0.05
    assert found["before"]["classwise_ece"]["value"] > 2 * found["classwise_ece"]["value"]  # a temperature alone
    assert [row["sigma"] for row in found["by_sigma"]] == [0, 10]
    assert found["by_sigma"][0]["ece"] == found["ece"]
    assert len(found["risk_coverage"]) == 10
    assert found["aurc"]["low"] <= found["aurc"]["value"] <= found["aurc"]["high"]


def test_measuring_networks_gives_what_their_answers_give():
    # A network that sees nothing but size: leukemic cells are larger, and every fifth is as small as a healthy one.
    rng = np.random.default_rng(0)
    images = {
        "ALL": [cell(18 if i % 5 else 13, (75, 35, 90), 5, rng) for i in range(40)],
        "HEM": [cell(11 + (i % 3), (75, 35, 90), 5, rng) for i in range(40)],
    }

    def larger(view):
        margin = (np.count_nonzero(view.max(axis=2)) - 700) / 60
        return np.array([margin, -margin])

    networks = networks_of("cnmc2019", images, larger)
    found = calibration.measure(networks, [5, 0])
    assert [row["sigma"] for row in found["by_sigma"]] == [0, 5]
    answers = networks.held_out()
    assert found["aurc"]["value"] == pytest.approx(metrics.aurc(answers.label, answers.probabilities), abs=1e-5)
    assert found["ece"]["value"] == pytest.approx(metrics.ece(answers.label, answers.probabilities), abs=1e-5)
    assert found["operating_point"]["plain"]["sensitivity"]["value"] == pytest.approx(0.8)
    json.dumps(found, allow_nan=False)


# --- the choice of a calibration --------------------------------------------------------------------------------------


def test_what_is_used_is_what_the_table_says():
    held_out, groups = held_out_cells(seed=5)
    assert calibration.fitted(held_out, groups, calibration.CURRENT) == cross_fitted(held_out)
    table = calibration.compare(held_out, groups, calibration.CANDIDATES)
    (used,) = (row for row in table["rows"] if row["used"])
    assert used["difference"]["log_loss"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    p = calibrated(held_out, cross_fitted(held_out))
    assert [row["ece"] for row in used["by_sigma"]] == pytest.approx(
        [metrics.ece(held_out.label, q) for q in p], abs=1e-5
    )
    assert calibration.describe(table).count("\n") == len(calibration.CANDIDATES) + 1
    json.dumps(table, allow_nan=False)


@pytest.mark.parametrize("candidate", calibration.CANDIDATES, ids=lambda c: f"{c.scaling}-{c.weights}-{c.noise}")
def test_no_candidate_is_fitted_on_the_fold_it_is_tested_on(cells, candidate):
    held_out, groups = cells
    wrong = np.where(held_out.fold == 0, 1 - held_out.label, held_out.label)
    before = calibration.fitted(held_out, groups, candidate)
    after = calibration.fitted(dataclasses.replace(held_out, label=wrong), groups, candidate)
    assert after[0] == before[0]
    assert (after[1] == before[1]) == (candidate.scaling == "none")


def test_groups_of_any_size_weigh_the_same_where_groups_count():
    labels = np.array([0] * 9 + [0] + [1] * 2)
    groups = np.array(["a"] * 9 + ["b"] + ["c"] * 2)
    by_group = calibration._weights("group", labels, groups)
    assert [by_group[groups == g].sum() for g in "abc"] == pytest.approx([1, 1, 1])
    by_class = calibration._weights("class and group", labels, groups)
    assert [by_class[groups == g].sum() for g in "abc"] == pytest.approx([0.25, 0.25, 0.5])


def test_choosing_among_candidates_is_tested_on_folds_that_had_no_say():
    held_out, groups = held_out_cells(shift=2.0, scale=3.0, spread=0.2)
    candidates = (Candidate("none"), Candidate("temperature and bias"))
    scalings, preferred = calibration.nested(held_out, groups, candidates)
    assert set(preferred.values()) == {candidates[1]}  # which is plainly better here
    assert scalings == calibration.fitted(held_out, groups, candidates[1])
    wrong = dataclasses.replace(held_out, label=np.where(held_out.fold == 0, 1 - held_out.label, held_out.label))
    assert calibration.nested(wrong, groups, candidates)[0][0] == scalings[0]


def test_the_recorded_table_is_that_of_the_recorded_runs():
    recorded = json.loads((RUNS.parent / "calibration_choice.json").read_text())
    for recipe, table in recorded["recipes"].items():
        found = [Result.read(path) for path in sorted((RUNS / recipe / HONEST.replace(":", "-")).glob("*-seed0-*"))]
        held_out = HeldOut.of_results(sorted(found, key=lambda run: run.fold))
        groups = np.array([group for run in found for group in run.groups_of_images])
        assert (table["images"], table["groups"]) == (len(held_out.label), len(set(groups)))
        row = next(row for row in table["rows"] if row["used"])
        p = calibrated(held_out, cross_fitted(held_out))[0]
        for key in ("ece", "classwise_ece", "weighted_f1", "log_loss"):
            assert row["by_sigma"][0][key] == pytest.approx(getattr(metrics, key)(held_out.label, p), abs=2e-5)


def test_the_command_line_compares_and_says_what_is_missing(tmp_path, capsys):
    assert calibration.main(["choose", "--runs", str(tmp_path), "--out", str(tmp_path / "out.json")]) == 2
    assert "no complete cross-validation" in capsys.readouterr().err
    assert not (tmp_path / "out.json").exists()
    arguments = ["measure", str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out.json")]
    assert calibration.main(arguments) == 2
    assert "folds.json" in capsys.readouterr().err
