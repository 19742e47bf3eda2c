"""The page that runs models in the visitor's browser: its files, for a static Space or for any host of files.

`static/` holds the page's sources. Beside them come the models' 8-bit ONNX files, what the page reads of their records,
drawn examples, and onnxruntime-web from npm. The page fetches nothing from anywhere else, and sends nothing.
"""

import gzip
import hashlib
import json
import posixpath
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from blastlens import external_result
from blastlens.classifier import DISCLAIMER, INCOMPLETE, MAX_REASONS
from blastlens.corruptions import BLACK, CURVE_SIGMAS, TO_YCC
from blastlens.errors import BlastlensError
from blastlens.hub import fetch, split_name
from blastlens.images import MAX_ASPECT, MAX_PIXELS, MIN_SIDE, RAW_CELL_SIDE
from blastlens.model_folder import GATE_FEATURES, PRECISIONS, ModelFolder, bundled_models, bundled_root
from blastlens.noise import MAX_SIGMA
from blastlens.ood_detection import STATISTICS
from publish import check, space, static_tryout
from publish.changes import File, readable
from publish.hub import Hub, Place
from publish.project import ROOT
from publish.space import Pinned
from publish.upload import Tell, Upload, Uploaded, send

SOURCES = "static"
START = "index.html"
MARK = "models.json"
SETTINGS = "settings.js"  # written here, so that no number or sentence of the package stands in the page a second time
LICENCE = ("vendor-LICENSE.txt", "vendor/LICENSE.txt")
ONNX = PRECISIONS["int8"]
VENDOR = ("dist/ort.wasm.bundle.min.mjs", "dist/ort-wasm-simd-threaded.wasm")
EXAMPLES_EACH = {2: 3}  # drawn examples per label by the number of labels; one where there are others

# The Hub answers a request for a large file of a Space with the address of its own storage.
HUB_STORAGE = "https://huggingface.co https://*.huggingface.co https://*.hf.co"
CONNECT = "connect-src 'self'"
# With these a browser lets the page run on several threads, where it is opened by itself and not inside of another.
HEADERS = {
    "cross-origin-embedder-policy": "require-corp",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
}

# What the page reads of the records of a model.
SCORE = {"value": None, "low": None, "high": None}
METRICS: dict[str, Any] = {
    "headline": {"protocol": None, "weighted_f1": SCORE, "auroc_per_donor": SCORE},
    "int8": {"weighted_f1_fp32": None, "weighted_f1_int8": None},
    "calibration": {
        "operating_point": {
            "labels": None,
            "threshold": None,
            "target": None,
            "sensitivity": SCORE,
            "by_sigma": [{"sigma": None, "sensitivity": SCORE}],
        },
        "prediction_sets": {
            "asked": None,
            "holds": None,
            "thresholds": None,
            "coverage": SCORE,
            "by_sigma": [{"sigma": None, "coverage": SCORE}],
        },
    },
}
GATE: dict[str, Any] = {"schema": None, "images": None, "statistics": None, "features": {"limit": None}}

BODY = """
# blastlens in your browser

{disclaimer}

Ask a leukemia (ALL) screening model about a blood cell, add noise, and watch how long its answer holds. **The image
stays on your computer**: the model is fetched once and runs in your browser, and no image is sent to anybody.

{table}

This Space is generated: the models' 8-bit files come from the Hub at exactly these revisions and run by ONNX Runtime
Web (MIT licence, in `vendor/`). Code: Apache-2.0. The models' terms stand in their cards.
"""


def upload_of(
    repo_id: str,
    models: Sequence[str],
    vendor: Path | None = None,
    private: bool = False,
    overwrite: bool = False,
) -> Upload:
    """The static Space with these models of the Hub, in the order in which the page offers them.

    Args:
        models: "owner/name" or "owner/name@revision".
        vendor: folder of the unpacked npm package onnxruntime-web; without it npm fetches the package.

    Raises:
        BlastlensError: no models, one that cannot be had or served, two of the same name, or no onnxruntime-web.
    """
    place = Place(repo_id, "space", "static")
    if not models:
        raise BlastlensError("A Space needs at least one model; give --models owner/name@revision.")
    for model in models:
        if split_name(model) is None:
            raise BlastlensError(
                f"A Space serves models of the Hub; {model!r} is none: give owner/name@revision, or --to."
            )
    pinned = [space.pinned(model) for model in models]
    files = page([one.folder for one in pinned], vendor, on_hub=True)
    files["README.md"] = readme((ROOT / "README.md").read_text(encoding="utf-8"), pinned).encode()
    return Upload(
        place, sorted_files(files), "The page that runs in the browser", MARK, private, None, False, overwrite
    )


def publish(hub: Hub, upload: Upload, tell: Tell, dry_run: bool = False) -> Uploaded | None:
    """Try the page out here, and upload it.

    Raises:
        BlastlensError: it would show a private model to everybody, lacks a file, or answers otherwise than its models.
    """
    for repo_id in space.private_models(hub, upload):
        tell(f"model {repo_id} is private: whoever may see the Space can take a copy from it")
    tell(static_tryout.try_out(upload.files))
    return send(hub, upload, tell, dry_run)


def write_to(
    folder: Path,
    models: Sequence[str],
    tell: Tell,
    vendor: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
) -> None:
    """Write the page into a folder, from which any server of files can serve it.

    Args:
        folder: made if absent; a former page in it is replaced.
        models: names of bundled models, model folders, or repositories of the Hub; all bundled ones where empty.
        overwrite: also into a folder that holds something else, which stays there.

    Raises:
        BlastlensError: as `upload_of`, or a folder that holds something else.
    """
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise BlastlensError(f"{folder} is a file; give a folder.")
    if there and MARK not in there and not overwrite:
        raise BlastlensError(
            f"{folder} holds something else (it has no {MARK}); give another folder, or --overwrite to add the page."
        )
    folders = [fetch(model) for model in models or [str(bundled_root() / name) for name in bundled_models()]]
    files = sorted_files(page(folders, vendor))
    tell(static_tryout.try_out(files))
    total = readable(sum(file.size for file in files))
    if dry_run:
        for file in files:
            tell(f"  + {file.path}  {readable(file.size)}")
        tell(f"{len(files)} files, {total}; a dry run, nothing was written")
        return
    if MARK in there:
        for part in ("models", "examples", "vendor"):  # of the former page, so that no model of it stays behind
            shutil.rmtree(folder / part, ignore_errors=True)
    space.write(files, folder)
    tell(f"wrote {len(files)} files, {total}, to {folder}")
    tell(f"to look at it here: python -m http.server --bind 127.0.0.1 --directory {folder}")


def page(folders: Sequence[ModelFolder], vendor: Path | None = None, on_hub: bool = False) -> dict[str, bytes]:
    """Every file of the page by its path, but for the README.md of a Space.

    Args:
        folders: the models.
        vendor: as in `upload_of`.
        on_hub: whether the Hub is to serve it, so that its storage may answer for it.

    Raises:
        BlastlensError: a model without an 8-bit file, two of the same name, or no onnxruntime-web.
    """
    names = [_name(folder) for folder in folders]
    space.require_different(names)
    models = {name: model_files(folder) for name, folder in zip(names, folders, strict=True)}
    files = {f"models/{name}/{path}": data for name, inside in models.items() for path, data in inside.items()}
    runtime = runtime_files(vendor)
    examples = {folder.label_names: drawn_examples(folder.label_names) for folder in folders}
    files |= runtime | {path: data for drawn in examples.values() for path, (data, _) in drawn.items()}
    files[SETTINGS] = settings().encode()
    files |= sources(files)
    if on_hub:
        files[START] = _with_storage(files[START])
    for name, folder in zip(names, folders, strict=True):
        card = folder.path / "README.md"
        if folder.revision is None and card.is_file():  # of a model of the Hub the card is there
            files[_card(name)] = card.read_bytes()
    rows = [_row(name, folder, models[name]) for name, folder in zip(names, folders, strict=True)]
    record = {
        "runtime": max(len(data) for data in runtime.values()),
        "models": rows,
        "examples": {
            ",".join(labels): [{"file": path, "label": label} for path, (_, label) in drawn.items()]
            for labels, drawn in examples.items()
        },
    }
    files[MARK] = (json.dumps(record, indent=2) + "\n").encode()
    return files


def model_files(folder: ModelFolder) -> dict[str, bytes]:
    """What the page needs of a model folder, records cut to what it reads.

    Raises:
        BlastlensError: it has no 8-bit file.
    """
    onnx = folder.onnx_file("int8")
    if not onnx.is_file():
        raise BlastlensError(f"{folder.model_id} has no {ONNX}, which is what runs in a browser; export it again.")
    files = {ONNX: onnx.read_bytes(), "metrics.json": _json(cut(folder.metrics, METRICS))}
    for name in ("config.json", "preprocessor_config.json", GATE_FEATURES):
        if (folder.path / name).is_file():
            files[name] = (folder.path / name).read_bytes()
    if (folder.path / "gate.json").is_file():
        files["gate.json"] = _json(cut(json.loads((folder.path / "gate.json").read_bytes()), GATE))
    return files


def cut(record: Any, wanted: Any) -> Any:
    """A part of a JSON value: of objects the wanted keys that it has, of lists every item cut alike."""
    if isinstance(wanted, dict) and isinstance(record, dict):
        return {key: cut(record[key], inside) for key, inside in wanted.items() if record.get(key) is not None}
    if isinstance(wanted, list) and isinstance(record, list):
        return [cut(item, wanted[0]) for item in record]
    return record if wanted is None else None


def settings() -> str:
    """The module of what the page has from the package."""
    values = {
        "disclaimer": DISCLAIMER,
        "incomplete": INCOMPLETE,
        "maxReasons": MAX_REASONS,
        "sigmas": CURVE_SIGMAS,
        "maxSigma": MAX_SIGMA,
        "maxPixels": MAX_PIXELS,
        "minSide": MIN_SIDE,
        "maxAspect": MAX_ASPECT,
        "rawCellSide": RAW_CELL_SIDE,
        "black": BLACK,
        "toYcc": TO_YCC.tolist(),
        "statistics": [{"name": name, "low": one.low, "high": one.high} for name, one in STATISTICS.items()],
    }
    head = "// Written by publish/static_page.py from the Python package blastlens.\n\n"
    return f"{head}export default {json.dumps(values, indent=2)};\n"


def drawn_examples(labels: tuple[str, ...]) -> dict[str, tuple[bytes, str]]:
    """Drawn images for models with these labels: PNG and label by path; none for labels that nobody draws."""
    draw = check.DRAWN.get(labels)
    found = {}
    for seed in range(EXAMPLES_EACH.get(len(labels), 1) if draw else 0):
        for label in labels:
            file = BytesIO()
            draw(label, seed).save(file, "PNG")
            found[f"examples/drawn-{label}-{seed + 1}.png"] = (file.getvalue(), label)
    return found


def sources(generated: Mapping[str, bytes], root: Path = ROOT) -> dict[str, bytes]:
    """The page's own files: index.html and whatever it refers to, by path. Nothing else of the folder is published.

    Raises:
        BlastlensError: something that is referred to is neither there nor `generated`.
    """
    files: dict[str, bytes] = {}
    pending = [(START, "the page")]
    while pending:
        path, by = pending.pop()
        if path in files or path in generated:
            continue
        source = root / SOURCES / path
        if not source.is_file():
            raise BlastlensError(f"{by} refers to {path}, which {SOURCES}/ does not have.")
        files[path] = source.read_bytes()
        pending += [(found, path) for found in references(path, files[path])]
    return files


_REFERENCES = {
    ".html": re.compile(r'(?:src|href)="([^":#?]+)"'),
    ".js": re.compile(r'(?:\bfrom|\bimport|new URL\()\s*"(\.[^"]+)"'),
    ".css": re.compile(r'url\(["\']?([^"\':)]+)'),
}


def references(path: str, content: bytes) -> Iterator[str]:
    """Paths of the files of the page that one of them refers to; those that come in at run time are not seen."""
    pattern = _REFERENCES.get(posixpath.splitext(path)[1])
    for found in pattern.findall(content.decode("utf-8")) if pattern else ():
        yield posixpath.normpath(posixpath.join(posixpath.dirname(path), found))


def runtime_files(package: Path | None = None, root: Path = ROOT) -> dict[str, bytes]:
    """onnxruntime-web for the page, by path: its script, its WebAssembly (compressed) and its licence.

    Args:
        package: folder of the unpacked npm package; without it npm fetches the package that package-lock.json pins.

    Raises:
        BlastlensError: there is no npm, it cannot fetch the package, or a file is not the pinned one.
    """
    folder = root / SOURCES
    pins = json.loads((folder / "vendor.json").read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as temporary:
        package = package or from_npm(Path(temporary), folder) / "node_modules" / pins["package"]
        script, wasm = (_pinned_file(package, path, pins) for path in VENDOR)
    return {
        f"vendor/{posixpath.basename(VENDOR[0])}": script,
        # Many hosts send files as they are; the page unpacks it, and a visitor waits for a quarter of it.
        f"vendor/{posixpath.basename(VENDOR[1])}.gz": gzip.compress(wasm, 9, mtime=0),
        LICENCE[1]: (folder / LICENCE[0]).read_bytes(),
    }


def _pinned_file(package: Path, path: str, pins: Mapping[str, Any]) -> bytes:
    file, name = package / path, f"{pins['package']} {pins['version']}"
    if not file.is_file():
        raise BlastlensError(f"{package} has no {path}; give --vendor the folder of the npm package {name}.")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != pins["sha256"][path]:
        raise BlastlensError(f"{file} is not that of {name} (its SHA-256 differs); fetch the package again.")
    return data


def from_npm(folder: Path, sources: Path = ROOT / SOURCES) -> Path:
    """Have npm install what package-lock.json pins into a folder, without running any script of it.

    Raises:
        BlastlensError: there is no npm, or it cannot.
    """
    npm = shutil.which("npm")
    instead = "give --vendor a folder of the package onnxruntime-web"
    if npm is None:
        raise BlastlensError(f"There is no npm to fetch onnxruntime-web with; install Node.js, or {instead}.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(sources / name, folder / name)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if "EINTEGRITY" in done.stderr:
        raise BlastlensError(
            f"What npm delivers is not what {SOURCES}/package-lock.json pins (its integrity differs); look at the "
            f"registry that npm asks, or {instead}."
        )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("npm error")][:1]
        reason = " ".join(said).removeprefix("npm error ").strip() or f"exit code {done.returncode}"
        raise BlastlensError(f"npm cannot fetch onnxruntime-web ({reason}); check the network, or {instead}.")
    return folder


def readme(project: str, models: Sequence[Pinned]) -> str:
    """The static Space's README.md: front matter from the project's own and the models; then what it is."""
    front = {
        **space.look(project),
        "sdk": "static",
        "app_file": START,
        "pinned": False,
        "models": [model.repo_id for model in models],
        "tags": ["image-classification", "leukemia", "blood-smear", "robustness", "onnx"],
        "custom_headers": HEADERS,
    }
    return space.with_front(front, BODY.format(disclaimer=f"**{DISCLAIMER}**", table=space.table(models)))


def _row(name: str, folder: ModelFolder, files: Mapping[str, bytes]) -> dict[str, Any]:
    hub = folder.revision is not None
    return {
        "name": name,
        "repo_id": folder.model_id if hub else None,
        "revision": folder.revision,
        "card": f"https://huggingface.co/{folder.model_id}/blob/{folder.revision}/README.md"
        if hub
        else quote(_card(name)),
        "external": external_result.sentence(folder.metrics),
        "files": {path: len(data) for path, data in sorted(files.items())},
    }


def _card(name: str) -> str:
    return f"models/{name}/README.txt"  # .txt, so that browsers show it


def _name(folder: ModelFolder) -> str:
    return folder.model_id.rpartition("/")[2]


def _with_storage(html: bytes) -> bytes:
    text = html.decode("utf-8")
    if text.count(CONNECT) != 1:
        raise BlastlensError(f"{SOURCES}/{START} must say {CONNECT} once in its security policy.")
    return text.replace(CONNECT, f"{CONNECT} {HUB_STORAGE}").encode()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def sorted_files(files: Mapping[str, bytes]) -> tuple[File, ...]:
    return tuple(File(path, content) for path, content in sorted(files.items()))
