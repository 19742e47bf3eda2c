"""The tab on trust: every recorded figure is shown, what is missing is named, and nothing is made up."""

import html
import json
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_trust import gate_measured, with_trust

from blastlens.corruptions import KINDS
from blastlens.model_folder import ModelFolder, bundled_root
from blastlens.published_systems import Comparison
from blastlens.ui.comparison import model_html, noise_html, speed_html, systems_html
from blastlens.ui.trust import trust_html
from blastlens.ui.trust_values import level, plain, points, share, signed
from blastlens.ui.words import FAMILIES, by_family, facts, headline_of, main_score

CELLS, FIELDS = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"
TITLES = {
    "robustness": "What becomes of it as images get worse",
    "calibration": "Can its percentages be believed?",
    "probes": "Right for the right reason?",
    "patients": "People, not cells",
}


def folder(model: str = CELLS, gate: dict | None = None, path: Path | None = None, **changed) -> ModelFolder:
    """A bundled model whose record has every trust figure, but for what is changed."""
    found = ModelFolder.load(bundled_root() / model, model)
    record = with_trust(found.metrics | {"label_names": list(found.label_names)}, **changed)
    if path:
        (path / "gate.json").write_text(json.dumps({"measured": gate}))
        found = replace(found, path=path)
    return replace(found, metrics=record)


def page(chosen: ModelFolder) -> str:
    """The tab as text; its markup must be well formed."""
    markup = trust_html(chosen)
    ElementTree.fromstring(markup)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def squeezed(markup: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", markup).split())


def test_every_recorded_figure_is_on_the_page():
    chosen = folder()
    text, record = page(chosen), chosen.metrics
    for kind in record["robustness"]["kinds"]:
        assert kind["title"] in text and kind["explanation"] in text and kind["source"] in text
        for severity in kind["severities"]:
            assert squeezed(points(severity["lost"], -1)) in text
    summary = record["robustness"]["summary"]
    for key in ("mce", "relative_mce", "mean_weighted_f1"):
        assert squeezed(plain(summary[key])) in text
    calibration = record["calibration"]
    for one in (calibration, calibration["before"]):
        assert squeezed(share(one["ece"])) in text and squeezed(share(one["classwise_ece"])) in text
    point, sets = calibration["operating_point"], calibration["prediction_sets"]
    for one in (point, point["plain"]):
        assert squeezed(share(one["sensitivity"])) in text and squeezed(share(one["specificity"])) in text
    for one in (sets["coverage"], sets["single"], *sets["coverage_by_class"].values()):
        assert squeezed(share(one)) in text
    for probe in record["probes"]["rows"]:
        assert (
            probe["title"] in text
            and probe["what"] in text
            and squeezed(points(probe["difference"], decimals=2)) in text
        )
        assert probe["reason"] in text
    people = record["patients"]
    for key in ("sensitivity", "specificity"):
        assert squeezed(share(people[key])) in text and squeezed(share(people["decided"][key])) in text
    for one in people["patients"]:
        assert f"{100 * one['mean']:.1f} % ({100 * one['low']:.1f} to {100 * one['high']:.1f})" in text


@pytest.mark.parametrize("key", TITLES)
def test_a_part_that_was_not_measured_is_left_out_and_named(key):
    assert TITLES[key] in page(folder())
    text = page(folder(**{key: None}))
    assert TITLES[key] not in text
    assert "Not measured of this model, or without meaning for its data:" in text


def test_smear_fields_have_no_people_and_say_so():
    text = page(folder(FIELDS))
    assert TITLES["patients"] not in text and TITLES["robustness"] in text
    assert text.endswith("without meaning for its data: whole people.")


@pytest.mark.parametrize("model", [CELLS, FIELDS])
def test_a_record_without_trust_figures_shows_what_it_has(model):
    found = ModelFolder.load(bundled_root() / model, model)
    old = {key: value for key, value in found.metrics.items() if key not in (*TITLES, "calibration")}
    text = page(replace(found, metrics=old))
    name, one = main_score({"headline": headline_of(found.metrics["protocols"][0])})
    assert name == {CELLS: "AUROC per donor", FIELDS: "weighted F1"}[model]
    assert f"{one['value']:.2f} {name}" in text
    assert "Does it notice what is not its kind of image?" in text
    assert not any(title in text for title in TITLES.values())


def test_a_model_of_which_nothing_was_measured_says_so():
    found = replace(ModelFolder.load(bundled_root() / CELLS, "somebody/else"), metrics={}, gate=None)
    assert "its answers mean nothing" in page(found)


@pytest.mark.parametrize("key", TITLES)
@pytest.mark.parametrize("record", [{"kinds": 3}, {"rows": [{}]}, "text", {"patients": [{"mean": "x"}]}])
def test_a_record_in_another_form_spoils_its_own_part_only(key, record):
    text = page(folder(**{key: record}))
    others = [title for name, title in TITLES.items() if name != key]
    assert "in a form that this page does not know" in text
    assert all(title in text for title in others)


def test_what_could_not_be_computed_is_not_made_up():
    chosen = folder()
    robustness = chosen.metrics["robustness"]
    robustness["kinds"][0]["severities"][2] |= {"weighted_f1": None, "lost": None, "flip_rate": None}
    robustness["summary"] |= {"mce": None, "relative_mce": None, "relative_mce_kinds": 0}
    chosen.metrics["patients"]["patients"][0] |= {"low": None, "high": None}
    chosen.metrics["calibration"]["aurc"] = None
    text = page(chosen)
    assert "does not know" not in text
    assert "mean corruption error against" not in text
    assert not re.search(r"\b(None|nan)\b", text)


def test_names_from_a_record_are_text_and_never_markup():
    chosen = folder()
    evil = "<img src=x onerror=alert(1)>"
    chosen.metrics["patients"]["patients"][0]["group"] = evil
    chosen.metrics["probes"]["rows"][0]["title"] = evil
    chosen.metrics["robustness"]["baseline"]["name"] = evil
    markup = trust_html(chosen)
    assert evil not in markup and markup.count("&lt;img") >= 3


def test_failed_probes_are_named_at_once_and_marked():
    markup = trust_html(folder())
    assert re.search(r"<b>4 of 6</b><span>[^<]*not: without colour, only the outline", markup)
    outcomes = re.findall(r'<li class="(\w+)"><p class="title"><b>([^<]*)</b>', markup)
    assert [title for outcome, title in outcomes if outcome == "broken"] == ["Without colour", "Only the outline"]
    assert len(outcomes) == 6


def test_the_tiles_lead_to_parts_that_are_there():
    markup = trust_html(folder())
    links = re.findall(r'<a href="#([^"]*)">', markup)
    assert len(links) == 5
    assert all(f'<section id="{place}">' in markup for place in links)


@pytest.mark.parametrize(
    ("holds", "said"), [(True, "In tests no label fell clearly short."), (False, "In tests a label fell short.")]
)
def test_prediction_sets_say_whether_they_held(holds, said):
    chosen = folder()
    chosen.metrics["calibration"]["prediction_sets"]["holds"] = holds
    assert said in page(chosen)


def test_the_input_check_lists_what_it_was_wrong_about(tmp_path):
    text = page(folder(gate=gate_measured(), path=tmp_path))
    assert "1.1 % of 7,651 images of its own kind" in text
    for part in ("everyday photographs 85.7 % 7", "a fifth darker 2.3 % 300", "mirrored tiles 70.3 % 300"):
        assert part in text
    assert "wall.jpg not noticed (everyday photographs) -" in text
    assert "UID_48_1_1_all.bmp turned away by mistake standard deviation of brightness, lit; the network's" in text
    assert "99.6 % of images of another kind turned away" in text  # 505 of 507


def test_every_kind_of_flaw_has_a_family_and_unknown_ones_are_kept():
    assert sorted(name for names in by_family(KINDS).values() for name in names) == sorted(KINDS)
    assert set(by_family(KINDS)) <= set(FAMILIES)
    assert by_family(["jpeg", "acid", "blur"]) == {
        "Focus and motion": ["blur"],
        "File and size": ["jpeg"],
        "Other": ["acid"],
    }


def test_values_are_printed_with_their_interval_and_a_true_minus():
    one = {"value": 0.0213, "low": -0.0049, "high": 0.05}
    assert squeezed(points(one)) == "+2.1 (\N{MINUS SIGN}0.5 to +5.0)"
    assert squeezed(points(one, -1)) == "\N{MINUS SIGN}2.1 (\N{MINUS SIGN}5.0 to +0.5)"
    assert squeezed(share(one)) == "2.1 % (-0.5 to 5.0)"
    assert squeezed(plain(one)) == "0.02 (-0.00 to 0.05)"
    assert signed(-0.0001) == signed(0.0) == "0.0"
    assert squeezed(points(one, decimals=2)) == "+2.13 (\N{MINUS SIGN}0.49 to +5.00)"
    assert share(None) == plain({"value": None, "low": None, "high": None}) == "not known"
    assert (level(2.5, "px"), level(-20, "°"), level(3.333333, "")) == ("2.5 px", "\N{MINUS SIGN}20°", "3.333")


def places(value, at=()):
    """The path of every leaf of a record."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*at, key))
    else:
        yield at


def with_leaf(record, path, leaf):
    """A record with another leaf at a path; the rest is shared."""
    if not path:
        return leaf
    changed = record.copy()
    changed[path[0]] = with_leaf(record[path[0]], path[1:], leaf)
    return changed


def test_nothing_in_the_record_of_a_model_can_write_into_the_page():
    """A model that is served from the Hub brings its metrics.json along, and whoever owns its repository writes it."""
    chosen, compared = folder(), Comparison.load()
    script = "<img src=x onerror=alert(1)>"
    pages = {
        "words": facts,
        "trust": trust_html,
        "systems": lambda f: systems_html(compared, [f], f),
        "model": model_html,
        "noise": lambda f: noise_html(compared, f, ()),
        "speed": lambda f: speed_html(compared, [f], f),
    }
    # Of leaves that have the same name in the same part of the record, one stands for all.
    leaves = {(path[0], path[-1]): path for path in places(chosen.metrics)}
    assert ("latency_ms", "threads") in leaves and len(leaves) > 150
    written = set()
    for path in leaves.values():
        spoilt = replace(chosen, metrics=with_leaf(chosen.metrics, path, script))
        for name, page_of in pages.items():
            try:
                markup = page_of(spoilt)
            except (TypeError, ValueError):  # a text where a number is printed, which also writes nothing
                continue
            if script in markup:
                written.add((name, path))
    assert not written
