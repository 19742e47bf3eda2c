"""Training-time transforms: what each does, that they repeat from a seed, and that nothing else happens."""

import numpy as np
import pytest
import torch

from blastlens.corruptions import colour
from train.transforms import Augment, _restained, apply, desaturate


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (8, 3, 20, 20), generator=generator(7), dtype=torch.uint8)


EVERYTHING = Augment(rotate=180, horizontal_flip=True, scale=(0.9, 1.1), gamma=0.1, blur=1.0, noise_max=20)


def test_the_seed_decides_and_the_images_given_stay_as_they_are(images):
    given = images.float()
    assert torch.equal(apply(Augment(), given, generator()), given)
    first, again, other = (apply(EVERYTHING, given, generator(s)) for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(given, images.float())


def test_black_background_stays_black_under_colour_changes():
    black = torch.zeros(4, 3, 16, 16, dtype=torch.uint8)
    tint = Augment(brightness=(0.5, 2), channel_gain=0.3, gamma=0.3, saturation=(0, 2), hue=40, dyes=0.3)
    assert apply(tint, black, generator()).eq(0).all()


def test_sharp_share_of_one_only_moves_pixels(images):
    turned = apply(Augment(rotate=180, horizontal_flip=True, sharp_share=1.0), images, generator())
    for before, after in zip(images, turned, strict=True):
        assert torch.equal(before.flatten(1).sort().values.float(), after.flatten(1).sort().values)


def test_hue_and_dyes_change_as_in_the_robustness_table(images):
    images = images.clamp(min=9)  # darker is background
    pixels = images[:3].permute(0, 2, 3, 1).numpy()
    draws = {"hue": torch.tensor([0.2, 0.0, 0.0]), "dyes": torch.tensor([[1, 1], [0.9, 1.1], [1, 1]])}
    out = _restained(images[:3].float(), draws).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(out[0], colour.hue(pixels[0], np.degrees(0.2), 0))
    assert np.array_equal(out[1], colour.stain_hue(pixels[1], 10, 0))
    assert np.array_equal(out[2], pixels[2])


def test_noise_levels_are_drawn_in_equal_shares_with_the_stated_sigma():
    grey = torch.full((300, 3, 16, 16), 128.0)
    noisy = apply(Augment(noise_levels=(3, 9)), grey, generator())
    spread = noisy.flatten(1).std(1)
    low = spread < 6
    assert 0.4 < low.float().mean() < 0.6
    assert spread[low].mean() == pytest.approx(3, rel=0.03)
    assert spread[~low].mean() == pytest.approx(9, rel=0.03)
    assert noisy.eq(noisy.round()).all()


def test_desaturation_keeps_the_value_of_hsv(images):
    grey = desaturate(images)
    assert grey.shape == images.shape
    assert torch.equal(grey[:, 0], images.amax(1)) and torch.equal(grey[:, 0], grey[:, 2])


def test_the_number_of_threads_changes_no_pixel(images, monkeypatch):
    found = []
    for threads in (1, 3):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        found.append(apply(EVERYTHING, images, generator(3)))
    torch.testing.assert_close(*found, atol=1.001, rtol=0)  # a rounding tie of the noise may fall either way
    assert (found[0] != found[1]).float().mean() < 1e-3


def test_mirroring_is_the_same_inside_and_outside_the_resampling(images):
    # A hair of rotation switches the resampling on, which then does the flips.
    flips = Augment(horizontal_flip=True, vertical_flip=True)
    resampled = Augment(horizontal_flip=True, vertical_flip=True, rotate=1e-6)
    torch.testing.assert_close(
        apply(resampled, images, generator(5)), apply(flips, images, generator(5)), atol=0.05, rtol=0
    )
