"""Whether the files of a model folder belong together, so that what is served is what was exported and measured.

metrics.json records the SHA-256 of each network file, and the labels it was measured with: `train.export` begins that
record, `train.evaluate` completes it. Files that nothing is recorded of, as of other people's folders, are held to what
can be known without: their numbers are finite, and the last linear layer of the ONNX file is the safetensors'. Whether
a network answers with numbers at all is asked of it by `backend`.
"""

import hashlib
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import BlastlensError
from .tensors import finite_tensors

# Formats that run code when they are loaded; a folder that holds one is refused, whether or not it would be
# read.
PICKLE_SUFFIXES = (
    *(".bin", ".pt", ".pth", ".pt2", ".pkl", ".pickle", ".dill", ".ckpt", ".joblib"),
    *(".h5", ".hdf5", ".keras"),
)
CODE_SUFFIXES = (".py", ".pyc", ".pyd", ".so", ".dll", ".dylib")


def digests(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 of those of some files that a folder has, by the name that stands for each."""
    found = {}
    for name, file in files.items():
        if (folder / file).is_file():
            with (folder / file).open("rb") as content:
                found[name] = hashlib.file_digest(content, "sha256").hexdigest()
    return found


def refuse_code(folder: Path, recorded: Iterable[str]) -> None:
    """Raises BlastlensError for a pickle anywhere in a folder, or code other than the recorded files."""
    known = set(recorded)
    for path in sorted(folder.rglob("*")):
        file, suffix = path.relative_to(folder).as_posix(), path.suffix.lower()
        if suffix in PICKLE_SUFFIXES:
            raise BlastlensError(f"{file} may run code when it is loaded; safetensors and ONNX are accepted.")
        if suffix in CODE_SUFFIXES and file not in known:
            raise BlastlensError(f"{file} is code that this model was not exported with; take it out.")


def refuse_links_out(folder: Path, files: Iterable[str]) -> None:
    """Raises BlastlensError where one of some files is a link to a place outside of the folder.

    A snapshot in the Hub's cache consists of links; they may lead anywhere in its repository's part of the cache.
    """
    root = folder.resolve()
    if root.parent.name == "snapshots":
        root = root.parents[1]
    for file in files:
        if not (folder / file).resolve().is_relative_to(root):
            raise BlastlensError(f"{file} is a link that leads out of the folder; put the file itself there.")


def refuse_other_labels(config: Mapping[str, Any], labels: tuple[str, ...], metrics: Mapping[str, Any]) -> None:
    """Raises BlastlensError where the files of a folder name its classes differently, or in another order."""
    order = [str(i) for i in range(len(labels))]
    expected = {
        "label_names in metrics.json": list(labels),
        "id2label in config.json": dict(zip(order, labels, strict=True)),
        "label2id in config.json": dict(zip(labels, order, strict=True)),
    }
    for what, names in expected.items():
        key, _, file = what.split()
        found = (metrics if file == "metrics.json" else config).get(key)
        if isinstance(found, dict):
            found = {str(one): str(other) for one, other in found.items()}
        if found is not None and found != names:
            raise BlastlensError(
                f"label_names in config.json are {', '.join(labels)}, but {what} says {found!r:.300}; the order in "
                "which the network was trained is expected in both."
            )


def refuse_other_files(folder: Path, files: Mapping[str, str], recorded: object, where: str) -> None:
    """Raises BlastlensError where a file that is there is not the one whose digest was recorded.

    Args:
        files: by the names that stand for them in the record.
        recorded: SHA-256 by name; None where nothing was recorded.
        where: which file the record stands in.
    """
    if recorded is None:
        return
    if not isinstance(recorded, dict):
        raise BlastlensError(f"sha256 in {where} is {recorded!r}; a digest for each file is expected.")
    for name, digest in digests(folder, {name: file for name, file in files.items() if name in recorded}).items():
        if digest != recorded[name]:
            raise BlastlensError(
                f"{files[name]}, of {(folder / files[name]).stat().st_size} bytes, is cut off, damaged or not the file "
                f"that {where} was written for; put that one back, or export and measure the model again."
            )


def refuse_odd_networks(safetensors: Path, onnx: Path, config: Mapping[str, Any]) -> None:
    """Hold against network files, either of which may be absent, what can be where nothing is recorded of them.

    Raises:
        BlastlensError: the safetensors file is damaged or holds numbers that are not finite, or the last linear layer
            that config.json names is not that of the ONNX file.
    """
    if not safetensors.is_file():
        return
    cfg = config.get("pretrained_cfg")
    last = cfg.get("classifier") if isinstance(cfg, dict) else None
    tensors = finite_tensors(safetensors)
    if not (isinstance(last, str) and onnx.is_file() and onnx.stat().st_size):
        return
    with onnx.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        for name in (name for name in tensors if f".{name}".endswith((f".{last}.weight", f".{last}.bias"))):
            # As it is, or turned over, as exporters other than torch's write it.
            if not any(graph.find(values.tobytes()) >= 0 for values in (tensors[name], tensors[name].T)):
                raise BlastlensError(
                    f"{onnx.parent.name}/{onnx.name} and {safetensors.name} are two different networks: {name} is "
                    "not the same; export the model again, or take one of the two out."
                )
