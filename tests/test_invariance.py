"""Training for features that do not depend on the donor, and averages of weights."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from transformers import TrainerControl, TrainerState

from train import invariance
from train.finetune import AverageWeights, shrunk
from train.recipe import Recipe


@pytest.mark.parametrize(
    ("features", "spread"),
    [([[1.0, 0], [-1, 0], [0, 2], [0, -2]], 0), ([[1.0, 0], [1, 0], [0, 5], [0, 5]], 1)],
    ids=["one centre", "points"],
)
def test_spread_is_0_for_groups_of_one_centre_and_1_for_points(features, spread):
    found = invariance.group_spread(torch.tensor(features), torch.zeros(4), torch.tensor([0, 0, 1, 1]))
    assert found == pytest.approx(spread)


def test_spread_is_within_classes_and_its_slope_asks_for_less():
    one_group_each = torch.tensor([[0.0], [0], [9], [9]])
    assert invariance.group_spread(one_group_each, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 1, 1])) == 0
    features = torch.randn((12, 4), generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, groups = torch.zeros(12), torch.arange(12) % 3
    before = invariance.group_spread(features, labels, groups)
    before.backward()
    with torch.no_grad():
        assert invariance.group_spread(features - 0.5 * features.grad, labels, groups) < before


class _Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Identity(), nn.Identity(), nn.Identity())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


def test_mixstyle_changes_means_in_half_of_the_training_batches_and_nothing_in_evaluation():
    x = torch.randn((6, 3, 5, 5), generator=torch.Generator().manual_seed(1)) + torch.arange(6.0).view(6, 1, 1, 1)
    network, mixed = _Stages(), []
    style = invariance.MixStyle(network, 0.3)
    for seed in range(20):
        style.draw(6, torch.Generator().manual_seed(seed))
        mixed.append(not torch.equal(network.train()(x), x))
        assert torch.equal(network.eval()(x), x)
    assert 4 < sum(mixed) < 16
    style.remove()
    assert torch.equal(network.train()(x), x)


def test_an_even_average_is_of_the_last_share_of_the_steps():
    recipe = Recipe.from_dict(
        {"name": "a", "title": "", "dataset": "cnmc2019", "backbone": "b", "protocol": "all", "average": 0.5}
    )
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))  # whose count of batches is whole
    keeper = AverageWeights(network, recipe)
    state, control = TrainerState(max_steps=4), TrainerControl()
    for step in range(1, 5):
        network[0].weight.data.fill_(step)
        state.global_step = step
        keeper.on_step_end(None, state, control)
    assert keeper.average.module[0].weight.item() == pytest.approx((3 + 4) / 2)


def test_shrinking_keeps_the_mean():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    small = shrunk(copy.deepcopy(images), 16)
    assert small.shape == (2, 3, 16, 16)
    assert small.mean() == pytest.approx(images.float().mean(), abs=2)
