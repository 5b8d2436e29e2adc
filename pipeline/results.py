"""What stages write: arrays and JSON in one `.npz`, the same bytes for the same content, no pickle anywhere."""

from __future__ import annotations

import io
import itertools
import json
import math
import weakref
from collections.abc import Iterable, Mapping
from typing import IO, Any
from zipfile import ZipFile

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_DOCUMENT = "document.json"


def pack(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> bytes:
    """One blob of a JSON document and named arrays."""
    buffer = io.BytesIO()
    pack_into(buffer, document, (arrays or {}).items())
    return buffer.getvalue()


def pack_into(file: IO[bytes], document: Mapping[str, Any], arrays: Iterable[tuple[str, NDArray[Any]]]) -> None:
    """The same into a file, each array when its turn comes: an `.npz` as numpy writes it."""
    text = np.frombuffer(json.dumps(document, sort_keys=True, allow_nan=False).encode(), dtype=np.uint8)
    # no time stamps are written into the archive, so equal content gives equal bytes
    with ZipFile(file, "w") as archive:
        for name, array in itertools.chain([(_DOCUMENT, text)], arrays):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def unpack(blob: bytes) -> tuple[dict[str, Any], Arrays]:
    """The document and the arrays that `pack` was given."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    document = json.loads(arrays.pop(_DOCUMENT).tobytes())
    return document, arrays


class Archive:
    """A blob in a file, whose arrays are read when they are asked for. The file is closed with the object."""

    def __init__(self, file: IO[bytes]) -> None:
        self._arrays = np.load(file, allow_pickle=False)
        self.document: dict[str, Any] = json.loads(self._arrays[_DOCUMENT].tobytes())
        self.names = [name for name in self._arrays.files if name != _DOCUMENT]
        weakref.finalize(self, _close, self._arrays, file)

    def __getitem__(self, name: str) -> NDArray[Any]:
        array: NDArray[Any] = self._arrays[name]
        return array


def _close(*files: Any) -> None:
    for file in files:
        file.close()


def number(value: float) -> float | None:
    """JSON has no NaN and no infinity: what is not known is null."""
    return float(value) if math.isfinite(value) else None
