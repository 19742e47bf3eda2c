"""Classifier: the same answers as transformers, noise curves, activation maps, warnings and refusals."""

import json
import pickle
import shutil

import numpy as np
import onnx
import pytest
import torch
from helpers_files import write_bad_files
from helpers_models import SIZE, blobs, shared_model_folder
from PIL import Image

from blastlens import BlastlensError, Classifier, Corruption
from blastlens.corruptions import CURVE_SIGMAS, KINDS
from blastlens.external_result import NOT_VALIDATED
from blastlens.images import open_image
from blastlens.inference import has_vnni, load_network, usable_cores
from blastlens.model_folder import ModelFolder
from blastlens.noise import add_gaussian_noise

MODELS = ["cell", "field"]


@pytest.fixture(scope="module", params=MODELS)
def classifier(request):
    return Classifier.from_pretrained(shared_model_folder(request.param))


@pytest.fixture(scope="module")
def cell_classifier():
    return Classifier.from_pretrained(shared_model_folder("cell"))


def probabilities(prediction):
    return np.array(list(prediction.probabilities.values()))


# Predictions


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_transformers_pipeline_gives_the_same_probabilities(kind):
    from transformers import pipeline

    classifier = Classifier.from_pretrained(shared_model_folder(kind))
    pipe = pipeline("image-classification", model=str(shared_model_folder(kind)), device="cpu")

    def difference(pixels):
        scores = {answer["label"]: answer["score"] for answer in pipe(Image.fromarray(pixels), top_k=None)}
        ours = classifier.predict(pixels).probabilities
        assert set(scores) == set(ours)
        return max(abs(scores[label] - ours[label]) for label in ours)

    assert max(difference(blobs(n)) for n in range(8)) < 1e-4
    # Larger cells are resized by torchvision there and by Pillow here, which round a few pixels differently.
    assert max(difference(blobs(n, 450, 450)) for n in range(8)) < (0.02 if kind == "cell" else 1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_a_folder_without_onnx_gives_the_same_answers_through_torch(kind, tmp_path):
    with_onnx = Classifier.from_pretrained(shared_model_folder(kind))
    bare = shutil.copytree(shared_model_folder(kind), tmp_path / "bare", ignore=shutil.ignore_patterns("onnx"))
    without = Classifier.from_pretrained(bare)
    images = [blobs(n) for n in range(3)]
    for a, b in zip(with_onnx.predict(images, 5), without.predict(images, 5), strict=True):
        np.testing.assert_allclose(a.logits, b.logits, atol=1e-4)
    label = with_onnx.label_names[1]
    np.testing.assert_allclose(
        with_onnx.activation_map(images[0], label), without.activation_map(images[0], label), atol=1e-3
    )


def test_a_network_without_pooled_linear_head_is_explained_by_occlusion(tmp_path):
    import timm
    from safetensors.torch import save_file

    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "vit", ignore=shutil.ignore_patterns("onnx"))
    torch.manual_seed(0)
    network = timm.create_model("test_vit", num_classes=2, img_size=SIZE).eval()
    save_file(network.state_dict(), folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config |= {"architecture": "test_vit", "model_args": {"img_size": SIZE}}
    (folder / "config.json").write_text(json.dumps(config))
    classifier = Classifier.from_pretrained(folder)
    with torch.inference_mode():
        expected = network(torch.from_numpy(blobs(0)).permute(2, 0, 1)[None] / 127.5 - 1)[0]
    np.testing.assert_allclose(classifier.predict(blobs(0)).logits, expected, atol=1e-4)
    heat = classifier.activation_map(blobs(0))
    assert heat.shape == (SIZE, SIZE) and heat.max() == 1


def test_a_prediction_is_softmax_and_argmax_of_its_logits_as_plain_json(classifier):
    prediction = classifier.predict(blobs(1), sigma=3)
    exponentials = np.exp(prediction.logits)
    np.testing.assert_allclose(probabilities(prediction), exponentials / exponentials.sum(), rtol=1e-6)
    expected = {
        "label": max(prediction.probabilities, key=prediction.probabilities.get),
        "probabilities": dict(zip(classifier.label_names, probabilities(prediction), strict=True)),
        "logits": list(prediction.logits),
        "warnings": [NOT_VALIDATED],
        "model_id": classifier.folder.model_id,
        "revision": None,
        "sigma": 3.0,
        "disclaimer": "Research demonstration, not a medical device.",
    }
    assert json.loads(json.dumps(prediction.to_dict())).items() >= expected.items()


def test_a_list_gets_a_list_in_order_across_batches(classifier):
    images = [blobs(n % 7) for n in range(40)]
    together = classifier.predict(images)
    assert len(together) == 40
    for image, prediction in zip(images[:7], together, strict=False):
        np.testing.assert_allclose(prediction.logits, classifier.predict(image).logits, atol=1e-4)
    assert classifier.predict([]) == []
    assert classifier.predict((images[0],))[0].label == together[0].label


def test_noise_is_added_to_the_pixels_the_network_sees(cell_classifier):
    image = blobs(3, 450, 450)
    seen = cell_classifier.folder.view.apply(open_image(image))
    noisy = add_gaussian_noise(seen, 20, seed=4)
    assert np.array_equal(cell_classifier.pixels(image), seen)
    assert np.array_equal(cell_classifier.pixels(image, 20, seed=4), noisy)
    assert cell_classifier.predict(image, 20, seed=4).logits == cell_classifier.predict(noisy).logits


@pytest.mark.parametrize("name", [name for name in KINDS if name != "gaussian_noise"])
def test_a_corruption_is_applied_to_the_view_and_noise_after_it(cell_classifier, name):
    image, corruption = blobs(3, 450, 450), Corruption(name, KINDS[name].high)
    corrupted = corruption.apply(cell_classifier.pixels(image), 4)
    expected = add_gaussian_noise(corrupted, 20, seed=4)
    assert np.array_equal(cell_classifier.pixels(image, 20, 4, corruption), expected)
    prediction = cell_classifier.predict(image, 20, 4, corruption)
    assert json.loads(json.dumps(prediction.to_dict()))["corruption"] == prediction.corruption
    assert prediction.logits == cell_classifier.predict(expected).logits
    assert prediction.corruption == {"kind": name, "level": KINDS[name].high} and prediction.sigma == 20
    (listed,) = cell_classifier.predict([image], 20, 4, corruption)
    assert listed == prediction


def test_gaussian_noise_as_a_corruption_is_the_same_as_by_its_sigma(cell_classifier):
    by_sigma = cell_classifier.predict(blobs(1), 8, 3)
    as_corruption = cell_classifier.predict(blobs(1), seed=3, corruption=Corruption("gaussian_noise", 8))
    assert as_corruption == by_sigma
    assert by_sigma.sigma == 8 and by_sigma.corruption is None
    with pytest.raises(BlastlensError, match="given twice, as sigma 5 and as gaussian_noise:8"):
        cell_classifier.predict(blobs(1), 5, corruption=Corruption("gaussian_noise", 8))


def test_int8_is_close_to_fp32():
    quick = Classifier.from_pretrained(shared_model_folder("cell"), precision="int8")
    exact = Classifier.from_pretrained(shared_model_folder("cell"))
    images = [blobs(n) for n in range(6)]
    a, b = (np.array([probabilities(p) for p in c.predict(images)]) for c in (quick, exact))
    assert 0 < np.abs(a - b).max() < 0.1


# Noise curves and activation maps


@pytest.mark.parametrize(
    ("kind", "levels"),
    [("gaussian_noise", (100, 50, 75, 20, 5)), ("brightness", (-50, 30, -20, 70, 0)), ("hue", None)],
)
def test_a_label_flips_at_the_level_nearest_to_neutral_whose_label_is_not_the_clean_one(classifier, kind, levels):
    flips = 0
    for n in range(6):
        curve = classifier.curve(blobs(n), kind, levels)
        clean = classifier.predict(blobs(n)).label
        labels = [classifier.label_names[i] for i in curve.probabilities.argmax(axis=1)]
        flipped = [level for level, label in zip(curve.levels, labels, strict=True) if label != clean]
        nearest = min(map(abs, flipped), default=None)
        assert curve.flip_sigma == curve.flip_level and curve.sigmas == curve.levels
        assert curve.flip_level is None if nearest is None else abs(curve.flip_level) == nearest
        assert curve.flip_level is None or curve.flip_level in flipped
        flips += bool(flipped)
    assert flips, "no image of this test flips; choose others"


@pytest.mark.parametrize("name", KINDS)
def test_a_curve_is_the_predictions_at_each_level_of_its_kind(cell_classifier, name):
    curve = cell_classifier.curve(blobs(2), name)
    assert (curve.kind, curve.levels) == (name, KINDS[name].levels)
    expected = [
        probabilities(cell_classifier.predict(blobs(2), corruption=Corruption(name, level))) for level in curve.levels
    ]
    np.testing.assert_allclose(curve.probabilities, expected, atol=1e-5)
    assert np.array_equal(curve.low, curve.probabilities) and np.array_equal(curve.high, curve.probabilities)


def test_a_curve_over_several_seeds_is_their_mean_smallest_and_largest(cell_classifier):
    seeds = (3, 5, 8)
    curve = cell_classifier.curve(blobs(2), seeds=seeds)
    single = np.array([cell_classifier.noise_curve(blobs(2), CURVE_SIGMAS, seed).probabilities for seed in seeds])
    for found, expected in (
        (curve.probabilities, single.mean(0)),
        (curve.low, single.min(0)),
        (curve.high, single.max(0)),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert (curve.low[0] == curve.high[0]).all() and (curve.low[1:] < curve.high[1:]).any()


def test_a_kind_without_noise_is_run_once_however_many_seeds(cell_classifier, monkeypatch):
    images = []
    run = cell_classifier._network.run
    monkeypatch.setattr(cell_classifier._network, "run", lambda names, views: images.extend(views) or run(names, views))
    curve = cell_classifier.curve(blobs(2), "blur", (0, 1, 2), seeds=(0, 1, 2, 3))
    assert len(images) == 3 and np.array_equal(curve.low, curve.high)
    images.clear()
    cell_classifier.curve(blobs(2), levels=(0, 10, 10, 0), seeds=(0, 1))
    assert len(images) == 3, "the untouched image and one noisy one per seed"


def test_an_activation_map_is_the_enlarged_cam_of_a_label_scaled_to_one(cell_classifier):
    pixels = torch.from_numpy(blobs(1)).permute(2, 0, 1)[None] / 127.5 - 1
    from onnxruntime import InferenceSession

    session = InferenceSession(cell_classifier.folder.onnx_file("fp32"), providers=["CPUExecutionProvider"])
    cam = torch.from_numpy(session.run(["cam"], {"pixel_values": pixels.numpy()})[0])
    large = torch.nn.functional.interpolate(cam, size=SIZE, mode="bilinear", align_corners=False)[0].numpy()
    for index, label in enumerate(cell_classifier.label_names):
        heat = cell_classifier.activation_map(blobs(1), label)
        expected = (large[index] - large[index].min()) / np.ptp(large[index])
        np.testing.assert_allclose(heat, expected, atol=1e-3)
        assert heat.shape == (SIZE, SIZE)
        assert (heat.min(), heat.max()) == (0, 1)


# Refusals


def test_every_bad_file_is_refused_in_one_quick_sentence_and_the_others_are_answered(cell_classifier, tmp_path):
    good = tmp_path / "good.png"
    Image.fromarray(blobs(1)).save(good)
    bad = write_bad_files(tmp_path)
    outcomes = list(cell_classifier.predict_each([good, *bad, good]))
    assert outcomes[0] == outcomes[-1]
    assert outcomes[0].label in cell_classifier.label_names
    for (file, reason), outcome in zip(bad.items(), outcomes[1:-1], strict=True):
        assert isinstance(outcome, BlastlensError)
        assert file.name in str(outcome) and reason in str(outcome)
        for method in (cell_classifier.predict, cell_classifier.noise_curve, cell_classifier.activation_map):
            with pytest.raises(BlastlensError, match=file.name):
                method(file)


NUMBER, SEED = "0 to 100 is accepted", "whole number from 0"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda c, sigma=sigma: c.predict(blobs(1), sigma), NUMBER) for sigma in (-1, 101, float("nan"), "a")),
        (lambda c: c.predict([blobs(1)], -1), NUMBER),
        (lambda c: c.predict_each([], -1), NUMBER),
        (lambda c: c.noise_curve(blobs(1), [0, 101]), NUMBER),
        (lambda c: c.pixels(blobs(1), -1), NUMBER),
        (lambda c: c.predict(blobs(1), 5, seed=-1), SEED),
        (lambda c: c.curve(blobs(1), "jpeg", seeds=(0.5,)), SEED),
        (lambda c: c.noise_curve(blobs(1), []), "at least one level"),
        (lambda c: c.curve(blobs(1), seeds=()), "at least one seed"),
        (lambda c: c.curve(blobs(1), "fog"), "no corruption 'fog'"),
        (lambda c: c.curve(blobs(1), "jpeg", (0, 96)), "0 to 95"),
        (lambda c: c.activation_map(blobs(1), "Early"), "one of ALL, HEM"),
        (lambda c: c.predict([blobs(1), b"no pixels"]), "^image 2 is not an image"),
        (lambda c: Classifier(c.folder, precision="fp16"), "one of fp32, int8"),
    ],
)
def test_arguments_out_of_range_are_refused(cell_classifier, call, message):
    with pytest.raises(BlastlensError, match=message):
        call(cell_classifier)


@pytest.mark.parametrize("change", ["classes", "name", "batch"])
def test_an_onnx_file_that_does_not_fit_the_config_is_refused(tmp_path, change):
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "copy")
    file, graph = folder / "onnx/model.onnx", onnx.load(folder / "onnx/model.onnx")
    if change == "classes":
        graph = onnx.load(shared_model_folder("field") / "onnx/model.onnx")
    elif change == "name":
        graph.graph.output[0].name = graph.graph.node[-1].output[0] = "scores"
    else:
        graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(graph, file)
    with pytest.raises(BlastlensError, match=r"onnx/model\.onnx of model copy"):
        Classifier.from_pretrained(folder)
    (folder / "onnx/model_int8.onnx").unlink()
    with pytest.raises(BlastlensError, match="no int8 version"):
        Classifier.from_pretrained(folder, precision="int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "alnett"}, "cannot build its architecture 'alnett'"),
        ({"architecture": "test_resnet"}, "not for test_resnet"),
        # What would have timm fetch or open other files.
        ({"architecture": "hf-hub:owner/network"}, "from its name and arguments alone"),
        ({"architecture": "local-dir:/tmp"}, "from its name and arguments alone"),
        ({"model_args": {"checkpoint_path": "other.pth"}}, "from its name and arguments alone"),
        ({"model_args": {"pretrained_cfg_overlay": {"file": "other.pth"}}}, "from its name and arguments alone"),
    ],
)
def test_a_network_that_timm_cannot_build_from_the_folder_is_refused(tmp_path, change, message):
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "copy", ignore=shutil.ignore_patterns("onnx"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(BlastlensError, match=message):
        Classifier.from_pretrained(folder)


# Threads


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
    ],
    ids=str,
)
def test_threads_are_the_cores_of_the_process_within_its_containers_quota(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "wide"),
    [
        ("x86_64", "flags\t\t: fpu avx2 avx512_vnni amx_tile\n", True),
        ("AMD64", "flags : avx2 avx_vnni\n", True),
        ("x86_64", "flags\t\t: fpu avx2 avx512f\nbugs : avx512_vnni\n", False),
        ("x86_64", None, False),
        ("arm64", None, True),
    ],
)
def test_old_processors_take_their_time_for_int8(tmp_path, machine, cpuinfo, wide):
    if cpuinfo:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert has_vnni(machine, tmp_path / "cpuinfo") is wide


def test_a_pickled_classifier_gives_the_same_prediction(cell_classifier):
    copy = pickle.loads(pickle.dumps(cell_classifier))
    assert copy.predict(blobs(1)) == cell_classifier.predict(blobs(1))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_images_side_by_side_are_answered_as_one_after_the_other(threads):
    folder = ModelFolder.load(shared_model_folder("cell"))
    network = load_network(folder, "fp32", threads)
    views = [blobs(n) for n in range(7)]
    alone = [network.run(["logits", "features"], [view]) for view in views]
    for count in range(1, 8):
        logits, features = network.run(["logits", "features"], views[:count])
        np.testing.assert_allclose(logits, np.concatenate([a[0] for a in alone[:count]]), atol=1e-5)
        np.testing.assert_allclose(features, np.concatenate([a[1] for a in alone[:count]]), atol=1e-5)
    assert network.map(lambda n: n * n, range(9)) == [n * n for n in range(9)]


@pytest.mark.parametrize("change", ["gone", "replaced"])
def test_many_images_are_answered_by_the_network_that_was_loaded_whatever_becomes_of_its_file(tmp_path, change):
    path = shutil.copytree(shared_model_folder("cell"), tmp_path / "mine")
    network = load_network(ModelFolder.load(path), "fp32", 2)
    (expected,) = network.run(["logits"], [blobs(0)])
    file = path / "onnx/model.onnx"
    file.unlink()
    if change == "replaced":
        shutil.copy(shared_model_folder("field") / "onnx/model.onnx", file)
    for logits in network.run(["logits"], [blobs(0)] * 4)[0]:
        np.testing.assert_allclose(logits, expected[0], atol=1e-5)
