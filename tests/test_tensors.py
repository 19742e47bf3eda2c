"""The reader of safetensors files: what the package writes comes back, and nothing else gets through."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from blastlens import tensors
from blastlens.errors import BlastlensError
from blastlens.tensors import read_tensors

ARRAYS = {
    "mean": np.arange(6, dtype=np.float32).reshape(2, 3),
    "half": np.array([0.5, -2], np.float16),
    "double": np.array([[[1e-300]]]),
    "count": np.array([7], np.int64),
    "empty": np.zeros((0, 4), np.float32),
}


def test_what_safetensors_writes_comes_back(tmp_path):
    save_file(ARRAYS, tmp_path / "a.safetensors", metadata={"format": "np"})
    found = read_tensors(tmp_path / "a.safetensors")
    assert set(found) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert (found[name] == array).all()


def file_of(header, body=b"\0" * 8):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def test_a_file_written_by_hand_is_read(tmp_path):
    (tmp_path / "a").write_bytes(file_of({"x": GOOD}))
    assert read_tensors(tmp_path / "a")["x"].tolist() == [0, 0]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        file_of(b"{"),
        file_of(b"\xff\xfe"),
        file_of(b"[" * 100_000),
        file_of([GOOD]),
        file_of({"x": []}),
        file_of({"x": GOOD | {"dtype": "BF16"}}),
        file_of({"x": GOOD | {"shape": [3]}}),
        file_of({"x": GOOD | {"shape": [-2]}}),
        file_of({"x": GOOD | {"shape": ["2"]}}),
        file_of({"x": GOOD | {"shape": 2}}),
        file_of({"x": GOOD | {"data_offsets": [0, 16]}}),
        file_of({"x": GOOD | {"data_offsets": [-8, 0]}}),
        file_of({"x": GOOD | {"data_offsets": [8, 0]}}),
        file_of({"x": GOOD | {"data_offsets": [0]}}),
        file_of({"x": GOOD}, b"\0" * 4),
    ],
)
def test_a_damaged_file_is_one_sentence(tmp_path, data):
    (tmp_path / "gate.safetensors").write_bytes(data)
    with pytest.raises(BlastlensError, match=r"^gate\.safetensors is damaged or no safetensors file \("):
        read_tensors(tmp_path / "gate.safetensors")


def test_a_file_that_is_absent_or_too_large_is_refused(tmp_path, monkeypatch):
    with pytest.raises(BlastlensError, match="cannot be read"):
        read_tensors(tmp_path / "none")
    (tmp_path / "a").write_bytes(file_of({"x": GOOD}))
    monkeypatch.setattr(tensors, "MAX_BYTES", 20)
    with pytest.raises(BlastlensError, match="larger than"):
        read_tensors(tmp_path / "a")
