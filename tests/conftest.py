"""Fixtures every test may use. Tests on real images need BLASTLENS_DATA; where it is required, none may skip."""

import os
from pathlib import Path

import pytest

# One thread per library: the suite's many small networks run faster so, and timings repeat.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")


def _folder(variable: str) -> Path:
    value = os.environ.get(variable)
    if value and Path(value).is_dir():
        return Path(value)
    reason = f"{variable} names no folder: tests on real files cannot run"
    if os.environ.get("BLASTLENS_REQUIRE_DATA"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real data sets: cnmc2019/, cnmc2019_raw_sample/, aria2021/, other_images/."""
    return _folder("BLASTLENS_DATA")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    """Folder with the ImageNet weights."""
    return _folder("BLASTLENS_WEIGHTS")
