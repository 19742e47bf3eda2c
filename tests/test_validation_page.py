"""The tab "Validate on your data" in a browser: from a zip to a report that stands alone."""

import re
import time

import pytest
from test_validation_tab import SLIDES, zip_of

from blastlens.ui import validation

TAB = "/?tab=slides"


def open_panel(one):
    one.page.get_by_role("tab", name="Validate on your data", selected=True).wait_for()
    return one.page.get_by_role("tabpanel").and_(one.page.locator(":visible"))


def with_findings(visit, tmp_path, names=SLIDES, **how):
    """A visit on which a zip of these names was tested."""
    one = visit(TAB, **how)
    zip_of(tmp_path / "slides.zip", names)
    panel = open_panel(one)
    panel.locator("input[type=file]").set_input_files(tmp_path / "slides.zip")
    panel.get_by_role("button", name="Validate", exact=True).click()
    panel.locator(".report").wait_for()
    # A button that has just been enabled is pale for a moment, which is no lack of contrast.
    panel.locator("button.primary:enabled", has_text="Validate").wait_for()
    one.page.wait_for_function("!document.getAnimations().some(one => one instanceof CSSTransition)")
    return one, panel


def test_a_zip_becomes_figures_and_a_report_that_asks_for_nothing(visit, tmp_path, browser):
    one, panel = with_findings(visit, tmp_path, [*SLIDES, "odd/<b>.png"])
    assert "12 labelled images, 6 subjects" in panel.inner_text()
    assert "Folder odd (1 image) is named like none" in panel.inner_text()
    headline = panel.locator(".verdict-card h2").inner_text()
    with one.page.expect_download() as download:
        panel.get_by_role("link", name="Download this report").click()
    assert re.fullmatch(r"blastlens-tiny-cell-\d{4}-\d\d-\d\d\.html", download.value.suggested_filename)
    download.value.save_as(tmp_path / "report.html")
    report = browser.new_context().new_page()
    asked, said = [], []
    report.on("request", lambda request: asked.append(request.url))
    report.on("console", lambda message: said.append(message.text))
    report.goto((tmp_path / "report.html").as_uri())
    assert report.locator(".verdict-card h2").inner_text() == headline
    assert "Research demonstration, not a medical device." in report.inner_text("body")
    assert report.locator("b", has_text="<b>").count() == 0
    assert (asked, said) == ([(tmp_path / "report.html").as_uri()], [])


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_findings_fit_the_screen_and_can_be_used_by_everybody(visit, tmp_path, width, dark):
    one, panel = with_findings(visit, tmp_path, width=width, dark=dark)
    assert one.fits()
    assert one.barriers() == []
    assert panel.locator(".report").is_visible()


def test_a_running_test_can_be_cancelled_and_started_again(visit, tmp_path, monkeypatch):
    at_full_speed = validation.measure

    def slowly(*given, **options):
        for outcome in at_full_speed(*given, **options):
            time.sleep(0.2)
            yield outcome

    monkeypatch.setattr(validation, "measure", slowly)
    monkeypatch.setattr(validation, "UPDATE_S", 0)  # as much progress as can come too late
    one = visit(TAB)
    zip_of(tmp_path / "many.zip", [f"{label}/p{n % 9}/{n}.png" for label in ("ALL", "HEM") for n in range(100)])
    panel = open_panel(one)
    panel.locator("input[type=file]").set_input_files(tmp_path / "many.zip")
    panel.get_by_role("button", name="Validate", exact=True).click()
    panel.locator("progress").wait_for()
    panel.get_by_role("button", name="Cancel").click()
    panel.get_by_text("Cancelled; nothing was kept.").wait_for()
    assert panel.locator("progress, .report").count() == 0
    assert panel.get_by_role("button", name="Validate", exact=True).is_enabled()
    assert panel.get_by_role("button", name="Cancel").is_disabled()
    monkeypatch.setattr(validation, "measure", at_full_speed)
    panel.get_by_role("button", name="Validate", exact=True).click()
    panel.locator(".report").wait_for()
    assert panel.get_by_text("Cancelled; nothing was kept.").count() == 0
