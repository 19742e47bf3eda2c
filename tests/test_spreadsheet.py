"""CSV for spreadsheets: nothing runs, nothing breaks, numbers stay numbers."""

import csv
import io

import pytest

from blastlens.spreadsheet import to_csv


def read(text):
    return list(csv.reader(io.StringIO(text, newline="")))


def test_the_text_is_exactly_rfc_4180_with_texts_in_quotes():
    rows = [{"file": 'a "b",c\r\nd', "p": 0.25, "n": 3, "ok": True, "no": None, "nan": float("nan")}]
    assert to_csv(rows) == ('"file","p","n","ok","no","nan"\r\n"a ""b"",c\r\nd",0.25,3,"yes","",""\r\n')


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_a_name_that_a_spreadsheet_would_run_becomes_plain_text(start):
    name = f'{start}HYPERLINK("http://x","y")'
    assert read(to_csv([{"file": name, name: 1}])) == [["file", f"'{name}"], [f"'{name}", "1"]]


def test_negative_numbers_are_numbers_and_negative_looking_texts_are_texts():
    assert read(to_csv([{"a": -1.5, "b": -2, "c": "-3"}]))[1] == ["-1.5", "-2", "'-3"]


def test_a_table_without_rows_is_empty_and_rows_must_agree():
    assert to_csv([]) == ""
    with pytest.raises(ValueError, match="expected the columns"):
        to_csv([{"a": 1}, {"b": 2}])
