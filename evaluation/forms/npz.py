"""Zip archives of .npy files, as numpy.savez writes them or a folder of them is packed: no pickle.

A zip file of 255 KiB can expand to 256 MiB, its index can be larger than its content, and sizes can lie. So: the
index is read through a bounded window; declared sizes are summed and compared with the size of the file on the disk
(not with the declared compressed sizes); a member never yields more than it declares (`zipfile` cuts it off, and the
checksum tells); each array's header must agree with its member's size to the byte before its data are read.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from contextlib import AbstractContextManager
from io import FileIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.archive import INDEX_BYTES, Archive, BoundedFile, check_count, check_size
from evaluation.errors import DatasetInvalid, DatasetTooLarge
from evaluation.forms.npy import NpyHeader, first_rows, numpy_errors, read_header

_SUFFIX = ".npy"
_ENCRYPTED = 1
_BY_THE_SYSTEM = ("__MACOSX/", ".DS_Store")  # what a desktop adds to a folder that it packs


class ZipFile(Archive):
    """Arrays by the names of the members; what stands before a slash is a group.

    Args:
        max_bytes: of all arrays together, expanded.
    """

    form = "npz"

    def __init__(self, path: Path, max_bytes: int) -> None:
        file_bytes = os.stat(path).st_size
        self._file = BoundedFile(FileIO(os.fspath(path)), _index_too_large)
        try:
            with _zip_errors("the data"):
                self._zip = _open_index(self._file, path)
                self._members = _members(self._zip)
            check_size(sum(info.file_size for info in self._members.values()), file_bytes, max_bytes, "npz")
            self._headers = {name: self._header(name) for name in self._members}
        except BaseException:
            self._file.close()
            raise
        self.headers = dict(self._headers)

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def read(self, name: str) -> NDArray[np.generic]:
        """The array `name`, with its checksum verified."""
        with _zip_errors(f"array {name!r}"), self._zip.open(self._members[name]) as member:
            array: NDArray[np.generic] = np.lib.format.read_array(member, allow_pickle=False)
            if member.read(1):  # also makes zipfile compare the checksum of what is now its end
                raise DatasetInvalid(f"array {name!r} has data behind its end; save it again with numpy.savez")
        return array

    def first(self, name: str, count: int) -> NDArray[np.generic]:
        header = self._headers[name]
        if not header.shape or header.fortran or count >= header.shape[0]:
            return self.read(name)[:count] if header.shape else self.read(name)
        with _zip_errors(f"array {name!r}"), self._zip.open(self._members[name]) as member:
            return first_rows(member, header, count)

    def _header(self, name: str) -> NpyHeader:
        info = self._members[name]
        with _zip_errors(f"array {name!r}"), self._zip.open(info) as member:
            return read_header(member, name, info.file_size)


def _index_too_large(size: int, most: int) -> DatasetTooLarge:
    return DatasetTooLarge(
        f"the index of the .npz takes {size:,} bytes, at most {most:,} are allowed: "
        "save the arrays again with numpy.savez"
    )


def _open_index(file: BoundedFile, path: Path) -> zipfile.ZipFile:
    """The zip index. `zipfile` would read one of any size in a single piece."""
    file.most = INDEX_BYTES
    if not zipfile.is_zipfile(file):
        size = os.stat(path).st_size
        raise DatasetInvalid(
            f"the data ({size:,} bytes) are not an .npz, or one that is cut off, nor .npy, HDF5, Parquet, Arrow or "
            "safetensors; expected e.g. the file that numpy.savez(path, <input name>=..., labels=...) writes"
        )
    archive = zipfile.ZipFile(file)
    file.most = None
    return archive


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    infos = [info for info in archive.infolist() if not (info.is_dir() or _is_by_the_system(info.filename))]
    check_count(len(infos), ".npz")
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
    return members


def _is_by_the_system(name: str) -> bool:
    return name.startswith(_BY_THE_SYSTEM) or name.endswith(_BY_THE_SYSTEM)


def _zip_errors(what: str) -> AbstractContextManager[None]:
    return numpy_errors(what, zipfile.BadZipFile, zlib.error)
