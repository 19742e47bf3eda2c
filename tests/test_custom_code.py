"""What stock timm and transformers lack: our networks, image enhancement, and folders that carry code for them."""

import ast
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from helpers_models import ARCHITECTURE, blobs, write_json
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from torchvision.transforms.v2 import functional as tv

from blastlens import Classifier
from blastlens.errors import BlastlensError
from blastlens.integrity import digests
from blastlens.model_folder import RECORDED
from train import model_files, modeling_blastlens
from train.complexity import count_parameters
from train.modeling_blastlens import ALNett, CustomCNN, enhance
from train.networks import create_network, head_linear
from train.recipe import Recipe

LABELS = ["ALL", "HEM"]
SCALING = {"temperature": 2.0, "bias": [0.7, -0.7]}


def recipe(**changes) -> Recipe:
    base = {"name": "small", "title": "small", "dataset": "cnmc2019", "backbone": ARCHITECTURE, "protocol": "all"}
    return Recipe.from_dict(base | {"image_size": 64} | changes)


# Networks


@pytest.mark.parametrize("network", [CustomCNN(3, drop_rate=1.0, image_size=64), ALNett(3, drop_rate=1.0)])
def test_dropout_comes_directly_before_the_classifier(network):
    network.train()
    logits = network(torch.randn(4, 3, 64, 64))
    torch.testing.assert_close(logits, network.get_classifier().bias.expand(4, 3))


@pytest.mark.parametrize(
    ("network", "parameters"),
    [(CustomCNN(num_classes=4), 9_569_924), (ALNett(num_classes=2), 447_698)],  # the CNN's paper: "about 9.6 million"
)
def test_a_network_has_the_size_that_its_paper_prints(network, parameters):
    assert count_parameters(network) == parameters
    assert network(torch.zeros(2, 3, 224, 224)).shape == (2, network.num_classes)


# Enhancement


def whole_numbers(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize("side", [3, 5, 7])
def test_denoising_is_a_median_filter_with_reflected_borders(side):
    images = whole_numbers(2, 3, 11, 14)
    expected = ndimage.median_filter(images.numpy(), size=(1, 1, side, side), mode="mirror")
    np.testing.assert_array_equal(enhance(images, denoise=side).numpy(), expected)


def test_other_filters_and_images_too_small_for_the_custom_cnn_are_refused():
    for side in (-3, 1, 4):
        with pytest.raises(ValueError, match="odd and at least 3"):
            enhance(whole_numbers(1, 3, 8, 8), denoise=side)
    with pytest.raises(BlastlensError, match="at least 46"):
        create_network(recipe(backbone="custom_cnn", image_size=45), 4, "scratch")


def test_contrast_is_torchvisions_autocontrast():
    images = whole_numbers(3, 3, 9, 9) * 0.3 + 40
    images[1, 2] = 71  # flat
    enhanced = enhance(images, contrast=True)
    torch.testing.assert_close(enhanced / 255, tv.autocontrast(images / 255))
    assert (enhanced[1, 2] == 71).all()
    assert (enhanced[0].amin((1, 2)) == 0).all() and (enhanced[0].amax((1, 2)) == 255).all()


def test_brightness_brings_each_image_to_the_same_mean_and_clips():
    images = torch.stack([whole_numbers(3, 9, 9) / 3, whole_numbers(3, 9, 9) / 2, torch.zeros(3, 9, 9)])
    enhanced = enhance(images, brightness=50)
    torch.testing.assert_close(enhanced.mean((1, 2, 3)), torch.tensor([50.0, 50, 0]))
    assert enhance(images, brightness=200).max() == 255


def test_enhancement_works_in_its_order_and_does_nothing_by_default():
    images = whole_numbers(2, 3, 12, 12)
    assert enhance(images) is images
    expected = enhance(enhance(enhance(images, denoise=3), contrast=True), brightness=90)
    assert torch.equal(enhance(images, denoise=3, contrast=True, brightness=90), expected)


# Model folders


def test_the_code_that_goes_into_folders_needs_no_file_of_ours():
    tree = ast.parse(Path(modeling_blastlens.__file__).read_text())
    imported = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    imported |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} - set(sys.stdlib_module_names) == {
        "torch",
        "timm",
        "transformers",
    }


def network_input(changed: Recipe, images: np.ndarray) -> torch.Tensor:
    """What training shows the network of uint8 images (N, S, S, 3)."""
    steps = changed.preprocess
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    pixels = enhance(pixels, denoise=steps.denoise, contrast=steps.contrast, brightness=steps.brightness)
    return (pixels / 255 - changed.mean) / changed.std


def exported(out: Path, changed: Recipe) -> Path:
    """A model folder of an untrained network whose answers differ from image to image."""
    run = out.with_name(f"{out.name}-run")
    run.mkdir()
    torch.manual_seed(0)
    network = create_network(changed, 2, "scratch")
    size = changed.image_size
    images = np.stack([blobs(n, size, size) for n in range(8)])
    pixels = network_input(changed, images)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.momentum = None  # running statistics become those of the one batch that follows
    head = head_linear(network)
    with torch.no_grad():
        network.train()(pixels)
        logits = network.eval()(pixels)
        head.weight /= logits.std(0)[:, None]
        head.bias.copy_(-logits.mean(0) / logits.std(0))
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, run / "model.safetensors")
    (run / "run.json").write_text(json.dumps({"recipe": changed.to_dict(), "label_names": LABELS}))
    model_files.export(run, out, images, {"scaling": SCALING})
    return out


RECIPES = {
    "custom_cnn": recipe(backbone="custom_cnn"),
    "alnett": recipe(backbone="alnett", image_size=224, head={"dropout": 0.5}),  # with the framing of single cells
    "enhanced": recipe(preprocess={"denoise": 3, "contrast": True, "brightness": 120}),
    "hidden": recipe(
        mean=0.0,
        std=1.0,
        head={"hidden": [16, 8], "batch_norm": True, "dropout": 0.2},
        preprocess={"brightness": 200},
        dataset="aria2021",
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Iterator[dict[str, Path]]:
    root = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        # Where transformers copies the code of folders to.
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(root / "modules"))
        patch.setattr("sys.path", [*sys.path])
        yield {name: exported(root / name, changed) for name, changed in RECIPES.items()}


@pytest.mark.parametrize("name", RECIPES)
def test_a_pipeline_that_trusts_the_code_gives_the_classifiers_answers(folders, name):
    from transformers import pipeline

    classify = pipeline("image-classification", model=str(folders[name]), trust_remote_code=True)
    assert type(classify.model).__module__.startswith("transformers_modules")
    classifier = Classifier.from_pretrained(folders[name])
    side = RECIPES[name].image_size + 60
    scores = []
    for seed in range(4):
        image = Image.fromarray(blobs(seed, side, side))
        theirs = {answer["label"]: answer["score"] for answer in classify(image)}
        ours = classifier.predict(image).probabilities
        assert list(ours) == LABELS and theirs == pytest.approx(ours, abs=1e-4)
        scores.append(ours["ALL"])
    assert np.ptp(scores) > 0.1


@pytest.mark.parametrize("name", RECIPES)
def test_the_folder_answers_like_the_trained_network_with_its_calibration(folders, name):
    changed, folder = RECIPES[name], folders[name]
    run = folder.with_name(f"{name}-run")
    network = create_network(changed, 2, "scratch").eval()
    network.load_state_dict(model_files.load_file(run / "model.safetensors"))
    images = np.stack([blobs(seed, changed.image_size, changed.image_size) for seed in range(3)])
    with torch.inference_mode():
        expected = network(network_input(changed, images)) / SCALING["temperature"] + torch.tensor(SCALING["bias"])
    answers = Classifier.from_pretrained(folder).predict(list(images))
    np.testing.assert_allclose([answer.logits for answer in answers], expected, atol=2e-4)


@pytest.mark.parametrize("name", RECIPES)
def test_serving_never_runs_the_code_of_a_folder(folders, name, tmp_path):
    folder = shutil.copytree(folders[name], tmp_path / name)
    (folder / "modeling_blastlens.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(BlastlensError, match=r"modeling_blastlens\.py, of 24 bytes, is .* not the file"):
        Classifier.from_pretrained(folder)
    record = json.loads((folder / "metrics.json").read_text())  # an attacker who changes the code may change it as well
    write_json(folder / "metrics.json", record | {"sha256": digests(folder, RECORDED)})
    assert Classifier.from_pretrained(folder).predict(blobs(0)).label in LABELS
    assert Classifier.from_pretrained(folder, precision="int8").predict(blobs(0)).label in LABELS
    shutil.rmtree(folder / "onnx")
    with pytest.raises(BlastlensError, match="code of its own, which is never run here"):
        Classifier.from_pretrained(folder)


def test_every_network_is_explained(folders):
    for folder in folders.values():
        assert Classifier.from_pretrained(folder).activation_map(blobs(0)).max() == 1


def test_quantisation_leaves_enhancement_in_full_precision(folders):
    # Ranges of pixels that are stretched image by image do not fit into one scale for all.
    nodes = onnx.load(folders["enhanced"] / "onnx/model_int8.onnx").graph.node
    kinds = [node.op_type for node in nodes]
    assert {"Min", "Max", "ReduceMin", "ReduceMean"} <= set(kinds[: kinds.index("Conv")])
    assert kinds[: kinds.index("Conv")].count("QuantizeLinear") == 1  # the convolution's own input
