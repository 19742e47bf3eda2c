"""Networks: where weights come from, heads, and that folding the head changes no answer."""

import math

import pytest
import torch
from safetensors.torch import save_file

from blastlens.errors import BlastlensError
from train.backbones import create_network, fold_head, head_linear
from train.recipe import Head, Recipe


def recipe(**changes) -> Recipe:
    base = {
        "name": "small",
        "title": "small",
        "dataset": "cnmc2019",
        "backbone": "mobilenetv2_035",
        "protocol": "all",
    }
    return Recipe.from_dict(base | changes)


@pytest.mark.parametrize("backbone", ["mobilenetv2_035", "mobilenetv1_100"])
def test_a_new_head_starts_at_the_loss_of_guessing(backbone):
    # timm's own initialisation of a two-class MobileNet head starts near a loss of 2.
    torch.manual_seed(0)
    network = create_network(recipe(backbone=backbone), 2, "scratch").eval()
    logits = network(torch.randn(8, 3, 64, 64))
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(8) % 2)
    assert loss.item() == pytest.approx(math.log(2), abs=0.05)


def test_folding_batch_norm_and_temperature_keeps_calibrated_logits():
    torch.manual_seed(0)
    network = create_network(recipe(head={"dropout": 0.2, "batch_norm": True}), 3, "scratch")
    norm = network.classifier[0]
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    network.eval()
    x = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        expected = network(x) / 1.7
    fold_head(network, 1.7)
    with torch.inference_mode():
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    assert isinstance(network.classifier, torch.nn.Linear)


def test_weights_from_a_folder_are_the_files_and_the_head_is_new(tmp_path):
    source = create_network(recipe(), 2, "scratch")
    save_file(
        {k: v.contiguous() for k, v in source.state_dict().items()},
        tmp_path / "mobilenetv2_035.in1k.safetensors",
    )
    network = create_network(recipe(), 4, str(tmp_path))
    assert torch.equal(network.conv_stem.weight, source.conv_stem.weight)
    assert network.classifier.weight.shape[0] == 4


def test_imagenet_weights_load_completely(weights_dir):
    network = create_network(recipe(backbone="mobilenetv1_100"), 2, str(weights_dir))
    scratch = create_network(recipe(backbone="mobilenetv1_100"), 2, "scratch")
    assert not torch.equal(network.conv_stem.weight, scratch.conv_stem.weight)


def test_a_folder_without_the_weights_says_what_is_missing(tmp_path):
    with pytest.raises(BlastlensError, match=r"No mobilenetv2_035\.\*\.safetensors"):
        create_network(recipe(), 2, str(tmp_path))


def test_weights_of_another_network_are_refused(tmp_path):
    save_file({"conv_stem.weight": torch.zeros(16, 3, 3, 3)}, tmp_path / "mobilenetv2_035.in1k.safetensors")
    with pytest.raises(BlastlensError, match="does not fit"):
        create_network(recipe(), 2, str(tmp_path))


def test_frozen_prefixes_are_not_trained():
    network = create_network(recipe(frozen=["conv_stem", "blocks.0"]), 2, "scratch")
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert "conv_stem.weight" in frozen and all(n.startswith(("conv_stem", "blocks.0")) for n in frozen)
    assert head_linear(network).weight.requires_grad


def test_unknown_backbone_is_one_sentence():
    with pytest.raises(BlastlensError, match="no_such_net"):
        create_network(recipe(backbone="no_such_net"), 2, "scratch")


def test_head_defaults_add_nothing():
    assert Head() == Head(dropout=0.0, batch_norm=False, l1=0.0)
