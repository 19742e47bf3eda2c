"""Whether the page holds under load: many visitors at once, and every answer held against the one known beforehand.

    python -m benchmarks.load --clients 32 --requests 5000 --out results/benchmarks/load.json

It starts `app.py` as a host would. Each client is a visitor that asks one question after the other, of mixed kind (see
`benchmarks.questions`), as quickly as it is answered; where the page says that it is busy, it waits a moment and asks
again. Told are wrong and lost requests, refusals for want of room, how long answers took, whether all clients were
served alike, and the page's memory after a tenth of the requests and at their end.
"""

import argparse
import os
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
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

from benchmarks.memory import ends, resident_mb
from benchmarks.page import serving
from benchmarks.questions import BusyError, LostError, Maker, Question, Visitor, counts, same
from benchmarks.serving import machine
from blastlens import Classifier
from blastlens.files import write_json
from blastlens.model_folder import bundled_models
from blastlens.synthetic_images import draw_cell

LIMITS = {"wrong": 0, "lost": 0, "growth": 1.05}
PERCENTILES = (50, 95, 99)
# So many of each kind are different ones, and are asked again and again: their answers take as long to make beforehand
# as on the page.
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


def measure(clients: int, requests: int) -> dict[str, Any]:
    """The record of one run against a page of its own."""
    # All visitors come from one address here.
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "BLASTLENS_RATE": "0"}
    environment.pop("BLASTLENS_DATA", None)  # the drawn examples only, as in a fresh clone
    early, sizes = max(1, requests // 10), {}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        questions = ask_for(folder, [Classifier.from_pretrained(name) for name in bundled_models()], requests)
        first = folder / "first.png"
        draw_cell("ALL", 0).save(first)
        with (
            serving(environment, first) as (address, _, process),
            tqdm(total=requests, desc=f"{clients} clients", unit="request") as progress,
        ):

            def note(done: int) -> None:
                progress.update()
                if done in (early, requests):
                    sizes[done] = resident_mb(process)

            found = run(address, questions, clients, note)
    return {"machine": machine(), "clients": clients, "requests": requests, **found, "resident_mb": sizes}


def growth(record: dict[str, Any]) -> float:
    """Memory at the end beside that after a tenth of the requests."""
    (_, before), (_, after) = ends(record)
    return after / before


def table(record: dict[str, Any]) -> str:
    """The record as Markdown, against what was asked."""
    fairness = record["fairness"]
    (first, _), (last, after) = ends(record)
    lines = [
        f"{record['clients']} clients at once, {record['requests']:,} requests of mixed kind.",
        "",
        "| what | measured | asked |",
        "| --- | --- | --- |",
        f"| wrong or swapped answers | {record['wrong']} | {LIMITS['wrong']} |",
        f"| lost requests | {record['lost']} | {LIMITS['lost']} |",
        f'| told "busy", and asked again | {record["busy"]} |  |',
        f"| requests a second | {record['per_second']:.1f} |  |",
        f"| mean wait of the slowest client, vs the quickest's | {fairness['slowest_to_quickest_mean_wait']:.2f} |  |",
        f"| requests answered to a client, fewest to most | {fairness['fewest_requests_of_a_client']} to "
        f"{fairness['most_requests_of_a_client']} |  |",
        f"| resident memory after {last:,} requests, vs after {first:,} | {growth(record):.3f} | at most "
        f"{LIMITS['growth']} |",
        f"| resident memory after {last:,} requests, MB | {after:.0f} |  |",
        "",
        "| kind | requests | p50, ms | p95, ms | p99, ms | longest, ms | had to ask again, times |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for kind, row in record["kinds"].items():
        named = " | ".join(f"{row[f'p{number}_ms']:.0f}" for number in PERCENTILES)
        lines.append(f"| {kind} | {row['count']:,} | {named} | {row['longest_ms']:.0f} | {row['busy']:,} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.load", description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=32, help="visitors at the same time (default: 32)")
    parser.add_argument("--requests", type=int, default=5000, help="of all of them together (default: 5000)")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args(argv)
    record = measure(arguments.clients, arguments.requests)
    write_json(arguments.out, record)
    print(table(record))
    for fault in record["faults"]:
        print(fault, file=sys.stderr)
    return 1 if record["wrong"] or record["lost"] else 0


if __name__ == "__main__":
    sys.exit(main())
