"""What an evaluation on images of one's own means, in sentences that say no more than the images can show. Pure."""

from dataclasses import dataclass

from .external_validation import Evaluation, Score, ScorePair
from .folder_labels import FEW_IMAGES
from .wording import count, listed, percent

# With fewer people in a class, intervals settle nothing; with fewer than the second number, that they are too narrow is
# said. Of 100 intervals, 69 held the true value with 3 and 2 people, 84 with 5 and 5, 92 with 10 and 10 (simulated with
# people as different as those the bundled cell model was measured on).
FEW_SUBJECTS, ENOUGH_SUBJECTS = 5, 10
# So much lower than published a model may still be, and be said to hold: about how far the published figure of the
# bundled cell model reaches itself (0.77 to 0.91). It is a choice, not a finding; the report gives the interval.
MARGIN = 0.10
# Another mix of classes than this, and accuracy of here and there is no longer of the same thing.
OTHER_MIX = 0.05


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


def verdict(e: Evaluation) -> Verdict:
    """Whether the model holds on these images, as far as they can tell."""
    answered = f"It answered {e.right:,} of {count(e.images, 'image')} right."
    if len(e.present) == 1:
        return _of_one_class(e, e.present[0])
    if e.missing:
        return Verdict(
            "open",
            f"Without images of {listed(e.missing)}, its published figures cannot be tested here.",
            (answered, *(_in_words(one) for one in e.scores if one.name.startswith("recall of "))),
        )
    main = e.score("balanced_accuracy")
    assert main is not None  # it is defined wherever no class is missing
    return _of_all_classes(e, main, main.always or 0.0, (answered, _in_words(main)))


def _of_one_class(e: Evaluation, label: str) -> Verdict:
    others = listed([name for name in e.label_names if name != label])
    details = [
        f"It answered {label} for {e.right:,} of {count(e.images, 'image')}; always answering {label} would get all "
        "of them right."
    ]
    names = ("sensitivity", "specificity", f"recall of {label}")
    recall = next((one for one in e.scores if one.name in names), None)
    if recall is not None and recall.published is not None:
        details.append(_in_words(recall))
    return Verdict("open", f"Only {label} here: whether it tells {label} from {others} cannot be said.", tuple(details))


def _of_all_classes(e: Evaluation, main: ScorePair, chance: float, details: tuple[str, ...]) -> Verdict:
    whose = f" of {count(e.subjects, 'person', 'people')}" if e.subjects and not e.unnamed else ""
    of_what = f"{count(e.images, 'image')}{whose}"
    too_little = f"{of_what} {'is' if e.images == 1 else 'are'} too little for a verdict."
    firm = not e.unnamed and not _below(FEW_SUBJECTS, e)
    if e.images < FEW_IMAGES:
        return Verdict("open", too_little, details)
    if main.here.value <= chance:
        return Verdict("fails", f"On these images it does no better than always answering {e.commonest}.", details)
    if e.labelled.from_training:
        headline = "These look like images it learned from, so they cannot show that it holds here."
        return Verdict("open", headline, details)
    if main.here.low is None:
        return Verdict("open", too_little, details)
    if main.here.low <= chance:
        headline = f"With {of_what}, it may be no better here than always answering {e.commonest}."
        return Verdict("open", headline, details)
    better = f"It does better here than always answering {e.commonest}"
    if main.difference is None or main.difference.low is None or main.difference.high is None:
        return Verdict("open", f"{better}; there is no published figure to compare with.", details)
    if main.difference.high < 0:
        if firm:
            return Verdict("fails", "Here it is clearly below its published figure.", (*details, f"{better}."))
        headline = f"On these images it is below its published figure, but {of_what} say little about others."
        return Verdict("open", headline, (*details, f"{better}."))
    if main.difference.low > 0:
        doubt = (
            "That is no proof that it is better here: these images may be easier, among those it learned from, or "
            "labelled with its answers in mind."
        )
        headline = "On these images it is above its published figure."
        return Verdict("holds" if firm else "open", headline, (*details, doubt))
    doubt = (
        f"That is no proof of equality: it could be up to {-100 * main.difference.low:.0f} points worse here and "
        "still look like this."
    )
    headline = f"No difference from its published figure can be shown with {of_what}."
    return Verdict("holds" if firm and main.difference.low >= -MARGIN else "open", headline, (*details, doubt))


def caveats(e: Evaluation) -> tuple[str, ...]:
    """What limits the figures, one sentence or two each, the weightiest first."""
    return tuple([*_of_choice(e), *_of_people(e), *_of_copies(e), *_of_published(e)])


def _of_choice(e: Evaluation) -> list[str]:
    found = []
    if number := e.labelled.from_training:
        found.append(
            f"{_are(number, len(e.labelled.images))} named like those of the data set this model learned from. On "
            "images it has seen, a model looks better than it is: these figures flatter it."
        )
    if e.missing:
        found.append(f"There is no image of {listed(e.missing)}; figures that need one are left out.")
    return found


def _of_people(e: Evaluation) -> list[str]:
    found = []
    lone: list[str] = []
    if e.unnamed:
        whose = "any image is" if e.unnamed == e.images else f"{e.unnamed:,} of the images are"
        found.append(
            f"Nothing says whose {whose}, so each of them counts as a person of its own. Images of one person "
            "are alike, so the intervals are too narrow."
        )
    elif thin := _below(ENOUGH_SUBJECTS, e):
        given = [f"{count(e.subjects_of[label], 'person', 'people')} with {label} images" for label in thin]
        little = ", and say little about others" if _below(FEW_SUBJECTS, e) else ""
        found.append(
            f"There {'is' if e.subjects_of[thin[0]] == 1 else 'are'} only {listed(given, 'and')}. Intervals over so "
            f"few are still too narrow{little}."
        )
        lone = [label for label in thin if e.subjects_of[label] == 1 and label not in e.without_spread]
    if lone:
        found.append(f"How much people differ in {listed(lone, 'and')} is not in the intervals at all.")
    if e.without_spread:
        shares = "That share has its" if len(e.without_spread) == 1 else "Those shares have their"
        found.append(
            f"All images of {listed(e.without_spread, 'and')} were answered alike (all right, or all wrong), so there "
            f"is no spread to measure. {shares} interval from the number of people (Wilson); in weighted F1 it is "
            "missing."
        )
    elif not lone and any(one.here.low is None and one.name != "ece" for one in e.scores):
        found.append(
            "Some figures have no interval: every person scored the same, so there is no spread to measure. "
            "That is not certainty."
        )
    return found


def _below(number: int, e: Evaluation) -> list[str]:
    """The labels that there are images of, but of fewer people than that."""
    return [label for label in e.present if e.subjects_of[label] < number]


def _of_copies(e: Evaluation) -> list[str]:
    found = []
    if e.copies:
        files = count(e.copies, "file is an exact copy", "files are exact copies")
        found.append(f"{files} of another; each was counted.")
    if e.torn:
        found.append(
            f"{count(e.torn, 'image is', 'images are')} in two classes at once, so one of its labels is wrong."
        )
    return found


def _of_published(e: Evaluation) -> list[str]:
    if e.published is None:
        return []
    found = []
    if e.published.shares and not e.missing:
        here = {label: number / e.images for label, number in e.counts.items()}
        there = {label: e.published.shares.get(label, 0.0) for label in e.counts}
        label = max(here, key=lambda name: abs(here[name] - there[name]))
        if abs(here[label] - there[label]) > OTHER_MIX:
            found.append(
                f"Of these images {percent(here[label])} are {label}, of the published test's {percent(there[label])}. "
                "Accuracy and weighted F1 move with that mix; balanced accuracy does not."
            )
    if not e.published.by_group:
        found.append(
            "The published figures are image-level: images of the same people were among those it learned from, so "
            "they flatter it."
        )
    return found


# Wording -------------------------------------------------------------------------------------------------------


def _in_words(one: ScorePair) -> str:
    """Here, published and the difference, as one sentence."""
    kind, _, label = one.name.partition(" of ")
    # Labels keep their spelling.
    name = f"The share found of {label}" if label else kind.replace("_", " ").capitalize()
    text = f"{name} is {_with_interval(one.here)} here"
    if one.published is None:
        return f"{text}."
    text += f" and {_with_interval(one.published)} as published"
    if one.difference is None:
        return f"{text}."
    ends = one.difference
    if ends.low is None or ends.high is None:
        return f"{text}; there is no interval for the difference of {_points(ends.value)} points."
    return (
        f"{text}: a difference of {_points(ends.value)} points "
        f"(95 % interval {_points(ends.low)} to {_points(ends.high)})."
    )


def _with_interval(score: Score) -> str:
    if score.low is None or score.high is None:
        return percent(score.value)
    return f"{percent(score.value)} (95 % interval {100 * score.low:.0f} to {100 * score.high:.0f})"


def _points(value: float) -> str:
    rounded = round(100 * value)
    return "0" if rounded == 0 else f"{rounded:+d}".replace("-", "\N{MINUS SIGN}")


def _are(number: int, of: int) -> str:
    if number == of and number > 1:
        return "All images are"
    return "The image is" if number == of else count(number, "image is", "images are")
