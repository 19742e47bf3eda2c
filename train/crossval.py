"""Cross-validate one recipe: every fold and seed of a protocol, then one summary of the held-out predictions.

    python -m train.crossval ours_cnmc2019 --data DIR --protocol group-kfold:3 --seeds 0 --jobs 2 --out runs/cv/NAME

Runs that are finished are kept, so that the command can be stopped and given again. Every figure in summary.json
comes from images of groups that the network that answered was not trained on. The calibration of a fold, a temperature
and a bias per class, is fitted on the held-out predictions of the *other* folds (cross-fitting): no label of its own
images enters that fit directly, though the other folds' networks were trained on them.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blastlens import bootstrap, metrics
from blastlens.calibration import Scaling, fit_scaling
from blastlens.donor_metrics import DonorScores, donor_weights
from blastlens.errors import BlastlensError
from train.datasets import load_rows
from train.datasets.splits import make_splits
from train.files import write_json
from train.finetune import add_run_arguments, run_from
from train.results import Result

CALIBRATION = (
    "temperature and bias per class fitted on the other folds' held-out images, classes and donors weighted equally"
)

POSITIVE = 0  # ALL


@dataclass(frozen=True)
class HeldOut:
    """Held-out predictions of one seed, every image once: index, label, fold and group (N,), logits (S, N, C)."""

    sigmas: np.ndarray
    index: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    logits: np.ndarray
    group: np.ndarray

    @classmethod
    def read(cls, runs: Sequence[Path]) -> "HeldOut":
        parts = [np.load(run / "predictions.npz") for run in runs]
        folds = [np.full(len(p["test_index"]), k) for k, p in enumerate(parts)]
        return cls(
            parts[0]["sigmas"],
            np.concatenate([p["test_index"] for p in parts]),
            np.concatenate([p["test_label"] for p in parts]),
            np.concatenate(folds),
            np.concatenate([p["test_logits"] for p in parts], axis=1),
            np.concatenate([p["test_group"] for p in parts]),
        )

    @classmethod
    def of_results(cls, results: Sequence[Result]) -> "HeldOut":
        """The same from recorded runs of one seed: as logits, the logarithms of their probabilities, which softmax
        cannot tell from the logits. They are recorded in steps, so that one may be 0; it is taken as 1e-7."""
        return cls(
            np.array(results[0].sigmas),
            np.concatenate([r.index for r in results]),
            np.concatenate([r.label for r in results]),
            np.concatenate([np.full(len(r.index), r.fold) for r in results]),
            np.concatenate([np.log(r.probabilities.clip(1e-7)) for r in results], axis=1),
            np.concatenate([r.groups_of_images for r in results]),
        )

    def part(self, chosen: np.ndarray) -> "HeldOut":
        """Only the chosen images, (N,) bool."""
        return HeldOut(
            self.sigmas,
            self.index[chosen],
            self.label[chosen],
            self.fold[chosen],
            self.logits[:, chosen],
            self.group[chosen],
        )

    def scaling(self) -> Scaling:
        """The scaling fitted on all of these, without noise: temperature and bias per class.

        Classes weigh the same, and within a class so do donors: probabilities then hold where every class is as
        common as the others, whatever the shares of this data set.
        """
        weights = donor_weights(self.label, self.group)
        return fit_scaling(self.logits[0], self.label, weights)


def joined(parts: Sequence[HeldOut]) -> HeldOut:
    """The predictions of several seeds as those of one."""
    first = parts[0]
    index, label, fold, group = (
        np.concatenate([getattr(p, n) for p in parts]) for n in ("index", "label", "fold", "group")
    )
    return HeldOut(first.sigmas, index, label, fold, np.concatenate([p.logits for p in parts], axis=1), group)


def cross_fitted(held_out: HeldOut) -> dict[int, Scaling]:
    """Scaling for each fold, fitted on the other folds' held-out images without noise. One fold alone cannot be
    cross-fitted; its logits are taken as they are.

    See `HeldOut.scaling`. Other ways of calibrating are compared in results/calibration_choice.json
    (`python -m train.calibration choose`).
    """
    scalings = {}
    for fold in np.unique(held_out.fold):
        others = held_out.fold != fold
        scalings[int(fold)] = (
            held_out.part(others).scaling() if others.any() else Scaling.identity(held_out.logits.shape[2])
        )
    return scalings


def calibrated(held_out: HeldOut, scalings: dict[int, Scaling]) -> np.ndarray:
    """Probabilities (S, N, C) with each fold's scaling."""
    out = np.empty(held_out.logits.shape)
    for fold, scaling in scalings.items():
        mine = held_out.fold == fold
        for level in range(len(out)):
            out[level, mine] = scaling.apply(held_out.logits[level, mine])
    return out


def calibrated_without(held_out: HeldOut, fold: int) -> np.ndarray:
    """Probabilities (S, N, C) of the other folds' images, each fold's scaling fitted on the rest of them; NaN for the
    images of `fold`, which have no part in them: what is chosen from these can be tried on that fold.

    Where there is only one other fold its scaling is fitted on itself.
    """
    others = held_out.fold != fold
    inner = held_out.part(others)
    alone = len(np.unique(inner.fold)) == 1
    scalings = {int(inner.fold[0]): inner.scaling()} if alone else cross_fitted(inner)
    out = np.full(held_out.logits.shape, np.nan)
    out[:, others] = calibrated(inner, scalings)
    return out


@dataclass(frozen=True, eq=False)
class Recorded:
    """Recorded runs of two classes on repeated splits: calibrated probabilities of ALL by image.

    Attributes:
        sigmas: S of them. repeat, fold, index, group, sick: (N,). score: (S, N).
    """

    sigmas: tuple[float, ...]
    repeat: np.ndarray
    fold: np.ndarray
    index: np.ndarray
    group: np.ndarray
    sick: np.ndarray
    score: np.ndarray

    @classmethod
    def of(cls, results: Sequence[Result]) -> "Recorded":
        """Calibrate each split seed by its other folds. A single fold stays as it was trained."""
        parts = []
        for seed in sorted({r.seed for r in results}):
            mine = sorted((r for r in results if r.seed == seed), key=lambda r: r.fold)
            held_out = HeldOut.of_results(mine)
            probabilities = calibrated(held_out, cross_fitted(held_out))[:, :, POSITIVE]
            parts.append((np.full(len(held_out.index), seed), held_out, probabilities))
        joined = {n: np.concatenate([getattr(p[1], n) for p in parts]) for n in ("fold", "index", "group", "label")}
        score = np.concatenate([p[2] for p in parts], axis=1)
        repeat = np.concatenate([p[0] for p in parts])
        sigmas = tuple(float(s) for s in parts[0][1].sigmas)
        return cls(sigmas, repeat, joined["fold"], joined["index"], joined["group"], joined["label"] == POSITIVE, score)

    @property
    def keys(self) -> set[tuple[int, int]]:
        """The (seed, fold) of its runs."""
        return set(zip(self.repeat.tolist(), self.fold.tolist(), strict=True))

    def part(self, keys: set[tuple[int, int]]) -> "Recorded":
        """Only the runs of these (seed, fold)."""
        chosen = np.array([(r, f) in keys for r, f in zip(self.repeat, self.fold, strict=True)])
        names = ("repeat", "fold", "index", "group", "sick")
        return Recorded(self.sigmas, *(getattr(self, n)[chosen] for n in names), self.score[:, chosen])

    def donors(self, sigma: float = 0.0) -> DonorScores:
        """Figures by donor under noise."""
        score = self.score[self.sigmas.index(sigma)]
        return DonorScores.of(self.sick, score, self.group, self.fold, self.repeat)


def calibration_of(
    labels: np.ndarray, probabilities: np.ndarray, groups: Sequence[str], label_names: Sequence[str]
) -> dict[str, Any]:
    """How far stated probabilities hold: over all answers together, and where that can hide an error, by answer.

    Args:
        labels: (N,). probabilities: (N, C), without noise. groups: (N,).

    Returns:
        `reliability`: the bins of `metrics.reliability`; `reliability_by_answer`: label -> those of the images that
        were answered with it; `classwise_ece`: `bootstrap.classwise_ece`.
    """
    answers = probabilities.argmax(axis=1)

    def bins(chosen: np.ndarray) -> list[dict[str, Any]]:
        held = metrics.reliability(labels[chosen], probabilities[chosen]) if chosen.any() else []
        return [asdict(one) for one in held]

    return {
        "reliability": bins(np.full(len(labels), True)),
        "reliability_by_answer": {name: bins(answers == c) for c, name in enumerate(label_names)},
        "classwise_ece": asdict(bootstrap.classwise_ece(labels, probabilities, groups)),
    }


def plain(value: Any) -> Any:
    """Intervals as {"value", "low", "high"}, arrays as lists, floats to five digits, NaN as None: ready for JSON."""
    if isinstance(value, metrics.Interval):
        return {k: plain(v) for k, v in asdict(value).items()}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else round(float(value), 5)
    return int(value) if isinstance(value, np.integer) else value


def summarise(
    labels: np.ndarray,
    probabilities: np.ndarray,
    sigmas: Sequence[float],
    groups: Sequence[str],
    label_names: Sequence[str],
    protocol: str,
    seeds: Sequence[int],
    fold: np.ndarray | None = None,
) -> dict[str, Any]:
    """One entry of metrics.json's `protocols`: every metric at every sigma, each with a 95 % interval from a
    bootstrap over groups, the accuracy in each group, and how far probabilities hold.

    `labels` (N,), `probabilities` (S, N, C); several seeds are stacked along N, each with all of its images. Given the
    test `fold` of each image (N,), a group-level protocol of two classes also has `donors`: the metrics of
    `blastlens.donor_metrics` by sigma, and every donor's own figures without noise.
    """
    positive = 0 if len(label_names) == 2 else None  # ALL is what a screening looks for
    level = "group" if protocol.startswith("group") else "image"
    by_sigma = [
        {"sigma": float(s), **bootstrap.summary(labels, p, groups, label_names, positive=positive)}
        for s, p in zip(sigmas, probabilities, strict=True)
    ]
    by_donor: dict[str, Any] = {}
    if positive is not None and level == "group" and fold is not None:
        repeat = np.repeat(np.arange(len(seeds)), len(labels) // len(seeds))
        found = [
            DonorScores.of(labels == positive, p[:, positive], groups, fold, repeat).summary() for p in probabilities
        ]
        for row, one in zip(by_sigma, found, strict=True):
            row["auroc"] = one["auroc"]  # within folds: two folds are calibrated differently
            row["donors"] = {k: v for k, v in one.items() if k != "donors"}
        by_donor = {"donors": found[0]["donors"]}
    right = probabilities[0].argmax(1) == labels
    names = np.asarray(groups)
    per_group = [
        {
            "group": str(g),
            "label": label_names[labels[names == g][0]],
            "n": int((names == g).sum()) // len(seeds),
            "accuracy": float(right[names == g].mean()),
        }
        for g in np.unique(names)
    ]
    return plain(
        {
            "name": protocol,
            "level": level,
            "seeds": list(seeds),
            "n_images": len(labels) // len(seeds),
            "n_groups": len(np.unique(names)),
            "calibration": CALIBRATION,
            "by_sigma": by_sigma,
            "per_group": per_group,
            **by_donor,
            **calibration_of(labels, probabilities[0], groups, label_names),
        }
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.crossval", description=__doc__.splitlines()[0])
    add_run_arguments(parser)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--jobs", type=int, default=1, help="folds trained at the same time, cores shared out")
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
        raise BlastlensError(f"{failed} of {len(folders)} runs failed; give the same command again to retry them.")

    by_seed = [
        HeldOut.read([path for (s, _), path in sorted(folders.items()) if s == seed]) for seed in arguments.seeds
    ]
    record = json.loads((next(iter(folders.values())) / "run.json").read_text())
    index = np.concatenate([h.index for h in by_seed])
    probabilities = np.concatenate([calibrated(h, cross_fitted(h)) for h in by_seed], axis=1)
    labels = np.concatenate([h.label for h in by_seed])
    summary = {
        "protocol": summarise(
            labels,
            probabilities,
            by_seed[0].sigmas,
            [rows[i].group for i in index],
            record["label_names"],
            spec.protocol,
            arguments.seeds,
            fold=np.concatenate([h.fold for h in by_seed]),
        ),
        # For the model fitted on everything: from all held-out images.
        "scaling": asdict(joined(by_seed).scaling()),
        "run": {k: record[k] for k in ("recipe", "initial_weights", "precision", "dataset", "versions")},
    }
    write_json(arguments.out / "summary.json", summary)
    print(describe(summary["protocol"]))
    return 0


def describe(protocol: dict[str, Any]) -> str:
    """The noise table and the groups, as text."""
    keys = ("weighted_f1", "balanced_accuracy", "macro_f1", "sensitivity", "specificity", "auroc", "ece")
    keys = tuple(k for k in keys if k in protocol["by_sigma"][0])
    lines = [
        f"{protocol['name']} ({protocol['level']}-level), seeds {protocol['seeds']}, {protocol['n_groups']} groups"
    ]
    lines.append("sigma  " + "  ".join(f"{k:>22s}" for k in keys))
    for row in protocol["by_sigma"]:
        cells = (_described(row[k]) for k in keys)
        lines.append(f"{row['sigma']:5.0f}  " + "  ".join(f"{c:>22s}" for c in cells))
    for g in sorted(protocol["per_group"], key=lambda g: (g["label"], g["accuracy"])):
        lines.append(f"  {g['label']:6s} {g['group']:14s} {g['n']:5d} images, {g['accuracy']:.3f} right")
    return "\n".join(lines)


def _described(value: dict[str, float | None]) -> str:
    """`0.8731 [0.812, 0.921]`, or that an absent class leaves the score undefined."""
    if None in value.values():
        return "undefined"
    return f"{value['value']:.4f} [{value['low']:.3f}, {value['high']:.3f}]"


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
