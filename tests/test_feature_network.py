"""A network taught measurements of a cell, and the regression on them: one plain timm model for any split."""

import json

import numpy as np
import pytest
import torch
from helpers_synthetic import drawn_dataset
from safetensors.torch import load_file

from blastlens.errors import BlastlensError
from train import finetune, transforms
from train.cell_features import LogisticModel
from train.datasets import labels_of, load_rows
from train.feature_network import averaged, fit_head, load_backbone, pooled_features, train_backbone
from train.networks import create_network, normalise
from train.pixels import load_pixels
from train.prediction import predictor
from train.recipe import Recipe, view_of

CHANGES = {
    "backbone": "mobilenetv4_conv_small_035",
    "image_size": 64,
    "epochs": 2,
    "batch_size": 8,
    "frozen": [],
    "distill.features": "five",
    "distill.probe": 0.0,
    "distill.noise_levels": [0],
    "second_stage": None,
}


@pytest.fixture(scope="module")
def recipe():
    return Recipe.load("features_cnmc2019").changed(CHANGES)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return drawn_dataset(tmp_path_factory.mktemp("drawn") / "cnmc2019", ("ALL", "HEM"), per_group=6, groups_per_label=3)


@pytest.fixture(scope="module")
def runs(drawn, tmp_path_factory):
    """A run on every image, and one fold that reuses its backbone."""
    root = tmp_path_factory.mktemp("runs")
    changes = [f"{key}={json.dumps(value)}" for key, value in CHANGES.items()]
    common = ["features_cnmc2019", "--data", str(drawn), "--weights", "scratch", "--cache", str(root / "cache")]
    common += ["--sigmas", "0", "20", "--set", *changes]
    assert finetune.main([*common, "--protocol", "all", "--out", str(root / "all")]) == 0
    reuse = ["--backbone", str(root / "all" / "backbone.safetensors"), "--out", str(root / "fold")]
    assert finetune.main([*common, "--protocol", "group-kfold:3", "--fold", "1", *reuse]) == 0
    return root


@pytest.mark.parametrize("probe", [0.0, 0.4, 1.0])
def test_the_regressions_are_folded_into_one_layer(recipe, drawn, runs, probe):
    recipe = recipe.changed({"distill.probe": probe, "distill.probe_c": 0.1})
    rows = load_rows(drawn)
    _, labels = labels_of(rows)
    donors = [row.group for row in rows]
    pixels = load_pixels(drawn, rows, view_of(recipe), runs / "cache")
    backbone = load_backbone(recipe, runs / "all" / "backbone.safetensors")
    pooled = pooled_features(backbone, recipe, pixels, 0, runs / "cache")
    images = normalise(recipe, torch.from_numpy(np.asarray(pixels)).permute(0, 3, 1, 2))
    with torch.inference_mode():
        measured = backbone(images).numpy().astype(np.float64)
    assert measured.shape == (len(rows), 5) and pooled.shape[0] == len(rows)
    regression = LogisticModel.fit(measured, labels, donors, recipe.distill.c)
    second = LogisticModel.fit(pooled, labels, donors, 0.1)
    scores = [model.pipeline.decision_function(x) for model, x in ((regression, measured), (second, pooled))]
    head = fit_head(backbone, recipe, pooled, labels, donors)
    logits = head.logits(pooled)
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], (1 - probe) * scores[0] + probe * scores[1], atol=1e-3)
    with torch.inference_mode():
        found = head.network(backbone, recipe)(images).numpy()
    np.testing.assert_allclose(found, logits, atol=1e-3)


def test_a_reused_backbone_is_kept_and_only_the_last_layer_is_fitted(runs):
    whole, fold = (load_file(runs / name / "model.safetensors") for name in ("all", "fold"))
    differing = [name for name in whole if not torch.equal(whole[name], fold[name])]
    assert set(differing) == {"classifier.weight", "classifier.bias"}
    record = json.loads((runs / "fold" / "run.json").read_text())
    assert len(record["backbone_sha256"]) == 64 and not set(record["groups"]["train"]) & set(record["groups"]["test"])
    assert "backbone_sha256" not in json.loads((runs / "all" / "run.json").read_text())


def test_the_regressions_see_every_training_image_at_each_noise_level(recipe, drawn, runs, tmp_path):
    changes = [f"{key}={json.dumps(value)}" for key, value in (CHANGES | {"distill.noise_levels": [0, 30]}).items()]
    backbone, out = runs / "all" / "backbone.safetensors", tmp_path / "noisy"
    command = ["features_cnmc2019", "--data", str(drawn), "--cache", str(runs / "cache"), "--backbone", str(backbone)]
    command += ["--protocol", "group-kfold:3", "--fold", "1", "--sigmas", "0", "--weights", "scratch"]
    command += ["--out", str(out), "--set", *changes]
    assert finetune.main(command) == 0
    rows = load_rows(drawn)
    groups = json.loads((out / "run.json").read_text())["groups"]["train"]
    train = [i for i, row in enumerate(rows) if row.group in groups]
    _, labels = labels_of(rows)
    pixels, network = load_pixels(drawn, rows, view_of(recipe), runs / "cache"), load_backbone(recipe, backbone)
    pooled = [pooled_features(network, recipe, pixels, sigma, runs / "cache")[train] for sigma in (0, 30)]
    donors = [rows[i].group for i in train]
    head = fit_head(network, recipe, np.concatenate(pooled), np.tile(labels[train], 2), donors * 2)
    weight = load_file(out / "model.safetensors")["classifier.weight"]
    np.testing.assert_allclose((weight[1] - weight[0]).numpy(), head.slope, rtol=1e-4, atol=1e-6)
    clean = load_file(runs / "fold" / "model.safetensors")["classifier.weight"]
    assert not torch.allclose(weight, clean, rtol=1e-3)


def test_a_run_holds_its_predictions_under_noise_and_its_subjects(runs):
    arrays = np.load(runs / "fold" / "predictions.npz")
    assert arrays["test_logits"].shape == (2, len(arrays["test_index"]), 2)
    assert not np.array_equal(arrays["test_logits"][0], arrays["test_logits"][1])
    record = json.loads((runs / "fold" / "run.json").read_text())
    assert record["subjects"] and not set(arrays["test_group"]) & set(record["groups"]["train"])


def test_a_stopped_training_of_the_backbone_resumes_where_it_was(recipe, tmp_path, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 255, (16, 64, 64, 3)).astype(np.uint8)
    targets = np.random.default_rng(1).standard_normal((16, 5))
    whole = train_backbone(recipe, pixels, targets, range(16), tmp_path / "whole", weights="scratch")
    augmented, calls = transforms.apply, []

    def stop(*arguments):
        calls.append(arguments)
        if len(calls) == 3:  # two batches an epoch: in the second one
            raise KeyboardInterrupt
        return augmented(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(transforms, "apply", stop)
        train_backbone(recipe, pixels, targets, range(16), tmp_path / "stopped", weights="scratch")
    resumed = train_backbone(recipe, pixels, targets, range(16), tmp_path / "stopped", weights="scratch")
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_backbone_of_another_recipe_is_refused(recipe, runs):
    with pytest.raises(BlastlensError, match="no feature network of this recipe"):
        load_backbone(recipe.changed({"distill.features": "all"}), runs / "all" / "backbone.safetensors")


@pytest.mark.slow
def test_a_second_stage_trains_on_labels_and_keeps_a_share_of_it(drawn, runs, tmp_path):
    changes = CHANGES | {"second_stage": {"share": 0.25, "changes": {"epochs": 1, "augment": {}}}}
    settings = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    common = ["features_cnmc2019", "--data", str(drawn), "--weights", "scratch", "--cache", str(runs / "cache")]
    common += ["--sigmas", "0", "20", "--backbone", str(runs / "all" / "backbone.safetensors")]
    common += ["--protocol", "group-kfold:3", "--fold", "1", "--set", *settings]
    assert finetune.main([*common, "--out", str(tmp_path / "quarter")]) == 0
    assert finetune.main([*common, "second_stage.share=1", "--out", str(tmp_path / "whole")]) == 0
    before = load_file(runs / "fold" / "model.safetensors")
    quarter, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("quarter", "whole"))
    assert not torch.equal(before["classifier.weight"], whole["classifier.weight"])
    for name in (name for name in before if before[name].is_floating_point()):
        torch.testing.assert_close(quarter[name], torch.lerp(before[name], whole[name], 0.25))
    record = json.loads((tmp_path / "quarter" / "run.json").read_text())
    assert record["steps"] == -(-record["images"]["train"] // 8) and (tmp_path / "quarter" / "log.csv").stat().st_size
    # The recorded predictions are those of the averaged network.
    recipe = Recipe.from_dict(record["recipe"])
    network = create_network(recipe, 2, "scratch").eval()
    network.load_state_dict(quarter)
    arrays, rows = np.load(tmp_path / "quarter" / "predictions.npz"), load_rows(drawn)
    pixels = load_pixels(drawn, rows, view_of(recipe), runs / "cache")
    found = predictor(averaged(network, network, 0.5), recipe)(pixels, arrays["test_index"], 20)
    np.testing.assert_allclose(arrays["test_logits"][1], found, atol=1e-4)


def test_a_second_stage_without_features_or_with_unknown_settings_is_refused():
    recipe = Recipe.load("features_cnmc2019")
    with pytest.raises(BlastlensError, match="epoch: Unexpected keyword"):
        recipe.changed({"second_stage": {"changes": {"epoch": 1}}})
    with pytest.raises(BlastlensError, match="features, which is not set"):
        recipe.changed({"distill": {}, "second_stage": {}})
