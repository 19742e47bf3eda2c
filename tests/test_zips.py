"""`blastlens.files.Zip`: what Python's own zipfile packs is unpacked, in every form, and damage ends in a sentence."""

import io
import random
import struct
import threading
import zipfile

import numpy as np
import pytest

from blastlens.errors import BlastlensError
from blastlens.files import Zip

RANDOM = np.random.default_rng(0).bytes(2_500_000)
CONTENT = {
    "empty.png": b"",
    "small.png": b"pixels",
    "folder/random.png": RANDOM,
    "folder/flat.png": bytes(3_000_001),
    "Zelle_ä.png": b"x" * 1000,
}


class _Unseekable(io.RawIOBase):
    """A pipe, into which sizes can only be written after what they are of."""

    def __init__(self):
        self.data = bytearray()

    def writable(self):
        return True

    def write(self, piece):
        self.data += piece
        return len(piece)


def packed(method=zipfile.ZIP_DEFLATED, comment=b"", pipe=False, force_zip64=False):
    file = _Unseekable() if pipe else io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.comment = comment
        archive.writestr(zipfile.ZipInfo("folder/"), b"")
        for name, content in CONTENT.items():
            with archive.open(name, "w", force_zip64=force_zip64) as entry:
                entry.write(content)
    return bytes(file.data) if pipe else file.getvalue()


def read_all(path):
    archive = Zip(path)
    return {entry.name: archive.read(entry.place, entry.name) for entry in archive.entries()}


@pytest.mark.parametrize(
    "data",
    [
        packed(),
        packed(zipfile.ZIP_STORED),
        packed(comment=b"PK\5\6 in a comment of some length, " * 100),
        packed(pipe=True),
        packed(force_zip64=True),
        b"#!/bin/sh\nunpacks itself\n" * 50 + packed(),
    ],
    ids=["deflated", "stored", "comment", "through a pipe", "64-bit entries", "behind a program"],
)
def test_every_form_of_zip_is_read(tmp_path, data):
    (tmp_path / "a.zip").write_bytes(data)
    assert read_all(tmp_path / "a.zip") == CONTENT


def test_a_zip_of_more_entries_than_16_bits_count_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(65_536):
            archive.writestr(zipfile.ZipInfo(f"{number}.png"), str(number))
    (tmp_path / "b.zip").write_bytes(bytes(100) + (tmp_path / "a.zip").read_bytes())  # behind a program
    whole, moved = Zip(tmp_path / "a.zip"), Zip(tmp_path / "b.zip")
    entries = list(moved.entries())
    assert [entry.name for entry in entries] == [f"{number}.png" for number in range(65_536)]
    assert moved.read(entries[-1].place, "last") == whole.read(entries[-1].place - 100, "last") == b"65535"


def test_threads_share_a_zip(tmp_path):
    (tmp_path / "a.zip").write_bytes(packed())
    archive = Zip(tmp_path / "a.zip")
    places = {entry.name: entry.place for entry in archive.entries()}
    wrong = []

    def read(name):
        for _ in range(20):
            if archive.read(places[name], name) != CONTENT[name]:
                wrong.append(name)

    threads = [threading.Thread(target=read, args=(name,)) for name in CONTENT]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_damage_anywhere_ends_in_a_sentence_or_in_the_right_bytes(tmp_path):
    """What a flipped byte can change unseen is a name: nothing guards that."""
    small = io.BytesIO()
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"{number}.png", bytes(range(256)) * 3)
    draw = random.Random(0)
    for _ in range(600):
        data = bytearray(small.getvalue())
        for _ in range(draw.randint(1, 3)):
            data[draw.randrange(len(data))] = draw.randrange(256)
        (tmp_path / "a.zip").write_bytes(data)
        try:
            archive = Zip(tmp_path / "a.zip")
            entries = list(archive.entries())
        except BlastlensError as error:
            assert "not a zip that can be read" in str(error)
            continue
        for entry in entries:
            try:
                assert archive.read(entry.place, "one") == bytes(range(256)) * 3
            except BlastlensError as error:
                assert str(error).startswith("one ") and str(error).endswith(".")


@pytest.mark.parametrize("place", [0, 40, 10**15])
def test_a_place_that_holds_no_record_is_damage(tmp_path, place):
    """As when a zip was replaced after it had been listed."""
    (tmp_path / "a.zip").write_bytes(packed())
    with pytest.raises(BlastlensError, match="damaged inside its zip"):
        Zip(tmp_path / "a.zip").read(place, "a.png")


def test_half_of_a_zip_on_two_disks_is_refused(tmp_path):
    data = bytearray(packed())
    data[data.rindex(b"PK\5\6") + 4 : data.rindex(b"PK\5\6") + 6] = struct.pack("<H", 1)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BlastlensError, match="not a zip that can be read"):
        Zip(tmp_path / "a.zip")
