"""SECURITY.md names tests that exist and settings that the code knows; and no code runs what it reads."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
THREATS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in TEXT.partition("## Threats")[2].splitlines()
    if line.startswith("|")
][2:]
PROOF = re.compile(r"`(tests/\w+\.py)::(test_\w+)`")
PRODUCT = [
    file
    for place in ("app.py", "hub_upload.py", "blastlens", "publish", "train", "benchmarks")
    for file in ([ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py")))
]


@cache
def functions(file):
    """Names of the functions of a file; none where there is no such file."""
    tree = ast.parse(file.read_text(encoding="utf-8")) if file.exists() else ast.Module([], [])
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat[0][:60])
def test_a_threat_names_who_what_and_tests_that_exist(threat):
    who, stopped_by, proof = threat
    assert len(who) > 20 and len(stopped_by) > 20
    assert not PROOF.sub("", proof).strip(), "a proof is `tests/file.py::test_name`, with spaces between several"
    for file, name in PROOF.findall(proof):
        assert name in functions(ROOT / file), f"{file} has no {name}"
    assert PROOF.search(proof)


def test_the_table_is_read_and_no_threat_is_there_twice():
    assert len(THREATS) > 20
    assert len({who for who, *_ in THREATS}) == len(THREATS)


def test_settings_that_are_named_are_settings_of_the_code():
    code = "".join(file.read_text(encoding="utf-8") for file in PRODUCT)
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)", TEXT))
    assert "BLASTLENS_OPEN_HUB" in named
    assert all(name in code for name in named), named


def test_no_address_of_a_person_is_made_up():
    assert not re.search(r"[\w.]+@[\w-]+\.\w+", TEXT)


def called(node):
    """What a call is of, as it is written: "yaml.load"."""
    return ast.unparse(node.func)


def runs_what_it_reads(node):
    """Whether a call may run what is in a file or in a text, or write wherever an archive says."""
    name = called(node)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    return (
        name in {"eval", "exec", "os.system", "os.popen", "yaml.load", "yaml.full_load", "yaml.unsafe_load"}
        or re.fullmatch(r"(pickle|cPickle|dill|joblib|marshal|shelve)\.(load|loads|open)", name) is not None
        or (name == "torch.load" and keywords.get("weights_only") != "True")
        or name.endswith((".extractall", ".unpack_archive"))
        or keywords.get("shell") == "True"
        or keywords.get("allow_pickle") == "True"
        or keywords.get("trust_remote_code") == "True"
        or keywords.get("autoescape") == "False"
    )


@pytest.mark.parametrize("line", ["eval(x)", "pickle.loads(x)", "torch.load(f)", "run(c, shell=True)", "yaml.load(f)"])
def test_such_calls_are_known(line):
    assert runs_what_it_reads(ast.parse(line).body[0].value)


@pytest.mark.parametrize("line", ["net.eval()", "torch.load(f, weights_only=True)", "np.load(f)", "yaml.safe_load(f)"])
def test_harmless_calls_are_let_through(line):
    assert not runs_what_it_reads(ast.parse(line).body[0].value)


def test_no_code_of_ours_runs_what_it_reads():
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno} {called(node)}"
        for file in PRODUCT
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and runs_what_it_reads(node)
    ]
    assert not found
