"""metadata.csv: what is read, what is refused and how; what links subjects."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion, gaussian_filter

from blastlens.errors import BlastlensError
from train.datasets import Row, dataset_hash, labels_of, load_rows
from train.datasets.groups import link_subjects

HEADER = "file_name,label,subject,group,fold,sha256_of_original_bmp"
A, B = "a" * 64, "b" * 64


def write(folder: Path, *lines: str) -> Path:
    for name in ("1.webp", "2.webp"):
        (folder / name).touch()
    (folder / "metadata.csv").write_text("\n".join((HEADER, *lines)) + "\n")
    return folder


def test_rows_are_sorted_and_labels_canonical(tmp_path: Path) -> None:
    rows = load_rows(write(tmp_path, f"2.webp,hem,H1,H1,fold_1,{B}", f"1.webp,All,7,7+8,,{A}"))
    assert rows == [
        Row("1.webp", "ALL", "7", "7+8", "", A),
        Row("2.webp", "HEM", "H1", "H1", "fold_1", B),
    ]
    names, labels = labels_of(rows)
    assert names == ("ALL", "HEM") and labels.tolist() == [0, 1]
    assert labels_of(rows[1:])[1].tolist() == [1]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (f"1.webp,blast,7,7,,{A}", "line 2: label 'blast' is none of ALL, HEM, Benign"),
        (f"1.webp,,7,7,,{A}", "line 2: label or group of 1.webp is empty"),
        (f"1.webp,all,7,,,{A}", "line 2: label or group of 1.webp is empty"),
        ("1.webp,all,7,7,,abc", "'abc' is not 64 hexadecimal digits"),
        (f"../1.webp,all,7,7,,{A}", "not a path inside the dataset"),
        (f"3.webp,all,7,7,,{A}", "lists 3.webp, which does not exist"),
        ("1.webp,all,7", "line 2: not as many values as the 6 columns"),
        (f"1.webp,all,7,7,,{A},more", "line 2: not as many values as the 6 columns"),
        (f"1.webp,all,7,7,,{A}\n1.webp,all,7,7,,{A}", "lists 1.webp twice"),
    ],
)
def test_a_bad_row_is_one_sentence_that_names_it(tmp_path: Path, line: str, reason: str) -> None:
    with pytest.raises(BlastlensError) as error:
        load_rows(write(tmp_path, line))
    assert reason in str(error.value) and str(tmp_path / "metadata.csv") in str(error.value)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("file_name,label", "has the columns file_name, label; it needs file_name, label, subject"),
        (HEADER.replace("bmp", "bmp,sha256_of_original_jpeg"), "it needs file_name"),
        (HEADER, "lists no image"),
        (b"\xff\xfe\x00\x01", "cannot be read as a CSV table"),
        (None, "does not exist; a prepared dataset is written by"),
    ],
)
def test_a_bad_table_is_refused(tmp_path: Path, table: str | bytes | None, reason: str) -> None:
    if table is not None:
        (tmp_path / "metadata.csv").write_bytes(table if isinstance(table, bytes) else table.encode())
    with pytest.raises(BlastlensError, match=reason):
        load_rows(tmp_path)


def test_labels_of_two_data_sets_do_not_mix() -> None:
    with pytest.raises(BlastlensError, match="not those of one data set"):
        labels_of([Row("1", "ALL", "", "1", "", A), Row("2", "Pre", "", "2", "", B)])


def test_the_hash_tells_contents_and_labels_not_order() -> None:
    one, two = Row("1", "ALL", "7", "7", "", A), Row("2", "HEM", "H7", "H7", "", B)
    assert dataset_hash([one, two]) == dataset_hash([two, one])
    assert dataset_hash([one, two]) != dataset_hash([one])
    assert dataset_hash([one]) != dataset_hash([Row("1", "HEM", "7", "7", "", A)])


def test_subjects_are_linked_through_chains_of_equal_images() -> None:
    subjects = ["78", "51", "51", "75", "H10", "H3", "9"]
    hashes = ["x", "x", "y", "y", "z", "z", "w"]
    joined = "51+75+78"
    assert link_subjects(subjects, hashes) == [joined, joined, joined, joined, "H10+H3", "H10+H3", "9"]
    assert link_subjects(["1", "2"], ["x", "y"], same=[("2", "1"), ("2", "absent")]) == ["1+2", "1+2"]


@pytest.mark.data
def test_groups_of_the_real_metadata_follow_from_equal_bytes_and_known_persons(data_dir: Path) -> None:
    rows = load_rows(data_dir / "cnmc2019", same_person=False)
    assert len(rows) == 7651
    linked = link_subjects([row.subject for row in rows], [row.sha256 for row in rows])
    assert linked == [row.group for row in rows]
    before, after = set(linked), {row.group for row in load_rows(data_dir / "cnmc2019")}
    assert after - before == {"H14+H24", "H2+H4+H5+H6+H7", "43+44", "1+15+16+17+20+21"}
    assert (len(before), len(after)) == (42, 35)


@pytest.mark.data
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fold_0/hem/UID_H24_30_5_hem", "fold_1/hem/UID_H14_23_7_hem"),
        ("fold_0/all/UID_43_4_3_all", "fold_1/all/UID_44_23_3_all"),
        ("fold_0/hem/UID_H7_2_2_hem", "fold_2/hem/UID_H2_6_3_hem"),
        ("fold_0/all/UID_17_28_1_all", "fold_0/all/UID_20_32_1_all"),
        ("fold_0/all/UID_15_25_3_all", "fold_0/all/UID_1_7_2_all"),
        ("fold_0/all/UID_17_30_3_all", "fold_0/all/UID_1_4_2_all"),
        ("fold_0/all/UID_20_15_1_all", "fold_1/all/UID_16_38_1_all"),
    ],
)
def test_subjects_of_the_same_person_really_share_a_cell(data_dir: Path, one: str, other: str) -> None:
    a, b = (chromatin(data_dir / "cnmc2019" / f"{name}.webp") for name in (one, other))
    both = ~np.isnan(a) & ~np.isnan(b)
    # Of 300 random pairs of cells none is above 0.3, whatever their outlines.
    assert np.corrcoef(a[both], b[both])[0, 1] > 0.85


def chromatin(path: Path) -> np.ndarray:
    """What is finer than about 10 px inside a cell, grey (224, 224); NaN outside and near the edge."""
    grey = np.asarray(Image.open(path).convert("L"), dtype=float)
    inside = grey > 0
    shading = gaussian_filter(grey, 10) / np.maximum(gaussian_filter(inside.astype(float), 10), 1e-6)
    return np.where(binary_erosion(inside, iterations=6), gaussian_filter(grey, 2) - shading, np.nan)
