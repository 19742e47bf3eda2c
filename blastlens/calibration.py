"""Calibration of probabilities: softmax(logits / temperature + bias), fitted on held-out predictions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .metrics import Floats, one_hot, softmax


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

    The loss is convex in (1 / temperature, bias), so Newton's method finds its one minimum. The quadratic penalty,
    penalty / 2 * ((1 / temperature - 1)^2 + |bias|^2), keeps the solution finite for separable or one-class data.

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
    n_classes = z.shape[1]
    truth = one_hot(y, n_classes)
    # One column per parameter: the scores of the classes are features @ parameters.
    per_class = [np.broadcast_to(np.eye(n_classes), (len(z), n_classes, n_classes))] if bias else []
    features = np.concatenate([z[:, :, None], *per_class], axis=2)
    start = np.eye(features.shape[2])[0]

    def loss(parameters: Floats) -> float:
        scores = features @ parameters
        peak = scores.max(axis=1)
        nats = np.log(np.exp(scores - peak[:, None]).sum(axis=1)) + peak - (scores * truth).sum(axis=1)
        return float(w @ nats) + penalty / 2 * float(((parameters - start) ** 2).sum())

    def limited(parameters: Floats) -> Floats:
        return np.concatenate([parameters[:1].clip(0.01, 100), parameters[1:]])

    found, best = start, loss(start)
    for _ in range(100):
        p = softmax(features @ found)
        mean = np.einsum("nc,ncf->nf", p, features)
        gradient = np.einsum("n,nc,ncf->f", w, p - truth, features) + penalty * (found - start)
        hessian = np.einsum("n,nc,ncf,ncg->fg", w, p, features, features, optimize=True)
        hessian += penalty * np.eye(len(found)) - np.einsum("n,nf,ng->fg", w, mean, mean)
        step, length = np.linalg.solve(hessian, gradient), 1.0
        while length > 1e-9 and loss(limited(found - length * step)) > best:
            length /= 2
        moved = limited(found - length * step)
        if best - loss(moved) < 1e-12:
            break
        found, best = moved, loss(moved)
    by_class = found[1:] - found[1:].mean() if bias else np.zeros(n_classes)
    return Scaling(float(1 / found[0]), tuple(by_class.tolist()))
