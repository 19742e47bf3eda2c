"""Which package may import which: serving stays light, nothing imports what is above it, and there are no cycles."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from helpers_models import blobs, shared_model_folder
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SERVING = {"numpy", "PIL", "onnxruntime", "huggingface_hub", "safetensors", "filelock", "blastlens"}
HEAVY = {"torch", "torchvision", "timm", "transformers", "datasets", "gradio", "onnx", "sklearn", "pandas"}
BATCH = {"pyarrow", "ray", "tqdm"}  # batch scoring alone needs these
ABOVE = {  # what the files of a place may not import
    "blastlens": {"train", "publish", "app", "hub_upload", "tests", "benchmarks"},
    "train": {"publish", "app", "hub_upload", "tests", "blastlens.ui"},
    "publish": {"app", "hub_upload", "tests", "blastlens.ui"},
}
COMMANDS = {ROOT / "train/__main__.py"}  # of everything, publishing too, as app.py and hub_upload.py
FILES = {place: sorted({*(ROOT / place).rglob("*.py")} - COMMANDS) for place in ABOVE}
CORE = [file for file in FILES["blastlens"] if "ui" not in file.relative_to(ROOT).parts]


def module(file):
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file, everywhere=True):
    """Full names that a file imports: anywhere in it, or only outside of functions and type checking."""
    pending, package = [ast.parse(file.read_text(encoding="utf-8"))], file.relative_to(ROOT).parent.parts
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parts, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if everywhere or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))


def within(name, modules):
    return any(name == one or name.startswith(f"{one}.") for one in modules)


@pytest.mark.parametrize("place", ABOVE)
def test_nothing_imports_what_is_above_it(place):
    above = {
        str(file.relative_to(ROOT)): [i for i in imports(file) if within(i, ABOVE[place])] for file in FILES[place]
    }
    assert not {file: names for file, names in above.items() if names}


def test_serving_needs_few_packages_and_imports_others_only_inside_functions():
    for file in CORE:
        batch = "batch_scoring" in file.parts
        at_once = {name.partition(".")[0] for name in imports(file, everywhere=False)}
        assert at_once <= SERVING | set(sys.stdlib_module_names) | (BATCH if batch else set()), file
        heavy = {name.partition(".")[0] for name in imports(file)} & (HEAVY | (set() if batch else BATCH))
        assert heavy <= ({"torch", "timm"} if file.name == "inference.py" else set()), file
        assert not [name for name in imports(file) if within(name, {"blastlens.ui"})], file


def test_modules_of_the_serving_package_do_not_import_each_other_in_cycles():
    names = {module(file): file for file in CORE if "batch_scoring" not in file.parts}
    found = {}
    for name, file in names.items():
        mentioned = {i if i in names else i.rpartition(".")[0] for i in imports(file)}
        found[name] = (mentioned & names.keys()) - {name, "blastlens"}
    while free := [name for name, others in found.items() if not others & found.keys()]:
        for name in free:
            del found[name]
    assert not found


def test_importing_the_package_is_light():
    script = "import sys, blastlens; print(*sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not (HEAVY | BATCH | {"huggingface_hub"}) & set(done.stdout.split())


def test_serving_a_folder_with_onnx_never_imports_torch(tmp_path):
    Image.fromarray(blobs(0)).save(tmp_path / "cell.png")
    script = (
        "import sys; from blastlens import Classifier; folder, image = sys.argv[1:];"
        "c = Classifier.from_pretrained(folder);"
        "c.predict([image], 5); c.noise_curve(image); c.activation_map(image); print(*sys.modules)"
    )
    command = [sys.executable, "-c", script, shared_model_folder("cell"), tmp_path / "cell.png"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not (HEAVY | BATCH) & set(done.stdout.split())
