"""What the commands of `train` share."""

import functools
import sys
from collections.abc import Callable, Sequence

from blastlens.errors import BlastlensError


def reports_errors(main: Callable[[Sequence[str] | None], int]) -> Callable[..., int]:
    """Make a command print the message of a `BlastlensError`, and return 2."""

    @functools.wraps(main)
    def command(argv: Sequence[str] | None = None) -> int:
        try:
            return main(argv)
        except BlastlensError as error:
            print(error, file=sys.stderr)
            return 2

    return command
