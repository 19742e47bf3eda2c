"""Gradio fetches files that a caller names by their address; on this page it does not.

It would make the computer that runs the page, perhaps one inside a hospital, ask the network for whatever a visitor
wants; for a name that only that network knows, Gradio 6.31 even asks a public name server. Files are uploaded, or sent
as data: URIs.
"""

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
import httpx
from gradio import processing_utils, routes
from gradio.utils import get_upload_folder, is_in_or_equal
from starlette.responses import PlainTextResponse

REFUSAL = "Files are not fetched from addresses here; upload the file, or send it as a data: URI."
_OWN = "/gradio_api/file="


def refuse_addresses() -> None:
    """Make every road on which Gradio fetches an address end in one sentence, for all pages of this process.

    The address of a file that was uploaded here, which is what MCP clients are told to give, is read from disk.
    """
    processing_utils.async_ssrf_protected_get = _get
    routes.secure_url_stream_response = _stream


async def _get(url: str) -> httpx.Response:
    place = unquote(url.partition(_OWN)[2])
    if place and "\0" not in place and is_in_or_equal(place, get_upload_folder()) and Path(place).is_file():
        return httpx.Response(200, content=Path(place).read_bytes())
    raise gr.Error(REFUSAL, print_exception=False)


async def _stream(*_: Any) -> PlainTextResponse:
    return PlainTextResponse(REFUSAL, status_code=403)
