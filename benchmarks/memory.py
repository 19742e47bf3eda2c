"""Whether the page keeps its memory: its size after 100 mixed requests and after 2,000.

    python -m benchmarks.memory --out results/benchmarks/memory.json

It starts `app.py` as a host would and asks through its API, in turn and in seeded order: single images of several
sizes, formats, noise levels and other changes, of every model; noise curves by one and by four patterns; folders of
images; lists of models; and files that are no image. What counts is the resident memory of the page's process.
"""

import argparse
import os
import random
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from tqdm.auto import tqdm

from benchmarks.page import serving
from benchmarks.serving import machine
from blastlens.corruptions import KINDS
from blastlens.files import write_json
from blastlens.model_folder import bundled_models
from blastlens.synthetic_images import draw_cell, draw_field

LIMITS = {"growth": 1.05, "mb": 700}
MARKS = (100, 2000)  # after how many requests memory is read
Ask = Callable[[], Any]


def resident_mb(process: int) -> float:
    """Resident memory of a process and those it has started, in millions of bytes."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    status = Path(f"/proc/{process}/status").read_text()
    pages = next(line for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(pages.split()[1]) * 1024 / 1e6 + sum(resident_mb(int(child)) for child in children)


def pictures(folder: Path) -> tuple[list[Path], list[Path], Path, Path]:
    """Cells and fields in several sizes and formats, a zip of eight cells, and a file that is no image."""
    cells, fields = [], []
    for number, (size, suffix) in enumerate([(450, "bmp"), (224, "png"), (450, "jpg"), (1200, "png"), (300, "webp")]):
        cells.append(folder / f"cell-{number}.{suffix}")
        draw_cell("ALL", number).resize((size, size)).save(cells[-1])
        fields.append(folder / f"field-{number}.{suffix}")
        draw_field("Early", number).resize((size, size)).save(fields[-1])
    archive, broken = folder / "patient.zip", folder / "broken.png"
    with zipfile.ZipFile(archive, "w") as packed:
        for number in range(8):
            draw_cell("HEM", number).save(folder / f"{number}.png")
            packed.write(folder / f"{number}.png", f"UID_{number % 2}_{number}_1_hem.png")
    broken.write_bytes(b"not an image")
    return cells, fields, archive, broken


def requests(client: Client, folder: Path, count: int) -> list[Ask]:
    """`count` mixed requests in seeded order, each ready to be made."""
    cells, fields, archive, broken = pictures(folder)
    models = bundled_models()
    choose = random.Random(0)
    kinds = [kind for kind in KINDS if kind != "gaussian_noise"]

    def image() -> Any:
        return handle_file(choose.choice(cells + fields))

    def classify() -> Ask:
        what = (image(), choose.choice(models), choose.choice([0, 5, 20, 60]), choose.randrange(4))
        if choose.random() < 0.4:
            kind = choose.choice(kinds)
            what += (kind, choose.choice(KINDS[kind].levels))
        return lambda: client.predict(*what, api_name="/classify")

    def curve() -> Ask:
        kind = choose.choice(["gaussian_noise", "gaussian_noise", *kinds])
        what = (image(), choose.choice(models), kind, choose.choice([1, 4]))
        return lambda: client.predict(*what, api_name="/noise_curve")

    def many() -> Ask:
        return lambda: client.predict([handle_file(archive)], choose.choice(models), api_name="/score_images")

    def refused() -> Ask:
        return lambda: client.predict(handle_file(broken), api_name="/classify")

    def offered() -> Ask:
        return lambda: client.predict(api_name="/list_models")

    make = choose.choices([classify, curve, many, refused, offered], [60, 20, 8, 6, 6], k=count)
    return [one() for one in make]


def measure(marks: Sequence[int]) -> dict[str, Any]:
    """`resident_mb` at each mark, and how many of the requests were refused, as they should be."""
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    sizes, refused = {}, 0
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        first = folder / "first.png"
        draw_cell("ALL", 0).save(first)
        with serving(environment, first) as (address, _, process):
            client = Client(address, verbose=False)
            for number, ask in enumerate(tqdm(requests(client, folder, max(marks)), unit="request"), start=1):
                try:
                    ask()
                except AppError:
                    refused += 1
                if number in marks:
                    sizes[number] = resident_mb(process)
    return {"machine": machine(), "requests": max(marks), "refused": refused, "resident_mb": sizes}


def ends(record: dict[str, Any]) -> tuple[tuple[int, float], tuple[int, float]]:
    """Requests and `resident_mb` at the first and at the last mark."""
    sizes = sorted((int(count), size) for count, size in record["resident_mb"].items())  # JSON's keys are texts
    return sizes[0], sizes[-1]


def table(record: dict[str, Any]) -> str:
    """The record as a Markdown table, against what was asked."""
    (first, before), (last, after) = ends(record)
    return "\n".join(
        [
            "| what | measured | asked |",
            "| --- | --- | --- |",
            f"| resident memory after {last:,} mixed requests, vs after {first:,} | {after / before:.3f} | at most "
            f"{LIMITS['growth']} |",
            f"| resident memory after {last:,} mixed requests, MB | {after:.0f} | at most {LIMITS['mb']} |",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.memory", description=__doc__.splitlines()[0])
    parser.add_argument("--after", type=int, nargs="+", default=MARKS, help="requests after which memory is read")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    record = measure(arguments.after)
    write_json(arguments.out, record)
    print(table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
