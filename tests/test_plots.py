"""Charts as text: what is drawn where, at any width, with words for who cannot see it."""

import re
import xml.etree.ElementTree as ElementTree
from html import escape

import pytest

from blastlens.metrics import Bin
from blastlens.ui.plots import (
    STYLES,
    Row,
    Series,
    confusion_table,
    interval_rows,
    legend,
    line_chart,
    reliability_diagram,
    small_chart,
    ticks,
)


def chart(*series, **changes):
    settings = {
        "x_label": "noise",
        "y_label": "share",
        "x_range": (0, 100),
        "y_range": (0, 1),
        "description": "A chart.",
    } | changes
    return line_chart(series, **settings)


def points(html, kind):
    """The corners of every polyline or polygon, across and down the plot area in per cent."""
    return [
        [tuple(map(float, pair.split(","))) for pair in text.split()]
        for text in re.findall(rf'<{kind} class="[^"]*" points="([^"]*)"', html)
    ]


def test_lines_run_across_the_plot_and_upwards():
    html = chart(Series("a", (0, 50, 100), (0.0, 0.75, 1.0)))
    assert points(html, "polyline") == [[(0, 100), (50, 25), (100, 0)]]


def test_a_range_of_its_own_moves_the_line():
    html = chart(Series("a", (10, 20), (0.5, 1.0)), x_range=(10, 30), y_range=(0.5, 1.5))
    assert points(html, "polyline") == [[(0, 100), (50, 50)]]


def test_a_band_goes_forth_along_one_end_and_back_along_the_other():
    html = chart(Series("a", (0, 100), (0.5, 0.5), lows=(0.25, 0.0), highs=(0.75, 1.0)))
    assert points(html, "polygon") == [[(0, 75), (100, 100), (100, 0), (0, 25)]]


def test_what_is_undefined_is_left_out():
    gap = float("nan")
    html = chart(Series("a", (0, 50, 100), (0.5, gap, 1.0), lows=(0.5, gap, 1.0), highs=(0.5, 0.9, 1.0)))
    assert points(html, "polyline") == [[(0, 50), (100, 0)]]
    assert len(points(html, "polygon")[0]) == 4


def test_eight_lines_differ_and_each_is_in_the_legend_as_it_is_drawn():
    series = [Series(f"system <{k}>", (0, 1), (0.1 * k, 0.1)) for k in range(8)]
    html = chart(*series, x_range=(0, 1))
    drawn = re.findall(r'<polyline class="(line-\d)"', html)
    assert len(set(drawn)) == 8
    assert re.findall(r'<line class="(line-\d)"', html) == drawn
    assert "system &lt;7&gt;" in html and "<7>" not in html
    looks = {name: re.search(rf"\.chart \.{name} {{([^}}]*)}}", STYLES).group(1) for name in drawn}
    assert len(set(looks.values())) == 8


def test_words_above_marks_never_cover_each_other():
    marks = [
        (3, "now", "trained"),
        (9, "flip", "flips"),
        (0, "now", "now"),
        (97, "flip", "far away"),
        (60, "now", "x"),
    ]
    html = chart(Series("a", (0, 100), (0, 1)), marks=marks)
    places = re.findall(r'<text x="([\d.]+)%" y="(-?\d+)" text-anchor="(\w+)">([^<%]+)</text></g>', html)
    assert [word for *_, word in places] == ["now", "trained", "flips", "x", "far away"]
    heights = {word: int(y) for _, y, _, word in places}
    assert len({heights["now"], heights["trained"], heights["flips"]}) == 3
    assert heights["x"] == heights["far away"] == heights["now"]
    assert places[-1][2] == "end"


@pytest.mark.parametrize("description", ["Falls <fast> & far.", 'It "holds".'])
def test_charts_are_sound_and_say_in_words_what_they_show(description):
    bins = [Bin(0.5, 0.6, 10, 0.55, 0.4), Bin(0.9, 1.0, 90, 0.97, 0.95)]
    for html in (
        chart(Series("a", (0, 100), (0, 1), (0, 0.5), (0.5, 1)), marks=[(5, "now", "now")], description=description),
        reliability_diagram(bins, description=description),
    ):
        figure = ElementTree.fromstring(html)
        drawing = figure.find("svg")
        assert drawing.get("aria-hidden") == "true" and drawing.get("width") == "100%"
        assert figure.find("figcaption").text == description
        assert html.count(escape(description)) == 1  # read out once
        assert "http" not in html and "<script" not in html


def test_a_bin_is_as_high_as_it_is_often_right_and_its_count_is_told():
    html = reliability_diagram([Bin(0.5, 0.6, 10, 0.55, 0.4), Bin(0.9, 1.0, 90, 0.97, 0.95)], description="")
    bars = re.findall(r'<rect class="bar" x="([\d.]+)" y="([\d.]+)" width="[\d.]+" height="([\d.]+)"', html)
    assert [tuple(map(float, bar)) for bar in bars] == [(50.6, 60, 40), (90.6, 5, 95)]
    heights = re.findall(r'<rect class="count"[^>]*height="([\d.]+)"', html)
    assert [float(h) for h in heights] == pytest.approx([100 / 9, 100], abs=0.01)
    assert "10 images answered with 50% to 60%: on average 55% sure, 40% right" in html
    assert "<rect" not in reliability_diagram([], description="Nothing.")


def test_the_confusion_table_shows_counts_and_shares_of_each_true_label():
    table = ElementTree.fromstring(confusion_table([[3, 1], [0, 1200]], ["ALL", "HEM"]))
    cells = [(td.get("class"), td.find("b").text, td.find("span").text) for td in table.iter("td")]
    assert cells == [
        ("right", "3", "75.0%"),
        ("wrong", "1", "25.0%"),
        ("wrong", "0", "0.0%"),
        ("right", "1,200", "100.0%"),
    ]
    assert [th.text for th in table.iter("th") if th.get("scope") == "row"] == ["ALL", "HEM"]


def test_a_label_that_no_image_has_is_no_division_by_zero():
    assert "no images" in confusion_table([[0, 0], [1, 1]], ["ALL", "HEM"])


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 100, [0, 20, 40, 60, 80, 100]),
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0.4, 1, [0.4, 0.6, 0.8, 1]),
        (-90, 90, [-50, 0, 50]),
        (0, 0.03, [0, 0.01, 0.02, 0.03]),
    ],
)
def test_ticks_are_round_numbers_inside_the_range(low, high, expected):
    assert ticks(low, high) == pytest.approx(expected)


def test_a_series_with_too_few_values_or_half_a_band_is_refused():
    for broken in (
        {"xs": (0, 1), "ys": (0,)},
        {"xs": (0,), "ys": (0,), "lows": (0,)},
        {"xs": (0,), "ys": (0,), "lows": (0,), "highs": (0, 1)},
    ):
        with pytest.raises(ValueError, match="a series needs"):
            Series("a", **broken)


def test_small_charts_share_their_axes_and_draw_as_large_ones_do():
    series = [Series("a", (0, 5), (0.5, 1.0), (0.4, 0.9), (0.6, 1.0)), Series("b", (0, 5), (0.5, 0.5))]
    html = small_chart(series, title="a <kind>", x_range=(0, 5), y_range=(0.5, 1), description="One & all.")
    assert points(html, "polyline") == [[(0, 100), (100, 0)], [(0, 100), (100, 100)]]
    assert re.findall(r'text-anchor="middle">([^<]*)<', html) == [str(step) for step in range(6)]
    assert "a &lt;kind&gt;" in html and "One &amp; all." in html
    ElementTree.fromstring(html)


def test_a_legend_names_lines_in_the_order_in_which_they_are_drawn():
    html = legend(["model", "no <network>"])
    assert re.findall(r'<line class="(line-\d)"', html) == ["line-0", "line-1"]
    assert html.index("model") < html.index("no &lt;network&gt;")


def test_rows_of_intervals_stand_where_their_values_are():
    rows = [Row("7 <x>", 0.25, 0.125, 0.5, remark="ALL"), Row("H1", 0.75, 0.75, 0.75, kind=1, hollow=True)]
    html = interval_rows(rows, threshold=0.5, description="People.")
    assert re.findall(r"--low:([\d.]+);--high:([\d.]+);--at:([\d.]+)", html) == [
        ("0.1250", "0.5000", "0.2500"),
        ("0.7500", "0.7500", "0.7500"),
    ]
    assert "--cut:0.5000" in html and "7 &lt;x&gt;" in html
    assert html.count("hollow") == 1 and "kind-1 hollow" in html
    assert "--cut" not in interval_rows(rows, threshold=None, description="People.")
