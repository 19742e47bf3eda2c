"""Which of our models to take: what the table says follows from the models' own records."""

import dataclasses
import re

import pytest

from train.pareto import FIGURE, PAGE, Version, figure, in_front, page, versions
from train.readme import ROOT, bundled_records

ONE = Version("one", "fp32", "cells", 0.85, "", "", 6.0, 12.8)


def test_the_page_and_its_figure_are_what_the_models_records_say():
    assert (ROOT / PAGE).read_text() == page(bundled_records())
    assert (ROOT / FIGURE).read_text() == figure(bundled_records())


def test_every_bundled_model_has_a_row_for_each_of_its_files():
    text = (ROOT / PAGE).read_text()
    for record in bundled_records():
        for precision in ("fp32", "int8"):
            megabytes = (ROOT / "models" / record["model"] / "onnx").joinpath(
                {"fp32": "model.onnx", "int8": "model_int8.onnx"}[precision]
            )
            (row,) = re.findall(rf"^\| \[{record['model']}\].*\| {precision} \|.*$", text, re.MULTILINE)
            assert f"| {megabytes.stat().st_size / 1e6:.1f} |" in row
            assert f"{record['latency_ms'][precision]:.1f}" in row


def test_int8_says_how_far_it_is_from_fp32():
    (record, *_) = bundled_records()
    fp32, int8 = versions([record])
    assert fp32.score == record["protocols"][0]["by_sigma"][0]["weighted_f1"]["value"]
    assert int8.score == record["int8"]["weighted_f1_int8"] and "points of fp32" in int8.told


@pytest.mark.parametrize(
    ("change", "leads"),
    [
        ({}, True),  # the same in every way takes nothing away
        ({"score": 0.86, "ms": 5.0, "mb": 10.0}, False),
        ({"score": 0.85, "ms": 5.0, "mb": 12.8}, False),
        ({"score": 0.86, "ms": 5.0, "mb": 13.0}, True),
        ({"score": 0.84, "ms": 1.0, "mb": 1.0}, True),
        ({"score": 0.86, "ms": 5.0, "mb": 10.0, "dataset": "fields"}, True),
    ],
)
def test_a_file_is_in_front_unless_another_of_its_data_set_is_better_all_round(change, leads):
    assert in_front(ONE, [ONE, dataclasses.replace(ONE, model="other", **change)]) is leads
