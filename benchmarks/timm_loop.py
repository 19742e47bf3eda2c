"""timm's reference training script, on the images and settings that our loop gets.

The script, `train.py` of huggingface/pytorch-image-models, is not in timm's package and not in this repository.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from timm.models import load_state_dict

from benchmarks.our_loop import Job, largest_change
from benchmarks.timings import Timings
from blastlens.errors import BlastlensError
from train.recipe import Recipe

_STEP = re.compile(
    r"Train: \d+ \[ *\d+/\d+ .*?Loss: +(?P<loss>\S+) .*?Time: +(?P<time>[\d.]+)s, +(?P<rate>[\d.]+)/s .*?"
    r"Data: +(?P<data>[\d.]+) "
)


def lay_out(paths: Sequence[Path], labels: Sequence[str], length: int, folder: Path) -> Path:
    """Make `folder`/train/<label>/ with `length` links to the images, again and again from the first.

    timm reads only names that end in .png or .jpg; what an image is, is seen from its first bytes.
    """
    for label in set(labels):
        (folder / "train" / label).mkdir(parents=True)
    for i in range(length):
        k = i % len(paths)
        (folder / "train" / labels[k] / f"{i:06d}.png").symlink_to(paths[k].resolve())
    return folder


def augmentation(recipe: Recipe) -> list[str]:
    """Options of timm's script that come nearest to the recipe's augmentation. It has no rotation by any angle, no
    shift, no shear and no noise; its crop and its colours take over, with our ranges."""
    a = recipe.augment
    jitter = max(abs(bound - 1) for bound in (*a.brightness, *a.saturation))
    return [
        *("--scale", f"{min(1.0, a.scale[1] ** -2):.3f}", "1.0"),  # share of the area that a magnification leaves
        *("--ratio", "1.0", "1.0"),
        *("--hflip", "0.5" if a.horizontal_flip else "0"),
        *("--vflip", "0.5" if a.vertical_flip else "0"),
        *("--color-jitter", f"{jitter:.2f}"),
        *("--grayscale-prob", f"{a.grey:g}"),
        *("--gaussian-blur-prob", "0.5" if a.blur else "0"),
        *("--mixup", f"{recipe.mixup:g}"),
        *("--train-interpolation", "bilinear"),
    ]


def options(recipe: Recipe, num_classes: int, start: str, precision: str, device: str) -> list[str]:
    """The recipe in the words of timm's script; data, workers and output are left to `run`."""
    return [
        *("--model", recipe.backbone, "--num-classes", str(num_classes)),
        *("--pretrained", "--pretrained-path", start),
        # timm draws a small classifier so wide that training would start at a loss above 2; ours starts near zero.
        *("--head-init-scale", "0.02"),
        *("--input-size", "3", str(recipe.image_size), str(recipe.image_size)),
        *("--mean", *map(str, recipe.channel_mean), "--std", *map(str, recipe.channel_std)),
        *("--batch-size", str(recipe.batch_size), "--epochs", "1", "--warmup-epochs", "0"),
        *("--opt", recipe.optimizer.name, "--lr", str(recipe.optimizer.lr)),
        *("--weight-decay", str(recipe.optimizer.weight_decay)),
        *("--smoothing", str(recipe.label_smoothing), "--drop", str(recipe.head.dropout)),
        *(("--model-ema", "--model-ema-decay", str(recipe.ema)) if recipe.ema else ()),
        *augmentation(recipe),
        *("--channels-last", "--device", device),
        *(("--amp", "--amp-dtype", "bfloat16") if precision == "bf16" else ()),
        *(("--pin-mem",) if device == "cuda" else ()),
    ]


def parse(log: str, batch_size: int) -> tuple[list[float], list[float], list[float]]:
    """Seconds, seconds of them waiting for data, and loss of each step, from what the script logs at every step.

    A step's time is logged to the millisecond; from the rate beside it, short steps are known more exactly.
    """
    found = list(_STEP.finditer(log))
    seconds = [float(f["time"]) if float(f["time"]) >= 1 else batch_size / float(f["rate"]) for f in found]
    return seconds, [float(f["data"]) for f in found], [float(f["loss"]) for f in found]


def run(script: Path, job: Job, data: Path, workers: int, out: Path, environment: dict[str, str]) -> Timings:
    """One run of timm's script over `data`, an image folder, with what `job` asks of our loop.

    Raises BlastlensError with the script's last words if it fails.
    """
    shutil.rmtree(out, ignore_errors=True)  # of the run before
    out.mkdir(parents=True)
    recipe = Recipe.from_dict(job.recipe)
    classes = len(list((data / "train").iterdir()))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    command = [sys.executable, str(script.resolve()), "--data-dir", str(data), "--val-split", ""]
    command += options(recipe, classes, job.start, job.precision, device)
    command += ["--workers", str(workers), "--log-interval", "1", "--output", str(out), "--experiment", "run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out, env=os.environ | environment)
    log = done.stdout + done.stderr
    if done.returncode:
        raise BlastlensError(f"timm's script failed: {' / '.join(log.strip().splitlines()[-3:])}")
    steps, waits, losses = parse(log, recipe.batch_size)
    after = load_state_dict(str(out / "run/last.pth.tar"), use_ema=False, weights_only=False)
    change = largest_change(load_file(job.start), after)
    return Timings("timm", workers, recipe.batch_size, tuple(steps), tuple(waits), tuple(losses), change)
