"""Privacy: uploads lie in a private folder and are deleted on schedule, and no request leaves the machine."""

import base64
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_models import shared_model_folder
from helpers_page import ROOT, TOKEN, running_page

from blastlens.errors import BlastlensError
from blastlens.synthetic_images import synthetic_image
from blastlens.temp_files import OLDEST_S, _is_orphan, every_s, keep_s, sweep
from blastlens.ui.server import FAILED


def test_a_sweep_deletes_old_files_at_any_depth(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name, age in (("new.png", 10), ("deep/er/old.png", OLDEST_S + 10), ("old.csv", OLDEST_S + 1)):
        (tmp_path / name).write_text("x")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    (tmp_path / "old").mkdir()
    os.utime(tmp_path / "old", (then, then))
    assert sweep(tmp_path, OLDEST_S) == 2
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["deep", "er", "new.png"]  # emptied just now


def test_folders_of_other_users_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "letter").write_text("to keep")
    (tmp_path / "blastlens-odd").mkdir()
    (tmp_path / "blastlens-odd" / "lock").symlink_to(tmp_path / "letter")
    assert not _is_orphan(tmp_path / "blastlens-odd")
    (tmp_path / "blastlens-theirs").mkdir()
    (tmp_path / "blastlens-theirs" / "lock").touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert not _is_orphan(tmp_path / "blastlens-theirs")
    assert (tmp_path / "letter").read_text() == "to keep"


def claimed(environment):
    script = (
        "from blastlens import temp_files; folder = temp_files.claim(); (folder / 'left.png').write_text('x');"
        "from gradio.utils import get_upload_folder; from gradio.mcp import DEFAULT_TEMP_DIR;"
        "print(folder, oct(folder.parent.stat().st_mode)[-3:], get_upload_folder(), DEFAULT_TEMP_DIR)"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    return run.stdout.split()


@pytest.mark.slow
def test_the_folder_is_private_inside_a_configured_one_used_by_all_of_gradio_and_gone_at_the_end(tmp_path):
    """All of the folder is served and swept, so it never is one that may hold whatever else the operator keeps."""
    (tmp_path / "the-operator-s").write_text("x")
    folder, rights, *used = claimed(os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)})
    assert used == [folder, folder]
    assert Path(folder).is_relative_to(tmp_path) and rights == "700"
    assert [file.name for file in tmp_path.iterdir()] == ["the-operator-s"]


@pytest.mark.slow
def test_folders_of_killed_processes_are_deleted(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    environment["TMPDIR"] = str(tmp_path)
    script = "from blastlens import temp_files; print(temp_files.claim(), flush=True); input()"
    start = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT, "env": environment}
    with subprocess.Popen(start, **pipes) as killed, subprocess.Popen(start, **pipes) as living:
        folders = [Path(process.stdout.readline().strip()) for process in (killed, living)]
        killed.kill()
        killed.wait()
        assert all(folder.exists() for folder in folders)
        claimed(environment)
        assert [folder.exists() for folder in folders] == [False, True]
        living.communicate("\n")


def test_uploads_can_be_kept_for_less_than_an_hour_but_not_longer(monkeypatch):
    monkeypatch.delenv("BLASTLENS_KEEP_S", raising=False)
    assert (keep_s(), every_s()) == (OLDEST_S, 600)
    for given, every in (("5", 1), ("60", 12), ("3000", 600)):
        monkeypatch.setenv("BLASTLENS_KEEP_S", given)
        assert (keep_s(), every_s()) == (int(given), every)
    for given in ("4", "3001", "0", "-1", "an hour", "60.5"):
        monkeypatch.setenv("BLASTLENS_KEEP_S", given)
        with pytest.raises(BlastlensError, match=r"BLASTLENS_KEEP_S is .*; a whole number from 5 to 3000 is accepted"):
            keep_s()


def told(address, fn, data, visitor):
    """Every message that a visitor gets about one event of the page."""
    asked = {"data": data, "fn_index": fn, "session_hash": visitor}
    httpx.post(f"{address}/gradio_api/queue/join", json=asked, timeout=30).raise_for_status()
    return httpx.get(f"{address}/gradio_api/queue/data", params={"session_hash": visitor}, timeout=60).text


@pytest.mark.slow
def test_uploads_and_results_are_deleted_on_schedule(tmp_path):
    """Files and results on disk, their addresses, and what is in memory; of a page that keeps them for some seconds."""
    synthetic_image("ALL", 0).save(tmp_path / "patient-7.png")
    data = (tmp_path / "patient-7.png").read_bytes()
    with running_page(tmp_path, BLASTLENS_KEEP_S="12") as page:
        config = httpx.get(f"{page.address}/config").json()
        fn = {one["api_name"]: one["id"] for one in config["dependencies"]}
        model = next(one for one in config["components"] if one["type"] == "radio")["props"]["value"]
        (place,) = httpx.post(f"{page.address}/gradio_api/upload", files={"files": ("patient-7.png", data)}).json()
        given = {"path": place, "orig_name": "patient-7.png", "meta": {"_type": "gradio.FileData"}}
        assert "Predicted in" in told(page.address, fn["answer"], [given, model, "gaussian_noise", 9, 0, 0], "one")
        tables = told(page.address, fn["run"], [[given], model, 0, False], "one")
        inside = f"data:image/png;base64,{base64.b64encode(data).decode()}"
        assert "ALL" in told(page.address, fn["score_images"], [[inside], "", 0, 0, 0], "two")
        given = [place, *set(re.findall(r'"path":"([^"]*\.csv)"', tables))]
        assert {Path(one).name for one in given} == {"patient-7.png", "blastlens-patients.csv", "blastlens-images.csv"}
        addresses = [f"{page.address}/gradio_api/file={one}" for one in given]
        assert [httpx.get(one).status_code for one in addresses] == [200, 200, 200]
        assert len(page.files()) > len(given)  # and the image that came inside
        last = time.monotonic()
        while (page.files() or any(page.kept.values())) and time.monotonic() - last < 30:
            time.sleep(0.2)
        assert page.files() == []
        assert page.kept == {"caches": 0, "names": 0, "visitors": 0}
        assert time.monotonic() - last < 12 + 2 + 6  # what is kept, from one sweep to the next, and a busy computer
        assert [httpx.get(one).status_code for one in addresses] == [403, 403, 403]
        assert [file for file in tmp_path.rglob("*patient-7*") if file.parent != tmp_path] == []


@pytest.mark.slow
def test_a_page_sends_no_request_logs_no_names_and_leaves_no_files(tmp_path):
    """With default settings: a good image, a bad one, and one over which the classifier fails; then it is stopped."""
    synthetic_image("ALL", 0).save(tmp_path / "patient-7.png")
    (tmp_path / "patient-8.png").write_bytes(b"no image")
    synthetic_image("HEM", 0).save(tmp_path / "patient-9-breaks.png")
    with running_page(tmp_path) as page:
        client = Client(page.address, verbose=False, download_files=False)
        assert client.predict(handle_file(tmp_path / "patient-7.png"), api_name="/classify")["label"] in ("ALL", "HEM")
        with pytest.raises(AppError, match="patient-8"):
            client.predict(handle_file(tmp_path / "patient-8.png"), api_name="/classify")
        with pytest.raises(AppError) as failed:
            client.predict(handle_file(tmp_path / "patient-9-breaks.png"), api_name="/classify")
        assert str(failed.value) == FAILED
        assert "A request failed: RuntimeError at" in page.log
        assert [word for word in ("patient-", TOKEN, "Traceback") if word in page.log] == []
        assert page.requested() == {"127.0.0.1"}  # its own address, which Gradio requests at the launch
        assert len(page.files()) > 2
    assert [str(file) for file in page.temporary.rglob("*") if file.is_file()] == []


@pytest.mark.slow
def test_an_invalid_limit_ends_the_start_in_one_sentence():
    environment = os.environ | {"BLASTLENS_STORE_MB": "-5"}
    run = subprocess.run([sys.executable, "app.py"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.startswith("BLASTLENS_STORE_MB is '-5'; a whole number from ")
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "importing",
    [
        "from blastlens import Classifier; Classifier.from_pretrained(sys.argv[1])",
        pytest.param("import train.evaluate", marks=pytest.mark.slow),
    ],
)
def test_onnx_runtime_sends_no_telemetry(tmp_path, importing):
    """ONNX Runtime 1.31 leaves a file for its telemetry session in TMPDIR as soon as it may send."""
    left_out = ("ORT_DISABLE_TELEMETRY", "CI")  # either would silence it by itself
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    script = f"import sys; {importing}"
    subprocess.run([sys.executable, "-c", script, shared_model_folder("cell")], cwd=ROOT, env=environment, check=True)
    assert [file.name for file in tmp_path.rglob("*") if ".ses" in file.name or "onnxruntime" in str(file)] == []
