"""Whether the page holds under load: many clients at once, and every answer compared with that of `Classifier`.

It starts `app.py` as a host would. Each client sends one request after the other to the public endpoints, as fast as
it is answered; if the page is busy, it waits a moment and sends it again. Every image, noise pattern and file name is
another one, so that a swapped answer is a wrong one.
"""

import queue
import random
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError
from PIL import Image, ImageChops
from tqdm.auto import tqdm

from benchmarks.common import ROOT, Figure, Target, machine, page_environment, table
from benchmarks.memory import resident_mb
from blastlens import Classifier
from blastlens.corruptions import KINDS, Corruption
from blastlens.errors import BlastlensError
from blastlens.model_folder import bundled_models, published_systems
from blastlens.synthetic_images import synthetic_image
from publish.space import running_app

TITLE = "The page under load"
CLIENTS, REQUESTS = 32, 5000
NONE, GROWTH = Target(0), Target(1.05)
PERCENTILES = (50, 95, 99)
SHARES = {"classify": 0.64, "noise curve": 0.16, "folder": 0.08, "bad file": 0.08, "models": 0.04}  # of the requests
# So many of each kind are different, and are repeated: computing their answers takes as long as the page does.
DIFFERENT, FEWEST_DIFFERENT = 0.06, 8
RETRIES, PAUSE_S = 200, 0.25
DRAWINGS = 18
FORMATS = ((450, "bmp"), (224, "png"), (450, "jpg"), (900, "png"), (300, "webp"))
NOISE = "gaussian_noise"


@dataclass(frozen=True)
class Question:
    """A request and its answer.

    Attributes:
        kind: in `SHARES`.
        endpoint: its name on the page.
        arguments: of the endpoint.
        expected: what the answer has to contain.
    """

    kind: str
    endpoint: str
    arguments: tuple[Any, ...]
    expected: Any


@dataclass(frozen=True)
class Outcome:
    """What came of one request.

    Attributes:
        seconds: from its upload to its answer, of the try that got one.
        busy: how often the page was busy before.
        fault: "", "wrong" or "lost", and what happened.
    """

    kind: str
    client: int
    seconds: float
    busy: int = 0
    fault: str = ""
    details: str = ""


def question(kind: str, number: int, folder: Path, classifiers: Sequence[Classifier]) -> Question:
    """A question of a kind in `SHARES`; another one for each number, with files in a folder."""
    chance = random.Random(number)
    classifier, seed, file = chance.choice(classifiers), chance.randrange(1, 2**31), _image(number, folder)
    model, image = classifier.folder.model_id, handle_file(str(file))
    if kind == "classify":
        sigma, change = chance.choice([0, 5, 20, 60]), chance.choice([kind for kind in KINDS if kind != NOISE])
        level = chance.choice(KINDS[change].levels)
        prediction = classifier.predict(file, sigma, seed, Corruption(change, level)).to_dict()
        expected = {key: prediction[key] for key in ("model_id", "label", "probabilities", "logits", "in_domain")}
        return Question(kind, "/classify", (image, model, sigma, seed, change, level), expected)
    if kind == "noise curve":
        change, patterns = chance.choice([NOISE, NOISE, "blur", "jpeg"]), chance.choice([1, 4])
        curve = classifier.curve(file, change, seeds=tuple(range(seed, seed + patterns)))
        rows = dict(zip(curve.label_names, curve.probabilities.T.tolist(), strict=True))
        expected = {"model_id": model, "levels": list(curve.levels), "probabilities": rows}
        return Question(kind, "/noise_curve", (image, model, change, patterns, seed), expected)
    if kind == "folder":
        files = [_image(number, folder, part) for part in range(6)]
        broken, archive = folder / f"{number}-broken.png", folder / f"{number}.zip"
        broken.write_bytes(b"not an image")
        with zipfile.ZipFile(archive, "w") as packed:
            for one in (*files, broken):
                packed.write(one, one.name)
        images = [{"file": one.name, "probabilities": classifier.predict(one, 10, seed).probabilities} for one in files]
        expected = {"images": images, "failures": [{"file": broken.name}]}
        return Question(kind, "/score_images", ([handle_file(str(archive))], model, 10, seed), expected)
    if kind == "bad file":
        file.write_bytes(chance.choice([b"", b"not an image", file.read_bytes()[:900]]))
        try:
            classifier.predict(file)
        except BlastlensError as error:
            return Question(kind, "/classify", (image, model), {"refused": str(error)})
    models = [{"model_id": name} for name in (*bundled_models(), *published_systems())]
    return Question(kind, "/list_models", (), {"models": models})


def _image(number: int, folder: Path, part: int = 0) -> Path:
    """A synthetic image in a file of its own."""
    seed = 8 * number + part
    side, form = FORMATS[seed % len(FORMATS)]
    file = folder / f"{number}-{part}.{form}"
    # Drawing takes longer than answering; moved, a drawing is another one.
    ImageChops.offset(_drawing(seed % DRAWINGS), seed, 2 * seed).resize((side, side)).save(file)
    return file


@cache
def _drawing(number: int) -> Image.Image:
    return synthetic_image(("ALL", "HEM", "Early")[number % 3], number)


def questions(folder: Path, classifiers: Sequence[Classifier], requests: int) -> list[Question]:
    """So many questions of all kinds in seeded order."""
    counts = {kind: max(1, round(requests * share)) for kind, share in SHARES.items()}
    counts["classify"] += requests - sum(counts.values())
    found: list[Question] = []
    for kind, count in tqdm(counts.items(), desc="expected answers", unit="kind"):
        number = min(count, max(FEWEST_DIFFERENT, round(count * DIFFERENT)))
        different = [question(kind, len(found) + one, folder, classifiers) for one in range(number)]
        found += islice(cycle(different), count)
    random.Random(0).shuffle(found)
    return found


def contains(answer: Any, expected: Any) -> bool:
    """Whether an answer has every key that is expected, with the same values, numbers to a millionth."""
    if isinstance(expected, dict):
        return isinstance(answer, dict) and all(k in answer and contains(answer[k], v) for k, v in expected.items())
    if isinstance(expected, list | tuple):
        return isinstance(answer, list) and len(answer) == len(expected) and all(map(contains, answer, expected))
    if isinstance(expected, float):
        return isinstance(answer, int | float) and abs(answer - expected) <= 1e-6
    return bool(answer == expected)


def ask(question: Question, call: Callable[..., Any], client: int, pause: Callable[[], float]) -> Outcome:
    """Send one request until the page is not busy.

    Args:
        call: `Client.predict`.
    """
    for busy in range(RETRIES):
        start = time.perf_counter()
        fault, details = "", ""
        try:
            answer = call(*question.arguments, api_name=question.endpoint)
        except AppError as error:
            answer = {"refused": str(error)}
        except Exception as error:
            if isinstance(error, QueueError) or getattr(getattr(error, "response", None), "status_code", 0) == 503:
                time.sleep(pause())
                continue
            fault, details = "lost", f"{type(error).__name__}: {error}"
        if not fault and not contains(answer, question.expected):
            fault, details = "wrong", f"{str(answer)[:300]} in place of {str(question.expected)[:300]}"
        return Outcome(question.kind, client, time.perf_counter() - start, busy, fault, details)
    return Outcome(question.kind, client, 0.0, RETRIES, "lost", "The page was always busy.")


def figures(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """What the outcomes of a run that took so many seconds say."""
    kinds = {}
    for kind in sorted({one.kind for one in outcomes}):
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
        "busy": sum(one.busy for one in outcomes),
        "seconds": seconds,
        "per_second": len(outcomes) / seconds,
        "kinds": kinds,
        "fairness": {
            "clients_served": len(waits),
            "fewest_requests_of_a_client": min(served),
            "most_requests_of_a_client": max(served),
            "slowest_to_quickest_mean_wait": max(mean_waits) / min(mean_waits),
        },
        "faults": [f"{one.kind}: {one.fault}: {one.details}" for one in outcomes if one.fault][:10],
    }


def run(address: str, asked: Sequence[Question], clients: int, note: Callable[[int], None]) -> dict[str, Any]:
    """Let the clients send all requests; returns `figures`.

    Args:
        note: is told, after each request, how many are done.
    """
    waiting: queue.SimpleQueue[Question] = queue.SimpleQueue()
    for one in asked:
        waiting.put(one)
    outcomes: list[Outcome] = []
    lock = threading.Lock()

    def send(number: int) -> None:
        client, chance = Client(address, verbose=False, download_files=False), random.Random(number)
        while True:
            try:
                one = waiting.get_nowait()
            except queue.Empty:
                return
            outcome = ask(one, client.predict, number, lambda: PAUSE_S * (0.5 + chance.random()))
            with lock:
                outcomes.append(outcome)
                note(len(outcomes))

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        list(threads.map(send, range(clients)))
    return figures(outcomes, time.perf_counter() - start)


def measure_load(clients: int, requests: int, marks: Sequence[int] = ()) -> dict[str, Any]:
    """The record of one run against a page of its own.

    Args:
        marks: after how many requests the page's memory is read; a tenth and all of them if empty.
    """
    marks, sizes = marks or (max(1, requests // 10), requests), {}
    with TemporaryDirectory() as temporary:
        asked = questions(Path(temporary), [Classifier.from_pretrained(name) for name in bundled_models()], requests)
        with (
            running_app(ROOT, page_environment()) as (address, process),
            tqdm(total=requests, desc=f"{clients} clients", unit="request") as progress,
        ):

            def note(done: int) -> None:
                progress.update()
                if done in marks:
                    sizes[str(done)] = resident_mb(process)

            found = run(address, asked, clients, note)
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
    facts = [
        ("requests per second", f"{record['per_second']:.1f}"),
        ('"busy" replies, each followed by a new request', record["busy"]),
        ("mean wait, slowest / fastest client", f"{fairness['slowest_to_quickest_mean_wait']:.2f}"),
        (
            "requests per client",
            f"{fairness['fewest_requests_of_a_client']} to {fairness['most_requests_of_a_client']}",
        ),
        ("resident memory at the end, MB", f"{after:.0f}"),
    ]
    keys = [*(f"p{number}_ms" for number in PERCENTILES), "longest_ms"]
    rows = [
        (kind, f"{row['count']:,}", *(f"{row[key]:.0f}" for key in keys), row["busy"])
        for kind, row in record["kinds"].items()
    ]
    head = ("kind", "requests", *(f"p{n}, ms" for n in PERCENTILES), "longest, ms", "repeated")
    text = f"{record['clients']} clients at once, {record['requests']:,} requests of mixed kinds."
    return "\n\n".join([text, table(("what", "measured"), facts), table(head, rows)])
