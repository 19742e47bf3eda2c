"""Drawn images: the same every time, black where they must be, and distributed like the real ones."""

import csv

import numpy as np
import pytest
from PIL import Image, ImageFilter

from blastlens import synthetic_images

CELL_LABELS = ("ALL", "HEM")
FIELD_LABELS = ("Benign", "Early", "Pre", "Pro")

# 1st, 25th, 75th and 99th percentile of real images, by the functions below. Cells: every fourth of C-NMC
# 2019's folds 0 and 1 and part of fold 2 (Gupta & Gupta, doi 10.7937/tcia.2019.dc64i46r). Fields: every second
# image of the 4-class set (Aria et al., doi 10.34740/kaggle/dsv/2175623).
REAL_CELLS = {
    "ALL": {
        "area": (22220, 31413, 41120, 49795),
        "red": (54.2, 64.5, 75.9, 94.9),
        "green": (22.2, 26.6, 33.4, 47.6),
        "blue": (64.4, 75.5, 86.2, 100.4),
        "nucleus contrast": (2.53, 4.38, 6.67, 11.2),
        "nucleus gradient": (0.98, 1.26, 1.68, 2.37),
    },
    "HEM": {
        "area": (15697, 20733, 29881, 47808),
        "red": (51.2, 60.6, 70.7, 90.1),
        "green": (21.7, 25.4, 30.5, 43.3),
        "blue": (64.5, 72.8, 80.5, 94.7),
        "nucleus contrast": (2.24, 3.88, 6.11, 10.5),
        "nucleus gradient": (0.92, 1.15, 1.46, 1.87),
    },
}
REAL_FIELDS = {
    "Benign": {
        "red": (173.3, 201.5, 226.5, 240.6),
        "green": (195.6, 211.6, 222.7, 235.4),
        "blue": (217.4, 227, 239.6, 245.5),
        "brightest": (242.6, 247.7, 253.7, 254.4),
        "contrast": (18.6, 23.8, 28.1, 33.1),
        "gradient": (6.6, 8.8, 10.6, 12.7),
        "purple": (0.006, 0.036, 0.085, 0.16),
    },
    "Early": {
        "red": (195.8, 204.3, 212.4, 220.4),
        "green": (207.1, 214, 219.9, 229.4),
        "blue": (226.4, 234.6, 240.1, 244.3),
        "brightest": (245.1, 249.3, 251.3, 252.3),
        "contrast": (20.9, 26, 29.7, 33.5),
        "gradient": (6.2, 8, 10.6, 13),
        "purple": (0.026, 0.052, 0.084, 0.133),
    },
    "Pre": {
        "red": (177.9, 188, 197.6, 230.3),
        "green": (191.3, 201.3, 210.4, 239.9),
        "blue": (220.4, 242.5, 247.6, 250.9),
        "brightest": (241, 247.7, 250, 251.7),
        "contrast": (20.9, 27.3, 30.2, 34.8),
        "gradient": (5.9, 9.1, 10.9, 12.5),
        "purple": (0.015, 0.112, 0.167, 0.213),
    },
    "Pro": {
        "red": (221.7, 227.5, 233.3, 241.9),
        "green": (223.2, 230.4, 235.1, 242.7),
        "blue": (236.2, 239.5, 242.4, 245.1),
        "brightest": (252.3, 253.6, 254.1, 254.4),
        "contrast": (13, 18.7, 21.5, 24.8),
        "gradient": (4, 6.7, 7.5, 8.5),
        "purple": (0.009, 0.021, 0.041, 0.062),
    },
}


def as_prepared(image: Image.Image) -> Image.Image:
    """The 224 px form of a 450 px cell that the prepared dataset holds."""
    return image.crop((65, 65, 385, 385)).resize((224, 224), Image.Resampling.LANCZOS)


def gradient(grey: np.ndarray, where: np.ndarray) -> float:
    gy, gx = np.gradient(grey)
    return float(np.sqrt((gx**2 + gy**2)[where].mean()))


def cell_statistics(image: Image.Image) -> dict[str, float]:
    """Of a prepared 224 px cell: area in 450 px pixels, mean colour, contrast and gradient of the nucleus."""
    pixels = np.asarray(image.convert("RGB"), dtype=float)
    inside = pixels.sum(axis=2) > 24
    # The part 10 px or more from the edge: there a box blur of the mask is still full.
    nucleus = np.asarray(Image.fromarray(inside).convert("L").filter(ImageFilter.BoxBlur(10))) == 255
    grey = pixels.mean(axis=2)
    red, green, blue = pixels[inside].mean(axis=0)
    return {
        "area": inside.sum() * (320 / 224) ** 2,
        "red": red,
        "green": green,
        "blue": blue,
        "nucleus contrast": grey[nucleus].std(),
        "nucleus gradient": gradient(grey, nucleus),
    }


def field_statistics(image: Image.Image) -> dict[str, float]:
    """Of a 224 px field without its lowest 24 rows, where some real ones have a scale bar."""
    pixels = np.asarray(image.convert("RGB"), dtype=float)[:200]
    red, green, blue = np.moveaxis(pixels, 2, 0)
    purple = (red - green > 8) & (blue - green > 45) & (green < 185)
    grey = pixels.mean(axis=2)
    return {
        "red": red.mean(),
        "green": green.mean(),
        "blue": blue.mean(),
        "brightest": np.percentile(grey, 90),
        "contrast": grey.std(),
        "gradient": gradient(grey, np.ones_like(purple)),
        "purple": purple.mean(),
    }


def table(statistics: list[dict[str, float]]) -> dict[str, np.ndarray]:
    return {name: np.array([s[name] for s in statistics]) for name in statistics[0]}


@pytest.fixture(scope="module")
def cells() -> dict[str, dict[str, np.ndarray]]:
    return {
        label: table([cell_statistics(as_prepared(synthetic_images.draw_cell(label, seed))) for seed in range(40)])
        for label in CELL_LABELS
    }


@pytest.fixture(scope="module")
def fields() -> dict[str, dict[str, np.ndarray]]:
    return {
        label: table([field_statistics(synthetic_images.draw_field(label, seed)) for seed in range(16)])
        for label in FIELD_LABELS
    }


@pytest.mark.parametrize("label", CELL_LABELS)
@pytest.mark.parametrize("statistic", REAL_CELLS["ALL"])
def test_drawn_cells_are_distributed_like_real_ones(cells, label, statistic):
    low, quarter, three_quarters, high = REAL_CELLS[label][statistic]
    values = cells[label][statistic]
    assert quarter <= np.median(values) <= three_quarters
    assert np.mean((values >= low) & (values <= high)) >= 0.9


@pytest.mark.parametrize("label", FIELD_LABELS)
@pytest.mark.parametrize("statistic", REAL_FIELDS["Pro"])
def test_drawn_fields_are_distributed_like_real_ones(fields, label, statistic):
    low, quarter, three_quarters, high = REAL_FIELDS[label][statistic]
    values = fields[label][statistic]
    assert quarter <= np.median(values) <= three_quarters
    assert np.mean((values >= low) & (values <= high)) >= 0.85


@pytest.mark.data
@pytest.mark.parametrize("label", CELL_LABELS)
def test_the_table_of_real_cells_describes_the_real_cells(data_dir, label):
    with open(data_dir / "cnmc2019" / "metadata.csv", encoding="utf-8") as file:
        names = [row["file_name"] for row in csv.DictReader(file) if row["label"] == label.lower()]
    real = table([cell_statistics(Image.open(data_dir / "cnmc2019" / name)) for name in names[::25]])
    for statistic, (low, quarter, three_quarters, high) in REAL_CELLS[label].items():
        assert quarter < np.median(real[statistic]) < three_quarters, statistic
        assert np.mean((real[statistic] >= low) & (real[statistic] <= high)) > 0.93, statistic


@pytest.mark.data
@pytest.mark.parametrize("label", FIELD_LABELS)
def test_the_table_of_real_fields_describes_the_real_fields(data_dir, label):
    paths = sorted((data_dir / "aria2021" / "Original" / label).iterdir())[::10]
    real = table([field_statistics(Image.open(path)) for path in paths])
    for statistic, (low, quarter, three_quarters, high) in REAL_FIELDS[label].items():
        assert quarter < np.median(real[statistic]) < three_quarters, statistic
        assert np.mean((real[statistic] >= low) & (real[statistic] <= high)) > 0.9, statistic


@pytest.mark.parametrize(("draw", "label"), [(synthetic_images.draw_cell, "HEM"), (synthetic_images.draw_field, "Pre")])
def test_a_drawing_depends_on_its_label_and_seed_alone(draw, label):
    first = draw(label, 7).tobytes()
    np.random.seed(1)
    assert draw(label, 7).tobytes() == first
    state = np.random.get_state()[1].copy()
    draw(label, 8)
    assert (np.random.get_state()[1] == state).all()


@pytest.mark.parametrize("label", CELL_LABELS)
def test_a_cell_is_one_piece_on_exact_black(label):
    for seed in range(6):
        image = synthetic_images.draw_cell(label, seed)
        assert (image.mode, image.size) == ("RGB", (450, 450))
        grey = np.asarray(image, dtype=int).sum(axis=2)
        for corner in (grey[:100, :100], grey[:100, -100:], grey[-100:, :100], grey[-100:, -100:]):
            assert corner.max() == 0
        assert grey[215:235, 215:235].min() > 0
        # Rows and columns that hold the cell follow each other without a gap.
        for axis in (0, 1):
            held = np.flatnonzero(grey.any(axis=axis))
            assert len(held) == held[-1] - held[0] + 1
