"""What stages write: arrays and JSON in one `.npz`, the same bytes for the same content, no pickle anywhere."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]

_DOCUMENT = "document.json"


def pack(document: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]] | None = None) -> bytes:
    """One blob of a JSON document and named arrays."""
    text = np.frombuffer(json.dumps(document, sort_keys=True, allow_nan=False).encode(), dtype=np.uint8)
    buffer = io.BytesIO()
    # numpy writes no time stamps into the archive, so equal content gives equal bytes
    np.savez(buffer, allow_pickle=False, **{_DOCUMENT: text, **(arrays or {})})
    return buffer.getvalue()


def unpack(blob: bytes) -> tuple[dict[str, Any], Arrays]:
    """The document and the arrays that `pack` was given."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    document = json.loads(arrays.pop(_DOCUMENT).tobytes())
    return document, arrays


def number(value: float) -> float | None:
    """JSON has no NaN and no infinity: what is not known is null."""
    return float(value) if math.isfinite(value) else None
