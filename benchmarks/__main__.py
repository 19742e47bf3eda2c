"""Everything that was asked of speed and memory, measured on this machine by one command.

    python -m benchmarks --images DIR --fields DIR   # most of an hour; results/benchmarks/*.json and results/SPEED.md
    python -m benchmarks --render                    # the page alone, from what is there

Each part runs in a process of its own, one after the other, and is a command of its own, too: `benchmarks.serving`,
`benchmarks.bulk_memory`, `benchmarks.memory`, `benchmarks.load`, `benchmarks.in_browser`. Keep the machine quiet.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bulk_memory, in_browser, load, memory, serving
from blastlens.model_folder import bundled_models, bundled_root
from publish.project import ROOT
from train.report.pages import filled

RESULTS, PAGE = ROOT / "results/benchmarks", Path("results/SPEED.md")
PARTS = {
    "serving": ("Answering", serving),
    "bulk_memory": ("Memory of bulk scoring", bulk_memory),
    "memory": ("Memory of the page", memory),
    "load": ("Under load", load),
    "in_browser": ("In the browser", in_browser),
}
TAKES_CELLS, TAKES_FIELDS = ("serving", "bulk_memory", "in_browser"), ("in_browser",)
INT8_LOSES = 0.005  # of weighted F1, at most


@dataclass(frozen=True)
class Row:
    """One thing that was asked.

    Attributes:
        what: in words. word, limit: "at most" or "at least", and what.
        found: of each model, or of all as one ("").
        shown: how a figure is written.
    """

    what: str
    word: str
    limit: float
    found: dict[str, float]
    shown: Callable[[float], str] = "{:.2f}".format

    def cell(self, model: str) -> str:
        """A figure, with a mark where it misses what was asked."""
        if model not in self.found:
            return ""
        value = self.found[model]
        return self.shown(value) + ("" if serving.met(value, self.word, self.limit) else " (missed)")


def rows(records: dict[str, Any], metrics: dict[str, Any]) -> list[Row]:
    """What was asked, in the order of asking, with what the records say.

    Args:
        records: of the parts, by name. metrics: of the bundled models, by name.
    """
    timed, browser = records["serving"], records["in_browser"]["models"]
    found = []
    for key, (word, limit) in serving.ASKED.items():
        name, _, precision = key.rpartition("_")
        figures = {
            model: by_precision[precision][name]["ratio"]["median"]
            for model, by_precision in timed["models"].items()
            if precision in by_precision
        }
        words = serving.SAID[name].replace("{side} px ", "").format(levels=len(serving.CURVE_SIGMAS))
        found.append(Row(f"{words}, {precision}", word, limit, figures))
    (first, before), (last, after) = memory.ends(records["memory"])
    asked = memory.LIMITS
    held = f"the page's memory after {last:,} mixed requests"
    under, crowd = records["load"], f"{records['load']['clients']} clients at once"
    moved = {name: record["int8"]["difference"]["value"] for name, record in metrics.items()}
    far = {name: row["largest_difference"] for name, row in browser.items()}
    peaks = [run["images"] for run in records["bulk_memory"]["runs"]]
    return [
        *found,
        Row(f"{held}, vs after {first:,}", "at most", asked["growth"], {"": after / before}, "{:.3f}".format),
        Row(f"{held}, MB", "at most", asked["mb"], {"": after}, "{:.0f}".format),
        Row(f"wrong or swapped answers to {crowd}", "at most", load.LIMITS["wrong"], {"": under["wrong"]}, str),
        Row(f"lost requests of {crowd}", "at most", load.LIMITS["lost"], {"": under["lost"]}, str),
        Row(
            f"the page's memory after {under['requests']:,} requests of {crowd}, vs after a tenth of them",
            "at most",
            load.LIMITS["growth"],
            {"": load.growth(under)},
            "{:.3f}".format,
        ),
        Row("`import blastlens`, s", "at most", serving.IMPORT_S, {"": timed["import_s"]["median"]}),
        Row("weighted F1 that int8 adds to fp32", "at least", -INT8_LOSES, moved, "{:+.4f}".format),
        Row("a probability in the browser vs in Python, int8", "at most", in_browser.CLOSE, far, "{:.1g}".format),
        Row(
            f"bulk scoring's highest memory at {max(peaks):,} images, vs at {min(peaks):,}",
            "at most",
            bulk_memory.FLAT,
            {"": bulk_memory.growth(records["bulk_memory"])},
        ),
    ]


def page(records: dict[str, Any], metrics: dict[str, Any]) -> str:
    """The page as Markdown: what was asked, and each part's own table."""
    timed = records["serving"]
    return filled(
        "SPEED",
        machine=timed["machine"],
        models=list(timed["models"]),
        rows=rows(records, metrics),
        sides=sorted({images["side"] for images in timed["images"].values()}),
        count=timed["count"],
        parts={title: module.table(records[name]) for name, (title, module) in PARTS.items()},
    )


def read(folder: Path = RESULTS) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts' records and the bundled models' metrics."""
    records = {part: json.loads((folder / f"{part}.json").read_text()) for part in PARTS}
    metrics = {name: json.loads((bundled_root() / name / "metrics.json").read_text()) for name in bundled_models()}
    return records, metrics


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="folder of raw cells as .bmp files; without one they are drawn")
    parser.add_argument("--fields", type=Path, help="folder of smear fields as .jpg files; without one they are drawn")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure these parts alone")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the page from the records")
    arguments = parser.parse_args(argv)
    for part in () if arguments.render else arguments.only:
        print(f"{part} ...", file=sys.stderr)
        given = ["--images", str(arguments.images)] if arguments.images and part in TAKES_CELLS else []
        given += ["--fields", str(arguments.fields)] if arguments.fields and part in TAKES_FIELDS else []
        out = ["--out", str(RESULTS / f"{part}.json")]
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{part}", *given, *out], stdout=subprocess.DEVNULL)
        if done.returncode:
            return done.returncode
    lacking = [part for part in PARTS if not (RESULTS / f"{part}.json").is_file()]
    if lacking:
        print(f"Not measured yet: {', '.join(lacking)}; run python -m benchmarks without --only.", file=sys.stderr)
        return 2
    text = page(*read())
    (ROOT / PAGE).write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
