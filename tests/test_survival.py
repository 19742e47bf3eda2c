"""A kill at any moment, a full disk and a read-only one lose nothing.

Commands are killed at random (seeded) changes that they make to the file system, or some time after one, several times
in a row. After each kill every file under its final name must load, and the result must be, byte for byte, that of an
uninterrupted run, but for durations (`seconds`) and logs. `--kills 100` kills each command so many times.
"""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from helpers_batch import cells, tiny_model
from helpers_kills import Command, Ended, Launcher, assert_all_load, contents, leftovers, survive
from helpers_machine import lacking
from helpers_published import write_cell, write_training_folds
from helpers_synthetic import TINY, drawn_dataset

pytestmark = [pytest.mark.slow, pytest.mark.long]

RECIPE = TINY | {"epochs": 3, "ema": 0.9}
# Keeps the best of its epochs, so that checkpoints are deleted out of turn, and stops early.
CHOOSY = {
    "name": "choosy",
    "protocol": "image-70-15-15",
    "ema": 0.0,
    "epochs": 12,
    "early_stopping": 3,
    "optimizer": {"name": "adamw", "lr": 0.02},
    "schedule": {"name": "plateau", "patience": 0},
}
SMALL_CHUNKS = "import blastlens.batch_scoring.score as b; b.score.__defaults__ = (*b.score.__defaults__[:-1], 16)"
TIMINGS = ("seconds",)
LOGS = ("output.txt",)


@dataclass(frozen=True)
class Case:
    """A command that works in a folder of its own.

    Attributes:
        furnish: puts into the folder what was there before.
        command: of the folder.
        kills: how often it is killed by default.
        latest: seconds that a kill may come after the change it is counted from.
    """

    furnish: Callable[["Workshop", Path], object]
    command: Callable[["Workshop", Path], Command]
    kills: int
    latest: float = 0.05


class Workshop:
    """What the commands start from, made when it is first asked for, and what they leave when nothing stops them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scratch").mkdir(parents=True)
        self.launcher = Launcher(folder / "scratch")
        self._whole: dict[str, tuple[Ended, dict]] = {}
        for recipe in (RECIPE, RECIPE | CHOOSY):
            (folder / f"{recipe['name']}.yaml").write_text(yaml.safe_dump(recipe))
        self.data = folder / "data/cnmc2019"
        drawn_dataset(self.data, ("ALL", "HEM"), per_group=2, groups_per_label=10, size=32, seed=3)

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """A folder that `make` fills, the first time."""
        if not (self.folder / name).exists():
            make(self.folder / name)
        return self.folder / name

    def do(self, command: Command) -> Ended:
        ended = self.launcher.run(command)
        assert ended.status == 0, ended.err[-3000:]
        return ended

    def whole(self, name: str) -> tuple[Ended, dict]:
        """How a case ends that nothing stops, and what it leaves."""
        if name not in self._whole:
            place = self.folder / "whole" / name
            place.mkdir(parents=True)
            CASES[name].furnish(self, place)
            ended = self.do(CASES[name].command(self, place))
            assert_all_load(place)
            self._whole[name] = ended, contents(place, TIMINGS, LOGS)
        return self._whole[name]

    @property
    def published(self) -> Path:
        return self.once("published", write_training_folds)

    @property
    def published_later(self) -> Path:
        """With one more cell: what is prepared of it replaces what was."""

        def make(folder: Path) -> None:
            shutil.copytree(self.published, folder)
            write_cell(folder / "C-NMC_training_data/fold_1/hem/UID_H9_1_1_hem.bmp", seed=20)

        return self.once("published_later", make)

    @property
    def cross_validated(self) -> Path:
        def make(folder: Path) -> None:
            for fold in (0, 1):
                self.do(finetuning(self, folder, "tiny", folder / f"seed0-fold{fold}", "--fold", fold))
            options = ["--data", self.data, "--weights", "scratch", "--cache", folder / "cache", "--out", folder]
            self.do(command("train.crossval", self.folder / "tiny.yaml", *options, *SIGMAS, root=folder))

        return self.once("cv", make)

    @property
    def model(self) -> Path:
        """Exported, and with the figures of the cross-validation."""

        def make(folder: Path) -> None:
            self.do(exporting(self, folder.parent, folder))
            options = ["--cv", self.cross_validated, "--run", self.cross_validated / "seed0-fold0"]
            self.do(command("train.evaluate", folder, *options, root=folder))

        return self.once("models/model", make)


SIGMAS = ("--sigmas", 0, 20)


def command(module: str, *argv: object, root: Path, setup: str = "") -> Command:
    return Command(module, tuple(map(str, argv)), str(root), setup=setup)


def finetuning(shop: Workshop, root: Path, recipe: str, out: Path, *more: object) -> Command:
    options = ["--data", shop.data, "--weights", "scratch", "--cache", root / "cache", "--out", out]
    return command("train.finetune", shop.folder / f"{recipe}.yaml", *options, *SIGMAS, *more, root=root)


def exporting(shop: Workshop, root: Path, out: Path) -> Command:
    run, options = shop.cross_validated / "seed0-fold0", ["--cv", shop.cross_validated, "--data", shop.data]
    return command("train.export", run, *options, "--cache", root / "cache", "--out", out, root=root)


def nothing(shop: Workshop, place: Path) -> None:
    """There was nothing before."""


def an_earlier_dataset(shop: Workshop, place: Path) -> None:
    shop.do(preparing(shop.published, place))


def preparing(source: Path, place: Path) -> Command:
    argv = ("prepare", "cnmc2019", source, place / "out")
    return command("train.datasets.__main__", *argv, root=place)


def an_earlier_model(shop: Workshop, place: Path) -> None:
    shutil.copytree(shop.model, place / "model")


def an_earlier_table(shop: Workshop, place: Path) -> None:
    pq.write_table(pa.table({"precious": [1, 2, 3]}), place / "results.parquet")


def measuring(shop: Workshop, place: Path) -> Command:
    options = ["--all", "--cv", shop.cross_validated, "--run", shop.cross_validated / "seed0-fold0"]
    options += ["--data", shop.data, "--every", 2, "--cache", place / "cache"]
    return command("train.evaluate", place / "model", *options, root=place)


def comparing(shop: Workshop, place: Path) -> Command:
    options = ["--only", shop.folder / "tiny.yaml", "--data", shop.data.parent, "--weights", "scratch"]
    options += ["--protocol", "image-80-10-10", "--runs", place / "runs", "--results", place / "results"]
    return command("train.compare", *options, "--cache", place / "cache", root=place)


def scoring(shop: Workshop, place: Path) -> Command:
    images, model = shop.once("images", lambda folder: cells(folder, 60)), shop.once("served", tiny_model)
    options = ["--model", model, "--out", place / "results.parquet", "--overwrite", "--workers", 2]
    return command("blastlens.__main__", "score", images, *options, root=place, setup=SMALL_CHUNKS)


CASES = {
    "prepare": Case(an_earlier_dataset, lambda shop, place: preparing(shop.published_later, place), kills=8),
    "finetune": Case(nothing, lambda shop, place: finetuning(shop, place, "tiny", place / "run"), kills=6),
    "finetune choosing": Case(nothing, lambda shop, place: finetuning(shop, place, "choosy", place / "run"), kills=6),
    "export": Case(an_earlier_model, lambda shop, place: exporting(shop, place, place / "model"), kills=6),
    "evaluate": Case(an_earlier_model, measuring, kills=2, latest=0.5),
    "compare": Case(nothing, comparing, kills=2, latest=8.0),
    "score": Case(an_earlier_table, scoring, kills=8),
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Iterator[Workshop]:
    shop = Workshop(tmp_path_factory.mktemp("workshop") / "shop")
    yield shop
    shop.launcher.close()


@pytest.mark.parametrize("name", CASES)
def test_killed_at_random_moments_and_started_again_it_ends_the_same(name, shop, tmp_path, request):
    case, (ended, expected) = CASES[name], shop.whole(name)
    rng = np.random.default_rng([8, *name.encode()])
    wanted = request.config.getoption("--kills") or case.kills
    killed = 0
    for attempt in range(2 * wanted):
        if killed >= wanted:
            break
        place = tmp_path / str(attempt)
        place.mkdir()
        case.furnish(shop, place)
        # Once anywhere; then early, since what is left is less each time.
        last = [ended.changes, *[max(1, ended.changes // 3)] * (min(4, wanted - killed) - 1)]
        moments = [(int(rng.integers(1, n + 1)), float(rng.choice([0, rng.uniform(0, case.latest)]))) for n in last]
        killed += survive(shop.launcher, case.command(shop, place), moments, lambda place=place: assert_all_load(place))
        assert contents(place, TIMINGS, LOGS) == expected, moments
        assert not leftovers(place), moments
        shutil.rmtree(place)
    assert killed >= wanted
    print(f"{name}: {killed} kills in {attempt} attempts")


@contextmanager
def disk(folder: Path) -> Iterator[Callable[[str], None]]:
    """A file system at a folder, and a function that mounts it again with other options."""
    folder.mkdir()

    def mount(options: str) -> subprocess.CompletedProcess:
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True)

    if shutil.which("mount") is None or mount(f"size={1 << 28}").returncode:
        lacking("no file system can be mounted here")

    def again(options: str) -> None:
        assert mount(f"remount,{options}").returncode == 0

    try:
        yield again
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_refused_in_a_sentence(name: str, ended: Ended) -> None:
    assert "Traceback" not in ended.err + ended.out
    told, status = (ended.out, 1) if name == "compare" and ended.status == 1 else (ended.err, 2)
    assert ended.status == status, ended.err[-3000:]
    sentence = r"\S+ cannot be written \([A-Z][^()]+\); what was .* rerun the command\."
    assert len(re.findall(sentence, told)) == 1, told


def assert_nothing_lost(place: Path, before: dict, expected: dict) -> None:
    assert_all_load(place)
    now = contents(place, TIMINGS, LOGS)
    for file, content in before.items():
        assert file in now and now[file] in (content, expected.get(file)), file


@pytest.mark.parametrize("name", CASES)
def test_a_read_only_disk_is_one_sentence_and_changes_nothing(name, shop, tmp_path):
    case, place = CASES[name], tmp_path / "disk"
    with disk(place) as remount:
        case.furnish(shop, place)
        before = contents(place)
        remount("ro")
        ended = shop.launcher.run(case.command(shop, place))
        assert_refused_in_a_sentence(name, ended)
        assert ended.status == 2 and contents(place) == before


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("evaluate", "compare")])
def test_files_that_may_not_grow_are_refused_in_a_sentence_too(name, shop, tmp_path):
    """A limit on the size of files stands for a full disk."""
    case = CASES[name]
    case.furnish(shop, tmp_path)
    before = contents(tmp_path)
    ended = shop.launcher.run(replace(case.command(shop, tmp_path), file_limit=700))
    assert_refused_in_a_sentence(name, ended)
    assert_nothing_lost(tmp_path, before, {})
