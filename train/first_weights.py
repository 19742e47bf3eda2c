"""Where a backbone's first weights come from: the Hub, a folder, a file, or nowhere."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from safetensors import safe_open

from blastlens.errors import BlastlensError
from train.recipe import OURS, Recipe

HUB_TIME_LIMIT_S = 10.0


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
    from timm.models import get_pretrained_cfg  # takes seconds

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


def with_statistics(recipe: Recipe, weights: str) -> Recipe:
    """The recipe with the mean and std that its first weights were trained with.

    Weights of the Hub name theirs in timm's `pretrained_cfg`. A safetensors file does where its metadata hold a
    `pretrained_cfg` (JSON), or where its name has a tag of timm, as `resnet50.a1_in1k.safetensors`. Other files and
    random weights leave the recipe as it is.
    """
    if recipe.backbone in OURS or weights == "scratch":
        return recipe
    known = _statistics(recipe.backbone if weights == "hub" else find_weights(weights, recipe.backbone))
    return replace(recipe, **{name: tuple(known[name]) for name in ("mean", "std") if known.get(name)})


def _statistics(source: str | Path) -> Mapping[str, Sequence[float]]:
    """Mean and std of a backbone's weights on the Hub, or of a file; empty where it does not say."""
    from timm.models import get_pretrained_cfg  # takes seconds

    if isinstance(source, Path):
        with safe_open(source, "pt") as file:
            metadata = file.metadata() or {}
        if "pretrained_cfg" in metadata:
            return json.loads(metadata["pretrained_cfg"])
        source = source.name.removesuffix(".safetensors")
    try:
        found = get_pretrained_cfg(source, allow_unregistered=False)
    except RuntimeError:  # no tag of timm
        return {}
    return {"mean": found.mean, "std": found.std}
