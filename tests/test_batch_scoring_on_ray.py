"""`--engine ray`: the same file as from one process, also after an interruption; skipped without Ray."""

import shutil

import pytest
from helpers_batch import cells, interrupt, tiny_model

pytest.importorskip("ray", reason="Ray is not installed")

from blastlens.batch_scoring.score import Command, score
from blastlens.errors import BlastlensError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """40 images and a broken one, in a folder and in a zip."""
    folder = tmp_path_factory.mktemp("data") / "archive"
    cells(folder, 40)
    (folder / "broken.bmp").write_bytes(b"BM and nothing more")
    shutil.make_archive(str(folder), "zip", folder)
    model = str(tiny_model(tmp_path_factory.mktemp("models") / "tiny"))
    return Command((str(folder), f"{folder}.zip"), model, sigma=5.0, seed=1)


def test_two_workers_resume_a_run_of_this_process_and_give_the_same_file(command, tmp_path, monkeypatch):
    score(command, tmp_path / "here.parquet", chunk=8)
    interrupt(monkeypatch, 3, lambda: score(command, tmp_path / "ray.parquet", chunk=8))
    report = score(command, tmp_path / "ray.parquet", "ray", workers=2, chunk=8)
    assert (report.images, report.failed, report.scored) == (82, 2, 82 - 24)
    assert (tmp_path / "ray.parquet").read_bytes() == (tmp_path / "here.parquet").read_bytes()


def test_a_part_that_cannot_be_written_is_one_sentence(command, tmp_path, monkeypatch):
    out = tmp_path / "ray.parquet"
    interrupt(monkeypatch, 3, lambda: score(command, out, chunk=8))
    (tmp_path / "ray.parquet.parts" / "part-000004.parquet").mkdir()
    with pytest.raises(BlastlensError, match=r"part-000004\.parquet cannot be written \(Is a directory\)"):
        score(command, out, "ray", workers=1, chunk=8)
