"""Checks that the files of a model folder are safe and belong together, so that what is served was exported together.

metrics.json records the SHA-256 of each network file and the labels that it was measured with. Without such a record
the last linear layer of the ONNX file must be that of the safetensors file, and all numbers must be finite.
"""

import hashlib
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from .errors import BlastlensError

# Formats that may run code when they are loaded. A folder with such a file is rejected even if nothing reads it.
PICKLE_SUFFIXES = (
    *(".bin", ".pt", ".pth", ".pt2", ".pkl", ".pickle", ".dill", ".ckpt", ".joblib"),
    *(".h5", ".hdf5", ".keras"),
)
CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib")


def digests(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 by key of those files (key -> path in the folder) that exist."""
    found = {}
    for key, file in files.items():
        if (folder / file).is_file():
            with (folder / file).open("rb") as content:
                found[key] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def read_tensors(file: Path, max_bytes: float = float("inf")) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file by name; types that numpy lacks, such as bfloat16, are left out.

    Raises:
        BlastlensError: unreadable, damaged, larger than `max_bytes`, or numbers that are not finite.
    """
    try:
        if file.stat().st_size > max_bytes:
            raise BlastlensError(f"{file.name} is larger than {max_bytes / 1e6:.0f} MB.")
        tensors = {}
        with safe_open(file, framework="np") as content:
            for name in content.keys():  # noqa: SIM118  (not a mapping)
                if content.get_slice(name).get_dtype() not in ("BF16", "F8_E4M3", "F8_E5M2"):
                    tensors[name] = content.get_tensor(name)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise BlastlensError(f"{file.name} is damaged or not a safetensors file ({error}); export it again.") from error
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise BlastlensError(f"{name} in {file.name} holds numbers that are not finite; export the model again.")
    return tensors


def check_no_code(folder: Path, recorded: Iterable[str]) -> None:
    """Raise BlastlensError for a pickle anywhere in a folder, or for code other than the recorded files."""
    known = set(recorded)
    for path in sorted(folder.rglob("*")):
        file, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
        if suffix in PICKLE_SUFFIXES:
            raise BlastlensError(f"{file} may run code when it is loaded; safetensors and ONNX are accepted.")
        if suffix in CODE_SUFFIXES and file not in known:
            raise BlastlensError(f"{file} is code that this model was not exported with; remove it.")


def check_links(folder: Path, files: Iterable[str]) -> None:
    """Raise BlastlensError where one of the files is a link that leads out of the folder.

    A snapshot in the Hub's cache consists of links, which may lead anywhere in the repository's part of the cache.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots":
        root = root.parents[1]
    for file in files:
        if not (folder / file).resolve().is_relative_to(root):
            raise BlastlensError(f"{file} is a link that leads out of the folder; put the file itself there.")


def check_labels(config: Mapping[str, Any], labels: tuple[str, ...], metrics: Mapping[str, Any]) -> None:
    """Raise BlastlensError where the files of a folder name its classes differently, or in another order."""
    order = [str(i) for i in range(len(labels))]
    expected = [
        ("metrics.json", metrics, "label_names", list(labels)),
        ("config.json", config, "id2label", dict(zip(order, labels, strict=True))),
        ("config.json", config, "label2id", dict(zip(labels, order, strict=True))),
    ]
    for file, record, key, names in expected:
        found = record.get(key)
        if isinstance(found, dict):
            found = {str(one): str(other) for one, other in found.items()}
        if found is not None and found != names:
            raise BlastlensError(
                f"label_names in config.json are {', '.join(labels)}, but {key} in {file} says {found!r:.300}; the "
                "order in which the network was trained is expected in both."
            )


def check_digests(folder: Path, files: Mapping[str, str], recorded: object, where: str) -> None:
    """Raise BlastlensError where a file that exists differs from the one whose digest was recorded.

    Args:
        files: key in the record -> path in the folder.
        recorded: SHA-256 by key; None where nothing was recorded.
        where: name of the file that holds the record.
    """
    if recorded is None:
        return
    if not isinstance(recorded, dict):
        raise BlastlensError(f"sha256 in {where} is {recorded!r}; a digest for each file is expected.")
    for key, digest in digests(folder, {key: file for key, file in files.items() if key in recorded}).items():
        if digest != recorded[key]:
            raise BlastlensError(
                f"{files[key]}, of {(folder / files[key]).stat().st_size} bytes, is cut off, damaged or not the file "
                f"that {where} was written for; restore that file, or export and measure the model again."
            )


def check_same_network(safetensors: Path, onnx: Path, config: Mapping[str, Any]) -> None:
    """Compare network files of which no digest is recorded; either may be absent.

    Raises:
        BlastlensError: the safetensors file is damaged or holds numbers that are not finite, or the last linear layer
            that config.json names is not that of the ONNX file.
    """
    if not safetensors.is_file():
        return
    cfg = config.get("pretrained_cfg")
    last = cfg.get("classifier") if isinstance(cfg, dict) else None
    tensors = read_tensors(safetensors)
    if not (isinstance(last, str) and onnx.is_file() and onnx.stat().st_size):
        return
    with onnx.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        for name in (name for name in tensors if f".{name}".endswith((f".{last}.weight", f".{last}.bias"))):
            # As it is, or transposed, as exporters other than torch's write it.
            if not any(graph.find(values.tobytes()) >= 0 for values in (tensors[name], tensors[name].T)):
                raise BlastlensError(
                    f"{onnx.parent.name}/{onnx.name} and {safetensors.name} are two different networks: {name} "
                    "differs; export the model again, or remove one of the two."
                )
