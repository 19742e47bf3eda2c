"""The block "probes" of metrics.json: what is left of a model's score when an image keeps only part of its content.

Each probe changes held-out images and evaluates the network that was not trained on their groups. Some changes leave
everything that matters, and the score must stay ("keeps"); others remove it, and the score must go ("loses"). The
limits and their reasons stand in `probes.yaml`; they were written before any network was evaluated.

"Keeps" is judged by the loss of weighted F1 on the same images. "Loses" is judged by AUROC, whose chance level is 0.5
whatever the shares of the classes, and which still finds what a network knows when all predictions fall on one side of
its threshold. Both are judged by the value; the interval says how certain it is. A network that has never seen such
images may fail to read what they still hold: a score that goes does not prove that there is no shortcut.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from blastlens import bootstrap
from blastlens.metrics import Interval
from train import probe_images
from train.baselines import without_network
from train.folds import FoldNetworks
from train.held_out import plain
from train.masks import cell_mask, nuclei_mask
from train.probe_images import Alter, Typical

SCORES = ("weighted_f1", "balanced_accuracy", "auroc")
REFERENCE_IMAGES = 300  # that say what a typical cell of a fold's training groups looks like
# AUROC of a score that knows nothing is 0.5; with some 35 groups, all images of a group alike, its standard deviation
# is about 0.1.
CHANCE = 0.6
HALF_OF_CLEAN = "half of clean"


@dataclass(frozen=True)
class Probe:
    """One change, and what must happen to the score.

    Attributes:
        name, title, what: for records, for tables, and in one sentence.
        expect: whether the score "keeps" or "loses".
        limit: for "keeps" the largest loss of weighted F1. For "loses" the largest AUROC: a number; the name of a
            baseline, for what one property alone tells without a network, at least `CHANCE`; or `HALF_OF_CLEAN`, half
            of what the network has above chance.
        reason: of that limit.
    """

    name: str
    title: str
    what: str
    expect: Literal["keeps", "loses"]
    limit: float | str
    reason: str
    alter: Alter


def _read(file: Path) -> dict[str, tuple[Probe, ...]]:
    probes = yaml.safe_load(file.read_text(encoding="utf-8"))
    return {
        dataset: tuple(Probe(**one | {"alter": getattr(probe_images, one["alter"])}) for one in of_it)
        for dataset, of_it in probes.items()
    }


PROBES = _read(Path(__file__).with_name("probes.yaml"))  # by data set

# What desaturating only one class does; a training set that holds grey copies of HEM alone teaches "grey is healthy".
GREYED = (
    ("hem_desaturated", "HEM desaturated only", (1,)),
    ("all_desaturated", "ALL desaturated only", (0,)),
    ("both_desaturated", "ALL and HEM desaturated", (0, 1)),
)
GREY_LIMIT = 0.1
GREY_REASON = (
    "Colour is a sign as well, so that a few cells may change sides without it; a model that takes grey itself as a "
    "sign changes most of them."
)


def measure(networks: FoldNetworks, every: int = 1) -> dict[str, Any]:
    """Return "probes" of metrics.json, from one image in `every` of each group; baselines are fitted on all training
    images.

    Returns:
        `rows`, one per probe: `measure` names what `limit` is on ("difference" or "auroc"), `reason` says why.
        `without_network`: baselines on the same folds and images. `grey_is_healthy`, for ALL or HEM only: see there.
    """
    index, dataset = networks.every(every), networks.recipe.dataset
    labels, groups = networks.labels[index], networks.groups[index]
    typical = [_typical(networks, k) for k in range(len(networks.splits))]
    baselines = {
        name: _scores(networks, index, probabilities[index])
        for name, probabilities in without_network(networks).items()
    }
    clean = networks.held_out(index=index, what="unchanged").probabilities
    before = _scores(networks, index, clean)
    auroc = {"clean": before["auroc"].value} | {name: scores["auroc"].value for name, scores in baselines.items()}
    rows = []
    for probe in PROBES[dataset]:

        def change(view: np.ndarray, row: int, alter: Alter = probe.alter) -> np.ndarray:
            return alter(view, typical[networks.fold_of[row]], np.random.default_rng([networks.seed, row]))

        found = networks.held_out(change, index, probe.title).probabilities
        after = _scores(networks, index, found)
        difference = bootstrap.difference(labels, found, clean, groups)
        limit, keeps = _limit(probe.limit, auroc), probe.expect == "keeps"
        rows.append(
            {
                "probe": probe.name,
                "title": probe.title,
                "expect": probe.expect,
                "what": probe.what,
                **after,
                "difference": difference,
                "measure": "difference" if keeps else "auroc",
                "limit": limit,
                "reason": probe.reason,
                "passed": bool(difference.value >= -limit if keeps else after["auroc"].value <= limit),
            }
        )
    record = {
        "protocol": networks.protocol,
        "seed": networks.seed,
        "every": every,
        "images": len(index),
        "clean": before,
        "rows": rows,
        "without_network": [{"name": name, **scores} for name, scores in baselines.items()],
    }
    if dataset == "cnmc2019":
        record["grey_is_healthy"] = grey_is_healthy(networks, index, clean)
    return plain(record)


def grey_is_healthy(networks: FoldNetworks, index: np.ndarray, in_colour: np.ndarray) -> dict[str, Any]:
    """Return the effect of desaturating one class, as the MobileNet_M paper does to HEM for training.

    Args:
        index: (n,) rows. in_colour: (n, 2), their held-out probabilities of ALL and HEM.

    Returns:
        `called_HEM_in_colour`, `called_HEM_in_grey`: share of the ALL images that are classified as HEM; `difference`,
        the latter minus the former; `limit` on it, `reason` and `passed`. `rows`: the scores with HEM, ALL or both
        desaturated: where grey means healthy, desaturating HEM only raises them and desaturating ALL only lowers them.
    """
    labels, groups = networks.labels[index], networks.groups[index]

    def desaturated(view: np.ndarray, _: int) -> np.ndarray:
        return np.repeat(view.max(axis=2, keepdims=True), 3, axis=2)

    in_grey = networks.held_out(desaturated, index, "desaturated").probabilities
    all_ = labels == 0

    def as_hem(probabilities: np.ndarray) -> Interval:
        return bootstrap.mean(probabilities.argmax(axis=1) == 1, labels, groups, all_)

    # Fewer ALL are right in grey, so more are classified as HEM: colour minus grey in accuracy.
    difference = bootstrap.difference(labels[all_], in_colour[all_], in_grey[all_], groups[all_], metric="accuracy")
    rows = []
    for name, title, classes in GREYED:
        mixed = np.where(np.isin(labels, classes)[:, None], in_grey, in_colour)
        changed = bootstrap.difference(labels, mixed, in_colour, groups)
        rows.append({"probe": name, "title": title, **_scores(networks, index, mixed), "difference": changed})
    return {
        "called_HEM_in_colour": as_hem(in_colour),
        "called_HEM_in_grey": as_hem(in_grey),
        "difference": difference,
        "limit": GREY_LIMIT,
        "reason": GREY_REASON,
        "passed": bool(difference.value <= GREY_LIMIT),
        "rows": rows,
    }


def _limit(limit: float | str, auroc: Mapping[str, float]) -> float:
    if limit == HALF_OF_CLEAN:
        return 0.5 + (auroc["clean"] - 0.5) / 2
    return max(CHANCE, auroc[limit]) if isinstance(limit, str) else limit


def _typical(networks: FoldNetworks, fold: int) -> Typical:
    """From evenly spread training images of the fold."""
    train = np.sort(networks.splits[fold].train)
    chosen = train[:: max(1, len(train) // REFERENCE_IMAGES)]
    views = np.asarray(networks.pixels[chosen])
    cells = networks.recipe.dataset == "cnmc2019"
    masks = np.stack([(cell_mask if cells else nuclei_mask)(view) for view in views])
    inside = views[masks].mean(axis=0) if masks.any() else np.zeros(3)
    outside = views[~masks].mean(axis=0) if not cells and not masks.all() else np.zeros(3)
    # Between the classes, however many images each has: the median of all would be the larger class's.
    areas, labels = masks.sum(axis=(1, 2)).clip(1), networks.labels[chosen]
    area = float(np.exp(np.mean([np.log(np.median(areas[labels == c])) for c in np.unique(labels)])))
    return Typical(area, np.rint(inside).astype(np.uint8), np.rint(outside).astype(np.uint8))


def _scores(networks: FoldNetworks, index: np.ndarray, probabilities: np.ndarray) -> dict[str, Interval]:
    labels, groups, names = networks.labels[index], networks.groups[index], networks.label_names
    report = bootstrap.summary(labels, probabilities, groups, names, positive=0 if len(names) == 2 else None)
    return {key: report[key] for key in SCORES}
