"""The About tab: limits in the model's own figures, credits, and the words of the page."""

import html
import re
import xml.etree.ElementTree as ElementTree

import pytest
import yaml
from helpers_models import shared_model_folder

from blastlens.classifier import DISCLAIMER
from blastlens.model_folder import ModelFolder, bundled_root
from blastlens.published_systems import RECORD, Comparison
from blastlens.ui.about import about_html
from blastlens.ui.words import MEANINGS, TASKS, term

CELLS, FIELDS = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"


@pytest.fixture(scope="module")
def folders() -> dict[str, ModelFolder]:
    return {name: ModelFolder.load(bundled_root() / name, name) for name in (CELLS, FIELDS)}


def page(chosen: ModelFolder, *folders: ModelFolder, record: Comparison | None) -> str:
    markup = about_html(chosen, folders, record)
    ElementTree.fromstring(markup)
    plain = re.sub(r"</?a\b[^>]*>", "", markup)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", plain)).split())


def test_it_says_what_it_is_not_for_and_what_becomes_of_images(folders):
    text = page(folders[CELLS], *folders.values(), record=Comparison.load())
    assert DISCLAIMER in text
    for part in ("ruling disease out", "deleted within the hour", "loads nothing from elsewhere", "Apache-2.0"):
        assert part in text


def test_the_limits_of_cells_are_the_models_own_figures(folders):
    protocol = folders[CELLS].metrics["protocols"][0]
    text = page(folders[CELLS], record=None)
    score = protocol["by_sigma"][0]["donors"]["auroc_per_donor"]
    assert f"AUROC per donor is {score['value']:.2f} (95 % interval {score['low']:.2f} to {score['high']:.2f}" in text
    healthy = [group for group in protocol["per_group"] if group["label"] == "HEM"]
    worst = min(healthy, key=lambda group: group["accuracy"])
    assert f"{worst['group']} it called only {worst['accuracy']:.0%} healthy" in text
    assert f"{len(healthy)} groups" in text and "under several names" in text


def test_smear_fields_cannot_show_that_a_model_knows_leukemia(folders):
    record = Comparison.load()
    text = page(folders[FIELDS], record=record)
    (score,) = record.datasets["aria2021"].without_network.values()
    assert "cannot show that a model knows leukemia" in text
    assert f"colour histogram alone, without any network, reaches {score.value:.2f}" in text
    assert "Healthy donors" not in text
    assert "cannot show that a model knows leukemia" not in page(folders[CELLS], record=record)


def test_data_sets_and_all_papers_are_credited(folders):
    text = page(folders[CELLS], *folders.values(), record=Comparison.load())
    for task in TASKS.values():
        assert task.credit in text
    papers = yaml.safe_load((RECORD.parent / "published.yaml").read_text(encoding="utf-8"))["papers"]
    assert len(papers) == 5
    for paper in papers.values():
        assert " ".join(paper["citation"].split()) in text


def test_a_model_without_figures_and_a_page_without_results_say_so():
    folder = ModelFolder.load(shared_model_folder("field"))
    text = page(folder, folder, record=None)
    assert "its answers mean nothing" in text and "came without that record" in text


def test_what_has_a_doi_can_be_followed(folders):
    markup = about_html(folders[CELLS], list(folders.values()), Comparison.load())
    links = re.findall(r'<a href="https://doi.org/([^"]*)">doi ([^<]*)</a>', markup)
    assert all(address == shown for address, shown in links)
    assert {address for address, _ in links} == {
        "10.7937/tcia.2019.dc64i46r",
        "10.34740/kaggle/dsv/2175623",
        "10.3389/frai.2025.1620252",
        "10.1016/j.compbiomed.2022.105894",
    }


def test_the_words_of_the_page_are_explained_in_one_go_as_they_are_on_hover(folders):
    markup = about_html(folders[CELLS], [], None)
    told = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", markup)
    assert {html.unescape(word): html.unescape(meaning) for word, meaning in told} == MEANINGS
    assert len(told) == len(MEANINGS)
    hover = ElementTree.fromstring(term("leak"))
    assert hover.get("data-meaning") == MEANINGS["leak"] and hover.text == "leak"
    assert ElementTree.fromstring(term("leak", "of water")).get("data-meaning") == "of water"
    with pytest.raises(KeyError):
        term("a word nobody explains")
