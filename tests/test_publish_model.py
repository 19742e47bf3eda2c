"""`hub_upload.py model`: what arrives is what was measured, in every runtime, over HTTP."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers_models import make_model_folder, write_json, write_record

import hub_upload
from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.synthetic_images import synthetic_image
from publish import model

ROOT = Path(__file__).resolve().parents[1]
REPO = "owner/cells"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small untrained single-cell model as it is published, with metrics to render a card from."""
    return write_record(make_model_folder(tmp_path_factory.mktemp("models") / "tiny-cells", "cell"), "cell")


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "models" / made.name)


@pytest.fixture
def publish(hub, monkeypatch, capfd, caplog):
    """`hub_upload.py` in this process: exit code and output, in which there is no token."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    caplog.set_level(logging.DEBUG)

    def run(*arguments):
        code = hub_upload.main([str(argument) for argument in arguments])
        output = "".join(capfd.readouterr())
        assert hub.token not in output + caplog.text
        return code, output

    return run


def test_a_folder_is_published_tagged_and_verified_and_the_second_time_nothing_changes(hub, publish, folder):
    (folder / ".DS_Store").write_bytes(b"x")
    command = ("model", folder, "--repo-id", REPO, "--tag", "v1.0")
    code, output = publish(*command)
    assert code == 0, output
    files = hub.files(REPO)
    assert ".DS_Store" not in files
    for path in ("config.json", "model.safetensors", "onnx/model.onnx", "onnx/model_int8.onnx", "metrics.json"):
        assert files[path] == (folder / path).read_bytes()
    assert 'model="owner/cells"' in files["README.md"].decode() and not (folder / "README.md").exists()
    commits = hub.commits(REPO)
    assert hub.tags(REPO) == {"v1.0": commits[0].oid} and len(commits) == 2
    assert "ONNX Runtime, transformers, timm: same outputs" in output and "identical byte by byte" in output
    assert "the downloaded model has the same outputs" in output
    code, output = publish(*command)
    assert code == 0 and hub.commits(REPO) == commits and "no new commit" in output


def test_a_dry_run_needs_no_token_and_changes_nothing(hub, publish, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, output = publish("model", folder, "--repo-id", REPO, "--dry-run")
    assert code == 0 and "+ model.safetensors" in output and output.rstrip().endswith("nothing was changed")
    assert not hub.exists(REPO)


def without(name):
    return lambda folder: (folder / name).unlink()


def with_file(name, content=b""):
    return lambda folder: (folder / name).write_bytes(content)


def with_other_weights(folder):
    shutil.copy(make_model_folder(folder.parent / "other", "cell", seed=1) / "model.safetensors", folder)
    write_record(folder, "cell")


def with_metrics_that_make_no_card(folder):
    record = json.loads((folder / "metrics.json").read_text())
    record["protocols"][0]["by_sigma"][0]["per_class"] = [1, 2]
    write_json(folder / "metrics.json", record)


def without_measurement(folder):
    write_json(folder / "metrics.json", {"schema": 1, "model": folder.name, "protocols": []})


def with_broken_file(name):
    def change(folder):
        (folder / name).write_bytes(b"broken")
        write_record(folder, "cell")

    return change


def without_anything(folder):
    shutil.rmtree(folder)


def with_a_link(folder):
    (folder.parent / "secret.json").write_text('{"password": 1}')
    (folder / "gate.json").symlink_to(folder.parent / "secret.json")


def with_code(reference):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        write_json(folder / "config.json", config | {"auto_map": {"AutoConfig": reference}})

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (without_anything, "is not a folder"),
        (without("metrics.json"), "has no metrics.json"),
        (without("onnx/model.onnx"), "has no onnx/model.onnx"),
        (without_measurement, "holds no measurement"),
        (with_file("pytorch_model.bin"), "does not belong in a model folder"),
        (with_file("modeling_blastlens.py", b"print()"), "is not this project's"),
        (with_file("patient_0001.png"), "does not belong in a model folder"),
        (with_a_link, "is a link"),
        (with_broken_file("onnx/model_int8.onnx"), "model_int8.onnx"),
        (with_other_weights, "differ in ONNX Runtime"),
        (with_metrics_that_make_no_card, "metrics.json"),
        (with_code("evil/code--modeling_evil.Config"), "names code that is not modeling_blastlens.py"),
        (with_code("modeling_blastlens.BlastlensConfig"), "names code that is not modeling_blastlens.py"),
    ],
)
def test_an_unfit_folder_never_reaches_the_hub(hub, publish, folder, change, message):
    change(folder)
    code, output = publish("model", folder, "--repo-id", REPO)
    assert code == 2 and message in output and "Traceback" not in output
    assert not hub.exists(REPO) and {request.method for request in hub.requests} <= {"GET"}


def test_a_folder_that_changes_meanwhile_is_published_as_it_was_checked(hub, publish, folder, monkeypatch):
    outputs = model.runtime_outputs

    def meanwhile(path, *arguments):
        (folder / "metrics.json").write_text("{}")
        return outputs(path, *arguments)

    before = (folder / "metrics.json").read_bytes()
    monkeypatch.setattr(model, "runtime_outputs", meanwhile)
    assert publish("model", folder, "--repo-id", REPO)[0] == 0
    assert hub.files(REPO)["metrics.json"] == before


def test_a_model_of_another_project_is_not_replaced(hub, publish, folder):
    theirs = {"metrics.json": b'{"eval_loss": 1}', "pytorch_model.bin": b"x", "train.py": b"x"}
    hub.add_repo(REPO, theirs)
    code, output = publish("model", folder, "--repo-id", REPO)
    assert code == 2 and "do not belong to this (pytorch_model.bin, train.py)" in output
    assert hub.files(REPO) == theirs


def test_a_model_with_other_outputs_after_the_download_is_not_tagged(hub, publish, folder, monkeypatch):
    outputs, calls = model.runtime_outputs, []

    def different(path, *arguments):
        calls.append(path)
        found = outputs(path, *arguments)
        return found if len(calls) == 1 else {name: 1 - rows for name, rows in found.items()}

    monkeypatch.setattr(model, "runtime_outputs", different)
    code, output = publish("model", folder, "--repo-id", REPO, "--tag", "v1.0")
    assert code == 2 and "has other outputs" in output and hub.tags(REPO) == {}


def test_a_runtime_that_fails_is_named_without_the_clients_exception(folder):
    with_broken_file("model.safetensors")(folder)
    with pytest.raises(BlastlensError, match="does not load in transformers") as caught:
        model.runtime_outputs(folder)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_nan_does_not_count_as_equal():
    outputs = {"a": np.array([[np.nan, np.nan]]), "b": np.array([[0.5, 0.5]])}
    assert not model.largest_difference(outputs) <= model.TOLERANCE


def test_help_is_shown_without_importing_torch():
    command = [sys.executable, "-X", "importtime", "hub_upload.py", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and all(word in done.stdout for word in ("model", "space", "static-page", "collection"))
    assert not [line for line in done.stderr.splitlines() if line.endswith((" torch", " transformers", " gradio"))]


# A user with transformers, timm and ONNX Runtime alone, an empty cache, and the Hub's address.
USER = """
import json, sys
from transformers import pipeline
import timm
classify = pipeline("image-classification", model=sys.argv[1])
scores = [{row["label"]: row["score"] for row in classify(path, top_k=None)} for path in sys.argv[2:]]
network = timm.create_model("hf-hub:" + sys.argv[1], pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)
from PIL import Image
import torch, huggingface_hub, onnxruntime
pixels = torch.stack([transform(Image.open(path).convert("RGB")) for path in sys.argv[2:]])
with torch.inference_mode():
    by_timm = network(pixels).softmax(1).tolist()
session = onnxruntime.InferenceSession(huggingface_hub.hf_hub_download(sys.argv[1], "onnx/model.onnx", revision="v1.0"))
by_onnx = torch.tensor(session.run(["logits"], {"pixel_values": pixels.numpy()})[0]).softmax(1).tolist()
assert not any(name.split(".")[0] in ("blastlens", "train", "publish") for name in sys.modules)
print(json.dumps([scores, by_timm, by_onnx]))
"""


@pytest.mark.slow
def test_a_user_with_an_empty_cache_gets_the_measured_predictions_of_a_bundled_model(hub, publish, tmp_path):
    folder = ROOT / "models/mobilenetv1-cnmc2019"
    code, output = publish("model", folder, "--repo-id", REPO, "--tag", "v1.0")
    assert code == 0, output
    paths = [tmp_path / f"{label}{seed}.png" for label in ("ALL", "HEM") for seed in range(3)]
    for path in paths:
        synthetic_image(path.stem[:-1], int(path.stem[-1])).resize((224, 224)).save(path)
    command = [sys.executable, "-c", USER, REPO, *map(str, paths)]
    environment = hub.environment(tmp_path / "empty")
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    by_pipeline, by_timm, by_onnx = json.loads(done.stdout.splitlines()[-1])
    expected = Classifier.from_pretrained(folder).predict(paths)
    for prediction, *found in zip(expected, by_pipeline, by_timm, by_onnx, strict=True):
        assert found[0] == pytest.approx(prediction.probabilities, abs=1e-4)
        for one in found[1:]:
            assert one == pytest.approx(list(prediction.probabilities.values()), abs=1e-4)
