"""`--protocol official`: the published download in, figures on the published preliminary test set out."""

import json
from pathlib import Path

import pytest
from helpers_published import write_cell, write_training_folds
from test_compare import recipe_file

from blastlens.errors import BlastlensError
from train import compare, crossval
from train.datasets import load_rows
from train.datasets.layouts import LABEL_TABLE, PRELIMINARY
from train.datasets.prepare import official_dataset, prepare
from train.datasets.splits import make_splits
from train.recipe import Recipe
from train.results import load_results

DONORS = {"57": "all", "58": "all", "H49": "hem", "H50": "hem"}


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Both parts as published; a cell of test donor 58 is also one of subject 5 of the training folds."""
    root = write_training_folds(tmp_path / "C-NMC_Leukemia")
    lines = ["Patient_ID,new_names,labels"]
    for donor, label in DONORS.items():
        for k in range(3):
            number = len(lines)
            write_cell(
                root / "validation" / PRELIMINARY / f"{number}.bmp", 3 if (donor, k) == ("58", 0) else 10 + number
            )
            lines.append(f"UID_{donor}_{k}_1_{label}.bmp,{number}.bmp,{int(label == 'all')}")
    (root / "validation" / LABEL_TABLE).write_text("\n".join(lines))
    write_cell(root / "test" / "C-NMC_test_final_phase_data" / "1.bmp", 99)
    return root


def test_the_preliminary_set_is_tested_and_its_donors_are_not_trained_on(download: Path, tmp_path: Path) -> None:
    report = prepare("cnmc2019-official", download, tmp_path / "out", size=64)
    assert "used            20" in report and "left aside      1" in report and "not recognised  0" in report
    rows = load_rows(tmp_path / "out")
    (split,) = make_splits("group-official", rows, 0)
    assert {rows[i].fold for i in split.test} == {"preliminary"} and len(split.test) == 12
    assert {rows[i].subject for i in split.test} == set(DONORS)
    assert {row.subject for i, row in enumerate(rows) if i not in split.train + split.test} == {"5"}
    assert len(split.train) == 7 and make_splits("group-official", rows, 3)[0].train == split.train


def test_without_the_test_set_the_protocol_is_refused(tmp_path: Path) -> None:
    folds = write_training_folds(tmp_path / "published")
    prepare("cnmc2019", folds, tmp_path / "cnmc2019", size=64)
    with pytest.raises(BlastlensError, match="there is none here; give the published download"):
        make_splits("group-official", load_rows(official_dataset(tmp_path / "cnmc2019", tmp_path)), 0)
    with pytest.raises(BlastlensError, match="hold 0 files named"):
        official_dataset(folds, tmp_path)


@pytest.mark.long
def test_one_command_takes_the_download(download: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_file(tmp_path, epochs=1)
    words = ["--data", str(download), "--weights", "scratch", "--protocol", "official", "--cache", str(tmp_path / "c")]
    places = ["--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    assert compare.main([*words, *places, "--only", recipe]) == 0
    shown = capsys.readouterr().out
    assert (
        "used            20" in shown and "7 training images; tested on 12 of 2 healthy donors and 2 subjects" in shown
    )
    assert "1 training images of test donors left out" in shown and "baseline: log_area" in shown and "  tiny" in shown
    (result,) = load_results(tmp_path / "results")
    assert (result.protocol, result.level, result.images) == (
        "group-official",
        "group",
        {"train": 7, "val": 0, "test": 12},
    )
    # The same words, and what is prepared and trained already is used.
    assert compare.main([*words, *places, "--only", recipe]) == 0
    assert "used            20" not in capsys.readouterr().out
    options = [*words, "--sigmas", "0", "--out", str(tmp_path / "cv")]
    assert crossval.main([recipe, *options]) == 0
    protocol = json.loads((tmp_path / "cv" / "summary.json").read_text())["protocol"]
    assert (protocol["name"], protocol["level"], protocol["n_images"]) == ("group-official", "group", 12)
    other = recipe_file(tmp_path, name="fields", dataset="aria2021")
    assert crossval.main([other, *options]) == 2
    assert "is one of C-NMC 2019; fields is for aria2021" in capsys.readouterr().err


def test_all_recipes_of_the_data_set_that_need_no_teacher_are_run() -> None:
    names = compare.systems(official=True)
    recipes = [Recipe.load(name) for name in names]
    assert {recipe.dataset for recipe in recipes} == {"cnmc2019"} and not any(r.distill.weight for r in recipes)
    assert {"mobilenet_m", "alnett", "features_cnmc2019", "ours_cnmc2019"} <= set(names)
    assert not {"features_cnmc2019", "ours_cnmc2019"} & set(compare.systems())
