"""Training and testing of one recipe on one split, into a run folder; `train.finetune` is its command."""

import dataclasses
import math
import os
import platform
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from blastlens.errors import BlastlensError
from blastlens.files import replace, write_json, writing
from blastlens.noise import NOISE_SIGMAS
from train import feature_network
from train.cell_features import columns, dataset_features
from train.datasets import Row, dataset_hash, labels_of, load_rows
from train.datasets.splits import Split, make_splits, with_validation
from train.distillation import Teacher, load_teacher
from train.first_weights import check_weights, find_weights, with_statistics
from train.loop import CHECKPOINTS, Examples, train_network, write_log
from train.pixels import load_pixels
from train.precision import best_precision
from train.prediction import predictor
from train.recipe import OURS, Run, view_of


def contiguous(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict that safetensors accepts: channels-last weights in their plain layout, on the CPU."""
    return {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}


def execute(run: Run, out: Path, cache: Path, sigmas: Sequence[float] = NOISE_SIGMAS) -> None:
    """Do a whole run, or what is left of it; a finished one is left as it is."""
    if (out / "run.json").exists():
        print(f"{out} is finished; delete it to run it again.")
        shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)  # where it was killed at its very end
        return
    started = time.time()
    precision = best_precision() if run.precision == "auto" else run.precision
    rows = load_rows(Path(run.data))
    splits = make_splits(run.protocol, rows, run.seed)
    if not 0 <= run.fold < len(splits):
        raise BlastlensError(f"{run.protocol} has folds 0 to {len(splits) - 1}, not {run.fold}.")
    split = with_validation(splits[run.fold], rows, run.recipe.validation)
    names, labels = labels_of(rows)
    teacher = teacher_of(run, dataset_hash(rows), tuple(names))
    asked = run.recipe
    if not run.backbone:
        check_weights(asked, run.weights)
        run = dataclasses.replace(run, recipe=with_statistics(asked, run.weights))
    if left_out := len(rows) - sum(len(getattr(split, part)) for part in ("train", "val", "test")):
        print(f"{left_out} images are in no part of {run.protocol}.")
    with writing(out):
        (out / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    pixels = load_pixels(Path(run.data), rows, view_of(run.recipe), cache)
    if run.recipe.distill.features:
        network, logits = distilled(run, rows, pixels, split, precision, out, cache)
        stage = run.recipe.of_second_stage
        steps = stage.epochs * stage.steps_per_epoch(len(split.train)) if run.recipe.second_stage else 0
    else:
        examples = Examples.of(run.recipe, pixels, labels, [row.group for row in rows], split.train)
        options = {"seed": run.seed, "weights": run.weights, "precision": precision, "teacher": teacher}
        network = train_network(run.recipe, examples, split, out, **options)
        logits = partial(predictor(network, run.recipe), pixels)
        steps = run.recipe.epochs * run.recipe.steps_per_epoch(len(examples.indices))
    if int(os.environ.get("RANK", "0")):
        return
    arrays: dict[str, np.ndarray] = {"sigmas": np.asarray(sigmas, dtype=float)}
    for part in ("val", "test"):
        indices = getattr(split, part)
        arrays[f"{part}_index"] = np.asarray(indices, dtype=np.int64)
        arrays[f"{part}_label"] = labels[list(indices)]
        arrays[f"{part}_group"] = np.array([rows[i].group for i in indices], dtype=str)
        levels = () if not indices else sigmas if part == "test" else sigmas[:1]
        stacked = [logits(indices, s) for s in levels]
        arrays[f"{part}_logits"] = np.stack(stacked) if stacked else np.empty((0, 0, len(names)))
    replace(out / "predictions.npz", lambda path: np.savez(path, **arrays))
    replace(out / "model.safetensors", lambda path: save_file(contiguous(network.state_dict()), path))
    record = {
        "recipe": asked.to_dict(),
        "mean": list(run.recipe.channel_mean),
        "std": list(run.recipe.channel_std),
        "protocol": run.protocol,
        "fold": run.fold,
        "seed": run.seed,
        "steps": steps,  # of the optimizer, if early stopping does not end the run
        "initial_weights": initial_weights(run),
        **({"teacher": teacher.source} if teacher else {}),
        # One that saw the pixels, but no label, of what this run holds out, where it was made on other splits.
        **({"backbone_sha256": sha256(Path(run.backbone).read_bytes()).hexdigest()} if run.backbone else {}),
        "precision": precision,
        "dataset": {
            "name": run.recipe.dataset,
            "hash": dataset_hash(rows),
            "images": len(rows),
            **({"subjects": any(row.subject for row in rows)} if rows[0].own else {}),
        },
        "images": {part: len(getattr(split, part)) for part in ("train", "val", "test")},
        "groups": {part: sorted({rows[i].group for i in getattr(split, part)}) for part in ("train", "val", "test")},
        "subjects": sorted({rows[i].subject or rows[i].group for i in split.train}),
        "label_names": list(names),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
        "seconds": math.ceil(time.time() - started),
        "versions": versions(),
    }
    # Written last: its presence is what says that the run is complete.
    write_json(out / "run.json", record)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


def distilled(
    run: Run, rows: Sequence[Row], pixels: np.ndarray, split: Split, precision: str, out: Path, cache: Path
) -> tuple[nn.Module, Callable[[Sequence[int], float], np.ndarray]]:
    """A network taught cell features, and its logits by rows and sigma; see `train.feature_network`."""
    recipe, train = run.recipe, list(split.train)
    if run.backbone:
        backbone = feature_network.load_backbone(recipe, Path(run.backbone))
    else:
        targets = dataset_features(Path(run.data), rows, cache)[:, columns(recipe.distill.features)]
        options = {"seed": run.seed, "weights": run.weights, "precision": precision}
        backbone = feature_network.train_backbone(recipe, pixels, targets, train, out / CHECKPOINTS, **options)
        feature_network.save_backbone(backbone, out / "backbone.safetensors")
    _, labels = labels_of(rows)
    donors = [rows[i].group for i in train]
    levels = recipe.distill.noise_levels
    pooled = [feature_network.pooled_features(backbone, recipe, pixels, sigma, cache)[train] for sigma in levels]
    repeated = np.tile(labels[train], len(levels))
    head = feature_network.fit_head(backbone, recipe, np.concatenate(pooled), repeated, donors * len(levels))

    network = head.network(backbone, recipe)
    if recipe.second_stage:
        stage, groups = recipe.of_second_stage, [row.group for row in rows]
        examples = Examples.of(stage, pixels, labels, groups, train)
        tuned = train_network(stage, examples, split, out, seed=run.seed, precision=precision, start=network)
        network = feature_network.averaged(network, tuned, recipe.second_stage.share)
        return network, partial(predictor(network, recipe), pixels)

    write_log(out / "log.csv", [])

    def logits(indices: Sequence[int], sigma: float) -> np.ndarray:
        return head.logits(feature_network.pooled_features(backbone, recipe, pixels, sigma, cache)[list(indices)])

    return network, logits


def teacher_of(run: Run, dataset: str, label_names: tuple[str, ...]) -> Teacher | None:
    """The teacher of a run, None if its recipe has none; raises BlastlensError if recipe and options disagree."""
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
