"""The tab of many images and its endpoint, with throw-away models: through Gradio's client and through MCP."""

import ast
import asyncio
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
from blastlens.synthetic_images import draw_cell
from blastlens.ui import batch, folder, launch
from blastlens.ui.batch import Run, image_rows, patient_rows
from blastlens.ui.folder import FolderTab
from blastlens.ui.model_registry import Shelf
from blastlens.ui.tables import Column, TableView, arranged, table
from blastlens.ui.uploads import uploaded, write_csv

DISCLAIMER = "Research demonstration, not a medical device."
STATE, STOP, STATUS, PATIENTS, IMAGES, PATIENTS_CSV, IMAGES_CSV = range(7)


@pytest.fixture(scope="module")
def shelf():
    folders = [shared_model_folder("cell"), shared_model_folder("field")]
    classifiers = {one.name: Classifier.from_pretrained(one) for one in folders}
    return Shelf(classifiers, dict.fromkeys(classifiers, ()))


@pytest.fixture(scope="module", autouse=True)
def upload_folder(tmp_path_factory):
    """A folder of uploads of this module's own, so that what is left in it can be counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        yield Path(get_upload_folder())


@pytest.fixture(scope="module")
def demo(shelf, upload_folder):
    with gr.Blocks(analytics_enabled=False, delete_cache=(600, 3000)) as demo:
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
    draw_cell(label, number).save(file, "PNG")
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
    classifier = shelf.classifiers["tiny-cell"]
    expected = {name: classifier.predict(png(number), 5, 2) for number, name in enumerate(["7", "7 2", "H3", None])}
    images = answer["images"]
    assert [one["file"] for one in images] == [
        "fold_0/nobody.png",
        "fold_0/UID_7_1_1_all.png",
        "fold_0/UID_7_1_2_all.png",
        "fold_0/UID_h3_1_1_hem.png",
    ]
    assert [one["patient"] for one in images] == [None, "7", "7", "H3"]
    for one, prediction in zip(images, [expected[k] for k in (None, "7", "7 2", "H3")], strict=True):
        assert one["probabilities"] == prediction.probabilities and one["label"] == prediction.label
    seven, h3, nobody = answer["patients"]
    probabilities = [expected[key].probabilities["ALL"] for key in ("7", "7 2")]
    assert seven["patient"] == "7" and seven["images"] == 2
    assert seven["leukemic_images"] == sum(expected[key].label == "ALL" for key in ("7", "7 2"))
    assert seven["mean_probability"] == pytest.approx(sum(probabilities) / 2)
    assert seven["leukemic_share_low"] < seven["leukemic_share"] <= seven["leukemic_share_high"]
    assert (h3["patient"], nobody["patient"]) == ("H3", None)
    assert h3["mean_probability_low"] is None and h3["mean_probability_high"] is None
    assert [one["file"] for one in answer["failures"]] == ["read me.txt", "fold_0/UID_7_1_10_all.png"]
    assert "not an image" in answer["failures"][1]["reason"]
    assert (answer["model_id"], answer["revision"], answer["sigma"], answer["seed"]) == ("tiny-cell", None, 5, 2)
    assert answer["disclaimer"] == DISCLAIMER and CAVEAT in answer["warnings"]
    assert answer["warnings"][0] == NOT_VALIDATED  # once for all images
    assert not any(NOT_VALIDATED in one["warnings"] for one in answer["images"])


def test_the_endpoint_needs_no_more_than_files_and_tells_what_it_takes(client, tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    answer = client.predict([handle_file(file) for file in sorted(tmp_path.iterdir())], api_name="/score_images")
    assert [one["file"] for one in answer["images"]] == ["0.png", "1.png"]
    assert answer["model_id"] == "tiny-cell"
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert list(endpoints) == ["/score_images"]
    told = endpoints["/score_images"]["parameters"]
    assert [one["parameter_name"] for one in told] == ["files", "model", "sigma", "seed", "prevalence"]
    assert all(one["type"]["additional_description"] for one in told)


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


def test_an_mcp_client_finds_the_tool_and_calls_it(demo, client, tmp_path):
    """With images as data: URIs, and with the address of an upload."""
    from mcp import ClientSession
    from mcp.client.streamable_http import streamable_http_client

    (tmp_path / "UID_9_1_1_all.png").write_bytes(png(4))
    stored = client.predict([handle_file(tmp_path / "UID_9_1_1_all.png")], api_name="/score_images")["images"]
    path = next(Path(get_upload_folder()).rglob("UID_9_1_1_all.png"))
    files = ["data:image/png;base64," + base64.b64encode(png(3)).decode(), f"{demo.address}/gradio_api/file={path}"]

    async def ask():
        async with (
            streamable_http_client(f"{demo.address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = (await session.list_tools()).tools
            return tools, await session.call_tool("score_images", {"files": files, "sigma": 0})

    tools, reply = asyncio.run(ask())
    (tool,) = [tool for tool in tools if tool.name.endswith("score_images")]
    assert "Classify many images" in tool.description
    assert tool.inputSchema["properties"]["files"]["type"] == "array"
    assert not reply.isError, reply.content
    answer = ast.literal_eval(reply.content[0].text)  # Gradio writes a dict as Python does
    assert len(answer["images"]) == 2 and answer["disclaimer"] == DISCLAIMER
    assert answer["images"][1]["probabilities"] == stored[0]["probabilities"]


# The tab


def test_a_run_ends_with_tables_and_lists_what_failed(tab, patient_zip):
    last = finished(tab, given(patient_zip))
    assert "Done: 5 images" in last[STATUS] and "2 patients named" in last[STATUS]
    assert "2 files could not be used" in last[STATUS] and DISCLAIMER in last[STATUS]
    assert "<b>fold_0/UID_7_1_10_all.png</b> is not an image that can be read" in last[STATUS]
    assert last[PATIENTS].count("<tr>") == 1 + 3 and "not named" in last[PATIENTS] and CAVEAT in last[PATIENTS]
    assert last[IMAGES].count("<tr>") == 1 + 4


def test_an_answer_in_the_table_is_the_classifiers(tab, shelf, patient_zip):
    last = finished(tab, given(patient_zip), "tiny-field", 8)
    expected = shelf.classifiers["tiny-field"].predict(png(3), sigma=8)
    for probability in expected.probabilities.values():
        assert f"{100 * probability:.1f} %" in last[IMAGES]
    assert "Noise of sigma 8 was added" in last[STATUS]


def test_progress_is_told_while_it_runs(tab, patient_zip, monkeypatch):
    monkeypatch.setattr(folder, "SECONDS_BETWEEN_UPDATES", 0)
    told = [update[STATUS] for update in tab.run(given(patient_zip), "tiny-cell", 0)]
    assert [f"<strong>{n} of 5 images</strong>" in text for n, text in enumerate(told[:6])] == [True] * 6
    assert all('aria-live="polite"' in text for text in told[:6])
    assert "images a second, about" in told[3]


def test_a_cancelled_run_keeps_what_was_done(tab, patient_zip, monkeypatch):
    monkeypatch.setattr(folder, "SECONDS_BETWEEN_UPDATES", 0)
    running = tab.run(given(patient_zip), "tiny-cell", 0)
    run = next(running)[STATE]
    next(running), next(running)
    _, status, _, images, *files = tab.cancel(run)
    assert "Stopped after 2 of 5 images" in status and images.count("<tr>") == 1 + 2
    assert [row["images_tried"] for row in read(files[1])] == ["2"] * 3  # two answers, and the file that is no image
    assert len(list(running)) <= 1 and run.done == 2


def test_what_was_done_is_shown_only_when_a_cancelled_run_has_ended(demo):
    """Else the last progress of the run could be shown after it, and stay."""
    by_name = {fn.fn.__name__: fn for fn in demo.blocks.fns.values() if fn.fn is not None}
    cancel, run = by_name["cancel"], by_name["run"]
    assert (cancel.trigger_after, cancel.trigger_only_on_failure, cancel.queue) == (run._id, True, False)
    assert sum(run._id in fn.cancels for fn in demo.blocks.fns.values()) == 1


def test_a_run_that_is_cancelled_while_it_waits_says_so(tab):
    assert "Stopped before it began" in tab.cancel(None)[1]


@pytest.mark.parametrize(
    ("model", "sigma", "files", "reason"),
    [
        ("tiny-cell", 0, [], "no images yet"),
        ("nothing", 0, None, "no model"),
        ("tiny-cell", 101, None, "0 to 100"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(tab, patient_zip, model, sigma, files, reason):
    last = finished(tab, given(patient_zip) if files is None else files, model, sigma)
    assert 'role="alert"' in last[STATUS] and reason in last[STATUS]


def test_files_without_an_image_are_refused_with_the_first_reason(tab, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.txt", "")
    assert "no image among the files given. a.txt is not an image" in finished(tab, given(tmp_path / "a.zip"))[STATUS]


def test_a_file_name_cannot_write_into_the_page(tab, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("<img src=x onerror=alert(1)>.png", png(0))
        archive.writestr("<img src=y>.png", b"no pixels")
        archive.writestr("t.csv", 'file,subject\n"<img src=x onerror=alert(1)>.png","<b onclick=z>"\n')
    last = finished(tab, given(tmp_path / "a.zip"))
    assert all("<img" not in last[part] and "onclick=z>" not in last[part] for part in (STATUS, PATIENTS, IMAGES))


def read(button):
    with open(button.value["path"], encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_for_download_say_where_they_come_from_and_run_nothing(tab, shelf, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("=HYPERLINK(1).png", png(0))
        archive.writestr("bad.png", b"no pixels")
        archive.writestr("t.csv", "file,subject\n=HYPERLINK(1).png,@patient\n")
    last = finished(tab, given(tmp_path / "a.zip"), sigma=3)
    (patient,), (image, failed) = read(last[PATIENTS_CSV]), read(last[IMAGES_CSV])
    assert (image["file"], image["patient"], patient["patient"]) == ("'=HYPERLINK(1).png", "'@patient", "'@patient")
    expected = shelf.classifiers["tiny-cell"].predict(png(0), sigma=3).probabilities
    assert {label: float(image[f"probability_{label}"]) for label in expected} == expected
    assert failed["file"] == "bad.png" and "not an image" in failed["problem"] and failed["answer"] == ""
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
    run = Run.of(shelf.classifiers["tiny-cell"], [str(tmp_path / "a.png")], 0)
    run.folder = dataclasses.replace(run.folder, label_names=("cat", "dog"))
    list(run.steps())
    assert run.patients() == [] == list(patient_rows(run))


def test_images_flow_through_one_after_the_other(shelf, tmp_path):
    """No more bytes are read ahead than a batch of images has."""
    for number in range(20):
        Image.new("RGB", (32, 32), (number * 9, 80, 120)).save(tmp_path / f"{number}.png")
    run = Run.of(shelf.classifiers["tiny-cell"], [str(tmp_path)], 0)
    steps = run.steps()
    next(steps)
    for file in tmp_path.iterdir():
        if int(file.stem) >= 8:
            file.unlink()
    list(steps)
    assert (len(run.answered), len(run.failures), run.finished) == (8, 12, True)
    assert len(list(image_rows(run))) == 20


# Tables


COLUMNS = [
    Column("name", "Name", lambda row: row[0], lambda row: str(row[0])),
    Column("size", "Size", lambda row: row[1], lambda row: str(row[1]), number=True),
]
ROWS = [("b 10", 2.0), ("b 9", float("nan")), (None, 1.0), ("a", 2.0)]


@pytest.mark.parametrize(
    ("view", "order"),
    [
        (TableView(), [0, 1, 2, 3]),
        (TableView("name"), [3, 1, 0, 2]),
        (TableView("name", descending=True), [0, 1, 3, 2]),
        (TableView("size"), [2, 0, 3, 1]),
        (TableView("size", descending=True), [0, 3, 2, 1]),
        (TableView("gone"), [0, 1, 2, 3]),
    ],
)
def test_rows_are_sorted_by_any_column_and_gaps_come_last(view, order):
    assert arranged(ROWS, COLUMNS, view) == [ROWS[n] for n in order]


def test_a_header_says_how_it_is_sorted_and_turns_it_around():
    html = table(ROWS, COLUMNS, TableView("size", descending=True), "Things")
    assert "aria-sort=descending" in html and html.count("aria-sort") == 1
    assert 'data-value="size/up/0"' in html and 'data-value="name/up/0"' in html
    assert 'data-value="size/down/0"' in table(ROWS, COLUMNS, TableView("name"), "Things")


def test_a_long_table_comes_in_pages_and_keeps_its_order():
    rows = [(f"n {n}", float(n)) for n in range(60)]
    html = table(rows, COLUMNS, TableView("size", descending=True, page=2), "Things")
    assert "Rows 51 to 60 of 60" in html and "n 9<" in html and "n 10<" not in html
    assert 'data-value="size/down/1">Previous' in html and "disabled>Next" in html
    assert table(rows, COLUMNS, TableView(page=10**9), "Things") == table(rows, COLUMNS, TableView(page=2), "Things")


@pytest.mark.parametrize(
    "text", [None, "", "name", "name/up", "name/left/0", "name/up/-1", "name/up/x", "a/up/\u0663", "a/up/" + "9" * 5000]
)
def test_what_is_no_view_is_the_first_one(text):
    assert TableView.parse(text) == TableView()


def test_a_view_survives_its_button():
    assert TableView.parse(str(TableView("p0", True, 3))) == TableView("p0", True, 3)


def test_a_run_that_takes_too_long_answers_what_it_can_and_names_the_rest(shelf, patient_zip, monkeypatch):
    monkeypatch.setattr(batch, "LONGEST_RUN_S", -1)
    run = Run.of(shelf.first, [str(patient_zip)], 0)
    assert [*run.steps()] == [] and run.finished and not run.answered
    assert all("took over" in reason or "not an image" in reason for _, reason in run.failures)


def test_a_run_lets_go_of_the_images_when_it_ends_or_is_given_up(shelf, patient_zip):
    for given_up in (False, True):
        run = Run.of(shelf.first, [str(patient_zip)], 0)
        steps, total = run.steps(), run.total
        next(steps)
        if given_up:
            steps.close()
        else:
            assert len(list(steps)) == total - 1
        assert run.listing.sources == () and run.total == total > 1


def test_drawn_images_of_made_up_people_are_there_to_try(shelf):
    tab = FolderTab(shelf, gr.Radio())
    for model, people in (("tiny-cell", 4), ("tiny-field", 8)):
        run = Run.of(shelf.classifier(model), tab.drawn(model), 0)
        assert {source.subject for source in run.listing.sources} == {f"made-up {n + 1}" for n in range(people)}
        assert run.total == 6 * people and not run.failures
