"""The comparison on the page: every number is a record's, every system is there, what is missing says why."""

import copy
import dataclasses
import html
import json
import re
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from gradio_client import Client
from helpers_models import shared_model_folder
from playwright.sync_api import expect

from blastlens.errors import BlastlensError
from blastlens.metrics import Interval
from blastlens.model_folder import ModelFolder, bundled_root
from blastlens.published_systems import RECORD, Comparison, Level
from blastlens.ui import comparison
from blastlens.ui.comparison import model_html, noise_html, recipe_of, speed_html, systems_html

CELLS, FIELDS = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"


@pytest.fixture(scope="module")
def record() -> Comparison:
    found = Comparison.load()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def folders() -> list[ModelFolder]:
    return [ModelFolder.load(bundled_root() / name, name) for name in (CELLS, FIELDS)]


def raw() -> dict:
    return json.loads(RECORD.read_text(encoding="utf-8"))


def text_of(markup: str) -> str:
    """What is read, without tags and with single spaces."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def rows_of(markup: str) -> dict[str, str]:
    """Each measured system's row, by its title."""
    rows = re.findall(r'<tr class="[^"]*"><th scope="row">([^<]*)(.*?)</tr>', markup, re.DOTALL)
    return {html.unescape(title.strip()): text_of(rest) for title, rest in rows}


def cells_of(markup: str, label: str) -> list[str]:
    """What stands in the cells of a column, which on narrow pages carry its label."""
    return [text_of(cell) for cell in re.findall(rf'<td[^>]* data-label="{label}">(.*?)</td>', markup, re.DOTALL)]


def not_run(markup: str) -> list[tuple[str, str]]:
    """What opens to the systems that were not measured: its summary, and what it holds."""
    found = re.findall(r'<details class="not-run"><summary>(.*?)</summary>(.*?)</details>', markup, re.DOTALL)
    return [(summary, text_of(rest)) for summary, rest in found]


def test_every_published_system_and_ours_is_there_once(record, folders):
    page = systems_html(record, folders, folders[0])
    rows, rest = rows_of(page), " ".join(text for _, text in not_run(page))
    for system in record.systems:
        assert (system.title in rows, system.title in rest) == (system.measured, not system.measured)
    assert sum(system.paper is not None for system in record.systems) == record.n_published == 17


def test_a_measured_system_shows_both_levels_with_intervals_and_what_was_changed(record, folders):
    (system,) = [s for s in record.systems if s.name == "mobilenet_m"]
    row = rows_of(systems_html(record, folders, folders[0]))[system.title]
    for level in (system.image, system.group):
        a = level.accuracy
        assert f"{a.value:.3f} ({a.low:.3f} to {a.high:.3f})" in row
    assert f"{system.leak.value:+.3f} ({system.leak.low:+.3f} to {system.leak.high:+.3f})" in row
    assert system.claimed_in_words in row and "changed: image-level: epochs" in row
    assert system.image.folds and f"{system.image.folds}; F1 {system.image.weighted_f1.value:.3f}" in row


def test_systems_that_were_not_measured_say_why_and_what_their_papers_claim(record, folders):
    page = systems_html(record, folders, folders[0])
    counts = []
    for name, (summary, text) in zip(("cnmc2019", "aria2021"), not_run(page), strict=True):
        missing = [s for s in record.of(name) if not s.measured]
        assert all(isinstance(s.group, str) and s.leak is None for s in missing)
        for system in missing:
            assert system.group.lower() in text.lower()
            assert f"{system.title} : claimed accuracy {system.claimed_in_words}" in text
        counts.append(f"{len(missing)} system{'s' if len(missing) > 1 else ''} not run yet")
        assert summary == counts[-1]
    assert counts == ["9 systems not run yet", "1 system not run yet"]


def test_a_record_with_every_system_measured_has_nothing_to_open(record, folders):
    systems = tuple(system for system in record.systems if system.measured)
    page = systems_html(dataclasses.replace(record, systems=systems), folders, folders[0])
    assert not_run(page) == [] and set(rows_of(page)) == {system.title for system in systems}


def test_no_image_level_figure_stands_without_the_word(record, folders):
    page = systems_html(record, folders, folders[0])
    assert page.count("(image-level)</th>") == len(record.datasets)
    cells = cells_of(page, "Image-level")
    measured = [s.image.accuracy for s in record.systems if isinstance(s.image, Level)]
    figures = [f"{a.value:.3f} ({a.low:.3f} to {a.high:.3f})" for a in measured]
    assert sorted(cell.split(")")[0] + ")" for cell in cells if cell[0].isdigit()) == sorted(figures)
    elsewhere = re.sub(r'<td data-label="Image-level">.*?</td>', "", page, flags=re.DOTALL)
    assert not any(figure in text_of(elsewhere) for figure in figures)


def test_what_is_new_to_a_system_is_people_for_cells_and_slides_for_fields(record, folders):
    page = systems_html(record, folders, folders[0])
    for new, name in (("On new people", "cnmc2019"), ("On new slides", "aria2021")):
        assert f'<th scope="col">{new} (group-disjoint)</th>' in page
        assert len(cells_of(page, new)) == sum(system.measured for system in record.of(name))


def test_the_picked_models_data_set_comes_first_and_its_row_is_marked(record, folders):
    for folder, title in zip(folders, ("Single cells", "Smear fields"), strict=True):
        page = systems_html(record, folders, folder)
        assert re.search(r"<h3>([^<]*)", page).group(1).startswith(title)
        marked = re.findall(r'<tr class="[^"]*chosen[^"]*"><th scope="row">([^<]*)', page)
        # A recipe that was measured on other splits than the published systems is in no row.
        assert [m.strip() for m in marked] == [s.title for s in record.systems if s.name == recipe_of(folder)]
        assert page.count("on this page:") == sum(s.name in map(recipe_of, folders) for s in record.systems)


def test_the_proxy_groups_of_the_smear_fields_are_called_a_stand_in(record, folders):
    assert "no patient ids" in systems_html(record, folders, folders[0])


def test_markup_is_sound(record, folders):
    for folder in folders:
        for page in (
            systems_html(record, folders, folder),
            noise_html(record, folder, ["mobilenet_m", "p0_cnn"]),
            model_html(folder),
            speed_html(record, folders, folder),
        ):
            ElementTree.fromstring(page)
            assert "http" not in page and "nan" not in text_of(page).split()


def test_the_models_own_curve_is_its_record_and_others_come_when_wanted(record, folders):
    cells = folders[0]
    by_sigma = cells.metrics["protocols"][0]["by_sigma"]
    alone = noise_html(record, cells, [])
    assert alone.count("<polyline") == 2  # the model, and always giving the same answer
    assert alone.count("<polygon") == 1
    line = re.search(r'<polyline class="line-0" points="([^"]*)"', alone).group(1)
    expected = [f"{row['sigma']:.2f},{100 * (1 - row['weighted_f1']['value']):.2f}" for row in by_sigma]
    assert line.split() == expected
    two = noise_html(record, cells, ["mobilenet_m", "alnett", "p0_cnn"])
    assert two.count("<polyline") == 4  # p0_cnn is about other images
    assert "MobileNet_M" in two and "Custom CNN" not in two


def test_always_giving_the_same_answer_scores_what_scikit_learn_says(record, folders):
    from sklearn.metrics import f1_score

    share = record.datasets["cnmc2019"].most_frequent_share
    labels = [0] * round(1e5 * share) + [1] * round(1e5 * (1 - share))
    expected = f1_score(labels, [0] * len(labels), average="weighted")
    numbers = text_of(noise_html(record, folders[0], [])).rpartition("always the most frequent answer")[2].split()
    assert set(numbers) == {f"{expected:.2f}"}


def test_calibration_and_confusion_are_the_models_own(folders):
    for folder in folders:
        protocol = folder.metrics["protocols"][0]
        page = model_html(folder)
        assert page.count('class="bar"') == len(protocol["reliability"])
        bins = protocol["reliability"]
        total = sum(b["count"] for b in bins)
        fullest = f"The fullest bin, {max(b['count'] for b in bins):,} of {total:,} answers"
        assert fullest in page
        shown = [int(n.replace(",", "")) for n in re.findall(r'<td class="(?:right|wrong)"[^>]*><b>([\d,]+)', page)]
        assert shown == [n for row in protocol["by_sigma"][0]["confusion_matrix"] for n in row]
        worst = min(protocol["per_group"], key=lambda group: group["accuracy"])
        assert worst["group"] in page and f"{worst['accuracy']:.1%}" in page


def test_recorded_reliability_agrees_with_the_other_figures(folders):
    for folder in folders:
        protocol = folder.metrics["protocols"][0]
        bins, clean = protocol["reliability"], protocol["by_sigma"][0]
        answers = protocol["n_images"] * len(protocol["seeds"])
        assert sum(b["count"] for b in bins) == answers
        right = sum(b["count"] * b["accuracy"] for b in bins) / answers
        assert right == pytest.approx(clean["accuracy"]["value"], abs=1e-4)
        # Wider bins can only hide miscalibration, up to rounding.
        error = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / answers
        assert error <= clean["ece"]["value"] + 0.005


def test_speed_is_told_as_multiples_milliseconds_and_size(record, folders):
    page = text_of(speed_html(record, folders, folders[0]))
    (system,) = [s for s in record.systems if s.name == "p2_vgg16"]
    row = f"{system.title} {system.times_mobilenetv1:.2f} {system.milliseconds:.1f} "
    assert row + f"{system.parameters / 1e6:.2f} M {4 * system.parameters / 1e6:.1f}" in page
    assert record.machine in page
    size = folders[0].metrics["size_bytes"]
    assert f"fp32 {size['fp32'] / 1e6:.1f} MB" in page and f"int8 {size['int8'] / 1e6:.1f} MB" in page


def test_without_results_the_tab_says_so_and_still_shows_the_model(folders):
    assert "came without the comparison" in text_of(systems_html(None, folders, folders[0]))
    assert noise_html(None, folders[0], []).count("<polyline") == 1
    assert "published network" not in speed_html(None, folders, folders[0])


def test_an_unmeasured_model_gets_no_figures(record):
    folder = ModelFolder.load(shared_model_folder("cell"))
    assert "mean nothing yet" in model_html(folder)
    assert "was not recorded" not in text_of(systems_html(record, [folder], folder))
    assert "(this model)" not in noise_html(record, folder, ["mobilenet_m"])
    assert "size and time were not recorded" in speed_html(record, [folder], folder)
    assert "not measured" in noise_html(None, folder, [])


def test_the_record_is_read_as_it_was_written(record):
    plain = raw()
    assert [s.name for s in record.systems] == [s["name"] for s in plain["systems"]]
    assert record.of("aria2021")[0].group.accuracy == Interval(**plain["systems"][0]["group"]["accuracy"])
    assert record.dataset_of(("ALL", "HEM")) == "cnmc2019" and record.dataset_of(("a", "b")) is None


@pytest.mark.parametrize("damage", ["schema", "key", "type", "json"])
def test_a_record_that_cannot_be_read_is_refused_in_one_sentence(damage, tmp_path):
    plain = copy.deepcopy(raw())
    if damage == "schema":
        plain["schema"] = 99
    elif damage == "key":
        del plain["systems"][0]["title"]
    elif damage == "type":
        plain["systems"][0]["group"] = {"protocol": "x", "accuracy": 3, "weighted_f1": 3}
    file = tmp_path / "comparison.json"
    file.write_text("{" if damage == "json" else json.dumps(plain))
    with pytest.raises(BlastlensError, match=r"^comparison.json cannot be read \(.*\)\.$"):
        Comparison.load(file)
    assert Comparison.load(tmp_path / "nowhere.json") is None


def test_the_page_with_throw_away_models_has_the_tab(demo_address):
    shown = json.dumps(Client(demo_address, verbose=False).config["components"])
    assert "What the papers say" in shown and Path(RECORD).is_file()


def test_every_one_of_many_quick_clicks_counts(visit, monkeypatch):
    def slowly(*arguments):
        time.sleep(0.5)
        return noise_html(*arguments)

    page = visit("/?tab=compared").page
    panel = page.locator("[role=tabpanel]:visible")
    panel.locator(".chart polyline").first.wait_for(state="attached")
    first, *others = panel.locator(".compare-with label").all_inner_texts()
    assert len(others) == 4
    monkeypatch.setattr(comparison, "noise_html", slowly)
    for box in panel.get_by_role("checkbox").all()[1:]:
        box.uncheck()
    legend = panel.locator(".chart-legend")
    expect(legend).not_to_contain_text(others[-1])
    expect(legend.locator("li")).to_have_text([first, "always the most frequent answer"])


def test_what_was_not_run_opens_on_a_narrow_page(visit):
    opened = visit("/?tab=compared", width=390)
    summary = opened.page.get_by_text("9 systems not run yet")
    hidden = opened.page.get_by_text("VGG16 (Talupuri et al.)").first
    assert not hidden.is_visible()
    summary.click()
    hidden.wait_for()
    assert opened.fits() and opened.barriers(".compared") == []
