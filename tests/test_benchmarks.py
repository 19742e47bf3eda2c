"""Timing: what is read from logs, how it is summed up, one real run of our loop, and one of the page."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers_browser import chromium_path
from helpers_synthetic import drawn_dataset
from PIL import Image

from benchmarks import latency, our_loop, timm_loop, training
from benchmarks.timings import Timings, summarise, table
from train.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
RECIPE = {
    "name": "tiny",
    "title": "small and quick",
    "dataset": "cnmc2019",
    "backbone": "mobilenetv2_035",
    "protocol": "group-kfold:2",
    "image_size": 64,
    "augment": {"rotate": 180, "horizontal_flip": True, "scale": [0.9, 1.25], "brightness": [0.9, 1.3]},
    "balance": "groups",
    "ema": 0.9,
    "schedule": {"name": "plateau"},
    "early_stopping": 3,
    "validation": 0.1,
}

LOG = """\
Scheduled epochs: 1 (epochs + cooldown_epochs). LR stepped per epoch.
Train: 0 [   0/3 ( 33%)]  Loss: 10.6 (10.6)  Time: 12.981s,    4.93/s  (12.981s,    4.93/s)  LR: 1.000e-03  \
Data: 0.477 (0.477)
Train: 0 [   1/3 ( 67%)]  Loss: nan (7.03)  Time: 0.128s,  501.00/s  (9.635s,    6.64/s)  LR: 1.000e-03  \
Data: 0.156 (0.316)
Test: [   0/1]  Time: 0.345 (0.345)  loss: 0.5000
Train: 0 [   2/3 (100%)]  Loss: 2.01e+03 (5.36)  Time: 1.000s,   64.00/s  (7.144s,    8.96/s)  LR: 1.000e-03  \
Data: 0.000 (0.261)
"""


def run_of(loop: str, seconds: float, wait: float = 0.0, workers: int = 0, **changes) -> Timings:
    """Three timed steps; those around them are slow enough to spoil any figure that they entered."""
    steps, waits = (100.0, 100.0, *[seconds] * 3, 50.0), (90.0, 90.0, *[wait] * 3, 0.0)
    return dataclasses.replace(Timings(loop, workers, 8, steps, waits, (0.7, 0.6, 0.5), 0.1), **changes)


def test_steps_are_read_from_the_log_of_timms_script():
    steps, waits, losses = timm_loop.parse(LOG, 64)
    assert steps == [12.981, 64 / 501, 1.0]
    assert waits == [0.477, 0.156, 0.0]
    assert losses == [10.6, pytest.approx(float("nan"), nan_ok=True), 2010.0]


def test_the_first_steps_and_the_last_do_not_count():
    run = run_of("ours", 2.0, 0.5)
    assert run.images_per_second == 4.0
    assert run.waiting == 0.25


@pytest.mark.parametrize(
    "changes, fault",
    [
        ({}, None),
        ({"steps": (1.0,) * 3}, "ours ran 3 steps; at least 4 are needed to time it."),
        ({"losses": (0.7, float("inf"))}, "ours reached a loss that is not finite."),
        ({"largest_change": 0.0}, "ours has changed no weight."),
    ],
)
def test_a_loop_that_does_not_train_is_no_measurement(changes, fault):
    assert run_of("ours", 1.0, **changes).fault == fault


def test_the_ratio_is_taken_run_by_run_with_the_workers_that_serve_timm_best():
    ours = [run_of("ours", 1.0), run_of("ours", 2.0)]  # 8 and 4 images per second
    timm = [run_of("timm", 8.0), run_of("timm", 2.0, 0.5, workers=1), run_of("timm", 8.0)]
    summary = summarise(ours, [*timm, run_of("timm", 1.0, 0.5, workers=1)])
    assert summary["best_workers_of_timm"] == 1
    assert summary["ours_over_timm"] == {"median": 1.25, "low": 0.5, "high": 2.0}
    assert [(row["loop"], row["workers"]) for row in summary["loops"]] == [("ours", 0), ("timm", 0), ("timm", 1)]
    assert summary["loops"][2]["waiting_for_data"] == {"median": 0.375, "low": 0.25, "high": 0.5}


def test_the_table_shows_speed_waiting_and_loss():
    assert table(summarise([run_of("ours", 1.0)], [run_of("timm", 2.0, 0.5, workers=2)])) == (
        "| loop | data workers | images per second | waiting for data | loss, first to last step |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| ours | 0 | 8.0 (8.0 to 8.0) | 0.0% (0.0% to 0.0%) | 0.70 to 0.50 |\n"
        "| timm | 2 | 4.0 (4.0 to 4.0) | 25.0% (25.0% to 25.0%) | 0.70 to 0.50 |\n"
        "\n"
        "Images per second, ours / timm with 2 data workers, its best: 2.00 (2.00 to 2.00)"
    )
    assert "timm" not in table(summarise([run_of("ours", 1.0)]))


def test_a_recipe_is_timed_without_what_waits_for_a_validation_part():
    recipe = training.timed_recipe(Recipe.from_dict(RECIPE), 16)
    assert (recipe.batch_size, recipe.epochs, recipe.schedule.name) == (16, 1, "cosine")
    assert (recipe.early_stopping, recipe.validation) == (None, 0.0)
    assert recipe.augment == Recipe.from_dict(RECIPE).augment and recipe.ema == 0.9


def test_timm_gets_the_recipes_settings_and_the_nearest_augmentation_it_has():
    recipe = Recipe.from_dict(RECIPE)
    words = " ".join(timm_loop.options(recipe, 2, "start.safetensors", "fp32", "cpu"))
    assert "--model mobilenetv2_035 --num-classes 2" in words
    assert "--input-size 3 64 64 --mean 0.5 0.5 0.5" in words
    assert "--scale 0.640 1.0" in words  # a magnification of 1.25 leaves 1 / 1.25 ** 2 of the area
    assert "--hflip 0.5 --vflip 0 --color-jitter 0.30" in words
    assert "--model-ema --model-ema-decay 0.9" in words
    assert "--amp" not in words
    on_gpu = timm_loop.options(recipe.changed({"ema": 0.0}), 2, "start.safetensors", "bf16", "cuda")
    assert "--amp" in on_gpu and "--model-ema" not in on_gpu


def test_timms_folder_holds_every_image_again_and_again(tmp_path):
    paths = [tmp_path / name for name in ("one.webp", "two.webp")]
    for path in paths:
        Image.new("RGB", (4, 4)).save(path)
    root = timm_loop.lay_out(paths, ["ALL", "HEM"], 5, tmp_path / "images")
    assert sorted(p.name for p in (root / "train/ALL").iterdir()) == ["000000.png", "000002.png", "000004.png"]
    assert all(p.resolve() == paths[1] for p in (root / "train/HEM").iterdir())


def test_the_largest_change_is_of_weights_both_sides_have():
    before = {"a.weight": torch.zeros(2), "b.weight": torch.zeros(3), "n.running_mean": torch.zeros(1)}
    after = {"a.weight": torch.tensor([0.5, -2.0]), "b.weight": torch.ones(4), "n.running_mean": torch.ones(1)}
    assert our_loop.largest_change(before, after) == 2.0
    assert our_loop.largest_change({}, after) == 0.0


def test_without_timms_script_one_sentence_says_where_it_is(tmp_path):
    recipe = Recipe.from_dict(RECIPE)
    sentence = training.missing_script(recipe, tmp_path / "train.py")
    assert "train.py of github.com/huggingface/pytorch-image-models at tag v" in sentence
    (tmp_path / "train.py").touch()
    assert training.missing_script(recipe, tmp_path / "train.py") is None
    assert "custom_cnn" in training.missing_script(recipe.changed({"backbone": "custom_cnn"}), tmp_path / "train.py")


@pytest.mark.slow
def test_our_loop_is_timed_on_drawn_cells(tmp_path, capsys):
    cells = tmp_path / "cells"
    drawn_dataset(cells, ("ALL", "HEM"), per_group=4, groups_per_label=3, size=64, seed=3)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE))
    out = tmp_path / "results/throughput.json"
    arguments = ["--data", str(cells), "--weights", "", "--recipe", str(recipe), "--out", str(out)]
    arguments += ["--images", "12", "--batch-size", "8", "--steps", "4", "--repeats", "1", "--threads", "1"]
    assert training.main(arguments) == 0
    said = capsys.readouterr()
    assert "Only our loop is measured" in said.err and "| ours | 0 |" in said.out
    record = json.loads(out.read_text())
    (run,) = record["runs"]
    assert len(run["steps"]) == len(run["waits"]) == len(run["losses"]) == 4
    assert all(0 <= wait <= step for wait, step in zip(run["waits"], run["steps"], strict=True))
    assert run["largest_change"] > 0
    assert record["setting"]["initial_weights"] == "mobilenetv2_035.random.safetensors"
    assert str(tmp_path) not in out.read_text()


@pytest.mark.slow
def test_latency_is_measured_beside_its_reference():
    record = latency.measure(["alnett", "p1_mobilenetv2"], repeats=2)
    assert set(record["systems"]) == {"alnett", "p1_mobilenetv2"}
    for times in record["systems"].values():
        assert times["onnx_fp32_ms"] > 0 and times["times_mobilenetv1"] > 0
    assert "CPU" in record["machine"]


@pytest.mark.slow
def test_the_page_is_measured_in_a_real_browser(tmp_path):
    chromium_path()
    command = [sys.executable, "-m", "benchmarks.page", "--starts=1", "--repeats=2", "--seconds=1"]
    run = subprocess.run(
        [*command, "--out", tmp_path / "page.json"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    record = json.loads((tmp_path / "page.json").read_text())
    assert record["curve_levels"] == 14
    assert 0 < record["bare_model_ms"] < record["release_to_answer_ms"]["low"]
    assert record["preview_per_second"] > 0
    for name in ("ready_s", "curve_s", "new_image_to_answer_ms", "new_image_to_curve_ms"):
        assert record[name]["low"] > 0
    assert "| at least 10 |" in run.stdout and "| at most 150 |" in run.stdout
