"""The models on offer, and the fields that every response of the API has."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from .. import external_result
from ..classifier import Classifier
from ..errors import BlastlensError
from ..model_folder import PRECISIONS, ModelFolder
from ..predictions import DISCLAIMER
from .endpoints import endpoint
from .examples import Example, examples_for
from .words import main_score, model_choice, published_note


@dataclass(frozen=True)
class Shelf:
    """The models on offer.

    Attributes:
        classifiers: by model id; the first is the one the page opens with.
        notices: by model id, why a copy is served in place of the Hub's model, in one sentence.
        data: folder of data sets, whose images are examples beside the synthetic ones.
    """

    classifiers: Mapping[str, Classifier]
    notices: Mapping[str, str] = field(default_factory=dict)
    data: Path | None = None

    @property
    def first(self) -> Classifier:
        """The model the page opens with."""
        return next(iter(self.classifiers.values()))

    @cached_property
    def titles(self) -> dict[str, str]:
        """The title of each model in the picker, by model id; equal ones are completed by the id."""
        titles = {name: model_choice(one.folder) for name, one in self.classifiers.items()}
        counts = Counter(titles.values())
        return {name: title if counts[title] == 1 else f"{title} · {name}" for name, title in titles.items()}

    def examples_of(self, classifier: Classifier) -> tuple[Example, ...]:
        """The images on offer for a model."""
        return examples_for(classifier.folder.known_labels, self.data)

    def classifier(self, model: str) -> Classifier:
        """The model of that name: the id of one on offer, alone or followed by "@" and its revision; "" for the first.

        Raises:
            BlastlensError: unknown, naming those there are.
        """
        if not model:
            return self.first
        for name, classifier in self.classifiers.items():
            if model in (name, f"{name}@{classifier.folder.revision}"):
                return classifier
        raise BlastlensError(f"There is no model {model!r:.300} here; choose one of {', '.join(self.classifiers)}.")


def provenance(folder: ModelFolder, sigma: float = 0.0, warnings: Sequence[str] = ()) -> dict[str, Any]:
    """Fields of every response: model_id, revision, sigma, warnings, disclaimer."""
    return {
        "model_id": folder.model_id,
        "revision": folder.revision,
        "sigma": sigma,
        "warnings": list(warnings),
        "disclaimer": DISCLAIMER,
    }


def add_endpoint(shelf: Shelf) -> None:
    """Add the endpoint that lists the models to the Blocks that are being built."""

    def list_models() -> dict[str, Any]:
        """List the models and their scores on unseen subjects. Research demonstration, not a medical device.

        Returns:
            models (a list: model_id, revision, labels, task, looks_at, headline: the main score with its 95 %
            interval and protocol, or null if none was measured; external_validation: its result in a sentence, a
            caveat, and the record of metrics.json or null; prevalence; size_bytes by precision; sigma, warnings, such
            as why a copy is served instead of the Hub's model, or that it is a published system retrained for
            comparison, and disclaimer as in every answer) and disclaimer.
        """
        models = [described(c.folder, shelf.notices.get(name, "")) for name, c in shelf.classifiers.items()]
        return {"models": models, "disclaimer": DISCLAIMER}

    endpoint(list_models)


def described(folder: ModelFolder, notice: str = "") -> dict[str, Any]:
    """A model as `list_models` returns it; `notice` says why it is a copy."""
    info, metrics = folder.dataset, folder.metrics
    files = {name: folder.path / file for name, file in PRECISIONS.items()}
    published = metrics.get("published")
    return {
        **provenance(folder, warnings=[text for text in (notice, published and published_note(published)) if text]),
        "labels": {label: info.meanings.get(label, "") for label in folder.label_names},
        "task": info.question,
        "looks_at": info.input_description,
        "headline": _headline(metrics, info.unseen),
        "external_validation": {
            "result": external_result.sentence(metrics),
            "caveat": external_result.caveat(metrics),
            "record": metrics.get("external"),
        },
        "prevalence": (metrics.get("calibration") or {}).get("prevalence"),
        "size_bytes": {name: file.stat().st_size for name, file in files.items() if file.is_file()},
    }


def _headline(metrics: Mapping[str, Any], unseen: str) -> dict[str, Any] | None:
    name, score = main_score(metrics)
    if not score:
        return None
    protocol = str(metrics["headline"].get("protocol", "unnamed"))
    return {
        "score": name,
        **{end: score.get(end) for end in ("value", "low", "high")},
        "protocol": protocol,
        "measured_on": unseen if protocol.startswith("group") else "image-level: images of the training subjects",
    }
