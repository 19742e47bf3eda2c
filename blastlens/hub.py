"""Model repositories on the Hub, fetched into the cache that all of the Hub's clients share, and checked there.

Only what a model folder is read from is downloaded: JSON, and ONNX or else safetensors; never code, never pickles. The
Hub's own client downloads and keeps it. Here it is decided what to ask for and what to refuse, every file is compared
with what the Hub lists, and a branch or tag counts as seen once all files of its commit are there.

Whether the Hub answers is known from one request with a short time limit, since a page that starts waits for it; only
once it has answered may the client go on trying for minutes. It is asked file by file: its `snapshot_download` would
first ask for a list, without any time limit, and load in threads that a process waits for when it ends. Its exceptions
hold the request and with it the token, so none of them is ever chained to ours.
"""

import errno
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .errors import BlastlensError
from .integrity import PICKLE_SUFFIXES
from .model_folder import GATE_FEATURES, JSON_FILES, MAX_JSON_BYTES, PRECISIONS, SAFETENSORS, read_config

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo
    from huggingface_hub.errors import HfHubHTTPError

TIME_LIMIT_S = 10.0  # for the Hub to answer what there is, and what a file is; the client has its own between bytes
PAUSES_S = (0.5, 1.5)  # before each further try of what broke off, or met a Hub that is busy
MAX_BYTES = 1_000_000_000  # of a repository's wanted files together

_NAME = re.compile(
    r"(?!models/)(?P<repo>[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*)(?:@(?P<revision>.*))?", re.DOTALL
)
_REVISION = re.compile(r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[A-Za-z0-9_][A-Za-z0-9_./+-]{0,199}(?<![./])")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BUSY = (408, 429, 500, 502, 503, 504)
_OPTIONAL = (*JSON_FILES, GATE_FEATURES, *PRECISIONS.values())  # a whole model may lack any of them but one
_DAMAGED = (
    "arrived damaged and was thrown away; call again, and look at the proxy or mirror on the way to the Hub if need be"
)

Result = TypeVar("Result")


class HubAwayError(BlastlensError):
    """The network or the Hub is to blame, and not what was asked for; nor is it in the cache."""


def import_client() -> None:
    """Import the Hub's client, which takes a moment: to be done before a thread of its own asks the Hub while another
    one imports what imports the same, since each would wait for the other."""
    import httpx2  # noqa: F401
    from huggingface_hub import HfApi, hf_hub_download, resolve_revision, try_to_load_from_cache  # noqa: F401
    from huggingface_hub.utils import sha, validate_repo_id  # noqa: F401


def split_name(text: str) -> tuple[str, str | None] | None:
    """ "owner/name" or "owner/name@revision" to the repository and the revision; None for what cannot be either.

    Nothing is looked up. "models/name" is a bundled model, and no repository.
    """
    match = _NAME.fullmatch(text)
    return (match["repo"], match["revision"]) if match else None


def chosen_files(paths: Iterable[str]) -> list[str]:
    """Of a repository's files those that a model folder is read from, the network without which it is none last.

    That order makes a folder that was left unfinished one without a network, which nothing takes for whole.
    """
    there = set(paths)
    onnx = [file for file in reversed(PRECISIONS.values()) if file in there]
    network = [] if PRECISIONS["fp32"] in there else [SAFETENSORS]
    return [file for file in (*JSON_FILES, GATE_FEATURES, *onnx, *network) if file in there]


def snapshot(repo_id: str, revision: str | None = None) -> Path:
    """Fetch what a model folder is read from and return where it lies in the Hub's cache.

    A commit that is in the cache, whole, is served from there and no request is made. Otherwise the Hub is asked; if
    the network is away, the Hub is down or offline mode is on, the cache serves a branch or tag as last seen.

    Args:
        repo_id: "owner/name".
        revision: branch, tag or commit, by default "main"; a commit by all of its 40 digits.

    Returns:
        A folder of the cache whose name is the commit.

    Raises:
        HubAwayError: no network, or no answer from the Hub, and nothing in the cache.
        BlastlensError: no such repository or revision, no access to it, no image classifier that can be served, more
            than `MAX_BYTES`, a damaged download, or no room on the disk.
    """
    wanted = "main" if revision is None else revision
    if not _REVISION.fullmatch(wanted):
        raise BlastlensError(f"There is no revision {wanted!r} of model {repo_id}; give a branch, tag or commit.")
    cached = _Cached.of(repo_id)
    if cached is None:
        raise BlastlensError(f"No repository can be called {repo_id!r}; give the Hub's owner/name.")
    at = f"{repo_id} at revision {revision}" if revision else repo_id
    if _COMMIT.fullmatch(wanted) and cached.is_complete(wanted) and not cached.damaged(wanted):
        return cached.folder(wanted)
    try:
        return _bring(cached, wanted, at)
    except BlastlensError as refusal:
        why, passing = str(refusal), False
    except Exception as error:  # it holds the token, and nothing may be raised from it
        why, passing = _trouble(error, repo_id, wanted, at)
    if passing and (commit := cached.commit(wanted)) and cached.has_network(commit):
        damaged = cached.damaged(commit)
        if not damaged:
            return cached.folder(commit)
        why = (
            f"{damaged[0]} of model {at} is damaged on this machine and the Hub cannot be asked for it; connect and "
            "call again, and it is fetched anew."
        )
    raise HubAwayError(why) if passing else BlastlensError(why)


@dataclass(frozen=True)
class _Remote:
    """A file as the Hub lists it.

    Attributes:
        path: in the repository.
        size: in bytes.
        digest: SHA-256 of a large file, git's SHA-1 of any other; also the name of its content in the cache.
    """

    path: str
    size: int
    digest: str


@dataclass(frozen=True)
class _Cached:
    """One repository's part of the Hub's cache, in the layout that the Hub documents.

    blobs/DIGEST holds content, snapshots/COMMIT/PATH links to it, refs/REVISION holds a commit, and an empty
    .no_exist/COMMIT/PATH stands for a file that the commit is known to lack.
    """

    repo_id: str
    root: Path

    @classmethod
    def of(cls, repo_id: str) -> "_Cached | None":
        """None where no repository can have that name."""
        from huggingface_hub import constants
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.file_download import repo_folder_name
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(repo_id)
        except HFValidationError:
            return None
        cache = Path(constants.HF_HUB_CACHE).expanduser().resolve()
        return cls(repo_id, cache / repo_folder_name(repo_id=repo_id, repo_type="model"))

    def folder(self, commit: str) -> Path:
        return self.root / "snapshots" / commit

    def commit(self, revision: str) -> str | None:
        """The commit that a revision was when last seen."""
        from huggingface_hub import resolve_revision
        from huggingface_hub.errors import RevisionResolutionError

        try:
            commit = resolve_revision(self.repo_id, revision=revision, local_files_only=True).resolved
        except (RevisionResolutionError, OSError, ValueError):
            return None
        return commit if _COMMIT.fullmatch(commit) else None

    def has_network(self, commit: str) -> bool:
        """Whether a model can be served: it may lack files, but others than this module leave folders so, too."""
        folder = self.folder(commit)
        networks = (PRECISIONS["fp32"], SAFETENSORS)
        return (folder / "config.json").is_file() and any((folder / file).is_file() for file in networks)

    def is_complete(self, commit: str) -> bool:
        """Whether of every file that could be wanted it is known that the commit lacks it, or it is here."""
        from huggingface_hub import try_to_load_from_cache

        return self.has_network(commit) and all(
            try_to_load_from_cache(self.repo_id, file, self.root.parent, commit) is not None for file in _OPTIONAL
        )

    def damaged(self, commit: str) -> list[str]:
        """Files that are not what the Hub said; where the disk has no links, none is known to be."""
        folder = self.folder(commit)
        links = [folder / file for file in (*_OPTIONAL, SAFETENSORS) if (folder / file).is_symlink()]
        names = [(link, Path(os.readlink(link)).name) for link in links]
        damaged = [link for link, digest in names if _DIGEST.fullmatch(digest) and not _holds(link, digest)]
        return [link.relative_to(folder).as_posix() for link in damaged]

    def fetch(self, remote: _Remote, commit: str, at: str) -> None:
        """Have the client put a file into the cache, and anew where it then is not what the Hub lists."""
        from huggingface_hub import hf_hub_download

        file = self.folder(commit) / remote.path
        for anew in (False, True):
            ask = partial(hf_hub_download, self.repo_id, remote.path, revision=commit, force_download=anew)
            _patiently(partial(ask, etag_timeout=TIME_LIMIT_S))
            if _holds(file, remote.digest):
                return
            if not file.is_symlink():  # a copy, where the disk has no links; the client would leave it as it is
                file.unlink(missing_ok=True)
        with suppress(OSError):  # such a copy is gone
            (file.parent / os.readlink(file)).unlink()
            file.unlink()
        raise BlastlensError(f"{remote.path} of model {at} {_DAMAGED}.")

    def note(self, revision: str, commit: str, lacking: Iterable[str]) -> None:
        """Remember what a revision is and which files its commit lacks, if the cache may be written to.

        The client would do either by a request for each, and the former before the files are there.
        """
        with suppress(OSError):
            for file in lacking:
                empty = self.root / ".no_exist" / commit / file
                empty.parent.mkdir(parents=True, exist_ok=True)
                empty.touch()
            if self.commit(revision) != commit:
                ref = self.root / "refs" / revision
                ref.parent.mkdir(parents=True, exist_ok=True)
                aside = ref.with_name(f"{ref.name}.{uuid.uuid4().hex[:8]}.tmp")
                aside.write_text(commit)
                aside.replace(ref)


def _bring(cached: _Cached, revision: str, at: str) -> Path:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    api = HfApi()
    ask = partial(api.model_info, cached.repo_id, revision=revision, files_metadata=True, timeout=TIME_LIMIT_S)
    try:
        info = _patiently(ask)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        _refuse_another_kind(api, cached.repo_id)
        raise
    commit, there = _listing(info)
    chosen = [there[path] for path in chosen_files(there)]
    _refuse_unservable(there, chosen, at)
    for remote in chosen:
        cached.fetch(remote, commit, at)
        if remote.path == "config.json":  # the first
            _refuse_other_networks(cached.folder(commit), there, at)
    cached.note(revision, commit, [path for path in _OPTIONAL if path not in there])
    return cached.folder(commit)


def _listing(info: "ModelInfo") -> tuple[str, dict[str, _Remote]]:
    """The commit and its files by path, each checked before it becomes part of a path on this disk.

    Raises:
        ValueError: not what the Hub answers.
    """
    there = {}
    for file in info.siblings or ():
        digest = file.lfs.sha256 if file.lfs else file.blob_id
        size = file.lfs.size if file.lfs else file.size
        if not (isinstance(digest, str) and _DIGEST.fullmatch(digest) and isinstance(size, int)):
            raise ValueError("a file without digest or size")
        there[file.rfilename] = _Remote(file.rfilename, size, digest)
    if not (isinstance(info.sha, str) and _COMMIT.fullmatch(info.sha)):
        raise ValueError("no commit")
    return info.sha, there


def _refuse_unservable(there: Mapping[str, _Remote], chosen: Iterable[_Remote], at: str) -> None:
    """By the list of files alone, before anything is downloaded."""
    if not any(path in there for path in (PRECISIONS["fp32"], SAFETENSORS)):
        pickles = [path for path in sorted(there) if path.lower().endswith(PICKLE_SUFFIXES)]
        if pickles:
            raise BlastlensError(
                f"Model {at} holds its network only as {pickles[0]}, which may run code when it is loaded; ask its "
                "owner for safetensors or ONNX."
            )
        raise BlastlensError(
            f"Model {at} holds no network; {PRECISIONS['fp32']} or {SAFETENSORS} is expected beside config.json."
        )
    if "config.json" not in there:
        raise BlastlensError(
            f"Model {at} is no image classifier of this kind: it has no config.json; one as timm writes it is expected."
        )
    total = 0
    for remote in chosen:
        total += remote.size
        if remote.path.endswith(".json") and remote.size > MAX_JSON_BYTES:
            raise BlastlensError(
                f"{remote.path} of model {at} has {remote.size / 1e6:.0f} MB; at most {MAX_JSON_BYTES / 1e6:.0f} MB "
                "of JSON are read."
            )
    if total > MAX_BYTES:
        raise BlastlensError(
            f"Model {at} has {total / 1e9:.1f} GB; at most {MAX_BYTES / 1e9:.0f} GB are fetched, so give a smaller "
            "model or a local folder."
        )


def _refuse_other_networks(folder: Path, there: Mapping[str, _Remote], at: str) -> None:
    """By config.json, which is here, before a network is downloaded that would not be served."""
    try:
        config = read_config(folder)
    except BlastlensError as error:
        raise BlastlensError(f"Model {at} is no image classifier of this kind: {error}") from None
    if "auto_map" in config and PRECISIONS["fp32"] not in there:
        raise BlastlensError(
            f"Model {at} has no ONNX file and needs code of its own, which is never run here; ask its owner for "
            f"{PRECISIONS['fp32']}."
        )


def _refuse_another_kind(api: "HfApi", repo_id: str) -> None:
    """Where there is no model, a data set or a Space of that name is what somebody may have meant."""
    for kind, ask in (("data set", api.dataset_info), ("Space", api.space_info)):
        try:
            ask(repo_id, timeout=TIME_LIMIT_S)
        except Exception:  # says nothing about the model
            continue
        raise BlastlensError(f"{repo_id} on the Hub is a {kind}, not a model; give the repository of a model.")


def _patiently(ask: Callable[[], Result]) -> Result:
    """Ask again, after a pause, where the connection broke off or the Hub is busy.

    Where there is no connection to begin with, or no answer within the time limit, nobody is kept waiting longer.
    """
    from httpx2 import ConnectError, HTTPError, TimeoutException
    from huggingface_hub.errors import HfHubHTTPError

    for pause in PAUSES_S:
        try:
            return ask()
        except (ConnectError, TimeoutException):
            raise
        except HfHubHTTPError as error:
            if error.response.status_code not in _BUSY:
                raise
        except HTTPError:
            pass
        time.sleep(pause)
    return ask()


def _trouble(error: BaseException, repo_id: str, revision: str, at: str) -> tuple[str, bool]:
    """What an exception of the client means, in a sentence without a word of the client's or the server's own.

    And whether the network or the Hub is to blame, and not the request; the cache may then serve.
    """
    from httpx2 import ConnectError, HTTPError, TimeoutException
    from huggingface_hub import constants, errors

    while error.__cause__ and type(error) in (ValueError, errors.LocalEntryNotFoundError):
        error = error.__cause__  # of the client's own "cannot be had"
    hub = re.sub(r"//[^/]*@", "//", constants.ENDPOINT)  # a mirror's address may hold a password
    match error:
        case errors.HfHubHTTPError():
            status = error.response.status_code
            if status not in _BUSY and status < 500:
                return _refusal(error, repo_id, revision, at, hub), False
            why = f"the Hub answers that it is out of order or busy ({status}); call again in a few minutes"
        case errors.OfflineModeIsEnabled():
            why = "offline mode is on; unset HF_HUB_OFFLINE once"
        case TimeoutException():
            why = f"the Hub at {hub} gave no answer within {TIME_LIMIT_S:.0f} s; call again"
        case ConnectError() | ConnectionError():
            why = f"the Hub at {hub} cannot be reached; connect and call again"
        case HTTPError():
            why = f"the connection to the Hub at {hub} broke off; call again"
        case errors.FileMetadataError() | ValueError() | TypeError() | KeyError() | AttributeError():
            why = f"what answers at {hub} does not answer as the Hub does; check HF_ENDPOINT and any proxy"
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS):
            why = f"{constants.HF_HUB_CACHE} may not be written to; set HF_HUB_CACHE to another folder"
        case OSError(errno=int(number)):
            reason = f"Model {at} cannot be kept in {constants.HF_HUB_CACHE} ({os.strerror(number)})"
            return f"{reason}; make room there, or set HF_HUB_CACHE to another folder.", False
        case OSError():  # the client counts the bytes that come
            why = f"a file of it {_DAMAGED}"
        case _:  # whatever the Xet client raises
            why = f"it could not be fetched from the Hub ({type(error).__name__}); call again"
    return f"Model {at} is not on this machine and {why}, or give a local folder.", True


def _refusal(error: "HfHubHTTPError", repo_id: str, revision: str, at: str, hub: str) -> str:
    from huggingface_hub import errors, get_token

    status = error.response.status_code
    log_in = "log in with `hf auth login`"
    match error:
        case errors.GatedRepoError():
            return f"Model {repo_id} is gated; ask for access at {hub}/{repo_id}, then {log_in}."
        case errors.RevisionNotFoundError():
            return f"Model {repo_id} has no revision {revision}; give a branch, tag or commit that it has."
        case errors.RepositoryNotFoundError() if get_token():
            return (
                f"There is no model {repo_id} on the Hub that your token may read; nor is there a folder of that "
                "name: check it, or ask its owner for access."
            )
        case errors.RepositoryNotFoundError():
            return (
                f"There is no public model {repo_id} on the Hub; nor is there a folder of that name: check it, or "
                f"{log_in} if it is private."
            )
        case errors.EntryNotFoundError():
            return f"Model {at} changed on the Hub while it was fetched; call again."
    if status == 401 and get_token():
        return f"The Hub does not accept the token of this machine; {log_in} again, or unset HF_TOKEN if it is set."
    if status in (401, 403):
        return f"The Hub does not let model {at} be read ({status}); {log_in} as somebody who may."
    return f"Model {at} could not be fetched: the Hub answers {status}; check the name and the revision."


def _holds(file: Path, digest: str) -> bool:
    """Whether a file's content has a digest, as `_Remote` has them."""
    from huggingface_hub.utils.sha import git_hash, sha_fileobj

    try:
        with file.open("rb") as content:
            return digest == (sha_fileobj(content).hex() if len(digest) == 64 else git_hash(content.read()))
    except OSError:  # nothing that can be read, either
        return False
