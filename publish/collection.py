"""Publish everything in one run: the bundled models, published systems, the results, the Space, and a collection that
lists them."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import yaml

from blastlens.model_folder import PUBLISHED, bundled_models, bundled_root
from publish import model, space
from publish.hub_client import Hub
from publish.upload import Upload, publish, read_checked

RESULTS, SPACE = "blastlens-results", "blastlens"
TITLE = "blastlens: leukemia classifiers with measured limits"
DESCRIPTION = "Models with a noise slider; every published system measured again on held-out groups."  # at most 150
FRONT = {
    "pretty_name": "blastlens results",
    "license": "apache-2.0",
    "tags": ["leukemia", "blood-smear", "benchmark", "robustness"],
    "viewer": False,  # records and figures, not a table of rows
}


def results_upload(repo_id: str, **options: Any) -> Upload:
    """`results/` as a dataset repository."""
    files = {path.partition("/")[2]: file.read_bytes() for path, file in space.project_files("results").items()}
    files["README.md"] = f"---\n{yaml.safe_dump(FRONT, sort_keys=False)}---\n".encode() + files["README.md"]
    return Upload(repo_id, files, "The measured results", "comparison.json", "dataset", **options)


def publish_collection(hub: Hub, owner: str, tag: str | None, systems: Path | None = None, **options: Any) -> None:
    """Publish all of it; what is there already as it should be stays as it is.

    Args:
        tag: for the models' commits.
        systems: folder of `train.compare --export`, whose published systems are published too; by default, the bundled
            ones are. The Space offers this project's models alone.
        options: fields of every `Upload`.

    Raises:
        BlastlensError: what failed; what was logged before stays published.
    """
    with ExitStack() as stack:
        systems = systems or bundled_root() / PUBLISHED
        folders = [bundled_root() / name for name in bundled_models()]
        folders += [config.parent for config in sorted(systems.glob("[!.]*/config.json"))]
        copies = [stack.enter_context(model.staged(folder)) for folder in folders]
        uploads = [model.model_upload(copy, f"{owner}/{copy.name}", tag=tag, **options) for copy in copies]
        results = results_upload(f"{owner}/{RESULTS}", **options)
        empty_space = Upload(f"{owner}/{SPACE}", {}, "", space.MARKER, "space", **options)
        for upload in (*uploads, results, empty_space):  # whatever is refused, is refused before the first change
            read_checked(hub, upload)
        commits = [model.publish_model(hub, *pair) for pair in zip(copies, uploads, strict=True)]
        publish(hub, results)
        if results.dry_run:
            hub.log(f"{empty_space}: made from the models' new commits, so there is nothing to show yet")
            return
        own = list(zip(uploads, commits, strict=True))[: len(bundled_models())]
        models = space.pinned_models([f"{one.repo_id}@{commit}" for one, commit in own])
        page = space.space_upload(empty_space.repo_id, models, **options)
        space.publish_space(hub, page, models)
    _list_together(hub, owner, [*uploads, results, page])


def _list_together(hub: Hub, owner: str, uploads: list[Upload]) -> None:
    """Add repositories to the owner's collection, creating it if necessary."""
    create, add = hub.api.create_collection, hub.api.add_collection_item
    options: dict[str, Any] = {"description": DESCRIPTION, "private": uploads[0].private}
    options |= {"exists_ok": True, "retry": True}
    collection = hub.call(f"create the collection of {owner}", create, TITLE, namespace=owner, **options)
    for one in uploads:
        item = (collection.slug, one.repo_id, one.repo_type)
        hub.call(f"add {one} to the collection", add, *item, exists_ok=True, retry=True)
    hub.log(f"collection: {hub.endpoint}/collections/{collection.slug}")
