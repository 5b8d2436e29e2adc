"""NumPy's own form of one array, alone in a file or a member of a zip archive: no pickle, and no size that lies."""

from __future__ import annotations

import math
import os
import tokenize
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from evaluation.archive import Archive, ArrayHeader, check_size, reason
from evaluation.errors import DatasetError, DatasetInvalid, DatasetTooLarge

NAME = "samples"
"""What the only array of a file is called: with one graph input its array may have any name."""


_OF_NUMPY: tuple[type[Exception], ...] = (
    tokenize.TokenError,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,  # an offset that points before the file
    OverflowError,
    RecursionError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True, slots=True)
class NpyHeader(ArrayHeader):
    """The header of an array, and where its data are."""

    fortran: bool
    """Whether the last axis is the slowest."""
    offset: int
    """Where its data begin, in bytes."""


def read_header(file: IO[bytes], name: str, size_bytes: int) -> NpyHeader:
    """The header that `file` begins with, which agrees to the byte with its size.

    Raises:
        DatasetInvalid: another version of the format, a type that is not taken, or more or fewer data than it says.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy warns of headers that Python 2 wrote; it reads them all the same
        version = np.lib.format.read_magic(file)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(file)
        else:
            raise DatasetInvalid(f"array {name!r} has the .npy format {version}; save it with numpy.savez")
    offset = file.tell()
    header = NpyHeader(name, dtype, tuple(map(int, shape)), bool(fortran), offset)
    if header.size_bytes != size_bytes - offset:
        raise DatasetInvalid(
            f"array {name!r} of shape {shape} and type {dtype} takes {header.size_bytes:,} bytes, but "
            f"{size_bytes - offset:,} are there: the file is damaged; save it again with numpy.savez"
        )
    return header


def first_rows(file: IO[bytes], header: NpyHeader, count: int) -> NDArray[np.generic]:
    """The first `count` samples of an array whose samples lie one after the other; `file` stands at its beginning."""
    shape = (min(count, header.shape[0]), *header.shape[1:])
    file.read(header.offset)
    data = file.read(math.prod(shape) * header.dtype.itemsize)
    return np.frombuffer(data, header.dtype).reshape(shape)


class NpyFile(Archive):
    """One array, the samples of the only input.

    Args:
        max_bytes: of the array.
    """

    form = "npy"

    def __init__(self, path: Path, max_bytes: int) -> None:
        size_bytes = os.stat(path).st_size
        self._file = path.open("rb")
        try:
            with numpy_errors("the data"):
                self._header = read_header(self._file, NAME, size_bytes)
            check_size(self._header.size_bytes, size_bytes, max_bytes, self.form)
        except BaseException:
            self._file.close()
            raise
        self.headers = {NAME: self._header}

    def close(self) -> None:
        self._file.close()

    def read(self, name: str) -> NDArray[np.generic]:
        with numpy_errors(f"array {name!r}"):
            self._file.seek(0)
            array: NDArray[np.generic] = np.lib.format.read_array(self._file, allow_pickle=False)
            return array

    def first(self, name: str, count: int) -> NDArray[np.generic]:
        if not self._header.shape or self._header.fortran:
            return self.read(name)[:count] if self._header.shape else self.read(name)
        with numpy_errors(f"array {name!r}"):
            self._file.seek(0)
            return first_rows(self._file, self._header, count)


@contextmanager
def numpy_errors(what: str, *more: type[Exception]) -> Iterator[None]:
    """What numpy, and a reader below it with errors of its own, raise on damaged files, as our own errors."""
    try:
        yield
    except DatasetError:
        raise
    except MemoryError as error:
        raise DatasetTooLarge(f"reading {what} takes more memory than this process may use") from error
    except (*_OF_NUMPY, *more) as error:
        raise DatasetInvalid(
            f"{what} cannot be read: {reason(error)}; save the arrays again with numpy.savez"
        ) from error
