"""The page that runs models in the visitor's browser: its files, for a static Space or for any web server.

`static/` holds the page's sources; `settings.js` and `models.json` are generated (see `static_records`). Beside them
are the models' int8 ONNX files, synthetic example images and onnxruntime-web from npm. The page fetches nothing from
anywhere else, and sends nothing.
"""

import gzip
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from blastlens.dataset_info import dataset_info
from blastlens.errors import BlastlensError
from blastlens.hub import fetch
from blastlens.model_folder import OOD_FEATURES, PRECISIONS, ModelFolder, bundled_models, bundled_root
from blastlens.synthetic_images import synthetic_image
from publish import space
from publish.hub_client import Hub
from publish.space import ROOT, page_name
from publish.static_check import check_page
from publish.static_records import card_path, model_record, settings
from publish.upload import Upload, publish, readable

SOURCES = "static"
START = "index.html"
MARKER = "models.json"
ONNX = PRECISIONS["int8"]
NOT_SERVED = {"vendor.json", "vendor-LICENSE.txt"}  # of the sources
# onnxruntime-web: where its files are in the npm package.
RUNTIME = ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm")
EXAMPLES_PER_LABEL = {2: 3}  # by number of labels; one otherwise

# The Hub answers a request for a large file of a Space with the address of its own storage.
HUB_STORAGE = "https://huggingface.co https://*.huggingface.co https://*.hf.co"
CONNECT = "connect-src 'self'"
# With these headers a browser lets the page use several threads, unless it is embedded in another page.
HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}

BODY = """
# blastlens in your browser

{disclaimer}

Classify a blood cell with a leukemia (ALL) model, add noise, and see when the prediction changes. **The image stays on
your computer**: the model is downloaded once and runs in your browser, and no image is sent anywhere.

{table}

This Space is generated: the int8 models come from the Hub at exactly these revisions and run by ONNX Runtime Web (MIT
licence, in `vendor/`). Code: Apache-2.0. The terms of the models are in their cards.
"""


def static_upload(repo_id: str, models: Sequence[ModelFolder], package: Path | None = None, **options: Any) -> Upload:
    """The static Space with these models, in the page's order.

    Args:
        package: folder of the unpacked npm package onnxruntime-web; without it npm downloads the package.
        options: fields of `Upload`.

    Raises:
        BlastlensError: a model without an int8 file, or no onnxruntime-web.
    """
    files = page_files(models, package)
    html = files[START].decode()
    if html.count(CONNECT) != 1:
        raise BlastlensError(f"{SOURCES}/{START} must contain {CONNECT} once, in its security policy.")
    files[START] = html.replace(CONNECT, f"{CONNECT} {HUB_STORAGE}").encode()
    front = {
        **space.list_entry(),
        "sdk": "static",
        "app_file": START,
        "pinned": False,
        "models": [model.model_id for model in models],
        "tags": ["image-classification", "leukemia", "blood-smear", "robustness", "onnx"],
        "custom_headers": HEADERS,
    }
    files["README.md"] = space.readme(front, BODY, models)
    return Upload(repo_id, files, "The page that runs in the browser", MARKER, "space", "static", **options)


def publish_page(hub: Hub, upload: Upload, models: Sequence[ModelFolder]) -> None:
    """Compare the page's predictions with Python's here, and publish it.

    Raises:
        BlastlensError: it would publish a private model, or predicts something else than its models.
    """
    space.refuse_private_models(hub, upload, models)
    hub.log(check_page(upload.files, models))
    publish(hub, upload)


def write_page(
    log: Callable[[str], None],
    target: Path,
    models: Sequence[str],
    package: Path | None,
    overwrite: bool,
    dry_run: bool,
) -> None:
    """Write the page into a folder, from which any web server can serve it.

    Args:
        target: created if absent; a page that it holds already is replaced.
        models: names of bundled models, model folders, or models of the Hub; all bundled ones if empty.
        overwrite: also into a folder that holds something else, which stays there.

    Raises:
        BlastlensError: as `static_upload`, or a folder that holds something else.
    """
    if target.exists() and not target.is_dir():
        raise BlastlensError(f"{target} is a file; give a folder.")
    existing = {path.name for path in target.iterdir()} if target.is_dir() else set()
    if existing and MARKER not in existing and not overwrite:
        raise BlastlensError(
            f"{target} holds something else (it has no {MARKER}); give another folder, or --overwrite to add the page."
        )
    folders = [fetch(name) for name in models or map(bundled_root().joinpath, bundled_models())]
    files = page_files(folders, package)
    log(check_page(files, folders))
    size = readable(sum(map(len, files.values())))
    if dry_run:
        log(f"{len(files)} files, {size}; dry run: nothing was written")
        return
    if MARKER in existing:
        for part in ("models", "examples", "vendor"):  # of the former page
            shutil.rmtree(target / part, ignore_errors=True)
    space.write(files, target)
    log(f"wrote {len(files)} files, {size}, to {target}")
    log(f"to open it here: python -m http.server --bind 127.0.0.1 --directory {target}")


def page_files(folders: Sequence[ModelFolder], package: Path | None = None) -> dict[str, bytes]:
    """Every file of the page by path, except for the README.md of a Space.

    Raises:
        BlastlensError: a model without an int8 file, two of the same name, or no onnxruntime-web.
    """
    space.require_unique(folders)
    sources = {path.name: path.read_bytes() for path in space.project_files(SOURCES).values()}
    files = {name: data for name, data in sources.items() if name not in NOT_SERVED} | runtime_files(package)
    files["settings.js"] = settings().encode()
    records = []
    for folder in folders:
        name, served = page_name(folder), model_files(folder)
        files |= {f"models/{name}/{path}": data for path, data in served.items()}
        try:
            records.append(model_record(name, folder, {path: len(data) for path, data in served.items()}))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise BlastlensError(f"metrics.json of {name} has another form ({error!r}).") from error
        if folder.revision is None and (folder.path / "README.md").is_file():
            files[card_path(name)] = (folder.path / "README.md").read_bytes()
    examples = {folder.label_names: synthetic_examples(folder.known_labels) for folder in folders}
    files |= {path: data for images in examples.values() for path, (_, data) in images.items()}
    record = {
        "runtime": max(len(data) for path, data in files.items() if path.startswith("vendor/")),
        "models": records,
        "examples": {
            ",".join(labels): [{"file": path, "label": label} for path, (label, _) in images.items()]
            for labels, images in examples.items()
        },
    }
    files[MARKER] = (json.dumps(record, indent=1, allow_nan=False) + "\n").encode()
    return dict(sorted(files.items()))


def model_files(folder: ModelFolder) -> dict[str, bytes]:
    """The files of a model that the page downloads.

    Raises:
        BlastlensError: it has no int8 file.
    """
    if not folder.onnx_file("int8").is_file():
        raise BlastlensError(f"{folder.model_id} has no {ONNX}, which runs in a browser; export it again.")
    wanted = [ONNX, *([OOD_FEATURES] if folder.ood_detector and folder.ood_detector.features else [])]
    return {name: (folder.path / name).read_bytes() for name in wanted}


def synthetic_examples(labels: tuple[str, ...]) -> dict[str, tuple[str, bytes]]:
    """Synthetic images for models with these labels: label and PNG by path; none for unknown labels."""
    found: dict[str, tuple[str, bytes]] = {}
    for seed in range(EXAMPLES_PER_LABEL.get(len(labels), 1) if dataset_info(labels).known else 0):
        for label in labels:
            file = BytesIO()
            synthetic_image(label, seed).save(file, "PNG")
            found[f"examples/synthetic-{label}-{seed + 1}.png"] = (label, file.getvalue())
    return found


def runtime_files(package: Path | None = None) -> dict[str, bytes]:
    """onnxruntime-web for the page, by path: its script, its WebAssembly (compressed) and its licence.

    Args:
        package: folder of the unpacked npm package; without it npm downloads the pinned version.

    Raises:
        BlastlensError: there is no npm, it cannot download the package, or a file is not the pinned one.
    """
    sources = ROOT / SOURCES
    digests = json.loads((sources / "vendor.json").read_text(encoding="utf-8"))["sha256"]
    with tempfile.TemporaryDirectory() as temporary:
        package = package or npm_package(Path(temporary))
        missing = [path for path in RUNTIME if not (package / path).is_file()]
        if missing:
            raise BlastlensError(f"{package} has no {missing[0]}; give --package the folder of onnxruntime-web.")
        files = {path: (package / path).read_bytes() for path in RUNTIME}
    for path, data in files.items():
        if hashlib.sha256(data).hexdigest() != digests[path]:
            raise BlastlensError(f"{path} is not that of the pinned onnxruntime-web (its SHA-256 differs).")
    script, wasm = files.values()
    return {
        f"vendor/{Path(RUNTIME[0]).name}": script,
        # Many hosts send files uncompressed; the page decompresses it, so that a quarter has to be downloaded.
        f"vendor/{Path(RUNTIME[1]).name}.gz": gzip.compress(wasm, 9, mtime=0),
        "vendor/LICENSE.txt": (sources / "vendor-LICENSE.txt").read_bytes(),
    }


def npm_package(folder: Path) -> Path:
    """Have npm download the pinned onnxruntime-web, and unpack the runtime's files; returns the package's folder.

    Raises:
        BlastlensError: there is no npm, or it cannot download the package.
    """
    npm = shutil.which("npm")
    alternative = "give --package a folder of the npm package onnxruntime-web"
    if npm is None:
        raise BlastlensError(f"There is no npm to download onnxruntime-web; install Node.js, or {alternative}.")
    pin = json.loads((ROOT / SOURCES / "vendor.json").read_text(encoding="utf-8"))
    command = [npm, "pack", f"{pin['package']}@{pin['version']}", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        errors = [line.removeprefix("npm error ") for line in done.stderr.splitlines() if line.startswith("npm error")]
        reason = errors[0].strip() if errors else f"exit code {done.returncode}"
        raise BlastlensError(f"npm cannot download onnxruntime-web ({reason}); check the network, or {alternative}.")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        for path in RUNTIME:
            archive.extract(f"package/{path}", folder, filter="data")
    return folder / "package"
