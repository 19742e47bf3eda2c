"""A model that turns images into rows of the results table."""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .. import files
from ..classifier import Classifier
from ..corruptions import Corruption
from ..errors import BlastlensError
from ..image_sources import Found, Source
from ..images import ImageSource, printable
from ..integrity import digests
from ..model_folder import OOD_FEATURES, SAFETENSORS
from ..predictions import DISCLAIMER, Prediction
from ..zips import Zip
from .by_subject import COLUMNS, DecidesBySubject

SCHEMA_VERSION = 2
# What an answer depends on, beside the network's weights.
_SETTINGS = ("config.json", "preprocessor_config.json", "metrics.json", "gate.json", OOD_FEATURES)
_OPEN_ZIPS = 16  # kept open at once
_BATCH = 8  # images a thread takes at a time; with more, threads wait for each other at the end

Answer = Prediction | str  # or the sentence that says why there is none


@dataclass(frozen=True)
class Command:
    """What is scored, and how; arguments as `Classifier` takes them."""

    sources: tuple[str, ...]  # folders, zips, images and patterns, as they were given
    model: str  # bundled name, folder, or Hub repository
    precision: str = "fp32"
    sigma: float = 0.0
    seed: int = 0
    corruption: Corruption | None = None
    prevalence: float | None = None
    by_subject: bool = False  # adds the columns of `by_subject`
    subjects: str | None = None  # table of file_name and subject


class BatchScorer:
    """The model of a command; threads may share it.

    Attributes:
        command: with sources and a model that mean the same in another process.
        identity: what distinguishes this command from others, as JSON values: sources, model, its files, settings.
        schema: of the results; its metadata state the command.
    """

    def __init__(self, command: Command) -> None:
        """Load the model and score a black image, so that what cannot work fails before the work begins.

        Raises:
            BlastlensError: the model cannot be served, or a setting is out of range.
        """
        self._classifier = Classifier.from_pretrained(command.model, precision=command.precision, threads=1)
        folder = self._classifier.folder
        # Another process may have another working directory, and find another commit under a branch's name.
        model = f"{folder.model_id}@{folder.revision}" if folder.revision else str(folder.path.resolve())
        self.command = replace(command, model=model, sources=tuple(map(os.path.abspath, command.sources)))
        self._settings = (command.sigma, command.seed, command.corruption, command.prevalence)
        black = np.zeros((folder.view.size, folder.view.size, 3), np.uint8)
        sample = self._classifier.predict(black, *self._settings)
        self._constants = {
            "sigma": sample.sigma,
            "corruption": str(Corruption(**sample.corruption)) if sample.corruption else None,
            "prevalence": sample.prevalence,
            "model_id": sample.model_id,
            "revision": sample.revision,
            "precision": command.precision,
        }
        weights = folder.onnx_file(command.precision)
        network = weights.relative_to(folder.path).as_posix() if weights.is_file() else SAFETENSORS
        self.identity: dict[str, Any] = {
            "schema": SCHEMA_VERSION,
            "sources": list(self.command.sources),
            "seed": command.seed,
            "sha256": digests(folder.path, {file: file for file in (network, *_SETTINGS)}),
            **self._constants,
            **({"by_subject": command.subjects or True} if command.by_subject else {}),
        }
        if command.by_subject:
            self._decides = DecidesBySubject(self._classifier, command.subjects)
        self.schema = self._schema().with_metadata(
            {
                "blastlens.schema": str(SCHEMA_VERSION),
                "blastlens.disclaimer": DISCLAIMER,
                "blastlens.command": json.dumps(self.identity),
            }
        )
        self._open_zip = lru_cache(_OPEN_ZIPS)(Zip)

    def answers(self, images: Sequence[Found]) -> list[Answer]:
        """One answer per image, in order; an error becomes the answer of its image and stops nothing."""
        sources = [Source(one.name, partial(one.read, self._open_zip)) for one in images if one.error is None]
        outcomes: Iterator[Answer] = iter(self._answered(sources))
        return [next(outcomes) if image.error is None else image.error for image in images]

    def _answered(self, sources: Sequence[Source]) -> list[Answer]:
        images = cast(Sequence[ImageSource], sources)  # each has a name and can be read, as a file does
        try:
            outcomes = list(self._classifier.predict_each(images, *self._settings))
        except Exception as error:  # a bug that one image reveals must not stop millions of others
            if len(sources) > 1:
                return [answer for source in sources for answer in self._answered([source])]
            return [printable(f"{sources[0].name} could not be scored ({type(error).__name__}: {error}).")]
        return [printable(str(one)) if isinstance(one, BlastlensError) else one for one in outcomes]

    def write_part(self, file: Path, images: Sequence[Found], answers: Sequence[Answer]) -> None:
        """Write the rows of some images; raises BlastlensError where that fails."""
        told = [None if isinstance(answer, str) else answer for answer in answers]
        values: dict[str, list[Any]] = {
            "file": [image.name for image in images],
            "error": [answer if isinstance(answer, str) else None for answer in answers],
            **{f"p_{label}": [p and p.probabilities[label] for p in told] for label in self._classifier.label_names},
            **{name: [value] * len(told) for name, value in self._constants.items()},
        }
        for name in ("label", "flagged", "label_set", "in_domain", "warnings"):
            values[name] = [p and getattr(p, name) for p in told]
        if self.command.by_subject:
            values |= self._decides.columns([image.name for image in images], told)
        arrays = [pa.array(values[field.name], field.type) for field in self.schema]
        self.write(file, [pa.Table.from_arrays(arrays, schema=self.schema)])

    def write(self, file: Path, tables: Iterable[pa.Table]) -> None:
        """Write tables one below the other, each as one row group; raises BlastlensError where that fails."""
        # A dictionary of values that hardly repeat would only be a second copy.
        repeated = [name for name in self.schema.names if not name.startswith("p_") and name != "file"]
        repeated += ["label_set.list.element", "warnings.list.element"]

        def write(path: Path) -> None:
            with (
                path.open("wb") as out,  # opened here, since pyarrow wraps the system's errors
                pq.ParquetWriter(out, self.schema, compression="zstd", use_dictionary=repeated) as writer,
            ):
                for table in tables:
                    writer.write_table(table)

        files.replace(file, write)

    def _schema(self) -> pa.Schema:
        word = pa.dictionary(pa.int32(), pa.string())
        return pa.schema(
            [
                ("file", pa.string()),
                ("error", pa.string()),
                ("label", word),
                *((f"p_{label}", pa.float64()) for label in self._classifier.label_names),
                ("flagged", pa.bool_()),
                ("label_set", pa.list_(pa.string())),
                ("in_domain", pa.bool_()),
                ("warnings", pa.list_(pa.string())),
                ("sigma", pa.float64()),
                ("corruption", word),
                ("prevalence", pa.float64()),
                ("model_id", word),
                ("revision", word),
                ("precision", word),
                *(COLUMNS if self.command.by_subject else ()),
            ]
        )


def in_batches(images: Sequence[Found]) -> list[Sequence[Found]]:
    """Images that go to the classifier together: always the same ones, so that results are the same to the bit."""
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]


def part_file(work: Path, number: int) -> Path:
    """The results of a chunk in a work folder."""
    return work / f"part-{number:06d}.parquet"
