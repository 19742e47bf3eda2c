"""Reliability and out-of-distribution detection in Chromium, with models that reject each other's images."""

import re
import shutil

import pytest
from helpers_files import encoded
from helpers_models import bundled_record, shared_model_folder, write_json, write_record
from helpers_page import launched

from blastlens.synthetic_images import synthetic_image

# Cells lie on black, fields do not: enough to tell them apart by.
BLACK = {"cell": (0.3, 1.0), "field": (-0.1, 0.2)}


@pytest.fixture(scope="module")
def demo_address(tmp_path_factory):
    """The page with throw-away models that have OOD detection and the figures of the bundled models."""
    root, folders = tmp_path_factory.mktemp("models"), []
    for kind, (low, high) in BLACK.items():
        folder = write_record(shutil.copytree(shared_model_folder(kind), root / f"tiny-{kind}"), kind)
        range_ = {"low": low, "high": high, "meaning": "share of black pixels"}
        measured = bundled_record(kind, "gate.json")["measured"]
        gate = {"schema": 1, "images": f"{kind}s", "statistics": {"black": range_}, "measured": measured}
        write_json(folder / "gate.json", gate)
        folders.append(folder)
    with launched(*folders) as (_, address):
        yield address


def answered(page):
    page.locator(".notes", has_text="Predicted in").wait_for()


@pytest.mark.parametrize("width", [1280, 390])
def test_the_tab_fits_is_accessible_and_follows_the_model(visit, width):
    opened = visit("/?tab=trust", width=width, dark=width == 390)
    page = opened.page
    page.get_by_role("tab", name="Reliability", exact=True, selected=True).wait_for()
    page.locator(".reliability-summary").wait_for()
    assert opened.fits() and opened.barriers() == []
    panel = page.locator("[role=tabpanel]:visible")
    for title in ("Robustness to corruptions", "Patients"):
        panel.get_by_role("button", name=title).click()
    panel.get_by_role("columnheader", name="mean probability of leukemia").wait_for()
    assert opened.fits() and opened.barriers() == []
    page.get_by_role("radio", name=re.compile("Smear field")).check()
    panel.locator("h2", has_text="tiny-field").wait_for()
    panel.get_by_role("button", name="Patients").wait_for(state="hidden")


def test_a_corruption_is_chosen_by_a_link_or_by_keyboard(visit):
    page = visit("/?change=motion_blur&level=10").page
    answered(page)
    picker = page.get_by_label("Corruption", exact=True)
    assert picker.input_value() == "Motion blur"
    picker.focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("JPEG")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("change=jpeg"))
    assert picker.input_value().startswith("JPEG")


@pytest.mark.parametrize("width", [1280, 390])
def test_a_cell_given_to_the_field_model_is_opened_in_the_right_one_by_one_click(visit, width):
    opened = visit("/?model=tiny-field", width=width, dark=width == 390)
    page = opened.page
    answered(page)
    file = {"name": "mine.png", "mimeType": "image/png", "buffer": encoded(synthetic_image("ALL", 41))}
    page.locator(".given input[type=file]").set_input_files(file)
    button = page.get_by_role("button", name=re.compile(r"open in Single cell"))
    button.wait_for()
    assert page.locator(".notes .decision").count() == 0  # the figures do not hold for a rejected image
    assert opened.fits() and opened.barriers() == []
    button.click()
    page.wait_for_url(re.compile("model=tiny-cell"))
    assert page.get_by_role("radio", name=re.compile("Single cell")).is_checked()
    decision = page.locator(".notes .decision")
    decision.wait_for()
    assert "Not ruled out at 90 %" in decision.inner_text() and "Operating point" in decision.inner_text()
    assert "looks like the training images" in page.locator(".notes .fits").inner_text()
    assert opened.fits() and opened.barriers() == []
