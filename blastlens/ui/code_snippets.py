"""The "Code" tab: code that runs a model or calls this page, and the endpoint that lists the models.

The tests run every snippet as it is displayed.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_space

from .. import external_result
from ..hub import split_name
from ..model_folder import PRECISIONS, ModelFolder, bundled_root
from ..predictions import DISCLAIMER
from .endpoints import endpoint
from .model_registry import Shelf, provenance
from .words import main_score, task_of

IMAGE = "cell.png"
LOCAL = "http://127.0.0.1:7860"


@dataclass(frozen=True)
class Snippet:
    """Code to copy.

    Attributes:
        title: heading.
        sentence: its purpose.
        language: "python", "shell" or "json".
        code: prints the prediction last.
        needs: the packages that it imports, by the names that pip uses.
    """

    title: str
    sentence: str
    language: str
    code: str
    needs: tuple[str, ...] = ()

    def markdown(self) -> str:
        """The snippet below its heading, with the command that installs its packages."""
        install = f"```shell\npip install {' '.join(map(_pinned, self.needs))}\n```\n\n" if self.needs else ""
        return f"### {self.title}\n\n{self.sentence}\n\n{install}```{self.language}\n{self.code}```\n"


@dataclass(frozen=True)
class Origin:
    """Where code finds a model.

    Attributes:
        name: "models/NAME" in a copy of this project, a folder, or the Hub's "owner/name".
        revision: the Hub commit; None for a folder.
        custom_code: whether transformers must be allowed to run the Python file that comes with the model.
        framed: whether a single cell must be framed first, as the folder's image processor does.
    """

    name: str
    revision: str | None = None
    custom_code: bool = False
    framed: bool = False

    @property
    def on_the_hub(self) -> bool:
        """Whether it is downloaded from the Hub."""
        return split_name(self.name) is not None

    @classmethod
    def of(cls, folder: ModelFolder) -> "Origin":
        """The origin of a model. Of other folders only the name is given, since clients must not learn the path."""
        if folder.path == bundled_root() / folder.model_id:
            name = f"models/{folder.model_id}"
        elif folder.revision or split_name(folder.model_id):
            name = folder.model_id  # a bundled copy of a Hub model has its name, too
        else:
            name = f"path/to/{folder.path.name}"
        return cls(name, folder.revision, "auto_map" in folder.config, folder.view.frame is not None)


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out, follow the model picker, and offer `list_models`."""

    def follow(chosen: str, request: gr.Request) -> str:
        return snippets_markdown(shelf.classifier(chosen).folder, address_of(request.headers, request.request.scope))

    def list_models() -> dict[str, Any]:
        """List the models and their scores on unseen subjects. Research demonstration, not a medical device.

        Returns:
            models (a list: model_id, revision, labels, task, looks_at, headline: the main score with its 95 %
            interval and protocol, or null if none was measured; external_validation: its result in a sentence, a
            caveat, and the record of metrics.json or null; prevalence; size_bytes by precision; sigma, warnings, such
            as why a copy is served instead of the Hub's model, and disclaimer as in every answer) and disclaimer.
        """
        models = [described(c.folder, shelf.notices.get(name, "")) for name, c in shelf.classifiers.items()]
        return {"models": models, "disclaimer": DISCLAIMER}

    with gr.Group():
        shown = gr.Markdown(snippets_markdown(shelf.first.folder, LOCAL), elem_classes="snippets", padding=True)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    # Without triggers it runs when the page opens, too: the page's address is not known before.
    gr.on(None, follow, model, shown, trigger_mode="always_last", **quiet)
    endpoint(list_models)


def snippets_markdown(folder: ModelFolder, address: str) -> str:
    """The whole tab in Markdown; `address` is that of the page, without a slash at its end."""
    origin = Origin.of(folder)
    if origin.name.startswith("models/"):
        source = "Run the code in a copy of this project: the model is in its folder `models`."
    elif origin.on_the_hub:
        source = "The model is downloaded from the Hugging Face Hub at first use."
    else:
        source = "Replace `path/to` by the path of the model folder."
    local = "\n".join(one.markdown() for one in local_snippets(origin, IMAGE))
    remote = "\n".join(one.markdown() for one in remote_snippets(address, folder.model_id, IMAGE, tool_name()))
    return (
        f"Every way gives the same prediction. **{DISCLAIMER}**\n\n"
        f"## On your own computer\n\nYour images stay on your computer. {source}\n\n{local}\n"
        "## Through this page\n\nThis page runs the model, so your images are sent to it: send none that must not "
        f"leave your hospital. They are deleted within the hour.\n\n{remote}"
    )


def described(folder: ModelFolder, notice: str = "") -> dict[str, Any]:
    """A model as `list_models` returns it; `notice` says why it is a copy."""
    info = task_of(folder)
    files = {name: folder.path / file for name, file in PRECISIONS.items()}
    return {
        **provenance(folder, warnings=[notice] if notice else []),
        "labels": {label: info.meanings.get(label, "") for label in folder.label_names},
        "task": info.question,
        "looks_at": info.input_description,
        "headline": _headline(folder.metrics, info.unseen),
        "external_validation": {
            "result": external_result.sentence(folder.metrics),
            "caveat": external_result.caveat(folder.metrics),
            "record": folder.metrics.get("external"),
        },
        "prevalence": (folder.metrics.get("calibration") or {}).get("prevalence"),
        "size_bytes": {name: file.stat().st_size for name, file in files.items() if file.is_file()},
    }


def _headline(metrics: Mapping[str, Any], unseen: str) -> dict[str, Any] | None:
    name, score = main_score(metrics)
    if not score:
        return None
    protocol = str(metrics["headline"].get("protocol", "unnamed"))
    return {
        "score": name,
        **{end: score.get(end) for end in ("value", "low", "high")},
        "protocol": protocol,
        "measured_on": unseen if protocol.startswith("group") else "image-level: images of the training subjects",
    }


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


def local_snippets(origin: Origin, image: str) -> tuple[Snippet, ...]:
    """Code that runs a model on one's own computer; `image` is the path of an image file."""
    timm = () if origin.custom_code else (_timm(origin, image),)
    return (_pipeline(origin, image), _classifier(origin, image), *timm)


def remote_snippets(address: str, model: str, image: str, tool: str = "classify") -> Sequence[Snippet]:
    """Code that calls this page.

    Args:
        address: of the page, without a slash at its end.
        model: id of a model on offer there.
        image: path of an image file.
        tool: name of the classify tool of the page's MCP server.
    """
    file = f"handle_file({_quoted(image)})"
    settings = {"mcpServers": {"blastlens": {"type": "streamable-http", "url": f"{address}/gradio_api/mcp/"}}}
    one = _client(address, model, "classify", f"image={file}")
    many = _client(address, model, "score_images", f"files=[{file}]")
    sentence = "The client needs neither the model nor PyTorch."
    return (
        Snippet("gradio_client", sentence, "python", one, ("gradio_client",)),
        Snippet(
            "gradio_client: many images",
            "Images, or zips of images, summarized by patient.",
            "python",
            many,
            ("gradio_client",),
        ),
        Snippet(
            "curl",
            "Upload, call, then fetch the result, which is the last line.",
            "shell",
            _curl(address, model, image),
        ),
        Snippet(
            "MCP: settings of an assistant",
            "For assistants that support the Model Context Protocol.",
            "json",
            json.dumps(settings, indent=2) + "\n",
        ),
        Snippet(
            "MCP: from Python",
            "The same protocol from a program.",
            "python",
            _mcp(address, model, image, tool),
            ("mcp",),
        ),
    )


def _pinned(package: str) -> str:
    """The package in the version that this page runs on; without one if it is not installed here."""
    try:
        return f"{package}=={metadata.version(package).partition('+')[0]}"
    except metadata.PackageNotFoundError:
        return package


def _pipeline(origin: Origin, image: str) -> Snippet:
    revision = f",\n    revision={_quoted(origin.revision)}" if origin.revision else ""
    trust = ",\n    trust_remote_code=True" if origin.custom_code else ""
    sentence = "Prints every label with its probability."
    if origin.custom_code:
        sentence += " This network comes with its own Python code, which you allow to run."
    return Snippet(
        "transformers",
        sentence,
        "python",
        f"""from transformers import pipeline

classify = pipeline(
    "image-classification",
    model={_quoted(origin.name)}{revision}{trust},
)
print(classify({_quoted(image)}, top_k=None))
""",
        ("transformers", "torch", "torchvision", "timm", "pillow"),
    )


def _timm(origin: Origin, image: str) -> Snippet:
    names = f"model = {_quoted(origin.name)}\n"
    place, which = '"local-dir:" + model', "model"
    if origin.revision:
        names += f"revision = {_quoted(origin.revision)}\n"
        place, which = '"hf_hub:" + model + "@" + revision', "\n    model, revision=revision\n"
    needs = ["timm", "torch", "torchvision", "pillow"]
    if origin.framed:
        needs.append("transformers")
        imports = "from transformers import AutoImageProcessor\n"
        prepare = f"""# Published frames of 450 px and prepared cells of 224 px
# become the same pixels.
frame = AutoImageProcessor.from_pretrained({which})
pixels = frame(image, return_tensors="pt").pixel_values
"""
    else:
        imports = ""
        prepare = """settings = timm.data.resolve_model_data_config(network)
see = timm.data.create_transform(**settings)
pixels = see(image)[None]
"""
    return Snippet(
        "timm",
        "The plain network, for your own PyTorch code.",
        "python",
        f"""import timm
import torch
from PIL import Image
{imports}
{names}network = timm.create_model(
    {place},
    pretrained=True,
).eval()
image = Image.open({_quoted(image)}).convert("RGB")
{prepare}with torch.inference_mode():
    shares = network(pixels).softmax(dim=1)[0].tolist()
labels = network.pretrained_cfg["label_names"]
print(dict(zip(labels, shares)))
""",
        tuple(needs),
    )


def _classifier(origin: Origin, image: str) -> Snippet:
    revision = f"\n    revision={_quoted(origin.revision)}," if origin.revision else ""
    return Snippet(
        "blastlens",
        "In a copy of this project, without PyTorch: with warnings, noise curves and activation maps.",
        "python",
        f"""from blastlens import Classifier

classifier = Classifier.from_pretrained(
    {_quoted(origin.name)},{revision}
)
answer = classifier.predict({_quoted(image)}, sigma=0)
print(answer.to_dict())
""",
        ("numpy", "pillow", "onnxruntime", "huggingface-hub"),
    )


def _client(address: str, model: str, endpoint: str, argument: str) -> str:
    return f"""from gradio_client import Client, handle_file

client = Client({_quoted(address)}, verbose=False)
answer = client.predict(
    {argument},
    model={_quoted(model)},
    sigma=0,
    seed=0,
    api_name="/{endpoint}",
)
print(answer)
"""


def _curl(address: str, model: str, image: str) -> str:
    return f"""page={address}/gradio_api
file=$(curl -sS -F {_in_shell(f"files=@{image}")} \\
  $page/upload | cut -d '"' -f 2)
event=$(curl -sS $page/call/v2/classify \\
  -H 'Content-Type: application/json' -d '{{
    "image": {{"path": "'"$file"'",
      "meta": {{"_type": "gradio.FileData"}}}},
    "model": {_in_shell(_quoted(model))[1:-1]},
    "sigma": 0,
    "seed": 0
  }}' | cut -d '"' -f 4)
curl -sSN $page/call/v2/classify/$event
"""


def _mcp(address: str, model: str, image: str, tool: str) -> str:
    return f"""import asyncio
import base64
from pathlib import Path

from mcp import ClientSession
from mcp.client.streamable_http import (
    streamable_http_client,
)

server = {_quoted(f"{address}/gradio_api/mcp/")}
image = Path({_quoted(image)}).read_bytes()
question = {{
    "image": "data:application/octet-stream;base64,"
    + base64.b64encode(image).decode(),
    "model": {_quoted(model)},
    "sigma": 0,
    "seed": 0,
}}


async def ask():
    async with (
        streamable_http_client(server) as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        return await session.call_tool(
            {_quoted(tool)}, question
        )


answer = asyncio.run(ask())
print(answer.content[0].text)
"""


def _quoted(text: str | Path | None) -> str:
    return json.dumps(str(text), ensure_ascii=False)


def _in_shell(text: str) -> str:
    """Quoted for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"
