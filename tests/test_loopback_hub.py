"""The loopback Hub, asked by the real clients: what it keeps, what it refuses, and how it goes wrong when told to."""

import json
import math
import os
import subprocess
import sys
import time

import httpx2
import pytest
from helpers_hub import LoopbackHub, point_client_at
from helpers_hub_repos import Blob, check_card, matches
from helpers_models import blobs, shared_model_folder
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
    get_session,
    hf_hub_download,
    snapshot_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from PIL import Image

REPO = "owner/name"
SMALL = b'{"a": 1}'
LARGE = bytes(range(256)) * 40
CARD = "---\nlicense: apache-2.0\ntags: [leukemia]\npipeline_tag: image-classification\n---\n# A model\n"


@pytest.fixture
def api(hub):
    return HfApi(token=hub.token)


@pytest.fixture
def folder(tmp_path):
    """A card, a small file, a large one, and one in a folder."""
    files = {"README.md": CARD.encode(), "config.json": SMALL, "model.safetensors": LARGE, "onnx/model.onnx": LARGE[1:]}
    for name, content in files.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "folder"


def publish(api, folder, repo_id=REPO, **options):
    api.create_repo(repo_id, exist_ok=True)
    return api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Publish", **options)


def add(content, path="config.json"):
    return CommitOperationAdd(path, content)


def commit(api, *operations, repo_id=REPO, **options):
    return api.create_commit(repo_id, operations, commit_message="Change", **options)


def asked(hub, method, part=""):
    """Statuses of the requests that were answered, in order."""
    return [request.status for request in hub.requests if request.method == method and part in request.path]


def refusal(do):
    """The status and the words with which something is refused."""
    with pytest.raises(HfHubHTTPError) as refused:
        do()
    return refused.value.response.status_code, refused.value.server_message


# Publishing


def test_what_is_published_is_what_is_kept_and_what_is_downloaded(hub, api, folder):
    info = publish(api, folder)
    assert hub.files(REPO) == {path: (folder / path).read_bytes() for path in hub.files(REPO)}
    assert list(hub.files(REPO)) == ["README.md", "config.json", "model.safetensors", "onnx/model.onnx"]
    assert hub.commits(REPO)[0].oid == info.oid
    assert [c.message for c in hub.commits(REPO)] == ["Publish", "initial commit"]
    snapshot = snapshot_download(REPO)
    assert os.path.basename(snapshot) == info.oid
    for path, content in hub.files(REPO).items():
        with open(os.path.join(snapshot, path), "rb") as file:
            assert file.read() == content


def test_large_files_travel_apart_and_without_the_token(hub, api, folder):
    publish(api, folder)
    hf_hub_download(REPO, "model.safetensors", token=hub.token)
    apart = [request for request in hub.requests if request.storage]
    assert sorted((request.method, request.status) for request in apart) == [("GET", 200), ("PUT", 200), ("PUT", 200)]
    assert all(request.authorization is None for request in apart)
    assert {r.authorization for r in hub.requests if not r.storage} == {f"Bearer {hub.token}"}


def test_the_storage_refuses_a_token_and_content_that_is_not_what_its_name_says(hub):
    hub.add_repo(REPO, {"a.bin": LARGE})
    there = f"{hub.storage}/cdn/models/{REPO}/{Blob(LARGE).sha256}"
    assert get_session().get(there).content == LARGE
    assert get_session().get(there, headers={"Authorization": f"Bearer {hub.token}"}).status_code == 400
    assert get_session().get(there.replace("name", "other")).status_code == 404
    assert get_session().put(there.replace("cdn", "store"), content=LARGE[1:]).status_code == 400


def test_a_folder_published_twice_makes_no_second_commit_and_sends_no_content(hub, api, folder):
    first = publish(api, folder)
    hub.requests.clear()
    assert publish(api, folder).oid == first.oid
    assert len(hub.commits(REPO)) == 2
    assert asked(hub, "PUT") == asked(hub, "POST", "/commit/") == []


def test_content_the_storage_has_is_not_sent_again(hub, api):
    hub.add_repo(REPO, {"a.bin": LARGE})
    commit(api, add(LARGE, "b.bin"), CommitOperationDelete("a.bin"))
    assert hub.files(REPO) == {"b.bin": LARGE}
    assert asked(hub, "PUT") == []


def test_which_files_are_large_ones(hub, api):
    hub.add_repo(REPO)
    text, drawn, long = b"text", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"a" * 10_000_001
    files = {"a.json": text, "a.onnx": text, "a.png": drawn, "a.txt": long, "empty.bin": b""}
    commit(api, *(add(content, path) for path, content in files.items()))
    large = {sibling.rfilename for sibling in api.model_info(REPO, files_metadata=True).siblings if sibling.lfs}
    assert large == {"a.onnx", "a.png", "a.txt"}
    rules = hub.commits(REPO)[0].files[".gitattributes"].content.decode().splitlines()
    assert [rule.split()[0] for rule in rules[-2:]] == ["a.png", "a.txt"]  # as git must know them, too
    assert hub.files(REPO) == files


def test_ignored_files_stay_away(hub, api):
    hub.add_repo(REPO, {".gitignore": b"*.log\nscratch/\n"})
    commit(api, add(SMALL), add(b"x", "run.log"), add(b"x", "scratch/deep/a.txt"))
    assert set(hub.files(REPO)) == {".gitignore", "config.json"}


@pytest.mark.parametrize(
    ("path", "pattern", "fits"),
    [
        ("a/b.onnx", "*.onnx", True),
        ("b.onnx.txt", "*.onnx", False),
        ("saved_model/a/b", "saved_model/**/*", True),
        ("a/saved_model/b", "saved_model/**/*", False),
        ("a/b/c", "b/", True),
        ("ab/c", "b/", False),
        ("docs/a.md", "/docs", True),
    ],
)
def test_patterns(path, pattern, fits):
    assert matches(path, [pattern]) is fits


def test_names_of_blobs_are_those_that_git_gives():
    assert Blob(b"").oid == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert Blob(b"hello\n").oid == "ce013625030ba8dba906f756967f9e9ca394464a"
    large = Blob(b"hello\n", lfs=True)
    assert large.oid == Blob(large.pointer).oid != large.etag
    assert large.etag == "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"


# Committing


def test_files_and_folders_are_deleted(hub, api):
    hub.add_repo(REPO, {"a.txt": b"a", "b/c.txt": b"c", "b/d/e.txt": b"e", "bc.txt": b"f"})
    commit(api, CommitOperationDelete("a.txt"), CommitOperationDelete("b/"))
    assert hub.files(REPO) == {"bc.txt": b"f"}


@pytest.mark.parametrize("path", ["missing.txt", "missing/", "b", "a.txt/"])
def test_a_commit_is_made_whole_or_not_at_all(hub, api, path):
    before = hub.add_repo(REPO, {"a.txt": b"a", "b/c.txt": b"c"})
    with pytest.raises(EntryNotFoundError, match="with this name doesn't exist"):
        commit(api, add(SMALL), CommitOperationDelete(path))
    assert hub.commits(REPO)[0].oid == before
    assert set(hub.files(REPO)) == {"a.txt", "b/c.txt"}


def test_a_commit_on_something_older_than_the_head_is_refused(hub, api):
    seen = hub.add_repo(REPO, {"a.txt": b"a"})
    theirs = hub.commit(REPO, {"a.txt": b"b", "b.bin": LARGE})
    status, words = refusal(lambda: commit(api, add(SMALL), parent_commit=seen))
    assert (status, words) == (412, "A commit has happened since. Please refresh and try again.")
    assert hub.commits(REPO)[0].oid == theirs
    mine = commit(api, add(SMALL), parent_commit=theirs)
    assert [c.oid for c in hub.commits(REPO)][:3] == [mine.oid, theirs, seen]
    assert [c.parent for c in hub.commits(REPO)][:2] == [theirs, seen]
    hub.commit(REPO, {"a.txt": None})
    assert hub.files(REPO) == {"b.bin": LARGE, "config.json": SMALL}


@pytest.mark.parametrize(("oid", "size"), [("0" * 64, 3), (Blob(LARGE).sha256, 3)])
def test_a_large_file_that_was_not_sent_cannot_be_committed(hub, oid, size):
    before = hub.add_repo(REPO, {"a.bin": LARGE})
    lines = [
        {"key": "header", "value": {"summary": "Change"}},
        {"key": "lfsFile", "value": {"path": "b.bin", "algo": "sha256", "oid": oid, "size": size}},
    ]
    answer = get_session().post(
        f"{hub.address}/api/models/{REPO}/commit/main",
        content="\n".join(map(json.dumps, lines)),
        headers={"Authorization": f"Bearer {hub.token}"},
    )
    assert answer.status_code == 400
    assert "LFS pointer pointed to a file that does not exist" in answer.json()["error"]
    assert hub.commits(REPO)[0].oid == before


def test_a_pull_request_leaves_the_branch_alone(hub, api):
    before = hub.add_repo(REPO, {"config.json": b"{}"})
    info = commit(api, add(SMALL), add(LARGE, "a.bin"), create_pr=True)
    assert (info.pr_revision, info.pr_num, info.pr_url) == ("refs/pr/1", 1, f"{hub.address}/{REPO}/discussions/1")
    assert hub.commits(REPO)[0].oid == before
    assert hub.files(REPO, "refs/pr/1") == {"a.bin": LARGE, "config.json": SMALL}
    assert os.path.basename(snapshot_download(REPO, revision="refs/pr/1")) == info.oid
    assert [ref.ref for ref in api.list_repo_refs(REPO, include_pull_requests=True).pull_requests] == ["refs/pr/1"]
    commit(api, add(b"{2}"), revision="refs/pr/1")
    assert hub.files(REPO, "refs/pr/1")["config.json"] == b"{2}"
    assert commit(api, add(b"{3}"), create_pr=True).pr_num == 2


# References


def test_tags(hub, api):
    first = hub.add_repo(REPO, {"config.json": SMALL})
    api.create_tag(REPO, tag="v1.0", tag_message="The first")
    second = hub.commit(REPO, {"config.json": b"{}"})
    status, words = refusal(lambda: api.create_tag(REPO, tag="v1.0"))
    assert (status, words) == (409, "Tag reference exists already")
    api.create_tag(REPO, tag="v1.0", exist_ok=True)
    api.create_tag(REPO, tag="new/est", revision=second)
    assert hub.tags(REPO) == {"v1.0": first, "new/est": second}
    assert [tag.name for tag in api.list_repo_refs(REPO).tags] == ["v1.0", "new/est"]
    assert api.model_info(REPO, revision="v1.0").sha == first
    assert hf_hub_download(REPO, "config.json", revision="new/est").count(second) == 1
    api.delete_tag(REPO, tag="new/est")
    assert hub.tags(REPO) == {"v1.0": first}
    for do in (lambda: api.delete_tag(REPO, tag="v2"), lambda: api.create_tag(REPO, tag="v2", revision="missing")):
        with pytest.raises(RevisionNotFoundError):
            do()


def test_branches(hub, api):
    first = hub.add_repo(REPO, {"config.json": SMALL})
    api.create_branch(REPO, branch="next")
    commit(api, add(b"{}"), revision="next")
    assert (hub.files(REPO), hub.files(REPO, "next")) == ({"config.json": SMALL}, {"config.json": b"{}"})
    assert refusal(lambda: api.create_branch(REPO, branch="next"))[0] == 409
    api.create_branch(REPO, branch="old", revision=first[:10])
    assert {b.name: b.target_commit for b in api.list_repo_refs(REPO).branches}["old"] == first
    api.delete_branch(REPO, branch="old")
    assert refusal(lambda: api.delete_branch(REPO, branch="main"))[0] == 403
    for revision in ("old", first):
        with pytest.raises(RevisionNotFoundError):
            commit(api, add(b"{}"), revision=revision)


# Looking


def test_info_and_history(hub, api):
    head = hub.add_repo(REPO, {"README.md": CARD.encode(), "a.bin": LARGE}, message="Both")
    info = api.model_info(REPO, files_metadata=True)
    assert (info.id, info.sha, info.private, info.gated) == (REPO, head, False, False)
    assert (info.pipeline_tag, info.tags, info.card_data.license) == (
        "image-classification",
        ["leukemia"],
        "apache-2.0",
    )
    by_name = {sibling.rfilename: sibling for sibling in info.siblings}
    assert (by_name["a.bin"].size, by_name["a.bin"].lfs.sha256) == (len(LARGE), Blob(LARGE).sha256)
    assert by_name["README.md"].blob_id == Blob(CARD.encode()).oid
    assert [c.title for c in api.list_repo_commits(REPO)] == ["Both", "initial commit"]
    assert api.model_info(REPO).siblings[0].size is None


def test_trees_and_paths(hub, api):
    hub.add_repo(REPO, {"a.txt": b"a", "b/c.txt": b"c", "b/d/e.bin": LARGE}, message="All")
    hub.commit(REPO, {"a.txt": b"changed"}, message="One")
    assert api.list_repo_files(REPO) == [".gitattributes", "a.txt", "b/c.txt", "b/d/e.bin"]
    assert [entry.path for entry in api.list_repo_tree(REPO)] == [".gitattributes", "a.txt", "b"]
    below = list(api.list_repo_tree(REPO, "b", recursive=True, expand=True))
    assert [entry.path for entry in below] == ["b/c.txt", "b/d", "b/d/e.bin"]
    assert {entry.last_commit.title for entry in below} == {"All"}
    assert below[2].lfs.sha256 == Blob(LARGE).sha256
    known = api.get_paths_info(REPO, ["a.txt", "b/d", "missing"], expand=True)
    assert [(entry.path, entry.last_commit.title) for entry in known] == [("a.txt", "One"), ("b/d", "All")]
    with pytest.raises(EntryNotFoundError):
        list(api.list_repo_tree(REPO, "missing"))
    assert (api.file_exists(REPO, "a.txt"), api.file_exists(REPO, "missing")) == (True, False)


def test_a_part_of_a_file(hub):
    hub.add_repo(REPO, {"config.json": SMALL, "a.bin": LARGE})
    for path, content in (("config.json", SMALL), ("a.bin", LARGE)):
        where = f"{hub.address}/{REPO}/resolve/main/{path}"
        for asked_for, part in (("2-4", content[2:5]), ("3-", content[3:]), ("-2", content[-2:]), ("0-99999", content)):
            answer = get_session().get(where, headers={"Range": f"bytes={asked_for}"})
            assert (answer.status_code, answer.content) == (206, part)
        assert get_session().get(where, headers={"Range": "bytes=99999-"}).status_code == 416


def test_a_file_that_is_not_there_is_remembered_as_such(hub):
    hub.add_repo(REPO, {"config.json": SMALL})
    with pytest.raises(EntryNotFoundError):
        hf_hub_download(REPO, "missing.json")
    assert try_to_load_from_cache(REPO, "missing.json") is not None


# Who may do what


def test_what_is_not_there(hub, api):
    hub.add_repo(REPO, {"config.json": SMALL})
    with pytest.raises(RevisionNotFoundError):
        hf_hub_download(REPO, "config.json", revision="missing")
    with pytest.raises(RevisionNotFoundError):
        snapshot_download(REPO, revision="0" * 40)
    for token, status in ((None, 401), (hub.token, 404)):
        for do in (api.model_info, lambda repo_id, token: hf_hub_download(repo_id, "config.json", token=token)):
            with pytest.raises(RepositoryNotFoundError) as missing:
                do("owner/missing", token=token or False)
            assert missing.value.response.status_code == status
    with pytest.raises(RepositoryNotFoundError):
        commit(api, add(SMALL), repo_id="owner/missing")
    assert get_session().get(f"{hub.address}/api/nothing").status_code == 404


def test_private_repositories_are_not_there_for_others(hub, api):
    api.create_repo(REPO, private=True)
    commit(api, add(SMALL))
    assert hub.is_private(REPO)
    for token, status in ((False, 401), (hub.stranger_token, 404)):
        with pytest.raises(RepositoryNotFoundError) as missing:
            hf_hub_download(REPO, "config.json", token=token)
        assert missing.value.response.status_code == status
    for token in (hub.token, hub.read_token):
        assert hf_hub_download(REPO, "config.json", token=token, force_download=True)
    api.update_repo_settings(REPO, private=False)
    assert not hub.is_private(REPO)
    assert api.model_info(REPO, token=False).private is False


def test_gated_repositories_show_their_page_and_keep_their_files(hub, api):
    hub.add_repo(REPO, {"config.json": SMALL}, gated=True)
    for token, status in ((False, 401), (hub.stranger_token, 403)):
        assert api.model_info(REPO, token=token).gated == "manual"
        with pytest.raises(GatedRepoError) as closed:
            hf_hub_download(REPO, "config.json", token=token)
        assert closed.value.response.status_code == status
        with pytest.raises(GatedRepoError):
            api.auth_check(REPO, token=token)
    assert hf_hub_download(REPO, "config.json", token=hub.token)


def test_tokens(hub, api):
    hub.add_repo(REPO, {"config.json": SMALL})
    assert [api.whoami(token)["name"] for token in (hub.token, hub.stranger_token)] == ["owner", "stranger"]
    assert api.whoami(hub.read_token)["auth"]["accessToken"]["role"] == "read"
    bad = "hf_" + "x" * 34
    for do in (
        lambda: api.model_info(REPO, token=bad),  # even where no token is needed
        lambda: api.create_repo("owner/new", token=bad),
        lambda: commit(api, add(b"{}"), token=bad),
    ):
        assert refusal(do) == (401, "Invalid credentials in Authorization header")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        api.whoami(bad)


@pytest.mark.parametrize(
    ("who", "status"), [("nobody", 401), ("read_token", 403), ("stranger_token", 403)], ids=["none", "read", "stranger"]
)
def test_who_may_not_write_changes_nothing(hub, api, who, status):
    before = hub.add_repo(REPO, {"config.json": SMALL})
    token = getattr(hub, who, False)
    for do in (
        lambda: api.create_repo("owner/new", token=token),
        lambda: commit(api, add(b"{}"), token=token),
        lambda: commit(api, add(LARGE, "a.bin"), token=token),
        lambda: commit(api, CommitOperationDelete("config.json"), token=token),
        lambda: api.create_tag(REPO, tag="v1", token=token),
        lambda: api.create_branch(REPO, branch="next", token=token),
        lambda: api.delete_repo(REPO, token=token),
        lambda: api.create_collection("Mine", namespace="owner", token=token),
        lambda: api.auth_check(REPO, write=True, token=token),
    ):
        assert refusal(do)[0] == status
    assert (hub.commits(REPO)[0].oid, hub.tags(REPO), hub.collections) == (before, {}, {})
    assert not hub.exists("owner/new")


def test_a_stranger_may_open_a_pull_request(hub, api):
    hub.add_repo(REPO, {"config.json": SMALL})
    info = commit(api, add(LARGE, "a.bin"), token=hub.stranger_token, create_pr=True)
    assert set(hub.files(REPO, info.pr_revision)) == {"a.bin", "config.json"}
    assert set(hub.files(REPO)) == {"config.json"}


# Repositories and collections


def test_repositories_are_created_once_and_deleted(hub, api):
    assert api.create_repo(REPO) == f"{hub.address}/{REPO}"
    assert refusal(lambda: api.create_repo(REPO)) == (409, "You already created this model repo")
    assert api.create_repo(REPO, exist_ok=True).repo_id == REPO
    assert [c.message for c in hub.commits(REPO)] == ["initial commit"]
    assert hub.files(REPO) == {}
    api.delete_repo(REPO)
    assert not hub.exists(REPO)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO)
    assert api.create_repo("bare").repo_id == "owner/bare"


def test_kinds_of_repositories_are_apart(hub, api):
    space = "---\ntitle: A space\nsdk: gradio\nshort_description: A page\n---\n"
    for kind, content in (("model", CARD), ("dataset", "---\nlicense: mit\n---\n"), ("space", space)):
        api.create_repo(REPO, repo_type=kind, space_sdk="gradio" if kind == "space" else None)
        commit(api, add(content.encode(), "README.md"), add(LARGE, "a.bin"), repo_type=kind)
        assert hub.files(REPO, kind=kind) == {"README.md": content.encode(), "a.bin": LARGE}
        assert api.repo_info(REPO, repo_type=kind).sha == hub.commits(REPO, kind=kind)[0].oid
        with open(hf_hub_download(REPO, "a.bin", repo_type=kind), "rb") as file:
            assert file.read() == LARGE
    assert api.space_info(REPO).sdk == "gradio"
    api.delete_repo(REPO, repo_type="dataset")
    assert [hub.exists(REPO, kind) for kind in ("model", "dataset", "space")] == [True, False, True]


def test_a_new_space_has_a_page_of_its_own(hub, api):
    api.create_repo(REPO, repo_type="space", space_sdk="gradio")
    assert list(hub.files(REPO, kind="space")) == ["README.md"]
    assert api.space_info(REPO).card_data.sdk == "gradio"


def test_collections(hub, api):
    hub.add_repo(REPO)
    made = api.create_collection("Models & more", description="All")
    assert made.slug.startswith("owner/models-more-")
    assert refusal(lambda: api.create_collection("Models & more"))[0] == 409
    assert api.create_collection("Models & more", exists_ok=True).slug == made.slug
    filled = api.add_collection_item(made.slug, REPO, "model", note="The first")
    assert [(item.item_id, item.item_type, item.note) for item in filled.items] == [(REPO, "model", "The first")]
    assert refusal(lambda: api.add_collection_item(made.slug, REPO, "model"))[0] == 409
    assert refusal(lambda: api.add_collection_item(made.slug, REPO, "space"))[0] == 404
    assert len(api.add_collection_item(made.slug, REPO, "model", exists_ok=True).items) == 1
    api.update_collection_metadata(made.slug, title="Models")
    assert [(c.title, c.description, len(c.items)) for c in hub.collections.values()] == [("Models", "All", 1)]
    assert [c.slug for c in api.list_collections(owner="owner")] == [made.slug]
    assert list(api.list_collections(owner="stranger")) == []
    api.delete_collection_item(made.slug, filled.items[0].item_object_id)
    assert api.get_collection(made.slug).items == []
    api.update_collection_metadata(made.slug, private=True)
    assert list(api.list_collections(owner="owner", token=False)) == []
    assert refusal(lambda: api.get_collection(made.slug, token=hub.stranger_token))[0] == 404
    api.delete_collection(made.slug)
    assert refusal(lambda: api.get_collection(made.slug))[0] == 404


# Cards


def test_a_card_the_hub_would_refuse_is_refused_before_anything_is_sent(hub, api, folder):
    (folder / "README.md").write_text("---\nlicense: my own\n---\n")
    with pytest.raises(ValueError, match='"license" with value "my own"'):
        publish(api, folder)
    assert [c.message for c in hub.commits(REPO)] == ["initial commit"]
    assert asked(hub, "PUT") == []
    (folder / "README.md").write_text("no metadata")
    with pytest.warns(UserWarning, match="empty or missing yaml metadata"):
        publish(api, folder)


@pytest.mark.parametrize(
    ("metadata", "kind", "error"),
    [
        ("license: [mit, other]\nlicense_link: LICENSE\ndatasets: [a/b]\nbase_model: a/b\nlanguage: en", "model", None),
        ("license: [", "model", "bad YAML"),
        ("- a", "model", "no mapping"),
        ("license: MIT", "model", '"license"'),
        ("license_link: mine", "model", '"license_link"'),
        ("datasets: [C-NMC 2019]", "model", '"datasets"'),
        ("datasets: [null]", "model", '"datasets"'),
        ("base_model: a/b/c", "model", '"base_model"'),
        ("language: English", "model", '"language"'),
        ("tags: [1]", "model", '"tags"'),
        ("model-index: none", "model", '"model-index" must be an array'),
        ("model-index: [none]", "model", '"model-index[0]" must be of type object'),
        ("model-index: [{results: []}]", "model", '"model-index[0].name" is required'),
        (
            "model-index: [{name: a, results: [{task: {type: t}, dataset: {name: d}, metrics: []}]}]",
            "model",
            '"model-index[0].results[0].dataset.type" is required',
        ),
        (
            "model-index: [{name: a, results: [{task: {type: t}, dataset: {name: d, type: a b}, metrics: []}]}]",
            "model",
            "required pattern",
        ),
        (
            "model-index: [{name: a, results: "
            "[{task: {type: t}, dataset: {name: d, type: d}, metrics: [{type: f1, value: null}]}]}]",
            "model",
            '"model-index[0].results[0].metrics[0].value" is required',
        ),
        ("title: a\nsdk: gradio\ncolorFrom: red\npreload_from_hub: [a/b]", "space", None),
        ("title: a", "space", '"sdk"'),
        ("sdk: gradio\ncolorTo: white", "space", '"colorTo"'),
        ("sdk: gradio\nshort_description: " + "x" * 61, "space", '"short_description"'),
        ("sdk: gradio\npreload_from_hub: a/b", "space", '"preload_from_hub"'),
    ],
)
def test_what_a_card_may_say(metadata, kind, error):
    errors, warnings = check_card(f"---\n{metadata}\n---\nText\n", kind)
    assert warnings == []
    assert errors == [] if error is None else error in "; ".join(errors)


# Faults


def test_the_client_tries_again_after_errors_that_pass(hub, api, folder):
    hub.fail("POST", "/preupload/", status=503, times=2)
    hub.fail("PUT", "/store/", status=500)
    hub.fail("POST", "/batch", drop=True)
    publish(api, folder)
    assert asked(hub, "POST", "/preupload/") == [503, 503, 200]
    assert asked(hub, "POST", "/batch") == [None, 200]
    assert sorted(asked(hub, "PUT")) == [200, 200, 500]
    assert len(hub.files(REPO)) == 4


@pytest.mark.parametrize(("fault", "after"), [({"status": 500}, 0), ({"status": 500, "after_effect": True}, 1)])
def test_a_commit_that_fails_was_made_or_not_as_asked(hub, api, fault, after):
    hub.add_repo(REPO)
    hub.fail("POST", "/commit/", body=b"out of order", headers={"X-Request-Id": "7"}, **fault)
    assert refusal(lambda: commit(api, add(SMALL))) == (500, "out of order")
    assert len(hub.commits(REPO)) == 1 + after


@pytest.mark.parametrize("after_effect", [False, True])
def test_a_connection_that_is_dropped(hub, api, after_effect):
    hub.fail("POST", "/repos/create", drop=True, after_effect=after_effect)
    with pytest.raises(httpx2.RemoteProtocolError, match="disconnected"):
        api.create_repo(REPO)
    assert hub.exists(REPO) is after_effect
    assert hub.requests[-1].status is None


def test_an_upload_that_breaks_off_leaves_nothing_and_goes_on_later(hub, api, folder):
    hub.fail("PUT", Blob(LARGE[1:]).sha256, drop=True, times=math.inf)
    with pytest.raises(RuntimeError, match=r"Error while uploading 'onnx/model.onnx'"):
        publish(api, folder)
    assert hub.files(REPO) == {}
    hub.mend()
    hub.requests.clear()
    publish(api, folder)
    assert asked(hub, "PUT") == [200]  # the other one had arrived
    assert len(hub.files(REPO)) == 4


def test_a_download_that_breaks_off_is_begun_again(hub):
    hub.add_repo(REPO, {"a.bin": LARGE})
    hub.fail("GET", "/cdn/", cut_after=1000)
    with open(hf_hub_download(REPO, "a.bin"), "rb") as file:
        assert file.read() == LARGE
    assert asked(hub, "GET", "/cdn/") == [200, 200]


def test_a_download_that_never_comes_fails_and_leaves_nothing(hub, tmp_path):
    hub.add_repo(REPO, {"a.bin": LARGE})
    hub.fail("GET", "/cdn/", cut_after=0, times=math.inf)
    with pytest.raises(httpx2.RemoteProtocolError, match="peer closed connection"):
        hf_hub_download(REPO, "a.bin")
    assert len(asked(hub, "GET", "/cdn/")) == 6
    assert not list(tmp_path.glob("huggingface/hub/*/blobs/*"))


def test_a_download_that_is_too_short_is_noticed(hub):
    hub.add_repo(REPO, {"a.bin": LARGE, "config.json": SMALL})
    for path in ("a.bin", "config.json"):
        hub.fail("GET", "/cdn/|config", shorten_to=5)
        with pytest.raises(OSError, match="Consistency check failed"):
            hf_hub_download(REPO, path)
        assert hf_hub_download(REPO, path)


@pytest.mark.parametrize("path", ["a.bin", "config.json"])
def test_a_download_that_is_damaged_keeps_its_length(hub, path):
    hub.add_repo(REPO, {"a.bin": LARGE, "config.json": SMALL})
    hub.fail("GET", "/cdn/|config", corrupt=True)
    with open(hf_hub_download(REPO, path), "rb") as file:
        got = file.read()
    pairs = list(zip(got, hub.files(REPO)[path], strict=True))
    assert [one ^ other for one, other in pairs if one != other] == [1]


def test_an_answer_that_takes_its_time(hub, api):
    hub.add_repo(REPO, {"config.json": SMALL})
    hub.fail("GET", "/api/models/", delay=0.2)
    start = time.monotonic()
    assert api.model_info(REPO).id == REPO
    assert time.monotonic() - start >= 0.2
    hub.fail("GET", "/api/models/", delay=60)
    with pytest.raises(httpx2.ReadTimeout):
        api.model_info(REPO, timeout=0.1)


def test_faults_are_used_up_in_their_order_and_can_be_mended(hub, api):
    hub.add_repo(REPO)
    hub.fail("GET", "/api/models/", status=418)
    hub.fail("GET", "/api/", status=410, times=math.inf)
    assert [refusal(lambda: api.model_info(REPO))[0] for _ in range(3)] == [418, 410, 410]
    assert refusal(lambda: commit(api, CommitOperationDelete("missing")))[0] == 404  # another method
    hub.mend()
    assert api.model_info(REPO).id == REPO


def test_when_the_hub_is_gone_the_cache_is_all_there_is(hub):
    hub.add_repo(REPO, {"config.json": SMALL, "other.json": SMALL})
    cached = hf_hub_download(REPO, "config.json")
    hub.close()
    assert hf_hub_download(REPO, "config.json") == cached
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(REPO, "other.json")


def test_a_mistake_of_the_loopback_hub_itself_does_not_pass_as_a_fault(tmp_path):
    with pytest.raises(json.JSONDecodeError), LoopbackHub() as hub, point_client_at(hub, tmp_path):
        said = {"Authorization": f"Bearer {hub.token}"}
        assert get_session().post(f"{hub.address}/api/repos/create", content=b"{", headers=said).status_code == 500


# Other clients


def test_timm_loads_a_folder_by_its_name_on_the_hub(hub):
    import timm
    from safetensors.torch import load_file

    hub.add_folder(REPO, shared_model_folder("cell"))
    ours = load_file(shared_model_folder("cell") / "model.safetensors")
    theirs = timm.create_model(f"hf-hub:{REPO}", pretrained=True).state_dict()
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name]).all() for name in ours)


BY_NAME = """
import json, sys
import timm, transformers
image, *models = sys.argv[1:]
for model in models:
    answers = transformers.pipeline("image-classification", model=model)(image)
    print(json.dumps({answer["label"]: answer["score"] for answer in answers}))
"""


@pytest.mark.slow
def test_a_pipeline_of_another_process_loads_a_private_folder_by_its_name(hub, tmp_path):
    folder = shared_model_folder("cell")
    hub.add_folder(REPO, folder, private=True)
    Image.fromarray(blobs(1)).save(tmp_path / "blob.png")
    done = subprocess.run(
        [sys.executable, "-c", BY_NAME, str(tmp_path / "blob.png"), REPO, str(folder)],
        env=hub.environment(tmp_path / "home", hub.read_token),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    by_name, by_folder = map(json.loads, done.stdout.splitlines())
    assert by_name == by_folder
    assert set(by_name) == {"ALL", "HEM"}
    assert set(asked(hub, "GET")) == {200}
    assert list((tmp_path / "home").glob("hub/models--owner--name/snapshots/*/model.safetensors"))
    assert hub.read_token not in done.stdout + done.stderr


def test_another_process_gets_nothing_of_this_ones_own_settings(hub, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "ours")
    environment = hub.environment(tmp_path)
    assert "ours" not in environment.values()
    assert (environment["HF_ENDPOINT"], environment["HF_HUB_OFFLINE"]) == (hub.address, "0")
    assert environment["PATH"] == os.environ["PATH"]
    assert hub.environment(tmp_path, hub.token)["HF_TOKEN"] == hub.token


def test_the_client_is_turned_back_afterwards(tmp_path):
    before = {name: getattr(constants, name) for name in dir(constants) if name.isupper()}
    with LoopbackHub() as hub, point_client_at(hub, tmp_path):
        hub.add_repo(REPO, {"config.json": SMALL})
        assert hf_hub_download(REPO, "config.json").startswith(str(tmp_path))
        assert {name: getattr(constants, name) for name in before} != before
    assert {name: getattr(constants, name) for name in before} == before
