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
        raise BlastlensError(f"{file.name} cannot be read ({error.strerror}); put it back, or export again.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BlastlensError(f"{file.name} is damaged or no safetensors file ({error}); export it again.") from error


def parse_tensors(data: bytes) -> dict[str, np.ndarray]:
    """The arrays in a file's bytes; raises ValueError, KeyError or TypeError where it is not as the format says."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 + length:
        raise ValueError("its header is cut off")
    header = json.loads(data[8 : 8 + length].decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    header.pop("__metadata__", None)
    body = memoryview(data)[8 + length :]
    return {name: _tensor(name, entry, body) for name, entry in header.items()}


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
