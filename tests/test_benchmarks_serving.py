"""The benchmarks of serving and memory: what they compute, and that they run on drawn images."""

import json
import subprocess
import sys

import pytest

from benchmarks import memory, serving


def test_ratios_are_taken_round_by_round_from_medians():
    ours, theirs = iter([9, 1, 50, 1, 4, 4, 4]), iter([9, 2, 2, 2, 1, 1, 1])
    found = serving.in_turns(lambda: next(ours), lambda: next(theirs), rounds=2, calls=3)
    # The first of each warms up; a call that was interrupted does not count.
    assert found["ratio"] == {"median": (1 / 2 + 4) / 2, "low": 1 / 2, "high": 4}
    assert found["ours_s"]["low"] == 1 and found["theirs_s"]["high"] == 2


def test_rates_turn_times_around():
    timed = {name: {"median": 2.0, "low": 1.0, "high": 4.0} for name in ("ours_s", "theirs_s", "ratio")}
    found = serving._per_second(timed, 100)
    assert found["ours_per_second"] == {"median": 50, "low": 25, "high": 100}
    assert found["ratio"] == {"median": 0.5, "low": 0.25, "high": 1}


def test_the_table_says_what_was_asked_and_whether_it_is_met():
    figure = {"median": 0.39, "low": 0.3, "high": 0.5}
    record = {
        "models": {
            "one": {"fp32": {"image_vs_pipeline": {"ratio": figure}}, "int8": {"curve_vs_bare": {"ratio": figure}}}
        },
        "images": {"one": {"side": 450, "size": 224, "drawn": False}},
        "import_s": {"median": 0.2, "low": 0.2, "high": 0.3},
    }
    text = serving.table(record)
    assert "| one | fp32 | one 450 px image to its calibrated answer" in text
    assert "| 0.39 (0.30 to 0.50) | at most 0.4 | yes |" in text
    assert "| 0.39 (0.30 to 0.50) |  |  |" in text, "nothing was asked of int8's curve"


def test_resident_memory_is_that_of_this_process():
    # A young one, which has no freed memory to put the block into.
    child = subprocess.Popen(
        [sys.executable, "-c", "input(); block = bytearray(b'x') * 50_000_000; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin and child.stdout
    before = memory.resident_mb(child.pid)
    child.stdin.write(b"\n")
    child.stdin.flush()
    child.stdout.readline()
    assert 40 < memory.resident_mb(child.pid) - before < 70
    child.communicate(b"\n")


def test_requests_are_mixed_and_the_same_every_time(tmp_path):
    class Client:
        def __init__(self):
            self.asked = []

        def predict(self, *what, api_name):
            self.asked.append((api_name, [str(part) for part in what]))

    said = []
    for _ in range(2):
        client = Client()
        for ask in memory.requests(client, tmp_path, 200):
            ask()
        said.append(client.asked)
    assert said[0] == said[1]
    assert {name for name, _ in said[0]} == {"/classify", "/noise_curve", "/score_images", "/list_models"}


@pytest.mark.slow
def test_serving_is_measured_on_drawn_cells(tmp_path, capsys):
    out = tmp_path / "serving.json"
    arguments = ["--models", "mobilenetv1-cnmc2019", "--precisions", "int8", "--count", "8", "--rounds", "1"]
    assert serving.main([*arguments, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    (measured,) = record["models"]["mobilenetv1-cnmc2019"].values()
    assert set(measured) == set(serving.SAID)
    assert all(figures["ratio"]["median"] > 0 for figures in measured.values())
    assert record["images"]["mobilenetv1-cnmc2019"] == {"side": 450, "size": 224, "drawn": True}
    assert capsys.readouterr().out.count("| mobilenetv1-cnmc2019 | int8 |") == len(serving.SAID)
    assert str(tmp_path) not in out.read_text()


@pytest.mark.slow
def test_memory_is_measured_on_the_running_page(tmp_path, capsys):
    out = tmp_path / "memory.json"
    assert memory.main(["--after", "3", "8", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert record["requests"] == 8 and all(50 < size < 2000 for size in record["resident_mb"].values())
    assert "| at most 700 |" in capsys.readouterr().out
