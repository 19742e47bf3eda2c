"""The block "probes" of metrics.json: what is left of a model's score when an image keeps only part of its content.

Each probe changes held-out images and evaluates the network that was not trained on their groups. Some changes leave
everything that matters, and the score must stay ("keeps"); others remove it, and the score must go ("loses"). The
limits and their reasons stand in the tables below; they were written before any network was evaluated.

"Keeps" is judged by the loss of weighted F1 on the same images. "Loses" is judged by AUROC, whose chance level is 0.5
whatever the shares of the classes, and which still finds what a network knows when all predictions fall on one side of
its threshold. Both are judged by the value; the interval says how certain it is. A network that has never seen such
images may fail to read what they still hold: a score that goes does not prove that there is no shortcut.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from blastlens import bootstrap
from blastlens.metrics import Interval
from train import probe_images
from train.baselines import without_network
from train.folds import FoldNetworks
from train.held_out import plain
from train.masks import cell_mask, nuclei_mask
from train.probe_images import QUALITY, SHIFT, Alter, Typical

SCORES = ("weighted_f1", "balanced_accuracy", "auroc")
REFERENCE_IMAGES = 300  # that say what a typical cell of a fold's training groups looks like
# AUROC of a score that knows nothing is 0.5; with some 35 groups, all images of a group alike, its standard deviation
# is about 0.1.
CHANCE = 0.6
# Points of weighted F1: one in a hundred predictions is what changes when nothing that matters does.
NOTHING = 0.01
SLIGHT = 0.02  # where resampling or compression takes a little detail as well


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


_GREY = Probe(
    "grey",
    "In grey",
    "Colour taken away, brightness kept.",
    "keeps",
    0.05,
    "Stain differs between laboratories; shape and texture, which define a blast, are all still there. Some loss is "
    "due, since the chromatin's colour is a sign as well.",
    probe_images.grey,
)
_QUARTER = Probe(
    "rotation_90",
    "Turned by 90°",
    "A quarter turn, no pixel changed.",
    "keeps",
    NOTHING,
    "A smear has no up or down.",
    probe_images.quarter_turn,
)
_JPEG = Probe(
    "jpeg",
    "Saved again as JPEG",
    f"Compressed at quality {QUALITY} and read again.",
    "keeps",
    SLIGHT,
    "A person sees no difference; a network that does has learnt how files were made.",
    probe_images.recompressed,
)


_EIGHTH = Probe(
    "rotation_45",
    "Turned by 45°",
    "An eighth of a turn, resampled; black beyond the border.",
    "keeps",
    SLIGHT,
    "A smear has no up or down; resampling takes a little detail.",
    probe_images.eighth_turn("constant"),
)
_SHIFT = Probe(
    "shift",
    "Off centre",
    f"Moved by {SHIFT:.0%} of the side in a random direction, as far as the cell does not leave the picture.",
    "keeps",
    SLIGHT,
    "Where in the picture a cell lies is the photographer's choice.",
    probe_images.shifted_cell,
)
_EIGHTH_OF_FIELD = "An eighth of a turn, resampled; mirrored beyond the border."
_SHIFT_OF_FIELD = f"Moved by {SHIFT:.0%} of the side in a random direction, mirrored where nothing is known."

CELLS = (
    _QUARTER,
    _EIGHTH,
    _SHIFT,
    _JPEG,
    Probe(
        "bar_added",
        "Scale bar added",
        "A white bar and digits in the lower right corner, which no published cell has.",
        "keeps",
        SLIGHT,
        "It is no part of the cell.",
        probe_images.with_bar,
    ),
    _GREY,
    Probe(
        "same_area",
        "All cells of one size",
        "Each cell enlarged or reduced to one area, midway between those typical of ALL and HEM; how sharp a cell is "
        "changes with it.",
        "keeps",
        0.1,
        "Blasts are larger, so some loss is due; but of the 0.25 to 0.35 by which a useful score exceeds that of one "
        "constant answer, most must come from elsewhere.",
        probe_images.same_area,
    ),
    Probe(
        "background",
        "Background only",
        "The cell painted black. What is left is black and what resampling left in it.",
        "loses",
        CHANCE,
        "Nothing of the cell is left.",
        probe_images.cell_painted_out,
    ),
    Probe(
        "silhouette",
        "Silhouette only",
        "The cell's outline filled with one colour, the training cells' mean.",
        "loses",
        "cell area",
        "Size is a sign, and an outline shows it; more than the area alone tells, without any network, would come from "
        "how cells were cut out.",
        probe_images.cell_silhouette,
    ),
    Probe(
        "disc",
        "Size only",
        "A disc of the cell's area in that colour.",
        "loses",
        "cell area",
        "All it shows is the area.",
        probe_images.disc,
    ),
    Probe(
        "shuffled",
        "Colour and size only",
        "The cell's pixels in random order within its outline: texture gone, its histogram kept.",
        "loses",
        HALF_OF_CLEAN,
        "Texture and inner structure make the difference between the cells; without them, at most half of what the "
        "model has above chance may be left.",
        probe_images.shuffled_cell,
    ),
)

FIELDS = (
    _QUARTER,
    replace(_EIGHTH, what=_EIGHTH_OF_FIELD, alter=probe_images.eighth_turn("reflect")),
    replace(_SHIFT, what=_SHIFT_OF_FIELD, alter=probe_images.shifted_field),
    _JPEG,
    Probe(
        "bar_covered",
        "Scale bar covered",
        "The lower right corner, where some fields have a scale bar, painted over with the colour around it.",
        "keeps",
        NOTHING,
        "The bar is no part of the smear, and which kind of bar a field has goes with its class.",
        probe_images.without_corner,
    ),
    _GREY,
    Probe(
        "corner",
        "Scale bar only",
        "Only that corner; the rest is one colour, the mean of the training fields' background.",
        "loses",
        CHANCE,
        "A fortieth of the field, most often a bar or background.",
        probe_images.only_corner,
    ),
    Probe(
        "background",
        "Background only",
        "Everything stained as nuclei are, found by colour, and the scale bar painted over with the field's own clear "
        "colour. Red cells and the slide's tint stay, and flat patches where nuclei were.",
        "loses",
        CHANCE,
        "The classes are defined by the nucleated cells, none of which is left.",
        probe_images.nuclei_painted_out,
    ),
    Probe(
        "silhouette",
        "Silhouettes only",
        "The outlines of what is stained as nuclei are, in one colour on one background, the training fields' means.",
        "loses",
        "nuclear area",
        "How many nuclei there are and how large is how the slide was photographed as much as it is disease; more than "
        "their total area alone tells, without any network, would come from that.",
        probe_images.nuclei_silhouettes,
    ),
    Probe(
        "shuffled",
        "Colour only",
        "All pixels in random order (scale bar covered): nothing but the colour histogram is left.",
        "loses",
        HALF_OF_CLEAN,
        "Each class of this data set was photographed under its own conditions, so colour tells them apart without "
        "telling anything about cells; at most half of what the model has above chance may be left.",
        probe_images.shuffled_field,
    ),
)
PROBES = {"cnmc2019": CELLS, "aria2021": FIELDS}

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
