"""Robustness of networks with a known rule: figures are those of the corrupted images."""

import json
from dataclasses import astuple

import numpy as np
import pytest
from helpers_fold_networks import cell, networks_of

from blastlens import Corruption, bootstrap, metrics
from blastlens.corruptions import KINDS
from train import robustness
from train.robustness import SEVERITIES, Predictions, Scorer, measure, sigma_at

CURVE = [0, 10, 20, 50]


def by_redness(view):
    """ALL where the dot in the middle is red, HEM where it is blue: lost with colour."""
    red, _, blue = view[30:34, 30:34].reshape(-1, 3).mean(axis=0)
    return np.array([red - blue, blue - red]) / 40


def dotted(dot, rng):
    """A cell of any size and tint, which says little to the baseline, with a dot of one colour in its middle."""
    pixels = cell(rng.uniform(12, 20), tuple(rng.uniform(70, 150, 3)), 12, rng)
    pixels[28:36, 28:36] = dot
    return pixels


@pytest.fixture(scope="module")
def networks():
    rng = np.random.default_rng(0)
    dots = {"ALL": (150, 60, 100), "HEM": (100, 60, 150)}
    images = {label: [dotted(dot, rng) for _ in range(8)] for label, dot in dots.items()}
    return networks_of("cnmc2019", images, by_redness)


@pytest.fixture(scope="module")
def record(networks):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "REPLICATES", 50)
        return measure(networks, every=1)


def of(record, name):
    return next(kind for kind in record["kinds"] if kind["kind"] == name)


def f1_of(networks, corruptions):
    """Weighted F1 of the rule on all images after each corruption, pooled."""
    views = [by_redness(one.apply(v, seed=i)) for one in corruptions for i, v in enumerate(networks.pixels)]
    return metrics.score("weighted_f1", np.tile(networks.labels, len(corruptions)), metrics.softmax(np.array(views)))


def test_every_kind_is_measured_at_five_severities_and_the_record_is_json(record):
    assert [kind["kind"] for kind in record["kinds"]] == list(KINDS)
    for kind in record["kinds"]:
        assert [row["severity"] for row in kind["severities"]] == list(SEVERITIES)
        assert tuple(row["level"] for row in kind["severities"]) == KINDS[kind["kind"]].severities
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["images"], record["groups"], record["protocol"]) == (16, 8, "group-kfold:2")
    assert record["baseline"]["name"] == "cell area and colour"


@pytest.mark.parametrize("name", ["saturation", "hue", "gaussian_noise", "shift"])
def test_a_severity_has_the_score_of_its_images(record, networks, name):
    kind = KINDS[name]
    for severity in (1, 5):
        row = of(record, name)["severities"][severity - 1]
        expected = f1_of(networks, [Corruption(name, level) for level in kind.levels_of(severity)])
        assert row["weighted_f1"]["value"] == pytest.approx(expected, abs=1e-5)
        assert row["lost"]["value"] == pytest.approx(1 - expected, abs=1e-5)
        for way in row.get("ways", []):
            expected = f1_of(networks, [Corruption(name, way["level"])])
            assert way["weighted_f1"]["value"] == pytest.approx(expected, abs=1e-5)


def test_corruptions_of_what_the_network_uses_do_harm_and_others_do_not(record):
    degradation = {kind["kind"]: kind["relative_degradation"] for kind in record["kinds"]}
    assert record["summary"]["worst_kind"] == "shift"  # the dot is no longer where it is looked for
    assert min(degradation["hue"], degradation["stain_hue"]) > 0.05
    assert degradation["brightness"] == degradation["scale_bar"] == 0
    assert of(record, "hue")["severities"][4]["flip_rate"]["value"] == 0.5  # all turn blue one way, all red the other


def test_errors_are_relative_to_the_baselines(record):
    for kind in record["kinds"]:
        lost = [1 - row["weighted_f1"]["value"] for row in kind["severities"]]
        baseline = [row["baseline_error"] for row in kind["severities"]]
        assert kind["ce"]["value"] == pytest.approx(sum(lost) / sum(baseline), abs=1e-4)
        more = np.mean(baseline) - record["baseline"]["clean_error"]
        assert (kind["relative_ce"] is None) == (more < robustness.LEAST_LOSS)
        if kind["relative_ce"]:
            assert kind["relative_ce"]["value"] == pytest.approx(np.mean(lost) / more, rel=1e-3, abs=1e-4)


def test_the_summary_is_the_mean_over_kinds(record):
    rows = [kind["severities"] for kind in record["kinds"]]
    for name, key in (("mean_weighted_f1", "weighted_f1"), ("mean_ece", "ece"), ("mean_flip_rate", "flip_rate")):
        expected = np.mean([row[key]["value"] for kind in rows for row in kind])
        assert record["summary"][name]["value"] == pytest.approx(expected, abs=1e-4)
    expected = np.mean([kind["ce"]["value"] for kind in record["kinds"]])
    assert record["summary"]["mce"]["value"] == pytest.approx(expected, abs=1e-3)


def test_a_baseline_without_errors_measures_nothing():
    clean, wrong = np.eye(2)[[0, 1, 0, 1]], np.eye(2)[[0, 0, 1, 1]]
    scorer = Scorer(np.array([0, 1, 0, 1]), np.array(list("abcd")), Predictions(clean, clean))
    kind = robustness._kind(KINDS["jpeg"], [[Predictions(wrong, clean)]] * 5, scorer)
    assert kind[0]["ce"] is kind[0]["relative_ce"] is None
    summary = robustness._summary([kind], scorer)
    assert summary["mce"] is summary["relative_mce"] is None
    assert summary["mean_weighted_f1"].value == 0.5 and summary["mean_flip_rate"].value == 0.5


def test_intervals_are_those_of_the_cluster_bootstrap():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 60)
    groups = np.array([f"{label}{i % 6}" for i, label in enumerate(labels)])
    clean, corrupted = (metrics.softmax(rng.normal(0, 1, (120, 2)) + gap * np.eye(2)[labels]) for gap in (1.5, 0.7))
    scorer = Scorer(labels, groups, Predictions(clean, clean))
    found = scorer.describe([Predictions(corrupted, clean)])
    expected = bootstrap.summary(labels, corrupted, groups, ["ALL", "HEM"], positive=0)
    for name in robustness.SCORES:
        assert astuple(found[name]) == pytest.approx(astuple(expected[name]), abs=1e-12)
    expected = bootstrap.difference(labels, clean, corrupted, groups)
    assert astuple(scorer.f1([Predictions(corrupted, clean)])["lost"]) == pytest.approx(astuple(expected), abs=1e-12)


def test_the_sigma_of_a_loss_is_found_between_neighbours():
    assert sigma_at(CURVE, [0, 0.005, 0.015, 0.1], 0.01) == 15
    assert sigma_at(CURVE, [0, 0.03, 0.01, 0.1], 0.01) == 5  # 0, 0.02, 0.02, 0.1: a loss that is partly undone
    assert sigma_at(CURVE, [0, -0.01, 0.0, 0.04], 0.05) is None
    assert sigma_at(CURVE, [0, -0.01, 0.01, 0.01], 0.01) == 20
