"""A Hugging Face Hub on the loopback, for the real clients to talk to: huggingface_hub 2.4, transformers and timm.

`LoopbackHub` is a threaded HTTP/1.1 server that keeps repositories in memory and answers as the real Hub does to what
these clients ask for when they create, upload, commit, tag, list and download (`helpers_hub_answers` has the answers,
`helpers_hub_repos` the rules of repositories). `LoopbackHub.fail` makes requests go wrong; `point_client_at` turns the
huggingface_hub of this process to it.

Large files take the git-LFS road (basic transfer) through a second port. It stands for the storage behind the Hub: the
addresses there count as signed, nobody is asked who they are, and a request that brings a token is refused.

Where this is simpler than the real Hub: no Xet storage, multipart uploads, pages of long lists, discussions or rate
limits; small files are answered in place, without the redirect to a resolve cache; the JSON has the fields that the
clients read. Over plain HTTP the client takes a 401 for "no such repository" only with an X-Error-Code, which the real
Hub leaves out; here it is sent.
"""

import contextlib
import hashlib
import os
import re
import socket
import threading
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from helpers_hub_answers import Account, Answers, Collection, Reply
from helpers_hub_repos import MAIN, Blob, Commit, Repository

NOTHING: Mapping[str, Any] = types.MappingProxyType({})


@dataclass(frozen=True)
class Request:
    """One request that was answered, or deliberately not: then `status` is None."""

    method: str
    path: str  # with its query, as sent
    status: int | None
    authorization: str | None = field(repr=False)
    storage: bool = False  # asked of the storage, not of the Hub


@dataclass
class Fault:
    """What goes wrong with the next `times` requests (math.inf: with all) whose method and path fit two patterns.

    The path is as sent, with its query; a large file's content is at /cdn/..., the address of its upload at /store/...
    Truly answered is what nothing here replaces.
    """

    method: str  # a regular expression for all of it
    pattern: str  # a regular expression for a part of the path
    times: float = 1
    status: int | None = None  # answer this, with `headers` and `body`, and do nothing
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    drop: bool = False  # close the connection without an answer, and do nothing
    after_effect: bool = False  # with `status` or `drop`: do what was asked first
    cut_after: int | None = None  # close the connection after so many bytes of the body
    shorten_to: int | None = None  # send only so many bytes of the body, and say that this is all
    corrupt: bool = False  # flip one bit of the body's middle byte
    delay: float = 0.0  # seconds before anything else

    def fits(self, method: str, path: str) -> bool:
        return self.times > 0 and bool(re.fullmatch(self.method, method) and re.search(self.pattern, path))

    @property
    def prevents(self) -> bool:
        return (self.drop or self.status is not None) and not self.after_effect

    def spoil(self, body: bytes) -> bytes:
        """What is announced as the body; `cut_after` of it is sent."""
        if self.corrupt and body:
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        return body[: self.shorten_to]


class LoopbackHub:
    """A Hub; use it as `with LoopbackHub() as hub:`.

    `token` may read and write in every namespace but "stranger", `read_token` may only read there. `stranger_token` is
    as good, but of somebody who belongs to the namespace "stranger": others' private repositories are not there for
    them (404), gated ones are closed (403), and they may not write (403) but open pull requests.
    """

    def __init__(self) -> None:
        self.token, self.read_token, self.stranger_token = (
            "hf_" + hashlib.sha256(word).hexdigest()[:34] for word in (b"write", b"read", b"stranger")
        )
        accounts = {
            self.token: Account("owner", "write"),
            self.read_token: Account("owner", "read"),
            self.stranger_token: Account("stranger", "write"),
        }
        self._servers = [_Server(self, storage) for storage in (False, True)]
        self.address, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        self._answers = Answers(self.address, self.storage, accounts)
        self.requests: list[Request] = []  # in the order of their answers
        self._faults: list[Fault] = []
        self._crashes: list[Exception] = []
        self._lock = threading.RLock()
        self._closing = threading.Event()

    def __enter__(self) -> "LoopbackHub":
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        """Stop; a mistake of this server, which the client saw as a 500, fails the test that met it."""
        self.close()
        if self._crashes and kind is None:
            raise self._crashes[0]

    def close(self) -> None:
        """Stop at once: open connections are cut and new ones refused, as when the network is away."""
        if not self._closing.is_set():
            self._closing.set()
            for server in self._servers:
                server.shutdown()
                server.server_close()
                server.hang_up()

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path] = NOTHING,
        *,
        kind: str = "model",
        private: bool = False,
        gated: bool = False,
        message: str = "Upload",
    ) -> str:
        """Make a repository, "model", "dataset" or "space", with these files on its main branch; the commit's oid."""
        with self._lock:
            repo = Repository(repo_id, kind, private, gated, "gradio" if kind == "space" else None)
            self._answers.repositories[kind, repo_id] = repo
            return self.commit(repo_id, files, kind=kind, message=message) if files else repo.at(MAIN).oid

    def add_folder(self, repo_id: str, folder: Path, **options: Any) -> str:
        """`add_repo` of a folder's files, hidden ones left out; the commit's oid."""
        files = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
        shown = {name.as_posix(): path for name, path in files.items() if not any(p[0] == "." for p in name.parts)}
        return self.add_repo(repo_id, shown, **options)

    def commit(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path | None],
        *,
        kind: str = "model",
        message: str = "Somebody else's commit",
    ) -> str:
        """Commit to the main branch past HTTP, as somebody else would; None removes a file. The commit's oid."""
        with self._lock:
            repo = self._repository(repo_id, kind)
            blobs = dict(repo.at(MAIN).files)
            for path, content in files.items():
                if content is None:
                    del blobs[path]
                    continue
                content = content.read_bytes() if isinstance(content, Path) else content
                blobs[path] = Blob(content, repo.is_lfs(path, content, len(content)))
                if blobs[path].lfs:
                    repo.objects[blobs[path].sha256] = content
            return repo.append(MAIN, repo.at(MAIN), blobs, message).oid

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """What the repository holds at a revision, without .gitattributes."""
        blobs = self._repository(repo_id, kind).at(revision).files
        return {path: blob.content for path, blob in sorted(blobs.items()) if path != ".gitattributes"}

    def commits(self, repo_id: str, revision: str = "main", kind: str = "model") -> list[Commit]:
        """Newest first; the last is the "initial commit" that comes with creating."""
        return list(self._repository(repo_id, kind).log(revision))

    def tags(self, repo_id: str, kind: str = "model") -> dict[str, str]:
        return self._repository(repo_id, kind).named("refs/tags/")

    def exists(self, repo_id: str, kind: str = "model") -> bool:
        return (kind, repo_id) in self._answers.repositories

    def is_private(self, repo_id: str, kind: str = "model") -> bool:
        return self._repository(repo_id, kind).private

    @property
    def collections(self) -> dict[str, Collection]:
        """By slug."""
        return self._answers.collections

    def _repository(self, repo_id: str, kind: str) -> Repository:
        return self._answers.repositories[kind, repo_id]

    def fail(self, method: str, pattern: str, **what: Any) -> None:
        """Let requests go wrong; `what` as in `Fault`. Of several that fit, the first made is used up first."""
        with self._lock:
            self._faults.append(Fault(method, pattern, **what))

    def mend(self) -> None:
        """Forget all faults."""
        with self._lock:
            self._faults.clear()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The whole environment of a subprocess whose Hub is this one; its cache is in `home`.

        Nothing of this process's own settings for the Hub stays, so that without `token` nobody is logged in.
        """
        ours = re.compile("(HF|HUGGING_?FACE|HUGGINGFACE_HUB|TRANSFORMERS)_")
        switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        return (
            {name: value for name, value in os.environ.items() if not ours.match(name)}
            | {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "NO_PROXY": "127.0.0.1"}
            | dict.fromkeys(switches, "1")
            | ({"HF_TOKEN": token} if token else {})
        )

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, storage: bool
    ) -> tuple[Reply, Fault]:
        """The reply to a request, and the fault that is to spoil it on its way."""
        with self._lock:
            fault = next((fault for fault in self._faults if fault.fits(method, target)), Fault("", ""))
            fault.times -= 1
        self._closing.wait(fault.delay)
        reply = Reply()
        if not fault.prevents:
            with self._lock:
                try:
                    reply = self._answers.reply(method, target, headers, body, storage=storage)
                except Exception as crash:
                    self._crashes.append(crash)
                    reply = Reply(500, body=f"The loopback Hub has a mistake: {crash!r}".encode())
        if fault.status is not None:
            reply = Reply(fault.status, fault.headers, fault.body)
        status = None if fault.drop else reply.status
        self.requests.append(Request(method, target, status, headers.get("Authorization"), storage))
        return reply, fault


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: LoopbackHub, storage: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.storage = hub, storage
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away in the middle is nothing to report."""


class _Handler(BaseHTTPRequestHandler):
    """Reads all of a request, has the Hub answer it, and sends that, whole or not."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def serve(self) -> None:
        body = self._body()
        reply, fault = self.server.hub.answer(self.command, self.path, self.headers, body, storage=self.server.storage)
        self.close_connection |= fault.drop
        if fault.drop:
            return
        content = fault.spoil(reply.body)
        self.send_response(reply.status)
        for name, value in ({"Content-Length": str(len(content))} | dict(reply.headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[: fault.cut_after])
            self.close_connection |= fault.cut_after is not None

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: `LoopbackHub.requests` has what was asked."""


@contextlib.contextmanager
def point_client_at(hub: LoopbackHub, home: Path) -> Iterator[None]:
    """Turn this process's huggingface_hub to `hub`: cache in `home`, nobody logged in, no Xet, retries at once.

    The client looks its settings up in `constants` whenever it needs them, but for a few that it copied when it was
    imported. Both are changed, and changed back.
    """
    from huggingface_hub import constants, file_download, hf_api
    from huggingface_hub.utils import _cache_manager, _http, close_session

    settings = {
        "ENDPOINT": hub.address,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
    }
    at_once = types.SimpleNamespace(sleep=lambda seconds: None)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(constants, name, value)
        patch.setattr(hf_api.api, "endpoint", hub.address)  # of the functions such as huggingface_hub.create_repo
        patch.setattr(_cache_manager, "HF_HUB_CACHE", settings["HF_HUB_CACHE"])
        for module in (_http, file_download):  # they use `time` for nothing but waiting
            patch.setattr(module, "time", at_once)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            patch.delenv(name, raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1")
        close_session()
        try:
            yield
        finally:
            close_session()
