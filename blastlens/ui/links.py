"""Links that restore what the first tab shows: model, example, corruption, level and seed; and which tab is open.

A link holds only names and numbers, never an uploaded image.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from ..corruptions import KINDS, Corruption
from ..errors import BlastlensError
from ..noise import checked_seed
from .model_registry import Shelf
from .words import NOISE

# Titles by the name that links have.
TABS = {
    "try": "Single image",
    "folder": "Folder or patient",
    "slides": "Validate on your data",
    "trust": "Reliability",
    "compared": "Compare systems",
    "code": "Code",
    "about": "About",
}


@dataclass(frozen=True)
class Scene:
    """What the first tab shows.

    Attributes:
        model: id of the model.
        example: name of the example, such as "drawn-ALL-1"; "" for an uploaded image or none.
        change: the corruption.
        seed: of the noise.
    """

    model: str
    example: str
    change: Corruption
    seed: int

    def query(self) -> str:
        """The query of a link, "model=...&image=...&change=jpeg&level=40&seed=0"."""
        parts = {"model": self.model, "image": self.example, "change": self.change.kind}
        return urlencode(parts | {"level": f"{self.change.level:g}", "seed": self.seed})


def read_scene(query: Mapping[str, str], shelf: Shelf) -> tuple[Scene, list[str]]:
    """The scene of a link, and one remark for each part of it that does not exist here.

    By default it is the first model and its first example, uncorrupted. An unknown part, or one out of range, falls
    back to that; the others are kept.
    """
    remarks = []
    classifier, change, seed = shelf.first, Corruption(NOISE, 0), 0
    try:
        classifier = shelf.classifier(query.get("model", ""))
    except BlastlensError as error:
        remarks.append(f"The model of the link is not on offer here. {error}")
    names = [example.name for example in shelf.examples_of(classifier)]
    example = query.get("image", "")
    if example and example not in names:
        remarks.append(f"The example of the link is not here ({example}).")
    if example not in names:
        example = names[0] if names else ""
    try:
        kind = query.get("change") or NOISE
        level = query.get("level") or (KINDS[kind].neutral if kind in KINDS else 0)
        change = Corruption(kind, level)  # type: ignore[arg-type]  # a text that is no number is refused
    except BlastlensError as error:
        remarks.append(str(error))
    try:
        seed = checked_seed(int(query.get("seed") or 0))
    except (ValueError, BlastlensError):
        remarks.append("The seed of the link is not an integer from 0 on.")
    return Scene(classifier.folder.model_id, example, change, seed), remarks
