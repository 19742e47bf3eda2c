"""The table of corruptions: identity at neutral, worse with strength, repeatable, and each what it says it is."""

import io
from itertools import pairwise

import numpy as np
import pytest
from helpers_models import blobs
from PIL import Image

from blastlens import BlastlensError, Corruption
from blastlens.corruptions import BLACK, CURVE_SIGMAS, KINDS
from blastlens.drawn import draw_cell, draw_field
from blastlens.noise import IMAGENET_C_SIGMAS, PAPER_SIGMAS, TRAIN_SIGMAS, add_gaussian_noise

CELL = np.array(draw_cell("ALL", 3, size=224))
FIELD = np.array(draw_field("Pre", 1))


def arms(kind):
    """The kind's levels from neutral outwards, below it and above it."""
    below = [level for level in reversed(kind.levels) if level <= kind.neutral]
    above = [level for level in kind.levels if level >= kind.neutral]
    return [arm for arm in (below, above) if len(arm) > 1]


def distance(a, b):
    return float(np.sqrt(np.mean((a.astype(float) - b) ** 2)))


# Every kind


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_a_complete_and_consistent_row_of_the_table(name):
    kind = KINDS[name]
    assert kind.name == name and kind.title and kind.explanation.endswith(".")
    assert kind.low <= kind.neutral <= kind.high and 0 < kind.step <= kind.high - kind.low
    assert list(kind.levels) == sorted(set(kind.levels)) and kind.neutral in kind.levels
    assert (kind.levels[-1], min(kind.levels)) == (kind.high, kind.low)
    assert all(kind.low <= mark.level <= kind.high and mark.text and mark.group for mark in kind.marks)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("pixels", [CELL, FIELD], ids=["cell", "field"])
def test_the_neutral_level_returns_the_very_pixels_in_a_new_array(name, pixels):
    corruption = Corruption(name, KINDS[name].neutral)
    result = corruption.apply(pixels)
    assert corruption.is_neutral
    assert np.array_equal(result, pixels)
    assert not np.shares_memory(result, pixels)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("pixels", [CELL, FIELD], ids=["cell", "field"])
def test_an_image_gets_worse_with_every_step_away_from_neutral(name, pixels):
    for arm in arms(KINDS[name]):
        away = [distance(Corruption(name, level).apply(pixels), pixels) for level in arm]
        assert away[0] == 0
        assert all(nearer < further for nearer, further in pairwise(away)), (name, away)


@pytest.mark.parametrize("name", KINDS)
def test_pixels_keep_their_form_and_the_input_stays_as_it_is(name):
    pixels = blobs(2, 60, 90)
    before = pixels.copy()
    for level in (KINDS[name].low, KINDS[name].high):
        result = Corruption(name, level).apply(pixels)
        assert (result.dtype, result.shape) == (np.uint8, (90, 60, 3))
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_repeats_and_only_seeded_kinds_differ_between_seeds(name):
    corruption = Corruption(name, KINDS[name].high)
    one, again, other = (corruption.apply(CELL, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert np.array_equal(one, other) != KINDS[name].seeded


@pytest.mark.parametrize(
    "name", [name for name in KINDS if name not in ("gaussian_noise", "blur", "jpeg", "downsample")]
)
def test_black_around_a_cell_stays_black(name):
    black = CELL.max(axis=2) == 0
    assert black.mean() > 0.3
    for level in KINDS[name].levels:
        assert not Corruption(name, level).apply(CELL)[black].any()


# One by one


def test_gaussian_noise_is_the_noise_of_the_noise_module():
    assert np.array_equal(Corruption("gaussian_noise", 20.4).apply(CELL, 5), add_gaussian_noise(CELL, 20.4, 5))


def test_gaussian_noise_samples_and_marks_the_published_sigmas():
    kind = KINDS["gaussian_noise"]
    assert kind.levels == CURVE_SIGMAS and len(CURVE_SIGMAS) == 14
    marks = {group: tuple(m.level for m in kind.marks if m.group == group) for group in ("training", "paper")}
    assert marks == {"training": (3, 9), "paper": (2, 5, 6, 8, 10)} == {"training": TRAIN_SIGMAS, "paper": PAPER_SIGMAS}
    assert tuple(m.level for m in kind.marks if m.group == "ImageNet-C") == (20.4, 30.6, 45.9, 66.3, 96.9)
    assert {0, *TRAIN_SIGMAS, *PAPER_SIGMAS, *IMAGENET_C_SIGMAS, 100} == set(CURVE_SIGMAS)


def test_blur_spreads_a_line_by_its_radius_and_is_the_same_blur_in_a_smaller_view():
    for side in (112, 224):
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[:, side // 2] = 255
        row = Corruption("blur", 6).apply(pixels)[side // 2, :, 0].astype(float)
        place = np.arange(side) - side // 2
        deviation = np.sqrt((row * place**2).sum() / row.sum())
        assert deviation == pytest.approx(6 * side / 224, rel=0.1)


def test_jpeg_is_pillows_at_a_hundred_minus_the_level():
    file = io.BytesIO()
    Image.fromarray(CELL).save(file, "JPEG", quality=30)
    assert np.array_equal(Corruption("jpeg", 70).apply(CELL), np.array(Image.open(file)))


def test_brightness_multiplies_and_clips():
    pixels = np.array([[[0, 100, 201]]], np.uint8)
    assert Corruption("brightness", 50).apply(pixels).tolist() == [[[0, 150, 255]]]
    assert Corruption("brightness", -50).apply(pixels).tolist() == [[[0, 50, 100]]]  # halves round to even
    assert Corruption("brightness", -100).apply(pixels).tolist() == [[[0, 0, 0]]]


def test_contrast_stretches_around_the_mean_of_what_is_not_background():
    pixels = np.array([[[0, 0, 0], [BLACK, 0, 3], [60, 60, 60], [100, 100, 100]]], np.uint8)  # the lit mean is 80
    assert Corruption("contrast", 50).apply(pixels).tolist() == [[[0, 0, 0], [BLACK, 0, 3], [50] * 3, [110] * 3]]
    assert Corruption("contrast", -100).apply(pixels).tolist() == [[[0, 0, 0], [BLACK, 0, 3], [80] * 3, [80] * 3]]
    assert not Corruption("contrast", 50).apply(np.zeros((4, 4, 3), np.uint8)).any()


def test_contrast_keeps_the_brightness_of_the_cell():
    lit = CELL.max(axis=2) > BLACK
    for level in (-100, -50, 50):
        changed = Corruption("contrast", level).apply(CELL)
        assert changed[lit].mean() == pytest.approx(CELL[lit].mean(), abs=1.5)
        assert changed[lit].std() == pytest.approx(CELL[lit].std() * (1 + level / 100), rel=0.03, abs=0.1)


def test_hue_turns_colour_at_equal_brightness_and_leaves_greys_alone():
    grey = np.full((4, 4, 3), 117, np.uint8)
    assert np.array_equal(Corruption("hue", 60).apply(grey), grey)
    purple = np.array([[[110, 70, 130]]], np.uint8)
    luma = np.array([0.299, 0.587, 0.114])
    for degrees in (-90, -30, 30, 90):
        turned = Corruption("hue", degrees).apply(purple)
        assert turned @ luma == pytest.approx(purple @ luma, abs=1)
    back = Corruption("hue", -40).apply(Corruption("hue", 40).apply(purple))
    assert np.abs(back.astype(int) - purple).max() <= 2
    more_red, less_red = (int(Corruption("hue", degrees).apply(purple)[0, 0, 0]) for degrees in (20, -20))
    assert less_red < 110 < more_red


def test_saturation_reaches_from_grey_to_twice_the_colour():
    grey = Corruption("saturation", -100).apply(CELL)
    assert np.array_equal(grey, np.repeat(grey[..., :1], 3, axis=2))
    pixels = np.array([[[110, 90, 130]]], np.uint8)  # its brightness is 100.54
    assert Corruption("saturation", 100).apply(pixels).tolist() == [[[119, 79, 159]]]


def test_downsampling_averages_blocks():
    checks = np.indices((224, 224)).sum(axis=0) % 2 * 200
    pixels = np.repeat(checks[..., None], 3, axis=2).astype(np.uint8)
    assert np.unique(Corruption("downsample", 2).apply(pixels)).tolist() == [100]
    halves = np.zeros((224, 224, 3), np.uint8)
    halves[:, 112:] = 200
    row = Corruption("downsample", 16).apply(halves)[100, :, 0].astype(int)
    assert (row[:96].max(), row[128:].min()) == (0, 200)
    assert (np.diff(row) >= 0).all() and 0 < row[111] < 200


# Refusals


@pytest.mark.parametrize("name", KINDS)
def test_a_level_out_of_range_or_no_number_is_refused(name):
    kind = KINDS[name]
    for level in (kind.low - 0.01, kind.high + 0.01, float("nan"), "loud", None):
        with pytest.raises(BlastlensError, match=f"{name} .* {kind.low:g} to {kind.high:g} is accepted"):
            Corruption(name, level)


def test_an_unknown_kind_is_refused_and_the_known_ones_are_named():
    with pytest.raises(BlastlensError, match=f"'fog'; one of {', '.join(KINDS)}"):
        Corruption("fog", 1)


@pytest.mark.parametrize("pixels", [CELL / 255, CELL[..., 0], np.zeros((4, 4, 4), np.uint8), [[0]]])
@pytest.mark.parametrize("level", [0, 40])
def test_pixels_of_another_type_or_shape_are_refused(pixels, level):
    with pytest.raises(BlastlensError, match=r"uint8 pixels of shape \(H, W, 3\)"):
        Corruption("jpeg", level).apply(pixels)


# As text


@pytest.mark.parametrize("text", ["jpeg:40", "downsample:2.5", "hue:-30", "gaussian_noise:20.4"])
def test_a_corruption_reads_back_from_its_text(text):
    assert str(Corruption.parse(text)) == text


@pytest.mark.parametrize("text", ["", "jpeg", "jpeg:", ":3", "jpeg:much", "jpeg:4:4", "jpeg:96", "JPEG:4"])
def test_a_text_that_is_no_corruption_is_refused(text):
    with pytest.raises(BlastlensError, match=r"accepted|expected"):
        Corruption.parse(text)
