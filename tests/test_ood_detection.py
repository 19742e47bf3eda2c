"""Out-of-distribution detection: statistics, reasons, feature distances, and error rates on real images."""

import json
import math
import shutil

import numpy as np
import onnx
import pytest
from helpers_models import blobs, shared_model_folder, write_json, write_record
from safetensors.numpy import save_file

from blastlens import BlastlensError, Classifier, Corruption
from blastlens.classifier import INCOMPLETE, MAX_REASONS, suggesting
from blastlens.corruptions import KINDS
from blastlens.external_result import NOT_VALIDATED
from blastlens.integrity import read_tensors
from blastlens.model_folder import ModelFolder
from blastlens.ood_detection import STATISTICS, FeatureDistance, OODDetector, statistics_of
from blastlens.synthetic_images import synthetic_image
from publish import model as publish_model
from train.datasets import load_rows
from train.ood_fitting import fit_features, write_features
from train.ood_test_images import DRAWN

CELLS, FIELDS = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"
PURPLE = (75, 35, 90)
UNLIKE = "what the network sees in it is unlike the cells the model knows"


def canvas(side=224, colour=(0, 0, 0)):
    return np.full((side, side, 3), colour, np.uint8)


WHITE = canvas(colour=(255, 255, 255))


def disc(radius=60, centre=(112, 112), colour=PURPLE):
    pixels = canvas()
    y, x = np.mgrid[:224, :224] + 0.5
    pixels[np.hypot(x - centre[0], y - centre[1]) <= radius] = colour
    return pixels


def accepted(classifier, image):
    return classifier.predict(image).in_domain


# Statistics


def test_an_all_black_view_has_no_cell_to_measure():
    found = statistics_of(canvas())
    assert list(found) == list(STATISTICS)
    assert (found.pop("black"), found.pop("black_border")) == (1, 1)
    assert all(math.isnan(value) for value in found.values())


def in_blocks(values, side, part):
    """Means of blocks from the corner of the view."""
    block = max(1, round(side * part))
    end = side // block * block
    return values[:end, :end].reshape(end // block, block, end // block, block).mean(axis=(1, 3))


def by_definition(view):
    """The statistics as their meanings in STATISTICS say, of a view that is not all black."""
    side, lit = len(view), view.max(axis=2) > 8
    grey = view @ [0.299, 0.587, 0.114]
    blue, red = (view[..., 2] - grey) / 1.772, (view[..., 0] - grey) / 1.402
    contrast, of_blue, of_red = (values[lit].std() for values in (grey, blue, red))
    ring = np.ones_like(lit)
    width = max(1, round(side / 28))
    ring[width:-width, width:-width] = False
    places = np.argwhere(lit) - (side - 1) / 2
    above = np.where(lit, grey - grey[lit].mean(), 0)
    steps = np.diff(above, axis=1)[lit[:, 1:] & lit[:, :-1]]
    whole = in_blocks(lit, side, 1 / 56) == 1
    coarse_steps = np.diff(in_blocks(above, side, 1 / 56), axis=1)[whole[:, 1:] & whole[:, :-1]]
    shares = in_blocks(lit, side, 1 / 20)
    inside = shares >= 0.5
    large = math.nan
    if inside.any():
        means = in_blocks(above, side, 1 / 20)[inside] / shares[inside]
        large = np.sqrt(np.cov(means, aweights=shares[inside], ddof=0))
    tint = (above[lit] * blue[lit]).mean() - above[lit].mean() * blue[lit].mean()
    return {
        "black": 1 - lit.mean(),
        "brightness": grey[lit].mean(),
        "contrast": contrast,
        "blue": blue[lit].mean(),
        "red": red[lit].mean(),
        "colours": math.hypot(of_blue, of_red),
        "tint": tint / max(contrast * of_blue, 0.25),
        "black_border": 1 - lit[ring].mean(),
        "spread": 2 * math.pi * places.var(axis=0).sum() / lit.sum(),
        "off_centre": math.hypot(*places.mean(axis=0)) / side,
        "fine_detail": np.sqrt((steps**2).sum() / max(steps.size, 1)) / max(contrast, 0.5),
        "coarse_detail": np.sqrt((coarse_steps**2).sum() / max(coarse_steps.size, 1)) / max(contrast, 0.5),
        "large_parts": large / max(contrast, 0.5),
    }


@pytest.mark.parametrize("side", [24, 37, 160, 224, 331])
def test_statistics_are_those_of_their_definitions_wherever_the_lit_part_is(side):
    rng = np.random.default_rng(side)
    views = [blobs(1, side, side), canvas(side, PURPLE)]
    for _ in range(12):
        (top, bottom), (left, right) = (np.sort(rng.integers(0, side, 2)) for _ in "yx")
        view = canvas(side)
        view[top : bottom + 1, left : right + 1] = rng.integers(100, 256)
        view[top : bottom + 1, left : right + 1, ::2] = rng.integers(100, 256, (bottom + 1 - top, right + 1 - left, 2))
        views.append(view)
    for view in views:
        assert statistics_of(view) == pytest.approx(by_definition(view), rel=1e-3, abs=1e-3, nan_ok=True)


def test_a_disc_has_spread_1_and_two_pieces_more():
    assert statistics_of(disc())["spread"] == pytest.approx(1, abs=0.01)
    assert statistics_of(np.maximum(disc(30, (40, 112)), disc(30, (180, 112))))["spread"] > 5


# Reasons

BLACK = statistics_of(disc())["black"]


@pytest.mark.parametrize(
    ("ranges", "pixels", "reasons"),
    [
        ({"black": (BLACK, BLACK)}, disc(), []),
        ({"black": (BLACK + 0.01, 1)}, disc(), ["far less black background"]),
        ({"black": (0, BLACK - 0.01)}, disc(), ["far more black"]),
        (
            {"spread": (2, 3), "brightness": (100, 200), "black": (0, 1)},
            disc(),
            ["a much darker picture", "a more compact shape"],
        ),
        ({"black": (0.3, 0.95), "contrast": (5, 20), "tint": (0, 1)}, canvas(), ["far more black"]),
    ],
)
def test_a_view_out_of_range_gets_a_reason_for_each_statistic(ranges, pixels, reasons):
    found = OODDetector("cells", ranges).check(statistics_of(pixels))
    assert found == tuple(f"{reason} than the cells the model knows" for reason in reasons)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 3}, "schema 3; 1 or 2 is expected"),
        ({"features": {"limit": "far"}}, "a limit of their distance"),
        ({"features": {"limit": 10**400}}, "a limit of their distance"),
        ({"features": []}, "a limit of their distance"),
        ({"images": None}, "what its images are called"),
        ({"statistics": {}}, "a range per statistic"),
        ({"statistics": {"charm": {"low": 0, "high": 1}}}, "'charm'; black, brightness"),
        ({"statistics": {"black": {"low": 1, "high": 0}}}, "range of black"),
        ({"statistics": {"black": {"low": 0}}}, "range of black"),
        ({"statistics": {"black": {"low": 0, "high": float("nan")}}}, "range of black"),
        ({"statistics": {"black": [0, 1]}}, "range of black"),
    ],
)
def test_an_invalid_gate_json_is_rejected(tmp_path, change, reason):
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "copy")
    record = {"schema": 1, "images": "cells", "statistics": {"black": {"low": 0, "high": 1}}}
    write_json(folder / "gate.json", record)
    assert ModelFolder.load(folder).ood_detector == OODDetector("cells", {"black": (0.0, 1.0)})
    write_json(folder / "gate.json", record | change)
    with pytest.raises(BlastlensError, match=f"Model folder copy cannot be used: .*{reason}"):
        ModelFolder.load(folder)


# Features


def test_the_distance_is_in_standard_deviations_with_one_for_all_other_directions():
    directions = np.array([[0.5, 0, 0, 0]])  # a standard deviation of 2 along the first
    distance = FeatureDistance(np.array([1.0, 0, 0, 0]), directions, rest=0.5, limit=1.0)
    features = np.array([[1, 0, 0, 0], [3, 0, 0, 0], [1, 0, 0.5, 0], [-1, 0.5, 0, 0.5]])
    assert distance.of(features) == pytest.approx(np.sqrt(np.array([0, 1, 1, 3]) / 4))


def test_training_images_are_about_1_away_and_what_varies_where_they_do_not_is_far():
    rng = np.random.default_rng(0)
    spread = np.r_[np.full(8, 3.0), np.full(24, 0.1)]
    fitted = fit_features(rng.normal(0, spread, (2000, 32)), directions=8)
    usual = fitted.of(rng.normal(0, spread, (500, 32)))
    assert np.median(usual) == pytest.approx(1, abs=0.05)
    along, across = np.zeros((1, 32)), np.zeros((1, 32))
    along[0, 0] = across[0, -1] = 3
    assert fitted.of(along)[0] < np.quantile(usual, 0.01)
    assert fitted.of(across)[0] > usual.max() * 2


def test_a_distribution_reads_back_as_it_was_fitted(tmp_path):
    fitted = fit_features(np.random.default_rng(0).normal(5, 2, (300, 16)), directions=4)
    write_features(fitted, tmp_path / "gate.safetensors")
    read = FeatureDistance.from_tensors(read_tensors(tmp_path / "gate.safetensors"), 2.0)
    assert (read.mean == fitted.mean).all() and (read.directions == fitted.directions).all()
    assert (read.rest, read.limit) == (fitted.rest, 2.0)


def test_features_that_never_vary_and_too_few_images_are_not_fitted_to_infinity():
    constant = np.ones((50, 8))
    assert np.isfinite(fit_features(constant, directions=2).of(constant + 1)).all()
    for features in (np.ones((3, 8)), np.ones((50, 0)), np.ones((50, 1))):
        with pytest.raises(BlastlensError, match="pooled features"):
            fit_features(features, directions=4)


def test_features_are_a_reason_of_their_own():
    distance = FeatureDistance(np.zeros(2), np.eye(2)[:1], 1.0, limit=1.0)
    detector, found = OODDetector("cells", {"black": (0.0, 1.0)}, distance), statistics_of(disc())
    assert detector.check(found) == detector.check(found, np.array([1.0, 0.5])) == ()
    assert detector.check(found, np.array([2.0, 0.5])) == (UNLIKE,)
    assert detector.check(found, np.array([np.nan, 0.5])) == (UNLIKE,)
    with pytest.raises(BlastlensError, match=r"3 features and gate\.safetensors is for 2"):
        detector.check(found, np.zeros(3))


@pytest.mark.parametrize(
    "tensors",
    [
        {"mean": np.zeros(4), "rest": np.ones(1)},
        {"mean": np.zeros(4), "directions": np.zeros((2, 3)), "rest": np.ones(1)},
        {"mean": np.zeros(4), "directions": np.zeros((2, 4)), "rest": np.zeros(1)},
        {"mean": np.full(4, np.nan), "directions": np.zeros((2, 4)), "rest": np.ones(1)},
    ],
)
def test_invalid_feature_distributions_are_rejected(tensors):
    with pytest.raises(BlastlensError, match=r"gate\.safetensors"):
        FeatureDistance.from_tensors(tensors, 1.0)


# In a classifier


def with_ranges(tmp_path, kind="cell", name="checked", **ranges):
    folder = shutil.copytree(shared_model_folder(kind), tmp_path / name)
    statistics = {name: {"low": low, "high": high} for name, (low, high) in ranges.items()}
    write_json(folder / "gate.json", {"schema": 1, "images": "cells", "statistics": statistics})
    return Classifier.from_pretrained(folder)


def test_a_prediction_says_whether_the_image_is_in_distribution(tmp_path):
    classifier = with_ranges(tmp_path, black=(0.5, 1))
    inside, outside = classifier.predict([disc(), blobs(1)])
    assert (inside.in_domain, inside.warnings) == (True, (NOT_VALIDATED,))
    assert outside.in_domain is False
    assert outside.warnings[1:] == ("far less black background than the cells the model knows",)
    assert outside.label in classifier.label_names
    assert json.loads(json.dumps(outside.to_dict()))["in_domain"] is False


def test_only_the_first_reasons_are_given(tmp_path):
    prediction = with_ranges(tmp_path, **dict.fromkeys(STATISTICS, (500, 600))).predict(blobs(1))
    assert len(prediction.warnings) == 1 + MAX_REASONS
    assert prediction.warnings[1].startswith("far less black background")


@pytest.fixture
def folder(tmp_path):
    """A folder whose OOD check depends on features alone, those of `blobs`; statistics accept everything."""
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "checked")
    (features,) = Classifier.from_pretrained(folder)._network.run(["features"], [blobs(n) for n in range(24)])
    write_features(fit_features(features, directions=8), folder / "gate.safetensors")
    record = {"schema": 2, "images": "cells", "statistics": {"black": {"low": -1, "high": 2}}}
    write_json(folder / "gate.json", record | {"features": {"limit": 3, "file": "gate.safetensors"}})
    return folder


@pytest.mark.parametrize("with_onnx", [True, False])
def test_the_networks_features_decide_what_statistics_let_pass(folder, with_onnx):
    if not with_onnx:
        shutil.rmtree(folder / "onnx")
    usual, strange = Classifier.from_pretrained(folder).predict([blobs(3), WHITE])
    assert usual.in_domain and usual.warnings == (NOT_VALIDATED,)
    assert strange.in_domain is False and strange.warnings[-1] == UNLIKE


def test_one_run_serves_an_unchanged_image_and_a_corrupted_one_is_checked_once(folder, monkeypatch):
    classifier = Classifier.from_pretrained(folder)
    plain = Classifier.from_pretrained(shared_model_folder("cell")).predict(blobs(3))
    runs, run = [], classifier._network.run

    def counted(outputs, views):
        runs.append((*outputs, len(views)))
        return run(outputs, views)

    monkeypatch.setattr(classifier._network, "run", counted)
    assert classifier.predict(blobs(3)).logits == plain.logits
    assert runs == [("logits", "features", 1)]
    runs.clear()
    for sigma in (20, 60, 100):
        assert [one.in_domain for one in classifier.predict([blobs(3), WHITE], sigma)] == [True, False]
    assert runs == [("logits", 2), ("features", 2), ("logits", 2), ("logits", 2)]


def test_a_network_without_features_is_checked_by_statistics_alone(folder):
    for file in (folder / "onnx").iterdir():
        graph = onnx.load(file)
        kept = [output for output in graph.graph.output if output.name != "features"]
        del graph.graph.output[:]
        graph.graph.output.extend(kept)
        onnx.save(graph, file)
    prediction = Classifier.from_pretrained(folder).predict(WHITE, sigma=5)
    assert prediction.in_domain and prediction.label in ("ALL", "HEM")
    assert INCOMPLETE in prediction.warnings


def test_without_its_feature_distribution_the_check_uses_statistics_and_says_so(folder):
    (folder / "gate.safetensors").unlink()
    assert ModelFolder.load(folder).ood_detector.incomplete
    prediction = Classifier.from_pretrained(folder).predict(canvas(colour=(255, 0, 0)))
    assert prediction.in_domain and prediction.warnings == (NOT_VALIDATED, INCOMPLETE)


def test_a_distribution_of_another_network_or_a_damaged_one_is_one_sentence(folder):
    save_file({"mean": np.zeros(5), "directions": np.zeros((1, 5)), "rest": np.ones(1)}, folder / "gate.safetensors")
    with pytest.raises(BlastlensError, match="256 features"):
        Classifier.from_pretrained(folder).predict(blobs(1))
    (folder / "gate.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{}")
    with pytest.raises(BlastlensError, match=r"gate\.safetensors is damaged"):
        ModelFolder.load(folder)


def test_a_folder_without_its_feature_distribution_is_not_published(folder):
    write_record(folder, "cell")
    assert "gate.safetensors" in publish_model.model_files(folder)
    publish_model.require_measured(ModelFolder.load(folder))
    (folder / "gate.safetensors").unlink()
    with pytest.raises(BlastlensError, match=r"there is no gate\.safetensors, which gate\.json names"):
        publish_model.require_measured(ModelFolder.load(folder))


def test_another_model_is_suggested_only_if_its_check_accepts_the_image(tmp_path):
    fields = with_ranges(tmp_path, "field", "fields", black=(0, 0.3))
    same = with_ranges(tmp_path, "field", "same", black=(0.5, 1))  # the same labels, so it is never suggested
    cells = with_ranges(tmp_path, "cell", "cells", black=(0.5, 1))
    models = [fields, same, cells, Classifier.from_pretrained(shared_model_folder("cell"))]
    suggestions = [suggesting(one.predict(disc()), disc(), models).to_dict()["suggestion"] for one in models]
    assert suggestions == ["cells", None, None, None]
    neither = disc(90, colour=(90, 90, 200))
    assert statistics_of(neither)["black"] == pytest.approx(0.493, abs=0.01)
    assert suggesting(cells.predict(neither), neither, models).suggestion is None


# The bundled models, on synthetic images


@pytest.mark.parametrize("name", [CELLS, FIELDS])
def test_corruptions_do_not_change_the_ood_check(name):
    classifier = Classifier.from_pretrained(name)
    picture = synthetic_image("HEM" if name == CELLS else "Early", 2)
    for kind in KINDS.values():
        assert classifier.predict(picture, corruption=Corruption(kind.name, kind.high)).in_domain


@pytest.mark.parametrize("name", [CELLS, FIELDS])
@pytest.mark.parametrize("drawn", DRAWN)
def test_bundled_models_reject_pictures_that_show_no_smear(name, drawn):
    classifier, (draw, _) = Classifier.from_pretrained(name), DRAWN[drawn]
    assert [seed for seed in range(1000, 1010) if accepted(classifier, draw(seed))] == []


def test_bundled_models_accept_the_examples_of_their_own_kind_and_reject_the_others():
    cells = [synthetic_image(label, seed) for label in ("ALL", "HEM") for seed in range(5)]
    fields = [synthetic_image(label, seed) for label in ("Benign", "Early", "Pre", "Pro") for seed in range(3)]
    for name, own, others in ((CELLS, cells, fields), (FIELDS, fields, cells)):
        classifier = Classifier.from_pretrained(name)
        assert all(accepted(classifier, image) for image in own)
        assert not any(accepted(classifier, image) for image in others)


# Real images


@pytest.mark.data
def test_real_images_pass_at_the_rate_that_was_measured(data_dir):
    paths = [data_dir / "cnmc2019" / row.file_name for row in load_rows(data_dir / "cnmc2019")[::80]]
    classifier = Classifier.from_pretrained(CELLS)
    assert np.mean([accepted(classifier, path) for path in paths]) >= 0.97
    frames = sorted((data_dir / "cnmc2019_raw_sample").rglob("*.bmp"))
    assert all(accepted(classifier, frame) for frame in frames)


@pytest.mark.data
def test_other_images_are_rejected_and_each_model_rejects_the_others_images(data_dir):
    fields = sorted((data_dir / "aria2021").rglob("*.jpg"))[::40]
    cells = sorted((data_dir / "cnmc2019").rglob("*.webp"))[::160]
    others = sorted((data_dir / "other_images").rglob("*.jpg"))
    assert len(others) == 67
    for name, own, foreign in ((CELLS, cells, fields + others), (FIELDS, fields, cells + others)):
        classifier = Classifier.from_pretrained(name)
        assert np.mean([accepted(classifier, path) for path in own]) >= 0.97
        assert np.mean([accepted(classifier, path) for path in foreign]) <= 0.02
