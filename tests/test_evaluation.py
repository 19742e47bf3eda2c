"""Figures on images of one's own, by hand, and verdicts that go no further than they reach."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_models import blobs, shared_model_folder

from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.evaluation import SIGMAS, Measured, Score, always, difference, evaluate, measure
from blastlens.images import read_image
from blastlens.labelled import LabelledImage, LabelledImages
from blastlens.sources import Source

CELL, FIELD = ("ALL", "HEM"), ("Benign", "Early", "Pre", "Pro")


def entry(value, low=None, high=None):
    return {"value": value} if low is None else {"value": value, "low": low, "high": high}


def published(balanced, level="group"):
    """A metrics.json with one balanced accuracy, measured on 300 ALL and 100 HEM."""
    score = entry(*balanced)
    record = {
        "sigma": 0.0,
        "balanced_accuracy": score,
        "accuracy": score,
        "ece": entry(0.01, 0.005, 0.02),
        "sensitivity": entry(0.9, 0.8, 0.95),
        "per_class": {"ALL": {"support": 300}, "HEM": {"support": 100}},
    }
    protocol = {"name": f"{level}-kfold:3", "level": level, "n_images": 400, "n_groups": 40, "by_sigma": [record]}
    return {"headline": {"protocol": protocol["name"]}, "protocols": [protocol]}


def run(rows, metrics=None, label_names=CELL, from_training=0, confidence=0.9, **measured):
    """Evaluate answers given as (true label, answer, subject) or an error in place of the answer."""
    images, outcomes = [], []
    for n, (label, answer, subject) in enumerate(rows):
        images.append(LabelledImage(Source(f"{label}/{n}.png", lambda: b""), label, subject))
        if isinstance(answer, BlastlensError):
            outcomes.append(answer)
            continue
        p = np.full(len(label_names), (1 - confidence) / (len(label_names) - 1))
        p[label_names.index(answer)] = confidence
        extra = {"in_domain": None, "warnings": (), "digest": str(n)} | measured
        outcomes.append(Measured(np.stack([p, p]), **extra))
    labelled = LabelledImages(tuple(images), (), "a table", from_training, (), 0, ())
    classifier = SimpleNamespace(label_names=label_names, folder=SimpleNamespace(metrics=metrics or {}))
    return evaluate(classifier, labelled, outcomes, sigmas=(0, 10), replicates=400)


def people(*spec):
    """(label, how many right, of how many) for each person, named a, b, c ..."""
    rows = []
    for letter, (label, right, total) in zip("abcdefghijklmnopqrstuvwxyz", spec, strict=False):
        wrong = "HEM" if label == "ALL" else "ALL"
        rows += [(label, label if n < right else wrong, letter) for n in range(total)]
    return rows


def scores(evaluation):
    return {one.name: one for one in evaluation.comparisons}


def no_nan(evaluation):
    return json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))


GOOD = people(*[("ALL", 9, 10)] * 5, *[("HEM", 10, 10)] * 2, *[("HEM", 8, 10)] * 3)


def test_figures_are_those_worked_out_by_hand():
    # 4 ALL, 3 of them found; 2 HEM, 1 of them found.
    rows = [*people(("ALL", 2, 2), ("ALL", 1, 2)), ("HEM", "HEM", "y"), ("HEM", "ALL", "z")]
    evaluation = run(rows)
    here = {name: one.here.value for name, one in scores(evaluation).items()}
    assert here["accuracy"] == pytest.approx(4 / 6)
    assert here["sensitivity"] == 0.75 and here["specificity"] == 0.5
    assert here["balanced_accuracy"] == 0.625
    # F1 of ALL 2*3/(4+4), of HEM 2*1/(2+2)
    assert here["weighted_f1"] == pytest.approx((4 * 0.75 + 2 * 0.5) / 6)
    # Of the 4 * 2 pairs 3 are in order; 3 and 1 have equal probabilities.
    assert here["auroc"] == pytest.approx((3 + 4 / 2) / 8)
    assert here["ece"] == pytest.approx(0.9 - 4 / 6)
    assert evaluation.confusion == ((3, 1), (1, 1))
    assert evaluation.counts == {"ALL": 4, "HEM": 2} and evaluation.people == 4
    assert [(one.subject, one.right, one.images) for one in evaluation.persons] == [
        ("z", 0, 1),
        ("b", 1, 2),
        ("a", 2, 2),
        ("y", 1, 1),
    ]


def test_always_giving_the_commonest_answer_is_scored_too():
    counts = {"ALL": 30, "HEM": 10}
    expected = {"accuracy": 0.75, "weighted_f1": 0.75 * 1.5 / 1.75, "balanced_accuracy": 0.5, "auroc": 0.5}
    expected |= {"sensitivity": 1, "specificity": 0, "ece": None}
    assert {name: always(name, counts, "ALL") for name in expected} == pytest.approx(expected)
    assert always("balanced_accuracy", dict.fromkeys(FIELD, 5), "Pre") == 0.25
    assert always("recall of Pre", dict.fromkeys(FIELD, 5), "Pre") == 1
    assert always("recall of Pro", dict.fromkeys(FIELD, 5), "Pre") == 0


def test_a_difference_reaches_as_far_as_both_intervals_in_quadrature():
    apart = difference(Score(0.7, 0.64, 0.78), Score(0.9, 0.84, 0.98))
    assert (apart.value, apart.low, apart.high) == pytest.approx((-0.2, -0.3, -0.1))
    assert difference(Score(0.7), Score(0.9, 0.84, 0.98)).low is None


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
    verdict = run(rows, figure and published(figure)).verdict
    assert (verdict.tone, said in verdict.headline) == (tone, True), verdict


def test_no_difference_is_called_no_proof_of_equality():
    verdict = run(GOOD, published((0.9, 0.6, 0.99))).verdict
    assert any("no proof of equality" in text for text in verdict.details)


def test_a_good_figure_on_images_like_its_training_images_proves_nothing():
    evaluation = run(GOOD, published((0.5, 0.45, 0.55)), from_training=3)
    assert evaluation.verdict.tone == "open" and "learned from" in evaluation.verdict.headline
    assert evaluation.caveats[0].startswith("3 images are named like") and "flatter" in evaluation.caveats[0]
    bad = people(*[("ALL", 10, 10)] * 5, *[("HEM", 0, 10)] * 5)
    assert run(bad, published((0.5, 0.45, 0.55)), from_training=3).verdict.tone == "fails"


def test_a_figure_without_people_is_never_firm_and_says_that_its_interval_is_too_narrow():
    rows = [(label, answer, None) for label, answer, _ in GOOD]
    evaluation = run(rows, published((0.99, 0.98, 0.995)))
    assert evaluation.people == 0 and evaluation.strangers == 100
    assert evaluation.verdict.tone == "open"
    assert any("too narrow" in text for text in evaluation.caveats)
    assert scores(evaluation)["accuracy"].here.low is not None


def test_few_people_and_a_class_from_one_person_are_said():
    assert any("of 4 people" in text for text in run(people(*[("ALL", 9, 10), ("HEM", 8, 10)] * 2)).caveats)
    lone = run(people(*[("ALL", n, 10) for n in (9, 8, 7, 9, 10)], ("HEM", 8, 10)))
    assert any("All HEM images are of one person" in text for text in lone.caveats)
    assert scores(lone)["specificity"].here == Score(0.8)
    assert scores(lone)["sensitivity"].here.low is not None


def test_an_interval_without_width_is_left_out_and_explained():
    perfect = run(people(*[("ALL", 5, 5)] * 5, *[("HEM", 5, 5)] * 5), published((0.85, 0.8, 0.9)))
    assert scores(perfect)["accuracy"].here == Score(1.0)
    assert any("That is not certainty" in text for text in perfect.caveats)
    assert perfect.verdict.tone == "open"


def test_a_missing_class_leaves_out_what_is_undefined():
    one = run(people(("ALL", 3, 4), ("ALL", 4, 4)), published((0.85, 0.8, 0.9)))
    assert set(scores(one)) == {"accuracy", "sensitivity", "ece"}
    assert scores(one)["sensitivity"].difference is not None and scores(one)["accuracy"].difference is None
    rows = [(label, label, label[0]) for label in ("Benign", "Early", "Pre") for _ in range(3)]
    three = run(rows, label_names=FIELD)
    assert not {"balanced_accuracy", "auroc", "recall of Pro"} & set(scores(three))
    assert scores(three)["recall of Pre"].here.value == 1
    assert "Without images of Pro" in three.verdict.headline and "no image of Pro" in three.caveats[0]
    no_nan(one), no_nan(three)


@pytest.mark.parametrize(
    "rows",
    [
        [("ALL", "HEM", None)],
        [("ALL", "ALL", "a")],
        [("ALL", "ALL", "a"), ("HEM", "ALL", "a")],
        [("ALL", "ALL", None), ("HEM", "ALL", "a")],
        people(("ALL", 2, 2), ("ALL", 0, 2)),
    ],
)
def test_next_to_nothing_still_gives_a_report_without_nan(rows):
    found = no_nan(run(rows, published((0.85, 0.8, 0.9))))
    assert found["images"] == len(rows) and found["verdict"]["tone"] == "open"


def test_calibration_of_few_images_is_not_held_against_that_of_many():
    assert scores(run(GOOD, published((0.9, 0.8, 0.95))))["ece"].difference is None


def test_another_mix_of_classes_and_image_level_figures_are_said():
    caveats = run(GOOD, published((0.9, 0.88, 0.92), level="image")).caveats
    assert any("50 % are ALL, of the published test's 75 %" in text for text in caveats)
    assert any("image-level" in text for text in caveats)


def test_unreadable_images_are_listed_and_none_readable_is_one_sentence():
    broken = BlastlensError("ALL/0.png is damaged.")
    evaluation = run([("ALL", broken, "a"), *GOOD])
    assert evaluation.refused == (("ALL/0.png", "ALL/0.png is damaged."),)
    assert (evaluation.images, evaluation.left_out) == (100, 1)
    with pytest.raises(BlastlensError, match=r"None of the 2 labelled images could be read. The first: ALL/0.png is"):
        run([("ALL", broken, "a"), ("HEM", broken, "b")])


def test_copies_and_images_of_two_classes_are_told():
    caveats = run(GOOD, digest="same").caveats
    assert any("99 files are exact copies" in text for text in caveats)
    assert any("1 image is in two classes at once" in text for text in caveats)


def test_images_unlike_the_training_images_are_counted_with_their_answers():
    gate = run(GOOD, in_domain=False, warnings=("darker",))
    assert (gate.gate.unlike, gate.gate.unlike_right, gate.gate.fitting) == (100, 89, 0)
    assert gate.remarks == (("darker", 100),)
    assert run(GOOD).gate is None


@pytest.fixture(scope="module")
def classifier():
    return Classifier.from_pretrained(shared_model_folder("cell"))


def png(number):
    from io import BytesIO

    from PIL import Image

    Image.fromarray(blobs(number)).save(buffer := BytesIO(), "PNG")
    return buffer.getvalue()


def test_each_image_is_read_once_in_turn_and_its_noise_is_that_of_its_number(classifier):
    reads = []

    def source(number):
        return Source(f"ALL/{number}.png", lambda: reads.append(number) or (png(number) if number != 1 else b"no"))

    images = [LabelledImage(source(n), "ALL", None) for n in range(3)]
    steps = measure(classifier, images)
    assert reads == []
    next(steps)
    assert reads == [0]
    bad, last = steps
    assert reads == [0, 1, 2]
    assert isinstance(bad, BlastlensError) and "1.png" in str(bad)
    pixels = read_image(png(2), "2.png").pixels
    for row, sigma in enumerate(SIGMAS):
        expected = list(classifier.predict(pixels, sigma, seed=2).probabilities.values())
        assert last.probabilities[row] == pytest.approx(expected, abs=1e-5)
