"""What the papers print: `results/published.yaml`, read and validated."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from blastlens.errors import BlastlensError
from train.report.numbers import NOTHING

Share = Annotated[float, Field(ge=0, le=1)]
ByFold = tuple[Share, Share, Share]  # of the official folds 0, 1, 2
Positive = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoiseClaim(_Entry):
    """At one sigma (0 to 255 scale); `auc` is the area under the ROC curve."""

    sigma: Annotated[float, Field(ge=0, le=255)]
    accuracy: ByFold
    auc: ByFold


class Claim(_Entry):
    """What a paper prints about one system; None where it prints no number."""

    accuracy: Share | None = None
    accuracy_by_fold: ByFold | None = None
    macro_f1: Share | None = None
    precision: Share | None = None
    recall: Share | None = None
    f1: Share | None = None  # the paper does not say how classes are averaged
    parameters: Positive | None = None
    noise: tuple[NoiseClaim, ...] = ()
    printed: dict[Literal["accuracy", "f1"], Text] = {}  # in words instead of a number
    # Not compared with ours.
    train_accuracy: Share | None = None
    per_class_f1: dict[str, Share] = {}
    megabytes: Positive | None = None
    milliseconds: dict[str, Positive] = {}  # by machine
    epochs: Annotated[int, Field(gt=0)] | None = None
    ablation: dict[str, Any] = {}

    @property
    def mean_accuracy(self) -> float | None:
        """The accuracy, or the mean over the folds where only those are printed."""
        if self.accuracy is None and self.accuracy_by_fold:
            return sum(self.accuracy_by_fold) / len(self.accuracy_by_fold)
        return self.accuracy

    @property
    def accuracy_in_words(self) -> str:
        """The accuracy, its mean over folds, what is printed instead of it, or the F1."""
        if self.accuracy is not None:
            return f"{self.accuracy:.4g}"
        if self.accuracy_by_fold:
            return f"{self.mean_accuracy:.3f}, mean of {', '.join(f'{v:g}' for v in self.accuracy_by_fold)}"
        if "accuracy" in self.printed:
            return self.printed["accuracy"]
        return NOTHING if self.f1_in_words == NOTHING else f"only F1, {self.f1_in_words}"

    @property
    def f1_in_words(self) -> str:
        if self.macro_f1 is not None:
            return f"macro {self.macro_f1:.4g}"
        return f"{self.f1:.4g}" if self.f1 is not None else self.printed.get("f1", NOTHING)


class Publication(_Entry):
    """A paper: how it splits its images, what its own text contradicts or leaves open, and its systems by recipe."""

    citation: Text
    protocol: Text
    contradictions: tuple[Text, ...]
    systems: Annotated[dict[str, Claim], Field(min_length=1)]


class PublishedDataset(_Entry):
    """A data set as its authors publish it: number of images, in all and in each official fold."""

    title: Text
    images: Annotated[int, Field(gt=0)]
    fold_images: tuple[int, ...] = ()


class Publications(_Entry):
    """The whole file."""

    datasets: dict[str, PublishedDataset]
    papers: dict[str, Publication]

    @property
    def claims(self) -> dict[str, Claim]:
        """The claims about every system, in the papers' order."""
        return {name: claim for paper in self.papers.values() for name, claim in paper.systems.items()}

    @classmethod
    def load(cls, path: Path) -> "Publications":
        """Raises BlastlensError that names every unknown key and every bad value."""
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BlastlensError(f"{path.name} is not valid: {faults}.") from None
        except (OSError, yaml.YAMLError) as error:
            raise BlastlensError(f"{path} cannot be read: {error}.") from None
