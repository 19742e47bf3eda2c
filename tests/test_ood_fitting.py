"""How OOD detection is fitted: ranges, margins and limits come from other groups than they are tested on."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers_models import blobs, shared_model_folder
from helpers_synthetic import drawn_dataset
from PIL import Image

from blastlens import BlastlensError, Classifier
from blastlens.model_folder import ModelFolder
from blastlens.ood_detection import STATISTICS, FeatureDistance
from train import ood_evaluation as evaluation
from train import ood_fitting as fitting
from train.datasets import Row, load_rows
from train.datasets.splits import make_splits
from train.ood_test_images import CORRUPTED, DRAWN, VARIED
from train.pixels import load_pixels


def rows_of(groups):
    return [Row(f"{i}.png", "ALL" if g % 2 else "HEM", "", f"g{g}", "", f"{i:064x}") for i, g in enumerate(groups)]


def values_of(numbers):
    """Statistics (N, K) of which all but the first are constant."""
    values = np.ones((len(numbers), len(STATISTICS)))
    values[:, 0] = numbers
    return values


def statistics(numbers, rows, varied=()):
    """`varied` are further numbers for all images."""
    ways = np.array([values_of(way) for way in varied]).reshape(len(varied), len(numbers), len(STATISTICS))
    return fitting.TrainingStatistics(rows, values_of(numbers), np.arange(len(numbers)), ways)


class FakeNetworks:
    """Stands in for `train.folds.FoldNetworks`: features are the mean colours of 4 x 4 blocks of the view."""

    def __init__(self, rows, pixels=None, view=None, folds=3):
        self.rows, self.pixels, self.view, self.label_names = rows, pixels, view, ("ALL", "HEM")
        self.protocol = f"group-kfold:{folds}"
        self.splits = make_splits(self.protocol, rows, seed=0)
        self.fold_of = np.empty(len(rows), int)
        for k, split in enumerate(self.splits):
            self.fold_of[list(split.test)] = k

    def features_of(self, fold, views):
        blocks = np.asarray(views, float).reshape(len(views), 4, 56, 4, 56, 3).mean(axis=(2, 4))
        return blocks.reshape(-1, 48) * (fold + 1)

    def held_out(self, what=""):
        found = [self.features_of(k, self.pixels[[i]])[0] for i, k in enumerate(self.fold_of)]
        return type("Outputs", (), {"features": np.array(found)})


def test_ranges_are_quantiles_of_all_ways_widened_by_the_margin_or_a_grain():
    numbers = np.append(np.arange(1001) / 1000, np.nan)  # of an image with nothing to measure
    rows = rows_of([0] * 1002)
    extent = statistics(numbers, rows).extent()
    assert extent[:, 0] == pytest.approx((0.005, 0.995))
    low, high = fitting.widened(extent, 0.1)
    assert (low[0], high[0]) == pytest.approx((0.005 - 0.099, 0.995 + 0.099))
    grains = np.array([statistic.grain for statistic in STATISTICS.values()])
    assert low[1:] == pytest.approx(1 - grains[1:]) and high[1:] == pytest.approx(1 + grains[1:])
    assert statistics(numbers, rows, [numbers + 2, numbers - 1]).extent()[:, 0] == pytest.approx((-0.995, 2.995))
    assert not fitting.outside(np.array([[np.nan]]), np.array([[0.0], [1.0]])).any()


def test_groups_that_differ_need_a_margin_and_similar_groups_none():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 50)
    rows, least = rows_of(groups), fitting.LEAST_MARGIN
    assert (statistics(rng.uniform(0, 1, 1000), rows).margins(0.01) == least).all()
    # The first and last groups lie far beyond the others.
    shifted = statistics(np.where(groups % 19, groups, groups * 2 - 9) * 5 + rng.uniform(0, 1, 1000), rows)
    margins = shifted.margins(0.01)
    assert least < margins[0] < 1 and (margins[1:] == least).all()
    assert fitting.outside(shifted.values, shifted.ranges(0.01)).sum() == 0


def test_an_image_is_judged_by_ranges_that_its_group_did_not_shape():
    groups = np.repeat(np.arange(20), 50)
    rows, numbers = rows_of(groups), np.random.default_rng(1).uniform(0, 1, 1000)
    alone = statistics(np.where(groups == 7, numbers + 1.5, numbers), rows)
    found = fitting.FoldDetectors.fit(alone, FakeNetworks(rows, folds=5), "cells", None)
    rejected = found.rejected.any(axis=1)
    assert rejected[groups == 7].all() and not rejected[groups != 7].any()
    record = evaluation.held_out_record(found, rows, "group-kfold:5")
    assert (record["refused"], record["rate"], record["by_statistic"]) == (50, 0.05, {"black": 50})
    assert record["worst_group"] == {"group": "g7", "images": 50, "rate": 1.0}
    assert record["wrong"][0] == {"image": "350.png", "reasons": ["black"]}
    assert len(record["wrong"]) == evaluation.LISTED


def test_the_limit_of_a_fold_comes_from_the_other_folds():
    rows = rows_of(np.repeat(np.arange(20), 50))
    networks = FakeNetworks(rows, folds=5)
    scores = np.random.default_rng(2).uniform(0, 1, 1000) + 5 * (networks.fold_of == 3)
    score = FeatureDistance(np.zeros(2), np.eye(2), 1.0, float("inf"))
    found = fitting.FoldDetectors.fit(statistics(np.full(1000, 0.5), rows), networks, "cells", ((score,) * 5, scores))
    assert found.rejected[networks.fold_of == 3, -1].all() and not found.rejected[networks.fold_of != 3].any()
    assert found.detectors[3].features.limit < 1 < 5 < found.detectors[0].features.limit
    assert fitting.limit_of(found.scores) == pytest.approx(np.quantile(scores, 0.995))


def test_changes_keep_the_form_of_a_view_and_are_reproducible():
    view, other = blobs(1), blobs(2)
    for change in [*CORRUPTED.values(), *(lambda one, _, vary=vary: vary(one) for vary in VARIED.values())]:
        changed = change(view, other)
        assert changed.shape == view.shape and changed.dtype == np.uint8
        assert (changed == change(view, other)).all() and (changed != view).any()


@pytest.fixture(scope="module")
def drawn_cells(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    return drawn_dataset(folder, ("ALL", "HEM"), per_group=2, groups_per_label=10, size=224)


@pytest.fixture
def small(drawn_cells, tmp_path, monkeypatch):
    """Fold networks of a synthetic dataset, a model folder, and a folder of out-of-distribution images."""
    monkeypatch.setattr(evaluation, "DRAWN", {name: (draw, 3) for name, (draw, _) in DRAWN.items()})
    monkeypatch.setattr(evaluation, "DRAWN_PER_LABEL", 2)
    for module in (fitting, evaluation):
        monkeypatch.setattr(module, "VARIED", dict(list(VARIED.items())[:2]))
    monkeypatch.setattr(evaluation, "CORRUPTED", dict(list(CORRUPTED.items())[:2]))
    model = shutil.copytree(shared_model_folder("cell"), tmp_path / "model")
    (tmp_path / "other").mkdir()
    for seed in range(5):
        Image.fromarray(blobs(seed)).save(tmp_path / "other" / f"{seed}.png")
    rows, view = load_rows(drawn_cells), ModelFolder.load(model).view
    networks = FakeNetworks(rows, load_pixels(drawn_cells, rows, view, drawn_cells / "cache"), view)
    return networks, model, [tmp_path / "other"]


def test_fitting_writes_a_detector_with_statistics_features_and_rates(small):
    networks, model, folders = small
    record = evaluation.write(model, networks, folders)
    assert json.loads((model / "gate.json").read_text()) == record
    measured, features = record["measured"], record["features"]
    assert record["fit"]["images"] == measured["held_out"]["images"] == 40
    assert measured["held_out"]["protocol"] == "group-kfold:3"
    expected = {"images": 5, "refused": 5, "rate": 1.0, "wrong": [], "lowest_rate_of_folds": 1.0}
    assert measured["strangers"]["other"] == expected | {"by_statistics_alone": 1.0}
    assert list(measured["varied"]) == record["fit"]["varied"] and len(measured["spoilt"]) == 2
    assert features["median"]["training"] == pytest.approx(1, abs=0.2)
    assert features["limit"] > features["median"]["held_out"] and 0 <= features["int8_same_verdict"] <= 1
    classifier = Classifier.from_pretrained(model)
    assert classifier.folder.ood_detector.features.limit == features["limit"]
    assert not classifier.predict(blobs(3)).in_domain


def test_without_features_statistics_decide_alone(small, monkeypatch):
    networks, model, folders = small
    (model / "gate.safetensors").write_bytes(b"left over")
    monkeypatch.setattr(fitting, "serving_network", lambda folder, precision="fp32": None)
    record = evaluation.write(model, networks, folders)
    assert "features" not in record and not (model / "gate.safetensors").exists()
    assert record["measured"]["held_out"]["by_features_alone"] == 0
    assert not Classifier.from_pretrained(model).predict(blobs(3)).in_domain


def test_networks_of_another_size_or_data_set_and_an_empty_folder_are_refused(small, tmp_path):
    networks, model, _ = small
    with pytest.raises(BlastlensError, match="has no image"):
        (tmp_path / "empty").mkdir()
        evaluation.write(model, networks, [tmp_path / "empty"])
    networks.view = replace(networks.view, size=128)
    with pytest.raises(BlastlensError, match="see 128 px"):
        evaluation.write(model, networks, [])
    networks.label_names = ("Benign", "Early", "Pre", "Pro")
    with pytest.raises(BlastlensError, match="its own data set"):
        evaluation.write(model, networks, [])
    assert not (model / "gate.json").exists()
