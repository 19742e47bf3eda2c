"""The one command of the benchmarks: its page says what was asked, what was measured, and what was missed."""

import json
import subprocess
import sys

import pytest
from helpers_browser import chromium_path

from benchmarks import __main__ as benchmarks
from benchmarks import bulk_memory, in_browser


def ratio(value: float) -> dict:
    spread = {"median": value, "low": value, "high": value}
    return {"ratio": spread}


@pytest.fixture
def records() -> dict:
    keys = {key.rpartition("_")[0] for key in benchmarks.serving.ASKED}
    timed = {precision: {key: ratio(0.4) for key in keys} for precision in ("fp32", "int8")}
    return {
        "serving": {
            "machine": "2 CPU cores",
            "count": 256,
            "models": {"small": timed, "large": timed},
            "images": {name: {"side": 450, "size": 224, "drawn": False} for name in ("small", "large")},
            "import_s": {"median": 0.2, "low": 0.2, "high": 0.3},
        },
        "memory": {"resident_mb": {"100": 400.0, "2000": 410.0}},
        "load": {
            "clients": 32,
            "requests": 5000,
            "wrong": 0,
            "lost": 2,
            "busy": 1,
            "per_second": 40.0,
            "kinds": {"classify": {"count": 5000, "p50_ms": 5, "p95_ms": 9, "p99_ms": 9, "longest_ms": 9, "busy": 1}},
            "fairness": {
                "fewest_requests_of_a_client": 150,
                "most_requests_of_a_client": 160,
                "slowest_to_quickest_mean_wait": 1.1,
            },
            "resident_mb": {"500": 400.0, "5000": 404.0},
        },
        "bulk_memory": {
            "runs": [
                {"images": 1000, "peak_mb": 200.0, "seconds": 5.0},
                {"images": 100_000, "peak_mb": 300.0, "seconds": 300.0},
            ]
        },
        "in_browser": {
            "images": 50,
            "models": {
                name: {
                    "largest_difference": far,
                    "same_label": 50,
                    "ms": {"median": 30, "low": 20, "high": 90},
                    "drawn": name == "small",
                }
                for name, far in (("small", 0.003), ("large", 0.03))
            },
        },
    }


METRICS = {name: {"int8": {"difference": {"value": value}}} for name, value in (("small", -0.001), ("large", -0.02))}


def line(page: str, start: str) -> str:
    (found,) = [line for line in page.splitlines() if line.startswith(f"| {start}")]
    return found


def test_each_model_stands_in_its_column_and_what_is_missed_says_so(records):
    page = benchmarks.page(records, METRICS)
    assert "| what | asked | small | large |" in page
    assert line(
        page, "one image to its calibrated answer, `Classifier` vs `transformers.pipeline`, time, fp32"
    ).endswith("| at most 0.4 | 0.40 | 0.40 |")
    assert line(page, "bulk scoring vs bare").endswith("| at least 0.85 | 0.40 (missed) | 0.40 (missed) |")
    assert line(page, "weighted F1 that int8 adds").endswith("| at least -0.005 | -0.0010 | -0.0200 (missed) |")
    assert line(page, "a probability in the browser").endswith("| 0.003 | 0.03 (missed) |")
    assert "| small | drawn | 0.003 | at most 0.02 | 50 of 50 |" in page and "| large | real | 0.03 |" in page


def test_what_holds_for_all_models_stands_once(records):
    page = benchmarks.page(records, METRICS)
    assert line(page, "the page's memory after 2,000 mixed requests, vs").endswith("| at most 1.05 | 1.025 |  |")
    assert line(page, "lost requests of 32 clients at once").endswith("| at most 0 | 2 (missed) |  |")
    assert line(page, "the page's memory after 5,000 requests of").endswith("| at most 1.05 | 1.010 |  |")
    assert "| classify | 5,000 | 5 | 9 | 9 | 9 | 1 |" in page
    assert line(page, "`import blastlens`, s").endswith("| at most 0.6 | 0.20 |  |")
    assert line(page, "bulk scoring's highest memory at 100,000").endswith("| 1.50 (missed) |  |")


def test_everything_that_was_asked_has_a_row(records):
    assert len(benchmarks.rows(records, METRICS)) == len(benchmarks.serving.ASKED) + 9


def test_the_bundled_page_is_what_its_records_and_models_say():
    assert (benchmarks.ROOT / benchmarks.PAGE).read_text() == benchmarks.page(*benchmarks.read())


def test_parts_that_lack_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    (tmp_path / "serving.json").write_text("{}")
    assert benchmarks.main(["--render"]) == 2
    assert "Not measured yet: bulk_memory, memory, load, in_browser" in capsys.readouterr().err


@pytest.mark.slow
def test_the_memory_of_a_bulk_run_is_that_of_its_process(tmp_path, capsys):
    out = tmp_path / "bulk.json"
    assert bulk_memory.main(["--counts", "20", "40", "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert [run["images"] for run in record["runs"]] == [20, 40]
    assert all(60 < run["peak_mb"] < 1000 for run in record["runs"])
    assert "memory grows" in capsys.readouterr().out


def test_a_bulk_run_that_fails_measures_nothing(tmp_path):
    with pytest.raises(SystemExit, match="exit code 2"):
        bulk_memory.peak_mb(["python", "-c", "raise SystemExit(2)"])


@pytest.mark.slow
def test_the_browsers_answers_are_compared_with_pythons(tmp_path):
    chromium_path()
    out = tmp_path / "browser.json"
    command = [sys.executable, "-m", "benchmarks.in_browser", "--models", "mobilenetv1-cnmc2019", "--count", "4"]
    # A process of its own: in this one another test may have Playwright running.
    run = subprocess.run([*command, "--out", out], cwd=benchmarks.ROOT, capture_output=True, text=True, check=True)
    (row,) = json.loads(out.read_text())["models"].values()
    assert row["largest_difference"] <= in_browser.CLOSE and row["same_label"] == 4
    assert "| mobilenetv1-cnmc2019 |" in run.stdout
