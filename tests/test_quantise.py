"""int8 wherever it keeps the predictions."""

import numpy as np
import onnx
import pytest
import timm
import torch
from scipy.special import softmax

from train import quantise
from train.model_files import write_onnx
from train.quantise import write_int8


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """A small network whose logits are about 1, as an ONNX file, and its images."""
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


def fp32_convolutions(path) -> list[str]:
    graph = onnx.load(str(path)).graph
    made_by = {output: node for node in graph.node for output in node.output}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    return [
        c.name for c in convolutions if c.input[1] not in made_by or made_by[c.input[1]].op_type != "DequantizeLinear"
    ]


def test_a_network_that_tolerates_it_is_int8_throughout(network, tmp_path, monkeypatch):
    path, images = network
    monkeypatch.setattr(quantise, "LIMIT", 10)
    assert write_int8(path, tmp_path / "int8.onnx", images) == 0
    assert fp32_convolutions(tmp_path / "int8.onnx") == []
    assert (tmp_path / "int8.onnx").stat().st_size < 0.4 * path.stat().st_size


@pytest.mark.parametrize(
    ("movements", "most", "kept"),
    # Until the limit is met; where nothing meets it, the fewest that are nearly as good as the best.
    [([0.5, 0.3, 0.02], 9, 2), ([0.5, 0.31, 0.3], 2, 1)],
)
def test_the_first_convolutions_stay_in_fp32_until_predictions_hold(
    network, tmp_path, monkeypatch, movements, most, kept
):
    path, images = network
    moved = iter(movements)
    monkeypatch.setattr(quantise, "MOST_IN_FLOATS", most)
    monkeypatch.setattr(quantise, "_movement", lambda before, after: next(moved))
    assert write_int8(path, tmp_path / "int8.onnx", images) == kept
    assert len(fp32_convolutions(tmp_path / "int8.onnx")) == kept


def test_movement_bounds_the_change_of_a_probability():
    rng = np.random.default_rng(0)
    before = rng.normal(0, 2, (500, 4))
    after = before + rng.normal(0, 0.3, (500, 4))
    moved = np.abs(softmax(after, axis=1) - softmax(before, axis=1)).max(1)
    assert np.quantile(moved, 0.99) <= quantise._movement(before, after)
    # At its steepest a probability moves by a quarter of what the difference of two logits does.
    assert quantise._movement(np.zeros((1, 2)), np.array([[0.01, -0.01]])) == pytest.approx(0.005)


def test_the_images_that_check_do_not_calibrate(network, tmp_path, monkeypatch):
    path, images = network
    calibrating, checking = [], []
    monkeypatch.setattr(quantise, "LIMIT", 10)
    reader, logits = quantise._Images, quantise.onnx_logits
    monkeypatch.setattr(quantise, "_Images", lambda part: calibrating.append(part) or reader(part))
    monkeypatch.setattr(quantise, "onnx_logits", lambda file, part: checking.append(part) or logits(file, part))
    write_int8(path, tmp_path / "int8.onnx", images)
    known = {image.tobytes() for image in calibrating[0]}
    assert checking and not any(image.tobytes() in known for part in checking for image in part)
    assert len(calibrating[0]) + len(checking[0]) == len(images)
