"""What was tried before `train.search`: cross-validations side by side, results/tried -> results/TRIED.md.

All trials of a data set answer the same held-out images of the same groups, so each is compared with the shipped recipe
image by image, and so is the same recipe without calibration. Choosing the best of several on the images that it
is then reported on is optimistic; `choice` says by how much: each fold is answered by the recipe that was best on the
*other* folds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blastlens import bootstrap, metrics
from blastlens.donor_metrics import DonorScores, difference
from blastlens.errors import BlastlensError
from train.held_out import HeldOut, Recorded, calibrated, calibrated_without, cross_fitted, plain
from train.recipe import Recipe
from train.report.templates import filled
from train.results import HONEST, RUNS, Result

TRIED = RUNS.parent / "tried"
SHOWN = (0.0, 10.0, 20.0, 50.0)  # sigmas
UNCALIBRATED = ", uncalibrated"
# What the best trial is best by: of cells, the AUROC per donor, which no shares of classes or large donors decide.
CRITERIA = {2: "AUROC per donor", 4: "weighted F1"}
CRITERION_SIGMAS = (0.0, 20.0, 50.0)
# The recipes that ship, by data set.
SHIPPED = {"cnmc2019": "ours_cnmc2019", "aria2021": "ours_aria2021"}
TITLES = {"cnmc2019": "Single cells", "aria2021": "Smear fields"}


@dataclass(frozen=True, eq=False)
class Trial:
    """One cross-validation, calibrated across folds or not at all.

    Attributes:
        images: N held-out images, sorted by index.
        probabilities: (N, C) by sigma.
        without: of each fold, those of the other folds' images calibrated without it, from which to choose what
            answers it.
    """

    name: str
    recipe: Recipe
    images: HeldOut
    probabilities: Mapping[float, np.ndarray]
    without: Mapping[int, Mapping[float, np.ndarray]]

    @classmethod
    def of(cls, name: str, recipe: Recipe, results: Sequence[Result], scaled: bool = True) -> "Trial":
        """A trial of recorded runs, one per fold; without `scaled` it is not calibrated."""
        held_out = HeldOut.of_results(results)
        order = np.argsort(held_out.index)
        sigmas = held_out.sigmas.tolist()

        def by_sigma(found: np.ndarray) -> dict[float, np.ndarray]:
            return dict(zip(sigmas, found[:, order], strict=True))

        folds = np.unique(held_out.fold).tolist()
        if scaled:
            own = by_sigma(calibrated(held_out, cross_fitted(held_out)))
            without = {k: by_sigma(calibrated_without(held_out, k)) for k in folds}
        else:
            own = by_sigma(np.stack([metrics.softmax(level) for level in held_out.logits]))
            without = dict.fromkeys(folds, own)
        return cls(name, recipe, held_out.part(order), own, without)

    def quality(self, p: np.ndarray, chosen: np.ndarray) -> float:
        """The criterion of `CRITERIA` for probabilities (N, C), on the chosen images."""
        label, images = self.images.label[chosen], self.images
        if p.shape[1] == 2:
            scores = DonorScores.of(label == 0, p[chosen, 0], images.group[chosen], images.fold[chosen])
            return float(scores.replicates(0)["auroc_per_donor"][0])
        return metrics.score("weighted_f1", label, p[chosen])


def every_fold(folder: Path) -> list[Result]:
    """The recorded runs in a folder. Raises BlastlensError where they are not every fold of one seed."""
    results = sorted(map(Result.read, sorted(folder.glob("*.json"))), key=lambda r: r.fold)
    if not results or len({r.seed for r in results}) > 1 or len(results) != results[0].folds:
        raise BlastlensError(f"{folder} does not hold every fold of one cross-validation.")
    return results


def scores_of(trial: Trial, base: Trial) -> list[dict[str, Any]]:
    """Scores with intervals over groups, and differences to the base, at each sigma of `SHOWN` that was measured."""
    label, group = trial.images.label, trial.images.group
    n_classes = trial.probabilities[0.0].shape[1]
    positive = 0 if n_classes == 2 else None
    rows = []
    for sigma in (s for s in SHOWN if s in trial.probabilities):
        p, theirs = trial.probabilities[sigma], base.probabilities.get(sigma)
        scores = bootstrap.summary(label, p, group, [str(c) for c in range(n_classes)], positive=positive)
        row: dict[str, Any] = {"sigma": sigma} | {k: scores[k] for k in ("weighted_f1", "auroc", "ece")}
        if trial is not base and theirs is not None:
            row["difference"] = {
                k: bootstrap.difference(label, p, theirs, group, k, positive=positive) for k in ("weighted_f1", "auroc")
            }
        rows.append(row)
    return rows


def choice(trials: Sequence[Trial]) -> dict[str, Any]:
    """What is left of the best trial's score when no fold has a say in the recipe that answers it.

    The criterion is that of `CRITERIA`, averaged over `CRITERION_SIGMAS`; trials without these are left out.
    """
    able = [t for t in trials if set(CRITERION_SIGMAS) <= set(t.probabilities)]

    def score(trial: Trial, probabilities: Mapping[float, np.ndarray], chosen: np.ndarray) -> float:
        return float(np.mean([trial.quality(probabilities[s], chosen) for s in CRITERION_SIGMAS]))

    everything = np.full(len(able[0].images.index), True)
    best = max(able, key=lambda t: score(t, t.probabilities, everything))
    answers, chosen = np.empty_like(best.probabilities[0.0]), {}
    for k in np.unique(best.images.fold).tolist():
        mine = best.images.fold == k
        picked = max(able, key=lambda t: score(t, t.without[k], ~mine))
        answers[mine] = picked.probabilities[0.0][mine]
        chosen[k] = picked.name
    return {
        "criterion": CRITERIA[answers.shape[1]],
        "trials": len(able),
        "best": best.name,
        "of_best": best.quality(best.probabilities[0.0], everything),
        "by_fold": chosen,
        "chosen_by_other_folds": best.quality(answers, everything),
    }


def by_donor(runs: Mapping[str, Sequence[Result]]) -> list[dict[str, Any]]:
    """Scores by donor of recorded runs of two classes, and their differences to the first."""
    found = {name: Recorded.of(results) for name, results in runs.items()}
    base = next(iter(found))
    return [
        {
            "name": name,
            **one.summary(),
            "auroc_by_sigma": {s: one.auroc_per_donor(s) for s in SHOWN if s in one.sigmas},
            **({} if name == base else {"difference": difference(one.donors(), found[base].donors())}),
        }
        for name, one in found.items()
    ]


def compared(trials: Sequence[Trial]) -> dict[str, Any]:
    """What the page says about these trials; the first is the base.

    Raises:
        BlastlensError: trials of other images or splits than the base's.
    """
    base = trials[0]
    changes: dict[str, list[str]] = {}
    for trial in trials:
        if not all(np.array_equal(getattr(trial.images, n), getattr(base.images, n)) for n in ("index", "fold")):
            raise BlastlensError(f"{trial.name} answers other images or splits than {base.name}; they do not compare.")
        changed = trial.recipe.changes_from(base.recipe).items()
        words = ", ".join(f"`{key.removeprefix('removed.')}` {_short(value)}" for key, value in changed)
        changes.setdefault(words or "nothing", []).append(f"`{trial.name}`")
    return {
        "images": len(base.images.index),
        "groups": len(np.unique(base.images.group)),
        "base": base.name,
        "trials": [{"name": t.name, "by_sigma": scores_of(t, base)} for t in trials],
        "changes": changes,
        "choice": choice(trials),
    }


def _short(value: Any) -> str:
    return " to ".join(f"{end:g}" for end in value) if isinstance(value, list) else str(value)


def render() -> dict[str, str]:
    """TRIED.md, by its name."""
    records = {}
    kept = {path.parent: Recipe.load(path) for path in sorted(TRIED.glob("*/recipe.yaml"))}
    for dataset, name in SHIPPED.items():
        recipes = {"shipped": Recipe.load(name)} | {f.name: r for f, r in kept.items() if r.dataset == dataset}
        runs = {n: every_fold(TRIED / n) for n in recipes if n != "shipped"}
        runs = {"shipped": every_fold(RUNS / name / HONEST.replace(":", "-"))} | runs
        trials = [
            Trial.of(n + ("" if scaled else UNCALIBRATED), recipe, runs[n], scaled)
            for n, recipe in recipes.items()
            for scaled in (True, False)
        ]
        first = runs["shipped"][0]
        record = compared(trials) | {"protocol": first.protocol, "seed": first.seed}
        record["by_donor"] = by_donor(runs) if len(first.label_names) == 2 else []
        records[dataset] = plain(record)
    notes = (TRIED / "NOTES.md").read_text().strip()
    return {"TRIED.md": filled("TRIED", records=records, notes=notes, titles=TITLES, noisy=SHOWN[1:])}
