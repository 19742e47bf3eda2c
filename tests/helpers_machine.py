"""What a test needs of the machine it runs on, beyond Python: images, a browser, curl."""

import os
from typing import NoReturn

import pytest


def lacking(reason: str, *required_by: str) -> NoReturn:
    """Skip the test visibly; fail it where one of these environment variables says that it must be able to run."""
    if any(os.environ.get(variable) for variable in required_by):
        pytest.fail(reason)
    pytest.skip(reason)
