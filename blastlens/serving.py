"""Which models the page offers, and loading them so that the page starts whether or not the Hub answers.

A Space has a `space.json` beside `app.py`: models of the Hub, each with a copy to fall back on.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from .classifier import Classifier
from .errors import BlastlensError
from .hub import HubUnavailableError, split_name
from .model_folder import ModelFolder, bundled_models, bundled_root, published_systems

ROOT = Path(__file__).resolve().parents[1]
# The page should start within ten seconds, and its own imports, which run meanwhile, take about half of that.
HUB_S = 4.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A model to offer."""

    model: str  # as `Classifier.from_pretrained` takes it
    revision: str | None = None  # branch, tag or commit on the Hub
    copy: Path | None = None  # a model folder made from that revision, served if the Hub's cannot be


@dataclass(frozen=True)
class Loading:
    """A model that a thread is loading from the Hub, and until when (`time.monotonic`) to wait for it."""

    wanted: Wanted
    outcome: "Future[Classifier]"
    until: float


@dataclass(frozen=True)
class Served:
    """A model on offer; `notice` says in one sentence what it replaces and why, "" if it is the one wanted."""

    classifier: Classifier
    notice: str = ""


def wanted(root: Path = ROOT) -> tuple[Wanted, ...]:
    """What to offer: the models in BLASTLENS_SERVE, else those in `root`/space.json, else the bundled models and, after
    them, the bundled published systems.

    BLASTLENS_SERVE holds names as `Classifier.from_pretrained` takes them, including "owner/name@revision", separated
    by spaces.

    Raises:
        BlastlensError: a `space.json` that cannot be read, or nothing to offer.
    """
    if named := os.environ.get("BLASTLENS_SERVE", "").split():
        return tuple(map(_named, named))
    if (file := root / "space.json").is_file():
        return _read(file)
    if bundled := bundled_models():
        return tuple(map(Wanted, [*bundled, *published_systems()]))
    raise BlastlensError(f"There is no model folder in {bundled_root()}; the demo needs at least one.")


def begin(models: Sequence[Wanted] | None = None) -> list[Wanted | Loading]:
    """Start to load the Hub models among some models, by default those of `wanted`; `serve` waits for them."""
    return [_start(one) if one.copy or _is_remote(one.model) else one for one in models or wanted()]


def serve(models: Sequence[Wanted | Loading]) -> tuple[Served, ...]:
    """Load all models. If the Hub is unavailable, a copy is served, or else the bundled models.

    Raises:
        BlastlensError: none, one that cannot be served, or two with the same name.
    """
    if not models:
        raise BlastlensError("There is no model to offer; name at least one.")
    started = [one for given in models for one in ([given] if isinstance(given, Loading) else begin([given]))]
    served, unavailable = [], []
    for one in started:
        try:
            served.append(_finish(one) if isinstance(one, Loading) else Served(_load(one)))
        except HubUnavailableError as error:
            unavailable.append(error)
    if unavailable:
        served = _with_bundled(served, unavailable)
    names = [one.classifier.folder.model_id for one in served]
    if twice := [name for name in names if names.count(name) > 1]:
        raise BlastlensError(f"Two of the models to offer are called {twice[0]}; leave one of them out.")
    return tuple(served)


def _load(one: Wanted) -> Classifier:
    return Classifier.from_pretrained(one.model, one.revision)


def _start(one: Wanted) -> Loading:
    # Imported before the thread starts: two threads that import the same modules can block each other.
    from huggingface_hub import HfApi, snapshot_download  # noqa: F401

    outcome: Future[Classifier] = Future()

    def work() -> None:
        try:
            outcome.set_result(_load(one))
        except BaseException as error:  # raised again where the outcome is used
            outcome.set_exception(error)

    # Not a thread pool, whose threads are waited for when the process ends.
    threading.Thread(target=work, daemon=True).start()
    return Loading(one, outcome, time.monotonic() + HUB_S)


def _finish(loading: Loading) -> Served:
    """The model, or its copy if it is not there within `HUB_S`."""
    one = loading.wanted
    try:
        return Served(loading.outcome.result(max(0.0, loading.until - time.monotonic())))
    except TimeoutError:
        error: BlastlensError = HubUnavailableError(f"The Hub did not deliver model {one.model} within {HUB_S:g} s.")
    except BlastlensError as refusal:
        error = refusal
    if one.copy is None:
        raise error
    try:
        copy = Classifier(ModelFolder.load(one.copy, one.model, one.revision))
    except BlastlensError as other:
        raise BlastlensError(f"{error} Its copy cannot be served either: {other}") from other
    _logger.warning("%s Its copy %s is served instead.", error, one.copy)
    cause = _cause(error)
    if one.revision:
        cause = cause.replace(one.revision, one.revision[:7])
    return Served(copy, f"{cause}, so this page falls back to the bundled copy {one.copy.parent.name}/{one.copy.name}.")


def _with_bundled(served: Sequence[Served], unavailable: Sequence[HubUnavailableError]) -> list[Served]:
    """The bundled models and what could be loaded; the first of these says what is missing and why."""
    names = [one.classifier.folder.model_id for one in served]
    bundled = [Served(Classifier.from_pretrained(name)) for name in bundled_models() if name not in names]
    offered = [*bundled, *served]
    if not offered:
        raise unavailable[0]
    for error in unavailable:
        _logger.warning("%s The bundled models are offered instead; restart the page to try again.", error)
    causes = "; ".join(map(_cause, unavailable))
    return [replace(offered[0], notice=f"{causes}, so this page falls back to the bundled models."), *offered[1:]]


def _cause(error: BlastlensError) -> str:
    """What visitors may read of an error: not the advice after the semicolon, which may name a folder here."""
    return str(error).split("; ")[0].rstrip(".")


def _is_remote(model: str) -> bool:
    """Whether `hub.fetch` would look for it on the Hub."""
    return split_name(model) is not None and not os.path.exists(model) and model.rstrip("/") not in bundled_models()


def _named(text: str) -> Wanted:
    found = None if os.path.exists(text) else split_name(text)
    return Wanted(*found) if found else Wanted(text)


def _read(file: Path) -> tuple[Wanted, ...]:
    """The models of a space.json."""
    try:
        records = json.loads(file.read_text(encoding="utf-8"))["models"]
        models = tuple(
            Wanted(one["repo_id"], one.get("revision") or None, file.parent / one["copy"] if one.get("copy") else None)
            for one in records
        )
        if not all(isinstance(text, str | None) for one in models for text in (one.model, one.revision)):
            raise TypeError("a name is no text")
        if not models:
            raise ValueError("it names no model")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BlastlensError(
            f"{file} cannot be read ({type(error).__name__}: {error}); {{'models': [{{'repo_id': 'owner/name', "
            "'revision': ..., 'copy': 'models/name'}]} is expected."
        ) from error
    return models
