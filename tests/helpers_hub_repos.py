"""What the loopback Hub keeps: files, commits and references of repositories, and the rules that hold for them.

No HTTP here; `helpers_hub` speaks that. A rule that is broken raises `Refused`, with the status and the words that the
real Hub answers with. Everything stays in memory.
"""

import base64
import contextlib
import fnmatch
import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

LARGEST_REGULAR = 10_000_000  # bytes; a larger file is an LFS one whatever its name
MAIN = "refs/heads/main"
_LFS_NAMES = (
    *("*.7z", "*.arrow", "*.bin", "*.bz2", "*.ckpt", "*.ftz", "*.gz", "*.h5", "*.joblib", "*.lfs.*", "*.mlmodel"),
    *("*.model", "*.msgpack", "*.npy", "*.npz", "*.onnx", "*.ot", "*.parquet", "*.pb", "*.pickle", "*.pkl", "*.pt"),
    *("*.pth", "*.rar", "*.safetensors", "saved_model/**/*", "*.tar.*", "*.tar", "*.tflite", "*.tgz", "*.wasm"),
    *("*.xz", "*.zip", "*.zst", "*tfevents*"),
)
_LFS_RULE = "{} filter=lfs diff=lfs merge=lfs -text\n"
ATTRIBUTES = "".join(map(_LFS_RULE.format, _LFS_NAMES)).encode()  # what the Hub puts into a new repository


class Refused(Exception):
    """A request the Hub says no to: HTTP status, sentence, X-Error-Code, X-Repo-Commit, and more of the JSON body."""

    def __init__(
        self, status: int, message: str, code: str | None = None, commit: str | None = None, **extra: Any
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.commit, self.extra = status, message, code, commit, extra


@dataclass(frozen=True)
class Blob:
    """One file's content. `oid` is git's name for it; of an LFS file git has only a pointer, which it names."""

    content: bytes = field(repr=False)
    lfs: bool = False

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()

    @functools.cached_property
    def oid(self) -> str:
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        """What resolve's ETag says, what the client's cache names the file by, and what preupload calls its oid."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    message: str
    parent: str | None
    description: str = field(default="", repr=False)
    files: Mapping[str, Blob] = field(default_factory=dict, repr=False)
    number: int = field(default=0, repr=False)

    @property
    def date(self) -> str:
        """ISO 8601; made up, one minute after the commit before it, so that nothing depends on the clock."""
        moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=self.number)
        return moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")

    @property
    def card(self) -> dict[str, Any]:
        """The README's metadata; empty where there is none that can be read."""
        readme = self.files.get("README.md", Blob(b""))
        with contextlib.suppress(ValueError):
            return front_matter(readme.content.decode(errors="replace")) or {}
        return {}


@dataclass
class Repository:
    """A git repository with large files beside it. References are full names: refs/heads/main, refs/tags/v1, refs/pr/1.

    Simpler than git: a commit's oid is a SHA-1 of what it says and holds, not of a real commit object, and a
    tag is a plain reference without a message.
    """

    id: str
    kind: str  # "model", "dataset" or "space"
    private: bool = False
    gated: bool = False
    sdk: str | None = None
    refs: dict[str, str] = field(default_factory=dict)
    history: dict[str, Commit] = field(default_factory=dict)  # by oid, oldest first
    objects: dict[str, bytes] = field(default_factory=dict, repr=False)  # uploaded LFS files, by SHA-256

    def __post_init__(self) -> None:
        files = {".gitattributes": Blob(ATTRIBUTES)}
        if self.kind == "space":
            front = {"title": self.name, "emoji": "🐠", "colorFrom": "red", "colorTo": "blue", "sdk": self.sdk}
            files["README.md"] = Blob(f"---\n{yaml.safe_dump(front, allow_unicode=True)}---\n".encode())
        self.append(MAIN, None, files, "initial commit")

    @property
    def owner(self) -> str:
        return self.id.partition("/")[0]

    @property
    def name(self) -> str:
        return self.id.partition("/")[2]

    def at(self, revision: str) -> Commit:
        """The commit a branch, tag, full reference or commit id (7 digits or more) stands for."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.history[self.refs[ref]]
        if re.fullmatch("[0-9a-f]{7,40}", revision):
            for oid, commit in self.history.items():
                if oid.startswith(revision):
                    return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def named(self, prefix: str) -> dict[str, str]:
        """References below a prefix such as refs/tags/, by the rest of their name: the commits they stand for."""
        return {ref.removeprefix(prefix): oid for ref, oid in self.refs.items() if ref.startswith(prefix)}

    def log(self, revision: str) -> Iterator[Commit]:
        """Commits, newest first."""
        commit: Commit | None = self.at(revision)
        while commit:
            yield commit
            commit = self.history[commit.parent] if commit.parent else None

    def branch(self, revision: str) -> str:
        """The full name of a reference one may commit to: a branch, or a pull request."""
        ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
        if ref not in self.refs or ref.startswith("refs/tags/"):
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return ref

    def add_ref(self, ref: str, revision: str, conflict: str) -> None:
        commit = self.at(revision)
        if ref in self.refs:
            raise Refused(409, conflict)
        self.refs[ref] = commit.oid

    def delete_ref(self, ref: str) -> None:
        if ref == MAIN:
            raise Refused(403, "You can't delete the default branch")
        if self.refs.pop(ref, None) is None:
            raise Refused(404, f"Invalid rev id: {ref}", "RevisionNotFound")

    def is_lfs(self, path: str, sample: bytes, size: int, revision: str = MAIN) -> bool:
        """Whether a file goes to large file storage: by .gitattributes, by size, or because it is binary.

        How the real Hub tells a binary file is not documented; here one with a zero byte in its first 512 is.
        """
        return bool(size) and (size > LARGEST_REGULAR or b"\0" in sample[:512] or self._tracked(path, revision))

    def _tracked(self, path: str, revision: str) -> bool:
        rules = self.at(revision).files.get(".gitattributes", Blob(b"")).content.decode()
        patterns = [line.split()[0] for line in rules.splitlines() if "filter=lfs" in line]
        return matches(path, patterns)

    def commit(
        self, revision: str, operations: Iterable[tuple[str, dict[str, Any]]], *, as_pull_request: bool = False
    ) -> tuple[Commit, str]:
        """Apply the lines of a commit request, all or none; the new commit and the reference it is on.

        `operations` are (key, value): "header", "file", "lfsFile", "deletedFile", "deletedFolder". A commit that
        changes nothing is made all the same, as git can; the client leaves such requests out.
        """
        ref = self.branch(revision)
        head = self.at(ref)
        files, header = dict(head.files), {}
        for key, value in operations:
            path = value.get("path", "").rstrip("/")
            match key:
                case "header":
                    header = value
                    if (parent := value.get("parentCommit")) and not head.oid.startswith(parent):
                        raise Refused(412, "A commit has happened since. Please refresh and try again.")
                case "file":
                    files[path] = Blob(base64.b64decode(value["content"]))
                case "lfsFile":
                    files[path] = self._uploaded(path, value["oid"], value.get("size"))
                    if not self._tracked(path, ref):
                        rules = files.get(".gitattributes", Blob(b"")).content
                        files[".gitattributes"] = Blob(rules + _LFS_RULE.format(path).encode())
                case "deletedFile" | "deletedFolder":
                    gone = [name for name in files if name == path or name.startswith(f"{path}/")]
                    if not gone or (key == "deletedFile") != (gone == [path]):
                        what = "file" if key == "deletedFile" else "folder"
                        raise Refused(404, f"A {what} with this name doesn't exist", "EntryNotFound")
                    for name in gone:
                        del files[name]
                case _:
                    raise Refused(400, f'"key" with value "{key}" is not valid')
        if not header.get("summary"):
            raise Refused(400, '"summary" is required')
        if "README.md" in files:
            errors, _ = check_card(files["README.md"].content.decode(), self.kind)
            if errors:
                raise Refused(400, "Invalid metadata in README.md: " + "; ".join(errors))
        if as_pull_request:
            ref = f"refs/pr/{1 + sum(name.startswith('refs/pr/') for name in self.refs)}"
        return self.append(ref, head, files, header["summary"], header.get("description", "")), ref

    def _uploaded(self, path: str, sha256: str, size: int | None) -> Blob:
        content = self.objects.get(sha256)
        if content is None or size not in (None, len(content)):
            raise Refused(
                400,
                "Your push was rejected because an LFS pointer pointed to a file that does not exist."
                f" Offending file: - {path}",
            )
        return Blob(content, lfs=True)

    def append(
        self, ref: str, head: Commit | None, files: dict[str, Blob], message: str, description: str = ""
    ) -> Commit:
        parent = head.oid if head else None
        number = len(self.history)
        said = [self.kind, self.id, str(number), str(parent), message, description]
        said += [f"{blob.oid} {path}" for path, blob in sorted(files.items())]
        oid = hashlib.sha1("\n".join(said).encode()).hexdigest()
        self.history[oid] = commit = Commit(oid, message, parent, description, files, number)
        self.refs[ref] = oid
        return commit


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether a path fits one of the patterns of a .gitattributes or .gitignore: without negation, and `**` is `*`."""
    for pattern in patterns:
        whole = pattern.strip("/")
        if "/" not in whole and any(fnmatch.fnmatchcase(part, whole) for part in path.split("/")):
            return True
        if fnmatch.fnmatchcase(path, whole) or fnmatch.fnmatchcase(path, f"{whole}/*"):
            return True
    return False


LICENSES = (
    "apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 "
    "bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc "
    "cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 "
    "cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 "
    "cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 "
    "eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c "
    "ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa "
    "unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 "
    "llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other"
)  # https://huggingface.co/docs/hub/repositories-licenses

_COLOURS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
_SDKS = ("gradio", "docker", "static", "streamlit")
_REPO_ID = r"[\w.-]+(/[\w.-]+)?"
_LANGUAGE = r"[a-z]{2,3}(-[A-Za-z0-9]+)*|multilingual|code"


def front_matter(text: str) -> dict[str, Any] | None:
    """A card's metadata; None where it has none. YAML that cannot be read, or is no mapping, is a ValueError."""
    block = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", text.lstrip("\ufeff \n"), re.S | re.M)
    if not block:
        return None
    try:
        data = yaml.safe_load(block[1])
    except yaml.YAMLError as error:
        raise ValueError(f"bad YAML: {' '.join(str(error).split())}") from None
    if data is not None and not isinstance(data, dict):
        raise ValueError("the metadata is no mapping")
    return data


def check_card(text: str, kind: str) -> tuple[list[str], list[str]]:
    """Errors and warnings about a README's metadata.

    The rules of the real Hub that matter to a model's and a Space's card, as far as its documentation and its answers
    show them: licence, ids of data sets and base models, languages, model-index, and the Space's configuration.
    """
    try:
        data = front_matter(text)
    except ValueError as error:
        return [str(error)], []
    if not data:
        return [], ["empty or missing yaml metadata in repo card"]
    errors = list(_card_errors(data))
    if kind == "space":
        errors += _space_errors(data)
    return errors, []


def listed(data: Mapping[str, Any], key: str) -> list[Any]:
    """A value of the metadata that may be a list, or one thing, or nothing."""
    value = data.get(key)
    return [] if value is None else value if isinstance(value, list) else [value]


def _card_errors(data: dict[str, Any]) -> Iterator[str]:
    for value in listed(data, "license"):
        if value not in LICENSES.split():
            yield f'"license" with value "{value}" must be one of the identifiers of the Hub\'s list'
    link = data.get("license_link")
    if link is not None and link not in ("LICENSE", "LICENSE.md") and "://" not in str(link):
        yield '"license_link" must be LICENSE, LICENSE.md or an address'
    for key, where in (("datasets", "dataset"), ("base_model", "model")):
        for value in listed(data, key):
            if not isinstance(value, str) or not re.fullmatch(_REPO_ID, value):
                yield f'"{key}" with value "{value}" is not valid. Use a {where} id from https://hf.co/{where}s.'
    for value in listed(data, "language"):
        if not re.fullmatch(_LANGUAGE, str(value)):
            yield f'"language" with value "{value}" is not an ISO 639 code'
    for key in ("tags", "metrics"):
        if not all(isinstance(value, str) for value in listed(data, key)):
            yield f'"{key}" must be a list of strings'
    yield from _each(data, "model-index", "", _model_errors)


def _model_errors(model: dict[str, Any], where: str) -> Iterator[str]:
    yield from _missing(model, where, "name", "results")
    yield from _each(model, "results", where, _result_errors)


def _result_errors(result: dict[str, Any], where: str) -> Iterator[str]:
    yield from _missing(result, where, "task", "dataset", "metrics")
    yield from _missing(result.get("task") or {}, f"{where}.task", "type")
    dataset = result.get("dataset") or {}
    yield from _missing(dataset, f"{where}.dataset", "name", "type")
    if not re.fullmatch(_REPO_ID, str(dataset.get("type", "x"))):
        yield f'"{where}.dataset.type" with value "{dataset["type"]}" fails to match the required pattern'
    yield from _each(result, "metrics", where, lambda metric, there: _missing(metric, there, "type", "value"))


def _each(
    data: dict[str, Any], key: str, where: str, errors: Callable[[dict[str, Any], str], Iterator[str]]
) -> Iterator[str]:
    """The errors of each element of a list of mappings, or that it is none."""
    name = f"{where}.{key}".strip(".")
    values = data.get(key) or []
    if not isinstance(values, list):
        yield f'"{name}" must be an array'
        return
    for number, value in enumerate(values):
        if isinstance(value, dict):
            yield from errors(value, f"{name}[{number}]")
        else:
            yield f'"{name}[{number}]" must be of type object'


def _missing(value: Mapping[str, Any], where: str, *keys: str) -> Iterator[str]:
    for key in keys:
        if value.get(key) is None:
            yield f'"{where}.{key}" is required'


def _space_errors(data: dict[str, Any]) -> Iterator[str]:
    if data.get("sdk") not in _SDKS:
        yield f'"sdk" must be one of [{", ".join(_SDKS)}]'
    for key in ("colorFrom", "colorTo"):
        if key in data and data[key] not in _COLOURS:
            yield f'"{key}" must be one of [{", ".join(_COLOURS)}]'
    if len(str(data.get("short_description", ""))) > 60:
        yield '"short_description" length must be less than or equal to 60 characters long'
    for key in ("preload_from_hub", "models", "datasets"):
        if not isinstance(data.get(key, []), list):
            yield f'"{key}" must be an array'
