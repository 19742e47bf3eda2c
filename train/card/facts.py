"""What a card is rendered from, read: a model folder's JSON files, and the project's records about its recipe."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from blastlens.dataset_info import CNMC2019, DatasetInfo, dataset_info
from blastlens.errors import BlastlensError
from blastlens.view import View
from train.card.origins import FirstWeights, first_weights_of
from train.report.readme import BASELINES
from train.report.templates import ROOT

CITATION, REQUIREMENTS, RESULTS = ROOT / "CITATION.cff", ROOT / "requirements.txt", ROOT / "results"


@dataclass(frozen=True)
class Facts:
    """Everything a card may say.

    Attributes:
        name: the model's.
        place: what code examples call it: "owner/name" on the Hub (`on_hub`), else "models/name".
        config, metrics: of the folder.
        gate: gate.json; None where the folder has no OOD detection.
        view: how the network sees an image.
        search: the model's entry in results/search.json; empty where it was no candidate of the search.
        baselines: what models without a network reach on the same splits, by what they use.
        differences: the recipe's scores minus those of each baseline on the same images without noise.
        project: CITATION.cff.
    """

    name: str
    place: str
    on_hub: bool
    config: dict[str, Any]
    metrics: dict[str, Any]
    gate: dict[str, Any] | None
    view: View
    search: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    differences: dict[str, dict[str, Any]]
    project: dict[str, Any]

    @classmethod
    def read(cls, folder: Path, repo_id: str | None = None) -> "Facts":
        """Raises BlastlensError where a file is missing or is not JSON."""
        config, metrics = _json(folder / "config.json"), _json(folder / "metrics.json")
        if config is None:
            raise BlastlensError(f"{folder} has no config.json; a model folder is expected.")
        if metrics is None:
            raise BlastlensError(f"{folder} has no metrics.json; `python -m train.evaluate` writes it.")
        search, baselines, differences = _without_network(metrics)
        return cls(
            name=metrics["model"],
            place=repo_id or f"models/{metrics['model']}",
            on_hub=repo_id is not None,
            config=config,
            metrics=metrics,
            gate=_json(folder / "gate.json"),
            view=View.from_folder(config, _json(folder / "preprocessor_config.json")),
            search=search,
            baselines=baselines,
            differences=differences,
            project=yaml.safe_load(CITATION.read_text(encoding="utf-8")),
        )

    @property
    def protocol(self) -> dict[str, Any]:
        """The first protocol: the one that the model is shown with."""
        return self.metrics["protocols"][0]

    @property
    def clean(self) -> dict[str, Any]:
        """Its scores without noise."""
        return self.protocol["by_sigma"][0]

    @property
    def training(self) -> dict[str, Any]:
        return self.metrics["training"]

    @property
    def needs_code(self) -> bool:
        """Whether transformers runs code that comes with the folder."""
        return "auto_map" in self.config

    @cached_property
    def data(self) -> DatasetInfo:
        return dataset_info(self.metrics["label_names"], self.training["dataset"]["name"])

    @cached_property
    def origin(self) -> FirstWeights:
        return first_weights_of(self.training["initial_weights"])

    @property
    def images_published(self) -> int | None:
        """How many images the data set's authors publish."""
        dataset = (_json(RESULTS / "comparison.json") or {"datasets": {}})["datasets"].get(self.data.name)
        return dataset and dataset["images_published"]

    @property
    def parameters(self) -> int | None:
        """Of the network, where the recipe is one of the project's."""
        return (_json(RESULTS / "networks.json") or {}).get(self.training["recipe"]["name"], {}).get("parameters")


def _without_network(metrics: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The model's entry in the search, baselines on the same splits, and differences to them."""
    training, protocol = metrics["training"], metrics["protocols"][0]
    search = _json(RESULTS / "search.json") or {}
    if "donors" in protocol["by_sigma"][0]:
        fits = training["dataset"]["name"] == CNMC2019.name and search.get("protocol") == protocol["name"]
        found = search["candidates"] if fits else {}
        own = found.get(metrics["model"], {})
        return own, {title: found[name] for name, title in BASELINES.items() if name in found} if own else {}, {}
    record = _json(RESULTS / f"baselines_{training['dataset']['name']}.json") or {}
    if record.get("protocol") != protocol["name"]:
        return {}, {}, {}
    recipe = training["recipe"]["name"]
    rows = record["differences"] if record.get("recipe") == recipe else record.get("also", {}).get(recipe, {})
    return {}, record["scores"], {name: by_sigma[0] for name, by_sigma in rows.items()}


def pinned(*packages: str) -> str:
    """The packages as `pip install` takes them, with the versions in requirements.txt."""
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines())
    pins = {line.partition("==")[0]: line for line in lines if line}
    return " ".join(pins[name] for name in packages)


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
