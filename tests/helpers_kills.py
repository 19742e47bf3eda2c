"""Commands that are killed at chosen moments, started again, and looked at in between.

A moment is a number: the command's n-th change to the file system under one folder (a file opened for writing, a
rename, a removal, a new folder), counted by an audit hook of Python; some seconds may pass between it and the kill.
Commands are forked off one process that has imported PyTorch already; each process group is killed as a whole.
"""

import csv
import hashlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")
PRELOAD = (
    "train.evaluate",
    "train.compare",
    "train.export",
    "train.datasets.__main__",
    "blastlens.__main__",
    "blastlens.batch_scoring.score",
)


@dataclass(frozen=True)
class Command:
    """`python -m module argv`, which changes files under `root`.

    Attributes:
        kill_at: the change before which its process group is killed, from 1 on; 0 is never.
        delay: seconds between that change and the kill; the command goes on meanwhile.
        file_limit: bytes that no file may grow beyond (RLIMIT_FSIZE), None for no limit.
        setup: a line of Python to execute before.
    """

    module: str
    argv: tuple[str, ...]
    root: str
    kill_at: int = 0
    delay: float = 0.0
    file_limit: int | None = None
    setup: str = ""


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status (negative for a signal), what it said, and how many changes it had made."""

    status: int
    out: str
    err: str
    changes: int


def count_changes(root: str, kill_at: int, delay: float, counter: Path) -> None:
    """Count this process's changes under `root` into a file, one byte each, and kill the process group at one."""
    tally = os.open(counter, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    count, busy = 0, threading.local()

    def kill() -> None:
        os.killpg(os.getpgrp(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & WRITING):
                return
        elif event not in CHANGES:
            return
        else:
            path = arguments[0]
        # Beneath a folder's descriptor, as in shutil.rmtree, a path is relative: it counts wherever that is.
        relative = event != "open" and isinstance(arguments[-1], int) and arguments[-1] >= 0 and event != "os.truncate"
        if getattr(busy, "now", False) or not (relative or str(path).startswith(root)):
            return
        busy.now = True
        count += 1
        os.write(tally, b".")
        if count == kill_at:
            if not delay:
                kill()
            timer = threading.Timer(delay, kill)
            timer.daemon = True
            timer.start()
        busy.now = False

    sys.addaudithook(hook)


def _become(command: dict[str, Any], scratch: Path) -> None:
    """Turn this forked process into the command; it never returns."""
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(scratch / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    status = 1
    try:
        exec(command["setup"], {})
        if command["file_limit"] is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (command["file_limit"], resource.RLIM_INFINITY))
        module = importlib.import_module(command["module"])
        count_changes(command["root"], command["kill_at"], command["delay"], scratch / "changes")
        status = module.main(list(command["argv"])) or 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(scratch: Path) -> None:
    """Fork a command for each line of stdin and answer with a line."""
    for name in PRELOAD:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        (scratch / "changes").unlink(missing_ok=True)
        if (child := os.fork()) == 0:
            _become(json.loads(line), scratch)
        _, status = os.waitpid(child, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()


class Launcher:
    """The process that commands are forked off. `scratch` is a folder for its own files and for libraries' caches."""

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests"))),
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(scratch / "huggingface"),
            "TQDM_DISABLE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        code = f"import helpers_kills, pathlib; helpers_kills._serve(pathlib.Path({str(scratch)!r}))"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=environment, **pipes)

    def run(self, command: Command) -> Ended:
        """Run a command to its end, or to its kill."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(asdict(command)) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that commands are forked off has ended ({self._process.wait(timeout=30)})"
        out, err = ((self.scratch / name).read_text(errors="replace") for name in ("out", "err"))
        changes = self.scratch / "changes"
        return Ended(int(answer), out, err, changes.stat().st_size if changes.exists() else 0)

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=30)


def survive(
    launcher: Launcher, command: Command, moments: Sequence[tuple[int, float]], look: Callable[[], object]
) -> int:
    """Kill a command at each of the moments (change, delay) in turn, then let it end; `look` after every kill.

    Returns how often it was killed: a command that is done before its moment comes is not.
    """
    kills = 0
    for change, delay in moments:
        ended = launcher.run(replace(command, kill_at=change, delay=delay))
        assert ended.status in (0, -signal.SIGKILL), ended.err[-3000:]
        kills += ended.status < 0
        look()
    ended = launcher.run(command)
    assert ended.status == 0, ended.err[-3000:]
    look()
    return kills


def final_files(root: Path) -> list[Path]:
    """The files under `root` that have their final names: none that is hidden, or in a folder that is, none that ends
    in .tmp, and of checkpoints only those that are marked as complete."""

    def final(path: Path) -> bool:
        checkpoint = next((parent for parent in path.parents if parent.name.startswith("checkpoint-")), None)
        parts = path.relative_to(root).parts
        unfinished = any(part.startswith(".") or part.endswith(".tmp") for part in parts)
        return path.is_file() and not unfinished and (checkpoint is None or (checkpoint / "complete").exists())

    return sorted(filter(final, root.rglob("*")))


def leftovers(root: Path) -> list[str]:
    """Hidden files and folders with something in them under `root`, but for locks."""
    hidden = (path for path in root.rglob("*") if path.name.startswith("."))
    names = (path for path in hidden if path.is_file() or any(path.iterdir()))
    return sorted(str(path.relative_to(root)) for path in names if not path.name.endswith(".lock"))


def assert_all_load(root: Path) -> None:
    """Read every file under its final name with the library that reads its kind; raises whatever that raises."""
    for path in final_files(root):
        try:
            LOADERS.get(path.suffix, Path.read_bytes)(path)
        except Exception as error:
            raise AssertionError(f"{path} is there and does not load: {error!r}") from error


def _arrays(path: Path) -> None:
    found = np.load(path)
    assert all(found[name] is not None for name in getattr(found, "files", ()))
    assert path.suffix != ".npy" or found.nbytes + 64 <= path.stat().st_size


def _table(path: Path) -> None:
    text = path.read_text()
    assert text.endswith("\n") and len({len(row) for row in csv.reader(text.splitlines())}) == 1


LOADERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: json.loads(path.read_text()),
    ".safetensors": load_file,
    ".onnx": lambda path: onnx.checker.check_model(onnx.load(path)),
    ".parquet": pq.read_table,
    ".csv": _table,
    **dict.fromkeys((".npz", ".npy"), _arrays),
    **dict.fromkeys((".pt", ".pth"), lambda path: torch.load(path, weights_only=False)),
    **dict.fromkeys((".png", ".webp", ".jpg", ".bmp"), lambda path: Image.open(path).load()),
}


def contents(root: Path, timings: Sequence[str] = (), logs: Sequence[str] = ()) -> dict[str, Any]:
    """Every file under its final name but logs: a digest of its bytes, or of JSON what it says but for timings."""
    found: dict[str, Any] = {}
    for path in final_files(root):
        name = path.relative_to(root).as_posix()
        if path.name in logs:
            continue
        if path.suffix == ".json":
            found[name] = _without(json.loads(path.read_text()), timings)
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def _without(value: Any, keys: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner, keys) for key, inner in value.items() if key not in keys}
    return [_without(inner, keys) for inner in value] if isinstance(value, list) else value
