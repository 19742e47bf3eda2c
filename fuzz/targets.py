"""What is fuzzed: bytes in; nothing out, unless something other than an answer or one sentence comes of them."""

import os
import tempfile
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from blastlens.errors import BlastlensError
from blastlens.image_sources import list_sources
from blastlens.images import MAX_PIXELS, open_image

# Of one zip; more of them would only take longer.
_ENTRIES = 20


def open_as_image(data: bytes) -> None:
    """An upright 8-bit RGB image, or a sentence."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about what gets a sentence of our own
            image = open_image(data)
    except BlastlensError as error:
        _check_sentence(error)
    else:
        assert image.mode == "RGB" and image.width * image.height <= MAX_PIXELS, image


def open_as_zip(data: bytes) -> None:
    """Sources that can be read, or sentences; no name leads anywhere, and no two are the same."""
    with tempfile.TemporaryDirectory(dir=_quick_folder()) as folder:
        path = Path(folder, "a.zip")
        path.write_bytes(data)
        try:
            found = list_sources([path])
        except BlastlensError as error:
            _check_sentence(error)
            return
        names = [source.name for source in found.sources]
        assert len(set(names)) == len(names), names
        for name in names:
            assert name.isprintable() and not name.startswith("/") and ".." not in name.split("/"), name
        for name, sentence in found.refused:
            assert name.isprintable(), name
            _check_sentence(BlastlensError(sentence))
        for source in islice(found.sources, _ENTRIES):
            try:
                source.read()
            except BlastlensError as error:
                _check_sentence(error)


def _quick_folder() -> str | None:
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


def _check_sentence(error: BlastlensError) -> None:
    text = str(error)
    assert text.isprintable() and text.endswith("."), text


TARGETS: dict[str, Callable[[bytes], None]] = {"image": open_as_image, "zip": open_as_zip}
