"""Parquet: what its footer says is bounded before a page of it is decompressed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from evaluation.archive import check_size
from evaluation.errors import DatasetInvalid, DatasetTooLarge
from evaluation.forms.columns import Table, arrow_errors

_MOST_FOOTER_BYTES = 4 << 20
_MOST_ROWS = 1 << 31
_MAGIC = b"PAR1"


class ParquetTable(Table):
    """A table, read in batches of rows.

    Args:
        max_bytes: of all columns together, expanded.
    """

    form = "parquet"

    def __init__(self, path: Path, max_bytes: int) -> None:
        file_bytes = os.stat(path).st_size
        _check_footer(path, file_bytes)
        with arrow_errors("the data"):
            self._file = pq.ParquetFile(
                path, thrift_string_size_limit=_MOST_FOOTER_BYTES, thrift_container_size_limit=_MOST_FOOTER_BYTES
            )
        try:
            with arrow_errors("the data"):
                about = self._file.metadata
                self.rows = about.num_rows
                if not 0 <= self.rows < _MOST_ROWS:
                    raise DatasetTooLarge(f"the parquet table says that it has {self.rows:,} rows; send fewer samples")
                groups = [about.row_group(place) for place in range(about.num_row_groups)]
                check_size(sum(group.total_byte_size for group in groups), file_bytes, max_bytes, self.form)
                self._settle(self._file.schema_arrow, file_bytes, max_bytes)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def batches(self, name: str, rows: int) -> Iterator[Any]:
        for batch in self._file.iter_batches(batch_size=rows, columns=[name], use_threads=False):
            yield batch.column(name)


def _check_footer(path: Path, file_bytes: int) -> None:
    """pyarrow reads a footer of any size in a single piece, and expands what it says."""
    with path.open("rb") as file:
        file.seek(max(0, file_bytes - 8))
        end = file.read(8)
    footer_bytes = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or footer_bytes > file_bytes - 12:
        raise DatasetInvalid("the parquet file is cut off, or encrypted; write it again")
    if footer_bytes > _MOST_FOOTER_BYTES:
        raise DatasetTooLarge(
            f"the footer of the parquet file takes {footer_bytes:,} bytes, at most {_MOST_FOOTER_BYTES:,} are allowed: "
            "keep only the columns that the network takes, and write larger row groups"
        )
