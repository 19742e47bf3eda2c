"""The tab "Compare systems": every system is listed with recorded figures, or with the reason why it has none."""

import copy
import json
import re
import time

import pytest
from helpers_models import shared_model_folder
from helpers_page import rows_of, text_of
from playwright.sync_api import expect

from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder, bundled_root
from blastlens.published_systems import RECORD, Comparison
from blastlens.ui import comparison
from blastlens.ui.comparison import (
    model_html,
    noise_html,
    noise_lines,
    noise_table,
    recipe_of,
    systems_html,
)
from blastlens.ui.rendering import render
from blastlens.wording import with_interval

CELLS, FIELDS = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"


@pytest.fixture(scope="module")
def record() -> Comparison:
    found = Comparison.load()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def folders() -> list[ModelFolder]:
    return [ModelFolder.load(bundled_root() / name, name) for name in (CELLS, FIELDS)]


def test_every_system_is_listed_once_with_its_figures_or_a_reason(record, folders):
    pages = {name: systems_html(record, name, folders) for name in record.datasets}
    rows = [row for page in pages.values() for row in rows_of(page)]
    by_title = {row[0].partition(" (on this page")[0]: row for row in rows}
    assert len(rows) == len(by_title) == len(record.systems)
    for system in record.systems:
        row = by_title[system.title]
        for cell, level in ((row[2], system.image), (row[3], system.group)):
            assert cell == (level if isinstance(level, str) else with_interval(level.accuracy, 3))
        random = "; not comparable: random first weights" if system.first_weights == "random" else ""
        assert row[1] == (system.claimed_in_words if system.paper else "none") + random
        assert row[4] == with_interval(system.leak, 3, signed=True)
    assert sum(system.paper is not None for system in record.systems) == record.n_published
    on_page = {recipe_of(folder) for folder in folders}
    assert sum("on this page" in row[0] for row in rows) == sum(s.name in on_page for s in record.systems)
    for name, page in pages.items():
        measured = [level for s in record.of(name) for level in (s.image, s.group) if not isinstance(level, str)]
        assert page.count('<li class="interval-row') == len(measured)
    assert "no patient ids" in pages["aria2021"]
    assert record.dataset_of(("ALL", "HEM")) == "cnmc2019" and record.dataset_of(("a", "b")) is None


def test_the_models_own_curve_is_its_record_and_others_are_added_on_demand(record, folders):
    by_sigma = folders[0].metrics["protocols"][0]["by_sigma"]
    own, constant = noise_lines(record, folders[0], [])
    assert list(own.ys) == [row["weighted_f1"]["value"] for row in by_sigma] and own.lows is not None
    share = record.datasets["cnmc2019"].most_frequent_share
    assert list(constant.ys) == pytest.approx([2 * share**2 / (1 + share)] * 2)
    # p0_cnn is about other images
    names = {s.name: s.title for s in record.of("cnmc2019") if s.noise}
    assert "ours_cnmc2019" in names
    more = noise_lines(record, folders[0], [*names, "p0_cnn"])
    assert {line.name for line in more[1:-1]} == set(names.values())
    assert noise_html(more).count("<polyline") == 2 + len(names)
    assert rows_of(noise_table(more))[0][1] == f"{own.ys[0]:.2f}"


def test_calibration_and_confusion_are_the_models_own(folders):
    for folder in folders:
        protocol, page = folder.metrics["protocols"][0], model_html(folder)
        text = text_of(page)
        assert page.count('class="bar"') == len(protocol["reliability"])
        shown = [int(n.replace(",", "")) for n in re.findall(r'<td class="(?:right|wrong)"[^>]*><b>([\d,]+)', page)]
        assert shown == [n for row in protocol["by_sigma"][0]["confusion_matrix"] for n in row]
        worst = min(protocol["per_group"], key=lambda group: group["accuracy"])
        assert worst["group"] in text and f"{100 * worst['accuracy']:.1f} %" in text


def test_speed_and_size_of_models_and_systems(record, folders):
    rows = rows_of(render("comparison.html", "speed", record, folders))
    size, time_of = (folders[0].metrics[key] for key in ("size_bytes", "latency_ms"))
    assert rows[0] == [f"{CELLS}, fp32", "", f"{time_of['fp32']:.1f}", "", f"{size['fp32'] / 1e6:.1f}", ""]
    multiples = [float(row[1]) for row in rows if row[1]]
    assert multiples == sorted(multiples) and len(multiples) == sum(bool(s.times_mobilenetv1) for s in record.systems)


def test_a_model_without_measurements_or_an_installation_without_results_has_no_figures(record, folders):
    folder = ModelFolder.load(shared_model_folder("cell"))
    assert "no measurement" in text_of(model_html(folder))
    assert not any("this model" in line.name for line in noise_lines(record, folder, ["mobilenet_m"]))
    assert "not measured" in noise_html(noise_lines(None, folder, []))
    assert len(noise_lines(None, folders[0], [])) == 1
    assert rows_of(render("comparison.html", "speed", None, [folder])) == []


@pytest.mark.parametrize("damage", ["schema", "key", "type", "json"])
def test_a_malformed_record_is_refused_in_one_sentence(damage, tmp_path):
    plain = copy.deepcopy(json.loads(RECORD.read_text(encoding="utf-8")))
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


def test_the_last_of_many_quick_choices_counts(visit, monkeypatch):
    def slowly(lines):
        time.sleep(0.5)
        return noise_html(lines)

    panel = visit("/?tab=compared").page.locator("[role=tabpanel]:visible")
    legend = panel.locator(".chart-legend").first
    legend.locator("li").nth(2).wait_for()
    first, *others = panel.locator(".token").all_inner_texts()
    monkeypatch.setattr(comparison, "noise_html", slowly)
    for _ in others:
        panel.locator(".token-remove").nth(1).click()
    expect(legend.locator("li")).to_have_text([first, "constant prediction"])


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_the_tab_fits_and_is_accessible(visit, width, dark):
    opened = visit("/?tab=compared", width=width, dark=dark)
    opened.page.locator("[role=tabpanel]:visible .chart").first.wait_for()
    for title in ("Protocols of the papers", "Weighted F1 by noise level", "Speed and size"):
        opened.page.get_by_role("button", name=title).click()
    assert opened.fits() and opened.barriers() == []
