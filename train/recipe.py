"""What a recipe is: everything that decides how a model is trained, read from one YAML file and validated.

A run is recipe + dataset + protocol + seed. Where a value comes from a paper, or was chosen because the paper does not
state it, `sources` says so, field by field.
"""

import hashlib
import json
import math
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, dataclass_transform

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter, ValidationError

from blastlens.errors import BlastlensError
from blastlens.view import View

T = TypeVar("T")
RECIPES = Path(__file__).parent / "recipes"
OURS = ("custom_cnn", "alnett")  # backbones that are not timm's and have no first weights, see train.modeling_blastlens

# A raw 450 px frame of C-NMC shrunk to 314 px shows a cell at the scale of the prepared 224 px images, which are its
# centre 320 px at 224. Exactly that scale would be 315 px, but then the centre crop falls half a pixel beside the
# prepared one and answers differ by 0.1; 0.3 % of scale costs less. 314 before 316: the shipped network, on 24 pairs.
CELL_SIZE, CELL_FRAME = 224, 314

# Removed options, with the values that had no effect.
_REMOVED = {
    "mixup": [0],
    "mixstyle": [0],
    "group_spread": [0],
    "small": [{"epochs": 0, "image_size": 128}],
    "removed": [{}],
}
# Fields of a recipe that do not decide how a run comes out.
_WORDS = ("name", "title", "paper", "protocol", "sources")


@dataclass_transform(frozen_default=True)
def strict_dataclass(cls: type[T]) -> type[T]:
    """Make a frozen dataclass, of which pydantic refuses unknown keys."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid")
    return dataclass(frozen=True)(cls)


@strict_dataclass
class Preprocess:
    """Fixed steps on pixels, in this order: before augmentation in training, after the test noise in evaluation."""

    denoise: int = 0  # side of a median filter, odd; 0 is off
    contrast: bool = False  # stretch each channel of each image from its own range to 0..255
    brightness: float = 0.0  # mean that each image is scaled to, 0 to 255 scale; 0 is off
    optical_density: bool = False  # the negative logarithm of each value, scaled to 0..255


@strict_dataclass
class Augment:
    """Ranges of the random transforms; each image draws its own values.

    Geometry is one affine resampling (bilinear), so several steps cost one interpolation.
    """

    rotate: float = 0.0  # degrees, uniform in [-rotate, rotate]
    horizontal_flip: bool = False
    vertical_flip: bool = False
    shift: float = 0.0  # fraction of the width and of the height
    scale: tuple[float, float] = (1.0, 1.0)  # magnification, log-uniform
    shear: float = 0.0  # degrees
    sharp_share: float = 0.0  # share of images that only get flips and quarter turns: no interpolation blur
    fill: str = "zeros"  # outside the image: "zeros", "border" or "reflection"
    brightness: tuple[float, float] = (1.0, 1.0)  # factor, uniform
    channel_gain: float = 0.0  # standard deviation of log gain, one draw per channel (tint)
    gamma: float = 0.0  # standard deviation of log gamma
    saturation: tuple[float, float] = (1.0, 1.0)  # 0 is grey, 1 unchanged, uniform
    grey: float = 0.0  # probability of removing colour altogether
    hue: float = 0.0  # degrees, uniform in [-hue, hue], turned at equal brightness
    dyes: float = 0.0  # each dye's optical density times its own factor, uniform in [1 - dyes, 1 + dyes]
    restain: float = 1.0  # share of the images whose hue and dyes change
    blur: float = 0.0  # largest Gaussian blur, pixels of sigma; half of the images get a uniform draw
    noise_levels: tuple[float, ...] = ()  # sigma drawn from these in equal shares, 0 to 255 scale
    noise_max: float = 0.0  # or: sigma uniform in [0, noise_max] for `noise_share` of the images
    noise_share: float = 0.5
    noise_power: float = 1.0  # above 1, low sigmas are drawn more often: noise_max times u ** noise_power, u uniform


@strict_dataclass
class Head:
    """What follows the backbone's pooled features."""

    dropout: float = 0.0
    hidden: tuple[int, ...] = ()  # widths of dense layers, each with a ReLU, before the last linear layer
    batch_norm: bool = False  # directly before the last linear layer, as in MobileNet_M; folded away on export
    l1: float = 0.0  # penalty on the linear layer's weights, per unit of absolute weight
    uniform: float = 0.0  # the linear layer starts uniform in [-uniform, uniform]; 0: normal with deviation 0.01


@strict_dataclass
class Optimizer:
    name: Literal["adam", "adamw"] = "adamw"
    lr: float = 5e-4
    head_lr: float | None = None  # None: the same as lr
    weight_decay: float = 0.0


@strict_dataclass
class Schedule:
    """Learning rate over time. `plateau` needs a validation split and looks at its loss after every epoch."""

    name: Literal["constant", "cosine", "plateau"] = "cosine"
    warmup: float = 0.0  # share of all steps
    factor: float = 0.1  # plateau: multiply by this ...
    patience: int = 5  # ... after so many epochs without improvement
    floor: float = 0.0  # smallest learning rate


@strict_dataclass
class Distill:
    """How much a network learns from another one's predictions of the same augmented images (Hinton et al. 2015,
    arXiv:1503.02531; the same view for both: Beyer et al. 2022, arXiv:2106.05237)."""

    weight: float = 0.0  # share of the loss that compares with the teacher, 0 to 1; 0 is off
    temperature: float = 1.0  # that both networks' logits are divided by
    # Or what the network is taught instead of labels: a set of train.cell_features, see train.feature_network.
    features: Literal["", "area", "five", "nineteen", "all"] = ""
    c: float = 0.01  # inverse regularization of the logistic regression on them
    # Share of the score, 0 to 1, from a second regression, on all numbers that enter the last layer.
    probe: float = 0.0
    probe_c: float = 0.003
    noise_levels: tuple[float, ...] = (0.0,)  # sigmas at which both regressions see each training image, 0 to 255 scale


@strict_dataclass
class SecondStage:
    """A training on labels that continues from the network of `distill.features`. The result is an average of its
    weights before and after, which holds better for other data than either (Wortsman et al. 2022, arXiv:2109.01903)."""

    changes: dict[str, Any] = field(default_factory=dict)  # of the recipe, e.g. {"epochs": 1, "optimizer.lr": 0.001}
    share: float = 0.5  # of the weights after it in the average, 0 to 1


@strict_dataclass
class Recipe:
    name: str
    title: str
    dataset: str  # one of blastlens.dataset_info, or the name that own images were prepared with
    backbone: str  # a timm architecture, or "custom_cnn" or "alnett", which are ours
    protocol: str  # the one used when the command line names none, see train.datasets.splits
    paper: str | None = None  # P0 to P4 as in the literature list, None for our own
    image_size: int = 224
    # Of pixels in 0..1, of every channel or channel by channel, where the first weights do not name their own: a run
    # takes those of its weights, see train.first_weights.with_statistics.
    mean: float | tuple[float, float, float] = 0.5
    std: float | tuple[float, float, float] = 0.5
    preprocess: Preprocess = field(default_factory=Preprocess)
    head: Head = field(default_factory=Head)
    # Share of the training images, the least sharp ones, that are left out. Images that are tested all stay.
    drop_blurred: float = 0.0
    # Sigmas of Gaussian noise that training images get once and for all, in equal shares, before augmentation.
    training_noise: tuple[float, ...] = ()
    augment: Augment = field(default_factory=Augment)
    # How classes (and donors) are balanced: not at all, by weights in the loss, by adding one desaturated copy
    # of each image of the smaller class (the published MobileNet_M), or by drawing images so that both classes
    # weigh the same and a group of n images weighs n ** group_power within its class.
    balance: Literal["none", "class-weights", "desaturated-copies", "groups"] = "none"
    group_power: float = 1.0
    batch_size: int = 32
    epochs: int = 10
    epoch_steps: int | None = None  # optimizer steps of an epoch; None: as many as use each training image once
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    # Share of the training part that steers schedule and early stopping where the protocol has no validation part:
    # images of an image-level protocol, whole groups of a group-level one. The test part is never touched by it.
    validation: float = 0.0
    early_stopping: int | None = None  # epochs without a better validation loss; None: train all epochs
    label_smoothing: float = 0.0
    ema: float = 0.0  # decay per step of the averaged weights that are kept; 0 is off
    # Share of the steps, the last ones, whose weights are averaged evenly and kept (stochastic weight averaging,
    # Izmailov et al. 2018, arXiv:1803.05407; step by step as in Cha et al. 2021, arXiv:2102.08604).
    average: float = 0.0
    distill: Distill = field(default_factory=Distill)
    second_stage: SecondStage | None = None  # None: there is none
    frozen: tuple[str, ...] = ()  # parameter-name prefixes that are not trained
    frozen_norms: bool = False  # whether frozen batch norms also keep their statistics, as frozen layers of Keras do
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.second_stage and not self.distill.features:
            raise BlastlensError(f"{self.name}: second_stage continues from distill.features, which is not set.")
        if self.second_stage:
            _ = self.of_second_stage  # what is wrong with its changes is reported now

    @property
    def channel_mean(self) -> tuple[float, float, float]:
        return self.mean if isinstance(self.mean, tuple) else (self.mean,) * 3

    @property
    def channel_std(self) -> tuple[float, float, float]:
        return self.std if isinstance(self.std, tuple) else (self.std,) * 3

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON; `Recipe.from_dict` reads it back."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of what decides a run's outcome: values that are not at their defaults, without
        names, texts and the default protocol."""
        decides = {k: v for k, v in _without_defaults(self).items() if k not in _WORDS}
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:8]

    def changed(self, changes: dict[str, Any]) -> "Recipe":
        """A copy with other values, e.g. {"epochs": 3, "optimizer.lr": 0.001}, validated again."""
        data = self.to_dict()
        for key, value in changes.items():
            *path, target = key.split(".")
            node = data
            for part in path:
                node = node.get(part, {})
            node[target] = value
        return self.from_dict(data, self.name)

    @property
    def of_second_stage(self) -> "Recipe":
        """The recipe of the second stage."""
        stage = SecondStage() if self.second_stage is None else self.second_stage
        return self.changed({"distill": {}, "second_stage": None} | stage.changes)

    @property
    def flat(self) -> dict[str, Any]:
        """Every value by its dotted name, e.g. {"optimizer.lr": 0.001}, sequences as lists."""
        return _flat(self.to_dict())

    @classmethod
    def from_dict(cls, data: Any, name: str = "recipe") -> "Recipe":
        """Validate plain data. Raises BlastlensError naming every unknown key and every bad value."""
        if isinstance(data, dict):  # records of earlier runs list all options, also removed ones
            data = {k: v for k, v in data.items() if k not in _REMOVED or v not in _REMOVED[k]}
        try:
            return TypeAdapter(cls).validate_python(data)
        except ValidationError as error:
            faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise BlastlensError(f"{name} is not a valid recipe: {faults}.") from None

    def images_per_epoch(self, labels: NDArray[np.int64]) -> int:
        """How many training images an epoch draws from, of training images with these labels (N,)."""
        copies = np.bincount(labels).min() if self.balance == "desaturated-copies" else 0
        return len(labels) - round(self.drop_blurred * len(labels)) + int(copies)

    def steps_per_epoch(self, images: int, world: int = 1) -> int:
        """Optimizer steps of one epoch over `images_per_epoch` images, on `world` processes."""
        return self.epoch_steps or math.ceil(images / (self.batch_size * world))

    @classmethod
    def of_record(cls, record: dict[str, Any]) -> "Recipe":
        """The recipe of a run's run.json, with the mean and std that the run took from its first weights."""
        statistics = {name: record[name] for name in ("mean", "std") if name in record}
        return cls.from_dict(record["recipe"] | statistics)

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


@dataclass(frozen=True)
class Run:
    """What decides a run's outcome."""

    recipe: Recipe
    data: str
    protocol: str
    fold: int = 0
    seed: int = 0
    weights: str = "hub"
    precision: str = "fp32"  # or "bf16"; "auto" is the faster one
    teacher: str | None = None
    backbone: str | None = None  # a file of feature_network.save_backbone, instead of training one


def view_of(recipe: Recipe) -> View:
    """How images reach this recipe's network. Cells at another size than the prepared one (for quick searches) are
    simply resized: no stock image processor could then give a raw frame and its prepared twin the same view."""
    frame = CELL_FRAME if recipe.dataset == "cnmc2019" and recipe.image_size == CELL_SIZE else None
    return View(recipe.image_size, frame, "bicubic", recipe.channel_mean, recipe.channel_std)


def _flat(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def _without_defaults(value: Any) -> Any:
    """A dataclass as plain data, without the fields that are at their defaults."""
    if not is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    plain = {}
    for f in fields(value):
        default = f.default_factory() if f.default_factory is not MISSING else f.default
        if getattr(value, f.name) != default:
            plain[f.name] = _without_defaults(getattr(value, f.name))
    return plain
