"""Curves, calibration and confusion as SVG and HTML that need nothing from the network. Pure functions, no Gradio.

Colours are CSS variables with fallbacks, in `plots.css`; a page of its own (a downloaded report) puts `STYLES`
into its head. Across, everything is in per cent: a chart fits any width, and its letters keep their size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..metrics import Bin

STYLES = Path(__file__).with_name("plots.css").read_text(encoding="utf-8")

# The plot area: across in per cent of the width, down in pixels.
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 11.0, 97.0, 24, 216, 258
_STYLES_OF_LINES = 8
# Words above marks: a line of them is this high, in pixels, and a letter this wide on a narrow page, in per cent.
_LINE, _LETTER = 14, 2.3


@dataclass(frozen=True)
class Series:
    """One line of a chart, and its band where both ends are given; a value that is not finite is left out.

    Attributes:
        name: as the legend shows it.
        xs: ascending.
        ys: one for each of `xs`, as are `lows` and `highs`.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] | None = None
    highs: Sequence[float] | None = None

    def __post_init__(self) -> None:
        lengths = {len(values) for values in (self.xs, self.ys, self.lows, self.highs) if values is not None}
        if len(lengths) != 1 or (self.lows is None) != (self.highs is None):
            raise ValueError(f"{self.name}: a series needs as many values as places, and both ends of its band")


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    description: str,
    percent: bool = True,
    percent_across: bool = False,
    marks: Sequence[tuple[float, str, str]] = (),
) -> str:
    """Draw lines with a legend; they differ in dashes as well as in colour.

    Args:
        series: at most eight look different from each other.
        x_label, y_label: what the axes show, with the unit.
        x_range, y_range: the ends of the axes; what lies outside is cut off.
        description: one or two sentences on what the chart shows: its caption, and all that is read out of it.
        percent: whether the values are shares, 0 to 1, to be shown in per cent.
        percent_across: the same of the places.
        marks: vertical lines: place, CSS class (`now` or `flip`) and the word above it.
    """
    legend = "".join(f"<li>{_swatch(index)}{escape(one.name)}</li>" for index, one in enumerate(series))
    bands = "".join(_band(one, index, x_range, y_range) for index, one in enumerate(series))
    lines = "".join(_line(one, index, x_range, y_range) for index, one in enumerate(series))
    words, lines_of_words = _marks(marks, x_range)
    drop = _LINE * lines_of_words  # what the words above the marks need
    return (
        f'<figure class="chart"><ul class="chart-legend">{legend}</ul>'
        f'<svg width="100%" height="{_HEIGHT + drop}" aria-hidden="true">'
        f'<text x="0" y="12" class="axis">{escape(y_label)}</text>'
        f'<svg y="{drop}" height="{_HEIGHT}" overflow="visible">'
        f"{_axes(x_range, y_range, x_label, percent, percent_across)}{_plot(bands + lines)}{words}</svg></svg>"
        f"<figcaption>{escape(description)}</figcaption></figure>"
    )


# The plot area of a small chart: down in pixels, across in per cent.
_SMALL_LEFT, _SMALL_RIGHT, _SMALL_TOP, _SMALL_BOTTOM, _SMALL_HEIGHT = 17.0, 96.0, 8, 92, 112


def small_chart(
    series: Sequence[Series],
    *,
    title: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    description: str,
) -> str:
    """One of many charts side by side that share their axes and one legend: lines and bands under a title.

    Args:
        series: drawn as in `line_chart`, whose first line and band are the model's; `legend` names them once for all.
        title: what this one shows.
        x_range, y_range: the ends of the axes, the same in all of them; whole numbers of x have a tick.
        description: the caption, and all that is read out of it.
    """

    def across(x: float) -> float:
        return _SMALL_LEFT + (_SMALL_RIGHT - _SMALL_LEFT) * (x - x_range[0]) / (x_range[1] - x_range[0])

    def down(y: float) -> float:
        return _SMALL_BOTTOM - (_SMALL_BOTTOM - _SMALL_TOP) * (y - y_range[0]) / (y_range[1] - y_range[0])

    grid = "".join(
        f'<line class="grid" x1="{_SMALL_LEFT}%" x2="{_SMALL_RIGHT}%" y1="{down(y):.1f}" y2="{down(y):.1f}"/>'
        f'<text x="{_SMALL_LEFT - 2.5}%" y="{down(y) + 4:.1f}" text-anchor="end">{y:.1f}</text>'
        for y in ticks(*y_range, at_most=4)
    )
    feet = "".join(
        f'<text x="{across(x):.1f}%" y="{_SMALL_BOTTOM + 16}" text-anchor="middle">{x}</text>'
        for x in range(math.ceil(x_range[0]), math.floor(x_range[1]) + 1)
    )
    bands = "".join(_band(one, index, x_range, y_range) for index, one in enumerate(series))
    lines = "".join(_line(one, index, x_range, y_range) for index, one in enumerate(series))
    plot = (
        f'<svg x="{_SMALL_LEFT}%" y="{_SMALL_TOP}" width="{_SMALL_RIGHT - _SMALL_LEFT}%" '
        f'height="{_SMALL_BOTTOM - _SMALL_TOP}" viewBox="0 0 100 100" preserveAspectRatio="none" overflow="hidden">'
        f"{bands}{lines}</svg>"
    )
    return (
        f'<figure class="chart small"><h4>{escape(title)}</h4>'
        f'<svg width="100%" height="{_SMALL_HEIGHT}" aria-hidden="true">{grid}{feet}{plot}</svg>'
        f"<figcaption>{escape(description)}</figcaption></figure>"
    )


def legend(names: Sequence[str]) -> str:
    """What the lines of several charts are, in the order in which each of them draws them."""
    items = "".join(f"<li>{_swatch(index)}{escape(name)}</li>" for index, name in enumerate(names))
    return f'<div class="chart"><ul class="chart-legend">{items}</ul></div>'


@dataclass(frozen=True)
class Row:
    """One line of a chart of intervals.

    Attributes:
        name: at its left.
        value, low, high: 0 to 1.
        kind: an index of line style and colour.
        hollow: whether its dot is drawn hollow.
        remark: at its right, as text.
    """

    name: str
    value: float
    low: float
    high: float
    kind: int = 0
    hollow: bool = False
    remark: str = ""


def interval_rows(rows: Sequence[Row], *, threshold: float | None, description: str) -> str:
    """Values from 0 to 1 with their intervals, one under the other, and a line across all of them at a threshold.

    Args:
        rows: as they are listed.
        threshold: where the line is; None for none.
        description: the caption, and all that is read out of it.
    """
    body = "".join(
        f'<li class="interval-row kind-{row.kind}{" hollow" if row.hollow else ""}">'
        f'<span class="name">{escape(row.name)}</span>'
        f'<span class="track" style="--low:{row.low:.4f};--high:{row.high:.4f};--at:{row.value:.4f}"></span>'
        f'<span class="remark">{escape(row.remark)}</span></li>'
        for row in rows
    )
    cut = "" if threshold is None else f' style="--cut:{threshold:.4f}"'
    return (
        f'<figure class="chart intervals"><ul class="interval-rows{"" if threshold is None else " cut"}"{cut} '
        f'aria-hidden="true">{body}</ul><figcaption>{escape(description)}</figcaption></figure>'
    )


def reliability_diagram(bins: Sequence[Bin], *, description: str) -> str:
    """How often answers given with some confidence were right: one bar for each bin, beside the ideal diagonal.

    The strip below shows how many of the images are in each bin.
    """
    most = max((one.count for one in bins), default=1)
    bars, counts = [], []
    for one in bins:
        x, width = 100 * one.low + 0.6, 100 * (one.high - one.low) - 1.2
        title = f"<title>{escape(_bin_text(one))}</title>"
        bars.append(
            f'<rect class="bar" x="{x:.2f}" y="{100 * (1 - one.accuracy):.2f}" width="{width:.2f}" '
            f'height="{100 * one.accuracy:.2f}">{title}</rect>'
        )
        tall = 100 * one.count / most
        counts.append(
            f'<rect class="count" x="{x:.2f}" y="{100 - tall:.2f}" width="{width:.2f}" height="{tall:.2f}">'
            f"{title}</rect>"
        )
    places = ((_across(one.confidence, (0, 1)), _down(one.accuracy, (0, 1))) for one in bins)
    dots = "".join(f'<circle class="dot" cx="{x:.2f}%" cy="{y:.1f}" r="4"/>' for x, y in places)
    diagonal = '<line class="ideal" x1="0" y1="100" x2="100" y2="0"/>'
    strip = (
        f'<svg x="{_LEFT}%" y="{_HEIGHT + 6}" width="{_RIGHT - _LEFT}%" height="34" viewBox="0 0 100 100" '
        f'preserveAspectRatio="none">{"".join(counts)}</svg>'
        f'<text x="{(_LEFT + _RIGHT) / 2}%" y="{_HEIGHT + 56}" text-anchor="middle" class="axis">'
        "how many images in each bin</text>"
    )
    return (
        '<figure class="chart reliability">'
        f'<svg width="100%" height="{_HEIGHT + 62}" aria-hidden="true">'
        '<text x="0" y="12" class="axis">how often right</text>'
        f"{_axes((0, 1), (0, 1), 'how sure it was', True, percent_across=True)}"
        f"{_plot(''.join(bars) + diagonal)}{dots}{strip}</svg>"
        f"<figcaption>{escape(description)}</figcaption></figure>"
    )


def confusion_table(matrix: Sequence[Sequence[int]], label_names: Sequence[str]) -> str:
    """HTML: how many images of each true label (row) got each answer (column), with their share of the row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in label_names)
    body = []
    for truth, counts in enumerate(matrix):
        total = sum(counts)
        cells = []
        for answer, count in enumerate(counts):
            share = count / total if total else 0.0
            shown = f"{share:.1%}" if total else "no images"
            kind = "right" if answer == truth else "wrong"
            cells.append(
                f'<td class="{kind}" style="--share:{40 * share:.0f}%"><b>{count:,}</b> <span>{shown}</span></td>'
            )
        body.append(f'<tr><th scope="row">{escape(label_names[truth])}</th>{"".join(cells)}</tr>')
    return (
        '<div class="chart-scroll" tabindex="0" role="region" aria-label="Confusion table">'
        '<table class="confusion"><caption>Rows: the true label. Columns: the model\'s answer.</caption>'
        f'<thead><tr><th scope="col">truly</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'
    )


def _across(x: float, x_range: tuple[float, float]) -> float:
    low, high = x_range
    return _LEFT + (_RIGHT - _LEFT) * (x - low) / (high - low)


def _down(y: float, y_range: tuple[float, float]) -> float:
    low, high = y_range
    return _BOTTOM - (_BOTTOM - _TOP) * (y - low) / (high - low)


def _plot(content: str) -> str:
    """The plot area, in which both axes run from 0 to 100, downwards; what lies outside it is cut off."""
    return (
        f'<svg x="{_LEFT}%" y="{_TOP}" width="{_RIGHT - _LEFT}%" height="{_BOTTOM - _TOP}" '
        f'viewBox="0 0 100 100" preserveAspectRatio="none" overflow="hidden">{content}</svg>'
    )


def _points(
    xs: Sequence[float], ys: Sequence[float], x_range: tuple[float, float], y_range: tuple[float, float]
) -> str:
    (x0, x1), (y0, y1) = x_range, y_range
    return " ".join(
        f"{100 * (x - x0) / (x1 - x0):.2f},{100 * (y1 - y) / (y1 - y0):.2f}"
        for x, y in zip(xs, ys, strict=True)
        if math.isfinite(y)
    )


def _line(series: Series, index: int, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    points = _points(series.xs, series.ys, x_range, y_range)
    return f'<polyline class="line-{index % _STYLES_OF_LINES}" points="{points}"/>' if points else ""


def _band(series: Series, index: int, x_range: tuple[float, float], y_range: tuple[float, float]) -> str:
    if series.lows is None or series.highs is None:
        return ""
    there = [i for i in range(len(series.xs)) if math.isfinite(series.lows[i]) and math.isfinite(series.highs[i])]
    back = there[::-1]
    xs = [series.xs[i] for i in there + back]
    ys = [series.lows[i] for i in there] + [series.highs[i] for i in back]
    return f'<polygon class="band-{index % _STYLES_OF_LINES}" points="{_points(xs, ys, x_range, y_range)}"/>'


def _swatch(index: int) -> str:
    return (
        '<svg class="swatch" width="30" height="10" aria-hidden="true">'
        f'<line class="line-{index % _STYLES_OF_LINES}" x1="0" y1="5" x2="30" y2="5"/></svg>'
    )


def _axes(
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    x_label: str,
    percent: bool,
    percent_across: bool = False,
) -> str:
    parts = []
    for y in ticks(*y_range):
        at = _down(y, y_range)
        parts.append(f'<line class="grid" x1="{_LEFT}%" x2="{_RIGHT}%" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 1.5}%" y="{at + 4:.1f}" text-anchor="end">{_tick_text(y, percent)}</text>')
    for x in ticks(*x_range):
        at, text = _across(x, x_range), _tick_text(x, percent_across)
        parts.append(f'<text x="{at:.2f}%" y="{_BOTTOM + 17}" text-anchor="middle">{text}</text>')
    middle = (_LEFT + _RIGHT) / 2
    parts.append(f'<text x="{middle}%" y="{_BOTTOM + 36}" text-anchor="middle" class="axis">{escape(x_label)}</text>')
    return "".join(parts)


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round numbers from low to high, 3 to `at_most` of them."""
    magnitude = 10 ** math.floor(math.log10(high - low))
    for step in (magnitude * factor for factor in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < at_most:
            break
    return [round(k * step, 12) for k in range(first, last + 1)]


def _tick_text(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}"


def _marks(marks: Sequence[tuple[float, str, str]], x_range: tuple[float, float]) -> tuple[str, int]:
    """Vertical lines with words above them, and on how many lines the words stand: none covers another."""
    parts: list[str] = []
    ends: list[float] = []  # of each line of words, the lowest first
    for place, kind, word in sorted(marks):
        at, wide = _across(place, x_range), _LETTER * len(word)
        anchor, start = ("start", at) if at - wide / 2 < 0 else ("middle", at - wide / 2)
        if at + wide / 2 > 100:
            anchor, start = "end", at - wide
        level = next((k for k, end in enumerate(ends) if end < start), len(ends))
        ends[level : level + 1] = [start + wide]
        parts.append(
            f'<g class="{escape(kind)}"><line x1="{at:.2f}%" x2="{at:.2f}%" y1="{_TOP - 3}" y2="{_BOTTOM}"/>'
            f'<text x="{at:.2f}%" y="{_TOP - 5 - _LINE * level}" text-anchor="{anchor}">{escape(word)}</text></g>'
        )
    return "".join(parts), len(ends)


def _bin_text(one: Bin) -> str:
    return (
        f"{one.count:,} images answered with {one.low:.0%} to {one.high:.0%}: "
        f"on average {one.confidence:.0%} sure, {one.accuracy:.0%} right"
    )
