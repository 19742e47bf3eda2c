"""Many clients at once: each gets its own answer, a full queue is reported, and disconnecting stops a run."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from helpers_models import shared_model_folder

from benchmarks import load
from benchmarks.load import Outcome
from benchmarks.questions import SHARES, BusyError, LostError, Question, Visitor, digest, same
from blastlens import Classifier
from blastlens.synthetic_images import synthetic_image
from blastlens.ui import batch, build, launch, single_image

ENDLESS = 7  # the seed of runs that go on until the client disconnects
MODEL = "tiny-cell"


@pytest.fixture(scope="module")
def demo():
    """A page with one small model, launched as app.py does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BLASTLENS_DATA", raising=False)
        page = build([shared_model_folder("cell")])
    launch(page, prevent_thread_lock=True, quiet=True)
    yield page
    page.close()


@pytest.fixture
def visitor(demo):
    """A client of the page, whose queue is empty before and after."""
    address = demo.local_url.rstrip("/")
    events = {one["api_name"]: one["id"] for one in httpx.get(f"{address}/config").json()["dependencies"]}
    yield Visitor(address, events)
    until(lambda: len(demo._queue) == demo._queue.get_active_worker_count() == 0)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    file = tmp_path_factory.mktemp("cell") / "cell.png"
    synthetic_image("ALL", 3).save(file)
    return file


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


@contextmanager
def asking(visitor, cell):
    """A client that has started an endless run and reads its stream until it disconnects."""
    data = [[visitor.give(cell)], MODEL, 0, ENDLESS, 0]
    event = visitor.http.post("/call/score_images", json={"data": data}).json()["event_id"]
    with httpx.stream("GET", f"{visitor.address}/gradio_api/call/score_images/{event}", timeout=60):
        yield


def classify(visitor, cell, sigma=0):
    return visitor.call("classify", visitor.give(cell), MODEL, sigma, 0, "none", 0, 0)


def test_disconnecting_stops_a_run_and_frees_its_place(visitor, cell, endless):
    with ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(asking(visitor, cell))
        until(lambda: endless)
        assert len(endless) == 1  # one at a time
        assert classify(visitor, cell)["label"] in ("ALL", "HEM")  # single images do not wait for it
    answer = visitor.call("score_images", [visitor.give(cell)], MODEL, 0, 0, 0)
    assert len(answer["images"]) == 1
    until(lambda: not endless)


def test_a_full_queue_is_reported(demo, visitor, cell, monkeypatch):
    client = Client(visitor.address, verbose=False)
    monkeypatch.setattr(demo._queue, "max_size", 0)
    monkeypatch.setattr("blastlens.ui.server.MAX_WAITING", 0)
    with pytest.raises(BusyError, match="Queue is full"):
        classify(visitor, cell)
    with pytest.raises(QueueError, match="Queue is full"):
        client.predict(handle_file(cell), api_name="/classify")
    with pytest.raises(BusyError, match="This page is busy"):
        visitor.tool("list_models")
    monkeypatch.undo()
    assert client.predict(handle_file(cell), api_name="/classify")["label"] in ("ALL", "HEM")


@pytest.mark.parametrize("road", ["call", "tool"])
def test_each_of_many_parallel_calls_gets_its_own_answer(visitor, cell, road):
    expected = {
        sigma: Classifier.from_pretrained(shared_model_folder("cell")).predict(cell, sigma).to_dict()
        for sigma in range(30)
    }
    address = f"{visitor.address}/gradio_api/file={visitor.give(cell)['path']}"

    def ask(sigma):
        if road == "call":
            return classify(visitor, cell, sigma)
        return visitor.tool("classify", image=address, model=MODEL, sigma=sigma)

    with ThreadPoolExecutor(10) as pool:
        assert dict(zip(expected, pool.map(ask, expected), strict=True)) == expected


def test_nothing_of_what_a_client_was_shown_stays_in_memory(demo, visitor, cell):
    shown = visitor.on_page("answer", visitor.give(cell), MODEL, "gaussian_noise", 20, 0, 0)
    assert any(shown)
    assert demo.state_holder[visitor.name].config_values == {}
    assert len(demo._queue.event_analytics) <= 1


def test_previews_leave_room_for_those_who_wait(visitor, cell, monkeypatch):
    image, free = visitor.give(cell), threading.Event()
    given = single_image.view_html

    def slow(*shown):
        free.wait(30)
        return given(*shown)

    def preview(seed):
        return visitor.around_the_queue("preview", image, MODEL, "gaussian_noise", 20, seed, 0)

    monkeypatch.setattr(single_image, "view_html", slow)
    seen = []
    threads = [threading.Thread(target=lambda seed=seed: seen.append(preview(seed))) for seed in range(60)]
    for thread in threads:
        thread.start()
    try:
        until(lambda: len(seen) == 58)  # all but two have been left out
        assert visitor.call("classify", image, MODEL, 0, 0, "none", 0, 0)["label"] in ("ALL", "HEM")
    finally:
        free.set()
        for thread in threads:
            thread.join()
    assert sum(isinstance(shown[0], str) for shown in seen) == 2


# The load benchmark.


def outcome(client, seconds, kind="classify", **more):
    return Outcome(kind, client, seconds, **more)


def test_figures_name_what_went_wrong_and_who_waited_longest():
    found = load.figures(
        [
            *(outcome(0, 1.0) for _ in range(3)),
            outcome(1, 3.0, busy=2),
            outcome(1, 8.0, kind="folder", fault="wrong", told="this in place of that"),
            outcome(0, 8.0, kind="folder", fault="lost"),
            outcome(0, 1.0, kind="preview", busy=5),
        ],
        seconds=2.0,
    )
    assert (found["wrong"], found["lost"], found["busy"], found["per_second"]) == (1, 1, 2, 3.5)
    assert found["kinds"]["classify"]["p50_ms"] == 1000 and found["kinds"]["classify"]["longest_ms"] == 3000
    assert found["kinds"]["preview"]["busy"] == 5
    # Beside the mean of each kind: (3 x 2/3 + 1 + 1) / 5 of the one, (2 + 1) / 2 of the other.
    assert found["fairness"]["slowest_to_quickest_mean_wait"] == pytest.approx(1.5 / 0.8)
    assert (found["fairness"]["fewest_requests_of_a_client"], found["fairness"]["most_requests_of_a_client"]) == (2, 5)
    assert found["faults"][0] == "folder: wrong: this in place of that"


def test_a_swapped_answer_a_lost_one_and_a_refusal_are_told_apart():
    answers = iter(
        [BusyError("full"), BusyError("full"), {"p": 0.25}, {"p": 0.75}, LostError("gone"), KeyError("data")]
    )

    def ask(_):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    question = Question("classify", ask, {"p": 0.25})
    found = [load.asked(question, None, 0, lambda: 0.0) for _ in range(4)]
    assert [(one.busy, one.fault) for one in found] == [(2, ""), (0, "wrong"), (0, "lost"), (0, "lost")]


def test_answers_are_the_same_to_a_millionth_only():
    assert same({"a": [0.1, "x"]}, {"a": (0.1 + 1e-9, "x")})
    for other in ({"a": [0.1]}, {"a": [0.1001, "x"]}, {"b": [0.1, "x"]}, {"a": [0.1, "y"]}, [0.1, "x"]):
        assert not same({"a": [0.1, "x"]}, other)
    assert digest("no picture") == ""


@pytest.mark.long
def test_the_running_page_loses_and_swaps_nothing(tmp_path, capsys):
    out = tmp_path / "load.json"
    assert load.main(["--clients", "8", "--requests", "150", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["wrong"] == record["lost"] == 0 and record["faults"] == []
    assert set(record["kinds"]) == set(SHARES)
    assert sum(row["count"] for row in record["kinds"].values()) == 150
    assert record["fairness"]["clients_served"] == 8
    assert sorted(map(int, record["resident_mb"])) == [15, 150]
    assert "8 clients at once, 150 requests" in capsys.readouterr().out
    wrong, lost, _ = load.summary(record)
    assert wrong.values == lost.values == {"": 0}
