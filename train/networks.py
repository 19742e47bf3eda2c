"""Networks: backbones with the heads the recipes ask for, and where their first weights come from."""

from dataclasses import asdict
from pathlib import Path

import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from safetensors.torch import load_file
from timm.models import get_pretrained_cfg
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import Tensor, nn

from blastlens.errors import BlastlensError
from train.calibration import Scaling
from train.modeling_blastlens import OURS, build_network, enhance
from train.recipe import Preprocess, Recipe

HUB_TIME_LIMIT_S = 10.0


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


def find_weights(source: str, backbone: str) -> Path:
    """The safetensors file for `backbone` in a folder, or `source` itself when it is a file."""
    path = Path(source)
    if path.is_file():
        return path
    found = sorted(path.glob(f"{backbone}.*safetensors"))
    if not found:
        raise BlastlensError(f"No {backbone}.*.safetensors in {source}; give a folder or file that has it.")
    return found[0]


def check_weights(recipe: Recipe, weights: str) -> None:
    """Find out within seconds whether the first weights can be loaded, before images are decoded.

    Raises:
        BlastlensError: no file in the folder, or the Hub cannot be reached and its cache has no copy.
    """
    if recipe.backbone in OURS or weights == "scratch":
        return
    if weights != "hub":
        find_weights(weights, recipe.backbone)
        return
    repo_id = getattr(get_pretrained_cfg(recipe.backbone, allow_unregistered=False), "hf_hub_id", None)
    if not repo_id:
        raise BlastlensError(f"There are no first weights of {recipe.backbone} on the Hub; give --weights scratch.")
    if isinstance(try_to_load_from_cache(repo_id, "model.safetensors"), str):
        return
    try:
        HfApi().model_info(repo_id, timeout=HUB_TIME_LIMIT_S)
    except Exception as error:  # the client's exceptions may hold a token, so they are not chained
        reason = type(error).__name__
    else:
        return
    raise BlastlensError(
        f"The first weights {repo_id} are not on this machine and cannot be downloaded ({reason}); give --weights with "
        f"a folder that holds {recipe.backbone}.*.safetensors, or --weights scratch."
    )


def _load_backbone(network: nn.Module, path: Path) -> None:
    """Load everything but the classifier; a file that does not fit is refused."""
    classifier = classifier_name(network)
    state = {k: v.float() for k, v in load_file(path).items() if not k.startswith(f"{classifier}.")}
    if hasattr(network, "pos_embed"):
        state = checkpoint_filter_fn(state, network)  # to the network's image size
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = [k for k in missing if not k.startswith(f"{classifier}.")]
    if missing or unexpected:
        raise BlastlensError(f"{path.name} does not fit the network: {len(missing)} missing, {len(unexpected)} extra.")
