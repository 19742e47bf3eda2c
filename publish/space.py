"""The demo as a Space: exactly the files it needs, generated from the project's pins and from models on the Hub.

It serves the named revisions of its models from the Hub. A copy of each stands in the Space, taken from that very
revision, for times when the Hub cannot be reached.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from gradio_client import Client, handle_file
from huggingface_hub import constants
from PIL import Image

from blastlens import Classifier
from blastlens.classifier import DISCLAIMER
from blastlens.errors import BlastlensError
from blastlens.hub import chosen_files, snapshot, split_name
from blastlens.model_folder import PRECISIONS, ModelFolder
from blastlens.wording import count as counted
from publish import check
from publish.changes import File
from publish.hub import HARDWARE, Hub, Place
from publish.project import ROOT, files_in
from publish.upload import Tell, Upload, Uploaded, send
from train.card import facts

MARK = "space.json"
PYTHON = "3.12"
WHOLE = ("app.py", "LICENSE", "CITATION.cff", "results/comparison.json", "results/networks.json")
PACKAGE = (".py", ".css", ".html", ".svg")
# The command line, which a page has no use for, and what only it needs.
LEFT_OUT = ("blastlens/__main__.py", "blastlens/cli.py", "blastlens/batch_scoring/")
START_S = 120

BODY = """
# blastlens

{disclaimer}

Ask a leukemia (ALL) screening model about a blood cell, then make the image worse and watch how long its answer holds.
The page says how good each model is on people that it never saw, and how that was measured.

{table}

This Space is generated: the models come from the Hub at exactly these revisions, and a copy of each stands in `models/`
for times when the Hub cannot be reached; the page says so then. Images you give are deleted within the hour.
Code: Apache-2.0. The models' terms stand in their cards.
"""


@dataclass(frozen=True)
class Pinned:
    """A model of the Space.

    Attributes:
        repo_id: on the Hub.
        commit: 40 hexadecimal digits.
        folder: the files that a page needs, fetched at that commit.
    """

    repo_id: str
    commit: str
    folder: ModelFolder

    @property
    def name(self) -> str:
        return self.repo_id.rpartition("/")[2]

    @property
    def files(self) -> list[str]:
        """Paths in the repository of what a page reads; the cache's folder may hold more, which others fetched."""
        root = self.folder.path
        return sorted(chosen_files(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()))


def pinned(model: str) -> Pinned:
    """Fetch "owner/name", "owner/name@branch", "...@tag" or "...@commit".

    Raises:
        BlastlensError: it cannot be had, or could not be served without PyTorch.
    """
    repo_id, revision = split_name(model) or (model, None)
    place = Place(repo_id)
    if revision == "":
        raise BlastlensError(f"{model!r} names no revision; give owner/name@revision, or leave the @ out.")
    path = snapshot(place.repo_id, revision)
    folder = ModelFolder.load(path, repo_id, path.name)
    if not folder.onnx_file("fp32").is_file():
        raise BlastlensError(f"{model} has no {PRECISIONS['fp32']}; a Space serves ONNX files only.")
    return Pinned(repo_id, path.name, folder)


def upload_of(repo_id: str, models: Sequence[str], private: bool = False, overwrite: bool = False) -> Upload:
    """The Space with these models, in the order in which the page offers them.

    Raises:
        BlastlensError: no models, one that cannot be had, or two of the same name.
    """
    place = Place(repo_id, "space")
    if not models:
        raise BlastlensError("A Space needs at least one model; give --models owner/name@revision.")
    return Upload(
        place, tuple(files_of([pinned(model) for model in models])), "The demo", MARK, private, None, False, overwrite
    )


def publish(hub: Hub, upload: Upload, tell: Tell, dry_run: bool = False) -> Uploaded | None:
    """Try the Space out here, and upload it.

    Raises:
        BlastlensError: it would show a private model to everybody, does not start, or does not answer.
    """
    for repo_id in private_models(hub, upload):
        tell(f"model {repo_id} is private: without a secret HF_TOKEN to read it, the Space serves its copy")
    tell(try_out(upload.files))
    return send(hub, upload, tell, dry_run)


def private_models(hub: Hub, upload: Upload) -> list[str]:
    """Which of the models that a Space holds copies of are private, by repository.

    Raises:
        BlastlensError: there is one, and the Space is to be seen by everybody.
    """
    there = hub.look(upload.place)
    private = there.private if there else upload.private
    found = []
    for row in served(upload.files, upload.mark):
        state = hub.look(Place(row["repo_id"]))
        if state is not None and state.private:
            if not private:
                raise BlastlensError(
                    f"The model {row['repo_id']} is private and {upload.place} would show it to everybody; give "
                    "--private for a new Space, or make the model public."
                )
            found.append(row["repo_id"])
    return found


def require_different(names: Sequence[str]) -> None:
    """Raises BlastlensError where two models have the same name: their copies would have the same place."""
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BlastlensError(f"Two models are called {twice[0]}; a Space needs different names.")


def files_of(models: Sequence[Pinned], root: Path = ROOT) -> list[File]:
    """Every file of the Space, sorted by path."""
    require_different([model.name for model in models])
    files = {path: (root / path).read_bytes() for path in WHOLE}
    files |= {
        path: file.read_bytes()
        for path, file in files_in("blastlens", root).items()
        if file.suffix in PACKAGE and not path.startswith(LEFT_OUT)
    }
    for model in models:
        files |= {f"models/{model.name}/{path}": (model.folder.path / path).read_bytes() for path in model.files}
    rows = [{"repo_id": m.repo_id, "revision": m.commit, "copy": f"models/{m.name}"} for m in models]
    files[MARK] = (json.dumps({"models": rows}, indent=2) + "\n").encode()
    files["requirements.txt"] = serving_pins((root / "requirements.txt").read_text(encoding="utf-8")).encode()
    files["README.md"] = readme((root / "README.md").read_text(encoding="utf-8"), models, pin_of("gradio")).encode()
    return [File(path, content) for path, content in sorted(files.items())]


def serving_pins(requirements: str) -> str:
    """The blocks of requirements.txt up to what only training needs: a page needs no PyTorch."""
    serving, found, _ = requirements.partition("\n# Training")
    if not found:
        raise BlastlensError(
            "requirements.txt has no line that starts with '# Training'; the pins of a page end there."
        )
    return serving.rstrip() + "\n"


def pin_of(package: str) -> str:
    """The version of a package in requirements.txt."""
    return facts.pinned(package).partition("==")[2]


def readme(project: str, models: Sequence[Pinned], gradio: str) -> str:
    """The Space's README.md: front matter from the project's own, the pins and the models; then what it is."""
    settings = {
        **look(project),
        "sdk": "gradio",
        "sdk_version": gradio,
        "python_version": PYTHON,
        "app_file": "app.py",
        "pinned": False,
        "suggested_hardware": HARDWARE,
        "models": [model.repo_id for model in models],
        "preload_from_hub": [f"{model.repo_id} {','.join(model.files)} {model.commit}" for model in models],
        "tags": ["mcp-server", "image-classification", "leukemia", "blood-smear", "robustness"],
    }
    return with_front(settings, BODY.format(disclaimer=f"**{DISCLAIMER}**", table=table(models)))


def look(project: str) -> dict[str, Any]:
    """How a Space is shown in lists, from the front matter of the project's own README.md."""
    front = yaml.safe_load(project.split("---")[1])
    return {key: front[key] for key in ("title", "emoji", "colorFrom", "colorTo", "short_description", "license")}


def with_front(settings: Mapping[str, Any], body: str) -> str:
    """A README.md with front matter."""
    text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True, width=10_000)
    return f"---\n{text}---\n{body}"


def table(models: Sequence[Pinned]) -> str:
    """Markdown: each model, its revision, and how good it is."""
    head = "| model | revision | weighted F1 (95 % interval) | measured by |\n| --- | --- | --- | --- |"
    return "\n".join([head, *map(_row, models)])


def _row(model: Pinned) -> str:
    # Other people's records can hold anything, and this becomes part of our page.
    headline = model.folder.metrics.get("headline")
    headline = headline if isinstance(headline, dict) else {}
    score = headline.get("weighted_f1")
    numbers = [score.get(end) for end in ("value", "low", "high")] if isinstance(score, dict) else []
    told = "not measured"
    if numbers and all(isinstance(number, int | float) for number in numbers):
        told = "{:.3f} ({:.3f} to {:.3f})".format(*numbers)
    protocol = re.sub(r"[^\w:. +-]", "", str(headline.get("protocol", "-")))[:60]
    page = f"[{model.repo_id}](https://huggingface.co/{model.repo_id})"
    return f"| {page} | `{model.commit[:12]}` | {told} | {protocol} |"


def write(files: Sequence[File], folder: Path) -> None:
    """Put the files into a folder."""
    for file in files:
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.read())


def try_out(files: Sequence[File]) -> str:
    """Start the Space's own app.py from its files alone, and ask each model about one image through the API.

    Returns:
        What was seen, in words.

    Raises:
        BlastlensError: it does not start, or answers otherwise than the model.
    """
    rows = served(files)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "space"
        write(files, folder)
        with running(folder, Path(temporary)) as (address, seconds):
            try:
                copies = _answering(address, rows, folder, Path(temporary) / "image.png")
            except BlastlensError:
                raise
            except Exception as error:
                raise BlastlensError(
                    f"The Space starts but does not answer ({type(error).__name__}: {error}); it is not uploaded."
                ) from error
    models = counted(len(rows), "model")
    told = f"started from its own files in {seconds:.1f} s; its API gives the answers of {models}"
    return told + (f"; served from copies: {' '.join(copies)}" if copies else ", fetched from the Hub")


def served(files: Sequence[File], mark: str = MARK) -> list[dict[str, str]]:
    """The models of a Space, as the file that marks it lists them."""
    return list(json.loads(next(file for file in files if file.path == mark).read())["models"])


def _answering(address: str, rows: Sequence[dict[str, str]], folder: Path, image: Path) -> list[str]:
    """Compare the page's answers with the models'; returns why it serves copies, where it does."""
    client = Client(address, verbose=False)
    for row in rows:
        model = ModelFolder.load(folder / row["copy"], row["repo_id"], row["revision"])
        Image.fromarray(np.asarray(check.images_for(model)[0])).save(image)
        expected = Classifier(model).predict(image)
        answer: dict[str, Any] = client.predict(handle_file(str(image)), row["repo_id"], 0, 0, api_name="/classify")
        if answer["probabilities"] != expected.probabilities or answer["revision"] != row["revision"]:
            raise BlastlensError(f"The Space answers otherwise than {row['repo_id']}; it is not uploaded.")
    offered = client.predict(api_name="/list_models")["models"]
    return [warning for model in offered for warning in model["warnings"]]


@contextmanager
def running(folder: Path, home: Path) -> Iterator[tuple[str, float]]:
    """The Space of a folder, started by its entry point with an empty cache and without any token.

    Gives its address and how many seconds it took.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = home / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "app.py"],
            cwd=folder,
            env=_environment(home, port),
            stdout=output,
            stderr=output,
        )
    try:
        start = time.monotonic()
        while True:
            with socket.socket() as door:
                if door.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None or time.monotonic() - start > START_S:
                last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
                raise BlastlensError(
                    f"The Space does not start ({' '.join(last) or 'it says nothing'}); it is not uploaded."
                )
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", time.monotonic() - start
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(home: Path, port: int) -> dict[str, str]:
    """As bare as a host's: where programs and libraries are, and how the Hub is reached."""
    kept = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR", "SYSTEMROOT", "OMP_NUM_THREADS")
    kept += ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE")
    return {name: os.environ[name] for name in kept if name in os.environ} | {
        "HOME": str(home),
        "HF_HOME": str(home / "huggingface"),
        "HF_ENDPOINT": constants.ENDPOINT,
        "HF_HUB_DISABLE_XET": "1",
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_NAME": "127.0.0.1",
        "GRADIO_SERVER_PORT": str(port),
    }
