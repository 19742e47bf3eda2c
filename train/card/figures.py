"""The card's figures, as PNG bytes: the Hub shows no SVG of a repository. Large letters, for a phone's width."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.report.figures import CLAIM, GROUP, MARKS, QUIET, STYLE

SIZE, DPI = (6, 3.9), 160  # inches, and pixels per inch: 11 pt is still 9 px high on a phone of 390 px
TICKS = (0, 5, 10, 20, 30, 50, 100)  # of sigma
_STYLE = STYLE | {"font.size": 11, "axes.titlesize": 11, "legend.fontsize": 10.5, "font.family": "DejaVu Sans"}
_DASHES = (":", "--", "-.")
FEW = 30  # images; a share of fewer says little


def noise(rows: Sequence[Mapping[str, Any]], label: str, floors: Mapping[str, float]) -> bytes:
    """Weighted F1 against sigma with its 95 % band.

    Args:
        rows: a protocol's `by_sigma`; an undefined score leaves a gap.
        label: what the curve is.
        floors: what is reached without looking, or without a network, as horizontal lines.
    """
    sigmas = [row["sigma"] for row in rows]
    low, value, high = (
        [math.nan if (v := row["weighted_f1"][end]) is None else v for row in rows] for end in ("low", "value", "high")
    )
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        ax = figure.subplots()
        ax.fill_between(sigmas, low, high, color=GROUP, alpha=0.18, linewidth=0)
        ax.plot(sigmas, value, linewidth=1.8, **MARKS["group"], label=label, clip_on=False)
        for (name, height), dashes in zip(floors.items(), _DASHES, strict=False):
            ax.axhline(height, color=CLAIM, linewidth=1.2, linestyle=dashes, label=name)
        ax.set_xscale("symlog", linthresh=10, linscale=0.7)
        ax.set_xticks(TICKS, [f"{sigma:g}" for sigma in TICKS])
        ax.minorticks_off()
        ax.set_xlim(0, max(10, *sigmas))
        ax.set_ylim(0, 1)
        ax.set_xlabel("sigma of the Gaussian noise (0 to 255 scale)")
        ax.set_ylabel("weighted F1")
        ax.grid(False, axis="x")
        figure.legend(loc="outside upper left", ncols=1)
        return _png(figure)


def calibration(bins: Sequence[Mapping[str, float]]) -> bytes:
    """How often answers of similar stated probability were right, and how many there were of them."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        left = math.floor(10 * bins[0]["low"]) / 10
        above.plot([0, 1], [0, 1], color=QUIET, linewidth=1.2, linestyle=":", label="perfectly calibrated")
        right = [b["accuracy"] for b in bins]
        for name, hollow in (("held-out answers", False), (f"fewer than {FEW} of them", True)):
            some = [b for b in bins if (b["count"] < FEW) == hollow]
            if some:
                marks = MARKS["group"] | {"markersize": 7, "markerfacecolor": "white" if hollow else GROUP}
                xs, ys = [b["confidence"] for b in some], [b["accuracy"] for b in some]
                above.plot(xs, ys, linestyle="none", label=name, clip_on=False, zorder=3, **marks)
        above.set_xlim(left, 1)
        above.set_ylim(min(left, 0.1 * math.floor(10 * min(right))), 1)
        above.set_ylabel("share right")
        width = [0.92 * (b["high"] - b["low"]) for b in bins]
        centres = [(b["low"] + b["high"]) / 2 for b in bins]
        below.bar(centres, [b["count"] for b in bins], width=width, color="#BBBBBB")
        for x, b in zip(centres, bins, strict=True):
            below.annotate(
                f"{b['count']:,}", (x, b["count"]), (0, 1), textcoords="offset points", ha="center", va="bottom"
            )
        below.set_yticks([])
        below.margins(y=0.35)
        below.spines["left"].set_visible(False)
        below.set_ylabel("images")
        below.set_xlabel("stated probability of the answer")
        figure.legend(
            *above.get_legend_handles_labels(), loc="outside upper left", ncols=3, columnspacing=1.2, handletextpad=0.3
        )
        return _png(figure)


COLUMNS, ROW_HEIGHT = 3, 1.45  # of the small charts; inches


def robustness(record: Mapping[str, Any]) -> bytes:
    """Weighted F1 against severity, 0 being the image as it is: a small chart for each kind, all on the same axes.

    Args:
        record: `robustness` of a metrics.json; an undefined score leaves a gap.
    """
    kinds = record["kinds"]
    rows = math.ceil(len(kinds) / COLUMNS)
    style = _STYLE | {"font.size": 9, "axes.titlesize": 9.5, "legend.fontsize": 10}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(SIZE[0], ROW_HEIGHT * rows + 0.8), dpi=DPI, layout="constrained")
        axes = figure.subplots(rows, COLUMNS, sharex=True, sharey=True, squeeze=False).ravel()
        lows = []
        for ax, kind in zip(axes, kinds, strict=False):
            steps = kind["severities"]
            xs = [0, *(one["severity"] for one in steps)]
            scores = [record["clean"]["weighted_f1"], *(one["weighted_f1"] for one in steps)]
            low, value, high = ([_or_gap(score, end) for score in scores] for end in ("low", "value", "high"))
            errors = [record["baseline"]["clean_error"], *(one["baseline_error"] for one in steps)]
            ax.fill_between(xs, low, high, color=GROUP, alpha=0.18, linewidth=0)
            ax.plot(xs, value, linewidth=1.6, **MARKS["group"] | {"markersize": 3}, label="this recipe, 95 % band")
            ax.plot(
                xs,
                [1 - error for error in errors],
                color=CLAIM,
                linewidth=1.2,
                linestyle=":",
                label=f"{record['baseline']['name']}, no network",
            )
            ax.set_title(kind["title"])
            lows += [end for end in (*low, *(1 - error for error in errors)) if math.isfinite(end)]
        for place, ax in enumerate(axes):
            ax.set_visible(place < len(kinds))
            if place + COLUMNS >= len(kinds):  # the last of its column
                ax.tick_params(labelbottom=True)
        axes[0].set_ylim(0.1 * math.floor(10 * min(lows)), 1)
        axes[0].set_xticks(range(len(kinds[0]["severities"]) + 1))
        figure.supxlabel("severity, 0 being the image as it is", fontsize=10)
        figure.supylabel("weighted F1", fontsize=10)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=2)
        return _png(figure)


def _or_gap(score: Mapping[str, float | None] | None, end: str) -> float:
    found = score and score[end]
    return math.nan if found is None else float(found)


def _png(figure: Figure) -> bytes:
    """The same bytes whenever figures and fonts are the same: without the name of the program."""
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()
