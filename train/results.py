"""One measured run as a small JSON file: what was trained, on what split, and the test part's probabilities.

`results/runs/<system>/<protocol>/<initialisation>-seed<S>-fold<K>.json` is all that tables and figures are made from:
no image and no weight is needed to render them again. Arrays are packed (16 bit, zlib, base64), so that a run of
2,500 images at eleven noise levels stays under 100 KB and every score, interval and paired difference can be
computed again, not only read.
"""

import base64
import csv
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blastlens import metrics
from blastlens.errors import BlastlensError
from blastlens.files import write_json
from train.datasets import load_rows
from train.recipe import Recipe

SCHEMA = 1
HONEST = "group-kfold:3"  # the group-disjoint protocol that every system is measured on beside its paper's own
RUNS = Path(__file__).parents[1] / "results" / "runs"
LEVELS = {"image": "image-level", "group": "group-disjoint"}  # of splits, in words
CURVE = ("epoch", "loss", "accuracy", "val_loss", "val_accuracy")  # columns of log.csv that are kept
STEPS = 65535  # probabilities are stored in this many steps


@dataclass(frozen=True, kw_only=True)
class Result:
    """One finished run. N test images, S noise levels, C classes. Defaults are those of models without a network."""

    system: str  # the recipe's name
    paper: str | None = None
    recipe_digest: str  # of the recipe it ran with, see train.recipe
    changes: dict[str, Any]  # how that recipe differs from the committed one, e.g. {"epochs": 14}
    protocol: str
    fold: int
    folds: int  # how many the protocol has
    seed: int
    initial_weights: str = "none"  # "random", or the file or Hub name of the ImageNet weights
    backbone: str
    image_size: int = 224
    mean: tuple[float, ...] = ()  # of each channel, that images were normalized with; empty in older records
    std: tuple[float, ...] = ()
    precision: str = "fp32"
    device: str = "CPU"
    dataset: dict[str, Any]  # name, hash, images
    images: dict[str, int]  # train, val, test
    groups: dict[str, int]  # train, val, test: how many
    label_names: tuple[str, ...]
    parameters: int
    multiply_adds: int = 0  # of one image
    epochs: int = 0  # trained
    curve: tuple[dict[str, float | None], ...] = ()  # the rows of log.csv, by epoch; none in older records
    steps: int = 0  # of the optimizer, that were trained; 0 in older records
    planned_steps: int = 0  # without early stopping
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    sigmas: tuple[float, ...]
    index: NDArray[np.int64]  # (N,) position in the data set's rows, which are sorted by file name
    label: NDArray[np.int64]  # (N,)
    group_names: tuple[str, ...]
    group: NDArray[np.int64]  # (N,) into group_names
    probabilities: NDArray[np.float64]  # (S, N, C), uncalibrated

    @property
    def level(self) -> str:
        """ "image" or "group": whether the split may put one subject's images on both sides."""
        return "group" if self.protocol.startswith("group") else "image"

    @property
    def initialisation(self) -> str:
        """ "scratch", "imagenet", or "none" for a model that trains no network."""
        return {"random": "scratch", "none": "none"}.get(self.initial_weights, "imagenet")

    @property
    def groups_of_images(self) -> list[str]:
        return [self.group_names[i] for i in self.group]

    def at(self, sigmas: Sequence[float]) -> NDArray[np.float64]:
        """Probabilities (S, N, C) at these noise levels."""
        return self.probabilities[[self.sigmas.index(sigma) for sigma in sigmas]]

    def write(self, folder: Path = RUNS) -> Path:
        """Write the run's file under its name in `folder`, completely or not at all."""
        path = folder / result_name(self.system, self.protocol, self.initialisation, self.seed, self.fold)
        data = {"schema": SCHEMA} | self.__dict__
        for name in ("index", "label", "group"):
            data[name] = _pack(getattr(self, name))
        data["probabilities"] = _pack(np.rint(self.probabilities[:, :, :-1] * STEPS))
        write_json(path, data)
        return path

    @classmethod
    def of_run(cls, run: Path, data: Path, folds: int, changes: dict[str, Any]) -> "Result":
        """The record of a finished run folder.

        Args:
            data: its prepared dataset.
            folds: how many its protocol has.
            changes: how its recipe differs from the committed one.
        """
        from train.complexity import count_parameters, multiply_adds  # PyTorch, which takes seconds
        from train.networks import create_network

        record = json.loads((run / "run.json").read_text())
        recipe = Recipe.from_dict(record["recipe"])
        network = create_network(recipe, len(record["label_names"]), "scratch")
        arrays = np.load(run / "predictions.npz")
        rows = load_rows(data)
        names, group = np.unique([rows[i].group for i in arrays["test_index"]], return_inverse=True)
        with (run / "log.csv").open(newline="") as log:
            rows_of_log = list(csv.DictReader(log))
        epochs, steps = max(((float(row["epoch"]), int(row["step"])) for row in rows_of_log), default=(0, 0))
        same = ("protocol", "fold", "seed", "initial_weights", "precision", "dataset", "images", "seconds")
        return cls(
            **{name: record[name] for name in same},
            system=recipe.name,
            paper=recipe.paper,
            recipe_digest=recipe.digest,
            changes=changes,
            folds=folds,
            backbone=recipe.backbone,
            image_size=recipe.image_size,
            device=record["versions"]["device"],
            groups={part: len(members) for part, members in record["groups"].items()},
            label_names=tuple(record["label_names"]),
            parameters=count_parameters(network),
            multiply_adds=multiply_adds(network, recipe.image_size),
            epochs=math.ceil(epochs - 1e-6),
            steps=steps,
            planned_steps=record.get("steps", 0),
            mean=tuple(record.get("mean", ())),
            std=tuple(record.get("std", ())),
            curve=tuple({name: float(row[name]) if row[name] else None for name in CURVE} for row in rows_of_log),
            versions={k: v for k, v in record["versions"].items() if k != "device"},
            sigmas=tuple(float(s) for s in arrays["sigmas"]),
            index=arrays["test_index"],
            label=arrays["test_label"],
            group_names=tuple(str(name) for name in names),
            group=group,
            probabilities=np.stack([metrics.softmax(logits) for logits in arrays["test_logits"]]),
        )

    @classmethod
    def read(cls, path: Path) -> "Result":
        """Read a run's file. Raises BlastlensError where it is not one."""
        try:
            data = json.loads(path.read_text())
            if data.pop("schema") != SCHEMA:
                raise ValueError(f"its schema is not {SCHEMA}")
            data.pop("curves", None)  # loss by epoch, which older records have
            for name in ("index", "label", "group"):
                data[name] = _unpack(data[name]).astype(np.int64)
            first = _unpack(data["probabilities"]) / STEPS
            data["probabilities"] = np.concatenate([first, 1 - first.sum(2, keepdims=True)], 2).clip(0, 1)
            for name in ("label_names", "sigmas", "group_names", "curve", "mean", "std"):
                data[name] = tuple(data.get(name, ()))
            result = cls(**data)
        except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
            raise BlastlensError(f"{path} is not a recorded run: {error}.") from None
        shape = (len(result.sigmas), len(result.index), len(result.label_names))
        if result.probabilities.shape != shape or not len(result.label) == len(result.group) == len(result.index):
            raise BlastlensError(f"{path} is not a recorded run: its arrays do not fit together.")
        return result


def result_name(system: str, protocol: str, initialisation: str, seed: int, fold: int) -> str:
    """Where in the results folder a run's file lies."""
    return f"{system}/{protocol.replace(':', '-')}/{initialisation}-seed{seed}-fold{fold}.json"


def load_results(folder: Path = RUNS) -> list[Result]:
    """Every recorded run, sorted by name."""
    return [Result.read(path) for path in sorted(folder.glob("*/*/*.json"))]


def training_of(record: dict[str, Any]) -> dict[str, Any]:
    """What metrics.json says about the training of a run, from its run.json."""
    keys = ("recipe", "protocol", "seed", "initial_weights", "teacher", "precision", "subjects", "dataset", "versions")
    return {key: record[key] for key in keys if key in record}


def _pack(array: NDArray[Any]) -> dict[str, Any]:
    flat = np.ascontiguousarray(array)
    if flat.size and not (flat.min() >= 0 and flat.max() <= STEPS):
        raise ValueError("only values from 0 to 65535 can be packed")
    data = zlib.compress(flat.astype("<u2").tobytes(), 9)
    return {"shape": list(flat.shape), "uint16": base64.b64encode(data).decode()}


def _unpack(packed: dict[str, Any]) -> NDArray[np.uint16]:
    return np.frombuffer(zlib.decompress(base64.b64decode(packed["uint16"])), "<u2").reshape(packed["shape"])
