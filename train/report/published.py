"""What the papers print: `results/published.yaml`, read and validated. What was measured is elsewhere."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import yaml
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from blastlens.errors import BlastlensError

_STRICT = ConfigDict(extra="forbid")

Share = Annotated[float, Field(ge=0, le=1)]
ByFold = tuple[Share, Share, Share]  # of the official folds 0, 1, 2
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Noise:
    """Accuracy and area under the ROC curve of the three folds at one sigma (0 to 255 scale)."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    sigma: Annotated[float, Field(ge=0, le=255)]
    accuracy: ByFold
    auc: ByFold


@dataclass(frozen=True)
class Change:
    """A figure without and with balancing and augmentation."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    without: ByFold
    with_both: ByFold


@dataclass(frozen=True)
class Ablation:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    plain: str  # the system without balancing and augmentation
    accuracy: Change
    hem_precision: Change
    auc: Change


@dataclass(frozen=True)
class Claim:
    """What a paper prints about one system; None where it prints no number."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    accuracy: Share | None = None
    accuracy_by_fold: ByFold | None = None
    train_accuracy: Share | None = None
    macro_f1: Share | None = None
    precision: Share | None = None
    recall: Share | None = None
    f1: Share | None = None  # averaged over classes in a way that the paper does not state
    per_class_f1: dict[str, Share] = field(default_factory=dict)
    parameters: Positive | None = None
    megabytes: Positive | None = None
    milliseconds: dict[str, Positive] = field(default_factory=dict)  # by machine
    epochs: Annotated[int, Field(gt=0)] | None = None
    noise: tuple[Noise, ...] = ()
    ablation: Ablation | None = None
    printed: dict[Literal["accuracy", "f1"], Text] = field(default_factory=dict)  # in words, instead of a number

    @property
    def mean_accuracy(self) -> float | None:
        """The accuracy, or the mean over the folds where only those are printed."""
        if self.accuracy is None and self.accuracy_by_fold:
            return sum(self.accuracy_by_fold) / len(self.accuracy_by_fold)
        return self.accuracy


@dataclass(frozen=True)
class Paper:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    citation: Text
    protocol: Text  # how it divides its images
    contradictions: tuple[Text, ...]  # what its own text allows, in our words
    systems: Annotated[dict[str, Claim], Field(min_length=1)]  # by recipe


@dataclass(frozen=True)
class DataSet:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    title: Text
    images: Annotated[int, Field(gt=0)]  # as published
    fold_images: tuple[int, ...] = ()  # in each official fold, as published


@dataclass(frozen=True)
class Published:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    datasets: dict[str, DataSet]
    papers: dict[str, Paper]

    @property
    def claims(self) -> dict[str, Claim]:
        """Of every system, in the papers' order."""
        return {name: claim for paper in self.papers.values() for name, claim in paper.systems.items()}

    @classmethod
    def load(cls, path: Path) -> "Published":
        """Raises BlastlensError naming every unknown key and every bad value."""
        try:
            return TypeAdapter(cls).validate_python(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BlastlensError(f"{path.name} is not valid: {faults}.") from None
        except (OSError, yaml.YAMLError) as error:
            raise BlastlensError(f"{path} cannot be read: {error}.") from None
