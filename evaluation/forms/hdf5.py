"""HDF5: datasets as arrays, groups as groups. Nothing in it may lead out of the file, or load code.

HDF5 can link to other files, map datasets onto other files, keep data in other files, and load filters from the disk by
number. Each of these is refused before anything is read; of filters only those within h5py are used.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from evaluation.archive import MOST_ARRAYS, Archive, ArrayHeader, check_count, check_size, reason
from evaluation.errors import DatasetError, DatasetInvalid, DatasetTooLarge

_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32, h5py.h5z.FILTER_LZF}
_MOST_CHUNK_BYTES = 256 << 20
"""A chunk is read as a whole."""
_MOST_LEVELS = 4
_MOST_MEMBERS = MOST_ARRAYS * (_MOST_LEVELS + 1)
"""Each array may lie in groups of its own. Groups that share groups have more paths than any memory holds."""


class Hdf5File(Archive):
    """Arrays by the paths of the datasets; what stands before a slash is a group.

    Args:
        max_bytes: of all arrays together, expanded.
    """

    form = "hdf5"

    def __init__(self, path: Path, max_bytes: int) -> None:
        with _errors("the data"):
            self._file = h5py.File(path, "r", driver="sec2", locking=False)
        try:
            with _errors("the data"):
                self._datasets = dict(_datasets(self._file))
                check_count(len(self._datasets), "HDF5 file")
                self.headers = {name: _header(name, dataset) for name, dataset in self._datasets.items()}
            total = sum(header.size_bytes for header in self.headers.values())
            check_size(total, os.stat(path).st_size, max_bytes, "HDF5 file")
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> NDArray[np.generic]:
        with _errors(f"array {name!r}"):
            return np.asarray(self._datasets[name][()])

    def first(self, name: str, count: int) -> NDArray[np.generic]:
        if not self.headers[name].shape:
            return self.read(name)
        with _errors(f"array {name!r}"):
            return np.asarray(self._datasets[name][:count])


def _datasets(file: Any) -> Iterator[tuple[str, Any]]:
    for count, (name, member) in enumerate(_members(file, "", 0)):
        if count == _MOST_MEMBERS:
            raise DatasetTooLarge(
                f"the HDF5 file holds more than {_MOST_MEMBERS} groups and arrays, at most {MOST_ARRAYS} arrays are "
                "allowed: save only those that the network takes"
            )
        if isinstance(member, h5py.Dataset):
            yield name, member


def _members(group: Any, prefix: str, level: int) -> Iterator[tuple[str, Any]]:
    if len(group) > MOST_ARRAYS:
        raise DatasetTooLarge(f"the HDF5 file holds {len(group):,} arrays, at most {MOST_ARRAYS} are allowed")
    if level > _MOST_LEVELS:  # also of a group that holds itself
        raise DatasetInvalid(f"the HDF5 file nests groups more than {_MOST_LEVELS} levels deep; save arrays in groups")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise DatasetInvalid(
                f"{prefix}{name[:80]!r} in the HDF5 file is a link; expected the array itself: copy it into the file"
            )
        member = group[name]
        yield f"{prefix}{name}", member
        if isinstance(member, h5py.Group):
            yield from _members(member, f"{prefix}{name}/", level + 1)


def _header(name: str, dataset: Any) -> ArrayHeader:
    if dataset.is_virtual or dataset.external:
        raise DatasetInvalid(
            f"array {name[:80]!r} keeps its data in other files; expected them in this one: copy the array"
        )
    if dataset.shape is None:
        raise DatasetInvalid(f"array {name[:80]!r} is empty, without a shape; expected samples along the first axis")
    header = ArrayHeader(name, dataset.dtype, tuple(map(int, dataset.shape)))
    made = dataset.id.get_create_plist()
    filters = {made.get_filter(place)[0] for place in range(made.get_nfilters())}
    if not filters <= _FILTERS:
        raise DatasetInvalid(
            f"array {name[:80]!r} is compressed by a plugin (number {min(filters - _FILTERS)}); expected gzip, lzf or "
            "none: save it with compression='gzip'"
        )
    chunk_bytes = math.prod(dataset.chunks) * dataset.dtype.itemsize if dataset.chunks else 0
    if chunk_bytes > _MOST_CHUNK_BYTES:
        raise DatasetTooLarge(
            f"array {name[:80]!r} has chunks of {chunk_bytes:,} bytes, at most {_MOST_CHUNK_BYTES:,} are allowed: save "
            "it without chunks"
        )
    return header


@contextmanager
def _errors(what: str) -> Iterator[None]:
    """What h5py raises on damaged files."""
    try:
        yield
    except DatasetError:
        raise
    except MemoryError as error:
        raise DatasetTooLarge(f"reading {what} takes more memory than this process may use") from error
    except (OSError, RuntimeError, ValueError, TypeError, LookupError, OverflowError, NotImplementedError) as error:
        raise DatasetInvalid(f"{what} cannot be read as HDF5: {reason(error)}; save the file again") from error
