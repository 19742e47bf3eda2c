"""A model folder on the Hub: its files, its card rendered for where it goes, checked before and after."""

from pathlib import Path

from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder
from publish import check
from publish.changes import File
from publish.hub import Hub, Place
from publish.upload import Tell, Upload, Uploaded, send
from train import card

MARK = "metrics.json"


def upload_of(
    folder: Path,
    repo_id: str,
    private: bool = False,
    tag: str | None = None,
    create_pr: bool = False,
    overwrite: bool = False,
) -> Upload:
    """Everything that the repository is to hold; the folder itself is only read.

    The card is rendered for `repo_id`, so that its lines can be copied and run; all other files go as they are.

    Raises:
        BlastlensError: the folder is not complete, not measured, or holds what does not belong there.
    """
    place = Place(repo_id)
    if not folder.is_dir():
        raise BlastlensError(f"{folder} is not a folder; a model folder such as models/NAME is expected.")
    paths = check.model_files(folder)
    check.require_measured(ModelFolder.load(folder, repo_id))
    files = {path.relative_to(folder).as_posix(): path for path in paths} | card.render(folder, repo_id)
    return Upload(
        place,
        tuple(File(path, content) for path, content in sorted(files.items())),
        f"{folder.resolve().name}, as exported and measured",
        MARK,
        private,
        tag,
        create_pr,
        overwrite,
    )


def publish(hub: Hub, folder: Path, upload: Upload, tell: Tell, dry_run: bool = False) -> Uploaded | None:
    """Check the folder on every road, upload it, and ask what comes back the same questions.

    Raises:
        BlastlensError: what failed, and what the repository holds now.
    """
    here = check.answers(folder)
    tell(here.sentence())

    def inspect(fetched: Path) -> None:
        differs = check.answers(fetched, upload.place.repo_id).difference(here)
        if not differs <= check.TOLERANCE:
            raise BlastlensError(
                f"What came back of {upload.place} answers differently (by {differs:.2g}); do not use it."
            )
        tell("what came back gives the same answers on every road")

    return send(hub, upload, tell, dry_run, inspect)
