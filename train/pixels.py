"""The pixels of a prepared dataset, decoded once into one array that training reads from memory.

Decoding lossless WebP costs more than a training step on a small network, so an epoch must not do it again.
"""

import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from datasets import Image, load_dataset
from tqdm.auto import tqdm

from blastlens.images import View, open_image
from train.datasets import Row, dataset_hash


def load_pixels(folder: Path, rows: Sequence[Row], view: View, cache: Path) -> np.ndarray:
    """Return uint8 (N, size, size, 3), what `view` shows of each row's image, in the order of `rows`.

    The array is memory-mapped from a file in `cache` named after the dataset's hash and the view; it is written
    under another name first, so that an interrupted run leaves nothing half-written behind.
    """
    cache.mkdir(parents=True, exist_ok=True)
    key = f"{dataset_hash(rows)[:16]}-{view.size}-{view.frame or 'whole'}-{view.interpolation}"
    path = cache / f"{key}.npy"
    if not path.exists():
        paths = _image_paths(folder)
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".npy", delete=False) as handle:
            part = Path(handle.name)
        try:
            shape = (len(rows), view.size, view.size, 3)
            array = np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=shape)

            def decode(i: int) -> None:
                array[i] = view.apply(open_image(paths[rows[i].file_name]))

            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for _ in tqdm(pool.map(decode, range(len(rows))), total=len(rows), desc="decode", unit="img"):
                    pass
            array.flush()
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return np.load(path, mmap_mode="r")


def _image_paths(folder: Path) -> dict[str, str]:
    """File name in metadata.csv -> path, as `load_dataset("imagefolder")` sees the folder."""
    images = load_dataset("imagefolder", data_dir=str(folder), split="train").cast_column("image", Image(decode=False))
    root = folder.resolve()
    return {Path(i["path"]).resolve().relative_to(root).as_posix(): i["path"] for i in images["image"]}
