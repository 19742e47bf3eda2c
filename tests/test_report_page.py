"""The report of an external validation: self-contained, complete, and safe against names chosen by a client."""

import json
import re
from datetime import UTC, datetime
from html import unescape
from types import SimpleNamespace

import pytest
from test_external_validation import CELL, GOOD, published, run, subjects

from blastlens.dataset_info import dataset_info
from blastlens.folder_labels import LabelledImages, Reading
from blastlens.ui.rendering import TEMPLATES
from blastlens.ui.report import body, how_to_prepare, standalone
from blastlens.validation_summary import caveats, conclude

FOLDER = SimpleNamespace(label_names=CELL, model_id="owner/model", revision="abc", dataset=dataset_info(CELL))
WHEN = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


def text_of(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html))).replace("\N{NO-BREAK SPACE}", " ")


def test_the_file_needs_no_network_and_no_script():
    html = standalone(run(GOOD, published((0.9, 0.88, 0.92))), FOLDER, "my.zip", WHEN)
    assert html.startswith("<!doctype html>") and "default-src 'none'" in html
    assert not re.search(r"<(script|link|iframe|img|object)|@import|url\(|\son\w+=|javascript:|https?:", html)


def test_the_file_defines_every_colour_it_uses_in_all_themes():
    styles = re.sub(r"/\*.*?\*/", "", (TEMPLATES.parent / "validation.css").read_text(encoding="utf-8"), flags=re.S)
    used = set()
    for selector, rule in re.findall(r"([^{}]+)\{([^{}]*)\}", styles):
        if ".report" in selector or ".paper" in selector:
            used |= set(re.findall(r"var\((--[\w-]+)\)", rule))
    light, dark = (
        set(re.findall(r"(--[\w-]+):", rule)) for rule in re.findall(r"\.paper \{([^{}]*--[^{}]*)\}", styles)
    )
    assert used - {"--share"} <= light and dark == light - {"--block-background-fill"}


def test_the_file_has_all_findings_and_their_origin():
    evaluation = run([*GOOD, ("ALL", "HEM", None)], published((0.9, 0.88, 0.92)))
    shown = text_of(standalone(evaluation, FOLDER, "my.zip", WHEN))
    for part in (
        conclude(evaluation).headline,
        *conclude(evaluation).details,
        *caveats(evaluation),
        "owner/model at revision abc",
        "my.zip",
        "01 March 2026, 12:30 UTC",
        "Research demonstration, not a medical device.",
        "group-kfold:3, 400 images of 40 groups",
        "Subjects were identified by a table",
    ):
        assert part in shown, part
    lowest = re.search(r"the lowest accuracy first.*? accuracy (\w) (\w+) (\d+) (\d+) (\d+) %", shown)
    assert lowest.groups() == ("h", "HEM", "10", "8", "80")
    row = re.search(
        r"balanced accuracy (\d+ %) \(\d+ to \d+\) (90 %) \(88 to 92\) (\S+ points) \(\S+ to \S+\) (50 %)", shown
    )
    assert row.group(1) == "88 %" and row.group(3).endswith(" points")


def test_names_chosen_by_a_client_become_no_markup():
    e = run(GOOD, published((0.9, 0.88, 0.92)))
    readings, refused = (Reading(HOSTILE, "ALL", True, 3),), ((HOSTILE, HOSTILE),)
    labelled = LabelledImages(e.labelled.images, readings, HOSTILE, 0, refused, 1, (HOSTILE,))
    counted = tuple(type(one)(HOSTILE, one.labels, one.images, one.right) for one in e.by_subject[:1])
    changed = {"labelled": labelled, "by_subject": counted, "refused": refused, "remarks": ((HOSTILE, 1),)}
    evaluation = type(e)(**vars(e) | changed)
    for html in (body(evaluation, FOLDER), standalone(evaluation, FOLDER, HOSTILE, WHEN)):
        assert "<script" not in html and "<img" not in html and html.count("&lt;script&gt;") >= 6
    html = how_to_prepare(("Benign", "Early", "<b>"))
    assert "Benign/" in html and "Early/" in html and "&lt;b&gt;" in html and "<b>" not in html


@pytest.mark.parametrize(
    "rows",
    [
        [("ALL", "HEM", None)],
        subjects(("ALL", 3, 4)),
        [("ALL", "ALL", "a"), ("HEM", "HEM", "a")],
        subjects(*[("ALL", 5, 5)] * 3, *[("HEM", 5, 5)] * 3),
    ],
)
@pytest.mark.parametrize("metrics", [None, published((0.9, 0.88, 0.92))])
def test_undefined_figures_are_left_out(rows, metrics):
    evaluation = run(rows, metrics)
    json.dumps(evaluation.to_dict(), allow_nan=False)
    shown = text_of(body(evaluation, FOLDER))
    assert not re.search(r"\b(nan|None|inf)\b", shown)
    assert ("This model has no published figures" in shown) == (metrics is None)
