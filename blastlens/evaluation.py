"""Does a model hold on labelled images of one's own? Its figures there, beside its published ones, and a verdict.

The verdict says no more than the images can show. How it is laid out is the page's and the report's work.
"""

import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import metrics
from .classifier import Classifier
from .errors import BlastlensError
from .images import read_image
from .labelled import LabelledImage, LabelledImages
from .metrics import Bin, Interval
from .sources import natural

# Levels of noise, all of them among those that metrics.json has figures for.
SIGMAS = (0, 5, 10, 20, 30, 50)
# Below so many people, an interval over people says little; below so many images, no verdict is given.
FEW_PEOPLE, FEW_IMAGES = 5, 20
REPLICATES = 2000
# The class that counts as disease, of two.
POSITIVE: dict[tuple[str, ...], str] = {("ALL", "HEM"): "ALL"}
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
        warnings: as in a Prediction.
        digest: SHA-256 of the file, by which copies are found.
    """

    probabilities: np.ndarray
    in_domain: bool | None
    warnings: tuple[str, ...]
    digest: str


@dataclass(frozen=True)
class Score:
    """A measured value; the ends of its 95 % interval are None where the images cannot tell."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Comparison:
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
class Person:
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
class Published:
    """Where a model's published figures come from."""

    protocol: str
    by_group: bool
    images: int | None
    groups: int | None
    shares: Mapping[str, float]  # of images, by label; empty where unknown


@dataclass(frozen=True)
class Verdict:
    """What the images show.

    Attributes:
        tone: "holds" (no worse than published), "open" (nothing can be shown) or "fails" (worse, or no better than a
            fixed answer).
        headline: one sentence.
        details: one sentence each.
    """

    tone: str
    headline: str
    details: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """Everything a report says.

    Attributes:
        label_names: in the model's order, as are rows and columns of `confusion`.
        counts: images by true label.
        people: how many are known; 0 where nothing says whose the images are.
        strangers: images of which nothing says whose they are.
        commonest: the label that most images have.
        comparisons: the scores.
        confusion: image counts, true labels in rows.
        bins: reliability, without noise.
        noise: by level.
        persons: those known, worst first.
        gate: None where the model has no input check.
        remarks: what the model warned of, with how many images it was; the most frequent first.
        published: None where the model has no published figures.
        caveats: what limits the figures, one sentence each, the weightiest first.
        refused: name and one sentence.
        left_out: how many images are not in the figures.
    """

    label_names: tuple[str, ...]
    counts: Mapping[str, int]
    people: int
    strangers: int
    commonest: str
    comparisons: tuple[Comparison, ...]
    confusion: tuple[tuple[int, ...], ...]
    bins: tuple[Bin, ...]
    noise: tuple[NoiseLevel, ...]
    persons: tuple[Person, ...]
    gate: GateCount | None
    remarks: tuple[tuple[str, int], ...]
    published: Published | None
    caveats: tuple[str, ...]
    verdict: Verdict
    labelled: LabelledImages
    refused: tuple[tuple[str, str], ...]
    left_out: int

    @property
    def images(self) -> int:
        """How many images the figures are of."""
        return sum(self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        """The same as plain JSON values; what is undefined is None, never NaN."""
        return {
            "verdict": {
                "tone": self.verdict.tone,
                "headline": self.verdict.headline,
                "details": [*self.verdict.details],
            },
            "caveats": [*self.caveats],
            "images": self.images,
            "people": self.people or None,
            "images_of_unknown_people": self.strangers,
            "images_by_label": dict(self.counts),
            "labels_read": [vars(reading).copy() for reading in self.labelled.readings],
            "scores": {
                one.name: {
                    "here": vars(one.here).copy(),
                    "published": vars(one.published).copy() if one.published else None,
                    "difference": vars(one.difference).copy() if one.difference else None,
                    f"always_{self.commonest}": one.always,
                }
                for one in self.comparisons
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
            "by_person": [vars(person) | {"labels": list(person.labels)} for person in self.persons],
            "unlike_training_images": self.gate.unlike if self.gate else None,
            "published_on": vars(self.published) | {"shares": dict(self.published.shares)} if self.published else None,
            "left_out": self.left_out,
            "refused": [{"name": name, "reason": reason} for name, reason in self.refused],
        }


def measure(
    classifier: Classifier, images: Sequence[LabelledImage], sigmas: Sequence[float] = SIGMAS
) -> Iterator[Measured | BlastlensError]:
    """Ask a model about each image at each level of noise; one outcome per image, in order.

    Each image is read once, and nothing but its probabilities is kept. Image number n gets the noise field of seed n,
    as in the published figures.
    """
    for number, image in enumerate(images):
        try:
            data = image.source.read()
            opened = read_image(io.BytesIO(data), image.source.name)
            prediction = classifier.predict(opened.pixels)
            curve = classifier.curve(opened.pixels, levels=sigmas, seeds=(number,))
        except BlastlensError as error:
            yield error
        else:
            yield Measured(
                curve.probabilities,
                prediction.in_domain,
                opened.notes + prediction.warnings,
                hashlib.sha256(data).hexdigest(),
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
    subjects = {image.subject for image, _ in done} - {None}
    positive = POSITIVE.get(tuple(names))
    counts = {label: int((truth == index).sum()) for index, label in enumerate(names)}
    right = probabilities[:, 0].argmax(axis=1) == truth

    scores, confusion = _scores(truth, probabilities[:, 0], groups, names, positive, replicates)
    record = _published_record(classifier)
    published = _published(classifier, record)
    commonest = max(counts, key=lambda label: counts[label])
    missing = [label for label in names if not counts[label]]
    comparisons = tuple(
        _compared(name, score, record, counts, commonest, comparable=not missing) for name, score in scores.items()
    )
    noise = []
    for column, sigma in enumerate(sigmas):
        at, _ = _scores(truth, probabilities[:, column], groups, names, None, replicates // 2)
        shown = {name: score for name, score in at.items() if name in ("accuracy", "weighted_f1")}
        there = _record_at(classifier, sigma)
        elsewhere = {name: score for name in shown if (score := _score_in(there, name))} if not missing else {}
        noise.append(NoiseLevel(float(sigma), shown, elsewhere))

    strangers = sum(image.subject is None for image, _ in done)
    people_of = {
        label: len({groups[n] for n in range(len(done)) if done[n][0].label == label})
        for label in names
        if counts[label]
    }
    caveats = _caveats(classifier, labelled, done, len(subjects), strangers, people_of, comparisons, published, counts)
    firm = not strangers and len(subjects) >= FEW_PEOPLE and min(people_of.values()) > 1
    verdict = _verdict(comparisons, counts, commonest, int(right.sum()), len(subjects), firm, labelled.from_training)
    judged = [(outcome.in_domain, hit) for (_, outcome), hit in zip(done, right, strict=True)]
    warnings = Counter(text for _, outcome in done for text in outcome.warnings)
    return Evaluation(
        label_names=tuple(names),
        counts=counts,
        people=len(subjects),
        strangers=strangers,
        commonest=commonest,
        comparisons=comparisons,
        confusion=confusion,
        bins=tuple(metrics.reliability(truth, probabilities[:, 0])),
        noise=tuple(noise),
        persons=_persons(done, right),
        gate=None if judged[0][0] is None else _gate_count(judged),
        remarks=tuple(warnings.most_common(5)),
        published=published,
        caveats=caveats,
        verdict=verdict,
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
        name: as in a Comparison.
        counts: images by true label.
    """
    share = counts[commonest] / sum(counts.values())
    if name == "accuracy":
        return share
    if name == "weighted_f1":
        return share * 2 * share / (1 + share)
    if name == "balanced_accuracy":
        return 1 / sum(count > 0 for count in counts.values())
    if name == "auroc":
        return 0.5
    positive = POSITIVE.get(tuple(counts))
    if name == "sensitivity":
        return float(commonest == positive)
    if name == "specificity":
        return float(commonest != positive)
    if name.startswith("recall of "):
        return float(name == f"recall of {commonest}")
    return None


def _scores(
    truth: np.ndarray,
    probabilities: np.ndarray,
    groups: np.ndarray,
    names: Sequence[str],
    positive: str | None,
    replicates: int,
) -> tuple[dict[str, Score], tuple[tuple[int, ...], ...]]:
    """Those scores that these images define, and the confusion matrix."""
    with np.errstate(invalid="ignore"):
        try:
            found = metrics.bootstrap(truth, probabilities, groups, names, positive, replicates)
        except ValueError:  # no replicate held every class: there is no interval
            found = metrics.summary(truth, probabilities, names, positive)
    present = [name for name in names if found["per_class"][name]["support"]]
    scores = {name: _score(found[name]) for name in SCORES if name in found}
    if len(names) > 2:
        scores |= {f"recall of {name}": _score(found["per_class"][name]["recall"]) for name in present}
    if len(present) < len(names):
        scores = {name: score for name, score in scores.items() if name not in _OVER_ALL_CLASSES}
    if len(present) == 1:
        scores.pop("weighted_f1", None)  # of one class it is its recall in another guise
    scores = {name: score for name, score in scores.items() if math.isfinite(score.value)}
    return scores, tuple(tuple(row) for row in found["confusion_matrix"])


def _score(measured: Interval | float) -> Score:
    """An interval without width is none: where all replicates agree, there was nothing to draw from."""
    if not isinstance(measured, Interval):
        return Score(float(measured))
    if not math.isfinite(measured.low) or measured.high - measured.low < 1e-9:
        return Score(measured.value)
    # A percentile interval of a score that draws itself worsen, such as the ECE, may lie beside the value.
    return Score(measured.value, min(measured.low, measured.value), max(measured.high, measured.value))


# Published figures ------------------------------------------------------------------------------------------------


def _protocol(classifier: Classifier) -> dict[str, Any]:
    """The headline's entry among the protocols of metrics.json, empty where there is none."""
    recorded = classifier.folder.metrics
    name = (recorded.get("headline") or {}).get("protocol")
    return next((one for one in recorded.get("protocols") or [] if one.get("name") == name), {})


def _record_at(classifier: Classifier, sigma: float) -> dict[str, Any]:
    levels = _protocol(classifier).get("by_sigma") or []
    return next((one for one in levels if one.get("sigma") == sigma), {})


def _published_record(classifier: Classifier) -> dict[str, Any]:
    return _record_at(classifier, 0)


def _score_in(record: Mapping[str, Any], name: str) -> Score | None:
    kind, _, label = name.partition(" of ")
    entry = (record.get("per_class") or {}).get(label, {}).get(kind) if label else record.get(name)
    if not entry or not math.isfinite(entry.get("value", math.nan)):
        return None
    return Score(entry["value"], entry.get("low"), entry.get("high"))


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


def _compared(
    name: str, here: Score, record: Mapping[str, Any], counts: Mapping[str, int], commonest: str, comparable: bool
) -> Comparison:
    published = _score_in(record, name)
    # The share of one class that is found does not depend on whether other classes were looked at.
    comparable = comparable or name in ("sensitivity", "specificity") or name.startswith("recall of ")
    # The fewer the images, the larger a calibration error comes out by chance alone: two of them do not compare.
    apart = difference(here, published) if published and comparable and name != "ece" else None
    return Comparison(name, here, published, apart, always(name, counts, commonest))


# What it all means -----------------------------------------------------------------------------------------------

_Done = Sequence[tuple[LabelledImage, Measured]]


def _persons(done: _Done, right: np.ndarray) -> tuple[Person, ...]:
    """People, the one with the smallest share of right answers first."""
    labels: dict[str, set[str]] = {}
    hits: dict[str, list[bool]] = {}
    for (image, _), hit in zip(done, right, strict=True):
        if image.subject is not None:
            labels.setdefault(image.subject, set()).add(image.label)
            hits.setdefault(image.subject, []).append(bool(hit))
    persons = [Person(name, tuple(sorted(labels[name])), len(hits[name]), sum(hits[name])) for name in hits]
    return tuple(sorted(persons, key=lambda one: (one.right / one.images, -one.images, natural(one.subject))))


def _gate_count(judged: Sequence[tuple[bool | None, bool]]) -> GateCount:
    unlike = [hit for fits, hit in judged if not fits]
    fitting = [hit for fits, hit in judged if fits]
    return GateCount(len(unlike), int(sum(unlike)), len(fitting), int(sum(fitting)))


def _caveats(
    classifier: Classifier,
    labelled: LabelledImages,
    done: _Done,
    people: int,
    strangers: int,
    people_of: Mapping[str, int],
    comparisons: Sequence[Comparison],
    published: Published | None,
    counts: Mapping[str, int],
) -> tuple[str, ...]:
    found = []
    if labelled.from_training:
        found.append(
            f"{_are(labelled.from_training, len(labelled.images))} named like those of the data set this model learned "
            "from. On images it has seen, a model looks better than it is: these figures flatter it."
        )
    if missing := [label for label in counts if not counts[label]]:
        found.append(f"There is no image of {_or(missing)}; figures that need one are left out.")
    if strangers:
        whose = "any image is" if strangers == len(done) else f"{strangers:,} of the images are"
        found.append(
            f"Nothing says whose {whose}, so each of them counts as a person of its own. Images of one person "
            "are alike, so the intervals are too narrow."
        )
    if people and not strangers and people < FEW_PEOPLE:
        found.append(
            f"All images are of {_count(people, 'person', 'people')}. An interval over so few says little about others."
        )
    if not strangers and (lone := [label for label, count in people_of.items() if count == 1]) and people > 1:
        found.append(
            f"All {_or(lone, 'and')} images are of one person{' each' if len(lone) > 1 else ''}: how much people "
            "differ in this is not in the intervals."
        )
    without = [one for one in comparisons if one.here.low is None and one.name != "ece"]
    if without and (people + strangers) > 1 and not any("of one person" in text for text in found):
        found.append(
            "Some figures have no interval: every person scored the same, so there is no spread to measure. "
            "That is not certainty."
        )
    if copies := len(done) - len({outcome.digest for _, outcome in done}):
        found.append(
            f"{_count(copies, 'file is an exact copy', 'files are exact copies')} of another; each was counted."
        )
    by_digest: dict[str, set[str]] = {}
    for image, outcome in done:
        by_digest.setdefault(outcome.digest, set()).add(image.label)
    if torn := sum(len(labels) > 1 for labels in by_digest.values()):
        found.append(f"{_count(torn, 'image is', 'images are')} in two classes at once, so one of its labels is wrong.")
    if published and published.shares and not missing:
        shares = {label: count / len(done) for label, count in counts.items()}
        label = max(shares, key=lambda name: abs(shares[name] - published.shares.get(name, 0)))
        if abs(shares[label] - published.shares.get(label, 0)) > 0.05:
            found.append(
                f"Of these images {100 * shares[label]:.0f} % are {label}, of the published test's "
                f"{100 * published.shares.get(label, 0):.0f} %. Accuracy and weighted F1 move with that mix; balanced "
                "accuracy does not."
            )
    if published and not published.by_group:
        found.append(
            "The published figures are image-level: images of the same people were among those it learned from, so "
            "they flatter it."
        )
    return tuple(found)


def _verdict(
    comparisons: Sequence[Comparison],
    counts: Mapping[str, int],
    commonest: str,
    right: int,
    people: int,
    firm: bool,
    from_training: int,
) -> Verdict:
    images = sum(counts.values())
    of_what = _count(images, "image", "images") + (f" of {_count(people, 'person', 'people')}" if people else "")
    by_name = {one.name: one for one in comparisons}
    answered = f"It answered {right:,} of {_count(images, 'image', 'images')} right."
    present = [label for label in counts if counts[label]]
    if len(present) == 1:
        return _of_one_class(by_name, counts, present[0], right)
    if len(present) < len(counts):
        missing = _or([label for label in counts if not counts[label]])
        return Verdict(
            "open",
            f"Without images of {missing}, its published figures cannot be tested here.",
            (answered, *_recalls(comparisons)),
        )
    main = by_name["balanced_accuracy"]
    chance = main.always or 0.0
    details = [answered, _in_words(main)]
    if images < FEW_IMAGES:
        return Verdict("open", f"{of_what} {'is' if images == 1 else 'are'} too little for a verdict.", tuple(details))
    if main.here.value <= chance:
        headline = f"On these images it does no better than always answering {commonest}."
        return Verdict("fails", headline, tuple(details))
    if from_training:
        headline = "These look like images it learned from, so they cannot show that it holds here."
        return Verdict("open", headline, tuple(details))
    if main.here.low is None:
        return Verdict("open", f"{of_what} are too little for a verdict.", tuple(details))
    if main.here.low <= chance:
        headline = f"With {of_what}, it may be no better here than always answering {commonest}."
        return Verdict("open", headline, tuple(details))
    better = f"It does better here than always answering {commonest}"
    if main.difference is None or main.difference.low is None or main.difference.high is None:
        return Verdict("open", f"{better}; there is no published figure to compare with.", tuple(details))
    if main.difference.high < 0:
        if firm:
            return Verdict("fails", "Here it is clearly below its published figure.", (*details, f"{better}."))
        headline = f"On these images it is below its published figure, but {of_what} say little about others."
        return Verdict("open", headline, (*details, f"{better}."))
    if main.difference.low > 0:
        details.append(
            "That is no proof that it is better here: these images may be easier, among those it learned from, or "
            "labelled with its answers in mind."
        )
        return Verdict("holds" if firm else "open", "On these images it is above its published figure.", tuple(details))
    gap = -100 * main.difference.low
    headline = f"No difference from its published figure can be shown with {of_what}."
    details.append(
        f"That is no proof of equality: it could be up to {gap:.0f} points worse here and still look like this."
    )
    return Verdict("holds" if firm and gap <= 10 else "open", headline, tuple(details))


def _of_one_class(by_name: Mapping[str, Comparison], counts: Mapping[str, int], label: str, right: int) -> Verdict:
    images = counts[label]
    others = _or([name for name in counts if name != label])
    details = [
        f"It answered {label} for {right:,} of {_count(images, 'image', 'images')}; always answering {label} "
        "would get all of them right."
    ]
    names = ("sensitivity", "specificity", f"recall of {label}")
    recall = next((by_name[name] for name in names if name in by_name), None)
    if recall is not None and recall.published is not None:
        details.append(_in_words(recall))
    return Verdict("open", f"Only {label} here: whether it tells {label} from {others} cannot be said.", tuple(details))


def _recalls(comparisons: Sequence[Comparison]) -> list[str]:
    return [_in_words(one) for one in comparisons if one.name.startswith("recall of ")]


def _in_words(one: Comparison) -> str:
    """Here, published and the difference, as one sentence."""
    text = f"{one.name.replace('_', ' ').capitalize()} is {_percent(one.here)} here"
    text = text.replace("Recall of ", "The share found of ")
    if one.published is None:
        return f"{text}."
    text += f" and {_percent(one.published)} as published"
    if one.difference is None:
        return f"{text}."
    ends = one.difference
    if ends.low is None or ends.high is None:
        return f"{text}; there is no interval for the difference of {_points(ends.value)} points."
    return (
        f"{text}: a difference of {_points(ends.value)} points "
        f"(95 % interval {_points(ends.low)} to {_points(ends.high)})."
    )


def _percent(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{100 * score.value:.0f} %"
    return f"{100 * score.value:.0f} % (95 % interval {100 * score.low:.0f} to {100 * score.high:.0f})"


def _points(value: float) -> str:
    rounded = round(100 * value)
    return "0" if rounded == 0 else f"{rounded:+d}".replace("-", "\N{MINUS SIGN}")


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _are(number: int, of: int) -> str:
    if number == of:
        return "All images are" if number > 1 else "The image is"
    return f"{_count(number, 'image is', 'images are')}"


def _or(names: Sequence[str], word: str = "or") -> str:
    return f" {word} ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]
