"""A weight rounded to all its formats: by GPTQ where its inputs are known, else each value by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantization.families import rounded
from quantization.formats import IntegerFormat, WeightFormat
from quantization.gptq import gptq
from quantization.reduction import NotReducible
from quantization.statistics import InputStatistics
from quantization.weights import QuantizedWeight


def round_to_formats(
    weight: NDArray[np.float32],
    formats: Sequence[WeightFormat],
    channel_axis: int,
    statistics: InputStatistics | NotReducible,
) -> tuple[list[QuantizedWeight], str]:
    """`weight` in each of `formats`, in their order, and in words how: "gptq" or "nearest", after a colon why.

    All integer formats go through one GPTQ together; the others take their turns.

    Args:
        weight: finite float32, of a shape that every format can store (`quantization.storage`).
        channel_axis: axis of the output channels.
        statistics: of its inputs, or why there are none: then every value goes to its nearest code.

    Raises:
        ValueError: the weight is not finite float32, or the axis is not one of its axes, or float32 is asked for.
    """
    if isinstance(statistics, NotReducible):
        return [rounded(weight, format_, channel_axis) for format_ in formats], f"nearest: {statistics.reason}"
    integers = [format_ for format_ in formats if isinstance(format_, IntegerFormat)]
    found: dict[WeightFormat, QuantizedWeight] = {}
    note = ""
    if integers:
        result = gptq(weight, integers, channel_axis, statistics)
        found, note = dict(zip(integers, result.weights, strict=True)), result.note
    others = {format_: rounded(weight, format_, channel_axis) for format_ in formats if format_ not in found}
    return [{**found, **others}[format_] for format_ in formats], f"gptq: {note}" if note else "gptq"
