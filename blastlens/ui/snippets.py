"""The exact lines by which people's own code asks a model, filled in. Pure: text in, text out; tests run every one."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from textwrap import wrap

from ..hub import split_name
from ..model_folder import ModelFolder, bundled_root

_WIDTH = 54  # letters in half of the page, less what follows a line that goes on


@dataclass(frozen=True)
class Snippet:
    """One way to ask.

    Attributes:
        title: heading.
        sentence: what it is for, and what it needs.
        language: as Gradio's code box calls it: "python", "shell" or "json".
        code: ready to be copied, in lines that fit half of the page; everything it prints last is the answer.
        needs: the packages that it imports, as pip calls them.
    """

    title: str
    sentence: str
    language: str
    code: str
    needs: tuple[str, ...] = ()


ELSEWHERE = "path/to/"  # a folder of a computer whose folders the reader must not know


@dataclass(frozen=True)
class Origin:
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

    @property
    def on_the_hub(self) -> bool:
        """Whether it is fetched from there."""
        return split_name(self.name) is not None

    @classmethod
    def of(cls, folder: ModelFolder, here: bool = True) -> "Origin":
        """A bundled model is found under `models/`, one from the Hub under its name there, others where they lie.

        Args:
            here: whether the lines are for somebody at this computer; nobody else is told where a folder of it lies.
        """
        if folder.path == bundled_root() / folder.model_id:
            name = f"models/{folder.model_id}"
        elif folder.revision or split_name(folder.model_id):
            # A copy that is served in place of the Hub's model is that model, wherever it lies.
            name = folder.model_id
        else:
            name = str(folder.path) if here else f"{ELSEWHERE}{folder.path.name}"
        return cls(name, folder.revision, "auto_map" in folder.config, folder.view.frame is not None)


def in_python(origin: Origin, image: str) -> tuple[Snippet, ...]:
    """The ways that run a model on one's own computer.

    Args:
        origin: of the model.
        image: path of an image file.
    """
    timm = () if origin.custom_code else (_timm(origin, image),)
    return (_pipeline(origin, image), _classifier(origin, image), *timm)


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
        _many_images(address, model, image),
        _curl(address, model, image),
        _mcp_configuration(address),
        _mcp(address, model, image, tool),
    )


def installing(snippets: Sequence[Snippet]) -> Snippet:
    """One way to get whatever the snippets import, in the versions that this page runs on."""
    titles: dict[tuple[str, ...], list[str]] = {}
    for snippet in snippets:
        if snippet.needs:
            titles.setdefault(snippet.needs, []).append(snippet.title)
    commands = []
    for packages, ways in titles.items():
        command = wrap(f"pip install {' '.join(map(_pinned, packages))}", _WIDTH, break_on_hyphens=False)
        commands.append(f"# {', '.join(ways)}\n" + " \\\n  ".join(command) + "\n")
    return Snippet(
        "First, once",
        "The packages, in the versions that this page runs on; each way names its own.",
        "shell",
        "\n".join(commands),
    )


def _pinned(package: str) -> str:
    try:
        return f"{package}=={metadata.version(package).partition('+')[0]}"
    except metadata.PackageNotFoundError:  # a page that only serves has no PyTorch
        return package


def _pipeline(origin: Origin, image: str) -> Snippet:
    revision = f",\n    revision={_quoted(origin.revision)}" if origin.revision else ""
    trust = ",\n    trust_remote_code=True" if origin.custom_code else ""
    sentence = "The usual way with transformers; it prints every label with its probability."
    if origin.custom_code:
        sentence += " This network comes with Python code of its own, which you allow to run."
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
        "For your own PyTorch code: the plain network, whose softmax is calibrated over all answers together, not for "
        "each label.",
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
        "This project's own way, in a copy of it and without PyTorch: warnings, noise curves and activation maps "
        "included.",
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
        ("gradio_client",),
    )


def _many_images(address: str, model: str, image: str) -> Snippet:
    return Snippet(
        "gradio_client: many images",
        "Images, or zips of images, summed up by patient.",
        "python",
        f"""from gradio_client import Client, handle_file

files = [{_quoted(image)}]
client = Client({_quoted(address)}, verbose=False)
answer = client.predict(
    files=[handle_file(file) for file in files],
    model={_quoted(model)},
    sigma=0,
    seed=0,
    api_name="/score_images",
)
print(answer)
""",
        ("gradio_client",),
    )


def _curl(address: str, model: str, image: str) -> Snippet:
    return Snippet(
        "curl",
        "From a shell: hand the image over, ask, then fetch the answer, which is the last line.",
        "shell",
        f"""page={address}/gradio_api
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
""",
        ("mcp",),
    )


def _quoted(text: str | Path | None) -> str:
    return json.dumps(str(text), ensure_ascii=False)


def _in_shell(text: str) -> str:
    """In single quotes, whatever it holds."""
    return "'" + text.replace("'", "'\\''") + "'"
