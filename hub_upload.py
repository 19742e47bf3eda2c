"""Publish on the Hugging Face Hub: a model folder, a page, or everything.

    python hub_upload.py check models/mobilenetv1-cnmc2019
    python hub_upload.py model models/mobilenetv1-cnmc2019 --repo-id owner/name --tag v1.0
    python hub_upload.py space --repo-id owner/space --models owner/name@v1.0
    python hub_upload.py static-page --repo-id owner/page --models owner/name@v1.0
    python hub_upload.py static-page --to page
    python hub_upload.py collection --owner owner

Each command shows what would change, makes one commit or none, and fetches it back to compare. The token is that of
`hf auth login` or HF_TOKEN; `--dry-run` needs none and changes nothing. The static page runs the models in the
visitor's browser; with `--to` it is written into a folder, from which any web server can serve it.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blastlens.errors import BlastlensError
from publish.hub_client import Hub

INTERRUPTED = "Interrupted. A commit is made as a whole or not at all: run the command again to check and to finish."


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 2 for an error, or 130 if interrupted."""
    arguments = vars(_parser().parse_args(argv))
    command, hub = arguments.pop("command"), None
    try:
        hub = Hub(partial(print, flush=True))
        if not arguments["dry_run"] and not arguments.get("to"):
            hub.log(f"publishing to {hub.endpoint} as {hub.user()}")
        command(hub, **arguments)
    except BlastlensError as error:
        print(hub.redact(str(error)) if hub else error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has finished
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hub_upload.py", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = commands.add_parser("model", help="a model folder")
    model.add_argument("folder", type=Path, help="such as models/mobilenetv1-cnmc2019")
    model.add_argument("--repo-id", required=True, metavar="OWNER/NAME")
    model.set_defaults(command=_model)

    check = commands.add_parser("check", help="load a model folder in every runtime and compare; no Hub is needed")
    check.add_argument("folder", type=Path)
    check.set_defaults(command=_check, dry_run=True)

    space = commands.add_parser("space", help="the page as a Gradio Space that serves models of the Hub")
    space.add_argument("--repo-id", required=True, metavar="OWNER/NAME")
    space.set_defaults(command=_space)

    static = commands.add_parser("static-page", help="the page that runs the models in the visitor's browser")
    target = static.add_mutually_exclusive_group(required=True)
    target.add_argument("--repo-id", metavar="OWNER/NAME", help="a static Space")
    target.add_argument("--to", type=Path, metavar="FOLDER", help="write it into a folder instead")
    static.add_argument("--package", type=Path, metavar="FOLDER", help="the npm package onnxruntime-web, without npm")
    static.set_defaults(command=_static_page)

    collection = commands.add_parser("collection", help="bundled models, published systems, results and Space")
    collection.add_argument("--owner", required=True, help="user or organization")
    collection.add_argument("--systems", type=Path, metavar="DIR", help="of train.compare --export (default: bundled)")
    collection.set_defaults(command=_collection)

    for command in (space, static):
        command.add_argument(
            "--models", nargs="+", default=[], metavar="OWNER/NAME@REVISION", help="in the page's order"
        )
    for command in (model, collection):
        command.add_argument("--tag", help="for the commit of a model, such as v1.0")
    for command in (model, space, static, collection):
        command.add_argument("--private", action="store_true", help="only into private repositories")
        command.add_argument("--overwrite", action="store_true", help="even if it holds something else now")
        command.add_argument("--dry-run", action="store_true", help="only check, and show what would change")
    return parser


# Each command imports what it needs when it runs: PyTorch and transformers take seconds. `options` are fields of
# `Upload`.


def _model(hub: Hub, folder: Path, repo_id: str, **options: Any) -> None:
    from publish import model

    with model.staged(folder) as copy:
        model.publish_model(hub, copy, model.model_upload(copy, repo_id, **options))


def _check(hub: Hub, folder: Path, dry_run: bool) -> None:
    from publish import model

    with model.staged(folder) as copy:
        model.compare_runtimes(hub, copy)


def _space(hub: Hub, repo_id: str, models: Sequence[str], **options: Any) -> None:
    from publish import space

    pinned = space.pinned_models(models)
    space.publish_space(hub, space.space_upload(repo_id, pinned, **options), pinned)


def _static_page(
    hub: Hub, repo_id: str, to: Path | None, models: Sequence[str], package: Path | None, **options: Any
) -> None:
    from publish import space, static_page

    if to:
        static_page.write_page(hub.log, to, models, package, options["overwrite"], options["dry_run"])
        return
    pinned = space.pinned_models(models)
    static_page.publish_page(hub, static_page.static_upload(repo_id, pinned, package, **options), pinned)


def _collection(hub: Hub, owner: str, **options: Any) -> None:
    from publish.collection import publish_collection

    publish_collection(hub, owner, **options)


if __name__ == "__main__":
    sys.exit(main())
