"""External validation: the scores of a model on a user's labelled images, beside its published ones.

How labels are read from folder names is in `folder_labels`, what the scores mean in `validation_summary`.
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

SIGMAS = (0, 5, 10, 20, 30, 50)  # metrics.json has figures for all of them
REPLICATES = 2000
_ROUNDING = 1e-9
# In the order of a report; recall of each class follows for more than two.
SCORES = ("balanced_accuracy", "accuracy", "weighted_f1", "sensitivity", "specificity", "auroc", "ece")


@dataclass(frozen=True, eq=False)
class ImageOutcome:
    """The result for one image.

    Attributes:
        probabilities: (S, C), one row per noise level.
        in_domain: whether OOD detection accepts it; None without OOD detection.
        warnings: about the image.
        digest: SHA-256 of the file.
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
    """A value with its 95 % interval; both ends are None where there is none."""

    value: float
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, value: float, low: float | None = None, high: float | None = None) -> "Score":
        """Leave out an interval that says nothing: without width, since all replicates were equal, or beside the value,
        as the percentiles of a score that resampling biases (the ECE) may be."""
        if low is None or high is None or not math.isfinite(high - low) or high - low < _ROUNDING:
            return cls(value)
        return cls(value, low, high) if low - _ROUNDING <= value <= high + _ROUNDING else cls(value)


@dataclass(frozen=True)
class ScorePair:
    """One score on these images and as published.

    Attributes:
        name: one of `SCORES`, or "recall of <label>".
        here: on these images.
        published: in metrics.json, None if it is not there.
        difference: here minus published; None where the two cannot be compared.
        always: score of always predicting the most frequent class here; None where that is undefined.
    """

    name: str
    here: Score
    published: Score | None
    difference: Score | None
    always: float | None


@dataclass(frozen=True)
class NoiseLevel:
    """Accuracy and weighted F1 by name at one noise level; `published` is empty where they are not published."""

    sigma: float
    here: Mapping[str, Score]
    published: Mapping[str, Score]


@dataclass(frozen=True)
class SubjectCount:
    """True labels, number of images and of correct predictions of one subject."""

    subject: str
    labels: tuple[str, ...]
    images: int
    right: int


@dataclass(frozen=True)
class OodCount:
    """How many images OOD detection rejects and accepts, and how many of them are classified correctly."""

    rejected: int
    rejected_right: int
    accepted: int
    accepted_right: int


@dataclass(frozen=True)
class PublishedTest:
    """What the published figures were measured on; `shares` of images by label, empty where unknown."""

    protocol: str
    by_group: bool
    images: int | None
    groups: int | None
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Evaluation:
    """All figures of a report.

    Attributes:
        label_names: in the model's order, as are rows (true labels) and columns of `confusion`.
        counts: images by true label.
        subjects: number of known subjects.
        unnamed: images without a known subject; each counts as a subject of its own.
        subjects_of: by true label, the number of subjects, those of unnamed images included.
        commonest: the most frequent label.
        scores: here and as published.
        without_spread: labels whose images were all classified correctly, or all incorrectly.
        bins: reliability, without noise.
        by_subject: known subjects, lowest accuracy first.
        ood: None without OOD detection.
        suggested: of the rejected images, how many fit another model, by model id.
        sets: prediction sets: images, sets that hold the true label, sets with one label; None without sets.
        flags: operating point: images by disease, and how many of each reach it; None without one.
        remarks: warnings with their number of images, most frequent first.
        published: None without published figures.
        copies: files that are an exact copy of another one.
        torn: images that are in more than one class.
        labelled: how labels and subjects were read.
        refused: name and reason, of `labelled` and of the images that could not be read.
        left_out: number of images that are not in the figures.
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
    ood: OodCount | None
    suggested: tuple[tuple[str, int], ...]
    sets: Mapping[str, int] | None
    flags: Mapping[str, int] | None
    remarks: tuple[tuple[str, int], ...]
    published: PublishedTest | None
    copies: int
    torn: int
    labelled: LabelledImages
    refused: tuple[tuple[str, str], ...]
    left_out: int

    @property
    def images(self) -> int:
        """Number of images in the figures."""
        return sum(self.counts.values())

    @property
    def right(self) -> int:
        """Number of correct predictions."""
        return sum(row[index] for index, row in enumerate(self.confusion))

    @property
    def present(self) -> tuple[str, ...]:
        """Labels with images."""
        return tuple(label for label in self.label_names if self.counts[label])

    @property
    def missing(self) -> tuple[str, ...]:
        """Labels without images."""
        return tuple(label for label in self.label_names if not self.counts[label])

    def score(self, name: str) -> ScorePair | None:
        """The score of that name, None where these images do not define it."""
        return next((one for one in self.scores if one.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; what is undefined is None, never NaN."""
        return {
            "images": self.images,
            "people": self.subjects or None,
            "images_of_unknown_people": self.unnamed,
            "images_by_label": dict(self.counts),
            "labels_read": [vars(reading).copy() for reading in self.labelled.readings],
            "scores": {
                one.name: {
                    "here": vars(one.here).copy(),
                    "published": _plain(one.published),
                    "difference": _plain(one.difference),
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
                    "here": {name: _plain(score) for name, score in level.here.items()},
                    "published": {name: _plain(score) for name, score in level.published.items()} or None,
                }
                for level in self.noise
            ],
            "by_person": [vars(one) | {"labels": list(one.labels)} for one in self.by_subject],
            "unlike_training_images": self.ood.rejected if self.ood else None,
            "fits_another_model": dict(self.suggested),
            "label_sets": dict(self.sets) if self.sets else None,
            "operating_point": dict(self.flags) if self.flags else None,
            "published_on": _plain(self.published),
            "left_out": self.left_out,
            "refused": [{"name": name, "reason": reason} for name, reason in self.refused],
        }


def measure(
    classifier: Classifier,
    images: Sequence[LabelledImage],
    sigmas: Sequence[float] = SIGMAS,
    others: Sequence[Classifier] = (),
) -> Iterator[ImageOutcome | BlastlensError]:
    """Predict each image at each noise level; one outcome per image, in order.

    Each image is read once, and no pixels are kept. Image number n gets the noise field of seed n, as in the published
    figures. `others` are models to suggest for rejected images.
    """
    start = time.monotonic()
    for number, image in enumerate(images):
        name = image.source.name
        try:
            if time.monotonic() - start > LONGEST_RUN_S:
                limit = f"{LONGEST_RUN_S // 60} minutes"
                raise BlastlensError(f"{name} was left out, since the test took over {limit}; use fewer images.")
            data = image.source.read()
            opened = read_image(io.BytesIO(data), name)
            prediction = suggesting(classifier.predict(opened.pixels), opened.pixels, others)
            curve = classifier.curve(opened.pixels, levels=sigmas, seeds=(number,))
        except BlastlensError as error:
            yield error
        else:
            yield ImageOutcome(
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
    outcomes: Sequence[ImageOutcome | BlastlensError],
    sigmas: Sequence[float] = SIGMAS,
    replicates: int = REPLICATES,
) -> Evaluation:
    """Score the outcomes of `measure`.

    Args:
        classifier: the model.
        labelled: the images.
        outcomes: one for each of them, in order, at these sigmas, the first of which is 0.
        replicates: of the bootstrap over subjects.

    Raises:
        BlastlensError: no image could be read.
    """
    names = tuple(classifier.label_names)
    pairs = list(zip(labelled.images, outcomes, strict=True))
    done = [(image, outcome) for image, outcome in pairs if isinstance(outcome, ImageOutcome)]
    unreadable = [(image.source.name, str(error)) for image, error in pairs if isinstance(error, BlastlensError)]
    if not done:
        raise BlastlensError(
            f"None of the {len(unreadable):,} labelled images could be read. The first: {unreadable[0][1]}"
        )
    truth = np.array([names.index(image.label) for image, _ in done])
    probabilities = np.stack([outcome.probabilities for _, outcome in done])  # (N, S, C)
    groups = np.array(
        [f"image {n}" if image.subject is None else f"subject {image.subject}" for n, (image, _) in enumerate(done)]
    )
    right = (probabilities[:, 0].argmax(axis=1) == truth).tolist()
    counts = {label: int((truth == index).sum()) for index, label in enumerate(names)}
    commonest = max(counts, key=lambda label: counts[label])

    protocol = _protocol(classifier.folder.metrics)
    complete = all(counts.values())
    at_level = [_scores(truth, probabilities[:, column], groups, names, replicates) for column in range(len(sigmas))]
    scores, confusion = at_level[0]
    noise = []
    for sigma, (found, _) in zip(sigmas, at_level, strict=True):
        here = {name: score for name, score in found.items() if name in ("accuracy", "weighted_f1")}
        record = _at_sigma(protocol, sigma)
        published = {name: score for name in here if complete and (score := _published_score(record, name))}
        noise.append(NoiseLevel(float(sigma), here, published))
    record = _at_sigma(protocol, 0)

    labels_of: dict[str, set[str]] = {}
    for image, outcome in done:
        labels_of.setdefault(outcome.digest, set()).add(image.label)
    return Evaluation(
        label_names=names,
        counts=counts,
        subjects=len({image.subject for image, _ in done} - {None}),
        unnamed=sum(image.subject is None for image, _ in done),
        subjects_of={label: len(set(groups[truth == index])) for index, label in enumerate(names)},
        commonest=commonest,
        scores=tuple(_paired(name, score, record, counts, commonest) for name, score in scores.items()),
        without_spread=tuple(
            label for index, label in enumerate(names) if counts[label] and _uniform(confusion[index], index)
        ),
        confusion=confusion,
        bins=tuple(metrics.reliability(truth, probabilities[:, 0])),
        noise=tuple(noise),
        by_subject=_by_subject(done, right),
        ood=_ood_count([(outcome.in_domain, hit) for (_, outcome), hit in zip(done, right, strict=True)]),
        suggested=tuple(Counter(one.suggestion for _, one in done if one.suggestion).most_common()),
        sets=_set_count(done),
        flags=_flag_count(done, leukemic_labels(names)),
        remarks=tuple(Counter(text for _, outcome in done for text in outcome.warnings).most_common(5)),
        published=_published_test(protocol, record) if record else None,
        copies=len(done) - len(labels_of),
        torn=sum(len(labels) > 1 for labels in labels_of.values()),
        labelled=labelled,
        refused=(*labelled.refused, *unreadable),
        left_out=labelled.left_out + len(unreadable),
    )


def difference(here: Score, there: Score) -> Score:
    """here minus there, two independent measurements, with a 95 % interval where both have one (Zou and Donner 2008,
    doi 10.1002/sim.3095: each end is as far off as the two nearer interval ends together, in quadrature)."""
    value = here.value - there.value
    if here.low is None or here.high is None or there.low is None or there.high is None:
        return Score(value)
    down = math.hypot(here.value - here.low, there.high - there.value)
    up = math.hypot(here.high - here.value, there.value - there.low)
    return Score(value, value - down, value + up)


def always(name: str, counts: Mapping[str, int], commonest: str) -> float | None:
    """Score of predicting `commonest` for every image; None for scores of probabilities.

    Args:
        name: as in a ScorePair.
        counts: images by true label.
    """
    share = counts[commonest] / sum(counts.values())
    positive = _positive(tuple(counts))
    fixed = {
        "accuracy": share,
        "weighted_f1": metrics.constant_weighted_f1(share),
        "balanced_accuracy": 1 / sum(count > 0 for count in counts.values()),
        "auroc": 0.5,
        "sensitivity": float(commonest == positive),
        "specificity": float(commonest != positive),
    }
    return float(name == f"recall of {commonest}") if name.startswith("recall of ") else fixed.get(name)


def _plain(value: Any) -> dict[str, Any] | None:
    return None if value is None else vars(value).copy()


def _positive(names: Sequence[str]) -> str | None:
    """The label of two that counts as disease; None for a model of other labels."""
    leukemic = leukemic_labels(names)
    return leukemic[0] if len(names) == 2 and len(leukemic) == 1 else None


def _scores(
    truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray, names: Sequence[str], replicates: int
) -> tuple[dict[str, Score], tuple[tuple[int, ...], ...]]:
    """The scores that these images define, and the confusion matrix."""
    positive = _positive(names)
    with np.errstate(invalid="ignore"):
        try:
            found = bootstrap.summary(truth, probabilities, groups, names, positive, replicates)
        except ValueError:  # no replicate held every class: there is no interval
            found = metrics.summary(truth, probabilities, names, positive)
    confusion = tuple(tuple(row) for row in found["confusion_matrix"])
    support = {name: sum(confusion[index]) for index, name in enumerate(names) if sum(confusion[index])}
    scores = {name: _score(found[name]) for name in SCORES if name in found}
    recalls = {name: _score(found["per_class"][name]["recall"]) for name in support}
    groups_of = {name: set(groups[truth == names.index(name)]) for name in support}
    if uniform := [name for name in support if _uniform(confusion[names.index(name)], names.index(name))]:
        for name in uniform:
            recalls[name] = _uniform_recall(recalls[name].value, len(groups_of[name]))
        overlap = len(set(groups)) < sum(map(len, groups_of.values()))
        scores["balanced_accuracy"] = _mean([(1, recall) for recall in recalls.values()], overlap)
        scores["accuracy"] = _mean([(support[name], recall) for name, recall in recalls.items()], overlap)
        if positive is not None:
            scores |= {"sensitivity" if name == positive else "specificity": recall for name, recall in recalls.items()}
    if len(names) > 2:
        scores |= {f"recall of {name}": recall for name, recall in recalls.items()}
    undefined = {"balanced_accuracy", "auroc"} if len(support) < len(names) else set()
    if len(support) == 1:
        undefined.add("weighted_f1")  # of one class it only repeats its recall
    return {n: score for n, score in scores.items() if n not in undefined and math.isfinite(score.value)}, confusion


def _score(measured: Interval | float) -> Score:
    return Score.of(**vars(measured)) if isinstance(measured, Interval) else Score(float(measured))


def _uniform(row: Sequence[int], index: int) -> bool:
    """Whether all images of a class were classified correctly, or all incorrectly."""
    return row[index] in (0, sum(row))


def _uniform_recall(recall: float, subjects: int) -> Score:
    """A recall of 0 or 1 with Wilson's interval over subjects.

    Resampling subjects who are all alike gives no interval, but their number limits the share of subjects whose images
    are all classified correctly; and recall, over subjects with equally many images, is no less.
    """
    return Score(**vars(wilson(subjects if recall else 0, subjects)))


def _mean(parts: Sequence[tuple[float, Score]], overlap: bool) -> Score:
    """A weighted mean of recalls, with an interval where all of them have one.

    Errors of different subjects are combined in quadrature (Zou and Donner 2008); if some subjects are in several
    classes (`overlap`), they are added up, as for errors that occur together.
    """
    total = sum(weight for weight, _ in parts)
    value = math.fsum(weight / total * score.value for weight, score in parts)
    down, up = [], []
    for weight, score in parts:
        if score.low is None or score.high is None:
            return Score(value)
        down.append(weight / total * (score.value - score.low))
        up.append(weight / total * (score.high - score.value))
    combined = math.fsum if overlap else lambda distances: math.hypot(*distances)
    return Score(value, max(0.0, value - combined(down)), min(1.0, value + combined(up)))


def _protocol(recorded: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headline's protocol in metrics.json, empty where there is none."""
    name = (recorded.get("headline") or {}).get("protocol")
    return next((one for one in recorded.get("protocols") or [] if one.get("name") == name), {})


def _at_sigma(protocol: Mapping[str, Any], sigma: float) -> Mapping[str, Any]:
    return next((one for one in protocol.get("by_sigma") or [] if one.get("sigma") == sigma), {})


def _published_score(record: Mapping[str, Any], name: str) -> Score | None:
    kind, _, label = name.partition(" of ")
    entry = (record.get("per_class") or {}).get(label, {}).get(kind) if label else record.get(name)
    entry = entry or {}
    value = entry.get("value")
    if value is None or not math.isfinite(value):
        return None
    return Score.of(value, entry.get("low"), entry.get("high"))


def _published_test(protocol: Mapping[str, Any], record: Mapping[str, Any]) -> PublishedTest:
    support = {name: entry["support"] for name, entry in (record.get("per_class") or {}).items()}
    total = sum(support.values())
    return PublishedTest(
        protocol=str(protocol["name"]),
        by_group=protocol.get("level") == "group",
        images=protocol.get("n_images"),
        groups=protocol.get("n_groups"),
        shares={name: count / total for name, count in support.items()} if total else {},
    )


def _paired(name: str, here: Score, record: Mapping[str, Any], counts: Mapping[str, int], commonest: str) -> ScorePair:
    published = _published_score(record, name)
    # Only the recall of one class does not depend on which other classes there are images of.
    of_one_class = name in ("sensitivity", "specificity") or name.startswith("recall of ")
    # The fewer images, the larger the expected ECE is by chance alone, so two of them cannot be compared.
    comparable = name != "ece" and (all(counts.values()) or of_one_class)
    apart = difference(here, published) if published and comparable else None
    return ScorePair(name, here, published, apart, always(name, counts, commonest))


def _by_subject(done: Sequence[tuple[LabelledImage, ImageOutcome]], right: Sequence[bool]) -> tuple[SubjectCount, ...]:
    hits: dict[str, list[tuple[str, bool]]] = {}
    for (image, _), hit in zip(done, right, strict=True):
        if image.subject is not None:
            hits.setdefault(image.subject, []).append((image.label, hit))
    counted = [
        SubjectCount(name, tuple(sorted({label for label, _ in some})), len(some), sum(hit for _, hit in some))
        for name, some in hits.items()
    ]
    return tuple(sorted(counted, key=lambda one: (one.right / one.images, -one.images, natural(one.subject))))


def _ood_count(judged: Sequence[tuple[bool | None, bool]]) -> OodCount | None:
    if judged[0][0] is None:
        return None
    rejected = [hit for accepted, hit in judged if not accepted]
    accepted = [hit for accepted, hit in judged if accepted]
    return OodCount(len(rejected), sum(rejected), len(accepted), sum(accepted))


def _set_count(done: Sequence[tuple[LabelledImage, ImageOutcome]]) -> dict[str, int] | None:
    sets = [(image.label, outcome.label_set) for image, outcome in done if outcome.label_set is not None]
    if not sets:
        return None
    holding = sum(label in labels for label, labels in sets)
    return {"images": len(sets), "holding": holding, "single": sum(len(labels) == 1 for _, labels in sets)}


def _flag_count(done: Sequence[tuple[LabelledImage, ImageOutcome]], leukemic: Sequence[str]) -> dict[str, int] | None:
    flags = [(image.label in leukemic, outcome.flagged) for image, outcome in done if outcome.flagged is not None]
    counts: dict[str, int] = {}
    for name, ill in (("diseased", True), ("healthy", False)):
        of_kind = [flagged for diseased, flagged in flags if diseased == ill]
        counts |= {name: len(of_kind), f"{name}_flagged": sum(map(bool, of_kind))}
    return counts if flags else None
