"""Fixtures every test may use. Tests on real images need BLASTLENS_DATA; where it is required, none may skip."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from helpers_machine import lacking

from blastlens import temp_files

if TYPE_CHECKING:
    from helpers_browser import Visit
    from helpers_hub import LoopbackHub
    from playwright.sync_api import Browser

# One thread per library: the suite's many small networks run faster so, and timings repeat.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
temp_files.claim()  # before any test imports Gradio, as app.py does


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, help="how often tests/test_survival.py kills each command (default: a few)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need one of these are slow ones: a browser, a Hub, or networks that are trained before the first."""
    for item in items:
        if {"browser", "compared", "cross_validated", "hub", "shelves"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if value and Path(value).is_dir():
        return Path(value)
    lacking(f"{variable} names no folder: tests on real files cannot run", "BLASTLENS_REQUIRE_DATA")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real data sets: cnmc2019/, cnmc2019_raw_sample/, aria2021/, other_images/."""
    return _folder("BLASTLENS_DATA")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Folder with the ImageNet weights."""
    return _folder("BLASTLENS_WEIGHTS")


@pytest.fixture(scope="session")
def demo_address() -> Iterator[str]:
    """Address of the demo with throw-away models, launched as app.py does."""
    from helpers_models import shared_model_folder
    from helpers_page import launched

    with launched(shared_model_folder("cell"), shared_model_folder("field")) as (_, address):
        yield address


@pytest.fixture
def hub(tmp_path: Path) -> "Iterator[LoopbackHub]":
    """A Hub on the loopback, and this process's huggingface_hub turned to it, with an empty cache and no token."""
    from helpers_hub import LoopbackHub, point_client_at

    with LoopbackHub() as running, point_client_at(running, tmp_path / "huggingface"):
        yield running


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Chromium. One per module: while Playwright runs, no other event loop can in the same thread."""
    from helpers_browser import chromium

    with chromium() as running:
        yield running


@pytest.fixture
def visit(browser: "Browser", demo_address: str) -> "Iterator[Callable[..., Visit]]":
    """A function that opens the demo: `visit("/?tab=about", width=390, dark=True).page`.

    When the test is over, any console error or request that left the machine fails it.
    """
    from helpers_browser import visiting

    with visiting(browser, demo_address) as opener:
        yield opener
