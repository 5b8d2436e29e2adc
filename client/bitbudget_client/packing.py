"""A model and its data files as one upload: a zip archive that is the same, byte for byte, for the same files."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import BinaryIO
from zipfile import ZIP_STORED, ZipFile, ZipInfo

MODEL_NAME = "model.onnx"
"""Of the model in the archive; a data file keeps the name that the model's tensors have for it."""

_COPIED_AT_ONCE = 1024**2


def pack(target: BinaryIO, model: BinaryIO, data: Mapping[str, BinaryIO]) -> None:
    """Write the archive to `target`; every file is read from where it stands.

    Args:
        data: the data files by name, none of which is `MODEL_NAME`.
    """
    with ZipFile(target, "w", ZIP_STORED) as archive:
        for name, file in [(MODEL_NAME, model), *sorted(data.items())]:
            # a ZipInfo of its own has the date 1980-01-01
            with archive.open(ZipInfo(name), "w", force_zip64=True) as member:
                shutil.copyfileobj(file, member, _COPIED_AT_ONCE)
