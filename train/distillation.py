"""Knowledge distillation: a teacher that has seen no more of the data than its student may.

The fold networks of a cross-validation teach the same fold of the same protocol, seed and dataset. A model folder,
fitted on every image, teaches only students that are fitted on all of them too.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder
from train.networks import create_network
from train.precision import fast_in_bf16
from train.recipe import Recipe

ALL = "all"  # the protocol that holds nothing out


@dataclass(frozen=True, eq=False)
class Teacher:
    """A frozen network, normalised pixels (N, 3, size, size) to logits (N, C); the mean and std per channel that it was
    trained with; and what it is, for the record."""

    network: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    source: str

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Pixels (N, 3, S, S) on the 0 to 255 scale -> float32 logits (N, C).

        Computed in bf16 where that is faster: a hundredth of a logit does not matter to the student.
        """
        device = images.device
        self.network.to(device)
        mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        x = ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=fast_in_bf16(device)):
            return self.network(x).float()


def imitation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return (N,) the Kullback-Leibler divergence of softened predictions, times the temperature squared, which keeps
    gradients of the same size at every temperature (Hinton et al. 2015)."""
    log_student, log_teacher = (F.log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1) * temperature**2


def load_teacher(
    folder: Path, recipe: Recipe, protocol: str, fold: int, seed: int, dataset: str, label_names: tuple[str, ...]
) -> Teacher:
    """Load the network in `folder`, of train.crossval or a model folder, that may teach this run.

    Args:
        recipe, protocol, fold, seed: of the student's run. dataset: its images' hash.
        label_names: in the student's order.

    Raises:
        BlastlensError: there is no such network, it has seen what this run holds out, or its images have another size.
    """
    if (folder / "config.json").is_file():
        teacher = _of_model(folder, protocol, label_names)
    else:
        teacher = _of_fold(folder, protocol, fold, seed, dataset, len(label_names))
    if teacher.size != recipe.image_size:
        raise BlastlensError(
            f"The teacher in {folder.name} sees {teacher.size} px and the student {recipe.image_size} px; both must "
            "see the same images."
        )
    return teacher


def _of_fold(folder: Path, protocol: str, fold: int, seed: int, dataset: str, classes: int) -> Teacher:
    run = folder / f"seed{seed}-fold{fold}"
    if not (run / "run.json").is_file():
        raise BlastlensError(
            f"{folder} has no finished run of seed {seed}, fold {fold}; give a folder of train.crossval that has it, "
            "or a model folder."
        )
    record = json.loads((run / "run.json").read_text())
    theirs = (record["protocol"], record["seed"], record["dataset"]["hash"])
    if theirs != (protocol, seed, dataset):
        raise BlastlensError(
            f"The networks in {folder.name} were trained on {theirs[0]}, seed {theirs[1]}, and this run is "
            f"{protocol}, seed {seed}, on {'the same' if theirs[2] == dataset else 'other'} images; they may have seen "
            "what it holds out."
        )
    file, recipe = run / "model.safetensors", Recipe.of_record(record)
    network = create_network(recipe, classes, "scratch")
    network.load_state_dict(load_file(file))
    source = f"{folder.name}, fold {fold}, {_digest(file)}"
    return Teacher(_frozen(network), recipe.channel_mean, recipe.channel_std, recipe.image_size, source)


def _of_model(folder: Path, protocol: str, label_names: tuple[str, ...]) -> Teacher:
    if protocol != ALL:
        raise BlastlensError(
            f"Model {folder.name} was fitted on every image, also on those that {protocol} holds out; give the folder "
            "of its cross-validation."
        )
    model = ModelFolder.load(folder)
    if "auto_map" in model.config or model.label_names != label_names:
        raise BlastlensError(f"Model {folder.name} cannot teach this run: a plain timm model of its labels is needed.")
    file, view = folder / "model.safetensors", model.view
    network = timm.create_model(
        model.config["architecture"], num_classes=len(label_names), **model.config.get("model_args") or {}
    )
    network.load_state_dict(load_file(file))
    return Teacher(_frozen(network), view.mean, view.std, view.size, f"{folder.name}, {_digest(file)}")


def _frozen(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]
