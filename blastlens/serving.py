"""Which models a page offers, and loading them so that it starts whatever the Hub does.

A Space is made with a `space.json` beside `app.py`: models of the Hub, each with the copy to fall back on.
"""

import json
import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .classifier import Classifier
from .errors import BlastlensError
from .hub import HubAwayError, import_client, split_name
from .model_folder import ModelFolder, bundled_models, bundled_root

ROOT = Path(__file__).resolve().parents[1]
# So long the Hub may take where there is something to fall back on: a copy of the model, or the bundled ones. The page
# has ten seconds to start in, and its own imports, beside which `begin` lets the Hub be waited for, take about half.
HUB_S = 4.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A model to offer.

    Attributes:
        model: as `Classifier.from_pretrained` takes it.
        revision: branch, tag or commit on the Hub.
        copy: a model folder made from that very revision, served where the Hub's cannot be.
    """

    model: str
    revision: str | None = None
    copy: Path | None = None


@dataclass(frozen=True)
class Coming:
    """A model that is being loaded from the Hub, and until when (`time.monotonic`) it is worth waiting for."""

    wanted: Wanted
    outcome: "Future[Classifier]"
    until: float


@dataclass(frozen=True)
class Served:
    """A model that is offered, and in one sentence why it is, in place of another one; "" where it was asked for."""

    classifier: Classifier
    notice: str = ""


def wanted(root: Path = ROOT) -> tuple[Wanted, ...]:
    """What to offer: what BLASTLENS_SERVE names, else what `space.json` in `root` does, else the bundled models.

    BLASTLENS_SERVE holds names as `Classifier.from_pretrained` takes them, "owner/name@revision" among them, with
    spaces between them.

    Raises:
        BlastlensError: a `space.json` that cannot be read, or nothing to offer.
    """
    named = os.environ.get("BLASTLENS_SERVE", "").split()
    if named:
        return tuple(map(_named, named))
    file = root / "space.json"
    if file.is_file():
        return _read(file)
    if bundled := bundled_models():
        return tuple(map(Wanted, bundled))
    raise BlastlensError(f"There is no model folder in {bundled_root()}; the demo needs at least one.")


def begin(models: Sequence[Wanted] | None = None) -> list[Wanted | Coming]:
    """Start loading those of some models, by default `wanted`'s, that the Hub may have to be waited for.

    What it returns is for `serve`, after whatever else there is to be done meanwhile.
    """
    return [_start(one) if one.copy or _is_remote(one.model) else one for one in models or wanted()]


def serve(models: Sequence[Wanted | Coming]) -> tuple[Served, ...]:
    """Load all models, at the same time where the Hub may have to be waited for.

    Where one cannot be had because the Hub is away, and has no copy, the bundled models are offered.

    Raises:
        BlastlensError: none, one that cannot be served, or two that would have the same name on the page.
    """
    if not models:
        raise BlastlensError("There is no model to offer; name at least one.")
    # All that have not begun, before the first is waited for.
    coming = [one for given in models for one in ([given] if isinstance(given, Coming) else begin([given]))]
    loaded, away = [], []
    for one in coming:
        try:
            loaded.append(served(one))
        except HubAwayError as error:
            away.append(error)
    if away:
        loaded = _with_bundled(loaded, away)
    names = [one.classifier.folder.model_id for one in loaded]
    for name in names:
        if names.count(name) > 1:
            raise BlastlensError(f"Two of the models to offer are called {name}; leave one of them out.")
    return tuple(loaded)


def served(one: Wanted | Coming) -> Served:
    """Load one model, or its copy where it cannot be had within `HUB_S`.

    Raises:
        HubAwayError: the Hub did not deliver it, and it has no copy.
        BlastlensError: neither can be served.
    """
    given = one if isinstance(one, Coming) else begin([one])[0]
    if isinstance(given, Wanted):  # nothing to wait for
        return Served(Classifier.from_pretrained(given.model, given.revision))
    asked = given.wanted
    try:
        return Served(_in_time(given))
    except BlastlensError as error:
        trouble = error
    if asked.copy is None:
        raise trouble
    try:
        copy = Classifier(ModelFolder.load(asked.copy, asked.model, asked.revision))
    except BlastlensError as error:
        raise BlastlensError(f"{trouble} Nor can its copy be served: {error}") from error
    _logger.warning("%s Its copy %s is served instead.", trouble, asked.copy)
    return Served(copy, _notice(asked, asked.copy, str(trouble)))


def _with_bundled(loaded: Sequence[Served], away: Sequence[HubAwayError]) -> list[Served]:
    """What is there, and the bundled models; the first of these tells what is not there, and why."""
    names = [one.classifier.folder.model_id for one in loaded]
    bundled = [Served(Classifier.from_pretrained(name)) for name in bundled_models() if name not in names]
    offered = [*bundled, *loaded]
    if not offered:
        raise away[0]
    for error in away:
        _logger.warning("%s The bundled models are offered instead; start the page again once it is there.", error)
    causes = " ".join(f"{for_visitors(str(error))}." for error in away)
    notice = f"{causes[:-1]}, so since its start this page offers the models that came with it."
    return [replace(offered[0], notice=notice), *offered[1:]]


def _is_remote(model: str) -> bool:
    """Whether it is looked for on the Hub, as `model_folder.fetch` would."""
    return split_name(model) is not None and not os.path.exists(model) and model.rstrip("/") not in bundled_models()


def _start(one: Wanted) -> Coming:
    """Load it in a thread, which goes on by itself where that takes too long."""
    import_client()
    outcome: Future[Classifier] = Future()

    def work() -> None:
        try:
            outcome.set_result(Classifier.from_pretrained(one.model, one.revision))
        except BaseException as error:  # handed on to whoever waits
            outcome.set_exception(error)

    # A thread of a pool would be waited for when the page ends.
    threading.Thread(target=work, daemon=True).start()
    return Coming(one, outcome, time.monotonic() + HUB_S)


def _in_time(coming: Coming) -> Classifier:
    try:
        return coming.outcome.result(max(0.0, coming.until - time.monotonic()))
    except TimeoutError:
        one = coming.wanted
        at = f"{one.model} at revision {one.revision}" if one.revision else one.model
        raise HubAwayError(f"The Hub did not deliver model {at} within {HUB_S:g} s; try again later.") from None


def _notice(one: Wanted, copy: Path, trouble: str) -> str:
    made_from = "that very revision" if one.revision else one.model
    return (
        f"{for_visitors(trouble)}, so since its start this page answers with the copy that came with it, "
        f"{copy.parent.name}/{copy.name}, made from {made_from}."
    )


def for_visitors(trouble: str) -> str:
    """The cause that an error message begins with, without what only the operator of a page could do about it.

    No path in it either: where things lie on this computer is not for strangers.

    >>> for_visitors("Model a/b cannot be kept in /home/me/cache (disk full); make room there.")
    'Model a/b cannot be kept in a folder here (disk full)'
    """
    cause = trouble.split("; ")[0].rstrip(".")
    for place in sorted({str(Path.home()), str(ROOT), str(Path.cwd())}, key=len, reverse=True):
        if len(place) > 1:  # the root folder is left to the pattern
            cause = re.sub(re.escape(place) + _REST_OF_PATH, "a folder here", cause)
    cause = re.sub(r"(?<![\w.:/~-])(?:~|[A-Za-z]:(?=\\))?[/\\][\w.~-]" + _REST_OF_PATH, "a folder here", cause)
    return re.sub(r"\b[0-9a-f]{40}\b", lambda commit: commit[0][:7], cause)


_REST_OF_PATH = r"[^\s,;:()'\"]*"


def _named(text: str) -> Wanted:
    found = None if os.path.exists(text) else split_name(text)
    return Wanted(*found) if found else Wanted(text)


def _read(file: Path) -> tuple[Wanted, ...]:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        models = tuple(_wanted(one, file.parent) for one in record["models"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BlastlensError(
            f"{file} cannot be read ({type(error).__name__}: {error}); {{'models': [{{'repo_id': 'owner/name', "
            "'revision': ..., 'copy': 'models/name'}]} is expected."
        ) from error
    if not models:
        raise BlastlensError(f"{file} names no model; the page needs at least one.")
    return models


def _wanted(record: dict[str, Any], root: Path) -> Wanted:
    texts = {key: record.get(key) for key in ("repo_id", "revision", "copy")}
    for key, text in texts.items():
        if not (isinstance(text, str) and text) and not (text is None and key != "repo_id"):
            raise ValueError(f"{key} is {text!r}")
    copy = texts["copy"]
    return Wanted(record["repo_id"], texts["revision"], root / copy if copy else None)
