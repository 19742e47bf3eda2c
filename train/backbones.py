"""Networks: timm backbones with the heads the recipes ask for, and where their first weights come from."""

from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import nn

from blastlens.errors import BlastlensError
from train.recipe import Recipe


def create_network(recipe: Recipe, num_classes: int, weights: str = "hub") -> nn.Module:
    """Build the recipe's network, (N, 3, H, W) normalised pixels -> (N, num_classes) logits.

    `weights` is where the backbone starts: "hub" (timm's `pretrained=True`), "scratch", or a folder that holds
    `<backbone>.*.safetensors`, or one such file. The classifier itself always starts near zero: timm's
    EfficientNet family draws a small classifier from a range of 1/sqrt(num_classes), which with two classes
    starts at a loss of 2 instead of 0.69.
    """
    try:
        network = timm.create_model(
            recipe.backbone,
            pretrained=weights == "hub",
            num_classes=num_classes,
            drop_rate=recipe.head.dropout,
        )
    except RuntimeError as error:
        raise BlastlensError(f"timm cannot build {recipe.backbone!r} from {weights!r}: {error}") from None
    if weights not in ("hub", "scratch"):
        _load_backbone(network, find_weights(weights, recipe.backbone))
    linear = network.get_classifier()
    if not isinstance(linear, nn.Linear):
        raise BlastlensError(f"The head of {recipe.backbone!r} is not one linear layer, which export relies on.")
    nn.init.normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    if recipe.head.batch_norm:
        setattr(network, classifier_name(network), nn.Sequential(nn.BatchNorm1d(linear.in_features), linear))
    for name, parameter in network.named_parameters():
        if name.startswith(recipe.frozen):
            parameter.requires_grad_(False)
    return network


def classifier_name(network: nn.Module) -> str:
    """Attribute that holds the last linear layer, as timm names it."""
    return network.pretrained_cfg["classifier"]


def head_linear(network: nn.Module) -> nn.Linear:
    """The last linear layer, behind the head's batch norm where there is one."""
    head = getattr(network, classifier_name(network))
    return head[-1] if isinstance(head, nn.Sequential) else head


def fold_head(network: nn.Module, temperature: float) -> None:
    """Fold the head's batch norm, then the division by `temperature`, into the one linear layer, in place.

    Both are affine, so the network stays a plain timm model and its softmax is calibrated.
    """
    name = classifier_name(network)
    head = getattr(network, name)
    with torch.no_grad():
        if isinstance(head, nn.Sequential):
            norm, linear = head
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            linear.bias += linear.weight @ (norm.bias - norm.running_mean * scale)
            linear.weight *= scale
            setattr(network, name, linear)
            head = linear
        head.weight /= temperature
        head.bias /= temperature


def find_weights(source: str, backbone: str) -> Path:
    """The safetensors file for `backbone` in a folder, or `source` itself when it is a file."""
    path = Path(source)
    if path.is_file():
        return path
    found = sorted(path.glob(f"{backbone}.*safetensors"))
    if not found:
        raise BlastlensError(f"No {backbone}.*.safetensors in {source}; give a folder or file that has it.")
    return found[0]


def _load_backbone(network: nn.Module, path: Path) -> None:
    """Load everything but the classifier; a file that does not fit is refused."""
    classifier = classifier_name(network)
    state = {k: v.float() for k, v in load_file(path).items() if not k.startswith(f"{classifier}.")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [k for k in missing if not k.startswith(f"{classifier}.")]
    if missing or unexpected:
        raise BlastlensError(f"{path.name} does not fit the network: {len(missing)} missing, {len(unexpected)} extra.")
