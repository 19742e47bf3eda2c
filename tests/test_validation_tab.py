"""The tab "Validate on your data" and its endpoint: uploads, cancellation and findings."""

import csv
import json
import zipfile
from types import SimpleNamespace

import gradio as gr
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from helpers_files import encoded, write_zip
from helpers_models import blobs, shared_model_folder

from blastlens import Classifier
from blastlens.model_folder import bundled_models
from blastlens.ui import validation
from blastlens.ui.model_registry import Shelf
from blastlens.ui.server import Page
from blastlens.ui.validation import ValidationTab

CELL, FIELD = "tiny-cell", "tiny-field"


@pytest.fixture(scope="module")
def shelf():
    classifiers = [Classifier.from_pretrained(shared_model_folder(kind)) for kind in ("cell", "field")]
    return Shelf({c.folder.model_id: c for c in classifiers})


@pytest.fixture
def tab(shelf, tmp_path, monkeypatch):
    """The tab's functions; files under tmp_path count as uploaded."""
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    return ValidationTab(shelf, gr.File())


@pytest.fixture(scope="module")
def client(demo_address):
    return Client(demo_address, verbose=False)


def png(number):
    return encoded(blobs(number))


def zip_of(file, names, content=png):
    return {"path": str(write_zip(file, [(name, content(number)) for number, name in enumerate(names)]))}


SLIDES = [f"{label}/{label} donor {n}/{k}.png" for label in ("leukemia", "normal") for n in range(3) for k in range(2)]


def ended(steps):
    *_, (progress, findings, start, stop) = steps
    assert (start.interactive, stop.interactive) == (True, False)
    return progress + findings


def test_the_contents_of_a_zip_are_shown_before_the_run(tab, tmp_path):
    upload = zip_of(tmp_path / "a.zip", [*SLIDES, "odd/1.png"])
    found, *_, start, stop = tab.look(upload, CELL)
    found = " ".join(found.split())
    assert "12 labelled images, 6 subjects" in found and "Folder odd (1 image) is named like none" in found
    assert "<strong>leukemia</strong> read as ALL · leukemic B-lymphoblast (6)" in found
    assert (start.interactive, stop.interactive) == (True, False)
    # Another model, another reading of the same folders.
    assert "Folder leukemia (6 images) is named like none" in tab.look(upload, FIELD)[0]
    assert not tab.look(None, CELL)[3].interactive


def test_a_run_ends_with_findings_and_a_report(tab, tmp_path):
    steps = list(tab.run(zip_of(tmp_path / "my <b>.zip", SLIDES), CELL))
    assert "0 of 12 images" in steps[0][0] and (steps[0][2].interactive, steps[0][3].interactive) == (False, True)
    findings = ended(steps)
    assert '<a download="blastlens-tiny-cell-' in findings and "data:text/html" in findings
    assert 'class="report"' in findings and "This model has no published figures" in findings


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "no labelled image"),
        (["odd/1.png"], "Folder odd (1 image)"),
        (["<img src=x>/1.png"], "Folder &lt;img src=x&gt; (1 image)"),
    ],
)
def test_a_zip_that_cannot_be_tested_is_refused_in_one_sentence(tab, tmp_path, names, said):
    upload = zip_of(tmp_path / "a.zip", names)
    for shown in (tab.look(upload, CELL)[0], ended(tab.run(upload, CELL))):
        assert said in shown and 'role="alert"' in shown and "<img" not in shown


def test_images_that_cannot_be_read_are_listed_and_none_readable_is_said(tab, tmp_path):
    broken = zip_of(tmp_path / "a.zip", SLIDES, lambda n: b"no" if n == 0 else png(n))
    assert "0.png is not an image that can be read" in ended(tab.run(broken, CELL))
    none = zip_of(tmp_path / "b.zip", SLIDES, lambda n: b"no")
    assert "None of the 12 labelled images could be read" in ended(tab.run(none, CELL))


def test_a_run_that_is_cancelled_reads_nothing_more(tab, tmp_path, monkeypatch):
    monkeypatch.setattr(validation, "UPDATE_S", 0)
    reads = []
    monkeypatch.setattr(validation, "measure", lambda c, images, others: (reads.append(i) for i in images))
    steps = tab.run(zip_of(tmp_path / "a.zip", SLIDES), CELL)
    next(steps), next(steps), next(steps)
    assert len(reads) == 2
    steps.close()
    assert len(reads) == 2


def test_the_endpoint_answers_with_plain_figures_and_their_origin(client, tmp_path):
    zip_of(tmp_path / "a.zip", SLIDES)
    answer = client.predict(handle_file(tmp_path / "a.zip"), CELL, api_name="/test_on_labelled_images")
    json.dumps(answer, allow_nan=False)
    assert (answer["images"], answer["people"], answer["model_id"]) == (12, 6, CELL)
    confusion = np.array(answer["confusion_matrix"])
    assert confusion.sum() == 12
    here = answer["scores"]["accuracy"]["here"]
    assert here["value"] == pytest.approx(np.trace(confusion) / 12)
    assert answer["scores"]["accuracy"]["published"] is None and answer["unlike_training_images"] is None
    assert {"revision", "sigma", "warnings", "verdict", "noise"} <= set(answer)


@pytest.mark.parametrize(
    ("names", "model", "said"),
    [
        (["odd/1.png"], CELL, "Folder odd"),
        (SLIDES, "elsewhere", "no model 'elsewhere'"),
        (["1.txt"], CELL, "not an image"),
    ],
)
def test_the_endpoint_refuses_in_one_sentence(client, tmp_path, names, model, said):
    zip_of(tmp_path / "a.zip", names)
    with pytest.raises(AppError) as refusal:
        client.predict(handle_file(tmp_path / "a.zip"), model, api_name="/test_on_labelled_images")
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_only_uploaded_zips_are_read_under_any_name(tab, tmp_path, tmp_path_factory):
    assert tab.answer(zip_of(tmp_path / "file.bin", SLIDES), CELL)["images"] == 12
    (tmp_path / "cell.png").write_bytes(png(0))
    with pytest.raises(validation.BlastlensError, match=r"cell\.png is not a zip"):
        tab.answer({"path": str(tmp_path / "cell.png")}, CELL)
    elsewhere = zip_of(tmp_path_factory.mktemp("private") / "a.zip", SLIDES)
    for upload in (elsewhere, {"path": elsewhere["path"]}):
        with pytest.raises(validation.BlastlensError, match="was not uploaded here"):
            tab.answer(upload, CELL)


def zip_of_cells(data_dir, file):
    """Four cells each of three people of either class of C-NMC, under their own names."""
    chosen = {}
    with (data_dir / "cnmc2019" / "metadata.csv").open(newline="") as table:
        for row in csv.DictReader(table):
            chosen.setdefault((row["label"], row["subject"]), []).append(row["file_name"])
    of_label = {label: sorted(key for key in chosen if key[0] == label)[:3] for label in ("all", "hem")}
    with zipfile.ZipFile(file, "w") as archive:
        for label, keys in of_label.items():
            for key in keys:
                for name in chosen[key][:4]:
                    archive.write(data_dir / "cnmc2019" / name, f"{label}/{name.rpartition('/')[2]}")


def test_a_cancelled_run_leaves_the_page_ready(tab, tmp_path):
    upload, odd = zip_of(tmp_path / "a.zip", SLIDES), zip_of(tmp_path / "odd.zip", ["odd/1.png"])
    for archive, ready in ((upload, True), (odd, False), (None, False)):
        progress, findings, start, stop = tab.stopped(archive, CELL)
        assert "Cancelled; nothing was kept." in progress and "report" not in findings
        assert (start.interactive, stop.interactive) == (ready, False)


def test_runs_take_turns_and_a_cancelled_one_updates_the_page_last(shelf):
    with Page() as demo:
        validation.build(shelf, gr.Radio([CELL, FIELD], value=CELL))
    heavy = [fn for fn in demo.fns.values() if fn.concurrency_id == "many images"]
    assert [fn.concurrency_limit for fn in heavy] == [1, 1]
    assert [fn.api_name for fn in heavy if fn.api_visibility == "public"] == ["test_on_labelled_images"]
    by_name = {fn.fn.__name__: fn for fn in demo.fns.values() if fn.fn is not None}
    # Only after the run has ended: its last progress would otherwise stay on the page.
    stopped, run = by_name["stopped"], by_name["run"]
    assert (stopped.trigger_after, stopped.trigger_only_on_failure, stopped.queue) == (run._id, True, False)
    assert sum(run._id in fn.cancels for fn in demo.fns.values()) == 2


def test_real_cells_are_scored_by_the_bundled_model(data_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    assert "mobilenetv1-cnmc2019" in bundled_models()
    classifier = Classifier.from_pretrained("mobilenetv1-cnmc2019")
    zip_of_cells(data_dir, tmp_path / "cells.zip")
    tab = ValidationTab(Shelf({classifier.folder.model_id: classifier}), SimpleNamespace())
    answer = tab.answer({"path": str(tmp_path / "cells.zip")}, "")
    assert (answer["images"], answer["people"]) == (24, 6)
    # These are training images, which the answer must say.
    assert answer["scores"]["accuracy"]["here"]["value"] > 0.8
    assert "training data" in answer["caveats"][0]
    assert answer["verdict"]["tone"] == "open"
    published = classifier.folder.metrics["headline"]["balanced_accuracy"]["value"]
    assert answer["scores"]["balanced_accuracy"]["published"]["value"] == published
    assert [level["sigma"] for level in answer["noise"]] == [0, 5, 10, 20, 30, 50]
    assert all(level["published"] for level in answer["noise"])
