"""Whether the page holds under load: many clients at once, and every result compared with the one known beforehand.

It starts `app.py` as a host would. Each client sends one request after the other, of mixed kinds (see
`benchmarks.questions`), as fast as it is answered; if the page is busy, it waits a moment and sends it again.
"""

import argparse
import os
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
from tqdm.auto import tqdm

from benchmarks.common import Figure, Target, machine, running_page, table
from benchmarks.memory import resident_mb
from benchmarks.questions import BusyError, LostError, Maker, Question, Visitor, counts, same
from blastlens import Classifier
from blastlens.files import write_json
from blastlens.model_folder import bundled_models
from blastlens.synthetic_images import synthetic_image

TITLE = "The page under load"
CLIENTS, REQUESTS = 32, 5000
NONE, GROWTH = Target(0), Target(1.05)
PERCENTILES = (50, 95, 99)
# So many of each kind are different, and are repeated: computing their results takes as long as the page does.
DIFFERENT, FEWEST_DIFFERENT = 0.06, 8
RETRIES, PAUSE_S = 200, 0.25


@dataclass(frozen=True)
class Outcome:
    """What came of one request.

    Attributes:
        kind: of its question. client: who asked.
        seconds: from its upload to its answer, of the try that got one.
        busy: how often there was no room for it before.
        fault: "", "wrong" or "lost", and what happened.
    """

    kind: str
    client: int
    seconds: float
    busy: int = 0
    fault: str = ""
    told: str = ""


def asked(question: Question, visitor: Visitor, client: int, pause: Callable[[], float]) -> Outcome:
    """Ask one question until there is room for it."""
    for busy in range(RETRIES):
        start = time.perf_counter()
        fault, told = "", ""
        try:
            answer = question.ask(visitor)
            if not same(answer, question.expected):
                fault, told = "wrong", f"{str(answer)[:300]} in place of {str(question.expected)[:300]}"
        except BusyError:
            time.sleep(pause())
            continue
        except (LostError, httpx.HTTPError, KeyError, TypeError, ValueError, AttributeError) as error:
            fault, told = "lost", f"{type(error).__name__}: {error}"
        return Outcome(question.kind, client, time.perf_counter() - start, busy, fault, told)
    return Outcome(question.kind, client, 0.0, RETRIES, "lost", "There was never room for it.")


def figures(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """What the outcomes of a run that took so many seconds say."""
    kinds = {}
    for kind in dict.fromkeys(sorted(one.kind for one in outcomes)):
        taken = [1000 * one.seconds for one in outcomes if one.kind == kind]
        values = np.percentile(taken, PERCENTILES).tolist()
        named = {f"p{number}_ms": value for number, value in zip(PERCENTILES, values, strict=True)}
        again = sum(one.busy for one in outcomes if one.kind == kind)
        kinds[kind] = {"count": len(taken), **named, "longest_ms": max(taken), "busy": again}
    # A client that happens to ask for more curves waits longer: each wait counts beside the mean of its kind.
    means = {kind: fmean(one.seconds for one in outcomes if one.kind == kind) for kind in kinds}
    waits: dict[int, list[float]] = {}
    for one in outcomes:
        waits.setdefault(one.client, []).append(one.seconds / means[one.kind])
    mean_waits, served = [fmean(values) for values in waits.values()], [len(values) for values in waits.values()]
    faults = Counter(one.fault for one in outcomes)
    return {
        "wrong": faults["wrong"],
        "lost": faults["lost"],
        # Previews are left out rather than refused where others are being made.
        "busy": sum(one.busy for one in outcomes if one.kind != "preview"),
        "seconds": seconds,
        "per_second": len(outcomes) / seconds,
        "kinds": kinds,
        "fairness": {
            "clients_served": len(waits),
            "fewest_requests_of_a_client": min(served),
            "most_requests_of_a_client": max(served),
            "slowest_to_quickest_mean_wait": max(mean_waits) / min(mean_waits),
        },
        "faults": [f"{one.kind}: {one.fault}: {one.told}" for one in outcomes if one.fault][:10],
    }


def run(address: str, questions: Sequence[Question], clients: int, note: Callable[[int], None]) -> dict[str, Any]:
    """Let the clients ask all questions; returns `figures`.

    Args:
        note: is told, after each request, how many are done.
    """
    events = {one["api_name"]: one["id"] for one in httpx.get(f"{address}/config").json()["dependencies"]}
    waiting: queue.SimpleQueue[Question] = queue.SimpleQueue()
    for question in questions:
        waiting.put(question)
    outcomes: list[Outcome] = []
    lock = threading.Lock()

    def ask_on(client: int) -> None:
        visitor, chance = Visitor(address, events), random.Random(client)
        while True:
            try:
                question = waiting.get_nowait()
            except queue.Empty:
                return
            outcome = asked(question, visitor, client, lambda: PAUSE_S * (0.5 + chance.random()))
            with lock:
                outcomes.append(outcome)
                note(len(outcomes))

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(ask_on, range(clients)))
    return figures(outcomes, time.perf_counter() - start)


def ask_for(folder: Path, classifiers: Sequence[Classifier], requests: int) -> list[Question]:
    """So many questions in seeded order, with their answers."""
    maker, questions = Maker(folder, classifiers), []
    progress = tqdm(counts(requests).items(), desc="answers beforehand", unit="kind")
    for kind, count in progress:
        number = min(count, max(FEWEST_DIFFERENT, round(count * DIFFERENT)))
        different = [maker.question(kind) for _ in range(number)]
        questions += islice(cycle(different), count)
    random.Random(0).shuffle(questions)
    return questions


def measure_load(clients: int, requests: int, marks: Sequence[int] = ()) -> dict[str, Any]:
    """The record of one run against a page of its own.

    Args:
        marks: after how many requests the page's memory is read; a tenth and all of them if empty.
    """
    # All clients have one address here.
    environment = os.environ | {"BLASTLENS_RATE": "0"}
    environment.pop("BLASTLENS_DATA", None)  # the synthetic examples only, as in a fresh clone
    marks, sizes = marks or (max(1, requests // 10), requests), {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        questions = ask_for(folder, [Classifier.from_pretrained(name) for name in bundled_models()], requests)
        first = folder / "first.png"
        synthetic_image("ALL", 0).save(first)
        with (
            running_page(environment, first) as (address, _, process),
            tqdm(total=requests, desc=f"{clients} clients", unit="request") as progress,
        ):

            def note(done: int) -> None:
                progress.update()
                if done in marks:
                    sizes[str(done)] = resident_mb(process)

            found = run(address, questions, clients, note)
    return {"machine": machine(), "clients": clients, "requests": requests, **found, "resident_mb": sizes}


def measure(models: Sequence[str], cells: Path | None, fields: Path | None, quick: bool) -> dict[str, Any]:
    """The record of this part; it always uses the bundled models and synthetic images."""
    return measure_load(4, 60) if quick else measure_load(CLIENTS, REQUESTS)


def memory_marks(record: Mapping[str, Any]) -> tuple[tuple[int, float], tuple[int, float]]:
    """Number of requests and resident memory in MB, at the first and at the last mark."""
    sizes = sorted((int(count), size) for count, size in record["resident_mb"].items())
    return sizes[0], sizes[-1]


def summary(record: Mapping[str, Any]) -> list[Figure]:
    (first, before), (last, after) = memory_marks(record)
    clients = f"{record['clients']} clients at once"
    return [
        Figure(f"wrong or swapped results for {clients}", NONE, {"": record["wrong"]}, "{}"),
        Figure(f"lost requests of {clients}", NONE, {"": record["lost"]}, "{}"),
        Figure(f"memory of the page, {clients}, {last:,} / {first:,} requests", GROWTH, {"": after / before}, "{:.3f}"),
    ]


def details(record: Mapping[str, Any]) -> str:
    fairness = record["fairness"]
    _, (_, after) = memory_marks(record)
    counts_ = f"{fairness['fewest_requests_of_a_client']} to {fairness['most_requests_of_a_client']}"
    facts = [
        ("requests per second", f"{record['per_second']:.1f}"),
        ('"busy" replies, each followed by a new request', record["busy"]),
        ("mean wait, slowest / fastest client", f"{fairness['slowest_to_quickest_mean_wait']:.2f}"),
        ("requests per client", counts_),
        ("resident memory at the end, MB", f"{after:.0f}"),
    ]
    rows = [
        (
            kind,
            f"{row['count']:,}",
            *(f"{row[f'p{n}_ms']:.0f}" for n in PERCENTILES),
            f"{row['longest_ms']:.0f}",
            row["busy"],
        )
        for kind, row in record["kinds"].items()
    ]
    head = ("kind", "requests", *(f"p{n}, ms" for n in PERCENTILES), "longest, ms", "repeated")
    text = f"{record['clients']} clients at once, {record['requests']:,} requests of mixed kinds."
    return "\n\n".join([text, table(("what", "measured"), facts), table(head, rows)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=CLIENTS, help="at the same time (default: 32)")
    parser.add_argument("--requests", type=int, default=REQUESTS, help="of all clients (default: 5000)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    record = measure_load(arguments.clients, arguments.requests)
    write_json(arguments.out, record)
    print(details(record))
    for fault in record["faults"]:
        print(fault, file=sys.stderr)
    return 1 if record["wrong"] or record["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
