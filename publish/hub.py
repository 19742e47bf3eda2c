"""The Hub's answers and refusals in plain sentences: one `Hub` asks for everything that publishing needs.

A refusal becomes a BlastlensError that says what happened and what to do. The client's own exceptions carry the
request with its Authorization header, so none of them is ever chained to ours, and the token is struck out of whatever
a server says.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from blastlens.errors import BlastlensError
from publish.changes import Changes, Remote

Kind = Literal["model", "dataset", "space"]
Answer = TypeVar("Answer")
BUSY = (408, 429, 500, 502, 503, 504)  # likely to pass
WAITS_S = (1, 2, 4, 8)  # between tries of what may safely be asked again
PATIENCE_S = 60.0  # for one answer; the client would wait for ever


class Refused(BlastlensError):
    """The Hub, or the way there, said no.

    Attributes:
        passing: whether the same may work in a while.
        status: the HTTP status, None where there was no answer.
    """

    def __init__(self, sentence: str, passing: bool = False, status: int | None = None) -> None:
        super().__init__(sentence)
        self.passing = passing
        self.status = status


@dataclass(frozen=True)
class Place:
    """A repository, whether or not it is there yet."""

    repo_id: str
    kind: Kind = "model"

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo_id)
            valid = self.repo_id.count("/") == 1
        except HFValidationError:
            valid = False
        if not valid:
            raise BlastlensError(f"{self.repo_id!r} names no repository; owner/name is expected.")

    def __str__(self) -> str:
        return f"{self.kind} {self.repo_id}"


@dataclass(frozen=True)
class State:
    """What a repository holds.

    Attributes:
        head: its newest commit on main.
        private: whether only its owner sees it.
        files: by path.
        tags: tag -> commit.
        pull_requests: commits of those that are open.
    """

    head: str
    private: bool
    files: dict[str, Remote]
    tags: dict[str, str]
    pull_requests: dict[str, str] = field(default_factory=dict)


class Hub:
    """The Hub, asked with the token of HF_TOKEN or of `hf auth login`."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep) -> None:
        self.token = get_token()
        self.api = HfApi(token=self.token or False, library_name="blastlens")
        self._sleep = sleep
        get_session().timeout = PATIENCE_S

    @property
    def endpoint(self) -> str:
        return self.api.endpoint

    def address(self, place: Place) -> str:
        """Of the repository's page."""
        prefix = "" if place.kind == "model" else f"{place.kind}s/"
        return f"{self.endpoint}/{prefix}{place.repo_id}"

    def require_token(self) -> str:
        """Whose token it is; raises Refused where there is none, or none that is valid."""
        if not self.token:
            raise Refused("There is no token; run `hf auth login`, or set HF_TOKEN to one that may write.")
        return str(self.persistently("ask whose token this is", lambda: self.api.whoami()["name"]))

    def look(self, place: Place) -> State | None:
        """What a repository holds; None where there is none, or none that this token may see."""

        def ask() -> State | None:
            try:
                info = self.api.repo_info(place.repo_id, repo_type=place.kind)
            except RepositoryNotFoundError:
                return None
            entries = self.api.list_repo_tree(place.repo_id, recursive=True, revision=info.sha, repo_type=place.kind)
            files = {
                entry.path: Remote(entry.blob_id, entry.lfs.sha256 if entry.lfs else None)
                for entry in entries
                if isinstance(entry, RepoFile)
            }
            refs = self.api.list_repo_refs(place.repo_id, repo_type=place.kind, include_pull_requests=True)
            return State(
                str(info.sha),
                bool(info.private),
                files,
                {tag.name: tag.target_commit for tag in refs.tags},
                {ref.ref: ref.target_commit for ref in refs.pull_requests or ()},
            )

        return self.persistently(f"look at {place}", ask)

    def files_at(self, place: Place, revision: str) -> dict[str, Remote]:
        """What it holds at a commit or ref."""

        def ask() -> dict[str, Remote]:
            entries = self.api.list_repo_tree(place.repo_id, recursive=True, revision=revision, repo_type=place.kind)
            return {
                e.path: Remote(e.blob_id, e.lfs.sha256 if e.lfs else None) for e in entries if isinstance(e, RepoFile)
            }

        return self.persistently(f"list {place} at {revision}", ask)

    def create(self, place: Place, private: bool) -> bool:
        """Make an empty repository; False where somebody made it just now."""
        options: dict[str, Any] = {"space_sdk": "gradio"} if place.kind == "space" else {}
        try:
            self.once(
                f"create {place}",
                lambda: self.api.create_repo(place.repo_id, repo_type=place.kind, private=private, **options),
            )
        except Refused as refusal:
            if refusal.status == 409:
                return False
            # A lost answer may hide a success; and what is there and empty now, nobody else has filled.
            if refusal.passing and (state := self.look(place)) is not None:
                return not Changes.between((), state.files)
            raise
        return True

    def remove(self, place: Place) -> None:
        """Delete a repository: only for one that was created a moment ago and is empty."""
        self.persistently(
            f"remove {place} again", lambda: self.api.delete_repo(place.repo_id, repo_type=place.kind, missing_ok=True)
        )

    def upload(self, place: Place, changes: Changes, create_pr: bool = False) -> list[Any]:
        """Send the large files, with a progress bar; the repository does not change by it.

        Returns:
            What `commit` takes.
        """
        additions = [
            CommitOperationAdd(file.path, file.content if isinstance(file.content, bytes) else str(file.content))
            for file in changes.uploads
        ]
        self.once(
            f"upload to {place}",
            lambda: self.api.preupload_lfs_files(
                place.repo_id, additions, repo_type=place.kind, create_pr=create_pr, free_memory=False
            ),
        )
        return [*additions, *(CommitOperationDelete(path, is_folder=False) for path in changes.deleted)]

    def commit(self, place: Place, operations: list[Any], parent: str, message: str, create_pr: bool) -> CommitInfo:
        """All operations in one commit on `parent`, or none."""
        return self.once(
            f"commit to {place}",
            lambda: self.api.create_commit(
                place.repo_id,
                operations,
                commit_message=message,
                repo_type=place.kind,
                parent_commit=parent,
                create_pr=create_pr,
            ),
        )

    def tag(self, place: Place, tag: str, commit: str) -> None:
        """Name a commit; no error where it already has that name."""
        self.persistently(
            f"tag {place}",
            lambda: self.api.create_tag(place.repo_id, tag=tag, revision=commit, repo_type=place.kind, exist_ok=True),
        )

    def persistently(self, doing: str, ask: Callable[[], Answer]) -> Answer:
        """Ask, and again while the refusal is a passing one: only for what may be asked twice."""
        for wait in WAITS_S:
            try:
                return self.once(doing, ask)
            except Refused as refusal:
                if not refusal.passing:
                    raise
            self._sleep(wait)
        return self.once(doing, ask)

    def once(self, doing: str, ask: Callable[[], Answer]) -> Answer:
        """Ask once; any refusal is a Refused that begins "Could not {doing}"."""
        try:
            return ask()
        except BlastlensError:
            raise
        except Exception as error:
            refusal = self._refusal(doing, error)
        # Outside of the handler: the client's exception, which holds the token, is not even its context.
        raise refusal

    def pause(self, attempt: int) -> None:
        """Wait before the next try."""
        self._sleep(WAITS_S[attempt - 1])

    def redact(self, text: str) -> str:
        """The text without the token."""
        return text.replace(self.token, "(token)") if self.token else text

    def _refusal(self, doing: str, error: BaseException) -> Refused:
        # The client wraps what went wrong with a file in an exception that only names the file.
        while not isinstance(error, (httpx2.HTTPError, OSError)) and error.__cause__ is not None:
            error = error.__cause__
        start = f"Could not {doing}"
        if isinstance(error, RevisionNotFoundError):
            return Refused(f"{start}: it has no such revision.", status=404)
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            said = self.redact(" ".join((error.server_message or "").split()))[:300]
            return Refused(f"{start}: {_meaning(status, said)}", status in BUSY, status)
        if isinstance(error, OfflineModeIsEnabled):
            return Refused(f"{start}: the client is offline by HF_HUB_OFFLINE; unset it to publish.")
        if isinstance(error, httpx2.TransportError):
            return Refused(
                f"{start}: {self.endpoint} cannot be reached or broke off ({type(error).__name__}); "
                "check the network and try again.",
                passing=True,
            )
        return Refused(f"{start}: {type(error).__name__}: {self.redact(' '.join(str(error).split()))[:300]}")


def _meaning(status: int, said: str) -> str:
    told = f" (it said: {said})" if said else ""
    meanings = {
        400: f"the Hub finds the request wrong{told}.",
        401: "the Hub does not accept the token; log in with one that is valid, by `hf auth login` or HF_TOKEN.",
        402: f"the Hub wants this account to pay for it{told}.",
        403: f"the token may not do that; use one with write access to it{told}.",
        404: "the Hub knows no such repository, or hides it from this token.",
        409: f"it conflicts with what is there{told}.",
        412: "somebody changed it meanwhile; look at it, and run the same command again.",
        413: f"the Hub finds it too large{told}.",
        429: "the Hub asks to slow down; try again in some minutes.",
    }
    if status >= 500:
        return f"the Hub has trouble of its own ({status}); try again later."
    return meanings.get(status, f"the Hub answered {status}{told}.")
