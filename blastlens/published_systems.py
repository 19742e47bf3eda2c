"""Published systems and what was measured of them, as read from `results/comparison.json`.

`python -m train.report` writes that file from the recorded runs.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BlastlensError
from .metrics import Interval

SCHEMA = 1
RECORD = Path(__file__).resolve().parents[1] / "results" / "comparison.json"


@dataclass(frozen=True)
class Level:
    """Results of one protocol, 0 to 1."""

    protocol: str
    folds: str  # "2 of 3 folds" where some are missing, else empty
    accuracy: Interval
    weighted_f1: Interval
    auroc_per_donor: Interval | None = None  # means over healthy donors; None where the data set has no donors
    specificity_per_donor: Interval | None = None


@dataclass(frozen=True)
class NoiseResult:
    """Group-disjoint weighted F1 (S,) at ascending sigmas (S,) on the 0 to 255 scale."""

    sigmas: tuple[float, ...]
    weighted_f1: tuple[Interval, ...]


@dataclass(frozen=True)
class System:
    """One published system, or one of our recipes."""

    name: str  # of its recipe
    title: str
    paper: str | None  # key of its paper; None for our own
    dataset: str  # key of its data set
    first_weights: str  # its initial weights, in words
    claimed: float | None  # accuracy printed in the paper, 0 to 1
    claimed_in_words: str
    image: Level | str  # on the paper's own image-level split; the reason if not measured
    group: Level | str  # group-disjoint; the reason if not measured
    leak: Interval | None  # image-level minus group-disjoint accuracy
    steps: int | None  # of the optimizer, on either protocol; None where they differ or were not recorded
    changed: str  # differences from the paper's settings, in words; "nothing", or "-" if it was not run
    noise: NoiseResult | None  # group-disjoint
    parameters: int | None
    milliseconds: float | None  # for one image on `Comparison.machine`
    times_mobilenetv1: float | None  # the same as a multiple of MobileNetV1's at 224 px, timed beside it

    @property
    def measured(self) -> bool:
        """Whether there is a figure of ours."""
        return isinstance(self.image, Level) or isinstance(self.group, Level)


@dataclass(frozen=True)
class Dataset:
    """A data set on which systems were measured."""

    title: str
    labels: tuple[str, ...]  # in the order of the outputs of a model
    images_published: int
    images_measured: int | None  # None where nothing was measured
    most_frequent_share: float | None  # of the most frequent label among the measured images, 0 to 1
    without_network: Mapping[str, Interval]  # group-disjoint weighted F1 of a few features per image, by their name


@dataclass(frozen=True)
class PaperNotes:
    """A paper's citation, its split in words, and what its text contradicts or leaves open."""

    citation: str
    protocol: str
    contradictions: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The whole record; `systems` and `papers` in the papers' order, our own systems last."""

    honest_protocol: str  # the group-disjoint split that all systems were measured with
    n_published: int  # systems that the papers publish
    machine: str  # on which the milliseconds were measured
    datasets: Mapping[str, Dataset]
    papers: Mapping[str, PaperNotes]
    systems: tuple[System, ...]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Comparison":
        """Raises KeyError, TypeError or ValueError if it is not such a record."""
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']!r}, expected {SCHEMA}")
        return cls(
            honest_protocol=record["honest_protocol"],
            n_published=record["n_published"],
            machine=record["machine"] or "a machine that is not recorded",
            datasets={name: _dataset(value) for name, value in record["datasets"].items()},
            papers={
                name: PaperNotes(value["citation"], value["protocol"], tuple(value["contradictions"]))
                for name, value in record["papers"].items()
            },
            systems=tuple(map(_system, record["systems"])),
        )

    @classmethod
    def load(cls, path: Path = RECORD) -> "Comparison | None":
        """None without such a file, as where only the package is installed.

        Raises:
            BlastlensError: a malformed file.
        """
        if not path.is_file():
            return None
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BlastlensError(f"{path.name} cannot be read ({type(error).__name__}: {error}).") from error

    def of(self, dataset: str) -> tuple[System, ...]:
        """The systems of a data set."""
        return tuple(system for system in self.systems if system.dataset == dataset)

    def dataset_of(self, labels: tuple[str, ...]) -> str | None:
        """The key of the data set with these labels."""
        return next((name for name, dataset in self.datasets.items() if dataset.labels == labels), None)


def _dataset(value: Mapping[str, Any]) -> Dataset:
    scores = {name: Interval(**score) for name, score in value["without_network"].items()}
    keys = ("title", "images_published", "images_measured", "most_frequent_share")
    return Dataset(labels=tuple(value["labels"]), without_network=scores, **{key: value[key] for key in keys})


def _system(value: Mapping[str, Any]) -> System:
    keys = ("name", "title", "paper", "dataset", "first_weights", "changed", "parameters", "milliseconds")
    noise = value["noise"]
    return System(
        **{key: value[key] for key in (*keys, "times_mobilenetv1")},
        claimed=value["claimed"]["accuracy"],
        claimed_in_words=value["claimed"]["accuracy_in_words"],
        image=_level(value["image"]),
        group=_level(value["group"]),
        leak=Interval(**value["leak"]) if value["leak"] else None,
        steps=_steps(value["image"], value["group"]),
        noise=noise and NoiseResult(tuple(noise["sigmas"]), tuple(Interval(**one) for one in noise["weighted_f1"])),
    )


def _steps(*levels: Mapping[str, Any]) -> int | None:
    found = {level["steps"] for level in levels if level.get("steps")}
    return found.pop() if len(found) == 1 else None


def _level(value: Mapping[str, Any]) -> Level | str:
    if "missing" in value:
        return str(value["missing"])
    done, of = value.get("folds"), value.get("of_folds")
    optional = [key for key in ("auroc_per_donor", "specificity_per_donor") if value.get(key)]
    return Level(
        protocol=value["protocol"],
        folds="" if done == of else f"{done} of {of} folds",
        **{key: Interval(**value[key]) for key in ("accuracy", "weighted_f1", *optional)},
    )
