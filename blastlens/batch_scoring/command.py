"""The command line's part: `python -m blastlens score SOURCE... --out results.parquet`.

Nothing that only scoring needs is imported before it is asked for.
"""

import argparse
import sys
from typing import Any

from ..classifier import DISCLAIMER
from ..cli_options import Asked, one_line
from ..errors import BlastlensError
from ..images import ACCEPTED
from ..wording import count

STOPPED = 130  # exit code of a process that Ctrl-C has ended

_AFTERWARDS = f"""
What was cut off, by Ctrl-C, by a full disk or by the power going, is taken up by giving the same command again. Until
all is done, what is finished lies in a folder beside the output, of the same name with ".parts".

Exit code: 0 if every image was answered, 2 if some were not (the column "error" says why) or nothing could be scored.
{DISCLAIMER}"""


def add_to(commands: Any, options: argparse.ArgumentParser) -> None:
    """Add the command to a parser's commands; `options` are those of the model."""
    parser = commands.add_parser(
        "score",
        parents=[options],
        help="score any number of images into one Parquet file",
        description="Score any number of images into one Parquet file, a row for each.",
        epilog=_AFTERWARDS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help=f"folder, with all folders in it; zip; {ACCEPTED} file; or a quoted pattern such as 'archive/**/*.bmp'",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="the Parquet file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it is there, once all is done")
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="(default: local)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads, or Ray's processes (default: as many as cores)"
    )
    parser.add_argument(
        "--ray-address",
        metavar="ADDRESS",
        help="of a running Ray cluster, with --engine ray; all its machines must see the same files and have blastlens "
        "(default: start one here)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Score, say in one line what came out, and return the exit code."""
    if arguments.ray_address is not None and arguments.engine != "ray":
        raise BlastlensError("--ray-address names a Ray cluster; give --engine ray with it.")
    asked = Asked.of(arguments)
    try:
        from .score import Command, score
    except ImportError as error:
        raise BlastlensError(
            f"{error.name} is not installed, which scoring in bulk needs; install it with pip install {error.name}."
        ) from error
    command = Command(tuple(arguments.sources), **vars(asked))
    try:
        report = score(
            command,
            arguments.out,
            arguments.engine,
            arguments.workers,
            arguments.ray_address,
            arguments.overwrite,
            show_progress=True,
        )
    except KeyboardInterrupt as stopped:
        print(one_line(str(stopped)), file=sys.stderr)
        return STOPPED
    earlier = report.images - report.scored
    print(
        f"{count(report.images, 'image')} in {one_line(arguments.out)}"
        f"{f' ({earlier:,} of them from before)' if earlier else ''}: {report.failed:,} failed, "
        f"{report.unlike:,} unlike the images the model knows, {report.seconds:,.1f} s, "
        f"{report.rate:,.1f} images per second. {DISCLAIMER}"
    )
    return 2 if report.failed else 0
