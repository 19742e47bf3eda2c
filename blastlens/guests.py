"""Models of the Hub that visitors of a page ask for by name, where its operator allows it.

Strangers choose them and strangers made them, so each is first fetched and tried out by a process of its own, which has
little memory and little time, no token, none of the operator's models within reach, and a cache that is deleted again.
`python -m blastlens.guests` is that process. Only ONNX is served: neither a model's code nor PyTorch is ever run.

What passes runs in the page's own process, limited in time but not in memory. An operator who allows guests trusts
visitors not to bring a network that takes too much for some images only.
"""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from . import temp_files
from .classifier import Classifier
from .errors import BlastlensError
from .hub import split_name
from .inference import LimitedOnnxBackend
from .model_folder import ModelFolder, fetch
from .serving import ROOT, for_visitors

KEPT = 3  # models at a time, in memory
LONGEST_S = 90.0  # to fetch one and to try it out
PATIENCE_S = 8.0  # for who asks a model that is not there yet; longer would keep others waiting
REMEMBERED_S = 20.0  # that a model could not be had, so that whoever asks again learns why
# What one may have. The bundled models are of 9 and 13 MB and take 0.3 GB while they are tried out.
MAX_BYTES = 250_000_000
MAX_MEMORY = 1_500_000_000
BATCH_S = 5.0  # that one batch of a few images may take
MAX_LABELS, MAX_LETTERS = 50, 60
# How the Hub is reached, and where programs and libraries are. Of the environment only this is handed on, since what
# else is in it may be a secret.
_KEPT = (
    *("HF_ENDPOINT", "HF_HUB_OFFLINE", "HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "no_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "OMP_NUM_THREADS"),
)


class NotYetError(BlastlensError):
    """A model that is being fetched, or has to wait for another one: asked again, it may be there."""


def pinned(folder: ModelFolder) -> str:
    """The name that stands for this very commit, "owner/name@0123..."."""
    return f"{folder.model_id}@{folder.revision}"


class Guests:
    """The few models that visitors asked for last; one is fetched at a time. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, Classifier] = OrderedDict()  # by pinned name, the last to be asked at the end
        self._names: dict[str, str] = {}  # as asked for -> pinned, of those kept
        self._refused: dict[str, tuple[float, str]] = {}  # as asked for -> until when, and why
        self._coming = ""  # as asked for

    def classifier(self, name: str, patience: float = PATIENCE_S) -> Classifier:
        """A model, fetched first where it is not kept.

        A name without a commit means what the Hub had when it was last fetched.

        Args:
            name: "owner/name" or "owner/name@revision".
            patience: how many seconds to wait for it at most. The fetching goes on.

        Raises:
            NotYetError: patience was at its end, or somebody else waits for this model or for another one.
            BlastlensError: it cannot be had.
        """
        with self._lock:
            if found := self._find(name):
                return found
            if self._coming == name:
                raise _not_yet(name)
            if self._coming:
                raise NotYetError(f"Another model is being fetched, one at a time; ask for {name} again in a minute.")
            self._coming = name
        outcome: Future[Classifier] = Future()
        threading.Thread(target=self._bring, args=(name, outcome), daemon=True).start()
        try:
            return outcome.result(patience)
        except TimeoutError:
            raise _not_yet(name) from None

    def _find(self, name: str) -> Classifier | None:
        key = self._names.get(name, name)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        until, why = self._refused.get(name, (0.0, ""))
        if time.monotonic() < until:
            raise BlastlensError(why)
        return None

    def _bring(self, name: str, outcome: "Future[Classifier]") -> None:
        try:
            classifier = _load(name)
        except Exception as error:  # one that nobody foresaw must not keep the door shut
            why = str(error) if isinstance(error, BlastlensError) else f"Model {name} cannot be used here."
            with self._lock:
                now = time.monotonic()
                self._refused = {one: told for one, told in self._refused.items() if told[0] > now}
                self._refused[name] = (now + REMEMBERED_S, why)
                self._coming = ""
            outcome.set_exception(BlastlensError(why))
            return
        with self._lock:
            key = pinned(classifier.folder)
            self._kept[key] = classifier
            self._kept.move_to_end(key)
            self._names[name] = key
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            self._names = {one: known for one, known in self._names.items() if known in self._kept}
            self._coming = ""
        outcome.set_result(classifier)


def _not_yet(name: str) -> NotYetError:
    return NotYetError(f"Model {name} is being fetched from the Hub; ask again in a few seconds.")


def _load(name: str) -> Classifier:
    """Have another process fetch a model and try it out, then load what it let pass.

    From then on it runs in this process, stopped where a batch takes longer than BATCH_S; its memory is limited only
    while it is tried out.
    """
    with tempfile.TemporaryDirectory(dir=temp_files.root(), ignore_cleanup_errors=True) as place:
        said = _tried(name, Path(place))
        return _limited(ModelFolder.load(said["path"], said["model_id"], said["revision"]))


def _limited(folder: ModelFolder) -> Classifier:
    # Neither what a stranger says of how good it is nor the words of its gate may become the page's own.
    folder = dataclasses.replace(folder, metrics={}, gate=None)
    return Classifier(folder, backend=LimitedOnnxBackend(folder.onnx_file("fp32"), folder, BATCH_S))


def _tried(name: str, place: Path) -> dict[str, str]:
    # Nothing lies in its working folder, so that no name means a folder here instead of the Hub's repository.
    (place / "nothing").mkdir()
    overrun = threading.Event()
    with subprocess.Popen(
        [sys.executable, "-m", "blastlens.guests", name],
        stdin=subprocess.PIPE,  # held open as long as this process lives
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=place / "nothing",
        env=_environment(place, os.environ),
    ) as process:

        def end() -> None:
            overrun.set()
            process.kill()

        limit = threading.Timer(LONGEST_S, end)
        limit.start()
        try:
            assert process.stdout is not None  # it is a pipe
            line = process.stdout.readline(100_000)
        finally:
            limit.cancel()
            process.kill()
    if overrun.is_set():
        raise BlastlensError(
            f"Model {name} could not be fetched and tried out within {LONGEST_S:.0f} s; try again later, or use a "
            "smaller one."
        )
    try:
        said: dict[str, str] = json.loads(line)
    except ValueError:  # it broke down
        raise _cannot_run(name) from None
    if "refused" in said:
        raise BlastlensError(said["refused"])
    return said


def _environment(place: Path, given: Mapping[str, str]) -> dict[str, str]:
    """What the other process knows of this one: no token, and a cache and bundled models of which there are none."""
    return {name: given[name] for name in _KEPT if name in given} | {
        "HOME": str(place),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), given.get("PYTHONPATH")))),
        "HF_HOME": str(place / "huggingface"),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_HUB_DISABLE_XET": "1",  # its client takes memory of its own and goes on trying for minutes
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "BLASTLENS_MODELS": str(place / "nothing"),
    }


# The other process.


def main(name: str) -> None:
    """Fetch a model, try it out, and say on standard output where it lies, or why it is refused."""
    threading.Thread(target=_end_with_the_page, daemon=True).start()
    _limit_memory()
    try:
        said = _try_out(name)
    except BlastlensError as error:
        said = {"refused": str(error)}
    except Exception:  # too little memory, or whatever else a network comes up with that is not as it describes itself
        said = {"refused": str(_cannot_run(name))}
    print(json.dumps(said), flush=True)


def _try_out(name: str) -> dict[str, Any]:
    try:
        folder = fetch(name)
    except BlastlensError as error:
        raise BlastlensError(f"{for_visitors(str(error))}.") from None
    file = folder.onnx_file("fp32")
    if folder.revision is None or split_name(name) is None:
        raise BlastlensError(f"There is no model {name!r} on the Hub; give owner/name or owner/name@revision.")
    if not file.is_file():
        raise BlastlensError(
            f"Model {name} has no ONNX file, and nothing else is opened for visitors; ask its owner for "
            f"{file.relative_to(folder.path)}."
        )
    if (size := file.stat().st_size) > MAX_BYTES:
        raise BlastlensError(
            f"The network of model {name} has {size / 1e6:.0f} MB; at most {MAX_BYTES / 1e6:.0f} MB are opened for "
            "visitors."
        )
    labels = folder.label_names
    if len(labels) > MAX_LABELS or not all(len(label) <= MAX_LETTERS and label.isprintable() for label in labels):
        raise BlastlensError(
            f"The labels of model {name} cannot be shown; at most {MAX_LABELS}, of up to {MAX_LETTERS} letters that "
            "can be printed, are."
        )
    classifier = _limited(folder)
    # What the page asks of it at once, on an image that is neither black nor flat.
    image = np.random.default_rng(0).integers(0, 256, (450, 450, 3), dtype=np.uint8)
    classifier.curve(image, seeds=(0, 1, 2, 3))
    return {"path": str(folder.path), "model_id": folder.model_id, "revision": folder.revision}


def _cannot_run(name: str) -> BlastlensError:
    return BlastlensError(
        f"Model {name} cannot be run, or not within the {MAX_MEMORY / 1e9:.1f} GB of memory that a visitor's model may "
        "take; ask its owner about it, or use another one."
    )


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows
        return
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_MEMORY, MAX_MEMORY))
    os.nice(10)  # visitors with an answer to wait for come first


def _end_with_the_page() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1])
