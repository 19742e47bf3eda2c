"""`--engine ray`: the same file to the bit, from two workers, also when they were cut off; skipped without Ray."""

import os
import shutil
import signal
import time

import pytest
from helpers_batch import cells, command_line, rows, tiny_model

pytest.importorskip("ray", reason="Ray is not installed")

from blastlens.batch_scoring.score import Command, score

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """40 images and a broken one, in a folder and in a zip."""
    folder = tmp_path_factory.mktemp("data") / "archive"
    cells(folder, 40)
    (folder / "broken.bmp").write_bytes(b"BM and nothing more")
    shutil.make_archive(str(folder), "zip", folder)
    return folder


def here(archive, model, out, **settings):
    """The results of the threads of this process, in chunks of 8."""
    return score(Command((str(archive), f"{archive}.zip"), model, **settings), out, chunk=8)


# Chunks of 8 images, each finished a little after the last, and told with whom.
ON_RAY = """
import os
import blastlens.batch_scoring.score as bulk
bulk.score.__defaults__ = (*bulk.score.__defaults__[:-1], 8)  # images to a chunk
import blastlens.batch_scoring.on_ray as on_ray
class Slow(on_ray._Actor):
    def _score(self, number):
        import os, time
        from pathlib import Path
        time.sleep(0.3)
        Path({log!r}).open("a").write(f"{{number}} {{os.getpid()}}\\n")
        return super()._score(number)
on_ray._Actor = Slow
"""


def on_ray(archive, model, out, log, *more):
    return command_line(
        archive, f"{archive}.zip", "--model", model, "--out", out, "--engine", "ray", "--workers", 2, *more,
        preamble=ON_RAY.format(log=str(log)),
    )  # fmt: skip


def test_two_workers_give_the_same_file_and_one_line(archive, model, tmp_path):
    process = on_ray(archive, model, tmp_path / "ray.parquet", tmp_path / "log", "--sigma", 5, "--seed", 1)
    printed, err = process.communicate(timeout=400)
    assert process.returncode == 2, err  # two are broken
    assert printed.startswith(f"82 images in {tmp_path}/ray.parquet: 2 failed, ")
    assert "Traceback" not in err
    last = err.replace("\r", "\n").splitlines()[-1]
    assert "82/82" in last and "2 failed" in last
    here(archive, model, tmp_path / "here.parquet", sigma=5.0, seed=1)
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()
    chunks, workers = zip(*(line.split() for line in (tmp_path / "log").read_text().splitlines()), strict=True)
    assert sorted(map(int, chunks)) == list(range(11)) and len(set(workers)) == 2


def test_a_run_that_was_killed_is_gone_on_with_by_either_engine(archive, model, tmp_path):
    out, work = tmp_path / "ray.parquet", tmp_path / "ray.parquet.parts"
    process = on_ray(archive, model, out, tmp_path / "log")
    deadline = time.monotonic() + 300
    while len(list(work.glob("part-*.parquet"))) < 3:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    time.sleep(3)  # what Ray has started ends by itself
    shutil.copytree(work, tmp_path / "copy.parquet.parts")
    finished = sum(len(rows(part)) for part in tmp_path.glob("copy.parquet.parts/part-*.parquet"))
    assert 24 <= finished < 82
    assert here(archive, model, tmp_path / "copy.parquet").scored == 82 - finished
    process = on_ray(archive, model, out, tmp_path / "log")
    printed, err = process.communicate(timeout=400)
    assert f"({finished} of them from before)" in printed, err
    assert out.read_bytes() == (tmp_path / "copy.parquet").read_bytes()


def test_what_cannot_be_written_is_one_sentence_from_there_too(archive, model, tmp_path):
    preamble = (
        "import blastlens.batch_scoring.on_ray as on_ray\n"
        "from blastlens.errors import BlastlensError\n"
        "class Full(on_ray._Actor):\n"
        "    def _score(self, number):\n"
        "        raise BlastlensError('x.parquet cannot be written (No space left on device); it is full.')\n"
        "on_ray._Actor = Full"
    )
    process = command_line(
        archive, "--model", model, "--out", tmp_path / "out.parquet", "--engine", "ray", "--workers", 1,
        preamble=preamble,
    )  # fmt: skip
    printed, err = process.communicate(timeout=400)
    assert (process.returncode, printed) == (2, "") and "Traceback" not in err
    assert err.splitlines()[-1] == "x.parquet cannot be written (No space left on device); it is full."
