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
def comparison(panels: Mapping[str, Sequence[tuple[str, float | None, Mapping[str, Interval | None], str]]]) -> Figure:
    """Claimed, image-level and group-disjoint accuracy.

    Args:
        panels: by data set, for each system: its name, the claim, accuracy by level, and the words where there is none.
    """
    heights = [len(rows) + 0.6 for rows in panels.values()]
    figure = Figure(figsize=(8, 0.3 * sum(heights) + 1.5), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    found = [score for rows in panels.values() for _, _, by_level, _ in rows for score in by_level.values() if score]
    left = min([0.5, *(math.floor(10 * score.low) / 10 for score in found)])
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        ax.set_title(title, loc="left", fontweight="bold")
        for y, (_, claim, by_level, nothing) in enumerate(rows):
            for (level, score), shift in zip(by_level.items(), (-0.13, 0.13), strict=True):
                if score:
                    low, point, high = (round(end, 4) for end in (score.low, score.value, score.high))
                    ax.plot([low, high], [y + shift] * 2, LINES[level], color=MARKS[level]["color"], linewidth=1.2)
                    ax.plot([point], [y + shift], **MARKS[level], zorder=3)
            if claim is not None:
                ax.plot([round(claim, 4)], [y - 0.13], **MARKS["claim"], zorder=4)
            if not any(by_level.values()):
                ax.text(left + 0.005, y, nothing, va="center", color=QUIET, fontsize=8)
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
    figure, axes = _small_panels(panels)
    for ax, curves in zip(axes, panels.values(), strict=False):
        ax.axhline(round(floor, 4), color=QUIET, linewidth=0.8, linestyle=":")
        for level, curve in curves.items():
            _curve(ax, curve, level)
        _sigma_axis(ax, (0, 10, 30, 100))
    figure.supxlabel(SIGMA_LABEL, fontsize=9)
    figure.supylabel("accuracy (share of images)", fontsize=9)
    _legend(figure, LEVELS, {floor_label: {"color": QUIET, "linestyle": ":", "linewidth": 0.8}})
    return figure


@matplotlib.rc_context(STYLE)
def learning(panels: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]]) -> Figure:
    """Accuracy and loss by epoch, a row of two panels for each system; thin lines are of the training part, thick ones
    of the validation part.

    Args:
        panels: by system and level, the columns of a run's log.
    """
    figure = Figure(figsize=(7, 1.35 * len(panels) + 0.9), layout="constrained")
    axes = figure.subplots(len(panels), 2, squeeze=False)
    for pair, (title, by_level) in zip(axes, panels.items(), strict=True):
        for ax, what in zip(pair, ("accuracy", "loss"), strict=True):
            for level, log in by_level.items():
                style = {"color": MARKS[level]["color"], "linestyle": LINES[level], "marker": "."}
                ax.plot(log["epoch"], log[what].round(4), linewidth=0.8, markersize=3, **style)
                ax.plot(log["epoch"], log[f"val_{what}"].round(4), linewidth=1.8, markersize=4, **style)
            ax.set_ylabel(what)
        pair[0].set_title(title, loc="left")
        pair[0].set_ylim(0, 1)
    figure.supxlabel("epoch", fontsize=9)
    _legend(figure, {}, {label: {"color": MARKS[level]["color"]} for level, label in LEVELS.items()})
    return figure


@matplotlib.rc_context(STYLE)
def roc(panels: Mapping[str, Mapping[str, np.ndarray]]) -> Figure:
    """True against false positive rates (2, T) by level, one small panel per system."""
    figure, axes = _small_panels(panels)
    for ax, by_level in zip(axes, panels.values(), strict=False):
        for level, (false, true) in by_level.items():
            ax.plot(false.round(3), true.round(3), LINES[level], color=MARKS[level]["color"], linewidth=1.2)
        ax.plot([0, 1], [0, 1], color=QUIET, linewidth=0.8, linestyle=":")
    figure.supxlabel("false positive rate", fontsize=9)
    figure.supylabel("true positive rate", fontsize=9)
    _legend(figure, {}, {label: {"color": MARKS[level]["color"]} for level, label in LEVELS.items()})
    return figure


@matplotlib.rc_context(STYLE)
def confusion(panels: Mapping[str, Mapping[str, tuple[np.ndarray, Sequence[str]]]]) -> Figure:
    """Shares (C, C) of each true class by predicted class: a row for each system, a column for each level."""
    figure = Figure(figsize=(6, 1.9 * len(panels) + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), len(LEVELS), squeeze=False)
    for row, (title, by_level) in zip(axes, panels.items(), strict=True):
        for ax, level in zip(row, LEVELS, strict=True):
            if level not in by_level:
                ax.set_axis_off()
                continue
            shares, names = by_level[level]
            edges = np.arange(len(names) + 1) - 0.5
            ax.pcolormesh(edges, edges, shares, cmap="Blues", vmin=0, vmax=1)
            ax.invert_yaxis()
            ax.set_aspect("equal")
            for (true, predicted), share in np.ndenumerate(shares):
                color = "white" if share > 0.5 else "black"
                ax.text(predicted, true, f"{share:.2f}", ha="center", va="center", color=color, fontsize=7)
            ax.set_xticks(range(len(names)), names, fontsize=7)
            ax.set_yticks(range(len(names)), names, fontsize=7)
            ax.grid(False)
            ax.set_title(f"{_wrapped(title)}\n{LEVELS[level]}", fontsize=8, loc="left")
    figure.supxlabel("predicted class", fontsize=9)
    figure.supylabel("true class", fontsize=9)
    return figure


@matplotlib.rc_context(STYLE)
def samples(title: str, images: Sequence[tuple[np.ndarray, str, str, float]]) -> Figure:
    """Images, each with its true class, its predicted class and the probability of that."""
    columns = 4
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(2 * columns, 2.3 * rows + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax in axes:
        ax.set_axis_off()
    for ax, (pixels, true, predicted, probability) in zip(axes, images, strict=False):
        ax.imshow(pixels)
        wrong = "" if true == predicted else f" (is {true})"
        ax.set_title(f"{predicted}{wrong}, {probability:.0%}", color=IMAGE if wrong else GROUP)
    return figure


@matplotlib.rc_context(STYLE)
def bars(systems: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Figure:
    """Scores side by side, a panel for each score: by system and level, its value."""
    names = list(next(iter(next(iter(systems.values())).values())))
    figure = Figure(figsize=(8, 0.32 * len(systems) + 1.2), layout="constrained")
    axes = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(axes, names, strict=True):
        for level, shift in zip(LEVELS, (-0.2, 0.2), strict=True):
            places = [(y + shift, of[level][name]) for y, of in enumerate(systems.values()) if level in of]
            ax.barh(*zip(*places, strict=True), height=0.36, color=MARKS[level]["color"]) if places else None
        ax.set_title(name.replace("f1", "F1"))
        ax.set_xlim(0, 1)
        ax.grid(False, axis="y")
    axes[0].set_yticks(range(len(systems)), systems)
    axes[0].invert_yaxis()
    _legend(figure, {}, {label: {"color": MARKS[level]["color"], "linewidth": 5} for level, label in LEVELS.items()})
    return figure


def _small_panels(panels: Mapping[str, Any]) -> tuple[Figure, Sequence[Axes]]:
    """A grid of small panels with a title each; the axes in the order of `panels`."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.1 * columns + 0.6, 1.65 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    for ax, title in zip(axes, panels, strict=False):
        ax.set_title(_wrapped(title), fontsize=8)
    return figure, axes


def _wrapped(title: str) -> str:
    """The title of a system in short lines, its source in one of its own."""
    name, _, source = title.partition(" (")
    return "\n".join([*textwrap.wrap(name, 28), *([f"({source}"] if source else [])])


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
