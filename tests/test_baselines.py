"""Baselines without a network: exact features, fitted on training images only."""

import numpy as np
import pytest
from helpers_fold_networks import SIDE, cell, field

from train import baselines
from train.datasets.splits import Split


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_cell_area_counts_what_is_not_black():
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[2:5, 1:4, 2] = 90
    pixels[6, 6] = 7  # as noise or compression leave the black around a cell
    assert baselines.cell_area(pixels) == pytest.approx(np.log(9))


def test_the_colour_of_a_cell_does_not_depend_on_its_size():
    small, large = (cell(radius, (75, 35, 90), 0, rng()) for radius in (8, 20))
    assert baselines.cell_colour_histogram(small) == pytest.approx(baselines.cell_colour_histogram(large))
    assert (baselines.colour_histogram(small) != baselines.colour_histogram(large)).any()
    assert baselines.cell_colour_histogram(np.zeros((SIDE, SIDE, 3), np.uint8))[0] == 1


def test_nuclear_area_grows_with_the_nuclei():
    none, some, many = (baselines.nuclear_area(field(n, None, rng()))[0] for n in (0, 4, 8))
    assert none == 0 and many - some == pytest.approx(np.log(2), abs=0.05)


def test_held_out_probabilities_never_use_the_labels_they_are_compared_with():
    x, labels = rng().normal(0, 1, (40, 2)), np.arange(40) % 2
    x[:, 0] += labels
    folds = [tuple(range(0, 20)), tuple(range(20, 40))]
    splits = [Split(folds[1 - k], (), folds[k], "two", k, 0) for k in (0, 1)]
    before = baselines.held_out_probabilities(x, labels, splits)
    assert before.sum(axis=1) == pytest.approx(1)
    after = baselines.held_out_probabilities(x, np.where(np.arange(40) < 20, 1 - labels, labels), splits)
    assert (after[:20] == before[:20]).all() and (after[20:] != before[20:]).any()
