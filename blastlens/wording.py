"""Numbers and lists in sentences, as plain text."""

from collections.abc import Sequence


def count(number: int, one: str, several: str = "") -> str:
    """A number with its noun; the plural `several` is `one` with an s unless given.

    >>> count(1, "image"), count(2000, "image"), count(0, "body", "bodies")
    ('1 image', '2,000 images', '0 bodies')
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def duration(seconds: float) -> str:
    """A time in words.

    >>> duration(0.42), duration(20), duration(120)
    ('0.4 s', '20 s', '2 minutes')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    return f"{seconds:.0f} s" if seconds < 120 else count(round(seconds / 60), "minute")


def percent(share: float, decimals: int = 0) -> str:
    """A share of 0 to 1.

    >>> percent(0.845), percent(0.845, decimals=1)
    ('84 %', '84.5 %')
    """
    return f"{100 * share:.{decimals}f} %"


def listed(names: Sequence[str], word: str = "or") -> str:
    """Names in a row; at least one.

    >>> listed(["ALL"]), listed(["Early", "Pre", "Pro"], "and")
    ('ALL', 'Early, Pre and Pro')
    """
    return f" {word} ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]


def printable(name: str) -> str:
    """Without characters that hide what a name is, such as line breaks and marks that turn the text around."""
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name)
