"""Mixed questions to the running page, each with the answer that `Classifier` gives to it here, without the page.

A question is asked by one of the roads there are: the API as curl takes it, the page's own events, the slider's
previews, and MCP. Every image, noise pattern and file name is another one, so that a swapped answer is a wrong one.
"""

import ast
import base64
import hashlib
import json
import random
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from PIL import Image, ImageChops

from blastlens import Classifier
from blastlens.classifier import suggesting
from blastlens.corruptions import KINDS, Corruption
from blastlens.errors import BlastlensError
from blastlens.synthetic_images import synthetic_image
from blastlens.ui.pictures import data_uri, heat_overlay

NOISE = "gaussian_noise"
# How many of a hundred requests are of each kind.
SHARES = {
    "classify": 46,
    "noise curve": 12,
    "activation map": 12,
    "preview": 10,
    "folder": 6,
    "bad file": 6,
    "MCP": 5,
    "models": 3,
}
DRAWINGS = 18
FORMATS = ((450, "bmp"), (224, "png"), (450, "jpg"), (900, "png"), (300, "webp"))


class BusyError(Exception):
    """The page has said in one sentence that there is no room for a request now."""


class LostError(Exception):
    """A request that was neither answered nor refused in a sentence."""


@dataclass
class Visitor:
    """One client: its connection, and the roads it may take. Every method raises BusyError or LostError."""

    address: str
    events: dict[str, int]  # the page's own, by name
    patience: float = 120.0  # seconds
    name: str = field(default_factory=lambda: uuid4().hex)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=f"{self.address}/gradio_api", timeout=self.patience)

    def give(self, file: Path) -> dict[str, Any]:
        """Upload a file; returns what stands for it in a question."""
        reply = _accepted(self.http.post("/upload", files={"files": (file.name, file.read_bytes())}))
        return {"path": reply.json()[0], "orig_name": file.name, "meta": {"_type": "gradio.FileData"}}

    def call(self, endpoint: str, *data: Any) -> Any:
        """The answer of a public endpoint, or {"refused": its sentence}."""
        event = _accepted(self.http.post(f"/call/{endpoint}", json={"data": data})).json()["event_id"]
        with self.http.stream("GET", f"/call/{endpoint}/{event}") as reply:
            for kind, value in _stream(reply):
                if kind == "complete":
                    return value[0]
                if kind == "error":
                    return _refusal(value)
        raise LostError(f"{endpoint}: the stream ended without an answer.")

    def on_page(self, event: str, *data: Any) -> list[Any]:
        """What an event of the page changes on it."""
        asked = {"data": data, "fn_index": self.events[event], "session_hash": self.name}
        _accepted(self.http.post("/queue/join", json=asked))
        found = None
        with self.http.stream("GET", "/queue/data", params={"session_hash": self.name}) as reply:
            for _, value in _stream(reply):
                if value["msg"] == "process_completed" and value["success"]:
                    found = value["output"]["data"]
        if found is None:
            raise LostError(f"{event}: the stream ended without an answer.")
        return found

    def around_the_queue(self, event: str, *data: Any) -> list[Any]:
        """The same for an event that does not wait for its turn."""
        asked = {"data": data, "fn_index": self.events[event], "session_hash": self.name}
        return _accepted(self.http.post("/run/predict", json=asked)).json()["data"]

    def tool(self, name: str, **arguments: Any) -> Any:
        """The answer of a tool of MCP, or {"refused": its sentence}."""
        asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
        head = {"Accept": "application/json, text/event-stream"}
        reply = _accepted(self.http.post("/mcp/", json=asked, headers=head))
        told = [json.loads(line[len("data: ") :]) for line in reply.text.splitlines() if line.startswith("data: {")]
        result = next((one["result"] for one in told if "result" in one), None)
        text = result["content"][0]["text"]
        if not result["isError"]:
            return ast.literal_eval(text)  # as Gradio writes it
        if "page is busy" in text:
            raise BusyError(text)
        return _refusal({"error": text})


def _accepted(reply: httpx.Response) -> httpx.Response:
    if reply.status_code == 503:
        raise BusyError(reply.json()["detail"])
    if reply.status_code != 200:
        raise LostError(f"{reply.request.url.path}: status {reply.status_code}, {reply.text[:200]}")
    return reply


def _stream(reply: httpx.Response) -> Iterator[tuple[str, Any]]:
    kind = ""
    for line in reply.iter_lines():
        if line.startswith("event: "):
            kind = line[len("event: ") :]
        elif line.startswith("data: "):
            yield kind, json.loads(line[len("data: ") :])


def _refusal(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not value.get("error"):
        raise LostError(f"An error without a sentence: {value!r}")
    return {"refused": value["error"]}


@dataclass(frozen=True)
class Question:
    """One question of a visitor.

    Attributes:
        kind: in `SHARES`.
        ask: asks it and returns of the answer what can be known beforehand.
        expected: that.
    """

    kind: str
    ask: Callable[[Visitor], Any]
    expected: Any


def same(one: Any, other: Any) -> bool:
    """Whether two answers are the same, numbers to a millionth."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6
    return bool(one == other)


def digest(html: str) -> str:
    """SHA-256 of the first picture inside HTML; "" where there is none."""
    picture = re.search("data:image/png;base64,([A-Za-z0-9+/=]+)", html)
    return hashlib.sha256(picture[1].encode()).hexdigest() if picture else ""


def counts(requests: int) -> dict[str, int]:
    """How many requests of each kind make up so many."""
    found = {kind: max(1, requests * share // 100) for kind, share in SHARES.items()}
    return found | {"classify": found["classify"] + requests - sum(found.values())}


@cache
def _drawing(number: int) -> Image.Image:
    return synthetic_image("ALL" if number % 2 else "HEM", number) if number % 3 else synthetic_image("Early", number)


class Maker:
    """Makes questions of every kind, seeded; each uses a picture of its own, kept in a folder."""

    def __init__(self, folder: Path, classifiers: Sequence[Classifier]) -> None:
        self.folder = folder
        self.classifiers = {classifier.folder.model_id: classifier for classifier in classifiers}
        self.choose = random.Random(0)
        self.made = 0

    def question(self, kind: str) -> Question:
        """One of a kind in `SHARES`."""
        make = {
            "classify": self._classify,
            "noise curve": self._curve,
            "activation map": self._map,
            "preview": self._preview,
            "folder": self._folder,
            "bad file": self._bad,
            "MCP": self._tool,
            "models": self._models,
        }
        return Question(kind, *make[kind]())

    def _number(self) -> int:
        self.made += 1
        return self.made

    def _picture(self, suffix: str = "") -> Path:
        number = self._number()
        side, form = FORMATS[number % len(FORMATS)]
        file = self.folder / f"{number}.{suffix or form}"
        # Drawing takes longer than answering; moved, a drawing is another one.
        ImageChops.offset(_drawing(number % DRAWINGS), number, 2 * number).resize((side, side)).save(file)
        return file

    def _model(self) -> str:
        return self.choose.choice([*self.classifiers])

    def _seed(self) -> int:
        return self.choose.randrange(1, 2**31)

    def _change(self) -> Corruption:
        kind = self.choose.choice([kind for kind in KINDS if kind != NOISE])
        return Corruption(kind, self.choose.choice(KINDS[kind].levels))

    def _predicted(self, file: Path, model: str, sigma: float, seed: int, change: Corruption | None) -> dict[str, Any]:
        prediction = self.classifiers[model].predict(file, sigma, seed, change)
        return suggesting(prediction, file, self.classifiers.values()).to_dict()

    def _classify(self) -> tuple[Callable[[Visitor], Any], Any]:
        file, model, seed = self._picture(), self._model(), self._seed()
        sigma, change = self.choose.choice([0, 5, 20, 60]), self._change() if self.choose.random() < 0.4 else None
        kind, level = (change.kind, change.level) if change else ("none", 0)
        expected = self._predicted(file, model, sigma, seed, change)
        return lambda visitor: visitor.call(
            "classify", visitor.give(file), model, sigma, seed, kind, level, 0
        ), expected

    def _curve(self) -> tuple[Callable[[Visitor], Any], Any]:
        file, model, seed = self._picture(), self._model(), self._seed()
        kind, patterns = self.choose.choice([NOISE, NOISE, "blur", "jpeg"]), self.choose.choice([1, 4])
        curve = self.classifiers[model].curve(file, kind, seeds=tuple(range(seed, seed + patterns)))
        rows = dict(zip(curve.label_names, curve.probabilities.T.tolist(), strict=True))

        def ask(visitor: Visitor) -> Any:
            answer = visitor.call("noise_curve", visitor.give(file), model, kind, patterns, seed, 0)
            return {name: answer.get(name) for name in ("model_id", "levels", "probabilities", "flip_level")}

        return ask, {
            "model_id": model,
            "levels": list(curve.levels),
            "probabilities": rows,
            "flip_level": curve.flip_level,
        }

    def _map(self) -> tuple[Callable[[Visitor], Any], Any]:
        file, model, seed, change = self._picture(), self._model(), self._seed(), self._change()
        classifier = self.classifiers[model]
        pixels = classifier.pixels(file, seed=seed, corruption=change)
        prediction = classifier.predict(file, seed=seed, corruption=change)
        try:
            heat = classifier.activation_map(pixels, prediction.label)
            overlay = digest(data_uri(heat_overlay(pixels, heat)))
        except BlastlensError:  # not every network has one
            overlay = ""

        def ask(visitor: Visitor) -> Any:
            answer = visitor.on_page("answer", visitor.give(file), model, change.kind, change.level, seed, 0)
            found = answer[2]["value"]["confidences"]
            return {
                "seen": digest(answer[0]),
                "map": digest(answer[1]),
                "probabilities": sorted(one["confidence"] for one in found),
            }

        probabilities = sorted(prediction.probabilities.values())
        return ask, {"seen": digest(data_uri(pixels)), "map": overlay, "probabilities": probabilities}

    def _preview(self) -> tuple[Callable[[Visitor], Any], Any]:
        file, model, seed, change = self._picture(), self._model(), self._seed(), self._change()
        pixels = self.classifiers[model].pixels(file, seed=seed, corruption=change)

        def ask(visitor: Visitor) -> Any:
            image = visitor.give(file)
            found = visitor.around_the_queue("preview", image, model, change.kind, change.level, seed, 0)[0]
            if not isinstance(found, str):  # left out, as previews are where others are being made
                raise BusyError("No preview now.")
            return digest(found)

        return ask, digest(data_uri(pixels))

    def _folder(self) -> tuple[Callable[[Visitor], Any], Any]:
        model, seed, sigma = self._model(), self._seed(), self.choose.choice([0, 10])
        files = [self._picture() for _ in range(6)]
        broken = self.folder / f"{self._number()}.png"
        broken.write_bytes(b"not an image")
        archive = self.folder / f"{self._number()}.zip"
        with zipfile.ZipFile(archive, "w") as packed:
            for file in (*files, broken):
                packed.write(file, file.name)
        answers = {file.name: self.classifiers[model].predict(file, sigma, seed).probabilities for file in files}

        def ask(visitor: Visitor) -> Any:
            answer = visitor.call("score_images", [visitor.give(archive)], model, sigma, seed, 0)
            if "refused" in answer:
                return answer
            found = {one["file"]: one["probabilities"] for one in answer["images"]}
            return {"answers": found, "failures": [one["file"] for one in answer["failures"]]}

        return ask, {"answers": answers, "failures": [broken.name]}

    def _bad(self) -> tuple[Callable[[Visitor], Any], Any]:
        number = self._number()
        file, model = self.folder / f"broken-{number}.png", self._model()
        whole = self._picture("png").read_bytes()
        file.write_bytes(self.choose.choice([b"", b"not an image", whole[: len(whole) // 2]]) or b"\0")
        try:
            self.classifiers[model].predict(file)
        except BlastlensError as error:
            refused = {"refused": str(error)}
            return lambda visitor: visitor.call("classify", visitor.give(file), model, 0, 0, "none", 0, 0), refused
        raise AssertionError(f"{file} was expected to be refused.")

    def _tool(self) -> tuple[Callable[[Visitor], Any], Any]:
        file, model, seed = self._picture("png"), self._model(), self._seed()
        given = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
        expected = self._predicted(file, model, 12.0, seed, None)
        return lambda visitor: visitor.tool("classify", image=given, model=model, sigma=12, seed=seed), expected

    def _models(self) -> tuple[Callable[[Visitor], Any], Any]:
        def ask(visitor: Visitor) -> Any:
            return [one["model_id"] for one in visitor.call("list_models")["models"]]

        return ask, [*self.classifiers]
