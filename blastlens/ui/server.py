"""What clients reach over HTTP and MCP: open routes, size limits, security headers, and errors in one sentence.

Gradio serves more than this page needs (recordings, proxies, statistics); routes that are not listed here are closed.
Limits per client, on the rate and duration of requests, are the task of a proxy.
"""

import asyncio
import logging
import os
import re
import secrets
import time
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import gradio as gr
from gradio import route_utils, state_holder
from gradio.block_function import BlockFunction
from gradio.exceptions import InvalidPathError
from gradio.utils import get_upload_folder
from gradio_client.utils import is_file_obj_with_meta, is_http_url_like, traverse
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import temp_files
from ..errors import BlastlensError

MAX_FILE_SIZE = "100mb"
# Of one request. All but uploads are read into memory; they hold images as data: URIs at most.
MAX_UPLOAD_MB, MAX_BODY_MB = 1000, 32
MAX_FILES = 50_000  # stored at a time
MAX_WAITING = 64  # requests in the queue
CONCURRENCY = 2  # requests of each kind that run at a time

FAILED = "This request failed because of an error of the page; try again, or with another file."
NOT_UPLOADED = "This file was not uploaded here; upload it first."
BUSY = f"This page is busy: {MAX_WAITING} requests are waiting. Try again in a minute."
FULL = "This page has no room for more files; old files are deleted soon, so try again later."

_FILE, _UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
# Methods and paths that the page, gradio_client, curl and MCP clients need.
_OPEN = tuple(
    (methods.split(), re.compile(f"(?:{path})"))
    for methods, path in (
        ("GET HEAD", r"/"),
        ("GET HEAD", r"/(assets|static)/.+"),
        ("GET", r"/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/pwa_icon|/robots\.txt"),
        ("GET", r"/gradio_api/(info/?|openapi\.json|app_id/?|startup-events|theme\.css|upload_progress|queue/status)"),
        ("GET HEAD", r"/gradio_api/file=(?!https?:).+"),
        ("POST", r"/gradio_api/(upload|queue/join|cancel|reset/?)"),
        ("GET", r"/gradio_api/queue/data|/gradio_api/heartbeat/[^/]+"),
        ("POST", r"/gradio_api/(run|call|call/v2)/[^/]+/?"),
        ("GET", r"/gradio_api/call/(v2/)?[^/]+/[^/]+"),
        ("GET POST DELETE", r"/gradio_api/mcp/?"),
        ("GET", r"/gradio_api/mcp/(schema|sse)"),
        ("POST", r"/gradio_api/mcp/messages/.*"),
    )
)
_CACHED = re.compile(r"/(assets|static)/.+|/theme\.css|/favicon\.ico|/manifest\.json|/pwa_icon|/robots\.txt")
# DNS rebinding needs a name, so addresses (digits, or with a colon) are fine.
_LOCAL_NAME = re.compile(r"(.+\.)?localhost|[\d.]+|.*:.*")
# Gradio's page has inline scripts and styles, and compiles the scripts of components.
_PAGE_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
    )
)
# An uploaded file is displayed or saved; nothing in it runs.
_FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"

_logger = logging.getLogger(__name__)


class Shield:
    """ASGI middleware: closes routes, limits request bodies and stored uploads, and sets security headers.

    BLASTLENS_STORE_MB limits the size of all stored files (10**6 bytes, by default 10,000). BLASTLENS_HOSTS lists
    further names, separated by spaces, of a page that listens on this computer only.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._most = stored_mb() * 1_000_000
        self._hosts = frozenset(os.environ.get("BLASTLENS_HOSTS", "").lower().split())
        self._checked, self._bytes, self._files = -1.0, 0, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = _path(scope)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _set_headers(MutableHeaders(scope=message), path)
            await send(message)

        answer = self._refusal(scope, path)
        if answer is None:
            if path.startswith(_FILE):
                # Gradio answers a range request with the request's own headers, its content type among them.
                scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}
            try:
                return await self.app(scope, _limited(receive, path), send_with_headers)
            except route_utils.FnIndexInferError:  # before any response
                answer = _refuse(404, "There is no endpoint of this name.", scope)
        await answer(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, path: str) -> Response | None:
        """The response to a request that may not pass; None for one that may."""
        headers, method = Headers(scope=scope), scope["method"]
        if _is_rebound(scope, headers, self._hosts):
            return _refuse(421, "This host name is unknown; BLASTLENS_HOSTS can add names to localhost.", scope)
        if not any(method in methods and pattern.fullmatch(path) for methods, pattern in _OPEN):
            return _refuse(404, "There is nothing at this address.", scope)
        if method != "POST":
            return None
        if _is_cross_site(headers):
            return _refuse(403, "Pages of other sites cannot send requests; open this page itself.", scope)
        length = headers.get("content-length", "")
        size = int(length) if length.isdecimal() else _max_bytes(path)
        if size > _max_bytes(path):
            return _refuse(413, _too_large(path), scope)
        if not self._has_room(size):
            return _refuse(507, FULL, scope)
        return None

    def _has_room(self, size: int) -> bool:
        """Whether so many bytes more can be stored; the folder is looked at once a second at most."""
        if (now := time.monotonic()) - self._checked > 1:
            self._checked = now
            self._bytes, self._files = temp_files.stored(Path(get_upload_folder()))
        if self._bytes + size > self._most or self._files >= MAX_FILES:
            return False
        self._bytes += size
        return True


class _Refusal(gr.Error):
    """A sentence for the client, and nothing for the log."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, print_exception=False)

    def __str__(self) -> str:
        return self.message  # gr.Error puts it in quotes, which MCP clients would read


class Page(gr.Blocks):
    """Blocks whose events fail with one sentence, fetch no address, and wait in line when called by MCP."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._lines: dict[str, asyncio.Semaphore] = {}
        self._waiting = 0

    async def process_api(self, block_fn: BlockFunction | int, inputs: list[Any], *args: Any, **named: Any) -> Any:
        """Run one event; arguments and result are those of `gr.Blocks.process_api`.

        Raises:
            gr.Error: with a sentence for the client; of an internal error it names neither cause nor paths.
        """
        function = self.fns[block_fn] if isinstance(block_fn, int) else block_fn
        # Calls by MCP and by /run do not pass Gradio's queue.
        waits = function.api_visibility == "public" and named.get("event_id") is None
        try:
            async with self._turn(function) if waits else nullcontext():
                return await super().process_api(function, _without_addresses(inputs), *args, **named)
        except gr.Error:
            raise
        except BlastlensError as error:
            raise _Refusal(str(error)) from error
        except InvalidPathError as error:
            raise _Refusal(NOT_UPLOADED) from error
        except Exception as error:
            _logger.error("A request failed: %s", _described(error))
            raise _Refusal(FAILED) from error

    @asynccontextmanager
    async def _turn(self, function: BlockFunction) -> AsyncIterator[None]:
        """Wait until fewer calls of this kind are running than may."""
        if self._waiting >= MAX_WAITING:
            raise _Refusal(BUSY)
        limit = function.concurrency_limit if isinstance(function.concurrency_limit, int) else CONCURRENCY
        line = self._lines.setdefault(function.concurrency_id, asyncio.Semaphore(limit))
        self._waiting += 1
        try:
            await line.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            line.release()


def extend_gradio() -> None:
    """Replace two names of Gradio that have no setting, for all pages of this process."""
    route_utils.GradioUploadFile = _PrivateUpload  # uploads of the same file would share one address
    state_holder.SessionState = _Session  # each API call would copy all components, which takes as long as a prediction


class _PrivateUpload(route_utils.GradioUploadFile):
    """A file whose address depends on random bytes as well as on its content."""

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self.sha.update(secrets.token_bytes(32))


class _Session(state_holder.SessionState):
    """What a client's events share, without the copy of all components that Gradio keeps for links to a session."""

    def __init__(self, blocks: gr.Blocks) -> None:
        super().__init__(cast(gr.Blocks, SimpleNamespace(default_config=blocks.default_config, blocks={})))

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


def stored_mb() -> int:
    """BLASTLENS_STORE_MB: the most that may be stored at a time, in 10**6 bytes.

    Raises:
        BlastlensError: not an integer from 10 on.
    """
    return temp_files.number("BLASTLENS_STORE_MB", 10_000, 10, 100_000_000)


def local_path(place: str) -> str:
    """The path of an upload, from its path or its address.

    Raises:
        BlastlensError: any other address.
    """
    if _FILE in place:
        return unquote(place.partition(_FILE)[2])
    if is_http_url_like(place):
        raise BlastlensError("Files are not fetched from addresses; upload the file, or send it as a data: URI.")
    return place


def _without_addresses(inputs: Any) -> Any:
    """Inputs in which the addresses of uploads are their paths; any other address is refused."""
    return traverse(inputs, lambda file: {**file, "path": local_path(file["path"])}, is_file_obj_with_meta)


def _described(error: Exception) -> str:
    """An error without its message, which can hold names of patients' files; BLASTLENS_LOG=full gives all of it."""
    if os.environ.get("BLASTLENS_LOG") == "full":
        return "".join(traceback.format_exception(error))
    frames = reversed(traceback.extract_tb(error.__traceback__)[-4:])
    places = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} ({frame.name})" for frame in frames)
    return f"{type(error).__name__} at {places}"


def _is_rebound(scope: Scope, headers: Headers, known: frozenset[str]) -> bool:
    """Whether a page that is for this computer only is addressed by an unknown host name, as in DNS rebinding.

    GRADIO_SERVER_NAME opens the page to other computers, whose proxies may keep the name that the client used; names
    of Gradio's share links lead to its own servers.
    """
    if os.environ.get("GRADIO_SERVER_NAME", "127.0.0.1") not in ("127.0.0.1", "::1", "localhost"):
        return False
    server, name = (scope.get("server") or ("",))[0], urlsplit(f"//{headers.get('host', '')}").hostname or ""
    local = server == "::1" or server.startswith("127.")
    return local and name not in known and not _LOCAL_NAME.fullmatch(name) and not name.endswith(".gradio.live")


def _path(scope: Scope) -> str:
    """The path below the page's root, as the router reads it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _is_cross_site(headers: Headers) -> bool:
    """Whether a browser sends this on behalf of another site's page."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    own = {headers.get("host"), headers.get("x-forwarded-host")}
    return origin is not None and urlsplit(origin).netloc not in own


def _max_bytes(path: str) -> int:
    return (MAX_UPLOAD_MB if path == _UPLOAD else MAX_BODY_MB) * 1_000_000


def _too_large(path: str) -> str:
    if path == _UPLOAD:
        return f"This is more than {MAX_UPLOAD_MB} MB at once; send fewer files at a time, each of up to 100 MB."
    return f"This request is larger than {MAX_BODY_MB} MB; upload files first and give their paths."


def _limited(receive: Receive, path: str) -> Receive:
    """The body of a request, cut off at the limit whatever its declared length."""
    most, seen = _max_bytes(path), 0

    async def limited() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(413, _too_large(path))
        return message

    return limited


def _refuse(status: int, sentence: str, scope: Scope) -> Response:
    """A response in the form that each client displays: Gradio's page reads `detail` or `error`, or plain text."""
    if _path(scope) == _UPLOAD or "text/html" in Headers(scope=scope).get("accept", ""):
        return PlainTextResponse(sentence, status)
    return JSONResponse({"detail": sentence, "error": sentence}, status)


def _set_headers(headers: MutableHeaders, path: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Content-Security-Policy"] = _FILE_POLICY if path.startswith(_FILE) else _PAGE_POLICY
    if not _CACHED.fullmatch(path):
        headers["Cache-Control"] = "private, no-store"
