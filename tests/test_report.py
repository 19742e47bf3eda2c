"""Rendered documents: which runs are pooled, what the cells say, and that committed documents match the records."""

import dataclasses
import functools
import json
import xml.etree.ElementTree
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers_results import made_up_result

from blastlens import bootstrap
from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from blastlens.published_systems import Comparison
from train.compare import systems
from train.recipe import Recipe
from train.report import figures, measured, models, numbers, pages
from train.report.__main__ import bundled_records, documents
from train.report.published import Publications
from train.report.systems import ABLATION, OWN, Evidence, SystemRow, comparison_record, weights_in_words
from train.results import HONEST, Result

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results" / "published.yaml"
FIELDS = ("Benign", "Early", "Pre", "Pro")
PER_FOLD = "image-70-10-20-per-fold"


@functools.cache
def recipe(name: str) -> Recipe:
    return Recipe.load(name)


def run(system: str = "mobilenet_m", protocol: str = HONEST, fold: int = 0, wrong: int = 0, **options) -> Result:
    """A run of a committed recipe on 24 images of its own, of which the first `wrong` are answered wrongly."""
    changes = options.get("changes", {})
    names = ("ALL", "HEM") if recipe(system).dataset == "cnmc2019" else FIELDS
    folds = {"image-10fold": 10, "image-70-15-15": 1, "image-80-10-10": 1}.get(protocol, 3)
    index = np.asarray(options.pop("index", 24 * fold + np.arange(24)))
    label = index % 6 % len(names)
    answer = np.where(np.arange(len(index)) < wrong, (label + 1) % len(names), label)
    sigmas = (0, 2, 5, 6, 8, 10)
    seed = options.pop("seed", 0)
    result = made_up_result(
        **{
            "system": system,
            "paper": recipe(system).paper,
            "recipe_digest": recipe(system).changed(changes).digest,
            "protocol": protocol,
            "fold": fold,
            "folds": folds,
            "backbone": recipe(system).backbone,
            "dataset": {"name": recipe(system).dataset, "hash": "0", "images": 72},
            "n": len(index),
            "index": index,
            "label_names": names,
            "sigmas": sigmas,
            "probabilities": np.tile(0.8 * np.eye(len(names))[answer] + 0.2 / len(names), (len(sigmas), 1, 1)),
        }
        | options
    )
    return dataclasses.replace(result, seed=seed)


def honest(system: str = "mobilenet_m", wrong: int = 0, **options) -> list[Result]:
    """All three folds."""
    return [run(system, fold=fold, wrong=wrong, **options) for fold in range(3)]


def evidence(*runs: Result, **options) -> Evidence:
    published = Publications.load(PUBLISHED)
    recipes = {name: recipe(name) for name in (*published.claims, ABLATION, *OWN)}
    return Evidence(published, tuple(runs), recipes, **options)


def row_of(data: Evidence, name: str) -> SystemRow:
    return next(row for row in data.rows if row.name == name)


def cells(markdown: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]


def lines(markdown: str, system: str) -> list[list[str]]:
    """The cells of a system's rows."""
    return [row for row in cells(markdown) if row[0] == recipe(system).title]


def test_every_published_system_has_a_claim_and_a_recipe():
    assert {*Publications.load(PUBLISHED).claims, ABLATION} == set(systems())


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("papers", "P0", "systems", "p0_cnn", "acuracy"), 0.9, "papers.P0.systems.p0_cnn.acuracy"),
        (("papers", "P0", "systems", "p0_cnn", "accuracy"), 79.75, "less than or equal to 1"),
        (("papers", "P4", "systems", "alnett", "accuracy_by_fold"), [0.9, 0.9], "accuracy_by_fold"),
        (("papers", "P4", "systems", "mobilenet_m", "noise"), [{"sigma": 2}], "noise.0.accuracy"),
        (("papers",), "none", "papers"),
    ],
)
def test_invalid_claims_are_rejected_by_name(tmp_path, path, value, reason):
    data = yaml.safe_load(PUBLISHED.read_text())
    *way, last = path
    functools.reduce(lambda node, name: node[name], way, data)[last] = value
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(BlastlensError, match=reason):
        Publications.load(tmp_path / "published.yaml")


def test_every_system_has_a_row_before_anything_is_measured():
    text = pages.comparison(evidence())
    for system in Publications.load(PUBLISHED).claims:
        row = lines(text, system)[0]
        assert row[3] == row[4] == "not run yet" and row[5] == row[6] == row[7] == "-"
    assert lines(text, "p2_vgg16")[0][1] == "ImageNet"
    assert lines(text, "alnett")[0][1] == "random, as published"
    assert lines(text, "ours_cnmc2019")[0][3] == "not measured: our recipes are measured group-disjoint only"


def test_the_figure_leaves_out_scores_from_random_weights_where_the_paper_starts_from_others():
    runs = [run("p2_resnet50", HONEST, fold, initial_weights="random") for fold in range(3)]
    figure = pages.drawings(evidence(*runs, run("alnett", HONEST, 0, initial_weights="random")))["comparison"]
    axes = figure.axes[-1]
    words = [text.get_text() for text in axes.texts]
    assert sum("not comparable" in text for text in words) == 1
    # ALNett starts from random weights in its paper, too: it has an interval and a point.
    drawn = [line for line in axes.lines if line.get_color() == figures.GROUP]
    assert len(drawn) == 2


def test_a_claim_is_not_read_against_random_weights_or_without_saying_that_the_training_is_short():
    protocol = recipe("p2_efficientnet_b3").protocol
    random = evidence(run("p2_efficientnet_b3", protocol, 0, 20, initial_weights="random"))
    assert "says nothing: random first weights" in pages.claims(random)
    short = evidence(run("mobilenet_m", PER_FOLD, 0, 12, changes={"epochs": 3}))
    assert "| shortened training: below the claim by" in pages.claims(short)


def test_a_run_of_full_length_stands_beside_the_shortened_one_and_changes_no_leak():
    short = [run("mobilenet_m", protocol, 0, 12, planned_steps=20) for protocol in (PER_FOLD, HONEST)]
    curve = tuple({"val_loss": loss} for loss in (0.3, 0.2, 0.4))
    more = {"planned_steps": 900, "steps": 400, "changes": {"early_stopping": 8}, "epochs": 3, "curve": curve}
    full = run("mobilenet_m", PER_FOLD, 0, 1, **more)
    without, both = evidence(*short), evidence(*short, full_length=(full,))
    assert row_of(both, "mobilenet_m").leak == row_of(without, "mobilenet_m").leak is not None
    added = [line for line in pages.claims(both).splitlines() if line not in pages.claims(without).splitlines()]
    assert any(
        "accuracy, fold 0, 400 steps at 224 px, early_stopping 8 instead of 20 | 0.96 | 0.958" in x for x in added
    )
    assert "**Fold 0, 400 steps at 224 px, early_stopping 8 instead of 20**" in added
    assert "The run of full length kept the epoch with the lowest validation loss, 2 of 3." in added


def test_a_cell_is_the_bootstrap_of_the_pooled_folds():
    folds = honest(wrong=3)
    labels = np.concatenate([f.label for f in folds])
    groups = np.concatenate([f.groups_of_images for f in folds])
    probabilities = np.concatenate([f.probabilities[0] for f in folds])
    expected = bootstrap.summary(labels, probabilities, groups, ("ALL", "HEM"), positive=0)["accuracy"]
    row = lines(pages.comparison(evidence(*folds)), "mobilenet_m")[0]
    assert row[4] == f"0.875 ({expected.low:.3f} to {expected.high:.3f})"
    assert row[1:4] == ["ImageNet", "0.9533", "not run yet"] and row[6:] == ["60", "nothing"]


def test_runs_with_different_settings_are_never_pooled():
    shorter = [run(fold=fold, changes={"epochs": 3}) for fold in range(2)]
    others = run(recipe_digest="0badc0de"), run(fold=1, initial_weights="random")
    data = evidence(run(fold=2, wrong=24), *shorter, *others)
    row = row_of(data, "mobilenet_m")
    assert [(r.fold, r.seed) for r in row.group.runs] == [(0, 0), (1, 0)]
    assert row.changes == "epochs 3 instead of 100"


def test_runs_from_random_weights_are_shown_and_named_where_there_are_no_others():
    random = honest("p2_resnet50", initial_weights="random", changes={"epochs": 2, "epoch_steps": 20})
    row = row_of(evidence(*random), "p2_resnet50")
    assert row.group.complete and row.first_weights == "random" and row.shortened
    assert row.changes == "an epoch is 20 steps instead of one pass, epochs 2 instead of 30"
    better = run("p2_resnet50", initial_weights="timm/resnet50 from the Hub")
    row = row_of(evidence(*random, better), "p2_resnet50")
    assert row.first_weights == "ImageNet" and row.group.folds == [0] and not row.shortened
    assert weights_in_words("inception_v3.photos.safetensors") == "ImageNet, then photographs"
    assert weights_in_words("vgg16.in1k_conv.safetensors") == "ImageNet, convolutions alone"


def test_donor_scores_without_calibration_are_those_of_the_recorded_probabilities():
    runs = row_of(evidence(*honest(wrong=3)), "mobilenet_m").group
    raw, fitted = (measured.donor_scores(runs, calibrated=one) for one in (False, True))
    group, label, answer = (
        np.concatenate(parts)
        for parts in zip(*((r.groups_of_images, r.label, r.probabilities[0].argmax(1)) for r in runs.runs), strict=True)
    )
    healthy = np.unique(group[label == 1])
    specificity = [(answer[group == donor] == 1).mean() for donor in healthy]
    assert raw["specificity_per_donor"].value == pytest.approx(np.mean(specificity))
    assert raw["auroc_per_donor"].value == pytest.approx(fitted["auroc_per_donor"].value)
    one_fold = measured.RunSet(runs.runs[:1])
    assert measured.donor_scores(one_fold, calibrated=False) and not measured.donor_scores(one_fold, calibrated=True)


def test_the_unchanged_recipe_is_preferred_once_it_is_complete():
    shorter = [run(fold=fold, seed=seed, changes={"epochs": 3}) for seed in (1, 2) for fold in range(3)]
    row = row_of(evidence(*shorter, *honest()), "mobilenet_m")
    assert row.group.first.changes == {} and row.group.seeds == [0]


def test_complete_seeds_are_stacked():
    row = row_of(evidence(*honest(wrong=6), *honest(wrong=12, seed=1), run(seed=2)), "mobilenet_m")
    assert row.group.seeds == [0, 1]  # seed 2 has one fold only
    assert measured.scores(row.group)["accuracy"].value == pytest.approx((0.75 + 0.5) / 2)


def test_settings_that_differ_between_the_levels_are_both_named():
    image = [run(protocol=PER_FOLD, fold=fold, changes={"epochs": 14}) for fold in range(3)]
    group = honest(changes={"epochs": 4, "schedule.patience": 2})
    assert row_of(evidence(*image, *group), "mobilenet_m").changes == (
        "image-level: epochs 14 instead of 100; "
        "group-disjoint: epochs 4 instead of 100, schedule.patience 2 instead of 5"
    )


def test_the_leak_draws_groups_once_for_both_levels():
    image = [run(protocol=PER_FOLD, fold=fold) for fold in range(3)]
    assert row_of(evidence(*image, *honest()), "mobilenet_m").leak == Interval(0, 0, 0)
    row = row_of(evidence(*image, *honest(wrong=5)), "mobilenet_m")
    accuracy = measured.scores(row.group)["accuracy"]
    expected = (1 - accuracy.value, 1 - accuracy.high, 1 - accuracy.low)  # image-level all are right
    assert (row.leak.value, row.leak.low, row.leak.high) == pytest.approx(expected)


def test_the_leak_compares_the_groups_that_both_levels_tested():
    some = np.array([0, 1, 6, 7, 12, 13])  # images of two of the six groups
    image = run("p3_cnn", "image-80-10-10", index=some, initial_weights="random")
    group = honest("p3_cnn", wrong=2, initial_weights="random")  # an image of either is wrong in every fold
    assert row_of(evidence(image, *group), "p3_cnn").leak.value == pytest.approx(6 / 24)
    assert row_of(evidence(image, *group[:2]), "p3_cnn").leak.value == pytest.approx(4 / 16)  # of the folds there are
    always_all = np.tile([0.9, 0.1], (6, 24, 1))
    constant = dataclasses.replace(group[0], probabilities=always_all)
    assert row_of(evidence(image, constant), "p3_cnn").leak is None
    for steps in ((60, 90), (0, 0)):  # other steps, or records that do not say
        both = [dataclasses.replace(r, planned_steps=n) for r, n in zip((image, group[0]), steps, strict=True)]
        assert row_of(evidence(*both), "p3_cnn").leak is None


def test_pairs_are_matched_image_by_image():
    a = honest(wrong=6)
    b = honest("alnett", wrong=2, initial_weights="random")
    order = np.random.default_rng(0).permutation(24)
    fields = {name: getattr(b[0], name)[order] for name in ("index", "label", "group")}
    b[0] = dataclasses.replace(b[0], **fields, probabilities=b[0].probabilities[:, order])
    data = evidence(*a, *b)
    difference = measured.paired(row_of(data, "mobilenet_m").group, row_of(data, "alnett").group)
    pooled = [np.concatenate([r.probabilities[0] for r in runs]) for runs in (a, honest("alnett", wrong=2))]
    labels = np.concatenate([r.label for r in a])
    groups = np.concatenate([r.groups_of_images for r in a])
    assert difference == bootstrap.difference(labels, *pooled, groups, "accuracy", positive=0)
    assert difference.value == pytest.approx(-4 / 24)
    for other in (honest("alnett")[:2], honest("alnett", seed=1), [run("alnett", index=100 + np.arange(24))] * 3):
        assert measured.paired(row_of(data, "mobilenet_m").group, measured.RunSet(tuple(other))) is None
    assert ["1", "0", "0"] in [row[3:] for row in lines(pages.comparison(data), "alnett")]


@pytest.mark.parametrize(
    ("claimed", "words"),
    [
        (0.9, "the claim is within our interval"),
        (0.97, "below the claim by 0.070"),
        (0.8, "above the claim by 0.100"),
        ("above 95 %", "-"),
    ],
)
def test_a_claim_is_read_against_the_image_level_interval(claimed, words):
    assert pages.reading(claimed, Interval(0.9, 0.85, 0.95)) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(0.01, 0.2, "better"), (-0.2, -0.01, "worse"), (0.0, 0.1, "no difference shown"), (None, None, "undefined")],
)
def test_a_difference_is_shown_only_where_its_interval_excludes_0(low, high, words):
    assert numbers.verdict({"value": low, "low": low, "high": high}) == words


def test_scores_are_printed_with_their_interval():
    score = {"value": 0.1234, "low": -0.01, "high": 0.2}
    assert numbers.interval(score) == numbers.interval(Interval(**score)) == "0.123 (-0.010 to 0.200)"
    assert numbers.in_points(score, -1) == "-12.3 (-20.0 to +1.0)" and numbers.share(score) == "12.3 % (-1.0 to 20.0)"
    assert numbers.interval({"value": 0.5}) == numbers.interval(0.5) == "0.500"
    for undefined in (None, {"value": None, "low": None, "high": None}, Interval(float("nan"), 0, 0)):
        assert numbers.interval(undefined) == numbers.point(undefined) == "undefined"


def test_noise_at_sigma_6_and_8_is_compared_with_the_claim_for_8():
    text = pages.claims(evidence(run(protocol=PER_FOLD, fold=1, wrong=1)))
    assert "**Fold 0" not in text and "fold not trained" in text
    table = text.partition("**Fold 1: 24 test images")[2].partition("**Fold")[0]
    by_sigma = {row[0]: row[1:] for row in cells(table) if len(row) == 7}
    assert list(by_sigma)[2:] == ["0", "2", "5", "6 (claimed for 8)", "8", "10"]
    assert by_sigma["6 (claimed for 8)"][0] == by_sigma["8"][0] == "0.950"
    assert (by_sigma["0"][0], by_sigma["0"][2]) == ("0.960", "-0.002") and "6 of 6 accuracies" in table


def test_the_record_that_the_page_reads_has_what_the_tables_have():
    image = [run(protocol=PER_FOLD, fold=fold, wrong=6) for fold in range(2)]
    data = evidence(*image, *honest(wrong=6))
    written = Comparison.from_dict(json.loads(comparison_record(data)))
    (shown,) = [system for system in written.systems if system.name == "mobilenet_m"]
    row = row_of(data, "mobilenet_m")
    for level, runs in row.measured.items():
        accuracy = measured.scores(runs)["accuracy"]
        assert vars(getattr(shown, level).accuracy) == pytest.approx(vars(accuracy), abs=1e-5)
    assert (shown.image.folds, shown.group.folds, shown.changed) == ("2 of 3 folds", "", "nothing")
    assert vars(shown.leak) == pytest.approx(vars(row.leak), abs=1e-5)
    (vgg,) = [system for system in written.systems if system.name == "p2_vgg16"]
    assert (vgg.group, vgg.leak, vgg.noise, vgg.steps) == ("not run yet", None, None, None) and shown.steps == 60


FILE = {"dataset": "cells", "score": 0.85, "ms": 6.0, "mb": 12.8}


@pytest.mark.parametrize(
    ("change", "dominated"),
    [
        ({}, False),
        ({"score": 0.86, "ms": 5.0, "mb": 10.0}, True),
        ({"ms": 5.0}, True),
        ({"score": 0.86, "ms": 5.0, "mb": 13.0}, False),
        ({"score": 0.86, "ms": 5.0, "mb": 10.0, "dataset": "fields"}, False),
    ],
)
def test_a_file_is_dominated_by_another_of_its_data_set_that_is_better_in_every_way(change, dominated):
    assert models.dominates(FILE | change, FILE) is dominated


def test_the_readme_table_has_a_row_for_each_model_and_keeps_the_text_around_it():
    table = models.results_table(bundled_records())
    assert len(table.splitlines()) == 2 + len(bundled_records()) <= 8
    text = f"before\n{models.START}\nold\n{models.END}\nafter"
    assert models.filled_in(text, bundled_records()) == f"before\n{models.START}\n{table}\n{models.END}\nafter"
    with pytest.raises(BlastlensError, match="no lines"):
        models.filled_in("nothing here", [])


@pytest.mark.slow
def test_the_committed_documents_show_the_committed_records():
    found = documents()
    for name, text in found.items():
        assert (ROOT / name).read_text(encoding="utf-8") == text, f"{name}: run python -m train.report"
    committed = {path.relative_to(ROOT).as_posix() for path in (ROOT / "results/figures").glob("*.svg")}
    assert committed == {name for name in found if name.endswith(".svg")}
    for name in committed:
        xml.etree.ElementTree.fromstring(found[name])
    pages_text = {name: text for name, text in found.items() if name.startswith("results/") and name.endswith(".md")}
    for name, text in pages_text.items():
        for part in text.split("](")[1:]:
            target = part.partition(")")[0].partition("#")[0]
            assert target.startswith("http") or (ROOT / name).parent.joinpath(target).exists(), (name, target)


def test_the_ablation_stands_beside_its_claims_on_the_folds_that_were_trained():
    text = pages.claims(evidence(run(protocol=PER_FOLD, fold=2, wrong=6), run(ABLATION, protocol=PER_FOLD, wrong=12)))
    table = text.partition("balancing and augmentation, image-level")[2].partition("\n#")[0]
    without, both = (row for row in cells(table) if row[0] in ("without", "with both"))
    assert (without[1], both[1]) == ("0.570", "0.940")  # claimed for folds 0 and 2
    assert without[2].startswith("0.500") and both[2].startswith("0.750") and without[3].startswith("0.500")
