"""The models on offer, and the fields that every response of the API has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..classifier import Classifier
from ..errors import BlastlensError
from ..hub import split_name
from ..model_folder import ModelFolder
from ..predictions import DISCLAIMER
from .examples import Example
from .words import model_choice

LONGEST_NAME = 300
Choice = tuple[str, str]  # label in the picker, and model id


@dataclass(frozen=True)
class Shelf:
    """The models on offer.

    Attributes:
        classifiers: by model id; the first is the one the page opens with.
        examples: by model id, the images on offer for each.
        notices: by model id, why a copy is served in place of the Hub's model, in one sentence.
    """

    classifiers: Mapping[str, Classifier]
    examples: Mapping[str, tuple[Example, ...]]
    notices: Mapping[str, str] = field(default_factory=dict)

    @property
    def first(self) -> Classifier:
        """The model the page opens with."""
        return next(iter(self.classifiers.values()))

    @property
    def choices(self) -> list[Choice]:
        """The models on offer, as the picker takes them; equal labels are completed by the model's id."""
        labels = {name: model_choice(one.folder) for name, one in self.classifiers.items()}
        counts = Counter(labels.values())
        return [(label if counts[label] == 1 else f"{label} · {name}", name) for name, label in labels.items()]

    def classifier(self, model: str) -> Classifier:
        """The model of that name: the id of one on offer, alone or followed by "@" and its revision; "" for the first.

        Raises:
            BlastlensError: unknown, naming those there are.
        """
        if not model:
            return self.first
        if isinstance(model, str) and model in self.classifiers:
            return self.classifiers[model]
        offered = ", ".join(self.classifiers)
        named = split_name(model) if isinstance(model, str) and len(model) <= LONGEST_NAME else None
        if named is None:
            text = repr(model)
            text = text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."
            raise BlastlensError(f"There is no model {text} here; choose one of {offered}.")
        model_id, revision = named
        if model_id in self.classifiers and revision == self.classifiers[model_id].folder.revision:
            return self.classifiers[model_id]
        raise BlastlensError(f"This page offers only {offered}; it does not open other models of the Hub ({model}).")

    def examples_of(self, classifier: Classifier) -> tuple[Example, ...]:
        """The images on offer for a model."""
        return self.examples[classifier.folder.model_id]


def provenance(folder: ModelFolder, sigma: float = 0.0, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Fields of every response: model_id, revision, sigma, warnings, disclaimer."""
    return {
        "model_id": folder.model_id,
        "revision": folder.revision,
        "sigma": sigma,
        "warnings": list(warnings),
        "disclaimer": DISCLAIMER,
    }
