"""Files are whole under their own name, or as they were."""

import json

import pytest

from train.files import replace, write_json


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

    with pytest.raises(OSError, match="disk full"):
        replace(path, half)
    assert path.read_bytes() == b"old"
