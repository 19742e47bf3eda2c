"""Reader of the 4-class set as published: Original/{Benign,Early,Pre,Pro}/WBC-*-<number>.jpg, 224 x 224 px.

The publication also has a `Segmented` tree of the same names, with everything but the cells blackened.
Those are twins of the originals: mixed in, they would put the same field on both sides of a split.

Aria, M., et al. (2021), Acute Lymphoblastic Leukemia (ALL) image dataset, doi 10.34740/kaggle/dsv/2175623.
"""

import re
from pathlib import Path

from train.datasets.rows import LABEL_SETS
from train.datasets.sources import Listing, Refused, Source, files_under, without_name_clashes

_LABELS = {name.lower(): name for name in LABEL_SETS[1]}
_NAME = re.compile(r"WBC-(?:Malignant-)?(?P<label>Benign|Early|Pre|Pro)-\d+", re.IGNORECASE)


def read_fields(folder: Path) -> Listing:
    """The original fields anywhere under `folder`; no subjects, no folds. Segmented twins are left aside."""
    sources, refused, aside, unknown = [], [], [], []
    for path in files_under(folder):
        label = _LABELS.get(path.parent.name.lower())
        if label is None or path.suffix.lower() not in (".jpg", ".jpeg"):
            unknown.append(path)
        elif path.parent.parent.name.lower() == "segmented":
            aside.append(path)
        elif (name := _NAME.fullmatch(path.stem)) is None:
            refused.append(Refused(path, "its name is not WBC-<class>-<number>.jpg"))
        elif _LABELS[name["label"].lower()] != label:
            refused.append(Refused(path, f"its name says {name['label']} and its folder {label}"))
        else:
            sources.append(Source(path, f"{label}/{path.stem}", label))
    sources, clashes = without_name_clashes(sources)
    return Listing(tuple(sources), (*refused, *clashes), tuple(aside), tuple(unknown))
