"""The input gate: what its statistics measure, what it says, how it is fitted, and how often it errs on real images."""

import json
import math
import shutil

import numpy as np
import pytest
from helpers_models import blobs, shared_model_folder, write_json
from PIL import Image

from blastlens import BlastlensError, Classifier, Corruption
from blastlens.classifier import MAX_REASONS
from blastlens.corruptions import KINDS
from blastlens.drawn import draw_cell, draw_field, drawn_dataset
from blastlens.gate import STATISTICS, Gate, statistics_of
from blastlens.images import open_image
from blastlens.model_folder import ModelFolder, fetch
from train import gate as fitting
from train.datasets import Row, load_rows
from train.datasets.splits import make_splits
from train.strangers import DRAWN

CELLS, FIELDS = "mobilenet_m-cnmc2019", "mobilenetv2-aria2021"
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
    expected |= {"contrast": 0, "colours": 0, "fine_detail": 0, "coarse_detail": 0, "off_centre": 0}
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


def test_the_step_from_a_cell_to_black_is_no_detail():
    assert statistics_of(disc())["fine_detail"] == statistics_of(disc())["contrast"] == 0


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


# Verdicts


def gate(**ranges):
    return Gate("cells", ranges)


def test_a_view_within_every_range_fits():
    verdict = gate(black=(0.7, 0.9), spread=(0.9, 1.1)).judge(disc())
    assert verdict.fits and verdict.reasons == ()


def test_a_view_out_of_range_gets_a_reason_for_each_side():
    black = statistics_of(disc())["black"]
    assert gate(black=(black, black)).judge(disc()).fits
    assert gate(black=(black + 0.01, 1)).judge(disc()).reasons == (
        "far less black background than the cells the model knows",
    )
    assert gate(black=(0, black - 0.01)).judge(disc()).reasons == ("far more black than the cells the model knows",)
    verdict = gate(spread=(2, 3), brightness=(100, 200), black=(0, 1)).judge(disc())
    assert not verdict.fits
    assert [reason.split(" than ")[0] for reason in verdict.reasons] == [
        "a much darker picture",
        "a more compact shape",
    ]


def test_an_all_black_view_is_refused_for_its_black_alone():
    verdict = gate(black=(0.3, 0.95), contrast=(5, 20), tint=(0, 1)).judge(canvas())
    assert verdict.reasons == ("far more black than the cells the model knows",)


def test_a_gate_reads_back_from_its_json():
    record = {"schema": 1, "images": "cells", "statistics": {"black": {"low": 0.25, "high": 1, "meaning": "share"}}}
    assert Gate.from_json(record) == Gate("cells", {"black": (0.25, 1.0)})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"schema": 2}, "schema 2; 1 is expected"),
        ({"images": None}, "what its images are called"),
        ({"statistics": {}}, "a range per statistic"),
        ({"statistics": {"charm": {"low": 0, "high": 1}}}, "'charm'; black, brightness"),
        ({"statistics": {"black": {"low": 1, "high": 0}}}, "range of black"),
        ({"statistics": {"black": {"low": 0}}}, "range of black"),
        ({"statistics": {"black": {"low": 0, "high": float("nan")}}}, "range of black"),
        ({"statistics": {"black": [0, 1]}}, "range of black"),
    ],
)
def test_a_damaged_gate_json_is_refused_with_its_folder(tmp_path, change, reason):
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "copy")
    record = {"schema": 1, "images": "cells", "statistics": {"black": {"low": 0, "high": 1}}}
    write_json(folder / "gate.json", record)
    assert ModelFolder.load(folder).gate == Gate("cells", {"black": (0.0, 1.0)})
    write_json(folder / "gate.json", record | change)
    with pytest.raises(BlastlensError, match=f"Model folder copy cannot be used: .*{reason}"):
        ModelFolder.load(folder)


# In a classifier


def with_gate(tmp_path, **ranges):
    folder = shutil.copytree(shared_model_folder("cell"), tmp_path / "gated")
    statistics = {name: {"low": low, "high": high} for name, (low, high) in ranges.items()}
    write_json(folder / "gate.json", {"schema": 1, "images": "cells", "statistics": statistics})
    return Classifier.from_pretrained(folder)


def test_a_prediction_carries_the_verdict_and_is_given_all_the_same(tmp_path):
    classifier = with_gate(tmp_path, black=(0.5, 1))
    fits, alien = classifier.predict([disc(), blobs(1)])
    assert (fits.in_domain, fits.warnings) == (True, ())
    assert alien.in_domain is False
    assert alien.warnings == ("far less black background than the cells the model knows",)
    assert alien.label in classifier.label_names
    assert json.loads(json.dumps(alien.to_dict()))["in_domain"] is False


def test_a_folder_without_gate_gives_no_verdict():
    prediction = Classifier.from_pretrained(shared_model_folder("cell")).predict(disc())
    assert prediction.in_domain is None and prediction.warnings == ()


def test_an_image_with_much_against_it_gets_the_plainest_reasons_only(tmp_path):
    classifier = with_gate(tmp_path, **dict.fromkeys(STATISTICS, (500, 600)))
    prediction = classifier.predict(blobs(1))
    assert len(classifier.folder.gate.judge(blobs(1)).reasons) == len(STATISTICS)
    assert len(prediction.warnings) == MAX_REASONS
    assert prediction.warnings[0].startswith("far less black background")


@pytest.mark.parametrize("name", [CELLS, FIELDS])
def test_what_a_reader_adds_on_purpose_does_not_trip_the_gate(name):
    classifier = Classifier.from_pretrained(name)
    picture = draw_cell("HEM", 2) if name == CELLS else draw_field("Early", 2)
    assert classifier.predict(picture, sigma=100).in_domain
    for kind in KINDS.values():
        assert classifier.predict(picture, corruption=Corruption(kind.name, kind.high)).in_domain


# The bundled gates on drawn pictures


@pytest.mark.parametrize("name", [CELLS, FIELDS])
@pytest.mark.parametrize("stranger", DRAWN)
def test_bundled_gates_refuse_pictures_that_show_no_smear(name, stranger):
    folder, (draw, _) = fetch(name), DRAWN[stranger]
    passed = [seed for seed in range(1000, 1020) if folder.gate.judge(folder.view.apply(draw(seed))).fits]
    assert passed == []


def test_bundled_gates_let_the_drawn_examples_of_their_own_kind_pass_and_refuse_the_others():
    cells = [draw_cell(label, seed) for label in ("ALL", "HEM") for seed in range(5)]
    fields = [draw_field(label, seed) for label in ("Benign", "Early", "Pre", "Pro") for seed in range(3)]
    for name, own, others in ((CELLS, cells, fields), (FIELDS, fields, cells)):
        folder = fetch(name)
        assert all(folder.gate.judge(folder.view.apply(picture)).fits for picture in own)
        assert not any(folder.gate.judge(folder.view.apply(picture)).fits for picture in others)


@pytest.mark.parametrize("name", [CELLS, FIELDS])
def test_a_bundled_gate_records_acceptable_rates(name):
    measured = json.loads((fetch(name).path / "gate.json").read_text())["measured"]
    assert measured["held_out"]["rate"] <= 0.02
    assert set(DRAWN) < set(measured["strangers"])
    assert all(found["rate"] >= 0.98 for found in measured["strangers"].values())


# Fitting


def rows_of(groups):
    return [Row(f"{i}.png", "ALL" if g % 2 else "HEM", "", f"g{g}", "", f"{i:064x}") for i, g in enumerate(groups)]


def values_of(numbers):
    """Statistics (N, K) of which all but the first are constant."""
    values = np.ones((len(numbers), len(STATISTICS)))
    values[:, 0] = numbers
    return values


def test_ranges_are_quantiles_widened_by_the_margin_and_by_a_grain_at_least():
    low, high = fitting.ranges_of(values_of(np.arange(1001) / 1000), margin=0.1)
    assert (low[0], high[0]) == pytest.approx((0.005 - 0.099, 0.995 + 0.099))
    grains = [statistic.grain for statistic in STATISTICS.values()]
    assert low[1:] == pytest.approx(1 - np.array(grains[1:]))
    assert high[1:] == pytest.approx(1 + np.array(grains[1:]))


def test_nothing_is_refused_for_what_could_not_be_measured():
    assert not fitting.outside(np.array([[np.nan]]), np.array([0.0]), np.array([1.0])).any()


def test_groups_that_differ_need_a_margin_and_like_groups_none():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 50)
    rows = rows_of(groups)
    alike = values_of(rng.uniform(0, 1, 1000))
    assert fitting.chosen_margin(alike, rows) == 0
    shifted = values_of(groups * 5 + rng.uniform(0, 1, 1000))  # the first and last groups lie beyond the others
    margin = fitting.chosen_margin(shifted, rows)
    assert 0 < margin < 0.2
    assert fitting.outside(shifted, *fitting.ranges_of(shifted, margin)).sum() == 0


def test_an_image_is_held_against_ranges_that_its_group_did_not_shape():
    groups = np.repeat(np.arange(20), 50)
    rows, values = rows_of(groups), values_of(np.random.default_rng(1).uniform(0, 1, 1000))
    alone = values.copy()
    alone[groups == 7, 0] += 1.5
    refused = fitting.held_out_refusals(alone, rows)
    assert refused[groups == 7].any(axis=1).all()
    assert not fitting.outside(alone, *fitting.ranges_of(alone, 0))[groups == 7].all(axis=0)[0]
    assert not refused[groups != 7].any()


def test_a_gate_is_fitted_to_a_folder_by_one_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fitting, "DRAWN", {name: (draw, 3) for name, (draw, _) in DRAWN.items()})
    monkeypatch.setattr(fitting, "DRAWN_PER_LABEL", 2)
    data = drawn_dataset(tmp_path / "data", ("ALL", "HEM"), per_group=3, groups_per_label=8, size=224)
    model = shutil.copytree(shared_model_folder("cell"), tmp_path / "model")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    for seed in range(5):
        Image.fromarray(blobs(seed)).save(strangers / f"{seed}.png")
    command = [str(model), "--data", str(data), "--strangers", str(strangers), "--cache", str(tmp_path / "cache")]
    assert fitting.main(command) == 0
    record = json.loads((model / "gate.json").read_text())
    assert json.loads(capsys.readouterr().out) == record["measured"]
    assert record["fit"]["images"] == record["measured"]["held_out"]["images"] == 48
    assert record["measured"]["strangers"]["strangers"] == {"images": 5, "refused": 5, "rate": 1.0}
    classifier = Classifier.from_pretrained(model)
    assert classifier.folder.gate.images == "cells"
    assert not classifier.predict(blobs(3)).in_domain
    before = (model / "gate.json").read_bytes()
    assert fitting.main(command) == 0
    assert (model / "gate.json").read_bytes() == before


def test_fitting_refuses_another_models_data_and_an_empty_folder(tmp_path, capsys):
    data = drawn_dataset(tmp_path / "data", ("Benign", "Pro"), per_group=1, groups_per_label=2, size=64)
    model = shutil.copytree(shared_model_folder("cell"), tmp_path / "model")
    assert fitting.main([str(model), "--data", str(data)]) == 2
    assert "other labels" in capsys.readouterr().err
    with pytest.raises(BlastlensError, match="holds no image"):
        fitting.pictures_in(tmp_path / "model")
    assert not (model / "gate.json").exists()


# Real images


@pytest.mark.data
def test_real_cells_of_unseen_people_pass(data_dir):
    everything = load_rows(data_dir / "cnmc2019")
    rows = everything[::12]
    folder = fetch(CELLS)
    views = [folder.view.apply(open_image(data_dir / "cnmc2019" / row.file_name)) for row in rows]
    assert np.mean([folder.gate.judge(view).fits for view in views]) >= 0.98
    margin = json.loads((folder.path / "gate.json").read_text())["fit"]["margin"]
    values = np.array([list(statistics_of(view).values()) for view in views])
    refused = 0
    for split in make_splits("group-kfold:5", rows, seed=0):
        ranges = fitting.ranges_of(values[list(split.train)], margin)
        refused += fitting.outside(values[list(split.test)], *ranges).any(axis=1).sum()
    assert refused / len(rows) <= 0.02


@pytest.mark.data
def test_raw_frames_pass_as_their_prepared_twins_do(data_dir):
    frames = sorted((data_dir / "cnmc2019_raw_sample").rglob("*.bmp"))
    assert all(prediction.in_domain for prediction in Classifier.from_pretrained(CELLS).predict(frames))


@pytest.mark.data
def test_photographs_and_other_smears_are_refused_and_each_model_refuses_the_others_images(data_dir):
    fields = sorted((data_dir / "aria2021").rglob("*.jpg"))[::10]
    cells = sorted((data_dir / "cnmc2019").rglob("*.webp"))[::40]
    others = sorted((data_dir / "other_images").rglob("*.jpg"))
    assert len(others) == 67
    for name, own, strangers in ((CELLS, cells, fields + others), (FIELDS, fields, cells + others)):
        folder = fetch(name)
        fits = {path: folder.gate.judge(folder.view.apply(open_image(path))).fits for path in own + strangers}
        assert np.mean([fits[path] for path in own]) >= 0.98
        assert np.mean([fits[path] for path in strangers]) <= 0.02
