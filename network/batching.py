"""How samples become calls of a network: which axis of each input and output they lie along, and how many share a call.

Arrays of samples are `[samples, ...]` by graph input name, whatever the graph does. An input has its samples along one
of its axes, mostly the first (`[N, C, H, W]`; a state `[layers, N, hidden]` has axis 1), or along none: then each
sample gives the input for a whole call (a scalar, `[T, 1, F]` as one recording). Samples share a call where such inputs
are equal, and where all have the same lengths. Samples of different lengths are an array of objects, one array each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from network.onnx_graph import shape_of

Arrays = Mapping[str, NDArray[Any]]
Rows = slice | NDArray[np.int64]
"""Which samples: what indexes the first axis of an array of samples."""


@dataclass(frozen=True)
class Batching:
    """The axis of the samples in each input and output by name, None where there is none; a name that is missing has 0.

    `size` is the number of samples of every call, None where it is free.
    """

    inputs: Mapping[str, int | None] = field(default_factory=dict)
    outputs: Mapping[str, int | None] = field(default_factory=dict)
    size: int | None = None

    @classmethod
    def first_axis(cls, inputs: Sequence[onnx.ValueInfoProto]) -> Batching:
        """Of a graph with these inputs whose samples lie along every first axis; a scalar has none."""
        shapes = {value.name: shape_of(value) for value in inputs}
        fixed = (shape[0] for shape in shapes.values() if shape)
        size = next((length for length in fixed if length), None)
        return cls({name: None for name, shape in shapes.items() if shape == ()}, {}, size)

    def input_axis(self, name: str) -> int | None:
        return self.inputs.get(name, 0)

    def output_axis(self, name: str) -> int | None:
        return self.outputs.get(name, 0)

    def sample_shape(self, name: str, call_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """The shape of one sample of an input, of its shape in a call."""
        axis = self.input_axis(name)
        return tuple(length for place, length in enumerate(call_shape) if place != axis)

    def call(self, samples: Arrays) -> dict[str, NDArray[Any]]:
        """The inputs of one call from samples that may share it (`groups`)."""
        return {name: self._input(name, array) for name, array in samples.items()}

    def call_of_tensors(self, samples: Mapping[str, Any]) -> dict[str, Any]:
        """As `call`, of tensors of torch."""
        axes = {name: self.input_axis(name) for name in samples}
        return {
            name: tensor[0] if axes[name] is None else tensor if not axes[name] else tensor.movedim(0, axes[name])
            for name, tensor in samples.items()
        }

    def _input(self, name: str, array: NDArray[Any]) -> NDArray[Any]:
        if array.dtype == object:
            array = np.stack(list(array))
        axis = self.input_axis(name)
        if axis:
            array = np.moveaxis(array, 0, axis)
        return np.asarray(array[0] if axis is None else array, order="C")

    def by_sample(self, name: str, output: Any) -> Any:
        """An output of a call, array or tensor, as `[samples, ...]`; one without an axis of samples is one sample."""
        axis = self.output_axis(name)
        if axis is None:
            return output[None]
        if axis == 0:
            return output
        return output.movedim(axis, 0) if hasattr(output, "movedim") else np.moveaxis(output, axis, 0)

    def shares_calls(self, samples: Arrays) -> bool:
        """Whether any of these samples may share a call with any other, as far as a call has room."""
        return len(self._alike(samples)) == 1 and any(self.input_axis(name) is not None for name in samples)

    def groups(self, samples: Arrays, most: int) -> list[Rows]:
        """Those samples that share a call, at most `most` of them, and `size` where that is fixed: all samples, in
        order where all may share calls."""
        count = len(next(iter(samples.values())))
        most = self.size or most
        if not any(self.input_axis(name) is not None for name in samples):
            most = 1
        alike = self._alike(samples)
        if len(alike) == 1:
            return [slice(start, min(start + most, count)) for start in range(0, count, most)]
        return [np.array(indices[start : start + most]) for indices in alike for start in range(0, len(indices), most)]

    def _alike(self, samples: Arrays) -> list[Sequence[int]]:
        """The samples that have the same lengths, and the same inputs of whole calls."""
        count = len(next(iter(samples.values())))
        decisive = [n for n, array in samples.items() if array.dtype == object or self.input_axis(n) is None]
        if not decisive:
            return [range(count)]
        alike: dict[tuple[object, ...], list[int]] = {}
        for index in range(count):
            alike.setdefault(tuple(self._key(name, samples[name][index]) for name in decisive), []).append(index)
        return list(alike.values())

    def batches(self, samples: Arrays, most: int) -> list[dict[str, NDArray[Any]]]:
        """The samples of each group."""
        return [{name: array[rows] for name, array in samples.items()} for rows in self.groups(samples, most)]

    def _key(self, name: str, sample: Any) -> object:
        value = np.asarray(sample)
        return value.shape if self.input_axis(name) is not None else (value.shape, value.tobytes())

    def document(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"inputs": dict(self.inputs), "outputs": dict(self.outputs), "size": self.size}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Batching:
        return cls(dict(document["inputs"]), dict(document["outputs"]), document["size"])


def axes_for_samples(shape: Sequence[int | None]) -> list[int]:
    """The axes of an input of this shape that samples may lie along: the first, and others that are free or 1. A fixed
    length elsewhere is one of the data."""
    return [axis for axis, length in enumerate(shape) if axis == 0 or length in (None, 0, 1)]


def shape_of_sample(array: NDArray[Any]) -> tuple[int, ...]:
    """The shape of one sample of `[samples, ...]`; of samples of different lengths that of the largest."""
    if array.dtype != object:
        return array.shape[1:]
    largest: NDArray[Any] = max(array, key=lambda sample: np.size(sample))
    return largest.shape


def shapes_of_sample(samples: Arrays) -> dict[str, tuple[int, ...]]:
    """The shapes of one sample by graph input; of samples of different lengths of the one with most elements in all."""
    largest = largest_sample(samples)
    return {name: np.shape(array[largest]) for name, array in samples.items()}


def largest_sample(samples: Arrays) -> int:
    """The place of the sample with most elements in all inputs."""
    ragged = [array for array in samples.values() if array.dtype == object]
    places = range(len(next(iter(samples.values()))))
    return max(places, key=lambda place: sum(np.size(array[place]) for array in ragged)) if ragged else 0


def ragged_samples(samples: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Samples of different lengths as one array `[samples]` of arrays."""
    array = np.empty(len(samples), dtype=object)
    for index, sample in enumerate(samples):
        array[index] = sample
    return array
