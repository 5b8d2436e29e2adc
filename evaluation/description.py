"""What samples are, before a network is known: arrays, their ranges, labels and how many of each, small images."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.archive import ArrayHeader
from evaluation.forms.opening import open_archive
from evaluation.metrics.truth import BOXES, LABELS, TARGETS
from evaluation.thumbnails import MOST as MOST_THUMBNAILS
from evaluation.thumbnails import images_in, thumbnail

LOOK_BYTES = 64 << 20
"""So many bytes of an array are looked at."""
_MOST_CLASSES = 1000
_MOST_CHARACTERS = 1000


def described(path: Path, max_bytes: int) -> dict[str, Any]:
    """The description of the samples at `path`, as `app.schemas.descriptions` says.

    Raises:
        DatasetError: they cannot be read.
        OSError: the file cannot be opened.
    """
    arrays, notes, thumbnails = [], [], list[str]()
    labels: dict[int, int] | None = None
    with open_archive(path, max_bytes) as archive:
        for name, header in archive.headers.items():
            count = _rows(header)
            part = archive.first(name, count)
            role = _role(name)
            if count < _length(header):
                notes.append(f"the range of {_text(name)!r} is that of its first {count:,} samples")
            arrays.append({**_of(header), "role": role, **_range(part)})
            if role == LABELS:
                labels = _counted(part, labels or {})
            elif role == "input" and not thumbnails and (images := images_in(part[:MOST_THUMBNAILS])) is not None:
                thumbnails = [f"data:image/png;base64,{thumbnail(image)}" for image in images]
                notes.append(f"the images are {_text(name)!r}, each with its own range of brightness")
        form = archive.form
        samples = _samples(archive.headers)
    counted = None
    if labels is not None:
        counts = {str(label): labels[label] for label in sorted(labels)[:_MOST_CLASSES]}
        counted = {"classes": len(labels), "counts": counts}
    return {
        "form": form,
        "arrays": arrays,
        "samples": samples,
        "labels": counted,
        "thumbnails": thumbnails,
        "notes": notes[:100],
    }


def _role(name: str) -> str:
    """What an array is by its name; behind the group, where it has one."""
    kind = name.rpartition("/")[2].split(".", 1)[0]
    return kind if kind in (LABELS, TARGETS, BOXES) else "input"


def _of(header: ArrayHeader) -> dict[str, Any]:
    return {"name": _text(header.name), "dtype": header.dtype.name, "shape": list(header.shape)}


def _length(header: ArrayHeader) -> int:
    return header.shape[0] if header.shape else 1


def _rows(header: ArrayHeader) -> int:
    """How many samples of an array are looked at."""
    row = math.prod(header.shape[1:]) * header.dtype.itemsize
    return min(_length(header), max(1, LOOK_BYTES // max(1, row)))


def _samples(headers: Mapping[str, ArrayHeader]) -> int:
    """How many samples there are: the arrays of one group have as many each, constants apart; groups add up."""
    groups: dict[str, int] = {}
    for name, header in headers.items():
        group = name.rpartition("/")[0]
        groups[group] = max(groups.get(group, 0), _length(header))
    return sum(groups.values())


def _range(part: NDArray[np.generic]) -> dict[str, float | None]:
    """Over the finite values; None where there are none."""
    values = part[np.isfinite(part)] if part.dtype.kind == "f" else part.reshape(-1)
    if not values.size:
        return {"minimum": None, "maximum": None, "mean": None}
    mean = float(values.mean(dtype=np.float64))
    numbers = {"minimum": float(values.min()), "maximum": float(values.max()), "mean": mean}
    return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


def _counted(part: NDArray[np.generic], before: dict[int, int]) -> dict[int, int]:
    """`before` with the labels of another array; those below 0 do not count, nor does what is no number of a class."""
    values = part[np.isfinite(part)] if part.dtype.kind == "f" else part
    labels, counts = np.unique(values.astype(np.int64), return_counts=True)
    merged = dict(before)
    for label, count in zip(labels.tolist(), counts.tolist(), strict=True):
        if label >= 0:
            merged[label] = merged.get(label, 0) + count
    return merged


def _text(text: str) -> str:
    return text.replace("\0", "\ufffd")[:_MOST_CHARACTERS]
