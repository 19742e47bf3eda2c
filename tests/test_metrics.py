"""Scores against scikit-learn and hand-worked cases, and calibration against its optimum."""

import math
from itertools import permutations

import numpy as np
import pytest
from sklearn import metrics as reference

from blastlens import metrics
from train.calibration import Scaling, fit_scaling


def predictions(n_images: int, n_classes: int, n_groups: int = 9, pure_groups: bool = True):
    """Labels, probabilities and groups; probabilities are rounded so that ties occur."""
    rng = np.random.default_rng(20)
    groups = rng.integers(n_groups, size=n_images)
    labels = groups % n_classes if pure_groups else rng.integers(n_classes, size=n_images)
    scores = np.round(rng.dirichlet(np.ones(n_classes), n_images) + 0.4 * np.eye(n_classes)[labels], 2)
    return labels, scores / scores.sum(axis=1, keepdims=True), groups


def aurc(labels, probabilities):
    return np.mean([risk for _, risk in metrics.risk_coverage(labels, probabilities, points=len(labels))])


def classwise_ece(labels, probabilities):
    return metrics.GroupSums.of(labels, probabilities).classwise_ece(np.ones((1, 1)))[0]


def with_confidence(*confidences):
    return np.column_stack([confidences, 1 - np.array(confidences)])


@pytest.mark.parametrize("n_classes", [2, 4])
def test_every_score_equals_scikit_learns(n_classes):
    labels, probabilities, _ = predictions(500, n_classes)
    names, binary = ["ALL", "HEM", "third", "fourth"][:n_classes], n_classes == 2
    got = metrics.summary(labels, probabilities, names, positive=0 if binary else None)

    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = reference.precision_recall_fscore_support(labels, predicted)
    expected = {
        "accuracy": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "weighted_f1": reference.f1_score(labels, predicted, average="weighted"),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "brier": reference.brier_score_loss(labels, probabilities, scale_by_half=False, labels=range(n_classes)),
        "log_loss": reference.log_loss(labels, probabilities),
        "auroc": reference.roc_auc_score(labels == 0, probabilities[:, 0])
        if binary
        else reference.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro"),
    }
    expected |= {"sensitivity": recall[0], "specificity": recall[1]} if binary else {}
    assert {name: got[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert got["confusion_matrix"] == reference.confusion_matrix(labels, predicted).tolist()
    for c, name in enumerate(names):
        entry = {"precision": precision[c], "recall": recall[c], "f1": f1[c], "support": support[c]}
        assert got["per_class"][name] == pytest.approx(entry, abs=1e-12)
    assert set(got) == set(expected) | {"ece", "per_class", "confusion_matrix"}
    for name in (*expected, "ece"):
        assert metrics.score(name, labels, probabilities, 0 if binary else None) == got[name]


@pytest.mark.parametrize("counts", [(1, 1), (68, 32), (30, 30, 25, 15)])
def test_a_constant_prediction_has_the_weighted_f1_of_scikit_learn(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = reference.f1_score(labels, np.zeros(len(labels), dtype=int), average="weighted", zero_division=0)
    assert metrics.constant_weighted_f1(counts[0] / sum(counts)) == pytest.approx(expected)


def test_ece_of_hand_worked_cases():
    # Bins of width 1/15: 0.90 and 0.92 share one (0.8667 to 0.9333), 0.70 is alone, one is wrong.
    expected = (abs(0.90 + 0.92 - 1) + abs(0.70 - 1)) / 3
    assert metrics.score("ece", [0, 1, 0], with_confidence(0.90, 0.92, 0.70)) == pytest.approx(expected, abs=1e-12)
    edge, above = 12 / 15, 12 / 15 + 1e-9  # an edge belongs to the lower bin
    assert metrics.score("ece", [0, 1], with_confidence(edge, above)) == pytest.approx((abs(edge - 1) + above) / 2)


def test_errors_of_two_classes_do_not_cancel_out_in_the_classwise_ece():
    # 0.8 throughout: predictions of the first class are always right, of the second in three of five.
    probabilities = with_confidence(*[0.8] * 50, *[0.2] * 50)
    labels = np.array([0] * 50 + [1] * 30 + [0] * 20)
    assert metrics.score("ece", labels, probabilities) == pytest.approx(0)
    assert classwise_ece(labels, probabilities) == pytest.approx(0.2)


def test_scores_that_an_absent_class_leaves_undefined_are_nan():
    scores = metrics.summary([0, 0], [[0.9, 0.1], [0.2, 0.8]], ["ALL", "HEM"], positive=0)
    assert math.isnan(scores["auroc"]) and math.isnan(scores["specificity"])
    assert scores["sensitivity"] == scores["balanced_accuracy"] == 0.5
    assert scores["per_class"]["HEM"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_risk_coverage_of_a_hand_worked_case():
    # Confidence falls from image to image; the third and the last prediction are wrong.
    probabilities, labels = with_confidence(0.9, 0.8, 0.7, 0.6), [0, 0, 1, 1]
    curve = metrics.risk_coverage(labels, probabilities, points=4)
    assert curve == [(0.25, 0), (0.5, 0), (0.75, pytest.approx(1 / 3)), (1.0, 0.5)]
    assert aurc(labels, probabilities) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    assert aurc(labels, probabilities[::-1]) == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)
    with pytest.raises(ValueError, match="point"):
        metrics.risk_coverage(labels, probabilities, points=0)


def test_equal_confidences_give_the_mean_over_all_orders():
    labels = np.array([0, 0, 1, 0, 1])
    areas, curves = [], []
    for order in permutations([0.71, 0.7, 0.69]):
        resolved = with_confidence(0.9, *order, 0.6)
        areas.append(aurc(labels, resolved))
        curves.append(metrics.risk_coverage(labels, resolved, points=5))
    tied = with_confidence(0.9, 0.7, 0.7, 0.7, 0.6)
    assert aurc(labels, tied) == pytest.approx(np.mean(areas))
    np.testing.assert_allclose(metrics.risk_coverage(labels, tied, points=5), np.mean(curves, axis=0))


def test_reliability_bins_have_the_confidence_and_accuracy_of_their_images():
    got = metrics.reliability([0, 1, 0, 0, 1], with_confidence(0.55, 0.6, 0.61, 0.95, 1.0), bins=10)
    assert [(b.low, b.high, b.count, b.accuracy) for b in got] == [
        (0.5, 0.6, 2, 0.5),
        (0.6, 0.7, 1, 1),
        (0.9, 1, 2, 0.5),
    ]
    assert [b.confidence for b in got] == pytest.approx([0.575, 0.61, 0.975])
    labels, probabilities, _ = predictions(400, 4)
    bins = metrics.reliability(labels, probabilities, bins=metrics.ECE_BINS)
    error = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / 400
    assert error == pytest.approx(metrics.score("ece", labels, probabilities), abs=1e-12)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [[0.5, 0.5]], "expected"),
        ([], np.empty((0, 2)), "expected"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "labels"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], "labels"),
        ([0, 1], [[3.0, -2.0], [0.5, 0.5]], "sum to 1"),
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], "sum to 1"),
        ([0, 1], [[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]], "label names"),
    ],
)
def test_malformed_predictions_are_refused(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        metrics.summary(labels, probabilities, ["ALL", "HEM"])


def test_an_unknown_or_missing_positive_class_is_refused():
    labels, probabilities, _ = predictions(50, 2)
    with pytest.raises(ValueError, match="0 or 1"):
        metrics.summary(labels, probabilities, ["ALL", "HEM"], positive=2)
    with pytest.raises(ValueError, match="no score named 'auroc'"):
        metrics.score("auroc", labels, probabilities)


def test_a_known_temperature_and_bias_are_found_again():
    true_logits, bias = 2 * np.random.default_rng(0).standard_normal((20_000, 3)), np.array([0.5, -0.7, 0.2])
    rng = np.random.default_rng(1)
    labels = np.array([rng.choice(3, p=p) for p in metrics.softmax(true_logits + bias)])
    scaling = fit_scaling(3 * true_logits, labels, penalty=1e-3)
    assert scaling.temperature == pytest.approx(3, rel=0.05)
    assert scaling.bias == pytest.approx(bias, abs=0.05) and sum(scaling.bias) == pytest.approx(0)
    assert classwise_ece(labels, scaling.apply(3 * true_logits)) < 0.02
    without = fit_scaling(3 * true_logits, labels, bias=False, penalty=1e-3)
    assert without.bias == (0, 0, 0)
    assert classwise_ece(labels, without.apply(3 * true_logits)) > 0.05


@pytest.mark.parametrize("bias", [True, False])
def test_a_fitted_scaling_is_the_minimum_of_the_penalised_weighted_log_loss(bias):
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=400)
    logits = 4 * rng.standard_normal((400, 3)) + 3 * np.eye(3)[labels] + [1, 0, 0]
    weights = rng.uniform(0, 2, 400)
    found = fit_scaling(logits, labels, weights, bias=bias, penalty=1e-2)
    centred = logits - logits.mean(axis=1, keepdims=True)

    def loss(inverse, shift):
        p = metrics.softmax(centred * inverse + shift)[np.arange(400), labels]
        return -weights @ np.log(p) / weights.sum() + 1e-2 / 2 * ((inverse - 1) ** 2 + np.sum(np.square(shift)))

    inverse, shift = 1 / found.temperature, np.array(found.bias)
    best = loss(inverse, shift)
    assert best < min(loss(inverse * 1.001, shift), loss(inverse / 1.001, shift))
    for direction in np.eye(3) - 1 / 3 if bias else []:
        assert best < min(loss(inverse, shift + 1e-3 * direction), loss(inverse, shift - 1e-3 * direction))


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 0, 0]])
def test_separable_or_one_class_data_have_a_finite_scaling(labels):
    scaling = fit_scaling(10 * np.eye(2)[labels], np.array(labels))
    assert 0.01 <= scaling.temperature <= 100 and np.isfinite(scaling.bias).all()
    labels = np.tile([0, 1], 50)
    assert fit_scaling(-5 * np.eye(2)[labels], labels).temperature == pytest.approx(100)


def test_malformed_logits_are_refused():
    with pytest.raises(ValueError, match="finite"):
        fit_scaling([[np.inf, 0.0]], [0])
    with pytest.raises(ValueError, match="labels"):
        fit_scaling([[1.0, 0.0]], [2])
    logits = np.random.default_rng(3).standard_normal((5, 4))
    np.testing.assert_allclose(Scaling.identity(4).apply(logits), metrics.softmax(logits))
