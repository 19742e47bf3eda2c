"""Tables as CSV for spreadsheets, in which names from untrusted files are never run as formulas."""

import csv
import io
import math
from collections.abc import Iterable, Mapping
from itertools import chain

# What Excel, LibreOffice or Google Sheets take for the start of a formula, or skip before one; the last four are the
# wide forms of the first four.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_csv(rows: Iterable[Mapping[str, object]], line_end: str = "\r\n") -> str:
    """A table with a header line, as RFC 4180 has it: commas, CRLF, and every text in quotes.

    A text that would be run as a formula gets a leading apostrophe; numbers stay numbers; True is "yes", False "no",
    None and NaN are empty. Columns are those of the first row; another row with other columns is a ValueError.
    Written with the encoding "utf-8-sig", Excel reads it too.
    """
    rows = iter(rows)
    first = next(rows, None)
    if first is None:
        return ""
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_NONNUMERIC, lineterminator=line_end)
    columns = list(first)
    writer.writerow(cell(column) for column in columns)
    for row in chain([first], rows):
        if row.keys() != first.keys():
            raise ValueError(f"expected the columns {columns}, got {list(row)}")
        writer.writerow(cell(row[column]) for column in columns)
    return out.getvalue()


def cell(value: object) -> str | int | float:
    """One value as it stands in a table."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return value if math.isfinite(value) else ""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
