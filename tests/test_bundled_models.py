"""The bundled models: they load everywhere, answer alike through every interface, and state only what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from blastlens import Classifier
from blastlens.model_folder import ModelFolder, bundled_models
from train.datasets import load_rows

ROOT = Path(__file__).parents[1]
CELLS, FIELDS, SMALL = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021", "mobilenetv4_small_035-cnmc2019"
LABELS = {CELLS: ["ALL", "HEM"], FIELDS: ["Benign", "Early", "Pre", "Pro"], SMALL: ["ALL", "HEM"]}

# Runs in an interpreter without this project.
PIPELINE = """
import json, sys
from transformers import pipeline
classify = pipeline("image-classification", model=sys.argv[1])
answers = [classify(path, top_k=None) for path in json.load(sys.stdin)]
assert not any(name.split(".")[0] in ("blastlens", "train") for name in sys.modules)
print(json.dumps([{a["label"]: a["score"] for a in answer} for answer in answers]))
"""


def by_pipeline(model: str, paths: list[Path], tmp_path: Path) -> list[dict[str, float]]:
    done = subprocess.run(
        [sys.executable, "-c", PIPELINE, str(ROOT / "models" / model)],
        input=json.dumps([str(path) for path in paths]),
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def real_images(data_dir: Path, model: str, count: int) -> list[Path]:
    """Evenly spread over the data set."""
    if LABELS[model] == LABELS[CELLS]:
        paths = [data_dir / "cnmc2019" / row.file_name for row in load_rows(data_dir / "cnmc2019")]
    else:
        paths = sorted((data_dir / "aria2021").rglob("*.jpg"))
    return [paths[i] for i in np.linspace(0, len(paths) - 1, count).astype(int)]


def raw_and_prepared(data_dir: Path) -> list[tuple[Path, Path]]:
    raw = sorted((data_dir / "cnmc2019_raw_sample").rglob("*.bmp"))
    return [
        (path, data_dir / "cnmc2019" / path.parts[-3] / path.parts[-2] / path.with_suffix(".webp").name) for path in raw
    ]


@pytest.mark.parametrize("model", LABELS)
def test_folder_is_complete_and_holds_no_pickle(model):
    folder = ModelFolder.load(ROOT / "models" / model)
    assert list(folder.label_names) == LABELS[model] and bundled_models() == list(LABELS)
    files = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
    assert {"config.json", "model.safetensors", "onnx/model.onnx", "onnx/model_int8.onnx", "metrics.json"} <= files
    assert all(Path(name).suffix in (".json", ".safetensors", ".onnx", ".md", ".png") for name in files)
    assert max(path.stat().st_size for path in folder.path.rglob("*")) < 15e6
    assert model != SMALL or (folder.path / "onnx/model_int8.onnx").stat().st_size < 1e6


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("model", LABELS)
def test_a_stock_pipeline_gives_the_classifiers_answers_on_real_images(model, data_dir, tmp_path):
    paths = real_images(data_dir, model, 50)
    ours = Classifier.from_pretrained(model).predict(paths)
    for path, theirs, mine in zip(paths, by_pipeline(model, paths, tmp_path), ours, strict=True):
        assert list(theirs) != [] and set(theirs) == set(LABELS[model])
        assert theirs == pytest.approx(mine.probabilities, abs=1e-4), path.name


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("model", LABELS)
def test_timm_gives_the_classifiers_answers_on_prepared_images(model, data_dir):
    import timm
    import torch
    from PIL import Image

    network = timm.create_model(f"local-dir:{ROOT / 'models' / model}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
    classifier = Classifier.from_pretrained(model)
    for path in real_images(data_dir, model, 8):
        with torch.inference_mode():
            theirs = network(transform(Image.open(path).convert("RGB"))[None]).softmax(1)[0].tolist()
        assert theirs == pytest.approx(list(classifier.predict(path).probabilities.values()), abs=1e-4)


@pytest.mark.slow
@pytest.mark.data
def test_a_raw_frame_and_its_prepared_twin_get_the_same_answer_through_every_interface(data_dir, tmp_path):
    paths = [path for pair in raw_and_prepared(data_dir) for path in pair]
    assert len(paths) == 48
    command = [sys.executable, "-m", "blastlens", "classify", "--model", CELLS, "--format", "json", *map(str, paths)]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    expected = [answer.probabilities["ALL"] for answer in Classifier.from_pretrained(CELLS).predict(paths)]
    answers_by = {
        "Classifier": expected,
        "pipeline": [answer["ALL"] for answer in by_pipeline(CELLS, paths, tmp_path)],
        "command line": [answer["probabilities"]["ALL"] for answer in json.loads(printed)],
    }
    for name, answers in answers_by.items():
        raw, prepared = np.array(answers).reshape(-1, 2).T
        apart = np.abs(raw - prepared)  # they were resampled by different filters
        assert apart.max() <= 0.05 and apart.mean() <= 0.01, name
        assert answers[1::2] == pytest.approx(expected[1::2], abs=1e-4), name


@pytest.mark.parametrize("model", LABELS)
def test_the_shown_figures_are_group_level_and_from_held_out_images(model):
    record = ModelFolder.load(ROOT / "models" / model).metrics
    protocol = record["protocols"][0]
    assert protocol["name"].startswith("group-kfold") and protocol["level"] == "group"
    clean = protocol["by_sigma"][0]
    assert clean["sigma"] == 0 and record["headline"]["weighted_f1"] == clean["weighted_f1"]
    assert [row["sigma"] for row in protocol["by_sigma"]] == [0, 2, 5, 6, 8, 10, 20, 30, 50, 75, 100]
    assert protocol["n_images"] == record["training"]["dataset"]["images"]


@pytest.mark.data
def test_the_measured_cells_are_the_data_sets(data_dir):
    record = ModelFolder.load(ROOT / "models" / CELLS).metrics
    rows = [row for name in ("cnmc2019", "cnmc2019_more") for row in load_rows(data_dir / name)]
    subjects = {(row.subject, row.label) for row in rows}
    # A group is named after its subjects.
    groups = record["protocols"][0]["per_group"]
    assert {(name, g["label"]) for g in groups for name in g["group"].split("+")} == subjects
    assert set(record["training"]["subjects"]) == {name for name, _ in subjects}
    assert record["training"]["dataset"]["images"] == len(rows)
