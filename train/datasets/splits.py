"""Splits of a prepared dataset: pure functions of the rows, the protocol and the seed.

An *image-level* split puts cells of one donor, or fields of one slide, on both sides and flatters every model; it is
here because the papers report it. A *group-level* split keeps groups whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from blastlens.errors import BlastlensError
from train.datasets.layouts import OFFICIAL_TEST
from train.datasets.rows import Row, labels_of

PROTOCOLS = (
    "image-70-10-20-per-fold",
    "image-70-15-15",
    "image-80-10-10",
    "image-10fold",
    "group-kfold:K",
    "group-leave-out:NAMES",
    "group-official",
    "all",
)
OFFICIAL = "group-official"
RESTARTS = 20  # greedy placements of groups, of which the best is taken; with many more, seeds hardly differ
GROUP_COUNT_WEIGHT = 0.1  # of balancing the number of groups, against balancing the number of images

_Indices = NDArray[np.intp]
_Parts = tuple[_Indices, _Indices, _Indices]  # train, val, test


@dataclass(frozen=True)
class Split:
    """Indices into the rows, sorted; `val` is empty where the protocol has no validation part."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    protocol: str
    fold: int
    seed: int


def make_splits(protocol: str, rows: Sequence[Row], seed: int) -> list[Split]:
    """Split `rows`, stratified by label; item k is fold k. Same rows, protocol and seed, same splits.

    ========================  ==============================================================================
    image-70-10-20-per-fold   images within each official fold, one split per fold (P4, MobileNet_M)
    image-70-15-15            images, of byte-identical copies only the first (P0)
    image-80-10-10            images (P1)
    image-10fold              images, ten splits, no validation part (P2)
    group-kfold:K             whole groups, K splits, no validation part; K is 2 or more
    group-leave-out:A,B,...   the groups A, B, ... are the test part, all others the training part
    group-official            the published test set (the fold "preliminary") is the test part; training images that
                              share a group with it are in no part
    all                       everything is training, for the model that is published
    ========================  ==============================================================================

    Percentages are of each label's images, rounded down; the rest is the test part. Images and groups of each label
    are spread over the parts as evenly as groups of very different sizes allow; a part has at least two groups of each
    label where there are twice as many groups as parts.

    Raises BlastlensError for an unknown protocol, rows without a label, too few groups or no official folds, and rows
    by which byte-identical images are in different groups.
    """
    names, labels = labels_of(rows)
    splits = []
    for fold, parts in enumerate(_parts(protocol, rows, names, labels, np.random.default_rng(seed))):
        train, val, test = (tuple(np.sort(indices).tolist()) for indices in parts)
        splits.append(Split(train, val, test, protocol, fold, seed))
        check_split(splits[-1], rows)
    return splits


def with_validation(split: Split, rows: Sequence[Row], share: float) -> Split:
    """The same split with about `share` of its training part as validation part, unless it has one already.

    Images, stratified by label, of an image-level split; whole groups, at least one of each label, of a group-level
    one. The test part stays as it is. Raises BlastlensError where there are too few groups.
    """
    if split.val or not share:
        return split
    members = [rows[i] for i in split.train]
    names, labels = labels_of(members)
    rng = np.random.default_rng([split.seed, split.fold])
    if split.protocol.startswith("group-"):
        part = _groups_placed(members, names, labels, np.array([1 - share, share]), rng)
        held = np.flatnonzero(part == 1)
    else:
        shuffled = [rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)]
        held = np.concatenate([images[: max(1, round(share * len(images)))] for images in shuffled])
    val = tuple(np.sort(np.array(split.train)[held]).tolist())
    result = replace(split, train=tuple(sorted(set(split.train) - set(val))), val=val)
    check_split(result, rows)
    return result


def check_split(split: Split, rows: Sequence[Row]) -> None:
    """Raise BlastlensError where a row is in two parts of `split`, or, in a group-level one, where a row is
    in no part or where a group or two byte-identical images are in two.
    """
    by_group = split.protocol.startswith("group-")
    seen: dict[tuple[str, str], tuple[str, int]] = {}
    for part, indices in (("train", split.train), ("val", split.val), ("test", split.test)):
        for i in indices:
            keys = [("index", str(i))]
            if by_group:
                keys += [("group", rows[i].group), ("sha256", rows[i].sha256)]
            for key in keys:
                other, j = seen.setdefault(key, (part, i))
                if other != part:
                    raise BlastlensError(
                        f"{split.protocol}: {rows[j].file_name} in {other} and {rows[i].file_name} in {part} "
                        f"both have {key[0]} {key[1]}; prepare the dataset again to link its groups."
                    )
    placed = len(split.train) + len(split.val) + len(split.test)
    if by_group and split.protocol != OFFICIAL and placed != len(rows):
        raise BlastlensError(f"{split.protocol}: {len(rows) - placed} of {len(rows)} rows are in no part.")


def _parts(
    protocol: str, rows: Sequence[Row], names: Sequence[str], labels: NDArray[np.int64], rng: np.random.Generator
) -> list[_Parts]:
    everything, nothing = np.arange(len(rows)), np.arange(0)
    match protocol.split(":"):
        case ["image-70-10-20-per-fold"]:
            folds = np.array([row.fold for row in rows])
            if not all(folds):
                raise BlastlensError("image-70-10-20-per-fold splits each official fold, and these rows have none.")
            return [_by_percent(np.flatnonzero(folds == k), labels, 70, 10, rng) for k in np.unique(folds)]
        case ["image-70-15-15"]:
            first = np.unique([row.sha256 for row in rows], return_index=True)[1]  # of byte-identical copies
            return [_by_percent(np.sort(first), labels, 70, 15, rng)]
        case ["image-80-10-10"]:
            return [_by_percent(everything, labels, 80, 10, rng)]
        case ["image-10fold"]:
            part = _dealt(labels, 10, rng)
            return [(np.flatnonzero(part != k), nothing, np.flatnonzero(part == k)) for k in range(10)]
        case ["group-kfold", number] if number.isdecimal() and int(number) >= 2:
            part = _groups_placed(rows, names, labels, np.full(int(number), 1 / int(number)), rng)
            return [(np.flatnonzero(part != k), nothing, np.flatnonzero(part == k)) for k in range(int(number))]
        case ["group-leave-out", left_out]:
            groups = np.array([row.group for row in rows])
            if unknown := set(left_out.split(",")) - set(groups):
                raise BlastlensError(f"There is no group {', '.join(sorted(unknown))}; give groups of the images.")
            test = np.isin(groups, left_out.split(","))
            return [(np.flatnonzero(~test), nothing, np.flatnonzero(test))]
        case [protocol_name] if protocol_name == OFFICIAL:
            test = np.array([row.fold == OFFICIAL_TEST for row in rows])
            if not test.any() or test.all():
                raise BlastlensError(
                    "The official protocol tests on the preliminary test set of C-NMC 2019, and there is none here; "
                    "give the published download, or what `python -m train.datasets prepare cnmc2019-official` wrote."
                )
            tested = {row.group for row, mine in zip(rows, test, strict=True) if mine}
            train = np.array([row.group not in tested for row in rows])
            return [(np.flatnonzero(train), nothing, np.flatnonzero(test))]
        case ["all"]:
            return [(everything, nothing, nothing)]
    raise BlastlensError(f"{protocol!r} is no split protocol; accepted are {', '.join(PROTOCOLS)}.")


def _by_percent(members: _Indices, labels: NDArray[np.int64], train: int, val: int, rng: np.random.Generator) -> _Parts:
    parts: list[list[_Indices]] = []
    for label in np.unique(labels[members]):
        shuffled = rng.permutation(members[labels[members] == label])
        n = len(shuffled)
        end_of_train = n * train // 100
        parts.append(np.split(shuffled, [end_of_train, end_of_train + n * val // 100]))
    in_train, in_val, in_test = (np.concatenate(part) for part in zip(*parts, strict=True))
    return in_train, in_val, in_test


def _dealt(labels: NDArray[np.int64], k: int, rng: np.random.Generator) -> _Indices:
    """The part, 0..k-1, of each image: label by label, each shuffled, dealt round."""
    order = np.concatenate([rng.permutation(np.flatnonzero(labels == label)) for label in np.unique(labels)])
    part = np.empty(len(labels), dtype=np.intp)
    part[order] = np.arange(len(order)) % k
    return part


def _groups_placed(
    rows: Sequence[Row],
    names: Sequence[str],
    labels: NDArray[np.int64],
    fractions: NDArray[np.float64],
    rng: np.random.Generator,
) -> _Indices:
    """The part, 0..K-1, of each row, all rows of a group in one; `fractions` (K,) are the wanted shares."""
    group_names, group = np.unique([row.group for row in rows], return_inverse=True)
    images = np.zeros((len(group_names), len(names)))
    np.add.at(images, (group, labels), 1)
    images = images[:, images.sum(axis=0) > 0]
    groups_per_label = np.count_nonzero(images, axis=0)
    if groups_per_label.min() < len(fractions):
        label = names[np.unique(labels)[groups_per_label.argmin()]]
        raise BlastlensError(f"{label} has {groups_per_label.min()} groups, too few to fill {len(fractions)} parts.")
    return _best_placement(images, fractions, rng)[group]


def _best_placement(images: NDArray[np.float64], fractions: NDArray[np.float64], rng: np.random.Generator) -> _Indices:
    """Place groups with `images` (G, C) images per label into K parts; returns each group's part (G,).

    Greedy, largest group first, into the part that leaves the squared deviations from the wanted shares smallest,
    unless another part needs the group to have its two; the best of `RESTARTS` perturbed orders is taken.
    """
    present = (images > 0).astype(float)
    # What is balanced: the share of each label's images and, with less weight, of its groups: (G, 2C).
    load = np.hstack([images / images.sum(axis=0), present / present.sum(axis=0)])
    weight = np.repeat([1.0, GROUP_COUNT_WEIGHT], images.shape[1])
    wanted = np.outer(fractions, np.ones(load.shape[1]))
    size = images.sum(axis=1) * np.exp(rng.normal(0, 0.5, (RESTARTS, len(images))))
    order = np.argsort(-size, axis=1)
    filled = np.zeros((RESTARTS, *wanted.shape))
    # How many groups of each label a part still needs, and how many are left to give: (R, K, C) and (R, C).
    needed = np.zeros((RESTARTS, len(fractions), images.shape[1]))
    needed += np.minimum(2, present.sum(axis=0) // len(fractions))
    left = np.tile(present.sum(axis=0), (RESTARTS, 1))
    placement = np.empty((RESTARTS, len(images)), dtype=np.intp)
    restart = np.arange(RESTARTS)
    for group in order.T:
        added = load[group][:, None, :]
        cost = (weight * added * (added + 2 * (filled - wanted))).sum(axis=2)
        spoken_for = present[group] * (needed.sum(axis=1) >= left)
        cost[(spoken_for[:, None, :] * (needed <= 0)).any(axis=2)] = np.inf
        part = cost.argmin(axis=1)
        filled[restart, part] += load[group]
        needed[restart, part] = np.maximum(needed[restart, part] - present[group], 0)
        left -= present[group]
        placement[restart, group] = part
    deviation = (weight * (filled - wanted) ** 2).sum(axis=(1, 2))
    return placement[deviation.argmin()]
