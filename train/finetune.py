"""Fine-tune one recipe on one split: recipe + dataset + protocol + seed -> run folder.

    python -m train.finetune ours_cnmc2019 --data DIR --weights DIR --out runs/try --protocol group-kfold:3 --fold 0

The run folder holds run.json (all that is needed to repeat the run), log.csv (the curves), checkpoints/ while the
run is going (a killed run goes on from the last one), model.safetensors and predictions.npz: the logits of the
test images at every sigma of the noise grid, and of the validation images at the first. Several GPUs:
`accelerate launch -m train.finetune ...`.
"""

import argparse
import csv
import dataclasses
import io
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import Dataset, Sampler
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from blastlens.donor_metrics import donor_weights
from blastlens.errors import BlastlensError
from blastlens.files import replace, write_json, writing
from blastlens.noise import NOISE_SIGMAS, add_gaussian_noise
from blastlens.view import View
from train import feature_network, invariance, transforms
from train.cell_features import LogisticModel, columns, dataset_features
from train.datasets import METADATA, Row, dataset_hash, labels_of, load_rows
from train.datasets.splits import Split, make_splits, with_validation
from train.distillation import Teacher, imitation_loss, load_teacher
from train.modeling_blastlens import enhance
from train.networks import OURS, create_network, find_weights, head_linear, normalise
from train.pixels import load_pixels
from train.recipe import Preprocess, Recipe

# A raw 450 px frame of C-NMC shrunk to 314 px shows a cell at the scale of the prepared 224 px images, which are its
# centre 320 px at 224. Exactly that scale would be 315 px, but then the centre crop falls half a pixel beside the
# prepared one and answers differ by 0.1; 0.3 % of scale costs less. 314 before 316: the shipped network, on 24 pairs.
CELL_SIZE, CELL_FRAME = 224, 314
CHECKPOINTS = "checkpoints"


@dataclasses.dataclass(frozen=True)
class Run:
    """What decides a run's outcome."""

    recipe: Recipe
    data: str
    protocol: str
    fold: int = 0
    seed: int = 0
    weights: str = "hub"
    precision: str = "fp32"
    teacher: str | None = None
    backbone: str | None = None  # of a run of train.feature_network, to fit only the last layer


def view_of(recipe: Recipe) -> View:
    """How images reach this recipe's network. Cells at another size than the prepared one (for quick searches) are
    simply resized: no stock image processor could then give a raw frame and its prepared twin the same view."""
    frame = CELL_FRAME if recipe.dataset == "cnmc2019" and recipe.image_size == CELL_SIZE else None
    return View(recipe.image_size, frame, "bicubic", recipe.channel_mean, recipe.channel_std)


class Images(Dataset):
    """Which images to show: (index into the pixel array, whether to desaturate it). Pixels follow in `Collate`."""

    def __init__(self, indices: Sequence[int], grey: Sequence[bool] = ()):
        self.indices = list(indices)
        self.grey = list(grey) if len(grey) else [False] * len(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> tuple[int, bool]:
        return int(self.indices[item]), bool(self.grey[item])


@dataclasses.dataclass(frozen=True)
class Collate:
    """Fetch a batch at once: uint8 images (N, 3, H, W), labels (N,) and numbers of groups (N,)."""

    pixels: np.ndarray
    labels: np.ndarray
    groups: np.ndarray

    def __call__(self, items: list[tuple[int, bool]]) -> dict[str, Tensor]:
        where = [index for index, _ in items]
        images = torch.from_numpy(np.ascontiguousarray(self.pixels[where])).permute(0, 3, 1, 2)
        grey = torch.tensor([g for _, g in items])
        if grey.any():
            images = torch.where(grey.view(-1, 1, 1, 1), transforms.desaturate(images), images)
        return {
            "images": images,
            "labels": torch.from_numpy(self.labels[where]),
            "groups": torch.from_numpy(self.groups[where]),
        }


class EpochSampler(Sampler[int]):
    """A new order every epoch from (seed, epoch): shuffled, or drawn with `weights`, so that runs resume exactly.

    Where a last batch of `batch_size` would hold a single image, each epoch leaves one out: a head's batch norm cannot
    learn from one.
    """

    def __init__(self, length: int, seed: int, weights: np.ndarray | None = None, batch_size: int = 1):
        self.length, self.seed, self.epoch = length, seed, 0
        self.weights = None if weights is None else torch.from_numpy(weights)
        self.shown = length - 1 if length > 1 and batch_size > 1 and length % batch_size == 1 else length

    def __len__(self) -> int:
        return self.shown

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        if self.weights is None:
            yield from torch.randperm(self.length, generator=generator).tolist()[: self.shown]
        else:
            yield from torch.multinomial(self.weights, self.shown, replacement=True, generator=generator).tolist()


class NetworkTrainer(Trainer):
    """Hugging Face's Trainer, with augmentation on the device, our losses and our sampler."""

    def __init__(
        self,
        *,
        recipe: Recipe,
        sampler: EpochSampler,
        class_weights: Tensor | None,
        teacher: Teacher | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.recipe, self.sampler, self.class_weights, self.teacher = recipe, sampler, class_weights, teacher
        self.loss_is_scaled_for_ga = False
        self.pooled = invariance.PooledFeatures(head_linear(self.model)) if recipe.group_spread else None
        self.mixstyle = invariance.MixStyle(self.model, recipe.mixstyle) if recipe.mixstyle else None

    def remove_hooks(self) -> None:
        """Leave the network as it was built; what listens to it is for training only."""
        for listener in (self.pooled, self.mixstyle):
            if listener:
                listener.remove()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        super()._save(output_dir, contiguous(state_dict or self.model.state_dict()))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = _checkpoint(Path(self.args.output_dir), self.state.global_step)
        with writing(folder):
            try:
                super()._save_checkpoint(model, trial)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)  # of no use to anybody, and in the way of a full disk
                raise

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> EpochSampler:
        return self.sampler

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            options = self.recipe.optimizer
            network = self.model if model is None else model
            head = {id(p) for p in head_linear(network).parameters()}
            trained = [p for p in network.parameters() if p.requires_grad]
            groups = [
                {"params": [p for p in trained if id(p) not in head], "lr": options.lr},
                {"params": [p for p in trained if id(p) in head], "lr": options.head_lr or options.lr},
            ]
            kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[options.name]
            self.optimizer = kind(groups, lr=options.lr, weight_decay=options.weight_decay)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):  # type: ignore[no-untyped-def]
        recipe, labels = self.recipe, inputs["labels"]
        network = self.accelerator.unwrap_model(model)
        targets = F.one_hot(labels, network.num_classes).float()
        with torch.autocast(labels.device.type, enabled=False):
            images = prepare(recipe, inputs["images"])
            if model.training:
                # Drawn from (seed, step, process): a resumed run sees the same images as an uninterrupted one.
                step = self.state.global_step * self.args.world_size + self.args.process_index
                generator = torch.Generator().manual_seed(self.args.seed * 1_000_003 + step)
                if (self.state.epoch or 0) < recipe.small.epochs:
                    images = shrunk(images, recipe.small.image_size)
                images = transforms.apply(recipe.augment, images, generator)
                if recipe.mixup:
                    share = float(np.random.default_rng([self.args.seed, step]).beta(recipe.mixup, recipe.mixup))
                    other = torch.randperm(len(images), generator=generator).to(images.device)
                    images = torch.lerp(images[other], images, share)
                    targets = torch.lerp(targets[other], targets, share)
                targets = targets * (1 - recipe.label_smoothing) + recipe.label_smoothing / targets.shape[1]
            pixels = normalise(recipe, images)
            if model.training and self.mixstyle:
                self.mixstyle.draw(len(pixels), generator)
        logits = model(pixels).float()
        losses = -(targets * F.log_softmax(logits, dim=1)).sum(1)
        if model.training and self.teacher:
            distill = recipe.distill
            imitation = imitation_loss(logits, self.teacher.logits(images), distill.temperature)
            losses = torch.lerp(losses, imitation, distill.weight)
        if self.class_weights is not None:
            weights = self.class_weights.to(losses.device)[labels]
            loss = (losses * weights).sum() / weights.sum()
        else:
            loss = losses.mean()
        if model.training and recipe.head.l1:
            loss = loss + recipe.head.l1 * head_linear(network).weight.abs().sum()
        if model.training and self.pooled:
            loss = loss + recipe.group_spread * invariance.group_spread(self.pooled.last, labels, inputs["groups"])
        return (loss, (None, logits)) if return_outputs else loss


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that safetensors accepts: channels-last weights in their plain layout, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def prepare(recipe: Recipe, images: Tensor) -> Tensor:
    """The recipe's fixed steps on pixels (N, 3, H, W) on the 0 to 255 scale, which stay on that scale."""
    steps = recipe.preprocess
    if steps == Preprocess():
        return images
    return enhance(images.float(), **dataclasses.asdict(steps))


def shrunk(images: Tensor, size: int) -> Tensor:
    """Pixels (N, 3, H, W) on the 0 to 255 scale -> float32 (N, 3, size, size), without aliasing."""
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)


@torch.no_grad()
def even_average(averaged: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
    """Take `current` into the even average of `count` before it. torch's own fails on buffers of whole numbers."""
    for mean, value in zip(averaged, current, strict=True):
        if mean.is_floating_point():
            mean.lerp_(value, 1 / (int(count) + 1))
        else:
            mean.copy_(value)


class AverageWeights(TrainerCallback):
    """Keep an average of the weights, exponential with the recipe's `ema`, or even over the last steps with its
    `average`; it is saved with each checkpoint and restored from it."""

    def __init__(self, network: nn.Module, recipe: Recipe):
        self.network, self.share = network, recipe.average or 1.0
        how = even_average if recipe.average else get_ema_multi_avg_fn(recipe.ema)
        self.average = AveragedModel(network, multi_avg_fn=how, use_buffers=True)

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step:
            saved = _checkpoint(Path(args.output_dir), state.global_step) / "average.safetensors"
            self.average.load_state_dict(load_file(saved))

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step > (1 - self.share) * state.max_steps:
            self.average.update_parameters(self.network)

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.is_world_process_zero:
            file = _checkpoint(Path(args.output_dir), state.global_step) / "average.safetensors"
            with writing(file):
                save_file(contiguous(self.average.state_dict()), file)


class KeepLoss(TrainerCallback):
    """Save the training loss since it was last logged with each checkpoint: Trainer would forget it, and a run that was
    killed would have other curves."""

    FILE = "unlogged.json"
    trainer: NetworkTrainer

    def on_train_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if state.global_step:
            kept = json.loads((_checkpoint(Path(args.output_dir), state.global_step) / self.FILE).read_text())
            self.trainer._tr_loss.fill_(kept["loss"])
            self.trainer._globalstep_last_logged = kept["since"]

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        loss = self.trainer.accelerator.gather(self.trainer._tr_loss).mean().item()
        if state.is_world_process_zero:
            file = _checkpoint(Path(args.output_dir), state.global_step) / self.FILE
            write_json(file, {"loss": loss, "since": self.trainer._globalstep_last_logged})


class MarkComplete(TrainerCallback):
    """Leave a mark in each checkpoint once all of it is written: one cut short by a kill is not resumed from.

    Only then do the others go, but for the best one, and their marks go first. Trainer itself would delete them sooner.
    """

    MARK = "complete"

    def on_save(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        latest = _checkpoint(folder, state.global_step)
        with writing(latest):
            (latest / self.MARK).touch()
        for other in folder.glob("checkpoint-*"):
            if other.name not in (latest.name, Path(state.best_model_checkpoint or "").name):
                (other / self.MARK).unlink(missing_ok=True)
                shutil.rmtree(other, ignore_errors=True)


def _checkpoint(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"


def _last_checkpoint(folder: Path) -> str | None:
    complete = [mark.parent for mark in folder.glob(f"checkpoint-*/{MarkComplete.MARK}")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def _stopped_at(checkpoint: str) -> int | None:
    """After how many epochs training had been told to stop when this was saved, or None."""
    state = TrainerState.load_from_json(str(Path(checkpoint) / TRAINER_STATE_NAME))
    stopped = state.stateful_callbacks["TrainerControl"]["args"]["should_training_stop"]
    return round(state.epoch) if stopped else None


@torch.inference_mode()
def predict_logits(
    network: nn.Module,
    recipe: Recipe,
    pixels: np.ndarray,
    indices: Sequence[int],
    sigma: float = 0.0,
    batch_size: int = 64,
) -> np.ndarray:
    """Logits (len(indices), classes) of the images with Gaussian noise of `sigma` (0 to 255 scale).

    Each image has its own frozen noise field, seeded with its index, scaled by sigma.
    """
    network.eval()
    device = next(network.parameters()).device
    out = []
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        batch = np.stack([add_gaussian_noise(np.asarray(pixels[i]), sigma, seed=int(i)) for i in chosen])
        images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device)
        out.append(network(normalise(recipe, prepare(recipe, images))).float().cpu().numpy())
    return np.concatenate(out) if out else np.empty((0, network.num_classes), np.float32)


def training_arguments(run: Run, out: Path, has_val: bool) -> TrainingArguments:
    """The recipe in Trainer's words."""
    recipe = run.recipe
    schedule = recipe.schedule
    kinds = {
        "constant": "constant_with_warmup",
        "cosine": "cosine_with_min_lr",
        "plateau": "reduce_lr_on_plateau",
    }
    options: dict[str, Any] = {}
    if schedule.name == "cosine":
        options = {"min_lr": schedule.floor}
    elif schedule.name == "plateau":
        options = {"factor": schedule.factor, "patience": schedule.patience, "min_lr": schedule.floor}
    gpu = torch.cuda.is_available()
    return TrainingArguments(
        output_dir=str(out / CHECKPOINTS),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=64,
        learning_rate=recipe.optimizer.lr,
        lr_scheduler_type=kinds[schedule.name],
        lr_scheduler_kwargs=options,
        warmup_steps=schedule.warmup,
        max_grad_norm=0.0,
        eval_strategy="epoch" if has_val else "no",
        save_strategy="epoch",
        load_best_model_at_end=has_val,
        restore_callback_states_from_checkpoint=True,  # how long early stopping has been patient
        metric_for_best_model="eval_loss" if has_val else None,
        greater_is_better=False if has_val else None,
        logging_strategy="steps",
        logging_steps=10,
        logging_first_step=True,
        bf16=run.precision == "bf16",
        use_cpu=not gpu,
        ddp_backend="gloo" if not gpu and int(os.environ.get("WORLD_SIZE", "1")) > 1 else None,
        dataloader_pin_memory=gpu,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=run.seed,
        report_to="none",
        disable_tqdm=not sys.stderr.isatty() and os.environ.get("BLASTLENS_PROGRESS") != "1",
    )


def finetune(
    run: Run, rows: Sequence[Row], pixels: np.ndarray, split: Split, out: Path, teacher: Teacher | None = None
) -> nn.Module:
    """Train (or go on training) one network; returns it with the weights to keep, and writes the curves."""
    recipe = run.recipe
    names, labels = labels_of(rows)
    train = np.asarray(split.train)
    indices, grey = train, np.zeros(len(train), dtype=bool)
    sampling = weights = None
    if recipe.balance == "groups":
        sampling = donor_weights(labels[train], [rows[i].group for i in train], recipe.group_power)
    elif recipe.balance == "class-weights":
        counts = np.bincount(labels[train], minlength=len(names))
        weights = torch.tensor(len(train) / (len(names) * np.maximum(counts, 1)), dtype=torch.float32)
    elif recipe.balance == "desaturated-copies":
        rare = np.bincount(labels[train]).argmin()
        copies = train[labels[train] == rare]
        indices = np.concatenate([train, copies])
        grey = np.concatenate([grey, np.ones(len(copies), dtype=bool)])

    set_seed(run.seed)
    network = create_network(recipe, len(names), run.weights).to(memory_format=torch.channels_last)
    if not torch.cuda.is_available():
        # Bitwise the same, and quicker on a CPU: in place, autograd has to copy the input first.
        for module in network.modules():
            if isinstance(module, nn.ReLU6):
                module.inplace = False
    dataset = Images(indices, grey)
    arguments = training_arguments(run, out, bool(split.val))
    callbacks: list[TrainerCallback] = []
    average = AverageWeights(network, recipe) if recipe.ema or recipe.average else None
    if average:
        callbacks.append(average)
    if recipe.early_stopping and split.val:
        callbacks.append(EarlyStoppingCallback(recipe.early_stopping))
    callbacks.append(keep_loss := KeepLoss())
    callbacks.append(MarkComplete())  # after every other callback that adds to a checkpoint
    trainer = NetworkTrainer(
        recipe=recipe,
        sampler=EpochSampler(len(dataset), run.seed, sampling, recipe.batch_size),
        class_weights=weights,
        teacher=teacher,
        model=network,
        args=arguments,
        data_collator=Collate(pixels, labels, np.unique([row.group for row in rows], return_inverse=True)[1]),
        train_dataset=dataset,
        eval_dataset=Images(split.val) if split.val else None,
        callbacks=callbacks,
    )
    if average:
        average.average.to(arguments.device)
    keep_loss.trainer = trainer
    checkpoint = _last_checkpoint(out / CHECKPOINTS)
    if checkpoint and (epochs := _stopped_at(checkpoint)):
        arguments.num_train_epochs = epochs
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.remove_hooks()
    if average:
        network.load_state_dict(average.average.module.state_dict())
    if trainer.is_world_process_zero():
        _write_log(out / "log.csv", trainer.state.log_history)
    return network


def _write_log(path: Path, history: list[dict[str, float]]) -> None:
    columns = ["epoch", "step", "loss", "eval_loss", "learning_rate"]
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(h for h in history if "loss" in h or "eval_loss" in h)
    replace(path, lambda part: part.write_text(table.getvalue(), newline=""))


def execute(run: Run, out: Path, cache: Path, sigmas: Sequence[float] = NOISE_SIGMAS) -> None:
    """Do a whole run, or what is left of it; a finished one is left as it is."""
    if (out / "run.json").exists():
        print(f"{out} is finished; delete it to run it again.")
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # where it was killed at its very end
        return
    started = time.time()
    rows = load_rows(Path(run.data))
    splits = make_splits(run.protocol, rows, run.seed)
    if not 0 <= run.fold < len(splits):
        raise BlastlensError(f"{run.protocol} has folds 0 to {len(splits) - 1}, not {run.fold}.")
    split = with_validation(splits[run.fold], rows, run.recipe.validation)
    pixels = load_pixels(Path(run.data), rows, view_of(run.recipe), cache)
    names, labels = labels_of(rows)
    teacher = teacher_of(run, dataset_hash(rows), tuple(names))
    with writing(out):
        (out / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    if run.recipe.distill.features:
        network, logits = distilled(run, rows, pixels, split, out, cache)
    else:
        network = finetune(run, rows, pixels, split, out, teacher)

        def logits(indices: Sequence[int], sigma: float) -> np.ndarray:
            return predict_logits(network, run.recipe, pixels, indices, sigma)

    if int(os.environ.get("RANK", "0")):
        return
    arrays: dict[str, np.ndarray] = {"sigmas": np.asarray(sigmas, dtype=float)}
    for part in ("val", "test"):
        indices = getattr(split, part)
        arrays[f"{part}_index"] = np.asarray(indices, dtype=np.int64)
        arrays[f"{part}_label"] = labels[list(indices)]
        arrays[f"{part}_group"] = np.array([rows[i].group for i in indices], dtype=str)
        levels = () if not indices else sigmas if part == "test" else sigmas[:1]
        progress = tqdm(levels, desc=f"noise curve, {part}", unit="sigma")
        stacked = [logits(indices, s) for s in progress]
        arrays[f"{part}_logits"] = np.stack(stacked) if stacked else np.empty((0, 0, len(names)))
    replace(out / "predictions.npz", lambda path: np.savez(path, **arrays))
    replace(out / "model.safetensors", lambda path: save_file(contiguous(network.state_dict()), path))
    record = {
        "recipe": run.recipe.to_dict(),
        "protocol": run.protocol,
        "fold": run.fold,
        "seed": run.seed,
        "initial_weights": initial_weights(run),
        **({"teacher": teacher.source} if teacher else {}),
        # One that saw the pixels, but no label, of what this run holds out, where it was made on other splits.
        **({"backbone_sha256": sha256(Path(run.backbone).read_bytes()).hexdigest()} if run.backbone else {}),
        "precision": run.precision,
        "dataset": {"name": run.recipe.dataset, "hash": dataset_hash(rows), "images": len(rows)},
        "images": {part: len(getattr(split, part)) for part in ("train", "val", "test")},
        "groups": {part: sorted({rows[i].group for i in getattr(split, part)}) for part in ("train", "val", "test")},
        "subjects": sorted({rows[i].subject or rows[i].group for i in split.train}),
        "label_names": list(names),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "seconds": round(time.time() - started),
        "versions": versions(),
    }
    # Written last: its presence is what says that the run is complete.
    write_json(out / "run.json", record)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def distilled(
    run: Run, rows: Sequence[Row], pixels: np.ndarray, split: Split, out: Path, cache: Path
) -> tuple[nn.Module, Callable[[Sequence[int], float], np.ndarray]]:
    """A network taught cell features, and its logits by rows and sigma; see `train.feature_network`."""
    recipe, train = run.recipe, list(split.train)
    if run.backbone:
        backbone = feature_network.load_backbone(recipe, Path(run.backbone))
    else:
        targets = dataset_features(Path(run.data), rows, cache)[:, columns(recipe.distill.features)]
        backbone = feature_network.train_backbone(
            recipe, pixels, targets, train, run.weights, run.seed, out / CHECKPOINTS
        )
        feature_network.save_backbone(backbone, out / "backbone.safetensors")
    _write_log(out / "log.csv", [])
    _, labels = labels_of(rows)
    clean = feature_network.predicted_features(backbone, recipe, pixels, 0, cache)
    model = LogisticModel.fit(clean[train], labels[train], [rows[i].group for i in train], recipe.distill.c)

    def logits(indices: Sequence[int], sigma: float) -> np.ndarray:
        measured = feature_network.predicted_features(backbone, recipe, pixels, sigma, cache)
        return feature_network.logits_of(model, measured[list(indices)])

    return feature_network.fitted_head(backbone, recipe, model), logits


def teacher_of(run: Run, dataset: str, label_names: tuple[str, ...]) -> Teacher | None:
    """Whom the run learns from, where its recipe asks for somebody; raises BlastlensError where that does not fit."""
    if bool(run.teacher) != bool(run.recipe.distill.weight):
        asked = (
            "learns from a teacher; name one with --teacher"
            if run.recipe.distill.weight
            else "learns from no teacher; leave --teacher out"
        )
        raise BlastlensError(f"The recipe {run.recipe.name} {asked}.")
    if not run.teacher:
        return None
    return load_teacher(Path(run.teacher), run.recipe, run.protocol, run.fold, run.seed, dataset, label_names)


def initial_weights(run: Run) -> str:
    """What the backbone started from, for the record: never a path of this machine."""
    if run.recipe.backbone in OURS:
        return "random"
    if run.weights in ("hub", "scratch"):
        return f"timm/{run.recipe.backbone} from the Hub" if run.weights == "hub" else "random"
    return find_weights(run.weights, run.recipe.backbone).name


def versions() -> dict[str, str]:
    names = ("torch", "timm", "transformers", "accelerate", "datasets", "numpy", "pillow")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"python": platform.python_version(), **{n: version(n) for n in names}, "device": device}


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `finetune` and `crossval` share."""
    parser.add_argument("recipe", help="name of a file in train/recipes, or a path")
    parser.add_argument("--data", default=os.environ.get("BLASTLENS_DATA"), help="prepared dataset (or its parent)")
    parser.add_argument(
        "--weights",
        default=os.environ.get("BLASTLENS_WEIGHTS", "hub"),
        help="first weights: hub, scratch, or a folder with <backbone>.*.safetensors",
    )
    parser.add_argument(
        "--teacher", help="folder of train.crossval or, with --protocol all, model folder: for recipes that distil"
    )
    parser.add_argument(
        "--backbone", help="backbone.safetensors of a run with distill.features: only the last layer is fitted"
    )
    parser.add_argument("--protocol", help="how to split, see train.datasets.splits (default: the recipe's)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where decoded pixels are kept")
    parser.add_argument(
        "--sigmas",
        type=float,
        nargs="+",
        default=NOISE_SIGMAS,
        help="noise at which held-out images are answered, the first being 0 (default: the whole grid)",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="change a recipe, e.g. epochs=3 optimizer.lr=1e-3",
    )


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """The recipe with the command line's changes, validated again."""
    changes = (change.partition("=") for change in arguments.set)
    return Recipe.load(arguments.recipe).changed({key: yaml.safe_load(value) for key, _, value in changes})


def run_from(arguments: argparse.Namespace, fold: int, seed: int) -> Run:
    recipe = recipe_from(arguments)
    data = dataset_folder(arguments.data, recipe)
    precision = best_precision() if arguments.precision == "auto" else arguments.precision
    protocol = arguments.protocol or recipe.protocol
    return Run(
        recipe, str(data), protocol, fold, seed, arguments.weights, precision, arguments.teacher, arguments.backbone
    )


def dataset_folder(data: str | None, recipe: Recipe) -> Path:
    """The recipe's prepared dataset: `data` itself, or the folder named after the dataset in it."""
    if not data:
        raise BlastlensError("Say where the prepared dataset is, with --data or BLASTLENS_DATA.")
    inside = Path(data) / recipe.dataset
    return inside if not (Path(data) / METADATA).exists() and (inside / METADATA).exists() else Path(data)


def best_precision() -> str:
    return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp32"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.finetune", description=__doc__.splitlines()[0])
    add_run_arguments(parser)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        run = run_from(arguments, arguments.fold, arguments.seed)
        execute(run, arguments.out, arguments.cache, arguments.sigmas)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
