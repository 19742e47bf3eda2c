"""Out-of-distribution detection: statistics, reasons, feature scores, fitting, and error rates on real images."""

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
from blastlens.ood_detection import STATISTICS, FeatureScore, Gate, statistics_of
from blastlens.synthetic_images import synthetic_image
from publish import model as publish_model
from train.datasets import load_rows
from train.ood_fitting import fit_features, write_features
from train.ood_test_images import DRAWN

CELLS, FIELDS = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"
PURPLE = (75, 35, 90)


def canvas(side=224, colour=(0, 0, 0)):
    return np.full((side, side, 3), colour, np.uint8)


def disc(radius=60, centre=(112, 112), colour=PURPLE):
    pixels = canvas()
    y, x = np.mgrid[:224, :224] + 0.5
    pixels[np.hypot(x - centre[0], y - centre[1]) <= radius] = colour
    return pixels


# Statistics


def test_an_all_black_view_has_no_cell_to_measure():
    found = statistics_of(canvas())
    assert list(found) == list(STATISTICS)
    assert (found.pop("black"), found.pop("black_border")) == (1, 1)
    assert all(math.isnan(value) for value in found.values())


def test_a_view_of_one_colour_has_its_colour_and_no_contrast():
    found = statistics_of(canvas(colour=PURPLE))
    luma = 0.299 * 75 + 0.587 * 35 + 0.114 * 90
    expected = {"black": 0, "brightness": luma, "blue": (90 - luma) / 1.772, "red": (75 - luma) / 1.402}
    expected |= {"contrast": 0, "colours": 0, "fine_detail": 0, "coarse_detail": 0, "large_parts": 0, "off_centre": 0}
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-3)


def test_a_disc_has_spread_1_and_a_ring_or_two_pieces_more():
    found = statistics_of(disc())
    assert found["spread"] == pytest.approx(1, abs=0.01)
    assert found["black"] == pytest.approx(1 - math.pi * 60**2 / 224**2, abs=0.002)
    assert found["black_border"] == 1
    ring = disc()
    ring[disc(50).any(axis=2)] = 0
    assert statistics_of(ring)["spread"] == pytest.approx((60**4 - 50**4) / (60**2 - 50**2) ** 2, rel=0.02)
    assert statistics_of(np.maximum(disc(30, (40, 112)), disc(30, (180, 112))))["spread"] > 5


def test_off_centre_is_the_distance_in_sides_of_the_view():
    assert statistics_of(disc(30, (112 + 42, 112 - 56)))["off_centre"] == pytest.approx(70 / 224, abs=1e-3)


def test_the_outermost_ring_is_the_border():
    pixels = canvas()
    pixels[:8] = PURPLE
    assert statistics_of(pixels)["black_border"] == pytest.approx(1 - 224 * 8 / (224**2 - 208**2))
    pixels[:] = 0
    pixels[8:-8, 8:-8] = PURPLE
    assert statistics_of(pixels)["black_border"] == 1


def test_detail_is_the_step_between_neighbours_in_standard_deviations():
    stripes = canvas()
    stripes[:, ::2] = 100
    stripes[:, 1::2] = 140  # two greys 40 apart have a standard deviation of 20
    found = statistics_of(stripes)
    assert (found["contrast"], found["fine_detail"]) == pytest.approx((20, 2), rel=1e-4)
    assert found["coarse_detail"] == pytest.approx(0, abs=1e-4)
    broad = canvas()
    broad[:] = np.where(np.arange(224) // 4 % 2, 140, 100)[:, None]
    assert statistics_of(broad)["coarse_detail"] == pytest.approx(2, rel=1e-4)


def test_large_parts_are_in_a_nucleus_and_not_in_grain():
    halves = canvas(side=240)
    halves[:, :120], halves[:, 120:] = 100, 140
    assert statistics_of(halves)["large_parts"] == pytest.approx(1, rel=1e-4)
    grain = canvas(side=240)
    grain[:] = np.random.default_rng(0).integers(0, 2, (240, 240, 1)) * 40 + 100
    assert statistics_of(grain)["large_parts"] == pytest.approx(1 / 12, rel=0.1)  # of the mean of 12 x 12 pixels
    assert math.isnan(statistics_of(disc(1))["large_parts"])  # of nothing large enough there is nothing to say


@pytest.mark.parametrize("side", [37, 160, 224])
def test_blocks_lie_from_the_corner_of_the_view_wherever_its_lit_part_is(side):
    rng = np.random.default_rng(side)
    for _ in range(20):
        (top, bottom), (left, right) = (np.sort(rng.integers(0, side, 2)) for _ in "yx")
        view = np.zeros((side, side, 3), np.uint8)
        view[top : bottom + 1, left : right + 1] = rng.integers(100, 256)
        view[top : bottom + 1, left : right + 1, 0] = rng.integers(100, 256, (bottom + 1 - top, right + 1 - left))
        mask = view.any(axis=2)
        grey = np.where(mask, 0.299 * view[..., 0], 0)
        grey = np.where(mask, grey - grey[mask].mean(), 0)

        def blocks(values, part, side=side):
            block = max(1, round(side * part))
            end = side // block * block
            return values[:end, :end].reshape(end // block, block, end // block, block).mean(axis=(1, 3))

        contrast = max(grey[mask].std(), 0.5)
        means, whole = blocks(grey, 1 / 56), blocks(mask, 1 / 56) == 1
        steps = np.diff(means, axis=1)[whole[:, 1:] & whole[:, :-1]]
        shares = blocks(mask, 1 / 20)
        inside = shares >= 0.5
        large = blocks(grey, 1 / 20)[inside] / shares[inside]
        found = statistics_of(view)
        assert found["coarse_detail"] == pytest.approx(
            np.sqrt((steps**2).sum() / max(steps.size, 1)) / contrast, rel=1e-4
        )
        if inside.any():
            spread = np.sqrt(np.cov(large, aweights=shares[inside], ddof=0))
            assert found["large_parts"] == pytest.approx(spread / contrast, rel=1e-4, abs=1e-4)
        else:
            assert math.isnan(found["large_parts"])


def test_tint_is_the_correlation_of_brightness_and_blueness():
    ramp = np.arange(224, dtype=np.uint8)[:, None] // 2 + 60
    same, opposed = canvas(), canvas()
    same[..., 2] = ramp  # more blue is brighter here
    opposed[..., :2] = ramp[..., None]
    opposed[..., 2] = 60
    assert statistics_of(same)["tint"] == pytest.approx(1, abs=0.01)
    assert statistics_of(opposed)["tint"] == pytest.approx(-1, abs=0.01)


@pytest.mark.parametrize("side", [24, 56, 160, 224, 331])
def test_every_view_size_is_measured(side):
    assert all(math.isfinite(value) for value in statistics_of(blobs(1, side, side)).values())


# Results


def gate(**ranges):
    return Gate("cells", ranges)


def test_a_view_out_of_range_gets_a_reason_for_each_side():
    black = statistics_of(disc())["black"]
    assert gate(black=(black, black)).judge(disc()).fits
    assert gate(black=(black + 0.01, 1)).judge(disc()).reasons == (
        "far less black background than the cells the model knows",
    )
    assert gate(black=(0, black - 0.01)).judge(disc()).reasons == ("far more black than the cells the model knows",)
    result = gate(spread=(2, 3), brightness=(100, 200), black=(0, 1)).judge(disc())
    assert not result.fits
    assert [reason.split(" than ")[0] for reason in result.reasons] == [
        "a much darker picture",
        "a more compact shape",
    ]


def test_an_all_black_view_has_one_reason():
    result = gate(black=(0.3, 0.95), contrast=(5, 20), tint=(0, 1)).judge(canvas())
    assert result.reasons == ("far more black than the cells the model knows",)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 3}, "schema 3; 1 or 2 is expected"),
        ({"schema": 2, "features": {"limit": "far"}}, "a limit of their score"),
        ({"schema": 2, "features": []}, "a limit of their score"),
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
    assert ModelFolder.load(folder).gate == Gate("cells", {"black": (0.0, 1.0)})
    write_json(folder / "gate.json", record | change)
    with pytest.raises(BlastlensError, match=f"Model folder copy cannot be used: .*{reason}"):
        ModelFolder.load(folder)


# Features


def test_the_score_is_a_distance_in_standard_deviations_with_one_for_all_other_directions():
    directions = np.array([[0.5, 0, 0, 0]])  # a standard deviation of 2 along the first
    score = FeatureScore(np.array([1.0, 0, 0, 0]), directions, rest=0.5, limit=1.0)
    features = np.array([[1, 0, 0, 0], [3, 0, 0, 0], [1, 0, 0.5, 0], [-1, 0.5, 0, 0.5]])
    assert score.of(features) == pytest.approx(np.sqrt(np.array([0, 1, 1, 3]) / 4))


def test_training_images_score_about_1_and_what_varies_where_they_do_not_scores_high():
    rng = np.random.default_rng(0)
    spread = np.r_[np.full(8, 3.0), np.full(24, 0.1)]
    score = fit_features(rng.normal(0, spread, (2000, 32)), directions=8)
    usual = score.of(rng.normal(0, spread, (500, 32)))
    assert np.median(usual) == pytest.approx(1, abs=0.05)
    along, across = np.zeros((1, 32)), np.zeros((1, 32))
    along[0, 0] = across[0, -1] = 3
    assert score.of(along)[0] < np.quantile(usual, 0.01)
    assert score.of(across)[0] > usual.max() * 2


def test_a_distribution_reads_back_as_it_was_fitted(tmp_path):
    fitted = fit_features(np.random.default_rng(0).normal(5, 2, (300, 16)), directions=4)
    write_features(fitted, tmp_path / "gate.safetensors")
    assert [file.name for file in tmp_path.iterdir()] == ["gate.safetensors"]
    read = FeatureScore.from_tensors(read_tensors(tmp_path / "gate.safetensors"), 2.0)
    assert (read.mean == fitted.mean).all() and (read.directions == fitted.directions).all()
    assert (read.rest, read.limit) == (fitted.rest, 2.0)


def test_features_that_never_vary_and_too_few_images_are_not_fitted_to_infinity():
    constant = np.ones((50, 8))
    assert np.isfinite(fit_features(constant, directions=2).of(constant + 1)).all()
    for features in (np.ones((3, 8)), np.ones((50, 0)), np.ones((50, 1))):
        with pytest.raises(BlastlensError, match="pooled features"):
            fit_features(features, directions=4)


def test_features_are_a_reason_of_their_own():
    judged = Gate("cells", {"black": (0.0, 1.0)}, FeatureScore(np.zeros(2), np.eye(2)[:1], 1.0, limit=1.0))
    assert judged.judge(disc()).fits
    assert judged.judge(disc(), np.array([1.0, 0.5])).fits
    assert judged.judge(disc(), np.array([2.0, 0.5])).reasons == (
        "what the network sees in it is unlike the cells the model knows",
    )
    assert not judged.judge(disc(), np.array([np.nan, 0.5])).fits
    with pytest.raises(BlastlensError, match=r"3 features and gate\.safetensors is for 2"):
        judged.judge(disc(), np.zeros(3))


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
        FeatureScore.from_tensors(tensors, 1.0)


# In a classifier


def with_gate(tmp_path, **ranges):
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "gated")
    statistics = {name: {"low": low, "high": high} for name, (low, high) in ranges.items()}
    write_json(folder / "gate.json", {"schema": 1, "images": "cells", "statistics": statistics})
    return Classifier.from_pretrained(folder)


def test_a_prediction_says_whether_the_image_is_in_distribution(tmp_path):
    classifier = with_gate(tmp_path, black=(0.5, 1))
    fits, alien = classifier.predict([disc(), blobs(1)])
    assert (fits.in_domain, fits.warnings) == (True, (NOT_VALIDATED,))
    assert alien.in_domain is False
    assert alien.warnings[1:] == ("far less black background than the cells the model knows",)
    assert alien.label in classifier.label_names
    assert json.loads(json.dumps(alien.to_dict()))["in_domain"] is False


def with_features(tmp_path, limit, kind="cell"):
    """A folder whose OOD check depends on features alone, those of `blobs`; statistics accept everything."""
    folder = shutil.copytree(shared_model_folder(kind), tmp_path / f"gated-{kind}")
    backend = Classifier.from_pretrained(folder)._backend
    views = np.stack([blobs(n) for n in range(24)])
    features = backend.logits_and_features(views)[1]
    write_features(fit_features(features, directions=8), folder / "gate.safetensors")
    record = {"schema": 2, "images": "cells", "statistics": {"black": {"low": -1, "high": 2}}}
    write_json(folder / "gate.json", record | {"features": {"limit": limit, "file": "gate.safetensors"}})
    return folder


def test_the_networks_features_decide_what_statistics_let_pass(tmp_path):
    classifier = Classifier.from_pretrained(with_features(tmp_path, limit=3))
    usual, strange = classifier.predict([blobs(3), canvas(colour=(255, 255, 255))])
    assert usual.in_domain and usual.warnings == (NOT_VALIDATED,)
    assert strange.in_domain is False
    assert strange.warnings[-1] == "what the network sees in it is unlike the cells the model knows"
    assert classifier.fits(blobs(3)) and not classifier.fits(canvas(colour=(255, 255, 255)))


def test_one_run_of_the_network_serves_prediction_and_ood_check(tmp_path, monkeypatch):
    classifier = Classifier.from_pretrained(with_features(tmp_path, limit=3))
    plain = Classifier.from_pretrained(shared_model_folder("cell")).predict(blobs(3))
    runs = []
    run = classifier._backend.run
    monkeypatch.setattr(classifier._backend, "run", lambda names, batch: runs.append(len(batch)) or run(names, batch))
    assert classifier.predict(blobs(3)).logits == plain.logits
    assert runs == [1]


def test_the_clean_view_is_checked_once_under_many_corruptions(tmp_path, monkeypatch):
    classifier = Classifier.from_pretrained(with_features(tmp_path, limit=3))
    clean = [classifier.predict(image).in_domain for image in (blobs(3), canvas(colour=(255, 255, 255)))]
    batches = []
    run = classifier._backend.run
    monkeypatch.setattr(
        classifier._backend,
        "run",
        lambda names, views: (batches.append(len(views)) if "features" in names else None) or run(names, views),
    )
    for sigma in (20, 60, 100):
        noisy = classifier.predict([blobs(3), canvas(colour=(255, 255, 255))], sigma=sigma)
        assert [prediction.in_domain for prediction in noisy] == clean == [True, False]
    assert batches == [1, 1]


def test_the_check_is_the_same_without_onnx(tmp_path):
    folder = with_features(tmp_path, limit=3)
    shutil.rmtree(folder / "onnx")
    classifier = Classifier.from_pretrained(folder)
    assert classifier.fits(blobs(3)) and not classifier.fits(canvas(colour=(255, 255, 255)))


def test_a_network_without_features_is_checked_by_statistics_alone(tmp_path):
    folder = with_features(tmp_path, limit=3)
    for file in (folder / "onnx").iterdir():
        graph = onnx.load(file)
        kept = [output for output in graph.graph.output if output.name != "features"]
        del graph.graph.output[:]
        graph.graph.output.extend(kept)
        onnx.save(graph, file)
    prediction = Classifier.from_pretrained(folder).predict(canvas(colour=(255, 255, 255)), sigma=5)
    assert prediction.in_domain and prediction.label in ("ALL", "HEM")
    assert INCOMPLETE in prediction.warnings


def test_without_its_feature_distribution_the_check_uses_statistics_and_says_so(tmp_path):
    folder = with_features(tmp_path, limit=3)
    (folder / "gate.safetensors").unlink()
    assert ModelFolder.load(folder).gate.incomplete
    prediction = Classifier.from_pretrained(folder).predict(canvas(colour=(255, 0, 0)))
    assert prediction.in_domain and prediction.warnings == (NOT_VALIDATED, INCOMPLETE)


def test_a_distribution_of_another_network_or_a_damaged_one_is_one_sentence(tmp_path):
    folder = with_features(tmp_path, limit=3)
    save_file({"mean": np.zeros(5), "directions": np.zeros((1, 5)), "rest": np.ones(1)}, folder / "gate.safetensors")
    with pytest.raises(BlastlensError, match="256 features"):
        Classifier.from_pretrained(folder).predict(blobs(1))
    (folder / "gate.safetensors").write_bytes(b"\x05\0\0\0\0\0\0\0{}")
    with pytest.raises(BlastlensError, match=r"gate\.safetensors is damaged"):
        ModelFolder.load(folder)


def test_the_distribution_is_published_with_its_gate_and_missed_where_it_lacks(tmp_path):
    folder = write_record(with_features(tmp_path, limit=3), "cell")
    assert "gate.safetensors" in publish_model.model_files(folder)
    publish_model.require_measured(ModelFolder.load(folder))
    (folder / "gate.safetensors").unlink()
    with pytest.raises(BlastlensError, match=r"has no gate\.safetensors, which gate\.json names"):
        publish_model.require_measured(ModelFolder.load(folder))


# Suggesting another model


def test_another_model_is_suggested_only_if_its_check_accepts_the_image(tmp_path):
    bright, dark = {"low": 0, "high": 0.3}, {"low": 0.5, "high": 1}
    models = []
    for name, kind, black in (
        ("fields", "field", bright),
        ("same-fields", "field", dark),  # the same labels, so it is never suggested
        ("cells", "cell", dark),
        ("without", "cell", None),
    ):
        folder = shutil.copytree(shared_model_folder(kind), tmp_path / name)
        if black:
            write_json(folder / "gate.json", {"schema": 1, "images": name, "statistics": {"black": black}})
        models.append(Classifier.from_pretrained(folder))
    fields, _, cells, without = models
    assert suggesting(fields.predict(disc()), disc(), models).suggestion == "cells"
    assert suggesting(cells.predict(disc()), disc(), models).suggestion is None
    assert suggesting(without.predict(disc()), disc(), models).suggestion is None
    neither = disc(90, colour=(90, 90, 200))
    assert statistics_of(neither)["black"] == pytest.approx(0.493, abs=0.01)
    assert suggesting(cells.predict(neither), neither, models).suggestion is None
    assert json.loads(json.dumps(suggesting(fields.predict(disc()), disc(), models).to_dict()))["suggestion"] == "cells"


def test_only_the_first_reasons_are_given(tmp_path):
    classifier = with_gate(tmp_path, **dict.fromkeys(STATISTICS, (500, 600)))
    prediction = classifier.predict(blobs(1))
    assert len(classifier.folder.gate.judge(blobs(1)).reasons) == len(STATISTICS)
    assert len(prediction.warnings) == 1 + MAX_REASONS
    assert prediction.warnings[1].startswith("far less black background")


@pytest.mark.parametrize("name", [CELLS, FIELDS])
def test_corruptions_do_not_change_the_ood_check(name):
    classifier = Classifier.from_pretrained(name)
    picture = synthetic_image("HEM" if name == CELLS else "Early", 2)
    assert classifier.predict(picture, sigma=100).in_domain
    for kind in KINDS.values():
        assert classifier.predict(picture, corruption=Corruption(kind.name, kind.high)).in_domain


# The bundled gates on drawn pictures


@pytest.mark.parametrize("name", [CELLS, FIELDS])
@pytest.mark.parametrize("stranger", DRAWN)
def test_bundled_gates_refuse_pictures_that_show_no_smear(name, stranger):
    classifier, (draw, _) = Classifier.from_pretrained(name), DRAWN[stranger]
    assert [seed for seed in range(1000, 1010) if classifier.fits(draw(seed))] == []


def test_bundled_gates_let_the_drawn_examples_of_their_own_kind_pass_and_refuse_the_others():
    cells = [synthetic_image(label, seed) for label in ("ALL", "HEM") for seed in range(5)]
    fields = [synthetic_image(label, seed) for label in ("Benign", "Early", "Pre", "Pro") for seed in range(3)]
    for name, own, others in ((CELLS, cells, fields), (FIELDS, fields, cells)):
        classifier = Classifier.from_pretrained(name)
        assert all(map(classifier.fits, own))
        assert not any(map(classifier.fits, others))


# Real images


@pytest.mark.data
def test_real_images_pass_at_the_rate_that_was_measured(data_dir):
    paths = [data_dir / "cnmc2019" / row.file_name for row in load_rows(data_dir / "cnmc2019")[::40]]
    predictions = Classifier.from_pretrained(CELLS).predict(paths)
    assert np.mean([prediction.in_domain for prediction in predictions]) >= 0.97


@pytest.mark.data
def test_raw_frames_pass_as_their_prepared_twins_do(data_dir):
    frames = sorted((data_dir / "cnmc2019_raw_sample").rglob("*.bmp"))
    assert all(prediction.in_domain for prediction in Classifier.from_pretrained(CELLS).predict(frames))


@pytest.mark.data
def test_photographs_and_other_smears_are_refused_and_each_model_refuses_the_others_images(data_dir):
    fields = sorted((data_dir / "aria2021").rglob("*.jpg"))[::20]
    cells = sorted((data_dir / "cnmc2019").rglob("*.webp"))[::80]
    others = sorted((data_dir / "other_images").rglob("*.jpg"))
    assert len(others) == 67
    for name, own, strangers in ((CELLS, cells, fields + others), (FIELDS, fields, cells + others)):
        classifier = Classifier.from_pretrained(name)
        assert np.mean([classifier.fits(path) for path in own]) >= 0.97
        assert np.mean([classifier.fits(path) for path in strangers]) <= 0.02
