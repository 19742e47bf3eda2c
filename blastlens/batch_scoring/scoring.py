"""One command, and what it makes of some images. Where the images come from and the answers go is others' work."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np

from ..classifier import Classifier
from ..corruptions import Corruption
from ..errors import BlastlensError
from ..files import Zip, printable, read_file
from ..image_sources import Source
from ..images import ImageSource
from ..model_folder import GATE_FEATURES, SAFETENSORS
from .results import SCHEMA_VERSION, Answer, Table
from .walk import Found

# What an answer depends on, beside the network's weights.
_SETTINGS = ("config.json", "preprocessor_config.json", "metrics.json", "gate.json", GATE_FEATURES)
# Zips that are kept open at once.
_OPEN_ZIPS = 16
# Images that a thread takes at a time. More would only make the last ones of a run wait for each other.
_BATCH = 8


@dataclass(frozen=True)
class Command:
    """What is to be scored, and how; arguments as `Classifier` takes them.

    Attributes:
        sources: folders, zips, images and patterns, as they were given.
        model: bundled name, folder, or Hub repository.
    """

    sources: tuple[str, ...]
    model: str
    precision: str = "fp32"
    sigma: float = 0.0
    seed: int = 0
    corruption: Corruption | None = None
    prevalence: float | None = None


class Scorer:
    """A command's model, ready to be asked by several threads at once.

    Attributes:
        command: with sources and a model that mean the same in another process.
        table: of the results.
        identity: what tells this command from others, as plain JSON values: sources, model, files of it, settings.
    """

    def __init__(self, command: Command) -> None:
        """Load the model and ask it about a black image, so that what cannot work fails before the work begins.

        Raises:
            BlastlensError: the model cannot be served, or a setting is out of range.
        """
        self._classifier = Classifier.from_pretrained(command.model, precision=command.precision, threads=1)
        folder = self._classifier.folder
        # Another process need not be in this working directory, nor find the same commit under a branch's name.
        model = f"{folder.model_id}@{folder.revision}" if folder.revision else str(folder.path.resolve())
        self.command = replace(command, model=model, sources=tuple(map(os.path.abspath, command.sources)))
        self._settings = (command.sigma, command.seed, command.corruption, command.prevalence)
        black = np.zeros((folder.view.size, folder.view.size, 3), np.uint8)
        sample = self._classifier.predict(black, *self._settings)
        corruption = str(Corruption(**sample.corruption)) if sample.corruption else None
        self.table = Table(
            self._classifier.label_names,
            sample.sigma,
            corruption,
            sample.prevalence,
            sample.model_id,
            sample.revision,
            command.precision,
        )
        weights = folder.onnx_file(command.precision)
        files = [weights if weights.is_file() else folder.path / SAFETENSORS, *(folder.path / f for f in _SETTINGS)]
        self.identity: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "sources": list(self.command.sources),
            "model_id": sample.model_id,
            "revision": sample.revision,
            "sha256": {
                file.relative_to(folder.path).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
                for file in files
                if file.is_file()
            },
            "precision": command.precision,
            "sigma": sample.sigma,
            "seed": command.seed,
            "corruption": corruption,
            "prevalence": sample.prevalence,
        }
        # Two runs may hold two zips of one name, so each scorer opens its own.
        self._zip = lru_cache(_OPEN_ZIPS)(Zip)

    def answers(self, images: Sequence[Found]) -> list[Answer]:
        """One answer per image, in order; whatever is wrong with one is said in its place and stops nothing."""
        sources = [self._source(image) for image in images if image.error is None]
        outcomes: Iterator[Answer] = iter(self._answered(sources))
        return [next(outcomes) if image.error is None else image.error for image in images]

    def save(self, part: Path, images: Sequence[Found], answers: Sequence[Answer]) -> None:
        """Write a part of the results; raises BlastlensError where that cannot be done."""
        rows = self.table.rows([image.file for image in images], answers)
        self.table.write(part, part.parent, [rows], self.identity)

    def _source(self, image: Found) -> Source:
        if image.place is None:
            return Source(image.file, lambda: read_file(image.path))
        place = image.place
        return Source(image.file, lambda: self._zip(image.path).read(place, image.file))

    def _answered(self, sources: Sequence[Source]) -> list[Answer]:
        images = cast(Sequence[ImageSource], sources)  # each has a name and can be read, as a file does
        try:
            outcomes = list(self._classifier.predict_each(images, *self._settings))
        except Exception as error:
            # Nobody thought of this one. Among millions of images it must not stop the others, nor be left out.
            if len(sources) > 1:
                return [answer for source in sources for answer in self._answered([source])]
            return [printable(f"{sources[0].name} could not be scored ({type(error).__name__}: {error}).")]
        return [printable(str(one)) if isinstance(one, BlastlensError) else one for one in outcomes]


def in_batches(images: Sequence[Found]) -> list[Sequence[Found]]:
    """Images that go to the classifier together: always the same ones, so that answers never differ by a bit."""
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]
