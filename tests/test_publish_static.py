"""`hub_upload.py space --static`: the files of the page, complete and pinned; tried out, and published or written."""

import functools
import gzip
import hashlib
import json
import os
import shutil
import stat
from pathlib import Path

import pytest
import yaml
from helpers_models import make_model_folder, shared_model_folder, write_record
from helpers_static import npm_package

import hub_upload
from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder
from publish import static_page, static_tryout
from publish.project import ROOT

DRAWN = functools.cache(static_page.drawn_examples)
STATIC = ROOT / "static"
STAND_INS = {  # for onnxruntime-web, where nothing runs
    "vendor/ort.wasm.bundle.min.mjs": b"// script",
    "vendor/ort-wasm-simd-threaded.wasm.gz": b"\x1f\x8b wasm",
    "vendor/LICENSE.txt": b"MIT",
}


@pytest.fixture
def no_runtime(monkeypatch):
    """A page whose onnxruntime-web is a stand-in, for tests that run nothing: no npm is needed."""
    monkeypatch.setattr(static_page, "runtime_files", lambda vendor=None, root=ROOT: STAND_INS)
    monkeypatch.setattr(static_page, "drawn_examples", DRAWN)


@pytest.fixture(scope="module")
def runtime(pytestconfig) -> dict[str, bytes]:
    return static_page.runtime_files(npm_package(pytestconfig))


@pytest.fixture
def whole(monkeypatch, runtime):
    """A page with the real onnxruntime-web, compressed once for all tests."""
    monkeypatch.setattr(static_page, "runtime_files", lambda vendor=None, root=ROOT: runtime)
    monkeypatch.setattr(static_page, "drawn_examples", DRAWN)


@pytest.fixture
def models(hub, monkeypatch) -> dict[str, str]:
    """Two models on the Hub: "owner/name@revision" -> commit."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    cells = hub.add_folder("someone/cells", shared_model_folder("cell"))
    fields = hub.add_folder("someone/fields", shared_model_folder("field"))
    return {f"someone/cells@{cells}": cells, "someone/fields": fields}


def built(*folders: Path) -> dict[str, bytes]:
    return static_page.page([ModelFolder.load(folder) for folder in folders])


# The files


def test_the_page_is_what_index_refers_to_its_runtime_models_and_examples(no_runtime):
    files = built(shared_model_folder("cell"), shared_model_folder("field"))
    own = {path.name for path in STATIC.iterdir()} - {
        "package.json",
        "package-lock.json",
        "vendor.json",
        "vendor-LICENSE.txt",
    }
    outside = {path for path in files if "/" not in path}
    assert outside == own | {"settings.js", "models.json"}
    assert {path for path in files if path.startswith("vendor/")} == set(STAND_INS)
    names = {path.partition("/")[2] for path in files if path.startswith("models/")}
    assert {name.partition("/")[0] for name in names} == {"tiny-cell", "tiny-field"}
    assert "tiny-cell/onnx/model_int8.onnx" in names and "tiny-cell/preprocessor_config.json" in names
    assert not [name for name in names if name.endswith(("model.onnx", "model.safetensors"))]
    assert len([path for path in files if path.startswith("examples/drawn-")]) == 6 + 4


def test_the_index_of_models_has_every_file_with_its_size(no_runtime):
    files = built(shared_model_folder("cell"), shared_model_folder("field"))
    record = json.loads(files["models.json"])
    for row in record["models"]:
        inside = {path: len(data) for path, data in files.items() if path.startswith(f"models/{row['name']}/")}
        assert {f"models/{row['name']}/{path}": size for path, size in row["files"].items()} == inside
    assert {example["file"] for drawn in record["examples"].values() for example in drawn} <= set(files)
    assert list(record["examples"]) == ["ALL,HEM", "Benign,Early,Pre,Pro"]


def test_records_are_cut_to_what_the_page_reads(no_runtime, tmp_path):
    folder = write_record(make_model_folder(tmp_path / "cells"), "cell")
    whole = json.loads((folder / "metrics.json").read_text())
    part = json.loads(built(folder)["models/cells/metrics.json"])
    assert set(part) == {"headline", "int8", "calibration"}
    assert part["headline"]["weighted_f1"] == whole["headline"]["weighted_f1"]
    sets = part["calibration"]["prediction_sets"]
    assert sets["thresholds"] == whole["calibration"]["prediction_sets"]["thresholds"] and sets["holds"] is True
    assert len(json.dumps(part)) < len(json.dumps(whole)) / 20


def test_a_record_of_another_form_is_no_obstacle():
    assert static_page.cut(
        {"headline": "good", "int8": None, "calibration": {"prediction_sets": []}}, static_page.METRICS
    ) == {
        "headline": None,
        "calibration": {"prediction_sets": None},
    }


def test_the_settings_module_holds_json():
    text = static_page.settings()
    values = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert values["maxPixels"] == 50_000_000 and len(values["statistics"]) == 13 and len(values["sigmas"]) == 14


def test_the_policy_names_only_the_page_itself_and_on_the_hub_also_its_storage(no_runtime):
    plain = (STATIC / "index.html").read_text()
    folder = ModelFolder.load(shared_model_folder("cell"))
    assert static_page.page([folder])["index.html"].decode() == plain
    assert "http" not in plain.partition("Content-Security-Policy")[2].partition(">")[0]
    on_hub = static_page.page([folder], on_hub=True)["index.html"].decode()
    assert on_hub.replace(f" {static_page.HUB_STORAGE}", "") == plain and "https://*.hf.co" in on_hub


def test_no_source_names_another_host_to_fetch_from():
    for path in STATIC.glob("*.js"):
        assert "http://" not in path.read_text().replace("http://www.w3.org/2000/svg", ""), path
        assert "https://" not in path.read_text(), path


def test_a_reference_to_nothing_is_named(tmp_path):
    shutil.copytree(STATIC, tmp_path / "static")
    (tmp_path / "static/noise.js").unlink()
    with pytest.raises(BlastlensError, match=r"\w+\.js refers to noise.js, which static/ does not have"):
        static_page.sources({"settings.js": b"", **STAND_INS}, tmp_path)


# onnxruntime-web


def test_the_lock_pins_every_package_by_its_content_and_names_no_registry():
    manifest, lock, pins = (
        json.loads((STATIC / name).read_text()) for name in ("package.json", "package-lock.json", "vendor.json")
    )
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert all(entry["integrity"].startswith("sha512-") and "resolved" not in entry for entry in packages.values())
    version = packages["node_modules/onnxruntime-web"]["version"]
    assert manifest["dependencies"] == {"onnxruntime-web": version} and pins["version"] == version


def test_the_runtime_is_the_pinned_one(runtime):
    pins = json.loads((STATIC / "vendor.json").read_text())["sha256"]
    script, wasm, licence = (runtime[path] for path in STAND_INS)
    assert hashlib.sha256(script).hexdigest() == pins["dist/ort.wasm.bundle.min.mjs"]
    assert hashlib.sha256(gzip.decompress(wasm)).hexdigest() == pins["dist/ort-wasm-simd-threaded.wasm"]
    assert b"MIT License" in licence and b"Microsoft" in licence


def test_a_runtime_that_was_changed_is_refused(pytestconfig, tmp_path):
    copy = tmp_path / "package"
    shutil.copytree(npm_package(pytestconfig), copy)
    with (copy / static_page.VENDOR[0]).open("ab") as file:
        file.write(b"//")
    with pytest.raises(BlastlensError, match=r"is not that of onnxruntime-web [\d.]+ \(its SHA-256 differs\)"):
        static_page.runtime_files(copy)
    with pytest.raises(BlastlensError, match=r"has no dist/ort.wasm.bundle.min.mjs; give --vendor the folder"):
        static_page.runtime_files(tmp_path)


def fake_npm(folder: Path, script: str, monkeypatch) -> None:
    npm = folder / "npm"
    npm.write_text(f"#!/bin/sh\n{script}\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.defpath}")


@pytest.mark.parametrize(
    "script, sentence",
    [
        ("echo 'npm error code EINTEGRITY' >&2; exit 1", "What npm delivers is not what static/package-lock.json pins"),
        ("echo 'npm error network ENOTFOUND' >&2; exit 1", r"cannot fetch onnxruntime-web \(network ENOTFOUND\)"),
        ("exit 7", r"cannot fetch onnxruntime-web \(exit code 7\)"),
    ],
)
def test_what_npm_refuses_is_one_sentence(tmp_path, monkeypatch, script, sentence):
    fake_npm(tmp_path, script, monkeypatch)
    with pytest.raises(BlastlensError, match=sentence):
        static_page.runtime_files()


def test_without_npm_the_other_way_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BlastlensError, match=r"There is no npm .* give --vendor a folder"):
        static_page.runtime_files()


# What is refused


def test_a_model_without_an_8_bit_file_is_refused(no_runtime, tmp_path):
    folder = tmp_path / "plain"
    shutil.copytree(shared_model_folder("cell"), folder)
    (folder / "onnx/model_int8.onnx").unlink()
    with pytest.raises(BlastlensError, match=r"plain has no onnx/model_int8.onnx, which is what runs in a browser"):
        built(folder)


def test_two_models_of_one_name_are_refused(no_runtime, tmp_path):
    again = tmp_path / "tiny-cell"
    shutil.copytree(shared_model_folder("cell"), again)
    with pytest.raises(BlastlensError, match="Two models are called tiny-cell"):
        built(shared_model_folder("cell"), again)


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["--static"], "Where to publish is not said"),
        (["--repo-id", "a/b", "--to", "x"], "give --static, too"),
        (["--repo-id", "a/b", "--vendor", "x"], "give --static, too"),
        (["--static", "--to", "x", "--repo-id", "a/b"], "give one or the other"),
        (["--static", "--to", "x", "--private"], "give one or the other"),
        (["--static", "--repo-id", "a/b"], "at least one model"),
        (["--static", "--repo-id", "a/b", "--models", "models/some"], "serves models of the Hub"),
    ],
)
def test_flags_that_make_no_sense_are_refused(hub, monkeypatch, capfd, arguments, sentence):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert hub_upload.main(["space", *arguments]) == 2
    assert sentence in capfd.readouterr().err


def test_a_private_model_is_not_shown_in_a_public_page(hub, models, no_runtime, capfd):
    hub.add_repo("someone/secret", hub.files("someone/fields"), private=True)
    arguments = ["space", "--static", "--repo-id", "someone/page", "--models", "someone/secret"]
    assert hub_upload.main(arguments) == 2
    assert "someone/secret is private" in capfd.readouterr().err
    assert not hub.exists("someone/page", "space")


# Into a folder


@pytest.fixture
def quick(monkeypatch):
    """Nothing is tried out."""
    monkeypatch.setattr(static_tryout, "try_out", lambda files: "tried out")


def test_it_is_written_into_a_folder_and_again_in_place_of_the_former_page(
    no_runtime, quick, tmp_path, capfd, monkeypatch
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    target, cell, field = tmp_path / "page", *(str(shared_model_folder(kind)) for kind in ("cell", "field"))
    assert hub_upload.main(["space", "--static", "--to", str(target), "--models", cell, "--dry-run"]) == 0
    assert not target.exists() and "  + index.html" in capfd.readouterr().out
    assert hub_upload.main(["space", "--static", "--to", str(target), "--models", cell]) == 0
    assert "python -m http.server" in capfd.readouterr().out
    assert (target / "models/tiny-cell/onnx/model_int8.onnx").is_file() and not (target / "README.md").exists()
    assert hub_upload.main(["space", "--static", "--to", str(target), "--models", field]) == 0
    assert [path.name for path in (target / "models").iterdir()] == ["tiny-field"]


def test_a_folder_with_something_else_is_left_alone(no_runtime, quick, tmp_path, capfd):
    (tmp_path / "thesis.tex").write_text("years of work")
    arguments = ["space", "--static", "--to", str(tmp_path), "--models", str(shared_model_folder("cell"))]
    assert hub_upload.main(arguments) == 2
    assert "holds something else" in capfd.readouterr().err and len(list(tmp_path.iterdir())) == 1
    assert hub_upload.main([*arguments, "--overwrite"]) == 0
    assert (tmp_path / "thesis.tex").read_text() == "years of work" and (tmp_path / "index.html").is_file()


def test_a_file_in_place_of_the_folder_is_named(tmp_path, capfd):
    (tmp_path / "file").write_text("")
    assert hub_upload.main(["space", "--static", "--to", str(tmp_path / "file")]) == 2
    assert "is a file; give a folder" in capfd.readouterr().err


# Tried out and published


@pytest.mark.slow
def test_it_is_tried_out_by_the_pages_own_modules_whatever_the_model_is_called(whole, tmp_path):
    folder = tmp_path / "50% of cells #2"
    shutil.copytree(shared_model_folder("cell"), folder)
    told = static_tryout.try_out(static_page.sorted_files(built(folder)))
    assert "gives the answers of 1 model" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, old, new, sentence",
    [
        ("noise.js", "0x931e8875", "0x931e8877", "other pixels"),
        ("view.js", "Math.fround(value * scale) - shift", "Math.fround(value * scale)", "answers otherwise"),
        ("model.js", "export class Model", "export klass Model", "modules do not run .*SyntaxError"),
    ],
)
def test_a_page_that_answers_otherwise_is_refused(whole, path, old, new, sentence):
    files = built(shared_model_folder("cell"))
    text = files[path].decode()
    assert old in text
    files[path] = text.replace(old, new).encode()
    with pytest.raises(BlastlensError, match=sentence):
        static_tryout.try_out(static_page.sorted_files(files))


def test_a_dry_run_makes_nothing(hub, models, no_runtime, quick, capfd):
    assert hub_upload.main(["space", "--static", "--repo-id", "someone/page", "--models", *models, "--dry-run"]) == 0
    assert "space someone/page: new, public" in capfd.readouterr().out
    assert not hub.exists("someone/page", "space")


def test_the_static_space_is_made_without_hardware_and_the_second_time_nothing_changes(
    hub, models, whole, capfd, monkeypatch
):
    arguments = ["space", "--static", "--repo-id", "someone/page", "--models", *models]
    assert hub_upload.main(arguments) == 0
    told = capfd.readouterr().out
    assert "gives the answers of 2 models" in told and "fetched back" in told
    files = hub.files("someone/page", kind="space")
    front = yaml.safe_load(files["README.md"].decode().split("---")[1])
    assert (front["sdk"], front["app_file"]) == ("static", "index.html")
    assert front["models"] == ["someone/cells", "someone/fields"] and "sdk_version" not in front
    rows = json.loads(files["models.json"])["models"]
    assert [(row["repo_id"], row["revision"]) for row in rows] == [
        ("someone/cells", next(iter(models.values()))),
        ("someone/fields", list(models.values())[1]),
    ]
    assert rows[0]["card"].endswith(f"someone/cells/blob/{rows[0]['revision']}/README.md")
    first = hub.commits("someone/page", kind="space")
    made = hub.files("someone/page", first[-1].oid, kind="space")["README.md"].decode()
    assert yaml.safe_load(made.split("---")[1])["sdk"] == "static"  # as it was asked for
    monkeypatch.setattr(static_tryout, "try_out", lambda files: "tried out before")
    assert hub_upload.main(arguments) == 0
    assert hub.commits("someone/page", kind="space") == first and "no new commit" in capfd.readouterr().out
