"""Files are whole under their own name, or as they were."""

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors import SafetensorError

from train.files import Unwritable, make_once, replace, write_json, writing


def test_what_was_written_is_read_back_and_nothing_is_left_beside_it(tmp_path):
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


def test_a_write_that_breaks_off_leaves_the_old_file(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(b"old")

    def half(part):
        part.write_bytes(b"ne")
        raise OSError("disk full")

    with pytest.raises(Unwritable, match=r"weights.bin cannot be written \(disk full\); what was there before is kept"):
        replace(path, half)
    assert everything_in(tmp_path) == {"weights.bin": b"old"}


def test_what_a_killed_process_left_of_a_file_is_gone_with_the_next_one(tmp_path):
    left = tmp_path / ".weights.bin.part"
    left.mkdir()
    (left / ".tmpAbC").write_bytes(b"half of it")  # safetensors' own
    replace(tmp_path / "weights.bin", lambda part: part.write_bytes(b"new"))
    assert everything_in(tmp_path) == {"weights.bin": b"new"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(30, "Read-only file system"), "Read-only file system"),
        (SafetensorError("Error while serializing: I/O error: xyz (os error 28)"), "No space left on device"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "no space left"),
    ],
    ids=["the system", "safetensors", "torch"],
)
def test_a_refusal_to_write_is_one_sentence_in_whatever_words_it_comes(error, reason, tmp_path):
    sentence = rf"x cannot be written \({reason}[^()]*\); .* give the same command again\.$"
    with pytest.raises(Unwritable, match=sentence), writing(tmp_path / "x"):
        raise error


def test_an_error_that_is_no_refusal_to_write_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="shapes"), writing(tmp_path / "x"):
        raise RuntimeError("shapes do not fit")


def test_what_is_made_once_is_not_made_again_and_two_who_want_it_do_not_both_make_it(tmp_path):
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
