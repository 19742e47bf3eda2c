"""Models as strangers might publish them: their networks are made node by node, and take no training."""

import json
from pathlib import Path

import numpy as np
import onnx
from helpers_models import shared_model_folder, write_json
from onnx import TensorProto, helper, numpy_helper

node, floats = helper.make_node, TensorProto.FLOAT


def mean_of(classes: int) -> list[onnx.NodeProto]:
    """The mean of each channel, as many of them as there are classes, as `means`."""
    return [
        node("ReduceMean", ["pixel_values"], ["mean"], axes=[2, 3], keepdims=0),
        node("Tile", ["mean", "times"], ["tiled"]),
        node("Slice", ["tiled", "zero", "classes", "one"], ["means"]),
    ]


def stranger(
    path: Path, labels: tuple[str, ...], nodes: list[onnx.NodeProto] | None = None, **constants: object
) -> Path:
    """A model folder with ONNX alone, and a metrics.json that claims a lot: its `nodes` make `logits` of `means`."""
    classes = len(labels)
    numbers = {"times": [1, classes], "zero": [0], "classes": [classes], "one": [1]}
    given = {name: np.array(value, np.int64) for name, value in numbers.items()}
    given |= {name: np.asarray(value) for name, value in constants.items()}
    graph = helper.make_graph(
        mean_of(classes) + (nodes or [node("Identity", ["means"], ["logits"])]),
        "stranger",
        [helper.make_tensor_value_info("pixel_values", floats, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", floats, ["N", classes])],
        [numpy_helper.from_array(value, name) for name, value in given.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (path / "onnx").mkdir(parents=True)
    (path / "onnx" / "model.onnx").write_bytes(model.SerializeToString())
    config = json.loads((shared_model_folder("field") / "config.json").read_text())
    write_json(path / "config.json", config | {"label_names": list(labels), "num_classes": classes})
    claims = {
        "headline": {"protocol": "group", "weighted_f1": {"value": 1, "low": 1, "high": 1}},
        "protocols": [{"protocol": 1}],
    }
    write_json(path / "metrics.json", claims)
    return path


def forever() -> list[onnx.NodeProto]:
    """An endless loop; needs the constant `true`."""
    body = helper.make_graph(
        [node("Identity", ["go"], ["go_on"]), node("Identity", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", floats, ["N", 2]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", floats, ["N", 2]),
        ],
    )
    return [node("Loop", ["", "true", "means"], ["logits"], body=body)]


def greedy() -> list[onnx.NodeProto]:
    """As many floats at once as the constant `shape` says."""
    return [
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        node("Add", ["means", "sum"], ["logits"]),
    ]


def not_a_number() -> list[onnx.NodeProto]:
    """Zero by zero."""
    return [node("Sub", ["means", "means"], ["none"]), node("Div", ["none", "none"], ["logits"])]
