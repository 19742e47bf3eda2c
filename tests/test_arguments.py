"""Commands report invalid arguments at once: what takes seconds to import is imported afterwards."""

import subprocess
import sys

import pytest

from blastlens.model_folder import bundled_root

COMMANDS = ("finetune", "crossval", "export", "evaluate", "search", "compare", "baselines", "card", "complexity")
COMMANDS += ("__main__", "pipeline_evaluation", "datasets.__main__", "report.__main__")
SLOW = ("torch", "timm", "transformers", "accelerate", "datasets", "sklearn", "evaluate")
WITHOUT = f"import sys, importlib; sys.modules.update(dict.fromkeys({SLOW!r}))\n"


def output_of(code: str) -> str:
    """What a process prints that cannot import `SLOW`."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + code], capture_output=True, text=True, cwd=bundled_root().parent
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


@pytest.mark.slow
def test_unknown_options_are_refused_before_slow_imports():
    text = output_of(
        f"for name in {[f'train.{c}' for c in COMMANDS] + ['hub_upload']!r}:\n"
        "    try: importlib.import_module(name).main(['--no-such-option'])\n"
        "    except SystemExit as end: assert end.code == 2, name\n"
    )
    assert text.count("error: ") == len(COMMANDS) + 1


REFUSED = [
    ("finetune", ["p9_none", "--out", "x"], "There is no recipe 'p9_none'"),
    ("crossval", ["p0_cnn", "--out", "x", "--data", "no/such"], "no/such"),
    ("crossval", ["p0_cnn", "--out", "x", "--set", "epoch=3"], "epoch"),
    ("compare", ["--only", "p9_none"], "There is no recipe 'p9_none'"),
    ("search", ["--only", "none"], "There is no candidate none"),
    ("export", ["no/such", "--data", "x", "--out", "y"], "is not a finished run"),
    ("evaluate", ["--steps", "int8"], "give the folder of train.crossval"),
    ("evaluate", ["no/such"], "no/such"),
]


@pytest.mark.slow
def test_values_are_checked_before_slow_imports():
    calls = [(f"train.{command}", arguments) for command, arguments, _ in REFUSED]
    text = output_of(f"for name, words in {calls!r}: assert importlib.import_module(name).main(words) == 2, name")
    lines = text.splitlines()
    assert len(lines) == len(REFUSED)
    for line, (_, _, message) in zip(lines, REFUSED, strict=True):
        assert message in line
