"""Model folder + evidence -> metrics.json: how it was trained and everything measured, protocol by protocol.

    python -m train.evaluate models/mobilenet_m-cnmc2019 --cv runs/cv/cnmc --data DIR

The numbers a model is shown with come from the cross-validation of its recipe (`--cv`), never from the images the
shipped network was fitted on. With `--data` the folder's own ONNX files are run as well: the fold networks' int8
files on their held-out images, for what quantisation costs, and a data set the model never saw as its own protocol.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tqdm.auto import tqdm

from blastlens import metrics
from blastlens.backend import usable_cores
from blastlens.errors import BlastlensError
from blastlens.images import View
from blastlens.model_folder import ModelFolder
from blastlens.noise import NOISE_SIGMAS, add_gaussian_noise
from train.crossval import HeldOut, calibrated, cross_fitted, describe, plain, summarise
from train.datasets import labels_of, load_rows
from train.datasets.splits import make_splits
from train.export import load_network, training_sample, write_int8, write_onnx
from train.finetune import view_of
from train.pixels import load_pixels
from train.recipe import Recipe

SCHEMA = 1
HEADLINE = (
    "weighted_f1",
    "macro_f1",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "auroc",
    "ece",
)


def session_logits(
    path: Path, view: View, pixels: np.ndarray, indices: Sequence[int], sigma: float, batch_size: int = 16
) -> np.ndarray:
    """Logits (len(indices), C) of an ONNX file; each image has the noise field seeded with its index."""
    session = ort.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
    out = []
    for start in range(0, len(indices), batch_size):
        chosen = indices[start : start + batch_size]
        batch = np.stack([add_gaussian_noise(np.asarray(pixels[i]), sigma, seed=int(i)) for i in chosen])
        out.append(session.run(["logits"], {"pixel_values": view.normalise(batch)})[0])
    return np.concatenate(out)


def latency_ms(path: Path, view: View, repeats: int = 50) -> float:
    """Median milliseconds of one bare run on one ready image."""
    session = ort.InferenceSession(str(path), _options(), providers=["CPUExecutionProvider"])
    x = np.zeros((1, 3, view.size, view.size), np.float32)
    times = []
    for _ in range(repeats + 5):
        started = time.perf_counter()
        session.run(["logits"], {"pixel_values": x})
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[5:])


def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.inter_op_num_threads = 1
    return options


def int8_cost(cv: Path, data: Path, cache: Path) -> dict[str, Any]:
    """What int8 costs on held-out images: each fold's network quantised as the shipped one is, run on its test fold.

    Returns weighted F1 of both, their paired difference with an interval over groups, and how far single
    probabilities move.
    """
    runs = sorted(cv.glob("seed*-fold*"))
    rows = load_rows(data)
    record = json.loads((runs[0] / "run.json").read_text())
    recipe = Recipe.from_dict(record["recipe"])
    view = view_of(recipe)
    pixels = load_pixels(data, rows, view, cache)
    seed = record["seed"]
    runs = [run for run in runs if run.name.startswith(f"seed{seed}-")]
    splits = make_splits(record["protocol"], rows, seed)
    fp32 = HeldOut.read(runs)
    logits = []
    with tempfile.TemporaryDirectory() as folder:
        for run, split in zip(tqdm(runs, desc="int8 on held-out images", unit="fold"), splits, strict=True):
            network, _ = load_network(run)
            write_onnx(network, Path(folder) / "fp32.onnx", view.size)
            sample = training_sample(split.train)
            write_int8(Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx", view.normalise(pixels[sample]))
            logits.append(session_logits(Path(folder) / "int8.onnx", view, pixels, split.test, 0.0))
    # A shipped folder's int8 file has the temperature of its fp32 network, so here too.
    temperatures = cross_fitted(fp32)
    before = calibrated(fp32, temperatures)[0]
    after = calibrated(replace(fp32, logits=np.concatenate(logits)[None]), temperatures)[0]
    groups = [rows[i].group for i in fp32.index]
    moved = np.abs(after - before).max(1)
    return plain(
        {
            "protocol": record["protocol"],
            "weighted_f1_fp32": metrics.weighted_f1(fp32.label, before),
            "weighted_f1_int8": metrics.weighted_f1(fp32.label, after),
            "difference": metrics.paired_bootstrap(fp32.label, after, before, groups),
            "probability_moved": {"median": np.median(moved), "p99": np.quantile(moved, 0.99)},
            "same_label": float((after.argmax(1) == before.argmax(1)).mean()),
        }
    )


def evaluate_folder(folder: ModelFolder, data: Path, cache: Path) -> dict[str, Any]:
    """The shipped network itself on a data set it was not trained on, at every sigma; one protocol entry."""
    rows = load_rows(data)
    names, labels = labels_of(rows)
    if list(names) != list(folder.label_names):
        raise BlastlensError(f"{data} has labels {', '.join(names)}; the model has {', '.join(folder.label_names)}.")
    pixels = load_pixels(data, rows, folder.view, cache)
    path = folder.path / "onnx/model.onnx"
    everything = range(len(rows))
    stacked = [
        metrics.softmax(session_logits(path, folder.view, pixels, everything, s))
        for s in tqdm(NOISE_SIGMAS, desc="noise curve", unit="sigma")
    ]
    entry = summarise(labels, np.stack(stacked), NOISE_SIGMAS, [r.group for r in rows], names, data.name, [0])
    return {**entry, "level": "external", "calibration": "as shipped"}


def build_metrics(folder: Path, run: Path | None, summary: dict[str, Any]) -> dict[str, Any]:
    """metrics.json from a cross-validation's summary and the final run's record."""
    model = ModelFolder.load(folder)
    record = json.loads((run / "run.json").read_text()) if run else summary["run"]
    protocol = summary["protocol"]
    clean = protocol["by_sigma"][0]
    recipe = record["recipe"]
    files = {"fp32": "onnx/model.onnx", "int8": "onnx/model_int8.onnx", "safetensors": "model.safetensors"}
    return {
        "schema": SCHEMA,
        "model": folder.name,
        "task": {"cnmc2019": "single segmented cells: ALL or HEM", "aria2021": "smear fields: four classes"}[
            recipe["dataset"]
        ],
        "label_names": list(model.label_names),
        "headline": {"protocol": protocol["name"], **{k: clean[k] for k in HEADLINE if k in clean}},
        "protocols": [protocol],
        "size_bytes": {name: (folder / file).stat().st_size for name, file in files.items()},
        "sha256": {name: hashlib.sha256((folder / file).read_bytes()).hexdigest() for name, file in files.items()},
        "latency_ms": {name: round(latency_ms(folder / files[name], model.view), 2) for name in ("fp32", "int8")}
        | {"threads": usable_cores(), "what": "one bare ONNX Runtime run, batch 1, median of 50"},
        "training": {
            "recipe": recipe,
            "protocol": record.get("protocol", protocol["name"]),
            "seed": record.get("seed"),
            "initial_weights": record["initial_weights"],
            "precision": record["precision"],
            "dataset": record["dataset"],
            "temperature": summary["temperature"],
            "versions": record["versions"],
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="model folder")
    parser.add_argument("--cv", type=Path, help="folder of train.crossval with the recipe's summary.json")
    parser.add_argument("--run", type=Path, help="run folder of the shipped network")
    parser.add_argument("--data", type=Path, help="the prepared dataset of --cv (for int8)")
    parser.add_argument("--external", type=Path, help="a prepared dataset the model was not trained on")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    try:
        path = arguments.folder / "metrics.json"
        if arguments.cv:
            summary = json.loads((arguments.cv / "summary.json").read_text())
            record = build_metrics(arguments.folder, arguments.run, summary)
            if arguments.data:
                record["int8"] = int8_cost(arguments.cv, arguments.data, arguments.cache)
        elif path.exists():
            record = json.loads(path.read_text())
        else:
            raise BlastlensError(f"{arguments.folder} has no metrics.json yet; give --cv first.")
        if arguments.external:
            entry = evaluate_folder(ModelFolder.load(arguments.folder), arguments.external, arguments.cache)
            kept = [p for p in record["protocols"] if p["name"] != entry["name"]]
            record["protocols"] = [*kept, entry]
        path.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    for protocol in record["protocols"]:
        print(describe(protocol))
    return 0


if __name__ == "__main__":
    sys.exit(main())
