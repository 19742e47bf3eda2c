"""Hostile files through every interface: each is answered or refused in a sentence, within time and memory limits."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import helpers_hostile as hostile
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_batch import rows, tiny_model
from helpers_hostile import ANSWERED, EITHER, GOOD, REFUSED
from helpers_models import LABELS

from blastlens import images, open_image
from blastlens.errors import BlastlensError
from blastlens.image_sources import list_sources
from blastlens.images import printable

ROOT = Path(__file__).resolve().parents[1]
SECONDS, MEGABYTES = 5, 1000


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[Path]:
    return hostile.write(list(hostile.images()), tmp_path_factory.mktemp("hostile") / "images")


@pytest.fixture(scope="module")
def zips(tmp_path_factory) -> list[Path]:
    return hostile.write(list(hostile.zips()), tmp_path_factory.mktemp("hostile") / "zips")


@dataclass(frozen=True)
class Ran:
    """A process that has ended, what it wrote, and the most memory it had, in MB."""

    code: int
    out: str
    errors: str
    megabytes: float


# The peak of a process starts with the memory of the one that started it, hence a small one between the test and it.
BETWEEN = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[2:], timeout=120).returncode
open(sys.argv[1], "w").write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(code)
"""


def ran(folder: Path, *arguments: object) -> Ran:
    """Run Python with arguments, in its own process, which may take two minutes."""
    with open(folder / "out", "w+") as out, open(folder / "errors", "w+") as errors:
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        command = [sys.executable, "-c", BETWEEN, "peak", sys.executable, *map(str, arguments)]
        code = subprocess.run(command, stdout=out, stderr=errors, env=environment, cwd=folder).returncode
        texts = [(folder / name).read_text(errors="replace") for name in ("out", "errors")]
        return Ran(code, *texts, int((folder / "peak").read_text()) / 1024)


def is_sentence(text: str) -> bool:
    return text.isprintable() and text.endswith(".") and "Traceback" not in text and "Error(" not in text


def as_expected(outcome: str, answered: bool) -> bool:
    return outcome == EITHER or outcome == (ANSWERED if answered else REFUSED)


READ = """
import json, sys, time, warnings
from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.image_sources import list_sources
warnings.simplefilter("ignore")
classifier = Classifier.from_pretrained(sys.argv[1])
for name in open(sys.argv[2], encoding="utf-8", newline="").read().split("\\0"):
    start, said, answers = time.process_time(), [], []
    try:
        if name.endswith(".zip"):
            found = list_sources([name])
            said = [sentence for _, sentence in found.refused] + list(found.notes)
            images = found.sources
        else:
            images = [name]
        for image, outcome in zip(images, classifier.predict_each(images)):
            if isinstance(outcome, BlastlensError):
                said.append(str(outcome))
            else:
                answers.append(getattr(image, "name", name))
    except BlastlensError as error:
        said.append(str(error))
    print(json.dumps([name, answers, said, time.process_time() - start]))
"""


def read_by_python(folder: Path, model: Path, given: list[Path]) -> Iterator[tuple[str, list[str], list[str], float]]:
    """Name, answers, sentences and seconds of processor time of each file, in one process that stays small."""
    (folder / "given").write_bytes("\0".join(map(str, given)).encode())
    result = ran(folder, "-c", READ, model, folder / "given")
    assert result.code == 0 and result.errors == "", result.errors[-2000:]
    assert result.megabytes < MEGABYTES
    for line in result.out.splitlines():
        path, answers, sentences, seconds = json.loads(line)
        yield Path(path).name, answers, sentences, seconds


@pytest.mark.slow
def test_a_classifier_answers_or_refuses_each_in_time_and_memory(tmp_path, model, files):
    outcomes = {case.name: case.outcome for case in hostile.images()}
    seen = 0
    for name, answers, said, seconds in read_by_python(tmp_path, model, files):
        assert len(answers) + len(said) == 1 and all(map(is_sentence, said)), (name, said)
        assert as_expected(outcomes[name], bool(answers)), (name, said)
        assert seconds < SECONDS, name
        seen += 1
    assert seen == len(files)


@pytest.mark.slow
def test_zips_give_what_is_good_in_them_and_a_sentence_for_the_rest(tmp_path, model, zips):
    expected = {case.name: case.answered for case in hostile.zips()}
    seen = 0
    for name, answers, said, seconds in read_by_python(tmp_path, model, zips):
        assert all(map(is_sentence, said)), (name, said)
        assert set(answers) == (expected[name] or set()), name
        assert said or name in ("names.zip", "behind a program.zip"), name
        assert seconds < SECONDS, name
        seen += 1
    assert seen == len(zips)


@pytest.mark.slow
@pytest.mark.long
def test_a_decoder_that_is_kept_busy_is_stopped(tmp_path, model):
    given = hostile.write(hostile.patience(), tmp_path / "images")
    for name, answers, said, seconds in read_by_python(tmp_path, model, given):
        assert answers == [] and "would take too long" in said[0], name
        assert images.MAX_DECODE_S <= seconds < SECONDS, name


@pytest.mark.slow
@pytest.mark.long
def test_the_command_line_answers_the_good_ones_and_has_a_line_for_each_of_the_others(tmp_path, model, files):
    result = ran(tmp_path, "-m", "blastlens", "classify", "--model", model, "--format", "json", "--", *files)
    assert result.code == 2 and result.megabytes < MEGABYTES
    answered = {Path(one["image"]).name: one for one in json.loads(result.out)}
    lines = result.errors.splitlines()
    assert [line for line in lines if not is_sentence(line)] == []
    assert len(answered) + len(lines) == len(files)
    for case in hostile.images():
        assert as_expected(case.outcome, case.name in answered), case.name
    # All of these show the same cell, so a swapped answer would show.
    same = [answered[f"is {suffix}.{other}"]["logits"] for suffix in ("png", "bmp") for other in ("gif", "webp")]
    assert same == [same[0]] * 4


@pytest.mark.slow
@pytest.mark.long
def test_batch_scoring_has_a_row_for_each(tmp_path, model, files, zips):
    out = tmp_path / "results.parquet"
    result = ran(tmp_path, "-m", "blastlens", "score", "--model", model, "--out", out, "--", files[0].parent, *zips)
    assert result.code == 2 and "Traceback" not in result.errors, result.errors[-2000:]
    assert result.megabytes < MEGABYTES
    scored = {row["file"]: row["error"] for row in rows(out)}
    assert [error for error in scored.values() if error and not is_sentence(error)] == []
    for case in hostile.images():
        if not case.name.startswith("."):
            assert as_expected(case.outcome, scored[f"images/{printable(case.name)}"] is None), case.name
    for case in hostile.zips():
        for name in case.answered or ():
            assert scored[f"{case.name.removesuffix('.zip')}/{name}"] is None, case.name


SERVE = """
import sys
from pathlib import Path
from blastlens.ui import build, launch
demo = build([Path(sys.argv[1])])
_, address, _ = launch(demo, prevent_thread_lock=True, quiet=True)
print("\\n" + address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def page(model, tmp_path_factory) -> Iterator[tuple[str, int, Path]]:
    """Address and process of a page of its own, and the file with what it has to complain of."""
    folder = tmp_path_factory.mktemp("page")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with open(folder / "errors", "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, model],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
        try:
            yield (
                next(line.strip() for line in process.stdout if line.startswith("http")),
                process.pid,
                folder / "errors",
            )
        finally:
            process.communicate("", timeout=30)


def megabytes_at_most(process: int) -> float:
    """The most memory that a running process has had."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read where Linux keeps it")
def test_the_page_answers_the_good_ones_of_a_batch_and_says_what_is_wrong_with_each_other(page, tmp_path, zips):
    address, process, errors = page
    before = megabytes_at_most(process)
    client = Client(address, verbose=False)
    cases = hostile.images()
    batch = hostile.zipped([(case.name, case.data) for case in cases], zipfile.ZIP_STORED)
    (tmp_path / "batch.zip").write_bytes(batch)
    answer = client.predict(files=[handle_file(tmp_path / "batch.zip")], api_name="/score_images")
    answered = {one["file"]: one["probabilities"] for one in answer["images"]}
    refused = {one["file"]: one["reason"] for one in answer["failures"]}
    assert [reason for reason in refused.values() if not is_sentence(reason)] == []
    assert GOOD in answered and answered[GOOD] == answered["is png.gif"]
    for case in cases:
        name = printable(case.name).replace("\\", "/")
        assert as_expected(case.outcome, name in answered) or name.startswith(".."), case.name
    for case, path in zip(hostile.zips(), zips, strict=True):
        try:
            answer = client.predict(files=[handle_file(path)], api_name="/score_images")
            assert {one["file"] for one in answer["images"]} == case.answered, case.name
            assert all(is_sentence(one["reason"]) for one in answer["failures"])
        except AppError as error:
            assert case.answered is None and is_sentence(str(error)), (case.name, error)
    for case in cases[::40]:
        path = tmp_path / f"one{Path(case.name).suffix}"
        path.write_bytes(case.data)
        try:
            assert client.predict(image=handle_file(path), api_name="/classify")["label"] in LABELS["cell"]
        except AppError as error:
            assert case.outcome != ANSWERED and is_sentence(str(error)), (case.name, error)
    assert megabytes_at_most(process) - before < MEGABYTES
    assert "Traceback" not in errors.read_text()


CORPUS = ROOT / "tests" / "fuzz_corpus"  # inputs that a coverage-guided fuzzer (Atheris) found


@pytest.mark.filterwarnings("ignore")  # Pillow's
def test_images_that_fuzzing_found_are_opened_or_refused_in_a_sentence():
    for file in (CORPUS / "image").iterdir():
        try:
            image = open_image(file.read_bytes())
            assert image.mode == "RGB" and image.width * image.height <= images.MAX_PIXELS, file
        except BlastlensError as error:
            assert is_sentence(str(error)), file


def test_zips_that_fuzzing_found_are_read_or_refused_in_a_sentence(tmp_path):
    for file in (CORPUS / "zip").iterdir():
        path = tmp_path / "a.zip"
        path.write_bytes(file.read_bytes())
        found = list_sources([path])
        names = [source.name for source in found.sources]
        assert len(set(names)) == len(names), file
        for name in names:
            assert name.isprintable() and not name.startswith("/") and ".." not in name.split("/"), file
        assert all(name.isprintable() and is_sentence(sentence) for name, sentence in found.refused), file
        for source in found.sources[:20]:
            try:
                source.read()
            except BlastlensError as error:
                assert is_sentence(str(error)), file
