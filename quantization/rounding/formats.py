"""A weight rounded to all its formats: by GPTQ where its inputs are known, else each value by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from network.graph import ChannelAxis
from quantization.formats import (
    CodebookFormat,
    CodedFormat,
    HadamardFormat,
    IntegerFormat,
    PowerFormat,
    WeightFormat,
)
from quantization.rounding.gptq import gptq, prepare
from quantization.rounding.gptq_codebooks import codebook_gptq
from quantization.rounding.gptq_coded import coded_gptq
from quantization.rounding.gptq_grids import power_gptq
from quantization.rounding.gptq_rotations import hadamard_gptq
from quantization.rounding.nearest import round_nearest
from quantization.rounding.reduction import NotReducible
from quantization.rounding.statistics import InputStatistics
from quantization.storage.weights import QuantizedWeight


def round_to_formats(
    weight: NDArray[np.float32],
    formats: Sequence[WeightFormat],
    channel_axis: ChannelAxis,
    statistics: InputStatistics | NotReducible,
    check: Callable[[], None] = lambda: None,
) -> tuple[list[QuantizedWeight], str]:
    """`weight` in each of `formats`, in their order, and in words how: "gptq" or "nearest", after a colon why.

    Integers, power grids, codebooks and coded weights share one factor of the inputs' second moments; rotated weights
    share one in their basis. The others have each value rounded by itself.

    Args:
        weight: finite float32, of a shape that every format can store (`quantization.storage.parts`).
        channel_axis: axis of the output channels.
        statistics: of its inputs, or why there are none: then every value goes to its nearest code.
        check: called between formats; what it raises ends the work.

    Raises:
        ValueError: the weight is not finite float32, the axis is not one of its axes, or a format is float32.
    """
    quantized: dict[WeightFormat, QuantizedWeight] = {}
    if isinstance(statistics, NotReducible):
        note = f"nearest: {statistics.reason}"
    else:
        note = "gptq"
        integers = [format_ for format_ in formats if isinstance(format_, IntegerFormat)]
        codebooks = [format_ for format_ in formats if isinstance(format_, CodebookFormat)]
        powers = [format_ for format_ in formats if isinstance(format_, PowerFormat)]
        turned = [format_ for format_ in formats if isinstance(format_, HadamardFormat)]
        coded = [format_ for format_ in formats if isinstance(format_, CodedFormat)]
        if integers or powers or codebooks or coded:
            prepared = prepare(weight, statistics)
            note += f": {prepared.note}" if prepared.note else ""
            if integers:
                quantized |= zip(integers, gptq(prepared, integers, channel_axis), strict=True)
            check()
            quantized |= zip(powers, power_gptq(prepared, powers, channel_axis), strict=True)
            quantized |= zip(codebooks, codebook_gptq(prepared, codebooks, channel_axis, check), strict=True)
            quantized |= zip(coded, coded_gptq(prepared, coded, check), strict=True)
        check()
        if turned:
            quantized |= zip(turned, hadamard_gptq(weight, turned, channel_axis, statistics), strict=True)
    for format_ in formats:
        if format_ not in quantized:
            check()
            quantized[format_] = round_nearest(weight, format_, channel_axis)
    return [quantized[format_] for format_ in formats], note
