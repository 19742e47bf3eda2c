"""What strangers reach of the page over HTTP: which addresses, how much they may send, and what browsers are told.

Gradio serves more than a page needs: an editor, recordings, deep links, proxies, statistics. What is not listed here
does not exist for anybody.
"""

import ipaddress
import math
import os
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gradio import processing_utils, route_utils, routes
from gradio.route_utils import FnIndexInferError
from gradio.utils import get_upload_folder
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .. import temp_files
from .logging import WENT_WRONG, report
from .rate_limit import Allowance, client_of

MAX_FILE_SIZE = "100mb"
# Of one request: uploads, of which Gradio's own limit is a thousand files, and everything else. The latter is read into
# memory, and holds images as data: URIs at most.
MAX_UPLOAD_MB, MAX_BODY_MB = 1000, 32
# Of all that is kept at a time, see `Limits`.
MAX_FILES = 50_000
MINUTE = 60.0

# Method, path. Those of the page, of gradio_client, of curl and of MCP clients.
_OPEN = tuple(
    (methods.split(), re.compile(f"(?:{path})"))
    for methods, path in (
        ("GET HEAD", r"/"),
        ("GET HEAD", r"/(assets|static)/.+"),
        ("GET", r"/config/?|/theme\.css|/favicon\.ico|/manifest\.json|/pwa_icon|/robots\.txt"),
        ("GET", r"/gradio_api/(info/?|openapi\.json|app_id/?|startup-events|theme\.css|upload_progress|queue/status)"),
        ("GET HEAD", r"/gradio_api/file=.+"),
        ("POST", r"/gradio_api/(upload|queue/join|cancel|reset/?)"),
        ("GET", r"/gradio_api/queue/data|/gradio_api/heartbeat/[^/]+"),
        ("POST", r"/gradio_api/run/[^/]+/?"),  # what needs no waiting; all else Gradio refuses there
        ("POST", r"/gradio_api/call/(v2/)?[^/]+/?"),
        ("GET", r"/gradio_api/call/(v2/)?[^/]+/[^/]+"),
        ("GET POST DELETE", r"/gradio_api/mcp/?"),
        ("GET", r"/gradio_api/mcp/(schema|sse)"),
        ("POST", r"/gradio_api/mcp/messages/.*"),
    )
)
# The same for everybody, so that it neither counts nor need be fetched anew.
_STATIC = re.compile(r"/(assets|static)/.+|/theme\.css|/favicon\.ico|/manifest\.json|/pwa_icon|/robots\.txt")
_FILE, _UPLOAD = "/gradio_api/file=", "/gradio_api/upload"

# Gradio's page has scripts and styles inside, and makes functions of the scripts that components bring along.
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
# A file that a visitor gave is shown or saved, and runs nothing.
_FILE_POLICY = "default-src 'none'; sandbox; frame-ancestors 'none'"


@dataclass(frozen=True)
class Limits:
    """What the operator may set.

    Attributes:
        requests: of one client within a minute; 0 for any number.
        store_mb: size of all that visitors gave and got, in 10**6 bytes; one client may fill half of it.
        hosts: names of a page that listens on this computer alone, beside localhost; see `_is_misnamed`.
    """

    requests: int
    store_mb: int
    hosts: frozenset[str]

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> "Limits":
        """BLASTLENS_RATE, by default 600 on a Space and any number elsewhere, BLASTLENS_STORE_MB and BLASTLENS_HOSTS.

        Raises:
            BlastlensError: one of them is no such number.
        """
        on_a_space = bool(environment.get("SPACE_ID"))
        return cls(
            requests=temp_files.number("BLASTLENS_RATE", 600 if on_a_space else 0, 0, 1_000_000, environment),
            store_mb=temp_files.number("BLASTLENS_STORE_MB", 10_000, 10, 100_000_000, environment),
            hosts=frozenset(environment.get("BLASTLENS_HOSTS", "").lower().split()),
        )


class Door:
    """ASGI middleware: lets in what is open, within the limits, and sends nothing out without its headers."""

    def __init__(self, app: ASGIApp) -> None:
        limits = Limits.of()
        self.app = app
        self._rate = Allowance(limits.requests, MINUTE)
        self._store = Store(limits.store_mb * 1_000_000)
        self._hosts = limits.hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, started = _path(scope), False
        address = scope.get("client") or (None,)

        async def send_dressed(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _dress(MutableHeaders(scope=message), path)
            await send(message)

        refusal = self._refusal(scope, path, client_of(address[0]))
        if refusal is None:
            if path.startswith(_FILE):
                # Asked for a part, Gradio answers with the headers of the request, its type among them.
                scope = {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"range"]}
            try:
                return await self.app(scope, _counted(receive, path), send_dressed)
            except FnIndexInferError:
                refusal = _say(404, "There is no endpoint of this name.", path, Headers(scope=scope))
            except Exception as error:
                if started and isinstance(error.__cause__, HTTPException):
                    # A stream of messages for a visitor whom nobody knows: it has said so and is over.
                    return await send({"type": "http.response.body", "body": b""})
                if started:
                    raise
                report(error)
                refusal = _say(500, WENT_WRONG, path, Headers(scope=scope))
        await refusal(scope, receive, send_dressed)

    def _refusal(self, scope: Scope, path: str, client: str) -> Response | None:
        headers, method = Headers(scope=scope), scope["method"]
        if _is_misnamed(scope, headers, self._hosts):
            told = "This page is not known by this name here; BLASTLENS_HOSTS may list more names than localhost."
            return _say(421, told, path, headers)
        if not _is_open(method, path):
            return _say(404, "There is nothing at this address.", path, headers)
        if not _STATIC.fullmatch(path) and (wait := self._rate.take(client)):
            seconds = math.ceil(wait)
            told = f"Too many requests came from your address; please try again in {seconds} s."
            return _say(429, told, path, headers, {"retry-after": str(seconds)})
        if method != "POST":
            return None
        if _from_elsewhere(headers):
            return _say(403, "Pages of other sites cannot send anything here; open this page itself.", path, headers)
        most, length = _most(path), headers.get("content-length", "")
        size = int(length) if length.isdecimal() else most
        if size > most:
            return _say(413, _too_large(path), path, headers)
        if told := self._store.refuse(client, size):
            return _say(507, told, path, headers)
        return None


class Store:
    """How full the folder of uploads is, and who filled it.

    Args:
        most: bytes that may lie there.
    """

    def __init__(self, most: int) -> None:
        self._most, self._lock = most, threading.Lock()
        self._given = Allowance(max(1, most // 2), temp_files.keep_s() + temp_files.every_s())
        self._looked, self._bytes, self._files = -math.inf, 0, 0

    def refuse(self, client: str, size: int) -> str:
        """Why so many bytes more cannot be taken, in one sentence; "" where they can, and then they are counted."""
        with self._lock:
            if (now := time.monotonic()) - self._looked > 1:
                self._looked = now
                self._bytes, self._files = temp_files.stored(Path(get_upload_folder()))
            if self._bytes + size > self._most or self._files >= MAX_FILES:
                return "This page has no room for more files now; what is old is deleted soon, so try again later."
            if wait := self._given.take(client, size):
                minutes = math.ceil(wait / 60)
                return f"You have sent as much as this page keeps for one visitor; try again in {minutes} min."
            self._bytes += size
            return ""


def close() -> None:
    """Close what Gradio leaves open between visitors, for all pages of this process.

    It keeps an upload under a hash of its content: whoever has the same file knows where it lies, and could find out
    under what name another visitor gave it. And it lets pages of any other site read this one.
    """
    processing_utils.hash_seed = secrets.token_bytes(32)
    route_utils.GradioUploadFile = _Upload
    routes.CustomCORSMiddleware = _no_other_sites


class _Upload(route_utils.GradioUploadFile):
    """A file on its way in; its place depends on its content and on chance."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.sha.update(secrets.token_bytes(32))


def _no_other_sites(app: ASGIApp, **_: Any) -> ASGIApp:
    return app


def _is_misnamed(scope: Scope, headers: Headers, known: frozenset[str]) -> bool:
    """Whether a browser of this computer was led here by a name that belongs to somebody else (DNS rebinding).

    A page that listens beyond this computer may have any name, and what it shows is for strangers anyhow.
    """
    try:
        address = ipaddress.ip_address((scope.get("server") or ("",))[0])
    except ValueError:
        return False
    name = (urlsplit(f"//{headers.get('host', '')}").hostname or "").lower()
    if not address.is_loopback or name == "localhost" or name.endswith(".localhost") or name in known:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return True
    return False


def _is_open(method: str, path: str) -> bool:
    return any(method in methods and pattern.fullmatch(path) for methods, pattern in _OPEN)


def _path(scope: Scope) -> str:
    """The path below the page's own root, as the router sees it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _from_elsewhere(headers: Headers) -> bool:
    """Whether a page of another site has a visitor's browser send this; only browsers say where they are."""
    if site := headers.get("sec-fetch-site"):
        return site not in ("same-origin", "none")
    origin = headers.get("origin")
    own = {headers.get("host"), headers.get("x-forwarded-host")}
    return origin is not None and urlsplit(origin).netloc not in own


def _most(path: str) -> int:
    return (MAX_UPLOAD_MB if path == _UPLOAD else MAX_BODY_MB) * 1_000_000


def _too_large(path: str) -> str:
    if path == _UPLOAD:
        return f"This is more than {MAX_UPLOAD_MB} MB at once; send fewer files at a time, each of up to 100 MB."
    return f"This request is larger than {MAX_BODY_MB} MB; upload files first and give their paths."


def _counted(receive: Receive, path: str) -> Receive:
    """The body of a request that may not say how large it is, or not truly."""
    most, seen = _most(path), 0

    async def counted() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise HTTPException(413, _too_large(path))
        return message

    return counted


def _say(status: int, told: str, path: str, headers: Headers, more: Mapping[str, str] | None = None) -> Response:
    """A refusal in the form in which each asker shows it: Gradio's page reads `detail` or `error`, or plain text."""
    if path == _UPLOAD or "text/html" in headers.get("accept", ""):
        return PlainTextResponse(told, status, dict(more or {}))
    return JSONResponse({"detail": told, "error": told}, status, dict(more or {}))


def _dress(headers: MutableHeaders, path: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "same-origin"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers["Content-Security-Policy"] = _FILE_POLICY if path.startswith(_FILE) else _PAGE_POLICY
    if not _STATIC.fullmatch(path):
        headers["Cache-Control"] = "private, no-store"
