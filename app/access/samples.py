"""Counting the samples of a dataset without reading it: the headers of an .npz that anybody may have sent."""

from __future__ import annotations

import ast
import io
import struct
import zipfile
import zlib
from typing import BinaryIO, cast

from app.errors import AppError

INDEX_BYTES = 1 << 20
"""As in `evaluation.archive`: what has a larger index is no dataset for a job either."""
_HEADER_BYTES = 10_000
_MAGIC = b"\x93NUMPY"
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    SyntaxError,
    NotImplementedError,
    RuntimeError,
)


class _Bounded(io.RawIOBase):
    """A file that never hands out more than `INDEX_BYTES` at once: an index may claim to be as large as the file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= INDEX_BYTES:
            begin = self._file.tell()
            rest = self._file.seek(0, io.SEEK_END) - begin
            self._file.seek(begin)
            if rest > INDEX_BYTES:
                raise ValueError(f"its index has more than {INDEX_BYTES} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def count_samples(contents: BinaryIO) -> int:
    """The largest first axis of the arrays; leaves the file where it was.

    Raises:
        AppError: `dataset_invalid` for what is no .npz whose headers can be read.
    """
    begin = contents.tell()
    try:
        with zipfile.ZipFile(cast("BinaryIO", _Bounded(contents))) as archive:
            return max((_first_axis(archive, info) for info in archive.infolist()), default=0)
    except _BROKEN as error:
        raise AppError(
            "dataset_invalid",
            f"the samples cannot be counted: {str(error)[:200]}. Save the arrays again with numpy.savez",
        ) from None
    finally:
        contents.seek(begin)


def _first_axis(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    with archive.open(info) as member:
        start = member.read(len(_MAGIC) + 2)
        if start[:-2] != _MAGIC or start[-2] not in (1, 2):
            raise ValueError(f"{info.filename[:80]!r} is no array")
        length_bytes = 2 if start[-2] == 1 else 4
        (length,) = struct.unpack("<H" if length_bytes == 2 else "<I", member.read(length_bytes).ljust(length_bytes))
        if length > _HEADER_BYTES:
            raise ValueError(f"the header of {info.filename[:80]!r} is too long")
        header = ast.literal_eval(member.read(length).decode("latin-1").strip())
    shape = header.get("shape") if isinstance(header, dict) else None
    if not isinstance(shape, tuple) or not all(isinstance(axis, int) for axis in shape):
        raise ValueError(f"{info.filename[:80]!r} has no shape")
    return shape[0] if shape else 0
