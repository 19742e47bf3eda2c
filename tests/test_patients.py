"""Images summed up by patient: exact counts, published intervals, and a plain word where there is none."""

import math
import statistics

import numpy as np
import pytest

from blastlens.metrics import Interval
from blastlens.patients import Answer, by_patient, leukemic_labels, mean_interval, t_quantile, wilson


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
