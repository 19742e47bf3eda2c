"""The page. Only the project's `app.py` imports this package."""

from .app import build, forget, launch

__all__ = ["build", "forget", "launch"]
