"""One upload: look, show what would change, change all of it in one commit or nothing, tag, fetch it back, compare.

A commit on the Hub is atomic, but its answer can be lost, and a repository has to be made before it can be filled. So
after every doubt the repository is looked at again: a commit that went through counts, and one that did not is tried
again where that may help. A repository that this upload made and could not fill is taken away.
"""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download

from blastlens.errors import BlastlensError
from publish.changes import Changes, File, readable
from publish.hub import Hub, Place, Refused, State

Tell = Callable[[str], None]
TRIES = 3  # of a commit whose failure may pass


@dataclass(frozen=True)
class Upload:
    """What to put where.

    Attributes:
        place: repository.
        files: everything that it is to hold.
        message: of the commit.
        mark: a path that tells a repository of this project from others: one that holds files but not this is left
            alone unless `overwrite`.
        private: whether a repository that is made for it is to be private.
        tag: name for the commit.
        create_pr: open a pull request instead of changing main.
    """

    place: Place
    files: tuple[File, ...]
    message: str
    mark: str
    private: bool = False
    tag: str | None = None
    create_pr: bool = False
    overwrite: bool = False


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
    """An upload, and what it would change."""

    upload: Upload
    before: State | None
    changes: Changes

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
    """Show what would change, change it, fetch it back, compare.

    Args:
        tell: gets a line at a time.
        dry_run: only show.
        inspect: asks more of what came back, in a folder; raises BlastlensError where it does not hold.

    Returns:
        What is there now; None for a dry run.
    """
    planned = plan(hub, upload)
    for line in planned.lines():
        tell(line)
    if dry_run:
        tell("dry run: nothing was changed")
        return None
    done = carry_out(hub, planned, tell)
    with tempfile.TemporaryDirectory() as cache:
        inspect(fetched_back(hub, planned, done, Path(cache)))
    tell(f"fetched back at {done.commit[:7]}: {len(upload.files)} files, the same byte by byte")
    return done


def plan(hub: Hub, upload: Upload) -> Plan:
    """Look at the repository and compare; nothing is changed.

    Raises:
        BlastlensError: somebody else's repository, a tag that names another commit, a pull request to nothing.
    """
    before = hub.look(upload.place)
    there = before.files if before else {}
    changes = Changes.between(upload.files, there)
    if upload.create_pr and before is None:
        raise BlastlensError(f"There is no {upload.place} to open a pull request on; leave --create-pr out.")
    if Changes.between((), there) and upload.mark not in there and not upload.overwrite:
        raise BlastlensError(
            f"The {upload.place} holds something else (it has no {upload.mark}); give another --repo-id, or "
            "--overwrite to replace its files."
        )
    if before and upload.tag in before.tags and (changes or before.tags[upload.tag] != before.head):
        raise BlastlensError(
            f"The tag {upload.tag} of {upload.place} already names {before.tags[upload.tag][:7]}, which holds other "
            "files; give a new tag."
        )
    return Plan(upload, before, changes)


def carry_out(hub: Hub, planned: Plan, tell: Tell) -> Uploaded:
    """Make the repository what was planned, all of it or nothing, and fetch it back to compare every byte.

    Raises:
        BlastlensError: what went wrong, what the repository holds now, and what to do.
    """
    upload, before = planned.upload, planned.before
    place = upload.place
    if before is not None and not planned.changes:
        done = Uploaded(place, before.head, False, hub.address(place))
        tell(f"no new commit: {place} already holds exactly this")
    else:
        done = _change(hub, planned)
        tell(f"committed {done.commit[:7]}  {done.address}")
    if upload.tag:
        with _adding(f"The files are there, as commit {done.commit}; only the tag is missing: run it again."):
            hub.tag(place, upload.tag, done.commit)
        tell(f"tagged {upload.tag}")
    return done


def fetched_back(hub: Hub, planned: Plan, done: Uploaded, folder: Path) -> Path:
    """Fetch the commit into an empty folder, through the road everybody takes, and compare every byte.

    Returns:
        The folder that holds the files.

    Raises:
        BlastlensError: it cannot be fetched, or something differs.
    """
    place = planned.upload.place
    with _adding(f"The files were committed as {done.commit}, but could not be checked: run it again."):
        path = Path(
            hub.persistently(
                f"fetch {place} back",
                lambda: snapshot_download(
                    place.repo_id,
                    repo_type=place.kind,
                    revision=done.commit,
                    cache_dir=folder,
                    token=hub.token or False,
                    endpoint=hub.endpoint,
                ),
            )
        )
    there = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    sent = {file.path: file for file in planned.upload.files}
    differing = [name for name, file in sent.items() if name not in there or there[name].read_bytes() != file.read()]
    if differing:
        raise BlastlensError(
            f"What came back of {place} at {done.commit} is not what was sent ({', '.join(differing)}); do not use "
            "that commit, and run it again."
        )
    return path


def _change(hub: Hub, planned: Plan) -> Uploaded:
    upload, before = planned.upload, planned.before
    place = upload.place
    created = False
    if before is None:
        created = hub.create(place, upload.private)
        before = hub.look(place)
        if before is None:
            raise BlastlensError(f"The {place} exists, but is hidden from this token; use its owner's.")
        if not created:
            raise BlastlensError(f"Somebody else made the {place} just now; look at it, and run it again.")
        # A new repository may come with files of its own, a .gitattributes or a first README.
        planned = Plan(upload, before, Changes.between(upload.files, before.files))
    try:
        return _commit(hub, planned, before)
    except BaseException as error:
        if created:
            _take_away(hub, place, before, error)
        raise


def _commit(hub: Hub, planned: Plan, before: State) -> Uploaded:
    upload, place = planned.upload, planned.upload.place
    nothing = f"Nothing in {place} was changed."
    for attempt in range(1, TRIES + 1):
        try:
            operations = hub.upload(place, planned.changes, upload.create_pr)
        except Refused as refusal:
            raise Refused(f"{refusal} {nothing}", refusal.passing, refusal.status) from None
        try:
            info = hub.commit(place, operations, before.head, upload.message, upload.create_pr)
            return Uploaded(place, info.oid, True, str(info.pr_url or hub.address(place)))
        except Refused as refusal:
            lost = refusal
        except KeyboardInterrupt as stopped:
            if done := _went_through(hub, upload, before, Refused("Interrupted.")):
                stopped.add_note(f"The commit was already on its way: {place} is at {done.commit}.")
            raise
        if (done := _went_through(hub, upload, before, lost)) is not None:
            return done
        if not lost.passing or attempt == TRIES:
            break
        hub.pause(attempt)
    raise Refused(f"{lost} {nothing}", lost.passing, lost.status)


def _went_through(hub: Hub, upload: Upload, before: State, lost: Refused) -> Uploaded | None:
    """The commit whose answer was lost; None where there is none and main is as before."""
    place = upload.place
    with _adding(f"{lost} Whether it was committed is not known: run it again, it makes no second commit."):
        now = hub.look(place)
    if now is None:
        raise Refused(f"{lost} The {place} is gone.")
    if upload.create_pr:
        for ref, commit in now.pull_requests.items():
            if ref not in before.pull_requests and not Changes.between(upload.files, hub.files_at(place, commit)):
                return Uploaded(place, commit, True, f"{hub.address(place)}/discussions/{ref.rpartition('/')[2]}")
        return None
    if not Changes.between(upload.files, now.files):
        return Uploaded(place, now.head, True, hub.address(place))
    if now.head != before.head:
        raise Refused(f"{lost} Somebody else changed {place} meanwhile; look at it, and run it again.", status=412)
    return None


def _take_away(hub: Hub, place: Place, empty: State, error: BaseException) -> None:
    """Remove the repository that was made for files that could not be put there; its owner is told where that fails."""
    try:
        now = hub.look(place)
        if now is not None and now.head == empty.head:
            hub.remove(place)
    except BlastlensError:
        left = f"The new, empty {place} was left behind: run it again, or delete it on the Hub."
        if isinstance(error, Refused):
            raise Refused(f"{error} {left}", error.passing, error.status) from None
        error.add_note(left)


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
