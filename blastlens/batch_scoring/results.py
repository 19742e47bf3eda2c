"""The table that comes out: its columns, the parts it is made of, and how they are put together."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..classifier import DISCLAIMER, Prediction
from .saving import replacing

SCHEMA_VERSION = 2
# Rows that are written together. Four times as many would make the file 3 % smaller, and this program 10 MB larger.
ROWS_TOGETHER = 4096
_WORD = pa.dictionary(pa.int32(), pa.string())

Answer = Prediction | str  # or the sentence that says why there is none


@dataclass(frozen=True)
class Table:
    """The columns of one run's results, of which those that are the same in every row are known beforehand.

    Attributes:
        labels: the model's, in its order.
        sigma, corruption, prevalence, model_id, revision, precision: how every image is asked about; a corruption is
            written as in "jpeg:40", and None where there is none.
    """

    labels: tuple[str, ...]
    sigma: float
    corruption: str | None
    prevalence: float | None
    model_id: str
    revision: str | None
    precision: str

    @property
    def schema(self) -> pa.Schema:
        """Names and types, in order."""
        return pa.schema(
            [
                ("file", pa.string()),
                ("error", pa.string()),
                ("label", _WORD),
                *((f"p_{label}", pa.float64()) for label in self.labels),
                ("flagged", pa.bool_()),
                ("label_set", pa.list_(pa.string())),
                ("in_domain", pa.bool_()),
                ("warnings", pa.list_(pa.string())),
                ("sigma", pa.float64()),
                ("corruption", _WORD),
                ("prevalence", pa.float64()),
                ("model_id", _WORD),
                ("revision", _WORD),
                ("precision", _WORD),
            ]
        )

    def rows(self, files: Sequence[str], answers: Sequence[Answer]) -> pa.Table:
        """One row per file, in order; an answer that is a sentence fills only the column `error`."""
        told = [None if isinstance(answer, str) else answer for answer in answers]
        values: dict[str, list[Any]] = {
            "file": list(files),
            "error": [answer if isinstance(answer, str) else None for answer in answers],
            "label": [p and p.label for p in told],
            **{f"p_{label}": [p and p.probabilities[label] for p in told] for label in self.labels},
            "flagged": [p and p.flagged for p in told],
            "label_set": [p and p.label_set for p in told],
            "in_domain": [p and p.in_domain for p in told],
            "warnings": [p and p.warnings for p in told],
        }
        for name in ("sigma", "corruption", "prevalence", "model_id", "revision", "precision"):
            values[name] = [getattr(self, name)] * len(told)
        arrays = [pa.array(values[field.name], field.type) for field in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def write(self, file: Path, work: Path, tables: Iterable[pa.Table], identity: dict[str, Any]) -> None:
        """Write tables of these columns as one file, by way of the work folder.

        Raises:
            BlastlensError: it cannot be written.
        """
        metadata = {
            "blastlens.schema": str(SCHEMA_VERSION),
            "blastlens.disclaimer": DISCLAIMER,
            "blastlens.command": json.dumps(identity),
        }
        schema = self.schema.with_metadata(metadata)
        # Of values that hardly ever come twice a dictionary would only be a second copy.
        repeated = [field.name for field in schema if not field.name.startswith("p_") and field.name != "file"]
        repeated += ["label_set.list.element", "warnings.list.element"]
        with (
            replacing(file, work) as out,
            pq.ParquetWriter(out, schema, compression="zstd", use_dictionary=repeated) as writer,
        ):
            for table in tables:
                writer.write_table(table, row_group_size=ROWS_TOGETHER)


def part_file(work: Path, number: int) -> Path:
    """Where a chunk's results are in a work folder once they are there."""
    return work / f"part-{number:06d}.parquet"


def is_whole(part: Path, rows: int) -> bool:
    """Whether a part is there, can be read and has as many rows as it should."""
    try:
        return pq.read_metadata(part).num_rows == rows
    except (OSError, pa.ArrowException):
        return False


@dataclass
class Tally:
    """What came out of the images that have passed through `merged`."""

    images: int = 0
    failed: int = 0
    unlike: int = 0

    def merged(self, parts: Iterable[Path]) -> Iterable[pa.Table]:
        """The rows of all parts in order, in tables of ROWS_TOGETHER; no more than that is in memory."""
        waiting: list[pa.Table] = []
        rows = 0
        for part in parts:
            table = pq.ParquetFile(part).read(use_threads=False)
            self.images += table.num_rows
            self.failed += table.num_rows - table["error"].null_count
            self.unlike += pc.sum(pc.equal(table["in_domain"], False)).as_py() or 0
            waiting.append(table.replace_schema_metadata(None))
            rows += table.num_rows
            while rows >= ROWS_TOGETHER:
                together = _in_one_piece(waiting)
                yield together[:ROWS_TOGETHER]
                waiting, rows = [together[ROWS_TOGETHER:]], rows - ROWS_TOGETHER
        if rows:
            yield _in_one_piece(waiting)


def _in_one_piece(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables one below the other, so that no trace is left of where they were joined."""
    return pa.concat_tables(tables).unify_dictionaries().combine_chunks()
