"""`python -m train.datasets`: published layouts in, prepared datasets and a report on every file out."""

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from helpers_published import write_cell, write_field, write_training_folds
from PIL import Image

from blastlens.errors import BlastlensError
from train.datasets import load_rows
from train.datasets.__main__ import main
from train.datasets.layouts import LABEL_TABLE
from train.datasets.prepare import prepare

ROOT = Path(__file__).parents[1]


def metadata(folder: Path) -> list[dict[str, str]]:
    with (folder / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    return write_training_folds(tmp_path / "published")


def test_training_folds_become_metadata_with_linked_groups(folds: Path, out: Path) -> None:
    prepare("cnmc2019", folds, out)
    rows = {row["file_name"]: row for row in metadata(out)}
    assert list(rows) == sorted(rows)
    assert {name: (r["label"], r["subject"], r["group"], r["fold"]) for name, r in rows.items()} == {
        "fold_0/all/UID_20_1_1_all.webp": ("all", "20", "20+21", "fold_0"),
        "fold_0/all/UID_20_2_1_all.webp": ("all", "20", "20+21", "fold_0"),
        "fold_0/hem/UID_H7_1_1_hem.webp": ("hem", "H7", "H7", "fold_0"),
        "fold_1/all/UID_5_1_1_all.webp": ("all", "5", "5", "fold_1"),
        "fold_1/hem/UID_H10_1_1_hem.webp": ("hem", "H10", "H10+H3", "fold_1"),
        "fold_2/all/UID_21_7_3_all.webp": ("all", "21", "20+21", "fold_2"),
        "fold_2/hem/UID_H3_1_2_hem.webp": ("hem", "H3", "H10+H3", "fold_2"),
        "fold_2/hem/UID_h3_1_1_hem.webp": ("hem", "H3", "H10+H3", "fold_2"),
    }
    original = folds / "C-NMC_training_data/fold_1/all/UID_5_1_1_all.bmp"
    row = rows["fold_1/all/UID_5_1_1_all.webp"]
    assert row["sha256_of_original_bmp"] == hashlib.sha256(original.read_bytes()).hexdigest()
    assert rows["fold_2/hem/UID_h3_1_1_hem.webp"]["duplicate_of"] == "fold_1/hem/UID_H10_1_1_hem.webp"
    assert rows["fold_1/hem/UID_H10_1_1_hem.webp"]["duplicate_of"] == ""


def test_a_cell_is_cropped_to_the_centre_and_stored_without_loss(folds: Path, out: Path) -> None:
    prepare("cnmc2019", folds, out, size=100)
    published = Image.open(folds / "C-NMC_training_data/fold_0/hem/UID_H7_1_1_hem.bmp")
    expected = published.crop((65, 65, 385, 385)).resize((100, 100), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels(out / "fold_0/hem/UID_H7_1_1_hem.webp"), np.asarray(expected))


def test_the_report_names_every_file_that_was_not_used(
    folds: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fold = folds / "C-NMC_training_data/fold_0"
    good = (fold / "all/UID_20_1_1_all.bmp").read_bytes()
    (fold / "all/UID_1_1_1_all.bmp").write_bytes(good[:9000])
    (fold / "all/UID_1_1_2_all.bmp").touch()
    (fold / "all/UID_1_1_3_all.bmp").write_text("not pixels")
    write_cell(fold / "all/UID_1_1_4_all.bmp", seed=9, side=300)
    (fold / "all/UID_1_1_5_hem.bmp").write_bytes(good)
    (fold / "all/cell.bmp").write_bytes(good)
    (folds / "copy/fold_0/all").mkdir(parents=True)
    (folds / "copy/fold_0/all/UID_20_1_1_all.bmp").write_bytes(good)
    (folds / "notes.txt").write_text("hello")
    write_cell(folds / "C-NMC_test_final_phase_data/1.bmp", seed=8)

    assert main(["prepare", "cnmc2019", str(folds), str(out)]) == 0
    text = capsys.readouterr().out
    assert "17 files seen" in text
    assert "used            8  (4 all, 4 hem)" in text
    assert "6 subjects in 4 groups" in text
    assert "2 byte-identical pairs, of which 2 across subjects, 0 across labels" in text
    assert "left aside      1" in text
    assert "rejected        7" in text
    for reason in (
        "UID_1_1_1_all.bmp: is truncated or damaged",
        "UID_1_1_2_all.bmp: is empty (0 bytes)",
        "UID_1_1_3_all.bmp: is not a BMP image",
        "UID_1_1_4_all.bmp: is 300 x 300 pixels, not 450 x 450",
        "UID_1_1_5_hem.bmp: its name says hem and its folder all",
        "cell.bmp: its name is not UID_",
        "copy/fold_0/all/UID_20_1_1_all.bmp: has the same name as",
    ):
        assert reason in text
    assert "not recognised  1\n    notes.txt" in text
    record = json.loads((out / "prepare.json").read_text())
    assert record["counts"]["used"] == 8 and record["counts"]["seen"] == 17


def test_only_an_earlier_dataset_of_the_layout_is_replaced(folds: Path, out: Path) -> None:
    prepare("cnmc2019", folds, out)
    write_cell(folds / "fold_1/hem/UID_H9_1_1_hem.bmp", seed=20)
    prepare("cnmc2019", folds, out, size=64)
    assert len(load_rows(out)) == 9 and pixels(out / "fold_1/hem/UID_H9_1_1_hem.webp").shape == (64, 64, 3)
    assert not [path for path in out.parent.iterdir() if path.name.startswith(".")]
    with pytest.raises(BlastlensError, match="holds the prepared dataset of cnmc2019"):
        prepare("aria2021", folds, out)
    (out.parent / "mine").mkdir()
    (out.parent / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(BlastlensError, match="was not written by this command"):
        prepare("cnmc2019", folds, out.parent / "mine")
    assert [path.name for path in (out.parent / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(BlastlensError, match="lie within each other"):
        prepare("cnmc2019", folds, folds / "prepared")


def test_a_folder_without_usable_images_is_one_sentence_and_exit_code_2(
    tmp_path: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "published").mkdir()
    (tmp_path / "published/readme.txt").touch()
    assert main(["prepare", "aria2021", str(tmp_path / "published"), str(out)]) == 2
    assert "holds no usable image of aria2021: 0 rejected" in capsys.readouterr().err
    assert not out.exists()


def write_preliminary(root: Path, beside: bool = False) -> Path:
    images = root / "C-NMC_test_prelim_phase_data"
    for number in (1, 2, 3):
        write_cell(images / f"{number}.bmp", seed=number)
    table = "Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H49_35_1_hem.bmp,2.bmp,0\n"
    (root / LABEL_TABLE).write_text(table + "UID_57_22_2_all.bmp,4.bmp,1\n")
    return images if beside else root


@pytest.mark.parametrize("beside", [False, True])
def test_the_preliminary_set_takes_labels_and_subjects_from_its_table(tmp_path: Path, out: Path, beside: bool) -> None:
    report = prepare("cnmc2019-prelim", write_preliminary(tmp_path / "published", beside), out)
    rows = [(r["file_name"], r["label"], r["subject"], r["group"], r["fold"]) for r in metadata(out)]
    assert rows == [("1.webp", "all", "57", "57", ""), ("2.webp", "hem", "H49", "H49", "")]
    assert f"3.bmp: has no row in {LABEL_TABLE}" in report
    assert "missing         1  (listed in the label table)\n    4.bmp" in report
    next((tmp_path / "published").rglob(LABEL_TABLE)).unlink()
    with pytest.raises(BlastlensError, match="hold 0 files named"):
        prepare("cnmc2019-prelim", tmp_path / "published", out)


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    root = tmp_path / "published"
    for seed, (label, number) in enumerate(product(("Benign", "Early", "Pro"), (1, 2, 3))):
        name = f"{label}/WBC-{'' if label == 'Benign' else 'Malignant-'}{label}-{number:03d}.jpg"
        write_field(root / "Original" / name, seed)
        write_field(root / "Segmented" / name, seed + 100)
    (root / "Original/Pro/WBC-Malignant-Pro-003.jpg").write_bytes(
        (root / "Original/Pro/WBC-Malignant-Pro-001.jpg").read_bytes()
    )
    return root


def test_fields_keep_their_bytes_and_the_segmented_twins_stay_out(fields: Path, out: Path) -> None:
    report = prepare("aria2021", fields, out)
    rows = {row["file_name"]: row for row in metadata(out)}
    assert len(rows) == 9 and "left aside      9" in report
    name = "Pro/WBC-Malignant-Pro-003.jpg"
    assert (out / name).read_bytes() == (fields / "Original" / name).read_bytes()
    assert rows[name]["duplicate_of"] == "Pro/WBC-Malignant-Pro-001.jpg"
    assert rows[name]["group"] == rows["Pro/WBC-Malignant-Pro-001.jpg"]["group"]
    assert {row["group"].split("-")[0] for row in rows.values()} == {"Benign", "Early", "Pro"}
    with pytest.raises(BlastlensError, match="9 of another part of the publication"):
        prepare("aria2021", fields / "Segmented", out.parent / "twins")
    assert (rows[name]["label"], rows[name]["subject"], rows[name]["fold"]) == ("Pro", "", "")
    prepare("aria2021", fields, out.parent / "small", size=64)
    assert [row["group"] for row in metadata(out.parent / "small")] == [row["group"] for row in rows.values()]


def start_slow_run(folds: Path, out: Path) -> subprocess.Popen[bytes]:
    """A run of 300 more images, returned when it has written some of them."""
    cell = folds / "C-NMC_training_data/fold_0/all/UID_20_1_1_all.bmp"
    for number in range(300):
        os.link(cell, cell.parent / f"UID_9_{number}_1_all.bmp")
    command = [sys.executable, "-m", "train.datasets", "prepare", "cnmc2019", str(folds), str(out)]
    # Started from a background job of a shell, these tests ignore interrupts, and so would the run.
    heed = signal.signal(signal.SIGINT, signal.default_int_handler)
    run = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE)
    signal.signal(signal.SIGINT, heed)
    while len(list((out.parent / ".out.partial").rglob("*.webp"))) < 5:
        assert run.poll() is None
        time.sleep(0.002)
    return run


@pytest.mark.long
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_the_old_dataset_and_the_next_run_starts_afresh(folds: Path, out: Path, stop: int) -> None:
    prepare("cnmc2019", folds, out)
    run = start_slow_run(folds, out)
    with pytest.raises(BlastlensError, match="being prepared by another run"):
        prepare("cnmc2019", folds, out)
    run.send_signal(stop)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == (130 if stop == signal.SIGINT else -stop) and b"Traceback" not in errors
    assert len(load_rows(out)) == 8
    assert (out.parent / ".out.partial").exists() is (stop == signal.SIGKILL)
    for path in folds.rglob("UID_9_*_all.bmp"):
        path.unlink()
    prepare("cnmc2019", folds, out)
    assert len(load_rows(out)) == 8 and not (out.parent / ".out.partial").exists()


def test_a_run_killed_between_its_two_renames_is_repaired(folds: Path, out: Path) -> None:
    prepare("cnmc2019", folds, out)
    out.rename(out.parent / ".out.replaced")
    prepare("cnmc2019", folds, out)
    assert len(load_rows(out)) == 8 and not (out.parent / ".out.replaced").exists()


def test_load_dataset_reads_a_prepared_folder(folds: Path, out: Path, tmp_path: Path) -> None:
    from datasets import load_dataset

    prepare("cnmc2019", folds, out, size=32)
    data = load_dataset("imagefolder", data_dir=str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == 8 and data[0]["image"].size == (32, 32)
    assert sorted(data["group"]) == sorted(row.group for row in load_rows(out))


@pytest.mark.data
def test_raw_cells_become_their_published_twins_pixel_for_pixel(data_dir: Path, out: Path) -> None:
    prepare("cnmc2019", data_dir / "cnmc2019_raw_sample", out)
    twins = {row["file_name"]: row for row in metadata(data_dir / "cnmc2019")}
    rows = metadata(out)
    assert len(rows) == 24
    for row in rows:
        twin = twins[row["file_name"]]
        assert np.array_equal(pixels(out / row["file_name"]), pixels(data_dir / "cnmc2019" / row["file_name"]))
        assert [row[key] for key in ("label", "subject", "fold")] == [twin[key] for key in ("label", "subject", "fold")]
    assert {row["subject"] for row in rows if "_h3_" in row["file_name"]} == {"H3"}
