"""Search for a single-cell model: candidates x folds x split seeds -> one record per run -> one table.

    python -m train.search --data DIR --jobs 2            run what is missing, then write the table
    python -m train.search --data DIR --list              what is done and missing
    python -m train.search --data ""                      the table of what is recorded
    python -m train.search --data DIR --stage 2 --only cells-1 last-blocks

`search.yaml` lists the candidates. Those without a network run on every split seed and on the new donors, which takes
minutes. Networks run on the first split seed (stage 1) or on all of them and the new donors (stage 2); `train.jobs`
runs and resumes them. The table can be written at any time; it says how many runs each line rests on.
"""

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import TypeAdapter, ValidationError

from blastlens.donor_metrics import DonorScores, difference, donor_weights
from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from train.cell_features import Floats, LogisticModel, columns, dataset_features
from train.command import reports_errors
from train.datasets import Row, dataset_hash, labels_of, load_rows
from train.datasets.splits import Split, make_splits
from train.finetune import dataset_folder
from train.first_weights import find_weights, with_statistics
from train.held_out import POSITIVE, Recorded, plain
from train.jobs import Job, add_queue_arguments, list_or_run
from train.pixels import load_pixels
from train.recipe import Recipe, strict_dataclass, view_of
from train.report.templates import filled
from train.results import Result, load_results, result_name

CONFIG = Path(__file__).with_suffix(".yaml")
RESULTS = Path(__file__).parents[1] / "results"
RECORDS = RESULTS / "search"
SIGMAS = (0.0, 10.0, 20.0, 50.0)
SENSITIVITY = 0.85  # per ALL subject, at which specificities are compared


@strict_dataclass
class SearchCandidate:
    """One line of search.yaml; exactly one kind of candidate is described by its fields.

    Attributes:
        features: a set of `train.cell_features`, for a model without a network or beside a frozen one.
        model: what is fitted to numbers: "logistic" with inverse regularization `c`, or "boosting".
        backbone: a timm network whose pooled ImageNet features are used as they are.
        recipe, changes: a network that is trained.
        average: other candidates whose probabilities are averaged.
    """

    features: Literal["area", "five", "nineteen", "all"] | None = None
    model: Literal["logistic", "boosting"] = "logistic"
    c: float = 1.0
    backbone: str | None = None
    recipe: str | None = None
    changes: dict[str, Any] | None = None
    average: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the outcome, for the record."""
        return {k: v for k, v in vars(self).items() if v != getattr(SearchCandidate, k)}

    @property
    def digest(self) -> str:
        return sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]


@strict_dataclass
class SearchPlan:
    """search.yaml, validated."""

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
    def folds(self) -> int:
        return int(self.protocol.partition(":")[2])

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
            seeds = self.seeds if stage == 2 else self.seeds[:1]
            runs = [(self.protocol, fold, self.folds, seed) for seed in seeds for fold in range(self.folds)]
            runs += [(self.left_out, 0, 1, self.seeds[0])] if stage == 2 else []
            found += [Job(recipe, changes, recipe.digest, *run, "imagenet") for run in runs]
        return found

    def splits(self, rows: Sequence[Row]) -> list[Split]:
        """Every split of the protocol, then the new donors."""
        found = [split for seed in self.seeds for split in make_splits(self.protocol, rows, seed)]
        return found + make_splits(self.left_out, rows, self.seeds[0])


class Cells:
    """The prepared dataset, and the numbers that models without a trained network are fitted to."""

    def __init__(self, folder: Path, weights: str, cache: Path):
        self.folder, self.weights, self.cache = folder, weights, cache
        self.rows = load_rows(folder)
        self.hash = dataset_hash(self.rows)
        self.label_names, self.labels = labels_of(self.rows)
        self.groups = np.array([row.group for row in self.rows])

    def numbers(self, candidate: SearchCandidate) -> Floats:
        """(N, F) of every image."""
        parts = []
        if candidate.features:
            parts.append(dataset_features(self.folder, self.rows, self.cache)[:, columns(candidate.features)])
        if candidate.backbone:
            parts.append(self._pooled(candidate.backbone))
        return np.concatenate(parts, axis=1)

    def _pooled(self, backbone: str) -> Floats:
        """Pooled features of a network as ImageNet left it, (N, F)."""
        from train.feature_network import pooled_features  # PyTorch takes seconds
        from train.networks import create_network

        recipe = with_statistics(Recipe("", "", "cnmc2019", backbone, "all"), self.weights)
        network = create_network(recipe, 2, str(find_weights(self.weights, backbone)))
        pixels = load_pixels(self.folder, self.rows, view_of(recipe), self.cache)
        return pooled_features(network, recipe, pixels, 0, self.cache)


def run_numbers(search: SearchPlan, names: Sequence[str], cells: Cells, results: Path) -> None:
    """Run and record candidates that train no network, on every split."""
    splits = search.splits(cells.rows)
    for name in names:
        candidate = search.candidates[name]
        if candidate.recipe or candidate.average:
            continue
        todo = [split for split in splits if not _is_recorded(name, candidate, split, cells, results)]
        try:
            numbers = cells.numbers(candidate) if todo else np.empty(0)
        except BlastlensError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        for split in todo:
            fit_and_test(name, candidate, numbers, cells, split, search.folds).write(results)
        print(f"{name}: {len(todo)} runs recorded", flush=True)


def _is_recorded(name: str, candidate: SearchCandidate, split: Split, cells: Cells, results: Path) -> bool:
    path = results / result_name(name, split.protocol, "none", split.seed, split.fold)
    if not path.exists():
        return False
    found = Result.read(path)
    return found.recipe_digest == candidate.digest and found.dataset["hash"] == cells.hash


def fit_and_test(
    name: str, candidate: SearchCandidate, numbers: Floats, cells: Cells, split: Split, folds: int
) -> Result:
    """The record of a model of numbers (N, F), fitted on a split's training images, on its test images."""
    started = time.time()
    train, test = np.asarray(split.train), np.asarray(split.test)
    labels, groups = cells.labels[train], cells.groups[train]
    if candidate.model == "logistic":
        model = LogisticModel.fit(numbers[train], labels, groups, candidate.c)
        probabilities = model.probabilities(numbers[test])
    else:
        from sklearn.ensemble import HistGradientBoostingClassifier  # takes seconds

        boosting = HistGradientBoostingClassifier(max_iter=150, learning_rate=0.05, max_leaf_nodes=8, random_state=0)
        boosting.fit(numbers[train], labels, sample_weight=donor_weights(labels, groups) * len(train))
        probabilities = boosting.predict_proba(numbers[test])
    group_names, group = np.unique(cells.groups[test], return_inverse=True)
    parts = {"train": split.train, "val": split.val, "test": split.test}
    return Result(
        system=name,
        recipe_digest=candidate.digest,
        changes=candidate.settings,
        protocol=split.protocol,
        fold=split.fold,
        folds=1 if split.protocol.startswith("group-leave-out") else folds,
        seed=split.seed,
        backbone=candidate.backbone or "none",
        dataset={"name": "cnmc2019", "hash": cells.hash, "images": len(cells.rows)},
        images={part: len(members) for part, members in parts.items()},
        groups={part: len(set(cells.groups[list(members)])) for part, members in parts.items()},
        label_names=cells.label_names,
        parameters=numbers.shape[1] + 1,
        seconds=round(time.time() - started, 2),
        sigmas=(0.0,),
        index=test,
        label=cells.labels[test],
        group_names=tuple(map(str, group_names)),
        group=group,
        probabilities=probabilities[None],
    )


def averaged(members: Sequence[Recorded]) -> Recorded:
    """The mean of calibrated probabilities, on the runs and noise levels that all members have."""
    keys = set.intersection(*(member.keys for member in members))
    sigmas = [s for s in members[0].sigmas if all(s in member.sigmas for member in members)]
    parts = [member.part(keys).at(sigmas) for member in members]
    return replace(parts[0], score=np.mean([part.score for part in parts], axis=0))


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


def nested(search: SearchPlan, found: Mapping[str, Recorded]) -> dict[str, Any] | None:
    """Scores of the selection itself: every fold is predicted by the candidate that is best on the other folds.

    Best by AUROC per donor, among the candidates that have all folds of the split seed. The donors of the fold have no
    part in the choice; they are in the training sets of the models that it compares. None without a complete seed.

    Returns:
        `chosen`, how often each candidate was; `runs`; and the metrics of `DonorScores.summary`.
    """
    parts, chosen = [], Counter[str]()
    for seed in search.seeds:
        whole = {(seed, fold) for fold in range(search.folds)}
        complete = {name: one.part(whole) for name, one in found.items() if whole <= one.keys}
        for key in sorted(whole) if complete else ():
            best = max(complete, key=lambda name: complete[name].part(whole - {key}).auroc_per_donor(0.0))
            chosen[best] += 1
            parts.append(complete[best].part({key}).at([0.0]))
    if not parts:
        return None
    return {"chosen": dict(chosen.most_common()), "runs": len(parts), **Recorded.joined(parts).summary()}


def same_donors(search: SearchPlan, one: Recorded) -> dict[str, Any]:
    """AUROC per new healthy donor in cross-validation, where other new donors may be in the training set.

    Returns:
        `new_pairs`: against the new ALL subjects, as when they are left out as a whole; `new_against_all`: against
        every ALL subject. Both compare calibrated probabilities of several folds.
    """
    of, score = one.images, one.score[one.sigmas.index(0.0)]
    is_new, sick = np.isin(of.group, search.new_donors), of.label == POSITIVE

    def auroc(chosen: np.ndarray) -> Interval:
        donors = DonorScores.of(sick[chosen], score[chosen], of.group[chosen], repeats=of.repeat[chosen])
        return donors.summary()["auroc_per_donor"]

    if not (is_new & sick).any() or not (is_new & ~sick).any():
        return {}
    return {"new_pairs": auroc(is_new), "new_against_all": auroc(is_new | sick)}


def figures(search: SearchPlan, results: Sequence[Result]) -> dict[str, Any]:
    """results/search.json: what was measured of every candidate, the best by AUROC per donor first; and `nested`.

    By candidate: `runs`, the metrics of `DonorScores.summary`, `at_sensitivity` (those of `Recorded.at_sensitivity`),
    `auroc_by_sigma` (per donor, under noise), `difference` (of the AUROC per donor to each baseline, paired on the same
    runs) and, where it was run, `new` (the metrics on the new donors) and what `same_donors` returns.
    """
    found, new = recorded(search, search.protocol, results), recorded(search, search.left_out, results)
    candidates = {}
    for name, one in found.items():
        shared = {b: one.keys & found[b].keys for b in search.baselines if b in found and b != name}
        candidates[name] = {
            "runs": len(one.keys),
            **one.summary(),
            "at_sensitivity": one.at_sensitivity(SENSITIVITY),
            "auroc_by_sigma": {f"{s:g}": one.auroc_per_donor(s) for s in one.sigmas},
            "difference": {
                b: difference(one.part(keys).donors(), found[b].part(keys).donors())
                for b, keys in shared.items()
                if keys
            },
            **({"new": new[name].summary(), **same_donors(search, one)} if name in new else {}),
        }
    ordered = sorted(candidates.items(), key=lambda item: -item[1]["auroc_per_donor"].value)
    most = {n: max((one[n] for one in candidates.values()), default=0) for n in ("healthy_donors", "subjects")}
    return plain(
        {
            "protocol": search.protocol,
            "seeds": list(search.seeds),
            "runs": len(search.seeds) * search.folds,
            "new_donors": list(search.new_donors),
            "sensitivity": SENSITIVITY,
            **most,
            "nested": nested(search, found),
            "candidates": dict(ordered),
        }
    )


def render(results: Path = RECORDS, config: Path = CONFIG) -> dict[str, str]:
    """search.json and SEARCH.md, by name."""
    search = SearchPlan.load(config)
    record = figures(search, load_results(results))
    missing = [name for name in search.candidates if name not in record["candidates"]]
    page = filled("SEARCH", search=search, record=record, missing=missing, sigmas=[f"{s:g}" for s in SIGMAS[1:]])
    return {"search.json": json.dumps(record, indent=1) + "\n", "SEARCH.md": page}


def keep(search: SearchPlan, name: str, cv: Path, data: str, results: Path) -> int:
    """Record the finished run folders in `cv`, made elsewhere with the candidate's settings; returns their number.

    Raises:
        BlastlensError: no such runs, or one of another recipe.
    """
    (job, *_) = search.jobs([name], 1)
    folder = dataset_folder(data, job.recipe)
    runs = sorted(path.parent for path in cv.glob("**/run.json"))
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        if Recipe.from_dict(record["recipe"]).digest != job.recipe.digest:
            raise BlastlensError(f"{run} was made with another recipe than the candidate {name}.")
        folds = search.folds if record["protocol"] == search.protocol else 1
        replace(Result.of_run(run, folder, folds, job.changes), system=name).write(results)
    if not runs:
        raise BlastlensError(f"{cv} has no finished runs.")
    return len(runs)


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="train.search", description=__doc__.splitlines()[0])
    add_queue_arguments(parser, Path("runs/search"), RECORDS)
    parser.add_argument("--only", nargs="+", metavar="CANDIDATE", help="default: every candidate")
    parser.add_argument("--stage", type=int, choices=(1, 2), default=1, help="networks: 1 first seed, 2 all seeds")
    parser.add_argument("--keep", nargs=2, metavar=("CANDIDATE", "FOLDER"), help="record runs of train.crossval")
    parser.add_argument("--config", type=Path, default=CONFIG, help="the candidates")
    arguments = parser.parse_args(argv)
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
        cells = Cells(folder, arguments.weights, arguments.cache)
        if not arguments.list:
            run_numbers(search, names, cells, arguments.results)
        jobs = search.jobs(names, arguments.stage)
        failed = list_or_run(jobs, {"cnmc2019": cells.rows}, arguments, SIGMAS)
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
