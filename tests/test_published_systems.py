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
    """A dozen real images of each data set, every group and label several times, as a prepared dataset."""
    parent = tmp_path_factory.mktemp("handful")
    prepare_cells(data_dir / "cnmc2019", parent / "cnmc2019")
    prepare_fields(data_dir / "aria2021", parent / "aria2021")
    return parent


def prepare_cells(source: Path, out: Path) -> None:
    rows = load_rows(source)
    chosen = []
    for label in ("ALL", "HEM"):
        groups = sorted({row.group for row in rows if row.label == label and row.fold == "fold_0"})[:3]
        for group in groups:
            chosen += [row for row in rows if row.group == group and row.fold == "fold_0"][:3]
    write(source, out, [(row.file_name, row.label, row.group, row.sha256) for row in chosen])


def prepare_fields(source: Path, out: Path) -> None:
    chosen = []
    for label in ("Benign", "Early", "Pre", "Pro"):
        files = sorted(path for path in source.rglob("*.jpg") if path.parent.name == label)
        for group, start in enumerate((0, 40, 80)):
            chosen += [
                (p.relative_to(source).as_posix(), label, f"{label}{group}", "") for p in files[start : start + 2]
            ]
    write(source, out, chosen)


def write(source: Path, out: Path, rows: list[tuple[str, str, str, str]]) -> None:
    out.mkdir()
    with (out / "metadata.csv").open("w", newline="") as handle:
        table = csv.writer(handle)
        table.writerow(["file_name", "label", "subject", "group", "fold", "sha256_of_original_image"])
        for number, (file, label, group, sha256) in enumerate(rows):
            name = f"{number}{Path(file).suffix}"
            shutil.copy(source / file, out / name)
            table.writerow([name, label, group, group, "fold_0", sha256 or f"{number:064x}"])


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
