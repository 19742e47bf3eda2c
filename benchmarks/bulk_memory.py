"""Whether scoring an archive takes more memory than scoring a folder: the peak at 1,000 images and at 100,000.

    python -m benchmarks.bulk_memory --images DIR --out results/benchmarks/bulk_memory.json

`--images` is a folder of cells as `.bmp` files; without one, cells are drawn. A few hundred of them are linked to as
often as needed, each under a name of its own, and `python -m blastlens score` is run on these links as anybody would
run it. What counts is the highest resident memory of that process, as the system has it.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.serving import drawn, machine, prepared_images
from blastlens import Classifier
from blastlens.files import write_json
from blastlens.model_folder import PRECISIONS, bundled_models

COUNTS = (1_000, 100_000)
DIFFERENT = 256  # images behind the links
FLAT = 1.15  # what still counts as flat: the allocator's own spread between two runs


def peak_mb(command: Sequence[str]) -> float:
    """Highest resident memory of a command, in millions of bytes.

    Raises:
        SystemExit: it ended with another exit code than 0.
    """
    process = subprocess.Popen(command, cwd=Path(__file__).resolve().parents[1], stdout=subprocess.DEVNULL)
    highest, status = 0, Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        # Not ru_maxrss: that starts with what the process that started it had.
        lines = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        highest = max(highest, *(int(line.split()[1]) for line in lines), 0)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"Scoring ended with exit code {process.returncode}.")
    return highest * 1024 / 1e6


def links(folder: Path, images: Sequence[Path], count: int) -> Path:
    """A folder of so many links to images."""
    folder.mkdir()
    for number, image in enumerate(islice(cycle(images), count)):
        (folder / f"{number:06d}{image.suffix}").symlink_to(image)
    return folder


def measure(model: str, precision: str, given: Sequence[Path], counts: Sequence[int]) -> dict[str, Any]:
    """Peak memory and seconds at each count; `given` are raw images, drawn ones where there are none."""
    classifier = Classifier.from_pretrained(model, precision=precision)
    runs = []
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        raw = given or drawn(folder, classifier.folder.view.frame is not None)
        prepared = prepared_images(classifier, raw, folder, min(DIFFERENT, len(raw)))
        for count in counts:
            source, out = links(folder / f"{count}", prepared, count), folder / f"{count}.parquet"
            start = time.perf_counter()
            said = ["--model", model, "--precision", precision, "--out", str(out)]
            highest = peak_mb([sys.executable, "-m", "blastlens", "score", str(source), *said])
            runs.append({"images": count, "peak_mb": highest, "seconds": time.perf_counter() - start})
    return {"machine": machine(), "model": model, "precision": precision, "different": len(prepared), "runs": runs}


def growth(record: dict[str, Any]) -> float:
    """Peak memory of the largest run over that of the smallest."""
    by_size = sorted(record["runs"], key=lambda run: run["images"])
    return by_size[-1]["peak_mb"] / by_size[0]["peak_mb"]


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table."""
    lines = ["| images | peak memory, MB | seconds, start of Python included |", "| --- | --- | --- |"]
    lines += [f"| {run['images']:,} | {run['peak_mb']:.0f} | {run['seconds']:.0f} |" for run in record["runs"]]
    return "\n".join([*lines, "", f"From the smallest to the largest run memory grows {growth(record):.2f} x."])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.bulk_memory", description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=bundled_models()[0])
    parser.add_argument("--precision", choices=PRECISIONS, default="int8")
    parser.add_argument("--images", type=Path, help="folder of raw cells as .bmp files; without one they are drawn")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    given = sorted(arguments.images.rglob("*.bmp")) if arguments.images else []
    record = measure(arguments.model, arguments.precision, given, arguments.counts)
    write_json(arguments.out, record)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
