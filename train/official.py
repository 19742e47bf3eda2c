"""Scores on the published test set of C-NMC 2019, see docs/reproduce.md."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blastlens.donor_metrics import DonorScores
from train.cell_features import FEATURE_SETS, LogisticModel, columns, dataset_features
from train.datasets import Row, dataset_hash, labels_of
from train.datasets.splits import OFFICIAL, make_splits
from train.held_out import POSITIVE
from train.report.measured import choose, donor_scores
from train.results import load_results

SCORES = ("auroc", "auroc_per_donor", "sensitivity", "specificity", "weighted_f1")


def official_table(results: Path, data: Path, rows: Sequence[Row], cache: Path) -> str:
    """Scores of the recorded runs of the official protocol on the images of `rows`, and of the baselines without a
    network, with 95 % intervals over subjects, as text."""
    (split,) = make_splits(OFFICIAL, rows, 0)
    train, test = list(split.train), list(split.test)
    _, labels = labels_of(rows)
    groups, features = np.array([row.group for row in rows]), dataset_features(data, rows, cache)
    found = {}
    for name in ("area", "five"):
        numbers = features[:, columns(name)]
        score = LogisticModel.fit(numbers[train], labels[train], groups[train].tolist()).probabilities(numbers[test])
        title = f"baseline: {', '.join(FEATURE_SETS[name])}"
        found[title] = DonorScores.of(labels[test] == POSITIVE, score[:, POSITIVE], groups[test]).summary()
    for (name, protocol), runs in choose(load_results(results)).items():
        if protocol == OFFICIAL and runs.first.dataset["hash"] == dataset_hash(rows):
            shortened = f" ({', '.join(f'{k} {v}' for k, v in runs.first.changes.items())})"
            found[name + shortened * bool(runs.first.changes)] = donor_scores(runs, calibrated=False)
    any_ = next(iter(found.values()))
    lines = [
        f"{len(train):,} training images; tested on {len(test):,} of {any_['healthy_donors']} healthy donors and "
        f"{any_['subjects']} subjects with ALL; {len(rows) - len(train) - len(test):,} training images of test donors "
        "left out",
        "  ".join(f"{name:>24}" for name in SCORES),
    ]
    for name, scores in found.items():
        cells = (f"{s.value:.3f} ({s.low:.3f} to {s.high:.3f})" for s in map(scores.get, SCORES))
        lines.append("  ".join(f"{cell:>24}" for cell in cells) + f"  {name}")
    return "\n".join(lines)
