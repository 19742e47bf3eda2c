"""The networks of one cross-validation, with the images that they are evaluated on.

A shipped network was fitted on every image, so its own images cannot say how it does on new subjects. The networks in
the run folders of `train.crossval` can: each fold has groups that its network was not trained on.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort

from blastlens.errors import BlastlensError
from blastlens.files import make_once
from blastlens.inference import normalise
from blastlens.view import View
from train.calibration import Scaling
from train.datasets import Row, dataset_hash, labels_of, load_rows
from train.datasets.splits import Split, make_splits
from train.held_out import HeldOut, calibrated, cross_fitted, runs_of
from train.parallel import in_threads
from train.pixels import load_pixels
from train.quantise import onnx_session
from train.recipe import Recipe, view_of

BATCH = 16

# Changes a view before the network sees it: uint8 (S, S, 3) and the image's row -> the same shape.
Change = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class Outputs:
    """Network outputs of N images: logits (N, C), uncalibrated; probabilities (N, C), calibrated; pooled features
    (N, F), F is 0 for a network without them."""

    logits: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray


@dataclass(frozen=True, eq=False)
class FoldNetworks:
    """The networks of one seed of a cross-validation.

    Attributes:
        rows: every image, in the prepared dataset's order. label_names: C of them. labels: (N,) int.
        pixels: uint8 (N, S, S, 3), what `view` shows of each image.
        splits: one per fold; its network may be evaluated on its `test` images only.
        predictions: held-out predictions that the runs recorded, in the order of `rows`.
        scalings: calibration of each fold, fitted on the other folds' predictions.
        files: each fold's network as ONNX, uncalibrated.
    """

    recipe: Recipe
    protocol: str
    seed: int
    rows: Sequence[Row]
    label_names: tuple[str, ...]
    labels: np.ndarray
    view: View
    pixels: np.ndarray
    splits: tuple[Split, ...]
    predictions: HeldOut
    scalings: tuple[Scaling, ...]
    files: tuple[Path, ...]

    @classmethod
    def load(cls, cv: Path, data: Path, cache: Path, seed: int = 0) -> "FoldNetworks":
        """Read the run folders of one seed in `cv`, a folder of train.crossval, and the dataset they were trained on;
        raises BlastlensError where a run is missing or not finished, or `data` is another dataset."""
        runs = runs_of(cv, seed)
        if absent := [run for run in runs if not (run / "run.json").is_file()]:
            raise BlastlensError(f"{absent[0]} is not a finished run; rerun `python -m train.crossval` to finish it.")
        record = json.loads((runs[0] / "run.json").read_text())
        rows = load_rows(data)
        if dataset_hash(rows) != record["dataset"]["hash"]:
            raise BlastlensError(f"{data} is not the dataset that the networks of {cv} were trained on.")
        recipe = Recipe.of_record(record)
        names, labels = labels_of(rows)
        splits = tuple(make_splits(record["protocol"], rows, seed))
        predictions = HeldOut.read(runs)
        tested = [sorted(predictions.index[predictions.fold == k]) for k in range(len(runs))]
        if tested != [list(split.test) for split in splits]:
            raise BlastlensError(f"{cv} lacks folds of {record['protocol']}, or its splits are not those of {data}.")
        predictions = predictions.part(np.argsort(predictions.index))
        view = view_of(recipe)
        fitted = cross_fitted(predictions)
        return cls(
            recipe=recipe,
            protocol=record["protocol"],
            seed=seed,
            rows=rows,
            label_names=tuple(names),
            labels=labels,
            view=view,
            pixels=load_pixels(data, rows, view, cache),
            splits=splits,
            predictions=predictions,
            scalings=tuple(fitted[k] for k in range(len(runs))),
            files=tuple(_onnx(run, recipe, view, cache) for run in runs),
        )

    @cached_property
    def sessions(self) -> tuple[ort.InferenceSession, ...]:
        """Each fold's network in ONNX Runtime on one core: several batches run in parallel."""
        return tuple(onnx_session(file, threads=1) for file in self.files)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of the networks, their calibration and the images."""
        parts = [*(file.name for file in self.files), str(self.scalings), dataset_hash(self.rows)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    @property
    def fold_of(self) -> np.ndarray:
        """(N,) the fold whose test part an image is in."""
        return self.predictions.fold

    @cached_property
    def groups(self) -> np.ndarray:
        """(N,) str."""
        return np.array([row.group for row in self.rows])

    @cached_property
    def probabilities(self) -> np.ndarray:
        """(S, N, C) calibrated held-out probabilities at `predictions.sigmas`."""
        return calibrated(self.predictions, dict(enumerate(self.scalings)))

    def every(self, step: int) -> np.ndarray:
        """Return the rows of every `step`-th image of each group, sorted."""
        chosen = [np.flatnonzero(self.groups == group)[::step] for group in np.unique(self.groups)]
        return np.sort(np.concatenate(chosen))

    def held_out(self, change: Change | None = None, index: np.ndarray | None = None, what: str = "") -> Outputs:
        """Evaluate each image with the network that was not trained on its group.

        Args:
            change: applied to the view first, from several threads.
            index: (n,) rows of the images; all by default.
            what: title of a progress bar, if there is to be one.
        """
        index = np.arange(len(self.rows)) if index is None else index
        fold = self.fold_of[index]

        def one(place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            views = self.pixels[index[place]]
            if change:
                views = np.stack([change(view, int(i)) for view, i in zip(views, index[place], strict=True)])
            return self._run(fold[place[0]], views)

        of_folds = [np.flatnonzero(fold == k) for k in np.unique(fold)]
        places = [mine[start : start + BATCH] for mine in of_folds for start in range(0, len(mine), BATCH)]
        done = in_threads(one, places, what, "batch")
        order = np.argsort(np.concatenate(places))
        logits, features = (np.concatenate(parts)[order] for parts in zip(*done, strict=True))
        probabilities = np.empty(logits.shape, np.float64)
        for mine in of_folds:
            probabilities[mine] = self.scalings[fold[mine[0]]].apply(logits[mine])
        return Outputs(logits, probabilities, features)

    def features_of(self, fold: int, views: np.ndarray) -> np.ndarray:
        """Return features (n, F) of any views, uint8 (n, S, S, 3), from one fold's network."""
        parts = [views[start : start + BATCH] for start in range(0, len(views), BATCH)]
        return np.concatenate([features for _, features in in_threads(lambda part: self._run(fold, part), parts)])

    def _run(self, fold: int, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        session = self.sessions[fold]
        names = [output.name for output in session.get_outputs() if output.name != "cam"]
        found = dict(zip(names, session.run(names, {"pixel_values": normalise(self.view, views)}), strict=True))
        return found["logits"], found.get("features", np.empty((len(views), 0), np.float32))


def _onnx(run: Path, recipe: Recipe, view: View, cache: Path) -> Path:
    """The network of a run as an ONNX file in `cache`, named after its weights."""
    weights = run / "model.safetensors"
    if not weights.is_file():
        raise BlastlensError(f"{run} has no model.safetensors, the fold's network; rerun `python -m train.crossval`.")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:16]
    path = cache / f"fold-{digest}-{recipe.digest}.onnx"
    from train.model_files import load_network, write_onnx  # PyTorch takes seconds

    make_once(path, lambda part: write_onnx(load_network(run)[0], part, view.size))
    return path
