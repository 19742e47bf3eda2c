"""Images summed up by patient: exact counts, published intervals, and a plain word where there is none; and decisions
about people, whose thresholds other people chose."""

import json
import math
import statistics

import numpy as np
import pytest
from helpers_shortcut_probes import cell, networks_of

from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from blastlens.patients import Answer, by_patient, leukemic_labels, mean_interval, t_quantile, wilson
from train import patient_evaluation
from train.datasets import Row
from train.masks import cell_mask


def test_what_is_leukemia_is_known_of_our_labels_and_of_no_others():
    assert leukemic_labels(["ALL", "HEM"]) == ("ALL",)
    assert leukemic_labels(("Benign", "Early", "Pre", "Pro")) == ("Early", "Pre", "Pro")
    assert leukemic_labels(("cat", "dog")) == ()


@pytest.mark.parametrize(
    ("count", "of", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17:857, Table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_intervals_are_the_published_ones(count, of, low, high):
    interval = wilson(count, of)
    assert interval.value == count / of
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    mirrored = wilson(of - count, of)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((interval.low, interval.high), abs=1e-12)


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (9, 2.2622), (30, 2.0423), (120, 1.9799), (4999, 1.9604)],
)
def test_students_t_is_that_of_the_tables(freedom, quantile):
    assert t_quantile(freedom) == pytest.approx(quantile, abs=1e-4)


def test_a_mean_has_the_interval_of_students_t_cut_off_at_0_and_1():
    values = [0.5, 0.6, 0.7, 0.6]
    half = 3.182446 * statistics.stdev(values) / 2
    interval = mean_interval(values)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)
    assert mean_interval([0.01, 0.99]) == Interval(0.5, 0.0, 1.0)


def test_about_95_of_100_intervals_hold_the_true_mean():
    draws = np.random.default_rng(0).beta(4, 3, (2000, 12))
    intervals = [mean_interval(row) for row in draws]
    held = np.mean([interval.low <= 4 / 7 <= interval.high for interval in intervals])
    assert 0.93 < held < 0.97


def test_a_single_image_has_no_interval():
    (patient,) = by_patient([Answer("1", True, 0.8)])
    assert patient.mean.value == 0.8 and math.isnan(patient.mean.low) and math.isnan(patient.mean.high)


def test_copies_of_one_image_have_no_interval():
    interval = mean_interval([0.9, 0.9, 0.9])
    assert interval.value == pytest.approx(0.9) and math.isnan(interval.low) and math.isnan(interval.high)


def test_a_patient_with_a_name_of_thousands_of_digits_is_put_in_order():
    long = "7" * 5000
    assert [one.subject for one in by_patient([Answer(long, True, 0.8), Answer("8", True, 0.8)])] == ["8", long]


def test_images_are_counted_by_patient_in_natural_order_and_the_unnamed_come_last():
    answers = [
        Answer(None, True, 0.9),
        Answer("H10", False, 0.2),
        Answer("H9", True, 0.8),
        Answer("H9", False, 0.4),
        Answer("H9", True, 0.6),
    ]
    first, second, unnamed = by_patient(answers)
    assert [one.subject for one in (first, second, unnamed)] == ["H9", "H10", None]
    assert (first.images, first.leukemic, first.lowest, first.highest) == (3, 2, 0.4, 0.8)
    assert first.share == wilson(2, 3)
    assert first.mean == mean_interval([0.8, 0.4, 0.6])
    assert (unnamed.images, unnamed.leukemic) == (1, 1)
    assert by_patient([]) == []


def test_the_interval_of_a_mean_over_photographs_is_the_published_one():
    # Three photographs; sums of residuals -0.3, 0.1, 0.2; variance 3/2 (0.09 + 0.01 + 0.04) / 6^2; 2 degrees of
    # freedom.
    values, photographs = [0.4, 0.5, 0.6, 0.7, 0.7, 0.7], ["a", "a", "b", "b", "c", "c"]
    half = 4.302653 * math.sqrt(1.5 * 0.14 / 36)
    interval = mean_interval(values, photographs)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)


def test_images_that_share_nothing_have_the_usual_interval_and_one_photograph_has_none():
    values = [0.4, 0.5, 0.6, 0.9]
    assert mean_interval(values, [1, 2, 3, 4]) == mean_interval(values)
    assert math.isnan(mean_interval(values, ["a"] * 4).low)


def test_cells_that_resemble_their_photograph_make_wider_intervals_that_hold():
    rng = np.random.default_rng(0)
    held = {"photographs": 0, "cells": 0}
    for _ in range(400):
        of_photograph = rng.normal(0.5, 0.1, 15)
        values = np.repeat(of_photograph, 8) + rng.normal(0, 0.05, 120)
        for name, clusters in (("photographs", np.repeat(np.arange(15), 8).tolist()), ("cells", None)):
            interval = mean_interval(values.tolist(), clusters)
            held[name] += interval.low <= 0.5 <= interval.high
    assert 0.92 < held["photographs"] / 400 < 0.98
    assert held["cells"] / 400 < 0.7


def test_a_mean_count_has_the_interval_between_those_of_its_neighbours():
    below, between, above = (wilson(count, 12) for count in (7, 7.5, 8))
    assert below.low < between.low < above.low and below.high < between.high < above.high


def people_of(means: dict[str, float], folds: dict[str, int] | None = None, cells: int = 4) -> tuple:
    """People "H..." healthy, others sick, each with `cells` cells that all have its mean; two photographs each."""
    names = np.repeat(list(means), cells)
    fold = np.array([(folds or {}).get(name, i % 2) for i, name in enumerate(means)]).repeat(cells)
    photographs = [f"{name}-{i % 2}" for i, name in enumerate(names)]
    people = patient_evaluation.People.of(names, np.array([not n.startswith("H") for n in names]), fold, photographs)
    return people, np.repeat(list(means.values()), cells)


def test_the_best_threshold_lies_in_the_middle_of_the_widest_gap_that_does_best():
    sick = np.array([False, False, True, True])
    assert patient_evaluation.best_threshold(np.array([0.1, 0.3, 0.7, 0.8]), sick) == pytest.approx(0.5)
    # One healthy person above all sick ones: no threshold is perfect, the one below the sick is best.
    assert patient_evaluation.best_threshold(np.array([0.1, 0.95, 0.7, 0.8]), sick) == pytest.approx(0.4)
    # Both classes count the same, however many people they have: 0.45 loses one of six sick, 0.1 the only healthy one.
    many = np.array([0.2, 0.3, 0.6, 0.7, 0.8, 0.9, 0.95])
    assert patient_evaluation.best_threshold(
        many, np.array([True, False, True, True, True, True, True])
    ) == pytest.approx(0.45)


def test_nobody_has_a_part_in_the_threshold_they_are_judged_by():
    means = {"1": 0.9, "2": 0.8, "3": 0.85, "4": 0.7, "H1": 0.2, "H2": 0.3, "H3": 0.25, "H4": 0.1}
    people, probability = people_of(means)
    before = patient_evaluation.cross_fitted_thresholds(people, people.means(probability))
    place = list(people.names).index("H2")
    changed = np.where(people.of_image == place, 0.99, probability)
    after = patient_evaluation.cross_fitted_thresholds(people, people.means(changed))
    same_fold = people.fold == people.fold[place]
    assert (before[same_fold] == after[same_fold]).all()
    assert (before[~same_fold] != after[~same_fold]).all()
    # Where each fold has means of its own to choose from, only those of the other people in them count.
    of_folds = {int(k): np.where(people.fold == k, np.nan, people.means(probability)) for k in np.unique(people.fold)}
    assert (patient_evaluation.cross_fitted_thresholds(people, of_folds) == before).all()


def decided(people: patient_evaluation.People, probability: np.ndarray) -> dict:
    thresholds = patient_evaluation.cross_fitted_thresholds(people, people.means(probability))
    return patient_evaluation.decisions(people, probability, thresholds, ("ALL", "HEM"), 0)


def test_everybody_is_called_by_their_mean_and_rates_count_people_not_cells():
    means = {"1": 0.9, "2": 0.8, "3": 0.2, "4": 0.85, "H1": 0.1, "H2": 0.3, "H3": 0.4, "H4": 0.25}
    people, probability = people_of(means)
    found = decided(people, probability)
    assert found["sensitivity"] == wilson(3, 4) and found["specificity"] == wilson(4, 4)
    assert [row["group"] for row in found["patients"] if not row["right"]] == ["3"]
    assert found["auroc"].value == 13 / 16
    assert found["at_half"]["sensitivity"] == wilson(3, 4)


def test_who_lies_at_the_threshold_or_has_one_photograph_is_undecided_and_counted_apart():
    means = {"1": 0.9, "2": 0.8, "3": 0.85, "4": 0.85, "H1": 0.1, "H2": 0.3, "H3": 0.15, "H4": 0.2}
    people, probability = people_of(means)
    probability = probability + np.tile([0.002, 0.001, -0.001, -0.002], 8)
    threshold = patient_evaluation.cross_fitted_thresholds(people, people.means(probability))[
        list(people.names).index("4")
    ]
    of_4 = people.names[people.of_image] == "4"
    probability[of_4] = threshold + np.array([0.2, 0.1, -0.1, -0.15])
    of_h1 = people.names[people.of_image] == "H1"
    people.photograph[of_h1] = "H1-0"
    found = decided(people, probability)
    called = {row["group"]: row["called"] for row in found["patients"]}
    assert [name for name, call in called.items() if call == "undecided"] == ["4", "H1"]
    assert found["undecided"] == 2 and found["decided"]["people"] == 6
    assert found["decided"]["sensitivity"] == wilson(3, 3) and found["sensitivity"] == wilson(4, 4)
    assert called["1"] == "ALL" and called["H2"] == "HEM"


def test_more_cells_tell_more_and_all_cells_tell_what_the_decision_says():
    rng = np.random.default_rng(0)
    means = {str(i): 0.62 for i in range(8)} | {f"H{i}": 0.38 for i in range(8)}
    people, probability = people_of(means, cells=60)
    probability = (probability + rng.normal(0, 0.3, len(probability))).clip(0, 1)
    thresholds = patient_evaluation.cross_fitted_thresholds(people, people.means(probability))
    found = patient_evaluation.by_cells(people, probability, thresholds, numbers=(1, 5, 50, 60), draws=100)
    sensitivity = [row["sensitivity"].value for row in found]
    assert sensitivity[0] + 0.1 < sensitivity[1] and sensitivity[1] + 0.1 < sensitivity[2]
    assert [row["people_with_fewer"] for row in found] == [0, 0, 0, 16]
    whole = decided(people, probability)
    assert found[-1]["sensitivity"] == whole["sensitivity"] and found[-1]["specificity"] == whole["specificity"]
    five = [patient_evaluation.by_cells(people, probability, thresholds, numbers=(5,)) for _ in range(2)]
    assert five[0] == five[1]


def test_an_area_under_the_curve_has_a_width_even_where_the_ranking_is_perfect():
    perfect, worst = patient_evaluation.auroc_interval(1.0, 25, 10), patient_evaluation.auroc_interval(0.0, 25, 10)
    assert perfect.high == 1 and 0.8 < perfect.low < 0.95
    assert (worst.low, worst.high) == pytest.approx((0, 1 - perfect.low), abs=1e-9)
    few = patient_evaluation.auroc_interval(1.0, 5, 3)
    assert few.low < perfect.low
    # Its ends are where the measured area is 1.96 standard deviations away, by Hanley and McNeil's variance.
    interval = patient_evaluation.auroc_interval(0.9, 25, 10)
    for end in (interval.low, interval.high):
        spread = 1 + 16.5 * (1 - end) / (2 - end) + 16.5 * end / (1 + end)
        assert abs(0.9 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) * spread / 250), abs=1e-6)


def test_most_intervals_of_areas_hold_the_true_one():
    rng = np.random.default_rng(1)
    true = 0.5 * (1 + math.erf(1.5 / 2))  # of normal scores whose means are 1.5 apart
    held = 0
    for _ in range(500):
        sick, healthy = rng.normal(1.5, 1, 25), rng.normal(0, 1, 10)
        interval = patient_evaluation.auroc_interval(float((sick[:, None] > healthy).mean()), 25, 10)
        held += interval.low <= true <= interval.high
    assert 0.92 < held / 500 <= 0.99


def test_a_cells_photograph_is_read_off_its_name():
    def named(name: str) -> str:
        return patient_evaluation.photograph_of(Row(name, "ALL", "11", "11", "", "0"))

    assert named("fold_0/all/UID_11_10_1_all.webp") == named("fold_0/all/UID_11_10_7_all.webp") == "11_10"
    assert named("fold_0/hem/UID_H3_10_1_hem.webp") == "H3_10"
    assert named("drawn-all-0-3.png") == "drawn-all-0-3.png"


def test_people_in_two_classes_or_folds_and_too_few_of_them_are_refused():
    with pytest.raises(BlastlensError, match="one class"):
        patient_evaluation.People.of(np.array(["a", "a"]), np.array([True, False]), np.array([0, 0]), ["1", "2"])
    with pytest.raises(BlastlensError, match="one fold"):
        patient_evaluation.People.of(np.array(["a", "a"]), np.array([True, True]), np.array([0, 1]), ["1", "2"])
    people, probability = people_of({"1": 0.9, "H1": 0.1, "2": 0.8}, {"1": 0, "H1": 1, "2": 1})
    with pytest.raises(BlastlensError, match="sick and healthy"):
        patient_evaluation.cross_fitted_thresholds(people, people.means(probability))


def small_cells(subjects: bool = True):
    images = {
        label: [
            cell(radius + 2 * np.random.default_rng(i).uniform(-1, 1), (75, 35, 90), 5, np.random.default_rng(i))
            for i in range(16)
        ]
        for label, radius in (("ALL", 17), ("HEM", 11))
    }
    rule = lambda view: np.array([1, -1]) * (cell_mask(view).sum() - 600) / 200  # noqa: E731
    return networks_of("cnmc2019", images, rule, subjects)


def test_a_network_is_measured_on_people_at_every_sigma():
    record = json.loads(json.dumps(patient_evaluation.measure(small_cells(), (0, 10), progress=False), allow_nan=False))
    assert record["sensitivity"]["value"] == record["specificity"]["value"] == record["auroc"]["value"] == 1
    assert len(record["patients"]) == 8 and {row["images"] for row in record["patients"]} == {4}
    assert [row["sigma"] for row in record["by_sigma"]] == [0, 10]
    clean, noisy = record["by_sigma"]
    assert clean["sensitivity"] == record["sensitivity"]
    # Noise lights the black around a cell, which this network takes for more cell.
    assert noisy["sensitivity"]["value"] == 1 and noisy["specificity"]["value"] == 0
    assert record["without_network"][0]["name"] == "cell area" and record["without_network"][0]["auroc"]["value"] == 1
    assert "sensitivity 1.000" in patient_evaluation.described(record)


def test_images_of_nobody_known_are_not_decided_about():
    assert patient_evaluation.measure(small_cells(subjects=False), (0,), progress=False) is None
    fields = {label: [np.zeros((64, 64, 3), np.uint8)] * 8 for label in ("Benign", "Early", "Pre", "Pro")}
    assert (
        patient_evaluation.measure(networks_of("aria2021", fields, lambda view: np.zeros(4)), (0,), progress=False)
        is None
    )


def test_a_folder_without_networks_ends_in_one_sentence(tmp_path, capsys):
    assert patient_evaluation.main([str(tmp_path), "--data", str(tmp_path)]) == 2
    assert "has no folds.json" in capsys.readouterr().err
