"""The tab with the exact lines for one's own code, and the endpoint that tells programs which models there are."""

import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from gradio.utils import get_space

from .. import external_result
from ..classifier import DISCLAIMER
from ..model_folder import PRECISIONS, ModelFolder
from .endpoints import endpoint
from .model_registry import Shelf, provenance, refusals
from .snippets import ELSEWHERE, Origin, Snippet, in_python, installing, over_the_network
from .words import main_score, task_of, term

IMAGE = "cell.png"
LOCAL = "http://127.0.0.1:7860"
_THIS_COMPUTER = ("127.0.0.1", "::1", "localhost")

# Gradio's own code box is an editor; these lines are to be read and copied.
COPY = """element.addEventListener("click", event => {
  const button = event.target.closest("button.copy");
  if (!button) return;
  const figure = button.closest("figure");
  const code = figure.querySelector("code"), said = figure.querySelector("[role=status]");
  const select = () => {
    getSelection().selectAllChildren(code);
    said.textContent = "Selected: press Ctrl+C";
  };
  const copied = () => { said.textContent = "Copied"; setTimeout(() => said.textContent = "", 2000); };
  navigator.clipboard ? navigator.clipboard.writeText(code.textContent).then(copied, select) : select();
})"""


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out, follow the model picker, and offer `list_models`."""

    def shown(chosen: str, request: gr.Request) -> tuple[str, str]:
        with refusals():
            classifier = shelf.classifier(chosen)
        scope = request.request.scope
        address = address_of(request.headers, scope)
        own = _own(classifier.folder, is_here(address, scope))
        return own, _asked(classifier.folder.model_id, address)

    def list_models() -> dict[str, Any]:
        """Which models there are, and how good each is on unseen people. Research demonstration, not a medical device.

        Returns:
            models (a list: model_id, revision, labels, task, looks_at, headline: the honest score with its 95 %
            interval and protocol, or null where nothing was measured; external_validation: its result in a sentence,
            a caveat, and the record of metrics.json or null; prevalence; size_bytes by precision; sigma, warnings,
            such as why a copy is served in place of the Hub's model, and disclaimer as in every answer) and disclaimer.
        """
        models = [described(c.folder, shelf.notices.get(name, "")) for name, c in shelf.classifiers.items()]
        return {"models": models, "disclaimer": DISCLAIMER}

    first = shelf.first
    with gr.Group():
        gr.HTML(_opening(), padding=True)
    with gr.Group():
        own = gr.HTML(_own(first.folder), padding=True, js_on_load=COPY)
    with gr.Group():
        asked = gr.HTML(_asked(first.folder.model_id, LOCAL), padding=True, js_on_load=COPY)
    # Without triggers it runs when the page opens, too: only then is the page's address known.
    follow: dict[str, Any] = {"trigger_mode": "always_last", "show_progress": "hidden", "api_visibility": "private"}
    follow["preprocess"] = False
    gr.on(None, shown, model, [own, asked], **follow)
    endpoint(list_models)


def described(folder: ModelFolder, notice: str = "") -> dict[str, Any]:
    """What a program may want to know of a model before it asks; `notice` says why it is a copy."""
    task = task_of(folder)
    files = {name: folder.path / file for name, file in PRECISIONS.items()}
    return {
        **provenance(folder, warnings=[notice] if notice else []),
        "labels": {label: task.meanings.get(label, "") for label in folder.label_names},
        "task": task.question,
        "looks_at": task.looks_at,
        "headline": _headline(folder.metrics, task.unseen),
        "external_validation": {
            "result": external_result.sentence(folder.metrics),
            "caveat": external_result.caveat(folder.metrics),
            "record": folder.metrics.get("external"),
        },
        "prevalence": (folder.metrics.get("calibration") or {}).get("prevalence"),
        "size_bytes": {name: file.stat().st_size for name, file in files.items() if file.is_file()},
    }


def address_of(headers: Mapping[str, str], scope: Mapping[str, Any]) -> str:
    """The page's address as the visitor's browser has it, behind a proxy too; without a slash at its end.

    Where the page lies below an address's root, Gradio has been told so (`GRADIO_ROOT_PATH`, a path or a whole
    address), or another application holds it: `scope` knows both.
    """
    host = headers.get("x-forwarded-host") or headers.get("host") or ""
    scheme = headers.get("x-forwarded-proto") or scope.get("scheme") or "http"
    host, scheme = (text.split(",")[0].strip() for text in (host, scheme))
    root = str(scope.get("root_path") or "").rstrip("/")
    address = root if "://" in root else f"{scheme}://{host}{root}"
    # The lines are pasted into shells, so nothing but an address gets into them.
    plain = re.fullmatch(r"https?://([\w.\-]+|\[[0-9a-fA-F:]+\])(:\d+)?(/[\w.~\-]+)*", address, re.ASCII)
    return address if plain else LOCAL


def is_here(address: str, scope: Mapping[str, Any]) -> bool:
    """Whether the visitor sits at this computer: the request comes from it, and to a name that only it has."""
    host = urlsplit(address).hostname or ""
    return (scope.get("client") or ("",))[0] in _THIS_COMPUTER and host in _THIS_COMPUTER


def tool_name() -> str:
    """What this page's MCP server calls its classify endpoint: on a Space, Gradio puts the Space's name before it."""
    space = get_space()
    return re.sub(r"[^a-zA-Z0-9]", "_", f"{space.split('/')[-1]}_classify") if space else "classify"


def _headline(metrics: Mapping[str, Any], unseen: str) -> dict[str, Any] | None:
    name, score = main_score(metrics)
    if not score:
        return None
    protocol = str(metrics["headline"].get("protocol", "unnamed"))
    group = protocol.startswith("group")
    return {
        "score": name,
        **{end: score.get(end) for end in ("value", "low", "high")},
        "protocol": protocol,
        "measured_on": unseen if group else "image-level: images of the same people as in training",
    }


def _opening() -> str:
    return (
        '<div class="snippets-opening"><p>Install what a way needs, copy its lines, put your own image in, run. They '
        "follow the model picked above, and this project's tests run all of them. Assistants can ask as well, through "
        f"{term('MCP')}.</p><p>Whatever the way, the answer is the same, and so is what it is worth: "
        f"<strong>{escape(DISCLAIMER)}</strong></p></div>"
    )


def _own(folder: ModelFolder, here: bool = False) -> str:
    origin = Origin.of(folder, here)
    where = (
        "Run these lines in a copy of this project: the model is in its folder <code>models</code>."
        if origin.name.startswith("models/")
        else "The model is fetched from the Hugging Face Hub the first time."
        if origin.on_the_hub
        else "Put in where your copy of the model's folder lies."
        if origin.name.startswith(ELSEWHERE)
        else "The model is read from its folder."
    )
    heading = f"<h2>On your own computer</h2><p>Your images stay with you. {where}</p>"
    return _boxes(heading, in_python(origin, IMAGE))


def _asked(model: str, address: str) -> str:
    heading = (
        "<h2>Over the network</h2><p>This page does the work, so your images travel to it: send none that may not "
        "leave your hospital. They are deleted within the hour.</p>"
    )
    return _boxes(heading, over_the_network(address, model, IMAGE, tool_name()))


def _boxes(heading: str, snippets: Sequence[Snippet]) -> str:
    boxes = "".join(map(_box, (installing(snippets), *snippets)))
    return f'<section class="snippets">{heading}<div>{boxes}</div></section>'


def _box(snippet: Snippet) -> str:
    title = escape(snippet.title)
    return (
        f"<figure><figcaption><div><h3>{title}</h3><p>{escape(snippet.sentence)}</p></div>"
        f'<span role="status"></span><button type="button" class="copy" aria-label="Copy the lines for {title}">Copy'
        f'</button></figcaption><pre tabindex="0" aria-label="{title}, {snippet.language}"><code>'
        f"{escape(snippet.code)}</code></pre></figure>"
    )
