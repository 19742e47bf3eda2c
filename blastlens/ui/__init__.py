"""The demo: one page, one module per tab. Only `app.py` imports this."""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ..classifier import DISCLAIMER, Classifier
from ..errors import BlastlensError
from ..model_folder import bundled_models, bundled_root
from .examples import examples_for
from .theme import THEME
from .try_a_cell import TryACell
from .words import GLOSSARY, TASKS

HERE = Path(__file__).parent
LOGO = HERE / "logo.svg"
MAX_FILE_SIZE = "100mb"

# How `launch` must be called for the page to look as it should and to keep to itself.
LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css_paths": HERE / "page.css",
    "favicon_path": str(LOGO),
    "footer_links": ["api", "settings"],
    "max_file_size": MAX_FILE_SIZE,
    "ssr_mode": False,
}


def build(models: Sequence[str | os.PathLike[str]] | None = None, data: Path | None = None) -> gr.Blocks:
    """Build the page.

    Args:
        models: those to offer, as `Classifier.from_pretrained` takes them; by default the bundled ones.
        data: folder of data sets whose images are offered beside the drawn ones; by default BLASTLENS_DATA.

    Raises:
        BlastlensError: no model to offer, or one that cannot be served.
    """
    names = bundled_models() if models is None else models
    if not names:
        raise BlastlensError(f"There is no model folder in {bundled_root()}; the demo needs at least one.")
    if data is None and os.environ.get("BLASTLENS_DATA"):
        data = Path(os.environ["BLASTLENS_DATA"])
    classifiers = [Classifier.from_pretrained(name) for name in names]
    by_labels = {labels: examples_for(labels, data) for labels in {c.label_names for c in classifiers}}
    tab = TryACell(
        classifiers={c.folder.model_id: c for c in classifiers},
        examples={c.folder.model_id: by_labels[c.label_names] for c in classifiers},
    )
    # Looked after every ten minutes, so that no upload outlives the hour.
    with gr.Blocks(title="blastlens", analytics_enabled=False, delete_cache=(600, 3000)) as demo:
        gr.HTML(_masthead())
        tab.build(demo)
        gr.HTML(GLOSSARY + _fineprint())
    # Two answers at a time suit two cores; past 64 waiting visitors a plain "try later" is kinder.
    return demo.queue(max_size=64, default_concurrency_limit=2)


def _masthead() -> str:
    return f"""
<header class="masthead">{LOGO.read_text(encoding="utf-8")}<div>
<h1>blastlens</h1>
<p>Ask a leukemia screening model about a blood cell, then add noise and watch how long its answer holds.</p>
</div></header>
<p class="disclaimer"><strong>{escape(DISCLAIMER)}</strong> It cannot tell whether anybody is ill;
please make no decision about health with it.</p>"""


def _fineprint() -> str:
    credits = "; ".join(escape(task.credit) for task in TASKS.values())
    return f"""
<footer class="fineprint">Images you give stay on the computer that runs this page and are deleted within the
hour. The models learned from {credits}.</footer>"""
