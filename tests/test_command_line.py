"""`python -m blastlens classify`: what it prints, and that nothing a user types ends in a traceback."""

import csv
import io
import json
import shutil
import subprocess
import sys

import pytest
from helpers_files import write_bad_files
from helpers_models import blobs, shared_model_folder, write_json
from PIL import Image

from blastlens import Classifier
from blastlens.cli import main
from blastlens.corruptions import KINDS
from blastlens.external_result import NOT_VALIDATED

CELL = str(shared_model_folder("cell"))


@pytest.fixture
def images(tmp_path):
    files = [tmp_path / f"cell {n}.png" for n in range(3)]
    for n, file in enumerate(files):
        Image.fromarray(blobs(n)).save(file)
    return [str(file) for file in files]


def run(capsys, *arguments):
    code = main(["classify", *map(str, arguments)])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_a_pattern_that_the_shell_leaves_alone_is_expanded(capsys, images, tmp_path):
    code, out, _ = run(capsys, str(tmp_path / "cell *.png"), "--model", CELL, "--format", "json")
    assert code == 0 and [one["image"] for one in json.loads(out)] == images
    code, _, err = run(capsys, str(tmp_path / "none*.png"), "--model", CELL)
    assert code == 2 and "does not exist" in err


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    """Bundled models `cells`, which wants black, and `fields`, which wants none."""
    for name, kind, black in (
        ("cells", "cell", {"low": 0.5, "high": 1}),
        ("fields", "field", {"low": 0, "high": 0.1}),
    ):
        folder = shutil.copytree(shared_model_folder(kind), tmp_path / "models" / name)
        gate = {"schema": 1, "images": name, "statistics": {"black": black}}
        (folder / "gate.json").write_text(json.dumps(gate))
    monkeypatch.setenv("BLASTLENS_MODELS", str(tmp_path / "models"))


def test_the_model_that_knows_a_refused_image_is_named_in_every_format(capsys, images, two_models):
    table = run(capsys, images[0], "--model", "cells")[1]
    assert f"note: {images[0]}: it fits another model; try --model fields" in table
    assert table.splitlines()[0].split() == ["image", "label", "ALL", "HEM", "fits"]
    assert table.splitlines()[2].split()[-1] == "no"
    (answer,) = json.loads(run(capsys, images[0], "--model", "cells", "--format", "json")[1])
    assert answer["suggestion"] == "fields"
    (row,) = csv.DictReader(io.StringIO(run(capsys, images[0], "--model", "cells", "--format", "csv")[1]))
    assert (row["in_domain"], row["suggestion"]) == ("no", "fields")
    (answer,) = json.loads(run(capsys, images[0], "--model", "fields", "--format", "json")[1])
    assert (answer["in_domain"], answer["suggestion"]) == (True, None)


def test_strict_exits_with_3_where_an_image_is_refused_and_answers_all_the_same(capsys, images, two_models, tmp_path):
    refused = run(capsys, images[0], "--model", "cells")
    assert refused[0] == 0
    assert run(capsys, images[0], "--model", "cells", "--strict") == (3, *refused[1:])
    assert run(capsys, images[0], "--model", "fields", "--strict")[0] == 0
    assert run(capsys, images[0], "--model", CELL, "--strict")[0] == 0
    assert run(capsys, images[0], tmp_path / "gone.png", "--model", "cells", "--strict")[0] == 2


def test_the_external_validation_and_the_prevalence_reach_every_format(capsys, images, tmp_path):
    folder = shutil.copytree(CELL, tmp_path / "stating")
    record = json.loads((folder / "metrics.json").read_text())
    write_json(folder / "metrics.json", record | {"calibration": {"prevalence": 0.68}})
    expected = Classifier.from_pretrained(folder).predict(images, prevalence=0.1)
    given = (*images, "--model", folder, "--prevalence", 0.1)
    table = run(capsys, *given)[1]
    assert table.count(NOT_VALIDATED) == 1 and f"note: {NOT_VALIDATED}" in table.splitlines()  # not for each image
    assert "assumed prevalence 0.1" in table
    answers = json.loads(run(capsys, *given, "--format", "json")[1])
    assert [one["probabilities"] for one in answers] == [one.probabilities for one in expected]
    assert {(one["warnings"][0], one["prevalence"]) for one in answers} == {(NOT_VALIDATED, 0.1)}
    for row in csv.DictReader(io.StringIO(run(capsys, *given, "--format", "csv")[1])):
        assert (row["prevalence"], row["warnings"]) == ("0.1", NOT_VALIDATED)


def test_a_formula_inside_a_name_stays_inside_where_cells_are_parted_at_semicolons(
    capsys, images, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    name = "x;=1+cmd|' -C calc'!A0;.png"
    shutil.copy(images[0], tmp_path / name)
    _, out, _ = run(capsys, "--model", CELL, "--format", "csv", "--", name)
    _, row = csv.reader(io.StringIO(out), delimiter=";")
    assert row[0].startswith(name) and not any(part.startswith("=") for part in row)


def test_bad_images_get_a_line_each_and_the_good_ones_an_answer(capsys, images, tmp_path):
    bad = write_bad_files(tmp_path)
    code, out, err = run(capsys, images[0], *bad, images[1], "--model", CELL, "--format", "json")
    assert code == 2
    assert [answer["image"] for answer in json.loads(out)] == images[:2]
    lines = err.splitlines()
    assert len(lines) == len(bad)
    for line, (file, reason) in zip(lines, bad.items(), strict=True):
        assert file.name in line and reason in line


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nothing"], "There is no model 'nothing'"),
        (["--model", "/no/such/folder"], "There is no model '/no/such/folder'"),
        (["--model", CELL, "--sigma", "-1"], "a number from 0 to 100"),
        (["--model", CELL, "--sigma", "nan"], "a number from 0 to 100"),
        (["--model", CELL, "--seed", "-1"], "whole number"),
        (["--model", CELL, "--corruption", "jpeg"], f"one of {', '.join(KINDS)}"),
        (["--model", CELL, "--corruption", "fog:3"], f"one of {', '.join(KINDS)}"),
        (["--model", CELL, "--corruption", "jpeg:96"], "a number from 0 to 95"),
        (["--model", CELL, "--corruption", "gaussian_noise:3", "--sigma", "3"], "given twice"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_sentence(capsys, images, arguments, sentence):
    code, out, err = run(capsys, images[0], *arguments)
    assert (code, out) == (2, "")
    assert sentence in err and len(err.splitlines()) == 1


def test_the_default_is_the_first_bundled_single_cell_model(capsys, images, tmp_path, monkeypatch):
    monkeypatch.setenv("BLASTLENS_MODELS", str(tmp_path / "models"))
    code, _, err = run(capsys, images[0])
    assert code == 2 and "No single-cell model is bundled" in err
    shutil.copytree(shared_model_folder("field"), tmp_path / "models" / "a-field")
    shutil.copytree(shared_model_folder("cell"), tmp_path / "models" / "b-cell")
    code, out, _ = run(capsys, images[0])
    assert code == 0 and "Model b-cell" in out


def test_control_codes_in_a_file_name_do_not_reach_the_terminal(capsys, tmp_path):
    Image.fromarray(blobs(1)).save(tmp_path / "red\x1b[31m\nnext.png", "PNG")
    _, out, _ = run(capsys, tmp_path / "red\x1b[31m\nnext.png", tmp_path / "gone\x1b\n.png", "--model", CELL)
    assert "\x1b" not in out
    assert "red?[31m?next.png" in out


def test_a_reader_that_stops_early_causes_no_traceback(images):
    process = subprocess.Popen(
        [sys.executable, "-m", "blastlens", "classify", *images, "--model", CELL],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    errors = process.stderr.read()
    process.wait(timeout=60)
    assert errors == ""
