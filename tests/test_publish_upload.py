"""Publishing: one commit or none, verified; the repository is in a known state after every failure; no token leaks."""

import logging
import math
import subprocess
import traceback

import pytest
from huggingface_hub import HfApi

from blastlens.errors import BlastlensError
from publish import hub_client
from publish.hub_client import Hub
from publish.upload import Upload, changes_of, publish

REPO = "owner/cells"
FILES = {"metrics.json": b"{}", "README.md": b"# card\n", "model.safetensors": b"weights" * 999}
OLD = FILES | {"model.safetensors": b"older weights" * 99, "pytorch_model.bin": b"stale"}


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(hub_client, "WAITS_S", (0, 0))


@pytest.fixture
def attempt(hub, monkeypatch, caplog):
    """A function that publishes; gives the commit, the log and the error. A token in any of it fails the test."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    caplog.set_level(logging.DEBUG)
    logging.getLogger("huggingface_hub").propagate = True

    def run(repo_type="model", token=hub.token, **options):
        monkeypatch.setenv("HF_TOKEN", token)
        log, commit, error = [], None, None
        try:
            commit = publish(Hub(log.append), Upload(REPO, FILES, "as measured", "metrics.json", repo_type, **options))
        except BlastlensError as failure:
            error = failure
        shown = "".join(traceback.format_exception(error)) + repr(error) if error else ""
        assert token not in "\n".join([*log, shown, caplog.text])
        chained = error
        while chained is not None:  # the client's exceptions hold the request
            assert isinstance(chained, BlastlensError)
            chained = chained.__cause__ or chained.__context__
        return commit, "\n".join(log), str(error or "")

    return run


def test_changes_are_what_makes_the_repository_hold_exactly_the_files(tmp_path):
    files = {"new": b"1", "changed": b"2", "same": b'{"label_names": ["ALL", "HEM"]}\n'}
    (tmp_path / "same").write_bytes(files["same"])
    command = ["git", "hash-object", tmp_path / "same"]
    git = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    remote = {"changed": "0" * 40, "same": git, "gone.bin": "0" * 64, ".gitattributes": "0" * 40}
    assert changes_of(files, remote) == {"new": "+", "changed": "~", "gone.bin": "-"}
    assert changes_of({}, {".gitattributes": "0" * 40}) == {}


def test_a_new_repository_holds_exactly_the_files_in_one_commit(hub, attempt):
    commit, log, error = attempt(tag="v1.0")
    assert not error and hub.files(REPO) == FILES
    newest, _ = hub.commits(REPO)
    assert newest.message == "as measured" and commit == newest.oid == hub.tags(REPO)["v1.0"]
    assert "owner/cells: new, public" in log and "+ metrics.json  2 B" in log and "+ model.safetensors  7 kB" in log
    assert log.index("identical byte by byte") < log.index("tagged v1.0")


def test_publishing_again_makes_no_commit_and_can_add_a_tag(hub, attempt):
    attempt()
    before = hub.commits(REPO)
    for _ in range(2):
        _, log, error = attempt(tag="v1.0")
        assert not error and "no new commit" in log and hub.commits(REPO) == before
    assert hub.tags(REPO) == {"v1.0": before[0].oid}


def test_files_that_are_gone_are_deleted_in_the_same_commit(hub, attempt):
    hub.add_repo(REPO, OLD)
    before = len(hub.commits(REPO))
    _, log, error = attempt()
    assert not error and hub.files(REPO) == FILES and len(hub.commits(REPO)) == before + 1
    assert "- pytorch_model.bin" in log and "~ model.safetensors" in log


def test_a_dry_run_only_reads(hub, attempt):
    hub.add_repo(REPO, OLD)
    commit, log, _ = attempt(dry_run=True)
    assert commit is None and hub.files(REPO) == OLD and {one.method for one in hub.requests} <= {"GET", "HEAD"}
    assert "- pytorch_model.bin" in log and log.endswith("dry run: nothing was changed")


def test_a_dry_run_without_a_network_lists_all_files(hub, attempt, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    commit, log, error = attempt(dry_run=True)
    assert commit is None and not error and not hub.requests
    assert "What the repository holds is unknown" in log and all(f"+ {name}" in log for name in FILES)
    assert attempt()[2]  # without --dry-run it is an error


def test_a_gitignore_on_the_hub_leaves_nothing_out(hub, attempt):
    hub.add_repo(REPO, OLD | {".gitignore": b"*.safetensors\n"})
    assert not attempt()[2] and hub.files(REPO) == FILES


def test_a_space_is_filled_after_the_template_of_the_hub(hub, attempt):
    assert not attempt("space", space_sdk="gradio")[2]
    assert hub.files(REPO, kind="space") == FILES


# Refused before anything changes


@pytest.mark.parametrize(
    "existing, options, message",
    [
        ({"config.json": b"{}"}, {}, "holds something else (it has no metrics.json)"),
        (OLD, {"owned": frozenset(FILES)}, "do not belong to this (pytorch_model.bin)"),
        (FILES, {"private": True}, "is public; leave --private out"),
    ],
)
def test_a_repository_that_does_not_fit_stays_as_it_is(hub, attempt, existing, options, message):
    hub.add_repo(REPO, existing)
    assert message in attempt(**options)[2]
    assert hub.files(REPO) == existing


def test_overwrite_replaces_the_content_of_others(hub, attempt):
    hub.add_repo(REPO, {"config.json": b"{}"})
    assert not attempt(overwrite=True)[2] and hub.files(REPO) == FILES


def test_a_private_repository_is_created_private(hub, attempt):
    assert "new, private" in attempt(private=True)[1] and Hub().read(REPO).private


def test_a_tag_never_moves(hub, attempt):
    attempt(tag="v1.0")
    hub.commit(REPO, {"metrics.json": b"other"})
    assert "give a new tag" in attempt(tag="v1.0")[2]
    assert hub.files(REPO)["metrics.json"] == b"other"


@pytest.mark.parametrize("name", ["cells", "a/b/c", "some one/cells", "../cells"])
def test_an_invalid_name_is_refused(name):
    with pytest.raises(BlastlensError, match="owner/name is expected"):
        Upload(name, {}, "", "")


@pytest.mark.parametrize("tag", ["", "main", "v 1", "-x", "refs/heads/x", "a" * 40, "v1."])
def test_an_invalid_tag_is_refused(tag):
    with pytest.raises(BlastlensError, match="cannot be a tag"):
        Upload(REPO, {}, "", "", tag=tag)


def test_without_a_token_the_message_says_how_to_log_in(hub):
    with pytest.raises(BlastlensError, match="hf auth login"):
        Hub().user()


@pytest.mark.parametrize("token, message", [("hf_" + "x" * 34, "accept the token"), ("read", "no write access")])
def test_a_token_without_access_changes_nothing(hub, attempt, token, message):
    assert message in attempt(token=hub.read_token if token == "read" else token)[2]
    assert not hub.exists(REPO)


# Failures of the Hub and of the network

STEPS = {
    "create": ("POST", "/api/repos/create"),
    "preupload": ("POST", "/preupload/"),
    "batch": ("POST", "/info/lfs/objects/batch"),
    "upload": ("PUT", "."),
    "commit": ("POST", "/api/models/owner/cells/commit/"),
}


@pytest.mark.parametrize("fault", [{"status": 403}, {"status": 503}, {"drop": True}], ids=str)
@pytest.mark.parametrize(
    "step, existing", [(step, there) for step in STEPS for there in (False, True) if not (step == "create" and there)]
)
def test_a_failed_step_changes_nothing_and_the_same_command_finishes_later(hub, attempt, step, existing, fault):
    if existing:
        hub.add_repo(REPO, OLD)
    before = hub.commits(REPO) if existing else []
    hub.fail(*STEPS[step], times=math.inf, body=f'{{"error": "no {hub.token}"}}'.encode(), **fault)
    error = attempt()[2]
    assert error.startswith("Could not ")
    if existing:
        assert hub.commits(REPO) == before and "unchanged so far" in error
    else:
        assert not hub.exists(REPO) and (step == "create" or "There is no model owner/cells now" in error)
    hub.mend()
    assert not attempt()[2] and hub.files(REPO) == FILES


@pytest.mark.parametrize("fault", [{"status": 500}, {"drop": True}], ids=str)
@pytest.mark.parametrize("step", ["create", "commit"])
def test_a_request_whose_answer_is_lost_counts_and_is_not_made_twice(hub, attempt, step, fault):
    hub.fail(*STEPS[step], after_effect=True, **fault)
    commit, _, error = attempt()
    assert not error and hub.files(REPO) == FILES
    newest, first = hub.commits(REPO)
    assert newest.oid == commit and first.parent is None


def test_a_commit_of_another_user_meanwhile_is_never_overwritten(hub, attempt, monkeypatch):
    hub.add_repo(REPO, OLD)
    preupload = HfApi.preupload_lfs_files

    def raced(*arguments, **options):
        if hub.files(REPO) == OLD:
            hub.commit(REPO, {"metrics.json": b"theirs"})
        return preupload(*arguments, **options)

    monkeypatch.setattr(HfApi, "preupload_lfs_files", raced)
    assert "was changed by another commit meanwhile" in attempt()[2]
    assert hub.files(REPO) == OLD | {"metrics.json": b"theirs"}


def test_a_repository_of_another_user_is_neither_filled_nor_deleted(hub, attempt, monkeypatch):
    create = HfApi.create_repo

    def raced(*arguments, **options):
        result = create(*arguments, **options)
        hub.commit(REPO, {"theirs.txt": b"1"})
        return result

    monkeypatch.setattr(HfApi, "create_repo", raced)
    assert "holds something else" in attempt()[2]
    assert hub.files(REPO) == {"theirs.txt": b"1"}


def test_a_repository_that_this_token_may_not_see_is_named(hub, attempt):
    hub.fail(*STEPS["create"], status=409)
    assert "exists, but this token may not see it" in attempt()[2]


def test_without_the_hub_after_the_commit_the_state_is_said_to_be_unknown(hub, attempt, monkeypatch):
    hub.add_repo(REPO, OLD)

    def then_gone(*arguments, **options):
        hub.fail(".*", ".", drop=True, times=math.inf)
        return create_commit(*arguments, **options)

    create_commit = HfApi.create_commit
    monkeypatch.setattr(HfApi, "create_commit", then_gone)
    assert "Whether it was committed is unknown: look at" in attempt()[2]


def test_a_new_repository_that_cannot_be_removed_is_named(hub, attempt):
    hub.fail(*STEPS["preupload"], status=403, times=math.inf)
    hub.fail("DELETE", "/api/repos/delete", status=403, times=math.inf)
    assert "may be left" in attempt()[2]
    hub.mend()
    assert not attempt()[2] and hub.files(REPO) == FILES


def test_an_interrupted_upload_leaves_no_new_repository(hub, attempt, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(HfApi, "preupload_lfs_files", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert not hub.exists(REPO)


def test_a_tag_that_fails_is_added_by_the_same_command(hub, attempt):
    hub.fail("POST", "/tag/", status=500, times=math.inf)
    assert "only the tag v1.0 is missing" in attempt(tag="v1.0")[2] and hub.files(REPO) == FILES
    hub.mend()
    assert not attempt(tag="v1.0")[2] and hub.tags(REPO) == {"v1.0": hub.commits(REPO)[0].oid}


def test_a_damaged_download_is_noticed(hub, attempt):
    hub.fail("GET", "/cdn/", corrupt=True, times=math.inf)
    assert "differs from what was sent (model.safetensors)" in attempt(tag="v1.0")[2]
    assert hub.tags(REPO) == {}


def test_a_hub_that_is_offline_or_away_is_named(hub, attempt, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE" in attempt()[2]
    hub.close()
    assert "cannot be reached" in attempt()[2]


def test_a_renamed_repository_is_named(hub, attempt, monkeypatch):
    hub.add_repo("owner/renamed", OLD)
    repo_info = HfApi.repo_info
    monkeypatch.setattr(HfApi, "repo_info", lambda self, name, **options: repo_info(self, "owner/renamed", **options))
    assert "is called owner/renamed now" in attempt()[2]


def test_a_password_in_the_address_of_the_hub_is_not_shown(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://me:s3cret@127.0.0.1:1")
    assert Hub().endpoint == "http://127.0.0.1:1"
