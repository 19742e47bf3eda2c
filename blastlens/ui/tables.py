"""Tables as HTML that are sorted and turned over on the server, so that thousands of rows weigh a page's worth.

Every button in a table carries the view it leads to; `RESORT` hands that back as the value of a select event.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape
from operator import itemgetter
from typing import Generic, TypeVar

from ..image_sources import natural

ROWS_A_PAGE = 25
T = TypeVar("T")

# A button that was pressed keeps the keyboard's focus when the table comes back; at the last page, where "Next" can
# have none, it goes to the button beside it.
RESORT = """let pressed = "";
element.addEventListener("click", event => {
  const button = event.target.closest("button[data-value]");
  if (!button) return;
  pressed = button.dataset.key;
  trigger("select", {value: button.dataset.value});
});
watch("value", () => {
  const button = pressed && element.querySelector(`button[data-key="${pressed}"]`);
  if (button) (button.disabled ? button.parentElement.querySelector("button:enabled") : button)?.focus();
  pressed = "";
})"""


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of rows T.

    Attributes:
        key: letters and digits, unlike the other columns'.
        title: its header.
        value: what rows are sorted by: a number, a text, or None, which always comes last.
        html: what a cell shows.
        number: shown to the right, and sorted from the highest down at first.
    """

    key: str
    title: str
    value: Callable[[T], float | str | None]
    html: Callable[[T], str]
    number: bool = False


@dataclass(frozen=True)
class TableView:
    """Which part of a table is shown: sorted by the column `key` ("" leaves the order), and which page, from 0."""

    key: str = ""
    descending: bool = False
    page: int = 0

    def __str__(self) -> str:
        return f"{self.key}/{'down' if self.descending else 'up'}/{self.page}"

    @classmethod
    def parse(cls, text: object) -> "TableView":
        """The view a button stands for; anything that is no view is the first one."""
        found = re.fullmatch(r"([^/]*)/(up|down)/([0-9]{1,9})", str(text))
        return cls(found[1], found[2] == "down", int(found[3])) if found else cls()


def table(rows: Sequence[T], columns: Sequence[Column[T]], view: TableView, caption: str) -> str:
    """HTML of one page of a table; a view that leads beyond it shows the nearest there is."""
    pages = max(1, math.ceil(len(rows) / ROWS_A_PAGE))
    view = replace(view, page=min(view.page, pages - 1))
    start = view.page * ROWS_A_PAGE
    shown = arranged(rows, columns, view)[start : start + ROWS_A_PAGE]
    head = "".join(_header(column, view) for column in columns)
    body = "".join(f"<tr>{''.join(_cell(column, row) for column in columns)}</tr>" for row in shown)
    return (
        f'<div class="sheet" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table><caption class="unseen">{escape(caption)}, sortable by its headers</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{_turner(len(rows), pages, view)}"
    )


def arranged(rows: Sequence[T], columns: Sequence[Column[T]], view: TableView) -> list[T]:
    """The rows in the order of a view; equal ones keep theirs, and those without a value come last both ways."""
    column = next((column for column in columns if column.key == view.key), None)
    if column is None:
        return list(rows)
    there, absent = [], []
    for row in rows:
        value = column.value(row)
        if value is None or value != value:  # NaN
            absent.append(row)
        else:
            there.append((natural(value) if isinstance(value, str) else value, row))
    there.sort(key=itemgetter(0), reverse=view.descending)
    return [row for _, row in there] + absent


def _header(column: Column[T], view: TableView) -> str:
    current = column.key == view.key
    following = TableView(column.key, descending=not view.descending if current else column.number)
    direction = "descending" if view.descending else "ascending"
    arrow = ("▼" if view.descending else "▲") if current else "↕"
    return (
        f'<th scope="col"{f" aria-sort={direction}" if current else ""}{_number(column)}>'
        f'<button type="button" data-key="{column.key}" data-value="{following}">{escape(column.title)}'
        f'<span aria-hidden="true">{arrow}</span></button></th>'
    )


def _cell(column: Column[T], row: T) -> str:
    return f"<td{_number(column)}>{column.html(row)}</td>"


def _number(column: Column[T]) -> str:
    return ' class="number"' if column.number else ""


def _turner(count: int, pages: int, view: TableView) -> str:
    if pages == 1:
        return ""
    start = view.page * ROWS_A_PAGE
    buttons = "".join(
        f'<button type="button" data-key="{name}" data-value="{replace(view, page=max(0, page))}"'
        f"{'' if 0 <= page < pages else ' disabled'}>{name}</button>"
        for name, page in (("Previous", view.page - 1), ("Next", view.page + 1))
    )
    told = f"Rows {start + 1:,} to {min(start + ROWS_A_PAGE, count):,} of {count:,}"
    return f'<nav class="turner" aria-label="Pages of the table"><span>{told}</span>{buttons}</nav>'
