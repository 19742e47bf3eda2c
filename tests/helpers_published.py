"""Throw-away published trees: small noise images in the layouts and sizes of the real downloads."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_cell(path: Path, seed: int, side: int = 450) -> Path:
    """A BMP of `side` px with a grey block in the middle; equal seeds make equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((side, side, 3), np.uint8)
    blocks = np.random.default_rng(seed).integers(1, 256, (8, 8, 3), dtype=np.uint8)
    margin = (side - 160) // 2
    pixels[margin : margin + 160, margin : margin + 160] = blocks.repeat(20, axis=0).repeat(20, axis=1)
    Image.fromarray(pixels).save(path)
    return path


def write_field(path: Path, seed: int, side: int = 224) -> Path:
    """A JPEG of `side` px of smooth noise; equal seeds make equal bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def write_training_folds(root: Path) -> Path:
    """Eight cells of six subjects in the published folds; 20 and 21, H10 and h3 share an image each."""
    for name, seed in {
        "fold_0/all/UID_20_1_1_all.bmp": 1,
        "fold_0/all/UID_20_2_1_all.bmp": 2,
        "fold_2/all/UID_21_7_3_all.bmp": 2,
        "fold_1/all/UID_5_1_1_all.bmp": 3,
        "fold_0/hem/UID_H7_1_1_hem.bmp": 4,
        "fold_1/hem/UID_H10_1_1_hem.bmp": 5,
        "fold_2/hem/UID_h3_1_1_hem.bmp": 5,
        "fold_2/hem/UID_H3_1_2_hem.bmp": 6,
    }.items():
        write_cell(root / "C-NMC_training_data" / name, seed)
    return root
