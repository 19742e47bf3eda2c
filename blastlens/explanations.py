"""Which parts of an image support a label: class activation maps, or occlusion where a network has none."""

import numpy as np
from PIL import Image

from .inference import Network

GRID = 7  # positions of the occluding square along each side; the square is two of its steps wide


def explanation(network: Network, view: np.ndarray, label: int) -> np.ndarray:
    """Map the support for a label.

    A class activation map (Zhou et al. 2016, arXiv:1512.04150) is the last linear layer applied to every position of
    the last feature map. Networks that do not end in average pooling and one linear layer are explained by occlusion
    (Zeiler & Fergus 2014, arXiv:1311.2901): how much the logit, relative to the mean of the others, falls when a square
    of the image's mean color covers a place. That takes `GRID` ** 2 runs of the network.

    Args:
        view: uint8 (S, S, 3).
        label: its index.

    Returns:
        float32 (S, S) in 0..1, scaled for each image, so that the strengths of two images do not compare; all zeros
        where it is constant.
    """
    size = view.shape[0]
    if "cam" in network.outputs:
        (maps,) = network.run(["cam"], [view])
        coarse = maps[0, label]
    else:
        coarse = _occlusion(network, view, label)
    heat = np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BILINEAR))
    low, high = heat.min(), heat.max()
    return (heat - low) / (high - low) if high > low else np.zeros_like(heat)


def _occlusion(network: Network, view: np.ndarray, label: int) -> np.ndarray:
    """Return float32 (GRID, GRID): the support that is lost when a square covers each place."""
    edges = np.linspace(0, view.shape[0], GRID + 2).round().astype(int)  # the squares overlap by half
    color = view.mean((0, 1)).round().astype(np.uint8)
    covered = [view]
    for top, bottom in zip(edges[:-2], edges[2:], strict=True):
        for left, right in zip(edges[:-2], edges[2:], strict=True):
            covered.append(view.copy())
            covered[-1][top:bottom, left:right] = color
    (logits,) = network.run(["logits"], covered)
    support = logits[:, label] - np.delete(logits, label, axis=1).mean(1)
    return (support[0] - support[1:]).astype(np.float32).reshape(GRID, GRID)
