"""Splits: what each protocol promises, on made-up rows and on the real metadata."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from blastlens.errors import BlastlensError
from train.datasets import Row, load_rows
from train.datasets.splits import Split, check_split, make_splits, with_validation

GROUP_PROTOCOLS = ("group-kfold:2", "group-kfold:3", "group-kfold:5")
IMAGE_PROTOCOLS = ("image-70-10-20-per-fold", "image-70-15-15", "image-80-10-10", "image-10fold")


def made_up(sizes: dict[str, list[int]], folds: int = 3) -> list[Row]:
    """Groups of the given sizes per label, in official folds, each with one byte-identical pair where it can."""
    rows = []
    for label, groups in sizes.items():
        for g, size in enumerate(groups):
            group = f"{label}-{g}"
            for k in range(size):
                sha256 = f"{group}-{0 if k == 1 else k}"
                rows.append(Row(f"{group}/{k}.webp", label, group, group, f"fold_{g % folds}", sha256))
    return rows


ROWS = made_up({"ALL": [1, 5, 9, 14, 20, 30, 31, 44, 60, 120], "HEM": [2, 6, 7, 11, 15, 24, 25, 40, 41, 44]})


def parts(split: Split) -> list[tuple[int, ...]]:
    return [split.train, split.val, split.test]


def groups_of(rows: list[Row], indices: tuple[int, ...]) -> set[str]:
    return {rows[i].group for i in indices}


def assert_no_leak(rows: list[Row], split: Split) -> None:
    assert sorted(i for part in parts(split) for i in part) == list(range(len(rows)))
    for key in ("group", "sha256", "subject"):
        sides = [{getattr(rows[i], key) for i in part} for part in parts(split)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


@pytest.mark.parametrize("protocol", GROUP_PROTOCOLS)
@pytest.mark.parametrize("seed", range(2))
def test_no_group_and_no_equal_image_is_on_two_sides_of_a_group_split(protocol: str, seed: int) -> None:
    splits = make_splits(protocol, ROWS, seed)
    for split in splits:
        assert_no_leak(ROWS, split)
        for part in parts(split):
            for label in ("ALL", "HEM"):
                assert not part or len({g for g in groups_of(ROWS, part) if g.startswith(label)}) >= 2
    assert sorted(i for split in splits for i in split.test) == list(range(len(ROWS)))
    assert [split.fold for split in splits] == list(range(int(protocol[-1])))
    assert not any(split.val for split in splits)


@pytest.mark.parametrize("protocol", [*GROUP_PROTOCOLS, *IMAGE_PROTOCOLS])
def test_a_seed_gives_the_same_split_again_and_another_seed_another(protocol: str) -> None:
    assert make_splits(protocol, ROWS, 0) == make_splits(protocol, ROWS, 0)
    assert len({tuple(split.test for split in make_splits(protocol, ROWS, seed)) for seed in range(5)}) >= 4


def test_group_folds_are_balanced_in_images_and_groups() -> None:
    for split in make_splits("group-kfold:3", ROWS, 0):
        images = Counter(ROWS[i].label for i in split.test)
        assert 334 / 3 * 0.9 < images["ALL"] < 334 / 3 * 1.15
        assert 215 / 3 * 0.9 < images["HEM"] < 215 / 3 * 1.1
        groups = Counter(group.split("-")[0] for group in groups_of(ROWS, split.test))
        assert groups["ALL"] in (2, 3, 4) and groups["HEM"] in (3, 4)


@pytest.mark.parametrize("protocol", IMAGE_PROTOCOLS)
def test_image_splits_place_every_image_once(protocol: str) -> None:
    splits = make_splits(protocol, ROWS, 3)
    if protocol == "image-10fold":
        assert sorted(i for split in splits for i in split.test) == list(range(len(ROWS)))
        assert all(sorted(split.train + split.test) == list(range(len(ROWS))) for split in splits)
        return
    placed = [i for split in splits for part in parts(split) for i in part]
    first = [i for i, row in enumerate(ROWS) if not row.file_name.endswith("/1.webp")]  # of byte-identical images
    assert sorted(placed) == (first if protocol == "image-70-15-15" else list(range(len(ROWS))))


def test_per_fold_splits_stay_within_their_fold() -> None:
    splits = make_splits("image-70-10-20-per-fold", ROWS, 0)
    for number, split in enumerate(splits):
        assert {ROWS[i].fold for part in parts(split) for i in part} == {f"fold_{number}"}
    with pytest.raises(BlastlensError, match="these rows have none"):
        make_splits("image-70-10-20-per-fold", [replace(row, fold="") for row in ROWS], 0)


@pytest.mark.parametrize("protocol", ["group-kfold", "group-kfold:1", "group-kfold:x", "images", ""])
def test_an_unknown_protocol_is_refused(protocol: str) -> None:
    with pytest.raises(BlastlensError, match="is no split protocol; accepted are image-70"):
        make_splits(protocol, ROWS, 0)


def test_too_few_groups_are_refused() -> None:
    rows = made_up({"ALL": [5, 5, 5], "HEM": [9, 9]})
    assert len(make_splits("group-kfold:2", rows, 0)) == 2
    with pytest.raises(BlastlensError, match="HEM has 2 groups, too few to fill 3 parts"):
        make_splits("group-kfold:3", rows, 0)


def test_equal_images_in_two_groups_are_refused() -> None:
    rows = [*ROWS, *(replace(row, file_name=f"copy/{i}", group="ALL-copy") for i, row in enumerate(ROWS[:200:20]))]
    with pytest.raises(BlastlensError, match="both have sha256"):
        make_splits("group-kfold:5", rows, 0)


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        (Split((0, 1), (), (1, 2), "image-80-10-10", 0, 0), "both have index 1"),
        (Split((0,), (), (1, 2), "group-kfold:3", 0, 0), "both have group g"),
        (Split((0, 1), (), (), "group-kfold:3", 0, 0), "1 of 3 rows are in no part"),
    ],
)
def test_a_leaking_split_is_refused(split: Split, reason: str) -> None:
    rows = [Row("0", "ALL", "", "g", "", "x"), Row("1", "ALL", "", "g", "", "y"), Row("2", "ALL", "", "h", "", "z")]
    with pytest.raises(BlastlensError, match=reason):
        check_split(split, rows)


@pytest.mark.parametrize("protocol", ["group-kfold:3", "image-10fold"])
def test_a_validation_part_is_taken_from_training_and_leaves_the_test_part_alone(protocol: str) -> None:
    for split in make_splits(protocol, ROWS, 0)[:3]:
        made = with_validation(split, ROWS, 0.15)
        assert made.test == split.test and not split.val
        assert set(made.train) | set(made.val) == set(split.train)
        assert 0.05 < len(made.val) / len(split.train) < 0.3
        assert {ROWS[i].label for i in made.val} == {"ALL", "HEM"}
        if protocol.startswith("group-"):
            assert_no_leak(ROWS, made)
        assert with_validation(split, ROWS, 0.15) == made


@pytest.fixture(scope="module", params=[False, True], ids=["equal bytes", "same person"])
def real_rows(data_dir: Path, request: pytest.FixtureRequest) -> list[Row]:
    return load_rows(data_dir / "cnmc2019", same_person=request.param)


@pytest.mark.data
@pytest.mark.parametrize("protocol", ["group-kfold:3", "group-kfold:5"])
def test_real_cells_never_leak_and_every_part_has_two_groups_of_each_label(real_rows: list[Row], protocol: str) -> None:
    for seed in range(2):
        for split in make_splits(protocol, real_rows, seed):
            assert_no_leak(real_rows, split)
            for part in filter(None, parts(split)):
                groups = {(real_rows[i].label, real_rows[i].group) for i in part}
                assert min(Counter(label for label, _ in groups).values()) >= 2


@pytest.mark.data
def test_the_paper_s_own_split_sizes_come_out(data_dir: Path) -> None:
    rows = load_rows(data_dir / "cnmc2019")
    first, *_ = make_splits("image-70-10-20-per-fold", rows, 0)
    sizes = [sum(rows[i].label == "ALL" for i in part) for part in parts(first)]
    assert sizes == [1677, 239, 481]  # printed by the MobileNet_M paper for fold 0
