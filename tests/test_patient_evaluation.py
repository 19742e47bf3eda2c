"""Images summed up by patient: exact counts and published intervals; classified patients, by thresholds of others."""

import json
import math
import statistics

import numpy as np
import pytest
from helpers_fold_networks import cell, networks_of
from scipy.stats import t

from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from blastlens.patients import Answer, by_patient, mean_interval, t_quantile, wilson
from train import patient_evaluation
from train.datasets import Row
from train.masks import cell_mask


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


def test_a_mean_has_the_interval_of_students_t_cut_off_at_0_and_1():
    for freedom in (1, 2, 3, 9, 30, 120, 4999):
        assert t_quantile(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=1e-4)
    values = [0.5, 0.6, 0.7, 0.6]
    half = 3.182446 * statistics.stdev(values) / 2
    interval = mean_interval(values)
    assert (interval.value, interval.low, interval.high) == pytest.approx((0.6, 0.6 - half, 0.6 + half), abs=1e-6)
    assert mean_interval([0.01, 0.99]) == Interval(0.5, 0.0, 1.0)
    copies = mean_interval([0.9, 0.9, 0.9])
    assert copies.value == pytest.approx(0.9) and math.isnan(copies.low) and math.isnan(copies.high)


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
    assert mean_interval(values, range(6)) == mean_interval(values)
    assert math.isnan(mean_interval(values, ["a"] * 6).low)


def cohort_of(means: dict[str, float], folds: dict[str, int] | None = None, cells: int = 4) -> tuple:
    """Patients "H..." healthy, others leukemic, each with `cells` cells that all have its mean, on two photographs."""
    names = np.repeat(list(means), cells)
    fold = np.array([(folds or {}).get(name, i % 2) for i, name in enumerate(means)]).repeat(cells)
    photographs = [f"{name}-{i % 2}" for i, name in enumerate(names)]
    leukemic = np.array([not name.startswith("H") for name in names])
    return patient_evaluation.Cohort.of(names, leukemic, fold, photographs), np.repeat(list(means.values()), cells)


def classified(cohort: patient_evaluation.Cohort, probability: np.ndarray) -> dict:
    thresholds = patient_evaluation.cross_fitted_thresholds(cohort, cohort.means(probability))
    return patient_evaluation.classified(cohort, probability, thresholds, ("ALL", "HEM"), 0)


@pytest.mark.parametrize(
    ("means", "leukemic", "threshold"),
    [
        ([0.1, 0.3, 0.7, 0.8], [0, 0, 1, 1], 0.5),
        ([0.1, 0.95, 0.7, 0.8], [0, 0, 1, 1], 0.4),  # one healthy patient above all leukemic ones
        # Both classes have the same weight: 0.45 loses one of six leukemic patients, 0.1 the only healthy one.
        ([0.2, 0.3, 0.6, 0.7, 0.8, 0.9, 0.95], [1, 0, 1, 1, 1, 1, 1], 0.45),
    ],
)
def test_the_best_threshold_lies_in_the_middle_of_the_widest_best_gap(means, leukemic, threshold):
    found = patient_evaluation.best_threshold(np.array(means), np.array(leukemic, bool))
    assert found == pytest.approx(threshold)


def test_a_patient_has_no_part_in_its_own_threshold():
    means = {"1": 0.9, "2": 0.8, "3": 0.85, "4": 0.7, "H1": 0.2, "H2": 0.3, "H3": 0.25, "H4": 0.1}
    cohort, probability = cohort_of(means)
    before = patient_evaluation.cross_fitted_thresholds(cohort, cohort.means(probability))
    place = list(cohort.names).index("H2")
    changed = np.where(cohort.of_image == place, 0.99, probability)
    after = patient_evaluation.cross_fitted_thresholds(cohort, cohort.means(changed))
    same_fold = cohort.fold == cohort.fold[place]
    assert (before[same_fold] == after[same_fold]).all() and (before[~same_fold] != after[~same_fold]).all()
    # With means of its own for each fold, only those of the other patients in them count.
    of_folds = {int(k): np.where(cohort.fold == k, np.nan, cohort.means(probability)) for k in np.unique(cohort.fold)}
    assert (patient_evaluation.cross_fitted_thresholds(cohort, of_folds) == before).all()


def test_rates_count_patients_not_cells():
    found = classified(
        *cohort_of({"1": 0.9, "2": 0.8, "3": 0.2, "4": 0.85, "H1": 0.1, "H2": 0.3, "H3": 0.4, "H4": 0.25})
    )
    assert found["sensitivity"] == found["at_half"]["sensitivity"] == wilson(3, 4)
    assert found["specificity"] == wilson(4, 4) and found["auroc"].value == 13 / 16
    assert [row["group"] for row in found["patients"] if not row["right"]] == ["3"]


def test_patients_at_the_threshold_or_with_one_photograph_are_undecided():
    means = {"1": 0.9, "2": 0.8, "3": 0.85, "4": 0.85, "H1": 0.1, "H2": 0.3, "H3": 0.15, "H4": 0.2}
    cohort, probability = cohort_of(means)
    probability = probability + np.tile([0.002, 0.001, -0.001, -0.002], 8)
    thresholds = patient_evaluation.cross_fitted_thresholds(cohort, cohort.means(probability))
    of_4, of_h1 = (cohort.names[cohort.of_image] == name for name in ("4", "H1"))
    probability[of_4] = thresholds[list(cohort.names).index("4")] + np.array([0.2, 0.1, -0.1, -0.15])
    cohort.photograph[of_h1] = "H1-0"
    found = classified(cohort, probability)
    called = {row["group"]: row["called"] for row in found["patients"]}
    assert [name for name, call in called.items() if call == "undecided"] == ["4", "H1"]
    assert found["undecided"] == 2 and found["decided"]["people"] == 6
    assert found["decided"]["sensitivity"] == wilson(3, 3) and found["sensitivity"] == wilson(4, 4)
    assert called["1"] == "ALL" and called["H2"] == "HEM"


def test_more_cells_give_better_rates_and_all_cells_those_of_the_classification():
    rng = np.random.default_rng(0)
    cohort, probability = cohort_of({str(i): 0.62 for i in range(8)} | {f"H{i}": 0.38 for i in range(8)}, cells=60)
    probability = (probability + rng.normal(0, 0.3, len(probability))).clip(0, 1)
    thresholds = patient_evaluation.cross_fitted_thresholds(cohort, cohort.means(probability))
    found, again = (
        patient_evaluation.by_cells(cohort, probability, thresholds, numbers=(1, 5, 50, 60), draws=100) for _ in "ab"
    )
    assert found == again
    sensitivity = [row["sensitivity"].value for row in found]
    assert sensitivity[0] + 0.1 < sensitivity[1] and sensitivity[1] + 0.1 < sensitivity[2]
    assert [row["people_with_fewer"] for row in found] == [0, 0, 0, 16]
    whole = classified(cohort, probability)
    assert found[-1]["sensitivity"] == whole["sensitivity"] and found[-1]["specificity"] == whole["specificity"]


def test_an_auroc_has_an_interval_even_where_the_ranking_is_perfect():
    def interval(right: int, leukemic: int, healthy: int) -> Interval:
        """Of `right` leukemic patients above all healthy ones, the others below."""
        means = np.concatenate([np.full(right, 0.9), np.full(leukemic - right, 0.1), np.full(healthy, 0.5)])
        return patient_evaluation.auroc_interval(means, np.arange(leukemic + healthy) < leukemic)

    perfect, worst, few = interval(25, 25, 10), interval(0, 25, 10), interval(5, 5, 3)
    assert perfect.high == 1 and 0.8 < perfect.low < 0.95 and few.low < perfect.low
    assert (worst.low, worst.high) == pytest.approx((0, 1 - perfect.low), abs=1e-9)
    # Its ends are where the measured area is 1.96 standard deviations away, by Hanley and McNeil's variance.
    found = interval(22, 25, 10)
    for end in (found.low, found.high):
        spread = 1 + 16.5 * (1 - end) / (2 - end) + 16.5 * end / (1 + end)
        assert abs(0.88 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) * spread / 250), abs=1e-6)


def test_the_photograph_of_a_cell_is_in_its_name():
    def named(name: str) -> str:
        return patient_evaluation.photograph_of(Row(name, "ALL", "11", "11", "", "0"))

    assert named("fold_0/all/UID_11_10_1_all.webp") == named("fold_0/all/UID_11_10_7_all.webp") == "11_10"
    assert named("drawn-all-0-3.png") == "drawn-all-0-3.png"


def test_patients_in_two_classes_or_folds_and_too_few_of_them_are_refused():
    of = patient_evaluation.Cohort.of
    with pytest.raises(BlastlensError, match="one class"):
        of(np.array(["a", "a"]), np.array([True, False]), np.array([0, 0]), ["1", "2"])
    with pytest.raises(BlastlensError, match="one fold"):
        of(np.array(["a", "a"]), np.array([True, True]), np.array([0, 1]), ["1", "2"])
    cohort, probability = cohort_of({"1": 0.9, "H1": 0.1, "2": 0.8}, {"1": 0, "H1": 1, "2": 1})
    with pytest.raises(BlastlensError, match="leukemic and healthy"):
        patient_evaluation.cross_fitted_thresholds(cohort, cohort.means(probability))


def by_size(subjects: bool = True):
    images = {
        label: [
            cell(radius + 2 * np.random.default_rng(i).uniform(-1, 1), (75, 35, 90), 5, np.random.default_rng(i))
            for i in range(16)
        ]
        for label, radius in (("ALL", 17), ("HEM", 11))
    }
    return networks_of("cnmc2019", images, lambda v: np.array([1, -1]) * (cell_mask(v).sum() - 600) / 200, subjects)


def test_a_network_is_measured_on_patients_at_every_sigma():
    record = json.loads(json.dumps(patient_evaluation.measure(by_size()), allow_nan=False))
    assert record["sensitivity"]["value"] == record["specificity"]["value"] == record["auroc"]["value"] == 1
    assert len(record["patients"]) == 8 and {row["images"] for row in record["patients"]} == {4}
    clean, noisy = record["by_sigma"]
    assert (clean["sigma"], noisy["sigma"]) == (0, 10) and clean["sensitivity"] == record["sensitivity"]
    # Noise lights the black around a cell, which this network takes for more cell.
    assert noisy["sensitivity"]["value"] == 1 and noisy["specificity"]["value"] == 0
    assert record["without_network"][0]["name"] == "cell area" and record["without_network"][0]["auroc"]["value"] == 1


def test_without_subjects_there_are_no_patients():
    assert patient_evaluation.measure(by_size(subjects=False)) is None
    fields = {label: [np.zeros((64, 64, 3), np.uint8)] * 8 for label in ("Benign", "Early", "Pre", "Pro")}
    networks = networks_of("aria2021", fields, lambda view: np.zeros(4))
    assert patient_evaluation.measure(networks) is None
