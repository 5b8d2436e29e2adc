"""Which axes of inputs samples may lie along, by shapes, names and what is stated; nothing is run."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from network.batching import Arrays, axes_for_samples, shape_of_sample
from network.errors import BatchAxisUnknown
from network.onnx_graph import shape_of

Stated = Mapping[str, int | None]
MOST_ORDERED = 64
"""Combinations of axes."""

_CALLED_A_BATCH = re.compile(r"^(n|b|bs|bsz|nb|.*batch.*)$", re.IGNORECASE)


def candidate_axes(
    inputs: Sequence[onnx.ValueInfoProto], samples: Arrays, stated: Stated
) -> Iterator[dict[str, int | None]]:
    """Axes of the samples by input, the likeliest first; None for an input that belongs to a whole call.

    Args:
        inputs: of the graph.
        samples: an array `[samples, ...]` for each.
        stated: what is known of inputs, by name.

    Raises:
        BatchAxisUnknown: an input has no axis that the data leave for the samples, or the stated one does not fit.
    """
    names = {value.name for value in inputs}
    if unknown := [name for name in stated if name not in names]:
        raise BatchAxisUnknown(f"inputs states the batch axis of {unknown[0]!r}; the inputs are {sorted(names)}")
    options = {value.name: _fitting(value, samples[value.name], stated) for value in inputs}
    common = _common_symbols(inputs, options)
    ordered = {value.name: _ordered(value, options[value.name], common) for value in inputs}
    ways = itertools.product(*(range(len(axes)) for axes in ordered.values()))
    for places in sorted(itertools.islice(ways, MOST_ORDERED), key=sum):
        yield {name: axes[place] for (name, axes), place in zip(ordered.items(), places, strict=True)}


def _fitting(value: onnx.ValueInfoProto, array: NDArray[np.generic], stated: Stated) -> list[int | None]:
    """The axes of an input that the samples may lie along."""
    shape = shape_of(value) or ()
    sample = shape_of_sample(array)
    every: list[int | None] = [None] if len(sample) == len(shape) else []
    if len(sample) == len(shape) - 1:
        every += range(len(shape)) if value.name in stated else axes_for_samples(shape)
    fitting = [axis for axis in every if _agree([d for place, d in enumerate(shape) if place != axis], sample)]
    if value.name in stated:
        axis = stated[value.name]
        axis = axis + len(shape) if axis is not None and axis < 0 else axis
        if axis not in fitting:
            raise BatchAxisUnknown(
                f"inputs states the batch axis {axis} of {value.name!r}, which has the shape {_text(shape)}; samples "
                f"of the shape {list(sample)} leave {_axes_text(fitting)}: state one of these, or "
                "leave it out to have it found"
            )
        return [axis]
    if not fitting:
        raise BatchAxisUnknown(
            f"input {value.name!r} has the shape {_text(shape)}, and samples of the shape {list(sample)} leave none of "
            "its axes for the batch; save arrays with the samples first and then the axes of the input, all of them or "
            "all but that of the batch"
        )
    return fitting


def _agree(declared: Sequence[int | None], lengths: Sequence[int]) -> bool:
    return all(want in (None, 0, got) for want, got in zip(declared, lengths, strict=True))


def _common_symbols(
    inputs: Sequence[onnx.ValueInfoProto], options: Mapping[str, Sequence[int | None]]
) -> frozenset[str]:
    """What axes are called that the samples can lie along in every input that has such axes at all."""
    of_inputs = []
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        symbols = {dims[axis].dim_param for axis in options[value.name] if axis is not None}
        if options[value.name] != [None]:
            of_inputs.append(symbols - {""})
    return frozenset(set.intersection(*of_inputs)) if of_inputs else frozenset()


def _ordered(value: onnx.ValueInfoProto, axes: Sequence[int | None], common: frozenset[str]) -> list[int | None]:
    return sorted(axes, key=lambda axis: _unlikely(value, axis, common))


def _unlikely(value: onnx.ValueInfoProto, axis: int | None, common: frozenset[str]) -> tuple[int, ...]:
    if axis is None:
        return (9,)
    dim = value.type.tensor_type.shape.dim[axis]
    fixed = dim.dim_value > 0
    called = bool(_CALLED_A_BATCH.match(dim.dim_param))
    return (fixed and dim.dim_value != 1, not called, dim.dim_param not in common, fixed, axis)


def fixed_size(inputs: Sequence[onnx.ValueInfoProto], axes: Mapping[str, int | None]) -> int | None:
    """How many samples the inputs fix with these axes, None where any number; 1 where no input has an axis for them.

    Raises:
        BatchAxisUnknown: the inputs fix different numbers.
    """
    own = {
        value.name: (shape_of(value) or ())[axes[value.name] or 0] for value in inputs if axes[value.name] is not None
    }
    if not own:
        return 1
    sizes = {length for length in own.values() if length}
    if len(sizes) > 1:
        raise BatchAxisUnknown(
            f"the network's inputs fix different batch sizes: {own}; state which axis holds the samples (inputs, "
            "batch_axis), or export it with one batch size, or a dynamic one"
        )
    return next(iter(sizes), None)


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("any" if length is None else str(length) for length in shape) + "]"


def _axes_text(axes: Sequence[int | None]) -> str:
    names = ["the whole call (null)" if axis is None else f"axis {axis}" for axis in axes]
    return " or ".join(names) or "no axis"
