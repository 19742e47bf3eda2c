"""Every published system runs end to end on real images: a few steps, then predictions at every noise level."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from train import finetune
from train.compare import systems
from train.datasets import load_rows
from train.recipe import Recipe

SHARED = {"mobilenetv1_100", "mobilenetv2_100"}


@pytest.fixture(scope="session")
def real_handful(data_dir, tmp_path_factory) -> Path:
    """A dozen real images of each data set, three groups of each label, as a prepared dataset."""
    parent = tmp_path_factory.mktemp("handful")
    cells = []
    rows = [row for row in load_rows(data_dir / "cnmc2019") if row.fold == "fold_0"]
    for label in ("ALL", "HEM"):
        for group in sorted({row.group for row in rows if row.label == label})[:3]:
            of_group = [row for row in rows if row.group == group][:3]
            cells += [(data_dir / "cnmc2019" / row.file_name, label, group) for row in of_group]
    fields = []
    files = sorted((data_dir / "aria2021").rglob("*.jpg"))
    for label in ("Benign", "Early", "Pre", "Pro"):
        mine = [file for file in files if file.parent.name == label]
        fields += [(mine[40 * k + i], label, f"{label}{k}") for k in range(3) for i in range(2)]
    for name, chosen in (("cnmc2019", cells), ("aria2021", fields)):
        (parent / name).mkdir()
        with (parent / name / "metadata.csv").open("w", newline="") as handle:
            table = csv.writer(handle)
            table.writerow(["file_name", "label", "subject", "group", "fold", "sha256_of_original_image"])
            for number, (file, label, group) in enumerate(chosen):
                shutil.copy(file, parent / name / f"{number}{file.suffix}")
                table.writerow([f"{number}{file.suffix}", label, group, group, "fold_0", f"{number:064x}"])
    return parent


@pytest.mark.data
@pytest.mark.long
@pytest.mark.parametrize("name", systems())
def test_the_recipe_trains_and_answers_on_real_images(name, real_handful, weights_dir, tmp_path):
    recipe = Recipe.load(name)
    start = str(weights_dir) if recipe.backbone in SHARED else "scratch"
    words = [name, "--data", str(real_handful), "--weights", start, "--out", str(tmp_path / "run")]
    words += ["--protocol", "group-kfold:3", "--cache", str(real_handful / "cache"), "--precision", "fp32"]
    assert finetune.main([*words, "--sigmas", "0", "50", "--set", "epochs=1", "batch_size=4", "validation=0.3"]) == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert record["initial_weights"] == ("random" if start == "scratch" else f"{recipe.backbone}.in1k.safetensors")
    predictions = np.load(tmp_path / "run/predictions.npz")
    assert predictions["test_logits"].shape[0] == len(predictions["sigmas"]) == 2
    assert np.isfinite(predictions["test_logits"]).all()
    # Noise reaches the network, and the answers depend on the image.
    assert not np.allclose(predictions["test_logits"][0], predictions["test_logits"][-1])
    assert np.ptp(predictions["test_logits"][0], axis=0).max() > 0
    assert all(bool(tensor.isfinite().all()) for tensor in load_file(tmp_path / "run/model.safetensors").values())
