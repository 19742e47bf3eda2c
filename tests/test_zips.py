"""Zips in every common form are read; damage ends in a sentence."""

import io
import random
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from blastlens.errors import BlastlensError
from blastlens.zips import Zip

CONTENT = {
    "empty.png": b"",
    "folder/random.png": np.random.default_rng(0).bytes(2_500_000),
    "folder/flat.png": bytes(3_000_001),
    "Zelle_ä.png": b"x" * 1000,
}


def packed(method=zipfile.ZIP_DEFLATED, comment=b"", force_zip64=False):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        archive.writestr(zipfile.ZipInfo("folder/"), b"")
        for name, content in CONTENT.items():
            with archive.open(name, "w", force_zip64=force_zip64) as entry:
                entry.write(content)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        packed(),
        packed(zipfile.ZIP_STORED),
        packed(comment=b"a comment"),
        packed(force_zip64=True),
        b"#!/bin/sh\nunpacks itself\n" * 50 + packed(),
    ],
    ids=["deflated", "stored", "comment", "64-bit entries", "behind a program"],
)
def test_every_form_of_zip_is_read_by_several_threads(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    archive = Zip(tmp_path / "a.zip")
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda one: (one.name, archive.read(one.number, one.name)), [*archive.entries()] * 3))
    assert dict(found) == CONTENT and len(found) == 3 * len(CONTENT)


def test_damage_anywhere_ends_in_a_sentence_or_in_the_right_bytes(tmp_path):
    """What changed bytes can change unnoticed is a name, which no checksum covers."""
    small = io.BytesIO()
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", bytes(range(256)) * 3)
    draw = random.Random(0)
    for _ in range(300):
        data = bytearray(small.getvalue())
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / "a.zip").write_bytes(data)
        try:
            archive = Zip(tmp_path / "a.zip")
        except BlastlensError as error:
            assert str(error).startswith("a.zip ") and str(error).endswith(".")
            continue
        for entry in archive.entries():
            try:
                assert archive.read(entry.number, "one") == bytes(range(256)) * 3
            except BlastlensError as error:
                assert str(error).startswith("one ") and str(error).endswith(".")
