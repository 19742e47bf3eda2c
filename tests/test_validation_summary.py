"""Verdicts that go no further than the images reach, and what limits the figures."""

import pytest
from test_external_validation import CELL, FIELD, GOOD, people, published, run

from blastlens.validation_summary import caveats, verdict

PERFECT = people(*[("ALL", 5, 5)] * 13, *[("HEM", 5, 5)] * 13)


@pytest.mark.parametrize(
    ("rows", "figure", "tone", "said"),
    [
        (people(*[("ALL", 10, 10)] * 5, *[("HEM", 0, 10)] * 5), (0.85, 0.8, 0.9), "fails", "no better than always"),
        (GOOD, (0.99, 0.98, 0.995), "fails", "clearly below its published figure"),
        (GOOD, (0.5, 0.45, 0.55), "holds", "above its published figure"),
        (
            GOOD,
            (0.9, 0.88, 0.92),
            "holds",
            "No difference from its published figure can be shown with 100 images of 10",
        ),
        (GOOD, (0.9, 0.6, 0.99), "open", "No difference"),
        (
            people(("ALL", 5, 10), ("ALL", 9, 10), ("HEM", 4, 10), ("HEM", 7, 10)),
            (0.9, 0.88, 0.92),
            "open",
            "may be no",
        ),
        (people(("ALL", 9, 10), ("ALL", 8, 10), ("HEM", 9, 10), ("HEM", 8, 10)), (1, 0.99, 1), "open", "say little"),
        (people(("ALL", 9, 10), ("HEM", 8, 10)), (0.85, 0.8, 0.9), "open", "20 images of 2 people are too little"),
        (people(("ALL", 9, 10), ("ALL", 4, 10)), (0.85, 0.8, 0.9), "open", "whether it tells ALL from HEM cannot"),
        (GOOD, None, "open", "no published figure to compare"),
    ],
)
def test_the_verdict_goes_no_further_than_the_images(rows, figure, tone, said):
    found = verdict(run(rows, figure and published(figure)))
    assert (found.tone, said in found.headline) == (tone, True), found


def test_a_perfect_model_on_many_people_gets_a_verdict():
    """All of 200 images of 40 people right: that is not too little."""
    rows = [(label, label, f"{label} {n}") for label in CELL for n in range(20) for _ in range(5)]
    above = verdict(run(rows, published((0.846, 0.768, 0.907))))
    assert (above.tone, above.headline) == ("holds", "On these images it is above its published figure.")
    close = verdict(run(rows, published((0.98, 0.96, 0.99))))
    assert close.tone == "holds" and "No difference" in close.headline
    assert "Balanced accuracy is 100 % (95 % interval 89 to 100) here" in close.details[1]
    three = verdict(run(people(*[("ALL", 10, 10)] * 3, *[("HEM", 10, 10)] * 2), published((0.6, 0.58, 0.62))))
    assert three.tone == "open"


def test_no_verdict_is_firm_unless_there_are_enough_people_in_each_class():
    """The same shares, seven people in all: 5 and 5 settle it, 5 and 4 do not, whichever class has the 4."""
    low = published((0.99, 0.98, 0.995))
    assert verdict(run(GOOD, low)).tone == "fails"
    for short in (GOOD[10:], GOOD[:-10]):
        found = run(short, low)
        assert verdict(found).tone == "open" and "say little about others" in verdict(found).headline
    assert "only 4 people with ALL images and 5 people with HEM images" in caveats(run(GOOD[10:], low))[0]
    assert "say little about others" in caveats(run(GOOD[10:], low))[0]


def test_that_intervals_over_few_people_are_too_narrow_is_said_of_the_class():
    ten = people(
        *[("ALL", n, 10) for n in (9, 8, 7, 9, 10, 9, 8, 9, 7, 9)], *[("HEM", n, 10) for n in (9, 8, 7, 9, 10)]
    )
    (said,) = (text for text in caveats(run(ten)) if "too narrow" in text)
    assert said == "There are only 5 people with HEM images. Intervals over so few are still too narrow."
    rows = [(label, answer, f"{subject} {k}") for k in range(2) for label, answer, subject in GOOD]
    assert not any("too narrow" in text for text in caveats(run(rows)))


def test_a_class_from_one_person_is_said():
    lone = run(people(*[("ALL", n, 10) for n in (9, 8, 7, 9, 10)], ("HEM", 8, 10)))
    assert "1 person with HEM images" in caveats(lone)[0]
    assert any("How much people differ in HEM is not in the intervals" in text for text in caveats(lone))


def test_no_difference_is_called_no_proof_of_equality():
    details = verdict(run(GOOD, published((0.9, 0.6, 0.99)))).details
    assert any("no proof of equality" in text for text in details)


def test_labels_keep_their_spelling():
    rows = [(label, label, f"{label} {n}") for label in FIELD[:3] for n in range(6) for _ in range(3)]
    details = verdict(run(rows, label_names=FIELD)).details
    assert any(text.startswith("The share found of Benign is 100 %") for text in details)
    one = verdict(run(people(("ALL", 3, 4), ("ALL", 4, 4)), published((0.9, 0.8, 0.95))))
    assert any(text.startswith("Sensitivity is 88 %") for text in one.details)


def test_a_missing_class_is_said():
    rows = [(label, label, label[0]) for label in ("Benign", "Early", "Pre") for _ in range(3)]
    found = run(rows, label_names=FIELD)
    assert "Without images of Pro" in verdict(found).headline and "no image of Pro" in caveats(found)[0]


def test_a_good_figure_on_images_like_its_training_images_proves_nothing():
    found = run(GOOD, published((0.5, 0.45, 0.55)), from_training=90)
    assert verdict(found).tone == "open" and "learned from" in verdict(found).headline
    assert caveats(found)[0].startswith("90 images are named like") and "flatter" in caveats(found)[0]
    bad = people(*[("ALL", 10, 10)] * 5, *[("HEM", 0, 10)] * 5)
    assert verdict(run(bad, published((0.5, 0.45, 0.55)), from_training=90)).tone == "fails"


def test_a_figure_without_people_is_never_firm_and_says_that_its_interval_is_too_narrow():
    rows = [(label, answer, None) for label, answer, _ in GOOD]
    found = run(rows, published((0.99, 0.98, 0.995)))
    assert found.subjects == 0 and found.unnamed == 100
    assert verdict(found).tone == "open" and "100 images say little" in verdict(found).headline
    assert any("too narrow" in text for text in caveats(found))
    assert found.score("accuracy").here.low is not None


def test_where_everybody_was_answered_alike_it_is_said_what_the_interval_is_of():
    found = caveats(run(PERFECT))
    assert any("All images of ALL and HEM were answered alike" in text and "number of people" in text for text in found)
    same = caveats(run(people(*[("ALL", 4, 5)] * 13, *[("HEM", 4, 5)] * 13)))
    assert any("every person scored the same" in text for text in same)


@pytest.mark.parametrize(
    "rows",
    [
        [("ALL", "HEM", None)],
        [("ALL", "ALL", "a")],
        [("ALL", "ALL", "a"), ("HEM", "HEM", "a")],
        [("ALL", "ALL", "a"), ("HEM", "ALL", "a")],
        [("ALL", "ALL", None), ("HEM", "ALL", "a")],
        people(("ALL", 2, 2), ("ALL", 0, 2)),
    ],
)
def test_next_to_nothing_settles_nothing(rows):
    found = run(rows, published((0.85, 0.8, 0.9)))
    assert verdict(found).tone == "open"
    assert not any("nan" in text or "None" in text for text in (*verdict(found).details, *caveats(found)))


def test_another_mix_of_classes_and_image_level_figures_are_said():
    found = caveats(run(GOOD, published((0.9, 0.88, 0.92), level="image")))
    assert any("50 % are ALL, of the published test's 75 %" in text for text in found)
    assert any("image-level" in text for text in found)


def test_copies_and_images_of_two_classes_are_told():
    found = caveats(run(GOOD, digest="same"))
    assert any("99 files are exact copies" in text for text in found)
    assert any("1 image is in two classes at once" in text for text in found)
