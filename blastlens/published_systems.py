"""Every published system beside what was measured of it: `results/comparison.json`, read. How it is shown is `ui`'s.

The file is rendered from the recorded runs (`python -m train.report`), so that nothing here can drift from them.
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
    """What one kind of split gave.

    Attributes:
        protocol: the split's name.
        folds: in words, "2 of 3 folds", where some are missing; otherwise empty.
        accuracy, weighted_f1: 0 to 1.
        auroc_per_donor, specificity_per_donor: averages over healthy donors, 0 to 1; None where there are no donors.
    """

    protocol: str
    folds: str
    accuracy: Interval
    weighted_f1: Interval
    auroc_per_donor: Interval | None = None
    specificity_per_donor: Interval | None = None


@dataclass(frozen=True)
class Noise:
    """Group-disjoint weighted F1 (S,) at ascending sigmas (S,) on the 0 to 255 scale."""

    sigmas: tuple[float, ...]
    weighted_f1: tuple[Interval, ...]


@dataclass(frozen=True)
class System:
    """One published system, or one of our recipes.

    Attributes:
        name: of its recipe.
        title: as it is shown.
        paper: key of its paper; None for our own.
        dataset: key of its data set.
        first_weights: what it starts from, in words.
        claimed: the accuracy its paper prints, 0 to 1, where it prints one; `claimed_in_words` says it in any case.
        image, group: on its paper's own split by image, and on people it never saw; in words why not, where not.
        leak: image-level minus group-disjoint accuracy.
        changed: how its settings differ from the recipe's, in words; "nothing", or "-" where it was never run.
        noise: group-disjoint.
        parameters: of the network.
        milliseconds: of one image on `Comparison.machine`.
        times_mobilenetv1: the same as a multiple of MobileNetV1's at 224 px, timed beside it.
    """

    name: str
    title: str
    paper: str | None
    dataset: str
    first_weights: str
    claimed: float | None
    claimed_in_words: str
    image: Level | str
    group: Level | str
    leak: Interval | None
    changed: str
    noise: Noise | None
    parameters: int | None
    milliseconds: float | None
    times_mobilenetv1: float | None

    @property
    def measured(self) -> bool:
        """Whether there is any figure of ours."""
        return isinstance(self.image, Level) or isinstance(self.group, Level)


@dataclass(frozen=True)
class Dataset:
    """A data set on which systems were measured.

    Attributes:
        title: as it is shown.
        labels: in the order of the logits of a model trained on it.
        images_published: how many its authors publish.
        images_measured: how many of them were at hand here; None where nothing was measured.
        most_frequent_share: the share of the most frequent label among those, 0 to 1.
        without_network: what a few numbers per image reach without any network, by what they are: weighted F1,
            group-disjoint.
    """

    title: str
    labels: tuple[str, ...]
    images_published: int
    images_measured: int | None
    most_frequent_share: float | None
    without_network: Mapping[str, Interval]


@dataclass(frozen=True)
class Paper:
    """A paper that publishes systems.

    Attributes:
        citation: who wrote what.
        protocol: how it divides its images, in words.
        contradictions: what its own text allows or leaves open, in our words, a sentence or two each.
    """

    citation: str
    protocol: str
    contradictions: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The whole record.

    Attributes:
        honest_protocol: the name of the group-disjoint split that every system was put through.
        n_published: how many systems the papers publish.
        machine: what the milliseconds were measured on, in words.
        datasets: by key.
        papers: by key, in their order.
        systems: in the papers' order, our own last.
    """

    honest_protocol: str
    n_published: int
    machine: str
    datasets: Mapping[str, Dataset]
    papers: Mapping[str, Paper]
    systems: tuple[System, ...]

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Comparison":
        """Raises KeyError, TypeError or ValueError where it is no such record."""
        if record["schema"] != SCHEMA:
            raise ValueError(f"schema {record['schema']!r}, expected {SCHEMA}")
        return cls(
            honest_protocol=record["honest_protocol"],
            n_published=record["n_published"],
            machine=record["machine"] or "a machine that is not recorded",
            datasets={name: _dataset(value) for name, value in record["datasets"].items()},
            papers={
                name: Paper(value["citation"], value["protocol"], tuple(value["contradictions"]))
                for name, value in record["papers"].items()
            },
            systems=tuple(map(_system, record["systems"])),
        )

    @classmethod
    def load(cls, path: Path = RECORD) -> "Comparison | None":
        """None where there is no such file, as on a page that was set up for a model from elsewhere.

        Raises:
            BlastlensError: a file that is not what it should be.
        """
        if not path.is_file():
            return None
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise BlastlensError(f"{path.name} cannot be read ({type(error).__name__}: {error}).") from error

    def of(self, dataset: str) -> tuple[System, ...]:
        """The systems of a data set, in the papers' order, our own last."""
        return tuple(system for system in self.systems if system.dataset == dataset)

    def dataset_of(self, labels: tuple[str, ...]) -> str | None:
        """The key of the data set with these labels."""
        return next((name for name, dataset in self.datasets.items() if dataset.labels == labels), None)


def _dataset(value: Mapping[str, Any]) -> Dataset:
    return Dataset(
        title=value["title"],
        labels=tuple(value["labels"]),
        images_published=value["images_published"],
        images_measured=value["images_measured"],
        most_frequent_share=value["most_frequent_share"],
        without_network={what: Interval(**score) for what, score in value["without_network"].items()},
    )


def _system(value: Mapping[str, Any]) -> System:
    noise = value["noise"]
    return System(
        name=value["name"],
        title=value["title"],
        paper=value["paper"],
        dataset=value["dataset"],
        first_weights=value["first_weights"],
        claimed=value["claimed"]["accuracy"],
        claimed_in_words=value["claimed"]["accuracy_in_words"],
        image=_level(value["image"]),
        group=_level(value["group"]),
        leak=Interval(**value["leak"]) if value["leak"] else None,
        changed=value["changed"],
        noise=Noise(tuple(noise["sigmas"]), tuple(Interval(**v) for v in noise["weighted_f1"])) if noise else None,
        parameters=value["parameters"],
        milliseconds=value["milliseconds"],
        times_mobilenetv1=value["times_mobilenetv1"],
    )


def _level(value: Mapping[str, Any]) -> Level | str:
    if "missing" in value:
        return str(value["missing"])
    done, of = value.get("folds"), value.get("of_folds")
    return Level(
        protocol=value["protocol"],
        folds="" if done == of else f"{done} of {of} folds",
        accuracy=Interval(**value["accuracy"]),
        weighted_f1=Interval(**value["weighted_f1"]),
        **{key: Interval(**value[key]) for key in ("auroc_per_donor", "specificity_per_donor") if value.get(key)},
    )
