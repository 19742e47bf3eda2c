"""Scores against scikit-learn, replicates against the images they hold, calibration against its optimum."""

import math
import time
from itertools import permutations

import numpy as np
import pytest
from sklearn import metrics as reference

from blastlens import metrics
from blastlens.metrics import Interval


def predictions(n_images: int, n_classes: int, n_groups: int = 9, seed: int = 20, pure_groups: bool = True):
    """Labels, probabilities and groups; probabilities are rounded so that ties occur."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(n_groups, size=n_images)
    labels = groups % n_classes if pure_groups else rng.integers(n_classes, size=n_images)
    scores = np.round(rng.dirichlet(np.ones(n_classes), n_images) + 0.4 * np.eye(n_classes)[labels], 2)
    probabilities = scores / scores.sum(axis=1, keepdims=True)
    return labels, probabilities, groups


@pytest.mark.parametrize("n_classes", [2, 4])
def test_every_score_equals_scikit_learns(n_classes):
    labels, probabilities, _ = predictions(500, n_classes)
    names = ["ALL", "HEM", "third", "fourth"][:n_classes]
    binary = n_classes == 2
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
    if binary:
        expected |= {"sensitivity": recall[0], "specificity": recall[1]}
    scalars = {name: got[name] for name in expected}
    assert scalars == pytest.approx(expected, abs=1e-12)
    assert got["confusion_matrix"] == reference.confusion_matrix(labels, predicted).tolist()
    for c, name in enumerate(names):
        entry = {"precision": precision[c], "recall": recall[c], "f1": f1[c], "support": support[c]}
        assert got["per_class"][name] == pytest.approx(entry, abs=1e-12)
    assert set(got) == set(expected) | {"ece", "per_class", "confusion_matrix"}


@pytest.mark.parametrize("counts", [(1, 1), (68, 32), (30, 30, 25, 15)])
def test_always_giving_one_answer_scores_what_scikit_learn_says(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = reference.f1_score(labels, np.zeros(len(labels), dtype=int), average="weighted", zero_division=0)
    assert metrics.constant_weighted_f1(counts[0] / sum(counts)) == pytest.approx(expected)


def test_single_score_functions_equal_the_summary():
    labels, probabilities, _ = predictions(200, 2)
    whole = metrics.summary(labels, probabilities, ["ALL", "HEM"], positive="ALL")
    for name in ("accuracy", "balanced_accuracy", "weighted_f1", "macro_f1", "ece", "brier", "log_loss"):
        assert getattr(metrics, name)(labels, probabilities) == whole[name]
    for name in ("sensitivity", "specificity", "auroc"):
        assert getattr(metrics, name)(labels, probabilities, positive=0) == whole[name]
    assert metrics.confusion_matrix(labels, probabilities).tolist() == whole["confusion_matrix"]


def test_ece_of_a_hand_worked_case():
    # Bins of width 1/15: 0.90 and 0.92 share one (0.8667 to 0.9333), 0.70 is alone, one is wrong.
    confidence = np.array([0.90, 0.92, 0.70])
    probabilities = np.column_stack([confidence, 1 - confidence])
    expected = (abs(0.90 + 0.92 - 1) + abs(0.70 - 1)) / 3
    assert metrics.ece([0, 1, 0], probabilities) == pytest.approx(expected, abs=1e-12)


def test_a_confidence_on_a_bin_edge_belongs_to_the_lower_bin():
    edge, above = 12 / 15, 12 / 15 + 1e-9
    apart = metrics.ece([0, 1], [[edge, 1 - edge], [above, 1 - above]])
    assert apart == pytest.approx((abs(edge - 1) + above) / 2)


def test_brier_sums_over_classes():
    assert metrics.brier([0], [[0.0, 1.0]]) == 2.0
    assert metrics.brier([1], [[0.5, 0.3, 0.2]]) == pytest.approx(0.25 + 0.49 + 0.04)


def test_auroc_counts_a_tie_as_one_half():
    assert metrics.auroc([0, 1], [[0.5, 0.5], [0.5, 0.5]], positive=1) == 0.5


def test_an_absent_class_is_undefined_where_nothing_can_be_said():
    scores = metrics.summary([0, 0], [[0.9, 0.1], [0.2, 0.8]], ["ALL", "HEM"], positive="ALL")
    assert math.isnan(scores["auroc"]) and math.isnan(scores["specificity"])
    assert scores["sensitivity"] == 0.5
    assert scores["balanced_accuracy"] == 0.5
    assert scores["per_class"]["HEM"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("pure_groups", [True, False])
def test_a_replicate_scores_exactly_the_images_it_holds(n_classes, pure_groups):
    labels, probabilities, groups = predictions(300, n_classes, pure_groups=pure_groups)
    names = [str(c) for c in range(n_classes)]
    positive = 1 if n_classes == 2 else None
    sums = metrics._group_sums(labels, probabilities, groups, positive)
    weights, stratified = metrics._draws(sums.held, replicates=12, seed=3)
    assert stratified == pure_groups
    assert (weights.sum(axis=1) == len(np.unique(groups))).all()
    scores = metrics._scores(weights, sums, positive)
    for r, weight in enumerate(weights):
        images = np.repeat(np.arange(len(labels)), weight[groups].astype(int))
        expected = metrics.summary(labels[images], probabilities[images], names, positive)
        scalars = {name: values[r] for name, values in scores.items() if values.ndim == 1}
        assert scalars == pytest.approx({name: expected[name] for name in scalars}, abs=1e-12)
        assert scores["f1"][r] == pytest.approx([entry["f1"] for entry in expected["per_class"].values()])


def test_bootstrap_interval_is_the_percentiles_of_resampled_data():
    labels, probabilities, groups = predictions(150, 2, n_groups=8)
    result = metrics.bootstrap(labels, probabilities, groups, ["ALL", "HEM"], replicates=100, seed=5)
    sums = metrics._group_sums(labels, probabilities, groups)
    weights, _ = metrics._draws(sums.held, replicates=100, seed=5)
    resampled = []
    for weight in weights:
        images = np.repeat(np.arange(len(labels)), weight[groups].astype(int))
        predicted = probabilities[images].argmax(axis=1)
        resampled.append(reference.f1_score(labels[images], predicted, average="weighted"))
    low, high = np.quantile(resampled, [0.025, 0.975])
    interval = result["weighted_f1"]
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)
    assert interval.value == metrics.weighted_f1(labels, probabilities)


def test_bootstrap_gives_an_interval_for_every_score_and_keeps_the_counts():
    labels, probabilities, groups = predictions(300, 4, n_groups=12)
    names = ["Benign", "Early", "Pre", "Pro"]
    plain = metrics.summary(labels, probabilities, names)
    result = metrics.bootstrap(labels, probabilities, groups, names, replicates=200)
    assert result["bootstrap"] == {"groups": 12, "replicates": 200, "discarded": 0, "stratified": True}
    assert result["confusion_matrix"] == plain["confusion_matrix"]
    for name in set(plain) - {"per_class", "confusion_matrix"}:
        assert isinstance(result[name], Interval)
        assert result[name].low <= result[name].value <= result[name].high
        assert result[name].value == pytest.approx(plain[name], abs=1e-12)
    assert result["per_class"]["Pre"]["f1"].value == pytest.approx(plain["per_class"]["Pre"]["f1"], abs=1e-12)
    assert result["per_class"]["Pre"]["support"] == plain["per_class"]["Pre"]["support"]


def test_replicates_that_lose_a_class_are_counted_and_left_out():
    # Group 0 holds both classes, so the draw is not stratified; the second class is in group 0 alone.
    labels = np.array([0, 1, 0, 0])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.7, 0.3]])
    result = metrics.bootstrap(labels, probabilities, [0, 0, 1, 2], ["ALL", "HEM"], positive=0, replicates=1000)
    assert not result["bootstrap"]["stratified"]
    lost = result["bootstrap"]["discarded"] / 1000
    assert lost == pytest.approx((2 / 3) ** 3, abs=0.05)
    assert result["auroc"] == Interval(1.0, 1.0, 1.0)


def test_bootstrap_is_seeded_and_ignores_the_global_generator():
    labels, probabilities, groups = predictions(150, 2)
    runs = []
    for state in (0, 1):
        np.random.seed(state)
        runs.append(metrics.bootstrap(labels, probabilities, groups, ["ALL", "HEM"], replicates=50, seed=1))
    assert runs[0] == runs[1]
    assert runs[0] != metrics.bootstrap(labels, probabilities, groups, ["ALL", "HEM"], replicates=50, seed=2)


def test_groups_may_be_named_by_strings():
    labels, probabilities, groups = predictions(150, 2)
    names = np.array([f"H{g}" for g in groups])
    by_name = metrics.bootstrap(labels, probabilities, names, ["ALL", "HEM"], replicates=20)
    assert by_name == metrics.bootstrap(labels, probabilities, groups, ["ALL", "HEM"], replicates=20)


def test_a_bootstrap_of_the_whole_c_nmc_size_takes_seconds():
    labels, probabilities, groups = predictions(7651, 2, n_groups=41)
    start = time.perf_counter()
    metrics.bootstrap(labels, probabilities, groups, ["ALL", "HEM"], positive=0, replicates=2000)
    assert time.perf_counter() - start < 10  # 0.2 s on a quiet core


def test_paired_bootstrap_sees_a_difference_that_separate_intervals_hide():
    labels, _, groups = predictions(2000, 2, n_groups=20)
    rng = np.random.default_rng(4)
    difficulty = rng.uniform(0.1, 0.5, 20)[groups]  # hard groups are hard for both models
    draw = rng.random(2000)
    wrong_a, wrong_b = draw < difficulty - 0.05, draw < difficulty

    def certain(wrong):
        return np.eye(2)[np.where(wrong, 1 - labels, labels)] * 0.8 + 0.1

    a, b = certain(wrong_a), certain(wrong_b)
    gain = metrics.paired_bootstrap(labels, a, b, groups)
    assert gain.value == pytest.approx(metrics.weighted_f1(labels, a) - metrics.weighted_f1(labels, b), abs=1e-12)
    assert gain.low > 0
    alone = [metrics.bootstrap(labels, p, groups, ["ALL", "HEM"])["weighted_f1"] for p in (a, b)]
    assert alone[0].low < alone[1].high
    back = metrics.paired_bootstrap(labels, b, a, groups)
    assert (back.low, back.value, back.high) == pytest.approx((-gain.high, -gain.value, -gain.low), abs=1e-12)
    same = metrics.paired_bootstrap(labels, a, a, groups, metric="auroc", positive=1)
    assert same == Interval(0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([0, 1], [[0.5, 0.5]], "expected"),
        ([], np.empty((0, 2)), "expected"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "labels"),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], "labels"),
        ([0, 1], [[3.0, -2.0], [0.5, 0.5]], "probabilities"),
        ([0, 1], [[np.nan, 0.5], [0.5, 0.5]], "probabilities"),
        ([0, 1], [[0.2, 0.3, 0.5], [0.2, 0.3, 0.5]], "label names"),
    ],
)
def test_malformed_predictions_are_refused(labels, probabilities, message):
    with pytest.raises(ValueError, match=message):
        metrics.summary(labels, probabilities, ["ALL", "HEM"])


def test_unknown_names_are_refused_with_what_there_is():
    labels, probabilities, groups = predictions(50, 2)
    with pytest.raises(ValueError, match="ALL, HEM"):
        metrics.summary(labels, probabilities, ["ALL", "HEM"], positive="all")
    with pytest.raises(ValueError, match="weighted_f1"):
        metrics.paired_bootstrap(labels, probabilities, probabilities, groups, metric="wf1")
    with pytest.raises(ValueError, match="positive"):
        metrics.auroc(labels, probabilities)


def drawn_from(logits, seed):
    """Labels that are exactly as probable as the logits say."""
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(logits.shape[1], p=p) for p in metrics.softmax(logits)])


def test_a_known_temperature_and_bias_are_found_again():
    true_logits = 2 * np.random.default_rng(0).standard_normal((20_000, 3))
    bias = np.array([0.5, -0.7, 0.2])
    labels = drawn_from(true_logits + bias, seed=1)
    scaling = metrics.fit_scaling(3 * true_logits, labels, penalty=1e-3)
    assert scaling.temperature == pytest.approx(3, rel=0.05)
    assert scaling.bias == pytest.approx(bias, abs=0.05)
    assert sum(scaling.bias) == pytest.approx(0)
    assert metrics.classwise_ece(labels, scaling.apply(3 * true_logits)) < 0.02
    without = metrics.fit_scaling(3 * true_logits, labels, bias=False, penalty=1e-3)
    assert without.bias == (0, 0, 0)
    assert metrics.classwise_ece(labels, without.apply(3 * true_logits)) > 0.05


@pytest.mark.parametrize("bias", [True, False])
def test_a_fitted_scaling_is_the_minimum_of_the_penalised_weighted_log_loss(bias):
    rng = np.random.default_rng(1)
    labels = rng.integers(3, size=400)
    logits = 4 * rng.standard_normal((400, 3)) + 3 * np.eye(3)[labels] + [1, 0, 0]
    weights = rng.uniform(0, 2, 400)
    found = metrics.fit_scaling(logits, labels, weights, bias=bias, penalty=1e-2)
    centred = logits - logits.mean(axis=1, keepdims=True)

    def loss(inverse, shift):
        p = metrics.softmax(centred * inverse + shift)[np.arange(400), labels]
        return -weights @ np.log(p) / weights.sum() + 1e-2 / 2 * ((inverse - 1) ** 2 + np.sum(np.square(shift)))

    inverse, shift = 1 / found.temperature, np.array(found.bias)
    best = loss(inverse, shift)
    assert best < min(loss(inverse * 1.001, shift), loss(inverse / 1.001, shift))
    for direction in np.eye(3) - 1 / 3 if bias else []:
        assert best < min(loss(inverse, shift + 1e-3 * direction), loss(inverse, shift - 1e-3 * direction))


def test_an_image_that_weighs_twice_counts_as_two():
    rng = np.random.default_rng(2)
    labels = rng.integers(2, size=60)
    logits = rng.standard_normal((60, 2)) + np.eye(2)[labels]
    twice = np.repeat(np.arange(60), np.where(labels == 0, 2, 1))
    weighted = metrics.fit_scaling(logits, labels, np.where(labels == 0, 2.0, 1.0))
    repeated = metrics.fit_scaling(logits[twice], labels[twice])
    assert weighted.temperature == pytest.approx(repeated.temperature, rel=1e-4)
    assert weighted.bias == pytest.approx(repeated.bias, abs=1e-4)


@pytest.mark.parametrize("labels", [[0, 1, 0, 1], [0, 0, 0, 0]])
def test_separable_or_one_class_data_keep_a_finite_scaling(labels):
    scaling = metrics.fit_scaling(10 * np.eye(2)[labels], np.array(labels))
    assert 0.01 <= scaling.temperature <= 100
    assert np.isfinite(scaling.bias).all()


def test_logits_that_point_the_wrong_way_end_at_the_largest_temperature():
    labels = np.tile([0, 1], 50)
    assert metrics.fit_scaling(-5 * np.eye(2)[labels], labels).temperature == pytest.approx(100)


def test_the_identity_scaling_is_plain_softmax():
    logits = np.random.default_rng(3).standard_normal((5, 4))
    np.testing.assert_allclose(metrics.Scaling.identity(4).apply(logits), metrics.softmax(logits))


def test_a_scaling_refuses_what_it_cannot_fit():
    with pytest.raises(ValueError, match="finite"):
        metrics.fit_scaling([[np.inf, 0.0]], [0])
    with pytest.raises(ValueError, match="labels"):
        metrics.fit_scaling([[1.0, 0.0]], [2])


def test_errors_that_cancel_out_over_all_answers_count_class_by_class():
    # Stated 0.8 throughout: answers of the first class are always right, of the second in three of five.
    probabilities = np.array([[0.8, 0.2]] * 50 + [[0.2, 0.8]] * 50)
    labels = np.array([0] * 50 + [1] * 30 + [0] * 20)
    assert metrics.ece(labels, probabilities) == pytest.approx(0)
    assert metrics.classwise_ece(labels, probabilities) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("interval", "score"),
    [(metrics.classwise_ece_interval, metrics.classwise_ece), (metrics.aurc_interval, metrics.aurc)],
)
@pytest.mark.parametrize("n_classes", [2, 4])
def test_an_interval_is_that_of_the_scores_of_resampled_images(interval, score, n_classes):
    labels, probabilities, groups = predictions(150, n_classes, n_groups=8)
    held = metrics._group_sums(labels, probabilities, groups).held
    weights, _ = metrics._draws(held, replicates=40, seed=5)
    resampled = []
    for weight in weights:
        images = np.repeat(np.arange(len(labels)), weight[groups].astype(int))
        resampled.append(score(labels[images], probabilities[images]))
    found = interval(labels, probabilities, groups, replicates=40, seed=5)
    assert (found.low, found.high) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=1e-12)
    assert found.value == pytest.approx(score(labels, probabilities), abs=1e-12)


def test_risk_coverage_of_a_hand_worked_case():
    # Confidence falls from image to image; the third and the last answer are wrong.
    confidence = np.array([0.9, 0.8, 0.7, 0.6])
    probabilities = np.column_stack([confidence, 1 - confidence])
    labels = [0, 0, 1, 1]
    assert metrics.risk_coverage(labels, probabilities, points=4) == [
        (0.25, 0),
        (0.5, 0),
        (0.75, pytest.approx(1 / 3)),
        (1.0, 0.5),
    ]
    assert metrics.aurc(labels, probabilities) == pytest.approx((0 + 0 + 1 / 3 + 1 / 2) / 4)
    backwards = probabilities[::-1]
    assert metrics.aurc(labels, backwards) == pytest.approx((1 + 1 + 2 / 3 + 1 / 2) / 4)


def test_equal_confidence_is_the_mean_over_all_orders():
    labels = np.array([0, 0, 1, 0, 1])
    probabilities = np.array([[0.9, 0.1], *[[0.7, 0.3]] * 3, [0.6, 0.4]])
    apart = [0.9, 0.71, 0.7, 0.69, 0.6]  # one order of the three in the middle
    areas, curves = [], []
    for order in permutations([1, 2, 3]):
        p = np.array([apart[0], *np.empty(3), apart[4]])
        p[list(order)] = apart[1:4]
        resolved = np.column_stack([p, 1 - p])
        areas.append(metrics.aurc(labels, resolved))
        curves.append(metrics.risk_coverage(labels, resolved, points=5))
    assert metrics.aurc(labels, probabilities) == pytest.approx(np.mean(areas))
    np.testing.assert_allclose(metrics.risk_coverage(labels, probabilities, points=5), np.mean(curves, axis=0))


def test_risk_coverage_ends_at_the_error_of_all_answers():
    labels, probabilities, _ = predictions(333, 4)
    curve = metrics.risk_coverage(labels, probabilities)
    assert [coverage for coverage, _ in curve] == pytest.approx(np.arange(1, 11) / 10)
    assert curve[-1][1] == pytest.approx(1 - metrics.accuracy(labels, probabilities))
    with pytest.raises(ValueError, match="point"):
        metrics.risk_coverage(labels, probabilities, points=0)


def test_the_interval_of_a_share_is_that_of_the_score_it_is():
    labels, probabilities, groups = predictions(300, 2)
    answers = probabilities.argmax(axis=1)
    whole = metrics.bootstrap(labels, probabilities, groups, ["ALL", "HEM"], positive=0)
    right = answers == labels
    for name, where in (("accuracy", None), ("sensitivity", labels == 0), ("specificity", labels == 1)):
        found = metrics.mean_interval(right, labels, groups, where)
        assert (found.low, found.value, found.high) == pytest.approx(
            (whole[name].low, whole[name].value, whole[name].high), abs=1e-12
        )


def test_a_replicate_without_any_chosen_image_is_left_out_of_a_mean():
    labels = np.array([0, 1, 0, 0])  # group 0 holds both classes, so that a draw can miss the second
    found = metrics.mean_interval([0.25, 0.75, 1, 1], labels, [0, 0, 1, 2], labels == 1)
    assert found == Interval(0.75, 0.75, 0.75)
    with pytest.raises(ValueError, match="image"):
        metrics.mean_interval([1.0], [0], ["x"], [False])


def test_the_area_under_the_risk_coverage_curve_of_the_whole_c_nmc_size_takes_seconds():
    labels, probabilities, groups = predictions(10_661, 2, n_groups=60)
    start = time.perf_counter()
    metrics.aurc_interval(labels, probabilities, groups)
    assert time.perf_counter() - start < 20  # 0.5 s on a quiet core


def test_reliability_bins_count_confidence_and_hits():
    confidence = np.array([0.55, 0.6, 0.61, 0.95, 1.0])
    probabilities = np.column_stack([confidence, 1 - confidence])
    got = metrics.reliability([0, 1, 0, 0, 1], probabilities, bins=10)
    assert [(b.low, b.high, b.count, b.accuracy) for b in got] == [
        (0.5, 0.6, 2, 0.5),  # an edge belongs to the lower bin
        (0.6, 0.7, 1, 1.0),
        (0.9, 1.0, 2, 0.5),
    ]
    assert [b.confidence for b in got] == pytest.approx([0.575, 0.61, 0.975])


@pytest.mark.parametrize("n_classes", [2, 4])
def test_reliability_adds_up_to_the_calibration_error(n_classes):
    labels, probabilities, _ = predictions(400, n_classes)
    bins = metrics.reliability(labels, probabilities, bins=metrics.ECE_BINS)
    assert sum(b.count for b in bins) == 400
    error = sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / 400
    assert error == pytest.approx(metrics.ece(labels, probabilities), abs=1e-12)


def test_reliability_refuses_what_are_no_probabilities():
    with pytest.raises(ValueError, match="sum to 1"):
        metrics.reliability([0], [[0.5, 0.1]])
