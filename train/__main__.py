"""From a recipe and a prepared dataset to a published model, in one command.

    python -m train ours_aria2021 --data data/aria2021 --push-to-hub you/name
    python -m train p0_mobilenetv2 --quick

Cross-validates by group, fits on all images, calibrates, exports, evaluates, renders the card, checks the model folder,
and publishes it in one commit. Rerun the command to resume: finished steps are skipped. Each step is a command of its
own, which is shown. `--quick` does all of it with a few synthetic images, without data or first weights.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from blastlens.errors import BlastlensError
from blastlens.files import only_run, writing
from blastlens.hub import split_name
from blastlens.wording import duration
from train.datasets import METADATA, dataset_hash, hub_images, load_rows, own_dataset
from train.finetune import add_run_arguments, dataset_folder, recipe_from
from train.first_weights import check_weights
from train.recipe import Recipe
from train.steps import QUICK, SIGMAS, Record, Training, describe, prepare_synthetic, preparing, run_all


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 2 for an error, or 130 if interrupted."""
    options, started = _parser().parse_args(argv), time.perf_counter()
    try:
        model = train(options)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; rerun the command to resume.", file=sys.stderr)
        return 130
    print(f"{model}: the model folder with its card, after {duration(time.perf_counter() - started)}")
    print(f"To use it: python -m blastlens classify IMAGE --model {model}")
    return 0


def _parser() -> argparse.ArgumentParser:
    # Options of `train.finetune`; some are replaced.
    parser = argparse.ArgumentParser(
        prog="python -m train", description=__doc__.splitlines()[0], conflict_handler="resolve"
    )
    add_run_arguments(parser)
    parser.add_argument(
        "--data",
        default=parser.get_default("data"),
        help="prepared dataset (or its parent), or a dataset of the Hub as owner/name, which is prepared first",
    )
    parser.add_argument("--out", type=Path, help="folder of the runs and the model (default: runs/RECIPE-DATASET)")
    parser.add_argument(
        "--protocol", help="of the cross-validation (default: the recipe's if by group, or three folds)"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the splits, 0 among them")
    parser.add_argument("--jobs", type=int, default=1, help="folds trained at the same time; they share the cores")
    parser.add_argument("--push-to-hub", metavar="OWNER/NAME", help="publish the model in one commit")
    parser.add_argument("--private", action="store_true", help="only into a private repository")
    parser.add_argument("--quick", action="store_true", help="a few synthetic images, small and short: minutes")
    return parser


def train(options: argparse.Namespace) -> Path:
    """Check everything, then run the steps that are left; returns the model folder.

    Raises:
        BlastlensError: what is wrong, before any training; or the step that failed.
    """
    _check_numbers(options)
    if options.quick:
        options.weights, options.sigmas = "scratch", SIGMAS
        options.protocol, options.jobs = options.protocol or "group-kfold:2", max(2, options.jobs)
        options.set = [*(f"{key}={value}" for key, value in QUICK.items()), *options.set]
    recipe = recipe_from(options)
    if recipe.distill.weight:
        raise BlastlensError(f"{recipe.name} learns from a teacher: run the steps yourself, see docs/training.md.")
    name, data = _data(options, recipe)
    what = {
        "recipe": recipe.name,
        "settings": recipe.digest,
        "data": dataset_hash(load_rows(data)) if data else name,
        "protocol": options.protocol,
        "seeds": options.seeds,
        "weights": options.weights,
        "backbone": options.backbone,
    }
    out = options.out or Path("runs") / f"{recipe.name}-{name.rpartition('/')[2]}"
    record = Record(out, what)
    if options.push_to_hub:
        _check_repository(options.push_to_hub, options.private)
    if not options.backbone:
        check_weights(recipe, options.weights)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with only_run(out / ".lock", f"{out} is being trained by another process; wait until it has finished."):
        record.write()
        if options.quick:
            data = prepare_synthetic(recipe, out)
        elif not data:
            run_all([preparing(name, out)], record)
            data = out / "data"
        training = Training(recipe, out, data, options)
        steps = training.steps(training.measured_speed() if record.unfinished(training.steps()) else None)
        print(describe(training, steps, record), flush=True)
        run_all(steps, record)
    return training.model


def _check_numbers(options: argparse.Namespace) -> None:
    if options.jobs < 1:
        raise BlastlensError(f"--jobs is {options.jobs}; 1 or more is accepted.")
    if 0 not in options.seeds or len(set(options.seeds)) < len(options.seeds):
        raise BlastlensError(f"--seeds is {options.seeds}; different numbers are accepted, 0 among them.")
    if not set(SIGMAS) <= set(options.sigmas) or options.sigmas[0]:
        raise BlastlensError(f"--sigmas is {list(options.sigmas)}; the card needs 0, first, and {SIGMAS[1:]}.")
    if options.teacher:
        raise BlastlensError("--teacher: each fold needs its own; run the steps yourself, see docs/training.md.")
    if options.private and not options.push_to_hub:
        raise BlastlensError("--private is about publishing; give --push-to-hub, too.")


def _data(options: argparse.Namespace, recipe: Recipe) -> tuple[str, Path | None]:
    """The name of the data, and its prepared folder; None where the images have to be fetched or drawn first."""
    if options.quick:
        return "synthetic", None
    if options.data and not Path(options.data).exists() and split_name(options.data):
        hub_images.check(options.data)
        return options.data, None
    data = dataset_folder(options.data, recipe)
    if not (data / METADATA).is_file():
        raise BlastlensError(
            f"{data} is no prepared dataset; `python -m train.datasets prepare` writes one. --quick needs none."
        )
    own = own_dataset(data)
    return (own["name"] if own else recipe.dataset), data


def _check_repository(repo_id: str, private: bool) -> None:
    """Find out whether the model could be published now; nothing is changed."""
    from publish.hub_client import Hub
    from publish.upload import Upload, read_checked

    upload = Upload(repo_id, {}, "", "metrics.json", private=private)
    hub = Hub()
    user = hub.user()
    read_checked(hub, upload)
    print(f"the model will be published at {hub.endpoint}/{repo_id} by {user}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
