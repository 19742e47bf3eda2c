"""`python -m blastlens score`: every image once, in order, one sentence per failure, resumed after any interruption."""

import os
import shutil
import signal
import sys
import time
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_batch import cells, command_line, identity, interrupt, rows, tiny_model
from helpers_files import write_bad_files, write_zip

from blastlens import Classifier, Corruption, classifier
from blastlens.batch_scoring import score as batch
from blastlens.batch_scoring.score import Command, score
from blastlens.cli import main
from blastlens.errors import BlastlensError


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """53 images in three folders; 6 of them are out of distribution, and one is broken."""
    folder = tmp_path_factory.mktemp("data") / "archive"
    cells(folder / "a", 20)
    cells(folder / "b" / "deep", 25)
    cells(folder, 7)
    (folder / "b" / "broken.bmp").write_bytes(b"BM and nothing more")
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "results.parquet"


def run(sources, model, out, **more):
    """Score with chunks of 16 images; the sources may be one."""
    sources = sources if isinstance(sources, list) else [sources]
    settings = {key: more.pop(key) for key in ("sigma", "seed", "corruption", "precision", "prevalence") if key in more}
    command = Command(tuple(map(str, sources)), model, **settings)
    return score(command, out, **({"chunk": 16} | more))


def files(out):
    return [row["file"] for row in rows(out)]


def errors(out):
    return {row["file"]: row["error"] for row in rows(out) if row["error"]}


def refusal(sources, model, out, **more):
    with pytest.raises(BlastlensError) as refused:
        run(sources, model, out, **more)
    text = str(refused.value)
    assert text.endswith(".") and "\n" not in text
    return text


def everything_in(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


# Results -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"sigma": 12.0, "seed": 3}, {"corruption": Corruption("jpeg", 30)}],
    ids=["unchanged", "noise", "corruption"],
)
def test_every_row_is_the_prediction_of_the_classifier(archive, model, out, settings):
    report = run(archive, model, out, **settings)
    found = rows(out)
    images = [archive / row["file"] for row in found]
    predictions = list(Classifier.from_pretrained(model, threads=1).predict_each(images, **settings))
    assert (report.images, report.failed, report.scored) == (53, 1, 53) == (len(found), len(errors(out)), 53)
    assert report.unlike == sum(row["in_domain"] is False for row in found) > 0
    corruption = str(settings["corruption"]) if "corruption" in settings else None
    for row, prediction in zip(found, predictions, strict=True):
        if isinstance(prediction, BlastlensError):
            assert (row["error"], row["label"], row["p_ALL"], row["warnings"]) == (str(prediction), None, None, None)
        else:
            assert row == {
                "file": row["file"],
                "error": None,
                "label": prediction.label,
                **{f"p_{label}": p for label, p in prediction.probabilities.items()},
                "flagged": prediction.flagged,
                "label_set": None if prediction.label_set is None else list(prediction.label_set),
                "in_domain": prediction.in_domain,
                "warnings": list(prediction.warnings),
                "sigma": prediction.sigma,
                "corruption": corruption,
                "prevalence": prediction.prevalence,
                "model_id": "tiny",
                "revision": None,
                "precision": "fp32",
            }


def test_columns_are_typed_and_the_metadata_state_the_command(archive, model, out):
    run(archive, model, out, corruption=Corruption("gaussian_noise", 9))
    schema = pq.read_schema(out)
    types = dict(zip(schema.names, schema.types, strict=True))
    assert types["label"] == pa.dictionary(pa.int32(), pa.string()) and types["label_set"] == pa.list_(pa.string())
    command = identity(out)
    assert (command["sigma"], command["corruption"], command["sources"]) == (9.0, None, [str(archive)])
    assert set(command["sha256"]) >= {"onnx/model.onnx", "gate.json", "metrics.json"}


def test_rows_are_in_the_order_of_names_and_do_not_depend_on_chunks_or_threads(archive, model, tmp_path):
    outs = [tmp_path / f"{n}.parquet" for n in range(4)]
    run(archive, model, outs[0])
    run(archive, model, outs[1], workers=5)
    run(archive, model, outs[2], chunk=8, workers=1)
    run(archive, model, outs[3], chunk=1000)
    assert outs[0].read_bytes() == outs[1].read_bytes()
    assert rows(outs[0]) == rows(outs[2]) == rows(outs[3])
    names = files(outs[0])
    assert names == sorted(names, key=lambda name: name.split("/")) and len(set(names)) == 53
    assert {file.name for file in tmp_path.iterdir()} == {one.name for one in outs}


@pytest.mark.filterwarnings("ignore")  # Pillow's
def test_a_bad_file_fills_its_row_with_a_sentence_and_stops_nothing(model, out, tmp_path):
    folder = tmp_path / "folder"
    cells(folder, 9)
    bad = {file.name: reason for file, reason in write_bad_files(folder).items() if file.is_file()}
    bad.pop("photo.ppm")  # no image by its name
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    assert run(folder, model, out).images == len(bad) + 10
    failures = errors(out)
    assert failures.keys() == bad.keys() | {"gone.png"}
    for name, reason in bad.items():
        assert name in failures[name] and reason in failures[name]


def test_an_unexpected_exception_fails_one_image(archive, model, out, monkeypatch):
    read = classifier.read_view

    def failing(image, *more):
        if getattr(image, "name", "").endswith("deep/003.png"):
            raise ZeroDivisionError("a line\nbreak")
        return read(image, *more)

    monkeypatch.setattr(classifier, "read_view", failing)
    assert run(archive, model, out).failed == 2
    message = "b/deep/003.png could not be scored (ZeroDivisionError: a line\ufffdbreak)."
    assert errors(out)["b/deep/003.png"] == message


# Sources -------------------------------------------------------------------------------------------------------------


def zip_of(path, folder, *names):
    return write_zip(path, [(name, (folder / name).read_bytes()) for name in names])


@pytest.mark.parametrize(
    ("pattern", "number", "first"),
    [
        ("**/*.png", 52, "000.png"),
        ("*/00?.png", 10, "a/000.png"),
        ("**/deep/*[13579].png", 12, "b/deep/001.png"),
        ("b/**", 26, "broken.bmp"),
        ("[ab]", 46, "a/000.png"),
    ],
)
def test_a_pattern_finds_what_a_shell_would(archive, model, out, pattern, number, first, monkeypatch):
    monkeypatch.chdir(archive.parent)
    run(f"archive/{pattern}", model, out)
    assert (len(files(out)), files(out)[0]) == (number, first)


def test_a_pattern_may_find_zips_and_a_zip_inside_a_folder_is_an_error(archive, model, out, tmp_path):
    for name in ("1.zip", "x/2.zip"):
        (tmp_path / "zips" / name).parent.mkdir(parents=True, exist_ok=True)
        zip_of(tmp_path / "zips" / name, archive, "000.png")
    run(tmp_path / "zips" / "**/*.zip", model, out)
    assert files(out) == ["1/000.png", "x/2/000.png"]
    run(tmp_path / "zips", model, out, overwrite=True)
    assert list(errors(out)) == ["1.zip", "x/2.zip"]


def test_names_of_several_sources_differ(archive, model, out, tmp_path, monkeypatch):
    (one,) = cells(tmp_path / "x" / "a", 1)
    zipped = zip_of(tmp_path / "a.zip", archive, "000.png")
    monkeypatch.chdir(archive)
    run([tmp_path / "x" / "a", zipped, "001.png", archive / "a" / "00[01].png", one], model, out)
    assert files(out) == ["a/000.png", "a (2)/000.png", "001.png", "a (3)/000.png", "a (3)/001.png", str(one)]


def test_links_are_followed_but_not_in_circles(archive, model, out, tmp_path):
    data = tmp_path / "data"
    cells(data / "real", 2)
    (data / "file.png").symlink_to(archive / "000.png")
    (data / "folder").symlink_to(archive / "a")
    (data / "real" / "up").symlink_to(data)
    run(data, model, out)
    names = files(out)
    assert len(names) == len(set(names)) == 1 + 20 + 2
    assert {"file.png", "folder/000.png", "real/000.png"} <= set(names)


def test_an_unreadable_folder_is_a_row(archive, model, out, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", guarded)
    assert run(archive, model, out).images == 53 - 25 + 1
    assert errors(out)["b/deep"] == "b/deep is a folder that cannot be read (Permission denied)."


@pytest.mark.parametrize(
    ("source", "sentence"),
    [("nowhere", "nowhere does not exist"), ("empty", "No image was found"), ("empty/*.png", "No image matches")],
)
def test_a_source_without_images_is_one_sentence_and_leaves_nothing(model, tmp_path, monkeypatch, source, sentence):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sentence in refusal(source, model, tmp_path / "results.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["empty"]


# Interrupted and resumed ---------------------------------------------------------------------------------------------


@pytest.fixture
def uninterrupted(archive, model, tmp_path_factory):
    out = tmp_path_factory.mktemp("uninterrupted") / "results.parquet"
    run(archive, model, out)
    return out.read_bytes()


# After the first two chunks, scoring waits until the process has received Ctrl-C.
PAUSED = """
import pathlib, signal, time
import blastlens.batch_scoring.score as batch
batch.score.__defaults__ = (*batch.score.__defaults__[:-1], 16)  # images to a chunk
def interrupted(number, frame):
    pathlib.Path({go!r}).touch()
    raise KeyboardInterrupt
signal.signal(signal.SIGINT, interrupted)
from blastlens.batch_scoring.scorer import BatchScorer
answers, seen = BatchScorer.answers, []
def waiting(self, images):
    seen.append(images)
    while len(seen) > 4 and not pathlib.Path({go!r}).exists(): time.sleep(0.01)
    return answers(self, images)
BatchScorer.answers = waiting
"""


@pytest.mark.slow
def test_ctrl_c_says_what_is_finished_and_meanwhile_a_second_run_is_refused(archive, model, out, tmp_path):
    work, go = out.with_name("results.parquet.parts"), tmp_path / "go"
    preamble = PAUSED.format(go=str(go))
    process = command_line(archive, "--model", model, "--out", out, "--workers", 1, preamble=preamble)
    while len(list(work.glob("part-*.parquet"))) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert "Another run is at work in" in refusal(archive, model, out)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "") and "Traceback" not in err
    last = err.replace("\r", "\n").splitlines()[-1]
    assert last == "Stopped; 32 images are finished. Rerun the command to resume."
    assert run(archive, model, out).scored == 53 - 32


@pytest.fixture
def half_done(archive, model, out, monkeypatch):
    """The work folder of a run that was interrupted after its second chunk."""
    interrupt(monkeypatch, 2, lambda: run(archive, model, out))
    return out.with_name("results.parquet.parts")


def test_a_damaged_part_is_scored_again(archive, model, out, half_done, uninterrupted):
    part = half_done / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-5])
    assert run(archive, model, out).scored == 53 - 16
    assert out.read_bytes() == uninterrupted


def test_chunks_with_other_images_than_before_are_scored_again(archive, model, tmp_path, out, monkeypatch):
    data = shutil.copytree(archive, tmp_path / "data")
    monkeypatch.setattr(batch, "_merge", lambda *_: (_ for _ in ()).throw(InterruptedError))
    with suppress(InterruptedError):
        run(data, model, out)
    monkeypatch.undo()
    cells(data / "c", 1)
    (data / "b" / "deep" / "024.png").unlink()
    assert run(data, model, out).scored == 53 - 48
    names = files(out)
    assert len(names) == 53 and names[-1] == "c/000.png" and "b/deep/024.png" not in names


def test_unfinished_results_of_another_command_are_kept(archive, model, out, half_done):
    before = everything_in(half_done)
    different = "unfinished results of another command (seed and sigma differ)"
    assert different in refusal(archive, model, out, sigma=3, seed=1)
    assert "(sources differ)" in refusal([archive, archive], model, out)
    assert everything_in(half_done) == before
    assert run(archive, model, out).scored == 53 - 32


def test_an_existing_output_is_replaced_only_with_overwrite_and_only_when_all_is_done(archive, model, out, half_done):
    out.write_text("precious")
    assert "exists; give --overwrite" in refusal(archive, model, out)
    assert out.read_text() == "precious"
    assert run(archive, model, out, overwrite=True).scored == 53 - 32
    assert "exists; give --overwrite" in refusal(archive, model, out)
    assert len(files(out)) == 53


def test_another_folder_of_the_name_of_the_work_folder_is_kept(archive, model, out):
    folder = out.with_name("results.parquet.parts")
    folder.mkdir()
    (folder / "notes.tmp").write_text("precious")
    assert "holds something else" in refusal(archive, model, out)
    assert (folder / "notes.tmp").read_text() == "precious" and not out.exists()


def test_an_output_that_cannot_be_written_is_one_sentence(archive, model, tmp_path, monkeypatch):
    assert "is a folder" in refusal(archive, model, tmp_path)
    (tmp_path / "file").write_text("x")
    assert "cannot be written (Not a directory)" in refusal(archive, model, tmp_path / "file" / "x.parquet")

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", read_only)
    assert "cannot be written (Read-only file system)" in refusal(archive, model, tmp_path / "x.parquet")
    assert {file.name for file in tmp_path.iterdir()} == {"file"}


# The high-water mark of the process itself, in kB; getrusage would count what its parent held at the fork.
MEASURED = """
import atexit, re
atexit.register(lambda: print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]))
"""


@pytest.mark.slow
@pytest.mark.long
def test_memory_does_not_grow_with_the_number_of_images(model, tmp_path):
    images = cells(tmp_path / "images", 10)
    peaks = []
    for number in (1_000, 20_000):
        links = tmp_path / str(number)
        links.mkdir()
        for n in range(number):
            (links / f"{n:07d}.png").symlink_to(images[n % 10])
        out = tmp_path / f"{number}.parquet"
        process = command_line(links, "--model", model, "--out", out, "--workers", 2, preamble=MEASURED)
        printed, err = process.communicate(timeout=500)
        assert process.returncode == 0, err
        peaks.append(int(printed.split()[-1]))
        assert pq.read_metadata(out).num_rows == number
    assert peaks[1] < 1.1 * peaks[0]


# The command ---------------------------------------------------------------------------------------------------------


def type_command(capsys, *arguments):
    code = main(["score", *map(str, arguments)])
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    return code, printed.out, printed.err


def test_the_command_shows_progress_and_ends_with_one_line(capsys, archive, model, out):
    code, printed, err = type_command(capsys, archive, "--model", model, "--out", out, "--sigma", 4, "--seed", 2)
    assert code == 2  # one is broken
    assert printed.startswith(f"53 images in {out}: 1 failed, 6 out of distribution, ")
    assert printed.endswith(" images per second. Research demonstration, not a medical device.\n")
    last = err.replace("\r", "\n").splitlines()[-1]
    assert "53/53" in last and "images/s" in last and "1 failed" in last
    assert identity(out)["sigma"] == 4 and identity(out)["seed"] == 2
    out.unlink()
    code, printed, _ = type_command(capsys, archive / "a", "--model", model, "--out", out, "--workers", 1)
    assert code == 0 and printed.startswith("20 images in")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nothing"], "There is no model 'nothing'"),
        (["--sigma", "-1"], "a number from 0 to 100"),
        (["--corruption", "fog:3"], "There is no corruption"),
        (["--workers", "0"], "There cannot be 0 workers"),
        (["--ray-address", "auto"], "give --engine ray with it"),
        (["--precision", "int8"], "no int8 version"),
    ],
)
def test_a_setting_that_cannot_be_used_is_one_sentence(capsys, archive, model, out, arguments, sentence):
    code, printed, err = type_command(capsys, archive, "--model", model, "--out", out, *arguments)
    assert (code, printed) == (2, "")
    assert sentence in err and len(err.splitlines()) == 1
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(("engine", "missing"), [("local", "pyarrow"), ("ray", "ray")])
def test_a_missing_package_is_named(capsys, archive, model, out, monkeypatch, engine, missing):
    for name in [name for name in sys.modules if name.startswith("blastlens.batch_scoring.") or name == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, err = type_command(capsys, archive, "--model", model, "--out", out, "--engine", engine)
    assert code == 2 and "Traceback" not in err
    assert "not installed" in err and f"pip install {missing}" in err
