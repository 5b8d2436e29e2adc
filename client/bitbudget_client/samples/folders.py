"""Folders of .npy files: one for each input, in folders where there are groups of lengths."""

from __future__ import annotations

from pathlib import Path

from bitbudget_client.samples.prepared import PreparedSamples
from bitbudget_client.samples.refusal import library

_SUFFIX = ".npy"


def arrays_in(folder: Path) -> dict[str, Path]:
    """The .npy files in a folder and one level below it, by what they are called."""
    files = sorted(folder.rglob(f"*{_SUFFIX}"))
    names = {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}
    return {name: file for name, file in names.items() if name.count("/") <= 1}


def read_folder(folder: Path) -> PreparedSamples:
    """The arrays, mapped into memory."""
    numpy = library("numpy", "numpy")
    arrays = {name: numpy.load(file, mmap_mode="r", allow_pickle=False) for name, file in arrays_in(folder).items()}
    return PreparedSamples(arrays)
