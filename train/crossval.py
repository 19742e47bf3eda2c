"""Cross-validation of a recipe: one run folder per fold, their held-out predictions, and summary.json.

    python -m train.crossval ours_cnmc2019 --data DIR --protocol group-kfold:3 --seeds 0 --jobs 2 --out runs/cv/NAME

Rerun the command to resume: finished runs are kept. Every figure in summary.json is of images whose groups the
network was not trained on. The run folders keep the networks; `train.evaluate` needs them.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from blastlens.errors import BlastlensError
from blastlens.files import write_json
from train.datasets import load_rows
from train.datasets.splits import make_splits
from train.finetune import add_run_arguments, run_from
from train.held_out import HeldOut, calibrated, cross_fitted, joined, protocol_record


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.crossval", description=__doc__.splitlines()[0])
    add_run_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="folds trained at the same time; they share the cores")
    arguments = parser.parse_args(argv)
    try:
        return crossvalidate(arguments, sys.argv[1:] if argv is None else list(argv))
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2


def crossvalidate(arguments: argparse.Namespace, argv: list[str]) -> int:
    """Run what is missing, each fold in its own process, then write summary.json."""
    spec = run_from(arguments, 0, 0)
    rows = load_rows(Path(spec.data))
    folders = {
        (seed, split.fold): arguments.out / f"seed{seed}-fold{split.fold}"
        for seed in arguments.seeds
        for split in make_splits(spec.protocol, rows, seed)
    }
    shared = _without(argv, {"--seeds", "--jobs", "--out"})
    threads = max(1, len(os.sched_getaffinity(0)) // arguments.jobs)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "BLASTLENS_PROGRESS": "1"}

    def start(item: tuple[tuple[int, int], Path]) -> int:
        (seed, fold), folder = item
        if (folder / "run.json").exists():
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "train.finetune", *shared, "--out", str(folder)]
        command += ["--seed", str(seed), "--fold", str(fold)]
        log = folder / "output.txt"
        with log.open("a") as output:
            code = subprocess.run(command, env=environment, stdout=output, stderr=output).returncode
        print(f"{folder}: {'done' if code == 0 else f'failed, see {log}'}", flush=True)
        return code

    with ThreadPoolExecutor(arguments.jobs) as pool:
        failed = sum(code != 0 for code in pool.map(start, folders.items()))
    if failed:
        raise BlastlensError(f"{failed} of {len(folders)} runs failed; rerun the command to retry them.")

    by_seed = [
        HeldOut.read([path for (s, _), path in sorted(folders.items()) if s == seed]) for seed in arguments.seeds
    ]
    record = json.loads((next(iter(folders.values())) / "run.json").read_text())
    everything = joined(by_seed)
    protocol = protocol_record(
        everything.label,
        np.concatenate([calibrated(h, cross_fitted(h)) for h in by_seed], axis=1),
        everything.sigmas,
        [rows[i].group for i in everything.index],
        record["label_names"],
        spec.protocol,
        arguments.seeds,
        fold=everything.fold,
    )
    summary = {
        "protocol": protocol,
        "scaling": asdict(everything.scaling()),  # of the model fitted on all images
        "run": {k: record[k] for k in ("recipe", "initial_weights", "precision", "dataset", "versions")},
    }
    write_json(arguments.out / "summary.json", summary)
    print(describe(protocol))
    return 0


def describe(protocol: dict[str, Any]) -> str:
    """The noise table and the groups, as text."""
    keys = ("weighted_f1", "balanced_accuracy", "macro_f1", "sensitivity", "specificity", "auroc", "ece")
    keys = tuple(k for k in keys if k in protocol["by_sigma"][0])

    def cell(score: dict[str, float | None]) -> str:
        if None in score.values():
            return "undefined"
        return f"{score['value']:.4f} [{score['low']:.3f}, {score['high']:.3f}]"

    head = f"{protocol['name']} ({protocol['level']}-level), seeds {protocol['seeds']}, {protocol['n_groups']} groups"
    lines = [head, "sigma  " + "  ".join(f"{k:>22s}" for k in keys)]
    for row in protocol["by_sigma"]:
        lines.append(f"{row['sigma']:5.0f}  " + "  ".join(f"{cell(row[k]):>22s}" for k in keys))
    for g in sorted(protocol["per_group"], key=lambda g: (g["label"], g["accuracy"])):
        lines.append(f"  {g['label']:6s} {g['group']:14s} {g['n']:5d} images, {g['accuracy']:.3f} right")
    return "\n".join(lines)


def _without(argv: list[str], options: set[str]) -> list[str]:
    """The command line without these options and their values."""
    kept, dropping = [], False
    for word in argv:
        if word.startswith("--"):
            dropping = word.split("=")[0] in options
        if not dropping:
            kept.append(word)
    return kept


if __name__ == "__main__":
    sys.exit(main())
