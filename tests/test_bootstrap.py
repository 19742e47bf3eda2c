"""Bootstrap replicates against the resampled images that they stand for."""

from functools import partial

import numpy as np
import pytest
from test_metrics import aurc, classwise_ece, predictions

from blastlens import bootstrap, metrics
from blastlens.metrics import GroupSums, Interval

CELLS = ["ALL", "HEM"]


def resampled(weights, groups):
    """The images of each replicate."""
    return [np.repeat(np.arange(len(groups)), weight[groups].astype(int)) for weight in weights]


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("pure_groups", [True, False])
def test_a_replicate_scores_exactly_the_images_it_holds(n_classes, pure_groups):
    labels, probabilities, groups = predictions(300, n_classes, pure_groups=pure_groups)
    positive = 1 if n_classes == 2 else None
    sums = GroupSums.of(labels, probabilities, groups, positive)
    weights = bootstrap.group_weights(sums.holds, replicates=12, seed=3)
    assert (weights.sum(axis=1) == len(np.unique(groups))).all()
    if pure_groups:
        assert all((weights @ (sums.holds[:, c]) == sums.holds[:, c].sum()).all() for c in range(n_classes))
    scores = sums.scores(weights)
    for r, images in enumerate(resampled(weights, groups)):
        expected = metrics.summary(labels[images], probabilities[images], "abcd"[:n_classes], positive)
        scalars = {name: values[r] for name, values in scores.items() if values.ndim == 1}
        assert scalars == pytest.approx({name: expected[name] for name in scalars}, abs=1e-12)
        assert scores["f1"][r] == pytest.approx([entry["f1"] for entry in expected["per_class"].values()])


@pytest.mark.parametrize("name", ["weighted_f1", "classwise_ece", "aurc"])
@pytest.mark.parametrize("n_classes", [2, 4])
def test_an_interval_is_the_percentiles_of_the_scores_of_resampled_images(name, n_classes):
    labels, probabilities, groups = predictions(150, n_classes, n_groups=8)
    how = {"replicates": 40, "seed": 5}
    if name == "weighted_f1":
        found = bootstrap.summary(labels, probabilities, groups, "abcd"[:n_classes], **how)[name]
    else:
        found = getattr(bootstrap, name)(labels, probabilities, groups, **how)
    holds = GroupSums.of(labels, probabilities, groups).holds
    score = {"classwise_ece": classwise_ece, "aurc": aurc}.get(name, partial(metrics.score, name))
    data, *draws = (
        score(labels[images], probabilities[images])
        for images in resampled(bootstrap.group_weights(holds, **how), groups)
    )
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (found.value, found.low, found.high) == pytest.approx((data, low, high), abs=1e-12)


def test_a_summary_has_an_interval_for_every_score_and_keeps_the_counts():
    labels, probabilities, groups = predictions(300, 4, n_groups=12)
    names = ["Benign", "Early", "Pre", "Pro"]
    plain = metrics.summary(labels, probabilities, names)
    result = bootstrap.summary(labels, probabilities, np.array([f"H{g:02}" for g in groups]), names, replicates=200)
    assert result["bootstrap"] == {"groups": 12, "replicates": 200, "discarded": 0, "stratified": True}
    assert result["confusion_matrix"] == plain["confusion_matrix"]
    for name in set(plain) - {"per_class", "confusion_matrix"}:
        assert result[name].low <= result[name].value <= result[name].high
        assert result[name].value == pytest.approx(plain[name], abs=1e-12)
    assert result["per_class"]["Pre"]["f1"].value == pytest.approx(plain["per_class"]["Pre"]["f1"], abs=1e-12)
    assert result["per_class"]["Pre"]["support"] == plain["per_class"]["Pre"]["support"]


def test_replicates_that_lose_a_class_are_discarded():
    # Group 0 holds both classes, so the draw is not stratified; the second class is in group 0 alone.
    labels = np.array([0, 1, 0, 0])
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.8, 0.2], [0.7, 0.3]])
    result = bootstrap.summary(labels, probabilities, [0, 0, 1, 2], CELLS, positive=0, replicates=1000)
    assert not result["bootstrap"]["stratified"]
    assert result["bootstrap"]["discarded"] / 1000 == pytest.approx((2 / 3) ** 3, abs=0.05)
    assert result["auroc"] == Interval(1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="too few groups"):
        bootstrap.summary(labels, probabilities, [0, 0, 1, 2], CELLS, replicates=1, seed=2)


def test_a_paired_difference_is_seen_where_separate_intervals_hide_it():
    labels, _, groups = predictions(2000, 2, n_groups=20)
    rng = np.random.default_rng(4)
    difficulty = rng.uniform(0.1, 0.5, 20)[groups]  # hard groups are hard for both models
    draw = rng.random(2000)
    a, b = (
        np.eye(2)[np.where(wrong, 1 - labels, labels)] * 0.8 + 0.1
        for wrong in (draw < difficulty - 0.05, draw < difficulty)
    )
    gain = bootstrap.difference(labels, a, b, groups)
    assert gain.value == pytest.approx(
        metrics.score("weighted_f1", labels, a) - metrics.score("weighted_f1", labels, b), abs=1e-12
    )
    assert gain.low > 0
    alone = [bootstrap.summary(labels, p, groups, CELLS)["weighted_f1"] for p in (a, b)]
    assert alone[0].low < alone[1].high
    assert bootstrap.difference(labels, a, a, groups, metric="auroc", positive=1) == Interval(0.0, 0.0, 0.0)
    with pytest.raises(ValueError, match="weighted_f1"):
        bootstrap.difference(labels, a, b, groups, metric="wf1")


def test_the_interval_of_a_share_is_that_of_the_score_it_is():
    labels, probabilities, groups = predictions(300, 2)
    correct = probabilities.argmax(axis=1) == labels
    whole = bootstrap.summary(labels, probabilities, groups, CELLS, positive=0)
    for name, where in (("accuracy", None), ("sensitivity", labels == 0), ("specificity", labels == 1)):
        assert vars(bootstrap.mean(correct, labels, groups, where)) == pytest.approx(vars(whole[name]), abs=1e-12)


def test_a_replicate_without_any_chosen_image_is_left_out_of_a_mean():
    labels = np.array([0, 1, 0, 0])  # group 0 holds both classes, so that a draw can miss the second
    found = bootstrap.mean([0.25, 0.75, 1, 1], labels, [0, 0, 1, 2], labels == 1)
    assert found == Interval(0.75, 0.75, 0.75)
    with pytest.raises(ValueError, match="image"):
        bootstrap.mean([1.0], [0], ["x"], [False])
