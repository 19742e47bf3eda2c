"""What a model says of people rather than of cells: a person's cells together, on people it never saw.

    python -m train.patient_evaluation results/folds/mobilenet_m-cnmc2019 --data DIR --out patients.json

A person is called leukemic where the mean probability of leukemia over their cells reaches a threshold. A fold's
threshold is chosen on the other folds' people, each answered by a network that had not seen them; none of the people
it is then used on has a part in it. People are the groups of the data set: subjects that share images are one.

What can mislead here:

- Cells of one photograph share its focus, light and stain. A person's interval is therefore one over photographs (the
  file names say which), wider than one over cells. It still leaves out what all photographs of a person share, a slide,
  a laboratory, a preparation: it says how well this person's mean is known, not how sure the answer is. How often
  answers are wrong is what sensitivity and specificity over people say.
- Healthy people are few, and intervals over people are wide. Rates have Wilson's; AUROC has Newcombe's, since a
  bootstrap of a few people who happen to be ranked perfectly would give no interval at all.
- Classes have the shares of this data set, more leukemic people than healthy ones, as no clinic has. Sensitivity and
  specificity do not depend on that; the threshold does not either, since both count the same in choosing it.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blastlens import metrics
from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from blastlens.noise import PAPER_SIGMAS
from blastlens.patients import NORMAL_QUANTILE, leukemic_labels, mean_interval, wilson
from train.baselines import WITHOUT_NETWORK, features_of, held_out_probabilities
from train.crossval import calibrated_without, plain
from train.datasets import Row
from train.files import write_json
from train.folds import FoldNetworks

SIGMAS = (0, *PAPER_SIGMAS)
CELLS = (1, 5, 20, 50)  # per person, of the curve that says how many are needed
DRAWS = 200
UNDECIDED = "undecided"
RULE = (
    "A person is called leukemic where the mean probability of leukemia over their cells reaches the threshold; the "
    "threshold is the one with the best mean of sensitivity and specificity over the other folds' people."
)


@dataclass(frozen=True, eq=False)
class People:
    """G people with N images between them, whoever answered the images.

    Attributes:
        names: (G,) sorted. sick: (G,) bool. fold: (G,) in whose test part each is.
        of_image: (N,) int, whose an image is. photograph: (N,) what it was cut out of.
    """

    names: np.ndarray
    sick: np.ndarray
    fold: np.ndarray
    of_image: np.ndarray
    photograph: np.ndarray

    @classmethod
    def of(cls, groups: np.ndarray, sick: np.ndarray, fold: np.ndarray, photographs: Sequence[str]) -> "People":
        """From what is known of each image, (N,) each.

        Raises:
            BlastlensError: somebody has images of both classes, or in several folds.
        """
        names, first, of_image = np.unique(groups, return_index=True, return_inverse=True)
        if (sick[first][of_image] != sick).any() or (fold[first][of_image] != fold).any():
            raise BlastlensError("Decisions about people need each group in one class and in one fold.")
        return cls(names, sick[first], fold[first], of_image, np.asarray(photographs))

    def means(self, probability: np.ndarray) -> np.ndarray:
        """(G,) of the (N,) images' probabilities of leukemia."""
        return np.bincount(self.of_image, probability) / np.bincount(self.of_image)


def photograph_of(row: Row) -> str:
    """What a cell was cut out of: C-NMC's names say subject, photograph and cell; else the image itself."""
    parts = Path(row.file_name).stem.split("_")
    return "_".join(parts[1:3]) if parts[0] == "UID" and len(parts) == 5 else row.file_name


def best_threshold(means: np.ndarray, sick: np.ndarray) -> float:
    """The threshold with the best mean of sensitivity and specificity, 0 to 1.

    Between two neighbouring people all thresholds do the same: it is their middle. Of several that do equally well, the
    middle one in the widest gap, which is the least touchy.

    Args:
        means: (G,) mean probability of each person. sick: (G,) bool, some of either.
    """
    ends = np.concatenate([[0.0], np.sort(means), [1.0]])
    middles, gaps = (ends[:-1] + ends[1:]) / 2, np.diff(ends)
    called = means >= middles[:, None]
    quality = called[:, sick].mean(axis=1) + (~called[:, ~sick]).mean(axis=1)
    best = quality > quality.max() - 1e-9
    return float(middles[best][gaps[best].argmax()])


def cross_fitted_thresholds(people: People, means: np.ndarray | Mapping[int, np.ndarray]) -> np.ndarray:
    """(G,) for each person the threshold that the people of the other folds choose.

    Args:
        means: (G,) mean probability of each person; or of each fold those to choose its threshold from, where
            calibration has to leave it out as well.

    Raises:
        BlastlensError: a fold whose others lack sick or healthy people.
    """
    thresholds = np.empty(len(people.names))
    for k in np.unique(people.fold):
        others = people.fold != k
        if not people.sick[others].any() or people.sick[others].all():
            raise BlastlensError("Decisions about people need sick and healthy ones in every two folds.")
        known = means[int(k)] if isinstance(means, Mapping) else means
        thresholds[people.fold == k] = best_threshold(known[others], people.sick[others])
    return thresholds


def rates(right: np.ndarray, sick: np.ndarray) -> dict[str, Interval | None]:
    """Sensitivity and specificity over people with Wilson's intervals; None where there is nobody.

    `right` (G,), 0 to 1: whether each was called right, or how often; `sick` (G,) bool.
    """
    of = {"sensitivity": right[sick], "specificity": right[~sick]}
    return {name: wilson(float(values.sum()), len(values)) if len(values) else None for name, values in of.items()}


def decisions(
    people: People, probability: np.ndarray, thresholds: np.ndarray, label_names: Sequence[str], label: int
) -> dict[str, Any]:
    """What is said of each person, and how often that is right.

    Args:
        probability: (N,) of leukemia, without noise. thresholds: (G,), of `cross_fitted_thresholds`.
        label_names: of leukemia and of health. label: which of them is leukemia.

    Returns:
        The keys of metrics.json's `patients` that need no network: `sensitivity` and `specificity` call everybody,
        by the side of the threshold; `decided` only those whose interval does not hold the threshold. `at_half` has
        the same with 0.5 as threshold, which nobody chose. `threshold` is for use: chosen on everybody, it was tried
        on nobody else, while the rates are of `of_folds`, each chosen on the other folds.
    """
    means = people.means(probability)
    called = means >= thresholds
    right = called == people.sick
    sides = (label_names[1 - label], label_names[label])
    found = []
    for g, name in enumerate(people.names):
        mine = people.of_image == g
        interval = mean_interval(probability[mine], people.photograph[mine].tolist())
        undecided = not (interval.low > thresholds[g] or interval.high < thresholds[g])  # so that NaN is undecided
        found.append(
            {
                "group": str(name),
                "label": sides[int(people.sick[g])],
                "images": int(mine.sum()),
                "photographs": len(np.unique(people.photograph[mine])),
                "share": float((probability[mine] >= 0.5).mean()),
                "mean": interval.value,
                "low": interval.low,
                "high": interval.high,
                "threshold": thresholds[g],
                "called": UNDECIDED if undecided else sides[int(called[g])],
                "right": bool(right[g]),
            }
        )
    decided = np.array([row["called"] != UNDECIDED for row in found])
    return {
        "threshold": best_threshold(means, people.sick),
        "of_folds": [float(thresholds[people.fold == k][0]) for k in np.unique(people.fold)],
        "patients": found,
        **rates(right, people.sick),
        "auroc": _auroc(people, means),
        "undecided": int((~decided).sum()),
        "decided": {"people": int(decided.sum()), **rates(right[decided], people.sick[decided])},
        "at_half": rates((means >= 0.5) == people.sick, people.sick),
    }


def by_cells(
    people: People,
    probability: np.ndarray,
    thresholds: np.ndarray,
    numbers: Sequence[int] = CELLS,
    draws: int = DRAWS,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """How many cells are needed: the rates when only so many of a person's cells are looked at.

    Cells are drawn at random from all photographs of a person, without replacement; who has fewer is judged by all of
    them. The thresholds (G,) are those of all cells. A rate is the mean over `draws`, its interval that of one draw.
    """
    rng = np.random.default_rng(seed)
    # A random order of each person's cells, the same for every number of them: the first n of it are n cells.
    cells = [probability[people.of_image == g] for g in range(len(people.names))]
    orders = [np.stack([rng.permutation(mine) for _ in range(draws)]) for mine in cells]
    found = []
    for number in numbers:
        called = [order[:, :number].mean(axis=1) >= t for order, t in zip(orders, thresholds, strict=True)]
        right = np.array([(c == sick).mean() for c, sick in zip(called, people.sick, strict=True)])
        whole = sum(len(mine) <= number for mine in cells)
        found.append({"cells": number, **rates(right, people.sick), "people_with_fewer": int(whole)})
    return found


def measure(networks: FoldNetworks, sigmas: Sequence[float] = SIGMAS, progress: bool = True) -> dict[str, Any] | None:
    """metrics.json's `patients`; None for images whose people nobody named, or whose labels are not ours.

    `by_sigma` keeps the thresholds of images without noise, as a user would. `without_network` decides about the same
    people by the same rule from what `train.baselines` finds in their cells.
    """
    names = networks.label_names
    sick_labels = leukemic_labels(names)
    if len(names) != 2 or not sick_labels or not all(row.subject for row in networks.rows):
        return None
    label = names.index(sick_labels[0])
    people = People.of(
        networks.groups, networks.labels == label, networks.fold_of, [photograph_of(row) for row in networks.rows]
    )

    clean = networks.noisy(0).probabilities[:, label]
    held_out = networks.predictions([0])
    thresholds = cross_fitted_thresholds(
        people,
        {int(k): people.means(calibrated_without(held_out, k)[0][:, label]) for k in np.unique(people.fold)},
    )
    by_sigma = []
    for sigma in sigmas:
        means = people.means(networks.noisy(sigma).probabilities[:, label])
        by_sigma.append({"sigma": float(sigma), **rates((means >= thresholds) == people.sick, people.sick)})
    return plain(
        {
            "protocol": networks.protocol,
            "seed": networks.seed,
            "rule": RULE,
            **decisions(people, clean, thresholds, names, label),
            "by_sigma": by_sigma,
            "by_cells": by_cells(people, clean, thresholds),
            "without_network": _without_network(networks, people, label, progress),
        }
    )


def _without_network(networks: FoldNetworks, people: People, label: int, progress: bool) -> list[dict[str, Any]]:
    found = []
    for name, feature in WITHOUT_NETWORK[networks.recipe.dataset].items():
        x = features_of(feature, networks.pixels, name if progress else "")
        probability = held_out_probabilities(x, networks.labels, networks.splits, 2)[:, label]
        means = people.means(probability)
        right = (means >= cross_fitted_thresholds(people, means)) == people.sick
        found.append({"name": name, **rates(right, people.sick), "auroc": _auroc(people, means)})
    return found


def _auroc(people: People, means: np.ndarray) -> Interval:
    pairs = np.stack([1 - means, means], axis=1)
    area = metrics.auroc(people.sick.astype(int), pairs, positive=1)
    return auroc_interval(area, int(people.sick.sum()), int((~people.sick).sum()))


def auroc_interval(area: float, positives: int, negatives: int) -> Interval:
    """An area under the ROC curve of independent people, with its 95 % score interval.

    Newcombe's method 5 (2006, doi 10.1002/sim.2324): the areas from which the measured one is less than 1.96 standard
    deviations away, with the variance of Hanley and McNeil (1982, doi 10.1148/radiology.143.1.7063747). It has a width
    even where the ranking is perfect.
    """

    def away(true: float) -> float:
        others = (positives + negatives) / 2 - 1
        spread = 1 + others * (1 - true) / (2 - true) + others * true / (1 + true)
        return (area - true) ** 2 - NORMAL_QUANTILE**2 * true * (1 - true) * spread / (positives * negatives)

    def end(beyond: float) -> float:
        within = area
        for _ in range(60):
            middle = (within + beyond) / 2
            within, beyond = (middle, beyond) if away(middle) < 0 else (within, middle)
        return within

    return Interval(area, 0.0 if area == 0 else end(0.0), 1.0 if area == 1 else end(1.0))


def described(record: dict[str, Any]) -> str:
    """The people and the rates, for a terminal."""
    lines = [record["rule"]]
    for row in sorted(record["patients"], key=lambda row: (row["label"], row["mean"])):
        ends = "no interval" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        wrong = "" if row["right"] else "  wrong side"
        lines.append(
            f"  {row['label']:4s} {row['group']:18s} {row['images']:5d} cells, {row['photographs']:4d} photographs: "
            f"{row['mean']:.3f} ({ends}), threshold {row['threshold']:.3f}: {row['called']}{wrong}"
        )
    lines.append("all people: " + _line(record) + f"  AUROC {_described(record['auroc'])}")
    lines.append(f"without the {record['undecided']} undecided: " + _line(record["decided"]))
    lines.append("at 0.5: " + _line(record["at_half"]))
    lines += [f"sigma {row['sigma']:g}: " + _line(row) for row in record["by_sigma"]]
    lines += [f"{row['cells']} cells: " + _line(row) for row in record["by_cells"]]
    lines += [f"{row['name']}: {_line(row)}  AUROC {_described(row['auroc'])}" for row in record["without_network"]]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    return "  ".join(f"{name} {_described(row[name])}" for name in ("sensitivity", "specificity"))


def _described(value: dict[str, float] | None) -> str:
    return "-" if value is None else f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.patient_evaluation", description=__doc__.splitlines()[0])
    parser.add_argument("folds", type=Path, help="folder of train.folds")
    parser.add_argument("--data", type=Path, required=True, help="the prepared dataset that they were trained on")
    parser.add_argument("--sigmas", type=float, nargs="+", default=list(SIGMAS))
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args(argv)
    try:
        record = measure(FoldNetworks.load(arguments.folds, arguments.data, arguments.cache), arguments.sigmas)
        if record is None:
            raise BlastlensError(
                f"{arguments.data} does not say whose images they are: nothing to decide about people."
            )
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    if arguments.out:
        write_json(arguments.out, record)
    print(described(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
