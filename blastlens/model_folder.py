"""What a model folder is: its files, read and validated before anything is served from them.

`hub` finds and downloads model folders, `inference` loads their networks. Python code for transformers, which folders
of architectures that timm lacks contain, is neither read nor downloaded here.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import external_result
from .dataset_info import DatasetInfo, trained_on
from .errors import BlastlensError
from .integrity import check_digests, check_labels, check_links, check_no_code, check_same_network, read_tensors
from .ood_detection import OODDetector
from .view import View

# The best bundled model of each task, which is offered before the smaller and faster ones.
MAIN = ("mobilenetv1-cnmc2019", "mobilenetv2-aria2021")
PUBLISHED = "published"  # folder of published systems among the bundled models
PRECISIONS = {"fp32": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}
SAFETENSORS = "model.safetensors"
JSON_FILES = ("config.json", "preprocessor_config.json", "metrics.json", "gate.json")
OOD_FEATURES = "gate.safetensors"  # the features of gate.json, if it has any
NETWORKS = PRECISIONS | {"safetensors": SAFETENSORS}  # keys as in metrics.json
CODE = "modeling_blastlens.py"  # for transformers, in folders of models that timm lacks; never run here
RECORDED = NETWORKS | {"code": CODE}
OOD_FILES = {"gate": OOD_FEATURES, "fp32": PRECISIONS["fp32"]}  # keys as in gate.json
MAX_JSON_BYTES = 10_000_000  # of one JSON file, which is read into memory
MAX_FEATURES_BYTES = 50_000_000  # of gate.safetensors, likewise
# Parts of metrics.json that are objects, if there are any.
_OBJECTS = (
    *("calibration", "external", "headline", "int8", "latency_ms"),
    *("patients", "published", "sha256", "size_bytes", "training"),
)


@dataclass(frozen=True)
class ModelFolder:
    """A validated model folder.

    Attributes:
        path: the folder.
        model_id: what predictions call the model: a bundled name, a Hub "owner/repo", or a local folder's name.
        revision: the Hub commit, or None for a folder that did not come from the Hub.
        config: config.json.
        label_names: one per class, in the order of the logits.
        view: what the model sees of an image.
        metrics: metrics.json, empty where there is none.
        ood_detector: of gate.json; None if there is none.
    """

    path: Path
    model_id: str
    revision: str | None
    config: dict[str, Any]
    label_names: tuple[str, ...]
    view: View
    metrics: dict[str, Any]
    ood_detector: OODDetector | None = None

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model_id: str | None = None, revision: str | None = None
    ) -> "ModelFolder":
        """Read and validate a folder; model_id defaults to the folder's name.

        A folder with a revision came from the Hub; pickles in it are ignored, since other programs share its cache.

        Raises:
            BlastlensError: no such folder, a missing or invalid file, labels that do not match the classes, files
                that do not belong together (see `integrity`), or a pickle or unknown code among them.
        """
        path = Path(path)
        model_id = model_id or path.resolve().name
        if not path.is_dir():
            raise BlastlensError(f"{path} is not a folder; a model folder with a config.json is expected.")
        try:
            if revision is None:
                check_links(path, (*JSON_FILES, OOD_FEATURES, *NETWORKS.values()))
            config, metrics = read_config(path), _metrics(path)
            if revision is None:
                check_no_code(path, [CODE] if "code" in (metrics.get("sha256") or {}) else [])
            files = [*PRECISIONS.values(), SAFETENSORS]
            if not any((path / file).is_file() for file in files):
                raise BlastlensError(f"no weights are there; one of {', '.join(files)} is expected.")
            view = View.from_folder(config, _read_json(path / "preprocessor_config.json"))
            labels = _label_names(config)
            check_labels(config, labels, metrics)
            check_digests(path, RECORDED, metrics.get("sha256"), "metrics.json")
            detector = _ood_detector(path)
        except BlastlensError as error:
            raise _unusable(model_id, error) from error
        return cls(path, model_id, revision, config, labels, view, metrics, detector)

    @property
    def dataset(self) -> DatasetInfo:
        """What is known about the data set that it was trained on."""
        return trained_on(self.label_names, self.metrics)

    @property
    def known_labels(self) -> tuple[str, ...]:
        """The labels, if it was trained on one of `dataset_info.DATASETS`; else ()."""
        return self.label_names if self.dataset.known else ()

    def protocol(self) -> dict[str, Any] | None:
        """The first protocol in metrics.json with a split into unseen groups, or None."""
        return next((one for one in self.metrics.get("protocols") or () if one.get("level") == "group"), None)

    def check_networks(self) -> None:
        """Raise BlastlensError where its network files are damaged or of different networks.

        Where digests are recorded, `load` has compared them already.
        """
        if {"safetensors", "fp32"} <= (self.metrics.get("sha256") or {}).keys():
            return
        try:
            check_same_network(self.path / SAFETENSORS, self.onnx_file("fp32"), self.config)
        except BlastlensError as error:
            raise _unusable(self.model_id, error) from error

    def onnx_file(self, precision: str) -> Path:
        """Path of the ONNX file of a precision, "fp32" or "int8"; it need not exist."""
        if precision not in tuple(PRECISIONS):
            raise BlastlensError(f"The precision is {precision!r}; one of {', '.join(PRECISIONS)} is accepted.")
        return self.path / PRECISIONS[precision]


def _unusable(model_id: str, error: BlastlensError) -> BlastlensError:
    return BlastlensError(f"Model folder {model_id} cannot be used: {error}")


def bundled_root() -> Path:
    """The folder of bundled models: `models/` beside the package, or the environment's BLASTLENS_MODELS."""
    return Path(os.environ.get("BLASTLENS_MODELS") or Path(__file__).resolve().parents[1] / "models")


def bundled_models() -> list[str]:
    """Names of the bundled models: the main one of each task first, then its smaller ones, sorted."""
    names = {config.parent.name for config in bundled_root().glob("[!.]*/config.json")}
    return [name for name in MAIN if name in names] + sorted(names.difference(MAIN))


def published_systems() -> list[str]:
    """Names of the bundled published systems, retrained for comparison: they are no models of this project."""
    return sorted(config.parent.name for config in bundled_root().glob(f"{PUBLISHED}/[!.]*/config.json"))


def bundled_folder(name: str) -> Path | None:
    """The folder of a bundled model or published system; None where there is none of that name."""
    if name in bundled_models():
        return bundled_root() / name
    return bundled_root() / PUBLISHED / name if name in published_systems() else None


def read_config(folder: Path) -> dict[str, Any]:
    """A folder's config.json; raises BlastlensError if it is not that of an image classifier as timm writes it."""
    config = _read_json(folder / "config.json")
    if config is None:
        raise BlastlensError("config.json is missing; a timm model's config.json is expected.")
    if not isinstance(config.get("architecture"), str):
        raise BlastlensError("config.json has no architecture; the network's name is expected.")
    _label_names(config)
    return config


def _read_json(file: Path) -> dict[str, Any] | None:
    if not file.exists():
        return None
    try:
        if file.stat().st_size > MAX_JSON_BYTES:
            raise BlastlensError(f"{file.name} is larger than {MAX_JSON_BYTES / 1e6:.0f} MB; a short one is expected.")
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BlastlensError(f"{file.name} is not valid JSON ({error}).") from error
    if not isinstance(value, dict):
        raise BlastlensError(f"{file.name} holds a {type(value).__name__}; a JSON object is expected.")
    return value


def _ood_detector(path: Path) -> OODDetector | None:
    record = _read_json(path / "gate.json")
    if record is None:
        return None
    features = path / OOD_FEATURES
    if isinstance(record.get("features"), dict):
        check_digests(path, OOD_FILES, record["features"].get("sha256"), "gate.json")
    return OODDetector.from_json(record, read_tensors(features, MAX_FEATURES_BYTES) if features.is_file() else None)


def _metrics(path: Path) -> dict[str, Any]:
    """metrics.json, with its parts of the expected types; empty if there is none."""
    metrics = _read_json(path / "metrics.json") or {}
    protocols = metrics.get("protocols")
    if protocols is not None and not (isinstance(protocols, list) and all(isinstance(p, dict) for p in protocols)):
        raise BlastlensError("protocols in metrics.json must be a list of objects; measure the model again.")
    for key in _OBJECTS:
        if not isinstance(metrics.get(key), dict | None):
            raise BlastlensError(f"{key} in metrics.json is {metrics[key]!r:.60}; an object is expected.")
    external_result.sentence(metrics)
    return metrics


def _label_names(config: dict[str, Any]) -> tuple[str, ...]:
    names, classes = config.get("label_names"), config.get("num_classes")
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise BlastlensError("label_names in config.json must be a list of names.")
    if len(names) < 2 or len(names) != classes or len(set(names)) != len(names):
        raise BlastlensError(
            f"config.json has {len(names)} label_names and num_classes {classes!r}; one distinct name for "
            "each of two or more classes is expected."
        )
    return tuple(names)
