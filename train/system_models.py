"""Published systems as model folders: `python -m train.compare --export DIR`.

A folder holds the network of the paper's own protocol, first fold, of full length where there is one, uncalibrated,
and what was measured on both protocols. The group-disjoint figures are of networks that were trained on other images,
in the same way unless only this one has full length.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from blastlens.files import write_json
from blastlens.integrity import digests
from blastlens.model_folder import NETWORKS, RECORDED
from train import card
from train.export import training_images
from train.finetune import dataset_folder
from train.held_out import plain, protocol_record
from train.model_files import export
from train.report.measured import RunSet
from train.report.models import read_json
from train.report.systems import Evidence, SystemRow
from train.results import result_name

UNCALIBRATED = "none: probabilities as trained"
SCORES = ("weighted_f1", "macro_f1", "accuracy", "balanced_accuracy", "auroc", "sensitivity", "specificity", "ece")
BY_DONOR = ("auroc_per_donor", "specificity_per_donor", "sensitivity_per_subject")


def export_systems(
    names: Sequence[str], results: Path, runs: Path, data: str, cache: Path, out: Path
) -> Iterator[tuple[str, str]]:
    """Export each system that has records on both protocols and the network of the paper's; yields its name and how
    that went, in words."""
    rows = {row.name: row for row in Evidence.read(results).rows}
    for name in names:
        row = rows.get(name)
        if row is None or not (row.image and row.group):
            yield name, "left out: it has no records on both protocols"
            continue
        row = replace(row, image=row.full or row.image)
        if not (run := run_folder(row.image, runs) / "run.json").is_file():
            yield name, f"left out: {run.parent} has no finished run; its record comes from elsewhere"
        else:
            yield name, export_system(row, run.parent, dataset_folder(data, row.recipe), cache, out / name)


def run_folder(shown: RunSet, runs: Path) -> Path:
    """The folder in `runs` in which `train.jobs` made the first of these runs."""
    first = shown.first
    file = result_name(first.system, first.protocol, first.initialisation, first.seed, first.fold)
    return runs / f"{file.removesuffix('.json')}-{first.recipe_digest}"


def export_system(row: SystemRow, run: Path, data: Path, cache: Path, out: Path) -> str:
    """Write a system's model folder with its card; returns how close its ONNX files are, in words.

    Raises:
        BlastlensError: `data` are other images than those of the run, or the ONNX file differs from the network.
    """
    parity = export(run, out, training_images(run, data, cache), None)
    training = read_json(out / "metrics.json")["training"]
    write_json(out / "metrics.json", plain(metrics_of(row, out, training)), indent=2)
    card.main([str(out)])
    return f"probabilities within {parity['fp32']:.1e} (fp32), {parity['int8']:.1e} (int8)"


def metrics_of(row: SystemRow, folder: Path, training: dict[str, Any]) -> dict[str, Any]:
    """metrics.json of a system's exported folder; `published` says what it is."""
    sigmas = [sigma for sigma in row.image.sigmas if sigma in row.group.sigmas]
    protocols = [protocol_of(runs, sigmas) for runs in (row.group, row.image)]
    full = row.image is row.full
    clean = protocols[0]["by_sigma"][0]
    return {
        "schema": 1,
        "model": folder.name,
        "label_names": list(protocols[0]["label_names"]),
        "headline": {
            "protocol": protocols[0]["name"],
            **{key: clean[key] for key in SCORES if key in clean},
            **{key: clean["donors"][key] for key in BY_DONOR if "donors" in clean},
        },
        "protocols": protocols,
        "published": {
            "title": row.title,
            "paper": row.recipe.paper,
            "claimed_accuracy": row.claim.accuracy_in_words,
            "first_weights": row.first_weights,
            "changes": row.changes,
            "steps": f"{row.image.first.steps:,}" if full else row.steps,
            "image_size": row.image.first.image_size,
            "shortened": row.shortened and not full,
            "full_length": full,
            "leak": row.leak,
        },
        "size_bytes": {name: (folder / file).stat().st_size for name, file in NETWORKS.items()},
        "sha256": digests(folder, RECORDED),
        "training": training,
    }


def protocol_of(runs: RunSet, sigmas: Sequence[float]) -> dict[str, Any]:
    """The entry of metrics.json's `protocols` for recorded runs at these noise levels, uncalibrated."""
    first, chosen = runs.first, [runs.sigmas.index(sigma) for sigma in sigmas]
    images = replace(runs.images, sigmas=runs.images.sigmas[chosen], logits=runs.images.logits[chosen])
    probabilities = np.stack([runs.probabilities(sigma) for sigma in sigmas])
    found = protocol_record(images, probabilities, first.label_names, first.protocol, first.level)
    counts = {"folds": runs.folds, "of_folds": first.folds, "label_names": first.label_names}
    return found | {"calibration": UNCALIBRATED} | counts
