"""The report: it stands alone, says what was found, and nothing a visitor sends can write into it."""

import re
from datetime import UTC, datetime
from html import unescape
from types import SimpleNamespace

import pytest
from test_external_validation import CELL, GOOD, people, published, run

from blastlens.external_validation import Score
from blastlens.folder_labels import LabelledImages, Reading
from blastlens.ui import report_page
from blastlens.ui.report_page import Shown, body, how_to_prepare, standalone
from blastlens.validation_summary import caveats, verdict

FOLDER = SimpleNamespace(label_names=CELL, model_id="owner/model", revision="abc")
WHEN = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"


def text_of(html):
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html))).replace("\N{NO-BREAK SPACE}", " ")


def hostile(evaluation):
    """The same findings with a name that is markup wherever a visitor chooses the words."""
    labelled = LabelledImages(
        evaluation.labelled.images,
        (Reading(HOSTILE, "ALL", True, 3),),
        HOSTILE,
        0,
        ((HOSTILE, HOSTILE),),
        1,
        (HOSTILE,),
    )
    counted = tuple(type(one)(HOSTILE, one.labels, one.images, one.right) for one in evaluation.by_subject[:1])
    changed = {"labelled": labelled, "by_subject": counted, "refused": ((HOSTILE, HOSTILE),)}
    return type(evaluation)(**vars(evaluation) | changed | {"remarks": ((HOSTILE, 1),)})


def test_the_report_stands_alone():
    report = standalone(run(GOOD, published((0.9, 0.88, 0.92))), FOLDER, "my.zip", WHEN)
    assert "default-src 'none'" in report
    assert not re.search(r"<(script|link|iframe|img|object)|@import|url\(|\son\w+=|javascript:", report)
    outside = re.findall(r"https?:[^\s\"'<]+", report)
    assert outside == []
    assert report.startswith("<!doctype html>") and "color-scheme" in report and "@media print" in report


def test_the_report_has_every_colour_it_uses_in_either_theme_and_on_paper():
    styles = (report_page.HERE / "validation.css").read_text(encoding="utf-8")
    used = set()
    for selector, rule in re.findall(r"([^{}]+)\{([^{}]*)\}", re.sub(r"/\*.*?\*/", "", styles, flags=re.S)):
        if ".report" in selector or ".paper" in selector:
            used |= set(re.findall(r"var\((--[\w-]+)\)", rule))
    light, dark, paper = (
        set(re.findall(r"(--[\w-]+):", rule)) for rule in re.findall(r"\.paper \{([^{}]*--[^{}]*)\}", styles)
    )
    colours = light - {"--block-background-fill"}
    assert used - {"--share"} <= light and dark == paper == colours
    assert {"--line-1", "--alarm", "--warm-fill"} <= used


def test_the_report_says_what_was_found_on_what_and_by_which_model():
    evaluation = run([*GOOD, ("ALL", "HEM", None)], published((0.9, 0.88, 0.92)))
    shown = text_of(standalone(evaluation, FOLDER, "my.zip", WHEN))
    for part in (
        verdict(evaluation).headline,
        *verdict(evaluation).details,
        *caveats(evaluation),
        "owner/model at revision abc",
        "my.zip",
        "01 March 2026, 12:30 UTC",
        "Research demonstration, not a medical device.",
        "group-kfold:3, on 400 images in 40 groups",
        "People were told apart by a table",
        "1 image without a person counts by itself",
    ):
        assert part in shown, part
    worst = re.search(r"By person, the worst first.*?share right (\w) (\w+) (\d+) (\d+) (\d+) %", shown)
    assert worst.groups() == ("h", "HEM", "10", "8", "80")


def test_a_row_holds_here_published_difference_and_the_fixed_answer():
    shown = text_of(body(run(GOOD, published((0.95, 0.9, 0.97))), FOLDER))
    row = re.search(
        r"balanced accuracy (\d+ %) \((\d+ to \d+)\) (95 %) \((90 to 97)\) (\S+ points) \(\S+ to \S+\) (\d+ %)", shown
    )
    assert row.group(1) == "89 %" and row.group(5) == "\N{MINUS SIGN}6 points" and row.group(6) == "50 %"


def test_names_cannot_write_into_the_page_or_the_report():
    evaluation = hostile(run(GOOD, published((0.9, 0.88, 0.92))))
    for html in (body(evaluation, FOLDER), standalone(evaluation, FOLDER, HOSTILE, WHEN)):
        assert "<script" not in html and "<img" not in html
        assert html.count("&lt;script&gt;") >= 6


@pytest.mark.parametrize(
    "rows",
    [
        [("ALL", "HEM", None)],
        people(("ALL", 3, 4)),
        [("ALL", "ALL", "a"), ("HEM", "HEM", "a")],
        people(*[("ALL", 5, 5)] * 3, *[("HEM", 5, 5)] * 3),
    ],
)
@pytest.mark.parametrize("metrics", [None, published((0.9, 0.88, 0.92))])
def test_what_is_undefined_is_left_out_of_the_report(rows, metrics):
    shown = text_of(body(run(rows, metrics), FOLDER))
    assert not re.search(r"\b(nan|None|inf)\b", shown)
    assert ("This model has no published figures" in shown) == (metrics is None)


def test_numbers_are_written_as_people_write_them():
    assert report_page._shown(Score(0.845, 0.789, 0.904), decimal=False) == Shown("84 %", "(79 to 90)")
    assert report_page._shown(Score(-0.074, -0.2, 0.004), decimal=False, signed=True) == Shown(
        "\N{MINUS SIGN}7 points", "(\N{MINUS SIGN}20 to 0)"
    )
    assert report_page._shown(Score(0.074), decimal=True, signed=True) == Shown("+0.07")
    assert report_page._shown(None, decimal=True) == Shown("\N{EN DASH}")


def test_how_to_prepare_names_the_folders_of_the_model():
    html = how_to_prepare(("Benign", "Early", "<b>"))
    assert "Benign/" in html and "Early/" in html and "&lt;b&gt;" in html and "<b>" not in html
