"""The figures of the pages, as SVG text that is the same whenever the measured figures are.

Image-level results are hollow orange circles on dashed lines, group-disjoint ones filled blue squares on full lines,
claims black crosses: told apart without colour too (colours: Okabe and Ito, safe for colour-blind readers).
"""

import io
import math
import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from blastlens.metrics import Interval

IMAGE, GROUP, CLAIM, QUIET = "#D55E00", "#0072B2", "#000000", "#767676"
LABELS = {"image": "image-level", "group": "group-disjoint"}
STYLE = {
    "svg.fonttype": "none",  # text stays text: small files, readable by screen readers
    "svg.hashsalt": "blastlens",  # names inside the file do not change from one rendering to the next
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "both",
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.solid_capstyle": "butt",
    "xtick.bottom": False,  # the grid shows where the numbers stand
    "ytick.left": False,
    "legend.frameon": False,
    "figure.facecolor": "white",  # GitHub shows pages on black too
    "savefig.facecolor": "white",
}
MARKS: dict[str, dict[str, Any]] = {
    "image": {"color": IMAGE, "marker": "o", "markerfacecolor": "white", "markersize": 5},
    "group": {"color": GROUP, "marker": "s", "markersize": 4.5},
    "claim": {"color": CLAIM, "marker": "x", "markersize": 5, "linestyle": "none"},
}
SIGMA_TICKS = (0, 10, 30, 100)
LINES = {"image": "--", "group": "-"}


@dataclass(frozen=True)
class Dot:
    """One system in one comparison: accuracies, None where there is none."""

    name: str
    claim: float | None
    image: Interval | None
    group: Interval | None


@dataclass(frozen=True)
class Curve:
    """A score against sigma, with interval."""

    sigmas: tuple[float, ...]
    scores: tuple[Interval, ...]


def svg(figure: Figure) -> str:
    """The figure as SVG, without what no viewer needs: a third of matplotlib's bytes."""
    out = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = _COORDINATES.sub(lambda found: re.sub(r"(\.\d)\d+", r"\1", found[0]), out.getvalue())
    text = _NEEDLESS.sub("", text).replace('<style type="text/css">', f'<style type="text/css">text{{{FONT}}}', 1)
    return "\n".join(line.strip() for line in text.splitlines()) + "\n"


FONT = "font-family: 'DejaVu Sans', Verdana, Arial, sans-serif"  # once for all texts; the first is matplotlib's own
# A tenth of a point is enough, and the last digits of floats cannot differ between machines then.
_COORDINATES = re.compile(r'\b(?:d|x|y|transform)="[^"]+"')
# Names of parts that nothing refers to, clipping (nothing is drawn outside the axes), fonts of single texts.
_NEEDLESS = re.compile(
    r' id="[A-Za-z]\w*(?:\.\w+)?_\d+"| clip-path="[^"]+"|; font-family: [^;"]+|<clipPath.*?</clipPath>', re.S
)


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @wraps(draw)
    def styled(*arguments: Any, **options: Any) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*arguments, **options)

    return styled


@_styled
def comparison(panels: dict[str, Sequence[Dot]]) -> Figure:
    """Claimed, image-level and group-disjoint accuracy, one line per system, one panel per data set."""
    heights = [len(dots) + 0.6 for dots in panels.values()]
    figure = Figure(figsize=(8, 0.3 * sum(heights) + 1.5), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    everything = [value for dots in panels.values() for dot in dots for value in (dot.image, dot.group) if value]
    left = min([0.5, *(math.floor(10 * value.low) / 10 for value in everything)])
    for ax, (title, dots) in zip(axes, panels.items(), strict=True):
        ax.set_title(title, loc="left", fontweight="bold")
        for y, dot in enumerate(dots):
            for level, value, shift in (("image", dot.image, -0.13), ("group", dot.group, 0.13)):
                if value:
                    _interval_dot(ax, value, y + shift, level)
            if dot.claim is not None:
                ax.plot([round(dot.claim, 4)], [y - 0.13], **MARKS["claim"], zorder=4)
            if dot.image is None and dot.group is None:
                ax.text(left + 0.005, y, "not run yet", va="center", color=QUIET, fontsize=8)
        ax.set_yticks(range(len(dots)), [dot.name for dot in dots])
        ax.set_ylim(len(dots) - 0.4, -0.6)
        ax.grid(False, axis="y")
    axes[-1].set_xlabel("accuracy (share of images), with 95 % interval over groups")
    axes[-1].set_xlim(left, 1.005)
    _legend(figure, {"claim": "claimed by the paper (image-level)", **LABELS})
    return figure


@_styled
def leak(panels: dict[str, Sequence[tuple[str, Interval]]]) -> Figure:
    """Image-level minus group-disjoint accuracy, one line per system."""
    heights = [len(rows) + 0.6 for rows in panels.values()]
    figure = Figure(figsize=(7.5, 0.32 * sum(heights) + 1.1), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for ax, (title, rows) in zip(axes, panels.items(), strict=True):
        ax.set_title(title, loc="left", fontweight="bold")
        ax.axvline(0, color=CLAIM, linewidth=0.8)
        for y, (_, value) in enumerate(rows):
            low, point, high = (round(v, 4) for v in (value.low, value.value, value.high))
            ax.barh([y], [point], height=0.55, color="#BBBBBB")
            ax.plot([low, high], [y, y], color=CLAIM, linewidth=1.2)
        ax.set_yticks(range(len(rows)), [name for name, _ in rows])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.grid(False, axis="y")
    figure.supxlabel("leak: image-level minus group-disjoint accuracy, with 95 % interval over groups", fontsize=9)
    return figure


@_styled
def noise(panels: dict[str, dict[str, Curve]], floor: float, floor_label: str) -> Figure:
    """Accuracy against sigma for both levels, one small panel per system; `floor` is what no skill reaches."""
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(2.1 * columns + 0.6, 1.65 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for i, ax in enumerate(axes.flat):
        if i >= len(panels):
            ax.set_axis_off()
            continue
        title, curves = list(panels.items())[i]
        name, _, source = title.partition(" (")
        ax.set_title("\n".join([*textwrap.wrap(name, 28), *([f"({source}"] if source else [])]), fontsize=8)
        ax.axhline(round(floor, 4), color=QUIET, linewidth=0.8, linestyle=":")
        for level, curve in curves.items():
            _curve(ax, curve, level, marked=SIGMA_TICKS)
        ax.set_xscale("symlog", linthresh=10, linscale=0.7)
        ax.set_xticks(SIGMA_TICKS, [f"{sigma:g}" for sigma in SIGMA_TICKS])
        ax.minorticks_off()
        ax.grid(False, axis="x")
    figure.supxlabel("sigma of the Gaussian noise (0 to 255 scale)", fontsize=9)
    figure.supylabel("accuracy (share of images)", fontsize=9)
    _legend(figure, LABELS, {floor_label: {"color": QUIET, "linestyle": ":", "linewidth": 0.8}})
    return figure


@_styled
def claimed_noise(folds: dict[str, tuple[Curve | None, dict[float, float]]], label: str) -> Figure:
    """A paper's noise rows beside ours, one panel per official fold: (measured, claimed by sigma)."""
    figure = Figure(figsize=(8, 2.9), layout="constrained")
    axes = figure.subplots(1, len(folds), sharey=True, squeeze=False)[0]
    for ax, (title, (curve, claimed)) in zip(axes, folds.items(), strict=True):
        ax.set_title(title)
        if curve is None:
            ax.text(0.5, 0.1, "not run yet", transform=ax.transAxes, ha="center", color=QUIET)
        else:
            _curve(ax, curve, "image", marked=curve.sigmas)
        ax.plot(list(claimed), list(claimed.values()), **MARKS["claim"], zorder=4)
        ax.set_xticks([0, 2, 5, 6, 8, 10])
    axes[0].set_ylabel(f"{label}, image-level")
    figure.supxlabel("sigma of the Gaussian noise (0 to 255 scale)", fontsize=9)
    _legend(figure, {"claim": "claimed by the paper", "image": "measured, with 95 % interval over groups"})
    return figure


@_styled
def curves(panels: dict[str, tuple[str, Sequence[Sequence[dict[str, float]]]]]) -> Figure:
    """Loss by epoch of every run of one system: by level, the panel's title and the rows of each run."""
    figure = Figure(figsize=(7.5, 2.7), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (level, (title, runs)) in zip(axes, panels.items(), strict=True):
        ax.set_title(title)
        if not runs:
            ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, ha="center", color=QUIET)
            ax.set_xticks([])
            continue
        for run in runs:
            for name, line in (("loss", "-"), ("eval_loss", ":")):
                rows = [row for row in run if name in row]
                epochs, values = [row["epoch"] for row in rows], [round(row[name], 3) for row in rows]
                dots = {"marker": ".", "markersize": 3} if len(epochs) < 8 else {}
                ax.plot(epochs, values, line, color=MARKS[level]["color"], linewidth=1, **dots)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes[0].set_ylim(bottom=0)  # of both, once all is drawn
    axes[0].set_ylabel("loss (nats)")
    _legend(figure, {}, {"training": {"color": QUIET}, "validation": {"color": QUIET, "linestyle": ":"}})
    return figure


@_styled
def cost(panels: dict[str, dict[str, Sequence[tuple[str, float, Interval | None, Interval | None]]]]) -> Figure:
    """Accuracy against costs: by data set, by cost, a (system, cost, image-level, group-disjoint) for each system.

    A line joins the two points of a system; its number stands below.
    """
    columns = max(len(by_cost) for by_cost in panels.values())
    figure = Figure(figsize=(3.1 * columns + 2.2, 3.1 * len(panels) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), columns, sharey="row", squeeze=False)
    for line, (title, by_cost) in zip(axes, panels.items(), strict=True):
        names = list(dict.fromkeys(name for points in by_cost.values() for name, *_ in points))
        for ax, (cost_name, points) in zip(line, by_cost.items(), strict=False):
            low, high = _limits([p[1] for p in points])
            places = _side_by_side([p[1] for p in points], (high / low) ** 0.035)
            for x, (name, _, image, group) in zip(places, points, strict=True):
                ends = [round(value.value, 4) for value in (image, group) if value]
                ax.plot([x] * len(ends), ends, color="#CCCCCC", linewidth=0.8, zorder=1)
                for level, value in (("image", image), ("group", group)):
                    if value:
                        ax.plot([x], [round(value.value, 4)], **MARKS[level], linestyle="none")
                number = str(names.index(name) + 1)
                place = {"xytext": (0, -10), "textcoords": "offset points", "ha": "center", "va": "center"}
                ax.annotate(number, (x, min(ends)), fontsize=7.5, **place)
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.minorticks_off()
            ax.set_xlim(low, high)
            ax.set_xlabel(cost_name)
            ax.margins(y=0.12)
        for ax in line[len(by_cost) :]:
            ax.set_axis_off()
        line[0].set_title(title, loc="left", fontweight="bold")
        line[0].set_ylabel("accuracy (share of images)")
        key = "\n".join(f"{i} {name}" for i, name in enumerate(names, start=1))
        line[-1].annotate(key, (1.03, 1), xycoords="axes fraction", va="top", fontsize=8)
    _legend(figure, LABELS)
    return figure


@_styled
def front(panels: dict[str, dict[str, Sequence[tuple[str, float, float, float]]]]) -> Figure:
    """Score against time and size: by data set, by model, a (precision, score, ms, MB) for each of its files.

    A line joins the files of a model; int8 is hollow.
    """
    figure = Figure(figsize=(8, 2.6 * len(panels) + 0.5), layout="constrained")
    axes = figure.subplots(len(panels), 2, sharey="row", squeeze=False)
    marks = {"fp32": MARKS["group"], "int8": MARKS["group"] | {"markerfacecolor": "white"}}
    for line, (title, models) in zip(axes, panels.items(), strict=True):
        for ax, place, what in zip(line, (2, 3), ("milliseconds of one image", "megabytes"), strict=True):
            for number, files in enumerate(models.values(), start=1):
                xs, ys = [file[place] for file in files], [round(file[1], 4) for file in files]
                ax.plot(xs, ys, color="#CCCCCC", linewidth=0.8, zorder=1)
                for x, y, (precision, *_) in zip(xs, ys, files, strict=True):
                    ax.plot([x], [y], **marks[precision], linestyle="none")
                offset = {"xytext": (0, 9), "textcoords": "offset points", "ha": "center", "va": "center"}
                ax.annotate(str(number), (xs[0], ys[0]), fontsize=7.5, **offset)
            ax.set_xscale("log")
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.minorticks_off()
            ax.set_xlim(*_limits([file[place] for files in models.values() for file in files]))
            ax.set_xlabel(what)
            ax.margins(y=0.25)
        line[0].set_title(title, loc="left", fontweight="bold")
        line[0].set_ylabel("weighted F1")
        key = "\n".join(f"{i} {name}" for i, name in enumerate(models, start=1))
        line[-1].annotate(key, (1.03, 1), xycoords="axes fraction", va="top", fontsize=8)
    lines = [Line2D([], [], label=name, linestyle="none", **style) for name, style in marks.items()]
    figure.legend(handles=lines, loc="outside upper center", ncols=2, fontsize=8)
    return figure


def _limits(costs: Sequence[float]) -> tuple[float, float]:
    """Ends of a logarithmic axis: at least a factor of ten, so that small differences look small."""
    centre, half = math.sqrt(min(costs) * max(costs)), math.sqrt(max(10.0, 2 * max(costs) / min(costs)))
    return centre / half, centre * half


def _side_by_side(costs: Sequence[float], step: float) -> list[float]:
    """Places on a logarithmic axis: equal costs, which networks of one architecture have, are set beside each other."""
    places = []
    for i, cost in enumerate(costs):
        same = [k for k, other in enumerate(costs) if math.isclose(other, cost, rel_tol=0.03)]
        places.append(cost * step ** (same.index(i) - (len(same) - 1) / 2))
    return places


def _interval_dot(ax: Axes, value: Interval, y: float, level: str) -> None:
    low, point, high = (round(v, 4) for v in (value.low, value.value, value.high))
    ax.plot([low, high], [y, y], LINES[level], color=MARKS[level]["color"], linewidth=1.2)
    ax.plot([point], [y], **MARKS[level], zorder=3)


def _curve(ax: Axes, curve: Curve, level: str, marked: Sequence[float]) -> None:
    low, points, high = ([round(getattr(s, end), 4) for s in curve.scores] for end in ("low", "value", "high"))
    ax.fill_between(curve.sigmas, low, high, color=MARKS[level]["color"], alpha=0.18, linewidth=0)
    marks = {"markersize": 3.5, "markevery": [i for i, s in enumerate(curve.sigmas) if s in marked], "clip_on": False}
    ax.plot(curve.sigmas, points, LINES[level], linewidth=1.2, **(MARKS[level] | marks))


def _legend(figure: Figure, levels: dict[str, str], others: dict[str, dict[str, Any]] | None = None) -> None:
    """Above the panels: the marks of levels, and other lines by their label."""
    lines = [Line2D([], [], label=label, **({"linestyle": LINES.get(k)} | MARKS[k])) for k, label in levels.items()]
    lines += [Line2D([], [], label=label, **style) for label, style in (others or {}).items()]
    figure.legend(handles=lines, loc="outside upper center", ncols=len(lines), fontsize=8)
