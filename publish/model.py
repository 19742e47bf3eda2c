"""A model folder on the Hub: its files, its card rendered for where it goes, checked before and after."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blastlens.errors import BlastlensError
from blastlens.model_folder import ModelFolder
from publish import check
from publish.changes import File
from publish.hub import Hub, Place
from publish.upload import Tell, Upload, Uploaded, send
from train import card

MARK = "metrics.json"


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A copy of a model folder with the files that are published, so that what is checked is what goes up.

    Raises:
        BlastlensError: the folder is not complete, or holds what does not belong there.
    """
    if not folder.is_dir():
        raise BlastlensError(f"{folder} is not a folder; a model folder such as models/NAME is expected.")
    files = check.model_files(folder)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / folder.resolve().name
        for name, path in files.items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy / name)
        yield copy


def upload_of(
    copy: Path,
    repo_id: str,
    private: bool = False,
    tag: str | None = None,
    create_pr: bool = False,
    overwrite: bool = False,
) -> Upload:
    """Everything that the repository is to hold, from a staged copy.

    The card is rendered for `repo_id`, so that its lines can be copied and run; all other files go as they are.

    Raises:
        BlastlensError: the model is not measured, or its metrics do not make a card.
    """
    place = Place(repo_id)
    check.require_measured(ModelFolder.load(copy))
    files: dict[str, Path | bytes] = {**check.model_files(copy), **_card(copy, repo_id)}
    return Upload(
        place,
        tuple(File(path, content) for path, content in sorted(files.items())),
        f"{copy.name}, as exported and measured",
        MARK,
        private,
        tag,
        create_pr,
        overwrite,
        check.NAMES,
    )


def publish(
    hub: Hub, copy: Path, upload: Upload, tell: Tell, dry_run: bool = False, here: check.Answers | None = None
) -> Uploaded | None:
    """Check a staged copy on every road, upload it, and ask what comes back the same questions.

    Args:
        here: what the copy answers, where it has been asked already.

    Raises:
        BlastlensError: what failed, and what the repository holds now.
    """
    answers = here or check.answers(copy)
    tell(answers.sentence())

    def inspect(fetched: Path) -> None:
        differs = check.answers(fetched, upload.place.repo_id).difference(answers)
        if not differs <= check.TOLERANCE:
            raise BlastlensError(
                f"What came back of {upload.place} answers differently (by {differs:.2g}); do not use it."
            )
        tell("what came back gives the same answers on every road")

    return send(hub, upload, tell, dry_run, inspect)


def _card(copy: Path, repo_id: str) -> dict[str, bytes]:
    try:
        return card.render(copy, repo_id)
    except BlastlensError:
        raise
    except Exception as error:  # metrics.json that nobody's code wrote can be odd in more ways than one can list
        raise BlastlensError(
            f"metrics.json of {copy.name} does not make a card ({type(error).__name__}: {error}); run "
            "`python -m train.evaluate`."
        ) from error
