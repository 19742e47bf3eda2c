"""Who may import whom: the serving package stays light, and nothing below knows of anything above it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_models import blobs, shared_model_folder
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SERVING = {"numpy", "PIL", "onnxruntime", "huggingface_hub", "blastlens"}
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "transformers",
    "datasets",
    "gradio",
    "safetensors",
    "onnx",
    "sklearn",
    "pandas",
    "pyarrow",
    "ray",
    "tqdm",
}
# Who may import a heavy one all the same.
ALLOWED = {
    "blastlens/inference.py": {"torch", "timm", "safetensors"},
    "blastlens/batch_scoring/listing.py": {"pyarrow"},
    "blastlens/batch_scoring/results.py": {"pyarrow"},
    "blastlens/batch_scoring/score.py": {"tqdm"},
    "blastlens/batch_scoring/on_ray.py": {"ray"},
}


def python_files(*places):
    files = [f for place in places for f in ([place] if place.suffix == ".py" else sorted(place.rglob("*.py")))]
    return [f for f in files if f.exists()]


def imports(file, everywhere=True):
    """Full names a file imports, relative ones made absolute: anywhere in it, or only when it is imported."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if everywhere else _top_level(tree)
    package = ".".join(file.relative_to(ROOT).parent.parts)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _top_level(tree):
    """Nodes that run when a module is imported: everything outside functions."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def is_within(name, module):
    return name == module or name.startswith(module + ".")


SERVING_FILES = [f for f in python_files(ROOT / "blastlens") if "ui" not in f.relative_to(ROOT).parts]
UI_FILES = python_files(ROOT / "blastlens" / "ui")
TRAIN_FILES = python_files(ROOT / "train")
PUBLISH_FILES = python_files(ROOT / "publish", ROOT / "hub_upload.py")


def name(file):
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SERVING_FILES, ids=name)
def test_serving_needs_four_packages_and_imports_heavy_ones_only_inside_functions(file):
    at_once = {imported.partition(".")[0] for imported in imports(file, everywhere=False)}
    anywhere = {imported.partition(".")[0] for imported in imports(file)}
    allowed = ALLOWED.get(name(file), set())
    assert anywhere & HEAVY <= allowed
    # Tables and progress bars are what bulk scoring consists of; its own modules are imported when it is asked for.
    assert at_once <= SERVING | set(sys.stdlib_module_names) | (allowed & {"pyarrow", "tqdm"})


@pytest.mark.parametrize("file", [*SERVING_FILES, *UI_FILES], ids=name)
def test_only_the_command_line_knows_bulk_scoring(file):
    if not name(file).startswith("blastlens/batch_scoring/"):
        known = [i for i in imports(file) if is_within(i, "blastlens.batch_scoring")]
        assert known == (["blastlens.batch_scoring.command"] if file.name == "__main__.py" else [])
    elif file.name in ("__init__.py", "command.py"):
        at_once = [i for i in imports(file, everywhere=False) if is_within(i, "blastlens.batch_scoring")]
        assert not at_once


@pytest.mark.parametrize("file", [*SERVING_FILES, *UI_FILES], ids=name)
def test_serving_never_imports_training_or_scripts(file):
    forbidden = ("train", "publish", "app", "hub_upload", "tests", "benchmarks")
    assert not [i for i in imports(file) for module in forbidden if is_within(i, module)]


@pytest.mark.parametrize("file", [*SERVING_FILES, *TRAIN_FILES, *PUBLISH_FILES], ids=name)
def test_only_the_app_imports_the_pages(file):
    assert not [i for i in imports(file) if is_within(i, "blastlens.ui")]


@pytest.mark.parametrize("file", TRAIN_FILES, ids=name)
def test_training_does_not_import_scripts(file):
    above = ("app", "hub_upload", "publish", "tests")
    assert not [i for i in imports(file) for module in above if is_within(i, module)]


def test_importing_the_package_is_quick_and_light():
    script = (
        "import sys, time; start = time.process_time(); import blastlens;"
        "print(time.process_time() - start, *sorted(m for m in sys.modules if '.' not in m))"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert not HEAVY & set(output[1:])
    # Processor time, so that a busy machine does not fail it.
    assert float(output[0]) < 0.6


def test_serving_a_folder_with_onnx_never_imports_torch(tmp_path):
    Image.fromarray(blobs(0)).save(tmp_path / "cell.png")
    script = (
        "import sys; from blastlens import Classifier; folder, image = sys.argv[1:];"
        "c = Classifier.from_pretrained(folder);"
        "c.predict([image], 5); c.noise_curve(image); c.activation_map(image); print(*sys.modules)"
    )
    process = subprocess.run(
        [sys.executable, "-c", script, shared_model_folder("cell"), tmp_path / "cell.png"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert not HEAVY & set(process.stdout.split())
