"""Networks: initial weights, heads, number formats, and that folding the head keeps the logits."""

import copy
import math

import pytest
import torch
from safetensors.torch import save_file

from blastlens.errors import BlastlensError
from train.calibration import Scaling
from train.first_weights import check_weights, with_statistics
from train.networks import _load_backbone, classifier_name, create_network, fold_head, head_linear
from train.precision import quicken_on_cpu
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


def test_mean_and_std_follow_the_first_weights(tmp_path):
    keras = recipe(backbone="mobilenetv2_100")  # -1 to 1, like its weights of Keras
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    on_hub = with_statistics(keras, "hub")
    assert (on_hub.mean, on_hub.std) == imagenet
    assert with_statistics(keras, "scratch") == keras
    assert with_statistics(recipe(backbone="alnett", mean=0.0, std=1.0), "hub").channel_mean == (0, 0, 0)
    empty = {"x": torch.zeros(1)}
    stated = {"pretrained_cfg": '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}'}
    for name, metadata, expected in (
        ("mobilenetv2_100.in1k.safetensors", None, ((0.5,) * 3, (0.5,) * 3)),  # says nothing: the recipe decides
        ("mobilenetv2_100.ra_in1k.safetensors", None, imagenet),  # a tag of timm
        ("mobilenetv2_100.other.safetensors", stated, ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))),
    ):
        save_file(empty, tmp_path / name, metadata)
        found = with_statistics(keras, str(tmp_path / name))
        assert (found.channel_mean, found.channel_std) == expected, name


def test_vgg_starts_from_the_convolutions_alone(tmp_path):
    # The last linear layer and the two before it are new; a missing convolution is refused.
    network = torch.nn.Module()
    network.pretrained_cfg = {"classifier": "head.fc"}
    network.features, network.pre_logits, network.head = (torch.nn.Linear(2, 2) for _ in range(3))
    features = {"features.weight": torch.ones(2, 2), "features.bias": torch.ones(2)}
    network.head = torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)})
    save_file(features, tmp_path / "vgg16.conv.safetensors")
    _load_backbone(network, tmp_path / "vgg16.conv.safetensors")
    assert network.features.weight.eq(1).all()
    save_file({"features.weight": torch.ones(2, 2)}, tmp_path / "vgg16.conv.safetensors")
    with pytest.raises(BlastlensError, match="1 missing"):
        _load_backbone(network, tmp_path / "vgg16.conv.safetensors")


def test_the_last_layer_starts_uniform_where_the_recipe_says_so():
    weight = head_linear(create_network(recipe(head={"uniform": 0.05}), 2, "scratch")).weight.detach()
    assert 0.04 < weight.abs().max() <= 0.05 and weight.std().item() == pytest.approx(0.05 / 3**0.5, rel=0.05)


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


def test_depthwise_convolutions_with_a_stride_stay_in_fp32_under_autocast():
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 4, 3, stride=2, groups=4), torch.nn.Conv2d(4, 2, 1))
    images = torch.rand(2, 4, 8, 8)
    expected = network[0](images)
    quicken_on_cpu(network, "bf16")
    copied = copy.deepcopy(network)  # as an average of weights does
    with torch.no_grad():
        network[0].weight.zero_()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(copied[0](images), expected)
        assert copied(images).dtype is torch.bfloat16
