"""Arrays in a safetensors file, read with numpy alone: serving has no package for it, and never opens a pickle.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of a JSON header, the header, which
names each array's type, shape and place, and the arrays' bytes. Writing is training's work, by the package itself.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BlastlensError

MAX_BYTES = 50_000_000
MAX_HEADER_BYTES = 10_000_000  # a name, a type, a shape and a place for each array
_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1"}


def read_tensors(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file by name; read-only.

    Raises:
        BlastlensError: it cannot be read, is larger than `MAX_BYTES`, or is no safetensors file of plain numbers.
    """
    try:
        if file.stat().st_size > MAX_BYTES:
            raise BlastlensError(
                f"{file.name} is larger than {MAX_BYTES / 1e6:.0f} MB; a small safetensors file is read."
            )
        return parse_tensors(file.read_bytes())
    except OSError as error:
        raise _unreadable(file, error) from error
    except _NOT_SO as error:
        raise _damaged(file, error) from error


def finite_tensors(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a whole network's file, of any size, by name; those of types that numpy lacks are left out.

    They lie on the disk until they are looked at.

    Raises:
        BlastlensError: as `read_tensors`, or a number that is not finite.
    """
    try:
        entries, body = _parts(np.memmap(file, np.uint8, "r").data)
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        if max(ends, default=0) != len(body):
            raise ValueError(f"it has {len(body)} bytes of numbers and {max(ends, default=0)} are announced")
        tensors = {name: _tensor(name, entry, body) for name, entry in entries.items() if entry["dtype"] in _TYPES}
    except OSError as error:
        raise _unreadable(file, error) from error
    except _NOT_SO as error:
        raise _damaged(file, error) from error
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BlastlensError(f"{name} in {file.name} holds numbers that are not finite; export the model again.")
    return tensors


def parse_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The arrays in a file's bytes; raises ValueError, KeyError or TypeError where it is not as the format says."""
    entries, body = _parts(memoryview(data))
    return {name: _tensor(name, entry, body) for name, entry in entries.items()}


def _parts(data: memoryview) -> tuple[dict[str, Any], memoryview]:
    """The header's entries by name, and the bytes after it."""
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"its header has {length} bytes; at most {MAX_HEADER_BYTES} are read")
    if len(data) < 8 + length:
        raise ValueError("its header is cut off")
    header = json.loads(bytes(data[8 : 8 + length]).decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    return header, data[8 + length :]


_NOT_SO = (ValueError, KeyError, TypeError, IndexError, RecursionError)


def _unreadable(file: Path, error: OSError) -> BlastlensError:
    return BlastlensError(f"{file.name} cannot be read ({error.strerror}); put it back, or export again.")


def _damaged(file: Path, error: Exception) -> BlastlensError:
    return BlastlensError(f"{file.name} is damaged or no safetensors file ({error}); export it again.")


def _tensor(name: str, entry: Mapping[str, Any], body: memoryview) -> np.ndarray:
    kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _TYPES:
        raise ValueError(f"{name} is of type {kind!r}; one of {', '.join(_TYPES)} is read")
    numbers = (start, end, *shape)
    if not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers) or end > len(body):
        raise ValueError(f"{name} lies outside of the file")
    dtype = np.dtype(_TYPES[kind])
    if end - start != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has other bytes than its shape asks for")
    return np.frombuffer(body[start:end], dtype).reshape(shape)
