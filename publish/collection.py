"""Everything of the project in one go: the bundled models, the measured results, the Space, and a page of them all."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import yaml

from blastlens.model_folder import bundled_models, bundled_root
from publish import check, model, space
from publish.changes import File
from publish.hub import Hub, Place
from publish.project import ROOT, files_in
from publish.upload import Tell, Upload, Uploaded, plan, send

RESULTS, SPACE = "blastlens-results", "blastlens"
MARK = "comparison.json"
TITLE = "blastlens: leukemia classifiers, honestly measured"
DESCRIPTION = "Models with a noise slider, every published system re-measured on people it never saw."  # 150 at most


def results_of(repo_id: str, private: bool = False, overwrite: bool = False, root: Path = ROOT) -> Upload:
    """`results/` as a data set repository; its front page is the comparison's, with what the Hub wants to know."""
    files = {path.partition("/")[2]: file for path, file in files_in("results", root).items()}
    front = {
        "pretty_name": "blastlens results",
        "license": "apache-2.0",
        "tags": ["leukemia", "blood-smear", "benchmark", "robustness"],
        "viewer": False,  # records of runs and their figures, no table of rows
    }
    text = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n{files['README.md'].read_text(encoding='utf-8')}"
    contents = {path: file.read_bytes() for path, file in files.items()} | {"README.md": text.encode()}
    return Upload(
        Place(repo_id, "dataset"),
        tuple(File(path, content) for path, content in sorted(contents.items())),
        "The measured results",
        MARK,
        private,
        None,
        False,
        overwrite,
    )


def publish(
    hub: Hub, owner: str, tell: Tell, tag: str | None, private: bool, overwrite: bool, dry_run: bool
) -> str | None:
    """Publish all of it; what is there already as it should be stays as it is.

    Returns:
        The address of the page that lists them; None for a dry run.

    Raises:
        BlastlensError: what failed; what was told before stays published.
    """
    with ExitStack() as stack:
        copies = [stack.enter_context(model.staged(bundled_root() / name)) for name in bundled_models()]
        uploads = [model.upload_of(copy, f"{owner}/{copy.name}", private, tag, overwrite=overwrite) for copy in copies]
        results = results_of(f"{owner}/{RESULTS}", private, overwrite)
        if dry_run:
            for copy, upload in zip(copies, uploads, strict=True):
                model.publish(hub, copy, upload, tell, dry_run)
            send(hub, results, tell, dry_run)
            tell(f"space {owner}/{SPACE}: it is made from the models' new commits, so nothing to show yet")
            return None
        # What can be known before the first change: whatever is refused, is refused here.
        answers = [check.answers(copy) for copy in copies]
        for upload in (*uploads, results, Upload(Place(f"{owner}/{SPACE}", "space"), (), "", space.MARK)):
            plan(hub, upload)
        done = [
            model.publish(hub, copy, upload, tell, here=here)
            for copy, upload, here in zip(copies, uploads, answers, strict=True)
        ]
        done.append(send(hub, results, tell))
        pinned = [f"{one.place.repo_id}@{one.commit}" for one in done[: len(copies)] if one]
        done.append(space.publish(hub, space.upload_of(f"{owner}/{SPACE}", pinned, private, overwrite), tell))
    return list_together(hub, owner, [uploaded for uploaded in done if uploaded], private)


def list_together(hub: Hub, owner: str, done: Sequence[Uploaded], private: bool = False) -> str:
    """One page on the Hub with all of them; what it lists already stays. Returns its address."""
    collection = hub.persistently(
        f"make the collection of {owner}",
        lambda: hub.api.create_collection(
            TITLE, namespace=owner, description=DESCRIPTION, private=private, exists_ok=True
        ),
    )
    for uploaded in done:
        hub.persistently(f"list {uploaded.place}", partial(_add, hub, collection.slug, uploaded.place))
    return f"{hub.endpoint}/collections/{collection.slug}"


def _add(hub: Hub, slug: str, place: Place) -> None:
    hub.api.add_collection_item(slug, item_id=place.repo_id, item_type=place.kind, exists_ok=True)
