"""Published systems and the job queue: what is planned, and that finished runs are kept and failures stop no other."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from filelock import FileLock
from helpers_results import made_up_result
from helpers_synthetic import TINY, drawn_dataset
from safetensors.torch import save_file

from train import compare, jobs
from train.datasets import labels_of, load_rows
from train.datasets.splits import make_splits, with_validation
from train.jobs import Job
from train.recipe import Recipe
from train.results import load_results

RECIPE = TINY | {"protocol": "image-80-10-10"}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    parent = tmp_path_factory.mktemp("data")
    drawn_dataset(parent / "cnmc2019", ("ALL", "HEM"), per_group=5, groups_per_label=4, size=64, seed=3)
    return parent


def recipe_file(folder: Path, **changes) -> str:
    recipe = RECIPE | changes
    path = folder / f"{recipe['name']}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return str(path)


def arguments(data: Path, place: Path, *recipes: str, protocol: str = "image") -> list[str]:
    options = ["--only", *recipes, "--data", str(data), "--weights", "scratch", "--protocol", protocol]
    return [*options, "--runs", str(place / "runs"), "--results", str(place / "results"), "--cache", str(place)]


@pytest.fixture(scope="module")
def compared(data, tmp_path_factory) -> tuple[Path, list[str]]:
    """A good recipe and one that cannot be built, compared once."""
    place = tmp_path_factory.mktemp("compare")
    words = arguments(data, place, recipe_file(place, name="broken", backbone="no_such_net"), recipe_file(place))
    assert compare.main(words) == 1
    return place, words


def test_a_run_is_recorded_with_what_it_was(compared):
    (result,) = load_results(compared[0] / "results")
    assert (result.system, result.protocol, result.fold, result.folds) == ("tiny", "image-80-10-10", 0, 1)
    assert result.initialisation == "scratch" and result.changes == {}
    assert result.images["test"] == len(result.index) == len(result.label) and result.epochs == 2
    assert result.recipe_digest == Recipe.from_dict(RECIPE).digest
    assert result.steps == result.planned_steps == 2 * -(-result.images["train"] // 8) and result.mean == (0.5,) * 3
    assert result.parameters > 100_000 and result.multiply_adds > 100_000 and result.seconds > 0
    assert str(compared[0]) not in json.dumps(result.versions | result.dataset)


def test_a_run_that_fails_leaves_its_reason_and_stops_nothing(compared, capsys):
    assert compare.main([*compared[1], "--list"]) == 0
    listed = capsys.readouterr().out
    assert "no_such_net" in listed and "1 failed" in listed and "1 done" in listed
    assert jobs.reason_of(1, "Traceback\n\r 10%\r 20%\nValueError: no such thing\n\n") == "ValueError: no such thing"
    assert jobs.reason_of(-9, "") == "killed by signal 9 (out of memory?)"


def test_finished_runs_are_kept(compared, data):
    place = compared[0]
    path = next((place / "results").rglob("*.json"))
    before = path.stat().st_mtime_ns
    assert compare.main(arguments(data, place, recipe_file(place))) == 0
    assert path.stat().st_mtime_ns == before


def test_the_list_shows_every_published_system(data, capsys):
    words = ["--list", "--data", str(data), "--weights", "scratch", "--runs", "none", "--results", "none"]
    assert compare.main(words) == 0
    listed, left_out = capsys.readouterr()
    assert "aria2021" in left_out  # there is no such data set here, and that is said
    for name in compare.systems():
        if Recipe.load(name).dataset == "cnmc2019":
            assert listed.count(f"\n{name} ") == 2, name


def planned(data: Path, *words: str) -> list[Job]:
    """The jobs of a command line."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare, "list_or_run", lambda jobs, *_: found.extend(jobs))
        assert compare.main(["--data", str(data), *words]) == 0
    return found


def test_a_system_without_first_weights_in_the_folder_starts_from_random_ones_and_freezes_nothing(data, tmp_path):
    save_file({"x": torch.zeros(1)}, tmp_path / "mobilenetv1_100.in1k.safetensors")
    frozen = recipe_file(tmp_path, name="frozen", backbone="resnet50", frozen=["layer1"], frozen_norms=True)
    words = ["--weights", str(tmp_path), "--only", "mobilenet_m", "p2_resnet50", "alnett", frozen]
    found = {job.recipe.name: job for job in planned(data, *words)}
    starts = {name: job.initialisation for name, job in found.items()}
    assert starts == {"mobilenet_m": "imagenet", "p2_resnet50": "scratch", "alnett": "scratch", "frozen": "scratch"}
    assert found["frozen"].recipe.frozen == () and found["frozen"].changes["frozen"] == []


@pytest.mark.parametrize("extra", [[], ["--as-published"]])
def test_both_protocols_train_for_the_same_number_of_steps(data, extra, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = [name for name in compare.systems() if Recipe.load(name).dataset == "cnmc2019"]
    rows = load_rows(data / "cnmc2019")
    labels = labels_of(rows)[1]
    found: dict[str, set[tuple[int, str]]] = {}
    for job in planned(data, "--weights", "hub", "--only", *names, *extra):
        if job.fold == 0:
            split = with_validation(make_splits(job.protocol, rows, 0)[0], rows, job.recipe.validation)
            images = job.recipe.images_per_epoch(labels[list(split.train)])
            steps = job.recipe.epochs * job.recipe.steps_per_epoch(images)
            found.setdefault(job.recipe.name, set()).add((steps, str(job.recipe.schedule)))
    assert len(found) == len(names) and all(len(both) == 1 for both in found.values()), found


def job(changes: dict | None = None) -> Job:
    recipe = Recipe.from_dict(RECIPE)
    changed = recipe.changed(changes or {})
    return Job(changed, changes or {}, recipe.digest, "group-kfold:3", 1, 3, 0, "scratch")


def test_a_shortened_job_is_done_by_the_run_as_published_but_not_the_other_way_round():
    whole = made_up_result(recipe_digest=job().recipe.digest)
    short = made_up_result(recipe_digest=job({"epochs": 1}).recipe.digest)
    data = whole.dataset["hash"]
    assert job({"epochs": 1}).done_by(whole, data) and job({"epochs": 1}).done_by(short, data)
    assert job().done_by(whole, data) and not job().done_by(short, data)
    assert not job().done_by(whole, "another data set")
    # Their checkpoints are kept apart.
    assert job().run_name != job({"epochs": 1}).run_name and job().file == job({"epochs": 1}).file


def test_a_run_of_another_process_is_left_alone(tmp_path, monkeypatch, capsys):
    queue = jobs.Queue("", "scratch", tmp_path, tmp_path, tmp_path, {"cnmc2019": "x"})
    folder = tmp_path / job().run_name
    folder.mkdir(parents=True)
    with FileLock(folder / jobs.LOCK):
        assert queue.state(job()) == queue.run(job()) == "running"
        monkeypatch.setattr("sys.argv", ["train.jobs", str(folder / jobs.LOCK)])
        assert jobs.main() == 2 and "another process" in capsys.readouterr().err
    assert queue.state(job()) == "to do"


def test_without_a_gpu_runs_are_shortened_unless_as_published(data, capsys, monkeypatch):
    words = ["--list", "--data", str(data), "--weights", "scratch", "--only", "mobilenet_m", "--results", "none"]
    listed = {}
    for gpu, extra in ((False, []), (False, ["--as-published"]), (True, [])):
        monkeypatch.setattr(torch.cuda, "is_available", lambda gpu=gpu: gpu)
        assert compare.main(words + extra) == 0
        listed[gpu, *extra] = capsys.readouterr().out
    assert "image_size 128" in listed[(False,)]
    for whole in (listed[False, "--as-published"], listed[(True,)]):
        assert "image_size" not in whole and whole.count("changed: epoch_steps") == 1  # group-level, as image-level
