"""The page in Chromium, as a visitor meets it: every test fails on a console error or a request that leaves."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from helpers_files import encoded, picture
from PIL import Image

from blastlens.synthetic_images import synthetic_image
from blastlens.ui.links import TABS


def query(page):
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def answered(page):
    """Wait for an answer with its curve."""
    page.locator(".notes", has_text="Predicted in").wait_for()
    page.locator(".chart polyline").first.wait_for(state="attached")


def caption(page):
    return page.locator(".picture figcaption").first.inner_text()


def sides(page):
    """Sources of what the model sees: changed, and clean where they differ."""
    return [image.get_attribute("src") for image in page.locator(".picture").first.locator("img").all()]


def slide(page, share, release=True):
    """Drag the slider's thumb to a share of its track."""
    page.locator(".level").scroll_into_view_if_needed()
    box = page.locator(".level input[type=range]").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2, steps=8)
    if release:
        page.mouse.up()


def drop(page, selector, name, data, kind="image/png"):
    """Drop a file onto an element, as a file manager does."""
    transfer = page.evaluate_handle(
        """([name, bytes, type]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name, {type}));
          return transfer;
        }""",
        [name, list(data), kind],
    )
    page.dispatch_event(selector, "drop", {"dataTransfer": transfer})


def test_the_first_screen_shows_image_prediction_and_slider(visit):
    page = visit().page
    answered(page)
    for selector in (".picture", ".verdict", ".level input[type=range]"):
        box = page.locator(selector).first.bounding_box()
        assert box["y"] + box["height"] <= 800, selector
    assert "unchanged" in caption(page)
    assert "not a medical device" in page.locator(".disclaimer").inner_text()
    page.locator(".examples button").nth(1).click()
    page.wait_for_url(re.compile("image=drawn-HEM-1"))
    assert re.search(r"\d+ ?%", page.locator(".verdict").inner_text())
    assert re.search(r"Drawn as HEM; the model is (right|wrong) here", page.locator(".notes").inner_text())


def test_dragging_previews_the_noise_and_releasing_predicts(visit):
    page = visit().page
    answered(page)
    page.evaluate(
        """() => new MutationObserver(() => {
          if (document.querySelector(".verdict [data-testid=status-tracker]:not(.hide)")) window.pending = true;
        }).observe(document.querySelector(".verdict"), {subtree: true, attributes: true, childList: true})"""
    )
    slide(page, 0.6, release=False)
    page.locator(".pair").wait_for()
    changed, clean = sides(page)
    assert changed != clean
    assert query(page)["level"] == "0"  # not released: no prediction yet
    page.mouse.up()
    page.wait_for_url(re.compile(r"level=[1-9]"))
    assert page.evaluate("window.pending")  # a loading state was visible
    level = float(query(page)["level"])
    assert 50 < level < 70
    assert f"noise {level:g}" in caption(page)
    assert page.locator(".chart .now text").text_content() == "now"
    before = page.locator(".pair .clean").evaluate("e => getComputedStyle(e).clipPath")
    page.locator(".pair input").focus()
    page.keyboard.press("Home")
    assert page.locator(".pair .clean").evaluate("e => getComputedStyle(e).clipPath") != before


def test_keys_on_the_slider_are_releases_too_and_none_is_lost(visit):
    page = visit().page
    answered(page)
    for _ in range(6):
        page.locator(".level input[type=range]").press("ArrowRight")
    page.wait_for_url(re.compile(r"level=6&"))
    page.locator(".picture figcaption", has_text="noise 6.").wait_for()
    for number in (1, 3, 2):
        page.locator(".examples button").nth(number).click()
    page.wait_for_url(re.compile(r"image=drawn-ALL-2"))


def choose(page, label, option):
    """Choose an option of a dropdown."""
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=option).first.click()


def test_reference_levels_set_the_slider_and_another_corruption_starts_from_nothing(visit):
    page = visit().page
    answered(page)
    choose(page, "Set to a reference level", "45.9: ImageNet-C severity 3")
    page.wait_for_url(re.compile(r"level=45\.9"))
    assert page.locator(".level input[type=number]").input_value() == "45.9"
    choose(page, "Corruption", "Stain hue")
    page.wait_for_url(re.compile(r"change=hue"))
    page.locator(".picture figcaption", has_text="unchanged").wait_for()
    slide(page, 0.9)
    page.wait_for_url(re.compile(r"level=[1-9]"))
    assert "stain hue" in caption(page)


def test_an_image_can_be_removed_and_dropped_on_a_phone(visit):
    opened = visit(width=390)
    page = opened.page
    answered(page)
    before = sides(page)
    page.get_by_label("Remove Image").click()
    page.locator(".nothing", has_text="Upload or paste").wait_for()
    page.locator(".nothing", has_text="Prediction by level").wait_for()
    assert opened.fits()
    drop(page, ".given button[aria-dropeffect=copy]", "mine.png", encoded(synthetic_image("HEM", 40)))
    answered(page)
    assert sides(page) != before
    assert "image" not in query(page)  # an own image is never part of the link


def test_an_image_can_be_pasted_by_keys_and_by_button(visit):
    page = visit().page
    answered(page)
    for number, paste in enumerate(
        (lambda: page.keyboard.press("Control+v"), page.get_by_label("Paste from clipboard").click)
    ):
        before = sides(page)
        page.evaluate(
            """async bytes => navigator.clipboard.write(
              [new ClipboardItem({"image/png": new Blob([new Uint8Array(bytes)], {type: "image/png"})})])""",
            list(encoded(synthetic_image("ALL", 41 + number))),
        )
        paste()
        page.wait_for_function(
            "src => ![undefined, src].includes(document.querySelector('.view .picture img')?.src)", arg=before[0]
        )


def test_a_bad_file_gets_one_sentence_and_a_grey_picture_a_warning(visit, tmp_path):
    page = visit().page
    answered(page)
    (tmp_path / "broken.png").write_bytes(encoded(synthetic_image("ALL", 1))[:900])
    page.locator(".given input[type=file]").set_input_files(tmp_path / "broken.png")
    alert = page.locator(".notes .error")
    alert.wait_for()
    assert "broken.png" in alert.inner_text()
    page.get_by_label("Remove Image").click()
    Image.fromarray(picture()).convert("L").save(tmp_path / "grey.png")
    page.locator(".given input[type=file]").set_input_files(tmp_path / "grey.png")
    page.locator(".notes .warning", has_text="no colour").wait_for()


def test_an_explanation_opens_on_a_tap(visit):
    page = visit("/?tab=compared", width=390).page
    word = page.locator("[role=tabpanel]:visible .term").first
    word.wait_for()
    assert word.evaluate("e => getComputedStyle(e, '::after').content") == "none"
    word.tap()
    assert len(word.evaluate("e => getComputedStyle(e, '::after').content")) > 20


def test_another_model_brings_its_own_examples(visit):
    page = visit().page
    answered(page)
    page.get_by_role("radio", name=re.compile("Smear field")).check()
    page.wait_for_url(re.compile("model=tiny-field"))
    page.locator(".verdict", has_text="Benign").wait_for()
    page.locator(".examples button", has_text="Pro").wait_for()


def test_a_link_restores_model_example_change_level_and_seed(visit):
    link = "/?model=tiny-field&image=drawn-Pre-1&change=blur&level=2.5&seed=7"
    page = visit(link).page
    answered(page)
    assert page.get_by_role("radio", name=re.compile("Smear field")).is_checked()
    assert "blur 2.5 px" in caption(page)
    assert query(page)["seed"] == "7"
    one = visit("/" + page.locator(".share a").get_attribute("href")).page
    answered(one)
    assert sides(one) == sides(page)
    assert one.locator(".verdict").inner_text() == page.locator(".verdict").inner_text()


def test_a_link_that_cannot_be_followed_says_so_and_shows_the_rest(visit):
    page = visit("/?model=%3Cimg%20src=x%20onerror=alert(1)%3E&image=nowhere&level=4000&seed=-3").page
    answered(page)
    told = " ".join(page.locator(".toast-body").all_inner_texts())
    for part in ("not on offer", "not here", "0 to 100", "seed"):
        assert part in told


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_each_tab_fits_has_no_barrier_and_is_named_in_the_address(visit, width, dark):
    opened = visit(width=width, dark=dark)
    page = opened.page
    answered(page)
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", colour)[:3])) < 200) == dark
    for name, title in TABS.items():
        opened.tab(title)
        page.wait_for_timeout(300)
        assert opened.fits(), title
        assert opened.barriers() == [], title
        assert query(page)["tab"] == name


def test_code_can_be_copied_and_follows_the_model(visit):
    page = visit("/?tab=code").page
    curl = page.locator(".snippets .code_wrap", has_text="/call/v2/classify")
    for model in ("tiny-cell", "tiny-field"):
        curl.filter(has_text=model).get_by_title("copy").click()
        copied = page.evaluate("navigator.clipboard.readText()")
        assert "/call/v2/classify" in copied and model in copied
        assert page.url.partition("/?")[0] in copied  # the address of the page that is open
        page.get_by_role("radio", name=re.compile("Smear field")).check()
