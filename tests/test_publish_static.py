"""`hub_upload.py static-page`: its files, its runtime, the comparison with Python, and where it goes."""

import functools
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import yaml
from helpers_models import shared_model_folder
from helpers_static import runtime_package

import hub_upload
from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder
from publish import static_page
from publish.space import ROOT
from publish.static_check import check_page

STATIC = ROOT / "static"
EXAMPLES = functools.cache(static_page.synthetic_examples)
NO_RUNTIME = {"vendor/ort.wasm.bundle.min.mjs": b"// script", "vendor/LICENSE.txt": b"MIT"}


@pytest.fixture(autouse=True)
def examples_once(monkeypatch):
    monkeypatch.setattr(static_page, "synthetic_examples", EXAMPLES)


@pytest.fixture
def no_runtime(monkeypatch):
    """A page without onnxruntime-web, for tests that run nothing."""
    monkeypatch.setattr(static_page, "runtime_files", lambda package=None: NO_RUNTIME)
    monkeypatch.setattr(static_page, "check_page", lambda files, folders: "compared")


@pytest.fixture(scope="module")
def runtime(pytestconfig) -> dict[str, bytes]:
    return static_page.runtime_files(runtime_package(pytestconfig))


@pytest.fixture
def models(hub, monkeypatch) -> dict[str, str]:
    """Two models on the Hub: "owner/name@revision" -> commit."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    cells = hub.add_folder("owner/cells", shared_model_folder("cell"))
    return {f"owner/cells@{cells}": cells, "owner/fields": hub.add_folder("owner/fields", shared_model_folder("field"))}


def built(*folders: Path) -> dict[str, bytes]:
    return static_page.page_files([ModelFolder.load(folder) for folder in folders])


def test_the_page_is_its_sources_its_runtime_models_and_examples(no_runtime):
    files = built(shared_model_folder("cell"), shared_model_folder("field"))
    sources = {path.name for path in STATIC.iterdir()} - static_page.NOT_SERVED
    assert {path for path in files if "/" not in path} == sources | {"settings.js", "models.json"}
    models = {path for path in files if path.startswith("models/")}
    assert models == {f"models/tiny-{kind}/onnx/model_int8.onnx" for kind in ("cell", "field")}
    record = json.loads(files["models.json"])
    for row in record["models"]:
        assert row["files"] == {"onnx/model_int8.onnx": len(files[f"models/{row['name']}/onnx/model_int8.onnx"])}
    images = [image for images in record["examples"].values() for image in images]
    assert {image["file"] for image in images} == {path for path in files if path.startswith("examples/")}
    assert len(images) == 6 + 4 and list(record["examples"]) == ["ALL,HEM", "Benign,Early,Pre,Pro"]


def test_the_page_may_contact_only_its_own_server_and_on_the_hub_its_storage(no_runtime, models):
    html = (STATIC / "index.html").read_text()
    assert "http" not in html.partition("Content-Security-Policy")[2].partition(">")[0]
    on_hub = static_page.static_upload("owner/page", static_page.space.pinned_models(list(models))).files["index.html"]
    assert on_hub.decode().replace(f" {static_page.HUB_STORAGE}", "") == html
    for path in STATIC.glob("*.js"):
        text = path.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text and "https://" not in text, path


def test_the_runtime_is_the_pinned_one_and_a_changed_one_is_refused(runtime, pytestconfig, tmp_path):
    digests = json.loads((STATIC / "vendor.json").read_text())["sha256"]
    script = runtime["vendor/ort.wasm.bundle.min.mjs"]
    assert hashlib.sha256(script).hexdigest() == digests["dist/ort.wasm.bundle.min.mjs"]
    assert b"MIT License" in runtime["vendor/LICENSE.txt"]
    copy = shutil.copytree(runtime_package(pytestconfig), tmp_path / "package")
    with (copy / static_page.RUNTIME[0]).open("ab") as file:
        file.write(b"//")
    with pytest.raises(BlastlensError, match="SHA-256 differs"):
        static_page.runtime_files(copy)
    with pytest.raises(BlastlensError, match=r"has no dist/ort.wasm.bundle.min.mjs; give --package"):
        static_page.runtime_files(tmp_path)


@pytest.mark.parametrize(
    "script, message",
    [
        (None, r"There is no npm .* give --package a folder"),
        ("echo 'npm error network ENOTFOUND' >&2; exit 1", r"cannot download onnxruntime-web \(network ENOTFOUND\)"),
        ("exit 7", r"cannot download onnxruntime-web \(exit code 7\)"),
    ],
)
def test_a_failure_of_npm_is_one_sentence(tmp_path, monkeypatch, script, message):
    if script:
        (tmp_path / "npm").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "npm").chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin" if script else str(tmp_path))
    with pytest.raises(BlastlensError, match=message):
        static_page.runtime_files()


def test_models_without_an_int8_file_or_of_the_same_name_are_refused(no_runtime, tmp_path):
    same = shutil.copytree(shared_model_folder("cell"), tmp_path / "tiny-cell")
    with pytest.raises(BlastlensError, match="Two models are called tiny-cell"):
        built(shared_model_folder("cell"), same)
    (same / "onnx/model_int8.onnx").unlink()
    with pytest.raises(BlastlensError, match=r"tiny-cell has no onnx/model_int8.onnx"):
        built(same)


def test_it_is_written_into_a_folder_and_replaces_a_former_page(no_runtime, tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    target, cell, field = tmp_path / "page", *(str(shared_model_folder(kind)) for kind in ("cell", "field"))
    assert hub_upload.main(["static-page", "--to", str(target), "--models", cell, "--dry-run"]) == 0
    assert not target.exists()
    for folder in (cell, field):
        assert hub_upload.main(["static-page", "--to", str(target), "--models", folder]) == 0
    assert "python -m http.server" in capfd.readouterr().out
    assert [path.name for path in (target / "models").iterdir()] == ["tiny-field"] and not (
        target / "README.md"
    ).exists()


def test_a_folder_of_other_content_is_left_alone(no_runtime, tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("years of work")
    arguments = ["static-page", "--to", str(tmp_path), "--models", str(shared_model_folder("cell"))]
    assert hub_upload.main(arguments) == 2
    assert "holds something else" in capfd.readouterr().err and len(list(tmp_path.iterdir())) == 1
    assert hub_upload.main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "thesis.tex").read_text() == "years of work" and (tmp_path / "index.html").is_file()
    assert hub_upload.main(["static-page", "--to", str(tmp_path / "thesis.tex")]) == 2
    assert "is a file; give a folder" in capfd.readouterr().err


@pytest.mark.slow
def test_a_page_that_differs_from_python_is_refused(runtime, monkeypatch, tmp_path):
    monkeypatch.setattr(static_page, "runtime_files", lambda package=None: runtime)
    folder = ModelFolder.load(shutil.copytree(shared_model_folder("cell"), tmp_path / "50% of cells #2"))
    files = static_page.page_files([folder])
    folders = [folder]
    assert "gives the probabilities of 1 models" in check_page(files, folders)
    for path, old, new, message in [
        ("noise.js", "0x931e8875", "0x931e8877", "pixels for"),
        ("view.js", "Math.fround(value * scale) - shift", "Math.fround(value * scale)", "probabilities for"),
        ("model.js", "export class Model", "export klass Model", "modules do not run .*SyntaxError"),
    ]:
        assert old in files[path].decode()
        with pytest.raises(BlastlensError, match=message):
            check_page(files | {path: files[path].decode().replace(old, new).encode()}, folders)


@pytest.mark.slow
def test_the_static_space_is_published_without_hardware_and_the_second_time_nothing_changes(
    hub, models, no_runtime, capfd
):
    arguments = ["static-page", "--repo-id", "owner/page", "--models", *models]
    assert hub_upload.main([*arguments, "--dry-run"]) == 0 and not hub.exists("owner/page", "space")
    assert hub_upload.main(arguments) == 0
    output = capfd.readouterr().out
    assert "space owner/page: new, public" in output and "identical byte by byte" in output
    files = hub.files("owner/page", kind="space")
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (front["sdk"], front["app_file"]) == ("static", "index.html") and "sdk_version" not in front
    assert front["models"] == ["owner/cells", "owner/fields"]
    rows = json.loads(files["models.json"])["models"]
    assert [row["card"] for row in rows] == [
        f"https://huggingface.co/owner/{name}/blob/{commit}/README.md"
        for name, commit in zip(("cells", "fields"), models.values(), strict=True)
    ]
    first = hub.commits("owner/page", kind="space")
    assert hub_upload.main(arguments) == 0
    assert hub.commits("owner/page", kind="space") == first and "no new commit" in capfd.readouterr().out
