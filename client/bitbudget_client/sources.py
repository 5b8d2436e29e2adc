"""What is uploaded: a file, bytes or arrays, read as often as it takes."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO
from zipfile import ZipFile, ZipInfo

import httpx

from bitbudget_client.data_files import with_data_files

PART_BYTES = 1024 * 1024

_PREPARED = frozenset({".csv", ".tsv", ".jsonl", ".txt"})
"""Tables and texts, which only their owner knows how to make into arrays."""

Source = str | os.PathLike[str] | bytes | Mapping[str, Any]
"""A path; the bytes of a file; or, for samples, arrays by the names of the network's inputs."""


@dataclass(frozen=True, slots=True)
class Contents:
    """Bytes with a size, in a file or in memory. `name` is None where nobody gave one."""

    where: Path | bytes
    name: str | None
    size_bytes: int

    def open(self) -> BinaryIO:
        """The bytes from their start."""
        return self.where.open("rb") if isinstance(self.where, Path) else BytesIO(self.where)

    def sha256(self) -> str:
        """The digest, which is the id of the upload."""
        digest = hashlib.sha256()
        with self.open() as file:
            while part := file.read(PART_BYTES):
                digest.update(part)
        return digest.hexdigest()


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The contents from `start` on, as the body of a request; `sent` gets the bytes that were sent so far."""

    def __init__(self, contents: Contents, sent: Callable[[int], None], start: int = 0) -> None:
        self._contents = contents
        self._sent = sent
        self._start = start

    @property
    def size_bytes(self) -> int:
        return self._contents.size_bytes - self._start

    def __iter__(self) -> Iterator[bytes]:
        total = self._start
        with self._contents.open() as file:
            file.seek(total)
            while part := file.read(PART_BYTES):
                yield part
                total += len(part)
                self._sent(total)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


@contextmanager
def contents_of(kind: str, source: Source) -> Iterator[Contents]:
    """The bytes to upload of a `model` (its data files packed with it) or a `dataset`, as long as the block runs.

    Raises:
        OSError: there is no such file.
        TypeError: arrays stand where a model is expected, or a folder or table where a file of arrays is.
    """
    if isinstance(source, bytes):
        yield Contents(source, None, len(source))
    elif isinstance(source, Mapping):
        if kind != "dataset":
            raise TypeError(f"a {kind} is a path or bytes, got a mapping; arrays are what samples are given as")
        with tempfile.TemporaryDirectory(prefix="bitbudget-") as folder:
            path = Path(folder) / "samples.npz"
            _write_arrays(path, source)
            yield Contents(path, None, path.stat().st_size)
    else:
        path = Path(source)
        if path.is_dir() or (kind == "dataset" and path.suffix.lower() in _PREPARED):
            raise TypeError(
                f"{path} is no file that can be sent as it is; for samples make arrays of it with "
                "bitbudget_client.samples.read, which says how"
            )
        if kind == "model":
            with with_data_files(path) as packed:
                yield Contents(packed, path.name, packed.stat().st_size)
        else:
            yield Contents(path, path.name, path.stat().st_size)


def _write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    try:
        import numpy
    except ImportError:
        raise TypeError("samples as arrays need numpy: pip install numpy, or give the path of an .npz") from None
    with ZipFile(path, "w") as archive:  # numpy.savez takes no array called "file"
        for name, array in arrays.items():
            with archive.open(ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                numpy.lib.format.write_array(member, numpy.asarray(array), allow_pickle=False)
