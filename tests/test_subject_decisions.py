"""One decision per subject, and none where the cells are on average unlike those of every training donor."""

import csv
import io
import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from helpers_models import blobs, shared_model_folder
from PIL import Image

from blastlens import BlastlensError, Classifier
from blastlens.cell_measurements import measure_cell
from blastlens.cli import main
from blastlens.model_folder import ModelFolder
from blastlens.ood_detection import STATISTICS, statistics_of
from blastlens.patients import Answer, by_patient
from blastlens.subject_decisions import MEASURES, SubjectDecider, mean_statistics
from blastlens.ui.batch import BatchRun, patient_rows, patient_table
from blastlens.ui.single_image_html import measurements_html
from train import subject_evaluation
from train.held_out import HeldOut
from train.subject_evaluation import QUANTILE, fit_check, larger, measure, restained

K = len(MEASURES)


def donors(number=40, seed=0, shift=0.0):
    """Mean statistics of donors: correlated, of very different scales."""
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(number, 1))
    return (common + 0.5 * rng.normal(size=(number, K)) + shift) * np.logspace(-2, 2, K)


def test_the_check_accepts_new_donors_of_the_same_kind_and_no_shifted_ones():
    check = fit_check(donors())
    new = np.mean([check.distance(one) > check.limit for one in donors(500, seed=1)])
    assert new == pytest.approx(1 - QUANTILE, abs=0.05)
    assert all(check.distance(one) > check.limit for one in donors(seed=2, shift=np.eye(K)[3] * 5))
    assert check.distance(donors()[7]) == pytest.approx(0)
    assert check.distance(np.full(K, np.nan)) == np.inf
    scaled = fit_check(donors() * 1000)
    assert scaled.limit == pytest.approx(check.limit)  # whatever the units


def held_out(means, folds=4, each=5):
    """Predictions of subjects with these mean probabilities; the first half is leukemic."""
    group = np.repeat([f"{k:02d}" for k in range(len(means))], each)
    label = np.repeat(np.arange(len(means)) >= len(means) // 2, each).astype(int)
    fold = np.repeat(np.arange(len(means)) % folds, each)
    p = np.repeat(means, each).clip(1e-3, 1 - 1e-3)
    logits = np.log(np.stack([p, 1 - p], axis=1))[None]
    return HeldOut(np.array([0.0]), np.arange(len(group)), label, fold, logits, group, np.zeros_like(fold))


def test_rates_count_held_out_subjects_with_a_decision():
    means = np.r_[np.full(20, 0.8), np.full(20, 0.2)]
    means[0], means[25] = 0.1, 0.9  # one of each class is wrong
    statistics = np.repeat(donors(), 5, axis=0)
    statistics[125:130] += 30 * statistics.std(axis=0)  # the images of the wrong healthy one are unlike all others
    found = measure([held_out(means)] * 2, statistics, 0)
    measured = found["measured"]
    assert (measured["leukemic"], measured["healthy"], measured["wrong"], measured["wrong_abstained"]) == (20, 20, 2, 1)
    assert measured["subjects_abstained"]["25"] == 1
    assert measured["without_abstention"]["specificity"]["value"] == 0.95 and measured["specificity"]["value"] == 1
    assert measured["sensitivity"]["value"] == pytest.approx(0.95, abs=0.01)
    assert 0.2 < found["threshold"] < 0.8 and len(found["check"]["donors"]) == 40


def record(labels=("HEM", "ALL"), **changes):
    check = fit_check(np.array([list(mean_statistics([statistics_of(blobs(k))])) for k in range(12)]))
    rates = {"value": 0.9, "low": 0.8, "high": 0.95}
    block = {
        "protocol": "group-kfold:5",
        "seeds": [0, 1, 2],
        "labels": list(labels),
        "threshold": 0.5,
        "check": {"measures": list(MEASURES), "limit": check.limit + 3}
        | {name: getattr(check, name).tolist() for name in ("center", "axes", "donors")},
        "measured": dict.fromkeys(("sensitivity", "specificity", "abstained"), rates) | {"leukemic": 28, "healthy": 15},
    }
    return block | changes


def test_a_subject_is_decided_by_the_mean_or_not_at_all():
    decider = SubjectDecider.from_metrics({"subjects": record()})
    usual, other = (statistics_of(view) for view in (blobs(3), restained(blobs(3), (3, 1, 1))))
    answers = [
        Answer(name, True, 0.9, True, p, statistics)
        for name, p, statistics in (("a", 0.7, usual), ("b", 0.3, usual), ("c", 0.9, other), (None, 0.9, usual))
        for _ in range(3)
    ]
    decisions = [one.decision for one in by_patient([*answers, Answer("d", True, 0.9, True, 0.9, usual)], decider)]
    assert [one and one.label for one in decisions] == ["ALL", "HEM", None, None, None]
    assert "unlike those of every training donor" in decisions[2].reason and "fewer than 3" in decisions[3].reason
    assert decisions[4] is None  # images of unknown subjects are not one subject
    assert all(one.decision is None for one in by_patient(answers))
    assert "28 leukemic and 15 healthy): sensitivity 0.90 (0.80 to 0.95)" in decider.measured


@pytest.mark.parametrize(
    "changes",
    [
        {"threshold": None},
        {"threshold": float("nan")},
        {"labels": ["ALL"]},
        {"measured": {}},
        {"check": {}},
        {"check": record()["check"] | {"donors": []}},
        {"check": record()["check"] | {"measures": ["black"]}},
    ],
)
def test_a_damaged_record_is_one_sentence(changes):
    with pytest.raises(BlastlensError, match=r"The block subjects of metrics.json cannot be used"):
        SubjectDecider.from_metrics({"subjects": record(**changes)})
    assert SubjectDecider.from_metrics({}) is None


def test_shifts_change_size_and_stain_alone():
    view = np.zeros((224, 224, 3), np.uint8)
    view[60:160, 70:150] = blobs(1)[60:160, 70:150].clip(40)
    area = (view.max(axis=2) > 16).sum()
    wide, narrow = ((larger(view, f).max(axis=2) > 16).sum() for f in (1.1, 1 / 1.1))
    assert wide / area == pytest.approx(1.21, rel=0.05) and narrow / area == pytest.approx(1 / 1.21, rel=0.05)
    assert (restained(view, (1, 1, 1)) == view).all()
    assert (restained(view, (1.2, 1, 1))[..., 1:] == view[..., 1:]).all()


@pytest.fixture
def model(tmp_path):
    """A model with OOD detection that accepts everything, and decisions by subject."""
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "model")
    wide = {name: {"low": -1e6, "high": 1e6} for name in STATISTICS}
    (folder / "gate.json").write_text(json.dumps({"schema": 1, "images": "cells", "statistics": wide}))
    metrics = json.loads((folder / "metrics.json").read_text()) if (folder / "metrics.json").exists() else {}
    (folder / "metrics.json").write_text(json.dumps(metrics | {"subjects": record()}))
    return folder


def test_the_statistics_of_a_prediction_are_those_without_noise_and_not_in_its_json(model):
    classifier = Classifier.from_pretrained(model)
    for _ in range(2):  # the second is remembered
        noisy = classifier.predict(blobs(3), sigma=20)
        assert noisy.statistics == pytest.approx(statistics_of(blobs(3)), nan_ok=True)
    assert "statistics" not in noisy.to_dict()
    assert classifier.leukemia(replace(noisy, logits=(2.0, 0.0))) == pytest.approx(1 / (1 + np.exp(-2)))


def test_score_writes_one_decision_per_subject(model, tmp_path, capsys):
    from PIL import Image

    for subject, view in (("one", blobs), ("other", lambda seed: restained(blobs(seed), (3, 1, 1)))):
        (tmp_path / "in" / subject).mkdir(parents=True)
        for seed in range(4):
            Image.fromarray(view(seed)).save(tmp_path / "in" / subject / f"{seed}.png")
    out = tmp_path / "r.parquet"
    words = ["score", str(tmp_path / "in"), "--out", str(out), "--model", str(model), "--by-subject"]
    assert main(words) == 0
    with (tmp_path / "r.parquet.subjects.csv").open(newline="") as file:
        one, other = csv.DictReader(file)
    expected = [
        one.probabilities["ALL"] for one in map(Classifier.from_pretrained(model).predict, map(blobs, range(4)))
    ]
    assert (one["subject"], one["images"], one["no_decision_because"]) == ("one", "4", "")
    assert one["decision"] == ("ALL" if np.mean(expected) >= 0.5 else "HEM")
    assert float(one["mean_probability"]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert other["decision"] == "" and "unlike those of every training donor" in other["no_decision_because"]
    assert "sensitivity 0.90" in capsys.readouterr().out
    table = tmp_path / "table.csv"
    table.write_text("file_name,subject\none/0.png,H1\none/1.png,H1\nother/0.png,H1\n")
    assert main([*words, str(table), "--overwrite"]) == 0
    with (tmp_path / "r.parquet.subjects.csv").open(newline="") as file:
        assert [(row["subject"], row["images"]) for row in csv.DictReader(file)] == [("H1", "3")]
    plain = shared_model_folder("cell")
    assert main([*words[:5], str(plain), "--by-subject", "--out", str(tmp_path / "x.parquet")]) == 2
    assert "makes no decisions by subject" in capsys.readouterr().err


def test_the_folder_tab_shows_decisions(model, tmp_path):
    paths = []
    for seed in range(3):
        paths.append(str(tmp_path / f"UID_H3_{seed}_1_hem.png"))
        Image.fromarray(blobs(seed)).save(paths[-1])
    run = BatchRun(Classifier(ModelFolder.load(model)), paths, 0)
    list(run.steps())
    table, (row,) = patient_table(run), patient_rows(run)
    assert table["headers"][1] == "Decision" and table["data"][0][1] == row["decision"] in ("ALL", "HEM")
    assert "specificity 0.90" in row["note"] and any("specificity 0.90" in one for one in run.to_dict()["warnings"])


def test_the_folders_in_a_zip_name_the_patients_if_asked_to(model, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("p1/1.png", "p1/2.png", "b/p1/3.png", "UID_H3_1_1_hem.png", "4.png"):
            Image.fromarray(blobs(len(name))).save(file := io.BytesIO(), "PNG")
            archive.writestr(name, file.getvalue())
    for by_folder, subjects in ((False, ["H3", None]), (True, ["b/p1", "H3", "p1", None])):
        run = BatchRun(Classifier(ModelFolder.load(model)), [str(tmp_path / "a.zip")], 0, by_folder=by_folder)
        list(run.steps())
        assert [patient.subject for patient in run.patients()] == subjects


def test_measurements_of_a_cell_beside_those_of_training_donors():
    cell = np.zeros((224, 224, 3), np.uint8)
    cell[50:150, 60:160] = (127, 63, 255)  # optical densities ln 2, ln 4, 0
    measured = measure_cell(cell)
    assert measured["area"] == 10 and measured["diameter"] == pytest.approx(2 * 100 / np.sqrt(np.pi))
    densities = [measured[f"density_{channel}"] for channel in ("red", "green", "blue")]
    assert densities == pytest.approx([np.log(2), np.log(4), 0])
    assert set(measure_cell(np.zeros((8, 8, 3), np.uint8)).values()) == {0.0}

    sizes = np.array([40, 60, 50, 90, 90, 90, 70])  # of the side; donor c has too few cells
    views = np.zeros((7, 100, 100, 3), np.uint8)
    for view, size in zip(views, sizes, strict=True):
        view[:size, :size] = 99
    groups = np.array(["a", "a", "a", "b", "b", "b", "c"])
    found = subject_evaluation.ranges(views, ["HEM"] * 3 + ["ALL"] * 4, groups)
    assert found["ALL"]["area"] == [8.1, 8.1] and found["HEM"]["area"] == [pytest.approx(7.7 / 3, abs=1e-4)] * 2
    page = measurements_html({"subjects": {"ranges": found}}, cell)
    assert "10.0" in page and "8.1\u20138.1" in page and "HEM donors" in page
    for damaged in ({}, {"subjects": None}, {"subjects": {"ranges": {"HEM": {"area": ["x"]}}}}):
        assert measurements_html(damaged, cell) == ""
