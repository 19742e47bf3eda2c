"""Published systems as model folders: what the card and the page say of them, and that they are found by name."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_models import shared_model_folder
from helpers_results import made_up_result

from blastlens import Classifier
from blastlens.hub import fetch
from blastlens.model_folder import ModelFolder, bundled_models, published_systems
from blastlens.ui.model_registry import Shelf, described
from blastlens.ui.words import facts, model_choice
from publish.model import require_measured
from train import card
from train.held_out import plain
from train.jobs import Job
from train.recipe import Recipe
from train.report.measured import RunSet
from train.report.published import Publications
from train.report.systems import Evidence, SystemRow
from train.results import Result
from train.system_models import UNCALIBRATED, export_systems, metrics_of, run_folder

RESULTS = Path(__file__).parents[1] / "results"
SHORT = {"image_size": 96, "epochs": 1, "epoch_steps": 20}


def run(system: str, protocol: str, fold: int, folds: int, **options) -> Result:
    recipe = Recipe.load(system).changed(SHORT)
    index = 24 * fold + np.arange(24)
    options |= {"system": system, "paper": recipe.paper, "changes": SHORT, "recipe_digest": recipe.digest}
    dataset = {"name": "cnmc2019", "hash": "0", "images": 72}
    return made_up_result(
        protocol=protocol, fold=fold, folds=folds, index=index, image_size=96, dataset=dataset, **options
    )


def row_of(system: str, **options) -> SystemRow:
    protocol = Recipe.load(system).protocol
    runs = [run(system, protocol, 0, 10, **options), *(run(system, "group-kfold:3", k, 3, **options) for k in range(3))]
    evidence = Evidence(Publications.load(RESULTS / "published.yaml"), tuple(runs), {system: Recipe.load(system)})
    (row,) = evidence.rows
    return row


@pytest.fixture
def exported(tmp_path) -> Path:
    """A folder of a cell network with the metrics of a published system that started from random weights."""
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "models/published/p2_resnet50")
    row = row_of("p2_resnet50", initial_weights="random")
    training = {
        "recipe": row.recipe.to_dict(),
        "protocol": "image-10fold",
        "seed": 0,
        "initial_weights": "random",
        "dataset": {"name": "cnmc2019", "images": 72},
    }
    (folder / "metrics.json").write_text(json.dumps(plain(metrics_of(row, folder, training))))
    return folder


def test_the_card_says_what_was_trained_and_both_protocols(exported):
    text = card.render(exported, "you/resnet")["README.md"].decode()
    for words in (
        "Not one of this project's models",
        "Shortened training: 60 optimizer steps at 96 px",
        "started from random weights",
        "group-kfold:3 (group-disjoint) | 3 of 3",
        "image-10fold (image-level) | 1 of 10",
        "uncalibrated",
        'from_pretrained("you/resnet")',
        "Talupuri",
    ):
        assert words in text, words
    assert "guessed" not in text
    record = json.loads((exported / "metrics.json").read_text())
    assert {one["calibration"] for one in record["protocols"]} == {UNCALIBRATED}
    assert record["headline"]["protocol"] == "group-kfold:3"
    require_measured(ModelFolder.load(exported))


def test_the_card_of_alnett_says_that_its_layers_are_guessed(exported):
    record = json.loads((exported / "metrics.json").read_text())
    record["published"] |= {"title": Recipe.load("alnett").title, "first_weights": "random, as published"}
    (exported / "metrics.json").write_text(json.dumps(record))
    text = card.render(exported)["README.md"].decode()
    assert "all layer sizes of this network are guessed" in text and "say nothing about the paper's" not in text


def test_a_published_system_is_offered_after_our_models_and_found_by_name(exported, monkeypatch):
    monkeypatch.setenv("BLASTLENS_MODELS", str(exported.parents[1]))
    assert bundled_models() == [] and published_systems() == ["p2_resnet50"]
    for name in ("p2_resnet50", "models/published/p2_resnet50", "published/p2_resnet50"):
        assert fetch(name).path == exported
    folder = fetch("p2_resnet50")
    shelf = Shelf({"p2_resnet50": Classifier(folder)})
    title = "Published system · ResNet50 (Talupuri et al.) · shortened training"
    assert shelf.titles == {"p2_resnet50": title}
    (warning,) = described(folder)["warnings"]
    for text in (warning, facts(folder)):
        assert "neither a model of this project nor" in text.replace("&#x27;", "'") and "First weights: random" in text


def test_the_page_says_when_a_score_is_of_some_folds_only(exported):
    assert "not comparable" not in facts(ModelFolder.load(exported))
    record = json.loads((exported / "metrics.json").read_text())
    record["protocols"][0]["folds"] = [0]
    record["published"]["title"] = "ALNett (Jawahar et al., as compared in P4)"
    (exported / "metrics.json").write_text(json.dumps(record))
    folder = ModelFolder.load(exported)
    assert "in 1 of 3 folds: <strong>not comparable with scores of all folds</strong>" in facts(folder)
    assert model_choice(folder) == "Published system · ALNett (Jawahar et al.) · shortened training"


def test_a_network_of_full_length_is_exported_with_scores_at_the_noise_levels_of_both_protocols(exported):
    row = row_of("p2_resnet50", initial_weights="random")
    run_of_full_length = dataclasses.replace(row.image.first, steps=1234, changes={}, image_size=224)
    full = RunSet((run_of_full_length,))
    record = json.loads((exported / "metrics.json").read_text())
    record |= plain(metrics_of(dataclasses.replace(row, image=full, full=full), exported, record["training"]))
    assert len({tuple(level["sigma"] for level in one["by_sigma"]) for one in record["protocols"]}) == 1
    (exported / "metrics.json").write_text(json.dumps(record))
    text = card.render(exported)["README.md"].decode()
    assert "Trained in full length, 1,234 optimizer steps at 224 px" in text and "Shortened training" not in text
    folder = ModelFolder.load(exported)
    assert "group-disjoint scores are of shorter trainings" in facts(folder)
    assert model_choice(folder) == "Published system · ResNet50 (Talupuri et al.)"


def test_the_run_folder_is_that_of_the_job():
    row = row_of("p2_resnet50", initial_weights="random")
    job = Job(row.recipe.changed(SHORT), SHORT, "", "image-10fold", 0, 10, 0, "scratch")
    assert run_folder(row.image, Path("runs")) == Path("runs") / job.run_name


def test_systems_without_records_or_networks_are_named(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    for name in ("published.yaml", "latency.json", "networks.json"):
        shutil.copy(RESULTS / name, results)
    protocol = Recipe.load("p3_resnet50").protocol
    for one in (run("p3_resnet50", protocol, 0, 1), run("p3_resnet50", "group-kfold:3", 0, 3)):
        one.write(results / "runs")
    names = ["p3_resnet50", "p3_cnn"]
    found = dict(export_systems(names, results, tmp_path / "runs", "data", tmp_path, tmp_path / "out"))
    assert "no finished run" in found["p3_resnet50"] and "no records on both protocols" in found["p3_cnn"]
    assert not (tmp_path / "out").exists()
