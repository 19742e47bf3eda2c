"""The search for a cell model: candidates on the same splits, records, and a table that can be written at any time."""

from dataclasses import replace

import numpy as np
import pytest
import yaml
from helpers_synthetic import drawn_dataset
from scipy import ndimage

from blastlens.errors import BlastlensError
from train import search
from train.cell_features import NAMES, LogisticModel, cell_features, columns
from train.datasets import load_rows
from train.datasets.splits import make_splits
from train.held_out import HeldOut, Recorded
from train.results import load_results
from train.search import RECORDS, SearchPlan

SMALL = """
protocol: group-kfold:2
seeds: [0, 1]
new_donors: {groups}
baselines: [area]
network: {{}}
candidates:
  area: {{features: area}}
  handcrafted: {{features: all, c: 0.1}}
  boosted: {{features: nineteen, model: boosting}}
  both: {{average: [handcrafted, boosted]}}
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return drawn_dataset(tmp_path_factory.mktemp("drawn") / "cnmc2019", ("ALL", "HEM"), per_group=5, groups_per_label=4)


@pytest.fixture(scope="module")
def config(drawn, tmp_path_factory):
    groups = [next(row.group for row in load_rows(drawn) if row.label == label) for label in ("ALL", "HEM")]
    path = tmp_path_factory.mktemp("search") / "small.yaml"
    path.write_text(SMALL.format(groups=groups))
    return path


@pytest.fixture(scope="module")
def searched(drawn, config, tmp_path_factory):
    root = tmp_path_factory.mktemp("searched")
    arguments = ["--config", str(config), "--results", str(root / "records"), "--cache", str(root / "cache")]
    assert search.main([*arguments, "--data", str(drawn)]) == 0
    return root, arguments


def disc(radius=60, centre=(112, 112), value=(150, 60, 160)):
    rows, columns_ = np.mgrid[:224, :224]
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[(rows - centre[0]) ** 2 + (columns_ - centre[1]) ** 2 <= radius**2] = value
    return pixels


def feature(name, pixels):
    return cell_features(pixels)[NAMES.index(name)]


def test_size_colour_and_shape_of_a_disc_are_known():
    pixels = disc()
    area = np.count_nonzero(pixels.any(2))
    assert feature("log_area", pixels) == pytest.approx(np.log(area))
    assert feature("radius", pixels) == pytest.approx(60, abs=1.5)
    assert feature("density_red", pixels) == pytest.approx(np.log(256 / 151))
    assert feature("density_green", pixels) == pytest.approx(np.log(256 / 61))
    assert feature("solidity", pixels) > 0.97 and feature("eccentricity", pixels) < 0.1
    assert feature("band_2", pixels) < 1e-6 and feature("contrast", pixels) == 0


def test_features_do_not_depend_on_where_the_cell_lies_or_how_it_is_turned():
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.standard_normal((224, 224, 3)), (3, 3, 0)) * 200
    pixels = np.where(disc().any(2, keepdims=True), (disc() + texture).clip(20, 255), 0).astype(np.uint8)
    moved = np.roll(pixels, (9, -14), (0, 1))
    np.testing.assert_allclose(cell_features(moved), cell_features(pixels), atol=1e-9)
    turned = cell_features(np.rot90(pixels).copy())
    np.testing.assert_allclose(turned[columns("nineteen")], cell_features(pixels)[columns("nineteen")], atol=1e-6)


def test_features_of_an_image_without_a_cell_are_finite():
    for pixels in (np.zeros((224, 224, 3), np.uint8), np.full((224, 224, 3), 255, np.uint8)):
        assert np.isfinite(cell_features(pixels)).all()


def test_donors_with_many_and_few_cells_weigh_the_same():
    x = np.array([[0.0]] * 500 + [[1.0]] * 5 + [[2.0]] * 20 + [[3.0]] * 20)
    labels = np.array([0] * 505 + [1] * 40)
    donors = ["a"] * 500 + ["b"] * 5 + ["c"] * 20 + ["d"] * 20
    few = LogisticModel.fit(x, labels, donors).probabilities(np.array([[1.5]]))
    assert few[0] == pytest.approx([0.5, 0.5], abs=0.1)


def test_every_candidate_is_recorded_on_every_split_and_on_the_new_donors(searched, drawn, config):
    root, _ = searched
    found = load_results(root / "records")
    rows = load_rows(drawn)
    for name in ("area", "handcrafted", "boosted"):
        mine = [r for r in found if r.system == name]
        keys = {(r.protocol.partition(":")[0], r.seed, r.fold) for r in mine}
        assert keys == {("group-kfold", s, k) for s in (0, 1) for k in (0, 1)} | {("group-leave-out", 0, 0)}
        for r in mine:
            split = make_splits(r.protocol, rows, r.seed)[r.fold]
            assert tuple(r.index) == split.test
            assert not {rows[i].group for i in split.train} & set(r.groups_of_images)


def test_a_rerun_runs_nothing_and_the_table_needs_no_images(searched, capsys):
    root, arguments = searched
    before = {path: path.stat().st_mtime_ns for path in (root / "records").rglob("*.json")}
    assert search.main([*arguments, "--data", ""]) == 0
    table = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert "| both | 4 |" in table and "| area | 4 |" in table and "Not run yet: none." in table


def test_an_average_is_the_mean_of_its_members_on_the_same_images(searched, config):
    root, _ = searched
    chosen = SearchPlan.load(config)
    found = search.recorded(chosen, chosen.protocol, load_results(root / "records"))
    parts = [found[name] for name in ("handcrafted", "boosted", "both")]
    scores = [part.part(part.keys).score[0] for part in parts]
    np.testing.assert_allclose(scores[2], (scores[0] + scores[1]) / 2)


def test_networks_wait_in_the_queue_with_their_folds_and_seeds():
    chosen = SearchPlan.load()
    first = chosen.jobs(["cells-1"], 1)
    assert [(job.seed, job.fold) for job in first] == [(0, k) for k in range(5)]
    every = chosen.jobs(["cells-1"], 2)
    assert len(every) == 16 and every[-1].protocol.startswith("group-leave-out:")
    assert len({job.recipe.digest for job in every}) == 1 and every[0].recipe.image_size == 128


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 1}, "seed"),
        ({"candidates": {"a": {"d": 1}}}, "d"),
        ({"candidates": {"a": {"features": "six"}}}, "five"),
    ],
)
def test_an_invalid_search_is_rejected(tmp_path, config, change, reason):
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | change))
    with pytest.raises(BlastlensError, match=reason):
        SearchPlan.load(path)


def test_an_unknown_candidate_is_named(capsys):
    assert search.main(["--only", "unknown"]) == 2
    assert "no candidate unknown" in capsys.readouterr().err


def test_every_fold_of_the_search_has_healthy_donors():
    protocols = {(r.seed, r.fold): r for r in load_results(RECORDS) if r.system == "cell-area" and r.folds == 5}
    assert set(protocols) == {(s, k) for s in (0, 1, 2) for k in range(5)}
    for run in protocols.values():
        donors = {g for g, label in zip(run.groups_of_images, run.label, strict=True) if label == 1}
        assert len(donors) >= 2


def test_the_nested_estimate_predicts_each_fold_by_the_best_candidate_on_the_others(config):
    plan = SearchPlan.load(config)  # two split seeds of two folds

    def candidate(good: dict[int, bool], seeds=(0, 1)) -> Recorded:
        """In every fold two donors with three images each, ranked rightly where a fold is `good`, else wrongly."""
        keys = [(seed, fold) for seed in seeds for fold in (0, 1)]
        repeat, fold = (np.repeat([key[i] for key in keys], 6) for i in (0, 1))
        sick = np.tile([True] * 3 + [False] * 3, len(keys))
        right = np.array([good[k] for k in fold])
        group = np.array([f"{k}{'ill' if s else 'healthy'}" for k, s in zip(fold, sick, strict=True)])
        score = np.where(sick == right, 0.9, 0.1)[None]
        logits = np.log(np.stack([score, 1 - score], axis=2))
        images = HeldOut(np.array([0.0]), np.arange(len(repeat)), 1 - sick, fold, logits, group, repeat)
        return Recorded(images, score)

    both = {"first": candidate({0: True, 1: False}), "second": candidate({0: False, 1: True})}
    found = search.nested(plan, both)  # the best on the other fold is always the worse one
    assert found["chosen"] == {"second": 2, "first": 2} and found["runs"] == 4
    assert found["auroc_per_donor"].value == 0
    always = candidate({0: True, 1: True})  # of equal candidates the first is chosen
    best = {"third": always, **both, "part": candidate({0: True, 1: True}, seeds=(0,))}
    found = search.nested(plan, best)
    assert found["chosen"] == {"third": 4} and found["auroc_per_donor"].value == 1
    part = search.nested(plan, {"part": candidate({0: True, 1: True}, seeds=(0,))})
    assert part["runs"] == 2 and search.nested(plan, {}) is None


def test_a_fold_is_classified_with_the_threshold_at_which_the_other_folds_reach_the_sensitivity():
    # Two folds with one subject of each class, ten images each; ALL scores are evenly spread up to 0.9 and 0.7.
    top, healthy = (0.9, 0.7), (0.5, 0.55)
    scores = [np.linspace(0, top[k], 10) if sick else np.full(10, healthy[k]) for k in (0, 1) for sick in (True, False)]
    score, fold = np.concatenate(scores)[None], np.repeat([0, 1], 20)
    label = np.tile(np.repeat([0, 1], 10), 2)
    group = np.array([f"{k}{one}" for k, one in zip(fold, label, strict=True)])
    logits = np.log(np.stack([score, 1 - score], axis=2).clip(1e-7))
    images = HeldOut(np.array([0.0]), np.arange(40), label, fold, logits, group, np.zeros(40, int))
    found = Recorded(images, score).at_sensitivity(0.2)  # two images of ten reach 0.8 and 0.622
    assert found["sensitivity_per_subject"].value == pytest.approx((0.3 + 0) / 2)
    assert (found["specificity_per_donor"].value, found["worst_specificity"]) == (1.0, 1.0)
    lower = Recorded(images, score).at_sensitivity(0.4)  # 0.6 and 0.467
    assert lower["sensitivity_per_subject"].value == pytest.approx((0.5 + 0.2) / 2)
    assert (lower["specificity_per_donor"].value, lower["worst_specificity"]) == (0.5, 0.0)
    one_fold = Recorded(images.part(fold == 0), score[:, fold == 0])
    assert one_fold.at_sensitivity(0.2) is None


def test_new_donors_in_cross_validation_are_compared_with_their_own_pairs_and_with_all(config):
    plan = replace(SearchPlan.load(config), new_donors=("H", "S"))
    # Four donors of three images each, twice: S ranks above H, the other subject below; pairs of two folds count.
    donors = [("H", 1, 0, 0.5), ("S", 0, 1, 0.9), ("other", 0, 1, 0.1), ("healthy", 1, 0, 0.0)]
    group, label, fold, scores = (np.array(column) for column in zip(*donors * 6, strict=True))
    score = scores[None]
    logits = np.log(np.stack([score, 1 - score], axis=2).clip(1e-7))
    images = HeldOut(np.array([0.0]), np.arange(24), label, fold, logits, group, np.arange(24) // 12)
    one = Recorded(images, score)
    found = search.same_donors(plan, one)
    assert (found["new_pairs"].value, found["new_against_all"].value) == (1.0, 0.5)
    assert search.same_donors(replace(plan, new_donors=("absent",)), one) == {}
