"""A model on labelled images of one's own: its figures there, beside its published ones.

What they mean is `verdict`'s work, how they are laid out the page's and the report's.
"""

import hashlib
import io
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import bootstrap, external_result, metrics
from .classifier import Classifier, suggesting
from .errors import BlastlensError
from .folder_labels import LabelledImage, LabelledImages
from .image_sources import LONGEST_RUN_S, natural
from .images import read_image
from .metrics import Bin, Interval
from .patients import leukemic_labels, wilson

# Levels of noise, all of them among those that metrics.json has figures for.
SIGMAS = (0, 5, 10, 20, 30, 50)
REPLICATES = 2000
_ROUNDING = 1e-9
# Scores of the whole, in the order they are reported in; recall of each class follows for more than two.
SCORES = ("balanced_accuracy", "accuracy", "weighted_f1", "sensitivity", "specificity", "auroc", "ece")
# These are averages over all classes, so that a set without one of them cannot be held against a set with it.
_OVER_ALL_CLASSES = ("balanced_accuracy", "auroc")


@dataclass(frozen=True, eq=False)
class Measured:
    """What a model said about one image.

    Attributes:
        probabilities: (S, C), one row per level of noise.
        in_domain: the input check's verdict, None where the model has none.
        warnings: about the image, as in a Prediction.
        digest: SHA-256 of the file, by which copies are found.
        label_set, flagged, suggestion: as in a Prediction.
    """

    probabilities: np.ndarray
    in_domain: bool | None
    warnings: tuple[str, ...]
    digest: str
    label_set: tuple[str, ...] | None = None
    flagged: bool | None = None
    suggestion: str | None = None


@dataclass(frozen=True)
class Score:
    """A measured value; the ends of its 95 % interval are None where the images cannot tell."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class ScorePair:
    """One score here and elsewhere.

    Attributes:
        name: of a score in `SCORES`, or "recall of <label>".
        here: on these images.
        published: in metrics.json, None if it is not there.
        difference: here minus published, with its 95 % interval; None where the two cannot be compared.
        always: what always answering the commonest class here would score; None where that is undefined.
    """

    name: str
    here: Score
    published: Score | None
    difference: Score | None
    always: float | None


@dataclass(frozen=True)
class NoiseLevel:
    """Scores by name (accuracy, weighted_f1) at one level of noise; `published` is empty where nothing was."""

    sigma: float
    here: Mapping[str, Score]
    published: Mapping[str, Score]


@dataclass(frozen=True)
class SubjectCount:
    """One person's images: their true labels, how many, and how many were answered right."""

    subject: str
    labels: tuple[str, ...]
    images: int
    right: int


@dataclass(frozen=True)
class GateCount:
    """How many images the input check finds unlike the model's training images, and how many were answered right."""

    unlike: int
    unlike_right: int
    fitting: int
    fitting_right: int


@dataclass(frozen=True)
class SetCount:
    """How many prediction sets hold the true label, and how many name a single one."""

    images: int
    holding: int
    single: int


@dataclass(frozen=True)
class FlagCount:
    """How many images of disease and of health there are, and how many of each reach the operating point."""

    diseased: int
    diseased_flagged: int
    healthy: int
    healthy_flagged: int


@dataclass(frozen=True)
class Published:
    """Where a model's published figures come from."""

    protocol: str
    by_group: bool
    images: int | None
    groups: int | None
    shares: Mapping[str, float]  # of images, by label; empty where unknown


@dataclass(frozen=True)
class Evaluation:
    """Everything a report says in figures.

    Attributes:
        label_names: in the model's order, as are rows and columns of `confusion`.
        counts: images by true label.
        subjects: by how many people the images are, as far as that is known; 0 where nothing says so.
        unnamed: images of which nothing says whose they are; each counts as a subject of its own.
        subjects_of: by true label, how many subjects have images of it, unnamed ones included.
        commonest: the label that most images have.
        scores: here and as published.
        without_spread: labels all of whose images were answered right, or all wrong.
        confusion: image counts, true labels in rows.
        bins: reliability, without noise.
        noise: by level.
        by_subject: those known, worst first.
        gate: None where the model has no input check.
        suggested: of the images unlike its own, by model id, how many fit another one; the most first.
        sets: None where the model has no prediction sets.
        flags: None where it has no operating point.
        remarks: what the model warned of, with how many images it was; the most frequent first.
        published: None where the model has no published figures.
        copies: how many files are an exact copy of another one.
        torn: how many different images are in more than one class.
        labelled: where the images came from: how their labels and subjects were read, and what was refused by name.
        refused: name and one sentence, of `labelled` and of the images that could not be read.
        left_out: how many images are not in the figures.
    """

    label_names: tuple[str, ...]
    counts: Mapping[str, int]
    subjects: int
    unnamed: int
    subjects_of: Mapping[str, int]
    commonest: str
    scores: tuple[ScorePair, ...]
    without_spread: tuple[str, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[Bin, ...]
    noise: tuple[NoiseLevel, ...]
    by_subject: tuple[SubjectCount, ...]
    gate: GateCount | None
    suggested: tuple[tuple[str, int], ...]
    sets: SetCount | None
    flags: FlagCount | None
    remarks: tuple[tuple[str, int], ...]
    published: Published | None
    copies: int
    torn: int
    labelled: LabelledImages
    refused: tuple[tuple[str, str], ...]
    left_out: int

    @property
    def images(self) -> int:
        """How many images the figures are of."""
        return sum(self.counts.values())

    @property
    def right(self) -> int:
        """How many of them were answered right."""
        return sum(row[index] for index, row in enumerate(self.confusion))

    @property
    def present(self) -> tuple[str, ...]:
        """The labels that there are images of."""
        return tuple(label for label in self.label_names if self.counts[label])

    @property
    def missing(self) -> tuple[str, ...]:
        """The labels that there is no image of."""
        return tuple(label for label in self.label_names if not self.counts[label])

    def score(self, name: str) -> ScorePair | None:
        """The score of that name, None where these images do not define it."""
        return next((one for one in self.scores if one.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values; what is undefined is None, never NaN."""
        return {
            "images": self.images,
            "people": self.subjects or None,
            "images_of_unknown_people": self.unnamed,
            "images_by_label": dict(self.counts),
            "labels_read": [vars(reading).copy() for reading in self.labelled.readings],
            "scores": {
                one.name: {
                    "here": vars(one.here).copy(),
                    "published": vars(one.published).copy() if one.published else None,
                    "difference": vars(one.difference).copy() if one.difference else None,
                    f"always_{self.commonest}": one.always,
                }
                for one in self.scores
            },
            "confusion_matrix": [list(row) for row in self.confusion],
            "label_names": list(self.label_names),
            "reliability": [vars(one).copy() for one in self.bins],
            "noise": [
                {
                    "sigma": level.sigma,
                    "here": {name: vars(score).copy() for name, score in level.here.items()},
                    "published": {name: vars(score).copy() for name, score in level.published.items()} or None,
                }
                for level in self.noise
            ],
            "by_person": [vars(one) | {"labels": list(one.labels)} for one in self.by_subject],
            "unlike_training_images": self.gate.unlike if self.gate else None,
            "fits_another_model": dict(self.suggested),
            "label_sets": vars(self.sets).copy() if self.sets else None,
            "operating_point": vars(self.flags).copy() if self.flags else None,
            "published_on": vars(self.published) | {"shares": dict(self.published.shares)} if self.published else None,
            "left_out": self.left_out,
            "refused": [{"name": name, "reason": reason} for name, reason in self.refused],
        }


def measure(
    classifier: Classifier,
    images: Sequence[LabelledImage],
    sigmas: Sequence[float] = SIGMAS,
    others: Sequence[Classifier] = (),
) -> Iterator[Measured | BlastlensError]:
    """Ask a model about each image at each level of noise; one outcome per image, in order.

    Each image is read once, and nothing but its probabilities is kept. Image number n gets the noise field of seed n,
    as in the published figures. `others` are models that may be suggested for images that this one's input check
    refuses.
    """
    start = time.monotonic()
    for number, image in enumerate(images):
        if time.monotonic() - start > LONGEST_RUN_S:
            reason = (
                f"was left out, since the test took over {LONGEST_RUN_S // 60} minutes; give fewer or smaller images."
            )
            yield BlastlensError(f"{image.source.name} {reason}")
            continue
        try:
            data = image.source.read()
            opened = read_image(io.BytesIO(data), image.source.name)
            prediction = suggesting(classifier.predict(opened.pixels), opened.pixels, others)
            curve = classifier.curve(opened.pixels, levels=sigmas, seeds=(number,))
        except BlastlensError as error:
            yield error
        else:
            yield Measured(
                curve.probabilities,
                prediction.in_domain,
                opened.notes + external_result.of_image(prediction.warnings),
                hashlib.sha256(data).hexdigest(),
                prediction.label_set,
                prediction.flagged,
                prediction.suggestion,
            )


def evaluate(
    classifier: Classifier,
    labelled: LabelledImages,
    outcomes: Sequence[Measured | BlastlensError],
    sigmas: Sequence[float] = SIGMAS,
    replicates: int = REPLICATES,
) -> Evaluation:
    """Score what `measure` found.

    Args:
        classifier: the model that was measured.
        labelled: the images.
        outcomes: one for each of them, in order, at these sigmas, the first of which is 0.
        replicates: of the bootstrap over people.

    Raises:
        BlastlensError: no image could be read.
    """
    names = classifier.label_names
    done = [
        (image, outcome)
        for image, outcome in zip(labelled.images, outcomes, strict=True)
        if isinstance(outcome, Measured)
    ]
    unreadable = [
        (image.source.name, str(outcome))
        for image, outcome in zip(labelled.images, outcomes, strict=True)
        if isinstance(outcome, BlastlensError)
    ]
    if not done:
        raise BlastlensError(
            f"None of the {len(unreadable):,} labelled images could be read. The first: {unreadable[0][1]}"
        )
    truth = np.array([names.index(image.label) for image, _ in done])
    probabilities = np.stack([outcome.probabilities for _, outcome in done])  # (N, S, C)
    groups = np.array(
        [f"image {n}" if image.subject is None else f"person {image.subject}" for n, (image, _) in enumerate(done)]
    )
    counts = {label: int((truth == index).sum()) for index, label in enumerate(names)}
    subjects_of = {label: len(set(groups[truth == index])) for index, label in enumerate(names)}
    right = probabilities[:, 0].argmax(axis=1) == truth

    at_level = [_scores(truth, probabilities[:, column], groups, names, replicates) for column in range(len(sigmas))]
    scores, confusion = at_level[0]
    commonest = max(counts, key=lambda label: counts[label])
    comparable = all(counts.values())
    noise = []
    for sigma, (at, _) in zip(sigmas, at_level, strict=True):
        shown = {name: score for name, score in at.items() if name in ("accuracy", "weighted_f1")}
        there = _record_at(classifier, sigma)
        elsewhere = {name: score for name in shown if (score := _score_in(there, name))} if comparable else {}
        noise.append(NoiseLevel(float(sigma), shown, elsewhere))
    record = _record_at(classifier, 0)
    labels_of: dict[str, set[str]] = {}
    for image, outcome in done:
        labels_of.setdefault(outcome.digest, set()).add(image.label)
    judged = [(outcome.in_domain, hit) for (_, outcome), hit in zip(done, right, strict=True)]
    warnings = Counter(text for _, outcome in done for text in outcome.warnings)
    return Evaluation(
        label_names=tuple(names),
        counts=counts,
        subjects=len({image.subject for image, _ in done} - {None}),
        unnamed=sum(image.subject is None for image, _ in done),
        subjects_of=subjects_of,
        commonest=commonest,
        scores=tuple(_paired(name, score, record, counts, commonest, comparable) for name, score in scores.items()),
        without_spread=tuple(label for label in names if counts[label] and _all_alike(confusion, names, label)),
        confusion=confusion,
        bins=tuple(metrics.reliability(truth, probabilities[:, 0])),
        noise=tuple(noise),
        by_subject=_by_subject(done, right),
        gate=None if judged[0][0] is None else _gate_count(judged),
        suggested=tuple(Counter(one.suggestion for _, one in done if one.suggestion).most_common()),
        sets=_set_count(done),
        flags=_flag_count(done, leukemic_labels(names)),
        remarks=tuple(warnings.most_common(5)),
        published=_published(classifier, record),
        copies=len(done) - len(labels_of),
        torn=sum(len(labels) > 1 for labels in labels_of.values()),
        labelled=labelled,
        refused=(*labelled.refused, *unreadable),
        left_out=labelled.left_out + len(unreadable),
    )


def difference(here: Score, there: Score) -> Score:
    """here minus there, two independent measurements, with a 95 % interval from theirs where both have one.

    The interval is that of Zou and Donner (2008, doi 10.1002/sim.3095): each end is as far off as the two nearer
    interval ends together, in quadrature.
    """
    value = here.value - there.value
    if here.low is None or here.high is None or there.low is None or there.high is None:
        return Score(value)
    down = math.hypot(here.value - here.low, there.high - there.value)
    up = math.hypot(here.high - here.value, there.value - there.low)
    return Score(value, value - down, value + up)


def always(name: str, counts: Mapping[str, int], commonest: str) -> float | None:
    """What a score would be if every image were called `commonest`; None for scores of probabilities.

    Args:
        name: as in a ScorePair.
        counts: images by true label.
    """
    share = counts[commonest] / sum(counts.values())
    if name == "accuracy":
        return share
    if name == "weighted_f1":
        return metrics.constant_weighted_f1(share)
    if name == "balanced_accuracy":
        return 1 / sum(count > 0 for count in counts.values())
    if name == "auroc":
        return 0.5
    if name == "sensitivity":
        return float(commonest == _positive(tuple(counts)))
    if name == "specificity":
        return float(commonest != _positive(tuple(counts)))
    if name.startswith("recall of "):
        return float(name == f"recall of {commonest}")
    return None


def _positive(names: Sequence[str]) -> str | None:
    """The label that counts as disease, of two; None for a model of other labels."""
    leukemic = leukemic_labels(names)
    return leukemic[0] if len(names) == 2 and len(leukemic) == 1 else None


def _scores(
    truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, names: Sequence[str], replicates: int
) -> tuple[dict[str, Score], tuple[tuple[int, ...], ...]]:
    """Those scores that these images define, and the confusion matrix."""
    positive = _positive(names)
    with np.errstate(invalid="ignore"):
        try:
            found = bootstrap.summary(truth, probabilities, groups, names, positive, replicates)
        except ValueError:  # no replicate held every class: there is no interval
            found = metrics.summary(truth, probabilities, names, positive)
    confusion = tuple(tuple(row) for row in found["confusion_matrix"])
    present = [name for name in names if found["per_class"][name]["support"]]
    scores = {name: _score(found[name]) for name in SCORES if name in found}
    recalls = {name: _score(found["per_class"][name]["recall"]) for name in present}
    if alike := [name for name in present if _all_alike(confusion, names, name)]:
        for name in alike:
            recalls[name] = _over_people(recalls[name].value, len(set(groups[truth == names.index(name)])))
        mixed = len(set(groups)) < sum(len(set(groups[truth == names.index(name)])) for name in present)
        scores["balanced_accuracy"] = _mean([(1, recall) for recall in recalls.values()], mixed)
        support = {name: found["per_class"][name]["support"] for name in present}
        scores["accuracy"] = _mean([(support[name], recall) for name, recall in recalls.items()], mixed)
        if positive is not None:
            scores |= {"sensitivity" if name == positive else "specificity": recall for name, recall in recalls.items()}
    if len(names) > 2:
        scores |= {f"recall of {name}": recall for name, recall in recalls.items()}
    if len(present) < len(names):
        scores = {name: score for name, score in scores.items() if name not in _OVER_ALL_CLASSES}
    if len(present) == 1:
        scores.pop("weighted_f1", None)  # of one class it is its recall in another guise
    return {name: score for name, score in scores.items() if math.isfinite(score.value)}, confusion


def _all_alike(confusion: Sequence[Sequence[int]], names: Sequence[str], label: str) -> bool:
    """Whether all images of a label were answered right, or all wrong."""
    row = confusion[names.index(label)]
    return row[names.index(label)] in (0, sum(row))


def _over_people(recall: float, people: int) -> Score:
    """A recall of 0 or 1 with Wilson's interval, over people.

    Drawing from people who are all alike gives no interval, but how many they are says something of the share of
    people all of whose images are answered right; and recall, over people with equally many images, is no less.
    """
    share = wilson(people if recall else 0, people)
    return Score(share.value, share.low, share.high)


def _mean(parts: Sequence[tuple[float, Score]], mixed: bool) -> Score:
    """A weighted mean of recalls, with an interval where all of them have one.

    The ends are as far off as those of the parts together: in quadrature, since other people make up each class (Zou
    and Donner 2008), or, if some people are in several classes (`mixed`), added up, as if all went wrong at once.
    """
    total = sum(weight for weight, _ in parts)
    shares = [(weight / total, score) for weight, score in parts]
    value = math.fsum(share * score.value for share, score in shares)
    down, up = [], []
    for share, score in shares:
        if score.low is None or score.high is None:
            return Score(value)
        down.append(share * (score.value - score.low))
        up.append(share * (score.high - score.value))
    together = math.fsum if mixed else lambda distances: math.hypot(*distances)
    return Score(value, max(0.0, value - together(down)), min(1.0, value + together(up)))


def _score(measured: Interval | float) -> Score:
    """A measured value; see `_score_of`."""
    if not isinstance(measured, Interval):
        return Score(float(measured))
    return _score_of(measured.value, measured.low, measured.high)


def _score_of(value: float, low: float | None, high: float | None) -> Score:
    """A value with its interval, unless that is none.

    One without width is none: all replicates agreed, so there was nothing to draw from. Nor is one beside its value,
    as percentiles of a score that drawing itself worsens (the ECE) may lie.
    """
    if low is None or high is None or not math.isfinite(high - low) or high - low < _ROUNDING:
        return Score(value)
    return Score(value, low, high) if low - _ROUNDING <= value <= high + _ROUNDING else Score(value)


# Published figures ------------------------------------------------------------------------------------------------


def _protocol(classifier: Classifier) -> dict[str, Any]:
    """The headline's entry among the protocols of metrics.json, empty where there is none."""
    recorded = classifier.folder.metrics
    name = (recorded.get("headline") or {}).get("protocol")
    return next((one for one in recorded.get("protocols") or [] if one.get("name") == name), {})


def _record_at(classifier: Classifier, sigma: float) -> dict[str, Any]:
    levels = _protocol(classifier).get("by_sigma") or []
    return next((one for one in levels if one.get("sigma") == sigma), {})


def _score_in(record: Mapping[str, Any], name: str) -> Score | None:
    kind, _, label = name.partition(" of ")
    entry = (record.get("per_class") or {}).get(label, {}).get(kind) if label else record.get(name)
    entry = entry or {}
    value = entry.get("value")
    if value is None or not math.isfinite(value):
        return None
    return _score_of(value, entry.get("low"), entry.get("high"))


def _published(classifier: Classifier, record: Mapping[str, Any]) -> Published | None:
    if not record:
        return None
    protocol = _protocol(classifier)
    support = {name: entry["support"] for name, entry in (record.get("per_class") or {}).items()}
    total = sum(support.values())
    return Published(
        protocol=str(protocol["name"]),
        by_group=protocol.get("level") == "group",
        images=protocol.get("n_images"),
        groups=protocol.get("n_groups"),
        shares={name: count / total for name, count in support.items()} if total else {},
    )


def _paired(
    name: str, here: Score, record: Mapping[str, Any], counts: Mapping[str, int], commonest: str, comparable: bool
) -> ScorePair:
    published = _score_in(record, name)
    # The share of one class that is found does not depend on whether other classes were looked at.
    comparable = comparable or name in ("sensitivity", "specificity") or name.startswith("recall of ")
    # The fewer the images, the larger a calibration error comes out by chance alone: two of them do not compare.
    apart = difference(here, published) if published and comparable and name != "ece" else None
    return ScorePair(name, here, published, apart, always(name, counts, commonest))


# By person, and by input check ------------------------------------------------------------------------------------


def _by_subject(done: Sequence[tuple[LabelledImage, Measured]], right: np.ndarray) -> tuple[SubjectCount, ...]:
    """The one with the smallest share of right answers first."""
    labels: dict[str, set[str]] = {}
    hits: dict[str, list[bool]] = {}
    for (image, _), hit in zip(done, right, strict=True):
        if image.subject is not None:
            labels.setdefault(image.subject, set()).add(image.label)
            hits.setdefault(image.subject, []).append(bool(hit))
    counted = [SubjectCount(name, tuple(sorted(labels[name])), len(hits[name]), sum(hits[name])) for name in hits]
    return tuple(sorted(counted, key=lambda one: (one.right / one.images, -one.images, natural(one.subject))))


def _gate_count(judged: Sequence[tuple[bool | None, bool]]) -> GateCount:
    unlike = [hit for fits, hit in judged if not fits]
    fitting = [hit for fits, hit in judged if fits]
    return GateCount(len(unlike), int(sum(unlike)), len(fitting), int(sum(fitting)))


def _set_count(done: Sequence[tuple[LabelledImage, Measured]]) -> SetCount | None:
    sets = [(image.label, outcome.label_set) for image, outcome in done if outcome.label_set is not None]
    if not sets:
        return None
    return SetCount(len(sets), sum(label in among for label, among in sets), sum(len(among) == 1 for _, among in sets))


def _flag_count(done: Sequence[tuple[LabelledImage, Measured]], leukemic: Sequence[str]) -> FlagCount | None:
    flags = [(image.label in leukemic, outcome.flagged) for image, outcome in done if outcome.flagged is not None]
    if not flags:
        return None
    diseased = [flagged for ill, flagged in flags if ill]
    healthy = [flagged for ill, flagged in flags if not ill]
    return FlagCount(len(diseased), sum(diseased), len(healthy), sum(healthy))
