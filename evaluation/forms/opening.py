"""Which form a file has, by its first bytes. A reader, and the library that it needs, is loaded when it is used."""

from __future__ import annotations

import os
from pathlib import Path

from evaluation.archive import Archive
from evaluation.errors import DatasetInvalid

_ARROW_STREAM = b"\xff\xff\xff\xff"
_FOREIGN = {
    b"\x80": "a Python pickle, which could run code: save the arrays with numpy.savez",
    b"FEA1": "Feather of version 1: write it with pyarrow.feather.write_feather(..., version=2)",
    b"\xff\xd8\xff": "an image: put images into a folder and give that to `bitbudget ... --data`",
    b"\x89PNG": "an image: put images into a folder and give that to `bitbudget ... --data`",
    b"\x1f\x8b": "compressed with gzip: unpack it first",
    b"version https://git-lfs": "a Git LFS pointer, not the file it points to",
}


def open_archive(path: Path | str, max_bytes: int) -> Archive:
    """The arrays of the file at `path`, opened.

    Args:
        max_bytes: of all arrays together, expanded.

    Raises:
        DatasetInvalid: of no form that is read, damaged, or an array of a type that is not taken.
        DatasetTooLarge: more arrays, bytes or compression than is allowed.
        OSError: the file cannot be opened.
    """
    path, size = Path(path), os.stat(path).st_size
    with path.open("rb") as file:
        start = file.read(32)
    if start.startswith(b"\x93NUMPY"):
        from evaluation.forms.npy import NpyFile

        return NpyFile(path, max_bytes)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        from evaluation.forms.hdf5 import Hdf5File

        return Hdf5File(path, max_bytes)
    if start.startswith(b"PAR1"):
        from evaluation.forms.parquet import ParquetTable

        return ParquetTable(path, max_bytes)
    if start.startswith((b"ARROW1", _ARROW_STREAM)):
        from evaluation.forms.arrow import ArrowTable

        return ArrowTable(path, max_bytes)
    if start[8:9] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= size - 8:
        from evaluation.forms.safetensors import SafetensorsFile

        return SafetensorsFile(path, max_bytes)
    for magic, text in _FOREIGN.items():
        if start.startswith(magic):
            raise DatasetInvalid(f"the data are {text}")
    from evaluation.forms.npz import ZipFile

    return ZipFile(path, max_bytes)
