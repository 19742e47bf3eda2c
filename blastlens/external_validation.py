"""External validation: the scores of a model on a user's labelled images, beside its published ones.

How labels are read from folder names is in `folder_labels`, what the scores mean in `validation_summary`.
"""

import hashlib
import io
import math
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from . import external_result, metrics
from .classifier import Classifier, suggesting
from .errors import BlastlensError
from .folder_labels import LabelledImage, LabelledImages
from .image_sources import LONGEST_RUN_S, natural
from .images import read_image
from .metrics import Bin, Interval
from .validation_scores import SCORES, ScorePair, alike, commonest, pair, published_score, scores_of

SIGMAS = (0, 5, 10, 20, 30, 50)  # metrics.json has figures for all of them
REPLICATES = 2000


@dataclass(frozen=True, eq=False)
class ImageOutcome:
    """The result for one image."""

    probabilities: np.ndarray  # (S, C), one row per noise level
    in_domain: bool | None  # whether OOD detection accepts it; None without OOD detection
    suggestion: str | None  # model id of another model that it fits
    warnings: tuple[str, ...]  # about the image
    digest: str  # SHA-256 of the file


@dataclass(frozen=True)
class NoiseLevel:
    """Accuracy and weighted F1 by name at one noise level; `published` is empty where they are not published."""

    sigma: float
    here: Mapping[str, Interval]
    published: Mapping[str, Interval]


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
    """All figures of a report; labels, rows (true labels) and columns of `confusion` are in the model's order."""

    counts: Mapping[str, int]  # images by true label
    subjects: int  # known ones
    unnamed: int  # images without a known subject; each counts as a subject of its own
    subjects_of: Mapping[str, int]  # by true label, those of unnamed images included
    scores: tuple[ScorePair, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[Bin, ...]  # reliability, without noise
    noise: tuple[NoiseLevel, ...]
    by_subject: tuple[SubjectCount, ...]  # known subjects, lowest accuracy first
    ood: OodCount | None  # None without OOD detection
    suggested: tuple[tuple[str, int], ...]  # other models that rejected images fit, with their number
    remarks: tuple[tuple[str, int], ...]  # warnings with their number of images, most frequent first
    published: PublishedTest | None  # None without published figures
    copies: int  # files that are an exact copy of another one
    torn: int  # images that are in more than one class
    labelled: LabelledImages
    refused: tuple[tuple[str, str], ...]  # name and reason, of `labelled` and of images that could not be read
    left_out: int  # images that are not in the figures

    @property
    def label_names(self) -> tuple[str, ...]:
        """Of the model."""
        return tuple(self.counts)

    @property
    def without_spread(self) -> tuple[str, ...]:
        """Labels whose images were all classified correctly, or all incorrectly."""
        return alike(self.label_names, self.confusion)

    @property
    def commonest(self) -> str:
        """The most frequent true label."""
        return commonest(self.counts)

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
            "labels_read": [asdict(reading) for reading in self.labelled.readings],
            "scores": {
                one.name: {
                    "here": _record(one.here),
                    "published": one.published and _record(one.published),
                    "difference": one.difference and _record(one.difference),
                    f"always_{self.commonest}": one.always,
                }
                for one in self.scores
            },
            "confusion_matrix": [list(row) for row in self.confusion],
            "label_names": list(self.label_names),
            "reliability": [asdict(one) for one in self.bins],
            "noise": [
                {"sigma": level.sigma, "here": _records(level.here), "published": _records(level.published) or None}
                for level in self.noise
            ],
            "by_person": [asdict(one) | {"labels": list(one.labels)} for one in self.by_subject],
            "unlike_training_images": self.ood.rejected if self.ood else None,
            "fits_another_model": dict(self.suggested),
            "published_on": asdict(self.published) if self.published else None,
            "left_out": self.left_out,
            "refused": [{"name": name, "reason": reason} for name, reason in self.refused],
        }


def _record(one: Interval) -> dict[str, float | None]:
    return {name: None if math.isnan(number) else number for name, number in vars(one).items()}


def _records(scores: Mapping[str, Interval]) -> dict[str, dict[str, float | None]]:
    return {name: _record(score) for name, score in scores.items()}


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
            opened, notes = read_image(io.BytesIO(data), name)
            prediction = suggesting(classifier.predict(opened), opened, others)
            curve = classifier.curve(opened, levels=sigmas, seeds=(number,))
        except BlastlensError as error:
            yield error
        else:
            yield ImageOutcome(
                curve.probabilities,
                prediction.in_domain,
                prediction.suggestion,
                notes + external_result.of_image(prediction.warnings),
                hashlib.sha256(data).hexdigest(),
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
    counts = {label: int((truth == index).sum()) for index, label in enumerate(names)}
    at_level = [scores_of(truth, probabilities[:, column], groups, names, replicates) for column in range(len(sigmas))]
    scores, confusion = at_level[0]
    published = _published_by_sigma(classifier.folder.metrics)
    protocol, record = published.get(0, ({}, {}))
    right = probabilities[:, 0].argmax(axis=1) == truth
    labels_of = _labels_by_digest(done)
    return Evaluation(
        counts=counts,
        subjects=len({image.subject for image, _ in done} - {None}),
        unnamed=sum(image.subject is None for image, _ in done),
        subjects_of={label: len(set(groups[truth == index])) for index, label in enumerate(names)},
        scores=tuple(pair(name, score, record, counts) for name, score in scores.items()),
        confusion=confusion,
        bins=tuple(metrics.reliability(truth, probabilities[:, 0])),
        noise=tuple(
            _noise_level(sigma, found, published.get(sigma, ({}, {}))[1] if all(counts.values()) else {})
            for sigma, (found, _) in zip(sigmas, at_level, strict=True)
        ),
        by_subject=_by_subject([image for image, _ in done], right.tolist()),
        ood=_ood_count([outcome.in_domain for _, outcome in done], right.tolist()),
        suggested=tuple(Counter(one.suggestion for _, one in done if one.suggestion).most_common()),
        remarks=tuple(Counter(text for _, outcome in done for text in outcome.warnings).most_common(5)),
        published=_published_test(protocol, record) if record else None,
        copies=len(done) - len(labels_of),
        torn=sum(len(labels) > 1 for labels in labels_of.values()),
        labelled=labelled,
        refused=(*labelled.refused, *unreadable),
        left_out=labelled.left_out + len(unreadable),
    )


def _labels_by_digest(done: Sequence[tuple[LabelledImage, ImageOutcome]]) -> dict[str, set[str]]:
    labels: dict[str, set[str]] = {}
    for image, outcome in done:
        labels.setdefault(outcome.digest, set()).add(image.label)
    return labels


def _published_by_sigma(recorded: Mapping[str, Any]) -> dict[float, tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The headline's protocol in metrics.json, and its record at each sigma; empty without a headline."""
    name = (recorded.get("headline") or {}).get("protocol")
    for protocol in recorded.get("protocols") or []:
        if protocol.get("name") == name:
            return {record["sigma"]: (protocol, record) for record in protocol.get("by_sigma") or []}
    return {}


def _noise_level(sigma: float, found: Mapping[str, Interval], record: Mapping[str, Any]) -> NoiseLevel:
    here = {name: found[name] for name in SCORES if name in ("accuracy", "weighted_f1") and name in found}
    published = {name: score for name in here if (score := published_score(record, name))}
    return NoiseLevel(float(sigma), here, published)


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


def _by_subject(images: Sequence[LabelledImage], right: Sequence[bool]) -> tuple[SubjectCount, ...]:
    hits: dict[str, list[tuple[str, bool]]] = {}
    for image, hit in zip(images, right, strict=True):
        if image.subject is not None:
            hits.setdefault(image.subject, []).append((image.label, hit))
    counted = [
        SubjectCount(name, tuple(sorted({label for label, _ in some})), len(some), sum(hit for _, hit in some))
        for name, some in hits.items()
    ]
    return tuple(sorted(counted, key=lambda one: (one.right / one.images, -one.images, natural(one.subject))))


def _ood_count(accepted: Sequence[bool | None], right: Sequence[bool]) -> OodCount | None:
    if accepted[0] is None:
        return None
    count = Counter(zip(accepted, right, strict=True))
    return OodCount(
        rejected=count[False, False] + count[False, True],
        rejected_right=count[False, True],
        accepted=count[True, False] + count[True, True],
        accepted_right=count[True, True],
    )
