"""Small prepared datasets of synthetic images, for quick tests of training."""

import csv
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from blastlens.synthetic_images import CELL_BOX, FIELD_FRAME, synthetic_image

CELLS, FIELDS = ("ALL", "HEM"), ("Benign", "Early", "Pre", "Pro")

# A small and quick recipe for single cells.
TINY = {
    "name": "tiny",
    "title": "small and quick",
    "dataset": "cnmc2019",
    "backbone": "mobilenetv2_035",
    "protocol": "group-kfold:2",
    "image_size": 32,
    "batch_size": 8,
    "epochs": 2,
    "optimizer": {"name": "adamw", "lr": 0.002},
}


def drawn_dataset(
    folder: str | os.PathLike[str],
    labels: Sequence[str],
    per_group: int,
    groups_per_label: int,
    size: int = FIELD_FRAME,
    seed: int = 0,
) -> Path:
    """Write a small prepared dataset of drawn images into `folder`, in the form the published ones are prepared to.

    Cells are cropped to the centre and resized as C-NMC is; labels of cells are lower case in the table. Each group has
    its own tint and magnification, so that groups matter as they do in real data; groups are spread over three folds.
    """
    folder = Path(folder)
    rows = []
    for label in labels:
        cells = label in CELLS
        name = label.lower() if cells else label
        for number in range(groups_per_label):
            rng = np.random.default_rng([seed, sorted([*CELLS, *FIELDS]).index(label), number])
            tint = np.exp(rng.normal(0, 0.06) + rng.normal(0, 0.03, 3))
            side = CELL_BOX * rng.uniform(0.93, 1.07) if cells else FIELD_FRAME * rng.uniform(0.87, 1)
            group, fold = f"drawn-{name}-{number}", f"fold_{number % 3}"
            (folder / fold / name).mkdir(parents=True, exist_ok=True)
            for i in range(per_group):
                image_seed = seed * 1_000_000 + number * per_group + i
                original = synthetic_image(label, image_seed)
                margin = (original.width - side) / 2
                box = (margin, margin, original.width - margin, original.height - margin)
                image = original.resize((size, size), Image.Resampling.LANCZOS, box=box)
                tinted = np.clip(np.rint(np.asarray(image) * tint), 0, 255).astype(np.uint8)
                file_name = f"{fold}/{name}/{group}-{i}.png"
                Image.fromarray(tinted).save(folder / file_name)
                digest = hashlib.sha256(original.tobytes()).hexdigest()
                rows.append((file_name, name, group, group, fold, digest))
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file_name", "label", "subject", "group", "fold", "sha256_of_original_drawn"))
        writer.writerows(rows)
    return folder
