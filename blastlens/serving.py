"""Which models a page offers, and loading them so that it starts whatever the Hub does.

A Space is made with a `space.json` beside `app.py`: models of the Hub, each with the copy to fall back on. Models that
visitors ask for themselves are another matter, see `guests`.
"""

import json
import logging
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .classifier import Classifier
from .errors import BlastlensError
from .hub import split_name
from .model_folder import ModelFolder, bundled_models, bundled_root

ROOT = Path(__file__).resolve().parents[1]
# So long the Hub may take where there is a copy to fall back on. Where there is none, the page cannot start without it,
# and the Hub's client may go on trying for some minutes.
HUB_S = 15.0

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
class Served:
    """A model that is offered, and in one sentence why it is a copy; "" where it is not."""

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


def serve(models: Sequence[Wanted]) -> tuple[Served, ...]:
    """Load all models, at the same time where the Hub may have to be waited for.

    Raises:
        BlastlensError: none, one that cannot be served, or two that would have the same name on the page.
    """
    if not models:
        raise BlastlensError("There is no model to offer; name at least one.")
    if any(one.copy for one in models):
        with ThreadPoolExecutor(len(models)) as pool:
            loaded = tuple(pool.map(served, models))
    else:
        loaded = tuple(map(served, models))
    names = [one.classifier.folder.model_id for one in loaded]
    for name in names:
        if names.count(name) > 1:
            raise BlastlensError(f"Two of the models to offer are called {name}; leave one of them out.")
    return loaded


def served(one: Wanted) -> Served:
    """Load one model, or its copy where it cannot be had within `HUB_S`.

    Raises:
        BlastlensError: neither can be served.
    """
    if one.copy is None:
        return Served(Classifier.from_pretrained(one.model, one.revision))
    try:
        return Served(_in_time(lambda: Classifier.from_pretrained(one.model, one.revision), one))
    except BlastlensError as error:
        trouble = error
    try:
        copy = Classifier(ModelFolder.load(one.copy, one.model, one.revision))
    except BlastlensError as error:
        raise BlastlensError(f"{trouble} Nor can its copy be served: {error}") from error
    _logger.warning("%s Its copy %s is served instead.", trouble, one.copy)
    return Served(copy, _notice(one, one.copy, str(trouble)))


def _in_time(load: Callable[[], Classifier], one: Wanted) -> Classifier:
    """What `load` returns; it goes on by itself where that takes too long."""
    outcome: Future[Classifier] = Future()

    def work() -> None:
        try:
            outcome.set_result(load())
        except BaseException as error:  # handed on to whoever waits
            outcome.set_exception(error)

    # A thread of a pool would be waited for when the page ends.
    threading.Thread(target=work, daemon=True).start()
    try:
        return outcome.result(HUB_S)
    except TimeoutError:
        at = f"{one.model} at revision {one.revision}" if one.revision else one.model
        raise BlastlensError(f"The Hub did not deliver model {at} within {HUB_S:.0f} s; try again later.") from None


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
