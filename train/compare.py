"""Every published system on its own protocol and a group-disjoint one: recipes x protocols x seeds -> results/runs.

    python -m train.compare --list                       what is done, running and missing, with an estimate
    python -m train.compare --only mobilenet_m alnett --jobs 2

Each run is a `train.finetune` process, so that one that fails stops no other: its reason is kept beside it and shown by
--list. Rerun the command to resume: finished runs are kept, an interrupted run continues from its last checkpoint.
Tables and figures are `python -m train.report`. `train.search` runs its candidates with the same queue.
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
from blastlens.files import Unwritable, writing
from blastlens.inference import usable_cores
from blastlens.noise import NOISE_SIGMAS
from train.complexity import count_parameters, multiply_adds
from train.datasets import Row, dataset_hash, load_rows
from train.datasets.splits import Split, make_splits
from train.finetune import best_precision, dataset_folder
from train.networks import OURS, create_network, find_weights
from train.recipe import RECIPES, Recipe
from train.results import HONEST, RUNS, Result, from_run_folder, level_of, load_results, result_name

SHORTENED = Path(__file__).parent / "shortened.yaml"
LOCK, FAILURE, OUTPUT = "lock", "failure.txt", "output.txt"
Rows = dict[str, list[Row]]  # of the data sets at hand, by name


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


def protocols_of(recipe: Recipe, choice: str) -> list[str]:
    """`choice` is "image" (the paper's own), "group" (the group-disjoint one), "both", or a protocol's name."""
    return {"image": [recipe.protocol], "group": [HONEST], "both": [recipe.protocol, HONEST]}.get(choice, [choice])


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
    rows: Rows,
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
                n = len(_splits(each, seed, tuple(rows[recipe.dataset])))
                wanted = range(n) if folds is None else [fold for fold in folds if fold < n]
                jobs += [Job(changed, changes, recipe.digest, each, fold, n, seed, initialisation) for fold in wanted]
    return jobs


@functools.lru_cache(maxsize=64)
def _splits(protocol: str, seed: int, rows: tuple[Row, ...]) -> list[Split]:
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
    """Hold the lock file and yield its descriptor, or None where another process holds it. It is released when the last
    process that inherited it has ended; `filelock` cannot pass a lock on to a child process."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
        else:
            yield handle.fileno()


def run_job(job: Job, place: Workplace, threads: int) -> str:
    """Run, or resume, one job and record it. Returns "done", "running" (elsewhere) or "failed: why"."""
    folder = place.runs / job.run_name
    with locked(folder / LOCK) as lock:
        if lock is None:
            return "running"
        recipe = folder / "recipe.yaml"
        with writing(recipe):
            (folder / FAILURE).unlink(missing_ok=True)
            recipe.write_text(yaml.safe_dump(json.loads(json.dumps(job.recipe.to_dict())), sort_keys=False))
        weights = "scratch" if job.initialisation == "scratch" else place.weights
        arguments = [str(recipe), "--data", place.data, "--weights", weights, "--protocol", job.protocol]
        arguments += ["--fold", str(job.fold), "--seed", str(job.seed), "--precision", place.precision]
        arguments += ["--cache", str(place.cache), "--out", str(folder)]
        arguments += ["--sigmas", *(str(sigma) for sigma in place.sigmas)]
        reason = _finetune(arguments, folder, threads, lock)
        if reason is None:
            try:
                data = dataset_folder(place.data, job.recipe)
                recorded_run(folder, data, job.folds, job.changes).write(place.results)
            except Unwritable:
                raise
            except (BlastlensError, OSError) as error:
                reason = str(error)
        if reason is None:
            return "done"
        with writing(folder / FAILURE):
            (folder / FAILURE).write_text(reason + "\n")
        return f"failed: {reason}"


def recorded_run(run: Path, data: Path, folds: int, changes: dict[str, Any]) -> Result:
    """The record of a finished run folder.

    Args:
        data: its prepared dataset.
        folds: how many its protocol has. changes: how its recipe differs from the committed one.
    """
    record = json.loads((run / "run.json").read_text())
    recipe = Recipe.from_dict(record["recipe"])
    network = create_network(recipe, len(record["label_names"]), "scratch")
    complexity = count_parameters(network), multiply_adds(network, recipe.image_size)
    return from_run_folder(run, folds, changes, [row.group for row in load_rows(data)], complexity)


def _finetune(arguments: list[str], folder: Path, threads: int, lock: int) -> str | None:
    """In a process of its own, which keeps the lock if this one is killed. Returns why it failed, or None."""
    environment = {**os.environ, "BLASTLENS_PROGRESS": "1"}
    if not has_gpu():
        environment["OMP_NUM_THREADS"] = str(threads)
    with writing(folder / OUTPUT):
        output = (folder / OUTPUT).open("a")
    with output:
        command = [sys.executable, "-m", "train.finetune", *arguments]
        code = subprocess.run(command, env=environment, stdout=output, stderr=output, pass_fds=(lock,)).returncode
    return None if code == 0 else reason_of(code, (folder / OUTPUT).read_text())


def reason_of(code: int, output: str) -> str:
    """Why a process ended: its last words, or the signal that killed it."""
    if code < 0:
        return f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    lines = [line.strip() for line in output.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


def work_of(images: int, epochs: int, size: int) -> float:
    """What the time of a run on one device and backbone is proportional to."""
    return images * epochs * size**2


def speeds_on(device: str, results: Sequence[Result]) -> dict[str, float]:
    """Work per second of recorded runs on a device, by backbone."""
    speeds: dict[str, list[float]] = {}
    for r in results:
        if r.device == device and r.seconds > 0 and r.epochs > 0:  # no epoch: a network fitted in one step
            speeds.setdefault(r.backbone, []).append(work_of(r.images["train"], r.epochs, r.image_size) / r.seconds)
    return {name: float(np.median(values)) for name, values in speeds.items()}


def estimate(job: Job, rows: Rows, speeds: dict[str, float]) -> float | None:
    """Seconds a job takes at most (early stopping may end it sooner), or None where its backbone was never timed."""
    if job.recipe.backbone not in speeds:
        return None
    split = _splits(job.protocol, job.seed, tuple(rows[job.recipe.dataset]))[job.fold]
    return work_of(len(split.train), job.recipe.epochs, job.recipe.image_size) / speeds[job.recipe.backbone]


def listing(jobs: Sequence[Job], states: Sequence[str], seconds: Sequence[float | None]) -> str:
    """One line per system, protocol and initialisation: how many runs are in which state, and what is left."""
    lines: dict[tuple[str, str, str], list[int]] = {}
    for i, job in enumerate(jobs):
        lines.setdefault((job.recipe.name, job.protocol, job.initialisation), []).append(i)
    text = [f"{'system':20} {'protocol':24} {'start':9} {'runs':28} left"]
    for (name, protocol, initialisation), members in lines.items():
        counts = Counter(states[i].partition(":")[0] for i in members)
        left = [seconds[i] for i in members if states[i] != "done"]
        runs = ", ".join(f"{n} {state}" for state, n in counts.items())
        hours = "" if not left else "not measured yet" if None in left else duration(sum(s for s in left if s))
        text.append(f"{name:20} {protocol:24} {initialisation:9} {runs:28} {hours}".rstrip())
        notes = sorted({states[i].partition(": ")[2] for i in members} - {""})
        if changes := jobs[members[0]].changes:
            notes.append("changed: " + ", ".join(f"{key} {value}" for key, value in changes.items()))
        text += [f"{'':20} {note}" for note in notes]
    total = Counter(state.partition(":")[0] for state in states)
    text.append(f"{len(jobs)} runs: " + ", ".join(f"{n} {state}" for state, n in total.items()))
    return "\n".join(text)


def duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(1, round(seconds / 60))} min"


def run_all(jobs: Sequence[Job], place: Workplace, rows: Rows, at_once: int) -> int:
    """Run what is to be run, `at_once` runs side by side; returns how many failed."""
    todo = [job for job in jobs if place.state(job).partition(":")[0] in ("to do", "failed")]
    speeds = speeds_on(_device(), load_results(place.results))
    threads = max(1, usable_cores() // at_once)

    def go(item: tuple[int, Job]) -> bool:
        number, job = item
        seconds = estimate(job, rows, speeds)
        about = "" if seconds is None else f", about {duration(seconds)}"
        print(f"[{number}/{len(todo)}] {job.run_name} starts{about}", flush=True)
        started = time.time()
        state = run_job(job, place, threads)
        print(f"[{number}/{len(todo)}] {job.run_name} {state} after {duration(time.time() - started)}", flush=True)
        return state.startswith("failed")

    with ThreadPoolExecutor(at_once) as pool:
        failed = sum(pool.map(go, enumerate(todo, start=1)))
    print(f"{len(todo) - failed} of {len(todo)} runs succeeded; {len(jobs) - len(todo)} were done already.", flush=True)
    return failed


def has_gpu() -> bool:
    return torch.cuda.is_available()


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def add_queue_arguments(parser: argparse.ArgumentParser, runs: Path, results: Path) -> None:
    """Options of a command that runs a queue of jobs."""
    parser.add_argument("--list", action="store_true", help="only show what is done, running and missing")
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--data", default=os.environ.get("BLASTLENS_DATA"), help="folder with the prepared datasets")
    parser.add_argument("--weights", default=os.environ.get("BLASTLENS_WEIGHTS", "hub"), help="as for train.finetune")
    parser.add_argument("--runs", type=Path, default=runs, help="run folders, with checkpoints")
    parser.add_argument("--results", type=Path, default=results, help="where runs are recorded")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where decoded pixels are kept")


def list_or_run(
    jobs: Sequence[Job], rows: Rows, arguments: argparse.Namespace, sigmas: Sequence[float] = NOISE_SIGMAS
) -> int:
    """Print the state of the jobs where `--list` is given, else run what is missing; returns how many failed."""
    place = Workplace(
        arguments.data,
        arguments.weights,
        arguments.runs,
        arguments.results,
        arguments.cache,
        best_precision(),
        {name: dataset_hash(members) for name, members in rows.items()},
        sigmas,
    )
    if not arguments.list:
        return run_all(jobs, place, rows, arguments.jobs)
    speeds = speeds_on(_device(), load_results(place.results))
    print(listing(jobs, [place.state(job) for job in jobs], [estimate(job, rows, speeds) for job in jobs]))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.compare", description=__doc__.splitlines()[0])
    add_queue_arguments(parser, Path("runs/compare"), RUNS)
    parser.add_argument("--only", nargs="+", default=None, metavar="RECIPE", help="default: every published system")
    parser.add_argument("--protocol", default="both", help="image (the paper's), group, both, or a protocol's name")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+", help="only these folds of each protocol")
    parser.add_argument("--as-published", action="store_true", help="full length, also without a GPU")
    arguments = parser.parse_args(argv)
    try:
        names = arguments.only or systems()
        rows = datasets_at_hand(arguments.data, [Recipe.load(name) for name in names])
        table = {} if arguments.as_published or has_gpu() else shortened()
        jobs = plan(names, arguments.protocol, arguments.seeds, rows, arguments.weights, table, arguments.folds)
        return 1 if list_or_run(jobs, rows, arguments) else 0
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2


def datasets_at_hand(data: str | None, recipes: Sequence[Recipe]) -> Rows:
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
