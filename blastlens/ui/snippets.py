"""The exact lines by which people's own code asks a model, filled in. Pure: text in, text out; tests run every one."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..model_folder import ModelFolder, bundled_root


@dataclass(frozen=True)
class Snippet:
    """One way to ask.

    Attributes:
        title: heading.
        sentence: what it is for, and what it needs.
        language: as Gradio's code box calls it: "python", "shell" or "json".
        code: ready to be copied; everything it prints last is the answer.
    """

    title: str
    sentence: str
    language: str
    code: str


@dataclass(frozen=True)
class Source:
    """Where other people's code finds a model.

    Attributes:
        name: "models/NAME" in a copy of this project, a folder, or the Hub's "owner/repo".
        revision: the Hub commit; None for a folder.
        custom_code: whether transformers must be allowed to run the Python file that comes with the model.
        framed: whether a single cell has to be framed first, as the folder's image processor does.
    """

    name: str
    revision: str | None = None
    custom_code: bool = False
    framed: bool = False

    @classmethod
    def of(cls, folder: ModelFolder) -> "Source":
        """A bundled model is found under `models/`, one from the Hub under its name there, others where they lie."""
        if folder.path == bundled_root() / folder.model_id:
            name = f"models/{folder.model_id}"
        else:
            name = folder.model_id if folder.revision else str(folder.path)
        return cls(name, folder.revision, "auto_map" in folder.config, folder.view.frame is not None)


def in_python(source: Source, image: str) -> tuple[Snippet, ...]:
    """The ways that run a model on one's own computer."""
    timm = () if source.custom_code else (_timm(source, image),)
    return (_pipeline(source, image), *timm, _classifier(source, image))


def over_the_network(address: str, model: str, image: str, tool: str = "classify") -> tuple[Snippet, ...]:
    """The ways that ask this page.

    Args:
        address: of the page, without a slash at its end.
        model: id of a model on offer there.
        image: path of an image file.
        tool: what the page's MCP server calls its classify endpoint.
    """
    return (
        _gradio_client(address, model, image),
        _curl(address, model, image),
        _mcp_configuration(address),
        _mcp(address, model, image, tool),
    )


def _pipeline(source: Source, image: str) -> Snippet:
    revision = f",\n    revision={_quoted(source.revision)}" if source.revision else ""
    trust = ",\n    trust_remote_code=True" if source.custom_code else ""
    sentence = "The usual way with transformers; it prints every label with its probability."
    if source.custom_code:
        sentence += " This network comes with Python code of its own, which you allow to run."
    return Snippet(
        "transformers",
        sentence,
        "python",
        f"""from transformers import pipeline

classify = pipeline(
    "image-classification",
    model={_quoted(source.name)}{revision}{trust},
)
print(classify({_quoted(image)}, top_k=None))
""",
    )


def _timm(source: Source, image: str) -> Snippet:
    name = f"hf_hub:{source.name}@{source.revision}" if source.revision else f"local-dir:{source.name}"
    if source.framed:
        revision = f", revision={_quoted(source.revision)}" if source.revision else ""
        imports = "from transformers import AutoImageProcessor\n"
        prepare = f"""# A published 450 px frame and a prepared 224 px cell become the same pixels.
frame = AutoImageProcessor.from_pretrained({_quoted(source.name)}{revision})
pixels = frame(image, return_tensors="pt").pixel_values
"""
    else:
        imports = ""
        prepare = """settings = timm.data.resolve_model_data_config(network)
pixels = timm.data.create_transform(**settings, is_training=False)(image)[None]
"""
    return Snippet(
        "timm",
        "For your own PyTorch code: the plain network, whose softmax is already calibrated.",
        "python",
        f"""import timm
import torch
from PIL import Image
{imports}
network = timm.create_model({_quoted(name)}, pretrained=True).eval()
image = Image.open({_quoted(image)}).convert("RGB")
{prepare}with torch.inference_mode():
    probabilities = network(pixels).softmax(dim=1)[0].tolist()
print(dict(zip(network.pretrained_cfg["label_names"], probabilities)))
""",
    )


def _classifier(source: Source, image: str) -> Snippet:
    revision = f", revision={_quoted(source.revision)}" if source.revision else ""
    return Snippet(
        "blastlens",
        "This project's own way, without PyTorch: warnings, noise curves and activation maps included.",
        "python",
        f"""from blastlens import Classifier

classifier = Classifier.from_pretrained({_quoted(source.name)}{revision})
print(classifier.predict({_quoted(image)}, sigma=0).to_dict())
""",
    )


def _gradio_client(address: str, model: str, image: str) -> Snippet:
    return Snippet(
        "gradio_client",
        "Asks this page from Python; the computer that asks needs neither model nor PyTorch.",
        "python",
        f"""from gradio_client import Client, handle_file

client = Client({_quoted(address)}, verbose=False)
answer = client.predict(
    image=handle_file({_quoted(image)}),
    model={_quoted(model)},
    sigma=0,
    seed=0,
    api_name="/classify",
)
print(answer)
""",
    )


def _curl(address: str, model: str, image: str) -> Snippet:
    question = '{"image": {"path": "\'"$file"\'", "meta": {"_type": "gradio.FileData"}}, '
    question += f'"model": {_quoted(model)}, "sigma": 0, "seed": 0}}'
    return Snippet(
        "curl",
        "From a shell: hand the image over, ask, then fetch the answer, which is the last line.",
        "shell",
        f"""page={address}/gradio_api
file=$(curl -sS -F {_in_shell(f"files=@{image}")} $page/upload | cut -d '"' -f 2)
event=$(curl -sS $page/call/v2/classify -H 'Content-Type: application/json' \\
  -d '{question}' | cut -d '"' -f 4)
curl -sSN $page/call/v2/classify/$event
""",
    )


def _mcp_configuration(address: str) -> Snippet:
    record = {"mcpServers": {"blastlens": {"type": "streamable-http", "url": f"{address}/gradio_api/mcp/"}}}
    return Snippet(
        "MCP: settings of an assistant",
        "Put this into an assistant that speaks the Model Context Protocol, and it can ask the models itself.",
        "json",
        json.dumps(record, indent=2) + "\n",
    )


def _mcp(address: str, model: str, image: str, tool: str) -> Snippet:
    return Snippet(
        "MCP: from Python",
        "The same protocol from a program of your own, with the mcp package.",
        "python",
        f"""import asyncio
import base64
from pathlib import Path

from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client

image = base64.b64encode(Path({_quoted(image)}).read_bytes()).decode()
question = {{
    "image": "data:application/octet-stream;base64," + image,
    "model": {_quoted(model)},
    "sigma": 0,
    "seed": 0,
}}


async def ask():
    async with streamable_http_client({_quoted(f"{address}/gradio_api/mcp/")}) as (read, write, _):
        async with ClientSession(read, write) as session:
            await session.initialize()
            return await session.call_tool({_quoted(tool)}, question)


answer = asyncio.run(ask())
print(answer.content[0].text)
""",
    )


def _quoted(text: str | Path | None) -> str:
    return json.dumps(str(text), ensure_ascii=False)


def _in_shell(text: str) -> str:
    """In single quotes, whatever it holds."""
    return "'" + text.replace("'", "'\\''") + "'"
