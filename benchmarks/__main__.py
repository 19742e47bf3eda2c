"""Measure speed and memory on this machine, and render the records as results/SPEED.md.

    python -m benchmarks --cells DIR --fields DIR   # an hour on two cores, which should have nothing else to do
    python -m benchmarks --only serving page        # some parts
    python -m benchmarks --render                   # measure nothing

Each part runs in its own process and writes its record to results/benchmarks/. `--cells` is a folder of raw 450 px
cells as .bmp files, `--fields` one of smear fields as .jpg files; synthetic images are used without them.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Figure, Target, table
from blastlens.files import write_json
from blastlens.model_folder import bundled_models, bundled_root

RESULTS, PAGE = ROOT / "results/benchmarks", ROOT / "results/SPEED.md"
PARTS = ("serving", "page", "page_memory", "load", "memory", "in_browser")
INT8_LOSS = Target(-0.005, at_least=True)  # of weighted F1

INTRODUCTION = """# Speed and memory

Targets, and measurements on {machine}.

`python -m benchmarks` measures all of it on your machine and renders this page. Ratios are to a reference of the same
run, measured in turns; figures are medians.
"""

NOTES = """- *bare*: ONNX Runtime with its own settings on ready tensors; no decoding, input check or calibration.
- *pipeline*: `transformers.pipeline("image-classification")` with PyTorch on the same model folder. It decodes and
  resizes, but has no input check and no calibration.
- One image file has {sides} px and is opened for each prediction. Batch scoring and its references get images of the
  network's input size; a run has {count} images and ends with the finished Parquet file.
- int8 against fp32: networks of cross-validation folds on held-out groups, from the models' `metrics.json`.
- If its queue is full, the page replies "busy"; the client repeats the request, and the time counts from there.
- The spread of the repeats and the times behind each ratio: [benchmarks](benchmarks/)."""


def read(folder: Path = RESULTS) -> dict[str, Any]:
    """The records of the parts.

    Raises:
        SystemExit: one is missing.
    """
    missing = [part for part in PARTS if not (folder / f"{part}.json").is_file()]
    if missing:
        sys.exit(f"Not measured yet: {', '.join(missing)}; run python -m benchmarks without --only.")
    return {part: json.loads((folder / f"{part}.json").read_text(encoding="utf-8")) for part in PARTS}


def int8_losses() -> dict[str, float]:
    """What int8 changes in the weighted F1 of each bundled model."""
    texts = {name: (bundled_root() / name / "metrics.json").read_text(encoding="utf-8") for name in bundled_models()}
    return {name: json.loads(text)["int8"]["difference"]["value"] for name, text in texts.items()}


def render(records: Mapping[str, Any], losses: Mapping[str, float]) -> str:
    """SPEED.md: a summary against the targets, notes, and the figures of each part."""
    serving = records["serving"]
    models = list(serving["models"])
    modules = {part: import_module(f"benchmarks.{part}") for part in PARTS}
    figures = [figure for part, module in modules.items() for figure in module.summary(records[part])]
    figures.append(Figure("weighted F1, int8 minus fp32", INT8_LOSS, losses, "{:+.4f}"))
    rows = []
    for figure in figures:
        common = [figure.cell(""), *[""] * (len(models) - 1)]
        rows.append([figure.name, figure.target, *(common if "" in figure.values else map(figure.cell, models))])
    sides = " or ".join(map(str, sorted({images["side"] for images in serving["images"].values()})))
    sections = [
        INTRODUCTION.format(machine=serving["machine"]).rstrip(),
        table(("what", "target", *models), rows),
        NOTES.format(sides=sides, count=serving["count"]),
    ]
    for part, module in modules.items():
        if hasattr(module, "details"):
            sections += [f"## {module.TITLE}", module.details(records[part])]
    return "\n\n".join(sections) + "\n"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=Path, help="folder of raw cells as .bmp files")
    parser.add_argument("--fields", type=Path, help="folder of smear fields as .jpg files")
    parser.add_argument("--models", nargs="+", default=bundled_models(), help="default: all bundled ones")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="measure only these parts")
    parser.add_argument("--render", action="store_true", help="measure nothing, only render the records")
    parser.add_argument("--quick", action="store_true", help="few images and repeats, to test the benchmarks")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the records")
    arguments = parser.parse_args(argv)
    if not arguments.render and len(arguments.only) > 1:
        for part in arguments.only:
            rest = list(argv if argv is not None else sys.argv[1:])
            done = subprocess.run([sys.executable, "-m", "benchmarks", *rest, "--only", part], cwd=ROOT)
            if done.returncode:
                return done.returncode
    elif not arguments.render:
        (part,) = arguments.only
        print(f"{part} ...", file=sys.stderr)
        measure = import_module(f"benchmarks.{part}").measure
        record = measure(arguments.models, arguments.cells, arguments.fields, arguments.quick)
        write_json(arguments.out / f"{part}.json", record)
        return 0
    PAGE.write_text(render(read(arguments.out), int8_losses()), encoding="utf-8")
    print(f"wrote {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
