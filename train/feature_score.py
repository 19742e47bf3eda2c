"""The distribution of a network's pooled features: fitted to training images, kept as safetensors without pickle.

`blastlens.ood_detection.FeatureScore` computes a score from it; `train.ood_fitting` sets its limit.
"""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from blastlens.errors import BlastlensError
from blastlens.ood_detection import FeatureScore
from train.files import replace

DIRECTIONS = 64  # principal ones with a variance of their own


def fit_features(features: np.ndarray, directions: int = DIRECTIONS) -> FeatureScore:
    """The distribution of features (N, F) of training images; its limit is still infinite.

    Of N images at most N / 4 directions have a variance of their own. What is kept is what is used: everything is
    rounded as `write_features` writes it.

    Raises:
        BlastlensError: fewer than four images, or a network without features.
    """
    images, length = features.shape
    kept = min(directions, length - 1, images // 4)
    if kept < 1:
        raise BlastlensError("A feature score needs a network with pooled features, and four training images or more.")
    mean = features.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(features - mean, full_matrices=False)
    variances = values**2 / images
    # Directions in which nothing ever varies would make any difference infinite.
    floor = max(float(variances.sum()) * 1e-6 / length, 1e-18)
    deviations = np.sqrt(np.maximum(variances[:kept], floor))
    rest = np.sqrt(max(float(variances[kept:].sum()) / (length - kept), floor))
    rounded = {
        name: array.astype(np.float32).astype(np.float64)
        for name, array in {"mean": mean, "directions": axes[:kept] / deviations[:, None], "rest": rest[None]}.items()
    }
    return FeatureScore.from_tensors(rounded, float("inf"))


def write_features(score: FeatureScore, file: Path) -> None:
    """Write a distribution, whole or not at all; raises BlastlensError where that cannot be done."""
    arrays = {"mean": score.mean, "directions": score.directions, "rest": np.array([score.rest])}
    tensors = {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    replace(file, lambda part: save_file(tensors, part))
