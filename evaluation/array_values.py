"""What the arrays of a dataset hold: converted to the type that reads them, and refused where they cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluation.errors import DatasetInvalid, DatasetNotFinite, DatasetShapeMismatch
from evaluation.metrics.truth import BOXES, LABELS, TARGETS
from network.tensor_spec import TensorSpec

_CHUNK_ELEMENTS = 1 << 22


def converted(array: NDArray[np.generic], name: str, spec: TensorSpec) -> NDArray[np.generic]:
    """The array in the dtype of its input, by the rules of `evaluation.dataset.read_dataset`.

    Raises:
        DatasetInvalid: its values do not fit that dtype.
        DatasetNotFinite: they become infinite in it.
    """
    dtype = np.dtype(spec.dtype)
    if array.dtype.kind == "b":
        return array.astype(dtype)
    kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if array.dtype.kind not in kinds:
        remedy = f"save it as {dtype}, prepared the way the network was trained on it"
        raise DatasetInvalid(f"array {name!r} holds {array.dtype}, input {spec.name!r} takes {dtype}: {remedy}")
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            same = array.astype(dtype, copy=False)
        if same.dtype.itemsize < array.dtype.itemsize:
            _require_finite(same, name, f"in {dtype}, which the input takes", before=array)
        return np.ascontiguousarray(same)
    bounds = np.iinfo(dtype.type)
    if array.size and not bounds.min <= int(array.min()) <= int(array.max()) <= bounds.max:
        span = f"{array.min()} to {array.max()}"
        raise DatasetInvalid(f"array {name!r} holds values from {span}, which do not fit {dtype} of {spec.name!r}")
    return np.ascontiguousarray(array.astype(dtype, copy=False))


def kind_of(name: str) -> str | None:
    """What an array of the truth is, by its name: `labels.boxes` are labels of the output `boxes`."""
    kind = name.split(".", 1)[0]
    return kind if kind in (LABELS, TARGETS, BOXES) else None


def true_values(array: NDArray[np.generic], name: str) -> NDArray[np.generic]:
    """An array of the truth in the type of its kind: labels int64, targets float32, any other as it is.

    Raises:
        DatasetShapeMismatch, DatasetInvalid, DatasetNotFinite: it is none of that kind.
    """
    kind = kind_of(name)
    if array.ndim == 0:
        raise DatasetShapeMismatch(f"{name} is a single number; expected one entry for each sample")
    if kind == LABELS:
        return _labels(array, name)
    if kind == BOXES and (array.ndim != 3 or array.shape[2] != 4):
        raise DatasetShapeMismatch(
            f"{name} has the shape {list(array.shape)}; expected [samples, boxes, 4], filled up to one number of "
            "boxes, with labels below 0 where there is none"
        )
    return array if kind is None else _targets(array, name)


def _labels(array: NDArray[np.generic], name: str) -> NDArray[np.int64]:
    if array.dtype.kind == "f":
        _require_finite(array, name)
        if (array != np.floor(array)).any() or (np.abs(array) > 2**53).any():
            raise DatasetInvalid(
                f"{name} hold numbers that are not whole; expected classes 0, 1, 2, ...: "
                "save values to be predicted under the name targets"
            )
    elif array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise DatasetInvalid(f"{name} hold {array.max()}; expected classes 0, 1, 2, ...")
    return array.astype(np.int64)


def _targets(array: NDArray[np.generic], name: str) -> NDArray[np.floating]:
    if array.dtype.kind == "f":
        _require_finite(array, name)
        with np.errstate(over="ignore"):
            single = array.astype(np.float32)
        _require_finite(single, name, "in float32")
        return single
    return array.astype(np.float32)


def _require_finite(
    array: NDArray[np.generic], name: str, where: str = "", before: NDArray[np.generic] | None = None
) -> None:
    """Refuse NaN and infinities, naming the first; those that were there `before` are none of its business."""
    for rows in chunks(array):
        bad = ~np.isfinite(array[rows])
        if before is not None and bad.any():
            bad &= np.isfinite(before[rows])
        if bad.any():
            row, *rest = first_index(bad)
            index = (rows.start + row, *rest)
            raise DatasetNotFinite(
                f"{name}[{index_text(index)}] is {array[index]}{' ' + where if where else ''}; expected finite "
                "numbers: remove or repair these samples"
            )


def chunks(array: NDArray[np.generic]) -> Iterator[slice]:
    """Rows in chunks, so that no second array of the whole size is made."""
    rows = max(1, _CHUNK_ELEMENTS // max(1, array[0].size))
    return (slice(start, start + rows) for start in range(0, len(array), rows))


def first_index(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Index of the first true element."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def index_text(index: Sequence[int]) -> str:
    return ", ".join(map(str, index))


def is_finite(sample: NDArray[np.generic]) -> bool:
    return sample.dtype.kind != "f" or bool(np.isfinite(sample).all())
