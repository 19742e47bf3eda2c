"""Model folders: what is accepted, what is rejected and with which message, and where they are looked for.

A folder whose files were damaged, swapped or written by an attacker predicts nothing.
"""

import json
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers_models import FRAME, LABELS, SIZE, blobs, make_model_folder, shared_model_folder, write_json, write_record
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from blastlens import BlastlensError, Classifier
from blastlens.hub import fetch
from blastlens.integrity import digests
from blastlens.model_folder import OOD_FILES, ModelFolder, bundled_models
from blastlens.serving import Wanted, serve

ROOT = Path(__file__).resolve().parents[1]
ONNX, INT8, SAFETENSORS = "onnx/model.onnx", "onnx/model_int8.onnx", "model.safetensors"
NOT_THE_FILE = "is cut off, damaged or not the file that metrics.json was written for"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another network of the same shapes, with the same labels."""
    return make_model_folder(tmp_path_factory.mktemp("other") / "other-cell", "cell", seed=1)


@pytest.fixture
def recorded(tmp_path):
    """A folder whose metrics.json records the digests of its files, as training writes it."""
    return write_record(shutil.copytree(shared_model_folder("cell"), tmp_path / "recorded"), "cell")


@pytest.fixture
def folder(tmp_path):
    """A folder without recorded digests."""
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


def refusal(folder, precision="fp32"):
    """The one sentence with which a folder is rejected."""
    with pytest.raises(BlastlensError) as caught:
        Classifier.from_pretrained(folder, precision=precision)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700 and said.endswith(".") and ". " not in said
    return said


def edit(file, **changes):
    value = json.loads(file.read_text()) | changes
    write_json(file, {key: one for key, one in value.items() if one is not ...})


# Ways to change a folder: functions of it and of another folder


def cut(file, share=0.5):
    return lambda folder, other: os.truncate(folder / file, int((folder / file).stat().st_size * share))


def swapped(file):
    return lambda folder, other: shutil.copy(other / file, folder / file)


def in_config(**changes):
    return lambda folder, other: edit(folder / "config.json", **changes)


def with_file(name, content=b""):
    return lambda folder, other: (folder / name).write_bytes(content)


def linked_out(name):
    def change(folder, other):
        shutil.move(folder / name, folder.parent / "outside")
        (folder / name).symlink_to(folder.parent / "outside")

    return change


def without_onnx(change):
    def both(folder, other):
        shutil.rmtree(folder / "onnx")
        change(folder, other)

    return both


def in_onnx(change):
    def changed(folder, other):
        model = onnx.load(folder / ONNX)
        change(model.graph)
        (folder / ONNX).write_bytes(model.SerializeToString())

    return changed


def with_number(value, place=0):
    def change(graph):
        tensor = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1][place]
        numbers = numpy_helper.to_array(tensor).copy()
        numbers.flat[0] = value
        tensor.raw_data = numbers.tobytes()

    return change


def with_swapped_classes(graph):
    """The rows of the last linear layer swap places."""
    for tensor in graph.initializer:
        if tensor.name.endswith(("classifier.weight", "classifier.bias")):
            tensor.raw_data = numpy_helper.to_array(tensor)[::-1].tobytes()


def with_unknown_operator(graph):
    graph.node[0].domain, graph.node[0].op_type = "unknown.domain", "Run"


def with_external_data(place):
    def change(graph):
        tensor = max(graph.initializer, key=lambda one: len(one.raw_data))
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", str(length))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    return in_onnx(change)


def in_safetensors(value):
    def change(folder, other):
        tensors = load_file(folder / SAFETENSORS)
        tensors[min(tensors)] = np.full_like(tensors[min(tensors)], value)
        save_file(tensors, folder / SAFETENSORS)

    return change


def with_header(**changes):
    def change(folder, other):
        data = (folder / SAFETENSORS).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header = json.loads(data[8 : 8 + length])
        header.pop("__metadata__", None)
        header[min(header)] |= changes
        text = json.dumps(header).encode()
        (folder / SAFETENSORS).write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])

    return change


def with_huge_header(folder, other):
    data = (folder / SAFETENSORS).read_bytes()
    (folder / SAFETENSORS).write_bytes(struct.pack("<Q", 2**62) + data[8:])


# Reading


@pytest.mark.parametrize(("kind", "frame"), [("cell", FRAME), ("field", None)])
def test_a_folder_is_read(kind, frame):
    folder = ModelFolder.load(shared_model_folder(kind))
    assert (folder.model_id, folder.revision, folder.label_names) == (f"tiny-{kind}", None, tuple(LABELS[kind]))
    assert (folder.view.size, folder.view.frame, folder.metrics["schema"]) == (SIZE, frame, 1)


def test_the_protocol_is_the_first_with_unseen_groups_or_none(folder):
    assert ModelFolder.load(folder).protocol() is None
    protocols = [{"name": name, "level": name.split("-")[0]} for name in ("image-10fold", "group-kfold:3", "group-x")]
    edit(folder / "metrics.json", protocols=protocols)
    assert ModelFolder.load(folder).protocol() == protocols[1]
    (folder / "metrics.json").unlink()
    assert ModelFolder.load(folder).metrics == {} and ModelFolder.load(folder).protocol() is None


def test_either_kind_of_weights_is_enough(folder):
    weights = folder / SAFETENSORS
    weights.rename(folder / "aside")
    assert ModelFolder.load(folder)
    shutil.rmtree(folder / "onnx")
    with pytest.raises(BlastlensError, match="no weights"):
        ModelFolder.load(folder)
    (folder / "aside").rename(weights)
    assert ModelFolder.load(folder)


def test_pickles_in_the_hubs_cache_are_ignored(folder):
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
        ({"architecture": ...}, "no architecture"),
        ({"pretrained_cfg": ...}, "no pretrained_cfg"),
        ({"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 0.875}}, "crop_pct"),
        ({"id2label": {"0": "HEM", "1": "ALL"}}, "id2label in config.json says {'0': 'HEM', '1': 'ALL'}"),
        ({"label2id": ["ALL", "HEM"]}, "label2id in config.json says"),
    ],
)
def test_a_config_that_does_not_fit_is_rejected(folder, changes, reason):
    edit(folder / "config.json", **changes)
    assert reason in (said := refusal(folder)) and "Model folder copy cannot be used" in said


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "metrics.json"])
@pytest.mark.parametrize("content", [b"{not json", b"[]", b"\xff\xfe", b'{"a":' * 100_000])
def test_files_without_a_json_object_are_rejected_by_name(folder, name, content):
    (folder / name).write_bytes(content)
    assert name in refusal(folder)


def test_a_folder_without_config_is_rejected(folder):
    (folder / "config.json").unlink()
    assert "config.json is missing" in refusal(folder)


# With recorded digests

RECORDED_CHANGES = {
    **{f"{file} cut off at {share}": cut(file, share) for file in (ONNX, INT8, SAFETENSORS) for share in (0, 0.9999)},
    **{f"{file} of another network": swapped(file) for file in (ONNX, INT8, SAFETENSORS)},
    "NaN in the ONNX file": in_onnx(with_number(np.nan)),
    "swapped classes": in_onnx(with_swapped_classes),
}


@pytest.mark.parametrize("how", RECORDED_CHANGES)
def test_a_network_file_that_differs_from_its_record_is_rejected(recorded, other, how):
    RECORDED_CHANGES[how](recorded, other)
    for precision in ("fp32", "int8"):
        said = refusal(recorded, precision)
        assert said.startswith("Model folder recorded cannot be used: ") and NOT_THE_FILE in said


def test_a_swapped_label_list_is_rejected_and_both_orders_are_shown(recorded):
    edit(recorded / "config.json", label_names=["HEM", "ALL"])
    assert "are HEM, ALL, but label_names in metrics.json says ['ALL', 'HEM']" in refusal(recorded)


@pytest.mark.parametrize(
    "record",
    [
        *({"sha256": odd} for odd in (1, [], {"fp32": None})),
        *({"protocols": odd} for odd in (1, [1])),
        *({key: [1]} for key in ("calibration", "headline", "training")),
    ],
    ids=str,
)
def test_a_record_of_other_types_is_rejected(recorded, record):
    edit(recorded / "metrics.json", **record)
    assert "metrics.json" in refusal(recorded)


def write_ood_check(folder, seed):
    """An out-of-distribution check for the 256 features of the small network."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(256, 4)))[0].T
    parts = {"mean": rng.normal(size=256), "directions": directions, "rest": np.ones(1)}
    save_file({name: part.astype(np.float32) for name, part in parts.items()}, folder / "gate.safetensors")
    features = {"limit": 9, "sha256": digests(folder, OOD_FILES)}
    record = {"schema": 2, "images": "cells", "statistics": {"black": {"low": 0, "high": 1}}, "features": features}
    write_json(folder / "gate.json", record)


def test_the_ood_check_of_another_network_is_rejected(recorded, folder):
    write_ood_check(recorded, 0)
    assert Classifier.from_pretrained(recorded).folder.ood_detector.features
    in_onnx(with_number(0.5))(folder, None)
    write_ood_check(folder, 1)
    shutil.copy(folder / "gate.safetensors", recorded)
    assert "gate.safetensors, of " in (said := refusal(recorded)) and "that gate.json was written for" in said
    shutil.copy(folder / "gate.json", recorded)  # the two fit each other, but not the network
    assert "onnx/model.onnx, of " in (said := refusal(recorded)) and "that gate.json was written for" in said


# Without recorded digests

CHANGES = {
    "ONNX of another network": (swapped(ONNX), "are two different networks: classifier."),
    "safetensors of another network": (swapped(SAFETENSORS), "are two different networks: classifier."),
    "cut ONNX": (cut(ONNX), "onnx/model.onnx of model copy is damaged or not an ONNX model"),
    "cut safetensors": (cut(SAFETENSORS), "model.safetensors is damaged or not a safetensors file"),
    "cut safetensors alone": (without_onnx(cut(SAFETENSORS)), "model.safetensors of model copy is missing, damaged"),
    "long safetensors": (
        lambda folder, other: (folder / SAFETENSORS).open("ab").write(b"more"),
        "model.safetensors is damaged or not a safetensors file",
    ),
    "NaN in ONNX": (in_onnx(with_number(np.nan)), "are not finite numbers"),
    "infinity in ONNX": (in_onnx(with_number(np.inf, place=-1)), "are not finite numbers"),
    "NaN in safetensors": (in_safetensors(np.nan), "in model.safetensors holds numbers that are not finite"),
    "infinity in safetensors": (in_safetensors(np.inf), "in model.safetensors holds numbers that are not finite"),
    "NaN in safetensors alone": (without_onnx(in_safetensors(np.nan)), "not finite"),
    "swapped classes": (in_onnx(with_swapped_classes), "is not that of its logits"),
    "a header with a wrong shape": (with_header(shape=[10**9]), "not a safetensors file"),
    "a header with a wrong place": (with_header(data_offsets=[0, 10**15]), "not a safetensors file"),
    "a huge header": (with_huge_header, "not a safetensors file"),
    "an unknown operator": (in_onnx(with_unknown_operator), "is damaged or not an ONNX model"),
    "external data": (with_external_data("../../outside.bin"), "is damaged or not an ONNX model"),
    "external data of the system": (with_external_data("/etc/passwd"), "is damaged or not an ONNX model"),
    "labels of another task": (in_config(label_names=["a", "b", "c"], num_classes=3), "logits (N, 3)"),
    "code": (with_file("extra.py"), "extra.py is code that this model was not exported with"),
    "code that config.json names": (
        lambda folder, other: [
            with_file("modeling_evil.py")(folder, other),
            in_config(auto_map={"AutoModelForImageClassification": "modeling_evil.Net"})(folder, other),
        ],
        "modeling_evil.py is code",
    ),
    "a library": (with_file("onnx/ops.so"), "onnx/ops.so is code"),
    "a pickle": (with_file("pytorch_model.bin"), "pytorch_model.bin may run code"),
    "a pickle of scikit-learn": (with_file("onnx/head.PKL"), "onnx/head.PKL may run code"),
    "a Keras file": (with_file("tf_model.h5"), "tf_model.h5 may run code"),
    "a linked config.json": (linked_out("config.json"), "config.json is a link that leads out"),
    "a linked ONNX file": (linked_out(ONNX), "onnx/model.onnx is a link that leads out"),
    "a linked folder": (linked_out("onnx"), "is a link that leads out"),
    "a huge metrics.json": (
        lambda folder, other: os.truncate(folder / "metrics.json", 10_000_001),
        "metrics.json is larger than 10 MB",
    ),
}


@pytest.mark.parametrize("how", CHANGES)
def test_damaged_and_hostile_folders_are_rejected_without_a_record_too(folder, other, how):
    change, message = CHANGES[how]
    change(folder, other)
    assert message in refusal(folder)


def test_the_linear_layer_is_found_if_an_exporter_transposed_it(folder):
    def transpose(graph):
        for tensor in graph.initializer:
            if tensor.name.endswith("classifier.weight"):
                numbers = numpy_helper.to_array(tensor).T.copy()
                tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
        gemm = next(node for node in graph.node if node.op_type == "Gemm")
        next(attribute for attribute in gemm.attribute if attribute.name == "transB").i = 0

    expected = Classifier.from_pretrained(folder).predict(blobs(0)).logits
    in_onnx(transpose)(folder, None)
    assert Classifier.from_pretrained(folder).predict(blobs(0)).logits == pytest.approx(expected, abs=1e-5)


def test_links_inside_a_folder_and_inside_the_hubs_cache_are_followed(folder, tmp_path):
    (folder / ONNX).rename(folder / "network.onnx")
    (folder / ONNX).symlink_to("../network.onnx")
    assert Classifier.from_pretrained(folder)
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (snapshot / "config.json").rename(tmp_path / "models--owner--name" / "blob")
    (snapshot / "config.json").symlink_to("../../blob")
    assert ModelFolder.load(snapshot)


def test_an_output_of_another_shape_than_declared_is_rejected(folder):
    def count(graph):  # (K, 2) for K numbers that are not 0: of one image two rows, where nothing is declared
        next(node for node in graph.node if "logits" in node.output).output[0] = "kept"
        steps = (("NonZero", "kept", "where"), ("Transpose", "where", "turned"))
        graph.node.extend(onnx.helper.make_node(kind, [given], [made]) for kind, given, made in steps)
        graph.node.append(onnx.helper.make_node("Cast", ["turned"], ["logits"], to=onnx.TensorProto.FLOAT))

    in_onnx(count)(folder, None)
    assert "does not map" in refusal(folder)


def test_a_download_is_checked_like_a_local_folder(hub, recorded, other):
    swapped(ONNX)(recorded, other)
    commit = hub.add_folder("owner/cells", recorded)
    with pytest.raises(BlastlensError, match=NOT_THE_FILE):
        fetch("owner/cells")
    with pytest.raises(BlastlensError, match=f"{NOT_THE_FILE}.*Its copy cannot be served either"):
        serve([Wanted("owner/cells", commit, recorded)])


# Where models are looked for


def test_bundled_models_are_found_by_name_from_anywhere_and_others_by_their_path(bundled):
    for name in (bundled / "a-field", f"{bundled}/a-field/", "./bundled/a-field"):
        assert fetch(name).model_id == "a-field"
    assert bundled_models() == ["a-cell", "a-field"]
    for name in ("a-cell", "models/a-cell", "models/a-cell/"):
        assert (fetch(name).model_id, fetch(name).path) == ("a-cell", bundled / "a-cell")


@pytest.mark.parametrize(
    "name", ["nothing", "models/nothing", "", "a b/c", "/no/such/path", "bundled/a-cell/config.json", "a-cell@v1"]
)
def test_an_unknown_name_is_rejected_without_a_request(bundled, hub, name):
    with pytest.raises(BlastlensError, match=r"bundled model \(a-cell, a-field\).* or owner/name@revision"):
        fetch(name)
    assert hub.requests == []


def test_local_folders_come_before_the_hub(bundled, hub):
    shutil.copytree(bundled / "a-cell", "owner/name@v1")
    for name in ("bundled/a-cell", "owner/name@v1"):
        assert fetch(name).revision is None
    assert hub.requests == []


def test_a_revision_is_rejected_where_there_are_none(bundled):
    for name in ("a-cell", bundled / "a-cell"):
        with pytest.raises(BlastlensError, match="no revisions"):
            fetch(name, revision="main")


# The bundled models


@pytest.mark.parametrize("name", bundled_models())
def test_a_bundled_model_records_its_digests(name):
    folder = fetch(name)
    assert folder.metrics["sha256"].keys() == {"fp32", "int8", "safetensors"}
    assert folder.metrics["label_names"] == list(folder.label_names)
    assert json.loads((folder.path / "gate.json").read_text())["features"]["sha256"] == digests(folder.path, OOD_FILES)
