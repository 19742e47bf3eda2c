"""One timed run of our own training loop, `train.finetune`, in a process of its own.

python -m benchmarks.our_loop JOB.json

The loop is the one that every other command trains with; only its waits and steps are clocked here.
"""

import functools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import TrainerCallback

from benchmarks.timings import Timings
from train import finetune
from train.datasets import load_rows
from train.datasets.splits import Split
from train.pixels import load_pixels
from train.recipe import Recipe


@dataclass(frozen=True)
class Job:
    """What to train on and for how long; paths as text, so that it can be written as JSON."""

    recipe: dict[str, Any]
    data: str
    images: tuple[int, ...]  # of the dataset's rows
    steps: int
    start: str  # what the backbone starts from: a safetensors file, or "scratch"
    precision: str
    cache: str  # folder for decoded pixels
    out: str  # folder for checkpoints and the result

    @property
    def result(self) -> Path:
        return Path(self.out) / "timings.json"


class Clock(TrainerCallback):
    """Times of each step, taken as timm's script takes them: from the end of one step to the end of the next."""

    def __init__(self, steps: int):
        self.wanted = steps
        self.steps: list[float] = []
        self.waits: list[float] = []
        self.losses: list[Tensor] = []
        self.start: dict[str, Tensor] = {}  # the network's first weights
        self.last = 0.0

    def on_train_begin(self, args, state, control, model, **kwargs):  # type: ignore[no-untyped-def]
        self.start = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def on_epoch_begin(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        self.last = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):  # type: ignore[no-untyped-def]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.steps.append(now - self.last)
        self.last = now
        control.should_training_stop = len(self.steps) >= self.wanted


class TimedTrainer(finetune.NetworkTrainer):
    """Our trainer with a clock in it."""

    def __init__(self, *, clock: Clock, **kwargs: Any):
        super().__init__(**kwargs)
        self.clock = clock
        self.add_callback(clock)  # last, so that a step's end includes what the other callbacks do

    def get_batch_samples(self, *args: Any) -> Any:
        """The only place where the training loop waits for its data loader."""
        started = time.perf_counter()
        batch = super().get_batch_samples(*args)
        self.clock.waits.append(time.perf_counter() - started)
        return batch

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        loss = super().training_step(*args, **kwargs)
        self.clock.losses.append(loss)
        return loss


def largest_change(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    """Largest difference of any weight that two state dicts share; running statistics do not count."""
    shared = [k for k in before if k in after and before[k].shape == after[k].shape and "running_" not in k]
    floats = [k for k in shared if before[k].is_floating_point() and after[k].is_floating_point()]
    return max(((before[k].float().cpu() - after[k].float().cpu()).abs().max().item() for k in floats), default=0.0)


def run(job: Job) -> Timings:
    """Train `job.steps` steps."""
    recipe = Recipe.from_dict(job.recipe)
    every_row = load_rows(job.data)
    rows = [every_row[i] for i in job.images]
    pixels = load_pixels(Path(job.data), rows, finetune.view_of(recipe), Path(job.cache))
    # One long epoch: a data loader's start is not paid for again every few steps.
    train = tuple(np.resize(np.arange(len(rows)), job.steps * recipe.batch_size).tolist())
    split = Split(train, (), (), "all", 0, 0)
    clock = Clock(job.steps)
    # The trainer is made inside `finetune.finetune`, which takes no other one: a process of our own may exchange it.
    finetune.NetworkTrainer = functools.partial(TimedTrainer, clock=clock)
    options = finetune.Run(recipe, job.data, "all", weights=job.start, precision=job.precision)
    network = finetune.finetune(options, rows, pixels, split, Path(job.out))
    return Timings(
        loop="ours",
        workers=0,
        batch_size=recipe.batch_size,
        steps=tuple(clock.steps),
        waits=tuple(clock.waits[: len(clock.steps)]),
        losses=tuple(loss.item() for loss in clock.losses),
        largest_change=largest_change(clock.start, network.state_dict()),
    )


def main(argv: Sequence[str]) -> int:
    job = Job(**json.loads(Path(argv[0]).read_text()))
    job.result.write_text(json.dumps(asdict(run(job))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
