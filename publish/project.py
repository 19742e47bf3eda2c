"""Which files of the project's own folders may be published."""

import subprocess
from pathlib import Path

from blastlens.errors import BlastlensError

ROOT = Path(__file__).resolve().parents[1]


def files_in(folder: str, root: Path = ROOT) -> dict[str, Path]:
    """The committed files below a folder of the project, by their path from its root, sorted.

    In a copy that is no git checkout, all that are not hidden.

    Raises:
        BlastlensError: one of them is a link.
    """
    listed = subprocess.run(["git", "ls-files", "-z", "--", folder], cwd=root, capture_output=True, text=True)
    if listed.returncode == 0 and (root / ".git").exists():
        names = [name for name in listed.stdout.split("\0") if name and (root / name).exists()]
    else:
        paths = (path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file())
        names = [path.as_posix() for path in paths if not any(part.startswith((".", "__py")) for part in path.parts)]
    files = {name: root / name for name in sorted(names)}
    for name, path in files.items():
        if path.is_symlink():
            raise BlastlensError(f"{name} is a link; put the file itself there.")
    return files
