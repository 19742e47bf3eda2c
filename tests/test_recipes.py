"""Recipes: every committed one is valid, and an invalid one is rejected with the reason."""

from collections import Counter

import pytest
import yaml

from blastlens.errors import BlastlensError
from train.recipe import RECIPES, Recipe

NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_committed_recipe_is_valid_and_named_after_its_file(name):
    recipe = Recipe.load(name)
    assert recipe.name == name
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    known = set(recipe.flat) | {path.partition(".")[0] for path in recipe.flat}
    assert set(recipe.sources) <= known


def test_mobilenet_m_is_as_published():
    recipe = Recipe.load("mobilenet_m")
    assert (recipe.batch_size, recipe.epochs, recipe.early_stopping) == (16, 100, 20)
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adam", 1e-3)
    assert (recipe.schedule.name, recipe.schedule.factor, recipe.schedule.patience) == ("plateau", 0.1, 5)
    assert recipe.schedule.floor == 1e-6
    assert recipe.head.batch_norm and recipe.head.l1 == 0.015
    assert recipe.head.uniform and recipe.training_noise == (0, 3, 9) and not recipe.augment.noise_levels
    assert recipe.balance == "desaturated-copies"


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"learning_rate": 1}, "learning_rate"),
        ({"augment": {"rotation": 3}}, r"augment\.rotation"),
        ({"epochs": "many"}, "epochs"),
    ],
)
def test_invalid_values_are_named(change, name):
    with pytest.raises(BlastlensError, match=name):
        Recipe.from_dict(Recipe.load("mobilenet_m").to_dict() | change)


def test_unknown_names_and_broken_yaml_are_one_sentence(tmp_path):
    with pytest.raises(BlastlensError, match="mobilenet_m"):
        Recipe.load("no-such-recipe")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(BlastlensError, match=r"bad\.yaml is not valid YAML"):
        Recipe.load(tmp_path / "bad.yaml")
    with pytest.raises(BlastlensError, match=r"optimizer\.rate"):
        Recipe.load("mobilenet_m").changed({"optimizer.rate": 1})


def test_the_digest_follows_what_decides_a_run_and_nothing_else():
    recipe = Recipe.load("mobilenet_m")
    same = recipe.changed({"title": "another", "sources": {}, "protocol": "all"})
    assert same.digest == recipe.digest
    assert recipe.changed({"epochs": 99}).digest != recipe.digest
    assert recipe.changed({"optimizer.lr": 0.1}).digest != recipe.digest
    # A value written out at its default is the same run.
    assert recipe.changed({"mixup": 0.0}).digest == recipe.digest


def test_the_seventeen_published_systems_have_a_recipe_each():
    papers = Counter(Recipe.load(name).paper for name in NAMES if name != "mobilenet_m_plain")
    assert papers == {None: 6, "P0": 3, "P1": 1, "P2": 8, "P3": 3, "P4": 2}


def test_the_ablation_differs_from_mobilenet_m_in_balancing_and_augmentation_only():
    full, plain = (Recipe.load(name).to_dict() for name in ("mobilenet_m", "mobilenet_m_plain"))
    different = {"name", "title", "training_noise", "augment", "balance", "sources"}
    assert {key for key in full if full[key] != plain[key]} == different


@pytest.mark.parametrize("name", [name for name in NAMES if Recipe.load(name).paper])
def test_every_value_of_a_published_system_has_a_source(name):
    stated = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    sources = stated.pop("sources")
    # What the papers leave open has a source, too, where our default decides.
    always = {
        "backbone",
        "protocol",
        "image_size",
        "mean",
        "std",
        "head",
        "augment",
        "batch_size",
        "epochs",
        "optimizer",
    }
    always |= {"schedule", "balance"}
    for key in (set(stated) | always) - {"name", "title", "paper"}:
        parts = stated.get(key) if isinstance(stated.get(key), dict) else {}
        assert key in sources or (parts and all(f"{key}.{part}" in sources for part in parts)), key
        assert all(text.strip() for text in sources.values())


def test_our_own_recipes_keep_the_digest_of_their_records():
    digests = {name: Recipe.load(name).digest for name in ("ours_cnmc2019", "ours_aria2021", "features_cnmc2019")}
    assert digests == {"ours_cnmc2019": "c01ec71b", "ours_aria2021": "6e6d0c6a", "features_cnmc2019": "8a334d55"}
