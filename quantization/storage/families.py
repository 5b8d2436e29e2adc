"""The families of formats: which class holds a weight of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from quantization.formats import (
    CodebookFormat,
    CodedFormat,
    HadamardFormat,
    HalfFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.storage.codebooks import CodebookWeight
from quantization.storage.coded import CodedWeight
from quantization.storage.halves import HalfWeight
from quantization.storage.powers import PowerWeight
from quantization.storage.rotations import HadamardWeight
from quantization.storage.weights import IntegerWeight, QuantizedWeight

_CLASSES: Mapping[type, type[QuantizedWeight]] = {
    IntegerFormat: IntegerWeight,
    HalfFormat: HalfWeight,
    CodebookFormat: CodebookWeight,
    PowerFormat: PowerWeight,
    HadamardFormat: HadamardWeight,
    CodedFormat: CodedWeight,
}


def quantized_weight(format_: WeightFormat, arrays: Mapping[str, NDArray[Any]]) -> QuantizedWeight:
    """The inverse of `QuantizedWeight.arrays`.

    Raises:
        ValueError: weights in this format hold no arrays, or the arrays are not those of a weight in it.
    """
    if type(format_) not in _CLASSES:
        raise ValueError(f"{format_.name} keeps the weight as it is; there is nothing to round")
    return _CLASSES[type(format_)](format_, **arrays)
