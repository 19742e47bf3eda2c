"""Model folder + evidence -> metrics.json: how it was trained and everything measured, protocol by protocol.

    python -m train.evaluate models/mobilenetv1-cnmc2019 --all --data DIR

The numbers a model is shown with come from the cross-validation of its recipe, never from the images the shipped
network was fitted on. `--all` asks the fold networks that are kept in results/folds (see train.folds) about the images
that each has not seen, and measures everything again: the noise curve, robustness, calibration, shortcut probes,
patients, what int8 costs, and the input gate; then it renders the card. Steps that are done are kept, so that the
command can be stopped and given again. Without kept networks, `--cv` takes the figures of train.crossval's summary.
`--external` adds the external validation: the shipped network itself on subjects outside its training set.
"""

import argparse
import hashlib
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tqdm.auto import tqdm

from blastlens import bootstrap, external_result, metrics
from blastlens.donor_metrics import MIN_IMAGES, DonorScores
from blastlens.errors import BlastlensError
from blastlens.images import RAW_CELL_SIDE
from blastlens.inference import usable_cores
from blastlens.integrity import digests
from blastlens.metrics import Interval
from blastlens.model_folder import NETWORKS, RECORDED, SAFETENSORS, ModelFolder
from blastlens.noise import NOISE_SIGMAS, add_gaussian_noise
from blastlens.view import View
from blastlens.wording import listed
from train import calibration, card, ood_fitting, patient_evaluation, robustness, shortcut_probes
from train.crossval import describe, plain, summarise
from train.datasets import labels_of, load_rows
from train.datasets.groups import SAME_PERSON
from train.files import Unwritable, write_json
from train.folds import FOLDS, FoldNetworks
from train.masks import cell_mask
from train.pixels import load_pixels
from train.quantise import training_sample, write_int8

SCHEMA = 1
# What decides the figures of `measure_all`: figures kept from other code are not taken.
MEASURING = (
    "train/baselines.py",
    "train/calibration.py",
    "train/crossval.py",
    "train/threshold_fitting.py",
    "train/evaluate.py",
    "train/folds.py",
    "train/masks.py",
    "train/patient_evaluation.py",
    "train/shortcut_probes.py",
    "train/quantise.py",
    "train/robustness.py",
    "blastlens/thresholds.py",
    "blastlens/metrics.py",
    "blastlens/noise.py",
    "blastlens/patients.py",
)
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
HEADLINE_BY_DONOR = ("auroc_per_donor", "specificity_per_donor", "worst_specificity", "sensitivity_per_subject")
EXTERNAL_SIGMAS = (0, 10, 20, 50)
VIEW_OF_FRAME = 320  # px of the published frame that a view of a prepared cell shows
LEUKEMIC_AREA = 30_000  # px of the published frame, above which the baseline classifies a cell as leukemic
DONOR_METRICS = (
    "auroc_per_donor",
    "specificity_per_donor",
    "worst_specificity",
    "sensitivity_per_subject",
    "auroc",
    "specificity",
    "sensitivity",
    "balanced_accuracy",
    "weighted_f1",
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


def int8_cost(networks: FoldNetworks) -> dict[str, Any]:
    """What int8 costs on held-out images: each fold's network quantised as the shipped one is, run on its test fold.

    Returns weighted F1 of both, their paired difference with an interval over groups, and how far single
    probabilities move.
    """
    before = networks.noisy(0)
    after = np.empty_like(before.probabilities)
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx"
        folds = enumerate(zip(networks.files, networks.splits, networks.scalings, strict=True))
        for k, (file, split, scaling) in tqdm(list(folds), desc="int8 on held-out images", unit="fold"):
            write_int8(file, int8, networks.view.normalise(np.asarray(networks.pixels[training_sample(split.train)])))
            logits = session_logits(int8, networks.view, networks.pixels, split.test, 0.0)
            # A shipped folder's int8 file has the scaling of its fp32 network, so here too.
            after[networks.fold_of == k] = scaling.apply(logits)
    moved = np.abs(after - before.probabilities).max(1)
    return plain(
        {
            "protocol": networks.protocol,
            "weighted_f1_fp32": metrics.weighted_f1(before.label, before.probabilities),
            "weighted_f1_int8": metrics.weighted_f1(before.label, after),
            "difference": bootstrap.difference(before.label, after, before.probabilities, networks.groups),
            "probability_moved": {"median": np.median(moved), "p99": np.quantile(moved, 0.99)},
            "same_label": float((after.argmax(1) == before.probabilities.argmax(1)).mean()),
        }
    )


def noise_curve(networks: FoldNetworks) -> dict[str, Any]:
    """The protocol's entry of metrics.json, from the kept networks."""
    answers = [networks.noisy(sigma) for sigma in NOISE_SIGMAS]
    return summarise(
        networks.labels,
        np.stack([a.probabilities for a in answers]),
        NOISE_SIGMAS,
        list(networks.groups),
        networks.label_names,
        networks.protocol,
        [networks.seed],
        networks.fold_of,
    )


def summary_of(networks: FoldNetworks, protocol: dict[str, Any]) -> dict[str, Any]:
    """What train.crossval's summary.json would say of these networks."""
    return {
        "protocol": protocol,
        "scaling": asdict(networks.scaling),
        "run": {"recipe": networks.recipe.to_dict(), **networks.run},
    }


def measure_all(networks: FoldNetworks, every: int, kept: Path) -> dict[str, Any]:
    """Every trust figure, by its key in metrics.json (that of the noise curve is `protocol`).

    Args:
        every: corruptions and probes see every so many images of each group; all else sees all.
        kept: folder in which a step that is done leaves its figures for the next time.
    """
    steps: dict[str, Callable[[], Any]] = {
        "protocol": lambda: noise_curve(networks),
        "calibration": lambda: calibration.measure(networks, NOISE_SIGMAS),
        "patients": lambda: patient_evaluation.measure(networks, NOISE_SIGMAS),
        "int8": lambda: int8_cost(networks),
        "probes": lambda: shortcut_probes.measure(networks, every),
        "robustness": lambda: robustness.measure(networks, every, kept / "robustness"),
    }
    kept.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, step in steps.items():
        path = kept / f"{name}.json"
        if path.exists():
            print(f"{name}: taken from {path}", flush=True)
        else:
            print(f"{name} ...", flush=True)
            write_json(path, step(), indent=None)
        found[name] = json.loads(path.read_text())
    return found


def kept_folder(networks: FoldNetworks, every: int, cache: Path) -> Path:
    """Where steps that are done wait for the next time: another place for other networks, images or code."""
    root = Path(__file__).parents[1]
    files = [root / name for name in MEASURING] + sorted(root.glob("blastlens/corruptions/*.py"))
    code = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]
    return cache / "evaluate" / f"{networks.digest}-every{every}-{code}"


def external_block(folder: ModelFolder, data: Path, cache: Path) -> dict[str, Any]:
    """The shipped network's own answers on subjects outside its training set: "external" of metrics.json.

    Args:
        data: a prepared dataset. A subject of it is the column `subject`, or `group` where there is none.

    Raises:
        BlastlensError: other labels than the model's, a subject that the model was trained on, or, for a model of two
            labels, not at least one subject of each.
    """
    rows = load_rows(data)
    names, labels = labels_of(rows)
    if list(names) != list(folder.label_names):
        raise BlastlensError(f"{data} has labels {', '.join(names)}; the model has {', '.join(folder.label_names)}.")
    subjects = [row.subject or row.group for row in rows]
    trained_on = (folder.metrics.get("training") or {}).get("subjects")
    trained = set(trained_on or ())
    for _ in SAME_PERSON:  # as many steps as a chain of names can have
        trained |= {b for pair in SAME_PERSON for a, b in (pair, pair[::-1]) if a in trained}
    if known := sorted(set(subjects) & trained):
        raise BlastlensError(
            f"{data} has images of {listed(known, 'and')}, on which {folder.model_id} was trained; an external "
            "validation needs other subjects."
        )
    pixels = load_pixels(data, rows, folder.view, cache)
    network = folder.onnx_file("fp32")
    sigmas = EXTERNAL_SIGMAS if len(names) > 2 else EXTERNAL_SIGMAS[:1]
    probabilities = [metrics.softmax(session_logits(network, folder.view, pixels, range(len(rows)), s)) for s in sigmas]
    measured = _by_donor if len(names) == 2 else _by_group
    unknown = "The model folder lists no training subjects, so it could not be checked that none of them is here."
    return plain(
        {
            "data": data.name,
            "images": len(rows),
            "sha256": digests(folder.path, {"safetensors": SAFETENSORS})["safetensors"],
            "unit": "subjects" if any(row.subject for row in rows) else "slide clusters",
            **measured(folder, labels, np.stack(probabilities), subjects, pixels),
            **({} if trained_on else {"caveat": unknown}),
        }
    )


def _by_donor(
    folder: ModelFolder, labels: np.ndarray, probabilities: np.ndarray, subjects: list[str], pixels: np.ndarray
) -> dict[str, Any]:
    """Two classes, ALL first: metrics whose unit is the donor, and those of the cell's area alone."""

    def scored(scores: np.ndarray, threshold: float = 0.5) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            summary = DonorScores.of(labels == 0, scores, subjects, threshold=threshold).summary()
        except ValueError as error:
            raise BlastlensError(f"The external validation cannot be computed: {error}.") from None
        defined = {key: summary[key] for key in DONOR_METRICS if not np.isnan(_number(summary[key]))}
        return defined, summary

    found, summary = scored(probabilities[0, :, 0])
    scale = (VIEW_OF_FRAME / folder.view.size) ** 2
    areas = np.array([np.count_nonzero(cell_mask(np.asarray(image))) for image in pixels]) * scale
    frame = RAW_CELL_SIDE**2
    by_area, _ = scored(np.clip(areas / frame, 0, 1), LEUKEMIC_AREA / frame)
    return {
        **{key: summary[key] for key in ("subjects", "healthy_donors")},
        "healthy_images": int((labels == 1).sum()),
        "min_images": MIN_IMAGES,
        "metrics": found,
        "per_subject": [
            {key: one[key] for key in ("donor", "positive", "images", "rate")} for one in summary["donors"]
        ],
        "baseline": {
            "name": "cell area",
            "rule": f"{folder.label_names[0]} above {LEUKEMIC_AREA:,} px of the {RAW_CELL_SIDE} px frame",
            "metrics": by_area,
        },
    }


def _by_group(
    folder: ModelFolder, labels: np.ndarray, probabilities: np.ndarray, subjects: list[str], pixels: np.ndarray
) -> dict[str, Any]:
    """Several classes: means over classes, and macro F1 under noise."""
    rows = [bootstrap.summary(labels, p, subjects, folder.label_names) for p in probabilities]
    noisy = zip(EXTERNAL_SIGMAS[1:], rows[1:], strict=True)
    return {
        "groups": len(set(subjects)),
        "metrics": {key: rows[0][key] for key in ("macro_f1", "balanced_accuracy", "ece")},
        "by_sigma": [{"sigma": sigma, "macro_f1": row["macro_f1"].value} for sigma, row in noisy],
    }


def _number(score: Interval | float) -> float:
    return score.value if isinstance(score, Interval) else score


def build_metrics(
    folder: Path, run: Path | None, summary: dict[str, Any], earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """metrics.json from a cross-validation's summary and the final run's record.

    What no summary says is kept from an `earlier` metrics.json of the same files: the check of a copy
    (train.pipeline_evaluation), and, where no run is given, how the shipped network was trained. The external
    validation is kept as long as the network's weights are the same.
    """
    model = ModelFolder.load(folder)
    files = NETWORKS
    sha256 = digests(folder, RECORDED)
    same = earlier if earlier and earlier.get("sha256") == sha256 else {}
    validated = (earlier or {}).get("external") or {}
    record = json.loads((run / "run.json").read_text()) if run else same.get("training") or summary["run"]
    protocol = summary["protocol"]
    clean = protocol["by_sigma"][0]
    recipe = record["recipe"]
    return {
        "schema": SCHEMA,
        "model": folder.name,
        "task": {"cnmc2019": "single segmented cells: ALL or HEM", "aria2021": "smear fields: four classes"}[
            recipe["dataset"]
        ],
        "label_names": list(model.label_names),
        "headline": {
            "protocol": protocol["name"],
            **{k: clean[k] for k in HEADLINE if k in clean},
            **{k: clean["donors"][k] for k in HEADLINE_BY_DONOR if "donors" in clean},
        },
        "protocols": [protocol],
        "size_bytes": {name: (folder / file).stat().st_size for name, file in files.items()},
        "sha256": sha256,
        "latency_ms": same.get("latency_ms")
        or {name: round(latency_ms(folder / files[name], model.view), 2) for name in ("fp32", "int8")}
        | {"threads": usable_cores(), "what": "one bare ONNX Runtime run, batch 1, median of 50"},
        "training": {
            "recipe": recipe,
            "protocol": record.get("protocol", protocol["name"]),
            "seed": record.get("seed"),
            "initial_weights": record["initial_weights"],
            **({"teacher": record["teacher"]} if "teacher" in record else {}),
            "precision": record["precision"],
            **({"subjects": record["subjects"]} if "subjects" in record else {}),
            "dataset": record["dataset"],
            "scaling": summary["scaling"],
            "versions": record["versions"],
        },
        **({"external": validated} if validated.get("sha256") == sha256.get("safetensors", "") else {}),
        **{key: same[key] for key in ("check",) if key in same},
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="model folder")
    parser.add_argument("--all", action="store_true", help="measure everything again from the images of --data")
    parser.add_argument("--data", type=Path, help="the prepared dataset of --all")
    parser.add_argument("--folds", type=Path, help="kept fold networks (default: results/folds/ and the folder's name)")
    parser.add_argument(
        "--every", type=int, default=5, help="corruptions and probes see every so many images of a group"
    )
    parser.add_argument(
        "--strangers", type=Path, nargs="*", default=[], help="folders of pictures to refuse, see train.ood_fitting"
    )
    parser.add_argument(
        "--cv", type=Path, help="folder of train.crossval, whose predictions and summary.json are taken"
    )
    parser.add_argument("--run", type=Path, help="run folder of the shipped network")
    parser.add_argument("--external", type=Path, help="a prepared dataset of subjects outside the training set")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    try:
        record = evaluated(arguments)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    for protocol in record["protocols"]:
        print(describe(protocol))
    print(external_result.sentence(record))
    return card.main([str(arguments.folder)]) if arguments.all else 0


def evaluated(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for, write metrics.json, and the gate with --all; returns the record."""
    folder: Path = arguments.folder
    folds: Path = arguments.folds or FOLDS / folder.name
    path = folder / "metrics.json"
    record = json.loads(path.read_text()) if path.exists() else None
    if arguments.all:
        if not arguments.data:
            raise BlastlensError("--all measures on images; give their prepared dataset with --data.")
        networks = FoldNetworks.load(folds, arguments.data, arguments.cache)
        if arguments.cv:
            networks.recall(arguments.cv)
        found = measure_all(networks, arguments.every, kept_folder(networks, arguments.every, arguments.cache))
        protocol = found.pop("protocol")
        summary = summary_of(networks, protocol)
        if arguments.cv:  # whose runs may be more than those whose networks are kept
            summary["protocol"] = json.loads((arguments.cv / "summary.json").read_text())["protocol"]
        record = build_metrics(folder, arguments.run, summary, record) | found
    elif arguments.cv:
        summary = json.loads((arguments.cv / "summary.json").read_text())
        record = build_metrics(folder, arguments.run, summary, record)
    elif not (record or {}).get("protocols"):
        raise BlastlensError(f"{folder} has not been measured yet; give --all or --cv first.")
    if arguments.external:
        record["external"] = external_block(ModelFolder.load(folder), arguments.external, arguments.cache)
    write_json(path, record)
    if arguments.all:
        try:
            ood_fitting.write(folder, arguments.data, folds, arguments.strangers, arguments.cache)
        except Unwritable:
            raise
        except BlastlensError as error:  # too few groups to fit one, say: no reason to lose the rest
            print(f"gate.json is left as it was: {error}", file=sys.stderr)
    return record


if __name__ == "__main__":
    sys.exit(main())
