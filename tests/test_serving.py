"""Which models the page offers, and what it falls back to when the Hub fails."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_models import blobs, shared_model_folder, write_json
from huggingface_hub import constants

from blastlens import BlastlensError, Classifier, serving
from blastlens.model_folder import ModelFolder, bundled_models, bundled_root, published_systems
from blastlens.serving import Wanted, begin, serve, wanted
from blastlens.ui import build
from blastlens.ui.code_snippets import LOCAL, snippets_markdown
from blastlens.ui.model_registry import Shelf, described

ROOT = Path(__file__).resolve().parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def published(hub, tmp_path):
    """A model on the Hub, wanted at its commit, with the copy that a Space includes."""
    folder = shared_model_folder("cell")
    commit = hub.add_folder("owner/cells", folder)
    copy = shutil.copytree(folder, tmp_path / "models" / "cells-copy")
    return Wanted("owner/cells", commit, copy)


def write_space(root, value):
    (root / "space.json").write_text(value if isinstance(value, str) else json.dumps(value))


# What is offered


def test_by_default_the_bundled_models_are_offered(tmp_path, monkeypatch):
    monkeypatch.delenv("BLASTLENS_SERVE", raising=False)
    assert [one.model for one in wanted(tmp_path)] == [*bundled_models(), *published_systems()]
    assert all(one.revision is None and one.copy is None for one in wanted(tmp_path))
    monkeypatch.setenv("BLASTLENS_MODELS", str(tmp_path))
    with pytest.raises(BlastlensError, match="no model folder"):
        wanted(tmp_path)


def test_a_space_names_models_revisions_and_copies(tmp_path, monkeypatch):
    monkeypatch.delenv("BLASTLENS_SERVE", raising=False)
    models = [{"repo_id": "owner/a", "revision": COMMIT, "copy": "models/a"}, {"repo_id": "owner/b"}]
    write_space(tmp_path, {"models": models})
    assert wanted(tmp_path) == (Wanted("owner/a", COMMIT, tmp_path / "models/a"), Wanted("owner/b"))


def test_the_environment_variable_comes_first_and_may_name_revisions(tmp_path, monkeypatch):
    write_space(tmp_path, {"models": [{"repo_id": "owner/a"}]})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "x@1").mkdir(parents=True)
    monkeypatch.setenv("BLASTLENS_SERVE", " owner/a@v1.0  models/b\nruns/x@1 ")
    assert wanted(tmp_path) == (Wanted("owner/a", "v1.0"), Wanted("models/b"), Wanted("runs/x@1"))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        {"models": []},
        {"models": [1]},
        {"models": [{}]},
        {"models": [{"repo_id": "a/b", "revision": 1}]},
        {"models": [{"repo_id": "a/b", "copy": ["models/a"]}]},
    ],
    ids=str,
)
def test_a_space_that_cannot_be_read_is_one_clear_error(tmp_path, monkeypatch, content):
    monkeypatch.delenv("BLASTLENS_SERVE", raising=False)
    write_space(tmp_path, content)
    with pytest.raises(BlastlensError, match=r"space\.json"):
        wanted(tmp_path)


# Loading


def test_a_pinned_model_is_loaded_from_the_hub_and_the_second_time_without_a_request(hub, published):
    hub.commit("owner/cells", {"config.json": b"{}"})  # the branch has moved on, and is broken
    (one,) = serve([published])
    assert one.notice == ""
    assert (one.classifier.folder.model_id, one.classifier.folder.revision) == ("owner/cells", published.revision)
    hub.requests.clear()
    assert serve([published])[0].notice == "" and hub.requests == []


FAILURES = {
    "busy": ({"status": 503}, "503"),
    "gone": ({}, "There is no model owner/cells"),
    "cut off": ({"drop": True}, "did not deliver it"),
    "slow": ({"delay": 60, "drop": True}, "did not deliver model owner/cells within"),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_if_the_hub_fails_the_copy_gives_the_same_predictions_and_the_notice_says_why(
    hub, published, failure, monkeypatch
):
    how, why = FAILURES[failure]
    expected = Classifier.from_pretrained("owner/cells", published.revision).predict(blobs(0))
    shutil.rmtree(constants.HF_HUB_CACHE)
    if failure == "gone":
        del hub.repositories["model", "owner/cells"]
    else:
        hub.fail("GET", "owner/cells", times=math.inf, **how)
    monkeypatch.setattr(serving, "HUB_S", 0.5 if failure == "slow" else 15)
    (one,) = serve([published])
    folder = one.classifier.folder
    assert why in one.notice and one.notice.endswith("so this page falls back to the bundled copy models/cells-copy.")
    assert str(published.copy) not in one.notice and published.revision not in one.notice
    assert folder.path == published.copy
    assert one.classifier.predict(blobs(0)) == expected  # model id and revision, too
    assert described(folder, one.notice)["warnings"] == [one.notice]
    assert f'"owner/cells",\n    revision="{published.revision}"' in snippets_markdown(folder, LOCAL)


def test_without_hub_and_copy_the_error_names_both(hub, published):
    hub.fail("GET", ".", times=math.inf, status=503)
    (published.copy / "config.json").write_text("{}")
    with pytest.raises(BlastlensError, match=r"503.*Its copy cannot be served either: .*config\.json"):
        serve([published])


def test_without_a_copy_the_bundled_models_are_offered(hub, monkeypatch):
    hub.fail("GET", ".", times=math.inf, status=503)
    served = serve([Wanted("owner/cells"), Wanted(str(shared_model_folder("field")))])
    assert [one.classifier.folder.model_id for one in served] == [*bundled_models(), "tiny-field"]
    assert [bool(one.notice) for one in served] == [True] + [False] * (len(served) - 1)
    assert "Model owner/cells is not on this machine" in served[0].notice
    assert served[0].notice.endswith("so this page falls back to the bundled models.")
    monkeypatch.setenv("BLASTLENS_MODELS", "/nothing")
    with pytest.raises(BlastlensError, match="503"):
        serve([Wanted("owner/cells")])


def test_a_model_that_the_hub_does_not_have_is_an_error(hub):
    with pytest.raises(BlastlensError, match="There is no model owner/cells"):
        serve([Wanted("owner/cells")])


def test_local_models_are_loaded_without_a_request(hub):
    given = [Wanted(bundled_models()[0]), Wanted(f"models/{bundled_models()[0]}"), Wanted(str(bundled_root()))]
    assert begin(given) == given and hub.requests == []


def test_the_time_since_begin_counts_as_waiting(hub, published):
    hub.fail("GET", ".", times=math.inf, delay=60, drop=True)
    (loading,) = begin([published])
    (one,) = serve([replace(loading, until=loading.until - serving.HUB_S)])
    assert "did not deliver" in one.notice and "falls back to the bundled copy" in one.notice


def test_two_models_of_one_name_and_none_at_all_are_rejected(tmp_path):
    for place in ("a", "b"):
        shutil.copytree(shared_model_folder("field"), tmp_path / place / "same")
    with pytest.raises(BlastlensError, match="Two of the models to offer are called same"):
        serve([Wanted(str(tmp_path / place / "same")) for place in ("a", "b")])
    with pytest.raises(BlastlensError, match="no model to offer"):
        serve([])


# The page


@pytest.fixture(scope="module")
def shelf():
    folders = [shared_model_folder("cell"), shared_model_folder("field")]
    classifiers = {folder.name: Classifier.from_pretrained(folder) for folder in folders}
    return Shelf(classifiers)


@pytest.mark.parametrize(
    "model",
    ["who/cells", "who/cells@v1", f"who/cells@{COMMIT}", "/etc", "../x", "models/x", "a/" + "b" * 1000, 7, ["a/b"]],
    ids=lambda model: str(model)[:20],
)
def test_the_page_opens_no_model_but_those_on_offer(hub, shelf, model):
    with pytest.raises(BlastlensError, match=r"only tiny-cell, tiny-field|choose one of tiny-cell") as refusal:
        shelf.classifier(model)
    assert len(str(refusal.value)) < 500 and hub.requests == []


def test_an_id_on_offer_with_its_revision_is_the_model_on_offer():
    classifier = Classifier(ModelFolder.load(shared_model_folder("cell"), "who/cells", COMMIT))
    shelf = Shelf({"who/cells": classifier})
    assert shelf.classifier(f"who/cells@{COMMIT}") is classifier is shelf.classifier("who/cells")


def test_labels_are_escaped_on_every_tab(tmp_path):
    folder = shutil.copytree(shared_model_folder("field"), tmp_path / "hostile")
    labels = ["<img src=x onerror=alert(1)>", "\"'><script>alert(2)</script>", "=1+1", "__proto__"]
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | {"label_names": labels})
    shown = [part["props"].get("value") for part in build([folder]).config["components"] if part["type"] == "html"]
    assert any("&lt;img" in str(value) for value in shown)
    assert not re.search(r"<img src=x|<script>alert", json.dumps(shown))


# app.py

STARTED = """
import app, spaces
functions = [block.fn for block in app.demo.fns.values()]
called = [one.__name__ for one in functions if one and one.__name__ in [f.__name__ for f in spaces.declared]]
print(len(spaces.declared), called, spaces.gradio_was_there, spaces.uploads == str(app.uploads))
"""
FAKE_SPACES = """
import os, sys
gradio_was_there, uploads, declared = "gradio" in sys.modules, os.environ.get("GRADIO_TEMP_DIR"), []
def GPU(function):
    declared.append(function)
    return function
"""


@pytest.mark.slow
def test_on_a_space_one_function_is_declared_for_the_gpu_and_no_event_calls_it(tmp_path):
    (tmp_path / "spaces.py").write_text(FAKE_SPACES)
    environment = {name: value for name, value in os.environ.items() if name != "GRADIO_TEMP_DIR"}
    environment |= {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", STARTED], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[0] == "1 [] False True"
