"""The user's samples: read safely, matched with the graph's inputs, checked, and split once.

Arrays lie in an .npz by graph input name, sample axis first, with optional `labels` (classes) or `targets` (values).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.archive import Archive, ArrayHeader
from evaluation.errors import (
    DatasetInvalid,
    DatasetLabelsOutOfRange,
    DatasetNotFinite,
    DatasetSampleCounts,
    DatasetShapeMismatch,
    DatasetTooFewSamples,
    DatasetWrongNames,
)
from network.errors import ShapesNotFixed
from network.graph import TensorSpec

LABELS = "labels"
TARGETS = "targets"
MIN_SAMPLES = 48
"""Fewer cannot be split into calibration, search and held-out samples."""
_CHUNK_ELEMENTS = 1 << 22


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of a network: arrays by graph input name, `[samples, ...]`, in the dtypes of the inputs.

    `labels` are classes, int64 `[samples]`, or `[samples, positions]` for sequences; `targets` are floats
    `[samples, ...]`; at most one of the two is there.

    Raises:
        DatasetSampleCounts: the arrays disagree on the number of samples, or there is none.
    """

    inputs: Mapping[str, NDArray[np.generic]]
    labels: NDArray[np.int64] | None = None
    targets: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        shapes = {name: array.shape for name, array in self.inputs.items()}
        for name, truth in (("the labels", self.labels), ("the targets", self.targets)):
            if truth is not None:
                shapes[name] = truth.shape
        _check_counts(shapes)

    @property
    def samples(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: NDArray[np.int64]) -> Dataset:
        """The samples at `indices`, in this order."""
        return Dataset(
            {name: array[indices] for name, array in self.inputs.items()},
            None if self.labels is None else self.labels[indices],
            None if self.targets is None else self.targets[indices],
        )


def read_dataset(path: Path | str, inputs: Sequence[TensorSpec], max_bytes: int) -> Dataset:
    """The samples in the .npz at `path`, for a graph with these `inputs`; all arrays take at most `max_bytes`.

    Rules:
        Names: every graph input has its array and there is no other array but `labels` or `targets`; with one graph
        input its array may have any name.
        Types: floats go to float inputs of any width as long as they do not overflow, integers to integer inputs as
        long as they fit, booleans anywhere. Integers are not taken for a float input: raw pixels would silently
        stand in for normalised ones.
        Labels: integers, or floats that are whole numbers (as text files and data frames give them).

    Raises:
        DatasetError: its subclass says which rule was broken.
        OSError: the file cannot be opened.
    """
    with Archive(path, max_bytes) as archive:
        headers = archive.headers
        names, truth = _roles(headers, inputs)
        for spec in inputs:
            _check_shape(headers[names[spec.name]], spec)
        used = {name: headers[name].shape for name in (*names.values(), *truth)}
        samples = _check_counts(used)
        if samples < MIN_SAMPLES:
            raise DatasetTooFewSamples(
                f"the data hold {samples} samples, at least {MIN_SAMPLES} are needed: they are split into "
                "calibration, search and held-out samples; a few thousand give a sharp certificate"
            )
        arrays = {spec.name: _convert(archive.read(names[spec.name]), names[spec.name], spec) for spec in inputs}
        labels = _labels(archive.read(LABELS)) if LABELS in truth else None
        targets = _targets(archive.read(TARGETS)) if TARGETS in truth else None
    return Dataset(arrays, labels, targets)


def check_labels(labels: NDArray[np.int64], classes: int) -> None:
    """Labels must be classes of the network, 0 to `classes - 1`.

    Raises:
        DatasetLabelsOutOfRange: names the first label that is not.
    """
    wrong = (labels < 0) | (labels >= classes)
    if not wrong.any():
        return
    first = _first(wrong)
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest == 1 and highest == classes:
        remedy = "they seem to count from 1: subtract 1"
    elif lowest < 0:
        remedy = "remove samples without a class; ignored positions are not known here"
    else:
        remedy = "check that the labels belong to this network"
    raise DatasetLabelsOutOfRange(
        f"labels[{_index(first)}] is {int(labels[first])}, labels go from {lowest} to {highest}; the network has "
        f"{classes} classes, so expected 0 to {classes - 1}: {remedy}"
    )


def synthesize(inputs: Sequence[TensorSpec], samples: int, seed: int) -> Dataset:
    """Samples made from the graph's shapes: standard normal floats; 0 or 1 for integers, which every vocabulary has.

    Args:
        inputs: the graph's inputs; the first axis is the sample axis whatever the graph says of it.
        samples: how many, at least 1.
        seed: the same seed gives the same samples.

    Raises:
        ShapesNotFixed: another axis than the first is unknown.
        ValueError: `samples` is not positive.
    """
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.generic]] = {}
    for spec in inputs:
        if not spec.shape or any(length is None for length in spec.shape[1:]):
            raise ShapesNotFixed(
                f"input {spec.name!r} has the shape {_shape(spec.shape)}; without data every axis but the first must "
                "be known: send a dataset, or export the network with fixed shapes"
            )
        shape = (samples, *(length for length in spec.shape[1:] if length is not None))
        dtype = np.dtype(spec.dtype)
        if dtype.kind == "f":
            arrays[spec.name] = generator.standard_normal(shape, dtype=np.float32).astype(dtype)
        elif dtype.kind == "b":
            arrays[spec.name] = generator.integers(0, 2, shape).astype(dtype)
        else:
            arrays[spec.name] = generator.integers(0, 1, shape, dtype=dtype, endpoint=True)
    return Dataset(arrays)


def _roles(headers: Mapping[str, ArrayHeader], inputs: Sequence[TensorSpec]) -> tuple[dict[str, str], list[str]]:
    """Which array feeds which graph input, and which holds the truth. A graph input may itself be called `labels`."""
    wanted = [spec.name for spec in inputs]
    truth = [name for name in (LABELS, TARGETS) if name in headers and name not in wanted]
    if len(truth) > 1:
        raise DatasetWrongNames("the data hold both labels and targets; keep the one that the metric needs")
    given = [name for name in headers if name not in truth]
    if len(wanted) == 1 and len(given) == 1:
        return {wanted[0]: given[0]}, truth
    if set(given) != set(wanted):
        missing = [name for name in wanted if name not in given]
        foreign = [name for name in given if name not in wanted]
        raise DatasetWrongNames(
            f"the data hold the arrays {_listing(given)}, the network's inputs are {_listing(wanted)}"
            + (f"; missing: {_listing(missing)}" if missing else "")
            + (f"; not an input: {_listing(foreign)}" if foreign else "")
            + ". Save one array for each input under its name, and labels or targets beside them"
        )
    return {name: name for name in wanted}, truth


def _check_shape(header: ArrayHeader, spec: TensorSpec) -> None:
    """The sample axis is free, whatever the graph says of it; every other known axis must agree."""
    fits = len(header.shape) == len(spec.shape) > 0 and all(
        expected in (None, got) and got > 0 for got, expected in zip(header.shape[1:], spec.shape[1:], strict=True)
    )
    if not fits:
        raise DatasetShapeMismatch(
            f"array {header.name!r} has the shape {_shape(header.shape)}, input {spec.name!r} takes "
            f"{_shape((None, *spec.shape[1:]))}, the sample axis first: bring the array into this shape"
        )


def _check_counts(shapes: Mapping[str, tuple[int, ...]]) -> int:
    counts = {name: shape[0] if shape else 0 for name, shape in shapes.items()}
    if len(set(counts.values())) != 1:
        listing = ", ".join(f"{name!r}: {count}" for name, count in counts.items())
        raise DatasetSampleCounts(
            f"the arrays differ in their number of samples ({listing}); every array has its samples along the first "
            "axis, in the same order: save them from the same selection"
        )
    samples = next(iter(counts.values()))
    if samples == 0:
        raise DatasetSampleCounts("the arrays hold no sample; expected samples along the first axis")
    return samples


def _convert(array: NDArray[np.generic], name: str, spec: TensorSpec) -> NDArray[np.generic]:
    """The array in the dtype of its input, by the rules of `read_dataset`."""
    dtype = np.dtype(spec.dtype)
    if array.dtype.kind == "b":
        return array.astype(dtype)
    kinds = {"f": "f", "i": "iu", "u": "iu", "b": "b"}[dtype.kind]
    if array.dtype.kind not in kinds:
        remedy = f"save it as {dtype}, prepared the way the network was trained on it"
        raise DatasetInvalid(f"array {name!r} holds {array.dtype}, input {spec.name!r} takes {dtype}: {remedy}")
    if dtype.kind == "f":
        _require_finite(array, name)
        with np.errstate(over="ignore"):
            converted = array.astype(dtype, copy=False)
        if converted.dtype.itemsize < array.dtype.itemsize:
            _require_finite(converted, name, f"in {dtype}, which the input takes")
        return np.ascontiguousarray(converted)
    bounds = np.iinfo(dtype.type)
    if int(array.min()) < bounds.min or int(array.max()) > bounds.max:
        span = f"{array.min()} to {array.max()}"
        raise DatasetInvalid(f"array {name!r} holds values from {span}, which do not fit {dtype} of {spec.name!r}")
    return np.ascontiguousarray(array.astype(dtype, copy=False))


def _labels(array: NDArray[np.generic]) -> NDArray[np.int64]:
    if array.ndim not in (1, 2):
        raise DatasetShapeMismatch(
            f"labels have the shape {_shape(array.shape)}; expected [samples], or [samples, positions] for sequences"
        )
    if array.dtype.kind == "f":
        _require_finite(array, LABELS)
        if (array != np.floor(array)).any() or (np.abs(array) > 2**53).any():
            raise DatasetInvalid(
                "labels hold numbers that are not whole; expected classes 0, 1, 2, ...: "
                "save values to be predicted under the name targets"
            )
    elif array.dtype.kind == "u" and int(array.max()) > np.iinfo(np.int64).max:
        raise DatasetInvalid(f"labels hold {array.max()}; expected classes 0, 1, 2, ...")
    return array.astype(np.int64)


def _targets(array: NDArray[np.generic]) -> NDArray[np.floating]:
    if array.dtype.kind == "f":
        _require_finite(array, TARGETS)
        with np.errstate(over="ignore"):
            single = array.astype(np.float32)
        _require_finite(single, TARGETS, "in float32")
        return single
    return array.astype(np.float32)


def _require_finite(array: NDArray[np.generic], name: str, where: str = "") -> None:
    """Refuse NaN and infinities, naming the first; in chunks, so that no second array of this size is made."""
    rows = max(1, _CHUNK_ELEMENTS // max(1, array[0].size))
    for start in range(0, len(array), rows):
        bad = ~np.isfinite(array[start : start + rows])
        if bad.any():
            row, *rest = _first(bad)
            index = (start + row, *rest)
            raise DatasetNotFinite(
                f"{name}[{_index(index)}] is {array[index]}{' ' + where if where else ''}; expected finite numbers: "
                "remove or repair these samples"
            )


def _first(mask: NDArray[np.bool_]) -> tuple[int, ...]:
    """Index of the first true element."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(mask)), mask.shape))


def _index(index: Sequence[int]) -> str:
    return ", ".join(map(str, index))


def _shape(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"


def _listing(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(repr(name[:80]) for name in names[:most]) or "none") + more
