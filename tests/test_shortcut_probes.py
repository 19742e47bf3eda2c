"""Probes find the shortcut a made-up network takes, and no other; what each does to pixels is exact."""

import json

import numpy as np
import pytest
from helpers_shortcut_probes import SIDE, cell, field, networks_of

from train import shortcut_probes
from train.masks import cell_mask, nuclei_mask, otsu

PALE, DARK = (150, 80, 170), (75, 35, 90)
MARKS = {"Benign": (200, 30, 30), "Early": (30, 200, 30), "Pre": (30, 30, 200), "Pro": (250, 250, 60)}
TYPICAL = shortcut_probes.Typical(400.0, np.array((75, 35, 90), np.uint8), np.array((230, 231, 232), np.uint8))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def inside(view: np.ndarray) -> np.ndarray:
    """The cell's pixels, (n, 3), n at least 1."""
    found = view[cell_mask(view)].astype(float)
    return found if len(found) else np.zeros((1, 3))


def verdicts(record) -> dict[str, bool]:
    return {row["probe"]: row["passed"] for row in record["rows"]}


def towards_all(score: float) -> np.ndarray:
    return np.array([score, -score])


def cells(all_: dict, hem: dict, n: int = 24) -> dict[str, list[np.ndarray]]:
    """`n` cells of either label; what is not told apart is the same for both, with some spread."""

    def one(settings: dict, i: int) -> np.ndarray:
        spread = rng(i).uniform(-1, 1)
        return cell(**{"radius": 14 + 3 * spread, "colour": DARK, "grain": 6} | settings, rng=rng(i))

    return {label: [one(s, i) for i in range(n)] for label, s in (("ALL", all_), ("HEM", hem))}


def test_a_network_that_only_measures_the_cell_is_found_out_by_cells_of_one_size():
    images = cells({"radius": 18}, {"radius": 10})
    ruler = networks_of("cnmc2019", images, lambda view: towards_all((cell_mask(view).sum() - 600) / 100))
    found = verdicts(shortcut_probes.measure(ruler, progress=False))
    assert not found["same_area"]
    # It takes no other shortcut: what silhouettes and discs still tell it is the area.
    assert all(found[name] for name in set(found) - {"same_area", "shuffled"})
    assert not found["shuffled"]  # nor does it look at texture


def test_a_network_that_reads_texture_passes():
    images = cells({"grain": 25}, {"grain": 5})

    def rule(view: np.ndarray) -> np.ndarray:
        # Contrast between neighbours well inside the cell, which neither grey nor a turn takes away.
        rows, columns = np.nonzero(cell_mask(view))
        if not len(rows):
            return towards_all(-3.0)
        y, x = int(rows.mean()), int(columns.mean())
        middle = view.astype(float).mean(axis=2)[y - 6 : y + 6, x - 6 : x + 6]
        return towards_all((np.abs(np.diff(middle, axis=0)).mean() - 12) / 2)

    found = shortcut_probes.measure(networks_of("cnmc2019", images, rule), progress=False)
    passed = verdicts(found)
    # Shuffling grain gives grain; everything else about this network is as it should be.
    assert all(passed[name] for name in set(passed) - {"shuffled"}), passed
    assert found["clean"]["weighted_f1"]["value"] == 1


def test_a_network_that_reads_colour_is_found_out_in_grey_and_when_shuffled():
    images = cells({"colour": (110, 35, 60)}, {"colour": (60, 35, 110)})

    def rule(view: np.ndarray) -> np.ndarray:
        return towards_all((inside(view)[:, 0] - inside(view)[:, 2]).mean() / 10)

    found = verdicts(shortcut_probes.measure(networks_of("cnmc2019", images, rule), progress=False))
    assert not found["grey"] and not found["shuffled"]
    assert found["same_area"] and found["silhouette"] and found["rotation_90"] and found["jpeg"]


def test_grey_taken_for_healthy_is_found_out():
    images = cells({"grain": 25}, {"grain": 5})

    def fooled(view: np.ndarray) -> np.ndarray:
        is_grey = np.ptp(inside(view), axis=1).max() < 1
        return towards_all(-3.0 if is_grey else (inside(view).max(axis=1).std() - 14) / 3)

    record = shortcut_probes.measure(networks_of("cnmc2019", images, fooled), progress=False)
    found = record["grey_is_healthy"]
    assert found["called_HEM_in_grey"]["value"] == 1
    assert found["difference"]["value"] == pytest.approx(1 - found["called_HEM_in_colour"]["value"])
    assert not found["passed"]
    rows = {row["probe"]: row for row in found["rows"]}
    # Greying HEM only makes the task easier, greying ALL only makes it impossible: the labels alone decide.
    assert rows["hem_desaturated"]["difference"]["value"] >= 0 > rows["all_desaturated"]["difference"]["value"]
    assert rows["both_desaturated"]["balanced_accuracy"]["value"] == 0.5


def test_grey_that_changes_nothing_passes():
    images = cells({"grain": 25}, {"grain": 5})
    networks = networks_of("cnmc2019", images, lambda view: towards_all((inside(view).max(axis=1).std() - 14) / 3))
    found = shortcut_probes.measure(networks, progress=False)["grey_is_healthy"]
    assert found["passed"] and found["difference"]["value"] == 0
    assert found["called_HEM_in_colour"] == found["called_HEM_in_grey"]


def fields(n: int = 8, mark: bool = True, nuclei: tuple[int, ...] = (6, 6, 6, 6)) -> dict[str, list[np.ndarray]]:
    return {
        label: [field(count, MARKS[label] if mark else None, rng(i)) for i in range(n)]
        for (label, count) in zip(MARKS, nuclei, strict=True)
    }


def test_a_network_that_reads_the_scale_bar_is_found_out():
    def rule(view: np.ndarray) -> np.ndarray:
        away = np.abs(np.array(list(MARKS.values())) - view[-4, -4].astype(float)).sum(axis=1)
        return -away / 20

    found = verdicts(shortcut_probes.measure(networks_of("aria2021", fields(), rule), progress=False))
    assert not found["bar_covered"] and not found["corner"]
    assert found["background"] and found["silhouette"] and found["shuffled"]  # in none of which there is a bar


def test_a_network_that_counts_nuclei_passes_what_leaves_them_alone():
    counts = np.array([2, 5, 8, 11])

    def rule(view: np.ndarray) -> np.ndarray:
        return -np.abs(nuclei_mask(view).sum() / 84 - counts)

    found = verdicts(
        shortcut_probes.measure(networks_of("aria2021", fields(nuclei=tuple(counts)), rule), progress=False)
    )
    assert found["rotation_90"] and found["bar_covered"] and found["jpeg"]
    assert found["corner"] and found["background"]


def test_the_record_is_json_with_every_key_and_a_limit_that_decides(tmp_path):
    images = cells({"grain": 25}, {"grain": 5})
    networks = networks_of("cnmc2019", images, lambda view: towards_all(view.std() / 10 - 2))
    record = json.loads(json.dumps(shortcut_probes.measure(networks, every=2, progress=False), allow_nan=False))
    assert record["images"] == len(networks.every(2)) and record["every"] == 2
    assert {row["name"] for row in record["without_network"]} == set(shortcut_probes.WITHOUT_NETWORK["cnmc2019"])
    for row in record["rows"]:
        score = row[row["measure"]]["value"]
        assert row["passed"] == (score >= -row["limit"] if row["expect"] == "keeps" else score <= row["limit"])
        assert row["what"].endswith(".") and row["reason"].endswith(".")
        assert row["difference"]["value"] == pytest.approx(
            row["weighted_f1"]["value"] - record["clean"]["weighted_f1"]["value"], abs=2e-5
        )
    assert "FAILED" in shortcut_probes.described(record) or all(row["passed"] for row in record["rows"])


def test_the_same_seed_gives_the_same_record():
    images = cells({"grain": 25}, {"grain": 5}, n=8)
    networks = networks_of("cnmc2019", images, lambda view: towards_all(view[::7, ::5].std() / 10 - 2))
    assert shortcut_probes.measure(networks, progress=False) == shortcut_probes.measure(networks, progress=False)


def test_what_is_typical_comes_from_training_images_only():
    images = cells({"radius": 18}, {"radius": 10})
    networks = networks_of("cnmc2019", images, lambda view: towards_all(0.0))
    before = shortcut_probes._typical(networks, 0)
    networks.pixels[list(networks.splits[0].test)] = 255
    after = shortcut_probes._typical(networks, 0)
    assert before.area == after.area and (before.inside == after.inside).all()


@pytest.mark.parametrize("probe", [*shortcut_probes.CELLS, *shortcut_probes.FIELDS], ids=lambda probe: probe.name)
@pytest.mark.parametrize("shape", ["black", "white", "cell", "field", "touching"])
def test_every_probe_survives_any_view_and_leaves_it_unchanged(probe, shape):
    touching = np.zeros((SIDE, SIDE, 3), np.uint8)
    touching[:, 3:] = DARK
    pixels = {
        "black": np.zeros((SIDE, SIDE, 3), np.uint8),
        "white": np.full((SIDE, SIDE, 3), 255, np.uint8),
        "cell": cell(15, DARK, 5, rng()),
        "field": field(6, (200, 30, 30), rng()),
        "touching": touching,
    }[shape]
    before = pixels.copy()
    after = probe.alter(pixels, TYPICAL, rng())
    assert after.dtype == np.uint8 and after.shape == pixels.shape
    assert (pixels == before).all()
    assert (probe.alter(pixels, TYPICAL, rng()) == after).all()


def test_a_moved_cell_is_whole():
    for seed in range(20):
        pixels = cell(28, DARK, 5, rng(seed))
        moved = shortcut_probes.shifted_cell(pixels, TYPICAL, rng(seed))
        inside = [np.sort(p[cell_mask(p)].ravel()) for p in (pixels, moved)]
        assert np.array_equal(*inside)


def test_a_cell_that_has_room_moves_a_tenth_of_the_side():
    pixels = cell(8, DARK, 0, rng())
    moved = shortcut_probes.shifted_cell(pixels, TYPICAL, rng(1))
    centres = [np.array(np.nonzero(cell_mask(p))).mean(axis=1) for p in (pixels, moved)]
    assert np.hypot(*(centres[1] - centres[0])) == pytest.approx(0.1 * SIDE, abs=0.8)


def test_cells_of_one_size_have_one_size_and_stay_whole():
    for radius in (7, 11, 15, 25):
        after = shortcut_probes.same_area(cell(radius, DARK, 0, rng(radius)), TYPICAL, rng())
        # Resampling blurs the border: the cell is where it is at least half as bright as its middle.
        assert (after[..., 2] >= DARK[2] / 2).sum() == pytest.approx(TYPICAL.area, rel=0.05)


def test_a_disc_has_the_area_of_the_cell_and_only_that():
    pixels = cell(13, PALE, 9, rng(2))
    after = shortcut_probes.disc(pixels, TYPICAL, rng())
    assert cell_mask(after).sum() == pytest.approx(cell_mask(pixels).sum(), rel=0.03)
    assert set(map(tuple, after.reshape(-1, 3).tolist())) == {(0, 0, 0), (75, 35, 90)}


def test_a_silhouette_keeps_the_outline_and_nothing_inside():
    pixels = cell(13, PALE, 9, rng(2))
    after = shortcut_probes.cell_silhouette(pixels, TYPICAL, rng())
    assert (cell_mask(after) == cell_mask(pixels)).all()
    assert len(np.unique(after[cell_mask(after)], axis=0)) == 1


def test_shuffling_keeps_colours_and_outline_and_moves_pixels():
    pixels = cell(13, PALE, 20, rng(2))
    after = shortcut_probes.shuffled_cell(pixels, TYPICAL, rng())
    assert (cell_mask(after) == cell_mask(pixels)).all()
    assert sorted(map(tuple, after.reshape(-1, 3))) == sorted(map(tuple, pixels.reshape(-1, 3)))
    assert (after != pixels).any()


def test_nothing_of_a_cell_is_left_in_its_background():
    assert shortcut_probes.cell_painted_out(cell(13, PALE, 20, rng()), TYPICAL, rng()).max() == 0


def test_nuclei_and_bar_are_gone_from_a_field_and_the_rest_stays():
    pixels = field(6, (200, 30, 30), rng())
    after = shortcut_probes.nuclei_painted_out(pixels, TYPICAL, rng())
    assert not nuclei_mask(after).any()
    assert np.abs(after[-8:, -8:].astype(int) - (235, 235, 240)).max() < 8
    assert (after[20:44, 56:] == pixels[20:44, 56:]).mean() > 0.1
    kept = ~(shortcut_probes._widened(nuclei_mask(pixels)))
    kept[-11:, -11:] = False
    assert (after[kept] == pixels[kept]).all()


def test_a_covered_corner_holds_the_colour_around_it_and_the_rest_is_untouched():
    pixels = field(0, (200, 30, 30), rng())
    after = shortcut_probes.without_corner(pixels, TYPICAL, rng())
    at = SIDE - round(shortcut_probes.CORNER * SIDE)
    assert np.abs(after[at:, at:].astype(int) - (235, 235, 240)).max() < 5
    assert (after[:at] == pixels[:at]).all() and (after[:, :at] == pixels[:, :at]).all()
    only = shortcut_probes.only_corner(pixels, TYPICAL, rng())
    assert (only[at:, at:] == pixels[at:, at:]).all() and (only[:at] == TYPICAL.outside).all()


def test_four_quarter_turns_are_none_and_an_eighth_keeps_the_middle():
    pixels = cell(15, DARK, 10, rng())
    turned = pixels
    for _ in range(4):
        turned = shortcut_probes.quarter_turn(turned, TYPICAL, rng())
    assert (turned == pixels).all()
    for mode in ("constant", "reflect"):
        flat = np.full((SIDE, SIDE, 3), 90, np.uint8)
        eighth = shortcut_probes.eighth_turn(mode)(flat, TYPICAL, rng())
        assert (eighth[20:44, 20:44] == 90).all()
        assert (eighth[0, 0] == (90 if mode == "reflect" else 0)).all()


def test_a_scale_bar_is_in_its_corner_and_nowhere_else():
    pixels = cell(15, DARK, 5, rng())
    changed = (shortcut_probes.with_bar(pixels, TYPICAL, rng()) != pixels).any(axis=2)
    assert changed.any() and not changed[: SIDE * 3 // 4].any() and not changed[:, : SIDE * 3 // 4].any()


def test_nuclei_are_found_by_colour_and_a_bare_field_has_none():
    assert nuclei_mask(field(6, None, rng())).sum() == pytest.approx(6 * 81, rel=0.2)
    assert not nuclei_mask(field(0, None, rng())).any()
    bluish_red_cells = np.full((SIDE, SIDE, 3), 240, np.uint8)
    bluish_red_cells[10:30, 10:30] = (110, 150, 200)
    assert not nuclei_mask(bluish_red_cells).any()


def test_otsu_parts_two_heaps_between_them():
    values = np.concatenate([rng().normal(1, 0.1, 500), rng().normal(3, 0.1, 200)])
    assert 1.3 < otsu(values) < 2.7
    assert otsu(np.full(9, 4.0)) == pytest.approx(4, abs=1)


def test_a_folder_without_networks_ends_in_one_sentence(tmp_path, capsys):
    assert shortcut_probes.main([str(tmp_path), "--data", str(tmp_path)]) == 2
    assert "has no folds.json" in capsys.readouterr().err
