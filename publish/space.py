"""Publish the page as a Gradio Space, generated from this project's pins and from models on the Hub.

The Space serves fixed commits of its models. It also holds a copy of each, taken from that commit, which it
falls back to when the Hub cannot be reached.
"""

import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from gradio_client import Client, handle_file
from huggingface_hub import constants

from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.hub import chosen_files, snapshot, split_name
from blastlens.model_folder import PRECISIONS, ModelFolder
from blastlens.predictions import DISCLAIMER
from publish.hub_client import Hub
from publish.model import probe_images
from publish.upload import ZERO_GPU, Upload, publish
from train import card

ROOT = Path(__file__).resolve().parents[1]
MARKER = "space.json"
PYTHON = "3.12"
FILES = ("app.py", "LICENSE", "CITATION.cff", "results/comparison.json", "results/networks.json")
SUFFIXES = (".py", ".css", ".html", ".js", ".md", ".svg", ".toml")
COMMAND_LINE = ("blastlens/__main__.py", "blastlens/cli.py", "blastlens/batch_scoring/")  # not for a page
START_S = 120
MAX_PROTOCOL = 60  # characters

BODY = """
# blastlens

{disclaimer}

Classify a blood cell with a leukemia (ALL) model, add noise, and see when the prediction changes. The page shows how
good each model is on subjects that are not in its training data, and how that was measured.

{table}

This Space is generated. The models are downloaded from the Hub at exactly these revisions; when the Hub cannot be
reached, the page falls back to the copies in `models/` and says so. Uploaded images are deleted within the hour.
Code: Apache-2.0. The terms of the models are in their cards.
"""


def page_name(folder: ModelFolder) -> str:
    """The name of a model on a page."""
    return folder.model_id.rpartition("/")[2]


def served_files(folder: ModelFolder) -> list[str]:
    """Paths that a page reads; the cache may hold more, downloaded by other programs."""
    root = folder.path
    return sorted(chosen_files(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()))


def pinned_models(names: Sequence[str]) -> list[ModelFolder]:
    """Download models given as "owner/name" or "owner/name@revision"; each is at one commit, its `revision`.

    Raises:
        BlastlensError: none, two of the same name, or one that cannot be downloaded or has no ONNX file.
    """
    if not names:
        raise BlastlensError("A Space needs at least one model; give --models owner/name@revision.")
    models = []
    for name in names:
        repo_id, revision = split_name(name) or (name, "")
        if revision == "":
            raise BlastlensError(f"{name!r} is not a model of the Hub; give owner/name or owner/name@revision.")
        path = snapshot(repo_id, revision)
        models.append(ModelFolder.load(path, repo_id, path.name))
        if not models[-1].onnx_file("fp32").is_file():
            raise BlastlensError(f"{name} has no {PRECISIONS['fp32']}; a Space serves ONNX files only.")
    require_unique(models)
    return models


def require_unique(models: Sequence[ModelFolder]) -> None:
    """Raises BlastlensError if two models have the same name, and so the same folder on a page."""
    names = [page_name(model) for model in models]
    if duplicates := sorted({name for name in names if names.count(name) > 1}):
        raise BlastlensError(f"Two models are called {duplicates[0]}; give models of different names.")


def space_upload(repo_id: str, models: Sequence[ModelFolder], **options: Any) -> Upload:
    """The Space with these models, in the page's order; `options` are fields of `Upload`."""
    return Upload(repo_id, space_files(models), "The page", MARKER, "space", "gradio", **options)


def publish_space(hub: Hub, upload: Upload, models: Sequence[ModelFolder]) -> None:
    """Start the Space here, compare its predictions with the models', and publish it.

    Raises:
        BlastlensError: it would publish a private model, does not start, or predicts something else.
    """
    refuse_private_models(hub, upload, models)
    hub.log(try_out(upload.files))
    publish(hub, upload)


def refuse_private_models(hub: Hub, upload: Upload, models: Sequence[ModelFolder]) -> None:
    """Raises BlastlensError if a public Space would hold a copy of a private model."""
    space = hub.read(**upload.repo)
    for model in models:
        state = hub.read(model.model_id)
        if state is None or not state.private:
            continue
        if not (space.private if space else upload.private):
            raise BlastlensError(
                f"The model {model.model_id} is private and {upload} would be public; give --private for a new Space, "
                "or make the model public."
            )
        hub.log(f"model {model.model_id} is private; everyone who may see the Space can download its copy")


def space_files(models: Sequence[ModelFolder], root: Path = ROOT) -> dict[str, bytes]:
    """Every file of the Space by path."""
    files = {path: (root / path).read_bytes() for path in FILES}
    for path, file in project_files("blastlens", root).items():
        if file.suffix in SUFFIXES and not path.startswith(COMMAND_LINE):
            files[path] = file.read_bytes()
    rows, preloaded = [], []
    for model in models:
        copy, paths = f"models/{page_name(model)}", served_files(model)
        files |= {f"{copy}/{path}": (model.path / path).read_bytes() for path in paths}
        rows.append({"repo_id": model.model_id, "revision": model.revision, "copy": copy})
        preloaded.append(f"{model.model_id} {','.join(paths)} {model.revision}")
    files[MARKER] = (json.dumps({"models": rows}, indent=2) + "\n").encode()
    files["requirements.txt"] = serving_requirements((root / "requirements.txt").read_text("utf-8")).encode()
    settings = {
        **list_entry(root),
        "sdk": "gradio",
        "sdk_version": card.pinned("gradio").partition("==")[2],
        "python_version": PYTHON,
        "app_file": "app.py",
        "pinned": False,
        "suggested_hardware": ZERO_GPU,
        "models": [model.model_id for model in models],
        "preload_from_hub": preloaded,
        "tags": ["mcp-server", "image-classification", "leukemia", "blood-smear", "robustness"],
    }
    files["README.md"] = readme(settings, BODY, models)
    return files


def project_files(folder: str, root: Path = ROOT) -> dict[str, Path]:
    """The committed files below a folder of the project, by path; without git, all that are not hidden.

    Raises:
        BlastlensError: one of them is a link.
    """
    listed = subprocess.run(["git", "ls-files", "-z", "--", folder], cwd=root, capture_output=True, text=True)
    if listed.returncode == 0 and (root / ".git").exists():
        names = [name for name in listed.stdout.split("\0") if name and (root / name).exists()]
    else:
        paths = (path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file())
        names = [path.as_posix() for path in paths if not any(part.startswith((".", "__py")) for part in path.parts)]
    for name in names:
        if (root / name).is_symlink():
            raise BlastlensError(f"{name} is a link; put the file itself there.")
    return {name: root / name for name in sorted(names)}


def serving_requirements(requirements: str) -> str:
    """The part of requirements.txt before the pins for training: a page needs no PyTorch."""
    serving, found, _ = requirements.partition("\n# Training")
    if not found:
        raise BlastlensError("requirements.txt has no line that starts with '# Training', where a page's pins end.")
    return serving.rstrip() + "\n"


def list_entry(root: Path = ROOT) -> dict[str, Any]:
    """How the Hub lists a Space, from the front matter of the project's README.md."""
    front = yaml.safe_load((root / "README.md").read_text("utf-8").split("---")[1])
    return {key: front[key] for key in ("title", "emoji", "colorFrom", "colorTo", "short_description", "license")}


def readme(settings: Mapping[str, Any], body: str, models: Sequence[ModelFolder]) -> bytes:
    """A README.md with front matter, the disclaimer and a table of the models."""
    front = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=10_000)
    head = "| model | revision | weighted F1 (95 % CI) | protocol |\n| --- | --- | --- | --- |"
    table = "\n".join([head, *map(model_row, models)])
    return f"---\n{front}---\n{body.format(disclaimer=f'**{DISCLAIMER}**', table=table)}".encode()


def model_row(model: ModelFolder) -> str:
    """A Markdown row: the model, its revision and its score. metrics.json may hold anything, so it is validated."""
    headline = model.metrics.get("headline")
    headline = headline if isinstance(headline, dict) else {}
    score = headline.get("weighted_f1")
    numbers = [score.get(end) for end in ("value", "low", "high")] if isinstance(score, dict) else [None]
    measured = all(isinstance(number, int | float) for number in numbers)
    text = "{:.3f} ({:.3f} to {:.3f})".format(*numbers) if measured else "not measured"
    protocol = re.sub(r"[^\w:. +-]", "", str(headline.get("protocol", "-")))[:MAX_PROTOCOL]
    page = f"[{model.model_id}](https://huggingface.co/{model.model_id})"
    return f"| {page} | `{str(model.revision)[:12]}` | {text} | {protocol} |"


def write(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files below a folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def try_out(files: Mapping[str, bytes]) -> str:
    """Start the Space's app.py from its files alone and classify one image with each model through the API.

    It has an empty cache and no token.

    Returns:
        A sentence about it.

    Raises:
        BlastlensError: it does not start, or predicts something else than the model.
    """
    rows = json.loads(files[MARKER])["models"]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "space"
        write(files, folder)
        start = time.monotonic()
        with running_app(folder, _environment(Path(temporary))) as (address, _):
            seconds = time.monotonic() - start
            try:
                warnings = _compare(Client(address, verbose=False), rows, folder)
            except BlastlensError:
                raise
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                raise BlastlensError(f"The Space starts but does not answer ({reason}).") from error
    source = f"from copies: {' '.join(warnings)}" if warnings else "from the Hub"
    return (
        f"started from its own files in {seconds:.1f} s; the API predicts as its {len(rows)} models do, loaded {source}"
    )


def _compare(client: Client, rows: Sequence[Mapping[str, str]], folder: Path) -> list[str]:
    """Compare predictions of the page with those of its models; returns the page's warnings about models."""
    image = folder.parent / "image.png"
    for row in rows:
        model = ModelFolder.load(folder / row["copy"], row["repo_id"], row["revision"])
        probe_images(model)[0].save(image)
        expected = Classifier(model).predict(image).probabilities
        found = client.predict(handle_file(str(image)), row["repo_id"], 0, 0, api_name="/classify")
        if found["probabilities"] != expected or found["revision"] != row["revision"]:
            raise BlastlensError(f"The Space predicts something else than {row['repo_id']}; it is not published.")
    listed = client.predict(api_name="/list_models")["models"]
    return [warning for model in listed for warning in model["warnings"]]


@contextmanager
def running_app(folder: Path, environment: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Run a folder's app.py on a free port; gives its address, once it accepts connections, and the process id.

    Raises:
        BlastlensError: it does not start.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        command = [sys.executable, "app.py"]
        process = subprocess.Popen(command, cwd=folder, env={**environment, **settings}, stdout=log, stderr=log)
        try:
            end = time.monotonic() + START_S
            while not _accepts(port):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    lines = [line.strip() for line in log if line.strip()] or ["no output"]
                    raise BlastlensError(f"The page does not start ({lines[-1]}).")
                time.sleep(0.02)
            yield f"http://127.0.0.1:{port}", process.pid
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _accepts(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _environment(home: Path) -> dict[str, str]:
    """Only where programs and libraries are, and how the Hub is reached; no token."""
    kept: tuple[str, ...] = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "OMP_NUM_THREADS")
    kept += ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_DISABLE_XET": "1",
    }
