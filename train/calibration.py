"""How far the probabilities of unseen people hold, and which way to calibrate holds best.

    python -m train.calibration measure results/folds/mobilenet_m-cnmc2019 --data DIR --out calibration.json
    python -m train.calibration choose --out results/calibration_choice.json

`measure` makes "calibration" of metrics.json, with what `train.threshold_fitting` decides from the probabilities.
`choose` compares ways to calibrate on the recorded runs; `train.crossval.cross_fitted` does what was chosen.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from blastlens import bootstrap, metrics
from blastlens.calibration import Scaling, fit_scaling
from blastlens.donor_metrics import donor_weights
from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from blastlens.noise import PAPER_SIGMAS
from blastlens.patients import leukemic_labels
from train.crossval import CALIBRATION, HeldOut, calibrated, cross_fitted, plain
from train.files import write_json
from train.folds import FoldNetworks
from train.results import HONEST, RUNS, Result
from train.threshold_fitting import operating_point, prediction_sets

SIGMAS = (0, *PAPER_SIGMAS)

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


# --- what stands in metrics.json -------------------------------------------------------------------------------------


def measure(networks: FoldNetworks, sigmas: Sequence[float] = SIGMAS) -> dict[str, Any]:
    """ "calibration" of metrics.json, from held-out images answered at each sigma of Gaussian noise.

    Thresholds are chosen without noise: 0 is always among the sigmas and comes first.
    """
    levels = [0.0, *sorted({float(sigma) for sigma in sigmas} - {0.0})]
    held_out = networks.predictions(levels)
    return report(held_out, dict(enumerate(networks.scalings)), networks.groups, networks.label_names)


def report(
    held_out: HeldOut, scalings: Mapping[int, Scaling], groups: Sequence[str], label_names: Sequence[str]
) -> dict[str, Any]:
    """ "calibration" of metrics.json, from held-out predictions.

    Args:
        held_out: its first sigma is 0.
        scalings: of each fold, fitted on the other folds.
        groups: (N,) of its images.
    """
    labels, people = held_out.label, np.asarray(groups)
    probabilities = calibrated(held_out, dict(scalings))
    before = calibrated(held_out, fitted(held_out, people, Candidate("temperature")))[0]

    def errors(p: Floats) -> dict[str, Interval]:
        return {
            "ece": bootstrap.summary(labels, p, people, label_names)["ece"],
            "classwise_ece": bootstrap.classwise_ece(labels, p, people),
        }

    by_sigma = [{"sigma": float(sigma), **errors(p)} for sigma, p in zip(held_out.sigmas, probabilities, strict=True)]
    curve = metrics.risk_coverage(labels, probabilities[0])
    return plain(
        {
            "scaling": CALIBRATION,
            # Classes weigh the same in the calibration, so this is the share of leukemic images that it assumes.
            "prevalence": len(leukemic_labels(label_names)) / len(label_names) or None,
            "ece": by_sigma[0]["ece"],
            "classwise_ece": by_sigma[0]["classwise_ece"],
            "before": errors(before),
            "by_sigma": by_sigma,
            "operating_point": operating_point(held_out, probabilities, people, label_names),
            "prediction_sets": prediction_sets(held_out, probabilities, people, label_names),
            "risk_coverage": [{"coverage": coverage, "risk": risk} for coverage, risk in curve],
            "aurc": bootstrap.aurc(labels, probabilities[0], people),
        }
    )


# --- which way to calibrate -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A way to calibrate.

    Attributes:
        scaling: "none", "temperature" or "temperature and bias".
        weights: "image": every image the same; "group": every group; "class and group": every class, and within it
            every group.
        noise: whether also fitted on images with the papers' noise.
        penalty: of `fit_scaling`.
    """

    scaling: str
    weights: str = "image"
    noise: bool = False
    penalty: float = 1e-2


CURRENT = Candidate("temperature and bias", "class and group")  # what train.crossval.cross_fitted does
CANDIDATES = (
    Candidate("none"),
    *(
        Candidate(scaling, weights, noise)
        for scaling in ("temperature", "temperature and bias")
        for weights in ("image", "group", "class and group")
        for noise in (False, True)
    ),
    Candidate("temperature and bias", penalty=1e-3),
    Candidate("temperature and bias", penalty=1e-1),
)


def fitted(held_out: HeldOut, groups: NDArray[Any], candidate: Candidate) -> dict[int, Scaling]:
    """Scaling of each fold, fitted on the other folds' held-out images; plain softmax where there are none."""
    return {
        int(k): scaling_of(held_out, groups, candidate, held_out.fold != k)
        if (held_out.fold != k).any()
        else Scaling.identity(held_out.logits.shape[2])
        for k in np.unique(held_out.fold)
    }


def scaling_of(held_out: HeldOut, groups: NDArray[Any], candidate: Candidate, chosen: Booleans) -> Scaling:
    """The scaling that a candidate fits on the chosen images (N,)."""
    if candidate.scaling == "none":
        return Scaling.identity(held_out.logits.shape[2])
    used = np.isin(held_out.sigmas, SIGMAS if candidate.noise else (0,))
    logits = held_out.logits[used][:, chosen]
    labels = held_out.label[chosen]
    weights = _weights(candidate.weights, labels, groups[chosen])
    return fit_scaling(
        logits.reshape(-1, logits.shape[2]),
        np.tile(labels, len(logits)),
        np.tile(weights, len(logits)),
        bias=candidate.scaling == "temperature and bias",
        penalty=candidate.penalty,
    )


def _weights(kind: str, labels: NDArray[Any], groups: NDArray[Any]) -> Floats:
    if kind == "image":
        return np.ones(len(labels))
    if kind == "class and group":
        return donor_weights(labels, groups)
    _, group, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return 1 / counts[group]


def nested(
    held_out: HeldOut, groups: NDArray[Any], candidates: Sequence[Candidate]
) -> tuple[dict[int, Scaling], dict[int, Candidate]]:
    """What choosing among candidates is worth: scaling of each fold, of the candidate that the other folds prefer.

    They prefer the smallest mean log loss over `SIGMAS` when each of them is calibrated by the rest of them. Needs
    three folds.
    """
    scalings, preferred = {}, {}
    for k in np.unique(held_out.fold):
        others = held_out.fold != k
        inner = held_out.part(others)
        losses = []
        for candidate in candidates:
            p = calibrated(inner, fitted(inner, groups[others], candidate))
            losses.append(np.mean([metrics.log_loss(inner.label, p[s]) for s in _levels(inner)]))
        best = candidates[int(np.argmin(losses))]
        preferred[int(k)] = best
        scalings[int(k)] = scaling_of(held_out, groups, best, others)
    return scalings, preferred


def compare(held_out: HeldOut, groups: NDArray[Any], candidates: Sequence[Candidate] = CANDIDATES) -> dict[str, Any]:
    """A table of ways to calibrate, each fitted on the other folds, and a last line for choosing by those.

    `groups` (N,). Differences of log loss and weighted F1 are to what `train.crossval.cross_fitted` does.
    """
    ours = calibrated(held_out, cross_fitted(held_out))[0]

    def figures(scalings: Mapping[int, Scaling]) -> dict[str, Any]:
        p = calibrated(held_out, dict(scalings))
        difference = {
            key: bootstrap.difference(held_out.label, p[0], ours, groups, key) for key in ("log_loss", "weighted_f1")
        }
        rows = [
            {
                "sigma": float(held_out.sigmas[s]),
                **{key: getattr(metrics, key)(held_out.label, p[s]) for key in _COMPARED},
            }
            for s in _levels(held_out)
        ]
        return {"by_sigma": rows, "difference": difference}

    chosen, preferred = nested(held_out, groups, candidates)
    return plain(
        {
            "images": len(held_out.label),
            "groups": len(np.unique(groups)),
            "rows": [
                {**vars(one), "used": one == CURRENT, **figures(fitted(held_out, groups, one))} for one in candidates
            ],
            "nested": {"preferred": [vars(preferred[k]) for k in sorted(preferred)], **figures(chosen)},
        }
    )


_COMPARED = ("ece", "classwise_ece", "weighted_f1", "balanced_accuracy", "log_loss")


def _levels(held_out: HeldOut) -> list[int]:
    return [level for level, sigma in enumerate(held_out.sigmas) if sigma in SIGMAS]


def choice(runs: Path = RUNS) -> dict[str, Any]:
    """results/calibration_choice.json: `compare` for the recorded runs of our recipes.

    Raises:
        BlastlensError: a recipe has no recorded runs.
    """
    tables = {}
    recipes = ("ours_cnmc2019", "ours_aria2021")
    for recipe in tqdm(recipes, desc="comparing calibrations", unit="recipe"):
        folder = runs / recipe / HONEST.replace(":", "-")
        found = [run for run in map(Result.read, sorted(folder.glob("*.json"))) if run.seed == 0]
        if len(found) < 3:
            raise BlastlensError(f"{folder} has no complete cross-validation of seed 0.")
        found = sorted(found, key=lambda run: run.fold)
        groups = np.array([group for run in found for group in run.groups_of_images])
        tables[recipe] = {"label_names": list(found[0].label_names), **compare(HeldOut.of_results(found), groups)}
    return {"protocol": HONEST, "seed": 0, "recipes": tables}


def describe(table: Mapping[str, Any]) -> str:
    """`compare`, as text: each candidate without noise, and its worst over the papers' sigmas."""
    columns = ("log loss", "ECE", "worst", "by class", "worst", "wF1", "worst")
    lines = [" " * 66 + "".join(f" {column:>8s}" for column in columns)]
    named = [(_named(row) + (" (used)" if row["used"] else ""), row) for row in table["rows"]]
    for name, row in [*named, ("chosen by the other folds", table["nested"])]:
        at = row["by_sigma"]
        ece, by_class, f1 = ([one[key] for one in at] for key in ("ece", "classwise_ece", "weighted_f1"))
        shown = (ece[0], max(ece), by_class[0], max(by_class), f1[0], min(f1))
        lines.append(f"{name:66s} {at[0]['log_loss']:8.4f}" + "".join(f" {value:8.4f}" for value in shown))
    return "\n".join(lines)


def _named(row: Mapping[str, Any]) -> str:
    if row["scaling"] == "none":
        return "none"
    return f"{row['scaling']}, by {row['weights']}{', noise' if row['noise'] else ''}, penalty {row['penalty']:g}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.calibration", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("measure", help="calibration, operating point and prediction sets of a model")
    one.add_argument("folds", type=Path, help="folder of train.folds")
    one.add_argument("--data", type=Path, required=True, help="prepared dataset")
    one.add_argument("--sigmas", type=float, nargs="+", default=list(SIGMAS), help="of Gaussian noise, 0 to 255")
    one.add_argument("--cache", type=Path, default=Path("runs/cache"))
    one.add_argument("--out", type=Path, required=True)
    other = commands.add_parser("choose", help="compare ways to calibrate on recorded runs")
    other.add_argument("--runs", type=Path, default=RUNS)
    other.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "measure":
            networks = FoldNetworks.load(arguments.folds, arguments.data, arguments.cache)
            result = measure(networks, arguments.sigmas)
        else:
            result = choice(arguments.runs)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(arguments.out, result)
    if arguments.command == "choose":
        print("\n\n".join(f"{name}\n{describe(table)}" for name, table in result["recipes"].items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
