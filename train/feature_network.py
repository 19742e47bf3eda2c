"""A network that is taught measurements of a cell instead of its label, and a logistic regression on what it measures.

A recipe with `distill.features` trains in two steps. First the backbone learns to predict the standardized features of
`train.cell_features` from augmented pixels; no label is used. Then `LogisticModel` is fitted to the predicted features
of the training cells, and with `distill.probe` another one to the numbers that enter the last layer. All of this is
linear, so it is folded into one layer and the result is a plain timm model.
With few labelled donors this transfers better than fine-tuning: the labels decide only as many numbers as there are
features. The backbone of one run may serve others (`--backbone`): it has seen no label of what they hold out.
A recipe with `second_stage` then trains this network on labels and averages the weights before and after.
"""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from blastlens.errors import BlastlensError
from blastlens.files import make_once, replace
from train import transforms
from train.cell_features import Floats, LogisticModel, columns
from train.networks import create_network, head_linear, normalise
from train.precision import quicken_on_cpu
from train.prediction import predictor
from train.recipe import Recipe

CHECKPOINT = "feature_network.pt"
OUTLIER = 4.0  # standard deviations to which a feature is clipped, so that few odd cells do not decide the loss


def train_backbone(
    recipe: Recipe,
    pixels: np.ndarray,
    targets: Floats,
    train: Sequence[int],
    out: Path,
    *,
    seed: int = 0,
    weights: str = "hub",
    precision: str = "fp32",
) -> nn.Module:
    """Train a network that maps normalized pixels to F features, standardized over the training rows.

    Args:
        pixels: uint8 (N, S, S, 3). targets: (N, F). train: rows that may be used.
        out: folder of the checkpoint, which is written after every epoch and resumed from.
        weights: as for `create_network`.
        precision: "fp32" or "bf16".
    """
    rows = np.asarray(train)
    standardized = (targets - targets[rows].mean(0)) / targets[rows].std(0).clip(1e-6)
    wanted = torch.from_numpy(standardized.clip(-OUTLIER, OUTLIER)).float()
    torch.manual_seed(seed)
    network = create_network(recipe, targets.shape[1], weights).to(memory_format=torch.channels_last)
    quicken_on_cpu(network, precision)
    head = list(head_linear(network).parameters())
    body = [p for p in network.parameters() if p.requires_grad and all(p is not h for h in head)]
    options = recipe.optimizer
    groups = [{"params": body, "lr": options.lr}, {"params": head, "lr": options.head_lr or options.lr}]
    optimizer = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    steps = len(rows) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, [g["lr"] for g in groups], total_steps=recipe.epochs * steps, pct_start=recipe.schedule.warmup or 0.1
    )
    checkpoint, first = out / CHECKPOINT, 0
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(state[name])
        first = state["epochs"]
    for epoch in range(first, recipe.epochs):
        network.train()
        for name, module in network.named_modules():
            if recipe.frozen and name.startswith(recipe.frozen):
                module.eval()  # frozen batch norms keep their statistics, too
        generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
        order = torch.randperm(len(rows), generator=generator).numpy()
        progress = tqdm(range(steps), desc=f"features, epoch {epoch + 1} of {recipe.epochs}", unit="batch")
        for step in progress:
            chosen = np.sort(rows[order[step * recipe.batch_size : (step + 1) * recipe.batch_size]])
            images = torch.from_numpy(np.ascontiguousarray(pixels[chosen])).permute(0, 3, 1, 2)
            augmented = transforms.apply(recipe.augment, images, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                found = network(normalise(recipe, augmented)).float()
            loss = F.mse_loss(found, wanted[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress.set_postfix(loss=f"{loss.item():.3f}")
        state = {name: part.state_dict() for name, part in parts.items()} | {"epochs": epoch + 1}
        replace(checkpoint, lambda part, state=state: torch.save(state, part))
    return network.eval()


def load_backbone(recipe: Recipe, file: Path) -> nn.Module:
    """A feature network that `save_backbone` wrote; raises BlastlensError for a file of another network or features."""
    network = create_network(recipe, len(columns(recipe.distill.features)), "scratch")
    try:
        network.load_state_dict(load_file(file))
    except (OSError, RuntimeError) as error:
        raise BlastlensError(f"{file} is no feature network of this recipe: {error}") from None
    return network.eval().to(memory_format=torch.channels_last)


def save_backbone(network: nn.Module, file: Path) -> None:
    """Write a feature network for `--backbone`."""
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    replace(file, lambda part: save_file(state, part))


def pooled_features(network: nn.Module, recipe: Recipe, pixels: np.ndarray, sigma: float, cache: Path) -> Floats:
    """What enters the last layer, (N, D), of every image under Gaussian noise; cached for this network and images."""
    body, digest = _without_last_layer(network), hashlib.sha256(np.ascontiguousarray(pixels))
    for tensor in body.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    file = cache / f"pooled-{digest.hexdigest()[:16]}-{sigma:g}.npy"

    def compute(part: Path) -> None:
        found = predictor(body, recipe)(pixels, range(len(pixels)), sigma)
        with part.open("wb") as opened:
            np.save(opened, found)

    make_once(file, compute)
    return np.load(file).astype(np.float64)


def _without_last_layer(network: nn.Module) -> nn.Module:
    body = copy.deepcopy(network)
    parent, _, own = _last_layer_name(network).rpartition(".")
    setattr(body.get_submodule(parent), own, nn.Identity())
    return body.eval()


def _last_layer_name(network: nn.Module) -> str:
    last = head_linear(network)
    return next(name for name, module in network.named_modules() if module is last)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """The score of the second class against the first, from what enters the last layer: slope (D,) and offset."""

    slope: Floats
    offset: float

    def logits(self, pooled: Floats) -> Floats:
        """(N, 2) of pooled features (N, D): half of the score for the second class, half against the first."""
        score = pooled @ self.slope + self.offset
        return np.stack([-score, score], axis=1) / 2

    def network(self, network: nn.Module, recipe: Recipe) -> nn.Module:
        """The two-class network with this last layer, and the rest of `network`."""
        classifier, state = create_network(recipe, 2, "scratch"), network.state_dict()
        name = _last_layer_name(network)
        row = torch.from_numpy(self.slope).float()
        state[f"{name}.weight"] = torch.stack([-row, row]) / 2
        state[f"{name}.bias"] = torch.tensor([-self.offset, self.offset]) / 2
        classifier.load_state_dict(state)
        return classifier.eval()


def averaged(before: nn.Module, after: nn.Module, share: float) -> nn.Module:
    """A network like `before` with weights between the two: those of `before` at a `share` of 0, of `after` at 1."""
    network, end = copy.deepcopy(before), after.state_dict()
    mean = {
        name: torch.lerp(value, end[name], share) if value.is_floating_point() else end[name]
        for name, value in before.state_dict().items()
    }
    network.load_state_dict(mean)
    return network.eval()


def fit_head(
    network: nn.Module, recipe: Recipe, pooled: Floats, labels: NDArray[np.int64], donors: Sequence[str]
) -> LinearHead:
    """Fit the regression on measured features, and that on pooled ones where `distill.probe` asks for it.

    Args:
        network: the feature network. pooled: (N, D) of training images, and their `labels` and `donors`, (N,).
    """
    last, settings = head_linear(network), recipe.distill
    weight, bias = (tensor.detach().numpy().astype(np.float64) for tensor in (last.weight, last.bias))
    slope, offset = _linear(LogisticModel.fit(pooled @ weight.T + bias, labels, donors, settings.c))
    measured = slope @ weight, slope @ bias + offset
    if not settings.probe:
        return LinearHead(*measured)
    probe = _linear(LogisticModel.fit(pooled, labels, donors, settings.probe_c))
    mean = ((1 - settings.probe) * a + settings.probe * b for a, b in zip(measured, probe, strict=True))
    return LinearHead(*mean)


def _linear(model: LogisticModel) -> tuple[Floats, float]:
    """Slope and offset of a regression on features that are not standardized."""
    scaler, regression = model.pipeline[0], model.pipeline[-1]
    slope = regression.coef_[0] / scaler.scale_
    return slope, float(regression.intercept_[0] - slope @ scaler.mean_)
