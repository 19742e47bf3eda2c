"""All that the pages are made from, read from `results/` and `models/`, and arranged as one row per system."""

import functools
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blastlens.metrics import Interval
from train.recipe import Recipe
from train.report import measured
from train.report.measured import Measured
from train.report.published import Claim, Published
from train.results import HONEST, Result, load_results

# Rows beside the papers' systems: P4's ablation, and our own recipes for comparison.
ABLATION = "mobilenet_m_plain"
OWN = ("ours_cnmc2019", "ours_aria2021")
# Written here, so without ImageNet weights: `train.modeling_blastlens.OURS`, whose import takes long. A test compares.
NETWORKS_OF_OURS = ("custom_cnn", "alnett")
# Where training takes minutes to hours without a GPU; every other backbone needs one.
SMALL = ("mobilenetv1_100", "mobilenetv2_100", *NETWORKS_OF_OURS)
LEVELS = ("image", "group")


@dataclass(frozen=True, eq=False)
class Row:
    """One system from one kind of first weights: what was measured on its paper's protocol and on the honest one."""

    recipe: Recipe
    initialisation: str
    image: Measured | None
    group: Measured | None

    @property
    def name(self) -> str:
        return self.recipe.name

    @property
    def start(self) -> str:
        """The first weights, in words."""
        if self.initialisation == "imagenet":
            return "ImageNet"
        return "random, as published" if self.recipe.backbone in NETWORKS_OF_OURS else "random, *not as published*"

    @property
    def title(self) -> str:
        """The system's, with its first weights where they are not the published ones."""
        other = "from scratch" if self.initialisation == "scratch" else "from ImageNet weights"
        return self.recipe.title if self.as_published else f"{self.recipe.title}, {other}"

    def at(self, level: str) -> Measured | None:
        return self.image if level == "image" else self.group

    @functools.cached_property
    def leak(self) -> Interval | None:
        """Image-level minus group-disjoint accuracy, once every group was held out."""
        return measured.leak(self.image, self.group) if self.image and self.group and self.group.complete else None

    @property
    def as_published(self) -> bool:
        """Whether it starts from the first weights that its paper uses."""
        return self.initialisation == usual_start(self.recipe)

    @property
    def needs_gpu(self) -> bool:
        return self.initialisation == "imagenet" and self.recipe.backbone not in SMALL


@dataclass(frozen=True)
class Evidence:
    published: Published
    results: tuple[Result, ...]
    recipes: dict[str, Recipe]
    shipped: dict[str, dict[str, Any]]  # metrics.json of the bundled models, by recipe
    baselines: dict[str, dict[str, Any]]  # scores by what is measured, by data set
    latency: dict[str, Any]  # "machine" and "systems", or nothing
    networks: dict[str, dict[str, int]] = field(default_factory=dict)  # "parameters", "multiply_adds", by recipe
    probes: tuple[dict[str, Any], ...] = ()  # of `train.shortcut_probes`: systems other than the bundled ones

    @classmethod
    def read(cls, results: Path, models: Path) -> "Evidence":
        """Raises BlastlensError where a file is not what it should be."""
        published = Published.load(results / "published.yaml")
        names = (*published.claims, ABLATION, *OWN)
        metrics_files = [json.loads(path.read_text()) for path in sorted(models.glob("[!.]*/metrics.json"))]
        baselines = sorted(results.glob("baselines_*.json"))
        latency, networks = results / "latency.json", results / "networks.json"
        return cls(
            published=published,
            results=tuple(load_results(results / "runs")),
            recipes={name: Recipe.load(name) for name in names},
            shipped={record["training"]["recipe"]["name"]: record for record in metrics_files},
            baselines={
                path.stem.removeprefix("baselines_"): json.loads(path.read_text())["scores"] for path in baselines
            },
            latency=json.loads(latency.read_text()) if latency.exists() else {},
            networks=json.loads(networks.read_text()) if networks.exists() else {},
            probes=tuple(json.loads(path.read_text()) for path in sorted(results.glob("probes/*.json"))),
        )

    @functools.cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every system in the papers' order, then the ablation, then our recipes. A system has the row of its
        published first weights, run or not, and another one for other first weights if they were run."""
        shown = measured.choose(run for run in self.results if self.is_current(run))
        rows = []
        for recipe in self.recipes.values():
            own = recipe.protocol if recipe.paper else None
            usual = usual_start(recipe)
            for start in (usual, "scratch" if usual == "imagenet" else "imagenet"):
                row = Row(
                    recipe,
                    start,
                    image=shown.get((recipe.name, own, start)) if own else None,
                    group=shown.get((recipe.name, HONEST, start)),
                )
                if start == usual or row.image or row.group:
                    rows.append(row)
        return tuple(rows)

    def is_current(self, run: Result) -> bool:
        """Whether a run trained what the committed recipe and the run's changes say."""
        recipe = self.recipes.get(run.system)
        return recipe is not None and recipe.changed(run.changes).digest == run.recipe_digest

    def of(self, dataset: str) -> list[Row]:
        return [row for row in self.rows if row.recipe.dataset == dataset]

    @property
    def not_shown(self) -> list[str]:
        """Recorded runs that stand in no table, in words."""
        used = {id(run) for row in self.rows for m in (row.image, row.group) if m for run in m.runs}
        return sorted(
            f"{run.system}, {run.protocol}, seed {run.seed}, fold {run.fold}, {run.initialisation}, "
            + (f"changed: {self.changes(run)}" if self.is_current(run) else "with a recipe that is not the present one")
            for run in self.results
            if id(run) not in used
        )

    def row(self, name: str, initialisation: str) -> Row:
        """Raises StopIteration where there is none; the published first weights always have one."""
        return next(row for row in self.rows if (row.name, row.initialisation) == (name, initialisation))

    def claim(self, row: Row) -> Claim:
        """What the paper prints; nothing for a row that does not start as published."""
        return self.published.claims.get(row.name, Claim()) if row.as_published else Claim()

    def changes(self, run: Result) -> str:
        """How its recipe differed from the committed one: `epochs 14 instead of 100`, or `nothing`."""
        plain = self.recipes[run.system].to_dict()
        return ", ".join(f"{key} {new} instead of {_at(plain, key)}" for key, new in run.changes.items()) or "nothing"


def usual_start(recipe: Recipe) -> str:
    """The published first weights: our own architectures have none but random ones."""
    return "scratch" if recipe.backbone in NETWORKS_OF_OURS else "imagenet"


def _at(plain: dict[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    return functools.reduce(lambda node, name: node[name], key.split("."), plain)
