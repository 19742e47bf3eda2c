"""An external validation in words: whether the published figures hold on these images, and what limits the answer."""

import math
from dataclasses import dataclass

from .external_validation import Evaluation
from .folder_labels import FEW_IMAGES
from .metrics import Interval
from .validation_scores import ScorePair
from .wording import count, listed, percent

# With fewer subjects in a class than the first number, nothing is concluded; with fewer than the second, the intervals
# are called too narrow. In simulations with subjects that vary as much as those of the bundled cell model's test data,
# the 95 % interval held the true value in 69 % of cases with 3 and 2 subjects, 84 % with 5 and 5, 92 % with 10 and 10.
FEW_SUBJECTS, ENOUGH_SUBJECTS = 5, 10
# A model "holds" if it can be at most this much below its published figure: roughly the half-width of the published
# interval of the bundled cell model. It is a choice; the report gives the interval.
MARGIN = 0.10
# Accuracy is not comparable if the share of a class differs by more than this.
SHARE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Conclusion:
    """What the images show.

    Attributes:
        tone: "holds" (not below the published figure), "open" (inconclusive) or "fails" (below it, or not better than a
            constant prediction).
        headline: one sentence.
        details: one sentence each.
    """

    tone: str
    headline: str
    details: tuple[str, ...]


def conclude(e: Evaluation) -> Conclusion:
    """Compare the figures on these images with the published ones."""
    answered = f"{e.right:,} of {count(e.images, 'image')} classified correctly."
    if len(e.present) == 1:
        return _one_class(e, e.present[0], answered)
    if e.missing:
        recalls = [_sentence(one) for one in e.scores if one.name.startswith("recall of ")]
        headline = f"Without images of {listed(e.missing)}, the published figures cannot be tested here."
        return Conclusion("open", headline, (answered, *recalls))
    main = e.score("balanced_accuracy")
    assert main is not None and main.always is not None  # defined where no class is missing
    tone, headline, *more = _all_classes(e, main, main.always)
    return Conclusion(tone, headline, (answered, _sentence(main), *more))


def _one_class(e: Evaluation, label: str, answered: str) -> Conclusion:
    others = listed([name for name in e.label_names if name != label])
    details = [f"{answered} Always predicting {label} would classify all of them correctly."]
    recall = next((one for one in e.scores if one.name in ("sensitivity", "specificity", f"recall of {label}")), None)
    if recall is not None and recall.published is not None:
        details.append(_sentence(recall))
    headline = f"All images are {label}: they cannot show whether the model distinguishes {label} from {others}."
    return Conclusion("open", headline, tuple(details))


def _all_classes(e: Evaluation, main: ScorePair, chance: float) -> tuple[str, ...]:
    """Tone, headline and further details."""
    subjects = f" of {count(e.subjects, 'subject')}" if e.subjects and not e.unnamed else ""
    images = f"{count(e.images, 'image')}{subjects}"
    constant = f"always predicting {e.commonest}"
    firm = not e.unnamed and not _with_fewer_subjects(FEW_SUBJECTS, e)
    if e.images >= FEW_IMAGES and main.here.value <= chance:
        return "fails", f"On these images the model is not better than {constant}."
    if e.images >= FEW_IMAGES and e.labelled.from_training:
        return "open", "These images are named like the model's training images, so they are no external validation."
    if e.images < FEW_IMAGES or math.isnan(main.here.low):
        return "open", f"{images}: too few for a conclusion."
    if main.here.low <= chance:
        return "open", f"{images}: the model may not be better than {constant}."
    apart = main.difference
    if apart is None or math.isnan(apart.low):
        return "open", f"The model is better than {constant}; there is no published figure to compare with."
    if apart.high < 0:
        better = f"It is better than {constant}."
        if firm:
            return "fails", "On these images the model is clearly below its published figure.", better
        return "open", f"Below the published figure on these images, but {images} are not representative.", better
    if apart.low > 0:
        return (
            "holds" if firm else "open",
            "On these images the model is above its published figure.",
            "The images may be easier, similar to its training images, or labelled with its predictions in mind.",
        )
    return (
        "holds" if firm and apart.low >= -MARGIN else "open",
        f"No difference from the published figure can be shown with {images}.",
        f"This does not prove equality: a loss of up to {-100 * apart.low:.0f} points is compatible with these images.",
    )


def caveats(e: Evaluation) -> tuple[str, ...]:
    """What limits the figures, one or two sentences each, the most important first."""
    found = []
    if number := e.labelled.from_training:
        found.append(
            f"{_are(number, len(e.labelled.images))} named like those of the model's training data. Figures on "
            "training images are too optimistic."
        )
    if e.missing:
        found.append(f"There is no image of {listed(e.missing)}; figures that need one are left out.")
    found += _on_subjects(e)
    if e.copies:
        files = count(e.copies, "file is an exact copy", "files are exact copies")
        found.append(f"{files} of another; each was counted.")
    if e.torn:
        found.append(f"{count(e.torn, 'image is', 'images are')} in two classes, so one of the labels is wrong.")
    return tuple(found + _on_published(e))


def _on_subjects(e: Evaluation) -> list[str]:
    found = []
    lone: list[str] = []
    if e.unnamed:
        which = "The images have" if e.unnamed == e.images else f"{count(e.unnamed, 'image has', 'images have')}"
        found.append(
            f"{which} no subject, so each of them counts as a subject of its own. Images of one subject are alike, so "
            "the intervals are too narrow."
        )
    elif thin := _with_fewer_subjects(ENOUGH_SUBJECTS, e):
        given = [f"{count(e.subjects_of[label], 'subject')} with {label} images" for label in thin]
        more = ", and no basis for a conclusion about others" if _with_fewer_subjects(FEW_SUBJECTS, e) else ""
        found.append(f"Only {listed(given, 'and')}: the intervals are too narrow{more}.")
        lone = [label for label in thin if e.subjects_of[label] == 1 and label not in e.without_spread]
    if lone:
        found.append(f"The variation between subjects with {listed(lone, 'and')} is not in the intervals.")
    if e.without_spread:
        found.append(
            f"All images of {listed(e.without_spread, 'and')} were classified alike (all correctly, or all "
            "incorrectly). The interval of that share is Wilson's, from the number of subjects; that of weighted F1 is "
            "missing."
        )
    elif not lone and any(math.isnan(one.here.low) and one.name != "ece" for one in e.scores):
        found.append("Some figures have no interval, since all subjects scored the same. That is not certainty.")
    return found


def _on_published(e: Evaluation) -> list[str]:
    if e.published is None:
        return []
    found = []
    if e.published.shares and not e.missing:
        shares = {label: (number / e.images, e.published.shares.get(label, 0.0)) for label, number in e.counts.items()}
        label, (here, there) = max(shares.items(), key=lambda item: abs(item[1][0] - item[1][1]))
        if abs(here - there) > SHARE_TOLERANCE:
            found.append(
                f"{percent(here)} of these images are {label}, {percent(there)} of the published test's. Accuracy and "
                "weighted F1 depend on that share; balanced accuracy does not."
            )
    if not e.published.by_group:
        found.append(
            "The published figures are image-level: images of the same subjects were in the training data, so the "
            "figures are too optimistic."
        )
    return found


def _with_fewer_subjects(number: int, e: Evaluation) -> list[str]:
    return [label for label in e.present if e.subjects_of[label] < number]


def _sentence(one: ScorePair) -> str:
    """Here, published and the difference."""
    kind, _, label = one.name.partition(" of ")
    name = f"Recall of {label}" if label else kind.replace("_", " ").capitalize()
    text = f"{name}: {_with_interval(one.here)} here"
    if one.published is None:
        return f"{text}."
    text += f", {_with_interval(one.published)} published"
    ends = one.difference
    if ends is None:
        return f"{text}."
    if math.isnan(ends.low):
        return f"{text}; difference {_points(ends.value)} points, without an interval."
    return f"{text}; difference {_points(ends.value)} points (95 % CI {_points(ends.low)} to {_points(ends.high)})."


def _with_interval(score: Interval) -> str:
    if math.isnan(score.low):
        return percent(score.value)
    return f"{percent(score.value)} (95 % CI {100 * score.low:.0f} to {100 * score.high:.0f})"


def _points(value: float) -> str:
    rounded = round(100 * value)
    return "0" if rounded == 0 else f"{rounded:+d}".replace("-", "\N{MINUS SIGN}")


def _are(number: int, of: int) -> str:
    if number == of and number > 1:
        return "All images are"
    return "The image is" if number == of else count(number, "image is", "images are")
