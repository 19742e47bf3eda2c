"""The "Code" tab: each snippet runs as it is displayed, and gives the prediction of Classifier."""

import ast
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
from helpers_machine import lacking
from helpers_models import make_model_folder, shared_model_folder

from blastlens import Classifier
from blastlens.model_folder import ModelFolder
from blastlens.synthetic_images import synthetic_image
from blastlens.ui import code_snippets
from blastlens.ui.code_snippets import LOCAL, address_of, snippets_markdown

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


def snippets_of(folder: ModelFolder, address: str = LOCAL, image: Path | str = "cell.png") -> dict[str, str]:
    """The code below each heading, without the command that installs its packages."""
    parts = snippets_markdown(folder, address, str(image)).split("\n### ")[1:]
    return {part.partition("\n")[0]: re.findall(r"```\w+\n(.*?)```", part, re.DOTALL)[-1] for part in parts}


def run_python(*snippets: str, **environment: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps(snippets),
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


def assert_local_snippets_predict(snippets: dict[str, str], expected: dict[str, float], **environment: str) -> None:
    local = [snippets[name] for name in ("transformers", "blastlens", "timm")]
    for printed in run_python(*local, **environment):
        assert probabilities_in(printed) == pytest.approx(expected, abs=1e-4), printed


@pytest.mark.slow
def test_snippets_for_bundled_models_run_in_a_copy_of_the_project(images):
    for name, kind in (("mobilenetv1-cnmc2019", "cell"), ("mobilenetv2-aria2021", "field")):
        classifier = Classifier.from_pretrained(name)
        snippets = snippets_of(classifier.folder, image=images[kind])
        assert_local_snippets_predict(snippets, classifier.predict(images[kind]).probabilities)


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
    expected = Classifier.from_pretrained(loaded.path).predict(images[kind]).probabilities
    assert_local_snippets_predict(snippets_of(loaded, image=images[kind]), expected, HF_HOME=str(tmp_path))


@pytest.mark.slow
def test_python_snippets_for_the_page_give_the_prediction_of_the_classifier(images, demo_address):
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    snippets = snippets_of(classifier.folder, demo_address, images["cell"])
    asked = [snippets[name] for name in ("gradio_client", "MCP: from Python", "gradio_client: many images")]
    expected = classifier.predict(images["cell"]).to_dict()
    one, tool, many = (ast.literal_eval(printed) for printed in run_python(*asked))
    assert one == tool == expected
    assert many["images"][0]["file"] == images["cell"].name
    assert many["images"][0]["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
    servers = json.loads(snippets["MCP: settings of an assistant"])["mcpServers"]
    assert f'"{servers["blastlens"]["url"]}"' in snippets["MCP: from Python"]


def test_the_curl_snippet_gives_the_prediction_of_the_classifier(images, demo_address):
    if not shutil.which("curl"):
        lacking("there is no curl: the lines for the shell cannot run", "BLASTLENS_REQUIRE_DATA")
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    code = snippets_of(classifier.folder, demo_address, images["cell"])["curl"]
    done = subprocess.run(["sh", "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[0] == "event: complete", done.stdout + done.stderr
    (answer,) = json.loads(done.stdout.split("data: ", 1)[1])
    assert answer == classifier.predict(images["cell"]).to_dict()


def test_names_that_hold_quotes_run_nothing_in_a_shell(tmp_path):
    name = f"it's; touch {tmp_path / 'made'}; '"
    folder = replace(ModelFolder.load(shared_model_folder("cell")), model_id=name)
    code = snippets_of(folder, image=f"{name}.png")["curl"]
    done = subprocess.run(["bash", "-c", f"curl() {{ :; }}\n{code}"], cwd=tmp_path, capture_output=True, text=True)
    assert not done.stderr and not (tmp_path / "made").exists()


def test_the_page_displays_the_packages_that_snippets_import():
    packages = metadata.packages_distributions()
    for part in snippets_markdown(ModelFolder.load(shared_model_folder("cell")), LOCAL).split("\n### ")[1:]:
        if "```python" in part:
            code = re.findall(r"```python\n(.*?)```", part, re.DOTALL)[0]
            nodes = list(ast.walk(ast.parse(code)))
            roots = {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
            roots |= {name.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for name in node.names}
            for root in roots - {"blastlens"} - set(sys.stdlib_module_names):
                name = packages[root][0].lower()
                assert f"{name}=={metadata.version(name).partition('+')[0]}" in part


def test_a_network_with_code_of_its_own_is_not_offered_to_timm():
    folder = ModelFolder.load(shared_model_folder("cell"))
    snippets = snippets_of(replace(folder, config=folder.config | {"auto_map": {}}))
    assert "timm" not in snippets and "trust_remote_code=True" in snippets["transformers"]


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
        ({"host": "lab.example", "x-forwarded-proto": "file"}, "", LOCAL),
        ({}, "", LOCAL),
    ],
)
def test_the_address_is_that_of_the_client_and_nothing_else_gets_into_a_shell(headers, root, expected):
    assert address_of(headers, {"scheme": "http", "root_path": root}) == expected


def test_on_a_space_the_tool_has_the_spaces_name_before_it(monkeypatch):
    monkeypatch.setattr(code_snippets, "get_space", lambda: "who/blast-lens")
    code = snippets_of(ModelFolder.load(shared_model_folder("cell")))["MCP: from Python"]
    assert re.search(r'call_tool\(\s*"blast_lens_classify", question', code)
