"""The training loop: a recipe and a split -> one network. A run that is interrupted resumes after its last epoch.

Augmentation runs on the device, batch by batch. All random numbers follow from the seed, the epoch and the step, so a
resumed run gives the weights of an uninterrupted one.
"""

import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from blastlens.donor_metrics import donor_weights
from blastlens.files import replace
from blastlens.noise import add_gaussian_noise
from train import transforms
from train.datasets.splits import Split
from train.distillation import Teacher, imitation_loss
from train.networks import create_network, head_linear, normalise, prepare
from train.pixels import sharpness
from train.precision import quicken_on_cpu
from train.recipe import Recipe, Schedule

CHECKPOINTS = "checkpoints"  # folder in a run folder, removed at the end of the run
EVAL_BATCH = 64
NOISE_SEED = 1_000_000  # above the seeds of the noise in evaluation, which are positions of images
SHOW_EVERY = 20  # steps between two losses in the progress bar: to read one, a GPU has to finish all that it was given


@dataclass(frozen=True)
class Examples:
    """The images of a dataset, and one balanced way to draw the training part of them.

    Attributes:
        pixels: uint8 (N, S, S, 3).
        labels: int (N,).
        indices: of the training images, into pixels; an image may stand there twice.
        grey: for each of them, whether its color is removed.
        noise: for each of them, sigma of the Gaussian noise that it gets, the same whenever it is drawn.
        weights: for each of them, the probability to be drawn; None to use each once per epoch.
        class_weights: float (C,) of the loss; None for equal weights.
    """

    pixels: np.ndarray
    labels: np.ndarray
    indices: np.ndarray
    grey: np.ndarray
    noise: np.ndarray
    weights: np.ndarray | None = None
    class_weights: Tensor | None = None

    @classmethod
    def of(
        cls, recipe: Recipe, pixels: np.ndarray, labels: np.ndarray, groups: Sequence[str], train: Sequence[int]
    ) -> "Examples":
        """Balance the training images as the recipe says."""
        indices = np.asarray(train)
        if recipe.drop_blurred:
            blurred = np.argsort(sharpness(pixels, indices))[: round(recipe.drop_blurred * len(indices))]
            indices = np.delete(indices, blurred)
        grey = np.zeros(len(indices), dtype=bool)
        counts = np.bincount(labels[indices], minlength=int(labels.max()) + 1)
        weights = class_weights = None
        if recipe.balance == "groups":
            weights = donor_weights(labels[indices], [groups[i] for i in indices], recipe.group_power)
        elif recipe.balance == "class-weights":
            class_weights = torch.tensor(len(indices) / (len(counts) * np.maximum(counts, 1)), dtype=torch.float32)
        elif recipe.balance == "desaturated-copies":
            copies = indices[labels[indices] == counts.argmin()]
            indices = np.concatenate([indices, copies])
            grey = np.concatenate([grey, np.ones(len(copies), dtype=bool)])
        noise = np.random.default_rng(0).permutation(np.resize(recipe.training_noise or (0.0,), len(indices)))
        return cls(pixels, labels, indices, grey, noise, weights, class_weights)

    def order(self, seed: int, epoch: int, size: int | None = None) -> np.ndarray:
        """Places in `indices` for one epoch of `size` images; epoch by epoch, passes over all images follow each other.

        None is the size of one pass.
        """
        n = len(self.indices)
        first, size = (epoch * n, n) if size is None else (epoch * size, size)
        passes = range(first // n, -(-(first + size) // n))
        drawn = np.concatenate([self._pass(seed, number) for number in passes])
        return drawn[first - passes[0] * n :][:size]

    def _pass(self, seed: int, number: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed * 100_003 + number)
        n = len(self.indices)
        if self.weights is None:
            return torch.randperm(n, generator=generator).numpy()
        return torch.multinomial(torch.from_numpy(self.weights), n, replacement=True, generator=generator).numpy()

    def batch(self, places: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) and labels (N,)."""
        images, labels = self.read(self.indices[places])
        grey = torch.from_numpy(self.grey[places]).view(-1, 1, 1, 1)
        if grey.any():
            images = torch.where(grey, transforms.desaturate(images), images)
        for image, place in zip(images, places, strict=True):
            if self.noise[place]:
                noisy = add_gaussian_noise(image.permute(1, 2, 0).numpy(), self.noise[place], NOISE_SEED + int(place))
                image.copy_(torch.from_numpy(noisy).permute(2, 0, 1))
        return images, labels

    def read(self, where: np.ndarray) -> tuple[Tensor, Tensor]:
        """Images uint8 (N, 3, S, S) and labels (N,) by their index into pixels."""
        images = torch.from_numpy(np.ascontiguousarray(self.pixels[where])).permute(0, 3, 1, 2)
        return images, torch.from_numpy(self.labels[where])


@dataclass
class Progress:
    """Where a run is.

    Attributes:
        epoch, step: how many are done.
        best: lowest validation loss. stale: epochs since then.
        log: one row of figures per epoch.
    """

    epoch: int = 0
    step: int = 0
    best: float = math.inf
    stale: int = 0
    log: list[dict[str, float]] = field(default_factory=list)


def train_network(
    recipe: Recipe,
    examples: Examples,
    split: Split,
    out: Path,
    *,
    seed: int = 0,
    weights: str = "hub",
    precision: str = "fp32",
    teacher: Teacher | None = None,
    start: nn.Module | None = None,
) -> nn.Module:
    """Train one network, or resume its training.

    Args:
        recipe: how to train.
        examples: the images.
        split: its validation part, if any, steers the learning rate and stops the run early; its test part is not
            used.
        out: run folder, for the checkpoint and log.csv.
        seed: of order, augmentation and new layers.
        weights: as in `train.networks.create_network`.
        precision: "fp32" or "bf16".
        teacher: gives the targets of `recipe.distill`.
        start: a network of the recipe to train further, instead of a new one; it stays as it is.

    Returns:
        The network with the weights to keep: averaged ones if the recipe averages, else those of the epoch with the
        lowest validation loss, or the last ones without a validation part.
    """
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    device, rank, world = accelerator.device, accelerator.process_index, accelerator.num_processes
    set_seed(seed)
    new = create_network(recipe, len(np.unique(examples.labels)), "scratch" if start else weights)
    if start:
        new.load_state_dict(start.state_dict())
    network = new.to(memory_format=torch.channels_last)
    if device.type == "cpu":
        quicken_on_cpu(network, precision)
    optimizer = make_optimizer(recipe, network)
    plateau = make_plateau(recipe.schedule, optimizer)
    average = make_average(recipe, network.to(device))
    model, optimizer = accelerator.prepare(network, optimizer)
    batches_per_epoch = recipe.steps_per_epoch(len(examples.indices), world)
    steps = recipe.epochs * batches_per_epoch
    epoch_size = recipe.epoch_steps and recipe.epoch_steps * recipe.batch_size * world
    progress, best = Progress(), None
    parts = {"network": network, "optimizer": optimizer} | ({"average": average} if average else {})
    parts |= {"plateau": plateau} if plateau else {}

    checkpoint = out / CHECKPOINTS / "training.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location=device, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        progress, best = Progress(**saved["progress"]), saved["best"]

    while progress.epoch < recipe.epochs and not stops_early(recipe, progress):
        set_seed((seed * 1_000_003 + progress.epoch * world + rank) % 2**32)  # of dropout; numpy's seeds have 32 bits
        order = examples.order(seed, progress.epoch, epoch_size)
        model.train()
        if recipe.frozen_norms:
            for name, module in network.named_modules():
                module.train(not name.startswith(recipe.frozen))
        sums, shown = torch.zeros(2, dtype=torch.float64, device=device), 0  # of the loss, and of right predictions
        bar = tqdm(
            batches(order, recipe.batch_size, rank, world),
            total=batches_per_epoch,
            desc=f"epoch {progress.epoch + 1} of {recipe.epochs}",
            disable=not accelerator.is_main_process,
            mininterval=1,
        )
        for places in bar:
            if not plateau:
                factor = learning_rate_factor(recipe.schedule, recipe.optimizer.lr, progress.step, steps)
                for group in optimizer.param_groups:
                    group["lr"] = group["initial_lr"] * factor
            images, labels = (part.to(device) for part in examples.batch(places))
            generator = torch.Generator().manual_seed(seed * 1_000_003 + progress.step * world + rank)
            images = transforms.apply(recipe.augment, prepare(recipe, images), generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = model(normalise(recipe, images)).float()
            loss = loss_of(recipe, logits, labels, examples.class_weights)
            if teacher:
                imitation = imitation_loss(logits, teacher.logits(images), recipe.distill.temperature).mean()
                loss = torch.lerp(loss, imitation, recipe.distill.weight)
            if recipe.head.l1:
                loss = loss + recipe.head.l1 * head_linear(network).weight.abs().sum()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            progress.step += 1
            if average and progress.step > (1 - (recipe.average or 1)) * steps:
                average.update_parameters(network)
            shown += len(labels)
            sums += torch.stack((loss.detach().double() * len(labels), (logits.argmax(1) == labels).sum().double()))
            if progress.step % SHOW_EVERY == 0:
                bar.set_postfix(loss=f"{sums[0].item() / shown:.4f}")

        total, hits = sums.tolist()
        progress.epoch += 1
        row = {"epoch": progress.epoch, "step": progress.step, "loss": total / shown, "accuracy": hits / shown}
        row["learning_rate"] = optimizer.param_groups[0]["lr"]
        if split.val:
            # Statistics of batch norm differ between processes, which must take the same decisions.
            (found,) = broadcast_object_list([evaluate(recipe, network, examples, split.val, device)])
            row["val_loss"], row["val_accuracy"] = found
            progress.stale += 1
            if row["val_loss"] < progress.best:
                progress.best, progress.stale = row["val_loss"], 0
                best = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            if plateau:
                plateau.step(row["val_loss"])
        progress.log.append(row)
        if accelerator.is_main_process:
            # First, so that a run killed between the two writes its last row again.
            write_log(out / "log.csv", progress.log)
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"progress": asdict(progress), "best": best}
            replace(checkpoint, lambda part, state=state: torch.save(state, part))
        accelerator.wait_for_everyone()

    network = accelerator.unwrap_model(model)
    if average:
        network.load_state_dict(average.module.state_dict())
    elif best is not None:
        network.load_state_dict(best)
    return network


def batches(order: np.ndarray, size: int, rank: int = 0, world: int = 1) -> Iterator[np.ndarray]:
    """Every `world`-th batch of an epoch's order, beginning with number `rank`.

    The last round is filled with the first images, so that all processes take as many steps; with one process only a
    last batch of a single image is: batch norm cannot learn from one.
    """
    missing = -len(order) % (size * world) if world > 1 else len(order) % size == 1
    order = np.resize(order, len(order) + missing)  # repeats it
    for start in range(rank * size, len(order), size * world):
        yield order[start : start + size]


def make_optimizer(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer, with a learning rate of its own for the last layer where the recipe has one."""
    options = recipe.optimizer
    head = {id(p) for p in head_linear(network).parameters()}
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in head], "lr": options.lr},
        {"params": [p for p in trained if id(p) in head], "lr": options.head_lr or options.lr},
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
    optimizer = kind(groups, weight_decay=options.weight_decay)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def learning_rate_factor(schedule: Schedule, lr: float, step: int, steps: int) -> float:
    """What learning rates are multiplied by: linear warm-up, then constant, or half a cosine down to the floor."""
    warmup = math.ceil(schedule.warmup * steps)
    if step < warmup:
        return step / warmup
    if schedule.name == "constant":
        return 1.0
    floor = schedule.floor / lr
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def make_plateau(schedule: Schedule, optimizer: torch.optim.Optimizer) -> ReduceLROnPlateau | None:
    """Lowers the learning rate after `patience` epochs without a better validation loss; torch counts one more."""
    if schedule.name != "plateau":
        return None
    patience = max(0, schedule.patience - 1)
    return ReduceLROnPlateau(optimizer, factor=schedule.factor, patience=patience, min_lr=schedule.floor)


@torch.no_grad()
def even_average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
    """Take `current` into the even average of `count` before it. torch's own fails on integer buffers."""
    for mean, value in zip(averaged, current, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 / (int(count) + 1))
        else:
            mean.copy_(value)


def make_average(recipe: Recipe, network: nn.Module) -> AveragedModel | None:
    """An average of the weights: exponential with `recipe.ema`, even over the last steps with `recipe.average`."""
    if not recipe.ema and not recipe.average:
        return None
    how = even_average if recipe.average else get_ema_multi_avg_fn(recipe.ema)
    return AveragedModel(network, multi_avg_fn=how, use_buffers=True)


def loss_of(recipe: Recipe, logits: Tensor, labels: Tensor, class_weights: Tensor | None) -> Tensor:
    """Cross-entropy with the recipe's label smoothing, and the weights of classes if there are any."""
    weights = None if class_weights is None else class_weights.to(logits.device)
    return F.cross_entropy(logits, labels, weights, label_smoothing=recipe.label_smoothing)


@torch.inference_mode()
def evaluate(
    recipe: Recipe, network: nn.Module, examples: Examples, indices: Sequence[int], device: torch.device
) -> tuple[float, float]:
    """Mean loss and accuracy on images that are not augmented."""
    network.eval()
    logits, labels = [], []
    for start in range(0, len(indices), EVAL_BATCH):
        images, truth = examples.read(np.asarray(indices[start : start + EVAL_BATCH]))
        logits.append(network(normalise(recipe, prepare(recipe, images.to(device)))).float().cpu())
        labels.append(truth)
    scores, truth = torch.cat(logits), torch.cat(labels)
    weights = examples.class_weights
    return F.cross_entropy(scores, truth, weights).item(), (scores.argmax(1) == truth).float().mean().item()


def stops_early(recipe: Recipe, progress: Progress) -> bool:
    """Whether the validation loss has not improved for as many epochs as the recipe allows."""
    return bool(recipe.early_stopping) and progress.stale >= recipe.early_stopping


def write_log(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """The curves: one row per epoch."""
    table = io.StringIO(newline="")
    names = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "learning_rate")
    writer = csv.DictWriter(table, names)
    writer.writeheader()
    writer.writerows(rows)
    replace(path, lambda part: part.write_text(table.getvalue(), newline=""))
