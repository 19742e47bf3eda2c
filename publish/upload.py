"""One upload: look, show what would change, change all of it in one commit or nothing, fetch it back, compare, tag.

A commit on the Hub is atomic, but its answer can be lost, and a repository has to be made before it can be filled. So
after every doubt the repository is looked at again: a commit that went through counts, and one that did not is tried
again where that cannot do it twice. A repository that this upload surely made and could not fill is taken away.
"""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from blastlens.errors import BlastlensError
from publish.changes import KEPT, Changes, File, printable, readable
from publish.hub import Hub, Place, Refused, State

Tell = Callable[[str], None]
TRIES = 3  # of a commit whose failure may pass
LOOKS = 4  # for a commit whose answer was lost, until it is taken for one that did not arrive
NEWEST = 20  # pull requests that are looked through for the same files
TAG = re.compile(r"(?!main$)(?![0-9a-f]{40}$)[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<!\.lock)(?<!\.)")


@dataclass(frozen=True)
class Upload:
    """What to put where.

    Attributes:
        place: repository.
        files: everything that it is to hold.
        message: of the commit.
        mark: a path that tells a repository of this kind from others.
        private: whether a repository that is made for it is to be private.
        tag: name for the commit.
        create_pr: open a pull request instead of changing main.
        overwrite: replace whatever is there. Otherwise a repository that holds files but not `mark` is left alone.
        own: if given, the only paths that may be deleted without `overwrite`.
    """

    place: Place
    files: tuple[File, ...]
    message: str
    mark: str
    private: bool = False
    tag: str | None = None
    create_pr: bool = False
    overwrite: bool = False
    own: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.tag is not None and not TAG.fullmatch(self.tag):
            raise BlastlensError(f"{self.tag!r} cannot name a commit; give a tag like v1.0.")


@dataclass(frozen=True)
class Uploaded:
    """What is there now.

    Attributes:
        commit: the one that holds the files.
        changed: whether it is a new one.
        address: of the repository, or of the pull request.
    """

    place: Place
    commit: str
    changed: bool
    address: str


@dataclass(frozen=True)
class Plan:
    """An upload, and what it would change.

    Attributes:
        before: what is there; None where nothing is.
        already: the open pull request that holds the same files.
    """

    upload: Upload
    before: State | None
    changes: Changes
    already: Uploaded | None = None

    def lines(self) -> Iterator[str]:
        """For the person who decides."""
        place, upload = self.upload.place, self.upload
        if self.before is None:
            yield f"{place}: new, {'private' if upload.private else 'public'}"
        else:
            visible = "private" if self.before.private else "public"
            yield f"{place}: {visible}, at {self.before.head[:7]}"
            if upload.private and not self.before.private:
                yield "  it stays public: --private only concerns repositories that are made"
        if self.already:
            yield f"  nothing to change: a pull request holds exactly this, {self.already.address}"
            return
        yield from self.changes.lines()
        if self.changes:
            total = sum(file.size for file in self.changes.uploads)
            count = len(self.changes.uploads) + len(self.changes.deleted)
            yield f"  {count} {'file' if count == 1 else 'files'} in one commit, {readable(total)} at most to send"
        else:
            yield "  nothing to change"


def send(
    hub: Hub,
    upload: Upload,
    tell: Tell,
    dry_run: bool = False,
    inspect: Callable[[Path], None] = lambda folder: None,
) -> Uploaded | None:
    """Show what would change, change it, fetch it back, compare, and only then tag it.

    Args:
        tell: gets a line at a time.
        dry_run: only show.
        inspect: asks more of what came back, in a folder; raises BlastlensError where it does not hold.

    Returns:
        What is there now; None for a dry run.

    Raises:
        BlastlensError: what went wrong, what the repository holds now, and what to do.
    """
    place = upload.place
    planned = plan(hub, upload)
    for line in planned.lines():
        tell(line)
    if dry_run:
        tell("dry run: nothing was changed")
        return None
    done = carry_out(hub, planned)
    if done.changed:
        tell(f"committed {done.commit[:7]}  {done.address}")
    else:
        tell(f"no new commit: {done.address} already holds exactly this")
    with tempfile.TemporaryDirectory() as cache:
        inspect(fetched_back(hub, upload, done, Path(cache)))
    tell(f"fetched back at {done.commit[:7]}: {len(upload.files)} files, the same byte by byte")
    if upload.tag:
        with _adding(f"The files are there, as commit {done.commit}, and were checked; only the tag is missing."):
            hub.tag(place, upload.tag, done.commit)
        tell(f"tagged {upload.tag}")
    return done


def plan(hub: Hub, upload: Upload) -> Plan:
    """Look at the repository and compare; nothing is changed.

    Raises:
        BlastlensError: somebody else's repository, a tag that names another commit, a pull request to nothing.
    """
    place = upload.place
    before = hub.look(place)
    if before is None:
        if upload.create_pr:
            raise BlastlensError(f"There is no {place} to open a pull request on; leave --create-pr out.")
        return Plan(upload, None, Changes.between(upload.files, {}))
    changes = Changes.between(upload.files, before.files)
    if not upload.overwrite:
        _refuse_somebody_elses(hub, upload, before, changes)
    if upload.tag in before.tags and (changes or before.tags[upload.tag] != before.head):
        raise BlastlensError(
            f"The tag {upload.tag} of {place} already names {before.tags[upload.tag][:7]}, which holds other files; "
            "give a new tag."
        )
    already = _same_pull_request(hub, upload, before) if upload.create_pr and changes else None
    return Plan(upload, before, changes, already)


def carry_out(hub: Hub, planned: Plan) -> Uploaded:
    """Make the repository what was planned, all of it or nothing.

    Raises:
        BlastlensError: what went wrong, and what the repository holds now.
    """
    place, before = planned.upload.place, planned.before
    if planned.already:
        return planned.already
    if before is None:
        return _make_and_fill(hub, planned.upload)
    if not planned.changes:
        return Uploaded(place, before.head, False, hub.address(place))
    return _commit(hub, planned, before)


def fetched_back(hub: Hub, upload: Upload, done: Uploaded, folder: Path) -> Path:
    """Fetch the commit into an empty folder, through the road everybody takes, and compare every byte.

    Returns:
        The folder that holds the files.

    Raises:
        BlastlensError: it cannot be fetched, or something differs.
    """
    place = upload.place
    with _adding(f"The files were committed as {done.commit}, but could not be fetched back and compared."):
        path = Path(
            hub.persistently(
                f"fetch {place} back",
                lambda: snapshot_download(
                    place.repo_id,
                    repo_type=place.kind,
                    revision=done.commit,
                    cache_dir=folder,
                    token=hub.token or False,
                    endpoint=hub.api.endpoint,
                ),
            )
        )
    there = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    sent = {file.path: file for file in upload.files}
    differing = [name for name, file in sent.items() if name not in there or there[name].read_bytes() != file.read()]
    differing += [name for name in there if name not in sent and name not in KEPT]
    if differing:
        raise BlastlensError(
            f"What came back of {place} at {done.commit} is not what was sent ({', '.join(differing)}); do not use "
            "that commit, and run it again."
        )
    return path


def _refuse_somebody_elses(hub: Hub, upload: Upload, before: State, changes: Changes) -> None:
    place = upload.place
    if upload.mark not in before.files:
        if hub.is_untouched(place, before):
            return
        raise BlastlensError(
            f"The {place} holds something else (it has no {upload.mark}); give another --repo-id, or --overwrite to "
            "replace its files."
        )
    strange = [path for path in changes.deleted if upload.own is not None and path not in upload.own]
    if strange:
        raise BlastlensError(
            f"The {place} holds files that do not belong to this ({', '.join(map(printable, strange[:5]))}"
            f"{', ...' if len(strange) > 5 else ''}); give another --repo-id, or --overwrite to delete them."
        )


def _same_pull_request(hub: Hub, upload: Upload, before: State) -> Uploaded | None:
    newest = sorted(before.pull_requests, key=lambda ref: int(ref.rpartition("/")[2]), reverse=True)[:NEWEST]
    for ref in newest:
        commit = before.pull_requests[ref]
        if not Changes.between(upload.files, hub.files_at(upload.place, commit)):
            return Uploaded(upload.place, commit, False, hub.pull_request(upload.place, ref))
    return None


def _make_and_fill(hub: Hub, upload: Upload) -> Uploaded:
    place = upload.place
    surely_ours: bool | None = None  # None: it was asked for, and nothing is known
    try:
        try:
            surely_ours = hub.create(place, upload.private) or None
        except Refused as refusal:
            if refusal.status == 409:
                raise Refused(
                    f"The {place} exists, but this token may not see it, or somebody made it just now; use its "
                    "owner's token, or run it again."
                ) from None
            if not refusal.doubtful:
                surely_ours = False
            raise
        before = hub.look(place)
        if before is None:
            raise Refused(f"The {place} was made, but is not to be seen.", doubtful=True)
        if before.private != upload.private:
            raise Refused(f"The {place} was made {'private' if before.private else 'public'}, against what was asked.")
        if not hub.is_untouched(place, before):
            surely_ours = False
            raise Refused(f"Somebody else made the {place} just now; look at it, and run it again.")
        return _commit(hub, Plan(upload, before, Changes.between(upload.files, before.files)), before)
    except BaseException as error:
        if surely_ours is not False:
            stands = _take_away(hub, place, surely_ours is True)
            if isinstance(error, Refused):
                raise Refused(f"{error} {stands}", error.passing, error.status) from None
            error.add_note(stands)
        raise


def _commit(hub: Hub, planned: Plan, before: State) -> Uploaded:
    upload, place = planned.upload, planned.upload.place
    stands = f"Nothing in {place} was changed."
    for attempt in range(1, TRIES + 1):
        try:
            operations = hub.upload(place, planned.changes, upload.create_pr)
        except Refused as refusal:
            raise Refused(f"{refusal} {stands}", refusal.passing, refusal.status) from None
        try:
            info = hub.commit(place, operations, before.head, upload.message, upload.create_pr)
            return Uploaded(place, info.oid, True, str(info.pr_url or hub.address(place)))
        except Refused as refusal:
            lost = refusal
        except KeyboardInterrupt as stopped:
            stopped.add_note(_after_interruption(hub, upload, before))
            raise
        if (done := _went_through(hub, upload, before, lost)) is not None:
            return done
        # On main a second try can do no harm: it is refused where the first one still arrives. Two pull requests can.
        if not lost.passing or attempt == TRIES or (upload.create_pr and lost.doubtful):
            break
        hub.pause(attempt)
    if lost.may_arrive:
        stands = f"The {place} was unchanged when last looked at, but the commit may still arrive: look there first."
    raise Refused(f"{lost} {stands}", lost.passing, lost.status, lost.doubtful)


def _went_through(hub: Hub, upload: Upload, before: State, lost: Refused) -> Uploaded | None:
    """The commit whose answer was lost; None where there is none and main is as before."""
    place = upload.place
    for look in range(1, LOOKS + 1 if lost.doubtful else 2):
        with _adding(f"{lost} Whether it was committed is not known: look at {hub.address(place)} and run it again."):
            now = hub.look(place)
        if now is None:
            raise Refused(f"{lost} The {place} is gone.")
        if upload.create_pr:
            new = {ref: commit for ref, commit in now.pull_requests.items() if ref not in before.pull_requests}
            for ref, commit in new.items():
                if not Changes.between(upload.files, hub.files_at(place, commit)):
                    return Uploaded(place, commit, True, hub.pull_request(place, ref))
        elif not Changes.between(upload.files, now.files):
            return Uploaded(place, now.head, True, hub.address(place))
        elif now.head != before.head:
            raise Refused(f"{lost} Somebody else changed {place} meanwhile; look at it, and run it again.", status=412)
        if lost.doubtful and look < LOOKS:
            hub.pause(look)
    return None


def _after_interruption(hub: Hub, upload: Upload, before: State) -> str:
    place = upload.place
    unknown = f"The commit to {place} was on its way and may still arrive: look at {hub.address(place)}."
    try:
        done = _went_through(hub, upload, before, Refused("Interrupted."))
    except BlastlensError:
        return unknown
    return f"The commit was on its way already: {place} is at {done.commit}." if done else unknown


def _take_away(hub: Hub, place: Place, surely_ours: bool) -> str:
    """Remove the repository that was made for files that could not be put there; one that may be somebody else's stays.

    Returns:
        How things stand, in a sentence.
    """
    left = f"There is an empty {place} now, perhaps somebody else's: look at it, and run it again."
    gone = f"There is no {place} now, as before."
    try:
        now = hub.look(place)
        if now is None:
            return gone
        if not hub.is_untouched(place, now):
            return f"The {place} holds files now: look at it."
        if surely_ours:
            hub.remove(place)
            return gone
    except BlastlensError:
        return f"A new, empty {place} may have been left behind: run it again, or delete it on the Hub."
    return left


@contextmanager
def _adding(sentence: str) -> Iterator[None]:
    """Inside, a refusal also says where things stand."""
    try:
        yield
    except BlastlensError as error:
        told = BlastlensError(f"{error} {sentence}")
    else:
        return
    raise told
