"""The page of evidence: curves, matrices and sheets show the recorded predictions."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers_results import made_up_result
from helpers_synthetic import drawn_dataset
from sklearn.metrics import auc

from blastlens.metrics import score
from train.datasets import dataset_hash, load_rows
from train.recipe import Recipe
from train.report import evidence, figures
from train.report.measured import RunSet
from train.report.published import Publications
from train.report.systems import Evidence

RESULTS = Path(__file__).parents[1] / "results"
CURVE = (
    {"epoch": 1.0, "loss": 0.7, "accuracy": 0.5, "val_loss": None, "val_accuracy": None},
    {"epoch": 2.0, "loss": 0.4, "accuracy": 0.8, "val_loss": 0.5, "val_accuracy": 0.75},
)


def evidence_of(**changes) -> Evidence:
    recipe = Recipe.load("mobilenet_m")
    run = made_up_result(n=240, recipe_digest=recipe.digest, sigmas=(0, 10), **changes)
    return Evidence(Publications.load(RESULTS / "published.yaml"), (run,), {"mobilenet_m": recipe})


@pytest.mark.parametrize("names", [("ALL", "HEM"), ("Benign", "Early", "Pre", "Pro")])
def test_the_area_under_a_roc_curve_is_the_recorded_auroc(names):
    run = made_up_result(n=400, label_names=names)
    false, true = evidence.roc_curves(RunSet((run,)))
    if len(names) == 2:
        expected = score("auroc", run.label, run.probabilities[0], positive=0)
        assert auc(false, true) == pytest.approx(expected, abs=0.01)
    assert false[0] == 0 and true[-1] == 1 and (np.diff(true) >= 0).all()


def test_the_curve_of_several_folds_is_the_mean_of_their_curves():
    runs = [made_up_result(n=240, seed=seed, fold=seed, skill=skill) for seed, skill in ((0, 0.2), (1, 3.0))]
    both = evidence.roc_curves(RunSet(tuple(runs)))
    alone = [evidence.roc_curves(RunSet((run,))) for run in runs]
    np.testing.assert_allclose(both[1], np.mean([curve[1] for curve in alone], axis=0))


def test_a_confusion_matrix_has_the_shares_of_each_true_class():
    run = made_up_result(n=240)
    shares, names = evidence.confusion_matrices(RunSet((run,)))
    predicted = run.probabilities[0].argmax(1)
    assert names == ("ALL", "HEM")
    assert shares[0, 1] == pytest.approx((predicted[run.label == 0] == 1).mean())
    np.testing.assert_allclose(shares.sum(1), 1)


def test_learning_curves_are_the_log_where_there_is_one():
    assert evidence.learning_curves(RunSet((made_up_result(),))) is None
    found = evidence.learning_curves(RunSet((made_up_result(curve=CURVE),)))
    assert found["loss"].tolist() == [0.7, 0.4] and np.isnan(found["val_accuracy"][0])


def test_a_record_keeps_its_curve(tmp_path):
    run = made_up_result(curve=CURVE)
    assert type(run).read(run.write(tmp_path)).curve == CURVE


def test_the_page_shows_every_class_under_noise_and_the_figures_that_are_drawn():
    known = evidence_of(curve=CURVE)
    text = evidence.page(known)
    drawn = evidence.drawings(known)
    assert set(drawn) == {"learning_cnmc2019", "roc_cnmc2019", "confusion_cnmc2019"}
    assert all(f"figures/{name}.svg" in text for name in drawn)
    (row,) = (row for row in known.rows if row.measured)
    for label, values in evidence.class_lines(row, "group"):
        line = next(line for line in text.splitlines() if f"| {label} |" in line)
        assert [cell.strip() for cell in line.split("|")[4:-1]] == [f"{v.value:.3f}" if v else "-" for v in values]
        assert values[3:6] == [None] * 3  # sigma 5 was not tested


def test_sheets_show_only_images_of_the_same_data_set(tmp_path):
    drawn_dataset(tmp_path, ("ALL", "HEM"), per_group=2, groups_per_label=6, size=32)
    rows = load_rows(tmp_path)
    dataset = {"name": "cnmc2019", "hash": dataset_hash(rows), "images": len(rows)}
    known = evidence_of(index=np.arange(240) % len(rows), dataset=dataset)
    (sheet,) = evidence.sample_sheets(known, tmp_path).values()
    assert figures.png(sheet).startswith(b"\x89PNG")
    assert len(sheet.axes) == evidence.SHEET
    other = replace(known, results=(replace(known.results[0], dataset=dataset | {"hash": "1"}),))
    assert evidence.sample_sheets(other, tmp_path) == {}
