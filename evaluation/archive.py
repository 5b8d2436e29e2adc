"""Reading an .npz that anybody may have sent: headers first, no pickle, nothing expanded before it is bounded.

A zip file of 255 KiB can expand to 256 MiB, its index can be larger than its content, and sizes can lie. So: the
index is read through a bounded window; declared sizes are summed and compared with the size of the file on the disk
(not with the declared compressed sizes); a member never yields more than it declares (`zipfile` cuts it off, and the
checksum tells); each array's header must agree with its member's size to the byte before its data are read.
"""

from __future__ import annotations

import math
import os
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import DatasetError, DatasetInvalid, DatasetTooLarge

_SUFFIX = ".npy"
INDEX_BYTES = 1 << 20
_ENCRYPTED = 1
# Integers, booleans, and floats of 16, 32 and 64 bits; never objects, strings or records.
_KINDS = frozenset({"b", "i", "u", "f"})
_MOST_DIMENSIONS = 32
_MOST_ARRAYS = 64
# Expanded bytes per byte of the file, counted once the arrays exceed `_RATIO_FROM_BYTES`: constant masks and labels
# compress a thousandfold and harm nobody while they are small.
_MOST_RATIO = 100
_RATIO_FROM_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What an array says of itself before its data are read."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    fortran: bool = False
    """Whether the last axis is the slowest."""
    offset: int = 0
    """Where its data begin, in bytes."""


class BoundedFile(BufferedReader):
    """A file that refuses to hand out more than `most` bytes at once, while `most` is set.

    Args:
        raw: the file.
        refusal: the error for so many bytes that are more than so many.
    """

    def __init__(self, raw: FileIO, refusal: Callable[[int, int], Exception]) -> None:
        super().__init__(raw)
        self.most: int | None = None
        self._refusal = refusal

    def read(self, size: int | None = -1, /) -> bytes:
        if self.most is not None:
            rest = os.fstat(self.fileno()).st_size - self.tell()
            wanted = rest if size is None or size < 0 else min(size, rest)
            if wanted > self.most:
                raise self._refusal(wanted, self.most)
        return super().read(size)


def _index_too_large(size: int, most: int) -> DatasetTooLarge:
    return DatasetTooLarge(
        f"the index of the .npz takes {size:,} bytes, at most {most:,} are allowed: "
        "save the arrays again with numpy.savez"
    )


class Archive:
    """An open .npz whose headers have been read and checked. Use it as a context manager.

    Args:
        max_bytes: of all arrays together, expanded.

    Raises:
        DatasetInvalid: not an .npz, damaged, or an array of a type that is not taken.
        DatasetTooLarge: more arrays, bytes or compression than is allowed.
    """

    form = "npz"

    def __init__(self, path: Path | str, max_bytes: int) -> None:
        file_bytes = os.stat(path).st_size
        self._file = BoundedFile(FileIO(os.fspath(path)), _index_too_large)
        try:
            with _zip_errors("the data"):
                self._zip = _open_index(self._file, path)
                self._members = _members(self._zip)
            _check_size(sum(info.file_size for info in self._members.values()), file_bytes, max_bytes)
            self.headers = {name: self._header(name) for name in self._members}
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()
        self._file.close()

    def read(self, name: str) -> NDArray[np.generic]:
        """The array `name`, with its checksum verified.

        Raises:
            DatasetInvalid: its data are damaged.
        """
        with _zip_errors(f"array {name!r}"), self._zip.open(self._members[name]) as member:
            array: NDArray[np.generic] = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):  # also makes zipfile compare the checksum of what is now its end
                raise DatasetInvalid(f"array {name!r} has data behind its end; save it again with numpy.savez")
        return array

    def first(self, name: str, count: int) -> NDArray[np.generic]:
        """The first `count` samples of the array `name`, its data not read any further; all of one in Fortran's order.

        Raises:
            DatasetInvalid: its data are damaged.
        """
        header = self.headers[name]
        if not header.shape or count >= header.shape[0] or header.fortran:
            return self.read(name)[:count] if header.shape else self.read(name)
        shape = (count, *header.shape[1:])
        with _zip_errors(f"array {name!r}"), self._zip.open(self._members[name]) as member:
            member.read(header.offset)
            data = member.read(math.prod(shape) * header.dtype.itemsize)
            return np.frombuffer(data, header.dtype).reshape(shape)

    def _header(self, name: str) -> ArrayHeader:
        info = self._members[name]
        with _zip_errors(f"array {name!r}"), self._zip.open(info) as member, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy warns of headers that Python 2 wrote; it reads them all the same
            version = np.lib.format.read_magic(member)
            if version == (1, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(member)
            elif version == (2, 0):
                shape, fortran, dtype = np.lib.format.read_array_header_2_0(member)
            else:
                raise DatasetInvalid(f"array {name!r} has the .npy format {version}; save it with numpy.savez")
            offset = member.tell()
        data_bytes = info.file_size - offset
        if dtype.kind not in _KINDS or dtype.itemsize > 8:
            raise DatasetInvalid(
                f"array {name!r} has the type {str(dtype)[:60]}; expected floats (16, 32 or 64 bits), integers or "
                "booleans: convert it with .astype before saving"
            )
        if len(shape) > _MOST_DIMENSIONS or any(length < 0 for length in shape):
            raise DatasetInvalid(f"array {name!r} has an impossible shape {shape[:8]}; save it again with numpy.savez")
        if math.prod(shape) * dtype.itemsize != data_bytes:
            raise DatasetInvalid(
                f"array {name!r} of shape {shape} and type {dtype} takes {math.prod(shape) * dtype.itemsize:,} bytes, "
                f"but {data_bytes:,} are there: the file is damaged; save it again with numpy.savez"
            )
        return ArrayHeader(name, dtype, tuple(map(int, shape)), fortran, offset)


def open_archive(path: Path | str, max_bytes: int) -> Archive:
    """The arrays at `path`, opened."""
    return Archive(path, max_bytes)


def _open_index(file: BoundedFile, path: Path | str) -> zipfile.ZipFile:
    """The zip index. `zipfile` would read one of any size in a single piece."""
    file.most = INDEX_BYTES
    if file.peek(6)[:6] == b"\x93NUMPY":
        raise DatasetInvalid("the data are a single .npy array; expected an .npz: save it with numpy.savez")
    if not zipfile.is_zipfile(file):
        size = os.stat(path).st_size
        raise DatasetInvalid(
            f"the data ({size:,} bytes) are not an .npz, or one that is cut off; expected the file that "
            "numpy.savez(path, <input name>=..., labels=...) writes"
        )
    archive = zipfile.ZipFile(file)
    file.most = None
    return archive


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if len(infos) > _MOST_ARRAYS:
        raise DatasetTooLarge(f"the .npz holds {len(infos):,} arrays, at most {_MOST_ARRAYS} are allowed")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        if not info.filename.endswith(_SUFFIX):
            raise DatasetInvalid(
                f"the .npz holds {info.filename[:80]!r}, which is no array; expected only what numpy.savez writes"
            )
        name = info.filename.removesuffix(_SUFFIX)
        if name in members:
            raise DatasetInvalid(f"the .npz holds two arrays {name[:80]!r}; save it again with numpy.savez")
        if info.flag_bits & _ENCRYPTED or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DatasetInvalid(
                f"array {name[:80]!r} is encrypted or compressed in an unusual way; save it with numpy.savez or "
                "numpy.savez_compressed"
            )
        members[name] = info
    if not members:
        raise DatasetInvalid("the .npz is empty; expected an array for each input of the network")
    return members


def _check_size(total: int, file_bytes: int, max_bytes: int) -> None:
    if total > max_bytes:
        raise DatasetTooLarge(
            f"the arrays take {total:,} bytes, at most {max_bytes:,} are allowed: send fewer samples "
            "(a few thousand are plenty), or ask the operator of this service for more"
        )
    if total > _RATIO_FROM_BYTES and total > _MOST_RATIO * file_bytes:
        raise DatasetTooLarge(
            f"the .npz of {file_bytes:,} bytes expands to {total:,}, {total / max(file_bytes, 1):.0f} times as much; "
            f"at most {_MOST_RATIO} times are allowed: save it with numpy.savez, uncompressed"
        )


@contextmanager
def _zip_errors(what: str) -> Iterator[None]:
    """What zipfile, zlib and numpy raise on damaged files, as our own errors."""
    try:
        yield
    except DatasetError:
        raise
    except MemoryError as error:
        raise DatasetTooLarge(f"reading {what} takes more memory than this process may use") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
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
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DatasetInvalid(f"{what} cannot be read: {reason}; save the arrays again with numpy.savez") from error
