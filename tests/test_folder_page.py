"""The tab of many images in Chromium: a run with a broken image, a run that is stopped, and examples."""

import csv
import io
import zipfile

import pytest
from helpers_models import blobs
from PIL import Image

from blastlens.synthetic_images import synthetic_image

FOLDER = "/?tab=folder"


def encoded(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def patients(tmp_path_factory):
    """29 images of three patients and a broken one."""
    path = tmp_path_factory.mktemp("zips") / "patients.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(29):
            subject = ("5", "12", "H3")[number % 3]
            archive.writestr(f"UID_{subject}_{number}_1_all.png", encoded(synthetic_image("ALL", number)))
        archive.writestr("UID_5_99_1_all.png", b"no pixels")
    return path


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """4,000 small images: a run of some seconds."""
    path = tmp_path_factory.mktemp("zips") / "many.zip"
    image = encoded(Image.fromarray(blobs(0, 32, 32)))
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(4000):
            archive.writestr(f"{number}.png", image)
    return path


def start(page, *files):
    page.locator(".many-files input[type=file]").first.set_input_files(files)
    page.locator(".many-files .file-preview").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()


def column(page, table, place):
    """The texts of one column of a table, as far as it is in view."""
    cells = page.locator(f".{table} [role=gridcell][aria-colindex='{place}']")
    cells.first.wait_for()
    return [text.strip() for text in cells.all_inner_texts()]


def download(page, name):
    with page.expect_download() as waiting:
        page.get_by_role("button", name=name).click()
    with open(waiting.value.path(), encoding="utf-8-sig", newline="") as file:
        return waiting.value.suggested_filename, list(csv.DictReader(file))


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_a_folder_with_a_broken_image_is_answered_and_summed_up(visit, patients, width, dark):
    visited = visit(FOLDER, width=width, dark=dark)
    page = visited.page
    start(page, patients)
    page.get_by_text("Done: 30 images").wait_for()
    assert "UID_5_99_1_all.png is not an image that can be read" in page.locator(".failures li").inner_text()
    assert column(page, "patients", 1) == ["5", "12", "H3"]
    assert column(page, "patients", 2) == ["10", "10", "9"]
    name, rows = download(page, "Images as CSV")
    assert name == "blastlens-images.csv" and len(rows) == 30
    assert [row["file"] for row in rows if row["reason"]] == ["UID_5_99_1_all.png"]
    name, rows = download(page, "Patients as CSV")
    assert name == "blastlens-patients.csv" and [row["images"] for row in rows] == ["10", "10", "9"]
    assert visited.fits()
    assert visited.barriers() == []
    table, last, cell = (
        page.locator(f".patients {part}") for part in (".virtual-table-viewport", "th", "[role=gridcell]")
    )
    last.last.scroll_into_view_if_needed()
    assert cell.first.bounding_box()["x"] >= table.bounding_box()["x"] - 1  # the patient stays in view


def test_cancel_stops_a_run_and_keeps_what_was_done(visit, many):
    page = visit(FOLDER).page
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    assert cancel.is_disabled()
    start(page, many)
    page.get_by_text("left", exact=False).and_(page.locator("[role=status]")).wait_for()
    cancel.click()
    headline = page.locator(".headline")
    headline.wait_for()
    done = int(headline.inner_text().split(" of ")[0].removeprefix("Stopped after ").replace(",", ""))
    assert 0 < done < 4000
    assert cancel.is_disabled()
    _, rows = download(page, "Images as CSV")
    assert len(rows) == done
    page.get_by_role("button", name="Run", exact=True).click()  # and another can begin
    page.locator("progress").wait_for()
    cancel.click()
    headline.wait_for()


def test_files_are_added_to_those_there_and_nothing_at_all_is_refused(visit, tmp_path):
    page = visit(FOLDER).page
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("alert").get_by_text("There are no images yet").wait_for()
    for number in range(3):
        synthetic_image("HEM", number).save(tmp_path / f"{number}.png")
    page.locator(".many-files input[type=file]").first.set_input_files([tmp_path / "0.png", tmp_path / "1.png"])
    page.locator(".many-files .file-preview").wait_for()
    with page.expect_file_chooser() as waiting:
        page.get_by_role("button", name="Add files").click()
    waiting.value.set_files([tmp_path / "2.png"])
    page.locator(".many-files .file-preview").get_by_text("2").first.wait_for()
    with page.expect_file_chooser() as waiting:
        page.get_by_role("button", name="Add a folder").click()
    waiting.value.set_files(tmp_path)
    page.locator(".many-files .file-preview tr").nth(5).wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Done: 6 images").wait_for()
    assert column(page, "patients", 1) == ["not named"]


def test_synthetic_examples_can_be_tried(visit):
    page = visit(FOLDER).page
    page.get_by_role("button", name="Try examples").click()
    page.locator(".many-files .file-preview").wait_for()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text("Done: 24 images").wait_for()
    assert column(page, "patients", 1)[-1] == "made-up 4"
