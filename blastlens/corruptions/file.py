"""What saving an image does to it: fewer bytes, fewer pixels."""

from io import BytesIO

import numpy as np
from PIL import Image


def jpeg(pixels: np.ndarray, compression: float, seed: int) -> np.ndarray:
    """Through a JPEG file of quality 100 - `compression`."""
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=round(100 - compression))
    return np.array(Image.open(file))


def downsample(pixels: np.ndarray, factor: float, seed: int) -> np.ndarray:
    """Made `factor` times smaller by averaging, and enlarged again. ImageNet-C's pixelate shows the small pixels as
    squares; whoever enlarges a photograph gets them smoothed."""
    image = Image.fromarray(pixels)
    small = tuple(max(1, round(side / factor)) for side in image.size)
    reduced = image.resize(small, Image.Resampling.BOX)  # type: ignore[arg-type]  # a pair, as image.size is
    return np.array(reduced.resize(image.size, Image.Resampling.BILINEAR))
