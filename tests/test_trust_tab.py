"""The tab "Reliability": recorded figures are shown, missing ones are named, and hostile records write no markup."""

import html
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from blastlens import external_result
from blastlens.corruptions import KINDS
from blastlens.metrics import Interval
from blastlens.model_folder import ModelFolder, bundled_models, bundled_root
from blastlens.published_systems import Comparison
from blastlens.ui.comparison import model_html, noise_html, noise_lines
from blastlens.ui.trust import SECTIONS, sections, summary_html
from blastlens.ui.words import FAMILIES, by_family, facts, headline_of, main_score
from blastlens.wording import with_interval

CELLS, FIELDS = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"
PARTS = {
    "robustness": "Robustness to corruptions",
    "calibration": "Calibration",
    "probes": "Shortcut probes",
    "patients": "Patients",
}


def folder(model: str = CELLS, **changed) -> ModelFolder:
    found = ModelFolder.load(bundled_root() / model, model)
    return replace(found, metrics=json.loads(json.dumps(found.metrics)) | changed)


def text_of(markup: str) -> str:
    """The text of HTML, whose markup must be well formed."""
    ElementTree.fromstring(f"<div>{markup}</div>")
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).split())


def share(record):
    return with_interval(Interval.from_record(record), 1, 100, " %")


@pytest.mark.parametrize("model", bundled_models())
def test_the_summary_has_the_main_figure_of_each_measurement(model):
    chosen = folder(model)
    text, protocol = text_of(summary_html(chosen)), chosen.protocol()
    name, main = main_score({"headline": headline_of(protocol)})
    assert f"{name} {with_interval(Interval(**main))}" in text
    assert external_result.sentence(chosen.metrics).removeprefix("External validation: ") in text
    assert share(chosen.metrics["calibration"]["ece"]) in text
    assert all(f"at sigma {sigma}" in text for sigma in (10, 20, 50))
    assert re.search(r"Rejects [\d.]+ % of other images", text)
    probes = chosen.metrics["probes"]["rows"]
    assert f"{sum(row['passed'] for row in probes)} of {len(probes)} passed" in text


@pytest.mark.parametrize("model", bundled_models())
def test_every_section_shows_the_recorded_figures(model):
    chosen, found = folder(model), sections(folder(model))
    assert set(SECTIONS) - set(found) <= {"Patients", "External validation"}
    cells = {title: [cell for row in section.rows for cell in row] for title, section in found.items()}
    for title, section in found.items():
        assert all(len(row) == len(section.headers) for row in section.rows) and section.rows, title
        assert not re.search(r"\b(None|nan)\b|unknown form", text_of(section.html) + " ".join(cells[title]))
    metrics = chosen.metrics
    for kind in metrics["robustness"]["kinds"]:
        assert {kind["title"], share(kind["severities"][-1]["flip_rate"])} <= set(cells["Robustness to corruptions"])
    point, sets = metrics["calibration"]["operating_point"], metrics["calibration"]["prediction_sets"]
    assert {share(one["sensitivity"]) for one in (point, point["plain"])} <= set(cells["Operating point"])
    assert {share(one) for one in sets["coverage_by_class"].values()} <= set(cells["Prediction sets"])
    if metrics["patients"]:
        assert len(found["Patients"].rows) == len(metrics["patients"]["patients"])


@pytest.mark.parametrize("key", PARTS)
def test_a_part_that_was_not_measured_is_left_out_and_named(key):
    chosen = folder(**{key: None})
    assert PARTS[key] not in sections(chosen)
    assert PARTS[key] in text_of(summary_html(chosen)).partition("Not measured")[2]


def test_a_model_without_measurements_says_so():
    chosen = replace(folder(), metrics={}, gate=None)
    assert sections(chosen) == {}
    assert "no measurement on unseen groups" in text_of(summary_html(chosen))


@pytest.mark.parametrize("key", PARTS)
@pytest.mark.parametrize("record", [{"kinds": 3}, {"rows": [{}]}, "text", {"patients": [{"mean": "x"}]}])
def test_a_damaged_record_hides_only_its_own_part(key, record):
    found = sections(folder(**{key: record}))
    assert "unknown form" in found[PARTS[key]].html
    assert all(found[title].rows for name, title in PARTS.items() if name != key)
    text_of(summary_html(folder(**{key: record})))


def test_figures_that_could_not_be_computed_are_not_made_up():
    chosen = folder()
    robustness = chosen.metrics["robustness"]
    robustness["kinds"][0]["severities"][2] |= {"weighted_f1": None, "lost": None, "flip_rate": None}
    robustness["summary"] |= {"mce": None, "relative_mce": None}
    chosen.metrics["patients"]["patients"][0] |= {"low": None, "high": None}
    chosen.metrics["calibration"]["aurc"] = None
    found = sections(chosen)
    assert "orruption error relative to" not in found[PARTS["robustness"]].html
    for section in found.values():
        assert not re.search(r"\b(None|nan)\b|unknown form", section.html + repr(section.rows).replace("'None'", ""))


def test_intervals_are_printed_with_a_true_minus_sign():
    one = Interval(0.0213, -0.0049, 0.05)
    assert with_interval(one, 1, 100, signed=True) == "+2.1 (\N{MINUS SIGN}0.5 to +5.0)"
    assert with_interval(one) == "0.02 (0.00 to 0.05)"
    assert with_interval(Interval(-0.0001, float("nan"), 0), 1, signed=True) == "0.0"
    assert with_interval(None) == "\N{EN DASH}"


def test_every_corruption_has_a_family_and_unknown_ones_are_kept():
    assert sorted(name for names in by_family(KINDS).values() for name in names) == sorted(KINDS)
    assert set(by_family(KINDS)) <= set(FAMILIES)
    families = {"Focus and motion": ["blur"], "File and size": ["jpeg"], "Other": ["acid"]}
    assert by_family(["jpeg", "acid", "blur"]) == families


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


def test_no_text_in_the_record_of_a_model_becomes_markup():
    """The metrics.json of a model from the Hub is written by the owner of its repository."""
    chosen, compared = folder(), Comparison.load()
    script = "<img src=x onerror=alert(1)>"
    pages = {
        "words": facts,
        "summary": summary_html,
        "sections": lambda f: "".join(section.html for section in sections(f).values()),
        "model": model_html,
        "noise": lambda f: noise_html(noise_lines(compared, f, ())),
    }
    # Of leaves that have the same name in the same part of the record, one stands for all.
    leaves = {(path[0], path[-1]): path for path in places(chosen.metrics)}
    assert ("latency_ms", "threads") in leaves and len(leaves) > 150
    written = set()
    for path in leaves.values():
        hostile = replace(chosen, metrics=with_leaf(chosen.metrics, path, script))
        for name, page_of in pages.items():
            try:
                markup = page_of(hostile)
            except (TypeError, ValueError, external_result.BlastlensError):  # a text instead of a number
                continue
            if script in markup:
                written.add((name, path))
    assert not written
