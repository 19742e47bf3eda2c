"""One decision per subject from all of their cells, or none where these differ from those of every training donor.

A subject is classified as leukemic where the mean probability of leukemia over their images reaches a threshold. There
is no decision where the images are, on average, unlike those of all training donors in size, stain and texture: each
image may then pass the OOD check, which knows the spread of single cells, while their mean does not.

The record is the block "subjects" of metrics.json; `train.subject_evaluation` fits and measures it. Image statistics
are those of `ood_detection`, so they are computed once for each image.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .errors import BlastlensError
from .metrics import Interval
from .ood_detection import STATISTICS

# Those of size, stain and texture; position and outline say more about the segmentation than about the subject.
_NOT_MEASURED = ("black_border", "spread", "off_centre")
MEASURES = tuple(name for name in STATISTICS if name not in _NOT_MEASURED)
MIN_IMAGES = 3  # of a subject who is decided on


@dataclass(frozen=True, eq=False)
class DonorCheck:
    """How far a subject's mean statistics are from those of the nearest training donor.

    Attributes:
        center: (K,) of the donors' means of `MEASURES`. axes: (K, K), from differences to it to units in which donors
            have unit variance and no correlation. donors: (D, K), their means in these units.
        limit: the largest distance at which there is a decision.
    """

    center: np.ndarray
    axes: np.ndarray
    donors: np.ndarray
    limit: float

    def distance(self, mean: np.ndarray) -> float:
        """Of a subject's mean statistics (K,) to the nearest donor; infinite where one is not a number."""
        away = np.linalg.norm((mean - self.center) @ self.axes - self.donors, axis=1).min()
        return float(away) if math.isfinite(away) else math.inf


@dataclass(frozen=True)
class SubjectDecision:
    """The label of a subject, None where there is no decision, and why there is none ("" where there is one)."""

    label: str | None
    reason: str = ""


@dataclass(frozen=True, eq=False)
class SubjectDecider:
    """The rule of a model folder.

    Attributes:
        labels: if the mean is below the threshold, and from it on. threshold: of the mean probability of leukemia.
        measured: sentence that states sensitivity, specificity and abstentions on held-out subjects.
    """

    labels: tuple[str, str]
    threshold: float
    check: DonorCheck
    measured: str

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "SubjectDecider | None":
        """Read the block "subjects" of metrics.json; None if there is none.

        Raises:
            BlastlensError: a block that cannot be used.
        """
        block = metrics.get("subjects")
        if block is None:
            return None
        try:
            check = block["check"]
            if tuple(check["measures"]) != MEASURES:
                raise ValueError("other measures")
            arrays = [np.asarray(check[name], np.float64) for name in ("center", "axes", "donors")]
            numbers = float(check["limit"]), float(block["threshold"])
            shapes = (len(MEASURES),), (len(MEASURES),) * 2, (len(arrays[2]), len(MEASURES))
            healthy, leukemic = map(str, block["labels"])
            finite = all(np.isfinite(one).all() for one in (*arrays, np.array(numbers)))
            if tuple(one.shape for one in arrays) != shapes or not len(arrays[2]) or not finite:
                raise ValueError("numbers are missing")
            measured = measured_sentence(block)
        except (KeyError, TypeError, ValueError) as error:
            raise BlastlensError(
                f"The block subjects of metrics.json cannot be used ({error}); fit it again with "
                "`python -m train.subject_evaluation`, or delete it."
            ) from None
        return cls((healthy, leukemic), numbers[1], DonorCheck(arrays[0], arrays[1], arrays[2], numbers[0]), measured)

    def decide(self, images: int, probability: float, mean: np.ndarray) -> SubjectDecision:
        """Decide on one subject.

        Args:
            images: number of the subject's images.
            probability: mean over them of that of leukemia, at the model's own prevalence.
            mean: (K,) of their `MEASURES`, see `mean_statistics`.
        """
        if images < MIN_IMAGES:
            return SubjectDecision(None, f"fewer than {MIN_IMAGES} images")
        distance = self.check.distance(mean)
        if distance > self.check.limit:
            return SubjectDecision(
                None,
                "on average, the images are unlike those of every training donor in size, stain or texture (distance "
                f"{distance:.1f}, limit {self.check.limit:.1f})",
            )
        return SubjectDecision(self.labels[probability >= self.threshold])


def mean_statistics(statistics: Iterable[Mapping[str, float] | None]) -> np.ndarray:
    """Means (K,) of `MEASURES` over images; an image without a lit pixel has no statistics and does not count."""
    rows = [[one[name] for name in MEASURES] for one in statistics if one]
    values = np.array(rows, np.float64).reshape(-1, len(MEASURES))
    values = values[np.isfinite(values).all(axis=1)]
    return values.mean(axis=0) if len(values) else np.full(len(MEASURES), math.nan)


def measured_sentence(block: Mapping[str, Any]) -> str:
    """What was measured on held-out subjects; raises KeyError, TypeError or ValueError where the record lacks it."""
    found = block["measured"]

    def shown(name: str) -> str:
        interval = Interval(*(float(found[name][key]) for key in ("value", "low", "high")))
        return f"{interval.value:.2f} ({interval.low:.2f} to {interval.high:.2f})"

    return (
        f"Decisions by subject, on held-out subjects ({block['protocol']}, {len(block['seeds'])} split seeds, "
        f"{int(found['leukemic'])} leukemic and {int(found['healthy'])} healthy): sensitivity {shown('sensitivity')}, "
        f"specificity {shown('specificity')}, no decision for {shown('abstained')} of the subjects."
    )
