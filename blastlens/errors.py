"""The one exception type that blastlens raises for a bad input."""


class BlastlensError(Exception):
    """A bad input: an image, a model folder, a name or a number that cannot be used.

    The message is one sentence for the user who gave it: which file or value, what is wrong with it, and
    what would be accepted.
    """
