"""What the images of one patient say together. Pure: no files, no models."""

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .image_sources import natural
from .metrics import Interval

# By the labels of a model: which of them are leukemia.
LEUKEMIC = {("ALL", "HEM"): ("ALL",), ("Benign", "Early", "Pre", "Pro"): ("Early", "Pre", "Pro")}
# The normal distribution's 97.5 % quantile.
NORMAL_QUANTILE = 1.959963984540054

CAVEAT = (
    "The intervals treat the images of a patient as independent. They are not, since they share a slide and a "
    "stain, so the true uncertainty is larger. None of this is a diagnosis."
)


@dataclass(frozen=True)
class Answer:
    """What counts of one answered image.

    Attributes:
        subject: the patient, None where nobody said.
        leukemic: whether the label is one of leukemia.
        probability: of leukemia: that of all such labels together, 0 to 1.
        fits: whether the image looks like those that the model knows; True where nobody checked.
    """

    subject: str | None
    leukemic: bool
    probability: float
    fits: bool = True


@dataclass(frozen=True)
class Patient:
    """The images of one patient together.

    Attributes:
        subject: None for the images that nobody said a patient of.
        images, leukemic: how many there are, and how many of them were called leukemic.
        share: leukemic / images, with its 95 % Wilson interval.
        mean: mean probability of leukemia, with a 95 % interval by Student's t over the images, cut off at 0 and 1;
            without spread, as of a single image, both ends are NaN.
        lowest, highest: probability of leukemia.
        unlike: how many of the images do not look like those that the model knows; their answers count all the same.
    """

    subject: str | None
    images: int
    leukemic: int
    share: Interval
    mean: Interval
    lowest: float
    highest: float
    unlike: int


def leukemic_labels(label_names: Sequence[str]) -> tuple[str, ...]:
    """Which labels of a model are leukemia; () for a model of other labels, of which nothing is known."""
    return LEUKEMIC.get(tuple(label_names), ())


def by_patient(answers: Iterable[Answer]) -> list[Patient]:
    """One Patient for each subject, in natural order; the images without a subject come last, as one."""
    groups: dict[str | None, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.subject, []).append(answer)
    named = sorted((subject for subject in groups if subject is not None), key=natural)
    subjects = [*named, *([None] if None in groups else [])]
    return [_patient(subject, groups[subject]) for subject in subjects]


def _patient(subject: str | None, answers: Sequence[Answer]) -> Patient:
    probabilities = [answer.probability for answer in answers]
    leukemic = sum(answer.leukemic for answer in answers)
    return Patient(
        subject=subject,
        images=len(answers),
        leukemic=leukemic,
        share=wilson(leukemic, len(answers)),
        mean=mean_interval(probabilities),
        lowest=min(probabilities),
        highest=max(probabilities),
        unlike=sum(not answer.fits for answer in answers),
    )


def wilson(count: float, of: int) -> Interval:
    """A share with its 95 % score interval (Wilson 1927), which stays within 0 to 1 for small counts.

    The count may be a mean of counts; the interval is then that of a single one.
    """
    share, z2 = count / of, NORMAL_QUANTILE**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = NORMAL_QUANTILE / (1 + z2 / of) * math.sqrt(share * (1 - share) / of + z2 / (4 * of**2))
    # At the ends the formula is exact, but rounding is not.
    low = 0.0 if count == 0 else middle - half
    high = 1.0 if count == of else middle + half
    return Interval(share, low, high)


def mean_interval(probabilities: Sequence[float], clusters: Sequence[Hashable] | None = None) -> Interval:
    """A mean with its 95 % interval by Student's t, cut off at 0 and 1; NaN ends for values without spread.

    Args:
        probabilities: (N,).
        clusters: (N,) what values that are not independent share, such as the photograph that cells come from. The
            variance is then that of sums over clusters, and their number less one the degrees of freedom (Cameron and
            Miller 2015, doi 10.3368/jhr.50.2.317); a single cluster has NaN ends. Each value its own by default.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    mean = float(values.mean())
    of_cluster = np.arange(len(values)) if clusters is None else _numbered(clusters)
    number = int(of_cluster.max()) + 1
    if np.ptp(values) < 1e-9 or number < 2:  # a single value, or copies of one, which say nothing of others
        return Interval(mean, math.nan, math.nan)
    off = np.bincount(of_cluster, values - mean)
    half = t_quantile(number - 1) * math.sqrt(number / (number - 1) * float(off @ off)) / len(values)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def _numbered(names: Sequence[Hashable]) -> np.ndarray:
    """Each name's number, counted from 0 in order of appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names])


@lru_cache(maxsize=4096)
def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to five digits.

    With t = sqrt(n) tan(a) the density becomes cos(a)^(n-1), which is summed up to 95 % of its total.
    """
    angle = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angle) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(freedom) * np.tan(np.interp(0.95 * below[-1], below, angle)))
