"""Measure a model folder: everything in its metrics.json, its OOD detection, and its card.

    python -m train.evaluate models/mobilenetv1-cnmc2019 --all --cv runs/cv/cnmc --data DIR
    python -m train.evaluate models/mobilenetv1-cnmc2019 --steps probes robustness --cv runs/cv/cnmc --data DIR
    python -m train.evaluate --steps probes --cv runs/cv/other --data DIR --out results/probes/other.json
    python -m train.evaluate models/mobilenetv1-cnmc2019 --external OTHER_SUBJECTS

The figures of a model come from the cross-validation of its recipe, never from images that the shipped network was
fitted on; the exception is `--external`, subjects outside its training set. Each step is one function from fold
networks and their held-out images to one block of metrics.json. Rerun the command to resume: the figures of finished
steps are kept in --cache, separately for other networks, images or options; delete them after a change of the code.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from blastlens import bootstrap, external_result, metrics
from blastlens.dataset_info import DATASETS
from blastlens.errors import BlastlensError
from blastlens.files import Unwritable, write_json
from blastlens.inference import normalise, usable_cores
from blastlens.integrity import digests
from blastlens.model_folder import NETWORKS, RECORDED, ModelFolder
from blastlens.view import View
from blastlens.wording import listed
from train import (
    calibration_evaluation,
    card,
    ood_evaluation,
    patient_evaluation,
    robustness,
    shortcut_probes,
    subject_evaluation,
)
from train.command import reports_errors
from train.crossval import describe
from train.external import external_block
from train.folds import FoldNetworks
from train.held_out import plain
from train.quantise import onnx_logits, onnx_session, training_sample, write_int8
from train.results import training_of

SCHEMA = 1
HEADLINE = ("weighted_f1", "macro_f1", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "auroc", "ece")
HEADLINE_BY_DONOR = ("auroc_per_donor", "specificity_per_donor", "worst_specificity", "sensitivity_per_subject")
TASKS = {"cnmc2019": "single segmented cells: ALL or HEM", "aria2021": "smear fields: four classes"}


def int8_cost(networks: FoldNetworks) -> dict[str, Any]:
    """Return the cost of int8 on held-out images: each fold's network is quantized as the shipped one is."""
    labels, before = networks.labels, networks.held_out(what="fp32 on held-out images").probabilities
    after = np.empty_like(before)
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx"
        folds = enumerate(zip(networks.files, networks.splits, networks.scalings, strict=True))
        for k, (file, split, scaling) in tqdm(list(folds), desc="int8 on held-out images", unit="fold"):
            write_int8(file, int8, normalise(networks.view, np.asarray(networks.pixels[training_sample(split.train)])))
            views = (normalise(networks.view, np.asarray(networks.pixels[i])[None]) for i in split.test)
            after[networks.fold_of == k] = scaling.apply(onnx_logits(int8, views))
    moved = np.abs(after - before).max(1)
    return plain(
        {
            "protocol": networks.protocol,
            "weighted_f1_fp32": metrics.score("weighted_f1", labels, before),
            "weighted_f1_int8": metrics.score("weighted_f1", labels, after),
            "difference": bootstrap.difference(labels, after, before, networks.groups),
            "probability_moved": {"median": np.median(moved), "p99": np.quantile(moved, 0.99)},
            "same_label": float((after.argmax(1) == before.argmax(1)).mean()),
        }
    )


# By key in metrics.json: a step from fold networks to its block. `every`: corruptions and probes take one image in so
# many of each group; the other steps take all.
STEPS: dict[str, Callable[[FoldNetworks, int], Any]] = {
    "calibration": lambda networks, every: calibration_evaluation.measure(networks.predictions, networks.label_names),
    "patients": lambda networks, every: patient_evaluation.measure(networks),
    "int8": lambda networks, every: int8_cost(networks),
    "probes": lambda networks, every: shortcut_probes.measure(networks, every),
    "robustness": lambda networks, every: robustness.measure(networks, every),
}
GATE = "gate"  # writes gate.json and gate.safetensors instead of a block
SUBJECTS = "subjects"  # after GATE, whose statistics it needs; all split seeds together


def measure(networks: FoldNetworks, steps: Sequence[str], every: int, cache: Path) -> dict[str, Any]:
    """Return the blocks of these steps; a finished step is read from `cache`, one that does not apply is skipped."""
    folder = cache / "evaluate" / f"{networks.digest}-every{every}"
    found = {}
    for name in steps:
        path = folder / f"{name}.json"
        if reason := _not_applicable(name, networks):
            print(f"{name}: skipped; {reason}")
            continue
        print(f"{name}: read from {path}" if path.exists() else f"{name} ...", flush=True)
        if not path.exists():
            write_json(path, STEPS[name](networks, every), indent=None)
        found[name] = json.loads(path.read_text())
    return found


def _not_applicable(step: str, networks: FoldNetworks) -> str:
    """Why a step does not apply to own images; "" where it does."""
    if networks.recipe.dataset in DATASETS:
        return ""
    if step == "probes":
        return f"they are defined for {listed([*DATASETS], 'and')}, not for own images."
    if step in ("patients", SUBJECTS) and not patient_evaluation.applies(networks):
        return "it needs subjects of one label each, ALL or HEM."
    return ""


def latency_ms(path: Path, view: View, repeats: int = 50) -> float:
    """Return the median milliseconds of one bare ONNX Runtime run on one prepared image."""
    session = onnx_session(path)
    x = np.zeros((1, 3, view.size, view.size), np.float32)
    times = []
    for _ in range(repeats + 5):
        started = time.perf_counter()
        session.run(["logits"], {"pixel_values": x})
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times[5:])


def build_metrics(
    folder: Path, run: Path | None, summary: dict[str, Any], earlier: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return metrics.json with the blocks of `STEPS` that it has so far.

    Args:
        run: run folder of the shipped network; None to keep what `earlier` says about its training.
        summary: summary.json of the cross-validation.
        earlier: metrics.json so far. Blocks, latency, training and the sample for checking copies are kept if the files
            are the same, the external validation if the weights are.
    """
    model = ModelFolder.load(folder)
    sha256 = digests(folder, RECORDED)
    same = earlier if earlier and earlier.get("sha256") == sha256 else {}
    validated = (earlier or {}).get("external") or {}
    record = json.loads((run / "run.json").read_text()) if run else same.get("training") or summary["run"]
    protocol, dataset = summary["protocol"], record["dataset"]["name"]
    clean = protocol["by_sigma"][0]
    return {
        "schema": SCHEMA,
        "model": folder.name,
        "task": TASKS.get(dataset) or f"images of {dataset}: {', '.join(model.label_names)}",
        "label_names": list(model.label_names),
        "headline": {
            "protocol": protocol["name"],
            **{k: clean[k] for k in HEADLINE if k in clean},
            **{k: clean["donors"][k] for k in HEADLINE_BY_DONOR if "donors" in clean},
        },
        "protocols": [protocol],
        "size_bytes": {name: (folder / file).stat().st_size for name, file in NETWORKS.items()},
        "sha256": sha256,
        "latency_ms": same.get("latency_ms")
        or {name: round(latency_ms(folder / NETWORKS[name], model.view), 2) for name in ("fp32", "int8")}
        | {"threads": usable_cores(), "what": "one bare ONNX Runtime run, batch 1, median of 50"},
        "training": {
            "protocol": protocol["name"],
            "seed": None,
            **training_of(record),
            "scaling": summary["scaling"],
        },
        **({"external": validated} if validated.get("sha256") == sha256.get("safetensors", "") else {}),
        **{key: same[key] for key in ("check", SUBJECTS, *STEPS) if key in same},
    }


def evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line names and write metrics.json, gate.json and --out; returns what was measured."""
    folder, cv, cache = arguments.folder, arguments.cv, arguments.cache
    steps = [*STEPS, GATE, SUBJECTS] if arguments.all else arguments.steps
    if steps and not (cv and arguments.data):
        raise BlastlensError(
            f"{', '.join(steps)}: the networks and predictions of the folds are needed; give the folder of "
            "train.crossval with --cv, and the prepared dataset with --data."
        )
    if not folder and (not arguments.out or {GATE, SUBJECTS} & set(steps) or arguments.external):
        raise BlastlensError("Name a model folder; without one, only --steps other than gate and subjects work.")
    found = {}
    if steps:
        networks = FoldNetworks.load(cv, arguments.data, cache)
        found = measure(networks, [s for s in steps if s in STEPS], arguments.every, cache)
        if arguments.out:
            block = (next(iter(found.values())) or {}) if len(found) == 1 else found
            write_json(arguments.out, block | {"recipe": networks.recipe.to_dict()})
    if not folder:
        return found
    path = folder / "metrics.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    if cv:
        if not (cv / "summary.json").is_file():
            raise BlastlensError(f"{cv} has no summary.json; `python -m train.crossval` writes it at the end.")
        record = build_metrics(folder, arguments.run, json.loads((cv / "summary.json").read_text()), record) | found
    elif not record.get("protocols"):
        raise BlastlensError(f"{folder} has not been measured yet; give --cv first.")
    if arguments.external:
        record["external"] = external_block(ModelFolder.load(folder), arguments.external, cache)
    write_json(path, record)
    if GATE in steps:
        try:
            ood_evaluation.write(folder, networks, arguments.ood_images)
        except Unwritable:
            raise
        except BlastlensError as error:  # such as too few groups: the other figures stand
            print(f"gate.json is left as it was: {error}", file=sys.stderr)
    if SUBJECTS in steps and (reason := _not_applicable(SUBJECTS, networks)):
        print(f"{SUBJECTS}: skipped; {reason}")
    elif SUBJECTS in steps and patient_evaluation.applies(networks):
        try:
            record[SUBJECTS] = subject_evaluation.block(folder, cv, arguments.data, cache)
        except BlastlensError as error:  # such as no OOD detection: the other figures stand
            print(f"{SUBJECTS}: skipped; {error}", file=sys.stderr)
        write_json(path, record)
    return record


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.evaluate", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="model folder")
    parser.add_argument("--cv", type=Path, help="folder of train.crossval: predictions, networks and summary.json")
    parser.add_argument("--data", type=Path, help="the prepared dataset that it was trained on")
    parser.add_argument("--all", action="store_true", help="run every step, then render the card")
    parser.add_argument("--steps", nargs="+", default=[], choices=[*STEPS, GATE, SUBJECTS], help="run only these steps")
    parser.add_argument("--every", type=int, default=5, help="probes and robustness take one image in so many")
    parser.add_argument("--ood-images", type=Path, nargs="*", default=[], help="folders of images to reject as OOD")
    parser.add_argument("--run", type=Path, help="run folder of the shipped network")
    parser.add_argument("--external", type=Path, help="a prepared dataset of subjects outside the training set")
    parser.add_argument("--out", type=Path, help="also write the blocks of --steps to this JSON file")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"))
    arguments = parser.parse_args(argv)
    record = evaluate(arguments)
    if arguments.folder:
        for protocol in record["protocols"]:
            print(describe(protocol))
        print(external_result.sentence(record))
    return card.main([str(arguments.folder)]) if arguments.all else 0


if __name__ == "__main__":
    sys.exit(main())
