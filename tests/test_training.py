"""From a prepared dataset to a model folder, on synthetic cells, in seconds."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers_models import make_model_folder
from helpers_results import made_up_result
from helpers_synthetic import TINY, drawn_dataset
from safetensors.torch import load_file

from blastlens import Classifier, external_result
from blastlens.errors import BlastlensError
from blastlens.integrity import digests
from blastlens.model_folder import NETWORKS, ModelFolder
from train import baselines, card, crossval, evaluate, export, external, finetune, loop
from train.datasets import dataset_hash, labels_of, load_rows
from train.datasets.splits import Split, make_splits
from train.folds import FoldNetworks
from train.held_out import HeldOut, calibrated, cross_fitted, joined, plain, reliability_of, runs_of
from train.recipe import Recipe, Run, Schedule
from train.report.numbers import interval
from train.results import RUNS, Result
from train.run import execute
from train.search import RECORDS

RECIPE = TINY | {
    "image_size": 64,
    "head": {"dropout": 0.2, "batch_norm": True, "l1": 0.0001},
    "augment": {"rotate": 180, "horizontal_flip": True, "noise_max": 20},
    "balance": "groups",
    "group_power": 0.5,
    "ema": 0.9,
    "label_smoothing": 0.05,
    "schedule": {"name": "cosine", "warmup": 0.1},
}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "cells"
    drawn_dataset(folder, ("ALL", "HEM"), per_group=5, groups_per_label=4, size=64, seed=3)
    return folder


@pytest.fixture(scope="session")
def recipe_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def run_of(drawn: Path, **changes) -> Run:
    return Run(Recipe.from_dict(RECIPE | changes), str(drawn), "group-kfold:2", 0, 0, "scratch")


@pytest.fixture(scope="session")
def cross_validated(drawn, recipe_file, tmp_path_factory) -> Path:
    """Two folds by the command line: the first is finished already, and only the second is started."""
    out = tmp_path_factory.mktemp("runs") / "cv"
    options = [str(recipe_file), "--data", str(drawn), "--weights", "scratch", "--cache", str(out / "cache")]
    assert finetune.main([*options, "--fold", "0", "--out", str(out / "seed0-fold0")]) == 0
    before = (out / "seed0-fold0/model.safetensors").stat().st_mtime_ns
    assert crossval.main([*options, "--out", str(out)]) == 0
    assert (out / "seed0-fold0/model.safetensors").stat().st_mtime_ns == before
    return out


def test_a_finished_run_records_what_is_needed_to_repeat_it(cross_validated, drawn):
    record = json.loads((cross_validated / "seed0-fold0/run.json").read_text())
    assert Recipe.from_dict(record["recipe"]) == Recipe.from_dict(RECIPE)
    assert record["initial_weights"] == "random" and record["mean"] == record["std"] == [0.5, 0.5, 0.5]
    assert (record["protocol"], record["fold"], record["seed"]) == ("group-kfold:2", 0, 0)
    assert not set(record["groups"]["train"]) & set(record["groups"]["test"])
    assert str(drawn.parent) not in json.dumps(record)
    log = list(csv.DictReader((cross_validated / "seed0-fold0/log.csv").open()))
    assert log and float(log[0]["loss"]) > 0
    assert not (cross_validated / "seed0-fold0/checkpoints").exists()
    held_out = HeldOut.read(runs_of(cross_validated))
    assert sorted(held_out.index) == list(range(len(load_rows(drawn))))
    assert held_out.logits.shape == (len(held_out.sigmas), len(held_out.index), 2)


@pytest.fixture(scope="session")
def model_folder(cross_validated, drawn, tmp_path_factory) -> Path:
    """Exported and measured by the command line."""
    out = tmp_path_factory.mktemp("models") / "tiny-cells"
    run = cross_validated / "seed0-fold0"
    arguments = [str(run), "--cv", str(cross_validated), "--data", str(drawn), "--out", str(out)]
    assert export.main([*arguments, "--cache", str(cross_validated / "cache")]) == 0
    arguments = [str(out), "--all", "--cv", str(cross_validated), "--run", str(run), "--data", str(drawn)]
    assert evaluate.main([*arguments, "--every", "2", "--cache", str(cross_validated / "cache")]) == 0
    return out


@pytest.fixture(scope="session")
def fold_networks(cross_validated, drawn) -> FoldNetworks:
    return FoldNetworks.load(cross_validated, drawn, cross_validated / "cache")


def test_fold_networks_give_the_predictions_that_the_runs_recorded(cross_validated, fold_networks):
    outputs, recorded = fold_networks.held_out(), fold_networks.predictions
    assert list(recorded.index) == list(range(len(fold_networks.rows)))
    np.testing.assert_allclose(outputs.logits, recorded.logits[0], atol=2e-4)  # with the head's batch norm folded
    np.testing.assert_allclose(outputs.probabilities, fold_networks.probabilities[0], atol=1e-4)


def test_no_image_is_evaluated_by_a_network_that_was_trained_on_its_group(fold_networks, monkeypatch):
    run, groups, asked = FoldNetworks._run, fold_networks.groups, []
    monkeypatch.setattr(FoldNetworks, "_run", lambda self, fold, views: asked.append(fold) or run(self, fold, views))
    for split in fold_networks.splits:
        asked.clear()
        fold_networks.held_out(index=np.array(split.test))
        assert set(asked) == {split.fold} and not set(groups[list(split.test)]) & set(groups[list(split.train)])


def test_missing_networks_and_other_images_are_one_sentence(cross_validated, drawn, model_folder, tmp_path, capsys):
    drawn_dataset(tmp_path / "other", ("ALL", "HEM"), per_group=2, groups_per_label=4, size=64, seed=8)
    with pytest.raises(BlastlensError, match="not the dataset"):
        FoldNetworks.load(cross_validated, tmp_path / "other", tmp_path)
    with pytest.raises(BlastlensError, match="has no runs of seed 0"):
        FoldNetworks.load(tmp_path, drawn, tmp_path)
    for run in runs_of(cross_validated):
        (tmp_path / "cv" / run.name).mkdir(parents=True)
        for file in ("run.json", "predictions.npz"):
            shutil.copy(run / file, tmp_path / "cv" / run.name)
    with pytest.raises(BlastlensError, match=r"has no model\.safetensors"):
        FoldNetworks.load(tmp_path / "cv", drawn, tmp_path)
    for options, told in (([], "--cv, and the prepared dataset"), (["--cv", str(tmp_path)], "--data")):
        assert evaluate.main([str(model_folder), "--all", *options]) == 2
        assert told in capsys.readouterr().err


@pytest.mark.long
def test_measuring_all_again_gives_the_same_figures(model_folder, drawn, cross_validated, tmp_path):
    again = tmp_path / model_folder.name
    shutil.copytree(model_folder, again)
    (again / "metrics.json").unlink()
    arguments = [str(again), "--all", "--cv", str(cross_validated), "--data", str(drawn), "--every", "2"]
    run = cross_validated / "seed0-fold0"
    assert evaluate.main([*arguments, "--run", str(run), "--cache", str(tmp_path / "cache")]) == 0
    before, after = (json.loads((f / "metrics.json").read_text()) for f in (model_folder, again))
    for record in (before, after):
        del record["latency_ms"]
    assert before == after
    assert set(evaluate.STEPS) <= set(after)


def test_one_step_is_measured_alone_and_leaves_the_others(model_folder, drawn, cross_validated, tmp_path):
    again = shutil.copytree(model_folder, tmp_path / model_folder.name)
    before = json.loads((again / "metrics.json").read_text())
    changed = before | {"patients": None, "probes": None}
    (again / "metrics.json").write_text(json.dumps(changed))
    arguments = ["--steps", "probes", "--cv", str(cross_validated), "--data", str(drawn), "--every", "2"]
    arguments += ["--cache", str(cross_validated / "cache"), "--out", str(tmp_path / "probes.json")]
    assert evaluate.main([str(again), *arguments]) == 0
    after = json.loads((again / "metrics.json").read_text())
    assert after["probes"] == before["probes"] and after["patients"] is None and after["int8"] == before["int8"]
    assert json.loads((tmp_path / "probes.json").read_text()).items() >= before["probes"].items()


def test_the_exported_folder_answers_like_the_trained_network_with_its_calibration(
    model_folder, cross_validated, drawn
):
    scaling = json.loads((cross_validated / "summary.json").read_text())["scaling"]
    predictions = np.load(cross_validated / "seed0-fold0/predictions.npz")
    rows = load_rows(drawn)
    classifier = Classifier.from_pretrained(model_folder)
    for index, logits in zip(predictions["test_index"], predictions["test_logits"][0], strict=True):
        answer = classifier.predict(drawn / rows[index].file_name)
        expected = logits / scaling["temperature"] + scaling["bias"]
        np.testing.assert_allclose(answer.logits, expected, atol=2e-4)


@pytest.mark.parametrize(("gate", "stays"), [({"features": {"limit": 2}}, False), ({"statistics": {}}, True)])
def test_a_new_network_does_not_inherit_a_gate_that_goes_by_the_old_ones_features(
    gate, stays, model_folder, cross_validated, drawn, tmp_path
):
    out = shutil.copytree(model_folder, tmp_path / "tiny-cells")
    (out / "gate.json").write_text(json.dumps(gate))
    arguments = [str(cross_validated / "seed0-fold1"), "--cv", str(cross_validated), "--data", str(drawn)]
    assert export.main([*arguments, "--out", str(out), "--cache", str(cross_validated / "cache")]) == 0
    assert (out / "gate.json").exists() is stays
    # Nor figures: until it is measured its record says no more than which files it consists of.
    record, old = (json.loads((folder / "metrics.json").read_text()) for folder in (out, model_folder))
    assert record["protocols"] == [] and old["protocols"] != []
    assert record["sha256"] == digests(out, NETWORKS) != old["sha256"]
    assert record["label_names"] == old["label_names"]


def test_the_exported_folder_loads_in_a_stock_pipeline(model_folder, drawn):
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(model_folder))
    classifier = Classifier.from_pretrained(model_folder)
    for row in load_rows(drawn)[::9]:
        answers = {a["label"]: a["score"] for a in classify(str(drawn / row.file_name))}
        ours = classifier.predict(drawn / row.file_name).probabilities
        assert set(answers) == {"ALL", "HEM"}
        assert answers == pytest.approx(ours, abs=1e-4)


def test_the_average_of_the_activation_map_is_the_logit(model_folder):
    import onnxruntime as ort

    session = ort.InferenceSession(str(model_folder / "onnx/model.onnx"))
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64), dtype=np.float32)
    logits, cam = session.run(["logits", "cam"], {"pixel_values": x})
    np.testing.assert_allclose(cam.mean(axis=(2, 3)), logits, atol=1e-4)


@pytest.fixture
def elsewhere(model_folder, tmp_path) -> tuple[Path, Path]:
    """A copy of the measured folder, and a small prepared dataset of other subjects."""
    shutil.copytree(model_folder, tmp_path / "model")
    data = drawn_dataset(tmp_path / "elsewhere", ("ALL", "HEM"), per_group=4, groups_per_label=3, size=64, seed=9)
    return tmp_path / "model", data


def externally(folder: Path, data: Path, trained_on: list[str]) -> int:
    path = folder / "metrics.json"
    record = json.loads(path.read_text())
    record["training"]["subjects"] = trained_on
    path.write_text(json.dumps(record))
    return evaluate.main([str(folder), "--external", str(data), "--cache", str(folder.parent)])


def test_external_subjects_become_the_external_block(elsewhere, capsys):
    folder, data = elsewhere
    for _ in range(2):  # measuring again replaces the block
        assert externally(folder, data, []) == 0
        record = json.loads((folder / "metrics.json").read_text())
        assert [p["level"] for p in record["protocols"]] == ["group"]
    block = record["external"]
    counts = {"images": 24, "subjects": 3, "healthy_donors": 3, "healthy_images": 12, "min_images": 3}
    assert {key: block[key] for key in counts} == counts and block["data"] == "elsewhere"
    assert block["sha256"] == record["sha256"]["safetensors"] and "no training subjects" in block["caveat"]
    # The shipped network's own answers, through the same images.
    rows, classifier = load_rows(data), Classifier.from_pretrained(folder)
    answers = {row.subject: [] for row in rows}
    for row in rows:
        answers[row.subject].append(classifier.predict(data / row.file_name).probabilities["ALL"] >= 0.5)
    assert {one["donor"]: one["rate"] for one in block["per_subject"]} == {k: np.mean(v) for k, v in answers.items()}
    wrong = np.mean([v for k, values in answers.items() if "hem" in k for v in values])
    assert block["metrics"]["specificity"]["value"] == pytest.approx(1 - wrong, abs=1e-5)
    assert set(block["baseline"]["metrics"]) == set(block["metrics"])
    assert external_result.sentence(record) in capsys.readouterr().out


@pytest.mark.parametrize("listed", ["drawn-hem-1", "17"])
def test_a_training_subject_is_refused_also_under_its_other_name(elsewhere, listed, capsys):
    folder, data = elsewhere
    if listed == "17":  # shares a cell with subject 18
        table = (data / "metadata.csv").read_text().replace(",drawn-hem-1,", ",18,")
        (data / "metadata.csv").write_text(table)
    assert externally(folder, data, [listed]) == 2
    told = capsys.readouterr().err.strip()
    assert re.fullmatch(r".* has images of (drawn-hem-1|18), on which model was trained; an external .*", told)
    assert externally(folder, data, ["another subject"]) == 0
    assert "caveat" not in json.loads((folder / "metrics.json").read_text())["external"]


def test_a_model_of_four_labels_has_macro_f1_with_noise_too(tmp_path):
    folder = make_model_folder(tmp_path / "fields", "field")
    labels = ("Benign", "Early", "Pre", "Pro")
    data = drawn_dataset(tmp_path / "slides", labels, per_group=2, groups_per_label=2, size=64)
    block = external.external_block(ModelFolder.load(folder), data, tmp_path)
    assert set(block["metrics"]) == {"macro_f1", "balanced_accuracy", "ece"}
    assert [row["sigma"] for row in block["by_sigma"]] == [10, 20, 50]
    assert f"macro F1 {block['metrics']['macro_f1']['value']:.3f} on 16 images" in external_result.sentence(
        {"external": block}
    )


def test_the_external_validation_is_kept_as_long_as_the_weights_are_the_same(model_folder, cross_validated):
    summary = json.loads((cross_validated / "summary.json").read_text())
    earlier = json.loads((model_folder / "metrics.json").read_text())
    block = {"sha256": earlier["sha256"]["safetensors"]}
    earlier["sha256"]["int8"] = "another file"
    kept = evaluate.build_metrics(model_folder, None, summary, earlier | {"external": block})
    assert kept["external"] == block
    changed = evaluate.build_metrics(model_folder, None, summary, earlier | {"external": {"sha256": "0" * 64}})
    assert "external" not in changed


@pytest.mark.parametrize("model", ["mobilenetv1-cnmc2019", "mobilenetv2-aria2021"])
def test_a_bundled_models_calibration_follows_from_its_recorded_runs(model):
    record = json.loads((Path(__file__).parents[1] / "models" / model / "metrics.json").read_text())
    recipe, protocol = record["training"]["recipe"]["name"], record["protocols"][0]
    folder = RUNS / recipe if (RUNS / recipe).is_dir() else RECORDS / model
    runs = [Result.read(path) for path in sorted((folder / protocol["name"].replace(":", "-")).glob("*.json"))]
    by_seed = [HeldOut.of_results([r for r in runs if r.seed == seed]) for seed in protocol["seeds"]]
    by_donor = "weighted equally" in protocol["calibration"]  # every image has the same weight in the field model
    probabilities = np.concatenate([calibrated(h, cross_fitted(h, by_donor))[0] for h in by_seed])
    held_out = joined(by_seed)
    found = plain(reliability_of(held_out.label, probabilities, held_out.group, record["label_names"]))
    # Probabilities are recorded rounded, so that an image beside a bin's edge may be counted on its other side.
    assert found["classwise_ece"] == pytest.approx(protocol["classwise_ece"], abs=1e-3)
    pairs = [(found["reliability"], protocol["reliability"])]
    pairs += [(bins, protocol["reliability_by_answer"][name]) for name, bins in found["reliability_by_answer"].items()]
    for ours, theirs in pairs:
        for one, other in zip(ours, theirs, strict=True):
            assert one["low"] == other["low"] and abs(one["count"] - other["count"]) <= max(5, 0.02 * other["count"])


def test_the_card_is_rendered_from_the_metrics(model_folder):
    record = json.loads((model_folder / "metrics.json").read_text())
    text = (model_folder / "README.md").read_text()
    rendered = card.render(model_folder)
    assert {name: (model_folder / name).read_bytes() for name in rendered} == rendered
    assert interval(record["protocols"][0]["by_sigma"][0]["weighted_f1"]) in text
    assert "not a medical device" in text and "{% " not in text


def test_a_killed_run_resumes_and_ends_the_same(drawn, tmp_path, monkeypatch):
    execute(run_of(drawn), tmp_path / "whole", tmp_path / "cache", sigmas=(0,))
    seen = []

    def killed(*arguments, **options):
        seen.append(1)
        if len(seen) == 5:  # in the middle of the second epoch of three steps each
            raise KeyboardInterrupt
        return loss_of(*arguments, **options)

    loss_of = loop.loss_of
    monkeypatch.setattr(loop, "loss_of", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(run_of(drawn), tmp_path / "cut", tmp_path / "cache", sigmas=(0,))
    assert not (tmp_path / "cut/run.json").exists()
    monkeypatch.setattr(loop, "loss_of", loss_of)
    execute(run_of(drawn), tmp_path / "cut", tmp_path / "cache", sigmas=(0,))
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_a_plateau_schedule_with_early_stopping_keeps_the_best_epoch(drawn, tmp_path):
    changes = {"schedule": {"name": "plateau", "patience": 0}, "early_stopping": 1, "epochs": 3, "ema": 0.0}
    recipe = Recipe.from_dict(RECIPE | changes | {"balance": "desaturated-copies"})
    run = Run(recipe, str(drawn), "image-70-15-15", 0, 0, "scratch")
    execute(run, tmp_path / "run", tmp_path / "cache", sigmas=(0,))
    log = [row for row in csv.DictReader((tmp_path / "run/log.csv").open()) if row["val_loss"]]
    predictions = np.load(tmp_path / "run/predictions.npz")
    logits, labels = predictions["val_logits"][0], predictions["val_label"]
    loss = torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)).item()
    assert loss == pytest.approx(min(float(row["val_loss"]) for row in log), abs=1e-4)


def test_a_recipe_is_compared_with_a_baseline_image_by_image(drawn, tmp_path):
    rows = load_rows(drawn)
    labels = labels_of(rows)[1]

    def record(fold: int, index: list[int]) -> None:
        # Always right without noise and by 10, always wrong at 20.
        right = np.eye(2)[labels[index]] * 0.8 + 0.1
        made_up_result(
            n=len(index),
            system="ours_cnmc2019",
            protocol="group-kfold:2",
            fold=fold,
            index=index,
            label=labels[index],
            dataset={"name": "cnmc2019", "hash": dataset_hash(rows), "images": len(rows)},
            sigmas=(0, 10, 20),
            probabilities=np.stack([right, right, 1 - right]),
        ).write(tmp_path / "runs")

    def compared() -> dict:
        arguments = ["--data", str(drawn), "--protocol", "group-kfold:2", "--cache", str(tmp_path)]
        out = tmp_path / "baselines.json"
        assert baselines.main([*arguments, "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 0
        return json.loads(out.read_text())

    for split in make_splits("group-kfold:2", rows, 0):
        record(split.fold, list(split.test))
    found = compared()
    assert found["recipe"] == "ours_cnmc2019" and set(found["differences"]) == set(found["scores"])
    assert set(found["scores"]) == {"cell area", "cell area and colour"} and found["n_groups"] == 8
    for name, differences in found["differences"].items():
        assert [row["sigma"] for row in differences] == [0, 10, 20]
        for key in baselines.COMPARED:
            score = found["scores"][name][key]["value"]
            expected = (1 - score, 1 - score, 0 - score)
            assert [row[key]["value"] for row in differences] == pytest.approx(expected, abs=2e-5)
    # Runs of another split are not compared.
    record(0, list(make_splits("group-kfold:2", rows, 0)[1].test))
    assert "differences" not in compared()


def test_an_even_average_keeps_integer_buffers():
    network = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1))
    average = loop.make_average(Recipe.from_dict(RECIPE | {"ema": 0.0, "average": 0.5}), network)
    for step in (3, 4):
        network[0].weight.data.fill_(step)
        average.update_parameters(network)
    assert average.module[0].weight.item() == pytest.approx(3.5)


def test_the_learning_rate_rises_and_falls_to_its_floor():
    schedule = Schedule(name="cosine", warmup=0.2, floor=1e-5)
    factors = [loop.learning_rate_factor(schedule, 1e-3, step, 10) for step in (0, 1, 2, 6, 10)]
    assert factors == pytest.approx([0, 0.5, 1, 0.505, 0.01])


def test_no_epoch_ends_with_a_batch_of_one_image():
    # Batch norm cannot be trained on a single value per channel.
    assert [len(one) for one in loop.batches(np.arange(9), 4)] == [4, 4, 2]
    assert [len(one) for one in loop.batches(np.arange(10), 4)] == [4, 4, 2]


def examples(recipe: Recipe, pixels: np.ndarray, labels: np.ndarray) -> loop.Examples:
    return loop.Examples.of(recipe, pixels, labels, ["a"] * len(labels), range(len(labels)))


def test_epochs_of_a_fixed_number_of_steps_use_every_image_equally_often():
    labels = np.array([0, 1] * 5)
    plain = examples(Recipe.from_dict(RECIPE | {"balance": "none"}), np.zeros((10, 8, 8, 3), np.uint8), labels)
    drawn = np.concatenate([plain.order(3, epoch, 4) for epoch in range(5)])
    assert sorted(drawn[:10]) == sorted(drawn[10:]) == list(range(10))
    # Without one, an epoch is a pass, and in one pass the same images follow each other.
    assert np.array_equal(drawn, np.concatenate([plain.order(3, 0), plain.order(3, 1)]))
    assert len(plain.order(0, 1, 23)) == 23


def test_noise_of_the_training_set_comes_before_augmentation_in_equal_shares_and_stays():
    recipe = Recipe.from_dict(RECIPE | {"balance": "desaturated-copies", "training_noise": [0, 3, 9]})
    color = np.full((90, 16, 16, 3), (90, 120, 150), np.uint8)
    labels = np.repeat([0, 1], [60, 30])
    mine = examples(recipe, color, labels)
    assert len(mine.indices) == 120 == recipe.images_per_epoch(labels)
    images, _ = mine.batch(np.arange(120))
    spread = images.float().flatten(2).std(2).mean(1).numpy()
    for sigma in (0, 3, 9):
        assert spread[mine.noise == sigma] == pytest.approx(sigma, rel=0.15), sigma
        assert (mine.noise == sigma).sum() == 40
    assert torch.equal(images, mine.batch(np.arange(120))[0])
    assert images[90:].float().mean((0, 2, 3)).numpy() == pytest.approx(150, abs=1)  # copies without saturation
    assert (color == (90, 120, 150)).all()


def test_the_least_sharp_training_images_are_left_out():
    pixels = np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), np.uint8)
    pixels[[4, 7]] = 100
    recipe = Recipe.from_dict(RECIPE | {"balance": "none", "drop_blurred": 0.1})
    labels = np.array([0, 1] * 10)
    assert sorted(set(range(20)) - set(examples(recipe, pixels, labels).indices)) == [4, 7]
    assert recipe.images_per_epoch(labels) == 18


def test_frozen_batch_norms_keep_their_statistics_where_the_recipe_says_so(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    labels, split = np.array([0, 1] * 4), Split(tuple(range(8)), (), (), "all", 0, 0)
    means = {}
    for frozen_norms in (False, True):
        changes = {"epochs": 1, "ema": 0.0, "frozen": ["bn1"], "frozen_norms": frozen_norms}
        recipe = Recipe.from_dict(RECIPE | changes)
        out = tmp_path / str(frozen_norms)
        (out / loop.CHECKPOINTS).mkdir(parents=True)
        network = loop.train_network(recipe, examples(recipe, pixels, labels), split, out, weights="scratch")
        means[frozen_norms] = network.bn1.running_mean, network.blocks[0][0].bn1.running_mean
    assert means[True][0].eq(0).all() and not means[False][0].eq(0).any()
    assert not means[True][1].eq(0).all()


def test_processes_share_an_epoch_and_take_as_many_steps():
    parts = [list(loop.batches(np.arange(10), 2, rank, 2)) for rank in (0, 1)]
    assert [len(part) for part in parts] == [3, 3]
    assert set(np.concatenate(parts[0] + parts[1])) == set(range(10))
    assert [len(list(loop.batches(np.arange(3), 8, rank, 2))) for rank in (0, 1)] == [1, 1]


def test_the_learning_rate_drops_after_as_many_stale_epochs_as_the_recipe_says():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.Adam([parameter], lr=1.0)
    plateau = loop.make_plateau(Schedule(name="plateau", patience=5), optimizer)
    rates = []
    for loss in (1.0, *[2.0] * 5):
        plateau.step(loss)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.1])


@pytest.mark.slow
def test_a_network_trained_in_bf16_predicts_in_fp32_and_any_seed_is_taken(tmp_path):
    recipe, labels = Recipe.from_dict(RECIPE | {"epochs": 1}), np.array([0, 1] * 4)
    pixels = np.random.default_rng(0).integers(0, 255, (8, 64, 64, 3), np.uint8)
    examples = loop.Examples.of(recipe, pixels, labels, list("aabbccdd"), range(8))
    split = Split(tuple(range(8)), (), (), "all", 0, 2**31)
    images, found = torch.rand(2, 3, 64, 64), {}
    for precision in ("fp32", "bf16"):
        options = {"seed": 2**31, "weights": "scratch", "precision": precision}
        network = loop.train_network(recipe, examples, split, tmp_path / precision, **options).eval()
        with torch.inference_mode():
            found[precision] = network(images)
            assert torch.equal(found[precision], type(network).forward(network, images))
    assert found["bf16"].dtype is torch.float32 and not torch.equal(*found.values())


@pytest.mark.long
def test_two_processes_train_together(drawn, recipe_file, tmp_path):
    # What `accelerate launch` starts for several GPUs; it starts no second process on a CPU itself.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "train.finetune", str(recipe_file), "--data", str(drawn), "--weights", "scratch"]
    command += ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache"), "--set", "epochs=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run/run.json").read_text())["processes"] == 2
