"""The networks of one cross-validation, kept beside the model that they vouch for.

    python -m train.folds runs/cv/cnmc --out results/folds/mobilenet_m-cnmc2019

A shipped network was fitted on every image there is, so it cannot say how it does on people it never saw. The fold
networks of its recipe can: each has a third of the groups that it was not trained on. Kept in half precision (what is
measured is exactly what is kept), they let anybody who has the images measure every figure of a card again.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from blastlens.calibration import Scaling
from blastlens.errors import BlastlensError
from blastlens.inference import usable_cores
from blastlens.noise import add_gaussian_noise
from blastlens.view import View
from train.crossval import HeldOut, cross_fitted
from train.datasets import Row, dataset_hash, labels_of, load_rows
from train.datasets.splits import Split, make_splits
from train.export import as_served, load_network, write_onnx
from train.files import make_once, partial_folder, put_in_place, write_json, writing
from train.finetune import contiguous, view_of
from train.networks import create_network, fold_head
from train.pixels import load_pixels
from train.recipe import Recipe

FOLDS = Path(__file__).parents[1] / "results" / "folds"
BATCH = 16

# What is done to a view before the network sees it: uint8 (S, S, 3) and the image's row -> the same.
Change = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True, eq=False)
class Answers:
    """What networks say about images: N of them, in the order asked for.

    Attributes:
        index: (N,) their rows. fold: (N,) which network answered. label: (N,) the truth.
        logits: (N, C), before calibration. probabilities: (N, C), after it.
        features: (N, F), pooled; F is 0 for a network without them.
    """

    index: np.ndarray
    fold: np.ndarray
    label: np.ndarray
    logits: np.ndarray
    probabilities: np.ndarray
    features: np.ndarray


@dataclass(frozen=True, eq=False)
class FoldNetworks:
    """A cross-validation's networks, with the images they are asked about.

    Attributes:
        recipe, protocol, seed: of the cross-validation.
        rows: every image, in the prepared dataset's order. label_names: C of them. labels: (N,) int.
        groups: (N,) str, whom a split may never cut.
        pixels: uint8 (N, S, S, 3), what `view` shows of each image.
        splits: one per fold; its `test` images are the ones that fold's network may be asked about.
        scalings: calibration of each fold's network, fitted on the other folds' held-out images.
        scaling: calibration of the network that was fitted on everything, fitted on all held-out images.
        run: how they were trained, as run.json of train.finetune has it.
        files: each fold's network as ONNX, before calibration.
    """

    recipe: Recipe
    protocol: str
    seed: int
    rows: Sequence[Row]
    label_names: tuple[str, ...]
    labels: np.ndarray
    groups: np.ndarray
    view: View
    pixels: np.ndarray
    splits: tuple[Split, ...]
    scalings: tuple[Scaling, ...]
    scaling: Scaling
    run: dict[str, Any]
    files: tuple[Path, ...]

    @classmethod
    def load(cls, folder: Path, data: Path, cache: Path) -> "FoldNetworks":
        """Read a folder that `write` has made, and the prepared dataset that it was made with.

        Raises:
            BlastlensError: no such folder, or another dataset.
        """
        if not (folder / "folds.json").exists():
            raise BlastlensError(f"{folder} has no folds.json; make it with `python -m train.folds`.")
        record = json.loads((folder / "folds.json").read_text())
        rows = load_rows(data)
        if dataset_hash(rows) != record["dataset_sha256"]:
            raise BlastlensError(f"{data} is not the dataset that the networks of {folder} were trained on.")
        recipe = Recipe.from_dict(record["recipe"])
        names, labels = labels_of(rows)
        view = view_of(recipe)
        files = tuple(
            _onnx(folder / f"fold{k}.safetensors", recipe, names, view, cache) for k in range(len(record["scalings"]))
        )
        return cls(
            recipe=recipe,
            protocol=record["protocol"],
            seed=record["seed"],
            rows=rows,
            label_names=tuple(names),
            labels=labels,
            groups=np.array([row.group for row in rows]),
            view=view,
            pixels=load_pixels(data, rows, view, cache),
            splits=tuple(make_splits(record["protocol"], rows, record["seed"])),
            scalings=tuple(map(_scaling, record["scalings"])),
            scaling=_scaling(record["scaling"]),
            run=record["run"],
            files=files,
        )

    @cached_property
    def sessions(self) -> tuple[ort.InferenceSession, ...]:
        """Each fold's network in ONNX Runtime, on one core: callers run several images at a time."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        return tuple(ort.InferenceSession(str(f), options, providers=["CPUExecutionProvider"]) for f in self.files)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of the networks, their calibration and the images."""
        told = [*(file.name for file in self.files), str(self.scalings), dataset_hash(self.rows)]
        return hashlib.sha256("\n".join(told).encode()).hexdigest()[:16]

    @cached_property
    def fold_of(self) -> np.ndarray:
        """(N,) the fold in whose test part each image is."""
        fold = np.full(len(self.rows), -1)
        for k, split in enumerate(self.splits):
            fold[list(split.test)] = k
        return fold

    def every(self, step: int) -> np.ndarray:
        """Rows of every `step`-th image of each group, its first included: (n,), sorted. 1 is all of them."""
        chosen = [np.flatnonzero(self.groups == group)[::step] for group in np.unique(self.groups)]
        return np.sort(np.concatenate(chosen))

    def held_out(self, change: Change | None = None, index: np.ndarray | None = None, what: str = "") -> Answers:
        """Each image answered by the network that was not trained on its group, after `change`.

        Args:
            change: done to the view, by several threads at once; None for nothing.
            index: (n,) rows of the images; all by default.
            what: named by the progress bar; none is shown without it.
        """
        chosen = np.arange(len(self.rows)) if index is None else np.asarray(index)
        return self._answers(chosen, self.fold_of[chosen], change, what)

    def noisy(self, sigma: float) -> Answers:
        """`held_out` of every image under Gaussian noise, each image's field seeded with its row; kept for the next
        who asks."""
        if sigma not in self._noisy:

            def change(view: np.ndarray, row: int) -> np.ndarray:
                return add_gaussian_noise(view, sigma, seed=row)

            self._noisy[sigma] = self.held_out(change, what=f"noise, sigma {sigma:g}")
        return self._noisy[sigma]

    def recall(self, cv: Path) -> None:
        """Take answers under noise from the predictions of the cross-validation itself, in `cv`, not from the networks.

        Raises:
            BlastlensError: no such runs, or predictions of other images or splits.
        """
        held_out = HeldOut.read(runs_of(cv, self.seed))
        order = np.argsort(held_out.index)
        if not np.array_equal(held_out.fold[order], self.fold_of):
            raise BlastlensError(f"{cv} is not the cross-validation whose networks were kept.")
        for sigma, logits in zip(held_out.sigmas.tolist(), held_out.logits[:, order], strict=True):
            probabilities = np.empty(logits.shape)
            for k, scaling in enumerate(self.scalings):
                probabilities[self.fold_of == k] = scaling.apply(logits[self.fold_of == k])
            everything = np.arange(len(order))
            nothing = np.empty((len(order), 0), np.float32)
            self._noisy[sigma] = Answers(everything, self.fold_of, self.labels, logits, probabilities, nothing)

    def predictions(self, sigmas: Sequence[float]) -> HeldOut:
        """Held-out logits of every image at each sigma, as a cross-validation records them."""
        answers = [self.noisy(sigma) for sigma in sigmas]
        first = answers[0]
        return HeldOut(
            np.array(sigmas), first.index, first.label, first.fold, np.stack([a.logits for a in answers]), self.groups
        )

    @cached_property
    def _noisy(self) -> dict[float, Answers]:
        return {}

    def of_fold(self, fold: int, index: np.ndarray, change: Change | None = None, what: str = "") -> Answers:
        """Images (n,) answered by one fold's network, whether or not it was trained on them."""
        return self._answers(np.asarray(index), np.full(len(index), fold), change, what)

    def of_views(self, fold: int, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits (n, C) and features (n, F) that one fold's network gives any views, uint8 (n, S, S, 3)."""
        found = [self._run(fold, views[start : start + BATCH]) for start in range(0, len(views), BATCH)]
        return np.concatenate([f[0] for f in found]), np.concatenate([f[1] for f in found])

    def _run(self, fold: int, views: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        session = self.sessions[fold]
        names = [output.name for output in session.get_outputs() if output.name != "cam"]
        found = dict(zip(names, session.run(names, {"pixel_values": self.view.normalise(views)}), strict=True))
        return found["logits"], found.get("features", np.empty((len(views), 0), np.float32))

    def _answers(self, index: np.ndarray, fold: np.ndarray, change: Change | None, what: str) -> Answers:
        def one(place: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            views = [np.asarray(self.pixels[i]) for i in index[place]]
            if change:
                views = [change(view, int(i)) for view, i in zip(views, index[place], strict=True)]
            return (place, *self._run(fold[place[0]], np.stack(views)))

        places = [
            np.flatnonzero(fold == k)[start : start + BATCH]
            for k in np.unique(fold)
            for start in range(0, int((fold == k).sum()), BATCH)
        ]
        with ThreadPoolExecutor(usable_cores()) as pool:
            done = list(tqdm(pool.map(one, places), total=len(places), desc=what, unit="batch", disable=not what))
        order = np.argsort(np.concatenate([place for place, _, _ in done]))
        logits = np.concatenate([found for _, found, _ in done])[order]
        probabilities = np.empty(logits.shape, np.float64)
        for k in np.unique(fold):
            probabilities[fold == k] = self.scalings[k].apply(logits[fold == k])
        features = np.concatenate([found for _, _, found in done])[order]
        return Answers(index, fold, self.labels[index], logits, probabilities, features)


def _onnx(weights: Path, recipe: Recipe, names: Sequence[str], view: View, cache: Path) -> Path:
    """One fold's network as an ONNX file in `cache`, named after its weights."""
    path = cache / f"fold-{hashlib.sha256(weights.read_bytes()).hexdigest()[:16]}-{recipe.digest}.onnx"

    def write_network(part: Path) -> None:
        network = create_network(recipe, len(names), "scratch")
        fold_head(network)  # as it was kept
        network.load_state_dict({name: t.float() for name, t in load_file(weights).items()})
        write_onnx(as_served(network.eval(), recipe, names), part, view.size)

    make_once(path, write_network)
    return path


def _scaling(record: dict[str, Any]) -> Scaling:
    return Scaling(record["temperature"], tuple(record["bias"]))


def write(cv: Path, seed: int, out: Path) -> None:
    """Keep the networks of one seed of a cross-validation, in half precision, with their calibration.

    Raises:
        BlastlensError: no such runs, one that is not finished, weights that do not fit half precision, or no room.
    """
    with partial_folder(out) as partial:
        _write(cv, seed, partial)
        put_in_place(out, partial)


def _write(cv: Path, seed: int, out: Path) -> None:
    runs = runs_of(cv, seed)
    held_out = HeldOut.read(runs)
    for k, run in enumerate(runs):
        network, record = load_network(run)
        state = contiguous((network.network if hasattr(network, "network") else network).state_dict())
        half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
        if not all(torch.isfinite(tensor).all() for tensor in half.values()):
            raise BlastlensError(f"The weights of {run} are too large for half precision.")
        with writing(out):
            save_file(half, out / f"fold{k}.safetensors")
    scalings = cross_fitted(held_out)
    kept: dict[str, Any] = {
        "recipe": record["recipe"],
        "protocol": record["protocol"],
        "seed": record["seed"],
        "dataset_sha256": record["dataset"]["hash"],
        "scalings": [asdict(scalings[k]) for k in range(len(runs))],
        "scaling": json.loads((cv / "summary.json").read_text())["scaling"],
        "run": {k: record[k] for k in ("initial_weights", "precision", "dataset", "versions")},
    }
    write_json(out / "folds.json", kept)


def runs_of(folder: Path, seed: int) -> list[Path]:
    """The run folders of one seed of a cross-validation, fold by fold."""
    found: Iterator[Path] = folder.glob(f"seed{seed}-fold*")
    runs = sorted(found, key=lambda path: int(path.name.rpartition("fold")[2]))
    if not runs:
        raise BlastlensError(f"{folder} has no runs of seed {seed}; make them with `python -m train.crossval`.")
    return runs


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.folds", description=__doc__.splitlines()[0])
    parser.add_argument("cv", type=Path, help="folder of train.crossval")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        write(arguments.cv, arguments.seed, arguments.out)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
