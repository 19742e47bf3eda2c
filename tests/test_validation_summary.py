"""The conclusion of an external validation goes no further than its images, and its limits are stated."""

import pytest
from test_external_validation import CELL, GOOD, published, run, subjects

from blastlens.validation_summary import caveats, conclude

PERFECT = subjects(*[("ALL", 5, 5)] * 13, *[("HEM", 5, 5)] * 13)
CONSTANT = subjects(*[("ALL", 10, 10)] * 5, *[("HEM", 0, 10)] * 5)
LOW = published((0.99, 0.98, 0.995))


@pytest.mark.parametrize(
    ("rows", "figure", "tone", "text"),
    [
        (CONSTANT, (0.85, 0.8, 0.9), "fails", "not better than always"),
        (GOOD, (0.99, 0.98, 0.995), "fails", "clearly below its published figure"),
        (GOOD, (0.5, 0.45, 0.55), "holds", "above its published figure"),
        (
            GOOD,
            (0.9, 0.88, 0.92),
            "holds",
            "No difference from the published figure can be shown with 100 images of 10",
        ),
        (GOOD, (0.9, 0.6, 0.99), "open", "No difference"),
        (
            subjects(("ALL", 5, 10), ("ALL", 9, 10), ("HEM", 4, 10), ("HEM", 7, 10)),
            (0.9, 0.88, 0.92),
            "open",
            "may not",
        ),
        (subjects(*[("ALL", 9, 10), ("ALL", 8, 10), ("HEM", 9, 10), ("HEM", 8, 10)]), (1, 0.99, 1), "open", "Below"),
        (subjects(("ALL", 9, 10), ("HEM", 8, 10)), (0.85, 0.8, 0.9), "open", "20 images of 2 subjects: too few"),
        (
            subjects(("ALL", 9, 10), ("ALL", 4, 10)),
            (0.85, 0.8, 0.9),
            "open",
            "whether the model distinguishes ALL from",
        ),
        (GOOD, None, "open", "no published figure to compare"),
        ([("ALL", "HEM", None)], (0.85, 0.8, 0.9), "open", ""),
        ([("ALL", "ALL", "a"), ("HEM", "HEM", "a")], (0.85, 0.8, 0.9), "open", ""),
        ([("ALL", "ALL", None), ("HEM", "ALL", "a")], (0.85, 0.8, 0.9), "open", ""),
        (subjects(("ALL", 2, 2), ("ALL", 0, 2)), (0.85, 0.8, 0.9), "open", ""),
    ],
)
def test_the_conclusion_goes_no_further_than_the_images(rows, figure, tone, text):
    evaluation = run(rows, figure and published(figure))
    found = conclude(evaluation)
    assert (found.tone, text in found.headline) == (tone, True), found
    assert not any("nan" in text or "None" in text for text in (*found.details, *caveats(evaluation)))


def test_a_perfect_model_on_many_subjects_holds():
    rows = [(label, label, f"{label} {n}") for label in CELL for n in range(20) for _ in range(5)]
    assert conclude(run(rows, published((0.846, 0.768, 0.907)))).tone == "holds"
    close = conclude(run(rows, published((0.98, 0.96, 0.99))))
    assert close.tone == "holds" and "100 % (95 % CI 89 to 100) here" in close.details[1]
    three = subjects(*[("ALL", 10, 10)] * 3, *[("HEM", 10, 10)] * 2)
    assert conclude(run(three, published((0.6, 0.58, 0.62)))).tone == "open"


def test_nothing_is_concluded_from_fewer_than_five_subjects_in_a_class():
    assert conclude(run(GOOD, LOW)).tone == "fails"
    for short in (GOOD[10:], GOOD[:-10]):
        found = conclude(run(short, LOW))
        assert found.tone == "open" and "not representative" in found.headline
    assert "Only 4 subjects with ALL images and 5 subjects with HEM" in caveats(run(GOOD[10:], LOW))[0]


def test_images_named_like_training_images_are_no_external_validation():
    good = published((0.5, 0.45, 0.55))
    found = run(GOOD, good, from_training=90)
    assert conclude(found).tone == "open" and "training images" in conclude(found).headline
    assert caveats(found)[0].startswith("90 images are named like")
    assert conclude(run(CONSTANT, good, from_training=90)).tone == "fails"


def test_images_without_subjects_are_never_conclusive():
    found = run([(label, answer, None) for label, answer, _ in GOOD], LOW)
    assert found.subjects == 0 and found.unnamed == 100 and conclude(found).tone == "open"
    assert any("too narrow" in text for text in caveats(found))
    assert found.score("accuracy").here.low is not None


def test_what_limits_the_figures_is_stated():
    one = caveats(run(subjects(*[("ALL", n, 10) for n in (9, 8, 7, 9, 10)], ("HEM", 8, 10))))
    assert any("variation between subjects with HEM is not in the intervals" in text for text in one)
    ten = [(label, answer, f"{subject} {k}") for k in range(2) for label, answer, subject in GOOD]
    assert not any("too narrow" in text for text in caveats(run(ten)))
    uniform = caveats(run(PERFECT))
    assert any("All images of ALL and HEM were classified alike" in text for text in uniform)
    same = caveats(run(subjects(*[("ALL", 4, 5)] * 13, *[("HEM", 4, 5)] * 13)))
    assert any("all subjects scored the same" in text for text in same)
    other = caveats(run(GOOD, published((0.9, 0.88, 0.92), level="image")))
    assert any("50 % of these images are ALL, 75 %" in text for text in other)
    assert any("image-level" in text for text in other)
    copies = caveats(run(GOOD, digest="same"))
    assert any("99 files are exact copies" in text for text in copies)
    assert any("1 image is in two classes" in text for text in copies)
