"""Probes find the shortcut that a network takes, and no other; what each does to pixels is exact."""

import json

import numpy as np
import pytest
from helpers_fold_networks import SIDE, cell, field, networks_of

from train import shortcut_probes
from train.masks import cell_mask, nuclei_mask
from train.probe_images import (
    CORNER,
    Typical,
    cell_painted_out,
    cell_silhouette,
    disc,
    eighth_turn_of_cell,
    eighth_turn_of_field,
    nuclei_painted_out,
    only_corner,
    quarter_turn,
    same_area,
    shifted_cell,
    shuffled_cell,
    without_corner,
)

PALE, DARK = (150, 80, 170), (75, 35, 90)
MARKS = {"Benign": (200, 30, 30), "Early": (30, 200, 30), "Pre": (30, 30, 200), "Pro": (250, 250, 60)}
TYPICAL = Typical(400.0, np.array((75, 35, 90), np.uint8), np.array((230, 231, 232), np.uint8))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def inside(view: np.ndarray) -> np.ndarray:
    """The cell's pixels, (n, 3), n at least 1."""
    found = view[cell_mask(view)].astype(float)
    return found if len(found) else np.zeros((1, 3))


def passed(dataset, images, rule) -> dict[str, bool]:
    record = shortcut_probes.measure(networks_of(dataset, images, rule))
    return {row["probe"]: row["passed"] for row in record["rows"]}


def towards_all(score: float) -> np.ndarray:
    return np.array([score, -score])


def cells(all_: dict, hem: dict, n: int = 16) -> dict[str, list[np.ndarray]]:
    """`n` cells of each label; what is not given is alike in both, with some spread."""

    def one(settings: dict, i: int) -> np.ndarray:
        return cell(**{"radius": 14 + 3 * rng(i).uniform(-1, 1), "colour": DARK, "grain": 6} | settings, rng=rng(i))

    return {label: [one(settings, i) for i in range(n)] for label, settings in (("ALL", all_), ("HEM", hem))}


def texture(view: np.ndarray) -> np.ndarray:
    """Contrast between neighbours well inside the cell, which neither grey nor a turn removes."""
    rows, columns = np.nonzero(cell_mask(view))
    if not len(rows):
        return towards_all(-3.0)
    y, x = int(rows.mean()), int(columns.mean())
    middle = view.astype(float).mean(axis=2)[y - 6 : y + 6, x - 6 : x + 6]
    return towards_all((np.abs(np.diff(middle, axis=0)).mean() - 12) / 2)


@pytest.mark.parametrize(
    ("images", "rule", "failing"),
    [
        (({"radius": 18}, {"radius": 10}), lambda v: towards_all((cell_mask(v).sum() - 600) / 100), {"same_area"}),
        (({"grain": 25}, {"grain": 5}), texture, set()),
        (
            ({"colour": (110, 35, 60)}, {"colour": (60, 35, 110)}),
            lambda v: towards_all((inside(v)[:, 0] - inside(v)[:, 2]).mean() / 10),
            {"grey"},
        ),
    ],
    ids=["size", "texture", "colour"],
)
def test_a_shortcut_on_cells_fails_its_probe_alone(images, rule, failing):
    found = passed("cnmc2019", cells(*images), rule)
    # None of these looks at anything that shuffling pixels would remove.
    assert {name for name, ok in found.items() if not ok} == failing | {"shuffled"}


@pytest.mark.parametrize("reads_grey", [True, False])
def test_grey_taken_for_healthy_is_detected(reads_grey):
    def rule(view: np.ndarray) -> np.ndarray:
        if reads_grey and np.ptp(inside(view), axis=1).max() < 1:
            return towards_all(-3.0)
        return towards_all((inside(view).max(axis=1).std() - 14) / 3)

    networks = networks_of("cnmc2019", cells({"grain": 25}, {"grain": 5}), rule)
    found = shortcut_probes.measure(networks)["grey_is_healthy"]
    rows = {row["probe"]: row for row in found["rows"]}
    assert found["passed"] is not reads_grey
    if reads_grey:
        assert found["called_HEM_in_grey"]["value"] == 1
        assert found["difference"]["value"] == pytest.approx(1 - found["called_HEM_in_colour"]["value"])
        assert rows["hem_desaturated"]["difference"]["value"] >= 0 > rows["all_desaturated"]["difference"]["value"]
        assert rows["both_desaturated"]["balanced_accuracy"]["value"] == 0.5
    else:
        assert found["difference"]["value"] == 0
        assert found["called_HEM_in_colour"] == found["called_HEM_in_grey"]


def test_a_network_that_reads_the_scale_bar_fails_where_the_bar_is_changed():
    def rule(view: np.ndarray) -> np.ndarray:
        return -np.abs(np.array(list(MARKS.values())) - view[-4, -4].astype(float)).sum(axis=1) / 20

    images = {label: [field(6, mark, rng(i)) for i in range(8)] for label, mark in MARKS.items()}
    found = passed("aria2021", images, rule)
    assert not found["bar_covered"] and not found["corner"]
    assert found["background"] and found["silhouette"] and found["shuffled"]


def test_a_network_that_counts_nuclei_passes_what_leaves_them_alone():
    counts = np.array([2, 5, 8, 11])
    images = {label: [field(n, MARKS[label], rng(i)) for i in range(8)] for label, n in zip(MARKS, counts, strict=True)}
    found = passed("aria2021", images, lambda view: -np.abs(nuclei_mask(view).sum() / 84 - counts))
    assert all(found[name] for name in ("rotation_90", "bar_covered", "jpeg", "corner", "background"))


def test_the_record_is_reproducible_json_whose_limits_decide():
    networks = networks_of("cnmc2019", cells({"grain": 25}, {"grain": 5}), lambda v: towards_all(v.std() / 10 - 2))
    record, again = (shortcut_probes.measure(networks, every=2) for _ in range(2))
    assert record == again == json.loads(json.dumps(record, allow_nan=False))
    assert record["images"] == len(networks.every(2)) and record["every"] == 2
    for row in record["rows"]:
        score = row[row["measure"]]["value"]
        assert row["passed"] == (score >= -row["limit"] if row["expect"] == "keeps" else score <= row["limit"])


def test_what_is_typical_comes_from_training_images_only():
    networks = networks_of("cnmc2019", cells({"radius": 18}, {"radius": 10}), lambda view: towards_all(0.0))
    before = shortcut_probes._typical(networks, 0)
    networks.pixels[list(networks.splits[0].test)] = 255
    after = shortcut_probes._typical(networks, 0)
    assert before.area == after.area and (before.inside == after.inside).all()


@pytest.mark.parametrize("probe", sum(shortcut_probes.PROBES.values(), ()), ids=lambda probe: probe.name)
def test_every_probe_accepts_any_view_and_leaves_it_unchanged(probe):
    touching = np.zeros((SIDE, SIDE, 3), np.uint8)
    touching[:, 3:] = DARK
    views = [np.zeros((SIDE, SIDE, 3), np.uint8), np.full((SIDE, SIDE, 3), 255, np.uint8), touching]
    for view in [*views, cell(15, DARK, 5, rng()), field(6, (200, 30, 30), rng())]:
        before = view.copy()
        after = probe.alter(view, TYPICAL, rng())
        assert after.dtype == np.uint8 and after.shape == view.shape and (view == before).all()
        assert (probe.alter(view, TYPICAL, rng()) == after).all()


def test_a_moved_cell_is_complete_and_moves_a_tenth_of_the_side_where_it_can():
    for seed in range(20):
        view = cell(28, DARK, 5, rng(seed))
        moved = shifted_cell(view, TYPICAL, rng(seed))
        assert np.array_equal(*(np.sort(p[cell_mask(p)].ravel()) for p in (view, moved)))
    view = cell(8, DARK, 0, rng())
    centres = [np.array(np.nonzero(cell_mask(p))).mean(axis=1) for p in (view, shifted_cell(view, TYPICAL, rng(1)))]
    assert np.hypot(*(centres[1] - centres[0])) == pytest.approx(0.1 * SIDE, abs=0.8)


@pytest.mark.parametrize("radius", [7, 11, 15, 25])
def test_cells_of_one_size_have_one_size(radius):
    after = same_area(cell(radius, DARK, 0, rng(radius)), TYPICAL, rng())
    # Resampling blurs the border: the cell is where it is at least half as bright as its middle.
    assert (after[..., 2] >= DARK[2] / 2).sum() == pytest.approx(TYPICAL.area, rel=0.05)


def test_what_is_left_of_a_cell_is_what_each_probe_says():
    view = cell(13, PALE, 20, rng(2))
    mask = cell_mask(view)
    round_, outline, shuffled, nothing = (
        alter(view, TYPICAL, rng()) for alter in (disc, cell_silhouette, shuffled_cell, cell_painted_out)
    )
    assert cell_mask(round_).sum() == pytest.approx(mask.sum(), rel=0.03)
    assert set(map(tuple, round_.reshape(-1, 3).tolist())) == {(0, 0, 0), DARK}
    assert (cell_mask(outline) == mask).all() and len(np.unique(outline[mask], axis=0)) == 1
    assert (cell_mask(shuffled) == mask).all() and (shuffled != view).any()
    assert sorted(map(tuple, shuffled.reshape(-1, 3))) == sorted(map(tuple, view.reshape(-1, 3)))
    assert nothing.max() == 0
    turned = view
    for _ in range(4):
        turned = quarter_turn(turned, TYPICAL, rng())
    assert (turned == view).all()


def test_what_is_left_of_a_field_is_what_each_probe_says():
    view, at = field(6, (200, 30, 30), rng()), SIDE - round(CORNER * SIDE)
    without_nuclei, covered, only = (
        alter(view, TYPICAL, rng()) for alter in (nuclei_painted_out, without_corner, only_corner)
    )
    assert not nuclei_mask(without_nuclei).any()
    for one in (without_nuclei, covered):
        assert np.abs(one[at + 2 :, at + 2 :].astype(int) - (235, 235, 240)).max() < 8
    assert (covered[:at] == view[:at]).all() and (covered[:, :at] == view[:, :at]).all()
    assert (only[at:, at:] == view[at:, at:]).all() and (only[:at] == TYPICAL.outside).all()
    for alter, corner in ((eighth_turn_of_cell, 0), (eighth_turn_of_field, 90)):
        eighth = alter(np.full((SIDE, SIDE, 3), 90, np.uint8), TYPICAL, rng())
        assert (eighth[20:44, 20:44] == 90).all() and (eighth[0, 0] == corner).all()


def test_nuclei_are_found_by_colour():
    assert nuclei_mask(field(6, None, rng())).sum() == pytest.approx(6 * 81, rel=0.2)
    bluish_red_cells = np.full((SIDE, SIDE, 3), 240, np.uint8)
    bluish_red_cells[10:30, 10:30] = (110, 150, 200)
    assert not nuclei_mask(bluish_red_cells).any() and not nuclei_mask(field(0, None, rng())).any()
