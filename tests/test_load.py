"""Many clients at once: each gets its own answer, a full queue is reported, and disconnecting stops a run."""

import ast
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError
from helpers_models import shared_model_folder
from helpers_page import launched

from benchmarks import load
from benchmarks.load import Outcome, Question, contains
from blastlens import Classifier
from blastlens.synthetic_images import synthetic_image
from blastlens.ui import batch, single_image

ENDLESS = 7  # the seed of runs that go on until the client disconnects
MODEL = "tiny-cell"


@pytest.fixture(scope="module")
def demo():
    """A page with one small model, launched as app.py does."""
    with launched(shared_model_folder("cell")) as (page, _):
        yield page


@pytest.fixture
def http(demo):
    """Requests to the page's API. Its queue is empty before and after."""
    with httpx.Client(base_url=f"{demo.local_url}gradio_api", timeout=120) as client:
        yield client
    until(lambda: len(demo._queue) == demo._queue.get_active_worker_count() == 0)


@pytest.fixture
def classify(demo, cell):
    """The endpoint, for a sigma."""
    client = Client(demo.local_url, verbose=False)
    return lambda sigma=0: client.predict(handle_file(cell), MODEL, sigma, api_name="/classify")


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    file = tmp_path_factory.mktemp("cell") / "cell.png"
    synthetic_image("ALL", 3).save(file)
    return file


@pytest.fixture
def image(http, cell):
    """The uploaded cell, as events of the page take it."""
    (path,) = http.post("/upload", files={"files": (cell.name, cell.read_bytes())}).json()
    return {"path": path, "orig_name": cell.name, "meta": {"_type": "gradio.FileData"}}


@pytest.fixture
def endless(monkeypatch):
    """The runs with the seed ENDLESS that are going on; each goes on until it is stopped."""
    steps, going, end = batch.BatchRun.steps, [], threading.Event()

    def lasting(run):
        if run.seed != ENDLESS:
            yield from steps(run)
            return
        going.append(run)
        try:
            while not end.wait(0.02):
                yield
        finally:
            going.remove(run)

    monkeypatch.setattr(batch.BatchRun, "steps", lasting)
    yield going
    end.set()


def until(true):
    """Wait for a state that other threads bring about."""
    end = time.monotonic() + 120
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def event(demo, name, *data):
    """The request of an event of the page."""
    number = next(number for number, one in demo.fns.items() if one.api_name == name)
    return {"data": data, "fn_index": number, "session_hash": "one"}


def tool(http, name, **arguments):
    """The answer of a tool of MCP: whether it is an error, and its text."""
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    reply = http.post("/mcp/", json=asked, headers={"Accept": "application/json, text/event-stream"})
    told = [json.loads(line[len("data: ") :]) for line in reply.text.splitlines() if line.startswith("data: {")]
    result = next(one["result"] for one in told if "result" in one)
    return result["isError"], result["content"][0]["text"]


def test_disconnecting_stops_a_run_and_frees_its_place(demo, http, image, cell, classify, endless):
    data = [[image], MODEL, 0, ENDLESS, 0]
    with ExitStack() as clients:
        for _ in range(3):
            started = http.post("/call/score_images", json={"data": data}).json()["event_id"]
            clients.enter_context(httpx.stream("GET", f"{http.base_url}call/score_images/{started}", timeout=60))
        until(lambda: endless)
        assert len(endless) == 1  # one at a time
        assert classify()["label"] in ("ALL", "HEM")  # single images do not wait for it
    client = Client(demo.local_url, verbose=False)
    answer = client.predict([handle_file(cell)], MODEL, 0, 0, api_name="/score_images")
    assert len(answer["images"]) == 1
    until(lambda: not endless)


def test_a_full_queue_is_reported(demo, http, classify, monkeypatch):
    monkeypatch.setattr(demo._queue, "max_size", 0)
    monkeypatch.setattr("blastlens.ui.server.MAX_WAITING", 0)
    with pytest.raises(QueueError, match="Queue is full"):
        classify()
    failed, text = tool(http, "list_models")
    assert failed and "This page is busy" in text
    monkeypatch.undo()
    assert classify()["label"] in ("ALL", "HEM")


@pytest.mark.parametrize("interface", ["API", "MCP"])
def test_each_of_many_parallel_calls_gets_its_own_answer(demo, http, image, cell, interface):
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    expected = {sigma: classifier.predict(cell, sigma).to_dict() for sigma in range(30)}
    address = f"{http.base_url}file={image['path']}"

    def ask(sigma):
        if interface == "API":  # a client for each: parallel calls of one share a stream, which may close in between
            return Client(demo.local_url, verbose=False).predict(handle_file(cell), MODEL, sigma, api_name="/classify")
        return ast.literal_eval(tool(http, "classify", image=address, model=MODEL, sigma=sigma)[1])

    with ThreadPoolExecutor(10) as pool:
        assert dict(zip(expected, pool.map(ask, expected), strict=True)) == expected


def test_nothing_of_what_a_client_was_shown_stays_in_memory(demo, http, image):
    http.post("/queue/join", json=event(demo, "answer", image, MODEL, "gaussian_noise", 20, 0, 0))
    assert '"success":true' in http.get("/queue/data", params={"session_hash": "one"}).text
    assert demo.state_holder["one"].config_values == {}
    assert len(demo._queue.event_analytics) <= 1


def test_previews_leave_room_for_those_who_wait(demo, http, image, classify, monkeypatch):
    free, given = threading.Event(), single_image.view_html

    def slow(*shown):
        free.wait(30)
        return given(*shown)

    def preview(seed):
        asked = event(demo, "preview", image, MODEL, "gaussian_noise", 20, seed, 0)
        seen.append(http.post("/run/predict", json=asked).json()["data"][0])

    monkeypatch.setattr(single_image, "view_html", slow)
    seen = []
    threads = [threading.Thread(target=preview, args=(seed,)) for seed in range(60)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(seen) == 58)  # all but two have been left out
        assert classify()["label"] in ("ALL", "HEM")
    finally:
        free.set()
        for thread in threads:
            thread.join()
    assert sum(isinstance(shown, str) for shown in seen) == 2


# The load benchmark.


def outcome(client, seconds, kind="classify", **more):
    return Outcome(kind, client, seconds, **more)


def test_figures_name_what_went_wrong_and_who_waited_longest():
    found = load.figures(
        [
            *(outcome(0, 1.0) for _ in range(3)),
            outcome(1, 3.0, busy=2),
            outcome(1, 8.0, kind="folder", fault="wrong", details="this in place of that"),
            outcome(0, 8.0, kind="folder", fault="lost"),
        ],
        seconds=2.0,
    )
    assert (found["wrong"], found["lost"], found["busy"], found["per_second"]) == (1, 1, 2, 3)
    assert found["kinds"]["classify"]["p50_ms"] == 1000 and found["kinds"]["classify"]["longest_ms"] == 3000
    # Beside the mean of each kind: (3 x 2/3 + 1) / 4 of the one, (2 + 1) / 2 of the other.
    assert found["fairness"]["slowest_to_quickest_mean_wait"] == pytest.approx(1.5 / 0.75)
    assert (found["fairness"]["fewest_requests_of_a_client"], found["fairness"]["most_requests_of_a_client"]) == (2, 4)
    assert found["faults"][0] == "folder: wrong: this in place of that"


def test_a_wrong_answer_a_lost_one_and_a_refusal_are_told_apart():
    answers = iter(
        [QueueError("full"), QueueError("full"), {"p": 0.25}, {"p": 0.75}, KeyError("data"), AppError("no image")]
    )

    def call(*_, api_name):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    asked = Question("classify", "/classify", (), {"p": 0.25})
    found = [load.ask(asked, call, 0, lambda: 0.0) for _ in range(4)]
    assert [(one.busy, one.fault) for one in found] == [(2, ""), (0, "wrong"), (0, "lost"), (0, "wrong")]


def test_answers_are_the_same_to_a_millionth_only():
    assert contains({"a": [0.1 + 1e-9, "x"], "b": 1}, {"a": (0.1, "x")})
    for other in ({"a": [0.1]}, {"a": [0.1001, "x"]}, {"b": [0.1, "x"]}, {"a": [0.1, "y"]}, [0.1, "x"]):
        assert not contains(other, {"a": [0.1, "x"]})


@pytest.mark.long
def test_the_running_page_loses_and_swaps_nothing():
    record = load.measure_load(clients=8, requests=150)
    assert record["wrong"] == record["lost"] == 0 and record["faults"] == []
    assert set(record["kinds"]) == set(load.SHARES)
    assert sum(row["count"] for row in record["kinds"].values()) == 150
    assert record["fairness"]["clients_served"] == 8 and sorted(map(int, record["resident_mb"])) == [15, 150]
