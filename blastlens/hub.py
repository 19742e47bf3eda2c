"""Find a model by bundled name, folder or Hub repository; Hub models are downloaded into huggingface_hub's cache.

Only JSON, ONNX and, where there is no ONNX file, safetensors are downloaded: never code or pickles. The client's
exceptions hold the request with its token, so none is ever chained to ours.
"""

import errno
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BlastlensError
from .integrity import PICKLE_SUFFIXES
from .model_folder import (
    JSON_FILES,
    MAX_JSON_BYTES,
    OOD_FEATURES,
    PRECISIONS,
    PUBLISHED,
    SAFETENSORS,
    ModelFolder,
    bundled_folder,
    bundled_models,
    read_config,
)

TIME_LIMIT_S = 10.0  # for each answer of the Hub about what there is; the client has its own limit for content
MAX_BYTES = 1_000_000_000  # of a repository's chosen files together

_NAME = re.compile(
    r"(?!models/)(?P<repo>[A-Za-z0-9_][A-Za-z0-9_.-]*/[A-Za-z0-9_][A-Za-z0-9_.-]*)(?:@(?P<revision>.*))?", re.DOTALL
)
_REVISION = re.compile(r"(?!.*(?:\.\.|//|/\.|\.lock(?:/|$)))[A-Za-z0-9_][A-Za-z0-9_./+-]{0,199}(?<![./])")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_BUSY = (408, 429)  # these and all from 500 on are likely to pass


class HubUnavailableError(BlastlensError):
    """The network or the Hub failed, and the model is not in the cache; the same request may succeed later."""


@dataclass(frozen=True)
class Access:
    """How the Hub is read; the fields are those of `huggingface_hub.snapshot_download`."""

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False


def fetch(
    name_or_path: str | os.PathLike[str], revision: str | None = None, access: Access | None = None
) -> ModelFolder:
    """Find a model folder by bundled name ("name" or "models/name"), path, or Hub repository ("owner/name").

    Args:
        name_or_path: looked up in that order; "owner/name@revision" includes a revision.
        revision: branch, tag or commit of a Hub repository; given once, here or with the name.
        access: for a Hub repository.

    Raises:
        HubUnavailableError: no answer from the Hub, and nothing in the cache.
        BlastlensError: no such model, no access to it, or a folder that does not validate.
    """
    name = os.fspath(name_or_path)
    bundled = name.removeprefix("models/").rstrip("/")
    inside = bundled_folder(bundled.removeprefix(f"{PUBLISHED}/"))
    if inside or (name and Path(name).is_dir()):
        if revision is not None:
            raise BlastlensError(f"Model {name} is on this machine and has no revisions; leave revision out.")
        return ModelFolder.load(inside, inside.name) if inside else ModelFolder.load(name)
    found = None if os.path.exists(name) else split_name(name)
    if found is None:
        known = ", ".join(bundled_models()) or "none here: they are in models/ of the repository, see BLASTLENS_MODELS"
        raise BlastlensError(
            f"There is no model {name!r}; give a bundled model ({known}), a model folder, or a Hub "
            "repository as owner/name or owner/name@revision."
        )
    repo_id, named = found
    if named is not None and revision is not None:
        raise BlastlensError(f"The revision is given twice, in {name} and as {revision}; give it once.")
    path = snapshot(repo_id, named if revision is None else revision, access or Access())
    return ModelFolder.load(path, repo_id, path.name)


def split_name(text: str) -> tuple[str, str | None] | None:
    """ "owner/name" or "owner/name@revision" to repository and revision; None for anything else.

    Nothing is looked up. "models/name" is a bundled model, not a repository.
    """
    match = _NAME.fullmatch(text)
    return (match["repo"], match["revision"]) if match else None


def chosen_files(paths: Iterable[str]) -> list[str]:
    """Those of a repository's files that a model folder is read from."""
    there = set(paths)
    networks = list(PRECISIONS.values()) if PRECISIONS["fp32"] in there else [PRECISIONS["int8"], SAFETENSORS]
    return [file for file in (*JSON_FILES, OOD_FEATURES, *networks) if file in there]


def snapshot(repo_id: str, revision: str | None = None, access: Access = Access()) -> Path:
    """Download the files of a model folder and return their folder in the Hub's cache, which is named by its commit.

    A commit whose files are all in the cache is served without a request. If the Hub is unavailable, a branch or tag
    is served as last seen.

    Args:
        repo_id: "owner/name".
        revision: branch, tag or full commit; by default "main".
        access: token, cache folder, and whether requests are allowed.

    Raises:
        HubUnavailableError: no network, or no answer from the Hub, and nothing in the cache.
        BlastlensError: no such repository or revision, no access, no image classifier, more than `MAX_BYTES`, a damaged
            download, or no room on the disk.
    """
    wanted = "main" if revision is None else revision
    if not _REVISION.fullmatch(wanted):
        raise BlastlensError(f"There is no revision {wanted!r} of model {repo_id}; give a branch, tag or commit.")
    if _COMMIT.fullmatch(wanted) and (found := _cached(repo_id, wanted, access, True)):
        return found
    at = f"{repo_id} at revision {revision}" if revision else repo_id
    if access.local_files_only:
        if found := _cached(repo_id, wanted, access):
            return found
        raise BlastlensError(f"Model {at} is not in the Hub's cache on this machine, and local_files_only is set.")
    try:
        return _download(repo_id, wanted, at, access)
    except BlastlensError as refusal:
        error = refusal
    except Exception as trouble:  # raised outside of this block, since it holds the token
        error = _explained(trouble, repo_id, wanted, at)
    if isinstance(error, HubUnavailableError) and (found := _cached(repo_id, wanted, access)):
        return found
    raise type(error)(str(error))


def _cached(repo_id: str, revision: str, access: Access, must_be_complete: bool = False) -> Path | None:
    """The folder of a revision in the cache, unless files are known to be missing, or may be if it must be complete."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    files: list[str] | None = None
    try:
        try:
            tree = get_cached_repo_tree(repo_id, revision=revision, cache_dir=access.cache_dir)
            files = chosen_files(file.path for file in tree)
        except CachedRepoTreeNotFoundError:  # put into the cache by other clients, file by file
            if must_be_complete:
                return None
        place: dict[str, Any] = {"revision": revision, "cache_dir": access.cache_dir}
        folder = Path(snapshot_download(repo_id, local_files_only=True, allow_patterns=files, **place))
    except (OSError, ValueError):  # not in the cache, or a name that no repository can have
        return None
    return folder if (folder / "config.json").is_file() else None


def _download(repo_id: str, revision: str, at: str, access: Access) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    # The one request with a time limit; snapshot_download has none for its list of files.
    info = HfApi(token=access.token).model_info(repo_id, revision=revision, files_metadata=True, timeout=TIME_LIMIT_S)
    if not info.sha:
        raise ValueError("no commit, so this is not an answer of the Hub")
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    chosen = chosen_files(sizes)
    _check_listing(sizes, chosen, at)

    options: dict[str, Any] = {"token": access.token, "cache_dir": access.cache_dir, "etag_timeout": TIME_LIMIT_S}

    def fetched(files: list[str]) -> Path:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=files, **options))

    folder = fetched([file for file in chosen if file.endswith(".json")])
    try:
        config = read_config(folder)  # before a large network is downloaded that could not be served
    except BlastlensError as error:
        raise BlastlensError(f"Model {at} is not an image classifier of this kind: {error}") from None
    if "auto_map" in config and PRECISIONS["fp32"] not in sizes:
        raise BlastlensError(
            f"Model {at} has no ONNX file and needs code of its own, which is never run here; ask its owner for "
            f"{PRECISIONS['fp32']}."
        )
    folder = fetched(chosen)
    damaged = _damaged(repo_id, folder.name, access)
    for file in damaged:
        hf_hub_download(repo_id, file, revision=folder.name, force_download=True, **options)
    if damaged and (damaged := _damaged(repo_id, folder.name, access)):
        raise BlastlensError(
            f"{damaged[0]} of model {at} is not what the Hub lists; check the proxy or mirror in between, and try "
            "again."
        )
    return folder


def _damaged(repo_id: str, commit: str, access: Access) -> list[str]:
    """Files in the cache that differ from the digests that the Hub lists."""
    from huggingface_hub import HfApi

    found = HfApi(token=access.token).verify_repo_checksums(repo_id, revision=commit, cache_dir=access.cache_dir)
    return [one["path"] for one in found.mismatches]


def _check_listing(sizes: Mapping[str, int], chosen: Iterable[str], at: str) -> None:
    """Raise BlastlensError where the list of files alone says that a repository cannot be served."""
    if not any(file in sizes for file in (PRECISIONS["fp32"], SAFETENSORS)):
        pickles = [file for file in sorted(sizes) if file.lower().endswith(PICKLE_SUFFIXES)]
        found = f"only {pickles[0]}, which may run code when it is loaded" if pickles else "no network"
        raise BlastlensError(f"Model {at} holds {found}; {PRECISIONS['fp32']} or {SAFETENSORS} is expected.")
    if "config.json" not in sizes:
        raise BlastlensError(f"Model {at} is not an image classifier of this kind: it has no config.json.")
    for file in chosen:
        if file.endswith(".json") and sizes[file] > MAX_JSON_BYTES:
            raise BlastlensError(f"{file} of model {at} has {sizes[file] / 1e6:.0f} MB; at most 10 MB are read.")
    if (total := sum(sizes[file] for file in chosen)) > MAX_BYTES:
        raise BlastlensError(
            f"Model {at} has {total / 1e9:.1f} GB; at most {MAX_BYTES / 1e9:.0f} GB are downloaded, so give a smaller "
            "model or a local folder."
        )


def address() -> str:
    """The Hub's address, without the password that a mirror's may hold."""
    from huggingface_hub import constants

    return re.sub(r"//[^/]*@", "//", constants.ENDPOINT)


def cause_of(error: BaseException) -> BaseException:
    """The reason for an exception of the client, some of which only say that a file is not on this machine."""
    while error.__cause__ and isinstance(error, FileNotFoundError | RuntimeError | ValueError):
        error = error.__cause__
    return error


def _explained(error: BaseException, repo_id: str, revision: str, at: str) -> BlastlensError:
    """What an exception of the client means, in a sentence without a word of the client's or the server's own."""
    from huggingface_hub import constants, errors

    hub, log_in = address(), "log in with `hf auth login`"
    error = cause_of(error)
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    match error:
        case errors.HFValidationError():
            return BlastlensError(f"{repo_id!r} cannot be the name of a repository; give owner/name.")
        case errors.GatedRepoError():
            return BlastlensError(f"Model {repo_id} is gated; ask for access at {hub}/{repo_id}, then {log_in}.")
        case errors.RevisionNotFoundError():
            return BlastlensError(f"Model {repo_id} has no revision {revision}; give a branch, tag or commit.")
        case errors.RepositoryNotFoundError():
            return BlastlensError(
                f"There is no model {repo_id} on the Hub that you may read, nor a folder of that name; check the name, "
                f"or {log_in} if it is private."
            )
        case OSError(errno=int(number)) if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return BlastlensError(
                f"Model {at} cannot be stored ({os.strerror(number)}); make room in {constants.HF_HUB_CACHE}, or set "
                "HF_HUB_CACHE to another folder."
            )
    if status in (401, 403):
        return BlastlensError(
            f"The Hub does not let model {at} be read ({status}); {log_in}, or unset HF_TOKEN if it is out of date."
        )
    if 0 < status < 500 and status not in _BUSY:
        return BlastlensError(f"Model {at} could not be downloaded: the Hub answers {status}.")
    if status:
        why = f"the Hub answers that it is busy or out of order ({status})"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        why = "offline mode is on (HF_HUB_OFFLINE)"
    elif isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        why = "the Hub's cache on this machine cannot be written to"
    else:
        why = f"the Hub at {hub} did not deliver it ({type(error).__name__})"
    return HubUnavailableError(f"Model {at} is not on this machine and {why}; try again later, or give a local folder.")
