"""Line charts and reliability diagrams as SVG. Pure functions, no Gradio.

Used by every tab and by the downloadable report, which puts `STYLES` into its head. `gr.LinePlot` draws neither bands
nor vertical markers, tells lines apart by colour alone, and cannot be part of a report that needs no network. Positions
across are in per cent: a chart fits any width, and its text keeps its size.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ..metrics import Bin

STYLES = Path(__file__).with_name("plots.css").read_text(encoding="utf-8")
LINE_STYLES = 8
# Labels above markers: the height of a row in pixels, and the width of a letter in per cent of a narrow page.
_LABEL_HEIGHT, _LETTER_WIDTH = 14, 2.3


@dataclass(frozen=True)
class Series:
    """One line of a chart, and its band if `lows` and `highs` are given; values that are not finite are left out.

    Attributes:
        name: as shown in the legend.
        xs: ascending.
        ys, lows, highs: one value for each of `xs`.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    lows: Sequence[float] | None = None
    highs: Sequence[float] | None = None


@dataclass(frozen=True)
class _Axes:
    """Two axes and where the plot area lies: across in per cent of the width, down in pixels."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    left: float = 11.0
    right: float = 97.0
    top: int = 24
    bottom: int = 216

    def across(self, x: float) -> float:
        low, high = self.x_range
        return self.left + (self.right - self.left) * (x - low) / (high - low)

    def down(self, y: float) -> float:
        low, high = self.y_range
        return self.bottom - (self.bottom - self.top) * (y - low) / (high - low)

    def points(self, xs: Sequence[float], ys: Sequence[float]) -> str:
        """Points of the plot area, in which both axes run from 0 to 100, downwards."""
        (x0, x1), (y0, y1) = self.x_range, self.y_range
        pairs = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(y)]
        return " ".join(f"{100 * (x - x0) / (x1 - x0):.2f},{100 * (y1 - y) / (y1 - y0):.2f}" for x, y in pairs)

    def plot(self, content: str) -> str:
        """The plot area; content outside it is cut off."""
        return (
            f'<svg x="{self.left}%" y="{self.top}" width="{self.right - self.left}%" height="{self.bottom - self.top}" '
            f'viewBox="0 0 100 100" preserveAspectRatio="none" overflow="hidden">{content}</svg>'
        )

    def lines(self, series: Sequence[Series]) -> str:
        """Bands, and the lines above them."""
        bands, lines = [], []
        for index, one in enumerate(series):
            style = index % LINE_STYLES
            if one.lows is not None and one.highs is not None:
                ends = list(zip(one.xs, one.lows, one.highs, strict=True))
                there = [end for end in ends if math.isfinite(end[1]) and math.isfinite(end[2])]
                xs = [x for x, _, _ in there] + [x for x, _, _ in reversed(there)]
                ys = [low for _, low, _ in there] + [high for _, _, high in reversed(there)]
                bands.append(f'<polygon class="band-{style}" points="{self.points(xs, ys)}"/>')
            if points := self.points(one.xs, one.ys):
                lines.append(f'<polyline class="line-{style}" points="{points}"/>')
        return self.plot("".join(bands + lines))

    def grid(self, x_ticks: Sequence[tuple[float, str]], y_ticks: Sequence[tuple[float, str]]) -> str:
        rows = "".join(
            f'<line class="grid" x1="{self.left}%" x2="{self.right}%" y1="{self.down(y):.1f}" y2="{self.down(y):.1f}"/>'
            f'<text x="{self.left - 1.5}%" y="{self.down(y) + 4:.1f}" text-anchor="end">{text}</text>'
            for y, text in y_ticks
        )
        return rows + "".join(
            f'<text x="{self.across(x):.2f}%" y="{self.bottom + 17}" text-anchor="middle">{text}</text>'
            for x, text in x_ticks
        )

    def x_title(self, text: str, y: int) -> str:
        middle = (self.left + self.right) / 2
        return f'<text x="{middle}%" y="{y}" text-anchor="middle" class="axis">{escape(text)}</text>'


def line_chart(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    description: str,
    percent: bool = True,
    marks: Sequence[tuple[float, str, str]] = (),
) -> str:
    """Draw lines with a legend; they differ in dashes as well as in colour.

    Args:
        series: up to `LINE_STYLES` look different from each other.
        x_label, y_label: what the axes show, with the unit.
        x_range, y_range: the ends of the axes; what lies outside is cut off.
        description: one or two sentences on what the chart shows: its caption and its text for screen readers.
        percent: whether y is a share, 0 to 1, to be shown in per cent.
        marks: vertical lines: x, CSS class (`now` or `flip`) and label.
    """
    axes = _Axes(x_range, y_range)
    labels, rows = _marks(axes, marks)
    offset, height = _LABEL_HEIGHT * rows, axes.bottom + 42
    ticks_x = [(x, f"{x:g}") for x in ticks(*x_range)]
    ticks_y = [(y, _tick(y, percent)) for y in ticks(*y_range)]
    drawing = axes.grid(ticks_x, ticks_y) + axes.x_title(x_label, axes.bottom + 36) + axes.lines(series) + labels
    return _figure(
        f'<text x="0" y="12" class="axis">{escape(y_label)}</text>'
        f'<svg y="{offset}" height="{height}" overflow="visible">{drawing}</svg>',
        height + offset,
        description,
        before=_legend_list([one.name for one in series]),
    )


def reliability_diagram(bins: Sequence[Bin], *, description: str) -> str:
    """Accuracy by confidence: one bar for each bin beside the ideal diagonal, and a strip of the numbers of images."""
    axes = _Axes((0, 1), (0, 1))
    most = max((one.count for one in bins), default=1)
    bars = "".join(_bar("bar", one, one.accuracy) for one in bins)
    counts = "".join(_bar("count", one, one.count / most) for one in bins)
    dots = "".join(
        f'<circle class="dot" cx="{axes.across(one.confidence):.2f}%" cy="{axes.down(one.accuracy):.1f}" r="4"/>'
        for one in bins
    )
    shares = [(x, _tick(x, True)) for x in ticks(0, 1)]
    strip = _Axes((0, 1), (0, 1), top=axes.bottom + 48, bottom=axes.bottom + 82)
    return _figure(
        '<text x="0" y="12" class="axis">accuracy</text>'
        + axes.grid(shares, shares)
        + axes.x_title("confidence", axes.bottom + 36)
        + axes.plot(f'{bars}<line class="ideal" x1="0" y1="100" x2="100" y2="0"/>')
        + dots
        + strip.plot(counts)
        + axes.x_title("number of images in each bin", axes.bottom + 98),
        axes.bottom + 104,
        description,
        " reliability",
    )


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round numbers from low to high, 3 to `at_most` of them."""
    magnitude = 10 ** math.floor(math.log10(high - low))
    for step in (magnitude * factor for factor in (0.1, 0.2, 0.25, 0.5, 1.0, 2.0)):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < at_most:
            break
    return [round(k * step, 12) for k in range(first, last + 1)]


def _figure(drawing: str, height: int, description: str, kind: str = "", before: str = "") -> str:
    return (
        f'<figure class="chart{kind}">{before}<svg width="100%" height="{height}" aria-hidden="true">{drawing}</svg>'
        f"<figcaption>{escape(description)}</figcaption></figure>"
    )


def _legend_list(names: Sequence[str]) -> str:
    items = "".join(
        '<li><svg class="swatch" width="30" height="10" aria-hidden="true">'
        f'<line class="line-{index % LINE_STYLES}" x1="0" y1="5" x2="30" y2="5"/></svg>{escape(name)}</li>'
        for index, name in enumerate(names)
    )
    return f'<ul class="chart-legend">{items}</ul>'


def _tick(value: float, percent: bool) -> str:
    return f"{100 * value:g} %" if percent else f"{value:g}"


def _marks(axes: _Axes, marks: Sequence[tuple[float, str, str]]) -> tuple[str, int]:
    """Vertical lines with labels above them, and on how many rows the labels stand so that none covers another."""
    parts: list[str] = []
    ends: list[float] = []  # where the last label of each row ends, the lowest row first
    for x, kind, label in sorted(marks):
        at, half = axes.across(x), _LETTER_WIDTH * len(label) / 2
        middle = min(max(at, half), 100 - half)  # inside the chart
        row = next((row for row, end in enumerate(ends) if end < middle - half), len(ends))
        ends[row : row + 1] = [middle + half]
        parts.append(
            f'<g class="{escape(kind)}"><line x1="{at:.2f}%" x2="{at:.2f}%" y1="{axes.top - 3}" y2="{axes.bottom}"/>'
            f'<text x="{middle:.2f}%" y="{axes.top - 5 - _LABEL_HEIGHT * row}" text-anchor="middle">{escape(label)}'
            "</text></g>"
        )
    return "".join(parts), len(ends)


def _bar(kind: str, one: Bin, height: float) -> str:
    """A bar of a share of the plot area's height, over the range of its bin."""
    text = (
        f"{one.count:,} images predicted with {one.low:.0%} to {one.high:.0%}: "
        f"mean confidence {one.confidence:.0%}, accuracy {one.accuracy:.0%}"
    )
    return (
        f'<rect class="{kind}" x="{100 * one.low + 0.6:.2f}" y="{100 * (1 - height):.2f}" '
        f'width="{100 * (one.high - one.low) - 1.2:.2f}" height="{100 * height:.2f}"><title>{text}</title></rect>'
    )
