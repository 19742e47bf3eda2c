"""Publish on the Hugging Face Hub: a model folder, the demo as a Space, or everything in one go.

    python hub_upload.py model models/mobilenetv1-cnmc2019 --repo-id owner/name --tag v1.0
    python hub_upload.py space --repo-id owner/space --models owner/name@v1.0
    python hub_upload.py space --static --repo-id owner/page --models owner/name@v1.0
    python hub_upload.py space --static --to page
    python hub_upload.py collection --owner owner

Each shows what will change, changes it in one commit or not at all, and fetches it back to compare. The token is that
of `hf auth login` or HF_TOKEN; `--dry-run` needs none and changes nothing. `--static` makes the page that runs the
models in the visitor's browser, and `--to` writes it into a folder, from which any server of files can serve it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from blastlens.errors import BlastlensError
from publish.hub import Hub

INTERRUPTED = "Interrupted: what is not reported above as committed was not changed; run it again to finish."
Tell = Callable[[str], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 where something was refused, 130 where it was interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        _require_sense(arguments)
        hub = Hub()
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2

    def tell(line: str) -> None:
        print(hub.redact(line), flush=True)

    try:
        if not arguments.dry_run and not arguments.to:
            tell(f"publishing to {hub.endpoint} as {hub.require_token()}")
        arguments.run(hub, arguments, tell)
    except BlastlensError as error:
        print(hub.redact(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stopped:
        print(INTERRUPTED, *getattr(stopped, "__notes__", ()), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hub_upload.py", description=__doc__.partition("\n")[0])
    parser.set_defaults(to=None)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    model = commands.add_parser("model", help="a model folder")
    model.add_argument("folder", type=Path, help="such as models/mobilenetv1-cnmc2019")
    model.add_argument("--tag", help="name for the commit, such as v1.0")
    model.add_argument("--create-pr", action="store_true", help="open a pull request instead of changing main")
    model.set_defaults(run=_model)

    space = commands.add_parser("space", help="the demo, serving models from the Hub")
    space.add_argument("--models", nargs="+", default=[], metavar="OWNER/NAME@REVISION", help="in the page's order")
    space.add_argument("--static", action="store_true", help="the page that runs the models in the visitor's browser")
    space.add_argument("--to", type=Path, metavar="FOLDER", help="with --static: write it there, not to the Hub")
    space.add_argument(
        "--vendor", type=Path, metavar="FOLDER", help="with --static: the npm package onnxruntime-web, where npm is not"
    )
    space.set_defaults(run=_space)

    everything = commands.add_parser(
        "collection", help="all bundled models, the results, the Space, and a page of them"
    )
    everything.add_argument("--owner", required=True, help="user or organization")
    everything.add_argument("--tag", help="name for the models' commits, such as v1.0")
    everything.set_defaults(run=_collection)

    model.add_argument("--repo-id", required=True, metavar="OWNER/NAME")
    space.add_argument("--repo-id", metavar="OWNER/NAME", help="required unless --to is given")
    for command in (model, space, everything):
        command.add_argument("--private", action="store_true", help="where a repository has to be made")
        command.add_argument("--overwrite", action="store_true", help="even if it holds something else now")
        command.add_argument("--dry-run", action="store_true", help="only check, and show what would change")
    return parser


def _require_sense(arguments: argparse.Namespace) -> None:
    """Raises BlastlensError where flags do not go together."""
    if arguments.run is not _space:
        return
    if not arguments.static and (arguments.to or arguments.vendor):
        raise BlastlensError("--to and --vendor are for the page that --static makes; give --static, too.")
    if arguments.to and (arguments.repo_id or arguments.private):
        raise BlastlensError(
            "--repo-id and --private are for the Hub, and --to writes to a folder; give one or the other."
        )
    if not arguments.to and not arguments.repo_id:
        raise BlastlensError("Where to publish is not said; give --repo-id OWNER/NAME, or --static --to FOLDER.")


# Each imports what it needs when it runs: PyTorch and transformers take seconds that `--help` need not wait for.


def _model(hub: Hub, arguments: argparse.Namespace, tell: Tell) -> None:
    from publish import model

    if arguments.create_pr and arguments.tag:
        raise BlastlensError("A pull request cannot be tagged before it is merged; leave --tag or --create-pr out.")
    options = (arguments.private, arguments.tag, arguments.create_pr, arguments.overwrite)
    with model.staged(arguments.folder) as copy:
        model.publish(hub, copy, model.upload_of(copy, arguments.repo_id, *options), tell, arguments.dry_run)


def _space(hub: Hub, arguments: argparse.Namespace, tell: Tell) -> None:
    if arguments.static:
        _static(hub, arguments, tell)
        return
    from publish import space

    upload = space.upload_of(arguments.repo_id, arguments.models, arguments.private, arguments.overwrite)
    space.publish(hub, upload, tell, arguments.dry_run)


def _static(hub: Hub, arguments: argparse.Namespace, tell: Tell) -> None:
    from publish import static_page as page

    models, vendor, overwrite = arguments.models, arguments.vendor, arguments.overwrite
    if arguments.to:
        page.write_to(arguments.to, models, tell, vendor, overwrite, arguments.dry_run)
    else:
        upload = page.upload_of(arguments.repo_id, models, vendor, arguments.private, overwrite)
        page.publish(hub, upload, tell, arguments.dry_run)


def _collection(hub: Hub, arguments: argparse.Namespace, tell: Tell) -> None:
    from publish import collection

    options = (arguments.tag, arguments.private, arguments.overwrite, arguments.dry_run)
    if address := collection.publish(hub, arguments.owner, tell, *options):
        tell(f"all together: {address}")


if __name__ == "__main__":
    sys.exit(main())
