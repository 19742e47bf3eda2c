"""Publish everything in one run: the bundled models, the results, the Space, and a collection that lists them."""

from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import yaml

from blastlens.model_folder import bundled_models, bundled_root
from publish import model, space
from publish.hub_client import Hub
from publish.upload import Log, Published, Upload, plan, publish

RESULTS, SPACE = "blastlens-results", "blastlens"
MARKER = "comparison.json"
TITLE = "blastlens: leukemia classifiers, honestly measured"
DESCRIPTION = "Models with a noise slider; every published system re-measured on subjects it never saw."  # at most 150
FRONT = {
    "pretty_name": "blastlens results",
    "license": "apache-2.0",
    "tags": ["leukemia", "blood-smear", "benchmark", "robustness"],
    "viewer": False,  # records and figures, not a table of rows
}


def results_upload(repo_id: str) -> Upload:
    """`results/` as a dataset repository."""
    files = {path.partition("/")[2]: file.read_bytes() for path, file in space.project_files("results").items()}
    files["README.md"] = f"---\n{yaml.safe_dump(FRONT, sort_keys=False)}---\n".encode() + files["README.md"]
    return Upload(repo_id, files, "The measured results", MARKER, "dataset")


def publish_collection(
    hub: Hub, owner: str, log: Log, tag: str | None, private: bool, overwrite: bool, dry_run: bool
) -> None:
    """Publish all of it; what is there already as it should be stays as it is.

    Args:
        tag: for the models' commits.

    Raises:
        BlastlensError: what failed; what was logged before stays published.
    """
    options: dict[str, Any] = {"private": private, "overwrite": overwrite}
    with ExitStack() as stack:
        copies = [stack.enter_context(model.staged(bundled_root() / name)) for name in bundled_models()]
        uploads = [replace(model.model_upload(copy, f"{owner}/{copy.name}"), tag=tag, **options) for copy in copies]
        results = replace(results_upload(f"{owner}/{RESULTS}"), **options)
        empty_space = Upload(f"{owner}/{SPACE}", {}, "", space.MARKER, "space", **options)
        for upload in (*uploads, results, empty_space):  # whatever is refused, is refused before the first change
            plan(hub, upload)
        done = [model.publish_model(hub, *pair, log, dry_run) for pair in zip(copies, uploads, strict=True)]
        done.append(publish(hub, results, log, dry_run))
        if dry_run:
            log(f"{empty_space}: made from the models' new commits, so there is nothing to show yet")
            return
        published = [one for one in done if one]
        pinned = space.pinned_models([f"{one.upload.repo_id}@{one.commit}" for one in published[: len(copies)]])
        upload = replace(space.space_upload(f"{owner}/{SPACE}", pinned), **options)
        done.append(space.publish_space(hub, upload, pinned, log))
    log(f"collection: {list_together(hub, owner, [one for one in done if one], private)}")


def list_together(hub: Hub, owner: str, done: list[Published], private: bool = False) -> str:
    """Add repositories to the owner's collection, creating it if necessary; returns its address."""
    create, add = hub.api.create_collection, hub.api.add_collection_item
    options: dict[str, Any] = {"description": DESCRIPTION, "private": private, "exists_ok": True, "retry": True}
    collection = hub.call(f"create the collection of {owner}", create, TITLE, namespace=owner, **options)
    for one in done:
        item = (collection.slug, one.upload.repo_id, one.upload.repo_type)
        hub.call(f"add {one.upload} to the collection", add, *item, exists_ok=True, retry=True)
    return f"{hub.endpoint}/collections/{collection.slug}"
