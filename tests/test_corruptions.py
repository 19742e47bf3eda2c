"""Corruptions: identity at neutral, stronger with severity, repeatable, and each with its defining property."""

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from blastlens import BlastlensError, Corruption
from blastlens.corruptions import CURVE_SIGMAS, KINDS
from blastlens.corruptions.colour import _BLUE, _EOSIN, BLACK
from blastlens.noise import PAPER_SIGMAS
from blastlens.synthetic_images import synthetic_image

CELL = np.array(synthetic_image("ALL", 3).resize((224, 224)))
FIELD = np.array(synthetic_image("Pre", 1))


def distance(a, b):
    return float(np.sqrt(np.mean((a.astype(float) - b) ** 2)))


# Those that may change the black around a cell.
SPREADS = ("gaussian_noise", "blur", "defocus", "motion_blur", "jpeg", "downsample", "shift", "scale_bar")


# Every kind


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_has_five_severities_within_its_range_that_grow_and_are_marked(name):
    kind = KINDS[name]
    assert len(kind.severities) == 5 and kind.source
    assert all(a < b for a, b in pairwise((kind.neutral, *kind.severities)))
    levels = [level for severity in range(1, 6) for level in kind.levels_of(severity)]
    assert len(levels) == (10 if kind.both_ways else 5)
    assert all(kind.low <= level <= kind.high for level in levels)
    assert kind.both_ways == (kind.low < kind.neutral)
    assert {level for level, text in kind.marks if text.startswith(kind.source)} == set(levels)
    assert sum(levels) == pytest.approx(10 * kind.neutral if kind.both_ways else sum(kind.severities))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("side", [112, 224])
@pytest.mark.parametrize("which", ["cell", "field"])
def test_a_severity_is_stronger_than_the_one_before_in_views_of_any_size(name, side, which):
    pixels = np.array(synthetic_image("HEM" if which == "cell" else "Early", 4).resize((side, side)))
    for way in range(2 if KINDS[name].both_ways else 1):
        levels = [KINDS[name].levels_of(severity)[way] for severity in range(1, 6)]
        away = [distance(Corruption(name, level).apply(pixels, 7), pixels) for level in levels]
        assert away[0] > 0 and all(weaker < stronger for weaker, stronger in pairwise(away)), (name, away)


@pytest.mark.parametrize("name", KINDS)
def test_a_seed_repeats_only_seeded_kinds_differ_between_seeds_and_the_input_stays_as_it_is(name):
    corruption, pixels = Corruption(name, KINDS[name].high), CELL[:200].copy()
    one, again, other = (corruption.apply(pixels, seed) for seed in (1, 1, 2))
    assert (one.dtype, one.shape) == (np.uint8, (200, 224, 3))
    assert np.array_equal(one, again) and np.array_equal(pixels, CELL[:200])
    assert np.array_equal(one, other) != KINDS[name].seeded
    if name not in SPREADS:
        assert not other[pixels.max(axis=2) == 0].any()
    unchanged = Corruption(name, KINDS[name].neutral).apply(pixels)
    assert np.array_equal(unchanged, pixels) and not np.shares_memory(unchanged, pixels)


# One by one


def test_shot_noise_counts_photons():
    """Poisson numbers: their mean is kept, their variance grows with brightness, black has none."""
    pixels = np.repeat(np.array([0, 51, 102], np.uint8), 30000).reshape(3, 10000, 3)
    photons = 60
    noisy = Corruption("shot_noise", 255 / photons**0.5).apply(pixels, 1) * (photons / 255)
    assert not noisy[0].any()
    for row, mean in ((1, 12), (2, 24)):
        assert noisy[row].mean() == pytest.approx(mean, rel=0.01)
        assert noisy[row].var() == pytest.approx(mean, rel=0.03)
        # 4.25 grey levels a photon, rounded: the counts are whole.
        assert np.abs(noisy[row] - noisy[row].round()).max() < 0.12


@pytest.mark.parametrize("sigma", [0.001, 1, 7.9, 8.3, 60])
def test_shot_noise_has_the_spread_that_it_says_with_many_photons_and_with_few(sigma):
    pixels = np.full((100, 100, 3), 64, np.uint8)
    noisy = Corruption("shot_noise", sigma).apply(pixels, 2).astype(float)
    rounding = 1 / 12
    assert noisy.mean() == pytest.approx(64, abs=0.3)
    if sigma >= 1:
        assert noisy.std() == pytest.approx(np.sqrt(sigma**2 * 64 / 255 + rounding), rel=0.05)
    else:
        assert np.array_equal(noisy, pixels)


def test_speckle_noise_is_a_share_of_brightness():
    pixels = np.repeat(np.array([0, 40, 120], np.uint8), 30000).reshape(3, 10000, 3)
    noisy = Corruption("speckle_noise", 20).apply(pixels, 3).astype(float)
    assert not noisy[0].any()
    for row, value in ((1, 40), (2, 120)):
        assert noisy[row].mean() == pytest.approx(value, rel=0.01)
        assert noisy[row].std() == pytest.approx(0.2 * value, rel=0.02)


def test_gaussian_noise_samples_and_marks_the_published_sigmas():
    kind = KINDS["gaussian_noise"]
    assert kind.levels == CURVE_SIGMAS and len(CURVE_SIGMAS) == 14
    marks = {level: text for level, text in kind.marks if "severity" not in text}
    assert sorted(marks) == sorted({3, 9, *PAPER_SIGMAS})
    assert {0, *marks, *kind.severities, 100} == set(CURVE_SIGMAS)


def test_blur_spreads_a_line_by_its_radius_and_is_the_same_blur_in_a_smaller_view():
    for side in (112, 224):
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[:, side // 2] = 255
        row = Corruption("blur", 6).apply(pixels)[side // 2, :, 0].astype(float)
        place = np.arange(side) - side // 2
        deviation = np.sqrt((row * place**2).sum() / row.sum())
        assert deviation == pytest.approx(6 * side / 224, rel=0.1)


@pytest.mark.parametrize("side", [112, 224])
def test_defocus_turns_a_point_into_an_even_disk_of_its_radius(side):
    pixels = np.zeros((side, side, 3), np.uint8)
    middle = side // 2
    pixels[middle - 1 : middle + 2, middle - 1 : middle + 2] = 255  # one pixel would fade below a grey level
    disk = Corruption("defocus", 8).apply(pixels)[..., 0]
    y, x = np.mgrid[:side, :side] - middle
    radius = 8 * side / 224
    away = np.hypot(x, y)
    assert not disk[away > radius + 3].any()
    inner = disk[away < radius - 3]
    assert inner.min() == inner.max() == round(9 * 255 / (np.pi * radius**2))


@pytest.mark.parametrize("seed", [0, 1, 5])
def test_motion_blur_turns_a_point_into_a_line_of_its_length_in_some_direction(seed):
    pixels = np.zeros((224, 224, 3), np.uint8)
    pixels[110:115, 110:115] = 255
    trail = Corruption("motion_blur", 30).apply(pixels, seed)[..., 0].astype(float)
    y, x = np.mgrid[:224, :224] - 112
    assert [(trail * axis).sum() / trail.sum() for axis in (y, x)] == pytest.approx([0, 0], abs=0.3)
    spread = np.cov(np.stack([y.ravel(), x.ravel()]), aweights=trail.ravel())
    across, along = np.sqrt(np.linalg.eigvalsh(spread))
    assert along == pytest.approx(np.hypot(30 / 12**0.5, 2**0.5), rel=0.05)
    assert across == pytest.approx(2**0.5, rel=0.2)


@pytest.mark.parametrize(
    ("kind", "level", "pixels", "expected"),
    [
        ("brightness", 50, [[0, 100, 201]], [[0, 150, 255]]),
        ("brightness", -50, [[0, 100, 201]], [[0, 50, 100]]),  # halves round to even
        ("brightness", -100, [[0, 100, 201]], [[0, 0, 0]]),
        # Around the mean of what is not background, 80.
        ("contrast", 50, [[BLACK, 0, 3], [60] * 3, [100] * 3], [[BLACK, 0, 3], [50] * 3, [110] * 3]),
        ("contrast", -100, [[BLACK, 0, 3], [60] * 3, [100] * 3], [[BLACK, 0, 3], [80] * 3, [80] * 3]),
        ("contrast", 50, [[0, 0, 0]], [[0, 0, 0]]),
        ("saturation", 100, [[110, 90, 130]], [[119, 79, 159]]),  # its brightness is 100.54
        ("saturation", -100, [[110, 90, 130]], [[101] * 3]),
    ],
)
def test_brightness_contrast_and_saturation_scale(kind, level, pixels, expected):
    assert Corruption(kind, level).apply(np.array([pixels], np.uint8)).tolist() == [expected]


def test_jpeg_is_pillows_at_a_hundred_minus_the_level():
    file = io.BytesIO()
    Image.fromarray(CELL).save(file, "JPEG", quality=30)
    assert np.array_equal(Corruption("jpeg", 70).apply(CELL), np.array(Image.open(file)))


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


def test_stain_concentration_scales_optical_density():
    pixels = np.array([[[255, 128, 64], [0, 0, 0], [BLACK, 0, 3], [100, 0, 30]]], np.uint8)
    for percent in (-50, 20):
        thicker = Corruption("stain_concentration", percent).apply(pixels)[0]
        expected = 255 * (np.array([255, 128, 64]) / 255) ** (1 + percent / 100)
        assert thicker[0].tolist() == expected.round().tolist()
        assert thicker[1:3].tolist() == pixels[0, 1:3].tolist()  # background is no stain
        assert thicker[3, 1] == 0


def test_stain_balance_moves_between_the_dyes_and_leaves_what_has_none():
    white = np.full((2, 2, 3), 255, np.uint8)
    assert np.array_equal(Corruption("stain_hue", 40).apply(white), white)
    for dye, way in ((_BLUE, -1), (_EOSIN, 1)):
        stained = np.rint(255 * np.exp(-dye))[None, None].astype(np.uint8)
        more = Corruption("stain_hue", way * 30).apply(stained)
        assert more[0, 0].tolist() == pytest.approx(255 * np.exp(-1.3 * dye), abs=1)
    purple = np.array([[[110, 70, 130]]], np.uint8)
    redder, bluer = (Corruption("stain_hue", way * 20).apply(purple)[0, 0].astype(int) for way in (1, -1))
    assert redder[0] - redder[2] > 110 - 130 > bluer[0] - bluer[2]


def test_a_shift_moves_everything_by_its_distance_and_black_moves_in():
    pixels = np.full((200, 200, 3), 90, np.uint8)
    pixels[100, 100] = 250
    directions = set()
    for seed in range(8):
        moved = Corruption("shift", 20).apply(pixels, seed)
        (place,) = np.argwhere(moved[..., 0] == 250)
        down, right = place - 100
        assert np.hypot(down, right) == pytest.approx(40, abs=1)
        assert (moved == 0).all(axis=2).sum() == 200 * 200 - (200 - abs(down)) * (200 - abs(right))
        directions.add((down > 0, right > 0))
    assert len(directions) > 2


def test_a_scale_bar_covers_the_lower_right_corner_only():
    marked = Corruption("scale_bar", 50).apply(CELL)
    changed = np.argwhere((marked != CELL).any(axis=2))
    (top, left), (bottom, right) = changed.min(axis=0), changed.max(axis=0)
    assert (right - left + 1, bottom, right) == (112, 219, 219) and top > 112
    plate = marked[top : bottom + 1, left : right + 1]
    assert plate.max() == 255 and plate.min() == 20 and (plate == plate[..., :1]).all()
    assert 0.1 < (plate[..., 0] < 60).mean() < 0.6  # a bar and a number on it


# Refusals


@pytest.mark.parametrize("name", KINDS)
def test_a_level_out_of_range_or_no_number_is_refused(name):
    kind = KINDS[name]
    for level in (kind.low - 0.01, kind.high + 0.01, float("nan"), "loud", None):
        with pytest.raises(BlastlensError, match=f"{name} .* {kind.low:g} to {kind.high:g} is accepted"):
            Corruption(name, level)


@pytest.mark.parametrize("pixels", [CELL / 255, CELL[..., 0], np.zeros((4, 4, 4), np.uint8), [[0]]])
@pytest.mark.parametrize("level", [0, 40])
def test_pixels_of_another_type_or_shape_are_refused(pixels, level):
    with pytest.raises(BlastlensError, match=r"uint8 pixels of shape \(H, W, 3\)"):
        Corruption("jpeg", level).apply(pixels)


# As text


@pytest.mark.parametrize("text", ["jpeg:40", "downsample:2.5", "hue:-30", "gaussian_noise:20.4"])
def test_a_corruption_reads_back_from_its_text(text):
    assert str(Corruption.parse(text)) == text


@pytest.mark.parametrize("text", ["", "jpeg", "jpeg:", ":3", "fog:1", "jpeg:much", "jpeg:4:4", "jpeg:96", "JPEG:4"])
def test_a_text_that_is_no_corruption_is_refused(text):
    with pytest.raises(BlastlensError, match=r"accepted|expected"):
        Corruption.parse(text)


@pytest.mark.parametrize("kind", ["fog", "", None, ["jpeg"]])
def test_an_unknown_kind_is_refused_and_the_known_ones_are_named(kind):
    with pytest.raises(BlastlensError, match=f"There is no corruption .*; one of {', '.join(KINDS)}"):
        Corruption(kind, 1)
