"""Where models come from: a folder or download that is not what was exported answers nothing, and says why; and the
page starts whatever the Hub does."""

import json
import os
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers_models import blobs, make_model_folder, shared_model_folder, write_json, write_record
from onnx import numpy_helper
from safetensors.numpy import load_file, save_file

from benchmarks.without_hub import silent_hub, space, start
from blastlens import BlastlensError, Classifier, serving
from blastlens.integrity import digests
from blastlens.model_folder import GATE_FILES, ModelFolder, bundled_models, bundled_root, fetch
from blastlens.serving import Wanted, begin, serve
from train import quantise

ROOT = Path(__file__).resolve().parents[1]
ONNX, INT8, SAFETENSORS = "onnx/model.onnx", "onnx/model_int8.onnx", "model.safetensors"
NOT_THE_FILE = "is cut off, damaged or not the file that metrics.json was written for"


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another network of the same shapes, with the same labels."""
    return make_model_folder(tmp_path_factory.mktemp("other") / "other-cell", "cell", seed=1)


@pytest.fixture
def recorded(tmp_path):
    """A folder whose metrics.json says which files it was written for, as train.export and train.evaluate do."""
    return write_record(shutil.copytree(shared_model_folder("cell"), tmp_path / "recorded"), "cell")


@pytest.fixture
def foreign(tmp_path):
    """A folder of which nothing is recorded."""
    return shutil.copytree(shared_model_folder("cell"), tmp_path / "foreign")


def refusal(folder, precision="fp32"):
    """Why it is refused, in one sentence."""
    with pytest.raises(BlastlensError) as caught:
        Classifier.from_pretrained(folder, precision=precision)
    said = str(caught.value)
    assert "\n" not in said and len(said) < 700 and said.endswith(".") and ". " not in said
    return said


def cut(file, share=0.5):
    return lambda folder, other: os.truncate(folder / file, int((folder / file).stat().st_size * share))


def swapped(file):
    return lambda folder, other: shutil.copy(other / file, folder / file)


def in_config(**changes):
    return lambda folder, other: edit(folder / "config.json", **changes)


def edit(file, **changes):
    write_json(file, json.loads(file.read_text()) | changes)


def in_onnx(change, of=ONNX):
    def spoil(folder, other):
        model = onnx.load(folder / of)
        change(model.graph)
        onnx.save(model, folder / of)

    return spoil


def with_number(value, matrix=True, last=False):
    """One number in an initialiser of the graph, the first or last one of several axes, becomes another one."""

    def change(graph):
        found = [t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT and len(t.dims) > 1]
        tensor = found[-1 if last else 0]
        numbers = numpy_helper.to_array(tensor).copy()
        numbers.flat[0] = value
        tensor.raw_data = numbers.tobytes()

    return change


def with_turned_answers(graph):
    """The rows of the last linear layer change places, which is a label list that was swapped in the network."""
    for tensor in graph.initializer:
        if tensor.name.endswith(("classifier.weight", "classifier.bias")):
            tensor.raw_data = numpy_helper.to_array(tensor)[::-1].tobytes()


def with_strange_operator(graph):
    graph.node[0].domain, graph.node[0].op_type = "somebody.else", "Run"


def with_numbers_elsewhere(place):
    def change(graph):
        tensor = max(graph.initializer, key=lambda one: len(one.raw_data))
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", place), ("offset", "0"), ("length", str(length))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value

    def spoil(folder, other):
        model = onnx.load(folder / ONNX)
        tensor = max(model.graph.initializer, key=lambda one: len(one.raw_data))
        (folder.parent / "outside.bin").write_bytes(tensor.raw_data)
        change(model.graph)
        (folder / ONNX).write_bytes(model.SerializeToString())

    return spoil


def in_safetensors(value):
    def spoil(folder, other):
        tensors = load_file(folder / SAFETENSORS)
        name = min(tensors)
        tensors[name] = np.full_like(tensors[name], value)
        save_file(tensors, folder / SAFETENSORS)

    return spoil


def with_header(change):
    def spoil(folder, other):
        data = (folder / SAFETENSORS).read_bytes()
        length = struct.unpack("<Q", data[:8])[0]
        header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
        header.pop("__metadata__", None)
        change(header, next(iter(header)))
        text = json.dumps(header).encode()
        (folder / SAFETENSORS).write_bytes(struct.pack("<Q", len(text)) + text + body)

    return spoil


def with_huge_header(folder, other):
    data = (folder / SAFETENSORS).read_bytes()
    (folder / SAFETENSORS).write_bytes(struct.pack("<Q", 2**62) + data[8:])


def without_onnx(spoil):
    def both(folder, other):
        shutil.rmtree(folder / "onnx")
        spoil(folder, other)

    return both


def with_file(name, content=b""):
    return lambda folder, other: (folder / name).write_bytes(content)


def linked_out(name):
    def spoil(folder, other):
        shutil.move(folder / name, folder.parent / "outside")
        (folder / name).symlink_to(folder.parent / "outside")

    return spoil


# A folder that says what it was exported as


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("file", [ONNX, INT8, SAFETENSORS])
@pytest.mark.parametrize("share", [0, 0.5, 0.9999])
def test_a_network_file_that_was_cut_off_is_refused_whichever_is_asked_for(recorded, file, share, precision):
    cut(file, share)(recorded, None)
    said = refusal(recorded, precision)
    assert said.startswith(f"Model folder recorded cannot be used: {file}, of ") and NOT_THE_FILE in said


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("file", [ONNX, INT8, SAFETENSORS])
def test_a_network_file_of_another_network_of_the_same_shapes_is_refused(recorded, other, file, precision):
    swapped(file)(recorded, other)
    assert file in (said := refusal(recorded, precision)) and NOT_THE_FILE in said


SPOILT = {
    "NaN in the ONNX file": in_onnx(with_number(np.nan)),
    "NaN in the safetensors file": in_safetensors(np.nan),
    "answers turned round": in_onnx(with_turned_answers),
    "a header that lies": with_header(lambda header, name: header[name].update(shape=[10**9])),
    "a huge header": with_huge_header,
    "an operator of somebody's": in_onnx(with_strange_operator),
    "numbers outside of the folder": with_numbers_elsewhere("../../outside.bin"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_weights_are_not_the_recorded_ones(recorded, other, how):
    SPOILT[how](recorded, other)
    assert NOT_THE_FILE in refusal(recorded)


def test_a_swapped_label_list_is_refused_and_both_orders_are_told(recorded):
    in_config(label_names=["HEM", "ALL"])(recorded, None)
    assert "are HEM, ALL, but label_names in metrics.json says ['ALL', 'HEM']" in refusal(recorded)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"id2label": {"0": "HEM", "1": "ALL"}}, "id2label in config.json says {'0': 'HEM', '1': 'ALL'}"),
        ({"id2label": {"0": "ALL"}}, "id2label in config.json"),
        ({"label2id": {"ALL": 1, "HEM": 0}}, "label2id in config.json says"),
        ({"label2id": ["ALL", "HEM"]}, "label2id in config.json says"),
    ],
)
def test_lists_of_labels_that_disagree_are_refused_without_any_record(foreign, changes, told):
    in_config(**changes)(foreign, None)
    assert told in refusal(foreign)


def test_lists_of_labels_that_agree_are_served(foreign):
    in_config(id2label={"0": "ALL", "1": "HEM"}, label2id={"ALL": "0", "HEM": 1})(foreign, None)
    assert Classifier.from_pretrained(foreign).label_names == ("ALL", "HEM")


def test_files_of_the_record_that_are_not_there_are_not_missed(recorded):
    (recorded / SAFETENSORS).unlink()  # a download has none beside an ONNX file
    (recorded / INT8).unlink()
    assert Classifier.from_pretrained(recorded).predict(blobs(0)).label in ("ALL", "HEM")


@pytest.mark.parametrize(
    "record",
    [
        *({"sha256": odd} for odd in (1, [], "x", {"fp32": 1}, {"fp32": None})),
        *({"protocols": odd} for odd in (1, [1], {})),
        *({key: [1]} for key in ("calibration", "headline", "training")),
    ],
    ids=str,
)
def test_a_record_of_other_forms_is_refused(recorded, record):
    edit(recorded / "metrics.json", **record)
    assert "metrics.json" in refusal(recorded)


def gate_of(folder, seed):
    """An input check for the 256 features of the small network."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(256, 4)))[0].T
    parts = {"mean": rng.normal(size=256), "directions": directions, "rest": np.ones(1)}
    save_file({name: part.astype(np.float32) for name, part in parts.items()}, folder / "gate.safetensors")
    ranges = {"black": {"low": 0, "high": 1}}
    features = {"limit": 9, "sha256": digests(folder, GATE_FILES)}
    write_json(folder / "gate.json", {"schema": 2, "images": "cells", "statistics": ranges, "features": features})


def test_an_input_check_of_another_network_is_refused(recorded, foreign):
    gate_of(recorded, 0)
    assert Classifier.from_pretrained(recorded).folder.gate.features
    in_onnx(with_number(0.5))(foreign, None)
    gate_of(foreign, 1)
    shutil.copy(foreign / "gate.safetensors", recorded)
    assert "gate.safetensors, of " in (said := refusal(recorded)) and "that gate.json was written for" in said
    shutil.copy(foreign / "gate.json", recorded)  # the two fit each other, but not the network
    assert "onnx/model.onnx, of " in (said := refusal(recorded)) and "that gate.json was written for" in said


# A folder that says nothing of itself


UNRECORDED = {
    "an ONNX file of another network": (swapped(ONNX), "are two different networks: classifier."),
    "safetensors of another network": (swapped(SAFETENSORS), "are two different networks: classifier."),
    "a cut ONNX file": (cut(ONNX), "onnx/model.onnx of model foreign is damaged or not an ONNX model"),
    "cut safetensors": (cut(SAFETENSORS), "model.safetensors is damaged or no safetensors file (it has "),
    "cut safetensors alone": (without_onnx(cut(SAFETENSORS)), "model.safetensors of model foreign is missing, damaged"),
    "safetensors that are too long": (
        lambda folder, other: (folder / SAFETENSORS).open("ab").write(b"more"),
        "bytes of numbers and",
    ),
    "NaN in the ONNX file": (in_onnx(with_number(np.nan)), "are not finite numbers"),
    "infinity in the ONNX file": (in_onnx(with_number(np.inf, last=True)), "are not finite numbers"),
    "NaN in the safetensors file": (in_safetensors(np.nan), "in model.safetensors holds numbers that are not finite"),
    "infinity in the safetensors": (in_safetensors(np.inf), "in model.safetensors holds numbers that are not finite"),
    "NaN in safetensors alone": (without_onnx(in_safetensors(np.nan)), "not finite"),
    "answers turned round": (in_onnx(with_turned_answers), "is not that of its logits"),
    "a header that lies about a shape": (
        with_header(lambda header, name: header[name].update(shape=[10**9])),
        "has other bytes than its shape asks for",
    ),
    "a header that lies about a place": (
        with_header(lambda header, name: header[name].update(data_offsets=[0, 10**15])),
        "bytes of numbers and 1000000000000000 are announced",
    ),
    "a huge header": (with_huge_header, "its header has 4611686018427387904 bytes"),
    "an operator of somebody's": (in_onnx(with_strange_operator), "is damaged or not an ONNX model"),
    "numbers beside the folder": (with_numbers_elsewhere("../../outside.bin"), "is damaged or not an ONNX model"),
    "numbers of the system": (with_numbers_elsewhere("/etc/passwd"), "is damaged or not an ONNX model"),
    "labels of another task": (
        in_config(label_names=["a", "b", "c"], num_classes=3),
        "logits (N, 3)",
    ),
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
    "a pickle of scikit-learn's": (with_file("onnx/head.PKL"), "onnx/head.PKL may run code"),
    "a pickled optimizer": (with_file("optimizer.pt"), "optimizer.pt may run code"),
    "a Keras file": (with_file("tf_model.h5"), "tf_model.h5 may run code"),
    "a linked config.json": (linked_out("config.json"), "config.json is a link that leads out"),
    "a linked ONNX file": (linked_out(ONNX), "onnx/model.onnx is a link that leads out"),
    "a linked folder": (linked_out("onnx"), "is a link that leads out"),
    "a huge metrics.json": (
        lambda folder, other: os.truncate(folder / "metrics.json", 10_000_001),
        "metrics.json is larger than 10 MB",
    ),
    "deep JSON": (with_file("metrics.json", b'{"a":' * 100_000), "metrics.json is not valid JSON"),
    "JSON in Latin-1": (with_file("metrics.json", b'{"a": "\xe9"}'), "metrics.json is not valid JSON"),
}


@pytest.mark.parametrize("how", UNRECORDED)
def test_without_a_record_what_can_be_known_is_held_against_the_folder(foreign, other, how):
    spoil, told = UNRECORDED[how]
    spoil(foreign, other)
    assert told in refusal(foreign)


def test_the_linear_layer_is_found_however_an_exporter_turns_it(foreign):
    def turn(graph):
        for tensor in graph.initializer:
            if tensor.name.endswith("classifier.weight"):
                numbers = numpy_helper.to_array(tensor).T.copy()
                tensor.CopyFrom(numpy_helper.from_array(numbers, tensor.name))
        gemm = next(node for node in graph.node if node.op_type == "Gemm")
        next(attribute for attribute in gemm.attribute if attribute.name == "transB").i = 0

    expected = Classifier.from_pretrained(foreign).predict(blobs(0)).logits
    in_onnx(turn)(foreign, None)
    assert Classifier.from_pretrained(foreign).predict(blobs(0)).logits == pytest.approx(expected, abs=1e-5)


def test_links_inside_a_folder_and_inside_the_hubs_cache_are_followed(foreign, tmp_path):
    (foreign / ONNX).rename(foreign / "network.onnx")
    (foreign / ONNX).symlink_to("../network.onnx")
    assert Classifier.from_pretrained(foreign)
    snapshot = tmp_path / "models--owner--name" / "snapshots" / ("0" * 40)
    shutil.copytree(foreign, snapshot)
    (snapshot / "config.json").rename(tmp_path / "models--owner--name" / "blob")
    (snapshot / "config.json").symlink_to("../../blob")
    assert ModelFolder.load(snapshot)


def test_an_answer_of_another_shape_than_announced_is_refused(foreign):
    def count(graph):  # (K, 2) for K numbers that are not 0: of one image two rows, where nothing is announced
        next(node for node in graph.node if "logits" in node.output).output[0] = "kept"
        steps = (("NonZero", "kept", "where"), ("Transpose", "where", "turned"))
        graph.node.extend(onnx.helper.make_node(kind, [given], [made]) for kind, given, made in steps)
        graph.node.append(onnx.helper.make_node("Cast", ["turned"], ["logits"], to=onnx.TensorProto.FLOAT))

    in_onnx(count)(foreign, None)
    assert "answers in shapes" in refusal(foreign)


# The models that ship


@pytest.mark.parametrize("name", bundled_models())
def test_a_bundled_model_says_what_it_was_exported_as(name):
    folder = fetch(name)
    assert folder.metrics["sha256"].keys() == {"fp32", "int8", "safetensors"}
    assert folder.metrics["label_names"] == list(folder.label_names)
    assert json.loads((folder.path / "gate.json").read_text())["features"]["sha256"] == digests(folder.path, GATE_FILES)


def test_a_bundled_model_with_the_network_of_another_is_refused(tmp_path):
    cells, small = (bundled_root() / name for name in ("mobilenetv1-cnmc2019", "mobilenetv4_small_035-cnmc2019"))
    copy = shutil.copytree(small, tmp_path / "small", ignore=shutil.ignore_patterns("figures"))
    swapped(ONNX)(copy, cells)
    assert ONNX in (said := refusal(copy)) and NOT_THE_FILE in said
    (copy / "metrics.json").unlink()
    (copy / "gate.json").unlink()
    assert "are two different networks" in refusal(copy)


# Every door


def test_the_command_line_the_page_and_bulk_scoring_refuse_it_before_one_answer(recorded, tmp_path, monkeypatch):
    in_config(label_names=["HEM", "ALL"])(recorded, None)
    for command in (["classify", "x.png"], ["score", str(tmp_path), "--out", str(tmp_path / "scores.csv")]):
        done = subprocess.run(
            [sys.executable, "-m", "blastlens", *command, "--model", str(recorded)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr
        assert "label_names in metrics.json says" in done.stderr and not (tmp_path / "scores.csv").exists()
    with pytest.raises(BlastlensError, match=r"label_names in metrics\.json says"):
        serve([Wanted(str(recorded))])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (swapped(ONNX), NOT_THE_FILE),
        (swapped(INT8), NOT_THE_FILE),
        (cut(ONNX), NOT_THE_FILE),
        (in_config(label_names=["HEM", "ALL"]), "label_names in metrics.json says"),
        (in_onnx(with_number(np.nan)), NOT_THE_FILE),
    ],
)
def test_a_download_is_held_to_its_record_and_a_copy_that_is_spoilt_too_is_no_way_out(
    hub, recorded, other, tmp_path, spoil, told
):
    spoil(recorded, other)
    commit = hub.add_folder("owner/cells", recorded)
    with pytest.raises(BlastlensError, match=told):
        fetch("owner/cells")
    with pytest.raises(BlastlensError, match=f"{told}.*Nor can its copy be served"):
        serving.served(Wanted("owner/cells", commit, recorded))


def test_code_and_pickles_beside_a_model_of_the_hub_do_not_arrive(hub, recorded):
    for name in ("evil.py", "pytorch_model.bin", "ops.so"):
        (recorded / name).write_bytes(b"not fetched")
    hub.add_folder("owner/cells", recorded)
    folder = fetch("owner/cells")
    assert not [file for file in folder.path.rglob("*") if file.suffix in (".py", ".bin", ".so")]


# What training leaves behind


def test_quantising_again_takes_its_digest_out_of_the_record_first(recorded, monkeypatch, tmp_path):
    def write(fp32, part, images):
        assert "int8" not in json.loads((recorded / "metrics.json").read_text())["sha256"]
        part.write_bytes((recorded / INT8).read_bytes())
        return 0

    monkeypatch.setattr(quantise, "write_int8", write)
    monkeypatch.setattr(quantise, "load_rows", lambda data: [None])
    monkeypatch.setattr(quantise, "load_pixels", lambda *_: np.zeros((1, 224, 224, 3), np.uint8))
    assert quantise.main([str(recorded), "--data", str(tmp_path)]) == 0
    assert ModelFolder.load(recorded).metrics["sha256"].keys() == {"fp32", "safetensors"}


# The Hub is away when the page starts


def test_a_model_without_a_copy_is_stood_in_for_by_the_bundled_ones(hub, monkeypatch):
    monkeypatch.setattr("blastlens.hub.PAUSES_S", (0, 0))
    hub.fail("GET", ".", times=10**6, status=503)
    served = serve([Wanted("owner/cells"), Wanted(str(shared_model_folder("field")))])
    assert [one.classifier.folder.model_id for one in served] == [*bundled_models(), "tiny-field"]
    assert [bool(one.notice) for one in served] == [True] + [False] * (len(served) - 1)
    told = served[0].notice
    assert told.startswith("Model owner/cells is not on this machine and the Hub answers that it is out of order")
    assert told.endswith("so since its start this page offers the models that came with it.")
    monkeypatch.setenv("BLASTLENS_MODELS", "/nothing")
    with pytest.raises(BlastlensError, match="503"):
        serve([Wanted("owner/cells")])


def test_a_model_that_the_hub_does_not_have_is_an_error_and_nothing_stands_in(hub):
    with pytest.raises(BlastlensError, match="no public model owner/cells"):
        serve([Wanted("owner/cells")])


def test_models_that_are_here_are_not_asked_of_the_hub(hub):
    given = [Wanted(bundled_models()[0]), Wanted(f"models/{bundled_models()[0]}"), Wanted(str(bundled_root()))]
    assert begin(given) == given and hub.requests == []


def test_what_is_done_meanwhile_counts_as_waiting(hub, monkeypatch, recorded):
    hub.fail("GET", ".", times=10**6, delay=60, drop=True)
    one = Wanted("owner/cells", "0" * 40, recorded)
    coming = begin([one])
    late = [replace(coming[0], until=coming[0].until - serving.HUB_S)]  # as if the imports had taken that long
    (served,) = serve(late)
    assert "did not deliver" in served.notice and "answers with the copy" in served.notice


@pytest.mark.slow
def test_a_hub_that_hangs_does_not_keep_the_page_from_starting_within_ten_seconds_and_it_says_so(tmp_path):
    quiet = start(ROOT, "http://127.0.0.1:9", f"models/{bundled_models()[-1]}")
    assert "since its start this page" not in quiet.page
    with silent_hub() as address:
        begun = start(space(tmp_path, bundled_models()[-1:]), address)
    assert "The Hub did not deliver model" in begun.page and "since its start this page answers with" in begun.page
    # On a busy machine the page alone may take that long; then the Hub may add no more than its own time to it.
    assert begun.seconds < max(10, quiet.seconds * 1.5 + serving.HUB_S)
