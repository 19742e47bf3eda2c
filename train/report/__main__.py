"""Write every page and figure of `results/`, the results table of README.md and the cards; tests compare them.

python -m train.report
python -m train.report --samples DATA FOLDER    # sheets of sample predictions on a prepared dataset, and nothing else
"""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blastlens.files import replace, writing
from train import card, search
from train.command import reports_errors
from train.report import evidence, figures, models, pages
from train.report.systems import Evidence
from train.report.templates import ROOT


def documents() -> dict[str, str]:
    """The text of every rendered document but the cards, by its path in the project.

    Raises:
        BlastlensError: a record is not what it should be.
    """
    results = ROOT / "results"
    found = pages.render(Evidence.read(results), bundled_records())
    found |= search.render()
    front = models.filled_in((ROOT / "README.md").read_text(encoding="utf-8"), bundled_records())
    return {f"results/{name}": text for name, text in found.items()} | {"README.md": front}


def bundled_records() -> list[dict[str, Any]]:
    """metrics.json of the bundled models, by name."""
    return [json.loads(path.read_text()) for path in sorted((ROOT / "models").glob("[!.]*/metrics.json"))]


@reports_errors
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.report", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--samples", nargs=2, type=Path, metavar=("DATA", "FOLDER"), help="draw sample predictions, and nothing else"
    )
    arguments = parser.parse_args(argv)
    if arguments.samples:
        return _write_samples(*arguments.samples)
    files = documents()
    for stale in {*(ROOT / "results/figures").glob("*.svg")} - {ROOT / name for name in files}:
        stale.unlink()
    for name, text in files.items():
        (ROOT / name).write_text(text, encoding="utf-8")
    return card.main([str(path.parent) for path in sorted((ROOT / "models").glob("[!.]*/metrics.json"))])


def _write_samples(data: Path, folder: Path) -> int:
    sheets = evidence.sample_sheets(Evidence.read(ROOT / "results"), data)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for name, figure in sheets.items():
        replace(folder / f"{name}.png", partial(Path.write_bytes, data=figures.png(figure)))
    print(f"{len(sheets)} sheets in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
