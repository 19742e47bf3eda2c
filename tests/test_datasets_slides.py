"""Slide-appearance groups: overlapping fields are found, and what must stay together does."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from train.datasets.slides import GROUPS_PER_CLASS, appearance, overlapping_pairs, slide_groups, thumbnail


def smear(seed: int, side: int = 600) -> np.ndarray:
    """A slide of purple blobs on pale ground, uint8 (side, side, 3), larger than a field."""
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(side, side)), 5)
    blobs = (noise > np.quantile(noise, 0.75))[..., None]
    return np.where(blobs, (120, 90, 200), (240, 240, 250)).astype(np.uint8)


def field(slide: np.ndarray, down: int, right: int) -> np.ndarray:
    return slide[down : down + 224, right : right + 224]


def test_overlapping_fields_are_found_and_no_others() -> None:
    slides = [smear(seed) for seed in range(6)]
    fields = [field(slide, 100, 100) for slide in slides]
    fields += [field(slides[0], 100, 100), field(slides[1], 130, 60), field(slides[2], 20, 200)]
    fields += [field(slides[3], 330, 330), np.rot90(field(slides[4], 100, 100))]
    thumbnails = np.stack([thumbnail(pixels) for pixels in fields])
    examined = []
    found = overlapping_pairs(thumbnails, [np.arange(len(fields))], examined.append)
    assert found == [(0, 6), (1, 7), (2, 8)]
    assert sum(examined) == 55
    assert overlapping_pairs(thumbnails, [np.array([0, 1, 7]), np.array([2, 6])]) == [(1, 7)]


def test_appearance_is_lab_colour() -> None:
    plasma_b, *_ = appearance(np.full((224, 224, 3), (255, 255, 0), np.uint8))
    assert plasma_b == pytest.approx(94.48, abs=0.02)  # b of sRGB yellow
    lightness, a, b = appearance(np.full((224, 224, 3), (255, 0, 0), np.uint8))[1:4]
    assert (lightness, a, b) == pytest.approx((53.24, 80.09, 67.20), abs=0.02)  # sRGB red


@pytest.fixture(scope="module")
def interleaved() -> np.ndarray:
    """Features (240, 8) of two slides in turn, each drifting slowly."""
    rng = np.random.default_rng(0)
    slide = np.arange(240) % 2
    drift = np.linspace(0, 2, 240)
    return (6 * slide + drift)[:, None] + rng.normal(0, 0.3, (240, 8))


def test_groups_are_few_deterministic_and_never_mix_two_interleaved_slides(interleaved: np.ndarray) -> None:
    group = slide_groups(interleaved, [])
    assert group.tolist() == slide_groups(interleaved, []).tolist()
    assert sorted(set(group.tolist())) == list(range(GROUPS_PER_CLASS))
    assert not set(group[::2].tolist()) & set(group[1::2].tolist())
    assert np.bincount(group).min() >= 8
    assert group[0] == 0
    neighbours = np.mean(group[2:] == group[:-2])
    assert neighbours > 0.9  # chance is 0.1


def test_linked_fields_share_a_group(interleaved: np.ndarray) -> None:
    links = [(0, 239), (17, 100)]
    group = slide_groups(interleaved, links)
    assert all(group[i] == group[j] for i, j in links)


def test_flat_fields_and_a_handful_of_them_can_be_grouped() -> None:
    flat = np.full((5, 224, 224, 3), 200, np.uint8)
    features = np.stack([appearance(f) for f in flat])
    assert np.isfinite(features).all()
    assert overlapping_pairs(np.stack([thumbnail(f) for f in flat]), [np.arange(5)]) == []
    for n in (1, 2, 5):
        assert slide_groups(features[:n], []).tolist() == list(range(n))


@pytest.mark.data
def test_real_fields_taken_twice_are_found_far_apart_in_the_file_order(data_dir: Path) -> None:
    numbers = [428, 429, 434, 437, 440, 450, 462, 463, 474, 475, 482, 491, 506, 518, 530, 600, 646, 700]
    folder = data_dir / "aria2021/Original/Pro"
    paths = [folder / f"WBC-Malignant-Pro-{number:03d}.jpg" for number in numbers]
    thumbnails = np.stack([thumbnail(np.asarray(Image.open(path))) for path in paths])
    found = overlapping_pairs(thumbnails, [np.arange(len(paths))])
    # 462 and 463 are equal to the eye, not in their bytes.
    assert {(numbers[i], numbers[j]) for i, j in found} >= {(428, 474), (429, 475), (434, 482), (437, 518), (462, 463)}
    assert not {numbers[k] for pair in found for k in pair} & {600, 700}
