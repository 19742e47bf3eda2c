"""Learning from another network: a teacher that has seen no more of the data than its student may.

A network of kept folds (`train.folds`) teaches the same fold of the same protocol, seed and dataset; a model folder,
which was fitted on every image there is, teaches only who is fitted on all of them too.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder
from train.networks import create_network, fold_head
from train.recipe import Recipe

ALL = "all"  # the protocol that holds nothing out


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network that answers and does not learn.

    Attributes:
        network: normalised pixels (N, 3, S, S) to logits (N, C), in evaluation mode.
        mean, std: per channel, on the 0 to 1 scale, that it was trained with. size: S.
        source: what it is, for the record.
    """

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    source: str

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Pixels (N, 3, S, S) on the 0 to 255 scale -> float32 logits (N, C).

        In half the precision where the machine is quicker with it: a hundredth of a logit is nothing to learn from.
        """
        device = images.device
        if next(self.network.parameters()).device != device:
            self.network.to(device)
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        x = ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=_quick_in_bf16(device)):
            return self.network(x).float()


def _quick_in_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def imitation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(N,) how far the student's softened answers are from the teacher's: their Kullback-Leibler divergence, times the
    temperature squared, which keeps gradients of the same size at every temperature (Hinton et al. 2015)."""
    mine, theirs = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return F.kl_div(mine, theirs, reduction="none", log_target=True).sum(1) * temperature**2


def load_teacher(
    folder: Path, recipe: Recipe, protocol: str, fold: int, seed: int, dataset: str, label_names: tuple[str, ...]
) -> Teacher:
    """The network of `folder` that may teach this run.

    Args:
        folder: what `train.folds` keeps of a cross-validation, or a model folder.
        recipe, protocol, fold, seed: of the student's run. dataset: its images' hash.
        label_names: in the student's order.

    Raises:
        BlastlensError: neither, one that has seen what this run holds out, or one that looks at other images.
    """
    if (folder / "folds.json").is_file():
        teacher = _of_folds(folder, protocol, fold, seed, dataset, len(label_names))
    elif (folder / "config.json").is_file():
        teacher = _of_model(folder, protocol, label_names)
    else:
        raise BlastlensError(f"{folder} is no teacher; give a folder of train.folds, or a model folder.")
    if teacher.size != recipe.image_size:
        raise BlastlensError(
            f"The teacher in {folder.name} looks at {teacher.size} px and the student at {recipe.image_size} px; both "
            "must see the same images."
        )
    return teacher


def _of_folds(folder: Path, protocol: str, fold: int, seed: int, dataset: str, classes: int) -> Teacher:
    record = json.loads((folder / "folds.json").read_text())
    theirs = (record["protocol"], record["seed"], record["dataset_sha256"])
    if theirs != (protocol, seed, dataset):
        raise BlastlensError(
            f"The networks in {folder.name} were trained on {theirs[0]}, seed {theirs[1]}, and this run is "
            f"{protocol}, seed {seed}, on {'the same' if theirs[2] == dataset else 'other'} images; they may have seen "
            "what it holds out."
        )
    file = folder / f"fold{fold}.safetensors"
    recipe = Recipe.from_dict(record["recipe"])
    network = create_network(recipe, classes, "scratch")
    fold_head(network)  # as it was kept
    network.load_state_dict({name: tensor.float() for name, tensor in load_file(file).items()})
    source = f"{folder.name}, fold {fold}, {_digest(file)}"
    return Teacher(_still(network), recipe.channel_mean, recipe.channel_std, recipe.image_size, source)


def _of_model(folder: Path, protocol: str, label_names: tuple[str, ...]) -> Teacher:
    if protocol != ALL:
        raise BlastlensError(
            f"Model {folder.name} was fitted on every image, also on those that {protocol} holds out; give the "
            "networks of its cross-validation, which train.folds keeps."
        )
    import timm

    model = ModelFolder.load(folder)
    if "auto_map" in model.config or model.label_names != label_names:
        raise BlastlensError(f"Model {folder.name} cannot teach this run: a plain timm model of its labels is needed.")
    file = folder / "model.safetensors"
    network = timm.create_model(
        model.config["architecture"], num_classes=len(label_names), **model.config.get("model_args") or {}
    )
    network.load_state_dict(load_file(file))
    view = model.view
    return Teacher(_still(network), view.mean, view.std, view.size, f"{folder.name}, {_digest(file)}")


def _still(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
