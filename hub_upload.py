"""Publish on the Hugging Face Hub: a model folder, a page, or everything.

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
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from blastlens.errors import BlastlensError
from publish.hub_client import Hub

INTERRUPTED = "Interrupted. A commit is made as a whole or not at all: run the command again to check and to finish."
Log = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns 0, 2 for an error, or 130 if interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        hub = Hub()
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2

    def log(line: str) -> None:
        print(hub.redact(line), flush=True)

    try:
        if not arguments.dry_run and not arguments.to:
            log(f"publishing to {hub.endpoint} as {hub.user()}")
        arguments.run(hub, arguments, log)
    except BlastlensError as error:
        print(hub.redact(str(error)), file=sys.stderr)
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
    parser.set_defaults(to=None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = commands.add_parser("model", help="a model folder")
    model.add_argument("folder", type=Path, help="such as models/mobilenetv1-cnmc2019")
    model.add_argument("--repo-id", required=True, metavar="OWNER/NAME")
    version = model.add_mutually_exclusive_group()  # a pull request can only be tagged after it is merged
    version.add_argument("--tag", help="for the commit, such as v1.0")
    version.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing to main")
    model.set_defaults(run=_model)

    space = commands.add_parser("space", help="the page as a Gradio Space that serves models of the Hub")
    space.add_argument("--repo-id", required=True, metavar="OWNER/NAME")
    space.set_defaults(run=_space)

    static = commands.add_parser("static-page", help="the page that runs the models in the visitor's browser")
    target = static.add_mutually_exclusive_group(required=True)
    target.add_argument("--repo-id", metavar="OWNER/NAME", help="a static Space")
    target.add_argument("--to", type=Path, metavar="FOLDER", help="write it into a folder instead")
    static.add_argument("--package", type=Path, metavar="FOLDER", help="the npm package onnxruntime-web, without npm")
    static.set_defaults(run=_static_page)
    for command in (space, static):
        command.add_argument(
            "--models", nargs="+", default=[], metavar="OWNER/NAME@REVISION", help="in the page's order"
        )

    collection = commands.add_parser("collection", help="all bundled models, the results, and the Space")
    collection.add_argument("--owner", required=True, help="user or organization")
    collection.add_argument("--tag", help="for the models' commits, such as v1.0")
    collection.set_defaults(run=_collection)

    for command in (model, space, static, collection):
        command.add_argument("--private", action="store_true", help="only into private repositories")
        command.add_argument("--overwrite", action="store_true", help="even if it holds something else now")
        command.add_argument("--dry-run", action="store_true", help="only check, and show what would change")
    return parser


def _options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options that the fields of an `Upload` have."""
    fields = ("private", "overwrite", "tag", "create_pr")
    return {name: value for name, value in vars(arguments).items() if name in fields}


# Each command imports what it needs when it runs: PyTorch and transformers take seconds.


def _model(hub: Hub, arguments: argparse.Namespace, log: Log) -> None:
    from publish import model

    with model.staged(arguments.folder) as copy:
        upload = replace(model.model_upload(copy, arguments.repo_id), **_options(arguments))
        model.publish_model(hub, copy, upload, log, arguments.dry_run)


def _space(hub: Hub, arguments: argparse.Namespace, log: Log) -> None:
    from publish import space

    models = space.pinned_models(arguments.models)
    upload = replace(space.space_upload(arguments.repo_id, models), **_options(arguments))
    space.publish_space(hub, upload, models, log, arguments.dry_run)


def _static_page(hub: Hub, arguments: argparse.Namespace, log: Log) -> None:
    from publish import space, static_page

    package, dry_run = arguments.package, arguments.dry_run
    if arguments.to:
        static_page.write_page(arguments.to, arguments.models, log, package, arguments.overwrite, dry_run)
        return
    models = space.pinned_models(arguments.models)
    upload = replace(static_page.static_upload(arguments.repo_id, models, package), **_options(arguments))
    static_page.publish_page(hub, upload, models, log, dry_run)


def _collection(hub: Hub, arguments: argparse.Namespace, log: Log) -> None:
    from publish.collection import publish_collection

    publish_collection(hub, arguments.owner, log, **_options(arguments), dry_run=arguments.dry_run)


if __name__ == "__main__":
    sys.exit(main())
