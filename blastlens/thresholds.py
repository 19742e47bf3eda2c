"""Thresholds on the probabilities of one image: whether it is flagged, and which labels cannot be ruled out.

They are chosen and tested on held-out patients (`train.calibration_evaluation`) and stored in metrics.json under
"calibration".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import BlastlensError


@dataclass(frozen=True)
class Thresholds:
    """The thresholds of one model; a value is None if its folder has none, or none that held on held-out images.

    Attributes:
        leukemic: the labels whose probabilities together are that of leukemia.
        flag_from: the probability of leukemia from which an image is flagged, 0 to 1.
        coverage: the nominal share of images whose set holds the true label, 0 to 1.
        sets: by label, the probability from which it is in the set, 0 to 1.
    """

    leukemic: tuple[str, ...] = ()
    flag_from: float | None = None
    coverage: float | None = None
    sets: Mapping[str, float] | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Thresholds":
        """From "calibration" of a metrics.json; raises BlastlensError for invalid values."""
        try:
            point, sets = record.get("operating_point"), record.get("prediction_sets")
            found: dict[str, Any] = {}
            if point is not None:
                found |= {"leukemic": tuple(map(_name, point["labels"])), "flag_from": _share(point["threshold"])}
            if sets is not None and sets["holds"] is True:
                by_label = {_name(label): _share(value) for label, value in sets["thresholds"].items()}
                found |= {"coverage": _share(sets["asked"]), "sets": by_label}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BlastlensError(
                f"The calibration in metrics.json cannot be read ({error!r}); write it with `python -m train.evaluate`."
            ) from None
        return cls(**found)

    def flagged(self, probabilities: Mapping[str, float]) -> bool | None:
        """Whether an image with these probabilities by label is flagged; None without a threshold."""
        if self.flag_from is None:
            return None
        return math.fsum(probabilities.get(label, 0.0) for label in self.leukemic) >= self.flag_from

    def label_set(self, probabilities: Mapping[str, float]) -> tuple[str, ...] | None:
        """The labels that cannot be ruled out, the most probable first; None without thresholds."""
        if self.sets is None:
            return None
        first, *others = sorted(probabilities, key=lambda label: -probabilities[label])
        return (first, *(label for label in others if probabilities[label] >= self.sets.get(label, 0.0)))


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no label")
    return value


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{value!r} is not between 0 and 1")
    return float(value)
