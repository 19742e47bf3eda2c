"""Fine-tune one recipe on one split: recipe + dataset + protocol + seed -> run folder.

    python -m train.finetune ours_cnmc2019 --data DIR --weights DIR --out runs/try --protocol group-kfold:3 --fold 0

The run folder holds run.json (all that is needed to repeat the run), log.csv (loss and accuracy by epoch),
checkpoints/ during the run (rerun the command to resume), model.safetensors and predictions.npz: the logits of the
test images at every sigma of the noise grid, and of the validation images at the first. Several GPUs:
`accelerate launch -m train.finetune ...`.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import yaml

from blastlens.dataset_info import CNMC2019, DATASETS
from blastlens.errors import BlastlensError
from blastlens.noise import NOISE_SIGMAS
from train.command import reports_errors
from train.datasets import METADATA, own_dataset
from train.datasets.splits import OFFICIAL
from train.recipe import Recipe, Run

PROTOCOL_ALIASES = {"official": OFFICIAL}


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that `finetune` and `crossval` share."""
    parser.add_argument("recipe", help="name of a file in train/recipes, or a path")
    parser.add_argument(
        "--data",
        default=os.environ.get("BLASTLENS_DATA"),
        help="prepared dataset (or its parent); for --protocol official also the published download",
    )
    parser.add_argument(
        "--weights",
        default=os.environ.get("BLASTLENS_WEIGHTS", "hub"),
        help="first weights: hub, scratch, or a folder with <backbone>.*.safetensors",
    )
    parser.add_argument(
        "--teacher", help="folder of train.crossval or, with --protocol all, model folder: for recipes that distil"
    )
    parser.add_argument(
        "--backbone", help="backbone.safetensors of a run with distill.features, instead of training one"
    )
    parser.add_argument(
        "--protocol", help="how to split, see train.datasets.splits; or official (default: the recipe's)"
    )
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--cache", type=Path, default=Path("runs/cache"), help="where decoded pixels are kept")
    parser.add_argument(
        "--sigmas",
        type=float,
        nargs="+",
        default=NOISE_SIGMAS,
        help="noise at which held-out images are answered, the first being 0 (default: the whole grid)",
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--set",
        nargs="*",
        default=[],
        metavar="KEY=VALUE",
        help="change a recipe, e.g. epochs=3 optimizer.lr=1e-3",
    )


def recipe_from(arguments: argparse.Namespace) -> Recipe:
    """The recipe with the command line's changes, validated again."""
    changes = (change.partition("=") for change in arguments.set)
    return Recipe.load(arguments.recipe).changed({key: yaml.safe_load(value) for key, _, value in changes})


def run_from(arguments: argparse.Namespace, fold: int, seed: int) -> Run:
    recipe = recipe_from(arguments)
    protocol = PROTOCOL_ALIASES.get(arguments.protocol, arguments.protocol or recipe.protocol)
    data = dataset_folder(arguments.data, recipe, protocol, arguments.cache)
    if own := own_dataset(data):
        recipe = recipe.changed({"dataset": own["name"]})
    elif recipe.dataset not in DATASETS:
        raise BlastlensError(f"The recipe's dataset is {recipe.dataset!r}; {data} is not prepared from own images.")
    options = (arguments.weights, arguments.precision, arguments.teacher, arguments.backbone)
    return Run(recipe, str(data), protocol, fold, seed, *options)


def dataset_folder(data: str | None, recipe: Recipe, protocol: str = "", cache: Path = Path("runs/cache")) -> Path:
    """The recipe's prepared dataset: `data` itself, or the folder named after the dataset in it; for the official
    protocol see `official_dataset`."""
    if not data:
        raise BlastlensError("Say where the prepared dataset is, with --data or BLASTLENS_DATA.")
    if protocol == OFFICIAL:
        from train.datasets.prepare import official_dataset  # imports what takes seconds, only here

        if recipe.dataset != CNMC2019.name:
            raise BlastlensError(f"The official protocol is one of C-NMC 2019; {recipe.name} is for {recipe.dataset}.")
        return official_dataset(Path(data), cache)
    inside = Path(data) / recipe.dataset
    return inside if not (Path(data) / METADATA).exists() and (inside / METADATA).exists() else Path(data)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.finetune", description=__doc__.splitlines()[0])
    add_run_arguments(parser)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    run = run_from(arguments, arguments.fold, arguments.seed)
    from train.run import execute  # PyTorch takes seconds: invalid arguments are reported before

    execute(run, arguments.out, arguments.cache, arguments.sigmas)
    return 0


if __name__ == "__main__":
    sys.exit(main())
