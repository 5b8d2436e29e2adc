"""How long ONNX Runtime takes to load a file, as a sum over its weights: what a plan adds to it, known before any file.

A session reads the tensors, optimises the graph, and folds the functions that unpack weights into constants. Each
weight takes a fixed time for its nodes, and a time for each of its values. Both are constants of its format in
milliseconds and nanoseconds of a reference machine, so that a plan depends on no clock: they are what one core of a
Xeon with AVX-512 took with ONNX Runtime 1.31, by least squares of relative errors over the formats of
`benchmarks.loading`. Another machine is faster or slower by about one factor for all.
"""

from __future__ import annotations

from dataclasses import dataclass

from quantization.formats import (
    CodebookFormat,
    CodedFormat,
    FloatFormat,
    Format,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    UnsignedFormat,
)
from quantization.storage.packing import NATIVE_OPSET, digits

SESSION_MS = 0.3
NODE_MS = 0.05
"""Of a node of the network, as the optimiser leaves some of them, and each finds its kernel."""
NS_PER_BYTE = 1.2
"""Of what is read as it is."""


@dataclass(frozen=True, slots=True)
class LoadCost:
    """What loading a weight takes: `fixed_ms`, and `ns_per_value` for each of its values."""

    fixed_ms: float
    ns_per_value: float

    def __add__(self, other: LoadCost) -> LoadCost:
        return LoadCost(self.fixed_ms + other.fixed_ms, self.ns_per_value + other.ns_per_value)

    def ms(self, values: int) -> float:
        """Milliseconds of a weight of so many values."""
        return self.fixed_ms + 1e-6 * self.ns_per_value * values


_FLOAT = LoadCost(0.0, 4 * NS_PER_BYTE)
_HALF = LoadCost(0.2, 4.8)
_HIGHEST_DIGIT = LoadCost(0.25, 5.5)
_NATIVE_DIGIT = LoadCost(0.55, 2.5)  # each further one
_PACKED_DIGIT = LoadCost(0.95, 7.0)  # beside that
_ZERO_POINTS = LoadCost(0.35, 0.0)
_BLOCKS = LoadCost(0.35, 4.9)
_TABLES = LoadCost(0.4, 5.8)
_OUTLIERS = LoadCost(0.2, 5.7)
_POWERS = LoadCost(0.1, 30.0)
_ROTATION = LoadCost(0.9, 11.5)
_CODED = LoadCost(3.0, 10.0)
_TUPLE_NS = 75.0  # of each tuple of values
_RANK_MS = 0.0002  # of each entry of the table of tuples, which is sorted


def load_cost(format_: Format, opset: int = NATIVE_OPSET) -> LoadCost:
    """What loading a weight in this format takes, from a file of this opset.

    Raises:
        TypeError: it is a format of activations.
    """
    match format_:
        case FloatFormat():
            return _FLOAT
        case HalfFormat():
            return _HALF
        case CodedFormat():
            entries = (format_.highest_code + 1) ** format_.tuple_size
            return _CODED + LoadCost(_RANK_MS * entries, _TUPLE_NS / format_.tuple_size)
        case IntegerFormat():
            cost = _digits(format_.bits, opset)
            cost = cost if format_.symmetric else cost + _ZERO_POINTS
            return cost + _BLOCKS if format_.block else cost
        case CodebookFormat():
            cost = _digits(format_.bits, opset) + _TABLES
            return cost + _OUTLIERS if format_.outliers else cost
        case PowerFormat():
            return _digits(format_.bits, opset) + _POWERS
        case HadamardFormat():
            return _digits(format_.bits, opset) + _ROTATION
        case UnsignedFormat():
            raise TypeError(f"{format_.name} is a format of activations, which are no part of loading")


def weight_load_ms(format_: Format, values: int, opset: int = NATIVE_OPSET) -> float:
    """Milliseconds that a weight of so many values takes to load in this format, on the reference machine."""
    return load_cost(format_, opset).ms(values)


def network_load_ms(nodes: int, size_bytes: int) -> float:
    """Milliseconds that the rest of a file takes: so many nodes, and bytes without the weights of any site."""
    return SESSION_MS + NODE_MS * nodes + 1e-6 * NS_PER_BYTE * size_bytes


def _digits(bits: int, opset: int) -> LoadCost:
    cost = _HIGHEST_DIGIT
    for place, digit in enumerate(digits(bits, opset)):
        if digit.is_packed:
            cost += _PACKED_DIGIT
        elif place:
            cost += _NATIVE_DIGIT
    return cost
