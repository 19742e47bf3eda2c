"""What a recipe is: everything that decides how a model is trained, read from one YAML file and validated.

A run is recipe + dataset + protocol + seed, and can be repeated from those four. Where a value comes from a
paper, or was chosen because the paper is silent, `sources` says so, field by field.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from blastlens.errors import BlastlensError
from train.augment import Augment

RECIPES = Path(__file__).parent / "recipes"

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True)
class Head:
    """What follows the backbone's pooled features."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    dropout: float = 0.0
    batch_norm: bool = False  # between dropout and the linear layer, as in MobileNet_M; folded away on export
    l1: float = 0.0  # penalty on the linear layer's weights, per unit of absolute weight


@dataclass(frozen=True)
class Optimizer:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Literal["adam", "adamw"] = "adamw"
    lr: float = 5e-4
    head_lr: float | None = None  # None: the same as lr
    weight_decay: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Learning rate over time. `plateau` needs a validation split and looks at its loss after every epoch."""

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup: float = 0.0  # share of all steps
    factor: float = 0.1  # plateau: multiply by this ...
    patience: int = 5  # ... after so many epochs without improvement
    floor: float = 0.0  # smallest learning rate


@dataclass(frozen=True)
class Recipe:
    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    name: str
    title: str
    dataset: Literal["cnmc2019", "aria2021"]
    backbone: str  # a timm architecture
    protocol: str  # the one used when the command line names none, see train.datasets.splits
    paper: str | None = None  # P0 to P4 as in the literature list, None for our own
    image_size: int = 224
    mean: float = 0.5  # of pixels in 0..1, every channel
    std: float = 0.5
    head: Head = field(default_factory=Head)
    augment: Augment = field(default_factory=Augment)
    # How classes (and donors) are balanced: not at all, by weights in the loss, by adding one desaturated copy
    # of each image of the smaller class (the published MobileNet_M), or by drawing images so that both classes
    # weigh the same and a group of n images weighs n ** group_power within its class.
    balance: Literal["none", "class-weights", "desaturated-copies", "groups"] = "none"
    group_power: float = 1.0
    batch_size: int = 32
    epochs: int = 10
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    early_stopping: int | None = None  # epochs without a better validation loss; None: train all epochs
    label_smoothing: float = 0.0
    mixup: float = 0.0  # Beta(mixup, mixup); 0 is off
    ema: float = 0.0  # decay per step of the averaged weights that are kept; 0 is off
    frozen: tuple[str, ...] = ()  # parameter-name prefixes that are not trained
    sources: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; `Recipe.from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Any, name: str = "recipe") -> "Recipe":
        """Validate plain data. Raises BlastlensError naming every unknown key and every bad value."""
        try:
            return TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BlastlensError(f"{name} is not a valid recipe: {faults}.") from None

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Recipe":
        """Read a recipe by the name of a file in `train/recipes`, or by path."""
        path = Path(name_or_path)
        if path.suffix not in (".yaml", ".yml"):
            path = RECIPES / f"{name_or_path}.yaml"
        if not path.is_file():
            known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
            raise BlastlensError(f"There is no recipe {str(name_or_path)!r}; known recipes: {known}.")
        try:
            data = yaml.safe_load(path.read_text())
        except yaml.YAMLError as error:
            raise BlastlensError(f"{path.name} is not valid YAML: {error}.") from None
        return cls.from_dict(data, path.name)
