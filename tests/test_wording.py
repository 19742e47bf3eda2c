"""Counts, times, shares and lists as sentences have them."""

import pytest

from blastlens.wording import count, duration, listed, percent


def test_counts_agree_with_their_word():
    assert [count(n, "image") for n in (0, 1, 2, 2000)] == ["0 images", "1 image", "2 images", "2,000 images"]
    assert count(1, "person", "people") == "1 person" and count(3, "person", "people") == "3 people"


@pytest.mark.parametrize(
    ("seconds", "told"), [(0.42, "0.4 s"), (9.94, "9.9 s"), (20.4, "20 s"), (119, "119 s"), (120, "2 minutes")]
)
def test_a_time_is_told_as_short_as_it_can_be(seconds, told):
    assert duration(seconds) == told


def test_shares_are_percentages():
    assert (percent(0.846), percent(0.846, decimals=1), percent(1)) == ("85 %", "84.6 %", "100 %")


def test_names_in_a_row_end_with_a_word():
    assert [listed("A"), listed("AB"), listed("ABC", "and")] == ["A", "A or B", "A, B and C"]
