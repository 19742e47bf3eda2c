"""Robustness: what is measured of networks whose answers we know, and that figures are those of the images."""

import json
from dataclasses import astuple

import numpy as np
import pytest
from helpers_shortcut_probes import cell, field, networks_of

from blastlens import Corruption, bootstrap, metrics
from blastlens.corruptions import KINDS
from train import robustness
from train.robustness import SEVERITIES, Scores, measure, sigma_at

CURVE = [0, 10, 20, 50]


def by_redness(view):
    """ALL where the dot in the middle is red, HEM where it is blue: lost with colour."""
    red, _, blue = view[30:34, 30:34].reshape(-1, 3).mean(axis=0)
    return np.array([red - blue, blue - red]) / 40


def dotted(dot, rng):
    """A cell of any size and tint, so that the yardstick knows little, with a dot of one colour in its middle."""
    pixels = cell(rng.uniform(12, 20), tuple(rng.uniform(70, 150, 3)), 12, rng)
    pixels[28:36, 28:36] = dot
    return pixels


@pytest.fixture(scope="module", autouse=True)
def few_draws():
    """Intervals are exact with any number of draws; a tenth of them is enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robustness, "REPLICATES", 200)
        yield


@pytest.fixture(scope="module")
def networks():
    rng = np.random.default_rng(0)
    dots = {"ALL": (150, 60, 100), "HEM": (100, 60, 150)}
    images = {label: [dotted(dot, rng) for _ in range(16)] for label, dot in dots.items()}
    return networks_of("cnmc2019", images, by_redness)


@pytest.fixture(scope="module")
def record(networks):
    return measure(networks, every=1)


def of(record, name):
    return next(kind for kind in record["kinds"] if kind["kind"] == name)


def f1_of(networks, corruptions, index):
    """Weighted F1 of the rule on images after each corruption, pooled."""
    labels, views = [], []
    for corruption in corruptions:
        labels += [networks.labels[i] for i in index]
        views += [by_redness(corruption.apply(networks.pixels[i], seed=int(i))) for i in index]
    return metrics.weighted_f1(np.array(labels), metrics.softmax(np.array(views)))


def test_every_kind_is_measured_at_five_severities_and_the_record_is_json(record):
    assert [kind["kind"] for kind in record["kinds"]] == list(KINDS)
    for kind in record["kinds"]:
        assert [row["severity"] for row in kind["severities"]] == list(SEVERITIES)
        assert tuple(row["level"] for row in kind["severities"]) == KINDS[kind["kind"]].severities
        for row in kind["severities"]:
            for name in ("weighted_f1", "balanced_accuracy", "auroc", "ece", "aurc", "flip_rate", "lost"):
                assert row[name]["low"] <= row[name]["value"] + 1e-9 and row[name]["value"] <= row[name]["high"] + 1e-9
            assert [point["coverage"] for point in row["risk_coverage"]] == [k / 10 for k in range(1, 11)]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert (record["images"], record["groups"], record["protocol"]) == (32, 8, "group-kfold:2")
    assert record["baseline"]["name"] == "cell area and colour" and record["baseline"]["what"].endswith(".")


def test_the_noise_curve_says_from_which_sigma_on_points_are_lost(record):
    assert record["clean"]["weighted_f1"]["value"] == 1
    assert [row["sigma"] for row in record["noise"]] == [0, 2, 5, 6, 8, 10, 20.4, 30.6, 45.9, 66.3, 96.9, 100]
    for points in (1, 5):
        lost = [row["lost"]["value"] for row in record["noise"]]
        expected = sigma_at([row["sigma"] for row in record["noise"]], lost, points / 100)
        assert record["summary"][f"sigma_minus_{points}"] == (expected and pytest.approx(expected, abs=0.05))
    by_sigma = {row["level"]: row["weighted_f1"] for row in of(record, "gaussian_noise")["severities"]}
    assert all(row["weighted_f1"] == by_sigma.get(row["sigma"], row["weighted_f1"]) for row in record["noise"])


@pytest.mark.parametrize("name", ["saturation", "hue", "gaussian_noise", "shift"])
def test_a_severity_has_the_score_of_its_images(record, networks, name):
    kind = KINDS[name]
    for severity in (1, 5):
        corruptions = [Corruption(name, level) for level in kind.levels_of(severity)]
        row = of(record, name)["severities"][severity - 1]
        expected = f1_of(networks, corruptions, range(32))
        assert row["weighted_f1"]["value"] == pytest.approx(expected, abs=1e-5)
        assert row["lost"]["value"] == pytest.approx(1 - expected, abs=1e-5)


def test_both_ways_are_pooled_and_told_apart(record, networks):
    row = of(record, "hue")["severities"][4]
    assert [way["level"] for way in row["ways"]] == [-60, 60]
    for way in row["ways"]:
        expected = f1_of(networks, [Corruption("hue", way["level"])], range(32))
        assert way["weighted_f1"]["value"] == pytest.approx(expected, abs=1e-5)
    values = [way["weighted_f1"]["value"] for way in row["ways"]]
    assert values == [pytest.approx(1 / 3, abs=1e-5)] * 2 and row["weighted_f1"]["value"] == 0.5
    assert row["flip_rate"]["value"] == 0.5  # all turn blue one way, all red the other
    assert "ways" not in of(record, "gaussian_noise")["severities"][0]


def test_corruptions_that_take_what_the_network_goes_by_do_harm_and_others_do_not(record):
    degradation = {kind["kind"]: kind["relative_degradation"] for kind in record["kinds"]}
    assert record["summary"]["worst_kind"] == "shift"  # the dot is no longer where it is looked for
    assert degradation["shift"] == max(degradation.values())
    assert min(degradation["hue"], degradation["stain_hue"]) > 0.05
    assert degradation["brightness"] == degradation["scale_bar"] == 0


def test_errors_are_shares_of_the_yardsticks(record):
    kind = of(record, "hue")
    lost = [1 - row["weighted_f1"]["value"] for row in kind["severities"]]
    theirs = [row["baseline_error"] for row in kind["severities"]]
    assert kind["ce"]["value"] == pytest.approx(sum(lost) / sum(theirs), abs=1e-4)
    worse = sum(theirs) / 5 - record["baseline"]["clean_error"]
    clean = 1 - record["clean"]["weighted_f1"]["value"]
    if kind["relative_ce"]:
        assert kind["relative_ce"]["value"] == pytest.approx((sum(lost) / 5 - clean) / worse, rel=1e-3, abs=1e-4)
    f1 = [record["clean"]["weighted_f1"]["value"], *(row["weighted_f1"]["value"] for row in kind["severities"])]
    assert kind["area_under_curve"] == pytest.approx(np.mean(f1), abs=1e-4)
    assert kind["relative_degradation"] == pytest.approx(1 - np.mean(f1[1:]) / f1[0], abs=1e-4)


def test_a_yardstick_that_does_not_get_worse_gives_no_relative_error(record):
    for kind in record["kinds"]:
        worse = np.mean([row["baseline_error"] for row in kind["severities"]]) - record["baseline"]["clean_error"]
        assert (kind["relative_ce"] is None) == (worse < robustness.LEAST_LOSS)
    relative = [kind["relative_ce"]["value"] for kind in record["kinds"] if kind["relative_ce"]]
    assert record["summary"]["relative_mce_kinds"] == len(relative) > 0
    assert record["summary"]["relative_mce"]["value"] == pytest.approx(np.mean(relative), abs=1e-3)


def test_the_summary_is_the_mean_over_kinds_whether_or_not_they_go_both_ways(record):
    rows = [kind["severities"] for kind in record["kinds"]]
    for name, key in (("mean_weighted_f1", "weighted_f1"), ("mean_ece", "ece"), ("mean_flip_rate", "flip_rate")):
        expected = np.mean([row[key]["value"] for kind in rows for row in kind])
        assert record["summary"][name]["value"] == pytest.approx(expected, abs=1e-4)
    assert record["summary"]["mce"]["value"] == pytest.approx(
        np.mean([kind["ce"]["value"] for kind in record["kinds"]]), abs=1e-3
    )


def test_a_yardstick_without_errors_measures_nothing():
    found = [[robustness.Condition(np.eye(2)[[0, 0, 1, 1]], np.zeros((4, 1)))]] * 5
    scores = Scores(np.array([0, 1, 0, 1]), np.array(list("abcd")), np.eye(2)[[0, 1, 0, 1]])
    entry, draws = robustness._kind(KINDS["jpeg"], found, [0.0] * 5, 0.0, scores)
    assert entry["ce"] is entry["relative_ce"] is None
    summary = robustness._summary([entry], {"jpeg": draws}, scores)
    assert summary["mce"] is summary["relative_mce"] is None
    assert summary["mean_weighted_f1"].value == 0.5 and summary["mean_flip_rate"].value == 0.5


def test_fields_have_their_own_yardstick_and_need_no_positive_class(monkeypatch):
    monkeypatch.setattr(robustness, "KINDS", {name: KINDS[name] for name in ("gaussian_noise", "contrast")})
    rng = np.random.default_rng(1)
    labels = ("Benign", "Early", "Pre", "Pro")
    images = {label: [field(2 + 3 * n, None, rng) for _ in range(8)] for n, label in enumerate(labels)}

    def by_nuclei(view):
        dark = (view[..., 1] < 150).mean()
        return -((dark - np.array([0.04, 0.1, 0.16, 0.22])) ** 2) * 2000

    record = measure(networks_of("aria2021", images, by_nuclei), every=2)
    assert record["baseline"]["name"] == "colour histogram" and record["images"] == 16
    assert record["clean"]["auroc"]["value"] > 0.5


def test_intervals_are_those_of_the_cluster_bootstrap():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1], 60)
    groups = np.array([f"{label}{i % 6}" for i, label in enumerate(labels)])
    clean = metrics.softmax(rng.normal(0, 1, (120, 2)) + 1.5 * np.eye(2)[labels])
    worse = metrics.softmax(rng.normal(0, 1, (120, 2)) + 0.7 * np.eye(2)[labels])
    scores = Scores(labels, groups, clean)
    found = scores.draws([worse])
    expected = bootstrap.summary(labels, worse, groups, ["ALL", "HEM"], positive=0, replicates=200)
    for name in robustness.SCORES:
        assert astuple(bootstrap.percentile_interval(found[name])) == pytest.approx(astuple(expected[name]), abs=1e-12)
    lost = bootstrap.percentile_interval(scores.of_clean["weighted_f1"] - found["weighted_f1"])
    expected = bootstrap.difference(labels, clean, worse, groups, replicates=200)
    assert astuple(lost) == pytest.approx(astuple(expected), abs=1e-12)


def test_the_sigma_of_a_loss_is_found_between_neighbours():
    assert sigma_at(CURVE, [0, 0.005, 0.015, 0.1], 0.01) == 15
    assert sigma_at(CURVE, [0, 0.03, 0.01, 0.1], 0.01) == 5  # 0, 0.02, 0.02, 0.1: a loss that is partly undone
    assert sigma_at(CURVE, [0, -0.01, 0.0, 0.04], 0.05) is None
    assert sigma_at(CURVE, [0, -0.01, 0.01, 0.01], 0.01) == 20


def test_kept_answers_are_used_again_until_something_is_changed(networks, tmp_path, monkeypatch):
    asked = []

    class Counting(type(networks)):
        def held_out(self, change=None, index=None, what=""):
            asked.append(what)
            return super().held_out(change, index, what)

    counting = Counting(**{name: getattr(networks, name) for name in networks.__dataclass_fields__})
    vars(counting)["sessions"] = networks.sessions
    some = {name: KINDS[name] for name in ("gaussian_noise", "hue", "jpeg")}
    monkeypatch.setattr(robustness, "KINDS", some)
    first = measure(counting, every=2, keep=tmp_path)
    conditions = 1 + 5 + 10 + 5 + 6
    assert len(asked) == conditions
    assert measure(counting, every=2, keep=tmp_path) == first
    assert len(asked) == conditions + 1  # clean images are what tells whether the rest still holds
    measure(counting, every=3, keep=tmp_path)
    assert len(asked) == 2 * conditions + 1
    assert not list(tmp_path.glob("*.part*"))


def test_the_command_says_what_is_missing(capsys, tmp_path):
    arguments = [str(tmp_path), "--data", str(tmp_path), "--out", str(tmp_path / "out.json")]
    assert robustness.main(arguments) == 2
    assert "has no folds.json" in capsys.readouterr().err


def test_the_table_has_a_line_for_each_kind(record):
    text = robustness.table(record)
    assert all(kind.title in text for kind in KINDS.values())
