"""The "About" tab: limits in the model's own figures, credits, and a glossary."""

import re
from html import unescape

import pytest
from helpers_models import shared_model_folder

from blastlens.dataset_info import DATASETS
from blastlens.model_folder import ModelFolder, bundled_models, bundled_root
from blastlens.predictions import DISCLAIMER
from blastlens.published_systems import Comparison
from blastlens.ui.about import about_html
from blastlens.ui.words import MEANINGS, model_choice, term

CELLS, FIELDS = "mobilenetv1-cnmc2019", "mobilenetv2-aria2021"


@pytest.fixture(scope="module")
def folders():
    return {name: ModelFolder.load(bundled_root() / name, name) for name in (CELLS, FIELDS)}


def test_the_limits_are_the_figures_of_the_chosen_model(folders):
    protocol = folders[CELLS].metrics["protocols"][0]
    text = " ".join(about_html(folders[CELLS], [], None).split())
    score = protocol["by_sigma"][0]["donors"]["auroc_per_donor"]
    assert f"AUROC per donor is {score['value']:.2f} (95 % interval {score['low']:.2f} to {score['high']:.2f}" in text
    worst = min((one for one in protocol["per_group"] if one["label"] == "HEM"), key=lambda one: one["accuracy"])
    assert f"({worst['group']}), only {100 * worst['accuracy']:.0f} % are classified as healthy" in text


def test_smear_fields_are_compared_with_what_colour_alone_reaches(folders):
    record = Comparison.load()
    (score,) = record.datasets["aria2021"].without_network.values()
    text = about_html(folders[FIELDS], [], record)
    assert f"alone, without any network, reaches a weighted F1 of {score.value:.2f}" in text and "cannot show" in text


def test_data_sets_and_papers_are_credited_with_links(folders):
    record = Comparison.load()
    text = about_html(folders[CELLS], list(folders.values()), record)
    links = dict(re.findall(r'<a href="https://doi\.org/([^"]+)">doi ([^<]+)</a>', text))
    assert all(shown == target for shown, target in links.items())
    assert {info.doi for info in DATASETS.values()} <= set(links)
    assert len(record.papers) == 5 and all(f"<strong>{name}</strong>" in text for name in record.papers)
    glossary = dict(re.findall(r"<li><strong>(.+?)</strong>: (.+?)</li>", unescape(text.partition("Glossary")[2])))
    assert DISCLAIMER in text and glossary == MEANINGS


def test_a_model_without_figures_and_a_page_without_results_are_described():
    folder = ModelFolder.load(shared_model_folder("field"))
    text = about_html(folder, [folder], None)
    assert "predictions mean nothing" in text and "is missing here" in text


def test_an_explanation_is_escaped():
    html = term('<"x">', 'of "water" & <ice>')
    assert "<ice>" not in html and 'data-meaning="of &quot;water&quot; &amp; &lt;ice&gt;"' in html
    with pytest.raises(KeyError):
        term("unknown word")


def test_the_picker_distinguishes_the_bundled_models():
    choices = [model_choice(ModelFolder.load(bundled_root() / name, name)) for name in bundled_models()]
    assert len(set(choices)) == len(choices)
    assert "Single cell · MobileNet · 12.8 MB" in choices and "Smear field · 4 classes · 8.9 MB" in choices
