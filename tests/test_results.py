"""The record of a run: what is written is what is read, and other files are rejected."""

import dataclasses
import json

import numpy as np
import pytest
from helpers_results import made_up_result

from blastlens.errors import BlastlensError
from train.results import STEPS, Result, load_results


@pytest.mark.parametrize("labels", [("ALL", "HEM"), ("Benign", "Early", "Pre", "Pro")])
def test_a_record_comes_back_as_it_was_written(tmp_path, labels):
    result = made_up_result(n=37, sigmas=(0.0, 10.0), label_names=labels)
    path = result.write(tmp_path)
    assert path.relative_to(tmp_path).as_posix() == "mobilenet_m/group-kfold-3/imagenet-seed0-fold1.json"
    # Older records also have loss curves.
    path.write_text(json.dumps(json.loads(path.read_text()) | {"curves": [{"epoch": 1, "loss": 0.7}]}))
    (back,) = load_results(tmp_path)
    for field in dataclasses.fields(Result):
        ours, theirs = getattr(result, field.name), getattr(back, field.name)
        if field.name == "probabilities":
            np.testing.assert_allclose(theirs, ours, atol=3 / STEPS)
        else:
            np.testing.assert_array_equal(theirs, ours)
    assert not list(tmp_path.rglob("*.part*"))


def test_scratch_and_transferred_runs_have_files_of_their_own(tmp_path):
    result = made_up_result()
    scratch = dataclasses.replace(result, initial_weights="random")
    assert result.write(tmp_path) != scratch.write(tmp_path)
    assert {r.initialisation for r in load_results(tmp_path)} == {"imagenet", "scratch"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 0}, "schema"),
        ({"surprise": 1}, "surprise"),
        ({"sigmas": [0, 1, 2, 3]}, "do not fit together"),
        ({"label": {"shape": [5], "uint16": "x"}}, "is not a recorded run"),
        (None, "is not a recorded run"),
    ],
)
def test_a_file_that_is_no_record_is_rejected(tmp_path, change, reason):
    path = made_up_result().write(tmp_path)
    text = path.read_text()
    path.write_text(json.dumps(json.loads(text) | change) if change else text[:200])
    with pytest.raises(BlastlensError, match=reason):
        Result.read(path)
