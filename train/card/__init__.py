"""Model cards: the README.md and figures of a model folder, rendered from what was measured.

    python -m train.card models/mobilenetv1-cnmc2019

The prose is in `model_card.md` of the project. `facts` reads the records, `origins` says what is known about first
weights and recipes, `metadata` makes the front matter, `page` puts it all together.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from blastlens.errors import BlastlensError
from blastlens.files import replace
from train.card.page import render

__all__ = ["main", "render"]


def main(argv: Sequence[str] | None = None) -> int:
    """Write the card into each folder. Returns 2 where one cannot be rendered or written."""
    parser = argparse.ArgumentParser(prog="python -m train.card", description="Render the cards of model folders.")
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--repo-id", help="name of the model in code examples (default: models/FOLDER)")
    arguments = parser.parse_args(argv)
    for folder in arguments.folders:
        try:
            for name, content in render(folder, arguments.repo_id).items():
                replace(folder / name, partial(Path.write_bytes, data=content))
        except BlastlensError as error:
            print(error, file=sys.stderr)
            return 2
        print(folder / "README.md")
    return 0
