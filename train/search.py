"""Search for a single-cell model: candidates x folds x split seeds -> one record per run -> one table.

    python -m train.search --data DIR --jobs 2            run what is missing, then write the table
    python -m train.search --data DIR --list              what is done and missing, with an estimate
    python -m train.search --data ""                      the table of what is recorded
    python -m train.search --data DIR --stage 2 --only cells-1 last-blocks

`search.yaml` lists the candidates. Those without a network run on every split seed and on the new donors, which takes
minutes. Networks run on the first split seed (stage 1) or on all of them and the new donors (stage 2), in the queue of
`train.compare`: rerun the command to resume, and a run that fails stops no other. The table can be written at any time;
it says how many runs each line rests on.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError
from sklearn.ensemble import HistGradientBoostingClassifier

from blastlens.donor_metrics import difference, donor_weights
from blastlens.errors import BlastlensError
from blastlens.files import make_once
from train.cell_features import FEATURE_SETS, Floats, LogisticModel, columns, dataset_features
from train.compare import Job, add_queue_arguments, list_or_run, recorded_run
from train.datasets import Row, dataset_hash, labels_of, load_rows
from train.datasets.splits import Split, make_splits
from train.finetune import dataset_folder, view_of
from train.held_out import Recorded, plain
from train.networks import create_network, find_weights, normalise
from train.pixels import load_pixels
from train.recipe import Recipe
from train.report.templates import filled
from train.results import Result, load_results

CONFIG = Path(__file__).with_suffix(".yaml")
RESULTS = Path(__file__).parents[1] / "results"
RECORDS = RESULTS / "search"
SIGMAS = (0.0, 10.0, 20.0, 50.0)


@dataclass(frozen=True)
class SearchCandidate:
    """One line of search.yaml; exactly one kind of candidate is described by its fields.

    Attributes:
        features: a set of `train.cell_features`, for a model without a network or beside a frozen one.
        model: what is fitted to numbers: "logistic" with inverse regularization `c`, or "boosting".
        backbone: a timm network whose pooled ImageNet features are used as they are.
        recipe, changes: a network that is trained.
        average: other candidates whose probabilities are averaged.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    features: str | None = None
    model: str = "logistic"
    c: float = 1.0
    backbone: str | None = None
    recipe: str | None = None
    changes: dict[str, Any] | None = None
    average: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the outcome, for the record."""
        return {k: v for k, v in vars(self).items() if v != getattr(SearchCandidate, k)}


@dataclass(frozen=True)
class SearchPlan:
    """search.yaml, validated."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    protocol: str
    seeds: tuple[int, ...]
    new_donors: tuple[str, ...]
    baselines: tuple[str, ...]
    network: dict[str, Any]
    candidates: dict[str, SearchCandidate]
    full_size: tuple[str, ...] = ()  # candidates that keep the size and length of their recipe

    @classmethod
    def load(cls, path: Path = CONFIG) -> "SearchPlan":
        """Raises BlastlensError naming what is wrong with the file."""
        try:
            return TypeAdapter(cls).validate_python(yaml.safe_load(path.read_text()))
        except (ValidationError, yaml.YAMLError) as error:
            raise BlastlensError(f"{path.name} is not a valid search: {error}") from None

    @property
    def left_out(self) -> str:
        """The protocol whose one test part is the new donors."""
        return "group-leave-out:" + ",".join(self.new_donors)

    def jobs(self, names: Sequence[str], stage: int) -> list[Job]:
        """The runs of candidates that train a network."""
        found = []
        for name in names:
            candidate = self.candidates[name]
            if not candidate.recipe:
                continue
            changes = ({} if name in self.full_size else self.network) | (candidate.changes or {})
            recipe = replace(Recipe.load(candidate.recipe).changed(changes), name=name)
            folds = int(self.protocol.partition(":")[2])
            seeds = self.seeds if stage == 2 else self.seeds[:1]
            runs = [(self.protocol, fold, folds, seed) for seed in seeds for fold in range(folds)]
            runs += [(self.left_out, 0, 1, self.seeds[0])] if stage == 2 else []
            found += [Job(recipe, changes, recipe.digest, *run, "imagenet") for run in runs]
        return found


@dataclass(frozen=True, eq=False)
class Cells:
    """The prepared dataset, and the numbers that models without a trained network are fitted to."""

    folder: Path
    rows: Sequence[Row]
    weights: str
    cache: Path

    @cached_property
    def hash(self) -> str:
        return dataset_hash(self.rows)

    @cached_property
    def labels(self) -> np.ndarray:
        return labels_of(self.rows)[1]

    @cached_property
    def groups(self) -> np.ndarray:
        return np.array([row.group for row in self.rows])

    def numbers(self, candidate: SearchCandidate) -> Floats:
        """(N, F) of every image."""
        parts = []
        if candidate.features:
            if candidate.features not in FEATURE_SETS:
                raise BlastlensError(f"There are no features {candidate.features!r}; {', '.join(FEATURE_SETS)} are.")
            parts.append(dataset_features(self.folder, self.rows, self.cache)[:, columns(candidate.features)])
        if candidate.backbone:
            parts.append(self._pooled(candidate.backbone))
        return np.concatenate(parts, axis=1)

    def _pooled(self, backbone: str) -> Floats:
        """Pooled features of a network as ImageNet left it, (N, F)."""
        file = find_weights(self.weights, backbone)
        path = self.cache / f"pooled-{file.stem}-{self.hash[:16]}.npy"

        @torch.inference_mode()
        def compute(part: Path) -> None:
            recipe = Recipe("", "", "cnmc2019", backbone, "all")
            pixels = load_pixels(self.folder, self.rows, view_of(recipe), self.cache)
            network = create_network(recipe, 2, str(file)).eval().to(memory_format=torch.channels_last)
            found = []
            for start in range(0, len(pixels), 32):
                images = torch.from_numpy(np.ascontiguousarray(pixels[start : start + 32])).permute(0, 3, 1, 2)
                maps = network.forward_features(normalise(recipe, images))
                found.append(network.forward_head(maps, pre_logits=True).flatten(1).numpy())
            with part.open("wb") as opened:
                np.save(opened, np.concatenate(found).astype(np.float64))

        make_once(path, compute)
        return np.load(path)


def fit_and_test(candidate: SearchCandidate, numbers: Floats, cells: Cells, split: Split) -> Floats:
    """Probabilities (N, 2) of a split's test images by a model of numbers, fitted on its training images."""
    train, test = list(split.train), list(split.test)
    labels, groups = cells.labels[train], cells.groups[train]
    if candidate.model == "logistic":
        return LogisticModel.fit(numbers[train], labels, groups, candidate.c).probabilities(numbers[test])
    boosting = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
    weights = donor_weights(labels, groups) * len(train)
    return boosting.fit(numbers[train], labels, sample_weight=weights).predict_proba(numbers[test])


def run_numbers(search: SearchPlan, names: Sequence[str], cells: Cells, results: Path) -> None:
    """Run and record candidates that train no network, on every split."""
    splits = [split for seed in search.seeds for split in make_splits(search.protocol, cells.rows, seed)]
    splits += make_splits(search.left_out, cells.rows, search.seeds[0])
    for name in names:
        candidate = search.candidates[name]
        if candidate.recipe or candidate.average:
            continue
        digest = sha256(json.dumps(candidate.settings, sort_keys=True).encode()).hexdigest()[:8]
        todo = [split for split in splits if not _recorded(name, digest, split, cells, results)]
        if not todo:
            continue
        try:
            numbers = cells.numbers(candidate)
        except BlastlensError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        for split in todo:
            started = time.time()
            found = fit_and_test(candidate, numbers, cells, split)
            _result(name, candidate, digest, split, found, cells, numbers.shape[1], time.time() - started).write(
                results
            )
        print(f"{name}: {len(todo)} runs recorded", flush=True)


def _recorded(name: str, digest: str, split: Split, cells: Cells, results: Path) -> bool:
    path = results / name / split.protocol.replace(":", "-") / f"none-seed{split.seed}-fold{split.fold}.json"
    if not path.exists():
        return False
    found = Result.read(path)
    return found.recipe_digest == digest and found.dataset["hash"] == cells.hash


def _result(
    name: str,
    candidate: SearchCandidate,
    digest: str,
    split: Split,
    probabilities: Floats,
    cells: Cells,
    parameters: int,
    seconds: float,
) -> Result:
    test = np.asarray(split.test)
    names, group = np.unique(cells.groups[test], return_inverse=True)
    parts = {part: getattr(split, part) for part in ("train", "val", "test")}
    return Result(
        system=name,
        paper=None,
        recipe_digest=digest,
        changes=candidate.settings,
        protocol=split.protocol,
        fold=split.fold,
        folds=1 if split.protocol.startswith("group-leave-out") else int(split.protocol.partition(":")[2]),
        seed=split.seed,
        initial_weights="none",
        backbone=candidate.backbone or "none",
        image_size=224,
        precision="fp32",
        device="CPU",
        dataset={"name": "cnmc2019", "hash": cells.hash, "images": len(cells.rows)},
        images={part: len(members) for part, members in parts.items()},
        groups={part: len(set(cells.groups[list(members)])) for part, members in parts.items()},
        label_names=labels_of(cells.rows)[0],
        parameters=parameters + 1,
        multiply_adds=0,
        epochs=0,
        seconds=round(seconds, 2),
        versions={},
        sigmas=(0.0,),
        index=test,
        label=cells.labels[test],
        group_names=tuple(map(str, names)),
        group=group,
        probabilities=probabilities[None],
    )


def averaged(members: Sequence[Recorded]) -> Recorded:
    """The mean of calibrated probabilities, on the runs and noise levels that all members have."""
    keys = set.intersection(*(m.keys for m in members))
    parts = [m.part(keys) for m in members]
    order = [np.lexsort((p.index, p.fold, p.repeat)) for p in parts]
    sigmas = tuple(s for s in parts[0].sigmas if all(s in p.sigmas for p in parts))
    score = np.mean(
        [[p.score[p.sigmas.index(s)][o] for s in sigmas] for p, o in zip(parts, order, strict=True)], axis=0
    )
    first = (getattr(parts[0], n)[order[0]] for n in ("repeat", "fold", "index", "group", "sick"))
    return Recorded(sigmas, *first, score)


def recorded(search: SearchPlan, protocol: str, results: Sequence[Result]) -> dict[str, Recorded]:
    """Every candidate that has runs under a protocol, averages included."""
    found = {}
    for name, candidate in search.candidates.items():
        mine = [r for r in results if r.system == name and r.protocol == protocol]
        if mine:
            found[name] = Recorded.of(mine)
        elif candidate.average and set(candidate.average) <= set(found):
            members = [found[member] for member in candidate.average]
            if set.intersection(*(m.keys for m in members)):
                found[name] = averaged(members)
    return found


def figures(search: SearchPlan, results: Sequence[Result]) -> dict[str, Any]:
    """results/search.json: what was measured of every candidate, the best by AUROC per donor first.

    Returns:
        `protocol`, `seeds`, `runs` (of a complete candidate), `new_donors`, `healthy_donors`, `subjects`, and
        `candidates`: by name `runs`, the metrics of `DonorScores.summary`, `auroc_by_sigma` (per donor, under noise),
        `difference` (of the AUROC per donor to each baseline, paired on the same runs) and, where it was run, `new`
        (the metrics on the new donors).
    """
    found = recorded(search, search.protocol, results)
    new = recorded(search, search.left_out, results)
    candidates = {}
    for name, one in found.items():
        differences = {}
        for baseline in search.baselines:
            keys = one.keys & found[baseline].keys if baseline in found and baseline != name else set()
            if keys:
                differences[baseline] = difference(one.part(keys).donors(), found[baseline].part(keys).donors())
        candidates[name] = {
            "runs": len(one.keys),
            **_summary(one),
            "auroc_by_sigma": {f"{s:g}": one.donors(s).replicates(0)["auroc_per_donor"][0] for s in one.sigmas},
            "difference": differences,
            **({"new": _summary(new[name])} if name in new else {}),
        }
    ordered = sorted(candidates.items(), key=lambda item: -item[1]["auroc_per_donor"].value)
    return plain(
        {
            "protocol": search.protocol,
            "seeds": list(search.seeds),
            "runs": len(search.seeds) * int(search.protocol.partition(":")[2]),
            "new_donors": list(search.new_donors),
            "healthy_donors": max((one["healthy_donors"] for one in candidates.values()), default=0),
            "subjects": max((one["subjects"] for one in candidates.values()), default=0),
            "candidates": dict(ordered),
        }
    )


def _summary(runs: Recorded) -> dict[str, Any]:
    """Scores by donor of all donors together."""
    return {key: value for key, value in runs.donors().summary().items() if key != "donors"}


def render(results: Path = RECORDS, config: Path = CONFIG) -> dict[str, str]:
    """search.json and SEARCH.md, by name."""
    search = SearchPlan.load(config)
    record = figures(search, load_results(results))
    missing = [name for name in search.candidates if name not in record["candidates"]]
    page = filled("SEARCH", search=search, record=record, missing=missing, sigmas=[f"{s:g}" for s in SIGMAS[1:]])
    return {"search.json": json.dumps(record, indent=1) + "\n", "SEARCH.md": page}


def keep(search: SearchPlan, name: str, cv: Path, data: str, results: Path) -> int:
    """Record the finished run folders in `cv` as runs of a candidate; returns how many there were.

    For runs that were made elsewhere, such as those of a recipe at its full size. The candidate's settings must be
    theirs.

    Raises:
        BlastlensError: no such runs, or one of another recipe.
    """
    (job, *_) = search.jobs([name], 1)
    folder = dataset_folder(data, job.recipe)
    rows = load_rows(folder)
    runs = sorted(path.parent for path in cv.glob("**/run.json"))
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        if Recipe.from_dict(record["recipe"]).digest != job.recipe.digest:
            raise BlastlensError(f"{run} was made with another recipe than the candidate {name}.")
        folds = len(make_splits(record["protocol"], rows, record["seed"]))
        replace(recorded_run(run, folder, folds, job.changes), system=name).write(results)
    if not runs:
        raise BlastlensError(f"{cv} has no finished runs.")
    return len(runs)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.search", description=__doc__.splitlines()[0])
    add_queue_arguments(parser, Path("runs/search"), RECORDS)
    parser.add_argument("--only", nargs="+", metavar="CANDIDATE", help="default: every candidate")
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="networks: 1 first seed, 2 all seeds")
    parser.add_argument("--keep", nargs=2, metavar=("CANDIDATE", "FOLDER"), help="record runs of train.crossval")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the candidates")
    arguments = parser.parse_args(argv)
    try:
        return _search(arguments)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2


def _search(arguments: argparse.Namespace) -> int:
    search = SearchPlan.load(arguments.config)
    names = arguments.only or list(search.candidates)
    if unknown := set(names) - set(search.candidates):
        raise BlastlensError(f"There is no candidate {', '.join(sorted(unknown))}; {', '.join(search.candidates)} are.")
    failed = 0
    if arguments.keep:
        name, cv = arguments.keep
        print(f"{keep(search, name, Path(cv), arguments.data, arguments.results)} runs of {name} recorded")
    elif arguments.data:
        folder = dataset_folder(arguments.data, Recipe.load("ours_cnmc2019"))
        cells = Cells(folder, load_rows(folder), arguments.weights, arguments.cache)
        if not arguments.list:
            run_numbers(search, names, cells, arguments.results)
        jobs = search.jobs(names, arguments.stage)
        failed = list_or_run(jobs, {"cnmc2019": list(cells.rows)}, arguments, SIGMAS)
        if arguments.list:
            return 0
    files = render(arguments.results, arguments.config)
    if arguments.results == RECORDS:
        for name, text in files.items():
            (RESULTS / name).write_text(text)
    print(files["SEARCH.md"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
