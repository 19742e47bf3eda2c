"""Privacy: uploads pass through a folder that nobody else reads and nothing stays in, and nothing is reported."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import weakref
from datetime import timedelta
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_models import shared_model_folder

from blastlens import Classifier
from blastlens.drawn import draw_cell
from blastlens.scratch import OLDEST_S, sweep
from blastlens.ui import build, forget, try_a_cell

ROOT = Path(__file__).resolve().parents[1]


def test_a_sweep_deletes_what_is_old_at_any_depth_and_nothing_else(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name, age in (("new.png", 10), ("deep/er/old.png", OLDEST_S + 10), ("old.csv", OLDEST_S + 1)):
        (tmp_path / name).write_text("x")
        then = time.time() - age
        os.utime(tmp_path / name, (then, then))
    assert sweep(tmp_path, OLDEST_S) == 2
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["new.png"]


def claimed(environment):
    script = (
        "from blastlens import scratch; folder = scratch.claim(); (folder / 'left.png').write_text('x');"
        "from gradio.utils import get_upload_folder; from gradio.mcp import DEFAULT_TEMP_DIR;"
        "print(folder, oct(folder.parent.stat().st_mode)[-3:], get_upload_folder(), DEFAULT_TEMP_DIR)"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)
    return run.stdout.split()


@pytest.mark.slow
def test_the_folder_is_private_used_by_all_of_gradio_and_gone_at_the_end():
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    folder, rights, *used = claimed(environment)
    assert rights == "700"
    assert used == [folder, folder]
    assert not Path(folder).exists()


@pytest.mark.slow
def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_holds_is_not(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    environment["TMPDIR"] = str(tmp_path)
    script = "from blastlens import scratch; print(scratch.claim(), flush=True); input()"
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


@pytest.mark.slow
def test_a_folder_that_the_operator_names_is_used_and_stays(tmp_path):
    folder, _, *used = claimed(os.environ | {"GRADIO_TEMP_DIR": str(tmp_path)})
    assert used == [folder, folder] == [str(tmp_path)] * 2
    assert (tmp_path / "left.png").exists()


@pytest.mark.slow
def test_a_page_that_is_stopped_leaves_nothing_behind(tmp_path):
    (tmp_path / "of-the-page").mkdir()
    draw_cell("ALL", 0).save(tmp_path / "cell.png")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{probe.getsockname()[1]}"
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GRADIO_TEMP_DIR", "BLASTLENS_DATA")
    }
    environment |= {"TMPDIR": str(tmp_path / "of-the-page"), "GRADIO_SERVER_PORT": address.rpartition(":")[2]}
    page = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_for(address, page)
        Client(address, verbose=False, download_files=False).predict(
            handle_file(tmp_path / "cell.png"), api_name="/classify"
        )
        assert any(file.name == "cell.png" for file in (tmp_path / "of-the-page").rglob("*"))
    finally:
        page.terminate()
        page.wait(timeout=20)
    assert [str(file) for file in (tmp_path / "of-the-page").rglob("*") if file.is_file()] == []


def status(address):
    try:
        with urllib.request.urlopen(address, timeout=10) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code


def test_nobody_can_have_the_page_fetch_an_address(demo_address):
    asked = "http://example.invalid/cell.png"
    assert status(f"{demo_address}/gradio_api/file={asked}") == 403
    for file in ({"path": asked, "meta": {"_type": "gradio.FileData"}}, {"path": "x", "url": asked, "meta": {}}):
        with pytest.raises(AppError, match=r"not fetched from addresses|not uploaded here"):
            Client(demo_address, verbose=False).predict(image=file, api_name="/classify")


def test_the_address_of_an_upload_stands_for_it_but_not_that_of_another_file(demo_address, tmp_path):
    draw_cell("ALL", 0).save(tmp_path / "cell.png")
    client = Client(demo_address, verbose=False)
    (place,) = httpx.post(
        f"{demo_address}/gradio_api/upload", files={"files": ("cell.png", (tmp_path / "cell.png").read_bytes())}
    ).json()
    for path, right in ((place, True), (tmp_path / "cell.png", False)):
        file = {"path": f"{demo_address}/gradio_api/file={path}", "meta": {"_type": "gradio.FileData"}}
        if right:
            assert client.predict(image=file, api_name="/classify")["label"] in ("ALL", "HEM")
        else:
            with pytest.raises(AppError, match="not fetched from addresses"):
                client.predict(image=file, api_name="/classify")


def test_roads_that_are_not_for_visitors_are_closed(demo_address):
    assert status(f"{demo_address}/gradio_api/run/classify") in (404, 405)
    assert status(f"{demo_address}/monitoring/summary") == 403
    assert status(f"{demo_address}/gradio_api/runs") == 404


def test_what_idle_visitors_have_seen_is_forgotten(tmp_path):
    demo = build([shared_model_folder("cell")])
    for session in ("idle", "busy"):
        demo.state_holder[session]
    demo.state_holder.time_last_used["idle"] -= timedelta(seconds=100)
    draw_cell("ALL", 0).save(tmp_path / "cell.png")
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    try_a_cell._pixels(weakref.ref(classifier), str(tmp_path / "cell.png"))
    forget(demo, older_than=60)
    assert list(demo.state_holder.session_data) == ["busy"]
    assert try_a_cell._pixels.cache_info().currsize == 0


def wait_for(address, process):
    while process.poll() is None:
        try:
            return urllib.request.urlopen(address, timeout=5).close()
        except OSError:
            time.sleep(0.1)
    pytest.fail("app.py stopped before it answered")


@pytest.mark.parametrize(
    "importing",
    [
        "from blastlens import Classifier; Classifier.from_pretrained(sys.argv[1])",
        pytest.param("import train.evaluate", marks=pytest.mark.slow),
    ],
)
def test_the_inference_engine_reports_nothing_to_its_maker(tmp_path, importing):
    """ONNX Runtime 1.31 leaves a file for its telemetry session in TMPDIR as soon as it may send."""
    left_out = ("ORT_DISABLE_TELEMETRY", "CI")  # either would silence it by itself
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    environment |= {"TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    script = f"import sys; {importing}"
    subprocess.run([sys.executable, "-c", script, shared_model_folder("cell")], cwd=ROOT, env=environment, check=True)
    assert [file.name for file in tmp_path.rglob("*") if ".ses" in file.name or "onnxruntime" in str(file)] == []
