"""Arrow, as a file (Feather of version 2) or as a stream; a batch is validated before anything in it is looked at.

What Arrow writes is meant to be mapped into memory as it is: offsets in it that lie would be followed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from evaluation.errors import DatasetTooLarge
from evaluation.forms.columns import Table, arrow_errors

_FILE = b"ARROW1"
_MOST_BATCHES = 100_000


class ArrowTable(Table):
    """A table, mapped into memory and read batch by batch.

    Args:
        max_bytes: of all columns together, expanded.
    """

    form = "arrow"

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        with path.open("rb") as file:
            self._is_stream = file.read(len(_FILE)) != _FILE
        self.rows = size_bytes = 0
        with arrow_errors("the data"):
            schema = None
            for place, batch in enumerate(self._record_batches()):
                schema = schema or batch.schema
                self.rows += batch.num_rows
                size_bytes += batch.nbytes
                if size_bytes > max_bytes or place >= _MOST_BATCHES:
                    raise DatasetTooLarge(
                        f"the arrow table has more than {max_bytes:,} bytes or {_MOST_BATCHES:,} batches: send fewer "
                        "samples"
                    )
            self._settle(schema or pa.schema([]), os.stat(path).st_size, max_bytes)

    def close(self) -> None:
        """Each look at the file closes it again."""

    def batches(self, name: str, rows: int) -> Iterator[Any]:
        for batch in self._record_batches([name]):
            column = batch.column(0)
            for start in range(0, len(column), rows):
                yield column[start : start + rows]

    def _record_batches(self, names: list[str] | None = None) -> Iterator[Any]:
        """Validated batches of these columns, or of all."""
        with pa.memory_map(os.fspath(self._path)) as source:
            options = pa.ipc.IpcReadOptions(use_threads=False, ensure_native_endian=True)
            if self._is_stream:
                reader = pa.ipc.open_stream(source, options=options)
                batches = iter(reader)
            else:
                reader = pa.ipc.open_file(source, options=options)
                batches = (reader.get_batch(place) for place in range(reader.num_record_batches))
            for batch in batches:
                chosen = batch if names is None else batch.select(names)
                chosen.validate(full=True)
                yield chosen
