"""Parameters and multiply-adds: exact on networks small enough to count by hand, and timm's known ones."""

import json
import shutil

import pytest
import timm
import torch
from torch import nn

from train import complexity
from train.complexity import count_parameters, multiply_adds
from train.recipe import RECIPES


def test_a_tiny_network_is_counted_as_by_hand():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, bias=False),  # 8 x 8 outputs, each of 4 channels takes 27
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4),  # 4 x 4 outputs, each of 4 channels takes 9
        nn.Flatten(),
        nn.Linear(64, 5),
    )
    network[1].weight.requires_grad_(False)
    network.train()
    assert count_parameters(network) == 108 + 8 + 40 + 325
    assert multiply_adds(network, 8) == 64 * 4 * 27 + 16 * 4 * 9 + 64 * 5
    assert network.training and torch.equal(network[1].running_mean, torch.zeros(4))


def test_attention_is_counted():
    dim, heads, tokens = 8, 2, 16
    attention = timm.layers.Attention(dim, heads, qkv_bias=True)
    network = nn.Sequential(nn.Conv2d(3, dim, 2, stride=2), nn.Flatten(2), _Swap(), attention)
    linear = tokens * dim * (3 * dim) + tokens * dim * dim
    assert multiply_adds(network, 8) == tokens * dim * 12 + linear + 2 * tokens * tokens * dim


class _Swap(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(1, 2)


@pytest.mark.parametrize(("name", "billions"), [("mobilenetv1_100", 0.569)])
def test_known_networks_have_their_known_size(name, billions):
    assert multiply_adds(timm.create_model(name), 224) / 1e9 == pytest.approx(billions, abs=0.001)


def test_the_recorded_sizes_are_those_of_every_recipes_network(tmp_path, monkeypatch):
    recorded = json.loads((RECIPES.parents[1] / "results" / "networks.json").read_text())
    assert set(recorded) == {path.stem for path in RECIPES.glob("*.yaml")}
    monkeypatch.setattr(complexity, "RECIPES", tmp_path)
    for name in ("alnett", "p0_mobilenetv2"):
        shutil.copy(RECIPES / f"{name}.yaml", tmp_path)
    assert complexity.main([str(tmp_path / "networks.json")]) == 0
    again = json.loads((tmp_path / "networks.json").read_text())
    assert again == {name: recorded[name] for name in ("alnett", "p0_mobilenetv2")}
