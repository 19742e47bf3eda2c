"""Figures on images of one's own, worked out by hand, and intervals where there can be one."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from helpers_files import encoded
from helpers_models import blobs, shared_model_folder

from blastlens import Classifier, external_validation
from blastlens.errors import BlastlensError
from blastlens.external_validation import SIGMAS, ImageOutcome, evaluate, measure
from blastlens.folder_labels import LabelledImage, LabelledImages
from blastlens.image_sources import Source
from blastlens.images import read_image
from blastlens.metrics import Interval
from blastlens.patients import wilson
from blastlens.validation_scores import always, difference, informative

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
        extra = {"in_domain": None, "suggestion": None, "warnings": (), "digest": str(n)} | measured
        outcomes.append(ImageOutcome(np.stack([p, p]), **extra))
    labelled = LabelledImages(tuple(images), (), "a table", from_training, (), 0, ())
    classifier = SimpleNamespace(label_names=label_names, folder=SimpleNamespace(metrics=metrics or {}))
    return evaluate(classifier, labelled, outcomes, sigmas=(0, 10), replicates=400)


def subjects(*spec):
    """(label, how many right, of how many) for each person, named a, b, c ..."""
    rows = []
    for letter, (label, right, total) in zip("abcdefghijklmnopqrstuvwxyz", spec, strict=False):
        wrong = "HEM" if label == "ALL" else "ALL"
        rows += [(label, label if n < right else wrong, letter) for n in range(total)]
    return rows


def scores(found):
    return {one.name: one for one in found.scores}


def no_nan(found):
    return json.loads(json.dumps(found.to_dict(), allow_nan=False))


GOOD = subjects(*[("ALL", 9, 10)] * 5, *[("HEM", 10, 10)] * 2, *[("HEM", 8, 10)] * 3)


def test_figures_equal_hand_worked_ones():
    # 4 ALL, 3 of them found; 2 HEM, 1 of them found.
    rows = [*subjects(("ALL", 2, 2), ("ALL", 1, 2)), ("HEM", "HEM", "y"), ("HEM", "ALL", "z")]
    found = run(rows)
    here = {name: one.here.value for name, one in scores(found).items()}
    assert here["accuracy"] == pytest.approx(4 / 6)
    assert here["sensitivity"] == 0.75 and here["specificity"] == 0.5
    assert here["balanced_accuracy"] == 0.625
    # F1 of ALL 2*3/(4+4), of HEM 2*1/(2+2)
    assert here["weighted_f1"] == pytest.approx((4 * 0.75 + 2 * 0.5) / 6)
    # Of the 4 * 2 pairs 3 are in order; 3 and 1 have equal probabilities.
    assert here["auroc"] == pytest.approx((3 + 4 / 2) / 8)
    assert here["ece"] == pytest.approx(0.9 - 4 / 6)
    assert found.confusion == ((3, 1), (1, 1))
    assert found.counts == {"ALL": 4, "HEM": 2} and found.subjects == 4
    assert [(one.subject, one.right, one.images) for one in found.by_subject] == [
        ("z", 0, 1),
        ("b", 1, 2),
        ("a", 2, 2),
        ("y", 1, 1),
    ]


def test_always_giving_the_commonest_answer_is_scored_too():
    counts = {"ALL": 30, "HEM": 10}
    expected = {"accuracy": 0.75, "weighted_f1": 0.75 * 1.5 / 1.75, "balanced_accuracy": 0.5, "auroc": 0.5}
    expected |= {"sensitivity": 1, "specificity": 0, "ece": None}
    assert {name: always(name, counts) for name in expected} == pytest.approx(expected)
    fields = dict.fromkeys(FIELD, 5) | {"Pre": 6}
    expected = {"balanced_accuracy": 0.25, "recall of Pre": 1, "recall of Pro": 0}
    assert {name: always(name, fields) for name in expected} == expected


def test_a_difference_reaches_as_far_as_both_intervals_in_quadrature():
    apart = difference(Interval(0.7, 0.64, 0.78), Interval(0.9, 0.84, 0.98))
    assert (apart.value, apart.low, apart.high) == pytest.approx((-0.2, -0.3, -0.1))
    assert np.isnan(difference(Interval(0.7), Interval(0.9, 0.84, 0.98)).low)


def test_where_all_people_agree_the_interval_comes_from_how_many_they_are():
    perfect = run(subjects(*[("ALL", 5, 5)] * 6, *[("HEM", 5, 5)] * 9))
    ends = {name: (one.here.value, one.here.low, one.here.high) for name, one in scores(perfect).items()}
    all_, hem = wilson(6, 6).low, wilson(9, 9).low
    assert ends["sensitivity"] == pytest.approx((1, all_, 1)) and ends["specificity"] == pytest.approx((1, hem, 1))
    both = np.hypot(1 - all_, 1 - hem) / 2
    assert ends["balanced_accuracy"] == pytest.approx((1, 1 - both, 1))
    assert ends["accuracy"] == pytest.approx((1, 1 - np.hypot(0.4 * (1 - all_), 0.6 * (1 - hem)), 1))
    assert ends["weighted_f1"] == pytest.approx((1, np.nan, np.nan), nan_ok=True)
    assert perfect.without_spread == ("ALL", "HEM")
    assert perfect.noise[0].here["accuracy"] == scores(perfect)["accuracy"].here
    wrong = run(subjects(*[("ALL", 5, 5)] * 6, *[("HEM", 0, 5)] * 9))
    assert (scores(wrong)["specificity"].here.low, scores(wrong)["specificity"].here.high) == (0, wilson(0, 9).high)
    # One class alike, one not: the interval of the mean holds both.
    half = run(subjects(*[("ALL", 5, 5)] * 6, *[("HEM", n, 5) for n in (3, 4, 5, 5, 5, 4)]))
    one = {name: scores(half)[name].here for name in ("sensitivity", "specificity", "balanced_accuracy")}
    below = {name: score.value - score.low for name, score in one.items()}
    assert below["balanced_accuracy"] == pytest.approx(np.hypot(below["sensitivity"], below["specificity"]) / 2)


def test_people_in_both_classes_may_go_wrong_in_both_at_once():
    rows = [(label, label, letter) for letter in "abcdefgh" for label in CELL for _ in range(3)]
    mean = scores(run(rows))["balanced_accuracy"].here
    assert (mean.value, mean.low, mean.high) == pytest.approx((1, wilson(8, 8).low, 1))


def test_a_published_value_without_interval_or_null_is_read_as_it_is():
    null, flat, beside = {"value": None}, entry(1.0, 1.0, 1.0), entry(0.00356, 0.00371, 0.0131)
    metrics = published((0.9, 0.88, 0.92))
    metrics["protocols"][0]["by_sigma"][0] |= {"auroc": null, "specificity": flat, "ece": beside, "weighted_f1": None}
    found = scores(run(GOOD, metrics))
    assert found["auroc"].published is None and found["weighted_f1"].published is None
    assert found["specificity"].published == Interval(1.0) and np.isnan(found["specificity"].difference.low)
    assert found["ece"].published == Interval(0.00356) and found["ece"].difference is None


@pytest.mark.parametrize("ends", [(0.00371, 0.0131), (0.00356, 0.00356), (float("nan"), float("nan"))])
def test_an_interval_beside_its_value_or_without_width_is_none(ends):
    assert informative(Interval(0.00356, *ends)) == Interval(0.00356)


def test_a_missing_class_leaves_out_what_is_undefined():
    one = run(subjects(("ALL", 3, 4), ("ALL", 4, 4)), published((0.85, 0.8, 0.9)))
    assert set(scores(one)) == {"accuracy", "sensitivity", "ece"}
    assert scores(one)["sensitivity"].difference is not None and scores(one)["accuracy"].difference is None
    rows = [(label, label, label[0]) for label in ("Benign", "Early", "Pre") for _ in range(3)]
    three = run(rows, label_names=FIELD)
    assert not {"balanced_accuracy", "auroc", "recall of Pro"} & set(scores(three))
    assert scores(three)["recall of Pre"].here.value == 1
    assert three.missing == ("Pro",) and scores(three)["recall of Pre"].difference is None
    no_nan(one), no_nan(three)


def test_unreadable_images_are_listed_and_none_readable_is_one_sentence():
    broken = BlastlensError("ALL/0.png is damaged.")
    found = run([("ALL", broken, "a"), *GOOD])
    assert found.refused == (("ALL/0.png", "ALL/0.png is damaged."),)
    assert (found.images, found.left_out) == (100, 1)
    with pytest.raises(BlastlensError, match=r"None of the 2 labelled images could be read. The first: ALL/0.png is"):
        run([("ALL", broken, "a"), ("HEM", broken, "b")])


def test_copies_and_images_of_two_classes_are_counted():
    found = run(GOOD, digest="same")
    assert (found.copies, found.torn) == (99, 1)
    assert (run(GOOD).copies, run(GOOD).torn) == (0, 0)


def test_images_unlike_the_training_images_are_counted_with_their_answers():
    gate = run(GOOD, in_domain=False, warnings=("darker",))
    assert (gate.ood.rejected, gate.ood.rejected_right, gate.ood.accepted) == (100, 89, 0)
    assert gate.remarks == (("darker", 100),)
    assert run(GOOD).ood is None


@pytest.fixture(scope="module")
def classifier():
    return Classifier.from_pretrained(shared_model_folder("cell"))


def test_each_image_is_read_once_in_turn_and_its_noise_is_that_of_its_number(classifier):
    reads = []

    def source(number):
        content = b"no" if number == 1 else encoded(blobs(number))
        return Source(f"ALL/{number}.png", lambda: reads.append(number) or content)

    images = [LabelledImage(source(n), "ALL", None) for n in range(3)]
    steps = measure(classifier, images)
    assert reads == []
    next(steps)
    assert reads == [0]
    bad, last = steps
    assert reads == [0, 1, 2]
    assert isinstance(bad, BlastlensError) and "1.png" in str(bad)
    pixels = read_image(encoded(blobs(2)), "2.png")[0]
    for row, sigma in enumerate(SIGMAS):
        expected = list(classifier.predict(pixels, sigma, seed=2).probabilities.values())
        assert last.probabilities[row] == pytest.approx(expected, abs=1e-5)


def test_a_test_that_takes_too_long_names_what_it_left_out(classifier, monkeypatch):
    monkeypatch.setattr(external_validation, "LONGEST_RUN_S", -1)
    images = [LabelledImage(Source("a.png", lambda: encoded(blobs(0))), 0, "1")]
    (outcome,) = measure(classifier, images)
    assert "a.png was left out, since the test took over" in str(outcome)
