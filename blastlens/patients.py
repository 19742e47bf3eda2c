"""The images of each patient together."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .dataset_info import dataset_info
from .image_sources import natural
from .metrics import Interval
from .subject_decisions import SubjectDecider, SubjectDecision, mean_statistics

# The normal distribution's 97.5 % quantile.
NORMAL_QUANTILE = 1.959963984540054

CAVEAT = (
    "The intervals treat the images of a patient as independent. They are not, since they share a slide and a "
    "stain, so the true uncertainty is larger. None of this is a diagnosis."
)


@dataclass(frozen=True)
class Answer:
    """One classified image.

    Attributes:
        subject: its patient, None if unknown. leukemic: whether its label is. probability: of leukemia (of all such
            labels together, 0 to 1). in_domain: whether it is in distribution.
        own_probability: of leukemia at the model's own prevalence. statistics: of its view. Both are for decisions.
    """

    subject: str | None
    leukemic: bool
    probability: float
    in_domain: bool = True
    own_probability: float = math.nan
    statistics: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Patient:
    """The images of one patient together."""

    subject: str | None  # None for all images of unknown patients
    images: int
    leukemic: int  # images classified as leukemic
    share: Interval  # leukemic / images, with its 95 % Wilson interval
    mean: Interval  # probability of leukemia, by `mean_interval`
    lowest: float
    highest: float
    unlike: int  # images that are out of distribution; they count all the same
    decision: SubjectDecision | None = None  # None without a rule, or for images of unknown patients


def leukemic_labels(label_names: Sequence[str]) -> tuple[str, ...]:
    """Which labels of a model are leukemic; () if that is unknown."""
    return dataset_info(label_names).leukemic


def by_patient(answers: Iterable[Answer], decider: SubjectDecider | None = None) -> list[Patient]:
    """One Patient for each subject, in natural order; the images without a subject come last, as one.

    With `decider`, subjects get a decision; the answers then have probabilities and statistics for it.
    """
    groups: dict[str | None, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.subject, []).append(answer)
    patients = []
    for subject in sorted(groups, key=lambda name: (name is None, natural(name or ""))):
        probabilities = [answer.probability for answer in groups[subject]]
        leukemic = sum(answer.leukemic for answer in groups[subject])
        decision = None
        if decider and subject is not None:
            own = math.fsum(answer.own_probability for answer in groups[subject]) / len(probabilities)
            mean = mean_statistics(answer.statistics for answer in groups[subject])
            decision = decider.decide(len(probabilities), own, mean)
        patients.append(
            Patient(
                subject=subject,
                images=len(probabilities),
                leukemic=leukemic,
                share=wilson(leukemic, len(probabilities)),
                mean=mean_interval(probabilities),
                lowest=min(probabilities),
                highest=max(probabilities),
                unlike=sum(not answer.in_domain for answer in groups[subject]),
                decision=decision,
            )
        )
    return patients


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
    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters or range(len(values))))}
    number = len(numbers)
    if np.ptp(values) < 1e-9 or number < 2:  # a single value, or copies of one, which say nothing of others
        return Interval(mean, math.nan, math.nan)
    off = np.bincount([numbers[name] for name in clusters or range(len(values))], values - mean)
    half = t_quantile(number - 1) * math.sqrt(number / (number - 1) * float(off @ off)) / len(values)
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


@lru_cache(maxsize=4096)
def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, to five digits.

    With t = sqrt(n) tan(a) the density becomes cos(a)^(n-1), which is summed up to 95 % of its total.
    """
    angle = np.linspace(0, np.pi / 2, 20_001)
    density = np.cos(angle) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(freedom) * np.tan(np.interp(0.95 * below[-1], below, angle)))
