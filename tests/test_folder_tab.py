"""The tab of many images and its endpoint, with throw-away models."""

import base64
import csv
import dataclasses
import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_models import shared_model_folder
from PIL import Image

from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.external_result import NOT_VALIDATED
from blastlens.patients import CAVEAT
from blastlens.synthetic_images import synthetic_image
from blastlens.ui import batch, folder, launch
from blastlens.ui.batch import BatchRun, image_rows, patient_rows
from blastlens.ui.folder import FolderTab
from blastlens.ui.model_registry import Shelf
from blastlens.ui.server import Page
from blastlens.ui.uploads import uploaded, write_csv

DISCLAIMER = "Research demonstration, not a medical device."
STATE, STOP, STATUS, ABOUT, PATIENTS, IMAGES, PATIENTS_CSV, IMAGES_CSV = range(8)


@pytest.fixture(scope="module")
def shelf():
    folders = [shared_model_folder("cell"), shared_model_folder("field")]
    classifiers = {one.name: Classifier.from_pretrained(one) for one in folders}
    return Shelf(classifiers)


@pytest.fixture(scope="module", autouse=True)
def upload_folder(tmp_path_factory):
    """A folder of uploads of this module's own, so that what is left in it can be counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        yield Path(get_upload_folder())


@pytest.fixture(scope="module")
def demo(shelf, upload_folder):
    with Page(analytics_enabled=False, delete_cache=(600, 3000)) as demo:
        folder.build(shelf, gr.Radio(list(shelf.classifiers), value=next(iter(shelf.classifiers))))
    _, address, _ = launch(demo.queue(), prevent_thread_lock=True, quiet=True)
    yield SimpleNamespace(blocks=demo, address=address.rstrip("/"))
    demo.close()


@pytest.fixture(scope="module")
def client(demo, tmp_path_factory):
    return Client(demo.address, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


@pytest.fixture
def tab(shelf):
    with gr.Blocks():
        return FolderTab(shelf, gr.Radio([]))


def png(number, label="ALL"):
    file = io.BytesIO()
    synthetic_image(label, number).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def patient_zip(tmp_path_factory):
    """Two patients, one image of nobody, one that is broken, one file that is no image."""
    path = tmp_path_factory.mktemp("zips") / "patients.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(["UID_7_1_1_all.png", "UID_7_1_2_all.png", "UID_h3_1_1_hem.png", "nobody.png"]):
            archive.writestr(f"fold_0/{name}", png(number))
        archive.writestr("fold_0/UID_7_1_10_all.png", b"no pixels")
        archive.writestr("read me.txt", "text")
    return path


def given(*paths):
    """Files as the page hands them over, once they are in the folder of uploads."""
    target = Path(get_upload_folder(), "given")
    target.mkdir(exist_ok=True)
    for path in paths:
        (target / path.name).write_bytes(path.read_bytes())
    return [{"path": str(target / path.name)} for path in paths]


def finished(tab, files, model="tiny-cell", sigma=0):
    *_, last = tab.run(files, model, sigma)
    return last


# The endpoint


def test_the_endpoint_answers_for_images_patients_and_failures(client, shelf, patient_zip):
    answer = client.predict([handle_file(patient_zip)], "tiny-cell", 5, 2, api_name="/score_images")
    numbers = {"nobody": 3, "UID_7_1_1_all": 0, "UID_7_1_2_all": 1, "UID_h3_1_1_hem": 2}  # in natural order
    expected = [shelf.classifiers["tiny-cell"].predict(png(number), 5, 2) for number in numbers.values()]
    images = answer["images"]
    assert [one["file"] for one in images] == [f"fold_0/{name}.png" for name in numbers]
    assert [one["patient"] for one in images] == [None, "7", "7", "H3"]
    assert [one["probabilities"] for one in images] == [one.probabilities for one in expected]
    assert [one["label"] for one in images] == [one.label for one in expected]
    seven, h3, nobody = answer["patients"]
    assert (seven["patient"], h3["patient"], nobody["patient"]) == ("7", "H3", None)
    assert (seven["images"], seven["leukemic_images"]) == (2, sum(one.label == "ALL" for one in expected[1:3]))
    assert seven["mean_probability"] == pytest.approx(sum(one.probabilities["ALL"] for one in expected[1:3]) / 2)
    assert seven["leukemic_share_low"] < seven["leukemic_share"] <= seven["leukemic_share_high"]
    assert h3["mean_probability_low"] is None and h3["mean_probability_high"] is None
    assert [one["file"] for one in answer["failures"]] == ["read me.txt", "fold_0/UID_7_1_10_all.png"]
    assert "not an image" in answer["failures"][1]["reason"]
    assert (answer["model_id"], answer["revision"], answer["sigma"], answer["seed"]) == ("tiny-cell", None, 5, 2)
    assert answer["disclaimer"] == DISCLAIMER and CAVEAT in answer["warnings"]
    assert answer["warnings"][0] == NOT_VALIDATED  # once for all images
    assert not any(NOT_VALIDATED in one["warnings"] for one in images)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"files": []}, "no images yet"),
        ({"model": "elsewhere"}, "no model 'elsewhere' here"),
        ({"sigma": 101}, "0 to 100"),
        ({"seed": -1}, "whole number"),
    ],
)
def test_the_endpoint_refuses_in_one_sentence(client, patient_zip, settings, reason):
    request = {"files": [handle_file(patient_zip)], "model": "tiny-cell", "sigma": 0, "seed": 0} | settings
    with pytest.raises(AppError) as refused:
        client.predict(**request, api_name="/score_images")
    assert reason in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("form", ["with meta", "bare dict", "text", "address", "file address", "data"])
def test_a_caller_cannot_have_files_of_the_server_read(demo, tmp_path, form):
    secret = tmp_path / "UID_5_1_1_all.png"
    secret.write_bytes(png(0))
    file = {
        "with meta": {"path": str(secret), "meta": {"_type": "gradio.FileData"}},
        "bare dict": {"path": str(secret)},
        "text": str(secret),
        "address": f"{demo.address}/gradio_api/file={secret}",
        "file address": f"file://{secret}",
        "data": f"data:;file,{secret}",
    }[form]
    status, told = call(demo.address, [[file], "tiny-cell", 0, 0])
    if form == "data" and status == "complete":  # the path's own letters, where they happen to be base64
        (answer,) = json.loads(told)
        assert not answer["images"] and answer["failures"][0]["reason"].startswith("file.txt is not an image")
        return
    assert status == "error" and "images" not in told
    missing = {**file, "path": str(tmp_path / "gone.png")} if isinstance(file, dict) else None
    if form == "bare dict":  # and cannot learn whether one is there
        assert call(demo.address, [[missing], "tiny-cell", 0, 0])[1].replace("gone.png", secret.name) == told


def test_a_path_out_of_the_uploads_is_refused_however_it_is_written(tab, tmp_path, upload_folder):
    (tmp_path / "a.png").write_bytes(png(0))
    link = upload_folder / "link.png"
    link.symlink_to(tmp_path / "a.png")
    for path in (str(link), f"{upload_folder}/../{tmp_path.name}/a.png", "a\0b", "", None, 7, "/etc"):
        with pytest.raises(BlastlensError):
            uploaded([{"path": path}], tab.keeper)


def call(address, data):
    """What a caller who writes requests by hand is told: the event's kind and its data."""
    import urllib.request

    request = urllib.request.Request(
        f"{address}/gradio_api/call/score_images",
        json.dumps({"data": data}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as reply:
        event = json.load(reply)["event_id"]
    with urllib.request.urlopen(f"{address}/gradio_api/call/score_images/{event}") as reply:
        lines = [line for line in reply.read().decode().splitlines() if line and "heartbeat" not in line]
    return lines[-2].removeprefix("event: "), lines[-1].removeprefix("data: ")


def test_files_of_mcp_clients_are_data_uris_and_addresses_of_uploads(tab, upload_folder):
    (upload_folder / "UID_9_1_1_all.png").write_bytes(png(4))
    address = f"http://127.0.0.1/gradio_api/file={upload_folder}/UID_9_1_1_all.png"
    paths = uploaded(["data:image/png;base64," + base64.b64encode(png(3)).decode(), address], tab.keeper)
    assert [Path(path).read_bytes() for path in paths] == [png(3), png(4)]
    assert paths[0] in tab.keeper.temp_files  # which are deleted later


# The tab


def test_a_run_ends_with_tables_and_lists_failures(tab, shelf, patient_zip):
    last = finished(tab, given(patient_zip), sigma=8)
    assert "Done: 5 images" in last[STATUS] and "2 patients named" in last[STATUS]
    assert "2 files could not be used" in last[STATUS] and DISCLAIMER in last[STATUS]
    assert "<b>fold_0/UID_7_1_10_all.png</b> is not an image that can be read" in last[STATUS]
    assert "Noise of sigma 8 was added" in last[STATUS] and CAVEAT in last[ABOUT]
    assert [row[:2] for row in last[PATIENTS].value["data"]] == [["7", 2], ["H3", 1], ["not named", 1]]
    images = {row[0]: row for row in last[IMAGES].value["data"]}
    expected = shelf.classifiers["tiny-cell"].predict(png(3), sigma=8).probabilities
    assert len(images) == 4
    assert images["fold_0/nobody.png"][3:5] == [round(100 * value, 1) for value in expected.values()]


def test_progress_is_shown_while_it_runs(tab, patient_zip, monkeypatch):
    monkeypatch.setattr(folder, "UPDATE_S", 0)
    shown = [update[STATUS] for update in tab.run(given(patient_zip), "tiny-cell", 0)]
    assert [f"<strong>{n} of 5 images</strong>" in text for n, text in enumerate(shown[:6])] == [True] * 6
    assert all('aria-live="polite"' in text for text in shown[:6])
    assert "images per second, about" in shown[3]


def test_a_cancelled_run_keeps_what_was_done(tab, patient_zip, monkeypatch):
    monkeypatch.setattr(folder, "UPDATE_S", 0)
    running = tab.run(given(patient_zip), "tiny-cell", 0)
    run = next(running)[STATE]
    next(running), next(running)
    _, status, _, _, images, *files = tab.cancel(run)
    assert "Stopped after 2 of 5 images" in status and len(images.value["data"]) == 2
    assert [row["images_tried"] for row in read(files[1])] == ["2"] * 3  # two answers, and the file that is no image
    assert len(list(running)) <= 1 and run.done == 2
    assert "Stopped before it began" in tab.cancel(None)[1]


def test_what_cannot_be_run_is_refused_in_one_sentence(tab):
    status = finished(tab, [])[STATUS]
    assert 'role="alert"' in status and "no images yet" in status


def read(button):
    with open(button.value["path"], encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_names_of_files_and_patients_write_no_markup_and_no_formula(tab, shelf, tmp_path):
    formula = "=HYPERLINK(1)<img src=x onerror=alert(1)>.png"
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(formula, png(0))
        archive.writestr("<img src=y>.png", b"no pixels")
        archive.writestr("t.csv", f'file,subject\n"{formula}","@<b onclick=z>"\n')
    last = finished(tab, given(tmp_path / "a.zip"), sigma=3)
    assert all("<img" not in last[part] and "onclick=z>" not in last[part] for part in (STATUS, ABOUT))
    # tables hold names as text, not as HTML
    assert all(set(last[part].datatype) <= {"str", "number"} for part in (PATIENTS, IMAGES))
    (patient,), (image, failed) = read(last[PATIENTS_CSV]), read(last[IMAGES_CSV])
    assert image["file"] == f"'{formula}" and image["patient"] == patient["patient"] == "'@<b onclick=z>"
    expected = shelf.classifiers["tiny-cell"].predict(png(0), sigma=3).probabilities
    assert {label: float(image[f"probability_{label}"]) for label in expected} == expected
    assert failed["file"] == "<img src=y>.png" and "not an image" in failed["reason"] and failed["label"] == ""
    for row in (patient, image, failed):
        assert (row["model_id"], row["sigma"], row["disclaimer"]) == ("tiny-cell", "3.0", DISCLAIMER)
    assert patient["mean_probability_low"] == ""  # of one image


def test_what_is_written_for_download_lies_with_the_uploads_and_goes_with_them(demo, client, upload_folder):
    """Exactly what a press of the button writes, in the folder that is swept, and known to the sweep."""
    before = set(upload_folder.rglob("*.csv"))
    path = write_csv("blastlens-images.csv", [{"a": "ä"}])
    assert set(upload_folder.rglob("*.csv")) - before == {Path(path)}
    assert Path(path).read_bytes() == '\ufeff"a"\r\n"ä"\r\n'.encode()
    button = next(b for b in demo.blocks.blocks.values() if isinstance(b, gr.DownloadButton))
    assert button.move_resource_to_block_cache(path) == path  # what Gradio does with the button's new value
    delete_files_created_by_app(demo.blocks, None)
    assert not Path(path).exists()


def test_a_model_of_other_labels_sums_nothing_up(shelf, tmp_path):
    (tmp_path / "a.png").write_bytes(png(0))
    run = BatchRun(shelf.classifiers["tiny-cell"], [str(tmp_path / "a.png")], 0)
    run.folder = dataclasses.replace(run.folder, label_names=("cat", "dog"))
    list(run.steps())
    assert run.patients() == [] == list(patient_rows(run))


def test_images_flow_through_one_after_the_other(shelf, tmp_path):
    """No more bytes are read ahead than a batch of images has."""
    for number in range(20):
        Image.new("RGB", (32, 32), (number * 9, 80, 120)).save(tmp_path / f"{number}.png")
    run = BatchRun(shelf.classifiers["tiny-cell"], [str(tmp_path)], 0)
    steps = run.steps()
    next(steps)
    for file in tmp_path.iterdir():
        if int(file.stem) >= 8:
            file.unlink()
    list(steps)
    assert (len(run.answered), len(run.failures), run.finished) == (8, 12, True)
    assert len(list(image_rows(run))) == 20


def test_a_run_that_takes_too_long_answers_what_it_can_and_names_the_rest(shelf, patient_zip, monkeypatch):
    monkeypatch.setattr(batch, "LONGEST_RUN_S", -1)
    run = BatchRun(shelf.first, [str(patient_zip)], 0)
    assert len([*run.steps()]) == run.total and run.finished and not run.answered
    assert all("took over" in reason or "not an image" in reason for _, reason in run.failures)


def test_a_run_lets_go_of_the_images_when_it_ends_or_is_given_up(shelf, patient_zip):
    for given_up in (False, True):
        run = BatchRun(shelf.first, [str(patient_zip)], 0)
        steps, total = run.steps(), run.total
        next(steps)
        if given_up:
            steps.close()
        else:
            assert len(list(steps)) == total - 1
        assert run.sources == () and run.total == total > 1
