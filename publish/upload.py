"""Publish files as one commit of a Hub repository or not at all, fetch the commit back, and compare.

A commit on the Hub is atomic, but its answer can be lost, and a new repository exists before it has files. After every
failure the repository is therefore read again: a commit that arrived counts, and a repository that was created here and
stayed empty is deleted. Running the same command again finishes the work and makes no second commit.
"""

import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from blastlens.errors import BlastlensError
from blastlens.images import printable
from publish.hub_client import Hub, HubError, Repository

TEMPLATE = {".gitattributes", "README.md"}  # what the Hub puts into a repository that it creates
KEPT = {".gitattributes"}  # the Hub's own, never part of an upload
ZERO_GPU = "zero-a10g"  # the only hardware that a free account's Gradio Spaces run on
MAX_LINES = 30  # of changed files to show
TAG = re.compile(r"(?!main$)(?![0-9a-f]{40}$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<!\.lock)(?<!\.)")


@dataclass(frozen=True)
class Upload:
    """What to publish where.

    Attributes:
        files: path -> content of every file that the repository is to hold.
        message: of the commit.
        marker: a path that tells a repository made by this project from others.
        space_sdk: of a Space that has to be created.
        owned: if given, the only paths that may be deleted without `overwrite`.
        private: whether the repository has to be a private one.
        overwrite: replace whatever the repository holds.
        tag: name for the commit.
        dry_run: only show what would change.
    """

    repo_id: str
    files: Mapping[str, bytes]
    message: str
    marker: str
    repo_type: Literal["model", "dataset", "space"] = "model"
    space_sdk: Literal["gradio", "static"] | None = None
    owned: frozenset[str] | None = None
    private: bool = False
    overwrite: bool = False
    tag: str | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo_id)
            valid = self.repo_id.count("/") == 1
        except HFValidationError:
            valid = False
        if not valid:
            raise BlastlensError(f"{self.repo_id!r} is not the name of a repository; owner/name is expected.")
        if self.tag is not None and not TAG.fullmatch(self.tag):
            raise BlastlensError(f"{self.tag!r} cannot be a tag; give one like v1.0.")

    def __str__(self) -> str:
        return f"{self.repo_type} {self.repo_id}"

    @property
    def repo(self) -> dict[str, str]:
        """The arguments by which the client knows the repository."""
        return {"repo_id": self.repo_id, "repo_type": self.repo_type}


def publish(hub: Hub, upload: Upload, inspect: Callable[[Path], None] = lambda folder: None) -> str | None:
    """Show what would change, commit it, fetch the commit back, compare, and only then tag it.

    Args:
        inspect: further checks of the fetched folder; raises BlastlensError if they fail.

    Returns:
        The commit that holds the files; None for a dry run.

    Raises:
        BlastlensError: what failed, and what the repository holds now.
    """
    try:
        before = read_checked(hub, upload)
    except HubError as error:
        if error.status or not upload.dry_run:
            raise
        hub.log(f"{error} What the repository holds is unknown; these are all files:")
        before = None
    changes = changes_of(upload.files, before.files if before else {})
    for line in _description(upload, before, changes):
        hub.log(line)
    if upload.dry_run:
        hub.log("dry run: nothing was changed")
        return None
    if before and not changes:
        commit = before.commit
        hub.log(f"no new commit: {commit[:7]}  {_address(hub, upload)}")
    else:
        commit = _commit(hub, upload, before) if before else _create_and_commit(hub, upload)
        hub.log(f"committed: {commit[:7]}  {_address(hub, upload)}")
    with tempfile.TemporaryDirectory() as cache:
        inspect(_fetch_back(hub, upload, commit, Path(cache)))
    hub.log(f"fetched back: {len(upload.files)} files, identical byte by byte")
    if upload.tag:
        create = hub.api.create_tag
        try:
            hub.call(f"tag {upload}", create, **upload.repo, tag=upload.tag, revision=commit, exist_ok=True, retry=True)
        except HubError as error:
            note = f"The files were committed as {commit} and verified; only the tag {upload.tag} is missing."
            raise HubError(f"{error} {note}") from None
        hub.log(f"tagged {upload.tag}")
    return commit


def changes_of(files: Mapping[str, bytes], remote: Mapping[str, str]) -> dict[str, str]:
    """What makes a repository with these digests hold exactly these files: path -> + new, ~ changed, - deleted."""
    changes = {}
    for path in sorted(files.keys() | remote.keys() - KEPT):
        digest = remote.get(path)
        if path not in files:
            changes[path] = "-"
        elif digest is None:
            changes[path] = "+"
        elif digest != (sha256(files[path]).hexdigest() if len(digest) == 64 else git_hash(files[path])):
            changes[path] = "~"
    return changes


def read_checked(hub: Hub, upload: Upload) -> Repository | None:
    """The repository as it is, None if there is none; nothing is changed.

    Raises:
        BlastlensError: a repository of other content, a public one for private files, or a tag that names another
            commit.
    """
    before = hub.read(**upload.repo)
    if before is None:
        return None
    changes = changes_of(upload.files, before.files)
    if upload.private and not before.private:
        raise BlastlensError(f"The {upload} is public; leave --private out, or make it private on the Hub first.")
    if upload.marker not in before.files and not upload.overwrite and not _is_untouched(hub, upload, before):
        raise BlastlensError(
            f"The {upload} holds something else (it has no {upload.marker}); give another --repo-id, or --overwrite "
            "to replace its files."
        )
    deleted = [path for path, mark in changes.items() if mark == "-"]
    foreign = [path for path in deleted if upload.owned is not None and path not in upload.owned]
    if foreign and not upload.overwrite:
        names = ", ".join(map(printable, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
        raise BlastlensError(
            f"The {upload} holds files that do not belong to this ({names}); give another --repo-id, or --overwrite to "
            "delete them."
        )
    if upload.tag in before.tags and (changes or before.tags[upload.tag] != before.commit):
        commit = before.tags[upload.tag][:7]
        raise BlastlensError(f"The tag {upload.tag} of {upload} names {commit}, with other files; give a new tag.")
    return before


def readable(size: int) -> str:
    """A number of bytes as text: "683 B", "29 kB", "12.9 MB"."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def _description(upload: Upload, before: Repository | None, changes: Mapping[str, str]) -> list[str]:
    files = upload.files
    is_private = before.private if before else upload.private
    state = f"at {before.commit[:7]}" if before else "new"
    lines = [f"{upload}: {state}, {'private' if is_private else 'public'}"]
    if before and not changes:
        return [*lines, "  nothing to change: it holds exactly these files"]
    for path, mark in list(changes.items())[:MAX_LINES]:
        lines.append(f"  {mark} {printable(path)}" + (f"  {readable(len(files[path]))}" if path in files else ""))
    if len(changes) > MAX_LINES:
        lines.append(f"  and {len(changes) - MAX_LINES} more")
    size = sum(len(files[path]) for path in changes if path in files)
    return [*lines, f"  {len(changes)} changes in one commit, {readable(size)}"]


def _address(hub: Hub, upload: Upload) -> str:
    return f"{hub.endpoint}/{'' if upload.repo_type == 'model' else upload.repo_type + 's/'}{upload.repo_id}"


def _is_untouched(hub: Hub, upload: Upload, state: Repository) -> bool:
    """Whether a repository is as the Hub created it."""
    if not state.files.keys() <= TEMPLATE:
        return False
    return len(hub.call(f"read {upload}", hub.api.list_repo_commits, **upload.repo, retry=True)) <= 1


def _create_and_commit(hub: Hub, upload: Upload) -> str:
    """Create the repository and commit the files; if that fails, it is deleted unless it holds something."""
    options: dict[str, Any] = {"space_sdk": upload.space_sdk} if upload.space_sdk else {}
    options |= {"space_hardware": ZERO_GPU} if upload.space_sdk == "gradio" else {}
    try:
        hub.call(f"create {upload}", hub.api.create_repo, **upload.repo, private=upload.private, **options)
    except HubError as error:
        if error.status == 409 or hub.read(**upload.repo) is None:
            raise
        # Only the answer was lost.
    try:
        created = read_checked(hub, upload)  # another user may have changed it in between
        if created is None:
            raise HubError(f"The {upload} was created, but cannot be read.")
        return _commit(hub, upload, created)
    except BaseException as error:
        note = _remove_if_untouched(hub, upload)
        if isinstance(error, BlastlensError):
            raise HubError(f"{error} {note}") from None
        raise


def _remove_if_untouched(hub: Hub, upload: Upload) -> str:
    """Delete a repository that was created here and is empty; returns what is there now, as a sentence."""
    try:
        state = hub.read(**upload.repo)
        if state is not None:
            if not _is_untouched(hub, upload, state):
                return f"Look at {_address(hub, upload)}: it holds files."
            hub.call(f"remove {upload}", hub.api.delete_repo, **upload.repo, missing_ok=True, retry=True)
    except HubError:
        return f"A new, empty {upload} may be left: run the command again, or delete it on the Hub."
    return f"There is no {upload} now, as before."


def _commit(hub: Hub, upload: Upload, before: Repository) -> str:
    """Upload the large files, with a progress bar, and commit all changes on `before`; returns the new commit.

    Raises:
        HubError: what failed, and what the repository holds now.
    """
    changes = changes_of(upload.files, before.files)
    additions = [CommitOperationAdd(path, upload.files[path]) for path, mark in changes.items() if mark != "-"]
    deletions = [CommitOperationDelete(path, is_folder=False) for path, mark in changes.items() if mark == "-"]
    # With the repository's own .gitignore the client would silently leave files out.
    options = {"gitignore_content": "", "free_memory": False, **upload.repo}
    details = {"commit_message": upload.message, "parent_commit": before.commit, **upload.repo}
    try:
        hub.call(f"upload to {upload}", hub.api.preupload_lfs_files, additions=additions, **options)
        done = hub.call(f"commit to {upload}", hub.api.create_commit, operations=[*additions, *deletions], **details)
        return done.oid
    except HubError as failure:
        error = failure
    try:
        now = hub.read(**upload.repo)
    except HubError:
        raise HubError(f"{error} Whether it was committed is unknown: look at {_address(hub, upload)}.") from None
    if now and not changes_of(upload.files, now.files):  # only the answer was lost
        return now.commit
    if now is None or now.commit != before.commit:
        raise HubError(f"{error} The {upload} was changed by another commit meanwhile; run the command again.")
    raise HubError(f"{error} The {upload} is unchanged so far; run the command again.")


def _fetch_back(hub: Hub, upload: Upload, commit: str, cache: Path) -> Path:
    """Download a commit into an empty cache as any user would, and compare every byte; returns the folder.

    Raises:
        BlastlensError: it cannot be downloaded, or a file differs.
    """
    options = {"revision": commit, "cache_dir": cache, "token": hub.token or False, "endpoint": hub.api.endpoint}
    try:
        folder = Path(hub.call(f"fetch {upload} back", snapshot_download, **upload.repo, **options, retry=True))
    except HubError as error:
        raise HubError(f"{error} The files were committed as {commit}, but not compared.") from None
    fetched = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    differing = sorted(fetched.keys() - upload.files.keys() - KEPT)
    differing += [p for p, data in upload.files.items() if p not in fetched or fetched[p].read_bytes() != data]
    if differing:
        raise BlastlensError(
            f"What came back of {upload} at {commit} differs from what was sent ({', '.join(differing)}); do not "
            "use that commit, and run the command again."
        )
    return folder
