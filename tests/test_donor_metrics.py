"""Figures by donor are those of scikit-learn donor by donor, and see what pooled figures hide."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from blastlens.donor_metrics import DonorScores, difference, donor_weights


def scored(seed=0, sick=6, healthy=5, folds=2):
    """Labels (bool), scores, donors and folds of made-up cells; donors have 3 to 40 of them."""
    rng = np.random.default_rng(seed)
    label, score, donor, fold = [], [], [], []
    for g in range(sick + healthy):
        n, is_sick = int(rng.integers(3, 40)), g < sick
        logit = (1 if is_sick else -1) + rng.standard_normal() + rng.standard_normal(n)
        label += [is_sick] * n
        score += list(1 / (1 + np.exp(-logit)).round(2))  # rounded, so that there are ties
        donor += [f"{'A' if is_sick else 'H'}{g}"] * n
        fold += [g % folds] * n
    return np.array(label), np.array(score), np.array(donor), np.array(fold)


def test_auroc_of_a_donor_is_that_of_its_cells_against_the_sick_cells_of_its_fold():
    label, score, donor, fold = scored()
    scores = DonorScores.of(label, score, donor, fold)
    names = scores.names[~scores.positive]
    for name, area in zip(names, scores.auroc_by_donor(), strict=True):
        mine = donor == name
        rivals = mine | (label & (fold == fold[mine][0]))
        assert area == pytest.approx(roc_auc_score(label[rivals], score[rivals]))
    assert scores.summary(10)["auroc_per_donor"].value == pytest.approx(scores.auroc_by_donor().mean())


def test_auroc_of_cells_is_computed_within_folds_and_averaged():
    label, score, donor, fold = scored()
    found = DonorScores.of(label, score, donor, fold).summary(10)["auroc"].value
    assert found == pytest.approx(np.mean([roc_auc_score(label[fold == k], score[fold == k]) for k in (0, 1)]))
    # Another monotone scale in one fold changes nothing; pooled, it would.
    moved = np.where(fold == 0, score**4, score)
    assert DonorScores.of(label, moved, donor, fold).summary(10)["auroc"].value == pytest.approx(found)
    assert roc_auc_score(label, moved) != pytest.approx(roc_auc_score(label, score), abs=1e-3)


def test_rates_and_weighted_f1_are_those_of_the_cells():
    label, score, donor, fold = scored()
    found = DonorScores.of(label, score, donor, fold).summary(10)
    called = score >= 0.5
    by_donor = {d: called[donor == d].mean() for d in np.unique(donor)}
    healthy = [1 - rate for d, rate in by_donor.items() if d.startswith("H")]
    assert found["specificity_per_donor"].value == pytest.approx(np.mean(healthy))
    assert found["worst_specificity"] == pytest.approx(min(healthy))
    assert found["specificity"].value == pytest.approx((~called[~label]).mean())
    assert found["weighted_f1"].value == pytest.approx(f1_score(label, called, average="weighted"))
    half = np.where(label, 1 / label.sum(), 1 / (~label).sum())
    assert found["weighted_f1_at_half"].value == pytest.approx(
        f1_score(label, called, average="weighted", sample_weight=half)
    )


def test_a_replicate_that_draws_a_donor_twice_scores_as_if_its_cells_were_there_twice():
    label, score, donor, fold = scored()
    scores = DonorScores.of(label, score, donor, fold)
    weights = np.ones((1, len(scores.names)))
    weights[0, [0, -1]] = 2, 0  # one sick donor twice, one healthy donor not at all
    found = scores.scores(weights)
    copies = np.where(donor == scores.names[0], 2, np.where(donor == scores.names[-1], 0, 1))
    again = [np.repeat(values, copies) for values in (label, score, donor, fold)]
    name = np.where((again[2] == scores.names[0]) & (np.arange(len(again[2])) % 2 == 0), "copy", again[2])
    expected = DonorScores.of(again[0], again[1], name, again[3]).scores(np.ones((1, len(np.unique(name)))))
    for metric in ("auroc_per_donor", "auroc", "specificity_per_donor", "weighted_f1", "weighted_f1_at_half"):
        assert found[metric][0] == pytest.approx(expected[metric][0]), metric


def test_repeats_of_the_same_scores_change_no_figure():
    label, score, donor, fold = scored()
    once = DonorScores.of(label, score, donor, fold).summary(50)
    twice = DonorScores.of(*(np.tile(v, 2) for v in (label, score, donor, fold)), np.repeat([0, 1], len(label)))
    found = twice.summary(50)
    assert found["repeats"] == 2 and found["images"] == once["images"] == len(label)
    for metric in ("auroc_per_donor", "auroc", "specificity_per_donor", "ece_at_half"):
        assert vars(found[metric]) == pytest.approx(vars(once[metric]))


def test_donors_with_fewer_than_three_cells_have_no_say_in_figures_per_donor():
    label, score, donor, fold = scored()
    more = [np.append(v, [x] * 2) for v, x in zip((label, score, donor, fold), (False, 0.9, "Hfew", 0), strict=True)]
    before, after = (DonorScores.of(*v).summary(10) for v in ((label, score, donor, fold), more))
    assert after["specificity_per_donor"].value == before["specificity_per_donor"].value
    assert after["healthy_donors"] == after["counted_donors"] + 1
    assert after["specificity"].value < before["specificity"].value


def test_classes_and_donors_weigh_the_same():
    labels, donors = [0] * 9 + [0] + [1] * 2, ["a"] * 9 + ["b"] + ["c"] * 2
    weights = donor_weights(labels, donors)
    assert [weights[np.array(donors) == d].sum() for d in "abc"] == pytest.approx([0.25, 0.25, 0.5])


def test_calibration_error_counts_donors_and_classes_the_same():
    # All sick cells stated 0.9 (error 0.1); healthy donors state 0.1 (30 cells) and 0.3 (3 cells).
    label = np.array([True] * 10 + [False] * 33)
    score = np.array([0.9] * 10 + [0.1] * 30 + [0.3] * 3)
    donor = np.array(["A"] * 10 + ["H1"] * 30 + ["H2"] * 3)
    assert DonorScores.of(label, score, donor).summary(10)["ece_at_half"].value == pytest.approx(
        0.5 * 0.1 + 0.5 * (0.1 + 0.3) / 2
    )


def test_a_model_differs_from_itself_by_nothing():
    scores = DonorScores.of(*scored())
    assert vars(difference(scores, scores)) == {"value": 0.0, "low": 0.0, "high": 0.0}
    with pytest.raises(ValueError, match="same donors"):
        difference(scores, DonorScores.of(*scored(healthy=4)))


@pytest.mark.parametrize(
    ("label", "score", "donor", "reason"),
    [
        ([1, 0], [0.5, 0.5], ["a", "a"], "donor a has images of both classes"),
        ([1, 1], [0.5, 0.5], ["a", "b"], "donors of both classes"),
        ([1, 0], [0.5, 1.5], ["a", "b"], "0 to 1"),
        ([1, 0], [0.5, np.nan], ["a", "b"], "0 to 1"),
        ([1, 0, 0], [0.5, 0.5], ["a", "b"], "shape"),
    ],
)
def test_scores_that_have_no_figures_by_donor_are_refused(label, score, donor, reason):
    with pytest.raises(ValueError, match=reason):
        DonorScores.of(label, score, donor)
