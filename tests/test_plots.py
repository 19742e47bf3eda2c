"""Charts as text: what is drawn where, and what is described in words."""

import re
import xml.etree.ElementTree as ElementTree
from html import escape

import pytest

from blastlens.metrics import Bin
from blastlens.ui.plots import (
    STYLES,
    Series,
    line_chart,
    reliability_diagram,
    ticks,
)
from blastlens.ui.rendering import render

NAN = float("nan")
BINS = [Bin(0.5, 0.6, 10, 0.55, 0.4), Bin(0.9, 1.0, 90, 0.97, 0.95)]


def chart(*series, **changes):
    settings = {
        "x_label": "noise",
        "y_label": "share",
        "x_range": (0, 100),
        "y_range": (0, 1),
        "description": "A chart.",
    }
    return line_chart(series, **settings | changes)


def points(html, kind):
    """The corners of every polyline or polygon, across and down the plot area in per cent."""
    return [
        [tuple(map(float, pair.split(","))) for pair in text.split()]
        for text in re.findall(rf'<{kind} class="[^"]*" points="([^"]*)"', html)
    ]


@pytest.mark.parametrize(
    ("series", "ranges", "line"),
    [
        (Series("a", (0, 50, 100), (0.0, 0.75, 1.0)), {}, [(0, 100), (50, 25), (100, 0)]),
        (Series("a", (10, 20), (0.5, 1.0)), {"x_range": (10, 30), "y_range": (0.5, 1.5)}, [(0, 100), (50, 50)]),
        (Series("a", (0, 50, 100), (0.5, NAN, 1.0)), {}, [(0, 50), (100, 0)]),
    ],
)
def test_lines_follow_their_values_and_leave_out_undefined_ones(series, ranges, line):
    assert points(chart(series, **ranges), "polyline") == [line]


def test_a_band_lies_between_its_ends():
    html = chart(Series("a", (0, 50, 100), (0.5, 0.5, 0.5), lows=(0.25, NAN, 0.0), highs=(0.75, 0.9, 1.0)))
    assert points(html, "polygon") == [[(0, 75), (100, 100), (100, 0), (0, 25)]]


def test_eight_lines_differ_and_are_in_the_legend():
    series = [Series(f"system <{k}>", (0, 1), (0.1 * k, 0.1)) for k in range(8)]
    html = chart(*series, x_range=(0, 1))
    drawn = re.findall(r'<polyline class="(line-\d)"', html)
    assert re.findall(r'<line class="(line-\d)"', html) == drawn
    assert "system &lt;7&gt;" in html and "<7>" not in html
    assert len({re.search(rf"\.chart \.{name} {{([^}}]*)}}", STYLES)[1] for name in drawn}) == 8


def test_labels_of_marks_never_cover_each_other():
    marks = [(3, "now", "trained"), (9, "flip", "flips"), (0, "now", "now"), (97, "flip", "far away"), (60, "now", "x")]
    html = chart(Series("a", (0, 100), (0, 1)), marks=marks)
    places = re.findall(r'<text x="([\d.]+)%" y="(-?\d+)" text-anchor="middle">([^<%]+)</text></g>', html)
    assert [word for *_, word in places] == ["now", "trained", "flips", "x", "far away"]
    heights = {word: int(y) for _, y, word in places}
    assert len({heights["now"], heights["trained"], heights["flips"]}) == 3
    assert heights["x"] == heights["far away"] == heights["now"]
    assert float(places[-1][0]) < 97  # moved inside the chart


@pytest.mark.parametrize("description", ["Falls <fast> & far.", 'It "holds".'])
def test_charts_are_well_formed_and_described_once(description):
    line = Series("a", (0, 100), (0, 1), (0, 0.5), (0.5, 1))
    for html in (
        chart(line, marks=[(5, "now", "now")], description=description),
        reliability_diagram(BINS, description=description),
    ):
        figure = ElementTree.fromstring(html)
        assert figure.find("svg").get("aria-hidden") == "true" and figure.find("svg").get("width") == "100%"
        assert figure.find("figcaption").text == description and html.count(escape(description)) == 1


def test_reliability_bars_are_as_high_as_the_accuracy():
    html = reliability_diagram(BINS, description="")
    bars = re.findall(r'<rect class="bar" x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', html)
    assert [tuple(map(float, bar)) for bar in bars] == [(50.6, 60, 40), (90.6, 5, 95)]
    heights = re.findall(r'<rect class="count"[^>]*height="([\d.]+)"', html)
    assert [float(h) for h in heights] == pytest.approx([100 / 9, 100], abs=0.01)
    assert "10 images predicted with 50% to 60%: mean confidence 55%, accuracy 40%" in html
    assert "<rect" not in reliability_diagram([], description="Nothing.")


def test_a_confusion_table_has_counts_and_shares_of_each_true_label():
    table = ElementTree.fromstring(render("parts.html", "confusion_table", [[3, 1], [0, 0]], ["ALL", "HEM"]))
    cells = [(td.get("class"), td.find("b").text, td.find("span").text) for td in table.iter("td")]
    assert cells == [
        ("right", "3", "75.0 %"),
        ("wrong", "1", "25.0 %"),
        ("wrong", "0", "no images"),
        ("right", "0", "no images"),
    ]
    assert [th.text for th in table.iter("th") if th.get("scope") == "row"] == ["ALL", "HEM"]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0.4, 1, [0.4, 0.6, 0.8, 1]),
        (-90, 90, [-50, 0, 50]),
        (0, 0.03, [0, 0.01, 0.02, 0.03]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)
