"""The tab "About": intended use, limits in the model's own figures, data, publications and glossary."""

from collections.abc import Sequence

import gradio as gr
from markupsafe import Markup

from ..model_folder import ModelFolder
from ..predictions import DISCLAIMER
from ..published_systems import Comparison
from .endpoints import QUIET
from .model_registry import Shelf
from .rendering import render
from .words import MEANINGS


def build(shelf: Shelf, model: gr.Radio) -> None:
    """Lay the tab out and follow the model picker."""
    record = Comparison.load()
    folders = [classifier.folder for classifier in shelf.classifiers.values()]
    with gr.Group():
        shown = gr.HTML(about_html(shelf.first.folder, folders, record), padding=True)
    model.change(
        lambda name: about_html(shelf.classifier(name).folder, folders, record),
        model,
        shown,
        trigger_mode="always_last",
        **QUIET,
    )


def about_html(chosen: ModelFolder, folders: Sequence[ModelFolder], record: Comparison | None) -> str:
    """The whole tab.

    Args:
        chosen: the model whose limits are listed.
        folders: all models on offer, whose data are credited.
        record: the reproduced systems, if known.
    """
    dataset = record.dataset_of(chosen.known_labels) if record else None
    baselines = record.datasets[dataset].without_network if record and dataset else {}
    limits = render("about.html", "limits", chosen, chosen.protocol(), chosen.dataset, baselines)
    datasets = {info.name: info for info in (one.dataset for one in folders) if info.known}
    return render("about.html", "about", Markup(limits), DISCLAIMER, list(datasets.values()), record, MEANINGS)
