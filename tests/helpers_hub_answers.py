"""What the loopback Hub answers to each request: one method per endpoint, and the table that says which.

Read against huggingface_hub 2.4.0: an answer has what that client reads, under the real Hub's names, with its status,
X-Error-Code and X-Error-Message. `helpers_hub` has the server and what tests use; `helpers_hub_repos` the rules of
repositories. No sockets here: a request goes in as method, address, headers and body, a `Reply` comes out.
"""

import base64
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from helpers_hub_repos import MAIN, Blob, Commit, Refused, Repository, check_card, listed, matches

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


@dataclass(frozen=True)
class Account:
    """Whom a token belongs to: a member of every namespace but "stranger", or, named so, of that one only."""

    name: str
    role: str  # "write" or "read"

    def member(self, namespace: str) -> bool:
        return (self.name == "stranger") == (namespace == "stranger")


@dataclass
class Collection:
    title: str
    namespace: str
    description: str | None = None
    private: bool = False
    items: list[dict[str, Any]] = field(default_factory=list)  # {"type", "id", "note"}


@dataclass(frozen=True)
class Reply:
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True)
class Call:
    """A request as an endpoint sees it: the parts of its path, unquoted; query; headers; body; and who asks."""

    parts: Mapping[str, str]
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes
    account: Account | None

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        return self.query.get(name, [""])[0].lower() in ("1", "true")


@dataclass
class Answers:
    """Everything the Hub keeps, and its answers. `address` and `storage` are those of its two servers."""

    address: str
    storage: str
    accounts: Mapping[str, Account] = field(repr=False)  # by token
    repositories: dict[tuple[str, str], Repository] = field(default_factory=dict)  # by kind and id
    collections: dict[str, Collection] = field(default_factory=dict)  # by slug

    def reply(self, method: str, target: str, headers: Mapping[str, str], body: bytes, *, storage: bool) -> Reply:
        """Do what is asked and say so; refusals are replies too. `storage`: asked of the storage, not of the Hub."""
        url = urlsplit(target)
        try:
            account = None if storage else self._account(headers.get("Authorization"))
            for methods, pattern, action in STORAGE_ROUTES if storage else ROUTES:
                found = re.fullmatch(pattern, url.path)
                if found and method in methods.split():
                    parts = {name: unquote(value) for name, value in found.groupdict(default="").items()}
                    return action(self, Call(parts, parse_qs(url.query), headers, body, account))
            raise Refused(404, "Sorry, we can't find the page you are looking for.")
        except Refused as refused:
            said = {"X-Error-Message": refused.message.encode("ascii", "replace").decode()}
            said |= {"X-Error-Code": refused.code} if refused.code else {}
            said |= {"X-Repo-Commit": refused.commit} if refused.commit else {}
            return _json({"error": refused.message} | refused.extra, refused.status, said)

    def _account(self, authorization: str | None) -> Account | None:
        if authorization is None:
            return None
        account = self.accounts.get(authorization.removeprefix("Bearer "))
        if account is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        return account

    def _repository(self, call: Call, *, write: bool = False, content: bool = False) -> Repository:
        """The repository a request names, if who asks may see it, write to it, or read its files' content.

        As on the real Hub, what one may not see is not there, and a pull request needs no right to write.
        """
        kind, repo_id = KINDS[call.parts["kind"] or "models"], call.parts["id"]
        repo = self.repositories.get((kind, repo_id))
        inside = call.account is not None and call.account.member(repo_id.partition("/")[0])
        if repo is None or (repo.private and not inside) or (write and call.account is None):
            if call.account is None:
                raise Refused(401, "Invalid username or password.", "RepoNotFound")
            raise Refused(404, "Repository not found", "RepoNotFound")
        if write:
            self._writer(call, "Forbidden: you must use a write token to upload to a repository.")
            if not inside and not call.flag("create_pr"):
                raise Refused(403, f"You don't have the rights to write to {repo_id}")
        if content and repo.gated and not inside:
            closed = f"Access to {kind} {repo_id} is restricted"
            if call.account is None:
                needs = "You must have access to it and be authenticated to access it. Please log in."
                raise Refused(401, f"{closed}. {needs}", "GatedRepo")
            ask = f"Visit {self.page(repo)} to ask for access."
            raise Refused(403, f"{closed} and you are not in the authorized list. {ask}", "GatedRepo")
        return repo

    def _writer(self, call: Call, refusal: str) -> Account:
        if call.account is None:
            raise Refused(401, "Invalid username or password.")
        if call.account.role != "write":
            raise Refused(403, refusal)
        return call.account

    def page(self, repo: Repository) -> str:
        return f"{self.address}/{'' if repo.kind == 'model' else repo.kind + 's/'}{repo.id}"

    # Accounts and repositories

    def whoami(self, call: Call) -> Reply:
        if call.account is None:
            raise Refused(401, "Invalid username or password.")
        token = {"displayName": "tests", "role": call.account.role, "createdAt": "2026-01-01T00:00:00.000Z"}
        auth = {"type": "access_token", "accessToken": token}
        name = call.account.name
        return _json({"type": "user", "name": name, "fullname": name, "isPro": False, "orgs": [], "auth": auth})

    def validate_yaml(self, call: Call) -> Reply:
        asked = call.json()
        errors, warnings = check_card(asked["content"], asked.get("repoType", "model"))
        found = {
            name: [{"message": message} for message in messages]
            for name, messages in (("errors", errors), ("warnings", warnings))
        }
        return _json(found, 400 if errors else 200)

    def create(self, call: Call) -> Reply:
        asked = call.json()
        account = self._writer(call, "You don't have the rights to create a repository with this token")
        kind, namespace = asked.get("type", "model"), asked.get("organization") or account.name
        repo_id = f"{namespace}/{asked['name']}"
        if not account.member(namespace):
            raise Refused(403, f'You don\'t have the rights to create a {kind} under the namespace "{namespace}"')
        if (kind, repo_id) in self.repositories:
            address = self.page(self.repositories[kind, repo_id])
            raise Refused(409, f"You already created this {kind} repo", url=address)
        repo = Repository(repo_id, kind, asked.get("visibility") == "private", sdk=asked.get("sdk"))
        self.repositories[kind, repo_id] = repo
        return _json({"url": self.page(repo), "name": repo_id, "id": repo.at(MAIN).oid[:24]})

    def delete(self, call: Call) -> Reply:
        asked = call.json()
        kind = asked.get("type", "model")
        account = self._writer(call, "You don't have the rights to delete a repository with this token")
        named = {"kind": f"{kind}s", "id": f"{asked.get('organization') or account.name}/{asked['name']}"}
        repo = self._repository(dataclasses.replace(call, parts=named), write=True)
        del self.repositories[kind, repo.id]
        return _json({})

    def settings(self, call: Call) -> Reply:
        repo, asked = self._repository(call, write=True), call.json()
        repo.private = asked.get("visibility", "private" if repo.private else "public") == "private"
        repo.gated = bool(asked.get("gated", repo.gated))
        return _json({"private": repo.private, "gated": repo.gated})

    def auth_check(self, call: Call) -> Reply:
        self._repository(call, write=bool(call.parts["write"]), content=True)
        return _json({})

    # What a repository holds

    def info(self, call: Call) -> Reply:
        repo = self._repository(call)
        commit = repo.at(call.parts["rev"] or MAIN)
        card, first = commit.card, next(iter(repo.history.values()))
        described = {
            "id": repo.id,
            "author": repo.owner,
            "sha": commit.oid,
            "lastModified": commit.date,
            "createdAt": first.date,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [str(tag) for tag in listed(card, "tags")],
            "cardData": card,
            "siblings": [_sibling(path, blob, call.flag("blobs")) for path, blob in sorted(commit.files.items())],
        }
        if repo.kind == "model":
            known = ("pipeline_tag", "library_name", "model-index")
            described |= {"modelId": repo.id} | {key: card[key] for key in known if key in card}
        if repo.kind == "space":
            described |= {"sdk": card.get("sdk", repo.sdk), "models": listed(card, "models")}
        return _json(described)

    def tree(self, call: Call) -> Reply:
        """Files and folders below a path; as by the real Hub, a file's own path lists nothing and is not found."""
        repo = self._repository(call)
        commit, root = repo.at(call.parts["rev"]), call.parts["path"].strip("/")
        prefix = f"{root}/" if root else ""
        below = [path for path in sorted(commit.files) if path.startswith(prefix)]
        if root and not below:
            raise Refused(404, f'{root} does not exist on "{call.parts["rev"]}"', "EntryNotFound", commit.oid)
        shown = {}
        for path in below:
            parts = path.removeprefix(prefix).split("/")
            ends = range(1, len(parts) + 1) if call.flag("recursive") else [1]
            shown |= {prefix + "/".join(parts[:end]): None for end in ends}
        return _json([_entry(repo, commit, path, call.flag("expand")) for path in sorted(shown)])

    def paths_info(self, call: Call) -> Reply:
        """What these paths are; those that are not there are left out."""
        repo = self._repository(call)
        commit, form = repo.at(call.parts["rev"]), parse_qs(call.body.decode())
        known = [path.strip("/") for path in form.get("paths", []) if _present(commit, path.strip("/"))]
        return _json([_entry(repo, commit, path, form.get("expand") == ["true"]) for path in known])

    def refs(self, call: Call) -> Reply:
        repo = self._repository(call)
        shown = {
            group: [{"name": n, "ref": prefix + n, "targetCommit": oid} for n, oid in repo.named(prefix).items()]
            for group, prefix in (("branches", "refs/heads/"), ("tags", "refs/tags/"), ("pullRequests", "refs/pr/"))
        }
        if not call.flag("include_prs"):
            del shown["pullRequests"]
        return _json(shown | {"converts": []})

    def log(self, call: Call) -> Reply:
        commits = self._repository(call).log(call.parts["rev"])
        authors = [{"user": "owner"}]
        return _json(
            [
                {"id": c.oid, "title": c.message, "message": c.description, "authors": authors, "date": c.date}
                for c in commits
            ]
        )

    def resolve(self, call: Call) -> Reply:
        repo = self._repository(call, content=True)
        commit, path = repo.at(call.parts["rev"]), call.parts["path"]
        blob = commit.files.get(path)
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound", commit.oid)
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        name = quote(path.rpartition("/")[2])
        headers["Content-Disposition"] = f"inline; filename*=UTF-8''{name}; filename=\"{name}\";"
        if not blob.lfs:
            return _ranged(call, Reply(200, headers | {"Content-Type": "text/plain; charset=utf-8"}, blob.content))
        location = f"{self.storage}/cdn/{repo.kind}s/{repo.id}/{blob.sha256}?signature={commit.oid[:8]}"
        linked = {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(blob.size), "Location": location}
        return Reply(302, headers | linked, f"Found. Redirecting to {location}".encode())

    # Changing a repository

    def preupload(self, call: Call) -> Reply:
        repo, asked = self._repository(call, write=True), call.json()
        ref = repo.branch(call.parts["rev"])
        there = repo.at(ref).files
        ignore = asked.get("gitIgnore")
        if ignore is None and ".gitignore" in there:
            ignore = there[".gitignore"].content.decode()
        ignored = [line.strip() for line in (ignore or "").splitlines() if line.strip() and line[0] != "#"]
        files = []
        for item in asked["files"]:
            path = item["path"]
            lfs = repo.is_lfs(path, base64.b64decode(item["sample"]), item["size"], ref)
            described = {"uploadMode": "lfs" if lfs else "regular", "shouldIgnore": matches(path, ignored)}
            files.append({"path": path} | described | ({"oid": there[path].etag} if path in there else {}))
        return _json({"files": files})

    def lfs_batch(self, call: Call) -> Reply:
        asked = call.json()
        repo = self._large_files(call, to_branch="ref" in asked)
        objects = []
        for item in asked["objects"]:
            described = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in repo.objects:
                described["actions"] = {
                    "upload": {"href": f"{self.storage}/store/{repo.kind}s/{repo.id}/{item['oid']}?signature=put"},
                    "verify": {"href": f"{self.page(repo)}.git/info/lfs/objects/verify"},
                }
            objects.append(described)
        return _json({"transfer": "basic", "objects": objects})

    def lfs_verify(self, call: Call) -> Reply:
        repo, asked = self._large_files(call, to_branch=False), call.json()
        if len(repo.objects.get(asked["oid"], b"")) != asked["size"]:
            raise Refused(404, "Object does not exist")
        return _json({})

    def _large_files(self, call: Call, *, to_branch: bool) -> Repository:
        """Large files may be sent by anyone with a write token who sees the repository, for a pull request."""
        repo = self._repository(call, write=to_branch)
        self._writer(call, "Forbidden: you must use a write token to upload to a repository.")
        return repo

    def commit_request(self, call: Call) -> Reply:
        repo = self._repository(call, write=True)
        lines = [json.loads(line) for line in call.body.splitlines() if line]
        wanted = call.flag("create_pr")
        commit, ref = repo.commit(
            call.parts["rev"], [(line["key"], line["value"]) for line in lines], as_pull_request=wanted
        )
        page = self.page(repo)
        done = {"success": True, "commitOid": commit.oid, "commitUrl": f"{page}/commit/{commit.oid}", "hookOutput": ""}
        return _json(done | ({"pullRequestUrl": f"{page}/discussions/{ref.rpartition('/')[2]}"} if wanted else {}))

    def tag(self, call: Call) -> Reply:
        repo, tag = self._repository(call, write=True), call.json()["tag"]
        repo.add_ref(f"refs/tags/{tag}", call.parts["rev"], "Tag reference exists already")
        return _json({})

    def delete_tag(self, call: Call) -> Reply:
        self._repository(call, write=True).delete_ref(f"refs/tags/{call.parts['rev']}")
        return _json({})

    def branch(self, call: Call) -> Reply:
        start = call.json().get("startingPoint", MAIN)
        repo = self._repository(call, write=True)
        repo.add_ref(f"refs/heads/{call.parts['rev']}", start, "Reference already exists")
        return _json({})

    def delete_branch(self, call: Call) -> Reply:
        self._repository(call, write=True).delete_ref(f"refs/heads/{call.parts['rev']}")
        return _json({})

    # Storage

    def store(self, call: Call) -> Reply:
        repo, sha256 = self._stored_in(call), call.parts["sha256"]
        if hashlib.sha256(call.body).hexdigest() != sha256:
            raise Refused(400, "BadDigest: the content does not match its checksum")
        repo.objects[sha256] = call.body
        return Reply(headers={"ETag": f'"{sha256[:32]}"'})

    def cdn(self, call: Call) -> Reply:
        content = self._stored_in(call).objects.get(call.parts["sha256"])
        if content is None:
            raise Refused(404, "NoSuchKey")
        headers = {"ETag": f'"{call.parts["sha256"][:32]}"', "Accept-Ranges": "bytes"}
        return _ranged(call, Reply(200, headers | {"Content-Type": "application/octet-stream"}, content))

    def _stored_in(self, call: Call) -> Repository:
        if "Authorization" in call.headers:
            raise Refused(400, "InvalidArgument: Only one auth mechanism allowed")
        repo = self.repositories.get((KINDS[call.parts["kind"]], call.parts["id"]))
        if repo is None:
            raise Refused(404, "NoSuchKey")
        return repo

    # Collections

    def create_collection(self, call: Call) -> Reply:
        asked, account = call.json(), self._writer(call, "You don't have the rights to create a collection")
        title, namespace = asked["title"], asked["namespace"]
        if not account.member(namespace):
            raise Refused(403, f'You don\'t have the rights to create a collection under the namespace "{namespace}"')
        for slug, known in self.collections.items():
            if (known.title, known.namespace) == (title, namespace):
                raise Refused(409, "This collection already exists", slug=slug)
        number = hashlib.sha256(f"{namespace} {title}".encode()).hexdigest()[:24]
        slug = f"{namespace}/{re.sub('[^a-z0-9]+', '-', title.lower()).strip('-')}-{number}"
        self.collections[slug] = Collection(title, namespace, asked.get("description"), asked.get("private", False))
        return _json(self._described(slug))

    def get_collection(self, call: Call) -> Reply:
        self._collection(call)
        return _json(self._described(call.parts["slug"]))

    def list_collections(self, call: Call) -> Reply:
        """Those of the owners asked for that who asks may see; unlike the real Hub's list, with all their items."""
        seen = {
            slug: c
            for slug, c in self.collections.items()
            if not c.private or (call.account and call.account.member(c.namespace))
        }
        owners = call.query.get("owner", [])
        shown = [self._described(slug) for slug, c in seen.items() if not owners or c.namespace in owners]
        return _json([{key: value for key, value in c.items() if key != "position"} for c in shown])

    def change_collection(self, call: Call) -> Reply:
        collection = self._collection(call, write=True)
        for key, value in call.json().items():
            if key in ("title", "description", "private"):
                setattr(collection, key, value)
        return _json({"data": self._described(call.parts["slug"])})

    def delete_collection(self, call: Call) -> Reply:
        self._collection(call, write=True)
        del self.collections[call.parts["slug"]]
        return _json({})

    def add_item(self, call: Call) -> Reply:
        collection, asked = self._collection(call, write=True), call.json()
        item = {"type": asked["item"]["type"], "id": asked["item"]["id"]}
        if any(item.items() <= known.items() for known in collection.items):
            raise Refused(409, "Item is already in the collection")
        if item["type"] in KINDS.values() and (item["type"], item["id"]) not in self.repositories:
            raise Refused(404, f"{item['type'].capitalize()} not found")
        collection.items.append(item | {"note": asked.get("note")})
        return _json(self._described(call.parts["slug"]))

    def delete_item(self, call: Call) -> Reply:
        collection = self._collection(call, write=True)
        kept = [item for item in collection.items if _item_id(item) != call.parts["item"]]
        if len(kept) == len(collection.items):
            raise Refused(404, "Item not found")
        collection.items[:] = kept
        return _json({})

    def _collection(self, call: Call, *, write: bool = False) -> Collection:
        collection = self.collections.get(call.parts["slug"])
        inside = bool(collection and call.account and call.account.member(collection.namespace))
        if collection is None or (collection.private and not inside):
            raise Refused(404, "Collection not found")
        if write:
            self._writer(call, "You don't have the rights to change a collection with this token")
            if not inside:
                raise Refused(403, "You don't have the rights to change this collection")
        return collection

    def _described(self, slug: str) -> dict[str, Any]:
        c = self.collections[slug]
        items = [
            {"_id": _item_id(item), "position": position, "type": item["type"], "id": item["id"]}
            | ({"note": {"html": item["note"], "text": item["note"]}} if item["note"] else {})
            for position, item in enumerate(c.items)
        ]
        return {
            "slug": slug,
            "title": c.title,
            "description": c.description,
            "owner": {"name": c.namespace, "type": "user"},
            "items": items,
            "lastUpdated": "2026-01-01T00:00:00.000Z",
            "position": 0,
            "private": c.private,
            "theme": "indigo",
            "upvotes": 0,
        }


def _json(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    said = {"Content-Type": "application/json; charset=utf-8"} | dict(headers or {})
    return Reply(status, said, json.dumps(value, default=str).encode())  # str: of YAML's dates


def _item_id(item: Mapping[str, Any]) -> str:
    return hashlib.sha256(f"{item['type']} {item['id']}".encode()).hexdigest()[:24]


def _sibling(path: str, blob: Blob, details: bool) -> dict[str, Any]:
    if not details:
        return {"rfilename": path}
    lfs = {"lfs": {"sha256": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}} if blob.lfs else {}
    return {"rfilename": path, "size": blob.size, "blobId": blob.oid} | lfs


def _present(commit: Commit, path: str) -> bool:
    return path in commit.files or any(name.startswith(f"{path}/") for name in commit.files)


def _entry(repo: Repository, commit: Commit, path: str, expand: bool) -> dict[str, Any]:
    """A file or folder as `tree` and `paths-info` describe it."""
    blob = commit.files.get(path)
    if blob is None:
        inside = [f"{b.oid} {name}" for name, b in sorted(commit.files.items()) if name.startswith(f"{path}/")]
        entry = {"type": "directory", "oid": hashlib.sha1("\n".join(inside).encode()).hexdigest(), "size": 0}
    else:
        entry = {"type": "file", "oid": blob.oid, "size": blob.size}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": len(blob.pointer)}
    if expand:
        last = commit
        while last.parent and _same(repo.history[last.parent], commit, path):
            last = repo.history[last.parent]
        entry["lastCommit"] = {"id": last.oid, "title": last.message, "date": last.date}
    return entry | {"path": path}


def _same(one: Commit, other: Commit, path: str) -> bool:
    def below(commit: Commit) -> dict[str, str]:
        return {n: b.oid for n, b in commit.files.items() if n == path or n.startswith(f"{path}/")}

    return below(one) == below(other)


def _ranged(call: Call, reply: Reply) -> Reply:
    """The part of the body that a Range header asks for, one range only; 416 where there is none."""
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.headers.get("Range", ""))
    if not asked or not any(asked.groups()):
        return reply
    size = len(reply.body)
    first, last = asked.groups()
    start, end = (int(first), min(int(last or size), size - 1)) if first else (max(size - int(last), 0), size - 1)
    if start > end:
        return Reply(416, {"Content-Range": f"bytes */{size}"})
    part = {"Content-Range": f"bytes {start}-{end}/{size}"}
    return Reply(206, {**reply.headers, **part}, reply.body[start : end + 1])


Action = Callable[[Answers, Call], Reply]
_REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<id>[^/]+(?:/[^/]+)?)"
_PAGE = r"(?:/(?P<kind>datasets|spaces))?/(?P<id>[^/]+(?:/[^/]+)?)"
_OBJECT = r"(?P<kind>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)/(?P<sha256>[0-9a-f]{64})"
_COLLECTION = r"/api/collections/(?P<slug>[^/]+/[^/]+)"
ROUTES: tuple[tuple[str, str, Action], ...] = (
    ("GET", "/api/whoami-v2", Answers.whoami),
    ("POST", "/api/validate-yaml", Answers.validate_yaml),
    ("POST", "/api/repos/create", Answers.create),
    ("DELETE", "/api/repos/delete", Answers.delete),
    ("POST", "/api/collections", Answers.create_collection),
    ("GET", "/api/collections", Answers.list_collections),
    ("GET", _COLLECTION, Answers.get_collection),
    ("PATCH", _COLLECTION, Answers.change_collection),
    ("DELETE", _COLLECTION, Answers.delete_collection),
    ("POST", f"{_COLLECTION}/items", Answers.add_item),
    ("DELETE", f"{_COLLECTION}/items/(?P<item>[^/]+)", Answers.delete_item),
    ("PUT", f"{_REPO}/settings", Answers.settings),
    ("GET", f"{_REPO}/auth-check(?P<write>/write)?", Answers.auth_check),
    ("GET", f"{_REPO}/refs", Answers.refs),
    ("GET", f"{_REPO}/revision/(?P<rev>[^/]+)", Answers.info),
    ("GET", f"{_REPO}/tree/(?P<rev>[^/]+)(?P<path>/.+)?", Answers.tree),
    ("POST", f"{_REPO}/paths-info/(?P<rev>[^/]+)", Answers.paths_info),
    ("GET", f"{_REPO}/commits/(?P<rev>[^/]+)", Answers.log),
    ("POST", f"{_REPO}/preupload/(?P<rev>[^/]+)", Answers.preupload),
    ("POST", f"{_REPO}/commit/(?P<rev>[^/]+)", Answers.commit_request),
    ("POST", f"{_REPO}/tag/(?P<rev>[^/]+)", Answers.tag),
    ("DELETE", f"{_REPO}/tag/(?P<rev>[^/]+)", Answers.delete_tag),
    ("POST", f"{_REPO}/branch/(?P<rev>[^/]+)", Answers.branch),
    ("DELETE", f"{_REPO}/branch/(?P<rev>[^/]+)", Answers.delete_branch),
    ("GET", f"{_REPO}(?P<rev>)", Answers.info),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/batch", Answers.lfs_batch),
    ("POST", rf"{_PAGE}\.git/info/lfs/objects/verify", Answers.lfs_verify),
    ("GET HEAD", f"{_PAGE}/resolve/(?P<rev>[^/]+)/(?P<path>.+)", Answers.resolve),
)
STORAGE_ROUTES: tuple[tuple[str, str, Action], ...] = (
    ("PUT", f"/store/{_OBJECT}", Answers.store),
    ("GET HEAD", f"/cdn/{_OBJECT}", Answers.cdn),
)
