"""The page: model picker, one module per tab, and how it is launched."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from .. import temp_files
from ..dataset_info import DATASETS
from ..errors import BlastlensError
from ..predictions import DISCLAIMER
from ..serving import Loading, Wanted, begin, serve
from . import about, code_snippets, comparison, folder, reliability, single_image, validation
from .links import TABS
from .model_registry import Shelf, add_endpoint
from .server import CONCURRENCY, MAX_FILE_SIZE, MAX_WAITING, Page, Shield, extend_gradio, stored_mb
from .theme import THEME
from .words import facts

OTHER_TABS = {
    "folder": folder,
    "slides": validation,
    "trust": reliability,
    "compared": comparison,
    "code": code_snippets,
    "about": about,
}
HERE = Path(__file__).parent
LOGO = HERE / "logo.svg"

LAUNCH: dict[str, Any] = {
    "theme": THEME,
    "css_paths": sorted(HERE.glob("*.css")),
    "js": (HERE / "page.js").read_text(encoding="utf-8"),
    "favicon_path": str(LOGO),
    "footer_links": ["api", "settings"],
    "max_file_size": MAX_FILE_SIZE,
    "ssr_mode": False,
    "mcp_server": True,
    "state_session_capacity": 500,
    "enable_monitoring": False,
    "run_history": False,
}
# Gradio works its statistics of calls out anew after each request, although monitoring is disabled.
os.environ |= {"GRADIO_ANALYTICS_MAX_EVENTS": "1", "GRADIO_ANALYTICS_CACHE_FREQUENCY": str(10**9)}


def build(models: Sequence[str | os.PathLike[str] | Wanted | Loading] | None = None) -> gr.Blocks:
    """Build the page.

    Args:
        models: to offer, as `Classifier.from_pretrained` takes them or as `serving.begin` returns them; by default
            `serving.wanted`.

    Raises:
        BlastlensError: no model to offer, one that cannot be served, or an invalid limit in the environment.
    """
    stored_mb()  # an invalid value is refused now rather than at the launch
    extend_gradio()
    schedule = temp_files.every_s(), temp_files.keep_s()
    shelf = _shelf(models)
    with Page(title="blastlens", analytics_enabled=False, delete_cache=schedule) as demo:
        gr.HTML(_masthead())
        if shelf.notices:
            gr.HTML(_notices(shelf.notices))
        with gr.Group():
            model = gr.Radio(
                [(title, name) for name, title in shelf.titles.items()],
                value=shelf.first.folder.model_id,
                label="Model",
                elem_classes="models",
            )
            shown = gr.HTML(facts(shelf.first.folder), padding=True)
        with gr.Tabs(elem_classes="tabs") as tabs:
            with gr.Tab(TABS["try"], id="try"):
                single_image.build(shelf, demo, model, shown)
            for name, module in OTHER_TABS.items():
                with gr.Tab(TABS[name], id=name):
                    module.build(shelf, model)
        add_endpoint(shelf)
        gr.HTML(_fineprint())
        demo.load(_open_tab, None, tabs, show_progress="hidden", api_visibility="private")
    return demo.queue(max_size=MAX_WAITING, default_concurrency_limit=CONCURRENCY, api_open=False)


def launch(demo: gr.Blocks, **settings: Any) -> Any:
    """Serve the page; arguments and result are those of `gr.Blocks.launch`.

    Raises:
        BlastlensError: the port of GRADIO_SERVER_PORT is none, or in use; Gradio would take another one.
    """
    if "server_port" not in settings and (port := os.environ.get("GRADIO_SERVER_PORT")):
        if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65_536:
            raise BlastlensError(f"GRADIO_SERVER_PORT is {port!r}; a port from 1 to 65535 is accepted.")
        settings["server_port"] = int(port)
    try:
        # Gradio adds to `app_kwargs`, so each launch has its own.
        return demo.launch(**LAUNCH | settings, app_kwargs={"middleware": [Middleware(Shield)], "openapi_url": None})
    except OSError as error:
        if "empty port" not in str(error):
            raise
        raise BlastlensError(
            f"Port {settings['server_port']} is in use; set GRADIO_SERVER_PORT to another one."
        ) from None


def forget(demo: gr.Blocks, older_than: float) -> None:
    """Drop what is kept in memory of clients that have been idle for `older_than` seconds, and all caches.

    Names of files that are deleted are dropped, too; Gradio keeps them.
    """
    holder, now = demo.state_holder, datetime.now()
    with holder.lock:
        for name, at in list(holder.time_last_used.items()):
            if (now - at).total_seconds() > older_than:
                holder.session_data.pop(name, None)
                holder.time_last_used.pop(name, None)
    for files in demo.temp_file_sets:
        files -= {file for file in list(files) if not os.path.exists(file)}
    single_image.forget()


def _shelf(models: Sequence[str | os.PathLike[str] | Wanted | Loading] | None) -> Shelf:
    given = begin() if models is None else models
    wanted = [one if isinstance(one, Wanted | Loading) else Wanted(os.fspath(one)) for one in given]
    served = {one.classifier.folder.model_id: one for one in serve(wanted)}
    return Shelf(
        classifiers={name: one.classifier for name, one in served.items()},
        notices={name: one.notice for name, one in served.items() if one.notice},
        data=Path(os.environ["BLASTLENS_DATA"]) if os.environ.get("BLASTLENS_DATA") else None,
    )


def _open_tab(request: gr.Request) -> Any:
    # Without a tab in the link, one that the user has opened meanwhile stays open.
    tab = request.query_params.get("tab")
    return gr.Tabs(selected=tab) if tab in TABS else gr.skip()


def _masthead() -> str:
    return f"""
<header class="masthead">{LOGO.read_text(encoding="utf-8")}<div>
<h1>blastlens</h1>
<p>Classify a blood cell with a leukemia screening model, add noise, and see when the prediction changes.</p>
</div></header>
<p class="disclaimer"><strong>{escape(DISCLAIMER)}</strong> It cannot diagnose disease; do not base decisions
about health on it.</p>"""


def _notices(notices: Mapping[str, str]) -> str:
    items = "".join(f"<p>{escape(notice)}</p>" for notice in notices.values())
    return f'<aside class="notices" aria-label="Source of the models">{items}</aside>'


def _fineprint() -> str:
    credits = "; ".join(escape(info.citation) for info in DATASETS.values())
    return f"""
<footer class="fineprint">Uploaded images stay on the computer that runs this page and are deleted within the
hour. Training data: {credits}.</footer>"""
