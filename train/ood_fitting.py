"""Model folder + its training images -> gate.json and gate.safetensors: the input gate, and how often it is wrong.

    python -m train.ood_fitting models/mobilenetv1-cnmc2019 --data DIR --folds results/folds/mobilenet_m-cnmc2019 \\
        --strangers PHOTOS FIELDS

**Statistics.** Each range reaches from a low to a high quantile of the training images, and of the same images as
another microscope, camera or file could have given them (`strangers.VARIED`). It is widened on both sides by a margin.
All margins begin small, as room for groups beyond those that the ranges are from; in group cross-validation, the
statistic that alone refuses most images gets the next wider one, again and again, until no more than the target is
refused: `STATISTICS_TARGET`, or all of `TARGET` where no features are scored.

**Features.** The distribution of pooled features is fitted to training images, and to varied ones, through the network
that serves. Its limit is where `FEATURES_TARGET` of the held-out images would be refused, each scored by a fold network
that was not trained on its group, with the distribution of that network's own training images. The network that serves
was fitted on everything; that its scores of new people lie where the fold networks' do is an assumption, since nothing
is held out from it.

**What is reported.** For each fold, a gate of its own: ranges and distribution from its training groups, limit from the
*other* folds' held-out scores. These gates are measured on held-out images, as they are, varied and spoilt, and on
strangers; the gate that is written is measured on the strangers, too, none of which any part of the fit has seen.
Without `--folds`, or where the network has no features, the gate goes by statistics alone.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from blastlens.errors import BlastlensError
from blastlens.images import open_image
from blastlens.inference import load_backend, usable_cores
from blastlens.integrity import digests
from blastlens.model_folder import GATE_FEATURES, GATE_FILES, ModelFolder
from blastlens.ood_detection import SCHEMA, STATISTICS, FeatureScore, Gate, statistics_of
from blastlens.synthetic_images import draw_cell, draw_field
from blastlens.view import View
from train.datasets import Row, dataset_hash, labels_of, load_rows
from train.datasets.splits import Split, make_splits
from train.feature_score import DIRECTIONS, fit_features, write_features
from train.files import write_json
from train.folds import FoldNetworks
from train.ood_test_images import DRAWN, SPOILT, VARIED
from train.pixels import load_pixels

# Shares of held-out images that may be refused, at most: in all, and by either part of the gate.
TARGET = 0.01
STATISTICS_TARGET = FEATURES_TARGET = TARGET / 2
QUANTILE = 0.005  # a single freak image shall not set a range
LEAST_MARGIN, MARGIN_STEP, WIDEST = 0.1, 0.05, 2.0  # in widths of the quantile range
FOLDS = 5
# How many images are enough, evenly spread: to fit a distribution, and to measure a rate.
FITTED_ON, VARIED_IMAGES, SPOILT_IMAGES, IMAGES_PER_FOLDER = 1000, 1000, 300, 300
# By a model's labels: what its images are called, and how one of them is drawn.
KINDS = {("ALL", "HEM"): ("cells", draw_cell), ("Benign", "Early", "Pre", "Pro"): ("fields", draw_field)}
DRAWN_PER_LABEL = 40
LISTED = 20  # of the images that a gate got wrong
BATCH = 16
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

_GRAIN = np.array([statistic.grain for statistic in STATISTICS.values()])

Network = Callable[[np.ndarray], np.ndarray]  # views uint8 (n, S, S, 3) to features (n, F)


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of training images, as they are and varied.

    Attributes:
        rows: N images.
        values: (N, K), in the order of STATISTICS.
        sample: (n,) positions of the images that were varied, ascending.
        varied: (V, n, K), of these images changed in V ways; V may be 0.
    """

    rows: Sequence[Row]
    values: np.ndarray
    sample: np.ndarray
    varied: np.ndarray

    def only(self, index: Sequence[int]) -> "Statistics":
        """Those of some of the images; `index` ascends."""
        inside = np.isin(self.sample, index)
        return Statistics(
            [self.rows[i] for i in index],
            self.values[list(index)],
            np.searchsorted(index, self.sample[inside]),
            self.varied[:, inside],
        )

    def extent(self) -> np.ndarray:
        """Lows and highs (2, K): the quantiles of every way in which the images were varied, taken together."""
        ways = [self.values, *(way for way in self.varied if len(way))]
        found = np.array([np.nanquantile(way, [QUANTILE, 1 - QUANTILE], axis=0) for way in ways])
        return np.stack([found[:, 0].min(axis=0), found[:, 1].max(axis=0)])

    def margins(self, target: float) -> np.ndarray:
        """The margins (K,), each as small as can be, with which at most `target` is refused in group cross-validation.

        Raises:
            BlastlensError: none are wide enough.
        """
        parts = [
            (self.values[list(split.test)], self.only(split.train).extent())
            for split in make_splits(f"group-kfold:{FOLDS}", self.rows, seed=0)
        ]
        margins = np.full(len(STATISTICS), LEAST_MARGIN)
        while True:
            refused = np.concatenate([outside(test, widened(extent, margins)) for test, extent in parts])
            if np.count_nonzero(refused.any(axis=1)) <= target * len(refused):
                return margins
            # Images that several statistics refuse need all of those widened: they count for each, but for less.
            counts = (refused / np.maximum(refused.sum(axis=1, keepdims=True), 1)).sum(axis=0)
            most = int(counts.argmax())
            margins[most] = round(margins[most] + MARGIN_STEP, 4)
            if margins[most] > WIDEST:
                raise BlastlensError(
                    f"Even a margin of {WIDEST:g} widths refuses more than {target:.1%} of held-out images."
                )

    def ranges(self, target: float) -> np.ndarray:
        """Lows and highs (2, K) of the gate that these images make."""
        return widened(self.extent(), self.margins(target))


def widened(extent: np.ndarray, margins: np.ndarray | float) -> np.ndarray:
    """Lows and highs (2, K), further apart by twice the margins (K,), in widths, and by two grains at least."""
    slack = np.maximum(margins * (extent[1] - extent[0]), _GRAIN)
    return np.stack([extent[0] - slack, extent[1] + slack])


def outside(values: np.ndarray, ranges: np.ndarray) -> np.ndarray:
    """Bool (N, K): which statistic of which image is out of range; NaN never is."""
    return (values < ranges[0]) | (values > ranges[1])


def gate_of(images: str, ranges: np.ndarray, features: FeatureScore | None = None) -> Gate:
    """A gate of ranges (2, K), in the order of STATISTICS."""
    limits = {name: (float(low), float(high)) for name, low, high in zip(STATISTICS, *ranges, strict=True)}
    return Gate(images, limits, features)


@dataclass(frozen=True, eq=False)
class Judges:
    """A gate per fold, which is asked about nobody that shaped it, and the evidence that they are made from.

    Attributes:
        gates: one per fold.
        networks: one per fold; empty where the gates go by statistics alone.
        fold_of: (N,) whose gate is asked about which training image.
        refused: bool (N, K + 1), by statistic and, last, by features.
        scores: (N,) of held-out features; empty where there are none.
        limit: of the feature score, from all held-out images.
    """

    gates: tuple[Gate, ...]
    networks: tuple[Network, ...]
    fold_of: np.ndarray
    refused: np.ndarray
    scores: np.ndarray
    limit: float

    def judge(self, fold: int, views: Sequence[np.ndarray]) -> list[tuple[str, ...]]:
        """The reasons of one fold's gate against each view; none where it fits."""
        return reasons(self.gates[fold], self.networks[fold] if self.networks else None, views)


def reasons(gate: Gate, network: Network | None, views: Sequence[np.ndarray]) -> list[tuple[str, ...]]:
    """What a gate has against each of some views, uint8 (S, S, 3); nothing where it fits."""
    if not len(views):
        return []
    features = network(np.stack(views)) if network else [None] * len(views)
    with ThreadPoolExecutor(usable_cores()) as pool:
        return [verdict.reasons for verdict in pool.map(gate.judge, views, features)]


def judges(statistics: Statistics, splits: Sequence[Split], images: str, evidence: "Features | None" = None) -> Judges:
    """Fit a gate per fold and hold each image against the one that its group had no part in."""
    fold_of = np.full(len(statistics.rows), -1)
    refused = np.zeros((len(statistics.rows), len(STATISTICS) + 1), bool)
    gates = []
    for k, split in enumerate(splits):
        test = list(split.test)
        fold_of[test] = k
        ranges = statistics.only(split.train).ranges(STATISTICS_TARGET if evidence else TARGET)
        refused[test, :-1] = outside(statistics.values[test], ranges)
        features = evidence.scores[k] if evidence else None
        if evidence and features:
            features = replace(features, limit=limit_of(evidence.held_out[evidence.fold_of != k]))
            refused[test, -1] = evidence.held_out[test] > features.limit
        gates.append(gate_of(images, ranges, features))
    if not evidence:
        return Judges(tuple(gates), (), fold_of, refused, np.empty(0), float("inf"))
    return Judges(tuple(gates), evidence.networks, fold_of, refused, evidence.held_out, limit_of(evidence.held_out))


def limit_of(scores: np.ndarray) -> float:
    """The score that FEATURES_TARGET of these exceed."""
    return float(np.quantile(scores, 1 - FEATURES_TARGET))


@dataclass(frozen=True, eq=False)
class Features:
    """What the fold networks see.

    Attributes:
        networks: one per fold, and scores: the distribution of its training images' features.
        fold_of: (N,) which network was not trained on an image's group.
        held_out: (N,) that network's score of the image.
    """

    networks: tuple[Network, ...]
    scores: tuple[FeatureScore, ...]
    fold_of: np.ndarray
    held_out: np.ndarray

    @classmethod
    def of(cls, networks: FoldNetworks) -> "Features | None":
        """Ask the fold networks about their training images and about those held out; None without features."""
        answers = networks.held_out(what="held-out features")
        if not answers.features.shape[1]:
            return None
        asked = tuple(_fold_network(networks, k) for k in range(len(networks.splits)))
        scores = []
        for k, split in enumerate(tqdm(networks.splits, desc="training features", unit="fold")):
            views = networks.pixels[evenly(split.train, FITTED_ON)]
            scores.append(fit_features(asked[k](with_varied(views))))
        held_out = np.empty(len(networks.rows))
        for k, score in enumerate(scores):
            mine = networks.fold_of == k
            held_out[mine] = score.of(answers.features[mine])
        return cls(asked, tuple(scores), networks.fold_of, held_out)


def _fold_network(networks: FoldNetworks, fold: int) -> Network:
    def ask(views: np.ndarray) -> np.ndarray:
        parts = [views[start : start + BATCH] for start in range(0, len(views), BATCH)]
        with ThreadPoolExecutor(usable_cores()) as pool:
            return np.concatenate([found for _, found in pool.map(lambda part: networks.of_views(fold, part), parts)])

    return ask


def evenly(index: Sequence[int], count: int) -> np.ndarray:
    """At most `count` of some numbers, evenly spread over them."""
    return np.asarray(index)[np.unique(np.linspace(0, len(index) - 1, count).astype(int))]


def with_varied(views: np.ndarray) -> np.ndarray:
    """Views (n, S, S, 3), and half of them again, each varied in one of the ways of VARIED in turn."""
    ways = list(VARIED.values())
    half = np.asarray(views[::2])
    return np.concatenate([views, np.stack([ways[i % len(ways)](view) for i, view in enumerate(half)])])


def statistics_of_all(
    pixels: np.ndarray, index: Sequence[int] | np.ndarray, change: Callable[[np.ndarray], np.ndarray], what: str
) -> np.ndarray:
    """Statistics (n, K) of some views of (N, S, S, 3), each changed first."""

    def one(i: int) -> list[float]:
        return list(statistics_of(change(np.asarray(pixels[i]))).values())

    with ThreadPoolExecutor(usable_cores()) as pool:
        return np.array(list(tqdm(pool.map(one, index), total=len(index), desc=what)))


# Measuring ------------------------------------------------------------------------------------------------------------


def rate(found: Sequence[tuple[str, ...]], names: Sequence[str], wrong: bool | None = None) -> dict[str, Any]:
    """How many images were refused, and the names of those judged wrongly.

    Args:
        found: reasons by image.
        names: of the images.
        wrong: what would be wrong, to be refused or not to be; None where neither is.
    """
    refused = sum(map(bool, found))
    told: dict[str, Any] = {
        "images": len(found),
        "refused": refused,
        "rate": round(refused / max(1, len(found)), 5),
    }
    if wrong is not None:
        told["wrong"] = [
            {"image": name, "reasons": list(why)} for name, why in zip(names, found, strict=True) if bool(why) is wrong
        ][:LISTED]
    return told


def held_out_record(found: Judges, rows: Sequence[Row], protocol: str) -> dict[str, Any]:
    """Refusals of training images by gates that their group had no part in."""
    groups = np.array([row.group for row in rows])
    refused = found.refused.any(axis=1)
    by_group = {str(group): float(refused[groups == group].mean()) for group in np.unique(groups)}
    worst = max(by_group, key=lambda group: by_group[group])
    checks = [*STATISTICS, "features"]
    return {
        "protocol": protocol,
        "images": len(rows),
        "refused": int(refused.sum()),
        "rate": round(float(refused.mean()), 5),
        "mean_rate_of_groups": round(float(np.mean(list(by_group.values()))), 5),
        "worst_group": {"group": worst, "images": int((groups == worst).sum()), "rate": round(by_group[worst], 5)},
        "by_statistic": {name: int(n) for name, n in zip(checks, found.refused.sum(axis=0), strict=True) if n},
        "by_features_alone": int((found.refused[:, -1] & ~found.refused[:, :-1].any(axis=1)).sum()),
        "wrong": [
            {"image": rows[i].file_name, "reasons": [checks[j] for j in np.flatnonzero(found.refused[i])]}
            for i in np.flatnonzero(refused)
        ][:LISTED],
    }


def changed_record(
    found: Judges,
    rows: Sequence[Row],
    pixels: np.ndarray,
    index: np.ndarray,
    changes: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]],
    wrong: bool | None,
) -> dict[str, Any]:
    """Refusals of held-out images that were changed, by name of the change.

    Args:
        index: (n,) of the images; each is given with another one of its fold.
        changes: two views to one.
        wrong: as for `rate`.
    """
    told = {}
    for name, change in tqdm(changes.items(), desc="changed images"):
        why: dict[int, tuple[str, ...]] = {}
        for fold in np.unique(found.fold_of[index]):
            mine = index[found.fold_of[index] == fold]
            pairs = zip(mine, np.roll(mine, 7), strict=True)
            views = [change(np.asarray(pixels[i]), np.asarray(pixels[j])) for i, j in pairs]
            why |= dict(zip(mine.tolist(), found.judge(int(fold), views), strict=True))
        told[name] = rate([why[i] for i in index.tolist()], [rows[i].file_name for i in index], wrong)
    return told


def pictures_in(folder: Path) -> list[Path]:
    """At most IMAGES_PER_FOLDER images in a folder and those inside it, evenly spread over their sorted names."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    if not files:
        raise BlastlensError(f"{folder} holds no image; a folder of pictures that the gate must refuse is expected.")
    return [files[i] for i in evenly(range(len(files)), IMAGES_PER_FOLDER)]


def strangers_of(view: View, folders: Sequence[Path]) -> Iterator[tuple[str, list[str], list[np.ndarray]]]:
    """Kind by kind: its name, and the names and views of its pictures. At the end those that show no smear at all."""
    for folder in folders:
        files = pictures_in(folder)
        with ThreadPoolExecutor(usable_cores()) as pool:
            views = list(pool.map(lambda file: view.apply(open_image(file)), files))
        yield folder.name, [file.relative_to(folder).as_posix() for file in files], views
    for name, (draw, count) in DRAWN.items():
        yield name, [f"seed {seed}" for seed in range(count)], [view.apply(draw(seed)) for seed in range(count)]


def strangers_record(
    gate: Gate, network: Network | None, found: Judges, view: View, folders: Sequence[Path]
) -> dict[str, Any]:
    """Refusals of strangers, by the gate that is written and, as the lowest rate among them, by those of the folds."""
    told = {}
    for name, names, views in tqdm(strangers_of(view, folders), desc="strangers", total=len(folders) + len(DRAWN)):
        entry = rate(reasons(gate, network, views), names, wrong=False)
        by_fold = [rate(found.judge(fold, views), names, wrong=False) for fold in range(len(found.gates))]
        worst = min(by_fold, key=lambda one: one["rate"])
        told[name] = entry | {
            "lowest_rate_of_folds": worst["rate"],
            "wrong": entry["wrong"] or worst["wrong"],
            "by_statistics_alone": rate(reasons(replace(gate, features=None), None, views), names)["rate"],
        }
    return told


# The command ----------------------------------------------------------------------------------------------------------


def fitted(
    folder: ModelFolder,
    rows: Sequence[Row],
    pixels: np.ndarray,
    networks: FoldNetworks | None,
    strangers: Sequence[Path],
) -> tuple[dict[str, Any], FeatureScore | None]:
    """What gate.json holds, and the distribution beside it, if there is one.

    Args:
        folder: whose gate it is.
        rows: its training images. pixels: (N, S, S, 3), what its view shows of each.
        networks: of the folds; None where there are none.
        strangers: folders of pictures to measure it on.
    """
    images, draw_own = KINDS[folder.label_names]
    sample = _of_each_group(rows, VARIED_IMAGES)
    statistics = Statistics(
        rows,
        statistics_of_all(pixels, range(len(rows)), np.asarray, "statistics"),
        sample,
        np.array([statistics_of_all(pixels, sample, vary, name) for name, vary in VARIED.items()]),
    )
    serving = _serving_network(folder) if networks else None
    evidence = Features.of(networks) if networks and serving else None
    splits = networks.splits if networks else make_splits(f"group-kfold:{FOLDS}", rows, seed=0)
    found = judges(statistics, splits, images, evidence)
    margins = statistics.margins(STATISTICS_TARGET if evidence else TARGET)
    ranges = np.round(widened(statistics.extent(), margins), 4)
    score, shown = None, np.empty(0)
    if evidence and serving:
        views = with_varied(np.asarray(pixels[evenly(range(len(rows)), FITTED_ON)]))
        features = serving(views)
        score = replace(fit_features(features), limit=round(found.limit, 4))
        shown = score.of(features[: len(views) * 2 // 3])
    gate = gate_of(images, ranges, score)
    network = serving if score else None
    spoilt, varied = _of_each_group(rows, SPOILT_IMAGES), dict(VARIED)
    own = [(label, seed) for label in folder.label_names for seed in range(DRAWN_PER_LABEL)]
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "images": images,
        "statistics": {
            name: {"low": low, "high": high, "meaning": STATISTICS[name].meaning}
            for name, (low, high) in gate.ranges.items()
        },
        "fit": {
            "dataset_sha256": dataset_hash(rows),
            "images": len(rows),
            "groups": len({row.group for row in rows}),
            "quantile": QUANTILE,
            "margins": dict(zip(STATISTICS, margins.tolist(), strict=True)),
            "target": TARGET,
            "varied": list(VARIED),
        },
        "measured": {
            "held_out": held_out_record(found, rows, networks.protocol if networks else f"group-kfold:{FOLDS}"),
            "varied": changed_record(
                found, rows, pixels, spoilt, {name: _of_one(vary) for name, vary in varied.items()}, wrong=True
            ),
            "spoilt": changed_record(found, rows, pixels, spoilt, SPOILT, wrong=None),
            "strangers": strangers_record(gate, network, found, folder.view, strangers),
            "drawn_like_its_own": rate(
                reasons(gate, network, [folder.view.apply(draw_own(label, seed)) for label, seed in own]),
                [f"{label}, seed {seed}" for label, seed in own],
                wrong=True,
            ),
        },
    }
    if score:
        record["features"] = {
            "what": f"Mahalanobis distance of pooled features; a Gaussian with {DIRECTIONS} principal "
            "directions and one variance for the rest",
            "file": GATE_FEATURES,
            "limit": score.limit,
            "target": FEATURES_TARGET,
            "images": len(shown),
            "median": {
                "training": round(float(np.median(shown)), 4),
                "held_out": round(float(np.median(found.scores)), 4),
            },
        }
        int8 = _serving_network(folder, "int8") if folder.onnx_file("int8").is_file() else None
        if int8:
            shown_views = [np.asarray(pixels[i]) for i in spoilt]
            same = zip(reasons(gate, serving, shown_views), reasons(gate, int8, shown_views), strict=True)
            record["features"]["int8_same_verdict"] = round(float(np.mean([bool(a) == bool(b) for a, b in same])), 5)
    return record, score


def _of_each_group(rows: Sequence[Row], count: int) -> np.ndarray:
    """About `count` images, ascending, evenly spread over those of each group and at least one of each."""
    groups = np.array([row.group for row in rows])
    share = count / len(rows)
    chosen = []
    for group in np.unique(groups):
        mine = np.flatnonzero(groups == group)
        chosen.append(evenly(mine.tolist(), max(1, round(share * len(mine)))))
    return np.sort(np.concatenate(chosen))


def _of_one(vary: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    return lambda view, _: vary(view)


def _serving_network(folder: ModelFolder, precision: str = "fp32") -> Network | None:
    """The folder's own network; None where it gives no features."""
    backend = load_backend(folder, precision)
    if not backend.has_features:
        return None

    def ask(views: np.ndarray) -> np.ndarray:
        return backend.logits_and_features(views)[1]

    return ask


def write(model: Path, data: Path, folds: Path | None, strangers: Sequence[Path], cache: Path) -> dict[str, Any]:
    """Fit the gate of a model folder, measure it, and write gate.json and, if it scores features, gate.safetensors.

    Returns:
        The content of gate.json.

    Raises:
        BlastlensError: no such folder or data, or some that do not belong together.
    """
    folder = ModelFolder.load(model)
    if folder.label_names not in KINDS:
        raise BlastlensError(f"There is no gate for the labels {', '.join(folder.label_names)} of {folder.model_id}.")
    networks = FoldNetworks.load(folds, data, cache) if folds else None
    if networks and networks.view.size != folder.view.size:
        raise BlastlensError(
            f"The networks of {folds} see {networks.view.size} px and {folder.view.size} px are what {folder.model_id} "
            "sees; give its own folds."
        )
    rows = networks.rows if networks else load_rows(data)
    if tuple(labels_of(rows)[0]) != folder.label_names:
        raise BlastlensError(f"{data} has other labels than {folder.model_id}; give its own data set.")
    pixels = networks.pixels if networks else load_pixels(data, rows, folder.view, cache)
    for path in strangers:
        pictures_in(path)  # refuses an empty folder before the work begins
    record, score = fitted(folder, rows, pixels, networks, strangers)
    json.dumps(record, allow_nan=False)  # fails, if it must, before anything is replaced
    # At no time does gate.json speak of a distribution that is not there.
    if score:
        _forget_digests(model / "gate.json")  # which would be those of other features for a moment
        write_features(score, model / GATE_FEATURES)
        record["features"]["sha256"] = digests(model, GATE_FILES)
    write_json(model / "gate.json", record, indent=2)
    if not score:
        (model / GATE_FEATURES).unlink(missing_ok=True)
    return record


def _forget_digests(gate: Path) -> None:
    """Have a gate.json, if there is one, say no longer which files its feature score belongs to."""
    if gate.exists():
        record = json.loads(gate.read_text())
        if (record.get("features") or {}).pop("sha256", None):
            write_json(gate, record, indent=2)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.ood_fitting", description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="model folder; its gate.json and gate.safetensors are written")
    parser.add_argument("--data", type=Path, required=True, help="prepared dataset it was trained on")
    parser.add_argument("--folds", type=Path, help="folder of train.folds; without it, features are not scored")
    parser.add_argument("--strangers", type=Path, nargs="*", default=[], help="folders of pictures it must refuse")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    try:
        record = write(arguments.model, arguments.data, arguments.folds, arguments.strangers, arguments.cache)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(record["measured"], indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
