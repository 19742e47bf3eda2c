"""Model folders: what is accepted, what is refused and in which words, and where they are looked for."""

import json
import os
import shutil

import pytest
from helpers_models import FRAME, LABELS, SIZE, shared_model_folder, write_json

from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder, bundled_models, fetch


@pytest.fixture
def folder(tmp_path):
    """A copy of the single-cell folder whose files may be spoiled."""
    return shutil.copytree(shared_model_folder("cell"), tmp_path / "copy")


@pytest.fixture
def bundled(tmp_path, monkeypatch):
    """A stand-in for the repository's models/, with one folder of each kind."""
    root = tmp_path / "bundled"
    for kind in ("field", "cell"):
        shutil.copytree(shared_model_folder(kind), root / f"a-{kind}")
    (root / "not-a-model").mkdir()
    monkeypatch.setenv("BLASTLENS_MODELS", str(root))
    monkeypatch.chdir(tmp_path)
    return root


def edit(file, **changes):
    value = json.loads(file.read_text()) | changes
    write_json(file, {k: v for k, v in value.items() if v is not ...})


@pytest.mark.parametrize(("kind", "frame"), [("cell", FRAME), ("field", None)])
def test_a_folder_is_read(kind, frame):
    folder = ModelFolder.load(shared_model_folder(kind))
    assert folder.model_id == f"tiny-{kind}"
    assert folder.revision is None
    assert folder.label_names == tuple(LABELS[kind])
    assert (folder.view.size, folder.view.frame) == (SIZE, frame)
    assert folder.metrics["schema"] == 1


def test_metrics_are_optional(folder):
    (folder / "metrics.json").unlink()
    assert ModelFolder.load(folder).metrics == {}


def test_the_protocol_of_a_level_is_the_first_of_it_or_none(folder):
    assert ModelFolder.load(folder).protocol() is None
    protocols = [{"name": name, "level": name.split("-")[0]} for name in ("image-10fold", "group-kfold:3", "group-x")]
    edit(folder / "metrics.json", protocols=protocols)
    assert ModelFolder.load(folder).protocol() == protocols[1]
    assert ModelFolder.load(folder).protocol("image") == protocols[0]
    (folder / "metrics.json").unlink()
    assert ModelFolder.load(folder).protocol() is None


def test_either_kind_of_weights_is_enough(folder):
    weights = folder / "model.safetensors"
    weights.rename(folder / "aside")
    assert ModelFolder.load(folder)
    shutil.rmtree(folder / "onnx")
    with pytest.raises(BlastlensError, match="no weights"):
        ModelFolder.load(folder)
    (folder / "aside").rename(weights)
    assert ModelFolder.load(folder)


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".pkl", ".ckpt", ".PT"])
def test_a_folder_with_a_pickle_anywhere_is_refused(folder, suffix):
    (folder / "onnx" / f"extra{suffix}").touch()
    with pytest.raises(BlastlensError, match=r"may run code when it is loaded; safetensors and ONNX"):
        ModelFolder.load(folder)


def test_pickles_beside_a_model_of_the_hub_are_others_business(folder):
    # The Hub's cache holds what other programs fetched; nothing of it is read here.
    (folder / "pytorch_model.bin").touch()
    loaded = ModelFolder.load(folder, "owner/name", "0" * 40)
    assert (loaded.model_id, loaded.revision) == ("owner/name", "0" * 40)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"label_names": ["ALL"]}, "1 label_names and num_classes 2"),
        ({"label_names": ["ALL", "ALL"]}, "one distinct name"),
        ({"label_names": {"0": "ALL", "1": "HEM"}}, "must be a list"),
        ({"label_names": ["ALL", ""]}, "must be a list of names"),
        ({"label_names": ...}, "must be a list"),
        ({"num_classes": 3}, "num_classes 3"),
        ({"num_classes": ...}, "num_classes None"),
        ({"architecture": ...}, "no architecture"),
        ({"pretrained_cfg": ...}, "no pretrained_cfg"),
        ({"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.875}}, "crop_pct 1.0"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(folder, changes, reason):
    edit(folder / "config.json", **changes)
    with pytest.raises(BlastlensError, match=reason) as refusal:
        ModelFolder.load(folder)
    assert "Model folder copy cannot be used" in str(refusal.value)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "metrics.json"])
@pytest.mark.parametrize("content", [b"{not json", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_files_that_hold_no_json_object_are_refused_by_name(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(BlastlensError, match=name):
        ModelFolder.load(folder)


def test_a_missing_config_and_a_missing_folder_are_told_apart(folder, tmp_path):
    (folder / "config.json").unlink()
    with pytest.raises(BlastlensError, match=r"config\.json is missing"):
        ModelFolder.load(folder)
    with pytest.raises(BlastlensError, match="is not a folder"):
        ModelFolder.load(tmp_path / "nowhere")


def test_bundled_models_are_found_by_name_from_anywhere(bundled):
    assert bundled_models() == ["a-cell", "a-field"]
    for name in ("a-cell", "models/a-cell", "models/a-cell/"):
        folder = fetch(name)
        assert (folder.model_id, folder.path) == ("a-cell", bundled / "a-cell")


def test_a_path_is_found_and_named_after_its_folder(bundled):
    for name in (bundled / "a-field", str(bundled / "a-field"), f"{bundled}/a-field/", "./bundled/a-field"):
        assert fetch(name).model_id == "a-field"


@pytest.mark.parametrize(
    "name",
    [
        "nothing",
        "models/nothing",
        "",
        "a b/c",
        "/no/such/path",
        "bundled/a-cell/config.json",
        "a-cell@v1",
        "models/x@v1",
    ],
)
def test_a_name_that_fits_nothing_is_refused_without_asking_the_hub(bundled, hub, name):
    with pytest.raises(BlastlensError, match=r"bundled model \(a-cell, a-field\).* or owner/name@revision"):
        fetch(name)
    assert hub.requests == []


def test_what_is_here_goes_before_what_the_hub_may_have(bundled, hub):
    shutil.copytree(bundled / "a-cell", "owner/name@v1")
    for name in ("bundled/a-cell", "owner/name@v1"):
        assert fetch(name).revision is None
    assert hub.requests == []


def test_a_revision_is_refused_where_there_are_none(bundled):
    for name in ("a-cell", bundled / "a-cell"):
        with pytest.raises(BlastlensError, match="no revisions"):
            fetch(name, revision="main")


def test_an_unset_models_variable_means_the_folder_beside_the_package(monkeypatch):
    import blastlens
    from blastlens.model_folder import bundled_root

    monkeypatch.delenv("BLASTLENS_MODELS", raising=False)
    package = os.path.dirname(blastlens.__file__)
    assert bundled_root() == (bundled_root().parent / "models")
    assert str(bundled_root().parent) == os.path.dirname(os.path.realpath(package))
