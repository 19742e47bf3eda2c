"""What a classifier returns: the prediction of one image, and a curve of predictions under corruption."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

DISCLAIMER = "Research demonstration, not a medical device."


@dataclass(frozen=True)
class Prediction:
    """The classification of one image.

    Attributes:
        label: the most probable label.
        probabilities: softmax of the logits by label, in the model's order, at `prevalence`.
        logits: one per label, in the same order.
        warnings: short remarks that limit what this prediction means. The first is about the model: its external
            validation in one sentence; the others are about the image.
        model_id, revision: which model; revision is None unless it came from the Hub.
        sigma: of the Gaussian noise that was added, on the 0 to 255 scale.
        corruption: applied to the view before the noise, as {"kind", "level"}; None if none was.
        in_domain: whether the image looks like the training images; if not, warnings say why. None if the model folder
            has no gate.json.
        label_set: the labels that cannot be ruled out, at the confidence that metrics.json states; None if the folder
            has no such thresholds, or found that they do not hold.
        flagged: whether this reaches the operating point; None if the folder has none. This and `label_set` are
            thresholds on the probabilities at the model's own prevalence and do not depend on `prevalence`.
        suggestion: id of another model whose training images this one looks like; see `suggesting`.
        prevalence: the share of leukemic images that the probabilities assume; None if the model states none.
        statistics: of the view without corruption, by the names of `ood_detection.STATISTICS`; None without gate.json.
    """

    label: str
    probabilities: dict[str, float]
    logits: tuple[float, ...]
    warnings: tuple[str, ...]
    model_id: str
    revision: str | None
    sigma: float
    corruption: dict[str, Any] | None = None
    in_domain: bool | None = None
    label_set: tuple[str, ...] | None = None
    flagged: bool | None = None
    suggestion: str | None = None
    prevalence: float | None = None
    disclaimer: str = DISCLAIMER
    statistics: dict[str, float] | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values, without `statistics`."""
        return {name: value for name, value in vars(self).items() if name != "statistics"} | {
            "probabilities": dict(self.probabilities),
            "logits": list(self.logits),
            "warnings": list(self.warnings),
            "corruption": self.corruption and dict(self.corruption),
            "label_set": None if self.label_set is None else list(self.label_set),
        }


@dataclass(frozen=True, eq=False)
class Curve:
    """The probabilities of one image under one kind of corruption at several levels.

    Attributes:
        kind: of corruption, a name in `corruptions.KINDS`.
        levels: S levels, in the order given.
        probabilities: float (S, C), the mean over the seeds.
        low, high: float (S, C), minimum and maximum over the seeds.
        label_names: of the C columns.
        flip_level: the level nearest to neutral whose most probable label differs from that of the unchanged image;
            None if there is none.
    """

    kind: str
    levels: tuple[float, ...]
    probabilities: np.ndarray
    low: np.ndarray
    high: np.ndarray
    label_names: tuple[str, ...]
    flip_level: float | None

    @property
    def sigmas(self) -> tuple[float, ...]:
        """The levels; of Gaussian noise, sigmas on the 0 to 255 scale."""
        return self.levels

    @property
    def flip_sigma(self) -> float | None:
        """The flip level; of Gaussian noise, a sigma."""
        return self.flip_level
