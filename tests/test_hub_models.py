"""Models from the Hub, downloaded by the real client from a loopback Hub: what is requested, kept and rejected."""

import json
import logging
import math
import resource
import subprocess
import sys
import traceback
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_models import blobs, config_json, shared_model_folder
from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from PIL import Image

from blastlens import Classifier
from blastlens import hub as hub_module
from blastlens.errors import BlastlensError
from blastlens.hub import fetch
from blastlens.model_folder import ModelFolder

ROOT = Path(__file__).resolve().parents[1]
REPO = "owner/a-model"
JSON = {"config.json", "preprocessor_config.json", "metrics.json"}
ONNX = {"onnx/model_int8.onnx", "onnx/model.onnx"}
# Files that a repository may hold and that are never downloaded.
OTHERS = {
    "README.md": b"# A card",
    "modeling_other.py": b"raise SystemExit('run')",
    "pytorch_model.bin": b"a pickle",
    "onnx/model_fp16.onnx": b"not read",
}


@pytest.fixture
def log_in(monkeypatch):
    return lambda token: monkeypatch.setenv("HF_TOKEN", token)


@pytest.fixture
def refused(hub, caplog, monkeypatch):
    """A function that calls `fetch` and returns its error message; no token is in it, its traceback or any log."""
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    for name in ("huggingface_hub", "httpx2", "httpcore2"):
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
        caplog.set_level(logging.DEBUG, name)

    def call(*arguments):
        with pytest.raises(BlastlensError) as caught:
            fetch(*arguments)
        error = caught.value
        assert error.__cause__ is None and error.__context__ is None
        told = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        for secret in (hub.token, hub.read_token, hub.stranger_token, "hf_no_such_token"):
            assert secret not in told + str(error) + caplog.text
        assert str(error).endswith(".") and str(error).isprintable() and ". " not in str(error)
        return str(error)

    return call


def upload(hub, kind="cell", without=(), **options):
    folder = shared_model_folder(kind)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return hub.add_repo(REPO, {name: file for name, file in (files | OTHERS).items() if name not in without}, **options)


def edited(**changes):
    config = config_json("cell") | changes
    return json.dumps({key: value for key, value in config.items() if value is not ...}).encode()


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def cache():
    return Path(constants.HF_HUB_CACHE) / "models--owner--a-model"


def probabilities(folder):
    return Classifier(folder).predict(Image.fromarray(blobs(1))).probabilities


def in_folder(kind="cell"):
    return probabilities(ModelFolder.load(shared_model_folder(kind)))


# What is downloaded


@pytest.mark.parametrize(("kind", "json_files"), [("cell", JSON), ("field", JSON - {"preprocessor_config.json"})])
def test_only_files_that_are_served_are_downloaded_and_predictions_are_those_of_the_folder(hub, kind, json_files):
    commit = upload(hub, kind)
    folder = fetch(REPO)
    assert (folder.model_id, folder.revision, folder.path.name) == (REPO, commit, commit)
    assert files_in(folder.path) == json_files | ONNX
    assert probabilities(folder) == in_folder(kind)
    answer = Classifier.from_pretrained(REPO, precision="int8").predict(Image.fromarray(blobs(1)))
    expected = Classifier(ModelFolder.load(shared_model_folder(kind)), "int8").predict(Image.fromarray(blobs(1)))
    assert answer.probabilities == expected.probabilities
    assert (answer.model_id, answer.revision) == (REPO, commit)


def test_the_feature_distribution_of_the_ood_check_is_downloaded(hub):
    hub.add_folder(REPO, ROOT / "models/mobilenetv2-aria2021")
    detector = fetch(REPO).ood_detector
    assert detector and detector.features is not None and not detector.incomplete


def test_custom_code_is_never_downloaded_and_without_onnx_safetensors_are_served(hub, refused):
    upload(hub)
    hub.commit(REPO, {"config.json": edited(auto_map={"AutoModelForImageClassification": "modeling_other.Network"})})
    assert probabilities(fetch(REPO)) == in_folder()
    hub.commit(REPO, {"onnx/model.onnx": None})
    assert "needs code of its own, which is never run here" in refused(REPO)
    hub.commit(REPO, {"config.json": edited(), "onnx/model_int8.onnx": None})
    folder = fetch(REPO)
    assert files_in(folder.path) == JSON | {"model.safetensors"}
    assert probabilities(folder) == pytest.approx(in_folder(), abs=1e-5)


@pytest.mark.parametrize("by_name", [True, False])
def test_a_revision_is_a_branch_tag_pull_request_or_commit(hub, by_name):
    first, api = upload(hub), HfApi(token=hub.token)
    api.create_tag(REPO, tag="v1.0", revision=first)
    proposed = api.upload_file(
        path_or_fileobj=edited(license="mit"), path_in_repo="config.json", repo_id=REPO, create_pr=True
    )
    second = hub.commit(REPO, {"config.json": edited(architecture="resnet18")})
    for revision, commit in {"main": second, "v1.0": first, "refs/pr/1": proposed.oid, first: first}.items():
        folder = fetch(f"{REPO}@{revision}") if by_name else fetch(REPO, revision)
        assert (folder.model_id, folder.revision) == (REPO, commit)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((f"{REPO}@v1", "v1"), "given twice"),
        *(((REPO, bad), "There is no revision") for bad in ("", "../../../x", "a/../b", "/etc", "a b", "x\n", "a//b")),
        *(((name,), "cannot be the name") for name in ("a--b/c", "a/b..c", "a/b.git", f"a/{'b' * 97}")),
    ],
    ids=str,
)
def test_impossible_names_and_revisions_are_rejected_without_a_request(hub, refused, arguments, message):
    assert message in refused(*arguments)
    assert hub.requests == [] and not cache().exists()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("owner/name", ("owner/name", None)),
        ("owner/name@refs/pr/1", ("owner/name", "refs/pr/1")),
        ("o_w-1/n.a-m_e@x@y", ("o_w-1/n.a-m_e", "x@y")),
        *((text, None) for text in ("name", "models/name", "a/b/c", "/a/b", "../a", "a b/c", "a/", "", "~/a", "ä/b")),
    ],
)
def test_names_are_split_into_repository_and_revision(text, parts):
    assert hub_module.split_name(text) == parts


# The cache


@pytest.mark.parametrize("kind", ["cell", "field"])
def test_a_commit_in_the_cache_is_served_without_a_request(hub, kind):
    commit = upload(hub, kind)
    first = fetch(REPO)
    hub.close()
    hub.requests.clear()
    assert fetch(f"{REPO}@{commit}").path == first.path and hub.requests == []


def test_token_cache_and_offline_use_are_arguments(hub, tmp_path):
    upload(hub, private=True)
    model, cache_dir = f"{REPO}", tmp_path / "cache"
    with pytest.raises(BlastlensError, match="There is no model"):
        Classifier.from_pretrained(model, token=False, cache_dir=cache_dir)
    with pytest.raises(BlastlensError, match="local_files_only is set"):
        Classifier.from_pretrained(model, cache_dir=cache_dir, local_files_only=True)
    online = Classifier.from_pretrained(model, token=hub.token, cache_dir=cache_dir)
    assert online.folder.path.is_relative_to(cache_dir)
    hub.requests.clear()
    offline = Classifier.from_pretrained(model, cache_dir=cache_dir, local_files_only=True)
    assert offline.folder.path == online.folder.path and hub.requests == []


def test_unchanged_files_of_a_branch_are_not_downloaded_again(hub):
    upload(hub)
    fetch(REPO)
    new = hub.commit(REPO, {"config.json": edited(license="mit")})
    hub.requests.clear()
    folder = fetch(REPO)
    assert (folder.revision, folder.config["license"]) == (new, "mit")
    assert not [request for request in hub.requests if request.storage]


def test_a_snapshot_that_other_clients_left_incomplete_is_completed(hub):
    commit = upload(hub)
    for name in ("config.json", "model.safetensors"):
        hf_hub_download(REPO, name, revision=commit)
    path = fetch(REPO, commit).path
    assert files_in(path) >= JSON | ONNX
    assert snapshot_download(REPO) == str(path)  # all files, including pickles, which are never read
    assert fetch(REPO, commit).path == path


# No network, no Hub

UNAVAILABLE = {
    "offline": (None, "offline mode is on"),
    "away": (None, "did not deliver it"),
    "hangs": ({"delay": 3}, "did not deliver it"),
    "drops": ({"drop": True}, "did not deliver it"),
    "portal": ({"status": 200, "body": b"<html>Log in to this hotel</html>"}, "did not deliver it"),
    "not a Hub": ({"status": 200, "body": b'{"id": "x"}'}, ""),
    "busy": ({"status": 503}, "busy or out of order (503)"),
    "too many requests": ({"status": 429}, "busy or out of order (429)"),
}


@pytest.fixture(params=UNAVAILABLE)
def unavailable(request, hub, monkeypatch):
    """A function that makes the Hub unavailable in one way, and returns what the error then says."""
    fault, message = UNAVAILABLE[request.param]

    def begin():
        if request.param == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        elif fault is None:
            hub.close()
        else:
            monkeypatch.setattr(hub_module, "TIME_LIMIT_S", 0.2 if "delay" in fault else 10)
            hub.fail("GET", "/api/", times=math.inf, **fault)
        return message

    return begin


def test_if_the_hub_is_unavailable_the_cache_serves_a_branch_or_commit_as_last_seen(hub, unavailable):
    commit = upload(hub)
    path = fetch(REPO).path
    hub.commit(REPO, {"config.json": edited(license="mit")})
    unavailable()
    for revision in (None, commit):
        folder = fetch(REPO, revision)
        assert (folder.path, folder.revision, folder.model_id) == (path, commit, REPO)


def test_if_the_hub_is_unavailable_and_the_cache_empty_the_error_says_why(hub, unavailable, refused, log_in):
    upload(hub)
    log_in(hub.token)
    message = unavailable()
    assert message in refused(REPO, "v1")
    assert message in refused(REPO, "0" * 40)


def test_a_download_that_breaks_off_leaves_no_model_in_the_cache_and_the_next_one_completes_it(
    hub, refused, monkeypatch
):
    commit = upload(hub)
    hub.fail("GET", "/cdn/", times=math.inf, status=503)
    assert "busy or out of order (503)" in refused(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for revision in (None, commit):
        assert "offline mode is on" in refused(REPO, revision)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.mend()
    assert probabilities(fetch(REPO)) == in_folder()


@pytest.mark.parametrize(
    ("where", "name"), [("/cdn/", "onnx/model_int8.onnx"), ("/resolve/.*/metrics", "metrics.json")]
)
def test_a_damaged_download_is_repeated_and_otherwise_rejected(hub, refused, where, name):
    upload(hub)
    hub.fail("GET", where, corrupt=True, times=math.inf)
    assert "is not what the Hub lists; check the proxy or mirror" in refused(REPO)
    hub.mend()
    assert (fetch(REPO).path / name).read_bytes() == hub.files(REPO)[name]
    hub.commit(REPO, {"config.json": edited(license="mit"), "metrics.json": b'{"schema": 1}'})
    hub.fail("GET", "/resolve/.*/metrics", corrupt=True)
    assert fetch(REPO).metrics == {"schema": 1}


def test_damage_in_the_cache_is_repaired(hub):
    upload(hub)
    file = (fetch(REPO).path / "onnx/model.onnx").resolve()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert probabilities(fetch(REPO)) == in_folder()


# Access


@pytest.mark.parametrize(
    ("status", "message"), [(401, "be read (401)"), (403, "be read (403)"), (418, "the Hub answers 418")]
)
def test_other_refusals_name_the_status(hub, refused, log_in, status, message):
    log_in("hf_no_such_token")
    hub.fail("GET", "/api/models/", status=status, times=math.inf)
    assert message in refused(REPO)


def test_gated_models_and_missing_revisions(hub, refused, log_in):
    upload(hub, gated=True)
    assert f"{REPO} is gated; ask for access at {hub.address}/{REPO}, then log in" in refused(REPO)
    log_in(hub.read_token)
    assert fetch(REPO).model_id == REPO
    for revision in ("v9", "0" * 40):
        assert f"{REPO} has no revision {revision}; give" in refused(REPO, revision)


def test_the_password_in_a_mirrors_address_is_not_shown(hub, refused, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.address.replace("//", "//me:secret@"))
    hub.close()
    assert "secret" not in refused(REPO)


def test_private_and_missing_models(hub, refused, log_in):
    upload(hub, private=True)
    hub.add_repo("owner/data", {"data.csv": b"a,b"}, kind="dataset")
    for name in (REPO, "nobody/nothing", "owner/data"):
        assert f"There is no model {name} on the Hub that you may read" in refused(name)
    log_in(hub.stranger_token)
    assert "There is no model" in refused(REPO)
    log_in(hub.read_token)
    assert fetch(REPO).model_id == REPO
    assert {request.authorization for request in hub.requests if request.storage} == {None}


# Repositories that cannot be served


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"README.md": b"#"}, "holds no network; onnx/model.onnx or model.safetensors is expected"),
        ({"pytorch_model.bin": b"p", "config.json": edited()}, "holds only pytorch_model.bin, which may run code"),
        ({"a/weights.PT": b"p"}, "holds only a/weights.PT, which may run code"),
        ({"model.safetensors": b"s"}, "it has no config.json"),
        ({"model.safetensors": b"s", "config.json": b'{"model_type": "bert"}'}, "config.json has no architecture"),
        ({"onnx/model.onnx": b"o", "config.json": edited(label_names=...)}, "label_names in config.json must be"),
        ({"model.safetensors": b"s", "config.json": b"[]"}, "config.json holds a list"),
    ],
)
def test_a_repository_without_a_model_is_rejected_before_its_network_is_downloaded(hub, refused, files, message):
    hub.add_repo(REPO, files)
    assert message in refused(REPO)
    assert not [request for request in hub.requests if request.storage]


def test_large_files_are_rejected_before_they_are_downloaded(hub, refused, monkeypatch):
    upload(hub)
    monkeypatch.setattr(hub_module, "MAX_BYTES", 1000)
    assert "GB are downloaded" in refused(REPO)
    monkeypatch.setattr(hub_module, "MAX_JSON_BYTES", 100)
    assert "config.json of model owner/a-model has 0 MB" in refused(REPO)
    assert not cache().exists()


def test_a_file_name_that_leads_out_of_the_cache_is_not_downloaded(hub, tmp_path):
    siblings = [{"rfilename": name, "size": 1} for name in (*JSON, *ONNX, "../../../evil.json")]
    upload(hub)
    answer = {"id": REPO, "sha": hub.commits(REPO)[0].oid, "siblings": siblings}
    hub.fail("GET", "/api/models/[^?]*\\?", status=200, body=json.dumps(answer).encode())
    assert files_in(fetch(REPO).path) == JSON | ONNX
    assert not list(tmp_path.rglob("evil.json"))


@contextmanager
def room_for(size):
    """No file may grow beyond so many bytes, as on a disk that is nearly full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_reported_and_the_next_download_succeeds(hub, refused):
    upload(hub)
    with room_for((shared_model_folder("cell") / "onnx/model.onnx").stat().st_size // 8):
        assert "cannot be stored (File too large); make room in" in refused(REPO)
    assert fetch(REPO).model_id == REPO


# Other interfaces


def test_a_fresh_process_imports_no_torch_and_shows_no_token(hub, tmp_path):
    commit = upload(hub, private=True)
    script = (
        "import sys, blastlens; assert 'huggingface_hub' not in sys.modules;"
        "c = blastlens.Classifier.from_pretrained(sys.argv[1]);"
        "assert not {'torch', 'timm', 'transformers'} & set(sys.modules); print(c.folder.revision)"
    )
    environment = hub.environment(tmp_path / "home", hub.token) | {"HF_DEBUG": "1", "HF_HUB_VERBOSITY": "debug"}
    for name in (REPO, f"{REPO}@{commit}"):
        command = [sys.executable, "-c", script, name]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
        assert (done.returncode, done.stdout.strip()) == (0, commit), done.stderr
        assert hub.token not in done.stderr
        hub.close()
