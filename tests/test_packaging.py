"""The package is built, installed into an empty environment and used outside of the checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_models import blobs, shared_model_folder
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
UV = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
CODE = """
from blastlens import Classifier
prediction = Classifier.from_pretrained({model!r}).predict("cell.png")
print(prediction.label, prediction.probabilities)
"""


def run(*command, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=cwd, env=kept | environment)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.long
def test_the_package_works_outside_of_the_checkout(tmp_path):
    assert UV, "uv is needed, as in the Makefile"
    source = tmp_path / "source"
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in files.splitlines():
        if name.startswith("blastlens/") or name in ("pyproject.toml", "README.md", "LICENSE"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    code, said = run(UV, "build", "--out-dir", tmp_path / "dist", source, cwd=tmp_path)
    assert code == 0, said
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert len(list((tmp_path / "dist").glob("*.tar.gz"))) == 1
    assert run(UV, "venv", "--python", sys.executable, tmp_path / "env", cwd=tmp_path)[0] == 0
    python = tmp_path / "env/bin/python"
    pins = ("--constraint", ROOT / "requirements.txt")
    code, said = run(UV, "pip", "install", "--python", python, f"{wheel}[bulk]", *pins, cwd=tmp_path)
    assert code == 0, said
    Image.fromarray(blobs(1)).save(tmp_path / "cell.png")
    model = str(shared_model_folder("cell"))
    code, said = run(python, "-c", CODE.format(model=model), cwd=tmp_path)
    assert code == 0 and "ALL" in said, said
    command = tmp_path / "env/bin/blastlens"
    code, said = run(command, "classify", "cell.png", "--model", model, cwd=tmp_path)
    assert code == 0 and "cell.png" in said, said
    code, said = run(command, "score", "cell.png", "--model", model, "--out", "scores.parquet", cwd=tmp_path)
    assert code == 0 and (tmp_path / "scores.parquet").is_file(), said
    code, said = run(command, "classify", "cell.png", cwd=tmp_path)
    assert code == 2 and "BLASTLENS_MODELS" in said
