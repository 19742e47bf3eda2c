"""The "About" tab: intended use, limits in the model's own figures, data, publications and glossary."""

import re
from collections.abc import Sequence
from typing import Any

import gradio as gr
from jinja2 import Environment, StrictUndefined

from ..dataset_info import CNMC2019
from ..model_folder import ModelFolder
from ..predictions import DISCLAIMER
from ..published_systems import Comparison
from .model_registry import Shelf
from .words import MEANINGS, headline_of, main_score, task_of

TEMPLATE = """\
## Intended use

- Learn what a screening model predicts, where it finds support, and how noise and other corruptions change its
  predictions.
- Test whether a model works on your own labelled slides and scanner before anyone relies on it.
- Use the same models from code, with the same predictions, as a starting point for research.

## Out of scope

**{{ disclaimer }}**

- Diagnosing or excluding disease, choosing or changing a treatment.
- Triage of patients or slides, alone or as a second reader.
- Other diseases, other cell types, bone marrow, or whole slides; other stains and microscopes until the model has
  been measured on them.
- Images that must not leave your hospital, unless this page runs inside it.

## Limits of {{ model }}
{% for limit in limits %}
- {{ limit }}
{%- endfor %}

## Your images

An uploaded image goes to the computer that runs this page and nowhere else. It is not used for training, and it is
deleted within the hour. The page loads nothing from other hosts: no fonts, no analytics, no scripts. Run it on your
own computer, and your images never leave it.

## Data
{% for info in datasets %}
- **{{ info.labels | join(", ") }}**: {{ info.citation | linked }}. Images: {{ info.input_description }}.
{%- else %}
The training data of these models is described in their cards.
{%- endfor %}

## Publications
{% if record %}
{{ record.n_published }} systems of these papers are reproduced as recipes; the results are under *Compare systems*.
{% for name, paper in record.papers.items() %}
- **{{ name }}**: {{ paper.citation | linked }}
{%- endfor %}
{% else %}
The record of reproduced systems (folder `results`) is missing here.
{% endif %}
## Licence

Code: Apache-2.0. The networks start from ImageNet weights (Apache-2.0) and are trained on the data above; ask its
authors before any use beyond research. No image of either data set is part of this project: its example images are
synthetic. `CITATION.cff` says how to cite it.

## Glossary
{% for word, meaning in glossary.items() %}
- **{{ word }}**: {{ meaning }}
{%- endfor %}
"""


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    record = Comparison.load()
    folders = [classifier.folder for classifier in shelf.classifiers.values()]
    with gr.Group():
        shown = gr.Markdown(about(shelf.first.folder, folders, record), elem_classes="about", padding=True)
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
    model.change(
        lambda name: about(shelf.classifier(name).folder, folders, record),
        model,
        shown,
        trigger_mode="always_last",
        **quiet,
    )


def about(chosen: ModelFolder, folders: Sequence[ModelFolder], record: Comparison | None) -> str:
    """The whole tab in Markdown.

    Args:
        chosen: the model whose limits are listed.
        folders: all models on offer, whose data are credited.
        record: the reproduced systems, if known.
    """
    environment = Environment(undefined=StrictUndefined)
    environment.filters["linked"] = _linked
    infos = {info.name: info for info in map(task_of, folders) if info.known}
    return environment.from_string(TEMPLATE).render(
        disclaimer=DISCLAIMER,
        model=chosen.model_id,
        limits=_limits(chosen, record),
        datasets=list(infos.values()),
        record=record,
        glossary=MEANINGS,
    )


def _limits(folder: ModelFolder, record: Comparison | None) -> list[str]:
    protocol, info = folder.protocol(), task_of(folder)
    if protocol is None:
        return ["It has not been measured on data that it was not trained on, so its predictions mean nothing."]
    name, score = main_score({"headline": headline_of(protocol)})
    return [
        f"On {info.unseen}, its {name} is {score['value']:.2f} (95 % interval {score['low']:.2f} to "
        f"{score['high']:.2f}; {protocol['name']}, {protocol['n_images']:,} images in {protocol['n_groups']} groups).",
        _worst_group(protocol),
        *(text for text in (info.caution,) if text),
        *_without_network(folder, record),
        *(info.limits if info.known else ()),
        "Its probabilities are calibrated on images like its training images, over all predictions together. For one "
        "label alone, or for other images, they can be far too high or too low.",
        "Corruptions are simulated on the pixels that the network sees; real scanners differ in other ways too.",
    ]


def _worst_group(protocol: dict[str, Any]) -> str:
    """The group with the lowest accuracy; for single cells, the healthy donor with the lowest specificity."""
    healthy = [group for group in protocol["per_group"] if group["label"] == CNMC2019.labels[1]]
    worst = min(healthy or protocol["per_group"], key=lambda group: group["accuracy"])
    if healthy:
        return (
            f"Results differ between donors. Of the cells of the worst of {len(healthy)} groups of healthy donors "
            f"({worst['group']}), only {worst['accuracy']:.0%} are classified as healthy."
        )
    return (
        f"Results differ between groups: in the worst one ({worst['group']}) the accuracy is {worst['accuracy']:.0%}."
    )


def _without_network(folder: ModelFolder, record: Comparison | None) -> list[str]:
    name = record.dataset_of(folder.label_names) if record else None
    scores = record.datasets[name].without_network if record and name else {}
    return [
        f"For comparison: {what} alone, without any network, reaches {score.value:.2f} (95 % interval {score.low:.2f} "
        f"to {score.high:.2f})."
        for what, score in scores.items()
    ]


def _linked(text: str) -> str:
    """Markdown in which each "doi 10.x/y" is a link."""
    return re.sub(r"\bdoi (10\.\d+/[\w./\-]*\w)", r"[doi \1](https://doi.org/\1)", text)
