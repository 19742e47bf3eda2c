"""The same work on many images, in threads: Pillow, numpy and ONNX Runtime release the GIL."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from blastlens.inference import usable_cores


def in_threads(
    work: Callable[[Any], Any], items: Sequence[Any] | np.ndarray, title: str = "", unit: str = "img"
) -> list[Any]:
    """`[work(item) for item in items]`, with a progress bar if it has a title."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            found = pool.map(work, items)
            return list(tqdm(found, total=len(items), desc=title, unit=unit, mininterval=0.5, disable=not title))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # or Ctrl-C would wait for every image that is left
            raise
