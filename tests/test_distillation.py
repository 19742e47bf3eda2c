"""A student learns from a teacher, and only from one that has seen no more of the data than it may."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_models import SIZE, make_model_folder
from helpers_synthetic import TINY, drawn_dataset
from safetensors.torch import load_file, save_file

from blastlens.errors import BlastlensError
from train.datasets import dataset_hash, load_rows
from train.distillation import imitation_loss, load_teacher
from train.networks import create_network
from train.recipe import Recipe, Run
from train.run import contiguous, execute, teacher_of

RECIPE = TINY | {"image_size": 64, "epochs": 6}
LEARNS = {"distill": {"weight": 0.9, "temperature": 2}, "backbone": "mobilenetv4_conv_small_035"}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "cells"
    drawn_dataset(folder, ("ALL", "HEM"), per_group=5, groups_per_label=4, size=64, seed=3)
    return folder


@pytest.fixture(scope="module")
def cv(drawn, tmp_path_factory) -> Path:
    """Two fold networks as train.crossval leaves them; they need not be trained."""
    folder = tmp_path_factory.mktemp("folds") / "cv"
    for fold in range(2):
        run = folder / f"seed0-fold{fold}"
        run.mkdir(parents=True)
        torch.manual_seed(fold)
        network = create_network(Recipe.from_dict(RECIPE), 2, "scratch")
        torch.nn.init.normal_(network.classifier.weight)
        save_file(contiguous(network.state_dict()), run / "model.safetensors")
        record = {"recipe": RECIPE, "protocol": "group-kfold:2", "seed": 0, "fold": fold}
        record |= {"dataset": {"hash": dataset_hash(load_rows(drawn))}}
        (run / "run.json").write_text(json.dumps(record))
    return folder


def taught(drawn: Path, teacher: Path | None, **changes) -> Run:
    recipe = Recipe.from_dict(RECIPE | changes)
    return Run(recipe, str(drawn), "group-kfold:2", 0, 0, "scratch", teacher=teacher and str(teacher))


def test_imitation_loss_is_the_divergence_of_softened_predictions():
    logits = torch.tensor([[2.0, -1.0], [0.3, 0.1]])
    assert imitation_loss(logits + 5, logits, 3.0).tolist() == pytest.approx([0, 0], abs=1e-6)
    # Two predictions of probability p and q: p log(p / q) + (1 - p) log((1 - p) / (1 - q)).
    p, q = 1 / (1 + math.exp(-1)), 1 / (1 + math.exp(-0.5))
    expected = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    found = imitation_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]]), 2.0)
    assert found.item() == pytest.approx(expected * 2**2, rel=1e-5)


def test_a_student_approaches_its_teacher(drawn, cv, tmp_path):
    run = taught(drawn, cv, **LEARNS)
    teacher = teacher_of(run, dataset_hash(load_rows(drawn)), ("ALL", "HEM"))
    execute(run, tmp_path / "taught", tmp_path / "cache", sigmas=(0,))
    record = json.loads((tmp_path / "taught/run.json").read_text())
    assert record["teacher"].startswith(f"{cv.name}, fold 0, ") and str(tmp_path) not in str(record)
    losses = [float(line.split(",")[2]) for line in (tmp_path / "taught/log.csv").read_text().splitlines()[1:] if line]
    assert losses[-1] < losses[0]
    weights = load_file(cv / "seed0-fold0/model.safetensors")
    assert torch.equal(dict(teacher.network.named_parameters())["classifier.weight"], weights["classifier.weight"])


def test_a_teacher_sees_pixels_as_it_was_trained_to(drawn, cv):
    teacher = teacher_of(taught(drawn, cv, **LEARNS), dataset_hash(load_rows(drawn)), ("ALL", "HEM"))
    images = torch.randint(0, 256, (3, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        exact = teacher.network((images.float() / 255 - 0.5) / 0.5)
    np.testing.assert_allclose(teacher.logits(images).numpy(), exact.numpy(), rtol=0.05)
    assert not teacher.logits(images).requires_grad


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"protocol": "image-70-15-15"}, "may have seen what it holds out"),
        ({"seed": 1}, "has no finished run of seed 1, fold 0"),
        ({"data": "0" * 64}, "on other images"),
        ({"recipe": Recipe.from_dict(RECIPE | LEARNS | {"image_size": 96})}, "sees 64 px and the student 96 px"),
    ],
)
def test_networks_that_may_have_seen_the_held_out_images_are_refused(drawn, cv, changes, reason):
    options = {"recipe": Recipe.from_dict(RECIPE | LEARNS), "protocol": "group-kfold:2", "seed": 0}
    options |= {"data": dataset_hash(load_rows(drawn))} | changes
    with pytest.raises(BlastlensError, match=reason):
        load_teacher(cv, options["recipe"], options["protocol"], 0, options["seed"], options["data"], ("ALL", "HEM"))


def test_a_model_fitted_on_everything_teaches_only_students_that_are_too(tmp_path):
    folder = make_model_folder(tmp_path / "model")
    recipe = Recipe.from_dict(RECIPE | LEARNS | {"image_size": SIZE})
    with pytest.raises(BlastlensError, match="fitted on every image, also on those that group-kfold:2 holds out"):
        load_teacher(folder, recipe, "group-kfold:2", 0, 0, "", ("ALL", "HEM"))
    assert load_teacher(folder, recipe, "all", 0, 0, "", ("ALL", "HEM")).source.startswith("model, ")
    with pytest.raises(BlastlensError, match="a plain timm model of its labels is needed"):
        load_teacher(folder, recipe, "all", 0, 0, "", ("HEM", "ALL"))
    shutil.rmtree(folder)
    with pytest.raises(BlastlensError, match="has no finished run"):
        load_teacher(folder, recipe, "all", 0, 0, "", ("ALL", "HEM"))


def test_recipe_and_teacher_come_together(drawn, cv):
    with pytest.raises(BlastlensError, match="learns from a teacher; name one with --teacher"):
        teacher_of(taught(drawn, None, **LEARNS), "", ("ALL", "HEM"))
    with pytest.raises(BlastlensError, match="learns from no teacher; leave --teacher out"):
        teacher_of(taught(drawn, cv), "", ("ALL", "HEM"))
