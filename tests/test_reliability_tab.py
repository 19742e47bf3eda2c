"""The tab "Reliability": recorded figures are shown, missing ones are named, and hostile records write no markup."""

import json
import re
from contextlib import suppress
from dataclasses import replace
from html import escape

import pytest
from helpers_page import rows_of, text_of

from blastlens import external_result
from blastlens.metrics import Interval
from blastlens.model_folder import ModelFolder, bundled_models, bundled_root
from blastlens.published_systems import Comparison
from blastlens.ui.about import about_html
from blastlens.ui.comparison import model_html, noise_html, noise_lines
from blastlens.ui.reliability import SECTIONS, sections, summary_html
from blastlens.ui.words import facts, headline_of, main_score
from blastlens.wording import with_interval

CELLS = "mobilenetv1-cnmc2019"
PARTS = {
    "robustness": "Robustness to corruptions",
    "calibration": "Calibration",
    "probes": "Shortcut probes",
    "patients": "Patients",
}


def folder(model: str = CELLS, **changed) -> ModelFolder:
    found = ModelFolder.load(bundled_root() / model, model)
    return replace(found, metrics=json.loads(json.dumps(found.metrics)) | changed)


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
    cells = {title: {cell for row in rows_of(section) for cell in row} for title, section in found.items()}
    for section in found.values():
        assert not re.search(r"\b(None|nan)\b|unknown form", text_of(section))
    metrics = chosen.metrics
    for kind in metrics["robustness"]["kinds"]:
        assert {kind["title"], share(kind["severities"][-1]["flip_rate"])} <= cells["Robustness to corruptions"]
    point, sets = metrics["calibration"]["operating_point"], metrics["calibration"]["prediction_sets"]
    assert {share(one["sensitivity"]) for one in (point, point["plain"])} <= cells["Operating point"]
    assert {share(one) for one in sets["coverage_by_class"].values()} <= cells["Prediction sets"]
    if metrics["patients"]:
        assert len(rows_of(found["Patients"])) == len(metrics["patients"]["patients"])


@pytest.mark.parametrize("key", PARTS)
def test_a_part_that_was_not_measured_is_left_out_and_named(key):
    chosen = folder(**{key: None})
    assert PARTS[key] not in sections(chosen)
    assert PARTS[key] in text_of(summary_html(chosen)).partition("Not measured")[2]


def test_a_model_without_measurements_says_so():
    chosen = replace(folder(), metrics={}, ood_detector=None)
    assert sections(chosen) == {}
    assert "no measurement on unseen groups" in text_of(summary_html(chosen))


@pytest.mark.parametrize("key", PARTS)
@pytest.mark.parametrize("record", [{"kinds": 3}, {"rows": [{}]}, "text", {"patients": [{"mean": "x"}]}])
def test_a_damaged_record_hides_only_its_own_part(key, record):
    found = sections(folder(**{key: record}))
    assert "unknown form" in found[PARTS[key]]
    assert all("<table" in found[title] for name, title in PARTS.items() if name != key)
    text_of(summary_html(folder(**{key: record})))


def test_figures_that_could_not_be_computed_are_not_made_up():
    chosen = folder()
    robustness = chosen.metrics["robustness"]
    robustness["kinds"][0]["severities"][2] |= {"weighted_f1": None, "lost": None, "flip_rate": None}
    robustness["summary"] |= {"mce": None, "relative_mce": None}
    chosen.metrics["patients"]["patients"][0] |= {"low": None, "high": None}
    chosen.metrics["calibration"]["aurc"] = None
    found = sections(chosen)
    assert "orruption error relative to" not in found[PARTS["robustness"]]
    assert not re.search(r"\b(None|nan)\b|unknown form", "".join(found.values()))


SCRIPT = "<img src=x onerror=alert(1)>"


def hostile(value, numbers: bool):
    """A record with markup after each text, or in place of each number."""
    if isinstance(value, dict):
        return {key: hostile(inner, numbers) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner, numbers) for inner in value]
    if isinstance(value, str):
        return value if numbers or value == "group" else value + SCRIPT
    return SCRIPT if numbers and value is not None else value


def test_no_text_in_the_record_of_a_model_becomes_markup():
    """The metrics.json of a model from the Hub is written by the owner of its repository."""
    chosen, compared = folder(), Comparison.load()
    pages = (
        facts,
        summary_html,
        lambda f: "".join(sections(f).values()),
        model_html,
        lambda f: noise_html(noise_lines(compared, f, ())),
        lambda f: about_html(f, [f], compared),
    )
    shown = [page_of(replace(chosen, metrics=hostile(chosen.metrics, numbers=False))) for page_of in pages]
    assert SCRIPT not in "".join(shown) and sum(escape(SCRIPT) in text for text in shown) >= 4
    for key in chosen.metrics:
        changed = chosen.metrics | {key: hostile(chosen.metrics[key], numbers=True)}
        for page_of in pages:
            with suppress(TypeError, ValueError, external_result.BlastlensError):
                assert SCRIPT not in page_of(replace(chosen, metrics=changed))
