"""The Hub as publishing uses it: `huggingface_hub.HfApi` with plain error messages, and no token in any of them.

The exceptions of `huggingface_hub` hold the request and with it the token: none of them is ever chained to ours.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, get_session, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from blastlens.errors import BlastlensError
from blastlens.hub import address, cause_of
from blastlens.images import printable

Result = TypeVar("Result")

TRANSIENT = (408, 429, 500, 502, 503, 504)
WAITS_S = (1, 2, 4, 8)  # before each retry of a request that may be sent twice
TIMEOUT_S = 300.0  # for one answer; the client itself has no limit
EXPLANATIONS = {
    400: "the Hub rejects the request",
    401: "the Hub does not accept the token; log in with `hf auth login`, or set HF_TOKEN",
    402: "the Hub requires a paid account for this; a Space needs an account that may host ZeroGPU Spaces",
    403: "the token has no write access to it",
    404: "there is no such repository, or this token may not see it",
    409: "it exists, but this token may not see it; use its owner's token",
    412: "it was changed by another commit meanwhile; look at it, and run the command again",
    413: "the Hub finds it too large",
    429: "the Hub limits the number of requests; try again in a few minutes",
}


class HubError(BlastlensError):
    """The Hub refused a request or did not answer.

    Attributes:
        status: HTTP status, None without an answer.
        transient: whether the same request may succeed later.
    """

    def __init__(self, message: str, status: int | None = None, transient: bool = False) -> None:
        super().__init__(message)
        self.status, self.transient = status, transient


@dataclass(frozen=True)
class Repository:
    """What a repository holds.

    Attributes:
        commit: the newest one of the revision.
        files: path -> SHA-256 of a large file, git's SHA-1 of any other.
        tags: tag -> commit.
    """

    commit: str
    private: bool
    files: dict[str, str]
    tags: dict[str, str]


class Hub:
    """The Hub with the token of HF_TOKEN or `hf auth login`; every failure is a HubError.

    Args:
        log: gets one line at a time about what is done.
    """

    def __init__(self, log: Callable[[str], object] = print) -> None:
        self._log = log
        self.endpoint = address()
        self.token: str | None = None
        self.token = self.call("read the token", get_token)
        self.api = HfApi(token=self.token or False, library_name="blastlens")

    def user(self) -> str:
        """The name of the token's owner."""
        if not self.token:
            raise HubError("There is no token; run `hf auth login`, or set HF_TOKEN to one with write access.")
        return str(self.call("check the token", self.api.whoami, retry=True)["name"])

    def log(self, line: str) -> None:
        """Report what is done; no token is shown."""
        self._log(self.redact(line))

    def read(self, repo_id: str, repo_type: str = "model") -> Repository | None:
        """What a repository holds; None if there is none, or none that this token may see."""

        def request() -> Repository | None:
            try:
                info = self.api.repo_info(repo_id, repo_type=repo_type, files_metadata=True)
            except RepositoryNotFoundError:
                return None
            if info.id != repo_id:  # the Hub redirects from former names
                raise HubError(f"The {repo_type} {repo_id} is called {info.id} now; give that name.")
            refs = self.api.list_repo_refs(repo_id, repo_type=repo_type)
            return Repository(
                commit=str(info.sha),
                private=bool(info.private),
                files={f.rfilename: f.lfs.sha256 if f.lfs else str(f.blob_id) for f in info.siblings or ()},
                tags={tag.name: tag.target_commit for tag in refs.tags},
            )

        return self.call(f"read {repo_type} {repo_id}", request, retry=True)

    def call(
        self, action: str, function: Callable[..., Result], *args: Any, retry: bool = False, **kwargs: Any
    ) -> Result:
        """Call a function of the client; with `retry`, again while the failure is a transient one.

        Raises:
            HubError: "Could not {action}: ...".
        """
        for wait in (*WAITS_S, None) if retry else (None,):
            get_session().timeout = TIMEOUT_S  # each time: the client replaces its session after some failures
            try:
                return function(*args, **kwargs)
            except BlastlensError:
                raise
            except Exception as exception:
                error = self._explain(f"Could not {action}", exception)
            # Outside of the handler, so that the client's exception is not even the context.
            if wait is None or not error.transient:
                break
            time.sleep(wait)
        raise error

    def redact(self, text: str) -> str:
        """The text without the token."""
        return text.replace(self.token, "(token)") if self.token else text

    def _explain(self, start: str, error: BaseException) -> HubError:
        match error := cause_of(error):
            case HfHubHTTPError(response=response):
                status = response.status_code
                default = "the Hub has an internal error; try again later" if status >= 500 else "the request failed"
                details = f"{status}: {self._shown(error.server_message or '')}".rstrip(": ")
                message = f"{start}: {EXPLANATIONS.get(status, default)} ({details})."
                return HubError(message, status, status in TRANSIENT)
            case OfflineModeIsEnabled():
                return HubError(f"{start}: HF_HUB_OFFLINE is set; unset it to publish.")
            case httpx2.TransportError():
                reason = f"{self.endpoint} cannot be reached or the connection broke off ({type(error).__name__})"
                return HubError(f"{start}: {reason}; check the network.", transient=True)
        return HubError(f"{start}: {type(error).__name__}: {self._shown(str(error))}.")

    def _shown(self, text: str) -> str:
        """What a server or the client said: one short line without the token."""
        return printable(self.redact(" ".join(text.split())))[:300].rstrip(".")
