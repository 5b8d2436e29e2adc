"""Counting the samples of a dataset without reading it: the headers of arrays that anybody may have sent.

Only forms whose headers Python alone can read are counted here: .npz, .npy and safetensors. This process loads no
library that parses what users send.
"""

from __future__ import annotations

import ast
import io
import json
import struct
import zipfile
import zlib
from typing import IO, BinaryIO, cast

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
    LookupError,
    TypeError,
    AttributeError,
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
        AppError: `dataset_invalid` for what is of another form, or of none.
    """
    begin = contents.tell()
    try:
        start = contents.read(9)
        contents.seek(begin)
        if start.startswith(_MAGIC):
            return _first_axis(contents, "samples")
        if start[8:] == b"{":
            return _of_safetensors(contents)
        with zipfile.ZipFile(cast("BinaryIO", _Bounded(contents))) as archive:
            return max((_of_member(archive, info) for info in archive.infolist() if not info.is_dir()), default=0)
    except _BROKEN as error:
        raise AppError(
            "dataset_invalid",
            f"the samples cannot be counted, of which the project has a quota: {str(error)[:200]}. They are counted "
            "in .npz, .npy and safetensors: save the arrays again, e.g. with numpy.savez",
        ) from None
    finally:
        contents.seek(begin)


def _of_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> int:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others choose their own memory
        raise ValueError(f"{info.filename[:80]!r} is compressed in an unusual way")
    with archive.open(info) as member:
        return _first_axis(member, info.filename)


def _of_safetensors(contents: IO[bytes]) -> int:
    length = int.from_bytes(contents.read(8), "little")
    if length > INDEX_BYTES:
        raise ValueError(f"its header has more than {INDEX_BYTES} bytes")
    header = json.loads(contents.read(length))
    shapes = [about["shape"] for name, about in header.items() if name != "__metadata__"]
    return max((int(shape[0]) for shape in shapes if shape), default=0)


def _first_axis(member: IO[bytes], name: str) -> int:
    start = member.read(len(_MAGIC) + 2)
    if start[:-2] != _MAGIC or start[-2] not in (1, 2):
        raise ValueError(f"{name[:80]!r} is no array")
    length_bytes = 2 if start[-2] == 1 else 4
    (length,) = struct.unpack("<H" if length_bytes == 2 else "<I", member.read(length_bytes).ljust(length_bytes))
    if length > _HEADER_BYTES:
        raise ValueError(f"the header of {name[:80]!r} is too long")
    header = ast.literal_eval(member.read(length).decode("latin-1").strip())
    shape = header.get("shape") if isinstance(header, dict) else None
    if not isinstance(shape, tuple) or not all(isinstance(axis, int) for axis in shape):
        raise ValueError(f"{name[:80]!r} has no shape")
    return shape[0] if shape else 0
