"""The Hub's answers and refusals in plain sentences: one `Hub` asks for everything that publishing needs.

A refusal becomes a BlastlensError that says what happened and what to do. The client's own exceptions carry the
request with its Authorization header, so none of them is ever chained to ours, and the token is struck out of whatever
a server says.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import httpx2
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, get_session, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from blastlens.errors import BlastlensError
from publish.changes import Changes, Remote, printable

Kind = Literal["model", "dataset", "space"]
Answer = TypeVar("Answer")
BUSY = (408, 429, 500, 502, 503, 504)  # likely to pass
UNCLEAR = (408, 500, 502, 504)  # it may have been done before the answer was lost
WAITS_S = (1, 2, 4, 8)  # between tries of what may safely be asked again
PATIENCE_S = 60.0  # for one answer; the client would wait for ever
COMMIT_PATIENCE_S = 600.0  # for a commit of many files
TEMPLATE = (".gitattributes", "README.md")  # what the Hub may put into a repository that it makes
HARDWARE = "zero-a10g"  # ZeroGPU by the Hub's name: a free account's pages run on nothing else


class Refused(BlastlensError):
    """The Hub, or the way there, said no.

    Attributes:
        passing: whether the same may work in a while.
        status: the HTTP status, None where there was no answer.
        doubtful: whether what was asked may have been done all the same.
    """

    def __init__(self, sentence: str, passing: bool = False, status: int | None = None, doubtful: bool = False) -> None:
        super().__init__(sentence)
        self.passing = passing
        self.status = status
        self.doubtful = doubtful

    @property
    def may_arrive(self) -> bool:
        """Whether what was asked may be done later yet: nobody said that it failed."""
        return self.doubtful and self.status in (None, 408, 504)


@dataclass(frozen=True)
class Place:
    """A repository, whether or not it is there yet.

    Attributes:
        sdk: what a Space is made for, where it has to be made: "gradio", or "static", which needs no hardware.
    """

    repo_id: str
    kind: Kind = "model"
    sdk: Literal["gradio", "static"] = "gradio"

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
        self._sleep = sleep
        self.token: str | None = None
        self.api = HfApi(token=False)
        self.token = self.once("find a token", get_token)
        self.api = HfApi(token=self.token or False, library_name="blastlens")

    @property
    def endpoint(self) -> str:
        """The Hub's address, without a password that may stand in it."""
        return re.sub(r"//[^/]*@", "//", self.api.endpoint)

    def address(self, place: Place) -> str:
        """Of the repository's page."""
        prefix = "" if place.kind == "model" else f"{place.kind}s/"
        return f"{self.endpoint}/{prefix}{place.repo_id}"

    def pull_request(self, place: Place, ref: str) -> str:
        """Address of the page of "refs/pr/N"."""
        return f"{self.address(place)}/discussions/{ref.rpartition('/')[2]}"

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
            if info.id != place.repo_id:  # the Hub leads on from a former name
                raise Refused(f"The {place} is called {info.id} now; give that name.")
            files = self._files(place, str(info.sha))
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

        return self.persistently(f"list {place} at {revision}", lambda: self._files(place, revision))

    def _files(self, place: Place, revision: str) -> dict[str, Remote]:
        entries = self.api.list_repo_tree(place.repo_id, recursive=True, revision=revision, repo_type=place.kind)
        return {e.path: Remote(e.blob_id, e.lfs.sha256 if e.lfs else None) for e in entries if isinstance(e, RepoFile)}

    def is_untouched(self, place: Place, state: State) -> bool:
        """Whether nobody has put anything into a repository since the Hub made it."""
        if not set(state.files) <= set(TEMPLATE):
            return False
        commits = self.persistently(
            f"list the commits of {place}", lambda: self.api.list_repo_commits(place.repo_id, repo_type=place.kind)
        )
        return len(commits) <= 1

    def create(self, place: Place, private: bool) -> bool:
        """Ask for an empty repository.

        Returns:
            Whether it was surely made by this request; False where the answer was lost, so that somebody else may have
            made the one that is there.
        """
        options: dict[str, Any] = {}
        if place.kind == "space":
            options = {"space_sdk": place.sdk} | ({"space_hardware": HARDWARE} if place.sdk == "gradio" else {})
        try:
            self.once(
                f"create {place}",
                lambda: self.api.create_repo(place.repo_id, repo_type=place.kind, private=private, **options),
            )
        except Refused as refusal:
            if refusal.doubtful and self.look(place) is not None:
                return False
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
                place.repo_id,
                additions,
                repo_type=place.kind,
                create_pr=create_pr,
                free_memory=False,
                gitignore_content="",  # or the repository's own would silently leave files out of the commit
            ),
        )
        if ignored := [file.path_in_repo for file in additions if file._should_ignore]:
            raise Refused(
                f"The Hub would leave {', '.join(ignored)} out by a .gitignore of {place}; remove that first."
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
            COMMIT_PATIENCE_S,
        )

    def tag(self, place: Place, tag: str, commit: str) -> None:
        """Name a commit; no error where it has that name already, but one where another commit has."""

        def ask() -> None:
            try:
                self.api.create_tag(place.repo_id, tag=tag, revision=commit, repo_type=place.kind)
            except HfHubHTTPError as error:
                if error.response.status_code != 409:
                    raise
            else:
                return
            refs = self.api.list_repo_refs(place.repo_id, repo_type=place.kind)
            named = {ref.name: ref.target_commit for ref in refs.tags}.get(tag)
            if named != commit:
                raise Refused(f"The tag {tag} of {place} names {named or 'another commit'}; give another --tag.")

        self.persistently(f"tag {place}", ask)

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

    def once(self, doing: str, ask: Callable[[], Answer], patience: float = PATIENCE_S) -> Answer:
        """Ask once; any refusal is a Refused that begins "Could not {doing}"."""
        get_session().timeout = patience  # each time, since the client makes a new session after some failures
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

    def told(self, text: str) -> str:
        """What a server or the client said, short, on one line, and without the token."""
        return printable(self.redact(" ".join(text.split())))[:300]

    def redact(self, text: str) -> str:
        """The text without the token."""
        return text.replace(self.token, "(token)") if self.token else text

    def _refusal(self, doing: str, error: BaseException) -> Refused:
        # The client wraps what went wrong in exceptions that only name the file, or the cache that lacks it.
        while error.__cause__ is not None and (
            isinstance(error, LocalEntryNotFoundError) or not isinstance(error, (httpx2.HTTPError, OSError))
        ):
            error = error.__cause__
        start = f"Could not {doing}"
        if isinstance(error, RevisionNotFoundError):
            return Refused(f"{start}: it has no such revision.", status=404)
        if isinstance(error, HfHubHTTPError):
            status = error.response.status_code
            said = self.told(error.server_message or "")
            return Refused(f"{start}: {_meaning(status, said)}", status in BUSY, status, status in UNCLEAR)
        if isinstance(error, OfflineModeIsEnabled):
            return Refused(f"{start}: the client is offline by HF_HUB_OFFLINE; unset it to publish.")
        if isinstance(error, httpx2.TransportError):
            return Refused(
                f"{start}: {self.endpoint} cannot be reached or broke off ({type(error).__name__}); "
                "check the network and try again.",
                passing=True,
                doubtful=not isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout),
            )
        if isinstance(error, json.JSONDecodeError):
            return Refused(f"{start}: what answers at {self.endpoint} is not the Hub; check HF_ENDPOINT and any proxy.")
        return Refused(f"{start}: {type(error).__name__}: {self.told(str(error)).rstrip('.')}.", doubtful=True)


def _meaning(status: int, said: str) -> str:
    told = f" (it said: {said})" if said else ""
    meanings = {
        400: f"the Hub finds the request wrong{told}.",
        401: "the Hub does not accept the token; log in with one that is valid, by `hf auth login` or HF_TOKEN.",
        402: f"the Hub wants this account to pay for it{told}; a Space needs an account that may host ZeroGPU ones.",
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
