"""The rendered pages: what stands in which cell, what is never put together, and that they show what was recorded."""

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
from train import readme
from train.recipe import Recipe
from train.report import cells, figures, measured, pages, record
from train.report.evidence import ABLATION, NETWORKS_OF_OURS, OWN, Evidence
from train.report.published import Published
from train.results import HONEST, Result

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results" / "published.yaml"
SYSTEMS = (
    *("p0_cnn", "p0_resnet50", "p0_mobilenetv2", "p1_mobilenetv2"),
    *("p2_efficientnet_b3", "p2_efficientnet_b4", "p2_efficientnet_b5", "p2_resnet50"),
    *("p2_inception_v3", "p2_xception", "p2_vgg16", "p2_mobilenet"),
    *("p3_vit_hybrid", "p3_resnet50", "p3_cnn", "mobilenet_m", "alnett"),
)
FIELDS = ("Benign", "Early", "Pre", "Pro")


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
    names = (*SYSTEMS, ABLATION, *OWN)
    recipes = {name: recipe(name) for name in names}
    nothing = {"shipped": {}, "baselines": {}, "latency": {}}
    return Evidence(Published.load(PUBLISHED), tuple(runs), recipes, **nothing | options)


def lines(markdown: str, system: str) -> list[list[str]]:
    """The cells of a system's rows."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    return [row for row in rows if row[0] == recipe(system).title]


def main_table(*runs: Result) -> str:
    return "\n".join(pages.comparison(evidence(*runs))[0]["accuracy"].values())


def of(row, level: str):
    """The shown runs of one level, as (fold, seed)."""
    return [(r.fold, r.seed) for r in row.at(level).runs]


def test_the_papers_list_the_seventeen_systems_in_their_order():
    assert tuple(Published.load(PUBLISHED).claims) == SYSTEMS


@pytest.mark.slow
def test_names_that_are_repeated_for_speed_agree():
    from train import compare, modeling_blastlens

    assert set(NETWORKS_OF_OURS) == set(modeling_blastlens.OURS)
    assert {*SYSTEMS, ABLATION} == set(compare.systems())


def test_a_paper_may_print_words_or_folds_instead_of_an_accuracy():
    claims = Published.load(PUBLISHED).claims
    assert cells.claimed_accuracy(claims["p2_efficientnet_b3"]) == "0.9644"
    assert cells.claimed_accuracy(claims["p2_efficientnet_b4"]) == "above 95 %"
    assert cells.claimed_accuracy(claims["p2_vgg16"]) == "only F1, 0.8187"
    assert cells.claimed_accuracy(claims["p2_xception"]) == "only F1, above 0.95"
    assert cells.claimed_accuracy(claims["alnett"]) == "0.911, mean of 0.922, 0.94, 0.872"


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("papers", "P0", "systems", "p0_cnn", "acuracy"), 0.9, "papers.P0.systems.p0_cnn.acuracy"),
        (("papers", "P0", "systems", "p0_cnn", "accuracy"), 79.75, "less than or equal to 1"),
        (("papers", "P4", "systems", "alnett", "accuracy_by_fold"), [0.9, 0.9], "accuracy_by_fold"),
        (("papers", "P4", "systems", "mobilenet_m", "noise"), [{"sigma": 2}], "noise.0.accuracy"),
        (("papers", "P1", "citation"), "", "citation"),
        (("papers", "P1", "systems"), {}, "systems"),
        (("papers",), "none", "papers"),
    ],
)
def test_claims_that_are_not_what_they_should_be_are_refused(tmp_path, path, value, reason):
    data = yaml.safe_load(PUBLISHED.read_text())
    *way, last = path
    functools.reduce(lambda node, name: node[name], way, data)[last] = value
    (tmp_path / "published.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(BlastlensError, match=reason):
        Published.load(tmp_path / "published.yaml")


def test_claims_that_are_no_yaml_or_absent_are_refused(tmp_path):
    (tmp_path / "published.yaml").write_text("papers: [")
    for name in ("published.yaml", "absent.yaml"):
        with pytest.raises(BlastlensError, match=name):
            Published.load(tmp_path / name)


def test_every_system_has_a_row_before_anything_is_measured():
    table = main_table()
    for system in SYSTEMS:
        (row,) = lines(table, system)
        assert row[2] == row[3] and row[2].startswith("not run yet") and row[4:] == ["-", row[5], "-"]
    assert lines(table, "p2_vgg16")[0][2] == "not run yet: needs ImageNet weights and a GPU"
    assert lines(table, "p2_mobilenet")[0][2] == "not run yet"
    assert lines(table, "alnett")[0][5] == "random, as published"
    assert lines(table, "ours_cnmc2019")[0][2] == "not measured: our recipe, honest protocol only"


def test_a_cell_is_the_bootstrap_of_the_pooled_folds():
    folds = honest(wrong=3)
    labels = np.concatenate([f.label for f in folds])
    groups = np.concatenate([f.groups_of_images for f in folds])
    probabilities = np.concatenate([f.probabilities[0] for f in folds])
    expected = bootstrap.summary(labels, probabilities, groups, ("ALL", "HEM"), positive=0)["accuracy"]
    (row,) = lines(main_table(*folds), "mobilenet_m")
    assert row[3] == f"0.875 ({expected.low:.3f} to {expected.high:.3f})"
    assert row[1] == "0.9533" and row[2] == "not run yet" and row[5:] == ["ImageNet", "nothing"]


def test_folds_that_are_missing_are_counted_in_the_cell():
    ten = [run("p2_mobilenet", "image-10fold", fold) for fold in (0, 3)]
    (row,) = lines(main_table(*ten), "p2_mobilenet")
    assert row[2] == "1.000 (1.000 to 1.000), 2 of 10 folds"


def test_rows_of_different_first_weights_are_never_put_together():
    runs = [run(fold=0), run(fold=1), run(fold=2, wrong=24, initial_weights="random")]
    imagenet, scratch = lines(main_table(*runs), "mobilenet_m")
    assert imagenet[3] == "1.000 (1.000 to 1.000), 2 of 3 folds" and imagenet[5] == "ImageNet"
    assert scratch[3] == "0.000 (0.000 to 0.000), 1 of 3 folds" and scratch[5] == "random, *not as published*"
    assert (imagenet[1], scratch[1]) == ("0.9533", "-")  # the claim is about the published first weights


def test_runs_with_different_settings_are_never_put_together():
    shorter = [run(fold=fold, changes={"epochs": 3}) for fold in range(2)]
    data = evidence(run(fold=2, wrong=24), *shorter)
    row = data.row("mobilenet_m", "imagenet")
    assert of(row, "group") == [(0, 0), (1, 0)]
    assert cells.changes(data, row) == "epochs 3 instead of 100"
    assert data.not_shown == ["mobilenet_m, group-kfold:3, seed 0, fold 2, imagenet, changed: nothing"]


def test_the_recipe_as_it_is_goes_before_changed_ones_once_it_is_complete():
    shorter = [run(fold=fold, seed=seed, changes={"epochs": 3}) for seed in (1, 2) for fold in range(3)]
    row = evidence(*shorter, *honest()).row("mobilenet_m", "imagenet")
    assert row.group.changes == {} and row.group.seeds == (0,)


def test_a_run_of_an_earlier_version_of_the_recipe_is_named_and_not_shown():
    old = run(recipe_digest="0badc0de")
    data = evidence(old)
    assert data.row("mobilenet_m", "imagenet").group is None
    assert data.not_shown == [
        "mobilenet_m, group-kfold:3, seed 0, fold 0, imagenet, with a recipe that is not the present one"
    ]


def test_seeds_are_stacked_and_their_range_is_said():
    data = evidence(*honest(wrong=6), *honest(wrong=12, seed=1), run(seed=2))
    row = data.row("mobilenet_m", "imagenet")
    assert row.group.seeds == (0, 1)  # seed 2 has one fold only
    assert measured.scores(row.group)["accuracy"].value == pytest.approx((0.75 + 0.5) / 2)
    line = cells.how(data, row, row.group)
    assert line[2:4] == ("3 of 3", "0, 1 (accuracy 0.500 to 0.750)")
    assert line[5] == "72 of 6 groups"
    assert data.not_shown == ["mobilenet_m, group-kfold:3, seed 2, fold 0, imagenet, changed: nothing"]


def test_settings_that_differ_between_the_levels_are_both_said():
    image = [run(protocol="image-70-10-20-per-fold", fold=fold, changes={"epochs": 14}) for fold in range(3)]
    group = honest(changes={"epochs": 4, "schedule.patience": 2})
    data = evidence(*image, *group)
    assert cells.changes(data, data.row("mobilenet_m", "imagenet")) == (
        "image-level: epochs 14 instead of 100; "
        "group-disjoint: epochs 4 instead of 100, schedule.patience 2 instead of 5"
    )


def test_the_leak_draws_groups_once_for_both_levels():
    image = [run(protocol="image-70-10-20-per-fold", fold=fold) for fold in range(3)]
    same = evidence(*image, *honest()).row("mobilenet_m", "imagenet")
    assert same.leak == Interval(0, 0, 0)
    row = evidence(*image, *honest(wrong=5)).row("mobilenet_m", "imagenet")
    accuracy = measured.scores(row.group)["accuracy"]
    expected = (1 - accuracy.value, 1 - accuracy.high, 1 - accuracy.low)  # image-level all are right
    assert (row.leak.value, row.leak.low, row.leak.high) == pytest.approx(expected)


def test_the_leak_compares_the_groups_that_both_levels_tested():
    some = np.array([0, 1, 6, 7, 12, 13])  # images of two of the six groups
    image = run("p3_cnn", "image-80-10-10", index=some, initial_weights="random")
    group = honest("p3_cnn", wrong=2, initial_weights="random")  # an image of either is wrong in every fold
    row = evidence(image, *group).row("p3_cnn", "scratch")
    assert row.leak.value == pytest.approx(6 / 24)
    assert evidence(image, *group[:2]).row("p3_cnn", "scratch").leak is None


def test_pairs_are_matched_image_by_image():
    a = honest(wrong=6)
    b = honest("alnett", wrong=2, initial_weights="random")
    order = np.random.default_rng(0).permutation(24)
    fields = {name: getattr(b[0], name)[order] for name in ("index", "label", "group")}
    b[0] = dataclasses.replace(b[0], **fields, probabilities=b[0].probabilities[:, order])
    data = evidence(*a, *b)
    rows = data.row("mobilenet_m", "imagenet").group, data.row("alnett", "scratch").group
    difference = measured.paired(*rows)
    pooled = [np.concatenate([r.probabilities[0] for r in runs]) for runs in (a, honest("alnett", wrong=2))]
    labels = np.concatenate([r.label for r in a])
    groups = np.concatenate([r.groups_of_images for r in a])
    assert difference == bootstrap.difference(labels, *pooled, groups, "accuracy", positive=0)
    assert difference.value == pytest.approx(-4 / 24)
    context = pages.pairs(data)[0]
    assert context["n_pairs"] == {"aria2021": 0, "cnmc2019": 1}
    title = recipe("alnett").title
    assert lines(context["tables"]["cnmc2019"], "mobilenet_m")[0][3] == f"{title} is better"
    assert lines(context["summaries"]["cnmc2019"], "alnett")[0][2:] == ["1", "0", "0"]


def test_systems_that_were_not_tested_alike_are_no_pair():
    row = evidence(*honest()).row("mobilenet_m", "imagenet").group
    for other in (honest("alnett")[:2], honest("alnett", seed=1), [run("alnett", index=100 + np.arange(24))] * 3):
        assert measured.paired(row, measured.Measured(tuple(other))) is None


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
    assert cells.reading(claimed, Interval(0.9, 0.85, 0.95)) == words


def test_each_claimed_figure_stands_beside_ours():
    image = [run(protocol="image-70-10-20-per-fold", fold=fold, wrong=6 * fold) for fold in range(2)]
    papers = pages.claims(evidence(*image))[0]["papers"]
    table = next(table for name, _, table, _ in papers if name == "P4")
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    start = [row[0] for row in rows].index(recipe("mobilenet_m").title)
    figures_of_it = {row[1]: row[2:] for row in rows[start : start + 5]}
    assert figures_of_it["accuracy"][0] == "0.9533" and figures_of_it["accuracy"][1].startswith("0.875")
    assert figures_of_it["accuracy, fold 0"] == ["0.96", "1.000 (1.000 to 1.000)", "above the claim by 0.040", "-"]
    assert figures_of_it["accuracy, fold 1"][1].startswith("0.750")
    assert figures_of_it["accuracy, fold 2"] == ["0.94", "not run yet", "-", "-"]
    assert figures_of_it["F1 (ours: weighted)"][3] == "not run yet"


def test_noise_at_sigma_6_and_8_is_compared_with_the_claim_for_8():
    image = run(protocol="image-70-10-20-per-fold", fold=1, wrong=1)
    ((title, _, _, tables),) = pages.noise(evidence(image))[0]["claimed"]
    assert title == recipe("mobilenet_m").title
    assert next(iter(tables)) == "Fold 0: not run yet"
    rows = next(rows for name, rows in tables.items() if name.startswith("Fold 1: 24 test images"))
    by_sigma = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in rows["table"].splitlines()[2:]}
    assert list(by_sigma) == ["0", "2", "5", "6 (claimed for 8)", "8", "10"]
    assert by_sigma["6 (claimed for 8)"][1] == by_sigma["8"][1] == "0.950"
    assert by_sigma["0"][1:4:2] == ["0.960", "-0.002"]
    assert (rows["near"], rows["rows"]) == (6, 6)


def test_the_ablation_pairs_the_two_networks_fold_by_fold():
    protocol = "image-70-10-20-per-fold"
    runs = [run(protocol=protocol, fold=0), run(ABLATION, protocol, fold=0, wrong=12)]
    ((_, _, table, settings, noise, short),) = pages.ablation(evidence(*runs))[0]["tables"]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    first = next(row for row in rows if row[0] == "fold 0, image-level")
    assert first[1:4] == ["accuracy", "0.570", "0.960"]
    assert first[4].startswith("0.500 (") and first[5] == "1.000 (1.000 to 1.000)" and first[6].startswith("+0.500 (")
    assert next(row for row in rows if row[0] == "fold 1, image-level")[4:] == ["-", "-", "-"]
    assert next(row for row in rows if row[0] == "group-disjoint")[2:4] == ["-", "-"]
    assert [changed for _, changed in settings] == ["nothing", "nothing"]
    ((level, by_sigma),) = noise
    assert level == "image-level" and by_sigma.splitlines()[2].startswith("| 0 | 0.500 (")
    assert short is None  # it ran as published: there is nothing to explain


def test_what_desaturating_one_class_does_stands_beside_the_same_network_without_it():
    def probed(difference: float, **changes) -> dict:
        value = {"value": difference, "low": difference - 0.1, "high": difference + 0.1}
        rows = [{"probe": c, "title": f"{c} only", "weighted_f1": value} for c in ("hem", "all")]
        grey = dict.fromkeys(("called_HEM_in_colour", "called_HEM_in_grey", "difference"), value) | {"rows": rows}
        changed = recipe("mobilenet_m").changed({"epochs": 2} | changes)
        clean = {"weighted_f1": {"value": 0.75, "low": 0.7, "high": 0.8}}
        record = {"recipe": changed.to_dict(), "protocol": "group-kfold:2", "images": 1500, "clean": clean}
        return record | {"grey_is_healthy": grey}

    shown = pages.render(evidence(probes=(probed(0.6), probed(0.1, balance="class-weights"))))["ABLATION.md"]
    assert (
        "| desaturated-copies | 0.600 (0.500 to 0.700) | 0.600 (0.500 to 0.700) | +0.600 (+0.500 to +0.700) |" in shown
    )
    assert "| class-weights | 0.100 (" in shown and "0.750 (0.700 to 0.800)" in shown
    assert "- desaturated-copies: epochs 2\n- class-weights: balance class-weights, epochs 2\n" in shown
    assert "1,500 held-out images" in shown and "hem only | all only" in shown
    assert "What desaturating" not in pages.render(evidence())["ABLATION.md"]


def test_classes_show_the_confusion_of_each():
    fields = run("p0_mobilenetv2", "image-70-15-15", wrong=1)
    ((title, _, _, ((protocol, table),)),) = pages.classes(evidence(fields))[0]["sections"]["aria2021"]
    assert title == recipe("p0_mobilenetv2").title and protocol == "image-level, image-70-15-15"
    benign = next(line for line in table.splitlines() if line.startswith("| Benign"))
    cells_of_it = [cell.strip() for cell in benign.strip("|").split("|")]
    assert cells_of_it[1] == "0.93" and cells_of_it[3].startswith("0.875 (")
    assert cells_of_it[5:] == ["8", "7", "1", "0", "0"]


def test_our_recipes_fall_back_on_the_record_of_the_bundled_model():
    value = {"value": 0.9, "low": 0.8, "high": 0.95}
    by_sigma = [{"sigma": 0, "accuracy": value, "weighted_f1": value, "macro_f1": value}]
    protocol = {"name": HONEST, "n_images": 7651, "by_sigma": by_sigma}
    data = evidence(shipped={"ours_cnmc2019": {"protocols": [protocol]}})
    row = data.row("ours_cnmc2019", "imagenet")
    assert cells.score(data, row, "group") == "0.900 (0.800 to 0.950), recorded with the bundled model"
    ran = evidence(*honest("ours_cnmc2019"), shipped=data.shipped)
    assert cells.score(ran, ran.row("ours_cnmc2019", "imagenet"), "group") == "1.000 (1.000 to 1.000)"


def test_milliseconds_stand_in_the_table_once_they_are_measured():
    latency = {"machine": "two cores", "systems": {"mobilenet_m": {"onnx_fp32_ms": 6.04}}}
    context, drawn = pages.cost(evidence(*honest(), *honest("alnett"), latency=latency))
    table = context["tables"]["cnmc2019"]
    assert "onnx fp32, ms" in table and list(drawn) == ["cost"]
    assert lines(table, "mobilenet_m")[0][1:6] == ["224 px", "3.00 M", "3.235 M", "0.57 G", "6.0"]
    assert lines(table, "alnett") == [] or lines(table, "alnett")[0][5] == "-"


def test_a_score_that_is_undefined_is_no_number():
    assert cells.show(Interval(float("nan"), 0, 0)) == cells.signed(Interval(float("nan"), 0, 0)) == "-"


@pytest.fixture(scope="module")
def rendered() -> dict[str, str]:
    fields = [run("p0_mobilenetv2", "image-70-15-15", wrong=1), *honest("p0_mobilenetv2", wrong=4)]
    cell = [run(protocol="image-70-10-20-per-fold", fold=f, wrong=1) for f in range(3)]
    return pages.render(evidence(*fields, *cell, *honest(wrong=4), *honest("ours_cnmc2019")))


@pytest.mark.slow
def test_figures_are_small_sound_and_the_same_again(rendered):
    drawn = {name: text for name, text in rendered.items() if name.endswith(".svg")}
    assert {"comparison", "leak", "cost", "noise_mobilenet_m", "noise_aria2021", "noise_cnmc2019"} <= {
        Path(name).stem for name in drawn
    }
    for name, text in drawn.items():
        xml.etree.ElementTree.fromstring(text)
        assert len(text) < 60_000 and "<dc:date>" not in text and "matplotlib" not in text.lower(), name
    dots = [figures.Dot("a", 0.9, Interval(0.8, 0.7, 0.9), None), figures.Dot("b", None, None, None)]
    assert figures.svg(figures.comparison({"x": dots})) == figures.svg(figures.comparison({"x": dots}))


def test_curves_of_both_levels_fit_their_common_axis():
    low, high = ([[{"epoch": e, "loss": top / e, "eval_loss": top} for e in (1, 2)]] for top in (0.5, 3.0))
    drawn = figures.curves({"image": ("a", low), "group": ("b", high)})
    assert [ax.get_ylim()[0] for ax in drawn.axes] == [0, 0]
    assert all(ax.get_ylim()[1] > 3 for ax in drawn.axes)


@pytest.mark.slow
def test_every_figure_is_shown_and_every_link_leads_somewhere(rendered):
    text = "\n".join(text for name, text in rendered.items() if name.endswith(".md"))
    for name in rendered:
        assert f"({name})" in text or name == "README.md", name
    for part in text.split("](")[1:]:
        target = part.partition(")")[0].partition("#")[0]
        assert target in rendered, target


@pytest.mark.slow
def test_every_table_of_the_four_class_set_says_that_its_groups_are_a_proxy(rendered):
    for name in ("README.md", "LEAK.md", "NOISE.md", "CLASSES.md", "PAIRS.md", "COST.md"):
        assert "a proxy" in rendered[name], name


@pytest.mark.slow
def test_pages_that_have_nothing_to_show_say_so():
    text = pages.render(evidence())
    assert "Nothing measured yet." in text["LEAK.md"] and "Nothing measured yet." in text["PAIRS.md"]
    assert [name for name in text if name.endswith(".svg")] == [
        "figures/comparison.svg",
        "figures/noise_mobilenet_m.svg",
    ]


def test_the_demos_record_says_what_the_tables_say():
    image = [run(protocol="image-70-10-20-per-fold", fold=fold, wrong=6) for fold in range(2)]
    latency = {"machine": "two cores", "systems": {"mobilenet_m": {"onnx_fp32_ms": 6.04, "times_mobilenetv1": 1.02}}}
    data = evidence(*image, *honest(wrong=6), latency=latency, networks={"mobilenet_m": {"parameters": 3_211_074}})
    written = json.loads(record.render(data))
    assert {s["name"] for s in written["systems"]} == {*SYSTEMS, *OWN}
    (shown,) = [s for s in written["systems"] if s["name"] == "mobilenet_m"]
    row = data.row("mobilenet_m", "imagenet")
    for level in ("image", "group"):
        accuracy = measured.scores(row.at(level))["accuracy"]
        assert shown[level]["accuracy"] == pytest.approx(vars(accuracy), abs=1e-5)
    assert (shown["image"]["folds"], shown["image"]["of_folds"], shown["group"]["of_folds"]) == (2, 3, 3)
    assert (shown["leak"], shown["changed"], shown["claimed"]["accuracy"]) == (
        pytest.approx(vars(row.leak), abs=1e-5),
        "nothing",
        0.9533,
    )
    assert shown["noise"]["sigmas"] == [0, 2, 5, 6, 8, 10] and len(shown["noise"]["weighted_f1"]) == 6
    assert (shown["milliseconds"], shown["times_mobilenetv1"], shown["parameters"]) == (6.04, 1.02, 3_211_074)
    (vgg,) = [s for s in written["systems"] if s["name"] == "p2_vgg16"]
    assert vgg["group"] == {"missing": cells.missing(data.row("p2_vgg16", "imagenet"), "group")}
    assert (vgg["leak"], vgg["noise"], vgg["changed"]) == (None, None, "-")
    assert Comparison.from_dict(written).machine == "two cores"


def test_the_demo_can_read_a_record_of_nothing():
    read = Comparison.from_dict(json.loads(record.render(evidence())))
    assert not any(system.measured for system in read.systems) and len(read.systems) == len(SYSTEMS) + len(OWN)


def test_a_readme_without_its_marks_is_refused():
    assert readme.render("a\n<!-- x -->\nold\n<!-- /x -->\nb", "new", ("<!-- x -->", "<!-- /x -->")) == (
        "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    )
    with pytest.raises(BlastlensError, match="no lines"):
        readme.render("nothing here", "new")


@pytest.mark.slow
def test_the_committed_pages_show_the_committed_results():
    results = ROOT / "results"
    data = Evidence.read(results, ROOT / "models")
    files = pages.render(data)
    for name, text in files.items():
        assert (results / name).read_text(encoding="utf-8") == text, f"{name}: run python -m train.report"
    assert {f"figures/{path.name}" for path in (results / "figures").glob("*.svg")} == {n for n in files if ".svg" in n}
    front = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.render(front, pages.readme_block(data), readme.COMPARISON) == front
