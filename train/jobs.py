"""Runs of `train.finetune`, each in a process of its own, several side by side, and each recorded when it is done.

A run that fails stops no other: its reason is kept in its folder and shown by `--list`. Rerun the command to resume:
recorded runs are kept, an interrupted run continues from its last checkpoint.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from blastlens.errors import BlastlensError
from blastlens.files import Unwritable, only_run, writing
from blastlens.inference import usable_cores
from blastlens.noise import NOISE_SIGMAS
from blastlens.wording import duration
from train.command import reports_errors
from train.datasets import Row, dataset_hash
from train.finetune import dataset_folder
from train.finetune import main as finetune
from train.first_weights import find_weights
from train.recipe import Recipe
from train.results import Result, result_name

KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "2000000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}  # bytes
LOCK, FAILURE, OUTPUT = "lock", "failure.txt", "output.txt"
Rows = Mapping[str, Sequence[Row]]  # of the data sets at hand, by name


@dataclass(frozen=True)
class Job:
    """One run to have: everything that decides its outcome but the data and the first weights."""

    recipe: Recipe  # with the changes
    changes: dict[str, Any]
    published: str  # digest of the recipe in full length
    protocol: str
    fold: int
    folds: int
    seed: int
    initialisation: Literal["imagenet", "scratch"]
    sigmas: tuple[float, ...] = ()  # at which held-out images are tested; () for those of the queue

    @property
    def file(self) -> str:
        return result_name(self.recipe.name, self.protocol, self.initialisation, self.seed, self.fold)

    @property
    def run_name(self) -> str:
        """Other settings are another folder: a run is never resumed with settings that it was not begun with."""
        return f"{self.file.removesuffix('.json')}-{self.recipe.digest}"

    def done_by(self, result: Result, dataset: str) -> bool:
        """Whether a recorded run is this one, or the one as published, on the data set with this hash."""
        return result.recipe_digest in (self.recipe.digest, self.published) and result.dataset["hash"] == dataset


@dataclass(frozen=True)
class Queue:
    """Where jobs are run and recorded, and from what."""

    data: str
    weights: str
    runs: Path
    results: Path
    cache: Path
    hashes: Mapping[str, str]  # by data set
    sigmas: Sequence[float] = NOISE_SIGMAS  # at which held-out images are tested

    def state(self, job: Job) -> str:
        """ "done", "running", "failed: why", "missing: why" or "to do"."""
        path, folder = self.results / job.file, self.runs / job.run_name
        if path.exists() and job.done_by(Result.read(path), self.hashes[job.recipe.dataset]):
            return "done"
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

    def run(self, job: Job, at_once: int = 1) -> str:
        """Run or resume one job and record it. Returns "done", "running" (elsewhere) or "failed: why"."""
        folder = self.runs / job.run_name
        if is_locked(folder / LOCK):
            return "running"
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FAILURE).unlink(missing_ok=True)
            plain = json.loads(json.dumps(job.recipe.to_dict()))
            (folder / "recipe.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
        weights = "scratch" if job.initialisation == "scratch" else self.weights
        arguments = [str(folder / "recipe.yaml"), "--data", self.data, "--weights", weights]
        arguments += ["--protocol", job.protocol, "--fold", str(job.fold), "--seed", str(job.seed)]
        arguments += ["--cache", str(self.cache), "--sigmas", *map(str, job.sigmas or self.sigmas)]
        reason = run_finetune(arguments, folder, at_once)
        if reason is None:
            try:
                data = dataset_folder(self.data, job.recipe, job.protocol, self.cache)
                Result.of_run(folder, data, job.folds, job.changes).write(self.results)
                return "done"
            except Unwritable:
                raise
            except (BlastlensError, OSError) as error:
                reason = str(error)
        with writing(folder):
            (folder / FAILURE).write_text(reason + "\n")
        return f"failed: {reason}"

    def run_all(self, jobs: Sequence[Job], at_once: int) -> int:
        """Run what is to be run, `at_once` jobs side by side; returns how many failed."""
        todo = [job for job in jobs if self.state(job).partition(":")[0] in ("to do", "failed")]

        def go(item: tuple[int, Job]) -> bool:
            number, job = item
            print(f"[{number}/{len(todo)}] {job.run_name} starts", flush=True)
            started = time.time()
            state = self.run(job, at_once)
            print(f"[{number}/{len(todo)}] {job.run_name} {state} after {duration(time.time() - started)}", flush=True)
            return state.startswith("failed")

        with ThreadPoolExecutor(at_once) as pool:
            failed = sum(pool.map(go, enumerate(todo, start=1)))
        print(f"{len(todo) - failed} of {len(todo)} runs succeeded; {len(jobs) - len(todo)} were done already.")
        return failed

    def listing(self, jobs: Sequence[Job]) -> str:
        """One line per system, protocol and initialisation: how many runs are in which state."""
        states = [self.state(job) for job in jobs]
        lines: dict[tuple[str, str, str], list[int]] = {}
        for i, job in enumerate(jobs):
            lines.setdefault((job.recipe.name, job.protocol, job.initialisation), []).append(i)
        text = [f"{'system':20} {'protocol':24} {'start':9} runs"]
        for (name, protocol, initialisation), members in lines.items():
            mine = [states[i] for i in members]
            text.append(f"{name:20} {protocol:24} {initialisation:9} {_counted(mine)}")
            notes = sorted({state.partition(": ")[2] for state in mine} - {""})
            if changes := jobs[members[0]].changes:
                notes.append("changed: " + ", ".join(f"{key} {value}" for key, value in changes.items()))
            text += [f"{'':20} {note}" for note in notes]
        return "\n".join([*text, f"{len(jobs)} runs: {_counted(states)}"])


def _counted(states: Sequence[str]) -> str:
    counts = Counter(state.partition(":")[0] for state in states)
    return ", ".join(f"{n} {state}" for state, n in counts.items())


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock file."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    return False


def run_finetune(arguments: Sequence[str], folder: Path, at_once: int) -> str | None:
    """Run `train.finetune` into `folder`, on its share of the cores. Returns why it failed, or None.

    The process locks the folder itself, and continues if this one is killed.
    """
    environment = training_environment(at_once)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        output = (folder / OUTPUT).open("a")
    with output:
        command = [sys.executable, "-m", "train.jobs", str(folder / LOCK), *arguments, "--out", str(folder)]
        code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
    return None if code == 0 else reason_of(code, (folder / OUTPUT).read_text())


def training_environment(at_once: int = 1) -> dict[str, str]:
    """The environment of a process that trains, one of `at_once`: its share of the cores (or of OMP_NUM_THREADS), and
    memory that glibc keeps between steps, which on a CPU costs less time than to ask the system for it again."""
    import torch  # takes seconds

    environment = {**KEPT_MEMORY, **os.environ}
    if not torch.cuda.is_available():
        cores = os.environ.get("OMP_NUM_THREADS", "")
        environment["OMP_NUM_THREADS"] = str(max(1, (int(cores) if cores.isdecimal() else usable_cores()) // at_once))
    return environment


def reason_of(code: int, output: str) -> str:
    """Why a process ended: its last line of output, or the signal that killed it."""
    if code < 0:
        return f"killed by signal {-code}" + (" (out of memory?)" if code == -9 else "")
    lines = [line.strip() for line in output.replace("\r", "\n").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


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
    hashes = {name: dataset_hash(members) for name, members in rows.items()}
    places = {name: getattr(arguments, name) for name in ("data", "weights", "runs", "results", "cache")}
    queue = Queue(**places, hashes=hashes, sigmas=sigmas)
    if not arguments.list:
        return queue.run_all(jobs, arguments.jobs)
    print(queue.listing(jobs))
    return 0


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    """`train.finetune` with the arguments after the first, which is the lock file to hold meanwhile."""
    lock, *arguments = argv or sys.argv[1:]
    with only_run(Path(lock), "This run is being trained by another process."):
        return finetune(arguments)


if __name__ == "__main__":
    sys.exit(main())
