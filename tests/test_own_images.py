"""A user's own images, from a folder or a table to a model with its card: other labels, subjects and formats."""

import csv
import hashlib
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers_hub import LoopbackHub
from PIL import Image, ImageDraw

from blastlens import Classifier
from blastlens.dataset_info import BY_IMAGE
from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder
from train import card, crossval, evaluate, export, finetune, ood_evaluation
from train.datasets import labels_of, level_of, load_rows
from train.datasets.__main__ import main
from train.datasets.own_images import Options
from train.datasets.prepare import prepare_own
from train.datasets.splits import make_splits
from train.ood_test_images import DRAWN

ROOT = Path(__file__).resolve().parents[1]
SHAPES = ("circle", "square", "bar")


def shape(label: str, seed: int, size: tuple[int, int] = (96, 64)) -> Image.Image:
    rng = np.random.default_rng([seed, SHAPES.index(label)])
    ground = Image.fromarray(rng.integers(170, 255, (12, 18, 3), dtype=np.uint8))
    image = ground.resize(size, Image.Resampling.BICUBIC)
    draw, r = ImageDraw.Draw(image), int(rng.integers(10, 18))
    x, y = rng.integers(24, 40, 2).tolist()
    box = {"circle": (x - r, y - r, x + r, y + r), "square": (x - r, y - r, x + r, y + r), "bar": (x - 4, 4, x + 4, 60)}
    fill = tuple(rng.integers(0, 120, 3).tolist())
    (draw.ellipse if label == "circle" else draw.rectangle)(box[label], fill=fill)
    return image


def write_shapes(folder: Path, subjects: int = 4, each: int = 2, labels: tuple[str, ...] = SHAPES) -> Path:
    for number, label in enumerate(labels):
        (folder / label).mkdir(parents=True)
        for subject in range(subjects):
            for k in range(each):
                image = shape(SHAPES[number], 100 * subject + k)
                image.save(folder / label / f"UID_H{subject}_{k}.{'png' if k else 'bmp'}")
    return folder


def prepared(source: Path, tmp_path: Path, **options: object) -> tuple[Path, str]:
    out = tmp_path / "prepared"
    return out, prepare_own(source, out, 48, Options(**{"name": "shapes", **options}))


def test_sub_folders_are_labels_in_sorted_order_and_a_pattern_finds_subjects(tmp_path: Path) -> None:
    out, report = prepared(write_shapes(tmp_path / "in"), tmp_path, subject=r"UID_(H?\d+)_")
    rows = load_rows(out)
    assert labels_of(rows)[0] == ("bar", "circle", "square") and len(rows) == 24
    assert {row.subject for row in rows} == {"H0", "H1", "H2", "H3"} and level_of("group-kfold:2", rows) == "group"
    assert "H0: 2 bar, 2 circle, 2 square" in report and "bar: 8" in report
    with Image.open(out / rows[0].file_name) as image:
        assert image.format == "WEBP" and image.size == (72, 48)  # shrunk, not cropped
    record = json.loads((out / "prepare.json").read_text())
    assert (record["layout"], record["name"], record["subjects"]) == ("folder", "shapes", True)
    for split in make_splits("group-kfold:2", rows, 0):
        assert not {rows[i].subject for i in split.train} & {rows[i].subject for i in split.test}


def test_without_subjects_each_image_is_a_group_and_the_split_is_by_image(tmp_path: Path) -> None:
    out, report = prepared(write_shapes(tmp_path / "in"), tmp_path)
    rows = load_rows(out)
    assert len({row.group for row in rows}) == 24 and level_of("group-kfold:2", rows) == "image"
    assert "NO SUBJECTS" in report and json.loads((out / "prepare.json").read_text())["subjects"] is False


def test_folders_inside_those_of_the_classes_can_be_subjects(tmp_path: Path) -> None:
    for label in SHAPES[:2]:
        for part in ("train", "test"):
            (tmp_path / "in" / part / label / f"case {part}").mkdir(parents=True)
            shape(label, len(part)).save(tmp_path / "in" / part / label / f"case {part}" / "1.png")
    rows = load_rows(prepared(tmp_path / "in", tmp_path, subject="folder")[0])
    assert {(row.label, row.subject) for row in rows} == {
        (label, subject) for label in SHAPES[:2] for subject in ("case train", "case test")
    }


def as_csv(records: list[dict[str, str]]) -> str:
    return "\n".join([",".join(records[0]), *(",".join(record.values()) for record in records)])


def as_jsonl(records: list[dict[str, str]]) -> str:
    return "\n".join(map(json.dumps, records))


@pytest.mark.parametrize(("name", "write"), [("labels.csv", as_csv), ("labels.jsonl", as_jsonl)])
@pytest.mark.parametrize("columns", [("file_name", "label", "subject"), ("Image_ID", "Target", "Patient_ID")])
@pytest.mark.parametrize("named", [False, True])
def test_a_table_states_labels_and_subjects(
    tmp_path: Path, name: str, write: Callable, columns: tuple[str, str, str], named: bool
) -> None:
    images = tmp_path / "in" / "images"
    images.mkdir(parents=True)
    records = []
    for k, label in enumerate(("hem", "Benign", "hem", "Benign")):
        shape("circle", k).save(images / f"{k}.png")
        file = f"{k}" if columns[0] == "Image_ID" else f"images/{k}.png"
        records.append(dict(zip(columns, (file, label, f"P{k // 2}"), strict=True)))
    table = tmp_path / "in" / name
    table.write_text(write(records))
    rows = load_rows(prepared(table if named else table.parent, tmp_path)[0])
    # Not the canonical labels of the known data sets: HEM, Benign.
    assert [(row.label, row.subject) for row in rows] == [
        ("hem", "P0"),
        ("Benign", "P0"),
        ("hem", "P1"),
        ("Benign", "P1"),
    ]
    assert labels_of(rows)[0] == ("Benign", "hem")


def test_near_duplicates_of_two_subjects_are_one_group_and_two_labels_are_told(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "in")
    with Image.open(folder / "circle" / "UID_H1_0.bmp") as image:  # smaller, lossy and brighter
        copy = image.resize((72, 48)).point(lambda value: min(255, round(1.1 * value)))
    copy.save(folder / "circle" / "UID_H2_9.jpg", quality=80)
    (folder / "square" / "UID_H3_9.png").write_bytes((folder / "circle" / "UID_H0_1.png").read_bytes())
    out, report = prepared(folder, tmp_path, subject=r"UID_(H\d)_")
    groups = {row.subject: row.group for row in load_rows(out)}
    assert groups == {"H0": "H0+H3", "H1": "H1+H2", "H2": "H1+H2", "H3": "H0+H3"}
    assert "near-duplicates 2 pairs" in report and "CHECK LABELS    1 pair of two labels" in report
    unlinked, _ = prepared(folder, tmp_path, subject=r"UID_(H\d)_", similarity=1.01)
    assert {row.group for row in load_rows(unlinked)} == {"H0+H3", "H1", "H2"}


def test_what_cannot_be_used_is_named_and_the_rest_is_prepared(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "in", labels=("ALL", "HEM"))
    (folder / "ALL" / "notes.txt").write_text("no image")
    (folder / "ALL" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (folder / "ALL" / ".DS_Store").touch()
    shape("bar", 1).save(folder / "above.png")
    (folder / "other.csv").write_text("a,b\n1,2\n")
    out, report = prepared(folder, tmp_path)
    rows = load_rows(out)
    assert len(rows) == 16 and labels_of(rows)[0] == ("ALL", "HEM") and "rejected        3" in report
    assert "above.png: is in no sub-folder" in report and "other.csv was not used" in report
    with (out / "metadata.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["original"] == "ALL/UID_H0_0.bmp"


@pytest.mark.parametrize(
    ("change", "options", "reason"),
    [
        (lambda folder: None, {"subject": "("}, "is no regular expression"),
        (lambda folder: None, {"subject": "case"}, "finds nothing in any path, such as bar/UID_H0_0.bmp"),
        (lambda folder: None, {"name": "cnmc2019"}, "'cnmc2019' cannot be the name"),
        (lambda folder: [path.unlink() for path in folder.glob("[!c]*/*")], {}, "have the label 'circle'; two labels"),
        (lambda folder: [path.unlink() for path in folder.glob("*/*")], {}, "holds no usable image"),
        (lambda folder: None, {"similarity": -1.0}, "give a higher --similarity"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, change: Callable, options: dict, reason: str) -> None:
    folder = write_shapes(tmp_path / "in", subjects=40 if "similarity" in options else 4)
    change(folder)
    with pytest.raises(BlastlensError, match=re.escape(reason)):
        prepared(folder, tmp_path, **options)
    assert not (tmp_path / "prepared").exists()


def test_a_table_without_labels_leaves_those_of_the_folders(tmp_path: Path) -> None:
    folder = write_shapes(tmp_path / "in", subjects=1)
    (folder / "people.csv").write_text(
        "path,donor\n" + "\n".join(f"{s}/UID_H0_{k}.{e},D{k}" for s in SHAPES for k, e in enumerate(("bmp", "png")))
    )
    rows = load_rows(prepared(folder, tmp_path)[0])
    assert {(row.label, row.subject) for row in rows} == {
        (label, subject) for label in SHAPES for subject in ("D0", "D1")
    }


def test_the_command_prepares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = write_shapes(tmp_path / "in"), tmp_path / "mine"
    assert main(["prepare", "folder", str(folder), str(out), "--subject", r"UID_(H\d)_", "--size", "32"]) == 0
    assert f"written to {out}" in capsys.readouterr().out
    assert main(["prepare", "folder", str(folder / "none"), str(out)]) == 2
    assert "does not exist" in capsys.readouterr().err
    finished = json.loads((out / "prepare.json").read_text())
    assert finished["name"] == "mine" and finished["size"] == 32


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of two splits as the Hub stores it, of 12 shapes of 3 subjects."""
    import datasets

    folder = tmp_path_factory.mktemp("parquet")
    drawn = [(label, subject, k) for label in SHAPES[:2] for subject in range(3) for k in range(2)]
    columns = {
        "picture": [shape(label, 10 * subject + k) for label, subject, k in drawn],
        "Label": [label for label, _, _ in drawn],
        "Patient_ID": [7 + subject for _, subject, _ in drawn],
    }
    kinds = {"picture": datasets.Image(), "Label": datasets.ClassLabel(names=["square", "circle"])}
    rows = datasets.Dataset.from_dict(columns, datasets.Features(kinds | {"Patient_ID": datasets.Value("int64")}))
    for split, chosen in (("train", range(8)), ("test", range(8, 12))):
        (folder / "data").mkdir(exist_ok=True)
        rows.select(chosen).to_parquet(folder / f"data/{split}-00000-of-00001.parquet")
    return folder


def subjects_and_labels(folder: Path) -> Counter:
    return Counter((row.subject, row.label) for row in load_rows(folder))


THREE_SUBJECTS = {(subject, label): 2 for subject in "789" for label in SHAPES[:2]}


def test_a_folder_of_parquet_files_is_prepared_with_the_names_of_its_class_labels(
    parquet: Path, tmp_path: Path
) -> None:
    assert main(["prepare", "hub", str(parquet), str(tmp_path / "out"), "--similarity", "1.01", "--size", "32"]) == 0
    assert subjects_and_labels(tmp_path / "out") == THREE_SUBJECTS
    stored = parquet_images(parquet)
    assert {row.sha256 for row in load_rows(tmp_path / "out")} == {hashlib.sha256(one).hexdigest() for one in stored}


def parquet_images(folder: Path) -> list[bytes]:
    """The image files in Parquet files."""
    tables = [pq.read_table(file) for file in sorted(folder.rglob("*.parquet"))]
    return [row["bytes"] for table in tables for row in table["picture"].to_pylist()]


def test_a_dataset_without_a_column_of_labels_is_refused(
    parquet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(parquet / "data/test-00000-of-00001.parquet").drop_columns(["Label"])
    (tmp_path / "in").mkdir()
    pq.write_table(table, tmp_path / "in/train.parquet")
    assert main(["prepare", "hub", str(tmp_path / "in"), str(tmp_path / "out")]) == 2
    assert "has the columns picture, Patient_ID; a column of images" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_is_not_on_the_hub_is_one_sentence(
    hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "hub", "someone/nothing", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert told == (
        "There is no folder someone/nothing, and no dataset someone/nothing on the Hub can be read "
        "(RepositoryNotFoundError).\n"
    )


def test_a_dataset_of_the_hub_is_prepared(hub: LoopbackHub, parquet: Path, tmp_path: Path) -> None:
    files = {path.relative_to(parquet).as_posix(): path for path in parquet.rglob("*.parquet")}
    hub.add_repo("someone/shapes", files, kind="dataset")
    command = [sys.executable, "-m", "train.datasets", "prepare", "hub", "someone/shapes", str(tmp_path / "out")]
    command += ["--similarity", "1.01", "--size", "32"]
    done = subprocess.run(command, env=hub.environment(tmp_path), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    assert subjects_and_labels(tmp_path / "out") == THREE_SUBJECTS


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "subject"), [(SHAPES, r"UID_(H\d)_"), (("ALL", "HEM"), None)])
def test_own_images_become_a_model_with_a_card(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    labels: tuple[str, ...],
    subject: str | None,
) -> None:
    monkeypatch.setattr(ood_evaluation, "DRAWN", {name: (draw, 3) for name, (draw, _) in DRAWN.items()})
    data, _ = prepared(write_shapes(tmp_path / "in", labels=labels), tmp_path, subject=subject)
    final, cv, model = (str(tmp_path / name) for name in ("final", "cv", "models/own"))
    cached = ["--data", str(data), "--cache", str(tmp_path / "cache")]
    common = ["ours_aria2021", *cached, "--weights", "scratch", "--sigmas", "0", "10", "20"]
    common += ["--set", "epochs=1", "image_size=32", "backbone=mobilenetv2_035"]
    assert finetune.main([*common, "--protocol", "all", "--out", final]) == 0
    common += ["--protocol", "group-kfold:2"]
    for fold in ("0", "1"):
        assert finetune.main([*common, "--fold", fold, "--out", f"{cv}/seed0-fold{fold}"]) == 0
    assert crossval.main([*common, "--out", cv]) == 0
    assert ("The split is by image" in capsys.readouterr().out) == (subject is None)
    assert export.main([final, *cached, "--cv", cv, "--out", model]) == 0
    assert ModelFolder.load(model).dataset.name == "shapes"  # before it is measured, too
    steps = ["--steps", "calibration", "patients", "int8", "probes", "gate"]
    assert evaluate.main([model, *steps, *cached, "--cv", cv, "--run", final]) == 0
    shown = capsys.readouterr().out
    assert all(f"{step}: skipped; " in shown for step in ("probes", "patients"))
    assert card.main([model]) == 0
    folder, text = ModelFolder.load(model), (Path(model) / "README.md").read_text()
    assert folder.label_names == tuple(sorted(labels)) and folder.view.frame is None
    assert not folder.dataset.known and folder.known_labels == () and (folder.protocol() is None) == (subject is None)
    assert "C-NMC" not in text and "- leukemia" not in text and "shapes, images of the user" in text
    assert (BY_IMAGE in text) == (subject is None)
    answer = Classifier.from_pretrained(model).predict(tmp_path / "in" / labels[0] / "UID_H0_1.png")
    assert set(answer.probabilities) == set(labels) and answer.in_domain is True
    blank = Classifier.from_pretrained(model).predict(Image.new("RGB", (96, 64)))
    assert blank.in_domain is False and "than the images the model knows" in " ".join(blank.warnings)
    assert "They are the same for every data set" in text
