"""Files are whole under their own name, or as they were."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors import SafetensorError

from blastlens.files import Unwritable, make_once, replace, write_json, writing


def test_nothing_is_left_beside_a_written_file(tmp_path):
    path = tmp_path / "new" / "record.json"
    write_json(path, {"a": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"a": [1, 2.5, None]}
    assert [p.name for p in path.parent.iterdir()] == ["record.json"]


def test_a_number_that_json_lacks_leaves_the_old_file(tmp_path):
    path = tmp_path / "record.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == 1


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def half(part):
        part.write_bytes(b"ne")
        raise OSError("disk full")

    with pytest.raises(Unwritable, match=r"weights.bin cannot be written \(disk full\); what was there before is kept"):
        replace(path, half)
    assert everything_in(tmp_path) == {"weights.bin": b"old"}


def test_the_next_write_removes_what_a_killed_one_left(tmp_path):
    left = tmp_path / ".weights.bin.part"
    left.mkdir()
    (left / ".tmpAbC").write_bytes(b"half of it")  # safetensors' own
    replace(tmp_path / "weights.bin", lambda part: part.write_bytes(b"new"))
    assert everything_in(tmp_path) == {"weights.bin": b"new"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "no space left"),
    ],
    ids=["the system", "safetensors", "torch"],
)
def test_an_error_of_the_system_is_one_sentence_whatever_library_wraps_it(error, reason, tmp_path):
    sentence = rf"x cannot be written \({reason}[^()]*\); .* rerun the command\.$"
    with pytest.raises(Unwritable, match=sentence), writing(tmp_path / "x"):
        raise error


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), writing(tmp_path / "x"):
        raise RuntimeError("shapes do not fit")


def test_a_file_is_made_once_although_several_threads_need_it(tmp_path):
    made = []

    def slowly(part):
        made.append(part)
        time.sleep(0.1)
        part.write_bytes(b"made")

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: make_once(tmp_path / "cache/x", slowly), range(3)))
    make_once(tmp_path / "cache/x", slowly)
    assert len(made) == 1 and (tmp_path / "cache/x").read_bytes() == b"made"


def everything_in(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
