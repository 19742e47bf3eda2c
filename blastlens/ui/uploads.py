"""Files from clients and for them: only uploads are read, and all of them are deleted in time."""

import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_base64_to_cache
from gradio.utils import get_upload_folder, is_in_or_equal

from ..errors import BlastlensError
from ..images import ACCEPTED
from ..spreadsheet import to_csv
from .server import local_path

Upload = dict[str, Any] | str


def path_of(upload: Upload | None) -> str:
    """The path of an uploaded file as Gradio passes it on.

    Gradio checks only some inputs, so every path is compared with the folder of uploads here.

    Raises:
        BlastlensError: no file, or one that was not uploaded.
    """
    path = upload.get("path") if isinstance(upload, dict) else upload
    if not path:
        raise BlastlensError(f"There is no image yet; give a {ACCEPTED} file.")
    if not isinstance(path, str) or "\0" in path or not is_in_or_equal(path, get_upload_folder()):
        raise BlastlensError(f"{str(path)!r} was not uploaded here; upload it first.")
    return path


def uploaded(files: Sequence[Upload] | Upload | None, keeper: gr.components.Component) -> list[str]:
    """Paths of files as the page or an API client passes them; MCP clients pass addresses or data: URIs in lists.

    Args:
        files: dicts with "path", or strings.
        keeper: the component for which files from data: URIs are stored, and later deleted.

    Raises:
        BlastlensError: no file, or one that was not uploaded.
    """
    given = [files] if isinstance(files, str | dict) else list(files or [])
    if not given:
        raise BlastlensError(f"There are no images yet; give {ACCEPTED} files, or a zip of them.")
    return [_path(file.get("path") if isinstance(file, dict) else file, keeper) for file in given]


def _path(place: Any, keeper: gr.components.Component) -> str:
    if not isinstance(place, str) or not place:
        raise BlastlensError("A file has no path; upload files first, as gradio_client's handle_file does.")
    if place.startswith("data:"):
        try:
            place = save_base64_to_cache(place, keeper.GRADIO_CACHE)
        except Exception as error:
            raise BlastlensError("A data: URI among the files cannot be read; give it in base64.") from error
        keeper.temp_files.add(place)
    else:
        place = local_path(place)
    if not Path(path_of(place)).is_file():
        raise BlastlensError(f"{place!r} was not uploaded here; upload it first.")
    return place


def write_csv(name: str, rows: Iterable[dict[str, object]]) -> str:
    """Write a table to the folder of uploads, where it is served and later deleted; returns its path."""
    folder = Path(get_upload_folder(), secrets.token_hex(20))
    folder.mkdir(parents=True)
    path = folder / name
    path.write_text(to_csv(rows), encoding="utf-8-sig", newline="")
    return str(path)
