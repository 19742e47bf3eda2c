"""Publishing while things go wrong: the repository holds all of it or none, the sentence helps, no token leaks."""

import logging
import math
import traceback

import pytest

from blastlens.errors import BlastlensError
from publish.changes import File
from publish.hub import Hub, Place
from publish.upload import Upload, send

FILES = {
    "metrics.json": b"{}",
    "README.md": b"---\nlicense: other\n---\n# card\n",
    "model.safetensors": b"weights" * 999,
}
OLD = FILES | {"model.safetensors": b"older weights" * 99, "pytorch_model.bin": b"stale"}
PLACE = Place("someone/cells")


def upload(**options) -> Upload:
    files = tuple(File(path, content) for path, content in sorted(FILES.items()))
    return Upload(PLACE, files, "as measured", "metrics.json", **options)


class Attempt:
    """One call of `send`: what was told, and how it ended. A token in any of it, or in a log, fails the test."""

    def __init__(self, hub, monkeypatch, caplog, token=None):
        self.hub, self.token = hub, token or hub.token
        self.monkeypatch, self.caplog = monkeypatch, caplog
        monkeypatch.setenv("HF_TOKEN", self.token)
        caplog.set_level(logging.DEBUG)
        logging.getLogger("huggingface_hub").propagate = True
        self.waited: list[float] = []

    def send(self, **options):
        told: list[str] = []
        client = Hub(sleep=self.waited.append)
        try:
            self.done = send(client, upload(**options), told.append)
            self.error = None
        except BlastlensError as error:
            self.done, self.error = None, error
        self.told = "\n".join(told)
        seen = [self.told, self.caplog.text, *map(str, self.chain())]
        if self.error:
            seen += [repr(self.error), "".join(traceback.format_exception(self.error))]
        assert not any(self.token in text for text in seen)
        # The client's exceptions carry the request; none of them may hang on ours.
        assert all(isinstance(error, BlastlensError) for error in self.chain())
        return self.error

    def chain(self):
        error, found = self.error, []
        while error is not None:
            found.append(error)
            error = error.__cause__ or error.__context__
        return found


@pytest.fixture
def attempt(hub, monkeypatch, caplog):
    return Attempt(hub, monkeypatch, caplog)


def holds(hub, files) -> bool:
    return hub.files("someone/cells") == files


# Nothing wrong


def test_a_new_repository_holds_exactly_the_files_in_one_commit(hub, attempt):
    assert attempt.send(tag="v1.0") is None
    assert holds(hub, FILES)
    newest, *before = hub.commits("someone/cells")
    assert newest.message == "as measured" and len(before) == 1  # the Hub's own first one
    assert attempt.done.commit == newest.oid == hub.tags("someone/cells")["v1.0"]
    assert "someone/cells: new, public" in attempt.told and "+ metrics.json  2 B" in attempt.told
    assert "fetched back" in attempt.told and "tagged v1.0" in attempt.told


def test_the_same_again_makes_no_commit_and_can_still_be_tagged(hub, attempt):
    attempt.send()
    first = hub.commits("someone/cells")
    assert attempt.send(tag="v1.0") is None
    assert hub.commits("someone/cells") == first and not attempt.done.changed
    assert hub.tags("someone/cells") == {"v1.0": first[0].oid}
    assert "nothing to change" in attempt.told
    assert attempt.send(tag="v1.0") is None


def test_what_is_no_longer_part_of_it_is_deleted_in_the_same_commit(hub, attempt):
    hub.add_repo("someone/cells", OLD)
    before = len(hub.commits("someone/cells"))
    assert attempt.send() is None
    assert holds(hub, FILES) and len(hub.commits("someone/cells")) == before + 1
    assert "- pytorch_model.bin" in attempt.told and "~ model.safetensors" in attempt.told


def test_a_dry_run_only_reads(hub, monkeypatch):
    hub.add_repo("someone/cells", OLD)
    told: list[str] = []
    assert send(Hub(), upload(), told.append, dry_run=True) is None
    assert holds(hub, OLD) and {request.method for request in hub.requests} <= {"GET", "HEAD"}
    assert "- pytorch_model.bin" in "\n".join(told) and told[-1] == "dry run: nothing was changed"


def test_a_pull_request_leaves_main_as_it_is(hub, attempt):
    hub.add_repo("someone/cells", OLD)
    assert attempt.send(create_pr=True) is None
    assert holds(hub, OLD)
    assert hub.files("someone/cells", "refs/pr/1") == FILES
    assert attempt.done.address.endswith("/someone/cells/discussions/1")


def test_a_private_repository_is_made_private(hub, attempt):
    attempt.send(private=True)
    assert "new, private" in attempt.told
    assert Hub().look(PLACE).private


# Refused before anything is changed


def test_somebody_elses_repository_is_left_alone_unless_told_otherwise(hub, attempt):
    hub.add_repo("someone/cells", {"config.json": b"{}"})
    assert "holds something else" in str(attempt.send()) and "--overwrite" in str(attempt.error)
    assert holds(hub, {"config.json": b"{}"})
    assert attempt.send(overwrite=True) is None and holds(hub, FILES)


def test_a_tag_never_moves(hub, attempt):
    hub.add_repo("someone/cells", OLD)
    attempt.send(tag="v1.0")
    hub.commit("someone/cells", {"metrics.json": b"other"})
    assert "give a new tag" in str(attempt.send(tag="v1.0"))
    assert hub.files("someone/cells")["metrics.json"] == b"other"


def test_a_pull_request_needs_a_repository(hub, attempt):
    assert "leave --create-pr out" in str(attempt.send(create_pr=True))
    assert not hub.exists("someone/cells")


@pytest.mark.parametrize("name", ["cells", "a/b/c", "some one/cells", "", "../cells", "someone/"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(BlastlensError, match="owner/name is expected"):
        Place(name)


def test_without_a_token_it_says_how_to_get_one(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(BlastlensError, match="hf auth login"):
        Hub().require_token()


# Refused by the Hub: nothing is changed


def test_a_token_that_is_none(hub, monkeypatch, caplog):
    attempt = Attempt(hub, monkeypatch, caplog, token="hf_" + "x" * 34)
    assert "does not accept the token" in str(attempt.send())
    assert not hub.exists("someone/cells")


def test_a_token_that_may_only_read(hub, monkeypatch, caplog):
    attempt = Attempt(hub, monkeypatch, caplog, token=hub.read_token)
    assert "write access" in str(attempt.send())
    assert not hub.exists("someone/cells")


STEPS = {
    "creation": ("POST", "/api/repos/create"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "commit": ("POST", "/api/models/someone/cells/commit/"),
}


@pytest.mark.parametrize("status", [401, 403, 404, 409, 500, 503])
@pytest.mark.parametrize(
    "step, existing", [(step, there) for step in STEPS for there in (False, True) if not (step == "creation" and there)]
)
def test_a_refused_step_changes_nothing(hub, attempt, step, status, existing):
    if existing:
        hub.add_repo("someone/cells", OLD)
        before = hub.commits("someone/cells")
    hub.fail(*STEPS[step], status=status, times=math.inf, body=f'{{"error": "no {hub.token}"}}'.encode())
    error = attempt.send()
    hidden = step == "creation" and status == 409
    assert str(error).startswith("The model someone/cells exists, but this token" if hidden else "Could not ")
    if existing:
        assert holds(hub, OLD) and hub.commits("someone/cells") == before
        assert "Nothing in model someone/cells was changed." in str(error)
    else:
        assert not hub.exists("someone/cells")
        assert hidden or status < 500 or step == "creation" or "There is no model someone/cells now" in str(error)
    hub.mend()
    assert attempt.send() is None and holds(hub, FILES)


# Passing trouble is waited out


@pytest.mark.parametrize("step", ["preupload", "batch", "commit"])
@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 500}, {"status": 429}, {"drop": True}], ids=str)
def test_a_step_that_fails_once_is_tried_again(hub, attempt, step, fault):
    hub.fail(*STEPS[step], times=1, **fault)
    assert attempt.send() is None
    assert holds(hub, FILES) and len(hub.commits("someone/cells")) == 2


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}], ids=str)
def test_a_creation_whose_answer_is_lost_counts(hub, attempt, fault):
    hub.fail(*STEPS["creation"], after_effect=True, **fault)
    assert attempt.send() is None and holds(hub, FILES)


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 504}, {"drop": True}], ids=str)
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_a_commit_whose_answer_is_lost_counts_and_is_not_made_twice(hub, attempt, fault, existing):
    if existing:
        hub.add_repo("someone/cells", OLD)
    before = len(hub.commits("someone/cells")) if existing else 1
    hub.fail(*STEPS["commit"], after_effect=True, **fault)
    assert attempt.send(tag="v2") is None
    assert holds(hub, FILES) and len(hub.commits("someone/cells")) == before + 1
    assert hub.tags("someone/cells")["v2"] == hub.commits("someone/cells")[0].oid == attempt.done.commit


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}], ids=str)
def test_a_pull_request_whose_answer_is_lost_is_found_and_not_opened_twice(hub, attempt, fault):
    hub.add_repo("someone/cells", OLD)
    hub.fail(*STEPS["commit"], after_effect=True, **fault)
    assert attempt.send(create_pr=True) is None
    assert attempt.done.address.endswith("/discussions/1") and holds(hub, OLD)
    assert len(Hub().look(PLACE).pull_requests) == 1


# Interrupted, raced, cut off


@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_an_upload_that_breaks_off_changes_nothing_and_goes_on_later(hub, attempt, existing):
    if existing:
        hub.add_repo("someone/cells", OLD)
    hub.fail("PUT", ".", drop=True, times=math.inf)
    error = attempt.send()
    assert "cannot be reached or broke off" in str(error)
    assert holds(hub, OLD) if existing else not hub.exists("someone/cells")
    hub.mend()
    assert attempt.send() is None and holds(hub, FILES)


def test_ctrl_c_during_the_upload_changes_nothing(hub, attempt, monkeypatch):
    from huggingface_hub import HfApi

    def stopped(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "preupload_lfs_files", stopped)
        with pytest.raises(KeyboardInterrupt):
            attempt.send()
    assert not hub.exists("someone/cells")


def test_somebody_elses_commit_meanwhile_is_never_overwritten(hub, attempt, monkeypatch):
    hub.add_repo("someone/cells", OLD)
    uploading = Hub.upload

    def raced(self, *arguments):
        hub.commit("someone/cells", {"metrics.json": b"theirs"})
        return uploading(self, *arguments)

    monkeypatch.setattr(Hub, "upload", raced)
    error = attempt.send()
    assert "Somebody else changed" in str(error) and "run it again" in str(error)
    assert holds(hub, OLD | {"metrics.json": b"theirs"})


def test_with_the_hub_gone_after_the_commit_it_says_what_is_not_known(hub, attempt, monkeypatch):
    hub.add_repo("someone/cells", OLD)
    committing = Hub.commit

    def then_gone(self, *arguments):
        hub.fail(".*", ".", drop=True, times=math.inf)
        return committing(self, *arguments)

    monkeypatch.setattr(Hub, "commit", then_gone)
    assert "Whether it was committed is not known: look at" in str(attempt.send())
    hub.mend()
    monkeypatch.undo()
    attempt = Attempt(hub, monkeypatch, attempt.caplog)
    assert attempt.send() is None and holds(hub, FILES)


def test_a_repository_that_cannot_be_taken_away_again_is_named(hub, attempt):
    hub.fail(*STEPS["preupload"], status=403, times=math.inf)
    hub.fail("DELETE", "/api/repos/delete", status=403, times=math.inf)
    assert "may have been left behind" in str(attempt.send())
    hub.mend()
    assert attempt.send() is None and holds(hub, FILES)


def test_a_tag_that_fails_says_that_the_files_are_there_and_is_made_the_next_time(hub, attempt):
    hub.fail("POST", "/tag/", status=500, times=math.inf)
    error = attempt.send(tag="v1.0")
    assert "only the tag is missing" in str(error) and hub.commits("someone/cells")[0].oid in str(error)
    assert holds(hub, FILES)
    hub.mend()
    commits = hub.commits("someone/cells")
    assert attempt.send(tag="v1.0") is None
    assert hub.commits("someone/cells") == commits and hub.tags("someone/cells") == {"v1.0": commits[0].oid}


def test_a_damaged_copy_is_noticed(hub, attempt):
    hub.fail("GET", "model.safetensors|/cdn/", corrupt=True, times=math.inf)
    error = attempt.send()
    assert "is not what was sent (model.safetensors)" in str(error)
    assert holds(hub, FILES)


def test_a_cut_off_copy_is_fetched_on(hub, attempt):
    hub.fail("GET", "/cdn/", cut_after=100)
    assert attempt.send() is None


def test_offline_mode_is_named(hub, attempt, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in str(attempt.send())


def test_a_hub_that_is_not_there_is_named(hub, attempt):
    hub.close()
    assert "cannot be reached" in str(attempt.send())


# Found by review


def test_the_same_pull_request_again_opens_no_second_one(hub, attempt):
    hub.add_repo("someone/cells", OLD)
    attempt.send(create_pr=True)
    first = attempt.done
    assert attempt.send(create_pr=True) is None
    assert (attempt.done.commit, attempt.done.address) == (first.commit, first.address) and not attempt.done.changed
    assert len(Hub().look(PLACE).pull_requests) == 1 and "nothing to change: a pull request" in attempt.told


def test_a_pull_request_that_may_still_arrive_is_not_asked_for_twice(hub, attempt):
    hub.add_repo("someone/cells", OLD)
    hub.fail(*STEPS["commit"], status=504, times=math.inf)
    assert "may still arrive" in str(attempt.send(create_pr=True))
    assert sum("/commit/" in request.path for request in hub.requests) == 1


def test_a_gitignore_on_the_hub_leaves_nothing_out(hub, attempt):
    hub.add_repo("someone/cells", OLD | {".gitignore": b"*.safetensors\n"})
    assert attempt.send() is None
    assert holds(hub, FILES)


@pytest.mark.parametrize("tag", ["", "main", "v 1", "-x", "refs/heads/x", "a" * 40, "v1..lock.lock", "v1."])
def test_a_tag_that_is_none_is_refused_at_once(tag):
    with pytest.raises(BlastlensError, match="cannot name a commit"):
        upload(tag=tag)


def test_a_tag_that_somebody_made_meanwhile_is_not_taken_for_ours(hub, attempt, monkeypatch):
    older = hub.add_repo("someone/cells", OLD)
    fetching = "publish.upload.fetched_back"

    def meanwhile(*arguments):
        Hub().api.create_tag("someone/cells", tag="v1", revision=older)
        return original(*arguments)

    from publish.upload import fetched_back as original

    monkeypatch.setattr(fetching, meanwhile)
    error = attempt.send(tag="v1")
    assert "give another --tag" in str(error) and "were checked" in str(error)
    assert hub.tags("someone/cells") == {"v1": older}


@pytest.fixture
def colleague(hub, monkeypatch):
    """Somebody else makes the repository just before we ask for it, and our answer is lost."""
    creating = Hub.create

    def after_the_colleague(self, place, private):
        hub.add_repo("someone/cells", {})
        return creating(self, place, private)

    monkeypatch.setattr(Hub, "create", after_the_colleague)
    hub.fail(*STEPS["creation"], status=500)


@pytest.mark.usefixtures("colleague")
def test_a_repository_that_somebody_else_may_have_made_is_never_deleted(hub, attempt):
    hub.fail(*STEPS["preupload"], status=403, times=math.inf)
    assert "perhaps somebody else's" in str(attempt.send())
    assert hub.exists("someone/cells")


@pytest.mark.usefixtures("colleague")
def test_what_was_to_be_private_never_goes_into_a_public_repository(hub, attempt):
    assert "was made public, against what was asked" in str(attempt.send(private=True))
    assert holds(hub, {})


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}], ids=str)
def test_a_space_whose_creation_is_not_answered_is_filled_all_the_same(hub, attempt, fault):
    hub.fail(*STEPS["creation"], after_effect=True, **fault)
    place = Place("someone/page", "space")
    readme = b"---\ntitle: page\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n"
    files = (File("README.md", readme), File("space.json", b"{}"))
    told: list[str] = []
    send(Hub(sleep=attempt.waited.append), Upload(place, files, "page", "space.json"), told.append)
    assert hub.files("someone/page", kind="space") == {"README.md": readme, "space.json": b"{}"}


def test_a_look_that_fails_after_the_creation_leaves_nothing_behind(hub, attempt, monkeypatch):
    looks = []
    looking = Hub.look

    def failing(self, place):
        looks.append(place)
        if len(looks) == 2:
            raise BlastlensError("Could not look.")
        return looking(self, place)

    monkeypatch.setattr(Hub, "look", failing)
    assert "Could not look." in str(attempt.send())
    assert not hub.exists("someone/cells")


def test_ctrl_c_right_after_the_creation_leaves_nothing_behind(hub, attempt, monkeypatch):
    creating = Hub.create

    def stopped(self, *arguments):
        creating(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(Hub, "create", stopped)
    with pytest.raises(KeyboardInterrupt) as caught:
        attempt.send()
    # Nobody knows any more whose it is, so it stays, and that is said.
    assert "There is an empty model someone/cells now" in " ".join(caught.value.__notes__)


def test_a_renamed_repository_is_named(hub, attempt, monkeypatch):
    from huggingface_hub import HfApi

    hub.add_repo("someone/renamed", OLD)
    asking = HfApi.repo_info
    monkeypatch.setattr(HfApi, "repo_info", lambda self, name, **options: asking(self, "someone/renamed", **options))
    assert "is called someone/renamed now" in str(attempt.send())


def test_every_answer_has_a_time_limit_even_after_the_client_made_a_new_session(hub):
    from huggingface_hub import close_session, get_session

    client = Hub()
    close_session()
    limits = []
    client.once("see", lambda: limits.append(get_session().timeout.read))
    client.once("see", lambda: limits.append(get_session().timeout.read), 600)
    assert limits == [60, 600]
