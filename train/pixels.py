"""The pixels of a prepared dataset, decoded once into one array that training reads from memory.

Decoding lossless WebP costs more than a training step on a small network, so an epoch must not do it again.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from blastlens.files import make_once, writing
from blastlens.images import open_image
from blastlens.view import View
from train.datasets import Row, dataset_hash
from train.parallel import in_threads


def load_pixels(folder: Path, rows: Sequence[Row], view: View, cache: Path) -> np.ndarray:
    """Return uint8 (N, size, size, 3), what `view` shows of each row's image, in the order of `rows`.

    The array is memory-mapped from a file in `cache` named after the dataset's hash and the view, which is there whole
    or not at all. Raises BlastlensError where it cannot be written.
    """
    key = f"{dataset_hash(rows)[:16]}-{view.size}-{view.frame or 'whole'}-{view.interpolation}"
    path = cache / f"{key}.npy"
    make_once(path, lambda part: _decode(folder, rows, view, part))
    return np.load(path, mmap_mode="r")


def sharpness(pixels: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Variance of the Laplacian of the brightness, (len(indices),): low for blurred images (Pech-Pacheco et al. 2000,
    "Diatom autofocusing in brightfield microscopy").

    `pixels` is uint8 (N, S, S, 3).
    """
    found = np.empty(len(indices))
    for place, i in enumerate(indices):
        grey = pixels[i].mean(axis=2, dtype=np.float32)
        edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
        found[place] = edges.var()
    return found


def _decode(folder: Path, rows: Sequence[Row], view: View, file: Path) -> None:
    paths = _image_paths(folder)
    array = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(len(rows), view.size, view.size, 3))
    with file.open("r+b") as opened:
        # Where the disk is full, this says so; a page of the map without a place on it would end the process (SIGBUS).
        if hasattr(os, "posix_fallocate"):  # not on macOS and Windows
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)

    def decode(i: int) -> None:
        array[i] = view.apply(open_image(paths[rows[i].file_name]))

    in_threads(decode, range(len(rows)), "decode")
    array.flush()


def _image_paths(folder: Path) -> dict[str, str]:
    """File name in metadata.csv -> path, as `load_dataset("imagefolder")` sees the folder."""
    from datasets import Image, config, load_dataset  # takes seconds

    with writing(Path(config.HF_DATASETS_CACHE)):
        images = load_dataset("imagefolder", data_dir=str(folder), split="train")
    images = images.cast_column("image", Image(decode=False))
    root = folder.resolve()
    return {Path(i["path"]).resolve().relative_to(root).as_posix(): i["path"] for i in images["image"]}
