"""`hub_upload.py collection`: everything in one run, and the second time without a new commit."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers_models import shared_model_folder, write_record
from huggingface_hub import HfApi

import hub_upload
from publish import collection

ROOT = Path(__file__).resolve().parents[1]
OWNER = "owner"
REPOSITORIES = [(f"{OWNER}/tiny-cell", "model"), (f"{OWNER}/tiny-field", "model")]
REPOSITORIES += [(f"{OWNER}/blastlens-results", "dataset"), (f"{OWNER}/blastlens", "space")]


@pytest.fixture(autouse=True)
def bundled(hub, tmp_path, monkeypatch):
    """Two small models with metrics instead of the bundled ones."""
    root = tmp_path / "models"
    for kind in ("cell", "field"):
        write_record(shutil.copytree(shared_model_folder(kind), root / f"tiny-{kind}"), kind)
    monkeypatch.setenv("BLASTLENS_MODELS", str(root))
    monkeypatch.setenv("HF_TOKEN", hub.token)


@pytest.fixture
def listed(monkeypatch) -> list[tuple[str, str]]:
    """What is added to the collection of owner."""
    items = []

    def create(self, title, *, namespace, exists_ok, **options):
        assert namespace == OWNER and exists_ok
        return SimpleNamespace(slug="owner/blastlens-1")

    def add(self, slug, item_id, item_type, *, exists_ok):
        items.append((item_id, item_type))

    monkeypatch.setattr(HfApi, "create_collection", create)
    monkeypatch.setattr(HfApi, "add_collection_item", add)
    return items


def test_the_results_are_a_dataset_whose_links_resolve(hub):
    files = collection.results_upload("owner/blastlens-results").files
    front, text = files["README.md"].decode().split("---\n", 2)[1:]
    assert yaml.safe_load(front)["license"] == "apache-2.0" and "comparison.json" in files
    linked = {part.partition(")")[0].partition("#")[0] for part in text.split("](")[1:]}
    assert {link for link in linked if link and "://" not in link} <= set(files)


@pytest.mark.slow
def test_everything_is_published_once(hub, listed, capfd):
    arguments = ["collection", "--owner", OWNER, "--tag", "v1.0"]
    assert hub_upload.main(arguments) == 0, capfd.readouterr()
    commits = {place: hub.commits(place[0], kind=place[1]) for place in REPOSITORIES}
    assert [len(made) for made in commits.values()] == [2, 2, 2, 2]
    served = json.loads(hub.files(f"{OWNER}/blastlens", kind="space")["space.json"])["models"]
    assert [row["revision"] for row in served] == [commits[place][0].oid for place in REPOSITORIES[:2]]
    assert listed == REPOSITORIES and len(collection.DESCRIPTION) <= 150
    assert "collections/owner/blastlens-1" in capfd.readouterr().out
    assert hub_upload.main(arguments) == 0
    assert {place: hub.commits(place[0], kind=place[1]) for place in REPOSITORIES} == commits
    assert capfd.readouterr().out.count("no new commit") == 4


def test_a_dry_run_shows_everything_and_changes_nothing(hub, monkeypatch, capfd):
    monkeypatch.delenv("HF_TOKEN")
    assert hub_upload.main(["collection", "--owner", OWNER, "--dry-run"]) == 0
    log = capfd.readouterr().out
    assert log.count("nothing was changed") == 3 and "dataset owner/blastlens-results: new" in log
    assert not any(hub.exists(*place) for place in REPOSITORIES)


def test_exported_published_systems_are_published_too(hub, tmp_path, capfd):
    write_record(shutil.copytree(shared_model_folder("cell"), tmp_path / "exported/some_system"), "cell")
    options = ["--systems", str(tmp_path / "exported"), "--dry-run"]
    assert hub_upload.main(["collection", "--owner", OWNER, *options]) == 0
    log = capfd.readouterr().out
    assert log.count("nothing was changed") == 4 and "owner/some_system: new" in log


@pytest.mark.parametrize("name, kind", REPOSITORIES[2:])
def test_one_repository_of_other_content_stops_it_before_the_first_change(hub, capfd, name, kind):
    hub.add_repo(name, {"data.csv": b"1"}, kind=kind)
    assert hub_upload.main(["collection", "--owner", OWNER]) == 2
    assert "holds something else" in capfd.readouterr().err and not hub.exists(*REPOSITORIES[0])
