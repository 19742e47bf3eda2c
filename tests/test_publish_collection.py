"""`hub_upload.py collection`: everything of the project in one go, and again without doing anything twice."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers_models import shared_model_folder, write_record

import hub_upload
from publish import collection
from publish.hub import Hub, Place

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def bundled(tmp_path, monkeypatch) -> Path:
    """Two small models, bundled instead of the shipped ones, with records to render cards from."""
    root = tmp_path / "models"
    for kind in ("cell", "field"):
        write_record(shutil.copytree(shared_model_folder(kind), root / f"tiny-{kind}"), kind)
    monkeypatch.setenv("BLASTLENS_MODELS", str(root))
    return root


def test_the_results_go_as_a_data_set_whose_links_hold(hub):
    upload = collection.results_of("someone/blastlens-results")
    files = {file.path: file.read() for file in upload.files}
    assert upload.place == Place("someone/blastlens-results", "dataset")
    assert {"comparison.json", "CLAIMS.md", "figures/comparison.svg"} <= set(files)
    front, text = files["README.md"].decode().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["license"] == "apache-2.0"
    assert text == (ROOT / "results" / "README.md").read_text()
    linked = {part.partition(")")[0].partition("#")[0] for part in text.split("](")[1:]}
    assert {link for link in linked if link and "://" not in link} <= set(files)


def test_a_page_of_all_of_them_is_made_once(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    owner = Hub().require_token()
    hub.add_repo(f"{owner}/cells", {})
    from publish.upload import Uploaded

    done = [Uploaded(Place(f"{owner}/cells"), "0" * 40, True, "")]
    first = collection.list_together(Hub(), owner, done)
    assert collection.list_together(Hub(), owner, done) == first
    (only,) = hub.collections.values()
    assert only.title == collection.TITLE and len(only.items) == 1
    assert len(collection.DESCRIPTION) <= 150


@pytest.mark.slow
def test_everything_goes_up_in_one_go_and_again_without_a_new_commit(hub, bundled, monkeypatch, capfd):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    owner = Hub().require_token()
    arguments = ["collection", "--owner", owner, "--tag", "v1.0"]
    assert hub_upload.main(arguments) == 0, capfd.readouterr()
    places = [(f"{owner}/tiny-cell", "model"), (f"{owner}/tiny-field", "model")]
    places += [(f"{owner}/blastlens-results", "dataset"), (f"{owner}/blastlens", "space")]
    commits = {place: hub.commits(place[0], kind=place[1]) for place in places}
    assert [len(made) for made in commits.values()] == [2, 2, 2, 2]
    served = json.loads(hub.files(f"{owner}/blastlens", kind="space")["space.json"])["models"]
    assert [row["revision"] for row in served] == [commits[place][0].oid for place in places[:2]]
    (together,) = hub.collections.values()
    assert len(together.items) == 4
    capfd.readouterr()
    assert hub_upload.main(arguments) == 0
    assert {place: hub.commits(place[0], kind=place[1]) for place in places} == commits
    assert capfd.readouterr().out.count("no new commit") == 4


def test_a_dry_run_shows_all_and_changes_nothing(hub, bundled, capfd):
    assert hub_upload.main(["collection", "--owner", "someone", "--dry-run"]) == 0
    told = capfd.readouterr().out
    assert told.count("nothing was changed") == 3 and "dataset someone/blastlens-results: new" in told
    assert not any(hub.exists(name, kind) for name, kind in [("someone/tiny-cell", "model")])


@pytest.mark.parametrize("name, kind", [("blastlens-results", "dataset"), ("blastlens", "space")])
def test_one_repository_that_is_somebody_elses_stops_it_before_the_first_change(
    hub, bundled, monkeypatch, capfd, name, kind
):
    monkeypatch.setenv("HF_TOKEN", hub.token)
    owner = Hub().require_token()
    hub.add_repo(f"{owner}/{name}", {"data.csv": b"1"}, kind=kind)
    assert hub_upload.main(["collection", "--owner", owner]) == 2
    assert "holds something else" in capfd.readouterr().err
    assert not hub.exists(f"{owner}/tiny-cell")
