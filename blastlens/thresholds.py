"""Thresholds on the probabilities of one image: whether it is flagged, and which labels cannot be ruled out.

They are chosen and tested on held-out patients (`train.calibration_evaluation`) and stored in metrics.json under
"calibration".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import BlastlensError


@dataclass(frozen=True)
class Decision:
    """The thresholds of one model; None if its folder has none, or none that held on held-out images.

    Attributes:
        leukemic: the labels whose probabilities together are that of leukemia.
        flag_from: the probability of leukemia from which an image is flagged, 0 to 1.
        asked: the nominal share of images whose set holds the true label, 0 to 1.
        sets: by label, the probability from which it is in the set, 0 to 1.
    """

    leukemic: tuple[str, ...] = ()
    flag_from: float | None = None
    asked: float | None = None
    sets: Mapping[str, float] | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, Any] | None) -> "Decision | None":
        """From "calibration" of a metrics.json; None if it has no thresholds.

        Raises:
            BlastlensError: invalid values.
        """
        if record is None:
            return None
        try:
            point, sets = record.get("operating_point"), record.get("prediction_sets")
            decision = cls()
            if point is not None:
                decision = cls(tuple(map(_name, point["labels"])), _share(point["threshold"]))
            if sets is not None and sets["holds"] is True:
                thresholds = {_name(label): _share(value) for label, value in sets["thresholds"].items()}
                decision = cls(decision.leukemic, decision.flag_from, _share(sets["asked"]), thresholds)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BlastlensError(
                f"The calibration in metrics.json cannot be read ({error!r}); write it with `python -m train.evaluate`."
            ) from None
        return None if decision == cls() else decision

    def flagged(self, probabilities: Mapping[str, float]) -> bool | None:
        """Whether an image with these probabilities by label is flagged; None without a threshold."""
        if self.flag_from is None:
            return None
        return math.fsum(probabilities.get(label, 0.0) for label in self.leukemic) >= self.flag_from

    def labels(self, probabilities: Mapping[str, float]) -> tuple[str, ...] | None:
        """The labels that cannot be ruled out, the most probable first; None without thresholds."""
        if self.sets is None:
            return None
        names = sorted(probabilities, key=lambda label: -probabilities[label])
        thresholds = [self.sets.get(label, 0.0) for label in names]
        (inside,) = in_set([[probabilities[label] for label in names]], thresholds)
        return tuple(label for label, held in zip(names, inside, strict=True) if held)


def in_set(probabilities: ArrayLike, thresholds: Sequence[float]) -> NDArray[np.bool_]:
    """Which labels are in each image's set, bool (N, C): those that reach their threshold, and the most probable one.

    Args:
        probabilities: (N, C). thresholds: (C,), 0 to 1.
    """
    p = np.asarray(probabilities, dtype=np.float64)
    inside = p >= np.asarray(thresholds)
    inside[np.arange(len(p)), p.argmax(axis=1)] = True
    return inside


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no label")
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1")
    return float(value)
