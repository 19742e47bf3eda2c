"""`python -m train`: its steps, what it refuses before any training, and the whole of it with `--quick`."""

import json
import os
import subprocess
import sys
import types
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers_hub import LoopbackHub
from helpers_synthetic import drawn_dataset
from PIL import Image

from blastlens.errors import BlastlensError
from blastlens.noise import NOISE_SIGMAS
from blastlens.synthetic_images import synthetic_image
from train.__main__ import main
from train.recipe import Recipe
from train.steps import QUICK, Record, Speed, Step, Training, describe, prepare_synthetic, run_all

ROOT = Path(__file__).resolve().parents[1]
FIELDS = ("Benign", "Early", "Pre", "Pro")


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Every command of the module `made_up` that was run; it writes its first argument, and fails where it has two."""
    run: list[tuple[str, ...]] = []

    def made_up(arguments: list[str]) -> int:
        run.append(tuple(arguments))
        if len(arguments) > 1:
            return 2
        Path(arguments[0]).parent.mkdir(parents=True, exist_ok=True)
        Path(arguments[0]).touch()
        return 0

    monkeypatch.setitem(sys.modules, "made_up", types.SimpleNamespace(main=made_up))
    return run


def steps_in(folder: Path, failing: str = "") -> list[Step]:
    """Three steps, each of which writes a file named after it."""
    return [
        Step(name, (("made_up", str(folder / name), *["fail"] * (name == failing)),), folder / name, 1)
        for name in ("one", "two", "three")
    ]


def names(commands: list[tuple[str, ...]]) -> list[str]:
    return [Path(arguments[0]).name for arguments in commands]


def test_finished_steps_are_skipped_with_a_line_each_and_an_interrupted_one_is_continued(tmp_path, commands, capsys):
    out = tmp_path / "out"
    record = Record(out, {"recipe": "a"})
    record.write()
    with pytest.raises(BlastlensError, match="'two' failed; rerun"):
        run_all(steps_in(out, failing="two"), record)
    assert names(commands) == ["one", "two"]
    commands.clear()
    run_all(steps_in(out), Record(out, {"recipe": "a"}))
    assert names(commands) == ["two", "three"]
    assert "[1/3] one: finished earlier" in capsys.readouterr().out
    run_all(steps_in(out), Record(out, {"recipe": "a"}))
    assert names(commands) == ["two", "three"] and capsys.readouterr().out.count("finished earlier") == 3


def test_a_step_whose_output_is_gone_is_repeated_with_all_that_follow(tmp_path, commands):
    record = Record(tmp_path / "out", {})
    record.write()
    run_all(steps_in(tmp_path / "out"), record)
    commands.clear()
    (tmp_path / "out/two").unlink()
    run_all(steps_in(tmp_path / "out"), Record(tmp_path / "out", {}))
    assert names(commands) == ["two", "three"]


@pytest.mark.parametrize("resumed", [False, True])
def test_the_time_of_a_training_corrects_the_estimate_of_the_next_unless_it_was_resumed(
    tmp_path, commands, capsys, resumed
):
    steps = [Step(n, (("made_up", str(tmp_path / n / "x")),), tmp_path / n / "x", 6e6, trains=True) for n in "ab"]
    if resumed:
        (tmp_path / "a").mkdir()
    run_all(steps, Record(tmp_path / "out", {}))
    estimate = "100,000 minutes" if resumed else "0.0 s"  # the first took no time
    assert f"[2/2] b: about {estimate} (estimate)" in capsys.readouterr().out


def test_a_folder_of_another_training_or_of_something_else_is_refused(tmp_path):
    Record(tmp_path / "out", {"recipe": "a", "seeds": [0]}).write()
    Record(tmp_path / "out", {"recipe": "a", "seeds": [0]})
    with pytest.raises(BlastlensError, match=r"belongs to another training, of recipe a; give another"):
        Record(tmp_path / "out", {"recipe": "b", "seeds": [0]})
    (tmp_path / "out/train.json").write_text("{")
    with pytest.raises(BlastlensError, match="cannot be read"):
        Record(tmp_path / "out", {"recipe": "a"})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").touch()
    with pytest.raises(BlastlensError, match="was not written by this command"):
        Record(tmp_path / "thesis", {})


def training_on(data: Path, out: Path, recipe: str = "p0_mobilenetv2", **changes: object) -> Training:
    options = {
        "recipe": recipe,
        "protocol": None,
        "seeds": [0],
        "jobs": 1,
        "weights": "scratch",
        "precision": "auto",
        "cache": out / "cache",
        "sigmas": NOISE_SIGMAS,
        "backbone": None,
        "set": [],
        "quick": False,
        "push_to_hub": None,
        "private": False,
    }
    return Training(Recipe.load(recipe), out, data, Namespace(**(options | changes)))


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 synthetic fields in groups of two, three groups of each label."""
    return drawn_dataset(tmp_path_factory.mktemp("drawn") / "fields", FIELDS, per_group=2, groups_per_label=3, size=32)


def test_the_protocol_is_by_group_with_as_many_folds_as_there_are_groups_for(fields, tmp_path):
    assert training_on(fields, tmp_path).protocol == "group-kfold:3"  # the recipe's own is by image
    assert training_on(fields, tmp_path, "ours_cnmc2019").protocol == "group-kfold:3"  # its own has too many folds
    assert training_on(fields, tmp_path, protocol="image-10fold").protocol == "image-10fold"
    with pytest.raises(BlastlensError, match="image-70-15-15 does not hold out every image once"):
        training_on(fields, tmp_path, protocol="image-70-15-15").steps()
    few = drawn_dataset(tmp_path / "few", FIELDS[:2], per_group=2, groups_per_label=2, size=32)
    with pytest.raises(BlastlensError, match="has 1 groups, too few"):  # in a training part, none to validate on
        training_on(few, tmp_path).steps()


def test_estimates_are_the_images_times_what_each_takes(fields, tmp_path):
    training = training_on(fields, tmp_path, seeds=[0, 1], push_to_hub="someone/name")
    steps = training.steps(Speed(train=1, predict=0.1, start=100))
    epochs, tested = training.recipe.epochs, 0.1 * len(NOISE_SIGMAS) * 2 * 24
    assert steps[0].seconds == pytest.approx(6 * 100 + epochs * 2 * 2 * 24 + tested)  # two thirds of 24, three times
    assert steps[1].seconds == pytest.approx(100 + epochs * 24)
    assert [step.commands[-1][0] for step in steps] == [
        "train.crossval",
        "train.finetune",
        "train.export",
        "train.evaluate",
        "hub_upload",
        "hub_upload",
    ]
    record = Record(tmp_path / "out", {})
    assert f"6 of 6 steps to do, about {round(sum(s.seconds for s in steps) / 60)} minutes" in describe(
        training, steps, record
    )


def test_folds_share_the_network_that_measures_features(tmp_path):
    cells = drawn_dataset(tmp_path / "cells", ("ALL", "HEM"), per_group=1, groups_per_label=3, size=32)
    training = training_on(cells, tmp_path, "features_cnmc2019")
    fit, folds, *_ = training.steps()
    assert fit.name == "fit on all images" and "--backbone" not in fit.commands[0]
    backbone = folds.commands[0][folds.commands[0].index("--backbone") + 1]
    assert Path(backbone) == tmp_path / "fit/backbone.safetensors"
    assert "which sees all images but no label" in describe(training, [fit, folds], Record(tmp_path / "out", {}))


def test_without_subjects_the_split_is_by_image_and_that_is_said(tmp_path):
    from train.datasets.own_images import Options
    from train.datasets.prepare import prepare_own

    for label in FIELDS[:2]:
        (tmp_path / "mine" / label).mkdir(parents=True)
        for k in range(3):
            synthetic_image(label, k).save(tmp_path / "mine" / label / f"{k}.png")
    prepare_own(tmp_path / "mine", tmp_path / "prepared", 32, Options("mine", similarity=1.01))
    training = training_on(tmp_path / "prepared", tmp_path / "out")
    told = describe(training, training.steps(), Record(tmp_path / "out", {}))
    assert "NO SUBJECTS: the split is by image" in told and training.protocol == "group-kfold:3"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_recipe", "--quick"], "There is no recipe 'no_such_recipe'"),
        (["p0_mobilenetv2", "--data", "no/such/folder"], "no prepared dataset"),
        (["p0_mobilenetv2", "--data", "no/such"], "There is no folder no/such, and no dataset no/such on the Hub"),
        (["p0_mobilenetv2", "--quick", "--set", "epoch=1"], "epoch"),
        (["p0_mobilenetv2", "--data", "FIELDS", "--weights", "no/such/folder"], "No mobilenetv2_100"),
        (["p0_mobilenetv2", "--quick", "--jobs", "0"], "--jobs is 0"),
        (["p0_mobilenetv2", "--quick", "--seeds", "1", "2"], "0 among them"),
        (["p0_mobilenetv2", "--data", "FIELDS", "--sigmas", "0", "5"], "--sigmas"),
        (["p0_mobilenetv2", "--quick", "--private"], "give --push-to-hub"),
        (["p0_mobilenetv2", "--quick", "--push-to-hub", "name"], "'name' is not the name of a repository"),
        (["tiny_cnmc2019", "--quick"], "learns from a teacher"),
    ],
)
def test_what_cannot_work_is_refused_in_a_sentence_before_anything_is_written(
    fields, tmp_path, monkeypatch, capsys, arguments, message
):
    monkeypatch.delenv("BLASTLENS_DATA", raising=False)
    out = tmp_path / "out"
    assert main([*(str(fields) if one == "FIELDS" else one for one in arguments), "--out", str(out)]) == 2
    told = capsys.readouterr()
    assert message in told.err and told.err.count("\n") == 1 and not told.out and not out.exists()


@pytest.mark.parametrize(("content", "message"), [({}, "There is no token"), ({"x.txt": b""}, "holds something else")])
def test_publishing_that_would_fail_is_refused_first(hub, tmp_path, monkeypatch, capsys, content, message):
    if content:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        hub.add_repo("someone/name", content)
    out = tmp_path / "out"
    assert main(["p0_mobilenetv2", "--quick", "--push-to-hub", "someone/name", "--out", str(out)]) == 2
    assert message in capsys.readouterr().err and not out.exists()
    assert not [request for request in hub.requests if request.method not in ("GET", "HEAD")]


def test_quick_images_have_subjects_of_one_label_each(tmp_path):
    from train.datasets import load_rows, own_dataset

    data = prepare_synthetic(Recipe.load("ours_cnmc2019"), tmp_path)
    rows = load_rows(data)
    assert {row.label for row in rows} == {"ALL", "HEM"} and own_dataset(data)["name"] == "synthetic"
    assert len({row.group for row in rows}) == len({(row.group, row.label) for row in rows}) == 8


def elsewhere(python_path: Path | None, code: str, hub: LoopbackHub, home: Path) -> str:
    """The output of Python code outside of the checkout, without a token."""
    environment = {k: v for k, v in hub.environment(home).items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= {"PYTHONPATH": str(python_path)} if python_path else {}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=home, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.long
def test_quick_goes_from_nothing_to_a_published_model_that_loads_without_this_project(hub, tmp_path):
    out, repo = tmp_path / "out", "someone/quick-fields"
    command = [sys.executable, "-m", "train", "ours_aria2021", "--quick", "--push-to-hub", repo]
    command += ["--out", str(out), "--cache", str(tmp_path / "cache"), "--set", "backbone=mobilenetv2_035"]

    def run() -> str:
        environment = hub.environment(tmp_path / "home", hub.token)
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    told = run()
    assert "ONNX Runtime, transformers, timm: same outputs" in told and "identical byte by byte" in told
    assert len(hub.commits(repo)) == 2  # the Hub's own first one, and one of everything
    card = hub.files(repo)["README.md"].decode()
    assert "synthetic, images of the user" in card and f'model="{repo}"' in card
    metrics = json.loads(hub.files(repo)["metrics.json"])
    assert metrics["check"]["images"] == 64 and metrics["training"]["recipe"]["epochs"] == QUICK["epochs"]
    assert run().count("finished earlier") == 6 and len(hub.commits(repo)) == 2

    elsewhere_home = tmp_path / "elsewhere"
    elsewhere_home.mkdir()
    synthetic_image("Pro", 1).resize((64, 64), Image.Resampling.LANCZOS).save(elsewhere_home / "field.png")
    (elsewhere_home / "site").mkdir()
    os.symlink(ROOT / "blastlens", elsewhere_home / "site/blastlens")  # the installed package alone
    answers: dict[str, Callable[[], str]] = {
        "pipeline": lambda: elsewhere(None, PIPELINE.format(repo=repo), hub, elsewhere_home),
        "timm": lambda: elsewhere(None, TIMM.format(repo=repo), hub, elsewhere_home),
        "Classifier": lambda: elsewhere(elsewhere_home / "site", CLASSIFIER.format(repo=repo), hub, elsewhere_home),
    }
    found = {name: json.loads(answer().strip().splitlines()[-1]) for name, answer in answers.items()}
    assert set(found["pipeline"]) == set(FIELDS)
    for name in ("timm", "Classifier"):
        assert found[name] == pytest.approx(found["pipeline"], abs=1e-4)


PIPELINE = """
import json, transformers
classify = transformers.pipeline("image-classification", model="{repo}")
print(json.dumps({{row["label"]: row["score"] for row in classify("field.png", top_k=None)}}))
"""
TIMM = """
import json, timm, PIL.Image
network = timm.create_model("hf-hub:{repo}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
probabilities = network(transform(PIL.Image.open("field.png").convert("RGB"))[None]).softmax(1)[0].tolist()
print(json.dumps(dict(zip(network.pretrained_cfg["label_names"], probabilities))))
"""
CLASSIFIER = """
import json, blastlens
print(json.dumps(dict(blastlens.Classifier.from_pretrained("{repo}").predict("field.png").probabilities)))
"""
