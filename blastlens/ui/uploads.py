"""Files that come from visitors and go to them: only what was uploaded is read, and all of it is deleted in time."""

import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio.processing_utils import save_base64_to_cache
from gradio.utils import get_upload_folder

from ..errors import BlastlensError
from ..images import ACCEPTED
from ..spreadsheet import to_csv
from .model_registry import path_of
from .offline import REFUSAL

Upload = dict[str, Any] | str


def uploaded(files: Sequence[Upload] | Upload | None, keeper: gr.components.Component) -> list[str]:
    """Paths of files as the page or a caller of the API hands them over.

    Each path is held against the folder of uploads, as `path_of` does. From MCP the files of a list come as
    addresses or as data: URIs.

    Args:
        files: dicts with "path", or strings.
        keeper: the component in whose name what is fetched is stored, and later deleted.

    Raises:
        BlastlensError: no file, or one that was not uploaded or cannot be fetched.
    """
    given = [files] if isinstance(files, str | dict) else list(files or [])
    if not given:
        raise BlastlensError(f"There are no images yet; give {ACCEPTED} files, or a zip of them.")
    return [_path(file.get("path") if isinstance(file, dict) else file, keeper) for file in given]


def _path(place: Any, keeper: gr.components.Component) -> str:
    if not isinstance(place, str) or not place:
        raise BlastlensError(
            "A file without a path was given; upload files first, as gradio_client's handle_file does."
        )
    if place.startswith("data:"):
        try:
            place = save_base64_to_cache(place, keeper.GRADIO_CACHE)
        except Exception as error:
            raise BlastlensError("A data: URI among the files cannot be read; give it in base64.") from error
        keeper.temp_files.add(place)
    elif "/gradio_api/file=" in place:
        place = unquote(place.partition("/gradio_api/file=")[2])
    elif place.startswith(("http://", "https://")):
        raise BlastlensError(REFUSAL)
    if not Path(path_of(place)).is_file():
        raise BlastlensError(f"{place!r} was not uploaded here; upload it first.")  # as if it were elsewhere
    return place


def write_csv(name: str, rows: Iterable[dict[str, object]]) -> str:
    """Write a table where the download button's `delete_cache` finds and deletes it; returns its path."""
    folder = Path(get_upload_folder(), secrets.token_hex(20))
    folder.mkdir(parents=True)
    path = folder / name
    path.write_text(to_csv(rows), encoding="utf-8-sig", newline="")
    return str(path)
