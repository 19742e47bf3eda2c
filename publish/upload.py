"""Publish files as one commit of a Hub repository or not at all, fetch the commit back, and compare.

A commit on the Hub is atomic, but its answer can be lost, and a new repository exists before it has files. After every
failure the repository is therefore read again: a commit that arrived counts, and a repository that was created here and
stayed empty is deleted. Running the same command again finishes the work and makes no second commit.
"""

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from blastlens.errors import BlastlensError
from blastlens.images import printable
from publish.hub_client import Hub, HubError, Repository

Log = Callable[[str], None]

TEMPLATE = {".gitattributes", "README.md"}  # what the Hub puts into a repository that it creates
KEPT = {".gitattributes"}  # the Hub's own, never part of an upload
ZERO_GPU = "zero-a10g"  # the only hardware that a free account's Gradio Spaces run on
MAX_LINES = 30  # of changed files to show
PULL_REQUESTS = 20  # newest ones, searched for the same files
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
        create_pr: open a pull request instead of committing to main.
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
    create_pr: bool = False

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


@dataclass(frozen=True)
class Changes:
    """Paths that differ between an upload and a repository."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: tuple[str, ...]

    @classmethod
    def between(cls, files: Mapping[str, bytes], remote: Mapping[str, str]) -> "Changes":
        """What makes a repository with these digests hold exactly these files."""

        def is_same(path: str) -> bool:
            digest = remote.get(path, "")
            return digest == (sha256(files[path]).hexdigest() if len(digest) == 64 else git_hash(files[path]))

        same = set(filter(is_same, files))
        return cls(
            added=tuple(sorted(files.keys() - remote.keys())),
            changed=tuple(sorted((files.keys() & remote.keys()) - same)),
            deleted=tuple(sorted(remote.keys() - files.keys() - KEPT)),
            unchanged=tuple(sorted(same)),
        )

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.deleted)


@dataclass(frozen=True)
class Published:
    """A commit that holds an upload; `address` is that of the repository or of the pull request."""

    upload: Upload
    commit: str
    address: str


@dataclass(frozen=True)
class Plan:
    """What an upload would change. `published` is the commit that holds the same files already."""

    upload: Upload
    before: Repository | None
    changes: Changes
    published: Published | None = None

    def lines(self) -> Iterator[str]:
        """What would change, as text: + new, ~ changed, - deleted."""
        files, changes = self.upload.files, self.changes
        if self.before is None:
            yield f"{self.upload}: new, {'private' if self.upload.private else 'public'}"
        else:
            yield f"{self.upload}: {'private' if self.before.private else 'public'}, at {self.before.commit[:7]}"
        if self.published:
            yield f"  nothing to change: {self.published.address} holds exactly these files"
            return
        marked = [(path, "+") for path in changes.added] + [(path, "~") for path in changes.changed]
        marked = sorted(marked + [(path, "-") for path in changes.deleted])
        for path, mark in marked[:MAX_LINES]:
            yield f"  {mark} {printable(path)}" + (f"  {readable(len(files[path]))}" if path in files else "")
        if len(marked) > MAX_LINES:
            yield f"  and {len(marked) - MAX_LINES} more"
        size = sum(len(files[path]) for path in (*changes.added, *changes.changed))
        yield f"  {len(marked)} changes in one commit, {readable(size)}; {len(changes.unchanged)} files unchanged"


def publish(
    hub: Hub,
    upload: Upload,
    log: Log,
    dry_run: bool = False,
    inspect: Callable[[Path], None] = lambda folder: None,
) -> Published | None:
    """Show what would change, commit it, fetch the commit back, compare, and only then tag it.

    Args:
        log: gets one line at a time.
        dry_run: only show what would change.
        inspect: further checks of the fetched folder; raises BlastlensError if they fail.

    Returns:
        The commit that holds the files; None for a dry run.

    Raises:
        BlastlensError: what failed, and what the repository holds now.
    """
    planned = plan(hub, upload)
    for line in planned.lines():
        log(line)
    if dry_run:
        log("dry run: nothing was changed")
        return None
    done = planned.published or _commit(hub, planned)
    log(f"{'no new commit' if planned.published else 'committed'}: {done.commit[:7]}  {done.address}")
    with tempfile.TemporaryDirectory() as cache:
        inspect(fetch_back(hub, done, Path(cache)))
    log(f"fetched back: {len(upload.files)} files, identical byte by byte")
    if upload.tag:
        _tag(hub, done, upload.tag)
        log(f"tagged {upload.tag}")
    return done


def plan(hub: Hub, upload: Upload) -> Plan:
    """Compare an upload with the repository; nothing is changed.

    Raises:
        BlastlensError: a repository of other content, a public one for private files, a tag that names another
            commit, or no repository for a pull request.
    """
    before = hub.read(**upload.repo)
    if before is None:
        if upload.create_pr:
            raise BlastlensError(f"There is no {upload} to open a pull request on; leave --create-pr out.")
        return Plan(upload, None, Changes.between(upload.files, {}))
    changes = Changes.between(upload.files, before.files)
    if upload.private and not before.private:
        raise BlastlensError(f"The {upload} is public; leave --private out, or make it private on the Hub first.")
    if not upload.overwrite:
        _refuse_other_content(hub, upload, before, changes)
    if upload.tag in before.tags and (changes or before.tags[upload.tag] != before.commit):
        commit = before.tags[upload.tag][:7]
        raise BlastlensError(f"The tag {upload.tag} of {upload} names {commit}, with other files; give a new tag.")
    return Plan(upload, before, changes, _find(hub, upload, before))


def fetch_back(hub: Hub, done: Published, cache: Path) -> Path:
    """Download a commit into an empty cache as any user would, and compare every byte; returns the folder.

    Raises:
        BlastlensError: it cannot be downloaded, or a file differs.
    """
    upload, files = done.upload, done.upload.files
    options = {"cache_dir": cache, "token": hub.token or False, "endpoint": hub.api.endpoint}
    try:
        fetch = snapshot_download
        folder = Path(
            hub.call(f"fetch {upload} back", fetch, **upload.repo, revision=done.commit, **options, retry=True)
        )
    except HubError as error:
        raise error.adding(f"The files were committed as {done.commit}, but not compared.") from None
    fetched = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    differing = sorted(fetched.keys() - files.keys() - KEPT)
    differing += [path for path in files if path not in fetched or fetched[path].read_bytes() != files[path]]
    if differing:
        raise BlastlensError(
            f"What came back of {upload} at {done.commit} differs from what was sent ({', '.join(differing)}); do not "
            "use that commit, and run the command again."
        )
    return folder


def readable(size: int) -> str:
    """A number of bytes as text: "683 B", "29 kB", "12.9 MB"."""
    if size < 1000:
        return f"{size} B"
    return f"{size / 1e3:.0f} kB" if size < 1e6 else f"{size / 1e6:.1f} MB"


def _address(hub: Hub, upload: Upload) -> str:
    return f"{hub.endpoint}/{'' if upload.repo_type == 'model' else upload.repo_type + 's/'}{upload.repo_id}"


def _refuse_other_content(hub: Hub, upload: Upload, before: Repository, changes: Changes) -> None:
    """Raises BlastlensError if the repository was not made by this project, or holds files of others."""
    if upload.marker not in before.files:
        if _is_untouched(hub, upload, before):
            return
        raise BlastlensError(
            f"The {upload} holds something else (it has no {upload.marker}); give another --repo-id, or --overwrite "
            "to replace its files."
        )
    foreign = [path for path in changes.deleted if upload.owned is not None and path not in upload.owned]
    if foreign:
        names = ", ".join(map(printable, foreign[:5])) + (", ..." if len(foreign) > 5 else "")
        raise BlastlensError(
            f"The {upload} holds files that do not belong to this ({names}); give another --repo-id, or --overwrite to "
            "delete them."
        )


def _is_untouched(hub: Hub, upload: Upload, state: Repository) -> bool:
    """Whether a repository is as the Hub created it."""
    if not state.files.keys() <= TEMPLATE:
        return False
    return len(hub.call(f"read {upload}", hub.api.list_repo_commits, **upload.repo, retry=True)) <= 1


def _find(hub: Hub, upload: Upload, state: Repository) -> Published | None:
    """The commit on main, or else the open pull request, that holds exactly the files of an upload."""
    if not Changes.between(upload.files, state.files):
        return Published(upload, state.commit, _address(hub, upload))
    for ref in state.pull_requests[:PULL_REQUESTS] if upload.create_pr else ():
        found = hub.read(**upload.repo, revision=ref)
        if found and not Changes.between(upload.files, found.files):
            return Published(upload, found.commit, f"{_address(hub, upload)}/discussions/{ref.rpartition('/')[2]}")
    return None


def _commit(hub: Hub, planned: Plan) -> Published:
    """Make the repository hold the files, in one commit.

    Raises:
        HubError: what failed, and what the repository holds now.
    """
    upload = planned.upload
    if planned.before is not None:
        return _commit_to(hub, planned, planned.before)
    _create(hub, upload)
    try:
        planned = plan(hub, upload)  # another user may have changed it in between
        if planned.before is None:
            raise HubError(f"The {upload} was created, but cannot be read.")
        return planned.published or _commit_to(hub, planned, planned.before)
    except BaseException as error:
        note = _remove_if_untouched(hub, upload)
        if isinstance(error, BlastlensError):
            raise HubError(f"{error} {note}") from None
        raise


def _create(hub: Hub, upload: Upload) -> None:
    options: dict[str, Any] = {"space_sdk": upload.space_sdk} if upload.space_sdk else {}
    options |= {"space_hardware": ZERO_GPU} if upload.space_sdk == "gradio" else {}
    try:
        hub.call(f"create {upload}", hub.api.create_repo, **upload.repo, private=upload.private, **options)
    except HubError as error:
        if error.status == 409:
            raise HubError(f"The {upload} exists, but this token may not see it; use its owner's token.", 409) from None
        if error.unclear:
            raise error.adding("It may have been created, without files: run the command again.") from None
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


def _commit_to(hub: Hub, planned: Plan, before: Repository) -> Published:
    upload = planned.upload
    try:
        info = _send(hub, planned, before.commit)
        return Published(upload, info.oid, str(info.pr_url or _address(hub, upload)))
    except HubError as failure:
        error = failure
    try:
        now = hub.read(**upload.repo)
        done = now and _find(hub, upload, now)
    except HubError:
        raise error.adding(f"Whether it was committed is unknown: look at {_address(hub, upload)}.") from None
    if done:  # only the answer was lost
        return done
    if now is None or now.commit != before.commit:
        raise error.adding(f"The {upload} was changed by another commit meanwhile; run the command again.")
    if error.unclear and error.status in (None, 408, 504):
        raise error.adding(f"The {upload} is unchanged so far, but the commit may still arrive; look there first.")
    raise error.adding(f"Nothing in {upload} was changed.")


def _send(hub: Hub, planned: Plan, parent: str) -> CommitInfo:
    """Upload the large files, with a progress bar, and commit all changes on a parent commit."""
    upload, changes = planned.upload, planned.changes
    additions = [CommitOperationAdd(path, upload.files[path]) for path in (*changes.added, *changes.changed)]
    deletions = [CommitOperationDelete(path, is_folder=False) for path in changes.deleted]
    target: dict[str, Any] = {**upload.repo, "create_pr": upload.create_pr}
    # With the repository's own .gitignore the client would silently leave files out.
    options = {"gitignore_content": "", "free_memory": False}
    hub.call(f"upload to {upload}", hub.api.preupload_lfs_files, additions=additions, **target, **options)
    details = {"commit_message": upload.message, "parent_commit": parent}
    return hub.call(
        f"commit to {upload}", hub.api.create_commit, operations=[*additions, *deletions], **target, **details
    )


def _tag(hub: Hub, done: Published, tag: str) -> None:
    """Tag a commit; no error if it has that tag already."""
    upload = done.upload
    try:
        hub.call(f"tag {upload}", hub.api.create_tag, **upload.repo, tag=tag, revision=done.commit, retry=True)
    except HubError as error:
        state = hub.read(**upload.repo) if error.status == 409 else None
        if state is None or state.tags.get(tag) != done.commit:
            verified = f"The files were committed as {done.commit} and verified; only the tag {tag} is missing."
            raise error.adding(verified) from None
