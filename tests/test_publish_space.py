"""`hub_upload.py space`: a Space generated from pins and pinned models, that installs, starts and predicts."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gradio
import pytest
import yaml
from gradio_client import Client, handle_file
from helpers_machine import lacking
from helpers_models import blobs, shared_model_folder
from huggingface_hub import snapshot_download
from PIL import Image

import hub_upload
from blastlens import Classifier
from blastlens.errors import BlastlensError
from publish import space

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def models(hub, monkeypatch) -> dict[str, str]:
    """Two models on the Hub, the first with a later commit on main: "owner/name@revision" -> commit."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    cells = hub.add_folder("owner/cells", shared_model_folder("cell"))
    hub.commit("owner/cells", {"metrics.json": b"{}"})
    return {f"owner/cells@{cells}": cells, "owner/fields": hub.add_folder("owner/fields", shared_model_folder("field"))}


def made_of(names) -> dict[str, bytes]:
    return space.space_files(space.pinned_models(list(names)))


def front_matter(files) -> dict:
    return yaml.safe_load(files["README.md"].decode().split("---")[1])


def test_the_front_matter_names_each_model_at_its_commit_and_preloads_what_the_copy_holds(models):
    files = made_of(models)
    front = front_matter(files)
    assert front["sdk"] == "gradio" and front["sdk_version"] == gradio.__version__
    assert front["python_version"] == "3.12" and front["app_file"] == "app.py"
    assert front["models"] == ["owner/cells", "owner/fields"] and len(front["short_description"]) <= 60
    for line, commit in zip(front["preload_from_hub"], models.values(), strict=True):
        repo_id, names, revision = line.split()
        copy = f"models/{repo_id.rpartition('/')[2]}/"
        assert revision == commit
        assert {copy + name for name in names.split(",")} == {path for path in files if path.startswith(copy)}
    assert made_of(models) == files


def test_the_copy_is_of_the_pinned_revision_and_not_of_main(hub, models):
    files = made_of(models)
    commit = next(iter(models.values()))
    assert files["models/cells/metrics.json"] == hub.files("owner/cells", commit)["metrics.json"]
    row = {"repo_id": "owner/cells", "revision": commit, "copy": "models/cells"}
    assert json.loads(files["space.json"])["models"][0] == row


def test_it_holds_the_page_and_nothing_for_training_or_the_command_line(models):
    files = made_of(models)
    assert {"app.py", "requirements.txt", "space.json", "LICENSE", "results/comparison.json"} <= set(files)
    package = space.project_files("blastlens")
    left_out = {path for path in package if path.startswith(space.COMMAND_LINE)}
    assert {path for path in files if path.startswith("blastlens/")} == set(package) - left_out
    assert {path.partition("/")[0] for path in files if "/" in path} == {"blastlens", "models", "results"}
    assert not [path for path in files if path.endswith((".safetensors", ".bin", ".pyc"))]


def test_its_requirements_are_pinned_and_without_pytorch(models):
    lines = [line.partition("#")[0].strip() for line in made_of(models)["requirements.txt"].decode().splitlines()]
    pinned = {line.partition("==")[0] for line in lines if line}
    assert all("==" in line for line in lines if line) and {"gradio", "onnxruntime"} <= pinned
    assert not pinned & {"torch", "timm", "transformers", "datasets"}


def test_other_files_in_the_cache_are_left_out(hub, models):
    newest = hub.commit("owner/fields", {"pytorch_model.bin": b"x", "handler.py": b"x"})
    snapshot_download("owner/fields", revision=newest)
    copies = [{p for p in made_of([name]) if p.startswith("models/")} for name in (f"owner/fields@{newest}", *models)]
    assert copies[0] == copies[2]


def test_only_committed_files_are_published(tmp_path):
    (tmp_path / "part" / ".hidden").mkdir(parents=True)
    for name in ("kept.py", "not_committed.py", ".hidden/x.py"):
        (tmp_path / "part" / name).write_text("")
    assert list(space.project_files("part", tmp_path)) == ["part/kept.py", "part/not_committed.py"]  # without git
    git = ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "part/kept.py"], check=True)
    assert list(space.project_files("part", tmp_path)) == ["part/kept.py"]
    (tmp_path / "part" / "link.json").symlink_to("/etc/hostname")
    subprocess.run([*git, "add", "part/link.json"], check=True)
    with pytest.raises(BlastlensError, match=r"part/link.json is a link"):
        space.project_files("part", tmp_path)


def test_the_page_that_is_tried_out_has_no_token(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN_PATH"):
        monkeypatch.setenv(name, "secret")
    environment = space._environment(tmp_path)
    assert "secret" not in environment.values()
    assert environment["HF_HOME"].startswith(str(tmp_path)) and environment["HOME"] == str(tmp_path)


def test_text_in_metrics_cannot_become_markup(models):
    (only,) = space.pinned_models(["owner/fields"])
    odd = only.metrics | {"headline": {"protocol": "x |\n# FDA approved <img src=y>", "weighted_f1": [1]}}
    row = space.model_row(dataclasses.replace(only, metrics=odd))
    assert row.endswith("| not measured | x  FDA approved img srcy |")


@pytest.mark.parametrize(
    "names, message",
    [
        ([], "at least one model"),
        (["owner/nothing"], "owner/nothing"),
        (["owner/fields@"], "is not a model of the Hub"),
        (["models/some"], "is not a model of the Hub"),
        (["owner/cells", "other/cells"], "Two models are called cells"),
        (["owner/plain"], "serves ONNX files only"),
    ],
)
def test_models_that_cannot_be_served_are_named(hub, models, names, message):
    hub.add_folder("other/cells", shared_model_folder("cell"))
    hub.add_repo("owner/plain", {p.name: p for p in shared_model_folder("cell").iterdir() if p.is_file()})
    with pytest.raises(BlastlensError, match=message):
        space.pinned_models(names)


@pytest.mark.parametrize("command", ["space", "static-page"])
def test_a_private_model_is_not_published_in_a_public_space(hub, models, capfd, command, monkeypatch):
    monkeypatch.setattr("publish.static_page.runtime_files", lambda package: {"vendor/x": b""})
    hub.add_repo("owner/secret", hub.files("owner/fields"), private=True)
    assert hub_upload.main([command, "--repo-id", "owner/demo", "--models", "owner/secret"]) == 2
    assert "owner/secret is private" in capfd.readouterr().err and not hub.exists("owner/demo", "space")


def test_a_page_that_does_not_start_is_not_published(models):
    files = made_of(models)
    del files["blastlens/errors.py"]
    with pytest.raises(BlastlensError, match=r"does not start \(ModuleNotFoundError.*blastlens.errors"):
        space.try_out(files)


@pytest.mark.slow
def test_the_space_is_tried_out_published_and_the_second_time_nothing_changes(hub, models, capfd):
    arguments = ["space", "--repo-id", "owner/demo", "--models", *models]
    assert hub_upload.main(arguments) == 0
    output = capfd.readouterr().out
    assert "the API predicts as its 2 models do, loaded from the Hub" in output and "identical byte by byte" in output
    first = hub.commits("owner/demo", kind="space")
    assert hub_upload.main(arguments) == 0
    assert hub.commits("owner/demo", kind="space") == first and "no new commit" in capfd.readouterr().out


@pytest.mark.long
def test_a_fresh_environment_starts_it_and_it_predicts_with_and_without_the_hub(hub, models, tmp_path, monkeypatch):
    folder = tmp_path / "space"
    space.write(made_of(models), folder)
    python = fresh_environment(tmp_path / "environment", folder / "requirements.txt")
    assert (
        "ModuleNotFoundError" in subprocess.run([python, "-c", "import torch"], capture_output=True, text=True).stderr
    )
    monkeypatch.setattr(sys, "executable", str(python))
    image = tmp_path / "cell.png"
    Image.fromarray(blobs(0)).save(image)
    expected = Classifier.from_pretrained(shared_model_folder("cell")).predict(image, sigma=10)

    def warnings(home: Path) -> list[str]:
        home.mkdir(exist_ok=True)
        with space.running_app(folder, space._environment(home)) as (address, _):
            client = Client(address, verbose=False)
            answer = client.predict(handle_file(str(image)), "owner/cells", 10, 0, api_name="/classify")
            assert answer["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
            assert (answer["model_id"], answer["revision"]) == ("owner/cells", next(iter(models.values())))
            listed = client.predict(api_name="/list_models")["models"]
            assert [model["model_id"] for model in listed] == ["owner/cells", "owner/fields"]
            return [" ".join(model["warnings"]) for model in listed]

    assert warnings(tmp_path / "home") == ["", ""]
    assert any("owner/cells/resolve" in request.path for request in hub.requests)
    hub.close()
    assert warnings(tmp_path / "home") == ["", ""]  # pinned commits are in its cache
    assert all("copy" in text for text in warnings(tmp_path / "empty"))


def fresh_environment(folder: Path, requirements: Path) -> Path:
    """A virtual environment with nothing but what the Space requires; its Python."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    python = folder / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", *(["--without-pip"] if uv else []), folder], check=True)
    pip = [uv, "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    done = subprocess.run([*pip, "-q", "-r", requirements], capture_output=True, text=True)
    if done.returncode:
        lacking(f"no package index to install from: {done.stderr[-300:]}", "BLASTLENS_REQUIRE_BROWSER")
    return python
