"""What a run is about to score, kept on disk: one row per image, one row group per chunk, and whose run it is."""

import json
from collections.abc import Callable, Iterable
from itertools import islice
from os import fsdecode, fsencode
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import BlastlensError
from .saving import replacing
from .walk import Found

LISTING = "listing.parquet"
_IDENTITY = b"blastlens.command"
# Paths are bytes to the system, and not all of them are text.
_SCHEMA = pa.schema([("file", pa.string()), ("path", pa.binary()), ("place", pa.int64()), ("error", pa.string())])


def write_listing(
    file: Path, found: Iterable[Found], identity: dict[str, Any], chunk: int, tick: Callable[[int], None]
) -> None:
    """Write what was found as it comes in, `chunk` images to a row group, and tell `tick` of each so many.

    Raises:
        BlastlensError: nothing was found, or the file cannot be written.
    """
    schema = _SCHEMA.with_metadata({_IDENTITY: json.dumps(identity)})
    stream = iter(found)
    nothing = True
    with (
        replacing(file, file.parent) as out,
        pq.ParquetWriter(out, schema, compression="zstd", write_statistics=False) as writer,
    ):
        while rows := list(islice(stream, chunk)):
            nothing = False
            names, paths, places, errors = zip(*rows, strict=True)
            columns = [names, [fsencode(path) for path in paths], places, errors]
            arrays = [pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema), row_group_size=chunk)
            tick(len(rows))
        if nothing:
            raise BlastlensError("No image was found; give folders, zips or patterns that hold some.")


class Listing:
    """A written listing.

    Attributes:
        identity: of the run, as it was given to `write_listing`.
        images: how many there are.
        sizes: of the chunks, in images.
    """

    def __init__(self, file: Path) -> None:
        """Open it; raises BlastlensError where it is damaged."""
        try:
            self._file = pq.ParquetFile(file)
            metadata = self._file.metadata
            self.identity: dict[str, Any] = json.loads(metadata.metadata[_IDENTITY])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
            raise BlastlensError(f"{file} is damaged; delete {file.parent} and start again.") from error
        self.images: int = metadata.num_rows
        self.sizes = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]

    def chunk(self, number: int) -> list[Found]:
        """One chunk's images, in order."""
        columns = self._file.read_row_group(number, use_threads=False).to_pydict()
        paths = [fsdecode(path) for path in columns["path"]]
        return [Found(*row) for row in zip(columns["file"], paths, columns["place"], columns["error"], strict=True)]
