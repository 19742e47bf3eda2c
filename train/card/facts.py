"""What a card is rendered from, read: a model folder's JSON files, and the project's comparison of systems."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from blastlens.comparison import Comparison, Dataset, System
from blastlens.errors import BlastlensError
from blastlens.images import View
from train.card.known import DataSet, Start, data_set, start

CITATION = Path(__file__).parents[2] / "CITATION.cff"


@dataclass(frozen=True)
class Facts:
    """Everything a card may say.

    Attributes:
        name: the model's.
        place: what the lines to copy call it: "owner/name" on the Hub, else "models/name".
        on_hub: which of the two.
        config, metrics: of the folder.
        gate: gate.json; None where the folder has no input check.
        view: how the network looks at an image.
        comparison: the measured comparison of systems, where it holds the model's recipe.
        project: CITATION.cff.
    """

    name: str
    place: str
    on_hub: bool
    config: dict[str, Any]
    metrics: dict[str, Any]
    gate: dict[str, Any] | None
    view: View
    comparison: Comparison | None
    project: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, repo_id: str | None = None) -> "Facts":
        """Raises BlastlensError where a file is missing or is not JSON."""
        config, metrics = _json(folder / "config.json"), _json(folder / "metrics.json")
        if config is None:
            raise BlastlensError(f"{folder} has no config.json; a model folder is expected.")
        if metrics is None:
            raise BlastlensError(f"{folder} has no metrics.json; `python -m train.evaluate` writes it.")
        comparison = Comparison.load()
        if comparison and not _system(comparison, metrics):
            comparison = None
        return cls(
            name=metrics["model"],
            place=repo_id or f"models/{metrics['model']}",
            on_hub=repo_id is not None,
            config=config,
            metrics=metrics,
            gate=_json(folder / "gate.json"),
            view=View.from_folder(config, _json(folder / "preprocessor_config.json")),
            comparison=comparison,
            project=yaml.safe_load(CITATION.read_text(encoding="utf-8")),
        )

    @property
    def protocol(self) -> dict[str, Any]:
        """The first protocol: the one that the model is shown with."""
        return self.metrics["protocols"][0]

    @property
    def clean(self) -> dict[str, Any]:
        """Its scores on images as they are."""
        return self.protocol["by_sigma"][0]

    @property
    def training(self) -> dict[str, Any]:
        return self.metrics["training"]

    @property
    def needs_code(self) -> bool:
        """Whether transformers runs code that comes with the folder."""
        return "auto_map" in self.config

    @cached_property
    def data(self) -> DataSet:
        return data_set(self.training["dataset"]["name"], self.metrics["label_names"])

    @cached_property
    def start(self) -> Start:
        return start(self.training["initial_weights"])

    @property
    def system(self) -> System | None:
        """The model's recipe in the comparison."""
        return _system(self.comparison, self.metrics) if self.comparison else None

    @property
    def compared(self) -> Dataset | None:
        """Its data set there."""
        return self.comparison.datasets[self.system.dataset] if self.comparison and self.system else None


def _system(comparison: Comparison, metrics: dict[str, Any]) -> System | None:
    training = metrics["training"]
    wanted = training["recipe"]["name"], training["dataset"]["name"]
    return next((system for system in comparison.systems if (system.name, system.dataset) == wanted), None)


def _json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BlastlensError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(value, dict):
        raise BlastlensError(f"{path} holds a {type(value).__name__}; a JSON object is expected.")
    return value
