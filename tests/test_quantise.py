"""Whole numbers wherever they leave the answers as they are."""

import numpy as np
import onnx
import pytest
import timm
import torch

from train import quantise
from train.export import write_onnx
from train.quantise import onnx_logits, training_sample, write_int8


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small network whose logits are about 1, as an ONNX file, and images of its kind."""
    torch.manual_seed(0)
    model = timm.create_model("mobilenetv4_conv_small_035", num_classes=2)
    images = torch.randn(40, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        model.train()(images)
        model.eval()
        model.classifier.weight /= model(images).std(0)[:, None]
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    write_onnx(model, path, 64)
    return path, images.numpy()


def convolutions_in_floats(path) -> list[str]:
    graph = onnx.load(str(path)).graph
    made_by = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return [
        c.name for c in convolutions if c.input[1] not in made_by or made_by[c.input[1]].op_type != "DequantizeLinear"
    ]


def test_a_network_that_bears_it_is_whole_numbers_throughout(network, tmp_path, monkeypatch):
    path, images = network
    monkeypatch.setattr(quantise, "LIMIT", 10)
    assert write_int8(path, tmp_path / "int8.onnx", images) == 0
    assert convolutions_in_floats(tmp_path / "int8.onnx") == []
    assert (tmp_path / "int8.onnx").stat().st_size < 0.4 * path.stat().st_size


def test_first_convolutions_stay_in_floats_until_the_answers_hold(network, tmp_path, monkeypatch):
    path, images = network
    moved = iter([0.5, 0.3, 0.02])
    monkeypatch.setattr(quantise, "_movement", lambda before, after: next(moved))
    assert write_int8(path, tmp_path / "int8.onnx", images) == 2
    every = [node.name for node in onnx.load(str(path)).graph.node if node.op_type == "Conv"]
    assert len(convolutions_in_floats(tmp_path / "int8.onnx")) == 2 < len(every)


def test_where_none_is_good_enough_the_fewest_floats_that_are_nearly_the_best_are_kept(network, tmp_path, monkeypatch):
    path, images = network
    moved = iter([0.5, 0.31, 0.3])
    monkeypatch.setattr(quantise, "MOST_IN_FLOATS", 2)
    monkeypatch.setattr(quantise, "_movement", lambda before, after: next(moved))
    assert write_int8(path, tmp_path / "int8.onnx", images) == 1
    assert len(convolutions_in_floats(tmp_path / "int8.onnx")) == 1


def test_movement_bounds_what_a_probability_can_do():
    rng = np.random.default_rng(0)
    before = rng.normal(0, 2, (500, 4))
    after = before + rng.normal(0, 0.3, (500, 4))

    def softmax(logits):
        powers = np.exp(logits - logits.max(1, keepdims=True))
        return powers / powers.sum(1, keepdims=True)

    moved = np.abs(softmax(after) - softmax(before)).max(1)
    assert np.quantile(moved, 0.99) <= quantise._movement(before, after)
    # At its steepest a probability moves by a quarter of what the difference of two logits does.
    assert quantise._movement(np.zeros((1, 2)), np.array([[0.01, -0.01]])) == pytest.approx(0.005)
    moved = softmax(np.array([[0.01, -0.01]]))[0, 0] - 0.5
    assert moved == pytest.approx(0.005, rel=1e-3)


def test_other_images_check_than_calibrate(network, tmp_path, monkeypatch):
    path, images = network
    calibrated, checked = [], []
    monkeypatch.setattr(quantise, "LIMIT", 10)
    real = quantise._quantise
    monkeypatch.setattr(
        quantise, "_quantise", lambda ready, int8, part, keep: calibrated.append(part) or real(ready, int8, part, keep)
    )
    monkeypatch.setattr(quantise, "onnx_logits", lambda file, part: checked.append(part) or onnx_logits(file, part))
    write_int8(path, tmp_path / "int8.onnx", images)
    known = {image.tobytes() for image in calibrated[0]}
    assert checked and not any(image.tobytes() in known for part in checked for image in part)
    assert len(calibrated[0]) + len(checked[0]) == len(images)


def test_the_sample_is_of_training_images_only_and_the_same_every_time():
    train = range(1000, 3000, 2)
    chosen = training_sample(train)
    assert len(set(chosen)) == 300 and set(chosen) <= set(train)
    assert np.array_equal(chosen, training_sample(train))
    assert sorted(training_sample([5, 9])) == [5, 9]
