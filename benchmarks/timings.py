"""What one run of a training loop took, and what several runs say together. Pure: nothing here runs anything."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

# The first steps pay for allocating memory, choosing kernels and starting data-loader workers; they are left out.
WARM_UP = 2
# So is the last one: both loops fetch one batch ahead, so that it alone has no batch to fetch.
TIMED = slice(WARM_UP, -1)


@dataclass(frozen=True)
class Timings:
    """One run of one loop, step by step: a step lasts from the end of the one before it to its own end, and so holds
    everything that happens in between: data, augmentation, forward, backward, optimiser, averaging, logging."""

    loop: str  # "ours" or "timm"
    workers: int  # data-loader processes beside the training process
    batch_size: int
    steps: tuple[float, ...]  # seconds of each optimiser step, the first ones included
    waits: tuple[float, ...]  # of these, seconds until the batch was there
    losses: tuple[float, ...]  # of each step's batch
    largest_change: float  # of any weight between start and end: above 0, the loop has trained

    @property
    def images_per_second(self) -> float:
        return self.batch_size * len(self.steps[TIMED]) / sum(self.steps[TIMED])

    @property
    def waiting(self) -> float:
        """Share of the time spent waiting for data, 0 to 1."""
        return sum(self.waits[TIMED]) / sum(self.steps[TIMED])

    @property
    def fault(self) -> str | None:
        """Why this run is not a measurement of training, in one sentence; None when it is one."""
        if not self.steps[TIMED]:
            return f"{self.loop} ran {len(self.steps)} steps; at least {WARM_UP + 2} are needed to time it."
        if not all(math.isfinite(loss) for loss in self.losses):
            return f"{self.loop} reached a loss that is not finite."
        if not self.largest_change > 0:
            return f"{self.loop} has changed no weight."
        return None


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median with the lowest and the highest of them."""
    return {"median": median(values), "low": min(values), "high": max(values)}


def summarise(ours: Sequence[Timings], timm: Sequence[Timings] = ()) -> dict[str, Any]:
    """Images per second and share of waiting of each loop, and the ratio ours / timm.

    The k-th run of ours and the k-th run of timm with the same number of workers were made one after the other, so
    the ratio is taken run by run. timm enters it with the number of workers that serves it best (by the median).
    """
    by_workers = {w: [t for t in timm if t.workers == w] for w in sorted({t.workers for t in timm})}
    rows = [_row(ours), *(_row(runs) for runs in by_workers.values())]
    if not by_workers:
        return {"loops": rows}
    best = max(by_workers, key=lambda w: median(t.images_per_second for t in by_workers[w]))
    ratios = [a.images_per_second / b.images_per_second for a, b in zip(ours, by_workers[best], strict=True)]
    return {"loops": rows, "best_workers_of_timm": best, "ours_over_timm": spread(ratios)}


def _row(runs: Sequence[Timings]) -> dict[str, Any]:
    return {
        "loop": runs[0].loop,
        "workers": runs[0].workers,
        "images_per_second": spread([t.images_per_second for t in runs]),
        "waiting_for_data": spread([t.waiting for t in runs]),
        "first_loss": median(t.losses[0] for t in runs),
        "last_loss": median(t.losses[-1] for t in runs),
    }


def table(summary: dict[str, Any]) -> str:
    """A summary as a Markdown table, and the ratio in words below it."""
    lines = [
        "| loop | data workers | images per second | waiting for data | loss, first to last step |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in summary["loops"]:
        speed = "{median:.1f} ({low:.1f} to {high:.1f})".format(**row["images_per_second"])
        waiting = "{median:.1%} ({low:.1%} to {high:.1%})".format(**row["waiting_for_data"])
        losses = f"{row['first_loss']:.2f} to {row['last_loss']:.2f}"
        lines.append(f"| {row['loop']} | {row['workers']} | {speed} | {waiting} | {losses} |")
    if "ours_over_timm" in summary:
        ratio = "{median:.2f} ({low:.2f} to {high:.2f})".format(**summary["ours_over_timm"])
        workers = summary["best_workers_of_timm"]
        lines += ["", f"Images per second, ours / timm with {workers} data workers, its best: {ratio}"]
    return "\n".join(lines)
