"""Many visitors at once: right answers, none lost, one sentence where there is no room, and places freed by leaving."""

import asyncio
import json
import threading
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.utils import QueueError
from helpers_models import shared_model_folder

from benchmarks import load
from benchmarks.load import Outcome
from benchmarks.questions import SHARES, BusyError, LostError, Maker, Question, Visitor, counts, digest, same
from blastlens import Classifier
from blastlens.synthetic_images import draw_cell
from blastlens.ui import batch, build, by_mcp, launch, queueing, single_image

PROMPT_S = 10.0  # for an answer that takes milliseconds, on a machine that others use, too
ENDLESS = 7  # the seed of runs that last until nobody wants them any more
MODEL = "tiny-cell"


@pytest.fixture(scope="module")
def demo():
    """A page of a throw-away model of its own, launched as app.py does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BLASTLENS_DATA", raising=False)
        page = build([shared_model_folder("cell")])
    launch(page, prevent_thread_lock=True, quiet=True)
    yield page
    page.close()


@pytest.fixture
def address(demo):
    """The page's, with nobody in its queue."""
    yield demo.local_url.rstrip("/")
    until(lambda: len(demo._queue) == demo._queue.get_active_worker_count() == 0)


@pytest.fixture
def visitor(address):
    events = {one["api_name"]: one["id"] for one in httpx.get(f"{address}/config").json()["dependencies"]}
    return Visitor(address, events, patience=30)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    file = tmp_path_factory.mktemp("cell") / "cell.png"
    draw_cell("ALL", 3).save(file)
    return file


@pytest.fixture
def endless(monkeypatch):
    """Runs of many images with the seed ENDLESS go on for half a minute, and count those that are going on."""
    steps, going = batch.Run.steps, []

    def lasting(run):
        if run.seed != ENDLESS:
            yield from steps(run)
            return
        going.append(run)
        try:
            for _ in range(1500):
                time.sleep(0.02)
                yield
        finally:
            going.remove(run)

    monkeypatch.setattr(batch.Run, "steps", lasting)
    return going


def until(true, seconds=PROMPT_S):
    """Wait for something that other threads bring about."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def join(visitor, cell, seed=ENDLESS):
    """Ask for a run over many images; returns where its answer will be."""
    data = [[visitor.give(cell)], MODEL, 0, seed, 0]
    reply = visitor.http.post("/call/score_images", json={"data": data})
    assert reply.status_code == 200, reply.text
    return f"/call/score_images/{reply.json()['event_id']}"


@contextmanager
def listening(visitor, place):
    """Someone who reads an answer's stream until they leave."""
    with httpx.Client(base_url=visitor.http.base_url, timeout=30) as client, client.stream("GET", place):
        yield


def answered(visitor, cell):
    """Whether a newcomer's run over many images is answered, and promptly."""
    start = time.monotonic()
    answer = visitor.call("score_images", [visitor.give(cell)], MODEL, 0, 0, 0)
    return len(answer["images"]) == 1 and time.monotonic() - start < PROMPT_S


def test_who_leaves_while_being_answered_frees_the_place(visitor, cell, endless):
    with listening(visitor, join(visitor, cell)):
        until(lambda: endless)
    assert answered(visitor, cell)
    assert not endless


def test_a_queue_full_of_visitors_who_leave_is_free_again(demo, visitor, cell, endless):
    with ExitStack() as crowd:
        for number in range(1 + queueing.MAX_LONG_WAITING):
            crowd.enter_context(listening(visitor, join(visitor, cell)))
            until(lambda: endless)  # the first is being answered, the others wait
            assert len(demo._queue) == number
        with pytest.raises(BusyError, match=r"16 runs over many images are waiting already\. Please try again"):
            visitor.call("score_images", [visitor.give(cell)], MODEL, 0, 0, 0)
        # Whoever asks about one image is not kept out by them.
        assert visitor.call("classify", visitor.give(cell), MODEL, 0, 0, "none", 0, 0)["label"] in ("ALL", "HEM")
    assert answered(visitor, cell)
    assert not endless


def test_who_asks_and_never_comes_for_the_answer_loses_the_place(demo, visitor, cell, endless, monkeypatch):
    monkeypatch.setattr(queueing, "LISTEN_S", 1.5)
    for _ in range(1 + queueing.MAX_LONG_WAITING):
        place = join(visitor, cell)
    until(lambda: len(demo._queue) == 0 and not endless)
    assert answered(visitor, cell)
    with visitor.http.stream("GET", place) as late:
        assert next(late.iter_lines()) == "event: error"


def test_an_answer_may_be_fetched_late(visitor, cell):
    data = [visitor.give(cell), MODEL, 0, 0, "none", 0, 0]
    event = visitor.http.post("/call/classify", json={"data": data}).json()["event_id"]
    time.sleep(2 * queueing.SWEEP_S)
    with visitor.http.stream("GET", f"/call/classify/{event}") as late:
        assert b"event: complete" in late.read()


def test_the_answer_to_a_visitor_who_is_forgotten_meanwhile_is_whole(demo, visitor, cell, monkeypatch):
    """Regression: the stream of the answer ended in a KeyError."""
    steps = batch.Run.steps

    def forgetting(run):
        demo._queue.pending_event_ids_session.clear()
        yield from steps(run)

    monkeypatch.setattr(batch.Run, "steps", forgetting)
    with visitor.http.stream("GET", join(visitor, cell, seed=0)) as stream:
        told = stream.read()
    assert b"event: complete" in told and b"event: error" not in told


def test_a_long_wait_does_not_count_as_having_left(visitor, cell, endless, monkeypatch):
    monkeypatch.setattr(queueing, "LISTEN_S", 0.5)
    with listening(visitor, join(visitor, cell)), listening(visitor, join(visitor, cell)):
        until(lambda: endless)
        time.sleep(3)
        assert len(endless) == 1


def test_of_visitors_who_were_answered_or_left_nothing_is_kept(demo, visitor, cell, endless, monkeypatch):
    monkeypatch.setattr(queueing, "LISTEN_S", 0.5)
    for seed in range(3):
        visitor.call("classify", visitor.give(cell), MODEL, 3, seed, "none", 0, 0)
    with listening(visitor, join(visitor, cell)):
        until(lambda: endless)
    line = demo._queue
    until(lambda: not line.pending_messages_per_session and not line.pending_event_ids_session)
    assert not line.event_ids_to_events
    assert len(line.event_analytics) <= 1


def test_nothing_is_kept_of_what_a_visitor_saw(demo, visitor, cell):
    shown = visitor.on_page("answer", visitor.give(cell), MODEL, "gaussian_noise", 20, 0, 0)
    assert "data:image/png" in shown[0]
    assert visitor.name in demo.state_holder
    assert demo.state_holder[visitor.name].config_values == {}


def test_no_statistics_are_made_that_nobody_sees(demo, visitor, cell):
    visitor.call("classify", visitor.give(cell), MODEL, 0, 0, "none", 0, 0)
    assert demo._queue.compute_analytics_summary([{"function": "classify"}]) == {"functions": {}}


def test_beyond_the_limit_every_road_says_that_the_page_is_busy(address, visitor, cell, monkeypatch):
    client = Client(address, verbose=False)
    monkeypatch.setattr(queueing, "MAX_WAITING", 0)
    with pytest.raises(BusyError, match=r"^This page is busy: 0 requests are waiting already\. Please try again"):
        visitor.call("classify", visitor.give(cell), MODEL, 0, 0, "none", 0, 0)
    with pytest.raises(QueueError, match="Queue is full! Please try again"):
        client.predict(handle_file(cell), api_name="/classify")
    with pytest.raises(BusyError, match="Queue is full! Please try again"):
        visitor.tool("list_models")
    monkeypatch.undo()
    assert client.predict(handle_file(cell), api_name="/classify")["label"] in ("ALL", "HEM")


def test_a_caller_by_mcp_may_wait_as_long_as_others(visitor, cell, monkeypatch):
    """The page asks itself for them; its own request must outlast a busy moment of more than httpx's 5 s."""
    visitor.tool("list_models")
    push = queueing.Line.push

    async def late(*given, **named):
        await asyncio.sleep(6)
        return await push(*given, **named)

    monkeypatch.setattr(queueing.Line, "push", late)
    assert [one["model_id"] for one in visitor.tool("list_models")["models"]] == [MODEL]


def test_a_call_by_mcp_that_gradio_takes_for_cancelled_is_asked_again(visitor, monkeypatch):
    given, tried = by_mcp._GIVEN, []

    async def cancelled(server, job):
        tried.append(job)
        if len(tried) < 3:
            raise CancelledError
        return await given(server, job)

    monkeypatch.setattr(by_mcp, "_GIVEN", cancelled)
    assert [one["model_id"] for one in visitor.tool("list_models")["models"]] == [MODEL]
    assert len(tried) == 3


def test_previews_leave_room_for_those_who_wait(visitor, cell, monkeypatch):
    image, free = visitor.give(cell), threading.Event()
    given = single_image.seen_html

    def slow(*shown):
        free.wait(30)
        return given(*shown)

    def preview(seed):
        return visitor.around_the_queue("preview", image, MODEL, "gaussian_noise", 20, seed, 0)

    monkeypatch.setattr(single_image, "seen_html", slow)
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


def test_the_page_says_once_that_it_is_busy(browser, address, monkeypatch):
    page = browser.new_page()
    toast = page.get_by_text("This application is currently busy. Please try again.")
    page.goto(address)
    page.locator(".chart").first.wait_for()
    monkeypatch.setattr(queueing, "MAX_WAITING", 0)
    page.locator(".examples button").nth(1).click()
    toast.first.wait_for()
    assert toast.count() == 1
    page.close()


# What the load benchmark itself is worth.


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


def test_requests_are_of_every_kind():
    assert sum(SHARES.values()) == 100
    for requests in (150, 5000):
        assert sum(counts(requests).values()) == requests and min(counts(requests).values()) >= 1


def test_no_two_questions_have_the_same_answer(tmp_path):
    models = [Classifier.from_pretrained(shared_model_folder(kind)) for kind in ("cell", "field")]
    maker = Maker(tmp_path, models)
    for kind in [kind for kind in SHARES if kind != "models"]:  # in this order: they draw from one sequence
        expected = [maker.question(kind).expected for _ in range(4)]
        pairs = [(one, other) for number, one in enumerate(expected) for other in expected[:number]]
        assert not any(same(one, other) for one, other in pairs), kind


@pytest.mark.slow
def test_the_running_page_loses_and_swaps_nothing(tmp_path, capsys):
    out = tmp_path / "load.json"
    assert load.main(["--clients", "8", "--requests", "150", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["wrong"] == record["lost"] == 0 and record["faults"] == []
    assert set(record["kinds"]) == set(SHARES)
    assert sum(row["count"] for row in record["kinds"].values()) == 150
    assert record["fairness"]["clients_served"] == 8
    assert sorted(map(int, record["resident_mb"])) == [15, 150]
    assert "| lost requests | 0 | 0 |" in capsys.readouterr().out
