"""Safetensors: a short JSON header and the data of the tensors, read by the library that defines the form."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from evaluation.archive import INDEX_BYTES, Archive, ArrayHeader, check_count, check_size, reason
from evaluation.errors import DatasetInvalid, DatasetTooLarge

_DTYPES = {
    "BOOL": "bool",
    "F16": "float16",
    "F32": "float32",
    "F64": "float64",
    **{f"{kind}{bits}": f"{name}{bits}" for kind, name in (("I", "int"), ("U", "uint")) for bits in (8, 16, 32, 64)},
}


class SafetensorsFile(Archive):
    """Arrays by the names of the tensors; what stands before a slash is a group.

    Args:
        max_bytes: of all arrays together.
    """

    form = "safetensors"

    def __init__(self, path: Path, max_bytes: int) -> None:
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > INDEX_BYTES:
            raise DatasetTooLarge(
                f"the header of the safetensors file takes {header_bytes:,} bytes, at most {INDEX_BYTES:,} are "
                "allowed: save only the arrays that the network takes, and labels"
            )
        with ExitStack() as stack, _errors("the data"):
            self._file: Any = stack.enter_context(safe_open(path, framework="np"))
            names = list(self._file.keys())
            check_count(len(names), self.form)
            self.headers = {name: self._header(name) for name in names}
            total = sum(header.size_bytes for header in self.headers.values())
            check_size(total, os.stat(path).st_size, max_bytes, self.form)
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def read(self, name: str) -> NDArray[np.generic]:
        with _errors(f"array {name!r}"):
            array: NDArray[np.generic] = self._file.get_tensor(name)
            return array

    def first(self, name: str, count: int) -> NDArray[np.generic]:
        if not self.headers[name].shape:
            return self.read(name)
        with _errors(f"array {name!r}"):
            array: NDArray[np.generic] = self._file.get_slice(name)[: min(count, self.headers[name].shape[0])]
            return array

    def _header(self, name: str) -> ArrayHeader:
        part = self._file.get_slice(name)
        dtype = _DTYPES.get(part.get_dtype())
        if dtype is None:
            raise DatasetInvalid(
                f"array {name[:80]!r} has the type {part.get_dtype()}; expected floats (16, 32 or 64 bits), integers "
                "or booleans: convert it before saving"
            )
        return ArrayHeader(name, np.dtype(dtype), tuple(part.get_shape()))


@contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError as error:
        raise DatasetTooLarge(f"reading {what} takes more memory than this process may use") from error
    except (SafetensorError, OverflowError) as error:
        raise DatasetInvalid(
            f"{what} cannot be read as safetensors: {reason(error)}; save it again with safetensors.numpy.save_file"
        ) from error
