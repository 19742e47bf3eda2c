"""`hub_upload.py model`: what arrives is what was measured, on every road, over HTTP."""

import json
import logging
import os
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
from blastlens.synthetic_images import draw_cell, draw_field
from publish import check

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = {"cell": "mobilenetv1-cnmc2019", "field": "mobilenetv2-aria2021"}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A small untrained single-cell model in the form that is published, with a record to render a card from."""
    return write_record(make_model_folder(tmp_path_factory.mktemp("models") / "tiny-cells", "cell"), "cell")


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return shutil.copytree(made, tmp_path / "models" / made.name)


@pytest.fixture
def publish(hub, monkeypatch, capfd, caplog):
    """`hub_upload.py`, run in this process: exit code, and everything it printed. The token may be in none of it."""
    monkeypatch.setenv("HF_TOKEN", hub.token)
    caplog.set_level(logging.DEBUG)

    def run(*arguments):
        code = hub_upload.main([str(argument) for argument in arguments])
        printed = "".join(capfd.readouterr())
        assert hub.token not in printed + caplog.text
        return code, printed

    return run


def test_a_folder_goes_up_is_tagged_and_comes_back_the_same(hub, publish, folder):
    code, printed = publish("model", folder, "--repo-id", "someone/cells", "--tag", "v1.0")
    assert code == 0, printed
    there = hub.files("someone/cells")
    for path in ("config.json", "model.safetensors", "onnx/model.onnx", "onnx/model_int8.onnx", "metrics.json"):
        assert there[path] == (folder / path).read_bytes()
    assert set(hub.tags("someone/cells")) == {"v1.0"} and len(hub.commits("someone/cells")) == 2
    assert "ONNX Runtime, transformers, timm: same answers" in printed
    assert "the same answers on every road" in printed and "the same byte by byte" in printed


def test_its_card_tells_people_to_load_it_from_there(hub, publish, folder):
    publish("model", folder, "--repo-id", "someone/cells")
    card = hub.files("someone/cells")["README.md"].decode()
    assert 'model="someone/cells"' in card and "models/tiny-cells" not in card
    assert not (folder / "README.md").exists()  # the folder is only read


def test_the_same_folder_again_makes_no_commit(hub, publish, folder):
    publish("model", folder, "--repo-id", "someone/cells")
    first = hub.commits("someone/cells")
    code, printed = publish("model", folder, "--repo-id", "someone/cells")
    assert code == 0 and hub.commits("someone/cells") == first
    assert "no new commit" in printed


def test_a_dry_run_needs_no_token_and_changes_nothing(hub, publish, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    code, printed = publish("model", folder, "--repo-id", "someone/cells", "--dry-run")
    assert code == 0 and "+ model.safetensors" in printed and printed.rstrip().endswith("nothing was changed")
    assert not hub.exists("someone/cells")


def test_a_pull_request_is_not_tagged(hub, publish, folder):
    code, printed = publish("model", folder, "--repo-id", "someone/cells", "--create-pr", "--tag", "v1")
    assert code == 2 and "cannot be tagged" in printed and not hub.exists("someone/cells")


def without(name):
    return lambda folder: (folder / name).unlink()


def with_a(name, content=b""):
    return lambda folder: (folder / name).write_bytes(content)


def with_other_weights(folder):
    shutil.copy(make_model_folder(folder.parent / "other", "cell", seed=1) / "model.safetensors", folder)
    write_record(folder, "cell")


def changed_since_it_was_measured(folder):
    shutil.copy(make_model_folder(folder.parent / "other", "cell", seed=1) / "onnx" / "model.onnx", folder / "onnx")


def with_another_record(folder):
    write_record(folder, "field")


def with_a_record_that_makes_no_card(folder):
    record = json.loads((folder / "metrics.json").read_text())
    record["protocols"][0]["by_sigma"][0]["per_class"] = [1, 2]
    write_json(folder / "metrics.json", record)


def with_broken_int8(folder):
    (folder / "onnx" / "model_int8.onnx").write_bytes(b"broken")
    write_record(folder, "cell")


def with_a_link(folder):
    (folder.parent / "secret.json").write_text('{"password": 1}')
    (folder / "gate.json").symlink_to(folder.parent / "secret.json")


def naming_code_of_another_repository(folder):
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"auto_map": {"AutoConfig": "evil/code--modeling_evil.Config"}})


def naming_code_that_is_not_there(folder):
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", config | {"auto_map": {"AutoConfig": "modeling_blastlens.BlastlensConfig"}})


def unmeasured(folder):
    write_json(folder / "metrics.json", {"schema": 1, "model": folder.name, "protocols": []})


@pytest.mark.parametrize(
    "spoil, sentence",
    [
        (without("metrics.json"), "has no metrics.json"),
        (without("onnx/model.onnx"), "has no onnx/model.onnx"),
        (without("model.safetensors"), "has no model.safetensors"),
        (unmeasured, "holds no measurement"),
        (with_a("optimizer.pt"), "may run code"),
        (with_a("pytorch_model.bin"), "may run code"),
        (with_a("modeling_blastlens.py", b"print()"), "is not this project's"),
        (with_a("notes.docx"), "is no file of a model folder"),
        (with_a("patient_0001.png"), "is no file of a model folder"),
        (with_a("optimizer.safetensors"), "is no file of a model folder"),
        (with_a_link, "is a link"),
        (with_broken_int8, "model_int8.onnx"),
        (with_other_weights, "answers differently"),
        (changed_since_it_was_measured, "not the file that metrics.json was written for"),
        (with_another_record, "label_names in metrics.json says"),
        (with_a_record_that_makes_no_card, "metrics.json"),
        (naming_code_of_another_repository, "names code that is not modeling_blastlens.py"),
        (naming_code_that_is_not_there, "names code that is not modeling_blastlens.py"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_folder_that_is_not_fit_to_publish_never_reaches_the_hub(hub, publish, folder, spoil, sentence):
    spoil(folder)
    code, printed = publish("model", folder, "--repo-id", "someone/cells")
    assert code == 2 and sentence in printed and "Traceback" not in printed
    assert not hub.exists("someone/cells")
    assert {request.method for request in hub.requests} <= {"GET"}


def test_hidden_files_stay_at_home(folder):
    (folder / ".DS_Store").write_bytes(b"x")
    assert ".DS_Store" not in check.model_files(folder)


def test_what_changes_in_the_folder_meanwhile_is_not_what_goes_up(hub, publish, folder, monkeypatch):
    answers = check.answers

    def meanwhile(path, *arguments):
        (folder / "metrics.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"other weights")
        return answers(path, *arguments)

    before = {name: (folder / name).read_bytes() for name in ("metrics.json", "model.safetensors")}
    monkeypatch.setattr(check, "answers", meanwhile)
    assert publish("model", folder, "--repo-id", "someone/cells")[0] == 0
    assert {name: hub.files("someone/cells")[name] for name in before} == before


def test_a_model_repository_of_other_people_is_not_emptied(hub, publish, folder):
    theirs = {"metrics.json": b'{"eval_loss": 1}', "pytorch_model.bin": b"x", "train.py": b"x"}
    hub.add_repo("someone/cells", theirs)
    code, printed = publish("model", folder, "--repo-id", "someone/cells")
    assert code == 2 and "do not belong to this (pytorch_model.bin, train.py)" in printed
    assert hub.files("someone/cells") == theirs


def test_it_is_tagged_only_once_what_came_back_gives_the_same_answers(hub, publish, folder, monkeypatch):
    answers, asked = check.answers, []

    def differently(path, *arguments):
        asked.append(path)
        found = answers(path, *arguments)
        return found if len(asked) == 1 else check.Answers({road: 1 - given for road, given in found.by_road.items()})

    monkeypatch.setattr(check, "answers", differently)
    code, printed = publish("model", folder, "--repo-id", "someone/cells", "--tag", "v1.0")
    assert code == 2 and "answers differently" in printed and hub.tags("someone/cells") == {}


def test_uploads_keep_their_progress_bars(folder):
    from huggingface_hub.utils import are_progress_bars_disabled

    check.answers(folder)
    assert not are_progress_bars_disabled()


def test_a_road_that_fails_does_not_carry_the_clients_exception(folder):
    (folder / "model.safetensors").write_bytes(b"broken")
    write_record(folder, "cell")
    with pytest.raises(BlastlensError) as caught:
        check.answers(folder)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_password_in_the_hubs_address_is_not_shown(monkeypatch):
    from publish.hub import Hub

    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://me:s3cret@127.0.0.1:1")
    assert Hub().endpoint == "http://127.0.0.1:1"


def test_no_folder_is_named(publish, tmp_path):
    code, printed = publish("model", tmp_path / "nothing", "--repo-id", "someone/cells")
    assert code == 2 and "is not a folder" in printed


def test_answers_that_are_no_numbers_do_not_pass_as_equal():
    nan = check.Answers({"a": np.array([[np.nan, np.nan]]), "b": np.array([[0.5, 0.5]])})
    assert not nan.spread <= check.TOLERANCE


def test_help_is_quick_and_names_the_commands():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "hub_upload.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0 and all(word in done.stdout for word in ("model", "space", "collection"))
    assert not [line for line in done.stderr.splitlines() if line.endswith((" torch", " transformers", " gradio"))]


# A stranger with nothing but transformers and timm, an empty cache, and the Hub's address.
STRANGER = """
import json, sys
from transformers import pipeline
import timm
classify = pipeline("image-classification", model=sys.argv[1])
answers = [{a["label"]: a["score"] for a in classify(path, top_k=None)} for path in sys.argv[2:]]
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
print(json.dumps([answers, by_timm, by_onnx]))
"""


def by_a_stranger(hub, home: Path, repo_id: str, paths: list[Path]):
    done = subprocess.run(
        [sys.executable, "-c", STRANGER, repo_id, *map(str, paths)],
        env=hub.environment(home),
        cwd=home.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_the_stranger_gets(expected, stranger):
    by_pipeline, by_timm, by_onnx = stranger
    for mine, theirs, timms, onnxs in zip(expected, by_pipeline, by_timm, by_onnx, strict=True):
        assert theirs == pytest.approx(mine.probabilities, abs=1e-4)
        assert timms == pytest.approx(list(mine.probabilities.values()), abs=1e-4)
        assert onnxs == pytest.approx(list(mine.probabilities.values()), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BUNDLED)
def test_the_shipped_models_published_give_a_stranger_with_an_empty_cache_the_measured_answers(
    hub, publish, kind, tmp_path
):
    folder = ROOT / "models" / BUNDLED[kind]
    code, printed = publish("model", folder, "--repo-id", f"someone/{folder.name}", "--tag", "v1.0")
    assert code == 0, printed
    paths = images_of(kind, tmp_path)
    expected = Classifier.from_pretrained(folder).predict(paths)
    served = len(hub.requests)
    assert_the_stranger_gets(expected, by_a_stranger(hub, tmp_path / "empty", f"someone/{folder.name}", paths))
    fetched = {request.path.partition("?")[0] for request in hub.requests[served:] if request.method == "GET"}
    assert any("config.json" in path for path in fetched) and any(path.startswith("/cdn/") for path in fetched)


def images_of(kind: str, folder: Path) -> list[Path]:
    """Twelve real images, evenly spread, where they are on this machine; otherwise drawn ones."""
    data = os.environ.get("BLASTLENS_DATA")
    if data and (images := sorted(Path(data).glob({"cell": "cnmc2019/**/*.webp", "field": "aria2021/**/*.jpg"}[kind]))):
        return [images[i] for i in np.linspace(0, len(images) - 1, 12).astype(int)]
    draw, labels = (draw_cell, ("ALL", "HEM")) if kind == "cell" else (draw_field, ("Benign", "Early", "Pre", "Pro"))
    paths = []
    for label in labels:
        for seed in range(3):
            paths.append(folder / f"{label}{seed}.png")
            draw(label, seed, 224).save(paths[-1])
    return paths


def test_a_broken_road_is_told_in_one_sentence(folder):
    (folder / "model.safetensors").write_bytes(b"broken")
    write_record(folder, "cell")
    with pytest.raises(BlastlensError, match="does not load in transformers"):
        check.answers(folder)
