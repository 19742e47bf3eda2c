"""Imports and pins agree, and no dependency has a copyleft license."""

import functools
import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from test_layering import imports as imports_of

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = [ROOT / name for name in ("blastlens", "publish", "train", "app.py", "hub_upload.py")]
IMPORT_NAMES = {"pillow": "PIL", "scikit-learn": "sklearn", "pyyaml": "yaml"}
OPTIONAL = {"ray", "spaces"}  # `--engine ray`; a ZeroGPU Space provides `spaces`


def pins(file):
    """Distribution -> (version, reason)."""
    rows = re.findall(r"^([\w.\[\]-]+)==(\S+)(?:\s+# (.*))?$", (ROOT / file).read_text(encoding="utf-8"), re.M)
    return {name: (version, reason) for name, version, reason in rows}


def import_name(distribution):
    return IMPORT_NAMES.get(distribution, distribution.replace("-", "_"))


@functools.cache
def imports():
    """Top-level names of the modules that the product imports from other packages."""
    files = [file for path in PRODUCT for file in ([path] if path.suffix else path.rglob("*.py"))]
    names = {name.partition(".")[0] for file in files for name in imports_of(file)}
    return names - {"blastlens", "publish", "train"} - set(sys.stdlib_module_names)


def test_every_import_is_pinned():
    assert imports() - OPTIONAL <= {import_name(name) for name in pins("requirements.txt")}


@pytest.mark.parametrize("name", pins("requirements.txt"))
def test_every_pin_is_exact_installed_and_imported_or_required_by_a_package_that_is(name):
    version, reason = pins("requirements.txt")[name]
    assert metadata.version(name) == version
    required_by = any(
        re.match(rf"{re.escape(name)}\b", requirement.replace("_", "-"), re.I) or requirement.startswith(name)
        for other in pins("requirements.txt")
        for requirement in metadata.requires(other) or ()
    )
    assert reason and (import_name(name) in imports() or required_by)


def test_no_installed_package_has_a_copyleft_license():
    for distribution in metadata.distributions():
        about = distribution.metadata
        stated = [about.get("License-Expression") or "", *(about.get_all("Classifier") or ())]
        copyleft = [line for line in stated if re.search(r"\b[AL]?GPL|General Public License", line)]
        assert not copyleft or any("MIT" in line or "BSD" in line for line in stated), about["Name"]


def test_the_space_runs_the_pinned_gradio():
    settings = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert str(settings["sdk_version"]) == pins("requirements.txt")["gradio"][0]
    assert settings["app_file"] == "app.py" and settings["python_version"] == "3.12"
