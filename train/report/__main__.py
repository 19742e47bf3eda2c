"""Write every page and figure of `results/` again, and the comparison in README.md; a test fails when they disagree.

python -m train.report
"""

import sys
from pathlib import Path

from blastlens.errors import BlastlensError
from train import readme
from train.report import pages
from train.report.evidence import Evidence

ROOT = Path(__file__).parents[2]


def main() -> int:
    results, front = ROOT / "results", ROOT / "README.md"
    try:
        evidence = Evidence.read(results, ROOT / "models")
        files = pages.render(evidence)
        text = readme.render(front.read_text(), pages.readme_block(evidence), readme.COMPARISON)
    except BlastlensError as error:
        print(error, file=sys.stderr)
        return 2
    for stale in {*(results / "figures").glob("*.svg")} - {results / name for name in files}:
        stale.unlink()
    for name, content in files.items():
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_text(content, encoding="utf-8")
    front.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
