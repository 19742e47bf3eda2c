"""What a card is rendered from, read: a model folder's JSON files, and the project's comparison of systems."""

import json
from collections import Counter
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from blastlens.errors import BlastlensError
from blastlens.published_systems import Comparison, Dataset, System
from blastlens.view import View
from train.card.dataset_info import DataSet, Start, data_set, start
from train.card.numbers import verdict
from train.report.evidence import Evidence
from train.report.measured import paired

ROOT = Path(__file__).parents[2]
CITATION = ROOT / "CITATION.cff"
RESULTS = ROOT / "results"
TRIED = RESULTS / "TRIED.md"
REQUIREMENTS = ROOT / "requirements.txt"


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
        comparison: the measured comparison of systems, where it holds the model's recipe, or what needs no network was
            compared with it.
        differences: the recipe's scores minus those of each baseline on the same images, by baseline, one row for each
            sigma; nothing where `train.baselines` recorded none.
        search: results/search.json, where the model was a candidate of it; its baselines are on the same splits.
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
    differences: dict[str, list[dict[str, Any]]]
    search: dict[str, Any] | None
    project: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, repo_id: str | None = None) -> "Facts":
        """Raises BlastlensError where a file is missing or is not JSON."""
        config, metrics = _json(folder / "config.json"), _json(folder / "metrics.json")
        if config is None:
            raise BlastlensError(f"{folder} has no config.json; a model folder is expected.")
        if metrics is None:
            raise BlastlensError(f"{folder} has no metrics.json; `python -m train.evaluate` writes it.")
        comparison, differences = Comparison.load(), _differences(metrics)
        if comparison and not (differences or _system(comparison, metrics)):
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
            differences=differences,
            search=_search(metrics),
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
    def tried(self) -> str | None:
        """Where the project tells what was tried to make it hold better; None where nothing is written down."""
        return str(TRIED.relative_to(ROOT)) if TRIED.is_file() else None

    @property
    def system(self) -> System | None:
        """The model's recipe in the comparison."""
        return _system(self.comparison, self.metrics) if self.comparison else None

    @property
    def compared(self) -> Dataset | None:
        """Its data set there, where the model was measured by the protocol of the comparison."""
        if not self.comparison or self.protocol["name"] != self.comparison.honest_protocol:
            return None
        return self.comparison.datasets.get(self.training["dataset"]["name"])

    @cached_property
    def against(self) -> Counter[str]:
        """How many systems of its data set the recipe is better and worse than on people neither saw, by paired
        differences in accuracy, and of how many no difference was shown."""
        return _against(self.system.name) if self.system else Counter()


@cache
def _against(recipe: str) -> Counter[str]:
    evidence = Evidence.read(RESULTS, ROOT / "models")
    (own,) = (row for row in evidence.rows if row.name == recipe)
    others = (row for row in evidence.of(own.recipe.dataset) if row is not own and row.group and row.group.complete)
    found = (paired(own.group, other.group) for other in others if own.group and other.group)
    return Counter(verdict(vars(difference)) for difference in found if difference)


def _differences(metrics: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    training, protocol = metrics["training"], metrics["protocols"][0]["name"]
    record = _json(RESULTS / f"baselines_{training['dataset']['name']}.json") or {}
    if record.get("protocol") != protocol:
        return {}
    recipe = training["recipe"]["name"]
    return record["differences"] if record.get("recipe") == recipe else record.get("also", {}).get(recipe, {})


def _search(metrics: dict[str, Any]) -> dict[str, Any] | None:
    record = _json(RESULTS / "search.json") or {}
    fits = metrics["model"] in record.get("candidates", {}) and record["protocol"] == metrics["protocols"][0]["name"]
    return record if fits else None


def pinned(*packages: str) -> str:
    """The packages as `pip install` takes them, with the versions that the project is measured with."""
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    pins = {line.partition("==")[0]: line for line in lines if line}
    return " ".join(pins[name] for name in packages)


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
