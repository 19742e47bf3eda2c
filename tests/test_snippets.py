"""The "Use it from code" tab: each of its snippets is run as it is shown, and answers what Classifier answers."""

import ast
import asyncio
import dataclasses
import html
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from gradio_client import Client
from helpers_machine import lacking
from helpers_models import make_model_folder, shared_model_folder, write_json
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

from blastlens import Classifier
from blastlens.classifier import DISCLAIMER
from blastlens.model_folder import ModelFolder
from blastlens.synthetic_images import draw_cell, draw_field
from blastlens.ui import build, code_snippets
from blastlens.ui.code_snippets import LOCAL, address_of, described
from blastlens.ui.snippets import Origin, Snippet, in_python, installing, over_the_network

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
    draw_cell("ALL", 0).crop((113, 113, 337, 337)).save(folder / "cell 1.png")
    draw_field("Early", 0).save(folder / "field 1.png")
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
def test_the_lines_for_ones_own_computer_answer_what_the_classifier_answers(kind, images):
    classifier = Classifier.from_pretrained(shared_model_folder(kind))
    snippets = in_python(Origin.of(classifier.folder), str(images[kind]))
    assert [snippet.title for snippet in snippets] == ["transformers", "blastlens", "timm"]
    expected = classifier.predict(images[kind]).probabilities
    for snippet, printed in zip(snippets, run_python(list(snippets)), strict=True):
        assert probabilities_in(printed) == pytest.approx(expected, abs=1e-4), snippet.title


@pytest.mark.slow
def test_the_lines_for_bundled_models_run_in_a_copy_of_the_project(images):
    for name, kind in (("mobilenetv1-cnmc2019", "cell"), ("mobilenetv2-aria2021", "field")):
        classifier = Classifier.from_pretrained(name)
        origin = Origin.of(classifier.folder)
        assert origin.name == f"models/{name}"
        snippets = in_python(origin, str(images[kind]))
        expected = classifier.predict(images[kind]).probabilities
        for snippet, printed in zip(snippets, run_python(list(snippets)), strict=True):
            assert probabilities_in(printed) == pytest.approx(expected, abs=1e-4), (name, snippet.title)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cell", "field"])
def test_the_lines_for_hub_models_find_the_pinned_revision(kind, images, tmp_path):
    # A cache as the Hub's client leaves it, whose main branch has moved on to another network.
    repository = tmp_path / "hub" / "models--somebody--model"
    make_model_folder(repository / "snapshots" / COMMIT, kind, seed=3)
    make_model_folder(repository / "snapshots" / COMMIT[::-1], kind, seed=4)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT[::-1])
    loaded = ModelFolder.load(repository / "snapshots" / COMMIT, "somebody/model", COMMIT)
    snippets = in_python(Origin.of(loaded), str(images[kind]))
    assert all(COMMIT in snippet.code for snippet in snippets)
    expected = Classifier.from_pretrained(loaded.path).predict(images[kind]).probabilities
    for snippet, printed in zip(snippets, run_python(list(snippets), HF_HOME=str(tmp_path)), strict=True):
        assert probabilities_in(printed) == pytest.approx(expected, abs=1e-4), snippet.title


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cell", "field"])
def test_asking_the_page_from_python_answers_what_the_classifier_answers(kind, images, demo_address):
    classifier = Classifier.from_pretrained(shared_model_folder(kind))
    snippets = over_the_network(demo_address, classifier.folder.model_id, str(images[kind]))
    asked = by_title(snippets, "gradio_client", "MCP: from Python")
    expected = classifier.predict(images[kind]).to_dict()
    for snippet, printed in zip(asked, run_python(asked), strict=True):
        assert ast.literal_eval(printed) == expected, snippet.title


@pytest.mark.slow
def test_asking_for_many_images_answers_what_the_classifier_answers(images, demo_address):
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    snippets = over_the_network(demo_address, classifier.folder.model_id, str(images["cell"]))
    (printed,) = run_python(by_title(snippets, "gradio_client: many images"))
    answer = ast.literal_eval(printed)
    (one,) = answer["images"]
    assert one["file"] == images["cell"].name and answer["disclaimer"] == DISCLAIMER
    assert one["probabilities"] == pytest.approx(classifier.predict(images["cell"]).probabilities, abs=1e-6)


@pytest.mark.parametrize("own", [True, False])
def test_what_is_to_be_installed_is_what_these_tests_run_on_and_the_lines_import(own):
    origin = Origin("models/x", framed=True)
    snippets = in_python(origin, "i.png") if own else over_the_network("http://x", "m", "i.png")
    # With everything there already, pip neither asks the network nor changes anything.
    done = subprocess.run(
        ["sh", "-ec", installing(snippets).code],
        capture_output=True,
        text=True,
        env=os.environ
        | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "Requirement already satisfied" in done.stdout and "Would install" not in done.stdout
    packages = metadata.packages_distributions()
    for snippet in snippets:
        if snippet.language == "python":
            tree = ast.parse(snippet.code)
            roots = {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
            roots |= {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
            imported = {packages[root][0].lower() for root in roots - {"blastlens"} - set(sys.stdlib_module_names)}
            assert imported <= set(snippet.needs), snippet.title
    assert installing(snippets).code.count("pip install") == len({s.needs for s in snippets if s.needs})


def test_a_package_that_is_not_there_is_named_without_a_version():
    snippet = Snippet("x", "", "python", "", ("no-such-package", "numpy"))
    assert installing([snippet]).code == f"# x\npip install no-such-package numpy=={metadata.version('numpy')}\n"


def test_lines_fit_half_of_the_page():
    hub = Origin("somebody/model", COMMIT, framed=True)
    for origin in (hub, Origin("models/mobilenetv1-cnmc2019", framed=True), Origin("models/mobilenetv2-aria2021")):
        snippets = [*in_python(origin, "cell.png"), *over_the_network(LOCAL, "mobilenetv1-cnmc2019", "cell.png")]
        for snippet in [*snippets, installing(snippets)]:
            assert max(map(len, snippet.code.splitlines())) <= 60, snippet.title


@pytest.mark.parametrize("kind", ["cell", "field"])
def test_asking_the_page_with_curl_answers_what_the_classifier_answers(kind, images, demo_address):
    if not shutil.which("curl"):
        reason = "there is no curl: the lines for the shell cannot run"
        lacking(reason, "BLASTLENS_REQUIRE_DATA", "BLASTLENS_REQUIRE_BROWSER")
    classifier = Classifier.from_pretrained(shared_model_folder(kind))
    (curl,) = by_title(over_the_network(demo_address, classifier.folder.model_id, str(images[kind])), "curl")
    done = subprocess.run(["sh", "-c", curl.code], capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "event: complete", done.stdout + done.stderr
    (answer,) = json.loads(done.stdout.split("data: ", 1)[1])
    assert answer == classifier.predict(images[kind]).to_dict()


def test_a_folder_whose_name_holds_a_quote_runs_nothing_in_a_shell(tmp_path):
    name = f"it's; touch {tmp_path / 'made'}; '"
    (code,) = [s.code for s in over_the_network("http://127.0.0.1:9", name, "cell.png") if s.title == "curl"]
    # Without asking anybody.
    done = subprocess.run(["bash", "-c", f"curl() {{ :; }}\n{code}"], cwd=tmp_path, capture_output=True, text=True)
    assert not done.stderr and not (tmp_path / "made").exists()


def test_an_assistant_with_the_shown_settings_finds_the_tools(demo_address):
    (shown,) = by_title(over_the_network(demo_address, "tiny-cell", "cell.png"), "MCP: settings of an assistant")
    settings = json.loads(shown.code)["mcpServers"]["blastlens"]
    assert settings["type"] == "streamable-http"

    async def tools() -> dict[str, str]:
        async with streamable_http_client(settings["url"]) as (read, write, _), ClientSession(read, write) as session:
            await session.initialize()
            return {tool.name: tool.description for tool in (await session.list_tools()).tools}

    found = asyncio.run(tools())
    assert {"classify", "list_models"} <= set(found)
    assert "medical device" in found["list_models"]


def test_a_network_with_code_of_its_own_is_not_offered_to_timm():
    snippets = in_python(Origin("models/alnett", custom_code=True), "cell.png")
    assert [snippet.title for snippet in snippets] == ["transformers", "blastlens"]
    assert "trust_remote_code=True" in snippets[0].code and "you allow to run" in snippets[0].sentence


def test_a_folder_says_whether_it_carries_code_and_frames_its_cells(tmp_path):
    folder = make_model_folder(tmp_path / "model", "cell")
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"auto_map": {"AutoConfig": "x.Y"}})
    assert Origin.of(ModelFolder.load(folder)) == Origin(str(folder), None, custom_code=True, framed=True)
    field = ModelFolder.load(shared_model_folder("field"))
    assert Origin.of(field) == Origin(str(field.path), None, custom_code=False, framed=False)


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
def test_the_address_is_the_visitors_and_nothing_else_gets_into_a_shell(headers, root, expected):
    assert address_of(headers, {"scheme": "http", "root_path": root}) == expected


@pytest.mark.parametrize(
    ("address", "client", "expected"),
    [
        ("http://127.0.0.1:7860", "127.0.0.1", True),
        ("http://localhost:7860", "::1", True),
        ("http://[::1]:7860", "::1", True),
        ("https://page.example", "127.0.0.1", False),  # through a proxy on this computer
        ("http://127.0.0.1:7860", "192.0.2.7", False),  # a header says so
    ],
)
def test_only_a_visitor_at_this_computer_is_told_where_a_folder_of_it_lies(address, client, expected):
    folder = ModelFolder.load(shared_model_folder("cell"))
    here = code_snippets.is_here(address, {"client": (client, 1234)})
    assert here == expected
    assert (str(folder.path) in code_snippets._own(folder, here=here)) == expected


def test_the_page_as_everybody_gets_it_names_no_folder_of_this_computer():
    folder = shared_model_folder("cell")
    page = json.dumps(build([folder]).get_config_file(), default=str)
    assert f"path/to/{folder.name}" in page and str(folder.parent) not in page and str(ROOT) not in page


def test_on_a_space_the_tool_has_the_spaces_name_before_it(monkeypatch):
    assert code_snippets.tool_name() == "classify"
    monkeypatch.setattr(code_snippets, "get_space", lambda: "who/blast-lens")
    assert code_snippets.tool_name() == "blast_lens_classify"
    (shown,) = by_title(over_the_network("https://x", "m", "i", code_snippets.tool_name()), "MCP: from Python")
    assert re.search(r'call_tool\(\s*"blast_lens_classify", question', shown.code)


def test_the_page_shows_the_snippets_letter_by_letter():
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    page = code_snippets._own(classifier.folder) + code_snippets._asked("tiny-cell", "http://here:1")
    shown = [html.unescape(text) for text in re.findall(r"<code>(.*?)</code></pre>", page, re.DOTALL)]
    own = in_python(Origin.of(classifier.folder, here=False), code_snippets.IMAGE)
    asked = over_the_network("http://here:1", "tiny-cell", code_snippets.IMAGE)
    snippets = [installing(own), *own, installing(asked), *asked]
    assert shown == [snippet.code for snippet in snippets]
    assert page.count('class="copy"') == len(snippets)
    assert all(snippet.sentence.endswith(".") for snippet in snippets)


def test_list_models_tells_what_each_model_is_worth(demo_address):
    answer = Client(demo_address, verbose=False).predict(api_name="/list_models")
    assert answer["disclaimer"] == DISCLAIMER
    assert [one["model_id"] for one in answer["models"]] == ["tiny-cell", "tiny-field"]
    for one in answer["models"]:
        assert one["headline"] is None  # throw-away models were never measured
        assert {"revision", "sigma", "warnings", "disclaimer"} <= set(one)
        assert one["size_bytes"]["fp32"] > one["size_bytes"]["int8"] > 0
    assert answer["models"][0]["labels"] == {"ALL": "leukemic blast", "HEM": "healthy precursor cell"}


def test_the_headline_of_a_bundled_model_is_its_group_disjoint_figure():
    classifier = Classifier.from_pretrained("mobilenetv1-cnmc2019")
    record = classifier.folder.metrics
    headline = described(classifier.folder)["headline"]
    assert headline["score"] == "AUROC per donor" and headline["protocol"] == record["headline"]["protocol"]
    assert headline["protocol"].startswith("group-kfold")
    assert {end: headline[end] for end in ("value", "low", "high")} == record["headline"]["auroc_per_donor"]
    assert headline["measured_on"] == "cells of people it had never seen"
    flattered = record | {"headline": record["headline"] | {"protocol": "image-80-10-10"}}
    other = dataclasses.replace(classifier.folder, metrics=flattered)
    assert code_snippets._headline(other.metrics, "people")["measured_on"].startswith("image-level")
