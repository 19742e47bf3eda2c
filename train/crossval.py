"""Cross-validation of a recipe: one run folder per fold, their held-out predictions, and summary.json.

    python -m train.crossval ours_cnmc2019 --data DIR --protocol group-kfold:3 --seeds 0 --jobs 2 --out runs/cv/NAME

Rerun the command to resume: finished runs are kept. Every figure in summary.json is of images whose groups the
network was not trained on. The run folders keep the networks; `train.evaluate` needs them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from blastlens.errors import BlastlensError
from blastlens.files import write_json
from train.command import reports_errors
from train.datasets import level_of, load_rows
from train.datasets.splits import make_splits
from train.finetune import add_run_arguments, run_from
from train.first_weights import check_weights
from train.held_out import HeldOut, cross_calibrated, joined, protocol_record
from train.jobs import OUTPUT, run_finetune


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--seeds", type=int, nargs="+", default=[0])
    own.add_argument("--jobs", type=int, default=1, help="folds trained at the same time; they share the cores")
    parser = argparse.ArgumentParser(prog="train.crossval", description=__doc__.splitlines()[0], parents=[own])
    add_run_arguments(parser)
    arguments, of_each_fold = parser.parse_args(argv), own.parse_known_args(argv)[1]
    spec = run_from(arguments, 0, 0)
    if not spec.backbone:
        check_weights(spec.recipe, spec.weights)
    rows = load_rows(Path(spec.data))
    folders = {
        (seed, split.fold): arguments.out / f"seed{seed}-fold{split.fold}"
        for seed in arguments.seeds
        for split in make_splits(spec.protocol, rows, seed)
    }

    def run(item: tuple[tuple[int, int], Path]) -> bool:
        (seed, fold), folder = item
        if (folder / "run.json").exists():
            return True
        reason = run_finetune([*of_each_fold, "--seed", str(seed), "--fold", str(fold)], folder, arguments.jobs)
        print(f"{folder}: {f'failed ({reason}), see {OUTPUT}' if reason else 'done'}", flush=True)
        return reason is None

    with ThreadPoolExecutor(arguments.jobs) as pool:
        done = sum(pool.map(run, folders.items()))
    if done < len(folders):
        raise BlastlensError(f"{len(folders) - done} of {len(folders)} runs failed; rerun the command to retry them.")

    by_seed = [HeldOut.read([path for (s, _), path in folders.items() if s == seed], seed) for seed in arguments.seeds]
    record = json.loads((next(iter(folders.values())) / "run.json").read_text())
    everything = joined(by_seed)
    everything = replace(everything, group=np.array([rows[i].group for i in everything.index]))
    level = level_of(spec.protocol, rows)
    protocol = protocol_record(everything, cross_calibrated(everything), record["label_names"], spec.protocol, level)
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
    if protocol["level"] == "image":
        head += "\nThe split is by image: images of one subject may be on both sides, so every figure may be too high."
    lines = [head, "sigma  " + "  ".join(f"{k:>22s}" for k in keys)]
    for row in protocol["by_sigma"]:
        lines.append(f"{row['sigma']:5.0f}  " + "  ".join(f"{cell(row[k]):>22s}" for k in keys))
    for g in sorted(protocol["per_group"], key=lambda g: (g["label"], g["accuracy"])):
        lines.append(f"  {g['label']:6s} {g['group']:14s} {g['n']:5d} images, {g['accuracy']:.3f} correct")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
