"""Every figure of pages (SVG) and cards (PNG, since the Hub shows no SVG of a repository), drawn with matplotlib.

Image-level scores are hollow orange circles on dashed lines, group-disjoint ones filled blue squares on full lines,
claims black crosses: distinguishable without colour too (colours: Okabe and Ito, safe for colour-blind readers). A
figure is the same text or bytes whenever its scores are.
"""

import io
import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from blastlens.metrics import Interval
from train.results import LEVELS

IMAGE, GROUP, CLAIM, QUIET = "#D55E00", "#0072B2", "#000000", "#767676"
STYLE = {
    "svg.fonttype": "none",  # text stays text: small files, readable by screen readers
    "svg.hashsalt": "blastlens",  # names inside the file do not change from one rendering to the next
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "butt",
    "xtick.bottom": False,  # the grid shows where the numbers are
    "ytick.left": False,
    "legend.frameon": False,
    "figure.facecolor": "white",  # GitHub shows pages on black too
    "savefig.facecolor": "white",
}
CARD_STYLE = STYLE | {"font.size": 11, "axes.titlesize": 11, "legend.fontsize": 10.5}
CARD_SIZE, DPI = (6, 3.9), 160  # inches, and pixels per inch: 11 pt is still 9 px high on a phone of 390 px
MARKS: dict[str, dict[str, Any]] = {
    "image": {"color": IMAGE, "marker": "o", "markerfacecolor": "white", "markersize": 5},
    "group": {"color": GROUP, "marker": "s", "markersize": 4.5},
    "claim": {"color": CLAIM, "marker": "x", "markersize": 5, "linestyle": "none"},
}
LINES = {"image": "--", "group": "-"}
SIGMA_LABEL = "sigma of the Gaussian noise (0 to 255 scale)"
FEW = 30  # images; a share of fewer is drawn hollow

Curve = Mapping[float, Interval]  # accuracy by sigma


def svg(figure: Figure) -> str:
    """The figure as SVG."""
    out = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    # A tenth of a point is enough, and the last digits of floats cannot differ between machines then.
    coordinates = r'\b(?:d|x|y|transform)="[^"]+"'
    text = re.sub(coordinates, lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), out.getvalue())
    return "\n".join(line.strip() for line in text.splitlines()) + "\n"


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


@matplotlib.rc_context(STYLE)
def comparison(panels: Mapping[str, Sequence[tuple[str, float | None, Mapping[str, Interval | None]]]]) -> Figure:
    """Claimed, image-level and group-disjoint accuracy: by data set, a (system, claim, accuracy by level) for each."""
    heights = [len(rows) + 0.6 for rows in panels.values()]
    figure = Figure(figsize=(8, 0.3 * sum(heights) + 1.5), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    found = [score for rows in panels.values() for _, _, by_level in rows for score in by_level.values() if score]
    left = min([0.5, *(math.floor(10 * score.low) / 10 for score in found)])
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        ax.set_title(title, loc="left", fontweight="bold")
        for y, (_, claim, by_level) in enumerate(rows):
            for (level, score), shift in zip(by_level.items(), (-0.13, 0.13), strict=True):
                if score:
                    low, point, high = (round(end, 4) for end in (score.low, score.value, score.high))
                    ax.plot([low, high], [y + shift] * 2, LINES[level], color=MARKS[level]["color"], linewidth=1.2)
                    ax.plot([point], [y + shift], **MARKS[level], zorder=3)
            if claim is not None:
                ax.plot([round(claim, 4)], [y - 0.13], **MARKS["claim"], zorder=4)
            if not any(by_level.values()):
                ax.text(left + 0.005, y, "not run yet", va="center", color=QUIET, fontsize=8)
        ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(False, axis="y")
    axes[-1].set_xlabel("accuracy (share of images), with 95 % interval over groups")
    axes[-1].set_xlim(left, 1.005)
    _legend(figure, {"claim": "claimed by the paper (image-level)", **LEVELS})
    return figure


@matplotlib.rc_context(STYLE)
def noise(panels: Mapping[str, Mapping[str, Curve]], floor: float, floor_label: str) -> Figure:
    """Accuracy against sigma by level, one small panel per system; `floor` is what no skill reaches."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.1 * columns + 0.6, 1.65 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, curves) in zip(axes, panels.items(), strict=False):
        name, _, source = title.partition(" (")
        ax.set_title("\n".join([*textwrap.wrap(name, 28), *([f"({source}"] if source else [])]), fontsize=8)
        ax.axhline(round(floor, 4), color=QUIET, linewidth=0.8, linestyle=":")
        for level, curve in curves.items():
            _curve(ax, curve, level)
        _sigma_axis(ax, (0, 10, 30, 100))
    figure.supxlabel(SIGMA_LABEL, fontsize=9)
    figure.supylabel("accuracy (share of images)", fontsize=9)
    _legend(figure, LEVELS, {floor_label: {"color": QUIET, "linestyle": ":", "linewidth": 0.8}})
    return figure


@matplotlib.rc_context(CARD_STYLE)
def card_noise(rows: Sequence[Mapping[str, Any]], label: str, floors: Mapping[str, float]) -> Figure:
    """Weighted F1 against sigma with its 95 % band.

    Args:
        rows: a protocol's `by_sigma`; an undefined score leaves a gap.
        label: what the curve is.
        floors: what is reached without looking, or without a network, as horizontal lines.
    """
    figure = Figure(figsize=CARD_SIZE, dpi=DPI, layout="constrained")
    ax = figure.subplots()
    sigmas = [row["sigma"] for row in rows]
    ends = ([row["weighted_f1"][end] for row in rows] for end in ("low", "value", "high"))
    low, value, high = (np.array(end, dtype=float) for end in ends)  # undefined: NaN, a gap
    ax.fill_between(sigmas, low, high, color=GROUP, alpha=0.18, linewidth=0)
    ax.plot(sigmas, value, linewidth=1.8, **MARKS["group"], label=label, clip_on=False)
    for (name, height), dashes in zip(floors.items(), (":", "--", "-."), strict=False):
        ax.axhline(height, color=CLAIM, linewidth=1.2, linestyle=dashes, label=name)
    _sigma_axis(ax, (0, 5, 10, 20, 30, 50, 100))
    ax.set_xlim(0, max(10, *sigmas))
    ax.set_ylim(0, 1)
    ax.set_xlabel(SIGMA_LABEL)
    ax.set_ylabel("weighted F1")
    figure.legend(loc="outside upper left", ncols=1)
    return figure


@matplotlib.rc_context(CARD_STYLE)
def card_calibration(bins: Sequence[Mapping[str, float]]) -> Figure:
    """Accuracy by predicted probability, and the number of predictions in each bin."""
    figure = Figure(figsize=CARD_SIZE, dpi=DPI, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left = math.floor(10 * bins[0]["low"]) / 10
    above.plot([0, 1], [0, 1], color=QUIET, linewidth=1.2, linestyle=":", label="perfectly calibrated")
    for name, hollow in (("held-out predictions", False), (f"fewer than {FEW}", True)):
        if some := [b for b in bins if (b["count"] < FEW) == hollow]:
            marks = MARKS["group"] | {"markersize": 7, "markerfacecolor": "white" if hollow else GROUP}
            xs, ys = [b["confidence"] for b in some], [b["accuracy"] for b in some]
            above.plot(xs, ys, linestyle="none", label=name, clip_on=False, zorder=3, **marks)
    above.set_xlim(left, 1)
    above.set_ylim(min(left, 0.1 * math.floor(10 * min(b["accuracy"] for b in bins))), 1)
    above.set_ylabel("accuracy")
    centres = [(b["low"] + b["high"]) / 2 for b in bins]
    width = [0.92 * (b["high"] - b["low"]) for b in bins]
    bars = below.bar(centres, [b["count"] for b in bins], width=width, color="#BBBBBB")
    below.bar_label(bars, [f"{b['count']:,}" for b in bins], padding=1)
    below.set_yticks([])
    below.margins(y=0.35)
    below.spines["left"].set_visible(False)
    below.set_ylabel("images")
    below.set_xlabel("predicted probability")
    handles = above.get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper left", ncols=3, columnspacing=1.2, handletextpad=0.3)
    return figure


def _curve(ax: Axes, curve: Curve, level: str) -> None:
    sigmas = list(curve)
    low, points, high = ([round(getattr(s, end), 4) for s in curve.values()] for end in ("low", "value", "high"))
    ax.fill_between(sigmas, low, high, color=MARKS[level]["color"], alpha=0.18, linewidth=0)
    marked = [i for i, sigma in enumerate(sigmas) if sigma in (0, 10, 30, 100)]
    marks = MARKS[level] | {"markersize": 3.5, "markevery": marked, "clip_on": False}
    ax.plot(sigmas, points, LINES[level], linewidth=1.2, **marks)


def _sigma_axis(ax: Axes, ticks: Sequence[float]) -> None:
    ax.set_xscale("symlog", linthresh=10, linscale=0.7)
    ax.set_xticks(ticks, [f"{sigma:g}" for sigma in ticks])
    ax.minorticks_off()
    ax.grid(False, axis="x")


def _legend(figure: Figure, levels: Mapping[str, str], others: Mapping[str, dict[str, Any]] | None = None) -> None:
    """Above the panels: the marks of levels, and other lines by their label."""
    lines = [Line2D([], [], label=label, **({"linestyle": LINES.get(k)} | MARKS[k])) for k, label in levels.items()]
    lines += [Line2D([], [], label=label, **style) for label, style in (others or {}).items()]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), fontsize=8)
