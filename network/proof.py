"""The proof that a rewritten network is the uploaded one: both run in ONNX Runtime, and every output is compared.

The uploaded file runs as it is, on a few samples and on edge samples: zeros, the smallest and the largest value that
the samples hold; and, where axes besides the batch axis are free, at other lengths (`network.lengths`). Names, order
and element types of inputs and outputs have to be the same, and so has the shape of every output, where it is NaN or
infinite, and its values up to rounding. How much rounding a network makes of itself is measured: the uploaded file runs
again without graph optimisation, and on samples changed in their last digits.

What computes in 16 bits has no values to such a precision: against the same network in float32 only sizes are compared,
of the error of an output and of the output itself (`unlike_in_halves`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from network.batching import Batching, Rows
from network.errors import ModelInvalid, ModelTooLarge
from network.runtime import runtime_errors, session_of

Arrays = Mapping[str, NDArray[np.generic]]

TOLERANCE = 1e-4
"""Of a value and of the root mean square around it: rounding of float32, which no wrong operator stays below."""
TOLERANCE_HALF = 2e-2
FLOOR = 1e-7
"""Of the largest value of an output: what nothing looks below."""
OF_OWN_ROUNDING = 30
"""Times what the uploaded file's own rounding makes."""
MOST_ROUNDING = 2e-2
"""Of a value and the root mean square of its output: what no rounding excuses."""
FLIPPED_SHARE = 1e-3
"""Of the integers and booleans of an output: rounding may flip the position of a maximum, or a threshold."""
FLIPPED_SHARE_HALF = 0.5
MOST_OF_HALVES = 0.1
"""Of the root mean square of an output: what a hundred roundings to 16 bits add up to stays below."""

MASKS_FROM = 1e8
"""What masks write for infinity is at least so large, and beyond everything else."""
MASKS_BEYOND = 1e4

LAST_DIGITS = 2.0**-21
_SAMPLES_AT_ONCE = 3
_MOST_CALLS = 5
"""Of real samples: of one sample, of some, and of samples of other lengths."""


Comparison = Callable[[NDArray[Any], NDArray[Any], Sequence[NDArray[Any]]], str | None]
"""Why a result is not the expected one, given what other roundings make of that; None where it is."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What goes into a network once; `name` completes "on ...". The network may fail on an `edge`."""

    name: str
    arrays: Arrays
    edge: bool = False


def feeds(samples: Arrays, batching: Batching) -> list[Feed]:
    """What to compare on.

    Args:
        samples: an array for each graph input, `[samples, ...]`.
        batching: how samples become calls.
    """
    groups = [_indices(rows, samples) for rows in batching.groups(samples, batching.size or _SAMPLES_AT_ONCE)]
    if batching.size is not None:
        chosen = [
            ("the first sample" if batching.size == 1 else "the first samples", _filled(groups[0], batching.size))
        ]
    else:
        chosen = [("the first sample", groups[0][:1]), ("some samples", max(groups, key=len))]
    for rows in groups[1:]:  # those of other lengths
        if len(chosen) < _MOST_CALLS and all(_shapes(samples, rows) != _shapes(samples, other) for _, other in chosen):
            chosen.append((f"sample {rows[0]}", rows))
    real = [
        Feed(name, batching.call({n: array[rows] for n, array in samples.items()}))
        for number, (name, rows) in enumerate(chosen)
        if not any(len(rows) == len(other) and (rows == other).all() for _, other in chosen[:number])
    ]
    shapes = real[0].arrays
    extremes = {name: _extremes(array) for name, array in samples.items()}
    low, high = ({name: pair[place] for name, pair in extremes.items()} for place in (0, 1))
    # zero where an integer may not be zero is its smallest value: an index or a length
    zero = {n: array.dtype.type(0) if array.dtype.kind == "f" else low[n] for n, array in shapes.items()}
    zero |= {n: shapes[n].dtype.type(0) for n in low if low[n] <= 0 <= high[n]}
    edges = {"zeros": zero, "the smallest values of the samples": low, "the largest values of the samples": high}
    return real + [
        Feed(name, {n: np.full_like(shapes[n], values[n]) for n in shapes}, edge=True) for name, values in edges.items()
    ]


def _indices(rows: Rows, samples: Arrays) -> NDArray[np.int64]:
    return np.arange(len(next(iter(samples.values()))))[rows]


def _filled(rows: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    return rows[np.arange(size) % len(rows)]


def _shapes(samples: Arrays, rows: NDArray[np.int64]) -> list[tuple[int, ...]]:
    return [np.shape(array[rows[0]]) for array in samples.values()]


def _extremes(samples: NDArray[Any]) -> tuple[Any, Any]:
    """The smallest and the largest finite value; 0 where there is none."""
    parts = [np.ravel(part) for part in samples] if samples.dtype == object else [samples.ravel()]
    values = np.concatenate(parts)
    if values.dtype.kind == "f":
        values = values[np.isfinite(values)]
    return (values.min(), values.max()) if values.size else (values.dtype.type(0), values.dtype.type(0))


class Reference:
    """The uploaded file, with what it gives.

    Args:
        uploaded: it, or its bytes.
        given: what it is fed; an edge on which it fails is left out.
        threads: of ONNX Runtime.

    Raises:
        ModelInvalid: ONNX Runtime does not load it, or does not run it on the samples.
        ModelTooLarge: that takes more memory than this process may use.
    """

    def __init__(self, uploaded: bytes | Path, given: Sequence[Feed], threads: int) -> None:
        self._threads = threads
        self._expected: list[tuple[Feed, list[list[NDArray[Any]]]]] = []
        session = _session(uploaded, threads, True)
        self._interface = _interface(session)
        for feed in given:
            try:
                self._expected.append((feed, [session(feed.arrays), session(with_other_digits(feed.arrays))]))
            except (ModelInvalid, ModelTooLarge):
                if not feed.edge:
                    raise
        del session  # a large network would not fit into memory twice
        plain = _session(uploaded, threads, False)
        for feed, runs in self._expected:
            runs.append(plain(feed.arrays))

    @property
    def feeds(self) -> list[Feed]:
        """Those on which the uploaded file runs."""
        return [feed for feed, _ in self._expected]

    def difference(self, model: onnx.ModelProto | bytes, compare: Comparison | None = None) -> str | None:
        """In what `model` differs from the uploaded file: names, types, free axes of inputs, values.

        None where in nothing. `compare` says why values differ; None for `unlike`.
        """
        compare = compare or unlike
        try:
            session = _session(model, self._threads, True)
            if why := _unlike_interface(self._interface, _interface(session)):
                return why
            for feed, (expected, *again) in self._expected:
                results = session(feed.arrays)
                for index, (output, result) in enumerate(zip(expected, results, strict=True)):
                    if why := compare(output, result, [run[index] for run in again]):
                        return f"output {self._interface.outputs[index][0]!r} {why} on {feed.name}"
        except ModelInvalid as error:
            return str(error).removesuffix("; export it again")
        return None


def first_change(before: onnx.ModelProto, after: onnx.ModelProto, feed: Feed, threads: int) -> onnx.NodeProto | None:
    """The first node of `before`, in its order, whose value in `after` is another one; None where none is known.

    Only values that have the same name in both are compared.
    """
    kept = {name for node in after.graph.node for name in node.output}
    names = [name for node in before.graph.node for name in node.output if name and name in kept]
    try:
        one, other = (_session(_with_outputs(model, names), threads, False) for model in (before, after))
        values = [dict(zip(run.outputs, run(feed.arrays), strict=True)) for run in (one, other)]
    except ModelInvalid:
        return None
    node: onnx.NodeProto
    for node in before.graph.node:
        if any(name in kept and unlike(values[0][name], values[1][name], []) for name in node.output):
            return node
    return None


def unlike(expected: NDArray[Any], result: NDArray[Any], again: Sequence[NDArray[Any]]) -> str | None:
    """Why `result` is not `expected`, None where it is, up to rounding.

    `again` are the same values with other roundings: what differs between those says nothing.
    """
    if expected.dtype != result.dtype:
        return f"holds {result.dtype} in place of {expected.dtype}"
    if any(run.shape != expected.shape for run in again):
        return None  # as many boxes as rounding leaves
    if expected.shape != result.shape:
        return f"has the shape {list(result.shape)} in place of {list(expected.shape)}"
    if expected.size == 0:
        return None
    if expected.dtype.kind != "f":
        unstable = np.logical_or.reduce([np.zeros(expected.shape, bool), *(run != expected for run in again)])
        share = np.mean((result != expected) & ~unstable)
        return f"differs in {share:.2%} of its elements" if share > FLIPPED_SHARE else None
    tolerance = TOLERANCE_HALF if expected.dtype == np.float16 else TOLERANCE
    return _unlike_floats(_computable(expected), _computable(result), [_computable(run) for run in again], tolerance)


def unlike_in_halves(expected: NDArray[Any], result: NDArray[Any], again: Sequence[NDArray[Any]]) -> str | None:
    """Why `result`, computed in float32, is not what `expected` is in 16 bits, None where it is.

    An output of floats may be as far from the other, in root mean squares, as 16 bits make of it. Where they overflow
    float32 has a number. Of integers most have to be the same: the maximum of what is nearly equal may lie elsewhere.
    """
    if expected.dtype != result.dtype:
        return f"holds {result.dtype} in place of {expected.dtype}"
    if expected.shape != result.shape:
        counted = any(run.shape != expected.shape for run in again)
        return None if counted else f"has the shape {list(result.shape)} in place of {list(expected.shape)}"
    if expected.size == 0:
        return None
    if expected.dtype.kind != "f":
        share = np.mean(result != expected)
        return f"differs in {share:.2%} of its elements" if share > FLIPPED_SHARE_HALF else None
    one, other = _computable(expected), _computable(result)
    finite = np.isfinite(one)
    if (finite & ~np.isfinite(other)).any():
        return "is NaN or infinite at other places"
    if not finite.any():
        return None
    size, error = _root_mean_square(one[finite]), _root_mean_square(other[finite] - one[finite])
    if error <= MOST_OF_HALVES * size + np.finfo(np.float16).tiny:
        return None
    return f"has an error of {error:.3g} in place of at most {MOST_OF_HALVES * size:.3g}"


def _unlike_floats(
    expected: NDArray[Any], result: NDArray[Any], again: Sequence[NDArray[Any]], tolerance: float
) -> str | None:
    kinds = [_kind(run) for run in again]
    stable = np.logical_and.reduce([np.ones(expected.shape, bool), *(kind == _kind(expected) for kind in kinds)])
    if (stable & (_kind(expected) != _kind(result))).any():
        return "is NaN or infinite at other places"
    finite = np.logical_and.reduce([np.isfinite(run) for run in (expected, result, *again)])
    expected, result = (np.where(finite, run, 0) for run in (expected, result))
    with np.errstate(over="ignore"):  # the lowest number of float32 has no double
        rounding = np.zeros_like(expected)
        for run in again:
            np.maximum(rounding, np.abs(np.where(finite, run, 0) - expected), out=rounding)
        size = np.abs(expected)
        others = np.where(_of_masks(size), 0, size)
        own = OF_OWN_ROUNDING * _around(rounding, np.max)
        excused = np.minimum(own, MOST_ROUNDING * (size + _root_mean_square(others)))
        allowed = tolerance * (size + _around(others, _root_mean_square)) + FLOOR * others.max() + excused
        excess = np.abs(expected - result) / np.maximum(allowed, np.finfo(expected.dtype).tiny)
    if excess.max() <= 1:
        return None
    worst = np.unravel_index(int(excess.argmax()), excess.shape)
    return f"is {result[worst]:.6g} in place of {expected[worst]:.6g} at {[int(i) for i in worst]}"


def _of_masks(size: NDArray[Any]) -> NDArray[np.bool_]:
    """Which elements of these sizes stand for infinity: they say nothing of how exact those beside them are."""
    large: NDArray[np.bool_] = size >= MASKS_FROM
    if large.any() and not large.all() and size[~large].max() * MASKS_BEYOND < size[large].min():
        return large
    return np.zeros_like(large)


def _around(values: NDArray[Any], measure: Any) -> NDArray[Any]:
    """For each element the smallest measure of the slices that it lies in, one along every axis longer than 1: an
    output may hold channels, and a batch samples, of very different size."""
    smallest: NDArray[Any] = np.full(values.shape, measure(values), values.dtype)
    for axis, length in enumerate(values.shape):
        if length > 1:
            others = tuple(other for other in range(values.ndim) if other != axis)
            np.minimum(smallest, measure(values, axis=others, keepdims=True), out=smallest)
    return smallest


def _root_mean_square(values: NDArray[Any], axis: Any = None, keepdims: bool = False) -> Any:
    return np.sqrt(np.mean(np.square(values, dtype=np.float64), axis=axis, keepdims=keepdims)).astype(values.dtype)


def _computable(values: NDArray[Any]) -> NDArray[Any]:
    return values if values.dtype == np.float64 else values.astype(np.float32)


def _kind(values: NDArray[Any]) -> NDArray[np.int8]:
    """0 of a finite number, 1 and -1 of the infinities, 2 of NaN."""
    return np.where(np.isnan(values), 2, np.where(np.isinf(values), np.sign(values), 0)).astype(np.int8)


def with_other_digits(arrays: Arrays) -> dict[str, NDArray[np.generic]]:
    """Floats changed in their last digits, upwards and downwards by turns."""
    changed: dict[str, NDArray[np.generic]] = {}
    for name, array in arrays.items():
        if array.dtype.kind != "f":
            changed[name] = array
            continue
        digits = LAST_DIGITS if array.dtype != np.float16 else 2.0**-10
        factors = 1 + digits * np.where(np.arange(array.size) % 2, 1, -1)
        changed[name] = np.asarray(
            np.multiply(array, factors.reshape(array.shape), dtype=np.float64), dtype=array.dtype
        )
    return changed


@dataclass(frozen=True, slots=True)
class _Interface:
    """Names and types of inputs and outputs, and which axes of the inputs are free; one of length 0, which some
    exporters write for a free axis, may become one.

    Of outputs ONNX Runtime says what it infers beside what the file declares, which depends on how a graph is written.
    """

    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]
    free: tuple[tuple[bool | None, ...], ...]


class _Run:
    """A session; its failures are ours."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.session = session
        self.outputs = [value.name for value in session.get_outputs()]

    def __call__(self, arrays: Arrays) -> list[NDArray[Any]]:
        with runtime_errors("run"):
            return [np.asarray(result) for result in self.session.run(None, dict(arrays))]


def _session(model: onnx.ModelProto | bytes | Path, threads: int, optimised: bool) -> _Run:
    with runtime_errors("load"):
        return _Run(session_of(model, threads, optimised=optimised))


def _interface(run: _Run) -> _Interface:
    inputs, outputs = run.session.get_inputs(), run.session.get_outputs()
    return _Interface(
        tuple((value.name, value.type) for value in inputs),
        tuple((value.name, value.type) for value in outputs),
        tuple(tuple(map(_is_free, value.shape)) for value in inputs),
    )


def _is_free(length: object) -> bool | None:
    """None where the file may mean either."""
    return None if length == 0 else not isinstance(length, int)


def _unlike_interface(expected: _Interface, result: _Interface) -> str | None:
    for kind, one, other in (("input", expected.inputs, result.inputs), ("output", expected.outputs, result.outputs)):
        if one != other:
            return f"the {kind}s are {_listed(other)} in place of {_listed(one)}"
    for (name, _), before, after in zip(expected.inputs, expected.free, result.free, strict=True):
        if len(before) != len(after) or any(a not in (None, b) for a, b in zip(before, after, strict=True)):
            return f"other axes of {name!r} are free"
    return None


def _listed(values: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name!r} of {type_}" for name, type_ in values)


def _with_outputs(model: onnx.ModelProto, names: Sequence[str]) -> bytes:
    """The file with all these values as outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    there = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in there)
    return bytes(copy.SerializeToString())
