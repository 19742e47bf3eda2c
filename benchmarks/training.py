"""Training throughput: our fine-tuning loop beside timm's reference training script, on the same images.

    python -m benchmarks.training --data DIR --weights DIR --timm-script train.py

Both start from the same weights and run as processes of their own with the same number of threads, in turn: ours,
timm, ours, timm, ... timm's data loader is tried with no worker, one, and one per core; its best counts.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
from safetensors.torch import save_file

from benchmarks import timm_loop
from benchmarks.our_loop import Job
from benchmarks.timings import WARM_UP, Timings, summarise, table
from blastlens.errors import BlastlensError
from blastlens.images import open_image
from train.datasets import load_rows
from train.finetune import best_precision, contiguous, dataset_folder, versions, view_of
from train.networks import OURS, find_weights
from train.recipe import Recipe
from train.transforms import Augment

ROOT = Path(__file__).parents[1]


def timed_recipe(recipe: Recipe, batch_size: int) -> Recipe:
    """The recipe as it is timed: one epoch, and no schedule or early stopping that waits for a validation part."""
    changes = {"batch_size": batch_size, "epochs": 1, "schedule": {"name": "cosine"}, "validation": 0.0}
    return recipe.changed(changes | {"early_stopping": None})


def start_of(recipe: Recipe, weights: str | None, folder: Path) -> str:
    """What both loops start from: the backbone's file in `weights`, or random weights written to `folder`."""
    if recipe.backbone in OURS:
        return "scratch"
    if weights:
        return str(find_weights(weights, recipe.backbone).resolve())
    path = folder / f"{recipe.backbone}.random.safetensors"
    save_file(contiguous(timm.create_model(recipe.backbone).state_dict()), path)
    return str(path)


def decoding_time(paths: Sequence[Path], recipe: Recipe) -> float:
    """Seconds an image that our road pays once, before training: decoding it and bringing it to its size."""
    view = view_of(recipe)
    started = time.perf_counter()
    for path in paths:
        view.apply(open_image(path))
    return (time.perf_counter() - started) / len(paths)


def time_ours(job: Job, environment: dict[str, str]) -> Timings:
    """Run `benchmarks.our_loop` as a process of its own."""
    out = Path(job.out)
    shutil.rmtree(out, ignore_errors=True)  # of the repeat before
    out.mkdir(parents=True)
    (out / "job.json").write_text(json.dumps(asdict(job)))
    command = [sys.executable, "-m", "benchmarks.our_loop", str(out / "job.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | environment)
    if done.returncode:
        raise BlastlensError(f"Our loop failed: {' / '.join(done.stderr.strip().splitlines()[-3:])}")
    record = json.loads(job.result.read_text())
    return Timings(**{name: tuple(value) if isinstance(value, list) else value for name, value in record.items()})


def machine(threads: int) -> dict[str, Any]:
    """What the figures depend on besides the programs; nothing that names the machine."""
    return {
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": threads,
        "memory_settings": {k: v for k, v in sorted(os.environ.items()) if k.startswith("MALLOC_")},
        "versions": versions() | {"torchvision": version("torchvision")},
    }


def described_augmentation(recipe: Recipe) -> dict[str, Any]:
    """What each side does to an image before the network sees it."""
    ours = {f.name: getattr(recipe.augment, f.name) for f in fields(Augment)}
    ours = {name: value for name, value in ours.items() if value != getattr(Augment(), name)}
    return {
        "ours": {
            "how": "a whole batch at a time on the training device; pixels were decoded once, before training",
            "steps": ours | {"mixup": recipe.mixup},
        },
        "timm": {
            "how": "image by image with Pillow in the data loader, which decodes every image every time",
            "options": " ".join(timm_loop.augmentation(recipe)),
        },
    }


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run everything and say what was measured on what; `folder` is for what need not be kept."""
    recipe = timed_recipe(Recipe.load(arguments.recipe), arguments.batch_size)
    data = dataset_folder(arguments.data, recipe).resolve()
    rows = load_rows(data)
    labelled = [i for i, row in enumerate(rows) if row.label]
    chosen = [labelled[i] for i in np.unique(np.linspace(0, len(labelled) - 1, arguments.images).astype(int))]
    paths, labels = [data / rows[i].file_name for i in chosen], [rows[i].label for i in chosen]
    job = Job(
        recipe=recipe.to_dict(),
        data=str(data),
        images=tuple(chosen),
        steps=arguments.steps,
        start=start_of(recipe, arguments.weights, folder),
        precision=best_precision(),
        cache=str(folder / "cache"),
        out="",
    )
    environment = {name: str(arguments.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    # One GPU each: our Trainer would share a batch out over all that it sees, timm's script takes the first.
    environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    script = arguments.timm_script
    if script:
        timm_loop.lay_out(paths, labels, job.steps * recipe.batch_size, folder / "images")
    ours: list[Timings] = []
    theirs: list[Timings] = []
    for _ in range(arguments.repeats):
        ours.append(_sound(time_ours(replace(job, out=str(folder / "ours")), environment)))
        for workers in sorted({0, 1, os.cpu_count() or 1}) if script else ():
            theirs.append(_sound(timm_loop.run(script, job, folder / "images", workers, folder / "timm", environment)))
    return {
        "what": "steady-state training throughput, without evaluation and saving",
        "machine": machine(arguments.threads),
        "setting": {
            "recipe": recipe.name,
            "backbone": recipe.backbone,
            "dataset": recipe.dataset,
            "image_size": recipe.image_size,
            "batch_size": recipe.batch_size,
            "precision": job.precision,
            "memory_format": "channels last",
            "distinct_images": len(chosen),
            "steps": job.steps,
            "steps_left_out": {"first": WARM_UP, "last": 1},
            "repeats": arguments.repeats,
            "initial_weights": Path(job.start).name,
        },
        "augmentation": described_augmentation(recipe),
        "timm_script_sha256": hashlib.sha256(script.read_bytes()).hexdigest() if script else None,
        "decoding_ms_per_image": round(decoding_time(paths[:64], recipe) * 1000, 2),
        "summary": summarise(ours, theirs),
        "runs": [asdict(timings) for timings in (*ours, *theirs)],
    }


def _sound(timings: Timings) -> Timings:
    """The same timings, if they are of real training."""
    if timings.fault:
        raise BlastlensError(timings.fault)
    return timings


def missing_script(recipe: Recipe, script: Path | None) -> str | None:
    """Why timm cannot be measured, and what to do about it, in one sentence; None when it can."""
    if recipe.backbone in OURS:
        return f"timm's script cannot build {recipe.backbone!r}, so only our loop is measured."
    if script is None or not script.is_file():
        return (
            "Only our loop is measured: timm's training script is not in its package; save train.py of "
            f"github.com/huggingface/pytorch-image-models at tag v{version('timm')} and name it with --timm-script."
        )
    return None


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.training", description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("BLASTLENS_DATA"), help="prepared dataset (or its parent)")
    parser.add_argument("--timm-script", type=Path, help="train.py of timm's repository")
    parser.add_argument(
        "--weights",
        default=os.environ.get("BLASTLENS_WEIGHTS"),
        help="folder with <backbone>.*.safetensors (default: both start from the same random weights)",
    )
    parser.add_argument("--recipe", default="ours_cnmc2019", help="name of a file in train/recipes, or a path")
    parser.add_argument("--images", type=int, default=256, help="distinct images, shown again and again")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, default=12, help=f"optimiser steps a run; the first {WARM_UP} and the last are not timed"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/training_throughput.json"))
    arguments = parser.parse_args(argv)
    try:
        missing = missing_script(Recipe.load(arguments.recipe), arguments.timm_script)
        if missing:
            print(missing, file=sys.stderr)
            arguments.timm_script = None
        with tempfile.TemporaryDirectory(prefix="training-benchmark-") as folder:
            record = measure(arguments, Path(folder))
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    print(table(record["summary"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
