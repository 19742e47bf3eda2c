"""The benchmarks: what they compute, what SPEED.md says of their records, and that each part runs."""

import json
import subprocess
import sys

import pytest
from helpers_browser import chromium_path

from benchmarks import __main__ as benchmarks
from benchmarks import latency, memory, serving
from benchmarks.common import Figure, Target


def test_ratios_are_medians_of_turns():
    ours, theirs = iter([9, 1, 50, 1, 4, 4, 4]), iter([9, 2, 2, 2, 1, 1, 1])
    now = [0.0]

    def passing(seconds):
        def call():
            now[0] += next(seconds)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving.time, "perf_counter", lambda: now[0])
        found = serving.compare(passing(ours), passing(theirs), rounds=2, calls=3)
    # The first call of each warms up; a call that is interrupted does not count.
    assert found["ratio"] == {"median": (1 / 2 + 4) / 2, "low": 1 / 2, "high": 4}
    assert found["ours_s"]["low"] == 1 and found["theirs_s"]["high"] == 2


def test_a_figure_that_misses_its_target_is_marked():
    figure = Figure("what", Target(0.85, at_least=True), {"small": 0.9, "large": 0.5})
    assert str(figure.target) == "at least 0.85"
    assert [figure.cell(model) for model in ("small", "large", "other")] == ["0.90", "0.50 (missed)", ""]
    assert Figure("what", Target(0), {"": 2}, "{}").cell("") == "2 (missed)"


def test_the_committed_page_is_rendered_from_the_committed_records():
    assert benchmarks.PAGE.read_text() == benchmarks.render(benchmarks.read(), benchmarks.int8_losses())


def test_missing_records_are_named(tmp_path):
    (tmp_path / "serving.json").write_text("{}")
    with pytest.raises(SystemExit, match="Not measured yet: page, page_memory, load, memory, in_browser"):
        benchmarks.main(["--render", "--out", str(tmp_path)])


def test_resident_memory_is_that_of_the_process():
    code = "input(); block = bytearray(b'x') * 50_000_000; print(flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    before = memory.resident_mb(child.pid)
    child.stdin.write(b"\n")
    child.stdin.flush()
    child.stdout.readline()
    assert 40 < memory.resident_mb(child.pid) - before < 70
    child.communicate(b"\n")


def test_a_failed_batch_run_is_not_measured():
    with pytest.raises(SystemExit, match="exit code 2"):
        memory.peak_mb(["python", "-c", "raise SystemExit(2)"])


@pytest.mark.long
@pytest.mark.parametrize("part", benchmarks.PARTS)
def test_a_part_is_measured_and_rendered(tmp_path, part):
    chromium_path()
    models = ["--models", "mobilenetv1-cnmc2019"]
    command = [sys.executable, "-m", "benchmarks", "--quick", *models, "--only", part, "--out", str(tmp_path)]
    subprocess.run(command, cwd=benchmarks.ROOT, check=True)
    text = (tmp_path / f"{part}.json").read_text()
    assert str(tmp_path) not in text
    page = benchmarks.render(benchmarks.read() | {part: json.loads(text)}, benchmarks.int8_losses())
    assert page != benchmarks.PAGE.read_text()


@pytest.mark.long
def test_latency_is_measured_beside_its_reference():
    record = latency.measure(["alnett", "p1_mobilenetv2"], repeats=2)
    assert set(record["systems"]) == {"alnett", "p1_mobilenetv2"}
    assert all(times["onnx_fp32_ms"] > 0 and times["times_mobilenetv1"] > 0 for times in record["systems"].values())
