"""Peak memory of batch scoring, for a folder of images and for an archive of a hundred times as many.

The files are links to a few hundred prepared images. The figure is the highest resident memory of the process of
`python -m blastlens score`.
"""

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.common import ROOT, Figure, Target, is_cell_model, machine, prepared_images, raw_images, table
from blastlens import Classifier

TITLE = "Memory of batch scoring"
COUNTS = (1_000, 100_000)
DIFFERENT = 256  # images behind the links
PRECISION = "int8"
GROWTH = Target(1.15)  # two runs differ by up to this much because of the allocator


def resident_mb(process: int) -> float:
    """Resident memory of a process and its children, in millions of bytes."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    status = Path(f"/proc/{process}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6 + sum(resident_mb(int(child)) for child in children)


def peak_mb(command: Sequence[str]) -> float:
    """Highest resident memory of a command, in millions of bytes.

    Raises:
        SystemExit: it failed.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    highest, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        # Not ru_maxrss, which starts with the memory of the parent process.
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        highest = max(highest, *(int(line.split()[1]) for line in lines), 0)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"Scoring ended with exit code {process.returncode}.")
    return highest * 1024 / 1e6


def measure(models: Sequence[str], cells: Path | None, fields: Path | None, quick: bool) -> dict[str, Any]:
    """The record of this part, for the first model."""
    classifier = Classifier.from_pretrained(models[0], precision=PRECISION)
    of_cells, runs = is_cell_model(classifier), []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw = raw_images(cells if of_cells else fields, of_cells, folder / "raw")
        prepared = prepared_images(classifier, raw, folder / "prepared", min(DIFFERENT, len(raw)))
        for count in (20, 40) if quick else COUNTS:
            source = folder / f"{count}"
            source.mkdir()
            for number, image in enumerate(islice(cycle(prepared), count)):
                (source / f"{number:06d}{image.suffix}").symlink_to(image)
            start = time.perf_counter()
            options = ["--model", models[0], "--precision", PRECISION, "--out", str(folder / f"{count}.parquet")]
            highest = peak_mb([sys.executable, "-m", "blastlens", "score", str(source), *options])
            runs.append({"images": count, "peak_mb": highest, "seconds": time.perf_counter() - start})
    return {"machine": machine(), "model": models[0], "precision": PRECISION, "runs": runs}


def summary(record: Mapping[str, Any]) -> list[Figure]:
    first, last = record["runs"][0], record["runs"][-1]
    name = f"peak memory of batch scoring, {last['images']:,} / {first['images']:,} images"
    return [Figure(name, GROWTH, {"": last["peak_mb"] / first["peak_mb"]})]


def details(record: Mapping[str, Any]) -> str:
    rows = [(f"{run['images']:,}", f"{run['peak_mb']:.0f}", f"{run['seconds']:.0f}") for run in record["runs"]]
    return table(("images", "peak memory, MB", "seconds, with the start of Python"), rows)
