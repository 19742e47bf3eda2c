"""DEPENDENCIES.md says of every pin what is true: who imports it, under which licence, and why it is there at all."""

import ast
import re
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "DEPENDENCIES.md"
FILES = ("requirements.txt", "requirements-dev.txt", "fuzz/requirements.txt")
PRODUCT = ("blastlens/batch_scoring", "blastlens/ui", "blastlens", "publish", "train", "app.py", "hub_upload.py")
ROOMS = (*PRODUCT, "benchmarks", "fuzz", "tests")  # a room inside another one comes before it
# Where a distribution is imported under another name.
IMPORTED_AS = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
# A ZeroGPU Space brings it; elsewhere `app.py` does without.
BROUGHT_BY_THE_HOST = {"spaces"}
# For `score --engine ray` and `python -m fuzz` alone, so they may be absent here, too.
OPTIONAL = {"ray", "atheris"}
# What metadata say in words, as SPDX has it. "BSD" is that of three clauses wherever our pins say no more.
SPDX = {
    "MIT License": "MIT",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-based",
}


class Row(NamedTuple):
    """One line of a table, its cells as they stand there."""

    name: str
    rooms: str
    purpose: str
    maintained: str
    licence: str
    instead: str


def rows(heading):
    """The lines of the tables whose second column has this heading."""
    found, wanted = [], False
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not line.startswith("|"):
            wanted = False
        elif cells[1] == heading:
            wanted = True
        elif wanted and not set(line) <= set("| -"):
            found.append(Row(*cells))
    return found


def pins(file):
    """Distribution -> version, as a requirements file has them; extras are part of the name."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / file).read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if line)


PINS = {name: version for file in FILES for name, version in pins(file).items()}
PACKAGES = {row.name.strip("`"): row for row in rows("imported by")}


def plain(name):
    """Without extras, as metadata knows it."""
    return name.partition("[")[0]


def module(distribution):
    return IMPORTED_AS.get(plain(distribution), plain(distribution).replace("-", "_"))


@cache
def imported():
    """Top-level name of each foreign module -> the rooms that import it."""
    ours = {"blastlens", "publish", "train", "benchmarks", "fuzz", "tests", "app", "hub_upload"}
    ours |= {file.stem for file in (ROOT / "tests").glob("*.py")} | set(sys.stdlib_module_names)
    found = {}
    for room in reversed(ROOMS):
        place = ROOT / room
        for file in [place] if place.suffix == ".py" else place.rglob("*.py"):
            if not file.exists() or room != next(r for r in ROOMS if is_within(file, ROOT / r)):
                continue
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                else:
                    names = [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                for name in {name.partition(".")[0] for name in names} - ours:
                    found.setdefault(name, set()).add(room)
    return found


def is_within(file, place):
    return file == place or place in file.parents


def licence(name):
    """Of an installed distribution, by its metadata or else by the first line of its licence file; None if unknown."""
    about = metadata.metadata(name)
    said = (about.get("License-Expression") or about.get("License") or "").strip()
    words = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License :: OSI")]
    if (not said or "\n" in said) and len(words) == 1:
        (said,) = words
    if not said or "\n" in said:
        files = [file for file in metadata.files(name) or () if file.name.upper().startswith("LICENSE")]
        said = files[0].locate().read_text(encoding="utf-8").strip().partition("\n")[0] if files else ""
    said = said.partition("\n")[0].strip()
    return SPDX.get(said, said) or None


def brought_along():
    """Every installed distribution that the pins need, themselves included."""
    found, waiting = {}, [plain(name) for name in PINS]
    while waiting:
        name = waiting.pop()
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key in found:
            continue
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system, or an option
            continue
        found[key] = name
        waiting += [re.match(r"[\w.-]+", one)[0] for one in required if "extra ==" not in one]
    return sorted(found)


@pytest.mark.parametrize("file", FILES)
def test_every_pin_has_its_row(file):
    assert set(pins(file)) <= set(PACKAGES)


def test_every_row_is_a_pin_and_none_is_there_twice():
    names = [row.name.strip("`") for row in rows("imported by")]
    assert sorted(names) == sorted(PINS)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_row_is_complete_and_repeats_no_version(name):
    row = PACKAGES[name]
    assert all(len(cell) > 2 for cell in row[1:]) and len(row.purpose) > 10
    assert PINS[name] not in " ".join(row)


@pytest.mark.parametrize("name", PACKAGES)
def test_a_licence_is_the_installed_packages(name):
    try:
        installed = licence(plain(name))
    except metadata.PackageNotFoundError:
        assert module(name) in OPTIONAL
        pytest.skip(f"{name} is an option that is not installed")
    assert PACKAGES[name].licence == installed


@pytest.mark.parametrize("name", PACKAGES)
def test_a_row_names_who_imports_it_or_for_whom_it_is_pinned(name):
    row, found = PACKAGES[name], imported().get(module(name), set())
    assert row.rooms.split(", ") == (sorted(found & set(PRODUCT) or found) or ["nobody"])
    if not found & set(PRODUCT if name in pins("requirements.txt") else ROOMS):
        assert re.search(r"Pinned (for|because)", row.purpose)


def test_everything_that_is_imported_is_pinned():
    for name, rooms in imported().items():
        given = pins("requirements.txt") if rooms & set(PRODUCT) and name not in OPTIONAL else PINS
        assert name in {module(pin) for pin in given} | BROUGHT_BY_THE_HOST, f"{name} of {sorted(rooms)} has no pin"


def test_nothing_that_comes_along_is_under_a_licence_the_page_does_not_name():
    text = PAGE.read_text(encoding="utf-8").partition("## Licences beneath")[2].partition("\n## ")[0]
    named = re.findall(r"`([\w.*-]+)`", text)
    for name in brought_along():
        about = metadata.metadata(name)
        classified = [one for one in about.get_all("Classifier", []) if one.startswith("License")]
        said = " ".join([licence(name) or "", *classified])
        assert not re.search(r"\b[AL]?GPL|General Public License", said), name
        if re.search(r"MPL|Mozilla|Proprietary|NVIDIA", said):
            assert any(re.fullmatch(one.replace("*", ".*"), name) for one in named), f"{name}: {said[:80]}"


def test_every_program_that_the_build_server_installs_has_its_row():
    wanted = set(re.findall(r"command -v (\w+)", (ROOT / ".ci" / "run").read_text(encoding="utf-8")))
    wanted |= {"python3", "uv", "onnxruntime-web"}
    assert wanted == {re.match(r"`([\w-]+)`", row.name)[1] for row in rows("where from")}


@pytest.mark.parametrize("row", rows("where from"), ids=lambda row: row.name)
def test_what_is_not_a_package_of_python_is_told_of_without_its_version(row):
    assert all(len(cell) > 2 for cell in row)
    assert not re.search(r"\d+\.\d+\.\d+", " ".join(row))


def test_every_file_that_stays_written_by_hand_is_there():
    text = PAGE.read_text(encoding="utf-8").partition("## Written by hand")[2]
    named = re.findall(r"`((?:blastlens|train|publish)/[\w/.]+)`", text)
    assert len(named) > 5 and all((ROOT / name).exists() for name in named)
