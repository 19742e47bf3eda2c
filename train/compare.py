"""Every published system on its own protocol and a group-disjoint one: recipes x protocols x seeds -> results/runs.

    python -m train.compare --list                       what is done, running and missing
    python -m train.compare --only mobilenet_m alnett --jobs 2
    python -m train.compare --export models              a model folder of each system that was trained
    python -m train.compare --protocol official --data DOWNLOAD

A system trains for as many optimizer steps on both protocols, with the same schedule. Without a GPU, trainings are
shortened as `train/shortened.yaml` says; `--as-published` trains in full length. A system whose first weights are not
in the folder given starts from random ones. Rerun the command to resume, see `train.jobs`. Tables and figures are
`python -m train.report`; those of the official protocol of C-NMC 2019 are printed, see docs/reproduce.md.
"""

import argparse
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml

from blastlens.dataset_info import CNMC2019
from blastlens.errors import BlastlensError
from train.command import reports_errors
from train.datasets import Row, labels_of, load_rows
from train.datasets.splits import OFFICIAL, make_splits, with_validation
from train.finetune import PROTOCOL_ALIASES, dataset_folder
from train.first_weights import find_weights
from train.jobs import Job, Rows, add_queue_arguments, list_or_run
from train.recipe import OURS, RECIPES, Recipe
from train.results import HONEST, RUNS

SHORTENED = Path(__file__).parent / "shortened.yaml"


def systems(official: bool = False) -> list[str]:
    """Recipes that come from a paper, paper by paper; for the official protocol those of C-NMC 2019, and after them our
    own that need no teacher."""
    recipes = sorted(map(Recipe.load, RECIPES.glob("*.yaml")), key=lambda r: (r.paper or "P9", r.name))
    if official:
        return [r.name for r in recipes if r.dataset == CNMC2019.name and not r.distill.weight]
    return [r.name for r in recipes if r.paper]


def shortened(name: str) -> tuple[dict[str, Any], tuple[float, ...]]:
    """Changes of a recipe for a machine without a GPU, and the noise levels to test at; () for all."""
    changes = dict(yaml.safe_load(SHORTENED.read_text()).get(name, {}))
    return changes, tuple(changes.pop("sigmas", ()))


def same_steps(recipe: Recipe, protocol: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The change by which an epoch has as many optimizer steps on `protocol` as on the recipe's own, first fold."""
    if protocol == recipe.protocol or recipe.epoch_steps:
        return {}
    split = with_validation(make_splits(recipe.protocol, rows, 0)[0], rows, recipe.validation)
    images = recipe.images_per_epoch(labels_of(rows)[1][list(split.train)])
    return {"epoch_steps": recipe.steps_per_epoch(images)}


def first_weights(recipe: Recipe, weights: str) -> Literal["imagenet", "scratch"]:
    """Whether a system starts from ImageNet weights: "scratch" also where the folder `weights` has none for it."""
    if weights == "scratch" or recipe.backbone in OURS:
        return "scratch"
    try:
        return "imagenet" if weights == "hub" or find_weights(weights, recipe.backbone) else "scratch"
    except BlastlensError:
        return "scratch"


def plan(arguments: argparse.Namespace, names: Sequence[str], rows: Rows) -> list[Job]:
    """The jobs in the order they are run: by recipe, protocol, seed and fold; none for data sets that are not there."""
    import torch  # takes seconds

    @functools.cache
    def folds_of(protocol: str, dataset: str) -> int:
        return len(make_splits(protocol, rows[dataset], 0))

    jobs = []
    as_published = arguments.as_published or torch.cuda.is_available()
    for recipe in map(Recipe.load, names):
        if recipe.dataset not in rows:
            continue
        start = first_weights(recipe, arguments.weights)
        # Frozen layers with random weights would never learn anything.
        always = {"frozen": [], "frozen_norms": False} if recipe.frozen and start == "scratch" else {}
        named = {"image": [recipe.protocol], "group": [HONEST], "both": [recipe.protocol, HONEST]}
        named |= {alias: [protocol] for alias, protocol in PROTOCOL_ALIASES.items()}
        for protocol in named.get(arguments.protocol, [arguments.protocol]):
            full = always | same_steps(recipe, protocol, rows[recipe.dataset])
            short, sigmas = ({}, ()) if as_published else shortened(recipe.name)
            changes = full | short
            changed, published = recipe.changed(changes), recipe.changed(full).digest
            n = folds_of(protocol, recipe.dataset)
            jobs += [
                Job(changed, changes, published, protocol, fold, n, seed, start, sigmas)
                for seed in arguments.seeds
                for fold in range(n)
                if arguments.folds is None or fold in arguments.folds
            ]
    return jobs


def datasets_at_hand(data: str | None, recipes: Sequence[Recipe], protocol: str, cache: Path) -> Rows:
    """The rows of each data set that the recipes need; one that is not there is named and left out, unless none is."""
    rows, faults = {}, []
    for recipe in {recipe.dataset: recipe for recipe in recipes}.values():
        try:
            rows[recipe.dataset] = load_rows(dataset_folder(data, recipe, protocol, cache))
        except BlastlensError as error:
            faults.append(f"{recipe.dataset}: {error}")
    if not rows:
        raise BlastlensError(" ".join(faults))
    for fault in faults:
        print(f"Left out, {fault}", file=sys.stderr)
    return rows


def _export(names: Sequence[str], arguments: argparse.Namespace) -> int:
    from train.system_models import export_systems  # PyTorch takes seconds

    places = (arguments.results.parent, arguments.runs, arguments.data, arguments.cache, arguments.export)
    for name, outcome in export_systems(names, *places):
        print(f"{name}: {outcome}", flush=True)
    return 0


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.compare", description=__doc__.splitlines()[0])
    add_queue_arguments(parser, Path("runs/compare"), RUNS)
    parser.add_argument("--only", nargs="+", default=None, metavar="RECIPE", help="default: every published system")
    parser.add_argument(
        "--protocol", default="both", help="image (the paper's), group, both, official, or a protocol's name"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--folds", type=int, nargs="+", help="only these folds of each protocol")
    parser.add_argument("--as-published", action="store_true", help="full length, also without a GPU")
    parser.add_argument("--export", type=Path, metavar="DIR", help="write model folders of trained systems instead")
    arguments = parser.parse_args(argv)
    protocol = PROTOCOL_ALIASES.get(arguments.protocol, arguments.protocol)
    names = arguments.only or systems(protocol == OFFICIAL)
    if arguments.export:
        return _export(names, arguments)
    recipes = [Recipe.load(name) for name in names]
    rows = datasets_at_hand(arguments.data, recipes, protocol, arguments.cache)
    failed = list_or_run(plan(arguments, names, rows), rows, arguments)
    if protocol == OFFICIAL:
        # These import what takes seconds.
        from train.datasets.prepare import official_dataset
        from train.official import official_table

        folder = official_dataset(Path(arguments.data), arguments.cache)
        print(official_table(arguments.results, folder, rows[CNMC2019.name], arguments.cache))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
