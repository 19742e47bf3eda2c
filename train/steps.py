"""The steps of `python -m train`: the commands that they run, how long they take, and which are finished.

A step is one or more of the project's commands, run as a user would run them; each of them resumes by itself.
`train.json` in the output folder says what is trained there and which steps are finished.
"""

import argparse
import importlib
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blastlens.errors import BlastlensError
from blastlens.files import write_json, writing
from blastlens.synthetic_images import synthetic_image
from blastlens.wording import count, duration
from train.datasets import METADATA, Row, labels_of, load_rows
from train.datasets.splits import Split, make_splits, with_validation
from train.recipe import Recipe

RECORD, SCHEMA = "train.json", 1
SAMPLE = 100  # images by which a copy of the model can be checked
SIGMAS = (0, 10, 20)  # of the noise, that a card needs
QUICK = {"epochs": 1, "image_size": 64, "batch_size": 8}  # of --quick, unless --set says otherwise
SUBJECTS, IMAGES_EACH = 4, 4  # of each label of the synthetic images
# Evaluation predicts each image about so often (own images have no shortcut probes), and takes so many seconds more for
# bootstraps: measured.
PASSES, PASSES_OWN, BOOTSTRAPS_S = 75, 35, 60

Command = tuple[str, ...]  # module and arguments


@dataclass(frozen=True)
class Step:
    """A step: commands that are run one after the other, what the last of them writes, and an estimate of the time."""

    name: str
    commands: tuple[Command, ...]
    output: Path
    seconds: float
    trains: bool = False  # the time of one such step tells how long the next will take


class Record:
    """train.json: what is trained in a folder, and the seconds that each finished step took.

    Raises:
        BlastlensError: the folder holds another training, or something else.
    """

    def __init__(self, out: Path, what: dict[str, Any]) -> None:
        self.path, self.what = out / RECORD, what
        self.seconds: dict[str, int] = {}
        if not self.path.exists():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise BlastlensError(f"{out} exists and was not written by this command; give another folder.")
            return
        try:
            found = json.loads(self.path.read_text())
            earlier, self.seconds = dict(found["what"]), dict(found["seconds"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BlastlensError(f"{self.path} cannot be read ({type(error).__name__}); give another --out.") from None
        if other := [f"{key} {earlier.get(key)}" for key in what if earlier.get(key) != what[key]]:
            raise BlastlensError(f"{out} belongs to another training, of {', '.join(other)}; give another --out.")

    def unfinished(self, steps: Sequence[Step]) -> list[Step]:
        """The steps that have to be run, which are all that follow the first of them."""
        done = [step.name in self.seconds and step.output.exists() for step in steps]
        return list(steps[done.index(False) :]) if False in done else []

    def finish(self, step: Step, seconds: float) -> None:
        self.seconds[step.name] = round(seconds)
        self.write()

    def write(self) -> None:
        write_json(self.path, {"schema": SCHEMA, "what": self.what, "seconds": self.seconds})


def run_all(steps: Sequence[Step], record: Record) -> None:
    """Run what is not finished. What the steps take corrects the estimates of those that follow.

    Raises:
        BlastlensError: a command failed; it has said why.
    """
    todo = record.unfinished(steps)
    taken = expected = 0.0
    for number, step in enumerate(steps, start=1):
        title = f"[{number}/{len(steps)}] {step.name}"
        if step not in todo:
            print(f"{title}: finished earlier in {duration(record.seconds[step.name])}", flush=True)
            continue
        seconds = step.seconds * (taken / expected if expected and step.trains else 1)
        print(f"{title}: about {duration(seconds)} (estimate)", flush=True)
        started, whole = time.perf_counter(), not step.output.parent.exists()
        for command in step.commands:
            _run(command, step)
        record.finish(step, time.perf_counter() - started)
        print(f"{title}: done in {duration(record.seconds[step.name])}", flush=True)
        if step.trains and whole:  # a resumed one says nothing
            taken, expected = taken + record.seconds[step.name], expected + step.seconds


def _run(command: Command, step: Step) -> None:
    """Run one command: training in a process of its own, with the settings that it needs; all others in this one."""
    module, *arguments = command
    print(f"$ {shown(command)}", flush=True)
    if module == "train.finetune":
        from train.jobs import training_environment

        code = subprocess.run([sys.executable, "-m", *command], env=training_environment()).returncode
    else:
        code = importlib.import_module(module).main(arguments)
    if code:
        raise BlastlensError(f"The step {step.name!r} failed; rerun the command to continue with it.")


def shown(command: Command) -> str:
    """The command as it is typed."""
    module, *arguments = command
    program = ["hub_upload.py"] if module == "hub_upload" else ["-m", module.removesuffix(".__main__")]
    return shlex.join(["python", *program, *arguments])


@dataclass(frozen=True)
class Speed:
    """Seconds per image of a training step and of a prediction, and of the start of a process."""

    train: float = 0.0
    predict: float = 0.0
    start: float = 0.0


@dataclass(frozen=True)
class Training:
    """One training: a recipe on a prepared dataset, into a folder; `options` are those of the command line."""

    recipe: Recipe
    out: Path
    data: Path
    options: argparse.Namespace

    @cached_property
    def rows(self) -> list[Row]:
        return load_rows(self.data)

    @property
    def model(self) -> Path:
        """The model folder; inside of `models`, so that the paths in its card hold in `out`."""
        return self.out / "models" / self.out.resolve().name

    @cached_property
    def protocol(self) -> str:
        """Of the cross-validation: the one asked for, the recipe's if by group, else the most folds up to three."""
        if self.options.protocol:
            return self.options.protocol
        first = [self.recipe.protocol] if self.recipe.protocol.startswith("group-kfold:") else []
        *others, last = [*first, "group-kfold:3", "group-kfold:2"]
        for protocol in others:
            try:
                make_splits(protocol, self.rows, 0)
            except BlastlensError:
                continue
            return protocol
        return last

    @cached_property
    def splits(self) -> list[Split]:
        """One per run of the cross-validation.

        Raises:
            BlastlensError: too few groups, or a protocol that does not hold out every image once.
        """
        found = []
        for seed in self.options.seeds:
            splits = make_splits(self.protocol, self.rows, seed)
            if sorted(i for split in splits for i in split.test) != list(range(len(self.rows))):
                raise BlastlensError(
                    f"{self.protocol} does not hold out every image once, which the evaluation needs; give "
                    "--protocol group-kfold:K or image-10fold."
                )
            for split in splits:  # too few groups for a validation part are reported now, not by the trainings
                with_validation(split, self.rows, self.recipe.validation)
            found += splits
        return found

    def steps(self, speed: Speed | None = None) -> list[Step]:
        """All steps, with estimates from the speed of the network."""
        speed, options, model = speed or Speed(), self.options, self.model
        cv, fit = self.out / "cv", self.out / "fit"
        place = ("--data", str(self.data), "--cache", str(options.cache))
        common = (options.recipe, *place, "--weights", options.weights, "--precision", options.precision)
        changes = ("--set", *options.set) if options.set else ()
        features, n = bool(self.recipe.distill.features), len(self.rows)
        # The folds share the network that measures features: it sees no label of what they hold out.
        given = ("--backbone", options.backbone) if options.backbone else ()
        shared = given or (("--backbone", str(fit / "backbone.safetensors")) if features else ())
        folds = ("train.crossval", *common, "--protocol", self.protocol, "--seeds", *map(str, options.seeds))
        folds += ("--jobs", str(options.jobs), "--sigmas", *(f"{s:g}" for s in options.sigmas), *shared)
        final = ("train.finetune", *common, "--protocol", "all", *given, "--out", str(fit), *changes)

        after = self.recipe.of_second_stage.epochs if self.recipe.second_stage else 0
        seen = (after + (0 if shared else self.recipe.epochs)) * sum(len(split.train) for split in self.splits)
        predicted = len(options.sigmas) * sum(len(split.test) for split in self.splits)
        all_epochs = (after + (0 if given else self.recipe.epochs)) * n
        training = [
            Step(
                "cross-validate",
                ((*folds, "--out", str(cv), *changes),),
                cv / "summary.json",
                len(self.splits) * speed.start + seen * speed.train + predicted * speed.predict,
                True,
            ),
            Step("fit on all images", (final,), fit / "run.json", speed.start + all_epochs * speed.train, True),
        ]
        export = ("train.export", str(fit), "--cv", str(cv), *place, "--out", str(model))
        measure = ("train.evaluate", str(model), "--all", "--cv", str(cv), *place, "--run", str(fit))
        sample = ("train.pipeline_evaluation", str(model), "--data", str(self.data), "--limit", str(SAMPLE), "--record")
        bootstraps = 30 if options.quick else BOOTSTRAPS_S
        passes = PASSES_OWN if self.rows[0].own else PASSES
        steps = [
            *(training[::-1] if features else training),
            Step("calibrate and export", (export,), model / "config.json", 20 + 3000 * speed.predict),
            Step("evaluate", (measure,), model / "README.md", bootstraps + n * passes * speed.predict),
            Step(
                "check in pipeline, timm and ONNX Runtime",
                (sample, ("train.card", str(model)), ("hub_upload", "check", str(model))),
                model / "README.md",
                20 + SAMPLE * speed.predict,
            ),
        ]
        if options.push_to_hub:
            push = ("hub_upload", "model", str(model), "--repo-id", options.push_to_hub)
            push += ("--private",) if options.private else ()
            steps.append(Step(f"publish as {options.push_to_hub}", (push,), model / "README.md", 20))
        return steps

    def measured_speed(self) -> Speed:
        """Time a training step and a prediction of the network, on noise, and the imports of a process."""
        started = time.perf_counter()
        import torch

        from train import transforms
        from train.loop import loss_of, make_optimizer
        from train.networks import create_network, normalise, prepare
        from train.precision import best_precision, quicken_on_cpu
        from train.prediction import runner
        from train.run import execute  # noqa: F401 - for the time

        start, recipe, classes = time.perf_counter() - started, self.recipe, len(labels_of(self.rows)[0])
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        precision = best_precision() if self.options.precision == "auto" else self.options.precision
        network = create_network(recipe, classes, "scratch").to(device, memory_format=torch.channels_last)
        if device.type == "cpu":
            quicken_on_cpu(network, precision)
        optimizer, generator = make_optimizer(recipe, network), torch.Generator().manual_seed(0)
        size, n = recipe.image_size, min(recipe.batch_size, 16)
        images = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator).to(device)
        labels = torch.arange(n, device=device) % classes

        def train() -> None:
            changed = transforms.apply(recipe.augment, prepare(recipe, images), generator)
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                logits = network(normalise(recipe, changed)).float()
            loss_of(recipe, logits, labels, None).backward()
            optimizer.step()
            optimizer.zero_grad()

        def predict() -> None:
            run(normalise(recipe, prepare(recipe, images)))

        def seconds(work: Callable[[], None]) -> float:
            times = []
            for _ in range(3):  # the first allocates memory
                began = time.perf_counter()
                work()
                if device.type == "cuda":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - began)
            return min(times) / n

        trained, run = seconds(train), runner(network, size)
        with torch.inference_mode():
            return Speed(trained, seconds(predict), start)


def describe(training: Training, steps: Sequence[Step], record: Record) -> str:
    """What will be done, in a few lines."""
    recipe, rows, todo = training.recipe, training.rows, record.unfinished(steps)
    images, classes = count(len(rows), "image"), count(len(labels_of(rows)[0]), "class", "classes")
    groups = count(len({row.group for row in rows}), "group")
    lines = [f"{recipe.name}: {images} of {classes} in {groups}; {training.protocol}, seeds {training.options.seeds}"]
    if all(row.own and not row.subject for row in rows):
        lines.append("NO SUBJECTS: the split is by image, near-duplicates together; figures may be too high.")
    if recipe.distill.features and not training.options.backbone:
        lines.append("The folds share the network that measures features, which sees all images but no label.")
    if not training.protocol.startswith("group-"):
        lines.append(f"{training.protocol} is by image: figures are too high for new subjects.")
    lines += [f"  {number}. {step.name}" for number, step in enumerate(steps, start=1)]
    seconds = sum(step.seconds for step in todo)
    left = f"{len(todo)} of {count(len(steps), 'step')} to do, about {duration(seconds)} (estimate)"
    lines.append(left if todo else "all steps are finished")
    return "\n".join(lines)


def preparing(source: str, out: Path) -> Step:
    """The step that prepares a dataset of the Hub."""
    data = out / "data"
    command = ("train.datasets.__main__", "prepare", "hub", source, str(data), "--name", source.rpartition("/")[2])
    return Step(f"prepare {source}", (command,), data / METADATA, 60)


def prepare_synthetic(recipe: Recipe, out: Path) -> Path:
    """Draw the images of --quick and prepare them as a user's own: cells or fields, each subject with its own tint."""
    drawn, data = out / "synthetic", out / "data"
    if (data / METADATA).exists():
        return data
    from train.datasets.own_images import Options
    from train.datasets.prepare import prepare_own

    for label in ("ALL", "HEM") if recipe.dataset == "cnmc2019" else ("Benign", "Early", "Pre", "Pro"):
        for subject in range(SUBJECTS):
            tint = np.exp(np.random.default_rng([subject, *label.encode()]).normal(0, 0.05, 3))
            folder = drawn / label / f"{label}-{subject + 1}"
            with writing(folder):
                folder.mkdir(parents=True, exist_ok=True)
                for k in range(IMAGES_EACH):
                    pixels = np.asarray(synthetic_image(label, subject * IMAGES_EACH + k)) * tint
                    Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)).save(folder / f"{k + 1}.png")
    prepare_own(drawn, data, 224, Options("synthetic", "folder", similarity=1.01))
    return data
