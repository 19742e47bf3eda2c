"""Calibration of probabilities: softmax(logits / temperature + bias), fitted on held-out predictions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import logsumexp

from blastlens.metrics import Floats, one_hot, softmax


@dataclass(frozen=True)
class Scaling:
    """Turns logits into calibrated probabilities; `bias` holds one number per class and sums to 0."""

    temperature: float
    bias: tuple[float, ...]

    @classmethod
    def identity(cls, n_classes: int) -> "Scaling":
        """Plain softmax."""
        return cls(1.0, (0.0,) * n_classes)

    def apply(self, logits: ArrayLike) -> Floats:
        """Probabilities (N, C) of logits (N, C)."""
        return softmax(np.asarray(logits, dtype=np.float64) / self.temperature + np.asarray(self.bias))


def fit_scaling(
    logits: ArrayLike, labels: ArrayLike, weights: ArrayLike | None = None, bias: bool = True, penalty: float = 1e-2
) -> Scaling:
    """The scaling with the smallest log loss: bias-corrected temperature scaling (Alexandari et al. 2020,
    arXiv:1901.06852), or without `bias` temperature scaling (Guo et al. 2017, arXiv:1706.04599).

    The loss is convex in (1 / temperature, bias). The quadratic penalty, penalty / 2 * ((1 / temperature - 1)^2 +
    |bias|^2), keeps the solution finite for separable or one-class data.

    Args:
        logits: (N, C).
        labels: (N,) class indices.
        weights: (N,) of the images in the loss, 0 or more; equal by default.

    Returns:
        A temperature in 0.01 to 100, and a bias, all zero without `bias`.

    Raises:
        ValueError: shapes that disagree, labels out of range, values that are not finite.
    """
    z, y = np.asarray(logits, dtype=np.float64), np.asarray(labels)
    if z.ndim != 2 or y.shape != z.shape[:1] or not len(z) or not np.isfinite(z).all():
        raise ValueError(f"expected finite logits (N, C) and labels (N,), got {z.shape} and {y.shape}")
    w = np.ones(len(z)) if weights is None else np.asarray(weights, dtype=np.float64)
    w = w / w.sum()
    z = z - z.mean(axis=1, keepdims=True)  # softmax ignores a row's mean; large ones cost precision
    truth = one_hot(y, z.shape[1])
    start = np.array([1.0] + [0.0] * (z.shape[1] if bias else 0))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        scores = parameters[0] * z + (parameters[1:] if bias else 0)
        errors = w[:, None] * (softmax(scores) - truth)
        slope = np.append((errors * z).sum(), errors.sum(axis=0) if bias else [])
        nats = logsumexp(scores, axis=1) - (scores * truth).sum(axis=1)
        away = parameters - start
        return float(w @ nats + penalty / 2 * away @ away), slope + penalty * away

    bounds = [(0.01, 100.0)] + [(None, None)] * (len(start) - 1)
    found = minimize(loss, start, jac=True, bounds=bounds, options={"ftol": 1e-15, "gtol": 1e-10}).x
    by_class = found[1:] - found[1:].mean() if bias else np.zeros(z.shape[1])
    return Scaling(float(1 / found[0]), tuple(by_class.tolist()))
