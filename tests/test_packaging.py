"""What a fresh clone is promised: exact pins, and the targets that the README names."""

import os
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


def pins(file):
    """Distribution -> (version, comment) of a requirements file."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    entries = [line.partition("#") for line in lines if line.strip() and not line.startswith("#")]
    return {
        requirement.partition("==")[0].strip(): (requirement.partition("==")[2].strip(), comment.strip())
        for requirement, _, comment in entries
    }


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt", "fuzz/requirements.txt"])
def test_every_pin_is_exact_and_gives_its_reason(file):
    for name, (version, reason) in pins(file).items():
        assert re.fullmatch(r"\d+(\.\d+)+", version), name
        assert file == "requirements-dev.txt" or len(reason) > 10, name


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
