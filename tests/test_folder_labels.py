"""Which folder means which class, whose image it is, and what is refused by name."""

import pytest

from blastlens import folder_labels
from blastlens.errors import BlastlensError
from blastlens.folder_labels import label_of, match_labels
from blastlens.image_sources import Source, Sources
from blastlens.subject_tables import SubjectTables

CELL, FIELD = ("ALL", "HEM"), ("Benign", "Early", "Pre", "Pro")


def found(*names, subjects=None, labels=None, refused=()):
    """Sources of these names; no image behind them is ever read."""
    subjects, labels = subjects or {}, labels or {}
    return Sources(
        tuple(Source(name, lambda: b"", subjects.get(name), labels.get(name)) for name in names), tuple(refused)
    )


def read(*names, label_names=CELL, **more):
    result = match_labels(found(*names, **more), label_names)
    return {one.source.name: (one.label, one.subject) for one in result.images}


def test_the_numbers_of_the_c_nmc_label_table_are_labels_and_its_names_are_subjects():
    table = b"Patient_ID,new_names,labels\nUID_57_29_1_all.bmp,1.bmp,1\nUID_H9_3_2_hem.bmp,2.bmp,0\n"
    tables = SubjectTables()
    tables.add("labels.csv", lambda: table)
    stated, notes = tables.about(["cells/1.bmp", "cells/2.bmp"])
    assert stated == [("57", "1"), ("H9", "0")] and not notes
    names = ("cells/1.bmp", "cells/2.bmp")
    subjects, labels = ({name: one[k] for name, one in zip(names, stated, strict=True)} for k in (0, 1))
    assert read(*names, subjects=subjects, labels=labels) == {
        "cells/1.bmp": ("ALL", "57"),
        "cells/2.bmp": ("HEM", "H9"),
    }


@pytest.mark.parametrize(
    ("name", "label_names", "label"),
    [
        ("ALL", CELL, "ALL"),
        ("hem", CELL, "HEM"),
        ("Leukaemia", CELL, "ALL"),
        ("blasts", CELL, "ALL"),
        ("Normal_", CELL, "HEM"),
        ("HEALTHY", CELL, "HEM"),
        ("alle", CELL, None),
        ("benign", CELL, None),
        ("Benign", FIELD, "Benign"),
        ("healthy", FIELD, "Benign"),
        ("early", FIELD, "Early"),
        ("[Malignant] early Pre-B", FIELD, "Early"),
        ("[Malignant] Pre-B", FIELD, "Pre"),
        ("[Malignant] Pro-B", FIELD, "Pro"),
        ("leukemia", FIELD, None),
        ("normal", ("cat", "dog"), None),
        ("CAT", ("cat", "dog"), "cat"),
    ],
)
def test_a_folder_means_a_class_by_its_name_or_an_obvious_synonym(name, label_names, label):
    assert label_of(name, label_names) == label


def test_folders_give_labels_and_the_folders_in_them_people():
    assert read("blast/p1/1.png", "blast/p2/1.png", "hem/p3/deep/1.png") == {
        "blast/p1/1.png": ("ALL", "p1"),
        "blast/p2/1.png": ("ALL", "p2"),
        "hem/p3/deep/1.png": ("HEM", "p3"),
    }


def test_folders_around_the_class_folders_change_nothing():
    assert set(read("lab/slides/ALL/1.png", "lab/slides/HEM/2.png").values()) == {("ALL", None), ("HEM", None)}
    # Here "all" means every image, not the class.
    assert set(read("all/blast/1.png", "all/normal/2.png").values()) == {("ALL", None), ("HEM", None)}
    assert read("all/p1/1.png", "all/p2/1.png") == {"all/p1/1.png": ("ALL", "p1"), "all/p2/1.png": ("ALL", "p2")}


def test_one_folder_of_the_same_name_in_every_class_is_not_a_person():
    assert set(read("ALL/images/1.png", "HEM/images/2.png").values()) == {("ALL", None), ("HEM", None)}


def test_a_table_or_a_file_name_says_whose_an_image_is_before_a_folder_does():
    a, b = "ALL/slide 1/1.png", "HEM/slide 2/2.png"
    result = match_labels(found(a, b, subjects={a: "Ann"}), CELL)
    assert [one.subject for one in result.images] == ["Ann", "slide 2"]
    assert result.subjects_by == "a table or their C-NMC file names and the folders inside the class folders"
    assert match_labels(found("ALL/1.png"), CELL).subjects_by is None


@pytest.mark.parametrize(
    ("name", "labels", "reason"),
    [
        ("foo/1.png", {}, "Folder foo (1 image) is named like none of this model's classes; name it ALL (or blast,"),
        ("1.png", {}, "1 image in no folder"),
        ("ALL/hem/1.png", {}, "folders of two classes (ALL, HEM)"),
        ("x/1.png", {"x/1.png": "odd"}, "the label 'odd' in its table"),
        ("hem/1.png", {"hem/1.png": "all"}, "is ALL in its table, but lies in hem"),
    ],
)
def test_what_has_no_clear_label_is_refused_by_name_and_the_rest_goes_on(name, labels, reason):
    result = match_labels(found(name, "all/9.png", "normal/8.png", labels=labels), CELL)
    assert {one.source.name for one in result.images} == {"all/9.png", "normal/8.png"}
    ((_, sentence),) = result.refused
    assert reason in sentence and sentence.endswith(".")
    assert result.left_out == 1


def test_without_any_labelled_image_the_reason_is_one_sentence_with_the_names_accepted():
    with pytest.raises(BlastlensError, match=r"no labelled image.*Folder foo .*ALL \(or blast.*HEM \(or normal"):
        match_labels(found("foo/1.png"), CELL)
    with pytest.raises(BlastlensError, match=r"no labelled image to test on\. a\.txt is not an image"):
        match_labels(found(refused=[("a.txt", "a.txt is not an image.")]), CELL)


def test_more_images_than_the_limit_are_refused_with_the_limit(monkeypatch):
    monkeypatch.setattr(folder_labels, "MAX_LABELLED", 2)
    assert len(read("ALL/1.png", "HEM/2.png")) == 2
    with pytest.raises(BlastlensError, match="3 labelled images; at most 2 are"):
        read("ALL/1.png", "HEM/2.png", "HEM/3.png")


def test_training_images_are_left_out_where_enough_others_are_left():
    others = [f"{label}/{n}.png" for label in ("all", "hem") for n in range(10)]
    known = ["all/UID_1_2_3_all.bmp", "hem/UID_H3_1_1_hem.bmp"]
    result = match_labels(found(*others, *known), CELL)
    assert {one.source.name for one in result.images} == set(others)
    assert (result.from_training, result.left_out) == (0, 2) and sum(one.images for one in result.readings) == 20
    ((_, reason),) = result.refused
    assert "2 images, such as all/UID_1_2_3_all.bmp, are named like those" in reason and reason.endswith("left out.")
    few = match_labels(found(*others[1:], *known), CELL)
    assert (few.from_training, few.left_out, len(few.images), few.refused) == (2, 0, 21, ())
