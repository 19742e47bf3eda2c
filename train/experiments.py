"""What was tried on the way to the shipped recipes: cross-validations side by side, from their recorded predictions.

    python -m train.experiments keep runs/cv/NAME --data DIR     a trial's predictions -> results/tried/NAME
    python -m train.experiments                                  all of them -> results/TRIED.md, results/tried.json

All trials of a data set answer the same held-out images of the same groups, so each is compared with the shipped recipe
image by image, and so is the same recipe without calibration. Choosing the best of several on the images that it
is then reported on is optimistic; `choice` says by how much: each fold is answered by the recipe that was best on the
*other* folds.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from blastlens import bootstrap, metrics
from blastlens.donor_metrics import DonorScores, difference
from blastlens.errors import BlastlensError
from train.compare import recorded_run
from train.held_out import HeldOut, calibrated, calibrated_without, cross_fitted, plain, runs_of
from train.recipe import Recipe
from train.report.templates import filled
from train.results import HONEST, RUNS, Result

RESULTS = RUNS.parent
TRIED = RESULTS / "tried"
SHOWN = (0, 10, 20, 50)  # sigmas
UNCALIBRATED = ", uncalibrated"
# What the best trial is best by: of cells, the AUROC per donor, which no shares of classes or large donors decide.
CRITERIA = {2: "AUROC per donor", 4: "weighted F1"}
CRITERION_SIGMAS = (0, 20, 50)
# The recipes that ship, by data set.
SHIPPED = {"cnmc2019": "ours_cnmc2019", "aria2021": "ours_aria2021"}
TITLES = {"cnmc2019": "Single cells", "aria2021": "Smear fields"}


@dataclass(frozen=True, eq=False)
class Trial:
    """One cross-validation.

    Attributes:
        name: of its folder, or "shipped". recipe: what was run. seed: of split and training.
        index, label, fold, group: (N,) of the held-out images, sorted by index.
        probabilities: (S, N, C), at `sigmas`, calibrated across folds or not at all. without: of each fold, those of
            the other folds' images calibrated without it, from which to choose what answers it.
    """

    name: str
    recipe: Recipe
    seed: int
    protocol: str
    sigmas: tuple[float, ...]
    index: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    group: np.ndarray
    probabilities: np.ndarray
    without: Mapping[int, np.ndarray]

    @classmethod
    def of(cls, name: str, recipe: Recipe, results: Sequence[Result], scaled: bool = True) -> "Trial":
        """A trial of recorded runs, one per fold; without `scaled` it is not calibrated."""
        held_out = HeldOut.of_results(results)
        order = np.argsort(held_out.index)
        folds = np.unique(held_out.fold).tolist()
        if scaled:
            found = calibrated(held_out, cross_fitted(held_out))
            without = {k: calibrated_without(held_out, k)[:, order] for k in folds}
        else:
            found = np.stack([metrics.softmax(level) for level in held_out.logits])
            without = dict.fromkeys(folds, found[:, order])
        return cls(
            name=name,
            recipe=recipe,
            seed=results[0].seed,
            protocol=results[0].protocol,
            sigmas=tuple(held_out.sigmas.tolist()),
            index=held_out.index[order],
            label=held_out.label[order],
            fold=held_out.fold[order],
            group=np.concatenate([r.groups_of_images for r in results])[order],
            probabilities=found[:, order],
            without=without,
        )

    def donors(self, sigma: float = 0.0, chosen: np.ndarray | None = None, p: np.ndarray | None = None) -> DonorScores:
        """Figures by donor of a two-class trial, of the chosen images or all, from `p` (N, C) or its own."""
        mine = np.full(len(self.index), True) if chosen is None else chosen
        found = self.at(sigma) if p is None else p
        assert found is not None
        return DonorScores.of(self.label[mine] == 0, found[mine, 0], self.group[mine], self.fold[mine])

    def at(self, sigma: float) -> np.ndarray | None:
        """Probabilities (N, C) under noise, None where it was not measured."""
        return self.probabilities[self.sigmas.index(sigma)] if sigma in self.sigmas else None


def read(folder: Path, recipe: Recipe, name: str) -> list[Trial]:
    """The trial in a folder of recorded runs, calibrated and as it was trained.

    Raises:
        BlastlensError: no recorded runs there, or not of one seed.
    """
    results = sorted(map(Result.read, sorted(folder.glob("*.json"))), key=lambda r: r.fold)
    if not results or len({r.seed for r in results}) > 1 or len(results) != results[0].folds:
        raise BlastlensError(f"{folder} does not hold every fold of one cross-validation.")
    return [Trial.of(name, recipe, results), Trial.of(name + UNCALIBRATED, recipe, results, scaled=False)]


def systems_of(dataset: str, runs: Path = RUNS) -> list[Trial]:
    """Every published system with a complete cross-validation of seed 0 on the group-disjoint protocol."""
    found = []
    for folder in sorted(runs.glob(f"*/{HONEST.replace(':', '-')}")):
        recipe = Recipe.load(folder.parent.name)
        results = [r for r in map(Result.read, sorted(folder.glob("*.json"))) if r.seed == 0]
        if recipe.dataset == dataset and recipe.paper and len(results) == results[0].folds:
            found.append(Trial.of(recipe.title, recipe, sorted(results, key=lambda r: r.fold)))
    return found


def trials_of(dataset: str, tried: Path = TRIED, runs: Path = RUNS) -> list[Trial]:
    """The shipped recipe of a data set, then every kept trial by name."""
    shipped = Recipe.load(SHIPPED[dataset])
    kept = [(path.parent, Recipe.load(path)) for path in sorted(tried.glob("*/recipe.yaml"))]
    found = [
        trial for folder, recipe in kept if recipe.dataset == dataset for trial in read(folder, recipe, folder.name)
    ]
    return [*read(runs / shipped.name / HONEST.replace(":", "-"), shipped, "shipped"), *found]


def figures_of(trial: Trial, base: Trial) -> dict[str, Any]:
    """Scores of one trial with intervals over groups, and its differences to the base, at each sigma of `SHOWN`."""
    n_classes = trial.probabilities.shape[2]
    positive = 0 if n_classes == 2 else None
    names = [str(c) for c in range(n_classes)]
    rows = []
    for sigma in SHOWN:
        if (p := trial.at(sigma)) is None:
            continue
        scores = bootstrap.summary(trial.label, p, trial.group, names, positive=positive)
        row: dict[str, Any] = {"sigma": sigma}
        row |= {k: scores[k] for k in ("weighted_f1", "balanced_accuracy", "auroc", "ece")}
        if trial is not base and (theirs := base.at(sigma)) is not None:
            row["difference"] = {
                k: bootstrap.difference(trial.label, p, theirs, trial.group, k, positive=positive)
                for k in ("weighted_f1", "auroc")
            }
        rows.append(row)
    return {"by_sigma": rows}


def choice(trials: Sequence[Trial]) -> dict[str, Any]:
    """What is left of the best trial's score when no fold has a say in the recipe that answers it.

    The criterion is that of `CRITERIA`, averaged over `CRITERION_SIGMAS`; trials without these are left out.
    """
    able = [t for t in trials if all(t.at(s) is not None for s in CRITERION_SIGMAS)]

    def score(trial: Trial, mine: np.ndarray, probabilities: np.ndarray) -> float:
        levels = [probabilities[trial.sigmas.index(s)] for s in CRITERION_SIGMAS]
        return float(np.mean([quality(trial, p, mine) for p in levels]))

    def quality(trial: Trial, p: np.ndarray, mine: np.ndarray) -> float:
        if p.shape[1] == 2:
            return float(trial.donors(chosen=mine, p=p).replicates(0)["auroc_per_donor"][0])
        return metrics.weighted_f1(trial.label[mine], p[mine])

    best = max(able, key=lambda t: score(t, np.full(len(t.index), True), t.probabilities))
    answers = np.empty_like(best.probabilities[0])
    chosen = {}
    for k in np.unique(best.fold):
        mine = best.fold == k
        picked = max(able, key=lambda t: score(t, ~mine, t.without[int(k)]))
        answers[mine] = picked.probabilities[picked.sigmas.index(0)][mine]
        chosen[str(k)] = picked.name
    everything = np.full(len(best.index), True)
    return {
        "criterion": CRITERIA[answers.shape[1]],
        "trials": len(able),
        "best": best.name,
        "of_best": quality(best, best.probabilities[best.sigmas.index(0)], everything),
        "by_fold": chosen,
        "chosen_by_other_folds": quality(best, answers, everything),
    }


def donor_figures(trial: Trial, base: Trial) -> dict[str, Any]:
    """One line of the table by donor of a two-class run."""
    scores = trial.donors()
    row: dict[str, Any] = {
        "name": trial.name,
        "by_sigma": [
            {"sigma": s, "auroc_per_donor": trial.donors(s).replicates(0)["auroc_per_donor"][0]}
            for s in SHOWN
            if trial.at(s) is not None
        ],
        **{k: v for k, v in scores.summary().items() if k != "donors"},
    }
    if trial is not base:
        row["difference"] = difference(scores, base.donors())
    return row


def compared(trials: Sequence[Trial], systems: Sequence[Trial] = ()) -> dict[str, Any]:
    """The record of these trials, JSON-ready; the first is the base.

    `systems` are other recorded runs on the same split, which only appear in the table by donor.

    Raises:
        BlastlensError: trials of other images or splits than the base's.
    """
    base = trials[0]
    for trial in trials:
        if not (np.array_equal(trial.index, base.index) and np.array_equal(trial.fold, base.fold)):
            raise BlastlensError(f"{trial.name} answers other images or splits than {base.name}; they do not compare.")
    record = {
        "protocol": base.protocol,
        "seed": base.seed,
        "images": len(base.index),
        "groups": len(np.unique(base.group)),
        "base": base.name,
        "base_recipe": {k: v for k, v in base.recipe.flat.items() if not k.startswith("sources")},
        "trials": [
            {"name": t.name, "changes": t.recipe.changes_from(base.recipe)} | figures_of(t, base) for t in trials
        ],
        "choice": choice(trials),
    }
    if base.probabilities.shape[2] == 2:
        calibrated_trials = [t for t in trials if not t.name.endswith(UNCALIBRATED)]
        record["by_donor"] = [donor_figures(t, base) for t in (*calibrated_trials, *systems)]
    return plain(record)


def page(records: Mapping[str, dict[str, Any]], notes: str = "") -> str:
    """TRIED.md of the records of `compared`, by data set."""
    return filled("TRIED", records=records, notes=notes.strip(), titles=TITLES, changes=_by_changes, noisy=SHOWN[1:])


def _by_changes(record: Mapping[str, Any]) -> dict[str, list[str]]:
    """What differs from the base's recipe, in words -> the trials."""
    found: dict[str, list[str]] = {}
    for trial in record["trials"]:
        changes = ", ".join(f"`{k}` {_short(v)}" for k, v in trial["changes"].items())
        found.setdefault(changes or "nothing", []).append(f"`{trial['name']}`")
    return found


def _short(value: Any) -> str:
    return " to ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)


def render(tried: Path = TRIED, runs: Path = RUNS) -> dict[str, str]:
    """TRIED.md and tried.json, by name."""
    records = {dataset: compared(trials_of(dataset, tried, runs), systems_of(dataset, runs)) for dataset in SHIPPED}
    notes = tried / "NOTES.md"
    text = page(records, notes.read_text() if notes.exists() else "")
    return {"TRIED.md": text, "tried.json": json.dumps(records, indent=1) + "\n"}


def keep(cv: Path, data: Path, seed: int, tried: Path = TRIED) -> Path:
    """Record one seed of a cross-validation as a trial; returns its folder."""
    runs = runs_of(cv, seed)
    out = tried / cv.name
    for run in runs:
        written = replace(recorded_run(run, data, len(runs), {}), system=cv.name).write(out)
        record = json.loads((run / "run.json").read_text())
        written.replace(out / f"fold{record['fold']}.json")
        for folder in (written.parent, written.parent.parent):
            folder.rmdir()
    recipe = Recipe.from_dict(record["recipe"])
    (out / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(recipe.to_dict())), sort_keys=False))
    return out


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.experiments", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command")
    keeping = commands.add_parser("keep", help="record a cross-validation as a trial")
    keeping.add_argument("cv", type=Path, help="folder of train.crossval; its name becomes the trial's")
    keeping.add_argument("--data", type=Path, required=True, help="its prepared dataset")
    keeping.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "keep":
            print(keep(arguments.cv, arguments.data, arguments.seed))
            return 0
        for name, text in render().items():
            (RESULTS / name).write_text(text)
            print(RESULTS / name)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
