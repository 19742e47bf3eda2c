"""`python -m blastlens score`: every image once, in order, whatever happens meanwhile, a sentence for what fails."""

import json
import os
import shutil
import signal
import sys
import time
import zipfile
from contextlib import suppress

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers_batch import cells, command_line, identity, metadata, rows, tiny_model
from helpers_files import write_bad_files
from helpers_models import write_json

from blastlens import Classifier, Corruption
from blastlens.__main__ import main
from blastlens.batch_scoring import saving
from blastlens.batch_scoring import score as bulk
from blastlens.batch_scoring.score import Command, score
from blastlens.batch_scoring.scoring import Scorer
from blastlens.errors import BlastlensError
from blastlens.external_result import NOT_VALIDATED


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_model(tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """53 images in three folders; 8 of them look like no cell, and one is broken."""
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


def refusal(sources, model, out, **more):
    with pytest.raises(BlastlensError) as refused:
        run(sources, model, out, **more)
    text = str(refused.value)
    assert text.endswith(".") and "\n" not in text
    return text


def everything_in(folder):
    """Contents by name, and whatever a run leaves beside its output."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


# What comes out ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"sigma": 12.0, "seed": 3}, {"corruption": Corruption("jpeg", 30)}],
    ids=["as they are", "noise", "corruption"],
)
def test_every_row_is_what_the_classifier_answers(archive, model, out, settings):
    run(archive, model, out, **settings)
    found = rows(out)
    images = [archive / row["file"] for row in found]
    predictions = list(Classifier.from_pretrained(model, threads=1).predict_each(images, **settings))
    assert len(found) == 53 and {row["in_domain"] for row in found} == {True, False, None}
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


def test_columns_have_types_and_the_file_says_what_it_is(archive, model, out):
    run(archive, model, out, corruption=Corruption("gaussian_noise", 9))
    schema = pq.read_schema(out)
    text, word = pa.string(), pa.dictionary(pa.int32(), pa.string())
    assert dict(zip(schema.names, schema.types, strict=True)) == {
        "file": text,
        "error": text,
        "label": word,
        "p_ALL": pa.float64(),
        "p_HEM": pa.float64(),
        "flagged": pa.bool_(),
        "label_set": pa.list_(text),
        "in_domain": pa.bool_(),
        "warnings": pa.list_(text),
        "sigma": pa.float64(),
        "corruption": word,
        "prevalence": pa.float64(),
        "model_id": word,
        "revision": word,
        "precision": word,
    }
    assert metadata(out)["blastlens.disclaimer"] == "Research demonstration, not a medical device."
    assert metadata(out)["blastlens.schema"] == "2"
    told = identity(out)
    assert (told["sigma"], told["corruption"], told["seed"]) == (9.0, None, 0)  # noise has one name
    assert told["sources"] == [str(archive)] and set(told["sha256"]) >= {"onnx/model.onnx", "gate.json", "metrics.json"}
    assert {row["sigma"] for row in rows(out)} == {9.0}  # of the broken one, too


def test_another_prevalence_is_in_the_rows_and_is_another_command(archive, model, out, tmp_path):
    folder = shutil.copytree(model, tmp_path / "stating")
    record = json.loads((folder / "metrics.json").read_text())
    record["calibration"]["prevalence"] = 0.68
    write_json(folder / "metrics.json", record)
    run(archive / "a", str(folder), out, prevalence=0.1)
    expected = Classifier.from_pretrained(folder).predict([archive / "a" / name for name in files(out)], prevalence=0.1)
    assert [row["p_ALL"] for row in rows(out)] == [one.probabilities["ALL"] for one in expected]
    assert {row["prevalence"] for row in rows(out)} == {identity(out)["prevalence"]} == {0.1}
    assert {row["warnings"][0] for row in rows(out)} == {NOT_VALIDATED}


def test_rows_are_in_the_order_of_names_and_do_not_depend_on_chunks_or_threads(archive, model, tmp_path):
    outs = [tmp_path / f"{n}.parquet" for n in range(4)]
    run(archive, model, outs[0])
    run(archive, model, outs[1], workers=5)
    run(archive, model, outs[2], chunk=8, workers=1)
    run(archive, model, outs[3], chunk=1000)
    assert len({out.read_bytes() for out in outs}) == 1
    names = files(outs[0])
    assert names == sorted(names, key=lambda name: name.split("/")) and len(set(names)) == 53
    assert not list(tmp_path.glob("*.parts*"))


@pytest.mark.filterwarnings("ignore")  # Pillow's, about damage that a sentence tells of
def test_a_bad_file_fills_its_row_with_a_sentence_and_stops_nothing(model, out, tmp_path):
    folder = tmp_path / "folder"
    cells(folder, 9)
    bad = {file.name: reason for file, reason in write_bad_files(folder).items() if file.is_file()}
    bad.pop("photo.ppm")  # no image by its name, and passed over
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    report = run(folder, model, out)
    failures = {row["file"]: row["error"] for row in rows(out) if row["error"]}
    assert failures.keys() == bad.keys() | {"gone.png"}
    for name, reason in bad.items():
        assert name in failures[name] and reason in failures[name]
    assert report.failed == len(failures) and report.images == len(failures) + 9


def test_an_exception_nobody_thought_of_fails_one_image(archive, model, out, monkeypatch):
    look = Classifier._look

    def stumbling(self, image, *more, **options):
        if getattr(image, "name", "").endswith("deep/003.png"):
            raise ZeroDivisionError("a line\nbreak")
        return look(self, image, *more, **options)

    monkeypatch.setattr(Classifier, "_look", stumbling)
    assert run(archive, model, out).failed == 2
    (error,) = [row["error"] for row in rows(out) if row["file"] == "b/deep/003.png"]
    assert error == "b/deep/003.png could not be scored (ZeroDivisionError: a line\ufffdbreak)."


def test_the_report_counts_what_came_out(archive, model, out):
    report = run(archive, model, out)
    assert (report.images, report.failed, report.unlike, report.scored) == (53, 1, 6, 53)
    assert report.unlike == sum(row["in_domain"] is False for row in rows(out))
    assert report.rate == 53 / report.seconds


# Sources -------------------------------------------------------------------------------------------------------------


def test_an_imagefolder_is_scored_without_its_tables_and_what_systems_leave(model, out, tmp_path):
    for label in ("ALL", "HEM"):
        cells(tmp_path / "data" / "train" / label, 2)
    for name in ("metadata.csv", "train/metadata.jsonl", "x.parquet", "README.md", ".hidden.png", "Thumbs.db"):
        (tmp_path / "data" / name).write_text("x")
    cells(tmp_path / "data" / "__MACOSX", 1)
    assert run(tmp_path / "data", model, out).failed == 0
    assert files(out) == [f"train/{label}/00{n}.png" for label in ("ALL", "HEM") for n in (0, 1)]


def write_zip(path, folder, names, prefix=""):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name in names:
            zipped.write(folder / name, prefix + name)
    return path


def test_a_zip_gives_the_answers_of_its_folder(archive, model, tmp_path):
    names = [file.relative_to(archive).as_posix() for file in sorted(archive.rglob("*")) if file.is_file()]
    zipped = write_zip(tmp_path / "a.zip", archive, names)
    for number, source in enumerate((archive, zipped)):
        run(source, model, tmp_path / f"{number}.parquet")
    one, other = (rows(tmp_path / f"{number}.parquet") for number in (0, 1))
    assert sorted(map(str, one)) == sorted(map(str, other))


def test_what_a_zip_may_not_hold_fails_by_itself(archive, model, out, tmp_path):
    zipped = write_zip(tmp_path / "a.zip", archive, ["000.png", "001.png"])
    with zipfile.ZipFile(zipped, "a") as more:
        more.write(archive / "002.png", "../out.png")
        more.writestr("inner.zip", b"PK")
        more.writestr("table.csv", b"x")
        more.writestr(zipfile.ZipInfo("./003.png"), (archive / "003.png").read_bytes())
        more.writestr("__MACOSX/._000.png", b"x")
    data = bytearray(zipped.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # encrypted, it says
    zipped.write_bytes(data)
    run(zipped, model, out)
    errors = {row["file"]: row["error"] for row in rows(out)}
    assert list(errors) == ["000.png", "001.png", "../out.png", "inner.zip", "./003.png"]
    assert errors["001.png"] is None and errors["./003.png"] is None
    assert "encrypted" in errors["000.png"] and "leads out of" in errors["../out.png"]
    assert "zip inside another" in errors["inner.zip"]


def test_a_broken_zip_among_several_sources_is_one_row(archive, model, out, tmp_path):
    (tmp_path / "broken.zip").write_bytes(b"PK")
    report = run([archive / "a", tmp_path / "broken.zip"], model, out)
    last = rows(out)[-1]
    assert (report.images, report.failed) == (21, 1)
    assert last["file"] == str(tmp_path / "broken.zip") and "not a zip that can be read" in last["error"]


@pytest.mark.parametrize(
    ("pattern", "number", "first"),
    [
        ("**/*.png", 52, "000.png"),
        ("*.png", 7, "000.png"),
        ("*/00?.png", 10, "a/000.png"),
        ("**/deep/*[13579].png", 12, "b/deep/001.png"),
        ("b/**", 26, "broken.bmp"),
        ("[ab]", 46, "a/000.png"),
        ("**/*.bmp", 1, "b/broken.bmp"),
    ],
)
def test_a_pattern_finds_what_a_shell_would(archive, model, out, pattern, number, first, monkeypatch):
    run(archive / pattern, model, out)
    assert (len(files(out)), files(out)[0]) == (number, first)
    monkeypatch.chdir(archive.parent)
    again = out.with_name("again.parquet")
    run(f"archive/{pattern}", model, again)
    assert again.read_bytes() == out.read_bytes()


def test_a_pattern_may_find_zips_and_a_folder_with_one_says_so(archive, model, out, tmp_path):
    for name in ("1.zip", "x/2.zip"):
        (tmp_path / "zips" / name).parent.mkdir(parents=True, exist_ok=True)
        write_zip(tmp_path / "zips" / name, archive, ["000.png"])
    run(tmp_path / "zips" / "**/*.zip", model, out)
    assert files(out) == ["1/000.png", "x/2/000.png"]
    run(tmp_path / "zips", model, out, overwrite=True)
    assert [row["file"] for row in rows(out)] == ["1.zip", "x/2.zip"]
    assert all("is a zip inside a folder" in row["error"] for row in rows(out))


def test_several_sources_are_told_apart_by_name(archive, model, out, tmp_path, monkeypatch):
    (one,) = cells(tmp_path / "x" / "a", 1)
    zipped = write_zip(tmp_path / "a.zip", archive, ["000.png"])
    monkeypatch.chdir(archive)
    run([tmp_path / "x" / "a", zipped, "001.png", archive / "a" / "00[01].png", one], model, out)
    assert files(out) == ["a/000.png", "a (2)/000.png", "001.png", "a (3)/000.png", "a (3)/001.png", str(one)]


def test_a_file_given_by_itself_is_tried_whatever_its_name(archive, model, out, tmp_path):
    shutil.copy(archive / "001.png", tmp_path / "cell.dat")
    (tmp_path / "table.csv").write_text("x")
    run([tmp_path / "cell.dat", tmp_path / "table.csv"], model, out)
    assert [row["error"] is None for row in rows(out)] == [True, False]


def test_links_are_followed_and_never_round_and_round(archive, model, out, tmp_path):
    data = tmp_path / "data"
    cells(data / "real", 2)
    (data / "file.png").symlink_to(archive / "000.png")
    (data / "folder").symlink_to(archive / "a")
    (data / "real" / "up").symlink_to(data)
    run(data, model, out)
    names = files(out)
    assert len(names) == len(set(names)) == 1 + 20 + 2
    assert {"file.png", "folder/000.png", "real/000.png"} <= set(names)


def test_a_folder_that_may_not_be_read_is_a_row(archive, model, out, monkeypatch):
    scandir = os.scandir

    def guarded(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", guarded)
    assert run(archive, model, out).images == 53 - 25 + 1
    errors = {row["file"]: row["error"] for row in rows(out)}
    assert errors["b/deep"] == "b/deep is a folder that cannot be read (Permission denied)."


def test_names_that_are_no_text_or_hide_something_are_shown_safely(archive, model, out, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (b"caf\xe9.png", b"two\nlines.png", "gnp.\u202epng.png".encode()):
        shutil.copyfile(archive / "001.png", os.path.join(os.fsencode(folder), name))
    (folder / "bad\x1b.png").write_text("x")
    run(folder, model, out)
    found = {row["file"]: row["error"] for row in rows(out)}
    assert found.keys() == {"caf\ufffd.png", "two\ufffdlines.png", "gnp.\ufffdpng.png", "bad\ufffd.png"}
    assert [name for name, error in found.items() if error] == ["bad\ufffd.png"]
    assert "\x1b" not in found["bad\ufffd.png"]


def test_a_folder_too_large_to_sort_at_once_is_sorted_all_the_same(archive, model, out, tmp_path, monkeypatch):
    whole = tmp_path / "whole.parquet"
    run(archive, model, whole)
    monkeypatch.setattr("blastlens.batch_scoring.walk.NAMES_AT_ONCE", 3)
    run(archive, model, out)
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("gone", "gone does not exist; give a folder, a zip"),
        ("gone/**/*.png", "gone/**/*.png does not exist"),
        ("*.dcm", "No image matches"),
        ("empty", "No image was found"),
    ],
)
def test_a_source_with_nothing_in_it_is_one_sentence_and_leaves_nothing(
    archive, model, tmp_path, monkeypatch, source, sentence
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert sentence in refusal(source, model, tmp_path / "results.parquet")
    assert [file.name for file in tmp_path.iterdir()] == ["empty"]


# Cut off, and gone on with -------------------------------------------------------------------------------------------

# Kills its own process just before or after the file of a given name gets its place.
KILLED_AT = """
import os, pathlib, signal
name, when = {moment!r}
def wrapped(method):
    real = getattr(pathlib.Path, method)
    def moving(self, target):
        if when == "before" and pathlib.Path(target).name == name: os.kill(os.getpid(), signal.SIGKILL)
        real(self, target)
        if when == "after" and pathlib.Path(target).name == name: os.kill(os.getpid(), signal.SIGKILL)
    setattr(pathlib.Path, method, moving)
wrapped("replace"), wrapped("rename")
import blastlens.batch_scoring.score as bulk
bulk.score.__defaults__ = (*bulk.score.__defaults__[:-1], 16)  # images to a chunk
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        ("listing.parquet", "before"),
        ("listing.parquet", "after"),
        ("part-000000.parquet", "before"),
        ("part-000001.parquet", "after"),
        ("part-000003.parquet", "before"),
        ("part-000003.parquet", "after"),
        ("results.parquet", "before"),
        ("results.parquet", "after"),
    ],
    ids=" ".join,
)
def test_a_run_killed_at_any_moment_is_gone_on_with_and_scores_nothing_twice(
    archive, model, out, tmp_path, moment, monkeypatch
):
    uninterrupted = tmp_path / "uninterrupted.parquet"
    run(archive, model, uninterrupted)
    process = command_line(archive, "--model", model, "--out", out, preamble=KILLED_AT.format(moment=moment))
    _, err = process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL, err
    finished = {name for part in out.parent.glob("results.parquet.parts/part-*.parquet") for name in files(part)}
    scored = spy_on_scoring(monkeypatch)
    report = run(archive, model, out)
    assert out.read_bytes() == uninterrupted.read_bytes()
    assert len(scored) == len(set(scored)) == 53 - len(finished) == report.scored
    assert not finished & set(scored)
    assert {file.name for file in tmp_path.iterdir()} == {out.name, uninterrupted.name}


def spy_on_scoring(monkeypatch):
    """Names of the images that are scored from now on."""
    scored = []
    answers = Scorer.answers

    def spy(self, images):
        scored.extend(image.file for image in images)
        return answers(self, images)

    monkeypatch.setattr(Scorer, "answers", spy)
    return scored


SLOWLY = """
import time
import blastlens.batch_scoring.score as bulk
from blastlens.batch_scoring.scoring import Scorer
answers = Scorer.answers
Scorer.answers = lambda self, images: (time.sleep(0.15), answers(self, images))[1]
bulk.score.__defaults__ = (*bulk.score.__defaults__[:-1], 16)  # images to a chunk
"""


def wait_for_parts(process, work, number):
    deadline = time.monotonic() + 60
    while len(list(work.glob("part-*.parquet"))) < number:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_ended_from_outside_twice_is_gone_on_with(archive, model, out, tmp_path, ending):
    work = out.with_name("results.parquet.parts")
    for parts in (1, 2):
        process = command_line(archive, "--model", model, "--out", out, "--workers", 1, preamble=SLOWLY)
        wait_for_parts(process, work, parts)
        process.send_signal(ending)
        process.communicate(timeout=60)
        assert process.returncode == -ending and not out.exists()
    report = run(archive, model, out)
    assert report.scored <= 53 - 32
    run(archive, model, tmp_path / "uninterrupted.parquet")
    assert out.read_bytes() == (tmp_path / "uninterrupted.parquet").read_bytes()


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on_and_a_second_run_is_kept_out_meanwhile(archive, model, out):
    process = command_line(archive, "--model", model, "--out", out, "--workers", 1, preamble=SLOWLY)
    wait_for_parts(process, out.with_name("results.parquet.parts"), 1)
    assert "Another run is at work in" in refusal(archive, model, out)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    last = err.replace("\r", "\n").splitlines()[-1]
    assert last.startswith("Stopped; ") and last.endswith(
        " of 53 images are finished, and the same command goes on from there."
    )
    assert "Traceback" not in err
    assert run(archive, model, out).scored < 53


def test_a_part_that_is_damaged_is_scored_again(archive, model, out, tmp_path, monkeypatch):
    run(archive, model, tmp_path / "whole.parquet")
    monkeypatch.setattr(bulk.Tally, "merged", lambda *_: stop())
    with suppress(InterruptedError):
        run(archive, model, out)
    monkeypatch.undo()
    part = out.with_name("results.parquet.parts") / "part-000002.parquet"
    part.write_bytes(part.read_bytes()[:-5])
    assert run(archive, model, out).scored == 16
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def stop():
    raise InterruptedError


@pytest.fixture
def half_done(archive, model, out, monkeypatch):
    """The work of a run that was cut off after its second chunk."""
    save = Scorer.save

    def failing(self, part, *more):
        if part.name >= "part-000002":
            stop()
        save(self, part, *more)

    monkeypatch.setattr(Scorer, "save", failing)
    with suppress(InterruptedError):
        run(archive, model, out)
    monkeypatch.undo()
    return out.with_name("results.parquet.parts")


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"sigma": 3}, "sigma"),
        ({"seed": 1}, "seed"),
        ({"corruption": Corruption("jpeg", 30)}, "corruption"),
    ],
)
def test_the_work_of_another_command_is_left_alone(archive, model, out, half_done, settings, what):
    before = everything_in(half_done)
    sentence = refusal(archive, model, out, **settings)
    assert f"holds what another command has finished ({what} were different)" in sentence
    assert refusal([archive, archive], model, out).count("sources") == 1
    assert everything_in(half_done) == before
    assert run(archive, model, out).scored == 53 - 32


def test_a_model_that_has_changed_meanwhile_is_another_command(archive, model, out, half_done, tmp_path):
    other = shutil.copytree(model, tmp_path / "models" / "tiny")
    assert run(archive, str(other), tmp_path / "moved.parquet").images == 53
    (other / "gate.json").write_text((other / "gate.json").read_text().replace("0.2", "0.3"))
    assert "(sha256 were different)" in refusal(archive, str(other), out)


def test_the_same_sources_typed_otherwise_are_the_same_command(archive, model, out, half_done, monkeypatch):
    monkeypatch.chdir(archive.parent)
    assert run("./archive/a/..", model, out).scored == 53 - 32


def test_an_output_that_exists_is_replaced_only_when_asked_and_only_by_a_whole_one(archive, model, out):
    out.write_text("precious")
    assert "exists; give --overwrite" in refusal(archive, model, out)
    assert everything_in(out.parent) == {out.name: b"precious"}
    assert run(archive, model, out, overwrite=True).scored == 53
    whole = out.read_bytes()
    assert "exists; give --overwrite" in refusal(archive, model, out)
    assert everything_in(out.parent) == {out.name: whole}


def test_an_output_is_still_there_when_the_run_to_replace_it_is_cut_off(archive, model, out, half_done):
    shutil.copy(archive / "000.png", out)
    assert "exists; give --overwrite" in refusal(archive, model, out)
    assert run(archive, model, out, overwrite=True).scored == 53 - 32


def test_a_folder_of_somebody_elses_is_not_taken_for_the_work_of_a_run(archive, model, out):
    folder = out.with_name("results.parquet.parts")
    folder.mkdir()
    (folder / "notes.2026.tmp").write_text("precious")
    assert "is in the way, and holds something else" in refusal(archive, model, out)
    assert (folder / "notes.2026.tmp").read_text() == "precious" and not out.exists()


def test_an_output_that_cannot_be_is_one_sentence(archive, model, tmp_path, monkeypatch):
    assert "is a folder" in refusal(archive, model, tmp_path)
    (tmp_path / "file").write_text("x")
    assert "cannot be written (Not a directory)" in refusal(archive, model, tmp_path / "file" / "x.parquet")

    def read_only(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.mkdir", read_only)
    assert "cannot be written (Read-only file system)" in refusal(archive, model, tmp_path / "x.parquet")
    assert {file.name for file in tmp_path.iterdir()} == {"file"}


# From some moment on no file may become larger than 2,000 bytes: the nearest thing to a full disk.
FULL = """
import resource
import blastlens.batch_scoring.score as bulk
bulk.score.__defaults__ = (*bulk.score.__defaults__[:-1], 16)  # images to a chunk
moment = getattr(bulk, {moment!r})
def full(*arguments):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))
    return moment(*arguments)
setattr(bulk, {moment!r}, full)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "file", "left"),
    [
        ("write_listing", "results.parquet.parts/listing.parquet", 53),
        ("_run_here", "results.parquet.parts/part-00000", 53),
        ("Tally", "results.parquet ", 0),
    ],
    ids=["at the listing", "at a part", "at the merge"],
)
def test_a_full_disk_is_one_sentence_and_loses_nothing_that_is_finished(
    archive, model, out, tmp_path, moment, file, left
):
    process = command_line(archive, "--model", model, "--out", out, preamble=FULL.format(moment=moment))
    printed, err = process.communicate(timeout=120)
    assert (process.returncode, printed) == (2, "") and "Traceback" not in err
    last = err.replace("\r", "\n").splitlines()[-1]
    assert last.startswith(f"{out.parent}/{file}") and "cannot be written (File too large); what was finished" in last
    assert not list(out.parent.rglob(f"*{saving.TEMPORARY}"))
    assert run(archive, model, out).scored == left
    run(archive, model, tmp_path / "whole.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


# The high-water mark of the process itself, in kB; getrusage would count what its parent held at the fork.
MEASURED = """
import atexit, re
atexit.register(lambda: print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1]))
"""


@pytest.mark.slow
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
        assert printed.startswith(f"{number:,} images in ")
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
    assert printed.startswith(f"53 images in {out}: 1 failed, 6 unlike the images the model knows, ")
    assert printed.endswith(" images per second. Research demonstration, not a medical device.\n")
    assert len(printed.splitlines()) == 1
    listing, scoring = (err.replace("\r", "\n").split("Scoring", 1)[part] for part in (0, 1))
    assert "Listing: 53 images" in listing
    last = scoring.splitlines()[-1]
    assert "53/53" in last and "images/s" in last and "1 failed" in last and "<00:00" in last
    assert identity(out)["sigma"] == 4 and identity(out)["seed"] == 2


def test_the_command_exits_with_0_where_all_is_answered(capsys, archive, model, out):
    code, printed, _ = type_command(capsys, archive / "a", "--model", model, "--out", out, "--workers", 1)
    assert code == 0 and printed.startswith("20 images in")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nothing"], "There is no model 'nothing'"),
        (["--sigma", "-1"], "a number from 0 to 100"),
        (["--seed", "-1"], "whole number"),
        (["--corruption", "fog:3"], "There is no corruption"),
        (["--workers", "0"], "There cannot be 0 workers"),
        (["--ray-address", "auto"], "give --engine ray with it"),
        (["--precision", "int8"], "no int8 version"),
    ],
)
def test_a_request_that_cannot_be_met_is_one_sentence(capsys, archive, model, out, arguments, sentence):
    code, printed, err = type_command(capsys, archive, "--model", model, "--out", out, *arguments)
    assert (code, printed) == (2, "")
    assert sentence in err and len(err.splitlines()) == 1
    assert not list(out.parent.iterdir())


@pytest.mark.parametrize(("engine", "missing"), [("local", "pyarrow"), ("ray", "ray")])
def test_a_package_that_only_this_needs_is_named_where_it_is_missing(
    capsys, archive, model, out, monkeypatch, engine, missing
):
    for name in [
        name for name in sys.modules if name.startswith(("blastlens.batch_scoring.", "ray.")) or name == "ray"
    ]:
        if name != "blastlens.batch_scoring.command":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    code, _, err = type_command(capsys, archive, "--model", model, "--out", out, "--engine", engine)
    assert code == 2 and "Traceback" not in err
    assert "not installed" in err and f"pip install {'pyarrow' if engine == 'local' else chr(34) + 'ray[data]'}" in err


def test_help_says_what_the_exit_codes_mean(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    text = capsys.readouterr().out
    assert "Exit code: 0 if every image was answered, 2 if some were not" in text
    for option in ("--model", "--sigma", "--seed", "--corruption", "--precision", "--out", "--engine", "--overwrite"):
        assert option in text
