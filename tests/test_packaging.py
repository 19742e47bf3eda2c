"""What a fresh clone is promised: exact and complete pins, and the targets that the README names."""

import ast
import os
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# Where a distribution is imported under another name.
IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
# Pinned though no file of ours imports them, and for whom.
NEEDED_BY_OTHERS = {
    "accelerate": "transformers.Trainer",
    "mcp": "gradio's mcp_server",
    "torchvision": "timm and transformers",
}
TOOLS = {"ruff", "mypy", "pytest_xdist"}
# A ZeroGPU Space brings it; elsewhere `app.py` does without.
BROUGHT_BY_THE_HOST = {"spaces"}
# For `score --engine ray` alone, which says how to install it.
OPTIONAL = {"ray"}


def pins(file):
    """Distribution -> (version, comment) of a requirements file."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    entries = [line.partition("#") for line in lines if line.strip() and not line.startswith("#")]
    return {
        requirement.partition("==")[0].strip(): (requirement.partition("==")[2].strip(), comment.strip())
        for requirement, _, comment in entries
    }


def imported(*places):
    """Top-level names imported from outside the standard library and this project."""
    ours = {"blastlens", "train", "publish", "benchmarks", "app", "hub_upload"}
    ours |= {f.stem for f in (ROOT / "tests").glob("*.py")}
    names = set()
    for place in places:
        path = ROOT / place
        for file in [path] if path.suffix == ".py" else path.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if file.exists() else ():
                if isinstance(node, ast.Import):
                    names.update(alias.name.partition(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and not node.level:
                    names.add(node.module.partition(".")[0])
    return names - ours - set(sys.stdlib_module_names)


def modules(distributions):
    names = (name.partition("[")[0] for name in distributions)
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


PRODUCT = ("blastlens", "train", "publish", "app.py", "hub_upload.py")


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_every_pin_is_exact_and_gives_its_reason(file):
    for name, (version, reason) in pins(file).items():
        assert re.fullmatch(r"\d+(\.\d+)+", version), name
        assert file == "requirements-dev.txt" or len(reason) > 10, name


def test_everything_the_product_imports_is_pinned():
    assert imported(*PRODUCT) - BROUGHT_BY_THE_HOST - OPTIONAL <= modules(pins("requirements.txt"))
    assert modules(pins("requirements-dev.txt")) >= OPTIONAL


def test_everything_the_tests_import_is_pinned():
    assert imported("tests") <= modules(pins("requirements.txt") | pins("requirements-dev.txt"))


def test_every_pin_is_used():
    unused = modules(pins("requirements.txt")) - imported(*PRODUCT)
    assert unused <= set(NEEDED_BY_OTHERS)
    assert modules(pins("requirements-dev.txt")) - imported("tests") - OPTIONAL == TOOLS


@pytest.mark.parametrize("target", ["help", "demo", "test", "test-fast", "lint", "env"])
def test_the_makefile_has_the_target_and_explains_it(target):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \w", makefile, re.MULTILINE)
    assert ".DEFAULT_GOAL := help" in makefile


def test_the_build_server_runs_make_test_and_stops_at_the_first_error():
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n") and "set -euo pipefail" in text
    assert text.rstrip().endswith("make test")


def test_the_space_runs_the_gradio_that_is_pinned():
    front_matter = (ROOT / "README.md").read_text(encoding="utf-8").split("---")[1]
    space = yaml.safe_load(front_matter)
    assert space["sdk"] == "gradio" and space["app_file"] == "app.py"
    assert str(space["sdk_version"]) == pins("requirements.txt")["gradio"][0]
    assert str(space["python_version"]) == "3.12"


def test_licence_and_citation_are_in_place():
    assert "Apache License\n                           Version 2.0" in (ROOT / "LICENSE").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["license"] == "Apache-2.0"
