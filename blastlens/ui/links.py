"""Links that restore what a visitor looks at: which model, which example, changed how, on which tab.

Only names and numbers stand in a link. An image of the visitor's own is never part of one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from ..corruptions import KINDS, Corruption
from ..errors import BlastlensError
from ..noise import checked_seed
from .examples import Example
from .model_registry import Shelf

TABS = ("try", "folder", "slides", "trust", "compared", "code", "about")


@dataclass(frozen=True)
class Scene:
    """What the first tab shows.

    Attributes:
        model: id of the model.
        example: name of the example, such as "drawn-ALL-1"; "" for an image of the visitor's own, or none.
        change: how the image is changed.
        seed: of the noise.
    """

    model: str
    example: str
    change: Corruption
    seed: int

    def query(self) -> str:
        """As the query of a link, "model=...&image=...&change=jpeg&level=40&seed=0"."""
        parts = {"model": self.model, "image": self.example, "change": self.change.kind}
        return urlencode(parts | {"level": f"{self.change.level:g}", "seed": self.seed})


def read_scene(query: Mapping[str, str], shelf: Shelf) -> tuple[Scene, tuple[str, ...]]:
    """The scene a link asks for, and one remark for each part of it that is not to be had here.

    Without a query it is the first model and its first example, unchanged. A part that is unknown or out of
    range falls back to that; the others are kept.
    """
    remarks = []
    classifier = shelf.first
    try:
        classifier = shelf.classifier(query.get("model", ""))
    except BlastlensError as error:
        remarks.append(f"The link names a model that is not on offer here. {error}")
    names = [name_of(example) for example in shelf.examples_of(classifier)]
    example = query.get("image", "")
    if example and example not in names:
        remarks.append(f"The link names an example that is not here ({example}).")
    if example not in names:
        example = names[0] if names else ""
    change = Corruption("gaussian_noise", 0)
    try:
        kind = query.get("change") or "gaussian_noise"
        level = query.get("level") or (KINDS[kind].neutral if kind in KINDS else 0)
        change = Corruption(kind, level)  # type: ignore[arg-type]  # text is turned into a number, or refused
    except BlastlensError as error:
        remarks.append(str(error))
    seed = 0
    try:
        seed = checked_seed(int(query.get("seed") or 0))
    except (ValueError, BlastlensError):
        remarks.append("The link's seed is no whole number from 0 on.")
    return Scene(classifier.folder.model_id, example, change, seed), tuple(remarks)


def name_of(example: Example) -> str:
    """What a link calls an example."""
    return example.path.stem
