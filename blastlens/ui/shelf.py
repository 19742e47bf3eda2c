"""The models the page offers, and what every answer of its API carries."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder, is_in_or_equal

from ..classifier import DISCLAIMER, Classifier
from ..errors import BlastlensError
from ..images import ACCEPTED
from .examples import Example


@dataclass(frozen=True)
class Shelf:
    """The models on offer.

    Attributes:
        classifiers: by model id; the first is the one the page opens with.
        examples: by model id, the images on offer for each.
    """

    classifiers: Mapping[str, Classifier]
    examples: Mapping[str, tuple[Example, ...]]

    @property
    def first(self) -> Classifier:
        """The model the page opens with."""
        return next(iter(self.classifiers.values()))

    def classifier(self, model: str) -> Classifier:
        """The model of that id, "" for the first; raises BlastlensError, naming those there are, for an unknown one."""
        if not model:
            return self.first
        if not isinstance(model, str) or model not in self.classifiers:
            raise BlastlensError(f"There is no model {model!r} here; choose one of {', '.join(self.classifiers)}.")
        return self.classifiers[model]


def provenance(classifier: Classifier, sigma: float = 0.0, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """What every answer says of its origin: model_id, revision, sigma, warnings, disclaimer."""
    return {
        "model_id": classifier.folder.model_id,
        "revision": classifier.folder.revision,
        "sigma": sigma,
        "warnings": list(warnings),
        "disclaimer": DISCLAIMER,
    }


@contextmanager
def refusals() -> Iterator[None]:
    """Inside an API function: a BlastlensError reaches the caller as its one sentence, without a traceback."""
    try:
        yield
    except BlastlensError as error:
        raise gr.Error(str(error), print_exception=False) from error


def path_of(upload: dict[str, Any] | str | None) -> str:
    """Path of an uploaded file as Gradio hands it over; raises BlastlensError where there is none.

    Gradio checks only some of what callers send, so the path is held against the folder of uploads here: nobody can
    have other files of this computer read.
    """
    path = upload.get("path") if isinstance(upload, dict) else upload
    if not path:
        raise BlastlensError(f"There is no image yet; give a {ACCEPTED} file.")
    if not isinstance(path, str) or "\0" in path or not is_in_or_equal(path, get_upload_folder()):
        raise BlastlensError(f"{str(path)!r} was not uploaded here; upload it first.")
    return path
