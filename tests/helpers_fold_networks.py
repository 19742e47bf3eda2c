"""Fold networks that classify by a known rule, on synthetic images in which we know what carries the class."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from blastlens.noise import add_gaussian_noise
from blastlens.view import View
from train.calibration import Scaling
from train.datasets import Row
from train.datasets.splits import make_splits
from train.folds import FoldNetworks
from train.held_out import HeldOut
from train.recipe import Recipe

SIDE = 64
LABELS = {"cnmc2019": ("ALL", "HEM"), "aria2021": ("Benign", "Early", "Pre", "Pro")}
Rule = Callable[[np.ndarray], np.ndarray]  # uint8 (S, S, 3) -> logits (C,)


class Session:
    """What FoldNetworks needs of an ONNX session; computes logits by a rule."""

    class Output:
        name = "logits"

    def __init__(self, rule: Rule):
        self.rule = rule

    def get_outputs(self):
        return [self.Output]

    def run(self, names, feed):
        views = np.rint(feed["pixel_values"].transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        return [np.stack([self.rule(view) for view in views]).astype(np.float32)]


def cell(radius: float, colour: tuple[int, int, int], grain: int, rng: np.random.Generator) -> np.ndarray:
    """A disc on black near the middle, `grain` the spread of its brightness."""
    y, x = np.indices((SIDE, SIDE)) - SIDE / 2 + rng.uniform(-2, 2, (2, 1, 1))
    pixels = np.array(colour) + rng.normal(0, 1, (SIDE, SIDE, 1)) * grain
    return np.where((x**2 + y**2 <= radius**2)[..., None], pixels.clip(20, 250), 0).astype(np.uint8)


def field(nuclei: int, mark: tuple[int, int, int] | None, rng: np.random.Generator) -> np.ndarray:
    """Light ground with violet discs, and a block of one colour in the lower right corner."""
    pixels = np.broadcast_to(np.array((235, 235, 240)), (SIDE, SIDE, 3)) + rng.normal(0, 2, (SIDE, SIDE, 1))
    y, x = np.indices((SIDE, SIDE))
    for n in range(nuclei):  # on a grid of four by three that stays clear of the corner
        away = (x - 8 - 16 * (n % 4)) ** 2 + (y - 8 - 16 * (n // 4)) ** 2
        pixels = np.where((away <= 25)[..., None], (120, 60, 190), pixels)
    if mark:
        pixels[-8:, -8:] = mark
    return pixels.clip(0, 255).astype(np.uint8)


def networks_of(
    dataset: str,
    images: dict[str, list[np.ndarray]],
    rule: Rule,
    subjects: bool = True,
    sigmas: Sequence[float] = (0, 10),
) -> FoldNetworks:
    """Two folds, four groups of every label with images in turn; both networks use `rule`, uncalibrated."""
    labels = LABELS[dataset]
    rows, pixels = [], []
    for label in labels:
        for i, image in enumerate(images[label]):
            group = f"{label}-{i % 4}"
            rows.append(Row(f"{label}-{i}.png", label, group if subjects else "", group, "", f"{label}{i:04d}"))
            pixels.append(image)
    recipe = {"name": "made-up", "title": "made up", "dataset": dataset, "backbone": "mobilenetv2_035"}
    recipe |= {"protocol": "group-kfold:2", "image_size": SIDE, "batch_size": 8, "epochs": 1}
    recipe |= {"optimizer": {"name": "adamw", "lr": 0.002}}
    splits = tuple(make_splits("group-kfold:2", rows, 0))
    fold = np.array([next(k for k, split in enumerate(splits) if i in split.test) for i in range(len(rows))])
    noisy = [[add_gaussian_noise(view, sigma, seed=i) for i, view in enumerate(pixels)] for sigma in sigmas]
    logits = np.array([[rule(view) for view in views] for views in noisy], float)
    truth, groups = np.array([labels.index(row.label) for row in rows]), np.array([row.group for row in rows])
    networks = FoldNetworks(
        recipe=Recipe.from_dict(recipe),
        protocol="group-kfold:2",
        seed=0,
        rows=rows,
        label_names=labels,
        labels=truth,
        view=View(SIDE, None, "bicubic", (0.0,) * 3, (1.0,) * 3),
        pixels=np.stack(pixels),
        splits=splits,
        predictions=HeldOut(
            np.array(sigmas, float), np.arange(len(rows)), truth, fold, logits, groups, np.zeros_like(fold)
        ),
        scalings=(Scaling.identity(len(labels)),) * 2,
        files=(Path("fold0.onnx"), Path("fold1.onnx")),  # never opened
    )
    vars(networks)["sessions"] = (Session(rule),) * 2
    return networks
