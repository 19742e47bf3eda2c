"""The "Code" tab: code that runs a model or calls this page, rendered from `templates/code.md`.

The tests run every snippet as it is displayed.
"""

import re
import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_space
from jinja2 import Environment, StrictUndefined

from ..hub import split_name
from ..model_folder import PUBLISHED, ModelFolder, bundled_root
from ..predictions import DISCLAIMER
from .endpoints import QUIET
from .model_registry import Shelf

IMAGE = "cell.png"
LOCAL = "http://127.0.0.1:7860"
_TEMPLATE = Path(__file__).parent / "templates" / "code.md"


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""

    def follow(chosen: str, request: gr.Request) -> str:
        return snippets_markdown(shelf.classifier(chosen).folder, address_of(request.headers, request.request.scope))

    with gr.Group():
        shown = gr.Markdown(snippets_markdown(shelf.first.folder, LOCAL), elem_classes="snippets", padding=True)
    # Without triggers it runs when the page opens, too: the page's address is not known before.
    gr.on(None, follow, model, shown, trigger_mode="always_last", **QUIET)


def snippets_markdown(folder: ModelFolder, address: str, image: str = IMAGE) -> str:
    """The whole tab in Markdown.

    Args:
        folder: of the model, on offer at this page.
        address: of this page, without a slash at its end; goes into shell commands as it is, see `address_of`.
        image: path of an image file.
    """
    name = _name(folder)
    if name.startswith("models/"):
        source = "Run the code in a copy of this project: the model is in its folder `models`."
    elif split_name(name):
        source = "The model is downloaded from the Hugging Face Hub at first use."
    else:
        source = "Replace `path/to` by the path of the model folder."
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["quote"] = shlex.quote
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        disclaimer=DISCLAIMER,
        source=source,
        install=_install,
        name=name,
        revision=folder.revision,
        custom_code="auto_map" in folder.config,  # a Python file comes with the model
        framed=folder.view.frame is not None,  # a single cell is framed first, as the image processor does
        image=image,
        address=address,
        model_id=folder.model_id,
        tool=tool_name(),
    )


def _name(folder: ModelFolder) -> str:
    """Where the code finds a model. Of other folders only the name is given: clients must not learn the path."""
    if folder.path in (bundled_root() / folder.model_id, bundled_root() / PUBLISHED / folder.model_id):
        return f"models/{folder.path.relative_to(bundled_root()).as_posix()}"
    if folder.revision or split_name(folder.model_id):
        return folder.model_id  # a bundled copy of a Hub model has its name, too
    return f"path/to/{folder.path.name}"


def _install(*packages: str) -> str:
    """The command that installs packages in the versions that this page runs on, if they are installed here."""
    versions = []
    for package in packages:
        try:
            versions.append(f"{package}=={metadata.version(package).partition('+')[0]}")
        except metadata.PackageNotFoundError:
            versions.append(package)
    return f"```shell\npip install {' '.join(versions)}\n```"


def address_of(headers: Mapping[str, str], scope: Mapping[str, Any]) -> str:
    """The address of the page in the client's browser, behind a proxy too; without a slash at its end.

    `scope` has the root path, which Gradio takes from GRADIO_ROOT_PATH (a path or a whole address).
    """
    host = headers.get("x-forwarded-host") or headers.get("host") or ""
    scheme = headers.get("x-forwarded-proto") or scope.get("scheme") or "http"
    host, scheme = (text.split(",")[0].strip() for text in (host, scheme))
    root = str(scope.get("root_path") or "").rstrip("/")
    address = root if "://" in root else f"{scheme}://{host}{root}"
    # The code is pasted into shells, so only an address may get into it.
    plain = re.fullmatch(r"https?://([\w.\-]+|\[[0-9a-fA-F:]+\])(:\d+)?(/[\w.~\-]+)*", address, re.ASCII)
    return address if plain else LOCAL


def tool_name() -> str:
    """The name of the classify tool of this page's MCP server; on a Space, Gradio prepends the Space's name."""
    space = get_space()
    return re.sub(r"[^a-zA-Z0-9]", "_", f"{space.split('/')[-1]}_classify") if space else "classify"
