"""Command line: `python -m train.datasets prepare LAYOUT SRC OUT` and `... describe FOLDER`.

The layout `folder` is for your own images: one sub-folder per class, or a table; `hub` for images of a dataset on the
Hub, given as owner/name, or in a folder that `datasets.load_dataset` reads. See docs/train-your-own.md.
"""

import argparse
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from blastlens.errors import BlastlensError
from train.datasets.own_images import IN_FOLDER, SIMILARITY, Options
from train.datasets.prepare import LAYOUTS, prepare, prepare_hub, prepare_own
from train.datasets.rows import FOLDER, Row, dataset_hash, load_rows

HUB = "hub"  # the layout of datasets of the Hub
LISTED = 100  # groups of a label


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for a bad input, 130 when interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.command == "describe":
            print(describe(load_rows(arguments.folder)))
            return 0
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


def describe(rows: Sequence[Row]) -> str:
    """Images per fold and label, and the groups of each label by size, as text."""
    labels, folds = (sorted({getattr(row, name) for row in rows}) for name in ("label", "fold"))
    width, count = max(10, *(len(fold) + 2 for fold in folds)), Counter((row.fold, row.label) for row in rows)
    lines = [f"{len(rows):,} images, dataset hash {dataset_hash(rows)[:16]}"]
    lines.append("fold".ljust(width) + "".join(f"{label or 'unlabelled':>12}" for label in labels))
    for fold in folds:
        lines.append((fold or "(none)").ljust(width) + "".join(f"{count[fold, label]:12,}" for label in labels))
    for label in labels:
        sizes = Counter(row.group for row in rows if row.label == label and row.group)
        each = ", ".join(f"{group} {n}" for group, n in sizes.most_common(LISTED))
        each += f" and {len(sizes) - LISTED} more" if len(sizes) > LISTED else ""
        lines.append(f"{label or 'unlabelled'}: {len(sizes)} groups{': ' + each if each else ''}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m train.datasets", description="Prepared datasets.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
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
    describe_ = commands.add_parser("describe", help="what a prepared dataset holds")
    describe_.add_argument("folder", type=Path, metavar="FOLDER")
    return parser


if __name__ == "__main__":
    sys.exit(main())
