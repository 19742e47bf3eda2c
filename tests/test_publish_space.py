"""`hub_upload.py space`: the files of a Space, made from pins and pinned models; it installs, starts and answers."""

import ast
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from gradio_client import Client, handle_file
from helpers_machine import lacking
from helpers_models import blobs, shared_model_folder
from PIL import Image

import hub_upload
from blastlens import Classifier
from blastlens.errors import BlastlensError
from publish import space
from publish.project import files_in

ROOT = Path(__file__).resolve().parents[1]
# Imported inside functions, for model folders that have no ONNX file: a Space serves none of those.
ONLY_WITHOUT_ONNX = {"torch", "timm", "transformers", "safetensors"}


@pytest.fixture
def models(hub, monkeypatch) -> dict[str, str]:
    """Two models on the Hub, the first with a later commit on main: "owner/name@revision" -> commit."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    cells = hub.add_folder("someone/cells", shared_model_folder("cell"))
    hub.commit("someone/cells", {"metrics.json": b"{}"})
    fields = hub.add_folder("someone/fields", shared_model_folder("field"))
    return {f"someone/cells@{cells}": cells, "someone/fields": fields}


@pytest.fixture
def files(models) -> dict[str, bytes]:
    return {file.path: file.read() for file in space.upload_of("someone/demo", list(models)).files}


def front_matter(files) -> dict:
    return yaml.safe_load(files["README.md"].decode().split("---")[1])


def test_the_front_matter_comes_from_the_pins_and_names_each_model_at_its_commit(files, models):
    front = front_matter(files)
    cells, fields = models.values()
    assert front["sdk"] == "gradio" and front["sdk_version"] == space.pin_of("gradio")
    assert front["python_version"] == "3.12" and front["app_file"] == "app.py"
    assert front["models"] == ["someone/cells", "someone/fields"]
    names = "config.json,gate.json" if "models/cells/gate.json" in files else "config.json"
    assert [line.split()[::2] for line in front["preload_from_hub"]] == [
        ["someone/cells", cells],
        ["someone/fields", fields],
    ]
    assert front["preload_from_hub"][0].split()[1].startswith(names)
    assert len(front["short_description"]) <= 60 and front["license"] == "apache-2.0"


def test_what_is_preloaded_is_what_the_copy_holds(files):
    for line in front_matter(files)["preload_from_hub"]:
        repo_id, names, _ = line.split()
        copy = f"models/{repo_id.rpartition('/')[2]}/"
        assert {copy + name for name in names.split(",")} == {path for path in files if path.startswith(copy)}


def test_the_copy_is_of_the_named_revision_and_not_of_main(files, hub, models):
    there = hub.files("someone/cells", next(iter(models.values())))
    assert files["models/cells/metrics.json"] == there["metrics.json"] != hub.files("someone/cells")["metrics.json"]
    assert json.loads(files["space.json"])["models"][0] == {
        "repo_id": "someone/cells",
        "revision": next(iter(models.values())),
        "copy": "models/cells",
    }


def test_it_has_the_pages_files_and_nothing_of_training(files):
    assert {"app.py", "requirements.txt", "space.json", "LICENSE", "results/comparison.json"} <= set(files)
    package = {p.relative_to(ROOT).as_posix() for p in (ROOT / "blastlens").rglob("*") if p.is_file()}
    commands = {
        path for path in package if path.startswith(("blastlens/__main__", "blastlens/cli", "blastlens/batch_scoring/"))
    }
    assert len(commands) > 5  # scoring a folder is for a command line, which a Space has not
    there = {path for path in package - commands if "__pycache__" not in path}
    assert there == {path for path in files if path.startswith("blastlens/")}
    assert not [p for p in files if p.split("/")[0] in ("train", "tests", "publish", "benchmarks", ".ci")]
    assert not [path for path in files if path.endswith((".safetensors", ".bin", ".pyc"))]


def test_its_requirements_are_exact_and_are_all_that_the_page_imports(files):
    lines = [line.partition("#")[0].strip() for line in files["requirements.txt"].decode().splitlines()]
    pinned = {line.partition("==")[0] for line in lines if line}
    assert all("==" in line for line in lines if line)
    assert not pinned & {"torch", "timm", "transformers", "datasets"}
    imported = set()
    for path in files:
        if path.endswith(".py"):
            for node in ast.walk(ast.parse(files[path])):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    imported.add(node.module.partition(".")[0])
    # The host of a Space brings `spaces`.
    outside = imported - set(sys.stdlib_module_names) - {"blastlens", "spaces"} - ONLY_WITHOUT_ONNX
    assert outside <= {{"pillow": "PIL"}.get(name, name.replace("-", "_")) for name in pinned}


def test_the_same_models_make_the_same_files(files, models):
    assert {file.path: file.read() for file in space.upload_of("someone/demo", list(models)).files} == files


def test_it_holds_no_more_where_others_have_filled_the_cache(hub, models, files):
    hub.commit("someone/fields", {"pytorch_model.bin": b"x", "handler.py": b"x"})
    from huggingface_hub import snapshot_download

    newest = hub.commits("someone/fields")[0].oid
    snapshot_download("someone/fields", revision=newest)
    paths = {file.path for file in space.upload_of("someone/demo", [f"someone/fields@{newest}"]).files}
    assert {p for p in paths if p.startswith("models/")} == {p for p in files if p.startswith("models/fields/")}


def test_a_private_model_is_not_shown_in_a_public_space(hub, models, capfd):
    hub.add_repo("someone/secret", hub.files("someone/fields"), private=True)
    assert hub_upload.main(["space", "--repo-id", "someone/demo", "--models", "someone/secret"]) == 2
    assert "someone/secret is private" in capfd.readouterr().err
    assert not hub.exists("someone/demo", "space")


def test_what_is_not_committed_here_stays_here(tmp_path):
    (tmp_path / "part" / ".hidden").mkdir(parents=True)
    for name in ("kept.py", "not_committed.py", ".hidden/x.py"):
        (tmp_path / "part" / name).write_text("")
    assert list(files_in("part", tmp_path)) == ["part/kept.py", "part/not_committed.py"]  # no checkout: all but hidden
    git = ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "part/kept.py"], check=True)
    assert list(files_in("part", tmp_path)) == ["part/kept.py"]
    (tmp_path / "part" / "link.json").symlink_to("/etc/hostname")
    subprocess.run([*git, "add", "part/link.json"], check=True)
    with pytest.raises(BlastlensError, match=r"part/link.json is a link"):
        files_in("part", tmp_path)


def test_the_page_that_is_tried_out_knows_no_token(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, "secret")
    environment = space._environment(tmp_path, 1)
    assert "secret" not in environment.values()
    assert environment["HF_HOME"].startswith(str(tmp_path)) and environment["HOME"] == str(tmp_path)


def test_another_records_words_cannot_become_markup(hub, models):
    (only,) = [space.pinned("someone/fields")]
    odd = only.folder.metrics | {"headline": {"protocol": "x |\n# FDA approved <img src=y>", "weighted_f1": [1]}}
    row = space._row(dataclasses.replace(only, folder=dataclasses.replace(only.folder, metrics=odd)))
    assert row.endswith("| not measured | x  FDA approved img srcy |")


def test_an_at_sign_without_a_revision_is_named(hub, models):
    with pytest.raises(BlastlensError, match="names no revision"):
        space.pinned("someone/fields@")


def test_two_models_of_one_name_are_refused(hub, models):
    hub.add_folder("other/cells", shared_model_folder("cell"))
    with pytest.raises(BlastlensError, match="Two models are called cells"):
        space.upload_of("someone/demo", ["someone/cells", "other/cells"])


def test_a_model_that_needs_pytorch_is_refused(hub, models):
    folder = shared_model_folder("cell")
    hub.add_repo("someone/plain", {p.name: p for p in folder.iterdir() if p.is_file()})
    with pytest.raises(BlastlensError, match="serves ONNX files only"):
        space.upload_of("someone/demo", ["someone/plain"])


@pytest.mark.parametrize("named, sentence", [([], "at least one model"), (["someone/nothing"], "someone/nothing")])
def test_models_that_are_not_there_are_named(hub, models, named, sentence):
    with pytest.raises(BlastlensError, match=sentence):
        space.upload_of("someone/demo", named)


def test_a_page_that_does_not_start_is_not_uploaded(models, monkeypatch):
    upload = space.upload_of("someone/demo", list(models))
    broken = [file for file in upload.files if file.path != "blastlens/errors.py"]
    with pytest.raises(BlastlensError, match=r"does not start \(ModuleNotFoundError.*blastlens.errors"):
        space.try_out(broken)


@pytest.mark.slow
def test_the_command_tries_it_out_uploads_it_and_the_second_time_changes_nothing(hub, models, capfd):
    arguments = ["space", "--repo-id", "someone/demo", "--models", *models]
    assert hub_upload.main(arguments) == 0
    told = capfd.readouterr().out
    assert "its API gives the answers of 2 models" in told and "fetched back" in told
    first = hub.commits("someone/demo", kind="space")
    assert hub.files("someone/demo", kind="space").keys() == {
        f.path for f in space.upload_of("a/b", list(models)).files
    }
    assert hub_upload.main(arguments) == 0
    assert hub.commits("someone/demo", kind="space") == first and "no new commit" in capfd.readouterr().out


@contextmanager
def started(python: Path, folder: Path, environment: dict[str, str]):
    """The Space as a host starts it: its front matter's entry point, in its own environment. Gives its address."""
    entry = yaml.safe_load((folder / "README.md").read_text().split("---")[1])["app_file"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kept = {key: value for key, value in environment.items() if not key.startswith(("BLASTLENS_", "PYTHON", "VIRTUAL"))}
    kept |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_ANALYTICS_ENABLED": "False"}
    with (folder.parent / "log").open("w") as log:
        process = subprocess.Popen([python, entry], cwd=folder, env=kept, stdout=log, stderr=log)
    try:
        for _ in range(600):
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, (folder.parent / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.mark.slow
def test_a_fresh_environment_made_from_it_starts_it_and_it_answers_with_and_without_the_hub(hub, models, tmp_path):
    assert hub_upload.main(["space", "--repo-id", "someone/demo", "--models", *models]) == 0
    folder = tmp_path / "space"
    for path, content in hub.files("someone/demo", kind="space").items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    python = fresh_environment(tmp_path / "environment", folder / "requirements.txt")
    lacks = subprocess.run([python, "-c", "import torch"], capture_output=True, text=True)
    assert "ModuleNotFoundError" in lacks.stderr
    image = tmp_path / "cell.png"
    Image.fromarray(blobs(0)).save(image)
    expected = Classifier.from_pretrained(shared_model_folder("cell")).predict(image, sigma=10)

    def answers(address):
        client = Client(address, verbose=False)
        answer = client.predict(handle_file(str(image)), "someone/cells", 10, 0, api_name="/classify")
        assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
        assert (answer["model_id"], answer["revision"]) == ("someone/cells", next(iter(models.values())))
        return client.predict(api_name="/list_models")["models"]

    environment = hub.environment(tmp_path / "home")
    asked = len(hub.requests)
    with started(python, folder, environment) as address:
        offered = answers(address)
        assert [model["model_id"] for model in offered] == ["someone/cells", "someone/fields"]
        assert not any(model["warnings"] for model in offered)
    assert any("someone/cells/resolve" in request.path for request in hub.requests[asked:])
    # What was fetched is in its cache now, and a pinned commit needs no Hub any more.
    hub.close()
    with started(python, folder, environment) as address:
        assert not any(model["warnings"] for model in answers(address))
    # Without a cache and without a Hub it serves its copies, and says so.
    with started(python, folder, environment | {"HF_HOME": str(tmp_path / "another home")}) as address:
        assert all("copy" in " ".join(model["warnings"]) for model in answers(address))


def fresh_environment(folder: Path, requirements: Path) -> Path:
    """A virtual environment with nothing but what the Space names; its Python."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", *(["--without-pip"] if uv else []), folder], check=True)
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    done = subprocess.run([*pip, "-q", "-r", requirements], capture_output=True, text=True)
    if done.returncode:
        lacking(f"no package index to install from: {done.stderr[-300:]}", "BLASTLENS_REQUIRE_BROWSER")
    return python
