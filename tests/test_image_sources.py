"""Images out of files, folders and zips: each found once, whose it is, and nothing hostile gets through."""

import struct
import zipfile
import zlib

import pytest
from helpers_files import encoded, write_zip

from blastlens import Classifier, image_sources, zips
from blastlens.errors import BlastlensError
from blastlens.image_sources import list_sources, natural
from blastlens.synthetic_images import synthetic_image

TABLE = "file_name,subject,label\n"


def names(found):
    return [source.name for source in found.sources]


def subjects(found):
    return {source.name: source.subject for source in found.sources}


def refusal(source):
    with pytest.raises(BlastlensError) as refused:
        source.read()
    text = str(refused.value)
    assert text.endswith(".") and "\n" not in text
    return text


def test_numbers_of_any_length_are_put_in_order(tmp_path):
    long, longer = "7" * 5000, "1" + "0" * 5000
    assert sorted([longer, long, "8", "0" * 5000 + "9"], key=natural) == ["8", "0" * 5000 + "9", long, longer]
    found = list_sources([write_zip(tmp_path / "a.zip", [(f"{long}.png", b""), ("2.png", b"")])])
    assert names(found) == ["2.png", f"{long}.png"]
    assert sorted(["x \u0663", "x 4", "x 1"], key=natural) == ["x 1", "x 4", "x \u0663"]  # an Arabic three is a letter


def test_a_file_a_folder_and_a_zip_give_the_same_bytes(tmp_path):
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "cell.png").write_bytes(b"pixels")
    zipped = write_zip(tmp_path / "all.zip", [("sub/", b""), ("sub/cell.png", b"pixels")])
    for path, name in ((folder / "sub" / "cell.png", "cell.png"), (folder, "sub/cell.png"), (zipped, "sub/cell.png")):
        (source,) = list_sources([path]).sources
        assert (source.name, source.read(), source.subject, source.label) == (name, b"pixels", None, None)


def test_same_names_in_two_folders_or_two_uploads_stay_two_images(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "cell.png").write_text(place)
    assert names(list_sources([tmp_path])) == ["a/cell.png", "b/cell.png"]
    uploads = list_sources([tmp_path / "a" / "cell.png", tmp_path / "b" / "cell.png"])
    assert {source.name: source.read() for source in uploads.sources} == {"cell.png": b"a", "cell (2).png": b"b"}


@pytest.mark.parametrize("name", ["file.bin", "file", "slides.ZIP"])
def test_a_zip_is_known_by_what_it_holds(tmp_path, name):
    zipped = write_zip(tmp_path / name, [("cell.png", b"pixels")])
    (source,) = list_sources([zipped]).sources
    assert (source.name, source.read()) == ("cell.png", b"pixels")


def test_hidden_files_are_skipped_and_other_files_are_refused_by_name(tmp_path):
    junk = ["__MACOSX/._a.png", "._a.png", ".DS_Store", "x/Thumbs.db", "desktop.ini", ".hidden/b.png"]
    zipped = write_zip(tmp_path / "a.zip", [(name, b"") for name in [*junk, "a.PNG", "read.txt", "in.zip", "x/c.svg"]])
    found = list_sources([zipped])
    assert names(found) == ["a.PNG"]
    assert [name for name, _ in found.refused] == ["in.zip", "read.txt", "x/c.svg"]
    assert "zip inside another one" in found.refused[0][1] and "is not an image" in found.refused[1][1]


@pytest.mark.parametrize("name", ["../a.png", "x/../../a.png", "/etc/a.png", "C:/a.png", "..\\a.png"])
def test_a_name_that_leads_out_of_a_zip_is_refused(tmp_path, name):
    found = list_sources([write_zip(tmp_path / "a.zip", [(name, b"x"), ("b.png", b"y")])])
    assert names(found) == ["b.png"]
    assert "leads out of a.zip" in found.refused[0][1]


def test_a_name_that_a_zip_has_twice_is_used_once(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        zipped = write_zip(tmp_path / "a.zip", [("a.png", b"first"), ("a.png", b"second")])
    found = list_sources([zipped])
    assert [source.read() for source in found.sources] == [b"first"]
    assert found.refused == (("a.png", "a.png is in a.zip more than once; the first one is used."),)


def test_an_encrypted_image_is_refused_and_the_others_are_read(tmp_path):
    zipped = write_zip(tmp_path / "a.zip", [("a.png", b"x"), ("b.png", b"y")])
    data = bytearray(zipped.read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag in the table of contents
    data[6] |= 1
    zipped.write_bytes(data)
    secret, plain = list_sources([zipped]).sources
    assert "a.png is encrypted" in refusal(secret)
    assert plain.read() == b"y"


@pytest.mark.parametrize("kind", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compression_is_refused(tmp_path, kind):
    (source,) = list_sources([write_zip(tmp_path / "a.zip", [("a.png", b"x" * 1000)], kind)]).sources
    assert "unusual way" in refusal(source)


def test_a_damaged_entry_is_refused_and_the_others_are_read(tmp_path):
    zipped = write_zip(tmp_path / "a.zip", [("a.png", b"x" * 100), ("b.png", b"y")], zipfile.ZIP_STORED)
    zipped.write_bytes(zipped.read_bytes().replace(b"x" * 100, b"x" * 99 + b"z"))
    broken, whole = list_sources([zipped]).sources
    assert "damaged inside its zip" in refusal(broken)
    assert whole.read() == b"y"


def test_an_entry_that_unpacks_to_too_much_is_refused_without_unpacking_it_all(tmp_path, monkeypatch):
    monkeypatch.setattr(zips, "MAX_BYTES", 3_000_000)
    (source,) = list_sources([write_zip(tmp_path / "a.zip", [("a.png", bytes(9_000_000))])]).sources
    assert "larger than" in refusal(source)
    monkeypatch.undo()
    monkeypatch.setattr(zips, "RATIO_APPLIES_FROM", 1_000_000)
    assert "200 times its size" in refusal(source)
    monkeypatch.setattr(zips, "RATIO_APPLIES_FROM", 10_000_000)
    assert source.read() == bytes(9_000_000)


def test_a_zip_that_lies_about_a_size_gives_no_more_than_it_says(tmp_path):
    """The header says 10 bytes, the data hold 9 MB."""
    zipped = write_zip(tmp_path / "a.zip", [("a.png", bytes(9_000_000))])
    data = bytearray(zipped.read_bytes())
    place = data.index(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<I", 10)
    data[22:26] = struct.pack("<I", 10)
    zipped.write_bytes(data)
    assert "damaged inside its zip" in refusal(list_sources([zipped]).sources[0])


def test_all_zips_together_may_unpack_to_a_limit_and_reading_again_counts_once(tmp_path, monkeypatch):
    monkeypatch.setattr(image_sources, "MAX_TOTAL_BYTES", 2500)
    zipped = write_zip(tmp_path / "a.zip", [(f"{n}.png", bytes(1000)) for n in range(3)])
    first, second, third = list_sources([zipped]).sources
    assert [len(source.read()) for source in (first, second, first, second)] == [1000] * 4
    assert "all images together" in refusal(third)


def test_overlapping_entries_cannot_multiply_what_is_read(tmp_path):
    """Two entries of the table of contents that share one piece of data, as in a bomb without nesting."""
    zipped = write_zip(tmp_path / "a.zip", [("a.png", b"x"), ("b.png", b"y")], zipfile.ZIP_STORED)
    data = bytearray(zipped.read_bytes())
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    data[second + 42 : second + 46] = struct.pack("<I", 0)
    zipped.write_bytes(data)
    assert "damaged inside its zip" in refusal(list_sources([zipped]).sources[1])


def test_too_many_files_are_refused_before_they_fill_the_memory(tmp_path, monkeypatch):
    zipped = write_zip(tmp_path / "a.zip", [(f"{n}.png", b"") for n in range(30)])
    (tmp_path / "folder").mkdir()
    for number in range(30):
        (tmp_path / "folder" / f"{number}.txt").touch()
    monkeypatch.setattr(image_sources, "MAX_ENTRIES", 29)
    for path in (zipped, tmp_path / "folder"):
        assert "more than 29 files" in list_sources([path]).refused[-1][1]
    monkeypatch.undo()
    assert len(list_sources([zipped]).sources) == 30
    monkeypatch.setattr(image_sources, "MAX_CONTENTS_BYTES", 1000)  # names of 65,535 letters, for example
    assert "holds too many files" in list_sources([zipped]).refused[0][1]


def test_too_many_images_are_refused_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(image_sources, "MAX_IMAGES", 2)
    zipped = write_zip(tmp_path / "a.zip", [(f"{n}.png", b"") for n in range(3)])
    with pytest.raises(BlastlensError, match="There are 3 images; at most 2 are accepted at a time"):
        list_sources([zipped])


def test_names_in_utf8_are_read_whether_or_not_a_zip_says_so(tmp_path):
    zipped = write_zip(tmp_path / "a.zip", [("Zelle_ä.png", b"x")])
    assert names(list_sources([zipped])) == ["Zelle_ä.png"]
    data = bytearray(zipped.read_bytes())
    data[7] &= ~8  # without the flag, as a Mac writes it
    data[data.index(b"PK\1\2") + 9] &= ~8
    zipped.write_bytes(data)
    (source,) = list_sources([zipped]).sources
    assert (source.name, source.read()) == ("Zelle_ä.png", b"x")


def test_characters_that_hide_a_name_are_replaced(tmp_path):
    zipped = write_zip(tmp_path / "a.zip", [("gnp.\u202epng.png", b"x"), ("two\nlines.png", b"y")])
    assert names(list_sources([zipped])) == ["gnp.\ufffdpng.png", "two\ufffdlines.png"]


def test_links_in_a_folder_are_refused(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").symlink_to(tmp_path / "secret.png")
    found = list_sources([tmp_path / "folder"])
    assert found.sources == () and "is a link" in found.refused[0][1]


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("UID_57_29_1_all.bmp", "57"),
        ("fold_0/hem/UID_H3_1_2_hem.png", "H3"),
        ("UID_h3_1_2_hem.bmp", "H3"),
        ("uid_h10_1_2_HEM.webp", "H10"),
        ("UIDX_1_2_3_all.bmp", None),
        ("WBC-Pre-001.jpg", None),
    ],
)
def test_cnmc_names_give_the_subject_in_either_case(tmp_path, name, subject):
    found = list_sources([write_zip(tmp_path / "a.zip", [(name, b"")])])
    assert subjects(found) == {name: subject}


@pytest.mark.parametrize(
    "table",
    [
        "file_name,subject,label\na.png,P 1,ALL\nx/b.png,P2,hem\n",
        "\ufeffFile;Patient;Label;age\r\na.png;P 1;ALL;7\r\nx\\b.png; P2 ;hem;8\r\n",
        'file,label,subject\n"a.png","ALL","P 1"\nB.PNG,hem,P2\n',
    ],
)
def test_a_table_of_any_spreadsheet_gives_subjects_and_labels(tmp_path, table):
    entries = [("a.png", b""), ("x/b.png", b""), ("c.png", b""), ("subjects.csv", table.encode())]
    found = list_sources([write_zip(tmp_path / "a.zip", entries)])
    told = {source.name: (source.subject, source.label) for source in found.sources}
    assert told == {"a.png": ("P 1", "ALL"), "x/b.png": ("P2", "hem"), "c.png": (None, None)}
    assert found.refused == () and found.notes == ()


def with_tables(tmp_path, images, tables):
    """What is found in a zip of such images and tables, whose texts are by name."""
    entries = [(name, b"") for name in images] + [(name, text.encode()) for name, text in tables.items()]
    return list_sources([write_zip(tmp_path / "a.zip", entries)])


def test_a_table_has_priority_over_names_and_a_subject_of_cnmc_is_the_same_in_either_case(tmp_path):
    images = ["UID_1_1_1_all.png", "UID_H3_1_1_hem.png", "a.png", "b.png", "c.png"]
    table = TABLE + "UID_1_1_1_all.png,Anna,\na.png,h3,\nb.png,Hanna3,\nc.png,H3,\nc.png,h3,\n"
    found = with_tables(tmp_path, images, {"t.csv": table})
    assert subjects(found) == {
        "UID_1_1_1_all.png": "Anna",
        "UID_H3_1_1_hem.png": "H3",
        "a.png": "H3",
        "b.png": "Hanna3",
        "c.png": "H3",
    }
    assert found.notes == ()


def test_ambiguous_and_contradictory_rows_are_not_used(tmp_path):
    images = ["x/a.png", "y/a.png"]
    found = with_tables(tmp_path, images, {"y/t.csv": TABLE + "a.png,Beside,\n"})
    assert subjects(found) == {"x/a.png": None, "y/a.png": "Beside"}  # the one beside the table
    found = with_tables(tmp_path, images, {"t.csv": TABLE + "a.png,Whose,\ngone.png,3,\n"})
    assert subjects(found) == {"x/a.png": None, "y/a.png": None}
    assert found.notes == (
        "t.csv names 1 file that is not here.",
        "t.csv names 1 file of which there are several; write the folder before the name.",
    )
    name = "UID_1_1_1_all.png"
    found = with_tables(tmp_path, [name], {"t.csv": f"{TABLE}{name},Anna,\n{name},Bert,\n"})
    assert subjects(found) == {name: None}
    assert "contradict each other about 1 file, such as UID_1_1_1_all.png" in found.notes[0]


def test_tables_complete_each_other_column_by_column(tmp_path):
    tables = {"s.csv": "file_name,subject\na.png,p1\n", "l.csv": "file_name,label\na.png,ALL\n"}
    found = with_tables(tmp_path, ["a.png"], tables | {"b.csv": TABLE + "a.png,p1,\n"})
    assert [(source.subject, source.label) for source in found.sources] == [("p1", "ALL")] and found.notes == ()


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (b"", "empty table"),
        (b"a,b\n1,2\n", "has a column file_name"),
        (b"file_name,age\na.png,2\n", "has a column file_name"),
        ("file_name,subject\nä.png,1\n".encode("latin-1"), "save it as CSV in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_sentence(tmp_path, table, reason):
    found = list_sources([write_zip(tmp_path / "a.zip", [("t.csv", table), ("a.png", b"")])])
    assert names(found) == ["a.png"]
    assert reason in dict(found.refused)["t.csv"]


def test_a_classifier_takes_sources_as_they_are(tmp_path):
    from helpers_models import shared_model_folder

    image = encoded(synthetic_image("ALL", 0))
    entries = [("a.png", image), ("x/b.png", b"no pixels"), ("c.png", zlib.compress(b""))]
    classifier = Classifier.from_pretrained(shared_model_folder("cell"))
    outcomes = list(classifier.predict_each(list_sources([write_zip(tmp_path / "a.zip", entries)]).sources))
    assert outcomes[0].to_dict() == classifier.predict(image).to_dict()
    assert [str(outcome).split()[0] for outcome in outcomes[1:]] == ["c.png", "b.png"]
