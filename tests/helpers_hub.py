"""A Hugging Face Hub on the loopback interface: the endpoints that publishing and downloading use, kept in memory.

It answers huggingface_hub 2.4, transformers and timm over HTTP/1.1 as the real Hub does, with its status codes,
X-Error-Code and X-Error-Message. Large files go through another host name, the storage behind the Hub, which refuses a
token. `LoopbackHub.fail` makes requests fail; `point_client_at` directs this process's huggingface_hub to it.

Not simulated: Xet storage, multipart uploads, validation of cards, branches, rate limits, collections.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import threading
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

MAIN = "refs/heads/main"
LARGE = (".onnx", ".safetensors", ".bin", ".gz", ".wasm", ".h5", ".pt", ".PT", ".parquet", ".zip")
KINDS = {"": "model", "models": "model", "datasets": "dataset", "spaces": "space"}
Reply = tuple[int, dict[str, str], bytes]  # status, headers, body


class Refusal(Exception):
    """A request that the Hub refuses: HTTP status, message, X-Error-Code, and more of the JSON body."""

    def __init__(self, status: int, message: str, code: str | None = None, **extra: Any) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.extra = status, message, code, extra


@dataclass(frozen=True)
class Blob:
    """Content of a file; git stores only a pointer to a large one."""

    content: bytes = field(repr=False)
    large: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def oid(self) -> str:
        data = self.content
        if self.large:
            pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n"
            data = pointer.encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    message: str
    parent: str | None
    files: Mapping[str, Blob] = field(repr=False)


class Repository:
    """A git repository: commits by oid, references by full name, and the large files that were uploaded."""

    def __init__(self, repo_id: str, kind: str, private: bool = False, gated: bool = False) -> None:
        self.id, self.kind, self.private, self.gated = repo_id, kind, private, gated
        self.refs: dict[str, str] = {}
        self.history: dict[str, Commit] = {}
        self.storage: dict[str, bytes] = {}
        files = {".gitattributes": b"*.onnx filter=lfs diff=lfs merge=lfs -text\n"}
        files |= {"README.md": b"---\nsdk: gradio\n---\n"} if kind == "space" else {}
        self.append(MAIN, {path: Blob(content) for path, content in files.items()}, "initial commit")

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag, full reference or commit id."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.history[self.refs[ref]]
        if revision not in self.history:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.history[revision]

    def log(self, revision: str) -> list[Commit]:
        """Newest first."""
        found = [self.at(revision)]
        while found[-1].parent:
            found.append(self.history[found[-1].parent])
        return found

    def named(self, prefix: str) -> dict[str, str]:
        return {ref.removeprefix(prefix): oid for ref, oid in self.refs.items() if ref.startswith(prefix)}

    def append(self, ref: str, files: Mapping[str, Blob], message: str, parent: Commit | None = None) -> Commit:
        text = f"{self.kind} {self.id} {len(self.history)} {message} {sorted((p, b.oid) for p, b in files.items())}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.history[oid] = commit = Commit(oid, message, parent.oid if parent else None, files)
        self.refs[ref] = oid
        return commit


class Account(NamedTuple):
    """The owner of a token."""

    name: str
    can_write: bool

    def member(self, namespace: str) -> bool:
        """Of every namespace but "stranger", or of that one only."""
        return (self.name == "stranger") == (namespace == "stranger")


@dataclass(frozen=True)
class Request:
    """One request."""

    method: str
    path: str
    authorization: str | None = field(repr=False)

    @property
    def storage(self) -> bool:
        """Whether it was sent to the storage, not to the Hub."""
        return self.path.startswith(("/store/", "/cdn/"))


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose method and path (with query) match two patterns."""

    method: str
    pattern: str
    times: float = 1
    status: int | None = None  # answer this with `body`, and do nothing
    body: bytes = b""
    drop: bool = False  # close the connection without an answer, and do nothing
    after_effect: bool = False  # with `status` or `drop`: do what was requested first
    corrupt: bool = False  # flip one bit of the body
    delay: float = 0.0  # seconds

    def matches(self, method: str, path: str) -> bool:
        return bool(self.times > 0 and re.fullmatch(self.method, method) and re.search(self.pattern, path))


@dataclass(frozen=True)
class Call:
    """A request as an endpoint sees it."""

    parts: Mapping[str, str]
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    account: Account | None

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


class LoopbackHub:
    """A Hub; use it as `with LoopbackHub() as hub:`.

    `token` may read and write in every namespace but "stranger", `read_token` may only read there; `stranger_token`
    belongs to the namespace "stranger" and sees no private and no gated content of others.
    """

    def __init__(self) -> None:
        accounts = (Account("owner", True), Account("owner", False), Account("stranger", True))
        self.accounts = {"hf_" + hashlib.sha256(str(one).encode()).hexdigest()[:34]: one for one in accounts}
        self.token, self.read_token, self.stranger_token = self.accounts
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self._faults: list[Fault] = []
        self._crashes: list[Exception] = []
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        self.address, self.storage = (
            f"http://{host}:{self._server.server_port}" for host in ("127.0.0.1", "localhost")
        )

    def __enter__(self) -> "LoopbackHub":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        self.close()
        if self._crashes and kind is None:  # a mistake of this server must not pass as a fault
            raise self._crashes[0]

    def close(self) -> None:
        """Stop: open connections are cut and new ones refused, as without a network."""
        if not self._closing.is_set():
            self._closing.set()
            self._server.shutdown()
            self._server.server_close()
            self._server.hang_up()

    # What tests use

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes | Path] = types.MappingProxyType({}),
        *,
        kind: str = "model",
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Create a repository with these files on its main branch; the commit's oid."""
        repo = self.repositories[kind, repo_id] = Repository(repo_id, kind, private, gated)
        return self.commit(repo_id, files, kind=kind) if files else repo.at(MAIN).oid

    def add_folder(self, repo_id: str, folder: Path) -> str:
        """`add_repo` of a folder's files without hidden ones."""
        names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
        shown = {name.as_posix(): folder / name for name in names if not any(p[0] == "." for p in name.parts)}
        return self.add_repo(repo_id, shown)

    def commit(self, repo_id: str, files: Mapping[str, bytes | Path | None], *, kind: str = "model") -> str:
        """Commit to the main branch without HTTP, as another user; None removes a file."""
        with self._lock:
            repo = self.repositories[kind, repo_id]
            blobs = dict(repo.at(MAIN).files)
            for path, content in files.items():
                if content is None:
                    del blobs[path]
                    continue
                data = content.read_bytes() if isinstance(content, Path) else content
                blobs[path] = Blob(data, is_large(path, data, len(data)))
                repo.storage[blobs[path].sha256] = data
            return repo.append(MAIN, blobs, "Other", repo.at(MAIN)).oid

    def files(self, repo_id: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """What the repository holds at a revision, without .gitattributes."""
        blobs = self.repositories[kind, repo_id].at(revision).files
        return {path: blob.content for path, blob in sorted(blobs.items()) if path != ".gitattributes"}

    def commits(self, repo_id: str, kind: str = "model") -> list[Commit]:
        """Newest first."""
        return self.repositories[kind, repo_id].log("main")

    def tags(self, repo_id: str) -> dict[str, str]:
        return self.repositories["model", repo_id].named("refs/tags/")

    def exists(self, repo_id: str, kind: str = "model") -> bool:
        return (kind, repo_id) in self.repositories

    def fail(self, method: str, pattern: str, **what: Any) -> None:
        """Make requests fail; `what` as in `Fault`. The first fault that matches is used up first."""
        self._faults.append(Fault(method, pattern, **what))

    def mend(self) -> None:
        self._faults.clear()

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a subprocess that uses this Hub, with its cache in `home`."""
        ours = re.compile("(HF|HUGGING_?FACE|HUGGINGFACE_HUB|TRANSFORMERS)_")
        switches = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        return (
            {name: value for name, value in os.environ.items() if not ours.match(name)}
            | {
                "HF_ENDPOINT": self.address,
                "HF_HOME": str(home),
                "HF_HUB_OFFLINE": "0",
                "NO_PROXY": "127.0.0.1,localhost",
            }
            | dict.fromkeys(switches, "1")
            | ({"HF_TOKEN": token} if token else {})
        )

    # Answering

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply | None:
        """The reply to a request; None to close the connection."""
        with self._lock:
            fault = next((fault for fault in self._faults if fault.matches(method, target)), Fault("", ""))
            fault.times -= 1
            self.requests.append(Request(method, target, headers.get("Authorization")))
        self._closing.wait(fault.delay)
        status, fields, content = 200, {}, b""
        if fault.after_effect or not (fault.drop or fault.status is not None):
            with self._lock:
                try:
                    status, fields, content = self._reply(method, target, headers, body)
                except Exception as crash:
                    self._crashes.append(crash)
                    return reply_json({"error": f"The loopback Hub has a mistake: {crash!r}"}, 500)
        if fault.drop:
            return None
        if fault.status is not None:
            return fault.status, {}, fault.body
        if fault.corrupt and content:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        return status, fields, content

    def _reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Reply:
        url = urlsplit(target)
        try:
            account = self._account(headers.get("Authorization"))
            for methods, pattern, action in ROUTES:
                found = re.fullmatch(pattern, url.path)
                if found and method in methods.split():
                    parts = {name: unquote(value) for name, value in found.groupdict(default="").items()}
                    answer = action(self, Call(parts, parse_qs(url.query), headers, body, account))
                    return reply_json(answer) if isinstance(answer, dict | list) else answer
            raise Refusal(404, "Sorry, we can't find the page you are looking for.")
        except Refusal as refusal:
            extra = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            return reply_json({"error": refusal.message} | refusal.extra, refusal.status, extra)

    def _account(self, authorization: str | None) -> Account | None:
        if authorization is None:
            return None
        if account := self.accounts.get(authorization.removeprefix("Bearer ")):
            return account
        raise Refusal(401, "Invalid credentials in Authorization header")

    def _repository(self, call: Call, write: bool = False, content: bool = False) -> Repository:
        """The repository of a request, if the account may see it, write to it, or read its content."""
        repo_id = call.parts["id"]
        repo = self.repositories.get((KINDS[call.parts["kind"]], repo_id))
        inside = call.account is not None and call.account.member(repo_id.partition("/")[0])
        if repo is None or (repo.private and not inside) or (write and call.account is None):
            raise Refusal(404 if call.account else 401, "Repository not found", "RepoNotFound")
        if write:
            self._writer(call)
            if not inside:
                raise Refusal(403, f"You don't have the rights to write to {repo_id}")
        if content and repo.gated and not inside:
            raise Refusal(403 if call.account else 401, f"Access to model {repo_id} is restricted", "GatedRepo")
        return repo

    def _writer(self, call: Call) -> Account:
        if call.account is None:
            raise Refusal(401, "Invalid username or password.")
        if not call.account.can_write:
            raise Refusal(403, "Forbidden: you must use a write token to upload to a repository.")
        return call.account

    def whoami(self, call: Call) -> Any:
        if call.account is None:
            raise Refusal(401, "Invalid username or password.")
        return {"type": "user", "name": call.account.name, "orgs": []}

    def create(self, call: Call) -> Any:
        account = self._writer(call)
        kind, namespace = call.json.get("type", "model"), call.json.get("organization") or account.name
        repo_id = f"{namespace}/{call.json['name']}"
        if not account.member(namespace):
            raise Refusal(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
        if (kind, repo_id) in self.repositories:
            raise Refusal(409, f"You already created this {kind} repo", url=f"{self.address}/{repo_id}")
        self.repositories[kind, repo_id] = Repository(repo_id, kind, call.json.get("visibility") == "private")
        return {"url": f"{self.address}/{repo_id}", "name": repo_id, "id": "0" * 24}

    def delete(self, call: Call) -> Any:
        account = self._writer(call)
        repo_id = f"{call.json.get('organization') or account.name}/{call.json['name']}"
        if self.repositories.pop((call.json.get("type", "model"), repo_id), None) is None:
            raise Refusal(404, "Repository not found", "RepoNotFound")
        return {}

    def info(self, call: Call) -> Any:
        repo = self._repository(call)
        commit = repo.at(call.parts["rev"] or MAIN)
        siblings = [
            {"rfilename": row["path"], "size": row["size"], "blobId": row["oid"], "lfs": row.get("lfs")}
            for row in _listed(commit.files, "sha256")
        ]
        about = {"id": repo.id, "sha": commit.oid, "private": repo.private, "gated": "manual" if repo.gated else False}
        return about | {"tags": [], "siblings": siblings}

    def tree(self, call: Call) -> Any:
        """The files below a folder, or, not recursive, the files and folders in it."""
        files, folder = self._repository(call).at(call.parts["rev"]).files, call.parts["path"]
        start = f"{folder}/" if folder else ""
        found = {path: blob for path, blob in files.items() if path.startswith(start)}
        if not found:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        if call.flag("recursive"):
            return _listed(found, "oid")
        inside = {path: path.removeprefix(start).partition("/") for path in found}
        folders = sorted({start + name for name, separator, _ in inside.values() if separator})
        rows = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]
        return rows + _listed({path: blob for path, blob in found.items() if not inside[path][1]}, "oid")

    def refs(self, call: Call) -> Any:
        groups = {"branches": "refs/heads/", "tags": "refs/tags/"}
        named = self._repository(call).named
        found = {
            group: [{"name": name, "ref": prefix + name, "targetCommit": oid} for name, oid in named(prefix).items()]
            for group, prefix in groups.items()
        }
        return found | {"converts": []}

    def log(self, call: Call) -> Any:
        common = {"message": "", "authors": [{"user": "owner"}], "date": "2026-01-01T00:00:00.000Z"}
        commits = self._repository(call).log(call.parts["rev"])
        return [{"id": commit.oid, "title": commit.message} | common for commit in commits]

    def resolve(self, call: Call) -> Any:
        repo = self._repository(call, content=True)
        commit = repo.at(call.parts["rev"])
        blob = commit.files.get(call.parts["path"])
        if blob is None:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if not blob.large:
            return 200, headers | {"ETag": f'"{blob.oid}"'}, blob.content
        location = f"{self.storage}/cdn/{repo.kind}s/{repo.id}/{blob.sha256}"
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content)), "Location": location}
        return 302, headers | linked | {"ETag": f'"{blob.sha256}"'}, b""

    def preupload(self, call: Call) -> Any:
        repo = self._repository(call, write=True)
        files = repo.at(call.parts["rev"]).files
        ignore = call.json.get("gitIgnore")
        ignore = files[".gitignore"].content.decode() if ignore is None and ".gitignore" in files else ignore or ""
        rows = []
        for item in call.json["files"]:
            path = item["path"]
            large = is_large(path, base64.b64decode(item["sample"]), item["size"])
            ignored = any(line.strip("*") and path.endswith(line.strip("*")) for line in ignore.split())
            rows.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": ignored})
        return {"files": rows}

    def lfs_batch(self, call: Call) -> Any:
        repo = self._repository(call)
        self._writer(call)
        objects = []
        for item in call.json["objects"]:
            href = f"{self.storage}/store/{repo.kind}s/{repo.id}/{item['oid']}"
            actions = {} if item["oid"] in repo.storage else {"actions": {"upload": {"href": href}}}
            objects.append({"oid": item["oid"], "size": item["size"]} | actions)
        return {"transfer": "basic", "objects": objects}

    def commit_request(self, call: Call) -> Any:
        """Apply the lines of a commit request, all or none."""
        repo = self._repository(call, write=True)
        head = repo.at(call.parts["rev"])
        files, message = dict(head.files), ""
        for line in map(json.loads, call.body.splitlines()):
            value, path = line["value"], line["value"].get("path", "")
            match line["key"]:
                case "header":
                    message = value["summary"]
                    if value.get("parentCommit", head.oid) != head.oid:
                        raise Refusal(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[path] = Blob(base64.b64decode(value["content"]))
                case "lfsFile":
                    if value["oid"] not in repo.storage:
                        raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
                    files[path] = Blob(repo.storage[value["oid"]], large=True)
                case "deletedFile":
                    if files.pop(path, None) is None:
                        raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        pull_request = call.flag("create_pr")  # one at most
        commit = repo.append("refs/pr/1" if pull_request else MAIN, files, message, head)
        done = {"commitOid": commit.oid, "commitUrl": f"{self.address}/{repo.id}/commit/{commit.oid}", "hookOutput": ""}
        more = {"pullRequestUrl": f"{self.address}/{repo.id}/discussions/1"} if pull_request else {}
        return {"success": True} | done | more

    def tag(self, call: Call) -> Any:
        repo, ref = self._repository(call, write=True), f"refs/tags/{call.json['tag']}"
        commit = repo.at(call.parts["rev"])
        if ref in repo.refs:
            raise Refusal(409, "Tag reference exists already")
        repo.refs[ref] = commit.oid
        return {}

    def store(self, call: Call) -> Any:
        storage, digest = self._stored(call), hashlib.sha256(call.body).hexdigest()
        if digest != call.parts["sha256"]:
            raise Refusal(400, "BadDigest: the content does not match its checksum")
        storage[digest] = call.body
        return 200, {"ETag": '"x"'}, b""

    def cdn(self, call: Call) -> Any:
        content = self._stored(call)[call.parts["sha256"]]
        found = re.fullmatch(r"bytes=(\d+)-", call.headers.get("Range", ""))
        if not found:
            return 200, {"Accept-Ranges": "bytes"}, content
        start = int(found[1])
        return 206, {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}, content[start:]

    def _stored(self, call: Call) -> dict[str, bytes]:
        if "Authorization" in call.headers:
            raise Refusal(400, "InvalidArgument: Only one auth mechanism allowed")
        return self.repositories[KINDS[call.parts["kind"]], call.parts["id"]].storage


def _listed(files: Mapping[str, Blob], digest: str) -> list[dict[str, Any]]:
    rows = []
    for path, blob in sorted(files.items()):
        size = len(blob.content)
        lfs = {"lfs": {digest: blob.sha256, "size": size, "pointerSize": 130}} if blob.large else {}
        rows.append({"type": "file", "oid": blob.oid, "size": size, "path": path} | lfs)
    return rows


def is_large(path: str, sample: bytes, size: int) -> bool:
    """Whether a file goes to the large file storage."""
    return bool(size) and (path.endswith(LARGE) or b"\0" in sample[:512])


def reply_json(value: Any, status: int = 200, headers: Mapping[str, str] = types.MappingProxyType({})) -> Reply:
    return status, {"Content-Type": "application/json"} | dict(headers), json.dumps(value).encode()


_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
_PAGE = r"(?:/(?P<kind>datasets|spaces))?/(?P<id>[^/]+/[^/]+)"
_OBJECT = r"(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)/(?P<sha256>[0-9a-f]{64})"
ROUTES = (
    ("GET", "/api/whoami-v2", LoopbackHub.whoami),
    ("POST", "/api/validate-yaml", lambda hub, call: {"errors": [], "warnings": []}),
    ("POST", "/api/repos/create", LoopbackHub.create),
    ("DELETE", "/api/repos/delete", LoopbackHub.delete),
    ("GET", f"{_REPO}/refs", LoopbackHub.refs),
    ("GET", f"{_REPO}/tree/(?P<rev>[^/]+)(?:/(?P<path>.+))?", LoopbackHub.tree),
    ("GET", f"{_REPO}/revision/(?P<rev>[^/]+)", LoopbackHub.info),
    ("GET", f"{_REPO}(?P<rev>)", LoopbackHub.info),
    ("GET", f"{_REPO}/commits/(?P<rev>[^/]+)", LoopbackHub.log),
    ("POST", f"{_REPO}/preupload/(?P<rev>[^/]+)", LoopbackHub.preupload),
    ("POST", f"{_REPO}/commit/(?P<rev>[^/]+)", LoopbackHub.commit_request),
    ("POST", f"{_REPO}/tag/(?P<rev>[^/]+)", LoopbackHub.tag),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", LoopbackHub.lfs_batch),
    ("GET HEAD", f"{_PAGE}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", LoopbackHub.resolve),
    ("PUT", f"/store/{_OBJECT}", LoopbackHub.store),
    ("GET HEAD", f"/cdn/{_OBJECT}", LoopbackHub.cdn),
)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: LoopbackHub

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
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
        """A client that disconnects is not worth a report."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def serve(self) -> None:
        reply = self.server.hub.answer(self.command, self.path, self.headers, self._body())
        if reply is None:
            self.close_connection = True
            return
        status, headers, content = reply
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

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
        """Silent: `LoopbackHub.requests` has the requests."""


@contextlib.contextmanager
def point_client_at(hub: LoopbackHub, home: Path) -> Iterator[None]:
    """Direct this process's huggingface_hub to `hub`: cache in `home`, no token, no Xet, retries without waiting.

    The client reads its settings from `constants` when it needs them, except for a few that it copies when imported.
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
    without_waiting = types.SimpleNamespace(sleep=lambda seconds: None)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setattr(constants, name, value)
        patch.setattr(hf_api.api, "endpoint", hub.address)  # of the functions such as huggingface_hub.create_repo
        patch.setattr(_cache_manager, "HF_HUB_CACHE", settings["HF_HUB_CACHE"])
        for module in (_http, file_download):
            patch.setattr(module, "time", without_waiting)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
            patch.delenv(name, raising=False)
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        close_session()
        try:
            yield
        finally:
            close_session()
