"""Measure and write the OOD detection of a model folder: gate.json and gate.safetensors.

The detectors of the folds are measured on held-out images, unchanged, varied and corrupted, and on out-of-distribution
images; the detector that is written is measured on the latter, too. No part of the fit (`train.ood_fitting`) has seen
any of them.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from blastlens import files
from blastlens.errors import BlastlensError
from blastlens.images import open_image
from blastlens.integrity import digests
from blastlens.model_folder import OOD_FEATURES, OOD_FILES, ModelFolder
from blastlens.ood_detection import SCHEMA, STATISTICS
from blastlens.synthetic_images import synthetic_image
from blastlens.view import View
from train import ood_fitting
from train.datasets import Row, dataset_hash
from train.folds import FoldNetworks
from train.ood_fitting import FittedDetector, FoldDetectors, Reasons, evenly, of_each_group, reasons
from train.ood_test_images import CORRUPTED, DRAWN, VARIED
from train.parallel import in_threads

CORRUPTED_IMAGES, IMAGES_PER_FOLDER = 300, 300
# By data set: what its images are called; those of any other are "images".
KINDS = {"cnmc2019": "cells", "aria2021": "fields"}
DRAWN_PER_LABEL = 40
LISTED = 20  # wrongly judged images that a record names
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def rate(found: Sequence[Reasons], names: Sequence[str], wrong: bool | None = None) -> dict[str, Any]:
    """Count rejected images, and name those judged wrongly.

    Args:
        found: by image. names: of the images.
        wrong: what would be wrong: to be rejected (True) or accepted (False); None where neither is.
    """
    n, images = sum(map(bool, found)), zip(names, found, strict=True)
    listed = [{"image": name, "reasons": list(why)} for name, why in images if bool(why) is wrong][:LISTED]
    record = {"images": len(found), "refused": n, "rate": round(n / max(1, len(found)), 5)}
    return record if wrong is None else record | {"wrong": listed}


def held_out_record(found: FoldDetectors, rows: Sequence[Row], protocol: str) -> dict[str, Any]:
    """Rejections of training images by detectors that their group had no part in."""
    groups = np.array([row.group for row in rows])
    rejected = found.rejected.any(axis=1)
    by_group = {str(group): float(rejected[groups == group].mean()) for group in np.unique(groups)}
    worst = max(by_group, key=lambda group: by_group[group])
    checks = [*STATISTICS, "features"]
    return {
        "protocol": protocol,
        "images": len(rows),
        "refused": int(rejected.sum()),
        "rate": round(float(rejected.mean()), 5),
        "mean_rate_of_groups": round(float(np.mean(list(by_group.values()))), 5),
        "worst_group": {"group": worst, "images": int((groups == worst).sum()), "rate": round(by_group[worst], 5)},
        "by_statistic": {name: int(n) for name, n in zip(checks, found.rejected.sum(axis=0), strict=True) if n},
        "by_features_alone": int((found.rejected[:, -1] & ~found.rejected[:, :-1].any(axis=1)).sum()),
        "wrong": [
            {"image": rows[i].file_name, "reasons": [checks[j] for j in np.flatnonzero(found.rejected[i])]}
            for i in np.flatnonzero(rejected)
        ][:LISTED],
    }


def changed_record(
    found: FoldDetectors,
    networks: FoldNetworks,
    index: np.ndarray,
    changes: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]],
    wrong: bool | None,
) -> dict[str, Any]:
    """Rejections of changed held-out images, by name of the change.

    Args:
        index: (n,) of the images; each is combined with another one of its fold.
        changes: two views to one. wrong: as for `rate`.
    """
    record, pixels, fold_of = {}, networks.pixels, found.fold_of[index]
    for name, change in tqdm(changes.items(), desc="changed images"):
        why: dict[int, Reasons] = {}
        for fold in np.unique(fold_of):
            mine = index[fold_of == fold]
            views = [change(*pair) for pair in zip(pixels[mine], pixels[np.roll(mine, 7)], strict=True)]
            why |= dict(zip(mine, found.reasons(fold, views), strict=True))
        record[name] = rate([why[i] for i in index], [networks.rows[i].file_name for i in index], wrong)
    return record


def images_in(folder: Path) -> list[Path]:
    """Return at most IMAGES_PER_FOLDER images in a folder and its subfolders, evenly spread over the sorted names."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise BlastlensError(f"{folder} has no image; a folder of out-of-distribution images is expected.")
    return [paths[i] for i in evenly(range(len(paths)), IMAGES_PER_FOLDER)]


def ood_images(view: View, folders: Sequence[Path]) -> Iterator[tuple[str, list[str], list[np.ndarray]]]:
    """Yield each kind of out-of-distribution images: its name, and the names and views of its images."""
    for folder in folders:
        paths = images_in(folder)
        views = in_threads(lambda path: view.apply(open_image(path)), paths)
        yield folder.name, [path.relative_to(folder).as_posix() for path in paths], views
    for name, (draw, count) in DRAWN.items():
        yield name, [f"seed {seed}" for seed in range(count)], [view.apply(draw(seed)) for seed in range(count)]


def ood_record(found: FittedDetector, view: View, folders: Sequence[Path]) -> dict[str, Any]:
    """Rejections of out-of-distribution images, by the detector that is written and by those of the folds."""
    record = {}
    for name, names, views in tqdm(ood_images(view, folders), desc="OOD images", total=len(folders) + len(DRAWN)):
        entry = rate(reasons(found.detector, found.network, views), names, wrong=False)
        of_folds = [rate(found.folds.reasons(k, views), names, wrong=False) for k in range(len(found.folds.detectors))]
        worst = min(of_folds, key=lambda one: one["rate"])
        record[name] = entry | {
            "lowest_rate_of_folds": worst["rate"],
            "wrong": entry["wrong"] or worst["wrong"],
            "by_statistics_alone": rate(reasons(replace(found.detector, features=None), None, views), names)["rate"],
        }
    return record


def gate_record(
    folder: ModelFolder, networks: FoldNetworks, found: FittedDetector, folders: Sequence[Path]
) -> dict[str, Any]:
    """Return the content of gate.json; `folders` are of out-of-distribution images to measure it on."""
    rows, detector = networks.rows, found.detector
    sample = of_each_group(rows, CORRUPTED_IMAGES)
    varied = {name: (lambda view, _, vary=vary: vary(view)) for name, vary in VARIED.items()}
    own = [(label, seed) for label in folder.known_labels for seed in range(DRAWN_PER_LABEL)]
    own_views = [folder.view.apply(synthetic_image(label, seed)) for label, seed in own]
    own_names = [f"{label}, seed {seed}" for label, seed in own]
    record: dict[str, Any] = {
        "schema": SCHEMA,
        "images": detector.images,
        "statistics": {
            name: {"low": low, "high": high, "meaning": STATISTICS[name].meaning}
            for name, (low, high) in detector.ranges.items()
        },
        "fit": {
            "dataset_sha256": dataset_hash(rows),
            "images": len(rows),
            "groups": len({row.group for row in rows}),
            "quantile": ood_fitting.QUANTILE,
            "margins": dict(zip(STATISTICS, found.margins.tolist(), strict=True)),
            "target": ood_fitting.TARGET,
            "varied": list(VARIED),
        },
        "measured": {
            "held_out": held_out_record(found.folds, rows, networks.protocol),
            "varied": changed_record(found.folds, networks, sample, varied, wrong=True),
            "spoilt": changed_record(found.folds, networks, sample, CORRUPTED, wrong=None),
            "strangers": ood_record(found, folder.view, folders),
            **(
                {"drawn_like_its_own": rate(reasons(detector, found.network, own_views), own_names, wrong=True)}
                if own
                else {}
            ),
        },
    }
    if detector.features:
        record["features"] = _features_record(folder, networks, found, sample)
    return record


def _features_record(
    folder: ModelFolder, networks: FoldNetworks, found: FittedDetector, sample: np.ndarray
) -> dict[str, Any]:
    detector = found.detector
    record: dict[str, Any] = {
        "what": f"Mahalanobis distance of pooled features; a Gaussian with {ood_fitting.DIRECTIONS} principal "
        "directions and one variance for the rest",
        "file": OOD_FEATURES,
        "limit": detector.features.limit,
        "target": ood_fitting.FEATURES_TARGET,
        "images": len(found.training_scores),
        "median": {
            "training": round(float(np.median(found.training_scores)), 4),
            "held_out": round(float(np.median(found.folds.scores)), 4),
        },
    }
    if folder.onnx_file("int8").is_file() and (int8 := ood_fitting.serving_network(folder, "int8")):
        views = [np.asarray(networks.pixels[i]) for i in sample]
        pairs = zip(reasons(detector, found.network, views), reasons(detector, int8, views), strict=True)
        record["int8_same_verdict"] = round(float(np.mean([bool(a) == bool(b) for a, b in pairs])), 5)
    return record


def write(model: Path, networks: FoldNetworks, folders: Sequence[Path]) -> dict[str, Any]:
    """Fit and measure the OOD detection of a model folder; writes and returns gate.json and, if it has features, writes
    gate.safetensors. Raises BlastlensError where model and networks do not belong together, or a folder is empty."""
    folder = ModelFolder.load(model)
    if networks.label_names != folder.label_names:
        raise BlastlensError(
            f"{folder.model_id} has the labels {', '.join(folder.label_names)}, not {', '.join(networks.label_names)}; "
            "OOD detection is fitted with the cross-validation of its own data set."
        )
    if networks.view.size != folder.view.size:
        raise BlastlensError(
            f"The fold networks see {networks.view.size} px and {folder.model_id} sees {folder.view.size} px; give its "
            "own cross-validation."
        )
    for path in folders:
        images_in(path)  # rejects an empty folder before the work begins
    found = FittedDetector.fit(folder, networks, KINDS.get(folder.dataset.name, "images"))
    record, score = gate_record(folder, networks, found, folders), found.detector.features
    json.dumps(record, allow_nan=False)  # fails, if it must, before anything is replaced
    gate = model / "gate.json"
    # At no time does gate.json name a distribution that is not there, or the digest of another one.
    if score:
        earlier = json.loads(gate.read_text()) if gate.exists() else {}
        if (earlier.get("features") or {}).pop("sha256", None):
            files.write_json(gate, earlier, indent=2)
        ood_fitting.write_features(score, model / OOD_FEATURES)
        record["features"]["sha256"] = digests(model, OOD_FILES)
    files.write_json(gate, record, indent=2)
    if not score:
        (model / OOD_FEATURES).unlink(missing_ok=True)
    return record
