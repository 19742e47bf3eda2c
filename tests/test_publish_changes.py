"""What an upload would change, file by file, as git and the Hub name contents."""

import subprocess

import pytest

from publish.changes import Changes, File, Remote, readable


def remote(file: File, large: bool = False) -> Remote:
    return Remote(file.blob_id, file.sha256 if large else None)


def test_a_file_is_named_as_git_names_it(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'{"label_names": ["ALL", "HEM"]}\n')
    named = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True).stdout.strip()
    assert File("config.json", path).blob_id == File("config.json", path.read_bytes()).blob_id == named


def test_bytes_and_a_file_of_the_same_bytes_are_the_same(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert File("a", tmp_path / "a").sha256 == File("a", b"abc").sha256
    assert File("a", tmp_path / "a").size == 3


def test_each_file_is_added_changed_deleted_or_the_same():
    new, edited, kept, large = File("new", b"1"), File("edited", b"2"), File("kept", b"3"), File("x.onnx", b"4")
    there = {
        "edited": Remote("0" * 40),
        "kept": remote(kept),
        "x.onnx": remote(large, large=True),
        "gone.bin": Remote("0" * 40),
        ".gitattributes": Remote("0" * 40),
    }
    changes = Changes.between((new, edited, kept, large), there)
    assert changes == Changes(added=(new,), changed=(edited,), deleted=("gone.bin",), same=(kept, large))
    assert list(changes.lines()) == ["  ~ edited  1 B", "  - gone.bin", "  + new  1 B", "  = 2 unchanged"]
    assert changes.uploads == (new, edited)


def test_a_large_file_is_told_by_its_sha256_and_not_by_its_pointers_name():
    file = File("x.onnx", b"4")
    assert not Changes.between((file,), {"x.onnx": Remote("of the pointer", file.sha256)})
    assert Changes.between((file,), {"x.onnx": Remote(file.blob_id, "0" * 64)})


def test_what_the_hub_put_there_itself_is_no_change():
    assert not Changes.between((), {".gitattributes": Remote("0" * 40)})


@pytest.mark.parametrize(
    "size, text", [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (29_403, "29 kB"), (12_938_448, "12.9 MB")]
)
def test_sizes_are_readable(size, text):
    assert readable(size) == text
