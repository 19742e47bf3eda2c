"""Serving and training start without the modules and functions that only Unix has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Other libraries know which system they run on, so modules are hidden from this project's code only.
HIDDEN = """
import builtins, os, sys
whole = builtins.__import__
def import_some(name, globals=None, *rest, **more):
    importer = (globals or {}).get("__name__", "").partition(".")[0]
    if importer in ("blastlens", "train") and name in ("fcntl", "resource", "pwd", "grp", "termios"):
        raise ModuleNotFoundError(name)
    return whole(name, globals, *rest, **more)
builtins.__import__ = import_some
for name in ("sched_getaffinity", "posix_fallocate"):
    delattr(os, name)
"""
SERVING = """
from blastlens import Classifier, temp_files
from blastlens.cli import main
temp_files.claim()
sys.exit(main(["classify", "tests/golden/cell_all.png"]))
"""
PAGE = """
from blastlens import temp_files
temp_files.claim()
from blastlens.ui import build
build()
"""
TRAINING = """
sys.path.insert(0, "tests")
from pathlib import Path
from helpers_synthetic import drawn_dataset
from train import crossval, finetune, run, search, compare
from train.datasets import load_rows
from train.pixels import load_pixels
from train.recipe import Recipe, view_of
folder = Path(sys.argv[1])
drawn_dataset(folder / "data", ("ALL", "HEM"), per_group=1, groups_per_label=2, size=32)
rows = load_rows(folder / "data")
view = view_of(Recipe.load("tiny_cnmc2019"))
assert len(load_pixels(folder / "data", rows, view, folder)) == len(rows)
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [SERVING, PAGE, TRAINING], ids=["serving", "page", "training"])
def test_nothing_needs_a_unix_module(tmp_path, code):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(tmp_path)}
    command = [sys.executable, "-c", HIDDEN + code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
