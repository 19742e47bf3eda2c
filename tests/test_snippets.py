"""The "Code" tab: each snippet runs as it is displayed, and gives the prediction of Classifier."""

import ast
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from gradio_client import Client
from helpers_machine import lacking
from helpers_models import make_model_folder, shared_model_folder
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from blastlens import Classifier
from blastlens.model_folder import ModelFolder
from blastlens.predictions import DISCLAIMER
from blastlens.synthetic_images import synthetic_image
from blastlens.ui import build, code_snippets
from blastlens.ui.code_snippets import (
    LOCAL,
    Origin,
    Snippet,
    address_of,
    described,
    local_snippets,
    remote_snippets,
    snippets_markdown,
)

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
# Runs snippets one after the other in an interpreter of their own, and hands back what each printed.
RUNNER = """
import contextlib, io, json, sys
printed = []
for code in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(code, "snippet", "exec"), {"__name__": "__main__"})
    printed.append(out.getvalue())
print(json.dumps(printed))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image for each kind of model, under a name that a shell has to take care of.

    The cell is a prepared one, 224 px: to shrink a frame of 450 px, transformers rounds other numbers than Pillow.
    """
    folder = tmp_path_factory.mktemp("it's $HOME")
    synthetic_image("ALL", 0).crop((113, 113, 337, 337)).save(folder / "cell 1.png")
    synthetic_image("Early", 0).save(folder / "field 1.png")
    return {"cell": folder / "cell 1.png", "field": folder / "field 1.png"}


def run_python(snippets: list[Snippet], **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([snippet.code for snippet in snippets]),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def probabilities_in(printed: str) -> dict[str, float]:
    """Probabilities by label, from whatever form a snippet's last line has."""
    answer = ast.literal_eval(printed.strip().splitlines()[-1])
    if isinstance(answer, list):
        return {one["label"]: one["score"] for one in answer}
    return answer.get("probabilities", answer)


def by_title(snippets, *titles):
    found = {snippet.title: snippet for snippet in snippets}
    return [found[title] for title in titles]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cell", "field"])
def test_local_snippets_give_the_prediction_of_the_classifier(kind, images):
    classifier = Classifier.from_pretrained(shared_model_folder(kind))
    origin = replace(Origin.of(classifier.folder), name=str(classifier.folder.path))
    snippets = local_snippets(origin, str(images[kind]))
    assert [snippet.title for snippet in snippets] == ["transformers", "blastlens", "timm"]
    expected = classifier.predict(images[kind]).probabilities
    for snippet, printed in zip(snippets, run_python(list(snippets)), strict=True):
        assert probabilities_in(printed) == pytest.approx(expected, abs=1e-4), snippet.title


@pytest.mark.slow
def test_snippets_for_bundled_models_run_in_a_copy_of_the_project(images):
    for name, kind in (("mobilenetv1-cnmc2019", "cell"), ("mobilenetv2-aria2021", "field")):
        classifier = Classifier.from_pretrained(name)
        origin = Origin.of(classifier.folder)
        assert origin.name == f"models/{name}"
        snippets = local_snippets(origin, str(images[kind]))
        expected = classifier.predict(images[kind]).probabilities
        for snippet, printed in zip(snippets, run_python(list(snippets)), strict=True):
            assert probabilities_in(printed) == pytest.approx(expected, abs=1e-4), (name, snippet.title)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cell", "field"])
def test_snippets_for_hub_models_load_the_pinned_revision(kind, images, tmp_path):
    # A cache as the Hub's client leaves it, whose main branch has moved on to another network.
    repository = tmp_path / "hub" / "models--somebody--model"
    make_model_folder(repository / "snapshots" / COMMIT, kind, seed=3)
    make_model_folder(repository / "snapshots" / COMMIT[::-1], kind, seed=4)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT[::-1])
    loaded = ModelFolder.load(repository / "snapshots" / COMMIT, "somebody/model", COMMIT)
    snippets = local_snippets(Origin.of(loaded), str(images[kind]))
    assert all(COMMIT in snippet.code for snippet in snippets)
    expected = Classifier.from_pretrained(loaded.path).predict(images[kind]).probabilities
    for snippet, printed in zip(snippets, run_python(list(snippets), HF_HOME=str(tmp_path)), strict=True):
        assert probabilities_in(printed) == pytest.approx(expected, abs=1e-4), snippet.title


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cell", "field"])
def test_python_snippets_for_the_page_give_the_prediction_of_the_classifier(kind, images, demo_address):
    classifier = Classifier.from_pretrained(shared_model_folder(kind))
    snippets = remote_snippets(demo_address, classifier.folder.model_id, str(images[kind]))
    asked = by_title(snippets, "gradio_client", "MCP: from Python")
    expected = classifier.predict(images[kind]).to_dict()
    for snippet, printed in zip(asked, run_python(asked), strict=True):
        assert ast.literal_eval(printed) == expected, snippet.title


@pytest.mark.slow
def test_the_snippet_for_many_images_gives_the_predictions_of_the_classifier(images, demo_address):
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    snippets = remote_snippets(demo_address, classifier.folder.model_id, str(images["cell"]))
    (printed,) = run_python(by_title(snippets, "gradio_client: many images"))
    answer = ast.literal_eval(printed)
    (one,) = answer["images"]
    assert one["file"] == images["cell"].name and answer["disclaimer"] == DISCLAIMER
    assert one["probabilities"] == pytest.approx(classifier.predict(images["cell"]).probabilities, abs=1e-6)


@pytest.mark.parametrize("kind", ["cell", "field"])
def test_the_curl_snippet_gives_the_prediction_of_the_classifier(kind, images, demo_address):
    if not shutil.which("curl"):
        reason = "there is no curl: the lines for the shell cannot run"
        lacking(reason, "BLASTLENS_REQUIRE_DATA", "BLASTLENS_REQUIRE_BROWSER")
    classifier = Classifier.from_pretrained(shared_model_folder(kind))
    (curl,) = by_title(remote_snippets(demo_address, classifier.folder.model_id, str(images[kind])), "curl")
    done = subprocess.run(["sh", "-c", curl.code], capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "event: complete", done.stdout + done.stderr
    (answer,) = json.loads(done.stdout.split("data: ", 1)[1])
    assert answer == classifier.predict(images[kind]).to_dict()


def test_a_folder_whose_name_holds_a_quote_runs_nothing_in_a_shell(tmp_path):
    name = f"it's; touch {tmp_path / 'made'}; '"
    (code,) = [s.code for s in remote_snippets("http://127.0.0.1:9", name, "cell.png") if s.title == "curl"]
    # Without asking anybody.
    done = subprocess.run(["bash", "-c", f"curl() {{ :; }}\n{code}"], cwd=tmp_path, capture_output=True, text=True)
    assert not done.stderr and not (tmp_path / "made").exists()


def test_an_assistant_with_these_settings_finds_the_tools(demo_address):
    (shown,) = by_title(remote_snippets(demo_address, "tiny-cell", "cell.png"), "MCP: settings of an assistant")
    settings = json.loads(shown.code)["mcpServers"]["blastlens"]
    assert settings["type"] == "streamable-http"

    async def tools() -> dict[str, str]:
        async with streamable_http_client(settings["url"]) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            return {tool.name: tool.description for tool in (await session.list_tools()).tools}

    found = asyncio.run(tools())
    assert {"classify", "list_models"} <= set(found)
    assert "medical device" in found["list_models"]


def test_the_page_displays_the_snippets_with_the_packages_that_they_import():
    folder = ModelFolder.load(shared_model_folder("cell"))
    page = snippets_markdown(folder, "http://here:1")
    local = local_snippets(Origin.of(folder), code_snippets.IMAGE)
    packages = metadata.packages_distributions()
    for snippet in (*local, *remote_snippets("http://here:1", folder.model_id, code_snippets.IMAGE)):
        assert f"```{snippet.language}\n{snippet.code}```" in page
        if snippet.language == "python":
            nodes = list(ast.walk(ast.parse(snippet.code)))
            roots = {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
            roots |= {name.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for name in node.names}
            imported = {packages[root][0].lower() for root in roots - {"blastlens"} - set(sys.stdlib_module_names)}
            assert imported <= set(snippet.needs), snippet.title
            assert all(f"{name}=={metadata.version(name).partition('+')[0]}" in page for name in snippet.needs)


def test_a_network_with_code_of_its_own_is_not_offered_to_timm():
    snippets = local_snippets(Origin("models/alnett", custom_code=True), "cell.png")
    assert [snippet.title for snippet in snippets] == ["transformers", "blastlens"]
    assert "trust_remote_code=True" in snippets[0].code and "you allow to run" in snippets[0].sentence


@pytest.mark.parametrize(
    ("headers", "root", "expected"),
    [
        ({"host": "127.0.0.1:7861"}, "", "http://127.0.0.1:7861"),
        ({"host": "[::1]:7860"}, "", "http://[::1]:7860"),
        (
            {"host": "10.0.0.1", "x-forwarded-host": "who-blastlens.hf.space", "x-forwarded-proto": "https,http"},
            "",
            "https://who-blastlens.hf.space",
        ),
        ({"host": "lab.example"}, "/tools/blastlens/", "http://lab.example/tools/blastlens"),
        ({"host": "10.0.0.1"}, "https://lab.example/blastlens", "https://lab.example/blastlens"),
        ({"host": "lab.example"}, "/$(reboot)", LOCAL),
        ({"host": "good.example; rm -rf /"}, "", LOCAL),
        ({"host": "$(reboot)"}, "", LOCAL),
        ({"host": "lab.example", "x-forwarded-proto": "file"}, "", LOCAL),
        ({}, "", LOCAL),
    ],
)
def test_the_address_is_that_of_the_client_and_nothing_else_gets_into_a_shell(headers, root, expected):
    assert address_of(headers, {"scheme": "http", "root_path": root}) == expected


def test_the_page_names_no_folder_of_the_server():
    folder = shared_model_folder("cell")
    page = json.dumps(build([folder]).get_config_file(), default=str)
    assert f"path/to/{folder.name}" in page and str(folder.parent) not in page and str(ROOT) not in page


def test_on_a_space_the_tool_has_the_spaces_name_before_it(monkeypatch):
    assert code_snippets.tool_name() == "classify"
    monkeypatch.setattr(code_snippets, "get_space", lambda: "who/blast-lens")
    assert code_snippets.tool_name() == "blast_lens_classify"
    (shown,) = by_title(remote_snippets("https://x", "m", "i", code_snippets.tool_name()), "MCP: from Python")
    assert re.search(r'call_tool\(\s*"blast_lens_classify", question', shown.code)


def test_list_models_describes_each_model(demo_address):
    answer = Client(demo_address, verbose=False).predict(api_name="/list_models")
    assert answer["disclaimer"] == DISCLAIMER
    assert [one["model_id"] for one in answer["models"]] == ["tiny-cell", "tiny-field"]
    for one in answer["models"]:
        assert one["headline"] is None  # throw-away models were never measured
        assert {"revision", "sigma", "warnings", "disclaimer"} <= set(one)
        assert one["size_bytes"]["fp32"] > one["size_bytes"]["int8"] > 0
    assert answer["models"][0]["labels"] == {"ALL": "leukemic B-lymphoblast", "HEM": "normal B-lymphoid precursor"}


def test_the_headline_of_a_bundled_model_is_its_group_disjoint_figure():
    classifier = Classifier.from_pretrained("mobilenetv1-cnmc2019")
    record = classifier.folder.metrics
    headline = described(classifier.folder)["headline"]
    assert headline["score"] == "AUROC per donor" and headline["protocol"] == record["headline"]["protocol"]
    assert headline["protocol"].startswith("group-kfold")
    assert {end: headline[end] for end in ("value", "low", "high")} == record["headline"]["auroc_per_donor"]
    assert headline["measured_on"] == "cells of subjects that are not in its training data"
    flattered = record | {"headline": record["headline"] | {"protocol": "image-80-10-10"}}
    other = replace(classifier.folder, metrics=flattered)
    assert code_snippets._headline(other.metrics, "people")["measured_on"].startswith("image-level")
