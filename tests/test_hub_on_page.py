"""Models of the Hub on the page: copies that say so, and models that visitors ask for, kind ones and hostile ones."""

import asyncio
import gc
import json
import math
import re
import shutil
import threading
import time
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from gradio.utils import get_upload_folder
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_browser import visiting
from helpers_hub import LoopbackHub, point_client_at
from helpers_models import shared_model_folder
from helpers_ood_images import forever, greedy, node, not_a_number, stranger
from PIL import Image

from blastlens import BlastlensError, Classifier, guests, temp_files
from blastlens.guests import KEPT, Guests, NotYetError
from blastlens.inference import LimitedOnnxBackend
from blastlens.model_folder import ModelFolder
from blastlens.serving import Wanted
from blastlens.synthetic_images import draw_cell
from blastlens.ui import build, code_snippets, launch, single_image
from blastlens.ui.about import about_html
from blastlens.ui.batch import Run
from blastlens.ui.batch_html import images_html, patients_html, summary
from blastlens.ui.comparison import model_html, noise_html, speed_html, systems_html
from blastlens.ui.examples import examples_for
from blastlens.ui.hub_line import OpenHub
from blastlens.ui.links import read_scene
from blastlens.ui.model_registry import Shelf
from blastlens.ui.report_page import how_to_prepare
from blastlens.ui.single_image import NOISE, TryACell
from blastlens.ui.snippets import Origin, in_python
from blastlens.ui.tables import TableView
from blastlens.ui.words import facts

COMMIT = "0123456789abcdef0123456789abcdef01234567"
HOSTILE = ("<img src=x onerror=alert(1)>", "\"'><script>alert(2)</script>", "=1+1", "__proto__")


def without(folder: Path, *patterns: str) -> dict[str, Path]:
    """A folder's files but those."""
    files = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file for name, file in files.items() if not any(re.search(one, name) for one in patterns)}


@pytest.fixture(scope="module")
def shelves(tmp_path_factory):
    """A Hub with the models of strangers, to which this process and those it starts are turned."""
    root = tmp_path_factory.mktemp("strangers")
    cell, field = shared_model_folder("cell"), shared_model_folder("field")
    with LoopbackHub() as hub, point_client_at(hub, root / "huggingface"), pytest.MonkeyPatch.context() as patch:
        for name, value in {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}.items():
            patch.setenv(name, value)
        patch.setenv("HF_TOKEN", hub.token)  # the operator's, which is not the visitors'
        patch.delenv("BLASTLENS_DATA", raising=False)
        hub.add_folder("who/cells", cell)
        hub.add_folder("who/fields", field)
        hub.add_folder("who/hostile", stranger(root / "hostile", HOSTILE))
        for number in range(KEPT + 1):
            hub.add_folder(f"who/small{number}", stranger(root / f"small{number}", ("A", f"B{number}")))
        hub.add_folder("bad/greedy", stranger(root / "greedy", ("A", "B"), greedy(), shape=[10**9]))
        hub.add_folder("bad/nan", stranger(root / "nan", ("A", "B"), not_a_number()))
        hub.add_folder("bad/forever", stranger(root / "forever", ("A", "B"), forever(), true=True))
        hub.add_folder("bad/long", stranger(root / "long", ("A", "B" * 61)))
        hub.add_folder("bad/many", stranger(root / "many", tuple(f"L{number}" for number in range(51))))
        hub.add_folder("bad/turned", stranger(root / "turned", ("A", "B\N{RIGHT-TO-LEFT OVERRIDE}C")))
        hub.add_repo("bad/torch", without(cell, "onnx"))
        hub.add_repo("bad/pickle", {"config.json": cell / "config.json", "pytorch_model.bin": b"pickle"})
        hub.add_repo("bad/text", {"README.md": b"nothing"})
        hub.add_folder("secret/private", cell, private=True)
        hub.add_folder("secret/gated", cell, gated=True)
        (root / "huggingface").mkdir(exist_ok=True)
        (root / "huggingface" / "token").write_text(hub.token)
        yield hub


@pytest.fixture(scope="module")
def offered():
    folders = [shared_model_folder("cell"), shared_model_folder("field")]
    classifiers = {folder.name: Classifier.from_pretrained(folder) for folder in folders}
    return classifiers, {name: examples_for(c.label_names, None) for name, c in classifiers.items()}


@pytest.fixture(scope="module")
def open_shelf(shelves, offered):
    return Shelf(*offered, guests=Guests())


@pytest.fixture(scope="module")
def address(shelves):
    """A page on which visitors may open other models."""
    demo = build([shared_model_folder("cell"), shared_model_folder("field")], open_hub=True)
    _, address, _ = launch(demo, prevent_thread_lock=True, quiet=True)
    yield address.rstrip("/")
    demo.close()


@pytest.fixture
def image(tmp_path):
    draw_cell("ALL", 0).save(tmp_path / "cell.png")
    return tmp_path / "cell.png"


def from_hub(hub: LoopbackHub, name: str, home: Path) -> Classifier:
    """A public model as everybody else loads it."""
    for path, content in hub.files(name).items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_bytes(content)
    return Classifier(ModelFolder.load(home, name, hub.commits(name)[0].oid))


# Not allowed


@pytest.mark.parametrize("model", ["who/cells", "who/cells@v1", f"who/cells@{COMMIT}", "tests/data"])
def test_a_page_opens_no_other_model_unless_its_operator_allows_it(offered, shelves, model):
    asked = len(shelves.requests)
    shelf = Shelf(*offered)
    with pytest.raises(
        BlastlensError, match="This page offers only tiny-cell, tiny-field; it does not open other models"
    ):
        shelf.classifier(model)
    scene, (remark,) = read_scene({"model": model}, shelf)
    assert scene.model == "tiny-cell" and "not on offer" in remark and "only tiny-cell, tiny-field" in remark
    assert len(shelves.requests) == asked


@pytest.mark.parametrize("value", [None, "", "0", "true"])
def test_only_the_word_of_the_operator_opens_the_hub(monkeypatch, value):
    monkeypatch.delenv("BLASTLENS_OPEN_HUB", raising=False)
    if value is not None:
        monkeypatch.setenv("BLASTLENS_OPEN_HUB", value)
    assert "Another model from the Hub" not in json.dumps(build([shared_model_folder("cell")]).config, default=str)
    monkeypatch.setenv("BLASTLENS_OPEN_HUB", "1")
    assert "Another model from the Hub" in json.dumps(build([shared_model_folder("cell")]).config, default=str)


@pytest.mark.parametrize(
    "model",
    ["/etc", "../x", "~/x", "./who/cells", "models/x", "a/b/c", "who/cells\n", "a/" + "b" * 1000, 7, ["who/cells"]],
    ids=lambda model: str(model)[:20],
)
def test_what_is_no_name_on_the_hub_is_refused_without_asking_it(open_shelf, shelves, model):
    asked = len(shelves.requests)
    with pytest.raises(
        BlastlensError, match=r"choose one of tiny-cell, tiny-field, or give owner/name|first"
    ) as refusal:
        if open_shelf.classifier(model) is open_shelf.first:
            raise BlastlensError("first")
    assert len(str(refusal.value)) < 500 and len(shelves.requests) == asked


# Allowed


def test_every_endpoint_takes_a_model_of_the_hub_and_answers_what_it_answers_elsewhere(
    address, shelves, image, tmp_path
):
    expected = from_hub(shelves, "who/cells", tmp_path / "model").predict(image, 7, 3)
    client = Client(address, verbose=False)
    pinned = f"who/cells@{expected.revision}"
    for model in ("who/cells", "who/cells@main", pinned):
        assert client.predict(handle_file(image), model, 7, 3, api_name="/classify") == expected.to_dict()
    for name, arguments in {
        "noise_curve": {"image": handle_file(image)},
        "score_images": {"files": [handle_file(image)]},
    }.items():
        answer = client.predict(**arguments, model=pinned, api_name=f"/{name}")
        assert (answer["model_id"], answer["revision"]) == ("who/cells", expected.revision)
    listed = client.predict(api_name="/list_models")["models"]
    assert [one["model_id"] for one in listed] == ["tiny-cell", "tiny-field"]  # nobody is told what others opened
    for name, endpoint in client.view_api(return_format="dict")["named_endpoints"].items():
        for parameter in endpoint["parameters"]:
            if parameter["parameter_name"] == "model":
                assert "owner/name[@revision]" in parameter["python_type"]["description"], name


def test_an_id_on_offer_with_its_revision_is_the_model_on_offer(offered, shelves):
    classifier = Classifier(ModelFolder.load(shared_model_folder("cell"), "who/cells", COMMIT))
    shelf = Shelf({"who/cells": classifier}, {"who/cells": ()})
    assert shelf.classifier(f"who/cells@{COMMIT}") is classifier is shelf.classifier("who/cells")
    assert shelf.name_of(classifier) == "who/cells"


def test_a_guest_is_known_by_its_commit_and_has_the_examples_of_its_labels(open_shelf, shelves):
    guest = open_shelf.classifier("who/fields", patience=60)
    commit = shelves.commits("who/fields")[0].oid
    assert open_shelf.name_of(guest) == f"who/fields@{commit}" and open_shelf.is_guest(guest)
    assert open_shelf.classifier(f"who/fields@{commit}") is guest
    assert open_shelf.examples_of(guest) == open_shelf.examples["tiny-field"]
    scene, remarks = read_scene({"model": "who/fields", "image": "drawn-Pre-1"}, open_shelf)
    assert (scene.model, scene.example, remarks) == (f"who/fields@{commit}", "drawn-Pre-1", ())
    assert open_shelf.examples_of(open_shelf.classifier("who/small0", patience=60)) == ()


REFUSED = {
    "bad/torch": "has no ONNX file, and nothing else is opened",
    "bad/pickle": "pytorch_model.bin, which may run code",
    "bad/text": "bad/text",
    "bad/absent": "no public model bad/absent",
    "who/cells@nowhere": "nowhere",
    "bad/greedy": "bad/greedy took longer than 5 s for a few images, or failed",
    "bad/nan": "are not finite numbers",
    "bad/long": "labels of model bad/long cannot be shown",
    "bad/many": "labels of model bad/many cannot be shown",
    "bad/turned": "labels of model bad/turned cannot be shown",
    "secret/private": "no public model secret/private",
    "secret/gated": "secret/gated is gated",
    "tests/data": "no public model tests/data",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_opened_is_refused_in_one_sentence_that_names_no_place_here(open_shelf, shelves, name):
    before = set(temp_files.root().iterdir())
    with pytest.raises(BlastlensError) as refusal:
        open_shelf.classifier(name, patience=60)
    told = str(refusal.value)
    assert REFUSED[name] in told and told.endswith(".") and "\n" not in told
    assert str(temp_files.root()) not in told and str(Path.home()) not in told and "/tmp" not in told
    with pytest.raises(BlastlensError, match=re.escape(told)):  # remembered, not fetched again
        open_shelf.classifier(name, patience=0)
    assert set(temp_files.root().iterdir()) == before  # what was fetched is deleted


def test_visitors_reach_nothing_by_the_operators_token_or_cache(open_shelf, shelves):
    Classifier.from_pretrained("secret/private")  # by the operator, into whose cache it comes
    commit = shelves.commits("secret/private")[0].oid
    asked = len(shelves.requests)
    for name in ("secret/private", f"secret/private@{commit}"):
        with pytest.raises(BlastlensError, match="no public model"):
            Shelf(open_shelf.classifiers, open_shelf.examples, guests=Guests()).classifier(name, patience=60)
    assert {request.authorization for request in shelves.requests[asked:]} == {None}


def test_a_network_that_takes_too_long_for_some_image_is_stopped_and_not_asked_again(tmp_path):
    on_black = [node("ReduceMin", ["means"], ["least"], keepdims=0), node("Less", ["least", "dark"], ["true"])]
    nodes = [*on_black, *forever()]
    folder = ModelFolder.load(stranger(tmp_path / "forever", ("A", "B"), nodes, dark=np.float32(-0.9)))
    network = LimitedOnnxBackend(folder.onnx_file("fp32"), folder, 0.2)
    views = np.zeros((1, folder.view.size, folder.view.size, 3), np.uint8)
    for limit in (5, 0.1):
        start = time.monotonic()
        with pytest.raises(BlastlensError, match=r"took longer than 0\.2 s"):
            network.logits(views)
        assert time.monotonic() - start < limit


def test_neither_the_record_nor_the_gate_of_a_guest_speaks_for_the_page(open_shelf):
    guest = open_shelf.classifier("who/cells", patience=60)
    assert guest.folder.metrics == {} and guest.folder.gate is None


@pytest.mark.slow
def test_one_that_takes_forever_is_ended(shelves, monkeypatch):
    monkeypatch.setattr(guests, "LONGEST_S", 4.0)
    start = time.monotonic()
    with pytest.raises(BlastlensError, match="could not be fetched and tried out within 4 s"):
        Guests().classifier("bad/forever", patience=60)
    assert time.monotonic() - start < 10


def test_one_is_fetched_at_a_time_and_nobody_waits_longer_than_patience(monkeypatch):
    go, loaded = threading.Event(), []

    def load(name):
        loaded.append(name)
        go.wait(20)
        return SimpleNamespace(folder=SimpleNamespace(model_id=name, revision=COMMIT))

    monkeypatch.setattr(guests, "_load", load)
    shared = Guests()
    for name, told in (("a/a", "being fetched"), ("a/a", "being fetched"), ("b/b", "Another model is being fetched")):
        start = time.monotonic()
        with pytest.raises(NotYetError, match=told):
            shared.classifier(name, patience=0.05)
        assert time.monotonic() - start < 1
    assert loaded == ["a/a"]
    go.set()
    assert wait_for(lambda: shared.classifier("a/a", patience=5)).folder.model_id == "a/a"
    assert wait_for(lambda: shared.classifier("b/b", patience=5)).folder.model_id == "b/b"
    assert loaded == ["a/a", "b/b"]


def wait_for(ask: Callable[[], Classifier]) -> Classifier:
    for _ in range(100):
        try:
            return ask()
        except NotYetError:
            time.sleep(0.02)
    pytest.fail("still being fetched")


def test_a_mistake_of_ours_does_not_keep_the_door_shut(monkeypatch):
    shared = Guests()
    monkeypatch.setattr(guests, "_load", lambda name: {}[name])
    with pytest.raises(BlastlensError, match="a/a cannot be used here"):
        shared.classifier("a/a")
    guest = SimpleNamespace(folder=SimpleNamespace(model_id="b/b", revision=COMMIT))
    monkeypatch.setattr(guests, "_load", lambda name: guest)
    assert shared.classifier("b/b") is guest


@pytest.mark.slow
def test_only_the_last_few_stay_in_memory_whatever_the_page_keeps_of_their_answers(shelves, offered, image):
    shelf = Shelf(*offered, guests=Guests())
    tab = TryACell(shelf)
    upload = uploaded(image)
    gone = []
    for number in range(KEPT + 1):
        name = f"who/small{number}"
        gone.append(weakref.ref(shelf.classifier(name, patience=60)))
        assert "Answered in" in tab.answer(upload, name, NOISE, 20, 0)[5]
        assert "<svg" in tab.curve(upload, name, NOISE, 20, 0)
        run = Run.of(shelf.classifier(name), [str(image)], 0)
        list(run.steps())
    gc.collect()
    assert [one() is None for one in gone] == [True] + [False] * KEPT
    assert single_image._curve.cache_info().currsize > KEPT  # what it answered is kept, and does no harm
    shelf.classifier("who/small0", patience=60)  # it can come again


def uploaded(file: Path) -> dict[str, object]:
    """A file as Gradio hands over what was uploaded."""
    place = Path(get_upload_folder(), f"guests-{time.monotonic_ns()}")
    place.mkdir(parents=True)
    return {"path": shutil.copy(file, place), "url": None}


@pytest.mark.slow
def test_others_are_answered_while_a_model_is_fetched(address, shelves, image):
    shelves.fail("GET", "api/models/who/small1", delay=3.0)
    client = Client(address, verbose=False)
    client.predict(handle_file(image), "", 0, 0, api_name="/classify")
    slow = client.submit(handle_file(image), "who/small1", 0, 0, api_name="/classify")
    time.sleep(0.5)
    start = time.monotonic()
    for _ in range(3):
        assert client.predict(handle_file(image), "tiny-cell", 0, 0, api_name="/classify")["label"]
    with pytest.raises(AppError, match="is being fetched"):
        client.predict(handle_file(image), "who/small2", 0, 0, api_name="/classify")
    assert time.monotonic() - start < 2
    assert slow.result()["model_id"] == "who/small1"


# Labels that nobody here knows, and that mean harm


def raw(html: object) -> list[str]:
    """Places where a hostile label, or what a metrics.json claims, got into a page as it is."""
    return re.findall(r"<img src=x|<script>alert|weighted F1</span> 1\.00", str(html))


def test_labels_of_strangers_are_shown_and_never_run_on_every_tab(open_shelf, image, tmp_path):
    name = "who/hostile"
    guest = open_shelf.classifier(name, patience=60)
    assert guest.label_names == HOSTILE and guest.folder.metrics == {}
    tab, upload = TryACell(open_shelf), uploaded(image)
    shown = tab.switch(upload, name, "jpeg", 40, 0)
    assert list(shown[6]["value"]) == list(HOSTILE)  # the label component writes text
    assert "not measured, as far as this page knows" in shown[0]
    run = Run.of(guest, [str(image)], 0)
    list(run.steps())
    folders = [c.folder for c in open_shelf.classifiers.values()]
    for html in (
        *(part for place, part in enumerate(shown) if place != 6),
        tab.curve(upload, name, NOISE, 20, 0),
        facts(guest.folder),
        about_html(guest.folder, folders, None),
        systems_html(None, folders, guest.folder) + noise_html(None, guest.folder, ["x"]),
        model_html(guest.folder) + speed_html(None, folders, guest.folder),
        code_snippets._own(guest.folder, guest=True),
        code_snippets._asked(open_shelf.name_of(guest), "http://here"),
        summary(run) + images_html(run, TableView()) + patients_html(run, TableView()),
        how_to_prepare(guest.label_names),
    ):
        assert raw(html) == []
    assert "&lt;img" in images_html(run, TableView())


def test_labelled_images_can_be_tested_with_any_labels(address, shelves, tmp_path):
    with zipfile.ZipFile(tmp_path / "mine.zip", "w") as archive:
        for label in ("A", "B1"):
            for number in range(3):
                Image.fromarray(np.full((64, 64, 3), 40 * number + 20, np.uint8)).save(tmp_path / "x.png")
                archive.write(tmp_path / "x.png", f"{label}/{number}.png")
    client = Client(address, verbose=False)
    # It has one turn at a time, so it does not wait for a model; one that answers alongside others does.
    client.predict(handle_file(tmp_path / "x.png"), "who/small1", 0, 0, api_name="/classify")
    answer = client.predict(
        archive=handle_file(tmp_path / "mine.zip"), model="who/small1", api_name="/test_on_labelled_images"
    )
    assert answer["model_id"] == "who/small1"
    assert answer["images"] == 6


# Lines of code


def test_the_lines_for_a_copy_and_a_guest_name_the_repository_and_its_commit(open_shelf, tmp_path):
    copy = shutil.copytree(shared_model_folder("cell"), tmp_path / "models" / "copy")
    from_copy = Origin.of(ModelFolder.load(copy, "who/cells", COMMIT))
    assert (from_copy.name, from_copy.revision, from_copy.on_the_hub) == ("who/cells", COMMIT, True)
    guest = open_shelf.classifier("who/cells", patience=60)
    page = code_snippets._own(guest.folder, open_shelf.is_guest(guest))
    assert "who/cells" in page and guest.folder.revision in page and str(guest.folder.path) not in page
    assert "fetched from the Hugging Face Hub" in page and "Nobody here has checked it" in page
    asked = code_snippets._asked(open_shelf.name_of(guest), "http://here")
    assert f"who/cells@{guest.folder.revision}" in asked


def test_nobody_is_handed_lines_that_run_a_strangers_code():
    origin = Origin("who/cells", COMMIT, custom_code=True)
    assert [one.title for one in in_python(origin, "cell.png")] == ["transformers", "blastlens"]
    (only,) = in_python(origin, "cell.png", trusted=False)
    assert only.title == "blastlens" and "trust_remote_code" not in only.code


# The line below the picker


def steps(events) -> list:
    async def gather():
        return [one async for one in events]

    return asyncio.run(gather())


def test_a_model_is_opened_for_this_visitor_with_word_of_how_it_goes(open_shelf, shelves):
    line = OpenHub(Shelf(open_shelf.classifiers, open_shelf.examples, guests=Guests()))
    *before, (radio, known, told, came) = steps(line.pick(" who/cells ", []))
    assert before and all("is being fetched" in one[2] for one in before)
    name = f"who/cells@{shelves.commits('who/cells')[0].oid}"
    assert radio.value == name and [choice[1] for choice in radio.choices] == ["tiny-cell", "tiny-field", name]
    assert [one[1] for one in known] == [name] and "Picked above: who/cells" in told and came > 0
    (radio, known, *_) = steps(line.pick("tiny-field", known))[-1]
    assert radio.value == "tiny-field" and [one[1] for one in known] == [name]
    (one,) = steps(line.pick("", known))
    assert "Give a model of the Hub" in one[2]


def test_a_link_opens_its_model_first_and_a_wrong_one_is_told_once(open_shelf):
    line = OpenHub(open_shelf)

    def follow(model):
        return steps(line.follow([], SimpleNamespace(query_params={"model": model} if model else {})))

    for model in ("", "tiny-field"):
        ((radio, *_),) = follow(model)
        assert radio == {"__type__": "update"}
    assert follow("who/cells")[-1][0].value.startswith("who/cells@")
    assert 'role="alert"' not in follow("bad/absent")[-1][2]
    _, (remark,) = read_scene({"model": "bad/absent"}, open_shelf)
    assert "no public model bad/absent" in remark


# Copies in place of the Hub's models


def test_a_copy_says_so_above_the_picker_and_in_list_models(hub, tmp_path, monkeypatch, image):
    hub.fail("GET", ".", times=math.inf, status=404, headers={"X-Error-Code": "RepoNotFound"})
    copy = shutil.copytree(shared_model_folder("cell"), tmp_path / "models" / "copy")
    demo = build([Wanted("who/cells", COMMIT, copy)])
    page = json.dumps(demo.config, default=str)
    assert "answers with the copy that came with it, models/copy" in page and str(copy) not in page
    _, place, _ = launch(demo, prevent_thread_lock=True, quiet=True)
    try:
        client = Client(place, verbose=False)
        (one,) = client.predict(api_name="/list_models")["models"]
        assert (one["model_id"], one["revision"]) == ("who/cells", COMMIT)
        (warning,) = one["warnings"]
        assert "no public model who/cells" in warning and "made from that very revision." in warning
        answer = client.predict(handle_file(image), api_name="/classify")
        folder = ModelFolder.load(copy, "who/cells", COMMIT)
        assert answer == Classifier(folder).predict(image).to_dict()
    finally:
        demo.close()


# In a browser, last: while Playwright runs, no other event loop can


@pytest.mark.parametrize("width", [1280, 390])
def test_a_visitor_opens_a_model_tries_it_and_can_share_it(browser, address, shelves, width):
    with visiting(browser, address) as visit:
        opened = visit(width=width)
        page = opened.page
        page.locator(".notes", has_text="Answered in").wait_for()
        page.get_by_label("Another model from the Hub").fill("who/absent")
        page.get_by_role("button", name="Open it").click()
        page.locator("p.error", has_text="no public model who/absent").wait_for()
        page.get_by_label("Another model from the Hub").fill("who/fields")
        page.keyboard.press("Enter")
        page.get_by_role("radio", name=re.compile("who.fields"), checked=True).wait_for()
        page.wait_for_url(re.compile("model=who%2Ffields%40[0-9a-f]{40}&image=drawn-Benign-1"))
        page.locator(".facts", has_text="not measured").wait_for()
        page.locator(".notes", has_text="by who/fields").wait_for()
        assert opened.fits() and opened.barriers() == []
        again = visit("/?" + page.url.partition("/?")[2], width=width).page
        again.locator(".notes", has_text="by who/fields").wait_for()
        assert again.get_by_role("radio", name=re.compile("who.fields")).is_checked()
        page.get_by_role("radio", name=re.compile("tiny-cell")).check()
        page.wait_for_url(re.compile("model=tiny-cell"))
