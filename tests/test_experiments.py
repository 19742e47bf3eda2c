"""What was tried: which trials are compared with which, and how optimistic the choice of the best one is."""

import dataclasses

import numpy as np
import pytest
from helpers_results import made_up_result

from blastlens import bootstrap
from blastlens.errors import BlastlensError
from train import experiments
from train.recipe import Recipe

RECIPE = Recipe.load("ours_cnmc2019")
SIGMAS = (0.0, 10.0, 20.0, 50.0)


def trial(name: str, seed: int = 0, skill: float = 1.0) -> experiments.Trial:
    results = [
        made_up_result(seed=seed + k, skill=skill, fold=k, index=24 * k + np.arange(24), sigmas=SIGMAS)
        for k in range(3)
    ]
    return experiments.Trial.of(name, RECIPE, results)


def right_on(base: experiments.Trial, name: str, folds: set[int]) -> experiments.Trial:
    """A trial that is right on these folds and wrong on the others."""
    label = base.images.label
    answer = np.where(np.isin(base.images.fold, list(folds)), label, 1 - label)
    probabilities = dict.fromkeys(SIGMAS, np.where(np.eye(2)[answer] > 0, 0.9, 0.1))
    return dataclasses.replace(
        base, name=name, probabilities=probabilities, without=dict.fromkeys(range(3), probabilities)
    )


def test_each_fold_is_answered_by_the_trial_that_was_best_on_the_others():
    base = trial("a")
    first, last = right_on(base, "good on 0 and 1", {0, 1}), right_on(base, "good on 2", {2})
    made = experiments.choice([first, last])
    assert made["best"] == "good on 0 and 1"
    # Folds 0 and 1 hold only one of the other two folds each, so both trials are equal there and the first is taken;
    # fold 2 is answered by the trial that is wrong on it.
    assert made["by_fold"][2] == "good on 0 and 1"
    assert made["chosen_by_other_folds"] == pytest.approx(made["of_best"])


def test_a_fold_does_not_choose_the_trial_that_answers_it():
    base = trial("a")
    one, two = right_on(base, "one", {0}), right_on(base, "two", {1, 2})
    assert experiments.choice([one, two])["by_fold"] == {0: "two", 1: "one", 2: "one"}


def test_trials_that_lack_a_level_of_the_criterion_are_not_chosen():
    base = trial("a", skill=0.2)
    best = right_on(base, "clean only", {0, 1, 2})
    assert (
        experiments.choice([base, dataclasses.replace(best, probabilities={0.0: best.probabilities[0.0]})])["best"]
        == "a"
    )


def test_a_trial_of_other_images_is_rejected():
    base = trial("a")
    other = dataclasses.replace(base.images, index=base.images.index + 1)
    with pytest.raises(BlastlensError, match="other images or splits"):
        experiments.compared([base, dataclasses.replace(base, name="b", images=other)])


def test_differences_are_those_of_a_paired_bootstrap():
    base, other = trial("a", skill=0.4), trial("b", seed=9, skill=1.5)
    row = experiments.compared([base, other])["trials"][1]["by_sigma"][0]
    of_both = (other.probabilities[0.0], base.probabilities[0.0])
    found = bootstrap.difference(base.images.label, *of_both, base.images.group, "weighted_f1", positive=0)
    assert row["difference"]["weighted_f1"] == found


def test_a_folder_without_every_fold_is_rejected(tmp_path):
    path = made_up_result(fold=0).write(tmp_path)
    with pytest.raises(BlastlensError, match="every fold"):
        experiments.every_fold(path.parent)
