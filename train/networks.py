"""Networks: backbones with the heads the recipes ask for, starting from first weights."""

from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from blastlens.errors import BlastlensError
from train.calibration import Scaling
from train.first_weights import find_weights
from train.modeling_blastlens import build_network, enhance
from train.recipe import OURS, Preprocess, Recipe


def create_network(recipe: Recipe, num_classes: int, weights: str = "hub") -> nn.Module:
    """Build the recipe's network, (N, 3, H, W) normalised pixels -> (N, num_classes) logits.

    `weights` is where the backbone starts: "hub" (timm's `pretrained=True`), "scratch", or a folder that holds
    `<backbone>.*.safetensors`, or one such file. Networks of ours are always random. The last linear layer always
    starts near zero: timm's EfficientNet family starts a classifier of two classes at a loss of 2 instead of 0.69.
    """
    if recipe.backbone in OURS:
        weights = "scratch"
    head, hub = recipe.head, weights == "hub"
    try:
        network = build_network(recipe.backbone, num_classes, recipe.image_size, head.hidden, head.dropout, hub)
    except (RuntimeError, ValueError) as error:
        raise BlastlensError(f"{recipe.backbone!r} cannot be built from {weights!r}: {error}") from None
    if weights not in ("hub", "scratch"):
        _load_backbone(network, find_weights(weights, recipe.backbone))
    linear = head_linear(network)
    if head.uniform:
        nn.init.uniform_(linear.weight, -head.uniform, head.uniform)
    else:
        nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    if head.batch_norm:
        *hidden, last = _head_layers(network)
        _set_head(network, [*hidden, nn.BatchNorm1d(last.in_features), last])
    for name, parameter in network.named_parameters():
        if name.startswith(recipe.frozen):
            parameter.requires_grad_(False)
    return network


def prepare(recipe: Recipe, images: Tensor) -> Tensor:
    """The recipe's fixed steps on pixels (N, 3, H, W) on the 0 to 255 scale, which stay on that scale."""
    steps = recipe.preprocess
    return images if steps == Preprocess() else enhance(images.float(), **asdict(steps))


def normalise(recipe: Recipe, images: Tensor) -> Tensor:
    """Pixels (N, 3, H, W) on the 0 to 255 scale -> what the recipe's network takes."""
    mean, std = (
        torch.tensor(values, device=images.device).view(1, 3, 1, 1)
        for values in (recipe.channel_mean, recipe.channel_std)
    )
    x = (images.float() / 255 - mean) / std
    return x.contiguous(memory_format=torch.channels_last)


def classifier_name(network: nn.Module) -> str:
    """Path of the module after the pooled features, as timm names it; may be dotted, as vgg16's "head.fc"."""
    return network.pretrained_cfg["classifier"]


def head_linear(network: nn.Module) -> nn.Linear:
    """The last linear layer, behind the head's hidden layers and batch norm where there are any."""
    return _head_layers(network)[-1]


def fold_head(network: nn.Module, scaling: Scaling | None = None) -> None:
    """Fold the head's batch norm, then the calibration, if any, into the last linear layer, in place."""
    *before, last = _head_layers(network)
    with torch.no_grad():
        if before and isinstance(before[-1], nn.BatchNorm1d):
            norm = before.pop()
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            last.bias += last.weight @ (norm.bias - norm.running_mean * scale)
            last.weight *= scale
            _set_head(network, [*before, last])
        if scaling:
            last.weight /= scaling.temperature
            last.bias.copy_(last.bias / scaling.temperature + torch.tensor(scaling.bias))


def _head_layers(network: nn.Module) -> list[nn.Module]:
    head = network.get_submodule(classifier_name(network))
    layers = list(head) if isinstance(head, nn.Sequential) else [head]
    if not isinstance(layers[-1], nn.Linear):
        raise BlastlensError(f"The head of {type(network).__name__} does not end in a linear layer, which is needed.")
    return layers


def _set_head(network: nn.Module, layers: list[nn.Module]) -> None:
    network.set_submodule(classifier_name(network), layers[0] if len(layers) == 1 else nn.Sequential(*layers))


def _load_backbone(network: nn.Module, path: Path) -> None:
    """Load everything but the classifier; a file that does not fit is refused."""
    classifier = classifier_name(network)
    state = {k: v.float() for k, v in load_file(path).items() if not k.startswith(f"{classifier}.")}
    if hasattr(network, "pos_embed"):
        state = checkpoint_filter_fn(state, network)  # to the network's image size
    missing, unexpected = network.load_state_dict(state, strict=False)
    # The dense layers of VGG start from random weights where the file holds the convolutions alone.
    missing = [k for k in missing if not k.startswith((f"{classifier}.", "pre_logits."))]
    if missing or unexpected:
        raise BlastlensError(f"{path.name} does not fit the network: {len(missing)} missing, {len(unexpected)} extra.")
