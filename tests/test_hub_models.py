"""Models from the Hub, by the real client from a Hub on the loopback: what is asked for, kept, checked and refused."""

import json
import logging
import math
import os
import resource
import shutil
import stat
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_models import blobs, config_json, shared_model_folder
from huggingface_hub import constants, hf_hub_download, scan_cache_dir, snapshot_download
from PIL import Image

from blastlens import Classifier
from blastlens import hub as fetching
from blastlens.__main__ import main
from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder, fetch

ROOT = Path(__file__).resolve().parents[1]
REPO = "somebody/a-model"
JSON = ["config.json", "preprocessor_config.json", "metrics.json"]
ONNX = ["onnx/model_int8.onnx", "onnx/model.onnx"]
# Beside a model folder's own: what a repository may hold and nobody who serves it may ask for.
OTHERS = {
    "README.md": b"# A card",
    "modeling_somebody.py": b"raise SystemExit('run')",
    "pytorch_model.bin": b"a pickle",
    "training_args.bin": b"another",
    "onnx/model_fp16.onnx": b"not read",
    "tokenizer.json": b"{}",
}


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSES_S", (0, 0))


@pytest.fixture
def log_in(monkeypatch):
    """A function that makes this process send a token."""
    return lambda token: monkeypatch.setenv("HF_TOKEN", token)


@pytest.fixture
def refused(hub, caplog, monkeypatch):
    """A function that calls `fetch` and returns the sentence it is refused with; in no place is there a token.

    Places: the sentence, the chain of exceptions, their tracebacks with the value of every local variable, and what
    anything logs at its most talkative.
    """
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    caplog.set_level(logging.DEBUG)
    loggers = [logging.getLogger(name) for name in ("huggingface_hub", "httpx2", "httpcore2")]
    for logger in loggers:
        monkeypatch.setattr(logger, "propagate", True)
        caplog.set_level(logging.DEBUG, logger.name)

    def call(*arguments, **keywords):
        with pytest.raises(BlastlensError) as caught:
            fetch(*arguments, **keywords)
        error = caught.value
        assert error.__cause__ is None and error.__context__ is None
        told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        secrets = [hub.token, hub.read_token, hub.stranger_token, "hf_no_such_token"]
        for secret in secrets:
            assert secret not in told + str(error) + caplog.text
        sentence = str(error)
        assert sentence.endswith(".") and sentence.isprintable() and ". " not in sentence
        return sentence

    return call


def upload(hub, kind="cell", repo_id=REPO, without=(), **changes):
    """Somebody's repository: a model folder, and OTHERS; `changes` are of files by name, None for none of that name."""
    folder = shared_model_folder(kind)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    files = {name: content for name, content in (files | OTHERS).items() if name not in without}
    return hub.add_repo(repo_id, files, **changes)


def edited(**changes):
    config = config_json("cell") | changes
    return json.dumps({key: value for key, value in config.items() if value is not ...}).encode()


def asked(hub):
    """What the Hub was asked for, and forget it: ("GET", "/api/models/..."), queries left out."""
    paths = [(request.method, request.path.partition("?")[0]) for request in hub.requests if not request.storage]
    hub.requests.clear()
    return paths


def info(revision="main"):
    return ("GET", f"/api/models/{REPO}/revision/{revision}")


def looked_at(commit, names):
    return [("HEAD", f"/{REPO}/resolve/{commit}/{name}") for name in names]


def files(commit, names):
    """Downloads: what each file is, then its content, which for a network is not at the Hub but in its storage."""
    every = [(method, f"/{REPO}/resolve/{commit}/{name}") for name in names for method in ("HEAD", "GET")]
    return [(method, path) for method, path in every if method == "HEAD" or path.endswith(".json")]


def cache():
    return Path(constants.HF_HUB_CACHE) / "models--somebody--a-model"


@contextmanager
def room_for(size):
    """No file may grow beyond so many bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def probabilities(folder):
    return Classifier(folder).predict(Image.fromarray(blobs(1))).probabilities


# What is asked for, and what arrives


@pytest.mark.parametrize(("kind", "json_files"), [("cell", JSON), ("field", ["config.json", "metrics.json"])])
def test_only_what_is_served_is_asked_for_and_it_answers_as_the_folder_does(hub, kind, json_files):
    commit = upload(hub, kind)
    folder = fetch(REPO)
    assert (folder.model_id, folder.revision) == (REPO, commit)
    assert asked(hub) == [info(), *files(commit, [*json_files, *ONNX])]
    there = {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}
    assert there == {*json_files, *ONNX}
    expected = ModelFolder.load(shared_model_folder(kind))
    assert probabilities(folder) == probabilities(expected)
    answer = Classifier.from_pretrained(REPO, precision="int8").predict(Image.fromarray(blobs(1)))
    assert answer.probabilities == Classifier(expected, "int8").predict(Image.fromarray(blobs(1))).probabilities
    assert (answer.model_id, answer.revision) == (REPO, commit)


def test_a_gate_that_scores_features_comes_with_their_distribution(hub):
    hub.add_folder(REPO, Path(__file__).parents[1] / "models/mobilenetv2-aria2021")
    gate = fetch(REPO).gate
    assert gate and gate.features is not None and not gate.incomplete


def test_without_onnx_safetensors_are_fetched(hub):
    commit = upload(hub, without=ONNX)
    folder = fetch(REPO)
    assert asked(hub) == [info(), *files(commit, [*JSON, "model.safetensors"])]
    assert probabilities(folder) == pytest.approx(
        probabilities(ModelFolder.load(shared_model_folder("cell"))), abs=1e-5
    )
    assert fetch(REPO, commit).path == folder.path
    assert asked(hub) == []


def test_a_network_with_code_of_its_own_is_served_by_its_onnx_file_alone(hub, refused):
    changed = edited(auto_map={"AutoModelForImageClassification": "modeling_somebody.Network"})
    upload(hub)
    commit = hub.commit(REPO, {"config.json": changed})
    assert probabilities(fetch(REPO)) == probabilities(ModelFolder.load(shared_model_folder("cell")))
    assert asked(hub) == [info(), *files(commit, [*JSON, *ONNX])]
    newer = hub.commit(REPO, {"onnx/model.onnx": None})
    assert "needs code of its own, which is never run here" in refused(REPO)
    assert asked(hub) == [info(), *looked_at(newer, ["config.json"])]


@pytest.mark.parametrize("by_name", [True, False])
def test_a_revision_is_a_branch_tag_pull_request_or_commit(hub, by_name):
    from huggingface_hub import HfApi

    first = upload(hub)
    HfApi(token=hub.token).create_tag(REPO, tag="v1.0", revision=first)
    proposed = HfApi(token=hub.token).upload_file(
        path_or_fileobj=edited(license="mit"), path_in_repo="config.json", repo_id=REPO, create_pr=True
    )
    second = hub.commit(REPO, {"config.json": edited(architecture="resnet18")})
    expected = {"main": second, "v1.0": first, "refs/pr/1": proposed.oid, first: first, second: second}
    for revision, commit in expected.items():
        folder = fetch(f"{REPO}@{revision}") if by_name else fetch(REPO, revision)
        assert (folder.model_id, folder.revision, folder.path.name) == (REPO, commit, commit)
    assert fetch(REPO, "refs/pr/1").config["license"] == "mit"


def test_a_revision_given_twice_is_refused_without_asking(hub, refused):
    assert "given twice" in refused(f"{REPO}@v1", "v1")
    assert asked(hub) == []


@pytest.mark.parametrize("revision", ["", "../../../x", "a/../b", "/etc", "a b", "x\n", "v1.", "a//b", "-x", "a" * 201])
def test_what_can_be_no_revision_is_refused_without_asking(hub, refused, revision):
    upload(hub)
    assert "There is no revision" in refused(REPO, revision)
    assert "There is no revision" in refused(f"{REPO}@{revision}")
    assert asked(hub) == [] and not cache().exists()


@pytest.mark.parametrize("name", ["a--b/c", "a/b--c", "a/b..c", "a/b.git", "a/b-", f"a/{'b' * 97}"])
def test_what_can_be_no_repository_is_refused_without_asking(hub, refused, name):
    assert "No repository can be called" in refused(name)
    assert asked(hub) == []


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name@v1.0", ("owner/name", "v1.0")),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1")),
        ("o_w-1/n.a-m_e@x@y", ("o_w-1/n.a-m_e", "x@y")),
        ("owner/name@", ("owner/name", "")),
        *(
            (text, None)
            for text in ("name", "name@v1", "models/name", "models/name@v1", "a/b/c", "/a/b", "../a", "./a")
        ),
        *((text, None) for text in ("a b/c", "a/b c", "a/", "/b", "", "@", "a\\b", "~/a", "https://host/a/b", "ä/b")),
    ],
)
def test_a_name_is_taken_apart_without_looking_anything_up(text, parts):
    assert fetching.split_name(text) == parts


# The cache


def test_a_commit_that_is_in_the_cache_is_served_without_a_request(hub):
    for kind in ("cell", "field"):  # a field model has fewer files
        commit = upload(hub, kind, without=["metrics.json"] if kind == "field" else [])
        first = fetch(REPO, commit)
        names = [name for name in (*JSON, *ONNX) if (first.path / name).exists()]
        assert asked(hub) == [info(commit), *files(commit, names)]
        hub.close() if kind == "field" else None
        assert fetch(f"{REPO}@{commit}").path == first.path
        assert asked(hub) == []


def test_a_branch_is_asked_after_and_its_unchanged_files_are_not_fetched_again(hub):
    old = upload(hub)
    assert fetch(REPO).revision == old
    asked(hub)
    assert fetch(REPO).revision == old
    assert asked(hub) == [info()]
    new = hub.commit(REPO, {"config.json": edited(license="mit")})
    assert fetch(REPO).config["license"] == "mit"
    unchanged = [*JSON[1:], *ONNX]
    assert asked(hub) == [info(), *files(new, ["config.json"]), *looked_at(new, unchanged)]
    assert "license" not in fetch(REPO, old).config
    assert asked(hub) == []


def test_the_cache_is_the_one_that_other_clients_use(hub):
    commit = upload(hub)
    path = fetch(REPO).path
    asked(hub)
    for name in (*JSON, *ONNX):
        assert hf_hub_download(REPO, name, local_files_only=True) == str(path / name)
    assert hf_hub_download(REPO, "config.json", revision=commit) == str(path / "config.json")
    assert asked(hub) == []
    (repo,) = scan_cache_dir().repos
    assert not scan_cache_dir().warnings
    assert {file.file_name for revision in repo.revisions for file in revision.files} == {
        Path(name).name for name in (*JSON, *ONNX)
    }


def test_what_other_clients_left_in_the_cache_is_used(hub):
    commit = upload(hub)
    # All of it, pickles too, which are never read and so no reason to refuse what was asked for.
    path = snapshot_download(REPO)
    assert (Path(path) / "pytorch_model.bin").is_file()
    asked(hub)
    assert str(fetch(REPO).path) == path
    assert asked(hub) == [info()]
    assert str(fetch(REPO, commit).path) == path
    assert asked(hub) == []


def test_a_cache_that_lacks_what_nobody_looked_for_is_completed(hub):
    commit = upload(hub)
    for name in ("config.json", "onnx/model.onnx"):
        hf_hub_download(REPO, name, revision=commit)
    asked(hub)
    fetch(REPO, commit)
    assert asked(hub) == [info(commit), *files(commit, ["preprocessor_config.json", "metrics.json", ONNX[0]])]
    assert fetch(REPO, commit).revision == commit
    assert asked(hub) == []


def test_a_cache_that_was_filled_file_by_file_serves_where_there_is_no_hub(hub):
    commit = upload(hub)
    for name in (*JSON, "onnx/model.onnx"):  # as a Space is preloaded; nothing says what the commit lacks
        hf_hub_download(REPO, name, revision=commit)
    hub.close()
    assert probabilities(fetch(REPO, commit)) == probabilities(ModelFolder.load(shared_model_folder("cell")))


def test_files_in_the_cache_may_be_read_by_whom_the_umask_lets(hub):
    upload(hub)
    before = os.umask(0o022)
    try:
        folder = fetch(REPO)
    finally:
        os.umask(before)
    for name in (*JSON, *ONNX):
        assert stat.S_IMODE((folder.path / name).stat().st_mode) == 0o644


def test_where_the_disk_has_no_links_files_are_copied(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    commit = upload(hub)
    path = fetch(REPO).path
    assert not any(file.is_symlink() for file in path.rglob("*"))
    asked(hub)
    assert fetch(REPO, commit).path == path
    assert asked(hub) == []
    # Nothing here tells that a copy is damaged, but the Hub's list does.
    (path / "onnx/model.onnx").write_bytes(b"spoilt")
    assert probabilities(fetch(REPO)) == probabilities(ModelFolder.load(shared_model_folder("cell")))


def test_many_at_once_get_the_same_folder(hub):
    commit = upload(hub)
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: fetch(REPO), range(8)))
    assert {folder.revision for folder in folders} == {commit}
    assert probabilities(folders[0]) == probabilities(ModelFolder.load(shared_model_folder("cell")))
    assert not list(cache().rglob("*.incomplete"))


# No network, no Hub


def cut_off(hub, how, monkeypatch):
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "away":
        hub.close()
    elif how == "hangs":
        monkeypatch.setattr(fetching, "TIME_LIMIT_S", 0.2)
        hub.fail("GET", "/api/", delay=3, times=math.inf)
    elif how == "drops":
        hub.fail("GET", "/api/", drop=True, times=math.inf)
    elif how == "portal":
        hub.fail("GET", "/api/", status=200, body=b"<html>Log in to this hotel</html>", times=math.inf)
    elif how == "no hub":
        hub.fail("GET", "/api/", status=200, body=b'{"id": "x"}', times=math.inf)
    else:
        hub.fail("GET", "/api/", status=how, times=math.inf)


WITHOUT_A_HUB = {
    "offline": "offline mode is on; unset HF_HUB_OFFLINE",
    "away": "cannot be reached",
    "hangs": "gave no answer within",
    "drops": "connection to the Hub at",
    "portal": "does not answer as the Hub does",
    "no hub": "does not answer as the Hub does",
    500: "out of order or busy (500)",
    502: "out of order or busy (502)",
    503: "out of order or busy (503)",
    429: "out of order or busy (429)",
}


@pytest.mark.parametrize("how", WITHOUT_A_HUB)
def test_without_a_hub_the_cache_serves_a_branch_tag_or_commit_as_last_seen(hub, how, monkeypatch):
    from huggingface_hub import HfApi

    commit = upload(hub)
    HfApi(token=hub.token).create_tag(REPO, tag="v1", revision=commit)
    path = fetch(REPO, "v1").path
    fetch(REPO)
    newest = hub.commit(REPO, {"config.json": edited(license="mit")})
    cut_off(hub, how, monkeypatch)
    for revision in (None, "main", "v1", commit):
        folder = fetch(REPO, revision)
        assert (folder.path, folder.revision, folder.model_id) == (path, commit, REPO)
    hub.mend()
    assert newest != commit


@pytest.mark.parametrize(("how", "sentence"), WITHOUT_A_HUB.items())
def test_without_a_hub_and_cache_the_sentence_says_why(hub, refused, log_in, how, sentence, monkeypatch):
    upload(hub)
    log_in(hub.token)
    cut_off(hub, how, monkeypatch)
    said = refused(REPO, "v1")
    assert sentence in said and f"{REPO} at revision v1 is not on this machine" in said
    assert "give a local folder" in said
    # A commit that is not in the cache is as unknown.
    assert sentence in refused(REPO, "0" * 40)


def test_offline_mode_asks_nothing(hub, refused, monkeypatch):
    commit = upload(hub)
    fetch(REPO)
    asked(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(REPO).revision == commit
    refused("somebody/else")
    assert asked(hub) == []


def test_a_hub_that_hangs_or_is_away_is_asked_once_and_a_busy_one_three_times(hub, refused, monkeypatch):
    cut_off(hub, 503, monkeypatch)
    refused(REPO)
    assert asked(hub) == [info()] * 3
    hub.mend()
    monkeypatch.setattr(fetching, "TIME_LIMIT_S", 0.1)
    hub.fail("GET", "/api/", delay=0.3, times=math.inf)
    refused(REPO)
    time.sleep(0.6)  # what was asked is on record once the delay is over
    assert asked(hub) == [info()]
    hub.close()
    pauses = []
    monkeypatch.setattr(fetching.time, "sleep", pauses.append)
    refused(REPO)
    assert not pauses


@pytest.mark.parametrize("fault", [{"status": 503}, {"status": 429}, {"drop": True}, {"cut_after": 100}])
@pytest.mark.parametrize("where", ["/api/models/", "/resolve/.*metrics", "/cdn/"])
def test_what_passes_is_not_noticed(hub, fault, where):
    commit = upload(hub)
    hub.fail("GET", where, times=2, **fault)
    folder = fetch(REPO)
    assert folder.revision == commit
    assert probabilities(folder) == probabilities(ModelFolder.load(shared_model_folder("cell")))


# No such thing, no access


def test_a_repository_that_is_not_there(hub, refused, log_in):
    said = refused("nobody/nothing")
    assert "no public model nobody/nothing" in said and "`hf auth login` if it is private" in said
    kinds = [f"/api/{kind}/nobody/nothing" for kind in ("datasets", "spaces")]
    assert asked(hub) == [("GET", path) for path in ("/api/models/nobody/nothing/revision/main", *kinds)]
    log_in(hub.token)
    assert "no model nobody/nothing on the Hub that your token may read" in refused("nobody/nothing")


@pytest.mark.parametrize(("kind", "word"), [("dataset", "a data set"), ("space", "a Space")])
def test_the_wrong_kind_of_repository(hub, refused, kind, word):
    hub.add_repo("somebody/other", {"data.csv": b"a,b"}, kind=kind)
    assert f"somebody/other on the Hub is {word}, not a model" in refused("somebody/other")


def test_a_private_model(hub, refused, log_in):
    upload(hub, private=True)
    assert "`hf auth login` if it is private" in refused(REPO)
    log_in(hub.stranger_token)
    assert "ask its owner for access" in refused(REPO)
    log_in(hub.read_token)
    assert fetch(REPO).model_id == REPO
    # The token went to the Hub alone; the storage behind it refuses whoever brings one.
    assert {request.authorization for request in hub.requests if request.storage} == {None}
    assert any(request.authorization == f"Bearer {hub.read_token}" for request in hub.requests)


def test_a_gated_model(hub, refused, log_in):
    upload(hub, gated=True)
    for token in (None, hub.stranger_token):
        if token:
            log_in(token)
        said = refused(REPO)
        assert f"{REPO} is gated; ask for access at {hub.address}/{REPO}, then log in" in said
        hub.fail("GET", "/api/models/", status=403, headers={"X-Error-Code": "GatedRepo"})
        assert refused(REPO) == said
    log_in(hub.read_token)
    assert fetch(REPO).model_id == REPO


def test_a_token_that_is_not_accepted(hub, refused, log_in):
    upload(hub)
    log_in("hf_no_such_token")
    assert "does not accept the token of this machine" in refused(REPO)


@pytest.mark.parametrize("status", [401, 403])
def test_access_that_is_refused_for_other_reasons(hub, refused, log_in, status):
    upload(hub)
    hub.fail("GET", "/api/models/", status=status, times=math.inf)
    assert f"does not let model {REPO} be read ({status})" in refused(REPO)
    log_in(hub.token)
    expected = {401: "does not accept the token", 403: "does not let model"}
    assert expected[status] in refused(REPO)


def test_another_answer_is_named(hub, refused):
    hub.fail("GET", "/api/models/", status=418, times=math.inf)
    assert "the Hub answers 418" in refused(REPO)


@pytest.mark.parametrize("revision", ["v9", "0" * 40])
def test_a_revision_that_is_not_there(hub, refused, revision):
    upload(hub)
    assert f"{REPO} has no revision {revision}; give" in refused(REPO, revision)
    assert not cache().exists()


def test_access_that_was_lost_is_said_although_the_cache_has_the_model(hub, refused):
    upload(hub)
    fetch(REPO)
    hub.fail("GET", "/api/models/", status=401, headers={"X-Error-Code": "RepoNotFound"})
    assert "no public model" in refused(REPO)


def test_a_file_that_goes_while_it_is_fetched(hub, refused):
    upload(hub)
    hub.fail("GET", "/resolve/.*metrics", status=404, headers={"X-Error-Code": "EntryNotFound"})
    assert "changed on the Hub while it was fetched; call again" in refused(REPO)


def test_an_address_of_the_hub_that_is_none(hub, refused, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:port")
    assert "could not be fetched from the Hub (InvalidURL)" in refused(REPO)


def test_a_mirror_with_a_password_in_its_address_keeps_it_to_itself(hub, refused, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.address.replace("//", "//me:secret@"))
    hub.close()
    assert "secret" not in refused(REPO)


# Repositories that hold no model that can be served


@pytest.mark.parametrize(
    ("files_there", "sentence", "fetched"),
    [
        ({"README.md": b"#"}, "holds no network; onnx/model.onnx or model.safetensors is expected", []),
        ({"pytorch_model.bin": b"p", "config.json": edited()}, "only as pytorch_model.bin, which may run code", []),
        ({"a/weights.PT": b"p"}, "only as a/weights.PT, which may run code", []),
        ({"onnx/model_q4.onnx": b"o", "config.json": edited()}, "holds no network", []),
        ({"model.safetensors": b"s"}, "no image classifier of this kind: it has no config.json", []),
        (
            {"model.safetensors": b"s", "config.json": b'{"model_type": "bert"}'},
            "no image classifier of this kind: config.json has no architecture",
            ["config.json"],
        ),
        (
            {"onnx/model.onnx": b"o", "config.json": edited(label_names=...)},
            "no image classifier of this kind: label_names in config.json must be a list",
            ["config.json"],
        ),
        ({"model.safetensors": b"s", "config.json": b"[]"}, "config.json holds a list", ["config.json"]),
        ({"model.safetensors": b"s", "config.json": b"{"}, "config.json is not valid JSON", ["config.json"]),
    ],
)
def test_a_repository_without_a_model_is_refused_before_its_network_is_fetched(
    hub, refused, files_there, sentence, fetched
):
    commit = hub.add_repo(REPO, files_there)
    assert sentence in refused(REPO)
    assert asked(hub) == [info(), *files(commit, fetched)]


def test_a_network_that_is_no_network_is_refused_when_it_is_loaded(hub):
    hub.add_repo(REPO, {"config.json": edited(image_processor_type=...), "onnx/model.onnx": b"no ONNX"})
    with pytest.raises(BlastlensError, match=r"onnx/model\.onnx of model somebody/a-model is damaged or not an ONNX"):
        Classifier.from_pretrained(REPO)


def test_what_is_too_large_is_refused_before_anything_is_fetched(hub, refused, monkeypatch):
    upload(hub)
    total = sum((shared_model_folder("cell") / name).stat().st_size for name in (*JSON, *ONNX))
    monkeypatch.setattr(fetching, "MAX_BYTES", total - 1)
    assert "GB are fetched" in refused(REPO)
    monkeypatch.setattr(fetching, "MAX_JSON_BYTES", 100)
    assert "config.json of model somebody/a-model has 0 MB" in refused(REPO)
    assert asked(hub) == [info()] * 2
    monkeypatch.setattr(fetching, "MAX_JSON_BYTES", 10_000_000)
    monkeypatch.setattr(fetching, "MAX_BYTES", total)
    assert fetch(REPO).model_id == REPO


# Damage


DOWNLOADS = [("/cdn/", "onnx/model_int8.onnx"), ("/resolve/.*/metrics", "metrics.json")]


@pytest.mark.parametrize(("where", "name"), DOWNLOADS)
def test_a_download_that_arrives_damaged_is_fetched_anew(hub, where, name):
    commit = upload(hub)
    hub.fail("GET", where, corrupt=True)
    folder = fetch(REPO)
    assert (folder.path / name).read_bytes() == hub.files(REPO)[name]
    assert probabilities(folder) == probabilities(ModelFolder.load(shared_model_folder("cell")))
    names = [each for one in (*JSON, *ONNX) for each in ([one, one] if one == name else [one])]
    assert asked(hub) == [info(), *files(commit, names)]


@pytest.mark.parametrize(("where", "name"), DOWNLOADS)
def test_a_download_that_is_not_what_the_hub_lists_is_thrown_away(hub, refused, log_in, where, name):
    commit = upload(hub)
    log_in(hub.token)
    hub.fail("GET", where, corrupt=True, times=2)
    said = refused(REPO)
    assert f"{name} of model {REPO} arrived damaged and was thrown away; call again" in said
    assert not list(cache().rglob("*.incomplete")) and not (cache() / "refs").exists()
    assert not os.path.lexists(cache() / "snapshots" / commit / name)
    content = hub.files(REPO)[name]
    assert len(content) not in [blob.stat().st_size for blob in (cache() / "blobs").iterdir()]
    # The next call heals it, and goes on where this one stopped.
    there = [n for n in (*JSON, *ONNX) if (cache() / "snapshots" / commit / n).exists()]
    asked(hub)
    assert probabilities(fetch(REPO)) == probabilities(ModelFolder.load(shared_model_folder("cell")))
    assert asked(hub) == [info(), *files(commit, [n for n in (*JSON, *ONNX) if n not in there])]


def test_a_download_that_is_shorter_than_the_hub_says_is_thrown_away(hub, refused):
    upload(hub)
    hub.fail("GET", "/cdn/", shorten_to=200)
    assert "arrived damaged and was thrown away; call again" in refused(REPO)
    assert not list(cache().rglob("*.incomplete")) and not (cache() / "refs").exists()
    assert probabilities(fetch(REPO)) == probabilities(ModelFolder.load(shared_model_folder("cell")))


def test_a_download_that_breaks_off_is_resumed_where_it_was(hub, monkeypatch):
    upload(hub)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 300)  # 10 MB; what comes after the last whole one is lost
    hub.fail("GET", "/cdn/", cut_after=1000)
    folder = fetch(REPO)
    assert probabilities(folder) == probabilities(ModelFolder.load(shared_model_folder("cell")))
    # 206: a part was asked for, by a Range, and sent.
    assert [request.status for request in hub.requests if request.storage] == [200, 206, 200]


@pytest.mark.parametrize("fault", [{"drop": True}, {"status": 503}])
def test_a_download_that_never_comes_leaves_nothing_and_the_next_call_heals(hub, refused, fault, monkeypatch):
    commit = upload(hub)
    hub.fail("GET", "/cdn/", times=math.inf, **fault)
    expected = "broke off; call again" if "drop" in fault else "out of order or busy (503)"
    assert expected in refused(REPO)
    assert not list(cache().rglob("*.incomplete")) and not (cache() / "refs").exists()
    # Without a network, nothing takes the unfinished folder for a model.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (None, commit):
        assert "offline mode is on" in refused(REPO, revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.mend()
    assert probabilities(fetch(REPO)) == probabilities(ModelFolder.load(shared_model_folder("cell")))


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ({"drop": True}, "broke off"),
        ({"status": 503}, "out of order or busy (503)"),
        ({"status": 200, "body": b"<html>Log in to this hotel</html>"}, "does not answer as the Hub does"),
        ({"status": 401}, "does not let model"),
        ({"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}}, "changed on the Hub"),
    ],
)
def test_a_hub_that_fails_once_it_has_listed_the_files_is_told_of_as_before(hub, refused, log_in, fault, sentence):
    upload(hub)
    hub.fail("HEAD", "/resolve/", times=math.inf, **fault)
    assert sentence in refused(REPO)
    assert not (cache() / "refs").exists()


def test_an_update_that_breaks_off_leaves_the_branch_as_last_seen(hub):
    old = upload(hub)
    fetch(REPO)
    new = hub.commit(REPO, {"config.json": edited(license="mit"), "metrics.json": b'{"schema": 1}'})
    hub.fail("GET", "/resolve/.*/metrics", drop=True, times=math.inf)
    assert fetch(REPO).revision == old
    assert (cache() / "refs/main").read_text() == old
    hub.mend()
    assert fetch(REPO).revision == new
    assert (cache() / "refs/main").read_text() == new


def test_what_the_xet_client_raises_lets_the_cache_serve(hub, refused, monkeypatch):
    old = upload(hub)
    fetch(REPO)
    new = hub.commit(REPO, {"config.json": edited(license="mit")})

    def broken(*_, **__):
        raise RuntimeError("of a kind that is not the Hub client's")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", broken)
    assert fetch(REPO).revision == old
    assert "could not be fetched from the Hub (RuntimeError)" in refused(REPO, new)


@pytest.mark.parametrize("name", ["onnx/model.onnx", "metrics.json"])
@pytest.mark.parametrize("pinned", [True, False])
def test_damage_in_the_cache_is_found_and_fetched_anew(hub, refused, name, pinned, monkeypatch):
    commit = upload(hub)
    spoilt = fetch(REPO).path / name
    content = bytearray(spoilt.read_bytes())
    content[len(content) // 2] ^= 1
    spoilt.resolve().write_bytes(content)
    asked(hub)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    said = refused(REPO, commit if pinned else None)
    assert f"{name} of model {REPO}" in said and "is damaged on this machine" in said and "fetched anew" in said
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folder = fetch(REPO, commit if pinned else None)
    assert asked(hub) == [info(commit if pinned else "main"), *files(commit, [name])]
    assert probabilities(folder) == probabilities(ModelFolder.load(shared_model_folder("cell")))


@pytest.mark.parametrize("pinned", [True, False])
def test_content_that_was_deleted_from_the_cache_is_missed(hub, refused, pinned, monkeypatch):
    commit = upload(hub)
    file = fetch(REPO).path / "metrics.json"
    file.resolve().unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "metrics.json of model" in refused(REPO, commit if pinned else None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert fetch(REPO, commit if pinned else None).metrics["schema"] == 1
    assert file.is_symlink() and file.is_file()


def test_a_file_of_the_cache_that_cannot_be_read_is_fetched_anew(hub):
    commit = upload(hub)
    blob = (fetch(REPO).path / "metrics.json").resolve()
    blob.unlink()
    blob.symlink_to("/proc/self/mem")  # a file by its looks; reading its beginning fails
    asked(hub)
    assert fetch(REPO, commit).metrics["schema"] == 1
    assert asked(hub) == [info(commit), *files(commit, ["metrics.json"])]
    assert not blob.is_symlink()


def test_a_cache_that_cannot_be_written_to_is_said_and_leaves_nothing(hub, refused):
    upload(hub)
    largest = (shared_model_folder("cell") / "onnx/model.onnx").stat().st_size
    with room_for(largest // 8):
        said = refused(REPO)
    assert f"cannot be kept in {constants.HF_HUB_CACHE} (File too large); make room there" in said
    assert not list(cache().rglob("*.incomplete"))
    assert fetch(REPO).model_id == REPO


def test_a_cache_in_which_no_branch_can_be_noted_serves_what_it_has(hub):
    commit = upload(hub)
    path = fetch(REPO).path
    ref = cache() / "refs/main"
    shutil.rmtree(ref.parent)
    ref.parent.write_text("in the way of every write")
    assert fetch(REPO).path == path
    assert fetch(REPO, commit).path == path


@pytest.mark.parametrize(
    "change",
    [
        {"sha": "../../../../etc"},
        {"sha": None},
        {"siblings": [{"rfilename": "config.json", "size": 1, "blobId": "../../x"}]},
        {"siblings": [{"rfilename": "config.json"}]},
        {"siblings": [{"rfilename": "config.json", "size": "1", "blobId": "0" * 40}]},
        {"siblings": 7},
    ],
)
def test_a_list_of_files_that_no_hub_would_send_writes_nothing(hub, refused, change):
    answer = {"id": REPO, "sha": "0" * 40, "siblings": []} | change
    hub.fail("GET", "/api/models/", status=200, body=json.dumps(answer).encode())
    assert "does not answer as the Hub does" in refused(REPO)
    assert not cache().exists()


# Through other doors


def test_the_command_line_takes_a_revision_with_the_name(hub, tmp_path, capsys):
    commit = upload(hub)
    image = tmp_path / "cell.png"
    Image.fromarray(blobs(1)).save(image)
    assert main(["classify", str(image), "--model", f"{REPO}@{commit}", "--format", "json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["model_id"], answer["revision"]) == (REPO, commit)
    assert answer["probabilities"] == probabilities(ModelFolder.load(shared_model_folder("cell")))
    assert main(["classify", str(image), "--model", f"{REPO}@v9"]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "has no revision v9" in err


def test_in_a_fresh_process_neither_torch_nor_the_token_shows_and_a_pinned_commit_needs_no_hub(hub, tmp_path):
    commit = upload(hub, private=True)
    script = (
        "import sys, blastlens; assert 'huggingface_hub' not in sys.modules;"
        "c = blastlens.Classifier.from_pretrained(sys.argv[1]);"
        "assert not {'torch', 'timm', 'transformers'} & set(sys.modules); print(c.folder.revision)"
    )

    def run(name, environment):
        command = [sys.executable, "-c", script, name]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)

    talkative = hub.environment(tmp_path / "home", hub.token) | {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}
    done = run(REPO, talkative)
    assert (done.returncode, done.stdout.strip()) == (0, commit), done.stderr
    hub.close()
    for name, environment in ((f"{REPO}@{commit}", talkative), (REPO, talkative | {"HF_HUB_OFFLINE": "1"})):
        again = run(name, environment)
        assert (again.returncode, again.stdout.strip()) == (0, commit), again.stderr
    failed = run("somebody/else", talkative)
    assert failed.returncode == 1 and "cannot be reached" in failed.stderr
    assert not [p for p in (done, failed) if hub.token in p.stdout + p.stderr]
