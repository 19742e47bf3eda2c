"""What the page's log says of a failure: what kind and where, never with what.

A traceback names folders of this computer, and its last line what the visitor gave: often a patient's file name. With
BLASTLENS_LOG=full, for whoever looks for a mistake, all of it is logged.
"""

import logging
import os
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

from gradio import queueing, utils
from gradio.exceptions import InvalidPathError

INNERMOST = 4
WENT_WRONG = "This request could not be answered; please try again, or with another file."
NOT_UPLOADED = "This file was not uploaded here; upload it first."
_GIVEN = utils.error_payload


def is_full() -> bool:
    """Whether the operator wants to read everything."""
    return os.environ.get("BLASTLENS_LOG") == "full"


def brief(error: BaseException | None) -> str:
    """An error's kind, and the last places it came by, without a word of its message.

    >>> brief(FileNotFoundError("/home/me/patient.png"))
    'FileNotFoundError'
    """
    if error is None:
        return "an unknown error"
    frames = traceback.extract_tb(error.__traceback__)[-INNERMOST:]
    places = [f"{_short(frame.filename)}:{frame.lineno} ({frame.name})" for frame in reversed(frames)]
    return " < ".join([type(error).__name__ + (" at" if places else ""), *places]).replace(" at <", " at", 1)


def report(error: BaseException) -> None:
    """Write a failure that nobody foresaw to the log."""
    told = "".join(traceback.format_exception(error)) if is_full() else brief(error)
    print(f"A request failed: {told}", file=sys.stderr, flush=True)


def keep_quiet() -> None:
    """Have everything in this process that would write a traceback write it in brief; its warnings, too."""
    if is_full():
        return
    traceback.print_exc = _report_current
    logging.Formatter.formatException = lambda _, info: brief(info[1])  # type: ignore[method-assign, assignment]
    warnings.formatwarning = _warning  # type: ignore[assignment]
    threading.excepthook = lambda given: report(given.exc_value) if given.exc_value else None
    # Below its first line asyncio prints the task, with its folder and its error.
    logging.getLogger("asyncio").addFilter(_first_line)


def explain_failures() -> None:
    """Tell visitors in one sentence where an event broke down; Gradio would say only that it did."""
    queueing.error_payload = utils.error_payload = _payload


def _payload(error: BaseException | None, show_error: bool) -> dict[str, Any]:
    told: dict[str, Any] = _GIVEN(error, show_error)
    if told.get("error"):
        return told
    sentence = NOT_UPLOADED if isinstance(error, InvalidPathError) else WENT_WRONG
    return {"error": sentence, "visible": True, "title": "Error"}


def _report_current(*_: Any, **__: Any) -> None:
    if error := sys.exception():
        report(error)


def _warning(_: Any, category: type[Warning], file: str, line: int, *__: Any) -> str:
    return f"{category.__name__} at {_short(file)}:{line}\n"


def _first_line(record: logging.LogRecord) -> bool:
    record.msg, record.args = record.getMessage().split("\n")[0], ()
    return True


def _short(file: str) -> str:
    """The last two parts of a file's path.

    >>> _short("/home/me/blastlens/ui/batch.py")
    'ui/batch.py'
    """
    return "/".join(Path(file).parts[-2:])
