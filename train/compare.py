"""Every published system on its own protocol and on the honest one: recipes x protocols x seeds -> results/runs.

    python -m train.compare --list                       what is done, running and missing, with an estimate
    python -m train.compare --only mobilenet_m alnett --jobs 2
    accelerate launch -m train.compare --only p2_resnet50

Each run is a `train.finetune` of its own, so that one that fails, or is killed, stops nothing else: its reason is
kept beside it and shown by --list. The command can be stopped at any moment and given again; finished runs are kept,
a run that was cut goes on from its last checkpoint. Tables and figures are `python -m train.report`.
"""

import argparse
import contextlib
import fcntl
import functools
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from blastlens.errors import BlastlensError
from blastlens.inference import usable_cores
from blastlens.noise import NOISE_SIGMAS
from train.complexity import count_parameters, multiply_adds
from train.datasets import Row, dataset_hash, load_rows
from train.datasets.splits import make_splits, with_validation
from train.files import Unwritable, writing
from train.finetune import best_precision, dataset_folder
from train.networks import OURS, create_network, find_weights
from train.recipe import RECIPES, Recipe
from train.results import HONEST, RUNS, Result, from_run_folder, level_of, load_results, result_name

SHORTENED = Path(__file__).parent / "shortened.yaml"
LOCK, FAILURE, OUTPUT = "lock", "failure.txt", "output.txt"
# Of one image's forward pass: training costs about three, testing one at each noise level.
TRAINING_COST = 3


@dataclass(frozen=True)
class Job:
    """One run to have: everything that decides its outcome but the data and the first weights."""

    recipe: Recipe  # with the changes
    changes: dict[str, Any]
    published: str  # digest of the recipe without them
    protocol: str
    fold: int
    folds: int
    seed: int
    initialisation: Literal["imagenet", "scratch"]

    @property
    def file(self) -> str:
        return result_name(self.recipe.name, self.protocol, self.initialisation, self.seed, self.fold)

    @property
    def run_name(self) -> str:
        """Other settings are another folder: a run is never resumed with settings that it was not begun with."""
        return f"{self.file.removesuffix('.json')}-{self.recipe.digest}"

    def done_by(self, result: Result, dataset: str) -> bool:
        """Whether a recorded run is this one, or the one as published, on the same data set."""
        return result.recipe_digest in (self.recipe.digest, self.published) and result.dataset["hash"] == dataset


def systems() -> list[str]:
    """Recipes that come from a paper, paper by paper."""
    recipes = [Recipe.load(path) for path in RECIPES.glob("*.yaml")]
    return [r.name for r in sorted(recipes, key=lambda r: (r.paper or "", r.name)) if r.paper]


def protocols_of(recipe: Recipe, asked: str) -> list[str]:
    """`asked` is "image" (the paper's own), "group" (the honest one), "both", or a protocol's name."""
    return {"image": [recipe.protocol], "group": [HONEST], "both": [recipe.protocol, HONEST]}.get(asked, [asked])


def shortened(path: Path = SHORTENED) -> dict[str, dict[str, Any]]:
    """Changes by recipe for a machine without a GPU; `group` holds further ones for group-level protocols."""
    return yaml.safe_load(path.read_text())


def changes_for(name: str, protocol: str, table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    changes = dict(table.get(name, {}))
    for_groups = changes.pop("group", {})
    return changes | (for_groups if level_of(protocol) == "group" else {})


def plan(
    names: Sequence[str],
    protocol: str,
    seeds: Sequence[int],
    rows: dict[str, list[Row]],
    weights: str,
    table: dict[str, dict[str, Any]],
    folds: Sequence[int] | None = None,
) -> list[Job]:
    """The jobs in the order they are run: by recipe, protocol, seed and fold.

    `rows` holds the data sets at hand by name; recipes of others get no jobs. `table` is as `shortened` reads it.
    """
    jobs = []
    for name in names:
        recipe = Recipe.load(name)
        if recipe.dataset not in rows:
            continue
        initialisation = "scratch" if weights == "scratch" or recipe.backbone in OURS else "imagenet"
        for each in protocols_of(recipe, protocol):
            changes = changes_for(name, each, table)
            changed = recipe.changed(changes)
            for seed in seeds:
                n = _folds(each, recipe.dataset, seed, rows)
                wanted = range(n) if folds is None else [fold for fold in folds if fold < n]
                jobs += [Job(changed, changes, recipe.digest, each, fold, n, seed, initialisation) for fold in wanted]
    return jobs


def _folds(protocol: str, dataset: str, seed: int, rows: dict[str, list[Row]]) -> int:
    return len(_splits(protocol, dataset, seed, tuple(rows[dataset])))


@functools.lru_cache(maxsize=64)
def _splits(protocol: str, dataset: str, seed: int, rows: tuple[Row, ...]) -> list[Any]:
    return make_splits(protocol, rows, seed)


@dataclass(frozen=True)
class Workplace:
    """Where runs are made and recorded, and from what."""

    data: str
    weights: str
    runs: Path
    results: Path
    cache: Path
    precision: str
    hashes: dict[str, str]  # by data set
    sigmas: Sequence[float] = NOISE_SIGMAS  # at which held-out images are tested

    def state(self, job: Job) -> str:
        """ "done", "running", "failed: why", "missing: why" or "to do"."""
        path = self.results / job.file
        if path.exists() and job.done_by(Result.read(path), self.hashes[job.recipe.dataset]):
            return "done"
        folder = self.runs / job.run_name
        if is_locked(folder / LOCK):
            return "running"
        if (folder / FAILURE).exists():
            return f"failed: {(folder / FAILURE).read_text().strip()}"
        if job.initialisation == "imagenet" and self.weights != "hub":
            try:
                find_weights(self.weights, job.recipe.backbone)
            except BlastlensError:
                return f"missing: no ImageNet weights of {job.recipe.backbone} in the folder given"
        return "to do"


def is_locked(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open() as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """Hold the lock file and yield its descriptor, or None where another process holds it. It is freed when the last
    process that has it is gone, however it went. Processes that train together hold it together."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    with handle:
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if _launched() else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            yield handle.fileno()


def run_job(job: Job, place: Workplace, threads: int) -> str:
    """Run, or go on with, one job and record it. Returns "done", "running" (elsewhere) or "failed: why"."""
    folder = place.runs / job.run_name
    with locked(folder / LOCK) as lock:
        if lock is None:
            return "running"
        recipe = folder / "recipe.yaml"
        text = yaml.safe_dump(json.loads(json.dumps(job.recipe.to_dict())), sort_keys=False)
        with writing(recipe):
            (folder / FAILURE).unlink(missing_ok=True)
            part = folder / f"recipe.{_rank()}.part"  # those who train together write it together
            part.write_text(text)
            part.replace(recipe)
        arguments = [str(recipe), "--data", place.data, "--weights", _weights(job, place), "--protocol", job.protocol]
        arguments += ["--fold", str(job.fold), "--seed", str(job.seed), "--precision", place.precision]
        arguments += ["--cache", str(place.cache), "--out", str(folder)]
        arguments += ["--sigmas", *(str(sigma) for sigma in place.sigmas)]
        reason = _finetune_here(arguments) if _launched() else _finetune(arguments, folder, threads, lock)
        if reason is None and _rank() == 0:
            try:
                record(job, place).write(place.results)
            except Unwritable:
                raise
            except (BlastlensError, OSError) as error:
                reason = str(error)
        if reason is not None:
            with writing(folder / FAILURE):
                (folder / FAILURE).write_text(reason + "\n")
            return f"failed: {reason}"
        return "done"


def record(job: Job, place: Workplace) -> Result:
    """The record of a job whose run folder is finished."""
    network = create_network(job.recipe, 2 if job.recipe.dataset == "cnmc2019" else 4, "scratch")
    complexity = count_parameters(network), multiply_adds(network, job.recipe.image_size)
    groups = [row.group for row in load_rows(dataset_folder(place.data, job.recipe))]
    return from_run_folder(place.runs / job.run_name, job.folds, job.changes, groups, complexity)


def _weights(job: Job, place: Workplace) -> str:
    return "scratch" if job.initialisation == "scratch" else place.weights


def _finetune(arguments: list[str], folder: Path, threads: int, lock: int) -> str | None:
    """In a process of its own, which keeps the lock should this one be killed. Returns why it failed, or None."""
    environment = {**os.environ, "BLASTLENS_PROGRESS": "1"}
    if not has_gpu():
        environment["OMP_NUM_THREADS"] = str(threads)
    with writing(folder / OUTPUT):
        output = (folder / OUTPUT).open("a")
    with output:
        process = subprocess.run(
            [sys.executable, "-m", "train.finetune", *arguments],
            env=environment,
            stdout=output,
            stderr=output,
            pass_fds=(lock,),
        )
    return None if process.returncode == 0 else reason_of(process.returncode, (folder / OUTPUT).read_text())


def _finetune_here(arguments: list[str]) -> str | None:
    """In this process, one of several that `accelerate launch` started and that train together."""
    from train import finetune

    try:
        return None if finetune.main(arguments) == 0 else "see the messages above"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def reason_of(code: int, output: str) -> str:
    """Why a process ended: its last words, or the signal that killed it."""
    if code < 0:
        return f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    lines = [line.strip() for line in output.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _launched() -> bool:
    """Whether this is one of several processes that train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def work_of(train: int, test: int, epochs: int, image_multiply_adds: int) -> float:
    """How much computing a run is, in multiply-adds."""
    return float(image_multiply_adds) * (TRAINING_COST * train * epochs + test * len(NOISE_SIGMAS))


def speed_on(device: str, results: Sequence[Result]) -> dict[str, float]:
    """Multiply-adds per second of recorded runs on a device, by backbone, and of all under ""."""
    speeds: dict[str, list[float]] = {}
    for r in results:
        if r.device == device and r.seconds > 0:
            speed = work_of(r.images["train"], r.images["test"], r.epochs, r.multiply_adds) / r.seconds
            speeds.setdefault(r.backbone, []).append(speed)
            speeds.setdefault("", []).append(speed)
    return {name: float(np.median(values)) for name, values in speeds.items()}


def estimate(job: Job, rows: dict[str, list[Row]], speeds: dict[str, float]) -> float | None:
    """Seconds a job takes at most (early stopping may end it sooner), or None where nothing was measured here."""
    speed = speeds.get(job.recipe.backbone, speeds.get(""))
    if speed is None:
        return None
    split = _splits(job.protocol, job.recipe.dataset, job.seed, tuple(rows[job.recipe.dataset]))[job.fold]
    split = with_validation(split, rows[job.recipe.dataset], job.recipe.validation)
    try:
        cost = image_cost(job.recipe.backbone, job.recipe.image_size)
    except BlastlensError:  # a network that cannot be built: the run will say so
        return None
    return work_of(len(split.train), len(split.test), job.recipe.epochs, cost) / speed


@functools.cache
def image_cost(backbone: str, size: int) -> int:
    """Multiply-adds of one image; heads hardly matter."""
    recipe = Recipe("", "", "cnmc2019", backbone, "all", image_size=size)
    return multiply_adds(create_network(recipe, 2, "scratch"), size)


def listing(jobs: Sequence[Job], states: Sequence[str], seconds: Sequence[float | None]) -> str:
    """One line per system, protocol and initialisation: how many runs are in which state, and what is left."""
    lines: dict[tuple[str, str, str], list[int]] = {}
    for i, job in enumerate(jobs):
        lines.setdefault((job.recipe.name, job.protocol, job.initialisation), []).append(i)
    text = [f"{'system':20} {'protocol':24} {'start':9} {'runs':28} left"]
    for (name, protocol, initialisation), members in lines.items():
        counts = Counter(states[i].partition(":")[0] for i in members)
        reasons = sorted({states[i].partition(": ")[2] for i in members} - {""})
        left = [seconds[i] for i in members if states[i] != "done"]
        runs = ", ".join(f"{n} {state}" for state, n in counts.items())
        hours = "" if not left else "not measured yet" if None in left else duration(sum(s for s in left if s))
        changes = jobs[members[0]].changes
        notes = [*reasons, *([f"changed: {describe_changes(changes)}"] if changes else [])]
        text.append(f"{name:20} {protocol:24} {initialisation:9} {runs:28} {hours}".rstrip())
        text += [f"{'':20} {note}" for note in notes]
    total = Counter(state.partition(":")[0] for state in states)
    text.append(f"{len(jobs)} runs: " + ", ".join(f"{n} {state}" for state, n in total.items()))
    return "\n".join(text)


def describe_changes(changes: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in changes.items())


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"


def run_all(jobs: Sequence[Job], place: Workplace, rows: dict[str, list[Row]], at_once: int) -> int:
    """Run what is to be run, `at_once` runs side by side; returns how many failed."""
    wanted = {"to do", "failed"}
    if _launched():
        # The others may have begun the first run already; all must go through the same list.
        wanted.add("running")
    todo = [job for job in jobs if place.state(job).partition(":")[0] in wanted]
    speeds = speed_on(_device(), load_results(place.results))
    threads = max(1, usable_cores() // at_once)

    def go(item: tuple[int, Job]) -> bool:
        number, job = item
        seconds = estimate(job, rows, speeds)
        about = "" if seconds is None else f", about {duration(seconds)}"
        say(f"[{number}/{len(todo)}] {job.run_name} starts{about}")
        started = time.time()
        state = run_job(job, place, threads)
        say(f"[{number}/{len(todo)}] {job.run_name} {state} after {duration(time.time() - started)}")
        return state.startswith("failed")

    with ThreadPoolExecutor(1 if _launched() else at_once) as pool:
        failed = sum(pool.map(go, enumerate(todo, start=1)))
    say(f"{len(todo) - failed} of {len(todo)} runs ended well; {len(jobs) - len(todo)} needed nothing.")
    return failed


def say(line: str) -> None:
    if _rank() == 0:
        print(line, flush=True)


def has_gpu() -> bool:
    return torch.cuda.is_available()


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.compare", description=__doc__.splitlines()[0])
    parser.add_argument("--list", action="store_true", help="only show what is done, running and missing")
    parser.add_argument("--only", nargs="+", default=None, metavar="RECIPE", help="default: every published system")
    parser.add_argument("--protocol", default="both", help="image (the paper's), group (honest), both, or a name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+", help="only these folds of each protocol")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--as-published", action="store_true", help="full length, also where there is no GPU")
    parser.add_argument("--data", default=os.environ.get("BLASTLENS_DATA"), help="folder with the prepared datasets")
    parser.add_argument("--weights", default=os.environ.get("BLASTLENS_WEIGHTS", "hub"), help="as for train.finetune")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="run folders, with checkpoints")
    parser.add_argument("--results", type=Path, default=RUNS, help="where runs are recorded")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where decoded pixels are kept")
    arguments = parser.parse_args(argv)
    try:
        names = arguments.only or systems()
        rows = datasets_at_hand(arguments.data, [Recipe.load(name) for name in names])
        table = {} if arguments.as_published or has_gpu() else shortened()
        jobs = plan(names, arguments.protocol, arguments.seeds, rows, arguments.weights, table, arguments.folds)
        place = Workplace(
            arguments.data,
            arguments.weights,
            arguments.runs,
            arguments.results,
            arguments.cache,
            best_precision(),
            {name: dataset_hash(members) for name, members in rows.items()},
        )
        if arguments.list:
            speeds = speed_on(_device(), load_results(place.results))
            print(listing(jobs, [place.state(job) for job in jobs], [estimate(job, rows, speeds) for job in jobs]))
            return 0
        return 1 if run_all(jobs, place, rows, arguments.jobs) else 0
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2


def datasets_at_hand(data: str | None, recipes: Sequence[Recipe]) -> dict[str, list[Row]]:
    """The rows of each data set that the recipes need; one that is not there is named and left out, unless none is."""
    rows = {}
    faults = []
    for recipe in {recipe.dataset: recipe for recipe in recipes}.values():
        try:
            rows[recipe.dataset] = load_rows(dataset_folder(data, recipe))
        except BlastlensError as error:
            faults.append(f"{recipe.dataset}: {error}")
    if not rows:
        raise BlastlensError(" ".join(faults))
    for fault in faults:
        print(f"Left out, {fault}", file=sys.stderr)
    return rows


if __name__ == "__main__":
    sys.exit(main())
