"""Held-out predictions of a cross-validation, and their calibration. Pure functions; only `HeldOut.read` touches files.

The calibration of a fold, a temperature and a bias per class, is fitted on the held-out predictions of the *other*
folds (cross-fitting): no label of its own images enters that fit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blastlens import bootstrap, metrics
from blastlens.donor_metrics import MIN_IMAGES, DonorScores, donor_weights
from blastlens.errors import BlastlensError
from train.calibration import Scaling, fit_scaling
from train.results import Result

CALIBRATION = (
    "temperature and bias per class fitted on the other folds' held-out images, classes and donors weighted equally"
)

POSITIVE = 0  # ALL


COLUMNS = ("index", "label", "fold", "group", "repeat")  # of the images


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Held-out predictions, of every split seed each image once: logits (S, N, C), and by image (N,) its index, label,
    fold, group, and repeat, the split seed."""

    sigmas: np.ndarray
    index: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    logits: np.ndarray
    group: np.ndarray
    repeat: np.ndarray

    @classmethod
    def read(cls, runs: Sequence[Path], seed: int = 0) -> "HeldOut":
        """Read predictions.npz of each run folder of a seed; run k is fold k."""
        parts = [np.load(run / "predictions.npz") for run in runs]
        index, label, group = (
            np.concatenate([p[f"test_{name}"] for p in parts]) for name in ("index", "label", "group")
        )
        fold = np.repeat(np.arange(len(parts)), [len(p["test_index"]) for p in parts])
        logits = np.concatenate([p["test_logits"] for p in parts], axis=1)
        return cls(parts[0]["sigmas"], index, label, fold, logits, group, np.full(len(index), seed))

    @classmethod
    def of_results(cls, results: Sequence[Result]) -> "HeldOut":
        """Read recorded runs, at the noise that all of them have, sorted by seed and fold. The logits are the
        logarithms of their probabilities, which softmax cannot distinguish from the original logits; a recorded
        probability of 0 is replaced by 1e-7."""
        results = sorted(results, key=lambda r: (r.seed, r.fold))
        sigmas = sorted(set.intersection(*(set(r.sigmas) for r in results)))
        sizes = [len(r.index) for r in results]
        return cls(
            np.array(sigmas),
            np.concatenate([r.index for r in results]),
            np.concatenate([r.label for r in results]),
            np.repeat([r.fold for r in results], sizes),
            np.concatenate([np.log(r.at(sigmas).clip(1e-7)) for r in results], axis=1),
            np.concatenate([r.groups_of_images for r in results]),
            np.repeat([r.seed for r in results], sizes),
        )

    def part(self, chosen: np.ndarray) -> "HeldOut":
        """Select images by a mask (N,) or by positions."""
        images = {name: getattr(self, name)[chosen] for name in COLUMNS}
        return replace(self, **images, logits=self.logits[:, chosen])

    def scaling(self, by_donor: bool = True, bias: bool = True) -> Scaling:
        """Fit a temperature, and a bias per class where `bias`, to all images without noise.

        Where `by_donor`, each class has the same weight, and each donor within a class: the probabilities then hold
        where all classes are equally common. Otherwise each image has the same weight.
        """
        weights = donor_weights(self.label, self.group) if by_donor else None
        return fit_scaling(self.logits[0], self.label, weights, bias=bias)


def joined(parts: Sequence[HeldOut]) -> HeldOut:
    """Concatenate the predictions of several seeds."""
    images = {name: np.concatenate([getattr(p, name) for p in parts]) for name in COLUMNS}
    return replace(parts[0], **images, logits=np.concatenate([p.logits for p in parts], axis=1))


def cross_fitted(held_out: HeldOut, by_donor: bool = True, bias: bool = True) -> dict[int, Scaling]:
    """Fit the scaling of each fold on the other folds' images without noise; a single fold keeps its logits."""
    folds = np.unique(held_out.fold).tolist()
    if len(folds) == 1:
        return {folds[0]: Scaling.identity(held_out.logits.shape[2])}
    return {fold: held_out.part(held_out.fold != fold).scaling(by_donor, bias) for fold in folds}


def calibrated(held_out: HeldOut, scalings: Mapping[int, Scaling]) -> np.ndarray:
    """Return probabilities (S, N, C) with each fold's scaling."""
    out = np.empty(held_out.logits.shape)
    for fold, scaling in scalings.items():
        mine = held_out.fold == fold
        for level in range(len(out)):
            out[level, mine] = scaling.apply(held_out.logits[level, mine])
    return out


def cross_calibrated(held_out: HeldOut, by_donor: bool = True, bias: bool = True) -> np.ndarray:
    """Return probabilities (S, N, C), those of each seed with the scalings of `cross_fitted`."""
    out = np.empty(held_out.logits.shape)
    for repeat in np.unique(held_out.repeat):
        mine = held_out.repeat == repeat
        part = held_out.part(mine)
        out[:, mine] = calibrated(part, cross_fitted(part, by_donor, bias))
    return out


def calibrated_without(held_out: HeldOut, fold: int) -> np.ndarray:
    """Return probabilities (S, N, C) of the other folds' images, calibrated without any image of `fold`.

    Each of those folds is calibrated on the rest of them; a single other fold is calibrated on itself. The images of
    `fold` are NaN. What is chosen from these probabilities can be tested on that fold.
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
    """Recorded runs of two classes on repeated splits: their images, and calibrated probabilities of ALL (S, N)."""

    images: HeldOut
    score: np.ndarray

    @classmethod
    def of(cls, results: Sequence[Result]) -> "Recorded":
        """Calibrate each split seed by its other folds. A single fold stays as it was trained."""
        images = HeldOut.of_results(results)
        return cls(images, cross_calibrated(images)[:, :, POSITIVE])

    @property
    def sigmas(self) -> list[float]:
        return self.images.sigmas.tolist()

    @property
    def keys(self) -> set[tuple[int, int]]:
        """The (seed, fold) of its runs."""
        return set(zip(self.images.repeat.tolist(), self.images.fold.tolist(), strict=True))

    def part(self, keys: set[tuple[int, int]]) -> "Recorded":
        """Only the runs of these (seed, fold), sorted by seed, fold and index."""
        images = self.images
        order = np.lexsort((images.index, images.fold, images.repeat))
        chosen = order[[(images.repeat[i], images.fold[i]) in keys for i in order]]
        return Recorded(images.part(chosen), self.score[:, chosen])

    def at(self, sigmas: Sequence[float]) -> "Recorded":
        """Only these noise levels."""
        chosen = [self.sigmas.index(sigma) for sigma in sigmas]
        images = replace(self.images, sigmas=np.array(sigmas), logits=self.images.logits[chosen])
        return Recorded(images, self.score[chosen])

    @classmethod
    def joined(cls, parts: Sequence["Recorded"]) -> "Recorded":
        """Several runs at the same noise levels together."""
        return cls(joined([part.images for part in parts]), np.concatenate([part.score for part in parts], axis=1))

    def donors(self, sigma: float = 0.0) -> DonorScores:
        """Figures by donor under noise."""
        score, of = self.score[self.sigmas.index(sigma)], self.images
        return DonorScores.of(of.label == POSITIVE, score, of.group, of.fold, of.repeat)

    def summary(self) -> dict[str, Any]:
        """Scores by donor of all donors together."""
        return {key: value for key, value in self.donors().summary().items() if key != "donors"}

    def at_sensitivity(self, target: float) -> dict[str, Any] | None:
        """Scores by donor where each fold has the highest threshold with which the other folds of its seed reach a mean
        sensitivity of `target`, 0 to 1, over ALL subjects; None without other folds."""
        of, score = self.images, self.score[self.sigmas.index(0.0)]
        thresholds = np.empty(len(score))
        for seed, fold in self.keys:
            others = (of.repeat == seed) & (of.fold != fold) & (of.label == POSITIVE)
            if not others.any():
                return None
            mine = (of.repeat == seed) & (of.fold == fold)
            thresholds[mine] = threshold_at(score[others], of.group[others], target)
        found = DonorScores.of(of.label == POSITIVE, score, of.group, of.fold, of.repeat, thresholds).summary()
        return {name: found[name] for name in ("specificity_per_donor", "worst_specificity", "sensitivity_per_subject")}

    def auroc_per_donor(self, sigma: float) -> float:
        return float(self.donors(sigma).replicates(0)["auroc_per_donor"][0])


def threshold_at(scores: np.ndarray, donors: np.ndarray, target: float) -> float:
    """The highest threshold that a share of `target` of the scores (N,) of a donor (N,) reach, on average over donors
    with at least `MIN_IMAGES` images."""
    _, donor, count = np.unique(donors, return_inverse=True, return_counts=True)
    weights = np.where(count >= MIN_IMAGES, 1 / count, 0)[donor]
    order = np.argsort(-scores)
    reached = np.cumsum(weights[order]) / weights.sum()
    return float(scores[order][np.searchsorted(reached, target - 1e-9)])


def runs_of(folder: Path, seed: int = 0) -> list[Path]:
    """Return the run folders of one seed of a cross-validation, by fold; raises BlastlensError where there are none."""
    runs = sorted(folder.glob(f"seed{seed}-fold*"), key=lambda path: int(path.name.rpartition("fold")[2]))
    if not runs:
        raise BlastlensError(f"{folder} has no runs of seed {seed}; make them with `python -m train.crossval`.")
    return runs


def reliability_of(
    labels: np.ndarray, probabilities: np.ndarray, groups: Sequence[str], label_names: Sequence[str]
) -> dict[str, Any]:
    """Return the reliability of predictions (N, C) without noise: the bins of all images, those by predicted class,
    where errors of opposite sign show, and the classwise error."""
    predicted = probabilities.argmax(axis=1)

    def bins(chosen: np.ndarray | slice) -> list[dict[str, Any]]:
        mine = labels[chosen]
        return [asdict(one) for one in metrics.reliability(mine, probabilities[chosen])] if len(mine) else []

    return {
        "reliability": bins(slice(None)),
        "reliability_by_answer": {name: bins(predicted == c) for c, name in enumerate(label_names)},
        "classwise_ece": asdict(bootstrap.classwise_ece(labels, probabilities, groups)),
    }


def protocol_record(
    held_out: HeldOut, probabilities: np.ndarray, label_names: Sequence[str], protocol: str, level: str
) -> dict[str, Any]:
    """Return one entry of metrics.json's `protocols`: every metric at every sigma, with 95 % intervals from a
    bootstrap over groups, the accuracy of each group (by label, if it has several; none at image level), and the
    reliability. A group-level protocol of two classes, one for each group, also has `donors`: the metrics of
    `blastlens.donor_metrics` by sigma, and each donor's figures without noise.

    `probabilities` (S, N, C) are those that the model is shown with.
    """
    labels, groups, seeds = held_out.label, held_out.group, np.unique(held_out.repeat).tolist()
    positive = 0 if len(label_names) == 2 else None  # ALL
    by_sigma = [
        {"sigma": float(s), **bootstrap.summary(labels, p, groups, label_names, positive=positive)}
        for s, p in zip(held_out.sigmas, probabilities, strict=True)
    ]
    by_donor: dict[str, Any] = {}
    members = sorted(set(zip(groups.tolist(), labels.tolist(), strict=True)))
    of_one_class = len(members) == len(set(groups))
    if positive is not None and level == "group" and of_one_class:
        found = [
            DonorScores.of(labels == positive, p[:, positive], groups, held_out.fold, held_out.repeat).summary()
            for p in probabilities
        ]
        for row, one in zip(by_sigma, found, strict=True):
            row["auroc"] = one["auroc"]  # within folds: two folds are calibrated differently
            row["donors"] = {k: v for k, v in one.items() if k != "donors"}
        by_donor = {"donors": found[0]["donors"]}
    right, per_group = probabilities[0].argmax(1) == labels, []
    for group, label in members if level == "group" else ():
        mine = (groups == group) & (labels == label)
        n, accuracy = int(mine.sum()) // len(seeds), float(right[mine].mean())
        per_group.append({"group": group, "label": label_names[label], "n": n, "accuracy": accuracy})
    return plain(
        {
            "name": protocol,
            "level": level,
            "seeds": seeds,
            "n_images": len(labels) // len(seeds),
            "n_groups": len(set(groups)),
            "calibration": CALIBRATION,
            "by_sigma": by_sigma,
            "per_group": per_group,
            **by_donor,
            **reliability_of(labels, probabilities[0], groups, label_names),
        }
    )


def plain(value: Any) -> Any:
    """Convert for JSON: intervals to {"value", "low", "high"}, arrays to lists, floats to five digits, NaN to None."""
    if isinstance(value, metrics.Interval):
        return {k: plain(v) for k, v in asdict(value).items()}
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else round(float(value), 5)
    return int(value) if isinstance(value, np.integer) else value
