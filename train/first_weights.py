"""Where a backbone's first weights come from: the Hub, a folder, a file, or nowhere."""

from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache

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
