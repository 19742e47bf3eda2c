"""Synthetic images: the same every time, black where they must be, and similar to the real ones."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from blastlens.synthetic_images import synthetic_image

# 1st, 25th, 75th and 99th percentile of real images, by the functions below. Cells: every fourth of C-NMC 2019's folds
# 0 and 1 and part of fold 2 (Gupta & Gupta, doi 10.7937/tcia.2019.dc64i46r). Fields: every second image of the 4-class
# set (Aria et al., doi 10.34740/kaggle/dsv/2175623).
CELLS = {
    "ALL": {
        "area": (22220, 31413, 41120, 49795),
        "red": (54.2, 64.5, 75.9, 94.9),
        "contrast": (2.53, 4.38, 6.67, 11.2),
        "gradient": (0.98, 1.26, 1.68, 2.37),
    },
    "HEM": {
        "area": (15697, 20733, 29881, 47808),
        "red": (51.2, 60.6, 70.7, 90.1),
        "contrast": (2.24, 3.88, 6.11, 10.5),
        "gradient": (0.92, 1.15, 1.46, 1.87),
    },
}
FIELDS = {
    "Benign": {"red": (173.3, 201.5, 226.5, 240.6), "contrast": (18.6, 23.8, 28.1, 33.1)},
    "Early": {"red": (195.8, 204.3, 212.4, 220.4), "contrast": (20.9, 26, 29.7, 33.5)},
    "Pre": {"red": (177.9, 188, 197.6, 230.3), "contrast": (20.9, 27.3, 30.2, 34.8)},
    "Pro": {"red": (221.7, 227.5, 233.3, 241.9), "contrast": (13, 18.7, 21.5, 24.8)},
}


def cell_statistics(image: Image.Image) -> dict[str, float]:
    """Of a 450 px cell, prepared as in the data set: area in its pixels, contrast and gradient of the nucleus."""
    prepared = image.crop((65, 65, 385, 385)).resize((224, 224), Image.Resampling.LANCZOS)
    pixels = np.asarray(prepared, dtype=float)
    inside = pixels.sum(axis=2) > 24
    # The part 10 px or more from the edge: there a box blur of the mask is still full.
    nucleus = np.asarray(Image.fromarray(inside).convert("L").filter(ImageFilter.BoxBlur(10))) == 255
    grey = pixels.mean(axis=2)
    gy, gx = np.gradient(grey)
    return {
        "area": inside.sum() * (320 / 224) ** 2,
        "red": pixels[inside, 0].mean(),
        "contrast": grey[nucleus].std(),
        "gradient": np.sqrt((gx**2 + gy**2)[nucleus].mean()),
    }


def field_statistics(image: Image.Image) -> dict[str, float]:
    pixels = np.asarray(image, dtype=float)[:200]  # below, some real ones have a scale bar
    return {"red": pixels[..., 0].mean(), "contrast": pixels.mean(axis=2).std()}


@pytest.mark.parametrize("label", [*CELLS, *FIELDS])
def test_synthetic_images_are_similar_to_real_ones(label):
    real, statistics, number = (CELLS, cell_statistics, 30) if label in CELLS else (FIELDS, field_statistics, 12)
    found = [statistics(synthetic_image(label, seed)) for seed in range(number)]
    for name, (low, quarter, three_quarters, high) in real[label].items():
        values = np.array([one[name] for one in found])
        assert quarter <= np.median(values) <= three_quarters, name
        assert np.mean((values >= low) & (values <= high)) >= 0.85, name


@pytest.mark.parametrize("label", ["HEM", "Pre"])
def test_an_image_depends_on_its_label_and_seed_alone(label):
    first = synthetic_image(label, 7).tobytes()
    np.random.seed(1)
    state = np.random.get_state()[1].copy()
    assert synthetic_image(label, 7).tobytes() == first != synthetic_image(label, 8).tobytes()
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("label", CELLS)
def test_a_cell_is_one_piece_on_exact_black(label):
    for seed in range(6):
        image = synthetic_image(label, seed)
        assert (image.mode, image.size) == ("RGB", (450, 450))
        grey = np.asarray(image, dtype=int).sum(axis=2)
        for corner in (grey[:100, :100], grey[:100, -100:], grey[-100:, :100], grey[-100:, -100:]):
            assert corner.max() == 0
        assert grey[215:235, 215:235].min() > 0
        # Rows and columns that hold the cell follow each other without a gap.
        for axis in (0, 1):
            held = np.flatnonzero(grey.any(axis=axis))
            assert len(held) == held[-1] - held[0] + 1
