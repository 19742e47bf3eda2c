"""Networks: initial weights, heads, and that folding the head keeps the logits."""

import math

import pytest
import torch
from safetensors.torch import save_file

from blastlens.errors import BlastlensError
from train.calibration import Scaling
from train.first_weights import check_weights
from train.networks import classifier_name, create_network, fold_head, head_linear
from train.recipe import Recipe


def recipe(**changes) -> Recipe:
    base = {
        "name": "small",
        "title": "small",
        "dataset": "cnmc2019",
        "backbone": "mobilenetv2_035",
        "protocol": "all",
    }
    return Recipe.from_dict(base | changes)


def test_first_weights_that_cannot_be_loaded_are_reported_before_images_are_read(monkeypatch, tmp_path):
    recipe = Recipe.load("p0_mobilenetv2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for weights, message in (("hub", "give --weights with a folder"), (str(tmp_path), r"No mobilenetv2_100\.\*")):
        with pytest.raises(BlastlensError, match=message):
            check_weights(recipe, weights)
    check_weights(recipe, "scratch")


@pytest.mark.parametrize("backbone", ["mobilenetv2_035", "mobilenetv1_100", "custom_cnn", "alnett"])
def test_a_new_head_starts_at_the_loss_of_guessing(backbone):
    # timm's own initialisation of a two-class MobileNet head starts near a loss of 2.
    torch.manual_seed(0)
    network = create_network(recipe(backbone=backbone, image_size=64), 2, "scratch").eval()
    logits = network(torch.randn(8, 3, 64, 64))
    loss = torch.nn.functional.cross_entropy(logits, torch.arange(8) % 2)
    assert loss.item() == pytest.approx(math.log(2), abs=0.1)


def test_folding_batch_norm_and_calibration_keeps_calibrated_logits():
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
        expected = network(x) / 1.7 + torch.tensor([0.5, -0.8, 0.3])
    fold_head(network, Scaling(1.7, (0.5, -0.8, 0.3)))
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


def test_weights_that_are_missing_or_of_another_network_are_refused(tmp_path):
    with pytest.raises(BlastlensError, match=r"No mobilenetv2_035\.\*\.safetensors"):
        create_network(recipe(), 2, str(tmp_path))
    save_file({"conv_stem.weight": torch.zeros(16, 3, 3, 3)}, tmp_path / "mobilenetv2_035.in1k.safetensors")
    with pytest.raises(BlastlensError, match="does not fit"):
        create_network(recipe(), 2, str(tmp_path))
    with pytest.raises(BlastlensError, match="no_such_net"):
        create_network(recipe(backbone="no_such_net"), 2, "scratch")


def test_frozen_prefixes_are_not_trained():
    network = create_network(recipe(frozen=["conv_stem", "blocks.0"]), 2, "scratch")
    frozen = {name for name, p in network.named_parameters() if not p.requires_grad}
    assert "conv_stem.weight" in frozen and all(n.startswith(("conv_stem", "blocks.0")) for n in frozen)
    assert head_linear(network).weight.requires_grad


@pytest.mark.parametrize("backbone", ["mobilenetv2_035", "test_nfnet", "test_vit", "custom_cnn", "alnett"])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_hidden_layers_precede_the_last_one_and_stay_when_the_head_is_folded(backbone, batch_norm):
    torch.manual_seed(0)
    head = {"hidden": [7, 5], "batch_norm": batch_norm, "dropout": 0.5}
    network = create_network(recipe(backbone=backbone, image_size=64, head=head), 3, "scratch")
    layers = list(network.get_submodule(classifier_name(network)))
    kinds = ["Linear", "ReLU", "Linear", "ReLU", *["BatchNorm1d"] * batch_norm, "Linear"]
    assert [type(layer).__name__ for layer in layers] == kinds
    assert [layer.out_features for layer in layers if isinstance(layer, torch.nn.Linear)] == [7, 5, 3]
    assert head_linear(network) is layers[-1] and layers[-1].weight.std() < 0.02
    if batch_norm:
        layers[-2].running_mean.normal_()
        layers[-2].running_var.uniform_(0.5, 2)
    x = torch.randn(4, 3, 64, 64)
    with torch.inference_mode():
        expected = network.eval()(x) / 1.7
    fold_head(network, Scaling(1.7, (0.0, 0.0, 0.0)))
    with torch.inference_mode():
        torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    kept = network.get_submodule(classifier_name(network))
    assert [type(layer).__name__ for layer in kept] == ["Linear", "ReLU", "Linear", "ReLU", "Linear"]


def test_a_transformer_takes_the_recipes_image_size_and_weights_of_another(tmp_path):
    source = create_network(recipe(backbone="test_vit", image_size=160), 2, "scratch")
    save_file(source.state_dict(), tmp_path / "test_vit.in1k.safetensors")
    network = create_network(recipe(backbone="test_vit", image_size=96), 2, str(tmp_path))
    assert network(torch.zeros(1, 3, 96, 96)).shape == (1, 2)
    assert torch.equal(network.norm.weight, source.norm.weight)
    assert network.pos_embed.shape[1] == 1 + (96 // 16) ** 2
