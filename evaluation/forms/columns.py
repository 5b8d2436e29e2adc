"""Tables: every column is an array, its rows the samples. Lists in a row, all of one length, are further axes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from evaluation.archive import Archive, ArrayHeader, check_count, check_size, reason
from evaluation.errors import DatasetError, DatasetInvalid, DatasetTooLarge

BATCH_BYTES = 16 << 20
LOOK_ROWS = 64
"""The lengths of lists are those of the first rows; all others must have the same."""


class Table(Archive):
    """A table whose batches of rows are read one after the other. A subclass opens the file, then calls `_settle`."""

    rows: int

    @abstractmethod
    def batches(self, name: str, rows: int) -> Iterator[Any]:
        """The column in pieces of about so many rows, as arrays of Arrow that may be looked into."""

    def _settle(self, schema: Any, file_bytes: int, max_bytes: int) -> None:
        """The headers of all columns, by their types and first rows."""
        check_count(len(schema.names), self.form)
        if len(set(schema.names)) < len(schema.names):
            raise DatasetInvalid(f"the {self.form} table has two columns of one name; rename one of them")
        headers = {}
        for field in schema:
            look = self._look(field.name) if _depth(field.name, field.type) else None
            shape = () if look is None else look.shape[1:]
            headers[field.name] = ArrayHeader(field.name, _dtype(field.name, field.type), (self.rows, *shape))
        self.headers = headers
        check_size(sum(header.size_bytes for header in headers.values()), file_bytes, max_bytes, self.form)

    def read(self, name: str) -> NDArray[np.generic]:
        return self.first(name, self.rows)

    def first(self, name: str, count: int) -> NDArray[np.generic]:
        header = self.headers[name]
        array = np.empty((min(count, self.rows), *header.shape[1:]), header.dtype)
        row_bytes = max(1, header.size_bytes // max(1, self.rows))
        place = 0
        with arrow_errors(f"column {name!r}"):
            for batch in self.batches(name, max(1, min(count, BATCH_BYTES // row_bytes))):
                values = values_of(name, batch[: len(array) - place], place)
                if values.shape[1:] != header.shape[1:] and len(values):
                    raise _lengths(name, place, values.shape[1:], header.shape[1:])
                array[place : place + len(values)] = values
                place += len(values)
                if place == len(array):
                    return array
        if place < len(array):
            raise DatasetInvalid(
                f"column {name[:80]!r} has {place:,} rows, its table says {self.rows:,}; write it again"
            )
        return array

    def _look(self, name: str) -> NDArray[np.generic] | None:
        with arrow_errors(f"column {name!r}"):
            batch = next(self.batches(name, LOOK_ROWS), None)
            return None if batch is None else values_of(name, batch[:LOOK_ROWS], 0)


def values_of(name: str, array: Any, row: int) -> NDArray[np.generic]:
    """An array of Arrow as `[rows, ...]`.

    Args:
        row: of the first one, for messages.

    Raises:
        DatasetInvalid: nulls, lists of different lengths, or values that are no numbers.
    """
    if isinstance(array.type, pa.FixedShapeTensorType):
        _refuse_nulls(name, array, row)
        return np.asarray(array.to_numpy_ndarray())
    if isinstance(array.type, pa.BaseExtensionType):
        return values_of(name, array.storage, row)
    _refuse_nulls(name, array, row)
    if pa.types.is_fixed_size_list(array.type):
        inner = values_of(name, array.flatten(), row)
        return inner.reshape(len(array), array.type.list_size, *inner.shape[1:])
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = np.asarray(array.value_lengths())
        if len(lengths) and (lengths != lengths[0]).any():
            other = int(np.argmax(lengths != lengths[0]))
            raise _lengths(name, row + other, (int(lengths[other]),), (int(lengths[0]),))
        inner = values_of(name, array.flatten(), row)
        return inner.reshape(len(array), int(lengths[0]) if len(lengths) else 0, *inner.shape[1:])
    if pa.types.is_dictionary(array.type):
        return values_of(name, array.dictionary_decode(), row)
    return np.asarray(array.to_numpy(zero_copy_only=False))


def _depth(name: str, kind: Any) -> int:
    """How many axes the lists of a column are."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return len(kind.shape)
    if isinstance(kind, pa.BaseExtensionType):
        return _depth(name, kind.storage_type)
    nested = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return 1 + _depth(name, kind.value_type) if nested else 0


def _dtype(name: str, kind: Any) -> np.dtype[np.generic]:
    """The type of the numbers of a column."""
    if isinstance(kind, pa.BaseExtensionType):
        return _dtype(name, kind.storage_type)
    if pa.types.is_dictionary(kind) or _depth(name, kind):
        return _dtype(name, kind.value_type)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        dtype: np.dtype[np.generic] = np.dtype(kind.to_pandas_dtype())
        return dtype
    remedy = "keep columns of numbers, or of lists of numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        remedy = "texts are prepared with a tokenizer (docs/samples.md), or leave the column out"
    elif pa.types.is_binary(kind) or pa.types.is_struct(kind):
        remedy = "images are prepared from a folder of them (docs/samples.md), or leave the column out"
    raise DatasetInvalid(f"column {name[:80]!r} holds {str(kind)[:80]}; expected numbers or booleans: {remedy}")


def _refuse_nulls(name: str, array: Any, row: int) -> None:
    if array.null_count:
        first = row + int(np.argmax(np.asarray(array.is_null())))
        raise DatasetInvalid(
            f"column {name[:80]!r} has no value in row {first:,} (counted from 0); expected one in every row: fill it "
            "in, or drop these rows"
        )


def _lengths(name: str, row: int, got: tuple[int, ...], expected: tuple[int, ...]) -> DatasetInvalid:
    return DatasetInvalid(
        f"column {name[:80]!r} holds lists of different lengths: {list(got)} at row {row:,}, {list(expected)} before; "
        "expected one length: fill the lists up, or save groups of one length each in an .npz or HDF5 file"
    )


@contextmanager
def arrow_errors(what: str) -> Iterator[None]:
    """What pyarrow raises on damaged files."""
    try:
        yield
    except DatasetError:
        raise
    except (MemoryError, pa.ArrowMemoryError) as error:
        raise DatasetTooLarge(f"reading {what} takes more memory than this process may use") from error
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError, OverflowError, EOFError) as error:
        raise DatasetInvalid(f"{what} cannot be read: {reason(error)}; write the file again") from error
