"""Command line: `python -m train.datasets prepare LAYOUT SRC OUT`.

The layout `folder` is for your own images: one sub-folder per class, or a table; `hub` for images of a dataset on the
Hub, given as owner/name, or in a folder that `datasets.load_dataset` reads. See docs/train-your-own.md.
"""

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from blastlens.errors import BlastlensError
from train.datasets.own_images import IN_FOLDER, SIMILARITY, Options
from train.datasets.prepare import LAYOUTS, prepare, prepare_hub, prepare_own
from train.datasets.rows import FOLDER

HUB = "hub"  # the layout of datasets of the Hub


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a bad input, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the report names such a file
            if arguments.layout in (FOLDER, HUB):
                options = Options(arguments.name or arguments.out.name, arguments.subject, arguments.similarity)
                prepare_any = prepare_own if arguments.layout == FOLDER else prepare_hub
                report = prepare_any(arguments.source, arguments.out, arguments.size, options)
            else:
                report = prepare(arguments.layout, arguments.source, arguments.out, arguments.size)
    except (BlastlensError, OSError) as error:  # OSError: no space left, no permission to write
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; no partial dataset is left, rerun the command to start again", file=sys.stderr)
        return 130
    print(f"{report}\nwritten to {arguments.out}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train.datasets", description="Prepared datasets.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    prepare_ = commands.add_parser("prepare", help="images -> imagefolder and metadata.csv")
    prepare_.add_argument("layout", choices=(*LAYOUTS, FOLDER, HUB), help="folder, hub: your own images")
    prepare_.add_argument(
        "source", type=Path, metavar="SRC", help="folder as published, or one above it; or a table; or owner/name"
    )
    prepare_.add_argument("out", type=Path, metavar="OUT", help="folder to write; only an earlier one is replaced")
    prepare_.add_argument("--size", type=int, default=224, help="px per side (default: 224)")
    own = prepare_.add_argument_group(f"your own images (layouts {FOLDER} and {HUB})")
    own.add_argument("--name", help="of the data set, in cards and on the page (default: that of OUT)")
    own.add_argument(
        "--subject",
        metavar=f"{IN_FOLDER}|PATTERN",
        help=f"where a path states the subject: {IN_FOLDER}, the folder inside that of the class, or a regular "
        "expression, whose first group is the subject (default: a column of the table)",
    )
    own.add_argument(
        "--similarity",
        type=float,
        default=SIMILARITY,
        help=f"correlation of near-duplicates, which a split never separates (default: {SIMILARITY:g})",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
